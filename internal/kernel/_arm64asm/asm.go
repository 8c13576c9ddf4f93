package main

import (
	"fmt"
	"slices"
	"strings"
)

// vec is a vector register.
type vec int

// asm collects the text of the assembly and the declarations.
type asm struct {
	text, stubs strings.Builder
	free        []vec // in the order of their release
}

func newAsm() *asm { return &asm{} }

// function begins a function with all vector registers free and its
// parameters, all of 8 bytes, in the registers regs.
func (a *asm) function(name, params string, frame int, regs ...string) {
	fmt.Fprintf(&a.stubs, "\n//go:noescape\nfunc %s(%s)\n", name, params)
	fmt.Fprintf(&a.text, "\n// func %s(%s)\nTEXT ·%s(SB), NOSPLIT, $%d-%d\n", name, params, name, frame, 8*len(regs))
	for i, p := range strings.Split(params, ", ") {
		a.op("MOVD %s+%d(FP), %s", p[:strings.Index(p, " ")], 8*i, regs[i])
	}
	a.free = nil
	for v := range vec(32) {
		a.free = append(a.free, v)
	}
}

// take takes n free registers, those first that have been free the longest.
func (a *asm) take(n int) []vec {
	if n > len(a.free) {
		panic("out of vector registers")
	}
	v := append([]vec(nil), a.free[:n]...)
	a.free = a.free[n:]
	return v
}

func (a *asm) one() vec { return a.take(1)[0] }

func (a *asm) release(v ...vec) { a.free = append(a.free, v...) }

func (a *asm) op(format string, args ...any) { fmt.Fprintf(&a.text, "\t"+format+"\n", args...) }

func (a *asm) label(s string) { a.text.WriteString(s + ":\n") }

// word writes an instruction that Go's assembler does not know.
func (a *asm) word(x uint32, format string, args ...any) {
	fmt.Fprintf(&a.text, "\tWORD $0x%08x // "+format+"\n", append([]any{x}, args...)...)
}

func (a *asm) add(n int, reg string) {
	switch {
	case n > 0:
		a.op("ADD $%d, %s", n, reg)
	case n < 0:
		a.op("SUB $%d, %s", -n, reg)
	}
}

// loop counts reg down and jumps to label until it is zero.
func (a *asm) loop(reg, label string) {
	a.op("SUBS $1, %s", reg)
	a.op("BNE %s", label)
}

// mem is an address.
type mem struct {
	reg string
	off int
}

func (m mem) plus(n int) mem { return mem{m.reg, m.off + n} }

func (m mem) String() string {
	if m.off == 0 {
		return "(" + m.reg + ")"
	}
	return fmt.Sprintf("%d(%s)", m.off, m.reg)
}

// load fills registers with consecutive 16 bytes each, in pairs where the
// offset allows.
func (a *asm) load(m mem, v ...vec) {
	for i := 0; i < len(v); i++ {
		at := m.plus(16 * i)
		if i+1 < len(v) && at.off <= 1008 {
			a.op("FLDPQ %v, (F%d, F%d)", at, v[i], v[i+1])
			i++
		} else {
			a.op("FMOVQ %v, F%d", at, v[i])
		}
	}
}

// loadPart loads 4, 8 or 16 bytes into the low end of v.
func (a *asm) loadPart(n int, m mem, v vec) {
	a.op("FMOV%s %v, F%d", map[int]string{4: "S", 8: "D", 16: "Q"}[n], m, v)
}

// loadBytes loads n bytes, of which a register holds at most 16.
func (a *asm) loadBytes(n int, m mem, v []vec) {
	if n > 16 {
		a.load(m, v[:n/16]...)
	} else {
		a.loadPart(n, m, v[0])
	}
}

func (a *asm) store(v vec, m mem) { a.op("FMOVQ F%d, %v", v, m) }

func (a *asm) zero(v ...vec) {
	for _, r := range v {
		a.op("VMOVI $0, V%d.B16", r)
	}
}

// sdot adds to each lane of d the dot product of four bytes of n with the four
// bytes of lane i of m.
func (a *asm) sdot(d, n, m vec, i int) {
	a.word(0x4f80e000|index32(m, i)|n.rn()|d.rd(), "sdot v%d.4s, v%d.16b, v%d.4b[%d]", d, n, m, i)
}

func (v vec) rd() uint32 { return uint32(v) }
func (v vec) rn() uint32 { return uint32(v) << 5 }
func (v vec) rm() uint32 { return uint32(v) << 16 }

// index32 encodes lane i of four as an operand, index16 lane i of eight, which
// only the lower 16 registers have.
func index32(v vec, i int) uint32 { return v.rm() | uint32(i&1)<<21 | uint32(i>>1)<<11 }

func index16(v vec, i int) uint32 {
	if v > 15 {
		panic("lane of 16 bits in a high register")
	}
	return v.rm() | uint32(i&3)<<20 | uint32(i>>2)<<11
}

func (a *asm) fmul(d, n, m vec) {
	a.word(0x6e20dc00|m.rm()|n.rn()|d.rd(), "fmul v%d.4s, v%d.4s, v%d.4s", d, n, m)
}

func (a *asm) fadd(d, n, m vec) {
	a.word(0x4e20d400|m.rm()|n.rn()|d.rd(), "fadd v%d.4s, v%d.4s, v%d.4s", d, n, m)
}

// fmulLane multiplies by lane i of m.
func (a *asm) fmulLane(d, n, m vec, i int) {
	a.word(0x4f809000|index32(m, i)|n.rn()|d.rd(), "fmul v%d.4s, v%d.4s, v%d.s[%d]", d, n, m, i)
}

// scvtf converts int32 to float32, rounding to even.
func (a *asm) scvtf(d, n vec) { a.word(0x4e21d800|n.rn()|d.rd(), "scvtf v%d.4s, v%d.4s", d, n) }

func (a *asm) mla(d, n, m vec) {
	a.word(0x4ea09400|m.rm()|n.rn()|d.rd(), "mla v%d.4s, v%d.4s, v%d.4s", d, n, m)
}

// half gives the mark of an instruction that reads the upper half of a
// register and the arrangement of that half, and its bit in the encoding.
func half(upper int, low, high string) (string, string, uint32) {
	if upper == 1 {
		return "2", high, 1 << 30
	}
	return "", low, 0
}

// fcvtl, shll and sxtl make four lanes of 32 bits of the lower or upper four of
// 16: float32 of float16, float32 of bfloat16, int32 of int16.
func (a *asm) fcvtl(d, n vec, upper int) {
	s, t, q := half(upper, "4h", "8h")
	a.word(0x0e217800|q|n.rn()|d.rd(), "fcvtl%s v%d.4s, v%d.%s", s, d, n, t)
}

func (a *asm) shll(d, n vec, upper int) {
	s, t, q := half(upper, "4h", "8h")
	a.word(0x2e613800|q|n.rn()|d.rd(), "shll%s v%d.4s, v%d.%s, #16", s, d, n, t)
}

func (a *asm) sxtl(d, n vec, upper int) {
	s, t, q := half(upper, "4h", "8h")
	a.word(0x0f10a400|q|n.rn()|d.rd(), "sxtl%s v%d.4s, v%d.%s", s, d, n, t)
}

// sxtl8 widens eight lanes of 8 bits.
func (a *asm) sxtl8(d, n vec, upper int) {
	s, t, q := half(upper, "8b", "16b")
	a.word(0x0f08a400|q|n.rn()|d.rd(), "sxtl%s v%d.8h, v%d.%s", s, d, n, t)
}

// smull multiplies four lanes of 16 bits with lane i of m, to lanes of 32 bits,
// to which it adds if accumulate is set.
func (a *asm) smull(d, n, m vec, i, upper int, accumulate bool) {
	s, t, q := half(upper, "4h", "8h")
	op, text := uint32(0x0f40a000), "smull"
	if accumulate {
		op, text = 0x0f402000, "smlal"
	}
	a.word(op|q|index16(m, i)|n.rn()|d.rd(), "%s%s v%d.4s, v%d.%s, v%d.h[%d]", text, s, d, n, t, m, i)
}

// lowBytes clears the upper byte of each of eight lanes.
func (a *asm) lowBytes(d vec) { a.word(0x6f07b7e0|d.rd(), "bic v%d.8h, #0xff, lsl #8", d) }

// claim takes the given registers, which are free.
func (a *asm) claim(v []vec) {
	for _, r := range v {
		i := slices.Index(a.free, r)
		a.free = slices.Delete(a.free, i, i+1)
	}
}
