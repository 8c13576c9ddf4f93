package lab

import "github.com/geistnet/geist/arith"

// modelAttacks run another model than the one claimed.
func modelAttacks() []attack {
	with := func(weights func(b *bench) (rows, error), c func(b *bench) float64) func(b *bench) (*recording, error) {
		return func(b *bench) (*recording, error) {
			w, err := weights(b)
			if err != nil {
				return nil, err
			}
			r, err := recorded(b.s, w, b.prompt, b.answer, b.sampling, hooks{})
			return sealed(r, err, everyCell(c(b)))
		}
	}
	always := func(*bench) float64 { return 1 }
	other := func(b *bench) (rows, error) {
		o, err := b.subject("another llama")
		if err != nil {
			return nil, err
		}
		return o.row, nil
	}
	// part takes rows of tensors that are picked from another model.
	part := func(pick func(b *bench, tensor, row int) bool) func(b *bench) (rows, error) {
		return func(b *bench) (rows, error) {
			o, err := other(b)
			return func(tensor, row int) ([]byte, error) {
				if pick(b, tensor, row) {
					return o(tensor, row)
				}
				return b.s.row(tensor, row)
			}, err
		}
	}
	swap := func(b *bench) (rows, error) {
		return func(tensor, row int) ([]byte, error) {
			for l := range b.s.g.Layers {
				if b.s.g.Layers[l].Q.Tensor == tensor && (row == 3 || row == 40) {
					row = 43 - row
				}
			}
			return b.s.row(tensor, row)
		}, nil
	}
	skipping := func(skip func(b *bench, t, l int) bool, share func(layers int) float64) func(b *bench) (*recording, error) {
		return func(b *bench) (*recording, error) {
			r, err := b.run(hooks{skip: func(t, l int) bool { return skip(b, t, l) }})
			return sealed(r, err, everyCell(share(len(b.s.g.Layers))))
		}
	}
	const layerTheory = "1 − (1 − s)^c, s the share of cells whose layer is not computed"
	return []attack{
		{name: "other-model", family: "model", what: "Another model of the same shape runs; the claimed model's weights are opened.", theory: cellTheory, forge: with(other, always)},
		{name: "other-model-own-rows", family: "model", what: "Another model of the same shape runs and its own weights are opened.", theory: "1: its rows do not lie under the roots of the Ghost file", by: ByRoot,
			forge: func(b *bench) (*recording, error) {
				w, err := other(b)
				if err != nil {
					return nil, err
				}
				r, err := recorded(b.s, w, b.prompt, b.answer, b.sampling, hooks{})
				if r, err = sealed(r, err, everyCell(1)); err == nil {
					r.open = w
				}
				return r, err
			}},
		{name: "smaller-quantisation", family: "model", what: "The same weights run in Q4_0 instead of Q8_0.", theory: cellTheory,
			forge: func(b *bench) (*recording, error) {
				o, err := b.subject("llama q4_0")
				if err != nil {
					return nil, err
				}
				r, err := recorded(b.s, o.row, b.prompt, b.answer, b.sampling, hooks{shape: o.g})
				return sealed(r, err, everyCell(1))
			}},
		{name: "requantised", family: "model", what: "Weights that went through Q4_0 run in Q8_0, the format claimed.", theory: cellTheory,
			forge: with(func(b *bench) (rows, error) { return b.s.requantised(arith.Q4_0), nil }, always)},
		{name: "requantised-to-5-bits", family: "model", what: "Weights that went through Q5_1 run in Q8_0, the format claimed.", theory: cellTheory,
			forge: with(func(b *bench) (rows, error) { return b.s.requantised(arith.Q5_1), nil }, always)},
		{name: "one-layer-of-another", family: "model", what: "One layer has the weights of another model.", theory: "1 − (1 − 1/L)^c, L layers",
			forge: with(part(func(b *bench, tensor, _ int) bool {
				y := &b.s.g.Layers[2]
				return tensor >= y.Q.Tensor && tensor <= y.Down.Tensor
			}), func(b *bench) float64 { return 1 / float64(len(b.s.g.Layers)) })},
		{name: "one-row-of-another", family: "model", what: "One row of every query matrix is another model's.", theory: "1 − (1 − 1/rows)^c",
			forge: with(part(func(b *bench, tensor, row int) bool {
				for l := range b.s.g.Layers {
					if b.s.g.Layers[l].Q.Tensor == tensor {
						return row == 17
					}
				}
				return false
			}), func(b *bench) float64 { return 1 / float64(b.s.g.Layers[0].Q.Rows) })},
		{name: "row-of-another-opened", family: "model", what: "An honest run is opened with rows of another model.", theory: "1: the rows do not lie under the roots of the Ghost file", by: ByRoot, honest: true,
			forge: func(b *bench) (*recording, error) {
				w, err := other(b)
				if err != nil {
					return nil, err
				}
				r, err := b.run(hooks{})
				if r, err = sealed(r, err, everyCell(1)); err == nil {
					r.open = w
				}
				return r, err
			}},
		{name: "swapped-rows", family: "model", what: "Two rows of every query matrix are exchanged.", theory: "1 − (1 − 2/rows)^c",
			forge: with(swap, func(b *bench) float64 { return 2 / float64(b.s.g.Layers[0].Q.Rows) })},
		{name: "keys-as-values", family: "model", what: "The key matrix is used for the values too, so one product is saved.", theory: cellTheory,
			forge: with(func(b *bench) (rows, error) {
				return func(tensor, row int) ([]byte, error) {
					for l := range b.s.g.Layers {
						if y := &b.s.g.Layers[l]; y.V.Tensor == tensor {
							tensor = y.K.Tensor
						}
					}
					return b.s.row(tensor, row)
				}, nil
			}, always)},
		{name: "shared-layer-weights", family: "model", what: "All layers run with the weights of the first.", theory: "1 − (1 − (L−1)/L)^c, L layers",
			forge: with(func(b *bench) (rows, error) {
				y := b.s.g.Layers
				per := y[1].Q.Tensor - y[0].Q.Tensor
				return func(tensor, row int) ([]byte, error) {
					if tensor >= y[0].Q.Tensor && tensor <= y[len(y)-1].Down.Tensor {
						tensor = y[0].Q.Tensor + (tensor-y[0].Q.Tensor)%per
					}
					return b.s.row(tensor, row)
				}, nil
			}, func(b *bench) float64 { l := float64(len(b.s.g.Layers)); return (l - 1) / l })},
		{name: "last-layer-skipped", family: "model", what: "The last layer is not run; the state is handed on.", theory: layerTheory,
			forge: skipping(func(b *bench, _, l int) bool { return l == len(b.s.g.Layers)-1 }, func(n int) float64 { return 1 / float64(n) })},
		{name: "half-of-layers-skipped", family: "model", what: "The second half of the layers is not run; the state is handed on.", theory: layerTheory,
			forge: skipping(func(b *bench, _, l int) bool { return l >= len(b.s.g.Layers)/2 }, func(int) float64 { return 0.5 })},
		{name: "layers-skipped-in-answer", family: "model", what: "The second half of the layers is not run while the answer is made.", theory: layerTheory,
			forge: skipping(func(b *bench, t, l int) bool { return t >= promptLen && l >= len(b.s.g.Layers)/2 },
				func(int) float64 { return 0.5 * (answerLen - 1) / (promptLen + answerLen - 1) })},
	}
}
