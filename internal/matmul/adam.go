package matmul

import "math"

// AdamTerms are what a step of Adam with decoupled weight decay takes; C1 and C2
// are 1 − Beta1^step and 1 − Beta2^step.
type AdamTerms struct {
	Beta1, Beta2, C1, C2, Eps, Decay, Rate float32
}

// TermsOf makes the terms of step step, counted from 1. The powers are made in
// float64 by squaring, lowest bit first.
func TermsOf(rate, beta1, beta2, eps, decay float32, step uint32) *AdamTerms {
	return &AdamTerms{Beta1: beta1, Beta2: beta2, C1: unbias(beta1, step), C2: unbias(beta2, step), Eps: eps, Decay: decay, Rate: rate}
}

func unbias(beta float32, step uint32) float32 {
	power, square := 1.0, float64(beta)
	for ; step > 0; step >>= 1 {
		if step&1 == 1 {
			power = float64(power * square)
		}
		square = float64(square * square)
	}
	return float32(1 - power)
}

// Adam makes the step that sat.Adam defines, of values w with moments m and v;
// the slices have one length. It reports whether all results are finite; if
// not, they are spoilt.
func (p Path) Adam(w, m, v, g []float32, a *AdamTerms) (finite bool) {
	n := p.whole(len(w))
	finite = true
	if n > 0 {
		k := [9]float32{a.Beta1, 1 - a.Beta1, a.Beta2, 1 - a.Beta2, a.C1, a.C2, a.Eps, a.Decay, a.Rate}
		finite = p.adamAsm(w[:n], m[:n], v[:n], g[:n], &k)
	}
	rest1, rest2 := 1-a.Beta1, 1-a.Beta2
	for i := n; i < len(w); i++ {
		mi := float32(a.Beta1*m[i]) + float32(rest1*g[i])
		vi := float32(a.Beta2*v[i]) + float32(rest2*float32(g[i]*g[i]))
		root := float32(math.Sqrt(float64(vi / a.C2)))
		move := float32(mi/a.C1)/(root+a.Eps) + float32(a.Decay*w[i])
		wi := w[i] - float32(a.Rate*move)
		w[i], m[i], v[i] = wi, mi, vi
		finite = finite && mi-mi == 0 && vi-vi == 0 && wi-wi == 0
	}
	return finite
}
