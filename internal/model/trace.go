package model

import (
	"encoding/binary"
	"math"
	"unsafe"

	"github.com/geistnet/geist/arith"
	"github.com/geistnet/geist/ghost"
	"github.com/geistnet/geist/internal/hashmany"
	"github.com/geistnet/geist/internal/kernel"
	"github.com/geistnet/geist/merkle"
)

// Trace commits to every value of the passes it watches: docs/spec/trace.md.
type Trace struct {
	m *Model
	g *ghost.Model
	h hashmany.Hasher
	// Keep tells for which layers of which positions the leaves themselves are
	// wanted; nil: none. It is called from several goroutines.
	Keep func(segment, pos, layer int) bool
	// Only tells which positions are hashed; nil: all. The roots of others are
	// zero, and nothing of them is kept.
	Only func(segment, pos int) bool

	live    []bool // [row] hashed in this pass
	kept    map[place][][]byte
	roots   []merkle.Hash            // of the last pass's positions
	plain   []merkle.Hash            // the same without logits
	layers  []merkle.Hash            // [row][layer]
	tails   []merkle.Hash            // [row]
	groups  []group                  // of the pass's rows
	groupOf []int                    // [row]
	layer   [2]layerTrace            // by the lowest bit of the layer: a layer closes while the next one begins
	known   map[[2]int]*ghost.Layout // by layer and number of attention weights
	rq, rk  []byte                   // [row]
	top     []byte                   // [row] largest scores
	at      []byte                   // [row] attention output as the projection takes it
	hd      []byte                   // [row or pair] hidden values likewise
	or, dr  []float32                // [row] raw results before norms
	work    []traceWork              // [member]
	most    int
}

type place struct{ segment, pos, layer int }

// traceWork is one member's scratch memory.
type traceWork struct {
	lanes   lanes
	weights [2 * kernel.MaxQueries][]byte
	nodes   []merkle.Hash
	rows    []byte // what the rows of a group have in common places, see stride
	keys    []byte // likewise
}

// NewTrace prepares to watch passes of s. g describes s's model.
func (s *State) NewTrace(g *ghost.Model) *Trace {
	m := s.m
	t := &Trace{m: m, g: g, h: hashmany.New(), most: s.most, kept: map[place][][]byte{}, known: map[[2]int]*ghost.Layout{}}
	e := g.ElemBytes()
	t.rq = make([]byte, s.most*m.Heads*m.KeyDim*e)
	t.rk = make([]byte, s.most*m.KVHeads*m.KeyDim*e)
	t.top = make([]byte, s.most*4*m.Heads)
	t.layers = make([]merkle.Hash, s.most*m.Layers)
	t.tails = make([]merkle.Hash, s.most)
	for i := range t.layer {
		t.layer[i].layouts = make([]*ghost.Layout, s.most)
	}
	t.work = make([]traceWork, s.team.Size())
	if m.postNorm {
		t.or = make([]float32, s.most*m.strideX())
		t.dr = make([]float32, s.most*m.strideX())
	}
	return t
}

// Watch makes following passes of s report to t; nil ends it.
func (s *State) Watch(t *Trace) { s.trace = t }

// Root is the root of the i-th position of the last pass, counted over all
// segments.
func (t *Trace) Root(i int) merkle.Hash { return t.roots[i] }

// PlainRoot is what Root would be if no logits had been computed.
func (t *Trace) PlainRoot(i int) merkle.Hash { return t.plain[i] }

// LayerRoots are the roots of the layers of the i-th position of the last
// pass, and of its tail.
func (t *Trace) LayerRoots(i int) (layers []merkle.Hash, tail merkle.Hash) {
	return t.layers[i*t.m.Layers : (i+1)*t.m.Layers], t.tails[i]
}

// TakeKept returns and forgets the leaves of a layer that Keep asked for, or nil.
func (t *Trace) TakeKept(segment, pos, layer int) [][]byte {
	p := place{segment, pos, layer}
	k := t.kept[p]
	delete(t.kept, p)
	return k
}

// TailLeaves cuts logits into the leaves of a position's tail.
func TailLeaves(logits []float32) [][]byte {
	b := append([]byte(nil), bytesOf(logits)...)
	var leaves [][]byte
	for len(b) > 0 {
		n := min(len(b), ghost.LeafBytes)
		leaves, b = append(leaves, b[:n:n]), b[n:]
	}
	return leaves
}

// lanes gathers leaves of equal length to hash them side by side.
type lanes struct {
	h     hashmany.Hasher
	short [ghost.LeafBytes + 1]*bucket // by length
	long  map[int]*bucket
	begun []*bucket // not empty
}

type bucket struct {
	n    int
	data [16][]byte
	to   [16]*merkle.Hash
	out  [16]merkle.Hash
}

// add hashes a value into the leaves dst[0], dst[1], … of at most full bytes.
func (l *lanes) add(dst []merkle.Hash, value []byte, full int) {
	for i := 0; ; i++ {
		n := min(len(value), full)
		l.leaf(&dst[i], value[:n])
		if value = value[n:]; len(value) == 0 {
			return
		}
	}
}

// leaf hashes one leaf, however long.
func (l *lanes) leaf(dst *merkle.Hash, data []byte) {
	b := l.bucket(len(data))
	if b.n == 0 {
		l.begun = append(l.begun, b)
	}
	b.data[b.n], b.to[b.n] = data, dst
	if b.n++; b.n == len(b.data) {
		l.flush(b)
		b.n = 0
		for i, x := range l.begun {
			if x == b {
				l.begun = append(l.begun[:i], l.begun[i+1:]...)
				break
			}
		}
	}
}

func (l *lanes) bucket(size int) *bucket {
	if size < len(l.short) {
		if l.short[size] == nil {
			l.short[size] = &bucket{}
		}
		return l.short[size]
	}
	b := l.long[size]
	if b == nil {
		if l.long == nil {
			l.long = map[int]*bucket{}
		}
		b = &bucket{}
		l.long[size] = b
	}
	return b
}

func (l *lanes) flush(b *bucket) {
	l.h.Leaves(b.out[:b.n], b.data[:b.n])
	for i := range b.n {
		*b.to[i], b.data[i] = b.out[i], nil
	}
}

// done hashes what is left; the leaves of values added before are valid then.
func (l *lanes) done() {
	for _, b := range l.begun {
		l.flush(b)
		b.n = 0
	}
	l.begun = l.begun[:0]
}

// Fold computes the root of a tree from its leaf hashes, which it overwrites.
func (t *Trace) Fold(h []merkle.Hash) merkle.Hash { return t.fold(h) }

func (t *Trace) fold(h []merkle.Hash) merkle.Hash {
	for n := len(h); n > 1; n = n/2 + n%2 {
		last := h[n-1]
		t.h.Nodes(h[:n/2], h[:n&^1])
		if n%2 == 1 {
			h[n/2] = last
		}
	}
	return h[0]
}

// foldRows computes the roots of k trees of n leaves each, whose hashes follow
// one another in h, side by side. It overwrites h; the roots are its first k.
func (t *Trace) foldRows(h []merkle.Hash, k, n int, last []merkle.Hash) {
	for ; n > 1; n = n/2 + n%2 {
		half := n / 2
		if n%2 == 1 {
			for i := range k {
				last[i] = h[i*n+n-1]
				copy(h[i*(n-1):], h[i*n:][:n-1])
			}
		}
		t.h.Nodes(h[:k*half], h[:2*k*half])
		if n%2 == 1 {
			for i := k - 1; i >= 0; i-- {
				copy(h[i*(half+1):], h[i*half:][:half])
				h[i*(half+1)+half] = last[i]
			}
		}
	}
}

// bytesOf views floats as their bytes. Traces are little-endian; on other
// machines the bytes are made.
func bytesOf(x []float32) []byte {
	if littleEndian {
		return unsafe.Slice((*byte)(unsafe.Pointer(unsafe.SliceData(x))), 4*len(x))
	}
	b := make([]byte, 4*len(x))
	for i, v := range x {
		binary.LittleEndian.PutUint32(b[4*i:], math.Float32bits(v))
	}
	return b
}

var littleEndian = func() bool {
	x := uint16(1)
	return *(*byte)(unsafe.Pointer(&x)) == 1
}()

// begin prepares for a pass.
func (t *Trace) begin(s *State) {
	if cap(t.roots) < len(s.rows) {
		t.roots, t.plain = make([]merkle.Hash, s.most), make([]merkle.Hash, s.most)
	}
	t.roots, t.plain = t.roots[:len(s.rows)], t.plain[:len(s.rows)]
	clear(t.tails)
	t.live = t.live[:0]
	for _, r := range s.rows {
		t.live = append(t.live, t.Only == nil || t.Only(r.seg, r.pos))
	}
	t.group(s)
	for i := range t.work {
		t.work[i].lanes.h = t.h
	}
}

// beginLayer finds the layout of every row. One member calls it.
func (t *Trace) beginLayer(s *State, l int) {
	o := t.of(l)
	o.width = 0
	var last *ghost.Layout
	lastCount := -1
	y := &t.g.Layers[l]
	for i, r := range s.rows {
		if c := y.WeightsCount(r.pos); c != lastCount {
			if last = t.known[[2]int{l, c}]; last == nil {
				last = t.g.Layout(l, r.pos)
				t.known[[2]int{l, c}] = last
			}
			lastCount = c
		}
		o.layouts[i] = last
		o.width = max(o.width, last.Len())
	}
	t.widen(o)
	if n := len(s.rows) * o.width; !o.allWide && cap(o.leaves) < n {
		o.leaves = make([]merkle.Hash, n+n/4)
	}
	if n := len(s.rows) * o.layouts[0].Span(ghost.AttnOut, 0).Bytes; !o.allWide && len(t.at) < n {
		t.at = make([]byte, n)
	}
	experts := t.m.Experts > 0
	if n := len(s.rows) * o.layouts[0].Count(ghost.Hidden) * o.layouts[0].Span(ghost.Hidden, 0).Bytes; (!o.allWide || experts) && len(t.hd) < n {
		t.hd = make([]byte, n)
	}
}

// row has room for the leaves of a row that is hashed by itself.
func (t *Trace) row(l, r int) []merkle.Hash {
	o := t.of(l)
	return o.leaves[:cap(o.leaves)][r*o.width:][:o.layouts[r].Len()]
}

// keep stores a copy of a value's leaves if they are wanted.
func (t *Trace) keep(s *State, r, l int, v ghost.Value, index int, value []byte) {
	if t.Keep == nil || !t.Keep(s.rows[r].seg, s.rows[r].pos, l) {
		return
	}
	sp := t.of(l).layouts[r].Span(v, index)
	dst := t.keptLeaves(s, r, l)
	for i := range sp.Leaves() {
		dst[sp.First+i] = append([]byte(nil), value[i*sp.Full:min((i+1)*sp.Full, len(value))]...)
	}
}

func (t *Trace) keptLeaves(s *State, r, l int) [][]byte {
	s.keepMu.Lock()
	defer s.keepMu.Unlock()
	p := place{s.rows[r].seg, s.rows[r].pos, l}
	if len(t.kept[p]) != t.of(l).layouts[r].Len() {
		t.kept[p] = make([][]byte, t.of(l).layouts[r].Len())
	}
	return t.kept[p]
}

// value hashes one value of row r.
func (t *Trace) value(s *State, k *lanes, r, l int, v ghost.Value, index int, data []byte) {
	sp := t.of(l).layouts[r].Span(v, index)
	k.add(t.row(l, r)[sp.First:], data, sp.Full)
	t.keep(s, r, l, v, index, data)
}

// grain is the number of rows whose leaves are gathered together.
func (t *Trace) grain(n int) int { return max(1, min(maxGrain, n/(2*len(t.work)))) }

const maxGrain = 8

// attended hashes what attention left behind, before the feed-forward block
// overwrites the residual stream.
func (t *Trace) attended(w *kernel.Worker, s *State, l int) {
	m := t.m
	t.attendedWide(w, s, l)
	if t.of(l).allWide {
		return
	}
	w.For(len(s.rows), t.grain(len(s.rows)), func(begin, end int) {
		k := &t.work[w.ID()].lanes
		for r := begin; r < end; r++ {
			if !t.single(l, r) {
				continue
			}
			y := t.of(l).layouts[r]
			part := func(b []byte, v ghost.Value) []byte { n := y.Span(v, 0).Bytes; return b[r*n:][:n] }
			t.value(s, k, r, l, ghost.RawQuery, 0, part(t.rq, ghost.RawQuery))
			t.value(s, k, r, l, ghost.RawKey, 0, part(t.rk, ghost.RawKey))
			t.value(s, k, r, l, ghost.MaxScore, 0, part(t.top, ghost.MaxScore))
			t.value(s, k, r, l, ghost.AttnOut, 0, part(t.at, ghost.AttnOut))
			if m.postNorm {
				t.value(s, k, r, l, ghost.OutRaw, 0, bytesOf(t.or[r*m.strideX():][:m.Dim]))
			}
			t.value(s, k, r, l, ghost.ResidMid, 0, bytesOf(s.x[r*m.strideX():][:m.Dim]))
		}
		k.done()
	})
}

// fed hashes what the feed-forward block left behind and closes the layer, but
// for the rows whose stream the next layer's norm will read.
func (t *Trace) fed(w *kernel.Worker, s *State, l int) {
	m := t.m
	t.fedWide(w, s, l)
	if t.of(l).allWide {
		return
	}
	w.For(len(s.rows), t.grain(len(s.rows)), func(begin, end int) {
		work := &t.work[w.ID()]
		k := &work.lanes
		for r := begin; r < end; r++ {
			if !t.single(l, r) {
				continue
			}
			y := t.of(l).layouts[r]
			n := y.Span(ghost.Hidden, 0).Bytes
			if y.Count(ghost.RouterLogits) > 0 {
				t.value(s, k, r, l, ghost.RouterLogits, 0, bytesOf(s.routed[r*kernel.Pad(m.Experts):][:m.Experts]))
				for i, p := range s.pairOf[r*m.ExpertsUsed:][:m.ExpertsUsed] {
					t.value(s, k, r, l, ghost.Hidden, i, t.hd[p*n:][:n])
				}
			} else {
				t.value(s, k, r, l, ghost.Hidden, 0, t.hd[r*n:][:n])
			}
			if m.postNorm {
				t.value(s, k, r, l, ghost.DownRaw, 0, bytesOf(t.dr[r*m.strideX():][:m.Dim]))
			}
			t.value(s, k, r, l, ghost.ResidOut, 0, bytesOf(s.x[r*m.strideX():][:m.Dim]))
		}
		k.done()
		for r := begin; r < end; {
			// Neighbours with as many leaves, side by side.
			var last [maxGrain]merkle.Hash
			first, n := r, t.of(l).layouts[r].Len()
			work.nodes = work.nodes[:0]
			for ; r < end && r-first < len(last) && t.single(l, r) && t.of(l).layouts[r].Len() == n; r++ {
				work.nodes = append(work.nodes, t.row(l, r)...)
			}
			if r == first {
				r++
				continue
			}
			t.foldRows(work.nodes, r-first, n, last[:])
			for i, h := range work.nodes[:r-first] {
				t.layers[(first+i)*m.Layers+l] = h
			}
		}
	})
}

// attendTraced is attendTile for tiles [begin, end), at most two, with their
// weights hashed side by side.
func (t *Trace) attendTraced(w *kernel.Worker, s *State, y *layer, l int, tiles []tile) {
	if tiles[0].across && t.of(l).wide[tiles[0].group] {
		t.attendWide(w, s, y, l, tiles)
		return
	}
	m := t.m
	work := &t.work[w.ID()]
	e := t.g.ElemBytes()
	heads := m.Heads / m.KVHeads
	for j, tl := range tiles {
		a := &s.scratch[w.ID()]
		row0 := s.firstRow(tl.seg)
		for i := range tl.n {
			token, _ := tl.query(i, heads)
			r := row0 + token
			if !t.live[r] {
				continue
			}
			size := t.g.Layers[l].WeightsCount(s.rows[r].pos) * e
			b := &work.weights[j*kernel.MaxQueries+i]
			if cap(*b) < size {
				*b = make([]byte, size, 2*size)
			}
			*b = (*b)[:size]
			a.Weights[i] = *b
		}
		s.attendTile(w, y, l, tl)
		for i := range tl.n {
			token, head := tl.query(i, heads)
			if r := row0 + token; t.live[r] {
				t.value(s, &work.lanes, r, l, ghost.Weights, head, a.Weights[i])
				binary.LittleEndian.PutUint32(t.top[(r*m.Heads+head)*4:], math.Float32bits(a.Top[i]))
			}
		}
		clear(a.Weights[:])
	}
	work.lanes.done()
}

// firstRow is the row of a segment's first token.
func (s *State) firstRow(seg int) int {
	n := 0
	for i := range seg {
		n += len(s.segs[i].Tokens)
	}
	return n
}

// finish hashes the logits and closes the positions.
func (t *Trace) finish(w *kernel.Worker, s *State) {
	m := t.m
	stride := kernel.Pad(m.Vocab)
	if s.logitsWanted {
		w.For(len(s.want), 1, func(begin, end int) {
			work := &t.work[w.ID()]
			for i := begin; i < end; i++ {
				if !t.live[s.want[i]] {
					continue
				}
				n := t.g.TailLeaves()
				for len(work.nodes) < n {
					work.nodes = append(work.nodes, merkle.Hash{})
				}
				work.lanes.add(work.nodes, bytesOf(s.logits[i*stride:][:m.Vocab]), ghost.LeafBytes)
				work.lanes.done()
				t.tails[s.want[i]] = t.fold(work.nodes[:n])
			}
		})
	}
	w.For(len(s.rows), 8, func(begin, end int) {
		work := &t.work[w.ID()]
		for r := begin; r < end; r++ {
			if !t.live[r] {
				t.roots[r], t.plain[r] = merkle.Hash{}, merkle.Hash{}
				continue
			}
			with := func(tail merkle.Hash) merkle.Hash {
				work.nodes = append(work.nodes[:0], t.layers[r*m.Layers:(r+1)*m.Layers]...)
				work.nodes = append(work.nodes, tail)
				return t.fold(work.nodes)
			}
			t.plain[r] = with(merkle.Hash{})
			t.roots[r] = t.plain[r]
			if t.tails[r] != (merkle.Hash{}) {
				t.roots[r] = with(t.tails[r])
			}
		}
	})
}

// CacheRoot commits to the keys and values of the first n positions of a
// sequence. The team must be idle.
func (t *Trace) CacheRoot(team *kernel.Team, c *Cache, n int) merkle.Hash {
	return t.fold(t.CacheSubroots(team, c, n))
}

// CacheSubroots are the roots below CacheRoot: for each layer and key head that
// of its key rows and that of its value columns.
func (t *Trace) CacheSubroots(team *kernel.Team, c *Cache, n int) []merkle.Hash {
	m := t.m
	roots := make([]merkle.Hash, t.g.CacheRoots())
	shape := m.shape()
	team.Run(func(w *kernel.Worker) {
		w.For(m.Layers*m.KVHeads, 1, func(begin, end int) {
			work := &t.work[w.ID()]
			work.lanes.h = t.h
			for i := begin; i < end; i++ {
				keys, values := cacheLeaves(shape, c, i*shape.PageBytes(), n)
				for j, b := range [][][]byte{keys, values} {
					hashes := make([]merkle.Hash, len(b))
					for k := range b {
						// A leaf here may be longer than LeafBytes: it is one leaf.
						work.lanes.leaf(&hashes[k], b[k])
					}
					work.lanes.done()
					roots[2*i+j] = t.fold(hashes)
				}
			}
		})
	})
	return roots
}

// CacheLeaves returns the key rows and value columns of the first n positions
// of one layer and key head, as the trace commits to them.
func (m *Model) CacheLeaves(c *Cache, layer, kvHead, n int) (keys, values [][]byte) {
	shape := m.shape()
	return cacheLeaves(shape, c, (layer*m.KVHeads+kvHead)*shape.PageBytes(), n)
}

func cacheLeaves(shape kernel.KVShape, c *Cache, offset, n int) (keys, values [][]byte) {
	e := 4
	if shape.Format == arith.KVF16 {
		e = 2
	}
	keys = make([][]byte, n)
	kb := make([]byte, n*shape.KeyDim*e)
	values = make([][]byte, shape.ValueDim)
	vb := make([]byte, n*shape.ValueDim*e)
	for d := range values {
		values[d] = vb[d*n*e:][:n*e]
	}
	pad := kernel.Pad(shape.ValueDim)
	for first := 0; first < n; first += PagePositions {
		page := c.Pages[first/PagePositions][offset:]
		count := min(PagePositions, n-first)
		for i := range count {
			keys[first+i] = kb[(first+i)*shape.KeyDim*e:][:shape.KeyDim*e]
			for d := range shape.KeyDim {
				elem(keys[first+i], d, page, (i/16*shape.KeyDim+d)*16+i%16, e)
			}
		}
		page = page[PagePositions*shape.KeyDim*e:]
		for d, v := range values {
			for i := range count {
				elem(v, first+i, page, i*pad+d, e)
			}
		}
	}
	return keys, values
}

// elem copies element i of src, e bytes, to element j of dst.
func elem(dst []byte, j int, src []byte, i, e int) {
	if e == 2 {
		binary.LittleEndian.PutUint16(dst[2*j:], binary.LittleEndian.Uint16(src[2*i:]))
	} else {
		binary.LittleEndian.PutUint32(dst[4*j:], binary.LittleEndian.Uint32(src[4*i:]))
	}
}
