package prove

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/geistnet/geist/arith"
	"github.com/geistnet/geist/audit"
	"github.com/geistnet/geist/internal/kernel"
	"github.com/geistnet/geist/merkle"
)

// The picture of a cell names every relation, and every opened leaf leads up to
// the receipt or the Ghost file.
func TestExplain(t *testing.T) {
	for name, relations := range map[string][]string{
		"llama q8_0":    {"query", "key", "value", "cached key", "largest score", "attention weight", "attention", "output", "hidden", "down"},
		"qwen3moe q8_0": {"query", "router", "hidden", "down"},
		"gemma3 q4_0":   {"query", "output norm", "down norm"},
		"geist f16":     {"query", "hidden", "down"},
	} {
		n := newNode(t, specs()[name], kernel.Best(), 1, 64)
		ch := audit.Challenge{Cells: 3, Tails: 1}
		run, proof := proven(t, n, ch)
		plain, packed := 0, 0
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
				if len(s.Opened) == 0 {
					t.Errorf("%s: %s opens nothing", name, s.Relation)
				}
				for _, o := range s.Opened {
					stored := proof[o.Offset:][:o.Stored]
					switch {
					case o.Packed:
						packed++
					case o.Stored != o.Bytes || merkle.HashLeaf(stored).String() != o.Hash:
						t.Errorf("%s: %s: leaf %d of %s is not at %d", name, s.Relation, o.Index, o.Tree, o.Offset)
					default:
						plain++
					}
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
		if plain == 0 || packed == 0 {
			t.Errorf("%s: %d leaves stand as they are and %d packed", name, plain, packed)
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

// proven is a run of n that answers 10 tokens, and its proof.
func proven(t *testing.T, n *Node, ch audit.Challenge) (*audit.Run, []byte) {
	t.Helper()
	run := answer(t, n, prompt(3, 40), 10, arith.Sampling{})
	x, err := n.Replay(run, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	if run.Trace, err = x.Root(); err != nil {
		t.Fatal(err)
	}
	proof, err := n.Prove(run, ch)
	if err != nil {
		t.Fatal(err)
	}
	return run, proof
}

// The picture of cells of memory blocks has the rows that the rule reads: of hashed
// n-grams one for each head of each order, of product keys all sub-keys and the rows
// of the best; and each row is one of the table's, opened under its root.
func TestExplainMemory(t *testing.T) {
	for _, name := range []string{"geist f16", "geist q8_0"} {
		n := newNode(t, specs()[name], kernel.Best(), 1, 64)
		m := n.Ghost
		ch := audit.Challenge{Cells: 24, Tails: 1}
		run, proof := proven(t, n, ch)
		seen := map[string]int{}
		for cell := range ch.Cells {
			e, err := audit.Explain(run, ch, proof, cell)
			if err != nil {
				t.Fatal(err)
			}
			y := &m.Layers[e.Layer]
			step := func(relation string) *audit.Step {
				i := slices.IndexFunc(e.Steps, func(s audit.Step) bool { return s.Relation == relation })
				if i < 0 {
					return nil
				}
				return &e.Steps[i]
			}
			if y.Memory == nil {
				if step("memory") != nil || step("memory query") != nil {
					t.Errorf("%s: layer %d, which has no memory, is pictured with some", name, e.Layer)
				}
				seen["dense"]++
				continue
			}
			// Items of a step by their tree.
			opened := func(relation, tree string) (indices []int) {
				s := step(relation)
				if s == nil {
					t.Fatalf("%s: layer %d has no step %q", name, e.Layer, relation)
				}
				for _, o := range s.Opened {
					if o.Tree == tree {
						indices = append(indices, o.Index)
					}
				}
				return indices
			}
			rule, table := &m.Rules[y.Memory.Rule], m.Tensors[y.Memory.Table]
			rows := opened("memory", table.Name)
			folded := slices.IndexFunc(e.Trees, func(x audit.Tree) bool { return x.Name == table.Name })
			if folded < 0 || e.Trees[folded].Root != table.Root.String() || e.Trees[folded].In != "the Ghost file" || e.Trees[folded].Opened < len(rows) {
				t.Errorf("%s: the table of layer %d is not led to its root: %+v", name, e.Layer, e.Trees)
			}
			for _, i := range rows {
				if i < 0 || i >= table.Rows {
					t.Errorf("%s: row %d of a table of %d", name, i, table.Rows)
				}
			}
			text := e.String()
			if !strings.Contains(text, "memory: ") || !strings.Contains(text, "─ "+table.Name+": ") {
				t.Errorf("%s: the text of layer %d leaves the memory out:\n%s", name, e.Layer, text)
			}
			if h := rule.Hash; h != nil {
				if most := len(h.Orders) * h.Heads; len(rows) < 1 || len(rows) > most {
					t.Errorf("%s: %d rows of hashed n-grams, want 1 to %d", name, len(rows), most)
				}
				if step("memory query") != nil {
					t.Errorf("%s: hashed n-grams have a query", name)
				}
				seen["hash"]++
				continue
			}
			p := rule.Product
			keys := &m.Tensors[y.Memory.Keys.Tensor]
			if got := opened("memory", keys.Name); len(got) != p.KeyRows() || !slices.IsSorted(got) || got[0] != y.Memory.Keys.Row0 {
				t.Errorf("%s: sub-keys %v are opened of %d", name, got, p.KeyRows())
			}
			if len(rows) < p.TopK || len(rows) > p.Heads*p.TopK {
				t.Errorf("%s: %d rows, of %d heads %d each", name, len(rows), p.Heads, p.TopK)
			}
			if got := opened("memory query", m.Tensors[y.Memory.Query.Tensor].Name); len(got) != 1 {
				t.Errorf("%s: rows %v of the query's matrix", name, got)
			}
			if !strings.Contains(text, fmt.Sprintf("%s: leaves %d to %d\n", keys.Name, y.Memory.Keys.Row0, y.Memory.Keys.Row0+p.KeyRows()-1)) {
				t.Errorf("%s: the sub-keys are not one line:\n%s", name, text)
			}
			seen["product"]++
		}
		for _, kind := range []string{"dense", "hash", "product"} {
			if seen[kind] == 0 {
				t.Errorf("%s: no cell of a %s layer was drawn: %v", name, kind, seen)
			}
		}
	}
}
