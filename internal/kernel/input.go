package kernel

import (
	"encoding/binary"
	"math"
	"unsafe"

	"github.com/geistnet/geist/arith"
)

// sumsKind says which sums of the input's codes a weight format needs beside
// the codes.
type sumsKind int

const (
	sumsNone  sumsKind = iota
	sums8              // 32-blocks: int32 −8·Σq
	sums16             // 32-blocks: int32 −16·Σq
	sums128            // 32-blocks: int32 −128·Σq
	sumsF              // 32-blocks: float32 Σq
	sums16x4           // 256-blocks, each 16: int32 −4·Σq
	sums16x32          // 256-blocks, each 16: int32 −32·Σq
	sums16w            // 256-blocks, each 16: int16 Σq
	sums32w            // 256-blocks, each 32: int16 Σq
	// Of the even and of the odd column pairs, two int16: −8·Σq and so on.
	pairs8     // 32-blocks
	pairs16    // 32-blocks
	pairs16x4  // 256-blocks, each 16
	pairs16x32 // 256-blocks, each 16
	sumsKinds
)

func (l layout) sums(p Path) sumsKind {
	if p == AVX2 && !l.min {
		switch {
		case l.bias == 0:
			return sumsNone
		case l.block == 32:
			return map[int]sumsKind{8: pairs8, 16: pairs16}[l.bias]
		}
		return map[int]sumsKind{4: pairs16x4, 32: pairs16x32}[l.bias]
	}
	switch {
	case l.block == 32 && l.min:
		return sumsF
	case l.block == 32:
		return map[int]sumsKind{0: sumsNone, 8: sums8, 16: sums16, 128: sums128}[l.bias]
	case !l.min && l.bias == 4:
		return sums16x4
	case !l.min:
		return sums16x32
	case l.sub == 16:
		return sums16w
	}
	return sums32w
}

// bytesPerBlock is the room the sums of one block of one row take.
func (k sumsKind) bytesPerBlock() int {
	switch k {
	case sumsNone:
		return 0
	case sums8, sums16, sums128, sumsF, pairs8, pairs16:
		return 4
	case sums16x4, sums16x32, pairs16x4, pairs16x32:
		return 64
	case sums16w:
		return 32
	}
	return 16
}

// Input is a batch of matmul inputs in the forms that the kernels read.
type Input struct {
	n, cols int
	forms   [3]form // of float32 inputs, blocks of 32 and blocks of 256
	used    [3]bool
}

// form is a batch of inputs for formats of one ActBlock: quantised, and
// interleaved in tiles of 8, 4, 2 and 1 rows.
type form struct {
	path Path
	n    int // rows
	cols int
	// block is 32, 256, or 0 for float32 inputs.
	block int
	x     []float32 // block 0: [tile][cols][width]
	q     []int8    // [tile][blocks][width][block]
	d     []float32 // [tile][blocks][width]
	sums  [sumsKinds][]byte
	need  [sumsKinds]bool
}

// formIndex is where Input keeps the form of a block length.
func formIndex(block int) int {
	switch block {
	case 0:
		return 0
	case 32:
		return 1
	}
	return 2
}

// Reset prepares in for n rows of cols values that will meet the matrices ms,
// which all have cols columns. Buffers grow and are kept.
func (in *Input) Reset(n, cols int, ms ...*Matrix) {
	in.n, in.cols = n, cols
	in.used = [3]bool{}
	for _, m := range ms {
		block := m.Format.ActBlock()
		i := formIndex(block)
		if !in.used[i] {
			in.used[i] = true
			in.forms[i].reset(m.path, n, cols, block)
		}
		in.forms[i].expect(m)
	}
}

func (f *form) reset(path Path, n, cols, block int) {
	f.path, f.n, f.cols, f.block = path, n, cols, block
	f.need = [sumsKinds]bool{}
	if block == 0 {
		f.x = grow(f.x, n*cols)
		return
	}
	f.q = grow(f.q, n*cols)
	f.d = grow(f.d, n*cols/block)
}

// expect makes room for what products with m need besides the codes.
func (f *form) expect(m *Matrix) {
	if f.block == 0 {
		return
	}
	k := m.sums
	if k == sumsNone || f.need[k] {
		return
	}
	f.need[k] = true
	f.sums[k] = grow(f.sums[k], f.n*f.cols/f.block*k.bytesPerBlock())
}

// of is the form that products with m read.
func (in *Input) of(m *Matrix) *form {
	i := formIndex(m.Format.ActBlock())
	if !in.used[i] {
		panic("kernel: internal error: the input was not prepared for " + m.Format.String())
	}
	return &in.forms[i]
}

func grow[T any](s []T, n int) []T {
	if cap(s) < n {
		return make([]T, n, n+n/4)
	}
	return s[:n]
}

// Rows is the number of rows of the batch.
func (in *Input) Rows() int { return in.n }

// tile returns the first row and the width of the tile that holds row i.
func (in *form) tile(i int) (first, width int) {
	full := in.n &^ 7
	if i < full {
		return i &^ 7, 8
	}
	first = full
	for w := 4; w > 0; w /= 2 {
		if in.n&w != 0 {
			if i < first+w {
				return first, w
			}
			first += w
		}
	}
	panic("kernel: internal error: row beyond the batch")
}

// Set quantises row i of the batch from x, which has cols values. Different
// rows may be set concurrently. It reports whether all values are finite.
func (in *Input) Set(i int, x []float32) bool {
	ok := true
	for j := range in.forms {
		if in.used[j] {
			ok = in.forms[j].set(i, x, nil) && ok
		}
	}
	return ok
}

// set is Set. keep, if not nil, receives the row as Row writes it; only a form
// of blocks on a path that keeps takes it.
func (in *form) set(i int, x []float32, keep []byte) bool {
	first, w := in.tile(i)
	k := i - first
	if in.block == 0 {
		t := in.x[first*in.cols:][:w*in.cols]
		ok := true
		for c, v := range x[:in.cols] {
			t[c*w+k] = v
			ok = ok && arith.Finite(v)
		}
		return ok
	}
	blocks := in.cols / in.block
	q := in.q[first*in.cols:][k*in.block:]
	d := in.d[first*blocks:][k:]
	var raw [rawSums]int32
	for b := 0; b < blocks; {
		n := min(blocks-b, rawSums*16/in.block) // blocks whose sums fit in raw
		from, to := x[b*in.block:(b+n)*in.block], q[b*w*in.block:]
		ok := true
		if keep != nil {
			ok = in.path.quantiseKeepAsm(from, to, d[b*w:], w, in.block, raw[:n*in.block/16], keep[4*blocks+b*in.block:], keep[4*b:])
		} else {
			ok = in.quantise(from, to, d[b*w:], w, raw[:n*in.block/16])
		}
		if !ok {
			return false
		}
		for s := sumsNone + 1; s < sumsKinds; s++ {
			if in.need[s] {
				size := s.bytesPerBlock()
				dst := in.sums[s][(first*blocks+b*w+k)*size:]
				if s >= pairs8 {
					putPairs(s, dst, w*size, q[b*w*in.block:], w*in.block, n)
				} else {
					putSums(s, dst, w*size, raw[:n*in.block/16])
				}
			}
		}
		b += n
	}
	return true
}

// only is the form of an input that was prepared for matrices of one ActBlock.
func (in *Input) only() *form {
	for i := range in.forms {
		if in.used[i] {
			return &in.forms[i]
		}
	}
	panic("kernel: internal error: the input was not prepared")
}

// RowBytes is the size of a row as Row writes it.
func (in *Input) RowBytes() int { return in.only().rowBytes() }

// Row writes row i as the products take it: the scales and then the codes of
// its blocks, or its float32 values. in must have been prepared for matrices
// of one ActBlock.
func (in *Input) Row(i int, dst []byte) { in.only().row(i, dst) }

func (in *form) rowBytes() int {
	if in.block == 0 {
		return 4 * in.cols
	}
	return in.cols/in.block*4 + in.cols
}

func (in *form) row(i int, dst []byte) {
	first, w := in.tile(i)
	k := i - first
	if in.block == 0 {
		t := in.x[first*in.cols:]
		for c := range in.cols {
			binary.LittleEndian.PutUint32(dst[4*c:], math.Float32bits(t[c*w+k]))
		}
		return
	}
	blocks := in.cols / in.block
	codes := dst[4*blocks:]
	for b := range blocks {
		at := first*blocks + b*w + k
		binary.LittleEndian.PutUint32(dst[4*b:], math.Float32bits(in.d[at]))
		src := in.q[at*in.block:][:in.block]
		if in.block == 32 { // not a call of memmove for each block
			*(*[32]byte)(codes[b*32:]) = *(*[32]byte)(unsafe.Pointer(&src[0]))
			continue
		}
		copy(codes[b*in.block:][:in.block], unsafe.Slice((*byte)(unsafe.Pointer(&src[0])), in.block))
	}
}

// rawSums is the number of 16-code sums quantise returns at once: those of
// 2048 columns.
const rawSums = 128

// quantise quantises whole blocks of x: codes of block b go to
// q[b·w·block:], its scale to d[b·w], the sum of each 16 codes to raw.
func (in *form) quantise(x []float32, q []int8, d []float32, w int, raw []int32) bool {
	if in.path.vectors() {
		return in.path.quantiseAsm(x, q, d, w, in.block, raw)
	}
	return quantiseGo(x, q, d, w, in.block, raw)
}

func quantiseGo(x []float32, q []int8, d []float32, w, block int, raw []int32) bool {
	for b := range len(x) / block {
		xb, qb := x[b*block:][:block], q[b*w*block:][:block]
		var m uint32
		for _, v := range xb {
			m = max(m, math.Float32bits(v)&^(1<<31))
		}
		if m >= 0x7f800000 {
			return false
		}
		am := math.Float32frombits(m)
		var inv float32
		d[b*w] = 0
		if am >= 0x1p-100 {
			d[b*w] = am / 127
			inv = 1 / d[b*w]
		}
		for j := range block / 16 {
			var sum int32
			for i, v := range xb[16*j:][:16] {
				c := int32(math.Float32bits(float32(v*inv)+12582912)) - 0x4B400000
				qb[16*j+i] = int8(c)
				sum += c
			}
			raw[b*block/16+j] = sum
		}
	}
	return true
}

// putSums writes the sums of consecutive blocks, step bytes apart, from the
// sums of each 16 codes.
func putSums(k sumsKind, dst []byte, step int, raw []int32) {
	switch k {
	case sums8, sums16, sums128, sumsF:
		f := map[sumsKind]int32{sums8: -8, sums16: -16, sums128: -128, sumsF: 1}[k]
		for b := range len(raw) / 2 {
			s := (raw[2*b] + raw[2*b+1]) * f
			p := unsafe.Pointer(&dst[b*step])
			if k == sumsF {
				*(*float32)(p) = float32(s)
			} else {
				*(*int32)(p) = s
			}
		}
	case sums16x4, sums16x32:
		f := int32(-4)
		if k == sums16x32 {
			f = -32
		}
		for b := range len(raw) / 16 {
			p := (*[16]int32)(unsafe.Pointer(&dst[b*step]))
			for j := range p {
				p[j] = raw[16*b+j] * f
			}
		}
	case sums16w:
		for b := range len(raw) / 16 {
			p := (*[16]int16)(unsafe.Pointer(&dst[b*step]))
			for j := range p {
				p[j] = int16(raw[16*b+j])
			}
		}
	case sums32w:
		for b := range len(raw) / 16 {
			p := (*[8]int16)(unsafe.Pointer(&dst[b*step]))
			for j := range p {
				p[j] = int16(raw[16*b+2*j] + raw[16*b+2*j+1])
			}
		}
	}
}
