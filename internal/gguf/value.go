package gguf

import (
	"encoding/binary"
	"fmt"
	"math"
	"slices"
)

// Type is the type of a metadata value; the numbers are those of the format.
type Type uint32

// The types of metadata values.
const (
	Uint8 Type = iota
	Int8
	Uint16
	Int16
	Uint32
	Int32
	Float32
	Bool
	String
	Array
	Uint64
	Int64
	Float64
)

// String returns the name that the specification uses, in lower case.
func (t Type) String() string {
	switch t {
	case Uint8:
		return "uint8"
	case Int8:
		return "int8"
	case Uint16:
		return "uint16"
	case Int16:
		return "int16"
	case Uint32:
		return "uint32"
	case Int32:
		return "int32"
	case Float32:
		return "float32"
	case Bool:
		return "bool"
	case String:
		return "string"
	case Array:
		return "array"
	case Uint64:
		return "uint64"
	case Int64:
		return "int64"
	case Float64:
		return "float64"
	}
	return fmt.Sprintf("type %d", uint32(t))
}

// size is the number of bytes of a value of fixed size, 0 for any other type.
func (t Type) size() int {
	switch t {
	case Uint8, Int8, Bool:
		return 1
	case Uint16, Int16:
		return 2
	case Uint32, Int32, Float32:
		return 4
	case Uint64, Int64, Float64:
		return 8
	}
	return 0
}

// Value is a metadata value with its exact type. It cannot be changed. The
// zero Value is a uint8 of 0.
type Value struct {
	typ  Type
	elem Type     // of an Array
	bits uint64   // a scalar of fixed size: its bytes, zero-extended
	str  string   // a String
	nums []byte   // an Array of elements of fixed size, as in the file
	strs []string // an Array of String
	vals []Value  // an Array of Array
}

// Scalar is what a Value that is no array can hold.
type Scalar interface {
	uint8 | int8 | uint16 | int16 | uint32 | int32 | uint64 | int64 | float32 | float64 | bool | string
}

// ValueOf makes a value of the type that corresponds to T.
func ValueOf[T Scalar](v T) Value {
	switch v := any(v).(type) {
	case uint8:
		return Value{typ: Uint8, bits: uint64(v)}
	case int8:
		return Value{typ: Int8, bits: uint64(uint8(v))}
	case uint16:
		return Value{typ: Uint16, bits: uint64(v)}
	case int16:
		return Value{typ: Int16, bits: uint64(uint16(v))}
	case uint32:
		return Value{typ: Uint32, bits: uint64(v)}
	case int32:
		return Value{typ: Int32, bits: uint64(uint32(v))}
	case uint64:
		return Value{typ: Uint64, bits: v}
	case int64:
		return Value{typ: Int64, bits: uint64(v)}
	case float32:
		return Value{typ: Float32, bits: uint64(math.Float32bits(v))}
	case float64:
		return Value{typ: Float64, bits: math.Float64bits(v)}
	case bool:
		if v {
			return Value{typ: Bool, bits: 1}
		}
		return Value{typ: Bool}
	case string:
		return Value{typ: String, str: v}
	}
	panic("gguf: internal error: Scalar without a type")
}

// ArrayOf makes an array whose element type corresponds to T. It keeps a copy.
func ArrayOf[T Scalar](v []T) Value {
	var zero T
	a := Value{typ: Array, elem: ValueOf(zero).typ}
	if strs, ok := any(v).([]string); ok {
		a.strs = append([]string{}, strs...)
		return a
	}
	nums, err := binary.Append([]byte{}, binary.LittleEndian, v)
	if err != nil {
		panic("gguf: internal error: " + err.Error())
	}
	a.nums = nums
	return a
}

// Nested makes an array of arrays, at most 4 deep in all. It keeps a copy.
func Nested(arrays ...Value) (Value, error) {
	a := Value{typ: Array, elem: Array, vals: append([]Value{}, arrays...)}
	for i, v := range arrays {
		if v.typ != Array {
			return Value{}, fmt.Errorf("gguf: element %d of an array of arrays is a %v", i, v.typ)
		}
	}
	if d := a.depth(); d > maxDepth {
		return Value{}, fmt.Errorf("gguf: arrays %d deep; the most is %d", d, maxDepth)
	}
	return a, nil
}

// depth is 0 for a scalar and 1 for an array of scalars.
func (v Value) depth() int {
	if v.typ != Array {
		return 0
	}
	d := 0
	for _, e := range v.vals {
		d = max(d, e.depth())
	}
	return d + 1
}

// Type is the type of the value.
func (v Value) Type() Type { return v.typ }

// Elem is the element type of an array; of any other value it is Type.
func (v Value) Elem() Type {
	if v.typ != Array {
		return v.typ
	}
	return v.elem
}

// Len is the number of elements of an array and 1 for any other value.
func (v Value) Len() int {
	switch {
	case v.typ != Array:
		return 1
	case v.elem == String:
		return len(v.strs)
	case v.elem == Array:
		return len(v.vals)
	}
	return len(v.nums) / v.elem.size()
}

// Str returns a string value.
func (v Value) Str() (string, bool) { return v.str, v.typ == String }

// Uint returns an integer of any width that is not negative.
func (v Value) Uint() (uint64, bool) {
	if v.typ == Uint64 {
		return v.bits, true
	}
	i, ok := signed(v.typ, v.bits)
	return uint64(max(i, 0)), ok && i >= 0
}

// Int returns an integer of any width that an int64 can hold.
func (v Value) Int() (int64, bool) { return signed(v.typ, v.bits) }

// Float returns a float32 or float64.
func (v Value) Float() (float64, bool) {
	switch v.typ {
	case Float32:
		return float64(math.Float32frombits(uint32(v.bits))), true
	case Float64:
		return math.Float64frombits(v.bits), true
	}
	return 0, false
}

// Bool returns a truth value.
func (v Value) Bool() (bool, bool) { return v.typ == Bool && v.bits != 0, v.typ == Bool }

// Strings returns the elements of an array of strings.
func (v Value) Strings() ([]string, bool) {
	if v.typ != Array || v.elem != String {
		return nil, false
	}
	return slices.Clone(v.strs), true
}

// Ints returns the elements of an array of integers of any width, if all fit.
func (v Value) Ints() ([]int64, bool) {
	if v.typ != Array {
		return nil, false
	}
	if _, ok := signed(v.elem, 0); !ok {
		return nil, false
	}
	ints := make([]int64, v.Len())
	size := v.elem.size()
	for i := range ints {
		n, ok := signed(v.elem, fixedBits(v.nums[i*size:][:size]))
		if !ok {
			return nil, false
		}
		ints[i] = n
	}
	return ints, true
}

// Floats returns the elements of an array of float32.
func (v Value) Floats() ([]float32, bool) {
	if v.typ != Array || v.elem != Float32 {
		return nil, false
	}
	return numbers[float32](v), true
}

// Bools returns the elements of an array of truth values.
func (v Value) Bools() ([]bool, bool) {
	if v.typ != Array || v.elem != Bool {
		return nil, false
	}
	return numbers[bool](v), true
}

// Arrays returns the elements of an array of arrays.
func (v Value) Arrays() ([]Value, bool) {
	if v.typ != Array || v.elem != Array {
		return nil, false
	}
	return slices.Clone(v.vals), true
}

// Any returns the value as the Go type that corresponds to it: uint8, string,
// []float32, [][]int32 as []any, and so on.
func (v Value) Any() any {
	switch v.typ {
	case String:
		return v.str
	case Array:
		return v.anyArray()
	}
	var one [8]byte
	binary.LittleEndian.PutUint64(one[:], v.bits)
	a := Value{typ: Array, elem: v.typ, nums: one[:v.typ.size()]}
	switch n := a.anyArray().(type) {
	case []uint8:
		return n[0]
	case []int8:
		return n[0]
	case []uint16:
		return n[0]
	case []int16:
		return n[0]
	case []uint32:
		return n[0]
	case []int32:
		return n[0]
	case []float32:
		return n[0]
	case []bool:
		return n[0]
	case []uint64:
		return n[0]
	case []int64:
		return n[0]
	case []float64:
		return n[0]
	}
	panic("gguf: internal error: value of " + v.typ.String())
}

func (v Value) anyArray() any {
	switch v.elem {
	case String:
		return slices.Clone(v.strs)
	case Array:
		all := make([]any, len(v.vals))
		for i, e := range v.vals {
			all[i] = e.Any()
		}
		return all
	case Uint8:
		return numbers[uint8](v)
	case Int8:
		return numbers[int8](v)
	case Uint16:
		return numbers[uint16](v)
	case Int16:
		return numbers[int16](v)
	case Uint32:
		return numbers[uint32](v)
	case Int32:
		return numbers[int32](v)
	case Float32:
		return numbers[float32](v)
	case Bool:
		return numbers[bool](v)
	case Uint64:
		return numbers[uint64](v)
	case Int64:
		return numbers[int64](v)
	case Float64:
		return numbers[float64](v)
	}
	panic("gguf: internal error: array of " + v.elem.String())
}

// String shows the value to a person; long arrays and strings are cut.
func (v Value) String() string {
	const most = 8
	switch {
	case v.typ == String:
		return fmt.Sprintf("%.200q", v.str)
	case v.typ != Array:
		return fmt.Sprint(v.Any())
	case v.Len() > most:
		return fmt.Sprintf("array of %d %v", v.Len(), v.elem)
	case v.elem == String:
		return fmt.Sprintf("%.40q", v.strs)
	}
	return fmt.Sprint(v.Any())
}

// append appends the value as it stands in a file, without its own type.
func (v Value) append(b []byte) []byte {
	switch v.typ {
	case String:
		return appendString(b, v.str)
	case Array:
		b = binary.LittleEndian.AppendUint32(b, uint32(v.elem))
		b = binary.LittleEndian.AppendUint64(b, uint64(v.Len()))
		b = append(b, v.nums...)
		for _, s := range v.strs {
			b = appendString(b, s)
		}
		for _, e := range v.vals {
			b = e.append(b)
		}
		return b
	}
	var one [8]byte
	binary.LittleEndian.PutUint64(one[:], v.bits)
	return append(b, one[:v.typ.size()]...)
}

func appendString(b []byte, s string) []byte {
	b = binary.LittleEndian.AppendUint64(b, uint64(len(s)))
	return append(b, s...)
}

// signed widens an integer of type t to 64 bits; false if t is no integer type
// or the number does not fit.
func signed(t Type, bits uint64) (int64, bool) {
	switch t {
	case Uint8, Uint16, Uint32, Int64:
		return int64(bits), true
	case Int8:
		return int64(int8(bits)), true
	case Int16:
		return int64(int16(bits)), true
	case Int32:
		return int64(int32(bits)), true
	case Uint64:
		return int64(bits), bits <= math.MaxInt64
	}
	return 0, false
}

// fixedBits reads 1 to 8 little-endian bytes.
func fixedBits(b []byte) uint64 {
	var v uint64
	for i, c := range b {
		v |= uint64(c) << (8 * i)
	}
	return v
}

func numbers[T Scalar](v Value) []T {
	out := make([]T, v.Len())
	if _, err := binary.Decode(v.nums, binary.LittleEndian, out); err != nil {
		panic("gguf: internal error: " + err.Error())
	}
	return out
}
