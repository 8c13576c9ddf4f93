package rowstore

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"slices"

	"github.com/geistnet/geist/merkle"
	"github.com/geistnet/geist/sat"
)

const (
	joinGap   = 4096     // rows with at most so many bytes between them are read at once
	joinBytes = 64 << 10 // but no more than this
)

// Read copies the records of ids, in any order and also repeated, into dst, which has
// their size. All are of one commit, the last.
func (t *Table) Read(ids []uint64, dst []byte) error {
	t.mu.RLock()
	defer t.mu.RUnlock()
	return t.read(ids, dst, t.state.Commit)
}

// A Snapshot sees a table as one commit made it, whatever follows. While one is open,
// commits keep what they replace in the file undo, which is emptied when the last
// is closed.
type Snapshot struct {
	t     *Table
	state sat.State
}

// Snapshot opens a snapshot of the last commit. Close it after use.
func (t *Table) Snapshot() *Snapshot {
	t.writer.Lock()
	defer t.writer.Unlock()
	t.mu.Lock()
	defer t.mu.Unlock()
	t.snapshots++
	return &Snapshot{t, t.state}
}

// State is what the snapshot sees.
func (s *Snapshot) State() sat.State { return s.state }

// Read is Table.Read at the snapshot.
func (s *Snapshot) Read(ids []uint64, dst []byte) error {
	s.t.mu.RLock()
	defer s.t.mu.RUnlock()
	return s.t.read(ids, dst, s.state.Commit)
}

// Prove is the multiproof of rows under the snapshot's root. ids ascend strictly.
func (s *Snapshot) Prove(ids []uint64) ([]merkle.Hash, error) {
	t := s.t
	t.mu.RLock()
	defer t.mu.RUnlock()
	p := newPages(t.layout, func(numbers []int64, into []*page) error { return t.pagesOf(numbers, into, s.state.Commit) })
	if len(ids) > 0 && ids[len(ids)-1] < t.shape.Rows && slices.IsSorted(ids) {
		if err := p.fetch(t.layout.paths(ids)); err != nil {
			return nil, err
		}
	}
	return merkle.Open(p, t.shape.Rows, t.hasher).Prove(ids)
}

// Close ends the snapshot. It must not be used afterwards.
func (s *Snapshot) Close() error {
	t := s.t
	t.writer.Lock()
	defer t.writer.Unlock()
	t.mu.Lock()
	defer t.mu.Unlock()
	t.snapshots--
	if t.snapshots > 0 || t.undoEnd == 0 {
		return nil
	}
	clear(t.rowsBefore)
	clear(t.pagesBefore)
	t.undoEnd = 0
	return t.undo.Truncate(0)
}

// replacedAfter finds what the first commit after one replaced.
func replacedAfter(v []version, commit uint64) (offset int64, found bool) {
	i, _ := slices.BinarySearchFunc(v, commit, func(v version, c uint64) int {
		if v.commit <= c {
			return -1
		}
		return 1
	})
	if i == len(v) {
		return 0, false
	}
	return v[i].offset, true
}

// read is Read at a commit. mu is held, or writer.
func (t *Table) read(ids []uint64, dst []byte, commit uint64) error {
	if len(dst) != len(ids)*t.size {
		return fmt.Errorf("read %d rows of %d bytes into %d", len(ids), t.size, len(dst))
	}
	order := make([]int32, 0, len(ids)) // of those to be read from the file
	for i, id := range ids {
		if id >= t.shape.Rows {
			return fmt.Errorf("read row %d of a table of %d", id, t.shape.Rows)
		}
		to := dst[i*t.size : (i+1)*t.size]
		if len(t.rowsBefore) > 0 {
			if at, ok := replacedAfter(t.rowsBefore[id], commit); ok {
				if _, err := t.undo.ReadAt(to, at); err != nil {
					return fmt.Errorf("read row %d of commit %d: %w", id, commit, err)
				}
				continue
			}
		}
		if len(t.pending) > 0 {
			if r, ok := t.pending[id]; ok {
				copy(to, r)
				continue
			}
		}
		order = append(order, int32(i))
	}
	if !slices.IsSorted(ids) {
		slices.SortFunc(order, func(a, b int32) int { return cmp.Compare(ids[a], ids[b]) })
	}
	return readRuns(t.rows, t.size, len(order), func(i int) uint64 { return ids[order[i]] }, func(i int) []byte {
		at := int(order[i]) * t.size
		return dst[at : at+t.size]
	})
}

// readRuns reads n pieces of one size whose numbers ascend, those near each other at
// once. What is not in memory is asked for before the first of it is waited for, so that the disk
// has all requests at once.
func readRuns(f File, size, n int, number func(int) uint64, into func(int) []byte) error {
	var buf []byte
	a, advises := f.(adviser)
	type run struct{ begin, end int }
	var waiting []run
	// one reads a run, unless it had to wait for the disk and should not.
	one := func(r run, wait bool) (bool, error) {
		offset := int64(number(r.begin)) * int64(size)
		length := int(number(r.end-1)-number(r.begin)+1) * size
		joined := r.end > r.begin+1
		b := into(r.begin)
		if joined {
			if cap(buf) < length {
				buf = make([]byte, max(length, joinBytes))
			}
			b = buf[:length]
		}
		if !wait {
			if !a.ReadCached(b, offset) {
				a.WillRead(offset, int64(length))
				return false, nil
			}
		} else if got, err := f.ReadAt(b, offset); got < len(b) {
			if err == nil || errors.Is(err, io.EOF) {
				err = io.ErrUnexpectedEOF
			}
			return false, fmt.Errorf("read %d bytes at %d: %w", len(b), offset, err)
		}
		for x := r.begin; joined && x < r.end; x++ {
			copy(into(x), b[int(number(x)-number(r.begin))*size:])
		}
		return true, nil
	}
	for i := 0; i < n; {
		j := i + 1
		for j < n && (number(j)-number(j-1))*uint64(size) <= uint64(size+joinGap) && (number(j)-number(i)+1)*uint64(size) <= joinBytes {
			j++
		}
		r := run{i, j}
		if done, err := one(r, !advises); err != nil {
			return err
		} else if !done {
			waiting = append(waiting, r)
		}
		i = j
	}
	for _, r := range waiting {
		if _, err := one(r, true); err != nil {
			return err
		}
	}
	return nil
}

// readPages reads pages as the last commit made them. mu is held, or writer.
func (t *Table) readPages(numbers []int64, into []*page) error {
	return t.pagesOf(numbers, into, t.state.Commit)
}

func (t *Table) pagesOf(numbers []int64, into []*page, commit uint64) error {
	var order []int
	for i, n := range numbers {
		if at, ok := replacedAfter(t.pagesBefore[n], commit); ok {
			if _, err := t.undo.ReadAt(into[i][:], at); err != nil {
				return fmt.Errorf("read page %d of commit %d: %w", n, commit, err)
			}
		} else if pg := t.pendingPage[n]; pg != nil {
			*into[i] = *pg
		} else {
			order = append(order, i)
		}
	}
	return readRuns(t.nodes, pageBytes, len(order), func(i int) uint64 { return uint64(numbers[order[i]]) }, func(i int) []byte { return into[order[i]][:] })
}
