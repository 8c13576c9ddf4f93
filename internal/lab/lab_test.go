package lab

import (
	"math"
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
		s, err := newSubject(spec, kernel.Best(), 1, 64)
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
		if bad, err := s.convicts(rec.run); err != nil || bad {
			t.Errorf("%s: the plain pass and the engine differ (%v)", name, err)
		}
		ch := audit.Challenge{Cells: 16, Tails: 4, Full: 4}
		if _, err := audit.Verify(rec.run, ch, rec.prove(ch)); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// Every attack is caught as often as predicted. There are at least 50, and each
// has a name of its own.
func TestAttacks(t *testing.T) {
	trials := 8
	if testing.Short() {
		trials = 4
	}
	rep, err := Attacks(t.Context(), Options{Trials: trials, Seed: 1})
	if err != nil {
		t.Fatal(err)
	}
	names := map[string]bool{}
	for _, n := range Names() {
		if names[n] {
			t.Errorf("two attacks are called %q", n)
		}
		names[n] = true
	}
	if rep.Count < 50 || rep.Count != len(names) {
		t.Errorf("%d attacks of %d", rep.Count, len(names))
	}
	for _, r := range rep.Attacks {
		if !r.OK {
			t.Errorf("%s, c = %d: caught %d of %d, predicted %v; executed again %d, caught %d", r.Name, r.Cells, r.Caught, r.Trials, r.Predicted, r.ReExecuted, r.ReExecutedCaught)
		}
		if !(r.Predicted >= 0 && r.Predicted <= 1) || r.Theory == "" || r.What == "" || r.Family == "" || r.CaughtBy == "" {
			t.Errorf("%s: %+v", r.Name, r)
		}
	}
	if !rep.AllAsPredicted {
		t.Error("not all are as predicted")
	}
}

// The same seed gives the same report, and another one does not.
func TestAttacksRepeat(t *testing.T) {
	caught := func(seed uint64) int {
		rep, err := Attacks(t.Context(), Options{Trials: 200, Seed: seed, Only: "state-10-percent"})
		if err != nil {
			t.Fatal(err)
		}
		if rep.Count != 1 || len(rep.Attacks) != 2 {
			t.Fatalf("%d attacks with %d results", rep.Count, len(rep.Attacks))
		}
		return rep.Attacks[0].Caught
	}
	a := caught(1)
	if b := caught(1); a != b {
		t.Errorf("%d and %d are caught", a, b)
	}
	if caught(2) == a && caught(3) == a && caught(4) == a {
		t.Error("the seed does not matter")
	}
	if _, err := Attacks(t.Context(), Options{Only: "no such"}); err == nil {
		t.Error("an unknown attack is performed")
	}
}

// A result is not as predicted if the rate is far off or re-execution misses.
func TestJudge(t *testing.T) {
	for _, c := range []struct {
		r    Result
		want bool
	}{
		{Result{Trials: 300, Caught: 150, Predicted: 0.5, CaughtBy: ByAudit}, true},
		{Result{Trials: 300, Caught: 150, Predicted: 0.8, CaughtBy: ByAudit}, false},
		{Result{Trials: 300, Caught: 150, Predicted: 0.5, CaughtBy: ByAudit, ReExecuted: 2, ReExecutedCaught: 1}, false},
		{Result{Trials: 300, Caught: 0, Predicted: 1, CaughtBy: ByAudit}, false},
		{Result{Trials: 300, Caught: 299, Predicted: 1, CaughtBy: ByRoot}, false},
		{Result{Trials: 300, Caught: 300, Predicted: 1, CaughtBy: ByRoot}, true},
	} {
		if c.r.judge(); c.r.OK != c.want {
			t.Errorf("%+v", c.r)
		}
	}
	// Wilson (1927) for 8 of 10 at 1.96: 0.4902 to 0.9433.
	if lo, hi := Wilson(8, 10, 1.959964); math.Abs(lo-0.4902) > 1e-4 || math.Abs(hi-0.9433) > 1e-4 {
		t.Errorf("Wilson gives %v to %v", lo, hi)
	}
}

func TestHonest(t *testing.T) {
	positions := int64(4000)
	if testing.Short() {
		positions = 1500
	}
	rep, err := Honest(t.Context(), HonestOptions{Positions: positions, Seed: 1})
	if err != nil {
		t.Fatal(err)
	}
	if rep.Accusations != 0 || rep.Positions < positions || rep.Cells != 16*int64(rep.Runs) {
		t.Errorf("%+v", rep)
	}
}
