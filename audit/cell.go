package audit

import (
	"math"

	"github.com/geistnet/geist/arith"
	"github.com/geistnet/geist/ghost"
)

// cell checks one element of every relation of layer l at position t, drawn
// from d.
func (c *checker) cell(t, l int, d *draw) error {
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
	if err := c.attention(t, l, head, group, dim, d); err != nil {
		return err
	}
	mid, err := c.output(t, l, y, x, d)
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
		e := m.ElemBytes()
		b, err := c.bytes(t, l, v, 0, row*e, (row+1)*e)
		if err != nil {
			return err
		}
		if got := c.elems(b)[0]; !same(got, m.KV.Round(want)) {
			return fail(t, l, what, "row %d is %v, should be %v", row, got, m.KV.Round(want))
		}
		c.counts.Projections++
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
	return nil
}

func (c *checker) column(l, head, dim int) ([]float32, error) {
	b, err := c.src.Column(l, head, dim)
	return c.elems(b), err
}

func (c *checker) key(l, head, t int) ([]float32, error) {
	b, err := c.src.Key(l, head, t)
	return c.elems(b), err
}

// rotated derives a head's query or key from its raw one: norm, rotation, and
// for queries the scale; rounded.
func (c *checker) rotated(t, l int, v ghost.Value, head int) ([]float32, error) {
	m := c.Model
	y := &m.Layers[l]
	e, n, w, count := m.ElemBytes(), m.KeyDim, y.QNorm, m.Heads
	if v == ghost.RawKey {
		w, count = y.KNorm, m.KVHeads
	}
	var x []float32
	switch m.Norm {
	case ghost.RowNorm: // over all heads together
		b, err := c.bytes(t, l, v, 0, 0, count*n*e)
		if err != nil {
			return nil, err
		}
		all := c.elems(b)
		arith.RMSNorm(all, all, w, m.Eps)
		x = all[head*n : (head+1)*n]
	default:
		b, err := c.bytes(t, l, v, 0, head*n*e, (head+1)*n*e)
		if err != nil {
			return nil, err
		}
		x = c.elems(b)
		if m.Norm == ghost.HeadNorm {
			arith.RMSNorm(x, x, w, m.Eps)
		}
	}
	rope := &m.Ropes[y.Rope]
	cos, sin := make([]float32, len(rope.Turn)), make([]float32, len(rope.Turn))
	rope.CosSin(t, cos, sin)
	arith.RotatePairs(x, cos, sin, m.Neox)
	for i := range x {
		if v == ghost.RawQuery {
			x[i] = float32(x[i] * m.QueryScale(t))
		}
		x[i] = m.KV.Round(x[i])
	}
	c.counts.Rotations++
	return x, nil
}

// attention checks one head: its largest score, a random weight, and the
// output in one dimension.
func (c *checker) attention(t, l, head, group, dim int, d *draw) error {
	m := c.Model
	y := &m.Layers[l]
	q, err := c.rotated(t, l, ghost.RawQuery, head)
	if err != nil {
		return err
	}
	b, err := c.bytes(t, l, ghost.Weights, head, 0, -1)
	if err != nil {
		return err
	}
	from, first := y.WeightsFrom(t), y.FirstVisible(t)
	all := c.elems(b)
	top, err := c.float(t, l, ghost.MaxScore, head)
	if err != nil {
		return err
	}
	largest := -1
	for i, p := range all {
		at := from + i
		visible := at >= first && at <= t
		if !visible && math.Float32bits(p) != 0 {
			return fail(t, l, "attention weight", "position %d is not visible to head %d but has weight %v", at, head, p)
		}
		if visible && (!(p >= 0) || p > 1) {
			return fail(t, l, "attention weight", "position %d of head %d has weight %v", at, head, p)
		}
		if visible && p == 1 && largest < 0 {
			largest = at
		}
	}
	if largest < 0 {
		return fail(t, l, "attention weight", "no position of head %d has the largest score", head)
	}
	score := func(at int) (float32, error) {
		k, err := c.key(l, group, at)
		if err != nil {
			return 0, err
		}
		c.counts.Scores++
		return arith.Scores(q, [][]float32{k}, m.AttnCap)[0], nil
	}
	// A weight of 1 may belong to a score a rounding below the largest, so the
	// position is only bounded by it; a drawn one is exact.
	s, err := score(largest)
	if err != nil {
		return err
	}
	if !(s <= top) || !same(m.KV.Round(arith.Exp(s-top)), 1) {
		return fail(t, l, "largest score", "head %d says %v, position %d scores %v", head, top, largest, s)
	}
	at := first + d.below(t+1-first)
	if s, err = score(at); err != nil {
		return err
	}
	if p := m.KV.Round(arith.Exp(s - top)); !(s <= top) || !same(all[at-from], p) {
		return fail(t, l, "attention weight", "head %d gives position %d weight %v, should be %v", head, at, all[at-from], p)
	}
	col, err := c.column(l, group, dim)
	if err != nil {
		return err
	}
	p, v := all[first-from:t+1-from], col[first:t+1]
	out := arith.Mix(p, v, first) / arith.WeightSum(p, first)
	a, err := c.input(t, l, ghost.AttnOut, 0, m.Heads*m.ValDim, &y.O)
	if err != nil {
		return err
	}
	if !holds(a, head*m.ValDim+dim, out) {
		return fail(t, l, "attention", "dimension %d of head %d is not %v", dim, head, out)
	}
	c.counts.Mixes++
	return nil
}

// output checks one element of the output projection with its residual and
// returns the residual stream behind it.
func (c *checker) output(t, l int, y *ghost.Layer, x []float32, d *draw) ([]float32, error) {
	m := c.Model
	a, err := c.input(t, l, ghost.AttnOut, 0, m.Heads*m.ValDim, &y.O)
	if err != nil {
		return nil, err
	}
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
	return raw[i], nil
}

// feedForward checks one hidden element and one element of the block's result,
// and for a mixture one router logit and the choice of experts.
func (c *checker) feedForward(t, l int, y *ghost.Layer, mid []float32, d *draw) error {
	m := c.Model
	hidden := func(gate, up *ghost.Linear, h arith.Activations) error {
		i := d.below(m.FF)
		a, err := c.normed(t, l, mid, y.FFNNorm, gate)
		if err != nil {
			return err
		}
		g, err := c.linear(gate, i, a)
		if err != nil {
			return err
		}
		if b := m.Tensors[up.Tensor].Format.ActBlock(); b != a.Block {
			if a, err = c.normed(t, l, mid, y.FFNNorm, up); err != nil {
				return err
			}
		}
		u, err := c.linear(up, i, a)
		if err != nil {
			return err
		}
		v := arith.SiLUMul(g, u)
		if m.Gate == ghost.GELU {
			v = arith.GELUMul(g, u)
		}
		if !holds(h, i, v) {
			return fail(t, l, "hidden", "element %d is not %v", i, v)
		}
		c.counts.Hidden++
		return nil
	}
	i := d.below(m.Dim)
	var sum float32
	if len(y.Experts) == 0 {
		h, err := c.input(t, l, ghost.Hidden, 0, m.FF, &y.Down)
		if err != nil {
			return err
		}
		if err := hidden(&y.Gate, &y.Up, h); err != nil {
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
		for _, v := range logits {
			if !arith.Finite(v) {
				return fail(t, l, "router", "a logit is %v", v)
			}
		}
		c.counts.Routers++
		chosen, weights := arith.Route(logits, m.ExpertsUsed, m.ExpertNorm, m.ExpertScale)
		drawn := d.below(len(chosen))
		for j, e := range chosen {
			x := &y.Experts[e]
			h, err := c.input(t, l, ghost.Hidden, j, m.FF, &x.Down)
			if err != nil {
				return err
			}
			if j == drawn {
				if err := hidden(&x.Gate, &x.Up, h); err != nil {
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
	return nil
}

// randomLogits is how many logits are checked beside the emitted token's.
const randomLogits = 2

// tail checks the logits of the position that emitted the a-th answer token.
func (c *checker) tail(a int, full bool, d *draw) error {
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
		return floats(b[at%ghost.LeafBytes:][:4])[0], nil
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
		if m.LogitCap > 0 {
			want = arith.SoftCap(want, m.LogitCap)
		}
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
	logits := make([]float32, m.Vocab)
	for id := range logits {
		if logits[id], err = logit(id); err != nil {
			return err
		}
		if !arith.Finite(logits[id]) {
			return fail(t, -1, "logit", "token %d has %v", id, logits[id])
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
		t, l := cells.below(n), cells.below(layers)
		if err := c.cell(t, l, ch.stream("cell", i)); err != nil {
			return err
		}
	}
	tails := ch.stream("tails", 0)
	for i := range ch.Tails {
		a := tails.below(len(c.Answer))
		if err := c.tail(a, i < ch.Full, ch.stream("tail", i)); err != nil {
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
