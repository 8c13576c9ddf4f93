// Package prove runs answers again with a trace: to compare roots, and to open
// what a challenge asks for. One prefill of the conversation does either, since
// traces are a function of the tokens alone and are never stored.
package prove

import (
	"fmt"
	"sync"

	"github.com/geistnet/geist/audit"
	"github.com/geistnet/geist/ghost"
	"github.com/geistnet/geist/internal/gguf"
	"github.com/geistnet/geist/internal/hashmany"
	"github.com/geistnet/geist/internal/kernel"
	"github.com/geistnet/geist/internal/model"
	"github.com/geistnet/geist/merkle"
)

// Node is a loaded model that can be asked to repeat runs of it. Its methods
// may be called concurrently; replays wait for each other.
type Node struct {
	Model *model.Model
	Ghost *ghost.Model
	File  *gguf.File
	team  *kernel.Team
	batch int

	mu    sync.Mutex // one replay at a time
	state *model.State
	trace *model.Trace
	trees map[int]*merkle.Tree // of weight rows
}

// NewNode makes a node of a loaded model and its description, for passes of up
// to batch tokens.
func NewNode(m *model.Model, g *ghost.Model, f *gguf.File, team *kernel.Team, batch int) *Node {
	n := &Node{Model: m, Ghost: g, File: f, team: team, batch: batch, trees: map[int]*merkle.Tree{}}
	n.state = m.NewState(team, batch)
	n.trace = n.state.NewTrace(g)
	n.state.Watch(n.trace)
	return n
}

// Execution is one replay of a run.
type Execution struct {
	node      *Node
	run       *audit.Run
	cache     model.Cache
	positions []merkle.Hash
	layers    map[int][]merkle.Hash // of kept positions: layer roots, then the tail's
	leaves    map[[2]int][][]byte
	tails     map[int][][]byte
	subroots  func() []merkle.Hash

	mu    sync.Mutex
	heads map[[2]int]*[2][][]byte // of the cache, by layer and key head: key rows, value columns
}

// Replay computes the trace of a run again. keep tells which layers of which
// positions to hold for opening, keepTail the same for logits; either may be
// nil.
func (n *Node) Replay(run *audit.Run, keep func(pos, layer int) bool, keepTail func(pos int) bool) (*Execution, error) {
	return n.replay(run, nil, keep, keepTail)
}

// replay is Replay. With the run's outline only the positions are hashed of
// which something is kept; the others' roots are the outline's.
func (n *Node) replay(run *audit.Run, outline *ghost.Outline, keep func(pos, layer int) bool, keepTail func(pos int) bool) (*Execution, error) {
	if err := run.Check(); err != nil {
		return nil, err
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	x := &Execution{node: n, run: run, layers: map[int][]merkle.Hash{}, leaves: map[[2]int][][]byte{}, tails: map[int][][]byte{}, heads: map[[2]int]*[2][][]byte{}}
	total := run.Positions()
	for range (total + model.PagePositions - 1) / model.PagePositions {
		x.cache.Pages = append(x.cache.Pages, make([]byte, n.Model.PageBytes()))
	}
	n.trace.Keep, n.trace.Only = nil, nil
	if keep != nil {
		n.trace.Keep = func(_, pos, layer int) bool { return keep(pos, layer) }
	}
	logits := func(pos int) bool { return pos >= len(run.Prompt)-1 }
	if outline != nil {
		if len(outline.Positions) != total {
			return nil, fmt.Errorf("an outline of %d positions for a run of %d", len(outline.Positions), total)
		}
		touched := make([]bool, total)
		answered := logits
		for t := range touched {
			for l := range n.Ghost.Layers {
				touched[t] = touched[t] || keep(t, l)
			}
			touched[t] = touched[t] || keepTail(t)
		}
		n.trace.Only = func(_, pos int) bool { return touched[pos] }
		logits = func(pos int) bool { return answered(pos) && touched[pos] }
	}
	for at := 0; at < total; {
		segs := n.next(run, &x.cache, at, logits)
		out, err := n.state.Forward(segs)
		if err != nil {
			return nil, fmt.Errorf("replay positions from %d on: %w", at, err)
		}
		row := 0
		for s, g := range segs {
			for range g.Tokens {
				pos := at + row
				if outline != nil && !n.trace.Only(s, pos) {
					x.positions = append(x.positions, outline.Positions[pos])
					row++
					continue
				}
				x.positions = append(x.positions, n.trace.Root(row))
				kept := false
				for l := range n.Ghost.Layers {
					if k := n.trace.TakeKept(s, pos, l); k != nil {
						x.leaves[[2]int{pos, l}], kept = k, true
					}
				}
				if g.Logits == model.All {
					if keepTail != nil && keepTail(pos) {
						x.tails[pos], kept = model.TailLeaves(out[0]), true
					}
					out = out[1:]
				}
				if kept {
					layers, tail := n.trace.LayerRoots(row)
					x.layers[pos] = append(append([]merkle.Hash(nil), layers...), tail)
				}
				row++
			}
		}
		at += row
	}
	x.subroots = sync.OnceValue(func() []merkle.Hash {
		n.mu.Lock()
		defer n.mu.Unlock()
		return n.trace.CacheSubroots(n.team, &x.cache, total)
	})
	return x, nil
}

// mostLogits is how many positions of one pass may have logits, which are large.
const mostLogits = 128

// next cuts the positions of a run from at on into the segments of one pass:
// those with logits, and those without.
func (n *Node) next(run *audit.Run, cache *model.Cache, at int, logits func(pos int) bool) (segs []model.Segment) {
	tokens := append(append([]int32(nil), run.Prompt...), run.Answer...)[:run.Positions()]
	end := min(at+n.batch, len(tokens))
	for wanted := 0; at < end && wanted < mostLogits; {
		g := model.Segment{Cache: cache, Start: at, Before: tokens[:at]}
		if logits(at) {
			g.Logits = model.All
		}
		for at < end && wanted < mostLogits && logits(at) == (g.Logits == model.All) {
			if at++; g.Logits == model.All {
				wanted++
			}
		}
		g.Tokens = tokens[g.Start:at]
		segs = append(segs, g)
	}
	return segs
}

// Outline is the run's trace down to the roots of its positions.
func (x *Execution) Outline() (*ghost.Outline, error) {
	cache, err := merkle.FromLeaves(append([]merkle.Hash(nil), x.subroots()...), hashmany.New()).Root()
	return &ghost.Outline{Positions: append([]merkle.Hash(nil), x.positions...), Cache: cache}, err
}

// Root is the run's trace root.
func (x *Execution) Root() (merkle.Hash, error) {
	positions, err := merkle.FromLeaves(append([]merkle.Hash(nil), x.positions...), hashmany.New()).Root()
	if err != nil {
		return positions, err
	}
	cache, err := merkle.FromLeaves(append([]merkle.Hash(nil), x.subroots()...), hashmany.New()).Root()
	return ghost.TraceRoot(x.run.Prompt, x.run.Answer, positions, cache), err
}

// Prove answers a challenge with one replay of the run.
func (n *Node) Prove(run *audit.Run, ch audit.Challenge) ([]byte, error) {
	x, err := n.Open(run, ch)
	if err != nil {
		return nil, err
	}
	return audit.Prove(run, ch, x)
}

// Open replays a run and keeps what a challenge asks for.
func (n *Node) Open(run *audit.Run, ch audit.Challenge) (*Execution, error) {
	if err := ch.Check(); err != nil {
		return nil, err
	}
	if err := run.Check(); err != nil {
		return nil, err
	}
	layers, tails := ch.Touches(run)
	return n.replay(run, run.Outline, func(pos, layer int) bool { return layers[[2]int{pos, layer}] }, func(pos int) bool { return tails[pos] })
}

func (x *Execution) notKept(what string, t int) error {
	return fmt.Errorf("%s of position %d was not kept by the replay", what, t)
}

// Leaf implements audit.Source.
func (x *Execution) Leaf(t, layer, leaf int) ([]byte, error) {
	k := x.leaves[[2]int{t, layer}]
	if leaf >= len(k) {
		return nil, x.notKept(fmt.Sprintf("layer %d", layer), t)
	}
	return k[leaf], nil
}

// Tail implements audit.Source.
func (x *Execution) Tail(t, leaf int) ([]byte, error) {
	if leaf >= len(x.tails[t]) {
		return nil, x.notKept("the logits", t)
	}
	return x.tails[t][leaf], nil
}

// head gives the key rows and the value columns of one layer and key head.
func (x *Execution) head(layer, head int) *[2][][]byte {
	x.mu.Lock()
	defer x.mu.Unlock()
	h := x.heads[[2]int{layer, head}]
	if h == nil {
		h = &[2][][]byte{}
		h[0], h[1] = x.node.Model.CacheLeaves(&x.cache, layer, head, x.run.Positions())
		x.heads[[2]int{layer, head}] = h
	}
	return h
}

// Key implements audit.Source.
func (x *Execution) Key(layer, head, t int) ([]byte, error) { return x.head(layer, head)[0][t], nil }

// Column implements audit.Source.
func (x *Execution) Column(layer, head, dim int) ([]byte, error) {
	return x.head(layer, head)[1][dim], nil
}

// Row implements audit.Source.
func (x *Execution) Row(tensor, row int) ([]byte, error) { return x.node.row(tensor, row) }

func (n *Node) row(tensor, row int) ([]byte, error) {
	g := &n.Ghost.Tensors[tensor]
	t := n.File.Tensor(g.Name)
	if t == nil || row < 0 || row >= g.Rows {
		return nil, fmt.Errorf("tensor %q has no row %d", g.Name, row)
	}
	size := g.Format.RowBytes(g.Cols)
	return t.Data[row*size:][:size:size], nil
}

func hashes(leaves [][]byte) []merkle.Hash {
	h := make([]merkle.Hash, len(leaves))
	hashmany.New().Leaves(h, leaves)
	return h
}

// LeafHashes implements audit.Prover.
func (x *Execution) LeafHashes(t, layer int) ([]merkle.Hash, error) {
	k := x.leaves[[2]int{t, layer}]
	if k == nil {
		return nil, x.notKept(fmt.Sprintf("layer %d", layer), t)
	}
	return hashes(k), nil
}

// LayerRoots implements audit.Prover.
func (x *Execution) LayerRoots(t int) ([]merkle.Hash, error) {
	if x.layers[t] == nil {
		return nil, x.notKept("a layer", t)
	}
	return append([]merkle.Hash(nil), x.layers[t]...), nil
}

// TailHashes implements audit.Prover.
func (x *Execution) TailHashes(t int) ([]merkle.Hash, error) {
	if x.tails[t] == nil {
		return nil, x.notKept("the logits", t)
	}
	return hashes(x.tails[t]), nil
}

// PositionRoots implements audit.Prover.
func (x *Execution) PositionRoots() ([]merkle.Hash, error) {
	return append([]merkle.Hash(nil), x.positions...), nil
}

// KeyHashes implements audit.Prover.
func (x *Execution) KeyHashes(layer, head int) ([]merkle.Hash, error) {
	return hashes(x.head(layer, head)[0]), nil
}

// ColumnHashes implements audit.Prover.
func (x *Execution) ColumnHashes(layer, head int) ([]merkle.Hash, error) {
	return hashes(x.head(layer, head)[1]), nil
}

// CacheRoots implements audit.Prover.
func (x *Execution) CacheRoots() ([]merkle.Hash, error) {
	return append([]merkle.Hash(nil), x.subroots()...), nil
}

// RowTree implements audit.Prover.
func (x *Execution) RowTree(tensor int) (*merkle.Tree, error) { return x.node.RowTree(tensor) }

// RowTree is the tree over a tensor's rows, made when it is first asked for.
func (n *Node) RowTree(tensor int) (*merkle.Tree, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if t := n.trees[tensor]; t != nil {
		return t, nil
	}
	g := &n.Ghost.Tensors[tensor]
	rows := make([][]byte, g.Rows)
	for i := range rows {
		b, err := n.row(tensor, i)
		if err != nil {
			return nil, err
		}
		rows[i] = b
	}
	h := make([]merkle.Hash, len(rows))
	n.team.Run(func(w *kernel.Worker) {
		w.For(len(rows), 256, func(begin, end int) { hashmany.New().Leaves(h[begin:end], rows[begin:end]) })
	})
	t := merkle.FromLeaves(h, hashmany.New())
	n.trees[tensor] = t
	return t, nil
}
