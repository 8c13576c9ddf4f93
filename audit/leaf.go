package audit

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math/bits"

	"github.com/geistnet/geist/ghost"
)

// Floats of a leaf differ little in their exponents: a proof has them without most
// of these (docs/spec/audit.md §4). 64 floats, or what is left of them, are
//
//	u8 base, the largest exponent ‖ u8 width ‖ 3 bytes each: mantissa, and the sign above it
//	‖ what each exponent is below base, width bits each, the first float's lowest, and bits 0 up to a byte
//
// width is that of the largest of these differences, so that floats have one packing.
//
// Counted on proofs of random models of 8-billion shape, and left out because
// reading them takes longer: the residual stream after attention as differences to
// the one before (2 % of a proof), hidden codes in as few bits as four of them need
// (1 %), exponents in unary (0.5 %).
const packedGroup = 64

// layout is a layer's at a position, and how many floats each leaf begins with.
type layout struct {
	*ghost.Layout
	floats []uint16
}

func layoutOf(m *ghost.Model, l, t int) *layout {
	y := &layout{Layout: m.Layout(l, t)}
	y.floats = make([]uint16, y.Len())
	// Of n bytes of a value the first are floats.
	set := func(v ghost.Value, floatBytes func(n int) int) {
		for i := range y.Count(v) {
			sp := y.Span(v, i)
			n := floatBytes(sp.Bytes)
			for j := range sp.Leaves() {
				y.floats[sp.First+j] = uint16(min(max(n-j*sp.Full, 0), y.LeafLen(sp.First+j)) / 4)
			}
		}
	}
	whole := func(n int) int { return n }
	for _, v := range []ghost.Value{ghost.MaxScore, ghost.OutRaw, ghost.ResidMid, ghost.RouterLogits, ghost.DownRaw, ghost.ResidOut, ghost.MemoryQuery} {
		set(v, whole)
	}
	// An input of a product begins with its scales.
	scales := func(x *ghost.Linear) func(int) int {
		b := m.Tensors[x.Tensor].Format.ActBlock()
		if b == 0 {
			return whole
		}
		return func(n int) int { return n / (4 + b) * 4 }
	}
	z := &m.Layers[l]
	set(ghost.AttnOut, scales(&z.O))
	if len(z.Experts) > 0 {
		set(ghost.Hidden, scales(&z.Experts[0].Down))
	} else {
		set(ghost.Hidden, scales(&z.Down))
	}
	return y
}

// packLeaf appends leaf, of which the first n floats are packed.
func packLeaf(out, leaf []byte, n int) []byte {
	for n > 0 {
		k := min(n, packedGroup)
		var base, least byte = 0, 255
		for i := range k {
			e := byte(binary.LittleEndian.Uint32(leaf[4*i:]) >> 23)
			base, least = max(base, e), min(least, e)
		}
		width := bits.Len8(base - least)
		out = append(out, base, byte(width))
		for i := range k {
			x := binary.LittleEndian.Uint32(leaf[4*i:])
			out = append(out, byte(x), byte(x>>8), byte(x>>16)&0x7f|byte(x>>31<<7))
		}
		var acc uint64
		have := 0
		for i := range k {
			acc |= uint64(base-byte(binary.LittleEndian.Uint32(leaf[4*i:])>>23)) << have
			for have += width; have >= 8; have -= 8 {
				out, acc = append(out, byte(acc)), acc>>8
			}
		}
		if have > 0 {
			out = append(out, byte(acc))
		}
		leaf, n = leaf[4*k:], n-k
	}
	return append(out, leaf...)
}

var errPacking = errors.New("floats are packed in another way than they should be")

// unpackLeaf fills leaf, of which the first n floats are packed, from the beginning
// of b and returns what follows.
func unpackLeaf(leaf, b []byte, n int) (rest []byte, err error) {
	for n > 0 {
		k := min(n, packedGroup)
		if len(b) < 2 {
			return nil, errors.New("the proof ends within floats")
		}
		base, width := uint32(b[0]), int(b[1])
		if width > 8 {
			return nil, errPacking
		}
		low := b[2:]
		b = low
		size := 3*k + (k*width+7)/8
		if len(b) < size {
			return nil, fmt.Errorf("the proof ends %d bytes too early", size-len(b))
		}
		mask := uint32(1)<<width - 1
		// any has all differences; wrong has its highest bit if one is above base,
		// and zero if one is 0.
		var any, wrong, zero uint32
		to, at := leaf[:4*k], 3*k
		w := uint(width) & 15              // bounds that the compiler sees, for the shifts
		for ; len(to) >= 32; at += width { // eight floats have width bytes of differences
			acc := load(b[at:])
			x0, x1, x2 := binary.LittleEndian.Uint64(low), binary.LittleEndian.Uint64(low[8:]), binary.LittleEndian.Uint64(low[16:24])
			d0, d1, d2, d3 := uint32(acc)&mask, uint32(acc>>w)&mask, uint32(acc>>(2*w))&mask, uint32(acc>>(3*w))&mask
			acc >>= 4 * w
			d4, d5, d6, d7 := uint32(acc)&mask, uint32(acc>>w)&mask, uint32(acc>>(2*w))&mask, uint32(acc>>(3*w))&mask
			any |= d0 | d1 | d2 | d3 | d4 | d5 | d6 | d7
			zero |= (d0 - 1) | (d1 - 1) | (d2 - 1) | (d3 - 1) | (d4 - 1) | (d5 - 1) | (d6 - 1) | (d7 - 1)
			d0, d1, d2, d3, d4, d5, d6, d7 = base-d0, base-d1, base-d2, base-d3, base-d4, base-d5, base-d6, base-d7
			wrong |= d0 | d1 | d2 | d3 | d4 | d5 | d6 | d7
			binary.LittleEndian.PutUint64(to, join(uint32(x0), d0)|join(uint32(x0>>24), d1)<<32)
			binary.LittleEndian.PutUint64(to[8:], join(uint32(x0>>48|x1<<16), d2)|join(uint32(x1>>8), d3)<<32)
			binary.LittleEndian.PutUint64(to[16:], join(uint32(x1>>32), d4)|join(uint32(x1>>56|x2<<8), d5)<<32)
			binary.LittleEndian.PutUint64(to[24:32], join(uint32(x2>>16), d6)|join(uint32(x2>>40), d7)<<32)
			to, low = to[32:], low[24:]
		}
		if len(to) > 0 {
			acc := load(b[at:size])
			for ; len(to) > 0; to, low = to[4:], low[3:] {
				d := uint32(acc) & mask
				acc >>= width
				any |= d
				zero |= d - 1
				wrong |= base - d
				binary.LittleEndian.PutUint32(to, uint32(join(uint32(low[0])|uint32(low[1])<<8|uint32(low[2])<<16, base-d)))
			}
			if acc != 0 {
				return nil, errPacking
			}
		}
		if bits.Len32(any) != width || int32(zero) >= 0 || int32(wrong) < 0 {
			return nil, errPacking
		}
		b, leaf, n = b[size:], leaf[4*k:], n-k
	}
	if len(b) < len(leaf) {
		return nil, fmt.Errorf("the proof ends %d bytes too early", len(leaf)-len(b))
	}
	return b[copy(leaf, b):], nil
}

// load reads eight bytes, or what there is.
func load(b []byte) (x uint64) {
	if len(b) >= 8 {
		return binary.LittleEndian.Uint64(b)
	}
	for i, y := range b {
		x |= uint64(y) << (8 * i)
	}
	return x
}

// join makes a float of the lowest 24 bits of x, mantissa and sign, and an exponent.
func join(x, exponent uint32) uint64 {
	return uint64(x&0x7fffff | exponent<<23 | x<<8&0x80000000)
}
