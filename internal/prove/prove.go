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
}

// Replay computes the trace of a run again. keep tells which layers of which
// positions to hold for opening, keepTail the same for logits; either may be
// nil.
func (n *Node) Replay(run *audit.Run, keep func(pos, layer int) bool, keepTail func(pos int) bool) (*Execution, error) {
	if err := run.Check(); err != nil {
		return nil, err
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	x := &Execution{node: n, run: run, layers: map[int][]merkle.Hash{}, leaves: map[[2]int][][]byte{}, tails: map[int][][]byte{}}
	total := run.Positions()
	for range (total + model.PagePositions - 1) / model.PagePositions {
		x.cache.Pages = append(x.cache.Pages, make([]byte, n.Model.PageBytes()))
	}
	tokens := append(append([]int32(nil), run.Prompt...), run.Answer...)[:total]
	n.trace.Keep = nil
	if keep != nil {
		n.trace.Keep = func(_, pos, layer int) bool { return keep(pos, layer) }
	}
	for at := 0; at < total; {
		end, want := min(at+n.batch, total), model.None
		if last := len(run.Prompt) - 1; at >= last {
			end, want = min(at+min(n.batch, 32), total), model.All // logits are large
		} else {
			end = min(end, last)
		}
		logits, err := n.state.Forward([]model.Segment{{Cache: &x.cache, Start: at, Tokens: tokens[at:end], Logits: want}})
		if err != nil {
			return nil, fmt.Errorf("replay positions %d to %d: %w", at, end, err)
		}
		for i := range end - at {
			pos := at + i
			x.positions = append(x.positions, n.trace.Root(i))
			kept := false
			for l := range n.Ghost.Layers {
				if k := n.trace.TakeKept(0, pos, l); k != nil {
					x.leaves[[2]int{pos, l}], kept = k, true
				}
			}
			if want == model.All && keepTail != nil && keepTail(pos) {
				x.tails[pos], kept = model.TailLeaves(logits[i]), true
			}
			if kept {
				layers, tail := n.trace.LayerRoots(i)
				x.layers[pos] = append(append([]merkle.Hash(nil), layers...), tail)
			}
		}
		at = end
	}
	x.subroots = sync.OnceValue(func() []merkle.Hash {
		n.mu.Lock()
		defer n.mu.Unlock()
		return n.trace.CacheSubroots(n.team, &x.cache, total)
	})
	return x, nil
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
	return n.Replay(run, func(pos, layer int) bool { return layers[[2]int{pos, layer}] }, func(pos int) bool { return tails[pos] })
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

// Key implements audit.Source.
func (x *Execution) Key(layer, head, t int) ([]byte, error) {
	k, _ := x.node.Model.CacheLeaves(&x.cache, layer, head, x.run.Positions())
	return k[t], nil
}

// Column implements audit.Source.
func (x *Execution) Column(layer, head, dim int) ([]byte, error) {
	_, v := x.node.Model.CacheLeaves(&x.cache, layer, head, x.run.Positions())
	return v[dim], nil
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
	for i, b := range leaves {
		h[i] = merkle.HashLeaf(b)
	}
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
	k, _ := x.node.Model.CacheLeaves(&x.cache, layer, head, x.run.Positions())
	return hashes(k), nil
}

// ColumnHashes implements audit.Prover.
func (x *Execution) ColumnHashes(layer, head int) ([]merkle.Hash, error) {
	_, v := x.node.Model.CacheLeaves(&x.cache, layer, head, x.run.Positions())
	return hashes(v), nil
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
	hashmany.New().Leaves(h, rows)
	t := merkle.FromLeaves(h, hashmany.New())
	n.trees[tensor] = t
	return t, nil
}
