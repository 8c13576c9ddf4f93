package engine

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"math"
	"math/rand/v2"
	"reflect"
	"runtime"
	"slices"
	"sync"
	"testing"

	"github.com/geistnet/geist/internal/gguf"
	"github.com/geistnet/geist/internal/kernel"
	"github.com/geistnet/geist/internal/model"
	"github.com/geistnet/geist/internal/synth"
	"github.com/geistnet/geist/internal/tokenizer"
	"github.com/geistnet/geist/merkle"
)

// A reader that never reads keeps neither the seat nor the pages that others
// wait for, and has its whole answer afterwards.
func TestUnreadAnswersDoNotBlock(t *testing.T) {
	f := newFixture(t, tinySpec("q8_0"), kernel.Best(), 1)
	for name, o := range map[string]Options{
		"seats": {Context: 320, Sessions: 2, Batch: 64},
		"pages": {Context: 320, Sessions: 8, Batch: 64, KVBytes: 5 * int64(f.m.PageBytes())},
		"both":  {Context: 320, Sessions: 2, Batch: 64, KVBytes: 5 * int64(f.m.PageBytes()), NoReuse: true},
	} {
		t.Run(name, func(t *testing.T) {
			alone := f.engine(t, Options{Context: 320, Sessions: 1})
			var want [][]int32
			for i := range uint64(5) {
				ids, _ := collect(t, alone, request(i, 130, 100))
				want = append(want, ids)
			}
			e := f.engine(t, o)
			var slow []*Answer
			for i := range uint64(4) {
				r := request(i, 130, 100)
				r.Ahead = 1 + int(i)
				a, err := e.Generate(context.Background(), r)
				if err != nil {
					t.Fatal(err)
				}
				slow = append(slow, a)
			}
			if ids, res := collect(t, e, request(4, 130, 100)); res.Err != nil || !reflect.DeepEqual(ids, want[4]) {
				t.Errorf("beside answers that nobody reads: %v (%v), want %v", ids, res.Err, want[4])
			}
			for i, a := range slices.Backward(slow) {
				var ids []int32
				for tok, ok := a.Next(); ok; tok, ok = a.Next() {
					ids = append(ids, tok.ID)
				}
				if !reflect.DeepEqual(ids, want[i]) {
					t.Errorf("answer %d, read late: %v, want %v", i, ids, want[i])
				}
			}
		})
	}
}

// An answer's end is told when the snapshot no longer counts it.
func TestStatsAtTheEnd(t *testing.T) {
	f := newFixture(t, tinySpec("q8_0"), kernel.Best(), 1)
	e := f.engine(t, Options{Context: 100})
	for i := range 300 {
		a, err := e.Generate(context.Background(), request(0, 1, 1+i%2))
		if err != nil {
			t.Fatal(err)
		}
		for _, ok := a.Next(); ok; _, ok = a.Next() {
		}
		if s := e.Stats(); s.PagesUsed != 0 || s.Running != 0 || s.Waiting != 0 {
			t.Fatalf("after the end: %+v", s)
		}
	}
}

// Roots found in the cache continue those that a session that was set aside
// had computed, also in the middle of a page.
func TestAttachContinuesRoots(t *testing.T) {
	for known := range 3*model.PagePositions + 1 {
		p := newPool(1, 8, true, func(n int) ([]byte, error) { return make([]byte, n), nil })
		history := promptOf(1, 3*model.PagePositions+1)
		first := &session{history: history}
		var roots []merkle.Hash
		for i := range history[:len(history)-1] {
			roots = append(roots, merkle.Hash{byte(i), 1})
		}
		if ok, err := first.reserve(p, len(history)); !ok || err != nil {
			t.Fatal(ok, err)
		}
		first.roots, first.plain = roots, roots
		first.advance(p, len(history)-1)
		first.release(p)
		s := &session{history: history}
		s.roots, s.plain = slices.Clone(roots[:known]), slices.Clone(roots[:known])
		s.attach(p)
		if s.done != 3*model.PagePositions || !reflect.DeepEqual(s.roots, roots) || !reflect.DeepEqual(s.plain, roots) {
			t.Fatalf("%d roots known: %d positions and %d roots afterwards, want %d", known, s.done, len(s.roots), len(roots))
		}
		s.release(p)
		// Pages are taken back from the end of a prefix.
		for range p.available() - 2 {
			if g, err := p.take(); g == nil || err != nil {
				t.Fatal(err)
			}
		}
		if s = (&session{history: history}); true {
			if s.attach(p); s.done != 2*model.PagePositions {
				t.Fatalf("with two pages left, %d positions are found", s.done)
			}
		}
	}
}

// The engine keeps no hold of what a caller may change.
func TestPromptIsCopied(t *testing.T) {
	f := newFixture(t, tinySpec("q8_0"), kernel.Best(), 1)
	e := f.engine(t, Options{Context: 100, NoReuse: true})
	want, _ := collect(t, e, request(0, 20, 10))
	for range 20 {
		r := request(0, 20, 10)
		a, err := e.Generate(context.Background(), r)
		clear(r.Prompt)
		if err != nil {
			t.Fatal(err)
		}
		var ids []int32
		for tok, ok := a.Next(); ok; tok, ok = a.Next() {
			ids = append(ids, tok.ID)
		}
		if !reflect.DeepEqual(ids, want) {
			t.Fatalf("the prompt changed under way: %v, want %v", ids, want)
		}
	}
}

// pressed is what a session under pressure should give.
type pressed struct {
	ids   []int32
	trace merkle.Hash
}

// Dozens of sessions of all kinds at once, more than there are seats and
// pages: slow readers, cancelled ones, stop strings, constraints, void ones,
// embeddings. Each gives what it gives alone, and nothing is left behind.
func TestPressure(t *testing.T) {
	spec := tinySpec("f32")
	var b bytes.Buffer
	if err := synth.Write(&b, spec, nil); err != nil {
		t.Fatal(err)
	}
	file, err := gguf.Parse("test model", b.Bytes())
	if err != nil {
		t.Fatal(err)
	}
	const void = 7 // a token whose embedding overflows
	emb := file.Tensor("token_embd.weight")
	for i := range spec.Dim {
		binary.LittleEndian.PutUint32(emb.Data[(void*spec.Dim+i)*4:], math.Float32bits(1e38))
	}
	tok, err := tokenizer.New(file)
	if err != nil {
		t.Fatal(err)
	}
	goroutines := runtime.NumGoroutine()
	team := kernel.NewTeam(1)
	m, err := model.Load(file, model.Options{Path: kernel.Best(), Team: team})
	if err != nil {
		t.Fatal(err)
	}
	f := &fixture{m, tok, team}
	desc, err := model.Describe(file, model.Options{})
	if err != nil {
		t.Fatal(err)
	}
	ask := func(kind, seed int) Request {
		r := request(uint64(seed), 1+seed*37%200, 1+seed*13%90)
		for i, id := range r.Prompt {
			if id == void {
				r.Prompt[i]++
			}
		}
		switch kind {
		case 0:
			r.Ahead = 1 + seed%5
		case 1:
			r.Constraint = &onlyDigits{tok, 5}
		case 2:
			r.Stop = []string{"e", "zzzz"}
		case 3:
			r.Prompt[len(r.Prompt)/2] = void
		case 4:
			r.TopLogProbs = 3
		}
		return r
	}
	const kinds, seeds = 8, 4 // 5: cancelled, 6: an embedding, 7: plain
	want := map[[2]int]pressed{}
	var vectors [seeds][]float32
	alone, err := New(m, tok, team, Options{Context: 320, Sessions: 1, NoReuse: true, Trace: desc})
	if err != nil {
		t.Fatal(err)
	}
	for kind := range kinds {
		for seed := range seeds {
			ids, res := collect(t, alone, ask(kind, seed))
			if (kind == 3) != errors.Is(res.Err, model.ErrVoid) {
				t.Fatalf("kind %d seed %d alone: %+v", kind, seed, res)
			}
			want[[2]int{kind, seed}] = pressed{ids, res.Trace}
			if kind == 6 {
				if vectors[seed], err = alone.Embed(context.Background(), ask(kind, seed).Prompt); err != nil {
					t.Fatal(err)
				}
			}
		}
	}
	alone.Close()
	for _, o := range []Options{
		{Context: 320, Sessions: 3, Batch: 1, KVBytes: 5 * int64(m.PageBytes()), Trace: desc},
		{Context: 320, Sessions: 16, Batch: 30, KVBytes: 7 * int64(m.PageBytes())},
		{Context: 320, Sessions: 5, Batch: 200, KVBytes: 6 * int64(m.PageBytes()), Trace: desc, NoReuse: true},
	} {
		e, err := New(m, tok, team, o)
		if err != nil {
			t.Fatal(err)
		}
		var wg sync.WaitGroup
		for round := range 2 {
			for kind := range kinds {
				for seed := range seeds {
					wg.Add(1)
					go func() {
						defer wg.Done()
						r := rand.New(rand.NewPCG(uint64(round), uint64(kind*100+seed)))
						f.press(t, e, ask(kind, seed), kind, want[[2]int{kind, seed}], vectors[seed], r)
					}()
				}
			}
		}
		wg.Wait()
		if s := e.Stats(); s.PagesUsed != 0 || s.Running != 0 || s.Waiting != 0 {
			t.Errorf("%+v: left behind: %+v", o, s)
		}
		// The end comes amid work.
		var left []*Answer
		for i := range 12 {
			r := ask(i%3, i%seeds)
			r.MaxTokens = 0
			a, err := e.Generate(context.Background(), r)
			if err != nil {
				t.Fatal(err)
			}
			left = append(left, a)
		}
		left[7].Next()
		e.Close()
		for i, a := range left {
			if res := a.Result(); res.Err != nil && !errors.Is(res.Err, ErrClosed) {
				t.Errorf("answer %d at the end: %+v", i, res)
			}
		}
		if s := e.Stats(); s.PagesUsed != 0 || s.Running != 0 || s.Waiting != 0 {
			t.Errorf("%+v: left behind by Close: %+v", o, s)
		}
	}
	team.Close()
	if err := m.Close(); err != nil {
		t.Error(err)
	}
	for i := 0; runtime.NumGoroutine() > goroutines; i++ {
		if i == 1e6 {
			t.Fatalf("%d goroutines, %d before", runtime.NumGoroutine(), goroutines)
		}
		runtime.Gosched()
	}
}

// press runs one session and compares.
func (f *fixture) press(t *testing.T, e *Engine, req Request, kind int, want pressed, vector []float32, r *rand.Rand) {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	if kind == 6 {
		v, err := e.Embed(ctx, req.Prompt)
		if err != nil || !reflect.DeepEqual(v, vector) {
			t.Errorf("embedding: %v; as alone: %v", err, reflect.DeepEqual(v, vector))
		}
		return
	}
	a, err := e.Generate(ctx, req)
	if err != nil {
		t.Error(err)
		return
	}
	stop := -1
	if kind == 5 {
		stop = r.IntN(len(want.ids) + 1)
	}
	var ids []int32
	for stop != len(ids) {
		for range r.IntN(3) {
			runtime.Gosched()
		}
		tok, ok := a.Next()
		if !ok {
			break
		}
		ids = append(ids, tok.ID)
	}
	if kind == 5 {
		cancel()
		if res := a.Result(); len(ids) > len(want.ids) || !reflect.DeepEqual(ids, want.ids[:len(ids)]) && len(ids) > 0 || res.Err != nil && !errors.Is(res.Err, context.Canceled) {
			t.Errorf("cancelled after %v: %+v, alone %v", ids, res, want.ids)
		}
		return
	}
	res := a.Result()
	if (kind == 3) != errors.Is(res.Err, model.ErrVoid) || kind != 3 && res.Err != nil {
		t.Errorf("kind %d: %+v", kind, res)
	}
	if !reflect.DeepEqual(ids, want.ids) {
		t.Errorf("kind %d: %v, alone %v", kind, ids, want.ids)
	}
	if e.trace != nil && res.Trace != want.trace {
		t.Errorf("kind %d: trace %x, alone %x", kind, res.Trace[:4], want.trace[:4])
	}
}
