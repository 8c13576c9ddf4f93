// Package local runs a model file on this machine: it predicts the memory,
// loads the weights and starts an engine.
package local

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/geistnet/geist/internal/chat"
	"github.com/geistnet/geist/internal/console"
	"github.com/geistnet/geist/internal/constrain"
	"github.com/geistnet/geist/internal/engine"
	"github.com/geistnet/geist/internal/gguf"
	"github.com/geistnet/geist/internal/kernel"
	"github.com/geistnet/geist/internal/model"
	"github.com/geistnet/geist/internal/prompt"
	"github.com/geistnet/geist/internal/tokenizer"
)

// Options of Open.
type Options struct {
	Path    kernel.Path
	Threads int // 0: one for each processor
	// Engine is what the engine takes. With one session and no KVBytes, the
	// cache holds that one session.
	Engine engine.Options
	// Available is the memory that may be used, in bytes, such as that of
	// Available; 0: any.
	Available int64
	// Rows has the rows of memory blocks, which the file then may lack; nil: the
	// file has them.
	Rows model.Memory
	// Progress is called now and then with the bytes of weights loaded so far.
	Progress func(done, total int64)
}

// Model is a model that answers.
type Model struct {
	File      *gguf.File
	Engine    *engine.Engine
	Tokenizer *tokenizer.Tokenizer // nil if the file has no vocabulary
	Words     *prompt.Words        // nil if the file has no vocabulary
	Memory    engine.Memory        // as predicted
	Threads   int

	m    *model.Model
	team *kernel.Team
}

// MemoryError says that a model does not fit into the memory that is available.
type MemoryError struct {
	File      string
	Need      engine.Memory
	Context   int
	Available int64
	Fits      int // the largest context that does fit; 0: none
}

func (e *MemoryError) Error() string {
	return fmt.Sprintf("%s needs %s of memory (weights %s, KV cache of %d positions %s, scratch %s), and %s is available",
		e.File, console.Size(e.Need.Total()), console.Size(e.Need.Weights), e.Context, console.Size(e.Need.KV), console.Size(e.Need.Scratch), console.Size(e.Available))
}

// fill gives o its values for a model of which so much is known.
func (o *Options) fill(m *model.Model) error {
	if o.Threads == 0 {
		o.Threads = engine.Threads()
	}
	if o.Threads < 1 || o.Threads > 1024 {
		return fmt.Errorf("%d threads; 1 to 1024 are possible", o.Threads)
	}
	if o.Engine.Context == 0 {
		o.Engine.Context = DefaultContext(m.Context)
	}
	if o.Engine.Sessions == 1 && o.Engine.KVBytes == 0 {
		pages := (int64(o.Engine.Context) + model.PagePositions - 1) / model.PagePositions
		o.Engine.KVBytes = max(1, pages) * int64(m.PageBytes())
	}
	return nil
}

// DefaultContext is the context of an engine, if none is asked for, of a model
// that is made for most positions.
func DefaultContext(most int) int { return min(most, 8192) }

// long tells whether a context makes use of the second set of rotary factors
// that some models have.
func long(f *gguf.File, context int) bool {
	trained, ok := f.Uint(f.Arch() + ".rope.scaling.original_context_length")
	return ok && f.Tensor("rope_factors_long.weight") != nil && uint64(context) > trained
}

// Plan checks that f holds a model that can be run and tells the memory that
// it takes. It reads no weights. The error is a *MemoryError if that is more
// than is available.
func Plan(f *gguf.File, o Options) (engine.Memory, error) {
	mem, _, err := plan(f, &o)
	return mem, err
}

func plan(f *gguf.File, o *Options) (engine.Memory, model.Options, error) {
	opt := model.Options{Path: o.Path, Memory: o.Rows, Progress: o.Progress}
	m, err := model.Plan(f, opt)
	if err != nil {
		return engine.Memory{}, opt, err
	}
	if err := o.fill(m); err != nil {
		return engine.Memory{}, opt, err
	}
	opt.Long = long(f, o.Engine.Context)
	mem, err := engine.Predict(m, o.Engine)
	if err == nil && o.Available > 0 && mem.Total() > o.Available {
		// A context that fits is a fraction of what was asked for, since the
		// cache is a multiple of the pages of one session.
		left := o.Available - mem.Weights - mem.Scratch
		pages := int64(float64(left) / float64(mem.KV) * float64(o.Engine.Context) / model.PagePositions)
		err = &MemoryError{f.Path, mem, o.Engine.Context, o.Available, int(max(0, pages)) * model.PagePositions}
	}
	return mem, opt, err
}

// Open loads the model in f, which must stay open until after Close. ctx ends
// the loading only.
func Open(ctx context.Context, f *gguf.File, o Options) (*Model, error) {
	mem, opt, err := plan(f, &o)
	if err != nil {
		return nil, err
	}
	l := &Model{File: f, Memory: mem, Threads: o.Threads, team: kernel.NewTeam(o.Threads)}
	opt.Team, opt.Abort = l.team, ctx.Err
	if l.m, err = model.Load(f, opt); err != nil {
		l.team.Close()
		return nil, err
	}
	switch l.Words, err = prompt.New(f, l.m.Vocab); {
	case err == nil:
		l.Tokenizer = l.Words.Tokenizer
	case !errors.Is(err, tokenizer.ErrNoVocab):
		l.team.Close()
		return nil, errors.Join(err, l.m.Close())
	}
	if l.Engine, err = engine.New(l.m, l.Tokenizer, l.team, o.Engine); err != nil {
		l.team.Close()
		return nil, errors.Join(fmt.Errorf("%s: %w", f.Path, err), l.m.Close())
	}
	return l, nil
}

// Close stops the engine and gives the memory back.
func (l *Model) Close() error {
	l.Engine.Close()
	l.team.Close()
	return l.m.Close()
}

// Model is the loaded model, valid until Close.
func (l *Model) Model() *model.Model { return l.m }

// Config is the shape of the model.
func (l *Model) Config() *model.Config { return &l.m.Config }

// HasTemplate tells whether the model can be talked to.
func (l *Model) HasTemplate() bool { return l.Words != nil && l.Words.HasTemplate() }

// Text is Words.Text; without a vocabulary the error wraps
// tokenizer.ErrNoVocab.
func (l *Model) Text(text string) ([]int32, error) {
	if l.Words == nil {
		return nil, fmt.Errorf("%s: %w", l.File.Path, tokenizer.ErrNoVocab)
	}
	return l.Words.Text(text), nil
}

// Chat is Words.Chat without tools.
func (l *Model) Chat(messages []chat.Message, now time.Time) ([]int32, error) {
	if l.Words == nil {
		return nil, prompt.ErrNoTemplate
	}
	return l.Words.Chat(messages, nil, now)
}

// Constrain begins an answer that belongs to g.
func (l *Model) Constrain(g *constrain.Grammar) (engine.Constraint, error) {
	if l.Words == nil {
		return nil, fmt.Errorf("%s: %w", l.File.Path, tokenizer.ErrNoVocab)
	}
	return l.Words.Constrain(g), nil
}
