package merkle

import (
	"encoding/binary"
	"slices"
	"testing"
)

func hashesOf(b []byte) []Hash {
	out := make([]Hash, 0, len(b)/32)
	for ; len(b) >= 32; b = b[32:] {
		out = append(out, Hash(b))
	}
	return out
}

// FuzzRootOf: no input makes the verifier panic; what it accepts has the length
// it demands; and a small tree is never opened but to its own leaves.
func FuzzRootOf(f *testing.F) {
	leaves := testLeaves(23, 20)
	tree := FromLeaves(leaves, Plain{})
	root, err := tree.Root()
	if err != nil {
		f.Fatal(err)
	}
	honest := func(indices ...uint64) {
		proof, err := tree.Prove(indices)
		if err != nil {
			f.Fatal(err)
		}
		var x, l, p []byte
		for _, i := range indices {
			x = binary.LittleEndian.AppendUint64(x, i)
			l = append(l, leaves[i][:]...)
		}
		for _, h := range proof {
			p = append(p, h[:]...)
		}
		f.Add(uint64(23), x, l, p)
	}
	honest(0)
	honest(22)
	honest(3, 4, 5, 20)
	f.Add(uint64(1<<64-1), make([]byte, 8), make([]byte, 32), make([]byte, 64*32))
	f.Add(uint64(0), []byte{}, []byte{}, []byte{})
	f.Fuzz(func(t *testing.T, n uint64, rawIndices, rawLeaves, rawProof []byte) {
		var indices []uint64
		for b := rawIndices; len(b) >= 8; b = b[8:] {
			indices = append(indices, binary.LittleEndian.Uint64(b))
		}
		shown, proof := hashesOf(rawLeaves), hashesOf(rawProof)
		before := slices.Clone(indices)
		_, err := RootOf(n, indices, shown, proof)
		if !slices.Equal(indices, before) {
			t.Fatal("indices were changed")
		}
		m, lenErr := ProofLen(n, indices)
		if err == nil && (lenErr != nil || m != len(proof) || len(shown) != len(indices)) {
			t.Fatalf("accepted %d hashes and %d leaves for leaves %d in %d", len(proof), len(shown), indices, n)
		}
		if err != nil && lenErr == nil && m == len(proof) && len(shown) == len(indices) {
			t.Fatalf("refused %d hashes for leaves %d in %d: %v", len(proof), indices, n, err)
		}
		if Verify(root, 23, indices, shown, proof) == nil && !slices.Equal(shown, pick(leaves, indices)) {
			t.Fatalf("leaves %d opened to %v", indices, shown)
		}
	})
}

// FuzzTree: building, growing and the definition agree on any data.
func FuzzTree(f *testing.F) {
	f.Add([]byte("abcdefgh"), uint8(3), uint8(2))
	f.Add(make([]byte, 2000), uint8(200), uint8(7))
	f.Fuzz(func(t *testing.T, data []byte, size, step uint8) {
		if len(data) == 0 || size == 0 || step == 0 {
			return
		}
		leaves := reference.hashes(pieces(data, int(size)))
		want := reference.root(leaves)
		rows, err := Rows(data, int(size))
		if err != nil {
			t.Fatal(err)
		}
		if got, err := Build(t.Context(), rows, Options{Workers: 2}); err != nil || got != want {
			t.Fatalf("built %v, %v, want %v", got, err, want)
		}
		tree := Open(&Memory{}, 0, Plain{})
		for rest := leaves; len(rest) > 0; rest = rest[min(int(step), len(rest)):] {
			if err := tree.Append(rest[:min(int(step), len(rest))]...); err != nil {
				t.Fatal(err)
			}
		}
		var indices []uint64
		for i := uint64(0); i < tree.Len(); i += uint64(step) {
			indices = append(indices, i)
		}
		if got := mustRoot(t, tree); got != want {
			t.Fatalf("grown %v, want %v", got, want)
		}
		checkProof(t, tree, leaves, indices)
	})
}
