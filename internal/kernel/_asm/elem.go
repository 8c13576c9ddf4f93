package main

import (
	"math"

	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	. "github.com/mmcloughlin/avo/reg"
)

func fconst(name string, f float32) Mem {
	m := GLOBL(name, RODATA|NOPTR)
	DATA(0, U32(math.Float32bits(f)))
	return m
}

// expConsts are the constants of arith.Exp.
type expConsts struct {
	lo, hi, log2e, magic, ln2hi, ln2lo, one Mem
	coef                                    []Mem
}

func newExpConsts() *expConsts {
	e := &expConsts{
		lo: fconst("expLo", -87), hi: fconst("expHi", 88), log2e: fconst("expLog2e", 1.44269504),
		magic: fconst("roundMagic", 12582912), ln2hi: fconst("expLn2hi", 0.693359375),
		ln2lo: fconst("expLn2lo", -2.12194440e-4), one: fconst("one", 1),
	}
	for i, c := range []float32{1.0 / 720, 1.0 / 120, 1.0 / 24, 1.0 / 6, 0.5, 1, 1} {
		e.coef = append(e.coef, fconst("expC"+itoa(i), c))
	}
	return e
}

// emit replaces z by arith.Exp of its lanes and returns the register that
// holds the result.
func (e *expConsts) emit(z VecVirtual) VecVirtual {
	b := ZMM()
	VBROADCASTSS(e.lo, b)
	VMAXPS(b, z, z) // a NaN in z gives the second source: lo
	VBROADCASTSS(e.hi, b)
	VMINPS(b, z, z)
	mg, k, n, t, p := ZMM(), ZMM(), ZMM(), ZMM(), ZMM()
	VBROADCASTSS(e.magic, mg)
	VMULPS_BCST(e.log2e, z, k)
	VADDPS(mg, k, k)
	VPSUBD(mg, k, n)
	VSUBPS(mg, k, k)
	VMULPS_BCST(e.ln2hi, k, t)
	VSUBPS(t, z, z)
	VMULPS_BCST(e.ln2lo, k, t)
	VSUBPS(t, z, z)
	VBROADCASTSS(e.coef[0], p)
	for _, c := range e.coef[1:] {
		VMULPS(z, p, p)
		VADDPS_BCST(c, p, p)
	}
	VPSLLD(U8(23), n, n)
	VPADDD(n, p, p)
	return p
}

// treeSum adds the 16 lanes of z as a tree 8-4-2-1 into lane 0 of an XMM.
func treeSum(z VecVirtual) VecVirtual {
	y, x := YMM(), XMM()
	VEXTRACTF64X4(U8(1), z, y)
	VADDPS(y, z.AsY(), y)
	VEXTRACTF128(U8(1), y, x)
	VADDPS(x, y.AsX(), x)
	u := XMM()
	VPERMILPS(U8(0x4e), x, u)
	VADDPS(u, x, x)
	VPERMILPS(U8(0xb1), x, u)
	VADDPS(u, x, x)
	return x
}

func elementwise(e *expConsts) {
	sumSquares()
	scaleMul()
	addVec()
	gated("silu", e)
	gated("gelu", e)
	quantiseBlocks(e)
	expChunk(e, false)
	expChunk(e, true)
	maxChunk()
	toF16()
	roundF16()
	roundKeep()
	rope("Norm")
	rope("Neox")
}

// n counts vectors of 16 in all of these.

func sumSquares() {
	TEXT("sumSquaresAVX512", NOSPLIT, "func(x *float32, n int) float32")
	Pragma("noescape")
	x := Load(Param("x"), GP64())
	n := Load(Param("n"), GP64())
	acc, v := ZMM(), ZMM()
	VPXORD(acc, acc, acc)
	Label("l")
	VMOVUPS(Mem{Base: x}, v)
	VMULPS(v, v, v)
	VADDPS(v, acc, acc)
	ADDQ(U32(64), x)
	DECQ(n)
	JNZ(LabelRef("l"))
	s := treeSum(acc)
	VZEROUPPER()
	Store(s, ReturnIndex(0))
	RET()
}

// dst = (x·r)·w
func scaleMul() {
	TEXT("scaleMulAVX512", NOSPLIT, "func(dst *float32, x *float32, w *float32, r float32, n int)")
	Pragma("noescape")
	d := Load(Param("dst"), GP64())
	x := Load(Param("x"), GP64())
	w := Load(Param("w"), GP64())
	rx := Load(Param("r"), XMM())
	n := Load(Param("n"), GP64())
	r, v := ZMM(), ZMM()
	VBROADCASTSS(rx, r)
	Label("l")
	VMULPS(Mem{Base: x}, r, v)
	VMULPS(Mem{Base: w}, v, v)
	VMOVUPS(v, Mem{Base: d})
	for _, p := range []Register{x, w, d} {
		ADDQ(U32(64), p)
	}
	DECQ(n)
	JNZ(LabelRef("l"))
	VZEROUPPER()
	RET()
}

// dst += x
func addVec() {
	TEXT("addAVX512", NOSPLIT, "func(dst *float32, x *float32, n int)")
	Pragma("noescape")
	d := Load(Param("dst"), GP64())
	x := Load(Param("x"), GP64())
	n := Load(Param("n"), GP64())
	v := ZMM()
	Label("l")
	VMOVUPS(Mem{Base: d}, v)
	VADDPS(Mem{Base: x}, v, v)
	VMOVUPS(v, Mem{Base: d})
	ADDQ(U32(64), x)
	ADDQ(U32(64), d)
	DECQ(n)
	JNZ(LabelRef("l"))
	VZEROUPPER()
	RET()
}

// dst = act(g)·u with arith.SiLUMul or arith.GELUMul
func gated(act string, e *expConsts) {
	var scale, cubic Mem
	if act == "gelu" {
		scale, cubic = fconst("geluScale", 1.5957691216), fconst("geluCubic", 0.044715)
	}
	TEXT(act+"AVX512", NOSPLIT, "func(dst *float32, gate *float32, u *float32, n int)")
	Pragma("noescape")
	d := Load(Param("dst"), GP64())
	g := Load(Param("gate"), GP64())
	u := Load(Param("u"), GP64())
	n := Load(Param("n"), GP64())
	Label("l")
	gv, z := ZMM(), ZMM()
	VMOVUPS(Mem{Base: g}, gv)
	if act == "gelu" {
		t := ZMM()
		VMULPS(gv, gv, t)
		VMULPS_BCST(cubic, t, t)
		VADDPS_BCST(e.one, t, t)
		VMULPS_BCST(scale, gv, z)
		VMULPS(t, z, z)
		zero := ZMM()
		VPXORD(zero, zero, zero)
		VSUBPS(z, zero, z)
	} else {
		VPXORD(z, z, z)
		VSUBPS(gv, z, z)
	}
	p := e.emit(z)
	VADDPS_BCST(e.one, p, p)
	VDIVPS(p, gv, p)
	VMULPS(Mem{Base: u}, p, p)
	VMOVUPS(p, Mem{Base: d})
	for _, r := range []Register{g, u, d} {
		ADDQ(U32(64), r)
	}
	DECQ(n)
	JNZ(LabelRef("l"))
	VZEROUPPER()
	RET()
}

// quantiseBlocks emits quantiseGo for blocks of 32 and 256: codes qstep bytes
// apart, scales dstep bytes apart, sums of each 16 codes in a row. It returns
// 1 where a value was not finite. With keep, codes and scales are written a
// second time, without gaps.
func quantiseBlocks(e *expConsts) {
	absMask := GLOBL("absMask", RODATA|NOPTR)
	DATA(0, U32(0x7fffffff))
	c127 := fconst("c127", 127)
	least := fconst("minScaled", 0x1p-100)
	inf := GLOBL("infBits", RODATA|NOPTR)
	DATA(0, U32(0x7f800000))
	for i := range 4 {
		block, keep := []int{32, 256}[i%2], i >= 2
		name, more := "quantise"+itoa(block), ""
		if keep {
			name, more = name+"Keep", ", codes *byte, scales *byte"
		}
		TEXT(name+"AVX512", NOSPLIT, "func(x *float32, q *int8, qstep int, d *float32, dstep int, sums *int32, nb int"+more+") int")
		Pragma("noescape")
		var codes, scales Register
		if keep {
			codes, scales = Load(Param("codes"), GP64()), Load(Param("scales"), GP64())
		}
		x := Load(Param("x"), GP64())
		q := Load(Param("q"), GP64())
		qstep := Load(Param("qstep"), GP64())
		d := Load(Param("d"), GP64())
		dstep := Load(Param("dstep"), GP64())
		sums := Load(Param("sums"), GP64())
		n := Load(Param("nb"), GP64())
		bad := GP64()
		XORQ(bad, bad)
		mg, mask := ZMM(), ZMM()
		VBROADCASTSS(e.magic, mg)
		VPBROADCASTD(absMask, mask)
		Label("l")
		v := block / 16
		m := ZMM()
		VPANDD(Mem{Base: x}, mask, m)
		for i := 1; i < v; i++ {
			t := ZMM()
			VPANDD(Mem{Base: x, Disp: 64 * i}, mask, t)
			VPMAXUD(t, m, m)
		}
		y, xm, t := YMM(), XMM(), XMM()
		VEXTRACTI64X4(U8(1), m, y)
		VPMAXUD(y, m.AsY(), y)
		VEXTRACTI128(U8(1), y, xm)
		VPMAXUD(xm, y.AsX(), xm)
		VPSHUFD(U8(0x4e), xm, t)
		VPMAXUD(t, xm, xm)
		VPSHUFD(U8(0xb1), xm, t)
		VPMAXUD(t, xm, xm)
		bits := GP32()
		VMOVD(xm, bits)
		CMPL(bits, inf)
		JCS(LabelRef("finite"))
		MOVQ(U32(1), bad)
		Label("finite")
		c, scale, inv, large := XMM(), XMM(), XMM(), XMM()
		VMOVSS(c127, c)
		VDIVSS(c, xm, scale)
		VMOVSS(e.one, c)
		VDIVSS(scale, c, inv)
		lim := XMM()
		VMOVSS(least, lim)
		VCMPSS(U8(13), lim, xm, large) // xm >= least
		VANDPS(large, scale, scale)
		VANDPS(large, inv, inv)
		VMOVSS(scale, Mem{Base: d})
		if keep {
			VMOVSS(scale, Mem{Base: scales})
			ADDQ(U8(4), scales)
		}
		iv := ZMM()
		VBROADCASTSS(inv, iv)
		for i := 0; i < v; i++ {
			w := ZMM()
			VMULPS(Mem{Base: x, Disp: 64 * i}, iv, w)
			VADDPS(mg, w, w)
			VPSUBD(mg, w, w)
			if keep {
				b := XMM()
				VPMOVDB(w, b)
				VMOVDQU8(b, Mem{Base: q, Disp: 16 * i})
				VMOVDQU8(b, Mem{Base: codes, Disp: 16 * i})
			} else {
				VPMOVDB(w, Mem{Base: q, Disp: 16 * i})
			}
			// sum of the 16 codes
			sy, sx, su := YMM(), XMM(), XMM()
			VEXTRACTI64X4(U8(1), w, sy)
			VPADDD(sy, w.AsY(), sy)
			VEXTRACTI128(U8(1), sy, sx)
			VPADDD(sx, sy.AsX(), sx)
			VPSHUFD(U8(0x4e), sx, su)
			VPADDD(su, sx, sx)
			VPSHUFD(U8(0xb1), sx, su)
			VPADDD(su, sx, sx)
			VMOVD(sx, Mem{Base: sums, Disp: 4 * i})
		}
		ADDQ(U32(uint32(4*block)), x)
		if keep {
			ADDQ(U32(uint32(block)), codes)
		}
		ADDQ(qstep, q)
		ADDQ(dstep, d)
		ADDQ(U32(uint32(4*v)), sums)
		DECQ(n)
		JNZ(LabelRef("l"))
		VZEROUPPER()
		Store(bad, ReturnIndex(0))
		RET()
	}
}

// expChunk replaces the 64 scores of a chunk by e^(s−max), rounded to f16 when
// round is not 0, zero where mask has no bit, and returns their sum. With keep
// it always rounds, and also writes the f16 values.
func expChunk(e *expConsts, keep bool) {
	var to Register
	if keep {
		TEXT("expKeepAVX512", NOSPLIT, "func(s *float32, mask uint64, max float32, to *byte) float32")
	} else {
		TEXT("expChunkAVX512", NOSPLIT, "func(s *float32, mask uint64, max float32, round int) float32")
	}
	Pragma("noescape")
	if keep {
		to = Load(Param("to"), GP64())
	}
	s := Load(Param("s"), GP64())
	mask := GP64()
	Load(Param("mask"), mask)
	mx := Load(Param("max"), XMM())
	var round Register
	if !keep {
		round = Load(Param("round"), GP64())
	}
	sub, acc := ZMM(), ZMM()
	VBROADCASTSS(mx, sub)
	VPXORD(acc, acc, acc)
	n := GP64()
	MOVQ(U32(4), n)
	Label("l")
	z := ZMM()
	VMOVUPS(Mem{Base: s}, z)
	VSUBPS(sub, z, z)
	nan, score := K(), ZMM()
	VMOVAPS(z, score)
	VCMPPS(U8(3), z, z, nan)
	p := e.emit(z)
	VMOVAPS(score, nan, p)
	y, k := YMM(), K()
	if keep {
		KMOVW(mask.As32(), k)
		VMOVAPS_Z(p, k, p)
		VCVTPS2PH(U8(0), p, y)
		VMOVDQU32(y, Mem{Base: to})
		VCVTPH2PS(y, p)
		ADDQ(U8(32), to)
	} else {
		CMPQ(round, U8(0))
		JEQ(LabelRef("plain"))
		VCVTPS2PH(U8(0), p, y)
		VCVTPH2PS(y, p)
		Label("plain")
		KMOVW(mask.As32(), k)
		VMOVAPS_Z(p, k, p)
	}
	VMOVUPS(p, Mem{Base: s})
	VADDPS(p, acc, acc)
	SHRQ(U8(16), mask)
	ADDQ(U32(64), s)
	DECQ(n)
	JNZ(LabelRef("l"))
	r := treeSum(acc)
	VZEROUPPER()
	Store(r, ReturnIndex(0))
	RET()
}

// maxChunk is the largest of max and the scores of a chunk that mask selects.
func maxChunk() {
	TEXT("maxChunkAVX512", NOSPLIT, "func(s *float32, mask uint64, max float32) float32")
	Pragma("noescape")
	s := Load(Param("s"), GP64())
	mask := GP64()
	Load(Param("mask"), mask)
	mx := Load(Param("max"), XMM())
	m := ZMM()
	VBROADCASTSS(mx, m)
	for i := 0; i < 4; i++ {
		k := K()
		KMOVW(mask.As32(), k)
		VMAXPS(Mem{Base: s, Disp: 64 * i}, m, k, m)
		SHRQ(U8(16), mask)
	}
	y, x, u := YMM(), XMM(), XMM()
	VEXTRACTF64X4(U8(1), m, y)
	VMAXPS(y, m.AsY(), y)
	VEXTRACTF128(U8(1), y, x)
	VMAXPS(x, y.AsX(), x)
	VPERMILPS(U8(0x4e), x, u)
	VMAXPS(u, x, x)
	VPERMILPS(U8(0xb1), x, u)
	VMAXPS(u, x, x)
	VZEROUPPER()
	Store(x, ReturnIndex(0))
	RET()
}

// dst[i] = f16(src[i])
func toF16() {
	TEXT("toF16AVX512", NOSPLIT, "func(dst *uint16, src *float32, n int)")
	Pragma("noescape")
	d := Load(Param("dst"), GP64())
	s := Load(Param("src"), GP64())
	n := Load(Param("n"), GP64())
	Label("l")
	z, y := ZMM(), YMM()
	VMOVUPS(Mem{Base: s}, z)
	VCVTPS2PH(U8(0), z, y)
	VMOVDQU(y, Mem{Base: d})
	ADDQ(U32(64), s)
	ADDQ(U32(32), d)
	DECQ(n)
	JNZ(LabelRef("l"))
	VZEROUPPER()
	RET()
}

// x[i] = f16(x[i]·scale), widened again when round is not 0
func roundF16() {
	TEXT("scaleRoundAVX512", NOSPLIT, "func(x *float32, scale float32, round int, n int)")
	Pragma("noescape")
	p := Load(Param("x"), GP64())
	sx := Load(Param("scale"), XMM())
	round := Load(Param("round"), GP64())
	n := Load(Param("n"), GP64())
	s := ZMM()
	VBROADCASTSS(sx, s)
	Label("l")
	z, y := ZMM(), YMM()
	VMULPS(Mem{Base: p}, s, z)
	CMPQ(round, U8(0))
	JEQ(LabelRef("plain"))
	VCVTPS2PH(U8(0), z, y)
	VCVTPH2PS(y, z)
	Label("plain")
	VMOVUPS(z, Mem{Base: p})
	ADDQ(U32(64), p)
	DECQ(n)
	JNZ(LabelRef("l"))
	VZEROUPPER()
	RET()
}

// x[i] = f16(x[i]), also written as it is
func roundKeep() {
	TEXT("roundKeepAVX512", NOSPLIT, "func(x *float32, to *byte, n int)")
	Pragma("noescape")
	p := Load(Param("x"), GP64())
	to := Load(Param("to"), GP64())
	n := Load(Param("n"), GP64())
	Label("l")
	z, y := ZMM(), YMM()
	VMOVUPS(Mem{Base: p}, z)
	VCVTPS2PH(U8(0), z, y)
	VMOVDQU32(y, Mem{Base: to})
	VCVTPH2PS(y, z)
	VMOVUPS(z, Mem{Base: p})
	ADDQ(U32(64), p)
	ADDQ(U32(32), to)
	DECQ(n)
	JNZ(LabelRef("l"))
	VZEROUPPER()
	RET()
}

// rope rotates heads of step floats; n counts pairs of a head in units of 16
// (Neox) or 8 (Norm). For Norm, cos and sin hold every value twice.
func rope(style string) {
	TEXT("rope"+style+"AVX512", NOSPLIT, "func(x *float32, heads int, step int, cos *float32, sin *float32, n int)")
	Pragma("noescape")
	x := Load(Param("x"), GP64())
	heads := Load(Param("heads"), GP64())
	step := Load(Param("step"), GP64())
	cos0 := Load(Param("cos"), GP64())
	sin0 := Load(Param("sin"), GP64())
	n0 := Load(Param("n"), GP64())
	SHLQ(U8(2), step)
	half := GP64()
	MOVQ(n0, half)
	SHLQ(U8(6), half)
	Label("head")
	p, c, s, n := GP64(), GP64(), GP64(), GP64()
	MOVQ(x, p)
	MOVQ(cos0, c)
	MOVQ(sin0, s)
	MOVQ(n0, n)
	Label("l")
	cv, sv := ZMM(), ZMM()
	VMOVUPS(Mem{Base: c}, cv)
	VMOVUPS(Mem{Base: s}, sv)
	if style == "Neox" {
		a, b := ZMM(), ZMM()
		VMOVUPS(Mem{Base: p}, a)
		VMOVUPS(Mem{Base: p, Index: half, Scale: 1}, b)
		ac, bs, as, bc := ZMM(), ZMM(), ZMM(), ZMM()
		VMULPS(a, cv, ac)
		VMULPS(b, sv, bs)
		VMULPS(a, sv, as)
		VMULPS(b, cv, bc)
		VSUBPS(bs, ac, ac)
		VADDPS(bc, as, as)
		VMOVUPS(ac, Mem{Base: p})
		VMOVUPS(as, Mem{Base: p, Index: half, Scale: 1})
	} else {
		// even lanes: a·cos − b·sin; odd lanes: b·cos + a·sin
		v, w, o := ZMM(), ZMM(), ZMM()
		VMOVUPS(Mem{Base: p}, v)
		VPERMILPS(U8(0xb1), v, w)
		VMULPS(cv, v, v)
		VMULPS(sv, w, w)
		VADDPS(w, v, o)
		k, kr := K(), GP32()
		MOVL(U32(0x5555), kr)
		KMOVW(kr, k)
		VSUBPS(w, v, k, o)
		VMOVUPS(o, Mem{Base: p})
	}
	ADDQ(U32(64), p)
	ADDQ(U32(64), c)
	ADDQ(U32(64), s)
	DECQ(n)
	JNZ(LabelRef("l"))
	ADDQ(step, x)
	DECQ(heads)
	JNZ(LabelRef("head"))
	VZEROUPPER()
	RET()
}
