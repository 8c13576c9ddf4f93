//go:build unix

package model

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/geistnet/geist/internal/gguf"
	"github.com/geistnet/geist/internal/kernel"
	"github.com/geistnet/geist/internal/synth"
)

// A file that becomes shorter while it is mapped makes errors, before, while
// and after its weights are loaded, and no crash.
func TestShrunkFile(t *testing.T) {
	spec := synth.Spec{Dim: 512, Layers: 1, Heads: 4, KVHeads: 2, FF: 512, Vocab: 2000, Context: 64, Type: "f32"}
	open := func() *gguf.File {
		path := filepath.Join(t.TempDir(), "m.gguf")
		w, err := os.Create(path)
		if err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(synth.Write(w, spec, nil), w.Close()); err != nil {
			t.Fatal(err)
		}
		f, err := gguf.Open(path)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { f.Close() })
		return f
	}
	cut := func(f *gguf.File, size int64) {
		if err := os.Truncate(f.Path, size); err != nil {
			t.Fatal(err)
		}
	}
	refused := func(what string, err error) {
		t.Helper()
		if err == nil || errors.Is(err, ErrVoid) || !strings.Contains(err.Error(), "became shorter while it was in use") {
			t.Errorf("%s: %v", what, err)
		}
	}
	team := kernel.NewTeam(2)
	defer team.Close()

	f := open()
	cut(f, 4096)
	_, err := Plan(f, Options{})
	refused("norms", err)

	f = open()
	_, err = Load(f, Options{Team: team, Path: kernel.Best(), Progress: func(done, _ int64) { cut(f, 1<<20) }})
	refused("weights", err)

	f = open()
	m, err := Load(f, Options{Team: team, Path: kernel.Best()})
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	s := m.NewState(team, 8)
	run := func(ids ...int32) ([][]float32, error) {
		return s.Forward([]Segment{{Cache: newCache(m, len(ids)), Tokens: ids, Logits: Last}})
	}
	want, err := run(1, 2, 3)
	if err != nil {
		t.Fatal(err)
	}
	first := want[0][0]
	cut(f, int64(f.Tensor("token_embd.weight").Offset)+100*512*4)
	_, err = run(1, 2, 1999)
	refused("embedding", err)
	// What is still there is still right.
	if got, err := run(1, 2, 3); err != nil || got[0][0] != first {
		t.Errorf("afterwards: %v", err)
	}
}
