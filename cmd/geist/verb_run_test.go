package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/geistnet/geist/internal/console"
	"github.com/geistnet/geist/internal/gguf"
	"github.com/geistnet/geist/internal/synth"
)

var update = flag.Bool("update", false, "write the golden answers of testdata/run")

// TestRun runs testdata/run/*.txtar. Beside the usual commands there is
//
//	mkmodel FILE [KEY=VALUE...]   writes a small random model; see newModel
//	exit CODE CMD...              demands an exit code
//
// and the variable STORIES, the path of stories260K.gguf, if [stories] is true.
func TestRun(t *testing.T) {
	stories, err := filepath.Abs("../../../shared/data/models/stories260K.gguf")
	if err == nil {
		_, err = os.Stat(stories)
	}
	testscript.Run(t, testscript.Params{
		Dir:           "testdata/run",
		UpdateScripts: *update,
		Setup: func(e *testscript.Env) error {
			e.Setenv("GEIST_HOME", filepath.Join(e.WorkDir, "home"))
			e.Setenv("STORIES", stories)
			return nil
		},
		Condition: func(cond string) (bool, error) {
			if cond == "stories" {
				return err == nil, nil
			}
			return false, fmt.Errorf("unknown condition %q", cond)
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"mkmodel": func(ts *testscript.TestScript, neg bool, args []string) {
				if neg || len(args) == 0 {
					ts.Fatalf("usage: mkmodel FILE [KEY=VALUE...]")
				}
				ts.Check(newModel(ts.MkAbs(args[0]), args[1:]...))
			},
			"exit": func(ts *testscript.TestScript, neg bool, args []string) {
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

// newModel writes a random model. Of options, "type=f32" is its weight format,
// "vocabulary=no" leaves the tokenizer out, and any other is a metadata key
// with a string, or a number if the value is one.
func newModel(path string, options ...string) error {
	spec := synth.Presets["tiny"]
	spec.Type = "q8_0"
	var extra []gguf.KV
	vocabulary := true
	for _, o := range options {
		key, value, _ := strings.Cut(o, "=")
		var n uint32
		switch _, err := fmt.Sscanf(value, "%d", &n); {
		case key == "type":
			spec.Type = value
		case key == "vocabulary":
			vocabulary = false
		case err == nil:
			extra = append(extra, gguf.KV{Key: key, Value: gguf.ValueOf(n)})
		default:
			extra = append(extra, gguf.KV{Key: key, Value: gguf.ValueOf(value)})
		}
	}
	var b bytes.Buffer
	if err := synth.Write(&b, spec, nil); err != nil {
		return err
	}
	f, err := gguf.Parse(path, b.Bytes())
	if err != nil {
		return err
	}
	var meta []gguf.KV
	for _, kv := range f.Meta() {
		replaced := slices.ContainsFunc(extra, func(x gguf.KV) bool { return x.Key == kv.Key })
		if !replaced && (vocabulary || !strings.HasPrefix(kv.Key, "tokenizer.")) {
			meta = append(meta, kv)
		}
	}
	if !vocabulary {
		extra = append(extra, gguf.KV{Key: "tokenizer.ggml.model", Value: gguf.ValueOf("no_vocab")})
	}
	var infos []gguf.TensorInfo
	for _, t := range f.Tensors() {
		infos = append(infos, t.Info())
	}
	var out bytes.Buffer
	w, err := gguf.NewWriter(&out, append(meta, extra...), infos)
	if err != nil {
		return err
	}
	for _, t := range f.Tensors() {
		if err := w.WriteTensor(t.Data); err != nil {
			return err
		}
	}
	if err := w.Close(); err != nil {
		return err
	}
	return os.WriteFile(path, out.Bytes(), 0o666)
}

// runCommand executes "geist run MODEL ARGS" in this process.
func runCommand(t *testing.T, ctx context.Context, model, stdin string, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	e, out, errOut := command(t)
	e.stdin = strings.NewReader(stdin)
	code = e.run(ctx, append([]string{"run", model}, args...))
	return code, out.String(), errOut.String()
}

func tinyModel(t *testing.T, options ...string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "tiny.gguf")
	if err := newModel(file, options...); err != nil {
		t.Fatal(err)
	}
	return file
}

const template = `{{ bos_token }}{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}<a>`

func ran(t *testing.T, model, stdin string, args ...string) runResult {
	t.Helper()
	code, stdout, stderr := runCommand(t, t.Context(), model, stdin, append(args, "--json")...)
	var r runResult
	if err := json.Unmarshal([]byte(stdout), &r); code != exitOK || err != nil {
		t.Fatalf("run %v: exit code %d, %v, %s", args, code, err, stderr)
	}
	return r
}

// TestRunBOS: the token that begins a text stands there once, whoever writes it.
func TestRunBOS(t *testing.T) {
	const bos = 1
	with, without := tinyModel(t, "tokenizer.chat_template="+template), tinyModel(t, "tokenizer.chat_template="+strings.TrimPrefix(template, "{{ bos_token }}"))
	var all [][]int32
	for _, r := range []runResult{
		ran(t, with, "", "hello", "--max-tokens", "1"),
		ran(t, without, "", "hello", "--max-tokens", "1"),
		ran(t, with, "hello", "--max-tokens", "1"),
		ran(t, with, "", "<s><user>hello<a>", "--raw", "--max-tokens", "1"),
	} {
		all = append(all, r.PromptIDs)
	}
	for i, ids := range all {
		if len(ids) < 4 || ids[0] != bos || slices.Contains(ids[1:], bos) {
			t.Errorf("prompt %d: %v", i, ids)
		}
		if i == 1 {
			continue // a space may stand before a text that begins the prompt
		}
		if !slices.Equal(ids, all[0]) {
			t.Errorf("prompt %d: %v, not %v", i, ids, all[0])
		}
	}
	raw := ran(t, with, "", "hello", "--raw", "--max-tokens", "1")
	if len(raw.PromptIDs) >= len(all[0]) || raw.PromptIDs[0] != bos {
		t.Errorf("raw prompt: %v", raw.PromptIDs)
	}
	system := ran(t, with, "", "hello", "--system", "sys", "--max-tokens", "1")
	if len(system.PromptIDs) <= len(all[0]) {
		t.Errorf("prompt with a system message: %v", system.PromptIDs)
	}
}

// TestRunRepeats: an answer's seed gives it again, in any way of computing.
func TestRunRepeats(t *testing.T) {
	model := tinyModel(t)
	first := ran(t, model, "", "the", "--max-tokens", "40")
	if len(first.IDs) == 0 || len(first.Seed) != 64 {
		t.Fatalf("%+v", first)
	}
	for _, args := range [][]string{{}, {"--kernel", "generic"}, {"--threads", "1"}, {"--threads", "3", "--context", "64"}} {
		again := ran(t, model, "", append(args, "the", "--max-tokens", "40", "--seed", first.Seed)...)
		if again.Text != first.Text || !slices.Equal(again.IDs, first.IDs) || again.Seed != first.Seed {
			t.Errorf("with %v: %q, not %q", args, again.Text, first.Text)
		}
	}
	other := ran(t, model, "", "the", "--max-tokens", "40")
	if other.Seed == first.Seed || slices.Equal(other.IDs, first.IDs) {
		t.Errorf("another run without a seed gave the same: %+v", other)
	}
}

func TestParseSeed(t *testing.T) {
	for in, want := range map[string]string{
		"1":                      "01" + strings.Repeat("00", 31),
		"18446744073709551615":   strings.Repeat("ff", 8) + strings.Repeat("00", 24),
		strings.Repeat("1f", 32): strings.Repeat("1f", 32),
	} {
		if got, err := parseSeed(in); err != nil || fmt.Sprintf("%x", got) != want {
			t.Errorf("%s: %x, %v", in, got, err)
		}
	}
	for _, in := range []string{"-1", "1.5", "0x1", "18446744073709551616", strings.Repeat("g", 64), strings.Repeat("0", 63) + " "} {
		if _, err := parseSeed(in); err == nil {
			t.Errorf("%q is taken for a seed", in)
		}
	}
}

// TestRunConversation: a conversation keeps what was said, uses the cache for
// it, and forgets it when told.
func TestRunConversation(t *testing.T) {
	model := tinyModel(t, "tokenizer.chat_template="+template)
	long := strings.Repeat("word ", 40)
	args := []string{"--chat", "--stats", "--seed", "1", "--max-tokens", "5"}
	prompts := func(stdin string) (tokens, cached []int, stdout string) {
		t.Helper()
		code, stdout, stderr := runCommand(t, t.Context(), model, stdin, args...)
		if code != exitOK {
			t.Fatalf("exit code %d: %s", code, stderr)
		}
		for line := range strings.Lines(stderr) {
			var n, c int
			if _, err := fmt.Sscanf(line, "prompt: %d tokens, %d of them cached", &n, &c); err == nil {
				tokens, cached = append(tokens, n), append(cached, c)
			}
		}
		return tokens, cached, stdout
	}
	kept, cached, stdout := prompts(long + "\n" + long + "\n")
	if len(kept) != 2 || kept[1] < 2*kept[0] || cached[0] != 0 || cached[1] < 64 {
		t.Errorf("prompts of %v tokens, %v cached", kept, cached)
	}
	forgot, _, again := prompts(long + "\n/clear\n" + long + "\n/bye\n" + long)
	if len(forgot) != 2 || forgot[0] != kept[0] || forgot[1] != kept[0] {
		t.Errorf("prompts of %v tokens after /clear", forgot)
	}
	if first, _, _ := strings.Cut(stdout, "\n"); !strings.HasPrefix(again, first+"\n") || first == "" {
		t.Errorf("answers %q and %q", stdout, again)
	}
	block, _, _ := prompts("\"\"\"\nword\nword\n\"\"\"\n")
	if len(block) != 1 {
		t.Errorf("a block of lines made %d prompts", len(block))
	}
}

// TestRunConversationFull: a message for which there is no room is left out,
// and the conversation goes on.
func TestRunConversationFull(t *testing.T) {
	model := tinyModel(t, "tokenizer.chat_template="+template)
	code, stdout, stderr := runCommand(t, t.Context(), model, strings.Repeat("word ", 100)+"\nhi\n", "--chat", "--context", "64", "--max-tokens", "4", "--seed", "1")
	if code != exitOK || !strings.Contains(stderr, "give a larger --context (this model is made for up to 1024)") || !strings.Contains(stderr, "/clear begins a new conversation") || strings.TrimSpace(stdout) == "" {
		t.Errorf("exit code %d, %q, %q", code, stdout, stderr)
	}
}

// trigger calls do at the first write.
type trigger struct {
	b    bytes.Buffer
	once sync.Once
	do   func()
}

func (w *trigger) Write(b []byte) (int, error) {
	w.once.Do(w.do)
	return w.b.Write(b)
}

// endless are flags of an answer that no test waits for. The model has no
// vocabulary, so nothing ends it, and each token is written.
var endless = []string{"--context", "20000", "--ids", "5,6,7"}

func endlessModel(t *testing.T) string {
	return tinyModel(t, "vocabulary=no", "llama.context_length=20000")
}

func TestRunInterrupted(t *testing.T) {
	model := endlessModel(t)
	for _, asJSON := range []bool{false, true} {
		e, _, stderr := command(t)
		ctx, cancel := context.WithCancel(t.Context())
		out := &trigger{do: cancel}
		e.out.W = out
		args := append([]string{"run", model, "--stream", "--json"}, endless...)
		if !asJSON {
			args = append([]string{"run", model}, endless...)
		}
		if code := e.run(ctx, args); code != exitFailure || stderr.String() != "stopped\n" {
			t.Errorf("exit code %d, %q", code, stderr)
		}
		if asJSON && !strings.Contains(out.b.String(), `"finish_reason":"cancelled"`) || out.b.Len() == 0 {
			t.Errorf("output %.200q", out.b.String())
		}
	}
}

// TestRunConversationInterrupted: an interrupt ends the answer under way and
// not the conversation; SIGTERM ends both.
func TestRunConversationInterrupted(t *testing.T) {
	model := tinyModel(t, "llama.context_length=20000", "tokenizer.chat_template="+template)
	for _, c := range []struct {
		signal os.Signal
		ends   bool
	}{{os.Interrupt, false}, {syscall.SIGTERM, true}} {
		e, _, stderr := command(t)
		e.stdin = strings.NewReader("first\n/help\n")
		signals := make(chan os.Signal, 1)
		e.out.W = &trigger{do: func() {
			signals <- c.signal
			for len(signals) > 0 {
				runtime.Gosched()
			}
		}}
		r, err := verbs{e}.newRun(&runFlags{chat: true, context: 20000, temperature: 1, seed: "1", logProbs: -1}, []string{model})
		if err != nil {
			t.Fatal(err)
		}
		defer r.close()
		if err := r.load(t.Context()); err != nil {
			t.Fatal(err)
		}
		err = r.converse(t.Context(), signals)
		if ended := errors.Is(err, context.Canceled); ended != c.ends || err != nil && !ended {
			t.Errorf("%v: error %v", c.signal, err)
		}
		if went := strings.Contains(stderr.String(), "/clear"); went == c.ends {
			t.Errorf("%v: %q", c.signal, stderr)
		}
	}
}

// TestRunSignal sends a real interrupt to a real process.
func TestRunSignal(t *testing.T) {
	model := endlessModel(t)
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	// The test binary is geist if it is called so.
	bin := filepath.Join(t.TempDir(), "geist")
	if err := os.Symlink(exe, bin); err != nil {
		t.Skip("no symbolic links here: " + err.Error())
	}
	read, write, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer read.Close()
	null, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	p, err := os.StartProcess(bin, append([]string{bin, "run", model}, endless...), &os.ProcAttr{Env: os.Environ(), Files: []*os.File{null, write, write}})
	write.Close()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := read.Read(make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	if err := p.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	rest, err := io.ReadAll(read)
	if err != nil {
		t.Fatal(err)
	}
	state, err := p.Wait()
	if err != nil || state.ExitCode() != exitFailure || !strings.HasSuffix(string(rest), "stopped\n") {
		t.Errorf("%v, %v, %.200q", state, err, rest)
	}
}

// TestTextOut: a model cannot move the cursor of a terminal, and pipes get
// what it wrote.
func TestTextOut(t *testing.T) {
	for _, c := range []struct {
		terminal, trim bool
		in             []string
		want           string
	}{
		{true, true, []string{" ", "\n", " a\x1b[2J\tb"}, "a\ufffd[2J\tb\n"},
		{false, false, []string{" a\x1b[2J", "\n"}, " a\x1b[2J\n"},
		{false, true, []string{" "}, "\n"},
	} {
		var b bytes.Buffer
		o := &textOut{w: &b, terminal: c.terminal, trim: c.trim}
		for _, s := range c.in {
			o.write(s)
		}
		o.end()
		if b.String() != c.want || o.err != nil {
			t.Errorf("%q: %q, %v", c.in, b.String(), o.err)
		}
	}
}

func TestRunFullOutput(t *testing.T) {
	model := tinyModel(t)
	for _, args := range [][]string{{"hi"}, {"hi", "--json"}, {"hi", "--json", "--stream"}} {
		e, _, _ := command(t)
		e.out.W = failing{}
		if code := e.run(t.Context(), append([]string{"run", model}, args...)); code != exitFailure {
			t.Errorf("geist run %v: exit code %d", args, code)
		}
	}
}

// TestRunProgress: a load that takes long shows how far it is, on terminals.
func TestRunProgress(t *testing.T) {
	model := tinyModel(t)
	for _, terminal := range []bool{false, true} {
		e, _, stderr := command(t)
		clock := time.Unix(0, 0)
		e.now = func() time.Time { clock = clock.Add(time.Second); return clock }
		e.err = console.Out{W: stderr, Terminal: terminal}
		if code := e.run(t.Context(), []string{"run", model, "hi", "--max-tokens", "1"}); code != exitOK {
			t.Fatal(stderr)
		}
		if shown := strings.Contains(stderr.String(), "100%"); shown != terminal {
			t.Errorf("terminal %v: %q", terminal, stderr)
		}
	}
}
