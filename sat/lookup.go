package sat

import (
	"errors"
	"fmt"
	"slices"

	"github.com/geistnet/geist/arith"
	"github.com/geistnet/geist/merkle"
)

// ErrVoid says that the run has no results (docs/spec/arithmetic.md §2.4): there
// is nothing to look up, and no other server would help.
var ErrVoid = errors.New("the run is void: a score, a sum or a distance is not finite")

// Input is what a rule computes rows from. The field of the rule is read.
type Input struct {
	Tokens []int32   // Hash: the ids up to the token and with it
	Scores []float32 // Product: KeyRows values, as Product.Scores makes them
	Rows   []int     // Index: Count rows, in any order
	Query  []float32 // Cells: as many values as a row
}

// Selection is which rows a rule reads.
type Selection struct {
	IDs []uint64 // all different, ascending: what a lookup shows

	rule  *Rule
	order []int  // Hash, Index: rows in the order in which they make u
	picks []Pick // Product: of all heads
	query []float32
}

// fits reports whether the rule is one of the table.
func (r *Rule) fits(t *Table) error {
	rows, cols := t.Rows, t.Cols
	switch {
	case r.Hash != nil:
		rows = r.Hash.TableRows()
	case r.Product != nil:
		rows = r.Product.TableRows()
	case r.Cells != nil:
		p := r.Cells.Partition
		rows, cols = p.Begins[p.Cells()], p.Dim
	}
	if rows != t.Rows || cols != t.Cols {
		return fmt.Errorf("the rule is of a table of %d rows of %d, not %d of %d", rows, cols, t.Rows, t.Cols)
	}
	return nil
}

func length(what string, got, want int) error {
	if got != want {
		return fmt.Errorf("%d %s; expected %d", got, what, want)
	}
	return nil
}

// Select computes which rows of the table are read. The rule is checked.
// ErrVoid is returned as it is.
func (r *Rule) Select(t *Table, in Input) (*Selection, error) {
	if err := first(t.Check(), r.Check()); err != nil {
		return nil, err
	}
	if err := r.fits(t); err != nil {
		return nil, err
	}
	s := &Selection{rule: r}
	switch {
	case r.Hash != nil:
		s.order = r.Hash.IDs(nil, in.Tokens)
	case r.Index != nil:
		if err := length("rows", len(in.Rows), r.Index.Count); err != nil {
			return nil, err
		}
		for _, id := range in.Rows {
			if err := within("the number of a row", id, 0, t.Rows-1); err != nil {
				return nil, err
			}
		}
		s.order = slices.Clone(in.Rows)
	case r.Product != nil:
		p := r.Product
		if err := length("scores", len(in.Scores), p.KeyRows()); err != nil {
			return nil, err
		}
		for h := range p.Heads {
			x, ok := in.Scores[h*2*p.Keys:][:2*p.Keys], true
			if s.picks, ok = p.Picks(s.picks, x[:p.Keys], x[p.Keys:]); !ok {
				return nil, ErrVoid
			}
		}
		for _, x := range s.picks {
			s.IDs = append(s.IDs, uint64(x.Row))
		}
	default:
		if err := length("values of the query", len(in.Query), t.Cols); err != nil {
			return nil, err
		}
		if err := s.cells(r.Cells, in.Query); err != nil {
			return nil, err
		}
	}
	for _, id := range s.order {
		s.IDs = append(s.IDs, uint64(id))
	}
	slices.Sort(s.IDs)
	s.IDs = slices.Compact(s.IDs)
	return s, nil
}

func (s *Selection) cells(c *Cells, query []float32) error {
	cells, ok := c.Nearest(query)
	if !ok {
		return ErrVoid
	}
	p := c.Partition
	n := 0
	for _, i := range cells {
		n += p.Begins[i+1] - p.Begins[i]
	}
	if err := within("the number of rows of the cells shown", n, 1, maxIndexed); err != nil {
		return err
	}
	for _, i := range cells {
		for row := p.Begins[i]; row < p.Begins[i+1]; row++ {
			s.IDs = append(s.IDs, uint64(row))
		}
	}
	s.query = slices.Clone(query)
	return nil
}

// Size is the number of bytes of a lookup of the rows at ids.
func (t *Top) Size(ids []uint64) (int, error) {
	n, err := ProofLen(t.Rows, t.level, ids)
	return len(ids)*t.RowBytes() + n*len(merkle.Hash{}), err
}

// Encode gives the bytes of a lookup: the rows in ascending order, and then
// their proof. Everything else a reader knows.
func Encode(rows [][]byte, proof []merkle.Hash) []byte {
	n := len(proof) * len(merkle.Hash{})
	for _, r := range rows {
		n += len(r)
	}
	b := make([]byte, 0, n)
	for _, r := range rows {
		b = append(b, r...)
	}
	for _, h := range proof {
		b = append(b, h[:]...)
	}
	return b
}

// Open reads a lookup of the rows at ids, ascending and different, and checks
// every row against the table. The rows are parts of b. Nothing is returned
// unless all are right.
func (t *Top) Open(b []byte, ids []uint64) (rows [][]byte, err error) {
	n, err := t.Size(ids)
	if err != nil {
		return nil, err
	}
	if len(b) != n {
		return nil, fmt.Errorf("a lookup of %d rows has %d bytes; expected %d", len(ids), len(b), n)
	}
	size := t.RowBytes()
	rows = make([][]byte, len(ids))
	for i := range rows {
		rows[i], b = b[:size:size], b[size:]
	}
	proof := make([]merkle.Hash, len(b)/len(merkle.Hash{}))
	for i := range proof {
		b = b[copy(proof[i][:], b):]
	}
	leaves := make([]merkle.Hash, len(ids))
	t.hasher.Leaves(leaves, rows)
	if err := t.verify(ids, leaves, proof); err != nil {
		return nil, err
	}
	return rows, nil
}

// Read makes u of the rows at IDs, in the format of the table: with Hash and
// Index the values of the rows one after the other, with Product the weighted
// sum, with Cells those of the nearest rows one after the other.
// The rows were checked.
func (s *Selection) Read(t *Table, rows [][]byte) ([]float32, error) {
	if err := length("rows", len(rows), len(s.IDs)); err != nil {
		return nil, err
	}
	for _, r := range rows {
		if err := length("bytes of a row", len(r), t.RowBytes()); err != nil {
			return nil, err
		}
	}
	at := func(dst []float32, id int) {
		i, _ := slices.BinarySearch(s.IDs, uint64(id))
		arith.Dequantize(dst, t.Format, rows[i])
	}
	if s.rule.Product != nil {
		return s.weighted(t, rows), nil
	}
	order := s.order
	if s.rule.Cells != nil {
		near, err := s.Nearest(t, rows)
		if err != nil {
			return nil, err
		}
		for _, x := range near {
			order = append(order, x.Row)
		}
	}
	u := make([]float32, len(order)*t.Cols)
	for i, id := range order {
		at(u[i*t.Cols:][:t.Cols], id)
	}
	return u, nil
}

// weighted is the sum of the rows that all heads pick, with their weights. It
// goes through a few columns at a time, so that a row is decoded once however
// many heads pick it: who shows rows chooses how many do.
func (s *Selection) weighted(t *Table, rows [][]byte) []float32 {
	const columns = 256 // whole blocks of every format
	k := s.rule.Product.TopK
	weights, place := make([]float32, len(s.picks)), make([]int, len(s.picks))
	for i := 0; i < len(s.picks); i += k {
		Weights(weights[i:i+k], s.picks[i:i+k])
	}
	for i, x := range s.picks {
		place[i], _ = slices.BinarySearch(s.IDs, uint64(x.Row))
	}
	u := make([]float32, t.Cols)
	decoded := make([]float32, len(rows)*min(columns, t.Cols))
	for first := 0; first < t.Cols; first += columns {
		end := min(first+columns, t.Cols)
		n := end - first
		for i, r := range rows {
			arith.Dequantize(decoded[i*n:][:n], t.Format, r[t.Format.RowBytes(first):t.Format.RowBytes(end)])
		}
		for i, j := range place {
			AddRow(u[first:end], weights[i], decoded[j*n:][:n])
		}
	}
	return u
}

// Nearest returns the TopK rows of a lookup in cells that are nearest to the
// query, fewer if the cells have fewer, with their squared distances in
// ascending order, ties by row. rows are those at IDs.
func (s *Selection) Nearest(t *Table, rows [][]byte) ([]Pick, error) {
	if s.rule.Cells == nil {
		return nil, fmt.Errorf("the rule knows no distances")
	}
	scores, row, work := make([]float32, len(rows)), make([]float32, t.Cols), make([]float32, t.Cols)
	for i, r := range rows {
		arith.Dequantize(row, t.Format, r)
		scores[i] = -Distance(s.query, row, work)
		if !arith.Finite(scores[i]) {
			return nil, ErrVoid
		}
	}
	near := leading(scores, s.rule.Cells.TopK)
	for i, x := range near {
		near[i] = Pick{int(s.IDs[x.Row]), -x.Sum}
	}
	return near, nil
}

// Verify recomputes which rows the input reads, checks that a lookup has exactly
// these rows of the table, and returns their u.
func Verify(t *Top, r *Rule, in Input, lookup []byte) ([]float32, error) {
	s, err := r.Select(&t.Table, in)
	if err != nil {
		return nil, err
	}
	rows, err := t.Open(lookup, s.IDs)
	if err != nil {
		return nil, err
	}
	return s.Read(&t.Table, rows)
}
