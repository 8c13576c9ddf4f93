package model

import (
	"bytes"
	"errors"
	"fmt"
	"math"
	"strings"
	"testing"

	"github.com/geistnet/geist/arith"
	"github.com/geistnet/geist/internal/gguf"
	"github.com/geistnet/geist/internal/kernel"
	"github.com/geistnet/geist/internal/synth"
)

// parts is a file that can be changed and written again.
type parts struct {
	meta    []gguf.KV
	tensors []gguf.TensorInfo
}

func tiny(t testing.TB, spec synth.Spec) parts {
	t.Helper()
	var b bytes.Buffer
	if err := synth.Write(&b, spec, nil); err != nil {
		t.Fatal(err)
	}
	f, err := gguf.Parse("tiny", b.Bytes())
	if err != nil {
		t.Fatal(err)
	}
	p := parts{}
	for _, kv := range f.Meta() {
		if !strings.HasPrefix(kv.Key, "tokenizer.") {
			p.meta = append(p.meta, kv)
		}
	}
	for _, x := range f.Tensors() {
		p.tensors = append(p.tensors, x.Info())
	}
	return p
}

// tinySpecs are one of each kind of layer.
func tinySpecs() []synth.Spec {
	base := synth.Spec{Dim: 32, Layers: 1, Heads: 4, KVHeads: 2, FF: 32, Vocab: 300, Context: 64, Type: "q8_0"}
	with := func(arch string, f func(*synth.Spec)) synth.Spec {
		s := base
		s.Arch = arch
		if f != nil {
			f(&s)
		}
		return s
	}
	return []synth.Spec{
		with("llama", nil),
		with("llama", func(s *synth.Spec) { s.Experts, s.Used, s.Type = 4, 2, "f32" }),
		with("gemma3", func(s *synth.Spec) { s.Tied = true }),
		with("qwen3moe", func(s *synth.Spec) { s.Experts, s.Used = 2, 2 }),
		with("gemma2", func(s *synth.Spec) { s.HeadDim = 10 }),
		with("llama", func(s *synth.Spec) { s.Dim, s.FF, s.Type = 256, 256, "q4_k" }),
		with("geist", func(s *synth.Spec) {
			s.Layers, s.Tied = 3, true
			s.Memory = &synth.Memory{Rules: []string{"hash", "", "product"}, HashHeads: 1, HashRows: 3, ProductHeads: 2, Keys: 3, KeyDim: 32, TopK: 9}
		}),
	}
}

func (p *parts) set(key string, v gguf.Value) {
	for i := range p.meta {
		if p.meta[i].Key == key {
			p.meta[i].Value = v
			return
		}
	}
	p.meta = append(p.meta, gguf.KV{Key: key, Value: v})
}

func (p *parts) remove(key string) {
	for i := range p.meta {
		if p.meta[i].Key == key {
			p.meta = append(p.meta[:i:i], p.meta[i+1:]...)
			return
		}
	}
}

func (p *parts) tensor(name string) *gguf.TensorInfo {
	for i := range p.tensors {
		if p.tensors[i].Name == name {
			return &p.tensors[i]
		}
	}
	return nil
}

func (p *parts) drop(name string) {
	for i := range p.tensors {
		if p.tensors[i].Name == name {
			p.tensors = append(p.tensors[:i:i], p.tensors[i+1:]...)
			return
		}
	}
}

var errTooLarge = errors.New("more weights than a test writes")

// file writes the parts with weights that are small and finite.
func (p *parts) file() (*gguf.File, error) {
	total := uint64(0)
	sizes := make([]int, len(p.tensors))
	for i, t := range p.tensors {
		n := uint64(1)
		for _, d := range t.Dims {
			if d == 0 || d > 1<<20 {
				return nil, errTooLarge
			}
			if n *= d; n > 1<<21 {
				return nil, errTooLarge
			}
		}
		if !t.Format.Known() || t.Dims[0]%uint64(t.Format.BlockLen()) != 0 {
			return nil, errTooLarge
		}
		sizes[i] = t.Format.RowBytes(int(n))
		total += uint64(sizes[i])
	}
	if total > 1<<22 {
		return nil, errTooLarge
	}
	var b bytes.Buffer
	w, err := gguf.NewWriter(&b, p.meta, p.tensors)
	if err != nil {
		return nil, err
	}
	for i, n := range sizes {
		data := make([]byte, n)
		if p.tensors[i].Format == arith.F32 {
			for j := 3; j < n; j += 4 {
				data[j-1], data[j] = 0x80, 0x3e // 0.25
			}
		}
		if err := w.WriteTensor(data); err != nil {
			return nil, err
		}
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	return gguf.Parse("hostile", b.Bytes())
}

// attempt loads f and, if that is possible in little memory, runs it. What
// Load does must be what Plan predicts.
func attempt(t *testing.T, f *gguf.File) error {
	t.Helper()
	p, err := Plan(f, Options{})
	if err != nil {
		if _, again := Load(f, Options{}); again == nil || again.Error() != err.Error() {
			t.Fatalf("Plan: %v; Load: %v", err, again)
		}
		if !strings.HasPrefix(err.Error(), f.Path+": ") || len(err.Error()) > 1500 {
			t.Fatalf("a poor message: %v", err)
		}
		return err
	}
	// 16 rows are the least that is packed, and each has at most twice its
	// bytes in the file.
	if most := 32*f.Size + 1<<20; p.WeightBytes() > most {
		t.Fatalf("a file of %d bytes wants %d bytes for its weights", f.Size, p.WeightBytes())
	}
	if p.WeightBytes() > 64<<20 || p.StateBytes(4, 4) > 64<<20 || p.PageBytes() > 64<<20 {
		return nil
	}
	for _, path := range kernel.Paths() {
		m, err := Load(f, Options{Path: path})
		if err != nil {
			t.Fatalf("Plan is content, Load is not: %v", err)
		}
		if m.WeightBytes() != p.WeightBytes() || m.PageBytes() != p.PageBytes() {
			t.Fatalf("%d and %d bytes were predicted, %d and %d are", p.WeightBytes(), p.PageBytes(), m.WeightBytes(), m.PageBytes())
		}
		forward(t, m)
		if err := m.Close(); err != nil {
			t.Fatal(err)
		}
	}
	return nil
}

// forward runs three tokens and one more.
func forward(t *testing.T, m *Model) {
	t.Helper()
	team := kernel.NewTeam(1)
	defer team.Close()
	c := &Cache{Pages: [][]byte{make([]byte, m.PageBytes())}}
	s := m.NewState(team, 4)
	ids := []int32{0, int32(m.Vocab - 1), 0}
	out, err := s.Forward([]Segment{{Cache: c, Tokens: ids, Logits: All}})
	if err == nil {
		_, err = s.Forward([]Segment{{Cache: c, Start: 3, Tokens: ids[:1], Before: ids, Logits: Last}})
	}
	if err == nil && len(out) != 3 || err != nil && !errors.Is(err, ErrVoid) {
		t.Fatalf("%v: %d logits, error %v", m.Path, len(out), err)
	}
}

// TestHostile: what a file may claim, one thing at a time, and what is said.
func TestHostile(t *testing.T) {
	set := func(key string, v gguf.Value) func(*parts) { return func(p *parts) { p.set(key, v) } }
	u := func(v uint64) gguf.Value { return gguf.ValueOf(v) }
	fl := func(v float64) gguf.Value { return gguf.ValueOf(v) }
	for _, c := range []struct {
		name string
		spec int
		do   func(*parts)
		want string // "": it loads
	}{
		{"whole", 0, func(*parts) {}, ""},
		{"no architecture", 0, func(p *parts) { p.remove("general.architecture") }, "general.architecture is missing"},
		{"unknown architecture", 0, set("general.architecture", gguf.ValueOf("mamba")), `architecture "mamba" is not supported; supported are geist, gemma2, gemma3, llama,`},
		{"adapter", 0, set("general.type", gguf.ValueOf("adapter")), "merge it into its model first"},
		{"part of a model", 0, set("split.count", gguf.ValueOf(uint16(3))), "this is part 1 of 3 of a model"},
		{"no weights", 0, func(p *parts) { p.tensors = nil }, "no weights"},
		{"no embedding", 0, func(p *parts) { p.drop("token_embd.weight") }, `"token_embd.weight" is missing`},
		{"embedding too narrow", 0, func(p *parts) { p.tensor("token_embd.weight").Dims[0] = 64 }, "is 64 wide; expected 32"},
		{"many layers", 0, set("llama.block_count", u(4096)), `"blk.1.attn_norm.weight" is missing`},
		{"too many layers", 0, set("llama.block_count", u(4097)), "llama.block_count is 4097; it must be between 1 and 4096"},
		{"no layers", 0, set("llama.block_count", u(0)), "llama.block_count is 0"},
		{"layers in words", 0, set("llama.block_count", gguf.ValueOf("many")), `llama.block_count is "many" (string)`},
		{"layers below zero", 0, set("llama.block_count", gguf.ValueOf(int32(-1))), "llama.block_count is -1 (int32)"},
		{"layers missing", 0, func(p *parts) { p.remove("llama.block_count") }, "llama.block_count is missing"},
		{"most heads", 0, func(p *parts) {
			p.set("llama.attention.head_count", u(4096))
			p.set("llama.attention.head_count_kv", u(4096))
			p.set("llama.attention.key_length", u(4096))
		}, `expected 16777216 of 32`},
		{"heads do not divide", 0, set("llama.attention.head_count_kv", u(3)), "4 heads over 3 key heads"},
		{"more key heads", 0, set("llama.attention.head_count_kv", u(8)), "between 1 and 4"},
		{"heads differ", 0, set("llama.attention.head_count_kv", gguf.ArrayOf([]int32{2, 4})), "differs between layers"},
		{"heads in an array", 0, set("llama.attention.head_count_kv", gguf.ArrayOf([]int32{2, 2})), ""},
		{"odd rotation", 0, set("llama.rope.dimension_count", u(3)), "3 rotated dimensions"},
		{"wide rotation", 0, set("llama.rope.dimension_count", u(10)), "between 1 and 8"},
		{"long context", 0, set("llama.context_length", u(1<<30)), ""},
		{"endless context", 0, set("llama.context_length", u(1<<62)), "llama.context_length is 4611686018427387904"},
		{"no epsilon", 0, func(p *parts) { p.remove("llama.attention.layer_norm_rms_epsilon") }, "layer_norm_rms_epsilon is missing"},
		{"epsilon not a number", 0, set("llama.attention.layer_norm_rms_epsilon", fl(math.NaN())), "not a finite number"},
		{"base 1", 0, set("llama.rope.freq_base", fl(1)), "out of range"},
		{"base infinite", 0, set("llama.rope.freq_base", fl(math.Inf(1))), "not a finite number"},
		{"base in words", 0, set("llama.rope.freq_base", gguf.ValueOf("e")), "a floating-point number belongs there"},
		{"no stretch", 0, set("llama.rope.scale_linear", fl(0)), "out of range"},
		{"unknown scaling", 0, set("llama.rope.scaling.type", gguf.ValueOf("cubist")), `"cubist" is not supported; supported are none, linear, yarn and longrope`},
		{"yarn", 0, func(p *parts) {
			p.set("llama.rope.scaling.type", gguf.ValueOf("yarn"))
			p.set("llama.rope.scaling.factor", fl(1e6))
			p.set("llama.rope.scaling.yarn_beta_fast", fl(1e-6))
			p.set("llama.rope.scaling.yarn_beta_slow", fl(1e6))
			p.set("llama.rope.scaling.original_context_length", u(1))
		}, ""},
		{"yarn without end", 0, func(p *parts) {
			p.set("llama.rope.scaling.type", gguf.ValueOf("yarn"))
			p.set("llama.rope.scaling.yarn_beta_fast", fl(1e300))
		}, "out of range"},
		{"yarn with no magnitude", 0, func(p *parts) {
			p.set("llama.rope.scaling.type", gguf.ValueOf("yarn"))
			p.set("llama.rope.scaling.factor", fl(math.E))
			p.set("llama.rope.scaling.yarn_log_multiplier", fl(-20))
		}, "out of range"},
		{"no experts", 1, set("llama.expert_count", u(0)), `"blk.0.ffn_gate.weight" is missing`},
		{"one expert", 1, set("llama.expert_count", u(1)), "expert_used_count is 2; it must be between 1 and 1"},
		{"more experts than there are", 1, set("llama.expert_count", u(4096)), "expected 4096 of 32"},
		{"experts without end", 1, set("llama.expert_count", u(1<<63)), "the most is 4096"},
		{"wide experts", 1, set("llama.expert_feed_forward_length", u(1<<63)), "the most is 1048576"},
		{"no expert used", 1, set("llama.expert_used_count", u(0)), "expert_used_count is 0"},
		{"heavy experts", 1, set("llama.expert_weights_scale", fl(1e300)), "expert_weights_scale"},
		{"window without end", 2, set("gemma3.attention.sliding_window", u(1<<63)), "the most is 1073741824"},
		{"window of one", 2, set("gemma3.attention.sliding_window", u(1)), ""},
		{"period of one", 2, set("gemma3.attention.sliding_window_pattern", u(1)), ""},
		{"cap", 4, set("gemma2.attn_logit_softcapping", fl(1e-30)), "attn_logit_softcapping is 1e-30"},
		{"rules for other blocks", 6, set("geist.memory.rule", gguf.ArrayOf([]string{"hash", "product"})), "does not have a text for each of 3 blocks"},
		{"rules in numbers", 6, set("geist.memory.rule", gguf.ArrayOf([]int32{1, 2, 3})), "does not have a text for each of 3 blocks"},
		{"unknown rule", 6, set("geist.memory.rule", gguf.ArrayOf([]string{"hash", "", "sorted"})), `the rule of block 2 is "sorted"`},
		{"no rules", 6, func(p *parts) { p.remove("geist.memory.rule") }, `"blk.0.ffn_up.weight" is missing`},
		{"rule of another block", 6, set("geist.memory.rule", gguf.ArrayOf([]string{"product", "", "product"})), `"blk.0.memory_keys.weight" is missing`},
		{"no orders", 6, func(p *parts) { p.remove("geist.memory.hash.orders") }, "geist.memory.hash.orders is missing"},
		{"orders descend", 6, set("geist.memory.hash.orders", gguf.ArrayOf([]int32{3, 2})), "n-grams of 2 tokens follow those of 3"},
		{"one order", 6, set("geist.memory.hash.orders", gguf.ArrayOf([]int32{3})), "expected 6, of which 1 make 32 values"},
		{"long n-grams", 6, set("geist.memory.hash.orders", gguf.ArrayOf([]int64{2, 1 << 40})), "geist.memory.hash.orders has 1099511627776"},
		{"longest n-grams", 6, set("geist.memory.hash.orders", gguf.ArrayOf([]int32{1, 16})), ""},
		{"no heads", 6, set("geist.memory.hash.heads", u(0)), "geist.memory.hash.heads is 0"},
		{"other heads", 6, set("geist.memory.product.heads", u(3)), "which are no sub-keys of 3 heads"},
		{"more rows than pairs", 6, set("geist.memory.product.topk", u(10)), "the number of rows of a head is 10; it must be between 1 and 9"},
		{"no table", 6, func(p *parts) { p.drop("blk.0.memory.weight") }, `"blk.0.memory.weight" is missing`},
		{"short table", 6, func(p *parts) { p.tensor("blk.2.memory.weight").Dims[1] = 8 }, "has 8 rows of 32; expected 9, of which 1 make 32 values"},
		{"odd table", 6, func(p *parts) { p.tensor("blk.0.memory.weight").Dims[1] = 7 }, "has 7 rows of 16; expected 6"},
		{"no queries", 6, func(p *parts) { p.drop("blk.2.memory_query.weight") }, `"blk.2.memory_query.weight" is missing`},
		{"rows in blocks", 6, func(p *parts) { p.tensor("blk.2.memory.weight").Format = arith.Q8_0 }, ""},
		{"memory and experts", 6, func(p *parts) { p.set("geist.expert_count", u(2)); p.set("geist.expert_used_count", u(1)) }, "has no experts"},
		{"tensor of another model", 0, func(p *parts) {
			p.tensors = append(p.tensors, gguf.TensorInfo{Name: "blk.7.attn_norm.weight", Dims: []uint64{32}, Format: arith.F32})
		}, "1 tensors are unknown to the llama architecture and would be left out: blk.7.attn_norm.weight"},
		{"quantised norm", 0, func(p *parts) { p.tensor("output_norm.weight").Format = arith.F16 }, "expected 32 in F32"},
		{"short norm", 0, func(p *parts) { p.tensor("output_norm.weight").Dims[0] = 31 }, "has 31 values in F32; expected 32"},
		{"mixed inputs", 0, func(p *parts) { p.tensor("blk.0.attn_v.weight").Format = arith.F32 }, ""},
		{"mixed blocks", 5, func(p *parts) { p.tensor("blk.0.attn_v.weight").Format = arith.Q8_0 }, ""},
		{"mixed gates", 0, func(p *parts) { p.tensor("blk.0.ffn_up.weight").Format = arith.BF16 }, ""},
		{"mixed experts", 3, func(p *parts) { p.tensor("blk.0.ffn_up_exps.weight").Format = arith.F16 }, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := tiny(t, tinySpecs()[c.spec])
			c.do(&p)
			f, err := p.file()
			if err != nil {
				t.Fatal(err)
			}
			err = attempt(t, f)
			if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
				t.Errorf("error %v; want %q", err, c.want)
			}
		})
	}
}

// TestOddShapes runs every kind of layer in shapes that nobody would choose.
func TestOddShapes(t *testing.T) {
	ran := 0
	for i, spec := range tinySpecs() {
		for _, d := range []struct{ dim, heads, kv, head, ff int }{
			{1, 1, 1, 2, 1}, {2, 2, 1, 2, 3}, {17, 3, 3, 6, 33}, {33, 12, 1, 4, 16}, {7, 2, 2, 130, 65}, {32, 9, 3, 34, 15},
		} {
			spec := spec
			spec.Dim, spec.Heads, spec.KVHeads, spec.HeadDim, spec.FF = d.dim, d.heads, d.kv, d.head, d.ff
			if spec.Memory != nil {
				spec.FF *= 2 // rows of two orders
			}
			t.Run(fmt.Sprint(i, d), func(t *testing.T) {
				p := tiny(t, spec)
				f, err := p.file()
				if err != nil {
					t.Fatal(err)
				}
				if err := attempt(t, f); err != nil {
					t.Fatal(err)
				}
				ran++
			})
		}
	}
	if ran != 42 && !t.Failed() {
		t.Errorf("%d shapes ran", ran)
	}
}

// mutate changes p as data says, two or more bytes a change.
func (p *parts) mutate(data []byte) {
	numbers := []uint64{0, 1, 2, 3, 5, 31, 33, 64, 255, 256, 4095, 4096, 4097, 1 << 16, 1 << 20, 1<<20 + 1, 1 << 30, 1 << 31, 1<<32 - 1, 1 << 40, 1 << 62, 1 << 63, math.MaxUint64}
	floats := []float64{0, -1, 1, 1e-45, 1e-300, 1e300, 0.5, 1e6, 1e-6, math.NaN(), math.Inf(1), math.Inf(-1)}
	extra := []string{
		"rope.scaling.type", "rope.scaling.factor", "rope.scaling.attn_factor", "rope.scaling.original_context_length",
		"rope.scaling.yarn_beta_fast", "rope.scaling.yarn_beta_slow", "rope.scaling.yarn_ext_factor", "rope.scaling.yarn_log_multiplier",
		"rope.scale_linear", "attention.sliding_window", "attention.sliding_window_pattern", "attention.temperature_scale",
		"attn_logit_softcapping", "final_logit_softcapping", "expert_weights_scale", "expert_count", "expert_used_count",
		"expert_feed_forward_length", "rope.freq_base_swa", "attention.key_length", "attention.value_length",
		"memory.rule", "memory.hash.orders", "memory.hash.heads", "memory.product.heads", "memory.product.topk",
	}
	tensors := []string{"rope_freqs.weight", "rope_factors_short.weight", "rope_factors_long.weight", "output.bias", "blk.0.attn_q.bias", "blk.0.attn_qkv.weight", "blk.0.ffn_gate_inp.weight", "blk.0.attn_q_norm.weight", "blk.0.ffn_up.scale", "cls.output.weight", "\x1b[2J"}
	at := 0
	next := func(n int) int {
		if at >= len(data) {
			at++
			return 0
		}
		at++
		return int(data[at-1]) % n
	}
	arch := "llama"
	for _, kv := range p.meta {
		if kv.Key == "general.architecture" {
			arch, _ = kv.Value.Str()
		}
	}
	value := func() gguf.Value {
		switch next(6) {
		case 5:
			return gguf.ArrayOf([][]string{{}, {"hash"}, {"product", "hash", ""}, {"", "", "product"}}[next(4)])
		case 0:
			return gguf.ValueOf(numbers[next(len(numbers))])
		case 1:
			return gguf.ValueOf(uint32(next(128)))
		case 2:
			return gguf.ValueOf(float32(floats[next(len(floats))]))
		case 3:
			return gguf.ArrayOf([]int64{int64(numbers[next(len(numbers))]), int64(next(64))})
		}
		return gguf.ValueOf([]string{"", "none", "linear", "yarn", "longrope"}[next(5)])
	}
	for at < len(data) {
		switch op := next(8); {
		case op == 0:
			p.set(p.meta[next(len(p.meta))].Key, value())
		case op == 1:
			p.set(arch+"."+extra[next(len(extra))], value())
		case op == 2:
			p.remove(p.meta[next(len(p.meta))].Key)
		case op == 3:
			p.set("general.architecture", gguf.ValueOf(Architectures()[next(len(families))]))
		case op == 4:
			p.tensors = append(p.tensors, gguf.TensorInfo{Name: tensors[next(len(tensors))], Dims: []uint64{uint64(1 + next(64))}, Format: arith.F32})
		case len(p.tensors) == 0 || len(p.meta) == 0:
			return
		case op == 5:
			p.drop(p.tensors[next(len(p.tensors))].Name)
		case op == 6:
			t := &p.tensors[next(len(p.tensors))]
			t.Dims[next(len(t.Dims))] = []uint64{1, 2, 16, 31, 32, 33, 64, 256, 300, 4096}[next(10)]
		case op == 7:
			p.tensors[next(len(p.tensors))].Format = arith.Formats()[next(len(arith.Formats()))]
		}
		if len(p.meta) == 0 {
			return
		}
	}
}

func FuzzLoad(f *testing.F) {
	for i := range tinySpecs() {
		f.Add(uint8(i), []byte{})
		f.Add(uint8(i), []byte{1, 15, 0, 11})
		f.Add(uint8(i), []byte{7, 4, 0, 7, 5, 6})
		f.Add(uint8(i), []byte{6, 0, 0, 3, 4, 0, 8})
		f.Add(uint8(i), []byte{1, 0, 4, 3, 1, 1, 2, 7, 1, 4, 2, 8})
		f.Add(uint8(i), []byte{3, byte(i)})
	}
	files := make([]parts, len(tinySpecs()))
	for i, s := range tinySpecs() {
		files[i] = tiny(f, s)
	}
	f.Fuzz(func(t *testing.T, spec uint8, data []byte) {
		if len(data) > 64 {
			return
		}
		old := files[int(spec)%len(files)]
		p := parts{meta: append([]gguf.KV(nil), old.meta...)}
		for _, x := range old.tensors {
			x.Dims = append([]uint64(nil), x.Dims...)
			p.tensors = append(p.tensors, x)
		}
		p.mutate(data)
		if file, err := p.file(); err == nil {
			_ = attempt(t, file)
		}
	})
}
