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
// The compression keeps ports 0 and 5 busy, and a transposition by shuffles
// would keep port 5 busy for 64 cycles more. So messages lie in memory, from
// where additions take them at no cost of their own, and while one block is
// compressed the next is transposed by moves of single words, which need the
// ports for loads and stores only. 401 cycles a block against 504 with shuffles.
// Two states of sixteen lanes side by side, each with its message in memory,
// take 467; shuffles between the steps of the block before 450.
func chunk(consts Mem) {
	TEXT("chunkAVX512", 0, "func(cv *[8][16]uint32, in *[16]*byte, off int, n int, counter uint64, length uint32, flags uint32, start uint32, end uint32)")
	Pragma("noescape")
	Doc("chunkAVX512 compresses n ≥ 1 blocks of each lane, those at in[lane]+off, into cv.",
		"The last block has length bytes, though 64 are read. start is added to the",
		"flags of the first block, end to those of the last.")
	in := Load(Param("in"), GP64())
	off := Load(Param("off"), GP64())
	n := Load(Param("n"), GP64())
	now := GP32() // flags of this block
	Load(Param("start"), now)
	param := func(name string) Mem {
		p, err := Param(name).Resolve()
		if err != nil {
			panic(err)
		}
		return p.Addr
	}
	ORL(param("flags"), now)
	// Two messages, in lines of their own: this block's and the next one's.
	local := AllocLocal(2*1024 + 64)
	this, next := GP64(), GP64()
	LEAQ(local, this)
	ADDQ(U8(63), this)
	ANDQ(I8(-64), this)
	LEAQ(Mem{Base: this, Disp: 1024}, next)

	h := zmms(8)
	cv := Load(Param("cv"), GP64())
	for i := range h {
		VMOVDQU32(row(cv, i), h[i])
	}
	transposed(in, off, this)
	Label("block")
	// Behind the last block this one is read again.
	ahead := GP64()
	LEAQ(Mem{Base: off, Disp: 64}, ahead)
	size, last := GP32(), GP32()
	MOVL(U32(64), size)
	MOVL(now, last)
	ORL(param("end"), last)
	CMPQ(n, U8(1))
	CMOVLEQ(Load(Param("length"), GP32()), size)
	CMOVLEQ(last, now)
	CMOVQGT(ahead, off)
	v := append(h[:8:8], zmms(8)...)
	for i := range iv {
		VPBROADCASTD(consts.Offset(4*i), v[8+i])
	}
	counter := GP64()
	Load(Param("counter"), counter)
	VPBROADCASTD(counter.As32(), v[12])
	SHRQ(U8(32), counter)
	VPBROADCASTD(counter.As32(), v[13])
	VPBROADCASTD(size, v[14])
	VPBROADCASTD(now, v[15])
	MOVL(param("flags"), now)
	m := make([]Op, 16)
	for i := range m {
		m[i] = row(this, i)
	}
	spread(compress(v, m), moved(in, off, next))
	for i := range h {
		VPXORD(v[i], v[8+i], h[i])
	}
	XCHGQ(this, next)
	DECQ(n)
	JNZ(LabelRef("block"))
	Load(Param("cv"), cv)
	for i := range h {
		VMOVDQU32(h[i], row(cv, i))
	}
	VZEROUPPER()
	RET()
}

// spread emits the steps of two programs, those of the second evenly between
// those of the first.
func spread(a, b []func()) {
	done := 0
	for i, f := range a {
		f()
		for ; done*len(a) < (i+1)*len(b); done++ {
			b[done]()
		}
	}
}

// moved are the steps that write word i of all lanes to row i of to, word by word.
func moved(in, off, to Register) []func() {
	var steps []func()
	for lane := range 16 {
		p := GP64()
		steps = append(steps, func() {
			MOVQ(Mem{Base: in, Disp: 8 * lane}, p)
			PREFETCHT0(Mem{Base: p, Index: off, Scale: 1, Disp: ahead})
		})
		for i := range 16 {
			steps = append(steps, func() {
				w := GP32()
				MOVL(Mem{Base: p, Index: off, Scale: 1, Disp: 4 * i}, w)
				MOVL(w, Mem{Base: to, Disp: 64*i + 4*lane})
			})
		}
	}
	return steps
}

// transposed does the same with shuffles. With halves of blocks loaded into both
// halves of registers, eight registers hold what a pass works on.
func transposed(in, off, to Register) {
	for half := range 2 {
		at := func(i int) Mem {
			p := GP64()
			MOVQ(Mem{Base: in, Disp: 8 * i}, p)
			if half == 0 {
				PREFETCHT0(Mem{Base: p, Index: off, Scale: 1, Disp: ahead})
			}
			return Mem{Base: p, Index: off, Scale: 1, Disp: 32 * half}
		}
		var u [2][]VecVirtual
		for g := range u {
			r := zmms(4)
			for i := range r {
				VBROADCASTI64X4(at(8*g+i), r[i])
			}
			for i := range r {
				VINSERTI64X4(U8(1), at(8*g+4+i), r[i], r[i])
			}
			u[g] = quads(r)
		}
		for c := range 4 {
			for part, order := range []uint8{0x88, 0xdd} {
				z := ZMM()
				VSHUFI32X4(U8(order), u[1][c], u[0][c], z)
				VMOVDQA32(z, row(to, 8*half+4*part+c))
			}
		}
	}
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
	words := make([]Op, len(m))
	for i := range m {
		words[i] = m[i]
	}
	spread(compress(v, words), nil)
	for i := range 8 {
		VPXORD(v[i], v[8+i], v[i])
		VMOVDQU32(v[i], row(out, i))
	}
	VZEROUPPER()
	RET()
}

// compress are the steps of the seven rounds. Those of the four independent
// quarter rounds are interleaved.
func compress(v []VecVirtual, m []Op) []func() {
	var steps []func()
	s := [16]int{}
	for i := range s {
		s[i] = i
	}
	half := func(q [4][4]int, x []int) {
		each := func(f func(a, b, c, d VecVirtual, i int)) {
			for i, k := range q {
				steps = append(steps, func() { f(v[k[0]], v[k[1]], v[k[2]], v[k[3]], i) })
			}
		}
		for step := range 2 {
			rd, rb := uint8(16), uint8(12)
			if step == 1 {
				rd, rb = 8, 7
			}
			words := [4]int{x[step], x[2+step], x[4+step], x[6+step]}
			each(func(a, _, _, _ VecVirtual, i int) { VPADDD(m[words[i]], a, a) })
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
	return steps
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
