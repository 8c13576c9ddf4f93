package nostr

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/coder/websocket"
)

// hostile serves a relay that does what f does with each connection.
func hostile(t *testing.T, f func(ctx context.Context, c *websocket.Conn)) string {
	t.Helper()
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		c, err := websocket.Accept(w, q, nil)
		if err != nil {
			return
		}
		defer c.CloseNow()
		c.SetReadLimit(1 << 20)
		f(q.Context(), c)
	}))
	t.Cleanup(s.Close)
	return "ws" + strings.TrimPrefix(s.URL, "http")
}

func newClient(t *testing.T, relays ...string) *Client {
	t.Helper()
	c, err := NewClient(relays, ClientOptions{Timeout: 5 * time.Second, MinBackoff: time.Millisecond, MaxBackoff: 10 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestClientManyRelays(t *testing.T) {
	a, b := serveRelay(t, openRelay(t, RelayOptions{})), serveRelay(t, openRelay(t, RelayOptions{}))
	dead := "ws://127.0.0.1:1"
	c := newClient(t, a, b, dead, a)
	if len(c.Relays()) != 3 {
		t.Errorf("relays %q, want each once", c.Relays())
	}
	ctx, cancel := context.WithCancel(t.Context())
	events := c.Subscribe(ctx, Filter{Kinds: []Kind{testKind}})
	e := event(t, 1, testKind, at(0), Tag{"d", "a"})
	n, errs := c.Publish(t.Context(), e)
	if n != 2 || len(errs) != 1 || errs[0].Relay != dead {
		t.Fatalf("taken by %d, errors %v", n, errs)
	}
	if got := <-events; got.ID != e.ID {
		t.Errorf("event %v", got)
	}
	second := event(t, 1, testKind, at(1), Tag{"d", "b"})
	c.Publish(t.Context(), second)
	if got := <-events; got.ID != second.ID {
		t.Errorf("the first event came twice: %v", got)
	}
	got, errs := c.Fetch(t.Context(), Filter{Kinds: []Kind{testKind}}, 10)
	if len(got) != 2 || len(errs) != 1 {
		t.Errorf("%d events, errors %v", len(got), errs)
	}
	if n, errs := c.Publish(t.Context(), event(t, 1, 7, at(0))); n != 0 || len(errs) != 3 || !strings.Contains(errs[0].Error(), "kind 7 is not taken") {
		t.Errorf("taken by %d, errors %v", n, errs)
	}
	cancel()
	for range events {
	}
	if s := c.Status(); s[0].Connected != 0 || s[2].LastError == "" {
		t.Errorf("status %+v", s)
	}
}

// TestClientReconnects: the relay goes and comes back at the same port.
func TestClientReconnects(t *testing.T) {
	path := filepath.Join(t.TempDir(), "events")
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	port := l.Addr().String()
	start := func(l net.Listener) (r *Relay, stop func()) {
		r = openRelay(t, RelayOptions{Path: path})
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- r.Serve(ctx, l) }()
		return r, func() {
			cancel()
			if err := <-done; err != nil {
				t.Error(err)
			}
			if err := r.Close(); err != nil {
				t.Error(err)
			}
		}
	}
	r, stop := start(l)
	c := newClient(t, "ws://"+port)
	events := c.Subscribe(t.Context(), Filter{})
	first := event(t, 1, 1, at(0))
	if err := r.Publish(first); err != nil {
		t.Fatal(err)
	}
	if got := <-events; got.ID != first.ID {
		t.Fatal(got)
	}
	stop()
	if l, err = net.Listen("tcp", port); err != nil {
		t.Skipf("the port was taken meanwhile: %v", err)
	}
	r, stop = start(l)
	defer stop()
	second := event(t, 1, 1, at(1))
	if err := r.Publish(second); err != nil {
		t.Fatal(err)
	}
	if got := <-events; got.ID != second.ID {
		t.Errorf("after the relay came back: %v, want the second event", got)
	}
}

// TestClientHostile: what a relay may try, and the client neither believes nor waits.
func TestClientHostile(t *testing.T) {
	good := event(t, 1, testKind, at(0), Tag{"d", "a"})
	forged := *good
	forged.Content = "x"
	forged.ID = forged.GetID()
	unasked := event(t, 1, 1, at(0))
	say := func(ctx context.Context, c *websocket.Conn, s string) error {
		return c.Write(ctx, websocket.MessageText, []byte(s))
	}
	sub := func(e *Event) string { return string(message("EVENT", "g", json.RawMessage(Encode(e)))) }
	for name, c := range map[string]struct {
		do   func(ctx context.Context, c *websocket.Conn)
		want int    // events that count
		err  string // "" : none
	}{
		"honest": {func(ctx context.Context, c *websocket.Conn) {
			say(ctx, c, sub(good))
			say(ctx, c, sub(good))
			say(ctx, c, `["EOSE","g"]`)
			c.Read(ctx)
		}, 1, ""},
		"lies": {func(ctx context.Context, c *websocket.Conn) {
			say(ctx, c, sub(&forged))
			say(ctx, c, sub(unasked))
			say(ctx, c, `{`)
			say(ctx, c, `["EVENT"]`)
			say(ctx, c, `["EVENT","g",7]`)
			say(ctx, c, sub(good))
			say(ctx, c, `["EOSE","g"]`)
			c.Read(ctx)
		}, 1, ""},
		"forges on": {func(ctx context.Context, c *websocket.Conn) {
			for say(ctx, c, sub(&forged)) == nil {
			}
		}, 0, "more than 100"},
		"speaks on": {func(ctx context.Context, c *websocket.Conn) {
			for i := 0; ; i++ {
				e := event(t, 1, testKind, at(0), Tag{"d", fmt.Sprint(i)})
				if say(ctx, c, sub(e)) != nil {
					return
				}
			}
		}, 20, ""},
		"huge": {func(ctx context.Context, c *websocket.Conn) {
			say(ctx, c, strings.Repeat(" ", maxMessage+1))
			c.Read(ctx)
		}, 0, "read:"},
		"closes": {func(ctx context.Context, c *websocket.Conn) {
			say(ctx, c, `["CLOSED","g","auth-required: \u001b[2J"]`)
			c.Read(ctx)
		}, 0, `\x1b[2J`},
		"silent": {func(ctx context.Context, c *websocket.Conn) { c.Read(ctx); c.Read(ctx) }, 0, "deadline"},
		"gone":   {func(ctx context.Context, c *websocket.Conn) {}, 0, "read:"},
	} {
		t.Run(name, func(t *testing.T) {
			url := hostile(t, func(ctx context.Context, conn *websocket.Conn) {
				conn.Read(ctx) // the request
				c.do(ctx, conn)
			})
			k := newClient(t, url)
			if name == "silent" {
				k.o.Timeout = 50 * time.Millisecond
			}
			got, errs := k.Fetch(t.Context(), Filter{Kinds: []Kind{testKind}}, 20)
			if len(got) != c.want {
				t.Errorf("%d events, want %d", len(got), c.want)
			}
			if len(errs) == 0 != (c.err == "") || len(errs) > 0 && !strings.Contains(errs[0].Error(), c.err) {
				t.Errorf("errors %v, want %q", errs, c.err)
			}
		})
	}
}

// TestClientSlowReader: a subscriber that does not read makes the relay wait.
func TestClientSlowReader(t *testing.T) {
	var sent atomic.Int64
	url := hostile(t, func(ctx context.Context, c *websocket.Conn) {
		c.Read(ctx)
		for i := range 100_000 {
			e := event(t, 1, 1, int64(i+1), Tag{"x", strings.Repeat("x", 2000)}, Tag{"x", strings.Repeat("x", 2000)}, Tag{"x", strings.Repeat("x", 2000)}, Tag{"x", strings.Repeat("x", 2000)})
			w, cancel := context.WithTimeout(ctx, 200*time.Millisecond)
			err := c.Write(w, websocket.MessageText, message("EVENT", "g", json.RawMessage(Encode(e))))
			cancel()
			if err != nil {
				sent.Store(int64(i))
				return
			}
		}
	})
	c := newClient(t, url)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	c.o.MinBackoff, c.o.MaxBackoff = time.Hour, time.Hour
	events := c.Subscribe(ctx, Filter{})
	for sent.Load() == 0 {
		time.Sleep(time.Millisecond)
	}
	if n := sent.Load(); n > 20_000 {
		t.Errorf("%d events went to a reader that does not read", n)
	}
	cancel()
	for range events {
	}
}

func TestClientRefusesURLs(t *testing.T) {
	for _, u := range []string{"", "http://x", "ws://", "ws://user@x", "::"} {
		if _, err := NewClient([]string{u}, ClientOptions{}); err == nil {
			t.Errorf("relay %q was taken", u)
		}
	}
}

func TestRecentIsBounded(t *testing.T) {
	r := newRecent(3)
	for i := range 10 {
		if !r.add(ID{byte(i)}) || r.add(ID{byte(i)}) {
			t.Errorf("id %d", i)
		}
	}
	if len(r.ids) != 3 || !r.add(ID{0}) {
		t.Errorf("%d ids, want 3, the oldest forgotten", len(r.ids))
	}
}
