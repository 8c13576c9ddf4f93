package arith

// Chunk is the number of consecutive positions, counted from position 0,
// whose contributions attention adds up before it adds them to the total
// (spec §6.3). It bounds what one check of an attention output has to open,
// and equals the page of the KV cache.
const Chunk = 64

// KV is the format of cached keys and values and of everything multiplied with
// them (spec §6.1).
type KV int

const (
	// KVF16 rounds queries, keys, values and attention weights to binary16.
	// All products of attention are then exact in float32.
	KVF16 KV = iota
	// KVF32 keeps float32 and rounds each product.
	KVF32
)

// Round rounds one value to the format.
func (k KV) Round(x float32) float32 {
	if k == KVF16 {
		return RoundF16(x)
	}
	return x
}

// Scores returns q·k_t for each key, products added in ascending dimension,
// soft-capped when softcap > 0 (spec §6.2). q and the keys are already rounded
// to the cache's format and q holds the scale.
func Scores(q []float32, keys [][]float32, softcap float32) []float32 {
	s := make([]float32, len(keys))
	for t, k := range keys {
		var acc float32
		for d, v := range k {
			acc += float32(v * q[d])
		}
		if softcap > 0 {
			acc = SoftCap(acc, softcap)
		}
		s[t] = acc
	}
	return s
}

// Weights turns scores into unnormalised attention weights e^(s−max), rounded
// to the cache's format.
func Weights(kv KV, scores []float32) []float32 {
	m := scores[0]
	for _, s := range scores {
		m = max(m, s)
	}
	p := make([]float32, len(scores))
	for t, s := range scores {
		p[t] = kv.Round(Exp(s - m))
	}
	return p
}

// WeightSum adds the weights of the positions first, first+1, …: those of one
// chunk in the order of Sum, with lanes counted from the chunk's start, then
// the chunks in ascending order.
func WeightSum(p []float32, first int) float32 {
	var total float32
	for len(p) > 0 {
		at := first % Chunk
		n := min(Chunk-at, len(p))
		var c [Chunk]float32
		copy(c[at:], p[:n])
		total += Sum(c[:])
		p, first = p[n:], first+n
	}
	return total
}

// Mix returns Σ p_t·v_t for one dimension of the values at positions first,
// first+1, …: ascending within a chunk, then the chunks in ascending order.
func Mix(p, v []float32, first int) float32 {
	var total float32
	for len(p) > 0 {
		n := min(Chunk-first%Chunk, len(p))
		var acc float32
		for t := range n {
			acc += float32(p[t] * v[t])
		}
		total += acc
		p, v, first = p[n:], v[n:], first+n
	}
	return total
}

// Attention is one head's output for one query: Mix of each dimension divided
// by WeightSum (spec §6). keys and values are those of the visible positions
// first, first+1, …, at least one.
func Attention(kv KV, q []float32, keys, values [][]float32, first int, softcap float32) []float32 {
	p := Weights(kv, Scores(q, keys, softcap))
	l := WeightSum(p, first)
	out := make([]float32, len(values[0]))
	col := make([]float32, len(values))
	for d := range out {
		for t, v := range values {
			col[t] = v[d]
		}
		out[d] = Mix(p, col, first) / l
	}
	return out
}
