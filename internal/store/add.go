package store

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// A ProgressFunc is told how many of total bytes of a stage are done: "wait"
// (another process adds the same source), "compare" (is it here already?),
// "resume" (is the earlier part whole?), "copy" and "verify". A total of -1 is unknown. It runs on the caller's goroutine.
type ProgressFunc func(stage string, done, total int64)

// A partial copy that nobody went on with for so long is removed.
const partialLife = 24 * time.Hour

// partFile is what a copy needs of the file it writes.
type partFile interface {
	io.ReadWriteSeeker
	Truncate(size int64) error
	Sync() error
	Close() error
}

func openPart(path string) (partFile, error) {
	return os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o666)
}

// checkpoint says that the first Offset bytes of a partial file were synced
// and have this hash. What lies behind them is not trusted.
type checkpoint struct {
	ID     string `json:"id"`
	Offset int64  `json:"offset"`
	SHA256 string `json:"sha256"`
}

// copying is one Add under way; the fields do not change.
type copying struct {
	s        *Store
	src      Source
	progress ProgressFunc
	base     string // path of the partial files without their endings
}

func (c *copying) part() string  { return c.base + ".part" }
func (c *copying) state() string { return c.base + ".json" }

// Add stores the bytes of src under name and returns the model. If it is there
// already under this name, nothing is copied; the same bytes under another name
// are not stored twice. A second Add of the same source waits for the first.
//
// If ctx ends, or an error comes in the middle, the part that is there stays
// for the next Add of a source with this ID. progress may be nil.
func (s *Store) Add(ctx context.Context, src Source, name string, progress ProgressFunc) (Model, error) {
	if err := CheckName(name); err != nil {
		return Model{}, err
	}
	src.SHA256 = strings.ToLower(src.SHA256)
	if src.SHA256 != "" && !isSHA256(src.SHA256) {
		return Model{}, fmt.Errorf("add %s: %q is not a SHA-256 in hex", name, src.SHA256)
	}
	if progress == nil {
		progress = func(string, int64, int64) {}
	}
	if m, err := s.Get(name); err == nil {
		if src.Bytes >= 0 && src.Bytes != m.Bytes || src.SHA256 != "" && src.SHA256 != m.SHA256 {
			return Model{}, taken(m)
		}
	} else if !errors.Is(err, ErrNotFound) {
		return Model{}, err
	}
	unlock, err := s.lock(ctx)
	if err != nil {
		return Model{}, err
	}
	s.sweepPartials()
	unlock()

	key := rand.Text()
	if src.ID != "" {
		sum := sha256.Sum256([]byte(src.ID))
		key = hex.EncodeToString(sum[:16])
	}
	c := &copying{s, src, progress, filepath.Join(s.partial(), key)}
	unlock, err = tryLockFile(c.base + ".lock")
	if err == nil && unlock == nil {
		progress("wait", 0, -1)
		unlock, err = lockFile(ctx, c.base+".lock")
	}
	if err != nil {
		return Model{}, fmt.Errorf("add %s: %w", src.Label, err)
	}
	defer unlock()
	m, err := c.add(ctx, name)
	if err == nil || src.ID == "" {
		c.drop()
	}
	if err != nil {
		return Model{}, fmt.Errorf("add %s: %w", src.Label, err)
	}
	return m, nil
}

func taken(m Model) error {
	return fmt.Errorf("%w: %s is %s; remove it first or take another name", ErrNameTaken, m.Name, m.SHA256[:12])
}

func (c *copying) add(ctx context.Context, name string) (Model, error) {
	have, err := c.present(ctx)
	if err != nil {
		return Model{}, err
	}
	if have != "" {
		m, err := c.commit(ctx, name, have, c.src.Bytes, false)
		if !errors.Is(err, fs.ErrNotExist) {
			return m, err
		} // else it was removed this moment
	}
	sum, size, err := c.copy(ctx)
	if err != nil {
		return Model{}, err
	}
	if c.src.SHA256 != "" && sum != c.src.SHA256 {
		c.drop()
		return Model{}, fmt.Errorf("its SHA-256 is %s, not %s as expected; fetch it again", sum, c.src.SHA256)
	}
	back, err := hashFile(ctx, c.part(), func(done int64) { c.progress("verify", done, size) })
	if err != nil {
		return Model{}, err
	}
	if back != sum {
		c.drop()
		return Model{}, fmt.Errorf("%w: what was read back is not what was written; check the disk", ErrBroken)
	}
	if err := c.s.opt.Check(c.part()); err != nil {
		c.drop()
		return Model{}, fmt.Errorf("it is not a usable model: %w", err)
	}
	return c.commit(ctx, name, sum, size, true)
}

// present gives the hash of the source if these bytes are in the store, whole,
// and "" if not. It reads the source only if a blob of the same size exists.
func (c *copying) present(ctx context.Context) (string, error) {
	if c.src.Bytes < 0 || c.src.ID == "" {
		return "", nil
	}
	files, err := os.ReadDir(c.s.blobs())
	if err != nil {
		return "", err
	}
	same := false
	for _, f := range files {
		fi, err := f.Info()
		same = same || err == nil && fi.Size() == c.src.Bytes && (c.src.SHA256 == "" || c.src.SHA256 == f.Name())
	}
	if !same {
		return "", nil
	}
	sum := c.src.SHA256
	if sum == "" {
		r, err := c.src.Open(ctx, 0)
		if err != nil {
			return "", err
		}
		defer r.Close()
		h := sha256.New()
		if _, err := hashInto(ctx, h, r, func(done int64) { c.progress("compare", done, c.src.Bytes) }); err != nil {
			return "", err
		}
		sum = hex.EncodeToString(h.Sum(nil))
	}
	stored, err := hashFile(ctx, c.s.blob(sum), func(done int64) { c.progress("verify", done, c.src.Bytes) })
	if err != nil && !errors.Is(err, fs.ErrNotExist) || stored != sum {
		return "", ctx.Err() // not here, or damaged: the copy takes its place
	}
	return sum, nil
}

// copy brings the source into the partial file, from the last checkpoint on,
// and returns hash and size of the whole.
func (c *copying) copy(ctx context.Context) (sum string, size int64, err error) {
	f, err := c.s.opt.open(c.part())
	if err != nil {
		return "", 0, err
	}
	defer func() {
		if cerr := f.Close(); err == nil && cerr != nil {
			err = cerr
		}
	}()
	h, done, err := c.resume(ctx, f)
	if err != nil {
		return "", 0, err
	}
	if free, known := c.s.opt.free(c.s.dir); known && c.src.Bytes-done > free {
		return "", 0, fmt.Errorf("%d bytes are to be written and %s has %d bytes free; free some space or set GEIST_HOME to another disk", c.src.Bytes-done, c.s.dir, free)
	}
	r, err := c.src.Open(ctx, done)
	if err != nil {
		return "", 0, err
	}
	defer r.Close()
	saved := done
	defer func() {
		if err != nil && done > saved {
			err = errors.Join(err, c.save(f, h, done))
		}
	}()
	buf := make([]byte, 1<<20)
	for {
		c.progress("copy", done, c.src.Bytes)
		if err := ctx.Err(); err != nil {
			return "", 0, err
		}
		n, rerr := r.Read(buf)
		if n > 0 {
			c.s.opt.at("write")
			if _, err := f.Write(buf[:n]); err != nil {
				return "", 0, err
			}
			h.Write(buf[:n])
			done += int64(n)
		}
		if c.src.Bytes >= 0 && done > c.src.Bytes {
			return "", 0, fmt.Errorf("there are more bytes than the %d that were announced", c.src.Bytes)
		}
		if errors.Is(rerr, io.EOF) {
			break
		}
		if rerr != nil {
			return "", 0, rerr
		}
		if done-saved >= c.s.opt.every {
			if err := c.save(f, h, done); err != nil {
				return "", 0, err
			}
			saved = done
		}
	}
	if c.src.Bytes >= 0 && done != c.src.Bytes {
		return "", 0, fmt.Errorf("it ended after %d of %d bytes", done, c.src.Bytes)
	}
	c.progress("copy", done, done)
	if err := c.save(f, h, done); err != nil {
		return "", 0, err
	}
	saved = done
	return hex.EncodeToString(h.Sum(nil)), done, nil
}

// resume finds how much of f is known to be good, cuts off the rest, and leaves
// f at its end. It returns the hash state over what is there.
func (c *copying) resume(ctx context.Context, f partFile) (hash.Hash, int64, error) {
	h := sha256.New()
	var cp checkpoint
	if b, err := os.ReadFile(c.state()); err == nil {
		if json.Unmarshal(b, &cp) != nil || cp.ID != c.src.ID || cp.Offset < 0 {
			cp = checkpoint{}
		}
	}
	n, err := hashInto(ctx, h, io.LimitReader(f, cp.Offset), func(done int64) { c.progress("resume", done, cp.Offset) })
	if err != nil {
		return nil, 0, err
	}
	if n != cp.Offset || hex.EncodeToString(h.Sum(nil)) != cp.SHA256 {
		h, n = sha256.New(), 0
	}
	c.s.opt.at("truncate the part")
	if err := f.Truncate(n); err != nil {
		return nil, 0, err
	}
	_, err = f.Seek(n, io.SeekStart)
	return h, n, err
}

// save makes the first done bytes of f durable and says so in a checkpoint.
func (c *copying) save(f partFile, h hash.Hash, done int64) error {
	if c.src.ID == "" {
		return f.Sync()
	}
	c.s.opt.at("sync the part")
	if err := f.Sync(); err != nil {
		return err
	}
	return c.s.writeJSON(c.state(), checkpoint{c.src.ID, done, hex.EncodeToString(h.Sum(nil))})
}

// commit makes the model visible: the blob first, if it is still the partial
// file, then the entry. If the blob should be there and is not, the error is fs.ErrNotExist.
func (c *copying) commit(ctx context.Context, name, sum string, size int64, partial bool) (Model, error) {
	s := c.s
	unlock, err := s.lock(ctx)
	if err != nil {
		return Model{}, err
	}
	defer unlock()
	old, err := s.Get(name)
	if err == nil && old.SHA256 != sum {
		return Model{}, taken(old)
	}
	exists := err == nil
	if err != nil && !errors.Is(err, ErrNotFound) {
		return Model{}, err
	}
	if partial {
		s.opt.at("rename the blob")
		if err := os.Rename(c.part(), s.blob(sum)); err != nil {
			return Model{}, err
		}
		if err := os.Chmod(s.blob(sum), 0o444); err != nil {
			return Model{}, err
		}
		if err := syncDir(s.blobs()); err != nil {
			return Model{}, err
		}
	} else if _, err := os.Stat(s.blob(sum)); err != nil {
		return Model{}, err
	}
	if exists {
		return old, nil
	}
	m := Model{indexVersion, name, sum, size, s.opt.Now().UTC().Truncate(time.Second), c.src.Label}
	if err := s.writeJSON(s.entry(name), m); err != nil {
		return Model{}, err
	}
	return m, nil
}

// drop removes the partial files. Errors are left to the sweep.
func (c *copying) drop() {
	for _, f := range []string{c.state(), c.part(), c.base + ".lock"} {
		c.s.opt.at("drop " + filepath.Ext(f))
		_ = os.Remove(f)
	}
}

// Sweep removes what interrupted copies left more than a day ago and nobody works
// on, and tells how many bytes that were. Add does so too.
func (s *Store) Sweep(ctx context.Context) (freed int64, err error) {
	if _, err := os.Stat(s.partial()); errors.Is(err, fs.ErrNotExist) {
		return 0, nil
	}
	unlock, err := s.lock(ctx)
	if err != nil {
		return 0, err
	}
	defer unlock()
	return s.sweepPartials(), nil
}

// sweepPartials is Sweep for a caller that holds the lock. A copy under way holds
// the lock of its partial file, and what it writes is new.
func (s *Store) sweepPartials() (freed int64) {
	files, err := os.ReadDir(s.partial())
	if err != nil {
		return 0
	}
	newest, size := map[string]time.Time{}, map[string]int64{}
	for _, f := range files {
		fi, err := f.Info()
		if err != nil {
			continue // gone since
		}
		key := strings.TrimSuffix(f.Name(), filepath.Ext(f.Name()))
		if fi.ModTime().After(newest[key]) {
			newest[key] = fi.ModTime()
		}
		size[key] += fi.Size()
	}
	for key, at := range newest {
		if s.opt.Now().Sub(at) < partialLife {
			continue
		}
		c := &copying{s: s, base: filepath.Join(s.partial(), key)}
		if unlock, err := tryLockFile(c.base + ".lock"); err == nil && unlock != nil {
			c.drop()
			unlock()
			freed += size[key]
		}
	}
	return freed
}

// writeJSON replaces file by v in one step that survives a loss of power. Only
// one process at a time may write a file: the caller holds the lock.
func (s *Store) writeJSON(file string, v any) error {
	b, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return err
	}
	tmp := file + ".new"
	s.opt.at("write " + filepath.Base(filepath.Dir(file)))
	f, err := os.OpenFile(tmp, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o666)
	if err != nil {
		return err
	}
	_, err = f.Write(append(b, '\n'))
	if err == nil {
		err = f.Sync()
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		os.Remove(tmp)
		return err
	}
	s.opt.at("rename " + filepath.Base(filepath.Dir(file)))
	if err := os.Rename(tmp, file); err != nil {
		return err
	}
	return syncDir(filepath.Dir(file))
}

// Verify reads m's bytes again and checks that they have its hash and are a
// model. Damage is ErrBroken.
func (s *Store) Verify(ctx context.Context, m Model, progress ProgressFunc) error {
	if progress == nil {
		progress = func(string, int64, int64) {}
	}
	sum, err := hashFile(ctx, s.Path(m), func(done int64) { progress("verify", done, m.Bytes) })
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("verify %s: %w: %w", m.Name, ErrBroken, err)
	case err != nil:
		return fmt.Errorf("verify %s: %w", m.Name, err)
	case sum != m.SHA256:
		return fmt.Errorf("verify %s: %w: its SHA-256 is %s, not %s", m.Name, ErrBroken, sum, m.SHA256)
	}
	if err := s.opt.Check(s.Path(m)); err != nil {
		return fmt.Errorf("verify %s: %w: %w", m.Name, ErrBroken, err)
	}
	return nil
}

func hashFile(ctx context.Context, path string, progress func(done int64)) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	h := sha256.New()
	if _, err := hashInto(ctx, h, f, progress); err != nil {
		return "", fmt.Errorf("read %s: %w", path, err)
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}

// hashInto feeds r to h until its end and returns how many bytes that were.
func hashInto(ctx context.Context, h hash.Hash, r io.Reader, progress func(done int64)) (int64, error) {
	buf := make([]byte, 1<<20)
	var done int64
	for {
		if err := ctx.Err(); err != nil {
			return done, err
		}
		n, err := r.Read(buf)
		h.Write(buf[:n])
		done += int64(n)
		if n > 0 {
			progress(done)
		}
		if errors.Is(err, io.EOF) {
			return done, nil
		}
		if err != nil {
			return done, err
		}
	}
}
