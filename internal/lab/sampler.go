package lab

import (
	"slices"

	"github.com/geistnet/geist/arith"
)

func sample(l []float32, s *arith.Sampling, history []int32, index int) int32 {
	var x arith.Sampler
	return x.Sample(slices.Clone(l), s, history, uint64(index), nil)
}

// samplerAttacks emit other tokens than the sampler gives, over true states.
func samplerAttacks() []attack {
	const theory = "1 − (1 − f/4)^full, f the share of emitted tokens that the sampler would not have chosen; each of 4 tails is opened whole with probability 1/4"
	// choosing emits what pick says and counts where the sampler disagrees.
	choosing := func(pick func(b *bench, a int, l []float32, id int32, history []int32) int32) func(b *bench) (*recording, error) {
		return func(b *bench) (*recording, error) {
			history, differ := slices.Clone(b.prompt), 0
			r, err := b.run(hooks{choose: func(a int, l []float32, id int32) int32 {
				v := pick(b, a, l, id, history)
				history = append(history, v)
				if v != id {
					differ++
				}
				return v
			}})
			return sealed(r, err, chance{full: float64(differ) / answerLen})
		}
	}
	by := func(change func(s *arith.Sampling)) func(b *bench) (*recording, error) {
		return choosing(func(b *bench, a int, l []float32, _ int32, history []int32) int32 {
			s := b.sampling
			change(&s)
			return sample(l, &s, history, a)
		})
	}
	rank := func(l []float32, k int) int32 {
		ids := make([]int32, len(l))
		for i := range ids {
			ids[i] = int32(i)
		}
		slices.SortStableFunc(ids, func(x, y int32) int {
			switch {
			case l[x] > l[y]:
				return -1
			case l[x] < l[y]:
				return 1
			}
			return 0
		})
		return ids[k]
	}
	const vocab, k = 512, 3
	const chosen = 250
	one := []int{32}
	list := []attack{
		{name: "hotter", what: "Tokens are drawn at temperature 1.6 instead of 0.8.", forge: by(func(s *arith.Sampling) { s.Temperature = 1.6 })},
		{name: "greedy", what: "The likeliest token is taken instead of a drawn one.", forge: by(func(s *arith.Sampling) { s.Temperature = 0 })},
		{name: "top-k-ignored", what: "Tokens are drawn from all instead of the 50 likeliest.", forge: by(func(s *arith.Sampling) { s.TopK = 0 })},
		{name: "top-p-ignored", what: "Tokens beyond 95 % of the probability are drawn.", forge: by(func(s *arith.Sampling) { s.TopP = 0 })},
		{name: "other-seed", what: "Another seed is drawn from, chosen by trying several (seed grinding).", forge: by(func(s *arith.Sampling) { s.Seed[0] ^= 1 })},
		{name: "penalty-added", what: "A penalty on repetition is applied that was not asked for.", forge: by(func(s *arith.Sampling) { s.RepeatPenalty, s.RepeatLast = 2, 64 })},
		{name: "bias-added", what: "Tokens that the provider likes get a secret bias.", forge: by(func(s *arith.Sampling) {
			s.Bias = map[int32]float32{}
			for i := range int32(40) {
				s.Bias[300+i] = 3
			}
		})},
		{name: "forced-token", what: "One token of the answer is forced.", forge: choosing(func(_ *bench, a int, _ []float32, id int32, _ []int32) int32 {
			if a == 9 {
				return id ^ 1
			}
			return id
		})},
		{name: "forced-answer", what: "The whole answer is a text that the provider likes.", forge: choosing(func(_ *bench, a int, _ []float32, _ int32, _ []int32) int32 { return int32(300 + a) })},
		{name: "speculation-always-accepted", what: "A smaller model makes the answer; the claimed model only reads it once to make a true trace.",
			forge: func(b *bench) (*recording, error) {
				o, err := b.subject("another llama")
				if err != nil {
					return nil, err
				}
				draft, err := recorded(o, o.row, b.prompt, b.answer, b.sampling, hooks{})
				if err != nil {
					return nil, err
				}
				return choosing(func(_ *bench, a int, _ []float32, _ int32, _ []int32) int32 { return draft.run.Answer[a] })(b)
			}},
	}
	for i := range list {
		list[i].family, list[i].theory, list[i].sizes = "sampler", theory, one
	}
	// forced makes logits lie so that a certain token is chosen.
	forced := func(c chance, lie func(b *bench, l []float32, a int)) func(b *bench) (*recording, error) {
		return func(b *bench) (*recording, error) {
			b.sampling.Temperature = 0
			r, err := b.run(hooks{alter: func(_ *pass, x at, l []float32) {
				if x.stage == logits {
					lie(b, l, x.t-promptLen+1)
				}
			}})
			return sealed(r, err, c)
		}
	}
	miss := 1 - float64(k)/vocab
	two := 1 - miss*miss
	const lowered = "1 − ((1 − k/V)²)^tails: two random logits of V are checked at each tail, k are too low"
	return append(list,
		attack{name: "emitted-logit-raised", family: "sampler", what: "The logit of a token that shall be emitted is raised above all others, everywhere.", sizes: one,
			theory: "1: the emitted token's logit is checked at every tail",
			forge:  forced(chance{tail: 1, full: 1}, func(_ *bench, l []float32, _ int) { l[chosen] = 1e3 })},
		attack{name: "emitted-logit-raised-once", family: "sampler", what: "The logit of one token that shall be emitted is raised, at one place.", sizes: one,
			theory: "1 − (1 − 1/answer)^tails",
			forge: forced(chance{tail: 1.0 / answerLen, full: 1.0 / answerLen}, func(_ *bench, l []float32, a int) {
				if a == 9 {
					l[chosen] = 1e3
				}
			})},
		attack{name: "competitors-lowered", family: "sampler", what: "At every emitted token the logits of the three likeliest tokens are lowered, so that the fourth is chosen.", sizes: one, theory: lowered,
			forge: forced(chance{tail: two, full: two}, func(_ *bench, l []float32, _ int) {
				top := []int32{rank(l, 0), rank(l, 1), rank(l, 2)}
				for _, id := range top {
					l[id] = -1e3
				}
			})},
		attack{name: "logits-of-draft", family: "sampler", what: "All logits are a little off, as from a cheaper output matrix.", sizes: one,
			theory: "1: the emitted token's logit is checked at every tail",
			forge:  forced(chance{tail: 1, full: 1}, func(_ *bench, l []float32, _ int) { nudge(l) })},
		attack{name: "answer-token-altered", family: "sampler", what: "After the run one token of the answer is replaced by another, and the root is made anew.", sizes: one,
			theory: "1 − (1 − 1/(N·L))^c·(1 − 1/(4·answer))^full: its embedding and the sampler",
			forge: func(b *bench) (*recording, error) {
				r, err := b.run(hooks{})
				if err != nil {
					return nil, err
				}
				r.run.Answer[9] ^= 1
				return sealed(r, nil, chance{cell: 1 / float64((promptLen+answerLen-1)*len(b.s.g.Layers)), full: 1.0 / answerLen})
			}},
	)
}
