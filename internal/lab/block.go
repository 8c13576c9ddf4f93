package lab

import (
	"math"

	"github.com/geistnet/geist/arith"
	"github.com/geistnet/geist/ghost"
)

// coarse keeps 4 bits of a float's mantissa.
func coarse(x float32) float32 { return math.Float32frombits(math.Float32bits(x) &^ (1<<19 - 1)) }

// blockAttacks leave out or replace parts of a layer.
func blockAttacks() []attack {
	altered := func(c float64, f func(p *pass, a at, x []float32)) func(b *bench) (*recording, error) {
		return func(b *bench) (*recording, error) {
			r, err := b.run(hooks{alter: f})
			return sealed(r, err, everyCell(c))
		}
	}
	zero := func(s stage) func(*pass, at, []float32) {
		return func(_ *pass, a at, x []float32) {
			if a.stage == s {
				clear(x)
			}
		}
	}
	gate := func(f func(g, u float32) float32) func(b *bench) (*recording, error) {
		return func(b *bench) (*recording, error) {
			r, err := b.run(hooks{gate: f})
			return sealed(r, err, everyCell(1))
		}
	}
	as := []attack{
		{name: "norm-skipped", what: "The norm before attention is left out.", forge: altered(1, func(p *pass, a at, x []float32) {
			if a.stage == normedIn {
				copy(x, p.x)
			}
		})},
		{name: "feed-forward-norm-skipped", shape: "llama f32", what: "The norm before the feed-forward block is left out.", forge: altered(1, func(p *pass, a at, x []float32) {
			if a.stage == normedMid {
				copy(x, p.x)
			}
		})},
		{name: "output-projection-skipped", what: "Nothing is added to the residual stream after attention.", forge: altered(1, zero(outAdded))},
		{name: "down-projection-skipped", what: "Nothing is added to the residual stream after the feed-forward block.", forge: altered(1, zero(downAdded))},
		{name: "result-halved", shape: "gemma", what: "The feed-forward block's result is added at half its size.", forge: altered(1, func(p *pass, a at, x []float32) {
			if a.stage == downAdded {
				for i := range x {
					x[i] = float32(x[i] * 0.5)
				}
			}
		})},
		{name: "wrong-gate", shape: "llama f32", what: "The gate is GELU where the model has SiLU.", forge: gate(arith.GELUMul)},
		{name: "gate-skipped", shape: "llama f32", what: "The gate's product is not computed.", forge: gate(func(_, u float32) float32 { return u })},
		{name: "half-of-hidden-skipped", what: "The second half of the hidden values is left at zero.", theory: "1 − (1 − 1/2)^c", forge: altered(0.5, func(_ *pass, a at, x []float32) {
			if a.stage == hidden {
				clear(x[len(x)/2:])
			}
		})},
		{name: "residual-in-half-precision", what: "The residual stream is kept in 16 bits.", forge: altered(1, func(_ *pass, a at, x []float32) {
			if a.stage == residOut {
				for i := range x {
					x[i] = arith.RoundF16(x[i])
				}
			}
		})},
		{name: "state-altered-afterwards", what: "After the run the states behind one layer are altered in the trace.", theory: "1 − (1 − 2/L)^c: the layer itself and the next, L layers",
			forge: func(b *bench) (*recording, error) {
				r, err := b.run(hooks{})
				if err != nil {
					return nil, err
				}
				for t := range r.cells {
					x := r.cells[t][1][ghost.ResidOut][0]
					for i := 2; i < len(x); i += 4 {
						x[i] ^= 0x55
					}
				}
				return sealed(r, nil, everyCell(2/float64(len(b.s.g.Layers))))
			}},
	}
	for i := range as {
		as[i].family = "block"
		if as[i].theory == "" {
			as[i].theory = cellTheory
		}
	}
	return as
}

// routerAttacks forge the choice of experts.
func routerAttacks() []attack {
	const cells = "1 − (1 − g)^c, g the share of cells whose experts are others"
	altered := func(c float64, f func(p *pass, a at, x []float32)) func(b *bench) (*recording, error) {
		return func(b *bench) (*recording, error) {
			r, err := b.run(hooks{alter: f})
			return sealed(r, err, everyCell(c))
		}
	}
	as := []attack{
		{name: "experts-fixed", what: "The same three experts run whatever the router says.", theory: cells,
			forge: func(b *bench) (*recording, error) {
				differ, all := 0, 0
				r, err := b.run(hooks{chosen: func(_ at, experts []int) {
					all++
					for i := range experts {
						if experts[i] != i {
							differ++
							break
						}
					}
					for i := range experts {
						experts[i] = i
					}
				}})
				return sealed(r, err, everyCell(float64(differ)/float64(max(1, all))))
			}},
		{name: "router-forged-for-fixed-experts", what: "Three router logits are raised everywhere, so that the same experts win.", theory: "1 − (1 − k/E)^c, k of E logits",
			forge: altered(3.0/8, func(_ *pass, a at, x []float32) {
				if a.stage == routed {
					for i := range 3 {
						x[i] += 50 + float32(i)
					}
				}
			})},
		{name: "one-expert-only", what: "Only the first chosen expert counts.", theory: cellTheory,
			forge: altered(1, func(_ *pass, a at, x []float32) {
				if a.stage == expertGain {
					clear(x)
					x[0] = 1
				}
			})},
		{name: "expert-weights-equal", what: "The chosen experts have equal weights.", theory: cellTheory,
			forge: altered(1, func(_ *pass, a at, x []float32) {
				if a.stage == expertGain {
					for i := range x {
						x[i] = 1 / float32(len(x))
					}
				}
			})},
		{name: "one-expert-zero", what: "One of the three chosen experts is not computed; its hidden values are zero.", theory: "1 − (1 − 1/k)^c, k experts in use",
			forge: altered(1.0/3, func(_ *pass, a at, x []float32) {
				if a.stage == hidden && a.i == 1 {
					clear(x)
				}
			})},
	}
	for i := range as {
		as[i].family, as[i].shape = "router", "mixture"
	}
	return as
}
