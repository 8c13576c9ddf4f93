package sat

import (
	"fmt"
	"math"
)

// Bounds on rules, so that no product of their sizes overflows 31 bits and no
// table of work is large.
const (
	maxOrders = 8
	maxOrder  = 16 // tokens of an n-gram
	maxHeads  = 1 << 8
	maxKeys   = 1 << 15 // sub-keys of a half
	maxDim    = 1 << 12 // values of a half query
	maxTopK   = 1 << 10
	maxRows   = math.MaxInt32
)

// Rule says which rows of a table are read. Exactly one field is set.
type Rule struct {
	Hash    *Hash
	Product *Product
	Index   *Index
	Cells   *Cells
}

// Index is the rule of a caller who names the rows.
type Index struct {
	Count int // rows of a lookup, from 1 to 2²⁰
}

const maxIndexed = 1 << 20

// Check reports in what the rule is out of range.
func (r *Rule) Check() error {
	set := 0
	var err error
	if r.Hash != nil {
		set++
		err = r.Hash.Check()
	}
	if r.Product != nil {
		set++
		err = r.Product.Check()
	}
	if r.Index != nil {
		set++
		err = within("the number of rows", r.Index.Count, 1, maxIndexed)
	}
	if r.Cells != nil {
		set++
		err = r.Cells.Check()
	}
	if set != 1 {
		return fmt.Errorf("retrieval rule: %d kinds at once; expected 1", set)
	}
	if err != nil {
		return fmt.Errorf("retrieval rule: %w", err)
	}
	return nil
}

func within(what string, v, lo, hi int) error {
	if v < lo || v > hi {
		return fmt.Errorf("%s is %d; it must be between %d and %d", what, v, lo, hi)
	}
	return nil
}

func first(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}
