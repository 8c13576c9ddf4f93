package merkle

import (
	"crypto/sha256"
	"encoding/hex"
	"math/bits"
	"testing"
)

// The definition, slow and obvious: RFC 6962, section 2.1, and multiproofs by
// recursion over subtrees instead of levels.

type referenceTree struct {
	leaf func([]byte) Hash
	node func(l, r Hash) Hash
}

var reference = referenceTree{HashLeaf, HashNode}

// split is the largest power of two below n ≥ 2.
func split(n int) int { return 1 << (bits.Len(uint(n-1)) - 1) }

func (t referenceTree) root(leaves []Hash) Hash {
	if len(leaves) == 1 {
		return leaves[0]
	}
	k := split(len(leaves))
	return t.node(t.root(leaves[:k]), t.root(leaves[k:]))
}

func (t referenceTree) hashes(data [][]byte) []Hash {
	h := make([]Hash, len(data))
	for i := range data {
		h[i] = t.leaf(data[i])
	}
	return h
}

// A proofNode is a node of a multiproof with what the canonical order sorts by.
type proofNode struct {
	level int // at which it has its neighbour: log₂ of the leaves of the left one
	first int // leaf
	hash  Hash
}

// prove collects the largest subtrees without a shown leaf beside one with.
func (t referenceTree) prove(leaves []Hash, first int, shown map[int]bool) (nodes []proofNode, any bool) {
	if len(leaves) == 1 {
		return nil, shown[first]
	}
	k := split(len(leaves))
	l, anyL := t.prove(leaves[:k], first, shown)
	r, anyR := t.prove(leaves[k:], first+k, shown)
	switch {
	case anyL && anyR:
		return append(l, r...), true
	case anyL:
		return append(l, proofNode{bits.Len(uint(k)) - 1, first + k, t.root(leaves[k:])}), true
	case anyR:
		return append(r, proofNode{bits.Len(uint(k)) - 1, first, t.root(leaves[:k])}), true
	}
	return nil, false
}

// vectors of Certificate Transparency's own tests: leaves, and the root of the
// first 1, 2, … of them, with SHA-256.
var ctLeaves = []string{
	"", "00", "10", "2021", "3031", "40414243", "5051525354555657",
	"606162636465666768696a6b6c6d6e6f",
}

var ctRoots = []string{
	"6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
	"fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
	"aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
	"d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
	"4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
	"76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
	"ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
	"5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
}

// ctHasher hashes as RFC 6962 does.
type ctHasher struct{}

func (ctHasher) Leaves(dst []Hash, leaves [][]byte) {
	for i, l := range leaves {
		dst[i] = sha256.Sum256(append([]byte{0}, l...))
	}
}

func (ctHasher) Nodes(dst, children []Hash) {
	for i := range dst {
		b := append([]byte{1}, children[2*i][:]...)
		dst[i] = sha256.Sum256(append(b, children[2*i+1][:]...))
	}
}

// TestShapeOfRFC6962: with the hash of RFC 6962, the reference, a tree that is
// appended to and a tree that is built have the known roots.
func TestShapeOfRFC6962(t *testing.T) {
	var data [][]byte
	grown := Open(&Memory{}, 0, ctHasher{})
	ct := referenceTree{
		func(b []byte) Hash { var h [1]Hash; ctHasher{}.Leaves(h[:], [][]byte{b}); return h[0] },
		func(l, r Hash) Hash { var h [1]Hash; ctHasher{}.Nodes(h[:], []Hash{l, r}); return h[0] },
	}
	for i, want := range ctRoots {
		leaf, err := hex.DecodeString(ctLeaves[i])
		if err != nil {
			t.Fatal(err)
		}
		data = append(data, leaf)
		if got := ct.root(ct.hashes(data)).String(); got != want {
			t.Errorf("reference root of %d leaves is %s, want %s", i+1, got, want)
		}
		if err := grown.Append(ct.leaf(leaf)); err != nil {
			t.Fatal(err)
		}
		if got := mustRoot(t, grown).String(); got != want {
			t.Errorf("root of %d leaves appended is %s, want %s", i+1, got, want)
		}
		built, err := Build(t.Context(), Slices(data), Options{Hasher: ctHasher{}})
		if err != nil || built.String() != want {
			t.Errorf("root of %d leaves built is %v, %v, want %s", i+1, built, err, want)
		}
	}
}

func mustRoot(t testing.TB, tree *Tree) Hash {
	t.Helper()
	h, err := tree.Root()
	if err != nil {
		t.Fatal(err)
	}
	return h
}
