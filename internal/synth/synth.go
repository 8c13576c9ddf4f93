// Package synth makes models with random weights, of any size, family and
// format, for tests, self-tests and benchmarks. The same Spec gives the same
// bytes on every machine.
package synth

import (
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"sort"
	"strings"

	"github.com/geistnet/geist/arith"
	"github.com/geistnet/geist/internal/gguf"
	"github.com/geistnet/geist/internal/quant"
)

// Spec is the shape of a model.
type Spec struct {
	Arch    string // a llama by default
	Dim     int
	Layers  int
	Heads   int
	KVHeads int
	HeadDim int // 0: Dim/Heads
	FF      int
	Experts int
	Used    int
	Vocab   int // at least 300; the first are special, bytes and words
	Context int
	Tied    bool // no output matrix of its own
	Seed    uint64
	// Of the architecture geist, else zero: what its memory blocks are made of.
	Memory *Memory
	// Type is a format ("q8_0", "f32", …) or "q4_k_m", the usual mixture of
	// Q4_K and Q6_K.
	Type string
}

// Memory is the shape of memory blocks. N-grams have 2 and 3 tokens.
type Memory struct {
	Rules        []string // of the blocks, "", "hash" or "product"; repeated from the first on
	HashHeads    int
	HashRows     int // of an order and head
	ProductHeads int
	Keys         int // sub-keys of a half
	KeyDim       int // values of a half query
	TopK         int
}

// orders are the lengths of n-grams.
func orders() []int32 { return []int32{2, 3} }

// rule is the rule of a block.
func (s Spec) rule(block int) string {
	if s.Memory == nil {
		return ""
	}
	return s.Memory.Rules[block%len(s.Memory.Rules)]
}

// Presets are the named sizes.
var Presets = map[string]Spec{
	"tiny": {Dim: 64, Layers: 2, Heads: 4, KVHeads: 2, FF: 192, Vocab: 512, Context: 1024},
	"125m": {Dim: 768, Layers: 12, Heads: 12, KVHeads: 4, FF: 2048, Vocab: 32000, Context: 4096},
	"500m": {Dim: 1536, Layers: 16, Heads: 24, KVHeads: 8, FF: 4096, Vocab: 32000, Context: 4096},
	"1.1b": {Dim: 2048, Layers: 22, Heads: 32, KVHeads: 4, FF: 5632, Vocab: 32000, Context: 4096},
	"3b":   {Dim: 3072, Layers: 28, Heads: 24, KVHeads: 8, FF: 8192, Vocab: 32000, Context: 4096},
	"8b":   {Dim: 4096, Layers: 32, Heads: 32, KVHeads: 8, FF: 14336, Vocab: 32000, Context: 8192},
	"tales": {Arch: "geist", Dim: 256, Layers: 6, Heads: 8, KVHeads: 4, FF: 1024, Vocab: 4096, Context: 512, Tied: true, Memory: &Memory{
		Rules: []string{"", "hash", "product"}, HashHeads: 4, HashRows: 16384, ProductHeads: 4, Keys: 128, KeyDim: 64, TopK: 16,
	}},
	"moe": {Dim: 1024, Layers: 12, Heads: 16, KVHeads: 4, FF: 1024, Experts: 16, Used: 4, Vocab: 32000, Context: 4096},
}

// PresetNames lists the keys of Presets.
func PresetNames() []string {
	var s []string
	for n := range Presets {
		s = append(s, n)
	}
	sort.Strings(s)
	return s
}

// formatOf is the format of a tensor of cols columns.
func (s Spec) formatOf(name string, layer, cols int) (arith.Format, error) {
	t := strings.ToLower(s.Type)
	if strings.Contains(name, "norm") || strings.Contains(name, "ffn_gate_inp") {
		return arith.F32, nil
	}
	want := arith.Format(math.MaxUint32)
	if t == "q4_k_m" {
		want = arith.Q4_K
		// The first and last eighth of the layers and every third between.
		n := s.Layers
		more := layer < n/8 || layer >= 7*n/8 || (layer-n/8)%3 == 2
		if name == "output" || more && (strings.HasPrefix(name, "attn_v") || strings.HasPrefix(name, "ffn_down")) {
			want = arith.Q6_K
		}
	} else {
		for _, f := range arith.Formats() {
			if strings.ToLower(f.String()) == t {
				want = f
			}
		}
	}
	if !want.Known() {
		return 0, fmt.Errorf("weight type %q is not known; use q4_k_m or one of %v", s.Type, arith.Formats())
	}
	if cols%want.BlockLen() != 0 {
		want = arith.F16
	}
	return want, nil
}

type tensor struct {
	info  gguf.TensorInfo
	scale float64 // standard deviation of the weights; 0: all ones
}

func (s Spec) tensors() ([]tensor, error) {
	var ts []tensor
	var err error
	add := func(name, kind string, layer int, scale float64, dims ...uint64) {
		f, e := s.formatOf(kind, layer, int(dims[0]))
		if e != nil {
			err = e
		}
		ts = append(ts, tensor{gguf.TensorInfo{Name: name, Dims: dims, Format: f}, scale})
	}
	inv := func(n int) float64 { return 1 / math.Sqrt(float64(n)) }
	d, ff, hd := uint64(s.Dim), uint64(s.FF), uint64(s.HeadDim)
	q, kv := uint64(s.Heads)*hd, uint64(s.KVHeads)*hd
	add("token_embd.weight", "embd", 0, 1, d, uint64(s.Vocab))
	for i := range s.Layers {
		p := fmt.Sprintf("blk.%d.", i)
		layer := func(kind string, scale float64, dims ...uint64) { add(p+kind+".weight", kind, i, scale, dims...) }
		layer("attn_norm", 0, d)
		layer("attn_q", inv(s.Dim), d, q)
		layer("attn_k", inv(s.Dim), d, kv)
		layer("attn_v", inv(s.Dim), d, kv)
		if strings.HasPrefix(s.Arch, "qwen3") || s.Arch == "gemma3" {
			layer("attn_q_norm", 0, hd)
			layer("attn_k_norm", 0, hd)
		}
		layer("attn_output", inv(int(q)), q, d)
		if strings.HasPrefix(s.Arch, "gemma") {
			layer("post_attention_norm", 0, d)
			layer("post_ffw_norm", 0, d)
		}
		layer("ffn_norm", 0, d)
		if s.Experts > 0 {
			e := uint64(s.Experts)
			layer("ffn_gate_inp", inv(s.Dim), d, e)
			layer("ffn_gate_exps", inv(s.Dim), d, ff, e)
			layer("ffn_up_exps", inv(s.Dim), d, ff, e)
			layer("ffn_down_exps", inv(s.FF), ff, d, e)
			continue
		}
		layer("ffn_gate", inv(s.Dim), d, ff)
		switch x := s.Memory; s.rule(i) {
		case "hash":
			n := len(orders()) * x.HashHeads
			layer("memory", 1, ff/uint64(n), uint64(n)*uint64(x.HashRows))
		case "product":
			layer("memory_query", inv(s.Dim), d, uint64(2*x.ProductHeads*x.KeyDim))
			layer("memory_keys", inv(x.KeyDim), uint64(x.KeyDim), uint64(2*x.ProductHeads*x.Keys))
			layer("memory", 1, ff, uint64(x.Keys)*uint64(x.Keys))
		default:
			layer("ffn_up", inv(s.Dim), d, ff)
		}
		layer("ffn_down", inv(s.FF), ff, d)
	}
	add("output_norm.weight", "output_norm", 0, 0, d)
	if !s.Tied {
		add("output.weight", "output", 0, inv(s.Dim), d, uint64(s.Vocab))
	}
	return ts, err
}

func (s *Spec) fill() error {
	if s.Arch == "" {
		s.Arch = "llama"
	}
	if s.Dim < 1 || s.Heads < 1 {
		return fmt.Errorf("a model of dimension %d with %d heads cannot be made", s.Dim, s.Heads)
	}
	if s.HeadDim == 0 {
		s.HeadDim = s.Dim / s.Heads
	}
	if x := s.Memory; x != nil {
		if s.Arch != "geist" || len(x.Rules) == 0 || x.HashHeads < 1 || x.HashRows < 1 || x.ProductHeads < 1 || x.Keys < 1 || x.KeyDim < 1 || x.TopK < 1 ||
			s.FF%(len(orders())*x.HashHeads) != 0 || s.Experts > 0 {
			return fmt.Errorf("memory of the shape %+v does not make a model of architecture %q", *x, s.Arch)
		}
	}
	if s.Layers < 1 || s.KVHeads < 1 || s.Heads%s.KVHeads != 0 || s.HeadDim%2 != 0 || s.FF < 1 || s.Vocab < 300 || s.Context < 1 || s.Used > s.Experts {
		return fmt.Errorf("the shape %+v does not make a model", *s)
	}
	return nil
}

func (s Spec) meta() []gguf.KV {
	kv := []gguf.KV{
		{Key: "general.architecture", Value: gguf.ValueOf(s.Arch)},
		{Key: "general.name", Value: gguf.ValueOf("random")},
	}
	num := func(key string, v int) {
		kv = append(kv, gguf.KV{Key: s.Arch + "." + key, Value: gguf.ValueOf(uint32(v))})
	}
	num("vocab_size", s.Vocab)
	num("context_length", s.Context)
	num("embedding_length", s.Dim)
	num("block_count", s.Layers)
	num("feed_forward_length", s.FF)
	num("attention.head_count", s.Heads)
	num("attention.head_count_kv", s.KVHeads)
	num("attention.key_length", s.HeadDim)
	num("attention.value_length", s.HeadDim)
	num("rope.dimension_count", s.HeadDim)
	if s.Experts > 0 {
		num("expert_count", s.Experts)
		num("expert_used_count", s.Used)
		num("expert_feed_forward_length", s.FF)
	}
	if x := s.Memory; x != nil {
		rules := make([]string, s.Layers)
		for i := range rules {
			rules[i] = s.rule(i)
		}
		kv = append(kv, gguf.KV{Key: s.Arch + ".memory.rule", Value: gguf.ArrayOf(rules)},
			gguf.KV{Key: s.Arch + ".memory.hash.orders", Value: gguf.ArrayOf(orders())})
		num("memory.hash.heads", x.HashHeads)
		num("memory.product.heads", x.ProductHeads)
		num("memory.product.topk", x.TopK)
	}
	if strings.HasPrefix(s.Arch, "gemma") {
		num("attention.sliding_window", 96)
	}
	kv = append(kv, gguf.KV{Key: s.Arch + ".attention.layer_norm_rms_epsilon", Value: gguf.ValueOf(float32(1e-5))},
		gguf.KV{Key: s.Arch + ".rope.freq_base", Value: gguf.ValueOf(float32(10000))})
	return append(kv, s.vocabulary()...)
}

// vocabulary is a SentencePiece vocabulary of special tokens, all bytes,
// letters and made-up words.
func (s Spec) vocabulary() []gguf.KV {
	tokens := []string{"<unk>", "<s>", "</s>"}
	types := []int32{2, 3, 3}
	for b := range 256 {
		tokens = append(tokens, fmt.Sprintf("<0x%02X>", b))
		types = append(types, 6)
	}
	const letters = "etaoinshrdlucmfwypvbgkjqxz"
	seen := map[string]bool{}
	word := func(w string) {
		if len(tokens) < s.Vocab && !seen[w] {
			seen[w] = true
			tokens = append(tokens, w)
			types = append(types, 1)
		}
	}
	word("▁")
	for _, c := range letters {
		word(string(c))
	}
	// Every prefix of a word is a token, so that merges lead to it.
	r := rand.New(rand.NewPCG(s.Seed, 1))
	for len(tokens) < s.Vocab {
		w := "▁"
		if r.IntN(4) == 0 {
			w = ""
		}
		for range 1 + r.IntN(6) {
			w += string(letters[min(r.IntN(26), r.IntN(26))])
			word(w)
		}
	}
	scores := make([]float32, len(tokens))
	for i := range scores {
		scores[i] = -float32(i)
	}
	return []gguf.KV{
		{Key: "tokenizer.ggml.model", Value: gguf.ValueOf("llama")},
		{Key: "tokenizer.ggml.tokens", Value: gguf.ArrayOf(tokens)},
		{Key: "tokenizer.ggml.scores", Value: gguf.ArrayOf(scores)},
		{Key: "tokenizer.ggml.token_type", Value: gguf.ArrayOf(types)},
		{Key: "tokenizer.ggml.bos_token_id", Value: gguf.ValueOf(uint32(1))},
		{Key: "tokenizer.ggml.eos_token_id", Value: gguf.ValueOf(uint32(2))},
	}
}

// Write writes the model as a GGUF file. progress, if not nil, is called with
// the bytes of weights written so far and in all.
func Write(w io.Writer, s Spec, progress func(done, total int64)) error {
	if err := s.fill(); err != nil {
		return err
	}
	ts, err := s.tensors()
	if err != nil {
		return err
	}
	infos := make([]gguf.TensorInfo, len(ts))
	var total, done int64
	size := func(t gguf.TensorInfo) int64 {
		n := int64(t.Format.RowBytes(int(t.Dims[0])))
		for _, d := range t.Dims[1:] {
			n *= int64(d)
		}
		return n
	}
	for i, t := range ts {
		infos[i] = t.info
		total += size(t.info)
	}
	out, err := gguf.NewWriter(w, s.meta(), infos)
	if err != nil {
		return err
	}
	r := rand.New(rand.NewPCG(s.Seed, 2))
	for _, t := range ts {
		src, err := newWeights(r, t)
		if err != nil {
			return err
		}
		src.left, src.wrote = size(t.info), func(n int) {
			done += int64(n)
			if progress != nil {
				progress(done, total)
			}
		}
		if err := out.WriteTensorFrom(src); err != nil {
			return err
		}
	}
	return out.Close()
}

// weights yields random blocks of a tensor: a pool of encoded blocks of
// Gaussian weights, drawn again and again, so that making a model of billions
// of weights takes no longer than writing it.
type weights struct {
	r       *rand.Rand
	pool    []byte
	block   int // bytes of one
	blocks  uint32
	pending []byte
	left    int64
	wrote   func(n int)
}

const poolBlocks = 2048 // at most

func newWeights(r *rand.Rand, t tensor) (*weights, error) {
	f := t.info.Format
	n := max(f.BlockLen(), 32)
	elems := uint64(1)
	for _, d := range t.info.Dims {
		elems *= d
	}
	blocks := int(min(poolBlocks, (elems+uint64(n)-1)/uint64(n)))
	x := make([]float32, n*blocks)
	for i := range x {
		x[i] = 1
		if t.scale > 0 {
			x[i] = float32(normal(r) * t.scale)
		}
	}
	w := &weights{r: r, block: f.RowBytes(n), blocks: uint32(blocks), pool: make([]byte, f.RowBytes(len(x)))}
	return w, quant.Row(w.pool, f, x)
}

// normal is roughly Gaussian and, unlike rand's, made of exact operations.
func normal(r *rand.Rand) float64 {
	s := 0
	for range 3 {
		u := r.Uint64()
		s += int(u&0xffff) + int(u>>16&0xffff) + int(u>>32&0xffff) + int(u>>48)
	}
	return float64(s-6*0xffff) / 65536
}

func (w *weights) Read(b []byte) (int, error) {
	if w.left == 0 {
		return 0, io.EOF
	}
	n := 0
	for n < len(b) && w.left > 0 {
		if len(w.pending) == 0 {
			i := int(w.r.Uint32() % w.blocks)
			w.pending = w.pool[i*w.block:][:w.block]
		}
		c := copy(b[n:], w.pending[:min(int64(len(w.pending)), w.left)])
		w.pending, w.left, n = w.pending[c:], w.left-int64(c), n+c
	}
	w.wrote(n)
	return n, nil
}
