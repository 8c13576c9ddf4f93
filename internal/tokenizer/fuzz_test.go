package tokenizer

import (
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
)

func FuzzBPE(f *testing.F) {
	f.Add("the the", uint8(0))
	f.Add("it's 1234 IT'S\r\n\t \u3000x\xff\u0301", uint8(3))
	f.Add("<s>abcabc ééé", uint8(12))
	kinds := preKinds()
	var toks []*Tokenizer
	for i, kind := range kinds {
		if kind.utf8 {
			continue
		}
		m := alphabetBPE(rand.New(rand.NewPCG(uint64(i), 1)), 50)
		m["tokenizer.ggml.pre"] = kind.names[0]
		toks = append(toks, mustNew(f, m))
	}
	f.Fuzz(func(t *testing.T, text string, which uint8) {
		tok := toks[int(which)%len(toks)]
		ids := tok.Encode(text, Options{AddSpecial: true, ParseSpecial: true})
		if got := tok.Decode(ids, false); got != text {
			t.Fatalf("%s: %q decodes to %q", tok.bpe.kind.id, text, got)
		}
		var p pieces
		ends := slices.Clone(tok.bpe.split.split(text, &p))
		if len(text) < 200 {
			if want := refSplit(tok.bpe.kind.stages, text); !slices.Equal(ends, want) {
				t.Fatalf("%s: %q splits at %d, want %d", tok.bpe.kind.id, text, ends, want)
			}
		}
	})
}

func FuzzSPM(f *testing.F) {
	f.Add("ab c")
	f.Add("é\xff\xe2\x96x▁")
	m := alphabetSPM(rand.New(rand.NewPCG(1, 1)), 50)
	tok := mustNew(f, m)
	f.Fuzz(func(t *testing.T, text string) {
		ids := tok.Encode(text, Options{})
		if got, want := tok.Decode(ids, false), strings.ReplaceAll(text, spaceMark, " "); got != want {
			t.Fatalf("%q decodes to %q", text, got)
		}
	})
}

// FuzzNew makes vocabularies of arbitrary texts, whose tokens must neither
// fail nor loop.
func FuzzNew(f *testing.F) {
	f.Add("a\nb\nab\n<s>", "a b\nab  c", "ab <s> b", uint8(0), []byte{1, 1, 1, 3})
	f.Add("<0x41>\n▁\n▁a\n\n<|end|>", "▁ a", " A\xff", uint8(1), []byte{6, 1, 1, 5, 4})
	f.Add("▁a\nb\n[UNK]", "", "a b c", uint8(2), []byte{})
	f.Add("▁a\n\n▁\n<0xFF>", "▁ a", "a\n\n", uint8(3), []byte{1, 2, 3, 6})
	f.Fuzz(func(t *testing.T, tokens, merges, text string, model uint8, types []byte) {
		m := meta{
			"tokenizer.ggml.model":  []string{"gpt2", "llama", "bert", "gemma4"}[model%4],
			"tokenizer.ggml.tokens": strings.Split(tokens, "\n"), "tokenizer.ggml.merges": strings.Split(merges, "\n"),
		}
		var list []int64
		var scores []float32
		for _, b := range types {
			list = append(list, int64(b%8))
			scores = append(scores, float32(int8(b)))
		}
		if len(list) > 0 {
			m["tokenizer.ggml.token_type"], m["tokenizer.ggml.scores"] = list, scores
		}
		tok, err := New(m)
		if err != nil {
			return
		}
		for _, opts := range []Options{{}, {AddSpecial: true, ParseSpecial: true}} {
			ids := tok.Encode(text, opts)
			s := tok.NewStream()
			var streamed strings.Builder
			for _, id := range ids {
				if id < 0 || int(id) >= tok.Size() {
					t.Fatalf("id %d of %d", id, tok.Size())
				}
				streamed.WriteString(s.Add(id))
			}
			streamed.WriteString(s.Flush())
			if want := string([]rune(tok.Decode(ids, false))); streamed.String() != want {
				t.Fatalf("%d: streamed %q, decoded %q", ids, streamed.String(), want)
			}
		}
	})
}
