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

// Check reports a run that no model could have made.
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
	layouts map[[2]int]*ghost.Layout
	counts  Counts
}

// Counts says how many relations of each kind were checked.
type Counts struct {
	Cells, Tails, FullTails  int
	Embeddings, Norms        int
	Projections, Rotations   int // query, key and value elements; rotated heads
	Scores, Mixes            int // attention
	Outputs, Routers, Hidden int
	Downs, Logits, Draws     int
}

func fail(t, l int, relation, format string, a ...any) error {
	return &Failure{t, l, relation, fmt.Sprintf(format, a...)}
}

func (c *checker) layout(t, l int) *ghost.Layout {
	k := [2]int{c.Model.Layers[l].WeightsCount(t), l}
	y := c.layouts[k]
	if y == nil {
		y = c.Model.Layout(l, t)
		c.layouts[k] = y
	}
	return y
}

// bytes reads the range [begin, end) of a value.
func (c *checker) bytes(t, l int, v ghost.Value, index, begin, end int) ([]byte, error) {
	sp := c.layout(t, l).Span(v, index)
	if begin == 0 && end < 0 {
		end = sp.Bytes
	}
	var out []byte
	for i := begin / ghost.LeafBytes; i*ghost.LeafBytes < end; i++ {
		b, err := c.src.Leaf(t, l, sp.First+i)
		if err != nil {
			return nil, err
		}
		lo, hi := max(begin-i*ghost.LeafBytes, 0), min(end-i*ghost.LeafBytes, len(b))
		out = append(out, b[lo:hi]...)
	}
	return out, nil
}

func floats(b []byte) []float32 {
	x := make([]float32, len(b)/4)
	for i := range x {
		x[i] = math.Float32frombits(binary.LittleEndian.Uint32(b[4*i:]))
	}
	return x
}

func (c *checker) floats(t, l int, v ghost.Value, index int) ([]float32, error) {
	b, err := c.bytes(t, l, v, index, 0, -1)
	return floats(b), err
}

func (c *checker) float(t, l int, v ghost.Value, i int) (float32, error) {
	b, err := c.bytes(t, l, v, 0, 4*i, 4*i+4)
	if err != nil {
		return 0, err
	}
	return floats(b)[0], nil
}

// elems decodes values in the cache's format.
func (c *checker) elems(b []byte) []float32 {
	if c.Model.KV == arith.KVF32 {
		return floats(b)
	}
	x := make([]float32, len(b)/2)
	for i := range x {
		x[i] = arith.F16ToF32(binary.LittleEndian.Uint16(b[2*i:]))
	}
	return x
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
	x := make([]float32, m.Dim)
	arith.Dequantize(x, m.Tensors[m.Embedding].Format, row)
	if m.EmbedScale != 1 {
		for i, v := range x {
			x[i] = float32(v * m.EmbedScale)
		}
	}
	c.counts.Embeddings++
	return x, nil
}

// normed is an RMSNorm of x as input of a product with l.
func (c *checker) normed(t, l int, x, w []float32, lin *ghost.Linear) (arith.Activations, error) {
	y := make([]float32, len(x))
	arith.RMSNorm(y, x, w, c.Model.Eps)
	a, ok := arith.Quantize(y, c.Model.Tensors[lin.Tensor].Format.ActBlock())
	if !ok || !arith.Finite(arith.SumSquares(x)) {
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
	y := arith.Dot(c.Model.Tensors[l.Tensor].Format, row, a)
	if l.Scale != 1 && l.ScaleFirst {
		y = float32(y * l.Scale)
	}
	if l.Bias != nil {
		y += l.Bias[r]
	}
	if l.Scale != 1 && !l.ScaleFirst {
		y = float32(y * l.Scale)
	}
	return y, nil
}

// input decodes a committed input of n activations for products with l.
func (c *checker) input(t, l int, v ghost.Value, index, n int, lin *ghost.Linear) (arith.Activations, error) {
	b, err := c.bytes(t, l, v, index, 0, -1)
	if err != nil {
		return arith.Activations{}, err
	}
	a := arith.Activations{Block: c.Model.Tensors[lin.Tensor].Format.ActBlock()}
	if a.Block == 0 {
		a.X = floats(b)
		return a, nil
	}
	blocks := n / a.Block
	a.D = floats(b[:4*blocks])
	a.Q = make([]int8, n)
	for i, x := range b[4*blocks:] {
		a.Q[i] = int8(x)
		if a.Q[i] == -128 {
			return a, fail(t, l, "codes", "a code is −128")
		}
	}
	for _, d := range a.D {
		if !(d >= 0) || !arith.Finite(d) {
			return a, fail(t, l, "codes", "a scale is %v", d)
		}
	}
	return a, nil
}

// holds reports whether input a has value x at i: the same float, or the code
// that x has under the block's scale.
func holds(a arith.Activations, i int, x float32) bool {
	if a.Block == 0 {
		return math.Float32bits(a.X[i]) == math.Float32bits(x)
	}
	return arith.Code(x, a.D[i/a.Block]) == int32(a.Q[i])
}

func same(a, b float32) bool { return math.Float32bits(a) == math.Float32bits(b) }
