package prove

import (
	"slices"
	"strings"
	"testing"

	"github.com/geistnet/geist/arith"
	"github.com/geistnet/geist/audit"
	"github.com/geistnet/geist/internal/kernel"
)

// The picture of a cell names every relation, and every opened leaf leads up to
// the receipt or the Ghost file.
func TestExplain(t *testing.T) {
	for name, relations := range map[string][]string{
		"llama q8_0":    {"query", "key", "value", "cached key", "largest score", "attention weight", "attention", "output", "hidden", "down"},
		"qwen3moe q8_0": {"query", "router", "hidden", "down"},
		"gemma3 q4_0":   {"query", "output norm", "down norm"},
	} {
		n := newNode(t, specs()[name], kernel.Best(), 1, 64)
		run := answer(t, n, prompt(3, 40), 10, arith.Sampling{})
		x, err := n.Replay(run, nil, nil)
		if err != nil {
			t.Fatal(err)
		}
		if run.Trace, err = x.Root(); err != nil {
			t.Fatal(err)
		}
		ch := audit.Challenge{Cells: 3, Tails: 1}
		proof, err := n.Prove(run, ch)
		if err != nil {
			t.Fatal(err)
		}
		for cell := range ch.Cells {
			e, err := audit.Explain(run, ch, proof, cell)
			if err != nil {
				t.Fatal(err)
			}
			in := map[string]string{"the trace root": "", "the Ghost file": ""}
			for _, tree := range e.Trees {
				in[tree.Name] = tree.In
			}
			var got []string
			for _, s := range e.Steps {
				got = append(got, s.Relation)
				for _, o := range s.Opened {
					at := o.Tree
					for at != "the trace root" && at != "the Ghost file" {
						up, ok := in[at]
						if !ok {
							t.Fatalf("%s: %s: %q leads nowhere", name, s.Relation, at)
						}
						at = up
					}
				}
			}
			for _, r := range relations {
				if !slices.Contains(got, r) {
					t.Errorf("%s: cell %d has the relations %q and not %q", name, cell, got, r)
				}
			}
			if text := e.String(); !strings.Contains(text, "signed in the receipt") {
				t.Errorf("%s: %s", name, text)
			}
		}
		if _, err := audit.Explain(run, ch, proof, 3); err == nil {
			t.Error("a cell that is not there is explained")
		}
		proof[len(proof)/2] ^= 1
		if _, err := audit.Explain(run, ch, proof, 0); err == nil {
			t.Error("a damaged proof is explained")
		}
	}
}
