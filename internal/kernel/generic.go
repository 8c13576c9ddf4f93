package kernel

import (
	"encoding/binary"
	"math"

	"github.com/geistnet/geist/arith"
)

// mulGeneric is Mul in plain Go, over the packed weights.
func (m *Matrix) mulGeneric(dst []float32, ldd int, in *form, begin, end int) {
	var l layout
	if in.block != 0 {
		l = layoutOf(m.Format, m.path.signed8())
	}
	var codes [GroupRows][256]int8
	var scaled [GroupRows]float32
	for g := begin; g < end; g++ {
		for i := range in.n {
			clear(dst[i*ldd+g*GroupRows:][:GroupRows])
		}
		for b := range m.blocks {
			w := m.data[(g*m.blocks+b)*m.blockBytes:][:m.blockBytes]
			if in.block == 0 {
				m.mulFloatGeneric(dst, ldd, in, g, b, w, &scaled)
				continue
			}
			for r := range codes {
				l.codes(m.Format, w, r, &codes[r])
			}
			for i := range in.n {
				first, width := in.tile(i)
				at := first*m.blocks + b*width + i - first
				q := in.q[at*l.block:][:l.block]
				acc := dst[i*ldd+g*GroupRows:][:GroupRows]
				for r := range acc {
					acc[r] += float32(l.blockDot(w, r, &codes[r], q) * in.d[at])
				}
			}
		}
	}
}

// mulFloatGeneric adds the products of one column to a group's sums.
func (m *Matrix) mulFloatGeneric(dst []float32, ldd int, in *form, g, col int, w []byte, wf *[GroupRows]float32) {
	for r := range wf {
		switch m.Format {
		case arith.F32:
			wf[r] = math.Float32frombits(binary.LittleEndian.Uint32(w[4*r:]))
		case arith.F16:
			wf[r] = arith.F16ToF32(binary.LittleEndian.Uint16(w[2*r:]))
		case arith.BF16:
			wf[r] = arith.BF16ToF32(binary.LittleEndian.Uint16(w[2*r:]))
		}
	}
	for i := range in.n {
		first, width := in.tile(i)
		x := in.x[first*m.Cols+col*width+i-first]
		acc := dst[i*ldd+g*GroupRows:][:GroupRows]
		for r := range acc {
			acc[r] += float32(wf[r] * x)
		}
	}
}

// codes takes row r's codes of one packed block, as signed integers without
// bias.
func (l layout) codes(f arith.Format, w []byte, r int, q *[256]int8) {
	o := l.offsets()
	low := 0
	var v [256]byte
	for i, b := range l.planes {
		per := 8 / b
		p := w[o.planes[i]:]
		for c := range l.block {
			g := c / 4
			v[c] |= p[64*(g/per)+4*r+c%4] >> (g % per * b) & (1<<b - 1) << low
		}
		low += b
	}
	for c := range l.block {
		if f == arith.IQ4NL {
			q[c] = arith.IQ4NLValues[v[c]]
		} else {
			q[c] = int8(v[c]) - int8(l.bias)
		}
	}
}

// blockDot is S·d [+ M·dm] of arith.Dot for one block of row r.
func (l layout) blockDot(w []byte, r int, codes *[256]int8, x []int8) float32 {
	o := l.offsets()
	var s, mn int32
	for j := range l.block / l.sub {
		var is, xs int32
		for c := j * l.sub; c < (j+1)*l.sub; c++ {
			is += int32(codes[c]) * int32(x[c])
			xs += int32(x[c])
		}
		if l.block == 256 {
			is *= int32(int8(w[o.sc+j*GroupRows+r]))
			if l.min {
				xs *= int32(w[o.mn+j/2*2*GroupRows+2*r+j%2])
			}
		}
		s += is
		mn += xs
	}
	t := float32(float32(s) * arith.F16ToF32(binary.LittleEndian.Uint16(w[2*r:])))
	if l.min {
		t += float32(float32(mn) * arith.F16ToF32(binary.LittleEndian.Uint16(w[o.dm+2*r:])))
	}
	return t
}

// EmbedRow writes the values of row r of the matrix m in its GGUF form src.
func EmbedRow(dst []float32, f arith.Format, src []byte, r int) {
	n := f.RowBytes(len(dst))
	arith.Dequantize(dst, f, src[r*n:(r+1)*n])
}
