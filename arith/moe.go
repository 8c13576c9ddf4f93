package arith

import "slices"

// Route chooses k experts from the router's logits and returns them in
// ascending order with their weights (spec §7.2): the k largest logits, ties
// to the lower index; weights are the softmax over all experts; with
// normalise they are divided by their sum, which counts as at least 2⁻¹⁴.
// Each weight is then multiplied by scale unless scale is 1.
func Route(logits []float32, k int, normalise bool, scale float32) (experts []int, weights []float32) {
	order := make([]int, len(logits))
	for i := range order {
		order[i] = i
	}
	slices.SortStableFunc(order, func(a, b int) int {
		switch {
		case logits[a] > logits[b]:
			return -1
		case logits[a] < logits[b]:
			return 1
		}
		return 0
	})
	experts = order[:k:k]
	slices.Sort(experts)
	m := logits[0]
	for _, l := range logits {
		m = max(m, l)
	}
	e := make([]float32, len(logits))
	for i, l := range logits {
		e[i] = Exp(l - m)
	}
	total := Sum(e)
	weights = make([]float32, k)
	var chosen float32
	for i, x := range experts {
		weights[i] = e[x] / total
		chosen += weights[i]
	}
	for i := range weights {
		if normalise {
			weights[i] /= max(chosen, 0x1p-14)
		}
		if scale != 1 {
			weights[i] = float32(weights[i] * scale)
		}
	}
	return experts, weights
}
