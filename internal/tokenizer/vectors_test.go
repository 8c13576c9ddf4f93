package tokenizer

import (
	"bufio"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/geistnet/geist/internal/gguf"
)

// vocabDir holds vocabularies of real models with test vectors, outside the
// repository.
const vocabDir = "../../../shared/data/vocab"

// meta is a Model made in a test.
type meta map[string]any

func (m meta) String(key string) (string, bool)    { return field[string](m, key) }
func (m meta) Uint(key string) (uint64, bool)      { return field[uint64](m, key) }
func (m meta) Bool(key string) (bool, bool)        { return field[bool](m, key) }
func (m meta) Strings(key string) ([]string, bool) { return field[[]string](m, key) }
func (m meta) Ints(key string) ([]int64, bool)     { return field[[]int64](m, key) }
func (m meta) Floats(key string) ([]float32, bool) { return field[[]float32](m, key) }

func field[T any](m meta, key string) (T, bool) {
	v, ok := m[key].(T)
	return v, ok
}

// realNames are the vocabularies of vocabDir.
func realNames(t testing.TB) []string {
	t.Helper()
	inputs, err := filepath.Glob(filepath.Join(vocabDir, "*.gguf.inp"))
	if err != nil {
		t.Fatal(err)
	}
	if len(inputs) == 0 {
		t.Skipf("no vocabularies in %s", vocabDir)
	}
	var names []string
	for _, path := range inputs {
		names = append(names, strings.TrimSuffix(filepath.Base(path), ".gguf.inp"))
	}
	return names
}

// load opens a vocabulary of vocabDir.
func load(t testing.TB, name string) *Tokenizer {
	t.Helper()
	var m Model
	if name == "llama-bpe" {
		m = loadPair(t, filepath.Join(vocabDir, name))
	} else {
		path := filepath.Join(vocabDir, name+".gguf")
		if _, err := os.Stat(path); err != nil {
			t.Skipf("no vocabulary: %v", err)
		}
		f, err := gguf.Open(path)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		m = f
	}
	tok, err := New(m)
	if err != nil {
		t.Fatal(err)
	}
	return tok
}

// loadPair makes a Model of encoder.json and vocab.bpe.
func loadPair(t testing.TB, dir string) Model {
	t.Helper()
	raw, err := os.ReadFile(filepath.Join(dir, "encoder.json"))
	if err != nil {
		t.Skipf("no vocabulary: %v", err)
	}
	var encoder map[string]int
	if err := json.Unmarshal(raw, &encoder); err != nil {
		t.Fatal(err)
	}
	tokens := make([]string, len(encoder))
	for text, id := range encoder {
		tokens[id] = text
	}
	raw, err = os.ReadFile(filepath.Join(dir, "vocab.bpe"))
	if err != nil {
		t.Fatal(err)
	}
	var merges []string
	lines := bufio.NewScanner(strings.NewReader(string(raw)))
	for lines.Scan() {
		if line := lines.Text(); line != "" && !strings.HasPrefix(line, "#version") {
			merges = append(merges, line)
		}
	}
	return meta{
		"tokenizer.ggml.model": "gpt2", "tokenizer.ggml.pre": "llama-bpe",
		"tokenizer.ggml.tokens": tokens, "tokenizer.ggml.merges": merges,
	}
}

func TestVectors(t *testing.T) {
	for _, name := range realNames(t) {
		t.Run(name, func(t *testing.T) {
			tok := load(t, name)
			inp, err := os.Open(filepath.Join(vocabDir, name+".gguf.inp"))
			if err != nil {
				t.Fatal(err)
			}
			defer inp.Close()
			out, err := os.Open(filepath.Join(vocabDir, name+".gguf.out"))
			if err != nil {
				t.Fatal(err)
			}
			defer out.Close()
			passed, failed, failures, err := Vectors(inp, out, tok)
			if err != nil {
				t.Fatal(err)
			}
			for _, f := range failures {
				t.Error(f)
			}
			if failed != len(failures) || passed+failed < 40 {
				t.Fatalf("%d passed, %d failed, %d messages", passed, failed, len(failures))
			}
		})
	}
}
