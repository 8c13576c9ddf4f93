package sat

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
)

func normal(r *rand.Rand, n int) []float32 {
	x := make([]float32, n)
	for i := range x {
		x[i] = float32(r.NormFloat64())
	}
	return x
}

// picksByDefinition sorts all pairs.
func picksByDefinition(p *Product, a, b []float32) []Pick {
	var all []Pick
	for i, x := range a {
		for j, y := range b {
			all = append(all, Pick{i*p.Keys + j, x + y})
		}
	}
	slices.SortFunc(all, before)
	return all[:p.TopK]
}

// TestPicks compares with the definition on scores of several kinds: smooth,
// of few values, equal, and such that the sums round to each other.
func TestPicks(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for round := range 6000 {
		p := &Product{Heads: 1, Keys: 1 + r.IntN(14), Dim: 1}
		p.TopK = 1 + r.IntN(min(40, p.Keys*p.Keys))
		a, b := normal(r, p.Keys), normal(r, p.Keys)
		for i := range a {
			switch round % 5 {
			case 1:
				a[i], b[i] = float32(r.IntN(3)), float32(r.IntN(3))
			case 2:
				a[i], b[i] = 1, -1
			case 3:
				b[i] = 1 << 23 // so that small differences are lost
				a[i] /= 4
			case 4:
				b[i] = float32(int(1<<24) + r.IntN(8))
				a[i] = float32(r.IntN(9)) / 2
			}
		}
		got, ok := p.Picks(nil, a, b)
		if want := picksByDefinition(p, a, b); !ok || !slices.Equal(got, want) {
			t.Fatalf("round %d, %d of %d²: %v, want %v", round, p.TopK, p.Keys, got, want)
		}
	}
}

func TestPicksVoid(t *testing.T) {
	p := &Product{Heads: 1, Keys: 3, Dim: 1, TopK: 2}
	inf := float32(math.Inf(1))
	for _, bad := range []float32{inf, -inf, inf - inf} {
		for i := range 3 {
			x := []float32{1, 2, 3}
			x[i] = bad
			if _, ok := p.Picks(nil, x, []float32{1, 2, 3}); ok {
				t.Errorf("%v is picked from", x)
			}
			if _, ok := p.Picks(nil, []float32{1, 2, 3}, x); ok {
				t.Errorf("%v is picked from", x)
			}
		}
	}
	big := []float32{3e38, 0, 0}
	if _, ok := p.Picks(nil, big, big); ok {
		t.Error("an infinite sum is picked")
	}
	small := []float32{-3e38, 0, 0}
	if _, ok := p.Picks(nil, small, small); !ok {
		t.Error("an infinite sum that is not picked makes the run void")
	}
}

func TestWeights(t *testing.T) {
	w := make([]float32, 3)
	Weights(w, []Pick{{5, 1}, {2, 1}, {9, 1}})
	if w[0] != w[1] || w[1] != w[2] || w[0] != float32(1)/3 {
		t.Errorf("%v", w)
	}
}

// TestHashSpread: rows are spread evenly, parts, orders, salts and tokens tell
// rows apart, and only the last tokens count.
func TestHashSpread(t *testing.T) {
	h := &Hash{Orders: []int{2, 3}, Heads: 2, Rows: 64, Salt: 5}
	if err := h.Check(); err != nil {
		t.Fatal(err)
	}
	counts := make([]int, h.TableRows())
	r := rand.New(rand.NewPCG(3, 4))
	const n = 64000
	for range n {
		tokens := []int32{int32(r.IntN(50)), int32(r.IntN(50)), int32(r.IntN(50))}
		ids := h.IDs(nil, tokens)
		if len(ids) != h.Count() {
			t.Fatalf("%d rows, want %d", len(ids), h.Count())
		}
		for i, id := range ids {
			if id/h.Rows != i {
				t.Fatalf("row %d of part %d", id, i)
			}
			counts[id]++
		}
	}
	for id, c := range counts {
		if c < n/64/2 || c > n/64*2 {
			t.Errorf("row %d is read %d times of %d", id, c, n)
		}
	}
	long := make([]int32, 40)
	for i := range long {
		long[i] = int32(r.IntN(1000))
	}
	if !slices.Equal(h.IDs(nil, long), h.IDs(nil, long[37:])) {
		t.Error("tokens before the n-gram count")
	}
	if slices.Equal(h.IDs(nil, []int32{7}), h.IDs(nil, []int32{0, 0, 7})) {
		t.Error("padding is token 0")
	}
	if !slices.Equal(h.IDs(nil, []int32{7}), h.IDs(nil, []int32{Padding, Padding, 7})) {
		t.Error("padding is not the padding id")
	}
	other := *h
	other.Salt++
	if slices.Equal(h.IDs(nil, long), other.IDs(nil, long)) {
		t.Error("the salt does not count")
	}
}

func TestRuleCheck(t *testing.T) {
	good := func() *Partition {
		return &Partition{Dim: 1, Begins: []int{0, 2, 3}, Centroids: []float32{0, 1}}
	}
	inf := float32(math.Inf(1))
	for _, c := range []struct {
		want string
		r    Rule
	}{
		{"", Rule{Hash: &Hash{Orders: []int{2, 3}, Heads: 8, Rows: 1 << 20}}},
		{"", Rule{Product: &Product{Heads: 4, Keys: 512, Dim: 64, TopK: 32}}},
		{"", Rule{Index: &Index{Count: 1}}},
		{"", Rule{Cells: &Cells{Partition: good(), Probe: 2, TopK: 16}}},
		{"0 kinds", Rule{}},
		{"2 kinds", Rule{Index: &Index{Count: 1}, Hash: &Hash{Orders: []int{1}, Heads: 1, Rows: 1}}},
		{"the number of orders is 0", Rule{Hash: &Hash{Heads: 1, Rows: 1}}},
		{"the length of an n-gram is 17", Rule{Hash: &Hash{Orders: []int{17}, Heads: 1, Rows: 1}}},
		{"follow those of 2", Rule{Hash: &Hash{Orders: []int{2, 2}, Heads: 1, Rows: 1}}},
		{"the number of heads is 257", Rule{Hash: &Hash{Orders: []int{2}, Heads: 257, Rows: 1}}},
		{"the number of all rows is", Rule{Hash: &Hash{Orders: []int{2}, Heads: 2, Rows: 1 << 30}}},
		{"the number of rows of a head is 0", Rule{Hash: &Hash{Orders: []int{2}, Heads: 2}}},
		{"the number of sub-keys is 0", Rule{Product: &Product{Heads: 1, Dim: 1, TopK: 1}}},
		{"the number of heads is 0", Rule{Product: &Product{Keys: 1, Dim: 1, TopK: 1}}},
		{"the width of a half query", Rule{Product: &Product{Heads: 1, Keys: 1, TopK: 1}}},
		{"the number of rows of a head is 5", Rule{Product: &Product{Heads: 1, Keys: 2, Dim: 1, TopK: 5}}},
		{"the number of rows is 0", Rule{Index: &Index{}}},
		{"no partition", Rule{Cells: &Cells{Probe: 1, TopK: 1}}},
		{"the number of cells shown is 3", Rule{Cells: &Cells{Partition: good(), Probe: 3, TopK: 16}}},
		{"do not begin at row 0", Rule{Cells: &Cells{Partition: &Partition{1, []int{1, 2}, []float32{0}}, Probe: 1, TopK: 1}}},
		{"have 2 values", Rule{Cells: &Cells{Partition: &Partition{1, []int{0, 2}, []float32{0, 1}}, Probe: 1, TopK: 1}}},
		{"is not finite", Rule{Cells: &Cells{Partition: &Partition{1, []int{0, 2}, []float32{inf}}, Probe: 1, TopK: 1}}},
	} {
		err := c.r.Check()
		if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
			t.Errorf("%v, want %q", err, c.want)
		}
	}
}

func BenchmarkPicks(b *testing.B) {
	r := rand.New(rand.NewPCG(1, 2))
	for _, p := range []*Product{{Heads: 1, Keys: 64, Dim: 1, TopK: 8}, {Heads: 1, Keys: 512, Dim: 1, TopK: 32}} {
		x, y := normal(r, p.Keys), normal(r, p.Keys)
		b.Run(fmt.Sprintf("%dof%d", p.TopK, p.Keys), func(b *testing.B) {
			b.ReportAllocs()
			picks := make([]Pick, 0, p.TopK)
			for b.Loop() {
				p.Picks(picks, x, y)
			}
		})
	}
}
