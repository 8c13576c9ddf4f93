package pay

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"iter"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
)

// Journal is a small map from keys to values that survives a kill at any moment.
// Each Put is in one record, appended and synced before Put returns, so
// it is there whole or not at all. Puts that come while a record is being written
// share the next one, and so its sync. All of it is held in memory.
//
// The file "journal" begins with a magic of 8 bytes. A record is
//
//	length of the body u32 | CRC-32C of the body u32 | body
//
// and a body is puts, each: length of the key u16 | key | length of the value u32 | value.
// An empty value removes the key. Integers are little-endian.
//
// Only the last record can be torn, because each was synced before the next was written.
// OpenJournal cuts a torn one off; a damaged record with whole ones behind it is not torn, and is
// an error that a person has to look at: a balance must not fall silently.
//
// Compaction writes all keys to a second file, syncs it and renames it over the first.
type Journal struct {
	dir    string
	unlock func()
	hook   func(step string)

	disk  sync.Mutex // held while the file changes; before mu
	file  *os.File   // nil in memory; disk
	size  int64      // of the file; disk
	small int64      // file size after the last compaction; disk

	mu   sync.Mutex
	next *batch // what the next record will hold; nil: nothing yet; mu
	live map[string][]byte
	err  error // after a fault nothing more is written; mu
}

// batch is the Puts of one record. The first of them writes it; the others wait.
type batch struct {
	entries []Entry
	bytes   int // about what they take
	done    chan struct{}
	err     error // valid when done is closed
}

const (
	journalMagic   = "geistjr\x01"
	maxRecord      = 32 << 20
	maxKey         = 256
	maxBatch       = 1 << 20 // bytes of Puts that share a record
	compactAtLeast = 1 << 20 // bytes
)

// ErrHeld means that another process has the journal open; ask that process, or end it.
var ErrHeld = errors.New("another process holds it")

// Entry is one change. A nil Value removes the key.
type Entry struct {
	Key   string // 1 to 256 bytes
	Value []byte
}

// OpenJournal opens the journal in dir, or makes one. One process at a time may hold it; the lock
// ends with the process.
func OpenJournal(dir string) (*Journal, error) { return openJournal(dir, func(string) {}) }

// NewMemoryJournal is a journal that ends with the process.
func NewMemoryJournal() *Journal {
	return &Journal{live: map[string][]byte{}, unlock: func() {}, hook: func(string) {}}
}

func openJournal(dir string, hook func(string)) (*Journal, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("open journal: %w", err)
	}
	unlock, err := lockFile(filepath.Join(dir, "lock"))
	if err != nil {
		return nil, fmt.Errorf("open journal: %w", err)
	}
	j := &Journal{dir: dir, live: map[string][]byte{}, unlock: unlock, hook: hook}
	if err := j.load(); err != nil {
		if j.file != nil {
			j.file.Close()
		}
		unlock()
		return nil, fmt.Errorf("open journal %s: %w", j.path(), err)
	}
	return j, nil
}

func (j *Journal) path() string { return filepath.Join(j.dir, "journal") }

// load reads the file, cuts off a torn end, and leaves the file open for appending.
func (j *Journal) load() error {
	// A compaction that did not come to its rename.
	if err := os.Remove(j.path() + ".new"); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	f, err := os.OpenFile(j.path(), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return err
	}
	j.file = f
	b, err := io.ReadAll(f)
	if err != nil {
		return err
	}
	good, err := replay(b, j.apply)
	if err != nil {
		return err
	}
	if good < len(b) {
		if err := f.Truncate(int64(good)); err != nil {
			return err
		}
	}
	if _, err := f.Seek(int64(good), io.SeekStart); err != nil {
		return err
	}
	if good == 0 {
		if _, err := f.Write([]byte(journalMagic)); err != nil {
			return err
		}
		good = len(journalMagic)
	}
	if err := f.Sync(); err != nil {
		return err
	}
	if err := syncDir(j.dir); err != nil {
		return err
	}
	j.size, j.small = int64(good), int64(good)
	return nil
}

func crc(b []byte) uint32 { return crc32.Checksum(b, crc32.MakeTable(crc32.Castagnoli)) }

// record reads the record at the beginning of b: its body, or nil if there is no whole one.
func record(b []byte) []byte {
	if len(b) < 8 {
		return nil
	}
	n := uint64(binary.LittleEndian.Uint32(b))
	if n == 0 || n > maxRecord || n > uint64(len(b)-8) {
		return nil
	}
	body := b[8 : 8+n]
	if crc(body) != binary.LittleEndian.Uint32(b[4:]) {
		return nil
	}
	return body
}

// replay applies all records and gives the length of what is good. Behind that may be a torn record.
func replay(b []byte, apply func([]Entry)) (good int, err error) {
	if len(b) < len(journalMagic) {
		if !strings.HasPrefix(journalMagic, string(b)) && strings.Trim(string(b), "\x00") != "" {
			return 0, fmt.Errorf("it begins with %q and not with %q", b, journalMagic)
		}
		return 0, nil // killed while the file was made
	}
	if string(b[:8]) != journalMagic {
		if strings.Trim(string(b), "\x00") == "" && len(b) == len(journalMagic) {
			return 0, nil
		}
		return 0, fmt.Errorf("it begins with %q and not with %q", b[:8], journalMagic)
	}
	at := len(journalMagic)
	for at < len(b) {
		body := record(b[at:])
		if body == nil {
			if len(b)-at > maxRecord+8 {
				return 0, fmt.Errorf("the record at byte %d is damaged, and more follows than one record", at)
			}
			for p := at + 1; p < len(b); p++ {
				if record(b[p:]) != nil {
					return 0, fmt.Errorf("the record at byte %d is damaged, and a whole one follows at %d", at, p)
				}
			}
			return at, nil
		}
		entries, err := decodeEntries(body)
		if err != nil {
			return 0, fmt.Errorf("the record at byte %d: %w", at, err)
		}
		apply(entries)
		at += 8 + len(body)
	}
	return at, nil
}

func decodeEntries(b []byte) ([]Entry, error) {
	var out []Entry
	for len(b) > 0 {
		if len(b) < 2 {
			return nil, errors.New("a key's length is cut")
		}
		n := int(binary.LittleEndian.Uint16(b))
		if n == 0 || n > maxKey || len(b) < 6+n {
			return nil, fmt.Errorf("a key of %d bytes in the %d that are left", n, len(b))
		}
		key := string(b[2 : 2+n])
		b = b[2+n:]
		v := uint64(binary.LittleEndian.Uint32(b))
		b = b[4:]
		if v > uint64(len(b)) {
			return nil, fmt.Errorf("a value of %d bytes in the %d that are left", v, len(b))
		}
		e := Entry{Key: key}
		if v > 0 {
			e.Value = slices.Clone(b[:v])
		}
		out, b = append(out, e), b[v:]
	}
	return out, nil
}

// encodeRecord is the record of some entries.
func encodeRecord(entries []Entry) ([]byte, error) {
	b := make([]byte, 8)
	for _, e := range entries {
		if len(e.Key) < 1 || len(e.Key) > maxKey || len(e.Value) > maxRecord {
			return nil, fmt.Errorf("journal: a key of %d and a value of %d bytes", len(e.Key), len(e.Value))
		}
		b = binary.LittleEndian.AppendUint16(b, uint16(len(e.Key)))
		b = append(b, e.Key...)
		b = binary.LittleEndian.AppendUint32(b, uint32(len(e.Value)))
		b = append(b, e.Value...)
	}
	if len(b) == 8 || len(b) > maxRecord {
		return nil, fmt.Errorf("journal: a record of %d bytes", len(b))
	}
	binary.LittleEndian.PutUint32(b, uint32(len(b)-8))
	binary.LittleEndian.PutUint32(b[4:], crc(b[8:]))
	return b, nil
}

func (j *Journal) apply(entries []Entry) {
	for _, e := range entries {
		if len(e.Value) == 0 {
			delete(j.live, e.Key)
		} else {
			j.live[e.Key] = e.Value
		}
	}
}

// Put makes all the entries durable, or none. After an error the journal takes
// no more: what is on the disk is then unknown, and opening it again finds out.
func (j *Journal) Put(entries ...Entry) error {
	own := make([]Entry, len(entries))
	for i, e := range entries {
		own[i] = Entry{e.Key, slices.Clone(e.Value)}
	}
	// What cannot be kept is refused before it shares a record with others.
	b, err := encodeRecord(own)
	if err != nil {
		return err
	}
	j.mu.Lock()
	if j.err != nil {
		defer j.mu.Unlock()
		return j.err
	}
	if j.dir == "" {
		defer j.mu.Unlock()
		j.apply(own)
		return nil
	}
	g := j.next
	first := g == nil || g.bytes+len(b) > maxBatch
	if first {
		g = &batch{done: make(chan struct{})}
		j.next = g
	}
	g.entries, g.bytes = append(g.entries, own...), g.bytes+len(b)
	j.mu.Unlock()
	if !first {
		<-g.done
		return g.err
	}
	j.disk.Lock() // meanwhile others may join
	defer j.disk.Unlock()
	j.mu.Lock()
	if j.next == g {
		j.next = nil
	}
	g.err = j.err
	j.mu.Unlock()
	defer close(g.done)
	if g.err == nil {
		g.err = j.append(g.entries)
	}
	return g.err
}

// append writes entries as one record and then applies them. j.disk is held.
func (j *Journal) append(entries []Entry) error {
	b, err := encodeRecord(entries)
	if err == nil {
		err = j.write(b)
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	if err != nil {
		j.err = fmt.Errorf("write journal: %w", err)
		return j.err
	}
	j.size += int64(len(b))
	j.apply(entries)
	if j.size > compactAtLeast && j.size > 4*j.small {
		return j.compact()
	}
	return nil
}

func (j *Journal) write(b []byte) error {
	j.hook("before")
	half := len(b) / 2
	if _, err := j.file.Write(b[:half]); err != nil {
		return err
	}
	j.hook("torn")
	if _, err := j.file.Write(b[half:]); err != nil {
		return err
	}
	j.hook("written")
	if err := j.file.Sync(); err != nil {
		return err
	}
	j.hook("synced")
	return nil
}

// Get is the value of a key, nil if there is none. It belongs to the caller.
func (j *Journal) Get(key string) []byte {
	j.mu.Lock()
	defer j.mu.Unlock()
	return slices.Clone(j.live[key])
}

// All gives the keys that begin with prefix, in order, with their values, as
// they are now.
func (j *Journal) All(prefix string) iter.Seq2[string, []byte] {
	j.mu.Lock()
	defer j.mu.Unlock()
	var keys []string
	for k := range j.live {
		if strings.HasPrefix(k, prefix) {
			keys = append(keys, k)
		}
	}
	slices.Sort(keys)
	values := make([][]byte, len(keys))
	for i, k := range keys {
		values[i] = slices.Clone(j.live[k])
	}
	return func(yield func(string, []byte) bool) {
		for i, k := range keys {
			if !yield(k, values[i]) {
				return
			}
		}
	}
}

// Compact rewrites the file with what is live. Put does it too when the file has grown.
func (j *Journal) Compact() error {
	j.disk.Lock()
	defer j.disk.Unlock()
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.err != nil || j.file == nil {
		return j.err
	}
	return j.compact()
}

// compact needs j.disk and j.mu.
func (j *Journal) compact() error {
	err := func() error {
		f, err := os.OpenFile(j.path()+".new", os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
		if err != nil {
			return err
		}
		size := int64(len(journalMagic))
		if _, err := f.WriteString(journalMagic); err != nil {
			return errors.Join(err, f.Close())
		}
		j.hook("compact begun")
		for _, k := range slices.Sorted(maps.Keys(j.live)) {
			b, err := encodeRecord([]Entry{{k, j.live[k]}})
			if err == nil {
				_, err = f.Write(b)
			}
			if err != nil {
				return errors.Join(err, f.Close())
			}
			size += int64(len(b))
		}
		j.hook("compact written")
		if err := f.Sync(); err != nil {
			return errors.Join(err, f.Close())
		}
		j.hook("compact synced")
		if err := f.Close(); err != nil {
			return err
		}
		// The old file is closed first: Windows renames over no open file.
		if err := j.file.Close(); err != nil {
			return err
		}
		if err := os.Rename(j.path()+".new", j.path()); err != nil {
			return err
		}
		j.hook("compact renamed")
		if err := syncDir(j.dir); err != nil {
			return err
		}
		if j.file, err = os.OpenFile(j.path(), os.O_WRONLY|os.O_APPEND, 0o600); err != nil {
			return err
		}
		j.size, j.small = size, size
		return nil
	}()
	if err != nil {
		j.err = fmt.Errorf("compact journal: %w", err)
	}
	return j.err
}

// Close gives the journal free. It may be called again.
func (j *Journal) Close() error {
	j.disk.Lock()
	defer j.disk.Unlock()
	j.mu.Lock()
	defer j.mu.Unlock()
	if errors.Is(j.err, ErrClosed) {
		return nil
	}
	j.err = fmt.Errorf("journal: %w", ErrClosed)
	if j.file == nil {
		return nil
	}
	err := j.file.Close()
	j.unlock()
	return err
}
