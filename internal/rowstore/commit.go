package rowstore

import (
	"fmt"
	"slices"

	"github.com/geistnet/geist/merkle"
	"github.com/geistnet/geist/sat"
)

// Commit changes the records of ids, which ascend strictly, by rule with one update
// for each, joined in their order. With durable it returns after the journal is
// synced; else the commit is durable after the next Sync or durable Commit, and a
// power cut before that leaves the table at an older root, never between two.
//
// The transition shows to others what happened. An error that is ErrUnknown leaves
// open whether the commit is durable; after any other the table is as it was.
func (t *Table) Commit(ids []uint64, rule sat.UpdateRule, updates []byte, durable bool) (*sat.Transition, error) {
	t.writer.Lock()
	defer t.writer.Unlock()
	switch {
	case t.broken != nil:
		return nil, t.broken
	case t.readOnly:
		return nil, fmt.Errorf("commit to a table that is open for reading")
	case len(ids) < 1 || len(ids) > sat.MaxChanged || len(updates)%len(ids) != 0:
		return nil, fmt.Errorf("commit of %d rows with %d bytes of updates, want 1 to %d rows", len(ids), len(updates), sat.MaxChanged)
	}
	// Nobody else writes, so the table stays as it is without mu.
	k := len(ids)
	old := make([]byte, k*t.size)
	if err := t.read(ids, old, t.state.Commit); err != nil {
		return nil, err
	}
	fresh := make([]byte, k*t.size)
	each := len(updates) / k
	for i := range k {
		if i > 0 && ids[i] <= ids[i-1] {
			return nil, fmt.Errorf("commit of row %d after row %d, want strictly ascending", ids[i], ids[i-1])
		}
		at := i * t.size
		if err := rule.Apply(t.shape, fresh[at:at+t.size], old[at:at+t.size], updates[i*each:(i+1)*each]); err != nil {
			return nil, fmt.Errorf("row %d: %w", ids[i], err)
		}
	}
	p := newPages(t.layout, t.readPages)
	if err := p.fetch(t.layout.paths(ids)); err != nil {
		return nil, err
	}
	tree := merkle.Open(p, t.shape.Rows, t.hasher)
	before, err := t.climb(tree, ids, old)
	if err != nil {
		return nil, err
	}
	if before != t.state.Root {
		return nil, fmt.Errorf("%w: the rows to be changed lead to root %v, want %v", ErrCorrupt, before, t.state.Root)
	}
	var replaced map[int64]page
	if t.snapshots > 0 {
		replaced = map[int64]page{}
		for number, pg := range p.have {
			replaced[number] = *pg
		}
	}
	proof, err := tree.Prove(ids)
	if err != nil {
		return nil, err
	}
	after, err := t.climb(tree, ids, fresh)
	if err != nil {
		return nil, err
	}
	next := sat.State{Shape: t.shape, Commit: t.state.Commit + 1, Root: after}
	changed := p.changed()
	rowsAt, pagesAt, err := t.keep(ids, old, changed, replaced)
	if err != nil {
		return nil, err
	}
	line := encodeEntry(next.Commit, before, after, ids, fresh)
	if _, err := t.journal.WriteAt(line, t.journalEnd); err != nil {
		return nil, t.fail("write journal", err)
	}
	t.journalEnd += int64(len(line))
	t.unsynced = true
	if durable {
		if err := t.sync(); err != nil {
			return nil, err
		}
	}
	t.mu.Lock()
	for i, id := range ids {
		t.pending[id] = fresh[i*t.size : (i+1)*t.size]
		if t.snapshots > 0 {
			t.rowsBefore[id] = append(t.rowsBefore[id], version{next.Commit, rowsAt + int64(i*t.size)})
		}
	}
	for i, number := range changed {
		t.pendingPage[number] = p.have[number]
		if t.snapshots > 0 {
			t.pagesBefore[number] = append(t.pagesBefore[number], version{next.Commit, pagesAt + int64(i)*pageBytes})
		}
	}
	t.state = next
	waiting := len(t.pending)*t.size + len(t.pendingPage)*pageBytes
	t.mu.Unlock()
	full := t.journalEnd > maxJournal
	if full || waiting > t.room {
		if err := t.flush(); err != nil {
			return nil, err
		}
	}
	if full {
		if err := t.checkpoint(); err != nil {
			return nil, err
		}
	}
	return &sat.Transition{
		Shape: t.shape, Rule: rule, Commit: next.Commit, Before: before, After: after,
		IDs: slices.Clone(ids), Records: old, Updates: slices.Clone(updates), Proof: proof,
	}, nil
}

// climb puts the hashes of records into a tree and returns its root.
func (t *Table) climb(tree *merkle.Tree, ids []uint64, records []byte) (merkle.Hash, error) {
	leaves := make([][]byte, len(ids))
	for i := range leaves {
		leaves[i] = records[i*t.size : (i+1)*t.size]
	}
	hashes := make([]merkle.Hash, len(ids))
	t.hasher.Leaves(hashes, leaves)
	if err := tree.Update(ids, hashes); err != nil {
		return merkle.Hash{}, err
	}
	return tree.Root()
}

// keep writes what a commit replaces to the file undo, if there is a snapshot.
// writer is held, so none is opened meanwhile. A failure leaves all as it was.
func (t *Table) keep(ids []uint64, old []byte, changed []int64, pages map[int64]page) (rowsAt, pagesAt int64, err error) {
	if t.snapshots == 0 {
		return 0, 0, nil
	}
	b := make([]byte, 0, len(old)+len(changed)*pageBytes)
	b = append(b, old...)
	for _, number := range changed {
		pg := pages[number]
		b = append(b, pg[:]...)
	}
	if _, err := t.undo.WriteAt(b, t.undoEnd); err != nil {
		return 0, 0, fmt.Errorf("keep %d rows for snapshots: %w", len(ids), err)
	}
	rowsAt, pagesAt = t.undoEnd, t.undoEnd+int64(len(old))
	t.undoEnd += int64(len(b))
	return rowsAt, pagesAt, nil
}
