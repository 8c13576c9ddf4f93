package arith

import "math"

// Activations is one row of matmul input, quantised as the weights' format
// asks (spec §4.1).
type Activations struct {
	Block int       // values per scale: 32, 256, or 0 for plain float32
	X     []float32 // the row itself; used when Block is 0
	Q     []int8    // codes in [-127, 127]
	D     []float32 // one scale per block
}

// minScaled is the least block maximum that is quantised; below it a block's
// codes and scale are zero. It keeps the scale normal and its inverse finite.
const minScaled = 0x1p-100

// Quantize quantises x in blocks of block values: with m the largest
// magnitude of a block, scale = m/127 and code = round-to-even(x·(1/scale)), so
// that a code can be checked from its value and the scale alone.
// block is 32 or 256 and divides len(x); block 0 keeps x as it is.
// ok is false if x holds an infinity or a NaN.
func Quantize(x []float32, block int) (a Activations, ok bool) {
	a.Block, ok = block, true
	if block == 0 {
		a.X = x
		for _, v := range x {
			ok = ok && Finite(v)
		}
		return a, ok
	}
	a.Q = make([]int8, len(x))
	a.D = make([]float32, len(x)/block)
	for b := range a.D {
		xb, qb := x[b*block:(b+1)*block], a.Q[b*block:(b+1)*block]
		var m uint32 // magnitudes compare as integers, and a NaN above them all
		for _, v := range xb {
			m = max(m, math.Float32bits(v)&^(1<<31))
		}
		am := math.Float32frombits(m)
		if m >= 0x7f800000 {
			ok = false
		}
		if !(am >= minScaled) || !ok {
			continue
		}
		a.D[b] = am / 127
		inv := 1 / a.D[b]
		qb = qb[:len(xb)]
		for i, v := range xb {
			qb[i] = int8(int32(math.Float32bits(float32(v*inv)+roundMagic)) - roundMagicBits)
		}
	}
	return a, ok
}

// Code is the code of x in a block of scale d. It lies outside [-127, 127], or
// d does not belong to a block with x, where |x| exceeds the block's largest
// magnitude by more than rounding.
func Code(x, d float32) int32 {
	if d == 0 {
		if abs(x) < minScaled {
			return 0
		}
		return 128
	}
	y := float32(x * (1 / d))
	if !(abs(y) < 128) {
		return 128
	}
	return int32(math.Float32bits(y+roundMagic)) - roundMagicBits
}
