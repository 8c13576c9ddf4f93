package arith

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"flag"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "write docs/spec/vectors/arith.json")

// vectorsFile holds inputs and results for those who implement the
// specification anew. Numbers are bit patterns in hex: 8 digits for binary32,
// 16 for binary64 and 64-bit integers, 4 for 16-bit floats; lists have spaces
// between.
const vectorsFile = "../docs/spec/vectors/arith.json"

func h32(x ...float32) string {
	var s []string
	for _, v := range x {
		s = append(s, fmt.Sprintf("%08x", math.Float32bits(v)))
	}
	return strings.Join(s, " ")
}

func h64(x ...float64) string {
	var s []string
	for _, v := range x {
		s = append(s, fmt.Sprintf("%016x", math.Float64bits(v)))
	}
	return strings.Join(s, " ")
}

func u64(x ...uint64) string {
	var s []string
	for _, v := range x {
		s = append(s, fmt.Sprintf("%016x", v))
	}
	return strings.Join(s, " ")
}

// exactly makes numbers that are the same on every machine: 12-bit integers
// divided by a power of two.
type exactly struct{ *rand.Rand }

func (r exactly) number(shift int) float32 {
	return float32(int(r.Uint32()%4096)-2048) / float32(int(1)<<shift)
}

func (r exactly) numbers(n, shift int) []float32 {
	x := make([]float32, n)
	for i := range x {
		x[i] = r.number(shift)
	}
	return x
}

func (r exactly) rows(n, cols, shift int) [][]float32 {
	x := make([][]float32, n)
	for i := range x {
		x[i] = r.numbers(cols, shift)
		for d := range x[i] {
			x[i][d] = RoundF16(x[i][d])
		}
	}
	return x
}

func flat(x [][]float32) string {
	var all []float32
	for _, v := range x {
		all = append(all, v...)
	}
	return h32(all...)
}

// fields is a vector: names and values. encoding/json sorts the names.
type fields map[string]any

func TestVectors(t *testing.T) {
	r := exactly{rand.New(rand.NewPCG(20261120, 1))}
	v := fields{"version": Version}
	v["2.2 conversions"] = conversionVectors()
	v["2.3 sums"] = sumVectors(r)
	v["3 functions"] = functionVectors(r)
	v["3.5 rmsnorm"] = normVectors(r)
	v["4.1 activations"] = activationVectors(r)
	v["4.2 products"] = productVectors(r)
	v["5 rope"] = ropeVectors()
	v["5.4 pairs"] = pairVectors(r)
	v["5.5 logscale"] = logScaleVectors()
	v["6 attention"] = attentionVectors(r)
	v["7.2 route"] = routeVectors(r)
	v["8 sampling"] = sampleVectors(r)
	v["8.4 logarithm"] = logVectors(r)
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetIndent("", " ")
	if err := e.Encode(v); err != nil {
		t.Fatal(err)
	}
	if *update {
		if err := os.WriteFile(vectorsFile, b.Bytes(), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(vectorsFile)
	if err != nil {
		t.Fatal(err)
	}
	got, old := strings.Split(b.String(), "\n"), strings.Split(string(want), "\n")
	for i := range max(len(got), len(old)) {
		if i >= len(got) || i >= len(old) || got[i] != old[i] {
			t.Fatalf("%s differs from line %d; a change of results is a new version of the arithmetic", vectorsFile, i+1)
		}
	}
}

func conversionVectors() fields {
	var narrow, wide []fields
	for _, b := range []uint32{0, 0x80000000, 0x00000001, 0x33000000, 0x33000001, 0x33800000, 0x33c00000, 0x387fdfff, 0x387fe000, 0x38800000,
		0x3f800000, 0x3f801000, 0x3f803000, 0x3f803001, 0x3f808000, 0x3f818000, 0x3f808001, 0x477fe000, 0x477fefff, 0x477ff000, 0xc77ff000, 0x7f7fffff, 0x7f800000, 0xbfc90fdb} {
		f := math.Float32frombits(b)
		narrow = append(narrow, fields{"f32": h32(f), "f16": fmt.Sprintf("%04x", F32ToF16(f)), "bf16": fmt.Sprintf("%04x", F32ToBF16(f))})
	}
	for _, h := range []uint16{0, 0x8000, 1, 0x03ff, 0x0400, 0x3c00, 0x3555, 0x7bff, 0xfbff, 0x7c00} {
		wide = append(wide, fields{"bits": fmt.Sprintf("%04x", h), "f16": h32(F16ToF32(h)), "bf16": h32(BF16ToF32(h))})
	}
	return fields{"narrow": narrow, "widen": wide}
}

func sumVectors(r exactly) (out []fields) {
	for _, n := range []int{1, 5, 16, 17, 40, 100} {
		x := r.numbers(n, 3+n%7)
		for i := range x {
			x[i] /= 3 // so that sums are rounded
		}
		out = append(out, fields{"x": h32(x...), "sum": h32(Sum(x)), "squares": h32(SumSquares(x))})
	}
	return out
}

func functionVectors(r exactly) fields {
	bits := func(b uint32) float32 { return math.Float32frombits(b) }
	xs := []float32{0, bits(0x80000000), 1, -1, 0.5, -0.34657359, 0.34657359, 0.3465736, 0.625, bits(0x3f1fffff), -0.625, 10, -10, 30, 87, -87, -87.5, 88, 88.5, -1000, 1000, 1e-30, bits(1)}
	for i := range 24 {
		xs = append(xs, r.number(7+i%5)/3)
	}
	var exp, tanh, cap, silu, gelu []fields
	for i, x := range xs {
		exp = append(exp, fields{"x": h32(x), "y": h32(Exp(x))})
		tanh = append(tanh, fields{"x": h32(x), "y": h32(Tanh(x))})
		c := []float32{50, 30, 1.5}[i%3]
		cap = append(cap, fields{"x": h32(x), "c": h32(c), "y": h32(SoftCap(x, c))})
		u := r.number(9) / 3
		silu = append(silu, fields{"g": h32(x), "u": h32(u), "y": h32(SiLUMul(x, u))})
		gelu = append(gelu, fields{"g": h32(x), "u": h32(u), "y": h32(GELUMul(x, u))})
	}
	return fields{"3.1 exp": exp, "3.2 silu": silu, "3.3 gelu": gelu, "3.4 tanh": tanh, "3.4 softcap": cap}
}

func normVectors(r exactly) (out []fields) {
	for i, n := range []int{4, 24, 64} {
		x, w := r.numbers(n, 8), r.numbers(n, 10)
		eps := []float32{1e-5, 1e-6, 0}[i]
		y := make([]float32, n)
		RMSNorm(y, x, w, eps)
		out = append(out, fields{"x": h32(x...), "w": h32(w...), "eps": h32(eps), "y": h32(y...)})
	}
	return out
}

func activationVectors(r exactly) (out []fields) {
	for i, block := range []int{32, 32, 32, 256} {
		x := r.numbers(max(64, block), 9)
		switch i {
		case 1: // the limit: just at it, and just below
			for j := range x {
				x[j] = float32(j%32) * 0x1p-125 / 31
			}
			x[7], x[40] = -0x1p-100, math.Float32frombits(math.Float32bits(0x1p-100)-1)
		case 2: // ties
			for j := range x {
				x[j] = float32(j%32) - 15.5
			}
			x[3], x[35] = 127, -254
		}
		a, _ := Quantize(x, block)
		codes := make([]byte, len(a.Q))
		for j, q := range a.Q {
			codes[j] = byte(q)
		}
		out = append(out, fields{"block": block, "x": h32(x...), "codes": hex.EncodeToString(codes), "scales": h32(a.D...)})
	}
	return out
}

// weights are blocks of random codes with scales that are finite.
func weights(r exactly, f Format, n int) []byte {
	b := make([]byte, f.RowBytes(n))
	for i := range b {
		b[i] = byte(r.Uint32())
	}
	size := f.BlockBytes()
	at := map[Format][]int{Q4_1: {0, 2}, Q5_1: {0, 2}, Q2_K: {80, 82}, Q3_K: {108}, Q4_K: {0, 2}, Q5_K: {0, 2}, Q6_K: {208}}[f]
	if at == nil {
		at = []int{0}
	}
	for o := 0; o < len(b); o += size {
		switch f {
		case F32:
			binary.LittleEndian.PutUint32(b[o:], math.Float32bits(r.number(11)/3))
		case BF16:
			binary.LittleEndian.PutUint16(b[o:], F32ToBF16(r.number(11)/3))
		default:
			for _, d := range at {
				binary.LittleEndian.PutUint16(b[o+d:], F32ToF16(r.number(16)/3))
			}
		}
	}
	return b
}

func productVectors(r exactly) fields {
	x := r.numbers(512, 9)
	for i := range x[256:] {
		x[256+i] /= 7
	}
	var rows []fields
	for _, f := range Formats() {
		n := 64
		if f.BlockLen() == 256 {
			n = 512
		}
		row := weights(r, f, n)
		values := make([]float32, n)
		Dequantize(values, f, row)
		a, _ := Quantize(x[:n], f.ActBlock())
		rows = append(rows, fields{"format": f.String(), "type": uint32(f), "row": hex.EncodeToString(row),
			"dot": h32(Dot(f, row, a)), "values": h32(values[:max(32, f.BlockLen())]...)})
	}
	return fields{"x": h32(x...), "rows": rows}
}

func ropeVectors() (out []fields) {
	factors := []float32{1, 1.25, 2.5, 8, 8, 8, 8, 8}
	for _, c := range []struct {
		base float64
		dims int
		s    RopeScaling
	}{
		{10000, 16, RopeScaling{Linear: 1, Magnitude: 1}},
		{500000, 16, RopeScaling{Linear: 1, Magnitude: 1, Factors: factors}},
		{1000000, 16, RopeScaling{Linear: 8, Magnitude: 1}},
		{10000, 32, RopeScaling{Linear: 4, Magnitude: float64(LogScale(4, 0.1)), YaRN: true, YaRNOrig: 4096, YaRNFast: 32, YaRNSlow: 1, YaRNExtent: 1}},
	} {
		rope := NewRope(c.base, c.dims, c.s)
		f := fields{"base": h64(c.base), "dims": c.dims, "linear": h64(c.s.Linear), "factors": h32(c.s.Factors...), "magnitude": h32(rope.Magnitude), "turns": u64(rope.Turn...)}
		if c.s.YaRN {
			f["yarn"] = fields{"original": h64(c.s.YaRNOrig), "fast": h64(c.s.YaRNFast), "slow": h64(c.s.YaRNSlow), "extent": h64(c.s.YaRNExtent)}
		}
		var at []fields
		for _, pos := range []int{0, 1, 63, 4095, 1000000} {
			cos, sin := make([]float32, c.dims/2), make([]float32, c.dims/2)
			rope.CosSin(pos, cos, sin)
			at = append(at, fields{"position": pos, "cos": h32(cos...), "sin": h32(sin...)})
		}
		f["at"] = at
		out = append(out, f)
	}
	var eighths []fields
	for _, turn := range []uint64{0, 1, 1 << 61, 1<<61 - 1, 1 << 62, 1<<62 + 1, 3 << 61, 1 << 63, 3 << 62, 7 << 61, 1<<64 - 1, 0x123456789abcdef0} {
		c, s := cosSinTurn(turn)
		eighths = append(eighths, fields{"turn": u64(turn), "cos": h32(c), "sin": h32(s)})
	}
	return append(out, fields{"5.3 sines": eighths})
}

func pairVectors(r exactly) (out []fields) {
	rope := NewRope(10000, 8, RopeScaling{Linear: 1, Magnitude: 1})
	cos, sin := make([]float32, 4), make([]float32, 4)
	rope.CosSin(11, cos, sin)
	for _, neox := range []bool{false, true} {
		x := r.numbers(10, 8)
		y := append([]float32(nil), x...)
		RotatePairs(y, cos, sin, neox)
		out = append(out, fields{"halves": neox, "x": h32(x...), "cos": h32(cos...), "sin": h32(sin...), "y": h32(y...)})
	}
	return out
}

func logScaleVectors() (out []fields) {
	for _, c := range [][2]float64{{1, 0.1}, {4, 0.1}, {40, 0.1}, {40, 0.1 * 0.707}, {2, 0.1}, {7, 0.1}} {
		out = append(out, fields{"x": h64(c[0]), "mul": h64(c[1]), "y": h32(LogScale(c[0], c[1]))})
	}
	return out
}

func attentionVectors(r exactly) (out []fields) {
	for i, n := range []int{1, 20, 70, 9} {
		kv, first, softcap := KV(i%2), []int{0, 0, 30, 60}[i], []float32{0, 0, 0, 5}[i]
		q := r.rows(1, 4, 9)[0]
		keys, values := r.rows(n, 4, 9), r.rows(n, 4, 9)
		f := fields{"cache": []string{"F16", "F32"}[kv], "first": first, "softcap": h32(softcap), "q": h32(q...), "keys": flat(keys), "values": flat(values)}
		s := Scores(q, keys, softcap)
		p := Weights(kv, s)
		f["scores"], f["weights"], f["sum"] = h32(s...), h32(p...), h32(WeightSum(p, first))
		f["out"] = h32(Attention(kv, q, keys, values, first, softcap)...)
		out = append(out, f)
	}
	return out
}

func routeVectors(r exactly) (out []fields) {
	for i := range 4 {
		logits := r.numbers(20, 9)
		logits[4] = logits[11]
		k, normalise, scale := []int{2, 4, 8, 20}[i], i%2 == 0, []float32{1, 1, 2.5, 0.5}[i]
		e, w := Route(logits, k, normalise, scale)
		out = append(out, fields{"logits": h32(logits...), "k": k, "normalise": normalise, "scale": h32(scale), "experts": e, "weights": h32(w...)})
	}
	return out
}

func sampleVectors(r exactly) fields {
	var random, draws []fields
	for i := range 4 {
		var seed [32]byte
		for j := range seed {
			seed[j] = byte(i * (j + 1))
		}
		index := uint64(i) * 0x0123456789
		random = append(random, fields{"seed": hex.EncodeToString(seed[:]), "index": index, "number": u64(Random(seed, index))})
	}
	var a Sampler
	for i := range 24 {
		logits := r.numbers(40, 9)
		s := Sampling{Temperature: []float32{0, 0.7, 1, 1.5}[i%4], TopK: []int{0, 0, 5}[i%3], TopP: []float32{0, 0.9}[i/2%2], MinP: []float32{0, 0.05}[i/4%2]}
		f := fields{"logits": h32(logits...), "temperature": h32(s.Temperature), "top_k": s.TopK, "top_p": h32(s.TopP), "min_p": h32(s.MinP), "index": i}
		history := []int32{3, 7, 7, 11, 3, 39}
		var allowed []uint64
		if i%5 == 1 {
			s.RepeatLast, s.RepeatPenalty, s.FrequencyPenalty, s.PresencePenalty = 5, 1.25, 0.5, 0.25
			f["history"], f["repeat_last"] = history, s.RepeatLast
			f["repeat_penalty"], f["frequency_penalty"], f["presence_penalty"] = h32(s.RepeatPenalty), h32(s.FrequencyPenalty), h32(s.PresencePenalty)
		}
		if i%7 == 2 {
			s.Bias = map[int32]float32{5: 3.5}
			f["bias"] = fields{"5": h32(3.5)}
		}
		if i%6 == 3 {
			allowed = []uint64{0xf0f0f0f0f0}
			f["allowed"] = u64(allowed...)
		}
		s.Seed[0] = 42
		f["seed"] = hex.EncodeToString(s.Seed[:])
		f["token"] = a.Sample(append([]float32(nil), logits...), &s, history, uint64(i), allowed)
		draws = append(draws, f)
	}
	return fields{"8.3 random": random, "draws": draws}
}

func logVectors(r exactly) fields {
	var logs, probs []fields
	for _, x := range []float64{1, 2, 0.5, math.Sqrt2 / 2, 3, 10, 1e10, 0x1p-126, 32000, 1.0000001} {
		logs = append(logs, fields{"x": h64(x), "y": h64(Log(x))})
	}
	for i := range 3 {
		l := r.numbers(33, 8)
		probs = append(probs, fields{"logits": h32(l...), "id": 7 * i, "logprob": h64(LogProb(l, int32(7*i)))})
	}
	return fields{"log": logs, "logprob": probs}
}
