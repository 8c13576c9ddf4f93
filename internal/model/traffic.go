package model

import "github.com/geistnet/geist/internal/kernel"

// ReadBytes is what decoding one token at position pos reads of the packed
// weights and of the KV cache: every matrix once, of a mixture the router and
// the experts that one token is sent to, of a memory block the rows that one
// token reads, and the keys and values of all
// positions that each layer sees, pos included. Norms, biases and the token's
// embedding are left out.
func (m *Model) ReadBytes(pos int) (weights, cache int64) {
	add := func(ls ...*linear) {
		for _, l := range ls {
			if l.m != nil {
				weights += int64(l.m.Bytes())
			}
		}
	}
	perHead := int64(m.shape().PageBytes() / kernel.PagePositions)
	for i := range m.layers {
		y := &m.layers[i]
		add(&y.q, &y.k, &y.v, &y.o, &y.router, &y.gate, &y.up, &y.down)
		// All experts of a layer have the same size.
		for e := range min(m.ExpertsUsed, len(y.experts)) {
			x := &y.experts[e]
			add(&x.gate, &x.up, &x.down)
		}
		if x := y.memory; x != nil {
			add(&x.query)
			for h := range x.keys {
				add(&x.keys[h])
			}
			weights += int64(x.count()) * int64(x.format.RowBytes(x.cols))
		}
		seen := pos + 1
		if y.window > 0 {
			seen = min(seen, y.window)
		}
		cache += int64(seen) * int64(m.KVHeads) * perHead
	}
	add(&m.output)
	return weights, cache
}
