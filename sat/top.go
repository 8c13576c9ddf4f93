package sat

import (
	"fmt"
	"slices"

	"github.com/geistnet/geist/arith"
	"github.com/geistnet/geist/merkle"
)

// Table is what a reader trusts of a table of rows: leaf i of the tree is row i
// as it stands in the model file.
type Table struct {
	Root   merkle.Hash
	Rows   int // the leaves of the tree
	Format arith.Format
	Cols   int // values of a row
}

// Check reports what is out of range.
func (t *Table) Check() error {
	if err := first(within("the number of rows of the table", t.Rows, 1, maxRows), within("the length of a row", t.Cols, 1, 1<<24)); err != nil {
		return err
	}
	if !t.Format.Known() || t.Cols%t.Format.BlockLen() != 0 {
		return fmt.Errorf("rows of %d values are no whole blocks of %v", t.Cols, t.Format)
	}
	return nil
}

// RowBytes is the size of a row.
func (t *Table) RowBytes() int { return t.Format.RowBytes(t.Cols) }

// Top is a table with one whole level of its tree, verified against the root.
// Proofs end at this level, and so are the shorter the lower it is.
type Top struct {
	Table
	level  int
	hashes []merkle.Hash
	hasher merkle.Hasher
}

// Width is the number of nodes of a level in a tree of so many leaves.
func Width(rows, level int) int {
	for ; level > 0 && rows > 1; level-- {
		rows = rows/2 + rows%2
	}
	return rows
}

// Level is the lowest level of a tree of so many leaves that has at most nodes
// nodes, which is at least 1.
func Level(rows, nodes int) int {
	level := 0
	for ; rows > max(1, nodes); level++ {
		rows = rows/2 + rows%2
	}
	return level
}

// NewTop takes the hashes of a level of the table's tree, all of them, and
// checks them against its root. h may be nil.
func NewTop(t Table, level int, hashes []merkle.Hash, h merkle.Hasher) (*Top, error) {
	if err := t.Check(); err != nil {
		return nil, err
	}
	if err := within("the level", level, 0, Level(t.Rows, 1)); err != nil {
		return nil, err
	}
	if want := Width(t.Rows, level); len(hashes) != want {
		return nil, fmt.Errorf("level %d of a tree of %d rows has %d hashes; expected %d", level, t.Rows, len(hashes), want)
	}
	if h == nil {
		h = merkle.Plain{}
	}
	// Nodes of a level are to those above it what leaves are to a tree.
	root, err := merkle.FromLeaves(hashes, h).Root()
	if err != nil {
		return nil, err
	}
	if root != t.Root {
		return nil, fmt.Errorf("level %d of the tree leads to root %v; expected %v", level, root, t.Root)
	}
	return &Top{t, level, slices.Clone(hashes), h}, nil
}

// Bare is the top of a table of which only the root is known. h may be nil.
func Bare(t Table, h merkle.Hasher) (*Top, error) {
	if err := t.Check(); err != nil {
		return nil, err
	}
	return NewTop(t, Level(t.Rows, 1), []merkle.Hash{t.Root}, h)
}

// Level is the level at which proofs end.
func (t *Top) Level() int { return t.level }

// ascending demands rows that a multiproof can have.
func ascending(rows int, ids []uint64) error {
	if len(ids) == 0 {
		return fmt.Errorf("no rows are looked up")
	}
	for i, x := range ids {
		if x >= uint64(rows) || i > 0 && x <= ids[i-1] {
			return fmt.Errorf("row %d of %d is looked up out of order or range", x, rows)
		}
	}
	return nil
}

// walk goes up from the leaves at ids to a level, as a multiproof does, and
// calls visit for every node on the way: with its neighbour's place among the
// nodes that are known, or -1 where it has to come from a proof, or -2 where it
// has none and moves up. up is called at the end of each level with the number
// of nodes of the next.
func walk(rows, level int, ids []uint64, visit func(at int, left bool, beside int), up func(n int)) {
	known := slices.Clone(ids)
	width := uint64(rows)
	for range level {
		out := 0
		for i := 0; i < len(known); i++ {
			x := known[i]
			switch {
			case x == width-1 && x%2 == 0:
				visit(i, true, -2)
			case i+1 < len(known) && known[i+1] == x^1:
				visit(i, true, i+1)
				i++
			default:
				visit(i, x%2 == 0, -1)
			}
			known[out] = x / 2
			out++
		}
		known = known[:out]
		width = width/2 + width%2
		up(out)
	}
}

// ProofLen is the number of hashes of a proof of the rows at ids, ascending and
// different, in a tree of so many rows up to a level.
func ProofLen(rows, level int, ids []uint64) (int, error) {
	if err := ascending(rows, ids); err != nil {
		return 0, err
	}
	n := 0
	walk(rows, level, ids, func(_ int, _ bool, beside int) {
		if beside == -1 {
			n++
		}
	}, func(int) {})
	return n, nil
}

// Prove gives the proof of the rows at ids up to a level: the beginning of
// their multiproof, which goes up level by level.
func Prove(tree *merkle.Tree, level int, ids []uint64) ([]merkle.Hash, error) {
	n, err := ProofLen(int(tree.Len()), level, ids)
	if err != nil {
		return nil, err
	}
	proof, err := tree.Prove(ids)
	if err != nil {
		return nil, err
	}
	return proof[:n], nil
}

// verify checks that the leaves at ids have these hashes. ids were checked, and
// the proof has ProofLen hashes. leaves is overwritten.
func (t *Top) verify(ids []uint64, leaves, proof []merkle.Hash) error {
	pairs := make([]merkle.Hash, 0, 2*len(leaves))
	var alone *merkle.Hash
	var last merkle.Hash
	walk(t.Rows, t.level, ids, func(at int, left bool, beside int) {
		switch {
		case beside == -2:
			last = leaves[at]
			alone = &last
		case beside >= 0:
			pairs = append(pairs, leaves[at], leaves[beside])
		case left:
			pairs = append(pairs, leaves[at], proof[0])
			proof = proof[1:]
		default:
			pairs = append(pairs, proof[0], leaves[at])
			proof = proof[1:]
		}
	}, func(n int) {
		// One that moves up is the last of its level.
		t.hasher.Nodes(leaves[:len(pairs)/2], pairs)
		if alone != nil {
			leaves[n-1] = last
		}
		leaves, pairs, alone = leaves[:n], pairs[:0], nil
	})
	known := slices.Clone(ids)
	for i := range known {
		known[i] >>= t.level
	}
	for i, x := range slices.Compact(known) {
		if leaves[i] != t.hashes[x] {
			return fmt.Errorf("the rows lead to %v at node %d of level %d; expected %v", leaves[i], x, t.level, t.hashes[x])
		}
	}
	return nil
}
