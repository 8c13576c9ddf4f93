package lab

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"

	"github.com/geistnet/geist/arith"
	"github.com/geistnet/geist/audit"
	"github.com/geistnet/geist/internal/kernel"
	"github.com/geistnet/geist/internal/model"
)

// HonestOptions of Honest.
type HonestOptions struct {
	Positions int64 // at least so many are audited and executed again
	Seed      uint64
	Progress  func(done, total int64)
}

// HonestReport counts accusations of nodes that did nothing wrong.
type HonestReport struct {
	Positions   int64    `json:"positions"`
	Runs        int      `json:"runs"`
	Models      []string `json:"models"`
	Paths       []string `json:"paths"`
	Threads     []int    `json:"threads"`
	Cells       int64    `json:"cells"` // checked
	Tails       int64    `json:"tails"`
	Accusations int      `json:"accusations"`
	Details     []string `json:"details,omitempty"` // of the first
}

var honestThreads = [...]int{1, 2, 3}

// Honest makes answers on one kernel path with some number of threads, has
// another path with another number execute them again, compares the roots,
// and audits the proofs that the second gives for the first's answers. Some of
// the prompts repeat one token, so that states repeat.
func Honest(ctx context.Context, o HonestOptions) (*HonestReport, error) {
	rep := &HonestReport{Models: shapeNames[:], Threads: honestThreads[:]}
	for _, p := range kernel.Paths() {
		rep.Paths = append(rep.Paths, p.String())
	}
	for i, name := range shapeNames {
		if err := rep.model(ctx, name, o, o.Positions*int64(i+1)/int64(len(shapeNames))); err != nil {
			return nil, fmt.Errorf("model %q: %w", name, err)
		}
	}
	return rep, nil
}

// model audits one model until there are most positions in all.
func (rep *HonestReport) model(ctx context.Context, name string, o HonestOptions, most int64) error {
	var nodes []*subject
	defer func() {
		for _, s := range nodes {
			s.close()
		}
	}()
	for i, p := range kernel.Paths() {
		for j, threads := range honestThreads {
			spec := shapes()[name]
			spec.Layers = 2
			s, err := newSubject(spec, p, threads, []int{256, 33, 100, 7, 64}[(i+j)%5])
			if err != nil {
				return err
			}
			nodes = append(nodes, s)
		}
	}
	for k := 0; rep.Positions < most; k++ {
		if err := ctx.Err(); err != nil {
			return err
		}
		r := rand.New(rand.NewPCG(o.Seed, uint64(rep.Runs)))
		prompt := drawPrompt(r, 100+r.IntN(400))
		if k%4 == 3 {
			for i := range prompt {
				prompt[i] = prompt[0]
			}
		}
		s := arith.Sampling{Temperature: float32(r.IntN(3)) * 0.5, TopP: 0.95}
		for i := range s.Seed {
			s.Seed[i] = byte(r.Uint32())
		}
		one := nodes[k%len(nodes)]
		other := nodes[(k+1+r.IntN(len(nodes)-1))%len(nodes)]
		run, err := one.answer(prompt, 1+r.IntN(24), s)
		if err != nil {
			return err
		}
		ch := audit.Challenge{Cells: 16, Tails: 4, Full: 4}
		for i := range ch.Seed {
			ch.Seed[i] = byte(r.Uint32())
		}
		if err := rep.audit(run, ch, one, other); err != nil {
			rep.Accusations++
			if len(rep.Details) < 10 {
				rep.Details = append(rep.Details, fmt.Sprintf("model %q, run %d: %v", name, rep.Runs, err))
			}
		}
		rep.Runs++
		rep.Positions += int64(run.Positions())
		if o.Progress != nil {
			o.Progress(min(rep.Positions, o.Positions), o.Positions)
		}
	}
	return nil
}

// audit compares the roots of two nodes and checks the other's proof.
func (rep *HonestReport) audit(run *audit.Run, ch audit.Challenge, one, other *subject) error {
	first, err := one.node.Replay(run, nil, nil)
	if err != nil {
		return err
	}
	if run.Trace, err = first.Root(); err != nil {
		return err
	}
	second, err := other.node.Open(run, ch)
	if err != nil {
		return err
	}
	root, err := second.Root()
	if err != nil {
		return err
	}
	if root != run.Trace {
		return errors.New("the roots differ")
	}
	proof, err := audit.Prove(run, ch, second)
	if err != nil {
		return err
	}
	x, err := audit.Verify(run, ch, proof)
	if err != nil {
		return err
	}
	rep.Cells += int64(x.Counts.Cells)
	rep.Tails += int64(x.Counts.Tails)
	return nil
}

// answer decodes token by token.
func (s *subject) answer(prompt []int32, length int, sampling arith.Sampling) (*audit.Run, error) {
	st := s.m.NewState(s.team, len(prompt))
	var c model.Cache
	for range (len(prompt)+length)/model.PagePositions + 1 {
		c.Pages = append(c.Pages, make([]byte, s.m.PageBytes()))
	}
	history := append([]int32(nil), prompt...)
	at := 0
	for i := range length {
		out, err := st.Forward([]model.Segment{{Cache: &c, Start: at, Tokens: history[at:], Before: history[:at], Logits: model.Last}})
		if err != nil {
			return nil, err
		}
		at = len(history)
		history = append(history, sample(out[0], &sampling, history, i))
	}
	return &audit.Run{Model: s.g, Prompt: prompt, Answer: history[len(prompt):], Sampling: sampling}, nil
}
