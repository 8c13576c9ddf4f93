package jinja

import (
	"math"
	"math/big"
	"strings"
)

func (st *state) unary(op string, v Value) Value {
	if op == "not" {
		return !truth(v)
	}
	if u, ok := v.(*undefined); ok {
		u.fail()
	}
	if f, ok := v.(float64); ok {
		if op == "-" {
			return -f
		}
		return f
	}
	n, ok := asInt(v)
	if !ok {
		typeError("bad operand type for unary %s: '%s'", op, typeName(v))
	}
	if op == "-" {
		if n == math.MinInt64 {
			overflow()
		}
		return -n
	}
	return n
}

func overflow() { fail(ValueError, "integer overflow: the result does not fit in 64 bits") }

// binary is the arithmetic operator op.
func (st *state) binary(op string, a, b Value) Value {
	if u, ok := a.(*undefined); ok {
		u.fail()
	}
	if s, ok := asString(a); ok && op == "%" {
		return st.printf(a, s, b)
	}
	if u, ok := b.(*undefined); ok {
		u.fail()
	}
	_, aFloat := a.(float64)
	_, bFloat := b.(float64)
	x, aNum := asFloat(a)
	y, bNum := asFloat(b)
	if aNum && bNum {
		if op == "/" && y == 0 && !aFloat && !bFloat {
			fail(ValueError, "division by zero")
		}
		if aFloat || bFloat || op == "/" {
			return floatOp(op, x, y)
		}
		i, ok1 := asInt(a)
		j, ok2 := asInt(b)
		if !ok1 || !ok2 {
			overflow()
		}
		return intOp(op, i, j)
	}
	switch op {
	case "+":
		return st.add(a, b)
	case "*":
		if n, ok := asInt(b); ok {
			if v, ok := st.repeat(a, n); ok {
				return v
			}
		}
		if n, ok := asInt(a); ok {
			if v, ok := st.repeat(b, n); ok {
				return v
			}
		}
		for _, pair := range [][2]Value{{a, b}, {b, a}} {
			switch pair[0].(type) {
			case string, markup, *List, *tuple:
				typeError("can't multiply sequence by non-int of type '%s'", typeName(pair[1]))
			}
		}
	}
	if op == "**" {
		op = "** or pow()"
	}
	typeError("unsupported operand type(s) for %s: '%s' and '%s'", op, typeName(a), typeName(b))
	return nil
}

func (st *state) add(a, b Value) Value {
	switch a := a.(type) {
	case string, markup:
		s, _ := asString(a) // both are strings
		t, ok := asString(b)
		if !ok {
			typeError("can only concatenate str (not \"%s\") to str", typeName(b))
		}
		_, aSafe := a.(markup)
		_, bSafe := b.(markup)
		if aSafe && !bSafe {
			t = escapeHTML(t)
		} else if bSafe && !aSafe {
			s = escapeHTML(s)
		}
		st.allocString(len(s) + len(t))
		if aSafe || bSafe {
			return markup(s + t)
		}
		return s + t
	case *List:
		if b, ok := b.(*List); ok {
			st.allocItems(len(a.Items) + len(b.Items))
			return &List{append(a.Items[:len(a.Items):len(a.Items)], b.Items...)}
		}
		typeError("can only concatenate list (not \"%s\") to list", typeName(b))
	case *tuple:
		if b, ok := b.(*tuple); ok {
			st.allocItems(len(a.items) + len(b.items))
			return &tuple{append(a.items[:len(a.items):len(a.items)], b.items...)}
		}
		typeError("can only concatenate tuple (not \"%s\") to tuple", typeName(b))
	}
	typeError("unsupported operand type(s) for +: '%s' and '%s'", typeName(a), typeName(b))
	return nil
}

// repeat is v * n for a string or list.
func (st *state) repeat(v Value, n int64) (Value, bool) {
	n = max(n, 0)
	count := func(size, limit int) int {
		if size > 0 && n > int64(limit/size) {
			fail(LimitError, "a repetition of %d times is too long", n)
		}
		if size == 0 {
			return 0
		}
		return int(n)
	}
	times := func(items []Value) []Value {
		k := count(len(items), st.limits.Memory/16)
		st.allocItems(k * len(items))
		var out []Value
		for range k {
			out = append(out, items...)
		}
		return out
	}
	switch v := v.(type) {
	case string, markup:
		s, _ := asString(v) // both are strings
		k := count(len(s), st.limits.Output)
		st.allocString(k * len(s))
		return like(v, strings.Repeat(s, k)), true
	case *List:
		return &List{times(v.Items)}, true
	case *tuple:
		return &tuple{times(v.items)}, true
	}
	return nil, false
}

func intOp(op string, a, b int64) Value {
	switch op {
	case "+":
		c := a + b
		if (c > a) != (b > 0) && b != 0 {
			overflow()
		}
		return c
	case "-":
		c := a - b
		if (c < a) != (b > 0) && b != 0 {
			overflow()
		}
		return c
	case "*":
		return mulInt(a, b)
	case "//", "%":
		if b == 0 {
			fail(ValueError, "%s", boolText(op == "%", "integer modulo by zero", "integer division or modulo by zero"))
		}
		if a == math.MinInt64 && b == -1 {
			if op == "%" {
				return int64(0)
			}
			overflow()
		}
		q, r := a/b, a%b
		if r != 0 && (r < 0) != (b < 0) {
			q--
			r += b
		}
		if op == "%" {
			return r
		}
		return q
	}
	if b < 0 {
		return floatOp(op, float64(a), float64(b))
	}
	result := int64(1)
	for base := a; b > 0; b >>= 1 {
		if b&1 == 1 {
			result = mulInt(result, base)
		}
		if b > 1 {
			base = mulInt(base, base)
		}
	}
	return result
}

func mulInt(a, b int64) int64 {
	c := a * b
	if a != 0 && (c/a != b || a == -1 && b == math.MinInt64) {
		overflow()
	}
	return c
}

func floatOp(op string, a, b float64) Value {
	switch op {
	case "+":
		return a + b
	case "-":
		return a - b
	case "*":
		return a * b
	case "**":
		if a == 0 && b < 0 {
			fail(ValueError, "0.0 cannot be raised to a negative power")
		}
		return math.Pow(a, b)
	}
	if b == 0 {
		fail(ValueError, "%s", map[string]string{"/": "float division by zero", "//": "float floor division by zero", "%": "float modulo"}[op])
	}
	if op == "/" {
		return a / b
	}
	r := math.Mod(a, b)
	q := (a - r) / b
	if r != 0 && (r < 0) != (b < 0) {
		r += b
		q--
	}
	if r == 0 {
		r = math.Copysign(0, b)
	}
	if op == "%" {
		return r
	}
	if q == 0 {
		return math.Copysign(0, a/b)
	}
	if f := math.Floor(q); q-f > 0.5 {
		return f + 1
	} else {
		return f
	}
}

// compare is one comparison operator.
func (st *state) compare(op string, a, b Value) bool {
	switch op {
	case "==":
		return st.equal(a, b)
	case "!=":
		return !st.equal(a, b)
	case "in":
		return st.contains(b, a)
	case "not in":
		return !st.contains(b, a)
	case "<":
		return st.less(a, b, op)
	case ">":
		return st.less(b, a, op)
	case "<=":
		return st.lessOrEqual(a, b, op)
	}
	return st.lessOrEqual(b, a, op)
}

// equal is Python's ==.
func (st *state) equal(a, b Value) bool { return st.equalAt(a, b, 0) }

func (st *state) equalAt(a, b Value, depth int) bool {
	st.step()
	if depth > maxNesting {
		fail(LimitError, "values nested more than %d levels deep cannot be compared", maxNesting)
	}
	if s, ok := asString(a); ok {
		t, ok := asString(b)
		if ok && len(s) == len(t) {
			st.work(len(s))
		}
		return ok && s == t
	}
	if x, ok := asFloat(a); ok {
		y, ok := asFloat(b)
		return ok && equalNumbers(a, b, x, y)
	}
	items := func(x, y []Value) bool {
		if len(x) != len(y) {
			return false
		}
		for i := range x {
			if !st.equalAt(x[i], y[i], depth+1) {
				return false
			}
		}
		return true
	}
	switch a := a.(type) {
	case *List:
		b, ok := b.(*List)
		return ok && items(a.Items, b.Items)
	case *tuple:
		b, ok := b.(*tuple)
		return ok && items(a.items, b.items)
	case *Dict:
		b, ok := b.(*Dict)
		if !ok || a.Len() != b.Len() {
			return false
		}
		for _, e := range a.entries {
			v, ok := b.get(e.key)
			if !ok || !st.equalAt(e.value, v, depth+1) {
				return false
			}
		}
		return true
	case *rangeValue:
		b, ok := b.(*rangeValue)
		return ok && a.n == b.n && (a.n == 0 || a.start == b.start && (a.n == 1 || a.step == b.step))
	case *undefined:
		_, ok := b.(*undefined)
		return ok
	case sliceValue:
		return false
	}
	if _, ok := b.(sliceValue); ok {
		return false
	}
	return a == b // None, or pointers
}

func equalNumbers(a, b Value, x, y float64) bool {
	i, ok1 := asInt(a)
	j, ok2 := asInt(b)
	if ok1 && ok2 {
		return i == j
	}
	s, ok1 := a.(BigInt)
	t, ok2 := b.(BigInt)
	if ok1 && ok2 {
		return s == t
	}
	return x == y && compareNumbers(a, b) == 0
}

// compareNumbers orders two numbers, neither NaN, exactly.
func compareNumbers(a, b Value) int {
	number := func(v Value) *big.Float {
		f := new(big.Float).SetPrec(2000)
		switch v := v.(type) {
		case float64:
			return f.SetFloat64(v)
		case BigInt:
			f.SetString(string(v)) // digits; a longer one than the precision is rounded
			return f
		}
		n, _ := asInt(v) // the remaining kinds of numbers
		return f.SetInt64(n)
	}
	return number(a).Cmp(number(b))
}

func (st *state) less(a, b Value, op string) bool {
	return st.order(a, b, op, op == ">", false)
}

func (st *state) lessOrEqual(a, b Value, op string) bool {
	return st.order(a, b, op, op == ">=", true)
}

// order is a < b, or a <= b with orEqual. swapped says that the template has
// them the other way round, for the error.
func (st *state) order(a, b Value, op string, swapped, orEqual bool) bool {
	st.step()
	if x, ok := asFloat(a); ok {
		if y, ok := asFloat(b); ok {
			if math.IsNaN(x) || math.IsNaN(y) {
				return false
			}
			if i, ok := asInt(a); ok {
				if j, ok := asInt(b); ok {
					return i < j || orEqual && i == j
				}
			}
			c := compareNumbers(a, b)
			return c < 0 || orEqual && c == 0
		}
	}
	if s, ok := asString(a); ok {
		if t, ok := asString(b); ok {
			st.work(min(len(s), len(t)))
			return s < t || orEqual && s == t // UTF-8 orders as code points do
		}
	}
	x, y := sequence(a), sequence(b)
	if x != nil && y != nil && typeName(a) == typeName(b) {
		st.enter()
		defer st.leave()
		for i := range min(len(*x), len(*y)) {
			if !st.equal((*x)[i], (*y)[i]) {
				return st.order((*x)[i], (*y)[i], op, swapped, orEqual)
			}
		}
		return len(*x) < len(*y) || orEqual && len(*x) == len(*y)
	}
	for _, v := range []Value{a, b} {
		if u, ok := v.(*undefined); ok {
			u.fail()
		}
	}
	if swapped {
		a, b = b, a
	}
	typeError("'%s' not supported between instances of '%s' and '%s'", op, typeName(a), typeName(b))
	return false
}

func sequence(v Value) *[]Value {
	switch v := v.(type) {
	case *List:
		return &v.Items
	case *tuple:
		return &v.items
	}
	return nil
}

// contains is Python's x in c.
func (st *state) contains(c, x Value) bool {
	switch c := c.(type) {
	case string, markup:
		s, _ := asString(c) // both are strings
		sub, ok := asString(x)
		if !ok {
			typeError("'in <string>' requires string as left operand, not %s", typeName(x))
		}
		st.work(len(s))
		return strings.Contains(s, sub)
	case *Dict:
		_, ok := c.get(x)
		return ok
	case *dictView:
		if c.kind == "keys" {
			_, ok := c.dict.get(x)
			return ok
		}
	}
	if !isIterable(c) {
		typeError("argument of type '%s' is not iterable", typeName(c))
	}
	it := st.iterate(c)
	for {
		v, ok := it.pull()
		if !ok {
			return false
		}
		if st.equal(v, x) {
			return true
		}
	}
}
