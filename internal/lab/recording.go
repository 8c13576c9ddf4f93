package lab

import (
	"fmt"
	"slices"

	"github.com/geistnet/geist/audit"
	"github.com/geistnet/geist/ghost"
	"github.com/geistnet/geist/internal/hashmany"
	"github.com/geistnet/geist/merkle"
)

// cell is the committed values of a layer at a position, by kind and index.
type cell [ghost.MemoryQuery + 1][][]byte

func (c *cell) put(v ghost.Value, b []byte) { c[v] = append(c[v], b) }

// recording is a whole run in memory, honest or not, with everything that its
// trace commits to. After seal it is an audit.Prover.
type recording struct {
	subject *subject
	run     *audit.Run
	open    rows // the weights that it answers with
	cells   [][]cell
	tails   [][]float32  // nil where no logits were computed
	keys    [][][][]byte // [layer][key head][position]
	cols    [][][][]byte // [layer][key head][dimension]

	chance chance // that one draw meets the lie
	// other, if not nil, answers for the recording: what it opens is not what
	// was committed to.
	other audit.Prover

	leaves    [][][][]byte // [position][layer]
	roots     [][]merkle.Hash
	positions []merkle.Hash
	subroots  []merkle.Hash
}

// cache records keys and values once the run is over.
func (r *recording) cache(p *pass) {
	g := p.g
	for l := range g.Layers {
		r.keys, r.cols = append(r.keys, make([][][]byte, g.KVHeads)), append(r.cols, make([][][]byte, g.KVHeads))
		for h := range g.KVHeads {
			for _, k := range p.keys[l][h] {
				r.keys[l][h] = append(r.keys[l][h], elemBytes(g.KV, k))
			}
			for _, v := range p.vals[l][h] {
				r.cols[l][h] = append(r.cols[l][h], elemBytes(g.KV, v))
			}
		}
	}
}

// inOrder lists the kinds of values of a layer as their leaves stand.
func inOrder(y *ghost.Layout) (kinds []ghost.Value) {
	for v := range ghost.MemoryQuery + 1 {
		if y.Count(v) > 0 {
			kinds = append(kinds, v)
		}
	}
	slices.SortFunc(kinds, func(a, b ghost.Value) int { return y.Span(a, 0).First - y.Span(b, 0).First })
	return kinds
}

// cut makes leaves of n bytes, the last of them shorter.
func cut(b []byte, n int) (leaves [][]byte) {
	for len(b) > n {
		leaves, b = append(leaves, b[:n:n]), b[n:]
	}
	return append(leaves, b)
}

func hashes(leaves [][]byte) []merkle.Hash {
	h := make([]merkle.Hash, len(leaves))
	hashmany.New().Leaves(h, leaves)
	return h
}

func fold(h []merkle.Hash) (merkle.Hash, error) {
	return merkle.FromLeaves(append([]merkle.Hash(nil), h...), hashmany.New()).Root()
}

// seal hashes what the recording holds and signs its root into the run.
func (r *recording) seal() error {
	g := r.run.Model
	r.leaves, r.roots, r.positions, r.subroots = nil, nil, nil, nil
	for t := range r.cells {
		var leaves [][][]byte
		var roots []merkle.Hash
		for l := range r.cells[t] {
			y := g.Layout(l, t)
			var of [][]byte
			for _, v := range inOrder(y) {
				for _, b := range r.cells[t][l][v] {
					of = append(of, cut(b, y.Span(v, 0).Full)...)
				}
			}
			if len(of) != y.Len() {
				return fmt.Errorf("position %d, layer %d has %d leaves instead of %d", t, l, len(of), y.Len())
			}
			root, err := fold(hashes(of))
			if err != nil {
				return err
			}
			leaves, roots = append(leaves, of), append(roots, root)
		}
		var tail merkle.Hash
		if r.tails[t] != nil {
			var err error
			if tail, err = fold(hashes(cut(floatBytes(r.tails[t]), ghost.LeafBytes))); err != nil {
				return err
			}
		}
		roots = append(roots, tail)
		root, err := fold(roots)
		if err != nil {
			return err
		}
		r.leaves, r.roots, r.positions = append(r.leaves, leaves), append(r.roots, roots), append(r.positions, root)
	}
	for l := range r.keys {
		for h := range r.keys[l] {
			for _, of := range [][][]byte{r.keys[l][h], r.cols[l][h]} {
				root, err := fold(hashes(of))
				if err != nil {
					return err
				}
				r.subroots = append(r.subroots, root)
			}
		}
	}
	top, err := fold(r.positions)
	if err != nil {
		return err
	}
	cache, err := fold(r.subroots)
	r.run.Trace = ghost.TraceRoot(r.run.Prompt, r.run.Answer, top, cache)
	return err
}

func absent(what string, i int) error { return fmt.Errorf("there is no %s %d", what, i) }

// Leaf implements audit.Source.
func (r *recording) Leaf(t, layer, leaf int) ([]byte, error) {
	if of := r.leaves[t][layer]; leaf < len(of) {
		return of[leaf], nil
	}
	return nil, absent("leaf", leaf)
}

// Tail implements audit.Source.
func (r *recording) Tail(t, leaf int) ([]byte, error) {
	if r.tails[t] == nil {
		return nil, absent("tail", t)
	}
	return cut(floatBytes(r.tails[t]), ghost.LeafBytes)[leaf], nil
}

// Key implements audit.Source.
func (r *recording) Key(layer, head, t int) ([]byte, error) { return r.keys[layer][head][t], nil }

// Column implements audit.Source.
func (r *recording) Column(layer, head, dim int) ([]byte, error) {
	return r.cols[layer][head][dim], nil
}

// Row implements audit.Source.
func (r *recording) Row(tensor, row int) ([]byte, error) { return r.open(tensor, row) }

// LeafHashes implements audit.Prover.
func (r *recording) LeafHashes(t, layer int) ([]merkle.Hash, error) {
	return hashes(r.leaves[t][layer]), nil
}

// LayerRoots implements audit.Prover.
func (r *recording) LayerRoots(t int) ([]merkle.Hash, error) {
	return append([]merkle.Hash(nil), r.roots[t]...), nil
}

// TailHashes implements audit.Prover.
func (r *recording) TailHashes(t int) ([]merkle.Hash, error) {
	return hashes(cut(floatBytes(r.tails[t]), ghost.LeafBytes)), nil
}

// PositionRoots implements audit.Prover.
func (r *recording) PositionRoots() ([]merkle.Hash, error) {
	return append([]merkle.Hash(nil), r.positions...), nil
}

// KeyHashes implements audit.Prover.
func (r *recording) KeyHashes(layer, head int) ([]merkle.Hash, error) {
	return hashes(r.keys[layer][head]), nil
}

// ColumnHashes implements audit.Prover.
func (r *recording) ColumnHashes(layer, head int) ([]merkle.Hash, error) {
	return hashes(r.cols[layer][head]), nil
}

// CacheRoots implements audit.Prover.
func (r *recording) CacheRoots() ([]merkle.Hash, error) {
	return append([]merkle.Hash(nil), r.subroots...), nil
}

// RowTree implements audit.Prover.
func (r *recording) RowTree(tensor int) (*merkle.Tree, error) { return r.subject.node.RowTree(tensor) }

// prove answers a challenge as well as the recording can. A check that fails
// on its own values ends the proof there.
func (r *recording) prove(ch audit.Challenge) []byte {
	var p audit.Prover = r
	if r.other != nil {
		p = r.other
	}
	proof, _ := audit.Prove(r.run, ch, p)
	return proof
}

// chance is how likely one draw of each kind meets a relation that is wrong.
type chance struct{ cell, tail, full float64 }
