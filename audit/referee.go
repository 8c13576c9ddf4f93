package audit

import (
	"encoding/binary"
	"fmt"
	"math"

	"github.com/geistnet/geist/arith"
	"github.com/geistnet/geist/ghost"
)

// Relation names how one committed value follows from others.
type Relation uint8

// The relations of a fraud proof. Element, Index and the rest of a Claim mean:
const (
	NoRelation         Relation = iota
	TokenList                   // the tokens are those of the receipt
	NoLogits                    // Position has no logits: nothing was drawn from it
	QueryElement                // Element of the raw query
	KeyElement                  // Element of the raw key
	CachedKey                   // the key of key head Index
	CachedValue                 // dimension Element of the value of key head Index
	ScoreBelow                  // the score of head Index at position Element is at most the largest
	ScoreReached                // some position of head Index has the largest score
	WeightElement               // Element of the committed weights of head Index
	AttnElement                 // Element of the attention output: its code under the scale, or itself
	AttnScale                   // the scale of Element's block is enough for it
	AttnPeak                    // some element of block Element has the scale
	OutRawElement               // Element of the output projection's result
	MidElement                  // Element of the residual stream after attention
	RouterElement               // Element of the router's logits
	HiddenElement               // Element of the Index-th hidden vector, as AttnElement
	HiddenScale                 // as AttnScale
	HiddenPeak                  // as AttnPeak
	DownRawElement              // Element of the last projection's result
	OutElement                  // Element of the residual stream after the layer
	LogitElement                // the logit of token Element
	MemoryQueryElement          // Element of a memory block's query
	relations
)

var relationNames = [relations]string{"", "tokens", "no logits", "query", "key", "cached key", "cached value", "largest score", "largest score",
	"attention weight", "attention", "attention scale", "attention scale", "output before its norm", "output", "router", "hidden",
	"hidden scale", "hidden scale", "down before its norm", "down", "logit", "memory query"}

// String names the relation.
func (r Relation) String() string {
	if r >= relations {
		return fmt.Sprintf("relation %d", uint8(r))
	}
	return relationNames[r]
}

// Claim says that one relation of a run does not hold.
type Claim struct {
	Relation                        Relation
	Position, Layer, Index, Element int // zero where the relation has none
}

// opener gives values that are committed to under one trace root, and weights.
type opener interface {
	leaf(t, l, i, n int) ([]byte, error)
	tail(t, i, n int) ([]byte, error)
	root(t, l int) ([]byte, error) // of a layer, or the tail after the last
	key(l, g, t, n int) ([]byte, error)
	column(l, g, d, n int) ([]byte, error)
	tokens(i, n int) ([]byte, error)
	row(tensor, row, n int) ([]byte, error)
}

// referee computes single relations from opened values. The Model may hold
// nothing but what need has been asked for.
type referee struct {
	m         *ghost.Model
	prompt    int // tokens
	answer    int
	src       opener
	need      func(ghost.Part) error
	layouts   map[[2]int]*ghost.Layout
	positions int

	// What was computed already: a claim about a block asks for it with every
	// element, and who wrote a proof chooses how many these are.
	inputs map[inputKey]arith.Activations
	routes map[[2]int]route
	recall map[[2]int][]float32 // u of a memory block, by position and layer
}

func newReferee(m *ghost.Model, prompt, answer int, src opener, need func(ghost.Part) error) *referee {
	return &referee{m: m, prompt: prompt, answer: answer, src: src, need: need, layouts: map[[2]int]*ghost.Layout{}, positions: prompt + answer - 1,
		inputs: map[inputKey]arith.Activations{}, routes: map[[2]int]route{}, recall: map[[2]int][]float32{}}
}

// head is what every other part of a layer needs.
func (r *referee) head(l int) error {
	if l == ghost.OutputLayer {
		return nil
	}
	return r.need(ghost.Part{Kind: ghost.PartLayer, Layer: l})
}

func (r *referee) linearPart(p ghost.Part) (*ghost.Linear, arith.Format, error) {
	p.Kind = ghost.PartLinear
	if err := r.head(p.Layer); err != nil {
		return nil, 0, err
	}
	if err := r.need(p); err != nil {
		return nil, 0, err
	}
	l := r.m.PartOfLinear(p)
	if l == nil {
		return nil, 0, fmt.Errorf("the model has no matrix %v", p)
	}
	return l, r.m.Tensors[l.Tensor].Format, r.need(ghost.Part{Kind: ghost.PartTensor, Index: l.Tensor})
}

// maxLayerLeaves bounds the leaves of a layer at a position: a few kilobytes may
// claim to be about a run of a billion positions.
const maxLayerLeaves = 1 << 22

// layer is layer l with all that its layout depends on.
func (r *referee) layer(l int) (*ghost.Layer, error) {
	if err := r.need(ghost.Part{Kind: ghost.PartLayer, Layer: l}); err != nil {
		return nil, err
	}
	y := &r.m.Layers[l]
	if _, _, err := r.linearPart(ghost.Part{Layer: l, Index: ghost.LinearO}); err != nil {
		return nil, err
	}
	down := ghost.LinearDown
	if y.Experts != nil {
		if err := r.need(ghost.Part{Kind: ghost.PartExperts, Layer: l}); err != nil {
			return nil, err
		}
		down = ghost.LinearExpert(0) + 2
	}
	_, _, err := r.linearPart(ghost.Part{Layer: l, Index: down})
	return y, err
}

func (r *referee) layout(t, l int) (*ghost.Layout, error) {
	if y := r.layouts[[2]int{t, l}]; y != nil {
		return y, nil
	}
	if _, err := r.layer(l); err != nil {
		return nil, err
	}
	z := &r.m.Layers[l]
	if n := r.m.Heads*ghost.Leaves(z.WeightsCount(t)*r.m.ElemBytes()) + max(1, r.m.ExpertsUsed)*ghost.Leaves(4*r.m.FF); n > maxLayerLeaves {
		return nil, fmt.Errorf("layer %d at position %d has over %d leaves; the most that a dispute is about is %d", l, t, n, maxLayerLeaves)
	}
	y := r.m.Layout(l, t)
	r.layouts[[2]int{t, l}] = y
	return y, nil
}

// vector is a norm's weights.
func (r *referee) vector(l, index int, v *[]float32) ([]float32, error) {
	if err := r.head(l); err != nil {
		return nil, err
	}
	err := r.need(ghost.Part{Kind: ghost.PartVector, Layer: l, Index: index})
	return *v, err
}

// bytes reads the range [begin, end) of a value; end < 0: all of it.
func (r *referee) bytes(t, l int, v ghost.Value, index, begin, end int) ([]byte, error) {
	y, err := r.layout(t, l)
	if err != nil {
		return nil, err
	}
	if index >= y.Count(v) {
		return nil, fmt.Errorf("layer %d has no such value", l)
	}
	sp := y.Span(v, index)
	if end < 0 {
		end = sp.Bytes
	}
	if begin < 0 || begin >= end || end > sp.Bytes {
		return nil, fmt.Errorf("bytes %d to %d of a value of %d", begin, end, sp.Bytes)
	}
	var out []byte
	for i := begin / sp.Full; i*sp.Full < end; i++ {
		b, err := r.src.leaf(t, l, sp.First+i, min(sp.Full, sp.Bytes-i*sp.Full))
		if err != nil {
			return nil, err
		}
		out = append(out, b[max(begin-i*sp.Full, 0):min(end-i*sp.Full, len(b))]...)
	}
	return out, nil
}

func decodeFloats(b []byte) []float32 {
	x := make([]float32, len(b)/4)
	for i := range x {
		x[i] = math.Float32frombits(binary.LittleEndian.Uint32(b[4*i:]))
	}
	return x
}

func decodeElems(kv arith.KV, b []byte) []float32 {
	if kv == arith.KVF32 {
		return decodeFloats(b)
	}
	x := make([]float32, len(b)/2)
	for i := range x {
		x[i] = arith.F16ToF32(binary.LittleEndian.Uint16(b[2*i:]))
	}
	return x
}

func (r *referee) floats(t, l int, v ghost.Value, index int) ([]float32, error) {
	b, err := r.bytes(t, l, v, index, 0, -1)
	return decodeFloats(b), err
}

func (r *referee) float(t, l int, v ghost.Value, i int) (float32, error) {
	b, err := r.bytes(t, l, v, 0, 4*i, 4*i+4)
	if err != nil {
		return 0, err
	}
	return decodeFloats(b)[0], nil
}

// elem is one element of a value in the cache's format.
func (r *referee) elem(t, l int, v ghost.Value, index, i int) (float32, error) {
	e := r.m.ElemBytes()
	b, err := r.bytes(t, l, v, index, i*e, i*e+e)
	if err != nil {
		return 0, err
	}
	return decodeElems(r.m.KV, b)[0], nil
}

// embedding is the residual stream that enters the first layer.
func (r *referee) embedding(t int) ([]float32, error) {
	m := r.m
	i := t / ghost.TokensPerLeaf
	b, err := r.src.tokens(i, 4*min(ghost.TokensPerLeaf, r.prompt+r.answer-i*ghost.TokensPerLeaf))
	if err != nil {
		return nil, err
	}
	id := binary.LittleEndian.Uint32(b[t%ghost.TokensPerLeaf*4:])
	if int64(id) >= int64(m.Vocab) {
		return nil, fail(t, 0, "embedding", "token %d is beyond the vocabulary of %d", id, m.Vocab)
	}
	if err := r.need(ghost.Part{Kind: ghost.PartTensor, Index: m.Embedding}); err != nil {
		return nil, err
	}
	x := &m.Tensors[m.Embedding]
	row, err := r.src.row(m.Embedding, int(id), x.Format.RowBytes(x.Cols))
	if err != nil {
		return nil, err
	}
	y := make([]float32, m.Dim)
	embedded(m, y, row)
	return y, nil
}

// resid is the residual stream that enters layer l; l is the number of layers
// for what leaves the last.
func (r *referee) resid(t, l int) ([]float32, error) {
	if l == 0 {
		return r.embedding(t)
	}
	return r.floats(t, l-1, ghost.ResidOut, 0)
}

// residAt is one element of it.
func (r *referee) residAt(t, l, i int) (float32, error) {
	if l == 0 {
		x, err := r.embedding(t)
		if err != nil {
			return 0, err
		}
		return x[i], nil
	}
	return r.float(t, l-1, ghost.ResidOut, i)
}

// product is output i of a matrix that takes a norm of the residual stream: of
// what leaves the last layer, of what enters layer p.Layer, or of what is between
// attention and the feed-forward block.
func (r *referee) product(t int, p ghost.Part, i int) (float32, error) {
	_, f, err := r.linearPart(p)
	if err != nil {
		return 0, err
	}
	k := inputKey{t, p.Layer, ghost.VectorFFNNorm, f.ActBlock()}
	switch {
	case p.Layer == ghost.OutputLayer:
		k.norm = 0
	case p.Index == ghost.LinearQ || p.Index == ghost.LinearK || p.Index == ghost.LinearV:
		k.norm = ghost.VectorAttnNorm
	}
	a, ok := r.inputs[k]
	if !ok {
		if a, err = r.normed(k, f); err != nil {
			return 0, err
		}
		r.inputs[k] = a
	}
	return r.linear(p, i, a)
}

// inputKey names an input that the referee has computed.
type inputKey struct{ t, l, norm, block int }

func (r *referee) normed(k inputKey, f arith.Format) (a arith.Activations, err error) {
	m := r.m
	w := &m.OutputNorm
	var x []float32
	switch {
	case k.l == ghost.OutputLayer:
		x, err = r.resid(k.t, len(m.Layers))
	case k.norm == ghost.VectorAttnNorm:
		w = &m.Layers[k.l].AttnNorm
		x, err = r.resid(k.t, k.l)
	default:
		w = &m.Layers[k.l].FFNNorm
		x, err = r.floats(k.t, k.l, ghost.ResidMid, 0)
	}
	if err != nil {
		return a, err
	}
	weights, err := r.vector(k.l, k.norm, w)
	if err != nil {
		return a, err
	}
	a, ok := normedInput(m, make([]float32, len(x)), x, weights, f)
	if !ok {
		return a, fail(k.t, k.l, "norm", "the residual stream is not finite")
	}
	return a, nil
}

// linear is output i of a matrix.
func (r *referee) linear(p ghost.Part, i int, a arith.Activations) (float32, error) {
	l, f, err := r.linearPart(p)
	if err != nil {
		return 0, err
	}
	if i < 0 || i >= l.Rows {
		return 0, fmt.Errorf("a matrix has no output %d", i)
	}
	row, err := r.src.row(l.Tensor, l.Row0+i, f.RowBytes(r.m.Tensors[l.Tensor].Cols))
	if err != nil {
		return 0, err
	}
	if l.Bias != nil {
		p.Kind = ghost.PartBias
		if err := r.need(p); err != nil {
			return 0, err
		}
	}
	return outputOf(l, i, f, row, a), nil
}

// rotated is a head's query or key as scores take it.
func (r *referee) rotated(t, l int, v ghost.Value, head int) ([]float32, error) {
	m := r.m
	if _, err := r.layer(l); err != nil {
		return nil, err
	}
	y := &m.Layers[l]
	w, index, e := &y.QNorm, ghost.VectorQNorm, m.ElemBytes()
	if v == ghost.RawKey {
		w, index = &y.KNorm, ghost.VectorKNorm
	}
	begin, end := rawSpan(m, v, head)
	b, err := r.bytes(t, l, v, 0, begin*e, end*e)
	if err != nil {
		return nil, err
	}
	var weights []float32
	if m.Norm != ghost.NoNorm {
		if weights, err = r.vector(l, index, w); err != nil {
			return nil, err
		}
	}
	rope := &m.Ropes[y.Rope]
	cos, sin := make([]float32, len(rope.Turn)), make([]float32, len(rope.Turn))
	rope.CosSin(t, cos, sin)
	return headOf(m, v, head, t, decodeElems(m.KV, b), weights, cos, sin), nil
}

func (r *referee) group(head int) int { return head / (r.m.Heads / r.m.KVHeads) }

func (r *referee) column(l, g, d int) ([]float32, error) {
	b, err := r.src.column(l, g, d, r.positions*r.m.ElemBytes())
	return decodeElems(r.m.KV, b), err
}

// score is what position at scores for query q of a head.
func (r *referee) score(l, head, at int, q []float32) (float32, error) {
	b, err := r.src.key(l, r.group(head), at, r.m.KeyDim*r.m.ElemBytes())
	if err != nil {
		return 0, err
	}
	return scoreOf(r.m, q, decodeElems(r.m.KV, b)), nil
}

// attended is element i of the attention output.
func (r *referee) attended(t, l, i int) (float32, error) {
	y, err := r.layer(l)
	if err != nil {
		return 0, err
	}
	head, d := i/r.m.ValDim, i%r.m.ValDim
	b, err := r.bytes(t, l, ghost.Weights, head, 0, -1)
	if err != nil {
		return 0, err
	}
	col, err := r.column(l, r.group(head), d)
	if err != nil {
		return 0, err
	}
	return mixOf(y, t, decodeElems(r.m.KV, b), col), nil
}

// hiddenOf is element i of the j-th hidden vector.
func (r *referee) hiddenOf(t, l, j, i int) (float32, error) {
	y, err := r.layer(l)
	if err != nil {
		return 0, err
	}
	gate, up := ghost.LinearGate, ghost.LinearUp
	if y.Experts != nil {
		chosen, _, err := r.experts(t, l)
		if err != nil {
			return 0, err
		}
		if j >= len(chosen) {
			return 0, fmt.Errorf("layer %d uses %d experts", l, len(chosen))
		}
		gate, up = ghost.LinearExpert(chosen[j]), ghost.LinearExpert(chosen[j])+1
	}
	g, err := r.product(t, ghost.Part{Layer: l, Index: gate}, i)
	if err != nil {
		return 0, err
	}
	var u float32
	if y.Memory != nil {
		all, err := r.recalled(t, l, y)
		if err != nil {
			return 0, err
		}
		u = all[i]
	} else if u, err = r.product(t, ghost.Part{Layer: l, Index: up}, i); err != nil {
		return 0, err
	}
	return hiddenFrom(r.m, g, u), nil
}

// experts are those that a router's logits choose, with their weights.
func (r *referee) experts(t, l int) ([]int, []float32, error) {
	k := [2]int{t, l}
	if x, ok := r.routes[k]; ok {
		return x.chosen, x.weights, nil
	}
	logits, err := r.floats(t, l, ghost.RouterLogits, 0)
	if err != nil {
		return nil, nil, err
	}
	chosen, weights, ok := routed(r.m, logits)
	if !ok {
		return nil, nil, fail(t, l, "router", "a logit is not finite")
	}
	r.routes[k] = route{chosen, weights}
	return chosen, weights, nil
}

// route is what a router decided.
type route struct {
	chosen  []int
	weights []float32
}

// coded is a committed input of a product: block b of it, or all if b < 0.
func (r *referee) coded(t, l int, v ghost.Value, index, n int, f arith.Format, b int) (a arith.Activations, err error) {
	a.Block = f.ActBlock()
	if a.Block == 0 {
		a.X, err = r.floats(t, l, v, index)
		return a, err
	}
	first, count := b, 1
	if b < 0 {
		first, count = 0, n/a.Block
	}
	d, err := r.bytes(t, l, v, index, 4*first, 4*(first+count))
	if err != nil {
		return a, err
	}
	codes := n/a.Block*4 + first*a.Block
	q, err := r.bytes(t, l, v, index, codes, codes+count*a.Block)
	if err != nil {
		return a, err
	}
	a.D = decodeFloats(d)
	for _, d := range a.D {
		if !(d >= 0) || !arith.Finite(d) {
			return a, fail(t, l, "codes", "a scale is %v", d)
		}
	}
	a.Q = make([]int8, len(q))
	for i, x := range q {
		if a.Q[i] = int8(x); a.Q[i] == -128 {
			return a, fail(t, l, "codes", "a code is −128")
		}
	}
	return a, nil
}
