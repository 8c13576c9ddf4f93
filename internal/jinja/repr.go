package jinja

import (
	"math"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

// maxNesting bounds how deep printing, comparing and serialising go.
const maxNesting = 200

// str is Python's str(v).
func (st *state) str(v Value) string {
	switch v := v.(type) {
	case string:
		return v
	case markup:
		return string(v)
	case *undefined:
		return ""
	}
	return st.repr(v)
}

// repr is Python's repr(v).
func (st *state) repr(v Value) string {
	var b strings.Builder
	st.appendRepr(&b, v, 0)
	st.alloc(b.Len())
	return b.String()
}

func (st *state) appendRepr(b *strings.Builder, v Value, depth int) {
	st.step()
	st.checkString(b.Len())
	if depth > maxNesting {
		fail(LimitError, "a value nested more than %d levels deep cannot be printed", maxNesting)
	}
	list := func(open string, items []Value, end string) {
		b.WriteString(open)
		for i, it := range items {
			if i > 0 {
				b.WriteString(", ")
			}
			st.appendRepr(b, it, depth+1)
		}
		b.WriteString(end)
	}
	switch v := v.(type) {
	case nil:
		b.WriteString("None")
	case bool:
		b.WriteString(boolText(v, "True", "False"))
	case int64:
		b.WriteString(strconv.FormatInt(v, 10))
	case BigInt:
		b.WriteString(string(v))
	case float64:
		b.WriteString(floatRepr(v))
	case string:
		st.work(len(v))
		quote(b, v)
	case markup:
		b.WriteString("Markup(")
		quote(b, string(v))
		b.WriteString(")")
	case *List:
		list("[", v.Items, "]")
	case *tuple:
		if len(v.items) == 1 {
			list("(", v.items, ",)")
			return
		}
		list("(", v.items, ")")
	case *Dict:
		b.WriteString("{")
		for i, e := range v.entries {
			if i > 0 {
				b.WriteString(", ")
			}
			st.appendRepr(b, e.key, depth+1)
			b.WriteString(": ")
			st.appendRepr(b, e.value, depth+1)
		}
		b.WriteString("}")
	case *dictView:
		items := make([]Value, v.dict.Len())
		for i := range items {
			items[i] = v.at(i)
		}
		list(typeName(v)+"([", items, "])")
	case *rangeValue:
		b.WriteString("range(" + strconv.FormatInt(v.start, 10) + ", " + strconv.FormatInt(v.stop, 10))
		if v.step != 1 {
			b.WriteString(", " + strconv.FormatInt(v.step, 10))
		}
		b.WriteString(")")
	case *namespace:
		b.WriteString("<Namespace ")
		st.appendRepr(b, v.attrs, depth+1)
		b.WriteString(">")
	case *undefined:
		b.WriteString("Undefined")
	case *macro:
		b.WriteString("<Macro ")
		quote(b, v.node.name)
		b.WriteString(">")
	case *function:
		b.WriteString("<" + boolText(v.method, "built-in method ", "function ") + v.name + ">")
	case *loop:
		b.WriteString("<LoopContext " + strconv.Itoa(v.index0+1) + "/" + strconv.Itoa(v.length()) + ">")
	default:
		b.WriteString("<" + objectName(v) + ">")
	}
}

func boolText(v bool, yes, no string) string {
	if v {
		return yes
	}
	return no
}

// floatRepr is Python's repr of a float: the shortest digits that read back,
// with an exponent below 1e-4 and from 1e16 on.
func floatRepr(f float64) string {
	switch {
	case math.IsNaN(f):
		return "nan"
	case math.IsInf(f, 1):
		return "inf"
	case math.IsInf(f, -1):
		return "-inf"
	}
	if a := math.Abs(f); a != 0 && (a < 1e-4 || a >= 1e16) {
		return strconv.FormatFloat(f, 'e', -1, 64)
	}
	s := strconv.FormatFloat(f, 'f', -1, 64)
	if !strings.Contains(s, ".") {
		s += ".0"
	}
	return s
}

// quote appends Python's repr of a string.
func quote(b *strings.Builder, s string) {
	q := byte('\'')
	if strings.IndexByte(s, '\'') >= 0 && strings.IndexByte(s, '"') < 0 {
		q = '"'
	}
	b.WriteByte(q)
	for _, r := range s {
		switch {
		case r == rune(q) || r == '\\':
			b.WriteByte('\\')
			b.WriteRune(r)
		case r == '\n':
			b.WriteString(`\n`)
		case r == '\r':
			b.WriteString(`\r`)
		case r == '\t':
			b.WriteString(`\t`)
		case unicode.IsPrint(r):
			b.WriteRune(r)
		case r < 0x100:
			appendHex(b, `\x`, r, 2)
		case r < 0x10000:
			appendHex(b, `\u`, r, 4)
		default:
			appendHex(b, `\U`, r, 8)
		}
	}
	b.WriteByte(q)
}

func appendHex(b *strings.Builder, prefix string, r rune, width int) {
	hex := strconv.FormatInt(int64(r), 16)
	b.WriteString(prefix)
	b.WriteString(strings.Repeat("0", width-len(hex)))
	b.WriteString(hex)
}

// jsonOptions are the arguments of json.dumps.
type jsonOptions struct {
	ascii    bool
	indent   string // one level
	pretty   bool   // an indent was given, even an empty one
	itemSep  string
	keySep   string
	sortKeys bool
}

func (st *state) appendJSON(b *strings.Builder, v Value, o *jsonOptions, depth int) {
	st.step()
	st.checkString(b.Len())
	if depth > maxNesting {
		fail(ValueError, "Circular reference detected, or a value nested more than %d levels deep", maxNesting)
	}
	switch v := v.(type) {
	case nil:
		b.WriteString("null")
	case bool:
		b.WriteString(boolText(v, "true", "false"))
	case int64, BigInt:
		b.WriteString(st.repr(v))
	case float64:
		b.WriteString(jsonFloat(v))
	case string:
		st.work(len(v))
		quoteJSON(b, v, o.ascii)
	case markup:
		quoteJSON(b, string(v), o.ascii)
	case *List:
		st.jsonList(b, v.Items, o, depth)
	case *tuple:
		st.jsonList(b, v.items, o, depth)
	case *Dict:
		st.jsonDict(b, v, o, depth)
	default:
		typeError("Object of type %s is not JSON serializable", typeName(v))
	}
}

func jsonFloat(f float64) string {
	switch {
	case math.IsNaN(f):
		return "NaN"
	case math.IsInf(f, 1):
		return "Infinity"
	case math.IsInf(f, -1):
		return "-Infinity"
	}
	return floatRepr(f)
}

// separate writes what comes between two items, or around them if pretty.
func (o *jsonOptions) separate(b *strings.Builder, sep string, depth int) {
	b.WriteString(sep)
	if o.pretty {
		b.WriteString("\n")
		for range depth {
			b.WriteString(o.indent)
		}
	}
}

func (st *state) jsonList(b *strings.Builder, items []Value, o *jsonOptions, depth int) {
	if len(items) == 0 {
		b.WriteString("[]")
		return
	}
	b.WriteString("[")
	for i, it := range items {
		sep := ""
		if i > 0 {
			sep = o.itemSep
		}
		o.separate(b, sep, depth+1)
		st.appendJSON(b, it, o, depth+1)
	}
	o.separate(b, "", depth)
	b.WriteString("]")
}

func (st *state) jsonDict(b *strings.Builder, d *Dict, o *jsonOptions, depth int) {
	if d.Len() == 0 {
		b.WriteString("{}")
		return
	}
	entries := d.entries
	if o.sortKeys {
		entries = append([]entry(nil), entries...)
		st.sortStable(entries, func(a, b entry) bool { return st.less(a.key, b.key, "<") })
	}
	b.WriteString("{")
	for i, e := range entries {
		sep := ""
		if i > 0 {
			sep = o.itemSep
		}
		o.separate(b, sep, depth+1)
		quoteJSON(b, st.jsonKey(e.key), o.ascii)
		b.WriteString(o.keySep)
		st.appendJSON(b, e.value, o, depth+1)
	}
	o.separate(b, "", depth)
	b.WriteString("}")
}

func (st *state) jsonKey(k Value) string {
	switch k := k.(type) {
	case string:
		return k
	case markup:
		return string(k)
	case nil:
		return "null"
	case bool:
		return boolText(k, "true", "false")
	case int64, BigInt:
		return st.repr(k)
	case float64:
		return jsonFloat(k)
	}
	typeError("keys must be str, int, float, bool or None, not %s", typeName(k))
	return ""
}

// quoteJSON appends a JSON string as Python's json module writes it.
func quoteJSON(b *strings.Builder, s string, ascii bool) {
	b.WriteByte('"')
	start := 0
	for i := 0; i < len(s); {
		c := s[i]
		if c >= 0x20 && c != '"' && c != '\\' && (c < 0x7f || !ascii) {
			i++
			continue
		}
		b.WriteString(s[start:i])
		size := 1
		switch c {
		case '"', '\\':
			b.WriteByte('\\')
			b.WriteByte(c)
		case '\n':
			b.WriteString(`\n`)
		case '\r':
			b.WriteString(`\r`)
		case '\t':
			b.WriteString(`\t`)
		case '\b':
			b.WriteString(`\b`)
		case '\f':
			b.WriteString(`\f`)
		default:
			var r rune
			r, size = utf8.DecodeRuneInString(s[i:])
			if r >= 0x10000 {
				r -= 0x10000
				appendHex(b, `\u`, 0xd800+r>>10, 4)
				r = 0xdc00 + r&0x3ff
			}
			appendHex(b, `\u`, r, 4)
		}
		i += size
		start = i
	}
	b.WriteString(s[start:])
	b.WriteByte('"')
}
