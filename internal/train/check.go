package train

import (
	"fmt"
	"slices"

	"github.com/geistnet/geist/arith"
	"github.com/geistnet/geist/internal/gguf"
	"github.com/geistnet/geist/internal/kernel"
	"github.com/geistnet/geist/internal/model"
)

// Canonical is the mean loss, in nats per token, that the model of f has on texts
// in the canonical arithmetic: each text by itself from position 0, as an answer
// is computed.
func Canonical(f *gguf.File, texts [][]int32, path kernel.Path, threads int) (float64, error) {
	team := kernel.NewTeam(max(threads, 1))
	defer team.Close()
	m, err := model.Load(f, model.Options{Path: path, Team: team})
	if err != nil {
		return 0, err
	}
	defer m.Close()
	longest := 0
	for _, t := range texts {
		longest = max(longest, len(t)-1)
	}
	if longest < 1 {
		return 0, fmt.Errorf("no text of two ids or more to measure")
	}
	st := m.NewState(team, longest)
	cache := &model.Cache{}
	for len(cache.Pages)*model.PagePositions < longest {
		cache.Pages = append(cache.Pages, make([]byte, m.PageBytes()))
	}
	var sum float64
	count := 0
	for i, t := range texts {
		if len(t) < 2 {
			return 0, fmt.Errorf("text %d has %d ids; expected 2 or more", i, len(t))
		}
		logits, err := st.Forward([]model.Segment{{Cache: cache, Tokens: t[:len(t)-1], Logits: model.All}})
		if err != nil {
			return 0, fmt.Errorf("text %d: %w", i, err)
		}
		for j, l := range logits {
			sum -= arith.LogProb(l, t[j+1])
		}
		count += len(logits)
	}
	return sum / float64(count), nil
}

// LossOf is the mean loss of texts in the arithmetic of training, each in a
// window of its own.
func (r *Run) LossOf(texts [][]int32) (float64, error) {
	T, batch := r.Recipe.Shape.Context, r.Recipe.Batch
	var sum float64
	count := 0
	for part := range slices.Chunk(texts, batch) {
		var b Batch
		for w := range batch {
			var text []int32
			if w < len(part) {
				text = part[w]
			}
			if len(text) == 1 || len(text) > T+1 {
				return 0, fmt.Errorf("text of %d ids; expected 2 to %d", len(text), T+1)
			}
			for j := range T {
				id, next := int32(0), None
				if j+1 < len(text) {
					id, next = text[j], text[j+1]
				}
				b.In, b.Out, b.Start = append(b.In, id), append(b.Out, next), append(b.Start, int32(w*T))
			}
		}
		loss, err := r.trainer.Loss(b)
		if err != nil {
			return 0, err
		}
		n := r.trainer.counted()
		sum += float64(loss * float64(n))
		count += n
	}
	if count == 0 {
		return 0, fmt.Errorf("no text to measure")
	}
	return sum / float64(count), nil
}
