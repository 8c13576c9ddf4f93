package audit

import (
	"math/rand/v2"
	"testing"
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
