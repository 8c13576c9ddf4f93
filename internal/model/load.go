package model

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"sort"
	"strings"
	"sync/atomic"

	"github.com/geistnet/geist/arith"
	"github.com/geistnet/geist/internal/arena"
	"github.com/geistnet/geist/internal/gguf"
	"github.com/geistnet/geist/internal/kernel"
)

// linear is a matrix with what follows its product.
type linear struct {
	m     *kernel.Matrix
	bias  []float32 // nil: none
	scale float32   // 1: none
	// scaleFirst: the product is scaled and then the bias added; otherwise the
	// other way round.
	scaleFirst bool
}

type expert struct{ gate, up, down linear }

type layer struct {
	attnNorm, ffnNorm []float32
	postAttn, postFFN []float32
	qNorm, kNorm      []float32
	q, k, v, o        linear
	gate, up, down    linear
	router            linear
	experts           []expert
	memory            *memory // in place of up; nil: none
	window            int     // 0: sees everything
	rope              *arith.Rope
}

// Model is a loaded model: packed weights and everything a forward pass needs.
// It is immutable and may be used by several States at once.
type Model struct {
	Config
	Path   kernel.Path
	KV     arith.KV
	layers []layer
	norm   []float32
	embed  *gguf.Tensor
	output linear
	ropes  []*arith.Rope // the distinct ones of the layers
	arena  *arena.Arena  // nil in a plan
	file   *gguf.File    // of embed
	size   int           // of the packed weights
	memory Memory        // of tables that are not in the file; may be nil
	// Ignored names tensors that the file holds and the arithmetic does not
	// use, each with the reason.
	Ignored map[string]string
}

// Options of Load.
type Options struct {
	Path kernel.Path
	// Team packs the weights; nil packs on the calling goroutine.
	Team *kernel.Team
	// Long chooses the factors for long contexts in models that have two sets
	// (LongRoPE). It changes the model's answers and so is part of its identity.
	Long bool
	// Memory has the rows of memory blocks; nil: the file has them.
	Memory Memory
	// Progress is called now and then with the bytes packed so far.
	Progress func(done, total int64)
	// Abort, if not nil, is asked between matrices; an error ends Load with it.
	Abort func() error
}

// job is one matrix to pack.
type job struct {
	dst    *linear
	t      *gguf.Tensor
	row0   int // first row of the tensor
	rows   int
	offset int // in the arena
	size   int
}

type loader struct {
	f    *gguf.File
	m    *Model
	opt  Options
	used map[string]bool
	jobs []*job
	size int
	err  error
}

func (l *loader) fail(format string, a ...any) {
	if l.err == nil {
		l.err = fmt.Errorf("%s: %s", l.f.Path, fmt.Sprintf(format, a...))
	}
}

// Plan checks the model in f as Load does and reads no weights but norms and
// biases. The result tells its shape, WeightBytes, PageBytes and StateBytes;
// no State can be made of it.
func Plan(f *gguf.File, opt Options) (*Model, error) {
	l, err := plan(f, opt)
	if err != nil {
		return nil, err
	}
	return l.m, nil
}

func plan(f *gguf.File, opt Options) (*loader, error) {
	c, err := readConfig(f, opt.Long)
	if err != nil {
		return nil, err
	}
	l := &loader{f: f, m: &Model{Config: *c, Path: opt.Path, Ignored: map[string]string{}}, opt: opt, used: map[string]bool{}}
	l.m.file = f
	if err := f.Guard(l.describe); err != nil {
		return nil, err
	}
	l.leftovers()
	l.m.size = l.size
	return l, l.err
}

// Load reads the model in f. Every tensor of the file is applied, or listed in
// Model.Ignored with a reason, or the file is refused. f must stay open as
// long as the model is used: token embeddings are read from it.
func Load(f *gguf.File, opt Options) (*Model, error) {
	l, err := plan(f, opt)
	if err != nil {
		return nil, err
	}
	if err := l.pack(); err != nil {
		return nil, err
	}
	return l.m, nil
}

// Close releases the weights. No State of the model may be used afterwards.
func (m *Model) Close() error { return m.arena.Free() }

// WeightBytes is the memory the packed weights take.
func (m *Model) WeightBytes() int64 { return int64(m.size) }

func (l *loader) take(name string) *gguf.Tensor {
	t := l.f.Tensor(name)
	if t != nil {
		l.used[name] = true
	}
	return t
}

// vector reads an F32 tensor of n values; nil if absent and not required.
func (l *loader) vector(name string, n int, required bool) []float32 {
	t := l.take(name)
	if t == nil {
		if required {
			l.fail("tensor %q is missing; is this a complete %s model?", name, l.m.Arch)
		}
		return nil
	}
	if t.Format != arith.F32 || int(t.Elems()) != n {
		l.fail("tensor %q has %d values in %v; expected %d in F32", name, t.Elems(), t.Format, n)
		return nil
	}
	v := make([]float32, kernel.Pad(n))
	for i := range n {
		v[i] = math.Float32frombits(binary.LittleEndian.Uint32(t.Data[4*i:]))
		if !arith.Finite(v[i]) {
			l.fail("tensor %q holds a value that is not finite", name)
			return nil
		}
	}
	return v
}

// matrix plans to pack rows [row0, row0+rows) of a tensor cols wide.
func (l *loader) matrix(dst *linear, t *gguf.Tensor, name string, row0, rows, cols, ofRows int) {
	dst.scale = 1
	if t == nil {
		l.fail("tensor %q is missing; is this a complete %s model?", name, l.m.Arch)
		return
	}
	if t.Cols() != cols || t.Rows() != ofRows {
		l.fail("tensor %q has %d rows of %d; expected %d of %d", name, t.Rows(), t.Cols(), ofRows, cols)
		return
	}
	size := kernel.PackedBytes(t.Format, rows, cols)
	l.jobs = append(l.jobs, &job{dst, t, row0, rows, l.size, size})
	l.size += (size + 63) &^ 63
}

// linear plans base.weight with its optional bias and scale.
func (l *loader) linear(dst *linear, base string, rows, cols int, scaleFirst, bare bool) {
	l.matrix(dst, l.take(base+".weight"), base+".weight", 0, rows, cols, rows)
	if bare {
		l.bare(dst, base)
		return
	}
	dst.bias = l.vector(base+".bias", rows, false)
	l.scale(dst, base, scaleFirst)
}

func (l *loader) scale(dst *linear, base string, scaleFirst bool) {
	dst.scaleFirst = scaleFirst
	if s := l.vector(base+".scale", 1, false); s != nil {
		dst.scale = s[0]
	}
	l.inputScale(base)
}

// inputScale accepts the activation scales that some converters store for
// kernels with calibrated inputs. The canonical arithmetic chooses the scale
// of an activation block from the block itself, so they take no part.
func (l *loader) inputScale(base string) {
	if t := l.take(base + ".input_scale"); t != nil {
		l.m.Ignored[t.Name] = "a calibration hint; activation scales are computed from the activations"
	}
}

// bare accepts the bias and scale of a matrix in a family that has none: they
// take no part, as in the family's other implementations.
func (l *loader) bare(dst *linear, base string) {
	for _, s := range []string{".bias", ".scale"} {
		if t := l.take(base + s); t != nil {
			l.m.Ignored[t.Name] = "the " + l.m.Arch + " architecture has none here"
		}
	}
	dst.bias, dst.scale = nil, 1
	l.inputScale(base)
}

func (l *loader) describe() {
	m, c := l.m, &l.m.Config
	m.embed = l.take("token_embd.weight")
	switch {
	case len(l.f.Tensors()) == 0:
		l.fail("the file has a vocabulary and metadata but no weights; it serves \"geist models tokenize\" only")
		return
	case m.embed == nil:
		l.fail("tensor %q is missing; is this a complete %s model?", "token_embd.weight", c.Arch)
		return
	case m.embed.Cols() != c.Dim:
		l.fail("tensor %q is %d wide; expected %d", m.embed.Name, m.embed.Cols(), c.Dim)
		return
	}
	c.Vocab = m.embed.Rows()
	m.norm = l.vector("output_norm.weight", c.Dim, true)
	if l.f.Tensor("output.weight") != nil {
		l.linear(&m.output, "output", c.Vocab, c.Dim, true, false)
	} else {
		l.matrix(&m.output, m.embed, m.embed.Name, 0, c.Vocab, c.Dim, c.Vocab)
		m.output.bias = l.vector("output.bias", c.Vocab, false)
		l.scale(&m.output, "output", true)
	}
	l.ropes()
	if t := l.take("cls.output.weight"); t != nil {
		m.Ignored[t.Name] = "the head of a reranker, which generation does not use"
	}
	m.layers = make([]layer, c.Layers)
	for i := range m.layers {
		l.layer(&m.layers[i], i)
		if l.err != nil {
			return
		}
	}
	m.KV = arith.KVF32
	for _, p := range l.jobs {
		if p.t.Format != arith.F32 {
			m.KV = arith.KVF16
		}
	}
}

func (l *loader) ropes() {
	m, c := l.m, &l.m.Config
	s := c.scaling
	half := c.ropeDims / 2
	freqs := l.vector("rope_freqs.weight", half, false)
	short, long := l.vector("rope_factors_short.weight", half, false), l.vector("rope_factors_long.weight", half, false)
	chosen := ""
	switch {
	case freqs != nil:
		s.Factors, chosen = freqs[:half], "rope_freqs.weight"
	case long != nil && (c.longRope || short == nil):
		s.Factors, chosen = long[:half], "rope_factors_long.weight"
	case short != nil:
		s.Factors, chosen = short[:half], "rope_factors_short.weight"
	}
	for _, name := range []string{"rope_factors_short.weight", "rope_factors_long.weight"} {
		if l.f.Tensor(name) != nil && name != chosen {
			m.Ignored[name] = chosen + " is in use"
		}
	}
	for _, f := range s.Factors {
		if f == 0 {
			l.fail("a rotary frequency factor is zero")
			s.Factors = nil
			break
		}
	}
	m.ropes = []*arith.Rope{arith.NewRope(c.ropeBase, c.ropeDims, s)}
	if c.ropeBaseSWA != c.ropeBase || s.Linear != 1 && c.window > 0 && c.Arch == "gemma3" {
		m.ropes = append(m.ropes, arith.NewRope(c.ropeBaseSWA, c.ropeDims, arith.RopeScaling{Linear: 1, Magnitude: 1}))
	}
}

func (l *loader) layer(y *layer, i int) {
	c := &l.m.Config
	p := fmt.Sprintf("blk.%d.", i)
	qDim, kDim, vDim := c.Heads*c.KeyDim, c.KVHeads*c.KeyDim, c.KVHeads*c.ValDim
	y.rope = l.m.ropes[0]
	if c.sliding(i) {
		y.window = c.window
		y.rope = l.m.ropes[len(l.m.ropes)-1]
	}
	y.attnNorm = l.vector(p+"attn_norm.weight", c.Dim, true)
	y.ffnNorm = l.vector(p+"ffn_norm.weight", c.Dim, true)
	if c.postNorm {
		y.postAttn = l.vector(p+"post_attention_norm.weight", c.Dim, true)
		y.postFFN = l.vector(p+"post_ffw_norm.weight", c.Dim, true)
	}
	switch {
	case c.headNorm:
		y.qNorm, y.kNorm = l.vector(p+"attn_q_norm.weight", c.KeyDim, true), l.vector(p+"attn_k_norm.weight", c.KeyDim, true)
	case c.rowNorm:
		y.qNorm, y.kNorm = l.vector(p+"attn_q_norm.weight", qDim, true), l.vector(p+"attn_k_norm.weight", kDim, true)
	}
	if t := l.take(p + "attn_qkv.weight"); t != nil {
		l.fused([]*linear{&y.q, &y.k, &y.v}, []int{qDim, kDim, vDim}, t, p+"attn_qkv", c.Dim, c.bareQKV)
	} else {
		l.linear(&y.q, p+"attn_q", qDim, c.Dim, true, c.bareQKV)
		l.linear(&y.k, p+"attn_k", kDim, c.Dim, true, c.bareQKV)
		l.linear(&y.v, p+"attn_v", vDim, c.Dim, true, c.bareQKV)
	}
	l.linear(&y.o, p+"attn_output", c.Dim, c.Heads*c.ValDim, true, false)
	if c.Experts > 0 && l.f.Tensor(p+"ffn_gate_inp.weight") != nil {
		l.moe(y, p)
		return
	}
	if c.memory != nil && c.memory[i] != "" {
		l.memory(y, i, p)
		return
	}
	if c.Arch == "phi3" {
		l.fused([]*linear{&y.gate, &y.up}, []int{c.FF, c.FF}, l.take(p+"ffn_up.weight"), p+"ffn_up", c.Dim, c.bareFFN)
	} else {
		l.linear(&y.gate, p+"ffn_gate", c.FF, c.Dim, false, c.bareFFN)
		l.linear(&y.up, p+"ffn_up", c.FF, c.Dim, false, c.bareFFN)
	}
	l.linear(&y.down, p+"ffn_down", c.Dim, c.FF, false, c.bareFFN)
}

// fused splits one tensor of stacked matrices.
func (l *loader) fused(dst []*linear, rows []int, t *gguf.Tensor, base string, cols int, bare bool) {
	total := 0
	for _, n := range rows {
		total += n
	}
	var bias []float32
	if !bare {
		bias = l.vector(base+".bias", total, false)
	}
	at := 0
	for i, d := range dst {
		l.matrix(d, t, base+".weight", at, rows[i], cols, total)
		if bias != nil {
			d.bias = append(make([]float32, 0, kernel.Pad(rows[i])), bias[at:at+rows[i]]...)[:kernel.Pad(rows[i])]
		}
		if bare {
			l.bare(d, base)
		} else {
			l.scale(d, base, true)
		}
		at += rows[i]
	}
}

func (l *loader) moe(y *layer, p string) {
	c := &l.m.Config
	l.linear(&y.router, p+"ffn_gate_inp", c.Experts, c.Dim, true, false)
	y.experts = make([]expert, c.Experts)
	part := func(base string, rows, cols int, of func(*expert) *linear) {
		t := l.take(p + base + ".weight")
		var bias, scale []float32
		if c.bareFFN {
			l.bare(&linear{}, p+base)
		} else {
			bias = l.vector(p+base+".bias", rows*c.Experts, false)
			scale = l.vector(p+base+".scale", c.Experts, false)
			l.inputScale(p + base)
		}
		for e := range y.experts {
			d := of(&y.experts[e])
			l.matrix(d, t, p+base+".weight", e*rows, rows, cols, c.Experts*rows)
			d.scaleFirst = true
			if bias != nil {
				d.bias = append(make([]float32, 0, kernel.Pad(rows)), bias[e*rows:(e+1)*rows]...)[:kernel.Pad(rows)]
			}
			if scale != nil {
				d.scale = scale[e]
			}
		}
	}
	part("ffn_gate_exps", c.FF, c.Dim, func(e *expert) *linear { return &e.gate })
	part("ffn_up_exps", c.FF, c.Dim, func(e *expert) *linear { return &e.up })
	part("ffn_down_exps", c.Dim, c.FF, func(e *expert) *linear { return &e.down })
}

// leftovers refuses tensors that nothing has asked for.
func (l *loader) leftovers() {
	var names []string
	for _, t := range l.f.Tensors() {
		if !l.used[t.Name] {
			names = append(names, t.Name)
		}
	}
	if len(names) > 0 {
		sort.Strings(names)
		n := len(names)
		if n > 5 {
			names = append(names[:5], "…")
		}
		l.fail("%d tensors are unknown to the %s architecture and would be left out: %s", n, l.m.Arch, strings.Join(names, ", "))
	}
}

// pack copies the weights into the arena in the kernels' layout, giving each
// tensor's file pages back once it is packed.
func (l *loader) pack() error {
	a, err := arena.New(l.size)
	if err != nil {
		return fmt.Errorf("%s: %w; the weights need %d MiB", l.f.Path, err, l.size>>20)
	}
	team := l.opt.Team
	if team == nil {
		team = kernel.NewTeam(1)
	}
	var done int64
	var lost atomic.Pointer[error]
	for i, p := range l.jobs {
		if l.opt.Abort != nil {
			if err := l.opt.Abort(); err != nil {
				return errors.Join(err, a.Free())
			}
		}
		mem := a.Bytes()[p.offset : p.offset+p.size : p.offset+p.size]
		p.dst.m = kernel.NewMatrix(l.opt.Path, p.t.Format, p.rows, p.t.Cols(), mem)
		rb := p.t.Format.RowBytes(p.t.Cols())
		src := p.t.Data[p.row0*rb : (p.row0+p.rows)*rb]
		team.Run(func(w *kernel.Worker) {
			w.For(p.dst.m.Groups(), 8, func(begin, end int) {
				if err := l.f.Guard(func() { p.dst.m.Pack(src, begin, end) }); err != nil {
					lost.Store(&err)
				}
			})
		})
		if err := lost.Load(); err != nil {
			return errors.Join(*err, a.Free())
		}
		if last := i+1 == len(l.jobs) || l.jobs[i+1].t != p.t; last {
			l.f.Release(p.t)
		}
		done += int64(p.size)
		if l.opt.Progress != nil {
			l.opt.Progress(done, int64(l.size))
		}
	}
	l.m.arena = a
	return nil
}
