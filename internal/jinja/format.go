package jinja

import (
	"math"
	"strconv"
	"strings"
	"unicode/utf8"
)

// spec is a format specification, of printf or of str.format.
type spec struct {
	fill    rune
	align   byte // '<', '>', '^', '=' or 0
	sign    byte // '+', ' ' or 0
	alt     bool
	zero    bool
	width   int
	comma   byte // ',' or '_' between groups of digits, or 0
	prec    int  // -1 if absent
	verb    byte // 0 if absent
	percent bool // of printf: left alignment needs no '<'
}

// maxWidth bounds a width or precision in a format.
const maxWidth = 1 << 16

// printf is Python's self % arg, where format is the text of self.
func (st *state) printf(self Value, format string, arg Value) Value {
	st.work(len(format))
	var args []Value
	mapping, _ := arg.(*Dict)
	if t, ok := arg.(*tuple); ok {
		args = t.items
	} else {
		args = []Value{arg}
	}
	used := 0
	next := func() Value {
		if used >= len(args) {
			typeError("not enough arguments for format string")
		}
		used++
		return args[used-1]
	}
	var b strings.Builder
	for i := 0; i < len(format); i++ {
		if format[i] != '%' {
			b.WriteByte(format[i])
			continue
		}
		i++
		rest := format[i:]
		var key Value = unset{}
		if strings.HasPrefix(rest, "(") {
			end := strings.IndexByte(rest, ')')
			if end < 0 {
				fail(ValueError, "incomplete format key")
			}
			if mapping == nil {
				typeError("format requires a mapping")
			}
			key = rest[1:end]
			rest = rest[end+1:]
		}
		s, n := parsePrintf(rest, next)
		i = len(format) - len(rest) + n - 1
		if s.verb == '%' {
			b.WriteByte('%')
			continue
		}
		var v Value
		if key == (unset{}) {
			v = next()
		} else {
			var ok bool
			if v, ok = mapping.get(key); !ok {
				fail(ValueError, "%s", st.repr(key))
			}
			used = len(args)
		}
		st.checkString(b.Len())
		b.WriteString(st.escapeInto(self, v, st.printfOne(s, v)))
	}
	if used < len(args) && mapping == nil && !(used == 0 && takenForMapping(arg)) {
		typeError("not all arguments converted during string formatting")
	}
	st.allocString(b.Len())
	return like(self, b.String())
}

// escapeInto escapes the text of v if it goes into a marked string and v is
// not marked itself.
func (st *state) escapeInto(self, v Value, text string) string {
	_, selfSafe := self.(markup)
	if _, safe := v.(markup); !selfSafe || safe {
		return text
	}
	return escapeHTML(text)
}

// takenForMapping is whether Python accepts v as the right side of % without a
// conversion that uses it: anything with items but a string or tuple.
func takenForMapping(v Value) bool {
	switch v.(type) {
	case *List, *undefined, *rangeValue:
		return true
	}
	return false
}

// parsePrintf reads a conversion after its % and returns its length.
func parsePrintf(f string, next func() Value) (spec, int) {
	s := spec{prec: -1, fill: ' ', align: '>', percent: true}
	i := 0
flags:
	for ; i < len(f); i++ {
		switch f[i] {
		case '-':
			s.align = '<'
		case '+':
			s.sign = '+'
		case ' ':
			if s.sign == 0 {
				s.sign = ' '
			}
		case '#':
			s.alt = true
		case '0':
			s.zero = true
		default:
			break flags
		}
	}
	number := func() int {
		if i < len(f) && f[i] == '*' {
			i++
			n := intArg(next())
			if n < -maxWidth || n > maxWidth {
				fail(ValueError, "width too big")
			}
			return int(n)
		}
		n := 0
		for ; i < len(f) && isDecimal(f[i]); i++ {
			n = n*10 + int(f[i]-'0')
			if n > maxWidth {
				fail(ValueError, "width too big")
			}
		}
		return n
	}
	if s.width = number(); s.width < 0 {
		s.align, s.width = '<', -s.width
	}
	if i < len(f) && f[i] == '.' {
		i++
		s.prec = max(0, number())
	}
	for i < len(f) && (f[i] == 'l' || f[i] == 'h' || f[i] == 'L') {
		i++
	}
	if i >= len(f) {
		fail(ValueError, "incomplete format")
	}
	s.verb = f[i]
	return s, i + 1
}

func (st *state) printfOne(s spec, v Value) string {
	if s.align == '<' {
		s.zero = false
	}
	if u, ok := v.(*undefined); ok && strings.IndexByte("diueEfFgG", s.verb) >= 0 {
		u.fail()
	}
	switch s.verb {
	case 's', 'r', 'a':
		text := st.str(v)
		if s.verb != 's' {
			text = st.repr(v)
		}
		s.zero = false
		return s.pad(s.truncate(text))
	case 'c':
		s.zero = false
		if n, ok := asInt(v); ok && n >= 0 && n <= utf8.MaxRune {
			return s.pad(string(rune(n)))
		}
		if text, ok := asString(v); ok && utf8.RuneCountInString(text) == 1 {
			return s.pad(text)
		}
		typeError("%%c requires int or char")
	case 'd', 'i', 'u':
		switch n := v.(type) {
		case float64:
			v = floatToInt(n)
		case BigInt:
			return s.number(strings.TrimPrefix(string(n), "-"), strings.HasPrefix(string(n), "-"), "")
		}
		s.verb = 'd'
		return s.integer(st.formatNumber(s, v))
	case 'x', 'X', 'o':
		n, ok := asInt(v)
		if !ok {
			typeError("%%%c format: an integer is required, not %s", s.verb, typeName(v))
		}
		return s.integer(n)
	case 'e', 'E', 'f', 'F', 'g', 'G':
		f, ok := asFloat(v)
		if !ok {
			typeError("must be real number, not %s", typeName(v))
		}
		return s.float(f)
	}
	fail(ValueError, "unsupported format character '%c'", s.verb)
	return ""
}

func (st *state) formatNumber(s spec, v Value) int64 {
	n, ok := asInt(v)
	if !ok {
		typeError("%%%c format: a real number is required, not %s", s.verb, typeName(v))
	}
	return n
}

// floatToInt is Python's int(f).
func floatToInt(f float64) Value {
	switch {
	case math.IsNaN(f):
		fail(ValueError, "cannot convert float NaN to integer")
	case math.IsInf(f, 0):
		fail(ValueError, "cannot convert float infinity to integer")
	case math.Abs(f) >= 1<<63:
		overflow()
	}
	return int64(f)
}

func (s spec) truncate(text string) string {
	if s.prec < 0 {
		return text
	}
	for i := range text {
		if s.prec == 0 {
			return text[:i]
		}
		s.prec--
	}
	return text
}

func (s spec) pad(text string) string {
	n := s.width - utf8.RuneCountInString(text)
	if n <= 0 {
		return text
	}
	left := 0
	switch s.align {
	case '>', '=':
		left = n
	case '^':
		left = n / 2
	}
	fill := string(s.fill)
	return strings.Repeat(fill, left) + text + strings.Repeat(fill, n-left)
}

// number assembles a number from its digits: sign, prefix, zeros, padding.
func (s spec) number(digits string, negative bool, prefix string) string {
	sign := ""
	switch {
	case negative:
		sign = "-"
	case s.sign != 0:
		sign = string(rune(s.sign))
	}
	sign += prefix
	if s.comma != 0 {
		digits = group(digits, s.comma)
	}
	if s.zero || s.align == '=' {
		fill := s.fill
		if s.zero {
			fill = '0'
		}
		if n := s.width - len(sign) - utf8.RuneCountInString(digits); n > 0 {
			digits = strings.Repeat(string(fill), n) + digits
		}
	}
	return s.pad(sign + digits)
}

// group puts a separator between every three digits before the point.
func group(digits string, sep byte) string {
	whole := 0
	for whole < len(digits) && isDecimal(digits[whole]) {
		whole++
	}
	var b strings.Builder
	for i := range whole {
		if i > 0 && (whole-i)%3 == 0 {
			b.WriteByte(sep)
		}
		b.WriteByte(digits[i])
	}
	return b.String() + digits[whole:]
}

func (s spec) integer(n int64) string {
	base, prefix := 10, ""
	switch s.verb {
	case 'x', 'X':
		base, prefix = 16, "0"+string(rune(s.verb))
	case 'o':
		base, prefix = 8, "0o"
	case 'b':
		base, prefix = 2, "0b"
	}
	if !s.alt {
		prefix = ""
	}
	digits := strings.TrimPrefix(strconv.FormatInt(n, base), "-")
	if s.verb == 'X' {
		digits = strings.ToUpper(digits)
	}
	if s.percent && s.prec > len(digits) {
		digits = strings.Repeat("0", s.prec-len(digits)) + digits
	}
	return s.number(digits, n < 0, prefix)
}

func (s spec) float(f float64) string {
	prec := s.prec
	if prec < 0 {
		prec = 6
	}
	text := ""
	a := math.Abs(f)
	verb := s.verb | 0x20
	switch {
	case math.IsNaN(f):
		text = "nan"
	case math.IsInf(f, 0):
		text = "inf"
	case verb == '%':
		text = strconv.FormatFloat(a*100, 'f', prec, 64) + "%"
	case s.verb == '%':
		text = strconv.FormatFloat(a*100, 'f', prec, 64) + "%"
	case verb == 'g' || verb == 'n':
		text = formatGeneral(a, max(prec, 1), s.alt)
	default:
		text = strconv.FormatFloat(a, verb, prec, 64)
		if s.alt && prec == 0 {
			text += "."
		}
	}
	if s.verb >= 'A' && s.verb <= 'Z' {
		text = strings.ToUpper(text)
	}
	return s.number(text, math.Signbit(f) && !math.IsNaN(f), "")
}

// formatGeneral is C's %g: prec significant digits, without trailing zeros
// unless keep is set.
func formatGeneral(a float64, prec int, keep bool) string {
	e := strconv.FormatFloat(a, 'e', prec-1, 64)
	exp, _ := strconv.Atoi(e[strings.IndexByte(e, 'e')+1:]) // FormatFloat wrote it
	text := e
	if exp >= -4 && exp < prec {
		text = strconv.FormatFloat(a, 'f', prec-1-exp, 64)
	}
	if keep {
		return text
	}
	mantissa, tail := text, ""
	if i := strings.IndexByte(text, 'e'); i >= 0 {
		mantissa, tail = text[:i], text[i:]
	}
	if strings.Contains(mantissa, ".") {
		mantissa = strings.TrimRight(strings.TrimRight(mantissa, "0"), ".")
	}
	return mantissa + tail
}

// formatMethod is Python's self.format(*args, **kwargs), where format is the
// text of self.
func (st *state) formatMethod(self Value, format string, a *callArgs) Value {
	auto := 0
	return like(self, st.formatFields(self, format, a, &auto, 0))
}

func (st *state) formatFields(self Value, format string, a *callArgs, auto *int, depth int) string {
	if depth > 1 {
		fail(ValueError, "Max string recursion exceeded")
	}
	st.work(len(format))
	var b strings.Builder
	for i := 0; i < len(format); i++ {
		c := format[i]
		double := i+1 < len(format) && format[i+1] == c
		switch {
		case c != '{' && c != '}':
			b.WriteByte(c)
		case double:
			b.WriteByte(c)
			i++
		case c == '}':
			fail(ValueError, "Single '}' encountered in format string")
		default:
			end := closingBrace(format[i+1:])
			b.WriteString(st.formatField(self, format[i+1:i+1+end], a, auto, depth))
			st.checkString(b.Len())
			i += end + 1
		}
	}
	st.allocString(b.Len())
	return b.String()
}

func closingBrace(s string) int {
	if s == "" {
		fail(ValueError, "Single '{' encountered in format string")
	}
	open := 1
	for i := range len(s) {
		switch s[i] {
		case '{':
			open++
		case '}':
			open--
			if open == 0 {
				return i
			}
		}
	}
	fail(ValueError, "expected '}' before end of string")
	return 0
}

// formatField formats name!conversion:spec.
func (st *state) formatField(self Value, field string, a *callArgs, auto *int, depth int) string {
	name, specText := field, ""
	end := len(field)
	for i, inside := 0, false; i < len(field); i++ {
		switch {
		case field[i] == '[':
			inside = true
		case field[i] == ']':
			inside = false
		case !inside && (field[i] == '!' || field[i] == ':'):
			end = i
			i = len(field)
		}
	}
	name, tail := field[:end], field[end:]
	conversion := ""
	if strings.HasPrefix(tail, "!") {
		if len(tail) < 2 || len(tail) > 2 && tail[2] != ':' {
			fail(ValueError, "expected ':' after conversion specifier")
		}
		conversion, tail = tail[1:2], tail[2:]
	}
	v := st.formatLookup(name, a, auto)
	if strings.HasPrefix(tail, ":") {
		specText = st.formatFields(self, tail[1:], a, auto, depth+1)
	}
	switch conversion {
	case "":
	case "s":
		v = st.str(v)
	case "r", "a":
		v = st.repr(v)
	default:
		fail(ValueError, "Unknown conversion specifier %s", conversion)
	}
	return st.escapeInto(self, v, st.formatValue(v, specText))
}

// formatLookup finds what a field names: 0, name, name.attr, name[item]. auto
// is the number of the next field without a name, or -1 once one has a number.
func (st *state) formatLookup(name string, a *callArgs, auto *int) Value {
	end := strings.IndexAny(name, ".[")
	if end < 0 {
		end = len(name)
	}
	first, rest := name[:end], name[end:]
	if first == "" {
		if *auto < 0 {
			fail(ValueError, "cannot switch from manual field specification to automatic field numbering")
		}
		first = strconv.Itoa(*auto)
		*auto++
	} else if isDecimal(first[0]) {
		if *auto > 0 {
			fail(ValueError, "cannot switch from manual field specification to automatic field numbering")
		}
		*auto = -1
	}
	var v Value
	if i, err := strconv.Atoi(first); err == nil {
		if i < 0 || i >= len(a.positional) {
			fail(ValueError, "tuple index out of range")
		}
		v = a.positional[i]
	} else {
		found := false
		for i, n := range a.names {
			if n == first {
				v, found = a.named[i], true
			}
		}
		if !found {
			fail(ValueError, "%s", st.repr(first))
		}
	}
	for rest != "" {
		if rest[0] == '.' {
			end := strings.IndexAny(rest[1:], ".[") + 1
			if end == 0 {
				end = len(rest)
			}
			v, rest = st.getAttr(v, rest[1:end]), rest[end:]
			continue
		}
		end := strings.IndexByte(rest, ']')
		if rest[0] != '[' || end < 0 {
			fail(ValueError, "Missing ']' in format string")
		}
		var key Value = rest[1:end]
		if i, err := strconv.ParseInt(rest[1:end], 10, 64); err == nil {
			key = i
		}
		v, rest = st.getItem(v, key), rest[end+1:]
	}
	return v
}

// formatValue is Python's format(v, spec).
func (st *state) formatValue(v Value, text string) string {
	if text == "" {
		return st.str(v)
	}
	s := parseSpec(text)
	def := func(align byte) {
		if s.align == 0 {
			s.align = align
		}
	}
	switch v := v.(type) {
	case string, markup:
		if s.verb != 0 && s.verb != 's' {
			fail(ValueError, "Unknown format code '%c' for object of type 'str'", s.verb)
		}
		if s.align == '=' {
			fail(ValueError, "'=' alignment not allowed in string format specifier")
		}
		if s.zero {
			s.fill = '0'
		}
		def('<')
		return s.pad(s.truncate(st.str(v)))
	case bool, int64:
		n, _ := asInt(v) // both are integers
		def('>')
		switch s.verb {
		case 0, 'd', 'n', 'x', 'X', 'o', 'b':
			if s.prec >= 0 {
				fail(ValueError, "Precision not allowed in integer format specifier")
			}
			return s.integer(n)
		case 'c':
			return s.pad(string(rune(max(0, min(n, utf8.MaxRune)))))
		}
		return st.formatFloat(s, v, float64(n))
	case float64:
		def('>')
		return st.formatFloat(s, v, v)
	}
	typeError("unsupported format string passed to %s.__format__", typeName(v))
	return ""
}

// formatFloat formats the number v, which is f.
func (st *state) formatFloat(s spec, v Value, f float64) string {
	switch s.verb {
	case 0:
		if s.prec < 0 {
			text := floatRepr(math.Abs(f))
			return s.number(text, math.Signbit(f), "")
		}
		s.verb = 'g'
		text := formatGeneral(math.Abs(f), max(s.prec, 1), s.alt)
		if !strings.ContainsAny(text, ".e") {
			text += ".0"
		}
		return s.number(text, math.Signbit(f), "")
	case 'e', 'E', 'f', 'F', 'g', 'G', 'n', '%':
		return s.float(f)
	}
	fail(ValueError, "Unknown format code '%c' for object of type '%s'", s.verb, typeName(v))
	return ""
}

// parseSpec reads [[fill]align][sign][#][0][width][,][.prec][type].
func parseSpec(text string) spec {
	s := spec{prec: -1, fill: ' '}
	isAlign := func(c byte) bool { return c == '<' || c == '>' || c == '^' || c == '=' }
	r, size := utf8.DecodeRuneInString(text)
	switch {
	case len(text) > size && isAlign(text[size]):
		s.fill, s.align, text = r, text[size], text[size+1:]
	case isAlign(text[0]):
		s.align, text = text[0], text[1:]
	}
	take := func(chars string) byte {
		if text != "" && strings.IndexByte(chars, text[0]) >= 0 {
			c := text[0]
			text = text[1:]
			return c
		}
		return 0
	}
	number := func() int {
		n := 0
		for text != "" && isDecimal(text[0]) {
			n = n*10 + int(text[0]-'0')
			if n > maxWidth {
				fail(ValueError, "Too many decimal digits in format string")
			}
			text = text[1:]
		}
		return n
	}
	if s.sign = take("+- "); s.sign == '-' {
		s.sign = 0
	}
	s.alt = take("#") != 0
	s.zero = take("0") != 0
	if s.zero && s.align != 0 {
		s.zero = false
	}
	s.width = number()
	s.comma = take(",_")
	if take(".") != 0 {
		if text == "" || !isDecimal(text[0]) {
			fail(ValueError, "Format specifier missing precision")
		}
		s.prec = number()
	}
	if len(text) == 1 {
		s.verb, text = text[0], ""
	}
	if text != "" {
		fail(ValueError, "Invalid format specifier")
	}
	return s
}
