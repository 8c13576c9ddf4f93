package nostr

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/coder/websocket"

	"github.com/geistnet/geist/ghost"
)

// A Relay is a small relay of NIP-01 with an event store on disk. It is an
// http.Handler for one path of a server, or stands alone by Serve. It is meant for
// the events of a market and not for a social network: few kinds, small
// events, and everything has a bound.
type Relay struct {
	o     RelayOptions
	store *eventStore

	ctx    context.Context // ends when the relay closes
	cancel context.CancelFunc
	wg     sync.WaitGroup // clients and the sweeper

	mu      sync.Mutex
	clients map[*client]bool // guarded by mu
	hosts   map[string]int   // connections by address, guarded by mu
	closed  bool             // guarded by mu
}

// RelayOptions: Path and Kinds are needed, all else has defaults.
type RelayOptions struct {
	Path  string // of the event store
	Kinds []Kind // that are taken, beside deletions of them (NIP-09)

	// Check may refuse an event that is in order otherwise; its error goes to
	// the publisher. It must be safe for many goroutines.
	Check func(*Event) error

	Name    string
	Owner   ghost.Key
	MinWork int // bits of proof of work (NIP-13)

	Future       time.Duration // how far after now an event may be made; 2 min
	MaxEvents    int           // 20000
	MaxBytes     int64         // of all events as JSON; 64 MiB
	MaxPerAuthor int           // 256
	MaxClients   int           // 256
	MaxPerHost   int           // connections from one address that is not this machine's; 32
	MaxSubs      int           // subscriptions of one client; 16
	MaxLimit     int           // events in one answer; 1000
	Rate         int           // messages of one client in a second, on the average; 50
	Burst        int           // and at once; 500
	WriteTimeout time.Duration // a client that takes longer for one message is cut; 10 s
	Ping         time.Duration // idle clients are probed; 45 s

	Now func() time.Time
	Log *slog.Logger
}

// maxAnswer is the bytes of one answer to a request.
const maxAnswer = 4 << 20

// live is how many new events may wait for one client before it is cut.
const live = 256

// OpenRelay opens the event store. Close must be called.
func OpenRelay(o RelayOptions) (*Relay, error) {
	if o.Path == "" || len(o.Kinds) == 0 {
		return nil, errors.New("open relay: a path and kinds are needed")
	}
	number(&o.MaxEvents, 20_000)
	number(&o.MaxBytes, 64<<20)
	number(&o.MaxPerAuthor, 256)
	number(&o.MaxClients, 256)
	number(&o.MaxPerHost, 32)
	number(&o.MaxSubs, 16)
	number(&o.MaxLimit, 1000)
	number(&o.Rate, 50)
	number(&o.Burst, 500)
	number(&o.Future, 2*time.Minute)
	number(&o.WriteTimeout, 10*time.Second)
	number(&o.Ping, 45*time.Second)
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Name == "" {
		o.Name = "geist"
	}
	r := &Relay{o: o, clients: map[*client]bool{}, hosts: map[string]int{}}
	var err error
	if r.store, err = openStore(o.Path, o.MaxEvents, o.MaxPerAuthor, o.MaxBytes, r.now()); err != nil {
		return nil, err
	}
	r.ctx, r.cancel = context.WithCancel(context.Background())
	r.wg.Go(r.sweeper)
	return r, nil
}

// number sets a default where an option has none.
func number[T int | int64 | time.Duration](v *T, def T) {
	if *v <= 0 {
		*v = def
	}
}

func (r *Relay) now() Timestamp { return Timestamp(r.o.Now().Unix()) }

// Close ends all connections, waits for them, and closes the event store.
func (r *Relay) Close() error {
	r.mu.Lock()
	if r.closed {
		r.mu.Unlock()
		return nil
	}
	r.closed = true
	r.mu.Unlock()
	r.cancel()
	r.wg.Wait()
	return r.store.close()
}

func (r *Relay) sweeper() {
	t := time.NewTicker(time.Minute)
	defer t.Stop()
	for {
		select {
		case <-r.ctx.Done():
			return
		case <-t.C:
			if err := r.store.sweep(r.now()); err != nil {
				r.o.Log.Error("relay", "err", err)
			}
		}
	}
}

// Serve answers on l until ctx ends. The relay stays open; Close it after.
func (r *Relay) Serve(ctx context.Context, l net.Listener) error {
	s := &http.Server{Handler: r, ReadHeaderTimeout: 10 * time.Second, MaxHeaderBytes: 16 << 10}
	stop := context.AfterFunc(ctx, func() { s.Close() })
	defer stop()
	if err := s.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serve relay: %w", err)
	}
	return nil
}

// Wants tells whether a request is for a relay, so that a server can have one at a
// path that it uses for other things too.
func Wants(q *http.Request) bool {
	return strings.EqualFold(q.Header.Get("Upgrade"), "websocket") || strings.Contains(q.Header.Get("Accept"), "application/nostr+json")
}

// ServeHTTP speaks Nostr over a websocket, and tells others what it is (NIP-11).
func (r *Relay) ServeHTTP(w http.ResponseWriter, q *http.Request) {
	if !strings.EqualFold(q.Header.Get("Upgrade"), "websocket") {
		r.inform(w, q)
		return
	}
	host, _, err := net.SplitHostPort(q.RemoteAddr)
	if err != nil {
		host = q.RemoteAddr
	}
	c := &client{relay: r, host: host, subs: map[string][]Filter{}, live: make(chan []byte, live), answer: make(chan []byte), left: float64(r.o.Burst), at: time.Now()}
	if !r.enter(c) {
		http.Error(w, "too many connections", http.StatusServiceUnavailable)
		return
	}
	defer r.leave(c)
	// Pages of any origin may read and publish: events are public and signed,
	// and no cookie means anything here.
	c.conn, err = websocket.Accept(w, q, &websocket.AcceptOptions{InsecureSkipVerify: true})
	if err != nil {
		return // it has answered
	}
	c.run(r.ctx)
}

// enter makes room for a client; the WaitGroup counts it until leave.
func (r *Relay) enter(c *client) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	ip := net.ParseIP(c.host)
	if r.closed || len(r.clients) >= r.o.MaxClients || (ip == nil || !ip.IsLoopback()) && r.hosts[c.host] >= r.o.MaxPerHost {
		return false
	}
	r.clients[c] = true
	r.hosts[c.host]++
	r.wg.Add(1)
	return true
}

func (r *Relay) leave(c *client) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.clients, c)
	if r.hosts[c.host]--; r.hosts[c.host] <= 0 {
		delete(r.hosts, c.host)
	}
	r.wg.Done()
}

func (r *Relay) inform(w http.ResponseWriter, q *http.Request) {
	h := w.Header()
	h.Set("Access-Control-Allow-Origin", "*")
	h.Set("Access-Control-Allow-Headers", "*")
	h.Set("Access-Control-Allow-Methods", "GET")
	switch {
	case q.Method == http.MethodOptions:
		w.WriteHeader(http.StatusNoContent)
		return
	case q.Method != http.MethodGet && q.Method != http.MethodHead:
		http.Error(w, "a relay is asked by GET or over a websocket", http.StatusMethodNotAllowed)
		return
	case !strings.Contains(q.Header.Get("Accept"), "application/nostr+json"):
		h.Set("Content-Type", "text/plain; charset=utf-8")
		w.WriteHeader(http.StatusUpgradeRequired)
		fmt.Fprintln(w, "This is a Nostr relay: connect by a websocket.")
		return
	}
	h.Set("Content-Type", "application/nostr+json")
	info := map[string]any{
		"name": r.o.Name, "description": "a relay for offers of AI inference", "software": "https://github.com/geistnet/geist",
		"supported_nips": []int{1, 9, 11, 13, 40},
		"limitation": map[string]any{
			"max_message_length": maxMessage, "max_subscriptions": r.o.MaxSubs, "max_filters": maxFilters, "max_limit": r.o.MaxLimit,
			"max_subid_length": maxSubID, "max_event_tags": MaxTags, "max_content_length": MaxContent, "min_pow_difficulty": r.o.MinWork,
			"auth_required": false, "payment_required": false, "created_at_upper_limit": int(r.o.Future.Seconds()),
		},
		"retention": []map[string]any{{"kinds": r.o.Kinds, "count": r.o.MaxEvents}},
	}
	if r.o.Owner != (ghost.Key{}) {
		info["pubkey"] = r.o.Owner.String()
	}
	json.NewEncoder(w).Encode(info)
}

// Publish takes an event of this node as if a client had sent it.
func (r *Relay) Publish(e *Event) error {
	err := r.take(e)
	if errors.Is(err, errDuplicate) {
		return nil
	}
	return err
}

// Events are the stored events that match, newest first, at most limit.
func (r *Relay) Events(f Filter, limit int) []*Event {
	return r.store.query(f, limit, 1<<62, r.now())
}

// A RelayState is what a relay holds.
type RelayState struct {
	Events        int `json:"events"`
	Clients       int `json:"clients"`
	Subscriptions int `json:"subscriptions"`
}

// State is for people and metrics.
func (r *Relay) State() RelayState {
	r.mu.Lock()
	defer r.mu.Unlock()
	s := RelayState{Events: r.store.count(), Clients: len(r.clients)}
	for c := range r.clients {
		s.Subscriptions += len(c.subs)
	}
	return s
}

// take checks an event, keeps it, and hands it to those who listen. The error
// begins with a word of NIP-01.
func (r *Relay) take(e *Event) error {
	if e.Kind != kindDeletion && !slices.Contains(r.o.Kinds, e.Kind) {
		return fmt.Errorf("blocked: kind %d is not taken here", e.Kind)
	}
	if err := CheckShape(e); err != nil {
		return fmt.Errorf("invalid: %w", err)
	}
	if now := r.now(); e.CreatedAt > now+Timestamp(r.o.Future.Seconds()) {
		return fmt.Errorf("invalid: made %d s after now", e.CreatedAt-now)
	}
	if w := Work(e); w < r.o.MinWork {
		return fmt.Errorf("pow: %d bits of work, at least %d", w, r.o.MinWork)
	}
	if err := Verify(e); err != nil {
		return fmt.Errorf("invalid: %w", err)
	}
	if r.o.Check != nil && e.Kind != kindDeletion {
		if err := r.o.Check(e); err != nil {
			return fmt.Errorf("invalid: %w", err)
		}
	}
	if !e.Kind.IsEphemeral() {
		if err := r.store.keep(e, r.now()); err != nil {
			return err
		}
	}
	r.spread(e)
	return nil
}

// spread hands an event to every subscription that it matches. It never waits:
// a client whose queue is full is cut, and will ask again.
func (r *Relay) spread(e *Event) {
	r.mu.Lock()
	defer r.mu.Unlock()
	raw := json.RawMessage(Encode(e))
	for c := range r.clients {
		for id, fs := range c.subs {
			if !slices.ContainsFunc(fs, func(f Filter) bool { return f.Matches(*e) }) {
				continue
			}
			select {
			case c.live <- message("EVENT", id, raw):
			default:
				c.cut()
			}
		}
	}
}

// A client is one connection.
type client struct {
	relay *Relay
	conn  *websocket.Conn
	host  string

	subs map[string][]Filter // guarded by relay.mu
	stop context.CancelFunc  // guarded by relay.mu; nil before run

	live   chan []byte // new events; never waited for
	answer chan []byte // answers to this client's own messages

	left float64 // messages that it may send now; of the reading goroutine
	at   time.Time
}

// cut ends the connection. The caller holds relay.mu.
func (c *client) cut() {
	if c.stop != nil {
		c.stop()
	}
}

func (c *client) run(ctx context.Context) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	c.relay.mu.Lock()
	c.stop = cancel
	c.relay.mu.Unlock()
	c.conn.SetReadLimit(maxMessage)
	done := make(chan struct{})
	go func() {
		defer close(done)
		defer cancel()
		c.write(ctx)
	}()
	probing := make(chan struct{})
	go func() {
		defer close(probing)
		probe(ctx, c.conn, c.relay.o.Ping)
		cancel()
	}()
	for c.pace(ctx) {
		kind, b, err := c.conn.Read(ctx)
		if err != nil {
			break
		}
		if kind != websocket.MessageText {
			c.say(ctx, "NOTICE", "invalid: messages are text")
			continue
		}
		c.hear(ctx, b)
	}
	cancel()
	<-done
	<-probing
	c.conn.CloseNow()
}

// write sends what waits. A client that does not take it is cut.
func (c *client) write(ctx context.Context) {
	for {
		var b []byte
		select {
		case <-ctx.Done():
			return
		case b = <-c.live:
		case b = <-c.answer:
		}
		one, cancel := context.WithTimeout(ctx, c.relay.o.WriteTimeout)
		err := c.conn.Write(one, websocket.MessageText, b)
		cancel()
		if err != nil {
			return
		}
	}
}

// say answers; false: the connection has ended.
func (c *client) say(ctx context.Context, parts ...any) bool {
	select {
	case c.answer <- message(parts...):
		return true
	case <-ctx.Done():
		return false
	}
}

// pace waits until the client may send another message. Meanwhile nothing is
// read, so that a flood is the sender's to hold.
func (c *client) pace(ctx context.Context) bool {
	now := time.Now()
	c.left = min(float64(c.relay.o.Burst), c.left+float64(now.Sub(c.at).Seconds()*float64(c.relay.o.Rate)))
	c.at = now
	if c.left--; c.left >= 0 {
		return ctx.Err() == nil
	}
	select {
	case <-time.After(time.Duration(float64(time.Second) * -c.left / float64(c.relay.o.Rate))):
		return true
	case <-ctx.Done():
		return false
	}
}

// hear answers one message.
func (c *client) hear(ctx context.Context, b []byte) {
	word, rest, err := split(b)
	switch {
	case err != nil:
		c.say(ctx, "NOTICE", "invalid: "+err.Error())
	case word == "EVENT" && len(rest) == 1:
		c.event(ctx, rest[0])
	case word == "REQ" && len(rest) >= 1:
		c.request(ctx, rest)
	case word == "CLOSE" && len(rest) == 1:
		var id string
		if json.Unmarshal(rest[0], &id) == nil {
			c.relay.mu.Lock()
			delete(c.subs, id)
			c.relay.mu.Unlock()
		}
	default:
		c.say(ctx, "NOTICE", fmt.Sprintf("unsupported: %.40q with %d parts", word, len(rest)))
	}
}

func (c *client) event(ctx context.Context, raw json.RawMessage) {
	e, err := Decode(raw)
	if err != nil {
		var id struct{ ID string }
		json.Unmarshal(raw, &id)
		c.say(ctx, "OK", cutText(id.ID, 64), false, "invalid: "+err.Error())
		return
	}
	id := hex.EncodeToString(e.ID[:])
	switch err := c.relay.take(e); {
	case err == nil:
		c.say(ctx, "OK", id, true, "")
	case errors.Is(err, errDuplicate) || errors.Is(err, errOlder):
		c.say(ctx, "OK", id, errors.Is(err, errDuplicate), err.Error())
	default:
		c.say(ctx, "OK", id, false, err.Error())
	}
}

func cutText(s string, n int) string { return s[:min(len(s), n)] }

func (c *client) request(ctx context.Context, rest []json.RawMessage) {
	var id string
	if json.Unmarshal(rest[0], &id) != nil || id == "" || len(id) > maxSubID {
		c.say(ctx, "NOTICE", fmt.Sprintf("invalid: the id of a subscription has 1 to %d characters", maxSubID))
		return
	}
	fs, err := c.subscribe(id, rest[1:])
	if err != nil {
		c.say(ctx, "CLOSED", id, err.Error())
		return
	}
	budget := int64(maxAnswer)
	sent := map[ID]bool{}
	for _, f := range fs {
		for _, e := range c.relay.store.query(f, c.relay.o.MaxLimit, budget, c.relay.now()) {
			if sent[e.ID] {
				continue
			}
			sent[e.ID] = true
			raw := Encode(e)
			budget -= int64(len(raw))
			if !c.say(ctx, "EVENT", id, json.RawMessage(raw)) {
				return
			}
		}
	}
	c.say(ctx, "EOSE", id)
}

// subscribe reads the filters and listens from now on, so that no event falls
// between the stored ones and the new ones.
func (c *client) subscribe(id string, raw []json.RawMessage) ([]Filter, error) {
	if len(raw) == 0 || len(raw) > maxFilters {
		return nil, fmt.Errorf("invalid: a request has 1 to %d filters, not %d", maxFilters, len(raw))
	}
	var fs []Filter
	for _, b := range raw {
		f, err := decodeFilter(b)
		if err != nil {
			return nil, fmt.Errorf("invalid: %w", err)
		}
		fs = append(fs, f)
	}
	c.relay.mu.Lock()
	defer c.relay.mu.Unlock()
	if _, ok := c.subs[id]; !ok && len(c.subs) >= c.relay.o.MaxSubs {
		return nil, fmt.Errorf("rate-limited: at most %d subscriptions", c.relay.o.MaxSubs)
	}
	c.subs[id] = fs
	return fs, nil
}
