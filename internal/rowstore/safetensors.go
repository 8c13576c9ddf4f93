package rowstore

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/geistnet/geist/arith"
)

// A Safetensor is a tensor of rows in a file of the safetensors format: a length u64, so
// many bytes of JSON that name the tensors, their types and where they lie, then the data.
type Safetensor struct {
	Name   string
	Format arith.Format // F32, F16 or BF16
	Rows   uint64       // product of all dimensions but the last
	Dim    int          // the last dimension
	Begin  int64        // of its data in the file
	Bytes  int64
}

const maxSafetensorsHead = 16 << 20

var safetensorsTypes = map[string]arith.Format{"F32": arith.F32, "F16": arith.F16, "BF16": arith.BF16}

// Safetensors lists the tensors of a file of size bytes that can be tables, by name: those of one or more
// dimensions, none zero, in F32, F16 or BF16. Others are left out; data that
// overlap, leave gaps, or do not fit their shape make the file an error.
func Safetensors(r io.ReaderAt, size int64) ([]Safetensor, error) {
	var length [8]byte
	if _, err := r.ReadAt(length[:], 0); err != nil {
		return nil, fmt.Errorf("safetensors: read the length of the head: %w", err)
	}
	n := binary.LittleEndian.Uint64(length[:])
	if n < 2 || n > maxSafetensorsHead || int64(n) > size-8 {
		return nil, fmt.Errorf("safetensors: head of %d bytes in a file of %d, want at most %d", n, size, maxSafetensorsHead)
	}
	head := make([]byte, n)
	if _, err := r.ReadAt(head, 8); err != nil {
		return nil, fmt.Errorf("safetensors: read the head: %w", err)
	}
	if head[0] != '{' {
		return nil, fmt.Errorf("safetensors: the head does not begin with %q", '{')
	}
	var all map[string]json.RawMessage
	if err := json.Unmarshal(head, &all); err != nil {
		return nil, fmt.Errorf("safetensors: %w", err)
	}
	type span struct{ begin, end int64 }
	var spans []span
	var out []Safetensor
	for name, raw := range all {
		if name == "__metadata__" {
			continue
		}
		var x struct {
			Type    string   `json:"dtype"`
			Shape   []uint64 `json:"shape"`
			Offsets []int64  `json:"data_offsets"`
		}
		d := json.NewDecoder(bytes.NewReader(raw))
		d.DisallowUnknownFields()
		if err := d.Decode(&x); err != nil {
			return nil, fmt.Errorf("safetensors: tensor %q: %w", name, err)
		}
		if len(x.Offsets) != 2 || x.Offsets[0] < 0 || x.Offsets[1] < x.Offsets[0] || x.Offsets[1] > size-8-int64(n) {
			return nil, fmt.Errorf("safetensors: tensor %q lies at %v in %d bytes of data", name, x.Offsets, size-8-int64(n))
		}
		length := x.Offsets[1] - x.Offsets[0]
		spans = append(spans, span{x.Offsets[0], x.Offsets[1]})
		f, known := safetensorsTypes[x.Type]
		if !known || len(x.Shape) == 0 || slices.Contains(x.Shape, 0) {
			continue
		}
		dim, rows := x.Shape[len(x.Shape)-1], uint64(1)
		for _, d := range x.Shape[:len(x.Shape)-1] {
			if d > uint64(size)/rows {
				return nil, fmt.Errorf("safetensors: tensor %q of shape %v in %d bytes", name, x.Shape, length)
			}
			rows *= d
		}
		if dim > uint64(size) || rows > uint64(size) || rows > uint64(length) ||
			dim > uint64(length)/rows || int64(rows*dim)*int64(f.BlockBytes()) != length {
			return nil, fmt.Errorf("safetensors: tensor %q of shape %v in %d bytes", name, x.Shape, length)
		}
		out = append(out, Safetensor{name, f, rows, int(dim), 8 + int64(n) + x.Offsets[0], length})
	}
	slices.SortFunc(spans, func(a, b span) int {
		if a.begin != b.begin {
			return int(min(max(a.begin-b.begin, -1), 1))
		}
		return int(min(max(a.end-b.end, -1), 1))
	})
	at := int64(0)
	for _, s := range spans {
		if s.begin != at {
			return nil, fmt.Errorf("safetensors: data of a tensor begin at %d, want %d", s.begin, at)
		}
		at = s.end
	}
	if at != size-8-int64(n) {
		return nil, fmt.Errorf("safetensors: tensors end at %d of %d bytes of data", at, size-8-int64(n))
	}
	slices.SortFunc(out, func(a, b Safetensor) int { return strings.Compare(a.Name, b.Name) })
	return out, nil
}

// SafetensorsHead is what goes before the data of a file with one tensor.
func SafetensorsHead(name string, f arith.Format, rows uint64, dim int) ([]byte, error) {
	kind := ""
	for k, v := range safetensorsTypes {
		if v == f {
			kind = k
		}
	}
	if kind == "" {
		return nil, fmt.Errorf("safetensors has no type for %v; GGUF has", f)
	}
	head, err := json.Marshal(map[string]any{name: map[string]any{
		"dtype": kind, "shape": []uint64{rows, uint64(dim)}, "data_offsets": []uint64{0, rows * uint64(f.RowBytes(dim))},
	}})
	if err != nil {
		return nil, err
	}
	for len(head)%8 != 0 {
		head = append(head, ' ')
	}
	return append(binary.LittleEndian.AppendUint64(nil, uint64(len(head))), head...), nil
}
