package gguf

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"testing"
)

const shared = "../../../shared/data"

// realFiles lists the model and vocabulary files beside the checkout.
func realFiles(t *testing.T) []string {
	t.Helper()
	if _, err := os.Stat(shared); err != nil {
		t.Skipf("no real files to read: %v", err)
	}
	var all []string
	for _, pattern := range []string{"models/*.gguf", "models/archs/*.gguf", "vocab/*.gguf"} {
		paths, err := filepath.Glob(filepath.Join(shared, pattern))
		if err != nil || len(paths) == 0 {
			t.Fatalf("%s: no files (%v)", pattern, err)
		}
		all = append(all, paths...)
	}
	return all
}

func TestRealFiles(t *testing.T) {
	for _, path := range realFiles(t) {
		f, err := Open(path)
		if err != nil {
			t.Error(err)
			continue
		}
		if f.Arch() == "" {
			t.Errorf("%s: no architecture", path)
		}
		tokens, ok := f.Strings("tokenizer.ggml.tokens")
		if types, typed := f.Ints("tokenizer.ggml.token_type"); ok && typed && len(types) != len(tokens) {
			t.Errorf("%s: %d tokens of %d types", path, len(tokens), len(types))
		}
		again, err := Parse("again", rewrite(t, f))
		if err != nil {
			t.Errorf("%s: written again: %v", path, err)
			continue
		}
		same(t, f, again)
		if err := f.Close(); err != nil {
			t.Error(err)
		}
	}
}

// TestKnownFiles compares with what llama.cpp's own tools report.
func TestKnownFiles(t *testing.T) {
	realFiles(t)
	for _, c := range []struct {
		path                  string
		arch                  string
		tensors, keys, tokens int
	}{
		{"models/stories260K.gguf", "llama", 48, 19, 512},
		{"vocab/llama-spm.gguf", "llama", 0, 22, 32000},
		{"vocab/gpt-2.gguf", "gpt2", 0, 16, 50257},
		{"vocab/bert-bge.gguf", "bert", 0, 20, 30522},
	} {
		f, err := Open(filepath.Join(shared, c.path))
		if err != nil {
			t.Error(err)
			continue
		}
		tokens, _ := f.Strings("tokenizer.ggml.tokens")
		if f.Arch() != c.arch || len(f.Tensors()) != c.tensors || len(f.Keys()) != c.keys || len(tokens) != c.tokens {
			t.Errorf("%s: %s, %d tensors, %d keys, %d tokens", c.path, f.Arch(), len(f.Tensors()), len(f.Keys()), len(tokens))
		}
		f.Close()
	}
}

// TestTruncated cuts a real model at every length of its header that could
// matter and at many of its data.
func TestTruncated(t *testing.T) {
	realFiles(t)
	b, err := os.ReadFile(filepath.Join(shared, "models/stories260K.gguf"))
	if err != nil {
		t.Fatal(err)
	}
	whole, err := Parse("whole", b)
	if err != nil {
		t.Fatal(err)
	}
	last := whole.Tensors()[0]
	for _, x := range whole.Tensors() {
		if x.Offset > last.Offset {
			last = x
		}
	}
	end := int(last.Offset) + len(last.Data)
	step := 1
	for n := 0; n < end; n += step {
		if n > 1000 {
			step = 211
		}
		if uint64(n) > whole.Tensors()[0].Offset {
			step = 9973
		}
		_, err := Parse("cut", b[:n])
		var bad *FormatError
		if !errors.As(err, &bad) || !bytes.Contains([]byte(bad.Reason), []byte("download complete")) {
			t.Fatalf("cut at %d: %v", n, err)
		}
	}
	if _, err := Parse("cut", b[:end]); err != nil {
		t.Errorf("without padding at the end: %v", err)
	}
}
