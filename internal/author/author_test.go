package author

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"math"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/geistnet/geist/arith"
	"github.com/geistnet/geist/ghost"
	"github.com/geistnet/geist/internal/gguf"
	"github.com/geistnet/geist/internal/hashmany"
	"github.com/geistnet/geist/internal/kernel"
	"github.com/geistnet/geist/internal/model"
	"github.com/geistnet/geist/internal/synth"
	"github.com/geistnet/geist/merkle"
	"github.com/geistnet/geist/sat"
)

// specs are synthetic models of each family that synth makes.
func specs() map[string]synth.Spec {
	base := synth.Spec{Dim: 64, Layers: 2, Heads: 4, KVHeads: 2, FF: 96, Vocab: 320, Context: 256, Type: "q8_0", Seed: 3}
	with := func(arch, kind string, f func(*synth.Spec)) synth.Spec {
		s := base
		s.Arch, s.Type = arch, kind
		if f != nil {
			f(&s)
		}
		return s
	}
	experts := func(s *synth.Spec) { s.Experts, s.Used = 5, 2 }
	return map[string]synth.Spec{
		"llama":      with("llama", "q8_0", nil),
		"llama f32":  with("llama", "f32", nil),
		"llama tied": with("llama", "q4_0", func(s *synth.Spec) { s.Tied = true }),
		"llama moe":  with("llama", "q5_1", experts),
		"mixed":      with("llama", "q4_k_m", func(s *synth.Spec) { s.Dim, s.FF, s.Layers = 256, 512, 4 }),
		"qwen3":      with("qwen3", "f16", nil),
		"qwen3moe":   with("qwen3moe", "q4_1", experts),
		"gemma3":     with("gemma3", "q8_0", func(s *synth.Spec) { s.Layers, s.HeadDim, s.Tied = 7, 32, true }),
		"gemma2":     with("gemma2", "bf16", nil),
		"geist": with("geist", "f16", func(s *synth.Spec) {
			s.Layers, s.Tied = 3, true
			s.Memory = &synth.Memory{Rules: []string{"hash", "product", ""}, HashHeads: 2, HashRows: 31, ProductHeads: 2, Keys: 11, KeyDim: 16, TopK: 4}
		}),
	}
}

func made(t testing.TB, s synth.Spec) *gguf.File {
	t.Helper()
	var b bytes.Buffer
	if err := synth.Write(&b, s, nil); err != nil {
		t.Fatal(err)
	}
	f, err := gguf.Parse("made", b.Bytes())
	if err != nil {
		t.Fatal(err)
	}
	return f
}

// remade is f with further metadata and F32 tensors.
func remade(t testing.TB, f *gguf.File, more []gguf.KV, vectors map[string][]float32) *gguf.File {
	t.Helper()
	var meta []gguf.KV
	for _, kv := range f.Meta() {
		if !slices.ContainsFunc(more, func(x gguf.KV) bool { return x.Key == kv.Key }) {
			meta = append(meta, kv)
		}
	}
	var infos []gguf.TensorInfo
	var data [][]byte
	for _, x := range f.Tensors() {
		infos, data = append(infos, x.Info()), append(data, x.Data)
	}
	for name, v := range vectors {
		var b []byte
		for _, x := range v {
			b = binary.LittleEndian.AppendUint32(b, math.Float32bits(x))
		}
		infos, data = append(infos, gguf.TensorInfo{Name: name, Dims: []uint64{uint64(len(v))}, Format: arith.F32}), append(data, b)
	}
	var b bytes.Buffer
	w, err := gguf.NewWriter(&b, append(meta, more...), infos)
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range data {
		if err := w.WriteTensor(d); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	g, err := gguf.Parse("remade", b.Bytes())
	if err != nil {
		t.Fatal(err)
	}
	return g
}

// series is n values that differ.
func series(n int) []float32 {
	x := make([]float32, n)
	for i := range x {
		x[i] = float32(i%13)/16 - 0.375
	}
	return x
}

// unusual are models with what specs have not: two sets of rotation speeds, a
// temperature, biases, scales, and a chat template.
func unusual(t testing.TB) map[string]*gguf.File {
	all := specs()
	mistral := all["llama"]
	mistral.Arch = "mistral3"
	const f, e, n = 96, 5, 64 // width of a block, experts, width of the model
	return map[string]*gguf.File{
		"two ropes": remade(t, made(t, all["gemma3"]), []gguf.KV{{Key: "gemma3.rope.freq_base", Value: gguf.ValueOf(float32(1e6))}, {Key: "gemma3.rope.scaling.factor", Value: gguf.ValueOf(float32(8))}}, nil),
		"temperature": remade(t, made(t, mistral), []gguf.KV{
			{Key: "mistral3.attention.temperature_scale", Value: gguf.ValueOf(float32(0.5))},
			{Key: "mistral3.rope.scaling.original_context_length", Value: gguf.ValueOf(uint32(20))},
			{Key: "tokenizer.chat_template", Value: gguf.ValueOf("{{ x }}")},
		}, nil),
		"biases": remade(t, made(t, all["llama"]), nil, map[string][]float32{
			"blk.0.attn_q.bias": series(n), "blk.0.attn_q.scale": {1.25}, "blk.1.attn_v.scale": {0.75}, "blk.1.attn_output.bias": series(n),
			"blk.0.ffn_up.bias": series(f), "blk.0.ffn_up.scale": {1.5}, "blk.1.ffn_down.bias": series(n), "output.bias": series(320), "output.scale": {3},
			"blk.0.attn_k.input_scale": {7},
		}),
		"experts": remade(t, made(t, all["llama moe"]), []gguf.KV{{Key: "llama.expert_weights_scale", Value: gguf.ValueOf(float32(2.5))}}, map[string][]float32{
			"blk.0.ffn_gate_inp.bias": series(e), "blk.1.ffn_up_exps.bias": series(e * f), "blk.1.ffn_up_exps.scale": series(e), "blk.0.ffn_down_exps.scale": series(e), "blk.0.ffn_down_exps.bias": series(e * n),
		}),
	}
}

// eachModel runs f for the synthetic models and for those beside the checkout.
func eachModel(t *testing.T, do func(t *testing.T, f *gguf.File, long bool)) {
	for name, s := range specs() {
		t.Run(name, func(t *testing.T) { do(t, made(t, s), false) })
	}
	for name, f := range unusual(t) {
		t.Run(name, func(t *testing.T) { do(t, f, false) })
	}
	t.Run("files", func(t *testing.T) {
		files, err := filepath.Glob("../../../shared/data/models/archs/*.gguf")
		if err != nil {
			t.Fatal(err)
		}
		if len(files) == 0 {
			t.Skip("../shared/data/models/archs is not beside the checkout")
		}
		for _, file := range files {
			name := strings.TrimSuffix(filepath.Base(file), ".gguf")
			t.Run(name, func(t *testing.T) {
				f, err := gguf.Open(file)
				if err != nil {
					t.Fatal(err)
				}
				defer f.Close()
				do(t, f, name == "phi3-dense")
			})
		}
	})
}

func build(t testing.TB, f *gguf.File, o Options) *ghost.Model {
	t.Helper()
	m, err := Build(t.Context(), f, o, nil)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// TestRoots compares each root with one made leaf by leaf, and demands the same
// bytes of any number of workers and any way of hashing.
func TestRoots(t *testing.T) {
	eachModel(t, func(t *testing.T, f *gguf.File, long bool) {
		m := build(t, f, Options{Long: long})
		for _, x := range m.Tensors {
			in := f.Tensor(x.Name)
			size := x.Format.RowBytes(x.Cols)
			leaves := make([]merkle.Hash, x.Rows)
			for i := range leaves {
				leaves[i] = merkle.HashLeaf(in.Data[i*size : (i+1)*size])
			}
			if root, err := merkle.FromLeaves(leaves, merkle.Plain{}).Root(); err != nil || root != x.Root {
				t.Errorf("%s: root %v, %v, want %v", x.Name, x.Root, err, root)
			}
		}
		b, err := ghost.Encode(m)
		if err != nil {
			t.Fatal(err)
		}
		again, err := ghost.Decode(b)
		if err != nil || !reflect.DeepEqual(again, m) {
			t.Fatalf("the Ghost file decodes to another model, %v", err)
		}
		for _, o := range []Options{{Long: long, Workers: 1}, {Long: long, Workers: 3, Hasher: merkle.Plain{}}, {Long: long, Hasher: hashmany.New()}} {
			if id := build(t, f, o).ID(); id != m.ID() {
				t.Errorf("%+v: id %v, want %v", o, id, m.ID())
			}
		}
	})
}

// TestTensors: a Ghost file commits to all tensors of a file but those that are
// in it as values.
func TestTensors(t *testing.T) {
	eachModel(t, func(t *testing.T, f *gguf.File, long bool) {
		m := build(t, f, Options{Long: long})
		has := map[string]bool{}
		for _, x := range m.Tensors {
			has[x.Name] = true
		}
		for _, x := range f.Tensors() {
			small := strings.Contains(x.Name, "norm") || !strings.HasSuffix(x.Name, ".weight") || strings.HasPrefix(x.Name, "rope_") || strings.HasPrefix(x.Name, "cls.")
			if has[x.Name] == small {
				t.Errorf("%s %v: committed %v", x.Name, x.Dims, has[x.Name])
			}
		}
		if tied := f.Tensor("output.weight") == nil; tied != (m.Output.Tensor == m.Embedding) {
			t.Errorf("tied %v, output is tensor %d", tied, m.Output.Tensor)
		}
	})
}

// TestForward runs the definition of the arithmetic on nothing but the Ghost
// file and rows of its tensors, and demands the engine's logits to the bit: so
// the Ghost file says all, and says it right.
func TestForward(t *testing.T) {
	team := kernel.NewTeam(2)
	defer team.Close()
	eachModel(t, func(t *testing.T, f *gguf.File, long bool) {
		b, err := ghost.Encode(build(t, f, Options{Long: long}))
		if err != nil {
			t.Fatal(err)
		}
		g, err := ghost.Decode(b)
		if err != nil {
			t.Fatal(err)
		}
		n := 110 // more than a chunk of attention, and than a window
		if testing.Short() || strings.HasPrefix(f.Path, "..") {
			n = 6
		}
		ids := make([]int32, n)
		for i := range ids {
			ids[i] = int32((i*7919 + 13) % g.Vocab)
		}
		m, err := model.Load(f, model.Options{Path: kernel.Best(), Team: team, Long: long})
		if err != nil {
			t.Fatal(err)
		}
		defer m.Close()
		c := &model.Cache{}
		for range n/model.PagePositions + 1 {
			c.Pages = append(c.Pages, make([]byte, m.PageBytes()))
		}
		want, err := m.NewState(team, n).Forward([]model.Segment{{Cache: c, Tokens: ids, Logits: model.Last}})
		if err != nil {
			t.Fatal(err)
		}
		got := (&reference{g, f}).logits(t, ids)
		for i, v := range want[0] {
			if math.Float32bits(v) != math.Float32bits(got[i]) {
				t.Fatalf("logit %d is %x by the Ghost file and %x by the engine", i, got[i], v)
			}
		}
	})
}

// reference is the forward pass as docs/spec/arithmetic.md has it.
type reference struct {
	*ghost.Model
	f *gguf.File
}

func (m *reference) row(tensor, i int) []byte {
	t := &m.Tensors[tensor]
	size := t.Format.RowBytes(t.Cols)
	return m.f.Tensor(t.Name).Data[i*size : (i+1)*size]
}

func (m *reference) mul(t *testing.T, l *ghost.Linear, x []float32) []float32 {
	format := m.Tensors[l.Tensor].Format
	a, ok := arith.Quantize(x, format.ActBlock())
	if !ok {
		t.Fatal("a value is not finite")
	}
	y := make([]float32, l.Rows)
	for r := range y {
		v := arith.Dot(format, m.row(l.Tensor, l.Row0+r), a)
		if l.Scale != 1 && l.ScaleFirst {
			v = float32(v * l.Scale)
		}
		if l.Bias != nil {
			v += l.Bias[r]
		}
		if l.Scale != 1 && !l.ScaleFirst {
			v = float32(v * l.Scale)
		}
		y[r] = v
	}
	return y
}

func (m *reference) norm(x, w []float32) []float32 {
	y := make([]float32, len(x))
	arith.RMSNorm(y, x, w, m.Eps)
	return y
}

func (m *reference) round(x []float32, scale float32) {
	for i, v := range x {
		x[i] = m.KV.Round(float32(v * scale))
	}
}

// heads norms and rotates the heads of a row of queries or keys.
func (m *reference) heads(x []float32, w []float32, rope *arith.Rope, pos int) {
	m.round(x, 1)
	if m.Norm == ghost.RowNorm {
		copy(x, m.norm(x, w))
	}
	cos, sin := make([]float32, len(rope.Turn)), make([]float32, len(rope.Turn))
	rope.CosSin(pos, cos, sin)
	for ; len(x) > 0; x = x[m.KeyDim:] {
		h := x[:m.KeyDim]
		if m.Norm == ghost.HeadNorm {
			copy(h, m.norm(h, w))
		}
		arith.RotatePairs(h, cos, sin, m.Neox)
	}
}

func (m *reference) dense(t *testing.T, h []float32, gate, up, down *ghost.Linear) []float32 {
	return m.gated(t, h, gate, m.mul(t, up, h), down)
}

// memory is a memory block, with u as a client makes it of rows that it asked
// for.
func (m *reference) memory(t *testing.T, h []float32, y *ghost.Layer, ids []int32) []float32 {
	x := &m.Tensors[y.Memory.Table]
	table := &sat.Table{Root: x.Root, Rows: x.Rows, Format: x.Format, Cols: x.Cols}
	in := sat.Input{Tokens: ids}
	if rule := &m.Rules[y.Memory.Rule]; rule.Product != nil {
		keys := &y.Memory.Keys
		var rows []byte
		for i := range keys.Rows {
			rows = append(rows, m.row(keys.Tensor, keys.Row0+i)...)
		}
		in.Scores = make([]float32, rule.Product.KeyRows())
		if !rule.Product.Scores(in.Scores, m.mul(t, &y.Memory.Query, h), m.Tensors[keys.Tensor].Format, rows, m.Eps) {
			t.Fatal("a score is not finite")
		}
	}
	selected, err := m.Rules[y.Memory.Rule].Select(table, in)
	if err != nil {
		t.Fatal(err)
	}
	var rows [][]byte
	for _, id := range selected.IDs {
		rows = append(rows, m.row(y.Memory.Table, int(id)))
	}
	u, err := selected.Read(table, rows)
	if err != nil {
		t.Fatal(err)
	}
	return m.gated(t, h, &y.Gate, u, &y.Down)
}

func (m *reference) gated(t *testing.T, h []float32, gate *ghost.Linear, u []float32, down *ghost.Linear) []float32 {
	g := m.mul(t, gate, h)
	for i := range g {
		if m.Gate == ghost.GELU {
			g[i] = arith.GELUMul(g[i], u[i])
		} else {
			g[i] = arith.SiLUMul(g[i], u[i])
		}
	}
	return m.mul(t, down, g)
}

// logits are those after the last of the tokens.
func (m *reference) logits(t *testing.T, ids []int32) []float32 {
	keys := make([][][][]float32, len(m.Layers)) // [layer][head][position]
	values := make([][][][]float32, len(m.Layers))
	for l := range m.Layers {
		keys[l], values[l] = make([][][]float32, m.KVHeads), make([][][]float32, m.KVHeads)
	}
	var x []float32
	for pos, id := range ids {
		x = make([]float32, m.Dim)
		arith.Dequantize(x, m.Tensors[m.Embedding].Format, m.row(m.Embedding, int(id)))
		if m.EmbedScale != 1 {
			for i, v := range x {
				x[i] = float32(v * m.EmbedScale)
			}
		}
		scale := m.AttnScale
		if m.TempScale != 0 {
			scale = float32(scale * arith.LogScale(float64(pos/m.TempFloor+1), m.TempScale))
		}
		for l := range m.Layers {
			y := &m.Layers[l]
			h := m.norm(x, y.AttnNorm)
			q, k, v := m.mul(t, &y.Q, h), m.mul(t, &y.K, h), m.mul(t, &y.V, h)
			m.heads(q, y.QNorm, &m.Ropes[y.Rope], pos)
			m.heads(k, y.KNorm, &m.Ropes[y.Rope], pos)
			m.round(q, scale)
			m.round(k, 1)
			m.round(v, 1)
			for i := range m.KVHeads {
				keys[l][i] = append(keys[l][i], k[i*m.KeyDim:(i+1)*m.KeyDim])
				values[l][i] = append(values[l][i], v[i*m.ValDim:(i+1)*m.ValDim])
			}
			first := 0
			if y.Window > 0 {
				first = max(0, pos+1-y.Window)
			}
			var att []float32
			for i := range m.Heads {
				kv := i / (m.Heads / m.KVHeads)
				att = append(att, arith.Attention(m.KV, q[i*m.KeyDim:(i+1)*m.KeyDim], keys[l][kv][first:], values[l][kv][first:], first, m.AttnCap)...)
			}
			add(x, m.mul(t, &y.O, att), y.PostAttn, m.Eps)
			h = m.norm(x, y.FFNNorm)
			if y.Memory != nil {
				add(x, m.memory(t, h, y, ids[:pos+1]), nil, 0)
				continue
			}
			if y.Experts == nil {
				add(x, m.dense(t, h, &y.Gate, &y.Up, &y.Down), y.PostFFN, m.Eps)
				continue
			}
			experts, weights := arith.Route(m.mul(t, &y.Router, h), m.ExpertsUsed, m.ExpertNorm, m.ExpertScale)
			sum := make([]float32, m.Dim)
			for i, e := range experts {
				w := &y.Experts[e]
				for d, v := range m.dense(t, h, &w.Gate, &w.Up, &w.Down) {
					sum[d] += float32(v * weights[i])
				}
			}
			add(x, sum, nil, 0)
		}
	}
	out := m.mul(t, &m.Output, m.norm(x, m.OutputNorm))
	if m.LogitCap > 0 {
		for i, v := range out {
			out[i] = arith.SoftCap(v, m.LogitCap)
		}
	}
	return out
}

func add(x, y, norm []float32, eps float32) {
	if norm != nil {
		arith.RMSNorm(y, y, norm, eps)
	}
	for i, v := range y {
		x[i] += v
	}
}

// TestHashes: the tokenizer and the chat template are part of the identity.
func TestHashes(t *testing.T) {
	f := made(t, specs()["llama"])
	plain := build(t, f, Options{})
	with := func(more ...gguf.KV) *ghost.Model { return build(t, remade(t, f, more, nil), Options{}) }
	template := with(gguf.KV{Key: "tokenizer.chat_template", Value: gguf.ValueOf("{{ x }}")})
	if plain.Template != [32]byte{} || template.Template != sha256.Sum256([]byte("{{ x }}")) || template.Tokenizer != plain.Tokenizer {
		t.Errorf("hashes of the template: %x without, %x with", plain.Template, template.Template)
	}
	eos := with(gguf.KV{Key: "tokenizer.ggml.eos_token_id", Value: gguf.ValueOf(uint32(5))})
	if eos.Tokenizer == plain.Tokenizer || plain.Tokenizer == [32]byte{} {
		t.Error("another end token, and the tokenizer is the same")
	}
	name := with(gguf.KV{Key: "general.name", Value: gguf.ValueOf("ca\x00b\xff" + strings.Repeat("ä", 200))})
	if n := name.Name; len(n) != 255 || !strings.HasPrefix(n, "ca\ufffdb\ufffdä") || !strings.HasSuffix(n, "ä") {
		t.Errorf("name of %d bytes: %q", len(n), n)
	}
	if _, err := Build(t.Context(), remade(t, f, []gguf.KV{{Key: "tokenizer.ggml.model", Value: gguf.ValueOf("unheard")}}, nil), Options{}, nil); err == nil {
		t.Error("a tokenizer that nobody knows has a hash")
	}
}

// TestProgress: the bytes ascend to their sum, which Read counts too.
func TestProgress(t *testing.T) {
	f := made(t, specs()["mixed"])
	last, all, calls := int64(0), int64(0), 0
	if _, err := Build(t.Context(), f, Options{}, func(done, total int64) {
		if done < last {
			t.Errorf("%d bytes after %d", done, last)
		}
		last, all = done, total
		calls++
	}); err != nil {
		t.Fatal(err)
	}
	n, sum, err := Read(t.Context(), f, Options{})
	if err != nil || n != all || last != all || calls < 10 || sum == 0 {
		t.Errorf("%d calls up to %d of %d; read %d, %v", calls, last, all, n, err)
	}
}

func TestStop(t *testing.T) {
	f := made(t, specs()["mixed"])
	ctx, cancel := context.WithCancel(t.Context())
	_, err := Build(ctx, f, Options{}, func(done, _ int64) {
		if done > 0 {
			cancel()
		}
	})
	if !errors.Is(err, context.Canceled) {
		t.Errorf("%v", err)
	}
	if _, _, err := Read(ctx, f, Options{}); !errors.Is(err, context.Canceled) {
		t.Errorf("%v", err)
	}
}

// TestOneBit: any changed bit of any tensor is another model.
func TestOneBit(t *testing.T) {
	var b bytes.Buffer
	if err := synth.Write(&b, specs()["llama"], nil); err != nil {
		t.Fatal(err)
	}
	open := func(data []byte) *gguf.File {
		f, err := gguf.Parse("made", data)
		if err != nil {
			t.Fatal(err)
		}
		return f
	}
	f := open(b.Bytes())
	ids := map[ghost.ID]string{build(t, f, Options{}).ID(): ""}
	for _, x := range f.Tensors() {
		data := bytes.Clone(b.Bytes())
		data[int(x.Offset)+len(x.Data)/2] ^= 4
		id := build(t, open(data), Options{}).ID()
		if other, ok := ids[id]; ok {
			t.Errorf("a bit of %q and one of %q give one id", x.Name, other)
		}
		ids[id] = x.Name
	}
	if len(ids) < 20 {
		t.Errorf("only %d models", len(ids))
	}
}

// BenchmarkBuild and BenchmarkRead are to be compared: 170 MB of Q8_0.
func BenchmarkBuild(b *testing.B) {
	f := large(b)
	for b.Loop() {
		if _, err := Build(b.Context(), f, Options{}, nil); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkRead(b *testing.B) {
	f := large(b)
	for b.Loop() {
		if _, _, err := Read(b.Context(), f, Options{}); err != nil {
			b.Fatal(err)
		}
	}
}

func large(b *testing.B) *gguf.File {
	b.Helper()
	spec := synth.Presets["125m"]
	spec.Type = "q8_0"
	path := filepath.Join(b.TempDir(), "large.gguf")
	out, err := os.Create(path)
	if err != nil {
		b.Fatal(err)
	}
	if err := errors.Join(synth.Write(out, spec, nil), out.Close()); err != nil {
		b.Fatal(err)
	}
	f, err := gguf.Open(path)
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { f.Close() })
	b.SetBytes(f.Size)
	return f
}
