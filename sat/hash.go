package sat

import (
	"fmt"
	"math/bits"
)

// Hash reads one row for each n-gram that ends at a token and each head. The
// table has one part of Rows rows for every (order, head), in this order.
type Hash struct {
	Orders []int  // lengths of the n-grams in tokens, ascending strictly, 1 to 16
	Heads  int    // 1 to 256
	Rows   int    // of one part of the table
	Salt   uint64 // what tells layers apart: the number of the layer
}

// Padding stands for the tokens before the first one. No token has this id.
const Padding int32 = -1

// gamma is the golden ratio in 64 bits: an odd number without pattern, which
// keeps zeros from staying zeros.
const gamma = 0x9e3779b97f4a7c15

// absorb mixes v into h. The finaliser is that of SplitMix64 (Steele, Lea and
// Flood, "Fast splittable pseudorandom number generators", 2014): for each h it
// is one to one in v.
func absorb(h, v uint64) uint64 {
	x := (h ^ v) + gamma
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return x ^ x>>31
}

// Check reports what is out of range.
func (h *Hash) Check() error {
	if err := first(
		within("the number of orders", len(h.Orders), 1, maxOrders),
		within("the number of heads", h.Heads, 1, maxHeads),
		within("the number of rows of a head", h.Rows, 1, maxRows),
	); err != nil {
		return err
	}
	last := 0
	for _, n := range h.Orders {
		if err := within("the length of an n-gram", n, 1, maxOrder); err != nil {
			return err
		}
		if n <= last {
			return fmt.Errorf("n-grams of %d tokens follow those of %d; expected ascending lengths", n, last)
		}
		last = n
	}
	return within("the number of all rows", h.TableRows(), 1, maxRows)
}

// Count is the number of rows that a token reads: orders times heads. Each has
// Count-th part of u, in order of (order, head).
func (h *Hash) Count() int { return len(h.Orders) * h.Heads }

// TableRows is the number of rows of the whole table.
func (h *Hash) TableRows() int { return h.Count() * h.Rows }

// IDs appends to dst the rows that the last of tokens reads, in order of
// (order, head). tokens are those up to it; the last 16 are enough, and earlier
// ones change nothing.
func (h *Hash) IDs(dst []int, tokens []int32) []int {
	part := 0
	for _, n := range h.Orders {
		gram := absorb(absorb(0, h.Salt), uint64(n))
		for i := len(tokens) - n; i < len(tokens); i++ {
			t := Padding
			if i >= 0 {
				t = tokens[i]
			}
			gram = absorb(gram, uint64(uint32(t)))
		}
		for head := range h.Heads {
			row, _ := bits.Mul64(absorb(gram, uint64(head)), uint64(h.Rows))
			dst = append(dst, part+int(row))
			part += h.Rows
		}
	}
	return dst
}
