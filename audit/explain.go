package audit

import (
	"bytes"
	"fmt"
	"strings"

	"github.com/geistnet/geist/ghost"
	"github.com/geistnet/geist/merkle"
)

// Explanation is the picture of one cell of an accepted proof: what was opened
// for each relation, and how it leads up to what the asker knew before.
type Explanation struct {
	Cell     int    `json:"cell"`
	Position int    `json:"position"`
	Layer    int    `json:"layer"`
	Token    int32  `json:"token"` // at the position
	Steps    []Step `json:"steps"`
	Trees    []Tree `json:"trees"` // that the opened items lie in, from below upwards
	Trace    string `json:"trace"` // in the receipt
	Model    string `json:"model"` // id of the Ghost file, which has the roots of tensors
}

// Step is one relation that holds.
type Step struct {
	Relation string `json:"relation"`
	Says     string `json:"says"`
	Opened   []Item `json:"opened"`
}

// Item is one opened leaf.
type Item struct {
	Tree  string `json:"tree"`
	Index int    `json:"index"`
	Bytes int    `json:"bytes"`
	Hash  string `json:"hash"`
	// Where it stands in the proof: as it is in Bytes bytes, or with its floats packed in Stored.
	Offset int  `json:"offset"`
	Stored int  `json:"stored"`
	Packed bool `json:"packed"`
}

// Tree is a Merkle tree of which leaves were opened by the proof.
type Tree struct {
	Name     string `json:"name"`
	Leaves   int    `json:"leaves"`
	Opened   int    `json:"opened"`   // leaves, in the whole proof
	Siblings int    `json:"siblings"` // hashes in the multiproof
	Root     string `json:"root"`
	In       string `json:"in"` // where the root is a leaf or stands
}

// explainer notes what one cell opens. A nil one notes nothing.
type explainer struct {
	Source
	c      *checker
	want   int
	on     bool
	opened []Item
	known  map[place]bool // in opened, which has all sub-keys of a memory block
	proof  []byte
	read   *int           // bytes of the proof read so far, after its head
	at     map[place]span // of all leaves read so far
	out    *Explanation
	trees  []Tree
}

// place is where an opened leaf stands.
type place struct {
	tree  string
	index int
}

// span is a part of a proof.
type span struct{ offset, bytes int }

func (e *explainer) cell(i int) {
	if e != nil {
		e.on = i == e.want
	}
}

// passed notes a relation that holds.
func (c *checker) passed(relation, format string, a ...any) {
	if e := c.explain; e != nil && e.on {
		e.out.Steps = append(e.out.Steps, Step{relation, fmt.Sprintf(format, a...), e.opened})
		e.opened, e.known = nil, nil
	}
}

// item notes leaf index of a tree, which open gives.
func (e *explainer) item(tree string, index int, open func() ([]byte, error)) ([]byte, error) {
	before := *e.read
	b, err := open()
	if err != nil {
		return b, err
	}
	at := place{tree, index}
	if n := *e.read - before; n > 0 {
		e.at[at] = span{headBytes + before, n}
	}
	if !e.on || e.known[at] {
		return b, nil
	}
	if e.known == nil {
		e.known = map[place]bool{}
	}
	e.known[at] = true
	in := e.at[at]
	packed := !bytes.Equal(e.proof[in.offset:in.offset+in.bytes], b)
	e.opened = append(e.opened, Item{tree, index, len(b), merkle.HashLeaf(b).String(), in.offset, in.bytes, packed})
	return b, nil
}

func (e *explainer) Leaf(t, l, i int) ([]byte, error) {
	return e.item(layerName(t, l), i, func() ([]byte, error) { return e.Source.Leaf(t, l, i) })
}

func (e *explainer) Key(l, g, t int) ([]byte, error) {
	return e.item(cacheName(0, l, g), t, func() ([]byte, error) { return e.Source.Key(l, g, t) })
}

func (e *explainer) Column(l, g, d int) ([]byte, error) {
	return e.item(cacheName(1, l, g), d, func() ([]byte, error) { return e.Source.Column(l, g, d) })
}

func (e *explainer) Row(tensor, row int) ([]byte, error) {
	return e.item(e.c.Model.Tensors[tensor].Name, row, func() ([]byte, error) { return e.Source.Row(tensor, row) })
}

func layerName(t, l int) string { return fmt.Sprintf("position %d, layer %d", t, l) }
func positionName(t int) string { return fmt.Sprintf("position %d", t) }
func cacheName(j, l, g int) string {
	return fmt.Sprintf("cached %s of layer %d, head %d", [2]string{"keys", "values"}[j], l, g)
}

// tree notes a tree that was folded up to its root.
func (e *explainer) tree(name, in string, leaves, opened, siblings int, root merkle.Hash) {
	if e != nil {
		e.trees = append(e.trees, Tree{name, leaves, opened, siblings, root.String(), in})
	}
}

// Explain verifies a proof and pictures its cell number i.
func Explain(run *Run, ch Challenge, proof []byte, i int) (*Explanation, error) {
	if i < 0 || i >= ch.Cells {
		return nil, fmt.Errorf("explain cell %d of a proof with %d", i, ch.Cells)
	}
	if err := run.Check(); err != nil {
		return nil, err
	}
	out := &Explanation{Cell: i, Trace: run.Trace.String()}
	cells := ch.stream("cells", 0)
	for range i + 1 {
		out.Position, out.Layer = cells.below(run.Positions()), cells.below(len(run.Model.Layers))
	}
	out.Token, out.Model = run.token(out.Position), run.Model.ID().String()
	e := &explainer{want: i, out: out}
	if _, err := verify(run, ch, proof, e); err != nil {
		return nil, err
	}
	// Of all trees of the proof, those above what this cell opened.
	above := map[string]bool{}
	for _, s := range out.Steps {
		for _, o := range s.Opened {
			above[o.Tree] = true
		}
	}
	for _, t := range e.trees {
		if above[t.Name] {
			above[t.In] = true
			out.Trees = append(out.Trees, t)
		}
	}
	return out, nil
}

// String is the picture as text.
func (x *Explanation) String() string {
	var b strings.Builder
	short := func(h string) string { return h[:16] + "…" }
	fmt.Fprintf(&b, "Cell %d: position %d (token %d), layer %d\n", x.Cell, x.Position, x.Token, x.Layer)
	for _, s := range x.Steps {
		fmt.Fprintf(&b, "\n  %s: %s\n", s.Relation, s.Says)
		for i := 0; i < len(s.Opened); i++ {
			o := s.Opened[i]
			n := 1
			for i+1 < len(s.Opened) && s.Opened[i+1].Tree == o.Tree && s.Opened[i+1].Index == s.Opened[i].Index+1 {
				i++
				n++
			}
			if n > 1 {
				fmt.Fprintf(&b, "    ├─ %s: leaves %d to %d\n", o.Tree, o.Index, o.Index+n-1)
				continue
			}
			fmt.Fprintf(&b, "    ├─ %s: leaf %d (%d bytes) %s\n", o.Tree, o.Index, o.Bytes, short(o.Hash))
		}
	}
	b.WriteString("\n  up to the roots\n")
	for _, t := range x.Trees {
		fmt.Fprintf(&b, "    ├─ %s: %d of %d leaves and %d siblings give %s in %s\n", t.Name, t.Opened, t.Leaves, t.Siblings, short(t.Root), t.In)
	}
	fmt.Fprintf(&b, "    ├─ trace root %s, signed in the receipt\n", short(x.Trace))
	fmt.Fprintf(&b, "    └─ Ghost file %s, named in the receipt\n", x.Model)
	return b.String()
}

// ExplainFiles is Explain of what Judge accepts.
func ExplainFiles(runFile, ghostFile, proof []byte, size Size, i int) (*Explanation, error) {
	f, err := ParseRunFile(runFile)
	if err != nil {
		return nil, err
	}
	f.Size = size
	m, err := ghost.Decode(ghostFile)
	if err != nil {
		return nil, err
	}
	run, err := f.Run(m)
	if err != nil {
		return nil, err
	}
	return Explain(run, f.Challenge(), proof, i)
}
