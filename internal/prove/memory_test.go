package prove

import (
	"bytes"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/geistnet/geist/arith"
	"github.com/geistnet/geist/audit"
	"github.com/geistnet/geist/ghost"
	"github.com/geistnet/geist/internal/kernel"
)

// Lies about memory blocks are found and proven: about a query, and about what
// follows from rows of hashed n-grams (layer 0) and of product keys (layer 1).
// No honest node is convicted of any.
func TestMemoryDispute(t *testing.T) {
	for _, name := range []string{"geist f16", "geist q8_0"} {
		n := newNode(t, specs()[name], kernel.Best(), 1, 64)
		run := answer(t, n, prompt(3, 30), 12, arith.Sampling{})
		honest := copyOf(t, n, run)
		run.Trace = honest.root()
		good := seal(t, run, audit.Standard, ghost.Nonce{2}).Receipt
		r := rand.New(rand.NewPCG(8, 8))
		for _, lie := range []struct {
			v     ghost.Value
			layer int
			want  []audit.Relation
		}{
			{ghost.MemoryQuery, 1, []audit.Relation{audit.MemoryQueryElement}},
			{ghost.Hidden, 0, []audit.Relation{audit.HiddenElement, audit.HiddenScale, audit.HiddenPeak}},
			{ghost.Hidden, 1, []audit.Relation{audit.HiddenElement, audit.HiddenScale, audit.HiddenPeak}},
		} {
			for i := range 12 {
				liar := copyFrom(honest.Prover.(*Execution), run)
				at := r.IntN(run.Positions())
				if i == 0 {
					at = 0 // before it there are no tokens
				}
				sp := run.Model.Layout(lie.layer, at).Span(lie.v, 0)
				leaf := liar.leaves[[2]int{at, lie.layer}][sp.First+r.IntN(sp.Leaves())]
				leaf[r.IntN(len(leaf))] ^= 1 << r.IntN(8)
				theirs := *run
				theirs.Trace = liar.root()
				bad := seal(t, &theirs, audit.Standard, ghost.Nonce{2}).Receipt
				out, err := Dispute(run, [32]byte{3}, [2]Side{{good, honest}, {bad, liar}})
				if err != nil || out.Guilty != 1 || out.Conviction == nil {
					t.Fatalf("%s, value %d of layer %d: %v %+v", name, lie.v, lie.layer, err, out)
				}
				if c := out.Conviction.Claim; !slices.Contains(lie.want, c.Relation) || c.Position != at || c.Layer != lie.layer {
					t.Errorf("%s, value %d of layer %d: convicted of %+v", name, lie.v, lie.layer, c)
				}
				if _, err := audit.VerifyFraud(good.Model, good, out.Fraud); err == nil {
					t.Errorf("%s, value %d of layer %d: the proof convicts the honest one", name, lie.v, lie.layer)
				}
				for range 100 {
					b := bytes.Clone(out.Fraud)
					b[r.IntN(len(b))] ^= 1 << r.IntN(8)
					if c, err := audit.VerifyFraud(good.Model, bad, b); err == nil {
						t.Fatalf("%s: an altered proof is accepted: %v", name, c)
					}
				}
			}
		}
		holds := map[audit.Relation]int{}
		for range 300 {
			for _, relation := range []audit.Relation{audit.MemoryQueryElement, audit.HiddenElement, audit.HiddenScale, audit.HiddenPeak} {
				c := audit.Claim{Relation: relation, Position: r.IntN(run.Positions()), Layer: r.IntN(3), Element: r.IntN(200)}
				_, err := audit.BuildFraud(run, c, honest, honest)
				if err == nil {
					t.Fatalf("%s: %+v convicts an honest node", name, c)
				}
				if strings.Contains(err.Error(), "no fraud") {
					holds[relation]++
				}
			}
		}
		if holds[audit.MemoryQueryElement] < 50 || holds[audit.HiddenElement] < 250 {
			t.Errorf("%s: only %v claims made sense", name, holds)
		}
	}
}

// A proof shows the rows that the rule picks and no others: with other rows, in
// the place of the right ones, it is refused.
func TestMemoryRows(t *testing.T) {
	for _, name := range []string{"geist f16", "geist q8_0"} {
		n := newNode(t, specs()[name], kernel.Best(), 1, 64)
		run := answer(t, n, prompt(2, 40), 20, arith.Sampling{})
		ch := audit.Challenge{Cells: 12, Tails: 1}
		x, err := n.Open(run, ch)
		if err != nil {
			t.Fatal(err)
		}
		if run.Trace, err = x.Root(); err != nil {
			t.Fatal(err)
		}
		proof, err := audit.Prove(run, ch, x)
		if err != nil {
			t.Fatal(err)
		}
		rep, err := audit.Verify(run, ch, proof)
		if err != nil {
			t.Fatal(err)
		}
		if rep.Counts.Recalls < 4 || rep.Counts.Recalls == 12 {
			t.Errorf("%s: %d of 12 cells have memory", name, rep.Counts.Recalls)
		}
		opened := map[int]bool{}
		for l := range 2 {
			m := run.Model.Layers[l].Memory
			for _, tensor := range []int{m.Table, m.Keys.Tensor} {
				if tensor == 0 || opened[tensor] {
					continue
				}
				opened[tensor] = true
				// The checks fail on the prover's side already; it sends all the same.
				bad, _ := audit.Prove(run, ch, &swapped{x, tensor})
				if _, err := audit.Verify(run, ch, bad); err == nil {
					t.Errorf("%s: other rows of %s are accepted", name, run.Model.Tensors[tensor].Name)
				}
			}
		}
	}
}

// swapped opens the row after the one asked for.
type swapped struct {
	*Execution
	tensor int
}

func (s *swapped) Row(tensor, row int) ([]byte, error) {
	if tensor == s.tensor {
		row = (row + 1) % s.node.Ghost.Tensors[tensor].Rows
	}
	return s.Execution.Row(tensor, row)
}
