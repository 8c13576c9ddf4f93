//go:build !purego

package kernel

import (
	"math/bits"
	"unsafe"

	"github.com/geistnet/geist/arith"
)

type quantKernel = func(dst *float32, ldd int, w *byte, nb int, ng int, q *int8, d *float32, c *byte)
type floatKernel = func(dst *float32, ldd int, w *byte, cols int, ng int, x *float32)

// Kernels by the logarithm of the tile width.
var quantNEON = [...][4]quantKernel{
	arith.Q8_0:  {mmQ8_0x1NEON, mmQ8_0x2NEON, mmQ8_0x4NEON, mmQ8_0x8NEON},
	arith.Q4_0:  {mmQ4_0x1NEON, mmQ4_0x2NEON, mmQ4_0x4NEON, mmQ4_0x8NEON},
	arith.IQ4NL: {mmIQ4NLx1NEON, mmIQ4NLx2NEON, mmIQ4NLx4NEON, mmIQ4NLx8NEON},
	arith.Q4_1:  {mmQ4_1x1NEON, mmQ4_1x2NEON, mmQ4_1x4NEON, mmQ4_1x8NEON},
	arith.Q5_0:  {mmQ5_0x1NEON, mmQ5_0x2NEON, mmQ5_0x4NEON, mmQ5_0x8NEON},
	arith.Q5_1:  {mmQ5_1x1NEON, mmQ5_1x2NEON, mmQ5_1x4NEON, mmQ5_1x8NEON},
	arith.Q2_K:  {mmQ2_Kx1NEON, mmQ2_Kx2NEON, mmQ2_Kx4NEON, mmQ2_Kx8NEON},
	arith.Q3_K:  {mmQ3_Kx1NEON, mmQ3_Kx2NEON, mmQ3_Kx4NEON, mmQ3_Kx8NEON},
	arith.Q4_K:  {mmQ4_Kx1NEON, mmQ4_Kx2NEON, mmQ4_Kx4NEON, mmQ4_Kx8NEON},
	arith.Q5_K:  {mmQ5_Kx1NEON, mmQ5_Kx2NEON, mmQ5_Kx4NEON, mmQ5_Kx8NEON},
	arith.Q6_K:  {mmQ6_Kx1NEON, mmQ6_Kx2NEON, mmQ6_Kx4NEON, mmQ6_Kx8NEON},
}

var floatNEON = [...][4]floatKernel{
	arith.F32:  {mmF32x1NEON, mmF32x2NEON, mmF32x4NEON, mmF32x8NEON},
	arith.F16:  {mmF16x1NEON, mmF16x2NEON, mmF16x4NEON, mmF16x8NEON},
	arith.BF16: {mmBF16x1NEON, mmBF16x2NEON, mmBF16x4NEON, mmBF16x8NEON},
}

func mulQuant(_ Path, f arith.Format, width int, dst unsafe.Pointer, ldd int, w unsafe.Pointer, nb, ng int, q, d, c unsafe.Pointer) {
	quantNEON[f][bits.TrailingZeros(uint(width))]((*float32)(dst), ldd, (*byte)(w), nb, ng, (*int8)(q), (*float32)(d), (*byte)(c))
}

func mulFloat(_ Path, f arith.Format, width int, dst unsafe.Pointer, ldd int, w unsafe.Pointer, cols, ng int, x unsafe.Pointer) {
	floatNEON[f][bits.TrailingZeros(uint(width))]((*float32)(dst), ldd, (*byte)(w), cols, ng, (*float32)(x))
}
