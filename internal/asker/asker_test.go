package asker

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/geistnet/geist/arith"
	"github.com/geistnet/geist/ghost"
	"github.com/geistnet/geist/internal/author"
	"github.com/geistnet/geist/internal/chat"
	"github.com/geistnet/geist/internal/dialog"
	"github.com/geistnet/geist/internal/engine"
	"github.com/geistnet/geist/internal/gguf"
	"github.com/geistnet/geist/internal/job"
	"github.com/geistnet/geist/internal/kernel"
	"github.com/geistnet/geist/internal/local"
	"github.com/geistnet/geist/internal/market"
	"github.com/geistnet/geist/internal/nostr"
	"github.com/geistnet/geist/internal/pay"
	"github.com/geistnet/geist/internal/provider"
	"github.com/geistnet/geist/internal/synth"
)

const template = `{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}<assistant>`

// file is a small model with a chat template.
func file(t testing.TB) *gguf.File {
	t.Helper()
	spec := synth.Presets["tiny"]
	spec.Type, spec.FF = "q8_0", 96
	var b, out bytes.Buffer
	if err := synth.Write(&b, spec, nil); err != nil {
		t.Fatal(err)
	}
	f, err := gguf.Parse("tiny", b.Bytes())
	if err != nil {
		t.Fatal(err)
	}
	var infos []gguf.TensorInfo
	for _, x := range f.Tensors() {
		infos = append(infos, x.Info())
	}
	w, err := gguf.NewWriter(&out, append(f.Meta(), gguf.KV{Key: "tokenizer.chat_template", Value: gguf.ValueOf(template)}), infos)
	if err != nil {
		t.Fatal(err)
	}
	for _, x := range f.Tensors() {
		if err := w.WriteTensor(x.Data); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if f, err = gguf.Parse("tiny", out.Bytes()); err != nil {
		t.Fatal(err)
	}
	return f
}

func secret(n byte) ghost.Secret {
	var s ghost.Secret
	s[31], s[0] = n, 1
	return s
}

func limits(ghost.Key) (give, take pay.MilliSat) { return 1_000_000, 1_000_000 }

// house is a provider on a port of its own.
type house struct {
	*provider.Provider
	credit *pay.Credit
	server *http.Server
	url    string
	model  *local.Model
	ask    *market.Ask

	mu    sync.Mutex
	conns map[net.Conn]bool
}

// kill breaks all connections and takes no more, as a killed process does.
func (h *house) kill() {
	h.server.Close()
	h.mu.Lock()
	defer h.mu.Unlock()
	for c := range h.conns {
		c.Close()
	}
}

func newHouse(t testing.TB, n byte, wrap func(http.Handler) http.Handler) *house {
	t.Helper()
	f := file(t)
	g, err := author.Build(context.Background(), f, author.Options{Workers: 1}, nil)
	if err != nil {
		t.Fatal(err)
	}
	l, err := local.Open(context.Background(), f, local.Options{Path: kernel.Best(), Threads: 1, Engine: engine.Options{Trace: g, Sessions: 4}})
	if err != nil {
		t.Fatal(err)
	}
	e, err := provider.NewEngine(l, g)
	if err != nil {
		t.Fatal(err)
	}
	j := pay.NewMemoryJournal()
	credit, err := pay.NewCredit(secret(n), j, limits)
	if err != nil {
		t.Fatal(err)
	}
	p, err := provider.New(provider.Options{Secret: secret(n), Rails: []pay.Rail{credit}, Journal: j, Log: testLog(t)})
	if err != nil {
		t.Fatal(err)
	}
	m, err := e.Served("tiny", "q8_0", 4)
	if err != nil {
		t.Fatal(err)
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	h := &house{Provider: p, credit: credit, url: "http://" + ln.Addr().String(), model: l, conns: map[net.Conn]bool{}}
	handler := p.Handler()
	if wrap != nil {
		handler = wrap(handler)
	}
	h.server = &http.Server{Handler: handler, ConnState: func(c net.Conn, s http.ConnState) {
		h.mu.Lock()
		defer h.mu.Unlock()
		if s == http.StateClosed {
			delete(h.conns, c)
		} else {
			h.conns[c] = true
		}
	}}
	go h.server.Serve(ln)
	h.offer(t, m, n)
	t.Cleanup(func() {
		h.kill()
		p.Close()
		e.Close()
		l.Close()
	})
	return h
}

// offer signs an ask for a model and takes orders to it.
func (h *house) offer(t testing.TB, m provider.Model, n byte) {
	t.Helper()
	h.Serve(m)
	h.ask = &market.Ask{Provider: h.Key(), Name: m.Name, Created: time.Now().Unix(), Expires: time.Now().Unix() + 900, Model: m.ID, ModelName: m.Name, Quant: m.Quantisation, Context: m.Context,
		Input: 1_000_000, Output: 2_000_000, Capacity: 4, Endpoints: []string{h.url}, Rails: []string{"credit"}, Grade: m.Grade}
	ev, err := h.ask.Event(market.DefaultKinds())
	if err != nil {
		t.Fatal(err)
	}
	if err := nostr.Sign(ev, secret(n)); err != nil {
		t.Fatal(err)
	}
	if h.ask, err = market.ParseAsk(ev, market.Rules{Kinds: market.DefaultKinds(), Now: time.Now().Unix()}); err != nil {
		t.Fatal(err)
	}
	h.Offer(provider.Ask{ID: ghost.Digest(h.ask.ID), Model: m.ID, Prices: pay.Prices{Prompt: 1_000_000, Answer: 2_000_000}, Expires: time.Now().Add(15 * time.Minute)})
}

type testWriter struct{ t testing.TB }

func (w testWriter) Write(b []byte) (int, error) {
	w.t.Helper()
	w.t.Log(strings.TrimSpace(string(b)))
	return len(b), nil
}

func testLog(t testing.TB) *slog.Logger {
	if !testing.Verbose() {
		return nil
	}
	return slog.New(slog.NewTextHandler(testWriter{t}, nil))
}

var askers atomic.Int32 // each has a key of its own

func newAsker(t testing.TB, houses ...*house) (*Asker, *pay.Credit) {
	t.Helper()
	key := secret(100 + byte(askers.Add(1)))
	j := pay.NewMemoryJournal()
	credit, err := pay.NewCredit(key, j, limits)
	if err != nil {
		t.Fatal(err)
	}
	a, err := New(Options{Secret: key, Rails: []pay.Rail{credit}, Journal: j, Dir: t.TempDir(), Log: testLog(t), Asks: func() []*market.Ask {
		var list []*market.Ask
		for _, h := range houses {
			list = append(list, h.ask)
		}
		return list
	}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { a.Close() })
	return a, credit
}

func question(n int) *dialog.Question {
	seed := uint64(7)
	return &dialog.Question{ID: "q1", Model: "tiny", Messages: []chat.Message{{Role: "user", Content: "Tell me of the sea"}}, MaxTokens: n, Seed: &seed,
		Sampling: arith.Sampling{Temperature: 0.9, TopP: 1}, TopLogProbs: -1}
}

// readAll takes an answer to its end.
func readAll(x dialog.Answer) (string, error) {
	var b strings.Builder
	for {
		d, err := x.Next()
		if errors.Is(err, io.EOF) {
			return b.String(), nil
		}
		if err != nil {
			return b.String(), err
		}
		b.WriteString(d.Text)
	}
}

// A question is answered, paid for to the millisatoshi, receipted and audited.
func TestAsk(t *testing.T) {
	h := newHouse(t, 1, nil)
	a, credit := newAsker(t, h)
	q := question(100)
	q.Verify = dialog.VerifyAudit
	x, err := a.Ask(context.Background(), q)
	if err != nil {
		t.Fatal(err)
	}
	text, err := readAll(x)
	if err != nil {
		t.Fatal(err)
	}
	s := x.Summary()
	due, _ := pay.Prices{Prompt: 1_000_000, Answer: 2_000_000}.Due(s.Usage.Prompt, s.Usage.Answer)
	if text == "" || s.Cost != int64(due) || s.Verified != dialog.VerifyAudit || s.ID == "" || s.Usage.Answer == 0 {
		t.Fatalf("%q, %+v, due %d", text, s, due)
	}
	if got := credit.Balance(h.Key()); got != -due {
		t.Errorf("the asker's balance is %d, want %d", got, -due)
	}
	if got := h.credit.Balance(a.Key()); got != due {
		t.Errorf("the provider's balance is %d, want %d", got, due)
	}
	if r, err := a.Receipt(context.Background(), s.ID); err != nil || len(r) == 0 {
		t.Errorf("%s, %v", r, err)
	}
	if v := a.Verdict(s.ID); v == nil || !v.Accepted {
		t.Errorf("%+v", v)
	}
	if e := a.Entries(10); len(e) != 1 || e[0].Verdict != "passed" || e[0].PaidMsat != int64(due) {
		t.Errorf("%+v", e)
	}
	// Equal questions, equal answers.
	x, err = a.Ask(context.Background(), question(100))
	if err != nil {
		t.Fatal(err)
	}
	if again, err := readAll(x); err != nil || again != text {
		t.Errorf("%q and then %q, %v", text, again, err)
	}
}

// A provider that dies in the middle is replaced by another; the answer is the
// one that nobody interrupted, and no token is paid twice.
func TestFailover(t *testing.T) {
	h1, h2 := newHouse(t, 1, nil), newHouse(t, 2, nil)
	alone, _ := newAsker(t, h2)
	x, err := alone.Ask(context.Background(), question(120))
	if err != nil {
		t.Fatal(err)
	}
	want, err := readAll(x)
	if err != nil {
		t.Fatal(err)
	}
	whole := x.Summary()

	a, credit := newAsker(t, h1, h2)
	q := question(120)
	q.Route.Order = []string{h1.Key().String()}
	q.Verify = dialog.VerifyAudit
	if x, err = a.Ask(context.Background(), q); err != nil {
		t.Fatal(err)
	}
	var got strings.Builder
	pieces := 0
	for {
		d, err := x.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		got.WriteString(d.Text)
		if pieces++; pieces == 20 {
			h1.kill()
		}
	}
	if got.String() != want {
		t.Errorf("%q\nwant %q", got.String(), want)
	}
	s := x.Summary()
	e := a.Entries(10)
	if len(e) != 2 || e[0].Phase != job.PhaseAudited && e[0].Phase != job.PhaseSettled || e[1].Phase != job.PhaseFailed || e[0].Resumed != e[1].Tokens || e[0].Resumed == 0 {
		t.Fatalf("%+v", e)
	}
	if s.Usage.Answer != whole.Usage.Answer || s.Verified != dialog.VerifyAudit {
		t.Errorf("%+v, want %+v", s, whole)
	}
	if s.Cost > whole.Cost {
		t.Errorf("it cost %d msat with two providers, %d with one", s.Cost, whole.Cost)
	}
	if sum := -credit.Balance(h1.Key()) - credit.Balance(h2.Key()); int64(sum) != s.Cost {
		t.Errorf("the balances come to %d, the cost to %d", sum, s.Cost)
	}
}

// Without a second provider the client learns of it within a second, and is
// charged for nothing that it did not get.
func TestKilled(t *testing.T) {
	h := newHouse(t, 1, nil)
	a, credit := newAsker(t, h)
	x, err := a.Ask(context.Background(), question(120))
	if err != nil {
		t.Fatal(err)
	}
	pieces := 0
	for {
		if _, err = x.Next(); err != nil {
			break
		}
		if pieces++; pieces == 10 {
			h.kill()
		}
	}
	var e *dialog.Error
	if !errors.As(err, &e) {
		t.Fatalf("%v", err)
	}
	got := x.Summary()
	due, _ := pay.Prices{Prompt: 1_000_000, Answer: 2_000_000}.Due(got.Usage.Prompt, got.Usage.Answer)
	if paid := -credit.Balance(h.Key()); paid > due || int64(paid) != got.Cost {
		t.Errorf("paid %d of %d due, cost %d", paid, due, got.Cost)
	}
}

// A client that goes away stops the work, and pays for what it was given.
func TestCancel(t *testing.T) {
	h := newHouse(t, 1, nil)
	a, credit := newAsker(t, h)
	ctx, stop := context.WithCancel(context.Background())
	x, err := a.Ask(ctx, question(500))
	if err != nil {
		t.Fatal(err)
	}
	for range 5 {
		if _, err := x.Next(); err != nil {
			t.Fatal(err)
		}
	}
	stop()
	for {
		if _, err = x.Next(); err != nil {
			break
		}
	}
	if !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
	deadline := time.Now().Add(10 * time.Second)
	for len(a.Entries(1)) == 0 && time.Now().Before(deadline) {
		time.Sleep(10 * time.Millisecond)
	}
	e := a.Entries(1)
	if len(e) != 1 || e[0].Tokens >= 400 {
		t.Fatalf("%+v", e)
	}
	if int64(-credit.Balance(h.Key())) != e[0].PaidMsat {
		t.Errorf("the balance is %d, the account says %d", credit.Balance(h.Key()), e[0].PaidMsat)
	}
	for h.Load(h.ask.Model).Running > 0 && time.Now().Before(deadline) {
		time.Sleep(10 * time.Millisecond)
	}
	if l := h.Load(h.ask.Model); l.Running != 0 {
		t.Errorf("%+v", l)
	}
}

// Two providers that compute the same answer.
func TestReplicate(t *testing.T) {
	h1, h2 := newHouse(t, 1, nil), newHouse(t, 2, nil)
	a, _ := newAsker(t, h1, h2)
	q := question(40)
	q.Verify = dialog.VerifyReplicate
	x, err := a.Ask(context.Background(), q)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := readAll(x); err != nil {
		t.Fatal(err)
	}
	if s := x.Summary(); s.Verified != dialog.VerifyReplicate {
		t.Errorf("%+v", s)
	}
}

func TestRefusals(t *testing.T) {
	h := newHouse(t, 1, nil)
	a, _ := newAsker(t, h)
	for name, c := range map[string]struct {
		change func(*dialog.Question)
		kind   dialog.Kind
	}{
		"no such model":     {func(q *dialog.Question) { q.Model = "huge" }, dialog.NoModel},
		"no such id":        {func(q *dialog.Question) { q.Model = "ghost1nonsense" }, dialog.NoModel},
		"too long":          {func(q *dialog.Question) { q.MaxTokens = 1 << 20 }, dialog.Context},
		"quantisation":      {func(q *dialog.Question) { q.Demand.Quantisation = "q4_0" }, dialog.Mismatch},
		"only others":       {func(q *dialog.Question) { q.Route.Only = []string{strings.Repeat("ab", 32)} }, dialog.Mismatch},
		"price":             {func(q *dialog.Question) { q.Route.MaxAnswer = 1 }, dialog.Mismatch},
		"log probabilities": {func(q *dialog.Question) { q.TopLogProbs = 21 }, dialog.Invalid},
	} {
		q := question(10)
		c.change(q)
		x, err := a.Ask(context.Background(), q)
		if err == nil {
			_, err = readAll(x)
		}
		var e *dialog.Error
		if !errors.As(err, &e) || e.Kind != c.kind {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// Who may spend less than a question costs is told of both.
func TestSpend(t *testing.T) {
	h := newHouse(t, 1, nil)
	a, _ := newAsker(t, h)
	a.o.Patience.Most = 1
	x, err := a.Ask(context.Background(), question(10))
	if err == nil {
		_, err = readAll(x)
	}
	var e *dialog.Error
	if !errors.As(err, &e) || e.Kind != dialog.NoFunds || !strings.HasPrefix(e.Message, fmt.Sprintf("This may cost up to %d msat, and a request may cost at most 1 msat here: ", e.Price)) {
		t.Errorf("%v", err)
	}
}

// What fits is answered, however little room it leaves, and what does not fit is
// an error about the context, however long.
func TestLong(t *testing.T) {
	h := newHouse(t, 1, nil)
	a, _ := newAsker(t, h)
	for _, c := range []struct {
		tokens, most int
		fits         bool
	}{{h.ask.Context - 1, 0, true}, {h.ask.Context - 3, 3, true}, {h.ask.Context, 0, false}, {h.ask.Context - 3, 4, false}, {4 << 20, 0, false}, {1, 1 << 30, false}} {
		q := question(c.most)
		q.Messages, q.Tokens = nil, make([]int32, c.tokens)
		x, err := a.Ask(context.Background(), q)
		if err == nil {
			_, err = readAll(x)
		}
		var e *dialog.Error
		if c.fits && err != nil || !c.fits && (!errors.As(err, &e) || e.Kind != dialog.Context) {
			t.Errorf("%d tokens and up to %d: %v", c.tokens, c.most, err)
		}
	}
	q := question(0)
	q.Messages[0].Content = strings.Repeat("sea and ", 1<<16)
	var e *dialog.Error
	if _, err := a.Ask(context.Background(), q); !errors.As(err, &e) || e.Kind != dialog.Context {
		t.Errorf("a long message: %v", err)
	}
}

// Log probabilities are the engine's, also of an answer that two providers made.
func TestLogProbs(t *testing.T) {
	h1, h2 := newHouse(t, 1, nil), newHouse(t, 2, nil)
	a, _ := newAsker(t, h1, h2)
	q := question(100)
	q.TopLogProbs = 20
	q.Route.Order = []string{h1.Key().String()}
	x, err := a.Ask(context.Background(), q)
	if err != nil {
		t.Fatal(err)
	}
	var tokens []dialog.Token
	var text strings.Builder
	for {
		d, err := x.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		text.WriteString(d.Text)
		if tokens = append(tokens, d.Tokens...); len(tokens) >= 40 {
			h1.kill()
		}
	}
	if len(tokens) != x.Summary().Usage.Answer {
		t.Fatalf("log probabilities of %d tokens, %d were made", len(tokens), x.Summary().Usage.Answer)
	}
	for i, k := range tokens {
		if len(k.Top) != 20 || k.LogProb > 0 || k.LogProb > k.Top[0].LogProb || k.Top[1].LogProb > k.Top[0].LogProb || len(k.Bytes) == 0 {
			t.Fatalf("token %d is %+v", i, k)
		}
		sum := 0.0
		for _, o := range k.Top {
			sum += math.Exp(o.LogProb)
		}
		if sum > 1.0001 {
			t.Fatalf("the alternatives to token %d come to %g", i, sum)
		}
	}
	// They change nothing else, and who does not ask gets none.
	x, err = a.Ask(context.Background(), question(100))
	if err != nil {
		t.Fatal(err)
	}
	plain := ""
	for {
		d, err := x.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil || d.Tokens != nil {
			t.Fatalf("%+v, %v", d, err)
		}
		plain += d.Text
	}
	if plain != text.String() {
		t.Errorf("%q and without log probabilities %q", text.String(), plain)
	}
}

// Vectors are the engine's, and are paid.
func TestEmbed(t *testing.T) {
	h := newHouse(t, 1, nil)
	a, credit := newAsker(t, h)
	q := &dialog.EmbedQuestion{ID: "e1", Model: "tiny", Texts: []string{"one text", "and another"}}
	v, err := a.Embed(context.Background(), q)
	if err != nil {
		t.Fatal(err)
	}
	if len(v.Vectors) != 2 || v.Summary.Usage.Prompt == 0 {
		t.Fatalf("%+v", v)
	}
	for i, text := range q.Texts {
		ids, err := h.model.Text(text)
		if err != nil {
			t.Fatal(err)
		}
		want, err := h.model.Engine.Embed(context.Background(), ids)
		if err != nil {
			t.Fatal(err)
		}
		if !slices.Equal(v.Vectors[i], want) {
			t.Errorf("vector %d is another", i)
		}
	}
	if due := int64(v.Summary.Usage.Prompt); v.Summary.Cost != due || int64(-credit.Balance(h.Key())) != due || int64(h.credit.Balance(a.Key())) != due {
		t.Errorf("cost %d, balances %d and %d, due %d", v.Summary.Cost, credit.Balance(h.Key()), h.credit.Balance(a.Key()), due)
	}
	for range 3 { // equal ones in one second
		if _, err := a.Embed(context.Background(), q); err != nil {
			t.Error(err)
		}
	}
}

// A server that speaks OpenAI's words is served and receipted, never verified.
func TestUpstream(t *testing.T) {
	up := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		if q.URL.Path == "/v1/models" {
			io.WriteString(w, `{"data":[{"id":"theirs"}]}`)
			return
		}
		var body struct {
			Messages []struct{ Role, Content string }
			Stream   bool
		}
		if err := json.NewDecoder(q.Body).Decode(&body); err != nil || len(body.Messages) != 1 || !body.Stream {
			t.Errorf("%+v, %v", body, err)
		}
		for _, s := range []string{"You said: ", body.Messages[0].Content, " – and ", "that is all."} {
			b, _ := json.Marshal(map[string]any{"choices": []any{map[string]any{"index": 0, "delta": map[string]any{"content": s}}}})
			fmt.Fprintf(w, "data: %s\n\n", b)
			w.(http.Flusher).Flush()
		}
		io.WriteString(w, "data: {\"choices\":[{\"index\":0,\"delta\":{},\"finish_reason\":\"stop\"}]}\n\ndata: [DONE]\n\n")
	}))
	defer up.Close()
	h := newHouse(t, 1, nil)
	u, err := provider.NewUpstream(context.Background(), provider.UpstreamOptions{URL: up.URL, Model: "theirs"})
	if err != nil {
		t.Fatal(err)
	}
	h.offer(t, u.Served("", 2), 1)
	a, credit := newAsker(t, h)
	q := question(1000)
	q.Model, q.Verify = "theirs", dialog.VerifyAudit
	x, err := a.Ask(context.Background(), q)
	if err != nil {
		t.Fatal(err)
	}
	text, err := readAll(x)
	if err != nil || text != "You said: Tell me of the sea – and that is all." {
		t.Fatalf("%q, %v", text, err)
	}
	s := x.Summary()
	if s.Grade != string(ghost.Reputation) || s.Verified != dialog.VerifyReceipt || s.ID == "" || s.Cost == 0 || int64(-credit.Balance(h.Key())) != s.Cost {
		t.Errorf("%+v, balance %d", s, credit.Balance(h.Key()))
	}
	if v := a.Verdict(s.ID); v != nil && v.Accepted {
		t.Errorf("it is called verified: %+v", v)
	}
}
