package model

import (
	"fmt"
	"os"
	"runtime"
	"slices"
	"syscall"
	"testing"
	"time"

	"github.com/geistnet/geist/ghost"
	"github.com/geistnet/geist/internal/kernel"
)

// Speed of a model named by GEIST_BENCH_MODEL.
func BenchmarkModel(b *testing.B) {
	file := os.Getenv("GEIST_BENCH_MODEL")
	if file == "" {
		b.Skip("GEIST_BENCH_MODEL names no model")
	}
	for threads := 1; threads <= runtime.GOMAXPROCS(0); threads++ {
		b.Run(fmt.Sprintf("threads=%d", threads), func(b *testing.B) { benchModel(b, file, threads) })
	}
}

func benchModel(b *testing.B, file string, threads int) {
	team := kernel.NewTeam(threads)
	defer team.Close()
	m := loadModel(b, file, kernel.Best(), team)
	const prompt, answer = 512, 32
	ids := make([]int32, prompt)
	for i := range ids {
		ids[i] = int32((i*7919 + 13) % m.Vocab)
	}
	s := m.NewState(team, prompt)
	c := newCache(m, prompt)
	run := func(segs ...Segment) {
		if _, err := s.Forward(segs); err != nil {
			b.Fatal(err)
		}
	}
	trace := s.NewTrace(shapeOf(m))
	b.Run("prefill-traced", func(b *testing.B) {
		s.Watch(trace)
		for b.Loop() {
			run(Segment{Cache: c, Tokens: ids, Logits: Last})
		}
		s.Watch(nil)
		b.ReportMetric(prompt*float64(b.N)/b.Elapsed().Seconds(), "tok/s")
	})
	b.Run("decode-traced", func(b *testing.B) {
		s.Watch(trace)
		for b.Loop() {
			for i := range answer {
				run(Segment{Cache: c, Start: i + 400, Tokens: ids[i : i+1], Logits: Last})
			}
		}
		s.Watch(nil)
		b.ReportMetric(answer*float64(b.N)/b.Elapsed().Seconds(), "tok/s")
	})
	watch := func(traced bool) {
		s.Watch(nil)
		if traced {
			s.Watch(trace)
		}
	}
	b.Run("trace", func(b *testing.B) {
		overhead(b, 1, func(_ int, traced bool) {
			watch(traced)
			run(Segment{Cache: c, Tokens: ids, Logits: Last})
		})
		s.Watch(nil)
	})
	b.Run("trace-64", func(b *testing.B) {
		overhead(b, prompt/64, func(i int, traced bool) {
			watch(traced)
			run(Segment{Cache: c, Start: 64 * i, Tokens: ids[64*i:][:64]})
		})
		s.Watch(nil)
	})
	b.Run("trace-decode", func(b *testing.B) {
		overhead(b, answer, func(i int, traced bool) {
			watch(traced)
			run(Segment{Cache: c, Start: i + 400, Tokens: ids[i : i+1], Logits: Last})
		})
		s.Watch(nil)
	})
	b.Run("prefill", func(b *testing.B) {
		for b.Loop() {
			run(Segment{Cache: c, Tokens: ids, Logits: Last})
		}
		b.ReportMetric(prompt*float64(b.N)/b.Elapsed().Seconds(), "tok/s")
	})
	b.Run("decode", func(b *testing.B) {
		for b.Loop() {
			for i := range answer {
				run(Segment{Cache: c, Start: i + 400, Tokens: ids[i : i+1], Logits: Last})
			}
		}
		b.ReportMetric(answer*float64(b.N)/b.Elapsed().Seconds(), "tok/s")
	})
}

// overhead reports what a trace costs. Each of some passes is made with and without
// one in turn, each first every other time, and the processor time of the quickest
// of either kind is added up over the passes, which other work on the machine
// changes little. The median is that of the ratios of neighbours.
func overhead(b *testing.B, passes int, pass func(i int, traced bool)) {
	least := make([][2]time.Duration, passes)
	var ratios []float64
	for turn := 0; b.Loop(); turn++ {
		for i := range least {
			var took [2]time.Duration
			for k := range took {
				kind := (turn + k) % 2
				begin := used()
				pass(i, kind == 1)
				took[kind] = used() - begin
				if turn == 0 || took[kind] < least[i][kind] {
					least[i][kind] = took[kind]
				}
			}
			ratios = append(ratios, took[1].Seconds()/took[0].Seconds())
		}
	}
	var sum [2]time.Duration
	for _, l := range least {
		sum[0] += l[0]
		sum[1] += l[1]
	}
	slices.Sort(ratios)
	b.ReportMetric(sum[0].Seconds(), "cpu-s/plain")
	b.ReportMetric(sum[1].Seconds(), "cpu-s/traced")
	b.ReportMetric(100*(sum[1].Seconds()/sum[0].Seconds()-1), "%least")
	b.ReportMetric(100*(ratios[len(ratios)/2]-1), "%median")
}

// used is the processor time of this process so far.
func used() time.Duration {
	var u syscall.Rusage
	if syscall.Getrusage(syscall.RUSAGE_SELF, &u) != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// shapeOf is what a trace needs to know of a model's Ghost file.
func shapeOf(m *Model) *ghost.Model {
	g := &ghost.Model{Dim: m.Dim, Heads: m.Heads, KVHeads: m.KVHeads, KeyDim: m.KeyDim, ValDim: m.ValDim, FF: m.FF,
		Vocab: m.Vocab, KV: m.KV, ExpertsUsed: m.ExpertsUsed}
	add := func(l *linear) ghost.Linear {
		g.Tensors = append(g.Tensors, ghost.Tensor{Format: l.m.Format})
		return ghost.Linear{Tensor: len(g.Tensors) - 1}
	}
	for i := range m.layers {
		y := &m.layers[i]
		o := ghost.Layer{Window: y.window, PostAttn: y.postAttn, PostFFN: y.postFFN, O: add(&y.o)}
		for e := range y.experts {
			o.Experts = append(o.Experts, ghost.Expert{Down: add(&y.experts[e].down)})
		}
		if y.experts == nil {
			o.Down = add(&y.down)
		}
		g.Layers = append(g.Layers, o)
	}
	return g
}
