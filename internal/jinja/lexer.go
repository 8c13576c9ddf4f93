package jinja

import (
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

type tokenKind int

const (
	tokEOF           tokenKind = iota
	tokData                    // text between tags
	tokVariableBegin           // {{
	tokVariableEnd             // }}
	tokBlockBegin              // {%
	tokBlockEnd                // %}
	tokName
	tokString
	tokInteger
	tokFloat
	tokOperator
)

// token is one lexical unit. text is the decoded string of a tokString, the
// digits of a number without underscores, and the source text otherwise.
type token struct {
	kind tokenKind
	text string
	line int
}

func (t token) describe() string {
	switch t.kind {
	case tokEOF:
		return "end of template"
	case tokData:
		return "template text"
	case tokVariableEnd:
		return "}}"
	case tokBlockEnd:
		return "%}"
	}
	return t.text
}

func validUTF8(s string) bool { return utf8.ValidString(s) }

// isSpace is Python's str.isspace for one character.
func isSpace(r rune) bool { return unicode.IsSpace(r) || 0x1c <= r && r <= 0x1f }

func trimLeftSpace(s string) string  { return strings.TrimLeftFunc(s, isSpace) }
func trimRightSpace(s string) string { return strings.TrimRightFunc(s, isSpace) }

type lexer struct {
	src    string
	pos    int
	line   int
	tokens []token
	// atLineStart is true where the text before pos ended with a newline that
	// the previous tag or text consumed.
	atLineStart bool
	open        []byte // closing brackets that are awaited
}

// lex splits a whole template. Line breaks are normalised to \n and one at the
// end of the template is dropped, as Jinja does.
func lex(source string) []token {
	source = strings.ReplaceAll(source, "\r\n", "\n")
	source = strings.ReplaceAll(source, "\r", "\n")
	source = strings.TrimSuffix(source, "\n")
	l := &lexer{src: source, line: 1, atLineStart: true}
	for l.pos < len(l.src) {
		l.lexText()
	}
	return append(l.tokens, token{kind: tokEOF, line: l.line})
}

func (l *lexer) rest() string { return l.src[l.pos:] }

// advance moves over n bytes and keeps the line count.
func (l *lexer) advance(n int) {
	part := l.src[l.pos : l.pos+n]
	l.line += strings.Count(part, "\n")
	if n > 0 {
		l.atLineStart = part[n-1] == '\n'
	}
	l.pos += n
}

func (l *lexer) emit(kind tokenKind, text string, line int) {
	l.tokens = append(l.tokens, token{kind, text, line})
}

// nextTag returns the offset in s of the next {{, {% or {#, or -1.
func nextTag(s string) int {
	for i := 0; ; {
		j := strings.IndexByte(s[i:], '{')
		if j < 0 || i+j+1 >= len(s) {
			return -1
		}
		i += j
		switch s[i+1] {
		case '{', '%', '#':
			return i
		}
		i++
	}
}

// lexText takes the text up to the next tag and that tag.
func (l *lexer) lexText() {
	at := nextTag(l.rest())
	if at < 0 {
		l.emit(tokData, l.rest(), l.line)
		l.advance(len(l.rest()))
		return
	}
	text, tag := l.rest()[:at], l.rest()[at+1]
	sign := signAt(l.rest(), at+2)
	l.emitText(text, sign, tag != '{')
	line := l.line + strings.Count(text, "\n")
	l.advance(at + 2 + len(sign))
	switch tag {
	case '#':
		l.lexComment(line)
	case '{':
		l.emit(tokVariableBegin, "{{", line)
		l.lexCode(tokVariableEnd)
	case '%':
		if n := matchRawBegin(l.rest()); n > 0 {
			l.advance(n)
			l.lexRaw(line)
			return
		}
		l.emit(tokBlockBegin, "{%", line)
		l.lexCode(tokBlockEnd)
	}
}

func signAt(s string, i int) string {
	if i < len(s) && (s[i] == '-' || s[i] == '+') {
		return s[i : i+1]
	}
	return ""
}

// emitText emits text that a tag with the given sign follows. block is true
// where lstrip_blocks applies, i.e. everywhere but before {{.
func (l *lexer) emitText(text, sign string, block bool) {
	switch {
	case sign == "-":
		text = trimRightSpace(text)
	case sign == "" && block:
		start := strings.LastIndexByte(text, '\n') + 1
		if (start > 0 || l.atLineStart) && trimLeftSpace(text[start:]) == "" {
			text = text[:start]
		}
	}
	if text != "" {
		l.emit(tokData, text, l.line)
	}
}

// matchTagEnd returns the length of a tag end such as %} with its sign and the
// white space it takes, or 0. trim is true where trim_blocks applies.
func matchTagEnd(s, end string, trim, plus bool) int {
	if plus && strings.HasPrefix(s, "+"+end) {
		return 1 + len(end)
	}
	if strings.HasPrefix(s, "-"+end) {
		return len(s) - len(trimLeftSpace(s[1+len(end):]))
	}
	if !strings.HasPrefix(s, end) {
		return 0
	}
	n := len(end)
	if trim && n < len(s) && s[n] == '\n' {
		n++
	}
	return n
}

func (l *lexer) lexComment(line int) {
	for i := 0; ; i++ {
		j := strings.Index(l.rest()[i:], "#}")
		if j < 0 {
			failAt(line, SyntaxError, "Missing end of comment tag")
		}
		i += j
		start := i
		if i > 0 && (l.rest()[i-1] == '-' || l.rest()[i-1] == '+') {
			start = i - 1
		}
		if n := matchTagEnd(l.rest()[start:], "#}", true, true); n > 0 {
			l.advance(start + n)
			return
		}
	}
}

// matchRawBegin matches what follows {% in a raw tag, through its end.
func matchRawBegin(s string) int {
	body := trimLeftSpace(s)
	if !strings.HasPrefix(body, "raw") {
		return 0
	}
	body = trimLeftSpace(body[len("raw"):])
	n := matchTagEnd(body, "%}", false, false)
	if n == 0 {
		return 0
	}
	return len(s) - len(body) + n
}

func (l *lexer) lexRaw(line int) {
	s := l.rest()
	for i := 0; ; i += 2 {
		j := strings.Index(s[i:], "{%")
		if j < 0 {
			failAt(line, SyntaxError, "Missing end of raw directive")
		}
		i += j
		sign := signAt(s, i+2)
		body := trimLeftSpace(s[i+2+len(sign):])
		if !strings.HasPrefix(body, "endraw") {
			continue
		}
		body = trimLeftSpace(body[len("endraw"):])
		n := matchTagEnd(body, "%}", true, true)
		if n == 0 {
			continue
		}
		l.emitText(s[:i], sign, true)
		l.advance(len(s) - len(body) + n)
		return
	}
}

// operators, longest first.
var operators = [...]string{
	"//", "**", "==", "!=", ">=", "<=",
	"+", "-", "/", "*", "%", "~", "[", "]", "(", ")", "{", "}", ">", "<", "=", ".", ":", "|", ",", ";",
}

// lexCode takes the tokens of one tag, through its end.
func (l *lexer) lexCode(end tokenKind) {
	for {
		s := l.rest()
		if s == "" {
			return // the parser reports the missing end
		}
		if len(l.open) == 0 {
			var n int
			if end == tokBlockEnd {
				n = matchTagEnd(s, "%}", true, true)
			} else {
				n = matchTagEnd(s, "}}", false, false)
			}
			if n > 0 {
				l.emit(end, s[:n], l.line)
				l.advance(n)
				return
			}
		}
		r, size := utf8.DecodeRuneInString(s)
		switch {
		case isSpace(r):
			l.advance(len(s) - len(trimLeftSpace(s)))
		case '0' <= r && r <= '9':
			l.lexNumber()
		case r == '\'' || r == '"':
			l.lexString()
		case r == '_' || unicode.IsLetter(r):
			n := size
			for n < len(s) {
				r, size := utf8.DecodeRuneInString(s[n:])
				if r != '_' && !unicode.IsLetter(r) && !unicode.IsDigit(r) && !unicode.IsMark(r) {
					break
				}
				n += size
			}
			l.emit(tokName, s[:n], l.line)
			l.advance(n)
		default:
			l.lexOperator(r)
		}
	}
}

func (l *lexer) lexOperator(r rune) {
	for _, op := range operators {
		if !strings.HasPrefix(l.rest(), op) {
			continue
		}
		switch op {
		case "(":
			l.open = append(l.open, ')')
		case "[":
			l.open = append(l.open, ']')
		case "{":
			l.open = append(l.open, '}')
		case ")", "]", "}":
			if len(l.open) == 0 {
				failAt(l.line, SyntaxError, "unexpected '%s'", op)
			}
			want := l.open[len(l.open)-1]
			if want != op[0] {
				failAt(l.line, SyntaxError, "unexpected '%s', expected '%c'", op, want)
			}
			l.open = l.open[:len(l.open)-1]
		}
		l.emit(tokOperator, op, l.line)
		l.advance(len(op))
		return
	}
	failAt(l.line, SyntaxError, "unexpected char %q at %d", r, l.pos)
}

// digits returns the length of a run of digits with single underscores between.
func digits(s string, ok func(byte) bool) int {
	n := 0
	for n < len(s) {
		switch {
		case ok(s[n]):
			n++
		case s[n] == '_' && n > 0 && n+1 < len(s) && ok(s[n+1]):
			n += 2
		default:
			return n
		}
	}
	return n
}

func isDecimal(c byte) bool { return '0' <= c && c <= '9' }

func (l *lexer) lexNumber() {
	s := l.rest()
	n := 0
	kind := tokInteger
	base := func(ok func(byte) bool) {
		if d := digits(s[2:], ok); d > 0 {
			n = 2 + d
		}
	}
	if len(s) > 2 && s[0] == '0' {
		switch s[1] {
		case 'x', 'X':
			base(func(c byte) bool { return isDecimal(c) || 'a' <= c|0x20 && c|0x20 <= 'f' })
		case 'o', 'O':
			base(func(c byte) bool { return '0' <= c && c <= '7' })
		case 'b', 'B':
			base(func(c byte) bool { return c == '0' || c == '1' })
		}
	}
	if n == 0 {
		n = digits(s, isDecimal)
		afterDot := l.pos > 0 && l.src[l.pos-1] == '.'
		if !afterDot {
			m := n
			if m < len(s) && s[m] == '.' {
				if d := digits(s[m+1:], isDecimal); d > 0 {
					m += 1 + d
				}
			}
			if e := m; e < len(s) && s[e]|0x20 == 'e' {
				e++
				if e < len(s) && (s[e] == '+' || s[e] == '-') {
					e++
				}
				if d := digits(s[e:], isDecimal); d > 0 {
					m = e + d
				}
			}
			if m > n {
				n, kind = m, tokFloat
			}
		}
		if kind == tokInteger && s[0] == '0' && strings.Trim(s[:n], "0_") != "" {
			n = digits(s, func(c byte) bool { return c == '0' })
		}
	}
	l.emit(kind, strings.ReplaceAll(s[:n], "_", ""), l.line)
	l.advance(n)
}

func (l *lexer) lexString() {
	s := l.rest()
	quote := s[0]
	for i := 1; i < len(s); i++ {
		switch s[i] {
		case '\\':
			i++
		case quote:
			l.emit(tokString, unescape(s[1:i], l.line), l.line)
			l.advance(i + 1)
			return
		}
	}
	failAt(l.line, SyntaxError, "unexpected char %q at %d", rune(quote), l.pos)
}

// unescape decodes Python's string escapes.
func unescape(s string, line int) string {
	if strings.IndexByte(s, '\\') < 0 {
		return s
	}
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] != '\\' || i+1 >= len(s) {
			b.WriteByte(s[i])
			continue
		}
		i++
		switch c := s[i]; c {
		case '\n':
		case '\\', '\'', '"':
			b.WriteByte(c)
		case 'a':
			b.WriteByte('\a')
		case 'b':
			b.WriteByte('\b')
		case 'f':
			b.WriteByte('\f')
		case 'n':
			b.WriteByte('\n')
		case 'r':
			b.WriteByte('\r')
		case 't':
			b.WriteByte('\t')
		case 'v':
			b.WriteByte('\v')
		case '0', '1', '2', '3', '4', '5', '6', '7':
			n := 1
			for n < 3 && i+n < len(s) && '0' <= s[i+n] && s[i+n] <= '7' {
				n++
			}
			code, _ := strconv.ParseUint(s[i:i+n], 8, 16) // at most three octal digits
			b.WriteRune(rune(code))
			i += n - 1
		case 'x', 'u', 'U':
			n := map[byte]int{'x': 2, 'u': 4, 'U': 8}[c]
			if i+n >= len(s) {
				failAt(line, SyntaxError, "truncated \\%c escape in a string", c)
			}
			code, err := strconv.ParseUint(s[i+1:i+1+n], 16, 32)
			if err != nil || !utf8.ValidRune(rune(code)) || code > unicode.MaxRune {
				failAt(line, SyntaxError, "\\%s in a string is no character", s[i:i+1+n])
			}
			b.WriteRune(rune(code))
			i += n
		case 'N':
			failAt(line, SyntaxError, "\\N{...} in a string is not supported; write the character itself")
		default:
			b.WriteByte('\\')
			b.WriteByte(c)
		}
	}
	return b.String()
}
