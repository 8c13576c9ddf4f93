package tokenizer

import (
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"
	"testing"
)

// chatBPE is a byte-level vocabulary with special tokens of all types.
func chatBPE() meta {
	tokens := []string{"<|endoftext|>", "<|im_start|>", "<|im_end|>", "<tool>", "<tool>>", "", "th", "the", "Ġ", "Ġthe", "unknown"}
	types := []int64{3, 3, 3, 4, 4, 5, 1, 1, 1, 1, 2}
	for b := range 256 {
		if b != ' ' {
			tokens = append(tokens, string(byteRune(byte(b))))
			types = append(types, 1)
		}
	}
	return meta{
		"tokenizer.ggml.model": "gpt2", "tokenizer.ggml.pre": "qwen2",
		"tokenizer.ggml.tokens": tokens, "tokenizer.ggml.token_type": types,
		"tokenizer.ggml.merges":       []string{"t h", "th e", "Ġ the"},
		"tokenizer.ggml.bos_token_id": uint64(0), "tokenizer.ggml.eos_token_id": uint64(2),
		"tokenizer.ggml.padding_token_id": uint64(0), "tokenizer.ggml.add_bos_token": true,
		"tokenizer.ggml.add_eos_token": true,
	}
}

func mustNew(t testing.TB, m Model) *Tokenizer {
	t.Helper()
	tok, err := New(m)
	if err != nil {
		t.Fatal(err)
	}
	return tok
}

func TestSpecialTokens(t *testing.T) {
	tok := mustNew(t, chatBPE())
	for _, c := range []struct {
		text string
		opts Options
		want []int32
		dec  string // with special tokens spelt out
	}{
		{"", Options{}, []int32{}, ""},
		{"", Options{AddSpecial: true}, []int32{0, 2}, "<|endoftext|><|im_end|>"},
		{"the the", Options{AddSpecial: true}, []int32{0, 7, 9, 2}, "<|endoftext|>the the<|im_end|>"},
		{"<|im_end|>the", Options{ParseSpecial: true}, []int32{2, 7}, "<|im_end|>the"},
		{"the<tool>the", Options{}, []int32{7, 3, 7}, "the<tool>the"},
		{"the<tool>>the", Options{}, []int32{7, 4, 7}, "the<tool>>the"},
		{"unknown", Options{ParseSpecial: true}, []int32{10}, "unknown"},
	} {
		got := tok.Encode(c.text, c.opts)
		if !slices.Equal(got, c.want) {
			t.Errorf("%q %+v: got %d, want %d", c.text, c.opts, got, c.want)
		}
		if dec := tok.Decode(got, true); dec != c.dec {
			t.Errorf("%d: decodes to %q, want %q", got, dec, c.dec)
		}
	}
	plain := tok.Encode("<|im_end|>", Options{})
	if slices.ContainsFunc(plain, tok.IsControl) || tok.Decode(plain, false) != "<|im_end|>" {
		t.Errorf("text became control tokens: %d", plain)
	}
	if got := tok.Decode([]int32{0, 1, 7, 2, 10, -1, 9999}, false); got != "the" {
		t.Errorf("control tokens decode to %q", got)
	}
	type id = func() (int32, bool)
	for name, c := range map[string]struct {
		get  id
		want int32
	}{
		"BOS": {tok.BOS, 0}, "EOS": {tok.EOS, 2}, "EOT": {tok.EOT, 2}, "PAD": {tok.PAD, 0},
		"EOM": {tok.EOM, -1}, "SEP": {tok.SEP, -1}, "UNK": {tok.UNK, -1}, "MASK": {tok.MASK, -1},
	} {
		if got, ok := c.get(); ok != (c.want >= 0) || ok && got != c.want {
			t.Errorf("%s is %d, %v", name, got, ok)
		}
	}
	for id := range int32(12) {
		if got, want := tok.IsControl(id), id <= 2; got != want {
			t.Errorf("IsControl(%d) is %v", id, got)
		}
		if got, want := tok.IsEOG(id), id == 0 || id == 2; got != want {
			t.Errorf("IsEOG(%d) is %v", id, got)
		}
	}
	for id, want := range map[int32]string{0: "", 3: "<tool>", 5: "", 9: " the", 10: "", -1: "", math.MaxInt32: ""} {
		if got := tok.Piece(id); string(got) != want || (want == "") != (got == nil) {
			t.Errorf("Piece(%d) is %q", id, got)
		}
	}
	if id, ok := tok.TokenID("<tool>"); !ok || id != 3 || tok.TokenText(3) != "<tool>" || tok.TokenText(-1) != "" {
		t.Error("TokenID and TokenText disagree")
	}
	if tok.TokenText(5) != "[EMPTY_5]" || tok.Size() != 266 || !tok.AddsBOS() || tok.Err() != nil {
		t.Error("an empty token, the size, AddsBOS or Err is wrong")
	}
}

// TestEndOfGeneration has the vocabularies in which a token that usually ends
// a generation does not.
func TestEndOfGeneration(t *testing.T) {
	for _, c := range []struct {
		tokens []string
		eog    []string
	}{
		{[]string{"<|eot_id|>", "<|eom_id|>", "<|end_of_text|>"}, []string{"<|eot_id|>", "<|eom_id|>", "<|end_of_text|>"}},
		{[]string{"<|end|>", "<|start|>"}, []string{"<|end|>"}},
		{[]string{"<|end|>", "<|return|>", "<|call|>", "<|channel|>"}, []string{"<|return|>", "<|call|>"}},
		{[]string{"<|end|>", "<|flush|>", "<|calls|>"}, []string{"<|flush|>", "<|calls|>"}},
		{[]string{"<|end|>", "<|return|>"}, []string{"<|end|>", "<|return|>"}},
		{[]string{"</s>", "<eos>", "<|tool_response>"}, []string{"<eos>", "<|tool_response>"}},
		{[]string{"</s>", "<eos>"}, []string{"</s>", "<eos>"}},
		{[]string{"<|fim_pad|>", "<|file_sep|>", "<|repo_name|>", "<|fim_prefix|>"}, []string{"<|fim_pad|>", "<|file_sep|>", "<|repo_name|>"}},
	} {
		m := meta{
			"tokenizer.ggml.model": "gpt2", "tokenizer.ggml.tokens": c.tokens, "tokenizer.ggml.merges": []string{},
		}
		tok := mustNew(t, m)
		var got []string
		for id, text := range c.tokens {
			if tok.IsEOG(int32(id)) {
				got = append(got, text)
			}
		}
		slices.Sort(got)
		slices.Sort(c.eog)
		for _, text := range []string{"<|end|>", "</s>", "<|channel|>"} { // shown where they end nothing
			if id, ok := tok.TokenID(text); ok && tok.IsControl(id) != tok.IsEOG(id) {
				t.Errorf("%q: IsControl(%s) is %v", c.tokens, text, tok.IsControl(id))
			}
		}
		if !slices.Equal(got, c.eog) {
			t.Errorf("%q: %q end a generation, want %q", c.tokens, got, c.eog)
		}
	}
}

func TestStripAttributes(t *testing.T) {
	for _, c := range []struct {
		key, value, text string
		want             []int32
	}{
		{"general.name", "Phi-3-mini", "the <|im_end|> \n the", []int32{7, 8, 2, 7}},
		{"general.name", "Phi-3-mini", "the <|endoftext|> the", []int32{7, 8, 0, 9}},
		{"general.name", "other", "the <|im_end|> the", []int32{7, 8, 2, 9}},
		{"general.architecture", "jina-bert-v3", "the \t<mask> the", []int32{7, 5, 9}},
	} {
		m := chatBPE()
		m["tokenizer.ggml.tokens"].([]string)[5] = "<mask>"
		m["tokenizer.ggml.token_type"].([]int64)[5] = 3
		m[c.key] = c.value
		if got := mustNew(t, m).Encode(c.text, Options{ParseSpecial: true}); !slices.Equal(got, c.want) {
			t.Errorf("%s %s: %q gives %d, want %d", c.key, c.value, c.text, got, c.want)
		}
	}
}

// TestControlIsNotSpelt has vocabularies in which merging would lead from
// plain text to a control token.
func TestControlIsNotSpelt(t *testing.T) {
	spm := meta{
		"tokenizer.ggml.model": "llama", "tokenizer.ggml.add_space_prefix": false,
		"tokenizer.ggml.tokens":     []string{"<unk>", "<s>", "</s>", "<", "/", "s", ">", "</", "s>"},
		"tokenizer.ggml.token_type": []int64{2, 3, 3, 1, 1, 1, 1, 1, 1},
		"tokenizer.ggml.scores":     make([]float32, 9),
	}
	if got := mustNew(t, spm).Encode("</s>", Options{}); !slices.Equal(got, []int32{7, 8}) {
		t.Errorf("SentencePiece: %d", got)
	}
	bpe := meta{
		"tokenizer.ggml.model": "gpt2", "tokenizer.ggml.pre": "llama-bpe",
		"tokenizer.ggml.tokens":     []string{"ab", "a", "b"},
		"tokenizer.ggml.token_type": []int64{3, 1, 1}, "tokenizer.ggml.merges": []string{"a b"},
	}
	if got := mustNew(t, bpe).Encode("ab", Options{}); !slices.Equal(got, []int32{1, 2}) {
		t.Errorf("BPE: %d", got)
	}
	if got := mustNew(t, bpe).Encode("ab", Options{ParseSpecial: true}); !slices.Equal(got, []int32{0}) {
		t.Errorf("BPE, parsed: %d", got)
	}
}

func TestGemma4(t *testing.T) {
	tok := mustNew(t, meta{
		"tokenizer.ggml.model": "gemma4",
		"tokenizer.ggml.tokens": []string{
			"<bos>", "a", "b", "▁", "▁a", "▁ab", "\n", "\n\n", "<0xC3>", "<0xA9>", "é", "<0x0A>", "<0xFF>",
		},
		"tokenizer.ggml.token_type":   []int64{3, 1, 1, 1, 1, 1, 1, 1, 6, 6, 1, 6, 6},
		"tokenizer.ggml.merges":       []string{"▁ a", "▁a b"},
		"tokenizer.ggml.bos_token_id": uint64(0), "tokenizer.ggml.add_bos_token": false,
	})
	for text, want := range map[string][]int32{
		" ab a":   {0, 5, 4},
		"a\n\nb":  {0, 1, 7, 2},
		"\n\n\n":  {0, 6, 6, 6},
		"éb\xff":  {0, 10, 2, 12},
		"a\u00c3": {0, 1, 8}, // C3 83: there is no token for the second byte
	} {
		if got := tok.Encode(text, Options{AddSpecial: true}); !slices.Equal(got, want) {
			t.Errorf("%q: got %d, want %d", text, got, want)
		}
	}
	if got := tok.Decode([]int32{0, 5, 8, 9, 7, 10}, false); got != " abé\n\né" {
		t.Errorf("decodes to %q", got)
	}
}

func TestWordPiece(t *testing.T) {
	tokens := []string{"[PAD]", "[UNK]", "[CLS]", "[SEP]", "▁un", "aff", "able", "▁,", "▁中", "▁é", "▁e", "!", "▁!", "▁한"}
	m := meta{
		"tokenizer.ggml.model": "bert", "tokenizer.ggml.tokens": tokens,
		"tokenizer.ggml.token_type":         []int64{3, 2, 3, 3, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1},
		"tokenizer.ggml.bos_token_id":       uint64(2),
		"tokenizer.ggml.seperator_token_id": uint64(3), "tokenizer.ggml.unknown_token_id": uint64(1),
	}
	for _, c := range []struct {
		lower any
		text  string
		want  []int32
	}{
		{nil, "UnAffable,  unaffxble\t中un!", []int32{2, 4, 5, 6, 7, 1, 8, 4, 12, 3}},
		{nil, "É\u0301 \x00e\u200b\x07", []int32{2, 10, 10, 3}},
		{false, "é É", []int32{2, 9, 1, 3}},
		{nil, "", []int32{2, 3}},
		{nil, "\xff", []int32{2, 3}},
		{nil, "~$", []int32{2, 1, 1, 3}},
	} {
		if c.lower != nil {
			m["tokenizer.ggml.normalizer.lowercase"] = c.lower
		} else {
			delete(m, "tokenizer.ggml.normalizer.lowercase")
		}
		if got := mustNew(t, m).Encode(c.text, Options{AddSpecial: true}); !slices.Equal(got, c.want) {
			t.Errorf("%q: got %d, want %d", c.text, got, c.want)
		}
	}
	if got := mustNew(t, m).Decode([]int32{2, 4, 5, 6, 7, 8, 3}, false); got != "unaffable , 中" {
		t.Errorf("decodes to %q", got)
	}
}

func TestNoVocab(t *testing.T) {
	for _, model := range []string{"no_vocab", "none"} {
		tok := mustNew(t, meta{
			"tokenizer.ggml.model": model, "general.architecture": "x", "x.vocab_size": uint64(7),
		})
		if !errors.Is(tok.Err(), ErrNoVocab) || tok.Size() != 7 {
			t.Errorf("%s: Err %v, Size %d", model, tok.Err(), tok.Size())
		}
		_, bos := tok.BOS()
		if tok.Encode("a", Options{AddSpecial: true}) != nil || tok.Decode([]int32{1}, true) != "" || tok.Piece(1) != nil ||
			bos || tok.AddsBOS() || tok.IsEOG(1) || tok.IsControl(1) || tok.NewStream().Add(1) != "" {
			t.Errorf("%s: there is text without a vocabulary", model)
		}
		if _, ok := tok.TokenID("a"); ok {
			t.Errorf("%s: a token is found", model)
		}
		if _, _, _, err := Vectors(strings.NewReader("a"), strings.NewReader("1"), tok); !errors.Is(err, ErrNoVocab) {
			t.Errorf("%s: Vectors: %v", model, err)
		}
	}
}

func TestNewErrors(t *testing.T) {
	for _, c := range []struct {
		key   string
		value any
		want  string
	}{
		{"tokenizer.ggml.model", nil, "tokenizer.ggml.model is missing"},
		{"tokenizer.ggml.model", "t5", `"t5"`},
		{"tokenizer.ggml.pre", "qwen99", `"qwen99"`},
		{"tokenizer.ggml.tokens", nil, "tokenizer.ggml.tokens is missing"},
		{"tokenizer.ggml.tokens", []string{}, "tokenizer.ggml.tokens is missing"},
		{"tokenizer.ggml.tokens", []string{"a", "b", "a"}, "tokens 0 and 2"},
		{"tokenizer.ggml.token_type", []int64{1}, "1 entries for 266 tokens"},
		{"tokenizer.ggml.scores", []float32{1}, "1 entries for 266 tokens"},
		{"tokenizer.ggml.scores", []int64{1}, "1 entries for 266 tokens"},
		{"tokenizer.ggml.scores", append(make([]float32, 265), float32(math.NaN())), "entry 265"},
		{"tokenizer.ggml.merges", nil, "tokenizer.ggml.merges is missing"},
	} {
		m := chatBPE()
		if m[c.key] = c.value; c.value == nil {
			delete(m, c.key)
		}
		if _, err := New(m); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s = %v: error %v, want %q", c.key, c.value, err, c.want)
		}
	}
	// What is odd but harmless.
	m := chatBPE()
	m["tokenizer.ggml.merges"] = []string{"", " ", "a", "  ", "t h", "x  y", "t h"}
	m["tokenizer.ggml.eos_token_id"] = uint64(1 << 40)
	m["tokenizer.ggml.token_type"] = append(m["tokenizer.ggml.token_type"].([]int64), 77)
	tok := mustNew(t, m)
	if _, ok := tok.EOS(); ok {
		t.Error("an id beyond the vocabulary is taken")
	}
	if got := tok.Encode("th", Options{}); !slices.Equal(got, []int32{6}) {
		t.Errorf("th gives %d", got)
	}
}

// TestHash alters everything the hash covers, one at a time.
func TestHash(t *testing.T) {
	spm := func() meta {
		return meta{
			"tokenizer.ggml.model": "llama", "tokenizer.ggml.tokens": []string{"<unk>", "<s>", "</s>", "a", "b"},
			"tokenizer.ggml.token_type": []int64{2, 3, 3, 1, 1}, "tokenizer.ggml.scores": []float32{0, 0, 0, 1, 2},
		}
	}
	wpm := func() meta {
		return meta{"tokenizer.ggml.model": "bert", "tokenizer.ggml.tokens": []string{"a", "b"}}
	}
	seen := make(map[[32]byte]string)
	check := func(name string, m meta) {
		t.Helper()
		tok := mustNew(t, m)
		if again := mustNew(t, maps.Clone(m)); again.Hash() != tok.Hash() {
			t.Errorf("%s: the hash is not stable", name)
		}
		if other, ok := seen[tok.Hash()]; ok {
			t.Errorf("%s and %s have one hash", name, other)
		}
		seen[tok.Hash()] = name
	}
	with := func(m meta, key string, value any) meta {
		m[key] = value
		return m
	}
	check("bpe", chatBPE())
	check("spm", spm())
	check("wpm", wpm())
	check("none", meta{"tokenizer.ggml.model": "none"})
	for _, flag := range []string{"add_bos_token", "add_eos_token"} {
		check("bpe "+flag, with(chatBPE(), "tokenizer.ggml."+flag, false))
	}
	for _, id := range []string{"bos", "eos", "eot", "eom", "unknown", "seperator", "padding", "mask"} {
		check("bpe "+id, with(chatBPE(), "tokenizer.ggml."+id+"_token_id", uint64(7)))
	}
	check("bpe pre", with(chatBPE(), "tokenizer.ggml.pre", "gpt-2"))
	check("bpe merges", with(chatBPE(), "tokenizer.ggml.merges", []string{"t h", "Ġ the", "th e"}))
	check("bpe fewer merges", with(chatBPE(), "tokenizer.ggml.merges", []string{"t h"}))
	check("bpe rstrip", with(chatBPE(), "general.name", "phi-3"))
	for i := range 11 {
		m := chatBPE()
		m["tokenizer.ggml.tokens"].([]string)[i] += "\x00"
		check(fmt.Sprint("bpe token ", i), m)
		m = chatBPE()
		m["tokenizer.ggml.token_type"].([]int64)[i] = 6
		check(fmt.Sprint("bpe type ", i), m)
	}
	check("spm prefix", with(spm(), "tokenizer.ggml.add_space_prefix", false))
	check("spm score", with(spm(), "tokenizer.ggml.scores", []float32{0, 0, 0, 2, 1}))
	check("wpm lowercase", with(wpm(), "tokenizer.ggml.normalizer.lowercase", false))
	check("wpm accents", with(wpm(), "tokenizer.ggml.normalizer.strip_accents", false))

	same := mustNew(t, with(chatBPE(), "tokenizer.ggml.pre", "hunyuan"))
	if seen[same.Hash()] != "bpe" {
		t.Error("qwen2 and hunyuan split alike but have two hashes")
	}
	// Whoever changes this value changes the identity of every model.
	const want = "64cfc26c0c54b254dd68736dc41f15413e21637a62e7a76dc8c294cf861ea092"
	if got := fmt.Sprintf("%x", mustNew(t, spm()).Hash()); got != want {
		t.Errorf("the hash is %s, want %s", got, want)
	}
}

func TestVectorsFaults(t *testing.T) {
	tok := mustNew(t, chatBPE())
	for _, c := range []struct {
		inp, out       string
		passed, failed int
		err            string
	}{
		{"the" + vectorEnd + " the" + vectorEnd, " 7\n 9\n", 2, 0, ""},
		{"the" + vectorEnd + " the", "7\n9", 2, 0, ""},
		{"the" + vectorEnd + " the" + vectorEnd, "7\n7\n", 1, 1, ""},
		{vectorEnd + "the", "\n7\n", 2, 0, ""},
		{"", "", 0, 0, ""},
		{"the" + vectorEnd + " the" + vectorEnd, "7\n", 1, 0, "2 texts but 1 lines"},
		{"the" + vectorEnd, "7\n9\n", 1, 0, "more than 1 lines"},
		{"the" + vectorEnd, "x\n", 0, 0, "line 1"},
		{"the" + vectorEnd, "99999999999\n", 0, 0, "line 1"},
	} {
		passed, failed, failures, err := Vectors(strings.NewReader(c.inp), strings.NewReader(c.out), tok)
		if passed != c.passed || failed != c.failed || len(failures) != failed {
			t.Errorf("%q %q: %d passed, %d failed, %q", c.inp, c.out, passed, failed, failures)
		}
		if (err == nil) != (c.err == "") || err != nil && !strings.Contains(err.Error(), c.err) {
			t.Errorf("%q %q: error %v, want %q", c.inp, c.out, err, c.err)
		}
	}
}
