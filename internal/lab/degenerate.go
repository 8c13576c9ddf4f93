package lab

import "github.com/geistnet/geist/ghost"

// degenerateAttacks make runs in which states repeat, so that products need not
// be computed more than once.
func degenerateAttacks() []attack {
	const oneLayer = "1 − (1 − s/L)^c: only the layer in which s of the positions are made equal is wrong, L layers"
	n := float64(promptLen + answerLen - 1)
	layers := func(b *bench) float64 { return float64(len(b.s.g.Layers)) }
	after0 := func(f func(t int, x []float32)) hooks {
		return hooks{alter: func(_ *pass, a at, x []float32) {
			if a.stage == residOut && a.l == 0 {
				f(a.t, x)
			}
		}}
	}
	return []attack{
		{name: "degenerate-one-state", family: "degenerate", what: "Behind the first layer all positions have the state of the first; the rest is computed from it.", theory: oneLayer,
			forge: func(b *bench) (*recording, error) {
				var first []float32
				r, err := b.run(after0(func(t int, x []float32) {
					if t == 0 {
						first = append(first, x...)
					}
					copy(x, first)
				}))
				return sealed(r, err, everyCell((n-1)/n/layers(b)))
			}},
		{name: "degenerate-zero", family: "degenerate", what: "Behind the first layer all states are zero, which all later layers keep: they cost nothing.", theory: oneLayer,
			forge: func(b *bench) (*recording, error) {
				r, err := b.run(after0(func(_ int, x []float32) { clear(x) }))
				return sealed(r, err, everyCell(1/layers(b)))
			}},
		{name: "degenerate-zero-input", family: "degenerate", what: "All states are zero from the embedding on.", theory: oneLayer,
			forge: func(b *bench) (*recording, error) {
				r, err := b.run(hooks{alter: func(_ *pass, a at, x []float32) {
					if a.stage == embedded {
						clear(x)
					}
				}})
				return sealed(r, err, everyCell(1/layers(b)))
			}},
		{name: "degenerate-pairs", family: "degenerate", what: "Behind the first layer every second position has the state of the one before it.", theory: oneLayer,
			forge: func(b *bench) (*recording, error) {
				var last []float32
				r, err := b.run(after0(func(t int, x []float32) {
					if t%2 == 1 {
						copy(x, last)
					}
					last = append(last[:0], x...)
				}))
				return sealed(r, err, everyCell(float64(int(n)/2)/n/layers(b)))
			}},
		{name: "small-model-behind-zero-states", family: "degenerate", what: "Another model makes the answer. The trace has zero states behind the first layer, which cost nothing, and the other model's last states behind the last.",
			theory: "1 − (1 − (N + A)/(N·L))^c: the first layer of all N positions and the last of the A that emit tokens, L layers",
			forge: func(b *bench) (*recording, error) {
				o, err := b.subject("another llama")
				if err != nil {
					return nil, err
				}
				last, states := len(b.s.g.Layers)-1, map[int][]float32{}
				draft, err := recorded(b.s, func(tensor, row int) ([]byte, error) {
					if tensor == b.s.g.Output.Tensor {
						return b.s.row(tensor, row)
					}
					return o.row(tensor, row)
				}, b.prompt, b.answer, b.sampling, hooks{alter: func(_ *pass, a at, x []float32) {
					if a.stage == residOut && a.l == last {
						states[a.t] = append([]float32(nil), x...)
					}
				}})
				if err != nil {
					return nil, err
				}
				r, err := b.run(hooks{alter: func(_ *pass, a at, x []float32) {
					switch {
					case a.stage == residOut && a.l == 0:
						clear(x)
					case a.stage == residOut && a.l == last && a.t >= promptLen-1:
						copy(x, states[a.t])
					}
				}, choose: func(a int, _ []float32, _ int32) int32 { return draft.run.Answer[a] }})
				return sealed(r, err, everyCell((n+answerLen)/n/layers(b)))
			}},
		{name: "degenerate-layers-equal", family: "degenerate", what: "All layers but the first hand their input on.", theory: cellTheory,
			forge: func(b *bench) (*recording, error) {
				r, err := b.run(hooks{skip: func(_, l int) bool { return l > 0 }})
				return sealed(r, err, everyCell(1-1/layers(b)))
			}},
		{name: "degenerate-neighbour", family: "degenerate", what: "Every second position is not computed: all its values are those of the one before it.", theory: cellTheory,
			forge: func(b *bench) (*recording, error) {
				r, err := b.run(hooks{})
				if err != nil {
					return nil, err
				}
				for t := 1; t < len(r.cells); t += 2 {
					r.copyCells(t, t-1)
				}
				return sealed(r, nil, everyCell(float64(int(n)/2)/n))
			}},
		{name: "degenerate-answer", family: "degenerate", what: "Only the prompt is computed: every position of the answer has the values and logits of the prompt's end.", theory: cellTheory,
			forge: func(b *bench) (*recording, error) {
				var first []float32
				history := append([]int32(nil), b.prompt...)
				r, err := b.run(hooks{choose: func(a int, l []float32, _ int32) int32 {
					if a == 0 {
						first = append(first, l...)
					}
					id := sample(first, &b.sampling, history, a)
					history = append(history, id)
					return id
				}})
				if err != nil {
					return nil, err
				}
				for t := promptLen; t < len(r.cells); t++ {
					r.copyCells(t, promptLen-1)
					r.tails[t] = first
				}
				return sealed(r, nil, everyCell((n-promptLen)/n))
			}},
	}
}

// copyCells makes position t look like position from. Attention weights are cut
// or filled up with zeros to the length they must have.
func (r *recording) copyCells(t, from int) {
	g := r.run.Model
	for l := range r.cells[t] {
		c := r.cells[from][l]
		y := g.Layout(l, t)
		w := make([][]byte, len(c[ghost.Weights]))
		for h := range w {
			w[h] = make([]byte, y.Span(ghost.Weights, h).Bytes)
			copy(w[h], c[ghost.Weights][h])
		}
		c[ghost.Weights] = w
		r.cells[t][l] = c
	}
}
