package ghost

import (
	"bytes"
	"math/rand/v2"
	"reflect"
	"testing"
)

// TestSections demands that the sections are the file, each with a name of its
// own, and that an excerpt of all of them is the model.
func TestSections(t *testing.T) {
	for seed := range uint64(8) {
		m := testModel(seed, seed%2 == 1)
		if seed%3 == 2 {
			m = memoryModel(seed)
		}
		b := encode(t, m)
		s, err := split(b)
		if err != nil {
			t.Fatal(err)
		}
		if got := bytes.Join(s.data, nil); !bytes.Equal(got, b) {
			t.Fatal("the sections are not the file")
		}
		if len(s.at) != len(s.parts) {
			t.Fatalf("%d names of %d sections", len(s.at), len(s.parts))
		}
		x, err := Excerpt(m, s.parts)
		if err != nil {
			t.Fatal(err)
		}
		got, parts, rest, err := ReadExcerpt(m.ID(), append(x, 7))
		if err != nil {
			t.Fatal(err)
		}
		if !reflect.DeepEqual(got, m) || len(parts) != len(s.parts) || len(rest) != 1 {
			t.Fatalf("seed %d: the excerpt is %+v, want %+v", seed, got, m)
		}
	}
}

// TestExcerpt opens random sections: values are those of the model, and no byte
// can be changed or cut off.
func TestExcerpt(t *testing.T) {
	for _, m := range []*Model{testModel(3, true), memoryModel(3)} {
		excerpts(t, m)
	}
}

func excerpts(t *testing.T, m *Model) {
	t.Helper()
	r := rand.New(rand.NewPCG(3, 4))
	s, err := split(encode(t, m))
	if err != nil {
		t.Fatal(err)
	}
	base := []Part{{Kind: PartHead}, {Kind: PartMiddle}}
	for range 200 {
		want := base
		for _, p := range s.parts {
			if (r.IntN(3) == 0 || p.Kind == PartTensor || p.Kind == PartLayer || p.Kind == PartLinear) && p.Kind != PartHead && p.Kind != PartMiddle && p.Kind != PartExperts && (p.Kind == PartTensor || p.Index < LinearRouter || p.Index >= LinearQuery) {
				want = append(want, p)
			}
		}
		x, err := Excerpt(m, want)
		if err != nil {
			t.Fatal(err)
		}
		got, parts, rest, err := ReadExcerpt(m.ID(), x)
		if err != nil {
			t.Fatal(err)
		}
		if len(rest) != 0 || len(parts) != len(want) {
			t.Fatalf("%d parts, %d bytes left; want %d parts", len(parts), len(rest), len(want))
		}
		for p := range parts {
			if p.Kind == PartTensor && got.Tensors[p.Index] != m.Tensors[p.Index] {
				t.Fatalf("tensor %d is another one", p.Index)
			}
		}
	}
	x, err := Excerpt(m, append(base, Part{PartLayer, 1, 0}, Part{PartVector, 1, VectorFFNNorm}, Part{PartTensor, 0, 0}))
	if err != nil {
		t.Fatal(err)
	}
	got, _, _, err := ReadExcerpt(m.ID(), x)
	if err != nil || !reflect.DeepEqual(got.Layers[1].FFNNorm, m.Layers[1].FFNNorm) || got.Layers[1].PostAttn == nil || len(got.Layers[1].PostAttn) != 0 {
		t.Fatalf("%v: %+v", err, got)
	}
	for i := range x {
		bad := bytes.Clone(x)
		bad[i] ^= 1 << r.IntN(8)
		if _, _, _, err := ReadExcerpt(m.ID(), bad); err == nil {
			t.Fatalf("byte %d changed, and accepted", i)
		}
		if _, _, _, err := ReadExcerpt(m.ID(), x[:i]); err == nil {
			t.Fatalf("the first %d of %d bytes are accepted", i, len(x))
		}
	}
	if _, err := Excerpt(m, []Part{{PartBias, 0, 99}}); err == nil {
		t.Error("a section that is not there was opened")
	}
}

// FuzzExcerpt reads excerpts of files that hostile authors made: the id is
// always right.
func FuzzExcerpt(f *testing.F) {
	m := memoryModel(1)
	s, err := split(encode(f, m))
	if err != nil {
		f.Fatal(err)
	}
	for i := range s.parts {
		f.Add(byte(s.parts[i].Kind), byte(s.parts[i].Layer), uint16(s.parts[i].Index), s.data[i], s.data[0])
	}
	f.Fuzz(func(t *testing.T, kind, layer byte, index uint16, data, head []byte) {
		order := []Part{{Kind: PartHead}, {Kind: PartTensor}, {Kind: PartMiddle}, {Kind: PartLayer, Layer: int(layer)}, {PartKind(kind), int(layer), int(index)}}
		if _, ok := s.at[order[3]]; !ok {
			return
		}
		got, _, err := assemble(order, [][]byte{head, s.data[1], s.data[s.at[order[2]]], s.data[s.at[order[3]]], data})
		if (got == nil) == (err == nil) && err == nil {
			t.Fatal("neither a model nor an error")
		}
	})
}
