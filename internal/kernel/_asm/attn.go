package main

import (
	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	. "github.com/mmcloughlin/avo/reg"
)

// kvFormat is a storage format of cached keys and values.
type kvFormat struct {
	name string
	size int
}

var kvFormats = []kvFormat{{"F16", 2}, {"F32", 4}}

func (f kvFormat) load(m Mem, z VecVirtual) {
	if f.size == 2 {
		VCVTPH2PS(m, z)
	} else {
		VMOVUPS(m, z)
	}
}

// accumulate adds a·b to acc: fused where the product of two halves is exact,
// else with the product rounded.
func (f kvFormat) accumulate(a, b, acc VecVirtual) {
	if f.size == 2 {
		VFMADD231PS(a, b, acc)
		return
	}
	t := ZMM()
	VMULPS(a, b, t)
	VADDPS(t, acc, acc)
}

func attention() {
	for _, f := range kvFormats {
		for _, w := range widths {
			f.scores(w)
			f.mix(w)
		}
	}
}

// scores emits the scores of w queries against the 64 keys of a page:
// s[i][64] = q_i·k_t. Keys are four blocks of [hd][16], queries [hd][w].
func (f kvFormat) scores(w int) {
	TEXT("scores"+f.name+"x"+itoa(w)+"AVX512", NOSPLIT, "func(s *float32, k *byte, q *float32, hd int)")
	Pragma("noescape")
	s := Load(Param("s"), GP64())
	k := Load(Param("k"), GP64())
	q0 := Load(Param("q"), GP64())
	hd := Load(Param("hd"), GP64())
	nb := 2 // key blocks at once
	if w <= 4 {
		nb = 4
	}
	stride := GP64() // bytes of a key block
	MOVQ(hd, stride)
	SHLQ(U8(4), stride)
	if f.size == 2 {
		SHLQ(U8(1), stride)
	} else {
		SHLQ(U8(2), stride)
	}
	rounds := GP64()
	MOVQ(U32(uint32(4/nb)), rounds)
	Label("blocks")
	acc := make([][]VecVirtual, nb)
	for b := range acc {
		acc[b] = zmms(w)
		zero(acc[b])
	}
	q, n := GP64(), GP64()
	MOVQ(q0, q)
	MOVQ(hd, n)
	kb := make([]Register, nb)
	for b := range kb {
		kb[b] = GP64()
		if b == 0 {
			MOVQ(k, kb[b])
		} else {
			MOVQ(kb[b-1], kb[b])
			ADDQ(stride, kb[b])
		}
	}
	Label("d")
	kv := zmms(nb)
	for b := range kv {
		f.load(Mem{Base: kb[b]}, kv[b])
	}
	for i := 0; i < w; i++ {
		x := ZMM()
		VBROADCASTSS(Mem{Base: q, Disp: 4 * i}, x)
		for b := range kv {
			f.accumulate(kv[b], x, acc[b][i])
		}
	}
	for b := range kb {
		ADDQ(U32(uint32(16*f.size)), kb[b])
	}
	ADDQ(U32(uint32(4*w)), q)
	DECQ(n)
	JNZ(LabelRef("d"))
	for i := 0; i < w; i++ {
		for b := range acc {
			VMOVUPS(acc[b][i], Mem{Base: s, Disp: 256*i + 64*b})
		}
	}
	ADDQ(U32(uint32(64*nb)), s)
	for range nb {
		ADDQ(stride, k)
	}
	DECQ(rounds)
	JNZ(LabelRef("blocks"))
	VZEROUPPER()
	RET()
}

// mix adds to out the weighted sum of n values of a page for w queries:
// out[i·ostride + d] += Σ_t p[i][t]·v[t][d], weights [w][64], values [n][hd],
// hd in units of 16.
func (f kvFormat) mix(w int) {
	TEXT("mix"+f.name+"x"+itoa(w)+"AVX512", NOSPLIT, "func(out *float32, ostride int, p *float32, v *byte, hd16 int, n int)")
	Pragma("noescape")
	out := Load(Param("out"), GP64())
	os := Load(Param("ostride"), GP64())
	p0 := Load(Param("p"), GP64())
	v0 := Load(Param("v"), GP64())
	hd := Load(Param("hd16"), GP64())
	n0 := Load(Param("n"), GP64())
	SHLQ(U8(2), os)
	stride := GP64() // bytes of one value
	MOVQ(hd, stride)
	SHLQ(U8(4), stride)
	if f.size == 2 {
		SHLQ(U8(1), stride)
	} else {
		SHLQ(U8(2), stride)
	}
	wide := 2
	if w <= 2 {
		wide = 4
	}
	pass := func(nd int, label string) {
		acc := make([][]VecVirtual, nd)
		for b := range acc {
			acc[b] = zmms(w)
			zero(acc[b])
		}
		p, v, n := GP64(), GP64(), GP64()
		MOVQ(p0, p)
		MOVQ(v0, v)
		MOVQ(n0, n)
		Label(label + "t")
		vv := zmms(nd)
		for b := range vv {
			f.load(Mem{Base: v, Disp: 16 * f.size * b}, vv[b])
		}
		for i := 0; i < w; i++ {
			x := ZMM()
			VBROADCASTSS(Mem{Base: p, Disp: 256 * i}, x)
			for b := range vv {
				f.accumulate(vv[b], x, acc[b][i])
			}
		}
		ADDQ(stride, v)
		ADDQ(U32(4), p)
		DECQ(n)
		JNZ(LabelRef(label + "t"))
		o := GP64()
		MOVQ(out, o)
		for i := 0; i < w; i++ {
			for b := range acc {
				VADDPS(Mem{Base: o, Disp: 64 * b}, acc[b][i], acc[b][i])
				VMOVUPS(acc[b][i], Mem{Base: o, Disp: 64 * b})
			}
			if i < w-1 {
				ADDQ(os, o)
			}
		}
		ADDQ(U32(uint32(64*nd)), out)
		ADDQ(U32(uint32(16*f.size*nd)), v0)
	}
	Label("wide")
	CMPQ(hd, U32(uint32(wide)))
	JLT(LabelRef("narrow"))
	pass(wide, "w")
	SUBQ(U32(uint32(wide)), hd)
	JMP(LabelRef("wide"))
	Label("narrow")
	CMPQ(hd, U32(0))
	JEQ(LabelRef("done"))
	pass(1, "n")
	DECQ(hd)
	JMP(LabelRef("narrow"))
	Label("done")
	VZEROUPPER()
	RET()
}
