package rowstore

import (
	"errors"
	"io"
	"io/fs"
	"maps"
	"math/rand/v2"
	"slices"
)

var errInjected = errors.New("injected")

// fault is how the operation with a number fails.
type fault int

const (
	notDone fault = iota // and reported
	unseen               // done, but reported as failed
	torn                 // half done, and reported; only of writes
	faults
)

// memory is a directory that forgets what was not synced and fails on command.
type memory struct {
	files   map[string]*memoryFile
	ops     int // that change something, so far
	failAt  int // number of the one that fails; below 0: none
	how     fault
	stopped bool // the process is dead: everything fails
	hit     bool
	synced  bool // names are durable
}

// change is a write that was not synced, or with data nil a truncation.
type change struct {
	at   int64
	data []byte
}

type memoryFile struct {
	m       *memory
	disk    []byte // durable
	view    []byte // what reads see
	changes []change
}

func newMemory() *memory { return &memory{files: map[string]*memoryFile{}, failAt: -1} }

func (m *memory) Open(name string, create bool) (File, error) {
	f := m.files[name]
	if f == nil {
		if !create {
			return nil, fs.ErrNotExist
		}
		f = &memoryFile{m: m}
		m.files[name] = f
	}
	return f, nil
}

func (m *memory) Lock(bool) (func() error, error) { return func() error { return nil }, nil }

func (m *memory) Sync() error {
	return m.op(false, func() { m.synced = true }, nil)
}

// op does one changing operation, or fails as told, after which all fail.
func (m *memory) op(tears bool, do, half func()) error {
	if m.stopped {
		return errInjected
	}
	n := m.ops
	m.ops++
	if n != m.failAt {
		do()
		return nil
	}
	m.hit = true
	switch {
	case m.how == unseen:
		do()
	case m.how == torn && tears:
		half()
	}
	return errInjected
}

func apply(b []byte, c change) []byte {
	if c.data == nil {
		if int64(len(b)) > c.at {
			return b[:c.at:c.at]
		}
		return append(b, make([]byte, c.at-int64(len(b)))...)
	}
	if end := c.at + int64(len(c.data)); int64(len(b)) < end {
		b = append(b, make([]byte, end-int64(len(b)))...)
	}
	copy(b[c.at:], c.data)
	return b
}

func (f *memoryFile) change(c change) {
	f.changes = append(f.changes, c)
	f.view = apply(f.view, c)
}

func (f *memoryFile) ReadAt(b []byte, at int64) (int, error) {
	if at >= int64(len(f.view)) {
		return 0, io.EOF
	}
	n := copy(b, f.view[at:])
	if n < len(b) {
		return n, io.EOF
	}
	return n, nil
}

func (f *memoryFile) WriteAt(b []byte, at int64) (int, error) {
	c := change{at, append([]byte{}, b...)}
	err := f.m.op(true, func() { f.change(c) }, func() { f.change(change{at, c.data[:len(c.data)/2]}) })
	if err != nil {
		return 0, err
	}
	return len(b), nil
}

func (f *memoryFile) Truncate(size int64) error {
	return f.m.op(false, func() { f.change(change{size, nil}) }, nil)
}

func (f *memoryFile) Sync() error {
	return f.m.op(false, func() { f.disk, f.changes = slices.Clone(f.view), nil }, nil)
}

func (f *memoryFile) Size() (int64, error) { return int64(len(f.view)), nil }
func (f *memoryFile) Close() error         { return nil }

// copyOf is the directory as another process finds it after this one was killed.
func (m *memory) copyOf() *memory {
	out := newMemory()
	for name, f := range m.files {
		out.files[name] = &memoryFile{m: out, disk: slices.Clone(f.disk), view: slices.Clone(f.view), changes: slices.Clone(f.changes)}
	}
	return out
}

// afterPowerCut is the directory after the machine lost power: of what was not synced, each
// change reached the disk or did not or, if it is a write, in part, as r draws;
// nil loses all of them.
func (m *memory) afterPowerCut(r *rand.Rand) *memory {
	out := newMemory()
	for _, name := range slices.Sorted(maps.Keys(m.files)) {
		f := m.files[name]
		disk := slices.Clone(f.disk)
		for _, c := range f.changes {
			if r == nil {
				continue
			}
			switch r.IntN(3) {
			case 0:
				disk = apply(disk, c)
			case 1:
				if c.data != nil { // sectors of one write arrive in any order
					const sector = 512
					for at := 0; at < len(c.data); at += sector {
						if r.IntN(2) == 0 {
							disk = apply(disk, change{c.at + int64(at), c.data[at:min(at+sector, len(c.data))]})
						}
					}
				}
			}
		}
		out.files[name] = &memoryFile{m: out, disk: disk, view: slices.Clone(disk)}
	}
	return out
}
