package kernel

import (
	"math"

	"github.com/geistnet/geist/arith"
)

// Pad rounds n up to whole vectors of 16. Buffers given to the element-wise
// operations have padded lengths; what lies in the padding is not used.
func Pad(n int) int { return (n + 15) &^ 15 }

// RMSNorm is arith.RMSNorm of x[:n]. It reports false, and dst is void, if x
// holds a value that is not finite or its squares overflow. w may be nil.
func (p Path) RMSNorm(dst, x, w []float32, n int, eps float32) bool {
	var ss float32
	if p.vectors() && n%16 == 0 {
		ss = p.sumSquaresAsm(x[:n])
	} else {
		ss = arith.SumSquares(x[:n])
	}
	r := 1 / float32(math.Sqrt(float64(float32(ss/float32(n))+eps)))
	if !arith.Finite(ss) || !arith.Finite(r) {
		return false
	}
	if p.vectors() && n%16 == 0 && w != nil {
		p.scaleMulAsm(dst[:n], x[:n], w[:n], r)
		return true
	}
	for i, v := range x[:n] {
		y := float32(v * r)
		if w != nil {
			y = float32(y * w[i])
		}
		dst[i] = y
	}
	return true
}

// Add adds x to dst, element by element.
func (p Path) Add(dst, x []float32) {
	if n := len(x) &^ 15; p.vectors() && n > 0 {
		p.addAsm(dst[:n], x[:n])
		dst, x = dst[n:], x[n:]
	}
	for i, v := range x {
		dst[i] += v
	}
}

// Gate is the activation between a feed-forward block's first two matrices.
type Gate int

// The gates; see arith.SiLUMul and arith.GELUMul.
const (
	SiLU Gate = iota
	GELU
)

// GateMul writes gate(g)·u to dst, which may be g.
func (p Path) GateMul(gate Gate, dst, g, u []float32) {
	if n := len(g) &^ 15; p.vectors() && n > 0 {
		p.gateAsm(gate, dst[:n], g[:n], u[:n])
		dst, g, u = dst[n:], g[n:], u[n:]
	}
	for i, v := range g {
		if gate == GELU {
			dst[i] = arith.GELUMul(v, u[i])
		} else {
			dst[i] = arith.SiLUMul(v, u[i])
		}
	}
}

// ScaleRound multiplies x by scale and rounds to the cache's format.
func (p Path) ScaleRound(x []float32, scale float32, kv arith.KV) {
	if n := len(x) &^ 15; p.vectors() && n > 0 {
		p.scaleRoundAsm(x[:n], scale, kv)
		x = x[n:]
	}
	for i, v := range x {
		x[i] = kv.Round(float32(v * scale))
	}
}

// Rotation holds the cosines and sines of one position for Rotate.
type Rotation struct {
	cos, sin []float32
	// The same with every value twice, for interleaved pairs in vectors.
	cos2, sin2 []float32
}

// Set computes the rotation of position pos.
func (r *Rotation) Set(rope *arith.Rope, pos int) {
	n := len(rope.Turn)
	r.cos, r.sin = grow(r.cos, n), grow(r.sin, n)
	rope.CosSin(pos, r.cos, r.sin)
	r.cos2, r.sin2 = grow(r.cos2, 2*n), grow(r.sin2, 2*n)
	for i, c := range r.cos {
		r.cos2[2*i], r.cos2[2*i+1] = c, c
		r.sin2[2*i], r.sin2[2*i+1] = r.sin[i], r.sin[i]
	}
}

// Rotate applies arith.RotatePairs to heads consecutive heads of hd floats.
func (p Path) Rotate(x []float32, heads, hd int, r *Rotation, neox bool) {
	if p.vectors() && p.rotateAsm(x[:heads*hd], heads, hd, r, neox) {
		return
	}
	for h := range heads {
		arith.RotatePairs(x[h*hd:(h+1)*hd], r.cos, r.sin, neox)
	}
}
