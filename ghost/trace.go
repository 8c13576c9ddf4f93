package ghost

import (
	"encoding/binary"
	"fmt"
	"slices"

	"github.com/geistnet/geist/arith"
	"github.com/geistnet/geist/merkle"
)

// The trace of a run: every value from which a later one is computed, cut into
// leaves and hashed before anything is asked about it (docs/spec/trace.md).
//
//	trace root ─ positions ─ position t ─ layer l ─ leaves of its values
//	          │                        └ tail: the logits, where any were computed
//	          └ cache ─ key rows and value columns of each layer and head

// LeafBytes is the size of a full leaf. A longer value takes several leaves,
// the last of them shorter.
const LeafBytes = 1024

// HeadLeafBytes is the size of a full leaf of raw queries and keys, of which a
// proof opens single heads.
const HeadLeafBytes = 512

// Value names one committed value of a layer at a position.
type Value uint8

// The values of a layer in their order. Index counts heads or chosen experts
// where there are several.
const (
	RawQuery     Value = iota // head: after projection and rounding, before norm and rotation
	RawKey                    // key head: the same
	MaxScore                  // one float32 per head
	Weights                   // head: whole chunks of attention weights, zero where not visible
	AttnOut                   // the output projection's input: scales, then codes (or float32)
	OutRaw                    // the output projection's result, where a norm follows
	ResidMid                  // the residual stream after attention
	RouterLogits              // of a mixture
	Hidden                    // the last projection's input: scales, then codes (or float32); one per chosen expert
	DownRaw                   // the last projection's result, where a norm follows
	ResidOut                  // the residual stream after the layer
	MemoryQuery               // of product keys: the product's result, before the norm of its halves
	valueKinds
)

// Span is where a value's leaves lie among the leaves of a layer.
type Span struct {
	First int // leaf
	Bytes int
	Full  int // size of a full leaf
}

// Leaves is the number of leaves of a value of n bytes, at least one.
func Leaves(n int) int { return max(1, (n+LeafBytes-1)/LeafBytes) }

// Leaves is the number of the span's leaves.
func (s Span) Leaves() int { return max(1, (s.Bytes+s.Full-1)/s.Full) }

// Layout gives the leaves of a layer at a position.
type Layout struct {
	spans [valueKinds][]Span
	sizes []uint16 // of the leaves
	n     int
}

// Span returns the place of a value.
func (y *Layout) Span(v Value, index int) Span { return y.spans[v][index] }

// LeafLen is the size of a leaf; 0: there is no such leaf.
func (y *Layout) LeafLen(leaf int) int {
	if leaf < 0 || leaf >= len(y.sizes) {
		return 0
	}
	return int(y.sizes[leaf])
}

// Count is how many values of a kind there are.
func (y *Layout) Count(v Value) int { return len(y.spans[v]) }

// Len is the number of leaves of the layer.
func (y *Layout) Len() int { return y.n }

// QueryScale is what queries at position t are multiplied by.
func (m *Model) QueryScale(t int) float32 {
	if m.TempScale == 0 {
		return m.AttnScale
	}
	return float32(m.AttnScale * arith.LogScale(float64(t/m.TempFloor+1), m.TempScale))
}

// ElemBytes is the size of one cached key or value element.
func (m *Model) ElemBytes() int {
	if m.KV == arith.KVF16 {
		return 2
	}
	return 4
}

// FirstVisible is the first position that position t sees in a layer.
func (y *Layer) FirstVisible(t int) int {
	if y.Window > 0 {
		return max(0, t+1-y.Window)
	}
	return 0
}

// WeightsFrom is the position of the first of the committed attention weights
// of position t: the start of the first visible chunk.
func (y *Layer) WeightsFrom(t int) int { return y.FirstVisible(t) / arith.Chunk * arith.Chunk }

// WeightsCount is the number of committed attention weights of position t: up
// to t, rounded up to a multiple of 16. Weights of positions that are not
// visible are zero.
func (y *Layer) WeightsCount(t int) int { return (t/16+1)*16 - y.WeightsFrom(t) }

// inputBytes is the size of n activations as a product with format f takes
// them: scales and codes, or float32.
func inputBytes(f arith.Format, n int) int {
	if b := f.ActBlock(); b > 0 {
		return n/b*4 + n
	}
	return 4 * n
}

func (m *Model) format(l *Linear) arith.Format { return m.Tensors[l.Tensor].Format }

// Layout returns the layout of layer l at position t. It depends on t through
// WeightsCount alone.
func (m *Model) Layout(l, t int) *Layout {
	y := &m.Layers[l]
	var o Layout
	all := make([]Span, 0, int(valueKinds)+m.Heads+m.ExpertsUsed) // those of one kind stand together
	add := func(v Value, bytes int) {
		s := Span{o.n, bytes, LeafBytes}
		if v == RawQuery || v == RawKey {
			s.Full = HeadLeafBytes
		}
		all = append(all, s)
		o.spans[v] = all[len(all)-len(o.spans[v])-1 : len(all) : len(all)]
		o.n += s.Leaves()
		for ; bytes > s.Full; bytes -= s.Full {
			o.sizes = append(o.sizes, uint16(s.Full))
		}
		o.sizes = append(o.sizes, uint16(bytes))
	}
	e := m.ElemBytes()
	add(RawQuery, m.Heads*m.KeyDim*e)
	add(RawKey, m.KVHeads*m.KeyDim*e)
	add(MaxScore, 4*m.Heads)
	o.sizes = slices.Grow(o.sizes, 2*m.Heads)
	for range m.Heads {
		add(Weights, y.WeightsCount(t)*e)
	}
	add(AttnOut, inputBytes(m.format(&y.O), m.Heads*m.ValDim))
	if y.PostAttn != nil {
		add(OutRaw, 4*m.Dim)
	}
	add(ResidMid, 4*m.Dim)
	if len(y.Experts) > 0 {
		add(RouterLogits, 4*len(y.Experts))
		for range m.ExpertsUsed {
			add(Hidden, inputBytes(m.format(&y.Experts[0].Down), m.FF))
		}
	} else {
		if y.Memory != nil && m.Rules[y.Memory.Rule].Product != nil {
			add(MemoryQuery, 4*m.Rules[y.Memory.Rule].Product.QueryLen())
		}
		add(Hidden, inputBytes(m.format(&y.Down), m.FF))
	}
	if y.PostFFN != nil {
		add(DownRaw, 4*m.Dim)
	}
	add(ResidOut, 4*m.Dim)
	return &o
}

// TailLeaves is the number of leaves of a position's logits.
func (m *Model) TailLeaves() int { return Leaves(4 * m.Vocab) }

// CacheRoots is the number of sub-roots below the cache root: for each layer
// and key head the tree of key rows and the tree of value columns.
func (m *Model) CacheRoots() int { return 2 * len(m.Layers) * m.KVHeads }

// TokensPerLeaf is how many tokens a leaf of the tree of tokens holds.
const TokensPerLeaf = 256

// TokenLeaf is leaf i of the tree over all tokens, prompt and then answer: four
// bytes for each id, little-endian.
func TokenLeaf(prompt, answer []int32, i int) []byte {
	n := len(prompt) + len(answer)
	var b []byte
	for j := i * TokensPerLeaf; j < min((i+1)*TokensPerLeaf, n); j++ {
		id := int32(0)
		if j < len(prompt) {
			id = prompt[j]
		} else {
			id = answer[j-len(prompt)]
		}
		b = binary.LittleEndian.AppendUint32(b, uint32(id))
	}
	return b
}

// TokenLeaves is the number of leaves over n tokens, at least one.
func TokenLeaves(n int) int { return max(1, (n+TokensPerLeaf-1)/TokensPerLeaf) }

// TokenHashes are the hashes of all leaves of tokens.
func TokenHashes(prompt, answer []int32) []merkle.Hash {
	h := make([]merkle.Hash, TokenLeaves(len(prompt)+len(answer)))
	for i := range h {
		h[i] = merkle.HashLeaf(TokenLeaf(prompt, answer, i))
	}
	return h
}

// TraceRoot combines the roots of a run: of its tokens, prompt and answer, and
// of the positions and the cache it computed for all of them but the last.
func TraceRoot(prompt, answer []int32, positions, cache merkle.Hash) merkle.Hash {
	tokens, err := merkle.FromLeaves(TokenHashes(prompt, answer), merkle.Plain{}).Root()
	if err != nil {
		panic("ghost: internal error: " + err.Error()) // there is a leaf at least
	}
	return TraceTop(len(prompt), len(answer), tokens, positions, cache)
}

// TraceTop is TraceRoot of the root over the tokens.
func TraceTop(prompt, answer int, tokens, positions, cache merkle.Hash) merkle.Hash {
	b := []byte("geist/trace/2")
	b = binary.LittleEndian.AppendUint64(b, uint64(prompt))
	b = binary.LittleEndian.AppendUint64(b, uint64(answer))
	b = append(b, tokens[:]...)
	b = append(b, positions[:]...)
	return merkle.HashLeaf(append(b, cache[:]...))
}

// Outline is a trace down to the roots of its positions, 32 bytes each. Who has
// it can open a few positions without hashing the others.
type Outline struct {
	Positions []merkle.Hash // at least one
	Cache     merkle.Hash
}

// Root is the trace root of a run with this outline.
func (o *Outline) Root(prompt, answer []int32) (merkle.Hash, error) {
	if n := len(prompt) + len(answer) - 1; len(o.Positions) != n || n < 1 {
		return merkle.Hash{}, fmt.Errorf("an outline of %d positions for a run of %d", len(o.Positions), n)
	}
	positions, err := merkle.FromLeaves(o.Positions, merkle.Plain{}).Root()
	if err != nil {
		return merkle.Hash{}, err
	}
	return TraceRoot(prompt, answer, positions, o.Cache), nil
}

// Find returns the value that a leaf belongs to; false if there is no such leaf.
func (y *Layout) Find(leaf int) (v Value, index int, s Span, ok bool) {
	for v, spans := range y.spans {
		for i, s := range spans {
			if leaf >= s.First && leaf < s.First+s.Leaves() {
				return Value(v), i, s, true
			}
		}
	}
	return 0, 0, Span{}, false
}
