package kernel

import "unsafe"

// Mul multiplies the row groups [begin, end) of m with every input:
//
//	dst[i·ldd + r] = Σ_c m[r][c] · input i [c]
//
// for the rows r of those groups, by arith.Dot's sequence of roundings. dst
// needs room for the padded rows of the last group. input must have been Reset
// with m. Disjoint ranges may be computed concurrently.
func (m *Matrix) Mul(dst []float32, ldd int, input *Input, begin, end int) {
	if begin >= end {
		return
	}
	in := input.of(m)
	_ = dst[(in.n-1)*ldd+end*GroupRows-1]
	if m.path == Generic {
		m.mulGeneric(dst, ldd, in, begin, end)
		return
	}
	var sums []byte
	per := 0
	if in.block != 0 {
		sums, per = in.sums[m.sums], m.sums.bytesPerBlock()
	}
	// The weights of a few groups stay in the L1 and L2 caches while the tiles
	// of inputs pass by.
	const step = 4
	for g := begin; g < end; g += step {
		ng := min(step, end-g)
		if in.n == 1 {
			ng = end - g
		}
		w := unsafe.Pointer(&m.data[g*m.blocks*m.blockBytes])
		for first := 0; first < in.n; {
			width := 8
			for width > in.n-first {
				width /= 2
			}
			o := unsafe.Pointer(&dst[first*ldd+g*GroupRows])
			if in.block == 0 {
				mulFloat(m.path, m.Format, width, o, ldd, w, m.Cols, ng, unsafe.Pointer(&in.x[first*m.Cols]))
			} else {
				var c unsafe.Pointer
				if per > 0 {
					c = unsafe.Pointer(&sums[first*m.blocks*per])
				}
				mulQuant(m.path, m.Format, width, o, ldd, w, m.blocks, ng,
					unsafe.Pointer(&in.q[first*m.Cols]), unsafe.Pointer(&in.d[first*m.blocks]), c)
			}
			first += width
		}
		if in.n == 1 {
			return
		}
	}
}
