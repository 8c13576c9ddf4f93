package arith

import (
	"math"
	"math/rand/v2"
	"testing"
)

// The fixed-point coefficients are the Taylor coefficients of sin(πz/2) and
// cos(πz/2), rounded to 62 bits.
func TestRopeCoefficients(t *testing.T) {
	half := bigNew().Quo(bigPi(), bigF(2))
	term := bigF(1) // (π/2)^n / n!
	for n := range 2 * len(cosCoef) {
		fixed := bigNew().SetMantExp(term, 62)
		i, _ := fixed.Add(fixed, bigF(0.5)).Int(nil)
		got := cosCoef[:]
		if n%2 == 1 {
			got = sinCoef[:]
		}
		if got[n/2] != i.Uint64() {
			t.Errorf("coefficient of z^%d: %#016x, want %#016x", n, got[n/2], i.Uint64())
		}
		term.Mul(term, half)
		term.Quo(term, bigF(float64(n+1)))
	}
}

func TestCosSinTurn(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for i := range 200000 {
		x := r.Uint64()
		switch i {
		case 0:
			x = 0
		case 1, 2, 3:
			x = uint64(i) << 62
		case 4:
			x = 1 << 61
		}
		a := float64(x) / (1 << 64) * 2 * math.Pi
		c, s := cosSinTurn(x)
		if math.Abs(float64(c)-math.Cos(a)) > 4e-8 || math.Abs(float64(s)-math.Sin(a)) > 4e-8 {
			t.Fatalf("turn %#x: cos %v sin %v, want %v %v", x, c, s, math.Cos(a), math.Sin(a))
		}
	}
}

// Speeds agree with float64 for plain, linear, factor and YaRN scaling.
func TestNewRope(t *testing.T) {
	r := NewRope(10000, 128, RopeScaling{Linear: 1, Magnitude: 1})
	for i, v := range r.Turn {
		want := math.Pow(10000, -2*float64(i)/128) / (2 * math.Pi)
		got := float64(v) / (1 << 64)
		if math.Abs(got-want) > 1e-12*want+1e-18 {
			t.Errorf("speed %d: %v, want %v", i, got, want)
		}
	}
	pi, _ := bigPi().Float64()
	if pi != math.Pi {
		t.Errorf("bigPi = %v", pi)
	}
	if l, _ := bigLog(bigF(500000)).Float64(); math.Abs(l-math.Log(500000)) > 1e-14 {
		t.Errorf("bigLog(500000) = %v", l)
	}
	// log and exp are inverse to far more bits than a speed keeps
	x := bigLog(bigExp(bigF(3)))
	if d, _ := bigNew().Sub(x, bigF(3)).Float64(); math.Abs(d) > 1e-50 {
		t.Errorf("ln e³ − 3 = %v", d)
	}
	lin := NewRope(10000, 64, RopeScaling{Linear: 4, Magnitude: 1})
	plain := NewRope(10000, 64, RopeScaling{Linear: 1, Magnitude: 1})
	yarn := NewRope(10000, 64, RopeScaling{Linear: 4, Magnitude: 1, YaRN: true, YaRNOrig: 4096, YaRNFast: 32, YaRNSlow: 1, YaRNExtent: 1})
	for i := range lin.Turn {
		if d := int64(plain.Turn[i] - 4*lin.Turn[i]); d < 0 || d > 3 {
			t.Errorf("linear speed %d", i)
		}
		if yarn.Turn[i] < lin.Turn[i] || yarn.Turn[i] > plain.Turn[i] {
			t.Errorf("YaRN speed %d outside its bounds", i)
		}
	}
	if yarn.Turn[0] != plain.Turn[0] || yarn.Turn[31] != lin.Turn[31] {
		t.Error("YaRN leaves the fastest speed and stretches the slowest")
	}
}
