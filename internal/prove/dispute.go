package prove

import (
	"errors"
	"fmt"
	"sync"

	"github.com/geistnet/geist/audit"
	"github.com/geistnet/geist/ghost"
	"github.com/geistnet/geist/merkle"
)

// Party is a node that answers for one run in a dispute. It replays the run
// again for each position that it is asked about, since a trace is not stored:
// three times at most, unless a cache was forged. Its methods may be called
// concurrently.
type Party struct {
	*Execution // without kept leaves

	mu   sync.Mutex
	kept map[int]*Execution // by position
}

// NewParty replays a run.
func (n *Node) NewParty(run *audit.Run) (*Party, error) {
	x, err := n.Replay(run, nil, nil)
	if err != nil {
		return nil, err
	}
	return &Party{Execution: x, kept: map[int]*Execution{}}, nil
}

// position is a replay that kept all of position t.
func (p *Party) position(t int) (*Execution, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if x := p.kept[t]; x != nil {
		return x, nil
	}
	at := func(pos int) bool { return pos == t }
	x, err := p.node.Replay(p.run, func(pos, _ int) bool { return at(pos) }, at)
	if err == nil {
		p.kept[t] = x
	}
	return x, err
}

// Leaf implements audit.Source.
func (p *Party) Leaf(t, layer, leaf int) ([]byte, error) {
	x, err := p.position(t)
	if err != nil {
		return nil, err
	}
	return x.Leaf(t, layer, leaf)
}

// Tail implements audit.Source.
func (p *Party) Tail(t, leaf int) ([]byte, error) {
	x, err := p.position(t)
	if err != nil {
		return nil, err
	}
	return x.Tail(t, leaf)
}

// LeafHashes implements audit.Prover.
func (p *Party) LeafHashes(t, layer int) ([]merkle.Hash, error) {
	x, err := p.position(t)
	if err != nil {
		return nil, err
	}
	return x.LeafHashes(t, layer)
}

// LayerRoots implements audit.Prover.
func (p *Party) LayerRoots(t int) ([]merkle.Hash, error) {
	x, err := p.position(t)
	if err != nil {
		return nil, err
	}
	return x.LayerRoots(t)
}

// TailHashes implements audit.Prover.
func (p *Party) TailHashes(t int) ([]merkle.Hash, error) {
	x, err := p.position(t)
	if err != nil {
		return nil, err
	}
	return x.TailHashes(t)
}

// Side is one of the two who signed different traces of a run.
type Side struct {
	Receipt *ghost.Receipt
	Prover  audit.Prover
}

// Outcome is how a dispute ended.
type Outcome struct {
	Guilty     int // 0 or 1
	Rounds     int // messages of each party, the openings for the fraud proof among them
	Bytes      int // of all messages of both
	Breach     *audit.Breach
	Place      *audit.Place
	Fraud      []byte            // nil after a breach
	Conviction *audit.Conviction // of Guilty
}

// Dispute finds out which of two parties signed a trace that run cannot have.
// run has the tokens that both receipts are for, and salt is that of the request.
func Dispute(run *audit.Run, salt [32]byte, sides [2]Side) (*Outcome, error) {
	roots := [2]merkle.Hash{sides[0].Receipt.Trace, sides[1].Receipt.Trace}
	d, err := audit.NewDescent(run.Model, len(run.Prompt), len(run.Answer), roots[0], roots[1])
	if err != nil {
		return nil, err
	}
	out := &Outcome{}
	var first [2]audit.Roots
	for found := false; !found; {
		var answers [2]audit.Answer
		for i := range sides {
			if answers[i], err = d.Reply(run, sides[i].Prover); err != nil {
				// Who cannot answer has lost, as who answers wrongly.
				out.Breach = &audit.Breach{Party: i, Reason: err.Error()}
				out.Guilty = i
				return out, nil
			}
			out.Bytes += len(answers[i].Hashes) * len(merkle.Hash{})
			if d.Rounds() == 0 {
				first[i] = answers[i].Roots
				out.Bytes += 3 * len(merkle.Hash{})
			}
		}
		found, err = d.Step(answers)
		out.Rounds = d.Rounds()
		if errors.As(err, &out.Breach) {
			out.Guilty = out.Breach.Party
			return out, nil
		}
		if err != nil {
			return nil, err
		}
	}
	out.Place = d.Place()
	var failures error
	for i := range sides {
		fraud, rounds, err := accuse(run, salt, out.Place, sides[1-i].Prover, sides[i], first[i])
		if err != nil {
			failures = errors.Join(failures, fmt.Errorf("accuse party %d: %w", i, err))
			continue
		}
		c, err := audit.VerifyFraud(run.Model.ID(), sides[i].Receipt, fraud)
		if err != nil {
			failures = errors.Join(failures, fmt.Errorf("accuse party %d: %w", i, err))
			continue
		}
		out.Guilty, out.Fraud, out.Conviction = i, fraud, c
		out.Rounds += rounds
		out.Bytes += len(fraud)
		return out, nil
	}
	return nil, failures
}

// accuse makes the fraud proof against a side.
func accuse(run *audit.Run, salt [32]byte, place *audit.Place, own audit.Prover, accused Side, roots audit.Roots) ([]byte, int, error) {
	if place.Tokens() {
		return audit.BuildTokenFraud(salt, run.Prompt, run.Answer, roots.Tokens, roots.Positions, roots.Cache), 0, nil
	}
	c, rounds, err := audit.Accuse(run, place, own, accused.Prover)
	if err != nil {
		return nil, 0, err
	}
	theirs := *run
	theirs.Trace = accused.Receipt.Trace
	fraud, err := audit.BuildFraud(&theirs, c, own, accused.Prover)
	return fraud, rounds, err
}
