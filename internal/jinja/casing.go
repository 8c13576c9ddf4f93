package jinja

import (
	"strings"
	"unicode"
)

// Upper case that is longer than one character (Unicode SpecialCasing.txt,
// unconditional mappings): each word is a character and what it becomes.
const longUpper = "ßSS ŉʼN ǰJ̌ ΐΪ́ ΰΫ́ ևԵՒ ẖH̱ ẗT̈ ẘW̊ ẙY̊ ẚAʾ ὐΥ̓ ὒΥ̓̀ ὔΥ̓́ ὖΥ̓͂ " +
	"ᾀἈΙ ᾁἉΙ ᾂἊΙ ᾃἋΙ ᾄἌΙ ᾅἍΙ ᾆἎΙ ᾇἏΙ ᾈἈΙ ᾉἉΙ ᾊἊΙ ᾋἋΙ ᾌἌΙ ᾍἍΙ ᾎἎΙ ᾏἏΙ " +
	"ᾐἨΙ ᾑἩΙ ᾒἪΙ ᾓἫΙ ᾔἬΙ ᾕἭΙ ᾖἮΙ ᾗἯΙ ᾘἨΙ ᾙἩΙ ᾚἪΙ ᾛἫΙ ᾜἬΙ ᾝἭΙ ᾞἮΙ ᾟἯΙ " +
	"ᾠὨΙ ᾡὩΙ ᾢὪΙ ᾣὫΙ ᾤὬΙ ᾥὭΙ ᾦὮΙ ᾧὯΙ ᾨὨΙ ᾩὩΙ ᾪὪΙ ᾫὫΙ ᾬὬΙ ᾭὭΙ ᾮὮΙ ᾯὯΙ " +
	"ᾲᾺΙ ᾳΑΙ ᾴΆΙ ᾶΑ͂ ᾷΑ͂Ι ᾼΑΙ ῂῊΙ ῃΗΙ ῄΉΙ ῆΗ͂ ῇΗ͂Ι ῌΗΙ ῒΪ̀ ΐΪ́ ῖΙ͂ ῗΪ͂ ῢΫ̀ ΰΫ́ ῤΡ̓ ῦΥ͂ ῧΫ͂ " +
	"ῲῺΙ ῳΩΙ ῴΏΙ ῶΩ͂ ῷΩ͂Ι ῼΩΙ ﬀFF ﬁFI ﬂFL ﬃFFI ﬄFFL ﬅST ﬆST ﬓՄՆ ﬔՄԵ ﬕՄԻ ﬖՎՆ ﬗՄԽ "

// upper is Python's str.upper.
func upper(s string) string {
	var b strings.Builder
	for _, r := range s {
		if r >= 0xdf {
			if i := strings.Index(" "+longUpper, " "+string(r)); i >= 0 {
				word, _, _ := strings.Cut(longUpper[i+len(string(r)):], " ")
				b.WriteString(word)
				continue
			}
		}
		b.WriteRune(unicode.ToUpper(r))
	}
	return b.String()
}

// lower is Python's str.lower.
func lower(s string) string {
	if !strings.ContainsAny(s, "İΣ") {
		return strings.ToLower(s)
	}
	runes := []rune(s)
	var b strings.Builder
	for i, r := range runes {
		switch {
		case r == 'İ':
			b.WriteString("i̇")
		case r == 'Σ' && isFinalSigma(runes, i):
			b.WriteRune('ς')
		default:
			b.WriteRune(unicode.ToLower(r))
		}
	}
	return b.String()
}

// isFinalSigma is whether the sigma at i ends a word: a letter with case comes
// before it and none after it.
func isFinalSigma(s []rune, i int) bool {
	cased := func(step int) bool {
		for j := i + step; j >= 0 && j < len(s); j += step {
			if isCased(s[j]) {
				return true
			}
			if !unicode.In(s[j], unicode.Mn, unicode.Me, unicode.Cf, unicode.Lm, unicode.Sk) && !strings.ContainsRune("'.:·’", s[j]) {
				return false
			}
		}
		return false
	}
	return cased(-1) && !cased(1)
}

func isCased(r rune) bool {
	return unicode.In(r, unicode.Lu, unicode.Ll, unicode.Lt, unicode.Other_Lowercase, unicode.Other_Uppercase)
}

// titleRune is the title case of one character, which may become several.
func titleRune(r rune) string {
	u := upper(string(r))
	runes := []rune(u)
	if len(runes) == 1 {
		return string(unicode.ToTitle(r))
	}
	if t := unicode.ToTitle(r); t != r {
		return string(t)
	}
	if 0x1f80 <= r && r <= 0x1ffc && unicode.IsTitle(r) {
		return string(r)
	}
	return string(runes[0]) + lower(string(runes[1:]))
}

// capitalize is Python's str.capitalize.
func capitalize(s string) string {
	for i, r := range s {
		rest := s[i+len(string(r)):]
		return titleRune(r) + strings.TrimPrefix(lower(string(r)+rest), lower(string(r)))
	}
	return s
}

// titleCase is Python's str.title: every letter after none is a title letter.
func titleCase(s string) string {
	var b strings.Builder
	inWord := false
	for _, r := range s {
		if inWord {
			b.WriteString(lower(string(r)))
		} else {
			b.WriteString(titleRune(r))
		}
		inWord = isCased(r)
	}
	return b.String()
}

func swapCase(s string) string {
	var b strings.Builder
	for _, r := range s {
		if unicode.IsUpper(r) {
			b.WriteString(lower(string(r)))
		} else {
			b.WriteString(upper(string(r)))
		}
	}
	return b.String()
}

// hasCase is Python's islower or isupper: some letter has the case, and none
// the other.
func hasCase(s string, lower bool) bool {
	found := false
	for _, r := range s {
		up := unicode.IsUpper(r) || unicode.IsTitle(r)
		if up == lower && isCased(r) {
			return false
		}
		found = found || isCased(r)
	}
	return found
}

// isTitle is Python's istitle.
func isTitle(s string) bool {
	inWord, found := false, false
	for _, r := range s {
		switch {
		case unicode.IsUpper(r) || unicode.IsTitle(r):
			if inWord {
				return false
			}
			inWord, found = true, true
		case isCased(r):
			if !inWord {
				return false
			}
			found = true
		default:
			inWord = false
		}
	}
	return found
}
