package store

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
)

// TestMain turns the test binary into a process that adds a model and kills
// itself before step number CRASH_AT. The exit code 0 says that it came to the end.
func TestMain(m *testing.M) {
	at, err := strconv.Atoi(os.Getenv("CRASH_AT"))
	if err != nil {
		os.Exit(m.Run())
	}
	opt := Options{Check: checkMagic, every: 1 << 20}
	opt.at = func(string) {
		if at--; at == 0 {
			p, _ := os.FindProcess(os.Getpid())
			p.Kill()
			select {}
		}
	}
	s, err := Open(os.Getenv("CRASH_STORE"), opt)
	if err == nil {
		var src Source
		if src, err = FromFile(os.Getenv("CRASH_FILE")); err == nil {
			_, err = s.Add(context.Background(), src, "x", nil)
		}
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(3)
	}
	os.Exit(0)
}

// TestKill kills an adding process before each of its steps in turn. After
// each, the store must list only whole models, and adding again must succeed.
func TestKill(t *testing.T) {
	path := model(t, 1, 5<<19)
	kills, resumed := 0, 0
	for k := 1; ; k++ {
		dir := t.TempDir()
		cmd := exec.Command(os.Args[0])
		cmd.Env = append(os.Environ(), "CRASH_AT="+strconv.Itoa(k), "CRASH_STORE="+dir, "CRASH_FILE="+path)
		out, err := cmd.CombinedOutput()
		if cmd.ProcessState.ExitCode() > 0 {
			t.Fatalf("step %d: %v: %s", k, err, out)
		}
		s := open(t, dir)
		l, lerr := s.List()
		if lerr != nil {
			t.Fatalf("killed before step %d: %v", k, lerr)
		}
		for _, m := range l {
			same(t, s, m, path)
		}
		m, aerr := s.Add(t.Context(), fromFile(t, path), "x", func(stage string, done, total int64) {
			if stage == "resume" && done == total {
				resumed++
			}
		})
		if aerr != nil {
			t.Fatalf("killed before step %d, then: %v", k, aerr)
		}
		same(t, s, m, path)
		if files(t, s.blobs()) != 1 {
			t.Errorf("killed before step %d: %d blobs", k, files(t, s.blobs()))
		}
		if err == nil {
			break
		}
		kills++
	}
	t.Logf("%d kills, %d copies resumed", kills, resumed)
	if kills < 15 || resumed < 8 {
		t.Errorf("only %d kills and %d resumed copies: the test does not reach what it should", kills, resumed)
	}
}

// counting is a source that says how many bytes were asked for.
func counting(src Source, read *int64) Source {
	inner := src.Open
	src.Open = func(ctx context.Context, offset int64) (io.ReadCloser, error) {
		r, err := inner(ctx, offset)
		if err != nil {
			return nil, err
		}
		return struct {
			io.Reader
			io.Closer
		}{io.TeeReader(r, counter{read}), r}, nil
	}
	return src
}

type counter struct{ n *int64 }

func (c counter) Write(b []byte) (int, error) { *c.n += int64(len(b)); return len(b), nil }

// interrupt adds path and stops at 3 of its 4 MiB.
func interrupt(t *testing.T, s *Store, path string) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	_, err := s.Add(ctx, fromFile(t, path), "x", func(stage string, done, _ int64) {
		if stage == "copy" && done >= 3<<20 {
			cancel()
		}
	})
	if !errors.Is(err, context.Canceled) {
		t.Fatalf("stopped with %v", err)
	}
	if l, err := s.List(); err != nil || len(l) != 0 {
		t.Fatalf("half a model is listed: %v, %v", l, err)
	}
}

func TestResume(t *testing.T) {
	path := model(t, 1, 4<<20)
	// Each changes the partial file or its checkpoint; fresh is whether the copy must begin anew.
	for name, c := range map[string]struct {
		change func(part, state string) error
		fresh  bool
	}{
		"untouched":    {func(part, state string) error { return nil }, false},
		"longer":       {func(part, state string) error { return appendTo(part, []byte("torn")) }, false},
		"shorter":      {func(part, state string) error { return os.Truncate(part, 1000) }, true},
		"other bytes":  {func(part, state string) error { return os.WriteFile(part, make([]byte, 3<<20), 0o666) }, true},
		"part gone":    {func(part, state string) error { return os.Remove(part) }, true},
		"state gone":   {func(part, state string) error { return os.Remove(state) }, true},
		"state torn":   {func(part, state string) error { return os.Truncate(state, 20) }, true},
		"foreign":      {func(part, state string) error { return editState(state, func(c *checkpoint) { c.ID = "other" }) }, true},
		"negative":     {func(part, state string) error { return editState(state, func(c *checkpoint) { c.Offset = -1 }) }, true},
		"beyond":       {func(part, state string) error { return editState(state, func(c *checkpoint) { c.Offset = 1 << 60 }) }, true},
		"wrong offset": {func(part, state string) error { return editState(state, func(c *checkpoint) { c.Offset-- }) }, true},
	} {
		t.Run(name, func(t *testing.T) {
			s := open(t, t.TempDir())
			interrupt(t, s, path)
			part := onlyPart(t, s)
			if err := c.change(part, strings.TrimSuffix(part, ".part")+".json"); err != nil {
				t.Fatal(err)
			}
			var read int64
			m, err := s.Add(t.Context(), counting(fromFile(t, path), &read), "x", nil)
			if err != nil {
				t.Fatal(err)
			}
			same(t, s, m, path)
			if want := map[bool]int64{true: 4 << 20, false: 1 << 20}[c.fresh]; read != want {
				t.Errorf("%d bytes were copied, want %d", read, want)
			}
		})
	}
}

func appendTo(file string, b []byte) error {
	f, err := os.OpenFile(file, os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	_, err = f.Write(b)
	return err
}

func editState(file string, edit func(*checkpoint)) error {
	var c checkpoint
	b, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(b, &c); err != nil {
		return err
	}
	edit(&c)
	if b, err = json.Marshal(c); err != nil {
		return err
	}
	return os.WriteFile(file, b, 0o666)
}

// TestSourceChanged: a part of the old file must not be joined to one of the new.
func TestSourceChanged(t *testing.T) {
	s := open(t, t.TempDir())
	path := model(t, 1, 4<<20)
	interrupt(t, s, path)
	other, err := os.ReadFile(model(t, 2, 4<<20+1))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, other, 0o666); err != nil {
		t.Fatal(err)
	}
	same(t, s, add(t, s, path, "x"), path)

	// And while it is copied.
	s = open(t, t.TempDir())
	_, err = s.Add(t.Context(), fromFile(t, path), "y", func(stage string, done, _ int64) {
		if done == 2<<20 {
			if err := appendTo(path, []byte("more")); err != nil {
				t.Error(err)
			}
		}
	})
	if err == nil {
		t.Error("a file that grew while it was copied was added")
	}
	if l, err := s.List(); err != nil || len(l) != 0 {
		t.Errorf("the store holds %v, %v", l, err)
	}
}

// faulty is a partial file whose write, sync or truncate fails at the given call.
type faulty struct {
	partFile
	f *fault
}

type fault struct {
	op   string // "write", "sync", "truncate"
	left int    // calls until it fails; then all fail
	done bool   // the failing call does its work before it says so
	err  error
}

func (f *fault) hit(op string) bool {
	if f.op != op {
		return false
	}
	f.left--
	return f.left < 0
}

func (f faulty) Write(b []byte) (int, error) {
	if !f.f.hit("write") {
		return f.partFile.Write(b)
	}
	n := len(b) / 2 // a full disk takes a part
	if f.f.done {
		n = len(b)
	}
	n, _ = f.partFile.Write(b[:n])
	return n, f.f.err
}

func (f faulty) Sync() error {
	if !f.f.hit("sync") {
		return f.partFile.Sync()
	}
	if f.f.done {
		f.partFile.Sync()
	}
	return f.f.err
}

func (f faulty) Truncate(n int64) error {
	if !f.f.hit("truncate") {
		return f.partFile.Truncate(n)
	}
	if f.f.done {
		f.partFile.Truncate(n)
	}
	return f.f.err
}

func TestDiskFaults(t *testing.T) {
	path := model(t, 1, 5<<20)
	for _, op := range []string{"write", "sync", "truncate"} {
		for _, done := range []bool{false, true} {
			for left := range 7 {
				bad := &fault{op, left, done, &os.PathError{Op: op, Path: "disk", Err: syscall.ENOSPC}}
				dir := t.TempDir()
				s := open(t, dir, func(o *Options) {
					o.open = func(path string) (partFile, error) {
						f, err := openPart(path)
						return faulty{f, bad}, err
					}
				})
				_, err := s.Add(t.Context(), fromFile(t, path), "x", nil)
				failed := bad.left < 0
				if failed != errors.Is(err, syscall.ENOSPC) {
					t.Errorf("%s fails at call %d (done %v): the error is %v", op, left, done, err)
				}
				s = open(t, dir)
				if l, err := s.List(); err != nil || failed && len(l) != 0 {
					t.Errorf("%s fails at call %d: the store holds %v, %v", op, left, l, err)
				}
				same(t, s, add(t, s, path, "x"), path)
			}
		}
	}
}

func TestNoSpace(t *testing.T) {
	s := open(t, t.TempDir(), func(o *Options) { o.free = func(string) (int64, bool) { return 99, true } })
	_, err := s.Add(t.Context(), fromFile(t, model(t, 1, 100)), "x", nil)
	if err == nil || !strings.Contains(err.Error(), "99 bytes free") {
		t.Errorf("got %v", err)
	}
	if free, known := freeBytes(t.TempDir()); !known || free <= 0 {
		t.Errorf("the free space of a real disk: %d, %v", free, known)
	}
}

func TestBadSources(t *testing.T) {
	good, err := os.ReadFile(model(t, 1, 3<<20))
	if err != nil {
		t.Fatal(err)
	}
	bytesOf := func(b []byte) func(context.Context, int64) (io.ReadCloser, error) {
		return func(_ context.Context, off int64) (io.ReadCloser, error) {
			return io.NopCloser(bytes.NewReader(b[off:])), nil
		}
	}
	broken := errors.New("the line broke")
	wrong := strings.Repeat("0", 64)
	for name, src := range map[string]Source{
		"short":      {ID: "a", Bytes: int64(len(good)) + 1, Open: bytesOf(good)},
		"long":       {ID: "a", Bytes: int64(len(good)) - 1, Open: bytesOf(good)},
		"wrong hash": {ID: "a", Bytes: int64(len(good)), SHA256: wrong, Open: bytesOf(good)},
		"no hash":    {ID: "a", Bytes: int64(len(good)), SHA256: "abc", Open: bytesOf(good)},
		"no model":   {ID: "a", Bytes: 100, Open: bytesOf(make([]byte, 100))},
		"empty":      {ID: "a", Bytes: 0, Open: bytesOf(nil)},
		"refuses":    {Bytes: -1, Open: func(context.Context, int64) (io.ReadCloser, error) { return nil, broken }},
		"breaks": {Bytes: -1, Open: func(context.Context, int64) (io.ReadCloser, error) {
			return io.NopCloser(io.MultiReader(bytes.NewReader(good), iotest{broken})), nil
		}},
	} {
		t.Run(name, func(t *testing.T) {
			s := open(t, t.TempDir())
			if m, err := s.Add(t.Context(), src, "x", nil); err == nil {
				t.Errorf("added as %+v", m)
			}
			if l, err := s.List(); err != nil || len(l) != 0 {
				t.Errorf("the store holds %v, %v", l, err)
			}
			if src.ID == "" && files(t, s.partial()) != 0 {
				t.Error("a copy that cannot go on lies in the store")
			}
		})
	}
	s := open(t, t.TempDir())
	if _, err := s.Add(t.Context(), FromReader(bytes.NewReader(good), "pipe"), "x", nil); err != nil {
		t.Error(err)
	}
	for _, path := range []string{filepath.Join(t.TempDir(), "none"), t.TempDir(), os.DevNull} {
		if _, err := FromFile(path); err == nil {
			t.Errorf("%s passed for a model", path)
		}
	}
}

type iotest struct{ err error }

func (e iotest) Read([]byte) (int, error) { return 0, e.err }
