//go:build amd64 && !purego

package kernel

import "github.com/geistnet/geist/arith"

// Kernels by the logarithm of the tile width.
var quantAVX2 = [...][4]quantKernel{
	arith.Q8_0:  {mmQ8_0x1AVX2, mmQ8_0x2AVX2, mmQ8_0x4AVX2, mmQ8_0x8AVX2},
	arith.Q4_0:  {mmQ4_0x1AVX2, mmQ4_0x2AVX2, mmQ4_0x4AVX2, mmQ4_0x8AVX2},
	arith.IQ4NL: {mmIQ4NLx1AVX2, mmIQ4NLx2AVX2, mmIQ4NLx4AVX2, mmIQ4NLx8AVX2},
	arith.Q4_1:  {mmQ4_1x1AVX2, mmQ4_1x2AVX2, mmQ4_1x4AVX2, mmQ4_1x8AVX2},
	arith.Q5_0:  {mmQ5_0x1AVX2, mmQ5_0x2AVX2, mmQ5_0x4AVX2, mmQ5_0x8AVX2},
	arith.Q5_1:  {mmQ5_1x1AVX2, mmQ5_1x2AVX2, mmQ5_1x4AVX2, mmQ5_1x8AVX2},
	arith.Q2_K:  {mmQ2_Kx1AVX2, mmQ2_Kx2AVX2, mmQ2_Kx4AVX2, mmQ2_Kx8AVX2},
	arith.Q3_K:  {mmQ3_Kx1AVX2, mmQ3_Kx2AVX2, mmQ3_Kx4AVX2, mmQ3_Kx8AVX2},
	arith.Q4_K:  {mmQ4_Kx1AVX2, mmQ4_Kx2AVX2, mmQ4_Kx4AVX2, mmQ4_Kx8AVX2},
	arith.Q5_K:  {mmQ5_Kx1AVX2, mmQ5_Kx2AVX2, mmQ5_Kx4AVX2, mmQ5_Kx8AVX2},
	arith.Q6_K:  {mmQ6_Kx1AVX2, mmQ6_Kx2AVX2, mmQ6_Kx4AVX2, mmQ6_Kx8AVX2},
}

var floatAVX2 = [...][4]floatKernel{
	arith.F32:  {mmF32x1AVX2, mmF32x2AVX2, mmF32x4AVX2, mmF32x8AVX2},
	arith.F16:  {mmF16x1AVX2, mmF16x2AVX2, mmF16x4AVX2, mmF16x8AVX2},
	arith.BF16: {mmBF16x1AVX2, mmBF16x2AVX2, mmBF16x4AVX2, mmBF16x8AVX2},
}

// putPairs writes the pair sums of n blocks, step bytes apart, of codes qstep
// apart.
func putPairs(k sumsKind, dst []byte, step int, q []int8, qstep, n int) {
	switch k {
	case pairs8:
		pairs32AVX2(&dst[0], step, &q[0], qstep, -8, n)
	case pairs16:
		pairs32AVX2(&dst[0], step, &q[0], qstep, -16, n)
	case pairs16x4:
		pairs256AVX2(&dst[0], step, &q[0], qstep, -4, n)
	case pairs16x32:
		pairs256AVX2(&dst[0], step, &q[0], qstep, -32, n)
	}
}
