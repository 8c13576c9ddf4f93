package ghost

import (
	"bytes"
	"encoding/binary"
	"math/rand/v2"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/geistnet/geist/merkle"
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

// craft makes an excerpt of all sections of a file that nobody would write, and
// the id of that file.
func craft(order []Part, data [][]byte) (ID, []byte) {
	b := binary.LittleEndian.AppendUint64(nil, uint64(len(order)))
	b = binary.LittleEndian.AppendUint32(b, uint32(len(order)))
	leaves := make([]merkle.Hash, len(order))
	for i, p := range order {
		leaves[i] = leafOf(p, data[i])
		b = binary.LittleEndian.AppendUint64(b, uint64(i))
		b = append(b, p.name()...)
		b = binary.LittleEndian.AppendUint32(b, uint32(len(data[i])))
		b = append(b, data[i]...)
	}
	root, err := merkle.FromLeaves(leaves, merkle.Plain{}).Root()
	if err != nil {
		panic(err)
	}
	return idOf(uint64(len(order)), root), b
}

// TestHostileExcerpt refuses, under ids that are right, sections whose names or
// places no file has.
func TestHostileExcerpt(t *testing.T) {
	for _, m := range []*Model{testModel(3, true), testModel(3, false), memoryModel(3)} {
		s, err := split(encode(t, m))
		if err != nil {
			t.Fatal(err)
		}
		head, middle := s.at[Part{Kind: PartHead}], s.at[Part{Kind: PartMiddle}]
		layer, q := s.data[s.at[Part{Kind: PartLayer}]], s.data[s.at[Part{PartLinear, 0, LinearQ}]]
		norm := s.data[s.at[Part{Kind: PartVector}]]
		one := bytes.Clone(s.data[middle]) // of one layer
		binary.LittleEndian.PutUint32(one[len(one)-4:], 1)
		bare := slices.Concat(one[:4], make([]byte, 4), one[len(one)-4:]) // and without rules
		count := []byte{1, 0, 0, 0}
		type section struct {
			part Part
			data []byte
		}
		ahead := []section{{s.parts[head], s.data[head]}}
		begin := append(slices.Clip(ahead), section{s.parts[middle], s.data[middle]})
		var all []section
		for i, p := range s.parts {
			all = append(all, section{p, s.data[i]})
		}
		first := append(slices.Clip(begin), section{Part{Kind: PartLayer}, layer})
		for _, c := range []struct {
			name     string
			sections []section
		}{
			{"nothing but a head", ahead},
			{"no head", begin[1:]},
			{"head with an index", append([]section{{Part{PartHead, 0, 1}, s.data[head]}}, begin[1:]...)},
			{"two heads", append(slices.Clip(ahead), begin...)},
			{"another head", append(slices.Clip(begin), section{Part{PartHead, 0, 1}, s.data[head]})},
			{"tensor of a layer", append(slices.Clip(ahead), section{Part{PartTensor, 1, 0}, s.data[1]}, begin[1])},
			{"tensor after the middle", append(slices.Clip(begin), section{s.parts[1], s.data[1]})},
			{"layer before the middle", append(slices.Clip(ahead), section{Part{Kind: PartLayer}, layer}, begin[1])},
			{"head of the output", append(slices.Clip(begin), section{Part{PartLayer, OutputLayer, 0}, layer})},
			{"experts of the output", append(slices.Clip(begin), section{Part{PartExperts, OutputLayer, 0}, count})},
			{"second matrix of the output", append(slices.Clip(begin), section{Part{PartLinear, OutputLayer, 1}, q})},
			{"second vector of the output", append(slices.Clip(begin), section{Part{PartVector, OutputLayer, 1}, norm})},
			{"bias without its matrix", append(slices.Clip(begin), section{Part{PartBias, OutputLayer, 0}, count})},
			{"layer beyond the output", append(slices.Clip(begin), section{Part{PartLayer, OutputLayer + 1, 0}, layer})},
			{"middle twice", append(slices.Clip(all), begin[1])},
			{"second middle of fewer layers", append(slices.Clip(all), section{Part{PartMiddle, 0, 1}, one})},
			{"second middle without rules", append(slices.Clip(all), section{Part{PartMiddle, 0, 1}, bare})},
			{"middle of a layer", append(slices.Clip(all), section{Part{PartMiddle, 1, 0}, one})},
			{"layer with an index", append(slices.Clip(first), section{Part{PartLayer, 0, 1}, layer})},
			{"experts with an index", append(slices.Clip(first), section{Part{PartExperts, 0, 1}, count})},
			{"matrix of no such index", append(slices.Clip(first), section{Part{PartLinear, 0, 1 << 30}, q})},
			{"matrix without its tensor", append(slices.Clip(first), section{Part{PartLinear, 0, LinearQ}, q})},
			{"unknown kind", append(slices.Clip(begin), section{Part{Kind: partKinds}, nil})},
		} {
			var order []Part
			var data [][]byte
			for _, x := range c.sections {
				order, data = append(order, x.part), append(data, x.data)
			}
			id, b := craft(order, data)
			if _, _, _, err := ReadExcerpt(id, b); err == nil {
				t.Errorf("%s: accepted", c.name)
			}
		}
	}
}

// A part of four bytes says how many experts a layer has, and each takes memory:
// an excerpt has as many as two layers need, and not as many as all layers could.
func TestExcerptOfManyExperts(t *testing.T) {
	s, err := split(encode(t, testModel(3, true)))
	if err != nil {
		t.Fatal(err)
	}
	const layers = maxExcerptExperts/maxExperts + 1
	middle := bytes.Clone(s.data[s.at[Part{Kind: PartMiddle}]])
	binary.LittleEndian.PutUint32(middle[len(middle)-4:], layers)
	mixture := append(make([]byte, 8), isMixture) // no window, the first rotation
	order := []Part{{Kind: PartHead}, {Kind: PartMiddle}}
	data := [][]byte{s.data[s.at[order[0]]], middle}
	for l := range layers {
		order = append(order, Part{Kind: PartLayer, Layer: l}, Part{Kind: PartExperts, Layer: l})
		data = append(data, mixture, binary.LittleEndian.AppendUint32(nil, maxExperts))
	}
	id, b := craft(order, data)
	if _, _, _, err := ReadExcerpt(id, b); err == nil || !strings.Contains(err.Error(), "experts") {
		t.Errorf("%d bytes with %d experts: %v", len(b), layers*maxExperts, err)
	}
	id, b = craft(order[:len(order)-1], data[:len(data)-1])
	if _, _, _, err := ReadExcerpt(id, b); err != nil {
		t.Errorf("one layer less: %v", err)
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

// FuzzAssemble reads any sections under any names, with nothing in between that
// an id would have to fit.
func FuzzAssemble(f *testing.F) {
	for _, m := range []*Model{testModel(3, true), testModel(3, false), memoryModel(3)} {
		s, err := split(encode(f, m))
		if err != nil {
			f.Fatal(err)
		}
		var b []byte
		for i, p := range s.parts {
			b = append(b, p.name()...)
			b = binary.LittleEndian.AppendUint16(b, uint16(len(s.data[i])))
			b = append(b, s.data[i]...)
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		var order []Part
		var data [][]byte
		for len(b) >= partNameBytes+2 {
			n := func(i int) int { return int(binary.LittleEndian.Uint32(b[i:]) &^ (1 << 31)) }
			order = append(order, Part{PartKind(b[0]), n(1), n(5)})
			size := int(binary.LittleEndian.Uint16(b[partNameBytes:]))
			b = b[partNameBytes+2:]
			size = min(size, len(b))
			data, b = append(data, b[:size:size]), b[size:]
		}
		m, parts, err := assemble(order, data)
		if err == nil && (m == nil || len(parts) != len(order) || len(m.Layers) == 0) {
			t.Fatalf("%v became %d parts", order, len(parts))
		}
	})
}
