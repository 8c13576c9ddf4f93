// Package train trains small language models whose feed-forward blocks may read
// rows of memory tables (docs/training.md). A run is a function of its [Recipe],
// its tokens and the version of this program: weights, and so the root of the
// result, have the same bits on every machine and with any number of threads,
// whether or not the run was interrupted.
//
// Three rules give that. Matrix products are those of package matmul, one chain
// for every output. Every other sum has an order that is written down beside
// it; where work is divided among threads, the pieces are fixed by the shapes
// and added in ascending order. Exponentials, logarithms, square roots and
// angles come from fixed sequences of basic operations.
//
// Shapes: N tokens of a step, B windows of T, N = B·T; D width of the residual
// stream; F width of a feed-forward block. Matrices are row-major, weights
// [out][in], so that y = x·Wᵀ. A gradient has the shape of its value.
package train

import (
	"fmt"

	"github.com/geistnet/geist/sat"
)

// Version is the version of everything that decides the bits of a run besides
// recipe and tokens. It is part of every checkpoint; a checkpoint of another
// version does not resume.
const Version = 3

// The rules of a feed-forward block.
const (
	Dense   = ""        // u is a matrix product of the normed input
	Hash    = "hash"    // u is read from rows of hashed n-grams
	Product = "product" // u is a weighted sum of rows picked by product keys
)

// Shape says what a model consists of.
type Shape struct {
	Vocab    int
	Dim      int // width of the residual stream
	Heads    int
	KVHeads  int
	HeadDim  int // even
	FF       int
	Context  int // positions of a training window, and those the model is made for
	Eps      float32
	RopeBase float64
	Blocks   []string // the rule of every block

	HashOrders []int
	HashHeads  int
	HashRows   int // of one order and head

	ProductHeads int
	ProductKeys  int // sub-keys of a half
	ProductDim   int // values of a half query
	ProductTopK  int
}

// hash is the rule of block l.
func (s *Shape) hash(l int) *sat.Hash {
	return &sat.Hash{Orders: s.HashOrders, Heads: s.HashHeads, Rows: s.HashRows, Salt: uint64(l)}
}

func (s *Shape) product() *sat.Product {
	return &sat.Product{Heads: s.ProductHeads, Keys: s.ProductKeys, Dim: s.ProductDim, TopK: s.ProductTopK}
}

// rows are the number and width of the rows of block l's table, 0 if it has none.
func (s *Shape) rows(l int) (n, width int) {
	switch s.Blocks[l] {
	case Hash:
		h := s.hash(l)
		return h.TableRows(), s.FF / h.Count()
	case Product:
		return s.product().TableRows(), s.FF
	}
	return 0, 0
}

// Check says what is wrong with a shape.
func (s *Shape) Check() error {
	switch {
	case s.Vocab < 2 || s.Vocab > 1<<20 || s.Dim < 1 || s.Dim > 1<<14 || s.FF < 1 || s.FF > 1<<16 || len(s.Blocks) < 1 || len(s.Blocks) > 256:
		return fmt.Errorf("model of vocabulary %d, width %d, feed-forward width %d and %d blocks is out of range", s.Vocab, s.Dim, s.FF, len(s.Blocks))
	case s.Heads < 1 || s.Heads > 256 || s.KVHeads < 1 || s.Heads%s.KVHeads != 0 || s.HeadDim < 2 || s.HeadDim > 1024 || s.HeadDim%2 != 0:
		return fmt.Errorf("%d heads of %d values over %d key heads do not make a model", s.Heads, s.HeadDim, s.KVHeads)
	case s.Context < 2 || s.Context > 1<<16 || !(s.Eps > 0 && s.Eps < 1) || !(s.RopeBase > 1 && s.RopeBase < 1e15):
		return fmt.Errorf("context %d, eps %g or rope base %g is out of range", s.Context, s.Eps, s.RopeBase)
	}
	for l, rule := range s.Blocks {
		switch rule {
		case Dense:
		case Hash:
			if err := s.hash(l).Check(); err != nil {
				return fmt.Errorf("block %d: %w", l, err)
			}
			if s.FF%s.hash(l).Count() != 0 {
				return fmt.Errorf("block %d: %d rows do not share %d values evenly", l, s.hash(l).Count(), s.FF)
			}
		case Product:
			if err := s.product().Check(); err != nil {
				return fmt.Errorf("block %d: %w", l, err)
			}
		default:
			return fmt.Errorf("block %d: rule %q is not known", l, rule)
		}
	}
	return nil
}

// MulAdds is the number of multiply-adds of the matrix products of one token,
// attention over other tokens left out: the measure by which models with
// and without memory are compared.
func (s *Shape) MulAdds() int {
	n := s.Vocab * s.Dim
	attn := 2*s.Dim*s.Heads*s.HeadDim + 2*s.Dim*s.KVHeads*s.HeadDim
	for _, rule := range s.Blocks {
		n += attn + 2*s.Dim*s.FF
		switch rule {
		case Dense:
			n += s.Dim * s.FF
		case Product:
			p := s.product()
			n += s.Dim*p.QueryLen() + p.KeyRows()*p.Dim + p.Count()*s.FF
		}
	}
	return n
}
