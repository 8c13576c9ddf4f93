package model

import (
	"fmt"
	"os"
	"runtime"
	"testing"

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
	b.Run("prefill", func(b *testing.B) {
		for b.Loop() {
			run(Segment{Cache: c, Tokens: ids, Logits: Last})
		}
		b.ReportMetric(prompt*float64(b.N)/b.Elapsed().Seconds(), "tok/s")
	})
	b.Run("decode", func(b *testing.B) {
		for b.Loop() {
			for i := range answer {
				run(Segment{Cache: c, Start: i, Tokens: ids[i : i+1], Logits: Last})
			}
		}
		b.ReportMetric(answer*float64(b.N)/b.Elapsed().Seconds(), "tok/s")
	})
}
