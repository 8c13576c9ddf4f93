package tokenizer

import (
	"bytes"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/geistnet/geist/internal/gguf"
)

var trainTest = TrainOptions{
	Size: 300, Pre: "gpt-2", Control: []string{"<|user|>", "<|tale|>", "<|end|>"}, EOS: "<|end|>",
}

const foxText = "The fox ran. The fox and the hen, the hen and the fox! aaa aaaa aaaaa bbabab \"the hens\" don't."

// plainTrain is Train by counting all pairs anew for every merge.
func plainTrain(text string, merges int) []string {
	split := newSplitter([]string{patternGPT2})
	var words [][]string
	var p pieces
	begin := int32(0)
	for _, end := range split.split(text, &p) {
		var w []string
		for _, b := range []byte(text[begin:end]) {
			w = append(w, string(byteRune(b)))
		}
		words, begin = append(words, w), end
	}
	age := make(map[string]int)
	for b := range 256 {
		age[string(byteRune(byte(b)))] = len(age)
	}
	var out []string
	for len(age) < 256+merges {
		counts := make(map[[2]string]int)
		for _, w := range words {
			for i := 1; i < len(w); i++ {
				counts[[2]string{w[i-1], w[i]}]++
			}
		}
		var best [2]string
		for pair, n := range counts {
			m := counts[best]
			if n > m || n == m && (age[pair[0]] < age[best[0]] || pair[0] == best[0] && age[pair[1]] < age[best[1]]) {
				best = pair
			}
		}
		if counts[best] < 2 {
			break
		}
		if m := best[0] + " " + best[1]; !slices.Contains(out, m) {
			out = append(out, m)
		}
		text := best[0] + best[1]
		if _, ok := age[text]; !ok {
			age[text] = len(age)
		}
		for i, w := range words {
			var next []string
			for j := 0; j < len(w); j++ {
				if j+1 < len(w) && w[j] == best[0] && w[j+1] == best[1] {
					next = append(next, text)
					j++
				} else {
					next = append(next, w[j])
				}
			}
			words[i] = next
		}
	}
	return out
}

func TestTrainAgainstPlain(t *testing.T) {
	texts := []string{foxText}
	rng := rand.New(rand.NewPCG(1, 2))
	for range 30 {
		var b strings.Builder
		for range 400 {
			b.WriteByte("aaabbc d"[rng.IntN(8)])
		}
		texts = append(texts, b.String())
	}
	for _, text := range texts {
		o := trainTest
		o.Size = 256 + 3 + 60
		got, err := Train(slices.Values([]string{text}), o)
		if err != nil {
			t.Fatal(err)
		}
		if want := plainTrain(text, 60); !slices.Equal(got.merges, want) {
			t.Fatalf("%.40q: merges\n%q, want\n%q", text, got.merges, want)
		}
	}
}

func TestTrainOrderOfTexts(t *testing.T) {
	texts := strings.SplitAfter(foxText, " ")
	a, err := Train(slices.Values(texts), trainTest)
	if err != nil {
		t.Fatal(err)
	}
	slices.Reverse(texts)
	b, err := Train(slices.Values(texts), trainTest)
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(a.tokens, b.tokens) || !slices.Equal(a.merges, b.merges) {
		t.Errorf("another order of texts gives another vocabulary:\n%q\n%q", a.tokens[259:], b.tokens[259:])
	}
}

// TestTrainedFile writes a vocabulary into a model file and reads it.
func TestTrainedFile(t *testing.T) {
	trained, err := Train(slices.Values([]string{foxText}), trainTest)
	if err != nil {
		t.Fatal(err)
	}
	direct, err := New(trained)
	if err != nil {
		t.Fatal(err)
	}
	var file bytes.Buffer
	w, err := gguf.NewWriter(&file, trained.Metadata(), nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "vocabulary.gguf")
	if err := os.WriteFile(path, file.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	g, err := gguf.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer g.Close()
	read, err := New(g)
	if err != nil {
		t.Fatal(err)
	}
	if read.Hash() != direct.Hash() {
		t.Error("the vocabulary in a file is another than the trained one")
	}
	var every []byte
	for b := range 256 {
		every = append(every, byte(b))
	}
	for _, text := range []string{"", foxText, string(every), "ein Füchslein\n\n日本"} {
		if got := read.Decode(read.Encode(text, Options{}), false); got != text {
			t.Errorf("%q comes back as %q", text, got)
		}
	}
	if ids := read.Encode("the hen", Options{}); len(ids) > 3 {
		t.Errorf("%d tokens for \"the hen\"", len(ids))
	}
	want := []int32{0, 1, 2}
	if got := read.Encode("<|user|><|tale|><|end|>", Options{ParseSpecial: true, AddSpecial: true}); !slices.Equal(got, want) {
		t.Errorf("control tokens are %v, want %v", got, want)
	}
	for id, ends := range []bool{false, false, true} {
		if !read.IsControl(int32(id)) || read.IsEOG(int32(id)) != ends {
			t.Errorf("token %d: control %v, ends %v", id, read.IsControl(int32(id)), read.IsEOG(int32(id)))
		}
	}
	if got := read.Encode("<|end|>", Options{}); slices.Contains(got, 2) {
		t.Errorf("plain text becomes a control token: %v", got)
	}
}

func TestTrainRefuses(t *testing.T) {
	for name, change := range map[string]func(*TrainOptions){
		"no room":         func(o *TrainOptions) { o.Size = 258 },
		"pre":             func(o *TrainOptions) { o.Pre = "nothing" },
		"pre of runes":    func(o *TrainOptions) { o.Pre = "gemma4" },
		"empty control":   func(o *TrainOptions) { o.Control = []string{"", "<|end|>"} },
		"control twice":   func(o *TrainOptions) { o.Control = []string{"<|end|>", "<|end|>"} },
		"control is text": func(o *TrainOptions) { o.Control = []string{"aa", "<|end|>"} },
		"end is no token": func(o *TrainOptions) { o.EOS = "<|stop|>" },
	} {
		o := trainTest
		change(&o)
		if _, err := Train(slices.Values([]string{foxText}), o); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

// BenchmarkTrain takes the fairy tales beside the checkout.
func BenchmarkTrain(b *testing.B) {
	text, err := os.ReadFile("../../../shared/data/fairy-tales.txt")
	if err != nil {
		b.Skipf("../shared/data/fairy-tales.txt is not there: %v", err)
	}
	o := trainTest
	o.Size = 4096
	b.SetBytes(int64(len(text)))
	for b.Loop() {
		trained, err := Train(bytesLines(text), o)
		if err != nil {
			b.Fatal(err)
		}
		tok, err := New(trained)
		if err != nil {
			b.Fatal(err)
		}
		b.ReportMetric(float64(len(text))/float64(len(tok.Encode(string(text), Options{}))), "B/token")
	}
}

func bytesLines(text []byte) func(func(string) bool) {
	return func(yield func(string) bool) {
		for line := range bytes.Lines(text) {
			if !yield(string(line)) {
				return
			}
		}
	}
}
