package nostr

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"

	"github.com/geistnet/geist/ghost"
)

const testKind Kind = 38400

var testNow = time.Unix(1_800_000_000, 0)

// event makes and signs an event of the secret key n.
func event(t testing.TB, n byte, kind Kind, at int64, tags ...Tag) *Event {
	t.Helper()
	e := &Event{Kind: kind, CreatedAt: Timestamp(at), Tags: tags}
	if err := Sign(e, ghost.Secret{31: n}); err != nil {
		t.Fatal(err)
	}
	return e
}

func at(seconds int64) int64 { return testNow.Unix() + seconds }

func openRelay(t testing.TB, o RelayOptions) *Relay {
	t.Helper()
	if o.Path == "" {
		o.Path = filepath.Join(t.TempDir(), "events")
	}
	if o.Kinds == nil {
		o.Kinds = []Kind{testKind, 38403, 1}
	}
	if o.Now == nil {
		o.Now = func() time.Time { return testNow }
	}
	r, err := OpenRelay(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.Close() })
	return r
}

func serveRelay(t testing.TB, r *Relay) (url string) {
	t.Helper()
	s := httptest.NewServer(r)
	t.Cleanup(s.Close)
	t.Cleanup(func() { r.Close() }) // before the server, which waits for it
	return "ws" + strings.TrimPrefix(s.URL, "http")
}

// A raw is a connection that says anything.
type raw struct {
	t testing.TB
	*websocket.Conn
	ctx context.Context
}

func dial(t testing.TB, url string) *raw {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	t.Cleanup(cancel)
	c, _, err := websocket.Dial(ctx, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.CloseNow() })
	c.SetReadLimit(1 << 20)
	return &raw{t, c, ctx}
}

func (c *raw) send(s string) {
	c.t.Helper()
	if err := c.Write(c.ctx, websocket.MessageText, []byte(s)); err != nil {
		c.t.Fatal(err)
	}
}

func (c *raw) next() string {
	c.t.Helper()
	_, b, err := c.Read(c.ctx)
	if err != nil {
		c.t.Fatal(err)
	}
	return string(b)
}

// expect sends one message and demands that the answer begins so.
func (c *raw) expect(send, want string) {
	c.t.Helper()
	c.send(send)
	if got := c.next(); !strings.HasPrefix(got, want) {
		c.t.Errorf("%.100s: answer %.300s, want %s…", send, got, want)
	}
}

func publish(e *Event) string { return string(message("EVENT", json.RawMessage(Encode(e)))) }

func TestRelayRefuses(t *testing.T) {
	r := openRelay(t, RelayOptions{Check: func(e *Event) error {
		if e.Tags.Has("bad") {
			return errors.New("a bad tag")
		}
		return nil
	}})
	c := dial(t, serveRelay(t, r))
	good := event(t, 1, testKind, at(0), Tag{"d", "a"}, Tag{"m", "x"})
	forged := *good
	forged.Content = "changed"
	wrongSig := *good
	wrongSig.Sig[3] ^= 1
	stranger := *good
	stranger.PubKey = event(t, 2, 1, at(0)).PubKey
	stranger.ID = stranger.GetID()
	big := event(t, 1, testKind, at(0), Tag{"d", "big"})
	big.Content = strings.Repeat("x", MaxContent+1)
	many := make(Tags, MaxTags+1)
	for i := range many {
		many[i] = Tag{"t", fmt.Sprint(i)}
	}
	crowd := *good
	crowd.Tags = many
	for _, x := range []struct {
		name string
		e    *Event
		want string
	}{
		{"good", good, `true,""`},
		{"again", good, `true,"duplicate:`},
		{"changed", &forged, `false,"invalid: id`},
		{"signature", &wrongSig, `false,"invalid: `},
		{"another's", &stranger, `false,"invalid: `},
		{"kind", event(t, 1, 4, at(0)), `false,"blocked: kind 4`},
		{"future", event(t, 1, testKind, at(121), Tag{"d", "f"}), `false,"invalid: made 121 s`},
		{"expired", event(t, 1, testKind, at(-100), Tag{"d", "e"}, Tag{"expiration", fmt.Sprint(at(-1))}), `false,"invalid: the event has expired`},
		{"odd expiration", event(t, 1, testKind, at(-100), Tag{"d", "e"}, Tag{"expiration", "soon"}), `false,"invalid: the event has expired`},
		{"older", event(t, 1, testKind, at(-1), Tag{"d", "a"}), `false,"duplicate: a newer`},
		{"checked", event(t, 1, testKind, at(0), Tag{"d", "b"}, Tag{"bad", ""}), `false,"invalid: a bad tag`},
		{"content", big, `false,"invalid: event: content`},
		{"tags", &crowd, `false,"invalid: event: 129 tags`},
	} {
		t.Run(x.name, func(t *testing.T) {
			c.t = t
			c.expect(publish(x.e), fmt.Sprintf(`["OK","%s",%s`, hex.EncodeToString(x.e.ID[:]), x.want))
		})
	}
	c.t = t
	for send, want := range map[string]string{
		`x`:                          `["NOTICE","invalid: a message is an array`,
		`[]`:                         `["NOTICE","invalid: a message begins`,
		`["EVENT"]`:                  `["NOTICE","unsupported`,
		`["EVENT",{}]`:               `["OK","",false,"invalid: event: one of`,
		`["EVENT",7]`:                `["OK","",false,"invalid`,
		`["REQ"]`:                    `["NOTICE","unsupported`,
		`["REQ","",{}]`:              `["NOTICE","invalid: the id`,
		`["REQ","a"]`:                `["CLOSED","a","invalid: a request has 1 to 8`,
		`["REQ","a",1]`:              `["CLOSED","a","invalid: a filter`,
		`["REQ","a",null]`:           `["CLOSED","a","invalid: a filter`,
		`["COUNT","a",{}]`:           `["NOTICE","unsupported`,
		`["REQ","a",{"search":"x"}]`: `["CLOSED","a","invalid: filter: \"search\"`,
		`["REQ","a",{"kinds":[-1]}]`: `["CLOSED","a","invalid: filter`,
		`["REQ","a",{"ids":["00"]}]`: `["CLOSED","a","invalid: filter`,
		`["REQ","a",{"limit":-1}]`:   `["CLOSED","a","invalid: filter`,
	} {
		c.expect(send, want)
	}
	if n := r.State().Events; n != 1 {
		t.Errorf("%d events kept, want 1", n)
	}
	// A message beyond the limit ends the connection, and only that.
	c.Write(c.ctx, websocket.MessageText, []byte(strings.Repeat(" ", maxMessage+1)))
	if _, _, err := c.Read(c.ctx); err == nil {
		t.Error("a huge message was read")
	}
	dial(t, strings.Replace(c.url(r), "http", "ws", 1)).expect(`["REQ","a",{"limit":0}]`, `["EOSE","a"]`)
}

// url serves the relay once more.
func (c *raw) url(r *Relay) string {
	s := httptest.NewServer(r)
	c.t.Cleanup(s.Close)
	c.t.Cleanup(func() { r.Close() })
	return s.URL
}

func TestRelayStreams(t *testing.T) {
	r := openRelay(t, RelayOptions{})
	url := serveRelay(t, r)
	a, b := dial(t, url), dial(t, url)
	stored := event(t, 1, testKind, at(0), Tag{"d", "a"}, Tag{"m", "x"})
	a.expect(publish(stored), `["OK"`)
	b.expect(`["REQ","s",{"#m":["x"],"kinds":[38400]}]`, `["EVENT","s",{"id":"`+hex.EncodeToString(stored.ID[:]))
	if got := b.next(); got != `["EOSE","s"]` {
		t.Fatal(got)
	}
	other := event(t, 1, testKind, at(1), Tag{"d", "b"}, Tag{"m", "y"})
	newer := event(t, 1, testKind, at(1), Tag{"d", "a"}, Tag{"m", "x"}) // replaces
	a.expect(publish(other), `["OK"`)
	a.expect(publish(newer), `["OK"`)
	if got := b.next(); !strings.HasPrefix(got, `["EVENT","s",{"id":"`+hex.EncodeToString(newer.ID[:])) {
		t.Error(got)
	}
	a.expect(publish(stored), `["OK","`+hex.EncodeToString(stored.ID[:])+`",false,"duplicate: a newer`)
	if got := r.Events(Filter{Tags: TagMap{"m": {"x"}}}, 10); len(got) != 1 || got[0].ID != newer.ID {
		t.Errorf("%d events, want the newer only", len(got))
	}
	b.send(`["CLOSE","s"]`)
	b.expect(`["REQ","t",{"limit":0}]`, `["EOSE","t"]`)
	if s := r.State(); s.Clients != 2 || s.Subscriptions != 1 {
		t.Errorf("state %+v", s)
	}
}

func TestRelayDeletes(t *testing.T) {
	r := openRelay(t, RelayOptions{})
	mine := event(t, 1, testKind, at(0), Tag{"d", "a"})
	note := event(t, 1, 1, at(0))
	his := event(t, 2, testKind, at(0), Tag{"d", "a"})
	for _, e := range []*Event{mine, note, his} {
		if err := r.Publish(e); err != nil {
			t.Fatal(err)
		}
	}
	if err := r.Publish(event(t, 1, kindDeletion, at(4), Tag{"a", fmt.Sprintf("%d:%s:a", testKind, his.PubKey.Hex())})); err != nil || r.State().Events != 4 {
		t.Fatalf("the deletion of another's address: %d events, %v", r.State().Events, err)
	}
	gone := event(t, 1, kindDeletion, at(5),
		Tag{"a", fmt.Sprintf("%d:%s:a", testKind, mine.PubKey.Hex())}, Tag{"e", hex.EncodeToString(note.ID[:])},
		Tag{"a", fmt.Sprintf("%d:%s:a", testKind, his.PubKey.Hex())}, Tag{"e", hex.EncodeToString(his.ID[:])}, Tag{"e", "x"}, Tag{"a", "y"})
	if err := r.Publish(gone); err != nil {
		t.Fatal(err)
	}
	left := r.Events(Filter{Kinds: []Kind{testKind, 1}}, 10)
	if len(left) != 1 || left[0].ID != his.ID {
		t.Fatalf("%d events left, want only that of the other author", len(left))
	}
	for _, e := range []*Event{mine, note} {
		if err := r.Publish(e); !errors.Is(err, errDeleted) {
			t.Errorf("a deleted event came back: %v", err)
		}
	}
	if err := r.Publish(event(t, 1, testKind, at(6), Tag{"d", "a"})); err != nil {
		t.Errorf("a later event at a deleted address: %v", err)
	}
}

// TestRelayRestarts: what is there stays, through an end in the midst of
// connections, and expired events go.
func TestRelayRestarts(t *testing.T) {
	path := filepath.Join(t.TempDir(), "events")
	r := openRelay(t, RelayOptions{Path: path})
	url := serveRelay(t, r)
	c := dial(t, url)
	stays, goes := event(t, 1, testKind, at(0), Tag{"d", "a"}), event(t, 1, testKind, at(0), Tag{"d", "b"}, Tag{"expiration", fmt.Sprint(at(100))})
	deleted := event(t, 2, 1, at(0))
	gone := event(t, 2, kindDeletion, at(1), Tag{"e", hex.EncodeToString(deleted.ID[:])})
	for _, e := range []*Event{stays, goes, deleted, gone} {
		c.expect(publish(e), `["OK","`+hex.EncodeToString(e.ID[:])+`",true`)
	}
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	if n := r.State().Clients; n != 0 {
		t.Errorf("%d clients of a closed relay", n)
	}
	if _, b, err := c.Read(c.ctx); err == nil {
		t.Errorf("a closed relay says %s", b)
	}
	if q, err := http.Get("http" + strings.TrimPrefix(url, "ws")); err != nil {
		t.Error(err)
	} else {
		q.Body.Close()
	}
	later := openRelay(t, RelayOptions{Path: path, Now: func() time.Time { return testNow.Add(200 * time.Second) }})
	got := later.Events(Filter{}, 10)
	if len(got) != 2 || got[0].ID != gone.ID || got[1].ID != stays.ID {
		t.Errorf("%d events after a restart, want 2", len(got))
	}
	if err := later.Publish(deleted); !errors.Is(err, errDeleted) {
		t.Errorf("a deleted event came back after a restart: %v", err)
	}
	if err := later.Close(); err != nil {
		t.Fatal(err)
	}
	if err := later.Close(); err != nil {
		t.Errorf("closed twice: %v", err)
	}
}

func TestRelayBounds(t *testing.T) {
	now := testNow
	r := openRelay(t, RelayOptions{MaxEvents: 6, MaxPerAuthor: 3, MaxSubs: 2, Now: func() time.Time { return now }})
	for i := range 3 {
		if err := r.Publish(event(t, 1, 1, at(int64(i)), Tag{"expiration", fmt.Sprint(at(50))})); err != nil {
			t.Fatal(err)
		}
	}
	if err := r.Publish(event(t, 1, 1, at(9))); err == nil || !strings.Contains(err.Error(), "one author") {
		t.Errorf("a fourth event of one author: %v", err)
	}
	for n := byte(2); n < 5; n++ {
		if err := r.Publish(event(t, n, 1, at(0))); err != nil {
			t.Fatal(err)
		}
	}
	if err := r.Publish(event(t, 9, 1, at(0))); err == nil || !strings.Contains(err.Error(), "full") {
		t.Errorf("one event too many: %v", err)
	}
	now = now.Add(time.Minute) // three expire and make room
	if err := r.Publish(event(t, 9, 1, at(0))); err != nil {
		t.Error(err)
	}
	if n := r.State().Events; n != 4 {
		t.Errorf("%d events, want 4", n)
	}
	c := dial(t, serveRelay(t, r))
	c.expect(`["REQ","a",{"limit":0}]`, `["EOSE"`)
	c.expect(`["REQ","b",{"limit":0}]`, `["EOSE"`)
	c.expect(`["REQ","c",{"limit":0}]`, `["CLOSED","c","rate-limited`)
	c.expect(`["REQ","b",{"limit":0}]`, `["EOSE"`) // replaced, not added
	if s := r.State(); s.Subscriptions != 2 {
		t.Errorf("%d subscriptions, want 2", s.Subscriptions)
	}
}

func TestRelaySweeps(t *testing.T) {
	now := testNow
	r := openRelay(t, RelayOptions{Now: func() time.Time { return now }})
	r.Publish(event(t, 1, 1, at(0), Tag{"expiration", fmt.Sprint(at(50))}))
	r.Publish(event(t, 1, 1, at(1)))
	now = now.Add(time.Minute)
	if n := len(r.Events(Filter{}, 10)); n != 1 {
		t.Errorf("%d events are answered, want 1", n)
	}
	if err := r.store.sweep(r.now()); err != nil || r.State().Events != 1 {
		t.Errorf("%d events after the sweep, %v", r.State().Events, err)
	}
}

func TestRelayWork(t *testing.T) {
	r := openRelay(t, RelayOptions{MinWork: 8})
	if err := r.Publish(event(t, 1, 1, at(0))); err == nil || !strings.HasPrefix(err.Error(), "pow:") {
		t.Errorf("no work: %v", err)
	}
	if e := mined(t, 8); r.Publish(e) != nil {
		t.Errorf("8 bits of work: %v", r.Publish(e))
	}
	low := mined(t, 8)
	low.Tags[0][2] = "20" // claims more than was done
	low.ID = low.GetID()
	if w := Work(low); w != 0 {
		t.Errorf("work of a false claim is %d", w)
	}
}

func mined(t *testing.T, bits int) *Event {
	for i := range 100_000 {
		e := &Event{Kind: 1, CreatedAt: Timestamp(at(0)), Tags: Tags{{"nonce", fmt.Sprint(i), fmt.Sprint(bits)}}, PubKey: PubKey(event(t, 1, 1, 1).PubKey)}
		e.ID = e.GetID()
		if Work(e) >= bits {
			if err := Sign(e, ghost.Secret{31: 1}); err != nil {
				t.Fatal(err)
			}
			return e
		}
	}
	t.Fatal("no nonce found")
	return nil
}

// TestRelaySlowClient: one that listens and does not read is cut when its queue is
// full, however long a write may take, and nobody waits for it.
func TestRelaySlowClient(t *testing.T) {
	r := openRelay(t, RelayOptions{Kinds: []Kind{20001}, WriteTimeout: time.Hour, Ping: time.Hour}) // an ephemeral kind: not stored
	slow := dial(t, serveRelay(t, r))
	slow.expect(`["REQ","s",{"kinds":[20001]}]`, `["EOSE"`)
	e := event(t, 1, 20001, at(0), Tag{"x", strings.Repeat("x", 2000)}, Tag{"y", strings.Repeat("y", 2000)}, Tag{"z", strings.Repeat("z", 2000)})
	for i := 0; r.State().Clients > 0; i++ {
		if i > 200_000 {
			t.Fatal("the slow client is still there")
		}
		if err := r.Publish(e); err != nil {
			t.Fatal(err)
		}
	}
}

// TestRelayGreedyClient: one that asks and does not read is cut after a while.
func TestRelayGreedyClient(t *testing.T) {
	r := openRelay(t, RelayOptions{WriteTimeout: 100 * time.Millisecond, Burst: 10_000})
	for i := range 50 {
		if err := r.Publish(event(t, 1, 1, at(int64(i)), Tag{"x", strings.Repeat("x", 2000)}, Tag{"y", strings.Repeat("y", 2000)})); err != nil {
			t.Fatal(err)
		}
	}
	greedy := dial(t, serveRelay(t, r))
	for range 10_000 {
		w, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		err := greedy.Write(w, websocket.MessageText, []byte(`["REQ","a",{}]`))
		cancel()
		if err != nil || r.State().Clients == 0 {
			break
		}
	}
	for i := 0; r.State().Clients > 0; i++ {
		if i > 2000 {
			t.Fatal("the greedy client is still there")
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// TestRelayFlood: a client beyond its rate is read later, and others go on.
func TestRelayFlood(t *testing.T) {
	r := openRelay(t, RelayOptions{Rate: 1, Burst: 5})
	url := serveRelay(t, r)
	flood := dial(t, url)
	for range 200 {
		flood.send(`["REQ","f",{"limit":0}]`)
	}
	calm := dial(t, url)
	calm.expect(publish(event(t, 1, 1, at(0))), `["OK"`)
	answers := 0
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	for {
		if _, _, err := flood.Read(ctx); err != nil {
			break
		}
		answers++
	}
	if answers > 50 {
		t.Errorf("%d answers to a flood", answers)
	}
}

func TestRelayInforms(t *testing.T) {
	r := openRelay(t, RelayOptions{Owner: ghost.Key{1}})
	s := httptest.NewServer(r)
	defer s.Close()
	q, _ := http.NewRequest("GET", s.URL, nil)
	q.Header.Set("Accept", "application/nostr+json")
	if !Wants(q) {
		t.Error("Wants does not know a question for information")
	}
	a, err := http.DefaultClient.Do(q)
	if err != nil {
		t.Fatal(err)
	}
	defer a.Body.Close()
	var info struct {
		PubKey     string
		Limitation struct {
			MaxSubs int `json:"max_subscriptions"`
		}
	}
	if err := json.NewDecoder(a.Body).Decode(&info); err != nil || info.Limitation.MaxSubs != 16 || !strings.HasPrefix(info.PubKey, "0100") {
		t.Errorf("%+v, %v", info, err)
	}
	p, err := http.Get(s.URL)
	if err != nil {
		t.Fatal(err)
	}
	defer p.Body.Close()
	if b, _ := io.ReadAll(p.Body); p.StatusCode != 426 || !strings.Contains(string(b), "Nostr relay") {
		t.Errorf("%d %s", p.StatusCode, b)
	}
}

func TestRelayServesAlone(t *testing.T) {
	r := openRelay(t, RelayOptions{})
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- r.Serve(ctx, l) }()
	c := dial(t, "ws://"+l.Addr().String())
	c.expect(`["REQ","a",{"limit":0}]`, `["EOSE"`)
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
	if err := r.Close(); err != nil {
		t.Error(err)
	}
}
