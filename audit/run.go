package audit

import (
	"encoding/binary"
	"fmt"
	"math"

	"github.com/geistnet/geist/arith"
	"github.com/geistnet/geist/ghost"
	"github.com/geistnet/geist/merkle"
)

// Run is what the client knows of an answer before it asks for a proof.
type Run struct {
	Model    *ghost.Model
	Prompt   []int32
	Answer   []int32 // at least one token
	Sampling arith.Sampling
	Trace    merkle.Hash // from the signed receipt
	// Constrained: a grammar restricted the answer, so that the choice of
	// tokens cannot be repeated from logits alone.
	Constrained bool
	// Outline, if it is known, leads to Trace; proofs are cheaper to make with it.
	Outline *ghost.Outline
	// Hasher makes the hashes of Verify; nil: merkle.Plain. It is trusted.
	Hasher merkle.Hasher
}

func (r *Run) hasher() merkle.Hasher {
	if r.Hasher == nil {
		return merkle.Plain{}
	}
	return r.Hasher
}

// Positions is the number of positions the run computed: every token of prompt
// and answer but the last.
func (r *Run) Positions() int { return len(r.Prompt) + len(r.Answer) - 1 }

func (r *Run) token(t int) int32 {
	if t < len(r.Prompt) {
		return r.Prompt[t]
	}
	return r.Answer[t-len(r.Prompt)]
}

// Check reports a run that no model could have made, or that no proof opens.
func (r *Run) Check() error {
	m := r.Model
	if len(r.Prompt) == 0 || len(r.Answer) == 0 {
		return fmt.Errorf("a run of %d prompt and %d answer tokens is empty", len(r.Prompt), len(r.Answer))
	}
	if r.Positions() > m.Context {
		return fmt.Errorf("a run of %d positions exceeds the context of %d", r.Positions(), m.Context)
	}
	for i := range len(r.Prompt) + len(r.Answer) {
		if id := r.token(i); id < 0 || int(id) >= m.Vocab {
			return fmt.Errorf("token %d is %d, beyond the vocabulary of %d", i, id, m.Vocab)
		}
	}
	return nil
}

// Source opens committed values. Every item has the length that the trace's
// layout or the tensor's format gives it.
type Source interface {
	Leaf(t, layer, leaf int) ([]byte, error)     // of a layer at a position
	Tail(t, leaf int) ([]byte, error)            // of a position's logits
	Key(layer, head, t int) ([]byte, error)      // a row of cached keys
	Column(layer, head, dim int) ([]byte, error) // a column of cached values
	Row(tensor, row int) ([]byte, error)         // a row of weights
}

// Failure is a relation that does not hold: somebody lied, or sent damaged data.
type Failure struct {
	Position, Layer int // -1 where there is none
	Relation        string
	Detail          string
}

func (f *Failure) Error() string {
	switch {
	case f.Layer >= 0:
		return fmt.Sprintf("position %d, layer %d, %s: %s", f.Position, f.Layer, f.Relation, f.Detail)
	case f.Position >= 0:
		return fmt.Sprintf("position %d, %s: %s", f.Position, f.Relation, f.Detail)
	}
	return f.Relation + ": " + f.Detail
}

// checker runs the checks of one proof.
type checker struct {
	*Run
	src     Source
	layouts map[[2]int]*layout
	counts  Counts
	explain *explainer // nil: nobody wants to know

	// Memory of the cell under way, given out piece by piece; a cell frees it.
	free     []float32
	given    int
	codes    []int8
	coded    int
	raw      []byte    // of one value
	cos, sin []float32 // of the last rotation
	turned   [2]int    // its rope and position
}

func newChecker(run *Run) *checker {
	return &checker{Run: run, layouts: map[[2]int]*layout{}, turned: [2]int{-1, -1}}
}

// take gives n floats that live until reset.
func (c *checker) take(n int) []float32 {
	if c.given+n > len(c.free) {
		c.free, c.given = make([]float32, max(n, 1<<15)), 0
	}
	c.given += n
	return c.free[c.given-n : c.given : c.given]
}

// takeCodes gives n codes that live until reset.
func (c *checker) takeCodes(n int) []int8 {
	if c.coded+n > len(c.codes) {
		c.codes, c.coded = make([]int8, max(n, 1<<15)), 0
	}
	c.coded += n
	return c.codes[c.coded-n : c.coded : c.coded]
}

// reset takes back what was given out.
func (c *checker) reset() { c.given, c.coded = 0, 0 }

// Counts says how many relations of each kind were checked.
type Counts struct {
	Cells, Tails, FullTails  int
	Embeddings, Norms        int
	Projections, Rotations   int // query, key and value elements; rotated heads
	Scores, Mixes            int // attention
	Outputs, Routers, Hidden int
	Scales                   int // of blocks of codes
	Downs, Logits, Draws     int
	Recalls                  int // vectors that memory blocks make of rows
}

func fail(t, l int, relation, format string, a ...any) error {
	return &Failure{t, l, relation, fmt.Sprintf(format, a...)}
}

func (c *checker) layout(t, l int) *layout {
	k := [2]int{c.Model.Layers[l].WeightsCount(t), l}
	y := c.layouts[k]
	if y == nil {
		y = layoutOf(c.Model, l, t)
		c.layouts[k] = y
	}
	return y
}

// each gives the range [begin, end) of a value, piece by piece; end < 0 is the
// value's end.
func (c *checker) each(t, l int, v ghost.Value, index, begin, end int, piece func([]byte)) error {
	sp := c.layout(t, l).Span(v, index)
	if end < 0 {
		end = sp.Bytes
	}
	for i := begin / sp.Full; i*sp.Full < end; i++ {
		b, err := c.src.Leaf(t, l, sp.First+i)
		if err != nil {
			return err
		}
		piece(b[max(begin-i*sp.Full, 0):min(end-i*sp.Full, len(b))])
	}
	return nil
}

// decode reads little-endian floats.
func decode(x []float32, b []byte) {
	for i := range x {
		x[i] = math.Float32frombits(binary.LittleEndian.Uint32(b[4*i:]))
	}
}

// floats reads a whole value of floats.
func (c *checker) floats(t, l int, v ghost.Value, index int) ([]float32, error) {
	return c.part(t, l, v, index, 0, c.layout(t, l).Span(v, index).Bytes/4)
}

// part reads the floats [begin, end) of a value. Leaves hold whole floats.
func (c *checker) part(t, l int, v ghost.Value, index, begin, end int) ([]float32, error) {
	x := c.take(end - begin)
	rest := x
	err := c.each(t, l, v, index, 4*begin, 4*end, func(b []byte) {
		decode(rest[:len(b)/4], b)
		rest = rest[len(b)/4:]
	})
	return x, err
}

func (c *checker) float(t, l int, v ghost.Value, i int) (float32, error) {
	x, err := c.part(t, l, v, 0, i, i+1)
	return x[0], err
}

// elements reads the elements [begin, end) of a value in the cache's format.
func (c *checker) elements(t, l int, v ghost.Value, index, begin, end int) ([]float32, error) {
	e := c.Model.ElemBytes()
	x := c.take(end - begin)
	rest := x
	err := c.each(t, l, v, index, begin*e, end*e, func(b []byte) {
		c.elems(rest[:len(b)/e], b)
		rest = rest[len(b)/e:]
	})
	return x, err
}

// elems decodes values in the cache's format.
func (c *checker) elems(x []float32, b []byte) {
	if c.Model.KV == arith.KVF32 {
		decode(x, b)
		return
	}
	b = b[:2*len(x)]
	for i := range x {
		h := binary.LittleEndian.Uint16(b[2*i:])
		if e := h & 0x7c00; e != 0 && e != 0x7c00 { // normal: only the exponent's bias differs
			x[i] = math.Float32frombits(uint32(h&0x8000)<<16 | (uint32(h&0x7fff)<<13 + (127-15)<<23))
			continue
		}
		x[i] = arith.F16ToF32(h)
	}
}

// resid is the residual stream that enters layer l at position t.
func (c *checker) resid(t, l int) ([]float32, error) {
	if l > 0 {
		return c.floats(t, l-1, ghost.ResidOut, 0)
	}
	m := c.Model
	row, err := c.src.Row(m.Embedding, int(c.token(t)))
	if err != nil {
		return nil, err
	}
	x := c.take(m.Dim)
	embedded(m, x, row)
	c.counts.Embeddings++
	return x, nil
}

// normed is an RMSNorm of x as input of a product with l.
func (c *checker) normed(t, l int, x, w []float32, lin *ghost.Linear) (arith.Activations, error) {
	a, ok := normedInput(c.Model, c.take(len(x)), x, w, c.Model.Tensors[lin.Tensor].Format)
	if !ok {
		return a, fail(t, l, "norm", "the residual stream is not finite")
	}
	c.counts.Norms++
	return a, nil
}

// linear computes output r of a matrix.
func (c *checker) linear(l *ghost.Linear, r int, a arith.Activations) (float32, error) {
	row, err := c.src.Row(l.Tensor, l.Row0+r)
	if err != nil {
		return 0, err
	}
	return outputOf(l, r, c.Model.Tensors[l.Tensor].Format, row, a), nil
}

// input decodes a committed input of n activations for products with l.
func (c *checker) input(t, l int, v ghost.Value, index, n int, lin *ghost.Linear) (arith.Activations, error) {
	a := arith.Activations{Block: c.Model.Tensors[lin.Tensor].Format.ActBlock()}
	var err error
	if a.Block == 0 {
		a.X, err = c.floats(t, l, v, index)
		return a, err
	}
	scales := 4 * (n / a.Block)
	c.raw = c.raw[:0]
	if err = c.each(t, l, v, index, 0, -1, func(b []byte) { c.raw = append(c.raw, b...) }); err != nil {
		return a, err
	}
	a.D, a.Q = c.take(n/a.Block), c.takeCodes(n)
	decode(a.D, c.raw)
	for b, d := range a.D {
		if !(d >= 0) || !arith.Finite(d) {
			return a, fail(t, l, "codes", "a scale is %v", d)
		}
		codes := c.raw[scales+b*a.Block:][:a.Block]
		q := a.Q[b*a.Block:][:a.Block]
		var any, full, low uint64
		for ; len(codes) >= 8; codes, q = codes[8:], q[8:] {
			x := binary.LittleEndian.Uint64(codes)
			any |= x
			full |= zeroByte(x^bytes7F) | zeroByte(x^bytes81)
			low |= zeroByte(x ^ bytes80)
			for i, y := range (*[8]byte)(codes) {
				(*[8]int8)(q)[i] = int8(y)
			}
		}
		// A block's largest value has the code ±127; a scale too large for its
		// block would make any codes right.
		switch {
		case low != 0:
			return a, fail(t, l, "codes", "a code is −128")
		case d == 0 && any != 0 || d > 0 && full == 0:
			return a, fail(t, l, "codes", "the largest code of a block of scale %v is not 127", d)
		}
	}
	return a, nil
}

const (
	bytes01 = 0x0101010101010101
	bytes7F = 0x7f * bytes01
	bytes80 = 0x80 * bytes01
	bytes81 = 0x81 * bytes01
)

// zeroByte is not zero exactly if one of the eight bytes of x is.
func zeroByte(x uint64) uint64 { return (x - bytes01) &^ x & bytes80 }

// holds reports whether input a has value x at i: the same float, or the code
// that x has under the block's scale.
func holds(a arith.Activations, i int, x float32) bool {
	if a.Block == 0 {
		return math.Float32bits(a.X[i]) == math.Float32bits(x)
	}
	return arith.Code(x, a.D[i/a.Block]) == int32(a.Q[i])
}

func same(a, b float32) bool { return math.Float32bits(a) == math.Float32bits(b) }
