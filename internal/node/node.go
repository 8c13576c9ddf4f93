// Package node makes a node of its parts: it opens them in order from one
// configuration, joins them, and closes them in the opposite order.
//
// A node has two faces. At Config.Listen are the API and the page, for the owner;
// beyond loopback every route there demands a key. At Config.Provide are jobs and
// the relay, for strangers, whose requests are signed. Its key is the provider's;
// questions are asked with a second key made of it, so that providers cannot tell
// who of their number is asking.
package node

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/geistnet/geist/audit"
	"github.com/geistnet/geist/ghost"
	"github.com/geistnet/geist/internal/asker"
	"github.com/geistnet/geist/internal/dialog"
	"github.com/geistnet/geist/internal/engine"
	"github.com/geistnet/geist/internal/gateway"
	"github.com/geistnet/geist/internal/gguf"
	"github.com/geistnet/geist/internal/job"
	"github.com/geistnet/geist/internal/kernel"
	"github.com/geistnet/geist/internal/local"
	"github.com/geistnet/geist/internal/market"
	"github.com/geistnet/geist/internal/nostr"
	"github.com/geistnet/geist/internal/pay"
	"github.com/geistnet/geist/internal/provider"
	"github.com/geistnet/geist/internal/rows"
)

// Opened is a model file with what is said of it.
type Opened struct {
	File         *gguf.File
	Ghost        *ghost.Model
	Name         string
	Quantisation string
}

// Parts are what a node is given besides its configuration.
type Parts struct {
	Secret  ghost.Secret
	Version string
	Log     *slog.Logger
	Now     func() time.Time // nil: time.Now
	// Open opens a model by its name in a configuration; the node closes the file.
	Open func(ctx context.Context, ref string) (*Opened, error)
	// Page is shown to browsers; nil: none.
	Page http.Handler
	// Installed lists the names of models that Open knows, for the page.
	Installed func() []string
	// Loading is told how far a model is loaded. May be nil.
	Loading func(name string, done, total int64)
}

// Node is a running node.
type Node struct {
	cfg   Config
	parts Parts
	log   *slog.Logger
	began time.Time

	ctx      context.Context
	cancel   context.CancelFunc
	closers  []func() error // in the order of opening
	work     sync.WaitGroup
	view     *view
	client   *nostr.Client
	provider *provider.Provider // nil: this node provides nothing
	taken    *pay.Credit        // what others owe
	jobs     http.Handler       // the provider's
	gate     *http.Server       // the API
	asker    *asker.Asker
	owed     *pay.Credit // what this node owes
	metrics  *metrics
	rows     *rows.Server // of the models that are offered
	listen   net.Listener
	provide  net.Listener
	failed   chan error

	mu        sync.Mutex
	serving   []*serving
	withdrawn []*serving // closed with the node: their last jobs may still run
}

// serving is a model that is offered.
type serving struct {
	offer  Offer
	model  provider.Model
	file   *gguf.File
	local  *local.Model
	worker *provider.Engine
	noRows func() // ends serving its rows; nil: they are not served
	ask    *market.Ask
	since  time.Time

	signing sync.Mutex // held while the ask's next event is made
}

const (
	newcomers  = 20 // times Config.Credit: what all keys without trust may owe together
	askLife    = 15 * time.Minute
	askRefresh = 5 * time.Minute
	drainTime  = 20 * time.Second
)

// AskerSecret is the key that a node asks with.
func AskerSecret(s ghost.Secret) ghost.Secret {
	for n := byte(0); ; n++ {
		k := ghost.Secret(sha256.Sum256(append(append([]byte("geist/asker/1"), s[:]...), n)))
		if _, err := k.Public(); err == nil {
			return k
		}
	}
}

// Start opens all parts. On an error what was opened is closed again.
func Start(ctx context.Context, cfg Config, parts Parts) (n *Node, err error) {
	if err := cfg.Check(); err != nil {
		return nil, err
	}
	if parts.Now == nil {
		parts.Now = time.Now
	}
	if parts.Log == nil {
		parts.Log = slog.New(slog.DiscardHandler)
	}
	n = &Node{cfg: cfg, parts: parts, log: parts.Log, began: parts.Now(), failed: make(chan error, 4), rows: rows.NewEmptyServer()}
	n.ctx, n.cancel = context.WithCancel(context.Background())
	defer func() {
		if err != nil {
			err = errors.Join(err, n.Close())
			n = nil
		}
	}()
	for _, step := range []func(context.Context) error{n.openDir, n.openListeners, n.openRelay, n.openMarket, n.openProvider, n.openAsker, n.openGateway} {
		if err := step(ctx); err != nil {
			return n, err
		}
		if err := ctx.Err(); err != nil {
			return n, err
		}
	}
	return n, nil
}

// onClose is called in the opposite order of opening.
func (n *Node) onClose(f func() error) { n.closers = append(n.closers, f) }

// Close ends the node: it takes no more work, gives what runs some seconds to
// end, and closes everything.
func (n *Node) Close() error {
	n.drain()
	n.cancel()
	var errs []error
	for _, f := range slices.Backward(n.closers) {
		if err := f(); err != nil {
			errs = append(errs, err)
		}
	}
	n.closers = nil
	n.work.Wait()
	return errors.Join(errs...)
}

// drain takes back what is offered, and lets jobs and the API's answers end.
func (n *Node) drain() {
	ctx, stop := context.WithTimeout(context.Background(), drainTime)
	defer stop()
	var work sync.WaitGroup
	if n.provider != nil {
		work.Go(func() {
			n.takeBack(ctx)
			if err := n.provider.Drain(ctx); err != nil {
				n.log.Warn("some jobs did not end; they go on at the next start")
			}
		})
	}
	if n.gate != nil {
		work.Go(func() {
			if err := n.gate.Shutdown(ctx); err != nil {
				n.log.Warn("some answers did not end; they are cut")
			}
		})
	}
	work.Wait()
}

// takeBack tells the relays that nothing is offered any more.
func (n *Node) takeBack(ctx context.Context) {
	ctx, stop := context.WithTimeout(ctx, 2*time.Second)
	defer stop()
	n.mu.Lock()
	list := slices.Clone(n.serving)
	for _, s := range list {
		s.ask.Capacity = 0
	}
	n.mu.Unlock()
	for _, s := range list {
		if e, err := n.sign(s, n.provider, 1); err == nil && n.client != nil {
			n.publish(ctx, s, n.provider, e) // who does not hear of it is refused
		}
	}
}

// Failed gives an error if a part of the node fails for good.
func (n *Node) Failed() <-chan error { return n.failed }

// URL is where the API and the page are.
func (n *Node) URL() string { return "http://" + n.listen.Addr().String() }

// ProvideURL is where jobs are taken; "": nowhere.
func (n *Node) ProvideURL() string {
	if n.provide == nil {
		return ""
	}
	if n.cfg.Endpoint != "" {
		return n.cfg.Endpoint
	}
	return "http://" + n.provide.Addr().String()
}

// RelayURL is the node's own relay, as this machine reaches it; "": it has none.
func (n *Node) RelayURL() string {
	if n.provide == nil || !n.cfg.Relay {
		return ""
	}
	return "ws://" + dialable(n.provide.Addr().String()) + "/relay"
}

// Public tells whether other machines are told an address of this node that is not
// this machine's alone, and relay how they reach the node's own relay; "": it has none.
func (n *Node) Public() (relay string, ok bool) {
	if n.provide == nil {
		return "", false
	}
	u, err := url.Parse(n.ProvideURL())
	if err != nil {
		return "", false
	}
	if ip := net.ParseIP(u.Hostname()); u.Hostname() == "localhost" || ip != nil && ip.IsLoopback() {
		return "", false
	}
	if n.cfg.Relay {
		relay = "ws" + strings.TrimPrefix(strings.TrimSuffix(u.String(), "/"), "http") + "/relay" // http: ws, https: wss
	}
	return relay, true
}

func (n *Node) openDir(context.Context) error {
	for _, d := range []string{"provide", "ask", "asker"} {
		if err := os.MkdirAll(filepath.Join(n.cfg.Dir, d), 0o700); err != nil {
			return err
		}
	}
	return nil
}

// journal opens one of the two.
func (n *Node) journal(name string) (*pay.Journal, error) {
	j, err := pay.OpenJournal(filepath.Join(n.cfg.Dir, name))
	if err != nil {
		return nil, fmt.Errorf("open the journal of money: %w", err)
	}
	n.onClose(j.Close)
	return j, nil
}

func (n *Node) openListeners(context.Context) error {
	var err error
	if n.listen, err = net.Listen("tcp", n.cfg.Listen); err != nil {
		return fmt.Errorf("%w; another program, maybe another geist, uses the address: choose another with --listen", err)
	}
	n.onClose(func() error { n.listen.Close(); return nil })
	if n.cfg.Provide == "" {
		return nil
	}
	if n.provide, err = net.Listen("tcp", n.cfg.Provide); err != nil {
		return fmt.Errorf("%w; another program, maybe another geist, uses the address: choose another with --provide", err)
	}
	n.onClose(func() error { n.provide.Close(); return nil })
	return nil
}

// serve answers requests on l until the node is closed.
func (n *Node) serve(l net.Listener, h http.Handler) *http.Server {
	s := &http.Server{Handler: h, ReadHeaderTimeout: 10 * time.Second, IdleTimeout: 2 * time.Minute, MaxHeaderBytes: 64 << 10,
		ErrorLog: slog.NewLogLogger(n.log.Handler(), slog.LevelDebug), BaseContext: func(net.Listener) context.Context { return n.ctx }}
	n.onClose(func() error {
		ctx, stop := context.WithTimeout(context.Background(), 2*time.Second)
		defer stop()
		if s.Shutdown(ctx) != nil {
			return s.Close()
		}
		return nil
	})
	n.work.Go(func() {
		if err := s.Serve(l); err != nil && !errors.Is(err, http.ErrServerClosed) && n.ctx.Err() == nil {
			select {
			case n.failed <- fmt.Errorf("serve %s: %w", l.Addr(), err):
			default:
			}
		}
	})
	return s
}

// openRelay starts what is at Provide: the relay now, and jobs when the provider
// is there.
func (n *Node) openRelay(context.Context) error {
	if n.provide == nil {
		return nil
	}
	mux := http.NewServeMux()
	if n.cfg.Relay {
		self, err := n.parts.Secret.Public()
		if err != nil {
			return err
		}
		kinds := market.DefaultKinds()
		relay, err := nostr.OpenRelay(nostr.RelayOptions{Path: filepath.Join(n.cfg.Dir, "events.db"), Kinds: []nostr.Kind{kinds.Ask, kinds.Bid, kinds.Review}, Owner: self, Now: n.parts.Now, Log: n.log})
		if err != nil {
			return err
		}
		n.onClose(relay.Close)
		mux.Handle("/relay", relay)
	}
	mux.Handle("/geist/v1/rows", n.rowHandler())
	mux.Handle("/geist/v1/rows/", n.rowHandler())
	mux.HandleFunc("/geist/", func(w http.ResponseWriter, q *http.Request) {
		n.mu.Lock()
		h := n.jobs
		n.mu.Unlock()
		if h == nil {
			http.Error(w, "starting", http.StatusServiceUnavailable)
			return
		}
		h.ServeHTTP(w, q)
	})
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "ok\n") })
	n.serve(n.provide, mux)
	return nil
}

func (n *Node) openMarket(context.Context) error {
	asker, err := AskerSecret(n.parts.Secret).Public()
	if err != nil {
		return err
	}
	var follow []ghost.Key
	for _, s := range n.cfg.Follows {
		k, err := nostr.ParsePublic(s)
		if err != nil {
			return fmt.Errorf("follows: %w", err)
		}
		follow = append(follow, k)
	}
	n.view = newView(n.parts.Now, asker, follow)
	relays := slices.Clone(n.cfg.Relays)
	if own := n.RelayURL(); own != "" {
		relays = append([]string{own}, relays...)
	}
	if len(relays) == 0 {
		return nil
	}
	if n.client, err = nostr.NewClient(relays, nostr.ClientOptions{Log: n.log}); err != nil {
		return err
	}
	events := n.client.Subscribe(n.ctx, n.view.filter())
	n.work.Go(func() { n.view.run(n.ctx, events) })
	return nil
}

func (n *Node) openProvider(ctx context.Context) error {
	if n.provide == nil {
		return nil
	}
	j, err := n.journal("provide")
	if err != nil {
		return err
	}
	trust, err := n.cfg.trusted()
	if err != nil {
		return err
	}
	own, err := AskerSecret(n.parts.Secret).Public()
	if err != nil {
		return err
	}
	n.taken, err = pay.NewCredit(n.parts.Secret, j, func(peer ghost.Key) (give, take pay.MilliSat) {
		if peer == own {
			return ownLimit, ownLimit
		}
		if m, ok := trust[peer]; ok {
			return m, n.cfg.Debt
		}
		return n.cfg.Credit, n.cfg.Debt
	})
	if err != nil {
		return err
	}
	n.taken.Newcomers(min(newcomers*n.cfg.Credit, pay.MaxAmount), func(k ghost.Key) bool {
		_, ok := trust[k]
		return ok || k == own
	})
	n.metrics = newMetrics()
	p, err := provider.New(provider.Options{Secret: n.parts.Secret, Rails: []pay.Rail{n.taken}, Journal: j, Log: n.log, Now: n.parts.Now, Watch: n.metrics.provided,
		PerClient: n.cfg.JobsPerClient, Queue: n.cfg.JobsWaiting})
	if err != nil {
		return err
	}
	n.onClose(func() error {
		err := p.Close() // no job uses the models any more
		n.mu.Lock()
		defer n.mu.Unlock()
		for _, s := range append(n.serving, n.withdrawn...) {
			s.close()
		}
		return err
	})
	for _, o := range n.cfg.Models {
		if err := n.Offer(ctx, o, p); err != nil {
			return err
		}
	}
	if err := p.Start(); err != nil {
		return err
	}
	n.mu.Lock()
	n.provider, n.jobs = p, p.Handler()
	n.mu.Unlock()
	n.work.Go(n.refresh)
	return nil
}

// Offer loads a model and offers it. p is the provider, or nil for the node's.
func (n *Node) Offer(ctx context.Context, o Offer, p *provider.Provider) error {
	if p == nil {
		n.mu.Lock()
		p = n.provider
		n.mu.Unlock()
	}
	if p == nil {
		return errors.New("this node provides nothing; give it an address for jobs (--provide)")
	}
	s, err := n.open(ctx, o)
	if err != nil {
		return fmt.Errorf("serve %s: %w", o.Model, err)
	}
	s.ask = n.newAsk(s, p)
	n.mu.Lock()
	for _, x := range n.serving {
		if x.model.ID == s.model.ID {
			n.mu.Unlock()
			s.close()
			return fmt.Errorf("serve %s: this model is served already", o.Model)
		}
	}
	n.serving = append(n.serving, s)
	n.mu.Unlock()
	p.Serve(s.model)
	return n.announce(s, p)
}

// open makes what is served of an offer.
func (n *Node) open(ctx context.Context, o Offer) (*serving, error) {
	if o.Sessions == 0 {
		o.Sessions = 4
	}
	s := &serving{offer: o, since: n.parts.Now()}
	if o.Upstream != "" {
		w, err := provider.NewUpstream(ctx, provider.UpstreamOptions{URL: o.Upstream, Key: o.UpstreamKey, Model: o.Model, Context: o.Context})
		if err != nil {
			return nil, err
		}
		s.model = w.Served(o.Name, o.Sessions)
		return s, nil
	}
	f, err := n.parts.Open(ctx, o.Model)
	if err != nil {
		return nil, err
	}
	s.file = f.File
	opt := local.Options{Path: kernel.Best(), Threads: o.Threads, Available: local.Available(), Engine: engine.Options{Context: o.Context, Sessions: o.Sessions, Trace: f.Ghost}}
	if n.parts.Loading != nil {
		opt.Progress = func(done, total int64) { n.parts.Loading(o.Model, done, total) }
	}
	if s.local, err = local.Open(ctx, f.File, opt); err != nil {
		s.close()
		return nil, err
	}
	if s.worker, err = provider.NewEngine(s.local, f.Ghost); err != nil {
		s.close()
		return nil, err
	}
	if err := n.openRows(ctx, s, f.Ghost); err != nil {
		s.close()
		return nil, err
	}
	name := o.Name
	if name == "" {
		name = f.Name
	}
	if s.model, err = s.worker.Served(name, f.Quantisation, o.Sessions); err != nil {
		s.close()
		return nil, err
	}
	return s, nil
}

func (s *serving) close() {
	if s.noRows != nil {
		s.noRows() // nobody reads the file any more
		s.noRows = nil
	}
	if s.worker != nil {
		s.worker.Close()
		s.worker = nil
	}
	if s.local != nil {
		_ = s.local.Close() // the process is done with it either way
		s.local = nil
	}
	if s.file != nil {
		_ = s.file.Close()
		s.file = nil
	}
}

// Withdraw offers a model no longer.
func (n *Node) Withdraw(ctx context.Context, id ghost.ID) error {
	n.mu.Lock()
	p := n.provider
	i := slices.IndexFunc(n.serving, func(s *serving) bool { return s.model.ID == id })
	var s *serving
	if i >= 0 {
		s = n.serving[i]
		n.serving = slices.Delete(n.serving, i, i+1)
		n.withdrawn = append(n.withdrawn, s)
	}
	n.mu.Unlock()
	if s == nil {
		return errors.New("this model is not served here")
	}
	p.Withdraw(id)
	if s.noRows != nil {
		s.noRows()
	}
	n.mu.Lock()
	s.ask.Capacity = 0
	n.mu.Unlock()
	return n.announce(s, p)
}

// ownLimit is what a node may owe itself, in millisatoshi: nobody is at risk.
const ownLimit pay.MilliSat = 1e15

func (n *Node) openAsker(context.Context) error {
	j, err := n.journal("ask")
	if err != nil {
		return err
	}
	secret := AskerSecret(n.parts.Secret)
	own, err := n.parts.Secret.Public()
	if err != nil {
		return err
	}
	n.owed, err = pay.NewCredit(secret, j, func(peer ghost.Key) (give, take pay.MilliSat) {
		if peer == own {
			return ownLimit, ownLimit
		}
		return n.cfg.Credit, n.cfg.Debt
	})
	if err != nil {
		return err
	}
	if n.metrics == nil {
		n.metrics = newMetrics()
	}
	n.asker, err = asker.New(asker.Options{Secret: secret, Rails: []pay.Rail{n.owed}, Journal: j, Dir: filepath.Join(n.cfg.Dir, "asker"), Log: n.log, Now: n.parts.Now,
		Asks: n.view.Asks, Reviews: n.view.Reviews, Patience: job.DefaultPatience(n.cfg.Spend), Verify: dialog.Verify(n.cfg.Verify), Size: audit.Standard, Watch: n.metrics.asked, Judged: n.metrics.judged})
	if err != nil {
		return err
	}
	n.onClose(n.asker.Close)
	return n.asker.Start()
}

func (n *Node) openGateway(context.Context) error {
	registry := prometheus.NewRegistry()
	if err := n.metrics.register(registry, n); err != nil {
		return err
	}
	keys, pass := n.cfg.Keys, n.pass()
	if pass != "" {
		keys = append(slices.Clone(keys), pass)
	}
	g, err := gateway.New(gateway.Options{Backend: n.asker, Keys: keys, Origins: n.cfg.Origins, Aliases: n.cfg.Aliases, Page: n.parts.Page, More: n.api(), Registry: registry, Log: n.log, Version: n.parts.Version, Now: n.parts.Now,
		Ready: n.ready})
	if err != nil {
		return err
	}
	n.gate = n.serve(n.listen, g)
	return n.tell(pass)
}

// ready tells why a question cannot be answered now.
func (n *Node) ready(context.Context) error {
	for _, a := range n.view.Asks() {
		if a.Capacity > 0 { // else it was withdrawn
			return nil
		}
	}
	return errors.New("no provider is known yet")
}

// Asker is the part that gets answers.
func (n *Node) Asker() *asker.Asker { return n.asker }

// Key is the node's public key.
func (n *Node) Key() ghost.Key {
	k, err := n.parts.Secret.Public()
	if err != nil {
		panic("node: internal error: " + err.Error()) // Start has used it
	}
	return k
}

// Offered is the name of the first model that is served; "": none is.
func (n *Node) Offered() string {
	n.mu.Lock()
	defer n.mu.Unlock()
	if len(n.serving) == 0 {
		return ""
	}
	return n.serving[0].model.Name
}
