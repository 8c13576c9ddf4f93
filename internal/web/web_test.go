package web

import (
	"bytes"
	"compress/gzip"
	"encoding/binary"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"testing"
	"testing/fstest"
)

func get(t *testing.T, h http.Handler, url string, head ...string) *http.Response {
	t.Helper()
	q := httptest.NewRequest("GET", url, nil)
	for i := 0; i < len(head); i += 2 {
		q.Header.Set(head[i], head[i+1])
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, q)
	return w.Result()
}

func body(t *testing.T, r *http.Response) []byte {
	t.Helper()
	b, err := io.ReadAll(r.Body)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func names(t *testing.T) []string {
	t.Helper()
	var out []string
	err := fs.WalkDir(embedded, "page", func(p string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			out = append(out, strings.TrimPrefix(p, "page/"))
		}
		return err
	})
	if err != nil || len(out) < 10 {
		t.Fatalf("%v, %v", out, err)
	}
	return out
}

func TestPage(t *testing.T) {
	h := Handler(`1.0 <"x">`)
	r := get(t, h, "/")
	b := string(body(t, r))
	if r.StatusCode != 200 || r.Header.Get("Content-Type") != "text/html; charset=utf-8" || r.Header.Get("Cache-Control") != "no-cache" {
		t.Errorf("%d %v", r.StatusCode, r.Header)
	}
	if strings.Contains(b, "{{") || !strings.Contains(b, "geist 1.0 &lt;&quot;x&quot;&gt;") {
		t.Errorf("placeholders are left, or the version is missing or not escaped:\n%s", b)
	}
	base := regexp.MustCompile(`src="(/geist/page/[0-9a-f]{16})/app\.js"`).FindStringSubmatch(b)
	if base == nil {
		t.Fatalf("the page names no script:\n%s", b)
	}
	kinds := map[string]string{".js": "text/javascript; charset=utf-8", ".css": "text/css; charset=utf-8", ".svg": "image/svg+xml", ".wasm": "application/wasm"}
	for _, name := range append(names(t), wasm) {
		if name == "index.html" {
			continue
		}
		for _, dir := range []string{base[1] + "/", Base} {
			r := get(t, h, dir+name)
			want := "no-cache"
			if dir != Base {
				want = "public, max-age=31536000, immutable"
			}
			if r.StatusCode != 200 || r.Header.Get("Content-Type") != kinds[path.Ext(name)] || r.Header.Get("Cache-Control") != want || r.Header.Get("Etag") == "" {
				t.Errorf("%s%s: %d %v", dir, name, r.StatusCode, r.Header)
			}
		}
	}
	// Everything that is referred to is there.
	refs := 0
	for _, name := range names(t) {
		if path.Ext(name) == ".svg" {
			continue
		}
		text, err := embedded.ReadFile("page/" + name)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range regexp.MustCompile(`(?:from "\./|\{\{base\}\}/|new URL\(")([a-z.]+)"`).FindAllStringSubmatch(string(text), -1) {
			refs++
			if r := get(t, h, Base+m[1]); r.StatusCode != 200 {
				t.Errorf("%s refers to %s: status %d", name, m[1], r.StatusCode)
			}
		}
	}
	if refs < 20 {
		t.Errorf("only %d references were found", refs)
	}
}

// No part of the page comes from elsewhere, and none of its code is inline.
func TestPolicy(t *testing.T) {
	h := Handler("test")
	for _, u := range []string{"/", Base + "app.js", Base + wasm, "/nowhere"} {
		r := get(t, h, u)
		for name, want := range map[string]string{"Content-Security-Policy": policy, "X-Content-Type-Options": "nosniff", "Referrer-Policy": "no-referrer", "Cross-Origin-Opener-Policy": "same-origin"} {
			if got := r.Header.Get(name); got != want {
				t.Errorf("%s: %s is %q", u, name, got)
			}
		}
	}
	for _, bad := range []string{"unsafe-inline", "'unsafe-eval'", "*", "http:", "https:"} {
		if strings.Contains(policy, bad) {
			t.Errorf("the policy allows %s", bad)
		}
	}
	foreign := regexp.MustCompile(`(?i)(https?:)?//[a-z0-9.-]+\.[a-z]{2,}|\son[a-z]+\s*=\s*["']|<script>|style="|innerHTML|\beval\(|document\.write`)
	for _, name := range names(t) {
		b, err := embedded.ReadFile("page/" + name)
		if err != nil {
			t.Fatal(err)
		}
		text := strings.NewReplacer(`"http://www.w3.org/2000/svg"`, "").Replace(string(b))
		if m := foreign.FindString(text); m != "" {
			t.Errorf("%s has %q", name, m)
		}
	}
	for _, bad := range []string{`<a onclick="x()">`, `fetch("https://cdn.example.org/x")`, `el.innerHTML = x`} {
		if !foreign.MatchString(bad) {
			t.Errorf("%s is not found", bad)
		}
	}
}

func TestRefused(t *testing.T) {
	h := Handler("test")
	for _, u := range []string{"/x", "/geist/page", "/geist/page/index.html", "/geist/page/../web.go", "/geist/page/%2e%2e/web.go", "/geist/page/verify.wasm.gz", "/geist/page/0123456789abcdef/app.js", "/geist/v1/node", Base + h.(*site).hash + "/"} {
		if r := get(t, h, u); r.StatusCode != 404 || r.Header.Get("Cache-Control") != "no-store" {
			t.Errorf("%s: %d %v", u, r.StatusCode, r.Header)
		}
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequest("POST", "/", nil))
	if w.Code != 405 || w.Header().Get("Allow") != "GET, HEAD" {
		t.Errorf("%d %v", w.Code, w.Header())
	}
	w = httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequest("HEAD", "/", nil))
	if w.Code != 200 || w.Body.Len() != 0 || w.Header().Get("Content-Length") == "" {
		t.Errorf("%d %v, %d bytes", w.Code, w.Header(), w.Body.Len())
	}
	if _, err := build(fstest.MapFS{"page/index.html": {}, "page/x.exe": {}, wasm + ".gz": {}}, "x"); err == nil {
		t.Error("a file of an unknown kind is served")
	}
	if _, err := build(fstest.MapFS{"page/app.js": {}, wasm + ".gz": {}}, "x"); err == nil {
		t.Error("a page without index.html")
	}
}

func TestEncodings(t *testing.T) {
	h := Handler("test")
	for _, u := range []string{"/", Base + "style.css", Base + wasm} {
		plain := get(t, h, u)
		want := body(t, plain)
		if plain.Header.Get("Content-Encoding") != "" || len(want) == 0 {
			t.Errorf("%s: %v", u, plain.Header)
		}
		for accept, packed := range map[string]bool{"gzip": true, "gzip, deflate, br": true, "br;q=1.0, gzip;q=0.5": true, "*": true, "gzip;q=0": false, "br": false, "identity": false, "gzip;q=x": false, ";;": false} {
			r := get(t, h, u, "Accept-Encoding", accept)
			got := body(t, r)
			if is := r.Header.Get("Content-Encoding") == "gzip"; is != packed {
				t.Errorf("%s, accepting %q: %v", u, accept, r.Header)
				continue
			}
			if packed {
				if n := r.Header.Get("Content-Length"); n != fmt.Sprint(len(got)) {
					t.Errorf("%s: length %s of %d", u, n, len(got))
				}
				got = unpack(t, got)
			}
			if !bytes.Equal(got, want) || !slices.Contains(r.Header.Values("Vary"), "Accept-Encoding") {
				t.Errorf("%s, accepting %q: %d bytes, want %d; %v", u, accept, len(got), len(want), r.Header)
			}
			again := get(t, h, u, "Accept-Encoding", accept, "If-None-Match", `"other", W/`+r.Header.Get("Etag"))
			if again.StatusCode != 304 || len(body(t, again)) != 0 {
				t.Errorf("%s: status %d although it is known", u, again.StatusCode)
			}
		}
		if r := get(t, h, u, "If-None-Match", `"other"`); r.StatusCode != 200 {
			t.Errorf("%s: status %d although another is known", u, r.StatusCode)
		}
	}
}

func unpack(t *testing.T, b []byte) []byte {
	t.Helper()
	r, err := gzip.NewReader(bytes.NewReader(b))
	if err != nil {
		t.Fatal(err)
	}
	out, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func TestSize(t *testing.T) {
	total := 0
	for _, name := range names(t) {
		b, err := embedded.ReadFile("page/" + name)
		if err != nil {
			t.Fatal(err)
		}
		total += len(b)
	}
	packed, err := embedded.ReadFile(wasm + ".gz")
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("the page has %d bytes, the verifier %d", total, len(packed))
	if total > 500_000 || len(packed) > 3_000_000 {
		t.Errorf("the page has %d bytes, the verifier %d; at most 500,000 and 3,000,000", total, len(packed))
	}
}

// TestLoader demands that go.js has exactly what the verifier imports, which may
// change with a release of Go.
func TestLoader(t *testing.T) {
	packed, err := embedded.ReadFile(wasm + ".gz")
	if err != nil {
		t.Fatal(err)
	}
	want, err := imports(unpack(t, packed))
	if err != nil {
		t.Fatal(err)
	}
	src, err := embedded.ReadFile("page/go.js")
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, m := range regexp.MustCompile(`(?m)^ +"((?:runtime|syscall/js)\.[a-zA-Z0-9]+)": \(`).FindAllSubmatch(src, -1) {
		got = append(got, string(m[1]))
	}
	slices.Sort(got)
	if len(want) < 10 || !slices.Equal(got, want) {
		t.Errorf("go.js has\n%q\nthe verifier imports\n%q", got, want)
	}
}

// imports lists the names that a WebAssembly module imports, once each.
func imports(b []byte) ([]string, error) {
	if len(b) < 8 || string(b[:4]) != "\x00asm" {
		return nil, fmt.Errorf("%d bytes are no WebAssembly", len(b))
	}
	b = b[8:]
	number := func() int {
		n, k := binary.Uvarint(b)
		if k <= 0 {
			b = nil
			return 0
		}
		b = b[k:]
		return int(n)
	}
	text := func() string {
		n := min(number(), len(b))
		s := string(b[:n])
		b = b[n:]
		return s
	}
	for len(b) > 0 {
		id := b[0]
		b = b[1:]
		size := min(number(), len(b))
		if id != 2 {
			b = b[size:]
			continue
		}
		var out []string
		for range number() {
			if m := text(); m != "gojs" {
				return nil, fmt.Errorf("something is imported from %q", m)
			}
			out = append(out, text())
			if len(b) == 0 || b[0] != 0 {
				return nil, fmt.Errorf("%s is no function", out[len(out)-1])
			}
			b = b[1:]
			number() // type
		}
		slices.Sort(out)
		return slices.Compact(out), nil
	}
	return nil, fmt.Errorf("nothing is imported")
}

// TestVerifier builds the verifier again and demands the bytes that are embedded.
func TestVerifier(t *testing.T) {
	if testing.Short() {
		t.Skip("short: the verifier is not built again")
	}
	packed, err := embedded.ReadFile(wasm + ".gz")
	if err != nil {
		t.Fatal(err)
	}
	r, err := gzip.NewReader(bytes.NewReader(packed))
	if err != nil {
		t.Fatal(err)
	}
	if r.Comment != runtime.Version() {
		t.Skipf("the verifier was built by %s, this is %s: they are not compared", r.Comment, runtime.Version())
	}
	file := filepath.Join(t.TempDir(), wasm)
	c := exec.Command("go", "build", "-trimpath", "-buildvcs=false", "-ldflags=-s -w -buildid=", "-o", file, "../../cmd/verify-wasm")
	c.Env = append(os.Environ(), "GOOS=js", "GOARCH=wasm", "GOWASM=", "GOFLAGS=", "CGO_ENABLED=0")
	if out, err := c.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(b, unpack(t, packed)) {
		t.Error("the embedded verifier is not that of this source: run \"go generate ./internal/web\" and commit verify.wasm.gz")
	}
}
