package engine

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"sync"

	"github.com/geistnet/geist/arith"
	"github.com/geistnet/geist/ghost"
	"github.com/geistnet/geist/merkle"
)

// Request asks for an answer to a prompt of token ids.
type Request struct {
	Prompt []int32
	// Resume are tokens of the answer that were made elsewhere: it goes on after
	// them. An engine that makes traces needs their logits anyway, draws them again,
	// and ends the answer with ErrResume if one is another.
	Resume    []int32
	MaxTokens int // of the whole answer; 0: as many as the context holds
	Sampling  arith.Sampling
	Stop      []string // end the answer before the first of these texts
	IgnoreEnd bool     // go on after end-of-generation tokens
	// TopLogProbs asks for this many alternatives with each token, and for the
	// token's own log probability when not negative. -1: neither.
	TopLogProbs int
	// Constraint restricts the answer's tokens; nil: none. It is used by the
	// scheduler alone.
	Constraint Constraint
	// Ahead pauses the answer while this many tokens wait to be read; 0: never.
	Ahead int
}

// Constraint is what restricted decoding asks of a grammar's state.
type Constraint interface {
	// Allowed writes the set of ids that may follow, 64 a word.
	Allowed(dst []uint64)
	Accept(id int32) error
	// Done reports that only the end may follow.
	Done() bool
}

// TokenLogProb is a token with the natural logarithm of its probability.
type TokenLogProb struct {
	ID      int32
	LogProb float64
}

// Token is one generated token.
type Token struct {
	ID      int32
	LogProb float64 // set when asked for
	Top     []TokenLogProb
	// Text is what became complete with this token, whole characters only;
	// text that may yet turn out to be a stop string is held back.
	Text string
}

// Finish says why an answer ended.
type Finish string

// The reasons.
const (
	FinishStop      Finish = "stop"   // the model's end token or a stop string
	FinishLength    Finish = "length" // MaxTokens or the end of the context
	FinishCancelled Finish = "cancelled"
	FinishError     Finish = "error"
)

// Result is the summary of an ended answer.
type Result struct {
	Finish       Finish
	PromptTokens int
	CachedTokens int   // of the prompt, found in the cache
	Tokens       int   // of the answer, those of Request.Resume included
	Err          error // with FinishError and FinishCancelled
	// Trace is the trace root of the run, if the engine makes traces and the
	// answer has a token. Answer are the tokens it covers.
	Trace  merkle.Hash
	Answer []int32
	// Outline is that of Trace; nil without one. It makes proofs cheap.
	Outline *ghost.Outline
}

// ErrContext is wrapped by errors about prompts that do not fit: shorten the
// prompt or load the model with a larger context.
var ErrContext = errors.New("the prompt does not fit the context")

// ErrResume is wrapped by the error of an answer whose resumed tokens are not
// those that this model draws: whoever made them has another model, or lied.
var ErrResume = errors.New("the resumed tokens are not this model's")

// ErrClosed means that the engine is shutting down.
var ErrClosed = errors.New("the engine is closed")

// Answer is a stream of tokens.
type Answer struct {
	e      *Engine
	mu     sync.Mutex
	more   *sync.Cond // tokens has grown or ended is set
	tokens []Token    // not read yet
	ended  bool
	result Result
}

func (e *Engine) newAnswer() *Answer {
	a := &Answer{e: e}
	a.more = sync.NewCond(&a.mu)
	return a
}

// Next waits for the next token. It returns false at the end of the answer.
func (a *Answer) Next() (Token, bool) {
	a.mu.Lock()
	for len(a.tokens) == 0 && !a.ended {
		a.more.Wait()
	}
	if len(a.tokens) == 0 {
		a.mu.Unlock()
		return Token{}, false
	}
	t := a.tokens[0]
	a.tokens = a.tokens[1:]
	a.mu.Unlock()
	a.e.nudge()
	return t, true
}

// Result waits for the end of the answer and returns its summary. Tokens that
// have not been read stay readable.
func (a *Answer) Result() Result {
	a.mu.Lock()
	defer a.mu.Unlock()
	for !a.ended {
		a.more.Wait()
	}
	return a.result
}

func (a *Answer) put(t Token) {
	a.mu.Lock()
	a.tokens = append(a.tokens, t)
	a.mu.Unlock()
	a.more.Broadcast()
}

func (a *Answer) unread() int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return len(a.tokens)
}

func (a *Answer) end(r Result) {
	a.mu.Lock()
	a.result, a.ended = r, true
	a.mu.Unlock()
	a.more.Broadcast()
}

// check validates a request against a context of n positions and a vocabulary.
func (r *Request) check(n, vocab int) error {
	switch {
	case len(r.Prompt) == 0:
		return errors.New("the prompt is empty; give at least one token")
	case len(r.Prompt) >= n:
		return fmt.Errorf("%w: it has %d tokens, the context holds %d including the answer", ErrContext, len(r.Prompt), n)
	case len(r.Prompt)+len(r.Resume) >= n:
		return fmt.Errorf("%w: %d prompt tokens and %d of the answer leave no room in %d", ErrContext, len(r.Prompt), len(r.Resume), n)
	case r.MaxTokens < 0:
		return errors.New("max_tokens must not be negative")
	case r.MaxTokens > 0 && len(r.Resume) >= r.MaxTokens:
		return fmt.Errorf("an answer of %d tokens has nothing left of at most %d", len(r.Resume), r.MaxTokens)
	case r.MaxTokens > n-len(r.Prompt):
		return fmt.Errorf("%w: %d prompt tokens and %d answer tokens exceed %d", ErrContext, len(r.Prompt), r.MaxTokens, n)
	case len(r.Stop) > 64:
		return fmt.Errorf("%d stop strings are too many; at most 64", len(r.Stop))
	case r.TopLogProbs > 64:
		return fmt.Errorf("%d alternatives are too many; at most 64", r.TopLogProbs)
	}
	for _, s := range r.Stop {
		if s == "" || len(s) > 4096 {
			return errors.New("stop strings must have 1 to 4096 bytes")
		}
	}
	for _, ids := range [][]int32{r.Prompt, r.Resume} {
		for _, id := range ids {
			if id < 0 || int(id) >= vocab {
				return fmt.Errorf("token id %d is not in the vocabulary of %d", id, vocab)
			}
		}
	}
	if s := r.Sampling.Valid(); s != "" {
		return errors.New(s)
	}
	return nil
}

// Generate starts an answer. Cancelling ctx ends it after the token under way.
func (e *Engine) Generate(ctx context.Context, r Request) (*Answer, error) {
	if err := r.check(e.opt.Context, e.m.Vocab); err != nil {
		return nil, err
	}
	if r.MaxTokens == 0 {
		r.MaxTokens = e.opt.Context - len(r.Prompt)
	}
	r.Prompt, r.Resume, r.Stop = slices.Clone(r.Prompt), slices.Clone(r.Resume), slices.Clone(r.Stop) // the caller's may change
	a := e.newAnswer()
	s := &session{ctx: ctx, req: r, answer: a}
	return a, e.submit(s)
}

// Embed returns the model's final state at the last token, Dim values scaled
// to length one.
func (e *Engine) Embed(ctx context.Context, tokens []int32) ([]float32, error) {
	r := Request{Prompt: tokens}
	if err := r.check(e.opt.Context+1, e.m.Vocab); err != nil {
		return nil, err
	}
	a := e.newAnswer()
	s := &session{ctx: ctx, req: r, answer: a, hidden: make([]float32, e.m.Dim)}
	if err := e.submit(s); err != nil {
		return nil, err
	}
	if res := a.Result(); res.Err != nil {
		return nil, res.Err
	}
	length := float32(math.Sqrt(float64(arith.SumSquares(s.hidden))))
	for i, v := range s.hidden {
		s.hidden[i] = v / max(length, 0x1p-60)
	}
	return s.hidden, nil
}
