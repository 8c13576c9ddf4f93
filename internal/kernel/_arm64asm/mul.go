package main

// General registers of the matrix products.
const (
	rDst   = "R0"
	rLdd   = "R1" // bytes
	rW     = "R2" // packed weights of the group, or of the block of 256
	rNb    = "R3"
	rNg    = "R4"
	rQ0    = "R5" // the inputs' codes, scales and sums
	rD0    = "R6"
	rC0    = "R7"
	rQ     = "R8"
	rD     = "R9"
	rC     = "R10"
	rN     = "R11" // blocks or columns left
	rHead  = "R12" // scales and minima of the pass's rows
	rP0    = "R13" // planes
	rP1    = "R14"
	rSc    = "R15" // sub-block scales
	rPass  = "R19" // 32-blocks: 8·rows·pass; 256-blocks: passes left
	rAcc   = "R20" // accumulators in memory
	rChunk = "R21"
	rOut   = "R22"
)

// kernel is one matrix product of a format with t inputs. A pass computes
// rows vectors of four output rows; a group takes 4/rows passes.
type kernel struct {
	*asm
	format
	o       offsets
	t       int
	rows    int
	x       []vec       // 16 codes of each input
	sum     [][]vec     // sums of products of codes [rows][t]
	masks   map[int]vec // bytes of one value
	table   vec         // IQ4_NL codebook
	vectors [2][]vec    // the current vectors of each plane
	at      [2]mem      // the planes of the current 32 columns
}

// matmul emits the kernel of one format for tiles of t input rows:
//
//	for each of ng packed groups: dst[i·ldd + r] = Σ over nb blocks
//
//	q  [nb][t][block] int8      codes of the inputs
//	d  [nb][t] float32          scales of the inputs
//	c  32-blocks: [nb][t] int32, −bias·Σq (bias), or float32 Σq (min)
//	   256-blocks: [nb][t][block/sub] int32, −bias·Σq of each sub-block (bias),
//	   or [nb][t][block/sub] int16, Σq of each sub-block (min)
func (a *asm) matmul(f format, t int) {
	k := &kernel{asm: a, format: f, o: f.offsets(), t: t, rows: shape(t), masks: map[int]vec{}}
	frame := 0
	if k.spills() {
		frame = 64*t + 8 // with the return address a multiple of 16
	}
	a.function(name(f.name, t), signatureQuant, "", frame, rDst, rLdd, rW, rNb, rNg, rQ0, rD0, rC0)
	a.op("LSL $2, %s", rLdd)
	k.x = a.take(t)
	k.constants()
	k.sum = k.matrix()
	a.label("group")
	if f.block == 32 {
		k.group32()
	} else {
		k.group256()
	}
	a.loop(rNg, "group")
	a.op("RET")
}

func (k *kernel) passes() int { return 4 / k.rows }

// spills reports whether the accumulators are kept in memory, [16/4][t]
// vectors: the registers are taken by the sums of blocks and of sub-blocks.
func (k *kernel) spills() bool { return k.block == 256 && k.t > 1 }

// matrix takes rows × t registers.
func (k *kernel) matrix() (m [][]vec) {
	for range k.rows {
		m = append(m, k.take(k.t))
	}
	return m
}

func (k *kernel) constants() {
	low := 0
	for _, b := range k.planes {
		if m := (1<<b - 1) << low; b < 8 {
			k.masks[m] = k.one()
			k.op("VMOVI $%d, V%d.B16", m, k.masks[m])
		}
		low += b
	}
	if k.lut {
		k.table = k.one()
		k.op("MOVD $iq4nl<>(SB), %s", rOut)
		k.loadPart(16, mem{rOut, 0}, k.table)
	}
}

func (k *kernel) rewind() {
	k.op("MOVD %s, %s", rQ0, rQ)
	k.op("MOVD %s, %s", rD0, rD)
	if k.bias || k.min {
		k.op("MOVD %s, %s", rC0, rC)
	}
	k.op("MOVD %s, %s", rNb, rN)
}

// group32 emits the passes over a group of 32-blocks. Each runs over whole rows
// with its accumulators in registers.
func (k *kernel) group32() {
	k.op("MOVD $0, %s", rPass)
	k.label("pass")
	k.op("ADD %s, %s, %s", rPass, rW, rHead)
	k.op("ADD %s<<1, %s, %s", rPass, rW, rP0)
	k.rewind()
	acc := k.matrix()
	for r := range acc {
		k.zero(acc[r]...)
	}
	for i, o := range k.o.planes {
		k.at[i] = mem{rP0, o}
	}

	k.label("block")
	k.startSums(0)
	for h := range 2 {
		k.columns(h)
	}
	k.release(k.x...)
	dx, cx := k.scalars(rD), []vec(nil)
	if k.min {
		cx = k.scalars(rC)
	}
	k.scales(func(r int, d, dm vec) {
		u := k.one()
		for i, s := range k.sum[r] {
			k.scvtf(s, s)
			k.fmul(s, s, d)
			if k.min {
				k.fmulLane(u, dm, cx[i/4], i%4)
				k.fadd(s, s, u)
			}
			k.fmulLane(s, s, dx[i/4], i%4)
			k.fadd(acc[r][i], acc[r][i], s)
		}
		k.release(u)
	})
	k.release(dx...)
	k.release(cx...)
	k.claim(k.x)
	k.add(k.o.size, rHead)
	k.add(k.o.size, rP0)
	k.add(32*k.t, rQ)
	k.add(4*k.t, rD)
	if k.bias || k.min {
		k.add(4*k.t, rC)
	}
	k.loop(rN, "block")

	k.storeTile(k.rows, func(r, i int) vec { return acc[r][i] })
	for _, v := range acc {
		k.release(v...)
	}
	k.add(16*k.rows, rDst)
	k.add(8*k.rows, rPass)
	k.op("CMP $32, %s", rPass)
	k.op("BNE pass")
	k.op("SUB $%d, %s, %s", 32-8*k.rows, rHead, rW)
}

// group256 emits the blocks of a group of 256-blocks, and in each the passes
// over the rows, so that a block's weights are in the L1 cache for all passes.
func (k *kernel) group256() {
	acc := make([][]vec, k.rows)
	z := k.one()
	if k.spills() {
		k.op("MOVD $acc-%d(SP), %s", 64*k.t, rAcc)
		k.zero(z)
		for i := range 4 * k.t {
			k.store(z, mem{rAcc, 16 * i})
		}
		k.release(z)
	} else {
		k.release(z)
		acc = k.matrix()
		for r := range acc {
			k.zero(acc[r]...)
		}
	}
	k.rewind()
	regs := []string{rP0, rP1}
	for i := range k.planes {
		k.at[i] = mem{regs[i], 0}
	}
	total := k.matrix()

	k.label("block")
	k.op("MOVD %s, %s", rW, rHead)
	k.op("ADD $%d, %s, %s", k.o.sc, rW, rSc)
	for i, o := range k.o.planes {
		k.op("ADD $%d, %s, %s", o, rW, regs[i])
	}
	if k.passes() > 1 {
		k.op("MOVD $%d, %s", k.passes(), rPass)
		k.label("pass")
	}
	for r := range total {
		k.zero(total[r]...)
	}
	k.op("MOVD $8, %s", rChunk)

	k.label("chunk")
	subs := 32 / k.sub
	for h := range 2 {
		if h == 0 || subs == 2 {
			k.startSums(h)
		}
		k.columns(h)
		if h == 1 || subs == 2 {
			k.scaleSums(total, h*(subs-1))
		}
	}
	for i, b := range k.planes {
		k.add(64*b, regs[i])
	}
	k.add(16*subs, rSc)
	k.add(32, rQ)
	if k.bias {
		k.add(4*subs, rC)
	}
	k.loop(rChunk, "chunk")

	if k.min {
		k.minima()
	}
	k.release(k.x...)
	dx := k.scalars(rD)
	k.scales(func(r int, d, dm vec) {
		for i, s := range total[r] {
			k.scvtf(s, s)
			k.fmul(s, s, d)
			if k.min {
				m := k.sum[r][i]
				k.scvtf(m, m)
				k.fmul(m, m, dm)
				k.fadd(s, s, m)
			}
			k.fmulLane(s, s, dx[i/4], i%4)
			if !k.spills() {
				k.fadd(acc[r][i], acc[r][i], s)
				continue
			}
			at := mem{rAcc, 16 * (r*k.t + i)}
			v := k.one()
			k.loadPart(16, at, v)
			k.fadd(v, v, s)
			k.store(v, at)
			k.release(v)
		}
	})
	k.release(dx...)
	k.claim(k.x)

	// The next pass's rows, or the next block.
	if k.passes() > 1 {
		for i, b := range k.planes {
			k.add(16*k.rows-8*64*b, regs[i])
		}
		k.add(4*k.rows-8*16*subs, rSc)
		k.add(8*k.rows, rHead)
		k.add(16*k.rows*k.t, rAcc)
		k.add(-256, rQ)
		if k.bias {
			k.add(-8*4*subs, rC)
		}
		k.loop(rPass, "pass")
		k.add(-64*k.t, rAcc)
		k.add(256*k.t, rQ)
	} else {
		k.add(256*(k.t-1), rQ)
	}
	k.add(4*k.t, rD)
	switch n := k.block / k.sub; {
	case k.min:
		k.add(2*n*k.t, rC)
	case k.bias && k.passes() > 1:
		k.add(4*n*k.t, rC)
	case k.bias:
		k.add(4*n*(k.t-1), rC)
	}
	k.add(k.o.size, rW)
	k.loop(rN, "block")

	v := k.one()
	k.storeTile(4, func(r, i int) vec {
		if !k.spills() {
			return acc[r][i]
		}
		k.loadPart(16, mem{rAcc, 16 * (r*k.t + i)}, v)
		return v
	})
	k.add(64, rDst)
}

// storeTile writes rows vectors of each input's outputs.
func (k *kernel) storeTile(rows int, v func(r, i int) vec) {
	k.op("MOVD %s, %s", rDst, rOut)
	for i := range k.t {
		for r := range rows {
			k.store(v(r, i), mem{rOut, 16 * r})
		}
		if i < k.t-1 {
			k.op("ADD %s, %s", rLdd, rOut)
		}
	}
}

// startSums sets the sums to the corrections of a 32-block or of sub-block j
// of a chunk.
func (k *kernel) startSums(j int) {
	spread := func(from vec, lane, i int) {
		for r := range k.sum {
			k.op("VDUP V%d.S[%d], V%d.S4", from, lane, k.sum[len(k.sum)-1-r][i])
		}
	}
	switch {
	case !k.bias:
		for _, s := range k.sum {
			k.zero(s...)
		}
	case k.block == 32: // x is not needed yet
		k.loadBytes(4*k.t, mem{rC, 0}, k.x)
		for i := range k.t {
			spread(k.x[i/4], i%4, i)
		}
	default:
		for i := range k.t {
			s := k.sum[0][i]
			k.loadPart(4, mem{rC, 4*k.block/k.sub*i + 4*j}, s)
			spread(s, 0, i)
		}
	}
}

// columns adds the products of columns [16h, 16h+16) of the current 32.
func (k *kernel) columns(h int) {
	for i, v := range k.x {
		k.loadPart(16, mem{rQ, k.block*i + 16*h}, v)
	}
	for g := 4 * h; g < 4*h+4; g++ {
		for p, b := range k.planes {
			if per := 8 / b; g%per == 0 {
				k.vectors[p] = k.take(k.rows)
				k.loadBytes(16*k.rows, k.at[p].plus(64*(g/per)), k.vectors[p])
			}
		}
		batch := min(k.rows, len(k.free)-len(k.planes)+1)
		if k.planes[0] == 8 {
			batch = k.rows
		}
		for first := 0; first < k.rows; first += batch {
			rows := min(batch, k.rows-first)
			codes := make([]vec, rows)
			for r := range codes {
				codes[r] = k.codes(g, first+r)
			}
			for r, c := range codes {
				for i, x := range k.x {
					k.sdot(k.sum[first+r][i], c, x, g%4)
				}
			}
			if k.planes[0] < 8 {
				k.release(codes...)
			}
		}
		for p, b := range k.planes {
			if per := 8 / b; g%per == per-1 {
				k.release(k.vectors[p]...)
			}
		}
	}
}

// codes yields the codes of column group g of vector r of the rows.
func (k *kernel) codes(g, r int) vec {
	if k.planes[0] == 8 {
		return k.vectors[0][r]
	}
	low, out := 0, k.one()
	for p, b := range k.planes {
		s := g % (8 / b) * b
		src, mask := k.vectors[p][r], k.masks[(1<<b-1)<<low]
		switch {
		case p == 1:
			t := k.one()
			switch net := s - low; {
			case net > 0:
				k.op("VUSHR $%d, V%d.B16, V%d.B16", net, src, t)
				src = t
			case net < 0:
				k.op("VSHL $%d, V%d.B16, V%d.B16", -net, src, t)
				src = t
			}
			k.op("VBIT V%d.B16, V%d.B16, V%d.B16", mask, src, out)
			k.release(t)
		case s == 0:
			k.op("VAND V%d.B16, V%d.B16, V%d.B16", mask, src, out)
		default:
			k.op("VUSHR $%d, V%d.B16, V%d.B16", s, src, out)
			if s+b < 8 {
				k.op("VAND V%d.B16, V%d.B16, V%d.B16", mask, out, out)
			}
		}
		low += b
	}
	if k.lut {
		k.op("VTBL V%d.B16, [V%d.B16], V%d.B16", out, k.table, out)
	}
	return out
}

// scaleSums adds the sums times the scales of sub-block j of a chunk to total.
func (k *kernel) scaleSums(total [][]vec, j int) {
	v := k.take(3)
	k.loadPart(4*k.rows, mem{rSc, 16 * j}, v[0])
	for r := range k.rows {
		if r%2 == 0 {
			k.sxtl8(v[1], v[0], r/2)
		}
		k.sxtl(v[2], v[1], r%2)
		for i, s := range k.sum[r] {
			k.mla(total[r][i], s, v[2])
		}
	}
	k.release(v...)
}

// minima sets the sums to Σ mn·Σq over the sub-blocks of a block.
func (k *kernel) minima() {
	n := k.block / k.sub
	for first := 0; first < n; first += 8 {
		for i, v := range k.x {
			k.loadPart(16, mem{rC, 2 * (n*i + first)}, v)
		}
		for p := first / 2; p < first/2+4; p++ {
			even := k.take((k.rows + 1) / 2)
			odd := k.one()
			k.loadBytes(8*k.rows, mem{rHead, k.o.mn + 32*p}, even)
			for v, e := range even {
				k.op("VUSHR $8, V%d.H8, V%d.H8", e, odd)
				k.lowBytes(e)
				for parity, m := range []vec{e, odd} {
					j := 2*p + parity
					for upper := range min(2, k.rows) {
						for i, x := range k.x {
							k.smull(k.sum[2*v+upper][i], m, x, j%8, upper, j > 0)
						}
					}
				}
			}
			k.release(odd)
			k.release(even...)
		}
	}
}

// scalars loads a float32 for each input.
func (k *kernel) scalars(reg string) []vec {
	v := k.take((k.t + 3) / 4)
	k.loadBytes(4*k.t, mem{reg, 0}, v)
	return v
}

// scales calls f for each vector of rows with d and, in formats that have it,
// dm.
func (k *kernel) scales(f func(r int, d, dm vec)) {
	n := (k.rows + 1) / 2
	d, dm := k.take(n), []vec(nil)
	k.loadBytes(8*k.rows, mem{rHead, 0}, d)
	if k.min {
		dm = k.take(n)
		k.loadBytes(8*k.rows, mem{rHead, k.o.dm}, dm)
	}
	for r := range k.rows {
		v := k.take(2)
		k.fcvtl(v[0], d[r/2], r%2)
		if k.min {
			k.fcvtl(v[1], dm[r/2], r%2)
		}
		f(r, v[0], v[1])
		k.release(v...)
	}
	k.release(d...)
	k.release(dm...)
}

// float emits the kernels of the float formats: weights [cols][16], inputs
// [cols][t] float32; products and sums are rounded one by one, or at once where
// products are exact.
func (a *asm) float(name, format string, t int, exact bool) {
	const x0, x, rows4 = rD0, rD, 4
	a.function(name, signatureFloat, "", 0, rDst, rLdd, rW, rNb, rNg, x0)
	a.op("LSL $2, %s", rLdd)
	rows := min(rows4, 16/t)
	size := 2
	if format == "F32" {
		size = 4
	}
	k := &kernel{asm: a, t: t, rows: rows}
	acc := k.matrix()
	a.label("group")
	a.op("MOVD $%d, %s", 4/rows, rPass)
	a.op("MOVD %s, %s", rW, rHead)
	a.label("pass")
	a.op("MOVD %s, %s", rHead, rP0)
	a.op("MOVD %s, %s", x0, x)
	for r := range acc {
		a.zero(acc[r]...)
	}
	// columns emits n columns, whose inputs fill one or two registers.
	columns := func(n int) {
		xs := a.take((n*t + 3) / 4)
		a.loadBytes(4*n*t, mem{x, 0}, xs)
		for c := range n {
			w := a.take(rows)
			a.weights(format, mem{rP0, 16 * size * c}, w)
			for r := range acc {
				for i := range acc[r] {
					a.multiplyAdd(acc[r][i], w[r], xs[(c*t+i)/4], (c*t+i)%4, exact)
				}
			}
			a.release(w...)
		}
		a.release(xs...)
		a.add(16*size*n, rP0)
		a.add(4*n*t, x)
	}
	unroll := max(1, 4/t)
	if unroll > 1 {
		a.op("LSR $%d, %s, %s", unroll/2, rNb, rN)
		a.op("CBZ %s, rest", rN)
		a.label("columns")
		columns(unroll)
		a.loop(rN, "columns")
		a.label("rest")
		a.op("ANDS $%d, %s, %s", unroll-1, rNb, rN)
		a.op("BEQ done")
	} else {
		a.op("MOVD %s, %s", rNb, rN)
	}
	a.label("column")
	columns(1)
	a.loop(rN, "column")
	a.label("done")
	k.storeTile(rows, func(r, i int) vec { return acc[r][i] })
	a.add(16*rows, rDst)
	a.add(4*size*rows, rHead)
	a.loop(rPass, "pass")
	a.op("SUB $%d, %s, %s", 4*size*(4-rows), rP0, rW)
	a.loop(rNg, "group")
	a.op("RET")
}

// weights loads and widens one column of len(w) vectors of rows.
func (a *asm) weights(format string, m mem, w []vec) {
	if format == "F32" {
		a.loadBytes(16*len(w), m, w)
		return
	}
	raw := a.take(len(w) / 2)
	a.loadBytes(8*len(w), m, raw)
	for r := range w {
		if format == "F16" {
			a.fcvtl(w[r], raw[r/2], r%2)
		} else {
			a.shll(w[r], raw[r/2], r%2)
		}
	}
	a.release(raw...)
}

// multiplyAdd adds n times lane i of m to d. The product is rounded before, or
// is exact.
func (a *asm) multiplyAdd(d, n, m vec, i int, exact bool) {
	if exact {
		a.fmlaLane(d, n, m, i)
		return
	}
	p := a.one()
	a.fmulLane(p, n, m, i)
	a.fadd(d, d, p)
	a.release(p)
}
