package lab

import "slices"

// promptAttacks run another conversation than the one signed.
func promptAttacks() []attack {
	const n = promptLen + answerLen - 1
	const theory = "1 − (1 − s/L)^c, s the share of positions with another token, L layers: the layers above follow from the false input"
	// as embeds other tokens and counts where they differ.
	as := func(token func(b *bench, t int, ids []int32) int32, alter func(p *pass, a at, x []float32), extra func(b *bench, share float64) float64) func(b *bench) (*recording, error) {
		return func(b *bench) (*recording, error) {
			var ids []int32
			differ := 0
			r, err := b.run(hooks{alter: alter, token: func(t int, id int32) int32 {
				ids = append(ids, id)
				v := token(b, t, ids)
				if v != id {
					differ++
				}
				return v
			}})
			c := float64(differ) / n / float64(len(b.s.g.Layers))
			if extra != nil {
				c = extra(b, c)
			}
			return sealed(r, err, everyCell(c))
		}
	}
	const front = 10
	return []attack{
		{name: "one-token-altered", family: "prompt", what: "One token of the prompt is another.", theory: theory,
			forge: as(func(_ *bench, t int, ids []int32) int32 {
				if t == 7 {
					return ids[t] ^ 1
				}
				return ids[t]
			}, nil, nil)},
		{name: "other-tokenizer", family: "prompt", what: "The text is cut into other token ids.", theory: theory,
			forge: as(func(_ *bench, t int, ids []int32) int32 { return ids[t] ^ 1 }, nil, nil)},
		{name: "inserted-system-prompt", family: "prompt", what: "Eight hidden tokens stand before the prompt and push it back.", theory: theory,
			forge: as(func(_ *bench, t int, ids []int32) int32 {
				if t < 8 {
					return int32(300 + t)
				}
				return ids[t-8]
			}, nil, nil)},
		{name: "front-of-prompt-replaced", family: "prompt", what: "The first ten tokens of the prompt are dropped; a filler stands there.", theory: theory,
			forge: as(func(_ *bench, t int, ids []int32) int32 {
				if t < front {
					return 1
				}
				return ids[t]
			}, nil, nil)},
		{name: "front-of-prompt-unseen", family: "prompt", what: "The first ten tokens of the prompt are dropped: a filler stands there and nothing attends to it.",
			theory: "1 − (1 − g)^c, g the mean of (s/L of the dropped, 10/(t+1) behind them)",
			forge: as(func(_ *bench, t int, ids []int32) int32 {
				if t < front {
					return 1
				}
				return ids[t]
			}, func(_ *pass, a at, x []float32) {
				if a.stage == scores && a.t >= front {
					ignore(x[:front])
				}
			}, func(_ *bench, c float64) float64 {
				for t := front; t < n; t++ {
					c += front / float64(t+1) / n
				}
				return c
			})},
		{name: "middle-of-prompt-dropped", family: "prompt", what: "Ten tokens are left out of the middle of the prompt and what follows moves up; a filler stands at its end.", theory: theory,
			forge: as(func(b *bench, t int, ids []int32) int32 {
				switch {
				case t >= 15 && t+10 < promptLen:
					return b.prompt[t+10]
				case t >= 15 && t < promptLen:
					return 1
				}
				return ids[t]
			}, nil, nil)},
		{name: "prompt-reordered", family: "prompt", what: "The prompt is read backwards.", theory: theory,
			forge: as(func(b *bench, t int, ids []int32) int32 {
				if t < promptLen {
					return b.prompt[promptLen-1-t]
				}
				return ids[t]
			}, nil, nil)},
		{name: "prompt-signed-shorter", family: "prompt", what: "The provider signs a trace root over a prompt without its last five tokens.", theory: "1: the trace root holds the tokens", by: ByRoot,
			forge: func(b *bench) (*recording, error) {
				whole := b.prompt
				b.prompt = slices.Clone(whole[:promptLen-5])
				r, err := b.run(hooks{})
				if err != nil {
					return nil, err
				}
				if err := r.seal(); err != nil {
					return nil, err
				}
				// The client has the whole prompt; as many positions are claimed as
				// make the lengths agree.
				run := *r.run
				run.Prompt, run.Answer = whole, run.Answer[:answerLen-5]
				r.run = &run
				r.chance = everyCell(1)
				return r, nil
			}},
	}
}

// ignore makes scores such that their positions have no weight.
func ignore(s []float32) {
	for i := range s {
		s[i] = -1e30
	}
}
