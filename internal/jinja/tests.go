package jinja

import "math"

type testFunc func(st *state, v Value, a *callArgs) bool

// lookupTest returns the test of that name, or nil.
func lookupTest(name string) testFunc {
	plain := func(f func(v Value) bool) testFunc {
		return func(_ *state, v Value, a *callArgs) bool {
			a.bind(name, 0)
			return f(v)
		}
	}
	compared := func(op string) testFunc {
		return func(st *state, v Value, a *callArgs) bool {
			return st.compare(op, v, a.bind(name, 1, "other")[0])
		}
	}
	switch name {
	case "defined":
		return plain(func(v Value) bool { _, ok := v.(*undefined); return !ok })
	case "undefined":
		return plain(func(v Value) bool { _, ok := v.(*undefined); return ok })
	case "none":
		return plain(func(v Value) bool { return v == nil })
	case "boolean":
		return plain(func(v Value) bool { _, ok := v.(bool); return ok })
	case "true":
		return plain(func(v Value) bool { b, ok := v.(bool); return ok && b })
	case "false":
		return plain(func(v Value) bool { b, ok := v.(bool); return ok && !b })
	case "integer":
		return plain(isInteger)
	case "float":
		return plain(func(v Value) bool { _, ok := v.(float64); return ok })
	case "number":
		return plain(func(v Value) bool { _, ok := asFloat(v); return ok })
	case "string":
		return plain(func(v Value) bool { _, ok := asString(v); return ok })
	case "mapping":
		return plain(func(v Value) bool { _, ok := v.(*Dict); return ok })
	case "sequence":
		return plain(isSequence)
	case "iterable":
		return plain(isIterable)
	case "callable":
		return plain(isCallable)
	case "escaped":
		return plain(func(v Value) bool { _, ok := v.(markup); return ok })
	case "lower", "upper":
		return func(st *state, v Value, a *callArgs) bool {
			a.bind(name, 0)
			return hasCase(st.str(v), name == "lower")
		}
	case "odd", "even":
		return func(st *state, v Value, a *callArgs) bool {
			a.bind(name, 0)
			want := int64(0)
			if name == "odd" {
				want = 1
			}
			return st.equal(st.binary("%", v, int64(2)), want)
		}
	case "divisibleby":
		return func(st *state, v Value, a *callArgs) bool {
			return st.equal(st.binary("%", v, a.bind(name, 1, "num")[0]), int64(0))
		}
	case "in":
		return func(st *state, v Value, a *callArgs) bool { return st.contains(a.bind(name, 1, "seq")[0], v) }
	case "sameas":
		return func(st *state, v Value, a *callArgs) bool { return same(v, a.bind(name, 1, "other")[0]) }
	case "filter", "test":
		return func(_ *state, v Value, a *callArgs) bool {
			a.bind(name, 0)
			s, ok := asString(v)
			if name == "filter" {
				return ok && lookupFilter(s) != nil
			}
			return ok && lookupTest(s) != nil
		}
	case "==", "eq", "equalto":
		return compared("==")
	case "!=", "ne":
		return compared("!=")
	case "<", "lt", "lessthan":
		return compared("<")
	case "<=", "le":
		return compared("<=")
	case ">", "gt", "greaterthan":
		return compared(">")
	case ">=", "ge":
		return compared(">=")
	}
	return nil
}

func isInteger(v Value) bool {
	switch v.(type) {
	case int64, BigInt:
		return true
	}
	return false
}

func isSequence(v Value) bool {
	switch v.(type) {
	case string, markup, *List, *tuple, *Dict, *rangeValue, *undefined:
		return true
	}
	return false
}

func isCallable(v Value) bool {
	switch v.(type) {
	case *function, *macro, *undefined, *loop:
		return true
	}
	return false
}

// same is Python's is, as far as templates can rely on it: equal numbers and
// strings of the same type count as the same object.
func same(a, b Value) bool {
	if _, ok := a.(sliceValue); ok {
		return false
	}
	if f, ok := a.(float64); ok && math.IsNaN(f) {
		return false
	}
	if typeName(a) != typeName(b) {
		return false
	}
	return a == b
}
