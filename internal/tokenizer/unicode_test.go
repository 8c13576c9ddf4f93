package tokenizer

import (
	"crypto/sha256"
	"fmt"
	"testing"
	"unicode"
	"unicode/utf8"
)

// TestCategories compares the tables with Go's, which have version 15.0, and
// allows what 15.1 added.
func TestCategories(t *testing.T) {
	if unicode.Version != "15.0.0" {
		t.Skipf("Go's tables have version %s", unicode.Version)
	}
	added := 0
	for r := rune(0); r <= utf8.MaxRune; r++ {
		want := catUnassigned
		switch {
		case unicode.Is(unicode.L, r):
			want = catLetter
		case unicode.Is(unicode.M, r):
			want = catMark
		case unicode.Is(unicode.N, r):
			want = catNumber
		case unicode.Is(unicode.P, r):
			want = catPunct
		case unicode.Is(unicode.S, r):
			want = catSymbol
		case unicode.Is(unicode.Z, r):
			want = catSeparator
		case unicode.In(r, unicode.Cc, unicode.Cf, unicode.Co, unicode.Cs):
			want = catControl
		}
		switch {
		case r >= 0x2EBF0 && r <= 0x2EE5D:
			want = catLetter
			added++
		case r >= 0x2FFC && r <= 0x2FFF || r == 0x31EF:
			want = catSymbol
			added++
		}
		if got := categories().of(r); got != want {
			t.Errorf("%U is %d, want %d", r, got, want)
		}
		if got := isSpace(r); got != unicode.Is(unicode.White_Space, r) {
			t.Errorf("isSpace(%U) is %v", r, got)
		}
		if got := lower(r); got != unicode.ToLower(r) {
			t.Errorf("lower(%U) is %U, want %U", r, got, unicode.ToLower(r))
		}
	}
	if added != 627 {
		t.Errorf("%d code points are new in 15.1, want 627", added)
	}
}

// TestUnicodeGolden watches what the tables and Go together give: it fails if
// a new release of Go changes it.
func TestUnicodeGolden(t *testing.T) {
	h := sha256.New()
	bases := 0
	for r := rune(0); r <= utf8.MaxRune; r++ {
		fmt.Fprintln(h, categories().of(r), isSpace(r), lower(r), baseOf(r))
		if baseOf(r) != r {
			bases++
		}
	}
	if bases != 13233 { // 11172 of them syllables of Hangul
		t.Errorf("%d code points have a canonical decomposition that begins otherwise", bases)
	}
	const want = "6cfd7f9cfcd2cab7a2bab756ab046da7cc48b6f10979c07f7e095137d1ba06cf"
	if got := fmt.Sprintf("%x", h.Sum(nil)); got != want {
		t.Errorf("properties hash to %s, want %s", got, want)
	}
	for r, want := range map[rune]rune{'é': 'e', 'Ǆ': 'Ǆ', 'ế': 'e', '한': 'ᄒ', 'Å': 'A', '\u212a': 'K', '\uf900': '\u8c48', 'e': 'e'} {
		if got := baseOf(r); got != want {
			t.Errorf("baseOf(%c) is %c, want %c", r, got, want)
		}
	}
}

func TestByteRune(t *testing.T) {
	seen := make(map[rune]bool)
	for b := range 256 {
		r := byteRune(byte(b))
		back, ok := runeByte(r)
		if !ok || int(back) != b || seen[r] {
			t.Errorf("byte %#x becomes %U, which becomes %#x, %v", b, r, back, ok)
		}
		seen[r] = true
	}
	for r := rune(0); r < 0x300; r++ {
		if _, ok := runeByte(r); ok != seen[r] {
			t.Errorf("runeByte(%U) is %v", r, ok)
		}
	}
	for text, want := range map[string]string{"ĠHello": " Hello", "Ċ": "\n", "ÃĹ": "×", "a b▁": "a b▁"} {
		if raw, _ := textBytes(text); string(raw) != want {
			t.Errorf("%q stands for %q, want %q", text, raw, want)
		}
	}
}
