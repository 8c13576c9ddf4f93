package rowstore

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"github.com/geistnet/geist/arith"
	"github.com/geistnet/geist/merkle"
	"github.com/geistnet/geist/sat"
)

const (
	blockBytes = 4096 // of the file head
	tableMagic = "sattable"
	checkMagic = "satcheck"
	entryMagic = "satentry"
	entryHead  = 8 + 8 + 32 + 32 + 4 + 4
	sumBytes   = sha256.Size
)

// sealed appends the SHA-256 of b to it.
func sealed(b []byte) []byte {
	sum := sha256.Sum256(b)
	return append(b, sum[:]...)
}

// unsealed is what sealed made b of, or nil.
func unsealed(b []byte) []byte {
	if len(b) < sumBytes {
		return nil
	}
	content := b[:len(b)-sumBytes]
	if sha256.Sum256(content) != [sumBytes]byte(b[len(content):]) {
		return nil
	}
	return content
}

func encodeShape(s sat.Shape) []byte {
	le := binary.LittleEndian
	b := le.AppendUint32([]byte(tableMagic), 1)
	b = le.AppendUint64(b, s.Rows)
	b = le.AppendUint32(b, uint32(s.Format))
	b = le.AppendUint32(b, uint32(s.Dim))
	var moments uint32
	if s.Moments {
		moments = 1
	}
	return sealed(le.AppendUint32(b, moments))
}

// readHead reads the shape of a table and its last checkpoint.
func readHead(f File) (sat.State, error) {
	b := make([]byte, 3*blockBytes)
	n, err := f.ReadAt(b, 0)
	if err != nil && !errors.Is(err, io.EOF) {
		return sat.State{}, fmt.Errorf("read head: %w", err)
	}
	le := binary.LittleEndian
	c := unsealed(b[:8+4+8+4+4+4+sumBytes])
	if n < len(b) || c == nil || string(c[:8]) != tableMagic {
		return sat.State{}, ErrNoTable
	}
	if v := le.Uint32(c[8:]); v != 1 {
		return sat.State{}, fmt.Errorf("table of version %d, this program knows 1", v)
	}
	shape := sat.Shape{Rows: le.Uint64(c[12:]), Format: arith.Format(le.Uint32(c[20:])), Dim: int(le.Uint32(c[24:])), Moments: le.Uint32(c[28:]) != 0}
	if err := shape.Valid(); err != nil {
		return sat.State{}, err
	}
	s, found := sat.State{Shape: shape}, false
	for i := 1; i <= 2; i++ {
		c := unsealed(b[i*blockBytes : i*blockBytes+48+sumBytes])
		if c == nil || string(c[:8]) != checkMagic {
			continue
		}
		if commit := le.Uint64(c[8:]); !found || commit > s.Commit {
			s.Commit, s.Root, found = commit, merkle.Hash(c[16:]), true
		}
	}
	if !found {
		return sat.State{}, fmt.Errorf("%w: neither checkpoint in head is whole", ErrCorrupt)
	}
	return s, nil
}

// writeCheckpoint writes the block that the one before did not write, so that one
// of them is always whole. slot is 1 or 2.
func writeCheckpoint(f File, slot int, s sat.State) error {
	b := binary.LittleEndian.AppendUint64([]byte(checkMagic), s.Commit)
	_, err := f.WriteAt(sealed(append(b, s.Root[:]...)), int64(slot)*blockBytes)
	return err
}

// slotOf finds the block that holds the checkpoint of a commit.
func slotOf(f File, commit uint64) (int, error) {
	for slot := 1; slot <= 2; slot++ {
		b := make([]byte, 48+sumBytes)
		if _, err := f.ReadAt(b, int64(slot)*blockBytes); err != nil {
			return 0, fmt.Errorf("read head: %w", err)
		}
		if c := unsealed(b); c != nil && binary.LittleEndian.Uint64(c[8:]) == commit {
			return slot, nil
		}
	}
	return 0, fmt.Errorf("%w: checkpoint of commit %d vanished", ErrCorrupt, commit)
}

// encodeEntry makes a journal entry (docs/spec/sat.md §3).
func encodeEntry(commit uint64, before, after merkle.Hash, ids []uint64, records []byte) []byte {
	le := binary.LittleEndian
	b := make([]byte, 0, entryHead+8*len(ids)+len(records)+sumBytes)
	b = le.AppendUint64(append(b, entryMagic...), commit)
	b = append(append(b, before[:]...), after[:]...)
	b = le.AppendUint32(b, uint32(len(ids)))
	b = le.AppendUint32(b, 0)
	for _, id := range ids {
		b = le.AppendUint64(b, id)
	}
	return sealed(append(b, records...))
}

// entry is a commit in the journal.
type entry struct {
	commit        uint64
	before, after merkle.Hash
	ids           []uint64
	records       []byte
}

// readEntry reads the entry at offset; size is that of the file. It is nil,
// without an error, if there is no whole one.
func readEntry(f io.ReaderAt, offset, size int64, shape sat.Shape) (e *entry, next int64, err error) {
	head := make([]byte, entryHead)
	if size-offset < entryHead {
		return nil, 0, nil
	}
	if _, err := f.ReadAt(head, offset); err != nil {
		return nil, 0, fmt.Errorf("read journal at %d: %w", offset, err)
	}
	le := binary.LittleEndian
	k := int64(le.Uint32(head[80:]))
	length := entryHead + k*int64(8+shape.RecordBytes()) + sumBytes
	if string(head[:8]) != entryMagic || k < 1 || k > sat.MaxChanged || le.Uint32(head[84:]) != 0 || length > size-offset {
		return nil, 0, nil
	}
	all := make([]byte, length)
	if _, err := f.ReadAt(all, offset); err != nil {
		return nil, 0, fmt.Errorf("read journal at %d: %w", offset, err)
	}
	c := unsealed(all)
	if c == nil {
		return nil, 0, nil
	}
	e = &entry{commit: le.Uint64(c[8:]), before: merkle.Hash(c[16:]), after: merkle.Hash(c[48:]), ids: make([]uint64, k), records: c[entryHead+8*k:]}
	for i := range e.ids {
		e.ids[i] = le.Uint64(c[entryHead+8*i:])
		if e.ids[i] >= shape.Rows || i > 0 && e.ids[i] <= e.ids[i-1] {
			return nil, 0, nil
		}
	}
	return e, offset + length, nil
}
