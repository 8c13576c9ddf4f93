package tokenizer

import (
	"fmt"
	"strconv"
	"strings"
	"unicode/utf8"
)

// A pattern is what the pre-tokenizers of byte-level BPE are written in, a
// small part of the usual regular expressions:
//
//	pattern  = sequence { "|" sequence }
//	sequence = { item }
//	item     = atom [ "?" | "*" | "+" | "{n}" | "{n,m}" ]
//	         | "(?!" class ")"             not followed by class
//	         | "(?:" pattern ")" [ "?" ]   a pattern of single atoms, last in its sequence
//	         | "$"                         the end of the piece
//	         | `\w`                        letters with their marks, joined by single spaces
//	atom     = class | character
//	class    = "[" ["^"] { character | character "-" character | escape } "]" | escape
//	escape   = `\s` | `\S` | `\p{NAME}` | "\r" | "\n" | "\t" | `\uXXXX` | `\UXXXXXXXX` | `\` character
//
// The meaning is that of Perl: the leftmost match, the first sequence that
// matches there, quantifiers that take all they can and give back. A search
// over a piece of n characters takes time in O(n): a quantifier remembers
// where the run it looked at ends and from where giving back was in vain.
//
// White space beyond ASCII is treated as U+000B, so that \s has it and no
// range written out does.
type pattern struct {
	sequences []sequence
	slots     int // memos that match needs
}

type sequence struct {
	first uint64 // classes of which the first character has at least one
	items []item
}

type itemKind uint8

const (
	itemRun   itemKind = iota // min to max characters of a class
	itemNot                   // no character of a class follows
	itemEnd                   // the end of the piece
	itemGroup                 // one of a few fixed sequences, or none if min is 0
	itemWords                 // `\w`
)

type item struct {
	kind     itemKind
	class    uint64 // one bit
	min, max int    // max -1: no limit
	slot     int    // memo, of a run without limit
	group    [][]uint64
	mark     uint64 // itemWords: class of marks
	space    uint64 // itemWords: class of the space
}

// memo is what a run without limit remembers within one text. Positions are
// indices of characters.
type memo struct {
	runBegin, runEnd            int // characters of the class
	vainBegin, vainEnd, vainCap int // the items after the run match nowhere in [vainBegin, vainEnd] of the piece that ends at vainCap
}

// class is a set of characters.
type class struct {
	ascii   [2]uint64
	cats    uint16 // categories of characters beyond ASCII
	ranges  []rune // pairs, beyond ASCII
	without []rune // pairs, taken from cats
	negated bool
}

func (c *class) addASCII(first, last rune) {
	for r := first; r <= last; r++ {
		c.ascii[r>>6] |= 1 << (r & 63)
	}
}

func (c *class) addRange(first, last rune) {
	if first < utf8.RuneSelf {
		c.addASCII(first, min(last, utf8.RuneSelf-1))
		first = utf8.RuneSelf
	}
	if first <= last {
		c.ranges = append(c.ranges, first, last)
	}
}

func (c *class) addCategory(cat category) { c.cats |= 1 << cat }

func inRanges(ranges []rune, r rune) bool {
	for i := 0; i < len(ranges); i += 2 {
		if ranges[i] <= r && r <= ranges[i+1] {
			return true
		}
	}
	return false
}

func (c *class) has(r rune, cat category) bool {
	var in bool
	switch {
	case r < utf8.RuneSelf:
		in = c.ascii[r>>6]>>(r&63)&1 == 1
	default:
		in = c.cats>>cat&1 == 1 && !inRanges(c.without, r) || inRanges(c.ranges, r)
	}
	return in != c.negated
}

// classSet numbers the classes of a pre-tokenizer's patterns and gives every
// character the bits of the classes that have it.
type classSet struct {
	classes []class
	bit     map[string]uint64 // by the text of the class

	ascii  [utf8.RuneSelf]uint64
	byCat  [numCategories]uint64 // classes that look at nothing but the category
	listed []int                 // indices of the others
	cats   *categoryTable
}

// intern gives the class its bit. A set holds 64 classes.
func (s *classSet) intern(text string, c class) uint64 {
	if bit, ok := s.bit[text]; ok {
		return bit
	}
	if len(s.classes) == 64 {
		panic("tokenizer: internal error: more than 64 classes")
	}
	bit := uint64(1) << len(s.classes)
	s.bit[text] = bit
	s.classes = append(s.classes, c)
	return bit
}

// finish computes the tables once all patterns are parsed.
func (s *classSet) finish() {
	s.cats = categories()
	for i := range s.classes {
		c, bit := &s.classes[i], uint64(1)<<i
		for r := range rune(utf8.RuneSelf) {
			if c.has(r, 0) {
				s.ascii[r] |= bit
			}
		}
		if len(c.ranges)+len(c.without) > 0 {
			s.listed = append(s.listed, i)
			continue
		}
		for cat := range numCategories {
			if c.has(utf8.MaxRune, cat) {
				s.byCat[cat] |= bit
			}
		}
	}
}

// of gives the bits of a character.
func (s *classSet) of(r rune) uint64 {
	if r < utf8.RuneSelf {
		return s.ascii[r]
	}
	if isSpace(r) {
		return s.ascii['\v']
	}
	cat := s.cats.of(r)
	bits := s.byCat[cat]
	for _, i := range s.listed {
		if s.classes[i].has(r, cat) {
			bits |= 1 << i
		}
	}
	return bits
}

// next finds the first match of p that begins in [from, hi), where the piece
// ends at hi: the match is [begin, end), begin is hi if there is none. No
// pattern matches the empty string.
func (p *pattern) next(syms []uint64, memos []memo, from, hi int) (begin, end int) {
	for pos := from; pos < hi; pos++ {
		for i := range p.sequences {
			seq := &p.sequences[i]
			if syms[pos]&seq.first == 0 {
				continue
			}
			if end := match(seq.items, syms, memos, pos, hi); end > pos {
				return pos, end
			}
		}
	}
	return hi, hi
}

// match gives the end of the match of items at pos, -1 if there is none.
func match(items []item, syms []uint64, memos []memo, pos, hi int) int {
	for i := range items {
		it := &items[i]
		switch it.kind {
		case itemRun:
			if it.min == 1 && it.max == 1 {
				if pos >= hi || syms[pos]&it.class == 0 {
					return -1
				}
				pos++
				continue
			}
			end := it.runEnd(syms, memos, pos, hi)
			if end-pos < it.min {
				return -1
			}
			if i+1 == len(items) {
				return end
			}
			return it.giveBack(items[i+1:], syms, memos, pos, end, hi)
		case itemNot:
			if pos < hi && syms[pos]&it.class != 0 {
				return -1
			}
		case itemEnd:
			if pos != hi {
				return -1
			}
		case itemGroup:
			n := it.groupLen(syms, pos, hi)
			if n < it.min {
				return -1
			}
			pos += n
		case itemWords:
			if pos >= hi || syms[pos]&it.class == 0 {
				return -1
			}
			for pos++; pos < hi; pos++ {
				if syms[pos]&(it.class|it.mark) != 0 {
					continue
				}
				if syms[pos]&it.space == 0 || pos+1 >= hi || syms[pos+1]&it.class == 0 {
					break
				}
			}
		}
	}
	return pos
}

func (it *item) runEnd(syms []uint64, memos []memo, pos, hi int) int {
	if it.max >= 0 {
		end := pos
		for limit := min(hi, pos+it.max); end < limit && syms[end]&it.class != 0; end++ {
		}
		return end
	}
	m := &memos[it.slot]
	if m.runBegin <= pos && pos < m.runEnd {
		return m.runEnd
	}
	end := pos
	for end < hi && syms[end]&it.class != 0 {
		end++
	}
	m.runBegin, m.runEnd = pos, end
	return end
}

// giveBack tries rest after ever shorter runs.
func (it *item) giveBack(rest []item, syms []uint64, memos []memo, pos, end, hi int) int {
	begin := pos + it.min
	if it.max < 0 {
		if m := &memos[it.slot]; m.vainCap == hi && m.vainEnd == end && m.vainBegin <= begin {
			return -1
		}
	}
	for p := end; p >= begin; p-- {
		if r := match(rest, syms, memos, p, hi); r >= 0 {
			return r
		}
	}
	if it.max < 0 {
		m := &memos[it.slot]
		m.vainBegin, m.vainEnd, m.vainCap = begin, end, hi
	}
	return -1
}

func (it *item) groupLen(syms []uint64, pos, hi int) int {
	for _, alternative := range it.group {
		if len(alternative) > hi-pos {
			continue
		}
		n := 0
		for n < len(alternative) && syms[pos+n]&alternative[n] != 0 {
			n++
		}
		if n == len(alternative) {
			return n
		}
	}
	return 0
}

// patternParser reads a pattern. Patterns are part of the program: a fault in
// one is a fault of ours, and the tests compile them all.
type patternParser struct {
	text  string
	pos   int
	set   *classSet
	slots int
}

func compilePattern(text string, set *classSet) pattern {
	p := patternParser{text: text, set: set}
	var out pattern
	for {
		out.sequences = append(out.sequences, p.sequence())
		if !p.accept("|") {
			break
		}
	}
	if p.pos != len(p.text) {
		p.fault("what follows is not understood")
	}
	out.slots = p.slots
	return out
}

func (p *patternParser) fault(why string) {
	panic(fmt.Sprintf("tokenizer: internal error: pattern %q at %d: %s", p.text, p.pos, why))
}

func (p *patternParser) accept(s string) bool {
	if strings.HasPrefix(p.text[p.pos:], s) {
		p.pos += len(s)
		return true
	}
	return false
}

func (p *patternParser) more() bool {
	return p.pos < len(p.text) && p.text[p.pos] != '|' && p.text[p.pos] != ')'
}

func (p *patternParser) sequence() sequence {
	var s sequence
	open := true // all items so far may be empty
	for p.more() {
		it := p.item()
		if open {
			switch it.kind {
			case itemRun, itemWords:
				s.first |= it.class
				open = it.min == 0
			default:
				p.fault("a sequence begins with a class")
			}
		}
		s.items = append(s.items, it)
	}
	if open {
		p.fault("a sequence may not be empty")
	}
	return s
}

func (p *patternParser) item() item {
	switch {
	case p.accept("$"):
		return item{kind: itemEnd}
	case p.accept("(?!"):
		it := item{kind: itemNot, class: p.atom()}
		if !p.accept(")") {
			p.fault("unclosed")
		}
		return it
	case p.accept("(?:"):
		it := item{kind: itemGroup, min: 1}
		for {
			var alternative []uint64
			for p.more() {
				alternative = append(alternative, p.atom())
			}
			it.group = append(it.group, alternative)
			if !p.accept("|") {
				break
			}
		}
		if !p.accept(")") {
			p.fault("unclosed")
		}
		if p.accept("?") {
			it.min = 0
		}
		if p.more() {
			p.fault("a group is the last of its sequence")
		}
		return it
	case p.accept(`\w`):
		return item{
			kind: itemWords, min: 1,
			class: p.named(`\p{L}`), mark: p.named(`\p{M}`), space: p.named(" "),
		}
	}
	it := item{kind: itemRun, class: p.atom(), min: 1, max: 1}
	switch {
	case p.accept("?"):
		it.min = 0
	case p.accept("*"):
		it.min, it.max = 0, -1
	case p.accept("+"):
		it.max = -1
	case p.accept("{"):
		bounds, _, ok := strings.Cut(p.text[p.pos:], "}")
		if !ok {
			p.fault("unclosed")
		}
		p.pos += len(bounds) + 1
		low, high, two := strings.Cut(bounds, ",")
		if !two {
			high = low
		}
		it.min, it.max = p.number(low), p.number(high)
	}
	if it.max < 0 {
		it.slot = p.slots
		p.slots++
	}
	return it
}

func (p *patternParser) number(s string) int {
	n, err := strconv.Atoi(s)
	if err != nil {
		p.fault("not a number")
	}
	return n
}

// named gives the bit of a class written elsewhere than at p.pos.
func (p *patternParser) named(text string) uint64 {
	q := patternParser{text: text, set: p.set}
	return q.atom()
}

// atom reads a class or a character and gives its bit.
func (p *patternParser) atom() uint64 {
	begin := p.pos
	var c class
	if !p.accept("[") {
		if r, ok := p.element(&c); ok {
			c.addRange(r, r)
		}
		return p.set.intern(p.text[begin:p.pos], c)
	}
	c.negated = p.accept("^")
	for !p.accept("]") {
		first, ok := p.element(&c)
		if !ok {
			continue
		}
		last := first
		if p.accept("-") {
			if last, ok = p.element(&c); !ok || last < first {
				p.fault("no range")
			}
		}
		c.addRange(first, last)
	}
	return p.set.intern(p.text[begin:p.pos], c)
}

// element reads one character, or an escape that stands for a set and adds it
// to c; ok tells that it was a character.
func (p *patternParser) element(c *class) (r rune, ok bool) {
	if p.pos >= len(p.text) {
		p.fault("ends early")
	}
	r, n := utf8.DecodeRuneInString(p.text[p.pos:])
	p.pos += n
	if r != '\\' {
		return r, true
	}
	e := p.text[p.pos]
	p.pos++
	switch e {
	case 'r':
		return '\r', true
	case 'n':
		return '\n', true
	case 't':
		return '\t', true
	case 'u', 'U':
		n := 4
		if e == 'U' {
			n = 8
		}
		p.pos += n
		return hexRune(p.text[p.pos-n : p.pos]), true
	case 's':
		c.addASCII('\t', '\r')
		c.addASCII(' ', ' ')
		return 0, false
	case 'S':
		if c.negated {
			p.fault("double negation")
		}
		c.addASCII('\t', '\r')
		c.addASCII(' ', ' ')
		c.negated = true
		return 0, false
	case 'p':
		name, _, found := strings.Cut(p.text[p.pos:], "}")
		if !found {
			p.fault("unclosed")
		}
		p.pos += len(name) + 1
		if !c.addNamed(strings.TrimPrefix(name, "{")) {
			p.fault("no class has this name")
		}
		return 0, false
	}
	return rune(e), true
}

// asciiPunct are the ASCII characters of category P; the other signs are
// symbols.
const asciiPunct = `!"#%&'()*,-./:;?@[\]_{}`

// addNamed adds a class that \p{name} stands for.
func (c *class) addNamed(name string) bool {
	switch name {
	case "L": // letters
		c.addASCII('A', 'Z')
		c.addASCII('a', 'z')
		c.addCategory(catLetter)
	case "L-a": // letters without a-z
		c.addASCII('A', 'Z')
		c.addCategory(catLetter)
	case "L-A": // letters without A-Z
		c.addASCII('a', 'z')
		c.addCategory(catLetter)
	case "L-Han": // letters that are not Chinese characters
		c.addASCII('A', 'Z')
		c.addASCII('a', 'z')
		c.addCategory(catLetter)
		c.without = append(c.without, hanRanges()...)
	case "Han":
		c.ranges = append(c.ranges, hanRanges()...)
	case "M":
		c.addCategory(catMark)
	case "N":
		c.addASCII('0', '9')
		c.addCategory(catNumber)
	case "P":
		for _, r := range asciiPunct {
			c.addASCII(r, r)
		}
		c.addCategory(catPunct)
	case "S":
		// '~' is a symbol too, but llama.cpp's table of ASCII symbols does
		// not have it, and what we aim at is its splits.
		for _, r := range "$+<=>^`|" {
			c.addASCII(r, r)
		}
		c.addCategory(catSymbol)
	case "Ascii": // punctuation and symbols of ASCII
		c.addASCII('!', '/')
		c.addASCII(':', '@')
		c.addASCII('[', '`')
		c.addASCII('{', '~')
	default:
		return false
	}
	return true
}

// hanRanges are the blocks of Chinese characters, whole.
func hanRanges() []rune {
	return []rune{
		0x3400, 0x4DBF, 0x4E00, 0x9FFF, 0xF900, 0xFAFF, 0x20000, 0x2A6DF, 0x2A700, 0x2EBEF, 0x2F800, 0x2FA1F,
	}
}
