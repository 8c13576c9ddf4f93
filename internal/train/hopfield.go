package train

import (
	"fmt"
	"slices"

	"github.com/geistnet/geist/internal/matmul"
)

// Hopfield is a lookup in a modern Hopfield network (Ramsauer et al., "Hopfield
// Networks is All You Need", 2020, arXiv:2008.02217): of the rows that a query x
// retrieves it is
//
//	y = Σ p_r·V_r,  p = softmax(β·K_r·x) over the retrieved rows r
//
// Sums go over rows in ascending order. So with all rows retrieved it is the
// dense layer softmax(β·K·x)·V, bit for bit, and with fewer it is that layer
// over them alone.
type Hopfield struct {
	Keys, Values matmul.Matrix // N rows of d, and of dv values, rows one after the other
	Beta         float32
	Path         matmul.Path
}

// Lookup is what one query retrieved: rows, strictly ascending, and their weights.
type Lookup struct {
	Rows   []int
	Weight []float32
}

func (h *Hopfield) key(r int) []float32   { return h.Keys.X[r*h.Keys.Cols:][:h.Keys.Cols] }
func (h *Hopfield) value(r int) []float32 { return h.Values.X[r*h.Values.Cols:][:h.Values.Cols] }

// Nearest are the k rows whose keys have the largest products with x, ties by
// the smaller row, in ascending order.
func (h *Hopfield) Nearest(x []float32, k int) []int {
	type score struct {
		row int
		s   float32
	}
	all := make([]score, h.Keys.Rows)
	for r := range all {
		all[r] = score{r, h.Path.Dot(h.key(r), x)}
	}
	slices.SortStableFunc(all, func(a, b score) int {
		switch {
		case a.s > b.s:
			return -1
		case a.s < b.s:
			return 1
		}
		return 0
	})
	rows := make([]int, min(k, len(all)))
	for i := range rows {
		rows[i] = all[i].row
	}
	slices.Sort(rows)
	return rows
}

// Forward sets y to the lookup of x in rows, which are strictly ascending and at
// least one.
func (h *Hopfield) Forward(y, x []float32, rows []int) (Lookup, error) {
	if len(rows) == 0 || len(x) != h.Keys.Cols || len(y) != h.Values.Cols || h.Keys.Rows != h.Values.Rows {
		return Lookup{}, fmt.Errorf("lookup of %d rows by a query of %d values into %d; keys are %d×%d, values %d×%d",
			len(rows), len(x), len(y), h.Keys.Rows, h.Keys.Cols, h.Values.Rows, h.Values.Cols)
	}
	w := make([]float32, len(rows))
	for i, r := range rows {
		if r < 0 || r >= h.Keys.Rows || i > 0 && r <= rows[i-1] {
			return Lookup{}, fmt.Errorf("row %d after %v of %d rows; rows ascend", r, rows[:i], h.Keys.Rows)
		}
		w[i] = float32(h.Beta * h.Path.Dot(h.key(r), x))
	}
	h.Path.Softmax(w)
	clear(y)
	for i, r := range rows {
		h.Path.Axpy(y, h.value(r), w[i])
	}
	return Lookup{rows, w}, nil
}

// Backward adds to dx the gradient of the query, from dy. dk and dv, if not nil,
// receive those of the retrieved rows' keys and values, one after the other.
func (h *Hopfield) Backward(dx, dk, dv []float32, l Lookup, x, dy []float32) {
	g := make([]float32, len(l.Rows))
	var mean float32
	for i, r := range l.Rows {
		g[i] = h.Path.Dot(h.value(r), dy)
		mean += float32(l.Weight[i] * g[i])
	}
	for i, r := range l.Rows {
		ds := float32(float32(l.Weight[i]*(g[i]-mean)) * h.Beta)
		h.Path.Axpy(dx, h.key(r), ds)
		if dk != nil {
			row := dk[i*len(x) : (i+1)*len(x)]
			clear(row)
			h.Path.Axpy(row, x, ds)
		}
		if dv != nil {
			row := dv[i*len(dy) : (i+1)*len(dy)]
			clear(row)
			h.Path.Axpy(row, dy, l.Weight[i])
		}
	}
}

// Recall is attention of one head over a memory of past keys and values, after
// Wu et al., "Memorizing Transformers" (2022, arXiv:2203.08913): each query
// attends to the TopK nearest of what was remembered, and a learned gate b mixes
// that with what attention over the window gave,
//
//	y = s·memory + (1−s)·window,  s = 1/(1+e^−b)
//
// What is remembered is the past's and gets no gradient.
type Recall struct {
	Dim, TopK int
	Most      int // keys remembered; older ones are forgotten
	Path      matmul.Path

	keys, values []float32
}

// Remember appends n keys and values of Dim floats each.
func (r *Recall) Remember(keys, values []float32) {
	r.keys, r.values = append(r.keys, keys...), append(r.values, values...)
	if over := len(r.keys) - r.Most*r.Dim; over > 0 {
		r.keys, r.values = slices.Delete(r.keys, 0, over), slices.Delete(r.values, 0, over)
	}
}

// Len is how many keys are remembered.
func (r *Recall) Len() int { return len(r.keys) / r.Dim }

// recalled is what Mix keeps for its gradient.
type recalled struct {
	lookup Lookup
	memory []float32
	share  float32
}

func (r *Recall) network() *Hopfield {
	n := r.Len()
	return &Hopfield{matmul.Of(r.keys, n, r.Dim), matmul.Of(r.values, n, r.Dim), 1 / root(float32(r.Dim)), r.Path}
}

// Mix sets y to the gated sum for query q and the window's output o. With
// nothing remembered, y is o.
func (r *Recall) Mix(y, q, o []float32, gate float32) (recalled, error) {
	if r.Len() == 0 {
		copy(y, o)
		return recalled{}, nil
	}
	net := r.network()
	c := recalled{memory: make([]float32, r.Dim), share: 1 / (1 + matmul.Exp(-gate))}
	var err error
	if c.lookup, err = net.Forward(c.memory, q, net.Nearest(q, r.TopK)); err != nil {
		return c, err
	}
	for i, m := range c.memory {
		y[i] = float32(c.share*m) + float32((1-c.share)*o[i])
	}
	return c, nil
}

// MixGrad adds the gradients of the query and the window's output, and returns
// that of the gate.
func (r *Recall) MixGrad(dq, do []float32, c recalled, q, o, dy []float32) (dgate float32) {
	if c.memory == nil {
		r.Path.Axpy(do, dy, 1)
		return 0
	}
	dm := make([]float32, r.Dim)
	diff := make([]float32, r.Dim)
	for i, d := range dy {
		dm[i] = float32(d * c.share)
		diff[i] = c.memory[i] - o[i]
	}
	r.Path.Axpy(do, dy, 1-c.share)
	r.network().Backward(dq, nil, nil, c.lookup, q, dm)
	return float32(float32(r.Path.Dot(dy, diff)*c.share) * (1 - c.share))
}
