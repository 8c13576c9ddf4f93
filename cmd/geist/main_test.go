package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
	"github.com/spf13/cobra"

	"github.com/geistnet/geist/arith"
	"github.com/geistnet/geist/internal/console"
	"github.com/geistnet/geist/internal/gguf"
	"github.com/geistnet/geist/internal/store"
	"github.com/geistnet/geist/internal/synth"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"geist": main})
}

// TestScripts runs testdata/script/*.txtar, one or more for each verb. Beside
// the usual commands there is
//
//	mkgguf FILE SEED    writes a small model with a SentencePiece vocabulary
//	mksynth FILE TYPE   writes a small model that runs, with random weights
//	damage NAME         changes a byte of a stored model
//	exit CODE CMD...    demands an exit code
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir: "testdata/script",
		Setup: func(e *testscript.Env) error {
			e.Setenv("GEIST_HOME", filepath.Join(e.WorkDir, "home"))
			e.Setenv("TZ", "UTC")
			return nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"mkgguf": func(ts *testscript.TestScript, neg bool, args []string) {
				if neg || len(args) != 2 {
					ts.Fatalf("usage: mkgguf FILE SEED")
				}
				ts.Check(writeModel(ts.MkAbs(args[0]), args[1]))
			},
			"mksynth": func(ts *testscript.TestScript, neg bool, args []string) {
				if neg || len(args) != 2 {
					ts.Fatalf("usage: mksynth FILE TYPE")
				}
				spec := synth.Presets["tiny"]
				spec.Type = args[1]
				f, err := os.Create(ts.MkAbs(args[0]))
				ts.Check(err)
				ts.Check(synth.Write(f, spec, nil))
				ts.Check(f.Close())
			},
			"damage": func(ts *testscript.TestScript, neg bool, args []string) {
				if neg || len(args) != 1 {
					ts.Fatalf("usage: damage NAME")
				}
				s, err := store.Open(filepath.Join(ts.Getenv("GEIST_HOME"), "models"), store.Options{})
				ts.Check(err)
				m, err := s.Get(args[0])
				ts.Check(err)
				b, err := os.ReadFile(s.Path(m))
				ts.Check(err)
				b[len(b)-1] ^= 1
				ts.Check(os.Chmod(s.Path(m), 0o666))
				ts.Check(os.WriteFile(s.Path(m), b, 0o666))
			},
			"exit": func(ts *testscript.TestScript, neg bool, args []string) {
				if neg || len(args) < 2 {
					ts.Fatalf("usage: exit CODE CMD...")
				}
				got := "0"
				if err := ts.Exec(args[1], args[2:]...); err != nil {
					got = strings.TrimPrefix(err.Error(), "exit status ")
				}
				if got != args[0] {
					ts.Fatalf("exit code %s, want %s", got, args[0])
				}
			},
		},
	})
}

// writeModel writes a GGUF file whose vocabulary is three control tokens, all
// bytes, and a few words; seed is in its metadata and weights.
func writeModel(path, seed string) error {
	tokens := []string{"<unk>", "<s>", "</s>"}
	types := []int32{2, 3, 3}
	for b := range 256 {
		tokens, types = append(tokens, fmt.Sprintf("<0x%02X>", b)), append(types, 6)
	}
	for _, w := range []string{"▁", "h", "i", "hi", "▁hi"} {
		tokens, types = append(tokens, w), append(types, 1)
	}
	scores := make([]float32, len(tokens))
	for i := range scores {
		scores[i] = float32(i)
	}
	weights := make([]byte, 4*8*2)
	copy(weights, seed)
	var b bytes.Buffer
	w, err := gguf.NewWriter(&b, []gguf.KV{
		{Key: "general.architecture", Value: gguf.ValueOf("llama")},
		{Key: "general.name", Value: gguf.ValueOf("seed " + seed)},
		{Key: "test.nan", Value: gguf.ValueOf(float32(math.NaN()))},
		{Key: "test.bytes", Value: gguf.ArrayOf([]uint8{1, 2, 255})},
		{Key: "tokenizer.ggml.model", Value: gguf.ValueOf("llama")},
		{Key: "tokenizer.ggml.tokens", Value: gguf.ArrayOf(tokens)},
		{Key: "tokenizer.ggml.scores", Value: gguf.ArrayOf(scores)},
		{Key: "tokenizer.ggml.token_type", Value: gguf.ArrayOf(types)},
		{Key: "tokenizer.ggml.bos_token_id", Value: gguf.ValueOf(uint32(1))},
		{Key: "tokenizer.ggml.eos_token_id", Value: gguf.ValueOf(uint32(2))},
	}, []gguf.TensorInfo{{Name: "token_embd.weight", Dims: []uint64{8, 2}, Format: arith.F32}})
	if err == nil {
		err = w.WriteTensor(weights)
	}
	if err == nil {
		err = w.Close()
	}
	if err == nil {
		err = os.WriteFile(path, b.Bytes(), 0o666)
	}
	return err
}

// command builds an env that writes into buffers.
func command(t *testing.T) (e *env, stdout, stderr *bytes.Buffer) {
	t.Helper()
	stdout, stderr = &bytes.Buffer{}, &bytes.Buffer{}
	home := t.TempDir()
	return &env{
		stdin: strings.NewReader(""),
		out:   console.Out{W: stdout},
		err:   console.Out{W: stderr},
		now:   time.Now,
		getenv: func(k string) string {
			return map[string]string{"GEIST_HOME": home}[k]
		},
	}, stdout, stderr
}

// TestEveryVerb holds each command to the rules of the command line: it says
// what it does, it has --json if it gives a result, and it refuses what it does
// not know with exit code 2.
func TestEveryVerb(t *testing.T) {
	e, _, _ := command(t)
	var paths [][]string
	var visit func(c *cobra.Command, path []string)
	visit = func(c *cobra.Command, path []string) {
		if len(path) > 0 && slices.Contains([]string{"completion", "help"}, path[0]) {
			return // cobra's own
		}
		paths = append(paths, path)
		if c.Short == "" || strings.HasSuffix(c.Short, ".") {
			t.Errorf("geist %v: its short help is %q; say what it does, without a full stop", path, c.Short)
		}
		if !c.HasSubCommands() && c.Flags().Lookup("json") == nil {
			t.Errorf("geist %v has no --json", path)
		}
		for _, s := range c.Commands() {
			visit(s, append(slices.Clone(path), s.Name()))
		}
	}
	visit(newRoot(e), nil)
	if len(paths) < 8 {
		t.Fatalf("only %d commands: %v", len(paths), paths)
	}
	for _, path := range paths {
		e, stdout, stderr := command(t)
		if code := e.run(t.Context(), append(slices.Clone(path), "--no-such-flag")); code != exitUsage {
			t.Errorf("geist %v --no-such-flag: exit code %d", path, code)
		}
		if stdout.Len() > 0 || !strings.HasPrefix(stderr.String(), "geist: ") || strings.Count(stderr.String(), "\n") != 1 {
			t.Errorf("geist %v --no-such-flag: %q on standard output, %q on standard error", path, stdout, stderr)
		}
		e, stdout, stderr = command(t)
		if code := e.run(t.Context(), append(slices.Clone(path), "--help")); code != exitOK || stdout.Len() == 0 || stderr.Len() > 0 {
			t.Errorf("geist %v --help: exit code %d, %q on standard error", path, code, stderr)
		}
	}
}

func TestInterrupted(t *testing.T) {
	e, _, stderr := command(t)
	file := filepath.Join(t.TempDir(), "m.gguf")
	if err := writeModel(file, "1"); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if code := e.run(ctx, []string{"models", "add", file}); code != exitFailure || !strings.Contains(stderr.String(), "the same command again") {
		t.Errorf("exit code %d, %q", code, stderr)
	}
	e, _, stderr = command(t)
	if code := e.run(ctx, []string{"selftest", "--quick"}); code != exitFailure || !strings.HasSuffix(stderr.String(), "geist: stopped before it was done\n") {
		t.Errorf("selftest: exit code %d, %q", code, stderr)
	}
}

// TestHint: what a person can do about a store that cannot be made has nothing
// to do with the model.
func TestHint(t *testing.T) {
	for op, want := range map[string]bool{"open": true, "mkdir": false} {
		err := hint(&fs.PathError{Op: op, Path: "x", Err: fs.ErrNotExist})
		if got := strings.Contains(err.Error(), "give the path of a .gguf file"); got != want {
			t.Errorf("%s: %v", op, err)
		}
	}
}

// TestFullOutput: a result that could not be written is a failure.
func TestFullOutput(t *testing.T) {
	for _, args := range [][]string{{"version"}, {"version", "--json"}, {"models", "list", "--json"}} {
		e, _, _ := command(t)
		e.out.W = failing{}
		if code := e.run(t.Context(), args); code != exitFailure {
			t.Errorf("geist %v: exit code %d", args, code)
		}
	}
}

type failing struct{}

func (failing) Write([]byte) (int, error) { return 0, errors.New("no space left on device") }

// TestReadmeCommand: what the README tells a newcomer to run is understood.
func TestReadmeCommand(t *testing.T) {
	b, err := os.ReadFile("../../README.md")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, ok := strings.Cut(string(b), "\ngo run ./cmd/geist ")
	line, _, _ := strings.Cut(rest, "\n")
	if !ok {
		t.Fatal("README.md does not say: go run ./cmd/geist")
	}
	e, _, stderr := command(t)
	if code := e.run(t.Context(), append(strings.Fields(line), "--help")); code != exitOK {
		t.Errorf("go run ./cmd/geist %s: %s", line, stderr)
	}
}
