package nostr

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"net/url"
	"sync"
	"time"

	"github.com/coder/websocket"
)

// A Client speaks with any number of relays. It trusts none of them: every event
// is verified and matched against what was asked for, messages are bounded, and
// each wait has an end.
type Client struct {
	relays []string
	o      ClientOptions

	mu     sync.Mutex
	status map[string]*RelayStatus // guarded by mu
}

// ClientOptions are all optional.
type ClientOptions struct {
	Log  *slog.Logger
	HTTP *http.Client // for the handshake; must not have a Timeout

	Timeout    time.Duration // of one connect, and of one answer; 10 s
	MinBackoff time.Duration // between attempts to connect, doubled up to MaxBackoff; 1 s
	MaxBackoff time.Duration // 5 min
	Idle       time.Duration // without a message a subscription is probed by a ping; 60 s
	Remember   int           // ids that a subscription keeps to drop duplicates; 8192
}

// RelayStatus is what the client met with one relay.
type RelayStatus struct {
	URL       string `json:"url"`
	Connected int    `json:"connected"` // subscriptions that are open now
	Events    int64  `json:"events"`    // that counted
	Refused   int64  `json:"refused"`   // forged, not asked for, or not events at all
	LastError string `json:"last_error,omitempty"`
}

const maxRelays = 64

// NewClient takes the URLs of relays, ws:// or wss://. It connects to none yet.
func NewClient(relays []string, o ClientOptions) (*Client, error) {
	if len(relays) > maxRelays {
		return nil, fmt.Errorf("%d relays, at most %d", len(relays), maxRelays)
	}
	def := func(d *time.Duration, v time.Duration) {
		if *d <= 0 {
			*d = v
		}
	}
	def(&o.Timeout, 10*time.Second)
	def(&o.MinBackoff, time.Second)
	def(&o.MaxBackoff, 5*time.Minute)
	def(&o.Idle, time.Minute)
	if o.Remember <= 0 {
		o.Remember = 8192
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	c := &Client{o: o, status: map[string]*RelayStatus{}}
	for _, r := range relays {
		u, err := url.Parse(r)
		if err != nil || u.Scheme != "ws" && u.Scheme != "wss" || u.Host == "" || u.User != nil {
			return nil, fmt.Errorf("relay %.200q is no URL that begins with ws:// or wss://", r)
		}
		if c.status[r] == nil {
			c.status[r] = &RelayStatus{URL: r}
			c.relays = append(c.relays, r)
		}
	}
	return c, nil
}

// Relays are the URLs, each once.
func (c *Client) Relays() []string { return append([]string(nil), c.relays...) }

// Status is how it stands with every relay.
func (c *Client) Status() []RelayStatus {
	c.mu.Lock()
	defer c.mu.Unlock()
	var out []RelayStatus
	for _, r := range c.relays {
		out = append(out, *c.status[r])
	}
	return out
}

func (c *Client) note(relay string, f func(*RelayStatus)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	f(c.status[relay])
}

// A RelayError is what went wrong with one relay.
type RelayError struct {
	Relay string
	Err   error
}

func (e *RelayError) Error() string { return fmt.Sprintf("relay %s: %v", e.Relay, e.Err) }
func (e *RelayError) Unwrap() error { return e.Err }

// each runs f for all relays at once and returns what went wrong, in the order of
// the relays.
func (c *Client) each(f func(relay string) error) []*RelayError {
	errs := make([]error, len(c.relays))
	var wg sync.WaitGroup
	for i, r := range c.relays {
		wg.Go(func() { errs[i] = f(r) })
	}
	wg.Wait()
	var out []*RelayError
	for i, err := range errs {
		if err != nil {
			c.note(c.relays[i], func(s *RelayStatus) { s.LastError = err.Error() })
			out = append(out, &RelayError{c.relays[i], err})
		}
	}
	return out
}

// Publish sends a signed event to all relays. accepted says how many took it; the
// errors are those of the others.
func (c *Client) Publish(ctx context.Context, e *Event) (accepted int, errs []*RelayError) {
	errs = c.each(func(relay string) error { return c.publish(ctx, relay, e) })
	return len(c.relays) - len(errs), errs
}

func (c *Client) publish(ctx context.Context, relay string, e *Event) error {
	ctx, cancel := context.WithTimeout(ctx, c.o.Timeout)
	defer cancel()
	conn, err := c.dial(ctx, relay)
	if err != nil {
		return err
	}
	defer conn.CloseNow()
	if err := conn.Write(ctx, websocket.MessageText, message("EVENT", json.RawMessage(Encode(e)))); err != nil {
		return fmt.Errorf("send event: %w", err)
	}
	for {
		word, rest, err := read(ctx, conn)
		var unclear *messageError
		if err != nil && !errors.As(err, &unclear) {
			return err
		}
		var id, reason string
		var ok bool
		if word != "OK" || len(rest) < 3 || json.Unmarshal(rest[0], &id) != nil || id != hex.EncodeToString(e.ID[:]) {
			continue
		}
		if json.Unmarshal(rest[1], &ok) != nil || json.Unmarshal(rest[2], &reason) != nil {
			return errors.New("the relay's answer is not understood")
		}
		if !ok {
			return fmt.Errorf("the event was not taken: %.300q", reason)
		}
		return nil
	}
}

// Fetch asks all relays for stored events and returns those that are verified,
// each once, at most limit of each relay. A relay that is slow or down is one of the
// errors; the events of the others are there.
func (c *Client) Fetch(ctx context.Context, f Filter, limit int) ([]*Event, []*RelayError) {
	limit = max(1, limit)
	f.Limit, f.LimitZero = limit, false
	var mu sync.Mutex
	var out []*Event
	seen := map[ID]bool{}
	errs := c.each(func(relay string) error {
		ctx, cancel := context.WithTimeout(ctx, c.o.Timeout)
		defer cancel()
		conn, err := c.dial(ctx, relay)
		if err != nil {
			return err
		}
		defer conn.CloseNow()
		return c.session(ctx, conn, relay, f, func(e *Event) bool {
			mu.Lock()
			defer mu.Unlock()
			if !seen[e.ID] {
				seen[e.ID] = true
				out = append(out, e)
			}
			return true
		}, limit)
	})
	return out, errs
}

// Subscribe delivers the events of all relays that match, stored ones first, until
// ctx ends; then the channel is closed. Each event comes once, as far as the memory
// of Remember ids reaches. Connections that break are made again after a while that
// grows. A slow reader slows the relays down,
// and nothing is piled up.
func (c *Client) Subscribe(ctx context.Context, f Filter) <-chan *Event {
	out := make(chan *Event, 64)
	seen := newRecent(c.o.Remember)
	var wg sync.WaitGroup
	for _, r := range c.relays {
		wg.Go(func() { c.follow(ctx, r, f, seen, out) })
	}
	go func() {
		wg.Wait()
		close(out)
	}()
	return out
}

// follow keeps one relay's subscription open.
func (c *Client) follow(ctx context.Context, relay string, f Filter, seen *recent, out chan<- *Event) {
	wait := c.o.MinBackoff
	for ctx.Err() == nil {
		began := time.Now()
		err := c.followOnce(ctx, relay, f, seen, out)
		if ctx.Err() != nil {
			return
		}
		c.note(relay, func(s *RelayStatus) { s.LastError = err.Error() })
		c.o.Log.Debug("relay lost", "relay", relay, "err", err)
		if time.Since(began) > c.o.MaxBackoff {
			wait = c.o.MinBackoff
		}
		// Half to all of the wait, so that clients of a restarted relay do
		// not come back all at once.
		pause := wait/2 + rand.N(wait/2+1)
		wait = min(2*wait, c.o.MaxBackoff)
		select {
		case <-ctx.Done():
		case <-time.After(pause):
		}
	}
}

func (c *Client) followOnce(ctx context.Context, relay string, f Filter, seen *recent, out chan<- *Event) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	dialCtx, done := context.WithTimeout(ctx, c.o.Timeout)
	conn, err := c.dial(dialCtx, relay)
	done()
	if err != nil {
		return err
	}
	defer conn.CloseNow()
	c.note(relay, func(s *RelayStatus) { s.Connected++; s.LastError = "" })
	defer c.note(relay, func(s *RelayStatus) { s.Connected-- })
	go probe(ctx, conn, c.o.Idle)
	return c.session(ctx, conn, relay, f, func(e *Event) bool {
		if !seen.add(e.ID) {
			return true
		}
		select {
		case out <- e:
			return true
		case <-ctx.Done():
			return false
		}
	}, 0)
}

// probe pings now and then, and returns, with the connection closed, when the
// other end does not answer or ctx ends. Somebody has to read meanwhile.
func probe(ctx context.Context, conn *websocket.Conn, idle time.Duration) {
	t := time.NewTicker(idle)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-t.C:
		}
		ping, cancel := context.WithTimeout(ctx, idle)
		err := conn.Ping(ping)
		cancel()
		if err != nil {
			conn.CloseNow()
			return
		}
	}
}

// session sends one request and hands on its events. With stored > 0 it ends after
// the stored events, of which it takes so many, and otherwise never without an error.
func (c *Client) session(ctx context.Context, conn *websocket.Conn, relay string, f Filter, take func(*Event) bool, stored int) error {
	if err := conn.Write(ctx, websocket.MessageText, message("REQ", "g", encodeFilter(f))); err != nil {
		return fmt.Errorf("ask: %w", err)
	}
	taken, bad := 0, 0
	for {
		word, rest, err := read(ctx, conn)
		var unclear *messageError
		if err != nil && !errors.As(err, &unclear) {
			return err
		}
		switch {
		case err != nil:
			bad++
		case word == "EVENT" && len(rest) == 2:
			e, err := Decode(rest[1])
			if err == nil && !f.Matches(*e) {
				err = errors.New("an event that was not asked for")
			}
			if err == nil {
				err = Verify(e)
			}
			if err != nil {
				bad++
				c.note(relay, func(s *RelayStatus) { s.Refused++ })
				break
			}
			c.note(relay, func(s *RelayStatus) { s.Events++ })
			if !take(e) {
				return ctx.Err()
			}
			if taken++; stored > 0 && taken >= stored {
				return nil
			}
		case word == "EOSE" && stored > 0:
			return nil
		case word == "CLOSED":
			var why string
			if len(rest) > 1 {
				json.Unmarshal(rest[1], &why)
			}
			return fmt.Errorf("the relay ended the subscription: %.300q", why)
		}
		if bad > maxBad {
			return fmt.Errorf("more than %d messages that are forged, unasked for or not understood", maxBad)
		}
	}
}

// Connections end without a farewell: it would wait for one from the other end.

// maxBad is how many bad messages a connection may bring.
const maxBad = 100

func (c *Client) dial(ctx context.Context, relay string) (*websocket.Conn, error) {
	conn, _, err := websocket.Dial(ctx, relay, &websocket.DialOptions{HTTPClient: c.o.HTTP})
	if err != nil {
		return nil, fmt.Errorf("connect: %w", err)
	}
	conn.SetReadLimit(maxMessage)
	return conn, nil
}

// A messageError is a message that is not understood; the next one may be.
type messageError struct{ error }

func read(ctx context.Context, conn *websocket.Conn) (word string, rest []json.RawMessage, err error) {
	_, b, err := conn.Read(ctx)
	if err != nil {
		return "", nil, fmt.Errorf("read: %w", err)
	}
	word, rest, err = split(b)
	if err != nil {
		return "", nil, &messageError{err}
	}
	return word, rest, nil
}

// recent remembers the last ids. It is for many goroutines.
type recent struct {
	mu   sync.Mutex
	ids  map[ID]struct{}
	ring []ID
	next int
}

func newRecent(n int) *recent {
	return &recent{ids: make(map[ID]struct{}), ring: make([]ID, 0, n)}
}

// add tells whether id is new.
func (r *recent) add(id ID) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if _, ok := r.ids[id]; ok {
		return false
	}
	if len(r.ring) < cap(r.ring) {
		r.ring = append(r.ring, id)
	} else {
		delete(r.ids, r.ring[r.next])
		r.ring[r.next] = id
		r.next = (r.next + 1) % len(r.ring)
	}
	r.ids[id] = struct{}{}
	return true
}
