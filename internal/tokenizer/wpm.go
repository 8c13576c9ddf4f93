package tokenizer

import (
	"unicode/utf8"
)

// wpm is WordPiece: the text is cut into words at white space and around
// punctuation and Chinese characters, and each word, with spaceMark before
// it, is covered from the left by the longest tokens. A word that cannot be
// covered is the unknown token.
type wpm struct {
	tokens       *trie
	unk          int32 // -1: none
	lower, strip bool  // lowercase; drop accents
}

func newWPM(v *vocab, lower, strip bool) *wpm {
	w := &wpm{tokens: newTrie(), unk: v.unk, lower: lower, strip: strip}
	for id := range v.tokens {
		if !v.hidden(int32(id)) {
			w.tokens.insert(v.tokens[id].text, int32(id))
		}
	}
	return w
}

func (w *wpm) encode(dst []int32, text string, s *scratch) []int32 {
	s.word = append(s.word[:0], spaceMark...)
	for i := 0; i < len(text); {
		r, n := utf8.DecodeRuneInString(text[i:])
		i += n
		if w.strip {
			r = baseOf(r)
		}
		if isSpace(r) {
			dst = w.flush(dst, s)
			continue
		}
		cat := categories().of(r)
		if r == 0 || r == utf8.RuneError || cat == catControl || w.strip && cat == catMark {
			continue
		}
		alone := cat == catPunct || r < 0x7F && cat == catSymbol || isChinese(r)
		if alone {
			dst = w.flush(dst, s)
		}
		if w.lower {
			r = lower(r)
		}
		s.word = utf8.AppendRune(s.word, r)
		if alone {
			dst = w.flush(dst, s)
		}
	}
	return w.flush(dst, s)
}

// flush appends the tokens of the word collected in s.word and empties it.
func (w *wpm) flush(dst []int32, s *scratch) []int32 {
	word := s.word
	s.word = s.word[:len(spaceMark)]
	if len(word) == len(spaceMark) {
		return dst
	}
	begin := len(dst)
	for i := 0; i < len(word); {
		id, n := w.tokens.longest(word[i:])
		if n == 0 {
			dst = dst[:begin]
			if w.unk >= 0 {
				dst = append(dst, w.unk)
			}
			break
		}
		dst = append(dst, id)
		i += n
	}
	return dst
}

// isChinese tells the characters that are words of their own. The blocks are
// those of llama.cpp, whose extension E begins at U+2B920.
func isChinese(r rune) bool {
	return r >= 0x4E00 && r <= 0x9FFF || r >= 0x3400 && r <= 0x4DBF || r >= 0xF900 && r <= 0xFAFF ||
		r >= 0x20000 && r <= 0x2A6DF || r >= 0x2A700 && r <= 0x2B81F || r >= 0x2B920 && r <= 0x2CEAF ||
		r >= 0x2F800 && r <= 0x2FA1F
}
