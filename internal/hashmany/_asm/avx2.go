package main

import (
	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	. "github.com/mmcloughlin/avo/reg"
)

// frame is the memory of a function: registers hold the state and nothing else.
type frame struct {
	message Mem // 16 words of eight lanes
	spill   Mem // one register
	counter Mem // two registers, low and high words
	size    Mem // two words: bytes and flags of a block
	rot16   Mem
	rot8    Mem
	iv      Mem
}

func newFrame(consts Mem, rot16, rot8 Mem) frame {
	return frame{
		message: AllocLocal(512), spill: AllocLocal(32), counter: AllocLocal(64), size: AllocLocal(8),
		rot16: rot16, rot8: rot8, iv: consts,
	}
}

func ymms(n int) []VecVirtual {
	z := make([]VecVirtual, n)
	for i := range z {
		z[i] = YMM()
	}
	return z
}

func avx2(consts Mem) {
	rotation := func(name string, bytes int) Mem {
		m := GLOBL(name, RODATA|NOPTR)
		for i := range 32 {
			DATA(i, U8(uint8(i&^3|(i+bytes)&3)))
		}
		return m
	}
	rot16, rot8 := rotation("rot16", 2), rotation("rot8", 1)
	chunk2(consts, rot16, rot8)
	parent2(consts, rot16, rot8)
	store2()
}

func chunk2(consts, rot16, rot8 Mem) {
	TEXT("chunkAVX2", NOSPLIT, "func(cv *[8][16]uint32, in *[16]*byte, off int, n int, counter uint64, length uint32, flags uint32, start uint32, end uint32)")
	Pragma("noescape")
	Doc("chunkAVX2 is chunkAVX512 with AVX2.")
	f := newFrame(consts, rot16, rot8)
	cv := Load(Param("cv"), GP64())
	in := Load(Param("in"), GP64())
	for i := range 2 {
		c := GP64()
		Load(Param("counter"), c)
		if i == 1 {
			SHRQ(U8(32), c)
		}
		x, y := XMM(), YMM()
		VMOVD(c.As32(), x)
		VPBROADCASTD(x, y)
		VMOVDQU(y, f.counter.Offset(32*i))
	}
	halves := GP64()
	MOVQ(U32(2), halves)
	Label("half2")
	off := Load(Param("off"), GP64())
	n := Load(Param("n"), GP64())
	now := GP32()
	Load(Param("start"), now)
	Label("block2")
	p := GP64()
	for part := range 2 {
		m := ymms(8)
		for i := range m {
			MOVQ(Mem{Base: in, Disp: 8 * i}, p)
			VMOVDQU(Mem{Base: p, Index: off, Scale: 1, Disp: 32 * part}, m[i])
		}
		for i, r := range transpose2(m) {
			VMOVDQU(r, f.message.Offset(32*(8*part+i)))
		}
	}
	size, flags, last := GP32(), GP32(), GP32()
	Load(Param("flags"), flags)
	ORL(flags, now)
	Load(Param("end"), last)
	ORL(now, last)
	Load(Param("length"), flags)
	MOVL(U32(64), size)
	CMPQ(n, U8(1))
	CMOVLEQ(flags, size)
	CMOVLEQ(last, now)
	MOVL(size, f.size)
	MOVL(now, f.size.Offset(4))
	XORL(now, now)
	v := ymms(16)
	for i := range 8 {
		VMOVDQU(row(cv, i), v[i])
	}
	for i := range 2 {
		VMOVDQU(f.counter.Offset(32*i), v[12+i])
		VPBROADCASTD(f.size.Offset(4*i), v[14+i])
	}
	f.compress(v)
	for i := range 8 {
		VPXOR(v[i], v[8+i], v[i])
		VMOVDQU(v[i], row(cv, i))
	}
	ADDQ(U8(64), off)
	DECQ(n)
	JNZ(LabelRef("block2"))
	ADDQ(U8(32), cv)
	ADDQ(U8(64), in)
	DECQ(halves)
	JNZ(LabelRef("half2"))
	VZEROUPPER()
	RET()
}

func parent2(consts, rot16, rot8 Mem) {
	TEXT("parentAVX2", NOSPLIT, "func(out *[8][16]uint32, key *[8][16]uint32, left *[8][16]uint32, right *[8][16]uint32, flags uint32)")
	Pragma("noescape")
	Doc("parentAVX2 is parentAVX512 with AVX2.")
	f := newFrame(consts, rot16, rot8)
	out := Load(Param("out"), GP64())
	key := Load(Param("key"), GP64())
	left := Load(Param("left"), GP64())
	right := Load(Param("right"), GP64())
	MOVL(U32(64), f.size)
	flags := GP32()
	Load(Param("flags"), flags)
	MOVL(flags, f.size.Offset(4))
	halves := GP64()
	MOVQ(U32(2), halves)
	Label("halfparent2")
	for i := range 8 {
		m := ymms(2)
		VMOVDQU(row(left, i), m[0])
		VMOVDQU(row(right, i), m[1])
		VMOVDQU(m[0], f.message.Offset(32*i))
		VMOVDQU(m[1], f.message.Offset(32*(8+i)))
	}
	v := ymms(16)
	for i := range 8 {
		VMOVDQU(row(key, i), v[i])
	}
	for i := range 2 {
		VPXOR(v[12+i], v[12+i], v[12+i])
		VPBROADCASTD(f.size.Offset(4*i), v[14+i])
	}
	f.compress(v)
	for i := range 8 {
		VPXOR(v[i], v[8+i], v[i])
		VMOVDQU(v[i], row(out, i))
	}
	for _, r := range []Register{out, key, left, right} {
		ADDQ(U8(32), r)
	}
	DECQ(halves)
	JNZ(LabelRef("halfparent2"))
	VZEROUPPER()
	RET()
}

func store2() {
	TEXT("storeAVX2", NOSPLIT, "func(out *byte, cv *[8][16]uint32)")
	Pragma("noescape")
	Doc("storeAVX2 is storeAVX512 with AVX2.")
	out := Load(Param("out"), GP64())
	cv := Load(Param("cv"), GP64())
	for half := range 2 {
		r := ymms(8)
		for i := range r {
			VMOVDQU(row(cv, i).Offset(32*half), r[i])
		}
		for l, h := range transpose2(r) {
			VMOVDQU(h, Mem{Base: out, Disp: 32 * (8*half + l)})
		}
	}
	VZEROUPPER()
	RET()
}

// compress sets v[8..11] and emits the seven rounds. Rotations by 12 and 7 need
// a register more than there are: one word of the state waits in memory.
func (f frame) compress(v []VecVirtual) {
	for i := range iv {
		VPBROADCASTD(f.iv.Offset(4*i), v[8+i])
	}
	s := [16]int{}
	for i := range s {
		s[i] = i
	}
	half := func(q [4][4]int, x []int) {
		each := func(f func(a, b, c, d VecVirtual, i int)) {
			for i, k := range q {
				f(v[k[0]], v[k[1]], v[k[2]], v[k[3]], i)
			}
		}
		for step := range 2 {
			rd, rb := f.rot16, 12
			if step == 1 {
				rd, rb = f.rot8, 7
			}
			each(func(a, _, _, _ VecVirtual, i int) { VPADDD(f.message.Offset(32*x[2*i+step]), a, a) })
			each(func(a, b, _, _ VecVirtual, _ int) { VPADDD(b, a, a) })
			each(func(a, _, _, d VecVirtual, _ int) { VPXOR(a, d, d) })
			each(func(_, _, _, d VecVirtual, _ int) { VPSHUFB(rd, d, d) })
			each(func(_, _, c, d VecVirtual, _ int) { VPADDD(d, c, c) })
			each(func(_, b, c, _ VecVirtual, _ int) { VPXOR(c, b, b) })
			t := v[q[3][2]]
			VMOVDQU(t, f.spill)
			each(func(_, b, _, _ VecVirtual, _ int) {
				VPSRLD(U8(uint8(rb)), b, t)
				VPSLLD(U8(uint8(32-rb)), b, b)
				VPOR(t, b, b)
			})
			VMOVDQU(f.spill, t)
		}
	}
	for range 7 {
		half([4][4]int{{0, 4, 8, 12}, {1, 5, 9, 13}, {2, 6, 10, 14}, {3, 7, 11, 15}}, s[:8])
		half([4][4]int{{0, 5, 10, 15}, {1, 6, 11, 12}, {2, 7, 8, 13}, {3, 4, 9, 14}}, s[8:])
		old := s
		for i, p := range permutation {
			s[i] = old[p]
		}
	}
}

// transpose2 transposes 8 words × 8 lanes, either way.
func transpose2(r []VecVirtual) []VecVirtual {
	q := make([]VecVirtual, 8) // q[4g+c], 128 bits j: words 4j+c of r[4g..4g+3]
	for g := 0; g < 8; g += 4 {
		t := ymms(4)
		VPUNPCKLDQ(r[g+1], r[g], t[0])
		VPUNPCKHDQ(r[g+1], r[g], t[1])
		VPUNPCKLDQ(r[g+3], r[g+2], t[2])
		VPUNPCKHDQ(r[g+3], r[g+2], t[3])
		for c := range 4 {
			q[g+c] = YMM()
			if c%2 == 0 {
				VPUNPCKLQDQ(t[2+c/2], t[c/2], q[g+c])
			} else {
				VPUNPCKHQDQ(t[2+c/2], t[c/2], q[g+c])
			}
		}
	}
	out := ymms(8)
	for c := range 4 {
		VPERM2I128(U8(0x20), q[4+c], q[c], out[c])
		VPERM2I128(U8(0x31), q[4+c], q[c], out[4+c])
	}
	return out
}
