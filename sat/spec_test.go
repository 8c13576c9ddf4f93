package sat

import (
	"fmt"
	"math/rand/v2"
	"os"
	"strings"
	"testing"

	"github.com/geistnet/geist/arith"
)

// vectors are the pieces of text that docs/spec/lookup.md has to have, by the
// place where they stand.
func vectors(t *testing.T) map[string]string {
	t.Helper()
	v := map[string]string{}
	h := &Hash{Orders: []int{2, 3}, Heads: 2, Rows: 1000, Salt: 1}
	for _, x := range [][]int32{{0}, {5}, {1, 2}, {3, 1, 2}, {4, 3, 1, 2}, {70000, 65535, 131071}} {
		v["HASH"] += fmt.Sprintf("| %s | %s |\n", plain(x), plain(h.IDs(nil, x)))
	}
	for _, c := range []struct {
		k    int
		a, b []float32
	}{
		{3, []float32{1, 4, 2}, []float32{0.5, 0.25, 3}},
		{4, []float32{0, 0, 0}, []float32{0, 0, 0}},
		{1, []float32{0.25, 0.5, 0}, []float32{16777216, 0, 0}},
		{3, []float32{0.5, 0, 0.75}, []float32{16777216, 16777215, 16777216}},
	} {
		p := &Product{Heads: 1, Keys: len(c.a), Dim: 1, TopK: c.k}
		picks, ok := p.Picks(nil, c.a, c.b)
		if !ok {
			t.Fatal("void")
		}
		var rows []int
		for _, x := range picks {
			rows = append(rows, x.Row)
		}
		v["PICK"] += fmt.Sprintf("| %d | %d | %s | %s | %s |\n", p.Keys, c.k, plain(c.a), plain(c.b), plain(rows))
	}
	var all [][]byte
	for i := range 5 {
		all = append(all, f16Row([]float32{float32(i), float32(i * i)}))
	}
	w := newWorld(t, all, arith.F16, 2)
	v["ROOT"] = w.Root.String()
	v["LOOKUP"] = fmt.Sprintf("%x", w.lookup(t, 3, []uint64{1, 4}))
	v["SHORT"] = fmt.Sprintf("%x", w.lookup(t, 1, []uint64{1, 4}))
	p := &Partition{2, []int{0, 2, 3, 5}, []float32{0.5, 0.5, 2, 4, 3.5, 12.5}}
	v["PART"] = p.Root().String()
	rule := Rule{Cells: &Cells{Partition: p, Probe: 2, TopK: 2}}
	s, err := rule.Select(&w.Table, Input{Query: []float32{2, 6}})
	if err != nil {
		t.Fatal(err)
	}
	rows, err := w.top(t, 3).Open(w.lookup(t, 3, s.IDs), s.IDs)
	if err != nil {
		t.Fatal(err)
	}
	near, err := s.Nearest(&w.Table, rows)
	if err != nil {
		t.Fatal(err)
	}
	v["NEAR"] = fmt.Sprintf("%d and %d", near[0].Row, near[1].Row)
	return v
}

func plain(x any) string { return strings.Trim(fmt.Sprint(x), "[]") }

// TestSpecification: the page has the vectors.
func TestSpecification(t *testing.T) {
	b, err := os.ReadFile("../docs/spec/lookup.md")
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range vectors(t) {
		if !strings.Contains(string(b), want) {
			t.Errorf("the page does not have %s:\n%s", name, want)
		}
	}
}

// TestGoldenRows hashes many choices of every rule into one value.
func TestGoldenRows(t *testing.T) {
	r := rand.New(rand.NewPCG(25, 26))
	sum := uint64(0)
	for range 300 {
		for _, q := range questions(t, r) {
			s, err := q.rule.Select(&q.Table, q.in)
			if err != nil {
				continue
			}
			for _, id := range s.IDs {
				sum = absorb(sum, id)
			}
		}
	}
	const want = 0x4db2a01e9ebabf7a
	if sum != want {
		t.Errorf("%#x, want %#x", sum, uint64(want))
	}
}
