package quant

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/geistnet/geist/arith"
)

func vectors(t *testing.T, name string) []byte {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("testdata/ggml", name))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func floats(t *testing.T, name string) []float32 {
	t.Helper()
	b := vectors(t, name)
	x := make([]float32, len(b)/4)
	if _, err := binary.Decode(b, binary.LittleEndian, x); err != nil {
		t.Fatal(err)
	}
	return x
}

func squares(a, b []float32) float64 {
	var e float64
	for i := range a {
		d := float64(a[i]) - float64(b[i])
		e += d * d
	}
	return e
}

// roundTrip quantises x and returns bytes and the values they stand for.
func roundTrip(t testing.TB, f arith.Format, x []float32) ([]byte, []float32) {
	t.Helper()
	b := make([]byte, f.RowBytes(len(x)))
	if err := Row(b, f, x); err != nil {
		t.Fatal(err)
	}
	y := make([]float32, len(x))
	if err := Dequantize(y, f, b); err != nil {
		t.Fatal(err)
	}
	return b, y
}

// TestDequantizeGGML: the values are ggml's, bit for bit but for the sign of
// zeros: ggml multiplies (d·sc)·q, where sc and q are signed, and gets −0
// where d·(sc·q) with an integer product is +0.
func TestDequantizeGGML(t *testing.T) {
	for _, f := range arith.Formats() {
		if f == arith.F32 {
			continue
		}
		for _, kind := range []string{"", ".rand"} {
			want := floats(t, f.String()+kind+".f32")
			got := make([]float32, len(want))
			if err := Dequantize(got, f, vectors(t, f.String()+kind+".bin")); err != nil {
				t.Error(err)
				continue
			}
			for i := range got {
				signedZero := (f == arith.Q3_K || f == arith.Q6_K) && got[i] == 0 && want[i] == 0
				if math.Float32bits(got[i]) != math.Float32bits(want[i]) && !signedZero {
					t.Errorf("%s%s: weight %d is %v, ggml's %v", f, kind, i, got[i], want[i])
					break
				}
			}
		}
	}
}

// TestErrorGGML: on each row the squared error is at most 2 % above ggml's.
func TestErrorGGML(t *testing.T) {
	x := floats(t, "input.f32")
	for _, f := range arith.Formats() {
		if f == arith.F32 {
			continue
		}
		_, got := roundTrip(t, f, x)
		want := floats(t, f.String()+".f32")
		for row := range 2 {
			r := x[512*row : 512*row+512]
			ours, theirs := squares(r, got[512*row:][:512]), squares(r, want[512*row:][:512])
			t.Logf("%s row %d: error %.4g, ggml's %.4g, ratio %.3f", f, row, ours, theirs, ours/theirs)
			if ours > 1.02*theirs {
				t.Errorf("%s row %d: error %g is %.3f times ggml's", f, row, ours, ours/theirs)
			}
		}
	}
}

// TestFloatFormatsGGML: where there is one right answer, it is that.
func TestFloatFormatsGGML(t *testing.T) {
	x := floats(t, "input.f32")
	for _, f := range []arith.Format{arith.F16, arith.BF16} {
		if b, _ := roundTrip(t, f, x); string(b) != string(vectors(t, f.String()+".bin")) {
			t.Errorf("%s: bytes differ from ggml's", f)
		}
	}
	if _, y := roundTrip(t, arith.F32, x); squares(x, y) != 0 {
		t.Error("F32 changes values")
	}
}

// seeded draws n weights of several distributions and magnitudes.
func seeded(n int) []float32 {
	g := rand.New(rand.NewPCG(7, 11))
	x := make([]float32, n)
	for i := range x {
		u := 2*g.Float64() - 1
		switch i / 256 % 4 {
		case 0: // a bell
			u = u + 2*g.Float64() - 1 + 2*g.Float64() - 1
		case 1: // heavy tails
			u = u * u * u * u * u * 8
		case 2: // off centre
			u += 0.7
		}
		x[i] = float32(u * math.Ldexp(1, i/1024%24-16))
	}
	return x
}

// TestGolden pins the bytes: they are the same on every machine and change
// only on purpose.
func TestGolden(t *testing.T) {
	want := map[arith.Format]string{
		arith.F32:   "d5618c85048a0112",
		arith.F16:   "f082c323989d0136",
		arith.Q4_0:  "69d0fef886b21cca",
		arith.Q4_1:  "4762087c765b23d2",
		arith.Q5_0:  "290446cffbd7a5ec",
		arith.Q5_1:  "ee2c1924dc5a6f16",
		arith.Q8_0:  "7615f4da6d12da5a",
		arith.Q2_K:  "6cec485eb2ba4945",
		arith.Q3_K:  "9cd9fb5a004d35f4",
		arith.Q4_K:  "7157405bffea63a4",
		arith.Q5_K:  "16b0c4beadca1b8d",
		arith.Q6_K:  "fc634a2ac4457468",
		arith.IQ4NL: "76dc07bd2757a5b9",
		arith.BF16:  "382b2ab7567ed9b9",
	}
	x := seeded(1 << 17)
	for _, f := range arith.Formats() {
		b, _ := roundTrip(t, f, x)
		sum := sha256.Sum256(b)
		if got := hex.EncodeToString(sum[:8]); got != want[f] {
			t.Errorf("%s: bytes hash to %s, want %s", f, got, want[f])
		}
	}
}

// TestNoise demands a signal-to-noise ratio that follows from the number of
// bits, on bell-shaped weights.
func TestNoise(t *testing.T) {
	g := rand.New(rand.NewPCG(1, 2))
	x := make([]float32, 1<<16)
	for i := range x {
		x[i] = float32(g.NormFloat64())
	}
	for f, most := range map[arith.Format]float64{ // mean squared error over variance
		arith.F32: 0, arith.F16: 1e-7, arith.BF16: 4e-6, arith.Q8_0: 3e-5, arith.Q4_0: 8e-3, arith.Q4_1: 7e-3,
		arith.Q5_0: 2e-3, arith.Q5_1: 1.7e-3, arith.IQ4NL: 6e-3, arith.Q2_K: 9e-2, arith.Q3_K: 2.5e-2,
		arith.Q4_K: 6e-3, arith.Q5_K: 1.5e-3, arith.Q6_K: 4e-4,
	} {
		_, y := roundTrip(t, f, x)
		e := squares(x, y) / squares(x, make([]float32, len(x)))
		t.Logf("%s: %.3g", f, e)
		if e > most {
			t.Errorf("%s: error %g of the variance, at most %g is expected", f, e, most)
		}
	}
}

func TestSpecialBlocks(t *testing.T) {
	fill := func(v float32) []float32 {
		x := make([]float32, 256)
		for i := range x {
			x[i] = v
		}
		return x
	}
	one := func(v float32) []float32 {
		x := make([]float32, 256)
		x[77] = v
		return x
	}
	ramp := fill(-1000)
	for i := range ramp {
		ramp[i] += float32(i) / 4096
	}
	far := fill(-60000) // sub-blocks whose minimum is off by millions of their scale
	for i := 128; i < 256; i++ {
		far[i] = -470 - float32(i)/8192
	}
	for _, c := range []struct {
		name string
		x    []float32
		most float64 // largest error, of the largest magnitude
	}{
		{"zeros", fill(0), 0},
		{"negative zeros", fill(float32(math.Copysign(0, -1))), 0},
		{"constant", fill(0.75), 0.01},
		{"negative constant", fill(-0.75), 0.01},
		{"one positive", one(3), 0.01},
		{"one negative", one(-3), 0.01},
		{"large", fill(30000), 0.01},
		{"negative large", fill(-30000), 0.01},
		{"offset ramp", ramp, 0.01},
		{"far minima", far, 0.02},
		{"smallest", fill(math.SmallestNonzeroFloat32), 1},
		{"tiny", fill(-1e-30), 1},
		{"normal half", one(-1e-3), 0.05},
	} {
		for _, f := range arith.Formats() {
			_, y := roundTrip(t, f, c.x)
			top := max(peak(c.x), -peak(c.x))
			for i := range y {
				if e := math.Abs(float64(y[i]) - float64(c.x[i])); e > c.most*float64(top) {
					t.Errorf("%s, %s: weight %d is %v, was %v", c.name, f, i, y[i], c.x[i])
					break
				}
			}
		}
	}
}

func TestRefused(t *testing.T) {
	good := make([]float32, 256)
	for _, f := range arith.Formats() {
		size := f.RowBytes(256)
		for name, err := range map[string]error{
			"short dst":  Row(make([]byte, size-1), f, good),
			"long dst":   Row(make([]byte, size+1), f, good),
			"short src":  Dequantize(good, f, make([]byte, size-1)),
			"long src":   Dequantize(good, f, make([]byte, size+1)),
			"half block": Row(make([]byte, size), f, good[:255]),
			"half a dst": Dequantize(good[:255], f, make([]byte, size)),
		} {
			if err == nil {
				t.Errorf("%s, %s: accepted", f, name)
			}
		}
		for name, v := range map[string]float32{
			"NaN": float32(math.NaN()), "infinity": float32(math.Inf(1)), "-infinity": float32(math.Inf(-1)),
		} {
			x := make([]float32, 256)
			x[200] = v
			if err := Row(make([]byte, size), f, x); err == nil || !strings.Contains(err.Error(), "weight 200 is") {
				t.Errorf("%s of %s: %v", f, name, err)
			}
		}
		for _, v := range []float32{9e8, -9e8, math.MaxFloat32, -math.MaxFloat32} {
			x := make([]float32, 512)
			x[300] = v
			err := Row(make([]byte, 2*size), f, x)
			if fits := f == arith.F32 || f == arith.BF16 && max(v, -v) < 1e38; (err == nil) != fits {
				t.Errorf("%s of %v: %v", f, v, err)
			}
		}
		huge := make([]float32, 256) // whose sums of products would overflow
		for i := range huge {
			huge[i] = float32(1+i%5) * 1e37
		}
		if err := Row(make([]byte, size), f, huge); (err == nil) != (f == arith.F32 || f == arith.BF16) {
			t.Errorf("%s of huge weights: %v", f, err)
		}
		if err := Row(nil, f, nil); err != nil {
			t.Errorf("%s of nothing: %v", f, err)
		}
	}
	for _, f := range []arith.Format{4, 16, 99} {
		if Row(nil, f, nil) == nil || Dequantize(nil, f, nil) == nil {
			t.Errorf("%v is accepted", f)
		}
	}
}

// TestIQ4NLTable compares the table with a search for the nearest value.
func TestIQ4NLTable(t *testing.T) {
	var table [256]byte
	iq4nlTable(&table)
	for v := range table {
		d := func(c int) int { e := v - 128 - int(arith.IQ4NLValues[c]); return max(e, -e) }
		best := 0
		for c := range 16 {
			if d(c) < d(best) {
				best = c
			}
		}
		if d(int(table[v])) != d(best) {
			t.Errorf("%d maps to %d, nearest is %d", v-128, table[v], best)
		}
	}
}

// FuzzRow: any weights are quantised or refused, and what comes back is finite
// and of the same magnitude.
func FuzzRow(f *testing.F) {
	f.Add(uint8(0), []byte{})
	f.Add(uint8(9), []byte{0, 0, 0x80, 0x3f, 0, 0, 0, 0xbf, 1, 0, 0, 0x80, 0, 0, 0x7a, 0xc4})
	f.Add(uint8(13), []byte{0xff, 0xff, 0x7f, 0x7f})
	f.Add(uint8(7), []byte{0, 0, 0xc0, 0x7f})
	f.Fuzz(func(t *testing.T, which uint8, b []byte) {
		format := arith.Formats()[int(which)%len(arith.Formats())]
		x := make([]float32, 512)
		for i := 0; i < len(x) && 4*i+4 <= len(b); i++ {
			x[i] = math.Float32frombits(binary.LittleEndian.Uint32(b[4*i:]))
		}
		q := make([]byte, format.RowBytes(len(x)))
		if err := Row(q, format, x); err != nil {
			return
		}
		y := make([]float32, len(x))
		if err := Dequantize(y, format, q); err != nil {
			t.Fatal(err)
		}
		for block := range 2 {
			p := peak(x[256*block : 256*block+256])
			most := 2 * max(p, -p)
			for i, v := range y[256*block : 256*block+256] {
				if !(max(v, -v) <= most) {
					t.Fatalf("%s: weight %d is %v, was %v; the largest is %v", format, 256*block+i, v, x[256*block+i], p)
				}
			}
		}
	})
}

func BenchmarkRow(b *testing.B) {
	x := seeded(4096)
	for _, f := range arith.Formats() {
		dst := make([]byte, f.RowBytes(len(x)))
		b.Run(fmt.Sprint(f), func(b *testing.B) {
			b.SetBytes(int64(4 * len(x)))
			for b.Loop() {
				if err := Row(dst, f, x); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
