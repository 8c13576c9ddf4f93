package bench

import (
	"context"
	"encoding/json"
	"errors"
	"math"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/geistnet/geist/internal/gguf"
	"github.com/geistnet/geist/internal/kernel"
	"github.com/geistnet/geist/internal/store"
)

func tiny(t *testing.T, kind string) string {
	t.Helper()
	path, err := Synthetic(t.Context(), t.TempDir(), "tiny", kind, nil)
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// ticks is a clock that is a millisecond later at each look.
func ticks() func() time.Time {
	n := make(chan int, 1)
	n <- 0
	return func() time.Time {
		i := <-n + 1
		n <- i
		return time.Unix(0, int64(i)*int64(time.Millisecond))
	}
}

func TestMeasure(t *testing.T) {
	var notes []string
	r, err := Measure(t.Context(), Options{
		Path: tiny(t, "q4_0"), Threads: []int{2, 1}, Prefill: 700, Decode: 20, Sessions: 5, Rounds: 3, BusBytes: 1 << 20,
		Now: ticks(), Note: func(s string) { notes = append(notes, s) },
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(r.Runs) != 2 || r.Runs[0].Threads != 2 || r.Runs[1].Threads != 1 || r.Run.Threads != 2 {
		t.Fatalf("runs with %+v threads, the first with %d", r.Runs, r.Run.Threads)
	}
	if len(notes) != 7 {
		t.Errorf("notes: %q", notes)
	}
	for _, run := range r.Runs {
		// Two passes of prefill and twenty of decoding lie between two looks at
		// the clock.
		if run.PrefillRate != 700e3 || run.DecodeRate != 20e3 {
			t.Errorf("%d threads: prefill %v, decode %v tok/s", run.Threads, run.PrefillRate, run.DecodeRate)
		}
		for _, v := range [][]float64{run.PrefillRounds, run.DecodeRounds, run.SingleRounds, run.SessionsRounds, run.BusRounds[:3]} {
			if len(v) != 3 || slices.Min(v) <= 0 {
				t.Errorf("%d threads: rounds %v", run.Threads, v)
			}
		}
		if len(run.BusRounds) != 4 || run.BusGB != slices.Max(run.BusRounds) {
			t.Errorf("%d threads: bandwidth %v of %v", run.Threads, run.BusGB, run.BusRounds)
		}
		if !run.SessionsEqual {
			t.Errorf("%d threads: sessions differ from their runs alone", run.Threads)
		}
		if got := run.DecodeRate * float64(run.ReadBytes) / 1e9; run.ReadGB != got || run.Ratio != got/run.BusGB || run.ReadBytes == 0 {
			t.Errorf("%d threads: reads %v GB/s, ratio %v", run.Threads, run.ReadGB, run.Ratio)
		}
	}
	if r.FileBytes == 0 || r.WeightBytes == 0 || r.KVBytes == 0 || r.LoadSeconds <= 0 || r.PredictedBytes < r.WeightBytes+r.KVBytes/2 {
		t.Errorf("%+v", r)
	}
	if runtime.GOOS == "linux" && (r.PeakRSSBytes < r.WeightBytes || r.PeakRatio <= 0) {
		t.Errorf("peak of %d bytes", r.PeakRSSBytes)
	}
}

// TestKeys: scripts read these.
func TestKeys(t *testing.T) {
	b, err := json.Marshal(Result{Runs: []*Run{{}}})
	if err != nil {
		t.Fatal(err)
	}
	var top map[string]any
	if err := json.Unmarshal(b, &top); err != nil {
		t.Fatal(err)
	}
	first := top["runs"].([]any)[0].(map[string]any)
	for _, k := range []string{"load_s", "peak_rss_bytes", "file_bytes", "predicted_bytes", "kv_bytes"} {
		if _, ok := top[k]; !ok {
			t.Errorf("no key %s", k)
		}
	}
	for _, k := range []string{"threads", "prefill_tok_s", "decode_tok_s", "read_gb_s", "bus_gb_s", "ratio", "sessions", "sessions_tok_s", "sessions_ratio", "sessions_equal"} {
		if _, ok := top[k]; !ok {
			t.Errorf("no key %s", k)
		}
		if _, ok := first[k]; !ok {
			t.Errorf("no key %s for each number of threads", k)
		}
	}
}

func TestWithoutSessions(t *testing.T) {
	r, err := Measure(t.Context(), Options{Path: tiny(t, "q8_0"), Threads: []int{1}, Prefill: 3, Decode: 2, Rounds: 1, BusBytes: 1, Now: ticks()})
	if err != nil {
		t.Fatal(err)
	}
	if r.SessionsRate != 0 || r.SessionsRatio != 0 || r.DecodeRate <= 0 {
		t.Errorf("%+v", r.Run)
	}
}

// A session that answers otherwise than alone is found.
func TestUnequalIsFound(t *testing.T) {
	o := Options{Path: tiny(t, "q8_0"), Threads: []int{1}, Prefill: 3, Decode: 6, Sessions: 3, Rounds: 1, Now: ticks()}
	b := loaded(t, o)
	if err := b.runAlone(t.Context(), 1); err != nil {
		t.Fatal(err)
	}
	b.alone[2][5]++
	run := &Run{Threads: 1, SessionsEqual: true}
	if err := b.sessions(t.Context(), run); err != nil {
		t.Fatal(err)
	}
	if run.SessionsEqual {
		t.Error("a changed token is not seen")
	}
}

func TestRefuses(t *testing.T) {
	path := tiny(t, "q8_0")
	good := Options{Path: path, Threads: []int{1}, Prefill: 8, Decode: 4, Sessions: 2, Rounds: 1, BusBytes: 1 << 16, Now: ticks()}
	for _, c := range []struct {
		change func(*Options)
		want   string
	}{
		{func(o *Options) { o.Threads = nil }, "no number of threads"},
		{func(o *Options) { o.Threads = []int{0} }, "0 threads"},
		{func(o *Options) { o.Threads = []int{1 << 40} }, "threads are not between"},
		{func(o *Options) { o.Threads = []int{2, 1, 2} }, "2 threads are named twice"},
		{func(o *Options) { o.Prefill = 0 }, "at least 1"},
		{func(o *Options) { o.Decode = -1 }, "at least 1"},
		{func(o *Options) { o.Rounds = 0 }, "at least 1"},
		{func(o *Options) { o.Sessions = -1 }, "-1 sessions"},
		{func(o *Options) { o.BusBytes = -1 }, "-1 bytes"},
		{func(o *Options) { o.BusBytes = math.MaxInt }, "bandwidth"},
		{func(o *Options) { o.Prefill = 2000 }, "2000 positions are more than the 1024"},
		{func(o *Options) { o.Decode = 1020 }, "1038 positions are more than the 1024"},
		{func(o *Options) { o.Path += ".missing" }, "no such file"},
	} {
		o := good
		c.change(&o)
		if _, err := Measure(t.Context(), o); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("error %v, want one with %q", err, c.want)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := Measure(ctx, good); !errors.Is(err, context.Canceled) {
		t.Errorf("a cancelled measurement gives %v", err)
	}
}

func TestSynthetic(t *testing.T) {
	dir := t.TempDir()
	var stages []string
	progress := func(stage string, _, _ int64) {
		if !slices.Contains(stages, stage) {
			stages = append(stages, stage)
		}
	}
	get := func(kind string, want ...string) string {
		t.Helper()
		stages = nil
		path, err := Synthetic(t.Context(), dir, "tiny", kind, progress)
		if err != nil {
			t.Fatal(err)
		}
		if !slices.Equal(stages, want) {
			t.Errorf("%s: stages %q, want %q", kind, stages, want)
		}
		return path
	}
	path := get("Q4_0", "copy", "verify")
	if f, err := gguf.Open(path); err != nil {
		t.Fatal(err)
	} else if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	if again := get("q4_0", "verify"); again != path {
		t.Errorf("%s and then %s", path, again)
	}
	if other := get("f16", "copy", "verify"); other == path {
		t.Error("two types share a file")
	}

	// Damage is found and mended.
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	bad := slices.Clone(b)
	bad[len(bad)-1] ^= 1
	if err := errors.Join(os.Chmod(path, 0o666), os.WriteFile(path, bad, 0o666)); err != nil {
		t.Fatal(err)
	}
	mended := get("q4_0", "verify", "copy")
	if now, err := os.ReadFile(mended); err != nil || !slices.Equal(now, b) {
		t.Errorf("the damaged file was not mended: %v", err)
	}

	// What an earlier generator made goes.
	s, err := store.Open(dir, store.Options{})
	if err != nil {
		t.Fatal(err)
	}
	models, err := s.List()
	if err != nil || len(models) != 2 {
		t.Fatalf("%d models, %v", len(models), err)
	}
	src, err := store.FromFile(mended)
	if err != nil {
		t.Fatal(err)
	}
	const old = "tiny-q4_0-00000000"
	if _, err := s.Add(t.Context(), src, old, nil); err != nil {
		t.Fatal(err)
	}
	for _, m := range models {
		if _, err := s.Remove(t.Context(), m.Name); err != nil {
			t.Fatal(err)
		}
	}
	get("q4_0", "copy", "verify")
	if _, err := s.Get(old); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("the model of an earlier generator: %v", err)
	}
}

func TestSyntheticRefuses(t *testing.T) {
	if _, err := Synthetic(t.Context(), t.TempDir(), "huge", "q8_0", nil); err == nil || !strings.Contains(err.Error(), "there are: 1.1b, ") {
		t.Errorf("an unknown preset: %v", err)
	}
	if _, err := Synthetic(t.Context(), t.TempDir(), "tiny", "q9", nil); err == nil || !strings.Contains(err.Error(), "q9") {
		t.Errorf("an unknown type: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := Synthetic(ctx, t.TempDir(), "tiny", "q8_0", nil); !errors.Is(err, context.Canceled) {
		t.Errorf("a cancelled one: %v", err)
	}
}

func TestCacheDir(t *testing.T) {
	for _, c := range []struct {
		env  map[string]string
		want string
	}{
		{map[string]string{"GEIST_HOME": "/g", "XDG_CACHE_HOME": "/x", "HOME": "/h"}, "/g/synth"},
		{map[string]string{"XDG_CACHE_HOME": "/x", "HOME": "/h"}, "/x/geist/synth"},
		{map[string]string{"XDG_CACHE_HOME": "relative", "HOME": "/h"}, "/h/.cache/geist/synth"},
		{nil, ""},
	} {
		got, err := CacheDir(func(k string) string { return c.env[k] })
		if filepath.ToSlash(got) != c.want || (err == nil) != (c.want != "") {
			t.Errorf("%v: %q, %v", c.env, got, err)
		}
	}
}

func TestLastLevelCache(t *testing.T) {
	dir := t.TempDir()
	if n := lastLevelCache(dir); n != 0 {
		t.Errorf("%d without caches", n)
	}
	for name, text := range map[string]string{"index0": "48K\n", "index2": "2M\n", "index3": "266240K\n", "index4": "many\n", "index5": "99999999999999G"} {
		if err := errors.Join(os.Mkdir(filepath.Join(dir, name), 0o777), os.WriteFile(filepath.Join(dir, name, "size"), []byte(text), 0o666)); err != nil {
			t.Fatal(err)
		}
	}
	if n := lastLevelCache(dir); n != 260<<20 {
		t.Errorf("%d bytes", n)
	}
}

func TestMedian(t *testing.T) {
	for _, c := range []struct {
		v    []float64
		want float64
	}{{nil, 0}, {[]float64{3}, 3}, {[]float64{9, 1}, 5}, {[]float64{7, 1, 2}, 2}, {[]float64{4, 1, 3, 2}, 2.5}} {
		if got := median(c.v); got != c.want {
			t.Errorf("median of %v is %v", c.v, got)
		}
	}
}

// Only tokens after every session's first count.
func TestDecodeRate(t *testing.T) {
	at := func(ms ...int) (a answer) {
		for _, m := range ms {
			a.times = append(a.times, time.Unix(0, int64(m)*1e6))
		}
		return a
	}
	if got := decodeRate(at(0, 10, 20, 30), at(10, 20, 30)); got != 200 {
		t.Errorf("two sessions: %v tok/s", got)
	}
	if got := decodeRate(at(100, 150, 200)); got != 20 {
		t.Errorf("one session: %v tok/s", got)
	}
}

func loaded(t *testing.T, o Options) *bench {
	t.Helper()
	b := &bench{Options: o, teams: map[int]*kernel.Team{}}
	for _, n := range o.Threads {
		b.teams[n] = kernel.NewTeam(n)
		t.Cleanup(b.teams[n].Close)
	}
	f, m, err := b.load()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { m.Close(); f.Close() })
	b.m = m
	return b
}
