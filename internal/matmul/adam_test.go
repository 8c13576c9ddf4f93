package matmul

import (
	"math"
	"math/rand/v2"
	"testing"

	"github.com/geistnet/geist/sat"
)

// TestAdam compares with the definition, over several steps.
func TestAdam(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 8))
	for _, n := range []int{1, 15, 16, 40, 512} {
		for _, p := range Paths() {
			a := sat.Adam{LR: 0.01, Beta1: 0.9, Beta2: 0.95, Eps: 1e-10, WeightDecay: 0.1}
			w, m, v := fill(r, n), make([]float32, n), make([]float32, n)
			w2, m2, v2 := append([]float32(nil), w...), make([]float32, n), make([]float32, n)
			for step := uint32(1); step < 40; step++ {
				g := fill(r, n)
				for i := range g {
					g[i] *= float32(math.Pow(10, float64(-r.IntN(9))))
				}
				if err := a.Step(w, m, v, g, step); err != nil {
					t.Fatal(err)
				}
				if !p.Adam(w2, m2, v2, g, TermsOf(a.LR, a.Beta1, a.Beta2, a.Eps, a.WeightDecay, step)) {
					t.Fatalf("%v: step %d is not finite", p, step)
				}
				for i := range w {
					if w[i] != w2[i] || m[i] != m2[i] || v[i] != v2[i] {
						t.Fatalf("%v: element %d of %d after step %d is %g, %g, %g; want %g, %g, %g", p, i, n, step, w2[i], m2[i], v2[i], w[i], m[i], v[i])
					}
				}
			}
			for i := range n {
				g := make([]float32, n)
				g[i] = float32(math.Inf(1))
				if p.Adam(append([]float32(nil), w...), append([]float32(nil), m...), append([]float32(nil), v...), g, TermsOf(0.1, 0.9, 0.95, 1e-8, 0, 3)) {
					t.Fatalf("%v: an infinite gradient at %d of %d goes unseen", p, i, n)
				}
			}
		}
	}
}
