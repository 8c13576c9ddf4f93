package engine

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"reflect"
	"strings"
	"sync"
	"testing"

	"github.com/geistnet/geist/arith"
	"github.com/geistnet/geist/internal/gguf"
	"github.com/geistnet/geist/internal/kernel"
	"github.com/geistnet/geist/internal/model"
	"github.com/geistnet/geist/internal/synth"
	"github.com/geistnet/geist/internal/tokenizer"
)

type fixture struct {
	m    *model.Model
	tok  *tokenizer.Tokenizer
	team *kernel.Team
}

func newFixture(t testing.TB, spec synth.Spec, path kernel.Path, threads int) *fixture {
	t.Helper()
	var b bytes.Buffer
	if err := synth.Write(&b, spec, nil); err != nil {
		t.Fatal(err)
	}
	f, err := gguf.Parse("test model", b.Bytes())
	if err != nil {
		t.Fatal(err)
	}
	tok, err := tokenizer.New(f)
	if err != nil {
		t.Fatal(err)
	}
	team := kernel.NewTeam(threads)
	m, err := model.Load(f, model.Options{Path: path, Team: team})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { team.Close(); m.Close() })
	return &fixture{m, tok, team}
}

func tinySpec(kind string) synth.Spec {
	s := synth.Presets["tiny"]
	s.Type, s.FF = kind, 96
	return s
}

func (f *fixture) engine(t testing.TB, o Options) *Engine {
	t.Helper()
	e, err := New(f.m, f.tok, f.team, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(e.Close)
	return e
}

func promptOf(seed uint64, n int) []int32 {
	r := rand.New(rand.NewPCG(seed, 99))
	p := make([]int32, n)
	for i := range p {
		p[i] = int32(3 + r.IntN(500))
	}
	return p
}

func request(seed uint64, promptLen, n int) Request {
	r := Request{Prompt: promptOf(seed, promptLen), MaxTokens: n, IgnoreEnd: true, TopLogProbs: -1}
	if seed%2 == 1 {
		r.Sampling.Temperature = 0.9
		r.Sampling.Seed[0] = byte(seed)
	}
	return r
}

func collect(t testing.TB, e *Engine, r Request) ([]int32, Result) {
	t.Helper()
	a, err := e.Generate(context.Background(), r)
	if err != nil {
		t.Fatal(err)
	}
	var ids []int32
	for tok, ok := a.Next(); ok; tok, ok = a.Next() {
		ids = append(ids, tok.ID)
	}
	return ids, a.Result()
}

// A session's tokens are those of its single run, whatever runs beside it,
// however prompts are chunked, with and without reuse, with few pages, on every
// path and any number of threads.
func TestTokensDependOnRequestAlone(t *testing.T) {
	lens := []int{1, 5, 63, 64, 65, 150, 200, 30}
	var want [][]int32
	for _, p := range kernel.Paths() {
		for _, threads := range []int{1, 2, 7} {
			if threads != 2 && p != kernel.Best() {
				continue
			}
			f := newFixture(t, tinySpec("q4_0"), p, threads)
			if want == nil {
				e := f.engine(t, Options{Context: 320, Sessions: 1, Batch: 512, NoReuse: true})
				for i, n := range lens {
					ids, res := collect(t, e, request(uint64(i), n, 24))
					if res.Finish != FinishLength || len(ids) != 24 {
						t.Fatalf("session %d: %+v, %d tokens", i, res, len(ids))
					}
					want = append(want, ids)
				}
			}
			for _, o := range []Options{
				{Context: 320, Sessions: 8, Batch: 512},
				{Context: 320, Sessions: 3, Batch: 7},
				{Context: 320, Sessions: 8, Batch: 64, KVBytes: 6 * int64(f.m.PageBytes())}, // sessions are set aside
			} {
				e := f.engine(t, o)
				for round := range 2 { // the second finds prefixes
					var wg sync.WaitGroup
					for i, n := range lens {
						wg.Add(1)
						go func() {
							defer wg.Done()
							ids, res := collect(t, e, request(uint64(i), n, 24))
							if res.Err != nil || !reflect.DeepEqual(ids, want[i]) {
								t.Errorf("%v, %d threads, %+v, round %d: session %d gives %v (%v), alone %v", p, threads, o, round, i, ids, res.Err, want[i])
							}
						}()
					}
					wg.Wait()
				}
				s := e.Stats()
				if o.KVBytes == 0 && s.CachedTokens == 0 {
					t.Errorf("%+v: no prefix was reused", o)
				}
				if o.KVBytes > 0 && s.Preempted == 0 {
					t.Errorf("%+v: no session had to be set aside", o)
				}
				if s.PagesUsed != 0 || s.Running != 0 || s.Waiting != 0 {
					t.Errorf("idle engine: %+v", s)
				}
			}
		}
	}
}

func TestMixtureAndWindows(t *testing.T) {
	moe := tinySpec("q8_0")
	moe.Arch, moe.Experts, moe.Used = "qwen3moe", 8, 3
	gemma := tinySpec("f16")
	gemma.Arch, gemma.Layers, gemma.Tied = "gemma3", 7, true
	memory := tinySpec("f16")
	memory.Arch, memory.Layers, memory.Tied = "geist", 3, true
	memory.Memory = &synth.Memory{Rules: []string{"hash", "product", ""}, HashHeads: 2, HashRows: 31, ProductHeads: 2, Keys: 11, KeyDim: 16, TopK: 4}
	for _, spec := range []synth.Spec{moe, gemma, memory} {
		var want [][]int32
		for _, p := range kernel.Paths() {
			f := newFixture(t, spec, p, 2)
			e := f.engine(t, Options{Context: 320, Sessions: 4, Batch: 50})
			var got [][]int32
			for i := range 3 {
				ids, res := collect(t, e, request(uint64(i), 120+i*17, 16))
				if res.Err != nil {
					t.Fatal(res.Err)
				}
				got = append(got, ids)
			}
			if want == nil {
				want = got
			} else if !reflect.DeepEqual(got, want) {
				t.Errorf("%s on %v: %v, want %v", spec.Arch, p, got, want)
			}
		}
	}
}

func TestRequestsThatDoNotFit(t *testing.T) {
	f := newFixture(t, tinySpec("q8_0"), kernel.Best(), 1)
	e := f.engine(t, Options{Context: 64})
	for name, r := range map[string]Request{
		"empty":       {},
		"too long":    {Prompt: promptOf(1, 64)},
		"answer":      {Prompt: promptOf(1, 60), MaxTokens: 5},
		"vocabulary":  {Prompt: []int32{512}},
		"negative":    {Prompt: []int32{-1}},
		"stop":        {Prompt: []int32{1}, Stop: []string{""}},
		"temperature": {Prompt: []int32{1}, Sampling: arith.Sampling{Temperature: -1}},
		"NaN":         {Prompt: []int32{1}, Sampling: arith.Sampling{TopP: float32(math.NaN())}},
		"max":         {Prompt: []int32{1}, MaxTokens: -1},
	} {
		_, err := e.Generate(context.Background(), r)
		if err == nil {
			t.Errorf("%s: accepted", name)
		}
		if (name == "too long" || name == "answer") != errors.Is(err, ErrContext) {
			t.Errorf("%s: %v", name, err)
		}
	}
	// An answer ends where the context does.
	ids, res := collect(t, e, Request{Prompt: promptOf(1, 50), IgnoreEnd: true})
	if len(ids) != 14 || res.Finish != FinishLength {
		t.Errorf("answer of %d tokens, %+v", len(ids), res)
	}
	if _, err := New(f.m, f.tok, f.team, Options{Context: 4096}); err == nil {
		t.Error("a context beyond the model's is accepted")
	}
	if _, err := New(f.m, f.tok, f.team, Options{Context: 1024, KVBytes: 1}); err == nil {
		t.Error("a KV cache that holds no session is accepted")
	}
}

func TestCancelAndClose(t *testing.T) {
	f := newFixture(t, tinySpec("q8_0"), kernel.Best(), 1)
	e := f.engine(t, Options{Context: 1000})
	ctx, cancel := context.WithCancel(context.Background())
	a, err := e.Generate(ctx, Request{Prompt: promptOf(1, 3), IgnoreEnd: true, Ahead: 2})
	if err != nil {
		t.Fatal(err)
	}
	a.Next()
	cancel()
	if res := a.Result(); res.Finish != FinishCancelled || !errors.Is(res.Err, context.Canceled) {
		t.Errorf("%+v", res)
	}
	b, err := e.Generate(context.Background(), Request{Prompt: promptOf(1, 3), IgnoreEnd: true, Ahead: 1})
	if err != nil {
		t.Fatal(err)
	}
	e.Close()
	if res := b.Result(); !errors.Is(res.Err, ErrClosed) {
		t.Errorf("%+v", res)
	}
	if _, err := e.Generate(context.Background(), Request{Prompt: promptOf(1, 3)}); !errors.Is(err, ErrClosed) {
		t.Errorf("after Close: %v", err)
	}
}

// A reader that does not read stops its own answer, not the others'.
func TestAheadPauses(t *testing.T) {
	f := newFixture(t, tinySpec("q8_0"), kernel.Best(), 1)
	e := f.engine(t, Options{Context: 500})
	slow := request(0, 10, 300)
	slow.Ahead = 4
	a, err := e.Generate(context.Background(), slow)
	if err != nil {
		t.Fatal(err)
	}
	want, _ := collect(t, e, request(0, 10, 300))
	if n := a.unread(); n > 4 {
		t.Errorf("%d tokens wait for the slow reader", n)
	}
	var got []int32
	for tok, ok := a.Next(); ok; tok, ok = a.Next() {
		got = append(got, tok.ID)
	}
	if !reflect.DeepEqual(got, want) {
		t.Error("pausing changes the answer")
	}
}

// Streamed text is that of decoding all tokens at once, and stop strings end
// it in the right place even across tokens.
func TestTextAndStops(t *testing.T) {
	f := newFixture(t, tinySpec("q8_0"), kernel.Best(), 1)
	e := f.engine(t, Options{Context: 500})
	read := func(r Request) (string, []int32, Result) {
		a, err := e.Generate(context.Background(), r)
		if err != nil {
			t.Fatal(err)
		}
		var text strings.Builder
		var ids []int32
		for tok, ok := a.Next(); ok; tok, ok = a.Next() {
			text.WriteString(tok.Text)
			ids = append(ids, tok.ID)
		}
		return text.String(), ids, a.Result()
	}
	for seed := range uint64(6) {
		r := request(seed, 20, 80)
		full, ids, _ := read(r)
		s := f.tok.NewContinuation()
		var want string
		for _, id := range ids {
			want += s.Add(id)
		}
		if want += s.Flush(); full != want {
			t.Fatalf("streamed %q, decoded %q", full, want)
		}
		for _, n := range []int{1, 2, 5, 9} {
			at := len(full) / 3
			for at > 0 && full[at]&0xc0 == 0x80 {
				at--
			}
			if at+n > len(full) {
				continue
			}
			stop := full[at : at+n]
			r.Stop = []string{"never to be seen in a text", stop}
			got, _, res := read(r)
			if res.Finish != FinishStop || got != full[:strings.Index(full, stop)] {
				t.Errorf("stop %q: %q (%v), full text %q", stop, got, res.Finish, full)
			}
		}
	}
}

func TestLogProbs(t *testing.T) {
	f := newFixture(t, tinySpec("q8_0"), kernel.Best(), 1)
	e := f.engine(t, Options{Context: 100})
	r := request(1, 10, 20)
	r.TopLogProbs = 600
	if _, err := e.Generate(context.Background(), r); err == nil {
		t.Error("600 alternatives are accepted")
	}
	r.TopLogProbs = 5
	a, err := e.Generate(context.Background(), r)
	if err != nil {
		t.Fatal(err)
	}
	for tok, ok := a.Next(); ok; tok, ok = a.Next() {
		if len(tok.Top) != 5 || tok.LogProb > 0 || tok.LogProb > tok.Top[0].LogProb {
			t.Fatalf("%+v", tok)
		}
		sum := 0.0
		for i, p := range tok.Top {
			sum += math.Exp(p.LogProb)
			if i > 0 && p.LogProb > tok.Top[i-1].LogProb {
				t.Fatalf("alternatives out of order: %+v", tok.Top)
			}
			if p.ID == tok.ID && p.LogProb != tok.LogProb {
				t.Fatalf("token %d has two probabilities: %+v", tok.ID, tok)
			}
		}
		if sum > 1+1e-6 {
			t.Fatalf("probabilities add up to %v", sum)
		}
	}
}

type onlyDigits struct {
	tok  *tokenizer.Tokenizer
	left int
}

func (d *onlyDigits) Allowed(dst []uint64) {
	clear(dst)
	for id := range int32(d.tok.Size()) {
		if p := d.tok.Piece(id); len(p) == 1 && p[0] >= '0' && p[0] <= '9' {
			dst[id/64] |= 1 << (id % 64)
		}
	}
}
func (d *onlyDigits) Accept(int32) error { d.left--; return nil }
func (d *onlyDigits) Done() bool         { return d.left == 0 }

func TestConstraint(t *testing.T) {
	f := newFixture(t, tinySpec("q8_0"), kernel.Best(), 1)
	e := f.engine(t, Options{Context: 100})
	r := request(1, 10, 50)
	r.Constraint = &onlyDigits{f.tok, 7}
	a, err := e.Generate(context.Background(), r)
	if err != nil {
		t.Fatal(err)
	}
	var text string
	for tok, ok := a.Next(); ok; tok, ok = a.Next() {
		text += tok.Text
	}
	if len(text) != 7 || strings.Trim(text, "0123456789") != "" || a.Result().Finish != FinishStop {
		t.Errorf("%q, %+v", text, a.Result())
	}
}

func TestEmbed(t *testing.T) {
	f := newFixture(t, tinySpec("q8_0"), kernel.Best(), 2)
	e := f.engine(t, Options{Context: 300, Batch: 40})
	v, err := e.Embed(context.Background(), promptOf(1, 100))
	if err != nil {
		t.Fatal(err)
	}
	u, err := f.engine(t, Options{Context: 300, NoReuse: true}).Embed(context.Background(), promptOf(1, 100))
	if err != nil || !reflect.DeepEqual(u, v) {
		t.Errorf("embedding depends on chunks: %v", err)
	}
	var n float64
	for _, x := range v {
		n += float64(x) * float64(x)
	}
	if math.Abs(n-1) > 1e-5 {
		t.Errorf("length %v", math.Sqrt(n))
	}
}

// A session whose run is void ends with an error; the others go on.
func TestVoidSession(t *testing.T) {
	spec := tinySpec("f32")
	var b bytes.Buffer
	if err := synth.Write(&b, spec, nil); err != nil {
		t.Fatal(err)
	}
	f, err := gguf.Parse("test model", b.Bytes())
	if err != nil {
		t.Fatal(err)
	}
	// Token 7's embedding overflows RMSNorm's sum of squares.
	emb := f.Tensor("token_embd.weight")
	for i := range spec.Dim {
		copy(emb.Data[(7*spec.Dim+i)*4:], []byte{0, 0, 0, 0x7e})
	}
	team := kernel.NewTeam(1)
	defer team.Close()
	m, err := model.Load(f, model.Options{Path: kernel.Best(), Team: team})
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	tok, err := tokenizer.New(f)
	if err != nil {
		t.Fatal(err)
	}
	e, err := New(m, tok, team, Options{Context: 100})
	if err != nil {
		t.Fatal(err)
	}
	defer e.Close()
	good, err := e.Generate(context.Background(), request(0, 5, 60))
	if err != nil {
		t.Fatal(err)
	}
	bad, err := e.Generate(context.Background(), Request{Prompt: []int32{9, 7, 9}})
	if err != nil {
		t.Fatal(err)
	}
	if res := bad.Result(); !errors.Is(res.Err, model.ErrVoid) {
		t.Errorf("bad session: %+v", res)
	}
	if res := good.Result(); res.Err != nil || res.Tokens != 60 {
		t.Errorf("good session: %+v", res)
	}
}

// Throughput of n sessions decoded together; GEIST_BENCH_SESSIONS-like output
// is in the metric.
func BenchmarkSessions(b *testing.B) {
	spec := synth.Presets["125m"]
	spec.Type = "q8_0"
	f := newFixture(b, spec, kernel.Best(), Threads())
	for _, n := range []int{1, 8} {
		b.Run(fmt.Sprintf("sessions=%d", n), func(b *testing.B) {
			e := f.engine(b, Options{Context: 512, Sessions: n, KVBytes: int64(n) * 8 * int64(f.m.PageBytes())})
			for b.Loop() {
				var wg sync.WaitGroup
				for i := range n {
					wg.Add(1)
					go func() { defer wg.Done(); collect(b, e, request(uint64(2*i), 4, 64)) }()
				}
				wg.Wait()
			}
			b.ReportMetric(float64(n*64*b.N)/b.Elapsed().Seconds(), "tok/s")
		})
	}
}
