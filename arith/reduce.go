package arith

// Lanes is the number of interleaved partial sums of a reduction: element i
// goes to lane i mod Lanes, and the lanes are added as a tree 8-4-2-1
// (spec §2.3). It equals the widest vector register, so that one SIMD
// accumulator holds them all.
const Lanes = 16

func tree(l *[Lanes]float32) float32 {
	for w := Lanes / 2; w >= 1; w /= 2 {
		for i := range w {
			l[i] += l[i+w]
		}
	}
	return l[0]
}

// Sum adds x in the canonical order of reductions.
func Sum(x []float32) float32 {
	var l [Lanes]float32
	for i, v := range x {
		l[i%Lanes] += v
	}
	return tree(&l)
}

// SumSquares adds the squares of x in the canonical order of reductions.
func SumSquares(x []float32) float32 {
	var l [Lanes]float32
	for ; len(x) >= Lanes; x = x[Lanes:] {
		for i, v := range (*[Lanes]float32)(x) {
			l[i] += float32(v * v)
		}
	}
	for i, v := range x {
		l[i] += float32(v * v)
	}
	return tree(&l)
}

// RMSScale is 1/sqrt(mean(x²) + eps), the factor of RMSNorm (spec §3.5). It is
// not finite, or zero, exactly when x holds an infinity or a NaN or its sum of
// squares overflows; a run that meets this is void.
func RMSScale(x []float32, eps float32) float32 {
	return 1 / sqrt(SumSquares(x)/float32(len(x))+eps)
}

// RMSNorm writes x·RMSScale(x)·w to dst, rounding after each product, and
// returns RMSScale(x). w nil stands for ones. dst may be x.
func RMSNorm(dst, x, w []float32, eps float32) float32 {
	r := RMSScale(x, eps)
	dst = dst[:len(x)]
	if w == nil {
		for i, v := range x {
			dst[i] = float32(v * r)
		}
		return r
	}
	w = w[:len(x)]
	for i, v := range x {
		dst[i] = float32(float32(v*r) * w[i])
	}
	return r
}
