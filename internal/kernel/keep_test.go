package kernel

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/geistnet/geist/arith"
)

// TestRoundTo: values rounded, and the bytes they have in the cache, for every
// length around whole vectors.
func TestRoundTo(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 1))
	for _, p := range Paths() {
		for _, kv := range []arith.KV{arith.KVF16, arith.KVF32} {
			for n := range 100 {
				x := make([]float32, n)
				for i := range x {
					x[i] = float32(r.NormFloat64()) * 100
				}
				var want []byte
				rounded := make([]float32, n)
				for i, v := range x {
					rounded[i] = kv.Round(v)
					if kv == arith.KVF16 {
						want = binary.LittleEndian.AppendUint16(want, arith.F32ToF16(v))
					} else {
						want = binary.LittleEndian.AppendUint32(want, math.Float32bits(v))
					}
				}
				dst := bytes.Repeat([]byte{7}, len(want)+1)
				p.RoundTo(dst, x, kv)
				if !slices.Equal(x, rounded) || !bytes.Equal(dst[:len(want)], want) || dst[len(want)] != 7 {
					t.Fatalf("%v, %v: %d values differ", p, kv, n)
				}
			}
		}
	}
}

// TestSetRow: a row is set as by Set, and written as by Row, in tiles of every width.
func TestSetRow(t *testing.T) {
	r := rand.New(rand.NewPCG(2, 2))
	for _, p := range Paths() {
		for _, f := range []arith.Format{arith.F32, arith.Q8_0, arith.Q4_0, arith.Q4_K, arith.Q6_K} {
			t.Run(fmt.Sprint(p, f), func(t *testing.T) {
				const cols = 3328 // more than the sums of one call
				m := &Matrix{Format: f, Rows: 16, Cols: cols, path: p, blocks: cols / max(1, f.ActBlock())}
				for n := 1; n <= 16; n++ {
					var one, two Input
					one.Reset(n, cols, m)
					two.Reset(n, cols, m)
					row := make([]byte, one.RowBytes())
					for i := range n {
						x := make([]float32, cols)
						for j := range x {
							x[j] = float32(r.NormFloat64())
						}
						clear(x[256*(i%3):][:256]) // blocks of zeros
						kept := bytes.Repeat([]byte{9}, len(row)+1)
						if !one.Set(i, x) || !two.SetRow(i, x, kept) {
							t.Fatalf("row %d of %d is not finite", i, n)
						}
						one.Row(i, row)
						if !bytes.Equal(kept[:len(row)], row) || kept[len(row)] != 9 {
							t.Fatalf("row %d of %d: written differently", i, n)
						}
						x[cols-1] = float32(math.Inf(1))
						if two.SetRow(i, x, kept) {
							t.Fatalf("row %d of %d: an infinite value was taken", i, n)
						}
						x[cols-1] = 1
						two.Set(i, x)
						one.Set(i, x)
					}
					a, b := one.only(), two.only()
					if !slices.Equal(a.q, b.q) || !slices.Equal(a.d, b.d) || !slices.Equal(a.x, b.x) {
						t.Fatalf("%d rows: set differently", n)
					}
					for k := range a.sums {
						if !bytes.Equal(a.sums[k], b.sums[k]) {
							t.Fatalf("%d rows: sums of kind %d differ", n, k)
						}
					}
				}
			})
		}
	}
}

// TestKeptWeights: attention is the same whether weights are wanted or not, and
// those in whole chunks are those in shorter room.
func TestKeptWeights(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 3))
	for _, p := range Paths() {
		for _, kv := range []arith.KV{arith.KVF16, arith.KVF32} {
			shape := KVShape{Format: kv, KeyDim: 32, ValueDim: 48}
			const positions = 200
			var pages [][]byte
			for range (positions + PagePositions - 1) / PagePositions {
				pages = append(pages, make([]byte, shape.PageBytes()))
			}
			vector := func(n int) []float32 {
				x := make([]float32, n)
				for i := range x {
					x[i] = kv.Round(float32(r.NormFloat64()))
				}
				return x
			}
			for i := range positions {
				p.Store(shape, pages[i/PagePositions], i%PagePositions, vector(shape.KeyDim), vector(shape.ValueDim))
			}
			for end := 1; end+MaxQueries <= positions; end += 13 {
				var plain, whole, short Attention
				for _, a := range []*Attention{&plain, &whole, &short} {
					a.Shape, a.Pages = shape, pages
				}
				for i := range MaxQueries {
					q := vector(shape.KeyDim)
					first := max(0, end+i-70*(i%3+1))
					size := (end + i - first/PagePositions*PagePositions) * shape.elem()
					chunk := PagePositions * shape.elem()
					for _, a := range []*Attention{&plain, &whole, &short} {
						a.Q[i], a.Out[i] = q, make([]float32, Pad(shape.ValueDim))
						a.First[i], a.End[i] = first, end+i
					}
					whole.Weights[i] = bytes.Repeat([]byte{5}, (size+chunk-1)/chunk*chunk)
					short.Weights[i] = bytes.Repeat([]byte{5}, size)
				}
				p.Attend(&plain, MaxQueries)
				p.Attend(&whole, MaxQueries)
				p.Attend(&short, MaxQueries)
				for i := range MaxQueries {
					if !slices.Equal(plain.Out[i], whole.Out[i]) || !slices.Equal(plain.Out[i], short.Out[i]) {
						t.Fatalf("%v, %v: query %d up to %d gives other values when weights are kept", p, kv, i, end)
					}
					n := len(short.Weights[i])
					if !bytes.Equal(whole.Weights[i][:n], short.Weights[i]) {
						t.Fatalf("%v, %v: query %d up to %d has other weights in whole chunks", p, kv, i, end)
					}
					for _, b := range whole.Weights[i][n:] {
						if b != 0 {
							t.Fatalf("%v, %v: query %d up to %d: not zero behind the last visible position", p, kv, i, end)
						}
					}
				}
			}
		}
	}
}
