package quality

import (
	"fmt"
	"math"
	"math/rand/v2"
	"testing"

	"github.com/geistnet/geist/arith"
)

// The variant of matrix products in which a whole row is one integer sum, see
// docs/design/0006-float-block-sums.md: what it costs in quality on a small model.
func TestIntegerSums(t *testing.T) {
	if testing.Short() {
		t.Skip("takes many seconds")
	}
	f := openStories(t)
	windows := readWindows(t, f, textBytes(t, 2000))
	exact := readReference(t, f)
	base := logProbs(func(w []int32) [][]float64 { return exact.logits(scheme{}, w) }, windows)
	for _, to := range formats() {
		g := requantised(t, f, to)
		r := readReference(t, g)
		show := func(name string, x figures) figures {
			t.Logf("%v, %-28s perplexity %.6f, divergence %.5g nats", to, name, x.ppl, x.kl)
			return x
		}
		show("canonical", canonical(t, g, windows, base))
		show("float64, weights", r.measure(scheme{}, windows, base))
		floats := show("float64 sums of blocks", r.measure(scheme{blocks: true}, windows, base))
		for _, bits := range []int{6, 8, 10, 12} {
			x := show(fmt.Sprintf("integers, scales of %d bits", bits), r.measure(scheme{blocks: true, scaleBits: bits}, windows, base))
			if bits == 12 && !(math.Abs(x.kl-floats.kl) < 0.25*floats.kl) {
				t.Errorf("%v: divergence %g with integer scales of 12 bits, %g with float scales", to, x.kl, floats.kl)
			}
		}
	}
}

// Rows as wide as those of large models, whose activations have blocks of very
// different sizes. The first block's weights are zero: what an outlier there
// does is to set the unit of the whole input.
func TestIntegerSumsOfWideRows(t *testing.T) {
	const blocks, rows = 128, 512
	rnd := rand.New(rand.NewPCG(1, 2))
	m := &matrix{rows: rows, cols: 32 * blocks}
	d := make([]float64, rows*blocks)
	for b := range d {
		d[b] = float64(arith.RoundF16(float32(0.001 * math.Exp(0.3*rnd.NormFloat64()))))
		for range 32 {
			q := int8(0)
			if b%blocks > 0 {
				q = int8(rnd.IntN(255) - 127)
			}
			m.q, m.w = append(m.q, q), append(m.w, d[b]*float64(q))
		}
	}
	m.integers(d)
	for i, v := range m.mantissa {
		if float64(v)*m.unit[i/blocks] != d[i] {
			t.Fatalf("scale %v becomes %v, though its row's exponents are close", d[i], float64(v)*m.unit[i/blocks])
		}
	}
	for _, c := range []struct {
		name    string
		spread  float64 // standard deviation of the logarithm of a block's size
		outlier float64 // factor of one value
	}{
		{"equal blocks", 0, 1}, {"blocks spread e^±1", 1, 1}, {"blocks spread e^±2", 2, 1},
		{"one value 30 times larger", 0, 30}, {"one value 300 times larger", 0, 300}, {"one value 3000 times larger", 0, 3000},
	} {
		x := make([]float64, 32*blocks)
		for b := range blocks {
			size := math.Exp(c.spread * rnd.NormFloat64())
			for i := range 32 {
				x[32*b+i] = size * rnd.NormFloat64()
			}
		}
		x[5] *= c.outlier
		want := scheme{}.mul(m, x)
		size := rms(want, nil)
		floats := rms(scheme{blocks: true}.mul(m, x), want) / size
		for _, bits := range []int{8, 10, 12} {
			e := rms(scheme{blocks: true, scaleBits: bits}.mul(m, x), want) / size
			t.Logf("%-28s relative error with float scales %.5f, with integers of %2d bits %.5f (×%.2f)", c.name, floats, bits, e, e/floats)
			switch {
			case bits == 12 && c.outlier <= 30 && e > 1.1*floats:
				t.Errorf("%s: error %g with integers of 12 bits, %g with floats", c.name, e, floats)
			case bits == 8 && c.outlier >= 3000 && e < 2*floats:
				t.Errorf("%s: error %g with integers of 8 bits, no worse than %g with floats; the note says otherwise", c.name, e, floats)
			}
		}
	}
}

// rms is the root mean square of x − y, y nil for zeros.
func rms(x, y []float64) float64 {
	s := 0.0
	for i, v := range x {
		if y != nil {
			v -= y[i]
		}
		s += v * v
	}
	return math.Sqrt(s / float64(len(x)))
}
