package audit

import (
	"encoding/binary"
	"errors"

	"github.com/geistnet/geist/ghost"
	"github.com/geistnet/geist/sat"
)

// recall makes u of a memory block: the rows that the rule picks, as row opens
// them, under the root of the table. Of the last tokens n-grams are made; query
// is what the block's matrix of queries gives. The sub-keys are opened whole, so
// that no better row can be left out. A *Failure, without a place, says that a
// score is not finite.
func recall(m *ghost.Model, x *ghost.Memory, tokens []int32, query []float32, row func(tensor, i int) ([]byte, error)) ([]float32, error) {
	rule := &m.Rules[x.Rule]
	t := &m.Tensors[x.Table]
	table := &sat.Table{Root: t.Root, Rows: t.Rows, Format: t.Format, Cols: t.Cols}
	in := sat.Input{Tokens: tokens}
	if p := rule.Product; p != nil {
		f := m.Tensors[x.Keys.Tensor].Format
		var keys []byte
		for i := range p.KeyRows() {
			b, err := row(x.Keys.Tensor, x.Keys.Row0+i)
			if err != nil {
				return nil, err
			}
			keys = append(keys, b...)
		}
		in.Scores = make([]float32, p.KeyRows())
		if !p.Scores(in.Scores, query, f, keys, m.Eps) {
			return nil, fail(-1, -1, "memory", "a score is not finite")
		}
	}
	s, err := rule.Select(table, in)
	if errors.Is(err, sat.ErrVoid) {
		return nil, fail(-1, -1, "memory", "a score is not finite")
	}
	if err != nil {
		return nil, err
	}
	rows := make([][]byte, len(s.IDs))
	for i, id := range s.IDs {
		if rows[i], err = row(x.Table, int(id)); err != nil {
			return nil, err
		}
	}
	return s.Read(table, rows)
}

// placed says where a failure without a place is.
func placed(err error, t, l int) error {
	var f *Failure
	if errors.As(err, &f) && f.Position < 0 {
		f.Position, f.Layer = t, l
	}
	return err
}

// lookback is how many tokens the longest n-gram has.
const lookback = 16

// recalled is u of layer l at position t. Of product keys it checks one element
// of the query, drawn from d.
func (c *checker) recalled(t, l int, y *ghost.Layer, mid []float32, d *draw) ([]float32, error) {
	m := c.Model
	x := y.Memory
	var query []float32
	if p := m.Rules[x.Rule].Product; p != nil {
		in, err := c.normed(t, l, mid, y.FFNNorm, &x.Query)
		if err != nil {
			return nil, err
		}
		i := d.below(p.QueryLen())
		want, err := c.linear(&x.Query, i, in)
		if err != nil {
			return nil, err
		}
		if query, err = c.floats(t, l, ghost.MemoryQuery, 0); err != nil {
			return nil, err
		}
		if !same(query[i], want) {
			return nil, fail(t, l, "memory query", "row %d is %v, should be %v", i, query[i], want)
		}
		c.passed("memory query", "row %d of the product is %v", i, want)
	}
	tokens := make([]int32, 0, lookback)
	for i := max(0, t+1-lookback); i <= t; i++ {
		tokens = append(tokens, c.token(i))
	}
	u, err := recall(m, x, tokens, query, c.src.Row)
	if err != nil {
		return nil, placed(err, t, l)
	}
	c.counts.Recalls++
	c.passed("memory", "%d values follow from rows of %s", len(u), m.Tensors[x.Table].Name)
	return u, nil
}

// recalled is u of layer l at position t.
func (r *referee) recalled(t, l int, y *ghost.Layer) ([]float32, error) {
	if u, ok := r.recall[[2]int{t, l}]; ok {
		return u, nil
	}
	m := r.m
	x := y.Memory
	if err := r.need(ghost.Part{Kind: ghost.PartTensor, Index: x.Table}); err != nil {
		return nil, err
	}
	var query []float32
	var tokens []int32
	if m.Rules[x.Rule].Product != nil {
		if _, _, err := r.linearPart(ghost.Part{Layer: l, Index: ghost.LinearKeys}); err != nil {
			return nil, err
		}
		var err error
		if query, err = r.floats(t, l, ghost.MemoryQuery, 0); err != nil {
			return nil, err
		}
	} else {
		for i := max(0, t+1-lookback); i <= t; i++ {
			id, err := r.token(i)
			if err != nil {
				return nil, err
			}
			tokens = append(tokens, id)
		}
	}
	u, err := recall(m, x, tokens, query, func(tensor, i int) ([]byte, error) {
		v := &m.Tensors[tensor]
		return r.src.row(tensor, i, v.Format.RowBytes(v.Cols))
	})
	if err != nil {
		return nil, placed(err, t, l)
	}
	r.recall[[2]int{t, l}] = u
	return u, nil
}

// token is the token at position t.
func (r *referee) token(t int) (int32, error) {
	i := t / ghost.TokensPerLeaf
	b, err := r.src.tokens(i, 4*min(ghost.TokensPerLeaf, r.prompt+r.answer-i*ghost.TokensPerLeaf))
	if err != nil {
		return 0, err
	}
	return int32(binary.LittleEndian.Uint32(b[t%ghost.TokensPerLeaf*4:])), nil
}

// asked checks an element of a memory block's query.
func (r *referee) asked(c Claim) (got, want float32, err error) {
	t, l := c.Position, c.Layer
	if got, err = r.float(t, l, ghost.MemoryQuery, c.Element); err != nil { // refuses layers without queries
		return 0, 0, err
	}
	want, err = r.product(t, ghost.Part{Layer: l, Index: ghost.LinearQuery}, c.Element)
	return got, want, err
}
