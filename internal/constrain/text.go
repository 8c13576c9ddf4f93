package constrain

import (
	"fmt"
	"regexp/syntax"
	"strings"
	"unicode/utf8"
)

// runeRange is an inclusive range of characters.
type runeRange struct{ lo, hi rune }

const (
	surrogateMin = 0xD800
	surrogateMax = 0xDFFF
)

// rawRanges are the characters that stand for themselves in a JSON string.
func rawRanges() []runeRange {
	return []runeRange{{' ', '!'}, {'#', '['}, {']', utf8.MaxRune}}
}

// raw adds the UTF-8 encodings of the characters in [lo, hi]; the first byte
// of each carries flags.
func (n *nfa) raw(from, to int32, lo, hi rune, flags uint8) {
	for _, end := range []rune{0x7F, 0x7FF, surrogateMin - 1, surrogateMax, 0xFFFF, utf8.MaxRune} {
		if lo > end {
			continue
		}
		if end != surrogateMax {
			n.encoded(from, to, utf8.AppendRune(nil, lo), utf8.AppendRune(nil, min(hi, end)), flags)
		}
		if lo = end + 1; lo > hi {
			return
		}
	}
}

// encoded adds the UTF-8 encodings between lo and hi, which have one length:
// lo and hi split into their first byte and the rest, the bytes strictly
// between the first ones go with every continuation.
func (n *nfa) encoded(from, to int32, lo, hi []byte, flags uint8) {
	if len(lo) == 1 {
		n.edge(from, lo[0], hi[0], flags, to)
		return
	}
	var least, most [utf8.UTFMax]byte
	for i := range least {
		least[i], most[i] = 0x80, 0xBF
	}
	rest := len(lo) - 1
	step := func(a, b byte, restLo, restHi []byte) {
		s := n.state()
		n.edge(from, a, b, flags, s)
		n.encoded(s, to, restLo, restHi, 0)
	}
	if lo[0] == hi[0] {
		step(lo[0], lo[0], lo[1:], hi[1:])
		return
	}
	first, last := lo[0], hi[0]
	if string(lo[1:]) != string(least[:rest]) {
		step(first, first, lo[1:], most[:rest])
		first++
	}
	lastPartial := string(hi[1:]) != string(most[:rest])
	if lastPartial {
		last--
	}
	if first <= last {
		step(first, last, least[:rest], most[:rest])
	}
	if lastPartial {
		step(hi[0], hi[0], least[:rest], hi[1:])
	}
}

// spelled adds the canonical JSON spellings of the characters in the ranges,
// the first byte of each marked flagCount.
func (n *nfa) spelled(from, to int32, ranges []runeRange) {
	for _, r := range ranges {
		for c := max(r.lo, 0); c <= min(r.hi, 0x1F); c++ {
			n.escape(from, to, c)
		}
		for _, c := range []rune{'"', '\\'} {
			if r.lo <= c && c <= r.hi {
				n.escape(from, to, c)
			}
		}
		for _, w := range rawRanges() {
			if lo, hi := max(r.lo, w.lo), min(r.hi, w.hi); lo <= hi {
				n.raw(from, to, lo, hi, flagCount)
			}
		}
	}
}

func (n *nfa) escape(from, to int32, c rune) {
	text := spell(c)
	s := n.state()
	n.edge(from, text[0], text[0], flagCount, s)
	n.eps(n.bytes(s, text[1:]), to)
}

// freeString returns the automaton of every JSON string with its quotes.
// Characters are marked flagCount and the closing quote flagEnd, so the
// counters of its frame bound the length.
func freeString(work *budget) (*dfa, error) {
	n := newNFA(work)
	start, in, done := n.state(), n.state(), n.state()
	n.edge(start, '"', '"', 0, in)
	n.edge(in, '"', '"', flagEnd, done)
	for _, w := range rawRanges() {
		n.raw(in, in, w.lo, w.hi, flagCount)
	}
	slash, u := n.state(), n.state()
	n.edge(in, '\\', '\\', flagCount, slash)
	for _, c := range []byte(`"\/bfnrt`) {
		n.edge(slash, c, c, 0, in)
	}
	n.edge(slash, 'u', 'u', 0, u)
	n.hexDigits(u, in, "09", "AC", "EF", "09AF", "09AF", "09AF")
	n.hexDigits(u, in, "DD", "07", "09AF", "09AF")
	low := n.state()
	n.hexDigits(u, low, "DD", "89AB", "09AF", "09AF")
	n.hexDigits(n.bytes(low, []byte(`\u`)), in, "DD", "CF", "09AF", "09AF")
	return n.determinise(start, done)
}

// hexDigits adds four hexadecimal digits in either case. The last three
// classes are one position each; all before them are alternatives for the
// first. A class is pairs of ends.
func (n *nfa) hexDigits(from, to int32, classes ...string) {
	k := len(classes) - 3
	steps := append([]string{strings.Join(classes[:k], "")}, classes[k:]...)
	for i, class := range steps {
		next := to
		if i < len(steps)-1 {
			next = n.state()
		}
		for j := 0; j < len(class); j += 2 {
			n.edge(from, class[j], class[j+1], 0, next)
			if class[j] >= 'A' {
				n.edge(from, class[j]|0x20, class[j+1]|0x20, 0, next)
			}
		}
		from = next
	}
}

// quoted puts quotes around a DFA of string contents in canonical spelling.
func (d *dfa) quoted() *dfa {
	out := &dfa{states: make([]dfaState, 1, len(d.states)+2)}
	out.states[0].edges = []edge{{'"', '"', 0, 1}}
	done := int32(len(d.states) + 1)
	for _, s := range d.states {
		var edges []edge
		for _, e := range s.edges {
			e.to, e.flags = e.to+1, 0
			if s.accept && e.lo > '"' && (len(edges) == 0 || edges[len(edges)-1].lo < '"') {
				edges = append(edges, edge{'"', '"', 0, done})
			}
			edges = append(edges, e)
		}
		if s.accept && (len(edges) == 0 || edges[len(edges)-1].lo < '"') {
			edges = append(edges, edge{'"', '"', 0, done})
		}
		out.states = append(out.states, dfaState{edges: edges})
	}
	out.states = append(out.states, dfaState{accept: true})
	return out
}

// otherKeys adds, quotes included, every canonical key that is not in names.
func (n *nfa) otherKeys(from, to int32, names []string) error {
	trie := newNFA(n.work)
	root, end := trie.state(), trie.state()
	for _, name := range names {
		s := root
		for _, r := range name {
			next := trie.state()
			trie.spelled(s, next, []runeRange{{r, r}})
			s = next
		}
		trie.eps(s, end)
	}
	excluded, err := trie.determinise(root, end)
	if err != nil {
		return err
	}
	keys := newNFA(n.work)
	s := keys.state()
	keys.spelled(s, s, []runeRange{{0, utf8.MaxRune}})
	all, err := keys.determinise(s, s)
	if err != nil {
		return err
	}
	d := subtract(all, excluded).quoted()
	base := make([]int32, len(d.states))
	for i := range d.states {
		base[i] = n.state()
	}
	for i, st := range d.states {
		for _, e := range st.edges {
			n.edge(base[i], e.lo, e.hi, 0, base[e.to])
		}
		if st.accept {
			n.eps(base[i], to)
		}
	}
	n.eps(from, base[0])
	return nil
}

// subtract returns the texts of all, which has no dead ends, that are not in
// the finite b.
func subtract(all, b *dfa) *dfa {
	type pair struct{ x, y int32 } // y is -1 once b has no continuation
	index := map[pair]int32{{}: 0}
	order := []pair{{}}
	out := &dfa{}
	for i := 0; i < len(order); i++ {
		p := order[i]
		s := dfaState{accept: all.states[p.x].accept && (p.y < 0 || !b.states[p.y].accept)}
		for _, e := range all.states[p.x].edges {
			for c := int(e.lo); c <= int(e.hi); c++ {
				next := pair{e.to, -1}
				if p.y >= 0 {
					if f, ok := b.states[p.y].next(byte(c)); ok {
						next.y = f.to
					}
				}
				id, ok := index[next]
				if !ok {
					id = int32(len(order))
					index[next] = id
					order = append(order, next)
				}
				if k := len(s.edges) - 1; k >= 0 && s.edges[k].to == id && int(s.edges[k].hi) == c-1 {
					s.edges[k].hi = byte(c)
				} else {
					s.edges = append(s.edges, edge{byte(c), byte(c), 0, id})
				}
			}
		}
		out.states = append(out.states, s)
	}
	return out
}

// patternDFA compiles a pattern to the DFA of the canonical spellings of the
// strings in which it is found.
func patternDFA(work *budget, pattern string) (*dfa, error) {
	goPattern, err := translatePattern(pattern)
	if err != nil {
		return nil, err
	}
	re, err := syntax.Parse(goPattern, syntax.Perl)
	if err != nil {
		return nil, err
	}
	n := newNFA(work)
	before, found, after := n.state(), n.state(), n.state()
	anything := []runeRange{{0, utf8.MaxRune}}
	n.spelled(before, before, anything)
	if err := n.regexp(before, found, re, 0); err != nil {
		return nil, err
	}
	n.eps(found, after)
	n.spelled(after, after, anything)
	d, err := n.determinise(before, after)
	if err != nil {
		return nil, err
	}
	return d.trim(), nil
}

// regexp adds the texts of re between from and to.
func (n *nfa) regexp(from, to int32, re *syntax.Regexp, depth int) error {
	if n.over || depth > 1000 {
		return errTooLarge
	}
	switch re.Op {
	case syntax.OpNoMatch:
	case syntax.OpEmptyMatch:
		n.eps(from, to)
	case syntax.OpLiteral:
		if re.Flags&syntax.FoldCase != 0 {
			return fmt.Errorf("case folding is not supported")
		}
		for _, r := range re.Rune {
			next := n.state()
			n.spelled(from, next, []runeRange{{r, r}})
			from = next
		}
		n.eps(from, to)
	case syntax.OpCharClass:
		var ranges []runeRange
		for i := 0; i < len(re.Rune); i += 2 {
			ranges = append(ranges, runeRange{re.Rune[i], re.Rune[i+1]})
		}
		n.spelled(from, to, ranges)
	case syntax.OpAnyCharNotNL: // ECMA-262 has four line terminators
		n.spelled(from, to, []runeRange{{0, '\n' - 1}, {'\n' + 1, '\r' - 1}, {'\r' + 1, 0x2027}, {0x202A, utf8.MaxRune}})
	case syntax.OpAnyChar:
		n.spelled(from, to, []runeRange{{0, utf8.MaxRune}})
	case syntax.OpBeginText:
		n.states[from].begin = append(n.states[from].begin, to)
	case syntax.OpEndText:
		n.states[from].end = append(n.states[from].end, to)
	case syntax.OpCapture:
		return n.regexp(from, to, re.Sub[0], depth+1)
	case syntax.OpConcat:
		for _, sub := range re.Sub {
			next := n.state()
			if err := n.regexp(from, next, sub, depth+1); err != nil {
				return err
			}
			from = next
		}
		n.eps(from, to)
	case syntax.OpAlternate:
		for _, sub := range re.Sub {
			if err := n.regexp(from, to, sub, depth+1); err != nil {
				return err
			}
		}
	case syntax.OpStar:
		return n.repeat(from, to, re.Sub[0], 0, -1, depth)
	case syntax.OpPlus:
		return n.repeat(from, to, re.Sub[0], 1, -1, depth)
	case syntax.OpQuest:
		return n.repeat(from, to, re.Sub[0], 0, 1, depth)
	case syntax.OpRepeat:
		return n.repeat(from, to, re.Sub[0], re.Min, re.Max, depth)
	default:
		return fmt.Errorf("%s is not supported", re.Op)
	}
	return nil
}

// repeat adds least to most (-1: any number of) times sub.
func (n *nfa) repeat(from, to int32, sub *syntax.Regexp, least, most, depth int) error {
	for i := 0; i < max(least, most); i++ {
		if i >= least {
			n.eps(from, to)
		}
		next := n.state()
		if err := n.regexp(from, next, sub, depth+1); err != nil {
			return err
		}
		from = next
	}
	if most < 0 {
		loop, back := n.state(), n.state()
		n.eps(from, loop)
		if err := n.regexp(loop, back, sub, depth+1); err != nil {
			return err
		}
		n.eps(back, loop)
		from = loop
	}
	n.eps(from, to)
	return nil
}

// ECMA-262's white space, \s, and everything else, \S, as the inside of a class.
const (
	spaces = `\t-\r \x{a0}\x{1680}\x{2000}-\x{200a}\x{2028}\x{2029}\x{202f}\x{205f}\x{3000}\x{feff}`

	notSpaces = `\x00-\x08\x0e-\x1f!-\x{9f}\x{a1}-\x{167f}\x{1681}-\x{1fff}\x{200b}-\x{2027}\x{202a}-\x{202e}` +
		`\x{2030}-\x{205e}\x{2060}-\x{2fff}\x{3001}-\x{fefe}\x{ff00}-\x{10ffff}`
)

// translatePattern turns an ECMA-262 pattern into Go's syntax, where they
// differ, and refuses what they read differently.
func translatePattern(p string) (string, error) {
	var out strings.Builder
	class := false
	for i := 0; i < len(p); i++ {
		switch c := p[i]; {
		case c == '\\' && i+1 < len(p):
			i++
			switch e := p[i]; {
			case e == 'u':
				if i+4 >= len(p) || strings.Trim(p[i+1:i+5], "0123456789abcdefABCDEF") != "" {
					return "", fmt.Errorf(`\u wants four hexadecimal digits`)
				}
				out.WriteString(`\x{` + p[i+1:i+5] + `}`)
				i += 4
			case e == '/' || e == '-':
				out.WriteString(`\` + string(e))
			case e == 's' || e == 'S':
				set := map[byte]string{'s': spaces, 'S': notSpaces}[e]
				if !class {
					set = "[" + set + "]"
				}
				out.WriteString(set)
			case e == '0':
				out.WriteString(`\x00`)
			case e >= utf8.RuneSelf || isWord(e) && !strings.ContainsRune("dDwWsSbBnrtfvxpP", rune(e)):
				return "", fmt.Errorf(`escape \%c is not supported`, e)
			case e == 'x' && i+1 < len(p) && p[i+1] == '{':
				return "", fmt.Errorf(`escape \x{ is not supported`)
			default:
				out.WriteString(`\` + string(e))
			}
			continue
		case class && c == '[':
			out.WriteString(`\[`)
			continue
		case c == '[':
			class = true
			out.WriteByte(c)
			rest := strings.TrimPrefix(p[i+1:], "^")
			if strings.HasPrefix(rest, "]") {
				return "", fmt.Errorf("empty character class is not supported")
			}
			continue
		case c == ']':
			class = false
		case !class && c == '(' && strings.HasPrefix(p[i:], "(?") && !strings.HasPrefix(p[i:], "(?:"):
			return "", fmt.Errorf("group %.4q is not supported", p[i:])
		}
		out.WriteByte(p[i])
	}
	return out.String(), nil
}

func isWord(c byte) bool {
	return c >= '0' && c <= '9' || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z'
}
