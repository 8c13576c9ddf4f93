// Package bench measures how fast this machine runs a model and what it could
// do at best: tokens per second of prefill, of decoding and of several sessions
// at once, the rate at which decoding reads memory beside the rate at which a
// plain loop reads it, the time to load, and the most memory the process took.
//
// Prefill and decoding are timed as bare forward passes with given tokens, as
// other engines' benchmarks do; sessions run through the whole engine, with
// sampling. Every round measures every number of threads, so that a machine
// that slows down slows all of them, and medians over rounds are reported.
package bench

import (
	"context"
	"errors"
	"fmt"
	"os"
	"runtime"
	"slices"
	"time"

	"github.com/geistnet/geist/internal/arena"
	"github.com/geistnet/geist/internal/engine"
	"github.com/geistnet/geist/internal/gguf"
	"github.com/geistnet/geist/internal/kernel"
	"github.com/geistnet/geist/internal/model"
)

// Options of Measure.
type Options struct {
	Path     string // the model's GGUF file
	Threads  []int  // numbers of threads to measure, each once
	Prefill  int    // tokens of the prompt
	Decode   int    // tokens decoded
	Sessions int    // run at once; 0: leave them out
	Rounds   int
	BusBytes int                     // memory that the bandwidth is measured on; 0: four last-level caches, at least 1 GiB
	Note     func(string)            // what is being done, for people; nil: nobody listens
	Progress func(done, total int64) // of loading, in bytes
	Now      func() time.Time
}

// before is the number of tokens that decoding and sessions find in the cache.
const before = 16

// batch is the largest number of tokens in one pass of prefill.
const batch = 512

// Result of Measure. Rates are medians over rounds.
type Result struct {
	Model     string `json:"model"`
	FileBytes int64  `json:"file_bytes"`
	Kernel    string `json:"kernel"` // the path: avx512, ...
	Prefill   int    `json:"prefill"`
	Decode    int    `json:"decode"`
	Rounds    int    `json:"rounds"`

	LoadSeconds    float64 `json:"load_s"`
	WeightBytes    int64   `json:"weight_bytes"`     // packed weights
	KVBytes        int64   `json:"kv_bytes"`         // KV cache of the largest measurement
	PredictedBytes int64   `json:"predicted_bytes"`  // weights, KV cache and scratch, by engine.Predict
	PeakRSSBytes   int64   `json:"peak_rss_bytes"`   // of the whole process; 0: not known on this system
	PeakRatio      float64 `json:"peak_ratio"`       // of file and KV cache together
	BusBytes       int64   `json:"bus_buffer_bytes"` // memory that bus_gb_s was measured on

	Run         // with the most threads
	Runs []*Run `json:"runs"` // in the order asked for
}

// Run is what was measured with one number of threads.
type Run struct {
	Threads        int       `json:"threads"`
	PrefillRate    float64   `json:"prefill_tok_s"`
	DecodeRate     float64   `json:"decode_tok_s"`
	ReadBytes      int64     `json:"read_bytes_per_token"` // weights and KV cache that decoding reads
	ReadGB         float64   `json:"read_gb_s"`            // DecodeRate · ReadBytes / 10⁹
	BusGB          float64   `json:"bus_gb_s"`             // best of all rounds
	Ratio          float64   `json:"ratio"`                // ReadGB / BusGB
	Sessions       int       `json:"sessions"`
	SingleRate     float64   `json:"single_tok_s"`   // one session in the engine
	SessionsRate   float64   `json:"sessions_tok_s"` // all together
	SessionsRatio  float64   `json:"sessions_ratio"` // SessionsRate to the larger of SingleRate and DecodeRate
	SessionsEqual  bool      `json:"sessions_equal"` // each session's tokens are those of its run alone
	PrefillRounds  []float64 `json:"prefill_rounds"`
	DecodeRounds   []float64 `json:"decode_rounds"`
	SingleRounds   []float64 `json:"single_rounds"`
	SessionsRounds []float64 `json:"sessions_rounds"`
	BusRounds      []float64 `json:"bus_rounds"`
}

func (o *Options) check() error {
	switch {
	case len(o.Threads) == 0:
		return errors.New("no number of threads to measure")
	case o.Prefill < 1 || o.Decode < 1 || o.Rounds < 1:
		return fmt.Errorf("%d tokens of prefill, %d of decoding and %d rounds are too few; at least 1 each", o.Prefill, o.Decode, o.Rounds)
	case o.Sessions < 0 || o.Sessions > 1024:
		return fmt.Errorf("%d sessions are not between 0 and 1024", o.Sessions)
	case o.BusBytes < 0:
		return fmt.Errorf("a buffer of %d bytes cannot be", o.BusBytes)
	}
	for i, n := range o.Threads {
		if n < 1 || n > 1024 {
			return fmt.Errorf("%d threads are not between 1 and 1024", n)
		}
		if slices.Contains(o.Threads[:i], n) {
			return fmt.Errorf("%d threads are named twice", n)
		}
	}
	return nil
}

// bench is a Measure under way.
type bench struct {
	Options
	m      *model.Model
	teams  map[int]*kernel.Team
	runs   []*Run
	prompt []int32
	alone  [][]int32 // tokens of each session's run alone
}

// Measure measures a model.
func Measure(ctx context.Context, o Options) (*Result, error) {
	if err := o.check(); err != nil {
		return nil, err
	}
	b := &bench{Options: o, teams: map[int]*kernel.Team{}}
	for _, n := range o.Threads {
		b.teams[n] = kernel.NewTeam(n)
		defer b.teams[n].Close()
		b.runs = append(b.runs, &Run{Threads: n, Sessions: o.Sessions, SessionsEqual: true})
	}
	r := &Result{Model: o.Path, Prefill: o.Prefill, Decode: o.Decode, Rounds: o.Rounds, Kernel: kernel.Best().String()}
	most := slices.Max(o.Threads)

	begin := o.Now()
	f, m, err := b.load()
	if err != nil {
		return nil, err
	}
	defer f.Close()
	defer m.Close()
	b.m = m
	r.LoadSeconds = o.Now().Sub(begin).Seconds()
	r.WeightBytes = b.m.WeightBytes()
	if fi, err := os.Stat(o.Path); err == nil {
		r.FileBytes = fi.Size()
	}
	if longest := max(o.Prefill, b.sessionContext()); longest > b.m.Context {
		return nil, fmt.Errorf("%d positions are more than the %d that %s is made for; measure fewer tokens", longest, b.m.Context, o.Path)
	}
	b.prompt = prompt(0, o.Prefill, b.m.Vocab)

	// What is measured takes its memory once here, before the process's peak is
	// read; the buffer of the bandwidth comes after.
	b.note("warm up; sessions one by one: %d", o.Sessions)
	mem, err := engine.Predict(b.m, b.engineOptions())
	if err != nil {
		return nil, err
	}
	r.PredictedBytes, r.KVBytes = mem.Total(), max(mem.KV, int64(pages(o.Prefill)*b.m.PageBytes()))
	for _, run := range b.runs {
		if err := b.forward(ctx, run, min(o.Decode, 4)); err != nil {
			return nil, err
		}
	}
	if err := b.runAlone(ctx, most); err != nil {
		return nil, err
	}
	for _, run := range b.runs {
		if err := b.sessions(ctx, run); err != nil {
			return nil, err
		}
		*run = Run{Threads: run.Threads, Sessions: o.Sessions, SessionsEqual: run.SessionsEqual}
	}
	r.PeakRSSBytes = peakRSS()
	if n := r.FileBytes + r.KVBytes; n > 0 {
		r.PeakRatio = float64(r.PeakRSSBytes) / float64(n)
	}

	if err := b.rounds(ctx); err != nil {
		return nil, err
	}
	r.BusBytes = int64(b.busBytes())
	weights, cache := b.m.ReadBytes(before + o.Decode/2)
	for _, run := range b.runs {
		run.ReadBytes = weights + cache
		run.summarise()
		if run.Threads == most {
			r.Run = *run
		}
	}
	r.Runs = b.runs
	return r, nil
}

func (b *bench) load() (*gguf.File, *model.Model, error) {
	f, err := gguf.Open(b.Path)
	if err != nil {
		return nil, nil, err
	}
	m, err := model.Load(f, model.Options{Path: kernel.Best(), Team: b.teams[slices.Max(b.Threads)], Progress: b.Progress})
	if err != nil {
		f.Close()
		return nil, nil, err
	}
	return f, m, nil
}

// rounds measures everything, the bandwidth before and after each round.
func (b *bench) rounds(ctx context.Context) error {
	buf, err := newBus(b.busBytes(), kernel.Best(), b.teams[slices.Max(b.Threads)])
	if err != nil {
		return err
	}
	defer buf.free()
	for i := range b.Rounds + 1 {
		for _, run := range b.runs {
			if err := ctx.Err(); err != nil {
				return err
			}
			run.BusRounds = append(run.BusRounds, buf.measure(b.teams[run.Threads], b.Now))
		}
		if i == b.Rounds {
			break
		}
		for _, run := range b.runs {
			b.note("round %d of %d, threads: %d", i+1, b.Rounds, run.Threads)
			if err := b.forward(ctx, run, b.Decode); err != nil {
				return err
			}
			if err := b.sessions(ctx, run); err != nil {
				return err
			}
		}
	}
	return nil
}

func (r *Run) summarise() {
	r.PrefillRate, r.DecodeRate = median(r.PrefillRounds), median(r.DecodeRounds)
	r.SingleRate, r.SessionsRate = median(r.SingleRounds), median(r.SessionsRounds)
	r.BusGB = slices.Max(r.BusRounds)
	r.ReadGB = r.DecodeRate * float64(r.ReadBytes) / 1e9
	r.Ratio = r.ReadGB / r.BusGB
	if r.Sessions > 0 {
		r.SessionsRatio = r.SessionsRate / max(r.SingleRate, r.DecodeRate)
	}
}

// forward times one prompt and the decoding of n tokens as bare passes.
func (b *bench) forward(ctx context.Context, run *Run, n int) error {
	runtime.GC() // one state at a time
	s := b.m.NewState(b.teams[run.Threads], min(batch, max(b.Prefill, before)))
	cache := &model.Cache{}
	kv, err := arena.New(pages(max(b.Prefill, before+n)) * b.m.PageBytes())
	if err != nil {
		return fmt.Errorf("KV cache: %w", err)
	}
	defer kv.Free()
	for mem := kv.Bytes(); len(mem) > 0; mem = mem[b.m.PageBytes():] {
		cache.Pages = append(cache.Pages, mem[:b.m.PageBytes()])
	}
	pass := func(tokens []int32, start int) error { // of those from start on
		if err := ctx.Err(); err != nil {
			return err
		}
		_, err := s.Forward([]model.Segment{{Cache: cache, Start: start, Tokens: tokens[start:], Before: tokens[:start], Logits: model.Last}})
		return err
	}
	begin := b.Now()
	for at := 0; at < b.Prefill; at += batch {
		if err := pass(b.prompt[:min(at+batch, b.Prefill)], at); err != nil {
			return err
		}
	}
	run.PrefillRounds = append(run.PrefillRounds, rate(b.Prefill, b.Now().Sub(begin)))

	tokens := prompt(1, before, b.m.Vocab)
	if err := pass(tokens, 0); err != nil {
		return err
	}
	tokens = append(tokens, prompt(2, n, b.m.Vocab)...)
	begin = b.Now()
	for i := range n {
		if err := pass(tokens[:before+i+1], before+i); err != nil {
			return err
		}
	}
	run.DecodeRounds = append(run.DecodeRounds, rate(n, b.Now().Sub(begin)))
	return nil
}

func (b *bench) note(format string, a ...any) {
	if b.Note != nil {
		b.Note(fmt.Sprintf(format, a...))
	}
}

// prompt is n tokens that a seed determines, spread over the vocabulary.
func prompt(seed, n, vocab int) []int32 {
	ids := make([]int32, n)
	for i := range ids {
		ids[i] = int32((i*7919 + seed*104729 + 13) % vocab)
	}
	return ids
}

func pages(positions int) int {
	return (positions + model.PagePositions - 1) / model.PagePositions
}

// rate is n per second.
func rate(n int, d time.Duration) float64 {
	return float64(n) / max(d, 1).Seconds()
}

// median is 0 of nothing.
func median(v []float64) float64 {
	if len(v) == 0 {
		return 0
	}
	s := slices.Sorted(slices.Values(v))
	n := len(s)
	return (s[(n-1)/2] + s[n/2]) / 2
}
