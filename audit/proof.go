package audit

import (
	"cmp"
	"encoding/binary"
	"fmt"
	"maps"
	"slices"
	"sort"

	"github.com/geistnet/geist/ghost"
	"github.com/geistnet/geist/merkle"
)

// A proof is a magic, the size of the challenge, the opened items in the order in
// which the checks first ask for them, and then the hashes of one multiproof per
// tree. All lengths and indices follow from the run and the challenge, so it
// holds neither (docs/spec/audit.md §4).
const (
	proofMagic = "geist proof 3\n"
	headBytes  = len(proofMagic) + 3*4
)

// head is how the proof for a challenge begins.
func (c Challenge) head() []byte {
	b := []byte(proofMagic)
	for _, n := range []int{c.Cells, c.Tails, c.Full} {
		b = binary.LittleEndian.AppendUint32(b, uint32(n))
	}
	return b
}

// SizeOf reads the size of the challenge that a proof answers.
func SizeOf(proof []byte) (Size, error) {
	if len(proof) > MaxProofBytes || len(proof) < headBytes || string(proof[:len(proofMagic)]) != proofMagic {
		return Size{}, fmt.Errorf("%d bytes are not a proof", len(proof))
	}
	n := func(i int) int { return int(binary.LittleEndian.Uint32(proof[len(proofMagic)+4*i:])) }
	return Size{n(0), n(1), n(2)}, nil
}

// MaxProofBytes bounds what Verify reads.
const MaxProofBytes = 256 << 20

// items are the opened values of one proof, by tree.
type items struct {
	leaves  map[[2]int]*opened // (position, layer)
	tails   map[int]*opened    // position
	keys    map[[2]int]*opened // (layer, key head): positions
	columns map[[2]int]*opened // (layer, key head): dimensions
	rows    map[int]*opened    // tensor
}

func newItems() *items {
	return &items{map[[2]int]*opened{}, map[int]*opened{}, map[[2]int]*opened{}, map[[2]int]*opened{}, map[int]*opened{}}
}

// opened are the leaves of one tree that were asked for. Mostly there are few, and
// looking through them is quicker than a map.
type opened struct {
	index []uint64
	data  [][]byte
	hash  []merkle.Hash  // of data, once they are made
	last  int            // found last
	place map[uint64]int // in index; nil while there are at most fewOpened
}

// fewOpened is how many leaves find looks through.
const fewOpened = 64

// treeOf finds tree k, or begins it with room for so many leaves.
func treeOf[K comparable](m map[K]*opened, k K, room int) *opened {
	o := m[k]
	if o == nil {
		o = &opened{index: make([]uint64, 0, room), data: make([][]byte, 0, room)}
		m[k] = o
	}
	return o
}

// find gives leaf i if it was opened.
func (o *opened) find(i int) ([]byte, bool) {
	if len(o.index) > fewOpened {
		if j := o.last + 1; j < len(o.index) && o.index[j] == uint64(i) { // asked for again in the same order
			o.last = j
			return o.data[j], true
		}
		if o.place == nil {
			o.place = make(map[uint64]int, 2*len(o.index))
			for j, i := range o.index {
				o.place[i] = j
			}
		}
		j, ok := o.place[uint64(i)]
		if !ok {
			return nil, false
		}
		o.last = j
		return o.data[j], true
	}
	for j := range o.index {
		if j += o.last; j >= len(o.index) {
			j -= len(o.index)
		}
		if o.index[j] == uint64(i) {
			o.last = j
			return o.data[j], true
		}
	}
	return nil, false
}

// add notes leaf i, just opened.
func (o *opened) add(i int, b []byte, err error) ([]byte, error) {
	if err != nil {
		return nil, err
	}
	o.last = len(o.index)
	if o.place != nil {
		o.place[uint64(i)] = o.last
	}
	o.index, o.data = append(o.index, uint64(i)), append(o.data, b)
	return b, nil
}

// sort puts the leaves in ascending order.
func (o *opened) sort() {
	o.last, o.place = 0, nil
	if !slices.IsSorted(o.index) {
		sort.Sort(o)
	}
}

// sorted gives the indices in ascending order.
func (o *opened) sorted() []uint64 {
	o.sort()
	return o.index
}

// hash sorts the leaves of every tree and hashes them, all of one length together:
// of single trees often too few are open for a Hasher that works side by side.
func (it *items) hash(h merkle.Hasher) {
	count := 0
	each := func(f func(*opened)) {
		for _, m := range []map[[2]int]*opened{it.leaves, it.keys, it.columns} {
			for _, o := range m {
				f(o)
			}
		}
		for _, m := range []map[int]*opened{it.tails, it.rows} {
			for _, o := range m {
				f(o)
			}
		}
	}
	each(func(o *opened) { count += len(o.data) })
	type leaf struct {
		data []byte
		to   *merkle.Hash
	}
	leaves := make([]leaf, 0, count)
	each(func(o *opened) {
		o.sort()
		o.hash = make([]merkle.Hash, len(o.data))
		for i, b := range o.data {
			leaves = append(leaves, leaf{b, &o.hash[i]})
		}
	})
	slices.SortFunc(leaves, func(a, b leaf) int { return len(a.data) - len(b.data) })
	data, hashes := make([][]byte, count), make([]merkle.Hash, count)
	for i, l := range leaves {
		data[i] = l.data
	}
	for i := 0; i < count; {
		j := i + 1
		for j < count && len(data[j]) == len(data[i]) {
			j++
		}
		h.Leaves(hashes[i:j], data[i:j])
		i = j
	}
	for i, l := range leaves {
		*l.to = hashes[i]
	}
}

// Len, Less and Swap are for sort.
func (o *opened) Len() int           { return len(o.index) }
func (o *opened) Less(i, j int) bool { return o.index[i] < o.index[j] }
func (o *opened) Swap(i, j int) {
	o.index[i], o.index[j] = o.index[j], o.index[i]
	o.data[i], o.data[j] = o.data[j], o.data[i]
}

// stream is a Source that opens each item once, with the length it must have.
type stream struct {
	c    *checker
	seen *items
	// next gives n bytes, of which the first are so many floats, that open has made,
	// or, for the verifier, the next ones of the proof; open is nil then.
	next func(n, floats int, open func() ([]byte, error)) ([]byte, error)
	full Source // the prover's; nil for the verifier
	read int    // bytes of the proof that next has read
	size Bytes  // of these, by kind
}

// take asks next for an item, and counts what it reads as so many bytes of a kind.
func (s *stream) take(kind *int, n, floats int, open func() ([]byte, error)) ([]byte, error) {
	before := s.read
	b, err := s.next(n, floats, open)
	*kind += s.read - before
	return b, err
}

func (s *stream) Leaf(t, l, i int) ([]byte, error) {
	o := treeOf(s.seen.leaves, [2]int{t, l}, 40)
	if b, ok := o.find(i); ok {
		return b, nil
	}
	var open func() ([]byte, error)
	if s.full != nil {
		open = func() ([]byte, error) { return s.full.Leaf(t, l, i) }
	}
	y := s.c.layout(t, l)
	b, err := s.take(&s.size.Values, y.LeafLen(i), int(y.floats[i]), open)
	return o.add(i, b, err)
}

func (s *stream) Tail(t, i int) ([]byte, error) {
	o := treeOf(s.seen.tails, t, 4)
	if b, ok := o.find(i); ok {
		return b, nil
	}
	var open func() ([]byte, error)
	if s.full != nil {
		open = func() ([]byte, error) { return s.full.Tail(t, i) }
	}
	n := min(ghost.LeafBytes, 4*s.c.Model.Vocab-i*ghost.LeafBytes)
	b, err := s.take(&s.size.Logits, n, n/4, open)
	return o.add(i, b, err)
}

func (s *stream) Key(l, g, t int) ([]byte, error) {
	o := treeOf(s.seen.keys, [2]int{l, g}, 3)
	if b, ok := o.find(t); ok {
		return b, nil
	}
	var open func() ([]byte, error)
	if s.full != nil {
		open = func() ([]byte, error) { return s.full.Key(l, g, t) }
	}
	b, err := s.take(&s.size.Cache, s.c.Model.KeyDim*s.c.Model.ElemBytes(), 0, open)
	return o.add(t, b, err)
}

func (s *stream) Column(l, g, d int) ([]byte, error) {
	o := treeOf(s.seen.columns, [2]int{l, g}, 2)
	if b, ok := o.find(d); ok {
		return b, nil
	}
	var open func() ([]byte, error)
	if s.full != nil {
		open = func() ([]byte, error) { return s.full.Column(l, g, d) }
	}
	b, err := s.take(&s.size.Cache, s.c.Positions()*s.c.Model.ElemBytes(), 0, open)
	return o.add(d, b, err)
}

func (s *stream) Row(tensor, row int) ([]byte, error) {
	o := treeOf(s.seen.rows, tensor, 4)
	if b, ok := o.find(row); ok {
		return b, nil
	}
	var open func() ([]byte, error)
	if s.full != nil {
		open = func() ([]byte, error) { return s.full.Row(tensor, row) }
	}
	x := &s.c.Model.Tensors[tensor]
	b, err := s.take(&s.size.Rows, x.Format.RowBytes(x.Cols), 0, open)
	return o.add(row, b, err)
}

// Report is what an accepted proof shows.
type Report struct {
	Positions, Layers int
	Challenge         Challenge
	Counts            Counts
	ProofBytes        int
	Bytes             Bytes
}

// Bytes says what a proof consists of, beside its head.
type Bytes struct {
	Values int `json:"values"` // of layers
	Logits int `json:"logits"`
	Cache  int `json:"cache"` // keys and columns of values
	Rows   int `json:"rows"`  // weights, which are public and the same for everybody
	Hashes int `json:"hashes"`
}

// Verify checks a proof against a run and a challenge. The error is a *Failure
// where a relation does not hold.
func Verify(run *Run, ch Challenge, proof []byte) (*Report, error) {
	return verify(run, ch, proof, nil)
}

func verify(run *Run, ch Challenge, proof []byte, e *explainer) (*Report, error) {
	if err := run.Check(); err != nil {
		return nil, err
	}
	if err := ch.Check(); err != nil {
		return nil, err
	}
	says, err := SizeOf(proof)
	if err != nil {
		return nil, err
	}
	if want := (Size{ch.Cells, ch.Tails, ch.Full}); says != want {
		return nil, fmt.Errorf("the proof opens %d cells, %d tails and %d full ones; asked were %d, %d and %d", says.Cells, says.Tails, says.Full, want.Cells, want.Tails, want.Full)
	}
	rest := proof[headBytes:]
	c := newChecker(run)
	s := &stream{c: c, seen: newItems()}
	var room []byte // for unpacked leaves
	s.next = func(n, floats int, _ func() ([]byte, error)) (b []byte, err error) {
		before := len(rest)
		switch {
		case floats > 0:
			if len(room) < n {
				room = make([]byte, 64*ghost.LeafBytes)
			}
			b, room = room[:n:n], room[n:]
			rest, err = unpackLeaf(b, rest, floats)
		case n > len(rest):
			err = fmt.Errorf("the proof ends %d bytes too early", n-len(rest))
		default:
			b, rest = rest[:n:n], rest[n:]
		}
		s.read += before - len(rest)
		return b, err
	}
	c.src = s
	if e != nil {
		e.Source, e.c, e.proof, e.read, e.at = s, c, proof, &s.read, map[place]span{}
		c.src, c.explain = e, e
	}
	if err := c.all(ch); err != nil {
		return nil, err
	}
	if len(rest)%len(merkle.Hash{}) != 0 {
		return nil, fmt.Errorf("the proof ends with %d bytes that are no hashes", len(rest))
	}
	hashes := make([]merkle.Hash, len(rest)/len(merkle.Hash{}))
	for i := range hashes {
		copy(hashes[i][:], rest[i*len(merkle.Hash{}):])
	}
	left, err := s.seen.authenticate(c, hashes)
	if err != nil {
		return nil, err
	}
	if left != 0 {
		return nil, fmt.Errorf("the proof has %d hashes too many", left)
	}
	r := &Report{Positions: run.Positions(), Layers: len(run.Model.Layers), Challenge: ch, Counts: c.counts, ProofBytes: len(proof)}
	r.Bytes = s.size
	r.Bytes.Hashes = len(hashes) * len(merkle.Hash{})
	return r, nil
}

// authenticate folds everything opened up to the roots and compares them. It
// returns how many hashes are left.
func (it *items) authenticate(c *checker, hashes []merkle.Hash) (left int, err error) {
	m := c.Model
	fold := func(n int, indices []uint64, leaves []merkle.Hash, name, in func() string) (merkle.Hash, error) {
		r, rest, err := merkle.RootFrom(c.hasher(), uint64(n), indices, leaves, hashes)
		if err != nil {
			return r, fmt.Errorf("%s: %w", name(), err)
		}
		k := len(hashes) - len(rest)
		hashes = rest
		if c.explain != nil {
			c.explain.tree(name(), in(), n, len(indices), k, r)
		}
		return r, nil
	}
	it.hash(c.hasher())
	open := func(n int, of *opened, name, in func() string) (merkle.Hash, error) {
		return fold(n, of.index, of.hash, name, in)
	}
	text := func(s string) func() string { return func() string { return s } }

	// Layers and tails, then positions, then all positions.
	layers := map[int]map[uint64]merkle.Hash{}
	set := func(t, i int, h merkle.Hash) {
		if layers[t] == nil {
			layers[t] = map[uint64]merkle.Hash{}
		}
		layers[t][uint64(i)] = h
	}
	for _, k := range slices.SortedFunc(maps.Keys(it.leaves), pairs) {
		h, err := open(c.layout(k[0], k[1]).Len(), it.leaves[k], func() string { return layerName(k[0], k[1]) }, func() string { return positionName(k[0]) })
		if err != nil {
			return 0, err
		}
		set(k[0], k[1], h)
	}
	for _, t := range slices.Sorted(maps.Keys(it.tails)) {
		h, err := open(m.TailLeaves(), it.tails[t], func() string { return fmt.Sprintf("logits of position %d", t) }, func() string { return positionName(t) })
		if err != nil {
			return 0, err
		}
		set(t, len(m.Layers), h)
	}
	positions := map[uint64]merkle.Hash{}
	for _, t := range slices.Sorted(maps.Keys(layers)) {
		indices, leaves := unzip(layers[t])
		h, err := fold(len(m.Layers)+1, indices, leaves, func() string { return positionName(t) }, text("positions"))
		if err != nil {
			return 0, err
		}
		positions[uint64(t)] = h
	}
	top, err := rootOr(positions, func(i []uint64, h []merkle.Hash) (merkle.Hash, error) {
		return fold(c.Positions(), i, h, text("positions"), text("the trace root"))
	}, &hashes)
	if err != nil {
		return 0, err
	}

	// The cache.
	sub := map[uint64]merkle.Hash{}
	for j, trees := range []map[[2]int]*opened{it.keys, it.columns} {
		for _, k := range slices.SortedFunc(maps.Keys(trees), pairs) {
			n := c.Positions()
			if j == 1 {
				n = m.ValDim
			}
			h, err := open(n, trees[k], func() string { return cacheName(j, k[0], k[1]) }, text("cache"))
			if err != nil {
				return 0, err
			}
			sub[uint64(2*(k[0]*m.KVHeads+k[1])+j)] = h
		}
	}
	cache, err := rootOr(sub, func(i []uint64, h []merkle.Hash) (merkle.Hash, error) {
		return fold(m.CacheRoots(), i, h, text("cache"), text("the trace root"))
	}, &hashes)
	if err != nil {
		return 0, err
	}
	if ghost.TraceRoot(c.Prompt, c.Answer, top, cache) != c.Trace {
		return 0, fail(-1, -1, "trace root", "the opened values are not those that were signed")
	}

	// Weights.
	for _, t := range slices.Sorted(maps.Keys(it.rows)) {
		x := &m.Tensors[t]
		h, err := open(x.Rows, it.rows[t], text(x.Name), text("the Ghost file"))
		if err != nil {
			return 0, err
		}
		if h != x.Root {
			return 0, fail(-1, -1, "weights", "rows of tensor %q are not those of the Ghost file", x.Name)
		}
	}
	return len(hashes), nil
}

// rootOr folds a tree of which something was opened, or takes its root from the
// proof.
func rootOr(of map[uint64]merkle.Hash, fold func([]uint64, []merkle.Hash) (merkle.Hash, error), hashes *[]merkle.Hash) (merkle.Hash, error) {
	if len(of) > 0 {
		return fold(unzip(of))
	}
	if len(*hashes) == 0 {
		return merkle.Hash{}, fmt.Errorf("the proof has a hash too few")
	}
	h := (*hashes)[0]
	*hashes = (*hashes)[1:]
	return h, nil
}

func unzip(m map[uint64]merkle.Hash) (keys []uint64, values []merkle.Hash) {
	for _, k := range slices.Sorted(maps.Keys(m)) {
		keys, values = append(keys, k), append(values, m[k])
	}
	return keys, values
}

func pairs(a, b [2]int) int { return cmp.Or(a[0]-b[0], a[1]-b[1]) }

// Prover has everything a run committed to.
type Prover interface {
	Source
	LeafHashes(t, layer int) ([]merkle.Hash, error) // of a layer at a position
	LayerRoots(t int) ([]merkle.Hash, error)        // and, last, the tail's
	TailHashes(t int) ([]merkle.Hash, error)
	PositionRoots() ([]merkle.Hash, error)
	KeyHashes(layer, head int) ([]merkle.Hash, error)
	ColumnHashes(layer, head int) ([]merkle.Hash, error)
	CacheRoots() ([]merkle.Hash, error)
	RowTree(tensor int) (*merkle.Tree, error)
}

// Prove makes the proof that answers a challenge. If one of the checks fails on
// the prover's own values, the error says which, and the proof up to it is
// returned too: Verify will fail in the same place.
func Prove(run *Run, ch Challenge, p Prover) ([]byte, error) {
	if err := run.Check(); err != nil {
		return nil, err
	}
	if err := ch.Check(); err != nil {
		return nil, err
	}
	out := ch.head()
	c := newChecker(run)
	s := &stream{c: c, seen: newItems(), full: p}
	s.next = func(n, floats int, open func() ([]byte, error)) ([]byte, error) {
		b, err := open()
		if err != nil {
			return nil, err
		}
		if len(b) != n {
			return nil, fmt.Errorf("an item has %d bytes instead of %d", len(b), n)
		}
		out = packLeaf(out, b, floats)
		return b, nil
	}
	c.src = s
	if err := c.all(ch); err != nil {
		return out, err
	}
	hashes, err := s.seen.siblings(c, p)
	for _, h := range hashes {
		out = append(out, h[:]...)
	}
	return out, err
}

// siblings collects the multiproofs in the order in which authenticate reads
// them.
func (it *items) siblings(c *checker, p Prover) (out []merkle.Hash, err error) {
	m := c.Model
	prove := func(hashes []merkle.Hash, err error) func(indices []uint64) error {
		return func(indices []uint64) error {
			if err != nil {
				return err
			}
			hs, err := merkle.FromLeaves(hashes, merkle.Plain{}).Prove(indices)
			out = append(out, hs...)
			return err
		}
	}
	touched := map[int]map[uint64]bool{}
	touch := func(t, l int) {
		if touched[t] == nil {
			touched[t] = map[uint64]bool{}
		}
		touched[t][uint64(l)] = true
	}
	for _, k := range slices.SortedFunc(maps.Keys(it.leaves), pairs) {
		if err := prove(p.LeafHashes(k[0], k[1]))(it.leaves[k].sorted()); err != nil {
			return nil, err
		}
		touch(k[0], k[1])
	}
	for _, t := range slices.Sorted(maps.Keys(it.tails)) {
		if err := prove(p.TailHashes(t))(it.tails[t].sorted()); err != nil {
			return nil, err
		}
		touch(t, len(m.Layers))
	}
	var positions []uint64
	for _, t := range slices.Sorted(maps.Keys(touched)) {
		if err := prove(p.LayerRoots(t))(slices.Sorted(maps.Keys(touched[t]))); err != nil {
			return nil, err
		}
		positions = append(positions, uint64(t))
	}
	whole := func(hashes []merkle.Hash, err error, indices []uint64) error {
		if err != nil {
			return err
		}
		if len(indices) > 0 {
			return prove(hashes, nil)(indices)
		}
		r, err := merkle.FromLeaves(hashes, merkle.Plain{}).Root()
		out = append(out, r)
		return err
	}
	roots, err := p.PositionRoots()
	if err := whole(roots, err, positions); err != nil {
		return nil, err
	}
	var sub []uint64
	for j, trees := range []map[[2]int]*opened{it.keys, it.columns} {
		for _, k := range slices.SortedFunc(maps.Keys(trees), pairs) {
			of := p.KeyHashes
			if j == 1 {
				of = p.ColumnHashes
			}
			if err := prove(of(k[0], k[1]))(trees[k].sorted()); err != nil {
				return nil, err
			}
			sub = append(sub, uint64(2*(k[0]*m.KVHeads+k[1])+j))
		}
	}
	slices.Sort(sub)
	roots, err = p.CacheRoots()
	if err := whole(roots, err, sub); err != nil {
		return nil, err
	}
	for _, t := range slices.Sorted(maps.Keys(it.rows)) {
		tree, err := p.RowTree(t)
		if err != nil {
			return nil, err
		}
		hs, err := tree.Prove(it.rows[t].sorted())
		if err != nil {
			return nil, err
		}
		out = append(out, hs...)
	}
	return out, nil
}
