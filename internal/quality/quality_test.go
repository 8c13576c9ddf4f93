// Package quality tests what the canonical arithmetic does to a model's
// answers: perplexity against a float64 pass, and a whole story against
// another implementation. It has no code of its own beside its tests.
package quality

import (
	"bytes"
	"io"
	"math"
	"os"
	"path/filepath"
	"strconv"
	"testing"

	"github.com/geistnet/geist/arith"
	"github.com/geistnet/geist/internal/gguf"
	"github.com/geistnet/geist/internal/kernel"
	"github.com/geistnet/geist/internal/model"
	"github.com/geistnet/geist/internal/quant"
	"github.com/geistnet/geist/internal/tokenizer"
)

const (
	shared = "../../../shared/data"
	window = 256 // tokens that see each other, the first of them the beginning of text
)

func openStories(t testing.TB) *gguf.File {
	t.Helper()
	file := filepath.Join(shared, "models", "stories260K.gguf")
	if _, err := os.Stat(file); err != nil {
		t.Skip("../shared/data/models/stories260K.gguf is not beside the checkout")
	}
	f, err := gguf.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

// requantised is the model with every matrix in format to whose rows are whole
// blocks; the others and all vectors stay as they are.
func requantised(t testing.TB, f *gguf.File, to arith.Format) *gguf.File {
	t.Helper()
	var infos []gguf.TensorInfo
	var data [][]byte
	kept := 0
	for _, x := range f.Tensors() {
		info, d := x.Info(), x.Data
		if x.Format != arith.F32 {
			t.Fatalf("%s is %v", x.Name, x.Format)
		}
		switch {
		case len(x.Dims) < 2:
		case x.Cols()%to.BlockLen() != 0:
			kept++
		default:
			v := make([]float32, x.Elems())
			arith.Dequantize(v, arith.F32, x.Data)
			info.Format, d = to, make([]byte, to.RowBytes(len(v)))
			if err := quant.Row(d, to, v); err != nil {
				t.Fatal(err)
			}
		}
		infos, data = append(infos, info), append(data, d)
	}
	if kept != 5 {
		t.Fatalf("%d matrices stay F32, want the 5 of ffn_down, which are 172 wide", kept)
	}
	var b bytes.Buffer
	w, err := gguf.NewWriter(&b, f.Meta(), infos)
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range data {
		if err := w.WriteTensor(d); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	g, err := gguf.Parse("stories260K in "+to.String(), b.Bytes())
	if err != nil {
		t.Fatal(err)
	}
	return g
}

// readWindows cuts the first so many bytes of the corpus into windows.
func readWindows(t testing.TB, f *gguf.File, size int) [][]int32 {
	t.Helper()
	c, err := os.Open(filepath.Join(shared, "fairy-tales.txt"))
	if err != nil {
		t.Skip("../shared/data/fairy-tales.txt is not beside the checkout")
	}
	defer c.Close()
	text := make([]byte, size)
	if _, err := io.ReadFull(c, text); err != nil {
		t.Fatal(err)
	}
	tok, err := tokenizer.New(f)
	if err != nil {
		t.Fatal(err)
	}
	bos, ok := tok.BOS()
	if !ok {
		t.Fatal("the model has no token for the beginning of a text")
	}
	var windows [][]int32
	for ids := tok.Encode(string(text), tokenizer.Options{}); len(ids) >= window-1; ids = ids[window-1:] {
		windows = append(windows, append([]int32{bos}, ids[:window-1]...))
	}
	if len(windows) == 0 {
		t.Fatalf("%d bytes do not fill a window", size)
	}
	return windows
}

// canonical measures geist's own forward pass.
func canonical(t testing.TB, f *gguf.File, windows [][]int32, base [][]float32) figures {
	t.Helper()
	team := kernel.NewTeam(2)
	defer team.Close()
	m, err := model.Load(f, model.Options{Path: kernel.Best(), Team: team})
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	s := m.NewState(team, window)
	c := &model.Cache{}
	for range (window + model.PagePositions - 1) / model.PagePositions {
		c.Pages = append(c.Pages, make([]byte, m.PageBytes()))
	}
	return measure(func(tokens []int32) [][]float64 {
		out, err := s.Forward([]model.Segment{{Cache: c, Tokens: tokens, Logits: model.All}})
		if err != nil {
			t.Error(err)
		}
		wide := make([][]float64, len(out))
		for i, l := range out {
			for _, v := range l {
				wide[i] = append(wide[i], float64(v))
			}
		}
		return wide
	}, 1, windows, base)
}

// textBytes is how much of the corpus is read: a part by default, or what
// GEIST_QUALITY_BYTES says.
func textBytes(t testing.TB, def int) int {
	t.Helper()
	v := os.Getenv("GEIST_QUALITY_BYTES")
	if v == "" {
		return def
	}
	n, err := strconv.Atoi(v)
	if err != nil || n < 1000 {
		t.Fatalf("GEIST_QUALITY_BYTES is %q, not a number of at least 1000", v)
	}
	return n
}

// formats are those measured: Q4_0 only where GEIST_QUALITY_BYTES asks for
// more than the usual.
func formats() []arith.Format {
	if os.Getenv("GEIST_QUALITY_BYTES") == "" {
		return []arith.Format{arith.Q8_0}
	}
	return []arith.Format{arith.Q8_0, arith.Q4_0}
}

// corpusBytes is the text that the figures below are for; GEIST_QUALITY_BYTES
// set to it makes TestReference compute them.
const corpusBytes = 200000

// Perplexities in float64 on corpusBytes, as TestReference gives them. In F32;
// with Q8_0 weights; with Q8_0 weights and activations in blocks of 32.
const (
	float64F32     = 23.0272548
	float64Weights = 23.0403137
	float64Q8      = 23.0610114
)

// The canonical arithmetic costs no quality beyond what the format costs:
// between F32 and Q8_0 the perplexity moves no more than it does in float64 when
// weights and activations are quantised as the format prescribes, and in F32 it
// is that of float64. docs/bench/quality.md has the figures.
func TestPerplexity(t *testing.T) {
	if testing.Short() {
		t.Skip("takes many seconds")
	}
	f := openStories(t)
	windows := readWindows(t, f, corpusBytes)
	f32 := canonical(t, f, windows, nil).ppl
	q8 := canonical(t, requantised(t, f, arith.Q8_0), windows, nil).ppl
	t.Logf("%d windows of %d tokens: F32 %.7f, Q8_0 %.7f", len(windows), window, f32, q8)
	t.Logf("Q8_0 − F32: %+.6f, in float64 %+.6f, in float64 with the weights alone %+.6f", q8-f32, float64Q8-float64F32, float64Weights-float64F32)
	if math.Abs(f32-float64F32) > 1e-4*float64F32 {
		t.Errorf("perplexity %.7f in F32, %.7f in float64", f32, float64F32)
	}
	if math.Abs(q8-f32) > math.Abs(float64Q8-float64F32) {
		t.Errorf("Q8_0 moves the perplexity by %+.6f, in float64 by %+.6f", q8-f32, float64Q8-float64F32)
	}
}

// The float64 pass beside the canonical one on a part of the corpus, or on as
// much as GEIST_QUALITY_BYTES says. On so little text the perplexities of Q8_0 differ by
// chance; the divergence from the exact distribution does not.
func TestReference(t *testing.T) {
	if testing.Short() {
		t.Skip("takes many seconds")
	}
	f := openStories(t)
	size := textBytes(t, 6000)
	windows := readWindows(t, f, size)
	exact := readReference(t, f)
	base := logProbs(func(w []int32) [][]float64 { return exact.logits(scheme{}, w) }, windows)
	show := func(name string, x figures) figures {
		t.Logf("%-46s perplexity %.7f, divergence from F32 in float64 %.4g nats", name, x.ppl, x.kl)
		return x
	}
	recorded := func(name string, x figures, want float64) {
		if size == corpusBytes && math.Abs(x.ppl-want) > 1e-6 {
			t.Errorf("%s: perplexity %.7f, recorded is %.7f", name, x.ppl, want)
		}
	}
	t.Logf("%d windows of %d tokens", len(windows), window)
	f64 := show("F32, float64", exact.measure(scheme{}, windows, base))
	recorded("F32", f64, float64F32)
	f32 := show("F32, canonical", canonical(t, f, windows, base))
	if math.Abs(f32.ppl-f64.ppl) > 1e-4*f64.ppl || f32.kl > 1e-8 {
		t.Errorf("F32: perplexity %.7f in canonical arithmetic, %.7f in float64; divergence %g", f32.ppl, f64.ppl, f32.kl)
	}
	for _, to := range formats() {
		g := requantised(t, f, to)
		r := readReference(t, g)
		name := to.String() + ", "
		weights := show(name+"float64, weights", r.measure(scheme{}, windows, base))
		both := show(name+"float64, weights, activations", r.measure(scheme{blocks: true}, windows, base))
		all := show(name+"float64, weights, activations, cache", r.measure(scheme{blocks: true, cache16: true}, windows, base))
		got := show(name+"canonical", canonical(t, g, windows, base))
		if to == arith.Q8_0 {
			recorded("Q8_0 weights", weights, float64Weights)
			recorded("Q8_0 weights and activations", both, float64Q8)
		}
		if got.kl > 1.05*all.kl {
			t.Errorf("%v: divergence %.4g nats in canonical arithmetic, %.4g in float64", to, got.kl, all.kl)
		}
	}
}
