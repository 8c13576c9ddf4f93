package jinja

import (
	"math"
	"sort"
	"strings"
)

// method is a method of a built-in type.
type method struct {
	call    func(st *state, self Value, a *callArgs) Value
	changes bool // it changes self, which Options.AllowMutation must allow
}

// findMethod returns the method of v's type, or nil.
func findMethod(v Value, name string) *method {
	switch v.(type) {
	case string, markup:
		if f := stringMethod(name); f != nil {
			return &method{call: func(st *state, self Value, a *callArgs) Value {
				s, _ := asString(self) // self is a string
				return f(st, self, s, a)
			}}
		}
	case *Dict:
		return dictMethod(name)
	case *List:
		return listMethod(name)
	case *tuple, *rangeValue:
		switch name {
		case "count", "index":
			return listMethod(name)
		}
	case float64:
		if name == "is_integer" {
			return &method{call: func(_ *state, self Value, a *callArgs) Value {
				a.bind(name, 0)
				f, _ := self.(float64) // self is a float
				return f == math.Trunc(f) && !math.IsInf(f, 0)
			}}
		}
	}
	return nil
}

func dictMethod(name string) *method {
	on := func(f func(st *state, d *Dict, a *callArgs) Value, changes bool) *method {
		return &method{changes: changes, call: func(st *state, self Value, a *callArgs) Value {
			d, ok := self.(*Dict)
			if !ok {
				panic("jinja: internal error: method of a dict called on another type")
			}
			return f(st, d, a)
		}}
	}
	switch name {
	case "keys", "values", "items":
		return on(func(_ *state, d *Dict, a *callArgs) Value {
			a.bind(name, 0)
			return &dictView{d, name}
		}, false)
	case "get":
		return on(func(_ *state, d *Dict, a *callArgs) Value {
			v := a.bind(name, 1, "key", "default")
			if found, ok := d.get(v[0]); ok {
				return found
			}
			return or(v[1], nil)
		}, false)
	case "copy":
		return on(func(st *state, d *Dict, a *callArgs) Value {
			a.bind(name, 0)
			st.allocItems(4 * d.Len())
			return d.copy()
		}, false)
	case "clear":
		return on(func(_ *state, d *Dict, a *callArgs) Value {
			a.bind(name, 0)
			*d = Dict{}
			return nil
		}, true)
	case "pop":
		return on(func(st *state, d *Dict, a *callArgs) Value {
			v := a.bind(name, 1, "key", "default")
			if found, ok := d.remove(v[0]); ok {
				return found
			}
			if v[1] == (unset{}) {
				fail(ValueError, "%s", st.repr(v[0]))
			}
			return v[1]
		}, true)
	case "popitem":
		return on(func(_ *state, d *Dict, a *callArgs) Value {
			a.bind(name, 0)
			if d.Len() == 0 {
				fail(ValueError, "popitem(): dictionary is empty")
			}
			e := d.entries[d.Len()-1]
			d.remove(e.key)
			return &tuple{[]Value{e.key, e.value}}
		}, true)
	case "setdefault":
		return on(func(st *state, d *Dict, a *callArgs) Value {
			v := a.bind(name, 1, "key", "default")
			if found, ok := d.get(v[0]); ok {
				return found
			}
			st.allocItems(4)
			d.set(v[0], or(v[1], nil))
			return or(v[1], nil)
		}, true)
	case "update":
		return on(func(st *state, d *Dict, a *callArgs) Value {
			st.fillDict(d, "update", a)
			return nil
		}, true)
	}
	return nil
}

// fillDict adds what dict(...) or update(...) is given.
func (st *state) fillDict(d *Dict, fn string, a *callArgs) {
	if len(a.positional) > 1 {
		typeError("%s expected at most 1 argument, got %d", fn, len(a.positional))
	}
	for _, src := range a.positional {
		if u, ok := src.(*undefined); ok {
			u.fail()
		}
		var from *Dict
		switch src := src.(type) {
		case *Dict:
			from = src.copy()
		case *namespace:
			from = src.attrs.copy()
		default:
			for _, pair := range st.items(src) {
				kv := st.unpack(pair, 2)
				st.allocItems(4)
				d.set(kv[0], kv[1])
			}
			continue
		}
		st.allocItems(4 * from.Len())
		for _, e := range from.entries {
			d.set(e.key, e.value)
		}
	}
	st.allocItems(4 * len(a.names))
	for i, name := range a.names {
		d.set(name, a.named[i])
	}
}

func listMethod(name string) *method {
	read := func(f func(st *state, items []Value, a *callArgs) Value) *method {
		return &method{call: func(st *state, self Value, a *callArgs) Value { return f(st, st.items(self), a) }}
	}
	change := func(f func(st *state, l *List, a *callArgs) Value) *method {
		return &method{changes: name != "pop", call: func(st *state, self Value, a *callArgs) Value {
			l, ok := self.(*List)
			if !ok {
				panic("jinja: internal error: method of a list called on another type")
			}
			return f(st, l, a)
		}}
	}
	switch name {
	case "count":
		return read(func(st *state, items []Value, a *callArgs) Value {
			x := a.bind(name, 1, "value")[0]
			n := int64(0)
			for _, v := range items {
				if st.equal(v, x) {
					n++
				}
			}
			return n
		})
	case "index":
		return read(func(st *state, items []Value, a *callArgs) Value {
			v := a.bind(name, 1, "value", "start", "stop")
			from, to := bounds(v[1], v[2], len(items))
			for i := from; i < to; i++ {
				if st.equal(items[i], v[0]) {
					return int64(i)
				}
			}
			fail(ValueError, "%s is not in list", st.repr(v[0]))
			return nil
		})
	case "copy":
		return read(func(_ *state, items []Value, a *callArgs) Value {
			a.bind(name, 0)
			return &List{items}
		})
	case "append":
		return change(func(st *state, l *List, a *callArgs) Value {
			v := a.bind(name, 1, "object")
			st.alloc(32)
			l.Items = append(l.Items, v[0])
			return nil
		})
	case "extend":
		return change(func(st *state, l *List, a *callArgs) Value {
			l.Items = append(l.Items, st.items(a.bind(name, 1, "iterable")[0])...)
			return nil
		})
	case "insert":
		return change(func(st *state, l *List, a *callArgs) Value {
			v := a.bind(name, 2, "index", "object")
			i, _ := bounds(v[0], unset{}, len(l.Items))
			st.alloc(32)
			l.Items = append(l.Items, nil)
			copy(l.Items[i+1:], l.Items[i:])
			l.Items[i] = v[1]
			return nil
		})
	case "pop":
		return change(func(_ *state, l *List, a *callArgs) Value {
			i := intArg(or(a.bind(name, 0, "index")[0], int64(-1)))
			if len(l.Items) == 0 {
				fail(ValueError, "pop from empty list")
			}
			if i < 0 {
				i += int64(len(l.Items))
			}
			if i < 0 || i >= int64(len(l.Items)) {
				fail(ValueError, "pop index out of range")
			}
			v := l.Items[i]
			l.Items = append(l.Items[:i:i], l.Items[i+1:]...)
			return v
		})
	case "remove":
		return change(func(st *state, l *List, a *callArgs) Value {
			x := a.bind(name, 1, "value")[0]
			for i, v := range l.Items {
				if st.equal(v, x) {
					l.Items = append(l.Items[:i:i], l.Items[i+1:]...)
					return nil
				}
			}
			fail(ValueError, "list.remove(x): x not in list")
			return nil
		})
	case "clear":
		return change(func(_ *state, l *List, a *callArgs) Value {
			a.bind(name, 0)
			l.Items = nil
			return nil
		})
	case "reverse":
		return change(func(_ *state, l *List, a *callArgs) Value {
			a.bind(name, 0)
			for i, j := 0, len(l.Items)-1; i < j; i, j = i+1, j-1 {
				l.Items[i], l.Items[j] = l.Items[j], l.Items[i]
			}
			return nil
		})
	case "sort":
		return change(func(st *state, l *List, a *callArgs) Value {
			v := a.bind(name, 0, "reverse")
			items := append([]Value(nil), l.Items...)
			st.sortValues(items, items, truth(or(v[0], false)))
			l.Items = items
			return nil
		})
	}
	return nil
}

// bounds clamps Python's optional start and stop to a length.
func bounds(start, stop Value, n int) (int, int) {
	clamp := func(v Value, def int) int {
		if v == (unset{}) || v == nil {
			return def
		}
		i := intArg(v)
		if i < 0 {
			i += int64(n)
		}
		return int(max(0, min(i, int64(n))))
	}
	return clamp(start, 0), clamp(stop, n)
}

// sortStable sorts in place.
func (st *state) sortStable(entries []entry, less func(a, b entry) bool) {
	sort.SliceStable(entries, func(i, j int) bool { return less(entries[i], entries[j]) })
}

// sortValues sorts items in place by their keys, which have the same length,
// as Python's sorted does: stable, and stable too when reversed.
func (st *state) sortValues(items, keys []Value, reverse bool) {
	st.allocItems(2 * len(items))
	pairs := make([]entry, len(items))
	for i := range items {
		pairs[i] = entry{keys[i], items[i]}
	}
	st.sortStable(pairs, func(a, b entry) bool {
		if reverse {
			a, b = b, a
		}
		return st.less(a.key, b.key, "<")
	})
	for i, p := range pairs {
		items[i] = p.value
	}
}

// escapeHTML is what the escape filter does to text.
func escapeHTML(s string) string {
	return strings.NewReplacer("&", "&amp;", "<", "&lt;", ">", "&gt;", "'", "&#39;", `"`, "&#34;").Replace(s)
}
