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
		base, width := b[0], int(b[1])
		if width > 8 {
			return nil, errPacking
		}
		low := b[2:]
		b = low
		size := 3*k + (k*width+7)/8
		if len(b) < size {
			return nil, fmt.Errorf("the proof ends %d bytes too early", size-len(b))
		}
		// Of eight floats the differences are spread, from width bits each to a byte
		// each: halves, quarters, eighths.
		w := uint(width) & 15 // a bound that the compiler sees, for the shifts
		mask := uint64(1)<<w - 1
		four := uint64(1)<<(4*w) - 1
		two := (1<<(2*w) - 1) * uint64(1<<32|1)
		one := mask * (1<<48 | 1<<32 | 1<<16 | 1)
		var any, zero uint64 // any has the bits of all differences, zero its high bits if one is 0
		to, at := leaf[:4*k], 3*k
		for ; len(to) >= 32; at += width { // eight floats have width bytes of differences
			d := load(b[at:])
			d = d&four | d>>(4*w)&four<<32
			d = d&two | d<<(16-2*w)&(two<<16)
			d = d&one | d<<(8-w)&(one<<8)
			any |= d
			zero |= (d - bytes01) &^ d & bytes80
			if uint64(base) < mask && above(d, base) {
				return nil, errPacking
			}
			e := uint64(base)*bytes01 - d
			binary.LittleEndian.PutUint64(to, join(binary.LittleEndian.Uint64(low), e))
			binary.LittleEndian.PutUint64(to[8:], join(binary.LittleEndian.Uint64(low[6:]), e>>16))
			binary.LittleEndian.PutUint64(to[16:], join(binary.LittleEndian.Uint64(low[12:]), e>>32))
			binary.LittleEndian.PutUint64(to[24:32], join(binary.LittleEndian.Uint64(low[16:24])>>16, e>>48))
			to, low = to[32:], low[24:]
		}
		if len(to) > 0 {
			acc := load(b[at:size])
			for ; len(to) > 0; to, low = to[4:], low[3:] {
				d := acc & mask
				acc >>= w
				any |= d
				if d == 0 {
					zero = 1
				}
				if d > uint64(base) {
					return nil, errPacking
				}
				binary.LittleEndian.PutUint32(to, uint32(join(uint64(low[0])|uint64(low[1])<<8|uint64(low[2])<<16, uint64(base)-d)))
			}
			if acc != 0 {
				return nil, errPacking
			}
		}
		any |= any >> 32
		any |= any >> 16
		any |= any >> 8
		if bits.Len8(byte(any)) != width || zero == 0 {
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

// above reports whether one of the eight bytes of d is larger than base.
func above(d uint64, base byte) bool {
	for ; d != 0; d >>= 8 {
		if byte(d) > base {
			return true
		}
	}
	return false
}

// join makes two floats of the lowest 48 bits of x, mantissa and sign of each, and
// the two lowest bytes of e, their exponents.
func join(x, e uint64) uint64 {
	return x&0x7fffff | x<<8&0x7fffff80000000 | x<<16&(1<<63) | e&0xff<<23 | e>>8&0xff<<55
}
