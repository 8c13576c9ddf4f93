package arith

import (
	"encoding/binary"
	"math"
)

// block is one block of quantised weights taken apart. Its value i is
// d·sc[i/sub]·q[i] + dm·mn[i/sub], where dm carries the sign that the format
// gives its minimum.
type block struct {
	n      int // values in the block
	sub    int // values per sub-block
	d, dm  float32
	hasMin bool
	q      [256]int8
	sc, mn [16]int32
}

func half(b []byte) float32 { return F16ToF32(binary.LittleEndian.Uint16(b)) }

// IQ4NLValues is the codebook of IQ4_NL.
var IQ4NLValues = [16]int8{-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113}

// kScale6 unpacks the j-th of eight 6-bit scales and minima of Q4_K and Q5_K
// from their 12 bytes.
func kScale6(s []byte, j int) (sc, mn int32) {
	if j < 4 {
		return int32(s[j] & 63), int32(s[j+4] & 63)
	}
	return int32(s[j+4]&15 | s[j-4]>>6<<4), int32(s[j+4]>>4 | s[j]>>6<<4)
}

// unpack takes one block of format f apart (spec §4.2; the byte layouts are
// those of the GGUF specification).
func (k *block) unpack(f Format, b []byte) {
	k.n, k.sub, k.hasMin = f.BlockLen(), 32, false
	k.sc[0], k.mn[0] = 1, 1
	switch f {
	case Q8_0:
		k.d = half(b)
		for i := range 32 {
			k.q[i] = int8(b[2+i])
		}
	case Q4_0, IQ4NL:
		k.d = half(b)
		for i := range 16 {
			lo, hi := b[2+i]&15, b[2+i]>>4
			if f == IQ4NL {
				k.q[i], k.q[i+16] = IQ4NLValues[lo], IQ4NLValues[hi]
			} else {
				k.q[i], k.q[i+16] = int8(lo)-8, int8(hi)-8
			}
		}
	case Q4_1:
		k.d, k.dm, k.hasMin = half(b), half(b[2:]), true
		for i := range 16 {
			k.q[i], k.q[i+16] = int8(b[4+i]&15), int8(b[4+i]>>4)
		}
	case Q5_0, Q5_1:
		o, bias := 2, int8(16)
		k.d = half(b)
		if f == Q5_1 {
			o, bias = 4, 0
			k.dm, k.hasMin = half(b[2:]), true
		}
		h := binary.LittleEndian.Uint32(b[o:])
		for i := range 16 {
			v := b[o+4+i]
			k.q[i] = int8(v&15|byte(h>>i&1)<<4) - bias
			k.q[i+16] = int8(v>>4|byte(h>>(i+16)&1)<<4) - bias
		}
	case Q2_K: // scales 16, codes 64, d, dmin
		k.sub, k.hasMin = 16, true
		k.d, k.dm = half(b[80:]), -half(b[82:])
		for j := range 16 {
			k.sc[j], k.mn[j] = int32(b[j]&15), int32(b[j]>>4)
		}
		for i := range 256 {
			k.q[i] = int8(b[16+i/128*32+i%32] >> (i % 128 / 32 * 2) & 3)
		}
	case Q3_K: // high bits 32, codes 64, scales 12, d
		k.sub = 16
		k.d = half(b[108:])
		s := b[96:108]
		for j := range 16 {
			lo := s[j%8] >> (j / 8 * 4) & 15
			hi := s[8+j%4] >> (j / 4 * 2) & 3
			k.sc[j] = int32(lo|hi<<4) - 32
		}
		for i := range 256 {
			lo := b[32+i/128*32+i%32] >> (i % 128 / 32 * 2) & 3
			hi := b[i%32] >> (i / 32) & 1
			k.q[i] = int8(lo|hi<<2) - 4
		}
	case Q4_K, Q5_K: // d, dmin, scales 12, (high bits 32,) codes 128
		k.hasMin = true
		k.d, k.dm = half(b), -half(b[2:])
		for j := range 8 {
			k.sc[j], k.mn[j] = kScale6(b[4:16], j)
		}
		o := 16
		if f == Q5_K {
			o = 48
		}
		for i := range 256 {
			v := b[o+i/64*32+i%32] >> (i % 64 / 32 * 4) & 15
			if f == Q5_K {
				v |= b[16+i%32] >> (i / 32) & 1 << 4
			}
			k.q[i] = int8(v)
		}
	case Q6_K: // low 128, high 64, scales 16, d
		k.sub = 16
		k.d = half(b[208:])
		for j := range 16 {
			k.sc[j] = int32(int8(b[192+j]))
		}
		for i := range 256 {
			lo := b[i/128*64+i%64] >> (i % 128 / 64 * 4) & 15
			hi := b[128+i/128*32+i%32] >> (i % 128 / 32 * 2) & 3
			k.q[i] = int8(lo|hi<<4) - 32
		}
	default:
		panic("arith: internal error: unpack of " + f.String())
	}
}

// Dot is the product of one row of weights in format f with the activations
// (spec §4.3). row holds len/BlockLen blocks. a must have been made with
// Quantize(x, f.ActBlock()).
//
// For the float formats each product and each sum is rounded, in ascending
// order. For the others the block sums S = Σ sc·Σ q·x and M = Σ mn·Σ x are
// exact integers and
//
//	acc ← acc + (S·d [+ M·dm])·dx
//
// with every operation rounded, blocks ascending.
func Dot(f Format, row []byte, a Activations) float32 {
	var acc float32
	switch f {
	case F32:
		for i, x := range a.X {
			acc += float32(math.Float32frombits(binary.LittleEndian.Uint32(row[4*i:])) * x)
		}
		return acc
	case F16:
		for i, x := range a.X {
			acc += float32(half(row[2*i:]) * x)
		}
		return acc
	case BF16:
		for i, x := range a.X {
			acc += float32(BF16ToF32(binary.LittleEndian.Uint16(row[2*i:])) * x)
		}
		return acc
	case Q8_0:
		return dotQ8_0(row, a)
	case Q4_0:
		return dotQ4_0(row, a)
	case Q4_K:
		return dotQ4_K(row, a)
	}
	return dotBlocks(f, row, a)
}

// dotBlocks is Dot for every format in blocks.
func dotBlocks(f Format, row []byte, a Activations) float32 {
	var acc float32
	var k block
	n, size := f.BlockLen(), f.BlockBytes()
	for b := range a.D {
		k.unpack(f, row[b*size:(b+1)*size])
		var s, m int32
		for j := range n / k.sub {
			var is, xs int32
			for i := j * k.sub; i < (j+1)*k.sub; i++ {
				x := int32(a.Q[b*n+i])
				is += int32(k.q[i]) * x
				xs += x
			}
			s += k.sc[j] * is
			m += k.mn[j] * xs
		}
		t := float32(float32(s) * k.d)
		if k.hasMin {
			t += float32(float32(m) * k.dm)
		}
		acc += float32(t * a.D[b])
	}
	return acc
}

// Dequantize writes the values that a row of format f stands for, as an
// embedding lookup reads them (spec §4.4): d·(sc·q) + dm·mn, each operation
// rounded. len(dst) is a multiple of f.BlockLen.
func Dequantize(dst []float32, f Format, row []byte) {
	switch f {
	case F32:
		for i := range dst {
			dst[i] = math.Float32frombits(binary.LittleEndian.Uint32(row[4*i:]))
		}
		return
	case F16:
		for i := range dst {
			dst[i] = half(row[2*i:])
		}
		return
	case BF16:
		for i := range dst {
			dst[i] = BF16ToF32(binary.LittleEndian.Uint16(row[2*i:]))
		}
		return
	}
	var k block
	n, size := f.BlockLen(), f.BlockBytes()
	for b := range len(dst) / n {
		k.unpack(f, row[b*size:(b+1)*size])
		for i := range n {
			j := i / k.sub
			v := float32(k.d * float32(k.sc[j]*int32(k.q[i])))
			if k.hasMin {
				v += float32(k.dm * float32(k.mn[j]))
			}
			dst[b*n+i] = v
		}
	}
}
