package train

import (
	"fmt"
	"math"

	"github.com/geistnet/geist/arith"
	"github.com/geistnet/geist/internal/matmul"
	"github.com/geistnet/geist/sat"
)

// Optimiser says how steps change weights: Adam with decoupled weight decay,
// sat.Adam, for parameters and for the rows that a step touched.
type Optimiser struct {
	Steps       int     // of the whole run
	Warmup      int     // first steps, in which the rate rises evenly from 0
	Rate        float32 // the highest learning rate; it falls to Final·Rate as half a cosine
	RowRate     float32 // likewise of rows
	Final       float32
	Beta1       float32
	Beta2       float32
	RowBeta2    float32
	Eps         float32
	WeightDecay float32 // of matrices; norms and rows have none
	RowDropout  float32 // share of reads of hashed rows that a step leaves out
	Clip        float32 // the longest gradient of the parameters together; longer ones are shortened
}

// share is the part of the highest rate that step has, steps counted from 0.
func (o *Optimiser) share(step int) float32 {
	if step < o.Warmup {
		return float32(step+1) / float32(o.Warmup)
	}
	turn := float64(step-o.Warmup) / float64(max(o.Steps-o.Warmup, 1))
	return o.Final + float32((1-o.Final)*halfCosine(min(turn, 1)))
}

// halfCosine is (1 + cos πx)/2 for x in [0, 1], by the fixed sequence of arith.
func halfCosine(x float64) float32 {
	r := arith.Rope{Turn: []uint64{uint64(x * (1 << 32))}, Magnitude: 1}
	var c, s [1]float32
	r.CosSin(1<<31, c[:], s[:]) // x/2³² of a turn, 2³¹ times: half a turn at x = 1
	return (1 + c[0]) / 2
}

// rows is Adam of rows at step.
func (o *Optimiser) rows(step int) sat.Adam {
	return sat.Adam{LR: float32(o.RowRate * o.share(step)), Beta1: o.Beta1, Beta2: o.RowBeta2, Eps: o.Eps}
}

// Update makes one step from the gradients of the last Gradient.
func (t *Trainer) Update(o *Optimiser) error {
	m := t.m
	rate := float32(o.Rate * o.share(m.Step))
	if err := t.clip(o.Clip); err != nil {
		return err
	}
	adam := sat.Adam{LR: rate, Beta1: o.Beta1, Beta2: o.Beta2, Eps: o.Eps}
	for _, p := range m.Params {
		a := adam
		if p.decays {
			a.WeightDecay = o.WeightDecay
		}
		const size = 8192
		n := len(p.W)
		errs := make([]error, (n+size-1)/size)
		matmul.Each(t.threads, len(errs), func(c int) {
			b, e := c*size, min((c+1)*size, n)
			errs[c] = t.adam(a, p.W[b:e], p.M[b:e], p.V[b:e], p.G[b:e], uint32(m.Step+1))
		})
		for _, err := range errs {
			if err != nil {
				return fmt.Errorf("%s: %w", p.Name, err)
			}
		}
	}
	for i, g := range t.RowGrads() {
		if err := t.updateRows(m.Tables[i], g, o.rows(m.Step)); err != nil {
			return err
		}
	}
	m.Step++
	return nil
}

// adam is a.Step, fast.
func (t *Trainer) adam(a sat.Adam, w, m, v, g []float32, step uint32) error {
	if err := a.Valid(); err != nil {
		return err
	}
	if !t.mm.Path().Adam(w, m, v, g, matmul.TermsOf(a.LR, a.Beta1, a.Beta2, a.Eps, a.WeightDecay, step)) {
		return errDiverged
	}
	return nil
}

// updateRows makes a step of the rows that were touched, each with its own
// count of steps.
func (t *Trainer) updateRows(tab *Table, g *RowGrads, a sat.Adam) error {
	const few = 64
	errs := make([]error, (len(g.Rows)+few-1)/few)
	matmul.Each(t.threads, len(errs), func(c int) {
		for i := c * few; i < min((c+1)*few, len(g.Rows)) && errs[c] == nil; i++ {
			r := g.Rows[i]
			tab.Steps[r]++
			errs[c] = t.adam(a, tab.row(tab.W, r), tab.row(tab.M, r), tab.row(tab.V, r), g.G[i*tab.Cols:(i+1)*tab.Cols], tab.Steps[r])
		}
	})
	for _, err := range errs {
		if err != nil {
			return fmt.Errorf("%s: %w", tab.Name, err)
		}
	}
	return nil
}

// clip shortens the gradient of all parameters to length at most. Squares are added in float64, in pieces of 65536.
func (t *Trainer) clip(most float32) error {
	g := t.m.slab[1]
	const size = 65536
	parts := make([]float64, (len(g)+size-1)/size)
	matmul.Each(t.threads, len(parts), func(p int) {
		var sum [4]float64
		x := g[p*size : min((p+1)*size, len(g))]
		for i, v := range x {
			sum[i&3] += float64(float64(v) * float64(v))
		}
		parts[p] = sum[0] + sum[1] + sum[2] + sum[3]
	})
	var sum float64
	for _, p := range parts {
		sum += p
	}
	norm := math.Sqrt(sum)
	if math.IsNaN(norm) || math.IsInf(norm, 0) {
		return errDiverged
	}
	if norm > float64(most) {
		s := float32(float64(most) / norm)
		matmul.Each(t.threads, len(parts), func(p int) {
			t.mm.Path().Scale(g[p*size:min((p+1)*size, len(g))], s)
		})
	}
	return nil
}
