package model

import (
	"fmt"
	"os"
	"runtime"
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
	b.Run("trace", func(b *testing.B) {
		// Passes with and without a trace in turn, by the processor time of the
		// quickest of each, which other work on the machine changes little.
		best := [2]time.Duration{time.Hour, time.Hour}
		for b.Loop() {
			for i, t := range []*Trace{nil, trace} {
				s.Watch(t)
				begin := used()
				run(Segment{Cache: c, Tokens: ids, Logits: Last})
				best[i] = min(best[i], used()-begin)
			}
		}
		s.Watch(nil)
		b.ReportMetric(best[0].Seconds(), "cpu-s/plain")
		b.ReportMetric(best[1].Seconds(), "cpu-s/traced")
		b.ReportMetric(100*(best[1].Seconds()/best[0].Seconds()-1), "%")
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
