package engine

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"

	"github.com/geistnet/geist/internal/gguf"
	"github.com/geistnet/geist/internal/kernel"
	"github.com/geistnet/geist/internal/model"
	"github.com/geistnet/geist/internal/synth"
)

// An answer that is broken off anywhere and resumed by another engine is the
// answer that was not: tokens, text, finish and trace root.
func TestResume(t *testing.T) {
	spec := tinySpec("q8_0")
	var b bytes.Buffer
	if err := synth.Write(&b, spec, nil); err != nil {
		t.Fatal(err)
	}
	f, err := gguf.Parse("test model", b.Bytes())
	if err != nil {
		t.Fatal(err)
	}
	g, err := model.Describe(f, model.Options{})
	if err != nil {
		t.Fatal(err)
	}
	x := newFixture(t, spec, kernel.Best(), 2)
	for _, traced := range []bool{false, true} {
		o := Options{Context: 256, Sessions: 4, Batch: 40}
		if traced {
			o.Trace = g
		}
		for seed := range uint64(2) {
			q := request(seed, 70, 90)
			q.Sampling.FrequencyPenalty, q.Sampling.RepeatLast = 0.5, 64
			first := x.engine(t, o)
			whole, texts := answerOf(t, first, q)
			if traced == (len(whole.Answer) == 0) {
				t.Fatalf("traced %v: answer of %d tokens", traced, len(whole.Answer))
			}
			tokens := tokensOf(t, first, q)
			first.Close()
			for _, reuse := range []bool{false, true} {
				o.NoReuse = !reuse
				second := x.engine(t, o)
				for _, cut := range []int{0, 1, 2, 31, 32, 57, 58, 59, 64, 88, 89} {
					name := fmt.Sprintf("traced %v, seed %d, reuse %v, cut %d", traced, seed, reuse, cut)
					// Something else is decoded meanwhile.
					other, err := second.Generate(context.Background(), request(seed+7, 20, 30))
					if err != nil {
						t.Fatal(err)
					}
					r := q
					r.Resume = tokens[:cut]
					got, rest := answerOf(t, second, r)
					other.Result()
					if got.Finish != whole.Finish || got.Tokens != whole.Tokens || got.Trace != whole.Trace || !slices.Equal(got.Answer, whole.Answer) {
						t.Fatalf("%s: %+v, want %+v", name, got, whole)
					}
					if traced && cut > 0 {
						r.Resume = slices.Clone(r.Resume)
						r.Resume[cut/2]++
						a, err := second.Generate(context.Background(), r)
						if err != nil {
							t.Fatal(err)
						}
						if err := a.Result().Err; !errors.Is(err, ErrResume) {
							t.Fatalf("%s: another token was resumed: %v", name, err)
						}
					}
					if !slices.Equal(rest, texts[cut:]) {
						t.Fatalf("%s: texts %q, want %q", name, rest, texts[cut:])
					}
				}
				second.Close()
			}
		}
	}
}

func TestResumeRefuses(t *testing.T) {
	x := newFixture(t, tinySpec("f32"), kernel.Best(), 1)
	e := x.engine(t, Options{Context: 64})
	end := int32(-1)
	for id := range int32(x.tok.Size()) {
		if x.tok.IsEOG(id) {
			end = id
		}
	}
	if end < 0 {
		t.Fatal("the model has no end token")
	}
	base := Request{Prompt: []int32{5, 6, 7}, MaxTokens: 10, TopLogProbs: -1}
	for name, resume := range map[string][]int32{
		"nothing left":  make([]int32, 10),
		"too long":      make([]int32, 61),
		"no such token": {1 << 20},
		"negative":      {-1},
		"ended":         {9, end},
	} {
		r := base
		r.Resume = resume
		a, err := e.Generate(context.Background(), r)
		if err == nil {
			err = a.Result().Err
		}
		if err == nil {
			t.Errorf("%s: resumed", name)
		}
	}
	if r := tokensOf(t, e, base); len(r) == 0 {
		t.Error("the engine does not answer after refusals")
	}
}

func answerOf(t *testing.T, e *Engine, r Request) (Result, []string) {
	t.Helper()
	a, err := e.Generate(context.Background(), r)
	if err != nil {
		t.Fatal(err)
	}
	var texts []string
	for {
		k, ok := a.Next()
		if !ok {
			break
		}
		texts = append(texts, k.Text)
	}
	res := a.Result()
	if res.Err != nil {
		t.Fatal(res.Err)
	}
	return res, texts
}

func tokensOf(t *testing.T, e *Engine, r Request) []int32 {
	t.Helper()
	a, err := e.Generate(context.Background(), r)
	if err != nil {
		t.Fatal(err)
	}
	var ids []int32
	for {
		k, ok := a.Next()
		if !ok {
			return ids
		}
		ids = append(ids, k.ID)
	}
}
