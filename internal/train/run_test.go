package train

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/geistnet/geist/internal/gguf"
	"github.com/geistnet/geist/internal/matmul"
)

// book is a text of short tales, enough for a small vocabulary.
func book(n int) []byte {
	var b strings.Builder
	who := []string{"fox", "crow", "king", "witch", "giant"}
	for i := range n {
		a, c := who[i%5], who[(i/5+1+i)%5]
		fmt.Fprintf(&b, "Once upon a time there was a %s, who lived in wood number %d with a %s.\n", a, i, c)
		fmt.Fprintf(&b, "Then the %s went to the %s and asked for bread, and the %s cried all night long.\n", a, c, c)
		fmt.Fprintf(&b, "So the %s and the %s took their bread home, and they lived happily ever after.\n", a, c)
	}
	return []byte(b.String())
}

// brief is a recipe that runs in a moment.
func brief() Recipe {
	s := small()
	s.Vocab, s.Context, s.Dim, s.FF, s.HeadDim, s.HashHeads = 300, 128, 32, 192, 8, 3
	s.ProductDim = 32
	r := Tales()
	r.Name, r.Shape, r.Steps, r.Warmup, r.Every, r.Batch = "brief", s, 7, 2, 3, 2
	return r
}

func options(dir string, threads int) Options {
	return Options{Checkpoint: filepath.Join(dir, "state"), Interval: time.Hour, Threads: threads, Path: matmul.Best(), Now: time.Now}
}

func newRun(t *testing.T, r Recipe, o Options) *Run {
	t.Helper()
	run, err := NewRun(r, book(60), o)
	if err != nil {
		t.Fatal(err)
	}
	return run
}

func export(t *testing.T, r *Run) []byte {
	t.Helper()
	var b bytes.Buffer
	if err := r.Export(&b); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// TestResume stops a run after every step, in two ways, and demands the bytes
// of a run that was never stopped.
func TestResume(t *testing.T) {
	whole := newRun(t, brief(), options(t.TempDir(), 1))
	if err := whole.Train(t.Context()); err != nil {
		t.Fatal(err)
	}
	want := export(t, whole)
	roots := fmt.Sprint(whole.Model.Tables[0].Root(), whole.Model.Tables[1].Root())

	dir := t.TempDir()
	for stop := 1; ; stop++ {
		o := options(dir, 2)
		ctx, cancel := context.WithCancel(t.Context())
		steps := 0
		o.Report = func(p Progress) {
			if steps++; steps == 2 {
				cancel()
			}
		}
		if stop%2 == 0 {
			// A checkpoint after every step, and nothing when the process dies:
			// the run panics in the middle of its second step.
			o.Interval = 0
			o.Report = func(p Progress) {
				if steps++; steps == 2 {
					panic("killed")
				}
			}
		}
		run := newRun(t, brief(), o)
		if stop > 1 && run.Model.Step == 0 {
			t.Fatal("the run began again instead of going on")
		}
		err := func() (err error) {
			defer func() {
				if recover() != nil {
					err = context.Canceled
				}
			}()
			return run.Train(ctx)
		}()
		cancel()
		if err == nil {
			if got := export(t, run); !bytes.Equal(got, want) {
				t.Error("the interrupted run made another model")
			}
			if got := fmt.Sprint(run.Model.Tables[0].Root(), run.Model.Tables[1].Root()); got != roots {
				t.Errorf("roots %s, want %s", got, roots)
			}
			if !bytes.Equal(run.Losses(), whole.Losses()) {
				t.Errorf("losses\n%s\nwant\n%s", run.Losses(), whole.Losses())
			}
			break
		}
		if !errors.Is(err, context.Canceled) {
			t.Fatal(err)
		}
		if stop > 20 {
			t.Fatal("the run never ends")
		}
	}
	if l := whole.History.Loss; l[len(l)-1] >= l[0] {
		t.Errorf("losses %v do not fall", l)
	}
}

// TestCheckpointAltered changes and cuts a checkpoint everywhere.
func TestCheckpointAltered(t *testing.T) {
	r := brief()
	r.Shape.Dim, r.Shape.FF, r.Shape.Vocab, r.Shape.HashRows = 16, 48, 300, 2
	m, err := NewModel(r.Shape, 1)
	if err != nil {
		t.Fatal(err)
	}
	m.Step = 4
	h := &History{Loss: []float64{4, 3, 2, 1}, Held: []float64{5}}
	id := r.identity([32]byte{1})
	var b bytes.Buffer
	if err := writeCheckpoint(&b, id, m, h); err != nil {
		t.Fatal(err)
	}
	whole := b.Bytes()
	read := func(b []byte) error {
		var got History
		m2, err := NewModel(r.Shape, 2)
		if err != nil {
			t.Fatal(err)
		}
		err = readCheckpoint(bytes.NewReader(b), id, r.Every, m2, &got)
		if err == nil && (bitsOf(m2) != bitsOf(m) || m2.Step != 4 || fmt.Sprint(got) != fmt.Sprint(*h)) {
			t.Fatal("a checkpoint reads back otherwise")
		}
		return err
	}
	// Gradients are no part of a checkpoint; both models have none.
	if err := read(whole); err != nil {
		t.Fatal(err)
	}
	for at := 0; at < len(whole); at += 1 + at/7 {
		altered := bytes.Clone(whole)
		altered[at] ^= 0x40
		if read(altered) == nil {
			t.Fatalf("byte %d of %d altered: no error", at, len(whole))
		}
		if read(whole[:at]) == nil {
			t.Fatalf("cut after %d of %d bytes: no error", at, len(whole))
		}
	}
	if read(append(bytes.Clone(whole), 0)) == nil {
		t.Fatal("a byte more: no error")
	}
	other := brief()
	other.Seed++
	if err := readCheckpoint(bytes.NewReader(whole), other.identity([32]byte{1}), 3, m, h); !errors.Is(err, errOther) {
		t.Errorf("the checkpoint of another recipe: %v", err)
	}
}

func TestRunRefusesOtherCheckpoint(t *testing.T) {
	o := options(t.TempDir(), 1)
	if err := os.WriteFile(o.Checkpoint, []byte("no checkpoint at all"), 0o666); err != nil {
		t.Fatal(err)
	}
	if _, err := NewRun(brief(), book(60), o); !errors.Is(err, errOther) {
		t.Errorf("error %v, want that it is of another run", err)
	}
}

// TestExport reads the file of a model back.
func TestExport(t *testing.T) {
	run := newRun(t, brief(), options(t.TempDir(), 1))
	f, err := gguf.Parse("brief.gguf", export(t, run))
	if err != nil {
		t.Fatal(err)
	}
	if f.Arch() != "geist" {
		t.Errorf("architecture %q", f.Arch())
	}
	if rules, _ := f.Strings("geist.memory.rule"); fmt.Sprint(rules) != "[ hash product]" {
		t.Errorf("rules %q", rules)
	}
	for name, dims := range map[string]string{
		"blk.1.memory.weight": "[32 120]", "blk.2.memory.weight": "[192 36]", "blk.2.memory_query.weight": "[32 128]",
		"blk.2.memory_keys.weight": "[32 24]", "blk.0.ffn_up.weight": "[32 192]", "output_norm.weight": "[32]",
	} {
		if x := f.Tensor(name); x == nil || fmt.Sprint(x.Dims) != dims {
			t.Errorf("tensor %s is %+v, want dimensions %s", name, x, dims)
		}
	}
	if f.Tensor("blk.1.ffn_up.weight") != nil {
		t.Error("a memory block has a matrix of its own for u")
	}
}

func TestWindows(t *testing.T) {
	var texts [][]int32
	for i := range 100 {
		n := 2 + i*7%40
		text := make([]int32, n)
		for j := range text {
			text[j] = int32(100*i + j)
		}
		texts = append(texts, text)
	}
	s, err := newSource(texts, 64, 1, true)
	if err != nil {
		t.Fatal(err)
	}
	epoch := len(s.windows)
	var b Batch
	s.fill(&b, 0, epoch)
	seen := map[int32]int{}
	for i, id := range b.In {
		if b.Out[i] == None {
			continue
		}
		seen[id]++
		if b.Out[i] != id+1 {
			t.Fatalf("after %d comes %d", id, b.Out[i])
		}
		if start := b.In[b.Start[i]]; start != id-id%100 || int(b.Start[i])/64 != i/64 {
			t.Fatalf("token %d starts at %d", id, start)
		}
	}
	for _, text := range texts {
		for _, id := range text[:len(text)-1] {
			if seen[id] != 1 {
				t.Fatalf("token %d was read %d times", id, seen[id])
			}
		}
	}
	// Far ahead and back again.
	far := append([]int(nil), s.window(5*epoch)...)
	first := fmt.Sprint(s.window(0))
	if fmt.Sprint(s.window(5*epoch)) != fmt.Sprint(far) {
		t.Error("a window depends on what was read before")
	}
	s2, err := newSource(texts, 64, 1, true)
	if err != nil || fmt.Sprint(s2.window(0)) != first {
		t.Errorf("the first window changed, or error %v", err)
	}
	for _, bad := range [][][]int32{nil, {{1}}, {make([]int32, 66)}} {
		if _, err := newSource(bad, 64, 1, true); err == nil {
			t.Errorf("texts %v: no error", bad)
		}
	}
}

// TestHashRows compares the rows that texts read in a shared window with those
// that the rule gives for each text by itself.
func TestHashRows(t *testing.T) {
	s := small()
	m, err := NewModel(s, 1)
	if err != nil {
		t.Fatal(err)
	}
	tr := NewTrainer(m, 2, matmul.Best(), 2)
	b := randomBatch(4, 2, s)
	if _, err := tr.Loss(b); err != nil {
		t.Fatal(err)
	}
	h := s.hash(1)
	alone := 0
	for i := range b.In {
		got := tr.layers[1].mem.ids[i*h.Count() : (i+1)*h.Count()]
		var text []int32
		for j := i; j >= 0 && b.Start[j] == b.Start[i]; j-- {
			text = append([]int32{b.In[j]}, text...)
		}
		if len(text) == 1 {
			alone++
		}
		for j, id := range h.IDs(nil, text) {
			if int(got[j]) != id {
				t.Fatalf("token %d reads row %d for part %d, its text alone reads %d", i, got[j], j, id)
			}
		}
	}
	if alone != 4 {
		t.Errorf("%d texts in two windows, want 4", alone)
	}
}
