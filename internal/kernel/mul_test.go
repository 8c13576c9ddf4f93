package kernel

import (
	"encoding/binary"
	"fmt"
	"math"
	"math/rand/v2"
	"testing"

	"github.com/geistnet/geist/arith"
)

// randomRows makes rows of format f from random bytes, with every f16 scale
// replaced by a small finite one, so that all codes and sub-scales occur.
func randomRows(r *rand.Rand, f arith.Format, rows, cols int) []byte {
	b := make([]byte, rows*f.RowBytes(cols))
	for i := range b {
		b[i] = byte(r.Uint32())
	}
	put := func(at int) {
		binary.LittleEndian.PutUint16(b[at:], arith.F32ToF16(float32(r.NormFloat64())*0.02))
	}
	size := f.BlockBytes()
	for o := 0; o < len(b); o += size {
		switch f {
		case arith.F32:
			binary.LittleEndian.PutUint32(b[o:], math.Float32bits(float32(r.NormFloat64())))
		case arith.F16:
			put(o)
		case arith.BF16:
			binary.LittleEndian.PutUint16(b[o:], arith.F32ToBF16(float32(r.NormFloat64())))
		case arith.Q2_K:
			put(o + 80)
			put(o + 82)
		case arith.Q3_K:
			put(o + 108)
		case arith.Q6_K:
			put(o + 208)
		case arith.Q4_1, arith.Q5_1, arith.Q4_K, arith.Q5_K:
			put(o)
			put(o + 2)
		default:
			put(o)
		}
	}
	return b
}

func packed(p Path, f arith.Format, rows, cols int, src []byte) *Matrix {
	m := NewMatrix(p, f, rows, cols, make([]byte, PackedBytes(f, rows, cols)))
	m.Pack(src, 0, m.Groups()/2)
	m.Pack(src, m.Groups()/2, m.Groups())
	return m
}

// extremes are inputs whose codes reach ±127 everywhere, and zero blocks.
func inputRows(r *rand.Rand, n, cols int) [][]float32 {
	x := make([][]float32, n)
	for i := range x {
		x[i] = make([]float32, cols)
		for c := range x[i] {
			switch {
			case i%5 == 3:
				x[i][c] = float32(1 - 2*(r.IntN(2)))
			case i%5 == 4 && c < cols/2:
			default:
				x[i][c] = float32(r.NormFloat64())
			}
		}
	}
	return x
}

// Every path gives arith.Dot's bits for every format, for batches of every
// tile width, and for row counts that do not fill a group.
func TestMulEqualsDot(t *testing.T) {
	for _, f := range arith.Formats() {
		t.Run(f.String(), func(t *testing.T) {
			r := rand.New(rand.NewPCG(1, uint64(f)))
			for _, rows := range []int{1, 16, 47} {
				cols := 512
				if f.ActBlock() == 32 {
					cols = 96
				} else if f.ActBlock() == 0 {
					cols = 67
				}
				src := randomRows(r, f, rows, cols)
				for _, n := range []int{1, 2, 3, 7, 8, 21} {
					x := inputRows(r, n, cols)
					want := make([][]float32, n)
					for i := range x {
						a, ok := arith.Quantize(x[i], f.ActBlock())
						if !ok {
							t.Fatal("finite input refused")
						}
						for row := range rows {
							want[i] = append(want[i], arith.Dot(f, src[row*f.RowBytes(cols):(row+1)*f.RowBytes(cols)], a))
						}
					}
					for _, p := range Paths() {
						m := packed(p, f, rows, cols, src)
						var in Input
						in.Reset(n, cols, m)
						for i := range x {
							if !in.Set(i, x[i]) {
								t.Fatal("finite input refused")
							}
						}
						ldd := m.Groups() * GroupRows
						dst := make([]float32, n*ldd)
						m.Mul(dst, ldd, &in, 0, m.Groups())
						for i := range want {
							for row, v := range want[i] {
								if got := dst[i*ldd+row]; math.Float32bits(got) != math.Float32bits(v) {
									t.Fatalf("%v rows=%d n=%d: output [%d][%d] = %v, arith.Dot gives %v", p, rows, n, i, row, got, v)
								}
							}
						}
					}
				}
			}
		})
	}
}

// Matrices of different formats may share an input, whatever their blocks.
func TestMixedFormats(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 77))
	const rows, cols, n = 20, 512, 11
	formats := []arith.Format{arith.Q8_0, arith.Q4_K, arith.F16, arith.Q6_K, arith.Q5_1, arith.Q3_K}
	for _, p := range Paths() {
		var ms []*Matrix
		var srcs [][]byte
		for _, f := range formats {
			src := randomRows(r, f, rows, cols)
			ms, srcs = append(ms, packed(p, f, rows, cols, src)), append(srcs, src)
		}
		x := inputRows(r, n, cols)
		var in Input
		in.Reset(n, cols, ms...)
		for i := range x {
			if !in.Set(i, x[i]) {
				t.Fatal("finite input refused")
			}
		}
		for j, f := range formats {
			dst := make([]float32, n*Pad(rows))
			ms[j].Mul(dst, Pad(rows), &in, 0, ms[j].Groups())
			for i := range x {
				a, _ := arith.Quantize(x[i], f.ActBlock())
				for row := range rows {
					if want := arith.Dot(f, srcs[j][row*f.RowBytes(cols):][:f.RowBytes(cols)], a); dst[i*Pad(rows)+row] != want {
						t.Fatalf("%v %v: output [%d][%d] = %v, want %v", p, f, i, row, dst[i*Pad(rows)+row], want)
					}
				}
			}
		}
	}
}

func benchMul(b *testing.B, f arith.Format, n int, p Path) {
	const rows, cols, mats = 2048, 2048, 16
	r := rand.New(rand.NewPCG(1, 2))
	src := randomRows(r, f, rows, cols)
	var ms []*Matrix
	count := mats
	if n > 8 {
		count = 1
	}
	for range count {
		ms = append(ms, packed(p, f, rows, cols, src))
	}
	x := inputRows(r, n, cols)
	var in Input
	in.Reset(n, cols, ms[0])
	for i := range x {
		in.Set(i, x[i])
	}
	dst := make([]float32, n*rows)
	b.ResetTimer()
	for i := range b.N {
		ms[i%count].Mul(dst, rows, &in, 0, ms[0].Groups())
	}
	s := b.Elapsed().Seconds() / float64(b.N)
	b.ReportMetric(float64(ms[0].Bytes())/s/1e9, "GB/s")
	b.ReportMetric(2*rows*cols*float64(n)/s/1e9, "GOP/s")
}

func BenchmarkMul(b *testing.B) {
	for _, p := range Paths() {
		if p == Generic {
			continue
		}
		for _, f := range arith.Formats() {
			for _, n := range []int{1, 8, 512} {
				b.Run(fmt.Sprintf("%v/%v/n=%d", p, f, n), func(b *testing.B) { benchMul(b, f, n, p) })
			}
		}
	}
}
