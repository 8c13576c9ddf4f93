package audit

import (
	"bytes"
	"errors"
	"fmt"
	"math"

	"github.com/geistnet/geist/arith"
	"github.com/geistnet/geist/ghost"
)

// accuser compares two traces behind the place where they first differ.
type accuser struct {
	run          *Run
	own, accused Prover
	mine, theirs *referee
	asked        bool // whether the accused was asked for values before the proof
	cache        bool // whether the cache was forged, which only the answer showed
}

// Accuse finds the claim that convicts the other party of a dispute: at place
// own has what the model computes, and accused has not. rounds is how many
// messages it took beside those of the descent, the fraud proof among them. If
// own is wrong the claim is one that BuildFraud refuses.
func Accuse(run *Run, place *Place, own, accused Prover) (c Claim, rounds int, err error) {
	a := &accuser{run: run, own: own, accused: accused}
	referee := func(p Prover) *referee {
		o := newOpened(run.Model, run.Positions(), func(tr tree, i, _ int) ([]byte, error) { return openFrom(run, p, tr, i) })
		return newReferee(run.Model, len(run.Prompt), len(run.Answer), o, func(ghost.Part) error { return nil })
	}
	a.mine, a.theirs = referee(own), referee(accused)
	if c, err = a.claim(place); err != nil {
		return c, 0, err
	}
	rounds = 1
	if a.asked {
		rounds++
	}
	if a.cache {
		rounds++
	}
	return c, rounds, nil
}

func (a *accuser) claim(p *Place) (Claim, error) {
	t, m := p.tree.a, a.run.Model
	mine, err := openFrom(a.run, a.own, p.tree, p.leaf)
	if err != nil {
		return Claim{}, err
	}
	theirs, err := openFrom(a.run, a.accused, p.tree, p.leaf)
	if err != nil {
		return Claim{}, err
	}
	off := firstDifference(mine, theirs)
	if off < 0 {
		return Claim{}, errors.New("the leaf opened is the same on both sides")
	}
	switch p.tree.kind {
	case treeTokens:
		return Claim{Relation: TokenList}, nil
	case treeRoots:
		return Claim{Relation: NoLogits, Position: t}, nil
	case treeTail:
		return Claim{Relation: LogitElement, Position: t, Element: (p.leaf*ghost.LeafBytes + off) / 4}, nil
	case treeKeys:
		return Claim{CachedKey, p.leaf, p.tree.a, p.tree.b, 0}, nil
	case treeColumns:
		return Claim{CachedValue, off / m.ElemBytes(), p.tree.a, p.tree.b, p.leaf}, nil
	}
	return a.layer(t, p.tree.b, p.leaf, off)
}

// firstDifference is the first byte in which two values differ; −1: none.
func firstDifference(x, y []byte) int {
	for i := range min(len(x), len(y)) {
		if x[i] != y[i] {
			return i
		}
	}
	if len(x) != len(y) {
		return min(len(x), len(y))
	}
	return -1
}

// layer is the claim about byte off of a leaf of layer l.
func (a *accuser) layer(t, l, leaf, off int) (Claim, error) {
	m := a.run.Model
	v, index, sp, ok := m.Layout(l, t).Find(leaf)
	if !ok {
		return Claim{}, fmt.Errorf("layer %d has no leaf %d", l, leaf)
	}
	off += (leaf - sp.First) * sp.Full
	e := m.ElemBytes()
	c := Claim{Position: t, Layer: l, Index: index, Element: off / 4}
	switch v {
	case ghost.RawQuery:
		c.Relation, c.Element = QueryElement, off/e
	case ghost.RawKey:
		c.Relation, c.Element = KeyElement, off/e
	case ghost.MaxScore:
		a.asked = true
		return a.scores(t, l, off/4)
	case ghost.Weights:
		a.asked = true
		c.Relation, c.Element = WeightElement, off/e
		return a.keyed(c, m.Layers[l].WeightsFrom(t)+c.Element)
	case ghost.AttnOut:
		a.asked = true
		return a.coded(c, v, AttnElement, off)
	case ghost.Hidden:
		return a.coded(c, v, HiddenElement, off)
	case ghost.OutRaw:
		c.Relation = OutRawElement
	case ghost.ResidMid:
		c.Relation = MidElement
	case ghost.RouterLogits:
		c.Relation = RouterElement
	case ghost.DownRaw:
		c.Relation = DownRawElement
	case ghost.ResidOut:
		c.Relation = OutElement
	case ghost.MemoryQuery:
		c.Relation = MemoryQueryElement
	}
	return c, nil
}

// keyed is c, or a claim about the cached key of position at that it needs, if
// that differs already.
func (a *accuser) keyed(c Claim, at int) (Claim, error) {
	if at > c.Position {
		return c, nil
	}
	g := a.mine.group(c.Index)
	mine, err := a.own.Key(c.Layer, g, at)
	if err != nil {
		return c, err
	}
	theirs, err := a.accused.Key(c.Layer, g, at)
	if err != nil || bytes.Equal(mine, theirs) {
		return c, err
	}
	a.cache = true
	return Claim{CachedKey, at, c.Layer, g, 0}, nil
}

// mixed is c, or a claim about a cached value that element i of the attention
// output needs.
func (a *accuser) mixed(c Claim, i int) (Claim, error) {
	m := a.run.Model
	g, d := a.mine.group(i/m.ValDim), i%m.ValDim
	mine, err := a.own.Column(c.Layer, g, d)
	if err != nil {
		return c, err
	}
	theirs, err := a.accused.Column(c.Layer, g, d)
	if err != nil {
		return c, err
	}
	if off := firstDifference(mine, theirs); off >= 0 && off/m.ElemBytes() <= c.Position {
		a.cache = true
		return Claim{CachedValue, off / m.ElemBytes(), c.Layer, g, d}, nil
	}
	return c, nil
}

// scores is the claim about a head's largest score, in which the two differ.
func (a *accuser) scores(t, l, head int) (Claim, error) {
	m := a.run.Model
	y := &m.Layers[l]
	from, first := y.WeightsFrom(t), y.FirstVisible(t)
	top, err := a.theirs.float(t, l, ghost.MaxScore, head)
	if err != nil {
		return Claim{}, err
	}
	q, err := a.mine.rotated(t, l, ghost.RawQuery, head)
	if err != nil {
		return Claim{}, err
	}
	b, err := a.theirs.bytes(t, l, ghost.Weights, head, 0, -1)
	if err != nil {
		return Claim{}, err
	}
	reached := Claim{ScoreReached, t, l, head, 0}
	wrong := reached
	for i, p := range decodeElems(m.KV, b) {
		at := from + i
		if at < first || at > t {
			continue
		}
		s, err := a.mine.score(l, head, at, q)
		if err != nil {
			return Claim{}, err
		}
		if !(s <= top) {
			return a.keyed(Claim{ScoreBelow, t, l, head, at}, at)
		}
		if want := m.KV.Round(arith.Exp(s - top)); math.Float32bits(p) != math.Float32bits(want) && wrong == reached {
			wrong = Claim{WeightElement, t, l, head, i}
		}
		if p == 1 {
			if c, err := a.keyed(reached, at); err != nil || c != reached {
				return c, err
			}
		}
	}
	if wrong != reached {
		return a.keyed(wrong, from+wrong.Element)
	}
	return reached, nil
}

// coded is the claim about byte off of an input of a product. relation is that
// of an element; those of scale and peak follow it.
func (a *accuser) coded(c Claim, v ghost.Value, relation Relation, off int) (Claim, error) {
	t, l := c.Position, c.Layer
	n, f, err := a.mine.inputOf(l, v)
	if err != nil {
		return c, err
	}
	agree := func(c Claim, i int) (Claim, error) {
		if v == ghost.Hidden {
			return c, nil
		}
		return a.mixed(c, i)
	}
	block := f.ActBlock()
	c.Relation = relation
	switch {
	case block == 0:
		c.Element = off / 4
		return agree(c, c.Element)
	case off >= n/block*4:
		c.Element = off - n/block*4
		return agree(c, c.Element)
	}
	// A scale: some code contradicts it, or an element is too large for it, or
	// none attains it.
	a.asked = true
	b := off / 4
	c.Element = b * block
	their, err := a.theirs.coded(t, l, v, c.Index, n, f, b)
	if failure := (*Failure)(nil); errors.As(err, &failure) {
		return c, nil
	} else if err != nil {
		return c, err
	}
	peak := Claim{relation + 2, t, l, c.Index, b}
	for j, q := range their.Q {
		i := b*block + j
		if found, err := agree(peak, i); err != nil || found != peak {
			return found, err
		}
		var x float32
		if v == ghost.Hidden {
			x, err = a.mine.hiddenOf(t, l, c.Index, i)
		} else {
			x, err = a.mine.attended(t, l, i)
		}
		switch {
		case err != nil:
			return c, err
		case arith.Code(x, their.D[0]) != int32(q):
			return Claim{relation, t, l, c.Index, i}, nil
		case scaleFor(x) > their.D[0]:
			return Claim{relation + 1, t, l, c.Index, i}, nil
		}
	}
	return peak, nil
}
