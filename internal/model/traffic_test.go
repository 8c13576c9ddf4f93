package model

import (
	"bytes"
	"testing"

	"github.com/geistnet/geist/internal/gguf"
	"github.com/geistnet/geist/internal/kernel"
	"github.com/geistnet/geist/internal/synth"
)

func TestReadBytes(t *testing.T) {
	for _, c := range []struct {
		name                     string
		spec                     synth.Spec
		pos                      int
		layer, once, seen, heads int // elements
	}{
		{"dense", synth.Spec{Dim: 64, Layers: 3, Heads: 4, KVHeads: 2, FF: 192, Vocab: 512, Context: 256}, 9,
			64*64 + 2*64*32 + 64*64 + 3*64*192, 64 * 512, 10, 2},
		{"mixture", synth.Spec{Dim: 64, Layers: 2, Heads: 4, KVHeads: 4, FF: 96, Experts: 16, Used: 3, Vocab: 512, Context: 256}, 99,
			4*64*64 + 64*16 + 3*3*64*96, 64 * 512, 100, 4},
		{"window", synth.Spec{Arch: "gemma2", Dim: 64, Layers: 1, Heads: 4, KVHeads: 2, FF: 96, Vocab: 512, Context: 256}, 199,
			64*64 + 2*64*32 + 64*64 + 3*64*96, 64 * 512, 96, 2},
	} {
		c.spec.Type = "f32"
		var b bytes.Buffer
		if err := synth.Write(&b, c.spec, nil); err != nil {
			t.Fatal(err)
		}
		f, err := gguf.Parse(c.name, b.Bytes())
		if err != nil {
			t.Fatal(err)
		}
		m, err := Load(f, Options{Path: kernel.Best()})
		if err != nil {
			t.Fatal(err)
		}
		weights, cache := m.ReadBytes(c.pos)
		if want := int64(4 * (c.spec.Layers*c.layer + c.once)); weights != want {
			t.Errorf("%s: %d bytes of weights, want %d", c.name, weights, want)
		}
		if want := int64(c.spec.Layers * c.seen * c.heads * 2 * 16 * 4); cache != want {
			t.Errorf("%s: %d bytes of cache, want %d", c.name, cache, want)
		}
		if err := m.Close(); err != nil {
			t.Fatal(err)
		}
	}
}
