package merkle

import (
	"math/rand/v2"
	"slices"
	"testing"
)

func testLeaves(n int, seed uint64) []Hash {
	r := rand.NewChaCha8([32]byte{byte(seed), byte(seed >> 8), 1})
	leaves := make([]Hash, n)
	for i := range leaves {
		r.Read(leaves[i][:])
	}
	return leaves
}

func pick(leaves []Hash, indices []uint64) []Hash {
	out := make([]Hash, len(indices))
	for i, x := range indices {
		out[i] = leaves[x]
	}
	return out
}

// referenceProof is the proof by definition.
func referenceProof(leaves []Hash, indices []uint64) []Hash {
	shown := map[int]bool{}
	for _, x := range indices {
		shown[int(x)] = true
	}
	nodes, _ := reference.prove(leaves, 0, shown)
	slices.SortFunc(nodes, func(a, b proofNode) int {
		if a.level != b.level {
			return a.level - b.level
		}
		return a.first - b.first
	})
	proof := make([]Hash, len(nodes))
	for i := range nodes {
		proof[i] = nodes[i].hash
	}
	return proof
}

// checkProof holds a proof against the definition, and verifies it.
func checkProof(t *testing.T, tree *Tree, leaves []Hash, indices []uint64) []Hash {
	t.Helper()
	n := uint64(len(leaves))
	proof, err := tree.Prove(indices)
	if err != nil {
		t.Fatalf("n %d, leaves %d: %v", n, indices, err)
	}
	if want := referenceProof(leaves, indices); !slices.Equal(proof, want) {
		t.Fatalf("n %d, leaves %d: proof %v, want %v", n, indices, proof, want)
	}
	if m, err := ProofLen(n, indices); err != nil || m != len(proof) {
		t.Fatalf("n %d, leaves %d: ProofLen %d, %v, want %d", n, indices, m, err, len(proof))
	}
	if err := Verify(mustRoot(t, tree), n, indices, pick(leaves, indices), proof); err != nil {
		t.Fatalf("n %d, leaves %d: %v", n, indices, err)
	}
	return proof
}

// TestProofsOfAllSubsets: every subset of leaves of every tree of up to 11
// leaves, with the update of exactly these leaves.
func TestProofsOfAllSubsets(t *testing.T) {
	for n := 1; n <= 11; n++ {
		leaves := testLeaves(n, 1)
		tree := FromLeaves(leaves, Plain{})
		root := reference.root(leaves)
		if got := mustRoot(t, tree); got != root {
			t.Fatalf("root of %d leaves is %v, want %v", n, got, root)
		}
		fresh := testLeaves(n, 2)
		for mask := 1; mask < 1<<n; mask++ {
			var indices []uint64
			changed := slices.Clone(leaves)
			for i := range n {
				if mask>>i&1 == 1 {
					indices = append(indices, uint64(i))
					changed[i] = fresh[i]
				}
			}
			proof := checkProof(t, tree, leaves, indices)
			before, after, err := RootsOf(uint64(n), indices, pick(leaves, indices), pick(changed, indices), proof)
			if want := reference.root(changed); err != nil || before != root || after != want {
				t.Fatalf("n %d, leaves %d: roots %v, %v, %v, want %v, %v", n, indices, before, after, err, root, want)
			}
			updated := FromLeaves(leaves, Plain{})
			if err := updated.Update(indices, pick(changed, indices)); err != nil {
				t.Fatal(err)
			}
			sameNodes(t, updated, FromLeaves(changed, Plain{}))
		}
	}
}

func TestProofsOfLargeTrees(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for _, n := range []int{100, 255, 256, 257, 1000, 4097, 20000} {
		leaves := testLeaves(n, 3)
		tree := FromLeaves(leaves, Plain{})
		for range 10 {
			checkProof(t, tree, leaves, randomIndices(r, uint64(n), 1+r.IntN(min(n, 200))))
		}
		all := make([]uint64, n)
		for i := range all {
			all[i] = uint64(i)
		}
		if proof := checkProof(t, tree, leaves, all); len(proof) != 0 {
			t.Errorf("the proof of all %d leaves has %d hashes", n, len(proof))
		}
	}
}

// randomIndices draws k of n, ascending.
func randomIndices(r *rand.Rand, n uint64, k int) []uint64 {
	seen := map[uint64]bool{}
	var out []uint64
	for len(out) < k {
		if x := r.Uint64N(n); !seen[x] {
			seen[x] = true
			out = append(out, x)
		}
	}
	slices.Sort(out)
	return out
}

// TestAlteredProofs alters each part of honest proofs, one at a time.
func TestAlteredProofs(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 4))
	for _, n := range []uint64{2, 3, 7, 8, 13, 64, 100, 1000} {
		if testing.Short() && n > 64 {
			continue
		}
		leaves := testLeaves(int(n), 5)
		tree := FromLeaves(leaves, Plain{})
		root := mustRoot(t, tree)
		for k := 1; k <= min(int(n)-1, 9); k++ {
			indices := randomIndices(r, n, k)
			shown := pick(leaves, indices)
			proof, err := tree.Prove(indices)
			if err != nil {
				t.Fatal(err)
			}
			if err := Verify(root, n, indices, shown, proof); err != nil {
				t.Fatal(err)
			}
			refuse := func(what string, at int, root Hash, n uint64, indices []uint64, leaves, proof []Hash) {
				t.Helper()
				if Verify(root, n, indices, leaves, proof) == nil {
					t.Errorf("n %d, leaves %d: accepted with %s %d", n, indices, what, at)
				}
			}
			for i := range proof {
				for _, bit := range []int{0, 7, 255} {
					refuse("a flipped bit in hash", i, root, n, indices, shown, flip(proof, i, bit))
				}
				refuse("a second copy of hash", i, root, n, indices, shown, slices.Insert(slices.Clone(proof), i, proof[i]))
				refuse("a foreign hash before", i, root, n, indices, shown, slices.Insert(slices.Clone(proof), i, Hash{1}))
				refuse("a missing hash", i, root, n, indices, shown, slices.Delete(slices.Clone(proof), i, i+1))
				for j := range i {
					refuse("a swapped hash", i, root, n, indices, shown, swap(proof, i, j))
				}
			}
			refuse("a hash more than", len(proof), root, n, indices, shown, append(slices.Clone(proof), Hash{}))
			refuse("a proof instead of leaves", 0, root, n, indices, nil, append(slices.Clone(shown), proof...))
			for i := range shown {
				for _, bit := range []int{0, 100} {
					refuse("a flipped bit in leaf", i, root, n, indices, flip(shown, i, bit), proof)
				}
				refuse("a second leaf", i, root, n, indices, slices.Insert(slices.Clone(shown), i, shown[i]), proof)
				refuse("a missing leaf", i, root, n, indices, slices.Delete(slices.Clone(shown), i, i+1), proof)
				for j := range i {
					refuse("a swapped leaf", i, root, n, indices, swap(shown, i, j), proof)
				}
				refuse("a second index", i, root, n, slices.Insert(slices.Clone(indices), i, indices[i]), shown, proof)
				refuse("a second index and leaf", i, root, n, slices.Insert(slices.Clone(indices), i, indices[i]), slices.Insert(slices.Clone(shown), i, shown[i]), proof)
				refuse("a missing index", i, root, n, slices.Delete(slices.Clone(indices), i, i+1), shown, proof)
				for x := range min(n, 100) {
					if moved := slices.Clone(indices); x != indices[i] {
						moved[i] = x
						refuse("a moved index", i, root, n, moved, shown, proof)
					}
				}
				beyond := slices.Clone(indices)
				beyond[i] = n
				refuse("an index beyond", i, root, n, beyond, shown, proof)
			}
			for bit := range 256 {
				refuse("another root", bit, flip([]Hash{root}, 0, bit)[0], n, indices, shown, proof)
			}
			refuse("no leaves, proof", 0, root, n, nil, nil, nil)
			refuse("no leaves, proof", 1, root, n, nil, nil, []Hash{root})
		}
	}
}

func flip(hashes []Hash, i, bit int) []Hash {
	out := slices.Clone(hashes)
	out[i][bit/8] ^= 1 << (bit % 8)
	return out
}

func swap(hashes []Hash, i, j int) []Hash {
	out := slices.Clone(hashes)
	out[i], out[j] = out[j], out[i]
	return out
}

// TestAlteredTransition: what RootsOf must refuse, and what it must not hide.
func TestAlteredTransition(t *testing.T) {
	leaves := testLeaves(100, 6)
	tree := FromLeaves(leaves, Plain{})
	root := mustRoot(t, tree)
	indices := []uint64{3, 4, 50, 99}
	before, after := pick(leaves, indices), testLeaves(4, 7)
	proof, err := tree.Prove(indices)
	if err != nil {
		t.Fatal(err)
	}
	if err := tree.Update(indices, after); err != nil {
		t.Fatal(err)
	}
	oldRoot, newRoot, err := RootsOf(100, indices, before, after, proof)
	if err != nil || oldRoot != root || newRoot != mustRoot(t, tree) {
		t.Fatalf("roots %v, %v, %v, want %v, %v", oldRoot, newRoot, err, root, mustRoot(t, tree))
	}
	for i := range proof {
		if o, _, err := RootsOf(100, indices, before, after, flip(proof, i, 9)); err != nil || o == root {
			t.Errorf("hash %d flipped: old root %v, %v", i, o, err)
		}
		if _, _, err := RootsOf(100, indices, before, after, slices.Delete(slices.Clone(proof), i, i+1)); err == nil {
			t.Errorf("accepted without hash %d", i)
		}
	}
	for i := range before {
		if o, _, err := RootsOf(100, indices, flip(before, i, 9), after, proof); err != nil || o == root {
			t.Errorf("old leaf %d flipped: old root %v, %v", i, o, err)
		}
		if _, w, err := RootsOf(100, indices, before, flip(after, i, 9), proof); err != nil || w == newRoot {
			t.Errorf("new leaf %d flipped: new root %v, %v", i, w, err)
		}
	}
	if _, _, err := RootsOf(100, indices, before, after[:3], proof); err == nil {
		t.Error("accepted with a new leaf less")
	}
	if _, _, err := RootsOf(100, indices, before[:3], after, proof); err == nil {
		t.Error("accepted with an old leaf less")
	}
}

// TestHugeTrees: the verifier does no work and takes no memory by a claimed n.
func TestHugeTrees(t *testing.T) {
	for _, n := range []uint64{1 << 40, 1<<63 + 1, 1<<64 - 1} {
		for _, indices := range [][]uint64{{0}, {n - 1}, {0, n - 1}, {n / 3, n / 2, n - 2}} {
			m, err := ProofLen(n, indices)
			if err != nil || m > 64*len(indices) {
				t.Errorf("n %d, leaves %d: %d hashes, %v", n, indices, m, err)
			}
			leaves := testLeaves(len(indices), 8)
			if _, err := RootOf(n, indices, leaves, make([]Hash, m)); err != nil {
				t.Errorf("n %d, leaves %d: %v", n, indices, err)
			}
			if _, err := RootOf(n, indices, leaves, make([]Hash, m+1)); err == nil {
				t.Errorf("n %d, leaves %d: accepted a hash too many", n, indices)
			}
		}
	}
	if _, err := RootOf(0, []uint64{0}, make([]Hash, 1), nil); err == nil {
		t.Error("accepted a leaf of an empty tree")
	}
}

// TestRootFrom: of the hashes given the proof is taken and the others are left; a
// hash too few is an error.
func TestRootFrom(t *testing.T) {
	r := rand.New(rand.NewPCG(31, 32))
	for n := 1; n <= 70; n += 1 + n/9 {
		leaves := testLeaves(n, uint64(n))
		tree := FromLeaves(leaves, Plain{})
		root := mustRoot(t, tree)
		for k := 1; k <= n; k += 1 + k/2 {
			indices := randomIndices(r, uint64(n), k)
			proof, err := tree.Prove(indices)
			if err != nil {
				t.Fatal(err)
			}
			more := append(append([]Hash(nil), proof...), Hash{1}, Hash{2})
			got, rest, err := RootFrom(Plain{}, uint64(n), indices, pick(leaves, indices), more)
			if err != nil || got != root || len(rest) != 2 || rest[0] != (Hash{1}) || rest[1] != (Hash{2}) {
				t.Fatalf("%d of %d: %v, %d hashes left, %v; want %v and 2", k, n, got, len(rest), err, root)
			}
			if len(proof) > 0 {
				if _, _, err := RootFrom(Plain{}, uint64(n), indices, pick(leaves, indices), proof[:len(proof)-1]); err == nil {
					t.Errorf("%d of %d: a hash too few is accepted", k, n)
				}
			}
		}
		if _, _, err := RootFrom(Plain{}, uint64(n), []uint64{uint64(n)}, leaves[:1], nil); err == nil {
			t.Errorf("leaf %d of %d is accepted", n, n)
		}
		if _, _, err := RootFrom(Plain{}, uint64(n), nil, nil, nil); err == nil {
			t.Error("no leaves are accepted")
		}
	}
}
