package arith

import (
	"math"
	"math/rand/v2"
	"slices"
	"testing"
)

// The shorter ways give the bits of the general one, for any bytes.
func TestDotFast(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 1))
	for _, f := range []Format{Q8_0, Q4_0, Q4_K} {
		for trial := range 400 {
			n := f.BlockLen() * (1 + trial%9)
			row := make([]byte, f.RowBytes(n))
			for i := range row {
				row[i] = byte(r.Uint32())
			}
			a := Activations{Block: f.ActBlock(), Q: make([]int8, n), D: make([]float32, n/f.ActBlock())}
			for i := range a.Q {
				a.Q[i] = int8(r.IntN(255) - 127)
				if trial%5 == 0 { // the ends of the range
					a.Q[i] = 127
				}
			}
			for i := range a.D {
				a.D[i] = r.Float32()
			}
			got, want := Dot(f, row, a), dotBlocks(f, row, a)
			if math.Float32bits(got) != math.Float32bits(want) && (got == got || want == want) {
				t.Fatalf("%v, %d columns: %v, want %v", f, n, got, want)
			}
		}
	}
}

// descending takes what sorting and cutting would take.
func TestDescending(t *testing.T) {
	r := rand.New(rand.NewPCG(4, 1))
	for trial := range 300 {
		c := make([]candidate, 1+r.IntN(200))
		for i := range c {
			c[i] = candidate{id: int32(i), l: float32(r.IntN(40)), w: uint64(r.IntN(9))}
		}
		r.Shuffle(len(c), func(i, j int) { c[i], c[j] = c[j], c[i] })
		for which, before := range []func(x, y candidate) bool{byLogit, byWeight} {
			sorted := slices.Clone(c)
			slices.SortFunc(sorted, func(x, y candidate) int {
				if before(x, y) {
					return -1
				}
				return 1
			})
			n := 1 + r.IntN(len(c))
			left := n
			got := descending(slices.Clone(c), before, func(candidate) bool { left--; return left > 0 })
			if which == 0 && trial%2 == 0 {
				got = nil
				for _, x := range c {
					got = largest(got, n, x)
				}
			}
			slices.SortFunc(got, func(x, y candidate) int {
				if before(x, y) {
					return -1
				}
				return 1
			})
			if !slices.Equal(got, sorted[:n]) {
				t.Fatalf("trial %d: %v, want %v", trial, got, sorted[:n])
			}
		}
		// Never enough: all of them.
		if got := descending(slices.Clone(c), byLogit, func(candidate) bool { return true }); len(got) != len(c) {
			t.Fatalf("%d of %d", len(got), len(c))
		}
	}
}
