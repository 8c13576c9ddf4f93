package train

import (
	"fmt"
	"math/rand/v2"

	"github.com/geistnet/geist/internal/matmul"
)

// A Param is one dense tensor: Rows rows of Cols values. W are its values, G
// its gradient, M and V its moments; all four are parts of the model's slabs.
type Param struct {
	Name       string // as in a model file
	Rows, Cols int
	W, G, M, V []float32
	decays     bool // weight decay pulls it to zero
}

func (p *Param) w() matmul.Matrix { return matmul.Of(p.W, p.Rows, p.Cols) }
func (p *Param) g() matmul.Matrix { return matmul.Of(p.G, p.Rows, p.Cols) }

// A Table is the rows of a memory block, with the state of each row's Adam.
type Table struct {
	Name       string
	Rows, Cols int
	W, M, V    []float32
	Steps      []uint32 // that a row has seen
}

// row is row i of x.
func (t *Table) row(x []float32, i int) []float32 { return x[i*t.Cols : (i+1)*t.Cols] }

// block is what one layer learns. Parameters that its rule lacks are nil.
type block struct {
	rule                    string
	attnNorm, q, k, v, o    *Param
	ffnNorm, gate, up, down *Param
	memoryQuery, memoryKeys *Param
	memory                  *Table
}

// Model is the state of a run that training changes.
type Model struct {
	Shape  Shape
	Params []*Param // in order of the file
	Tables []*Table
	Step   int // steps made

	slab   [4][]float32 // W, G, M and V of all Params
	embed  *Param
	norm   *Param
	blocks []block
}

// NewModel makes a model with random weights from seed.
func NewModel(s Shape, seed uint64) (*Model, error) {
	if err := s.Check(); err != nil {
		return nil, err
	}
	m := &Model{Shape: s}
	add := func(name string, rows, cols int) *Param {
		p := &Param{Name: name, Rows: rows, Cols: cols, decays: rows > 1}
		m.Params = append(m.Params, p)
		return p
	}
	table := func(name string, l int) *Table {
		rows, cols := s.rows(l)
		n := rows * cols
		t := &Table{Name: name, Rows: rows, Cols: cols, W: make([]float32, n), M: make([]float32, n), V: make([]float32, n), Steps: make([]uint32, rows)}
		m.Tables = append(m.Tables, t)
		return t
	}
	m.embed = add("token_embd.weight", s.Vocab, s.Dim)
	for l, rule := range s.Blocks {
		name := func(part string) string { return fmt.Sprintf("blk.%d.%s.weight", l, part) }
		b := block{rule: rule}
		b.attnNorm = add(name("attn_norm"), 1, s.Dim)
		b.q = add(name("attn_q"), s.Heads*s.HeadDim, s.Dim)
		b.k = add(name("attn_k"), s.KVHeads*s.HeadDim, s.Dim)
		b.v = add(name("attn_v"), s.KVHeads*s.HeadDim, s.Dim)
		b.o = add(name("attn_output"), s.Dim, s.Heads*s.HeadDim)
		b.ffnNorm = add(name("ffn_norm"), 1, s.Dim)
		b.gate = add(name("ffn_gate"), s.FF, s.Dim)
		switch rule {
		case Dense:
			b.up = add(name("ffn_up"), s.FF, s.Dim)
		case Hash:
			b.memory = table(name("memory"), l)
		case Product:
			p := s.product()
			b.memoryQuery = add(name("memory_query"), p.QueryLen(), s.Dim)
			b.memoryKeys = add(name("memory_keys"), p.KeyRows(), p.Dim)
			b.memory = table(name("memory"), l)
		}
		b.down = add(name("ffn_down"), s.Dim, s.FF)
		m.blocks = append(m.blocks, b)
	}
	m.norm = add("output_norm.weight", 1, s.Dim)
	m.allocate()
	m.initialise(seed)
	return m, nil
}

// allocate lays the parameters one after the other in the four slabs.
func (m *Model) allocate() {
	n := 0
	for _, p := range m.Params {
		n += p.Rows * p.Cols
	}
	for i := range m.slab {
		m.slab[i] = make([]float32, n)
	}
	at := 0
	for _, p := range m.Params {
		end := at + p.Rows*p.Cols
		for i, part := range []*[]float32{&p.W, &p.G, &p.M, &p.V} {
			*part = m.slab[i][at:end:end]
		}
		at = end
	}
}

// A drawer draws numbers that depend on nothing but a seed.
type drawer struct{ r *rand.PCG }

// normal is close to normally distributed around 0 with deviation 1: the sum of
// four even draws of 16 bits.
func (d drawer) normal() float32 {
	u := d.r.Uint64()
	sum := int64(u&0xffff) + int64(u>>16&0xffff) + int64(u>>32&0xffff) + int64(u>>48)
	const deviation = 37837.22 // of the sum: 2¹⁶/√3
	return float32(float64(sum-2*65535) / deviation)
}

// initialise sets all weights. Matrices that write to the residual stream begin
// smaller, by the root of how many there are; rows of n-grams begin at zero, so
// that an n-gram that was never seen says nothing.
func (m *Model) initialise(seed uint64) {
	d := drawer{rand.NewPCG(seed, 1)}
	fill := func(x []float32, deviation float32) {
		for i := range x {
			x[i] = float32(d.normal() * deviation)
		}
	}
	const small = 0.02
	width := 1 / root(float32(m.Shape.Dim))
	for _, p := range m.Params {
		if p.Rows == 1 {
			for i := range p.W {
				p.W[i] = 1
			}
			continue
		}
		fill(p.W, width)
	}
	fill(m.embed.W, small)
	back := root(float32(2 * len(m.blocks)))
	for _, b := range m.blocks {
		fill(b.o.W, width/back)
		fill(b.down.W, 1/(root(float32(m.Shape.FF))*back))
		if b.rule == Product {
			fill(b.memoryKeys.W, 1/root(float32(m.Shape.ProductDim)))
			fill(b.memory.W, small)
		}
	}
}

// NumParams are the numbers of dense values and of values in rows.
func (m *Model) NumParams() (dense, rows int) {
	for _, t := range m.Tables {
		rows += len(t.W)
	}
	return len(m.slab[0]), rows
}
