package lab

import (
	"math/rand/v2"
	"testing"

	"github.com/geistnet/geist/arith"
	"github.com/geistnet/geist/audit"
	"github.com/geistnet/geist/internal/kernel"
)

// The plain pass of the laboratory commits to the same root as the engine,
// and an audit accepts its proofs: so what an attack alters is all that is wrong.
func TestPlainPass(t *testing.T) {
	for name, spec := range shapes() {
		s, err := newSubject(spec, kernel.Best(), 1)
		if err != nil {
			t.Fatal(err)
		}
		defer s.close()
		r := rand.New(rand.NewPCG(1, 2))
		rec, err := recorded(s, s.row, drawPrompt(r, 30), 12, arith.Sampling{Temperature: 0.8}, hooks{})
		if err != nil {
			t.Fatal(err)
		}
		if err := rec.seal(); err != nil {
			t.Fatal(err)
		}
		root, err := s.replayRoot(rec.run)
		if err != nil {
			t.Fatal(err)
		}
		if root != rec.run.Trace {
			t.Errorf("%s: the plain pass and the engine differ", name)
		}
		ch := audit.Challenge{Cells: 16, Tails: 4, Full: 2}
		if _, err := audit.Verify(rec.run, ch, rec.prove(ch)); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestAttacks(t *testing.T) {
	rep, err := Attacks(t.Context(), Options{Trials: 40, Seed: 1})
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range rep.Attacks {
		t.Logf("%-28s c=%-2d %3d/%3d predicted %.4f re-executed %d/%d by %s ok=%v", r.Name, r.Cells, r.Caught, r.Trials, r.Predicted, r.ReExecutedCaught, r.ReExecuted, r.CaughtBy, r.OK)
		if !r.OK {
			t.Errorf("%s: caught %d of %d, predicted %v", r.Name, r.Caught, r.Trials, r.Predicted)
		}
	}
}
