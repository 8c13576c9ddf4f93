package tokenizer

import (
	"container/heap"
	"fmt"
	"iter"
	"math"

	"github.com/geistnet/geist/internal/gguf"
)

// TrainOptions say what vocabulary Train makes.
type TrainOptions struct {
	Size    int      // ids, of which 256 are bytes and len(Control) are control tokens
	Pre     string   // value of tokenizer.ggml.pre; only those of bytes are taken
	Control []string // texts of the first ids, such as <|user|>
	EOS     string   // which of Control ends a generation
}

// Trained is a byte-level BPE vocabulary. Its ids are the control tokens, the
// 256 bytes in ascending order, and the merged tokens in order of their merges.
// It is a Model, so that New makes a Tokenizer of it.
type Trained struct {
	pre    string
	tokens []string // as tokenizer.ggml.tokens spells them
	types  []int64
	merges []string
	eos    uint64
}

// minPairs is how often a pair must occur to become a token.
const minPairs = 2

// Train makes a vocabulary by joining, again and again, the pair of neighbours
// that occurs most often within the words of texts, as Sennrich, Haddow and
// Birch (2016) describe. Of pairs that occur equally often the one whose left
// symbol is older is joined, then the one whose right symbol is older; bytes
// are the oldest, in ascending order. So equal texts, in any order, give equal
// vocabularies. It ends early where no pair occurs twice. Memory is in the
// number of different words.
func Train(texts iter.Seq[string], o TrainOptions) (*Trained, error) {
	kind, err := findPre(o.Pre)
	if err != nil {
		return nil, fmt.Errorf("train vocabulary: %w", err)
	}
	if kind.utf8 || kind.escape || kind.newlines {
		return nil, fmt.Errorf("train vocabulary: pre-tokenizer %q is not one of bytes", o.Pre)
	}
	if least := 256 + len(o.Control); o.Size < least || o.Size > math.MaxInt32 {
		return nil, fmt.Errorf("train vocabulary of %d ids: bytes and control tokens alone take %d", o.Size, least)
	}
	t := &Trained{pre: o.Pre, eos: math.MaxUint64}
	known := make(map[string]bool)
	for i, c := range o.Control {
		if c == "" || known[c] {
			return nil, fmt.Errorf("train vocabulary: control token %d is %q, empty or twice in the list", i, c)
		}
		known[c] = true
		if c == o.EOS {
			t.eos = uint64(i)
		}
		t.tokens, t.types = append(t.tokens, c), append(t.types, 3)
	}
	if t.eos == math.MaxUint64 {
		return nil, fmt.Errorf("train vocabulary: %q ends a generation and is not among the control tokens", o.EOS)
	}
	tr := newTrainer(texts, newSplitter(kind.stages))
	merged := make(map[string]bool)
	for len(t.tokens)+len(tr.symbols) < o.Size {
		left, right, ok := tr.next()
		if !ok {
			break
		}
		l, r := tr.symbols[left], tr.symbols[right]
		if known[l+r] {
			return nil, fmt.Errorf("train vocabulary: control token %q is a word of the texts", l+r)
		}
		// Two merges may make the same text. The pairs of its symbol then may
		// come back after they were joined.
		if m := l + " " + r; !merged[m] {
			merged[m] = true
			t.merges = append(t.merges, m)
		}
		tr.join(left, right)
	}
	t.tokens = append(t.tokens, tr.symbols...)
	for len(t.types) < len(t.tokens) {
		t.types = append(t.types, 1)
	}
	return t, nil
}

// Size is the number of ids.
func (t *Trained) Size() int { return len(t.tokens) }

// Metadata is what a model file says of the vocabulary.
func (t *Trained) Metadata() []gguf.KV {
	types := make([]int32, len(t.types))
	for i, v := range t.types {
		types[i] = int32(v)
	}
	return []gguf.KV{
		{Key: "tokenizer.ggml.model", Value: gguf.ValueOf("gpt2")},
		{Key: "tokenizer.ggml.pre", Value: gguf.ValueOf(t.pre)},
		{Key: "tokenizer.ggml.tokens", Value: gguf.ArrayOf(t.tokens)},
		{Key: "tokenizer.ggml.token_type", Value: gguf.ArrayOf(types)},
		{Key: "tokenizer.ggml.merges", Value: gguf.ArrayOf(t.merges)},
		{Key: "tokenizer.ggml.eos_token_id", Value: gguf.ValueOf(uint32(t.eos))},
		{Key: "tokenizer.ggml.add_bos_token", Value: gguf.ValueOf(false)},
		{Key: "tokenizer.ggml.add_eos_token", Value: gguf.ValueOf(false)},
	}
}

// String is part of Model.
func (t *Trained) String(key string) (string, bool) {
	switch key {
	case "tokenizer.ggml.model":
		return "gpt2", true
	case "tokenizer.ggml.pre":
		return t.pre, true
	}
	return "", false
}

// Uint is part of Model.
func (t *Trained) Uint(key string) (uint64, bool) { return t.eos, key == "tokenizer.ggml.eos_token_id" }

// Bool is part of Model.
func (t *Trained) Bool(key string) (bool, bool) {
	return false, key == "tokenizer.ggml.add_bos_token" || key == "tokenizer.ggml.add_eos_token"
}

// Strings is part of Model. The caller must not alter the result.
func (t *Trained) Strings(key string) ([]string, bool) {
	switch key {
	case "tokenizer.ggml.tokens":
		return t.tokens, true
	case "tokenizer.ggml.merges":
		return t.merges, true
	}
	return nil, false
}

// Ints is part of Model. The caller must not alter the result.
func (t *Trained) Ints(key string) ([]int64, bool) {
	return t.types, key == "tokenizer.ggml.token_type"
}

// Floats is part of Model.
func (t *Trained) Floats(string) ([]float32, bool) { return nil, false }

// trainer is a list of different words under merging.
type trainer struct {
	symbols []string         // texts, written with byteRune
	byText  map[string]int32 // inverts symbols
	words   []trainWord
	pairs   map[uint64]*pairUse
	queue   pairHeap
}

type trainWord struct {
	symbols []int32
	count   int64
}

// pairUse is where a pair of symbols occurs.
type pairUse struct {
	count int64
	words []int32 // some may be there twice, some may no longer have the pair
}

// pairCount is a pair as it stood when it was queued.
type pairCount struct {
	pair  uint64 // left<<32 | right
	count int64
}

// pairHeap has the pair that is joined next at its root.
type pairHeap []pairCount

func (h pairHeap) Len() int { return len(h) }
func (h pairHeap) Less(i, j int) bool {
	return h[i].count > h[j].count || h[i].count == h[j].count && h[i].pair < h[j].pair
}
func (h pairHeap) Swap(i, j int) { h[i], h[j] = h[j], h[i] }
func (h *pairHeap) Push(x any)   { *h = append(*h, x.(pairCount)) }
func (h *pairHeap) Pop() any {
	last := (*h)[len(*h)-1]
	*h = (*h)[:len(*h)-1]
	return last
}

func newTrainer(texts iter.Seq[string], split *splitter) *trainer {
	tr := &trainer{byText: make(map[string]int32), pairs: make(map[uint64]*pairUse)}
	for b := range 256 {
		tr.symbol(string(byteRune(byte(b))))
	}
	at := make(map[string]int32)
	var p pieces
	for text := range texts {
		begin := int32(0)
		for _, end := range split.split(text, &p) {
			w := text[begin:end]
			begin = end
			i, ok := at[w]
			if !ok {
				i = int32(len(tr.words))
				at[w] = i
				symbols := make([]int32, len(w))
				for j := range symbols {
					symbols[j] = int32(w[j])
				}
				tr.words = append(tr.words, trainWord{symbols: symbols})
			}
			tr.words[i].count++
		}
	}
	for i := range tr.words {
		tr.count(int32(i), 1, nil)
	}
	for pair, use := range tr.pairs {
		tr.queue = append(tr.queue, pairCount{pair, use.count})
	}
	heap.Init(&tr.queue)
	return tr
}

// symbol numbers a text.
func (tr *trainer) symbol(text string) int32 {
	id, ok := tr.byText[text]
	if !ok {
		id = int32(len(tr.symbols))
		tr.byText[text] = id
		tr.symbols = append(tr.symbols, text)
	}
	return id
}

// count adds (sign 1) or takes away (-1) the pairs of a word. Pairs that it
// adds are noted in grown, unless that is nil.
func (tr *trainer) count(word int32, sign int64, grown map[uint64]bool) {
	w := &tr.words[word]
	for i := 1; i < len(w.symbols); i++ {
		pair := uint64(w.symbols[i-1])<<32 | uint64(w.symbols[i])
		use := tr.pairs[pair]
		if use == nil {
			use = new(pairUse)
			tr.pairs[pair] = use
		}
		use.count += sign * w.count
		if sign < 0 {
			continue
		}
		if n := len(use.words); n == 0 || use.words[n-1] != word {
			use.words = append(use.words, word)
		}
		if grown != nil {
			grown[pair] = true
		}
	}
}

// next is the pair to join. What is queued may count more than there is now;
// what has become more is queued anew by join.
func (tr *trainer) next() (left, right int32, ok bool) {
	for len(tr.queue) > 0 {
		top := &tr.queue[0]
		use := tr.pairs[top.pair]
		switch {
		case use == nil || use.count < minPairs:
			heap.Pop(&tr.queue)
		case use.count == top.count:
			pair := heap.Pop(&tr.queue).(pairCount).pair
			return int32(pair >> 32), int32(uint32(pair)), true
		default:
			top.count = use.count
			heap.Fix(&tr.queue, 0)
		}
	}
	return 0, 0, false
}

// join makes one symbol of a pair wherever it occurs, from the left.
func (tr *trainer) join(left, right int32) {
	merged := tr.symbol(tr.symbols[left] + tr.symbols[right])
	pair := uint64(left)<<32 | uint64(right)
	words := tr.pairs[pair].words
	grown := make(map[uint64]bool)
	for _, i := range words {
		w := &tr.words[i]
		if !w.has(left, right) {
			continue
		}
		tr.count(i, -1, nil)
		w.join(left, right, merged)
		tr.count(i, 1, grown)
	}
	delete(tr.pairs, pair)
	for p := range grown {
		if use := tr.pairs[p]; use != nil && use.count >= minPairs {
			heap.Push(&tr.queue, pairCount{p, use.count})
		}
	}
}

func (w *trainWord) has(left, right int32) bool {
	for i := 1; i < len(w.symbols); i++ {
		if w.symbols[i-1] == left && w.symbols[i] == right {
			return true
		}
	}
	return false
}

func (w *trainWord) join(left, right, merged int32) {
	n := 0
	for i := 0; i < len(w.symbols); i++ {
		s := w.symbols[i]
		if s == left && i+1 < len(w.symbols) && w.symbols[i+1] == right {
			s = merged
			i++
		}
		w.symbols[n] = s
		n++
	}
	w.symbols = w.symbols[:n]
}
