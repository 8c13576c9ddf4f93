package merkle

import "fmt"

// Nodes stores the hashes of a tree: level 0 has the leaves, level l above them
// ⌈n/2^l⌉ nodes. Reads may come from several goroutines; writes come one at a
// time and never together with reads.
type Nodes interface {
	// Load fills dst with the hashes of a level from index first on. All of
	// them were stored before.
	Load(level int, first uint64, dst []Hash) error
	// Store keeps hashes of a level from index first on. It does not hold on
	// to the slice.
	Store(level int, first uint64, hashes []Hash) error
}

// Memory is Nodes in memory: 64 bytes a leaf. The zero value is empty.
type Memory struct{ levels [][]Hash }

// Load implements Nodes.
func (m *Memory) Load(level int, first uint64, dst []Hash) error {
	if level >= len(m.levels) || first > uint64(len(m.levels[level])) || uint64(len(m.levels[level]))-first < uint64(len(dst)) {
		return fmt.Errorf("load %d nodes of level %d from %d on: not all are there", len(dst), level, first)
	}
	copy(dst, m.levels[level][first:])
	return nil
}

// Store implements Nodes.
func (m *Memory) Store(level int, first uint64, hashes []Hash) error {
	for level >= len(m.levels) {
		m.levels = append(m.levels, nil)
	}
	l := m.levels[level]
	if missing := int(first) + len(hashes) - len(l); missing > 0 {
		l = append(l, make([]Hash, missing)...)
		m.levels[level] = l
	}
	copy(l[first:], hashes)
	return nil
}

// Tree is a tree whose nodes are all kept. Prove and Root may be called from
// several goroutines, but not together with Update or Append.
type Tree struct {
	n      uint64
	nodes  Nodes
	hasher Hasher
}

// Open returns the tree of n leaves that nodes holds; n = 0 is a tree to append
// to. Nothing is read yet.
func Open(nodes Nodes, n uint64, h Hasher) *Tree {
	return &Tree{n: n, nodes: nodes, hasher: h}
}

// FromLeaves returns the tree over leaf hashes, in memory.
func FromLeaves(leaves []Hash, h Hasher) *Tree {
	t := Open(&Memory{}, 0, h)
	if err := t.Append(leaves...); err != nil {
		panic("merkle: internal error: " + err.Error()) // Memory holds what was stored
	}
	return t
}

// Len is the number of leaves.
func (t *Tree) Len() uint64 { return t.n }

// Root is the root. A tree without leaves has none, which is an error.
func (t *Tree) Root() (Hash, error) {
	if t.n == 0 {
		return Hash{}, fmt.Errorf("root of a tree without leaves")
	}
	level := 0
	for width := t.n; width > 1; width = half(width) {
		level++
	}
	return t.load(level, 0)
}

func (t *Tree) load(level int, index uint64) (Hash, error) {
	var one [1]Hash
	err := t.nodes.Load(level, index, one[:])
	return one[0], err
}

// Prove is the multiproof of the leaves at indices, which ascend strictly and
// are below Len; there is at least one.
func (t *Tree) Prove(indices []uint64) ([]Hash, error) {
	var proof []Hash
	err := siblings(t.n, indices, func(level int, index uint64) error {
		h, err := t.load(level, index)
		proof = append(proof, h)
		return err
	})
	if err != nil {
		return nil, err
	}
	return proof, nil
}

// Update replaces the hashes of the leaves at indices, which are as in Prove.
// k leaves take about k·log₂(n/k) + 2k hashes, made in one batch a level. If it
// fails while storing, the same Update repeated repairs the tree.
func (t *Tree) Update(indices []uint64, leaves []Hash) error {
	if err := checkIndices(t.n, indices); err != nil {
		return err
	}
	_, err := climb(t.n, indices, leaves, t.hasher, t.load, func(level int, index []uint64, hashes []Hash) error {
		for len(index) > 0 {
			run := 1
			for run < len(index) && index[run] == index[0]+uint64(run) {
				run++
			}
			if err := t.nodes.Store(level, index[0], hashes[:run]); err != nil {
				return err
			}
			index, hashes = index[run:], hashes[run:]
		}
		return nil
	})
	return err
}

// Append adds leaves after the last one. If it fails while storing, Len is what
// it was; the tree is whole again after the same Append, repeated, succeeds.
func (t *Tree) Append(leaves ...Hash) error {
	if len(leaves) == 0 {
		return nil
	}
	if err := t.nodes.Store(0, t.n, leaves); err != nil {
		return err
	}
	n := t.n + uint64(len(leaves))
	const batch = 1 << 10
	buf := make([]Hash, min(batch, len(leaves)+1))
	first := t.n // leftmost node of the level that is new or changed
	for level, width := 0, n; width > 1; level, width = level+1, half(width) {
		first &^= 1
		for begin := first; begin < width; begin += uint64(len(buf) &^ 1) {
			children := buf[:min(uint64(len(buf)&^1), width-begin)]
			if err := t.nodes.Load(level, begin, children); err != nil {
				return err
			}
			if err := t.nodes.Store(level+1, begin/2, parents(t.hasher, children, children)); err != nil {
				return err
			}
		}
		first /= 2
	}
	t.n = n
	return nil
}

// parents sets dst to the parents of neighbouring hashes, the first of even
// index, and returns as much of it as there are. The last of an odd number moves
// up as it is. dst may be the beginning of hashes.
func parents(h Hasher, dst, hashes []Hash) []Hash {
	nodes := len(hashes) / 2
	last := hashes[len(hashes)-1]
	h.Nodes(dst[:nodes], hashes[:2*nodes])
	if len(hashes)%2 == 1 {
		dst[nodes] = last
		nodes++
	}
	return dst[:nodes]
}
