package arith

import (
	"crypto/sha256"
	"encoding/binary"
	"math"
	"math/bits"
	"slices"
)

// Sampling says how a token is chosen from logits (spec §8). The zero value
// takes the largest logit.
type Sampling struct {
	Temperature float32 // 0: the largest logit, ties to the lower id
	TopK        int     // keep this many of the largest; 0: all
	TopP        float32 // keep the smallest set with this share of the weight; 0 or 1: all
	MinP        float32 // keep weights of at least this share of the largest; 0: all

	// Penalties look at the last RepeatLast tokens of prompt and answer.
	RepeatLast       int
	RepeatPenalty    float32 // divides positive and multiplies negative logits; 0 or 1: none
	PresencePenalty  float32 // subtracted from the logit of a token that occurs
	FrequencyPenalty float32 // subtracted once per occurrence

	Bias map[int32]float32 // added to logits
	Seed [32]byte
}

// Valid reports what is out of range in s, or "".
func (s *Sampling) Valid() string {
	in := func(x, lo, hi float32) bool { return x >= lo && x <= hi }
	switch {
	case !in(s.Temperature, 0, 100):
		return "temperature must be between 0 and 100"
	case s.Temperature > 0 && s.Temperature < 1e-3:
		return "temperature must be 0 or at least 0.001"
	case s.TopK < 0:
		return "top_k must not be negative"
	case !in(s.TopP, 0, 1):
		return "top_p must be between 0 and 1"
	case !in(s.MinP, 0, 1):
		return "min_p must be between 0 and 1"
	case s.RepeatLast < 0:
		return "repeat_last_n must not be negative"
	case s.RepeatPenalty != 0 && !in(s.RepeatPenalty, 0.01, 100):
		return "repeat_penalty must be between 0.01 and 100"
	case !in(s.PresencePenalty, -100, 100) || !in(s.FrequencyPenalty, -100, 100):
		return "presence_penalty and frequency_penalty must be between -100 and 100"
	}
	for _, b := range s.Bias {
		if !in(b, -1e6, 1e6) {
			return "logit_bias values must be between -1000000 and 1000000"
		}
	}
	return ""
}

type candidate struct {
	id int32
	l  float32
	w  uint64
}

// A Sampler chooses tokens; it keeps scratch memory between calls.
type Sampler struct {
	c     []candidate
	count map[int32]int
}

// Sample chooses the token that follows the given history, as the answer's
// token number index. logits, one per id, are changed. allowed, if not nil, is
// a set of ids, 64 a word; at least one must be allowed.
func (a *Sampler) Sample(logits []float32, s *Sampling, history []int32, index uint64, allowed []uint64) int32 {
	a.adjust(logits, s, history)
	ok := func(i int) bool { return allowed == nil || allowed[i/64]>>(i%64)&1 != 0 }
	if s.Temperature == 0 {
		best := -1
		for i, l := range logits {
			if ok(i) && (best < 0 || l > logits[best]) {
				best = i
			}
		}
		return int32(best)
	}
	k := len(logits)
	if s.TopK > 0 && s.TopK < k {
		k = s.TopK
	}
	a.c = slices.Grow(a.c[:0], k)
	top := float32(math.Inf(-1))
	for i, l := range logits {
		if !ok(i) {
			continue
		}
		l /= s.Temperature
		top = max(top, l)
		if x := (candidate{id: int32(i), l: l}); k == len(logits) {
			a.c = append(a.c, x)
		} else {
			a.c = largest(a.c, k, x)
		}
	}
	all := a.c
	least := uint64(float64(s.MinP) * (1 << 32))
	kept := all[:0]
	var total uint64
	for _, c := range all {
		// The largest has e⁰ = 1, so weights lie in [0, 2³²].
		c.w = uint64(float64(Exp(c.l-top)) * (1 << 32))
		if c.w > 0 && c.w >= least {
			kept = append(kept, c)
			total += c.w
		}
	}
	if s.TopP > 0 && s.TopP < 1 {
		share := uint64(float64(s.TopP) * (1 << 32))
		wantHi, wantLo := bits.Mul64(share, total)
		var sum uint64
		kept = descending(kept, byWeight, func(c candidate) bool {
			sum += c.w
			hi, lo := sum>>32, sum<<32
			return hi < wantHi || hi == wantHi && lo < wantLo
		})
		total = sum
	}
	slices.SortFunc(kept, func(x, y candidate) int { return int(x.id) - int(y.id) })
	target, _ := bits.Mul64(Random(s.Seed, index), total)
	for _, c := range kept {
		if target < c.w {
			return c.id
		}
		target -= c.w
	}
	panic("arith: internal error: weights do not add up")
}

// byLogit orders by descending logit, ties by ascending id.
func byLogit(x, y candidate) bool { return x.l > y.l || x.l == y.l && x.id < y.id }

// byWeight orders by descending weight, ties by ascending id.
func byWeight(x, y candidate) bool { return x.w > y.w || x.w == y.w && x.id < y.id }

// sift lets element i of a heap sink to its place: none is before its parent.
func sift(h []candidate, i int, before func(x, y candidate) bool) {
	for {
		k := 2*i + 1
		if k >= len(h) {
			return
		}
		if k+1 < len(h) && before(h[k+1], h[k]) {
			k++
		}
		if !before(h[k], h[i]) {
			return
		}
		h[i], h[k] = h[k], h[i]
		i = k
	}
}

// descending returns the first candidates of an order, up to and with the first
// for which more is false, in any arrangement and in c's memory. No two are
// equal in the order. A heap does this without sorting all of a vocabulary for
// the few that are kept.
func descending(c []candidate, before func(x, y candidate) bool, more func(candidate) bool) []candidate {
	for i := len(c)/2 - 1; i >= 0; i-- {
		sift(c, i, before)
	}
	for n := len(c); n > 0; {
		n--
		c[0], c[n] = c[n], c[0] // the taken ones gather at the end
		if !more(c[n]) {
			return c[n:]
		}
		sift(c[:n], 0, before)
	}
	return c
}

// largest adds x to h, which keeps the first n of all it was given in the order
// of byLogit: from n on a heap with the last of them on top, below which most
// of the others stay.
func largest(h []candidate, n int, x candidate) []candidate {
	if len(h) < n {
		if h = append(h, x); len(h) == n {
			for i := n/2 - 1; i >= 0; i-- {
				sift(h, i, after)
			}
		}
		return h
	}
	if byLogit(x, h[0]) {
		h[0] = x
		sift(h, 0, after)
	}
	return h
}

func after(x, y candidate) bool { return byLogit(y, x) }

func (a *Sampler) adjust(logits []float32, s *Sampling, history []int32) {
	for id, b := range s.Bias {
		if id >= 0 && int(id) < len(logits) {
			logits[id] += b
		}
	}
	repeat := s.RepeatPenalty != 0 && s.RepeatPenalty != 1
	if s.RepeatLast == 0 || !repeat && s.PresencePenalty == 0 && s.FrequencyPenalty == 0 {
		return
	}
	if a.count == nil {
		a.count = map[int32]int{}
	}
	clear(a.count)
	for _, id := range history[max(0, len(history)-s.RepeatLast):] {
		a.count[id]++
	}
	for id, n := range a.count { // each id once, so the order does not matter
		l := logits[id]
		if repeat {
			if l > 0 {
				l /= s.RepeatPenalty
			} else {
				l = float32(l * s.RepeatPenalty)
			}
		}
		l -= float32(s.FrequencyPenalty * float32(n))
		l -= s.PresencePenalty
		logits[id] = l
	}
}

// Random is the index-th 64-bit number of a seed: the first eight bytes, little
// endian, of SHA-256("geist/sample/1" ‖ seed ‖ index as 8 bytes little endian)
// (spec §8.3).
func Random(seed [32]byte, index uint64) uint64 {
	b := append([]byte("geist/sample/1"), seed[:]...)
	h := sha256.Sum256(binary.LittleEndian.AppendUint64(b, index))
	return binary.LittleEndian.Uint64(h[:])
}

// Log is the natural logarithm of x > 0 in basic float64 operations: with
// x = m·2^e and m in [√½, √2), e·ln 2 + 2·artanh((m−1)/(m+1)) by its series
// (spec §8.4). Absolute error below 1e-15·(1+|e|).
func Log(x float64) float64 {
	m, e := math.Frexp(x)
	if m < math.Sqrt2/2 {
		m = float64(m * 2)
		e--
	}
	z := (m - 1) / (m + 1)
	z2 := float64(z * z)
	var s float64
	for k := 21; k >= 1; k -= 2 { // Horner from z²⁰/21 down
		s = float64(s*z2) + 1/float64(k)
	}
	return float64(float64(e)*math.Ln2) + float64(2*float64(z*s))
}

// LogProb is the natural logarithm of the softmax of logits at id (spec §8.4).
func LogProb(logits []float32, id int32) float64 {
	top, sum := LogSumExp(logits)
	return float64(logits[id]-top) - Log(float64(sum))
}

// LogSumExp returns the largest logit and Σ e^(l−largest) in the order of Sum.
func LogSumExp(logits []float32) (top, sum float32) {
	top = logits[0]
	for _, l := range logits {
		top = max(top, l)
	}
	var lanes [Lanes]float32
	for i, l := range logits {
		lanes[i%Lanes] += Exp(l - top)
	}
	return top, tree(&lanes)
}
