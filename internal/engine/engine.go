package engine

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"sync"

	"github.com/geistnet/geist/ghost"
	"github.com/geistnet/geist/internal/arena"
	"github.com/geistnet/geist/internal/kernel"
	"github.com/geistnet/geist/internal/model"
	"github.com/geistnet/geist/internal/tokenizer"
)

// Options of New.
type Options struct {
	Context  int   // positions of one session; 0: the model's, at most 8192
	Sessions int   // sessions decoded together; 0: 16
	Batch    int   // tokens in one pass; 0: 512
	KVBytes  int64 // memory of the KV cache; 0: four sessions of full length
	NoReuse  bool  // do not share equal prefixes
	// Trace, the model's description, makes the engine commit to every run:
	// Result.Trace. It costs a few percent of a prefill.
	Trace *ghost.Model
}

func (o *Options) fill(m *model.Model) error {
	if o.Context == 0 {
		o.Context = min(m.Context, 8192)
	}
	if o.Sessions == 0 {
		o.Sessions = 16
	}
	if o.Batch == 0 {
		o.Batch = 512
	}
	if o.Context < 2 || o.Sessions < 1 || o.Batch < 1 {
		return fmt.Errorf("a context of %d, %d sessions and batches of %d do not make an engine", o.Context, o.Sessions, o.Batch)
	}
	if o.Context > m.Context {
		return fmt.Errorf("a context of %d exceeds the %d that the model is made for", o.Context, m.Context)
	}
	o.Batch = max(o.Batch, o.Sessions)
	full := int64(pagesFor(o.Context)) * int64(m.PageBytes())
	if o.KVBytes == 0 {
		o.KVBytes = 4 * full
	}
	if o.KVBytes < full {
		return fmt.Errorf("a KV cache of %d MiB does not hold one session of %d positions, which takes %d MiB", o.KVBytes>>20, o.Context, (full+1<<20-1)>>20)
	}
	return nil
}

// Memory is what an engine takes, known before it is made.
type Memory struct {
	Weights, KV, Scratch int64
}

// Total is the sum of its parts.
func (m Memory) Total() int64 { return m.Weights + m.KV + m.Scratch }

// Predict tells the memory of an engine with these options.
func Predict(m *model.Model, o Options) (Memory, error) {
	if err := o.fill(m); err != nil {
		return Memory{}, err
	}
	return Memory{m.WeightBytes(), o.KVBytes, m.StateBytes(o.Batch, o.Sessions)}, nil
}

// Stats is a snapshot of an engine's work.
type Stats struct {
	Running, Waiting     int
	PagesUsed, PagesMost int
	PromptTokens         int64 // computed, without those found in the cache
	CachedTokens         int64
	AnswerTokens         int64
	Preempted            int64 // sessions set aside for want of pages
}

// Engine runs one model. Its methods may be called concurrently.
type Engine struct {
	m     *model.Model
	tok   *tokenizer.Tokenizer
	team  *kernel.Team
	opt   Options
	state *model.State
	trace *model.Trace // nil: none
	pool  *pool
	kv    *arena.Arena // memory of the pool's pages

	mu      sync.Mutex
	arrived []*session
	wake    *sync.Cond
	closed  bool
	nudged  bool // see rest
	stats   Stats
	stopped chan struct{}
	once    sync.Once // gives kv back

	// Owned by the scheduler.
	waiting []*session
	running []*session
	endings []ending
	segs    []model.Segment
	order   []*session
}

// New starts an engine. tok may be nil: then tokens carry no text, stop strings
// are refused and answers end by length alone. The team must not be used for
// anything else meanwhile.
func New(m *model.Model, tok *tokenizer.Tokenizer, team *kernel.Team, o Options) (*Engine, error) {
	if err := o.fill(m); err != nil {
		return nil, err
	}
	if tok != nil && tok.Size() > m.Vocab {
		return nil, fmt.Errorf("the tokenizer knows %d tokens, the model %d", tok.Size(), m.Vocab)
	}
	e := &Engine{m: m, tok: tok, team: team, opt: o, stopped: make(chan struct{})}
	pages := int(o.KVBytes / int64(m.PageBytes()))
	kv, err := arena.New(pages * m.PageBytes()) // what no session has touched takes no memory
	if err != nil {
		return nil, fmt.Errorf("KV cache: %w", err)
	}
	e.kv = kv
	left := kv.Bytes()
	e.pool = newPool(m.PageBytes(), pages, !o.NoReuse, func(n int) ([]byte, error) {
		page := left[:n:n]
		left = left[n:]
		return page, nil
	})
	e.state = m.NewState(team, o.Batch)
	if o.Trace != nil {
		e.trace = e.state.NewTrace(o.Trace)
		e.state.Watch(e.trace)
	}
	e.wake = sync.NewCond(&e.mu)
	go e.schedule()
	return e, nil
}

// Model is the engine's model.
func (e *Engine) Model() *model.Model { return e.m }

// Tokenizer is the engine's tokenizer, or nil.
func (e *Engine) Tokenizer() *tokenizer.Tokenizer { return e.tok }

// Context is the number of positions a session may use.
func (e *Engine) Context() int { return e.opt.Context }

// Stats returns a snapshot.
func (e *Engine) Stats() Stats {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.stats
}

// Close ends all sessions with ErrClosed and stops the engine.
func (e *Engine) Close() {
	e.mu.Lock()
	e.closed = true
	e.mu.Unlock()
	e.wake.Broadcast()
	<-e.stopped
	e.once.Do(func() { _ = e.kv.Free() }) // nobody can help if it fails
}

func (e *Engine) submit(s *session) error {
	if e.tok == nil && len(s.req.Stop) > 0 {
		return errors.New("stop strings need a tokenizer, and this model has none")
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.closed {
		return ErrClosed
	}
	e.arrived = append(e.arrived, s)
	e.stats.Waiting++
	e.wake.Signal()
	s.stop = context.AfterFunc(s.ctx, e.nudge)
	return nil
}

// Threads is the team size to use by default.
func Threads() int { return runtime.GOMAXPROCS(0) }
