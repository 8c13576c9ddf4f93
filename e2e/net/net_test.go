// Package net_test runs nodes as processes on one machine, kills them, and counts
// tokens and money on both sides.
package net_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// Prices of the providers here, in millisatoshi for a token, and the limit of a key.
const (
	promptPrice = 5
	answerPrice = 20
	credit      = 1_000_000
	window      = 32
)

// binary is built once.
var binary = sync.OnceValues(func() (string, error) {
	if b := os.Getenv("GEIST_BINARY"); b != "" {
		return b, nil
	}
	dir, err := os.MkdirTemp("", "geist-net-")
	if err != nil {
		return "", err
	}
	path := filepath.Join(dir, "geist")
	c := exec.Command("go", "build", "-o", path, "github.com/geistnet/geist/cmd/geist")
	if out, err := c.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build: %w\n%s", err, out)
	}
	return path, nil
})

// node is one process, and what it is started with again.
type node struct {
	t    *testing.T
	home string
	args []string
	cmd  *exec.Cmd
	log  bytes.Buffer

	URL      string `json:"url"`
	Provide  string `json:"provide"`
	Relay    string `json:"relay"`
	Key      string `json:"key"`
	AskerKey string `json:"asker_key"`
}

func run(t *testing.T, home string, args ...string) *exec.Cmd {
	t.Helper()
	path, err := binary()
	if err != nil {
		t.Fatal(err)
	}
	c := exec.Command(path, args...)
	c.Env = append(os.Environ(), "GEIST_HOME="+home, "GEIST_RELAYS=")
	return c
}

// serve starts a node with the built-in model.
func serve(t *testing.T, price string, more ...string) *node {
	t.Helper()
	n := &node{t: t, home: t.TempDir(), args: append([]string{"serve", "tales", "--json", "--price", price, "--threads", "1", "--credit", strconv.Itoa(credit), "--log-level", "info", "--log-format", "json"}, more...)}
	n.start("--listen", "127.0.0.1:0", "--provide", "127.0.0.1:0")
	t.Cleanup(func() {
		n.kill()
		if t.Failed() {
			t.Logf("log of %s:\n%s", n.URL, n.log.String()[max(0, n.log.Len()-4000):])
		}
	})
	return n
}

func (n *node) start(more ...string) {
	n.t.Helper()
	n.cmd = run(n.t, n.home, append(n.args, more...)...)
	n.cmd.Stderr = &n.log
	out, err := n.cmd.StdoutPipe()
	if err != nil {
		n.t.Fatal(err)
	}
	if err := n.cmd.Start(); err != nil {
		n.t.Fatal(err)
	}
	if err := json.NewDecoder(bufio.NewReader(out)).Decode(n); err != nil || n.URL == "" {
		n.kill()
		n.t.Fatalf("start: %v\n%s", err, n.log.String())
	}
}

// again starts the node at its old addresses.
func (n *node) again() {
	n.t.Helper()
	n.start("--listen", strings.TrimPrefix(n.URL, "http://"), "--provide", strings.TrimPrefix(n.Provide, "http://"))
}

// kill is SIGKILL; what the process did not write is gone.
func (n *node) kill() {
	_ = n.cmd.Process.Kill() // it may have ended
	_ = n.cmd.Wait()
}

func (n *node) get(path string, to any) error {
	w, err := http.Get(n.URL + path)
	if err != nil {
		return err
	}
	defer w.Body.Close()
	if w.StatusCode != 200 {
		return fmt.Errorf("%s: status %d", path, w.StatusCode)
	}
	return json.NewDecoder(w.Body).Decode(to)
}

type wallet struct {
	Peers []struct {
		Key     string `json:"key"`
		Role    string `json:"role"`
		Balance int64  `json:"balance_msat"`
		Room    int64  `json:"room_msat"`
	} `json:"peers"`
	Ledger []struct {
		Provider string `json:"provider"`
		Phase    string `json:"phase"`
		Code     string `json:"code"`
		Prompt   int64  `json:"prompt_tokens"`
		Resumed  int64  `json:"resumed_tokens"`
		Tokens   int64  `json:"answer_tokens"`
		Paid     int64  `json:"paid_msat"`
		Verdict  string `json:"verdict"`
	} `json:"ledger"`
}

func (n *node) wallet() (w wallet) {
	n.t.Helper()
	if err := n.get("/geist/v1/wallet", &w); err != nil {
		n.t.Fatal(err)
	}
	return w
}

// balance is what a peer owes the node, and what of its limit is left.
func (w *wallet) balance(key string) (balance, room int64) {
	room = credit
	for _, p := range w.Peers {
		if p.Key == key {
			return p.Balance, p.Room
		}
	}
	return 0, room
}

// waitFor lets something come true.
func waitFor(t *testing.T, what string, most time.Duration, is func() bool) {
	t.Helper()
	for deadline := time.Now().Add(most); !is(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("in %v it did not come to this: %s", most, what)
		}
	}
}

// sees waits until a node knows offers of providers.
func (n *node) sees(keys ...string) {
	n.t.Helper()
	waitFor(n.t, "the offers are seen", 30*time.Second, func() bool {
		var list struct {
			Providers []struct {
				Provider string `json:"provider"`
			} `json:"providers"`
		}
		if n.get("/geist/v1/providers", &list) != nil {
			return false
		}
		seen := map[string]bool{}
		for _, p := range list.Providers {
			seen[p.Provider] = true
		}
		for _, k := range keys {
			if !seen[k] {
				return false
			}
		}
		return true
	})
}

// answer is what a client of the API got.
type answer struct {
	text   string
	pieces int
	err    string // the stream's error event
	broken error  // of the connection
	done   bool   // [DONE] came
	fails  time.Time
}

// ask streams an answer; piece is called for each piece of text.
func (n *node) ask(ctx context.Context, seed, tokens int, order []string, fallbacks bool, piece func(int)) (a answer) {
	body, err := json.Marshal(map[string]any{"model": "tales", "stream": true, "seed": seed, "max_tokens": tokens, "temperature": 0.8,
		"messages": []any{map[string]string{"role": "user", "content": "Tell me a story about a fox and a crow."}},
		"provider": map[string]any{"order": order, "only": order, "allow_fallbacks": fallbacks}})
	if err != nil {
		return answer{broken: err}
	}
	q, err := http.NewRequestWithContext(ctx, "POST", n.URL+"/v1/chat/completions", bytes.NewReader(body))
	if err != nil {
		return answer{broken: err}
	}
	w, err := http.DefaultClient.Do(q)
	if err != nil {
		return answer{broken: err}
	}
	defer w.Body.Close()
	if w.StatusCode != 200 {
		b, _ := io.ReadAll(io.LimitReader(w.Body, 4096)) // for the message
		return answer{broken: fmt.Errorf("status %d: %s", w.StatusCode, b)}
	}
	lines := bufio.NewScanner(w.Body)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		data, ok := strings.CutPrefix(lines.Text(), "data: ")
		if !ok {
			continue
		}
		if data == "[DONE]" {
			a.done = true
			continue
		}
		var e struct {
			Error   *struct{ Message, Type string } `json:"error"`
			Choices []struct {
				Delta struct{ Content string } `json:"delta"`
			} `json:"choices"`
		}
		if err := json.Unmarshal([]byte(data), &e); err != nil {
			a.broken = fmt.Errorf("%q: %w", data, err)
			return a
		}
		if e.Error != nil {
			a.err, a.fails = e.Error.Message, time.Now()
		}
		for _, c := range e.Choices {
			if c.Delta.Content != "" {
				a.text += c.Delta.Content
				if a.pieces++; piece != nil {
					piece(a.pieces)
				}
			}
		}
	}
	a.broken = lines.Err()
	return a
}

// agree waits until both sides have the same balances, and gives what the asker owes.
func agree(t *testing.T, asker, provider *node) int64 {
	t.Helper()
	var owed int64
	waitFor(t, "both sides agree", 60*time.Second, func() bool {
		wa, wp := asker.wallet(), provider.wallet()
		a, _ := wa.balance(provider.Key)
		p, _ := wp.balance(asker.AskerKey)
		owed = -a
		return a+p == 0
	})
	return owed
}

// accounts checks that nothing was charged that was not delivered, nor more owed
// than the ledger says, and gives the number of jobs.
func accounts(t *testing.T, asker, provider *node, owed int64) int {
	t.Helper()
	w := asker.wallet()
	paid, n := int64(0), 0
	for _, e := range w.Ledger {
		if e.Provider != provider.Key {
			continue
		}
		n++
		worth := answerPrice * e.Tokens
		if e.Resumed == 0 && e.Tokens > 0 {
			worth += promptPrice * e.Prompt
		}
		if e.Paid > worth {
			t.Errorf("%d msat were charged for %d prompt and %d answer tokens (%d resumed), %s", e.Paid, e.Prompt, e.Tokens, e.Resumed, e.Code)
		}
		paid += worth
	}
	if owed > paid {
		t.Errorf("%d msat are owed, what was delivered is worth %d", owed, paid)
	}
	return n
}

// A client that knows a relay's URL and nothing else gets an answer, pays, and
// checks it; both sides agree, also after a restart.
func TestChat(t *testing.T) {
	p := serve(t, "5,20")
	home := t.TempDir()
	chat := func(seed string) (a struct {
		Answer   string
		Provider string
		Tokens   int64 `json:"answer_tokens"`
		Prompt   int64 `json:"prompt_tokens"`
		Cost     int64 `json:"cost_msat"`
		Verified string
		Receipt  string
		Verdict  *struct{ Accepted bool }
	}) {
		c := run(t, home, "chat", "--json", "--relay", p.Relay, "--seed", seed, "--max-tokens", "60", "Tell me a story about a goose.")
		var errs bytes.Buffer
		c.Stderr = &errs
		out, err := c.Output()
		if err != nil {
			t.Fatalf("%v\n%s", err, errs.String())
		}
		if err := json.Unmarshal(out, &a); err != nil {
			t.Fatalf("%s: %v", out, err)
		}
		return a
	}
	a := chat("7")
	if a.Provider != p.Key || a.Tokens == 0 || a.Cost != promptPrice*a.Prompt+answerPrice*a.Tokens || a.Verified != "audit" || a.Verdict == nil || !a.Verdict.Accepted || a.Receipt == "" {
		t.Fatalf("%+v", a)
	}
	if b := chat("7"); b.Answer != a.Answer {
		t.Errorf("the same question and seed gave %q and %q", a.Answer, b.Answer)
	}
	sum := func() (sum int64) {
		w := p.wallet()
		for _, x := range w.Peers {
			sum += x.Balance
		}
		return sum
	}
	if got := sum(); got != 2*a.Cost {
		t.Errorf("the provider is owed %d msat, two answers cost %d", got, 2*a.Cost)
	}
	p.kill()
	p.again()
	if got := sum(); got != 2*a.Cost {
		t.Errorf("after a restart the provider is owed %d msat, two answers cost %d", got, 2*a.Cost)
	}
	if b := chat("7"); b.Answer != a.Answer || sum() != 3*a.Cost {
		t.Errorf("after a restart: %q, %d msat owed", b.Answer, sum())
	}
}

// A provider that is killed in the middle is replaced, and the answer is the same;
// where nobody can replace it the client is told at once.
func TestProviderKilled(t *testing.T) {
	asker := serve(t, "900,900")
	one := serve(t, "5,20", "--relay", asker.Relay)
	two := serve(t, "5,20", "--relay", asker.Relay)
	asker.sees(one.Key, two.Key)
	ctx := context.Background()
	want := asker.ask(ctx, 11, 160, []string{two.Key}, false, nil)
	if want.broken != nil || want.err != "" || !want.done || want.pieces < 40 {
		t.Fatalf("%+v", want)
	}
	got := asker.ask(ctx, 11, 160, []string{one.Key, two.Key}, true, func(n int) {
		if n == 20 {
			one.kill()
		}
	})
	if got.text != want.text || got.err != "" || !got.done {
		t.Errorf("%+v\nwithout the kill %+v", got, want)
	}
	w := asker.wallet()
	if e := w.Ledger; len(e) != 3 || e[0].Provider != two.Key || e[0].Resumed == 0 || e[1].Provider != one.Key || e[1].Tokens != e[0].Resumed || e[0].Tokens+e[0].Resumed != e[2].Tokens || e[0].Paid+e[1].Paid > e[2].Paid {
		t.Errorf("%+v", e)
	}
	one.again()
	accounts(t, asker, one, agree(t, asker, one))
	accounts(t, asker, two, agree(t, asker, two))

	var killed time.Time
	asker.sees(two.Key)
	got = asker.ask(ctx, 12, 160, []string{two.Key}, false, func(n int) {
		if n == 20 {
			killed = time.Now()
			two.kill()
		}
	})
	if got.err == "" || got.broken != nil {
		t.Fatalf("without a second provider: %+v", got)
	}
	t.Logf("the client was told after %v: %s", got.fails.Sub(killed), got.err)
	if took := got.fails.Sub(killed); took > 5*time.Second { // 1 s on a machine with nothing else to do
		t.Errorf("the client was told after %v", took)
	}
	two.again()
	accounts(t, asker, two, agree(t, asker, two))
	for _, n := range []*node{asker, one, two} {
		n.kill()
		n.again()
	}
	agree(t, asker, one)
	agree(t, asker, two)
}

// Both sides are killed at random moments. GEIST_KILLS says how often.
func TestKills(t *testing.T) {
	kills := 6
	if s := os.Getenv("GEIST_KILLS"); s != "" {
		n, err := strconv.Atoi(s)
		if err != nil {
			t.Fatal(err)
		}
		kills = n
	}
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 1))
	relay := serve(t, "900,900")
	asker := serve(t, "900,900", "--relay", relay.Relay)
	p := serve(t, "5,20", "--relay", relay.Relay)
	jobs, lastOwed := 0, int64(0)
	for i := range kills {
		asker.sees(p.Key)
		victim := asker
		if r.IntN(2) == 0 {
			victim = p
		}
		ctx, stop := context.WithTimeout(context.Background(), time.Minute)
		var work sync.WaitGroup
		for k := range 1 + r.IntN(3) {
			work.Go(func() { asker.ask(ctx, 100*i+k, 40+10*k, []string{p.Key}, false, nil) })
		}
		time.Sleep(time.Duration(r.IntN(1500)) * time.Millisecond)
		victim.kill()
		work.Wait()
		stop()
		victim.again()
		asker.sees(p.Key)
		owed := agree(t, asker, p)
		if owed < lastOwed {
			t.Fatalf("kill %d: %d msat were owed, and now %d", i, lastOwed, owed)
		}
		lastOwed = owed
		jobs += 3
		// What the provider risks: of each job that broke off, prompt and window.
		wp := p.wallet()
		balance, room := wp.balance(asker.AskerKey)
		if held, most := credit-room-balance, int64(jobs)*(promptPrice*100+answerPrice*window); held > most {
			t.Errorf("kill %d: %d msat are held, at most %d may be lost", i, held, most)
		}
	}
	n := accounts(t, asker, p, agree(t, asker, p))
	t.Logf("%d kills, %d jobs in the ledger, %d msat owed", kills, n, lastOwed)
}

// SIGTERM lets an answer end.
func TestDrain(t *testing.T) {
	asker := serve(t, "900,900")
	p := serve(t, "5,20", "--relay", asker.Relay)
	asker.sees(p.Key)
	got := asker.ask(context.Background(), 3, 100, []string{p.Key}, false, func(n int) {
		if n == 5 {
			_ = p.cmd.Process.Signal(syscall.SIGTERM)
		}
	})
	if got.err != "" || got.broken != nil || !got.done {
		t.Errorf("%+v", got)
	}
	if err := p.cmd.Wait(); err != nil {
		t.Errorf("it ended with %v", err)
	}
	p.again()
	accounts(t, asker, p, agree(t, asker, p))
}
