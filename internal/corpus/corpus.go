// Package corpus makes training sequences for a small model that tells tales
// out of books of fairy tales.
//
// The text is ASCII: a paragraph is a line, a book ends with an empty line.
// Chapters and headings are unknown, so that tales are found by how they begin
// ("Once upon a time") and end ("happily ever after"); notes, prefaces and
// other writing about tales are dropped by their words.
//
// A tale of a book has thousands of tokens and the context of a small model a
// few hundred. So that the model learns to end what it begins, most samples
// are little tales: a short tale as it is, or the beginning of a longer one
// followed by its end. Each stands behind a request that names what it is
// about:
//
//	<|user|>Tell me a story about a fox and a crow.<|tale|>Once …<|end|>
//
// The subject comes from the tale itself: nouns that are frequent in it, rare
// elsewhere, and that act. All other text is cut into windows, plain or behind
// a request to go on. In most samples who they are about is exchanged for
// another, so that only the request tells it. Which word is a noun is estimated from its neighbours in
// the whole text; there is no dictionary.
//
// The hardest part of the text, by its rare words, is left out.
//
// Equal texts and Options give equal sequences.
package corpus

import (
	"cmp"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"

	"github.com/geistnet/geist/internal/tokenizer"
)

// Tokens that are no text. The model's answer begins after Tale.
const (
	User = "<|user|>" // a request follows
	Tale = "<|tale|>" // a tale follows
	End  = "<|end|>"  // the tale is over
)

// Template is the chat template (tokenizer.chat_template) that writes
// conversations as Prepare writes samples. Roles other than user and assistant
// are left out.
const Template = `{% for m in messages %}` +
	`{% if m['role'] == 'user' %}` + User + `{{ m['content']|trim }}` +
	`{% elif m['role'] == 'assistant' %}` + Tale + `{{ m['content']|trim }}` + End + `{% endif %}` +
	`{% endfor %}{% if add_generation_prompt %}` + Tale + `{% endif %}`

// Options say what sequences are made. Zero values stand for what is named.
type Options struct {
	Vocabulary int     // ids; 4096
	Context    int     // ids of the longest sequence, at least 128; 512
	Variants   int     // samples of each tale in a pass; 2
	Openings   int     // beginnings of each tale in a pass; 2
	Passes     int     // times that the text is cut into samples, each time otherwise; 3
	Held       float64 // part of the tales that is kept for measuring; 0.03
	Hard       float64 // part of the text that is left out for its rare words; 0.3
	Seed       uint64
}

func (o *Options) defaults() error {
	if o.Vocabulary == 0 {
		o.Vocabulary = 4096
	}
	if o.Context == 0 {
		o.Context = 512
	}
	if o.Variants == 0 {
		o.Variants = 2
	}
	if o.Openings == 0 {
		o.Openings = 2
	}
	if o.Passes == 0 {
		o.Passes = 3
	}
	if o.Held == 0 {
		o.Held = 0.03
	}
	if o.Hard == 0 {
		o.Hard = 0.3
	}
	if o.Context < 128 || o.Variants < 0 || o.Openings < 0 || o.Passes < 0 || !(o.Held > 0 && o.Held < 1) || !(o.Hard > 0 && o.Hard < 1) {
		return fmt.Errorf("prepare corpus: context %d, variants %d, openings %d, passes %d, held part %g, hard part %g are not of use", o.Context, o.Variants, o.Openings, o.Passes, o.Held, o.Hard)
	}
	return nil
}

// Set is what a model is trained with.
type Set struct {
	Vocabulary *tokenizer.Trained
	Tokenizer  *tokenizer.Tokenizer
	// Train and Held are sequences of 2 to Context ids, in random order. No
	// tale is in both.
	Train, Held [][]int32
	Tales       int // that have a beginning and an end
	Dropped     int // paragraphs left out
}

// Streams of random numbers, so that choices of one step leave others as they are.
const (
	seedHeld = iota + 1
	seedSamples
	seedOrder
)

// Prepare makes the sequences of text.
func Prepare(text []byte, o Options) (*Set, error) {
	if err := o.defaults(); err != nil {
		return nil, err
	}
	units, dropped := cut(string(text))
	units, hard := leaveHard(units, o.Hard)
	dropped += hard
	set := &Set{Dropped: dropped}
	whole := 0
	for _, u := range units {
		if u.begins && u.ends {
			whole++
		}
	}
	if set.Tales = whole; whole < 2 {
		return nil, fmt.Errorf("prepare corpus: %d tales found in %d bytes; a paragraph must stand on each line and an empty line after each book", whole, len(text))
	}
	var err error
	set.Vocabulary, err = tokenizer.Train(paragraphs(units), tokenizer.TrainOptions{
		Size: o.Vocabulary, Pre: "gpt-2", Control: []string{User, Tale, End}, EOS: End,
	})
	if err != nil {
		return nil, fmt.Errorf("prepare corpus: %w", err)
	}
	if set.Tokenizer, err = tokenizer.New(set.Vocabulary); err != nil {
		return nil, fmt.Errorf("prepare corpus: %w", err)
	}
	m := &maker{o: o, tok: set.Tokenizer, words: countWords(units), rng: rand.New(rand.NewPCG(o.Seed, seedSamples))}
	held := rand.New(rand.NewPCG(o.Seed, seedHeld))
	heldTale := false // one at least is
	for i, u := range units {
		s := m.sentences(u)
		if held.Float64() < o.Held || !heldTale && i == len(units)/2 {
			set.Held = append(set.Held, m.samples(u, s, false)...)
			heldTale = true
			continue
		}
		for range o.Passes {
			set.Train = append(set.Train, m.samples(u, s, true)...)
		}
	}
	order := rand.New(rand.NewPCG(o.Seed, seedOrder))
	for _, s := range [][][]int32{set.Train, set.Held} {
		order.Shuffle(len(s), func(i, j int) { s[i], s[j] = s[j], s[i] })
	}
	return set, nil
}

// leaveHard drops the units with the most rare words until about part of the text is
// gone, and counts their paragraphs. Order stays.
func leaveHard(units []unit, part float64) ([]unit, int) {
	words := countWords(units)
	type hardness struct{ unit, size, rare, all int }
	hard := make([]hardness, len(units))
	total := 0
	for i, u := range units {
		h := hardness{unit: i, all: 1}
		for _, p := range u.paragraphs {
			h.size += len(p)
			for _, w := range lexeme.FindAllString(p, -1) {
				if w[0] < 'A' {
					continue
				}
				h.all++
				if use := words.of[w]; w[0] >= 'a' && use.total < rareWord || w[0] < 'a' && words.of[strings.ToLower(w)] == nil {
					h.rare++
				}
			}
		}
		total += h.size
		hard[i] = h
	}
	slices.SortFunc(hard, func(a, b hardness) int {
		return cmp.Or(cmp.Compare(b.rare*a.all, a.rare*b.all), cmp.Compare(a.unit, b.unit))
	})
	gone, paragraphs := make([]bool, len(units)), 0
	for size := 0; len(hard) > 0; hard = hard[1:] {
		if size += hard[0].size; float64(size) > part*float64(total) {
			break
		}
		gone[hard[0].unit] = true
		paragraphs += len(units[hard[0].unit].paragraphs)
	}
	var kept []unit
	for i, u := range units {
		if !gone[i] {
			kept = append(kept, u)
		}
	}
	return kept, paragraphs
}

// rareWord is how often a word stands in the whole text at least, so as not to
// be rare. Names are.
const rareWord = 40

// paragraphs are the texts that the vocabulary is trained on.
func paragraphs(units []unit) func(yield func(string) bool) {
	return func(yield func(string) bool) {
		for _, u := range units {
			for _, p := range u.paragraphs {
				if !yield(p) {
					return
				}
			}
		}
	}
}
