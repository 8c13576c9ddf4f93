package kernel

import (
	"encoding/binary"
	"math"
	"unsafe"

	"github.com/geistnet/geist/arith"
)

// PagePositions is the number of positions a page of the KV cache holds. It is
// arith.Chunk, so that a page is what attention adds up before it adds to the
// total.
const PagePositions = arith.Chunk

// KVShape says how keys and values of one head lie in a page: first the keys,
// in four blocks of 16 positions, dimension by dimension ([4][KeyDim][16]),
// then the values, position by position ([64][Pad(ValueDim)]).
type KVShape struct {
	Format   arith.KV
	KeyDim   int
	ValueDim int
}

func (s KVShape) elem() int {
	if s.Format == arith.KVF16 {
		return 2
	}
	return 4
}

func (s KVShape) keyBytes() int { return PagePositions * s.KeyDim * s.elem() }

// PageBytes is the room one head takes in a page.
func (s KVShape) PageBytes() int {
	return s.keyBytes() + PagePositions*Pad(s.ValueDim)*s.elem()
}

// Store writes the key and the value of one head at position slot of a page,
// rounding them to the cache's format. page has PageBytes bytes.
func (p Path) Store(s KVShape, page []byte, slot int, k, v []float32) {
	keys := page[slot/16*16*s.KeyDim*s.elem():][:16*s.KeyDim*s.elem()]
	values := page[s.keyBytes()+slot*Pad(s.ValueDim)*s.elem():][:s.ValueDim*s.elem()]
	if s.Format == arith.KVF32 {
		for d, x := range k {
			binary.LittleEndian.PutUint32(keys[(d*16+slot%16)*4:], math.Float32bits(x))
		}
		for d, x := range v {
			binary.LittleEndian.PutUint32(values[d*4:], math.Float32bits(x))
		}
		return
	}
	var h [1024]uint16
	for len(k) > 0 {
		n := min(len(k), len(h))
		p.toF16(h[:n], k[:n])
		for d, x := range h[:n] {
			binary.LittleEndian.PutUint16(keys[(d*16+slot%16)*2:], x)
		}
		keys, k = keys[n*32:], k[n:]
	}
	for len(v) > 0 {
		n := min(len(v), len(h))
		p.toF16(h[:n], v[:n])
		for d, x := range h[:n] {
			binary.LittleEndian.PutUint16(values[d*2:], x)
		}
		values, v = values[n*2:], v[n:]
	}
}

func (p Path) toF16(dst []uint16, src []float32) {
	if n := len(src) &^ 15; p.vectors() && n > 0 {
		p.toF16Asm(dst[:n], src[:n])
		dst, src = dst[n:], src[n:]
	}
	for i, x := range src {
		dst[i] = arith.F32ToF16(x)
	}
}

// MaxQueries is the largest number of queries Attend takes at once.
const MaxQueries = 8

// Attention is the scratch space and the arguments of one call of Attend: up
// to MaxQueries queries that look at the same head of the same pages.
type Attention struct {
	Shape   KVShape
	Softcap float32 // 0: none
	Pages   [][]byte
	Offset  int // of the head in each page
	// Query i sees the positions [First[i], End[i]), at least one.
	Q          [MaxQueries][]float32 // rotated, scaled and rounded
	Out        [MaxQueries][]float32 // Pad(ValueDim) floats each
	First, End [MaxQueries]int
	// If not nil, the slice receives as many of query i's attention weights as
	// it holds, in the cache's format, from the start of the first visible
	// chunk, zero where not visible; and Top its largest score.
	Weights [MaxQueries][]byte
	Top     [MaxQueries]float32

	q      []float32 // queries interleaved, [KeyDim][width]
	scores []float32 // [page][width][64]
	out    []float32 // [width][Pad(ValueDim)]
}

// Attend computes arith.Attention for the first n queries.
func (p Path) Attend(a *Attention, n int) {
	for i := 0; i < n; {
		w := MaxQueries
		for w > n-i {
			w /= 2
		}
		p.attendTile(a, i, w)
		i += w
	}
}

// visible is the set of positions of page c that [first, end) holds.
func visible(c, first, end int) uint64 {
	lo, hi := max(first-c*PagePositions, 0), min(end-c*PagePositions, PagePositions)
	if lo >= hi {
		return 0
	}
	return ^uint64(0) >> (64 - (hi - lo)) << lo
}

func (p Path) attendTile(a *Attention, at, w int) {
	hd, vd := a.Shape.KeyDim, Pad(a.Shape.ValueDim)
	first, end := a.First[at], a.End[at]
	a.q = grow(a.q, hd*w)
	for i := range w {
		first, end = min(first, a.First[at+i]), max(end, a.End[at+i])
		for d, x := range a.Q[at+i][:hd] {
			a.q[d*w+i] = x
		}
	}
	c0, c1 := first/PagePositions, (end+PagePositions-1)/PagePositions
	a.scores = grow(a.scores, (c1-c0)*w*PagePositions)
	a.out = grow(a.out, w*vd)
	clear(a.out)
	var top, sum [MaxQueries]float32
	for i := range w {
		top[i] = float32(math.Inf(-1))
	}
	for c := c0; c < c1; c++ {
		s := a.scores[(c-c0)*w*PagePositions:][:w*PagePositions]
		keys := a.Pages[c][a.Offset:][:a.Shape.keyBytes()]
		p.scores(a.Shape.Format, s, keys, a.q, hd, w, end-c*PagePositions)
		for i := range w {
			row := s[i*PagePositions:][:PagePositions]
			if a.Softcap > 0 {
				for t, x := range row {
					row[t] = arith.SoftCap(x, a.Softcap)
				}
			}
			if m := visible(c, a.First[at+i], a.End[at+i]); m != 0 {
				top[i] = p.maxChunk(row, m, top[i])
			}
		}
	}
	for c := c0; c < c1; c++ {
		s := a.scores[(c-c0)*w*PagePositions:][:w*PagePositions]
		for i := range w {
			row := s[i*PagePositions:][:PagePositions]
			m := visible(c, a.First[at+i], a.End[at+i])
			keep := a.weights(at+i, c)
			if m != 0 && len(keep) == 2*PagePositions && a.Shape.Format == arith.KVF16 && p.keeps() {
				sum[i] += p.expKeepAsm(row, m, top[i], keep)
				continue
			}
			if m != 0 {
				sum[i] += p.expChunk(row, m, top[i], a.Shape.Format)
			} else {
				clear(row)
			}
			p.write(keep, row[:len(keep)/a.Shape.elem()], a.Shape.Format)
		}
		values := a.Pages[c][a.Offset+a.Shape.keyBytes():][:PagePositions*vd*a.Shape.elem()]
		p.mix(a.Shape.Format, a.out, vd, s, values, w, min(PagePositions, end-c*PagePositions))
	}
	copy(a.Top[at:], top[:w])
	for i := range w {
		out := a.Out[at+i]
		for d, x := range a.out[i*vd:][:a.Shape.ValueDim] {
			out[d] = x / sum[i]
		}
	}
}

// weights is the room for the weights of chunk c of a query that wants them,
// else nil.
func (a *Attention) weights(i, c int) []byte {
	size := PagePositions * a.Shape.elem()
	begin := (c - a.First[i]/PagePositions) * size
	if begin < 0 || begin >= len(a.Weights[i]) {
		return nil
	}
	return a.Weights[i][begin:min(begin+size, len(a.Weights[i]))]
}

// Halves writes x as little-endian binary16 values.
func (p Path) Halves(dst []byte, x []float32) {
	if len(x) == 0 {
		return
	}
	h := unsafe.Slice((*uint16)(unsafe.Pointer(unsafe.SliceData(dst[:2*len(x)]))), len(x))
	p.toF16(h, x)
	if !littleEndian {
		for i, v := range h {
			binary.LittleEndian.PutUint16(dst[2*i:], v)
		}
	}
}

var littleEndian = binary.NativeEndian.Uint16([]byte{1, 0}) == 1

// scores writes s[i][t] = q_i·k_t for the first n positions of a page; what it
// writes beyond them is not used.
func (p Path) scores(kv arith.KV, s []float32, keys []byte, q []float32, hd, w, n int) {
	if p.vectors() {
		p.scoresAsm(kv, s, keys, q, hd, w, n)
		return
	}
	for t := range min(n, PagePositions) {
		for i := range w {
			var acc float32
			for d := range hd {
				acc += float32(kvAt(kv, keys, (t/16*hd+d)*16+t%16) * q[d*w+i])
			}
			s[i*PagePositions+t] = acc
		}
	}
}

func kvAt(kv arith.KV, b []byte, i int) float32 {
	if kv == arith.KVF16 {
		return arith.F16ToF32(binary.LittleEndian.Uint16(b[2*i:]))
	}
	return math.Float32frombits(binary.LittleEndian.Uint32(b[4*i:]))
}

func (p Path) maxChunk(s []float32, mask uint64, top float32) float32 {
	if p.vectors() {
		return p.maxChunkAsm(s, mask, top)
	}
	for t, x := range s {
		if mask>>t&1 != 0 {
			top = max(top, x)
		}
	}
	return top
}

func (p Path) expChunk(s []float32, mask uint64, top float32, kv arith.KV) float32 {
	if p.vectors() {
		return p.expChunkAsm(s, mask, top, kv)
	}
	for t, x := range s {
		if mask>>t&1 == 0 {
			s[t] = 0
		} else {
			s[t] = kv.Round(arith.Exp(x - top))
		}
	}
	return arith.Sum(s)
}

// mix adds Σ_t p[i][t]·v_t over the first n positions to out[i]. Weights of
// positions that a query does not see are zero, which changes no bit.
func (p Path) mix(kv arith.KV, out []float32, vd int, s []float32, values []byte, w, n int) {
	if p.vectors() {
		p.mixAsm(kv, out, vd, s, values, w, n)
		return
	}
	for i := range w {
		for d := range vd {
			var acc float32
			for t := range n {
				acc += float32(s[i*PagePositions+t] * kvAt(kv, values, t*vd+d))
			}
			out[i*vd+d] += acc
		}
	}
}
