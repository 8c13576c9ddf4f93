package arith

import "math"

// F16ToF32 widens an IEEE 754 binary16 value exactly.
func F16ToF32(h uint16) float32 {
	sign := uint32(h>>15) << 31
	exp := uint32(h>>10) & 31
	man := uint32(h) & 1023
	switch exp {
	case 0: // zero and subnormals: man·2⁻²⁴
		return math.Float32frombits(math.Float32bits(float32(float32(man)*(1.0/16777216))) | sign)
	case 31:
		return math.Float32frombits(sign | 0x7f800000 | man<<13)
	}
	return math.Float32frombits(sign | (exp+112)<<23 | man<<13)
}

// F32ToF16 rounds to the nearest binary16, ties to even. Values of magnitude
// 65520 and above become infinity; a NaN stays a quiet NaN.
func F32ToF16(f float32) uint16 {
	b := math.Float32bits(f)
	sign := uint16(b >> 16 & 0x8000)
	a := b & 0x7fffffff
	switch {
	case a > 0x7f800000: // NaN: quiet, top of the payload kept, as VCVTPS2PH does
		return sign | 0x7e00 | uint16(a>>13&0x3ff)
	case a >= 0x47800000: // 65536 and above, infinity
		return sign | 0x7c00
	case a < 0x38800000: // below 2⁻¹⁴: a multiple of 2⁻²⁴
		// The float32 nearest to |f|+0.5 has ulp 2⁻²⁴, so the hardware's own
		// rounding to even does the work.
		r := math.Float32frombits(a) + 0.5
		return sign | uint16(math.Float32bits(r)-0x3f000000)
	}
	a += 0xfff + a>>13&1 // round half to even at bit 13
	return sign | uint16((a-(112<<23))>>13)
}

// RoundF16 is F16ToF32(F32ToF16(f)).
func RoundF16(f float32) float32 { return F16ToF32(F32ToF16(f)) }

// BF16ToF32 widens a bfloat16 value exactly.
func BF16ToF32(h uint16) float32 { return math.Float32frombits(uint32(h) << 16) }

// F32ToBF16 rounds to the nearest bfloat16, ties to even.
func F32ToBF16(f float32) uint16 {
	b := math.Float32bits(f)
	if b&0x7fffffff > 0x7f800000 {
		return uint16(b>>16) | 64
	}
	return uint16((b + 0x7fff + b>>16&1) >> 16)
}

// Finite reports whether f is neither infinite nor NaN.
func Finite(f float32) bool { return math.Float32bits(f)&0x7f800000 != 0x7f800000 }

func sqrt(x float32) float32 { return float32(math.Sqrt(float64(x))) }

func abs(x float32) float32 { return math.Float32frombits(math.Float32bits(x) &^ (1 << 31)) }

// roundMagic is 1.5·2²³: adding it to |x| < 2²² rounds x to an integer, ties
// to even, and leaves that integer in the low bits of the sum.
const roundMagic = 12582912

const roundMagicBits = 0x4B400000

// Constants of Exp: Cody and Waite's two-part ln 2 and the Taylor coefficients
// of e^z to degree 6, each rounded to float32.
const (
	ExpMin = -87 // inputs below count as this
	ExpMax = 88  // inputs above count as this
	Log2E  = 1.44269504
	Ln2Hi  = 0.693359375
	Ln2Lo  = -2.12194440e-4
)

// ExpCoef are the coefficients of Exp's polynomial, highest degree first.
var ExpCoef = [...]float32{1.0 / 720, 1.0 / 120, 1.0 / 24, 1.0 / 6, 0.5, 1, 1}

// Exp is e^x with x clamped to [ExpMin, ExpMax] (spec §3.1): relative error
// below 2.2·2⁻²³, exact at 0. A NaN stays one.
func Exp(x float32) float32 {
	if x != x {
		return x
	}
	if !(x > ExpMin) {
		x = ExpMin
	}
	if !(x < ExpMax) {
		x = ExpMax
	}
	t := float32(x*Log2E) + roundMagic
	n := int32(math.Float32bits(t)) - roundMagicBits
	k := t - roundMagic
	x -= float32(k * Ln2Hi)
	x -= float32(k * Ln2Lo)
	p := ExpCoef[0]
	for _, c := range ExpCoef[1:] {
		p = float32(p*x) + c
	}
	return math.Float32frombits(uint32(int32(math.Float32bits(p)) + n<<23))
}

// SiLUMul is silu(g)·u with silu(g) = g / (1 + e^−g) (spec §3.2).
func SiLUMul(g, u float32) float32 {
	return float32(float32(g/(1+Exp(-g))) * u)
}

// Constants of GELUMul: 2·sqrt(2/π) and 0.044715.
const (
	GELUScale = 1.5957691216
	GELUCubic = 0.044715
)

// GELUMul is gelu(g)·u with the tanh form of GELU, written as
// g / (1 + e^−z), z = 2·sqrt(2/π)·g·(1 + 0.044715·g²) (spec §3.3).
func GELUMul(g, u float32) float32 {
	z := float32(float32(float32(g*g)*GELUCubic) + 1)
	z = float32(float32(g*GELUScale) * z)
	return float32(float32(g/(1+Exp(-z))) * u)
}

// TanhCoef are the coefficients of Tanh's odd polynomial for |x| < 0.625,
// highest degree first (Cephes, tanhf).
var TanhCoef = [...]float32{-5.70498872745e-3, 2.06390887954e-2, -5.37397155531e-2, 1.33314422036e-1, -3.33332819422e-1}

// Tanh is the hyperbolic tangent (spec §3.4).
func Tanh(x float32) float32 {
	a := abs(x)
	if a < 0.625 {
		z := float32(x * x)
		p := TanhCoef[0]
		for _, c := range TanhCoef[1:] {
			p = float32(p*z) + c
		}
		return float32(float32(p*z)*x) + x
	}
	r := 1 - 2/(Exp(float32(2*a))+1)
	return math.Float32frombits(math.Float32bits(r) | math.Float32bits(x)&(1<<31))
}

// SoftCap is c·tanh(x/c), c > 0 (spec §3.4).
func SoftCap(x, c float32) float32 { return float32(c * Tanh(x/c)) }
