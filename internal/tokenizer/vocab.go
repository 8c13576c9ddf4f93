package tokenizer

import (
	"fmt"
	"math"
	"strings"
)

// attr are the attributes of a token.
type attr uint16

const (
	attrUnknown attr = 1 << iota
	attrUnused
	attrNormal
	attrControl
	attrUser
	attrByte
	attrUndefined
	attrLstrip // drops the white space to its left
	attrRstrip // drops the white space to its right
)

// fileTypes are the attributes by the value in tokenizer.ggml.token_type.
func fileType(t int64) attr {
	switch t {
	case 1:
		return attrNormal
	case 2:
		return attrUnknown
	case 3:
		return attrControl
	case 4:
		return attrUser
	case 5:
		return attrUnused
	case 6:
		return attrByte
	}
	return attrUndefined
}

type token struct {
	text  string
	score float32
	attr  attr
	file  attr // as the file has it
}

// vocab is what a file says of its tokens. Ids that are not set are -1.
type vocab struct {
	tokens []token
	ids    map[string]int32

	bos, eos, eot, eom, unk, sep, pad, mask int32
	fimPad, fimRep, fimSep                  int32
	eog                                     map[int32]bool
}

// hidden tells the tokens that no plain text becomes, though they are spelt
// in it: control tokens and the unknown token.
func (v *vocab) hidden(id int32) bool {
	return v.tokens[id].file&(attrControl|attrUnknown) != 0
}

func readVocab(m Model) (*vocab, error) {
	texts, ok := m.Strings("tokenizer.ggml.tokens")
	if !ok || len(texts) == 0 {
		return nil, fmt.Errorf("tokenizer.ggml.tokens is missing")
	}
	if len(texts) > math.MaxInt32 {
		return nil, fmt.Errorf("tokenizer.ggml.tokens has %d tokens, more than %d", len(texts), math.MaxInt32)
	}
	scores, err := readScores(m, len(texts))
	if err != nil {
		return nil, err
	}
	types, ok := m.Ints("tokenizer.ggml.token_type")
	if ok && len(types) < len(texts) {
		return nil, fmt.Errorf("tokenizer.ggml.token_type has %d entries for %d tokens", len(types), len(texts))
	}
	v := &vocab{
		tokens: make([]token, len(texts)), ids: make(map[string]int32, len(texts)),
		bos: -1, eos: -1, eot: -1, eom: -1, unk: -1, sep: -1, pad: -1, mask: -1,
		fimPad: -1, fimRep: -1, fimSep: -1,
	}
	for i, text := range texts {
		if text == "" {
			text = fmt.Sprintf("[EMPTY_%d]", i)
		}
		if other, ok := v.ids[text]; ok {
			return nil, fmt.Errorf("tokens %d and %d are both %q", other, i, text)
		}
		v.ids[text] = int32(i)
		t := &v.tokens[i]
		t.text, t.attr = text, attrNormal
		if types != nil {
			t.attr = fileType(types[i])
		}
		t.file = t.attr
		if scores != nil {
			t.score = scores[i]
		}
	}
	return v, nil
}

func readScores(m Model, tokens int) ([]float32, error) {
	const key = "tokenizer.ggml.scores"
	scores, ok := m.Floats(key)
	if !ok {
		whole, ok := m.Ints(key)
		if !ok {
			return nil, nil
		}
		for _, s := range whole {
			scores = append(scores, float32(s))
		}
	}
	if len(scores) < tokens {
		return nil, fmt.Errorf("%s has %d entries for %d tokens", key, len(scores), tokens)
	}
	for i, s := range scores {
		if s != s {
			return nil, fmt.Errorf("%s: entry %d is not a number", key, i)
		}
	}
	return scores, nil
}

// readIDs sets the ids of special tokens. Those that v has before are
// defaults; one beyond the vocabulary is dropped.
func (v *vocab) readIDs(m Model) {
	for _, k := range []struct {
		name string
		id   *int32
	}{
		{"bos", &v.bos}, {"eos", &v.eos}, {"eot", &v.eot}, {"eom", &v.eom}, {"unknown", &v.unk},
		{"seperator", &v.sep}, {"padding", &v.pad}, {"mask", &v.mask},
		{"fim_pad", &v.fimPad}, {"fim_rep", &v.fimRep}, {"fim_sep", &v.fimSep},
	} {
		if int(*k.id) >= len(v.tokens) {
			*k.id = -1
		}
		if id, ok := m.Uint("tokenizer.ggml." + k.name + "_token_id"); ok && id < uint64(len(v.tokens)) {
			*k.id = int32(id)
		}
	}
}

// detect sets id, unless it is set, to the first of texts that is a token,
// which thereby is a control token.
func (v *vocab) detect(id *int32, texts ...string) {
	for _, text := range texts {
		if found, ok := v.ids[text]; ok && *id < 0 {
			*id = found
			v.tokens[found].attr |= attrControl
		}
	}
}

// findSpecial finds the special tokens that files leave unnamed by their
// texts, and all tokens that end a generation. The texts are those that
// llama.cpp knows. Where a vocabulary has several for one purpose the first
// of the list is taken.
func (v *vocab) findSpecial() {
	v.detect(&v.eot, "<|eot_id|>", "<|im_end|>", "<|end|>", "<end_of_turn>", "<|endoftext|>", "<|end_of_text|>",
		"<EOT>", "_<EOT>", "[EOT]", "<｜end▁of▁sentence｜>", "<end_of_utterance>")
	v.detect(&v.eom, "<|eom_id|>")
	var prefix, suffix, middle int32 = -1, -1, -1
	v.detect(&prefix, "<|fim_prefix|>", "<fim-prefix>", "<fim_prefix>", "<｜fim▁begin｜>", "<PRE>", "▁<PRE>",
		"<|code_prefix|>", "<|prefix|>")
	v.detect(&suffix, "<|fim_suffix|>", "<fim-suffix>", "<fim_suffix>", "<｜fim▁hole｜>", "<SUF>", "▁<SUF>",
		"<|code_suffix|>", "<|suffix|>")
	v.detect(&middle, "<|fim_middle|>", "<fim-middle>", "<fim_middle>", "<｜fim▁end｜>", "<MID>", "▁<MID>",
		"<|code_middle|>", "<|middle|>")
	v.detect(&v.fimPad, "<|fim_pad|>", "<fim-pad>", "<fim_pad>", "<PAD>", "[PAD]")
	v.detect(&v.fimRep, "<|fim_repo|>", "<|repo_name|>", "<fim-repo>", "<REPO>", "<reponame>")
	v.detect(&v.fimSep, "<|file_sep|>")

	v.eog = make(map[int32]bool)
	for _, text := range []string{
		"<|eot_id|>", "<|im_end|>", "<|end|>", "<|return|>", "<|call|>", "<|flush|>", "<|calls|>", "<end_of_turn>",
		"<|endoftext|>", "</s>", "<|eom_id|>", "<EOT>", "_<EOT>", "[EOT]", "[EOS]", "<|end_of_text|>",
		"<end_of_utterance>", "<eos>", "<turn|>", "<|tool_response>", "<｜end▁of▁sentence｜>", "[e~[",
	} {
		if id, ok := v.ids[text]; ok {
			v.eog[id] = true
			v.tokens[id].attr |= attrControl
		}
	}
	// The channels of the Harmony format are always shown.
	for _, text := range []string{"<|channel|>", "<|message|>", "<|start|>", "<|constrain|>"} {
		if id, ok := v.ids[text]; ok {
			v.tokens[id].attr = attrUser
		}
	}
	for _, id := range []int32{v.fimPad, v.fimRep, v.fimSep, v.eos, v.eot, v.eom} {
		if id >= 0 {
			v.eog[id] = true
		}
	}
	ends := func(texts ...string) bool {
		for _, text := range texts {
			if id, ok := v.ids[text]; ok && v.eog[id] {
				return true
			}
		}
		return false
	}
	// Where messages end with other tokens, <|end|> and </s> are part of them.
	calls := ends("<|call|>", "<|calls|>")
	if ends("<|end|>") && calls && (ends("<|return|>") || ends("<|flush|>")) {
		id := v.ids["<|end|>"]
		delete(v.eog, id)
		v.tokens[id].attr = attrUser
	}
	if ends("<|tool_response>") && ends("</s>") {
		id := v.ids["</s>"]
		delete(v.eog, id)
		v.tokens[id].attr = attrNormal
	}
}

// stripAttributes sets which special tokens drop the white space around them.
// Files do not say so; llama.cpp goes by names, and so do we.
func (v *vocab) stripAttributes(m Model) {
	pre, _ := m.String("tokenizer.ggml.pre")
	arch, _ := m.String("general.architecture")
	name, _ := m.String("general.name")
	name = strings.ToLower(name)
	has := func(s string, parts ...string) bool {
		for _, p := range parts {
			if strings.Contains(s, p) {
				return true
			}
		}
		return false
	}
	switch {
	case has(pre, "jina-v2-de", "jina-v2-es", "jina-v2-code") || has(arch, "nomic-bert-moe", "jina-bert-v3"):
		v.setAttr("<mask>", attrLstrip)
	case has(name, "phi-3", "phi3"):
		for i := range v.tokens {
			if t := &v.tokens[i]; t.attr&(attrControl|attrUser|attrUnknown) != 0 {
				switch t.text {
				case "<unk>", "<s>", "<|endoftext|>":
				default:
					t.attr |= attrRstrip
				}
			}
		}
		v.setAttr("</s>", attrRstrip)
	case has(name, "modern-bert"):
		v.setAttr("[MASK]", attrLstrip)
	}
}

func (v *vocab) setAttr(text string, a attr) {
	if id, ok := v.ids[text]; ok {
		v.tokens[id].attr |= a
	}
}
