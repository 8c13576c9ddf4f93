//go:build amd64 && !purego

package kernel

import (
	"math/bits"

	"github.com/geistnet/geist/arith"
)

// vectors reports whether the methods of this file serve the path. Lengths that
// they take are multiples of 16.
func (p Path) vectors() bool { return p == AVX512 || p == AVX2 }

func (p Path) sumSquaresAsm(x []float32) float32 {
	if p == AVX2 {
		return sumSquaresAVX2(&x[0], len(x)/16)
	}
	return sumSquaresAVX512(&x[0], len(x)/16)
}

func (p Path) scaleMulAsm(dst, x, w []float32, r float32) {
	if p == AVX2 {
		scaleMulAVX2(&dst[0], &x[0], &w[0], r, len(x)/16)
	} else {
		scaleMulAVX512(&dst[0], &x[0], &w[0], r, len(x)/16)
	}
}

func (p Path) addAsm(dst, x []float32) {
	if p == AVX2 {
		addAVX2(&dst[0], &x[0], len(x)/16)
	} else {
		addAVX512(&dst[0], &x[0], len(x)/16)
	}
}

func (p Path) gateAsm(g Gate, dst, x, u []float32) {
	switch n := len(x) / 16; {
	case p == AVX2 && g == GELU:
		geluAVX2(&dst[0], &x[0], &u[0], n)
	case p == AVX2:
		siluAVX2(&dst[0], &x[0], &u[0], n)
	case g == GELU:
		geluAVX512(&dst[0], &x[0], &u[0], n)
	default:
		siluAVX512(&dst[0], &x[0], &u[0], n)
	}
}

func rounds(kv arith.KV) int {
	if kv == arith.KVF16 {
		return 1
	}
	return 0
}

func (p Path) scaleRoundAsm(x []float32, scale float32, kv arith.KV) {
	if p == AVX2 {
		scaleRoundAVX2(&x[0], scale, rounds(kv), len(x)/16)
	} else {
		scaleRoundAVX512(&x[0], scale, rounds(kv), len(x)/16)
	}
}

func (p Path) rotateAsm(x []float32, heads, hd int, r *Rotation, neox bool) bool {
	n := len(r.cos)
	switch {
	case neox && n%16 != 0 || n%8 != 0:
		return false
	case neox && p == AVX2:
		ropeNeoxAVX2(&x[0], heads, hd, &r.cos[0], &r.sin[0], n/16)
	case neox:
		ropeNeoxAVX512(&x[0], heads, hd, &r.cos[0], &r.sin[0], n/16)
	case p == AVX2:
		ropeNormAVX2(&x[0], heads, hd, &r.cos2[0], &r.sin2[0], n/8)
	default:
		ropeNormAVX512(&x[0], heads, hd, &r.cos2[0], &r.sin2[0], n/8)
	}
	return true
}

func (p Path) toF16Asm(dst []uint16, src []float32) {
	if p == AVX2 {
		toF16AVX2(&dst[0], &src[0], len(src)/16)
	} else {
		toF16AVX512(&dst[0], &src[0], len(src)/16)
	}
}

func (p Path) maxChunkAsm(s []float32, mask uint64, top float32) float32 {
	if p == AVX2 {
		return maxChunkAVX2(&s[0], mask, top)
	}
	return maxChunkAVX512(&s[0], mask, top)
}

func (p Path) expChunkAsm(s []float32, mask uint64, top float32, kv arith.KV) float32 {
	if p == AVX2 {
		return expChunkAVX2(&s[0], mask, top, rounds(kv))
	}
	return expChunkAVX512(&s[0], mask, top, rounds(kv))
}

var scoreKernels512 = [2][4]func(s *float32, k *byte, q *float32, hd int){
	arith.KVF16: {scoresF16x1AVX512, scoresF16x2AVX512, scoresF16x4AVX512, scoresF16x8AVX512},
	arith.KVF32: {scoresF32x1AVX512, scoresF32x2AVX512, scoresF32x4AVX512, scoresF32x8AVX512},
}

// The keys of a page are packed as a matrix of float weights is, whose rows
// are the positions.
var scoreKernelsAVX2 = [2][4]floatKernel{
	arith.KVF16: {scoresF16x1AVX2, scoresF16x2AVX2, scoresF16x4AVX2, scoresF16x8AVX2},
	arith.KVF32: {mmF32x1AVX2, mmF32x2AVX2, mmF32x4AVX2, mmF32x8AVX2},
}

func (p Path) scoresAsm(kv arith.KV, s []float32, keys []byte, q []float32, hd, w, n int) {
	k := bits.TrailingZeros(uint(w))
	if p == AVX2 {
		groups := (min(n, PagePositions) + GroupRows - 1) / GroupRows
		scoreKernelsAVX2[kv][k](&s[0], PagePositions, &keys[0], hd, groups, &q[0])
	} else {
		scoreKernels512[kv][k](&s[0], &keys[0], &q[0], hd)
	}
}

type mixKernel = func(out *float32, ostride int, p *float32, v *byte, hd16 int, n int)

var mixKernels512 = [2][4]mixKernel{
	arith.KVF16: {mixF16x1AVX512, mixF16x2AVX512, mixF16x4AVX512, mixF16x8AVX512},
	arith.KVF32: {mixF32x1AVX512, mixF32x2AVX512, mixF32x4AVX512, mixF32x8AVX512},
}

var mixKernelsAVX2 = [2][4]mixKernel{
	arith.KVF16: {mixF16x1AVX2, mixF16x2AVX2, mixF16x4AVX2, mixF16x8AVX2},
	arith.KVF32: {mixF32x1AVX2, mixF32x2AVX2, mixF32x4AVX2, mixF32x8AVX2},
}

func (p Path) mixAsm(kv arith.KV, out []float32, vd int, s []float32, values []byte, w, n int) {
	table := &mixKernels512
	if p == AVX2 {
		table = &mixKernelsAVX2
	}
	table[kv][bits.TrailingZeros(uint(w))](&out[0], vd, &s[0], &values[0], vd/16, n)
}

func (p Path) quantiseAsm(x []float32, q []int8, d []float32, w, block int, raw []int32) bool {
	nb := len(x) / block
	var bad int
	switch {
	case p == AVX2 && block == 32:
		bad = quantise32AVX2(&x[0], &q[0], w*block, &d[0], 4*w, &raw[0], nb)
	case p == AVX2:
		bad = quantise256AVX2(&x[0], &q[0], w*block, &d[0], 4*w, &raw[0], nb)
	case block == 32:
		bad = quantise32AVX512(&x[0], &q[0], w*block, &d[0], 4*w, &raw[0], nb)
	default:
		bad = quantise256AVX512(&x[0], &q[0], w*block, &d[0], 4*w, &raw[0], nb)
	}
	return bad == 0
}
