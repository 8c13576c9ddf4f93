package lab

import (
	"math"

	"github.com/geistnet/geist/arith"
	"github.com/geistnet/geist/ghost"
)

// all lists the attacks.
func all() []attack {
	var as []attack
	for _, f := range []func() []attack{stateAttacks, valueAttacks, scaleAttacks, degenerateAttacks,
		modelAttacks, promptAttacks, samplerAttacks, attentionAttacks, blockAttacks, routerAttacks, memoryAttacks, proofAttacks, receiptAttacks, collusionAttacks} {
		as = append(as, f()...)
	}
	return as
}

// everyCell is that any element of any relation of a share of cells is wrong.
func everyCell(share float64) chance { return chance{cell: share} }

const cellTheory = "1 − (1 − g)^c, g the share of (position, layer) cells that are forged"

// nudge moves all values by about a hundredth of their size.
func nudge(x []float32) {
	for i, v := range x {
		x[i] = v + float32(v*0.01) + 1e-3
	}
}

// forgeCells forges the residual stream at the cells that pick draws, and runs on.
func forgeCells(pick func(b *bench, n, layers int) map[[2]int]bool) func(*bench) (*recording, error) {
	return func(b *bench) (*recording, error) {
		n, layers := promptLen+answerLen-1, len(b.s.g.Layers)
		bad := pick(b, n, layers)
		r, err := b.run(hooks{alter: func(_ *pass, a at, x []float32) {
			if a.stage == residOut && bad[[2]int{a.t, a.l}] {
				nudge(x)
			}
		}})
		return sealed(r, err, everyCell(float64(len(bad))/float64(n*layers)))
	}
}

func share(f float64) func(b *bench, n, layers int) map[[2]int]bool {
	return func(b *bench, n, layers int) map[[2]int]bool {
		bad := map[[2]int]bool{}
		for len(bad) < max(1, int(math.Round(f*float64(n*layers)))) {
			bad[[2]int{b.r.IntN(n), b.r.IntN(layers)}] = true
		}
		return bad
	}
}

func stateAttacks() []attack {
	var as []attack
	for _, x := range []struct {
		name, what string
		pick       func(b *bench, n, layers int) map[[2]int]bool
	}{
		{"state-one-cell", "The state behind one layer at one position is another; all that follows is computed from it.", share(0)},
		{"state-1-percent", "The states of 1 % of all cells are others; all that follows is computed from them.", share(0.01)},
		{"state-5-percent", "The states of 5 % of all cells are others; all that follows is computed from them.", share(0.05)},
		{"state-10-percent", "The states of 10 % of all cells are others; all that follows is computed from them.", share(0.1)},
		{"state-50-percent", "The states of half of all cells are others; all that follows is computed from them.", share(0.5)},
		{"state-one-layer", "The states behind one layer are others at every position.", func(b *bench, n, layers int) map[[2]int]bool {
			bad, l := map[[2]int]bool{}, b.r.IntN(layers)
			for t := range n {
				bad[[2]int{t, l}] = true
			}
			return bad
		}},
		{"state-one-position", "The states of one position are others behind every layer.", func(b *bench, n, layers int) map[[2]int]bool {
			bad, t := map[[2]int]bool{}, b.r.IntN(n)
			for l := range layers {
				bad[[2]int{t, l}] = true
			}
			return bad
		}},
	} {
		as = append(as, attack{name: x.name, family: "state", what: x.what, theory: cellTheory, forge: forgeCells(x.pick)})
	}
	return as
}

// element forges one fixed element of a value in every cell and runs on.
func element(s stage, i, j int, by float32) func(*bench) hooks {
	return func(b *bench) hooks {
		kv := b.s.g.KV
		return hooks{alter: func(_ *pass, a at, x []float32) {
			if a.stage == s && a.i == i && a.l >= 0 {
				v := x[j] + by
				if s == rawQuery || s == rawKey || s == cachedKey || s == cachedVal {
					v = kv.Round(v)
				}
				x[j] = v
			}
		}}
	}
}

func valueAttacks() []attack {
	type one struct {
		name, shape, what, theory string
		hooks                     func(*bench) hooks
		chance                    func(g *ghost.Model) float64
	}
	var as []attack
	for _, x := range []one{
		{"query-element", "", "One element of a raw query is another in every cell.", "1 − (1 − 1/(heads·key dimension))^c",
			element(rawQuery, 1, 3, 0.25), func(g *ghost.Model) float64 { return 1 / float64(g.Heads*g.KeyDim) }},
		{"key-element", "", "One element of a raw key is another in every cell.", "1 − (1 − 1/(key heads·key dimension))^c",
			element(rawKey, 1, 3, 0.25), func(g *ghost.Model) float64 { return 1 / float64(g.KVHeads*g.KeyDim) }},
		{"cached-key-element", "", "One element of each cached key row is another than its raw key gives.", "1 − (1 − 1/key heads)^c: the row is compared whole",
			element(cachedKey, 1, 3, 0.25), func(g *ghost.Model) float64 { return 1 / float64(g.KVHeads) }},
		{"cached-value-column", "", "One column of cached values is another at every position.", "1 − (1 − 1/(key heads·value dimension))^c",
			element(cachedVal, 1, 3, 0.25), func(g *ghost.Model) float64 { return 1 / float64(g.KVHeads*g.ValDim) }},
		{"middle-element", "", "One element of the state after attention is another in every cell.", "1 − (1 − 1/dimension)^c",
			element(residMid, 0, 5, 0.25), func(g *ghost.Model) float64 { return 1 / float64(g.Dim) }},
		{"output-element", "", "One element of the state after each layer is another in every cell.", "1 − (1 − 1/dimension)^c",
			element(residOut, 0, 5, 0.25), func(g *ghost.Model) float64 { return 1 / float64(g.Dim) }},
		{"router-element", "mixture", "One router logit is another in every cell.", "1 − (1 − 1/experts)^c",
			element(routed, 0, 2, 0.5), func(g *ghost.Model) float64 { return 1 / float64(len(g.Layers[0].Experts)) }},
		{"attention-result-element", "gemma", "One element of the attention block's result before its norm is another.", "1 − (1 − 1/dimension)^c",
			element(outRaw, 0, 5, 0.25), func(g *ghost.Model) float64 { return 1 / float64(g.Dim) }},
		{"feed-forward-result-element", "gemma", "One element of the feed-forward block's result before its norm is another.", "1 − (1 − 1/dimension)^c",
			element(downRaw, 0, 5, 0.25), func(g *ghost.Model) float64 { return 1 / float64(g.Dim) }},
		{"hidden-element", "llama f32", "One hidden element is another in every cell.", "1 − (1 − 1/hidden width)^c",
			element(hidden, 0, 5, 0.25), func(g *ghost.Model) float64 { return 1 / float64(g.FF) }},
		{"attention-output-element", "llama f32", "One element of one head's output is another in every cell.", "1 − (1 − 1/(heads·value dimension))^c",
			element(attended, 1, 3, 0.25), func(g *ghost.Model) float64 { return 1 / float64(g.Heads*g.ValDim) }},
	} {
		as = append(as, attack{name: x.name, family: "value", shape: x.shape, what: x.what, theory: x.theory,
			forge: func(b *bench) (*recording, error) {
				r, err := b.run(x.hooks(b))
				return sealed(r, err, everyCell(x.chance(b.s.g)))
			}})
	}
	return as
}

// scaleAttacks forge what codes are relative to.
func scaleAttacks() []attack {
	scale := func(s stage, chance float64, by float32) func(b *bench) (*recording, error) {
		return func(b *bench) (*recording, error) {
			r, err := b.run(hooks{codes: func(a at, x []float32, in *arith.Activations) {
				if a.stage != s {
					return
				}
				for i := range in.D {
					in.D[i] = float32(in.D[i] * by)
					for j := i * in.Block; j < (i+1)*in.Block; j++ {
						in.Q[j] = int8(max(-127, min(127, arith.Code(x[j], in.D[i]))))
					}
				}
			}})
			return sealed(r, err, everyCell(chance))
		}
	}
	const rarely = "1 − (1 − 1/4)^c: one cell in four checks the scale itself; it is off by less than half a percent"
	return []attack{
		{name: "attention-scale-huge", family: "scale", what: "Attention is skipped: its output has scales so large that every code is 0.", theory: cellTheory,
			forge: scale(attOut, 1, 1e30)},
		{name: "hidden-scale-huge", family: "scale", what: "The feed-forward block is skipped: its hidden values have scales so large that every code is 0.", theory: cellTheory,
			forge: scale(hidden, 1, 1e30)},
		{name: "hidden-scale-tenth", family: "scale", what: "Hidden values are saturated: their scales are a tenth of what they should be.",
			theory: "1 − (1 − g)^c, g = 1 − (1 − s)·3/4, s the share of elements that are saturated; one cell in four checks the scale itself",
			forge: func(b *bench) (*recording, error) {
				saturated, all := 0, 0
				r, err := b.run(hooks{codes: func(a at, x []float32, in *arith.Activations) {
					if a.stage != hidden {
						return
					}
					for i := range in.D {
						in.D[i] = float32(in.D[i] * 0.1)
						for j := i * in.Block; j < (i+1)*in.Block; j++ {
							q := arith.Code(x[j], in.D[i])
							in.Q[j] = int8(max(-127, min(127, q)))
							if all++; q > 127 || q < -127 {
								saturated++
							}
							if x[j] < 0 && q == 128 { // what Code says of all that is out of range
								in.Q[j] = -127
							}
						}
					}
				}})
				return sealed(r, err, everyCell(1-0.75*(1-float64(saturated)/float64(all))))
			}},
		{name: "attention-scale-drift", family: "scale", what: "The scales of the attention output are too large by 0.3 %.", theory: rarely,
			forge: scale(attOut, 0.25, 1.003)},
		{name: "hidden-scale-drift", family: "scale", what: "The scales of hidden values are too large by 0.3 %.", theory: rarely,
			forge: scale(hidden, 0.25, 1.003)},
		{name: "coarse-codes", family: "scale", what: "Hidden values are computed to 4 bits and written as 8.", theory: "1 − (1 − g)^c, g the share of codes that differ",
			forge: func(b *bench) (*recording, error) {
				var differ, all int
				r, err := b.run(hooks{codes: func(a at, _ []float32, in *arith.Activations) {
					if a.stage != hidden {
						return
					}
					for i, q := range in.Q {
						all++
						if q == 127 || q == -127 {
							continue
						}
						if in.Q[i] = q / 16 * 16; in.Q[i] != q {
							differ++
						}
					}
				}})
				return sealed(r, err, everyCell(float64(differ)/float64(all)))
			}},
	}
}
