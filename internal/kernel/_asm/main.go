// Command asm generates the amd64 kernels of package kernel. The layout of
// packed weights is described in ../layout.go.
package main

import (
	"flag"

	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	. "github.com/mmcloughlin/avo/reg"
)

// format mirrors kernel's layout, with what the generator needs besides.
type format struct {
	name   string
	block  int
	sub    int
	planes []int
	min    bool
	bias   bool // int32 corrections are preloaded into the block sums
	lut    bool // codes index the IQ4_NL codebook
	// exact is the number of sub-blocks whose scaled sum stays within 2²⁴ and
	// so may be kept exactly in float32; 0: scaled sums are kept in int32.
	exact int
}

var formats = []format{
	{name: "Q8_0", block: 32, sub: 32, planes: []int{8}, bias: true},
	{name: "Q4_0", block: 32, sub: 32, planes: []int{4}, bias: true},
	{name: "IQ4NL", block: 32, sub: 32, planes: []int{4}, bias: true, lut: true},
	{name: "Q4_1", block: 32, sub: 32, planes: []int{4}, min: true},
	{name: "Q5_0", block: 32, sub: 32, planes: []int{4, 1}, bias: true},
	{name: "Q5_1", block: 32, sub: 32, planes: []int{4, 1}, min: true},
	{name: "Q2_K", block: 256, sub: 16, planes: []int{2}, min: true, exact: 16},
	{name: "Q3_K", block: 256, sub: 16, planes: []int{2, 1}, bias: true, exact: 16},
	{name: "Q4_K", block: 256, sub: 32, planes: []int{4}, min: true, exact: 4},
	{name: "Q5_K", block: 256, sub: 32, planes: []int{4, 1}, min: true},
	{name: "Q6_K", block: 256, sub: 16, planes: []int{4, 2}, bias: true},
}

type offsets struct {
	dm, sc, mn int
	planes     []int
	size       int
}

func (f format) offsets() (o offsets) {
	n := 32
	if f.min {
		o.dm = n
		n += 32
	}
	if f.block == 256 {
		o.sc = n
		n += f.block / f.sub * 16
		if f.min {
			o.mn = n
			n += f.block / f.sub * 16
		}
	}
	for _, b := range f.planes {
		o.planes = append(o.planes, n)
		n += f.block * 16 * b / 8
	}
	o.size = n
	return o
}

// Widths of a tile: the number of input rows a kernel multiplies at once.
var widths = []int{8, 4, 2, 1}

func itoa(n int) string {
	if n < 10 {
		return string(rune('0' + n))
	}
	return itoa(n/10) + itoa(n%10)
}

func main() {
	set := flag.String("set", "avx512", "what to generate: the kernels for avx2 or avx512, or the loops that read")
	flag.Parse()
	Package("github.com/geistnet/geist/internal/kernel/_asm")
	ConstraintExpr("amd64,!purego")
	switch *set {
	case "avx2":
		avx2()
		Generate()
		return
	case "read":
		reads()
		Generate()
		return
	}
	c := newConsts()
	for _, f := range formats {
		for _, t := range widths {
			f.matmul512(t, c)
		}
	}
	for _, t := range widths {
		for _, f := range []string{"F32", "F16", "BF16"} {
			float512(f, t)
		}
	}
	elementwise(newExpConsts())
	attention()
	Generate()
}

// consts are read-only vectors shared by the kernels.
type consts struct {
	mask map[int]Mem // bytes of one value, four to a lane, broadcast
	lut  Mem         // IQ4_NL codebook + 128, repeated in each 128-bit lane
}

func newConsts() *consts {
	c := &consts{mask: map[int]Mem{}}
	for _, b := range []int{0x01, 0x02, 0x03, 0x04, 0x0f, 0x10, 0x30} {
		m := GLOBL("mask"+itoa(b), RODATA|NOPTR)
		DATA(0, U32(uint32(b)*0x01010101))
		c.mask[b] = m
	}
	c.lut = GLOBL("iq4nl", RODATA|NOPTR)
	v := []int{-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113}
	for l := 0; l < 4; l++ {
		for i, x := range v {
			DATA(16*l+i, U8(uint8(x+128)))
		}
	}
	return c
}

// codes emits code that yields the codes of column group g as unsigned bytes,
// 16 rows × 4 columns in one ZMM register. Registers that several groups share
// are kept in cache.
type codes512 struct {
	f     format
	ahead int // bytes to prefetch ahead of every load; 0: none
	o     offsets
	w     Register
	masks map[int]VecVirtual
	lut   VecVirtual
	vec   [2]VecVirtual // the current vector of each plane
	cur   [2]int
}

func (f format) newCodes512(c *consts, w Register) *codes512 {
	k := &codes512{f: f, o: f.offsets(), w: w, masks: map[int]VecVirtual{}}
	low := 0
	for _, b := range f.planes {
		if b < 8 {
			m := (1<<b - 1) << low
			k.masks[m] = ZMM()
			VPBROADCASTD(c.mask[m], k.masks[m])
		}
		low += b
	}
	if f.lut {
		k.lut = ZMM()
		VMOVDQU32(c.lut, k.lut)
	}
	k.cur = [2]int{-1, -1}
	return k
}

// fetch prefetches a line of the block that no load covers.
func (k *codes512) fetch(disp int) {
	if k.ahead > 0 {
		PREFETCHT0(Mem{Base: k.w, Disp: disp + k.ahead})
	}
}

// load fetches 64 bytes of the block's packed codes.
func (k *codes512) load(disp int) VecVirtual {
	if k.ahead > 0 {
		PREFETCHT0(Mem{Base: k.w, Disp: disp + k.ahead})
	}
	v := ZMM()
	VMOVDQU32(Mem{Base: k.w, Disp: disp}, v)
	return v
}

func (k *codes512) group(g int) VecVirtual {
	low := 0
	var out VecVirtual
	for i, b := range k.f.planes {
		per := 8 / b
		v, s := g/per, g%per*b
		disp := k.o.planes[i] + 64*v
		if b == 8 {
			return k.load(disp)
		}
		if k.cur[i] != v {
			k.cur[i], k.vec[i] = v, k.load(disp)
		}
		src := k.vec[i]
		mask := k.masks[(1<<b-1)<<low]
		t := ZMM()
		switch net := s - low; {
		case net > 0:
			VPSRLW(U8(net), src, t)
			src = t
		case net < 0:
			VPSLLW(U8(-net), src, t)
			src = t
		}
		if i == 0 {
			out = t
			VPANDD(mask, src, out)
		} else {
			// out |= src & mask
			if src != t {
				VMOVDQA32(src, t)
			}
			VPTERNLOGD(U8(0xF8), mask, t, out) // out | (t & mask)
		}
		low += b
	}
	if k.f.lut {
		VPSHUFB(out, k.lut, out)
	}
	return out
}

// Narrow tiles are bound by memory, and the processor's own prefetchers do not
// keep up with one core's demand.
const (
	prefetchWidth = 8
	prefetchAhead = 4096
)

// matmul512 emits the kernel of one format for tiles of t input rows:
//
//	for each of ng packed groups: dst[i·ldd + r] = Σ over nb blocks
//
// q  [nb][t][block] int8      codes of the inputs
// d  [nb][t] float32          scales of the inputs
// c  32-blocks: [nb][t] int32, −bias·Σq (bias), or float32 Σq (min)
//
//	256-blocks: [nb][t][block/sub] int32, −bias·Σq of each sub-block (bias),
//	or [nb][t][block/sub] int16, Σq of each sub-block (min)
func (f format) matmul512(t int, cs *consts) {
	TEXT("mm"+f.name+"x"+itoa(t)+"AVX512", NOSPLIT, "func(dst *float32, ldd int, w *byte, nb int, ng int, q *int8, d *float32, c *byte)")
	dst := Load(Param("dst"), GP64())
	ldd := Load(Param("ldd"), GP64())
	w := Load(Param("w"), GP64())
	nb := Load(Param("nb"), GP64())
	ng := Load(Param("ng"), GP64())
	q0 := Load(Param("q"), GP64())
	d0 := Load(Param("d"), GP64())
	c0 := Load(Param("c"), GP64())
	SHLQ(U8(2), ldd)
	o := f.offsets()
	k := f.newCodes512(cs, w)
	if t <= prefetchWidth {
		k.ahead = prefetchAhead
	}
	q, d, c, n := GP64(), GP64(), GP64(), GP64()
	acc := zmms(t)
	sum := zmms(t)
	nsub := f.block / f.sub

	Label("group")
	MOVQ(q0, q)
	MOVQ(d0, d)
	MOVQ(c0, c)
	MOVQ(nb, n)
	zero(acc)
	Label("block")
	k.cur = [2]int{-1, -1}

	var cstep int
	if f.block == 32 {
		cstep = 4 * t
		// Two chains of dot products for narrow tiles, to hide their latency.
		sum2 := sum
		if t <= 2 {
			sum2 = zmms(t)
			zero(sum2)
		}
		for i := range sum {
			if f.bias {
				VPBROADCASTD(Mem{Base: c, Disp: 4 * i}, sum[i])
			} else {
				VPXORD(sum[i], sum[i], sum[i])
			}
		}
		for g := 0; g < 8; g++ {
			v := k.group(g)
			for i := 0; i < t; i++ {
				s := sum[i]
				if g%2 == 1 {
					s = sum2[i]
				}
				VPDPBUSD_BCST(Mem{Base: q, Disp: 32*i + 4*g}, v, s)
			}
		}
		k.fetch(0)
		dw := ZMM()
		VCVTPH2PS(Mem{Base: w}, dw)
		var dm VecVirtual
		if f.min {
			dm = ZMM()
			VCVTPH2PS(Mem{Base: w, Disp: o.dm}, dm)
		}
		for i := range sum {
			if t <= 2 {
				VPADDD(sum2[i], sum[i], sum[i])
			}
			VCVTDQ2PS(sum[i], sum[i])
			VMULPS(dw, sum[i], sum[i])
			if f.min {
				u := ZMM()
				VMULPS_BCST(Mem{Base: c, Disp: 4 * i}, dm, u)
				VADDPS(u, sum[i], sum[i])
			}
			VMULPS_BCST(Mem{Base: d, Disp: 4 * i}, sum[i], sum[i])
			VADDPS(sum[i], acc[i], acc[i])
		}
	} else {
		isum := zmms(t)
		var spill Mem
		split := f.exact > 0 && f.exact < nsub
		if split {
			spill = AllocLocal(64 * t)
		}
		for j := 0; j < nsub; j++ {
			for i := range isum {
				if f.bias {
					VPBROADCASTD(Mem{Base: c, Disp: 4 * (nsub*i + j)}, isum[i])
				} else {
					VPXORD(isum[i], isum[i], isum[i])
				}
			}
			for g := j * f.sub / 4; g < (j+1)*f.sub/4; g++ {
				v := k.group(g)
				for i := range isum {
					VPDPBUSD_BCST(Mem{Base: q, Disp: 256*i + 4*g}, v, isum[i])
				}
			}
			sc := ZMM()
			VPMOVSXBD(Mem{Base: w, Disp: o.sc + 16*j}, sc)
			if f.exact > 0 {
				VCVTDQ2PS(sc, sc)
			}
			first := j == 0 || split && j == f.exact
			if split && j == f.exact {
				for i := range sum {
					VMOVUPS(sum[i], spill.Offset(64*i))
				}
			}
			for i := range isum {
				switch {
				case f.exact > 0 && first:
					VCVTDQ2PS(isum[i], isum[i])
					VMULPS(sc, isum[i], sum[i])
				case f.exact > 0: // exact, so that the fused operation rounds nothing
					VCVTDQ2PS(isum[i], isum[i])
					VFMADD231PS(sc, isum[i], sum[i])
				case first:
					VPMULLD(sc, isum[i], sum[i])
				default:
					VPMULLD(sc, isum[i], isum[i])
					VPADDD(isum[i], sum[i], sum[i])
				}
			}
		}
		if f.min {
			zero(isum)
			for p := 0; p < nsub/2; p++ {
				m := ZMM()
				VPMOVZXBW(Mem{Base: w, Disp: o.mn + 32*p}, m)
				for i := range isum {
					VPDPWSSD_BCST(Mem{Base: c, Disp: 2*nsub*i + 4*p}, m, isum[i])
				}
			}
		}
		k.fetch(0)
		dw := ZMM()
		VCVTPH2PS(Mem{Base: w}, dw)
		var dm VecVirtual
		if f.min {
			dm = ZMM()
			VCVTPH2PS(Mem{Base: w, Disp: o.dm}, dm)
		}
		for i := range sum {
			switch {
			case split:
				VADDPS(spill.Offset(64*i), sum[i], sum[i])
			case f.exact == 0:
				VCVTDQ2PS(sum[i], sum[i])
			}
			VMULPS(dw, sum[i], sum[i])
			if f.min {
				VCVTDQ2PS(isum[i], isum[i])
				VMULPS(dm, isum[i], isum[i])
				VADDPS(isum[i], sum[i], sum[i])
			}
			VMULPS_BCST(Mem{Base: d, Disp: 4 * i}, sum[i], sum[i])
			VADDPS(sum[i], acc[i], acc[i])
		}
		if f.min {
			cstep = 2 * nsub * t
		} else {
			cstep = 4 * nsub * t
		}
	}
	ADDQ(U32(uint32(o.size)), w)
	ADDQ(U32(uint32(f.block*t)), q)
	ADDQ(U32(uint32(4*t)), d)
	ADDQ(U32(uint32(cstep)), c)
	DECQ(n)
	JNZ(LabelRef("block"))
	store(acc, dst, ldd)
	ADDQ(U32(64), dst)
	DECQ(ng)
	JNZ(LabelRef("group"))
	VZEROUPPER()
	RET()
}

// float512 emits the kernels of the float formats: weights [cols][16], inputs
// [cols][t] float32; products and sums are rounded one by one.
func float512(name string, t int) {
	TEXT("mm"+name+"x"+itoa(t)+"AVX512", NOSPLIT, "func(dst *float32, ldd int, w *byte, cols int, ng int, x *float32)")
	dst := Load(Param("dst"), GP64())
	ldd := Load(Param("ldd"), GP64())
	w := Load(Param("w"), GP64())
	cols := Load(Param("cols"), GP64())
	ng := Load(Param("ng"), GP64())
	x0 := Load(Param("x"), GP64())
	SHLQ(U8(2), ldd)
	x, n := GP64(), GP64()
	acc := zmms(t)
	Label("group")
	MOVQ(x0, x)
	MOVQ(cols, n)
	zero(acc)
	Label("col")
	v := ZMM()
	step := 32
	switch name {
	case "F32":
		step = 64
		VMOVUPS(Mem{Base: w}, v)
	case "F16":
		VCVTPH2PS(Mem{Base: w}, v)
	case "BF16":
		VPMOVZXWD(Mem{Base: w}, v)
		VPSLLD(U8(16), v, v)
	}
	for i := range acc {
		p := ZMM()
		VMULPS_BCST(Mem{Base: x, Disp: 4 * i}, v, p)
		VADDPS(p, acc[i], acc[i])
	}
	ADDQ(U32(uint32(step)), w)
	ADDQ(U32(uint32(4*t)), x)
	DECQ(n)
	JNZ(LabelRef("col"))
	store(acc, dst, ldd)
	ADDQ(U32(64), dst)
	DECQ(ng)
	JNZ(LabelRef("group"))
	VZEROUPPER()
	RET()
}

func zmms(n int) []VecVirtual {
	v := make([]VecVirtual, n)
	for i := range v {
		v[i] = ZMM()
	}
	return v
}

func zero(v []VecVirtual) {
	for _, r := range v {
		VPXORD(r, r, r)
	}
}

// store writes the rows of a tile, ldd bytes apart, without moving dst.
func store(acc []VecVirtual, dst, ldd Register) {
	p := GP64()
	MOVQ(dst, p)
	for i, a := range acc {
		VMOVUPS(a, Mem{Base: p})
		if i < len(acc)-1 {
			ADDQ(ldd, p)
		}
	}
}
