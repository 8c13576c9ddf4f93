package main

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/geistnet/geist/internal/console"
	"github.com/geistnet/geist/internal/synth"
)

// memoryGGUF writes a small model with memory blocks.
func memoryGGUF(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "memory.gguf")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := synth.Write(f, synth.Spec{
		Arch: "geist", Dim: 64, Layers: 2, Heads: 4, KVHeads: 2, FF: 256, Vocab: 307, Context: 64, Seed: 5, Type: "f16", Tied: true,
		Memory: &synth.Memory{Rules: []string{"hash", "product"}, HashHeads: 2, HashRows: 50, ProductHeads: 2, Keys: 20, KeyDim: 32, TopK: 5},
	}, nil); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	return path
}

// geistIn runs a command line in this process.
func geistIn(ctx context.Context, out io.Writer, home string, args ...string) (code int, stderr string) {
	var errs bytes.Buffer
	e := &env{
		stdin: strings.NewReader(""),
		out:   console.Out{W: out},
		err:   console.Out{W: &errs},
		getenv: func(name string) string {
			if name == "GEIST_HOME" {
				return home
			}
			return ""
		},
		now: time.Now,
	}
	return e.run(ctx, args), errs.String()
}

// TestRowsVerb serves rows, checks the server and one that changes a byte
// between, and stops.
func TestRowsVerb(t *testing.T) {
	home, model := t.TempDir(), memoryGGUF(t)
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	r, w := io.Pipe()
	type ending struct {
		code int
		errs string
	}
	done := make(chan ending, 1)
	go func() {
		code, errs := geistIn(ctx, w, home, "rows", "serve", model, "--addr", "127.0.0.1:0")
		_ = w.Close()
		done <- ending{code, errs}
	}()
	var text bytes.Buffer
	at := regexp.MustCompile(`serving at (http://127\.0\.0\.1:\d+)\n`)
	buf := make([]byte, 4096)
	for !at.Match(text.Bytes()) {
		n, err := r.Read(buf)
		text.Write(buf[:n])
		if err != nil {
			t.Fatalf("%v after %q: %+v", err, text.String(), <-done)
		}
	}
	server := string(at.FindSubmatch(text.Bytes())[1])
	for _, want := range []string{"blk.0.memory.weight: 200 rows of 128 bytes, root ", "blk.1.memory.weight: 400 rows of 512 bytes, root "} {
		if !strings.Contains(text.String(), want) {
			t.Errorf("%q has no %q", text.String(), want)
		}
	}
	target, err := url.Parse(server)
	if err != nil {
		t.Fatal(err)
	}
	proxy := httputil.NewSingleHostReverseProxy(target)
	proxy.ModifyResponse = func(a *http.Response) error {
		b, err := io.ReadAll(a.Body)
		if err == nil && a.Request.Method == http.MethodPost {
			b[3] ^= 1
		}
		a.Body = io.NopCloser(bytes.NewReader(b))
		return err
	}
	liar := httptest.NewServer(proxy)
	defer liar.Close()

	ghost := strings.TrimSuffix(model, ".gguf") + ".ghost"
	var out bytes.Buffer
	for _, ref := range []string{model, ghost} {
		out.Reset()
		if code, errs := geistIn(t.Context(), &out, home, "rows", "check", ref, "--server", server, "--rows", "100"); code != 0 || !strings.Contains(out.String(), "rows, all right") {
			t.Errorf("%s: %d, %s%s", ref, code, out.String(), errs)
		}
	}
	out.Reset()
	code, errs := geistIn(t.Context(), &out, home, "rows", "check", ghost, "--server", server, "--server", liar.URL, "--json")
	var got []checkedServer
	if err := json.Unmarshal(out.Bytes(), &got); err != nil || code != exitFailure || len(got) != 2 ||
		got[0].Wrong || got[0].Error != "" || got[0].Rows < 400 || !got[1].Wrong || !strings.Contains(got[1].Error, liar.URL) {
		t.Errorf("%d, %v: %s%s", code, err, out.String(), errs)
	}
	for _, args := range [][]string{{ghost}, {ghost, "--server", "nowhere"}, {ghost, "--server", server, "--rows", "0"}, {ghost, "--server", server, "--nodes", "0"}} {
		if code, errs := geistIn(t.Context(), &out, home, append([]string{"rows", "check"}, args...)...); code != exitUsage {
			t.Errorf("%v: %d, %s", args, code, errs)
		}
	}
	if code, errs := geistIn(t.Context(), &out, home, "rows", "serve", model, "--addr", target.Host); code != exitFailure || !strings.Contains(errs, "--addr") {
		t.Errorf("the address is taken: %d, %s", code, errs)
	}
	stop()
	if end := <-done; end.code != 0 {
		t.Errorf("serving ended with %+v", end)
	}
	out.Reset()
	if code, _ := geistIn(t.Context(), &out, home, "rows", "check", ghost, "--server", server); code != exitFailure {
		t.Errorf("the server is still there: %d, %s", code, out.String())
	}
}

// TestRowsVerbWithoutMemory: a model without memory has nothing to serve.
func TestRowsVerbWithoutMemory(t *testing.T) {
	path := filepath.Join(t.TempDir(), "dense.gguf")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	spec := synth.Presets["tiny"]
	spec.Type = "q8_0"
	if err := synth.Write(f, spec, nil); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{{"serve", path}, {"check", path, "--server", "http://127.0.0.1:1"}} {
		if code, errs := geistIn(t.Context(), io.Discard, t.TempDir(), append([]string{"rows"}, args...)...); code != exitFailure || !strings.Contains(errs, "no memory blocks") {
			t.Errorf("%v: %d, %s", args, code, errs)
		}
	}
}
