package audit

import (
	"github.com/geistnet/geist/arith"
	"github.com/geistnet/geist/ghost"
)

// The relations of docs/spec/audit.md §3 and dispute.md §3 as functions of values
// that are open already. Who checks an audit's cells (checker) and who judges a
// single claim (referee) open values in different ways, and compute them here.

// embedded sets x, Dim values, to the residual stream that enters layer 0: the
// token's row.
func embedded(m *ghost.Model, x []float32, row []byte) {
	arith.Dequantize(x, m.Tensors[m.Embedding].Format, row)
	if m.EmbedScale != 1 {
		for i, v := range x {
			x[i] = float32(v * m.EmbedScale)
		}
	}
}

// normedInput is the RMSNorm of x under weights w as input of products with
// matrices of format f; y is memory for it. ok is false for a void run.
func normedInput(m *ghost.Model, y, x, w []float32, f arith.Format) (a arith.Activations, ok bool) {
	scale := arith.RMSNorm(y, x, w, m.Eps)
	a, ok = arith.Quantize(y, f.ActBlock())
	return a, ok && scale > 0 && arith.Finite(scale)
}

// outputOf is output i of a matrix; row is its row of weights in format f.
func outputOf(l *ghost.Linear, i int, f arith.Format, row []byte, a arith.Activations) float32 {
	y := arith.Dot(f, row, a)
	if l.Scale != 1 && l.ScaleFirst {
		y = float32(y * l.Scale)
	}
	if l.Bias != nil {
		y += l.Bias[i]
	}
	if l.Scale != 1 && !l.ScaleFirst {
		y = float32(y * l.Scale)
	}
	return y
}

// logitOf is a logit of the output's result.
func logitOf(m *ghost.Model, y float32) float32 {
	if m.LogitCap > 0 {
		return arith.SoftCap(y, m.LogitCap)
	}
	return y
}

// rawSpan is the range of elements of the raw query or key that those of a head
// follow from: its own, or all where one norm goes over all heads.
func rawSpan(m *ghost.Model, v ghost.Value, head int) (begin, end int) {
	if m.Norm == ghost.RowNorm {
		if v == ghost.RawKey {
			return 0, m.KVHeads * m.KeyDim
		}
		return 0, m.Heads * m.KeyDim
	}
	return head * m.KeyDim, (head + 1) * m.KeyDim
}

// headOf makes the query or key of a head at position t of x, the elements of
// rawSpan, in place: norm under weights w, rotation, for queries the scale, rounded.
func headOf(m *ghost.Model, v ghost.Value, head, t int, x, w, cos, sin []float32) []float32 {
	if m.Norm != ghost.NoNorm {
		arith.RMSNorm(x, x, w, m.Eps)
	}
	begin, _ := rawSpan(m, v, head)
	x = x[head*m.KeyDim-begin:][:m.KeyDim]
	arith.RotatePairs(x, cos, sin, m.Neox)
	scale := m.QueryScale(t)
	for i := range x {
		if v == ghost.RawQuery {
			x[i] = float32(x[i] * scale)
		}
		x[i] = m.KV.Round(x[i])
	}
	return x
}

// scoreOf is what a cached key scores for a query.
func scoreOf(m *ghost.Model, q, key []float32) float32 {
	return arith.Scores(q, [][]float32{key}, m.AttnCap)[0]
}

// weightOf is the attention weight of a score s; top is the head's largest.
func weightOf(m *ghost.Model, s, top float32) float32 { return m.KV.Round(arith.Exp(s - top)) }

// mixOf is an element of the attention output at position t: weights are those
// committed to, col the dimension's column of cached values.
func mixOf(y *ghost.Layer, t int, weights, col []float32) float32 {
	from, first := y.WeightsFrom(t), y.FirstVisible(t)
	p := weights[first-from : t+1-from]
	return arith.Mix(p, col[first:t+1], first) / arith.WeightSum(p, first)
}

// hiddenFrom is a hidden element of the outputs of gate and up, or of gate and memory.
func hiddenFrom(m *ghost.Model, gate, up float32) float32 {
	if m.Gate == ghost.GELU {
		return arith.GELUMul(gate, up)
	}
	return arith.SiLUMul(gate, up)
}

// routed are the experts that a router's logits choose, with their weights. ok is
// false for a void run.
func routed(m *ghost.Model, logits []float32) (chosen []int, weights []float32, ok bool) {
	for _, v := range logits {
		if !arith.Finite(v) {
			return nil, nil, false
		}
	}
	chosen, weights = arith.Route(logits, m.ExpertsUsed, m.ExpertNorm, m.ExpertScale)
	return chosen, weights, true
}

// minScaled is the least block maximum that is quantised (spec arithmetic.md §4.1).
const minScaled = 0x1p-100

// scaleFor is the scale of a block whose largest magnitude is |x|.
func scaleFor(x float32) float32 {
	if x < 0 {
		x = -x
	}
	if !(x >= minScaled) {
		return 0
	}
	return x / 127
}
