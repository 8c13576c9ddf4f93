package prove

import (
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/geistnet/geist/arith"
	"github.com/geistnet/geist/audit"
	"github.com/geistnet/geist/ghost"
	"github.com/geistnet/geist/internal/kernel"
	"github.com/geistnet/geist/internal/tokenizer"
)

// Ends agrees with decoding every beginning of an answer anew.
func TestEnds(t *testing.T) {
	n := newNode(t, specs()["llama q8_0"], kernel.Best(), 1, 64)
	tok, err := tokenizer.New(n.File)
	if err != nil {
		t.Fatal(err)
	}
	r := rand.New(rand.NewPCG(3, 4))
	found, ended := 0, 0
	for range 300 {
		q := &ghost.Request{}
		for range r.IntN(3) {
			q.Stop = append(q.Stop, tok.Decode([]int32{int32(r.IntN(tok.Size())), int32(r.IntN(tok.Size()))}, false))
		}
		q.Stop = slices.DeleteFunc(q.Stop, func(x string) bool { return x == "" })
		var answer []int32
		for range 20 {
			answer = append(answer, int32(r.IntN(tok.Size())))
		}
		ends := Ends(tok)(q)
		for i := range answer {
			text := tok.Decode(answer[:i+1], false)
			stop := slices.ContainsFunc(q.Stop, func(x string) bool { return strings.Contains(text, x) })
			eog := tok.IsEOG(answer[i])
			if stop {
				found++
			}
			if eog {
				ended++
			}
			whole := Ends(tok)(q)
			if got := ends(answer[:i+1]); got != (stop || eog) || whole(answer[:i+1]) != got {
				t.Fatalf("%q with stop texts %q: %v, of all at once %v", text, q.Stop, got, whole(answer[:i+1]))
			}
			if stop || eog {
				break
			}
		}
	}
	if found == 0 || ended == 0 {
		t.Errorf("%d stop texts and %d end tokens were met", found, ended)
	}
}

// A judge refuses an answer that did not end as the receipt says.
func TestEnding(t *testing.T) {
	n := newNode(t, specs()["llama q8_0"], kernel.Best(), 1, 64)
	s := arith.Sampling{Temperature: 0.8}
	p := prompt(8, 20)
	s.Seed = seedOf(n.Ghost, p, 10, s)
	run := answer(t, n, p, 10, s)
	x, err := n.Replay(run, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	if run.Trace, err = x.Root(); err != nil {
		t.Fatal(err)
	}
	g, err := ghost.Encode(n.Ghost)
	if err != nil {
		t.Fatal(err)
	}
	at := func(end int) *audit.Ending {
		return &audit.Ending{Ends: func(*ghost.Request) func([]int32) bool { return func(a []int32) bool { return len(a) == end } }}
	}
	cancelled := at(0)
	cancelled.Cancelled = true
	for _, c := range []struct {
		name   string
		finish ghost.Finish
		most   int
		end    *audit.Ending
		ok     bool
	}{
		{"the most tokens", ghost.FinishLength, 10, nil, true},
		{"the most tokens, with the tokenizer", ghost.FinishLength, 10, at(0), true},
		{"fewer than the most", ghost.FinishLength, 11, nil, false},
		{"fewer than the most, with the tokenizer", ghost.FinishLength, 11, at(0), false},
		{"an end before", ghost.FinishLength, 10, at(6), false},
		{"an end before, which only the tokenizer shows", ghost.FinishLength, 10, nil, true},
		{"an end token", ghost.FinishStop, 20, at(10), true},
		{"no end token", ghost.FinishStop, 20, at(0), false},
		{"an end token, which only the tokenizer shows", ghost.FinishStop, 20, nil, true},
		{"cancelled", ghost.FinishCancelled, 20, cancelled, true},
		{"not cancelled", ghost.FinishCancelled, 20, at(0), false},
	} {
		// The seed depends on the request, and with it the draw: no full tails.
		file := seal(t, run, audit.Size{Cells: 1, Tails: 1})
		file.Request.MaxTokens = c.most
		file.Receipt.Request, file.Receipt.Finish = file.Request.Hash(), c.finish
		if err := file.Receipt.Sign(ghost.Secret{31: 7}); err != nil {
			t.Fatal(err)
		}
		b, err := file.Encode()
		if err != nil {
			t.Fatal(err)
		}
		proof, err := n.Prove(run, file.Challenge())
		if err != nil {
			t.Fatal(err)
		}
		v := audit.JudgeEnding(b, g, proof, nil, c.end)
		if v.Accepted != c.ok || !c.ok && !strings.Contains(v.Reason, "answer") {
			t.Errorf("%s: accepted %v: %s", c.name, v.Accepted, v.Reason)
		}
	}
}
