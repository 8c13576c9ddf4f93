package kernel

import (
	"math"
	"math/rand/v2"
	"testing"

	"github.com/geistnet/geist/arith"
)

func sameBits(t *testing.T, what string, got, want []float32) {
	t.Helper()
	for i, v := range want {
		if math.Float32bits(got[i]) != math.Float32bits(v) && !(v != v && got[i] != got[i]) {
			t.Fatalf("%s: element %d is %v (%#x), want %v (%#x)", what, i, got[i], math.Float32bits(got[i]), v, math.Float32bits(v))
		}
	}
}

// wide draws floats of all magnitudes that occur in activations, with zeros of
// both signs.
func wide(r *rand.Rand, n int) []float32 {
	x := make([]float32, n)
	for i := range x {
		x[i] = float32(r.NormFloat64() * math.Exp2(float64(r.IntN(24)-16)))
		switch r.IntN(40) {
		case 0:
			x[i] = 0
		case 1:
			x[i] = float32(math.Copysign(0, -1))
		}
	}
	return x
}

func TestElementwiseEqualsArith(t *testing.T) {
	for _, p := range Paths() {
		t.Run(p.String(), func(t *testing.T) {
			r := rand.New(rand.NewPCG(3, 4))
			for _, n := range []int{1, 8, 15, 16, 17, 64, 172, 512, 2048} {
				x, w, u := wide(r, n), wide(r, n), wide(r, n)
				want, got := make([]float32, n), make([]float32, n)
				arith.RMSNorm(want, x, w, 1e-5)
				if !p.RMSNorm(got, x, w, n, 1e-5) {
					t.Fatal("RMSNorm refused finite values")
				}
				sameBits(t, "RMSNorm", got, want)

				copy(got, x)
				p.Add(got, u)
				for i := range want {
					want[i] = x[i] + u[i]
				}
				sameBits(t, "Add", got, want)

				for i := range want {
					want[i] = arith.SiLUMul(x[i], u[i])
				}
				p.GateMul(SiLU, got, x, u)
				sameBits(t, "SiLU", got, want)
				for i := range want {
					want[i] = arith.GELUMul(x[i], u[i])
				}
				p.GateMul(GELU, got, x, u)
				sameBits(t, "GELU", got, want)

				for _, kv := range []arith.KV{arith.KVF16, arith.KVF32} {
					copy(got, x)
					p.ScaleRound(got, 0.125, kv)
					for i := range want {
						want[i] = kv.Round(float32(x[i] * 0.125))
					}
					sameBits(t, "ScaleRound", got, want)
				}
			}
			for _, hd := range []int{8, 64, 80, 128} {
				for _, neox := range []bool{false, true} {
					rope := arith.NewRope(10000, hd, arith.RopeScaling{Linear: 1, Magnitude: 1})
					var rot Rotation
					rot.Set(rope, 1234)
					x := wide(r, 3*hd)
					want := append([]float32(nil), x...)
					cos, sin := make([]float32, hd/2), make([]float32, hd/2)
					rope.CosSin(1234, cos, sin)
					for h := range 3 {
						arith.RotatePairs(want[h*hd:(h+1)*hd], cos, sin, neox)
					}
					p.Rotate(x, 3, hd, &rot, neox)
					sameBits(t, "Rotate", x, want)
				}
			}
		})
	}
}

// Values that are not finite void a run on every path.
func TestNotFinite(t *testing.T) {
	inf, nan := float32(math.Inf(1)), float32(math.NaN())
	for _, p := range Paths() {
		for _, bad := range []float32{inf, -inf, nan} {
			for _, f := range []arith.Format{arith.Q8_0, arith.Q4_K, arith.F32} {
				src := make([]byte, 16*f.RowBytes(256))
				m := packed(p, f, 16, 256, src)
				for _, at := range []int{0, 100, 255} {
					x := make([]float32, 256)
					x[at] = bad
					var in Input
					in.Reset(1, 256, m)
					if in.Set(0, x) {
						t.Errorf("%v %v: Set accepts %v at %d", p, f, bad, at)
					}
					if p.RMSNorm(make([]float32, 256), x, x, 256, 1e-5) {
						t.Errorf("%v: RMSNorm accepts %v at %d", p, bad, at)
					}
				}
			}
		}
	}
}

// Quantised codes, scales and sums agree with arith.Quantize, also where the
// largest magnitude is tiny or huge.
func TestSetEqualsQuantize(t *testing.T) {
	r := rand.New(rand.NewPCG(5, 6))
	for _, p := range Paths() {
		for _, f := range []arith.Format{arith.Q8_0, arith.Q6_K} {
			m := packed(p, f, 16, 512, make([]byte, 16*f.RowBytes(512)))
			for _, scale := range []float32{1, 1e-30, 0x1p-101, 0x1p-100, 1e-42, 1e34, 0} {
				x := wide(r, 512)
				for i := range x {
					x[i] *= scale
				}
				a, ok := arith.Quantize(x, f.ActBlock())
				var in Input
				in.Reset(1, 512, m)
				if !ok || !in.Set(0, x) {
					t.Fatal("finite values refused")
				}
				sameBits(t, "scale", in.of(m).d, a.D)
				for i, q := range a.Q {
					if in.of(m).q[i] != q {
						t.Fatalf("%v scale %g: code %d is %d, want %d", p, scale, i, in.of(m).q[i], q)
					}
				}
			}
		}
	}
}

func TestAttendEqualsArith(t *testing.T) {
	for _, p := range Paths() {
		t.Run(p.String(), func(t *testing.T) {
			r := rand.New(rand.NewPCG(7, 8))
			for _, c := range []struct {
				hd, vd, n int
				kv        arith.KV
				softcap   float32
				window    int
			}{
				{64, 64, 1, arith.KVF16, 0, 0}, {64, 64, 64, arith.KVF16, 0, 0}, {128, 128, 200, arith.KVF16, 0, 0},
				{8, 8, 130, arith.KVF32, 0, 0}, {80, 96, 65, arith.KVF16, 50, 0}, {128, 128, 300, arith.KVF32, 50, 70},
				{64, 64, 333, arith.KVF16, 0, 100},
			} {
				shape := KVShape{c.kv, c.hd, c.vd}
				const offset = 128
				var a Attention
				a.Shape, a.Softcap, a.Offset = shape, c.softcap, offset
				for range (c.n + 63) / 64 {
					page := make([]byte, offset+shape.PageBytes())
					for i := range page { // what lies beyond the end must not matter, as long as it is finite
						page[i] = byte(i) & 0x3f
					}
					a.Pages = append(a.Pages, page)
				}
				var keys, values [][]float32
				for t := range c.n {
					k, v := wide(r, c.hd), wide(r, c.vd)
					p.Store(shape, a.Pages[t/64][offset:], t%64, k, v)
					for i := range k {
						k[i] = c.kv.Round(k[i])
					}
					for i := range v {
						v[i] = c.kv.Round(v[i])
					}
					keys, values = append(keys, k), append(values, v)
				}
				for queries := 1; queries <= MaxQueries; queries++ {
					var want [MaxQueries][]float32
					for i := range queries {
						end := max(1, c.n-i*3)
						first := 0
						if c.window > 0 {
							first = max(0, end-c.window)
						}
						q := wide(r, c.hd)
						for i := range q {
							q[i] = c.kv.Round(q[i])
						}
						a.Q[i], a.Out[i], a.First[i], a.End[i] = q, make([]float32, Pad(c.vd)), first, end
						want[i] = arith.Attention(c.kv, q, keys[first:end], values[first:end], first, c.softcap)
					}
					p.Attend(&a, queries)
					for i := range queries {
						sameBits(t, "attention", a.Out[i], want[i])
					}
				}
			}
		})
	}
}

// A query that overflows the cache's format makes the output not finite, so
// that the run is void on every path.
func TestAttendNotFinite(t *testing.T) {
	for _, p := range Paths() {
		shape := KVShape{arith.KVF16, 64, 64}
		var a Attention
		a.Shape, a.Pages = shape, [][]byte{make([]byte, shape.PageBytes())}
		k, v := make([]float32, 64), make([]float32, 64)
		k[3] = float32(math.Inf(1))
		p.Store(shape, a.Pages[0], 0, k, v)
		q := make([]float32, 64)
		q[3] = 1
		a.Q[0], a.Out[0], a.First[0], a.End[0] = q, make([]float32, 64), 0, 1
		p.Attend(&a, 1)
		if arith.Finite(a.Out[0][0]) {
			t.Errorf("%v: an infinite score gives the finite output %v", p, a.Out[0][0])
		}
	}
}
