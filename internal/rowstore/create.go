package rowstore

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/geistnet/geist/internal/hashmany"
	"github.com/geistnet/geist/merkle"
	"github.com/geistnet/geist/sat"
)

// Progress is told how many of all bytes a stage has done. It may be nil.
type Progress func(stage string, done, total int64)

func (p Progress) say(stage string, done, total int64) {
	if p != nil {
		p(stage, done, total)
	}
}

// Create makes a table in an empty directory, or where the making of one was
// interrupted; there is no table until it returns. values has the values of
// all rows and nothing else; if it is nil all records are zero, and the files have
// holes instead of them. Moments and step counts begin at zero.
func Create(ctx context.Context, dir FS, shape sat.Shape, values io.Reader, progress Progress) (state sat.State, err error) {
	if err := shape.Valid(); err != nil {
		return state, err
	}
	release, err := dir.Lock(false)
	if err != nil {
		return state, err
	}
	defer func() { err = errors.Join(err, release()) }()
	files := map[string]File{}
	defer func() {
		for _, f := range files {
			err = errors.Join(err, f.Close())
		}
	}()
	if files["head"], err = dir.Open("head", true); err != nil {
		delete(files, "head")
		return state, err
	}
	head := files["head"]
	if _, err := readHead(head); !errors.Is(err, ErrNoTable) {
		return state, errors.Join(errors.New("there is a table already"), err)
	}
	t := newTable(sat.State{Shape: shape})
	for name, size := range map[string]int64{
		"head": 3 * blockBytes, "rows": int64(shape.Rows) * int64(t.size), "nodes": t.layout.pages() * pageBytes, "journal": 0,
	} {
		if files[name] == nil {
			if files[name], err = dir.Open(name, true); err != nil {
				delete(files, name)
				return state, err
			}
		}
		if err := errors.Join(files[name].Truncate(0), files[name].Truncate(size)); err != nil {
			return state, fmt.Errorf("make %s of %d bytes: %w", name, size, err)
		}
	}
	t.rows, t.nodes = files["rows"], files["nodes"]
	t.state.Root = t.layout.blank(t.layout.height, 0)
	if values != nil {
		if err := t.fill(ctx, values, progress); err != nil {
			return state, err
		}
		if t.state.Root, err = t.build(ctx, t.rows, progress, func(number int64, pg *page) error {
			_, err := t.nodes.WriteAt(pg[:], number*pageBytes)
			return err
		}); err != nil {
			return state, err
		}
	}
	if err := writeCheckpoint(head, 1, t.state); err != nil {
		return state, err
	}
	for _, name := range []string{"rows", "nodes", "journal", "head"} {
		if err := files[name].Sync(); err != nil {
			return state, fmt.Errorf("sync %s: %w", name, err)
		}
	}
	if err := dir.Sync(); err != nil {
		return state, err
	}
	if _, err := head.WriteAt(encodeShape(shape), 0); err != nil {
		return state, err
	}
	return t.state, head.Sync()
}

// fill writes values to rows.
func (t *Table) fill(ctx context.Context, values io.Reader, progress Progress) error {
	width := t.shape.ValueBytes()
	count := max(1, (1<<20)/t.size)
	total := int64(t.shape.Rows) * int64(t.size)
	in, out := make([]byte, count*width), make([]byte, count*t.size)
	for first := uint64(0); first < t.shape.Rows; {
		if err := ctx.Err(); err != nil {
			return err
		}
		n := int(min(uint64(count), t.shape.Rows-first))
		if _, err := io.ReadFull(values, in[:n*width]); err != nil {
			return fmt.Errorf("read values of rows %d to %d: %w", first, first+uint64(n)-1, err)
		}
		for i := range n {
			copy(out[i*t.size:], in[i*width:(i+1)*width])
		}
		if _, err := t.rows.WriteAt(out[:n*t.size], int64(first)*int64(t.size)); err != nil {
			return fmt.Errorf("write rows from %d on: %w", first, err)
		}
		first += uint64(n)
		progress.say("copy", int64(first)*int64(t.size), total)
	}
	switch _, err := io.ReadFull(values, in[:1]); {
	case err == nil:
		return fmt.Errorf("there are more values than those of %d rows of %d bytes", t.shape.Rows, width)
	case !errors.Is(err, io.EOF):
		return fmt.Errorf("read values: %w", err)
	}
	return nil
}

// build makes the tree over records and hands on its pages.
func (t *Table) build(ctx context.Context, records io.ReaderAt, progress Progress, done func(int64, *page) error) (merkle.Hash, error) {
	total := int64(t.shape.Rows) * int64(t.size)
	data, err := merkle.File(records, total, t.size)
	if err != nil {
		return merkle.Hash{}, err
	}
	return merkle.Build(ctx, data, merkle.Options{
		Hasher:   hashmany.New(),
		Nodes:    &collector{t.layout, map[int64]*partial{}, done},
		Progress: func(leaves uint64) { progress.say("hash", int64(leaves)*int64(t.size), total) },
	})
}
