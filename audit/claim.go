package audit

import (
	"fmt"
	"math"

	"github.com/geistnet/geist/arith"
	"github.com/geistnet/geist/ghost"
)

// inputOf is the length of a coded value and the format of the matrix that takes it.
func (r *referee) inputOf(l int, v ghost.Value) (n int, f arith.Format, err error) {
	y, err := r.layer(l)
	if err != nil {
		return 0, 0, err
	}
	p := ghost.Part{Layer: l, Index: ghost.LinearO}
	n = r.m.Heads * r.m.ValDim
	if v == ghost.Hidden {
		p.Index, n = ghost.LinearDown, r.m.FF
		if y.Experts != nil {
			p.Index = ghost.LinearExpert(0) + 2
		}
	}
	_, f, err = r.linearPart(p)
	return n, f, err
}

// check finds out whether the claim's relation holds: nil if it does, a
// *Failure if it does not, another error if the claim makes no sense.
func (r *referee) check(c Claim) error {
	m, t, l := r.m, c.Position, c.Layer
	if c.Relation == NoRelation || c.Relation >= relations || c.Relation == TokenList {
		return fmt.Errorf("%v is no relation of a trace", c.Relation)
	}
	if t < 0 || t >= r.positions || l < 0 || l >= len(m.Layers) || c.Index < 0 || c.Element < 0 {
		return fmt.Errorf("a claim about position %d, layer %d, value %d, element %d is out of range", t, l, c.Index, c.Element)
	}
	says := func(got, want float32) error {
		if math.Float32bits(got) == math.Float32bits(want) || got != got && want != want {
			return nil // which NaN it is, the arithmetic does not say
		}
		return fail(t, l, c.Relation.String(), "element %d is %v, should be %v", c.Element, got, want)
	}
	below := func(limits ...int) error {
		for i, limit := range limits {
			if []int{c.Index, c.Element}[i] >= limit {
				return fmt.Errorf("a claim about %v %d, element %d is out of range", c.Relation, c.Index, c.Element)
			}
		}
		return nil
	}
	switch c.Relation {
	case NoLogits:
		if t >= r.prompt-1 {
			return fmt.Errorf("position %d has logits", t)
		}
		b, err := r.src.root(t, len(m.Layers))
		if err != nil {
			return err
		}
		if [32]byte(b) != [32]byte{} {
			return fail(t, -1, c.Relation.String(), "logits are committed to")
		}
		return nil
	case QueryElement, KeyElement:
		v, index, n := ghost.RawQuery, ghost.LinearQ, m.Heads*m.KeyDim
		if c.Relation == KeyElement {
			v, index, n = ghost.RawKey, ghost.LinearK, m.KVHeads*m.KeyDim
		}
		if err := below(1, n); err != nil {
			return err
		}
		want, err := r.product(t, ghost.Part{Layer: l, Index: index}, c.Element)
		if err != nil {
			return err
		}
		got, err := r.elem(t, l, v, 0, c.Element)
		if err != nil {
			return err
		}
		return says(got, m.KV.Round(want))
	case CachedKey:
		if err := below(m.KVHeads, 1); err != nil {
			return err
		}
		want, err := r.rotated(t, l, ghost.RawKey, c.Index)
		if err != nil {
			return err
		}
		b, err := r.src.key(l, c.Index, t, m.KeyDim*m.ElemBytes())
		if err != nil {
			return err
		}
		for i, got := range decodeElems(m.KV, b) {
			if err := says(got, want[i]); err != nil {
				return err
			}
		}
		return nil
	case CachedValue:
		if err := below(m.KVHeads, m.ValDim); err != nil {
			return err
		}
		want, err := r.product(t, ghost.Part{Layer: l, Index: ghost.LinearV}, c.Index*m.ValDim+c.Element)
		if err != nil {
			return err
		}
		col, err := r.column(l, c.Index, c.Element)
		if err != nil {
			return err
		}
		return says(col[t], m.KV.Round(want))
	case ScoreBelow, ScoreReached, WeightElement:
		return r.checkScores(c)
	case AttnElement, AttnScale, AttnPeak, HiddenElement, HiddenScale, HiddenPeak:
		return r.checkCoded(c)
	case RouterElement:
		y, err := r.layer(l)
		if err != nil {
			return err
		}
		if err := below(1, len(y.Experts)); err != nil {
			return err
		}
		want, err := r.product(t, ghost.Part{Layer: l, Index: ghost.LinearRouter}, c.Element)
		if err != nil {
			return err
		}
		got, err := r.float(t, l, ghost.RouterLogits, c.Element)
		if err != nil {
			return err
		}
		return says(got, want)
	case MemoryQueryElement:
		if err := below(1, math.MaxInt32); err != nil { // asked looks at Element
			return err
		}
		got, want, err := r.asked(c)
		if err != nil {
			return err
		}
		return says(got, want)
	case OutRawElement, MidElement, DownRawElement, OutElement:
		if err := below(1, m.Dim); err != nil {
			return err
		}
		got, want, err := r.added(c)
		if err != nil {
			return err
		}
		return says(got, want)
	}
	// LogitElement
	if err := below(1, m.Vocab); err != nil {
		return err
	}
	if t < r.prompt-1 || l != 0 {
		return fmt.Errorf("position %d has no logits", t)
	}
	want, err := r.product(t, ghost.Part{Layer: ghost.OutputLayer}, c.Element)
	if err != nil {
		return err
	}
	want = logitOf(m, want)
	at := 4 * c.Element
	leaf := at / ghost.LeafBytes
	b, err := r.src.tail(t, leaf, min(ghost.LeafBytes, 4*m.Vocab-leaf*ghost.LeafBytes))
	if err != nil {
		return err
	}
	return says(decodeFloats(b[at%ghost.LeafBytes:][:4])[0], want)
}

// checkScores checks what is said of a head's scores.
func (r *referee) checkScores(c Claim) error {
	m, t, l, head := r.m, c.Position, c.Layer, c.Index
	y, err := r.layer(l)
	if err != nil {
		return err
	}
	from, first := y.WeightsFrom(t), y.FirstVisible(t)
	if head >= m.Heads {
		return fmt.Errorf("there is no head %d", head)
	}
	if c.Relation == WeightElement {
		if c.Element >= y.WeightsCount(t) {
			return fmt.Errorf("there is no weight %d", c.Element)
		}
		if at := from + c.Element; at < first || at > t {
			got, err := r.elem(t, l, ghost.Weights, head, c.Element)
			if err == nil && math.Float32bits(got) != 0 {
				err = fail(t, l, c.Relation.String(), "position %d is not visible to head %d but has weight %v", at, head, got)
			}
			return err
		}
	}
	q, err := r.rotated(t, l, ghost.RawQuery, head)
	if err != nil {
		return err
	}
	top, err := r.float(t, l, ghost.MaxScore, head)
	if err != nil {
		return err
	}
	switch c.Relation {
	case ScoreBelow:
		if c.Element < first || c.Element > t {
			return fmt.Errorf("position %d is not visible", c.Element)
		}
		s, err := r.score(l, head, c.Element, q)
		if err == nil && !(s <= top) {
			err = fail(t, l, c.Relation.String(), "head %d says %v, position %d scores %v", head, top, c.Element, s)
		}
		return err
	case WeightElement:
		s, err := r.score(l, head, from+c.Element, q)
		if err != nil {
			return err
		}
		got, err := r.elem(t, l, ghost.Weights, head, c.Element)
		if err != nil {
			return err
		}
		if want := weightOf(m, s, top); math.Float32bits(got) != math.Float32bits(want) {
			return fail(t, l, c.Relation.String(), "head %d gives position %d weight %v, should be %v", head, from+c.Element, got, want)
		}
		return nil
	}
	// ScoreReached: a position that has the largest score has weight 1, so
	// others need not be opened.
	b, err := r.bytes(t, l, ghost.Weights, head, 0, -1)
	if err != nil {
		return err
	}
	weights := decodeElems(m.KV, b)
	for at := first; at <= t; at++ {
		if weights[at-from] != 1 {
			continue
		}
		s, err := r.score(l, head, at, q)
		if err != nil {
			return err
		}
		if s == top {
			return nil
		}
	}
	return fail(t, l, c.Relation.String(), "no position of head %d has weight 1 and scores %v", head, top)
}

// checkCoded checks what is said of an input of a product.
func (r *referee) checkCoded(c Claim) error {
	t, l := c.Position, c.Layer
	v, value := ghost.AttnOut, func(i int) (float32, error) { return r.attended(t, l, i) }
	kind := c.Relation
	if kind >= HiddenElement {
		v, kind = ghost.Hidden, kind-HiddenElement+AttnElement
		value = func(i int) (float32, error) { return r.hiddenOf(t, l, c.Index, i) }
	}
	n, f, err := r.inputOf(l, v)
	if err != nil {
		return err
	}
	block := f.ActBlock()
	i, b := c.Element, 0
	switch {
	case kind == AttnPeak && block > 0:
		i, b = c.Element*block, c.Element
	case block > 0:
		b = c.Element / block
	}
	if c.Element >= n || i >= n || block == 0 && kind != AttnElement {
		return fmt.Errorf("%v has no element %d", c.Relation, c.Element)
	}
	if block == 0 {
		got, err := r.bytes(t, l, v, c.Index, 4*i, 4*i+4)
		if err != nil {
			return err
		}
		want, err := value(i)
		if err != nil {
			return err
		}
		if x := decodeFloats(got)[0]; math.Float32bits(x) != math.Float32bits(want) {
			return fail(t, l, c.Relation.String(), "element %d is %v, should be %v", i, x, want)
		}
		return nil
	}
	a, err := r.coded(t, l, v, c.Index, n, f, b)
	if err != nil {
		return err
	}
	d := a.D[0]
	switch kind {
	case AttnElement:
		x, err := value(i)
		if err == nil && arith.Code(x, d) != int32(a.Q[i%block]) {
			err = fail(t, l, c.Relation.String(), "element %d, %v, has code %d under scale %v", i, x, a.Q[i%block], d)
		}
		return err
	case AttnScale:
		x, err := value(i)
		if err == nil && scaleFor(x) > d {
			err = fail(t, l, c.Relation.String(), "element %d is %v, too large for scale %v", i, x, d)
		}
		return err
	}
	// The element that gives the scale has the code 127 or −127, so others need
	// not be computed.
	if d == 0 {
		return nil
	}
	for j, q := range a.Q {
		if q != 127 && q != -127 {
			continue
		}
		x, err := value(i + j)
		if err != nil {
			return err
		}
		if scaleFor(x) == d {
			return nil
		}
	}
	return fail(t, l, c.Relation.String(), "no element of block %d has scale %v", b, d)
}

// added is an element of a block's result, before its norm or behind the
// residual sum: what is committed and what it should be.
func (r *referee) added(c Claim) (got, want float32, err error) {
	m, t, l, i := r.m, c.Position, c.Layer, c.Element
	y, err := r.layer(l)
	if err != nil {
		return 0, 0, err
	}
	attn := c.Relation == OutRawElement || c.Relation == MidElement
	raw, v, post, index := ghost.DownRaw, ghost.ResidOut, &y.PostFFN, ghost.VectorPostFFN
	if attn {
		raw, v, post, index = ghost.OutRaw, ghost.ResidMid, &y.PostAttn, ghost.VectorPostAttn
	}
	isRaw := c.Relation == OutRawElement || c.Relation == DownRawElement
	if isRaw {
		v = raw
	}
	if got, err = r.float(t, l, v, i); err != nil { // refuses values that the layer does not have
		return 0, 0, err
	}
	switch {
	case *post != nil && !isRaw:
		x, err := r.floats(t, l, raw, 0)
		if err != nil {
			return 0, 0, err
		}
		w, err := r.vector(l, index, post)
		if err != nil {
			return 0, 0, err
		}
		arith.RMSNorm(x, x, w, m.Eps)
		want = x[i]
	case attn:
		n, f, err := r.inputOf(l, ghost.AttnOut)
		if err != nil {
			return 0, 0, err
		}
		a, err := r.coded(t, l, ghost.AttnOut, 0, n, f, -1)
		if err != nil {
			return 0, 0, err
		}
		if want, err = r.linear(ghost.Part{Layer: l, Index: ghost.LinearO}, i, a); err != nil {
			return 0, 0, err
		}
	default:
		if want, err = r.down(t, l, y, i); err != nil {
			return 0, 0, err
		}
	}
	if isRaw {
		return got, want, nil
	}
	var x float32
	if attn {
		x, err = r.residAt(t, l, i)
	} else {
		x, err = r.float(t, l, ghost.ResidMid, i)
	}
	return got, x + want, err
}

// down is output i of the feed-forward block's last projection.
func (r *referee) down(t, l int, y *ghost.Layer, i int) (float32, error) {
	chosen, weights, down := []int{-1}, []float32{1}, ghost.LinearDown
	if y.Experts != nil {
		var err error
		if chosen, weights, err = r.experts(t, l); err != nil {
			return 0, err
		}
	}
	n, f, err := r.inputOf(l, ghost.Hidden)
	if err != nil {
		return 0, err
	}
	var sum float32
	for j, e := range chosen {
		h, err := r.coded(t, l, ghost.Hidden, j, n, f, -1)
		if err != nil {
			return 0, err
		}
		if e >= 0 {
			down = ghost.LinearExpert(e) + 2
		}
		o, err := r.linear(ghost.Part{Layer: l, Index: down}, i, h)
		if err != nil {
			return 0, err
		}
		if e < 0 {
			return o, nil
		}
		sum += float32(o * weights[j])
	}
	return sum, nil
}
