package jinja

import (
	"strconv"
	"strings"
)

// sequenceFilter returns a filter over sequences, or nil.
func sequenceFilter(name string) filterFunc {
	switch name {
	case "first":
		return func(st *state, v Value, a *callArgs) Value {
			a.bind("first", 0)
			if x, ok := st.iterate(v).pull(); ok {
				return x
			}
			return undefinedf("No first item, sequence was empty.")
		}
	case "last":
		return func(st *state, v Value, a *callArgs) Value {
			a.bind("last", 0)
			items := st.reversible(v)
			if len(items) == 0 {
				return undefinedf("No last item, sequence was empty.")
			}
			return items[len(items)-1]
		}
	case "list":
		return func(st *state, v Value, a *callArgs) Value {
			a.bind("list", 0)
			return &List{st.items(v)}
		}
	case "items":
		return func(st *state, v Value, a *callArgs) Value {
			a.bind("items", 0)
			i := 0
			return st.lazy(func() (Value, bool) {
				switch v := v.(type) {
				case *undefined:
					return nil, false
				case *Dict:
					i++
					if i > v.Len() {
						return nil, false
					}
					st.alloc(48)
					return (&dictView{v, "items"}).at(i - 1), true
				}
				typeError("Can only get item pairs from a mapping.")
				return nil, false
			})
		}
	case "join":
		return filterJoin
	case "reverse":
		return filterReverse
	case "sort":
		return func(st *state, v Value, a *callArgs) Value {
			p := a.bind("sort", 0, "reverse", "case_sensitive", "attribute")
			items := st.items(v)
			st.sortValues(items, st.sortKeys(items, or(p[2], nil), truth(or(p[1], false))), truth(or(p[0], false)))
			return &List{items}
		}
	case "dictsort":
		return filterDictSort
	case "unique":
		return filterUnique
	case "min", "max":
		return extreme(name)
	case "sum":
		return func(st *state, v Value, a *callArgs) Value {
			p := a.bind("sum", 0, "attribute", "start")
			total := or(p[1], int64(0))
			for _, x := range st.items(v) {
				total = st.binary("+", total, st.path(x, or(p[0], nil)))
			}
			return total
		}
	case "batch":
		return filterBatch
	case "slice":
		return filterSlice
	case "groupby":
		return filterGroupBy
	case "map":
		return filterMap
	case "select", "reject", "selectattr", "rejectattr":
		return selection(name)
	}
	return nil
}

// reversible is the items of what Python can reverse.
func (st *state) reversible(v Value) []Value {
	if _, ok := v.(*generator); ok || !isIterable(v) {
		typeError("'%s' object is not reversible", typeName(v))
	}
	return st.items(v)
}

// path follows an attribute such as "function.name" or 0 from v; nil is v.
func (st *state) path(v, attribute Value) Value {
	return st.pathOr(v, attribute, nil)
}

func (st *state) pathOr(v, attribute, def Value) Value {
	follow := func(key Value) {
		v = st.getItem(v, key)
		if _, ok := v.(*undefined); ok && def != nil {
			v = def
		}
	}
	name, ok := asString(attribute)
	if !ok {
		if attribute != nil {
			follow(attribute)
		}
		return v
	}
	for part := range strings.SplitSeq(name, ".") {
		st.step()
		if n, err := strconv.ParseInt(part, 10, 64); err == nil && n >= 0 && part[0] != '+' {
			follow(n)
		} else {
			follow(part)
		}
	}
	return v
}

// ignoreCase lowers strings, for comparisons.
func (st *state) ignoreCase(v Value) Value {
	if s, ok := asString(v); ok {
		st.allocString(len(s))
		return lower(s)
	}
	return v
}

// sortKeys are the values that the sort filter compares: for several
// attributes "a,b" a list of each.
func (st *state) sortKeys(items []Value, attribute Value, caseSensitive bool) []Value {
	parts := []Value{attribute}
	if name, ok := asString(attribute); ok {
		parts = nil
		for p := range strings.SplitSeq(name, ",") {
			parts = append(parts, p)
		}
	}
	keys := make([]Value, len(items))
	for i, it := range items {
		key := make([]Value, len(parts))
		st.allocItems(len(parts))
		for j, p := range parts {
			key[j] = st.path(it, p)
			if !caseSensitive {
				key[j] = st.ignoreCase(key[j])
			}
		}
		keys[i] = &List{key}
	}
	return keys
}

func filterJoin(st *state, v Value, a *callArgs) Value {
	p := a.bind("join", 0, "d", "attribute")
	items := st.items(v)
	parts := make([]string, len(items))
	for i, it := range items {
		parts[i] = st.str(st.path(it, or(p[1], nil)))
	}
	return st.join(parts, st.str(or(p[0], "")))
}

func filterReverse(st *state, v Value, a *callArgs) Value {
	a.bind("reverse", 0)
	if s, ok := asString(v); ok {
		r, _ := st.slice(like(v, s), sliceValue{step: int64(-1)}) // strings have slices
		return r
	}
	if !isIterable(v) {
		fail(RuntimeError, "argument must be iterable")
	}
	items := st.items(v)
	for i, j := 0, len(items)-1; i < j; i, j = i+1, j-1 {
		items[i], items[j] = items[j], items[i]
	}
	if _, ok := v.(*generator); ok {
		return &List{items}
	}
	return sliceGenerator(items)
}

func filterDictSort(st *state, v Value, a *callArgs) Value {
	p := a.bind("dictsort", 0, "case_sensitive", "by", "reverse")
	by, _ := asString(or(p[1], "key"))
	if by != "key" && by != "value" {
		fail(RuntimeError, `You can only sort by either "key" or "value"`)
	}
	if u, ok := v.(*undefined); ok {
		u.fail()
	}
	d, ok := v.(*Dict)
	if !ok {
		fail(RuntimeError, "'%s' object has no attribute 'items'", typeName(v))
	}
	st.allocItems(6 * d.Len())
	items, keys := make([]Value, d.Len()), make([]Value, d.Len())
	for i, e := range d.entries {
		items[i] = &tuple{[]Value{e.key, e.value}}
		keys[i] = e.key
		if by == "value" {
			keys[i] = e.value
		}
		if !truth(or(p[0], false)) {
			keys[i] = st.ignoreCase(keys[i])
		}
	}
	st.sortValues(items, keys, truth(or(p[2], false)))
	return &List{items}
}

func filterUnique(st *state, v Value, a *callArgs) Value {
	p := a.bind("unique", 0, "case_sensitive", "attribute")
	in := st.deferred(v)
	seen := NewDict()
	return st.lazy(func() (Value, bool) {
		for {
			x, ok := in.pull()
			if !ok {
				return nil, false
			}
			key := st.path(x, or(p[1], nil))
			if !truth(or(p[0], false)) {
				key = st.ignoreCase(key)
			}
			st.allocItems(4)
			if _, ok := seen.get(key); !ok {
				seen.set(key, nil)
				return x, true
			}
		}
	})
}

func extreme(name string) filterFunc {
	return func(st *state, v Value, a *callArgs) Value {
		p := a.bind(name, 0, "case_sensitive", "attribute")
		key := func(x Value) Value {
			x = st.path(x, or(p[1], nil))
			if !truth(or(p[0], false)) {
				x = st.ignoreCase(x)
			}
			return x
		}
		items := st.items(v)
		if len(items) == 0 {
			return undefinedf("No aggregated item, sequence was empty.")
		}
		best, bestKey := items[0], key(items[0])
		for _, x := range items[1:] {
			k := key(x)
			if name == "min" && st.less(k, bestKey, "<") || name == "max" && st.less(bestKey, k, ">") {
				best, bestKey = x, k
			}
		}
		return best
	}
}

// chunks is a generator of the lists that cut makes at the first value.
func (st *state) chunks(cut func() [][]Value) *generator {
	var lists [][]Value
	started := false
	return st.lazy(func() (Value, bool) {
		if !started {
			lists, started = cut(), true
		}
		if len(lists) == 0 {
			return nil, false
		}
		l := lists[0]
		lists = lists[1:]
		return &List{l}, true
	})
}

func filterBatch(st *state, v Value, a *callArgs) Value {
	p := a.bind("batch", 1, "linecount", "fill_with")
	return st.chunks(func() [][]Value { return st.batch(st.items(v), intArg(p[0]), or(p[1], nil)) })
}

// batch cuts items into lists of size; the last is filled up unless fill is nil.
func (st *state) batch(items []Value, size int64, fill Value) [][]Value {
	var lists [][]Value
	for len(items) > 0 {
		n := int(min(int64(len(items)), max(1, size)))
		lists = append(lists, items[:n:n])
		items = items[n:]
	}
	if fill != nil && len(lists) > 0 {
		last := &lists[len(lists)-1]
		for int64(len(*last)) < size {
			st.allocItems(1)
			*last = append(*last, fill)
		}
	}
	return lists
}

func filterSlice(st *state, v Value, a *callArgs) Value {
	p := a.bind("slice", 1, "slices", "fill_with")
	return st.chunks(func() [][]Value { return st.cut(st.items(v), intArg(p[0]), or(p[1], nil)) })
}

// cut makes n lists of about the same length out of items; shorter ones get
// fill unless it is nil.
func (st *state) cut(items []Value, n int64, fill Value) [][]Value {
	if n == 0 {
		fail(ValueError, "integer division or modulo by zero")
	}
	st.allocItems(int(min(max(n, 0), int64(st.limits.Memory))))
	per, extra := int64(len(items))/n, int64(len(items))%n
	var lists [][]Value
	for i := range n {
		size := per
		if i < extra {
			size++
		}
		l := items[:size:size]
		items = items[size:]
		if fill != nil && i >= extra {
			l = append(l, fill)
		}
		lists = append(lists, l)
	}
	return lists
}

func filterGroupBy(st *state, v Value, a *callArgs) Value {
	p := a.bind("groupby", 1, "attribute", "default", "case_sensitive")
	key := func(x Value) Value { return st.pathOr(x, p[0], or(p[1], nil)) }
	fold := func(x Value) Value {
		if truth(or(p[2], false)) {
			return x
		}
		return st.ignoreCase(x)
	}
	items := st.items(v)
	keys := make([]Value, len(items))
	for i, x := range items {
		keys[i] = fold(key(x))
	}
	st.sortValues(items, keys, false)
	out := &List{}
	for i := 0; i < len(items); {
		k := key(items[i])
		j := i + 1
		for j < len(items) && st.equal(fold(key(items[j])), fold(k)) {
			j++
		}
		st.allocItems(8)
		out.Items = append(out.Items, &tuple{[]Value{k, &List{items[i:j:j]}}})
		i = j
	}
	return out
}

func filterMap(st *state, v Value, a *callArgs) Value {
	in, each := sliceGenerator(nil), func(x Value) Value { return x }
	if truth(v) {
		in = st.deferred(v)
	}
	if len(a.positional) == 0 {
		p := a.bind("map", 0, "attribute", "default")
		if p[0] == (unset{}) {
			fail(RuntimeError, "map requires a filter argument")
		}
		each = func(x Value) Value { return st.pathOr(x, p[0], or(p[1], nil)) }
	} else {
		name, _ := asString(a.positional[0])
		f := lookupFilter(name)
		if f == nil {
			fail(RuntimeError, "No filter named %s.", st.repr(a.positional[0]))
		}
		rest := &callArgs{a.positional[1:], a.names, a.named}
		each = func(x Value) Value {
			st.workOn(x)
			return f(st, x, rest)
		}
	}
	return st.lazy(func() (Value, bool) {
		x, ok := in.pull()
		if !ok {
			return nil, false
		}
		st.step()
		return each(x), true
	})
}

// selection is select, reject and their attr forms.
func selection(name string) filterFunc {
	byAttr := strings.HasSuffix(name, "attr")
	want := strings.HasPrefix(name, "select")
	return func(st *state, v Value, a *callArgs) Value {
		if !truth(v) {
			return sliceGenerator(nil)
		}
		in := st.deferred(v)
		args := a.positional
		var attr Value
		if byAttr {
			if len(args) == 0 {
				fail(RuntimeError, "Missing parameter for attribute name")
			}
			attr, args = args[0], args[1:]
		}
		test := func(x Value) bool { return truth(x) }
		if len(args) > 0 {
			testName, _ := asString(args[0])
			f := lookupTest(testName)
			if f == nil {
				fail(RuntimeError, "No test named %s.", st.repr(args[0]))
			}
			rest := &callArgs{args[1:], a.names, a.named}
			test = func(x Value) bool { return f(st, x, rest) }
		}
		return st.lazy(func() (Value, bool) {
			for {
				x, ok := in.pull()
				if !ok {
					return nil, false
				}
				st.step()
				if test(st.path(x, attr)) == want {
					return x, true
				}
			}
		})
	}
}
