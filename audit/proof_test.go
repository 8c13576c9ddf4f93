package audit

import (
	"math/rand/v2"
	"testing"

	"github.com/geistnet/geist/arith"
	"github.com/geistnet/geist/ghost"
	"github.com/geistnet/geist/sat"
)

// Leaves are found whatever their order and number, and those of a tree of which
// many are opened without looking through all.
func TestOpened(t *testing.T) {
	for _, n := range []int{1, fewOpened, fewOpened + 1, 5000} {
		o := &opened{}
		r := rand.New(rand.NewPCG(1, uint64(n)))
		order := r.Perm(n)
		for k, i := range order {
			if _, ok := o.find(3 * i); ok {
				t.Fatalf("leaf %d is found before it is opened", i)
			}
			if _, err := o.add(3*i, []byte{byte(i), byte(i >> 8)}, nil); err != nil {
				t.Fatal(err)
			}
			if want := k > fewOpened; (len(o.place) == k+1) != want {
				t.Fatalf("of %d leaves %d are in the map", k+1, len(o.place))
			}
		}
		found := func() {
			t.Helper()
			for range 2 * n {
				i := r.IntN(n)
				for j := i; j < min(i+2, n); j++ { // ascending too
					if b, ok := o.find(3 * j); !ok || b[0] != byte(j) || b[1] != byte(j>>8) {
						t.Fatalf("leaf %d of %d is %v, %v", j, n, b, ok)
					}
				}
				if _, ok := o.find(3*i + 1); ok {
					t.Fatalf("leaf %d is found, and was not opened", 3*i+1)
				}
			}
		}
		found()
		for j, i := range order { // as they were asked for
			if o.index[j] != uint64(3*i) {
				t.Fatalf("leaf %d stands at %d", i, j)
			}
		}
		o.sort()
		found()
	}
}

// More product keys than an audit opens are refused before any is read.
func TestManyKeys(t *testing.T) {
	run := func(p sat.Product, f arith.Format) error {
		m := &ghost.Model{Vocab: 8, Context: 8, Rules: []sat.Rule{{Product: &p}}, Layers: []ghost.Layer{{}, {Memory: &ghost.Memory{}}},
			Tensors: []ghost.Tensor{{Format: f, Rows: p.KeyRows(), Cols: p.Dim}}}
		return (&Run{Model: m, Prompt: []int32{1}, Answer: []int32{2}}).Check()
	}
	for _, c := range []struct {
		p  sat.Product
		f  arith.Format
		ok bool
	}{
		{sat.Product{Heads: 8, Keys: 1024, Dim: 128, TopK: 8}, arith.F32, true},
		{sat.Product{Heads: 2, Keys: MaxKeyRows / 4, Dim: 1, TopK: 8}, arith.F16, true},
		{sat.Product{Heads: 4, Keys: MaxKeyRows / 4, Dim: 1, TopK: 8}, arith.F16, false},
		{sat.Product{Heads: 1, Keys: MaxKeyBytes / 4096 / 4, Dim: 2048, TopK: 8}, arith.F32, true},
		{sat.Product{Heads: 1, Keys: MaxKeyBytes/4096/4 + 1, Dim: 2048, TopK: 8}, arith.F32, false},
	} {
		if err := run(c.p, c.f); (err == nil) != c.ok {
			t.Errorf("%+v in %v: %v", c.p, c.f, err)
		}
	}
}
