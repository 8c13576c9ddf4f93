package kernel

import (
	"encoding/binary"
	"math"
	"testing"

	"github.com/geistnet/geist/arith"
)

// scalesAt is where the f16 numbers of a block lie.
func scalesAt(f arith.Format) []int {
	switch f {
	case arith.Q2_K:
		return []int{80, 82}
	case arith.Q3_K:
		return []int{108}
	case arith.Q6_K:
		return []int{208}
	case arith.Q4_1, arith.Q5_1, arith.Q4_K, arith.Q5_K:
		return []int{0, 2}
	}
	return []int{0}
}

// Sums that grow as large as they can, by the largest and smallest codes of
// weights and inputs all of one sign, overflow nothing on any path.
func TestMulExtremes(t *testing.T) {
	const cols, n = 512, 11
	for _, f := range arith.Formats() {
		if f.ActBlock() == 0 {
			continue
		}
		for _, fill := range []byte{0x00, 0x7f, 0x80, 0xf0, 0x0f, 0xff} {
			src := make([]byte, GroupRows*f.RowBytes(cols))
			for i := range src {
				src[i] = fill
			}
			for b := 0; b < len(src); b += f.BlockBytes() {
				for _, o := range scalesAt(f) {
					binary.LittleEndian.PutUint16(src[b+o:], arith.F32ToF16(0.01))
				}
			}
			x := make([][]float32, n)
			for i := range x {
				x[i] = make([]float32, cols)
				for c := range x[i] {
					x[i][c] = 1
					if i%4 == 1 || i%4 == 2 && c%2 == 0 || i%4 == 3 && c/2%2 == 0 {
						x[i][c] = -1
					}
				}
			}
			for _, p := range Paths() {
				m := packed(p, f, GroupRows, cols, src)
				var in Input
				in.Reset(n, cols, m)
				for i := range x {
					if !in.Set(i, x[i]) {
						t.Fatal("finite input refused")
					}
				}
				dst := make([]float32, n*GroupRows)
				m.Mul(dst, GroupRows, &in, 0, 1)
				for i := range x {
					a, _ := arith.Quantize(x[i], f.ActBlock())
					want := arith.Dot(f, src[:f.RowBytes(cols)], a)
					for r, got := range dst[i*GroupRows:][:GroupRows] {
						if math.Float32bits(got) != math.Float32bits(want) {
							t.Fatalf("%v %v, bytes %#x: output [%d][%d] = %v, arith.Dot gives %v", p, f, fill, i, r, got, want)
						}
					}
				}
			}
		}
	}
}
