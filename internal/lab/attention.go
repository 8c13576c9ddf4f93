package lab

import (
	"slices"

	"github.com/geistnet/geist/ghost"
)

// attentionAttacks forge or leave out attention.
func attentionAttacks() []attack {
	const n = promptLen + answerLen - 1
	altered := func(c func(b *bench) float64, f func(b *bench, p *pass, a at, x []float32)) func(b *bench) (*recording, error) {
		return func(b *bench) (*recording, error) {
			r, err := b.run(hooks{alter: func(p *pass, a at, x []float32) { f(b, p, a, x) }})
			return sealed(r, err, everyCell(c(b)))
		}
	}
	flat := func(c float64) func(*bench) float64 { return func(*bench) float64 { return c } }
	// dropped is the mean share of visible positions that are ignored.
	dropped := func(of func(t int) int) func(*bench) float64 {
		return func(*bench) float64 {
			var c float64
			for t := range n {
				c += float64(of(t)) / float64(t+1) / n
			}
			return c
		}
	}
	window := func(w int) func(*bench, *pass, at, []float32) {
		return func(_ *bench, _ *pass, a at, x []float32) {
			if a.stage == scores && len(x) > w {
				ignore(x[:len(x)-w])
			}
		}
	}
	const windowTheory = "1 − (1 − g)^c, g the mean share of visible positions that are ignored: one weight is drawn"
	zero := func(from, to int) func(*bench, *pass, at, []float32) {
		return func(_ *bench, _ *pass, a at, x []float32) {
			if a.stage == attended && a.t >= from && a.t < to {
				clear(x)
			}
		}
	}
	turned := func(f func(t int) int, c float64) func(b *bench) (*recording, error) {
		return func(b *bench) (*recording, error) {
			r, err := b.run(hooks{turn: f})
			return sealed(r, err, everyCell(c))
		}
	}
	as := []attack{
		{name: "attention-skipped", what: "Attention is not computed; its output is zero.", theory: cellTheory, forge: altered(flat(1), zero(0, n))},
		{name: "attention-forged-early", shape: "llama f32", what: "Attention of the first eight positions is zero.", theory: cellTheory, forge: altered(flat(8.0/n), zero(0, 8))},
		{name: "attention-forged-late", shape: "llama f32", what: "Attention of the last eight positions is zero.", theory: cellTheory, forge: altered(flat(8.0/n), zero(n-8, n))},
		{name: "attention-uniform", what: "All visible positions have the same weight.", theory: cellTheory,
			forge: altered(flat((n-1.0)/n), func(_ *bench, _ *pass, a at, x []float32) {
				if a.stage == scores && a.t > 0 {
					clear(x)
				}
			})},
		{name: "attention-window-16", what: "Only the last 16 positions are attended to.", theory: windowTheory, forge: altered(dropped(func(t int) int { return max(0, t+1-16) }), window(16))},
		{name: "attention-self-only", what: "Each position attends to itself alone.", theory: windowTheory, forge: altered(dropped(func(t int) int { return t }), window(1))},
		{name: "first-position-ignored", what: "The first position has no weight for any later one.", theory: windowTheory,
			forge: altered(dropped(func(t int) int { return min(t, 1) }), func(_ *bench, _ *pass, a at, x []float32) {
				if a.stage == scores && a.t > 0 {
					ignore(x[:1])
				}
			})},
		{name: "weights-exchanged", shape: "gemma", what: "The first two positions exchange their attention weights.",
			theory: "1 − (1 − g)^c, g the mean of 2/(t+1), or 1 where one of the two has the largest score",
			forge: func(b *bench) (*recording, error) {
				var c float64
				heads := float64(b.s.g.Heads * len(b.s.g.Layers))
				r, err := b.run(hooks{alter: func(_ *pass, a at, x []float32) {
					if a.stage != scores || a.t == 0 {
						return
					}
					if top := max(x[0], x[1]); top == slices.Max(x) {
						c += 1 / heads / n
					} else {
						c += 2 / float64(a.t+1) / heads / n
					}
					x[0], x[1] = x[1], x[0]
				}})
				return sealed(r, err, everyCell(c))
			}},
		{name: "largest-score-raised", what: "The largest score is said to be higher by a ten-thousandth, which changes no rounded weight of 1.", theory: cellTheory,
			forge: altered(flat(1), func(_ *bench, _ *pass, a at, x []float32) {
				if a.stage == maxScore {
					x[0] += 1e-4
				}
			})},
		{name: "largest-score-doubled", what: "The largest score is said to be much higher, so that all weights shrink.", theory: cellTheory,
			forge: altered(flat(1), func(_ *bench, _ *pass, a at, x []float32) {
				if a.stage == maxScore {
					x[0] += 3
				}
			})},
		{name: "rope-skipped", what: "Queries and keys are not rotated.", theory: "1 − (1 − (N−1)/N)^c: position 0 is not rotated anyway", forge: turned(func(int) int { return 0 }, (n-1.0)/n)},
		{name: "rope-off-by-one", what: "All positions are rotated as the next ones, which changes no distance.", theory: cellTheory, forge: turned(func(t int) int { return t + 1 }, 1)},
		{name: "rope-restarted", what: "Positions of the answer are counted from 0 again.", theory: "1 − (1 − s)^c, s the answer's share of positions",
			forge: turned(func(t int) int {
				if t >= promptLen {
					return t - promptLen
				}
				return t
			}, (answerLen-1.0)/n)},
		{name: "stale-cache", what: "Keys and values of the first half of the prompt are those of another conversation.", theory: "1 − (1 − s)^c, s the share of positions with stale keys and values",
			forge: func(b *bench) (*recording, error) {
				mine := b.prompt
				b.prompt = drawPrompt(b.r, promptLen)
				keys := map[at][]float32{}
				if _, err := b.run(hooks{alter: func(_ *pass, a at, x []float32) {
					if (a.stage == cachedKey || a.stage == cachedVal) && a.t < promptLen/2 {
						keys[a] = append([]float32(nil), x...)
					}
				}}); err != nil {
					return nil, err
				}
				b.prompt = mine
				r, err := b.run(hooks{alter: func(_ *pass, a at, x []float32) {
					if k := keys[a]; k != nil {
						copy(x, k)
					}
				}})
				return sealed(r, err, everyCell(promptLen/2/float64(n)))
			}},
		{name: "wrong-prefix-shared", what: "The states of the first ten positions come from a cached prefix of other tokens, with all that follows from them.", theory: "1 − (1 − s/L)^c, s the share of positions in the prefix, L layers",
			forge: func(b *bench) (*recording, error) {
				other := drawPrompt(b.r, 10)
				differ := 0
				r, err := b.run(hooks{token: func(t int, id int32) int32 {
					if t < len(other) && other[t] != id {
						differ++
						return other[t]
					}
					return id
				}})
				return sealed(r, err, everyCell(float64(differ)/n/float64(len(b.s.g.Layers))))
			}},
		{name: "cache-of-fewer-bits", what: "Keys and values are stored with 4 bits of mantissa.", theory: cellTheory,
			forge: altered(flat(1), func(_ *bench, _ *pass, a at, x []float32) {
				if a.stage == cachedKey || a.stage == cachedVal {
					for i := range x {
						x[i] = coarse(x[i])
					}
				}
			})},
		{name: "head-norm-skipped", shape: "mixture", what: "Keys are not normed before they are rotated.", theory: cellTheory,
			forge: func(b *bench) (*recording, error) {
				r, err := b.run(hooks{bare: func(key bool) bool { return key }})
				return sealed(r, err, everyCell(1))
			}},
		{name: "one-head-skipped", shape: "llama f32", what: "One of the heads is not computed; its output is zero.", theory: "1 − (1 − 1/heads)^c",
			forge: altered(func(b *bench) float64 { return 1 / float64(b.s.g.Heads) }, func(_ *bench, _ *pass, a at, x []float32) {
				if a.stage == attended && a.i == 2 {
					clear(x)
				}
			})},
		{name: "weights-altered-afterwards", what: "After the run one attention weight of every head is set to half in the trace.", theory: "at least 1 − (1 − g)^c, g the mean of 1/(t+1): the drawn weight; the output of that head is wrong as well",
			forge: func(b *bench) (*recording, error) {
				r, err := b.run(hooks{})
				if err != nil {
					return nil, err
				}
				for t := range r.cells {
					for l := range r.cells[t] {
						for _, w := range r.cells[t][l][ghost.Weights] {
							w[0], w[1] = 0, 0x38
						}
					}
				}
				// The output of a head is another with the weight.
				return sealed(r, nil, everyCell(1))
			}},
	}
	for i := range as {
		as[i].family = "attention"
	}
	return as
}
