package rowstore

import (
	"bytes"
	"encoding/binary"
	"slices"
	"testing"

	"github.com/geistnet/geist/arith"
	"github.com/geistnet/geist/sat"
)

// safetensors joins a head and data.
func safetensors(head string, data int) []byte {
	b := binary.LittleEndian.AppendUint64(nil, uint64(len(head)))
	return append(append(b, head...), make([]byte, data)...)
}

func TestSafetensors(t *testing.T) {
	b := safetensors(`{"__metadata__":{"format":"pt"},
		"b":{"dtype":"F32","shape":[2,3],"data_offsets":[4,28]},
		"a":{"dtype":"F16","shape":[2],"data_offsets":[0,4]},
		"c":{"dtype":"BF16","shape":[2,2,2],"data_offsets":[28,44]},
		"other":{"dtype":"I64","shape":[1],"data_offsets":[44,52]},
		"empty":{"dtype":"F32","shape":[0,4],"data_offsets":[52,52]},
		"scalar":{"dtype":"F32","shape":[],"data_offsets":[52,56]}}   `, 56)
	got, err := Safetensors(bytes.NewReader(b), int64(len(b)))
	if err != nil {
		t.Fatal(err)
	}
	data := int64(len(b) - 56)
	want := []Safetensor{
		{"a", arith.F16, 1, 2, data, 4},
		{"b", arith.F32, 2, 3, data + 4, 24},
		{"c", arith.BF16, 4, 2, data + 28, 16},
	}
	if !slices.Equal(got, want) {
		t.Errorf("%+v, want %+v", got, want)
	}
	for name, bad := range map[string][]byte{
		"nothing":          nil,
		"head too long":    {0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f, '{', '}'},
		"no object":        safetensors(`[1]`, 0),
		"cut":              b[:len(b)-1],
		"more data":        append(slices.Clone(b), 0),
		"overlap":          safetensors(`{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"b":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}`, 4),
		"gap":              safetensors(`{"a":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}}`, 8),
		"beyond the end":   safetensors(`{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}`, 4),
		"backwards":        safetensors(`{"a":{"dtype":"F32","shape":[1],"data_offsets":[4,0]}}`, 4),
		"another size":     safetensors(`{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,4]}}`, 4),
		"overflow":         safetensors(`{"a":{"dtype":"F32","shape":[4294967296,4294967296,4],"data_offsets":[0,4]}}`, 4),
		"another overflow": safetensors(`{"a":{"dtype":"F32","shape":[4611686018427387905],"data_offsets":[0,4]}}`, 4),
		"three offsets":    safetensors(`{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4,4]}}`, 4),
		"unknown field":    safetensors(`{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4],"x":1}}`, 4),
	} {
		if _, err := Safetensors(bytes.NewReader(bad), int64(len(bad))); err == nil {
			t.Errorf("%s: taken", name)
		}
	}
}

func FuzzSafetensors(f *testing.F) {
	f.Add(safetensors(`{"a":{"dtype":"F32","shape":[2,3],"data_offsets":[0,24]}}`, 24))
	f.Add(safetensors(`{"a":{"dtype":"F16","shape":[2],"data_offsets":[0,4]},"b":{"dtype":"U8","shape":[2],"data_offsets":[4,6]}}`, 6))
	f.Add([]byte{0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0, '{'})
	f.Fuzz(func(t *testing.T, b []byte) {
		tensors, err := Safetensors(bytes.NewReader(b), int64(len(b)))
		if err != nil {
			return
		}
		for _, x := range tensors {
			if x.Begin < 8 || x.Bytes < 1 || x.Begin+x.Bytes > int64(len(b)) || int64(x.Rows)*int64(x.Format.RowBytes(x.Dim)) != x.Bytes {
				t.Fatalf("%+v in a file of %d bytes", x, len(b))
			}
			head, err := SafetensorsHead(x.Name, x.Format, x.Rows, x.Dim)
			if err != nil {
				t.Fatal(err)
			}
			file := append(head, b[x.Begin:x.Begin+x.Bytes]...)
			back, err := Safetensors(bytes.NewReader(file), int64(len(file)))
			if x.Name == "__metadata__" {
				t.Fatal("metadata are no tensor")
			}
			if err != nil || len(back) != 1 || back[0].Rows != x.Rows || back[0].Dim != x.Dim || back[0].Format != x.Format || back[0].Bytes != x.Bytes {
				t.Fatalf("wrote %+v, read %+v: %v", x, back, err)
			}
		}
	})
}

// FuzzJournal: whatever the journal holds, a table opens at its checkpoint or is refused.
func FuzzJournal(f *testing.F) {
	s := newStory(20, 3)
	base := newMemory()
	if _, err := Create(f.Context(), base, s.shape, nil, nil); err != nil {
		f.Fatal(err)
	}
	m := base.copyOf()
	tb, err := Open(m, Options{})
	if err != nil {
		f.Fatal(err)
	}
	for i := range s.ids {
		if _, err := tb.Commit(s.ids[i], sat.UpdateRule{}, s.fresh[i], true); err != nil {
			f.Fatal(err)
		}
	}
	honest := m.files["journal"].view
	f.Add(honest)
	f.Add(honest[:len(honest)-1])
	f.Add(honest[:entryHead])
	f.Fuzz(func(t *testing.T, b []byte) {
		m := base.copyOf()
		m.files["journal"].view = slices.Clone(b)
		tb, err := Open(m, Options{})
		if err != nil {
			return
		}
		c := tb.State().Commit
		if c >= uint64(len(s.records)) || !bytes.Equal(m.files["rows"].view, s.records[c]) {
			t.Fatalf("opened at commit %d with rows that are not its own", c)
		}
	})
}
