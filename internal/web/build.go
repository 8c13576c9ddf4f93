//go:build ignore

// Command build makes verify.wasm.gz: cmd/verify-wasm compiled with nothing of
// this machine in it, so that one release of Go gives the same bytes everywhere.
// The release stands in the comment of the gzip header.
package main

import (
	"bytes"
	"compress/gzip"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
)

func main() {
	if err := build(); err != nil {
		fmt.Fprintln(os.Stderr, "build the verifier:", err)
		os.Exit(1)
	}
}

func build() error {
	dir, err := os.MkdirTemp("", "verify")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	file := filepath.Join(dir, "verify.wasm")
	c := exec.Command("go", "build", "-trimpath", "-buildvcs=false", "-ldflags=-s -w -buildid=", "-o", file, "../../cmd/verify-wasm")
	c.Env = append(os.Environ(), "GOOS=js", "GOARCH=wasm", "GOWASM=", "GOFLAGS=", "CGO_ENABLED=0")
	if out, err := c.CombinedOutput(); err != nil {
		return fmt.Errorf("%w\n%s", err, out)
	}
	b, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	// What is equal stays as it is, whatever release compressed it.
	if old, err := os.ReadFile("verify.wasm.gz"); err == nil && equal(old, b) {
		return nil
	}
	var out bytes.Buffer
	w, err := gzip.NewWriterLevel(&out, gzip.BestCompression)
	if err != nil {
		return err
	}
	w.Comment = runtime.Version()
	if _, err := w.Write(b); err != nil {
		return err
	}
	if err := w.Close(); err != nil {
		return err
	}
	return os.WriteFile("verify.wasm.gz", out.Bytes(), 0o666)
}

func equal(packed, b []byte) bool {
	r, err := gzip.NewReader(bytes.NewReader(packed))
	if err != nil {
		return false
	}
	var old bytes.Buffer
	_, err = old.ReadFrom(r)
	return err == nil && bytes.Equal(old.Bytes(), b)
}
