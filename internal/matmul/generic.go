package matmul

import "math"

// FMA is a·b + c rounded once to float32. The product of two float32 values is
// exact in float64. The sum is formed in float64 and, where it is not exact,
// moved to the neighbour with an odd last bit: rounding that to float32, which
// has far fewer bits, gives the same as rounding the exact sum.
func FMA(a, b, c float32) float32 {
	p, z := float64(float64(a)*float64(b)), float64(c)
	s := p + z
	// The error of the sum, exactly (Knuth's TwoSum).
	t := s - p
	e := (p - (s - t)) + (z - t)
	if e != 0 && !math.IsNaN(e) {
		u := math.Float64bits(s)
		if u&1 == 0 {
			if (e > 0) == (s > 0) {
				u++
			} else {
				u--
			}
			s = math.Float64frombits(u)
		}
	}
	return float32(s)
}

// tileGeneric is the definition of a tile.
func tileGeneric(c []float32, ldc int, a []float32, ars, acs int, b []float32, k int, zero bool) {
	rows, cols := Generic.shape()
	for i := range rows {
		for j := range cols {
			var sum float32
			if !zero {
				sum = c[i*ldc+j]
			}
			for l := range k {
				sum = FMA(a[i*ars+l*acs], b[l*cols+j], sum)
			}
			c[i*ldc+j] = sum
		}
	}
}
