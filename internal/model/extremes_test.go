package model

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"testing"

	"github.com/geistnet/geist/arith"
	"github.com/geistnet/geist/internal/gguf"
	"github.com/geistnet/geist/internal/kernel"
	"github.com/geistnet/geist/internal/quant"
)

// oddShape is a llama, or a relative of it, of a shape that no family has.
type oddShape struct {
	arch             string
	dim, ff, vocab   int
	heads, kv        int
	keyDim, valDim   int
	window           int
	softcap          float64
	experts          int
	format           arith.Format
	tied             bool
	huge, denormal   bool // weights far from one
	hostile          bool // scales of blocks are infinite, NaN, −0, denormal
	positions, batch int
}

func (o oddShape) parts(r *rand.Rand) (parts, [][]byte) {
	p := parts{meta: []gguf.KV{{Key: "general.architecture", Value: gguf.ValueOf(o.arch)}}}
	num := func(k string, v int) { p.set(o.arch+"."+k, gguf.ValueOf(uint32(v))) }
	num("vocab_size", o.vocab)
	num("context_length", 4096)
	num("embedding_length", o.dim)
	num("block_count", 2)
	num("feed_forward_length", o.ff)
	num("attention.head_count", o.heads)
	num("attention.head_count_kv", o.kv)
	num("attention.key_length", o.keyDim)
	num("attention.value_length", o.valDim)
	num("rope.dimension_count", o.keyDim)
	if o.window > 0 {
		num("attention.sliding_window", o.window)
	}
	if o.softcap > 0 {
		p.set(o.arch+".attn_logit_softcapping", gguf.ValueOf(float32(o.softcap)))
		p.set(o.arch+".final_logit_softcapping", gguf.ValueOf(float32(o.softcap)))
	}
	if o.experts > 0 {
		num("expert_count", o.experts)
		num("expert_used_count", min(2, o.experts))
		num("expert_feed_forward_length", o.ff)
	}
	p.set(o.arch+".attention.layer_norm_rms_epsilon", gguf.ValueOf(float32(1e-5)))
	p.set(o.arch+".rope.freq_base", gguf.ValueOf(float32(10000)))
	var data [][]byte
	add := func(name string, norm bool, dims ...int) {
		f := o.format
		if norm || dims[0]%f.BlockLen() != 0 {
			f = arith.F32
		}
		n := 1
		var d []uint64
		for _, x := range dims {
			n *= x
			d = append(d, uint64(x))
		}
		x := make([]float32, n)
		scale := 1 / math.Sqrt(float64(dims[0]))
		switch {
		case o.huge:
			scale *= 2000
		case o.denormal:
			scale *= 1e-6
		}
		for i := range x {
			x[i] = float32(r.NormFloat64() * scale)
			if norm {
				x[i] = 1 + float32(r.NormFloat64())/4
			}
		}
		b := make([]byte, f.RowBytes(n))
		if err := quant.Row(b, f, x); err != nil {
			panic(err)
		}
		if o.hostile && !norm {
			spoil(r, f, b)
		}
		p.tensors = append(p.tensors, gguf.TensorInfo{Name: name, Dims: d, Format: f})
		data = append(data, b)
	}
	add("token_embd.weight", false, o.dim, o.vocab)
	for i := range 2 {
		l := func(kind string, norm bool, dims ...int) {
			add(fmt.Sprintf("blk.%d.%s.weight", i, kind), norm, dims...)
		}
		l("attn_norm", true, o.dim)
		l("attn_q", false, o.dim, o.heads*o.keyDim)
		l("attn_k", false, o.dim, o.kv*o.keyDim)
		l("attn_v", false, o.dim, o.kv*o.valDim)
		if o.arch == "gemma3" || o.arch == "qwen3" || o.arch == "qwen3moe" {
			l("attn_q_norm", true, o.keyDim)
			l("attn_k_norm", true, o.keyDim)
		}
		l("attn_output", false, o.heads*o.valDim, o.dim)
		if o.arch == "gemma2" || o.arch == "gemma3" {
			l("post_attention_norm", true, o.dim)
			l("post_ffw_norm", true, o.dim)
		}
		l("ffn_norm", true, o.dim)
		if e := o.experts; e > 0 {
			l("ffn_gate_inp", true, o.dim, e)
			l("ffn_gate_exps", false, o.dim, o.ff, e)
			l("ffn_up_exps", false, o.dim, o.ff, e)
			l("ffn_down_exps", false, o.ff, o.dim, e)
		} else {
			l("ffn_gate", false, o.dim, o.ff)
			l("ffn_up", false, o.dim, o.ff)
			l("ffn_down", false, o.ff, o.dim)
		}
	}
	add("output_norm.weight", true, o.dim)
	if !o.tied {
		add("output.weight", false, o.dim, o.vocab)
	}
	return p, data
}

// spoil writes numbers of all kinds into the scales of a few blocks.
func spoil(r *rand.Rand, f arith.Format, b []byte) {
	kinds := []uint16{0x7c00, 0xfc00, 0x7e01, 0x8000, 0x0001, 0x83ff, 0x7bff, 0xfbff, 0x0000}
	if f == arith.BF16 {
		kinds = []uint16{0x7f80, 0xff80, 0x7fc1, 0x8000, 0x0001, 0x807f, 0x7f7f, 0xff7f, 0x0000}
	}
	// One model in two has nothing that is not finite, so that it runs.
	if r.IntN(2) == 0 {
		kinds = kinds[3:6]
	}
	size := f.BlockBytes()
	at := []int{0}
	switch f {
	case arith.Q2_K:
		at = []int{80, 82}
	case arith.Q3_K:
		at = []int{108}
	case arith.Q6_K:
		at = []int{208}
	case arith.Q4_1, arith.Q5_1, arith.Q4_K, arith.Q5_K:
		at = []int{0, 2}
	case arith.F32:
		at = []int{2} // the upper half
	}
	for range 1 + r.IntN(3) {
		block := b[r.IntN(len(b)/size)*size:]
		k := kinds[r.IntN(len(kinds))]
		if f == arith.F32 && k >= 0x7c00 && k < 0x8000 {
			k = 0x7f80
		}
		binary.LittleEndian.PutUint16(block[at[r.IntN(len(at))]:], k)
		if f != arith.F32 && f != arith.F16 && f != arith.BF16 && r.IntN(2) == 0 {
			for i := range block[:size] { // codes and sub-scales at their ends
				if d := i - at[0]; d < 0 || d >= 4 {
					block[i] = []byte{0x80, 0x7f, 0xff, 0x00}[r.IntN(4)]
				}
			}
		}
	}
}

// run gives the bits of all logits of ids fed in batches, or nil if the run is
// void. What pages hold before they are written must not matter.
func (o oddShape) run(t *testing.T, f *gguf.File, path kernel.Path, threads, batch int, fill byte, ids []int32) []uint32 {
	t.Helper()
	team := kernel.NewTeam(threads)
	defer team.Close()
	m, err := Load(f, Options{Path: path, Team: team})
	if err != nil {
		t.Fatalf("%+v: %v", o, err)
	}
	defer m.Close()
	c := newCache(m, len(ids))
	for _, p := range c.Pages {
		for i := range p {
			p[i] = fill
		}
	}
	s := m.NewState(team, batch)
	var bits []uint32
	for at := 0; at < len(ids); at += batch {
		n := min(batch, len(ids)-at)
		out, err := s.Forward([]Segment{{Cache: c, Start: at, Tokens: ids[at : at+n], Logits: All}})
		if errors.Is(err, ErrVoid) {
			return nil
		}
		if err != nil {
			t.Fatal(err)
		}
		for _, row := range out {
			for _, v := range row {
				bits = append(bits, math.Float32bits(v))
			}
		}
	}
	return bits
}

func pick[T any](r *rand.Rand, of ...T) T { return of[r.IntN(len(of))] }

func randomShape(r *rand.Rand) oddShape {
	o := oddShape{
		arch:   pick(r, "llama", "llama", "qwen2", "qwen3", "gemma2", "gemma3", "qwen3moe"),
		format: pick(r, arith.Formats()...),
		keyDim: pick(r, 2, 4, 8, 10, 16, 20, 36, 64, 100),
		vocab:  pick(r, 1, 3, 15, 16, 17, 100, 257),
		kv:     pick(r, 1, 1, 2, 3),
		tied:   r.IntN(2) == 0, huge: r.IntN(6) == 0, denormal: r.IntN(6) == 0, hostile: r.IntN(3) == 0,
		positions: pick(r, 1, 2, 15, 16, 17, 63, 64, 65, 80, 127, 128, 129),
	}
	o.valDim = o.keyDim
	if r.IntN(3) == 0 {
		o.valDim = pick(r, 2, 4, 8, 12, 16, 20, 36, 80)
	}
	o.heads = o.kv * pick(r, 1, 2, 3, 5, 7, 9)
	unit := max(1, o.format.BlockLen())
	o.dim, o.ff = unit, unit
	if unit == 1 {
		o.dim, o.ff = pick(r, 1, 3, 10, 16, 31, 100), pick(r, 1, 3, 17, 33, 100)
	} else if unit == 32 {
		o.dim, o.ff = 32*(1+r.IntN(3)), pick(r, 32, 96, 33, 1)
	}
	if o.arch[:3] == "gem" || r.IntN(3) == 0 {
		o.window = pick(r, 1, 2, 3, 15, 16, 17, 63, 64, 65)
	}
	if o.arch == "gemma2" {
		o.softcap = pick(r, 0.001, 1, 50, 1e6)
	}
	if o.arch == "qwen3moe" {
		o.experts = pick(r, 1, 2, 5)
	}
	o.batch = pick(r, 1, 2, 3, 7, 8, 16, 50)
	return o
}

// All paths give the same bits, or are all void, on models of odd shapes with
// weights at the ends of what they can hold, whatever the batches, the number
// of threads and what the cache held before.
func TestExtremeShapes(t *testing.T) {
	n := 24
	if testing.Short() {
		n = 8
	}
	finite, void := 0, 0
	for seed := range uint64(n) {
		r := rand.New(rand.NewPCG(seed, 77))
		o := randomShape(r)
		p, data := o.parts(r)
		f, err := p.fileOf(data)
		if err != nil {
			t.Fatalf("%+v: %v", o, err)
		}
		if _, err := Plan(f, Options{}); err != nil {
			t.Logf("%+v: %v", o, err)
			continue
		}
		ids := make([]int32, o.positions)
		for i := range ids {
			ids[i] = int32(r.IntN(o.vocab))
			if i > 0 && seed%4 == 0 { // equal scores
				ids[i] = ids[0]
			}
		}
		want := o.run(t, f, kernel.Generic, 1, o.positions, 0, ids)
		if want == nil {
			void++
		} else {
			finite++
		}
		for _, path := range kernel.Paths() {
			for _, batch := range []int{o.positions, o.batch} {
				for _, fill := range []byte{0, 0xff, 0x7c} {
					if fill == 0x7c && path != kernel.Best() {
						continue
					}
					got := o.run(t, f, path, 1+int(fill)%2, batch, fill, ids)
					if (got == nil) != (want == nil) {
						t.Errorf("seed %d %+v: %v, batches of %d, cache of %#x: void is %v, want %v", seed, o, path, batch, fill, got == nil, want == nil)
						continue
					}
					for i := range want {
						if got[i] != want[i] {
							t.Errorf("seed %d %+v: %v, batches of %d, cache of %#x: position %d logit %d is %#x, want %#x", seed, o, path, batch, fill, i/o.vocab, i%o.vocab, got[i], want[i])
							break
						}
					}
				}
			}
		}
	}
	t.Logf("%d models run, %d are void", finite, void)
	if finite == 0 || void == 0 && n > 8 {
		t.Errorf("%d models run and %d are void; both must be tested", finite, void)
	}
}

// fileOf writes the parts with the given weights.
func (p *parts) fileOf(data [][]byte) (*gguf.File, error) {
	var b bytes.Buffer
	w, err := gguf.NewWriter(&b, p.meta, p.tensors)
	if err != nil {
		return nil, err
	}
	for _, d := range data {
		if err := w.WriteTensor(d); err != nil {
			return nil, err
		}
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	return gguf.Parse("odd", b.Bytes())
}
