// Package tokenizer turns text into the token ids of a model and back, as the
// metadata of GGUF files describe it. Three kinds of tokenizers are known, by
// the value of tokenizer.ggml.model:
//
//	llama   SentencePiece: characters are joined by the scores of tokens, with
//	        bytes (<0x0A>) for what is no token
//	gpt2    byte-level BPE: a pre-tokenizer (tokenizer.ggml.pre) splits the text
//	        into words, within which bytes are joined by tokenizer.ggml.merges
//	gemma4  BPE over characters, with "▁" for the space
//	bert    WordPiece: words are covered from the left by the longest tokens
//	no_vocab, none   ids without texts
//
// The results are those of llama.cpp, id for id, with these exceptions. Each
// byte that is not UTF-8 is a character of its own and is kept (llama.cpp's BPE
// makes it U+FFFD). Text that spells a control token never becomes one, unless
// Options ask for it. A byte-level symbol that is no token becomes the tokens
// of all its bytes. A file without bos_token_id has no BOS, unless its model is
// "llama" or "bert".
//
// The splits depend on Unicode properties. They are pinned to version 15.1 of
// the Unicode Character Database in this package, whatever version Go's
// tables have (Go 1.26: 15.0), and are part of Hash.
//
// Train makes new byte-level vocabularies.
//
// The package does not apply chat templates, and it does not clean up spaces
// before punctuation when it decodes.
package tokenizer

import (
	"errors"
	"fmt"
	"sync"
)

// Model is the metadata of a model; *gguf.File satisfies it. The getters
// report false for a key that is absent or of another type.
type Model interface {
	String(key string) (string, bool)
	Uint(key string) (uint64, bool)
	Bool(key string) (bool, bool)
	Strings(key string) ([]string, bool)
	Ints(key string) ([]int64, bool)
	Floats(key string) ([]float32, bool)
}

// Options say how Encode treats special tokens.
type Options struct {
	AddSpecial   bool // put the tokens around the text that the model wants: BOS, EOS, SEP
	ParseSpecial bool // control tokens spelt in the text become their ids
}

// ErrNoVocab says that a file has ids but no texts for them: its model is to
// be run on ids.
var ErrNoVocab = errors.New("the model has no vocabulary")

// maxText is the length of the longest text that Encode takes, in bytes:
// positions are 32 bits wide, and a space may become three bytes.
const maxText = 1<<29 - 1

// Tokenizer is safe for concurrent use. It does not keep the Model.
type Tokenizer struct {
	model   string // tokenizer.ggml.model
	vocab   *vocab
	special *specials
	spm     *spm // of the three
	bpe     *bpe // at most one
	wpm     *wpm // is set
	merges  []string

	addBOS, addEOS bool
	dropSpace      bool // the first space of a decoded text is not part of it
	size           int
	hash           [32]byte
	scratch        sync.Pool // of *scratch
}

// scratch is the memory of one Encode.
type scratch struct {
	pieces  pieces
	symbols symbols
	word    []byte
}

// New reads the tokenizer of a model.
func New(m Model) (*Tokenizer, error) {
	t := new(Tokenizer)
	t.scratch.New = func() any { return new(scratch) }
	var ok bool
	if t.model, ok = m.String("tokenizer.ggml.model"); !ok {
		return nil, errors.New("tokenizer.ggml.model is missing")
	}
	if t.model == "no_vocab" || t.model == "none" {
		arch, _ := m.String("general.architecture")
		if n, ok := m.Uint(arch + ".vocab_size"); ok && n < 1<<31 {
			t.size = int(n)
		}
		t.hash = t.computeHash()
		return t, nil
	}
	v, err := readVocab(m)
	if err != nil {
		return nil, fmt.Errorf("read tokenizer %q: %w", t.model, err)
	}
	t.vocab, t.size = v, len(v.tokens)
	var kind preKind
	prefix := false
	switch t.model {
	case "llama":
		v.bos, v.eos, v.unk = 1, 2, 0
		t.addBOS, prefix = true, true
	case "bert":
		v.bos, v.unk, v.sep, v.pad, v.mask = 101, 100, 102, 0, 103
		t.addBOS = true
	case "gpt2", "gemma4":
		if kind, err = readPre(m, t.model); err != nil {
			return nil, fmt.Errorf("read tokenizer %q: %w", t.model, err)
		}
		if t.merges, ok = m.Strings("tokenizer.ggml.merges"); !ok && kind.id != "kimi-k2" {
			return nil, fmt.Errorf("read tokenizer %q: tokenizer.ggml.merges is missing", t.model)
		}
		t.addBOS = kind.addBOS
	default:
		return nil, fmt.Errorf("tokenizer %q is not known; known are llama, gpt2, gemma4, bert, no_vocab", t.model)
	}
	v.readIDs(m)
	readBool(m, "tokenizer.ggml.add_space_prefix", &prefix)
	readBool(m, "tokenizer.ggml.add_bos_token", &t.addBOS)
	readBool(m, "tokenizer.ggml.add_eos_token", &t.addEOS)
	if kind.newlines {
		t.addBOS = true // whatever the file says
	}
	switch t.model {
	case "llama":
		t.spm, t.dropSpace = newSPM(v, prefix), prefix
	case "bert":
		lower := true
		readBool(m, "tokenizer.ggml.normalizer.lowercase", &lower)
		strip := lower
		readBool(m, "tokenizer.ggml.normalizer.strip_accents", &strip)
		t.wpm, t.dropSpace = newWPM(v, lower, strip), true
	default:
		t.bpe = newBPE(v, kind, t.merges)
	}
	v.findSpecial()
	v.stripAttributes(m)
	t.special = newSpecials(v)
	t.hash = t.computeHash()
	t.merges = nil
	return t, nil
}

func readPre(m Model, model string) (preKind, error) {
	name, _ := m.String("tokenizer.ggml.pre")
	switch {
	case model == "gemma4":
		name = "gemma4"
	case name == "":
		name = "default"
	}
	return findPre(name)
}

func readBool(m Model, key string, to *bool) {
	if b, ok := m.Bool(key); ok {
		*to = b
	}
}

// Err is ErrNoVocab for a model without a vocabulary, on which Encode and
// Decode give nothing; nil for all others.
func (t *Tokenizer) Err() error {
	if t.vocab == nil {
		return ErrNoVocab
	}
	return nil
}

// Encode gives the ids of text. Time and memory are in O(n log n). A text of
// 512 MiB or more gives nil, as does a model without a vocabulary.
func (t *Tokenizer) Encode(text string, opts Options) []int32 {
	if t.vocab == nil || len(text) > maxText {
		return nil
	}
	s := t.scratch.Get().(*scratch)
	ids := make([]int32, 0, len(text)/4+4)
	add := func(want bool, id int32) {
		if want && opts.AddSpecial && id >= 0 {
			ids = append(ids, id)
		}
	}
	add(t.addBOS || t.wpm != nil, t.vocab.bos)
	for _, f := range t.special.cut(text, opts.ParseSpecial) {
		switch {
		case f.id >= 0:
			ids = append(ids, f.id)
		case t.spm != nil:
			ids = t.spm.encode(ids, f.text, s)
		case t.bpe != nil:
			ids = t.bpe.encode(ids, f.text, s)
		default:
			ids = t.wpm.encode(ids, f.text, s)
		}
	}
	add(t.wpm != nil, t.vocab.sep)
	add(t.addEOS && t.wpm == nil, t.vocab.eos)
	if cap(s.pieces.syms) <= 1<<18 && cap(s.symbols.list) <= 1<<18 {
		t.scratch.Put(s) // what a very long text needed is not kept
	}
	return ids
}

// Size is the number of ids.
func (t *Tokenizer) Size() int { return t.size }

// BOS is the token that begins a text.
func (t *Tokenizer) BOS() (id int32, ok bool) { return t.id(func(v *vocab) int32 { return v.bos }) }

// EOS is the token that ends a text.
func (t *Tokenizer) EOS() (id int32, ok bool) { return t.id(func(v *vocab) int32 { return v.eos }) }

// EOT is the token that ends a turn of a conversation.
func (t *Tokenizer) EOT() (id int32, ok bool) { return t.id(func(v *vocab) int32 { return v.eot }) }

// EOM is the token that ends a message which a tool is to answer.
func (t *Tokenizer) EOM() (id int32, ok bool) { return t.id(func(v *vocab) int32 { return v.eom }) }

// PAD is the token that fills a batch.
func (t *Tokenizer) PAD() (id int32, ok bool) { return t.id(func(v *vocab) int32 { return v.pad }) }

// SEP is the token that separates two texts.
func (t *Tokenizer) SEP() (id int32, ok bool) { return t.id(func(v *vocab) int32 { return v.sep }) }

// UNK is the token for what is no token.
func (t *Tokenizer) UNK() (id int32, ok bool) { return t.id(func(v *vocab) int32 { return v.unk }) }

// MASK is the token that stands for one to guess.
func (t *Tokenizer) MASK() (id int32, ok bool) { return t.id(func(v *vocab) int32 { return v.mask }) }

func (t *Tokenizer) id(of func(*vocab) int32) (int32, bool) {
	if t.vocab == nil {
		return 0, false
	}
	if id := of(t.vocab); id >= 0 {
		return id, true
	}
	return 0, false
}

// AddsBOS tells whether AddSpecial puts BOS before a text.
func (t *Tokenizer) AddsBOS() bool {
	_, ok := t.BOS()
	return ok && (t.addBOS || t.wpm != nil)
}

// TokenID finds a token by its text as the file spells it, such as <|im_end|>.
func (t *Tokenizer) TokenID(text string) (id int32, ok bool) {
	if t.vocab == nil {
		return 0, false
	}
	id, ok = t.vocab.ids[text]
	return id, ok
}

// TokenText is the text of a token as the file spells it; "" if id is no token.
func (t *Tokenizer) TokenText(id int32) string {
	if !t.has(id) {
		return ""
	}
	return t.vocab.tokens[id].text
}

func (t *Tokenizer) has(id int32) bool {
	return t.vocab != nil && id >= 0 && int(id) < len(t.vocab.tokens)
}

// IsControl tells whether a token steers the model and is no text.
func (t *Tokenizer) IsControl(id int32) bool {
	return t.has(id) && t.vocab.tokens[id].attr&attrControl != 0
}

// IsEOG tells whether a token ends a generation.
func (t *Tokenizer) IsEOG(id int32) bool { return t.vocab != nil && t.vocab.eog[id] }
