package model

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/geistnet/geist/internal/gguf"
	"github.com/geistnet/geist/internal/kernel"
	"github.com/geistnet/geist/internal/synth"
	"github.com/geistnet/geist/merkle"
)

// TestTraceInLanes: roots of positions are the same whether sixteen of them are
// hashed in lanes or each by itself, which a trace that keeps leaves does. Of the
// window's edge, of first positions in the middle of a block of sixteen and of
// several segments some groups are hashed this way and some the other.
func TestTraceInLanes(t *testing.T) {
	for name, spec := range map[string]synth.Spec{
		"llama q8_0":   {Dim: 64, Layers: 3, Heads: 4, KVHeads: 2, FF: 192, Vocab: 512, Context: 1024, Type: "q8_0"},
		"one key head": {Dim: 96, Layers: 1, Heads: 3, KVHeads: 1, FF: 96, Vocab: 512, Context: 1024, Type: "q4_0"},
		"no groups":    {Dim: 64, Layers: 2, Heads: 4, KVHeads: 4, FF: 64, Vocab: 512, Context: 1024, Type: "f16"},
		"window":       {Arch: "gemma3", Dim: 64, Layers: 7, Heads: 4, KVHeads: 2, FF: 96, Vocab: 512, Context: 1024, Tied: true, Type: "q8_0"},
		"norms behind": {Arch: "gemma2", Dim: 64, Layers: 2, Heads: 4, KVHeads: 2, FF: 96, Vocab: 512, Context: 1024, Tied: true, Type: "q8_0"},
		"mixture":      {Arch: "qwen3moe", Dim: 64, Layers: 2, Heads: 4, KVHeads: 2, FF: 96, Experts: 8, Used: 3, Vocab: 512, Context: 1024, Type: "q8_0"},
		"large blocks": {Dim: 256, Layers: 2, Heads: 4, KVHeads: 2, FF: 512, Vocab: 512, Context: 1024, Type: "q4_k"},
	} {
		t.Run(name, func(t *testing.T) {
			f := synthFile(t, spec)
			for threads := 1; threads <= 3; threads += 2 {
				team := kernel.NewTeam(threads)
				defer team.Close()
				m, err := Load(f, Options{Path: kernel.Best(), Team: team})
				if err != nil {
					t.Fatal(err)
				}
				defer m.Close()
				ids := make([]int32, 230)
				for i := range ids {
					ids[i] = int32((i*7919 + 13) % m.Vocab)
				}
				roots := func(keep bool) []merkle.Hash {
					s := m.NewState(team, len(ids)+100)
					trace := s.NewTrace(shapeOf(m))
					if keep {
						trace.Keep = func(int, int, int) bool { return false }
					}
					s.Watch(trace)
					var all []merkle.Hash
					c, d := newCache(m, len(ids)), newCache(m, len(ids))
					for _, segs := range [][]Segment{
						{{Cache: c, Tokens: ids[:5]}, {Cache: d, Tokens: ids[50:150], Logits: All}},
						{{Cache: c, Start: 5, Tokens: ids[5:]}},
						{{Cache: d, Start: 100, Tokens: ids[:1], Logits: Last}},
					} {
						if _, err := s.Forward(segs); err != nil {
							t.Fatal(err)
						}
						n := 0
						for i := range segs {
							n += len(segs[i].Tokens)
						}
						for i := range n {
							all = append(all, trace.Root(i), trace.PlainRoot(i))
						}
						if !keep && n > 100 && !trace.layer[0].someWide {
							t.Error("no group was hashed in lanes")
						}
						if keep && trace.layer[0].someWide {
							t.Error("a group was hashed in lanes")
						}
					}
					return all
				}
				want, got := roots(true), roots(false)
				for i := range want {
					if got[i] != want[i] || want[i] == (merkle.Hash{}) {
						t.Fatalf("%d threads, root %d: %v, alone %v", threads, i, got[i], want[i])
					}
				}
			}
		})
	}
}

// The same position has the same root in whatever way a prompt is cut.
func TestTraceOfChunks(t *testing.T) {
	team := kernel.NewTeam(2)
	defer team.Close()
	f := synthFile(t, synth.Spec{Dim: 64, Layers: 2, Heads: 4, KVHeads: 2, FF: 192, Vocab: 512, Context: 1024, Type: "q8_0"})
	m, err := Load(f, Options{Path: kernel.Best(), Team: team})
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	ids := make([]int32, 100)
	for i := range ids {
		ids[i] = int32((i*31 + 7) % m.Vocab)
	}
	var want []merkle.Hash
	for _, chunk := range []int{1, 100, 64, 48, 17, 16, 15, 3} {
		t.Run(fmt.Sprint(chunk), func(t *testing.T) {
			s := m.NewState(team, len(ids))
			trace := s.NewTrace(shapeOf(m))
			s.Watch(trace)
			c := newCache(m, len(ids))
			var got []merkle.Hash
			for i := 0; i < len(ids); i += chunk {
				part := ids[i:min(i+chunk, len(ids))]
				if _, err := s.Forward([]Segment{{Cache: c, Start: i, Tokens: part}}); err != nil {
					t.Fatal(err)
				}
				for j := range part {
					got = append(got, trace.Root(j))
				}
			}
			if want == nil {
				want = got
			}
			for i := range want {
				if got[i] != want[i] {
					t.Fatalf("position %d: %v, token by token %v", i, got[i], want[i])
				}
			}
		})
	}
}

func synthFile(t *testing.T, spec synth.Spec) *gguf.File {
	t.Helper()
	path := filepath.Join(t.TempDir(), "m.gguf")
	w, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := synth.Write(w, spec, nil); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	f, err := gguf.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}
