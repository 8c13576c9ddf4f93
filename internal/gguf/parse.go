package gguf

import (
	"cmp"
	"encoding/binary"
	"fmt"
	"math"
	"slices"

	"github.com/geistnet/geist/arith"
)

// Parse reads a file's bytes. name stands in for the path in errors. Tensor
// data are views of b, metadata are copies. All errors are *FormatError.
func Parse(name string, b []byte) (*File, error) {
	c := &cursor{name: name, b: b}
	f := &File{Path: name, Size: int64(len(b))}
	tensors, keys := c.header(f)
	c.metadata(f, keys)
	c.tensors(f, tensors)
	if c.err != nil {
		return nil, c.err
	}
	return f, nil
}

// cursor walks over b. Once err is set every read returns zero.
type cursor struct {
	name string
	b    []byte
	off  int
	err  error
}

func (c *cursor) fail(at int, format string, args ...any) {
	if c.err == nil {
		c.err = &FormatError{File: c.name, Offset: int64(at), Reason: fmt.Sprintf(format, args...)}
	}
}

func (c *cursor) left() uint64 { return uint64(len(c.b) - c.off) }

// take returns the next n bytes, nil after an error.
func (c *cursor) take(n uint64, what string) []byte {
	if c.err != nil {
		return nil
	}
	if n > c.left() {
		c.fail(c.off, "%s needs %d bytes, %d are left; is the download complete?", what, n, c.left())
		return nil
	}
	b := c.b[c.off:][:n]
	c.off += int(n)
	return b
}

func (c *cursor) u32(what string) uint32 {
	if b := c.take(4, what); b != nil {
		return binary.LittleEndian.Uint32(b)
	}
	return 0
}

func (c *cursor) u64(what string) uint64 {
	if b := c.take(8, what); b != nil {
		return binary.LittleEndian.Uint64(b)
	}
	return 0
}

// count reads a number of things of at least size bytes each.
func (c *cursor) count(size uint64, what string) int {
	at := c.off
	n := c.u64(what)
	if c.err == nil && n > c.left()/size {
		c.fail(at, "%s is %d, more than the %d bytes left can hold; is the download complete?", what, n, c.left())
		return 0
	}
	return int(n)
}

// str reads a string of at most limit bytes as a view of b.
func (c *cursor) str(limit uint64, what string) []byte {
	at := c.off
	n := c.u64(what)
	if c.err == nil && n > limit {
		c.fail(at, "%s is %d bytes long; the most is %d", what, n, limit)
	}
	return c.take(n, what)
}

func (c *cursor) header(f *File) (tensors, keys int) {
	if magic := c.take(4, "the magic"); c.err == nil && string(magic) != "GGUF" {
		c.fail(0, "not a GGUF file: it begins with %q", magic)
	}
	f.Version = c.u32("the version")
	if c.err == nil && f.Version != 2 && f.Version != 3 {
		if f.Version != 0 && f.Version&0xffff == 0 {
			c.fail(4, "big-endian GGUF is not supported; convert the model to little-endian")
		} else {
			c.fail(4, "GGUF version %d; versions 2 and 3 are supported", f.Version)
		}
	}
	tensors = c.count(minTensor, "the number of tensors")
	keys = c.count(minKey, "the number of keys")
	if tensors > maxCount || keys > maxCount {
		c.fail(8, "%d tensors and %d keys; the most is %d of each", tensors, keys, maxCount)
	}
	return tensors, keys
}

func (c *cursor) metadata(f *File, n int) {
	f.keys = map[string]int{}
	f.Alignment = defaultAlignment
	for range n {
		at := c.off
		key := string(c.str(maxName, "a key"))
		typ := Type(c.u32("a value's type"))
		v := c.value(typ, 0)
		if c.err != nil {
			if e, ok := c.err.(*FormatError); ok && key != "" {
				e.Reason = fmt.Sprintf("key %.80q: %s", key, e.Reason)
			}
			return
		}
		if _, dup := f.keys[key]; dup {
			c.fail(at, "key %.80q appears twice", key)
			return
		}
		if key == alignmentKey {
			a, reason := alignment(v)
			if reason != "" {
				c.fail(at, "%s", reason)
				return
			}
			f.Alignment = a
		}
		f.keys[key] = len(f.meta)
		f.meta = append(f.meta, KV{key, v})
	}
}

// value reads a value of type typ that stands within depth arrays.
func (c *cursor) value(typ Type, depth int) Value {
	v := Value{typ: typ}
	switch {
	case c.err != nil:
	case typ == String:
		v.str = string(c.str(maxValue, "a string"))
	case typ == Array:
		c.array(&v, depth+1)
	case typ.size() > 0:
		at := c.off
		v.bits = fixedBits(c.take(uint64(typ.size()), "a value"))
		if typ == Bool && v.bits > 1 {
			c.fail(at, "a bool is %d", v.bits)
		}
	default:
		c.fail(c.off-4, "a value of unknown type %d", uint32(typ))
	}
	return v
}

func (c *cursor) array(v *Value, depth int) {
	at := c.off
	v.elem = Type(c.u32("an array's type"))
	size := uint64(v.elem.size())
	switch {
	case c.err != nil:
	case depth > maxDepth:
		c.fail(at, "arrays are nested more than %d deep", maxDepth)
	case v.elem == String:
		c.strings(v, c.count(8, "an array's length"))
	case v.elem == Array:
		v.vals = []Value{}
		for range c.count(12, "an array's length") {
			e := c.value(Array, depth)
			if c.err == nil && c.off-at > maxValue {
				c.fail(at, "an array of more than %d bytes", maxValue)
			}
			if c.err != nil {
				return
			}
			v.vals = append(v.vals, e)
		}
	case size > 0:
		n := c.count(size, "an array's length")
		begin := c.off
		raw := c.take(uint64(n)*size, "an array")
		if len(raw) > maxValue {
			c.fail(at, "an array of %d bytes; the most is %d", len(raw), maxValue)
			return
		}
		v.nums = append([]byte{}, raw...)
		if v.elem == Bool {
			if i := slices.IndexFunc(v.nums, func(b byte) bool { return b > 1 }); i >= 0 {
				c.fail(begin+i, "a bool is %d", v.nums[i])
			}
		}
	default:
		c.fail(at, "an array of unknown type %d", uint32(v.elem))
	}
}

// strings reads n strings in two passes: the first checks all lengths, so that
// the second sets memory aside only for strings that are there. All share one
// copy of their stretch of the file, lengths included.
func (c *cursor) strings(v *Value, n int) {
	begin := c.off
	for range n {
		c.str(maxValue, "a string")
		if c.err != nil {
			return
		}
		if c.off-begin > maxValue {
			c.fail(begin, "an array of more than %d bytes", maxValue)
			return
		}
	}
	all := string(c.b[begin:c.off])
	v.strs = make([]string, n)
	pos := 0
	for i := range v.strs {
		size := int(binary.LittleEndian.Uint64(c.b[begin+pos:]))
		pos += 8
		v.strs[i] = all[pos : pos+size]
		pos += size
	}
}

func (c *cursor) tensors(f *File, n int) {
	f.names = map[string]*Tensor{}
	var infos []int // where each tensor's description begins
	for range n {
		at := c.off
		name := string(c.str(maxName, "a tensor's name"))
		dims := c.u32("a tensor's number of dimensions")
		if c.err == nil && (dims < 1 || dims > maxDims) {
			c.fail(at, "tensor %.80q: %d dimensions; 1 to %d are possible", name, dims, maxDims)
		}
		if c.err != nil {
			return
		}
		t := &Tensor{Name: name, Dims: make([]uint64, dims)}
		for i := range t.Dims {
			t.Dims[i] = c.u64("a tensor's dimension")
		}
		t.Format = arith.Format(c.u32("a tensor's format"))
		t.Offset = c.u64("a tensor's offset")
		if c.err != nil {
			return
		}
		if f.names[name] != nil {
			c.fail(at, "tensor %.80q appears twice", name)
			return
		}
		f.names[name] = t
		f.tensors = append(f.tensors, t)
		infos = append(infos, at)
	}
	if c.err != nil {
		return
	}
	begin := alignUp(uint64(c.off), f.Alignment)
	for i, t := range f.tensors {
		c.place(t, infos[i], begin, f.Alignment)
		if c.err != nil {
			return
		}
	}
	order := slices.Clone(f.tensors)
	slices.SortFunc(order, func(a, b *Tensor) int { return cmp.Compare(a.Offset, b.Offset) })
	for i := 1; i < len(order); i++ {
		a, b := order[i-1], order[i]
		if a.Offset+uint64(len(a.Data)) > b.Offset {
			c.fail(int(b.Offset), "tensors %.80q and %.80q overlap", a.Name, b.Name)
			return
		}
	}
}

// place checks a tensor's description and makes Offset and Data. begin is
// where the data of all tensors begin.
func (c *cursor) place(t *Tensor, at int, begin, align uint64) {
	size, reason := checkTensor(TensorInfo{t.Name, t.Dims, t.Format})
	if reason != "" {
		c.fail(at, "tensor %.80q: %s", t.Name, reason)
		return
	}
	if t.Offset%align != 0 {
		c.fail(at, "tensor %.80q: offset %d is not a multiple of %d", t.Name, t.Offset, align)
		return
	}
	if t.Offset > math.MaxInt64-begin {
		c.fail(at, "tensor %.80q: offset %d lies beyond any file", t.Name, t.Offset)
		return
	}
	t.Offset += begin
	end := t.Offset + size // both are at most MaxInt64
	if end > uint64(len(c.b)) {
		c.fail(at, "tensor %.80q: data ends at %d beyond the file's %d bytes; is the download complete?", t.Name, end, len(c.b))
		return
	}
	t.Data = c.b[t.Offset:end:end]
}
