package model

import (
	"crypto/sha256"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/geistnet/geist/arith"
	"github.com/geistnet/geist/ghost"
	"github.com/geistnet/geist/internal/gguf"
	"github.com/geistnet/geist/internal/kernel"
	"github.com/geistnet/geist/internal/tokenizer"
	"github.com/geistnet/geist/sat"
)

// Describe says of the model in f all that a Ghost file says but the roots,
// which are zero: it reads no weights but norms and biases. The result keeps
// the rules of ghost.Model.Check. Of opt it uses Long
// and Memory.
func Describe(f *gguf.File, opt Options) (*ghost.Model, error) {
	l, err := plan(f, opt)
	if err != nil {
		return nil, err
	}
	d := &describer{jobs: map[*linear]*job{}, index: map[*gguf.Tensor]int{}, m: &ghost.Model{}}
	for _, j := range l.jobs {
		d.jobs[j.dst] = j
	}
	d.model(l.m)
	name, _ := f.String("general.name")
	d.m.Name = plainName(name)
	if _, ok := f.Value("tokenizer.ggml.model"); ok {
		t, err := tokenizer.New(f)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", f.Path, err)
		}
		d.m.Tokenizer = t.Hash()
	}
	if s, ok := f.String("tokenizer.chat_template"); ok {
		d.m.Template = sha256.Sum256([]byte(s))
	}
	if err := d.m.Check(); err != nil {
		return nil, fmt.Errorf("%s: a Ghost file cannot hold this model: %w", f.Path, err)
	}
	return d.m, nil
}

// plainName is a name that a Ghost file can hold: UTF-8 of at most 256 bytes
// without control characters.
func plainName(s string) string {
	s = strings.Map(func(r rune) rune {
		if unicode.IsControl(r) {
			return utf8.RuneError
		}
		return r
	}, strings.ToValidUTF8(s, string(utf8.RuneError)))
	for len(s) > 256 {
		_, size := utf8.DecodeLastRuneInString(s)
		s = s[:len(s)-size]
	}
	return s
}

type describer struct {
	jobs  map[*linear]*job
	index map[*gguf.Tensor]int // in m.Tensors
	m     *ghost.Model
}

// tensor is the index of t, which becomes the last if it is new.
func (d *describer) tensor(t *gguf.Tensor) int {
	i, ok := d.index[t]
	if !ok {
		i = len(d.m.Tensors)
		d.index[t] = i
		d.m.Tensors = append(d.m.Tensors, ghost.Tensor{Name: t.Name, Format: t.Format, Rows: t.Rows(), Cols: t.Cols()})
	}
	return i
}

func (d *describer) linear(l *linear) ghost.Linear {
	j := d.jobs[l]
	return ghost.Linear{
		Tensor: d.tensor(j.t), Row0: j.row0, Rows: j.rows,
		Bias: unpadded(l.bias, j.rows), Scale: l.scale, ScaleFirst: l.scaleFirst,
	}
}

// unpadded takes away what a vector has beyond its values; nil stays nil.
func unpadded(x []float32, n int) []float32 {
	if x == nil {
		return nil
	}
	return x[:n:n]
}

// model fills in everything in the order in which tensors are numbered: that
// of ghost.Model.Linears.
func (d *describer) model(m *Model) {
	g := d.m
	*g = ghost.Model{
		Arithmetic: arith.Version, Arch: m.Arch,
		Dim: m.Dim, Heads: m.Heads, KVHeads: m.KVHeads, KeyDim: m.KeyDim, ValDim: m.ValDim, FF: m.FF,
		Vocab: m.Vocab, Context: m.Context, Eps: m.Eps, KV: m.KV, Neox: m.neox, AttnScale: m.attnScale,
		AttnCap: m.attnCap, LogitCap: m.logitCap, EmbedScale: m.embedScale, ExpertScale: 1,
		OutputNorm: unpadded(m.norm, m.Dim),
	}
	if m.gate == kernel.GELU {
		g.Gate = ghost.GELU
	}
	switch {
	case m.headNorm:
		g.Norm = ghost.HeadNorm
	case m.rowNorm:
		g.Norm = ghost.RowNorm
	}
	if m.tempScale != 0 {
		g.TempScale, g.TempFloor = m.tempScale, m.tempFloor
	}
	ropes := map[*arith.Rope]int{}
	for i, r := range m.ropes {
		ropes[r] = i
		g.Ropes = append(g.Ropes, *r)
	}
	g.Embedding = d.tensor(m.embed)
	g.Layers = make([]ghost.Layer, len(m.layers))
	for i := range m.layers {
		d.layer(&g.Layers[i], &m.layers[i], m)
		g.Layers[i].Rope = ropes[m.layers[i].rope]
	}
	g.Output = d.linear(&m.output)
}

// memory describes a memory block.
func (d *describer) memory(g *ghost.Layer, y *layer) {
	x := y.memory
	g.Gate = d.linear(&y.gate)
	rule := slices.IndexFunc(d.m.Rules, func(r sat.Rule) bool { return reflect.DeepEqual(r, x.rule) })
	if rule < 0 {
		rule = len(d.m.Rules)
		d.m.Rules = append(d.m.Rules, x.rule)
	}
	g.Memory = &ghost.Memory{Rule: rule}
	if p := x.rule.Product; p != nil {
		g.Memory.Query, g.Memory.Keys = d.linear(&x.query), d.linear(&x.keys[0])
		g.Memory.Keys.Rows = p.KeyRows() // of all heads and halves
	}
	if x.tensor != nil {
		g.Memory.Table = d.tensor(x.tensor)
	} else {
		g.Memory.Table = len(d.m.Tensors)
		d.m.Tensors = append(d.m.Tensors, ghost.Tensor{Name: x.name, Format: x.format, Rows: x.rows, Cols: x.cols})
	}
	g.Down = d.linear(&y.down)
}

func (d *describer) layer(g *ghost.Layer, y *layer, m *Model) {
	qDim, kDim := m.Heads*m.KeyDim, m.KVHeads*m.KeyDim
	if m.headNorm {
		qDim, kDim = m.KeyDim, m.KeyDim
	}
	g.AttnNorm, g.FFNNorm = unpadded(y.attnNorm, m.Dim), unpadded(y.ffnNorm, m.Dim)
	g.PostAttn = unpadded(y.postAttn, m.Dim)
	g.QNorm, g.KNorm = unpadded(y.qNorm, qDim), unpadded(y.kNorm, kDim)
	g.Window = y.window
	g.Q, g.K, g.V, g.O = d.linear(&y.q), d.linear(&y.k), d.linear(&y.v), d.linear(&y.o)
	if y.memory != nil {
		d.memory(g, y)
		return
	}
	if y.experts == nil {
		g.PostFFN = unpadded(y.postFFN, m.Dim)
		g.Gate, g.Up, g.Down = d.linear(&y.gate), d.linear(&y.up), d.linear(&y.down)
		return
	}
	// Mixtures have no norm after them, whatever the family (spec §7.2).
	d.m.ExpertsUsed, d.m.ExpertNorm, d.m.ExpertScale = m.ExpertsUsed, m.expertNorm, m.expertScale
	g.Router = d.linear(&y.router)
	g.Experts = make([]ghost.Expert, len(y.experts))
	for e := range y.experts {
		x := &y.experts[e]
		g.Experts[e] = ghost.Expert{Gate: d.linear(&x.gate), Up: d.linear(&x.up), Down: d.linear(&x.down)}
	}
}
