package local

import (
	"bytes"
	"context"
	"errors"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/fstest"
	"time"

	"github.com/geistnet/geist/arith"
	"github.com/geistnet/geist/internal/chat"
	"github.com/geistnet/geist/internal/constrain"
	"github.com/geistnet/geist/internal/engine"
	"github.com/geistnet/geist/internal/gguf"
	"github.com/geistnet/geist/internal/prompt"
	"github.com/geistnet/geist/internal/synth"
	"github.com/geistnet/geist/internal/tokenizer"
)

// tiny writes a small random model with further metadata and, for factors > 0,
// two sets of that many rotary factors.
func tiny(t *testing.T, factors int, extra ...gguf.KV) *gguf.File {
	t.Helper()
	spec := synth.Presets["tiny"]
	spec.Type = "f32"
	var b bytes.Buffer
	if err := synth.Write(&b, spec, nil); err != nil {
		t.Fatal(err)
	}
	f, err := gguf.Parse("tiny", b.Bytes())
	if err != nil {
		t.Fatal(err)
	}
	var infos []gguf.TensorInfo
	for _, x := range f.Tensors() {
		infos = append(infos, x.Info())
	}
	one := make([]byte, 4*factors)
	for i := 3; i < len(one); i += 4 {
		one[i-1], one[i] = 0x80, 0x3f
	}
	if factors > 0 {
		for _, n := range []string{"rope_factors_short.weight", "rope_factors_long.weight"} {
			infos = append(infos, gguf.TensorInfo{Name: n, Dims: []uint64{uint64(factors)}, Format: arith.F32})
		}
	}
	var out bytes.Buffer
	w, err := gguf.NewWriter(&out, append(f.Meta(), extra...), infos)
	if err != nil {
		t.Fatal(err)
	}
	for _, x := range f.Tensors() {
		if err := w.WriteTensor(x.Data); err != nil {
			t.Fatal(err)
		}
	}
	for range 2 * min(1, factors) {
		if err := w.WriteTensor(one); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if f, err = gguf.Parse("tiny", out.Bytes()); err != nil {
		t.Fatal(err)
	}
	return f
}

func open(t *testing.T, f *gguf.File, o Options) *Model {
	t.Helper()
	m, err := Open(t.Context(), f, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := m.Close(); err != nil {
			t.Error(err)
		}
	})
	return m
}

// TestPlan: the memory is known before anything is loaded, and too much of it
// is refused with what would fit.
func TestPlan(t *testing.T) {
	f := tiny(t, 0)
	o := Options{Threads: 1, Engine: engine.Options{Context: 1000, Sessions: 1}}
	mem, err := Plan(f, o)
	if err != nil || mem.Weights == 0 || mem.KV == 0 || mem.Scratch == 0 {
		t.Fatalf("%+v, %v", mem, err)
	}
	if m := open(t, f, o); m.Memory != mem || m.Engine.Context() != 1000 {
		t.Errorf("%+v was predicted, %+v is; context %d", mem, m.Memory, m.Engine.Context())
	}
	o.Available = mem.Total()
	if _, err := Plan(f, o); err != nil {
		t.Errorf("exactly enough memory: %v", err)
	}
	o.Available -= mem.KV / 2
	var short *MemoryError
	if _, err := Plan(f, o); !errors.As(err, &short) || short.Fits < 64 || short.Fits >= 1000 || short.Context != 1000 {
		t.Fatalf("too little memory: %v", err)
	}
	if _, err := Open(t.Context(), f, o); !errors.As(err, &short) {
		t.Errorf("Open with too little memory: %v", err)
	}
	o.Engine.Context = short.Fits
	if _, err := Plan(f, o); err != nil {
		t.Errorf("a context of %d was said to fit: %v", short.Fits, err)
	}
	o.Available = mem.Weights
	if _, err := Plan(f, o); !errors.As(err, &short) || short.Fits != 0 {
		t.Errorf("hardly any memory: %v", err)
	}
	for _, bad := range []Options{{Threads: -1}, {Threads: 1 << 20}, {Engine: engine.Options{Context: 1 << 20}}} {
		if _, err := Plan(f, bad); err == nil {
			t.Errorf("%+v is accepted", bad)
		}
	}
}

func TestOpenCancelled(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	loads := 0
	o := Options{Threads: 1, Progress: func(done, total int64) {
		loads++
		cancel()
	}}
	if _, err := Open(ctx, tiny(t, 0), o); !errors.Is(err, context.Canceled) || loads != 1 {
		t.Errorf("after %d matrices: %v", loads, err)
	}
}

// TestLong: the second set of rotary factors is for contexts beyond the first.
func TestLong(t *testing.T) {
	f := tiny(t, 8, gguf.KV{Key: "llama.rope.scaling.original_context_length", Value: gguf.ValueOf(uint32(256))})
	for context, want := range map[int]string{256: "rope_factors_long.weight", 257: "rope_factors_short.weight"} {
		m := open(t, f, Options{Threads: 1, Engine: engine.Options{Context: context, Sessions: 1}})
		if _, ignored := m.m.Ignored[want]; !ignored || len(m.m.Ignored) != 1 {
			t.Errorf("context %d: %v are left out", context, m.m.Ignored)
		}
	}
}

func TestPrompts(t *testing.T) {
	str := func(key, value string) gguf.KV { return gguf.KV{Key: key, Value: gguf.ValueOf(value)} }
	hello := []chat.Message{{Role: "user", Content: "hello"}}
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

	m := open(t, tiny(t, 0), Options{Threads: 1})
	if _, err := m.Chat(hello, now); !errors.Is(err, prompt.ErrNoTemplate) || m.HasTemplate() {
		t.Errorf("without a template: %v", err)
	}
	empty, err := m.Text("")
	if err != nil || !slices.Equal(empty, []int32{1}) {
		t.Errorf("no text: %v, %v", empty, err)
	}
	bos, err := m.Text("<s>hello")
	if plain, _ := m.Text("hello"); err != nil || bos[0] != 1 || bos[1] == 1 || plain[0] != 1 || plain[1] == 1 {
		t.Errorf("%v and %v begin", bos, plain)
	}
	state, err := m.Constrain(constrain.JSONObject())
	if err != nil {
		t.Fatal(err)
	}
	allowed := make([]uint64, (m.Config().Vocab+63)/64)
	state.Allowed(allowed)
	if brace, _ := m.Tokenizer.TokenID("<0x7B>"); allowed[brace/64]>>(brace%64)&1 != 1 || allowed[0]&1 != 0 {
		t.Errorf("what may begin an object: %x", allowed)
	}

	m = open(t, tiny(t, 0, str("tokenizer.chat_template", "{{ bos_token }}{% for m in messages %}{{ m.content }}{% endfor %}{{ strftime_now('%Y') }}{{ eos_token }}")), Options{Threads: 1})
	ids, err := m.Chat(hello, now)
	want, _ := m.Text("hello2026</s>")
	if err != nil || !m.HasTemplate() || !slices.Equal(ids, want) {
		t.Errorf("%v, want %v, %v", ids, want, err)
	}
	m = open(t, tiny(t, 0, str("tokenizer.chat_template", "{% for %}")), Options{Threads: 1})
	if _, err := m.Chat(hello, now); err == nil || !strings.Contains(err.Error(), "chat template") {
		t.Errorf("a broken template: %v", err)
	}
}

func TestNoVocabulary(t *testing.T) {
	f := tiny(t, 0)
	var meta []gguf.KV
	for _, kv := range f.Meta() {
		if !strings.HasPrefix(kv.Key, "tokenizer.") {
			meta = append(meta, kv)
		}
	}
	meta = append(meta, gguf.KV{Key: "tokenizer.ggml.model", Value: gguf.ValueOf("no_vocab")})
	var infos []gguf.TensorInfo
	for _, x := range f.Tensors() {
		infos = append(infos, x.Info())
	}
	var b bytes.Buffer
	w, err := gguf.NewWriter(&b, meta, infos)
	if err != nil {
		t.Fatal(err)
	}
	for _, x := range f.Tensors() {
		if err := w.WriteTensor(x.Data); err != nil {
			t.Fatal(err)
		}
	}
	if f, err = gguf.Parse("bare", b.Bytes()); err != nil {
		t.Fatal(err)
	}
	m := open(t, f, Options{Threads: 1})
	if _, err := m.Text("hello"); !errors.Is(err, tokenizer.ErrNoVocab) {
		t.Errorf("text: %v", err)
	}
	if _, err := m.Constrain(constrain.JSONObject()); !errors.Is(err, tokenizer.ErrNoVocab) {
		t.Errorf("grammar: %v", err)
	}
	a, err := m.Engine.Generate(t.Context(), engine.Request{Prompt: []int32{5}, MaxTokens: 3, TopLogProbs: -1})
	if err != nil || a.Result().Tokens != 3 {
		t.Errorf("ids: %v", err)
	}
}

func TestLinuxMemory(t *testing.T) {
	file := func(s string) *fstest.MapFile { return &fstest.MapFile{Data: []byte(s)} }
	info := file("MemTotal:  100 kB\nMemAvailable:     80 kB\n")
	const group = "sys/fs/cgroup/a/b/"
	for _, c := range []struct {
		name string
		fs   fstest.MapFS
		want int64
	}{
		{"nothing known", fstest.MapFS{}, 0},
		{"no groups", fstest.MapFS{"proc/meminfo": info}, 80 << 10},
		{"other groups", fstest.MapFS{"proc/meminfo": info, "proc/self/cgroup": file("4:memory:/a\n0::/a/b\n"), group + "memory.max": file("max\n"), group + "memory.current": file("5\n")}, 80 << 10},
		{"a limit", fstest.MapFS{"proc/meminfo": info, "proc/self/cgroup": file("0::/a/b\n"), group + "memory.max": file("5000\n"), group + "memory.current": file("2000\n"), group + "memory.stat": file("anon 7\ninactive_file 500\n")}, 3500},
		{"a limit above", fstest.MapFS{"proc/meminfo": info, "proc/self/cgroup": file("0::/a/b\n"), "sys/fs/cgroup/a/memory.max": file("5000\n"), "sys/fs/cgroup/a/memory.current": file("6000\n")}, 1},
		{"a high limit", fstest.MapFS{"proc/meminfo": info, "proc/self/cgroup": file("0::/\n"), "sys/fs/cgroup/memory.max": file("500000\n"), "sys/fs/cgroup/memory.current": file("0\n")}, 80 << 10},
		{"nonsense", fstest.MapFS{"proc/meminfo": file("MemAvailable:\n"), "proc/self/cgroup": file("0::/../..\n0::\n")}, 0},
	} {
		if got := linuxMemory(c.fs); got != c.want {
			t.Errorf("%s: %d, want %d", c.name, got, c.want)
		}
	}
	if got := Available(); got < 0 {
		t.Errorf("this machine has %d bytes", got)
	}
}

// asked counts what is read of another file's tables.
type asked struct {
	f    *gguf.File
	rows atomic.Int64
}

func (a *asked) Table(name string) (arith.Format, int, int, bool) {
	t := a.f.Tensor(name)
	return t.Format, t.Rows(), t.Cols(), true
}

func (a *asked) Rows(name string, ids []int, dst []byte) error {
	t := a.f.Tensor(name)
	n := t.Format.RowBytes(t.Cols())
	for i, id := range ids {
		copy(dst[i*n:(i+1)*n], t.Data[id*n:])
	}
	a.rows.Add(int64(len(ids)))
	return nil
}

// TestRows: rows of memory blocks may come from elsewhere.
func TestRows(t *testing.T) {
	spec := synth.Presets["tiny"]
	spec.Arch, spec.Type = "geist", "f16"
	spec.Memory = &synth.Memory{Rules: []string{"hash", "product"}, HashHeads: 2, HashRows: 31, ProductHeads: 2, Keys: 11, KeyDim: 16, TopK: 4}
	var b bytes.Buffer
	if err := synth.Write(&b, spec, nil); err != nil {
		t.Fatal(err)
	}
	var answers [2][]int32
	source := new(asked)
	for i := range answers {
		f, err := gguf.Parse("memory", b.Bytes())
		if err != nil {
			t.Fatal(err)
		}
		o := Options{Threads: 1, Engine: engine.Options{Context: 64, Sessions: 1}}
		if i == 1 {
			source.f = f
			o.Rows = source
		}
		m := open(t, f, o)
		a, err := m.Engine.Generate(t.Context(), engine.Request{Prompt: []int32{5, 6, 7, 5, 6}, MaxTokens: 6})
		if err != nil {
			t.Fatal(err)
		}
		for tok, ok := a.Next(); ok; tok, ok = a.Next() {
			answers[i] = append(answers[i], tok.ID)
		}
		if err := a.Result().Err; err != nil {
			t.Fatal(err)
		}
	}
	if !slices.Equal(answers[0], answers[1]) || len(answers[0]) != 6 {
		t.Errorf("answers %v and %v", answers[0], answers[1])
	}
	// Ten positions were computed, of 4 rows of n-grams and 8 of product keys each.
	if n := source.rows.Load(); n != 10*12 {
		t.Errorf("%d rows were asked for", n)
	}
}
