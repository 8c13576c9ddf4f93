package quant

import (
	"encoding/binary"

	"github.com/geistnet/geist/arith"
)

// The blocks of 32 weights, one scale each and for the "_1" formats a minimum:
//
//	Q8_0, Q4_0, IQ4_NL   d | codes
//	Q4_1                 d | m | codes
//	Q5_0                 d | bits u32 | codes
//	Q5_1                 d | m | bits u32 | codes
//
// Scales and minima are halves. Codes of 4 bits: the low half of byte i is
// weight i, the high half weight i+16. Bit i of bits is the fifth bit of
// weight i.

func encodeQ8(dst []byte, x []float32) bool {
	p := peak(x)
	d := putHalf(dst, max(p, -p)/127)
	if !arith.Finite(d) {
		return false
	}
	inv := inverse(d)
	for i, v := range x {
		dst[2+i] = byte(code(v, inv, -127, 127))
	}
	return true
}

// encodeQ40 puts the weight of the largest magnitude on code −8, the only one
// with that magnitude; so d has the opposite sign.
func encodeQ40(dst []byte, x []float32) bool {
	d := putHalf(dst, peak(x)/-8)
	if !arith.Finite(d) {
		return false
	}
	inv := inverse(d)
	for i := range 16 {
		lo, hi := code(x[i], inv, -8, 7)+8, code(x[i+16], inv, -8, 7)+8
		dst[2+i] = byte(lo | hi<<4)
	}
	return true
}

func encodeQ50(dst []byte, x []float32) bool {
	d := putHalf(dst, peak(x)/-16)
	if !arith.Finite(d) {
		return false
	}
	inv := inverse(d)
	var q [32]byte
	for i, v := range x {
		q[i] = byte(code(v, inv, -16, 15) + 16)
	}
	packFive(dst[2:], &q)
	return true
}

func encodeQ41(dst []byte, x []float32) bool {
	var q [32]byte
	if !affine(dst, x, 15, &q) {
		return false
	}
	for i := range 16 {
		dst[4+i] = q[i] | q[i+16]<<4
	}
	return true
}

func encodeQ51(dst []byte, x []float32) bool {
	var q [32]byte
	if !affine(dst, x, 31, &q) {
		return false
	}
	packFive(dst[4:], &q)
	return true
}

// affine stores d and m such that d·q + m covers the weights with q in [0, top].
func affine(dst []byte, x []float32, top int32, q *[32]byte) bool {
	lo, hi := bounds(x)
	d := putHalf(dst, (hi-lo)/float32(top))
	m := putHalf(dst[2:], lo)
	if !arith.Finite(d) || !arith.Finite(m) {
		return false
	}
	inv := inverse(d)
	for i, v := range x {
		q[i] = byte(code(v-m, inv, 0, top))
	}
	return true
}

// packFive stores the fifth bits and then the low four of 32 codes.
func packFive(dst []byte, q *[32]byte) {
	var fifth uint32
	for i, c := range q {
		fifth |= uint32(c>>4) << i
	}
	binary.LittleEndian.PutUint32(dst, fifth)
	for i := range 16 {
		dst[4+i] = q[i]&15 | q[i+16]<<4
	}
}

// encodeIQ4NL tries scales that put the largest magnitude near either end of
// the codebook, fits each by least squares and keeps the best.
func encodeIQ4NL(dst []byte, x []float32) bool {
	var table [256]byte
	iq4nlTable(&table)
	values := &arith.IQ4NLValues
	p := peak(x)
	var best, scale float32
	for _, end := range [...]float32{-141, -134, -127, -120, -113, 101, 107, 113, 119, 125} {
		inv := end / p
		if !arith.Finite(inv) { // all weights are zero or next to it
			break
		}
		var xq float32
		var qq int32
		for _, v := range x {
			q := values[table[code(v, inv, -128, 127)+128]]
			xq += float32(v * float32(q))
			qq += int32(q) * int32(q)
		}
		// Σ(x−s·q)² is least at s = xq/qq, where it is Σx² − xq²/qq.
		if s := xq / float32(qq); float32(xq*s) > best {
			best, scale = float32(xq*s), s
		}
	}
	d := putHalf(dst, scale)
	if !arith.Finite(d) {
		return false
	}
	inv := inverse(d)
	for i := range 16 {
		lo, hi := code(x[i], inv, -128, 127), code(x[i+16], inv, -128, 127)
		dst[2+i] = table[lo+128] | table[hi+128]<<4
	}
	return true
}

// iq4nlTable maps v+128, v in [-128, 127], to the code whose value is nearest.
func iq4nlTable(table *[256]byte) {
	values := &arith.IQ4NLValues
	c := 0
	for v := range table {
		for c < 15 && 2*(v-128) > int(values[c])+int(values[c+1]) {
			c++
		}
		table[v] = byte(c)
	}
}
