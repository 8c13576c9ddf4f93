//go:build amd64 && !purego

package kernel

import (
	"math/bits"

	"github.com/geistnet/geist/arith"
)

// vectors reports whether the methods of this file serve the path. Lengths that
// they take are multiples of 16.
func (p Path) vectors() bool { return p == AVX512 }

func (Path) sumSquaresAsm(x []float32) float32 { return sumSquaresAVX512(&x[0], len(x)/16) }

func (Path) scaleMulAsm(dst, x, w []float32, r float32) {
	scaleMulAVX512(&dst[0], &x[0], &w[0], r, len(x)/16)
}

func (Path) addAsm(dst, x []float32) { addAVX512(&dst[0], &x[0], len(x)/16) }

func (Path) gateAsm(g Gate, dst, x, u []float32) {
	if g == GELU {
		geluAVX512(&dst[0], &x[0], &u[0], len(x)/16)
	} else {
		siluAVX512(&dst[0], &x[0], &u[0], len(x)/16)
	}
}

func rounds(kv arith.KV) int {
	if kv == arith.KVF16 {
		return 1
	}
	return 0
}

func (Path) scaleRoundAsm(x []float32, scale float32, kv arith.KV) {
	scaleRoundAVX512(&x[0], scale, rounds(kv), len(x)/16)
}

func (Path) rotateAsm(x []float32, heads, hd int, r *Rotation, neox bool) bool {
	switch n := len(r.cos); {
	case neox && n%16 == 0:
		ropeNeoxAVX512(&x[0], heads, hd, &r.cos[0], &r.sin[0], n/16)
	case !neox && n%8 == 0:
		ropeNormAVX512(&x[0], heads, hd, &r.cos2[0], &r.sin2[0], n/8)
	default:
		return false
	}
	return true
}

func (Path) toF16Asm(dst []uint16, src []float32) { toF16AVX512(&dst[0], &src[0], len(src)/16) }

func (Path) maxChunkAsm(s []float32, mask uint64, top float32) float32 {
	return maxChunkAVX512(&s[0], mask, top)
}

func (Path) expChunkAsm(s []float32, mask uint64, top float32, kv arith.KV) float32 {
	return expChunkAVX512(&s[0], mask, top, rounds(kv))
}

var scoreKernels512 = [2][4]func(s *float32, k *byte, q *float32, hd int){
	arith.KVF16: {scoresF16x1AVX512, scoresF16x2AVX512, scoresF16x4AVX512, scoresF16x8AVX512},
	arith.KVF32: {scoresF32x1AVX512, scoresF32x2AVX512, scoresF32x4AVX512, scoresF32x8AVX512},
}

var mixKernels512 = [2][4]func(out *float32, ostride int, p *float32, v *byte, hd16 int, n int){
	arith.KVF16: {mixF16x1AVX512, mixF16x2AVX512, mixF16x4AVX512, mixF16x8AVX512},
	arith.KVF32: {mixF32x1AVX512, mixF32x2AVX512, mixF32x4AVX512, mixF32x8AVX512},
}

func (Path) scoresAsm(kv arith.KV, s []float32, keys []byte, q []float32, hd, w, _ int) {
	scoreKernels512[kv][bits.TrailingZeros(uint(w))](&s[0], &keys[0], &q[0], hd)
}

func (Path) mixAsm(kv arith.KV, out []float32, vd int, s []float32, values []byte, w, n int) {
	mixKernels512[kv][bits.TrailingZeros(uint(w))](&out[0], vd, &s[0], &values[0], vd/16, n)
}

func (Path) quantiseAsm(x []float32, q []int8, d []float32, w, block int, raw []int32) bool {
	f := quantise32AVX512
	if block == 256 {
		f = quantise256AVX512
	}
	return f(&x[0], &q[0], w*block, &d[0], 4*w, &raw[0], len(x)/block) == 0
}
