package audit

import (
	"encoding/binary"
	"math"

	"github.com/geistnet/geist/arith"
	"github.com/geistnet/geist/ghost"
)

// cell checks one element of every relation of layer l at position t, drawn
// from d.
func (c *checker) cell(t, l int, d *draw) error {
	c.reset()
	m := c.Model
	y := &m.Layers[l]
	x, err := c.resid(t, l)
	if err != nil {
		return err
	}
	head := d.below(m.Heads)
	group := head / (m.Heads / m.KVHeads)
	dim := d.below(m.ValDim)
	if err := c.projections(t, l, head, group, dim, x, d); err != nil {
		return err
	}
	a, err := c.attention(t, l, head, group, dim, d)
	if err != nil {
		return err
	}
	mid, err := c.output(t, l, y, x, a, d)
	if err != nil {
		return err
	}
	if err := c.feedForward(t, l, y, mid, d); err != nil {
		return err
	}
	c.counts.Cells++
	return nil
}

// projections checks one element each of query, key and value, and the cached
// key that follows from the raw one.
func (c *checker) projections(t, l, head, group, dim int, x []float32, d *draw) error {
	m := c.Model
	y := &m.Layers[l]
	a, err := c.normed(t, l, x, y.AttnNorm, &y.Q)
	if err != nil {
		return err
	}
	element := func(what string, v ghost.Value, lin *ghost.Linear, row int) error {
		if b := m.Tensors[lin.Tensor].Format.ActBlock(); b != a.Block {
			if a, err = c.normed(t, l, x, y.AttnNorm, lin); err != nil {
				return err
			}
		}
		want, err := c.linear(lin, row, a)
		if err != nil {
			return err
		}
		got, err := c.elements(t, l, v, 0, row, row+1)
		if err != nil {
			return err
		}
		if !same(got[0], m.KV.Round(want)) {
			return fail(t, l, what, "row %d is %v, should be %v", row, got[0], m.KV.Round(want))
		}
		c.counts.Projections++
		c.passed(what, "row %d of the product is %v", row, got[0])
		return nil
	}
	if err := element("query", ghost.RawQuery, &y.Q, head*m.KeyDim+d.below(m.KeyDim)); err != nil {
		return err
	}
	if err := element("key", ghost.RawKey, &y.K, group*m.KeyDim+d.below(m.KeyDim)); err != nil {
		return err
	}
	if b := m.Tensors[y.V.Tensor].Format.ActBlock(); b != a.Block {
		if a, err = c.normed(t, l, x, y.AttnNorm, &y.V); err != nil {
			return err
		}
	}
	want, err := c.linear(&y.V, group*m.ValDim+dim, a)
	if err != nil {
		return err
	}
	col, err := c.column(l, group, dim)
	if err != nil {
		return err
	}
	if !same(col[t], m.KV.Round(want)) {
		return fail(t, l, "value", "dimension %d of head %d is %v, should be %v", dim, group, col[t], m.KV.Round(want))
	}
	c.counts.Projections++
	c.passed("value", "dimension %d of head %d is %v", dim, group, col[t])
	key, err := c.rotated(t, l, ghost.RawKey, group)
	if err != nil {
		return err
	}
	cached, err := c.key(l, group, t)
	if err != nil {
		return err
	}
	for i, v := range key {
		if !same(cached[i], v) {
			return fail(t, l, "cached key", "dimension %d of head %d is %v, should be %v", i, group, cached[i], v)
		}
	}
	c.passed("cached key", "all %d dimensions of head %d follow from the raw key", m.KeyDim, group)
	return nil
}

func (c *checker) column(l, head, dim int) ([]float32, error) {
	b, err := c.src.Column(l, head, dim)
	if err != nil {
		return nil, err
	}
	x := c.take(c.Positions())
	c.elems(x, b)
	return x, nil
}

func (c *checker) key(l, head, t int) ([]float32, error) {
	b, err := c.src.Key(l, head, t)
	if err != nil {
		return nil, err
	}
	x := c.take(c.Model.KeyDim)
	c.elems(x, b)
	return x, nil
}

// rotated derives a head's query or key from its raw one: norm, rotation, and
// for queries the scale; rounded.
func (c *checker) rotated(t, l int, v ghost.Value, head int) ([]float32, error) {
	y := &c.Model.Layers[l]
	w := y.QNorm
	if v == ghost.RawKey {
		w = y.KNorm
	}
	begin, end := rawSpan(c.Model, v, head)
	x, err := c.elements(t, l, v, 0, begin, end)
	if err != nil {
		return nil, err
	}
	cos, sin := c.turns(y.Rope, t)
	c.counts.Rotations++
	return headOf(c.Model, v, head, t, x, w, cos, sin), nil
}

// turns is the rotation of position t.
func (c *checker) turns(rope, t int) (cos, sin []float32) {
	if c.turned != [2]int{rope, t} {
		r := &c.Model.Ropes[rope]
		n := len(r.Turn)
		c.cos, c.sin = append(c.cos[:0], make([]float32, n)...), append(c.sin[:0], make([]float32, n)...)
		r.CosSin(t, c.cos, c.sin)
		c.turned = [2]int{rope, t}
	}
	return c.cos, c.sin
}

// attention checks one head: its largest score, a random weight, and the
// output in one dimension. It returns the whole output as the projection takes it.
func (c *checker) attention(t, l, head, group, dim int, d *draw) (a arith.Activations, err error) {
	m := c.Model
	y := &m.Layers[l]
	q, err := c.rotated(t, l, ghost.RawQuery, head)
	if err != nil {
		return a, err
	}
	all, err := c.elements(t, l, ghost.Weights, head, 0, y.WeightsCount(t))
	if err != nil {
		return a, err
	}
	from, first := y.WeightsFrom(t), y.FirstVisible(t)
	top, err := c.float(t, l, ghost.MaxScore, head)
	if err != nil {
		return a, err
	}
	score := func(at int) (float32, error) {
		k, err := c.key(l, group, at)
		if err != nil {
			return 0, err
		}
		c.counts.Scores++
		return scoreOf(m, q, k), nil
	}
	for i, p := range all {
		at := from + i
		visible := at >= first && at <= t
		if !visible && math.Float32bits(p) != 0 {
			return a, fail(t, l, "attention weight", "position %d is not visible to head %d but has weight %v", at, head, p)
		}
		if visible && (!(p >= 0) || p > 1) {
			return a, fail(t, l, "attention weight", "position %d of head %d has weight %v", at, head, p)
		}
	}
	// The largest score belongs to a position of weight 1, though a score a
	// rounding below it has that weight too.
	reached, largest := false, 0
	for i, p := range all {
		if p != 1 || reached {
			continue
		}
		s, err := score(from + i)
		if err != nil {
			return a, err
		}
		if !(s <= top) || !same(weightOf(m, s, top), 1) {
			return a, fail(t, l, "largest score", "head %d says %v, position %d scores %v", head, top, from+i, s)
		}
		reached, largest = same(s, top), from+i
	}
	if !reached {
		return a, fail(t, l, "largest score", "no position of head %d scores %v", head, top)
	}
	c.passed("largest score", "head %d scores at most %v, at position %d", head, top, largest)
	at := first + d.below(t+1-first)
	s, err := score(at)
	if err != nil {
		return a, err
	}
	if p := weightOf(m, s, top); !(s <= top) || !same(all[at-from], p) {
		return a, fail(t, l, "attention weight", "head %d gives position %d weight %v, should be %v", head, at, all[at-from], p)
	}
	c.passed("attention weight", "head %d gives position %d weight %v", head, at, all[at-from])
	col, err := c.column(l, group, dim)
	if err != nil {
		return a, err
	}
	out := mixOf(y, t, all, col)
	if a, err = c.input(t, l, ghost.AttnOut, 0, m.Heads*m.ValDim, &y.O); err != nil {
		return a, err
	}
	if !holds(a, head*m.ValDim+dim, out) {
		return a, fail(t, l, "attention", "dimension %d of head %d is not %v", dim, head, out)
	}
	c.counts.Mixes++
	c.passed("attention", "dimension %d of head %d is %v, mixed from %d positions", dim, head, out, t+1-first)
	if d.below(scaleShare) > 0 {
		return a, nil
	}
	return a, c.scale(t, l, "attention", a, head*m.ValDim+dim, func(i int) (float32, error) {
		h, p := i/m.ValDim, all
		if h != head {
			var err error
			if p, err = c.elements(t, l, ghost.Weights, h, 0, y.WeightsCount(t)); err != nil {
				return 0, err
			}
		}
		col, err := c.column(l, h/(m.Heads/m.KVHeads), i%m.ValDim)
		if err != nil {
			return 0, err
		}
		return mixOf(y, t, p, col), nil
	})
}

// scaleShare is how rarely scales of codes are checked: in one of so many
// cells. input has bounded them to less than half a percent already.
const scaleShare = 4

// scale checks that the block of a with element i has the scale of its largest
// magnitude. value computes an element. Only elements of code ±127 can be the
// largest.
func (c *checker) scale(t, l int, relation string, a arith.Activations, i int, value func(int) (float32, error)) error {
	if a.Block == 0 {
		return nil
	}
	b := i / a.Block
	var most float32
	for j := b * a.Block; j < (b+1)*a.Block; j++ {
		if q := a.Q[j]; q != 127 && q != -127 {
			continue
		}
		x, err := value(j)
		if err != nil {
			return err
		}
		most = max(most, x, -x)
	}
	if d := scaleFor(most); !same(a.D[b], d) {
		return fail(t, l, relation, "the scale of block %d is %v, should be %v", b, a.D[b], d)
	}
	c.counts.Scales++
	c.passed(relation+" scale", "block %d has the scale %v of its largest element", b, a.D[b])
	return nil
}

// output checks one element of the output projection with its residual and
// returns the residual stream behind it.
func (c *checker) output(t, l int, y *ghost.Layer, x []float32, a arith.Activations, d *draw) ([]float32, error) {
	m := c.Model
	i := d.below(m.Dim)
	o, err := c.linear(&y.O, i, a)
	if err != nil {
		return nil, err
	}
	if o, err = c.post(t, l, "output", ghost.OutRaw, y.PostAttn, i, o); err != nil {
		return nil, err
	}
	mid, err := c.floats(t, l, ghost.ResidMid, 0)
	if err != nil {
		return nil, err
	}
	if !same(mid[i], x[i]+o) {
		return nil, fail(t, l, "output", "element %d is %v, should be %v", i, mid[i], x[i]+o)
	}
	c.counts.Outputs++
	c.passed("output", "element %d of the residual stream is %v", i, mid[i])
	return mid, nil
}

// post applies a block's output norm, if it has one, to element i of its raw
// result, which must hold o there.
func (c *checker) post(t, l int, relation string, v ghost.Value, w []float32, i int, o float32) (float32, error) {
	if w == nil {
		return o, nil
	}
	raw, err := c.floats(t, l, v, 0)
	if err != nil {
		return 0, err
	}
	if !same(raw[i], o) {
		return 0, fail(t, l, relation, "raw element %d is %v, should be %v", i, raw[i], o)
	}
	arith.RMSNorm(raw, raw, w, c.Model.Eps)
	c.counts.Norms++
	c.passed(relation+" norm", "raw element %d is %v", i, o)
	return raw[i], nil
}

// feedForward checks one hidden element and one element of the block's result,
// and for a mixture one router logit and the choice of experts.
func (c *checker) feedForward(t, l int, y *ghost.Layer, mid []float32, d *draw) error {
	m := c.Model
	// u is that of a memory block; nil: up gives it.
	hidden := func(gate, up *ghost.Linear, u []float32, h arith.Activations) error {
		in, err := c.normed(t, l, mid, y.FFNNorm, gate)
		if err != nil {
			return err
		}
		upIn := in
		if u == nil && m.Tensors[up.Tensor].Format.ActBlock() != in.Block {
			if upIn, err = c.normed(t, l, mid, y.FFNNorm, up); err != nil {
				return err
			}
		}
		value := func(i int) (float32, error) {
			g, err := c.linear(gate, i, in)
			if err != nil {
				return 0, err
			}
			var x float32
			if u != nil {
				x = u[i]
			} else if x, err = c.linear(up, i, upIn); err != nil {
				return 0, err
			}
			return hiddenFrom(m, g, x), nil
		}
		i := d.below(m.FF)
		v, err := value(i)
		if err != nil {
			return err
		}
		if !holds(h, i, v) {
			return fail(t, l, "hidden", "element %d is not %v", i, v)
		}
		c.counts.Hidden++
		c.passed("hidden", "element %d is the code of %v", i, v)
		if d.below(scaleShare) == 0 {
			return c.scale(t, l, "hidden", h, i, value)
		}
		return nil
	}
	i := d.below(m.Dim)
	var sum float32
	if len(y.Experts) == 0 {
		h, err := c.input(t, l, ghost.Hidden, 0, m.FF, &y.Down)
		if err != nil {
			return err
		}
		var u []float32
		if y.Memory != nil {
			if u, err = c.recalled(t, l, y, mid, d); err != nil {
				return err
			}
		}
		if err := hidden(&y.Gate, &y.Up, u, h); err != nil {
			return err
		}
		if sum, err = c.linear(&y.Down, i, h); err != nil {
			return err
		}
	} else {
		logits, err := c.floats(t, l, ghost.RouterLogits, 0)
		if err != nil {
			return err
		}
		a, err := c.normed(t, l, mid, y.FFNNorm, &y.Router)
		if err != nil {
			return err
		}
		e := d.below(len(y.Experts))
		want, err := c.linear(&y.Router, e, a)
		if err != nil {
			return err
		}
		if !same(logits[e], want) {
			return fail(t, l, "router", "logit %d is %v, should be %v", e, logits[e], want)
		}
		chosen, weights, ok := routed(m, logits)
		if !ok {
			return fail(t, l, "router", "a logit is not finite")
		}
		c.counts.Routers++
		c.passed("router", "logit %d is %v", e, want)
		drawn := d.below(len(chosen))
		for j, e := range chosen {
			x := &y.Experts[e]
			h, err := c.input(t, l, ghost.Hidden, j, m.FF, &x.Down)
			if err != nil {
				return err
			}
			if j == drawn {
				if err := hidden(&x.Gate, &x.Up, nil, h); err != nil {
					return err
				}
			}
			o, err := c.linear(&x.Down, i, h)
			if err != nil {
				return err
			}
			sum += float32(o * weights[j])
		}
	}
	sum, err := c.post(t, l, "down", ghost.DownRaw, y.PostFFN, i, sum)
	if err != nil {
		return err
	}
	out, err := c.float(t, l, ghost.ResidOut, i)
	if err != nil {
		return err
	}
	if !same(out, mid[i]+sum) {
		return fail(t, l, "down", "element %d is %v, should be %v", i, out, mid[i]+sum)
	}
	c.counts.Downs++
	c.passed("down", "element %d of the residual stream is %v", i, out)
	return nil
}

// randomLogits is how many logits are checked beside the emitted token's.
const randomLogits = 2

// maxLogit is far beyond what a model computes.
const maxLogit = 1e30

// tail checks the logits of the position that emitted the a-th answer token.
func (c *checker) tail(a int, full bool, d *draw) error {
	c.reset()
	m := c.Model
	t := len(c.Prompt) - 1 + a
	x, err := c.resid(t, len(m.Layers))
	if err != nil {
		return err
	}
	in, err := c.normed(t, -1, x, m.OutputNorm, &m.Output)
	if err != nil {
		return err
	}
	logit := func(id int) (float32, error) {
		at := 4 * id
		b, err := c.src.Tail(t, at/ghost.LeafBytes)
		if err != nil {
			return 0, err
		}
		return math.Float32frombits(binary.LittleEndian.Uint32(b[at%ghost.LeafBytes:])), nil
	}
	emitted := int(c.Answer[a])
	for i := range 1 + randomLogits {
		id := emitted
		if i > 0 {
			id = d.below(m.Vocab)
		}
		want, err := c.linear(&m.Output, id, in)
		if err != nil {
			return err
		}
		want = logitOf(m, want)
		got, err := logit(id)
		if err != nil {
			return err
		}
		if !same(got, want) {
			return fail(t, -1, "logit", "token %d has %v, should have %v", id, got, want)
		}
		c.counts.Logits++
	}
	c.counts.Tails++
	if !full {
		return nil
	}
	logits := c.take(m.Vocab)
	for i := range m.TailLeaves() {
		b, err := c.src.Tail(t, i)
		if err != nil {
			return err
		}
		decode(logits[i*ghost.LeafBytes/4:][:len(b)/4], b)
	}
	for id, x := range logits {
		// Beyond this, penalties and temperature could leave the finite numbers.
		if !(x >= -maxLogit && x <= maxLogit) {
			return fail(t, -1, "logit", "token %d has %v", id, x)
		}
	}
	c.counts.FullTails++
	if c.Constrained {
		return nil
	}
	history := append(append([]int32(nil), c.Prompt...), c.Answer[:a]...)
	var s arith.Sampler
	if id := s.Sample(logits, &c.Sampling, history, uint64(a), nil); int(id) != emitted {
		return fail(t, -1, "sampler", "the answer says token %d, the logits and the seed give %d", emitted, id)
	}
	c.counts.Draws++
	return nil
}

// all runs every check of a challenge.
func (c *checker) all(ch Challenge) error {
	n, layers := c.Positions(), len(c.Model.Layers)
	cells := ch.stream("cells", 0)
	for i := range ch.Cells {
		c.explain.cell(i)
		t, l := cells.below(n), cells.below(layers)
		if err := c.cell(t, l, ch.stream("cell", i)); err != nil {
			return err
		}
	}
	c.explain.cell(-1)
	tails, whole := ch.stream("tails", 0), ch.whole()
	for i := range ch.Tails {
		a := tails.below(len(c.Answer))
		if err := c.tail(a, i < ch.Full && whole[i], ch.stream("tail", i)); err != nil {
			return err
		}
	}
	return nil
}

// Touches lists the layers and the tails that a proof opens.
func (ch Challenge) Touches(run *Run) (layers map[[2]int]bool, tails map[int]bool) {
	layers, tails = map[[2]int]bool{}, map[int]bool{}
	n, count := run.Positions(), len(run.Model.Layers)
	cells := ch.stream("cells", 0)
	for range ch.Cells {
		t, l := cells.below(n), cells.below(count)
		layers[[2]int{t, l}] = true
		if l > 0 {
			layers[[2]int{t, l - 1}] = true
		}
	}
	d := ch.stream("tails", 0)
	for range ch.Tails {
		t := len(run.Prompt) - 1 + d.below(len(run.Answer))
		tails[t] = true
		layers[[2]int{t, count - 1}] = true
	}
	return layers, tails
}
