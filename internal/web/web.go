// Package web is the page of a node: HTML, style sheets and ES modules below
// page/, and the verifier as WebAssembly, all embedded. Nothing in it is fetched
// from elsewhere, and no step of a build makes it, except for the verifier, which
// "go generate" compiles from cmd/verify-wasm.
package web

import (
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"fmt"
	"io"
	"io/fs"
	"mime"
	"net/http"
	"path"
	"strconv"
	"strings"
)

//go:generate go run build.go

//go:embed page verify.wasm.gz
var embedded embed.FS

const (
	// Base is the path that everything but the page itself lies below.
	Base = "/geist/page/"
	wasm = "verify.wasm" // stored compressed
)

// policy lets the page use nothing but this node: no scripts, styles, images or
// connections of others, no inline code, no frames around it.
const policy = "default-src 'none'; script-src 'self' 'wasm-unsafe-eval'; style-src 'self'; img-src 'self'; connect-src 'self'; worker-src 'self'; " +
	"base-uri 'none'; form-action 'none'; frame-ancestors 'none'"

// asset is one file as it is sent.
type asset struct {
	kind string
	data []byte // nil: only the compressed form is kept
	gzip []byte // nil: never sent so
	etag string
}

// site is all files by their path below Base.
type site struct {
	files map[string]*asset
	hash  string // of all files: the path segment below which they never change
}

// Handler serves the page at "/" and its parts below Base. version is that of
// the program, shown in the page.
//
// The page names its parts with a hash of them all in the path, so browsers may
// keep those for good; without the hash they are asked for again each time.
func Handler(version string) http.Handler {
	s, err := build(embedded, version)
	if err != nil {
		panic("web: internal error: " + err.Error()) // the files are part of the program
	}
	return s
}

func build(from fs.FS, version string) (*site, error) {
	s := &site{files: map[string]*asset{}}
	sum := sha256.New()
	add := func(name string, a *asset) {
		h := sha256.Sum256(append(a.data, a.gzip...))
		a.etag = `"` + hex.EncodeToString(h[:12]) + `"`
		s.files[name] = a
		fmt.Fprintf(sum, "%s %x\n", name, h)
	}
	err := fs.WalkDir(from, "page", func(p string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		b, err := fs.ReadFile(from, p)
		if err != nil {
			return err
		}
		kind, err := kindOf(p)
		if err != nil {
			return err
		}
		add(strings.TrimPrefix(p, "page/"), &asset{kind: kind, data: b, gzip: compress(b)})
		return nil
	})
	if err != nil {
		return nil, err
	}
	packed, err := fs.ReadFile(from, wasm+".gz")
	if err != nil {
		return nil, err
	}
	add(wasm, &asset{kind: "application/wasm", gzip: packed})
	index := s.files["index.html"]
	if index == nil {
		return nil, fs.ErrNotExist
	}
	fmt.Fprintf(sum, "version %s\n", version)
	s.hash = hex.EncodeToString(sum.Sum(nil)[:8])
	page := strings.NewReplacer("{{base}}", Base+s.hash, "{{version}}", escape(version)).Replace(string(index.data))
	delete(s.files, "index.html")
	add("", &asset{kind: index.kind, data: []byte(page), gzip: compress([]byte(page))})
	return s, nil
}

// kindOf says what a file is without asking the system, whose table differs.
func kindOf(p string) (string, error) {
	switch path.Ext(p) {
	case ".html":
		return "text/html; charset=utf-8", nil
	case ".css":
		return "text/css; charset=utf-8", nil
	case ".js":
		return "text/javascript; charset=utf-8", nil
	case ".svg":
		return "image/svg+xml", nil
	}
	return "", fmt.Errorf("%s: no media type is known for it", p)
}

func compress(b []byte) []byte {
	var out bytes.Buffer
	w, err := gzip.NewWriterLevel(&out, gzip.BestCompression)
	if err == nil {
		_, err = w.Write(b)
	}
	if err == nil {
		err = w.Close()
	}
	if err != nil || out.Len() >= len(b) {
		return nil
	}
	return out.Bytes()
}

func escape(s string) string {
	return strings.NewReplacer("&", "&amp;", "<", "&lt;", ">", "&gt;", `"`, "&quot;", "'", "&#39;").Replace(s)
}

// ServeHTTP answers GET and HEAD.
func (s *site) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	h := w.Header()
	h.Set("Content-Security-Policy", policy)
	h.Set("Referrer-Policy", "no-referrer")
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Cross-Origin-Opener-Policy", "same-origin")
	h.Set("Cross-Origin-Resource-Policy", "same-origin")
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		h.Set("Allow", "GET, HEAD")
		http.Error(w, "the page is only read", http.StatusMethodNotAllowed)
		return
	}
	name, keep := "", "no-cache"
	if r.URL.Path != "/" && r.URL.Path != Base {
		rest, ok := strings.CutPrefix(r.URL.Path, Base)
		if !ok {
			rest = "?" // no file is called so
		}
		if name = rest; strings.HasPrefix(rest, s.hash+"/") {
			name, keep = rest[len(s.hash)+1:], "public, max-age=31536000, immutable"
		}
		if name == "" {
			name = "?"
		}
	}
	a := s.files[name]
	if a == nil {
		h.Set("Cache-Control", "no-store")
		http.Error(w, "the page has no such part", http.StatusNotFound)
		return
	}
	h.Set("Content-Type", a.kind)
	h.Set("Cache-Control", keep)
	body, etag := a.data, a.etag
	if a.gzip != nil {
		h.Add("Vary", "Accept-Encoding")
		if accepts(r.Header.Get("Accept-Encoding")) {
			body, etag = a.gzip, strings.TrimSuffix(a.etag, `"`)+`-gz"`
			h.Set("Content-Encoding", "gzip")
		}
	}
	h.Set("Etag", etag)
	if match := r.Header.Get("If-None-Match"); match == "*" || match != "" && has(match, etag) {
		h.Del("Content-Type")
		h.Del("Content-Encoding")
		w.WriteHeader(http.StatusNotModified)
		return
	}
	if body == nil { // for the few who read no gzip
		if r, err := gzip.NewReader(bytes.NewReader(a.gzip)); err == nil {
			_, _ = io.Copy(w, r) // the browser may be gone
		}
		return
	}
	h.Set("Content-Length", strconv.Itoa(len(body)))
	if r.Method == http.MethodGet {
		_, _ = w.Write(body)
	}
}

// has tells whether a list of tags has one, weak or not.
func has(list, etag string) bool {
	for t := range strings.SplitSeq(list, ",") {
		if strings.TrimPrefix(strings.TrimSpace(t), "W/") == etag {
			return true
		}
	}
	return false
}

// accepts tells whether Accept-Encoding lets gzip through.
func accepts(list string) bool {
	for e := range strings.SplitSeq(list, ",") {
		kind, params, err := mime.ParseMediaType("x/" + strings.TrimSpace(e))
		if err != nil || kind != "x/gzip" && kind != "x/*" {
			continue
		}
		q, err := strconv.ParseFloat(params["q"], 64)
		return params["q"] == "" || err == nil && q > 0
	}
	return false
}
