package matmul

import (
	"fmt"
	"math"
	"math/big"
	"math/rand/v2"
	"testing"

	"github.com/geistnet/geist/arith"
)

func fill(r *rand.Rand, n int) []float32 {
	x := make([]float32, n)
	for i := range x {
		x[i] = float32(r.NormFloat64())
	}
	return x
}

// reference is the definition: one chain for every output.
func reference(c, a, b Matrix, add bool) []float32 {
	out := make([]float32, c.Rows*c.Cols)
	for i := range c.Rows {
		for j := range c.Cols {
			var s float32
			if add {
				s = c.X[i*c.RowStep+j]
			}
			for k := range a.Cols {
				s = FMA(a.X[i*a.RowStep+k*a.ColStep], b.X[k*b.RowStep+j*b.ColStep], s)
			}
			out[i*c.Cols+j] = s
		}
	}
	return out
}

func TestPathsEqual(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	shapes := [][3]int{{1, 1, 1}, {8, 48, 3}, {6, 16, 5}, {7, 47, 11}, {9, 49, 1}, {17, 100, 33}, {97, 50, 5}, {5, 3, depth + 3}, {13, 96, 2*depth + 1}, {200, 64, 32}}
	for range 30 {
		shapes = append(shapes, [3]int{1 + r.IntN(120), 1 + r.IntN(120), 1 + r.IntN(60)})
	}
	for _, s := range shapes {
		m, n, k := s[0], s[1], s[2]
		for form := range 4 {
			a, b := Of(fill(r, m*k), m, k), Of(fill(r, k*n), k, n)
			if form&1 != 0 {
				a = Of(fill(r, m*k), k, m).T()
			}
			if form&2 != 0 {
				b = Of(fill(r, k*n), n, k).T()
			}
			// C lies in a wider matrix whose other columns must stay.
			wide := fill(r, m*(n+3))
			for _, add := range []bool{false, true} {
				c := Of(wide, m, n+3).Part(0, m, 1, n)
				want := reference(c, a, b, add)
				for _, p := range Paths() {
					for threads := 1; threads <= 3; threads += 2 {
						got := append([]float32(nil), wide...)
						g := Of(got, m, n+3).Part(0, m, 1, n)
						New(p, threads).Mul(g, a, b, add)
						for i := range m {
							for j := range n + 3 {
								w := wide[i*(n+3)+j]
								if j >= 1 && j <= n {
									w = want[i*n+j-1]
								}
								if math.Float32bits(got[i*(n+3)+j]) != math.Float32bits(w) {
									t.Fatalf("%v, form %d, add %v, %v, %d threads: (%d, %d) is %g, want %g", s, form, add, p, threads, i, j-1, got[i*(n+3)+j], w)
								}
							}
						}
					}
				}
			}
		}
	}
}

func TestNoColumns(t *testing.T) {
	c := []float32{1, 2}
	New(Best(), 1).Mul(Of(c, 1, 2), Of(nil, 1, 0), Of(nil, 0, 2), true)
	if c[0] != 1 || c[1] != 2 {
		t.Error("adding an empty product changed the sum")
	}
	New(Best(), 1).Mul(Of(c, 1, 2), Of(nil, 1, 0), Of(nil, 0, 2), false)
	if c[0] != 0 || c[1] != 0 {
		t.Error("an empty product is not zero")
	}
}

// TestFMA compares with exact sums of big floats, rounded once.
func TestFMA(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 4))
	check := func(a, b, c float32) {
		t.Helper()
		x := new(big.Float).SetPrec(2000).SetFloat64(float64(a))
		x.Mul(x, new(big.Float).SetPrec(2000).SetFloat64(float64(b)))
		x.Add(x, new(big.Float).SetPrec(2000).SetFloat64(float64(c)))
		want, _ := x.Float32()
		if got := FMA(a, b, c); got != want {
			t.Fatalf("FMA(%x, %x, %x) = %x, want %x", a, b, c, got, want)
		}
	}
	for range 300000 {
		f := func(spread int) float32 {
			return math.Float32frombits(r.Uint32()&0x807fffff | uint32(127-spread/2+r.IntN(spread))<<23)
		}
		check(f(4), f(4), f(60))
		// Products next to halfway points of the sum.
		a := math.Float32frombits(0x3f800000 | r.Uint32()&0xff)
		check(a, math.Float32frombits(0x33800000|r.Uint32()&3), 1+float32(r.IntN(8))*0x1p-23)
		check(math.Float32frombits(r.Uint32()&0x80ffffff), f(4), math.Float32frombits(r.Uint32()&0x80ffffff))
	}
	if !math.IsInf(float64(FMA(3e38, 3e38, 1)), 1) || FMA(float32(math.Inf(1)), 0, 1) == 0 {
		t.Error("infinities get lost")
	}
}

func TestExp(t *testing.T) {
	r := rand.New(rand.NewPCG(5, 6))
	for _, n := range []int{1, 15, 16, 17, 64, 4096} {
		x := fill(r, n)
		for i := range x {
			x[i] *= 30
		}
		top := Generic.Largest(x)
		for _, v := range x {
			if Exp(v) != arith.Exp(v) {
				t.Fatalf("Exp(%g) is not that of arith", v)
			}
			if v > top {
				t.Fatalf("%g is larger than the largest, %g", v, top)
			}
		}
		want := append([]float32(nil), x...)
		sum := Generic.ExpSum(want, top)
		if sum != arith.Sum(want) {
			t.Fatalf("the sum of %d is not in the order of arith", n)
		}
		Generic.Scale(want, 1/sum)
		for _, p := range Paths() {
			got := append([]float32(nil), x...)
			gotTop, gotSum := p.Softmax(got)
			if gotTop != top || gotSum != sum {
				t.Fatalf("%v: %d values: top %g and sum %g, want %g and %g", p, n, gotTop, gotSum, top, sum)
			}
			for i := range got {
				if got[i] != want[i] {
					t.Fatalf("%v: weight %d of %d is %g, want %g", p, i, n, got[i], want[i])
				}
			}
		}
	}
}

func TestGateGrad(t *testing.T) {
	r := rand.New(rand.NewPCG(7, 8))
	for _, n := range []int{1, 16, 31, 256} {
		g, u, dh := fill(r, n), fill(r, n), fill(r, n)
		dg, du := make([]float32, n), make([]float32, n)
		Generic.GateGrad(dg, du, g, u, dh)
		for i := range g {
			f := func(g, u float64) float64 { return g / (1 + math.Exp(-g)) * u * float64(dh[i]) }
			const h = 1e-5
			wantG := (f(float64(g[i])+h, float64(u[i])) - f(float64(g[i])-h, float64(u[i]))) / (2 * h)
			wantU := (f(float64(g[i]), float64(u[i])+h) - f(float64(g[i]), float64(u[i])-h)) / (2 * h)
			if math.Abs(wantG-float64(dg[i])) > 1e-5 || math.Abs(wantU-float64(du[i])) > 1e-5 {
				t.Fatalf("gradient at g=%g u=%g is %g, %g; want %g, %g", g[i], u[i], dg[i], du[i], wantG, wantU)
			}
		}
		h := make([]float32, n)
		Generic.Gate(h, g, u)
		for i := range h {
			if want := arith.SiLUMul(g[i], u[i]); math.Abs(float64(h[i]-want)) > 1e-6*(1+math.Abs(float64(want))) {
				t.Fatalf("gate of %g and %g is %g, want %g", g[i], u[i], h[i], want)
			}
		}
		for _, p := range Paths() {
			gh := make([]float32, n)
			p.Gate(gh, g, u)
			for i := range gh {
				if gh[i] != h[i] {
					t.Fatalf("%v: gate %d of %d differs from plain Go", p, i, n)
				}
			}
			gg, gu := make([]float32, n), make([]float32, n)
			p.GateGrad(gg, gu, g, u, dh)
			for i := range g {
				if gg[i] != dg[i] || gu[i] != du[i] {
					t.Fatalf("%v: element %d of %d differs from plain Go", p, i, n)
				}
			}
		}
	}
}

func TestAxpyDot(t *testing.T) {
	r := rand.New(rand.NewPCG(8, 9))
	for _, n := range []int{1, 16, 31, 512} {
		x, y := fill(r, n), fill(r, n)
		want := append([]float32(nil), y...)
		products := make([]float32, n)
		for i := range x {
			want[i] += float32(0.3 * x[i])
			products[i] = x[i] * y[i]
		}
		for _, p := range Paths() {
			if got := p.Dot(x, y); got != arith.Sum(products) {
				t.Fatalf("%v: dot of %d is %g, want %g", p, n, got, arith.Sum(products))
			}
			got := append([]float32(nil), y...)
			p.Axpy(got, x, 0.3)
			for i := range got {
				if got[i] != want[i] {
					t.Fatalf("%v: element %d of %d is %g, want %g", p, i, n, got[i], want[i])
				}
			}
		}
	}
}

func TestEach(t *testing.T) {
	for _, threads := range []int{0, 1, 3, 50} {
		var seen [40]int32
		Each(threads, len(seen), func(i int) { seen[i]++ })
		for i, n := range seen {
			if n != 1 {
				t.Fatalf("%d threads: task %d ran %d times", threads, i, n)
			}
		}
	}
}

func TestShapesThatDoNotFit(t *testing.T) {
	for i, f := range []func(){
		func() {
			New(Generic, 1).Mul(Of(make([]float32, 4), 2, 2), Of(make([]float32, 4), 2, 2), Of(make([]float32, 6), 3, 2), false)
		},
		func() {
			New(Generic, 1).Mul(Of(make([]float32, 4), 2, 2).T(), Of(make([]float32, 4), 2, 2), Of(make([]float32, 4), 2, 2), false)
		},
		func() { Of(make([]float32, 4), 2, 2).Part(1, 2, 0, 1) },
	} {
		func() {
			defer func() {
				if recover() == nil {
					t.Errorf("case %d: no panic", i)
				}
			}()
			f()
		}()
	}
}

func BenchmarkMul(b *testing.B) {
	r := rand.New(rand.NewPCG(9, 9))
	for _, s := range [][3]int{{4096, 512, 256}, {256, 512, 4096}, {256, 256, 32}} {
		m, n, k := s[0], s[1], s[2]
		a, x := Of(fill(r, m*k), m, k), Of(fill(r, k*n), n, k).T()
		if k > m {
			a, x = Of(fill(r, m*k), k, m).T(), Of(fill(r, k*n), k, n)
		}
		c := Of(make([]float32, m*n), m, n)
		for _, p := range Paths()[1:] {
			for _, threads := range []int{1, 2} {
				b.Run(fmt.Sprintf("%dx%dx%d/%v/%d", m, n, k, p, threads), func(b *testing.B) {
					mm := New(p, threads)
					for b.Loop() {
						mm.Mul(c, a, x, false)
					}
					b.ReportMetric(2*float64(m*n*k)*float64(b.N)/b.Elapsed().Seconds()/1e9, "GFLOP/s")
				})
			}
		}
	}
}

// BenchmarkTile multiplies one tile from the first cache: what the instructions
// can do at most.
func BenchmarkTile(b *testing.B) {
	for _, p := range Paths()[1:] {
		b.Run(p.String(), func(b *testing.B) {
			rows, cols := p.shape()
			const k = 128
			a, x, c := make([]float32, rows*k), make([]float32, k*cols), make([]float32, rows*cols)
			for b.Loop() {
				p.tile(c, cols, a, 1, rows, x, k, true)
			}
			b.ReportMetric(2*float64(rows*cols*k)*float64(b.N)/b.Elapsed().Seconds()/1e9, "GFLOP/s")
		})
	}
}
