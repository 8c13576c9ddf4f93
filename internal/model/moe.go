package model

import (
	"github.com/geistnet/geist/arith"
	"github.com/geistnet/geist/internal/kernel"
)

// moe is the mixture-of-experts block: the inputs are sorted by expert, each
// expert's inputs multiplied together, and each input's expert outputs added
// in ascending order of the expert.
func (s *State) moe(w *kernel.Worker, y *layer) {
	m := s.m
	n := len(s.rows)
	norm := s.normed(y.ffnNorm)
	w.For(n, 4, func(begin, end int) {
		for r := begin; r < end; r++ {
			if norm(r, s.norm[r*m.strideX():][:m.strideX()]) == nil {
				s.void.Store(true)
				clear(s.norm[r*m.strideX():][:m.strideX()])
			}
		}
	})
	in := s.prepare(w, n, m.Dim, func(r int, _ []float32) []float32 { return s.norm[r*m.strideX():][:m.Dim] }, y.router.m)
	s.multiply(w, in, nil, product{&y.router, s.routed, kernel.Pad(m.Experts)})
	if w.ID() == 0 {
		s.route(y)
	}
	w.Barrier()

	// Inputs of each expert.
	w.For(len(s.pairs), 4, func(begin, end int) {
		for _, b := range s.experts {
			for p := max(begin, b.begin); p < min(end, b.end); p++ {
				if !s.expertIn[b.expert].Set(p-b.begin, s.norm[s.pairs[p].row*m.strideX():][:m.Dim]) {
					s.void.Store(true)
				}
			}
		}
	})
	groups := kernel.Pad(m.FF) / kernel.GroupRows
	grain := max(1, min(16, groups/4))
	s.perExpert(w, groups, grain, func(b expertBatch, begin, end int) {
		e, in := &y.experts[b.expert], &s.expertIn[b.expert]
		g, u := s.g[b.begin*m.strideF():], s.u[b.begin*m.strideF():]
		e.gate.apply(g, m.strideF(), in, begin, end)
		e.up.apply(u, m.strideF(), in, begin, end)
		r0, r1 := begin*kernel.GroupRows, min(end*kernel.GroupRows, m.FF)
		for i := range b.end - b.begin {
			gr := g[i*m.strideF()+r0 : i*m.strideF()+r1]
			m.Path.GateMul(m.gate, gr, gr, u[i*m.strideF()+r0:i*m.strideF()+r1])
		}
	})
	if w.ID() == 0 {
		for _, b := range s.experts {
			s.expertIn[b.expert].Reset(b.end-b.begin, m.FF, y.experts[b.expert].down.m)
		}
	}
	w.Barrier()
	w.For(len(s.pairs), 4, func(begin, end int) {
		for _, b := range s.experts {
			for p := max(begin, b.begin); p < min(end, b.end); p++ {
				in := &s.expertIn[b.expert]
				if !in.Set(p-b.begin, s.g[p*m.strideF():][:m.FF]) {
					s.void.Store(true)
				} else if s.trace != nil {
					n := in.RowBytes()
					in.Row(p-b.begin, s.trace.hd[p*n:][:n])
				}
			}
		}
	})
	groups = kernel.Pad(m.Dim) / kernel.GroupRows
	s.perExpert(w, groups, max(1, min(16, groups/4)), func(b expertBatch, begin, end int) {
		y.experts[b.expert].down.apply(s.out[b.begin*m.strideX():], m.strideX(), &s.expertIn[b.expert], begin, end)
	})
	w.For(m.Dim, 256, func(begin, end int) { s.combine(begin, end) })
}

// perExpert runs f over the row groups of every expert in use.
func (s *State) perExpert(w *kernel.Worker, groups, grain int, f func(b expertBatch, begin, end int)) {
	pieces := (groups + grain - 1) / grain
	w.For(len(s.experts)*pieces, 1, func(begin, end int) {
		for i := begin; i < end; i++ {
			first := i % pieces * grain
			f(s.experts[i/pieces], first, min(first+grain, groups))
		}
	})
}

// route sorts the batch's inputs by expert.
func (s *State) route(y *layer) {
	m := s.m
	type choice struct {
		row, expert int
		weight      float32
	}
	choices := make([]choice, 0, len(s.rows)*m.ExpertsUsed)
	count := make([]int, m.Experts+1)
	for r := range s.rows {
		logits := s.routed[r*kernel.Pad(m.Experts):][:m.Experts]
		for _, v := range logits {
			if !arith.Finite(v) {
				s.void.Store(true)
				clear(logits)
				break
			}
		}
		experts, weights := arith.Route(logits, m.ExpertsUsed, m.expertNorm, m.expertScale)
		for i, e := range experts {
			choices = append(choices, choice{r, e, weights[i]})
			count[e+1]++
		}
	}
	s.experts = s.experts[:0]
	for e := range m.Experts {
		count[e+1] += count[e]
		if count[e+1] > count[e] {
			s.experts = append(s.experts, expertBatch{e, count[e], count[e+1]})
			s.expertIn[e].Reset(count[e+1]-count[e], m.Dim, y.experts[e].gate.m, y.experts[e].up.m)
		}
	}
	if cap(s.pairs) < len(choices) {
		s.pairs = make([]pair, s.most*m.ExpertsUsed)
	}
	s.pairs = s.pairs[:len(choices)]
	s.pairOf = s.pairOf[:0]
	for _, c := range choices { // by row, and within it by expert
		s.pairOf = append(s.pairOf, count[c.expert])
		s.pairs[count[c.expert]] = pair{c.row, c.weight}
		count[c.expert]++
	}
}

// combine adds the weighted expert outputs of dimensions [begin, end) to the
// residual stream. Pairs are sorted by expert, so each row meets its experts
// in ascending order.
func (s *State) combine(begin, end int) {
	m := s.m
	sums := s.norm // the normed inputs are no longer needed
	for r := range s.rows {
		clear(sums[r*m.strideX()+begin : r*m.strideX()+end])
	}
	for p, x := range s.pairs {
		out := s.out[p*m.strideX():]
		sum := sums[x.row*m.strideX():]
		for d := begin; d < end; d++ {
			sum[d] += float32(out[d] * x.weight)
		}
	}
	for r := range s.rows {
		at := r * m.strideX()
		m.Path.Add(s.x[at+begin:at+end], sums[at+begin:at+end])
	}
}
