package main

import (
	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	. "github.com/mmcloughlin/avo/reg"
)

// A YMM register holds 8 of the 16 rows of a packed group, so each block is
// gone through for the lower and for the upper half of its rows: one after the
// other for wide tiles, together for narrow ones, which want long reads.
//
// Products of unsigned codes with the inputs' codes are added up in 16 bits by
// column pairs. With a bias the sum starts at −bias·Σq of the pair and may
// wrap on the way; what it ends at fits. Codes with a sign are multiplied as
// |w|·(±x), which holds for w = −128 too because |x| ≤ 127.

// signed reports whether packed codes have a sign.
func (f format) signed() bool { return f.lut || f.planes[0] == 8 }

// fit is the number of column groups whose 16-bit sums cannot overflow, at
// most those of a sub-block.
func (f format) fit() int {
	bits, groups := 0, f.sub/4
	if f.signed() {
		return groups // summed in 32 bits
	}
	for _, b := range f.planes {
		bits += b
	}
	largest := 1<<bits - 1
	if f.bias {
		largest = 1 << (bits - 1)
		if groups*2*127*largest > 32767 {
			panic(f.name + ": 16-bit sums overflow")
		}
	}
	for groups*2*127*largest > 32767 {
		groups /= 2
	}
	return groups
}

// constsAVX2 are read-only vectors shared by the kernels.
type constsAVX2 struct {
	mask map[int]Mem // bytes of one value, four to a lane, broadcast
	ones Mem         // int16
	pair Mem         // VPSHUFB: the low 16 bits of each lane, twice
	lut  Mem         // IQ4_NL codebook, in each 128-bit lane
}

func newConstsAVX2() *constsAVX2 {
	c := &constsAVX2{mask: map[int]Mem{}}
	for _, b := range []int{0x01, 0x02, 0x03, 0x04, 0x0f, 0x10, 0x30} {
		c.mask[b] = GLOBL("mask"+itoa(b), RODATA|NOPTR)
		DATA(0, U32(uint32(b)*0x01010101))
	}
	c.ones = GLOBL("ones16", RODATA|NOPTR)
	for i := 0; i < 8; i++ {
		DATA(4*i, U32(0x00010001))
	}
	c.pair = GLOBL("pair16", RODATA|NOPTR)
	for i := 0; i < 8; i++ {
		DATA(4*i, U32(0x01000100+uint32(i%4)*0x04040404))
	}
	c.lut = GLOBL("iq4nl", RODATA|NOPTR)
	for l := 0; l < 2; l++ {
		for i, x := range []int{-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113} {
			DATA(16*l+i, U8(uint8(x)))
		}
	}
	return c
}

func avx2() {
	c := newConstsAVX2()
	for _, f := range formats {
		for _, t := range widths {
			newMatmulAVX2(f, t, c).emit()
		}
	}
	for _, t := range widths {
		for _, f := range []string{"F32", "F16", "BF16"} {
			floatAVX2("mm"+f, t)
		}
	}
	elementwiseAVX2()
	attentionAVX2()
	hasF16C()
}

// hasF16C emits the one question that x/sys/cpu does not answer.
func hasF16C() {
	TEXT("hasF16C", NOSPLIT, "func() bool")
	MOVL(U32(1), EAX)
	XORL(ECX, ECX)
	CPUID()
	BTL(U8(29), ECX)
	r := GP8()
	SETCS(r)
	Store(r, ReturnIndex(0))
	RET()
}

// matmulAVX2 emits the kernel of one format for tiles of t input rows. It has
// the arguments and the result of matmul512's, except for
//
// c  32-blocks: [nb][t] × 2 int16, −bias·Σq of the even and the odd column
//
//	pairs (bias), or float32 Σq (min); unused where codes have a sign
//	256-blocks: [nb][t][block/sub] × 2 int16, the same of each sub-block
//	(bias), or [nb][t][block/sub] int16, Σq of each sub-block (min)
type matmulAVX2 struct {
	f      format
	t      int
	o      offsets
	cs     *constsAVX2
	halves [][]int // of a group's rows, by pass over a block

	w, q, d, c Register
	acc        Mem // [2][t] YMM: the outputs
	sum        Mem // [half of a pass][t] YMM: block sums in int32

	// Packed codes of the 32 columns at hand: plane i begins at base[i]+disp[i].
	base  [2]Register
	disp  [2]int
	masks map[int]VecVirtual
	lut   VecVirtual
	vec   [2][2]VecVirtual // by half and plane
	cur   [2][2]int
}

func newMatmulAVX2(f format, t int, cs *constsAVX2) *matmulAVX2 {
	m := &matmulAVX2{f: f, t: t, o: f.offsets(), cs: cs, masks: map[int]VecVirtual{}}
	m.halves = [][]int{{0}, {1}}
	if t <= 2 {
		m.halves = [][]int{{0, 1}}
	}
	return m
}

func (m *matmulAVX2) emit() {
	f, t := m.f, m.t
	// The frame is too large for NOSPLIT.
	TEXT("mm"+f.name+"x"+itoa(t)+"AVX2", 0, "func(dst *float32, ldd int, w *byte, nb int, ng int, q *int8, d *float32, c *byte)")
	m.acc = AllocLocal(64 * t)
	if f.block == 256 || f.fit() < 8 {
		m.sum = AllocLocal(32 * t * len(m.halves[0]))
	}
	dst := Load(Param("dst"), GP64())
	m.w = Load(Param("w"), GP64())
	ng := Load(Param("ng"), GP64())
	low := 0
	for _, b := range f.planes {
		if b < 8 {
			k := (1<<b - 1) << low
			m.masks[k] = YMM()
			VPBROADCASTD(m.cs.mask[k], m.masks[k])
		}
		low += b
	}
	if f.lut {
		m.lut = YMM()
		VMOVDQU(m.cs.lut, m.lut)
	}
	q, d, c, n := GP64(), GP64(), GP64(), GP64()
	m.q, m.d, m.c = q, d, c

	Label("group")
	Load(Param("q"), q)
	Load(Param("d"), d)
	Load(Param("c"), c)
	Load(Param("nb"), n)
	z := YMM()
	VPXOR(z, z, z)
	for i := range 2 * t {
		VMOVDQU(z, m.acc.Offset(32*i))
	}
	Label("block")
	cstep := 4 * t
	for _, halves := range m.halves {
		if f.block == 32 {
			m.block32(halves)
		} else {
			m.block256(halves)
		}
	}
	if f.block == 256 {
		cstep = 4 * t * f.block / f.sub
		if f.min {
			cstep /= 2
		}
	}
	ADDQ(U32(uint32(m.o.size)), m.w)
	ADDQ(U32(uint32(f.block*t)), q)
	ADDQ(U32(uint32(4*t)), d)
	ADDQ(U32(uint32(cstep)), c)
	DECQ(n)
	JNZ(LabelRef("block"))
	p, ldd := GP64(), Load(Param("ldd"), GP64())
	MOVQ(dst, p)
	for i := range t {
		for h := range 2 {
			v := YMM()
			VMOVDQU(m.acc.Offset(32*(h*t+i)), v)
			VMOVDQU(v, Mem{Base: p, Disp: 32 * h})
		}
		if i < t-1 {
			LEAQ(Mem{Base: p, Index: ldd, Scale: 4}, p)
		}
	}
	ADDQ(U32(64), dst)
	DECQ(ng)
	JNZ(LabelRef("group"))
	VZEROUPPER()
	RET()
}

// block32 emits one block of 32 columns.
func (m *matmulAVX2) block32(halves []int) {
	m.base = [2]Register{m.w, m.w}
	copy(m.disp[:], m.o.planes)
	m.prefetch(m.w, m.o.size)
	acc := m.accumulators(halves)
	m.columns(halves, acc, m.q, 32, m.c, 4, nil)
	for a, h := range halves {
		dw, dm := m.scales(h)
		for i, s := range acc[a] {
			VCVTDQ2PS(s, s)
			VMULPS(dw, s, s)
			if m.f.min {
				u := YMM()
				VBROADCASTSS(Mem{Base: m.c, Disp: 4 * i}, u)
				VMULPS(dm, u, u)
				VADDPS(u, s, s)
			}
			m.add(h, i, s)
		}
	}
}

// block256 emits one block of 256 columns, as a loop over 32 at a time.
func (m *matmulAVX2) block256(halves []int) {
	f := m.f
	nsub := f.block / f.sub
	label := "columns" + itoa(halves[0])
	m.base, m.disp = [2]Register{}, [2]int{}
	for i := range f.planes {
		r := GP64()
		LEAQ(Mem{Base: m.w, Disp: m.o.planes[i]}, r)
		m.base[i] = r
	}
	q, c, sc, n := GP64(), GP64(), GP64(), GP64()
	MOVQ(m.q, q)
	MOVQ(m.c, c)
	LEAQ(Mem{Base: m.w, Disp: m.o.sc}, sc)
	MOVQ(U32(8), n)
	m.prefetch(m.w, m.o.planes[0])
	z := YMM()
	VPXOR(z, z, z)
	for i := range len(halves) * m.t {
		VMOVDQU(z, m.sum.Offset(32*i))
	}
	acc := m.accumulators(halves)
	Label(label)
	m.columns(halves, acc, q, 256, c, 4*nsub, sc)
	for i, b := range f.planes {
		m.prefetch(m.base[i], 64*b)
		ADDQ(U32(uint32(64*b)), m.base[i])
	}
	ADDQ(U32(32), q)
	ADDQ(U32(uint32(4*32/f.sub)), c)
	ADDQ(U32(uint32(16*32/f.sub)), sc)
	DECQ(n)
	JNZ(LabelRef(label))

	for a, h := range halves {
		if f.min {
			for p := range nsub / 2 {
				v := YMM()
				VPMOVZXBW(Mem{Base: m.w, Disp: m.o.mn + 32*p + 16*h}, v)
				for i, s := range acc[a] {
					x := s
					if p > 0 {
						x = YMM()
					}
					VPBROADCASTD(Mem{Base: m.c, Disp: 2*nsub*i + 4*p}, x)
					VPMADDWD(v, x, x)
					if p > 0 {
						VPADDD(x, s, s)
					}
				}
			}
		}
		dw, dm := m.scales(h)
		for i, s := range acc[a] {
			v := YMM()
			VCVTDQ2PS(m.sum.Offset(32*(a*m.t+i)), v)
			VMULPS(dw, v, v)
			if f.min {
				VCVTDQ2PS(s, s)
				VMULPS(dm, s, s)
				VADDPS(s, v, v)
			}
			m.add(h, i, v)
		}
	}
}

func (m *matmulAVX2) accumulators(halves []int) [][]VecVirtual {
	acc := make([][]VecVirtual, len(halves))
	for a := range acc {
		for range m.t {
			acc[a] = append(acc[a], YMM())
		}
	}
	return acc
}

// scales loads the factors of the rows of half h.
func (m *matmulAVX2) scales(h int) (dw, dm VecVirtual) {
	dw = YMM()
	VCVTPH2PS(Mem{Base: m.w, Disp: 16 * h}, dw)
	if m.f.min {
		dm = YMM()
		VCVTPH2PS(Mem{Base: m.w, Disp: m.o.dm + 16*h}, dm)
	}
	return dw, dm
}

// ahead is how far before their use packed weights are fetched, in bytes: a
// page, where the hardware's own prefetching stops.
const ahead = 4096

// prefetch emits the fetch of n bytes that follow r by far, where a tile is so
// narrow that memory is what it waits for.
func (m *matmulAVX2) prefetch(r Register, n int) {
	if m.t > 2 {
		return
	}
	for o := 0; o < n; o += 64 {
		PREFETCHT0(Mem{Base: r, Disp: ahead + o})
	}
}

// add multiplies v with the scale of input i and adds it to the output.
func (m *matmulAVX2) add(h, i int, v VecVirtual) {
	x, out := YMM(), m.acc.Offset(32*(h*m.t+i))
	VBROADCASTSS(Mem{Base: m.d, Disp: 4 * i}, x)
	VMULPS(x, v, v)
	VADDPS(out, v, v)
	VMOVUPS(v, out)
}

// columns emits the products of 32 columns. Rows of q lie qstep bytes apart,
// of c cstep. Without sub-block scales (sc nil) the int32 sums are left in
// acc, else scaled and added to m.sum.
func (m *matmulAVX2) columns(halves []int, acc [][]VecVirtual, q Register, qstep int, c Register, cstep int, sc Register) {
	f := m.f
	m.cur = [2][2]int{{-1, -1}, {-1, -1}}
	var ones VecVirtual
	if f.signed() {
		ones = YMM()
		VMOVDQU(m.cs.ones, ones)
	}
	fit := f.fit()
	for g := range 8 {
		var codes, abs [2]VecVirtual
		for a, h := range halves {
			codes[a] = m.group(g, a, h)
			if f.signed() {
				abs[a] = YMM()
				VPABSB(codes[a], abs[a])
			}
		}
		for i := range m.t {
			var x VecVirtual
			for a := range halves {
				s := acc[a][i]
				if a == 0 || f.signed() {
					x = YMM()
					VPBROADCASTD(Mem{Base: q, Disp: qstep*i + 4*g}, x)
				}
				switch {
				case f.signed() && g == 0:
					VPSIGNB(codes[a], x, x)
					VPMADDUBSW(x, abs[a], x)
					VPMADDWD(ones, x, s)
				case f.signed():
					VPSIGNB(codes[a], x, x)
					VPMADDUBSW(x, abs[a], x)
					VPMADDWD(ones, x, x)
					VPADDD(x, s, s)
				case g%fit == 0 && !f.bias:
					VPMADDUBSW(x, codes[a], s)
				default:
					if g%fit == 0 {
						VPBROADCASTD(Mem{Base: c, Disp: cstep*i + 4*(4*g/f.sub)}, s)
					}
					p := YMM()
					VPMADDUBSW(x, codes[a], p)
					VPADDW(p, s, s)
				}
			}
		}
		if !f.signed() && g%fit == fit-1 {
			m.flush(halves, acc, g/fit, 8/fit, sc, 4*g/f.sub)
		}
	}
}

// flush widens the 16-bit sums in acc to int32, the k-th of n times in 32
// columns.
func (m *matmulAVX2) flush(halves []int, acc [][]VecVirtual, k, n int, sc Register, sub int) {
	for a, h := range halves {
		var scale Op = m.cs.ones
		if sc != nil {
			v := YMM()
			VPMOVSXBD(Mem{Base: sc, Disp: 16*sub + 8*h}, v)
			VPSHUFB(m.cs.pair, v, v)
			scale = v
		}
		for i, s := range acc[a] {
			sum := m.sum.Offset(32 * (a*m.t + i))
			VPMADDWD(scale, s, s)
			if sc != nil || k > 0 {
				VPADDD(sum, s, s)
			}
			if sc != nil || k < n-1 {
				VMOVDQU(s, sum)
			}
		}
	}
}

// group yields the codes of column group g of the 32 at hand, 8 rows × 4
// columns of half h, which is the a-th of its pass.
func (m *matmulAVX2) group(g, a, h int) VecVirtual {
	low := 0
	var out VecVirtual
	for i, b := range m.f.planes {
		per := 8 / b
		v, s := g/per, g%per*b
		if m.cur[a][i] != v {
			m.cur[a][i] = v
			m.vec[a][i] = YMM()
			VMOVDQU(Mem{Base: m.base[i], Disp: m.disp[i] + 64*v + 32*h}, m.vec[a][i])
		}
		src := m.vec[a][i]
		if b == 8 {
			return src
		}
		t := YMM()
		switch net := s - low; {
		case net > 0:
			VPSRLW(U8(net), src, t)
			src = t
		case net < 0:
			VPSLLW(U8(-net), src, t)
			src = t
		}
		VPAND(m.masks[(1<<b-1)<<low], src, t)
		if i == 0 {
			out = t
		} else {
			VPOR(t, out, out)
		}
		low += b
	}
	if m.f.lut {
		VPSHUFB(out, m.lut, out)
	}
	return out
}

// floatAVX2 emits the kernels of the float formats, like float512. A tile of 8
// inputs takes two passes over a group, for want of registers. The scores of
// attention are such a product too: keys are packed as weights are, positions
// being the rows.
func floatAVX2(name string, t int) {
	TEXT(name+"x"+itoa(t)+"AVX2", NOSPLIT, "func(dst *float32, ldd int, w *byte, cols int, ng int, x *float32)")
	dst := Load(Param("dst"), GP64())
	ldd := Load(Param("ldd"), GP64())
	w0 := Load(Param("w"), GP64())
	cols := Load(Param("cols"), GP64())
	ng := Load(Param("ng"), GP64())
	x0 := Load(Param("x"), GP64())
	w, x, n, p := GP64(), GP64(), GP64(), GP64()
	step := 32
	if name == "mmF32" {
		step = 64
	}
	passes := [][]int{{0, 1}}
	if t == 8 {
		passes = [][]int{{0}, {1}}
	}
	Label("group")
	for _, halves := range passes {
		label := "col" + itoa(halves[0])
		MOVQ(w0, w)
		MOVQ(x0, x)
		MOVQ(cols, n)
		acc := make([][]VecVirtual, len(halves))
		for a := range acc {
			for range t {
				z := YMM()
				VXORPS(z, z, z)
				acc[a] = append(acc[a], z)
			}
		}
		Label(label)
		if t <= 2 {
			PREFETCHT0(Mem{Base: w, Disp: ahead})
		}
		v := make([]VecVirtual, len(halves))
		for a, h := range halves {
			v[a] = YMM()
			m := Mem{Base: w, Disp: step / 2 * h}
			switch name {
			case "mmF32":
				VMOVUPS(m, v[a])
			case "mmF16", "scoresF16":
				VCVTPH2PS(m, v[a])
			case "mmBF16":
				VPMOVZXWD(m, v[a])
				VPSLLD(U8(16), v[a], v[a])
			}
		}
		for i := range t {
			b := YMM()
			VBROADCASTSS(Mem{Base: x, Disp: 4 * i}, b)
			for a := range halves {
				accumulateAVX2(name == "scoresF16", v[a], b, acc[a][i])
			}
		}
		ADDQ(U32(uint32(step)), w)
		ADDQ(U32(uint32(4*t)), x)
		DECQ(n)
		JNZ(LabelRef(label))
		MOVQ(dst, p)
		for i := range t {
			for a, h := range halves {
				VMOVUPS(acc[a][i], Mem{Base: p, Disp: 32 * h})
			}
			if i < t-1 {
				LEAQ(Mem{Base: p, Index: ldd, Scale: 4}, p)
			}
		}
	}
	MOVQ(w, w0)
	ADDQ(U32(64), dst)
	DECQ(ng)
	JNZ(LabelRef("group"))
	VZEROUPPER()
	RET()
}
