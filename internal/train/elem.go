package train

import (
	"math"

	"github.com/geistnet/geist/arith"
	"github.com/geistnet/geist/internal/matmul"
)

// root is the square root rounded once: float64 has more than twice the digits.
func root(x float32) float32 { return float32(math.Sqrt(float64(x))) }

// piece is how many tokens one task takes where sums over tokens are made: each
// task adds its own in ascending order, and the tasks are added in ascending
// order.
const piece = 128

// pieces is the number of tasks of n tokens.
func pieces(n int) int { return (n + piece - 1) / piece }

// norm writes RMSNorm of the rows of x to y and the scale of each row to r.
func (t *Trainer) norm(y, r, x, w []float32) {
	d := len(w)
	matmul.Each(t.threads, pieces(len(r)), func(p int) {
		for i := p * piece; i < min((p+1)*piece, len(r)); i++ {
			r[i] = arith.RMSNorm(y[i*d:(i+1)*d], x[i*d:(i+1)*d], w, t.m.Shape.Eps)
		}
	})
}

// normGrad adds to dx the gradient of RMSNorm and to dw that of its weights,
// from dy:
//
//	dx += r·(w⊙dy − x·(r²/d)·Σ w⊙dy⊙x),  dw += Σ dy⊙x·r over tokens
func (t *Trainer) normGrad(dx, dw, dy, x, r, w []float32) {
	d := len(w)
	n := pieces(len(r))
	parts := t.scratch(&t.normParts, n*d)
	clear(parts)
	path := t.mm.Path()
	matmul.Each(t.threads, n, func(p int) {
		part := parts[p*d : (p+1)*d]
		s := make([]float32, d)
		for i := p * piece; i < min((p+1)*piece, len(r)); i++ {
			xi, dyi, dxi, ri := x[i*d:(i+1)*d], dy[i*d:(i+1)*d], dx[i*d:(i+1)*d], r[i]
			for j, g := range dyi {
				part[j] += float32(float32(g*xi[j]) * ri)
				s[j] = float32(g * w[j])
			}
			a := path.Dot(s, xi)
			a = float32(float32(a*ri)*float32(ri*ri)) / float32(d)
			path.Axpy(dxi, s, ri)
			path.Axpy(dxi, xi, -a)
		}
	})
	for p := range n {
		for j, v := range parts[p*d : (p+1)*d] {
			dw[j] += v
		}
	}
}

// rotate turns the heads of x, N rows of heads·HeadDim, by their positions;
// back turns them back, which is the gradient.
func (t *Trainer) rotate(x []float32, heads int, back bool) {
	hd := t.m.Shape.HeadDim
	half := hd / 2
	T := t.m.Shape.Context
	n := len(x) / (heads * hd)
	matmul.Each(t.threads, pieces(n), func(p int) {
		minus := make([]float32, half)
		for i := p * piece; i < min((p+1)*piece, n); i++ {
			pos := i % T
			cos, sin := t.cos[pos*half:(pos+1)*half], t.sin[pos*half:(pos+1)*half]
			if back {
				for j, s := range sin {
					minus[j] = -s
				}
				sin = minus
			}
			for h := range heads {
				arith.RotatePairs(x[(i*heads+h)*hd:][:hd], cos, sin, false)
			}
		}
	})
}
