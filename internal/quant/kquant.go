package quant

import (
	"math"

	"github.com/geistnet/geist/arith"
)

// The blocks of 256 weights ("K-quants") are divided into sub-blocks of 16 or
// 32, each with a small integer scale and, but for Q3_K and Q6_K, a small
// integer minimum; one half for all scales and one for all minima follow from
// the largest of each. Layouts, in bytes:
//
//	Q2_K   scales 16 (low half scale, high half minimum) | codes 64 | d | dmin
//	Q3_K   third bits 32 | codes 64 | scales 12 | d
//	Q4_K   d | dmin | scales 12 | codes 128
//	Q5_K   d | dmin | scales 12 | fifth bits 32 | codes 128
//	Q6_K   low 128 | high 64 | scales 16 | d
//
// Codes of 2 bits: byte 32h+i holds, from its low end, weights 128h+i, +32,
// +64, +96. Codes of 4 bits: byte 32g+i holds weights 64g+i and 64g+32+i. A
// plane of single bits: bit k of byte i belongs to weight 32k+i.

// fitScale finds s so that s·q, q in [lo, −lo−1], is close to x: the largest
// magnitude is put near either end of the range in a few ways, each is fitted
// by least squares, and the best is kept. It is 0 where all weights are.
func fitScale(x []float32, lo int32, ends []float32) float32 {
	p := peak(x)
	var best, scale float32
	for _, end := range ends {
		inv := end / p
		if !arith.Finite(inv) {
			break
		}
		var xq float32
		var qq int32
		for _, v := range x {
			q := code(v, inv, lo, -lo-1)
			xq += float32(v * float32(q))
			qq += q * q
		}
		// Σ(x−s·q)² is least at s = xq/qq, where it is Σx² − xq²/qq.
		if s := xq / float32(qq); float32(xq*s) > best {
			best, scale = float32(xq*s), s
		}
	}
	return scale
}

// fitAffine finds s ≥ 0 and m ≥ 0 so that s·q − m, q in [0, top], is close to
// x: ranges of several widths are tried, each fitted by least squares.
func fitAffine(x []float32, top int32, widths []float32) (s, m float32) {
	lo, hi := bounds(x)
	lo = min(lo, 0)
	if !arith.Finite(1/(hi-lo)) || !arith.Finite(hi-lo) {
		return 0, -lo
	}
	var sum float32
	for _, v := range x {
		sum += v
	}
	n, sx := float64(len(x)), float64(sum)
	best := math.Inf(1)
	for _, width := range widths {
		inv := width / (hi - lo)
		var xq float32
		var qs, qq int32
		for _, v := range x {
			q := code(v-lo, inv, 0, top)
			xq += float32(v * float32(q))
			qs += q
			qq += q * q
		}
		sxq, sq, sqq := float64(xq), float64(qs), float64(qq)
		det := float64(n*sqq) - float64(sq*sq)
		a := (float64(n*sxq) - float64(sq*sx)) / det
		b := (float64(sqq*sx) - float64(sq*sxq)) / det
		if det <= 0 || b > 0 {
			// All codes are equal, or only a minimum that is not there would
			// raise the block enough: fit the scale alone.
			a, b = sxq/sqq, 0
		}
		// Σ(x − a·q − b)² without its constant Σx².
		e := float64(a*(float64(a*sqq)-float64(2*sxq))) + float64(b*(float64(n*b)-float64(2*sx))) + float64(2*a*b*sq)
		if a > 0 && e < best {
			best, s, m = e, float32(a), float32(-b)
		}
	}
	return s, m
}

// commonScale stores as a half the unit in which the largest of v is top, and
// sets c to v in that unit. False if it overflows.
func commonScale(dst []byte, v []float32, top int32, c []byte) (float32, bool) {
	var most float32
	for _, s := range v {
		most = max(most, s)
	}
	d := putHalf(dst, most/float32(top))
	inv := inverse(d)
	for j, s := range v {
		c[j] = byte(code(s, inv, 0, top))
	}
	return d, arith.Finite(d)
}

// quantAffine quantises a block of 256 with sub-blocks of sub weights: it
// stores d and dmin and sets the scales and minima, up to topScale, and the
// codes, up to top.
func quantAffine(d, dmin []byte, x []float32, sub int, top, topScale int32, widths []float32, sc, mn *[16]byte, q *[256]byte) bool {
	var ss, ms [16]float32
	subs := 256 / sub
	for j := range subs {
		ss[j], ms[j] = fitAffine(x[j*sub:(j+1)*sub], top, widths)
	}
	ds, ok := commonScale(d, ss[:subs], topScale, sc[:])
	for j := range subs {
		if sc[j] == 0 { // too small a scale to be stored: the minimum is all there is
			var sum float32
			for _, v := range x[j*sub : (j+1)*sub] {
				sum += v
			}
			ms[j] = max(0, -sum/float32(sub))
		}
	}
	dm, ok2 := commonScale(dmin, ms[:subs], topScale, mn[:])
	if !ok || !ok2 {
		return false
	}
	for j := range subs {
		inv := inverse(float32(ds * float32(sc[j])))
		m := float32(dm * float32(mn[j]))
		for i := j * sub; i < (j+1)*sub; i++ {
			q[i] = byte(code(x[i]+m, inv, 0, top))
		}
	}
	return true
}

// quantSymmetric is quantAffine without minima: the scales are signed, in
// [loScale, −loScale−1], and codes are stored with −lo added.
func quantSymmetric(d []byte, x []float32, lo, loScale int32, ends []float32, sc *[16]int32, q *[256]byte) bool {
	var ss [16]float32
	for j := range ss {
		ss[j] = fitScale(x[16*j:16*j+16], lo, ends)
	}
	ds := putHalf(d, peak(ss[:])/float32(loScale))
	if !arith.Finite(ds) {
		return false
	}
	invd := inverse(ds)
	for j, s := range ss {
		sc[j] = code(s, invd, loScale, -loScale-1)
		inv := inverse(float32(ds * float32(sc[j])))
		for i := 16 * j; i < 16*j+16; i++ {
			q[i] = byte(code(x[i], inv, lo, -lo-1) - lo)
		}
	}
	return true
}

func encodeQ2K(dst []byte, x []float32) bool {
	var sc, mn [16]byte
	var q [256]byte
	widths := [...]float32{2.2, 2.5, 2.75, 3, 3.25, 3.5, 3.8}
	if !quantAffine(dst[80:], dst[82:], x, 16, 3, 15, widths[:], &sc, &mn, &q) {
		return false
	}
	for j := range sc {
		dst[j] = sc[j] | mn[j]<<4
	}
	packTwo(dst[16:80], &q)
	return true
}

func encodeQ3K(dst []byte, x []float32) bool {
	var sc [16]int32
	var q [256]byte
	ends := [...]float32{-4.8, -4.4, -4, -3.6, -3.2, 2.7, 3, 3.4, 3.8}
	if !quantSymmetric(dst[108:], x, -4, -32, ends[:], &sc, &q) {
		return false
	}
	plane(dst[:32], &q, 2)
	packTwo(dst[32:96], &q)
	s := dst[96:108]
	clear(s)
	for j, v := range sc {
		c := byte(v + 32)
		s[j%8] |= c & 15 << (j / 8 * 4)
		s[8+j%4] |= c >> 4 << (j / 4 * 2)
	}
	return true
}

func encodeQ4K(dst []byte, x []float32) bool {
	var sc, mn [16]byte
	var q [256]byte
	widths := [...]float32{13, 13.7, 14.4, 15, 15.5, 16.1}
	if !quantAffine(dst, dst[2:], x, 32, 15, 63, widths[:], &sc, &mn, &q) {
		return false
	}
	packScales(dst[4:16], &sc, &mn)
	packFour(dst[16:], &q)
	return true
}

func encodeQ5K(dst []byte, x []float32) bool {
	var sc, mn [16]byte
	var q [256]byte
	widths := [...]float32{29.2, 30, 30.6, 31, 31.5}
	if !quantAffine(dst, dst[2:], x, 32, 31, 63, widths[:], &sc, &mn, &q) {
		return false
	}
	packScales(dst[4:16], &sc, &mn)
	plane(dst[16:48], &q, 4)
	packFour(dst[48:], &q)
	return true
}

func encodeQ6K(dst []byte, x []float32) bool {
	var sc [16]int32
	var q [256]byte
	ends := [...]float32{-32.7, -32.3, -32, -31.6, -31.2, -30.8}
	if !quantSymmetric(dst[208:], x, -32, -128, ends[:], &sc, &q) {
		return false
	}
	for h := range 2 {
		for i := range 64 {
			dst[64*h+i] = q[128*h+i]&15 | q[128*h+64+i]<<4
		}
		for i := range 32 {
			w := q[128*h+i:]
			dst[128+32*h+i] = w[0]>>4 | w[32]>>4<<2 | w[64]>>4<<4 | w[96]>>4<<6
		}
	}
	for j, v := range sc {
		dst[192+j] = byte(v)
	}
	return true
}

// packTwo stores the low two bits of 256 codes in 64 bytes.
func packTwo(dst []byte, q *[256]byte) {
	for h := range 2 {
		for i := range 32 {
			w := q[128*h+i:]
			dst[32*h+i] = w[0]&3 | w[32]&3<<2 | w[64]&3<<4 | w[96]&3<<6
		}
	}
}

// packFour stores the low four bits of 256 codes in 128 bytes.
func packFour(dst []byte, q *[256]byte) {
	for g := range 4 {
		for i := range 32 {
			dst[32*g+i] = q[64*g+i]&15 | q[64*g+32+i]<<4
		}
	}
}

// plane stores one bit of each of 256 codes in 32 bytes.
func plane(dst []byte, q *[256]byte, bit int) {
	for i := range 32 {
		var b byte
		for k := range 8 {
			b |= q[32*k+i] >> bit & 1 << k
		}
		dst[i] = b
	}
}

// packScales stores eight scales and eight minima of 6 bits in 12 bytes: the
// first four of each in the low bits of bytes 0 to 7, the low halves of the
// others in bytes 8 to 11, and their upper two bits on top of bytes 0 to 7.
func packScales(dst []byte, sc, mn *[16]byte) {
	for j := range 4 {
		dst[j] = sc[j] | sc[j+4]>>4<<6
		dst[j+4] = mn[j] | mn[j+4]>>4<<6
		dst[j+8] = sc[j+4]&15 | mn[j+4]&15<<4
	}
}
