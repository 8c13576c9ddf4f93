package kernel

import (
	"encoding/binary"

	"github.com/geistnet/geist/arith"
)

// Matrix is a weight matrix of Rows × Cols in packed form.
type Matrix struct {
	Format     arith.Format
	Rows, Cols int
	path       Path
	sums       sumsKind // what products need besides codes
	blocks     int      // blocks in a row; columns for the float formats
	blockBytes int      // bytes of one packed block of 16 rows
	data       []byte   // [group][block]blockBytes
}

// Groups is the number of groups of GroupRows rows, the last one padded with
// zero rows.
func (m *Matrix) Groups() int { return (m.Rows + GroupRows - 1) / GroupRows }

// Bytes is the size of the packed weights, which one product reads once.
func (m *Matrix) Bytes() int { return len(m.data) }

// PackedBytes is the size of a packed rows × cols matrix of format f.
func PackedBytes(f arith.Format, rows, cols int) int {
	g := (rows + GroupRows - 1) / GroupRows
	if f.ActBlock() == 0 {
		return g * cols * GroupRows * f.BlockBytes()
	}
	return g * (cols / f.BlockLen()) * layoutOf(f, false).offsets().size
}

// NewMatrix returns an unfilled matrix that keeps its packed weights in data,
// which has PackedBytes(f, rows, cols) bytes, is zero, and stays the matrix's
// own. Fill it with Pack. path decides how some formats are packed.
func NewMatrix(path Path, f arith.Format, rows, cols int, data []byte) *Matrix {
	m := &Matrix{Format: f, Rows: rows, Cols: cols, path: path, data: data}
	if f.ActBlock() == 0 {
		m.blocks, m.blockBytes = cols, GroupRows*f.BlockBytes()
	} else {
		l := layoutOf(f, path.signed8())
		m.blocks, m.blockBytes, m.sums = cols/f.BlockLen(), l.offsets().size, l.sums(path)
	}
	if len(data) != PackedBytes(f, rows, cols) {
		panic("kernel: internal error: packed buffer of the wrong size")
	}
	return m
}

// Pack fills the row groups [begin, end) from src, the whole matrix in its
// GGUF form. Disjoint ranges may be packed concurrently.
func (m *Matrix) Pack(src []byte, begin, end int) {
	rowBytes := m.Format.RowBytes(m.Cols)
	for g := begin; g < end; g++ {
		dst := m.data[g*m.blocks*m.blockBytes:][:m.blocks*m.blockBytes]
		n := min(GroupRows, m.Rows-g*GroupRows)
		rows := src[g*GroupRows*rowBytes:][:n*rowBytes]
		if m.Format.ActBlock() == 0 {
			packFloat(dst, rows, n, m.Cols, m.Format.BlockBytes())
			continue
		}
		m.packQuantised(dst, rows, n, rowBytes)
	}
}

func packFloat(dst, rows []byte, n, cols, size int) {
	if size == 4 {
		for r := range n {
			row := rows[r*cols*4:][:cols*4]
			for c := range cols {
				binary.LittleEndian.PutUint32(dst[(c*GroupRows+r)*4:], binary.LittleEndian.Uint32(row[c*4:]))
			}
		}
		return
	}
	for r := range n {
		row := rows[r*cols*2:][:cols*2]
		for c := range cols {
			binary.LittleEndian.PutUint16(dst[(c*GroupRows+r)*2:], binary.LittleEndian.Uint16(row[c*2:]))
		}
	}
}

func (m *Matrix) packQuantised(dst, rows []byte, n, rowBytes int) {
	l := layoutOf(m.Format, m.path.signed8())
	o := l.offsets()
	size := m.Format.BlockBytes()
	var codes [256]byte
	for b := range m.blocks {
		d := dst[b*m.blockBytes:][:m.blockBytes]
		for r := range n {
			src := rows[r*rowBytes+b*size:][:size]
			unpackScales(m.Format, l, o, d, r, src)
			unpackCodes(m.Format, src, &codes, m.path.signed8())
			putCodes(l, o, d, r, &codes)
		}
		if l.block == 32 && m.Format == arith.Q8_0 && l.bias != 0 {
			// Rows beyond the matrix hold zero codes with a zero scale.
			for r := n; r < GroupRows; r++ {
				clear(codes[:])
				putCodes(l, o, d, r, &codes)
			}
		}
	}
}

// unpackScales writes row r's scales and minima of one block.
func unpackScales(f arith.Format, l layout, o offsets, d []byte, r int, src []byte) {
	put := func(at int, h []byte, neg bool) {
		v := binary.LittleEndian.Uint16(h)
		if neg {
			v ^= 0x8000
		}
		binary.LittleEndian.PutUint16(d[at+2*r:], v)
	}
	nsub := l.block / l.sub
	setMin := func(j int, v byte) { d[o.mn+j/2*2*GroupRows+2*r+j%2] = v }
	switch f {
	case arith.Q8_0, arith.Q4_0, arith.IQ4NL, arith.Q5_0:
		put(0, src, false)
	case arith.Q4_1, arith.Q5_1:
		put(0, src, false)
		put(o.dm, src[2:], false)
	case arith.Q2_K:
		put(0, src[80:], false)
		put(o.dm, src[82:], true)
		for j := range nsub {
			d[o.sc+j*GroupRows+r] = src[j] & 15
			setMin(j, src[j]>>4)
		}
	case arith.Q3_K:
		put(0, src[108:], false)
		s := src[96:108]
		for j := range nsub {
			v := s[j%8]>>(j/8*4)&15 | s[8+j%4]>>(j/4*2)&3<<4
			d[o.sc+j*GroupRows+r] = v - 32
		}
	case arith.Q4_K, arith.Q5_K:
		put(0, src, false)
		put(o.dm, src[2:], true)
		s := src[4:16]
		for j := range 4 {
			d[o.sc+j*GroupRows+r] = s[j] & 63
			setMin(j, s[j+4]&63)
			d[o.sc+(j+4)*GroupRows+r] = s[j+8]&15 | s[j]>>6<<4
			setMin(j+4, s[j+8]>>4|s[j+4]>>6<<4)
		}
	case arith.Q6_K:
		put(0, src[208:], false)
		for j := range nsub {
			d[o.sc+j*GroupRows+r] = src[192+j]
		}
	}
}

// unpackCodes writes one block's stored codes, bias included, in column order.
func unpackCodes(f arith.Format, src []byte, q *[256]byte, signed8 bool) {
	switch f {
	case arith.Q8_0:
		copy(q[:32], src[2:34])
		if !signed8 {
			for i := range 32 {
				q[i] ^= 0x80
			}
		}
	case arith.Q4_0, arith.IQ4NL, arith.Q4_1:
		s := src[2:18]
		if f == arith.Q4_1 {
			s = src[4:20]
		}
		for i, v := range s {
			q[i], q[i+16] = v&15, v>>4
		}
	case arith.Q5_0, arith.Q5_1:
		s := src[2:22]
		if f == arith.Q5_1 {
			s = src[4:24]
		}
		h := binary.LittleEndian.Uint32(s)
		for i, v := range s[4:] {
			q[i] = v&15 | byte(h>>i&1)<<4
			q[i+16] = v>>4 | byte(h>>(i+16)&1)<<4
		}
	case arith.Q2_K:
		for n := range 2 {
			for i, v := range src[16+32*n : 48+32*n] {
				for j := range 4 {
					q[128*n+32*j+i] = v >> (2 * j) & 3
				}
			}
		}
	case arith.Q3_K:
		for n := range 2 {
			for i, v := range src[32+32*n : 64+32*n] {
				for j := range 4 {
					q[128*n+32*j+i] = v>>(2*j)&3 | src[i]>>(4*n+j)&1<<2
				}
			}
		}
	case arith.Q4_K, arith.Q5_K:
		s := src[16:]
		if f == arith.Q5_K {
			s = src[48:]
		}
		for n := range 4 {
			for i, v := range s[32*n : 32*n+32] {
				q[64*n+i], q[64*n+32+i] = v&15, v>>4
			}
		}
		if f == arith.Q5_K {
			for i, v := range src[16:48] {
				for j := range 8 {
					q[32*j+i] |= v >> j & 1 << 4
				}
			}
		}
	case arith.Q6_K:
		for n := range 2 {
			for i, h := range src[128+32*n : 160+32*n] {
				a, b := src[64*n+i], src[64*n+32+i]
				q[128*n+i] = a&15 | h&3<<4
				q[128*n+32+i] = b&15 | h>>2&3<<4
				q[128*n+64+i] = a>>4 | h>>4&3<<4
				q[128*n+96+i] = b>>4 | h>>6&3<<4
			}
		}
	}
}

// putCodes writes row r's codes of one block into the planes, which are zero
// there.
func putCodes(l layout, o offsets, d []byte, r int, q *[256]byte) {
	low := 0
	for i, b := range l.planes {
		p := d[o.planes[i]:]
		switch b {
		case 8:
			for g := range l.block / 4 {
				copy(p[64*g+4*r:][:4], q[4*g:4*g+4])
			}
		default:
			per := 8 / b
			mask := uint32(1<<b-1) * 0x01010101
			for v := range l.block / 4 / per {
				var x uint32
				for s := range per {
					c := binary.LittleEndian.Uint32(q[4*(v*per+s):])
					x |= c >> low & mask << (b * s)
				}
				binary.LittleEndian.PutUint32(p[64*v+4*r:], x)
			}
		}
		low += b
	}
}
