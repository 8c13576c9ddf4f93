package train

import (
	"bytes"
	"testing"
)

// FuzzCheckpoint reads what may be a checkpoint. One that is taken is written
// again to the same bytes.
func FuzzCheckpoint(f *testing.F) {
	r := brief()
	r.Shape = Shape{Vocab: 4, Dim: 2, Heads: 1, KVHeads: 1, HeadDim: 2, FF: 2, Context: 2, Eps: 1e-5, RopeBase: 100,
		Blocks: []string{Hash}, HashOrders: []int{1}, HashHeads: 1, HashRows: 2}
	id := []byte("a run")
	model := func() *Model {
		m, err := NewModel(r.Shape, 1)
		if err != nil {
			f.Fatal(err)
		}
		return m
	}
	for _, h := range []History{{}, {Loss: []float64{3, 2, 1}, Held: []float64{4}}} {
		m := model()
		m.Step = len(h.Loss)
		var b bytes.Buffer
		if err := writeCheckpoint(&b, id, m, &h); err != nil {
			f.Fatal(err)
		}
		f.Add(b.Bytes())
		f.Add(b.Bytes()[:b.Len()/2])
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		m, h := model(), &History{}
		if readCheckpoint(bytes.NewReader(b), id, 3, m, h) != nil {
			return
		}
		var again bytes.Buffer
		if err := writeCheckpoint(&again, id, m, h); err != nil || !bytes.Equal(again.Bytes(), b) {
			t.Fatalf("written again otherwise, or error %v", err)
		}
	})
}
