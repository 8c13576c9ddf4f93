// Package prompt turns conversations and texts into token ids as one model wants
// them. It needs a model's tokenizer and chat template, not its weights, so an
// asker makes the prompt itself and knows what was asked: Extract takes these
// out of a model file, and Matches compares them with a Ghost file.
package prompt

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"time"

	"github.com/geistnet/geist/ghost"
	"github.com/geistnet/geist/internal/chat"
	"github.com/geistnet/geist/internal/constrain"
	"github.com/geistnet/geist/internal/gguf"
	"github.com/geistnet/geist/internal/tokenizer"
)

// MaxBytes bounds what Extract writes and what should be read of it: the
// largest vocabularies of known models take 16 MiB.
const MaxBytes = 64 << 20

// ErrNoTemplate means that a model has no chat template: give it text to
// continue.
var ErrNoTemplate = errors.New("the model has no chat template")

// Words is how a model reads and writes. It may be used concurrently.
type Words struct {
	Tokenizer *tokenizer.Tokenizer

	source string // of the chat template; "": none
	tools  string // of the one for tools, mostly the same
	vocab  func() *constrain.Vocab
}

// New reads the vocabulary and the template in f. vocab is how many tokens the
// model has; 0: as many as the vocabulary. Without a vocabulary the error wraps
// tokenizer.ErrNoVocab.
func New(f *gguf.File, vocab int) (*Words, error) {
	tok, err := tokenizer.New(f)
	if err != nil {
		return nil, fmt.Errorf("%s: tokenizer: %w", f.Path, err)
	}
	if err := tok.Err(); err != nil {
		return nil, fmt.Errorf("%s: %w", f.Path, err)
	}
	if vocab == 0 {
		vocab = tok.Size()
	}
	if tok.Size() > vocab {
		return nil, fmt.Errorf("%s: the tokenizer knows %d tokens, the model %d", f.Path, tok.Size(), vocab)
	}
	w := &Words{Tokenizer: tok}
	if source, key := chat.Find(f.String, false); key != "" {
		w.source = source
	}
	if source, key := chat.Find(f.String, true); key != "" {
		w.tools = source
	}
	w.vocab = sync.OnceValue(func() *constrain.Vocab {
		pieces := make([][]byte, vocab)
		for id := range tok.Size() {
			pieces[id] = tok.Piece(int32(id))
		}
		return constrain.NewVocab(pieces, tok.IsEOG)
	})
	return w, nil
}

// Template is the chat template; "": there is none.
func (w *Words) Template() string { return w.source }

// HasTemplate tells whether the model can be talked to.
func (w *Words) HasTemplate() bool { return w.source != "" }

// Text gives the ids of a text to continue, as the model wants texts to begin.
// Control tokens spelt in the text become their ids.
func (w *Words) Text(text string) []int32 {
	ids := w.Tokenizer.Encode(text, tokenizer.Options{ParseSpecial: true})
	if bos, ok := w.Tokenizer.BOS(); ok && w.Tokenizer.AddsBOS() && (len(ids) == 0 || ids[0] != bos) {
		ids = append([]int32{bos}, ids...)
	}
	return ids
}

// Chat gives the ids of a conversation that the model is to answer. now is
// what templates that print the date see. Without a template the error is
// ErrNoTemplate.
func (w *Words) Chat(messages []chat.Message, tools []chat.Tool, now time.Time) ([]int32, error) {
	source := w.source
	if len(tools) > 0 {
		source = w.tools
	}
	if source == "" {
		return nil, ErrNoTemplate
	}
	t, err := chat.Parse("chat template", source)
	if err != nil {
		return nil, err
	}
	in := chat.Input{Messages: messages, Tools: tools, AddGenerationPrompt: true, Now: now}
	if id, ok := w.Tokenizer.BOS(); ok {
		in.BOS = w.Tokenizer.TokenText(id)
	}
	if id, ok := w.Tokenizer.EOS(); ok {
		in.EOS = w.Tokenizer.TokenText(id)
	}
	text, err := t.Render(in)
	if err != nil {
		return nil, err
	}
	return w.Text(text), nil
}

// Constrain begins an answer that belongs to g.
func (w *Words) Constrain(g *constrain.Grammar) *constrain.State { return g.NewState(w.vocab()) }

// Ends tells whether an answer, not empty, ends with one of the model's end
// tokens or with one of the stop texts, as the engine ends it.
func (w *Words) Ends(answer []int32, stop []string, ignoreEnd bool) bool {
	last := answer[len(answer)-1]
	if w.Tokenizer.IsEOG(last) && !ignoreEnd {
		return true
	}
	s := w.Tokenizer.NewContinuation()
	var text strings.Builder
	for _, id := range answer {
		text.WriteString(s.Add(id))
	}
	text.WriteString(s.Flush())
	for _, x := range stop {
		if strings.Contains(text.String(), x) {
			return true
		}
	}
	return false
}

// Matches checks that w is what the Ghost file names: the tokenizer, and the
// default template if the file has one.
func (w *Words) Matches(g *ghost.Model) error {
	if w.Tokenizer.Hash() != g.Tokenizer {
		return errors.New("the vocabulary is not the one of the Ghost file")
	}
	var template [32]byte
	if w.source != "" {
		template = sha256.Sum256([]byte(w.source))
	}
	if template != g.Template {
		return errors.New("the chat template is not the one of the Ghost file")
	}
	if w.tools != w.source {
		return errors.New("the template for tools is none that the Ghost file names")
	}
	return nil
}

// Extract writes the part of a model file that New reads, without templates
// that a Ghost file does not name: a GGUF file without tensors.
func Extract(f *gguf.File, out io.Writer) error {
	var meta []gguf.KV
	for _, kv := range f.Meta() {
		named := strings.HasPrefix(kv.Key, "tokenizer.chat_template.")
		if kv.Key == "general.architecture" || strings.HasPrefix(kv.Key, "tokenizer.") && !named {
			meta = append(meta, kv)
		}
	}
	w, err := gguf.NewWriter(out, meta, nil)
	if err != nil {
		return err
	}
	return w.Close()
}
