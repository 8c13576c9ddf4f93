package merkle

import (
	"errors"
	"math/rand/v2"
	"testing"
)

// sameNodes compares all levels of two trees.
func sameNodes(t *testing.T, got, want *Tree) {
	t.Helper()
	if got.Len() != want.Len() {
		t.Fatalf("%d leaves, want %d", got.Len(), want.Len())
	}
	for level, width := 0, want.Len(); ; level, width = level+1, half(width) {
		for i := range width {
			g, err := got.load(level, i)
			if err != nil {
				t.Fatal(err)
			}
			w, err := want.load(level, i)
			if err != nil {
				t.Fatal(err)
			}
			if g != w {
				t.Fatalf("%d leaves: node %d of level %d is %v, want %v", want.Len(), i, level, g, w)
			}
		}
		if width == 1 {
			return
		}
	}
}

// TestAppend: a tree grown by steps of any length is the tree of all leaves.
func TestAppend(t *testing.T) {
	leaves := testLeaves(3000, 10)
	for _, step := range []int{1, 2, 3, 5, 64, 511, 1025, 3000} {
		tree := Open(&Memory{}, 0, Plain{})
		for n := 0; n < len(leaves); n += step {
			end := min(n+step, len(leaves))
			if err := tree.Append(leaves[n:end]...); err != nil {
				t.Fatal(err)
			}
			if end < 300 || end == len(leaves) {
				if got, want := mustRoot(t, tree), reference.root(leaves[:end]); got != want {
					t.Fatalf("%d leaves by steps of %d: root %v, want %v", end, step, got, want)
				}
			}
		}
		sameNodes(t, tree, FromLeaves(leaves, Plain{}))
	}
}

func TestAppendNothing(t *testing.T) {
	tree := FromLeaves(testLeaves(5, 11), Plain{})
	want := mustRoot(t, tree)
	if err := tree.Append(); err != nil || tree.Len() != 5 || mustRoot(t, tree) != want {
		t.Errorf("%v, %d leaves", err, tree.Len())
	}
}

// TestUpdates: many updates and appends in a row leave the tree of the leaves.
func TestUpdates(t *testing.T) {
	r := rand.New(rand.NewPCG(5, 6))
	leaves := testLeaves(777, 12)
	tree := FromLeaves(leaves, Plain{})
	for round := range 50 {
		indices := randomIndices(r, tree.Len(), 1+r.IntN(100))
		fresh := testLeaves(len(indices), uint64(100+round))
		if err := tree.Update(indices, fresh); err != nil {
			t.Fatal(err)
		}
		for i, x := range indices {
			leaves[x] = fresh[i]
		}
		more := testLeaves(r.IntN(20), uint64(200+round))
		if err := tree.Append(more...); err != nil {
			t.Fatal(err)
		}
		leaves = append(leaves, more...)
		if got, want := mustRoot(t, tree), reference.root(leaves); got != want {
			t.Fatalf("round %d: root %v, want %v", round, got, want)
		}
	}
	sameNodes(t, tree, FromLeaves(leaves, Plain{}))
}

// countingHasher counts nodes.
type countingHasher struct {
	Plain
	nodes int
}

func (c *countingHasher) Nodes(dst, children []Hash) {
	c.nodes += len(dst)
	c.Plain.Nodes(dst, children)
}

// TestAppendWork: appending makes the nodes above new leaves and no others.
func TestAppendWork(t *testing.T) {
	h := &countingHasher{}
	tree := FromLeaves(testLeaves(1<<14-2, 13), h)
	h.nodes = 0
	for _, want := range []int{13, 14} {
		if err := tree.Append(Hash{}); err != nil {
			t.Fatal(err)
		}
		if h.nodes != want {
			t.Errorf("%d nodes for leaf number %d, want %d", h.nodes, tree.Len(), want)
		}
		h.nodes = 0
	}
}

// TestUpdateWork: an update makes each node above a changed leaf once.
func TestUpdateWork(t *testing.T) {
	h := &countingHasher{}
	tree := FromLeaves(testLeaves(1<<14, 13), h)
	if h.nodes != 1<<14-1 {
		t.Errorf("%d nodes for 2¹⁴ leaves", h.nodes)
	}
	h.nodes = 0
	indices := []uint64{0, 1, 2, 3, 1 << 13}
	if err := tree.Update(indices, testLeaves(5, 14)); err != nil {
		t.Fatal(err)
	}
	if want := 2 + 1 + 11 + 13 + 1; h.nodes != want {
		t.Errorf("%d nodes for an update, want %d", h.nodes, want)
	}
}

func TestMisuse(t *testing.T) {
	empty := Open(&Memory{}, 0, Plain{})
	if _, err := empty.Root(); err == nil {
		t.Error("an empty tree has a root")
	}
	tree := FromLeaves(testLeaves(9, 15), Plain{})
	want := mustRoot(t, tree)
	for _, indices := range [][]uint64{nil, {9}, {1, 1}, {2, 1}, {0, 1 << 63}} {
		if _, err := tree.Prove(indices); err == nil {
			t.Errorf("proof of leaves %d in 9", indices)
		}
		if err := tree.Update(indices, make([]Hash, len(indices))); err == nil {
			t.Errorf("update of leaves %d in 9", indices)
		}
		if _, err := empty.Prove(indices); err == nil {
			t.Errorf("proof of leaves %d in none", indices)
		}
	}
	if err := tree.Update([]uint64{1, 2}, make([]Hash, 1)); err == nil {
		t.Error("update of two leaves with one hash")
	}
	if mustRoot(t, tree) != want {
		t.Error("a refused update changed the tree")
	}
	var one [1]Hash
	for _, at := range []place{{0, 9}, {0, 1<<64 - 1}, {5, 0}, {4, 1}} {
		if err := (&Memory{}).Load(at.level, at.index, one[:]); err == nil {
			t.Errorf("loaded node %d of level %d", at.index, at.level)
		}
	}
}

var errDisk = errors.New("disk is gone")

// faultyNodes fails call number at, before or after it did its work.
type faultyNodes struct {
	Memory
	at    int
	after bool
}

func (f *faultyNodes) fail(do func() error) error {
	f.at--
	if f.at == -1 && !f.after {
		return errDisk
	}
	if err := do(); err != nil {
		return err
	}
	if f.at == -1 {
		return errDisk
	}
	return nil
}

func (f *faultyNodes) Load(level int, first uint64, dst []Hash) error {
	return f.fail(func() error { return f.Memory.Load(level, first, dst) })
}

func (f *faultyNodes) Store(level int, first uint64, hashes []Hash) error {
	return f.fail(func() error { return f.Memory.Store(level, first, hashes) })
}

// TestFaults: whichever call of the store fails, done or not, the error comes
// out, and the same operation repeated makes the tree whole.
func TestFaults(t *testing.T) {
	leaves := testLeaves(21, 16)
	indices, fresh := []uint64{2, 3, 11, 18}, testLeaves(4, 17)
	more := testLeaves(6, 18)
	for _, after := range []bool{false, true} {
		failed := 0
		for at := range 200 {
			nodes := &faultyNodes{at: -1}
			tree := Open(nodes, 0, Plain{})
			if err := tree.Append(leaves...); err != nil {
				t.Fatal(err)
			}
			nodes.at, nodes.after = at, after
			for _, do := range []func() error{
				func() error { return tree.Update(indices, fresh) },
				func() error { return tree.Append(more...) },
				func() error { _, err := tree.Prove(indices); return err },
			} {
				if err := do(); err != nil {
					failed++
					if !errors.Is(err, errDisk) {
						t.Fatal(err)
					}
					if err := do(); err != nil {
						t.Fatal(err)
					}
				}
			}
			nodes.at = -1
			want := append([]Hash{}, leaves...)
			for i, x := range indices {
				want[x] = fresh[i]
			}
			sameNodes(t, tree, FromLeaves(append(want, more...), Plain{}))
		}
		if failed < 30 {
			t.Errorf("only %d calls failed", failed)
		}
	}
}
