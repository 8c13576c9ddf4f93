package sat

import (
	"fmt"
	"slices"

	"github.com/geistnet/geist/arith"
)

// Product reads the rows of the TopK best pairs of sub-keys for each head, after
// Lample et al., "Large memory layers with product keys" (2019,
// arXiv:1907.05242). Row i·Keys+j belongs to sub-key i of the first half and j
// of the second. All heads share the table.
//
// The query of a head is two halves of Dim values. The matrix of sub-keys has
// Heads·2·Keys rows of Dim values: those of head h and half s start at row
// (2h+s)·Keys.
type Product struct {
	Heads int // 1 to 256
	Keys  int // sub-keys of a half, 1 to 2¹⁵
	Dim   int // values of a half query, 1 to 2¹²
	TopK  int // rows of a head, 1 to 2¹⁰ and at most Keys²
}

// Pick is a row with the sum of its two scores.
type Pick struct {
	Row int
	Sum float32
}

// Check reports what is out of range.
func (p *Product) Check() error {
	return first(
		within("the number of heads", p.Heads, 1, maxHeads),
		within("the number of sub-keys", p.Keys, 1, maxKeys),
		within("the width of a half query", p.Dim, 1, maxDim),
		within("the number of rows of a head", p.TopK, 1, min(maxTopK, p.Keys*p.Keys)),
	)
}

// Count is the number of rows that a token reads, not all of them different.
func (p *Product) Count() int { return p.Heads * p.TopK }

// TableRows is the number of rows of the table.
func (p *Product) TableRows() int { return p.Keys * p.Keys }

// QueryLen is the number of values of all queries of a token.
func (p *Product) QueryLen() int { return p.Heads * 2 * p.Dim }

// KeyRows is the number of rows of the matrix of sub-keys, and of scores of a
// token.
func (p *Product) KeyRows() int { return p.Heads * 2 * p.Keys }

// NormHalf divides a half query by its root mean square, arith.RMSNorm without
// weights. ok is false if the run is void.
func NormHalf(dst, half []float32, eps float32) (ok bool) {
	r := arith.RMSNorm(dst, half, nil, eps)
	return arith.Finite(r) && r != 0
}

// Scores sets dst, KeyRows values, to the products of normed half queries with
// their sub-keys. query has QueryLen values as the matrix of queries gives them;
// keys has the KeyRows rows in format f, and eps is that of the model's norms.
// ok is false if the run is void.
func (p *Product) Scores(dst, query []float32, f arith.Format, keys []byte, eps float32) (ok bool) {
	half := make([]float32, p.Dim)
	size := f.RowBytes(p.Dim)
	for s := range 2 * p.Heads {
		if !NormHalf(half, query[s*p.Dim:][:p.Dim], eps) {
			return false
		}
		a, ok := arith.Quantize(half, f.ActBlock())
		if !ok {
			return false
		}
		for i := s * p.Keys; i < (s+1)*p.Keys; i++ {
			dst[i] = arith.Dot(f, keys[i*size:][:size], a)
			if !arith.Finite(dst[i]) {
				return false
			}
		}
	}
	return true
}

// before is the order of rank: larger sums first, equal ones by row.
func before(a, b Pick) int {
	switch {
	case a.Sum > b.Sum:
		return -1
	case a.Sum < b.Sum:
		return 1
	}
	return a.Row - b.Row
}

// leading returns the n first of scores in order of rank, their indices as rows.
func leading(scores []float32, n int) []Pick {
	out := make([]Pick, 0, n+1)
	for i, s := range scores {
		if len(out) == n && !(s > out[n-1].Sum) {
			continue
		}
		at := len(out)
		for at > 0 && s > out[at-1].Sum {
			at--
		}
		out = slices.Insert(out, at, Pick{i, s})
		out = out[:min(n, len(out))]
	}
	return out
}

// Picks appends to dst the TopK best rows of one head in order of rank. first
// and second are the scores of its sub-keys, Keys values each. ok is false, and
// the run void, if a score or a sum that is picked is not finite.
//
// The pair of the a-th best and the b-th best (from 0) has (a+1)·(b+1) pairs
// whose sums are not below its own, rounding included, since addition is
// monotone. So the TopK largest sums are among the pairs with
// (a+1)·(b+1) ≤ TopK. Rows of equal sums are not: rounding can lift a pair to
// the sum of one that it ranks behind, and its row may be smaller. Only where
// the first pair left out in some line has the last sum are these looked for.
func (p *Product) Picks(dst []Pick, first, second []float32) (picks []Pick, ok bool) {
	for _, half := range [...][]float32{first, second} {
		for _, s := range half {
			if !arith.Finite(s) {
				return dst, false
			}
		}
	}
	n, k := p.Keys, p.TopK
	f, s := leading(first, min(n, k+1)), leading(second, min(n, k+1))
	var all []Pick
	for a := range f {
		for b := 0; b < len(s) && (a+1)*(b+1) <= k; b++ {
			all = append(all, Pick{f[a].Row*n + s[b].Row, f[a].Sum + s[b].Sum})
		}
	}
	slices.SortFunc(all, before)
	all = all[:k]
	for _, x := range all {
		if !arith.Finite(x.Sum) {
			return dst, false
		}
	}
	last := all[k-1].Sum
	for a := range f {
		if b := k / (a + 1); b < len(s) && f[a].Sum+s[b].Sum == last {
			return append(dst, p.ties(all, first, second, s[0].Sum)...), true
		}
	}
	return append(dst, all...), true
}

// ties puts the smallest rows of the last sum in place of those found. best is
// the largest of second.
func (p *Product) ties(all []Pick, first, second []float32, best float32) []Pick {
	k := len(all)
	last := all[k-1].Sum
	for all[len(all)-1].Sum == last {
		all = all[:len(all)-1]
		if len(all) == 0 {
			break
		}
	}
	for i, x := range first {
		if x+best < last {
			continue
		}
		for j, y := range second {
			if x+y == last {
				if all = append(all, Pick{i*p.Keys + j, last}); len(all) == k {
					return all
				}
			}
		}
	}
	panic(fmt.Sprintf("sat: internal error: %d of %d rows with sums from %g on", len(all), k, last))
}

// Weights sets dst to the softmax over the sums of one head's picks, which are
// in order of rank: Exp of the distance to the first, divided by the Sum of all.
func Weights(dst []float32, picks []Pick) {
	for i, x := range picks {
		dst[i] = arith.Exp(x.Sum - picks[0].Sum)
	}
	total := arith.Sum(dst[:len(picks)])
	for i := range picks {
		dst[i] /= total
	}
}

// AddRow adds weight times row to u, each product rounded before it is added.
// row has the values of the row, as many as u.
func AddRow(u []float32, weight float32, row []float32) {
	row = row[:len(u)]
	for i, v := range row {
		u[i] += float32(weight * v)
	}
}
