package lab

import (
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"testing"

	"github.com/geistnet/geist/arith"
	"github.com/geistnet/geist/audit"
	"github.com/geistnet/geist/ghost"
	"github.com/geistnet/geist/internal/kernel"
	"github.com/geistnet/geist/internal/prove"
)

// TestDisputes lets providers move one value anywhere in a run, compute on from
// it and sign the result: in a dispute with an honest node they are convicted.
// GEIST_TRIALS sets the number for each model.
func TestDisputes(t *testing.T) {
	trials := 25
	if s := os.Getenv("GEIST_TRIALS"); s != "" {
		var err error
		if trials, err = strconv.Atoi(s); err != nil {
			t.Fatal(err)
		}
	}
	done, most := 0, 0
	var sizes []int
	found := map[string]int{}
	for k, name := range shapeNames {
		s, err := newSubject(shapes()[name], kernel.Best(), 1, 64)
		if err != nil {
			t.Fatal(err)
		}
		r := rand.New(rand.NewPCG(uint64(k), 11))
		for range trials {
			p := drawPrompt(r, 8+r.IntN(12))
			length := 2 + r.IntN(6)
			lie := at{stage: stage(r.IntN(int(logits) + 1)), t: r.IntN(len(p) + length - 1), l: r.IntN(len(s.g.Layers))}
			if lie.stage == logits {
				lie.t, lie.l = len(p)-1+r.IntN(length), -1
			} else if lie.stage == embedded {
				lie.l = 0
			}
			head, moved := -1, false
			liar, err := recorded(s, s.row, p, length, arith.Sampling{}, hooks{alter: func(_ *pass, a at, x []float32) {
				if a.stage != lie.stage || a.t != lie.t || a.l != lie.l && lie.stage != embedded || moved {
					return
				}
				if head++; len(x) == 0 || r.IntN(2) == 0 && a.i == 0 && head == 0 && a.stage != maxScore {
					return // perhaps a later head
				}
				i := r.IntN(len(x))
				x[i] += x[i]*0.25 + 0.0625
				moved = true
			}})
			if err != nil {
				t.Fatal(err)
			}
			if err := liar.seal(); err != nil {
				t.Fatal(err)
			}
			run := liar.run
			keep := func(int) bool { return true }
			honest, err := s.node.Replay(run, func(int, int) bool { return true }, keep)
			if err != nil {
				continue // the answer left what the model can compute
			}
			root, err := honest.Root()
			if err != nil {
				t.Fatal(err)
			}
			if root == run.Trace {
				continue // nothing was moved, or nothing that is committed to
			}
			lying := run.Trace
			sign := func(trace [32]byte, who byte) *ghost.Receipt {
				c := &ghost.Receipt{Time: 1, Model: s.g.ID(), Arithmetic: arith.Version, Prompt: ghost.HashTokens([32]byte{}, run.Prompt), Answer: ghost.HashTokens([32]byte{}, run.Answer),
					Finish: ghost.FinishLength, SeedRule: ghost.SeedRule1, Trace: trace, Grade: ghost.GhostAudited}
				if err := c.Sign(ghost.Secret{31: who}); err != nil {
					t.Fatal(err)
				}
				return c
			}
			guilty := r.IntN(2)
			var sides [2]prove.Side
			sides[guilty] = prove.Side{Receipt: sign(lying, 5), Prover: liar}
			sides[1-guilty] = prove.Side{Receipt: sign(root, 6), Prover: honest}
			out, err := prove.Dispute(run, [32]byte{}, sides)
			if err != nil {
				t.Fatalf("%s, %+v: %v", name, lie, err)
			}
			if out.Guilty != guilty || out.Conviction == nil || out.Rounds > 5 {
				t.Fatalf("%s, %+v: %+v", name, lie, out)
			}
			if _, err := audit.VerifyFraud(s.g.ID(), sides[1-guilty].Receipt, out.Fraud); err == nil {
				t.Fatalf("%s, %+v: the honest node is convicted too", name, lie)
			}
			done++
			most = max(most, out.Rounds)
			sizes = append(sizes, len(out.Fraud))
			found[out.Conviction.Claim.Relation.String()]++
		}
		s.close()
	}
	if done < trials {
		t.Fatalf("only %d of %d lies changed anything", done, trials*len(shapeNames))
	}
	slices.Sort(sizes)
	t.Logf("%d lies convicted, at most %d rounds, fraud proofs of %d bytes median, %d at most: %v", done, most, sizes[len(sizes)/2], sizes[len(sizes)-1], found)
}
