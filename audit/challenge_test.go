package audit

import (
	"encoding/binary"
	"math"
	"slices"
	"testing"
)

// Each tail is opened whole in one challenge of FullOneIn, whatever the others
// are, and no number of cells or tails changes which.
func TestWhole(t *testing.T) {
	const n = 8000
	var one, both int
	for i := range n {
		ch := Challenge{Cells: 3, Tails: 5, Full: 2}
		binary.LittleEndian.PutUint64(ch.Seed[:], uint64(i))
		w := ch.whole()
		if len(w) != 2 {
			t.Fatalf("%d tails, want 2", len(w))
		}
		count := 0
		for _, x := range w {
			if x {
				count++
			}
		}
		if one += count; count == 2 {
			both++
		}
		if count != ch.Whole() {
			t.Fatalf("seed %d: %d tails are opened whole, Whole says %d", i, count, ch.Whole())
		}
		ch.Cells, ch.Tails, ch.Full = 0, 9, 7
		if more := ch.whole(); !slices.Equal(more[:2], w) {
			t.Fatalf("seed %d: %v are opened whole of 2, %v of 7", i, w, more)
		}
	}
	// Five standard deviations of binomial counts.
	for _, x := range []struct {
		got, of int
		p       float64
	}{{one, 2 * n, 1.0 / FullOneIn}, {both, n, 1.0 / FullOneIn / FullOneIn}} {
		mean := float64(x.of) * x.p
		if d := math.Abs(float64(x.got) - mean); d > 5*math.Sqrt(mean*(1-x.p)) {
			t.Errorf("%d of %d, expected about %.0f", x.got, x.of, mean)
		}
	}
}
