package main

import (
	"bytes"
	"encoding/json"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/geistnet/geist/ghost"
	"github.com/geistnet/geist/internal/gguf"
	"github.com/geistnet/geist/internal/synth"
	"github.com/geistnet/geist/internal/tales"
)

// TestTrunkVerb: the trunk lacks the tables and nothing else, and its Ghost file is
// the whole model's.
func TestTrunkVerb(t *testing.T) {
	home, dir := t.TempDir(), t.TempDir()
	path := filepath.Join(dir, "out.gguf")
	var out bytes.Buffer
	for range 2 { // it may be written again
		out.Reset()
		if code, errs := geistIn(t.Context(), &out, home, "models", "trunk", tales.Name, path, "--json"); code != 0 {
			t.Fatal(errs)
		}
	}
	var x trunked
	if err := json.Unmarshal(out.Bytes(), &x); err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	if x.Tables != 2 || x.Rows < 60000 || x.Bytes != info.Size() || x.LeftOut < 6<<20 || x.Bytes+x.LeftOut > int64(tales.Size()) {
		t.Errorf("%+v", x)
	}
	b, err := os.ReadFile(filepath.Join(dir, "out.ghost"))
	if err != nil || ghost.IDOf(b).String() != x.ID || x.Ghost != filepath.Join(dir, "out.ghost") {
		t.Errorf("%v: the Ghost file is of %v; %+v", err, ghost.IDOf(b), x)
	}
	f, err := gguf.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for _, tensor := range f.Tensors() {
		if strings.HasSuffix(tensor.Name, "memory.weight") {
			t.Errorf("the trunk has %s", tensor.Name)
		}
	}
	names, err := filepath.Glob(filepath.Join(dir, "*.part"))
	if err != nil || len(names) > 0 {
		t.Errorf("%v, %v", names, err)
	}
}

// TestTrunkVerbRefuses: nothing is overwritten by a slip of the hand.
func TestTrunkVerbRefuses(t *testing.T) {
	home, dir := t.TempDir(), t.TempDir()
	model := memoryGGUF(t)
	dense := filepath.Join(dir, "dense.gguf")
	var b bytes.Buffer
	spec := synth.Presets["tiny"]
	spec.Type = "q8_0"
	if err := synth.Write(&b, spec, nil); err != nil {
		t.Fatal(err)
	}
	text := filepath.Join(dir, "text.gguf")
	for path, b := range map[string][]byte{dense: b.Bytes(), text: []byte("no model"), filepath.Join(dir, "a.ghost"): []byte("no ghost")} {
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range []struct{ model, out, want string }{
		{model, model, "the model itself"},
		{model, text, "no GGUF file"},
		{model, filepath.Join(dir, "a.gguf"), "no Ghost file"},
		{model, filepath.Join(dir, "trunk.bin"), ".gguf"},
		{dense, filepath.Join(dir, "trunk.gguf"), "all trunk"},
	} {
		if code, errs := geistIn(t.Context(), io.Discard, home, "models", "trunk", c.model, c.out); code != exitFailure || !strings.Contains(errs, c.want) {
			t.Errorf("%v: %d, %s", c, code, errs)
		}
	}
	trunk := filepath.Join(dir, "trunk.gguf")
	if code, errs := geistIn(t.Context(), io.Discard, home, "models", "trunk", model, trunk); code != 0 {
		t.Fatal(errs)
	}
	if code, errs := geistIn(t.Context(), io.Discard, home, "models", "trunk", trunk, filepath.Join(dir, "again.gguf")); code != exitFailure {
		t.Errorf("a trunk of a trunk: %d, %s", code, errs)
	}
}
