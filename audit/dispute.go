package audit

import (
	"errors"
	"fmt"
	"math/bits"

	"github.com/geistnet/geist/ghost"
	"github.com/geistnet/geist/merkle"
)

// Fanout is the most hashes that one message of a descent has.
const Fanout = 256

// Node is a node of a trace seen as one tree: the tree of all positions, whose
// leaves are the roots of the positions' trees, and so on down to the leaves of
// values; or, beside it, the tree of the cache. Level 0 has a tree's leaves.
type Node struct {
	tree  tree
	level int
	index uint64
}

// Roots open a trace root.
type Roots struct{ Tokens, Positions, Cache merkle.Hash }

// Place is where two traces differ: a leaf.
type Place struct {
	tree tree
	leaf int
}

// Breach is an answer in a descent that contradicts what its party committed to
// before. Who gives one, or none in time, has lost.
type Breach struct {
	Party  int // 0 or 1
	Reason string
}

func (b *Breach) Error() string { return fmt.Sprintf("party %d: %s", b.Party, b.Reason) }

// Descent finds the first difference between two traces of the same tokens. It
// does no I/O: ask both parties for what Ask says, and give the answers to Step.
// A trace of p positions of a model of l layers with v leaves takes
// (⌈log₂ p⌉ + ⌈log₂(l+1)⌉ + ⌈log₂ v⌉) / 8 rounds, rounded up.
//
// All positions are compared before the cache: a key or value at a position
// follows from values of that position, so the first difference among positions
// comes first unless a value was computed from a forged cache; then the cache's
// difference is the earlier one, and Accuse finds it.
type Descent struct {
	model          *ghost.Model
	prompt, answer int
	ref            *referee

	rounds int
	roots  [2]merkle.Hash // trace roots
	at     Node
	hash   [2]merkle.Hash // of at
	place  *Place
}

// NewDescent begins a descent between two trace roots, which differ, of runs of
// as many tokens.
func NewDescent(m *ghost.Model, prompt, answer int, a, b merkle.Hash) (*Descent, error) {
	if prompt < 1 || answer < 1 {
		return nil, fmt.Errorf("a run of %d prompt and %d answer tokens is empty", prompt, answer)
	}
	if a == b {
		return nil, errors.New("the trace roots are equal: there is nothing to dispute")
	}
	return &Descent{model: m, prompt: prompt, answer: answer, roots: [2]merkle.Hash{a, b},
		ref: newReferee(m, prompt, answer, nil, func(ghost.Part) error { return nil })}, nil
}

// Rounds is the number of messages of each party so far.
func (d *Descent) Rounds() int { return d.rounds }

// Place is where the traces differ, once Step has said that it is found.
func (d *Descent) Place() *Place { return d.place }

func height(n int) int { return bits.Len(uint(n - 1)) }

func top0(tr tree, n int) Node { return Node{tree: tr, level: height(n)} }

// width is the number of leaves of a tree; 0 for a tree that has none because
// nothing was committed to there.
func (d *Descent) width(tr tree) (int, error) {
	switch tr.kind {
	case treeTop:
		return d.prompt + d.answer - 1, nil
	case treeRoots:
		return len(d.model.Layers) + 1, nil
	case treeLeaves:
		y, err := d.ref.layout(tr.a, tr.b)
		if err != nil {
			return 0, err
		}
		return y.Len(), nil
	case treeTail:
		return d.model.TailLeaves(), nil
	case treeCache:
		return d.model.CacheRoots(), nil
	case treeKeys:
		return d.prompt + d.answer - 1, nil
	case treeColumns:
		return d.model.ValDim, nil
	}
	return ghost.TokenLeaves(d.prompt + d.answer), nil
}

// below is the tree whose root is leaf i of tr; false if the leaf is the end.
func (d *Descent) below(tr tree, i int) (tree, bool) {
	switch tr.kind {
	case treeTop:
		return tree{treeRoots, i, 0}, true
	case treeRoots:
		if i < len(d.model.Layers) {
			return tree{treeLeaves, tr.a, i}, true
		}
		return tree{treeTail, tr.a, 0}, tr.a >= d.prompt-1
	case treeCache:
		return tree{treeKeys + i%2, i / 2 / d.model.KVHeads, i / 2 % d.model.KVHeads}, true
	}
	return tree{}, false
}

// children are the nodes that n is the hash of: one if n moved up alone or is
// the root of a tree that is a leaf above. None: n is the end.
func (d *Descent) children(n Node) ([]Node, error) {
	if n.level == 0 {
		tr, ok := d.below(n.tree, int(n.index))
		if !ok {
			return nil, nil
		}
		w, err := d.width(tr)
		return []Node{top0(tr, w)}, err
	}
	w, err := d.width(n.tree)
	if err != nil {
		return nil, err
	}
	under := (uint64(w) + 1<<(n.level-1) - 1) >> (n.level - 1) // nodes of the level below
	c := []Node{{n.tree, n.level - 1, 2 * n.index}}
	if 2*n.index+1 < under {
		c = append(c, Node{n.tree, n.level - 1, 2*n.index + 1})
	}
	return c, nil
}

// frontier are the nodes depth branchings below n.
func (d *Descent) frontier(n Node, depth int) ([]Node, error) {
	c, err := d.children(n)
	switch {
	case err != nil:
		return nil, err
	case len(c) == 0 || len(c) == 2 && depth == 0:
		return []Node{n}, nil
	case len(c) == 1:
		return d.frontier(c[0], depth)
	}
	a, err := d.frontier(c[0], depth-1)
	if err != nil {
		return nil, err
	}
	b, err := d.frontier(c[1], depth-1)
	return append(a, b...), err
}

// fold is the hash of n from those of its frontier, and how many it took.
func (d *Descent) fold(n Node, depth int, hashes []merkle.Hash) (merkle.Hash, int, error) {
	c, err := d.children(n)
	switch {
	case err != nil:
		return merkle.Hash{}, 0, err
	case len(c) == 0 || len(c) == 2 && depth == 0:
		return hashes[0], 1, nil
	case len(c) == 1:
		return d.fold(c[0], depth, hashes)
	}
	a, i, err := d.fold(c[0], depth-1, hashes)
	if err != nil {
		return a, i, err
	}
	b, j, err := d.fold(c[1], depth-1, hashes[i:])
	return merkle.HashNode(a, b), i + j, err
}

const fanoutBits = 8 // of Fanout

// Ask is what both parties are to send next. The first message has their Roots
// and the hashes below either the positions or, should those agree, the cache;
// so it is answered with both.
func (d *Descent) Ask() ([]Node, error) {
	if d.rounds == 0 {
		var all []Node
		for _, kind := range []int{treeTop, treeCache} {
			n, err := d.start(kind)
			if err != nil {
				return nil, err
			}
			f, err := d.frontier(n, fanoutBits-1)
			if err != nil {
				return nil, err
			}
			all = append(all, f...)
		}
		return all, nil
	}
	return d.frontier(d.at, fanoutBits)
}

func (d *Descent) start(kind int) (Node, error) {
	w, err := d.width(tree{kind: kind})
	return top0(tree{kind: kind}, w), err
}

// Answer is one party's message.
type Answer struct {
	Roots  Roots // of the first message
	Hashes []merkle.Hash
}

// Step takes both answers to Ask and reports whether the place is found. The
// error is a *Breach if a party contradicts itself.
func (d *Descent) Step(answers [2]Answer) (found bool, err error) {
	nodes, err := d.Ask()
	if err != nil {
		return false, err
	}
	for i, a := range answers {
		if len(a.Hashes) != len(nodes) {
			return false, &Breach{i, fmt.Sprintf("%d hashes, asked were %d", len(a.Hashes), len(nodes))}
		}
	}
	depth := fanoutBits
	var hashes [2][]merkle.Hash
	if d.rounds == 0 {
		depth--
		place, err := d.first(answers, nodes)
		if err != nil || place != nil {
			d.place, d.rounds = place, 1
			return place != nil, err
		}
	}
	for i, a := range answers {
		hashes[i] = a.Hashes
		if d.rounds == 0 {
			continue // first has compared them
		}
		h, _, err := d.fold(d.at, depth, a.Hashes)
		if err != nil {
			return false, err
		}
		if h != d.hash[i] {
			return false, &Breach{i, "the hashes do not lead to the one they are below"}
		}
	}
	d.rounds++
	for i, n := range nodes {
		if d.rounds == 1 && n.tree.kind >= treeKeys != (d.at.tree.kind >= treeKeys) {
			continue // the positions, or the cache, in which they agree
		}
		if hashes[0][i] == hashes[1][i] {
			continue
		}
		d.at, d.hash = n, [2]merkle.Hash{hashes[0][i], hashes[1][i]}
		c, err := d.children(n)
		if err != nil {
			return false, err
		}
		if len(c) == 0 {
			d.place = &Place{n.tree, int(n.index)}
		}
		return len(c) == 0, nil
	}
	return false, errors.New("audit: internal error: two roots over equal hashes differ")
}

// first checks the first answers and chooses between positions and cache. It
// gives a place if the tokens differ.
func (d *Descent) first(answers [2]Answer, nodes []Node) (*Place, error) {
	for i, a := range answers {
		r := a.Roots
		if ghost.TraceTop(d.prompt, d.answer, r.Tokens, r.Positions, r.Cache) != d.roots[i] {
			return nil, &Breach{i, "the roots do not lead to the signed one"}
		}
		rest := a.Hashes
		for j, kind := range []int{treeTop, treeCache} {
			n, err := d.start(kind)
			if err != nil {
				return nil, err
			}
			h, k, err := d.fold(n, fanoutBits-1, rest)
			if err != nil {
				return nil, err
			}
			if h != []merkle.Hash{r.Positions, r.Cache}[j] {
				return nil, &Breach{i, "the hashes do not lead to the roots"}
			}
			rest = rest[k:]
		}
	}
	a, b := answers[0].Roots, answers[1].Roots
	if a.Tokens != b.Tokens {
		return &Place{tree{kind: treeTokens}, 0}, nil
	}
	kind := treeTop
	if a.Positions == b.Positions {
		kind = treeCache
	}
	n, err := d.start(kind)
	d.at = n
	return nil, err
}

// Reply answers what a descent asks.
func (d *Descent) Reply(run *Run, p Prover) (Answer, error) {
	nodes, err := d.Ask()
	if err != nil {
		return Answer{}, err
	}
	var a Answer
	if d.rounds == 0 {
		for kind, to := range map[int]*merkle.Hash{treeTokens: &a.Roots.Tokens, treeTop: &a.Roots.Positions, treeCache: &a.Roots.Cache} {
			h, err := proofFrom(run, p, tree{kind: kind}, nil)
			if err != nil {
				return a, err
			}
			*to = h[0]
		}
	}
	levels := map[tree][][]merkle.Hash{}
	for _, n := range nodes {
		l := levels[n.tree]
		if l == nil {
			h, err := hashesFrom(run, p, n.tree)
			if err != nil {
				return a, err
			}
			l = allLevels(h)
			levels[n.tree] = l
		}
		if n.level >= len(l) || n.index >= uint64(len(l[n.level])) {
			return a, fmt.Errorf("the trace has no node %d of level %d", n.index, n.level)
		}
		a.Hashes = append(a.Hashes, l[n.level][n.index])
	}
	return a, nil
}

// allLevels are the levels of a tree from its leaves up.
func allLevels(h []merkle.Hash) [][]merkle.Hash {
	levels := [][]merkle.Hash{h}
	for len(h) > 1 {
		up := make([]merkle.Hash, 0, len(h)/2+1)
		for i := 0; i+1 < len(h); i += 2 {
			up = append(up, merkle.HashNode(h[i], h[i+1]))
		}
		if len(h)%2 == 1 {
			up = append(up, h[len(h)-1])
		}
		levels, h = append(levels, up), up
	}
	return levels
}

// Tokens reports whether the traces are of different tokens.
func (p *Place) Tokens() bool { return p.tree.kind == treeTokens }

// String names the place.
func (p *Place) String() string {
	a, b := p.tree.a, p.tree.b
	switch p.tree.kind {
	case treeLeaves:
		return fmt.Sprintf("position %d, layer %d, leaf %d", a, b, p.leaf)
	case treeTail:
		return fmt.Sprintf("position %d, logits, leaf %d", a, p.leaf)
	case treeRoots:
		return fmt.Sprintf("position %d, logits", a)
	case treeKeys:
		return fmt.Sprintf("layer %d, key head %d, cached key of position %d", a, b, p.leaf)
	case treeColumns:
		return fmt.Sprintf("layer %d, key head %d, dimension %d of cached values", a, b, p.leaf)
	}
	return "tokens"
}
