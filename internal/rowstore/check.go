package rowstore

import (
	"context"
	"fmt"
	"io"
	"slices"

	"github.com/geistnet/geist/merkle"
	"github.com/geistnet/geist/sat"
)

// A Report is what Check found.
type Report struct {
	State    sat.State   // what the table says
	Root     merkle.Hash // over the records as they are
	Whole    bool        // both roots agree, and so do all stored nodes
	BadRows  []uint64    // that the root refuses, the first of them, ascending
	Unproven []uint64    // that differ from stored hashes which do not lead to the root either
	BadNodes uint64      // stored nodes that differ though no row below them is known to be bad
	Rows     uint64      // that differ from their stored hash, in all
	Damage   string      // what Options.Damaged let pass
}

const maxBadRows = 64 // in a Report

// Check proves every record against the root of the last commit, reading all
// once (docs/spec/sat.md §5). Commits wait until it is done. What
// it finds is in the report; errors are of reading.
func (t *Table) Check(ctx context.Context, progress Progress) (*Report, error) {
	t.writer.Lock()
	defer t.writer.Unlock()
	r := &Report{State: t.state}
	if t.damage != nil {
		r.Damage = t.damage.Error()
	}
	stored := new(page)
	leaves := map[uint64]merkle.Hash{} // of suspect rows, as they are
	nodes := uint64(0)
	var err error
	r.Root, err = t.build(ctx, currentRows{t}, progress, func(number int64, made *page) error {
		if err := t.readPages([]int64{number}, []*page{stored}); err != nil {
			return err
		}
		if *stored == *made {
			return nil
		}
		t.layout.nodes(number, func(level int, index uint64, offset int) {
			is := merkle.Hash(made[offset : offset+hashBytes])
			if t.layout.in(stored, level, index, offset) == is {
				return
			}
			if level > 0 {
				nodes++
				return
			}
			r.Rows++
			if len(leaves) < 4*maxBadRows {
				leaves[index] = is
			}
		})
		return nil
	})
	if err != nil {
		return nil, err
	}
	whole := r.Root == r.State.Root
	r.Whole = whole && r.Rows == 0 && nodes == 0
	if whole {
		r.BadNodes = nodes + r.Rows
		return r, nil
	}
	ids := make([]uint64, 0, len(leaves))
	for id := range leaves {
		ids = append(ids, id)
	}
	slices.Sort(ids)
	tree := merkle.Open(newPages(t.layout, t.readPages), t.shape.Rows, t.hasher)
	for _, id := range ids {
		one := []uint64{id}
		proof, err := tree.Prove(one)
		if err != nil {
			return nil, err
		}
		var leaf [1]merkle.Hash
		if err := newPages(t.layout, t.readPages).Load(0, id, leaf[:]); err != nil {
			return nil, err
		}
		switch {
		case merkle.Verify(r.State.Root, t.shape.Rows, one, leaf[:], proof) == nil:
			if len(r.BadRows) < maxBadRows {
				r.BadRows = append(r.BadRows, id)
			}
		case merkle.Verify(r.State.Root, t.shape.Rows, one, []merkle.Hash{leaves[id]}, proof) == nil:
			r.BadNodes++ // the row is right, its stored hash is not
		case len(r.Unproven) < maxBadRows:
			r.Unproven = append(r.Unproven, id)
		}
	}
	return r, nil
}

// currentRows reads whole records as the last commit made them. writer is held.
type currentRows struct{ t *Table }

func (c currentRows) ReadAt(b []byte, offset int64) (int, error) {
	t := c.t
	n, err := t.rows.ReadAt(b, offset)
	if err != nil && err != io.EOF || len(t.pending) == 0 {
		return n, err
	}
	size := int64(t.size)
	if offset%size != 0 || int64(len(b))%size != 0 {
		panic(fmt.Sprintf("rowstore: internal error: read of %d bytes at %d, not whole records of %d", len(b), offset, size))
	}
	for i := int64(0); i < int64(len(b))/size; i++ {
		if r, ok := t.pending[uint64(offset/size+i)]; ok {
			copy(b[i*size:], r)
		}
	}
	return n, err
}

// Values writes the values of all rows, one after another, without moments, as the
// last commit made them. Commits wait until it is done.
func (t *Table) Values(ctx context.Context, w io.Writer, progress Progress) error {
	t.writer.Lock()
	defer t.writer.Unlock()
	width := t.shape.ValueBytes()
	count := max(1, (1<<20)/t.size)
	buf, out := make([]byte, count*t.size), make([]byte, 0, count*width)
	for first := uint64(0); first < t.shape.Rows; {
		if err := ctx.Err(); err != nil {
			return err
		}
		n := int(min(uint64(count), t.shape.Rows-first))
		if got, err := (currentRows{t}).ReadAt(buf[:n*t.size], int64(first)*int64(t.size)); got < n*t.size {
			return fmt.Errorf("read rows from %d on: %w", first, err)
		}
		out = out[:0]
		for i := range n {
			out = append(out, buf[i*t.size:i*t.size+width]...)
		}
		if _, err := w.Write(out); err != nil {
			return err
		}
		first += uint64(n)
		progress.say("write", int64(first)*int64(width), int64(t.shape.Rows)*int64(width))
	}
	return nil
}
