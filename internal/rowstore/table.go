package rowstore

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"slices"
	"sync"

	"github.com/geistnet/geist/internal/hashmany"
	"github.com/geistnet/geist/merkle"
	"github.com/geistnet/geist/sat"
)

var (
	// ErrNoTable says that a directory has no table, or one whose making was
	// interrupted: make it anew.
	ErrNoTable = errors.New("no table is here, or the making of it was interrupted")
	// ErrInUse says that another process has the table open: wait for it.
	ErrInUse = errors.New("another process has the table open")
	// ErrCorrupt says that files and root do not agree: Check tells where.
	ErrCorrupt = errors.New("table is damaged")
	// ErrUnknown says of a commit that a write failed and nobody can tell
	// whether it is durable: opening the table again shows it.
	ErrUnknown = errors.New("open the table again to see which commit it is at")
)

// Limits after which a table writes what waits, so that memory and the time to open
// stay bounded.
const (
	maxJournal = 64 << 20
	maxPending = 32 << 20
)

// Options of Open.
type Options struct {
	ReadOnly bool // changes nothing on disk; goes with other readers
	// Damaged opens a table although its journal leads to another root than it
	// says, to be read by Check. Only together with ReadOnly.
	Damaged bool
}

// A Table is an open table. All methods but Close may be called from several
// goroutines. After a failed write every further Commit fails; reads go on.
type Table struct {
	shape    sat.Shape
	size     int // of a record
	layout   *layout
	hasher   merkle.Hasher
	readOnly bool
	damage   error // what Options.Damaged let pass

	head, rows, nodes, journal, undo File
	release                          func() error

	// writer is held while committing and opening snapshots. It guards what
	// follows, and all writing to files.
	writer     sync.Mutex
	broken     error
	journalEnd int64
	unsynced   bool // the journal has what is not durable
	room       int  // bytes that may wait in pending
	slot       int  // of the last checkpoint in head
	undoEnd    int64

	// mu guards what follows: the writer holds it to change, readers for the
	// length of a read. While a row or page is in pending, its place in the file
	// may be half written.
	mu          sync.RWMutex
	state       sat.State
	pending     map[uint64][]byte
	pendingPage map[int64]*page
	snapshots   int
	rowsBefore  map[uint64][]version // what commits replaced since the first snapshot, oldest first
	pagesBefore map[int64][]version
}

// version says where the file undo has what a commit replaced.
type version struct {
	commit uint64
	offset int64
}

func newTable(state sat.State) *Table {
	return &Table{
		shape: state.Shape, size: state.Shape.RecordBytes(), state: state, hasher: hashmany.New(),
		layout: newLayout(state.Shape.Rows, merkle.HashLeaf(make([]byte, state.Shape.RecordBytes()))),
		room:   maxPending, pending: map[uint64][]byte{}, pendingPage: map[int64]*page{},
		rowsBefore: map[uint64][]version{}, pagesBefore: map[int64][]version{},
	}
}

// Open opens a table. Commits that a crash left in the journal are done. Close it after use.
func Open(dir FS, o Options) (_ *Table, err error) {
	if o.Damaged && !o.ReadOnly {
		return nil, fmt.Errorf("open a damaged table for writing")
	}
	release, err := dir.Lock(o.ReadOnly)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%w: %w", ErrNoTable, err)
	} else if err != nil {
		return nil, err
	}
	files := map[string]File{}
	defer func() {
		if err != nil {
			for _, f := range files {
				f.Close()
			}
			err = errors.Join(err, release())
		}
	}()
	for _, name := range []string{"head", "rows", "nodes", "journal"} {
		if files[name], err = dir.Open(name, false); err != nil {
			delete(files, name)
			if name == "head" && errors.Is(err, fs.ErrNotExist) {
				err = fmt.Errorf("%w: %w", ErrNoTable, err)
			}
			return nil, err
		}
	}
	state, err := readHead(files["head"])
	if err != nil {
		return nil, err
	}
	t := newTable(state)
	t.readOnly, t.release = o.ReadOnly, release
	t.head, t.rows, t.nodes, t.journal = files["head"], files["rows"], files["nodes"], files["journal"]
	for f, want := range map[File]int64{t.rows: int64(t.shape.Rows) * int64(t.size), t.nodes: t.layout.pages() * pageBytes} {
		got, err := f.Size()
		if err != nil {
			return nil, err
		}
		if got != want {
			return nil, fmt.Errorf("%w: rows or nodes has %d bytes, want %d", ErrCorrupt, got, want)
		}
	}
	if t.slot, err = slotOf(t.head, state.Commit); err != nil {
		return nil, err
	}
	if err = t.replay(); err != nil {
		if !o.Damaged || !errors.Is(err, ErrCorrupt) {
			return nil, err
		}
		t.damage, err = err, nil
	}
	if t.readOnly {
		return t, nil
	}
	if t.undo, err = dir.Open("undo", true); err != nil {
		return nil, err
	}
	files["undo"] = t.undo
	if err = t.undo.Truncate(0); err != nil {
		return nil, err
	}
	// A process that died may have written the checkpoint that was just read and
	// not synced it. It must be durable before the other one is written over.
	if err = t.head.Sync(); err != nil {
		return nil, err
	}
	if t.journalEnd > 0 {
		t.unsynced = true // as far as this process knows
		if err = t.flush(); err == nil {
			err = t.checkpoint()
		}
	}
	return t, err
}

// replay puts what the journal has beyond the checkpoint into pending. Every node
// above these rows is made anew, so it does not matter which of them are in the file.
func (t *Table) replay() error {
	size, err := t.journal.Size()
	if err != nil {
		return err
	}
	t.journalEnd = size
	for offset := int64(0); ; {
		e, next, err := readEntry(t.journal, offset, size, t.shape)
		if err != nil {
			return err
		}
		if e == nil || e.commit > t.state.Commit+1 || e.commit == t.state.Commit+1 && e.before != t.state.Root {
			break
		}
		if e.commit == t.state.Commit+1 {
			for i, id := range e.ids {
				t.pending[id] = e.records[i*t.size : (i+1)*t.size]
			}
			t.state.Commit, t.state.Root = e.commit, e.after
		}
		offset = next
	}
	p := newPages(t.layout, t.readPages)
	tree := merkle.Open(p, t.shape.Rows, t.hasher)
	if len(t.pending) > 0 {
		ids := slices.Sorted(maps.Keys(t.pending))
		records := make([][]byte, len(ids))
		for i, id := range ids {
			records[i] = t.pending[id]
		}
		hashes := make([]merkle.Hash, len(ids))
		t.hasher.Leaves(hashes, records)
		if err := p.fetch(t.layout.paths(ids)); err != nil {
			return err
		}
		if err := tree.Update(ids, hashes); err != nil {
			return err
		}
		for _, number := range p.changed() {
			t.pendingPage[number] = p.have[number]
		}
	}
	root, err := tree.Root()
	if err != nil {
		return err
	}
	if root != t.state.Root {
		return fmt.Errorf("%w: the files lead to root %v at commit %d, want %v", ErrCorrupt, root, t.state.Commit, t.state.Root)
	}
	return nil
}

// Shape is the shape of the table.
func (t *Table) Shape() sat.Shape { return t.shape }

// State is what the last commit made.
func (t *Table) State() sat.State {
	t.mu.RLock()
	defer t.mu.RUnlock()
	return t.state
}

// Journal is the number of bytes in the journal: what a crash now would have to read.
func (t *Table) Journal() int64 {
	t.writer.Lock()
	defer t.writer.Unlock()
	return t.journalEnd
}

// Sync makes all commits durable.
func (t *Table) Sync() error {
	t.writer.Lock()
	defer t.writer.Unlock()
	if t.broken != nil {
		return t.broken
	}
	if t.readOnly {
		return nil
	}
	return t.sync()
}

// Checkpoint makes all commits durable and empties the journal, so that opening
// the table has nothing to do. Close does it too.
func (t *Table) Checkpoint() error {
	t.writer.Lock()
	defer t.writer.Unlock()
	if t.broken != nil {
		return t.broken
	}
	if t.readOnly || t.journalEnd == 0 {
		return nil
	}
	if err := t.flush(); err != nil {
		return err
	}
	return t.checkpoint()
}

// fail keeps the first error of a write. writer is held.
func (t *Table) fail(act string, err error) error {
	if t.broken == nil {
		t.broken = fmt.Errorf("%s: %w; %w", act, err, ErrUnknown)
	}
	return t.broken
}

// sync makes the journal durable. writer is held.
func (t *Table) sync() error {
	if !t.unsynced {
		return nil
	}
	if err := t.journal.Sync(); err != nil {
		return t.fail("sync journal", err)
	}
	t.unsynced = false
	return nil
}

// flush makes the journal durable and then writes what waits for that. writer is held.
func (t *Table) flush() error {
	if err := t.sync(); err != nil {
		return err
	}
	ids := slices.Sorted(maps.Keys(t.pending))
	if err := writeRuns(t.rows, ids, t.size, func(id uint64) []byte { return t.pending[id] }); err != nil {
		return t.fail("write rows", err)
	}
	numbers := slices.Sorted(maps.Keys(t.pendingPage))
	if err := writeRuns(t.nodes, numbers, pageBytes, func(n int64) []byte { return t.pendingPage[n][:] }); err != nil {
		return t.fail("write nodes", err)
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	clear(t.pending)
	clear(t.pendingPage)
	return nil
}

// writeRuns writes pieces of one size at their numbers, those side by side at once.
func writeRuns[N uint64 | int64](w io.WriterAt, numbers []N, size int, piece func(N) []byte) error {
	var buf []byte
	for i := 0; i < len(numbers); {
		run := 1
		for i+run < len(numbers) && numbers[i+run] == numbers[i]+N(run) && run*size < 1<<20 {
			run++
		}
		b := piece(numbers[i])
		if run > 1 {
			buf = buf[:0]
			for j := range run {
				buf = append(buf, piece(numbers[i+j])...)
			}
			b = buf
		}
		if _, err := w.WriteAt(b, int64(numbers[i])*int64(size)); err != nil {
			return err
		}
		i += run
	}
	return nil
}

// checkpoint makes rows and nodes durable and empties the journal. Nothing is
// pending. writer is held.
func (t *Table) checkpoint() error {
	if err := t.rows.Sync(); err != nil {
		return t.fail("sync rows", err)
	}
	if err := t.nodes.Sync(); err != nil {
		return t.fail("sync nodes", err)
	}
	if err := writeCheckpoint(t.head, 3-t.slot, t.state); err != nil {
		return t.fail("write checkpoint", err)
	}
	if err := t.head.Sync(); err != nil {
		return t.fail("sync head", err)
	}
	t.slot = 3 - t.slot
	if err := t.journal.Truncate(0); err != nil {
		return t.fail("empty journal", err)
	}
	t.journalEnd = 0
	return nil
}

// Close makes all commits durable and closes the files. Snapshots end.
func (t *Table) Close() error {
	t.writer.Lock()
	defer t.writer.Unlock()
	err := t.broken
	if err == nil && !t.readOnly && t.journalEnd > 0 {
		if err = t.flush(); err == nil {
			err = t.checkpoint()
		}
	}
	if t.broken == nil {
		t.broken = fs.ErrClosed
	}
	for _, f := range []File{t.head, t.rows, t.nodes, t.journal, t.undo} {
		if f != nil {
			err = errors.Join(err, f.Close())
		}
	}
	return errors.Join(err, t.release())
}
