package train

import (
	"encoding/binary"
	"fmt"
	"math"
	"strings"

	"github.com/geistnet/geist/arith"
	"github.com/geistnet/geist/internal/hashmany"
	"github.com/geistnet/geist/merkle"
	"github.com/geistnet/geist/sat"
)

// RecordShape is the shape of the table's records: values, moments and the
// number of steps that a row has seen.
func (t *Table) RecordShape() sat.Shape {
	return sat.Shape{Rows: uint64(t.Rows), Format: arith.F32, Dim: t.Cols, Moments: true}
}

// Record appends the record of row i to dst.
func (t *Table) Record(dst []byte, i int) []byte {
	for _, part := range [][]float32{t.W, t.M, t.V} {
		for _, x := range t.row(part, i) {
			dst = binary.LittleEndian.AppendUint32(dst, math.Float32bits(x))
		}
	}
	return binary.LittleEndian.AppendUint32(dst, t.Steps[i])
}

// Root is the root of the tree over the table's records.
func (t *Table) Root() merkle.Hash {
	root, err := t.tree().Root()
	if err != nil {
		panic("train: internal error: " + err.Error()) // a table has rows
	}
	return root
}

func (t *Table) tree() *merkle.Tree { return merkle.FromLeaves(t.leaves(), hashmany.New()) }

// leaves hashes all records.
func (t *Table) leaves() []merkle.Hash {
	out := make([]merkle.Hash, t.Rows)
	var buf []byte
	for i := range out {
		buf = t.Record(buf[:0], i)
		out[i] = merkle.HashLeaf(buf)
	}
	return out
}

// Losses is the history as CSV: step, loss of its batch, held-out loss where it
// was measured. Losses are nats per token.
func (r *Run) Losses() []byte {
	var b strings.Builder
	b.WriteString("step,loss,held_out\n")
	for i, l := range r.History.Loss {
		held := ""
		if n := i + 1; n%r.Recipe.Every == 0 {
			held = fmt.Sprintf("%.6f", r.History.Held[n/r.Recipe.Every-1])
		}
		fmt.Fprintf(&b, "%d,%.6f,%s\n", i+1, l, held)
	}
	return []byte(b.String())
}
