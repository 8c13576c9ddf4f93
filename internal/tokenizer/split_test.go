package tokenizer

import (
	"bufio"
	"crypto/sha256"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"unicode"
)

// The files in testdata were made with llama.cpp at d32676d77 (18 August
// 2026): splits.txt with unicode_regex_split of src/unicode.cpp on the patterns
// of src/llama-vocab.cpp, ids-*.txt with llama_tokenize. texts.txt has the
// texts, quoted. A line "NAME HASH" or "MODE HASH" has the SHA-256 of the lines
// for the texts of seededTexts; the lines after it are those for texts.txt.

// seededTexts are texts too many to be written out.
func seededTexts() []string {
	rng := rand.New(rand.NewPCG(1, 2))
	var texts []string
	for range 4000 {
		texts = append(texts, strings.ToValidUTF8(hostile(rng, 12), "?"))
	}
	return texts
}

func writtenTexts(t *testing.T) []string {
	t.Helper()
	var texts []string
	for _, line := range readLines(t, "testdata/texts.txt") {
		text, err := strconv.Unquote(line)
		if err != nil {
			t.Fatalf("%s: %v", line, err)
		}
		texts = append(texts, text)
	}
	if len(texts) < 100 {
		t.Fatalf("%d texts", len(texts))
	}
	return texts
}

func readLines(t *testing.T, path string) []string {
	t.Helper()
	raw, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var lines []string
	sc := bufio.NewScanner(strings.NewReader(string(raw)))
	sc.Buffer(nil, 1<<20)
	for sc.Scan() {
		lines = append(lines, sc.Text())
	}
	return lines
}

// list writes numbers with spaces between.
func list(v []int32) string { return strings.Trim(fmt.Sprint(v), "[]") }

// hashOf hashes the line of each text.
func hashOf(texts []string, line func(string) string) string {
	h := sha256.New()
	for _, text := range texts {
		fmt.Fprintln(h, line(text))
	}
	return fmt.Sprintf("%x", h.Sum(nil))
}

func TestSplitsOfLlamaCpp(t *testing.T) {
	written, seeded := writtenTexts(t), seededTexts()
	lines := readLines(t, "testdata/splits.txt")
	seen := 0
	for len(lines) > 0 {
		name, want, ok := strings.Cut(lines[0], " ")
		if !ok || len(lines) <= len(written) {
			t.Fatalf("splits.txt: %q", lines[0])
		}
		splits := lines[1 : 1+len(written)]
		lines = lines[1+len(written):]
		seen++
		kind, err := findPre(name)
		if err != nil {
			t.Fatal(err)
		}
		s := newSplitter(kind.stages)
		var p pieces
		line := func(text string) string { return list(s.split(text, &p)) }
		for i, text := range written {
			if got := line(text); got != splits[i] {
				t.Errorf("%s: %q: got %s, want %s", name, text, got, splits[i])
			}
		}
		if got := hashOf(seeded, line); got != want {
			t.Errorf("%s: seeded texts hash to %s, want %s", name, got, want)
		}
	}
	if kinds := len(preKinds()); seen != kinds-2 { // spark2_5 and ufakzeka are newer
		t.Errorf("%d of %d kinds checked", seen, kinds)
	}
}

// reference is a backtracking matcher without any care for time.
type reference struct {
	text []rune
	hi   int
}

type refNode struct {
	class    func(rune) bool
	group    [][]refNode
	end, not bool // "$"; "(?!"
	min, max int
}

type refParser struct {
	src []rune
	pos int
}

func (p *refParser) accept(s string) bool {
	if strings.HasPrefix(string(p.src[p.pos:]), s) {
		p.pos += len([]rune(s))
		return true
	}
	return false
}

func (p *refParser) alternatives() [][]refNode {
	var out [][]refNode
	for {
		var seq []refNode
		for p.pos < len(p.src) && p.src[p.pos] != '|' && p.src[p.pos] != ')' {
			seq = append(seq, p.node())
		}
		out = append(out, seq)
		if !p.accept("|") {
			return out
		}
	}
}

func (p *refParser) node() refNode {
	if p.accept("$") {
		return refNode{end: true}
	}
	if p.accept("(?!") {
		n := refNode{not: true, class: p.class()}
		p.accept(")")
		return n
	}
	n := refNode{min: 1, max: 1}
	if p.accept("(?:") {
		n.group = p.alternatives()
		p.accept(")")
	} else {
		n.class = p.class()
	}
	switch {
	case p.accept("?"):
		n.min = 0
	case p.accept("*"):
		n.min, n.max = 0, 1<<30
	case p.accept("+"):
		n.max = 1 << 30
	case p.accept("{"):
		end := slices.Index(p.src[p.pos:], '}')
		if c, _ := fmt.Sscanf(string(p.src[p.pos:p.pos+end]), "%d,%d", &n.min, &n.max); c == 1 {
			n.max = n.min
		}
		p.pos += end + 1
	}
	return n
}

func (p *refParser) class() func(rune) bool {
	if !p.accept("[") {
		r, set := p.member()
		if set != nil {
			return set
		}
		return func(c rune) bool { return c == r }
	}
	negated := p.accept("^")
	var sets []func(rune) bool
	for !p.accept("]") {
		lo, set := p.member()
		if set == nil {
			hi := lo
			if p.accept("-") {
				hi, _ = p.member()
			}
			set = func(c rune) bool { return lo <= c && c <= hi }
		}
		sets = append(sets, set)
	}
	return func(c rune) bool {
		in := slices.ContainsFunc(sets, func(set func(rune) bool) bool { return set(c) })
		return in != negated
	}
}

func (p *refParser) member() (rune, func(rune) bool) {
	r := p.src[p.pos]
	p.pos++
	if r != '\\' {
		return r, nil
	}
	e := p.src[p.pos]
	p.pos++
	switch e {
	case 'r':
		return '\r', nil
	case 'n':
		return '\n', nil
	case 't':
		return '\t', nil
	case 'u', 'U':
		n := 4
		if e == 'U' {
			n = 8
		}
		v, _ := strconv.ParseInt(string(p.src[p.pos:p.pos+n]), 16, 32)
		p.pos += n
		return rune(v), nil
	case 's':
		return 0, refSpace
	case 'S':
		return 0, func(c rune) bool { return !refSpace(c) }
	case 'p':
		end := slices.Index(p.src[p.pos:], '}')
		name := string(p.src[p.pos+1 : p.pos+end])
		p.pos += end + 1
		return 0, refClass(name)
	}
	return e, nil
}

func refSpace(c rune) bool { return strings.ContainsRune("\t\n\v\f\r ", c) }

// refClass takes the properties from Go's tables, to which it adds what
// Unicode 15.1 has more than 15.0.
func refClass(name string) func(rune) bool {
	letter := func(c rune) bool { return unicode.IsLetter(c) || c >= 0x2EBF0 && c <= 0x2EE5D }
	han := func(c rune) bool {
		for _, b := range [][2]rune{
			{0x4E00, 0x9FFF}, {0x3400, 0x4DBF}, {0x20000, 0x2A6DF}, {0x2A700, 0x2B73F}, {0x2B740, 0x2B81F},
			{0x2B820, 0x2CEAF}, {0x2CEB0, 0x2EBEF}, {0xF900, 0xFAFF}, {0x2F800, 0x2FA1F},
		} {
			if b[0] <= c && c <= b[1] {
				return true
			}
		}
		return false
	}
	switch name {
	case "L":
		return letter
	case "L-a":
		return func(c rune) bool { return letter(c) && (c < 'a' || c > 'z') }
	case "L-A":
		return func(c rune) bool { return letter(c) && (c < 'A' || c > 'Z') }
	case "L-Han":
		return func(c rune) bool { return letter(c) && !han(c) }
	case "Han":
		return han
	case "M":
		return unicode.IsMark
	case "N":
		return unicode.IsNumber
	case "P":
		return unicode.IsPunct
	case "S":
		return func(c rune) bool {
			return c != '~' && unicode.IsSymbol(c) || c >= 0x2FFC && c <= 0x2FFF || c == 0x31EF
		}
	case "Ascii":
		return func(c rune) bool { return c > ' ' && c < 0x7F && !unicode.In(c, unicode.L, unicode.N) }
	}
	panic(name)
}

// seq matches nodes from pos on and then what k wants.
func (r *reference) seq(nodes []refNode, pos int, k func(int) bool) bool {
	if len(nodes) == 0 {
		return k(pos)
	}
	n := nodes[0]
	rest := func(p int) bool { return r.seq(nodes[1:], p, k) }
	switch {
	case n.end:
		return pos == r.hi && rest(pos)
	case n.not:
		return !(pos < r.hi && n.class(r.text[pos])) && rest(pos)
	}
	return r.repeat(n, 0, pos, rest)
}

func (r *reference) repeat(n refNode, done, pos int, rest func(int) bool) bool {
	again := func(p int) bool { return p > pos && r.repeat(n, done+1, p, rest) }
	if done < n.max {
		if n.class != nil && pos < r.hi && n.class(r.text[pos]) && again(pos+1) {
			return true
		}
		for _, alt := range n.group {
			if r.seq(alt, pos, again) {
				return true
			}
		}
	}
	return done >= n.min && rest(pos)
}

// refSplit splits as a preKind's stages say.
func refSplit(stages []string, text string) []int32 {
	if text == "" {
		return nil
	}
	runes := []rune(text)
	for i, c := range runes {
		if c > 0x7F && unicode.Is(unicode.White_Space, c) {
			runes[i] = '\v'
		}
	}
	bounds := []int{len(runes)}
	for _, stage := range stages {
		var next []int
		lo := 0
		for _, hi := range bounds {
			next = append(next, refStage(stage, runes, lo, hi)...)
			lo = hi
		}
		bounds = next
	}
	offs := []int32{}
	for i := range text {
		offs = append(offs, int32(i))
	}
	offs = append(offs, int32(len(text)))
	out := []int32{}
	for _, b := range bounds {
		out = append(out, offs[b])
	}
	return out
}

func refStage(stage string, runes []rune, lo, hi int) (bounds []int) {
	cuts := map[int]bool{hi: true}
	switch stage {
	case stageThrees, stageASCIIThrees:
		number := unicode.IsNumber
		if stage == stageASCIIThrees {
			number = func(c rune) bool { return c >= '0' && c <= '9' }
		}
		for p := lo; p <= hi; p++ {
			before, after := 0, 0 // digits on both sides
			for p-before > lo && number(runes[p-before-1]) {
				before++
			}
			for p+after < hi && number(runes[p+after]) {
				after++
			}
			if after%3 == 0 && (stage == stageThrees && before > 0 || stage == stageASCIIThrees && after > 0) {
				cuts[p] = true
			}
		}
	default:
		p := refParser{src: []rune(strings.ReplaceAll(stage, `\w`, `(?:\p{L}\p{M}*(?: \p{L}\p{M}*)*)+`))}
		alts := p.alternatives()
		r := reference{text: runes, hi: hi}
		for pos := lo; pos < hi; {
			end := -1
			for _, alt := range alts {
				if r.seq(alt, pos, func(e int) bool { end = e; return true }) {
					break
				}
			}
			if end < 0 {
				pos++
				continue
			}
			cuts[pos], cuts[end] = true, true
			pos = end
		}
	}
	for c := range cuts {
		if c > lo || c == hi {
			bounds = append(bounds, c)
		}
	}
	slices.Sort(bounds)
	return bounds
}

func TestSplitReference(t *testing.T) {
	rng := rand.New(rand.NewPCG(3, 4))
	texts := writtenTexts(t)
	for range 300 {
		text := hostile(rng, 10)
		if rng.IntN(3) == 0 { // bytes that are not UTF-8
			at := rng.IntN(len(text) + 1)
			text = text[:at] + string([]byte{byte(rng.IntN(256)), 0xE2, 0x80}) + text[at:]
		}
		texts = append(texts, text)
	}
	for _, kind := range preKinds() {
		s := newSplitter(kind.stages)
		var p pieces
		for _, text := range texts {
			got, want := s.split(text, &p), refSplit(kind.stages, text)
			if !slices.Equal(got, want) {
				t.Errorf("%s: %q: got %v, want %v", kind.id, text, got, want)
			}
		}
	}
}

// TestSplitLong would take many minutes if patterns took quadratic time.
func TestSplitLong(t *testing.T) {
	const n = 1 << 16
	for _, kind := range preKinds() {
		s := newSplitter(kind.stages)
		var p pieces
		for _, unit := range []string{
			" ", "\n", "a", "A", "É", "ÉA", "aA", "1", "!", "~", "'", " \t", " a", "a ", "\r\n ", "中", "\u0301", "\xff", "A\u0301", "  x",
		} {
			for _, tail := range []string{"", "x", "\n"} {
				text := strings.Repeat(unit, n/len(unit)) + tail
				ends := s.split(text, &p)
				if len(ends) == 0 || int(ends[len(ends)-1]) != len(text) {
					t.Fatalf("%s: %q repeated and %q: not covered", kind.id, unit, tail)
				}
			}
		}
	}
}

// TestSplitVain has runs in which giving back is in vain from every position
// on; without memos, a run of 2^20 would take hours.
func TestSplitVain(t *testing.T) {
	for name, want := range map[string]int{"deepseek-llm": 2, "jais-2": 2047 + 9 + 1} {
		kind, err := findPre(name)
		if err != nil {
			t.Fatal(err)
		}
		text := strings.Repeat(" ", 1<<20) + map[string]string{"deepseek-llm": "1", "jais-2": "x"}[name]
		var p pieces
		if got := newSplitter(kind.stages).split(text, &p); len(got) != want {
			t.Errorf("%s: %d words, want %d: %d", name, len(got), want, got[max(0, len(got)-20):])
		}
	}
}

func TestPreNames(t *testing.T) {
	seen := make(map[string]string)
	ids := make(map[string]bool)
	for _, kind := range preKinds() {
		if ids[kind.id] {
			t.Errorf("two kinds are called %q", kind.id)
		}
		ids[kind.id] = true
		for _, name := range kind.names {
			if seen[name] != "" {
				t.Errorf("%q is in %q and in %q", name, seen[name], kind.id)
			}
			seen[name] = kind.id
		}
	}
	if len(seen) < 85 {
		t.Errorf("%d names", len(seen))
	}
	_, err := findPre("no-such-pre")
	if err == nil {
		t.Fatal("an unknown name is found")
	}
	for _, part := range []string{`"no-such-pre"`, "default", "llama-bpe", "qwen2", "whitespace"} {
		if !strings.Contains(err.Error(), part) {
			t.Errorf("%v: does not name %s", err, part)
		}
	}
}

func TestPatternFaults(t *testing.T) {
	for _, text := range []string{"", "a||b", "(?:a", "(?!a", "a{", "a{x}", `\p{X}`, `\p{L`, "[z-a]", "[a", "a)", "(?:a)b", "$"} {
		func() {
			defer func() {
				if recover() == nil {
					t.Errorf("pattern %q is taken", text)
				}
			}()
			compilePattern(text, &classSet{bit: make(map[string]uint64)})
		}()
	}
}
