// Package gguf reads and writes GGUF model files, versions 2 and 3,
// little-endian, as the GGUF specification of the ggml project defines them:
//
//	"GGUF" | version u32 | tensors u64 | keys u64
//	keys    × { key string | type u32 | value }
//	tensors × { name string | dims u32 | dims × u64 | format u32 | offset u64 }
//	zero bytes up to the alignment (general.alignment, 32 if absent)
//	tensor data, each tensor at its offset from here, aligned
//
// A string is its length as u64 and its bytes; an array is its element type as
// u32, its length as u64 and its elements. Every claim of a file is checked
// against the bytes that are there before memory is set aside for it.
//
// The package does not know what tensors and keys mean, does not convert
// weights, and does not join files that were split into parts.
package gguf

import (
	"fmt"
	"math"
	"slices"
	"strings"

	"github.com/geistnet/geist/arith"
)

// Limits of what Parse accepts and Writer writes.
const (
	maxDims      = 4
	maxName      = 65535    // bytes in a key or in a tensor's name
	maxValue     = 64 << 20 // bytes in one string or one array of metadata
	maxCount     = 1 << 20  // tensors, and keys
	maxDepth     = 4        // arrays within arrays
	maxAlignment = 1 << 20
	minTensor    = 8 + 4 + 8 + 4 + 8 // bytes of the shortest tensor description
	minKey       = 8 + 4 + 1         // bytes of the shortest key with its value

	defaultAlignment = 32
	alignmentKey     = "general.alignment"
)

// FormatError says that a file is not what GGUF prescribes. I/O errors are of
// other types.
type FormatError struct {
	File   string
	Offset int64 // where in the file the fault was noticed
	Reason string
}

func (e *FormatError) Error() string {
	return fmt.Sprintf("%s: offset %d: %s", e.File, e.Offset, e.Reason)
}

// Tensor is one tensor of an open file. Its fields are read only.
type Tensor struct {
	Name   string
	Dims   []uint64 // Dims[0] is the row length (columns); 1 to 4 of them, none 0
	Format arith.Format
	Offset uint64 // of the first byte of data in the file
	Data   []byte // view of the mapping, nil once the file is closed
}

// Elems is the number of weights.
func (t *Tensor) Elems() uint64 { return uint64(t.Cols()) * uint64(t.Rows()) }

// Cols is the row length, Dims[0].
func (t *Tensor) Cols() int { return int(t.Dims[0]) }

// Rows is the product of the dimensions after the first.
func (t *Tensor) Rows() int {
	n := 1
	for _, d := range t.Dims[1:] {
		n *= int(d)
	}
	return n
}

// Info is the tensor's description as a Writer takes it.
func (t *Tensor) Info() TensorInfo {
	return TensorInfo{Name: t.Name, Dims: slices.Clone(t.Dims), Format: t.Format}
}

// TensorInfo describes a tensor without its data.
type TensorInfo struct {
	Name   string
	Dims   []uint64
	Format arith.Format
}

// KV is one entry of metadata.
type KV struct {
	Key   string
	Value Value
}

// File is a parsed file. Metadata stay valid after Close, tensor data do not.
// All methods but Close may be called from several goroutines.
type File struct {
	Path      string
	Size      int64
	Version   uint32 // 2 or 3
	Alignment uint64 // of tensor data: a power of two

	meta    []KV
	keys    map[string]int // index into meta
	tensors []*Tensor
	names   map[string]*Tensor
	mapping []byte // what Close unmaps; nil if the bytes are the caller's
}

// Tensors lists the tensors in the file's order. The slice is the caller's.
func (f *File) Tensors() []*Tensor { return slices.Clone(f.tensors) }

// Tensor finds a tensor by name; nil if there is none.
func (f *File) Tensor(name string) *Tensor { return f.names[name] }

// Keys lists the metadata keys in the file's order.
func (f *File) Keys() []string {
	keys := make([]string, len(f.meta))
	for i, kv := range f.meta {
		keys[i] = kv.Key
	}
	return keys
}

// Meta lists keys and values in the file's order, as a Writer takes them.
func (f *File) Meta() []KV { return slices.Clone(f.meta) }

// Value finds a metadata value.
func (f *File) Value(key string) (Value, bool) {
	i, ok := f.keys[key]
	if !ok {
		return Value{}, false
	}
	return f.meta[i].Value, true
}

// Arch is the value of general.architecture, "" if absent.
func (f *File) Arch() string {
	s, _ := f.String("general.architecture")
	return s
}

// The getters below report false if the key is absent or its value is of
// another type. Integers of any width are accepted where they fit.

// String gets a string.
func (f *File) String(key string) (string, bool) { v, ok := f.Value(key); return get(v, ok, Value.Str) }

// Uint gets an integer that is not negative.
func (f *File) Uint(key string) (uint64, bool) { v, ok := f.Value(key); return get(v, ok, Value.Uint) }

// Int gets an integer of at most 63 bits and a sign.
func (f *File) Int(key string) (int64, bool) { v, ok := f.Value(key); return get(v, ok, Value.Int) }

// Float gets a floating-point number of 32 or 64 bits.
func (f *File) Float(key string) (float64, bool) {
	v, ok := f.Value(key)
	return get(v, ok, Value.Float)
}

// Bool gets a truth value.
func (f *File) Bool(key string) (bool, bool) { v, ok := f.Value(key); return get(v, ok, Value.Bool) }

// Strings gets an array of strings. The slice is the caller's.
func (f *File) Strings(key string) ([]string, bool) {
	v, ok := f.Value(key)
	return get(v, ok, Value.Strings)
}

// Ints gets an array of integers, all of which must fit.
func (f *File) Ints(key string) ([]int64, bool) { v, ok := f.Value(key); return get(v, ok, Value.Ints) }

// Floats gets an array of 32-bit floating-point numbers.
func (f *File) Floats(key string) ([]float32, bool) {
	v, ok := f.Value(key)
	return get(v, ok, Value.Floats)
}

// Bools gets an array of truth values.
func (f *File) Bools(key string) ([]bool, bool) {
	v, ok := f.Value(key)
	return get(v, ok, Value.Bools)
}

func get[T any](v Value, ok bool, as func(Value) (T, bool)) (T, bool) {
	if !ok {
		var zero T
		return zero, false
	}
	return as(v)
}

// checkTensor returns the size of the data in bytes, or why the description
// is impossible.
func checkTensor(t TensorInfo) (size uint64, reason string) {
	if !t.Format.Known() {
		return 0, unknownFormat(t.Format)
	}
	if len(t.Dims) < 1 || len(t.Dims) > maxDims {
		return 0, fmt.Sprintf("%d dimensions; 1 to %d are possible", len(t.Dims), maxDims)
	}
	elems := uint64(1)
	for _, d := range t.Dims {
		if d == 0 || d > math.MaxInt || elems > math.MaxInt/d {
			return 0, fmt.Sprintf("dimensions %v: empty or too many weights", t.Dims)
		}
		elems *= d
	}
	block := uint64(t.Format.BlockLen())
	if t.Dims[0]%block != 0 {
		return 0, fmt.Sprintf("rows of %d weights are not whole %s blocks of %d", t.Dims[0], t.Format, block)
	}
	blocks, blockBytes := elems/block, uint64(t.Format.BlockBytes())
	if blocks > math.MaxInt/blockBytes {
		return 0, fmt.Sprintf("dimensions %v: too many bytes", t.Dims)
	}
	return blocks * blockBytes, ""
}

// alignment reads the value of general.alignment.
func alignment(v Value) (uint64, string) {
	a, ok := v.Uint()
	if !ok || a == 0 || a&(a-1) != 0 || a > maxAlignment {
		return 0, fmt.Sprintf("%s is %v; it must be a power of two up to %d", alignmentKey, v, maxAlignment)
	}
	return a, ""
}

func alignUp(n, to uint64) uint64 { return (n + to - 1) &^ (to - 1) }

func unknownFormat(f arith.Format) string {
	var known []string
	for _, k := range arith.Formats() {
		known = append(known, k.String())
	}
	name := fmt.Sprintf("type %d", uint32(f))
	if n := ggmlName(uint32(f)); n != "" {
		name = n + " (" + name + ")"
	}
	return fmt.Sprintf("weights of %s are not supported; supported are %s", name, strings.Join(known, ", "))
}

// ggmlName is ggml's name of a tensor type that package arith does not define,
// "" for an id that ggml has not given out either.
func ggmlName(id uint32) string {
	switch id {
	case 4:
		return "Q4_2"
	case 5:
		return "Q4_3"
	case 9:
		return "Q8_1"
	case 15:
		return "Q8_K"
	case 16:
		return "IQ2_XXS"
	case 17:
		return "IQ2_XS"
	case 18:
		return "IQ3_XXS"
	case 19:
		return "IQ1_S"
	case 21:
		return "IQ3_S"
	case 22:
		return "IQ2_S"
	case 23:
		return "IQ4_XS"
	case 24:
		return "I8"
	case 25:
		return "I16"
	case 26:
		return "I32"
	case 27:
		return "I64"
	case 28:
		return "F64"
	case 29:
		return "IQ1_M"
	case 31:
		return "Q4_0_4_4"
	case 32:
		return "Q4_0_4_8"
	case 33:
		return "Q4_0_8_8"
	case 34:
		return "TQ1_0"
	case 35:
		return "TQ2_0"
	case 36:
		return "IQ4_NL_4_4"
	case 37:
		return "IQ4_NL_4_8"
	case 38:
		return "IQ4_NL_8_8"
	case 39:
		return "MXFP4"
	case 40:
		return "NVFP4"
	}
	return ""
}
