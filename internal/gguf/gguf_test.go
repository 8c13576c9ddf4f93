package gguf

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"math"
	"os"
	"path/filepath"
	"reflect"
	"runtime"
	"slices"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/geistnet/geist/arith"
)

// sample is a small file with every type of value and several formats.
func sample(t testing.TB) ([]KV, []TensorInfo, [][]byte) {
	t.Helper()
	nested, err := Nested(ArrayOf([]int32{1, -2}), ArrayOf([]string{"x", ""}))
	if err != nil {
		t.Fatal(err)
	}
	meta := []KV{
		{"general.architecture", ValueOf("llama")},
		{alignmentKey, ValueOf(uint32(64))},
		{"u8", ValueOf(uint8(200))}, {"i8", ValueOf(int8(-3))},
		{"u16", ValueOf(uint16(60000))}, {"i16", ValueOf(int16(-300))},
		{"u32", ValueOf(uint32(math.MaxUint32))}, {"i32", ValueOf(int32(math.MinInt32))},
		{"u64", ValueOf(uint64(math.MaxUint64))}, {"i64", ValueOf(int64(math.MinInt64))},
		{"f32", ValueOf(float32(1.5))}, {"f64", ValueOf(math.Pi)},
		{"nan", ValueOf(math.Float32frombits(0x7fc00123))},
		{"yes", ValueOf(true)}, {"no", ValueOf(false)}, {"str", ValueOf("\x00\xffü")},
		{"strs", ArrayOf([]string{"a", "", "ccc"})}, {"nostrs", ArrayOf([]string{})},
		{"ints", ArrayOf([]int16{-1, 2, 3})}, {"noints", ArrayOf([]int64{})},
		{"bytes", ArrayOf([]uint8{0, 255})}, {"signed", ArrayOf([]int8{-128})},
		{"u16s", ArrayOf([]uint16{65535})}, {"u32s", ArrayOf([]uint32{1 << 31})},
		{"i32s", ArrayOf([]int32{-7})}, {"big", ArrayOf([]uint64{1 << 63})},
		{"floats", ArrayOf([]float32{0.25, -1})}, {"doubles", ArrayOf([]float64{0.1})},
		{"bools", ArrayOf([]bool{true, false})}, {"nested", nested},
	}
	tensors := []TensorInfo{
		{"emb", []uint64{64, 3}, arith.Q8_0},
		{"norm", []uint64{5}, arith.F32},
		{"exps", []uint64{256, 2, 2}, arith.Q4_K},
		{"deep", []uint64{1, 2, 3, 4}, arith.F16},
	}
	var data [][]byte
	for i, info := range tensors {
		size, reason := checkTensor(info)
		if reason != "" {
			t.Fatal(reason)
		}
		data = append(data, bytes.Repeat([]byte{byte(i + 1)}, int(size)))
	}
	return meta, tensors, data
}

func encode(t testing.TB, meta []KV, tensors []TensorInfo, data [][]byte) []byte {
	t.Helper()
	var buf bytes.Buffer
	w, err := NewWriter(&buf, meta, tensors)
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range data {
		if err := w.WriteTensor(d); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

// rewrite writes a parsed file again.
func rewrite(t testing.TB, f *File) []byte {
	t.Helper()
	var infos []TensorInfo
	var data [][]byte
	for _, x := range f.Tensors() {
		infos, data = append(infos, x.Info()), append(data, x.Data)
	}
	return encode(t, f.Meta(), infos, data)
}

// same demands equal metadata, types included, and equal tensors.
func same(t testing.TB, a, b *File) {
	t.Helper()
	if !reflect.DeepEqual(a.meta, b.meta) {
		t.Fatalf("metadata differ:\n%v\n%v", a.meta, b.meta)
	}
	if a.Alignment != b.Alignment || len(a.tensors) != len(b.tensors) {
		t.Fatalf("alignment %d and %d, %d and %d tensors", a.Alignment, b.Alignment, len(a.tensors), len(b.tensors))
	}
	for i, x := range a.tensors {
		y := b.tensors[i]
		if !reflect.DeepEqual(x.Info(), y.Info()) || !bytes.Equal(x.Data, y.Data) {
			t.Fatalf("tensor %d: %q and %q differ", i, x.Name, y.Name)
		}
	}
}

func TestRoundTrip(t *testing.T) {
	meta, infos, data := sample(t)
	b := encode(t, meta, infos, data)
	f, err := Parse("m.gguf", b)
	if err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(f.Meta(), meta) {
		t.Fatalf("metadata differ:\n%v\n%v", f.Meta(), meta)
	}
	for i, x := range f.Tensors() {
		if !reflect.DeepEqual(x.Info(), infos[i]) || !bytes.Equal(x.Data, data[i]) {
			t.Errorf("tensor %q differs", x.Name)
		}
		if x.Offset%64 != 0 || !bytes.Equal(b[x.Offset:][:len(x.Data)], data[i]) {
			t.Errorf("tensor %q: offset %d", x.Name, x.Offset)
		}
		if f.Tensor(x.Name) != x {
			t.Errorf("tensor %q is not found by name", x.Name)
		}
	}
	if again := rewrite(t, f); !bytes.Equal(again, b) {
		t.Error("written again, the file has other bytes")
	}
	deep := f.Tensor("deep")
	if deep.Cols() != 1 || deep.Rows() != 24 || deep.Elems() != 24 {
		t.Errorf("deep: %d columns, %d rows, %d weights", deep.Cols(), deep.Rows(), deep.Elems())
	}
	if f.Tensor("absent") != nil || f.Version != 3 || f.Size != int64(len(b)) || f.Alignment != 64 {
		t.Errorf("absent tensor %v, version %d, size %d, alignment %d", f.Tensor("absent"), f.Version, f.Size, f.Alignment)
	}
	// Version 2 has the same layout.
	b[4] = 2
	if f, err := Parse("m.gguf", b); err != nil || f.Version != 2 {
		t.Errorf("version 2: %v", err)
	}
}

func TestGetters(t *testing.T) {
	f, err := Parse("m.gguf", sampleBytes(t))
	if err != nil {
		t.Fatal(err)
	}
	type result struct {
		v  any
		ok bool
	}
	r := func(v any, ok bool) result { return result{v, ok} }
	str := func(k string) result { return r(f.String(k)) }
	uns := func(k string) result { return r(f.Uint(k)) }
	sig := func(k string) result { return r(f.Int(k)) }
	flo := func(k string) result { return r(f.Float(k)) }
	boo := func(k string) result { return r(f.Bool(k)) }
	ints := func(k string) result { return r(f.Ints(k)) }
	for _, c := range []struct {
		name string
		got  result
		want any // nil: refused
	}{
		{"string", str("str"), "\x00\xffü"}, {"string absent", str("absent"), nil}, {"string of int", str("u8"), nil},
		{"uint u8", uns("u8"), uint64(200)}, {"uint u64", uns("u64"), uint64(math.MaxUint64)},
		{"uint of negative", uns("i8"), nil}, {"uint of float", uns("f32"), nil}, {"uint of bool", uns("yes"), nil},
		{"int i8", sig("i8"), int64(-3)}, {"int i16", sig("i16"), int64(-300)}, {"int u16", sig("u16"), int64(60000)},
		{"int u32", sig("u32"), int64(math.MaxUint32)}, {"int i32", sig("i32"), int64(math.MinInt32)},
		{"int i64", sig("i64"), int64(math.MinInt64)}, {"int too wide", sig("u64"), nil}, {"int of array", sig("ints"), nil},
		{"float f32", flo("f32"), 1.5}, {"float f64", flo("f64"), math.Pi}, {"float of int", flo("u8"), nil},
		{"bool", boo("yes"), true}, {"bool false", boo("no"), false}, {"bool of int", boo("u8"), nil},
		{"strings", r(f.Strings("strs")), []string{"a", "", "ccc"}}, {"no strings", r(f.Strings("nostrs")), []string{}},
		{"strings of ints", r(f.Strings("ints")), nil},
		{"ints i16", ints("ints"), []int64{-1, 2, 3}}, {"ints none", ints("noints"), []int64{}},
		{"ints u8", ints("bytes"), []int64{0, 255}}, {"ints i8", ints("signed"), []int64{-128}},
		{"ints u16", ints("u16s"), []int64{65535}}, {"ints u32", ints("u32s"), []int64{1 << 31}},
		{"ints i32", ints("i32s"), []int64{-7}}, {"ints too wide", ints("big"), nil},
		{"ints of bools", ints("bools"), nil}, {"ints of scalar", ints("u8"), nil},
		{"floats", r(f.Floats("floats")), []float32{0.25, -1}}, {"floats of doubles", r(f.Floats("doubles")), nil},
		{"bools", r(f.Bools("bools")), []bool{true, false}}, {"bools of bytes", r(f.Bools("bytes")), nil},
	} {
		if c.got.ok != (c.want != nil) || c.got.ok && !reflect.DeepEqual(c.got.v, c.want) {
			t.Errorf("%s: %v, %v; want %v", c.name, c.got.v, c.got.ok, c.want)
		}
	}
	if f.Arch() != "llama" {
		t.Errorf("Arch = %q", f.Arch())
	}
	if k := f.Keys(); len(k) != len(f.meta) || k[1] != alignmentKey {
		t.Errorf("Keys = %q", k)
	}
	nested, _ := f.Value("nested")
	if got, want := nested.Any(), []any{[]int32{1, -2}, []string{"x", ""}}; !reflect.DeepEqual(got, want) {
		t.Errorf("nested: %v, want %v", got, want)
	}
	if a, ok := nested.Arrays(); !ok || len(a) != 2 || a[0].Elem() != Int32 || a[1].Type() != Array {
		t.Errorf("Arrays: %v, %v", a, ok)
	}
	for _, kv := range f.Meta() {
		if kv.Value.Type() == Array || kv.Key == "nan" {
			continue
		}
		if got := kv.Value.Any(); reflect.TypeOf(got).String() != kv.Value.Type().String() {
			t.Errorf("%s: Any is a %T, the value a %v", kv.Key, got, kv.Value.Type())
		}
		if kv.Value.Len() != 1 || kv.Value.Elem() != kv.Value.Type() || kv.Value.String() == "" {
			t.Errorf("%s: length %d, element %v, %q", kv.Key, kv.Value.Len(), kv.Value.Elem(), kv.Value)
		}
	}
}

func sampleBytes(t testing.TB) []byte {
	t.Helper()
	meta, infos, data := sample(t)
	return encode(t, meta, infos, data)
}

func TestNestedRefuses(t *testing.T) {
	if _, err := Nested(ValueOf("x")); err == nil {
		t.Error("a string was accepted as an array")
	}
	v := ArrayOf([]uint8{1})
	for range maxDepth - 1 {
		var err error
		if v, err = Nested(v); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := Nested(v); err == nil {
		t.Errorf("arrays %d deep were accepted", maxDepth+1)
	}
}

func TestOpen(t *testing.T) {
	meta, infos, data := sample(t)
	path := filepath.Join(t.TempDir(), "m.gguf")
	infos[0].Dims, data[0] = []uint64{64, 3000}, bytes.Repeat([]byte{1}, 64*3000/32*34)
	if err := os.WriteFile(path, encode(t, meta, infos, data), 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := Open(path)
	if err != nil {
		t.Fatal(err)
	}
	emb := f.Tensor("emb")
	for _, x := range f.Tensors() { // most are less than a page
		if err := f.release(x); err != nil {
			t.Errorf("release %s: %v", x.Name, err)
		}
	}
	if !bytes.Equal(emb.Data, data[0]) || !bytes.Equal(f.Tensor("norm").Data, data[1]) {
		t.Error("data differ after Release")
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	if emb.Data != nil {
		t.Error("data are still there after Close")
	}
	f.Release(emb)
	if err := f.Close(); err != nil {
		t.Errorf("second Close: %v", err)
	}
	if s, ok := f.Strings("strs"); !ok || s[2] != "ccc" {
		t.Errorf("metadata after Close: %q", s)
	}

	empty := filepath.Join(t.TempDir(), "empty.gguf")
	if err := os.WriteFile(empty, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	var bad *FormatError
	if _, err := Open(empty); !errors.As(err, &bad) || bad.File != empty {
		t.Errorf("empty file: %v", err)
	}
	for _, path := range []string{filepath.Join(t.TempDir(), "absent"), t.TempDir()} {
		if _, err := Open(path); err == nil || errors.As(err, &bad) {
			t.Errorf("open %s: %v", path, err)
		}
	}
}

// raw builds files that Writer would refuse.
type raw []byte

func (r raw) u32(v uint32) raw   { return binary.LittleEndian.AppendUint32(r, v) }
func (r raw) u64(v uint64) raw   { return binary.LittleEndian.AppendUint64(r, v) }
func (r raw) str(s string) raw   { return appendString(r, s) }
func (r raw) zeros(n int) raw    { return append(r, make([]byte, n)...) }
func head(tensors, keys int) raw { return raw("GGUF").u32(3).u64(uint64(tensors)).u64(uint64(keys)) }
func (r raw) key(k string) raw   { return r.str(k).u32(uint32(Uint8)).zeros(1) }
func (r raw) array(t Type) raw   { return r.str("a").u32(uint32(Array)).u32(uint32(t)) }
func (r raw) pad(to int) raw     { return r.zeros(int(alignUp(uint64(len(r)), uint64(to))) - len(r)) }
func (r raw) dims(d ...uint64) raw {
	r = r.u32(uint32(len(d)))
	for _, n := range d {
		r = r.u64(n)
	}
	return r
}
func (r raw) tensor(name string, f arith.Format, offset uint64, d ...uint64) raw {
	return r.str(name).dims(d...).u32(uint32(f)).u64(offset)
}

func TestFaults(t *testing.T) {
	deep := head(0, 1).str("a").u32(uint32(Array))
	for range maxDepth {
		deep = deep.u32(uint32(Array)).u64(1)
	}
	deep = deep.u32(uint32(Uint8)).u64(0)
	for _, c := range []struct {
		name   string
		b      raw
		offset int64
		want   string
	}{
		{"empty", raw(""), 0, "download complete"},
		{"magic", raw("GGML").zeros(64), 0, "not a GGUF file"},
		{"version 1", raw("GGUF").u32(1).zeros(64), 4, "version 1"},
		{"version 4", raw("GGUF").u32(4).zeros(64), 4, "version 4"},
		{"big-endian", raw("GGUF").u32(3 << 24).zeros(64), 4, "big-endian"},
		{"many tensors", raw("GGUF").u32(3).u64(1 << 60).u64(0).zeros(99), 8, "number of tensors is 1152921504606846976"},
		{"many keys", raw("GGUF").u32(3).u64(0).u64(1 << 60).zeros(99), 16, "number of keys"},
		{"limit of keys", raw("GGUF").u32(3).u64(0).u64(maxCount + 1).zeros(minKey * (maxCount + 1)), 8, "the most is"},
		{"long key", head(0, 1).u64(maxName + 1).zeros(maxName + 20), 24, "the most is 65535"},
		{"key beyond the end", head(0, 1).u64(99).zeros(9), 32, "needs 99 bytes, 9 are left"},
		{"key twice", head(0, 2).key("k").key("k"), 38, `key "k" appears twice`},
		{"value type", head(0, 1).str("k").u32(13).zeros(9), 33, "unknown type 13"},
		{"bool of 2", append(head(0, 1).str("k").u32(uint32(Bool)), 2), 37, "a bool is 2"},
		{"string beyond the end", head(0, 1).str("k").u32(uint32(String)).u64(math.MaxUint64), 37, "the most is"},
		{"array type", head(0, 1).array(14).u64(0), 37, "unknown type 14"},
		{"array length", head(0, 1).array(Uint64).u64(1 << 61).zeros(80), 41, "array's length is"},
		{"strings' number", head(0, 1).array(String).u64(11).zeros(80), 41, "array's length is 11"},
		{"string in array", head(0, 1).array(String).u64(2).str("x").u64(9), 66, "needs 9 bytes, 0 are left"},
		{"bool in array", append(head(0, 1).array(Bool).u64(2), 1, 7), 50, "a bool is 7"},
		{"deep array", deep, 37 + 12*maxDepth, "nested more than 4"},
		{"alignment 0", head(0, 1).key(alignmentKey), 24, "power of two"},
		{"alignment 3", append(head(0, 1).str(alignmentKey).u32(uint32(Uint8)), 3), 24, "power of two"},
		{"alignment 2 MiB", head(0, 1).str(alignmentKey).u32(uint32(Uint32)).u32(2 << 20), 24, "power of two"},
		{"alignment of another type", head(0, 1).str(alignmentKey).u32(uint32(String)).str("32"), 24, "power of two"},
		{"0 dims", head(1, 0).tensor("t", arith.F32, 0).zeros(64), 24, `tensor "t": 0 dimensions`},
		{"5 dims", head(1, 0).tensor("t", arith.F32, 0, 1, 1, 1, 1, 1).zeros(64), 24, "5 dimensions"},
		{"dimension 0", head(1, 0).tensor("t", arith.F32, 0, 4, 0).zeros(64), 24, "empty"},
		{"product wraps", head(1, 0).tensor("t", arith.F32, 0, 1<<32, 1<<32).zeros(64), 24, "too many weights"},
		{"bytes wrap", head(1, 0).tensor("t", arith.F32, 0, 1<<62).zeros(64), 24, "too many bytes"},
		{"half a block", head(1, 0).tensor("t", arith.Q4_K, 0, 128).zeros(999), 24, "Q4_K blocks of 256"},
		{"IQ3_S", head(1, 0).tensor("t", 21, 0, 256).zeros(999), 24, "IQ3_S (type 21) are not supported; supported are F32, F16"},
		{"type 99", head(1, 0).tensor("t", 99, 0, 256).zeros(999), 24, "of type 99 are not"},
		{"tensor twice", head(2, 0).tensor("t", 0, 0, 1).tensor("t", 0, 32, 1).zeros(99), 57, `"t" appears twice`},
		{"offset", head(1, 0).tensor("t", 0, 16, 1).zeros(99), 24, "offset 16 is not a multiple of 32"},
		{"offset wraps", head(1, 0).tensor("t", 0, math.MaxUint64-31, 1).zeros(99), 24, "beyond any file"},
		{"beyond the end", head(1, 0).tensor("t", 0, 32, 9).zeros(50), 24, "data ends at 132 beyond the file's 107 bytes; is the download complete?"},
		{"overlap", head(2, 0).tensor("t", 0, 32, 9).tensor("u", 0, 0, 9).pad(32).zeros(99), 128, `"u" and "t" overlap`},
		{"same place", head(2, 0).tensor("t", 0, 0, 9).tensor("u", 0, 0, 9).pad(32).zeros(99), 96, "overlap"},
	} {
		_, err := Parse("m.gguf", c.b)
		var bad *FormatError
		if !errors.As(err, &bad) {
			t.Errorf("%s: %v is no FormatError", c.name, err)
			continue
		}
		if bad.Offset != c.offset || !strings.Contains(bad.Reason, c.want) {
			t.Errorf("%s: %v; want offset %d and %q", c.name, err, c.offset, c.want)
		}
	}
	want := `m.gguf: offset 24: tensor "t": data ends at 132 beyond the file's 107 bytes; is the download complete?`
	_, err := Parse("m.gguf", head(1, 0).tensor("t", 0, 32, 9).zeros(50))
	if err == nil || err.Error() != want {
		t.Errorf("error reads %v; want %s", err, want)
	}
	// What the faults above are variations of is accepted.
	for name, b := range map[string]raw{
		"no tensors":           head(0, 0),
		"tensors out of order": head(2, 0).tensor("t", 0, 32, 8).tensor("u", 0, 0, 8).pad(32).zeros(64),
	} {
		if _, err := Parse("m.gguf", b); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestHugeClaims overwrites every eight bytes of a file with large numbers:
// whatever they were, memory stays in proportion to the file.
func TestHugeClaims(t *testing.T) {
	b := sampleBytes(t)
	f, err := Parse("m.gguf", b)
	if err != nil {
		t.Fatal(err)
	}
	end := int(f.Tensors()[0].Offset)
	refused := 0
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	for at := 8; at+8 <= end; at++ {
		for _, v := range []uint64{math.MaxUint64, 1 << 62, 1 << 40, 1 << 31, 1 << 20} {
			c := bytes.Clone(b)
			binary.LittleEndian.PutUint64(c[at:], v)
			_, err := Parse("m.gguf", c)
			var bad *FormatError
			if err != nil && !errors.As(err, &bad) {
				t.Fatalf("%d at %d: %v is no FormatError", v, at, err)
			}
			if err != nil {
				refused++
			}
		}
	}
	runtime.ReadMemStats(&after)
	parses := uint64(5 * (end - 15))
	if per := (after.TotalAlloc - before.TotalAlloc) / parses; per > uint64(20*len(b)) {
		t.Errorf("%d bytes allocated for each parse of %d bytes", per, len(b))
	}
	if refused < 1000 {
		t.Errorf("only %d of %d were refused", refused, parses)
	}
}

func TestWriterRefuses(t *testing.T) {
	one := []TensorInfo{{"t", []uint64{8}, arith.F32}}
	for name, c := range map[string]struct {
		meta    []KV
		tensors []TensorInfo
	}{
		"key twice":    {meta: []KV{{"a", ValueOf("")}, {"a", ValueOf("")}}},
		"long key":     {meta: []KV{{strings.Repeat("a", maxName+1), ValueOf("")}}},
		"alignment":    {meta: []KV{{alignmentKey, ValueOf(uint32(3))}}},
		"long value":   {meta: []KV{{"a", ValueOf(strings.Repeat("a", maxValue+1))}}},
		"tensor twice": {tensors: append(one, one...)},
		"no dims":      {tensors: []TensorInfo{{"t", nil, arith.F32}}},
		"half block":   {tensors: []TensorInfo{{"t", []uint64{16}, arith.Q8_0}}},
		"format":       {tensors: []TensorInfo{{"t", []uint64{256}, 16}}},
		"long file":    {tensors: []TensorInfo{{"t", []uint64{1 << 60}, arith.F32}, {"u", []uint64{1 << 60}, arith.F32}}},
		"many tensors": {tensors: make([]TensorInfo, maxCount+1)},
	} {
		var buf bytes.Buffer
		if _, err := NewWriter(&buf, c.meta, c.tensors); err == nil || buf.Len() > 0 {
			t.Errorf("%s: %v, %d bytes written", name, err, buf.Len())
		}
	}
	for name, data := range map[string][][]byte{
		"short": {make([]byte, 31)}, "long": {make([]byte, 33)}, "too many": {make([]byte, 32), {}}, "missing": {},
	} {
		w, err := NewWriter(io.Discard, nil, one)
		if err != nil {
			t.Fatal(err)
		}
		for _, d := range data {
			err = w.WriteTensor(d)
		}
		if name != "missing" && err == nil {
			t.Errorf("%s: accepted", name)
		}
		if w.Close() == nil {
			t.Errorf("%s: Close succeeded", name)
		}
	}
	w, err := NewWriter(io.Discard, nil, one)
	if err != nil {
		t.Fatal(err)
	}
	if err := w.WriteTensorFrom(iotest.ErrReader(io.ErrClosedPipe)); !errors.Is(err, io.ErrClosedPipe) {
		t.Errorf("reader's error: %v", err)
	}
	// A writer that fails after any number of bytes is noticed.
	meta, infos, data := sample(t)
	size := len(encode(t, meta, infos, data))
	for room := range size {
		w, err := NewWriter(&short{room}, meta, infos)
		if err == nil {
			for _, d := range data {
				w.WriteTensor(d)
			}
			err = w.Close()
		}
		if !errors.Is(err, io.ErrShortWrite) {
			t.Fatalf("room for %d of %d bytes: %v", room, size, err)
		}
	}
}

// short takes a number of bytes and then fails.
type short struct{ left int }

func (s *short) Write(b []byte) (int, error) {
	if len(b) > s.left {
		n := s.left
		s.left = 0
		return n, io.ErrShortWrite
	}
	s.left -= len(b)
	return len(b), nil
}

func FuzzParse(f *testing.F) {
	b := sampleBytes(f)
	f.Add(b)
	f.Add(b[:len(b)-1])
	f.Add([]byte(head(0, 0)))
	f.Add([]byte(head(2, 1).key("k").tensor("t", 0, 32, 8).tensor("u", 30, 0, 8).pad(32).zeros(64)))
	f.Fuzz(func(t *testing.T, b []byte) {
		a, err := Parse("fuzz", b)
		if err != nil {
			var bad *FormatError
			if !errors.As(err, &bad) {
				t.Fatalf("%v is no FormatError", err)
			}
			return
		}
		again := rewrite(t, a)
		c, err := Parse("again", again)
		if err != nil {
			t.Fatal(err)
		}
		same(t, a, c)
		for _, kv := range a.Meta() {
			_ = kv.Value.String()
			_ = kv.Value.Any()
		}
		if !slices.Equal(rewrite(t, c), again) {
			t.Fatal("the third writing differs from the second")
		}
	})
}

func BenchmarkParseVocabulary(b *testing.B) {
	tokens := make([]string, 128_000)
	for i := range tokens {
		tokens[i] = strings.Repeat("x", i%17)
	}
	meta := []KV{
		{"tokenizer.ggml.tokens", ArrayOf(tokens)},
		{"tokenizer.ggml.scores", ArrayOf(make([]float32, len(tokens)))},
		{"tokenizer.ggml.merges", ArrayOf(tokens)},
	}
	data := encode(b, meta, nil, nil)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := Parse("bench", data); err != nil {
			b.Fatal(err)
		}
	}
}
