package train

import (
	"math"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/geistnet/geist/internal/matmul"
)

func normals(r *rand.Rand, n int) []float32 {
	x := make([]float32, n)
	for i := range x {
		x[i] = float32(r.NormFloat64())
	}
	return x
}

// slope is the derivative of loss by x[i], by central differences of two widths.
func slope(x []float32, i int, loss func() float64) float64 {
	old := x[i]
	at := func(h float32) float64 {
		x[i] = old + h
		l := loss()
		x[i] = old
		return l
	}
	const h = 1.0 / 64
	wide, narrow := (at(2*h)-at(-2*h))/(4*h), (at(h)-at(-h))/(2*h)
	return (4*narrow - wide) / 3
}

func near(a, b float64) bool { return math.Abs(a-b) <= 2e-3*math.Abs(b)+2e-4 }

func dot64(x, y []float32) (s float64) {
	for i := range x {
		s += float64(x[i]) * float64(y[i])
	}
	return s
}

func TestHopfieldGradient(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 1))
	const n, d, dv = 20, 6, 9
	h := &Hopfield{matmul.Of(normals(r, n*d), n, d), matmul.Of(normals(r, n*dv), n, dv), 0.7, matmul.Best()}
	x, dy := normals(r, d), normals(r, dv)
	for _, k := range []int{1, 5, n} {
		rows := h.Nearest(x, k)
		y := make([]float32, dv)
		l, err := h.Forward(y, x, rows)
		if err != nil {
			t.Fatal(err)
		}
		dx, dk, dvals := make([]float32, d), make([]float32, k*d), make([]float32, k*dv)
		h.Backward(dx, dk, dvals, l, x, dy)
		loss := func() float64 {
			out := make([]float32, dv)
			if _, err := h.Forward(out, x, rows); err != nil {
				t.Fatal(err)
			}
			return dot64(out, dy)
		}
		for i := range x {
			if want := slope(x, i, loss); !near(float64(dx[i]), want) {
				t.Errorf("k %d: query %d: %g, differences say %g", k, i, dx[i], want)
			}
		}
		for j, row := range rows {
			for i := range d {
				if want := slope(h.key(row), i, loss); !near(float64(dk[j*d+i]), want) {
					t.Errorf("k %d: key %d of row %d: %g, differences say %g", k, i, row, dk[j*d+i], want)
				}
			}
			for i := range dv {
				if want := slope(h.value(row), i, loss); !near(float64(dvals[j*dv+i]), want) {
					t.Errorf("k %d: value %d of row %d: %g, differences say %g", k, i, row, dvals[j*dv+i], want)
				}
			}
		}
	}
}

// TestHopfieldIsDense compares the lookup of all rows with the dense layer.
func TestHopfieldIsDense(t *testing.T) {
	r := rand.New(rand.NewPCG(2, 1))
	const n, d, dv = 48, 32, 16
	h := &Hopfield{matmul.Of(normals(r, n*d), n, d), matmul.Of(normals(r, n*dv), n, dv), 0.3, matmul.Best()}
	for range 20 {
		x := normals(r, d)
		p := make([]float32, n)
		for i := range p {
			p[i] = h.Path.Dot(h.key(i), x) * h.Beta
		}
		h.Path.Softmax(p)
		want := make([]float32, dv)
		for i, w := range p {
			for j, v := range h.value(i) {
				want[j] += float32(w * v)
			}
		}
		got := make([]float32, dv)
		if _, err := h.Forward(got, x, h.Nearest(x, n)); err != nil {
			t.Fatal(err)
		}
		if !slices.Equal(got, want) {
			t.Fatalf("all rows give %v, the dense layer %v", got, want)
		}
	}
	for _, rows := range [][]int{nil, {3, 3}, {4, 2}, {-1}, {n}} {
		if _, err := h.Forward(make([]float32, dv), make([]float32, d), rows); err == nil {
			t.Errorf("rows %v: no error", rows)
		}
	}
	same := &Hopfield{matmul.Of(make([]float32, 8), 4, 2), matmul.Of(make([]float32, 8), 4, 2), 1, matmul.Best()}
	if got := same.Nearest([]float32{1, 1}, 2); !slices.Equal(got, []int{0, 1}) {
		t.Errorf("of equal rows %v are the nearest, want the first", got)
	}
}

func TestRecallGradient(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 1))
	const d = 8
	m := &Recall{Dim: d, TopK: 6, Most: 6, Path: matmul.Best()}
	q, o, dy := normals(r, d), normals(r, d), normals(r, d)
	y := make([]float32, d)
	if _, err := m.Mix(y, q, o, 1); err != nil || !slices.Equal(y, o) {
		t.Fatalf("without memory %v, error %v; want %v", y, err, o)
	}
	m.Remember(normals(r, 5*d), normals(r, 5*d))
	m.Remember(normals(r, 3*d), normals(r, 3*d))
	if m.Len() != 6 {
		t.Fatalf("%d keys remembered, want 6", m.Len())
	}
	gate := []float32{0.3}
	c, err := m.Mix(y, q, o, gate[0])
	if err != nil {
		t.Fatal(err)
	}
	dq, do := make([]float32, d), make([]float32, d)
	dgate := m.MixGrad(dq, do, c, q, o, dy)
	loss := func() float64 {
		out := make([]float32, d)
		if _, err := m.Mix(out, q, o, gate[0]); err != nil {
			t.Fatal(err)
		}
		return dot64(out, dy)
	}
	for i := range d {
		if want := slope(q, i, loss); !near(float64(dq[i]), want) {
			t.Errorf("query %d: %g, differences say %g", i, dq[i], want)
		}
		if want := slope(o, i, loss); !near(float64(do[i]), want) {
			t.Errorf("window %d: %g, differences say %g", i, do[i], want)
		}
	}
	if want := slope(gate, 0, loss); !near(float64(dgate), want) {
		t.Errorf("gate: %g, differences say %g", dgate, want)
	}
	// With all mass on the nearest key the answer is its value.
	sharp := &Recall{Dim: 2, TopK: 1, Most: 4, Path: matmul.Best()}
	sharp.Remember([]float32{1, 0, 0, 1}, []float32{5, 6, 7, 8})
	if _, err := sharp.Mix(y[:2], []float32{0, 2}, []float32{0, 0}, 80); err != nil || y[0] != 7 || y[1] != 8 {
		t.Errorf("recalled %v, error %v; want [7 8]", y[:2], err)
	}
}
