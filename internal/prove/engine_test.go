package prove

import (
	"context"
	"reflect"
	"sync"
	"testing"

	"github.com/geistnet/geist/arith"
	"github.com/geistnet/geist/audit"
	"github.com/geistnet/geist/internal/engine"
	"github.com/geistnet/geist/internal/kernel"
)

// The roots that an engine commits to while many sessions share its batches and
// pages are those of a replay, also for conversations that go on from cached
// answers and for sessions that were set aside.
func TestEngineRoots(t *testing.T) {
	for name, spec := range specs() {
		t.Run(name, func(t *testing.T) {
			n := newNode(t, spec, kernel.Best(), 2, 64)
			for _, pages := range []int{9, 60} { // few: sessions are set aside; many: the second turn finds its first
				engineRoots(t, n, pages)
			}
		})
	}
}

func engineRoots(t *testing.T, n *Node, pages int) {
	e, err := engine.New(n.Model, nil, n.team, engine.Options{Context: 512, Sessions: 4, Batch: 50, Trace: n.Ghost,
		KVBytes: int64(pages) * int64(n.Model.PageBytes())})
	if err != nil {
		t.Fatal(err)
	}
	run := func(prompt []int32, seed byte) *audit.Run {
		r := engine.Request{Prompt: prompt, MaxTokens: 50, IgnoreEnd: true, TopLogProbs: -1, Sampling: arith.Sampling{Temperature: 0.7}}
		r.Sampling.Seed[0] = seed
		a, err := e.Generate(context.Background(), r)
		if err != nil {
			t.Error(err)
			return nil
		}
		res := a.Result()
		if res.Err != nil || len(res.Answer) != 50 {
			t.Errorf("%+v", res)
		}
		return &audit.Run{Model: n.Ghost, Prompt: prompt, Answer: res.Answer, Sampling: r.Sampling, Trace: res.Trace, Outline: res.Outline}
	}
	runs := make([]*audit.Run, 5)
	var wg sync.WaitGroup
	for i := range runs {
		wg.Add(1)
		go func() {
			defer wg.Done()
			runs[i] = run(prompt(uint64(i), 70+20*i), byte(i))
		}()
	}
	wg.Wait()
	if t.Failed() {
		t.FailNow()
	}
	// A second turn finds pages that the first turn's answer filled.
	again := append(append(append([]int32(nil), runs[0].Prompt...), runs[0].Answer...), prompt(9, 20)...)
	runs = append(runs, run(again, 7))
	st := e.Stats()
	e.Close()
	if pages > 9 && st.CachedTokens == 0 {
		t.Error("the second turn reused nothing")
	}
	if pages == 9 && st.Preempted == 0 {
		t.Error("no session had to be set aside")
	}
	for i, r := range runs {
		x, err := n.Replay(r, nil, nil)
		if err != nil {
			t.Fatal(err)
		}
		root, err := x.Root()
		if err != nil {
			t.Fatal(err)
		}
		if !reflect.DeepEqual(root, r.Trace) {
			t.Errorf("run %d: the engine commits to another root than the replay", i)
		}
		if root, err := r.Outline.Root(r.Prompt, r.Answer); err != nil || root != r.Trace {
			t.Errorf("run %d: the outline leads to %v, %v", i, root, err)
		}
	}
}
