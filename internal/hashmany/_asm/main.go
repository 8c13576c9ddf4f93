// Command asm generates the BLAKE3 compressions of package hashmany, sixteen
// lanes at a time: register i of the state holds word i of all lanes, or with
// AVX2 of eight of them, one half after the other. The
// specification is https://github.com/BLAKE3-team/BLAKE3-specs, section 2.
package main

import (
	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	. "github.com/mmcloughlin/avo/reg"
)

// iv is the first half of SHA-256's initial state.
var iv = [4]uint32{0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a}

// permutation of the message words between rounds.
var permutation = [16]int{2, 6, 3, 10, 7, 0, 4, 13, 1, 11, 12, 5, 9, 14, 15, 8}

func main() {
	Package("github.com/geistnet/geist/internal/hashmany/_asm")
	ConstraintExpr("amd64,!purego")
	consts := GLOBL("iv", RODATA|NOPTR)
	for i, w := range iv {
		DATA(4*i, U32(w))
	}
	chunk(consts)
	parent(consts)
	store()
	avx2(consts)
	Generate()
}

func zmms(n int) []VecVirtual {
	z := make([]VecVirtual, n)
	for i := range z {
		z[i] = ZMM()
	}
	return z
}

// ahead is how far before its use the memory of a lane is fetched: the lanes are
// too many streams for the processor to see that each is read in order.
const ahead = 256

// row addresses the words i of all lanes.
func row(base Register, i int) Mem { return Mem{Base: base, Disp: 64 * i} }

// chunk emits the compression of n blocks of 64 bytes, one after the other.
func chunk(consts Mem) {
	TEXT("chunkAVX512", NOSPLIT, "func(cv *[8][16]uint32, in *[16]*byte, off int, n int, counter uint64, length uint32, flags uint32, start uint32, end uint32)")
	Pragma("noescape")
	Doc("chunkAVX512 compresses n ≥ 1 blocks of each lane, those at in[lane]+off, into cv.",
		"The last block has length bytes, though 64 are read. start is added to the",
		"flags of the first block, end to those of the last.")
	cv := Load(Param("cv"), GP64())
	in := Load(Param("in"), GP64())
	off := Load(Param("off"), GP64())
	n := Load(Param("n"), GP64())
	flags, now := GP32(), GP32() // of all blocks; of this one
	Load(Param("flags"), flags)
	Load(Param("start"), now)
	ORL(flags, now)
	end, length := GP32(), GP32()
	Load(Param("end"), end)
	Load(Param("length"), length)
	low := GP64()
	Load(Param("counter"), low)
	high := GP64()
	MOVQ(low, high)
	SHRQ(U8(32), high)

	h := zmms(8)
	for i := range h {
		VMOVDQU32(row(cv, i), h[i])
	}
	Label("block")
	m := zmms(16)
	p := GP64()
	for i := range m {
		MOVQ(Mem{Base: in, Disp: 8 * i}, p)
		VMOVDQU32(Mem{Base: p, Index: off, Scale: 1}, m[i])
		PREFETCHT0(Mem{Base: p, Index: off, Scale: 1, Disp: ahead})
	}
	m = transpose(m)
	v := append(h[:8:8], zmms(8)...)
	for i := range iv {
		VPBROADCASTD(consts.Offset(4*i), v[8+i])
	}
	size, last := GP32(), GP32()
	MOVL(U32(64), size)
	MOVL(now, last)
	ORL(end, last)
	CMPQ(n, U8(1))
	CMOVLEQ(length, size)
	CMOVLEQ(last, now)
	VPBROADCASTD(low.As32(), v[12])
	VPBROADCASTD(high.As32(), v[13])
	VPBROADCASTD(size, v[14])
	VPBROADCASTD(now, v[15])
	MOVL(flags, now)
	compress(v, m)
	for i := range h {
		VPXORD(v[i], v[8+i], h[i])
	}
	ADDQ(U8(64), off)
	DECQ(n)
	JNZ(LabelRef("block"))
	for i := range h {
		VMOVDQU32(h[i], row(cv, i))
	}
	VZEROUPPER()
	RET()
}

// parent emits the compression of two chaining values.
func parent(consts Mem) {
	TEXT("parentAVX512", NOSPLIT, "func(out *[8][16]uint32, key *[8][16]uint32, left *[8][16]uint32, right *[8][16]uint32, flags uint32)")
	Pragma("noescape")
	Doc("parentAVX512 compresses left‖right of each lane under key into out, which may be left or right.")
	out := Load(Param("out"), GP64())
	key := Load(Param("key"), GP64())
	left := Load(Param("left"), GP64())
	right := Load(Param("right"), GP64())
	v, m := zmms(16), zmms(16)
	for i := range 8 {
		VMOVDQU32(row(key, i), v[i])
		VMOVDQU32(row(left, i), m[i])
		VMOVDQU32(row(right, i), m[8+i])
	}
	for i := range iv {
		VPBROADCASTD(consts.Offset(4*i), v[8+i])
	}
	VPXORD(v[12], v[12], v[12])
	VPXORD(v[13], v[13], v[13])
	size := GP32()
	MOVL(U32(64), size)
	VPBROADCASTD(size, v[14])
	flags := GP32()
	Load(Param("flags"), flags)
	VPBROADCASTD(flags, v[15])
	compress(v, m)
	for i := range 8 {
		VPXORD(v[i], v[8+i], v[i])
		VMOVDQU32(v[i], row(out, i))
	}
	VZEROUPPER()
	RET()
}

// compress emits the seven rounds. The steps of the four independent
// quarter rounds are interleaved.
func compress(v, m []VecVirtual) {
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
			rd, rb := uint8(16), uint8(12)
			if step == 1 {
				rd, rb = 8, 7
			}
			each(func(a, _, _, _ VecVirtual, i int) { VPADDD(m[x[2*i+step]], a, a) })
			each(func(a, b, _, _ VecVirtual, _ int) { VPADDD(b, a, a) })
			each(func(a, _, _, d VecVirtual, _ int) { VPXORD(a, d, d) })
			each(func(_, _, _, d VecVirtual, _ int) { VPRORD(U8(rd), d, d) })
			each(func(_, _, c, d VecVirtual, _ int) { VPADDD(d, c, c) })
			each(func(_, b, c, _ VecVirtual, _ int) { VPXORD(c, b, b) })
			each(func(_, b, _, _ VecVirtual, _ int) { VPRORD(U8(rb), b, b) })
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

// quads turns rows r[4g..4g+3] into columns within each 128 bits: part j of
// result 4g+c holds words 4j+c of the four rows.
func quads(r []VecVirtual) []VecVirtual {
	out := make([]VecVirtual, len(r))
	for g := 0; g < len(r); g += 4 {
		t := zmms(4)
		VPUNPCKLDQ(r[g+1], r[g], t[0])
		VPUNPCKHDQ(r[g+1], r[g], t[1])
		VPUNPCKLDQ(r[g+3], r[g+2], t[2])
		VPUNPCKHDQ(r[g+3], r[g+2], t[3])
		for c := range 4 {
			out[g+c] = ZMM()
			if c%2 == 0 {
				VPUNPCKLQDQ(t[2+c/2], t[c/2], out[g+c])
			} else {
				VPUNPCKHQDQ(t[2+c/2], t[c/2], out[g+c])
			}
		}
	}
	return out
}

// transpose returns registers that hold word i of all lanes, from registers
// that hold all words of lane i.
func transpose(r []VecVirtual) []VecVirtual {
	q := quads(r)
	out := make([]VecVirtual, 16)
	for c := range 4 {
		// q[c], q[4+c], q[8+c], q[12+c]: 4×4 parts of 128 bits, to be transposed.
		t := zmms(4)
		VSHUFI32X4(U8(0x88), q[4+c], q[c], t[0])
		VSHUFI32X4(U8(0xdd), q[4+c], q[c], t[1])
		VSHUFI32X4(U8(0x88), q[12+c], q[8+c], t[2])
		VSHUFI32X4(U8(0xdd), q[12+c], q[8+c], t[3])
		for j := range 4 {
			out[4*j+c] = ZMM()
		}
		VSHUFI32X4(U8(0x88), t[2], t[0], out[c])
		VSHUFI32X4(U8(0x88), t[3], t[1], out[4+c])
		VSHUFI32X4(U8(0xdd), t[2], t[0], out[8+c])
		VSHUFI32X4(U8(0xdd), t[3], t[1], out[12+c])
	}
	return out
}

// store emits the way back from lanes to hashes.
func store() {
	TEXT("storeAVX512", NOSPLIT, "func(out *byte, cv *[8][16]uint32)")
	Pragma("noescape")
	Doc("storeAVX512 writes the 32 bytes of each lane to out, lane after lane.")
	out := Load(Param("out"), GP64())
	cv := Load(Param("cv"), GP64())
	r := zmms(8)
	for i := range r {
		VMOVDQU32(row(cv, i), r[i])
	}
	q := quads(r)
	for c := range 4 {
		for half := range 2 {
			for j := range 4 {
				to := Mem{Base: out, Disp: 32*(4*j+c) + 16*half}
				if j == 0 {
					VMOVDQU(q[4*half+c].AsX(), to)
				} else {
					VEXTRACTI32X4(U8(j), q[4*half+c], to)
				}
			}
		}
	}
	VZEROUPPER()
	RET()
}
