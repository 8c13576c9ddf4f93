// Package store keeps model files by content. A model's bytes lie once, in a
// file named by their SHA-256; names point to it.
//
//	blobs/<sha-256, 64 hex digits>   the bytes, read only
//	names/<name, escaped>.json       one Model each: the index
//	partial/<key>.part, .json, .lock a copy under way, and how far it is known good
//	ghosts/<sha-256>.ghost, …        what others derived from the bytes; goes with them
//	lock                             held while blobs or names change
//
// A model becomes visible in one step, the rename of its index entry, after its
// bytes were hashed, read back, parsed and synced. So a process that is killed
// at any point leaves either nothing to see or a whole model, and the next Add
// of the same source goes on where the last checkpoint lies. Any number of
// processes may use one directory; locks are advisory and end with their process.
//
// The store does not fetch: a Source says how to read bytes from an offset.
package store

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/geistnet/geist/internal/gguf"
)

// Model is one name of the index.
type Model struct {
	Version int       `json:"version"` // of this format: 1
	Name    string    `json:"name"`
	SHA256  string    `json:"sha256"` // 64 lower-case hex digits
	Bytes   int64     `json:"bytes"`
	Added   time.Time `json:"added"`
	Source  string    `json:"source,omitempty"` // where it came from, for people
}

const indexVersion = 1

var (
	// ErrNotFound means that a reference names no model; list the models or add one.
	ErrNotFound = errors.New("no such model")
	// ErrNameTaken means that a name points to other bytes already; remove it or take another name.
	ErrNameTaken = errors.New("the name belongs to another model")
	// ErrBroken means that the stored bytes are not those that were added; remove the model and add it again.
	ErrBroken = errors.New("the stored file is damaged")
)

// Store is an open directory. Its methods may be called from several goroutines.
type Store struct {
	dir string
	opt Options
}

// Options are what a Store takes from the world; the zero value is the usual.
type Options struct {
	Now   func() time.Time        // time.Now if nil
	Check func(path string) error // whether a file is a model; gguf.Open if nil

	every int64                                      // bytes between two checkpoints; 64 MiB if 0
	open  func(path string) (partFile, error)        // opens or creates a partial file; tests inject faults
	at    func(step string)                          // called before each step that changes the disk; tests stop there
	free  func(dir string) (bytes int64, known bool) // space for files in dir
}

// DefaultDir is where models lie for this user: "models" in $GEIST_HOME if
// that is set, or else in "geist" in the XDG data directory.
func DefaultDir(getenv func(string) string) (string, error) {
	if home := getenv("GEIST_HOME"); home != "" {
		return filepath.Abs(filepath.Join(home, "models"))
	}
	// The XDG specification says that a relative path is to be ignored.
	if data := getenv("XDG_DATA_HOME"); filepath.IsAbs(data) {
		return filepath.Join(data, "geist", "models"), nil
	}
	home := getenv("HOME")
	if home == "" {
		home = getenv("USERPROFILE")
	}
	if home == "" {
		return "", errors.New("neither GEIST_HOME nor HOME is set; set GEIST_HOME to the directory that shall hold the models")
	}
	return filepath.Join(home, ".local", "share", "geist", "models"), nil
}

// Open uses dir, which is made with the first model if it does not exist.
func Open(dir string, opt Options) (*Store, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, fmt.Errorf("model store: %w", err)
	}
	if fi, err := os.Stat(dir); err == nil && !fi.IsDir() {
		return nil, fmt.Errorf("model store: %s is not a directory", dir)
	}
	if opt.Now == nil {
		opt.Now = time.Now
	}
	if opt.Check == nil {
		opt.Check = checkGGUF
	}
	if opt.every == 0 {
		opt.every = 64 << 20
	}
	if opt.open == nil {
		opt.open = openPart
	}
	if opt.at == nil {
		opt.at = func(string) {}
	}
	if opt.free == nil {
		opt.free = freeBytes
	}
	return &Store{dir, opt}, nil
}

func checkGGUF(path string) error {
	f, err := gguf.Open(path)
	if err != nil {
		return err
	}
	return f.Close()
}

// Dir is the absolute path of the store.
func (s *Store) Dir() string { return s.dir }

// Ghosts is the directory of files that are made from the models, which need not
// exist. The last Remove of a model takes those with it whose names are the
// model's SHA-256, a point and anything.
func (s *Store) Ghosts() string { return filepath.Join(s.dir, "ghosts") }

func (s *Store) blobs() string             { return filepath.Join(s.dir, "blobs") }
func (s *Store) names() string             { return filepath.Join(s.dir, "names") }
func (s *Store) partial() string           { return filepath.Join(s.dir, "partial") }
func (s *Store) blob(sha256 string) string { return filepath.Join(s.blobs(), sha256) }

// entry is the index file of a name. Names that differ only in case share one,
// so that a store means the same on every file system.
func (s *Store) entry(name string) string {
	return filepath.Join(s.names(), url.QueryEscape(strings.ToLower(name))+".json")
}

// Path is where m's bytes lie. The file must not be written.
func (s *Store) Path(m Model) string { return s.blob(m.SHA256) }

const maxName = 128

// CheckName says why name cannot name a model, or nil: 1 to 128 letters,
// digits and . _ - : of ASCII, of which the first is a letter or digit, and not
// ending in .gguf, which is a file's.
func CheckName(name string) error {
	if name == "" || len(name) > maxName {
		return fmt.Errorf("a model's name has 1 to %d characters, not %d", maxName, len(name))
	}
	for i, r := range name {
		alnum := r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9'
		if !alnum && (i == 0 || !strings.ContainsRune("._-:", r)) {
			return fmt.Errorf("the name %q: character %q at %d is not allowed; use letters, digits and . _ - : and begin with a letter or digit", name, r, i)
		}
	}
	if strings.HasSuffix(strings.ToLower(name), ".gguf") {
		return fmt.Errorf("the name %q ends in .gguf like a file; leave that out", name)
	}
	return nil
}

// NameFor proposes a name for a file: its base name without .gguf, with the
// characters that CheckName refuses replaced by "-".
func NameFor(path string) string {
	name := filepath.Base(path)
	if ext := filepath.Ext(name); strings.EqualFold(ext, ".gguf") {
		name = strings.TrimSuffix(name, ext)
	}
	name = strings.Map(func(r rune) rune {
		if CheckName("x"+string(r)) != nil {
			return '-'
		}
		return r
	}, name)
	name = strings.TrimLeft(name, "._-:")
	name = name[:min(len(name), maxName)]
	if CheckName(name) != nil {
		return "model"
	}
	return name
}

// List gives every model, ordered by name. An index entry that cannot be read
// is an error: nothing is hidden.
func (s *Store) List() ([]Model, error) {
	files, err := os.ReadDir(s.names())
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("list models: %w", err)
	}
	var models []Model
	for _, f := range files {
		if !strings.HasSuffix(f.Name(), ".json") {
			continue // an entry being written
		}
		m, err := readEntry(filepath.Join(s.names(), f.Name()))
		if errors.Is(err, fs.ErrNotExist) {
			continue // removed since
		}
		if err != nil {
			return nil, fmt.Errorf("list models: %w", err)
		}
		models = append(models, m)
	}
	slices.SortFunc(models, func(a, b Model) int { return strings.Compare(a.Name, b.Name) })
	return models, nil
}

func readEntry(file string) (Model, error) {
	var m Model
	b, err := os.ReadFile(file)
	if err != nil {
		return m, err
	}
	if err := json.Unmarshal(b, &m); err != nil {
		return m, fmt.Errorf("index entry %s: %w", file, err)
	}
	if m.Version != indexVersion {
		return m, fmt.Errorf("index entry %s has version %d, and this program knows %d", file, m.Version, indexVersion)
	}
	if CheckName(m.Name) != nil || !isSHA256(m.SHA256) || m.Bytes < 0 {
		return m, fmt.Errorf("index entry %s: the name, hash or size in it is not valid", file)
	}
	return m, nil
}

func isSHA256(s string) bool {
	b, err := hex.DecodeString(s)
	return err == nil && len(b) == 32 && strings.ToLower(s) == s
}

// Get finds a model by its name, whatever the case of its letters.
func (s *Store) Get(name string) (Model, error) {
	if err := CheckName(name); err != nil {
		return Model{}, fmt.Errorf("%w: %w", ErrNotFound, err)
	}
	m, err := readEntry(s.entry(name))
	if errors.Is(err, fs.ErrNotExist) {
		return m, fmt.Errorf("%w: %s", ErrNotFound, name)
	}
	if err != nil {
		return m, fmt.Errorf("find model %s: %w", name, err)
	}
	return m, nil
}

const (
	hashScheme = "sha256:"
	minPrefix  = 6 // hex digits that may stand for a hash
)

// Resolve finds what a person means by ref: the name of a model, at least 6
// leading hex digits of a hash (after "sha256:" if a name stands in the way),
// or the path of a .gguf file outside of the store. It gives the path of the
// file and the model, which is nil for a path.
func (s *Store) Resolve(ref string) (path string, m *Model, err error) {
	if strings.ContainsAny(ref, `/\`) || strings.HasSuffix(strings.ToLower(ref), ".gguf") {
		fi, err := os.Stat(ref)
		if err != nil {
			return "", nil, fmt.Errorf("model file: %w", err)
		}
		if !fi.Mode().IsRegular() {
			return "", nil, fmt.Errorf("model file %s is not a regular file; give the .gguf file itself", ref)
		}
		return ref, nil, nil
	}
	found, err := s.find(ref)
	if err != nil {
		return "", nil, err
	}
	if _, err := os.Stat(s.Path(found)); err != nil {
		return "", nil, fmt.Errorf("model %s: %w: %w", found.Name, ErrBroken, err)
	}
	return s.Path(found), &found, nil
}

func (s *Store) find(ref string) (Model, error) {
	m, err := s.Get(ref)
	if !errors.Is(err, ErrNotFound) {
		return m, err
	}
	models, err := s.List()
	if err != nil {
		return Model{}, err
	}
	prefix := strings.ToLower(strings.TrimPrefix(ref, hashScheme))
	var hits []Model
	if len(prefix) >= minPrefix && strings.Trim(prefix, "0123456789abcdef") == "" {
		for _, m := range models {
			if strings.HasPrefix(m.SHA256, prefix) && (len(hits) == 0 || hits[0].SHA256 != m.SHA256) {
				hits = append(hits, m)
			}
		}
	}
	switch len(hits) {
	case 1:
		return hits[0], nil
	case 0:
		return Model{}, fmt.Errorf("%w: %q is not among the %d models in %s, and no file of this name ends in .gguf", ErrNotFound, ref, len(models), s.dir)
	}
	return Model{}, fmt.Errorf("%w: the hash %s is the beginning of %d models, %s and %s among them; give more digits", ErrNotFound, prefix, len(hits), hits[0].Name, hits[1].Name)
}

// Remove takes a name away, and the bytes with it if no other name points to
// them; freed counts those. An index entry that cannot be read is removed too.
func (s *Store) Remove(ctx context.Context, name string) (freed int64, err error) {
	if _, err := s.Get(name); errors.Is(err, ErrNotFound) {
		return 0, err // and make no directory for it
	}
	unlock, err := s.lock(ctx)
	if err != nil {
		return 0, err
	}
	defer unlock()
	m, err := s.Get(name)
	if errors.Is(err, ErrNotFound) {
		return 0, err
	}
	s.opt.at("remove the entry")
	if err := os.Remove(s.entry(name)); err != nil {
		return 0, fmt.Errorf("remove model %s: %w", name, err)
	}
	if err := syncDir(s.names()); err != nil {
		return 0, fmt.Errorf("remove model %s: %w", name, err)
	}
	if err := s.sweep(); err != nil {
		return 0, fmt.Errorf("remove model %s: %w", name, err)
	}
	if _, err := os.Stat(s.Path(m)); m.SHA256 != "" && errors.Is(err, fs.ErrNotExist) {
		freed = m.Bytes
	}
	return freed, nil
}

// sweep removes the blobs that no name points to, and what was made from them:
// those of removed names, and those of processes that were killed between the
// two renames. Needs the lock.
func (s *Store) sweep() error {
	models, err := s.List()
	if err != nil {
		return err
	}
	for _, dir := range []string{s.Ghosts(), s.blobs()} {
		files, err := os.ReadDir(dir)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		for _, f := range files {
			sha256 := f.Name()
			if dir == s.Ghosts() {
				sha256, _, _ = strings.Cut(sha256, ".")
			}
			used := slices.ContainsFunc(models, func(m Model) bool { return m.SHA256 == sha256 })
			if used || !isSHA256(sha256) {
				continue
			}
			s.opt.at("remove a blob")
			if err := os.Remove(filepath.Join(dir, f.Name())); err != nil {
				return err
			}
		}
	}
	return nil
}

// lock makes the store's directories and takes its lock.
func (s *Store) lock(ctx context.Context) (unlock func(), err error) {
	for _, d := range []string{s.blobs(), s.names(), s.partial()} {
		if err := os.MkdirAll(d, 0o777); err != nil {
			return nil, fmt.Errorf("model store: %w", err)
		}
	}
	return lockFile(ctx, filepath.Join(s.dir, "lock"))
}

// Free tells how many bytes may still be written in dir, which must exist.
func Free(dir string) (bytes int64, known bool) { return freeBytes(dir) }
