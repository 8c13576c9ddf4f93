package jinja

import (
	"math"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

type filterFunc func(st *state, v Value, a *callArgs) Value

// lookupFilter returns the filter of that name, or nil.
func lookupFilter(name string) filterFunc {
	if f := textFilter(name); f != nil {
		return f
	}
	if f := sequenceFilter(name); f != nil {
		return f
	}
	switch name {
	case "tojson":
		return filterToJSON
	case "default", "d":
		return func(_ *state, v Value, a *callArgs) Value {
			p := a.bind("default", 0, "default_value", "boolean")
			_, isUndefined := v.(*undefined)
			if isUndefined || truth(or(p[1], false)) && !truth(v) {
				return or(p[0], "")
			}
			return v
		}
	case "length", "count":
		return func(_ *state, v Value, a *callArgs) Value {
			a.bind("len", 0)
			n, ok := lengthOf(v)
			if !ok {
				typeError("object of type '%s' has no len()", typeName(v))
			}
			return int64(n)
		}
	case "int":
		return filterInt
	case "float":
		return func(_ *state, v Value, a *callArgs) Value {
			p := a.bind("float", 0, "default")
			if f, ok := parseFloat(v); ok {
				return f
			}
			return or(p[0], 0.0)
		}
	case "abs":
		return filterAbs
	case "round":
		return filterRound
	case "attr":
		return func(st *state, v Value, a *callArgs) Value {
			name, ok := asString(a.bind("attr", 1, "name")[0])
			if u, isUndefined := v.(*undefined); isUndefined {
				u.fail()
			}
			if ok {
				if found, ok := st.attribute(v, name); ok {
					return found
				}
			}
			return missing(v, name)
		}
	}
	return nil
}

// textFilter returns a filter that makes text, or nil.
func textFilter(name string) filterFunc {
	mapped := func(f func(string) string) filterFunc {
		return func(st *state, v Value, a *callArgs) Value {
			a.bind(name, 0)
			s := st.str(v)
			st.allocString(2 * len(s))
			return like(v, f(s))
		}
	}
	switch name {
	case "upper":
		return mapped(upper)
	case "lower":
		return mapped(lower)
	case "capitalize":
		return mapped(capitalize)
	case "title":
		return func(st *state, v Value, a *callArgs) Value {
			a.bind("title", 0)
			s := st.str(v)
			st.allocString(2 * len(s))
			return titleFilter(s)
		}
	case "trim":
		return func(st *state, v Value, a *callArgs) Value {
			p := a.bind("trim", 0, "chars")
			return like(v, strip(st.str(v), or(p[0], nil), true, true))
		}
	case "string":
		return func(st *state, v Value, a *callArgs) Value {
			a.bind("string", 0)
			return like(v, st.str(v))
		}
	case "safe":
		return func(st *state, v Value, a *callArgs) Value {
			a.bind("safe", 0)
			return markup(st.str(v))
		}
	case "escape", "e", "forceescape":
		return func(st *state, v Value, a *callArgs) Value {
			a.bind("escape", 0)
			if _, ok := v.(markup); ok && name != "forceescape" {
				return v
			}
			s := st.str(v)
			st.allocString(6 * len(s))
			return markup(escapeHTML(s))
		}
	case "replace":
		return func(st *state, v Value, a *callArgs) Value {
			p := a.bind("replace", 2, "old", "new", "count")
			count := int64(-1)
			if c := or(p[2], nil); c != nil {
				count = intArg(c)
			}
			return st.replace(st.str(v), st.str(p[0]), st.str(p[1]), count)
		}
	case "indent":
		return filterIndent
	case "center":
		return func(st *state, v Value, a *callArgs) Value {
			width := intArg(or(a.bind("center", 0, "width")[0], int64(80)))
			return like(v, st.justify(st.str(v), width, " ", "center"))
		}
	case "format":
		return func(st *state, v Value, a *callArgs) Value {
			if len(a.names) == 0 {
				return st.printf(v, st.str(v), &tuple{a.positional})
			}
			if len(a.positional) > 0 {
				fail(RuntimeError, "can't handle positional and keyword arguments at the same time")
			}
			d := NewDict()
			for i, n := range a.names {
				d.set(n, a.named[i])
			}
			return st.printf(v, st.str(v), d)
		}
	case "truncate":
		return filterTruncate
	case "wordcount":
		return func(st *state, v Value, a *callArgs) Value {
			a.bind("wordcount", 0)
			words := strings.FieldsFunc(st.str(v), func(r rune) bool {
				return r != '_' && !unicode.IsLetter(r) && !unicode.IsNumber(r)
			})
			return int64(len(words))
		}
	}
	return nil
}

// titleFilter is Jinja's title: unlike Python's, words end only at white space
// and opening brackets or hyphens.
func titleFilter(s string) string {
	var b strings.Builder
	start := true
	for _, r := range s {
		switch {
		case isSpace(r) || strings.ContainsRune("-({[<", r):
			start = true
			b.WriteRune(r)
		case start:
			b.WriteString(upper(string(r)))
			start = false
		default:
			b.WriteString(lower(string(r)))
		}
	}
	return b.String()
}

func filterToJSON(st *state, v Value, a *callArgs) Value {
	p := a.bind("tojson", 0, "ensure_ascii", "indent", "separators", "sort_keys")
	o := &jsonOptions{ascii: truth(or(p[0], false)), itemSep: ", ", keySep: ": ", sortKeys: truth(or(p[3], false))}
	switch indent := or(p[1], nil).(type) {
	case nil:
	case string:
		o.pretty, o.indent, o.itemSep = true, indent, ","
	default:
		n := intArg(indent)
		if n > 100 {
			fail(LimitError, "tojson with an indent of %d is too wide", n)
		}
		o.pretty, o.indent, o.itemSep = true, strings.Repeat(" ", int(max(0, n))), ","
	}
	if s := or(p[2], nil); s != nil {
		pair := st.unpack(s, 2)
		item, ok1 := asString(pair[0])
		key, ok2 := asString(pair[1])
		if !ok1 || !ok2 {
			typeError("tojson separators must be two strings")
		}
		o.itemSep, o.keySep = item, key
	}
	var b strings.Builder
	st.appendJSON(&b, v, o, 0)
	st.allocString(b.Len())
	return b.String()
}

func filterIndent(st *state, v Value, a *callArgs) Value {
	p := a.bind("indent", 0, "width", "first", "blank")
	s, ok := asString(v)
	if !ok {
		if u, isUndefined := v.(*undefined); isUndefined {
			u.fail()
		}
		typeError("unsupported operand type(s) for +=: '%s' and 'str'", typeName(v))
	}
	indent, ok := asString(or(p[0], int64(4)))
	if !ok {
		n := intArg(or(p[0], int64(4)))
		if n > maxWidth {
			fail(LimitError, "an indent of %d is too wide", n)
		}
		indent = strings.Repeat(" ", int(max(0, n)))
	}
	lines := splitLines(s+"\n", false)
	st.work(len(s))
	if n := len(lines); n > 0 && len(indent) > st.limits.Output/n {
		st.checkString(st.limits.Output + 1)
	}
	blank := truth(or(p[2], false))
	var b strings.Builder
	if truth(or(p[1], false)) {
		b.WriteString(indent)
	}
	for i, line := range lines {
		if i > 0 {
			b.WriteByte('\n')
			if line != "" || blank {
				b.WriteString(indent)
			}
		}
		b.WriteString(line)
	}
	st.allocString(b.Len())
	return like(v, b.String())
}

func filterTruncate(st *state, v Value, a *callArgs) Value {
	p := a.bind("truncate", 0, "length", "killwords", "end", "leeway")
	length := intArg(or(p[0], int64(255)))
	end := st.str(or(p[2], "..."))
	leeway := int64(5)
	if l := or(p[3], nil); l != nil {
		leeway = intArg(l)
	}
	n, ok := lengthOf(v)
	e := int64(utf8.RuneCountInString(end))
	switch {
	case length < e || leeway < 0:
		fail(ValueError, "expected length >= %d, got %d", e, length)
	case !ok:
		typeError("object of type '%s' has no len()", typeName(v))
	case int64(n) <= length || int64(n) <= length+leeway:
		return v
	}
	text, ok := asString(v)
	if !ok {
		typeError("truncate takes a str, not %s", typeName(v))
	}
	r := []rune(text)
	st.allocItems(len(r))
	cut := string(r[:length-e])
	if !truth(or(p[1], false)) {
		if i := strings.LastIndexByte(cut, ' '); i >= 0 {
			cut = cut[:i]
		}
	}
	return like(v, cut+end)
}

// parseFloat is Python's float(v), or false where that raises ValueError or
// TypeError.
func parseFloat(v Value) (float64, bool) {
	if u, ok := v.(*undefined); ok {
		u.fail()
	}
	s, ok := asString(v)
	if !ok {
		return asFloat(v)
	}
	s = strings.TrimFunc(s, isSpace)
	if !strings.ContainsAny(s, "xXpP") {
		if s2 := strings.ReplaceAll(s, "_", ""); s2 != s {
			if strings.HasPrefix(s, "_") || strings.HasSuffix(s, "_") || strings.Contains(s, "__") {
				return 0, false
			}
			s = s2
		}
		f, err := strconv.ParseFloat(s, 64)
		if err == nil || math.IsInf(f, 0) {
			return f, true
		}
	}
	return 0, false
}

func filterInt(_ *state, v Value, a *callArgs) Value {
	p := a.bind("int", 0, "default", "base")
	def := or(p[0], int64(0))
	switch v := v.(type) {
	case *undefined:
		v.fail()
	case BigInt:
		return v
	case bool, int64:
		n, _ := asInt(v) // both are integers
		return n
	case float64:
		if math.IsNaN(v) {
			return def
		}
		return floatToInt(v)
	}
	s, ok := asString(v)
	if !ok {
		return def
	}
	base := intArg(or(p[1], int64(10)))
	digits := strings.TrimFunc(s, isSpace)
	if base < 2 || base > 36 {
		if base != 0 {
			return def
		}
	} else if prefix := map[int64]string{16: "0x", 8: "0o", 2: "0b"}[base]; prefix != "" {
		sign := ""
		if strings.HasPrefix(digits, "-") || strings.HasPrefix(digits, "+") {
			sign, digits = digits[:1], digits[1:]
		}
		if strings.HasPrefix(strings.ToLower(digits), prefix) {
			digits = digits[2:]
		}
		digits = sign + digits
	}
	if base != 0 && !strings.Contains(digits, "__") {
		digits = strings.ReplaceAll(strings.Trim(digits, ""), "_", "")
	}
	if n, err := strconv.ParseInt(digits, int(base), 64); err == nil {
		return n
	}
	if f, ok := parseFloat(v); ok && !math.IsNaN(f) {
		return floatToInt(f)
	}
	return def
}

func filterAbs(st *state, v Value, a *callArgs) Value {
	a.bind("abs", 0)
	if f, ok := v.(float64); ok {
		return math.Abs(f)
	}
	n, ok := asInt(v)
	if !ok {
		typeError("bad operand type for abs(): '%s'", typeName(v))
	}
	if n < 0 {
		return st.unary("-", n)
	}
	return n
}

func filterRound(_ *state, v Value, a *callArgs) Value {
	p := a.bind("round", 0, "precision", "method")
	precision := intArg(or(p[0], int64(0)))
	precision = max(-400, min(400, precision))
	method, _ := asString(or(p[1], "common"))
	if _, ok := v.(BigInt); ok && method == "common" && precision >= 0 {
		return v
	}
	n, isInt := asInt(v)
	f, ok := asFloat(v)
	if !ok {
		typeError("type %s doesn't define __round__ method", typeName(v))
	}
	switch method {
	case "common":
		if !isInt {
			return roundFloat(f, int(precision))
		}
		if precision >= 0 {
			return n
		}
		return roundInt(n, -precision)
	case "ceil", "floor":
		scale := math.Pow(10, float64(precision))
		x := math.Floor(f * scale)
		if method == "ceil" {
			x = math.Ceil(f * scale)
		}
		return x / scale
	}
	fail(RuntimeError, "method must be common, ceil or floor")
	return nil
}

// roundInt rounds to a multiple of 10**digits, half to even.
func roundInt(n, digits int64) Value {
	if digits > 18 {
		return int64(0)
	}
	unit := int64(1)
	for range digits {
		unit *= 10
	}
	q, r := n/unit, n%unit
	if r < 0 {
		q, r = q-1, r+unit
	}
	if r > unit/2 || r == unit/2 && q&1 == 1 {
		q++
	}
	return mulInt(q, unit)
}

// roundFloat rounds to digits decimals as the decimal value of f says, half to
// even, as Python does.
func roundFloat(f float64, digits int) Value {
	if math.IsNaN(f) || math.IsInf(f, 0) {
		return f
	}
	if digits >= 0 {
		r, err := strconv.ParseFloat(strconv.FormatFloat(f, 'f', digits, 64), 64)
		if err != nil {
			return f
		}
		return r
	}
	scale := math.Pow(10, float64(-digits))
	if math.IsInf(scale, 0) {
		return math.Copysign(0, f)
	}
	return math.RoundToEven(f/scale) * scale
}
