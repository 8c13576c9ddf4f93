package lab

import (
	"errors"
	"math"
	"slices"

	"github.com/geistnet/geist/arith"
	"github.com/geistnet/geist/ghost"
	"github.com/geistnet/geist/sat"
)

// term is a row of a sum.
type term struct {
	weight float32
	row    []float32
}

// memory is u of a memory block.
func (p *pass) memory(t, l int, x *ghost.Memory, in []float32, c *cell) ([]float32, error) {
	g := p.g
	table := &g.Tensors[x.Table]
	row := func(id int) ([]float32, error) {
		b, err := p.rows(x.Table, id)
		if err != nil {
			return nil, err
		}
		v := make([]float32, table.Cols)
		arith.Dequantize(v, table.Format, b)
		return v, nil
	}
	u := make([]float32, g.FF)
	if h := g.Rules[x.Rule].Hash; h != nil {
		ids := h.IDs(nil, p.ids)
		if p.hooks.picks != nil {
			p.hooks.picks(at{recalled, t, l, 0}, ids, nil)
		}
		for i, id := range ids {
			v, err := row(id)
			if err != nil {
				return nil, err
			}
			copy(u[i*table.Cols:], v)
		}
		p.alter(recalled, t, l, 0, u)
		return u, nil
	}
	r := g.Rules[x.Rule].Product
	query, err := p.product(&x.Query, in)
	if err != nil {
		return nil, err
	}
	p.alter(asked, t, l, 0, query)
	c.put(ghost.MemoryQuery, floatBytes(query))
	var keys []byte
	for i := range r.KeyRows() {
		b, err := p.rows(x.Keys.Tensor, x.Keys.Row0+i)
		if err != nil {
			return nil, err
		}
		keys = append(keys, b...)
	}
	scores := make([]float32, r.KeyRows())
	if !r.Scores(scores, query, g.Tensors[x.Keys.Tensor].Format, keys, g.Eps) {
		return nil, errors.New("a score is not finite")
	}
	var terms []term
	for h := range r.Heads {
		a := at{recalled, t, l, h}
		rule, skip := *r, 0
		if p.hooks.worse != nil && p.hooks.worse(a) {
			rule.TopK, skip = rule.TopK+1, 1
		}
		picks, ok := rule.Picks(nil, scores[2*h*r.Keys:][:r.Keys], scores[(2*h+1)*r.Keys:][:r.Keys])
		if !ok {
			return nil, errors.New("a sum of scores is not finite")
		}
		picks = picks[skip:]
		weights, rows := make([]float32, len(picks)), make([]int, len(picks))
		sat.Weights(weights, picks)
		for i := range picks {
			rows[i] = picks[i].Row
		}
		if p.hooks.picks != nil {
			p.hooks.picks(a, rows, weights)
		}
		for i, id := range rows {
			v, err := row(id)
			if err != nil {
				return nil, err
			}
			terms = append(terms, term{weights[i], v})
		}
	}
	for _, x := range terms {
		sat.AddRow(u, x.weight, x.row)
	}
	if p.hooks.reversed != nil {
		p.hooks.reversed(u)
		u = make([]float32, g.FF)
		for _, x := range slices.Backward(terms) {
			sat.AddRow(u, x.weight, x.row)
		}
	}
	p.alter(recalled, t, l, 0, u)
	return u, nil
}

// shareOf is the share of layers whose memory keeps to a rule.
func shareOf(g *ghost.Model, product bool) float64 {
	n := 0
	for i := range g.Layers {
		if x := g.Layers[i].Memory; x != nil && product == (g.Rules[x.Rule].Product != nil) {
			n++
		}
	}
	return float64(n) / float64(len(g.Layers))
}

// memoryAttacks read other rows of memory than a model does.
func memoryAttacks() []attack {
	const hashTheory, productTheory = "1 − (1 − s)^c, s the share of layers that hash n-grams", "1 − (1 − s)^c, s the share of layers with product keys"
	with := func(product bool, h func(b *bench) hooks) func(b *bench) (*recording, error) {
		return func(b *bench) (*recording, error) {
			r, err := b.run(h(b))
			return sealed(r, err, everyCell(shareOf(b.s.g, product)))
		}
	}
	as := []attack{
		{name: "memory-wrong-rows", what: "Each n-gram reads the row beside its own.", theory: hashTheory,
			forge: with(false, func(*bench) hooks {
				return hooks{picks: func(_ at, rows []int, weights []float32) {
					for i := range rows {
						if weights == nil {
							rows[i] ^= 1
						}
					}
				}}
			})},
		{name: "memory-no-context", what: "All n-grams of a head read one row, whatever their tokens are.", theory: hashTheory,
			forge: with(false, func(b *bench) hooks {
				part := 1
				for _, r := range b.s.g.Rules {
					if r.Hash != nil {
						part = r.Hash.Rows
					}
				}
				return hooks{picks: func(_ at, rows []int, weights []float32) {
					for i := range rows {
						if weights == nil {
							rows[i] = (i+1)*part - 1
						}
					}
				}}
			})},
		{name: "memory-worse-rows", what: "Each head leaves out its best row and takes the next ones.", theory: productTheory,
			forge: with(true, func(*bench) hooks { return hooks{worse: func(at) bool { return true }} })},
		{name: "memory-equal-weights", what: "The right rows are averaged instead of weighted.", theory: productTheory,
			forge: with(true, func(*bench) hooks {
				return hooks{picks: func(_ at, _ []int, weights []float32) {
					for i := range weights {
						weights[i] = 1 / float32(len(weights))
					}
				}}
			})},
		{name: "memory-substituted-keys", what: "Scores are those of other sub-keys: each has its neighbour's place.", theory: productTheory,
			forge: func(b *bench) (*recording, error) {
				keys := map[int]int{} // rows by tensor
				for i := range b.s.g.Layers {
					if x := b.s.g.Layers[i].Memory; x != nil && b.s.g.Rules[x.Rule].Product != nil {
						keys[x.Keys.Tensor] = x.Keys.Rows
					}
				}
				r, err := recorded(b.s, func(tensor, row int) ([]byte, error) {
					if n := keys[tensor]; n > 0 {
						row = (row + 1) % n
					}
					return b.s.row(tensor, row)
				}, b.prompt, b.answer, b.sampling, hooks{})
				return sealed(r, err, everyCell(shareOf(b.s.g, true)))
			}},
		{name: "memory-other-order", what: "Rows are added from the last rank to the first.", theory: "1 − (1 − s)^c, s the share of all cells' elements that differ by it",
			forge: func(b *bench) (*recording, error) {
				var differ, all int
				var right []float32 // what is left of the cell's u
				r, err := b.run(hooks{
					reversed: func(u []float32) { right = u },
					gate: func(g, u float32) float32 {
						h := arith.SiLUMul(g, u)
						if len(right) > 0 {
							if all++; math.Float32bits(h) != math.Float32bits(arith.SiLUMul(g, right[0])) {
								differ++
							}
							right = right[1:]
						}
						return h
					},
				})
				return sealed(r, err, everyCell(shareOf(b.s.g, true)*float64(differ)/float64(all)))
			}},
		{name: "memory-query-element", what: "One element of the raw query of memory is another in every cell.", theory: "1 − (1 − s/(values of the query))^c, s the share of layers with product keys",
			forge: func(b *bench) (*recording, error) {
				r, err := b.run(element(asked, 0, 5, 0.25)(b))
				n := 1
				for i := range b.s.g.Rules {
					if p := b.s.g.Rules[i].Product; p != nil {
						n = p.QueryLen()
					}
				}
				return sealed(r, err, everyCell(shareOf(b.s.g, true)/float64(n)))
			}},
	}
	for i := range as {
		as[i].family, as[i].shape = "memory", "memory"
	}
	return as
}
