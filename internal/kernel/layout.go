package kernel

import (
	"github.com/geistnet/geist/arith"
)

// GroupRows is the number of weight rows interleaved in a packed group. One
// SIMD lane owns one output row, so no kernel ever adds across lanes.
const GroupRows = 16

// layout says how one block of GroupRows rows is packed, in this order:
//
//	d       16 × f16                     block scales
//	dm      16 × f16                     signed factor of the minima (minima formats)
//	sc      [block/sub][16] × int8       sub-block scales (256-blocks)
//	mn      [block/sub/2][16][2] × uint8 sub-block minima (256-blocks with minima)
//	planes  64-byte vectors of packed codes
//
// A plane of b bits holds 8/b groups of four columns in one vector: byte
// 4·row+column of vector v keeps, at bit b·s, the bits of column group
// v·(8/b)+s. A code is the sum of its planes' bits, lowest plane first.
type layout struct {
	block  int   // columns in a block: 32 or 256
	sub    int   // columns in a sub-block: 16 or 32
	planes []int // bits of each plane
	bias   int   // a stored code is the weight's code plus this
	min    bool
}

func layoutOf(f arith.Format, signed8 bool) layout {
	switch f {
	case arith.Q8_0:
		if signed8 {
			return layout{32, 32, []int{8}, 0, false}
		}
		return layout{32, 32, []int{8}, 128, false}
	case arith.Q4_0:
		return layout{32, 32, []int{4}, 8, false}
	case arith.IQ4NL: // codes index the codebook; the bias is the codebook's
		if signed8 {
			return layout{32, 32, []int{4}, 0, false}
		}
		return layout{32, 32, []int{4}, 128, false}
	case arith.Q4_1:
		return layout{32, 32, []int{4}, 0, true}
	case arith.Q5_0:
		return layout{32, 32, []int{4, 1}, 16, false}
	case arith.Q5_1:
		return layout{32, 32, []int{4, 1}, 0, true}
	case arith.Q2_K:
		return layout{256, 16, []int{2}, 0, true}
	case arith.Q3_K:
		return layout{256, 16, []int{2, 1}, 4, false}
	case arith.Q4_K:
		return layout{256, 32, []int{4}, 0, true}
	case arith.Q5_K:
		return layout{256, 32, []int{4, 1}, 0, true}
	case arith.Q6_K:
		return layout{256, 16, []int{4, 2}, 32, false}
	}
	panic("kernel: internal error: no packed layout for " + f.String())
}

// offsets of the parts of a packed block, in bytes.
type offsets struct {
	dm, sc, mn int
	planes     [2]int
	size       int
}

func (l layout) offsets() (o offsets) {
	n := 32
	if l.min {
		o.dm = n
		n += 32
	}
	if l.block == 256 {
		o.sc = n
		n += l.block / l.sub * GroupRows
		if l.min {
			o.mn = n
			n += l.block / l.sub * GroupRows
		}
	}
	for i, b := range l.planes {
		o.planes[i] = n
		n += l.block * GroupRows * b / 8
	}
	o.size = n
	return o
}
