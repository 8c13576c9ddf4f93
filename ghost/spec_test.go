package ghost

import (
	"encoding/hex"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/geistnet/geist/arith"
)

var update = flag.Bool("update", false, "write the files of testdata anew")

// smallest is the model that docs/spec/ghost-file.md prints byte by byte.
func smallest() *Model {
	m := &Model{
		Arithmetic: 1, Arch: "llama", Name: "", Dim: 2, Heads: 1, KVHeads: 1, KeyDim: 2, ValDim: 1, FF: 1, Vocab: 3, Context: 64,
		Eps: 0x1p-20, KV: arith.KVF32, AttnScale: 0.5, EmbedScale: 1, ExpertScale: 1,
		Ropes: []arith.Rope{{Turn: []uint64{0x28be60db9391054a}, Magnitude: 1}},
	}
	tensor := func(name string, rows, cols int) int {
		t := Tensor{Name: name, Format: arith.F32, Rows: rows, Cols: cols}
		for i := range t.Root {
			t.Root[i] = byte(len(m.Tensors))
		}
		m.Tensors = append(m.Tensors, t)
		return len(m.Tensors) - 1
	}
	linear := func(t, rows int) Linear { return Linear{Tensor: t, Rows: rows, Scale: 1, ScaleFirst: true} }
	m.Embedding = tensor("token_embd.weight", 3, 2)
	qkv := tensor("blk.0.attn_qkv.weight", 5, 2)
	y := Layer{AttnNorm: []float32{1, 1}, FFNNorm: []float32{1, 2}, Q: linear(qkv, 2), K: linear(qkv, 2), V: linear(qkv, 1)}
	y.K.Row0, y.V.Row0 = 2, 4
	y.V.Bias = []float32{-1}
	y.O = linear(tensor("blk.0.attn_output.weight", 2, 1), 2)
	y.Gate = linear(tensor("blk.0.ffn_gate.weight", 1, 2), 1)
	y.Up = linear(tensor("blk.0.ffn_up.weight", 1, 2), 1)
	y.Down = linear(tensor("blk.0.ffn_down.weight", 2, 1), 2)
	m.Layers = []Layer{y}
	m.OutputNorm = []float32{3, 4}
	m.Output = linear(m.Embedding, 3)
	m.Template = [32]byte{0: 0xaa, 31: 0xbb}
	return m
}

func page(t *testing.T, name string) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("../docs/spec", name))
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// TestSpecificationFile checks the bytes that the page prints, and the files
// that it names.
func TestSpecificationFile(t *testing.T) {
	text := page(t, "ghost-file.md")
	b := encode(t, smallest())
	var want strings.Builder
	for i := 0; i < len(b); i += 32 {
		fmt.Fprintf(&want, "    %04x  %x\n", i, b[i:min(i+32, len(b))])
	}
	if !strings.Contains(text, want.String()) {
		t.Errorf("the page does not have the bytes\n%s", want.String())
	}
	if id := IDOf(b); !strings.Contains(text, "`"+id.String()+"`") || !strings.Contains(text, hex.EncodeToString(id[:])) {
		t.Errorf("the page does not have the id %v, %x", id, id[:])
	}
	models := map[string]*Model{"dense.ghost": testModel(4, false), "mixture.ghost": testModel(5, true), "memory.ghost": memoryModel(6), "smallest.ghost": smallest()}
	rows := regexp.MustCompile("(?m)^\\| `([a-z]+\\.ghost)` \\| (\\d+) \\| `(ghost1[a-z0-9]+)` \\|$").FindAllStringSubmatch(text, -1)
	if len(rows) != len(models) {
		t.Errorf("the table has %d rows", len(rows))
	}
	for name, m := range models {
		file := filepath.Join("testdata", name)
		b := encode(t, m)
		if *update {
			if err := os.WriteFile(file, b, 0o644); err != nil {
				t.Fatal(err)
			}
		}
		stored, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if string(stored) != string(b) {
			t.Errorf("%s differs from what is encoded now", file)
		}
		row := fmt.Sprintf("| `%s` | %d | `%s` |", name, len(stored), IDOf(stored))
		if !strings.Contains(text, row) {
			t.Errorf("the page does not have the row %s", row)
		}
	}
}

// TestSpecificationReceipt checks the example that the page follows from the
// request to the signature.
func TestSpecificationReceipt(t *testing.T) {
	text := page(t, "receipt.md")
	q := testRequest()
	b, err := q.Encode()
	if err != nil {
		t.Fatal(err)
	}
	r := signed(t, 1)
	nonce := Nonce(fill(4))
	for i := 0; i < len(b); i += 32 {
		line := fmt.Sprintf("    %04x  %x\n", i, b[i:min(i+32, len(b))])
		if !strings.Contains(text, line) {
			t.Errorf("the page does not have the line\n%s", line)
		}
	}
	for what, want := range map[string]string{
		"prompt":         HashTokens(q.Salt, q.Prompt).Hash.String(),
		"answer":         HashTokens(q.Salt, testAnswer).Hash.String(),
		"request":        q.Hash().String(),
		"seed":           Digest(Seed(nonce, q.Hash(), r.Model)).String(),
		"nonce of seed":  CommitSeed(nonce).String(),
		"nonce of audit": CommitAudit(fill(5)).String(),
		"provider":       r.Provider.String(),
	} {
		row := fmt.Sprintf("| %s | `%s` |", what, want)
		if !strings.Contains(text, row) {
			t.Errorf("the page does not have the row %s", row)
		}
	}
	if !strings.Contains(text, "    "+string(r.Encode())+"\n") {
		t.Errorf("the page does not have the receipt\n    %s", r.Encode())
	}
}
