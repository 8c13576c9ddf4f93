// Package provider takes jobs over HTTP and does them (docs/spec/job.md): it admits
// or refuses an order with a reason, lets clients take turns, drives the
// provider's machine of package job with an engine and a payment session, signs the
// receipt, and answers audits.
//
// What runs a model is a Worker; what is paid, and how, a pay.Rail. One goroutine
// owns each job. Everything that a job needs after a crash stands in the journal
// before it is acted on, and Start takes up what it finds there.
package provider

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/geistnet/geist/audit"
	"github.com/geistnet/geist/ghost"
	"github.com/geistnet/geist/internal/job"
	"github.com/geistnet/geist/internal/pay"
	"github.com/geistnet/geist/merkle"
)

// Stream is an answer under way. It is for one goroutine.
type Stream interface {
	// Next waits for the next token; false: the answer has ended.
	Next() (Token, bool)
	// End tells, after Next gave false, why. The error is a *Refusal if it has a
	// code of its own.
	End() (ghost.Finish, error)
}

// Token is one that was computed.
type Token struct {
	ID   int32
	Prob *job.TokenProb // if the order wants it and the worker knows it
}

// Worker computes the answers of one model. Its methods may be called concurrently.
type Worker interface {
	// Begin goes on with the order's answer after tokens, which begin with
	// order.Resume. It computes a few tokens ahead of Next at most.
	Begin(ctx context.Context, o *job.Order, tokens []int32) (Stream, error)
	// Seal gives the trace root of the order's whole answer, zero if the grade is
	// reputation, and its outline if it is at hand. s is the stream that made the
	// answer, or nil.
	Seal(ctx context.Context, o *job.Order, tokens []int32, s Stream) (merkle.Hash, *ghost.Outline, error)
	// Prove opens what a challenge draws of a run.
	Prove(ctx context.Context, file *audit.RunFile) ([]byte, error)
	// Text begins the text of an answer.
	Text() Text
	// Embed gives a vector of length one for tokens.
	Embed(ctx context.Context, tokens []int32) ([]float32, error)
	// Busy is how full the worker's memory for conversations is, from 0 to 1.
	Busy() float64
}

// Text makes the text of an answer from its tokens.
type Text interface {
	Add(id int32) string // what became whole with this token
	Flush() string       // the rest, at the end
}

// Model is what a provider serves.
type Model struct {
	ID           ghost.ID
	Name         string
	Quantisation string
	Context      int
	Grade        ghost.Grade
	Ghost        []byte // the Ghost file; nil: it has none
	Words        []byte // what an asker writes prompts with (package prompt); nil: text
	Worker       Worker
	Sessions     int // answers at once
}

// Ask is an offer that orders may answer to.
type Ask struct {
	ID      ghost.Digest
	Model   ghost.ID
	Prices  pay.Prices
	Expires time.Time // orders made later are refused
}

// Refusal is an error with a code of package job.
type Refusal struct {
	Code    job.Code
	Message string // beyond the code's sentence; may be empty
	Retry   int    // seconds; 0: unknown
}

func (r *Refusal) Error() string {
	if r.Message == "" {
		return r.Code.Sentence()
	}
	return r.Code.Sentence() + " " + r.Message
}

func refuse(c job.Code, format string, args ...any) *Refusal {
	return &Refusal{Code: c, Message: fmt.Sprintf(format, args...)}
}

// Options of New.
type Options struct {
	Secret  ghost.Secret
	Rails   []pay.Rail
	Journal *pay.Journal
	Log     *slog.Logger     // nil: none
	Now     func() time.Time // nil: time.Now
	Grace   job.Grace        // zero: 15 s for clients, job.DefaultGrace's for engines

	Queue     int // orders that wait for a place; 0: 64
	PerClient int // of one client, waiting and running; 0: 8
	Cells     int // the most that one audit draws; 0: 128
	Audits    int // proofs of one job; 0: 8
	// FreeReads is how many prompts of resumed jobs a client has read without charge
	// beyond one for every four jobs it has paid; 0: 4. Four times as many
	// may be left before a token of the answer came. One of either is forgiven every five
	// minutes. Clients that have paid nothing yet have sixteen times as many together.
	FreeReads int
	// Keep is how long answers can be audited; 0: a day.
	Keep time.Duration
	// Watch, if not nil, learns of what happens, for metrics. It must not block.
	Watch func(Happening)
}

// Happening is something worth counting.
type Happening struct {
	Model  ghost.ID
	Name   string // of the model
	Code   job.Code
	Phase  job.Phase // "": a proof was given out
	Tokens int       // delivered, without resumed ones
	Prompt int
	Paid   pay.MilliSat
	Wait   time.Duration // until there was a place
	First  time.Duration // until the first token was computed
	Took   time.Duration
}

// Provider takes jobs.
type Provider struct {
	o      Options
	self   ghost.Key
	ctx    context.Context // of everything that runs
	cancel context.CancelFunc

	work   sync.WaitGroup // goroutines, and requests that use a worker; enter counts
	bodies chan struct{}  // places for requests whose bodies are read
	huge   chan struct{}  // and of these, for long bodies

	mu            sync.Mutex
	models        map[ghost.ID]*served
	asks          map[ghost.Digest]Ask
	runs          map[job.ID]*run // live, and ended ones that linger
	clients       map[ghost.Key]*client
	free          quota // prompts read without charge for clients that have paid nothing
	proves        quota // proofs for anybody
	vectors       map[job.ID]*vectorJob
	waiting       int
	proving       int // proofs for clients that are made or wait
	provingOthers int // and for anybody else
	proofs        proofQueue
	running       int           // runs that have not ended
	idle          chan struct{} // closed when draining and running is 0; nil: not draining
	closed        bool
	totals        Totals
	pruned        time.Time

	lingering []*run // ended ones of runs, the oldest first
}

// client is what is remembered of a key while the process runs.
type client struct {
	active int   // runs that have not ended
	paid   int   // jobs
	free   quota // prompts read without charge
}

// quota counts what is given away, and forgives one after the other with time.
type quota struct {
	used int
	at   time.Time
}

// now is how much is used at t, if one is forgiven after each while.
func (q *quota) now(t time.Time, each time.Duration) int {
	if n := int(t.Sub(q.at) / each); q.used > 0 && n > 0 {
		q.used, q.at = max(0, q.used-n), q.at.Add(time.Duration(n)*each)
	}
	return q.used
}

func (q *quota) add(t time.Time) {
	if q.used == 0 {
		q.at = t
	}
	q.used++
}

const (
	forgive     = 5 * time.Minute // one prompt that was read without charge
	clientGrace = 15_000          // ms that a place is kept for a client who is gone
	maxClients  = 10000
	pruneEvery  = time.Hour
	proofWait   = 2 * time.Second // after a job, for its audit
)

// Totals are sums since the start.
type Totals struct {
	Jobs, Settled, Failed, Refused, Proofs int
	PromptTokens, AnswerTokens             int64
	Earned                                 pay.MilliSat
}

// New makes a provider without models. Close must be called.
func New(o Options) (*Provider, error) {
	self, err := o.Secret.Public()
	if err != nil {
		return nil, err
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Grace == (job.Grace{}) {
		o.Grace = job.Grace{Client: clientGrace, Engine: job.DefaultGrace.Engine}
	}
	def := func(v *int, n int) {
		if *v == 0 {
			*v = n
		}
	}
	def(&o.Queue, 64)
	def(&o.PerClient, 8)
	def(&o.Cells, 128)
	def(&o.FreeReads, 4)
	def(&o.Audits, 8)
	if o.Keep == 0 {
		o.Keep = 24 * time.Hour
	}
	if o.Watch == nil {
		o.Watch = func(Happening) {}
	}
	p := &Provider{o: o, self: self, models: map[ghost.ID]*served{}, asks: map[ghost.Digest]Ask{},
		runs: map[job.ID]*run{}, clients: map[ghost.Key]*client{}, vectors: map[job.ID]*vectorJob{},
		bodies: make(chan struct{}, maxBodies), huge: make(chan struct{}, maxHuge), pruned: o.Now()}
	p.ctx, p.cancel = context.WithCancel(context.Background())
	return p, nil
}

// Key is the provider's public key.
func (p *Provider) Key() ghost.Key { return p.self }

// Serve adds a model, or takes the place of the one with its id.
func (p *Provider) Serve(m Model) {
	if m.Sessions < 1 {
		m.Sessions = 1
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.models[m.ID] = &served{Model: m, free: m.Sessions, queues: map[ghost.Key][]*run{}}
}

// Withdraw takes no more orders for a model. Those that run go on.
func (p *Provider) Withdraw(id ghost.ID) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if m := p.models[id]; m != nil {
		m.gone = true
	}
	for k, a := range p.asks {
		if a.Model == id {
			delete(p.asks, k)
		}
	}
}

// Offer makes orders to an ask acceptable, beside those to earlier asks that
// have not expired.
func (p *Provider) Offer(a Ask) {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := p.o.Now()
	for k, old := range p.asks {
		if now.After(old.Expires.Add(job.MaxSkew * time.Second)) {
			delete(p.asks, k)
		}
	}
	p.asks[a.ID] = a
}

// Models are those that are served.
func (p *Provider) Models() []Model {
	p.mu.Lock()
	defer p.mu.Unlock()
	var out []Model
	for _, m := range p.models {
		if !m.gone {
			out = append(out, m.Model)
		}
	}
	slices.SortFunc(out, func(a, b Model) int { return slices.Compare(a.ID[:], b.ID[:]) })
	return out
}

// Load is how much work a model has.
type Load struct {
	Running, Waiting int
	Sessions         int
	Busy             float64 // of the memory for conversations
}

// Load tells how busy a model is.
func (p *Provider) Load(id ghost.ID) Load {
	p.mu.Lock()
	m := p.models[id]
	p.mu.Unlock()
	if m == nil {
		return Load{}
	}
	busy := m.Worker.Busy()
	p.mu.Lock()
	defer p.mu.Unlock()
	return Load{Running: m.Sessions - m.free, Waiting: m.waiting, Sessions: m.Sessions, Busy: busy}
}

// Totals since the start.
func (p *Provider) Totals() Totals {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.totals
}

// Drain takes no more orders and waits until those that are here have ended and
// their clients have had a moment to demand proofs, or ctx ends.
func (p *Provider) Drain(ctx context.Context) error {
	p.mu.Lock()
	p.drain()
	done := p.idle
	p.mu.Unlock()
	select {
	case <-done:
	case <-ctx.Done():
		return ctx.Err()
	}
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for p.awaitsProofs() {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}

// awaitsProofs tells whether a client may be about to demand one, or waits for it.
func (p *Provider) awaitsProofs() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := p.o.Now()
	return p.proving > 0 || slices.ContainsFunc(p.lingering, func(r *run) bool {
		return r.model.Grade == ghost.GhostAudited && !r.opened.Load() && now.Sub(r.endAt) < proofWait
	})
}

// drain takes no more orders. p.mu is held.
func (p *Provider) drain() {
	if p.idle == nil {
		p.idle = make(chan struct{})
		if p.running == 0 {
			close(p.idle)
		}
	}
}

// rested counts a run that has ended. p.mu is held.
func (p *Provider) rested() {
	if p.running--; p.running == 0 && p.idle != nil {
		select {
		case <-p.idle: // a job of the journal was looked at after the drain
		default:
			close(p.idle)
		}
	}
}

// Close ends everything at once, and returns when no worker is used any more.
// What has not ended goes on after the next Start.
func (p *Provider) Close() error {
	p.mu.Lock()
	p.drain()
	p.closed = true
	p.mu.Unlock()
	p.cancel()
	p.work.Wait()
	return nil
}

// enter lets something use workers, unless the provider is closed; work.Done
// ends it.
func (p *Provider) enter() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return false
	}
	p.work.Add(1)
	return true
}

// clientOf is what is known of a key. p.mu is held.
func (p *Provider) clientOf(k ghost.Key) *client {
	c := p.clients[k]
	if c == nil {
		if len(p.clients) >= maxClients { // keys are free: forget the idle ones
			for k, c := range p.clients {
				if c.active == 0 {
					delete(p.clients, k)
				}
			}
		}
		c = &client{}
		p.clients[k] = c
	}
	return c
}

// roomy is a rail that knows beforehand what it would refuse to hold for a peer.
type roomy interface {
	Room(peer ghost.Key) pay.MilliSat
}

// bears tells whether a client may have the first tokens of an order. It asks the
// rail, which may wait for a disk.
func (p *Provider) bears(o *job.Order) bool {
	opening, err := o.Terms().Opening(o.ID(), o.Client)
	return err != nil || p.room(o.Rail, o.Client, opening.First) // admit says what is wrong
}

// room tells whether a rail, if it knows, would hold a sum for a peer.
func (p *Provider) room(rail string, peer ghost.Key, sum pay.MilliSat) bool {
	for _, r := range p.o.Rails {
		if x, ok := r.(roomy); ok && r.Name() == rail && x.Room(peer) < sum {
			return false
		}
	}
	return true
}

// admit looks whether an order may become a job. p.mu is held.
func (p *Provider) admit(o *job.Order, bears bool) (*served, pay.Rail, *Refusal) {
	now := p.o.Now()
	if o.Provider != p.self {
		return nil, nil, refuse(job.UnknownAsk, "It is for another provider.")
	}
	if d := now.Unix() - o.CreatedAt; d > job.MaxSkew || d < -job.MaxSkew {
		return nil, nil, refuse(job.TooOld, "")
	}
	if p.idle != nil {
		return nil, nil, refuse(job.Draining, "")
	}
	m := p.models[o.Model]
	if m == nil || m.gone {
		return nil, nil, refuse(job.UnknownModel, "")
	}
	a, ok := p.asks[o.Ask]
	switch {
	case !ok || a.Model != o.Model || time.Unix(o.CreatedAt, 0).After(a.Expires):
		return nil, nil, refuse(job.UnknownAsk, "")
	case a.Prices != o.Prices:
		return nil, nil, refuse(job.PricesDiffer, "They are %d and %d msat for a million tokens.", a.Prices.Prompt, a.Prices.Answer)
	}
	i := slices.IndexFunc(p.o.Rails, func(r pay.Rail) bool { return r.Name() == o.Rail })
	if i < 0 {
		return nil, nil, refuse(job.UnknownRail, "")
	}
	if n := len(o.Request.Prompt) + o.Request.MaxTokens; n > m.Context {
		return nil, nil, refuse(job.TooLong, "It has %d prompt tokens and asks for %d more; together at most %d.", len(o.Request.Prompt), o.Request.MaxTokens, m.Context)
	}
	c := p.clientOf(o.Client)
	if c.active >= p.o.PerClient {
		return nil, nil, &Refusal{job.Busy, fmt.Sprintf("%d requests of this key are here already.", c.active), 1}
	}
	if m.free == 0 && p.waiting >= p.o.Queue {
		return nil, nil, &Refusal{job.Busy, fmt.Sprintf("%d requests wait.", p.waiting), 2}
	}
	most := p.o.FreeReads + c.paid/4
	if len(o.Resume) == 0 {
		most *= 4
	}
	if c.free.now(now, forgive) >= most || c.paid == 0 && p.free.now(now, forgive) >= 16*p.o.FreeReads {
		return nil, nil, &Refusal{job.ResumeQuota, "", int(forgive / time.Second)}
	}
	if !bears {
		return nil, nil, refuse(job.NoCredit, "")
	}
	return m, p.o.Rails[i], nil
}

// gift counts a prompt that is read without charge. p.mu is held.
func (p *Provider) gift(c *client) {
	now := p.o.Now()
	c.free.add(now)
	if c.paid == 0 {
		p.free.add(now)
	}
}
