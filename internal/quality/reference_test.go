package quality

import (
	"encoding/binary"
	"fmt"
	"math"
	"runtime"
	"sync"
	"testing"

	"github.com/geistnet/geist/arith"
	"github.com/geistnet/geist/internal/gguf"
)

// scheme says what the float64 pass quantises beside the weights, which are
// what the file holds.
type scheme struct {
	// blocks: inputs of quantised matrices get codes in [−127, 127] and one
	// scale per 32, as canonical arithmetic prescribes.
	blocks bool
	// scaleBits, if not 0, rounds those scales up to multiples of a unit of the
	// whole input, of which the largest scale is 2^scaleBits − 1, and the scales
	// of weight blocks to 16-bit multiples of a unit of their row, so that a
	// whole product is an integer (docs/design/0006-float-block-sums.md).
	scaleBits int
	// cache16: queries, keys, values and attention weights are rounded to
	// binary16, queries and keys also before they are rotated.
	cache16 bool
}

// matrix is a weight matrix taken apart into float64 values and, if it is
// quantised, codes and scales.
type matrix struct {
	rows, cols int
	w          []float64
	q          []int8    // nil: floats
	mantissa   []int64   // [row][block], scale of the block over unit[row]
	unit       []float64 // [row]
}

type refLayer struct {
	attnNorm, ffnNorm          []float64
	q, k, v, o, gate, up, down *matrix
}

// reference is a llama in float64 and by the ordinary formulas.
type reference struct {
	dim, heads, kvHeads, headDim int
	eps, base                    float64
	embed, output                *matrix
	norm                         []float64
	layers                       []refLayer
}

func readReference(t testing.TB, f *gguf.File) *reference {
	t.Helper()
	if f.Arch() != "llama" {
		t.Fatalf("%s is a %s, not a llama", f.Path, f.Arch())
	}
	num := func(key string) int {
		v, ok := f.Uint("llama." + key)
		if !ok {
			t.Fatalf("llama.%s is missing", key)
		}
		return int(v)
	}
	r := &reference{dim: num("embedding_length"), heads: num("attention.head_count"), kvHeads: num("attention.head_count_kv"), base: 10000}
	r.headDim = r.dim / r.heads
	if num("rope.dimension_count") != r.headDim {
		t.Fatal("a part of each head only is rotated")
	}
	r.eps, _ = f.Float("llama.attention.layer_norm_rms_epsilon")
	if b, ok := f.Float("llama.rope.freq_base"); ok {
		r.base = b
	}
	get := func(name string) *matrix { return readMatrix(t, f.Tensor(name)) }
	r.embed = get("token_embd.weight")
	r.output = r.embed
	if f.Tensor("output.weight") != nil {
		r.output = get("output.weight")
	}
	r.norm = get("output_norm.weight").w
	for i := range num("block_count") {
		p := fmt.Sprintf("blk.%d.", i)
		r.layers = append(r.layers, refLayer{
			attnNorm: get(p + "attn_norm.weight").w, ffnNorm: get(p + "ffn_norm.weight").w,
			q: get(p + "attn_q.weight"), k: get(p + "attn_k.weight"), v: get(p + "attn_v.weight"), o: get(p + "attn_output.weight"),
			gate: get(p + "ffn_gate.weight"), up: get(p + "ffn_up.weight"), down: get(p + "ffn_down.weight"),
		})
	}
	return r
}

func f16(b []byte) float64 {
	h := binary.LittleEndian.Uint16(b)
	e, m := int(h>>10&31), float64(h&1023)
	v := math.Ldexp(m, -24)
	if e > 0 {
		v = math.Ldexp(1024+m, e-25)
	}
	if h>>15 == 1 {
		v = -v
	}
	return v
}

func readMatrix(t testing.TB, x *gguf.Tensor) *matrix {
	t.Helper()
	if x == nil {
		t.Fatal("a tensor is missing")
		return nil
	}
	m := &matrix{rows: x.Rows(), cols: x.Cols()}
	n := m.rows * m.cols
	m.w = make([]float64, n)
	if x.Format == arith.F32 {
		for i := range m.w {
			m.w[i] = float64(math.Float32frombits(binary.LittleEndian.Uint32(x.Data[4*i:])))
		}
		return m
	}
	m.q = make([]int8, n)
	d := make([]float64, n/32)
	for b := range d {
		switch blk := x.Data[b*x.Format.BlockBytes():]; x.Format {
		case arith.Q8_0:
			d[b] = f16(blk)
			for i := range 32 {
				m.q[32*b+i] = int8(blk[2+i])
			}
		case arith.Q4_0:
			d[b] = f16(blk)
			for i := range 16 {
				m.q[32*b+i], m.q[32*b+i+16] = int8(blk[2+i]&15)-8, int8(blk[2+i]>>4)-8
			}
		default:
			t.Fatalf("%s is %v, which the reference does not read", x.Name, x.Format)
		}
		for i := range 32 {
			m.w[32*b+i] = d[b] * float64(m.q[32*b+i])
		}
	}
	m.integers(d)
	return m
}

// integers turns block scales into 16-bit multiples of a unit of their row.
func (m *matrix) integers(d []float64) {
	per := m.cols / 32
	m.unit, m.mantissa = make([]float64, m.rows), make([]int64, len(d))
	for r := range m.rows {
		row := d[r*per : (r+1)*per]
		top := 0.0
		for _, v := range row {
			top = max(top, math.Abs(v))
		}
		_, e := math.Frexp(top)
		m.unit[r] = math.Ldexp(1, e-16)
		for b, v := range row {
			m.mantissa[r*per+b] = int64(math.RoundToEven(v / m.unit[r]))
		}
	}
}

// input is what a matrix is multiplied with.
type input struct {
	x    []float64 // after quantisation, if any
	q    []int8
	n    []int64
	unit float64
}

// quantise makes the inputs that float matrices and quantised ones see.
func (s scheme) quantise(x []float64) (plain, quantised *input) {
	plain = &input{x: x}
	if !s.blocks || len(x)%32 != 0 {
		return plain, plain
	}
	d := make([]float64, len(x)/32)
	top := 0.0
	for b := range d {
		for _, v := range x[32*b : 32*b+32] {
			d[b] = max(d[b], math.Abs(v)/127)
		}
		top = max(top, d[b])
	}
	in := &input{x: make([]float64, len(x)), q: make([]int8, len(x)), n: make([]int64, len(d))}
	if s.scaleBits > 0 && top > 0 {
		in.unit = top / float64(int(1)<<s.scaleBits-1)
		for b := range d {
			in.n[b] = int64(math.Ceil(d[b] / in.unit * (1 - 1e-12)))
			d[b] = float64(in.n[b]) * in.unit
		}
	}
	for i, v := range x {
		if d[i/32] > 0 {
			c := math.RoundToEven(v / d[i/32])
			in.q[i], in.x[i] = int8(c), c*d[i/32]
		}
	}
	return plain, in
}

func (s scheme) mul(m *matrix, x []float64) []float64 {
	plain, in := s.quantise(x)
	if m.q == nil {
		in = plain
	}
	y := make([]float64, m.rows)
	if m.q != nil && s.scaleBits > 0 {
		per := m.cols / 32
		for r := range y {
			var sum int64
			for b := range per {
				var is int64
				w, c := m.q[r*m.cols+32*b:][:32], in.q[32*b:][:32]
				for i, v := range w {
					is += int64(v) * int64(c[i])
				}
				sum += is * m.mantissa[r*per+b] * in.n[b]
			}
			y[r] = float64(sum) * m.unit[r] * in.unit
		}
		return y
	}
	for r := range y {
		y[r] = dot(m.w[r*m.cols:(r+1)*m.cols], in.x)
	}
	return y
}

func dot(a, b []float64) float64 {
	var s, u float64
	b = b[:len(a)]
	i := 0
	for ; i+1 < len(a); i += 2 {
		s += a[i] * b[i]
		u += a[i+1] * b[i+1]
	}
	if i < len(a) {
		s += a[i] * b[i]
	}
	return s + u
}

func (s scheme) round(x float64) float64 {
	if !s.cache16 {
		return x
	}
	return float64(arith.RoundF16(float32(x)))
}

func rmsNorm(x, w []float64, eps float64) []float64 {
	r := 1 / math.Sqrt(dot(x, x)/float64(len(x))+eps)
	y := make([]float64, len(x))
	for i, v := range x {
		y[i] = v * r * w[i]
	}
	return y
}

func (r *reference) rotate(x []float64, pos int) {
	for h := 0; h < len(x); h += r.headDim {
		for i := 0; i < r.headDim; i += 2 {
			sin, cos := math.Sincos(float64(pos) * math.Pow(r.base, -float64(i)/float64(r.headDim)))
			a, b := x[h+i], x[h+i+1]
			x[h+i], x[h+i+1] = a*cos-b*sin, a*sin+b*cos
		}
	}
}

// logits runs the tokens of one window from position 0.
func (r *reference) logits(s scheme, tokens []int32) [][]float64 {
	keys, values := make([][][]float64, len(r.layers)), make([][][]float64, len(r.layers))
	var out [][]float64
	for pos, id := range tokens {
		x := append([]float64(nil), r.embed.w[int(id)*r.dim:][:r.dim]...)
		for l := range r.layers {
			y := &r.layers[l]
			h := rmsNorm(x, y.attnNorm, r.eps)
			q, k, v := s.mul(y.q, h), s.mul(y.k, h), s.mul(y.v, h)
			for i := range q {
				q[i] = s.round(q[i])
			}
			for i := range k {
				k[i] = s.round(k[i])
			}
			r.rotate(q, pos)
			r.rotate(k, pos)
			for i := range q {
				q[i] = s.round(q[i] / math.Sqrt(float64(r.headDim)))
			}
			for i := range k {
				k[i], v[i] = s.round(k[i]), s.round(v[i])
			}
			keys[l], values[l] = append(keys[l], k), append(values[l], v)
			add(x, s.mul(y.o, r.attend(s, q, keys[l], values[l])))
			h = rmsNorm(x, y.ffnNorm, r.eps)
			g, u := s.mul(y.gate, h), s.mul(y.up, h)
			for i, v := range g {
				g[i] = v / (1 + math.Exp(-v)) * u[i]
			}
			add(x, s.mul(y.down, g))
		}
		out = append(out, s.mul(r.output, rmsNorm(x, r.norm, r.eps)))
	}
	return out
}

func add(x, y []float64) {
	for i, v := range y {
		x[i] += v
	}
}

func (r *reference) attend(s scheme, q []float64, keys, values [][]float64) []float64 {
	out := make([]float64, len(q))
	p := make([]float64, len(keys))
	for h := range r.heads {
		at := h / (r.heads / r.kvHeads) * r.headDim
		top := math.Inf(-1)
		for t, k := range keys {
			p[t] = dot(q[h*r.headDim:][:r.headDim], k[at:])
			top = max(top, p[t])
		}
		sum := 0.0
		o := out[h*r.headDim:][:r.headDim]
		for t, v := range values {
			w := s.round(math.Exp(p[t] - top))
			sum += w
			for d := range o {
				o[d] += w * v[at+d]
			}
		}
		for d := range o {
			o[d] /= sum
		}
	}
	return out
}

// A run gives the logits after each token of a window.
type run func(tokens []int32) [][]float64

// figures of a run over many windows.
type figures struct {
	ppl float64
	// kl is the mean divergence, in nats a token, of the run's distribution from
	// that of the base run: Σ p·ln(p/q), p the base's.
	kl float64
}

// measure runs windows, each a token for the beginning of a text and what
// follows, in so many goroutines. base, if not nil, is what logProbs gave for
// the same windows.
func measure(r run, goroutines int, windows [][]int32, base [][]float32) figures {
	loss, kl := make([]float64, len(windows)), make([]float64, len(windows))
	each(goroutines, windows, func(i int, w []int32) {
		for t, l := range r(w[:len(w)-1]) {
			z := logSumExp(l)
			loss[i] += z - l[w[t+1]]
			if base != nil {
				for id, lp := range base[i][t*len(l) : (t+1)*len(l)] {
					kl[i] += math.Exp(float64(lp)) * (float64(lp) - (l[id] - z))
				}
			}
		}
	})
	var f figures
	n := 0
	for i, w := range windows {
		f.ppl += loss[i]
		f.kl += kl[i]
		n += len(w) - 1
	}
	return figures{math.Exp(f.ppl / float64(n)), f.kl / float64(n)}
}

// logProbs are the logarithms of a run's probabilities: of each window the
// vocabularies of all its tokens, one after the other.
func logProbs(r run, windows [][]int32) [][]float32 {
	out := make([][]float32, len(windows))
	each(runtime.GOMAXPROCS(0), windows, func(i int, w []int32) {
		for _, l := range r(w[:len(w)-1]) {
			z := logSumExp(l)
			for _, v := range l {
				out[i] = append(out[i], float32(v-z))
			}
		}
	})
	return out
}

func each(goroutines int, windows [][]int32, f func(i int, w []int32)) {
	next := make(chan int)
	var wg sync.WaitGroup
	for range goroutines {
		wg.Go(func() {
			for i := range next {
				f(i, windows[i])
			}
		})
	}
	for i := range windows {
		next <- i
	}
	close(next)
	wg.Wait()
}

func logSumExp(l []float64) float64 {
	top := math.Inf(-1)
	for _, v := range l {
		top = max(top, v)
	}
	sum := 0.0
	for _, v := range l {
		sum += math.Exp(v - top)
	}
	return math.Log(sum) + top
}

// measure runs the float64 pass over the windows.
func (r *reference) measure(s scheme, windows [][]int32, base [][]float32) figures {
	return measure(func(w []int32) [][]float64 { return r.logits(s, w) }, runtime.GOMAXPROCS(0), windows, base)
}
