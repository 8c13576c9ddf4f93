package node

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil/promlint"

	"github.com/geistnet/geist/ghost"
	"github.com/geistnet/geist/internal/author"
	"github.com/geistnet/geist/internal/nostr"
	"github.com/geistnet/geist/internal/store"
	"github.com/geistnet/geist/internal/tales"
)

// log is a writer for several goroutines.
type safeLog struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *safeLog) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(b)
}

func (l *safeLog) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// running starts a node with the built-in model that logs everything.
func running(t *testing.T, change func(*Config)) (*Node, *safeLog) {
	t.Helper()
	return runningAs(t, "a secret key that is for tests..", change)
}

// runningAs is running with a secret key of 32 characters.
func runningAs(t *testing.T, key string, change func(*Config)) (*Node, *safeLog) {
	t.Helper()
	return runningAt(t, time.Now, key, change)
}

// runningAt is runningAs by the clock now.
func runningAt(t *testing.T, now func() time.Time, key string, change func(*Config)) (*Node, *safeLog) {
	t.Helper()
	c := Default(filepath.Join(t.TempDir(), "node"))
	c.Listen, c.Provide = "127.0.0.1:0", "127.0.0.1:0"
	c.Models = []Offer{{Model: "tales", Prompt: 5_000_000, Answer: 20_000_000}}
	if change != nil {
		change(&c)
	}
	log := &safeLog{}
	var secret ghost.Secret
	copy(secret[:], key)
	n, err := Start(t.Context(), c, Parts{Secret: secret, Version: "test", Now: now, Log: slog.New(slog.NewJSONHandler(log, &slog.HandlerOptions{Level: slog.LevelDebug})),
		Open: func(ctx context.Context, ref string) (*Opened, error) {
			f, err := tales.Open()
			if err != nil {
				return nil, err
			}
			g, err := author.Build(ctx, f, author.Options{}, nil)
			return &Opened{File: f, Ghost: g, Name: ref, Quantisation: "q8_0"}, err
		}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := n.Close(); err != nil {
			t.Error(err)
		}
	})
	return n, log
}

func fetch(t *testing.T, method, url, key, body string) (int, string) {
	t.Helper()
	q, err := http.NewRequestWithContext(t.Context(), method, url, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	if key != "" {
		q.Header.Set("Authorization", "Bearer "+key)
	}
	r, err := http.DefaultClient.Do(q)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Body.Close()
	b, err := io.ReadAll(r.Body)
	if err != nil {
		t.Fatal(err)
	}
	return r.StatusCode, string(b)
}

const (
	tellingKey    = "sesame-0123456789abcdef"
	tellingPrompt = "the quetzal hid seven porcelain kazoos"
)

// TestMetrics: on a node that has answered, the metrics have names and units as
// Prometheus wants them, and each is in the table of docs/operations.md.
func TestMetrics(t *testing.T) {
	n, _ := running(t, nil)
	askOnce(t, n, "")
	code, text := fetch(t, "GET", n.URL()+"/metrics", "", "")
	if code != http.StatusOK {
		t.Fatalf("status %d", code)
	}
	problems, err := promlint.New(strings.NewReader(text)).Lint()
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range problems {
		t.Errorf("%s: %s", p.Metric, p.Text)
	}
	doc, err := os.ReadFile("../../docs/operations.md")
	if err != nil {
		t.Fatal(err)
	}
	names := regexp.MustCompile(`(?m)^# TYPE (\S+)`).FindAllStringSubmatch(text, -1)
	if len(names) < 15 {
		t.Errorf("only %d metrics", len(names))
	}
	var have []string
	for _, m := range names {
		have = append(have, m[1])
		if !strings.HasPrefix(m[1], "geist_") {
			t.Errorf("%s does not begin with geist_", m[1])
		}
		if !strings.Contains(string(doc), "`"+m[1]+"`") {
			t.Errorf("docs/operations.md does not name %s", m[1])
		}
	}
	for _, m := range regexp.MustCompile("(?m)^\\| `(geist_[a-z_]+)`").FindAllStringSubmatch(string(doc), -1) {
		if !slices.Contains(have, m[1]) {
			t.Errorf("docs/operations.md names %s, which a node that has answered does not have", m[1])
		}
	}
	for _, name := range []string{"geist_time_to_first_token_seconds_count", "geist_provider_queue_seconds_count", `geist_payments_msat_total{direction="out"}`} {
		if !regexp.MustCompile(`(?m)^` + regexp.QuoteMeta(name) + `[^\n]* [1-9]`).MatchString(text) {
			t.Errorf("%s has not counted the answer", name)
		}
	}
}

func askOnce(t *testing.T, n *Node, key string) {
	t.Helper()
	code, text := fetch(t, "POST", n.URL()+"/v1/chat/completions", key, fmt.Sprintf(`{"model":"tales","max_tokens":8,"messages":[{"role":"user","content":%q}]}`, tellingPrompt))
	if code != http.StatusOK || !strings.Contains(text, `"finish_reason"`) {
		t.Fatalf("status %d: %s", code, text)
	}
}

// TestReady: a node is ready when it knows an offer, and not before.
func TestReady(t *testing.T) {
	n, _ := running(t, func(c *Config) { c.Models = nil })
	if code, text := fetch(t, "GET", n.URL()+"/healthz", "", ""); code != http.StatusOK {
		t.Errorf("alive: %d %s", code, text)
	}
	code, text := fetch(t, "GET", n.URL()+"/readyz", "", "")
	if code != http.StatusServiceUnavailable || !strings.Contains(text, "no provider is known yet") {
		t.Errorf("ready without an offer: %d %s", code, text)
	}
	if err := n.Offer(t.Context(), Offer{Model: "tales"}, nil); err != nil {
		t.Fatal(err)
	}
	if code, text := fetch(t, "GET", n.URL()+"/readyz", "", ""); code != http.StatusOK {
		t.Errorf("not ready with an offer: %d %s", code, text)
	}
	id := n.serving[0].model.ID
	if err := n.Withdraw(t.Context(), id); err != nil {
		t.Fatal(err)
	}
	if code, text := fetch(t, "GET", n.URL()+"/readyz", "", ""); code != http.StatusServiceUnavailable {
		t.Errorf("ready after the offer was withdrawn: %d %s", code, text)
	}
}

// TestLogTellsNothing: what was asked and answered, and keys, are in no log.
func TestLogTellsNothing(t *testing.T) {
	n, log := running(t, func(c *Config) { c.Keys = []string{tellingKey} })
	askOnce(t, n, tellingKey)
	fetch(t, "POST", n.URL()+"/v1/chat/completions", tellingKey, `{"messages":"`+tellingPrompt+`"}`)
	fetch(t, "POST", n.URL()+"/api/generate", tellingKey, fmt.Sprintf(`{"model":"tales","prompt":%q,"options":{"num_predict":4}}`, tellingPrompt))
	fetch(t, "GET", n.URL()+"/v1/models", "wrong-"+tellingKey, "")
	fetch(t, "GET", n.URL()+"/v1/models?"+strings.ReplaceAll(tellingPrompt, " ", "+"), tellingKey, "")
	text := log.String()
	if strings.Count(text, `"msg":"request"`) < 5 {
		t.Errorf("the log does not have the requests: %s", text)
	}
	secret := n.parts.Secret
	for _, s := range append(strings.Fields(tellingPrompt)[1:], tellingKey, "sesame", string(secret[:]), fmt.Sprintf("%x", secret[:])) {
		if s != "hid" && s != "seven" && strings.Contains(text, s) {
			t.Errorf("the log holds %q", s)
		}
	}
}

// TestDoctor: a machine without a node and one with a node are described, and
// what is wrong is found.
func TestDoctor(t *testing.T) {
	look := func(d *Doctor) map[string][]Finding {
		out := map[string][]Finding{}
		for _, f := range d.Run(t.Context()) {
			out[f.Check] = append(out[f.Check], f)
			if f.Text == "" || f.Status == Bad && f.Next == "" {
				t.Errorf("%+v says not what is wrong, or not what to do", f)
			}
		}
		return out
	}
	worst := func(list []Finding, status string) string {
		for _, f := range list {
			if f.Status == status {
				return f.Text
			}
		}
		return ""
	}
	home := t.TempDir()
	s, err := store.Open(filepath.Join(home, "models"), store.Options{})
	if err != nil {
		t.Fatal(err)
	}
	d := &Doctor{Config: Default(filepath.Join(home, "node")), ConfigFile: filepath.Join(home, "config.json"), Store: s, KeyPath: filepath.Join(home, "node.key"), BuiltIn: "tales", Now: time.Now}
	d.Config.Listen, d.Config.Provide = "127.0.0.1:0", "127.0.0.1:0"
	found := look(d)
	for check, list := range found {
		if text := worst(list, Bad); text != "" {
			t.Errorf("a fresh machine: %s: %s", check, text)
		}
	}
	for _, check := range []string{"configuration", "processor", "memory", "disk", "clock", "key", "models", "ports", "node", "relays", "money"} {
		if len(found[check]) == 0 {
			t.Errorf("nothing is said of %s", check)
		}
	}

	n, _ := running(t, nil)
	d.Config = n.cfg
	d.Config.Listen, d.Config.Provide = n.listen.Addr().String(), n.provide.Addr().String()
	waitUntil(t, func() bool { // the relay gets the ask a moment after the start
		b, err := json.Marshal(d.Run(t.Context()))
		return err == nil && strings.Contains(string(b), "1 of them of this node")
	})
	found = look(d)
	for check, list := range found {
		if text := worst(list, Bad); text != "" {
			t.Errorf("beside a node: %s: %s", check, text)
		}
	}
	if b, _ := json.Marshal(found); !strings.Contains(string(b), "a node has been running for") || !strings.Contains(string(b), "1 of them of this node") || !strings.Contains(string(b), "in use for API and page by the geist that is running") {
		t.Errorf("the running node was not seen: %s", b)
	}

	// Another home's node is not taken for this one's, and a relay that only flags
	// named is looked at.
	d.Config = Default(filepath.Join(home, "other"))
	d.Config.Listen, d.Config.Provide = n.listen.Addr().String(), n.provide.Addr().String()
	found = look(d)
	if d.running != nil || !strings.Contains(worst(found["node"], Good), "no node is running with the state in "+d.Config.Dir) || !strings.Contains(worst(found["ports"], Warning), "is in use by a geist that has another state") {
		t.Errorf("beside another's node: %+v, %+v", found["node"], found["ports"])
	}
	lost, _ := running(t, func(c *Config) { c.Relays, c.Keys = []string{"ws://127.0.0.1:1/relay"}, []string{tellingKey} })
	d.Config = Default(lost.cfg.Dir)
	d.Config.Listen, d.Config.Provide = "127.0.0.1:0", "127.0.0.1:0"
	if found = look(d); !strings.Contains(worst(found["relays"], Bad), "ws://127.0.0.1:1/relay cannot be reached") || !strings.Contains(worst(found["node"], Good), "a node has been running") {
		t.Errorf("a relay of the flags: %+v, %+v", found["relays"], found["node"])
	}
	waitUntil(t, func() bool { return lost.Status().Relays[1].Error != "" })
	if r := lost.Status().Relays; len(r) != 2 || r[1].Connected || !strings.Contains(r[1].Next, "nothing listens there on this machine") {
		t.Errorf("relays %+v", r)
	}

	// What is wrong is found, each by its own check.
	d.Config = Default(filepath.Join(home, "node"))
	d.Config.Listen, d.Config.Relays, d.Config.Relay = n.provide.Addr().String(), []string{"ws://127.0.0.1:1/relay"}, false
	d.Config.Provide = ""
	d.Config.Models = []Offer{{Model: "nothing"}, {Model: "x", Upstream: "http://127.0.0.1:1"}}
	if err := os.WriteFile(d.KeyPath, []byte("no key"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(filepath.Join(home, "node", "ask"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(home, "node", "ask", "journal"), []byte("this is no journal of money"), 0o600); err != nil {
		t.Fatal(err)
	}
	found = look(d)
	for check, want := range map[string]string{"configuration": "no address where jobs are taken", "key": "", "models": "nothing", "relays": "127.0.0.1:1", "money": "journal"} {
		if text := worst(found[check], Bad); text == "" || !strings.Contains(text, want) {
			t.Errorf("%s: %q, want a failure with %q", check, text, want)
		}
	}
}

func waitUntil(t *testing.T, f func() bool) {
	t.Helper()
	for range 1000 {
		if f() {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Fatal("it did not come")
}

// TestWalletLeft: the wallet says of a client how much more it may come to owe, of a
// provider how much more this node may, and of this node itself that nothing limits it.
func TestWalletLeft(t *testing.T) {
	n, _ := running(t, nil)
	askOnce(t, n, "")
	wallet := func() map[string]peerJSON {
		_, text := fetch(t, "GET", n.URL()+"/geist/v1/wallet", "", "")
		var w struct{ Peers []peerJSON }
		if err := json.Unmarshal([]byte(text), &w); err != nil {
			t.Fatal(err)
		}
		out := map[string]peerJSON{}
		for _, p := range w.Peers {
			out[p.Role+p.Key] = p
		}
		return out
	}
	own := wallet()
	if len(own) != 2 {
		t.Fatalf("%+v", own)
	}
	for _, p := range own {
		if !p.Own || p.Left != ownLimit {
			t.Errorf("%+v", p)
		}
	}
	// Another node asks this one.
	away, _ := runningAs(t, "another key that is for tests...", func(c *Config) {
		c.Relays, c.Models, c.Provide, c.Relay = []string{n.RelayURL()}, nil, "", false
		c.Debt = 100_000
	})
	waitUntil(t, func() bool { return len(away.view.Asks()) > 0 })
	askOnce(t, away, "")
	_, text := fetch(t, "GET", away.URL()+"/geist/v1/wallet", "", "")
	var w struct{ Peers []peerJSON }
	if err := json.Unmarshal([]byte(text), &w); err != nil || len(w.Peers) != 1 {
		t.Fatalf("%v: %s", err, text)
	}
	if p := w.Peers[0]; p.Own || p.Role != "provider" || p.Balance >= 0 || p.Left != 100_000+p.Balance || p.Npub != nostr.PublicText(n.Key()) {
		t.Errorf("a provider: %+v", p)
	}
	asks := "client" + away.asker.Key().String()
	if p := wallet()[asks]; p.Own || p.Balance <= 0 || p.Left != p.Room || p.Left >= n.cfg.Credit {
		t.Errorf("a client: %+v", p)
	}
}

// TestJobsBounded: what jobs_per_client and jobs_waiting do not admit is refused
// before its stream begins, with the time after which to ask again.
func TestJobsBounded(t *testing.T) {
	for _, c := range []struct {
		name     string
		sessions int
		change   func(*Config)
		askers   []int  // which node gives each job; the last is refused
		after    string // seconds
		why      string
	}{
		{"of one client", 4, func(c *Config) { c.JobsPerClient = 2 }, []int{0, 0, 0}, "1", "The provider has no free place now. 2 requests of this key are here already."},
		{"that wait", 1, func(c *Config) { c.JobsWaiting = 1 }, []int{0, 1, 2}, "2", "The provider has no free place now. 1 requests wait."},
	} {
		t.Run(c.name, func(t *testing.T) {
			hold := make(chan struct{})
			up := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
				if q.URL.Path == "/v1/models" {
					_, _ = io.WriteString(w, `{"data":[{"id":"far"}]}`)
					return
				}
				say(w, "Once")
				select {
				case <-hold:
				case <-q.Context().Done():
				}
				_, _ = io.WriteString(w, "data: [DONE]\n\n")
			}))
			defer up.Close()
			n, _ := running(t, func(cfg *Config) {
				cfg.Models = []Offer{{Model: "far", Upstream: up.URL, Sessions: c.sessions, Context: 2048}}
				cfg.Verify = "none"
				c.change(cfg)
			})
			nodes := []*Node{n}
			for i := range 2 {
				away, _ := runningAs(t, fmt.Sprintf("key %d of others that is for tests", i), func(cfg *Config) {
					cfg.Relays, cfg.Models, cfg.Provide, cfg.Relay, cfg.Verify = []string{n.RelayURL()}, nil, "", false, "none"
				})
				nodes = append(nodes, away)
			}
			for _, x := range nodes {
				waitUntil(t, func() bool { return len(x.view.Asks()) > 0 })
			}
			var work sync.WaitGroup
			defer work.Wait()
			defer close(hold)
			last := len(c.askers) - 1
			for i, at := range c.askers[:last] {
				work.Go(func() {
					if code, text := fetch(t, "POST", nodes[at].URL()+"/v1/chat/completions", "", far); code != http.StatusOK || !strings.Contains(text, "[DONE]") || strings.Contains(text, `"error"`) {
						t.Errorf("one that was admitted: %d %s", code, text)
					}
				})
				waitUntil(t, func() bool {
					l := n.provider.Load(n.serving[0].model.ID)
					return l.Running+l.Waiting == i+1
				})
			}
			r, err := http.Post(nodes[c.askers[last]].URL()+"/v1/chat/completions", "application/json", strings.NewReader(far))
			if err != nil {
				t.Fatal(err)
			}
			defer r.Body.Close()
			b, err := io.ReadAll(r.Body)
			if err != nil || r.StatusCode != http.StatusTooManyRequests || r.Header.Get("Retry-After") != c.after || !strings.Contains(string(b), c.why) {
				t.Errorf("%d, after %q, %v: %s", r.StatusCode, r.Header.Get("Retry-After"), err, b)
			}
		})
	}
	for _, bad := range []func(*Config){func(c *Config) { c.JobsPerClient = 0 }, func(c *Config) { c.JobsWaiting = maxJobs + 1 }} {
		c := Default("/state")
		if bad(&c); c.Check() == nil {
			t.Errorf("%+v", c)
		}
	}
}
