package main

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// vec is a vector register.
type vec int

// asm collects the text of the assembly and the declarations.
type asm struct {
	text, stubs strings.Builder
	free        []vec  // in the order of their release
	result      string // where the function's result goes
}

func newAsm() *asm { return &asm{} }

// function begins a function with all vector registers free and its parameters
// in the registers regs: a float32 is in the low lane of a vector register
// such as F3, which is taken, any other, of 8 bytes, in a general register.
// result is "" or the type of the result.
func (a *asm) function(name, params, result string, frame int, regs ...string) {
	signature := strings.TrimSpace(name + "(" + params + ") " + result)
	fmt.Fprintf(&a.stubs, "\n//go:noescape\nfunc %s\n", signature)
	a.free = nil
	for v := range vec(32) {
		a.free = append(a.free, v)
	}
	var loads []string
	at := 0
	for i, p := range strings.Split(params, ", ") {
		param, kind, _ := strings.Cut(p, " ")
		op, size := "MOVD", 8
		if kind == "float32" {
			op, size = "FMOVS", 4
			v, err := strconv.Atoi(regs[i][1:])
			if err != nil {
				panic(err)
			}
			a.claim([]vec{vec(v)})
		}
		at = (at + size - 1) / size * size
		loads = append(loads, fmt.Sprintf("%s %s+%d(FP), %s", op, param, at, regs[i]))
		at += size
	}
	at = (at + 7) / 8 * 8
	a.result = fmt.Sprintf("ret+%d(FP)", at)
	at += map[string]int{"": 0, "int": 8, "float32": 4}[result]
	fmt.Fprintf(&a.text, "\n// func %s\nTEXT ·%s(SB), NOSPLIT, $%d-%d\n", signature, name, frame, at)
	for _, l := range loads {
		a.op("%s", l)
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

// fmlaLane adds n times lane i of m to d and rounds once, which is right only
// where the product is exact.
func (a *asm) fmlaLane(d, n, m vec, i int) {
	a.word(0x4f801000|index32(m, i)|n.rn()|d.rd(), "fmla v%d.4s, v%d.4s, v%d.s[%d]", d, n, m, i)
}

func (a *asm) fsub(d, n, m vec) {
	a.word(0x4ea0d400|m.rm()|n.rn()|d.rd(), "fsub v%d.4s, v%d.4s, v%d.4s", d, n, m)
}

func (a *asm) fdiv(d, n, m vec) {
	a.word(0x6e20fc00|m.rm()|n.rn()|d.rd(), "fdiv v%d.4s, v%d.4s, v%d.4s", d, n, m)
}

// fmax gives a NaN where an operand is one.
func (a *asm) fmax(d, n, m vec) {
	a.word(0x4e20f400|m.rm()|n.rn()|d.rd(), "fmax v%d.4s, v%d.4s, v%d.4s", d, n, m)
}

func (a *asm) fmaxv(d, n vec) { a.word(0x6e30f800|n.rn()|d.rd(), "fmaxv s%d, v%d.4s", d, n) }

func (a *asm) fabs(d, n vec) { a.word(0x4ea0f800|n.rn()|d.rd(), "fabs v%d.4s, v%d.4s", d, n) }

func (a *asm) fneg(d, n vec) { a.word(0x6ea0f800|n.rn()|d.rd(), "fneg v%d.4s, v%d.4s", d, n) }

// fcmgt sets the lanes of d to all ones where n > m.
func (a *asm) fcmgt(d, n, m vec) {
	a.word(0x6ea0e400|m.rm()|n.rn()|d.rd(), "fcmgt v%d.4s, v%d.4s, v%d.4s", d, n, m)
}

// faddp adds the lower two lanes.
func (a *asm) faddp(d, n vec) { a.word(0x7e30d800|n.rn()|d.rd(), "faddp s%d, v%d.2s", d, n) }

// fcvtns converts to int32, rounding to even.
func (a *asm) fcvtns(d, n vec) { a.word(0x4e21a800|n.rn()|d.rd(), "fcvtns v%d.4s, v%d.4s", d, n) }

// fcvtn narrows float32 to float16 into the lower or upper half of d.
func (a *asm) fcvtn(d, n vec, upper int) {
	s, t, q := half(upper, "4h", "8h")
	a.word(0x0e216800|q|n.rn()|d.rd(), "fcvtn%s v%d.%s, v%d.4s", s, d, t, n)
}

// umaxv gives the largest of four unsigned lanes.
func (a *asm) umaxv(d, n vec) { a.word(0x6eb0a800|n.rn()|d.rd(), "umaxv s%d, v%d.4s", d, n) }

// saddlv adds 16 lanes of 8 bits.
func (a *asm) saddlv(d, n vec) { a.word(0x4e303800|n.rn()|d.rd(), "saddlv h%d, v%d.16b", d, n) }

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
