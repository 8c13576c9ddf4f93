package main

import (
	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	. "github.com/mmcloughlin/avo/reg"
)

// readStep is what one round of the reading loops takes, in bytes.
const readStep = 512

// reads emits loops that read memory as fast as they can, with the fetches
// ahead of use that the matrix kernels have, and return the exclusive or of
// all 64-bit words. n is a positive multiple of readStep.
func reads() {
	read("AVX512", 64, func() VecVirtual { return ZMM() },
		func(m Op, a VecVirtual) { VPXORQ(m, a, a) },
		func(a VecVirtual) VecVirtual {
			half, quarter := YMM(), XMM()
			VEXTRACTI64X4(U8(1), a, half)
			VPXOR(a.AsY(), half, half)
			VEXTRACTI128(U8(1), half, quarter)
			VPXOR(half.AsX(), quarter, quarter)
			return quarter
		})
	read("AVX2", 32, func() VecVirtual { return YMM() },
		func(m Op, a VecVirtual) { VPXOR(m, a, a) },
		func(a VecVirtual) VecVirtual {
			half := XMM()
			VEXTRACTI128(U8(1), a, half)
			VPXOR(a.AsX(), half, half)
			return half
		})
}

func read(name string, width int, vector func() VecVirtual, xor func(m Op, a VecVirtual), fold func(VecVirtual) VecVirtual) {
	TEXT("read"+name, NOSPLIT, "func(b *byte, n int) uint64")
	b := Load(Param("b"), GP64())
	n := Load(Param("n"), GP64())
	acc := make([]VecVirtual, 8)
	for i := range acc {
		acc[i] = vector()
		xor(acc[i], acc[i])
	}
	Label("loop")
	for o := 0; o < readStep; o += width {
		if o%64 == 0 {
			PREFETCHT0(Mem{Base: b, Disp: o + prefetchAhead})
		}
		xor(Mem{Base: b, Disp: o}, acc[o/width%len(acc)])
	}
	ADDQ(U32(readStep), b)
	SUBQ(U32(readStep), n)
	JNZ(LabelRef("loop"))
	for k := len(acc) / 2; k > 0; k /= 2 {
		for i := range k {
			xor(acc[i+k], acc[i])
		}
	}
	x := fold(acc[0])
	low, high := GP64(), GP64()
	VMOVQ(x, low)
	VPEXTRQ(U8(1), x, high)
	XORQ(high, low)
	VZEROUPPER()
	Store(low, ReturnIndex(0))
	RET()
}
