package jinja

import (
	"strings"
	"unicode"
	"unicode/utf8"
)

type stringFunc func(st *state, self Value, s string, a *callArgs) Value

// textArg is a string argument. Joined to marked text, unmarked text is
// escaped.
func textArg(self, v Value, fn string) string {
	s, ok := asString(v)
	if !ok {
		if u, isUndefined := v.(*undefined); isUndefined {
			u.fail()
		}
		typeError("%s() argument must be str, not %s", fn, typeName(v))
	}
	_, selfSafe := self.(markup)
	if _, safe := v.(markup); selfSafe && !safe {
		return escapeHTML(s)
	}
	return s
}

// stringMethod returns a method of str, or nil.
func stringMethod(name string) stringFunc {
	mapped := func(f func(string) string) stringFunc {
		return func(st *state, self Value, s string, a *callArgs) Value {
			a.bind(name, 0)
			st.allocString(2 * len(s))
			return like(self, f(s))
		}
	}
	all := func(ok func(rune) bool) stringFunc {
		return func(_ *state, _ Value, s string, a *callArgs) Value {
			a.bind(name, 0)
			return s != "" && strings.IndexFunc(s, func(r rune) bool { return !ok(r) }) < 0
		}
	}
	test := func(f func(string) bool) stringFunc {
		return func(_ *state, _ Value, s string, a *callArgs) Value {
			a.bind(name, 0)
			return f(s)
		}
	}
	switch name {
	case "upper":
		return mapped(upper)
	case "lower":
		return mapped(lower)
	case "casefold":
		return mapped(func(s string) string { return strings.ReplaceAll(lower(s), "ß", "ss") })
	case "capitalize":
		return mapped(capitalize)
	case "title":
		return mapped(titleCase)
	case "swapcase":
		return mapped(swapCase)
	case "isalpha":
		return all(unicode.IsLetter)
	case "isdigit", "isdecimal":
		return all(unicode.IsDigit)
	case "isnumeric":
		return all(unicode.IsNumber)
	case "isalnum":
		return all(func(r rune) bool { return unicode.IsLetter(r) || unicode.IsNumber(r) })
	case "isspace":
		return all(isSpace)
	case "isascii":
		return test(func(s string) bool { return strings.IndexFunc(s, func(r rune) bool { return r >= 0x80 }) < 0 })
	case "isprintable":
		return test(func(s string) bool { return strings.IndexFunc(s, func(r rune) bool { return !unicode.IsPrint(r) }) < 0 })
	case "islower":
		return test(func(s string) bool { return hasCase(s, true) })
	case "isupper":
		return test(func(s string) bool { return hasCase(s, false) })
	case "istitle":
		return test(isTitle)
	case "isidentifier":
		return test(isIdentifier)
	case "strip", "lstrip", "rstrip":
		return func(st *state, self Value, s string, a *callArgs) Value {
			chars := or(a.bind(name, 0, "chars")[0], nil)
			st.alloc(16)
			return like(self, strip(s, chars, name != "rstrip", name != "lstrip"))
		}
	case "startswith", "endswith":
		return affix(name)
	case "removeprefix", "removesuffix":
		return func(_ *state, self Value, s string, a *callArgs) Value {
			part := textArg(self, a.bind(name, 1, "affix")[0], name)
			if name == "removeprefix" {
				return like(self, strings.TrimPrefix(s, part))
			}
			return like(self, strings.TrimSuffix(s, part))
		}
	case "split", "rsplit":
		return func(st *state, self Value, s string, a *callArgs) Value {
			v := a.bind(name, 0, "sep", "maxsplit")
			return st.split(self, s, or(v[0], nil), intArg(or(v[1], int64(-1))), name == "rsplit")
		}
	case "splitlines":
		return func(st *state, self Value, s string, a *callArgs) Value {
			keep := truth(or(a.bind(name, 0, "keepends")[0], false))
			return st.texts(self, splitLines(s, keep))
		}
	case "partition", "rpartition":
		return partition(name)
	case "join":
		return func(st *state, self Value, s string, a *callArgs) Value {
			items := st.items(a.bind(name, 1, "iterable")[0])
			parts := make([]string, len(items))
			for i, it := range items {
				if _, ok := asString(it); !ok {
					typeError("sequence item %d: expected str instance, %s found", i, typeName(it))
				}
				parts[i] = textArg(self, it, name)
			}
			return like(self, st.join(parts, s))
		}
	case "replace":
		return func(st *state, self Value, s string, a *callArgs) Value {
			v := a.bind(name, 2, "old", "new", "count")
			return like(self, st.replace(s, textArg(self, v[0], name), textArg(self, v[1], name), intArg(or(v[2], int64(-1)))))
		}
	case "find", "rfind", "index", "rindex", "count":
		return search(name)
	case "center", "ljust", "rjust":
		return func(st *state, self Value, s string, a *callArgs) Value {
			v := a.bind(name, 1, "width", "fillchar")
			fill, ok := asString(or(v[1], " "))
			if !ok || utf8.RuneCountInString(fill) != 1 {
				typeError("The fill character must be exactly one character long")
			}
			return like(self, st.justify(s, intArg(v[0]), fill, name))
		}
	case "zfill":
		return func(st *state, self Value, s string, a *callArgs) Value {
			width := intArg(a.bind(name, 1, "width")[0])
			sign := ""
			if strings.HasPrefix(s, "-") || strings.HasPrefix(s, "+") {
				sign, s = s[:1], s[1:]
			}
			return like(self, sign+st.justify(s, width-int64(len(sign)), "0", "rjust"))
		}
	case "expandtabs":
		return func(st *state, self Value, s string, a *callArgs) Value {
			return like(self, st.expandTabs(s, intArg(or(a.bind(name, 0, "tabsize")[0], int64(8)))))
		}
	case "format":
		return func(st *state, self Value, s string, a *callArgs) Value { return st.formatMethod(self, s, a) }
	case "format_map":
		return func(st *state, self Value, s string, a *callArgs) Value {
			d, ok := a.bind(name, 1, "mapping")[0].(*Dict)
			if !ok {
				typeError("format_map() argument must be a mapping")
			}
			kw := &callArgs{}
			for _, e := range d.entries {
				if key, ok := asString(e.key); ok {
					kw.names = append(kw.names, key)
					kw.named = append(kw.named, e.value)
				}
			}
			return st.formatMethod(self, s, kw)
		}
	}
	return nil
}

func isIdentifier(s string) bool {
	for i, r := range s {
		if r != '_' && !unicode.IsLetter(r) && (i == 0 || !unicode.IsDigit(r) && !unicode.IsMark(r)) {
			return false
		}
	}
	return s != ""
}

// strip removes the characters of chars, or white space if it is nil.
func strip(s string, chars Value, left, right bool) string {
	drop := isSpace
	if chars != nil {
		set := textArg("", chars, "strip")
		drop = func(r rune) bool { return strings.ContainsRune(set, r) }
	}
	if left {
		s = strings.TrimLeftFunc(s, drop)
	}
	if right {
		s = strings.TrimRightFunc(s, drop)
	}
	return s
}

func affix(name string) stringFunc {
	has := strings.HasPrefix
	if name == "endswith" {
		has = strings.HasSuffix
	}
	return func(st *state, _ Value, s string, a *callArgs) Value {
		v := a.bind(name, 1, "affix", "start", "end")
		if v[1] != (unset{}) || v[2] != (unset{}) {
			r := []rune(s)
			from, to := bounds(v[1], v[2], len(r))
			if from > to {
				return false
			}
			s = string(r[from:to])
		}
		options := []Value{v[0]}
		if t, ok := v[0].(*tuple); ok {
			options = t.items
		}
		for _, o := range options {
			part, ok := asString(o)
			if !ok {
				if u, isUndefined := o.(*undefined); isUndefined {
					u.fail()
				}
				typeError("%s first arg must be str or a tuple of str, not %s", name, typeName(o))
			}
			if has(s, part) {
				return true
			}
		}
		return false
	}
}

// texts makes a list of strings with the type of self.
func (st *state) texts(self Value, parts []string) *List {
	st.allocItems(2 * len(parts))
	items := make([]Value, len(parts))
	for i, p := range parts {
		items[i] = like(self, p)
	}
	return &List{items}
}

func (st *state) split(self Value, s string, sep Value, limit int64, fromRight bool) Value {
	if limit < 0 || limit > int64(len(s)) {
		limit = int64(len(s)) + 1
	}
	var parts []string
	if sep == nil {
		parts = splitSpace(s, int(limit), fromRight)
		return st.texts(self, parts)
	}
	by := textArg("", sep, "split")
	if by == "" {
		fail(ValueError, "empty separator")
	}
	st.allocItems(strings.Count(s, by))
	if !fromRight {
		return st.texts(self, strings.SplitN(s, by, int(limit)+1))
	}
	for ; limit > 0; limit-- {
		i := strings.LastIndex(s, by)
		if i < 0 {
			break
		}
		parts = append(parts, s[i+len(by):])
		s = s[:i]
	}
	parts = append(parts, s)
	for i, j := 0, len(parts)-1; i < j; i, j = i+1, j-1 {
		parts[i], parts[j] = parts[j], parts[i]
	}
	return st.texts(self, parts)
}

// splitSpace splits at runs of white space, at most limit times.
func splitSpace(s string, limit int, fromRight bool) []string {
	var parts []string
	if !fromRight {
		s = trimLeftSpace(s)
		for ; s != "" && limit > 0; limit-- {
			i := strings.IndexFunc(s, isSpace)
			if i < 0 {
				break
			}
			parts = append(parts, s[:i])
			s = trimLeftSpace(s[i:])
		}
		if s != "" {
			if limit > 0 {
				s = trimRightSpace(s)
			}
			parts = append(parts, s)
		}
		return parts
	}
	s = trimRightSpace(s)
	for ; s != "" && limit > 0; limit-- {
		i := strings.LastIndexFunc(s, isSpace)
		if i < 0 {
			break
		}
		_, n := utf8.DecodeRuneInString(s[i:])
		parts = append(parts, s[i+n:])
		s = trimRightSpace(s[:i])
	}
	if s != "" {
		if limit > 0 {
			s = trimLeftSpace(s)
		}
		parts = append(parts, s)
	}
	for i, j := 0, len(parts)-1; i < j; i, j = i+1, j-1 {
		parts[i], parts[j] = parts[j], parts[i]
	}
	return parts
}

// splitLines is Python's splitlines.
func splitLines(s string, keep bool) []string {
	var lines []string
	start := 0
	for i := 0; i < len(s); {
		r, n := utf8.DecodeRuneInString(s[i:])
		switch r {
		case '\n', '\r', '\v', '\f', 0x1c, 0x1d, 0x1e, 0x85, 0x2028, 0x2029:
			end := i + n
			if r == '\r' && strings.HasPrefix(s[end:], "\n") {
				end++
			}
			if keep {
				lines = append(lines, s[start:end])
			} else {
				lines = append(lines, s[start:i])
			}
			start, i = end, end
		default:
			i += n
		}
	}
	if start < len(s) {
		lines = append(lines, s[start:])
	}
	return lines
}

func partition(name string) stringFunc {
	return func(st *state, self Value, s string, a *callArgs) Value {
		sep := textArg("", a.bind(name, 1, "sep")[0], name)
		if sep == "" {
			fail(ValueError, "empty separator")
		}
		i := strings.Index(s, sep)
		if name == "rpartition" {
			i = strings.LastIndex(s, sep)
		}
		parts := []string{s, "", ""}
		switch {
		case i >= 0:
			parts = []string{s[:i], sep, s[i+len(sep):]}
		case name == "rpartition":
			parts = []string{"", "", s}
		}
		return &tuple{st.texts(self, parts).Items}
	}
}

func (st *state) join(parts []string, sep string) string {
	n := 0
	for _, p := range parts {
		n += len(p) + len(sep)
		st.checkString(n - len(sep))
	}
	st.allocString(max(0, n-len(sep)))
	return strings.Join(parts, sep)
}

func (st *state) replace(s, old, with string, count int64) string {
	n := int64(strings.Count(s, old))
	if count >= 0 && count < n {
		n = count
	}
	if len(with) > 0 && n > int64(st.limits.Output/len(with)) {
		st.checkString(st.limits.Output + 1)
	}
	st.allocString(len(s) + int(n)*max(0, len(with)-len(old)))
	return strings.Replace(s, old, with, int(n))
}

func search(name string) stringFunc {
	return func(st *state, _ Value, s string, a *callArgs) Value {
		v := a.bind(name, 1, "sub", "start", "end")
		sub, ok := asString(v[0])
		if !ok {
			typeError("must be str, not %s", typeName(v[0]))
		}
		offset := 0
		if v[1] != (unset{}) || v[2] != (unset{}) {
			r := []rune(s)
			st.alloc(4 * len(r))
			from, to := bounds(v[1], v[2], len(r))
			if from > to {
				from, to, sub = 0, 0, "\x00"
			}
			offset, s = from, string(r[from:to])
		}
		i := 0
		switch name {
		case "count":
			return int64(strings.Count(s, sub))
		case "find", "index":
			i = strings.Index(s, sub)
		default:
			i = strings.LastIndex(s, sub)
		}
		if i >= 0 {
			return int64(offset + utf8.RuneCountInString(s[:i]))
		}
		if strings.HasSuffix(name, "index") {
			fail(ValueError, "substring not found")
		}
		return int64(-1)
	}
}

// justify pads s to width characters; mode is the method's name.
func (st *state) justify(s string, width int64, fill, mode string) string {
	n := width - int64(utf8.RuneCountInString(s))
	if n <= 0 {
		return s
	}
	if n > int64(st.limits.Output) {
		st.checkString(st.limits.Output + 1)
	}
	st.allocString(len(s) + int(n)*len(fill))
	left := int64(0)
	switch mode {
	case "rjust":
		left = n
	case "center":
		left = n/2 + n&width&1
	}
	return strings.Repeat(fill, int(left)) + s + strings.Repeat(fill, int(n-left))
}

func (st *state) expandTabs(s string, size int64) string {
	if size > int64(st.limits.Output) || int64(strings.Count(s, "\t")) > int64(st.limits.Output)/max(1, size) {
		st.checkString(st.limits.Output + 1)
	}
	var b strings.Builder
	column := int64(0)
	for _, r := range s {
		switch {
		case r == '\t' && size > 0:
			n := size - column%size
			b.WriteString(strings.Repeat(" ", int(n)))
			column += n
		case r == '\t':
		default:
			b.WriteRune(r)
			column++
			if r == '\n' || r == '\r' {
				column = 0
			}
		}
	}
	st.allocString(b.Len())
	return b.String()
}
