package train

import (
	"testing"

	"github.com/geistnet/geist/internal/matmul"
	"github.com/geistnet/geist/sat"
)

// TestTransitions makes steps and lets a verifier, who knows only the first
// roots and the rule, repeat them.
func TestTransitions(t *testing.T) {
	s := small()
	m := rough(t, s, 1)
	tr := NewTrainer(m, 1, matmul.Best(), 2)
	o := Tales().Optimiser
	p := NewProver(m)
	var trusted []sat.State
	for i := range m.Tables {
		st, err := p.State(m, i)
		if err != nil || st.Root != m.Tables[i].Root() {
			t.Fatalf("state %+v, error %v", st, err)
		}
		trusted = append(trusted, st)
	}
	for step := range 3 {
		if _, err := tr.Gradient(randomBatch(uint64(step), 1, s)); err != nil {
			t.Fatal(err)
		}
		rule := o.Rule(m.Step)
		transitions, err := p.Update(tr, &o)
		if err != nil {
			t.Fatal(err)
		}
		for i, x := range transitions {
			if len(x.IDs) == 0 || len(x.IDs) >= m.Tables[i].Rows && s.Blocks[i+1] == Hash {
				t.Fatalf("%d of %d rows changed", len(x.IDs), m.Tables[i].Rows)
			}
			next, err := x.Verify(trusted[i], rule)
			if err != nil {
				t.Fatalf("step %d, %s: %v", step, m.Tables[i].Name, err)
			}
			if want := m.Tables[i].Root(); next.Root != want {
				t.Fatalf("step %d, %s: the verifier gets root %v, the trainer has %v", step, m.Tables[i].Name, next.Root, want)
			}
			lie := *x
			lie.Updates = append([]byte(nil), x.Updates...)
			lie.Updates[1] ^= 1
			if _, err := lie.Verify(trusted[i], rule); err == nil {
				t.Fatal("an altered gradient goes unseen")
			}
			other := rule
			other.Adam.LR *= 2
			if _, err := x.Verify(trusted[i], other); err == nil {
				t.Fatal("another learning rate goes unseen")
			}
			trusted[i] = next
		}
	}
}
