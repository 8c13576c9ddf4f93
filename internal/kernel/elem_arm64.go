//go:build !purego

package kernel

import (
	"math/bits"

	"github.com/geistnet/geist/arith"
)

// vectors reports whether the methods of this file serve the path. Lengths that
// they take are multiples of 16.
func (p Path) vectors() bool { return p == NEON }

func (Path) sumSquaresAsm(x []float32) float32 { return sumSquaresNEON(&x[0], len(x)/16) }

func (Path) scaleMulAsm(dst, x, w []float32, r float32) {
	scaleMulNEON(&dst[0], &x[0], &w[0], r, len(x)/16)
}

func (Path) addAsm(dst, x []float32) { addNEON(&dst[0], &x[0], len(x)/16) }

func (Path) gateAsm(g Gate, dst, x, u []float32) {
	if g == GELU {
		geluNEON(&dst[0], &x[0], &u[0], len(x)/16)
	} else {
		siluNEON(&dst[0], &x[0], &u[0], len(x)/16)
	}
}

func rounds(kv arith.KV) int {
	if kv == arith.KVF16 {
		return 1
	}
	return 0
}

func (Path) scaleRoundAsm(x []float32, scale float32, kv arith.KV) {
	scaleRoundNEON(&x[0], scale, rounds(kv), len(x)/16)
}

func (Path) rotateAsm(x []float32, heads, hd int, r *Rotation, neox bool) bool {
	n := len(r.cos)
	if n%4 != 0 {
		return false
	}
	if neox {
		ropeNeoxNEON(&x[0], heads, hd, &r.cos[0], &r.sin[0], n)
	} else {
		ropeNormNEON(&x[0], heads, hd, &r.cos[0], &r.sin[0], n)
	}
	return true
}

func (Path) toF16Asm(dst []uint16, src []float32) { toF16NEON(&dst[0], &src[0], len(src)/16) }

func (Path) maxChunkAsm(s []float32, mask uint64, top float32) float32 {
	return maxChunkNEON(&s[0], mask, top)
}

func (Path) expChunkAsm(s []float32, mask uint64, top float32, kv arith.KV) float32 {
	return expChunkNEON(&s[0], mask, top, rounds(kv))
}

// The keys of a page are packed as a matrix of float weights is, whose rows
// are the positions.
var scoreKernelsNEON = [2][4]floatKernel{
	arith.KVF16: {scoresF16x1NEON, scoresF16x2NEON, scoresF16x4NEON, scoresF16x8NEON},
	arith.KVF32: {mmF32x1NEON, mmF32x2NEON, mmF32x4NEON, mmF32x8NEON},
}

var mixKernelsNEON = [2][4]func(out *float32, ostride int, p *float32, v *byte, n16 int, n int){
	arith.KVF16: {mixF16x1NEON, mixF16x2NEON, mixF16x4NEON, mixF16x8NEON},
	arith.KVF32: {mixF32x1NEON, mixF32x2NEON, mixF32x4NEON, mixF32x8NEON},
}

func (Path) scoresAsm(kv arith.KV, s []float32, keys []byte, q []float32, hd, w, n int) {
	groups := (min(n, PagePositions) + GroupRows - 1) / GroupRows
	scoreKernelsNEON[kv][bits.TrailingZeros(uint(w))](&s[0], PagePositions, &keys[0], hd, groups, &q[0])
}

func (Path) mixAsm(kv arith.KV, out []float32, vd int, s []float32, values []byte, w, n int) {
	mixKernelsNEON[kv][bits.TrailingZeros(uint(w))](&out[0], vd, &s[0], &values[0], vd/16, n)
}

func (Path) quantiseAsm(x []float32, q []int8, d []float32, w, block int, raw []int32) bool {
	f := quantise32NEON
	if block == 256 {
		f = quantise256NEON
	}
	return f(&x[0], &q[0], w*block, &d[0], 4*w, &raw[0], len(x)/block) == 0
}
