package audit

import (
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/geistnet/geist/ghost"
	"github.com/geistnet/geist/merkle"
)

// A fraud proof is one file that shows, to whoever holds the model id and the
// signed receipt, that one relation of the run does not hold
// (docs/spec/dispute.md §4). Every value in it is opened under the trace root
// that the accused signed, so a receipt of anybody else is not needed:
//
//	magic ‖ claim ‖ excerpt of the Ghost file, packed ‖ opened items ‖ hashes
const (
	fraudMagic = "geist fraud 2\n"
	claimBytes = 1 + 4*4
)

// MaxFraudBytes bounds what VerifyFraud reads.
const MaxFraudBytes = 4 << 20

// Trees of a trace and of the model.
const (
	treeLeaves  = iota // (position, layer)
	treeTail           // position
	treeRoots          // position: of its layers and tail; the leaves are hashes
	treeTop            // of all positions
	treeKeys           // (layer, key head)
	treeColumns        // (layer, key head)
	treeCache          // of all of these
	treeTokens         //
	treeRows           // tensor
)

// tree names one tree.
type tree struct{ kind, a, b int }

func (x tree) compare(y tree) int { return cmp.Or(x.kind-y.kind, x.a-y.a, x.b-y.b) }

// openings is an opener that asks next for each item once.
type openings struct {
	m     *ghost.Model
	n     int // positions
	items map[tree]map[uint64]merkle.Hash
	bytes map[tree]map[uint64][]byte
	next  func(tr tree, i, n int) ([]byte, error)
}

func newOpened(m *ghost.Model, positions int, next func(tr tree, i, n int) ([]byte, error)) *openings {
	return &openings{m, positions, map[tree]map[uint64]merkle.Hash{}, map[tree]map[uint64][]byte{}, next}
}

func (o *openings) get(tr tree, i, n int) ([]byte, error) {
	if b, ok := o.bytes[tr][uint64(i)]; ok {
		return b, nil
	}
	b, err := o.next(tr, i, n)
	if err != nil {
		return nil, err
	}
	if len(b) != n {
		return nil, fmt.Errorf("an item has %d bytes instead of %d", len(b), n)
	}
	h := merkle.HashLeaf(b)
	if tr.kind == treeRoots {
		h = merkle.Hash(b)
	}
	o.set(tr, i, h)
	if o.bytes[tr] == nil {
		o.bytes[tr] = map[uint64][]byte{}
	}
	o.bytes[tr][uint64(i)] = b
	return b, nil
}

func (o *openings) set(tr tree, i int, h merkle.Hash) {
	if o.items[tr] == nil {
		o.items[tr] = map[uint64]merkle.Hash{}
	}
	o.items[tr][uint64(i)] = h
}

func (o *openings) leaf(t, l, i, n int) ([]byte, error) { return o.get(tree{treeLeaves, t, l}, i, n) }
func (o *openings) tail(t, i, n int) ([]byte, error)    { return o.get(tree{treeTail, t, 0}, i, n) }
func (o *openings) root(t, l int) ([]byte, error)       { return o.get(tree{treeRoots, t, 0}, l, 32) }
func (o *openings) key(l, g, t, n int) ([]byte, error)  { return o.get(tree{treeKeys, l, g}, t, n) }
func (o *openings) tokens(i, n int) ([]byte, error)     { return o.get(tree{treeTokens, 0, 0}, i, n) }
func (o *openings) column(l, g, d, n int) ([]byte, error) {
	return o.get(tree{treeColumns, l, g}, d, n)
}
func (o *openings) row(tensor, row, n int) ([]byte, error) {
	return o.get(tree{treeRows, tensor, 0}, row, n)
}

// top are the three roots under a trace root.
type top struct{ tokens, positions, cache merkle.Hash }

// fold computes the roots of all trees from the opened items. siblings gives
// the multiproof of items of a tree; no indices stand for the root itself. The
// order of calls is the order of hashes in a proof.
func (o *openings) fold(r *referee, siblings func(tr tree, n int, indices []uint64) ([]merkle.Hash, error)) (top, error) {
	m := o.m
	root := func(tr tree, n int) (merkle.Hash, error) {
		indices, leaves := unzipHashes(o.items[tr])
		hashes, err := siblings(tr, n, indices)
		if err != nil {
			return merkle.Hash{}, err
		}
		if len(indices) == 0 {
			return hashes[0], nil
		}
		return merkle.RootOf(uint64(n), indices, leaves, hashes)
	}
	of := func(kind int) []tree {
		var s []tree
		for tr := range o.items {
			if tr.kind == kind {
				s = append(s, tr)
			}
		}
		slices.SortFunc(s, tree.compare)
		return s
	}
	each := func(kind int, n func(tree) (int, error), up func(tr tree, h merkle.Hash) error) error {
		for _, tr := range of(kind) {
			k, err := n(tr)
			if err != nil {
				return err
			}
			h, err := root(tr, k)
			if err != nil {
				return err
			}
			if err := up(tr, h); err != nil {
				return err
			}
		}
		return nil
	}
	number := func(n int) func(tree) (int, error) { return func(tree) (int, error) { return n, nil } }
	// A root that an item gives directly must not contradict one that is computed.
	up := func(to tree, i int, h merkle.Hash) error {
		if old, ok := o.items[to][uint64(i)]; ok && old != h {
			return errors.New("a root is there twice, differently")
		}
		o.set(to, i, h)
		return nil
	}
	var out top
	err := each(treeLeaves, func(tr tree) (int, error) {
		y, err := r.layout(tr.a, tr.b)
		if err != nil {
			return 0, err
		}
		return y.Len(), nil
	}, func(tr tree, h merkle.Hash) error { return up(tree{treeRoots, tr.a, 0}, tr.b, h) })
	if err != nil {
		return out, err
	}
	if err := each(treeTail, number(m.TailLeaves()), func(tr tree, h merkle.Hash) error {
		return up(tree{treeRoots, tr.a, 0}, len(m.Layers), h)
	}); err != nil {
		return out, err
	}
	if err := each(treeRoots, number(len(m.Layers)+1), func(tr tree, h merkle.Hash) error { return up(tree{kind: treeTop}, tr.a, h) }); err != nil {
		return out, err
	}
	if out.positions, err = root(tree{kind: treeTop}, o.n); err != nil {
		return out, err
	}
	for j, kind := range []int{treeKeys, treeColumns} {
		if err := each(kind, number([]int{o.n, m.ValDim}[j]), func(tr tree, h merkle.Hash) error {
			return up(tree{kind: treeCache}, 2*(tr.a*m.KVHeads+tr.b)+j, h)
		}); err != nil {
			return out, err
		}
	}
	if out.cache, err = root(tree{kind: treeCache}, m.CacheRoots()); err != nil {
		return out, err
	}
	if out.tokens, err = root(tree{kind: treeTokens}, ghost.TokenLeaves(r.prompt+r.answer)); err != nil {
		return out, err
	}
	return out, each(treeRows, func(tr tree) (int, error) { return m.Tensors[tr.a].Rows, nil }, func(tr tree, h merkle.Hash) error {
		if h != m.Tensors[tr.a].Root {
			return fmt.Errorf("rows of tensor %d are not those of the Ghost file", tr.a)
		}
		return nil
	})
}

func unzipHashes(m map[uint64]merkle.Hash) (keys []uint64, values []merkle.Hash) {
	keys = slices.Sorted(maps.Keys(m))
	for _, k := range keys {
		values = append(values, m[k])
	}
	return keys, values
}

// BuildFraud makes the proof of a claim from what the accused opens. The error
// says so if the relation holds: then there is nothing to prove. run has the
// whole model, and own has its weights; run.Trace is the root that the accused
// signed.
func BuildFraud(run *Run, c Claim, own, accused Prover) ([]byte, error) {
	if err := run.Check(); err != nil {
		return nil, err
	}
	m, n := run.Model, run.Positions()
	parts := map[ghost.Part]bool{{Kind: ghost.PartHead}: true, {Kind: ghost.PartMiddle}: true}
	var items []byte
	from := func(tr tree) Prover {
		if tr.kind == treeRows {
			return own
		}
		return accused
	}
	o := newOpened(m, n, func(tr tree, i, n int) ([]byte, error) {
		b, err := openFrom(run, from(tr), tr, i)
		items = append(items, b...)
		return b, err
	})
	r := newReferee(m, len(run.Prompt), len(run.Answer), o, func(p ghost.Part) error { parts[p] = true; return nil })
	err := r.check(c)
	var f *Failure
	switch {
	case err == nil:
		return nil, fmt.Errorf("%v holds at position %d, layer %d: there is no fraud to prove", c.Relation, c.Position, c.Layer)
	case !errors.As(err, &f):
		return nil, err
	}
	var hashes []byte
	got, err := o.fold(r, func(tr tree, n int, indices []uint64) ([]merkle.Hash, error) {
		hs, err := proofFrom(run, from(tr), tr, indices)
		for _, h := range hs {
			hashes = append(hashes, h[:]...)
		}
		return hs, err
	})
	if err != nil {
		return nil, err
	}
	if h := ghost.TraceTop(len(run.Prompt), len(run.Answer), got.tokens, got.positions, got.cache); h != run.Trace {
		return nil, fmt.Errorf("the accused opens values under %v, not under the signed trace root %v", h, run.Trace)
	}
	excerpt, err := ghost.Excerpt(m, slices.Collect(maps.Keys(parts)))
	if err != nil {
		return nil, err
	}
	out := slices.Concat([]byte(fraudMagic), c.encode(), pack(excerpt), items, hashes)
	if len(out) > MaxFraudBytes { // the rows of a very wide memory block
		return nil, fmt.Errorf("the proof of %v would have %d bytes; the most is %d", c.Relation, len(out), MaxFraudBytes)
	}
	return out, nil
}

// openFrom asks a prover for an item.
func openFrom(run *Run, p Prover, tr tree, i int) ([]byte, error) {
	switch tr.kind {
	case treeLeaves:
		return p.Leaf(tr.a, tr.b, i)
	case treeTail:
		return p.Tail(tr.a, i)
	case treeRoots:
		h, err := p.LayerRoots(tr.a)
		if err != nil {
			return nil, err
		}
		return h[i][:], nil
	case treeKeys:
		return p.Key(tr.a, tr.b, i)
	case treeColumns:
		return p.Column(tr.a, tr.b, i)
	case treeTokens:
		return ghost.TokenLeaf(run.Prompt, run.Answer, i), nil
	}
	return p.Row(tr.a, i)
}

// hashesFrom are the leaf hashes of a tree.
func hashesFrom(run *Run, p Prover, tr tree) ([]merkle.Hash, error) {
	switch tr.kind {
	case treeLeaves:
		return p.LeafHashes(tr.a, tr.b)
	case treeTail:
		return p.TailHashes(tr.a)
	case treeRoots:
		return p.LayerRoots(tr.a)
	case treeTop:
		return p.PositionRoots()
	case treeKeys:
		return p.KeyHashes(tr.a, tr.b)
	case treeColumns:
		return p.ColumnHashes(tr.a, tr.b)
	case treeCache:
		return p.CacheRoots()
	}
	if p, ok := p.(interface{ TokenHashes() []merkle.Hash }); ok { // who committed to other tokens
		return p.TokenHashes(), nil
	}
	return ghost.TokenHashes(run.Prompt, run.Answer), nil
}

// proofFrom is the multiproof of leaves of a tree; the root, if there are none.
func proofFrom(run *Run, p Prover, tr tree, indices []uint64) ([]merkle.Hash, error) {
	var t *merkle.Tree
	if tr.kind == treeRows {
		var err error
		if t, err = p.RowTree(tr.a); err != nil {
			return nil, err
		}
	} else {
		h, err := hashesFrom(run, p, tr)
		if err != nil {
			return nil, err
		}
		t = merkle.FromLeaves(h, merkle.Plain{})
	}
	if len(indices) > 0 {
		return t.Prove(indices)
	}
	root, err := t.Root()
	return []merkle.Hash{root}, err
}

func (c Claim) encode() []byte {
	b := []byte{byte(c.Relation)}
	for _, x := range []int{c.Position, c.Layer, c.Index, c.Element} {
		b = binary.LittleEndian.AppendUint32(b, uint32(x))
	}
	return b
}

// ClaimOf reads the claim of a fraud proof without checking anything else.
func ClaimOf(fraud []byte) (Claim, error) {
	if len(fraud) > MaxFraudBytes || len(fraud) < len(fraudMagic)+claimBytes || string(fraud[:len(fraudMagic)]) != fraudMagic {
		return Claim{}, fmt.Errorf("%d bytes are no fraud proof", len(fraud))
	}
	b := fraud[len(fraudMagic):]
	n := func(i int) int { return int(int32(binary.LittleEndian.Uint32(b[1+4*i:]))) }
	return Claim{Relation(b[0]), n(0), n(1), n(2), n(3)}, nil
}

// Conviction is what a fraud proof shows: the provider of the receipt signed a
// trace in which Claim's relation does not hold.
type Conviction struct {
	Provider ghost.Key
	Claim    Claim
	Failure  *Failure // nil for a claim about tokens
	Bytes    int      // of the proof
	Weights  int      // of them rows of weights
}

// String says it in words.
func (c *Conviction) String() string {
	if c.Failure == nil {
		return fmt.Sprintf("%v signed a trace of other tokens than its receipt's", c.Provider)
	}
	return fmt.Sprintf("%v signed a trace that the model cannot have: %v", c.Provider, c.Failure)
}

// VerifyFraud checks a fraud proof with nothing but the model id and the receipt
// of the accused, whose signature it checks too. No proof against a provider
// that signed what the model computes is accepted, unless somebody finds two
// inputs of one hash.
func VerifyFraud(id ghost.ID, receipt *ghost.Receipt, fraud []byte) (*Conviction, error) {
	if err := receipt.Verify(); err != nil {
		return nil, err
	}
	if receipt.Model != id {
		return nil, fmt.Errorf("the receipt is of model %v, not %v", receipt.Model, id)
	}
	return convict(id, receipt, fraud)
}

// convict is VerifyFraud for a receipt whose signature is right.
func convict(id ghost.ID, receipt *ghost.Receipt, fraud []byte) (*Conviction, error) {
	if receipt.Grade != ghost.GhostAudited || receipt.Answer.Count < 1 {
		return nil, fmt.Errorf("a receipt of grade %s for %d tokens has no trace to be wrong", receipt.Grade, receipt.Answer.Count)
	}
	c, err := ClaimOf(fraud)
	if err != nil {
		return nil, err
	}
	rest := fraud[len(fraudMagic)+claimBytes:]
	if c.Relation == TokenList {
		return verifyTokens(c, receipt, rest, len(fraud))
	}
	excerpt, rest, err := unpack(rest)
	if err != nil {
		return nil, err
	}
	m, parts, more, err := ghost.ReadExcerpt(id, excerpt)
	if err != nil {
		return nil, err
	}
	if len(more) > 0 {
		return nil, fmt.Errorf("%d bytes follow the excerpt of the Ghost file", len(more))
	}
	used := map[ghost.Part]bool{}
	need := func(p ghost.Part) error {
		if !parts[p] {
			return fmt.Errorf("the proof does not open part %v of the Ghost file", p)
		}
		used[p] = true
		return nil
	}
	if err := cmp.Or(need(ghost.Part{Kind: ghost.PartHead}), need(ghost.Part{Kind: ghost.PartMiddle})); err != nil {
		return nil, err
	}
	out := &Conviction{Provider: receipt.Provider, Claim: c, Bytes: len(fraud)}
	if n := receipt.Prompt.Count + receipt.Answer.Count - 1; n > m.Context {
		return nil, fmt.Errorf("a receipt for %d positions exceeds the model's context of %d", n, m.Context)
	}
	n := receipt.Prompt.Count + receipt.Answer.Count - 1
	o := newOpened(m, n, func(tr tree, i, n int) ([]byte, error) {
		if n < 0 || n > len(rest) {
			return nil, fmt.Errorf("the proof ends %d bytes too early", n-len(rest))
		}
		b := rest[:n:n]
		rest = rest[n:]
		if tr.kind == treeRows {
			out.Weights += n
		}
		return b, nil
	})
	r := newReferee(m, receipt.Prompt.Count, receipt.Answer.Count, o, need)
	switch err := r.check(c); {
	case err == nil:
		return nil, fmt.Errorf("%v holds at position %d, layer %d: nobody is convicted", c.Relation, c.Position, c.Layer)
	case !errors.As(err, &out.Failure):
		return nil, err
	}
	got, err := o.fold(r, func(_ tree, n int, indices []uint64) ([]merkle.Hash, error) {
		k := 1
		if len(indices) > 0 {
			var err error
			if k, err = merkle.ProofLen(uint64(n), indices); err != nil {
				return nil, err
			}
		}
		if k > len(rest)/32 {
			return nil, errors.New("the proof has too few hashes")
		}
		hs := make([]merkle.Hash, k)
		for i := range hs {
			rest = rest[copy(hs[i][:], rest):]
		}
		return hs, nil
	})
	switch {
	case err != nil:
		return nil, err
	case len(rest) > 0:
		return nil, fmt.Errorf("%d bytes follow the end of the proof", len(rest))
	case len(used) != len(parts):
		return nil, errors.New("the proof opens parts of the Ghost file that it does not need")
	case ghost.TraceTop(r.prompt, r.answer, got.tokens, got.positions, got.cache) != receipt.Trace:
		return nil, errors.New("the opened values are not those that the accused signed")
	}
	return out, nil
}

// BuildTokenFraud proves that a trace commits to other tokens than its receipt.
// tokens, positions and cache are the roots that the accused opens.
func BuildTokenFraud(salt [32]byte, prompt, answer []int32, tokens, positions, cache merkle.Hash) []byte {
	b := append([]byte(fraudMagic), Claim{Relation: TokenList}.encode()...)
	b = slices.Concat(b, salt[:], tokens[:], positions[:], cache[:])
	for _, id := range slices.Concat(prompt, answer) {
		b = binary.LittleEndian.AppendUint32(b, uint32(id))
	}
	return b
}

func verifyTokens(c Claim, receipt *ghost.Receipt, rest []byte, size int) (*Conviction, error) {
	const head = 4 * 32
	n, p := receipt.Prompt.Count+receipt.Answer.Count, receipt.Prompt.Count
	if (c != Claim{Relation: TokenList}) || len(rest) < head || len(rest)-head != 4*n {
		return nil, fmt.Errorf("%d bytes are no proof about %d tokens", size, n)
	}
	ids := make([]int32, n)
	for i := range ids {
		ids[i] = int32(binary.LittleEndian.Uint32(rest[head+4*i:]))
	}
	h := func(i int) [32]byte { return [32]byte(rest[32*i:]) }
	if ghost.HashTokens(h(0), ids[:p]) != receipt.Prompt || ghost.HashTokens(h(0), ids[p:]) != receipt.Answer {
		return nil, errors.New("the tokens are not those of the receipt")
	}
	if ghost.TraceTop(p, n-p, h(1), h(2), h(3)) != receipt.Trace {
		return nil, errors.New("the roots are not those that the accused signed")
	}
	if ghost.TraceRoot(ids[:p], ids[p:], h(2), h(3)) == receipt.Trace {
		return nil, errors.New("the trace commits to the receipt's tokens: nobody is convicted")
	}
	return &Conviction{Provider: receipt.Provider, Claim: c, Bytes: size}, nil
}
