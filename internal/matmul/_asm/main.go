// Command asm generates the amd64 kernels of package matmul.
package main

import (
	"flag"
	"math"

	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	. "github.com/mmcloughlin/avo/reg"
)

func main() {
	flag.Parse()
	Package("github.com/geistnet/geist/internal/matmul/_asm")
	ConstraintExpr("amd64,!purego")
	tile("tileAVX512", 12, 2, 64, func() VecVirtual { return ZMM() })
	tile("tileAVX2", 6, 2, 32, func() VecVirtual { return YMM() })
	c := newExpConsts()
	largest()
	expSum(c)
	gate(c)
	gateGrad(c)
	scale()
	axpy()
	packs()
	adam()
	dot()
	Generate()
}

// tile emits the product of rows rows of A with a panel of B that is cols
// registers wide: every lane is one output and its sum is one chain of fused
// multiply and add in ascending k. Strides are in bytes; with zero not 0, the
// chain begins at +0 instead of at C.
func tile(name string, rows, cols, width int, vector func() VecVirtual) {
	TEXT(name, NOSPLIT, "func(c *float32, ldc int, a *float32, ars int, acs int, b *float32, k int, zero int)")
	Pragma("noescape")
	c := Load(Param("c"), GP64())
	ldc := Load(Param("ldc"), GP64())
	a := GP64()
	Load(Param("a"), a)
	ars := Load(Param("ars"), GP64())
	acs := Load(Param("acs"), GP64())
	b := Load(Param("b"), GP64())
	k := Load(Param("k"), GP64())
	zero := Load(Param("zero"), GP64())
	acc := make([][]VecVirtual, rows)
	for i := range acc {
		acc[i] = make([]VecVirtual, cols)
		for j := range acc[i] {
			acc[i][j] = vector()
		}
	}
	TESTQ(zero, zero)
	JZ(LabelRef("load"))
	for i := range acc {
		for j := range acc[i] {
			if width == 64 {
				VPXORD(acc[i][j], acc[i][j], acc[i][j])
			} else {
				VXORPS(acc[i][j], acc[i][j], acc[i][j])
			}
		}
	}
	JMP(LabelRef("begin"))
	Label("load")
	p := GP64()
	MOVQ(c, p)
	for i := range acc {
		for j := range acc[i] {
			VMOVUPS(Mem{Base: p, Disp: j * width}, acc[i][j])
		}
		if i < rows-1 {
			ADDQ(ldc, p)
		}
	}
	Label("begin")
	// Row i is base[i/4] + (i%4)·ars.
	ars3 := GP64()
	LEAQ(Mem{Base: ars, Index: ars, Scale: 2}, ars3)
	base := []GPVirtual{a}
	for i := 4; i < rows; i += 4 {
		next := GP64()
		LEAQ(Mem{Base: base[len(base)-1], Index: ars, Scale: 4}, next)
		base = append(base, next)
	}
	row := func(i int) Mem {
		switch i % 4 {
		case 0:
			return Mem{Base: base[i/4]}
		case 3:
			return Mem{Base: base[i/4], Index: ars3, Scale: 1}
		}
		return Mem{Base: base[i/4], Index: ars, Scale: uint8(i % 4)}
	}
	bv := make([]VecVirtual, cols)
	for j := range bv {
		bv[j] = vector()
	}
	Label("loop")
	for j := range bv {
		VMOVUPS(Mem{Base: b, Disp: j * width}, bv[j])
	}
	for i := range acc {
		x := vector()
		VBROADCASTSS(row(i), x)
		for j := range bv {
			VFMADD231PS(bv[j], x, acc[i][j])
		}
	}
	for _, r := range base {
		ADDQ(acs, r)
	}
	ADDQ(U32(uint32(cols*width)), b)
	DECQ(k)
	JNZ(LabelRef("loop"))
	for i := range acc {
		for j := range acc[i] {
			VMOVUPS(acc[i][j], Mem{Base: c, Disp: j * width})
		}
		if i < rows-1 {
			ADDQ(ldc, c)
		}
	}
	VZEROUPPER()
	RET()
}

func constant(name string, f float32) Mem {
	m := GLOBL(name, RODATA|NOPTR)
	DATA(0, U32(math.Float32bits(f)))
	return m
}

// expConsts are the constants of arith.Exp.
type expConsts struct {
	lo, hi, log2e, magic, ln2hi, ln2lo, one, sign Mem
	coef                                          []Mem
}

func newExpConsts() *expConsts {
	e := &expConsts{
		lo: constant("expLo", -87), hi: constant("expHi", 88), log2e: constant("expLog2e", 1.44269504),
		magic: constant("expMagic", 12582912), ln2hi: constant("expLn2hi", 0.693359375),
		ln2lo: constant("expLn2lo", -2.12194440e-4), one: constant("one", 1),
		sign: constant("sign", float32(math.Copysign(0, -1))),
	}
	for i, c := range []float32{1.0 / 720, 1.0 / 120, 1.0 / 24, 1.0 / 6, 0.5, 1, 1} {
		e.coef = append(e.coef, constant("expC"+string(rune('0'+i)), c))
	}
	return e
}

// emit replaces z by arith.Exp of its lanes and returns the register that
// holds the result.
func (e *expConsts) emit(z VecVirtual) VecVirtual {
	b := ZMM()
	VBROADCASTSS(e.lo, b)
	VMAXPS(b, z, z)
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

// fold combines the 16 lanes of z as a tree 8-4-2-1 into lane 0 of an XMM.
func fold(z VecVirtual, op func(a, b, dst Op)) VecVirtual {
	y, x := YMM(), XMM()
	VEXTRACTF64X4(U8(1), z, y)
	op(y, z.AsY(), y)
	VEXTRACTF128(U8(1), y, x)
	op(x, y.AsX(), x)
	u := XMM()
	VPERMILPS(U8(0x4e), x, u)
	op(u, x, x)
	VPERMILPS(U8(0xb1), x, u)
	op(u, x, x)
	return x
}

// largest emits the largest of 16·n values.
func largest() {
	TEXT("largestAVX512", NOSPLIT, "func(x *float32, n int) float32")
	Pragma("noescape")
	x := Load(Param("x"), GP64())
	n := Load(Param("n"), GP64())
	m := ZMM()
	VMOVUPS(Mem{Base: x}, m)
	Label("l")
	VMAXPS(Mem{Base: x}, m, m)
	ADDQ(U32(64), x)
	DECQ(n)
	JNZ(LabelRef("l"))
	r := fold(m, func(a, b, dst Op) { VMAXPS(a, b, dst) })
	VZEROUPPER()
	Store(r, ReturnIndex(0))
	RET()
}

// expSum emits x[i] = exp(x[i] − sub) for 16·n values and their sum in 16 lanes.
func expSum(e *expConsts) {
	TEXT("expSumAVX512", NOSPLIT, "func(x *float32, sub float32, n int) float32")
	Pragma("noescape")
	x := Load(Param("x"), GP64())
	sx := Load(Param("sub"), XMM())
	n := Load(Param("n"), GP64())
	sub, sum := ZMM(), ZMM()
	VBROADCASTSS(sx, sub)
	VPXORD(sum, sum, sum)
	Label("l")
	z := ZMM()
	VMOVUPS(Mem{Base: x}, z)
	VSUBPS(sub, z, z)
	p := e.emit(z)
	VMOVUPS(p, Mem{Base: x})
	VADDPS(p, sum, sum)
	ADDQ(U32(64), x)
	DECQ(n)
	JNZ(LabelRef("l"))
	r := fold(sum, func(a, b, dst Op) { VADDPS(a, b, dst) })
	VZEROUPPER()
	Store(r, ReturnIndex(0))
	RET()
}

// gate emits h = (g·(1/(1+exp(−g))))·u for 16·n values.
func gate(e *expConsts) {
	TEXT("gateAVX512", NOSPLIT, "func(h *float32, gate *float32, up *float32, n int)")
	Pragma("noescape")
	h := Load(Param("h"), GP64())
	g := Load(Param("gate"), GP64())
	u := Load(Param("up"), GP64())
	n := Load(Param("n"), GP64())
	one, sign := ZMM(), ZMM()
	VBROADCASTSS(e.one, one)
	VPBROADCASTD(e.sign, sign)
	Label("l")
	x, gv, s := ZMM(), ZMM(), ZMM()
	VMOVUPS(Mem{Base: g}, gv)
	VPXORD(sign, gv, x)
	p := e.emit(x)
	VADDPS(p, one, p)
	VDIVPS(p, one, s)
	VMULPS(s, gv, s)
	VMULPS(Mem{Base: u}, s, s)
	VMOVUPS(s, Mem{Base: h})
	ADDQ(U32(64), g)
	ADDQ(U32(64), u)
	ADDQ(U32(64), h)
	DECQ(n)
	JNZ(LabelRef("l"))
	VZEROUPPER()
	RET()
}

// gateGrad emits, for 16·n values, s = 1/(1+exp(−g)), m = g·s,
// du = dh·m and dg = (dh·u)·(s·(1 + g·(1−s))).
func gateGrad(e *expConsts) {
	TEXT("gateGradAVX512", NOSPLIT, "func(dgate *float32, dup *float32, gate *float32, up *float32, dh *float32, n int)")
	Pragma("noescape")
	dg := Load(Param("dgate"), GP64())
	du := Load(Param("dup"), GP64())
	g := Load(Param("gate"), GP64())
	u := Load(Param("up"), GP64())
	dh := Load(Param("dh"), GP64())
	n := Load(Param("n"), GP64())
	one, sign := ZMM(), ZMM()
	VBROADCASTSS(e.one, one)
	VPBROADCASTD(e.sign, sign)
	i := GP64()
	XORQ(i, i)
	at := func(p Register) Mem { return Mem{Base: p, Index: i, Scale: 1} }
	Label("l")
	x, gv, s, m, d, t := ZMM(), ZMM(), ZMM(), ZMM(), ZMM(), ZMM()
	VMOVUPS(at(g), gv)
	VPXORD(sign, gv, x)
	p := e.emit(x)
	VADDPS(p, one, p)
	VDIVPS(p, one, s)
	VMULPS(s, gv, m)
	VMOVUPS(at(dh), d)
	VMULPS(m, d, m)
	VMOVUPS(m, at(du))
	VSUBPS(s, one, t)
	VMULPS(t, gv, t)
	VADDPS(one, t, t)
	VMULPS(t, s, t)
	VMULPS(at(u), d, d)
	VMULPS(t, d, d)
	VMOVUPS(d, at(dg))
	ADDQ(U32(64), i)
	DECQ(n)
	JNZ(LabelRef("l"))
	VZEROUPPER()
	RET()
}

// scale emits x[i] = x[i]·s for 16·n values.
func scale() {
	TEXT("scaleAVX512", NOSPLIT, "func(x *float32, s float32, n int)")
	Pragma("noescape")
	x := Load(Param("x"), GP64())
	sx := Load(Param("s"), XMM())
	n := Load(Param("n"), GP64())
	s := ZMM()
	VBROADCASTSS(sx, s)
	Label("l")
	z := ZMM()
	VMULPS(Mem{Base: x}, s, z)
	VMOVUPS(z, Mem{Base: x})
	ADDQ(U32(64), x)
	DECQ(n)
	JNZ(LabelRef("l"))
	VZEROUPPER()
	RET()
}

// axpy emits y[i] = y[i] + a·x[i] for 16·n values, the product rounded.
func axpy() {
	TEXT("axpyAVX512", NOSPLIT, "func(y *float32, x *float32, a float32, n int)")
	Pragma("noescape")
	y := Load(Param("y"), GP64())
	x := Load(Param("x"), GP64())
	ax := Load(Param("a"), XMM())
	n := Load(Param("n"), GP64())
	a := ZMM()
	VBROADCASTSS(ax, a)
	Label("l")
	z := ZMM()
	VMULPS(Mem{Base: x}, a, z)
	VADDPS(Mem{Base: y}, z, z)
	VMOVUPS(z, Mem{Base: y})
	ADDQ(U32(64), x)
	ADDQ(U32(64), y)
	DECQ(n)
	JNZ(LabelRef("l"))
	VZEROUPPER()
	RET()
}

// dot emits the sum of the rounded products of 16·n values, in 16 lanes.
func dot() {
	TEXT("dotAVX512", NOSPLIT, "func(x *float32, y *float32, n int) float32")
	Pragma("noescape")
	x := Load(Param("x"), GP64())
	y := Load(Param("y"), GP64())
	n := Load(Param("n"), GP64())
	sum := ZMM()
	VPXORD(sum, sum, sum)
	Label("l")
	z := ZMM()
	VMOVUPS(Mem{Base: x}, z)
	VMULPS(Mem{Base: y}, z, z)
	VADDPS(z, sum, sum)
	ADDQ(U32(64), x)
	ADDQ(U32(64), y)
	DECQ(n)
	JNZ(LabelRef("l"))
	r := fold(sum, func(a, b, dst Op) { VADDPS(a, b, dst) })
	VZEROUPPER()
	Store(r, ReturnIndex(0))
	RET()
}

// packs emits copies of n runs of floats, step bytes apart, to one place after
// another: 12 to a row of a packed A, 32 to one of a packed B.
func packs() {
	for _, p := range []struct {
		name  string
		parts []int // bytes
	}{{"pack12AVX512", []int{32, 16}}, {"pack32AVX512", []int{64, 64}}} {
		TEXT(p.name, NOSPLIT, "func(dst *float32, src *float32, step int, n int)")
		Pragma("noescape")
		dst := Load(Param("dst"), GP64())
		src := Load(Param("src"), GP64())
		step := Load(Param("step"), GP64())
		n := Load(Param("n"), GP64())
		Label("l")
		at := 0
		for _, size := range p.parts {
			var v VecVirtual
			switch size {
			case 16:
				v = XMM()
			case 32:
				v = YMM()
			default:
				v = ZMM()
			}
			VMOVUPS(Mem{Base: src, Disp: at}, v)
			VMOVUPS(v, Mem{Base: dst, Disp: at})
			at += size
		}
		ADDQ(U32(uint32(at)), dst)
		ADDQ(step, src)
		DECQ(n)
		JNZ(LabelRef("l"))
		VZEROUPPER()
		RET()
	}
}

// adam emits a step of sat.Adam for 16·n values. k points to beta1, 1−beta1,
// beta2, 1−beta2, c1, c2, eps, decay and the rate. What it returns is 0 if all
// results are finite, else a NaN.
func adam() {
	TEXT("adamAVX512", NOSPLIT, "func(w *float32, m *float32, v *float32, grad *float32, k *float32, n int) float32")
	Pragma("noescape")
	w := Load(Param("w"), GP64())
	m := Load(Param("m"), GP64())
	v := Load(Param("v"), GP64())
	g := Load(Param("grad"), GP64())
	k := Load(Param("k"), GP64())
	n := Load(Param("n"), GP64())
	terms := make([]VecVirtual, 9)
	for i := range terms {
		terms[i] = ZMM()
		VBROADCASTSS(Mem{Base: k, Disp: 4 * i}, terms[i])
	}
	beta1, rest1, beta2, rest2, c1, c2, eps, decay, rate := terms[0], terms[1], terms[2], terms[3], terms[4], terms[5], terms[6], terms[7], terms[8]
	bad := ZMM()
	VPXORD(bad, bad, bad)
	i := GP64()
	XORQ(i, i)
	at := func(p Register) Mem { return Mem{Base: p, Index: i, Scale: 1} }
	check := func(x VecVirtual) {
		t := ZMM()
		VSUBPS(x, x, t)
		VADDPS(t, bad, bad)
	}
	Label("l")
	gv, mv, vv, wv, t := ZMM(), ZMM(), ZMM(), ZMM(), ZMM()
	VMOVUPS(at(g), gv)
	VMULPS(at(m), beta1, mv)
	VMULPS(gv, rest1, t)
	VADDPS(t, mv, mv)
	VMULPS(gv, gv, gv)
	VMULPS(gv, rest2, gv)
	VMULPS(at(v), beta2, vv)
	VADDPS(gv, vv, vv)
	VMOVUPS(mv, at(m))
	VMOVUPS(vv, at(v))
	check(mv)
	check(vv)
	VDIVPS(c2, vv, vv)
	VSQRTPS(vv, vv)
	VADDPS(eps, vv, vv)
	VDIVPS(c1, mv, mv)
	VDIVPS(vv, mv, mv)
	VMOVUPS(at(w), wv)
	VMULPS(wv, decay, t)
	VADDPS(t, mv, mv)
	VMULPS(mv, rate, mv)
	VSUBPS(mv, wv, wv)
	VMOVUPS(wv, at(w))
	check(wv)
	ADDQ(U32(64), i)
	DECQ(n)
	JNZ(LabelRef("l"))
	r := fold(bad, func(a, b, dst Op) { VADDPS(a, b, dst) })
	VZEROUPPER()
	Store(r, ReturnIndex(0))
	RET()
}
