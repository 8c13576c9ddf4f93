package main

import "fmt"

// General registers of the matrix products.
const (
	rDst   = "R0"
	rLdd   = "R1" // bytes
	rW     = "R2" // packed weights: of the group (32-blocks) or of the block
	rNb    = "R3"
	rNg    = "R4"
	rQ0    = "R5" // the inputs' codes, scales and sums
	rD0    = "R6"
	rC0    = "R7"
	rQ     = "R8"
	rD     = "R9"
	rC     = "R10"
	rN     = "R11" // blocks left
	rHead  = "R12" // scales and minima of the pass's rows
	rP0    = "R13" // planes
	rP1    = "R14"
	rSc    = "R15" // sub-block scales
	rPass  = "R19"
	rAcc   = "R20" // accumulators in memory
	rChunk = "R21"
	rOut   = "R22"
)

// kernel is one matrix product of a format with t inputs. A pass computes
// rows vectors of four output rows; a group takes 4/rows passes.
type kernel struct {
	*asm
	format
	o      offsets
	t      int
	rows   int
	x      []vec         // 16 codes of each input
	sum    [][]vec       // integer sums [rows][t]
	masks  map[int]vec   // bytes of one value
	lut    vec           // IQ4_NL codebook
	plane  [2][]vec      // the current vectors of each plane
	pplane [2]mem        // where the planes' vectors of a chunk lie
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
	if k.spilled() {
		frame = 64 * t
	}
	a.function(name(f.name, t), signatureQuant, frame, rDst, rLdd, rW, rNb, rNg, rQ0, rD0, rC0)
	a.op("LSL $2, %s", rLdd)
	k.x = a.take(t)
	k.constants()
	for range k.rows {
		k.sum = append(k.sum, a.take(t))
	}
	if f.block == 32 {
		k.group32()
	} else {
		k.group256()
	}
	a.loop(rNg, "group")
	a.op("RET")
}

// spilled reports whether the accumulators are kept in memory: the registers
// are needed for the sums of sub-blocks and of blocks.
func (k *kernel) spilled() bool { return k.block == 256 && k.t > 1 }

func (k *kernel) passes() int { return 4 / k.rows }

func (k *kernel) constants() {
	low := 0
	for _, b := range k.planes {
		if m := (1<<b - 1) << low; b < 8 {
			k.masks[m] = k.one()
			k.op("VMOVI $%d, V%d.B16", m, k.masks[m])
		}
		low += b
	}
	if k.lut0() {
		k.lut = k.one()
		k.op("MOVD $·iq4nl(SB), %s", rOut)
		k.loadPart(16, mem{rOut, 0}, k.lut)
	}
}

func (k *kernel) lut0() bool { return k.format.lut }

// group32 emits the passes over a group of 32-blocks. Each pass runs over the
// whole row with its accumulators in registers.
func (k *kernel) group32() {
	k.label("group")
	if k.passes() > 1 {
		k.op("MOVD $%d, %s", k.passes(), rPass)
		k.op("MOVD %s, %s", rW, rAcc) // the group's weights, for the next pass
		k.op("MOVD %s, %s", rW, rHead)
		k.label("pass")
		k.op("MOVD %s, %s", rAcc, rP0)
	} else {
		k.op("MOVD %s, %s", rW, rHead)
		k.op("MOVD %s, %s", rW, rP0)
	}
	k.rewind()
	acc := make([][]vec, k.rows)
	for r := range acc {
		acc[r] = k.take(k.t)
		k.zero(acc[r]...)
	}
	for i, o := range k.o.planes {
		k.pplane[i] = mem{rP0, o}
	}

	k.label("block")
	k.startSums(4, 0)
	for h := range 2 {
		k.half(h)
	}
	k.release(k.x...)
	dx, cx := k.scalars(rD), []vec(nil)
	if k.min {
		cx = k.scalars(rC)
	}
	k.scale(func(r int, d, dm vec) {
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

	k.op("MOVD %s, %s", rDst, rOut)
	for i := range k.t {
		for r := range acc {
			k.store(acc[r][i], mem{rOut, 16 * r})
		}
		if i < k.t-1 {
			k.op("ADD %s, %s", rLdd, rOut)
		}
	}
	for _, v := range acc {
		k.release(v...)
	}
	k.add(16*k.rows, rDst)
	if k.passes() > 1 {
		// Back to the group's first block, at the next pass's rows.
	}
}
