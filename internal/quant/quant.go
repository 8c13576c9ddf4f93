// Package quant turns float32 weights into the formats of package arith and
// back, for making models and for changing the format of existing ones.
//
// Byte layouts are those of the GGUF specification. How a block's scale and
// minimum are chosen is this package's own: it keeps the mean squared error
// low and takes every weight for equally important. Values are rounded against
// the scale as it is stored, not against the one that was wished for.
//
// The bytes are the same on every machine: no product is fused with a sum.
package quant

import (
	"encoding/binary"
	"fmt"
	"math"

	"github.com/geistnet/geist/arith"
)

// maxBlock is above what any block of integers can stand for, which is
// 65504·128·32 for Q6_K, and low enough that sums of squares stay finite.
const maxBlock = 1e9

// Row writes src in format f to dst. src may be a row or a whole tensor: its
// length is a multiple of f.BlockLen, that of dst is f.RowBytes(len(src)). The
// weights must be finite and not so large that a block's scale would overflow.
// After an error dst holds part of the result.
func Row(dst []byte, f arith.Format, src []float32) error {
	if err := checkLengths(len(dst), f, len(src)); err != nil {
		return err
	}
	n, size := f.BlockLen(), f.BlockBytes()
	most := float32(math.MaxFloat32)
	if n == 1 { // one call for all
		n, size = len(src), len(dst)
	} else {
		most = maxBlock
	}
	for i, x := range src { // infinity and NaN have higher bits than any number
		if math.Float32bits(x)&^(1<<31) > math.Float32bits(most) {
			return fmt.Errorf("quant: weight %d is %v, too large for %s", i, x, f)
		}
	}
	encode := encoder(f)
	for i := 0; i < len(src); i += n {
		if !encode(dst[:size], src[i:i+n]) {
			return fmt.Errorf("quant: weights %d to %d are too large for %s", i, i+n-1, f)
		}
		dst = dst[size:]
	}
	return nil
}

// Dequantize writes the values that src, blocks of format f, stands for, as
// arith.Dequantize defines them: for the K-quants d·sc·q − dmin·m, each
// operation rounded to float32. len(dst) is a multiple of f.BlockLen.
func Dequantize(dst []float32, f arith.Format, src []byte) error {
	if err := checkLengths(len(src), f, len(dst)); err != nil {
		return err
	}
	arith.Dequantize(dst, f, src)
	return nil
}

func checkLengths(bytes int, f arith.Format, weights int) error {
	switch {
	case !f.Known():
		return fmt.Errorf("quant: %v is not supported", f)
	case weights%f.BlockLen() != 0:
		return fmt.Errorf("quant: %d weights are not whole %s blocks of %d", weights, f, f.BlockLen())
	case bytes != f.RowBytes(weights):
		return fmt.Errorf("quant: %d bytes for %d weights of %s; it takes %d", bytes, weights, f, f.RowBytes(weights))
	}
	return nil
}

// encoder returns the function that writes one block, or any number of weights
// for the float formats. It returns false if a number overflows.
func encoder(f arith.Format) func([]byte, []float32) bool {
	switch f {
	case arith.F32:
		return encodeF32
	case arith.F16:
		return encodeF16
	case arith.BF16:
		return encodeBF16
	case arith.Q8_0:
		return encodeQ8
	case arith.Q4_0:
		return encodeQ40
	case arith.Q4_1:
		return encodeQ41
	case arith.Q5_0:
		return encodeQ50
	case arith.Q5_1:
		return encodeQ51
	case arith.IQ4NL:
		return encodeIQ4NL
	case arith.Q2_K:
		return encodeQ2K
	case arith.Q3_K:
		return encodeQ3K
	case arith.Q4_K:
		return encodeQ4K
	case arith.Q5_K:
		return encodeQ5K
	case arith.Q6_K:
		return encodeQ6K
	}
	panic("quant: internal error: no encoder for " + f.String())
}

func encodeF32(dst []byte, x []float32) bool {
	for i, v := range x {
		binary.LittleEndian.PutUint32(dst[4*i:], math.Float32bits(v))
	}
	return true
}

func encodeF16(dst []byte, x []float32) bool {
	ok := true
	for i, v := range x {
		h := arith.F32ToF16(v)
		ok = ok && h&0x7fff < 0x7c00
		binary.LittleEndian.PutUint16(dst[2*i:], h)
	}
	return ok
}

func encodeBF16(dst []byte, x []float32) bool {
	ok := true
	for i, v := range x {
		h := arith.F32ToBF16(v)
		ok = ok && h&0x7fff < 0x7f80
		binary.LittleEndian.PutUint16(dst[2*i:], h)
	}
	return ok
}

// putHalf stores v as a half and returns what it became; infinite if v is too
// large.
func putHalf(dst []byte, v float32) float32 {
	h := arith.F32ToF16(v)
	binary.LittleEndian.PutUint16(dst, h)
	return arith.F16ToF32(h)
}

// inverse is 1/v, and 0 for 0: a block with scale 0 has all codes at zero. It
// is finite because v is a half times an integer.
func inverse(v float32) float32 {
	if v == 0 {
		return 0
	}
	return 1 / v
}

// nearest rounds to an integer, ties to even, if |v| is below 2²². That holds
// for weights over a scale that was made for them. Where v is larger, because
// the rounding of a minimum moved the weights by as many scales, the result is
// any integer, and it does not matter which code it is clamped to.
func nearest(v float32) int32 {
	const magic = 12582912 // 1.5·2²³ leaves the integer in the low bits
	return int32(math.Float32bits(v+magic)) - 0x4B400000
}

// code is v·inv rounded and clamped to [lo, hi].
func code(v, inv float32, lo, hi int32) int32 {
	return min(max(nearest(float32(v*inv)), lo), hi)
}

// peak is the value of the largest magnitude, with its sign.
func peak(x []float32) float32 {
	var p, a uint32 // finite magnitudes are ordered as their bits are
	for _, v := range x {
		b := math.Float32bits(v)
		if m := b &^ (1 << 31); m > a {
			p, a = b, m
		}
	}
	return math.Float32frombits(p)
}

// bounds returns the least and the greatest value.
func bounds(x []float32) (lo, hi float32) {
	lo, hi = x[0], x[0]
	for _, v := range x[1:] {
		lo, hi = min(lo, v), max(hi, v)
	}
	return lo, hi
}
