package hashmany

import (
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/geistnet/geist/merkle"
)

var _ merkle.Hasher = Hasher{}

// hashers are the ways to hash on this machine, slowest first.
func hashers(t testing.TB) map[string]Hasher {
	all := map[string]Hasher{}
	for _, p := range Paths() {
		all[p.String()] = Hasher{p}
	}
	if all[New().String()] != New() {
		t.Fatal("New is none of the paths")
	}
	return all
}

func testBytes(n int) []byte {
	b := make([]byte, n)
	rand.NewChaCha8([32]byte{5}).Read(b)
	return b
}

// expect holds the hashes of leaves against package merkle, one by one.
func expect(t *testing.T, h Hasher, leaves [][]byte) {
	t.Helper()
	got := make([]merkle.Hash, len(leaves)+1)
	h.Leaves(got[:len(leaves)], leaves)
	for i, l := range leaves {
		if want := merkle.HashLeaf(l); got[i] != want {
			t.Fatalf("leaf %d of %d, %d bytes: %v, want %v", i, len(leaves), len(l), got[i], want)
		}
	}
	if got[len(leaves)] != (merkle.Hash{}) {
		t.Fatalf("%d leaves: wrote behind them", len(leaves))
	}
}

// cut returns n leaves of size bytes, each at another alignment and with other
// bytes than its neighbours.
func cut(data []byte, n, size int) [][]byte {
	leaves := make([][]byte, n)
	for i := range leaves {
		leaves[i] = data[i*(size+1):][:size:size]
	}
	return leaves
}

// TestLeavesOfAllLengths: every length up to three chunks and a bit, then
// lengths around the ends of chunks and of blocks up to 64 kB.
func TestLeavesOfAllLengths(t *testing.T) {
	data := testBytes(20 * (70 << 10))
	var sizes []int
	for n := range 3*1024 + 130 {
		sizes = append(sizes, n)
	}
	for chunks := 4; chunks <= 17; chunks++ {
		for _, d := range []int{-64, -1, 0, 1, 63, 64, 65, 500} {
			sizes = append(sizes, 1024*chunks+d)
		}
	}
	sizes = append(sizes, 31*1024, 32*1024+1, 63*1024+7, 65536)
	for name, h := range hashers(t) {
		t.Run(name, func(t *testing.T) {
			for _, n := range sizes {
				expect(t, h, cut(data, 16, n))
			}
		})
	}
}

// TestNumbersOfLeaves: every number of lanes in use, and more than there are.
func TestNumbersOfLeaves(t *testing.T) {
	data := testBytes(60 * 5000)
	for name, h := range hashers(t) {
		t.Run(name, func(t *testing.T) {
			for n := range 50 {
				for _, size := range []int{0, 1, 64, 100, 1024, 2176, 3000} {
					expect(t, h, cut(data, n, size))
				}
			}
		})
	}
}

// TestMixedLeaves: runs of equal length between others.
func TestMixedLeaves(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	data := testBytes(10000)
	for name, h := range hashers(t) {
		t.Run(name, func(t *testing.T) {
			for range 300 {
				var leaves [][]byte
				for len(leaves) < 60 {
					size := r.IntN(2) * r.IntN(4000)
					for range 1 + r.IntN(20) {
						leaves = append(leaves, data[r.IntN(5000):][:size])
					}
				}
				expect(t, h, leaves)
			}
		})
	}
}

// TestNodes: every number of nodes, in place and not.
func TestNodes(t *testing.T) {
	data := testBytes(32 * 400)
	children := make([]merkle.Hash, 400)
	for i := range children {
		children[i] = merkle.Hash(data[32*i:])
	}
	for name, h := range hashers(t) {
		t.Run(name, func(t *testing.T) {
			for n := 0; n <= 200; n++ {
				apart, inPlace := make([]merkle.Hash, n+1), append([]merkle.Hash{}, children...)
				h.Nodes(apart[:n], children[:2*n])
				h.Nodes(inPlace[:n], inPlace[:2*n])
				for i := range n {
					want := merkle.HashNode(children[2*i], children[2*i+1])
					if apart[i] != want || inPlace[i] != want {
						t.Fatalf("node %d of %d: %v, in place %v, want %v", i, n, apart[i], inPlace[i], want)
					}
				}
				if apart[n] != (merkle.Hash{}) {
					t.Fatalf("%d nodes: wrote behind them", n)
				}
			}
		})
	}
}

// TestBuild: trees are the same.
func TestBuild(t *testing.T) {
	data := testBytes(3 << 20)
	for _, size := range []int{1, 64, 2176, 5000, 64 << 10} {
		rows, err := merkle.Rows(data[:min(len(data), 20000*size)], size)
		if err != nil {
			t.Fatal(err)
		}
		want, err := merkle.Build(t.Context(), rows, merkle.Options{})
		if err != nil {
			t.Fatal(err)
		}
		for name, h := range hashers(t) {
			if got, err := merkle.Build(t.Context(), rows, merkle.Options{Hasher: h}); err != nil || got != want {
				t.Errorf("%s, leaves of %d bytes: %v, %v, want %v", name, size, got, err, want)
			}
		}
	}
}

// TestLanes: leaves of every length of a lane, padded and not, and their parents.
func TestLanes(t *testing.T) {
	data := testBytes(Lanes * 1100)
	for name, h := range hashers(t) {
		t.Run(name, func(t *testing.T) {
			var left, right, above Words
			var got, want [Lanes]merkle.Hash
			for size := 1; size <= 1024; size++ {
				var in, zeros [Lanes]*byte
				for l := range in {
					leaf := data[l*1100+l%7:][:size]
					in[l] = &leaf[0]
					padded := make([]byte, (size+63)&^63)
					copy(padded, leaf)
					zeros[l] = &padded[0]
					want[l] = merkle.HashLeaf(leaf)
				}
				h.LeafLanes(&left, &in, size, false)
				h.LeafLanes(&right, &zeros, size, true)
				if h.Put(&got, &left); got != want {
					t.Fatalf("leaves of %d bytes: %v, want %v", size, got, want)
				}
				if right != left {
					t.Fatalf("leaves of %d bytes differ when padded", size)
				}
			}
			right[3][5] ^= 1
			var other [Lanes]merkle.Hash
			h.Put(&other, &right)
			h.NodeLanes(&above, &left, &right)
			h.NodeLanes(&left, &left, &right)
			h.Put(&got, &above)
			for l := range got {
				if got[l] != merkle.HashNode(want[l], other[l]) {
					t.Fatalf("parent in lane %d: %v", l, got[l])
				}
			}
			if above != left {
				t.Error("parents differ when made in place")
			}
		})
	}
}

func TestPathNames(t *testing.T) {
	for p, want := range map[Path]string{Generic: "generic", AVX512: "avx512", -1: "path -1", 3: "path 3"} {
		if got := p.String(); got != want {
			t.Errorf("path %d is called %q, want %q", int(p), got, want)
		}
	}
	t.Logf("paths that ran: %v", Paths())
}

func TestLengthsDiffer(t *testing.T) {
	for name, h := range hashers(t) {
		t.Run(name, func(t *testing.T) {
			defer func() {
				if recover() == nil {
					t.Error("more leaves than room for hashes, and no panic")
				}
			}()
			h.Leaves(make([]merkle.Hash, 3), make([][]byte, 4))
		})
	}
}

func FuzzLeaves(f *testing.F) {
	f.Add([]byte("abc"), uint16(1), uint8(20))
	f.Add(make([]byte, 5000), uint16(2049), uint8(17))
	f.Fuzz(func(t *testing.T, data []byte, size uint16, n uint8) {
		if len(data) < int(size) {
			return
		}
		leaves := make([][]byte, n)
		for i := range leaves {
			leaves[i] = data[min(i, len(data)-int(size)):][:size]
		}
		for _, h := range hashers(t) {
			expect(t, h, leaves)
		}
	})
}

func BenchmarkLeaves(b *testing.B) {
	for _, h := range hashers(b) {
		for _, size := range []int{64, 256, 1 << 10, 2 << 10, 2176, 4 << 10, 8 << 10, 64 << 10} {
			b.Run(fmt.Sprintf("%v/%d", h, size), func(b *testing.B) {
				leaves := cut(make([]byte, 16*(size+1)), 16, size)
				dst := make([]merkle.Hash, len(leaves))
				b.SetBytes(int64(16 * size))
				for b.Loop() {
					h.Leaves(dst, leaves)
				}
			})
		}
	}
}

func BenchmarkNodes(b *testing.B) {
	for _, h := range hashers(b) {
		b.Run(h.String(), func(b *testing.B) {
			children := make([]merkle.Hash, 256)
			dst := make([]merkle.Hash, 128)
			b.SetBytes(64 * 128)
			for b.Loop() {
				h.Nodes(dst, children)
			}
		})
	}
}
