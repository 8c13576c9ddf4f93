package tokenizer

import (
	"strconv"
	"strings"
	"sync"
	"unicode"
	"unicode/utf8"
)

// category is the first letter of a code point's general category.
type category uint8

const (
	catUnassigned category = iota
	catLetter
	catMark
	catNumber
	catPunct
	catSymbol
	catSeparator
	catControl
	numCategories
)

// categoryTable has two stages: pages of 256 code points, equal pages shared.
type categoryTable struct {
	page [(utf8.MaxRune + 1) >> 8]uint8
	cats [][256]category
}

func (t *categoryTable) of(r rune) category {
	return t.cats[t.page[uint32(r)>>8]][uint8(r)]
}

// categories unpacks categoryRuns once.
var categories = sync.OnceValue(func() *categoryTable {
	t := new(categoryTable)
	known := make(map[[256]category]uint8)
	var page [256]category
	r, n := 0, 0
	for i := 0; i < len(categoryRuns); i++ {
		c := categoryRuns[i]
		if c >= '0' && c <= '9' {
			n = 10*n + int(c-'0')
			continue
		}
		cat := category(strings.IndexByte("ULMNPSZC", c))
		for ; n > 0; n-- {
			page[r&255] = cat
			if r++; r&255 == 0 {
				at, ok := known[page]
				if !ok {
					at = uint8(len(t.cats))
					known[page] = at
					t.cats = append(t.cats, page)
				}
				t.page[r>>8-1] = at
			}
		}
	}
	if r != utf8.MaxRune+1 || len(t.cats) > 256 {
		panic("tokenizer: internal error: categoryRuns ends at " + strconv.Itoa(r))
	}
	return t
})

// isSpace is the property White_Space.
func isSpace(r rune) bool {
	switch {
	case r <= ' ':
		return r == ' ' || r >= '\t' && r <= '\r'
	case r < 0x1680:
		return r == 0x85 || r == 0xA0
	}
	return r == 0x1680 || r >= 0x2000 && r <= 0x200A || r == 0x2028 || r == 0x2029 ||
		r == 0x202F || r == 0x205F || r == 0x3000
}

// isByteSpace is isspace of C: the blanks that lstrip and rstrip remove.
func isByteSpace(c byte) bool { return c == ' ' || c >= '\t' && c <= '\r' }

// lower is the simple lowercase mapping. It is Go's, for the code points that
// were assigned in unicodeVersion; a golden test watches that it stays so.
func lower(r rune) rune {
	if r < utf8.RuneSelf {
		if r >= 'A' && r <= 'Z' {
			return r + 32
		}
		return r
	}
	if categories().of(r) != catLetter && (r < 0x2160 || r > 0x24CF) { // Roman numerals, circled letters
		return r
	}
	return unicode.ToLower(r)
}

// nfdTable unpacks nfdFirst once.
var nfdTable = sync.OnceValue(func() map[rune]rune {
	table := make(map[rune]rune, 2100)
	for entry := range strings.FieldsSeq(nfdFirst) {
		span, base, _ := strings.Cut(entry, "=")
		first, last, isRange := strings.Cut(span, "-")
		if !isRange {
			last = first
		}
		for r := hexRune(first); r <= hexRune(last); r++ {
			table[r] = hexRune(base)
		}
	}
	return table
})

func hexRune(s string) rune {
	v, err := strconv.ParseUint(s, 16, 32)
	if err != nil {
		panic("tokenizer: internal error: " + err.Error())
	}
	return rune(v)
}

// baseOf is the first code point of r's canonical decomposition, r itself if
// it has none.
func baseOf(r rune) rune {
	const firstSyllable, lastSyllable, perLead, firstLead = 0xAC00, 0xD7A3, 21 * 28, 0x1100
	switch {
	case r < 0xC0:
		return r
	case r >= firstSyllable && r <= lastSyllable:
		return firstLead + (r-firstSyllable)/perLead
	}
	if base, ok := nfdTable()[r]; ok {
		return base
	}
	return r
}
