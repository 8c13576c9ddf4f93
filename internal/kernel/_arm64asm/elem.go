package main

import (
	"fmt"
	"math"
)

// General registers of the element-wise operations.
const (
	rA    = "R0"
	rB    = "R1"
	rCc   = "R2"
	rCos  = "R3"
	rSin  = "R4"
	rLen  = "R5"
	rTmp  = "R6"
	rTmp2 = "R7"
)

// quad is four vectors: 16 floats.
type quad [4]vec

func (a *asm) quad() (q quad) { return quad(a.take(4)) }

func (a *asm) loadQuad(reg string) quad {
	q := a.quad()
	a.load(mem{reg, 0}, q[:]...)
	return q
}

func (a *asm) storeQuad(q quad, reg string) {
	for i := 0; i < 4; i += 2 {
		a.op("FSTPQ (F%d, F%d), %v", q[i], q[i+1], mem{reg, 16 * i})
	}
	a.add(64, reg)
	a.release(q[:]...)
}

// each emits one instruction for each vector of a quad.
func each(f func(i int)) {
	for i := range 4 {
		f(i)
	}
}

// constants of the element-wise operations, which newConsts loads in this
// order. The first four lanes and the next two are factors.
var constants = []float32{
	1.44269504, 0.693359375, -2.12194440e-4, 1.0 / 720, // arith: Log2E, Ln2Hi, Ln2Lo, ExpCoef[0]
	0.044715, 1.5957691216, 0, 0, // GELUCubic, GELUScale
	-87, 88, 12582912, // ExpMin, ExpMax, roundMagic
	1.0 / 120, 1.0 / 24, 1.0 / 6, 0.5, 1, // the rest of ExpCoef, whose last is 1 too
}

func elemData() string {
	s := "\n"
	for i, c := range constants {
		s += fmt.Sprintf("DATA elem<>+%d(SB)/4, $0x%08x // %v\n", 4*i, math.Float32bits(c), c)
	}
	s += fmt.Sprintf("GLOBL elem<>(SB), RODATA|NOPTR, $%d\n\n", 4*len(constants))
	for i := range 4 {
		s += fmt.Sprintf("DATA lanes<>+%d(SB)/4, $%d\n", 4*i, 1<<i)
	}
	return s + "GLOBL lanes<>(SB), RODATA|NOPTR, $16\n"
}

// consts are the constants in registers.
type consts struct {
	factors, gelu, lo, hi, magic, one vec
	coef                              []vec // all but the first
}

func (a *asm) newConsts(gelu bool) (c consts) {
	a.op("MOVD $elem<>(SB), %s", rTmp)
	c.factors = a.one()
	a.loadPart(16, mem{rTmp, 0}, c.factors)
	if gelu {
		c.gelu = a.one()
		a.loadPart(16, mem{rTmp, 16}, c.gelu)
	}
	a.add(32, rTmp)
	v := a.take(len(constants) - 8)
	for _, r := range v {
		a.op("VLD1R.P 4(%s), [V%d.S4]", rTmp, r)
	}
	c.lo, c.hi, c.magic, c.one = v[0], v[1], v[2], v[7]
	c.coef = append(v[3:], c.one)
	return c
}

// exp replaces x by arith.Exp of its lanes.
func (a *asm) exp(c consts, x quad) {
	k, n, p := a.quad(), a.quad(), a.quad()
	each(func(i int) { a.fcmgt(p[i], x[i], c.lo) })
	each(func(i int) { a.op("VBIF V%d.B16, V%d.B16, V%d.B16", p[i], c.lo, x[i]) })
	each(func(i int) { a.fcmgt(p[i], c.hi, x[i]) })
	each(func(i int) { a.op("VBIF V%d.B16, V%d.B16, V%d.B16", p[i], c.hi, x[i]) })
	each(func(i int) { a.fmulLane(k[i], x[i], c.factors, 0) })
	each(func(i int) { a.fadd(k[i], k[i], c.magic) })
	each(func(i int) { a.op("VSHL $23, V%d.S4, V%d.S4", k[i], n[i]) })
	each(func(i int) { a.fsub(k[i], k[i], c.magic) })
	for lane := 1; lane <= 2; lane++ {
		each(func(i int) { a.fmulLane(p[i], k[i], c.factors, lane) })
		each(func(i int) { a.fsub(x[i], x[i], p[i]) })
	}
	each(func(i int) { a.fmulLane(p[i], x[i], c.factors, 3) })
	for j, v := range c.coef {
		if j > 0 {
			each(func(i int) { a.fmul(p[i], p[i], x[i]) })
		}
		each(func(i int) { a.fadd(p[i], p[i], v) })
	}
	each(func(i int) { a.op("VADD V%d.S4, V%d.S4, V%d.S4", n[i], p[i], x[i]) })
	a.release(k[:]...)
	a.release(n[:]...)
	a.release(p[:]...)
}

// tree returns arith's sum of 16 lanes as the function's result.
func (a *asm) tree(q quad) {
	a.fadd(q[0], q[0], q[2])
	a.fadd(q[1], q[1], q[3])
	a.fadd(q[0], q[0], q[1])
	a.op("VEXT $8, V%d.B16, V%d.B16, V%d.B16", q[0], q[0], q[1])
	a.fadd(q[0], q[0], q[1])
	a.faddp(q[0], q[0])
	a.op("FMOVS F%d, %s", q[0], a.result)
	a.op("RET")
}

func (a *asm) elementwise() {
	a.function("sumSquaresNEON", "x *float32, n int", "float32", 0, rA, rLen)
	acc := a.quad()
	a.zero(acc[:]...)
	a.label("loop")
	x := a.loadQuad(rA)
	each(func(i int) { a.fmul(x[i], x[i], x[i]) })
	each(func(i int) { a.fadd(acc[i], acc[i], x[i]) })
	a.add(64, rA)
	a.loop(rLen, "loop")
	a.tree(acc)

	a.function("scaleMulNEON", "dst *float32, x *float32, w *float32, r float32, n int", "", 0, rA, rB, rCc, "F0", rLen)
	a.label("loop")
	x, w := a.loadQuad(rB), a.loadQuad(rCc)
	each(func(i int) { a.fmulLane(x[i], x[i], 0, 0) })
	each(func(i int) { a.fmul(x[i], x[i], w[i]) })
	a.add(64, rB)
	a.add(64, rCc)
	a.storeQuad(x, rA)
	a.loop(rLen, "loop")
	a.op("RET")

	a.function("addNEON", "dst *float32, x *float32, n int", "", 0, rA, rB, rLen)
	a.label("loop")
	d, x := a.loadQuad(rA), a.loadQuad(rB)
	each(func(i int) { a.fadd(d[i], d[i], x[i]) })
	a.add(64, rB)
	a.storeQuad(d, rA)
	a.loop(rLen, "loop")
	a.op("RET")

	a.gate("siluNEON", false)
	a.gate("geluNEON", true)
	a.scaleRound()
	a.toF16()
	a.rotate()
}

func (a *asm) gate(name string, gelu bool) {
	a.function(name, "dst *float32, gate *float32, u *float32, n int", "", 0, rA, rB, rCc, rLen)
	c := a.newConsts(gelu)
	a.label("loop")
	x := a.loadQuad(rB)
	if gelu {
		z := a.quad()
		each(func(i int) { a.fmul(z[i], x[i], x[i]) })
		each(func(i int) { a.fmulLane(z[i], z[i], c.gelu, 0) })
		each(func(i int) { a.fadd(z[i], z[i], c.one) })
		each(func(i int) { a.fmulLane(x[i], x[i], c.gelu, 1) })
		each(func(i int) { a.fmul(x[i], x[i], z[i]) })
		a.release(z[:]...)
	}
	each(func(i int) { a.fneg(x[i], x[i]) })
	a.exp(c, x)
	each(func(i int) { a.fadd(x[i], x[i], c.one) })
	g, u := a.loadQuad(rB), a.loadQuad(rCc)
	each(func(i int) { a.fdiv(x[i], g[i], x[i]) })
	each(func(i int) { a.fmul(x[i], x[i], u[i]) })
	a.release(g[:]...)
	a.release(u[:]...)
	a.add(64, rB)
	a.add(64, rCc)
	a.storeQuad(x, rA)
	a.loop(rLen, "loop")
	a.op("RET")
}

// round rounds to float16 and back.
func (a *asm) round(x quad) {
	each(func(i int) { a.fcvtn(x[i], x[i], 0) })
	each(func(i int) { a.fcvtl(x[i], x[i], 0) })
}

func (a *asm) scaleRound() {
	a.function("scaleRoundNEON", "x *float32, scale float32, round int, n int", "", 0, rA, "F0", rB, rLen)
	a.label("loop")
	x := a.loadQuad(rA)
	each(func(i int) { a.fmulLane(x[i], x[i], 0, 0) })
	a.op("CBZ %s, store", rB)
	a.round(x)
	a.label("store")
	a.storeQuad(x, rA)
	a.loop(rLen, "loop")
	a.op("RET")
}

func (a *asm) toF16() {
	a.function("toF16NEON", "dst *uint16, src *float32, n int", "", 0, rA, rB, rLen)
	a.label("loop")
	x, h := a.loadQuad(rB), a.take(2)
	each(func(i int) { a.fcvtn(h[i/2], x[i], i%2) })
	a.op("FSTPQ (F%d, F%d), (%s)", h[0], h[1], rA)
	a.add(64, rB)
	a.add(32, rA)
	a.loop(rLen, "loop")
	a.op("RET")
}

// rotate emits arith.RotatePairs for heads of step floats with n cosines, a
// multiple of four, for both orders of the pairs.
func (a *asm) rotate() {
	for _, neox := range []bool{false, true} {
		name := map[bool]string{false: "ropeNormNEON", true: "ropeNeoxNEON"}[neox]
		a.function(name, "x *float32, heads int, step int, cos *float32, sin *float32, n int", "", 0, rA, rB, rCc, rCos, rSin, rLen)
		a.op("LSL $2, %s", rCc)
		a.label("head")
		a.op("MOVD %s, %s", rA, rTmp)
		a.op("ADD %s<<2, %s, %s", rLen, rA, rTmp2)
		a.op("MOVD %s, R8", rCos)
		a.op("MOVD %s, R9", rSin)
		a.op("LSR $2, %s, R10", rLen)
		a.label("pairs")
		x0, x1, cos, sin, p, q := vec(0), vec(1), vec(2), vec(3), vec(4), vec(5)
		if neox {
			a.loadPart(16, mem{rTmp, 0}, x0)
			a.loadPart(16, mem{rTmp2, 0}, x1)
		} else {
			a.op("VLD2 (%s), [V%d.S4, V%d.S4]", rTmp, x0, x1)
		}
		a.loadPart(16, mem{"R8", 0}, cos)
		a.loadPart(16, mem{"R9", 0}, sin)
		a.fmul(p, x1, sin)
		a.fmul(q, x1, cos)
		a.fmul(x1, x0, sin)
		a.fmul(x0, x0, cos)
		a.fsub(x0, x0, p)
		a.fadd(x1, x1, q)
		if neox {
			a.store(x0, mem{rTmp, 0})
			a.store(x1, mem{rTmp2, 0})
			a.add(16, rTmp)
			a.add(16, rTmp2)
		} else {
			a.op("VST2.P [V%d.S4, V%d.S4], 32(%s)", x0, x1, rTmp)
		}
		a.add(16, "R8")
		a.add(16, "R9")
		a.loop("R10", "pairs")
		a.op("ADD %s, %s", rCc, rA)
		a.loop(rB, "head")
		a.op("RET")
	}
}

// quantise emits the quantisation of nb blocks, whose codes are written qstep
// and scales dstep bytes apart; sums are those of each 16 codes. The result is
// 1 and the rest void if a value is not finite.
func (a *asm) quantise(block int) {
	const rX, rQ, rQstep, rD, rDstep, rSums, rN, rMax, rCount, rAt, rInf, rTiny = "R0", "R1", "R2", "R3", "R4", "R5", "R6", "R7", "R8", "R9", "R10", "R11"
	a.function(fmt.Sprintf("quantise%dNEON", block), "x *float32, q *int8, qstep int, d *float32, dstep int, sums *int32, nb int", "int", 0,
		rX, rQ, rQstep, rD, rDstep, rSums, rN)
	top, k := a.one(), a.one()
	a.op("FMOVS $127.0, F%d", k)
	a.op("MOVD $0x7f800000, %s", rInf)
	a.op("MOVD $0x0d800000, %s", rTiny) // 2⁻¹⁰⁰
	a.label("block")

	a.op("MOVD %s, %s", rX, rAt)
	a.op("MOVD $%d, %s", block/32, rCount)
	a.zero(top)
	a.label("largest")
	x := [2]quad{a.quad(), a.quad()}
	for h, q := range x {
		a.load(mem{rAt, 64 * h}, q[:]...)
	}
	for _, q := range x {
		each(func(i int) { a.fabs(q[i], q[i]) })
	}
	max := func(d, n, m vec) { a.op("VUMAX V%d.S4, V%d.S4, V%d.S4", m, n, d) }
	each(func(i int) { max(x[0][i], x[0][i], x[1][i]) })
	max(x[0][0], x[0][0], x[0][1])
	max(x[0][2], x[0][2], x[0][3])
	max(x[0][0], x[0][0], x[0][2])
	max(top, top, x[0][0])
	for _, q := range x {
		a.release(q[:]...)
	}
	a.add(128, rAt)
	a.loop(rCount, "largest")

	inv, d := a.one(), a.one()
	a.umaxv(top, top)
	a.op("FMOVS F%d, %s", top, rMax)
	a.op("CMPW %s, %s", rInf, rMax)
	a.op("BHS bad")
	a.zero(inv, d)
	a.op("CMPW %s, %s", rTiny, rMax)
	a.op("BLO scaled")
	a.op("FDIVS F%d, F%d, F%d", k, top, d)
	a.op("FMOVS $1.0, F%d", inv)
	a.op("FDIVS F%d, F%d, F%d", d, inv, inv)
	a.label("scaled")
	a.op("FMOVS F%d, (%s)", d, rD)

	a.op("MOVD %s, %s", rQ, rAt)
	a.op("MOVD $%d, %s", block/16, rCount)
	a.label("codes")
	c := a.loadQuad(rX)
	each(func(i int) { a.fmulLane(c[i], c[i], inv, 0) })
	each(func(i int) { a.fcvtns(c[i], c[i]) })
	narrow := func(size string, d, n, m vec) { a.op("VUZP1 V%d.%s, V%d.%s, V%d.%s", m, size, n, size, d, size) }
	narrow("H8", c[0], c[0], c[1])
	narrow("H8", c[2], c[2], c[3])
	narrow("B16", c[0], c[0], c[2])
	a.op("FMOVQ.P F%d, 16(%s)", c[0], rAt)
	a.saddlv(c[1], c[0])
	a.sxtl(c[1], c[1], 0)
	a.op("FMOVS.P F%d, 4(%s)", c[1], rSums)
	a.add(64, rX)
	a.release(c[:]...)
	a.loop(rCount, "codes")
	a.op("ADD %s, %s", rQstep, rQ)
	a.op("ADD %s, %s", rDstep, rD)
	a.loop(rN, "block")
	a.op("MOVD ZR, %s", a.result)
	a.op("RET")
	a.label("bad")
	a.op("MOVD $1, %s", rMax)
	a.op("MOVD %s, %s", rMax, a.result)
	a.op("RET")
}
