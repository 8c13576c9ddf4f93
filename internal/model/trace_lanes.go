package model

import (
	"encoding/binary"
	"math"
	"unsafe"

	"github.com/geistnet/geist/ghost"
	"github.com/geistnet/geist/internal/hashmany"
	"github.com/geistnet/geist/internal/kernel"
	"github.com/geistnet/geist/merkle"
)

// A prompt's positions go through a layer sixteen at a time: their leaves are
// equally long, so leaf i of all of them is one call of the hasher, each position
// in its lane, and so is node i of their trees. Values are hashed by whoever
// makes or reads them, while they are near: the residual stream by the norm that
// reads it, in the next layer if need be, the rest where it is written.

// group is a run of rows of one segment whose positions lie in one block of
// hashmany.Lanes.
type group struct{ first, n int }

// layerTrace is what is known of one layer of a pass.
type layerTrace struct {
	layouts []*ghost.Layout // [row]
	width   int             // the most leaves a row has
	wide    []bool          // [group] hashed in lanes
	someWide,
	allWide bool
	words  []hashmany.Words // [group][width] of groups that are hashed in lanes
	leaves []merkle.Hash    // [row][width] of the other rows
}

func (t *Trace) of(l int) *layerTrace { return &t.layer[l&1] }

// single reports whether row r is hashed, by itself.
func (t *Trace) single(l, r int) bool { return t.live[r] && !t.of(l).wide[t.groupOf[r]] }

// group finds the groups of a pass.
func (t *Trace) group(s *State) {
	t.groups, t.groupOf = t.groups[:0], t.groupOf[:0]
	for i, r := range s.rows {
		last := len(t.groups) - 1
		if i == 0 || r.pos%hashmany.Lanes == 0 || r.seg != s.rows[i-1].seg {
			t.groups = append(t.groups, group{first: i})
			last++
		}
		t.groups[last].n++
		t.groupOf = append(t.groupOf, last)
	}
}

// full reports whether a group may be hashed in lanes, layouts permitting.
func (t *Trace) full(g group) bool {
	if g.n < hashmany.Lanes || t.Keep != nil {
		return false
	}
	for _, live := range t.live[g.first:][:g.n] {
		if !live {
			return false
		}
	}
	return true
}

// widen finds the groups that are hashed in lanes: full ones whose layouts are
// the same, as all are that do not meet the edge of a window.
func (t *Trace) widen(o *layerTrace) {
	o.wide, o.someWide, o.allWide = o.wide[:0], false, true
	for _, g := range t.groups {
		ok := t.full(g)
		for _, y := range o.layouts[g.first:][:g.n] {
			ok = ok && y == o.layouts[g.first]
		}
		o.wide = append(o.wide, ok)
		o.someWide, o.allWide = o.someWide || ok, o.allWide && ok
	}
	if n := len(t.groups) * o.width; o.someWide && cap(o.words) < n {
		o.words = make([]hashmany.Words, n+n/4)
	}
}

// stride is the distance of rows of n bytes that lie in lanes: an odd number of
// lines of the cache, so that sixteen of them do not meet in few of its sets.
func stride(n int) int { return (n+63)/64*64 | 64 }

// rowsOf has room for the rows of a group, n bytes each.
func rowsOf(b *[]byte, n int) []byte {
	if size := hashmany.Lanes * stride(n); cap(*b) < size {
		*b = make([]byte, size, size+size/4)
	}
	return (*b)[:hashmany.Lanes*stride(n)]
}

// hash hashes a value of the rows of a group, which lies at the sixteen
// addresses. padded is as in hashmany.
func (t *Trace) hash(l, g int, v ghost.Value, index int, in *[hashmany.Lanes]*byte, padded bool) {
	o := t.of(l)
	sp := o.layouts[t.groups[g].first].Span(v, index)
	words := o.words[:cap(o.words)][g*o.width+sp.First:]
	for j, left := 0, sp.Bytes; ; j++ {
		t.h.LeafLanes(&words[j], in, min(left, sp.Full), padded)
		if left -= sp.Full; left <= 0 {
			return
		}
		for i := range in {
			in[i] = (*byte)(unsafe.Add(unsafe.Pointer(in[i]), sp.Full))
		}
	}
}

// hashRows is hash of rows of n bytes that begin step bytes apart in b.
func (t *Trace) hashRows(l, g int, v ghost.Value, index int, b []byte, n, step int, padded bool) {
	b = b[:(hashmany.Lanes-1)*step+n]
	var in [hashmany.Lanes]*byte
	for i := range in {
		in[i] = &b[i*step]
	}
	t.hash(l, g, v, index, &in, padded)
}

// stream hashes the residual stream of a group.
func (t *Trace) stream(s *State, l, g int, v ghost.Value) {
	m := t.m
	first := t.groups[g].first
	t.hashRows(l, g, v, 0, bytesOf(s.x[first*m.strideX():(first+hashmany.Lanes)*m.strideX()]), 4*m.Dim, 4*m.strideX(), false)
}

// closeWide hashes what a layer left in the residual stream of a group, and
// makes its roots.
func (t *Trace) closeWide(s *State, l, g int) {
	t.stream(s, l, g, ghost.ResidOut)
	o := t.of(l)
	first := t.groups[g].first
	h := o.words[:cap(o.words)][g*o.width:][:o.layouts[first].Len()]
	for n := len(h); n > 1; n = n/2 + n%2 {
		for i := range n / 2 {
			t.h.NodeLanes(&h[i], &h[2*i], &h[2*i+1])
		}
		if n%2 == 1 {
			h[n/2] = h[n-1]
		}
	}
	var roots [hashmany.Lanes]merkle.Hash
	t.h.Put(&roots, &h[0])
	for i, h := range roots {
		t.layers[(first+i)*t.m.Layers+l] = h
	}
}

// eachWide calls f for the groups of a layer that are hashed in lanes.
func (t *Trace) eachWide(w *kernel.Worker, l int, f func(g int)) {
	if !t.of(l).someWide {
		return
	}
	w.For(len(t.groups), 1, func(begin, end int) {
		for g := begin; g < end; g++ {
			if t.of(l).wide[g] {
				f(g)
			}
		}
	})
}

// attendedWide is attended for groups: it hashes what prepare has not.
func (t *Trace) attendedWide(w *kernel.Worker, s *State, l int) {
	m := t.m
	if !m.postNorm && m.Experts == 0 {
		return
	}
	t.eachWide(w, l, func(g int) {
		first := t.groups[g].first
		if m.postNorm {
			t.hashRows(l, g, ghost.OutRaw, 0, bytesOf(t.or[first*m.strideX():]), 4*m.Dim, 4*m.strideX(), false)
		}
		if m.Experts > 0 {
			t.stream(s, l, g, ghost.ResidMid)
		}
	})
}

// fedWide is fed for groups, likewise.
func (t *Trace) fedWide(w *kernel.Worker, s *State, l int) {
	m := t.m
	if !m.postNorm && m.Experts == 0 {
		return
	}
	t.eachWide(w, l, func(g int) {
		first := t.groups[g].first
		if m.postNorm {
			t.hashRows(l, g, ghost.DownRaw, 0, bytesOf(t.dr[first*m.strideX():]), 4*m.Dim, 4*m.strideX(), false)
		}
		if m.Experts > 0 {
			t.hashRows(l, g, ghost.RouterLogits, 0, bytesOf(s.routed[first*kernel.Pad(m.Experts):]), 4*m.Experts, 4*kernel.Pad(m.Experts), false)
			n := t.of(l).layouts[first].Span(ghost.Hidden, 0).Bytes
			for e := range m.ExpertsUsed {
				var in [hashmany.Lanes]*byte
				for i := range in {
					in[i] = &t.hd[s.pairOf[(first+i)*m.ExpertsUsed+e]*n:][:n][0]
				}
				t.hash(l, g, ghost.Hidden, e, &in, false)
			}
		}
	})
}

// closeLast closes the last layer, which no norm follows that reads all rows.
func (t *Trace) closeLast(w *kernel.Worker, s *State) {
	t.eachWide(w, t.m.Layers-1, func(g int) { t.closeWide(s, t.m.Layers-1, g) })
}

// attendWide is attendTraced for the two tiles that one head's queries of a group make.
func (t *Trace) attendWide(w *kernel.Worker, s *State, y *layer, l int, tiles []tile) {
	m := t.m
	a := &s.scratch[w.ID()]
	first := t.groups[tiles[0].group].first
	head := tiles[0].kvHead
	e := t.g.ElemBytes()
	// Whole chunks are written; behind the last visible position they are zero.
	n := t.g.Layers[l].WeightsCount(s.rows[first].pos) * e
	size := (n + PagePositions*e - 1) / (PagePositions * e) * (PagePositions * e)
	rows := rowsOf(&t.work[w.ID()].rows, size)
	for j, tl := range tiles {
		for i := range tl.n {
			a.Weights[i] = rows[(j*kernel.MaxQueries+i)*stride(size):][:size]
		}
		s.attendTile(w, y, l, tl)
		for i := range tl.n {
			r := first + j*kernel.MaxQueries + i
			binary.LittleEndian.PutUint32(t.top[(r*m.Heads+head)*4:], math.Float32bits(a.Top[i]))
		}
	}
	clear(a.Weights[:])
	t.hashRows(l, tiles[0].group, ghost.Weights, head, rows, n, stride(size), true)
}

// rawWide is keysAndQueries for the rows of a group.
func (t *Trace) rawWide(w *kernel.Worker, s *State, y *layer, l, g int) {
	m := t.m
	work := &t.work[w.ID()]
	e := t.g.ElemBytes()
	q, k := m.Heads*m.KeyDim*e, m.KVHeads*m.KeyDim*e
	queries, keys := rowsOf(&work.rows, q), rowsOf(&work.keys, k)
	for i := range hashmany.Lanes {
		s.keysAndQueries(y, l, t.groups[g].first+i, 0, m.KVHeads, queries[i*stride(q):][:q], keys[i*stride(k):][:k])
	}
	t.hashRows(l, g, ghost.RawQuery, 0, queries, q, stride(q), false)
	t.hashRows(l, g, ghost.RawKey, 0, keys, k, stride(k), false)
}
