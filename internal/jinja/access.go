package jinja

import (
	"unicode/utf8"
)

// isIterable is whether Python's iter(v) works.
func isIterable(v Value) bool {
	switch v.(type) {
	case string, markup, *List, *tuple, *Dict, *dictView, *rangeValue, *generator, *undefined, *loop:
		return true
	}
	return false
}

// iterate is Python's iter(v).
func (st *state) iterate(v Value) *generator {
	switch v := v.(type) {
	case *List:
		i := 0
		return &generator{next: func() (Value, bool) {
			if i >= len(v.Items) {
				return nil, false
			}
			i++
			return v.Items[i-1], true
		}}
	case *tuple:
		return sliceGenerator(v.items)
	case *Dict:
		return st.iterate(&dictView{v, "keys"})
	case *dictView:
		i := 0
		return &generator{next: func() (Value, bool) {
			if i >= v.dict.Len() {
				return nil, false
			}
			i++
			st.alloc(48)
			return v.at(i - 1), true
		}}
	case *rangeValue:
		var i int64
		return &generator{next: func() (Value, bool) {
			if i >= v.n {
				return nil, false
			}
			i++
			return v.start + (i-1)*v.step, true
		}}
	case *generator:
		return v
	case *undefined:
		return sliceGenerator(nil)
	case string, markup:
		s, _ := asString(v) // both are strings
		return &generator{next: func() (Value, bool) {
			if s == "" {
				return nil, false
			}
			_, n := utf8.DecodeRuneInString(s)
			c := s[:n]
			s = s[n:]
			return c, true
		}}
	case *loop:
		return &generator{next: func() (Value, bool) {
			if !v.advance() {
				return nil, false
			}
			return &tuple{[]Value{v.current, v}}, true
		}}
	}
	typeError("'%s' object is not iterable", typeName(v))
	return nil
}

// items is Python's list(v), as a slice of its own.
func (st *state) items(v Value) []Value {
	if n, ok := sizeOf(v); ok {
		st.allocItems(n)
	}
	it := st.iterate(v)
	var out []Value
	for {
		x, ok := it.pull()
		if !ok {
			return out
		}
		st.step()
		st.alloc(16)
		out = append(out, x)
	}
}

// sizeOf is Python's len(v), except that a string's is in bytes: it serves to
// count work.
func sizeOf(v Value) (int, bool) {
	switch v := v.(type) {
	case string:
		return len(v), true
	case markup:
		return len(v), true
	}
	return lengthOf(v)
}

// lengthOf is Python's len(v).
func lengthOf(v Value) (int, bool) {
	switch v := v.(type) {
	case string:
		return utf8.RuneCountInString(v), true
	case markup:
		return utf8.RuneCountInString(string(v)), true
	case *List:
		return len(v.Items), true
	case *tuple:
		return len(v.items), true
	case *Dict:
		return v.Len(), true
	case *dictView:
		return v.dict.Len(), true
	case *rangeValue:
		return int(v.n), true
	case *undefined:
		return 0, true
	case *loop:
		return v.length(), true
	}
	return 0, false
}

// getAttr is obj.name in a template: an attribute or method of the object, or
// else its item of that name.
func (st *state) getAttr(obj Value, name string) Value {
	if u, ok := obj.(*undefined); ok {
		u.fail()
	}
	if v, ok := st.attribute(obj, name); ok {
		return v
	}
	if v, ok := st.item(obj, name); ok {
		return v
	}
	return missing(obj, name)
}

// getItem is obj[index] in a template: the item, or else the attribute of that
// name.
func (st *state) getItem(obj, index Value) Value {
	if u, ok := obj.(*undefined); ok {
		u.fail()
	}
	if v, ok := st.item(obj, index); ok {
		return v
	}
	if name, ok := asString(index); ok {
		if v, ok := st.attribute(obj, name); ok {
			return v
		}
		return missing(obj, name)
	}
	return undefinedf(objectName(obj) + " has no element " + st.repr(index))
}

func missing(obj Value, name string) Value {
	return undefinedf("'" + objectName(obj) + "' has no attribute '" + name + "'")
}

// hiddenAttributes are those of every Python object that templates of strangers
// ask for; the sandbox refuses them.
func hiddenAttribute(name string) bool {
	switch name {
	case "__class__", "__dict__", "__doc__", "__init__", "__globals__", "__subclasses__", "__getattribute__", "__module__", "__reduce__":
		return true
	}
	return false
}

func refused(obj Value, name string) *undefined {
	return &undefined{kind: SecurityError, message: "access to attribute '" + name + "' of '" + typeName(obj) + "' object is unsafe."}
}

// attribute is Python's getattr in the sandbox.
func (st *state) attribute(obj Value, name string) (Value, bool) {
	switch obj := obj.(type) {
	case *namespace:
		return obj.attrs.get(name)
	case *loop:
		return st.loopAttr(obj, name)
	case *macro:
		switch name {
		case "name":
			return obj.node.name, true
		case "arguments":
			names := make([]Value, len(obj.node.params))
			for i, p := range obj.node.params {
				names[i] = p.name
			}
			return &tuple{names}, true
		}
	case *cycler:
		return obj.attribute(name)
	}
	if hiddenAttribute(name) {
		return refused(obj, name), true
	}
	m := findMethod(obj, name)
	if m == nil {
		return nil, false
	}
	if m.changes && !st.opt.AllowMutation {
		return refused(obj, name), true
	}
	return &function{name: name, method: true, call: func(st *state, a *callArgs) Value {
		st.workOn(obj)
		return m.call(st, obj, a)
	}}, true
}

// item is Python's obj[index], or false where that raises TypeError or
// LookupError.
func (st *state) item(obj, index Value) (Value, bool) {
	if s, ok := index.(sliceValue); ok {
		return st.slice(obj, s)
	}
	switch obj := obj.(type) {
	case *Dict:
		switch index.(type) {
		case *List, *Dict, *dictView:
			return nil, false
		}
		return obj.get(index)
	case *List:
		return at(obj.Items, index)
	case *tuple:
		return at(obj.items, index)
	case *rangeValue:
		i, ok := asInt(index)
		if i < 0 {
			i += obj.n
		}
		if !ok || i < 0 || i >= obj.n {
			return nil, false
		}
		return obj.start + i*obj.step, true
	case string, markup:
		s, _ := asString(obj) // both are strings
		i, ok := asInt(index)
		if !ok {
			return nil, false
		}
		st.work(len(s))
		if i < 0 {
			i += int64(utf8.RuneCountInString(s))
		}
		for _, r := range s {
			if i == 0 {
				return like(obj, string(r)), true
			}
			i--
			if i < 0 {
				break
			}
		}
	}
	return nil, false
}

func at(items []Value, index Value) (Value, bool) {
	i, ok := asInt(index)
	if i < 0 {
		i += int64(len(items))
	}
	if !ok || i < 0 || i >= int64(len(items)) {
		return nil, false
	}
	return items[i], true
}

// slice is Python's obj[start:stop:step].
func (st *state) slice(obj Value, s sliceValue) (Value, bool) {
	switch obj := obj.(type) {
	case *List:
		return &List{sliceItems(st, obj.Items, s)}, true
	case *tuple:
		return &tuple{sliceItems(st, obj.items, s)}, true
	case *rangeValue:
		start, stop, step := s.bounds(obj.n)
		return newRange(obj.start+start*obj.step, obj.start+stop*obj.step, obj.step*step), true
	case string, markup:
		text, _ := asString(obj) // both are strings
		st.allocString(len(text))
		return like(obj, string(sliceItems(st, []rune(text), s))), true
	case *Dict:
		typeError("unhashable type: 'slice'")
	}
	typeError("'%s' object is not subscriptable", typeName(obj))
	return nil, false
}

// bounds are the indices start, stop and step of the slice in n items: with a
// positive step 0 <= start, stop <= n, with a negative one one less.
func (s sliceValue) bounds(n int64) (start, stop, step int64) {
	given := func(v Value, def int64) int64 {
		if v == nil {
			return def
		}
		if u, ok := v.(*undefined); ok {
			u.fail()
		}
		i, ok := asInt(v)
		if !ok {
			typeError("slice indices must be integers or None or have an __index__ method")
		}
		return i
	}
	step = given(s.step, 1)
	if step == 0 {
		fail(ValueError, "slice step cannot be zero")
	}
	step = max(-n-1, min(n+1, step)) // beyond n every step is the same
	low, high, first, last := int64(0), n, int64(0), n
	if step < 0 {
		low, high, first, last = -1, n-1, n-1, -1
	}
	clamp := func(v Value, def int64) int64 {
		if v == nil {
			return def
		}
		i := given(v, 0)
		if i < 0 {
			i += n
		}
		return max(low, min(high, i))
	}
	return clamp(s.start, first), clamp(s.stop, last), step
}

func sliceItems[T any](st *state, items []T, s sliceValue) []T {
	start, stop, step := s.bounds(int64(len(items)))
	if step == 1 && start < stop {
		st.allocItems(int(stop - start))
		return append([]T(nil), items[start:stop]...)
	}
	var out []T
	for i := start; step > 0 && i < stop || step < 0 && i > stop; i += step {
		st.alloc(16)
		out = append(out, items[i])
	}
	st.work(len(out))
	return out
}

// intArg is an integer argument of the built-in function fn.
func intArg(v Value) int64 {
	if u, ok := v.(*undefined); ok {
		u.fail()
	}
	n, ok := asInt(v)
	if !ok {
		typeError("'%s' object cannot be interpreted as an integer", typeName(v))
	}
	return n
}
