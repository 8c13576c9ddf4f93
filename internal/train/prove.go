package train

import (
	"encoding/binary"
	"fmt"
	"math"

	"github.com/geistnet/geist/merkle"
	"github.com/geistnet/geist/sat"
)

// A Prover keeps the trees over the records of a model's tables and makes a
// sat.Transition of every table in every step: who knows the root before and
// trusts the gradients repeats Adam on the rows that changed and gets the root
// after, and sees that no other row changed.
type Prover struct {
	trees []*merkle.Tree
}

// NewProver hashes all records of m.
func NewProver(m *Model) *Prover {
	p := &Prover{}
	for _, t := range m.Tables {
		p.trees = append(p.trees, t.tree())
	}
	return p
}

// State is what a verifier trusts of table i before the next step of m.
func (p *Prover) State(m *Model, i int) (sat.State, error) {
	root, err := p.trees[i].Root()
	return sat.State{Shape: m.Tables[i].RecordShape(), Commit: uint64(m.Step), Root: root}, err
}

// Rule is how rows change in the step after step steps.
func (o *Optimiser) Rule(step int) sat.UpdateRule {
	return sat.UpdateRule{Kind: sat.AdamStep, Adam: o.rows(step)}
}

// Update is t.Update with a transition for every table, in order of Tables.
func (p *Prover) Update(t *Trainer, o *Optimiser) ([]*sat.Transition, error) {
	m := t.m
	var out []*sat.Transition
	for i, g := range t.RowGrads() {
		tab := m.Tables[i]
		tr := &sat.Transition{Shape: tab.RecordShape(), Rule: o.Rule(m.Step), Commit: uint64(m.Step + 1)}
		var err error
		if tr.Before, err = p.trees[i].Root(); err != nil {
			return nil, err
		}
		for _, r := range g.Rows {
			tr.IDs = append(tr.IDs, uint64(r))
			tr.Records = tab.Record(tr.Records, r)
		}
		for _, x := range g.G {
			tr.Updates = binary.LittleEndian.AppendUint32(tr.Updates, math.Float32bits(x))
		}
		if tr.Proof, err = p.trees[i].Prove(tr.IDs); err != nil {
			return nil, fmt.Errorf("prove rows of %s: %w", tab.Name, err)
		}
		out = append(out, tr)
	}
	if err := t.Update(o); err != nil {
		return nil, err
	}
	for i, tr := range out {
		leaves := make([]merkle.Hash, len(tr.IDs))
		var buf []byte
		for j, id := range tr.IDs {
			buf = m.Tables[i].Record(buf[:0], int(id))
			leaves[j] = merkle.HashLeaf(buf)
		}
		if err := p.trees[i].Update(tr.IDs, leaves); err != nil {
			return nil, fmt.Errorf("update the tree of %s: %w", m.Tables[i].Name, err)
		}
		var err error
		if tr.After, err = p.trees[i].Root(); err != nil {
			return nil, err
		}
	}
	return out, nil
}
