package arith

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"math"
	"math/rand/v2"
	"testing"
)

func TestLog(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for range 100000 {
		x := math.Exp(r.NormFloat64() * 20)
		if d := math.Abs(Log(x) - math.Log(x)); d > 2e-14 {
			t.Fatalf("Log(%v) errs by %g", x, d)
		}
	}
	if Log(1) != 0 {
		t.Errorf("Log(1) = %v", Log(1))
	}
}

// Relative error of Exp over its range, and its clamps.
func TestExp(t *testing.T) {
	worst := 0.0
	for b := uint32(0); b < 1<<31; b += 997 {
		for _, x := range []float32{math.Float32frombits(b), -math.Float32frombits(b)} {
			if !(x > ExpMin && x < ExpMax) {
				continue
			}
			e := math.Exp(float64(x))
			worst = max(worst, math.Abs(float64(Exp(x))-e)/e)
		}
	}
	if worst > 2.2*0x1p-23 {
		t.Errorf("relative error %g·2⁻²³", worst*0x1p23)
	}
	if Exp(0) != 1 || Exp(-1e9) != Exp(ExpMin) || Exp(1e9) != Exp(ExpMax) || Exp(float32(math.NaN())) == Exp(float32(math.NaN())) {
		t.Error("Exp at 0, beyond its range or at NaN")
	}
}

func TestTanhAndGates(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 4))
	for range 200000 {
		x := float32(r.NormFloat64() * 3)
		if d := math.Abs(float64(Tanh(x)) - math.Tanh(float64(x))); d > 3e-7*math.Abs(math.Tanh(float64(x))) {
			t.Fatalf("Tanh(%v) = %v", x, Tanh(x))
		}
		g := float64(x)
		if d := math.Abs(float64(SiLUMul(x, 1)) - g/(1+math.Exp(-g))); d > 1e-6*(math.Abs(g)+1) {
			t.Fatalf("SiLU(%v) = %v", x, SiLUMul(x, 1))
		}
		want := 0.5 * g * (1 + math.Tanh(math.Sqrt(2/math.Pi)*(g+0.044715*g*g*g)))
		if d := math.Abs(float64(GELUMul(x, 1)) - want); d > 1e-6*(math.Abs(g)+1) {
			t.Fatalf("GELU(%v) = %v, want %v", x, GELUMul(x, 1), want)
		}
	}
}

// All binary16 values survive, and rounding is to nearest even.
func TestF16(t *testing.T) {
	for h := range 1 << 16 {
		f := F16ToF32(uint16(h))
		if f == f && F32ToF16(f) != uint16(h) {
			t.Fatalf("%#04x becomes %v and %#04x", h, f, F32ToF16(f))
		}
	}
	r := rand.New(rand.NewPCG(5, 6))
	for range 1000000 {
		f := math.Float32frombits(r.Uint32())
		if f != f || math.Abs(float64(f)) >= 65520 {
			continue
		}
		h := F32ToF16(f)
		d := math.Abs(float64(F16ToF32(h)) - float64(f))
		for _, n := range []uint16{h - 1, h + 1} {
			if g := F16ToF32(n); Finite(g) && math.Signbit(float64(g)) == math.Signbit(float64(f)) {
				o := math.Abs(float64(g) - float64(f))
				if o < d || o == d && h&1 == 1 {
					t.Fatalf("%v rounds to %v, but %v is nearer or even", f, F16ToF32(h), g)
				}
			}
		}
	}
}

// The distribution of sampled tokens is that of the softmax.
func TestSampleDistribution(t *testing.T) {
	logits := []float32{1, 2, 3, -1, 0.5}
	var z float64
	for _, l := range logits {
		z += math.Exp(float64(l))
	}
	s := Sampling{Temperature: 1}
	s.Seed[0] = 7
	var a Sampler
	count := make([]int, len(logits))
	const n = 200000
	for i := range n {
		count[a.Sample(append([]float32(nil), logits...), &s, nil, uint64(i), nil)]++
	}
	for i, c := range count {
		p := math.Exp(float64(logits[i])) / z
		if d := math.Abs(float64(c)/n - p); d > 5*math.Sqrt(p*(1-p)/n) {
			t.Errorf("token %d drawn with frequency %v, want %v", i, float64(c)/n, p)
		}
	}
}

func TestSampleCuts(t *testing.T) {
	logits := []float32{5, 4, 4, 3, -10}
	set := func(s Sampling, allowed []uint64) map[int32]bool {
		s.Temperature = 1
		got := map[int32]bool{}
		var a Sampler
		for i := range 20000 {
			got[a.Sample(append([]float32(nil), logits...), &s, nil, uint64(i), allowed)] = true
		}
		return got
	}
	want := func(name string, got map[int32]bool, ids ...int32) {
		t.Helper()
		for _, id := range ids {
			if !got[id] {
				t.Errorf("%s: token %d is never drawn", name, id)
			}
		}
		if len(got) != len(ids) {
			t.Errorf("%s: drawn %v, want %v", name, got, ids)
		}
	}
	want("top-k 2, ties to the lower id", set(Sampling{TopK: 2}, nil), 0, 1)
	want("top-p 0.7", set(Sampling{TopP: 0.7}, nil), 0, 1)
	want("min-p 0.3", set(Sampling{MinP: 0.3}, nil), 0, 1, 2)
	want("allowed", set(Sampling{}, []uint64{0b11000}), 3)
	want("bias", set(Sampling{Bias: map[int32]float32{4: 60}}, nil), 4)

	var a Sampler
	greedy := Sampling{}
	if id := a.Sample([]float32{1, 3, 3, 2}, &greedy, nil, 0, nil); id != 1 {
		t.Errorf("ties go to %d, want 1", id)
	}
	rep := Sampling{RepeatLast: 2, RepeatPenalty: 2}
	if id := a.Sample([]float32{1, 3, 2.9, 2}, &rep, []int32{2, 1}, 0, nil); id != 3 {
		t.Errorf("repeat penalty: token %d", id)
	}
	if id := a.Sample([]float32{1, 3, 2.9, 2}, &Sampling{RepeatLast: 8, FrequencyPenalty: 0.6}, []int32{2, 1, 1}, 0, nil); id != 2 {
		t.Errorf("frequency penalty: token %d", id)
	}
}

// Ten thousand draws under many settings, hashed: the sampler's definition.
func TestSampleGolden(t *testing.T) {
	r := rand.New(rand.NewPCG(9, 10))
	h := sha256.New()
	var a Sampler
	for i := range 10000 {
		logits := make([]float32, 300)
		for j := range logits {
			logits[j] = float32(int(r.Uint32()%4096)-2048) / 128 // exact on every machine
		}
		s := Sampling{Temperature: float32(r.IntN(4)) / 2, TopK: r.IntN(3) * 20, TopP: float32(r.IntN(3)) / 2, MinP: float32(r.IntN(2)) / 16,
			RepeatLast: r.IntN(2) * 16, RepeatPenalty: 1 + float32(r.IntN(2))/4, PresencePenalty: float32(r.IntN(2)) / 2}
		s.Seed[3] = byte(i)
		history := make([]int32, 20)
		for j := range history {
			history[j] = int32(r.IntN(300))
		}
		binary.Write(h, binary.LittleEndian, a.Sample(logits, &s, history, uint64(i), nil))
	}
	const want = "490adce0d452b518894fbcb375b6d43ead7c01c01c56c6a5a2cc62e945c33240"
	if got := hex.EncodeToString(h.Sum(nil)); got != want {
		t.Errorf("hash of draws is %s", got)
	}
}
