package train

import (
	"bytes"
	"math"
	"testing"

	"github.com/geistnet/geist/internal/gguf"
	"github.com/geistnet/geist/internal/kernel"
)

// TestCanonical trains a model and computes its loss as an answer would be
// computed: from the file, with 8-bit weights and inputs.
func TestCanonical(t *testing.T) {
	r := brief()
	r.Steps, r.Rate, r.RowRate = 40, 1e-2, 5e-2
	run := newRun(t, r, options(t.TempDir(), 2))
	before, err := run.LossOf(run.Corpus.Held[:8])
	if err != nil {
		t.Fatal(err)
	}
	if err := run.Train(t.Context()); err != nil {
		t.Fatal(err)
	}
	f, err := gguf.Parse("brief.gguf", export(t, run))
	if err != nil {
		t.Fatal(err)
	}
	want, err := run.LossOf(run.Corpus.Held[:8])
	if err != nil {
		t.Fatal(err)
	}
	got, err := Canonical(f, run.Corpus.Held[:8], kernel.Best(), 2)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("loss %.5f untrained, %.5f trained, %.5f in canonical arithmetic", before, want, got)
	if math.Abs(got-want) > 0.01*want {
		t.Errorf("canonical loss %.5f, that of training %.5f", got, want)
	}
	if want > 0.7*before {
		t.Errorf("the loss fell from %.4f to %.4f only: memory may not have been of use", before, want)
	}
	// The comparison sees it when the rows are not those of the model.
	clear(run.Model.Tables[0].W)
	var b bytes.Buffer
	if err := run.Export(&b); err != nil {
		t.Fatal(err)
	}
	if f, err = gguf.Parse("brief.gguf", b.Bytes()); err != nil {
		t.Fatal(err)
	}
	empty, err := Canonical(f, run.Corpus.Held[:8], kernel.Best(), 2)
	if err != nil {
		t.Fatal(err)
	}
	if math.Abs(empty-want) <= 0.01*want {
		t.Errorf("without its rows the model has loss %.5f, with them %.5f", empty, want)
	}
	if _, err := Canonical(f, nil, kernel.Best(), 1); err == nil {
		t.Error("no texts: no error")
	}
	if _, err := run.LossOf(nil); err == nil {
		t.Error("no texts: no error")
	}
}
