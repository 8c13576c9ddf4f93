package store

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/geistnet/geist/arith"
	"github.com/geistnet/geist/internal/gguf"
)

// magic is what the tests' models begin with; the rest is noise.
const magic = "MODEL"

func checkMagic(path string) error {
	b, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	if !bytes.HasPrefix(b, []byte(magic)) {
		return fmt.Errorf("it does not begin with %s", magic)
	}
	return nil
}

// open gives a store with checkpoints each 1 MiB and the tests' idea of a model.
func open(t testing.TB, dir string, change ...func(*Options)) *Store {
	t.Helper()
	opt := Options{Check: checkMagic, every: 1 << 20}
	for _, c := range change {
		c(&opt)
	}
	s, err := Open(dir, opt)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// model writes a file of size bytes, whose content depends on seed, and returns its path.
func model(t testing.TB, seed uint64, size int) string {
	t.Helper()
	b := make([]byte, size)
	r := rand.NewChaCha8([32]byte{byte(seed)})
	r.Read(b)
	copy(b, magic)
	path := filepath.Join(t.TempDir(), fmt.Sprintf("m%d.gguf", seed))
	if err := os.WriteFile(path, b, 0o666); err != nil {
		t.Fatal(err)
	}
	return path
}

func fromFile(t testing.TB, path string) Source {
	t.Helper()
	src, err := FromFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return src
}

func add(t testing.TB, s *Store, path, name string) Model {
	t.Helper()
	m, err := s.Add(t.Context(), fromFile(t, path), name, nil)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// same fails unless m's stored bytes are those of path.
func same(t testing.TB, s *Store, m Model, path string) {
	t.Helper()
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile(s.Path(m))
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) || m.Bytes != int64(len(want)) {
		t.Fatalf("model %s: the stored %d bytes are not the %d of %s", m.Name, len(got), len(want), path)
	}
	if err := s.Verify(t.Context(), m, nil); err != nil {
		t.Fatal(err)
	}
}

// files counts what lies in a directory of the store, lock files aside.
func files(t testing.TB, dir string) int {
	t.Helper()
	all, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for _, f := range all {
		if filepath.Ext(f.Name()) != ".lock" {
			n++
		}
	}
	return n
}

func TestAddListRemove(t *testing.T) {
	s := open(t, filepath.Join(t.TempDir(), "a", "b"))
	if l, err := s.List(); err != nil || len(l) != 0 {
		t.Fatalf("an empty store lists %v, %v", l, err)
	}
	one, two := model(t, 1, 3<<20+17), model(t, 2, 100)
	m1 := add(t, s, one, "Tiny:1b")
	m2 := add(t, s, two, "second")
	same(t, s, m1, one)
	same(t, s, m2, two)
	again := add(t, s, one, "tiny:1B")
	if again != m1 {
		t.Errorf("the second add gave %+v, not the first model %+v", again, m1)
	}
	alias := add(t, s, one, "alias")
	if alias.SHA256 != m1.SHA256 || files(t, s.blobs()) != 2 {
		t.Errorf("the same bytes lie twice: %d blobs", files(t, s.blobs()))
	}
	if n := files(t, s.partial()); n != 0 {
		t.Errorf("%d partial files are left", n)
	}
	l, err := s.List()
	if err != nil || len(l) != 3 || l[0].Name != "Tiny:1b" || l[1].Name != "alias" || l[2].Name != "second" {
		t.Fatalf("list gives %v, %v", l, err)
	}
	if freed, err := s.Remove(t.Context(), "TINY:1b"); err != nil || freed != 0 {
		t.Errorf("removed a name whose bytes have another: freed %d, %v", freed, err)
	}
	same(t, s, alias, one)
	if freed, err := s.Remove(t.Context(), "alias"); err != nil || freed != m1.Bytes {
		t.Errorf("removed the last name: freed %d, %v", freed, err)
	}
	if files(t, s.blobs()) != 1 {
		t.Error("the bytes of a removed model are still there")
	}
	if _, err := s.Remove(t.Context(), "alias"); !errors.Is(err, ErrNotFound) {
		t.Errorf("removed twice: %v", err)
	}
	same(t, s, m2, two)
}

// TestGhostsGo: what was made from a model goes with its last name, and nothing else.
func TestGhostsGo(t *testing.T) {
	s := open(t, t.TempDir())
	gone, kept := add(t, s, model(t, 1, 100), "gone"), add(t, s, model(t, 2, 100), "kept")
	add(t, s, model(t, 1, 100), "alias")
	if err := os.Mkdir(s.Ghosts(), 0o777); err != nil {
		t.Fatal(err)
	}
	all := []string{gone.SHA256 + ".ghost", gone.SHA256 + ".long.ghost", kept.SHA256 + ".ghost", "another.ghost"}
	for _, name := range all {
		if err := os.WriteFile(filepath.Join(s.Ghosts(), name), nil, 0o666); err != nil {
			t.Fatal(err)
		}
	}
	left := func() []string {
		var names []string
		for _, name := range all {
			if _, err := os.Stat(filepath.Join(s.Ghosts(), name)); err == nil {
				names = append(names, name)
			}
		}
		return names
	}
	if _, err := s.Remove(t.Context(), "gone"); err != nil || !slices.Equal(left(), all) {
		t.Errorf("removed a name whose bytes have another: %v; left are %q", err, left())
	}
	if err := os.Remove(s.Path(gone)); err != nil { // a model whose bytes are lost has its files removed, too
		t.Fatal(err)
	}
	if _, err := s.Remove(t.Context(), "alias"); err != nil || !slices.Equal(left(), all[2:]) {
		t.Errorf("removed the last name: %v; left are %q", err, left())
	}
}

func TestNameTaken(t *testing.T) {
	s := open(t, t.TempDir())
	m := add(t, s, model(t, 1, 5000), "x")
	for _, size := range []int{6000, 5000} { // seen before the copy, and after it
		_, err := s.Add(t.Context(), fromFile(t, model(t, 2, size)), "X", nil)
		if !errors.Is(err, ErrNameTaken) {
			t.Errorf("size %d: %v", size, err)
		}
	}
	if l, err := s.List(); err != nil || len(l) != 1 || l[0] != m || files(t, s.blobs()) != 1 {
		t.Errorf("the store holds %v, %v", l, err)
	}
}

func TestNames(t *testing.T) {
	for _, name := range []string{"", ".", "..", "../x", "a/b", `a\b`, "/etc/passwd", "-x", ".hidden", ":x", "a b", "a\x00b",
		"a\nb", "ä", "a%2fb", "x.gguf", "x.GGUF", strings.Repeat("a", 129)} {
		if CheckName(name) == nil {
			t.Errorf("%q is allowed as a name", name)
		}
		dir := t.TempDir()
		s := open(t, filepath.Join(dir, "store"))
		if _, err := s.Add(t.Context(), fromFile(t, model(t, 1, 100)), name, nil); err == nil {
			t.Errorf("%q was added", name)
		}
		if _, err := s.Get(name); !errors.Is(err, ErrNotFound) {
			t.Errorf("get %q: %v", name, err)
		}
		if _, err := s.Remove(t.Context(), name); !errors.Is(err, ErrNotFound) {
			t.Errorf("remove %q: %v", name, err)
		}
		if left, _ := os.ReadDir(dir); len(left) != 0 {
			t.Errorf("%q left %v behind", name, left)
		}
	}
	for _, name := range []string{"a", "7B", "llama-3.2:1b-q8_0", "a..b", strings.Repeat("a", 128)} {
		if err := CheckName(name); err != nil {
			t.Error(err)
		}
	}
}

func TestNameFor(t *testing.T) {
	for path, want := range map[string]string{
		"/x/Llama-3.2-1B.Q4_K_M.gguf": "Llama-3.2-1B.Q4_K_M", "a b(c).GGUF": "a-b-c-", "-.gguf": "model", ".gguf": "model",
		"..": "model", "": "model", "näh.gguf": "n-h", "x.gguf.gguf": "model", "plain": "plain", strings.Repeat("é", 300): "model",
	} {
		got := NameFor(path)
		if got != want {
			t.Errorf("NameFor(%q) = %q, want %q", path, got, want)
		}
		if err := CheckName(got); err != nil {
			t.Errorf("NameFor(%q): %v", path, err)
		}
	}
}

func TestResolve(t *testing.T) {
	s := open(t, t.TempDir())
	path := model(t, 1, 5000)
	m := add(t, s, path, "first")
	add(t, s, path, "also")
	other := add(t, s, model(t, 2, 5000), m.SHA256[:8]) // a name that looks like the hash of another
	for ref, want := range map[string]string{
		"first": m.SHA256, "FIRST": m.SHA256, m.SHA256: m.SHA256, m.SHA256[:6]: m.SHA256,
		strings.ToUpper(m.SHA256[:9]): m.SHA256, "sha256:" + m.SHA256[:8]: m.SHA256, m.SHA256[:8]: other.SHA256,
	} {
		p, found, err := s.Resolve(ref)
		if err != nil || found == nil || found.SHA256 != want || p != s.blob(want) {
			t.Errorf("%s: got %v, %v, want %s", ref, found, err, want)
		}
	}
	if p, found, err := s.Resolve(path); err != nil || found != nil || p != path {
		t.Errorf("a path: got %q, %v, %v", p, found, err)
	}
	for _, ref := range []string{"", "nobody", m.SHA256[:5], "sha256:", "sha256:zz", "000000", "../first"} {
		if p, _, err := s.Resolve(ref); err == nil {
			t.Errorf("%q gave %s", ref, p)
		}
	}
	if _, _, err := s.Resolve(t.TempDir() + "/"); err == nil {
		t.Error("a directory passed for a model")
	}
	if err := os.Remove(s.Path(m)); err != nil {
		t.Fatal(err)
	}
	if _, _, err := s.Resolve("first"); !errors.Is(err, ErrBroken) {
		t.Errorf("a model without bytes: %v", err)
	}
}

func TestAmbiguousHash(t *testing.T) {
	s := open(t, t.TempDir())
	m := add(t, s, model(t, 1, 500), "a")
	twin := m
	twin.Name, twin.SHA256 = "b", m.SHA256[:63]+map[bool]string{true: "0", false: "1"}[m.SHA256[63] != '0']
	if err := s.writeJSON(s.entry("b"), twin); err != nil {
		t.Fatal(err)
	}
	if _, _, err := s.Resolve(m.SHA256[:10]); err == nil || !strings.Contains(err.Error(), "more digits") {
		t.Errorf("two models begin alike: %v", err)
	}
	if _, found, err := s.Resolve(m.SHA256); err != nil || found.Name != "a" {
		t.Errorf("the whole hash: %v, %v", found, err)
	}
}

func TestVerifyFindsDamage(t *testing.T) {
	s := open(t, t.TempDir())
	path := model(t, 1, 5000)
	m := add(t, s, path, "x")
	for _, damage := range []func(b []byte) []byte{
		func(b []byte) []byte { b[4999] ^= 1; return b },
		func(b []byte) []byte { return b[:4999] },
		func(b []byte) []byte { return append(b, 0) },
	} {
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		os.Chmod(s.Path(m), 0o644)
		if err := os.WriteFile(s.Path(m), damage(b), 0o644); err != nil {
			t.Fatal(err)
		}
		if err := s.Verify(t.Context(), m, nil); !errors.Is(err, ErrBroken) {
			t.Errorf("damage gave %v", err)
		}
		again := add(t, s, path, "x") // heals
		same(t, s, again, path)
	}
	os.Remove(s.Path(m))
	if err := s.Verify(t.Context(), m, nil); !errors.Is(err, ErrBroken) {
		t.Errorf("no bytes gave %v", err)
	}
}

func TestBrokenEntry(t *testing.T) {
	s := open(t, t.TempDir())
	m := add(t, s, model(t, 1, 500), "good")
	for _, text := range []string{"", "{", "null", `{"version":2}`, `{"version":1,"name":"../x","sha256":"` + m.SHA256 + `"}`,
		`{"version":1,"name":"bad","sha256":"../../etc/passwd"}`, `{"version":1,"name":"bad","sha256":"` + m.SHA256 + `","bytes":-1}`} {
		if err := os.WriteFile(s.entry("bad"), []byte(text), 0o666); err != nil {
			t.Fatal(err)
		}
		if _, err := s.List(); err == nil || !strings.Contains(err.Error(), s.entry("bad")) {
			t.Errorf("%s: the list does not name the broken entry: %v", text, err)
		}
		if _, err := s.Get("bad"); err == nil || errors.Is(err, ErrNotFound) {
			t.Errorf("%s: get: %v", text, err)
		}
		if _, err := s.Remove(t.Context(), "bad"); err != nil {
			t.Errorf("%s: remove: %v", text, err)
		}
	}
	if l, err := s.List(); err != nil || len(l) != 1 || s.Verify(t.Context(), l[0], nil) != nil {
		t.Errorf("the good model: %v, %v", l, err)
	}
}

func TestConcurrentAdds(t *testing.T) {
	dir := t.TempDir()
	paths := []string{model(t, 1, 2<<20), model(t, 2, 2<<20), model(t, 3, 1000)}
	var wg sync.WaitGroup
	for i := range 12 {
		wg.Go(func() {
			s, err := Open(dir, Options{Check: checkMagic, every: 1 << 18})
			if err != nil {
				t.Error(err)
				return
			}
			src, err := FromFile(paths[i%3])
			if err != nil {
				t.Error(err)
				return
			}
			name := fmt.Sprintf("m%d-%d", i%3, i%2)
			if _, err := s.Add(t.Context(), src, name, nil); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	s := open(t, dir)
	l, err := s.List()
	if err != nil || len(l) != 6 {
		t.Fatalf("list gives %d models, %v", len(l), err)
	}
	for _, m := range l {
		same(t, s, m, paths[m.Name[1]-'0'])
	}
	if files(t, s.blobs()) != 3 || files(t, s.partial()) != 0 {
		t.Errorf("%d blobs, %d partial files", files(t, s.blobs()), files(t, s.partial()))
	}
}

func TestConcurrentAddAndRemove(t *testing.T) {
	s := open(t, t.TempDir())
	path := model(t, 1, 200_000)
	var wg sync.WaitGroup
	for i := range 4 {
		wg.Go(func() {
			for range 20 {
				name := fmt.Sprintf("m%d", i%2)
				if i < 2 {
					src, err := FromFile(path)
					if err == nil {
						_, err = s.Add(t.Context(), src, name, nil)
					}
					if err != nil {
						t.Error(err)
					}
				} else if _, err := s.Remove(t.Context(), name); err != nil && !errors.Is(err, ErrNotFound) {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	l, err := s.List()
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range l {
		same(t, s, m, path)
	}
}

// TestWait: whoever adds what another adds is told, waits, and does not copy again.
func TestWait(t *testing.T) {
	s := open(t, t.TempDir())
	src := fromFile(t, model(t, 1, 3<<20))
	waiting, done := make(chan struct{}), make(chan error)
	var stages []string
	_, err := s.Add(t.Context(), src, "first", func(stage string, n, total int64) {
		if stage != "copy" || n != 1<<20 {
			return
		}
		go func() {
			_, err := s.Add(t.Context(), src, "second", func(stage string, _, _ int64) {
				if len(stages) == 0 {
					close(waiting)
				}
				stages = append(stages, stage)
			})
			done <- err
		}()
		<-waiting
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if stages = slices.Compact(stages); !slices.Equal(stages, []string{"wait", "compare", "verify"}) {
		t.Errorf("the second add went through %q", stages)
	}
}

func TestWaitEnds(t *testing.T) {
	s := open(t, t.TempDir())
	add(t, s, model(t, 1, 100), "x")
	unlock, err := s.lock(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer unlock()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := s.Remove(ctx, "x"); !errors.Is(err, context.Canceled) {
		t.Errorf("waiting for a lock ended with %v", err)
	}
}

// TestGGUF uses the check that is used outside of tests.
func TestGGUF(t *testing.T) {
	var b bytes.Buffer
	w, err := gguf.NewWriter(&b, []gguf.KV{{Key: "general.architecture", Value: gguf.ValueOf("llama")}},
		[]gguf.TensorInfo{{Name: "t", Dims: []uint64{8, 2}, Format: arith.F32}})
	if err == nil {
		err = w.WriteTensor(make([]byte, 64))
	}
	if err == nil {
		err = w.Close()
	}
	if err != nil {
		t.Fatal(err)
	}
	s, err := Open(t.TempDir(), Options{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Add(t.Context(), FromReader(bytes.NewReader(b.Bytes()), "pipe"), "whole", nil); err != nil {
		t.Error(err)
	}
	if _, err := s.Add(t.Context(), FromReader(bytes.NewReader(b.Bytes()[:b.Len()-33]), "pipe"), "cut", nil); err == nil {
		t.Error("a truncated GGUF was added")
	}
	if l, err := s.List(); err != nil || len(l) != 1 || s.Verify(t.Context(), l[0], nil) != nil {
		t.Errorf("the store holds %v, %v", l, err)
	}
	if files(t, s.partial()) != 0 {
		t.Error("the truncated file lies in the store")
	}
}

func TestDefaultDir(t *testing.T) {
	env := func(kv ...string) func(string) string {
		return func(k string) string {
			for i := 0; i < len(kv); i += 2 {
				if kv[i] == k {
					return kv[i+1]
				}
			}
			return ""
		}
	}
	for _, c := range []struct {
		env  func(string) string
		want string
	}{
		{env("GEIST_HOME", "/g", "XDG_DATA_HOME", "/x", "HOME", "/h"), "/g/models"},
		{env("XDG_DATA_HOME", "/x", "HOME", "/h"), "/x/geist/models"},
		{env("XDG_DATA_HOME", "relative", "HOME", "/h"), "/h/.local/share/geist/models"},
		{env("HOME", "/h"), "/h/.local/share/geist/models"},
	} {
		if got, err := DefaultDir(c.env); err != nil || filepath.ToSlash(got) != c.want {
			t.Errorf("got %s, %v, want %s", got, err, c.want)
		}
	}
	if _, err := DefaultDir(env()); err == nil {
		t.Error("no home, and no error")
	}
}

func TestSweep(t *testing.T) {
	now := time.Now()
	s := open(t, t.TempDir(), func(o *Options) { o.Now = func() time.Time { return now } })
	ctx, cancel := context.WithCancel(t.Context())
	src := fromFile(t, model(t, 1, 3<<20))
	_, err := s.Add(ctx, src, "x", func(stage string, done, _ int64) {
		if done >= 2<<20 {
			cancel()
		}
	})
	if !errors.Is(err, context.Canceled) || files(t, s.partial()) != 2 {
		t.Fatalf("stopped with %v and %d partial files", err, files(t, s.partial()))
	}
	add(t, s, model(t, 2, 100), "y")
	if files(t, s.partial()) != 2 {
		t.Error("a young partial copy was removed")
	}
	now = now.Add(partialLife + time.Hour)
	unlock, err := tryLockFile((&copying{s: s, base: strings.TrimSuffix(onlyPart(t, s), ".part")}).base + ".lock")
	if err != nil || unlock == nil {
		t.Fatal(err)
	}
	add(t, s, model(t, 3, 100), "z")
	if files(t, s.partial()) != 2 {
		t.Error("a partial copy that somebody works on was removed")
	}
	unlock()
	add(t, s, model(t, 4, 100), "zz")
	if files(t, s.partial()) != 0 {
		t.Error("an old partial copy is still there")
	}
}

func onlyPart(t *testing.T, s *Store) string {
	t.Helper()
	parts, err := filepath.Glob(filepath.Join(s.partial(), "*.part"))
	if err != nil || len(parts) != 1 {
		t.Fatalf("partial files: %v, %v", parts, err)
	}
	return parts[0]
}

// TestSweepAlone: abandoned copies go after a day, with all their files; one that is
// under way stays, however old its bytes are.
func TestSweepAlone(t *testing.T) {
	now := time.Now()
	s, err := Open(t.TempDir(), Options{Check: checkMagic, Now: func() time.Time { return now }})
	if err != nil {
		t.Fatal(err)
	}
	if freed, err := s.Sweep(t.Context()); freed != 0 || err != nil {
		t.Errorf("a store without copies: %d, %v", freed, err)
	}
	if err := os.MkdirAll(s.partial(), 0o777); err != nil {
		t.Fatal(err)
	}
	for _, f := range []string{"a.part", "a.json", "b.part", "c.lock"} {
		if err := os.WriteFile(filepath.Join(s.partial(), f), make([]byte, 100), 0o666); err != nil {
			t.Fatal(err)
		}
	}
	unlock, err := tryLockFile(filepath.Join(s.partial(), "b.lock"))
	if err != nil || unlock == nil {
		t.Fatal(err)
	}
	defer unlock()
	if freed, err := s.Sweep(t.Context()); freed != 0 || err != nil {
		t.Errorf("new copies were cleared: %d, %v", freed, err)
	}
	now = now.Add(partialLife + time.Hour)
	if freed, err := s.Sweep(t.Context()); freed != 300 || err != nil {
		t.Errorf("%d bytes were freed, %v; want those of a and c", freed, err)
	}
	left, err := filepath.Glob(filepath.Join(s.partial(), "*"))
	if err != nil || len(left) != 2 {
		t.Errorf("left is %v, %v; want what belongs to b", left, err)
	}
}
