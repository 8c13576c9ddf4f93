package main

import (
	"bytes"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/geistnet/geist/internal/author"
	"github.com/geistnet/geist/internal/gguf"
	"github.com/geistnet/geist/internal/rows"
	"github.com/geistnet/geist/internal/tales"
)

const gooseQuestion = "Tell me a story about a goose."

// trunkOf writes the trunk of a model, tales or a file.
func trunkOf(t *testing.T, home, ref string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "trunk.gguf")
	if code, errs := geistIn(t.Context(), io.Discard, home, "models", "trunk", ref, path); code != 0 {
		t.Fatal(errs)
	}
	return path
}

// tablesOf are the tables of a model, whose bytes about every n-th row lies about.
func tablesOf(t *testing.T, f *gguf.File, n int) []rows.Table {
	t.Helper()
	g, err := author.Build(t.Context(), f, author.Options{}, nil)
	if err != nil {
		t.Fatal(err)
	}
	tables, err := rows.Open(t.Context(), f, g)
	if err != nil {
		t.Fatal(err)
	}
	for i := range tables {
		read := tables[i].Read
		tables[i].Read = func(dst []byte, id int) ([]byte, error) {
			dst, err := read(dst, id)
			if n > 0 && id%n == n/2 {
				dst[len(dst)-1] ^= 1
			}
			return dst, err
		}
	}
	return tables
}

// serveRows serves tables of tales; before is called with the number of each
// request and tells whether to go on.
func serveRows(t *testing.T, lies int, before func(n int64, w http.ResponseWriter) bool) string {
	t.Helper()
	f, err := tales.Open()
	if err != nil {
		t.Fatal(err)
	}
	s, err := rows.NewServer(tablesOf(t, f, lies))
	if err != nil {
		t.Fatal(err)
	}
	var n atomic.Int64
	h := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		if before == nil || before(n.Add(1), w) {
			s.ServeHTTP(w, q)
		}
	}))
	t.Cleanup(h.Close)
	return h.URL
}

// runJSON is "geist run --json" with a fixed seed.
func runJSON(t *testing.T, home, model string, args ...string) (x runResult, code int, errs string) {
	t.Helper()
	var out bytes.Buffer
	code, errs = geistIn(t.Context(), &out, home, append([]string{"run", model, gooseQuestion, "--seed", "11", "--max-tokens", "48", "--json"}, args...)...)
	if code == 0 {
		if err := json.Unmarshal(out.Bytes(), &x); err != nil {
			t.Fatalf("%v: %s", err, out.Bytes())
		}
	} else if out.Len() > 0 {
		t.Errorf("it wrote %q and ended with %d", out.String(), code)
	}
	return x, code, errs
}

// startGeist runs a command in a process of its own and waits for its address.
func startGeist(t *testing.T, home string, args ...string) (url string, p *os.Process) {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	name := filepath.Join(t.TempDir(), "geist")
	if err := os.Symlink(self, name); err != nil { // TestMain goes by the name
		t.Fatal(err)
	}
	c := exec.Command(name, args...)
	c.Env = append(os.Environ(), "GEIST_HOME="+home)
	out, err := c.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = c.Process.Kill()
		_ = c.Wait()
	})
	var text bytes.Buffer
	at := regexp.MustCompile(`serving at (http://127\.0\.0\.1:\d+)\n`)
	buf := make([]byte, 4096)
	for !at.Match(text.Bytes()) {
		n, err := out.Read(buf)
		text.Write(buf[:n])
		if err != nil {
			t.Fatalf("%v after %q", err, text.String())
		}
	}
	return string(at.FindSubmatch(text.Bytes())[1]), c.Process
}

// TestRunRows: the trunk with rows from servers gives the answer of the whole
// model, whatever one of the servers does, and who did it is named.
func TestRunRows(t *testing.T) {
	home := t.TempDir()
	trunk := trunkOf(t, home, tales.Name)
	alone, code, errs := runJSON(t, home, tales.Name)
	if code != 0 || len(alone.IDs) != 48 || alone.GhostSound != nil {
		t.Fatalf("alone: %d, %s, %d tokens", code, errs, len(alone.IDs))
	}
	honest := serveRows(t, 0, nil)
	killed, process := startGeist(t, home, "rows", "serve", tales.Name, "--addr", "127.0.0.1:0")
	var once atomic.Bool
	beside := serveRows(t, 0, func(n int64, _ http.ResponseWriter) bool {
		if n == 10 && once.CompareAndSwap(false, true) {
			if err := process.Kill(); err != nil {
				t.Error(err)
			}
		}
		return true
	})
	other := httptest.NewServer(otherRows(t))
	defer other.Close()
	for _, c := range []struct {
		name    string
		servers []string
		model   string
		dropped bool // the first server
		failed  bool
	}{
		{name: "one", servers: []string{honest}},
		{name: "whole model", servers: []string{honest}, model: tales.Name},
		{name: "a liar", servers: []string{serveRows(t, 50, nil), honest}, dropped: true},
		{name: "dies", servers: []string{serveRows(t, 0, func(n int64, w http.ResponseWriter) bool {
			if n > 5 {
				panic(http.ErrAbortHandler)
			}
			return true
		}), honest}, failed: true},
		{name: "slow", servers: []string{serveRows(t, 0, func(int64, http.ResponseWriter) bool {
			time.Sleep(150 * time.Millisecond)
			return true
		}), honest}},
		{name: "garbage", servers: []string{serveRows(t, 0, func(_ int64, w http.ResponseWriter) bool {
			_, _ = io.WriteString(w, strings.Repeat("geist", 1000))
			return false
		}), honest}, dropped: true},
		{name: "another model", servers: []string{other.URL, honest}, failed: true},
		{name: "nobody there", servers: []string{"http://127.0.0.1:1", honest}, failed: true},
		{name: "kill -9", servers: []string{killed, beside}, failed: true},
	} {
		t.Run(c.name, func(t *testing.T) {
			if c.model == "" {
				c.model = trunk
			}
			var args []string
			for _, s := range c.servers {
				args = append(args, "--rows", s)
			}
			got, code, errs := runJSON(t, home, c.model, append(args, "--stats")...)
			if code != 0 {
				t.Fatalf("%d: %s", code, errs)
			}
			if got.Text != alone.Text || !slices.Equal(got.IDs, alone.IDs) || got.Seed != alone.Seed {
				t.Errorf("another answer: %q; alone it was %q", got.Text, alone.Text)
			}
			x := got.GhostSound
			if x == nil || x.ModelID == "" || x.Rows < 100 || x.Requests < 10 || x.ReceivedBytes < 68*100 || x.SentBytes == 0 || x.VerifyMS <= 0 || len(x.Servers) != len(c.servers) {
				t.Fatalf("%+v", x)
			}
			if s := x.Servers[0]; s.URL != c.servers[0] || (s.Dropped != "") != c.dropped || (s.Failed != "") != c.failed {
				t.Errorf("it says of the first server: %+v", s)
			}
			if last := x.Servers[len(x.Servers)-1]; last.Answers == 0 || last.Dropped != "" || last.Failed != "" {
				t.Errorf("it says of the last server: %+v", last)
			}
			if named := strings.Contains(errs, c.servers[0]+" gave a wrong row and was dropped: "); named != c.dropped {
				t.Errorf("standard error: %s", errs)
			}
			if named := strings.Contains(errs, c.servers[0]+" did not always answer: "); named != c.failed {
				t.Errorf("standard error: %s", errs)
			}
			if !strings.Contains(errs, "rows: ") || strings.Count(errs, "\n") > 4 {
				t.Errorf("standard error: %s", errs)
			}
		})
	}
}

// otherRows serves rows of another model.
func otherRows(t *testing.T) http.Handler {
	t.Helper()
	f, err := gguf.Open(memoryGGUF(t))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = f.Close() })
	s, err := rows.NewServer(tablesOf(t, f, 0))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// TestRunRowsGone: without a server that gives right rows there is no answer, and
// the error names them all.
func TestRunRowsGone(t *testing.T) {
	home := t.TempDir()
	trunk := trunkOf(t, home, tales.Name)
	dying := func() string {
		return serveRows(t, 0, func(n int64, _ http.ResponseWriter) bool {
			if n > 12 {
				panic(http.ErrAbortHandler)
			}
			return true
		})
	}
	for name, servers := range map[string][]string{
		"nobody":     {"http://127.0.0.1:1"},
		"liars":      {serveRows(t, 1, nil), serveRows(t, 1, nil)},
		"all die":    {dying(), dying()},
		"liar, dies": {serveRows(t, 1, nil), dying()},
	} {
		var args []string
		for _, s := range servers {
			args = append(args, "--rows", s)
		}
		_, code, errs := runJSON(t, home, trunk, args...)
		if code != exitFailure || !strings.Contains(errs, "no server of ") || !strings.Contains(errs, "name another server with --rows") {
			t.Errorf("%s: %d, %s", name, code, errs)
		}
		for _, s := range servers {
			if !strings.Contains(errs, s) {
				t.Errorf("%s: %s is not named: %s", name, s, errs)
			}
		}
	}
}

// TestRunRowsText: text and a conversation go the same way, and what makes no
// sense is refused.
func TestRunRowsText(t *testing.T) {
	home := t.TempDir()
	trunk := trunkOf(t, home, tales.Name)
	honest, liar := serveRows(t, 0, nil), serveRows(t, 1, nil)
	var alone, got bytes.Buffer
	args := []string{gooseQuestion, "--seed", "3", "--max-tokens", "20"}
	if code, errs := geistIn(t.Context(), &alone, home, append([]string{"run", tales.Name}, args...)...); code != 0 {
		t.Fatal(errs)
	}
	code, errs := geistIn(t.Context(), &got, home, append([]string{"run", trunk, "--rows", liar, "--rows", honest}, args...)...)
	if code != 0 || got.String() != alone.String() || !strings.Contains(errs, liar+" gave a wrong row") {
		t.Errorf("%d, %s: %q; alone it was %q", code, errs, got.String(), alone.String())
	}
	ghostFile := strings.TrimSuffix(trunk, ".gguf") + ".ghost"
	small := memoryGGUF(t)
	if code, errs := geistIn(t.Context(), io.Discard, home, "models", "ghost", small); code != 0 {
		t.Fatal(errs)
	}
	otherGhost := strings.TrimSuffix(small, ".gguf") + ".ghost"
	b, err := os.ReadFile(trunk)
	if err != nil {
		t.Fatal(err)
	}
	write := func(name string, b []byte) string {
		path := filepath.Join(t.TempDir(), name)
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	lonely := write("lonely.gguf", b)
	altered := slices.Clone(b)
	altered[len(altered)-100] ^= 1
	wrong := write("wrong.gguf", altered)
	for _, c := range []struct {
		args []string
		code int
		text string
	}{
		{[]string{lonely, "--rows", honest, "--ghost", ghostFile}, exitOK, ""},
		{[]string{lonely, "--rows", honest}, exitFailure, "name it with --ghost"},
		{[]string{lonely, "--rows", honest, "--ghost", otherGhost}, exitFailure, "another model"},
		{[]string{lonely, "--rows", honest, "--ghost", lonely}, exitFailure, lonely},
		{[]string{wrong, "--rows", honest, "--ghost", ghostFile}, exitFailure, "another model"},
		{[]string{trunk, "--rows", "nowhere"}, exitUsage, "nowhere"},
		{[]string{trunk, "--ghost", ghostFile}, exitUsage, "--rows"},
		{[]string{trunk, "--rows", honest, "--receipt", "x.run"}, exitUsage, "leave --rows out"},
		{[]string{trunk}, exitFailure, "--rows"},
		{[]string{tales.Name, "--receipt", filepath.Join(t.TempDir(), "x.run")}, exitOK, "receipt "},
	} {
		if code, errs := geistIn(t.Context(), io.Discard, home, append(append([]string{"run"}, c.args...), gooseQuestion, "--max-tokens", "3")...); code != c.code || !strings.Contains(errs, c.text) {
			t.Errorf("%v: %d, %s", c.args, code, errs)
		}
	}
}
