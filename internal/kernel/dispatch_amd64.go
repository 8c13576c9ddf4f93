//go:build amd64 && !purego

package kernel

import (
	"math/bits"
	"unsafe"

	"github.com/geistnet/geist/arith"
)

type quantKernel = func(dst *float32, ldd int, w *byte, nb int, ng int, q *int8, d *float32, c *byte)
type floatKernel = func(dst *float32, ldd int, w *byte, cols int, ng int, x *float32)

// Kernels by the logarithm of the tile width.
var quant512 = [...][4]quantKernel{
	arith.Q8_0:  {mmQ8_0x1AVX512, mmQ8_0x2AVX512, mmQ8_0x4AVX512, mmQ8_0x8AVX512},
	arith.Q4_0:  {mmQ4_0x1AVX512, mmQ4_0x2AVX512, mmQ4_0x4AVX512, mmQ4_0x8AVX512},
	arith.IQ4NL: {mmIQ4NLx1AVX512, mmIQ4NLx2AVX512, mmIQ4NLx4AVX512, mmIQ4NLx8AVX512},
	arith.Q4_1:  {mmQ4_1x1AVX512, mmQ4_1x2AVX512, mmQ4_1x4AVX512, mmQ4_1x8AVX512},
	arith.Q5_0:  {mmQ5_0x1AVX512, mmQ5_0x2AVX512, mmQ5_0x4AVX512, mmQ5_0x8AVX512},
	arith.Q5_1:  {mmQ5_1x1AVX512, mmQ5_1x2AVX512, mmQ5_1x4AVX512, mmQ5_1x8AVX512},
	arith.Q2_K:  {mmQ2_Kx1AVX512, mmQ2_Kx2AVX512, mmQ2_Kx4AVX512, mmQ2_Kx8AVX512},
	arith.Q3_K:  {mmQ3_Kx1AVX512, mmQ3_Kx2AVX512, mmQ3_Kx4AVX512, mmQ3_Kx8AVX512},
	arith.Q4_K:  {mmQ4_Kx1AVX512, mmQ4_Kx2AVX512, mmQ4_Kx4AVX512, mmQ4_Kx8AVX512},
	arith.Q5_K:  {mmQ5_Kx1AVX512, mmQ5_Kx2AVX512, mmQ5_Kx4AVX512, mmQ5_Kx8AVX512},
	arith.Q6_K:  {mmQ6_Kx1AVX512, mmQ6_Kx2AVX512, mmQ6_Kx4AVX512, mmQ6_Kx8AVX512},
}

var float512 = [...][4]floatKernel{
	arith.F32:  {mmF32x1AVX512, mmF32x2AVX512, mmF32x4AVX512, mmF32x8AVX512},
	arith.F16:  {mmF16x1AVX512, mmF16x2AVX512, mmF16x4AVX512, mmF16x8AVX512},
	arith.BF16: {mmBF16x1AVX512, mmBF16x2AVX512, mmBF16x4AVX512, mmBF16x8AVX512},
}

func mulQuant(p Path, f arith.Format, width int, dst unsafe.Pointer, ldd int, w unsafe.Pointer, nb, ng int, q, d, c unsafe.Pointer) {
	table := &quant512
	if p == AVX2 {
		table = &quantAVX2
	}
	table[f][bits.TrailingZeros(uint(width))]((*float32)(dst), ldd, (*byte)(w), nb, ng, (*int8)(q), (*float32)(d), (*byte)(c))
}

func mulFloat(p Path, f arith.Format, width int, dst unsafe.Pointer, ldd int, w unsafe.Pointer, cols, ng int, x unsafe.Pointer) {
	table := &float512
	if p == AVX2 {
		table = &floatAVX2
	}
	table[f][bits.TrailingZeros(uint(width))]((*float32)(dst), ldd, (*byte)(w), cols, ng, (*float32)(x))
}
