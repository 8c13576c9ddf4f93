package bench

import (
	"context"
	"fmt"
	"runtime"
	"slices"
	"sync"
	"time"

	"github.com/geistnet/geist/arith"
	"github.com/geistnet/geist/internal/engine"
)

// sessionContext is the number of positions that the longest session needs.
// Prompts differ in length, so that sessions do not stand at the same position.
func (b *bench) sessionContext() int { return before + max(b.Sessions, 1) + b.Decode }

// request is what session i asks. Every fourth one draws its tokens by a
// temperature, the others take the largest logit.
func (b *bench) request(i int) engine.Request {
	r := engine.Request{Prompt: prompt(3+i, before+i, b.m.Vocab), MaxTokens: b.Decode, TopLogProbs: -1}
	if i%4 == 3 {
		r.Sampling = arith.Sampling{Temperature: 0.8}
		r.Sampling.Seed[0] = byte(i)
	}
	return r
}

// engineOptions are for an engine that holds all sessions at once.
func (b *bench) engineOptions() engine.Options {
	n := max(b.Sessions, 1)
	each := pages(b.sessionContext()) * b.m.PageBytes()
	return engine.Options{Context: b.sessionContext(), Sessions: n, Batch: batch, KVBytes: int64(n * each), NoReuse: true}
}

func (b *bench) engine(threads int) (*engine.Engine, error) {
	runtime.GC() // one state at a time
	return engine.New(b.m, nil, b.teams[threads], b.engineOptions())
}

// answer is one session's tokens and when each came.
type answer struct {
	tokens []int32
	times  []time.Time
	err    error
}

func (b *bench) ask(ctx context.Context, e *engine.Engine, i int) (a answer) {
	s, err := e.Generate(ctx, b.request(i))
	if err != nil {
		return answer{err: err}
	}
	for t, ok := s.Next(); ok; t, ok = s.Next() {
		a.tokens, a.times = append(a.tokens, t.ID), append(a.times, b.Now())
	}
	if r := s.Result(); r.Err != nil {
		a.err = fmt.Errorf("session %d: %w", i, r.Err)
	} else if len(a.tokens) != b.Decode {
		a.err = fmt.Errorf("session %d ended after %d of %d tokens", i, len(a.tokens), b.Decode)
	}
	return a
}

// runAlone keeps what each session answers when it runs alone.
func (b *bench) runAlone(ctx context.Context, threads int) error {
	if b.Sessions == 0 {
		return nil
	}
	e, err := b.engine(threads)
	if err != nil {
		return err
	}
	defer e.Close()
	for i := range b.Sessions {
		a := b.ask(ctx, e, i)
		if a.err != nil {
			return a.err
		}
		b.alone = append(b.alone, a.tokens)
	}
	return nil
}

// sessions times the first session alone and then all of them together.
func (b *bench) sessions(ctx context.Context, run *Run) error {
	if b.Sessions == 0 {
		return nil
	}
	e, err := b.engine(run.Threads)
	if err != nil {
		return err
	}
	defer e.Close()
	one := b.ask(ctx, e, 0)
	if one.err != nil {
		return one.err
	}
	all := make([]answer, b.Sessions)
	var wg sync.WaitGroup
	for i := range all {
		wg.Go(func() { all[i] = b.ask(ctx, e, i) })
	}
	wg.Wait()
	for i, a := range all {
		if a.err != nil {
			return a.err
		}
		run.SessionsEqual = run.SessionsEqual && slices.Equal(a.tokens, b.alone[i])
	}
	run.SessionsEqual = run.SessionsEqual && slices.Equal(one.tokens, b.alone[0])
	run.SingleRounds = append(run.SingleRounds, decodeRate(one))
	run.SessionsRounds = append(run.SessionsRounds, decodeRate(all...))
	return nil
}

// decodeRate is the rate of tokens between the moment when all sessions have
// had their first token and the last token of all, prompts thus left out. Of a
// model so fast that its tokens wait for their readers, the times say nothing:
// the rate is 0 then.
func decodeRate(all ...answer) float64 {
	const least = 5 * time.Millisecond
	var begin, end time.Time
	for _, a := range all {
		if t := a.times[0]; t.After(begin) {
			begin = t
		}
		if t := a.times[len(a.times)-1]; t.After(end) {
			end = t
		}
	}
	if end.Sub(begin) < least {
		return 0
	}
	n := 0
	for _, a := range all {
		for _, t := range a.times {
			if t.After(begin) {
				n++
			}
		}
	}
	return rate(n, end.Sub(begin))
}
