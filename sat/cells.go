package sat

import (
	"encoding/binary"
	"fmt"
	"math"
	"slices"

	"github.com/geistnet/geist/arith"
	"github.com/geistnet/geist/merkle"
)

// Cells reads the TopK rows nearest to a query among the rows of the Probe cells
// whose centroids are nearest to it. All rows of these cells are shown, so that
// nothing nearer can be left out of them; rows of other cells are not searched,
// by definition.
type Cells struct {
	Partition *Partition
	Probe     int // cells that are shown, from 1
	TopK      int // rows, 1 to 2¹⁰
}

// Partition divides a table, whose rows stand in order of cells, into these. It
// is committed to by Root and its number of cells.
type Partition struct {
	Dim       int       // values of a row
	Begins    []int     // cell c has rows [Begins[c], Begins[c+1]); the first is 0, the last the rows of the table
	Centroids []float32 // cells × Dim
}

const maxCells = 1 << 20

// Cells is the number of cells.
func (p *Partition) Cells() int { return len(p.Begins) - 1 }

// Check reports what is wrong with the partition.
func (p *Partition) Check() error {
	if err := first(
		within("the number of cells", p.Cells(), 1, maxCells),
		within("the width of a centroid", p.Dim, 1, 1<<24),
	); err != nil {
		return err
	}
	if len(p.Centroids) != p.Cells()*p.Dim {
		return fmt.Errorf("%d cells of width %d have %d values", p.Cells(), p.Dim, len(p.Centroids))
	}
	if p.Begins[0] != 0 || !slices.IsSorted(p.Begins) || p.Begins[p.Cells()] > maxRows {
		return fmt.Errorf("the cells do not begin at row 0 and ascend to at most %d", maxRows)
	}
	for i, v := range p.Centroids {
		if !arith.Finite(v) {
			return fmt.Errorf("value %d of centroid %d is not finite", i%p.Dim, i/p.Dim)
		}
	}
	return nil
}

// Check reports what is out of range.
func (c *Cells) Check() error {
	if c.Partition == nil {
		return fmt.Errorf("there is no partition")
	}
	return first(
		c.Partition.Check(),
		within("the number of cells shown", c.Probe, 1, c.Partition.Cells()),
		within("the number of rows", c.TopK, 1, maxTopK),
	)
}

// leaf is the leaf of a cell: u32 first row ‖ u32 rows ‖ f32 × Dim.
func (p *Partition) leaf(c int) []byte {
	b := binary.LittleEndian.AppendUint32(nil, uint32(p.Begins[c]))
	b = binary.LittleEndian.AppendUint32(b, uint32(p.Begins[c+1]-p.Begins[c]))
	for _, v := range p.Centroids[c*p.Dim:][:p.Dim] {
		b = binary.LittleEndian.AppendUint32(b, math.Float32bits(v))
	}
	return b
}

// Root is the root of the tree whose leaf c is cell c. The partition keeps the
// rules of Check.
func (p *Partition) Root() merkle.Hash {
	leaves := make([]merkle.Hash, p.Cells())
	for c := range leaves {
		leaves[c] = merkle.HashLeaf(p.leaf(c))
	}
	root, err := merkle.FromLeaves(leaves, merkle.Plain{}).Root()
	if err != nil {
		panic("sat: internal error: " + err.Error()) // there is a cell at least
	}
	return root
}

// Encode gives the leaves of all cells in a row.
func (p *Partition) Encode() []byte {
	var b []byte
	for c := range p.Cells() {
		b = append(b, p.leaf(c)...)
	}
	return b
}

// DecodePartition reads a partition of so many cells of width dim and checks it
// against its root.
func DecodePartition(b []byte, root merkle.Hash, cells, dim int) (*Partition, error) {
	if err := first(within("the number of cells", cells, 1, maxCells), within("the width of a centroid", dim, 1, 1<<24)); err != nil {
		return nil, err
	}
	if len(b) != cells*(8+4*dim) {
		return nil, fmt.Errorf("a partition of %d cells of width %d has %d bytes; expected %d", cells, dim, len(b), cells*(8+4*dim))
	}
	p := &Partition{Dim: dim, Begins: make([]int, 1, cells+1)}
	for c := range cells {
		at := binary.LittleEndian.Uint32(b)
		n := binary.LittleEndian.Uint32(b[4:])
		if int(at) != p.Begins[c] {
			return nil, fmt.Errorf("cell %d begins at row %d; expected %d", c, at, p.Begins[c])
		}
		p.Begins = append(p.Begins, int(at)+int(n))
		for i := range dim {
			p.Centroids = append(p.Centroids, math.Float32frombits(binary.LittleEndian.Uint32(b[8+4*i:])))
		}
		b = b[8+4*dim:]
	}
	if err := p.Check(); err != nil {
		return nil, err
	}
	if got := p.Root(); got != root {
		return nil, fmt.Errorf("the partition has root %v; expected %v", got, root)
	}
	return p, nil
}

// Distance is the squared distance of two vectors of equal length: differences
// are rounded, then added up as arith.SumSquares does. work has that length.
func Distance(a, b, work []float32) float32 {
	for i, v := range a {
		work[i] = v - b[i]
	}
	return arith.SumSquares(work[:len(a)])
}

// Nearest returns the Probe cells nearest to the query, which has Dim values,
// in ascending order of distance, ties by the smaller cell. ok is false if a
// distance is not finite.
func (c *Cells) Nearest(query []float32) (cells []int, ok bool) {
	p := c.Partition
	scores := make([]float32, p.Cells())
	work := make([]float32, p.Dim)
	for i := range scores {
		scores[i] = -Distance(query, p.Centroids[i*p.Dim:][:p.Dim], work)
		if !arith.Finite(scores[i]) {
			return nil, false
		}
	}
	for _, x := range leading(scores, c.Probe) {
		cells = append(cells, x.Row)
	}
	return cells, true
}
