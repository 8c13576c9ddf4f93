package provider

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/geistnet/geist/audit"
	"github.com/geistnet/geist/ghost"
	"github.com/geistnet/geist/internal/dialog"
	"github.com/geistnet/geist/internal/engine"
	"github.com/geistnet/geist/internal/job"
	"github.com/geistnet/geist/internal/kernel"
	"github.com/geistnet/geist/internal/local"
	"github.com/geistnet/geist/internal/prompt"
	"github.com/geistnet/geist/internal/prove"
	"github.com/geistnet/geist/merkle"
)

// ahead is how many tokens the engine computes before somebody takes the first of
// them.
const ahead = 8

// Engine is a Worker that runs a model on this machine and commits to what it
// computes: ghost-audited.
type Engine struct {
	local *local.Model
	ghost *ghost.Model
	id    ghost.ID
	node  *prove.Node
	team  *kernel.Team
}

// NewEngine makes a worker of a model that was opened with Options.Engine.Trace
// set to g. Close does not close the model.
func NewEngine(l *local.Model, g *ghost.Model) (*Engine, error) {
	if l.Words == nil {
		return nil, errors.New("a model without a vocabulary cannot be served")
	}
	team := kernel.NewTeam(l.Threads)
	return &Engine{local: l, ghost: g, id: g.ID(), team: team, node: prove.NewNode(l.Model(), g, l.File, team, 512)}, nil
}

// Close frees what the worker has besides the model.
func (e *Engine) Close() { e.team.Close() }

// Served is the model as it is offered.
func (e *Engine) Served(name, quantisation string, sessions int) (Model, error) {
	file, err := ghost.Encode(e.ghost)
	if err != nil {
		return Model{}, err
	}
	var words bytes.Buffer
	if err := prompt.Extract(e.local.File, &words); err != nil {
		return Model{}, err
	}
	return Model{ID: e.id, Name: name, Quantisation: quantisation, Context: e.local.Engine.Context(), Grade: ghost.GhostAudited,
		Ghost: file, Words: words.Bytes(), Worker: e, Sessions: sessions}, nil
}

// engineStream is an answer of the engine.
type engineStream struct {
	answer *engine.Answer
	probs  bool
}

func (s *engineStream) Next() (Token, bool) {
	t, ok := s.answer.Next()
	if !ok || !s.probs {
		return Token{ID: t.ID}, ok
	}
	p := &job.TokenProb{LogProb: job.LogProb(t.LogProb), Top: make([]job.Alternative, len(t.Top))}
	for i, a := range t.Top {
		p.Top[i] = job.Alternative{ID: a.ID, LogProb: job.LogProb(a.LogProb)}
	}
	return Token{t.ID, p}, true
}

func (s *engineStream) End() (ghost.Finish, error) {
	r := s.answer.Result()
	switch {
	case r.Finish == engine.FinishCancelled:
		return ghost.FinishCancelled, nil
	case errors.Is(r.Err, engine.ErrResume):
		return "", refuse(job.ResumeDiffers, "%v", r.Err)
	case r.Err != nil:
		return "", r.Err
	}
	return ghost.Finish(r.Finish), nil
}

// Begin implements Worker.
func (e *Engine) Begin(ctx context.Context, o *job.Order, tokens []int32) (Stream, error) {
	q := o.Request
	r := engine.Request{Prompt: q.Prompt, Resume: tokens, MaxTokens: q.MaxTokens, Sampling: q.Sampling, Stop: q.Stop, IgnoreEnd: q.IgnoreEnd, TopLogProbs: -1, Ahead: ahead}
	r.Sampling.Seed = o.Seed()
	if o.LogProbs != nil {
		r.TopLogProbs = *o.LogProbs
	}
	g, err := dialog.ReadGrammar(o.Grammar)
	if err != nil {
		return nil, refuse(job.BadGrammar, "%v", err)
	}
	if g != nil {
		r.Constraint = e.local.Words.Constrain(g)
	}
	a, err := e.local.Engine.Generate(ctx, r)
	switch {
	case errors.Is(err, engine.ErrContext):
		return nil, refuse(job.TooLong, "%v", err)
	case errors.Is(err, engine.ErrClosed):
		return nil, refuse(job.Draining, "")
	case err != nil:
		return nil, refuse(job.BadOrder, "%v", err)
	}
	return &engineStream{answer: a, probs: o.LogProbs != nil}, nil
}

// Seal implements Worker. An answer that was cut is run again as one prefill.
func (e *Engine) Seal(_ context.Context, o *job.Order, tokens []int32, s Stream) (merkle.Hash, *ghost.Outline, error) {
	if x, ok := s.(*engineStream); ok && x != nil {
		if r := x.answer.Result(); r.Outline != nil && slices.Equal(r.Answer, tokens) {
			return r.Trace, r.Outline, nil
		}
	}
	x, err := e.node.Replay(e.run(o, tokens), nil, nil)
	if err != nil {
		return merkle.Hash{}, nil, fmt.Errorf("repeat the run: %w", err)
	}
	root, err := x.Root()
	return root, nil, err
}

// run is what the order's answer is a run of.
func (e *Engine) run(o *job.Order, tokens []int32) *audit.Run {
	r := &audit.Run{Model: e.ghost, Prompt: o.Request.Prompt, Answer: tokens, Sampling: o.Request.Sampling, Constrained: o.Grammar != ""}
	r.Sampling.Seed = o.Seed()
	return r
}

// Prove implements Worker.
func (e *Engine) Prove(_ context.Context, f *audit.RunFile) ([]byte, error) {
	run, err := f.Run(e.ghost)
	if err != nil {
		return nil, err
	}
	return e.node.Prove(run, f.Challenge())
}

// Text implements Worker.
func (e *Engine) Text() Text { return e.local.Tokenizer.NewContinuation() }

// Embed implements Worker.
func (e *Engine) Embed(ctx context.Context, tokens []int32) ([]float32, error) {
	v, err := e.local.Engine.Embed(ctx, tokens)
	if errors.Is(err, engine.ErrContext) {
		return nil, refuse(job.TooLong, "%v", err)
	}
	return v, err
}

// Busy implements Worker.
func (e *Engine) Busy() float64 {
	s := e.local.Engine.Stats()
	if s.PagesMost == 0 {
		return 0
	}
	return float64(s.PagesUsed) / float64(s.PagesMost)
}

// Stats are the engine's.
func (e *Engine) Stats() engine.Stats { return e.local.Engine.Stats() }
