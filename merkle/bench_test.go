package merkle

import (
	"fmt"
	"math/rand/v2"
	"testing"
)

func BenchmarkHashLeaf(b *testing.B) {
	for _, n := range []int{64, 1 << 10, 2 << 10, 4 << 10, 8 << 10, 64 << 10} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			data := make([]byte, n)
			b.SetBytes(int64(n))
			for b.Loop() {
				HashLeaf(data)
			}
		})
	}
}

func BenchmarkHashNode(b *testing.B) {
	var h Hash
	for b.Loop() {
		h = HashNode(h, h)
	}
}

var sizes = []int{32, 128, 384}

func BenchmarkProve(b *testing.B) {
	leaves := testLeaves(1<<20, 30)
	tree := FromLeaves(leaves, Plain{})
	root := mustRoot(b, tree)
	for _, k := range sizes {
		indices := randomIndices(rand.New(rand.NewPCG(1, uint64(k))), 1<<20, k)
		shown := pick(leaves, indices)
		proof, err := tree.Prove(indices)
		if err != nil {
			b.Fatal(err)
		}
		b.Run(fmt.Sprintf("prove/%d", k), func(b *testing.B) {
			for b.Loop() {
				if _, err := tree.Prove(indices); err != nil {
					b.Fatal(err)
				}
			}
		})
		b.Run(fmt.Sprintf("verify/%d", k), func(b *testing.B) {
			b.ReportMetric(float64(32*len(proof)), "proof-bytes")
			for b.Loop() {
				if err := Verify(root, 1<<20, indices, shown, proof); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkUpdate(b *testing.B) {
	const k = 384
	leaves := testLeaves(1<<20, 31)
	tree := FromLeaves(leaves, Plain{})
	indices := randomIndices(rand.New(rand.NewPCG(2, k)), 1<<20, k)
	fresh := testLeaves(k, 32)
	proof, err := tree.Prove(indices)
	if err != nil {
		b.Fatal(err)
	}
	b.Run("tree", func(b *testing.B) {
		for b.Loop() {
			if err := tree.Update(indices, fresh); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("roots", func(b *testing.B) {
		for b.Loop() {
			if _, _, err := RootsOf(1<<20, indices, pick(leaves, indices), fresh, proof); err != nil {
				b.Fatal(err)
			}
		}
	})
}

func BenchmarkBuild(b *testing.B) {
	data := make([]byte, 64<<20)
	rows, err := Rows(data, 2176)
	if err != nil {
		b.Fatal(err)
	}
	b.SetBytes(int64(len(data)))
	for b.Loop() {
		if _, err := Build(b.Context(), rows, Options{}); err != nil {
			b.Fatal(err)
		}
	}
}
