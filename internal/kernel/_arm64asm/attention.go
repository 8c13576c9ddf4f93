package main

import "fmt"

// visible sets m to all ones in the lanes of the next four positions of the
// mask in register mask.
func (a *asm) visible(m, lanes vec, mask string) {
	a.op("VDUP %s, V%d.S4", mask, m)
	a.op("VCMTST V%d.S4, V%d.S4, V%d.S4", lanes, m, m)
	a.op("LSR $4, %s", mask)
}

func (a *asm) lanes() vec {
	v := a.one()
	a.op("MOVD $lanes<>(SB), %s", rTmp)
	a.loadPart(16, mem{rTmp, 0}, v)
	return v
}

// chunk emits the operations on the 64 scores of a page.
func (a *asm) chunk() {
	a.function("maxChunkNEON", "s *float32, mask uint64, top float32", "float32", 0, rA, rB, "F0")
	lanes, top, acc := a.lanes(), a.one(), a.quad()
	a.op("VDUP V0.S[0], V%d.S4", top)
	each(func(i int) { a.op("VORR V%d.B16, V%d.B16, V%d.B16", top, top, acc[i]) })
	a.op("MOVD $4, %s", rLen)
	a.label("loop")
	x := a.loadQuad(rA)
	m := a.quad()
	each(func(i int) { a.visible(m[i], lanes, rB) })
	each(func(i int) { a.op("VBIF V%d.B16, V%d.B16, V%d.B16", m[i], top, x[i]) })
	each(func(i int) { a.fmax(acc[i], acc[i], x[i]) })
	a.add(64, rA)
	a.loop(rLen, "loop")
	a.fmax(acc[0], acc[0], acc[1])
	a.fmax(acc[2], acc[2], acc[3])
	a.fmax(acc[0], acc[0], acc[2])
	a.fmaxv(acc[0], acc[0])
	a.op("FMOVS F%d, %s", acc[0], a.result)
	a.op("RET")

	a.function("expChunkNEON", "s *float32, mask uint64, top float32, round int", "float32", 0, rA, rB, "F0", rCc)
	c := a.newConsts(false)
	lanes, top, acc = a.lanes(), 0, a.quad()
	a.op("VDUP V0.S[0], V0.S4")
	a.zero(acc[:]...)
	a.op("MOVD $4, %s", rLen)
	a.label("loop")
	x = a.loadQuad(rA)
	each(func(i int) { a.fsub(x[i], x[i], top) })
	a.exp(c, x)
	a.op("CBZ %s, mask", rCc)
	a.round(x)
	a.label("mask")
	m = a.quad()
	each(func(i int) { a.visible(m[i], lanes, rB) })
	each(func(i int) { a.op("VAND V%d.B16, V%d.B16, V%d.B16", m[i], x[i], x[i]) })
	each(func(i int) { a.fadd(acc[i], acc[i], x[i]) })
	a.release(m[:]...)
	a.storeQuad(x, rA)
	a.loop(rLen, "loop")
	a.tree(acc)
}

// mix emits, for t queries whose weights p are 64 floats apart,
//
//	out[i·ostride + d] += Σ over n positions p[i][k]·v[k][d]
//
// for the 16·n16 dimensions d of the values. Products of float16 values are
// exact.
func (a *asm) mix(format string, t int) {
	const rOut, rStride, rP, rV, rN16, rN, rStep, rPass, rVal, rPos, rLeft, rTo = "R0", "R1", "R2", "R3", "R4", "R5", "R6", "R7", "R8", "R9", "R10", "R11"
	a.function(fmt.Sprintf("mix%sx%dNEON", format, t), "out *float32, ostride int, p *float32, v *byte, n16 int, n int", "", 0, rOut, rStride, rP, rV, rN16, rN)
	rows, size, shift := min(4, 16/t), 2, 5
	if format == "F32" {
		size, shift = 4, 6
	}
	a.op("LSL $2, %s", rStride)
	a.op("LSL $%d, %s, %s", shift, rN16, rStep)
	if rows == 2 {
		a.op("LSL $1, %s", rN16)
	}
	k := &kernel{asm: a, t: t, rows: rows}
	acc := k.matrix()
	a.label("dims")
	for r := range acc {
		a.zero(acc[r]...)
	}
	a.op("MOVD %s, %s", rV, rVal)
	a.op("MOVD %s, %s", rP, rPos)
	positions := func(n int) {
		ps := a.take(t)
		for i, v := range ps {
			a.loadPart(4*n, mem{rPos, 256 * i}, v)
		}
		a.add(4*n, rPos)
		for j := range n {
			w := a.take(rows)
			a.weights(format, mem{rVal, 0}, w)
			a.op("ADD %s, %s", rStep, rVal)
			for r := range acc {
				for i, s := range acc[r] {
					a.multiplyAdd(s, w[r], ps[i], j, format == "F16")
				}
			}
			a.release(w...)
		}
		a.release(ps...)
	}
	a.op("LSR $2, %s, %s", rN, rLeft)
	a.op("CBZ %s, rest", rLeft)
	a.label("four")
	positions(4)
	a.loop(rLeft, "four")
	a.label("rest")
	a.op("ANDS $3, %s, %s", rN, rLeft)
	a.op("BEQ done")
	a.label("one")
	positions(1)
	a.loop(rLeft, "one")
	a.label("done")
	a.op("MOVD %s, %s", rOut, rTo)
	for i := range t {
		for r := range rows {
			v := a.one()
			a.loadPart(16, mem{rTo, 16 * r}, v)
			a.fadd(v, v, acc[r][i])
			a.store(v, mem{rTo, 16 * r})
			a.release(v)
		}
		if i < t-1 {
			a.op("ADD %s, %s", rStride, rTo)
		}
	}
	a.add(16*rows, rOut)
	a.add(4*rows*size, rV)
	a.loop(rN16, "dims")
	a.op("RET")
}
