package arith

import (
	"math"
	"math/big"
	"math/bits"
)

// RopeScaling is how a model stretches its rotary embedding (spec §5.2).
type RopeScaling struct {
	Linear     float64   // positions are divided by this; 1 for none
	Factors    []float32 // divisor of each frequency (Llama 3, LongRoPE); nil for ones
	Magnitude  float64   // cosines and sines are multiplied by this; 1 for none
	YaRN       bool      // blend between Linear and none by wavelength
	YaRNOrig   float64   // context length the model was trained on
	YaRNFast   float64   // rotations above which a frequency is kept (β_fast)
	YaRNSlow   float64   // rotations below which it is fully stretched (β_slow)
	YaRNExtent float64   // weight of the blend, usually 1
}

// Rope holds a model's rotation speeds: Turn[i] is the i-th frequency as a
// fraction of a full turn per position, in units of 2⁻⁶⁴.
type Rope struct {
	Turn      []uint64
	Magnitude float32
}

const ropePrec = 192

func bigF(x float64) *big.Float { return new(big.Float).SetPrec(ropePrec).SetFloat64(x) }
func bigNew() *big.Float        { return new(big.Float).SetPrec(ropePrec) }

// bigExp is e^x for |x| < 2¹⁰ by halving the argument and squaring back.
func bigExp(x *big.Float) *big.Float {
	h := bigNew().SetMantExp(x, -20)
	s, t := bigF(1), bigF(1)
	for i := 1; i < 20; i++ {
		t.Mul(t, h)
		t.Quo(t, bigF(float64(i)))
		s.Add(s, t)
	}
	for range 20 {
		s.Mul(s, s)
	}
	return s
}

// bigLog is ln x for x > 0 by Halley's iteration on bigExp.
func bigLog(x *big.Float) *big.Float {
	y := bigNew().Mul(bigF(float64(x.MantExp(nil))), bigF(math.Ln2))
	for range 6 {
		e := bigExp(y)
		d := bigNew().Sub(x, e)
		d.Quo(d, bigNew().Add(x, e))
		y.Add(y, d.Mul(d, bigF(2)))
	}
	return y
}

// bigPi is π by Machin's formula.
func bigPi() *big.Float {
	atan := func(n float64) *big.Float { // arctan 1/n
		x := bigNew().Quo(bigF(1), bigF(n))
		x2 := bigNew().Mul(x, x)
		s, t := bigNew().Copy(x), bigNew().Copy(x)
		for i := 1; i < 100; i++ {
			t.Mul(t, x2)
			u := bigNew().Quo(t, bigF(float64(2*i+1)))
			if i%2 == 1 {
				s.Sub(s, u)
			} else {
				s.Add(s, u)
			}
		}
		return s
	}
	p := bigNew().Mul(bigF(16), atan(5))
	return p.Sub(p, bigNew().Mul(bigF(4), atan(239)))
}

// NewRope computes the speeds base^(−2i/dims), i in [0, dims/2), scaled by s
// (spec §5.1). All steps use 192-bit floating point, so the result does not
// depend on the machine.
func NewRope(base float64, dims int, s RopeScaling) *Rope {
	r := &Rope{Turn: make([]uint64, dims/2), Magnitude: float32(s.Magnitude)}
	ln := bigLog(bigF(base))
	twoPi := bigNew().Mul(bigF(2), bigPi())
	linear := bigF(1)
	if s.Linear > 0 {
		linear.SetFloat64(s.Linear)
	}
	lo, hi := 0.0, 0.0
	if s.YaRN {
		// The dimension that turns n times in the original context:
		// dims·ln(orig/(n·2π)) / (2·ln base).
		dim := func(n float64) float64 {
			x := bigNew().Quo(bigF(s.YaRNOrig), bigNew().Mul(bigF(n), twoPi))
			v := bigNew().Quo(bigNew().Mul(bigF(float64(dims)), bigLog(x)), bigNew().Mul(bigF(2), ln))
			f, _ := v.Float64()
			return f
		}
		lo = math.Max(0, math.Floor(dim(s.YaRNFast)))
		hi = math.Min(float64(dims-1), math.Ceil(dim(s.YaRNSlow)))
	}
	for i := range r.Turn {
		f := bigExp(bigNew().Mul(ln, bigNew().Quo(bigF(float64(-2*i)), bigF(float64(dims)))))
		if s.Factors != nil {
			f.Quo(f, bigF(float64(s.Factors[i])))
		}
		stretched := bigNew().Quo(f, linear)
		if s.YaRN {
			// ramp 1 keeps the frequency, 0 stretches it
			y := (float64(i) - lo) / math.Max(0.001, hi-lo)
			ramp := float64((1 - math.Min(1, math.Max(0, y))) * s.YaRNExtent)
			a := bigNew().Mul(stretched, bigF(1-ramp))
			f = a.Add(a, bigNew().Mul(f, bigF(ramp)))
		} else {
			f = stretched
		}
		f.Quo(f, twoPi)
		f.SetMantExp(f, 64)
		n, _ := f.Int(nil) // fractions of a turn below 2⁻⁶⁴ are dropped
		// Whole turns are dropped too; a negative speed wraps around.
		r.Turn[i] = n.Mod(n, new(big.Int).Lsh(big.NewInt(1), 64)).Uint64()
	}
	return r
}

// CosSin writes the cosine and sine of every speed at position pos, each the
// float32 nearest to its fixed-point value, times Magnitude (spec §5.3).
func (r *Rope) CosSin(pos int, cos, sin []float32) {
	for i, t := range r.Turn {
		c, s := cosSinTurn(t * uint64(pos))
		if r.Magnitude != 1 {
			c, s = float32(c*r.Magnitude), float32(s*r.Magnitude)
		}
		cos[i], sin[i] = c, s
	}
}

// Taylor coefficients of sin(πz/2)/z and cos(πz/2) in z², as fixed point with
// 62 fractional bits; computed by tests with math/big.
var sinCoef = [...]uint64{
	0x6487ed5110b4611a, 0x295779cc4b7ca57d, 0x0519af19dd6ab875, 0x004cb4b3398af617,
	0x0002a0f0690fdcf0, 0x00000f183a7ef444, 0x0000003d1e869a03, 0x00000000b7d6dcf9, 0x0000000001aaec33,
}

var cosCoef = [...]uint64{
	0x4000000000000000, 0x4ef4f326f9177969, 0x103c1f081b5ac3b3, 0x0155d3c7e3cbffa0,
	0x000f0fa83448dd5d, 0x000069b47ca8812a, 0x000001f9d38a3764, 0x00000006db893d13, 0x00000000120c62c3,
}

// cosSinTurn is cos and sin of 2π·turn/2⁶⁴ by integer arithmetic: the phase is
// reduced to an eighth of a turn around a multiple of a quarter, where
// alternating Taylor series in 62-bit fixed point err by less than 2⁻⁵⁶.
func cosSinTurn(turn uint64) (cos, sin float32) {
	quarter := (turn + 1<<61) >> 62
	rest := int64(turn - quarter<<62) // in [−2⁶¹, 2⁶¹): eighths of a turn around 0
	neg := rest < 0
	z := uint64(rest)
	if neg {
		z = -z
	}
	// z/2⁶² is the fraction of a quarter turn, in [0, 1/2].
	z2, _ := bits.Mul64(z, z) // z² · 2⁻⁶⁴ = (z/2⁶²)² · 2⁶⁰
	z2 <<= 2                  // 62 fractional bits
	series := func(c []uint64) uint64 {
		acc := c[len(c)-1]
		for i := len(c) - 2; i >= 0; i-- {
			h, _ := bits.Mul64(acc, z2) // 124 − 64 = 60 fractional bits
			acc = c[i] - h<<2
		}
		return acc
	}
	c := series(cosCoef[:])
	h, _ := bits.Mul64(series(sinCoef[:]), z)
	s := h << 2
	fc, fs := fixedToF32(c), fixedToF32(s)
	if neg {
		fs = -fs
	}
	switch quarter & 3 {
	case 0:
		return fc, fs
	case 1:
		return -fs, fc
	case 2:
		return -fc, -fs
	}
	return fs, -fc
}

// fixedToF32 rounds x·2⁻⁶² to the nearest float32, ties to even.
func fixedToF32(x uint64) float32 { return float32(float32(x) * (1.0 / (1 << 62))) }

// RotatePairs applies the rotation to one head in place. With neox, dimension
// i pairs with i + n, n = len(cos); otherwise 2i with 2i+1 (spec §5.4).
// Dimensions beyond 2n stay as they are.
func RotatePairs(x, cos, sin []float32, neox bool) {
	for i := range cos {
		a, b := 2*i, 2*i+1
		if neox {
			a, b = i, i+len(cos)
		}
		x0, x1 := x[a], x[b]
		x[a] = float32(x0*cos[i]) - float32(x1*sin[i])
		x[b] = float32(x0*sin[i]) + float32(x1*cos[i])
	}
}

// LogScale is 1 + mul·ln x, x > 0, rounded to float32 (spec §5.5): the magnitude
// that YaRN gives a stretch of x, and the temperature of long positions.
func LogScale(x, mul float64) float32 {
	v := bigLog(bigF(x))
	v.Mul(v, bigF(mul))
	f, _ := v.Add(v, bigF(1)).Float32()
	return f
}
