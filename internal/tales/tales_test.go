package tales

import (
	"crypto/sha256"
	"fmt"
	"os"
	"testing"

	"github.com/geistnet/geist/internal/gguf"
	"github.com/geistnet/geist/internal/kernel"
	"github.com/geistnet/geist/internal/tokenizer"
	"github.com/geistnet/geist/internal/train"
)

// digest is the SHA-256 that "geist train tales" printed.
const digest = "4ee96ba7d82de7fa89f93844d797031f04858f8ec4eb55cc9a10a7b90ee5fab3"

func TestFile(t *testing.T) {
	if got := fmt.Sprintf("%x", sha256.Sum256(Bytes())); got != digest {
		t.Errorf("the model file has SHA-256 %s, want %s", got, digest)
	}
	if Size() > 12<<20 {
		t.Errorf("the model file has %d bytes; the program carries 12 MB at most", Size())
	}
	f, err := Open()
	if err != nil {
		t.Fatal(err)
	}
	if f.Arch() != "geist" {
		t.Errorf("architecture %q", f.Arch())
	}
}

// TestLoss measures the model on a tale of our own, which nobody trained it on.
// The bits of its answer are those of the canonical arithmetic, so the loss is
// exact.
func TestLoss(t *testing.T) {
	f, err := Open()
	if err != nil {
		t.Fatal(err)
	}
	tok, err := tokenizer.New(f)
	if err != nil {
		t.Fatal(err)
	}
	const text = "<|user|>Tell me a story about a fox.<|tale|>Once upon a time there was a fox who lived in a great forest. " +
		"One day he went out to look for food, and he met an old woman. \"Good day, mother,\" said the fox. " +
		"\"Where are you going?\" And she gave him a piece of bread, and he went home and lived happily ever after.<|end|>"
	ids := tok.Encode(text, tokenizer.Options{ParseSpecial: true})
	var losses []float64
	for _, p := range kernel.Paths() {
		l, err := train.Canonical(f, [][]int32{ids}, p, 2)
		if err != nil {
			t.Fatal(err)
		}
		losses = append(losses, l)
		if l != losses[0] {
			t.Errorf("%v: loss %v, want %v", p, l, losses[0])
		}
	}
	if losses[0] > 4 {
		t.Errorf("loss %.3f nats per token", losses[0])
	}
	t.Logf("%d tokens, loss %.4f", len(ids), losses[0])
}

// TestHeldOut measures a part of the held-out text, if the text is there.
func TestHeldOut(t *testing.T) {
	if testing.Short() {
		t.Skip("slow: prepares the whole text")
	}
	text, err := os.ReadFile("../../../shared/data/fairy-tales.txt")
	if err != nil {
		t.Skipf("../shared/data/fairy-tales.txt is not there: %v", err)
	}
	r := train.Tales()
	set, err := r.Prepare(text)
	if err != nil {
		t.Fatal(err)
	}
	f, err := Open()
	if err != nil {
		t.Fatal(err)
	}
	want, err := gguf.Parse("again", Bytes())
	if err != nil || fmt.Sprint(want.Keys()) != fmt.Sprint(f.Keys()) {
		t.Fatalf("two copies of the file differ, or error %v", err)
	}
	loss, err := train.Canonical(f, set.Held[:10], kernel.Best(), 2)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("held-out loss of 10 texts %.4f", loss)
	if loss > 5 {
		t.Errorf("held-out loss %.4f", loss)
	}
}
