package sat

import (
	"fmt"

	"github.com/geistnet/geist/merkle"
)

// A State is what a verifier trusts of a table: its shape, how many commits it
// has seen, and the root over its records.
type State struct {
	Shape  Shape
	Commit uint64
	Root   merkle.Hash
}

// UpdateKind says how a transition makes new records.
type UpdateKind uint8

// The kinds of transitions.
const (
	SetRecord UpdateKind = 0 // an update is the new record
	AdamStep  UpdateKind = 1 // an update is a gradient: Dim float32, little-endian
)

// An UpdateRule is how updates become records. Adam is zero unless Kind is AdamStep.
type UpdateRule struct {
	Kind UpdateKind
	Adam Adam
}

func (r UpdateRule) equal(o UpdateRule) bool { return r.Kind == o.Kind && r.Adam.equal(o.Adam) }

// updateBytes is the size of one update, 0 where rule and shape do not fit.
func (r UpdateRule) updateBytes(s Shape) (int, error) {
	switch {
	case r.Kind == SetRecord && r.Adam.equal(Adam{}):
		return s.RecordBytes(), nil
	case r.Kind == AdamStep && s.Moments:
		return 4 * s.Dim, r.Adam.Valid()
	}
	return 0, fmt.Errorf("transition of kind %d in a table with moments %v and parameters %v", r.Kind, s.Moments, r.Adam)
}

// Apply makes the new record of one row. dst and record have RecordBytes bytes,
// update as many as the rule takes. After an error dst is undefined.
func (r UpdateRule) Apply(s Shape, dst, record, update []byte) error {
	size, err := r.updateBytes(s)
	if err != nil {
		return err
	}
	if len(update) != size || len(record) != s.RecordBytes() || len(dst) != len(record) {
		return fmt.Errorf("update of %d bytes for a record of %d into %d, want %d for %d", len(update), len(record), len(dst), size, s.RecordBytes())
	}
	if r.Kind == SetRecord {
		copy(dst, update)
		return nil
	}
	return r.Adam.Record(dst, record, floats(update))
}

// A Transition shows that one commit changed some rows by a rule and no others:
// the records before, the updates, and one multiproof that holds for both roots
// (merkle.md §4). It does not show that the updates are those of any training
// data; whoever knows the right ones compares them.
type Transition struct {
	Shape   Shape
	Rule    UpdateRule
	Commit  uint64 // number of the commit that it makes, 1 or more
	Before  merkle.Hash
	After   merkle.Hash
	IDs     []uint64 // of the rows, strictly ascending
	Records []byte   // before, one after another in order of IDs
	Updates []byte   // likewise
	Proof   []merkle.Hash
}

// MaxChanged is the most rows in one transition.
const MaxChanged = 1 << 20

// check demands all that can be seen without hashing.
func (t *Transition) check() error {
	if err := t.Shape.Valid(); err != nil {
		return err
	}
	size, err := t.Rule.updateBytes(t.Shape)
	if err != nil {
		return err
	}
	k := len(t.IDs)
	if k < 1 || k > MaxChanged || t.Commit == 0 {
		return fmt.Errorf("transition of %d rows to commit %d, want 1 to %d rows and a commit above 0", k, t.Commit, MaxChanged)
	}
	if len(t.Records) != k*t.Shape.RecordBytes() || len(t.Updates) != k*size {
		return fmt.Errorf("transition of %d rows with %d bytes of records and %d of updates, want %d and %d",
			k, len(t.Records), len(t.Updates), k*t.Shape.RecordBytes(), k*size)
	}
	want, err := merkle.ProofLen(t.Shape.Rows, t.IDs)
	if err != nil {
		return err
	}
	if len(t.Proof) != want {
		return fmt.Errorf("transition of %d rows with %d hashes, want %d", k, len(t.Proof), want)
	}
	return nil
}

// Verify checks a transition from a trusted state by the rule that holds for
// it and returns the state after it. It makes at most 2·len(IDs) leaf hashes,
// as many steps, and two climbs of the tree.
func (t *Transition) Verify(trusted State, rule UpdateRule) (State, error) {
	if err := t.check(); err != nil {
		return State{}, err
	}
	switch {
	case t.Shape != trusted.Shape:
		return State{}, fmt.Errorf("transition of a table of %+v, want %+v", t.Shape, trusted.Shape)
	case t.Commit-1 != trusted.Commit:
		return State{}, fmt.Errorf("transition to commit %d after commit %d", t.Commit, trusted.Commit)
	case t.Before != trusted.Root:
		return State{}, fmt.Errorf("transition from root %v, want %v", t.Before, trusted.Root)
	case !t.Rule.equal(rule):
		return State{}, fmt.Errorf("transition by rule %+v, want %+v", t.Rule, rule)
	}
	before, after, err := t.leaves()
	if err != nil {
		return State{}, err
	}
	oldRoot, newRoot, err := merkle.RootsOf(t.Shape.Rows, t.IDs, before, after, t.Proof)
	if err != nil {
		return State{}, err
	}
	if oldRoot != t.Before || newRoot != t.After {
		return State{}, fmt.Errorf("transition of %d rows leads from root %v to %v, claimed %v to %v", len(t.IDs), oldRoot, newRoot, t.Before, t.After)
	}
	return State{t.Shape, t.Commit, newRoot}, nil
}

// leaves hashes the records before and after.
func (t *Transition) leaves() (before, after []merkle.Hash, err error) {
	k, size := len(t.IDs), t.Shape.RecordBytes()
	each := len(t.Updates) / k
	before, after = make([]merkle.Hash, k), make([]merkle.Hash, k)
	record := make([]byte, size)
	for i := range k {
		old := t.Records[i*size : (i+1)*size]
		before[i] = merkle.HashLeaf(old)
		if err := t.Rule.Apply(t.Shape, record, old, t.Updates[i*each:(i+1)*each]); err != nil {
			return nil, nil, fmt.Errorf("row %d: %w", t.IDs[i], err)
		}
		after[i] = merkle.HashLeaf(record)
	}
	return before, after, nil
}
