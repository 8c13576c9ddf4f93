package jinja

import (
	"math"
	"strconv"
)

// Value is a value of the language. Its dynamic type is one of
//
//	nil       None
//	bool, int64, float64, string
//	BigInt    an integer outside int64, which only prints and compares
//	*List, *Dict
//
// or a type of this package that only templates make: tuples, ranges,
// generators, undefined values, functions and so on.
type Value any

// BigInt is an integer of any size as its decimal digits, e.g. "-18446744073709551615".
type BigInt string

// List is Python's list.
type List struct{ Items []Value }

// NewList returns a list of the items.
func NewList(items ...Value) *List { return &List{items} }

// Dict is Python's dict: a map that keeps the order of insertion.
type Dict struct {
	entries []entry
	index   map[dictKey]int // into entries
}

type entry struct{ key, value Value }

// dictKey is a comparable form of a key: equal keys, in Python's sense, have
// equal dictKeys.
type dictKey struct {
	kind byte // 'n' none, 'i' number that is an integer, 'f' other number, 's' string, 't' tuple, 'o' by identity
	num  int64
	text string
	id   any
}

// NewDict returns an empty map.
func NewDict() *Dict { return &Dict{} }

// Len returns the number of entries; nil has none.
func (d *Dict) Len() int {
	if d == nil {
		return 0
	}
	return len(d.entries)
}

// Set gives a string key its value. A key that is there keeps its place.
func (d *Dict) Set(key string, value Value) { d.set(key, value) }

// Get returns the value of a string key.
func (d *Dict) Get(key string) (Value, bool) {
	if d == nil {
		return nil, false
	}
	return d.get(key)
}

// Range calls f for the entries in order until it returns false.
func (d *Dict) Range(f func(key, value Value) bool) {
	if d == nil {
		return
	}
	for _, e := range d.entries {
		if !f(e.key, e.value) {
			return
		}
	}
}

func (d *Dict) set(key, value Value) {
	h := hashKey(key, 0)
	if i, ok := d.index[h]; ok {
		d.entries[i].value = value
		return
	}
	if d.index == nil {
		d.index = make(map[dictKey]int)
	}
	d.index[h] = len(d.entries)
	d.entries = append(d.entries, entry{key, value})
}

func (d *Dict) get(key Value) (Value, bool) {
	i, ok := d.index[hashKey(key, 0)]
	if !ok {
		return nil, false
	}
	return d.entries[i].value, true
}

func (d *Dict) remove(key Value) (Value, bool) {
	h := hashKey(key, 0)
	i, ok := d.index[h]
	if !ok {
		return nil, false
	}
	v := d.entries[i].value
	delete(d.index, h)
	d.entries = append(d.entries[:i:i], d.entries[i+1:]...)
	for k, j := range d.index {
		if j > i {
			d.index[k] = j - 1
		}
	}
	return v, true
}

func (d *Dict) copy() *Dict {
	c := NewDict()
	for _, e := range d.entries {
		c.set(e.key, e.value)
	}
	return c
}

// hashKey fails for values that Python cannot hash.
func hashKey(v Value, depth int) dictKey {
	switch v := v.(type) {
	case nil:
		return dictKey{kind: 'n'}
	case bool:
		if v {
			return dictKey{kind: 'i', num: 1}
		}
		return dictKey{kind: 'i'}
	case int64:
		return dictKey{kind: 'i', num: v}
	case BigInt:
		return dictKey{kind: 'b', text: string(v)}
	case float64:
		if v == math.Trunc(v) && math.Abs(v) < 1<<62 {
			return dictKey{kind: 'i', num: int64(v)}
		}
		return dictKey{kind: 'f', num: int64(math.Float64bits(v))}
	case string:
		return dictKey{kind: 's', text: v}
	case markup:
		return dictKey{kind: 's', text: string(v)}
	case *tuple:
		if depth > 20 || len(v.items) > 1000 {
			fail(LimitError, "a tuple that is a key of a map is too large")
		}
		var text []byte
		for _, it := range v.items {
			h := hashKey(it, depth+1)
			text = append(text, h.kind)
			text = strconv.AppendInt(text, h.num, 10)
			text = strconv.AppendQuote(text, h.text)
			if h.id != nil || len(text) > 1<<16 {
				fail(LimitError, "a tuple that is a key of a map is too large")
			}
		}
		return dictKey{kind: 't', text: string(text)}
	case *List, *Dict, *dictView, sliceValue:
		typeError("unhashable type: '%s'", typeName(v))
	}
	return dictKey{kind: 'o', id: v} // pointers, all comparable
}

// markup is a string that the safe filter marked: text joined to it is escaped.
type markup string

type tuple struct{ items []Value }

// rangeValue is range(...): n integers from start.
type rangeValue struct{ start, stop, step, n int64 }

// sliceValue is what start:stop:step evaluates to.
type sliceValue struct{ start, stop, step Value }

// generator yields values once, as Python's generators do. next returns false
// at the end, and is not called again after that.
type generator struct {
	next func() (Value, bool)
	done bool
}

func (g *generator) pull() (Value, bool) {
	if g.done {
		return nil, false
	}
	v, ok := g.next()
	g.done = !ok
	return v, ok
}

func sliceGenerator(items []Value) *generator {
	i := 0
	return &generator{next: func() (Value, bool) {
		if i >= len(items) {
			return nil, false
		}
		i++
		return items[i-1], true
	}}
}

// dictView is what keys, values and items return.
type dictView struct {
	dict *Dict
	kind string // "keys", "values" or "items"
}

func (v *dictView) at(i int) Value {
	e := v.dict.entries[i]
	switch v.kind {
	case "keys":
		return e.key
	case "values":
		return e.value
	}
	return &tuple{[]Value{e.key, e.value}}
}

type namespace struct{ attrs *Dict }

// undefined is what a missing variable, attribute or item evaluates to. message
// is what using it says; kind is UndefinedError if empty.
type undefined struct {
	message string
	kind    ErrorKind
}

func (u *undefined) fail() {
	kind := u.kind
	if kind == "" {
		kind = UndefinedError
	}
	fail(kind, "%s", u.message)
}

func undefinedf(message string) *undefined { return &undefined{message: message} }

// function is anything built in that can be called. method is true for methods
// of values, which Python calls built-in methods.
type function struct {
	name   string
	method bool
	call   func(st *state, a *callArgs) Value
}

// macro is a macro with the scope it was defined in.
type macro struct {
	node  *macroNode
	scope *scope
}

type cycler struct {
	items []Value
	pos   int
}

// typeName is Python's type(v).__name__.
func typeName(v Value) string {
	switch v := v.(type) {
	case nil:
		return "NoneType"
	case bool:
		return "bool"
	case int64, BigInt:
		return "int"
	case float64:
		return "float"
	case string:
		return "str"
	case markup:
		return "Markup"
	case *List:
		return "list"
	case *tuple:
		return "tuple"
	case *Dict:
		return "dict"
	case *rangeValue:
		return "range"
	case sliceValue:
		return "slice"
	case *generator:
		return "generator"
	case *dictView:
		return "dict_" + v.kind
	case *namespace:
		return "Namespace"
	case *undefined:
		return "Undefined"
	case *macro:
		return "Macro"
	case *loop:
		return "LoopContext"
	case *cycler:
		return "Cycler"
	case *function:
		if v.method {
			return "builtin_function_or_method"
		}
		return "function"
	}
	panic("jinja: internal error: unknown type of value")
}

// objectName is how Jinja's messages about undefined values name their owner.
func objectName(v Value) string {
	switch v.(type) {
	case nil:
		return "None"
	case *namespace:
		return "jinja2.utils.Namespace object"
	case *macro:
		return "jinja2.runtime.Macro object"
	case *loop:
		return "jinja2.runtime.LoopContext object"
	case *cycler:
		return "jinja2.utils.Cycler object"
	case markup:
		return "markupsafe.Markup object"
	}
	return typeName(v) + " object"
}

// str returns the text of a string value.
func asString(v Value) (string, bool) {
	switch v := v.(type) {
	case string:
		return v, true
	case markup:
		return string(v), true
	}
	return "", false
}

// like returns s with the type of model: marked as safe if that is.
func like(model Value, s string) Value {
	if _, ok := model.(markup); ok {
		return markup(s)
	}
	return s
}

// asInt returns the integer value of an int or bool.
func asInt(v Value) (int64, bool) {
	switch v := v.(type) {
	case int64:
		return v, true
	case bool:
		if v {
			return 1, true
		}
		return 0, true
	}
	return 0, false
}

// asFloat returns the value of any number.
func asFloat(v Value) (float64, bool) {
	switch v := v.(type) {
	case float64:
		return v, true
	case BigInt:
		f, _ := strconv.ParseFloat(string(v), 64) // digits always parse; out of range gives infinity
		return f, true
	}
	n, ok := asInt(v)
	return float64(n), ok
}

func truth(v Value) bool {
	switch v := v.(type) {
	case nil, *undefined:
		return false
	case bool:
		return v
	case int64:
		return v != 0
	case float64:
		return v != 0
	case string:
		return v != ""
	case markup:
		return v != ""
	case *List:
		return len(v.Items) > 0
	case *tuple:
		return len(v.items) > 0
	case *Dict:
		return v.Len() > 0
	case *dictView:
		return v.dict.Len() > 0
	case *rangeValue:
		return v.n > 0
	case *loop:
		return v.length() > 0
	}
	return true
}
