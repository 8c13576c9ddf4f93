package main

import (
	"math"

	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	. "github.com/mmcloughlin/avo/reg"
)

// The element-wise kernels have the arguments and results of those for
// AVX-512. Where a sum has 16 lanes, two registers hold them.

// all8 is a read-only vector of eight times the same 32 bits.
func all8(name string, v uint32) Mem {
	m := GLOBL(name, RODATA|NOPTR)
	for i := range 8 {
		DATA(4*i, U32(v))
	}
	return m
}

func float8(name string, f float32) Mem { return all8(name, math.Float32bits(f)) }

func newExpConstsAVX2() *expConsts {
	e := &expConsts{
		lo: float8("expLo", -87), hi: float8("expHi", 88), log2e: float8("expLog2e", 1.44269504),
		magic: float8("roundMagic", 12582912), ln2hi: float8("expLn2hi", 0.693359375),
		ln2lo: float8("expLn2lo", -2.12194440e-4), one: float8("one", 1),
	}
	for i, c := range []float32{1.0 / 720, 1.0 / 120, 1.0 / 24, 1.0 / 6, 0.5, 1, 1} {
		e.coef = append(e.coef, float8("expC"+itoa(i), c))
	}
	return e
}

// emitAVX2 replaces the lanes of every z by arith.Exp of them and returns the
// registers that hold the results.
func (e *expConsts) emitAVX2(z []VecVirtual) []VecVirtual {
	k, n, t, p := ymms(len(z)), ymms(len(z)), ymms(len(z)), ymms(len(z))
	for i, z := range z {
		k, n, t, p := k[i], n[i], t[i], p[i]
		VMAXPS(e.lo, z, z) // a NaN in z gives the second source: lo
		VMINPS(e.hi, z, z)
		VMULPS(e.log2e, z, k)
		VADDPS(e.magic, k, k)
		VPSUBD(e.magic, k, n)
		VSUBPS(e.magic, k, k)
		VMULPS(e.ln2hi, k, t)
		VSUBPS(t, z, z)
		VMULPS(e.ln2lo, k, t)
		VSUBPS(t, z, z)
		VMOVUPS(e.coef[0], p)
	}
	for _, c := range e.coef[1:] {
		for i := range z {
			VMULPS(z[i], p[i], p[i])
			VADDPS(c, p[i], p[i])
		}
	}
	for i := range z {
		VPSLLD(U8(23), n[i], n[i])
		VPADDD(n[i], p[i], p[i])
	}
	return p
}

func ymms(n int) []VecVirtual {
	v := make([]VecVirtual, n)
	for i := range v {
		v[i] = YMM()
	}
	return v
}

// reduceAVX2 combines the 16 lanes of v as a tree 8-4-2-1 into lane 0.
func reduceAVX2(v []VecVirtual, op func(a, b, dst Op)) VecVirtual {
	x, u := XMM(), XMM()
	op(v[1], v[0], v[0])
	VEXTRACTF128(U8(1), v[0], x)
	op(x, v[0].AsX(), x)
	VPERMILPS(U8(0x4e), x, u)
	op(u, x, x)
	VPERMILPS(U8(0xb1), x, u)
	op(u, x, x)
	return x
}

// next moves the pointers past a vector of 16 floats and repeats the loop.
func next(n Register, label string, ps ...Register) {
	for _, p := range ps {
		ADDQ(U32(64), p)
	}
	DECQ(n)
	JNZ(LabelRef(label))
}

func elementwiseAVX2() {
	e := newExpConstsAVX2()
	sumSquaresAVX2()
	scaleMulAVX2()
	addAVX2()
	gatedAVX2("silu", e)
	gatedAVX2("gelu", e)
	quantiseAVX2(e)
	pairsAVX2()
	lanes := laneBits()
	expChunkAVX2(e, lanes)
	maxChunkAVX2(lanes)
	toF16AVX2()
	scaleRoundAVX2()
	ropeAVX2("Norm")
	ropeAVX2("Neox")
}

func sumSquaresAVX2() {
	TEXT("sumSquaresAVX2", NOSPLIT, "func(x *float32, n int) float32")
	Pragma("noescape")
	x := Load(Param("x"), GP64())
	n := Load(Param("n"), GP64())
	acc, v := ymms(2), ymms(2)
	for i := range acc {
		VXORPS(acc[i], acc[i], acc[i])
	}
	Label("l")
	for i := range acc {
		VMOVUPS(Mem{Base: x, Disp: 32 * i}, v[i])
		VMULPS(v[i], v[i], v[i])
		VADDPS(v[i], acc[i], acc[i])
	}
	next(n, "l", x)
	s := reduceAVX2(acc, func(a, b, dst Op) { VADDPS(a, b, dst) })
	VZEROUPPER()
	Store(s, ReturnIndex(0))
	RET()
}

func scaleMulAVX2() {
	TEXT("scaleMulAVX2", NOSPLIT, "func(dst *float32, x *float32, w *float32, r float32, n int)")
	Pragma("noescape")
	d := Load(Param("dst"), GP64())
	x := Load(Param("x"), GP64())
	w := Load(Param("w"), GP64())
	rx := Load(Param("r"), XMM())
	n := Load(Param("n"), GP64())
	r := YMM()
	VBROADCASTSS(rx, r)
	Label("l")
	for i := range 2 {
		v := YMM()
		VMULPS(Mem{Base: x, Disp: 32 * i}, r, v)
		VMULPS(Mem{Base: w, Disp: 32 * i}, v, v)
		VMOVUPS(v, Mem{Base: d, Disp: 32 * i})
	}
	next(n, "l", x, w, d)
	VZEROUPPER()
	RET()
}

func addAVX2() {
	TEXT("addAVX2", NOSPLIT, "func(dst *float32, x *float32, n int)")
	Pragma("noescape")
	d := Load(Param("dst"), GP64())
	x := Load(Param("x"), GP64())
	n := Load(Param("n"), GP64())
	Label("l")
	for i := range 2 {
		v := YMM()
		VMOVUPS(Mem{Base: d, Disp: 32 * i}, v)
		VADDPS(Mem{Base: x, Disp: 32 * i}, v, v)
		VMOVUPS(v, Mem{Base: d, Disp: 32 * i})
	}
	next(n, "l", x, d)
	VZEROUPPER()
	RET()
}

func gatedAVX2(act string, e *expConsts) {
	var scale, cubic Mem
	if act == "gelu" {
		scale, cubic = float8("geluScale", 1.5957691216), float8("geluCubic", 0.044715)
	}
	TEXT(act+"AVX2", NOSPLIT, "func(dst *float32, x *float32, u *float32, n int)")
	Pragma("noescape")
	d := Load(Param("dst"), GP64())
	g := Load(Param("x"), GP64())
	u := Load(Param("u"), GP64())
	n := Load(Param("n"), GP64())
	zero := YMM()
	VXORPS(zero, zero, zero)
	Label("l")
	z := ymms(2)
	for i, z := range z {
		gv := Mem{Base: g, Disp: 32 * i}
		if act == "gelu" {
			v, t := YMM(), YMM()
			VMOVUPS(gv, v)
			VMULPS(v, v, t)
			VMULPS(cubic, t, t)
			VADDPS(e.one, t, t)
			VMULPS(scale, v, z)
			VMULPS(t, z, z)
			VSUBPS(z, zero, z)
		} else {
			VSUBPS(gv, zero, z)
		}
	}
	for i, p := range e.emitAVX2(z) {
		v := YMM()
		VADDPS(e.one, p, p)
		VMOVUPS(Mem{Base: g, Disp: 32 * i}, v)
		VDIVPS(p, v, p)
		VMULPS(Mem{Base: u, Disp: 32 * i}, p, p)
		VMOVUPS(p, Mem{Base: d, Disp: 32 * i})
	}
	next(n, "l", g, u, d)
	VZEROUPPER()
	RET()
}

func quantiseAVX2(e *expConsts) {
	absMask := all8("absMask", 0x7fffffff)
	c127, one := fconst("c127", 127), fconst("quantOne", 1)
	least := fconst("minScaled", 0x1p-100)
	inf := GLOBL("infBits", RODATA|NOPTR)
	DATA(0, U32(0x7f800000))
	order := GLOBL("unpackOrder", RODATA|NOPTR)
	for i, v := range []uint32{0, 4, 1, 5, 2, 6, 3, 7} {
		DATA(4*i, U32(v))
	}
	ones8, ones16 := all8("ones8", 0x01010101), Mem{Symbol: Symbol{Name: "ones16", Static: true}, Base: StaticBase}
	for _, block := range []int{32, 256} {
		TEXT("quantise"+itoa(block)+"AVX2", NOSPLIT, "func(x *float32, q *int8, qstep int, d *float32, dstep int, sums *int32, nb int) int")
		Pragma("noescape")
		x := Load(Param("x"), GP64())
		q := Load(Param("q"), GP64())
		qstep := Load(Param("qstep"), GP64())
		d := Load(Param("d"), GP64())
		dstep := Load(Param("dstep"), GP64())
		sums := Load(Param("sums"), GP64())
		n := Load(Param("nb"), GP64())
		bad := GP64()
		XORQ(bad, bad)
		mask, idx := YMM(), YMM()
		VMOVDQU(absMask, mask)
		VMOVDQU(order, idx)
		Label("l")
		m := YMM()
		VPAND(Mem{Base: x}, mask, m)
		for i := 1; i < block/8; i++ {
			t := YMM()
			VPAND(Mem{Base: x, Disp: 32 * i}, mask, t)
			VPMAXUD(t, m, m)
		}
		xm, t := XMM(), XMM()
		VEXTRACTI128(U8(1), m, xm)
		VPMAXUD(xm, m.AsX(), xm)
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
		c, scale, inv, keep, lim := XMM(), XMM(), XMM(), XMM(), XMM()
		VMOVSS(c127, c)
		VDIVSS(c, xm, scale)
		VMOVSS(one, c)
		VDIVSS(scale, c, inv)
		VMOVSS(least, lim)
		VCMPSS(U8(13), lim, xm, keep) // xm >= least
		VANDPS(keep, scale, scale)
		VANDPS(keep, inv, inv)
		VMOVSS(scale, Mem{Base: d})
		iv := YMM()
		VBROADCASTSS(inv, iv)
		for i := range block / 32 {
			w := ymms(4)
			for k, w := range w {
				VMULPS(Mem{Base: x, Disp: 128*i + 32*k}, iv, w)
				VADDPS(e.magic, w, w)
				VPSUBD(e.magic, w, w)
			}
			VPACKSSDW(w[1], w[0], w[0])
			VPACKSSDW(w[3], w[2], w[2])
			VPACKSSWB(w[2], w[0], w[0])
			VPERMD(w[0], idx, w[0])
			VMOVDQU(w[0], Mem{Base: q, Disp: 32 * i})
			// the sums of the two halves, one in each 128-bit lane
			s := YMM()
			VMOVDQU(ones8, s)
			VPMADDUBSW(w[0], s, s)
			VPMADDWD(ones16, s, s)
			addLanes(s, func(a, b, dst Op) { VPADDD(a, b, dst) })
			hi := XMM()
			VEXTRACTI128(U8(1), s, hi)
			VMOVD(s.AsX(), Mem{Base: sums, Disp: 8 * i})
			VMOVD(hi, Mem{Base: sums, Disp: 8*i + 4})
		}
		ADDQ(U32(uint32(4*block)), x)
		ADDQ(qstep, q)
		ADDQ(dstep, d)
		ADDQ(U32(uint32(block/4)), sums)
		DECQ(n)
		JNZ(LabelRef("l"))
		VZEROUPPER()
		Store(bad, ReturnIndex(0))
		RET()
	}
}

// addLanes adds up the four 32-bit lanes of each half of s, into all of them.
func addLanes(s VecVirtual, op func(a, b, dst Op)) {
	t := YMM()
	VPSHUFD(U8(0x4e), s, t)
	op(t, s, s)
	VPSHUFD(U8(0xb1), s, t)
	op(t, s, s)
}

// pairsAVX2 emits putPairs for n blocks of 32 and of 256 columns: the sums of
// codes qstep bytes apart, times factor, go to dst, step bytes apart.
func pairsAVX2() {
	ones8 := Mem{Symbol: Symbol{Name: "ones8", Static: true}, Base: StaticBase}
	for _, block := range []int{32, 256} {
		TEXT("pairs"+itoa(block)+"AVX2", NOSPLIT, "func(dst *byte, step int, q *int8, qstep int, factor int, n int)")
		Pragma("noescape")
		dst := Load(Param("dst"), GP64())
		step := Load(Param("step"), GP64())
		q := Load(Param("q"), GP64())
		qstep := Load(Param("qstep"), GP64())
		factor := Load(Param("factor"), GP64())
		n := Load(Param("n"), GP64())
		fx, f, ones := XMM(), YMM(), YMM()
		VMOVQ(factor, fx)
		VPBROADCASTW(fx, f)
		VMOVDQU(ones8, ones)
		Label("l")
		for i := range block / 32 {
			s, hi := YMM(), XMM()
			VPMADDUBSW(Mem{Base: q, Disp: 32 * i}, ones, s)
			addLanes(s, func(a, b, dst Op) { VPADDW(a, b, dst) })
			VPMULLW(f, s, s)
			VEXTRACTI128(U8(1), s, hi)
			if block == 32 {
				VPADDW(hi, s.AsX(), hi)
				VMOVD(hi, Mem{Base: dst})
			} else {
				VMOVD(s.AsX(), Mem{Base: dst, Disp: 8 * i})
				VMOVD(hi, Mem{Base: dst, Disp: 8*i + 4})
			}
		}
		ADDQ(step, dst)
		ADDQ(qstep, q)
		DECQ(n)
		JNZ(LabelRef("l"))
		VZEROUPPER()
		RET()
	}
}

// laneBits has bit i in lane i, for i from 0 to 7.
func laneBits() Mem {
	m := GLOBL("laneBits", RODATA|NOPTR)
	for i := range 8 {
		DATA(4*i, U32(1<<i))
	}
	return m
}

// selected sets the lanes of m that the lowest 8 bits of mask select, and
// shifts those out.
func selected(mask Register, lanes Mem, m VecVirtual) {
	x, b := XMM(), YMM()
	VMOVDQU(lanes, b)
	VMOVQ(mask, x)
	VPBROADCASTD(x, m)
	VPAND(b, m, m)
	VPCMPEQD(b, m, m)
	SHRQ(U8(8), mask)
}

func expChunkAVX2(e *expConsts, lanes Mem) {
	TEXT("expChunkAVX2", NOSPLIT, "func(s *float32, mask uint64, max float32, round int) float32")
	Pragma("noescape")
	s := Load(Param("s"), GP64())
	mask := Load(Param("mask"), GP64())
	mx := Load(Param("max"), XMM())
	round := Load(Param("round"), GP64())
	sub, acc := YMM(), ymms(2)
	VBROADCASTSS(mx, sub)
	for i := range acc {
		VXORPS(acc[i], acc[i], acc[i])
	}
	n := GP64()
	MOVQ(U32(4), n)
	Label("l")
	z := ymms(2)
	for i, z := range z {
		VMOVUPS(Mem{Base: s, Disp: 32 * i}, z)
		VSUBPS(sub, z, z)
	}
	p := e.emitAVX2(z)
	CMPQ(round, U8(0))
	JEQ(LabelRef("plain"))
	for _, p := range p {
		x := XMM()
		VCVTPS2PH(U8(0), p, x)
		VCVTPH2PS(x, p)
	}
	Label("plain")
	for i, p := range p {
		m := YMM()
		selected(mask, lanes, m)
		VANDPS(m, p, p)
		VMOVUPS(p, Mem{Base: s, Disp: 32 * i})
		VADDPS(p, acc[i], acc[i])
	}
	next(n, "l", s)
	r := reduceAVX2(acc, func(a, b, dst Op) { VADDPS(a, b, dst) })
	VZEROUPPER()
	Store(r, ReturnIndex(0))
	RET()
}

func maxChunkAVX2(lanes Mem) {
	TEXT("maxChunkAVX2", NOSPLIT, "func(s *float32, mask uint64, max float32) float32")
	Pragma("noescape")
	s := Load(Param("s"), GP64())
	mask := Load(Param("mask"), GP64())
	mx := Load(Param("max"), XMM())
	top := ymms(2)
	for i := range top {
		VBROADCASTSS(mx, top[i])
	}
	for i := range 8 {
		t, m, k := top[i%2], YMM(), YMM()
		selected(mask, lanes, k)
		VMAXPS(Mem{Base: s, Disp: 32 * i}, t, m)
		VBLENDVPS(k, m, t, t)
	}
	r := reduceAVX2(top, func(a, b, dst Op) { VMAXPS(a, b, dst) })
	VZEROUPPER()
	Store(r, ReturnIndex(0))
	RET()
}

func toF16AVX2() {
	TEXT("toF16AVX2", NOSPLIT, "func(dst *uint16, src *float32, n int)")
	Pragma("noescape")
	d := Load(Param("dst"), GP64())
	s := Load(Param("src"), GP64())
	n := Load(Param("n"), GP64())
	Label("l")
	for i := range 2 {
		v := YMM()
		VMOVUPS(Mem{Base: s, Disp: 32 * i}, v)
		VCVTPS2PH(U8(0), v, Mem{Base: d, Disp: 16 * i})
	}
	ADDQ(U32(32), d)
	next(n, "l", s)
	VZEROUPPER()
	RET()
}

func scaleRoundAVX2() {
	TEXT("scaleRoundAVX2", NOSPLIT, "func(x *float32, scale float32, round int, n int)")
	Pragma("noescape")
	p := Load(Param("x"), GP64())
	sx := Load(Param("scale"), XMM())
	round := Load(Param("round"), GP64())
	n := Load(Param("n"), GP64())
	s, v := YMM(), ymms(2)
	VBROADCASTSS(sx, s)
	Label("l")
	for i := range v {
		VMULPS(Mem{Base: p, Disp: 32 * i}, s, v[i])
	}
	CMPQ(round, U8(0))
	JEQ(LabelRef("plain"))
	for i := range v {
		x := XMM()
		VCVTPS2PH(U8(0), v[i], x)
		VCVTPH2PS(x, v[i])
	}
	Label("plain")
	for i := range v {
		VMOVUPS(v[i], Mem{Base: p, Disp: 32 * i})
	}
	next(n, "l", p)
	VZEROUPPER()
	RET()
}

func ropeAVX2(style string) {
	TEXT("rope"+style+"AVX2", NOSPLIT, "func(x *float32, heads int, step int, cos *float32, sin *float32, n int)")
	Pragma("noescape")
	x := Load(Param("x"), GP64())
	heads := Load(Param("heads"), GP64())
	step := Load(Param("step"), GP64())
	cos0 := Load(Param("cos"), GP64())
	sin0 := Load(Param("sin"), GP64())
	n0 := Load(Param("n"), GP64())
	half := GP64()
	MOVQ(n0, half)
	SHLQ(U8(6), half)
	p, c, s, n := GP64(), GP64(), GP64(), GP64()
	Label("head")
	MOVQ(x, p)
	MOVQ(cos0, c)
	MOVQ(sin0, s)
	MOVQ(n0, n)
	Label("l")
	for i := range 2 {
		cv, sv := YMM(), YMM()
		at := 32 * i
		VMOVUPS(Mem{Base: c, Disp: at}, cv)
		VMOVUPS(Mem{Base: s, Disp: at}, sv)
		lo, hi := Mem{Base: p, Disp: at}, Mem{Base: p, Index: half, Scale: 1, Disp: at}
		if style == "Neox" {
			a, b := YMM(), YMM()
			VMOVUPS(lo, a)
			VMOVUPS(hi, b)
			ac, bs, as, bc := YMM(), YMM(), YMM(), YMM()
			VMULPS(a, cv, ac)
			VMULPS(b, sv, bs)
			VMULPS(a, sv, as)
			VMULPS(b, cv, bc)
			VSUBPS(bs, ac, ac)
			VADDPS(bc, as, as)
			VMOVUPS(ac, lo)
			VMOVUPS(as, hi)
		} else {
			// even lanes: a·cos − b·sin; odd lanes: b·cos + a·sin
			v, w := YMM(), YMM()
			VMOVUPS(lo, v)
			VPERMILPS(U8(0xb1), v, w)
			VMULPS(cv, v, v)
			VMULPS(sv, w, w)
			VADDSUBPS(w, v, v)
			VMOVUPS(v, lo)
		}
	}
	next(n, "l", p, c, s)
	LEAQ(Mem{Base: x, Index: step, Scale: 4}, x)
	DECQ(heads)
	JNZ(LabelRef("head"))
	VZEROUPPER()
	RET()
}

// mixAVX2 emits the kernel of mix for w queries. A pass takes as many vectors
// of values as leave 8 sums.
func (f kvFormat) mixAVX2(w int) {
	TEXT("mix"+f.name+"x"+itoa(w)+"AVX2", NOSPLIT, "func(out *float32, ostride int, p *float32, v *byte, hd16 int, n int)")
	Pragma("noescape")
	out := Load(Param("out"), GP64())
	ostride := Load(Param("ostride"), GP64())
	p0 := Load(Param("p"), GP64())
	v0 := Load(Param("v"), GP64())
	left := Load(Param("hd16"), GP64()) // vectors of 8 values
	n0 := Load(Param("n"), GP64())
	SHLQ(U8(1), left)
	stride := GP64() // bytes of one value
	MOVQ(left, stride)
	IMUL3Q(U32(uint32(8*f.size)), stride, stride)
	p, v, n, o := GP64(), GP64(), GP64(), GP64()
	pass := func(nd int) {
		label := "pass" + itoa(nd)
		Label(label)
		CMPQ(left, U8(nd))
		JLT(LabelRef(label + "end"))
		acc := make([][]VecVirtual, nd)
		for b := range acc {
			acc[b] = ymms(w)
			for _, z := range acc[b] {
				VXORPS(z, z, z)
			}
		}
		MOVQ(p0, p)
		MOVQ(v0, v)
		MOVQ(n0, n)
		Label(label + "t")
		x := ymms(w)
		for b := range acc {
			value := YMM()
			if m := (Mem{Base: v, Disp: 8 * f.size * b}); f.size == 2 {
				VCVTPH2PS(m, value)
			} else {
				VMOVUPS(m, value)
			}
			for i := range w {
				if b == 0 {
					VBROADCASTSS(Mem{Base: p, Disp: 256 * i}, x[i])
				}
				accumulateAVX2(f.size == 2, value, x[i], acc[b][i])
			}
		}
		ADDQ(stride, v)
		ADDQ(U32(4), p)
		DECQ(n)
		JNZ(LabelRef(label + "t"))
		MOVQ(out, o)
		for i := range w {
			for b := range acc {
				VADDPS(Mem{Base: o, Disp: 32 * b}, acc[b][i], acc[b][i])
				VMOVUPS(acc[b][i], Mem{Base: o, Disp: 32 * b})
			}
			if i < w-1 {
				LEAQ(Mem{Base: o, Index: ostride, Scale: 4}, o)
			}
		}
		ADDQ(U32(uint32(32*nd)), out)
		ADDQ(U32(uint32(8*f.size*nd)), v0)
		SUBQ(U32(uint32(nd)), left)
		JMP(LabelRef(label))
		Label(label + "end")
	}
	for nd := 8 / w; ; nd = min(nd-1, 2) {
		pass(nd)
		if nd <= 2 {
			break
		}
	}
	VZEROUPPER()
	RET()
}

// accumulateAVX2 adds a·b to acc: fused where the product is exact, as that of
// two halves is, else with the product rounded.
func accumulateAVX2(exact bool, a, b, acc VecVirtual) {
	if exact {
		VFMADD231PS(a, b, acc)
		return
	}
	t := YMM()
	VMULPS(a, b, t)
	VADDPS(t, acc, acc)
}

func attentionAVX2() {
	for _, w := range widths {
		floatAVX2("scoresF16", w)
		for _, f := range kvFormats {
			f.mixAVX2(w)
		}
	}
}
