package tokenizer

import (
	"strconv"
	"strings"
	"unicode/utf8"
)

// Piece gives the bytes that a token adds to a text: "▁" is a space, byte
// tokens are bytes, byte-level characters are their bytes. It is nil for
// control tokens, for the unknown and for unused ones.
func (t *Tokenizer) Piece(id int32) []byte { return t.piece(id, false) }

// piece spells control tokens and the unknown token out if special is set.
func (t *Tokenizer) piece(id int32, special bool) []byte {
	if !t.has(id) {
		return nil
	}
	tok := &t.vocab.tokens[id]
	switch {
	case tok.attr&(attrControl|attrUnknown) != 0:
		if special {
			return []byte(tok.text)
		}
		return nil
	case tok.attr&attrUser != 0:
		return []byte(tok.text)
	case tok.attr&attrNormal != 0:
		if t.bpe == nil || t.bpe.kind.escape {
			return []byte(strings.ReplaceAll(tok.text, spaceMark, " "))
		}
		if t.bpe.kind.utf8 {
			return []byte(tok.text)
		}
		raw, _ := textBytes(tok.text)
		return raw
	case tok.attr&attrByte != 0:
		if b, ok := tokenByte(tok.text); ok {
			return []byte{b}
		}
	}
	return nil
}

// tokenByte inverts byteTokenText.
func tokenByte(text string) (byte, bool) {
	if len(text) != 6 || text[:3] != "<0x" || text[5] != '>' {
		return 0, false
	}
	b, err := strconv.ParseUint(text[3:5], 16, 8)
	return byte(b), err == nil
}

// Decode gives the text of ids; special spells control tokens out. Ids that
// are no tokens add nothing. Of SentencePiece (where the file has a space put
// before texts) and WordPiece, one space at the beginning is left out. The
// text may not be UTF-8 if ids were cut from a longer sequence.
func (t *Tokenizer) Decode(ids []int32, special bool) string {
	var out []byte
	first := true
	for _, id := range ids {
		p := t.piece(id, special)
		if first && len(p) > 0 {
			first = false
			if t.dropSpace && p[0] == ' ' {
				p = p[1:]
			}
		}
		out = append(out, p...)
	}
	return string(out)
}

// Stream decodes a sequence of ids that is still growing. It is for one
// goroutine.
type Stream struct {
	t       *Tokenizer
	drop    bool // a space that comes next is left out
	pending []byte
}

// NewStream begins a text: all that Add and Flush return, joined, is what
// Decode gives, with U+FFFD for each byte that is not UTF-8.
func (t *Tokenizer) NewStream() *Stream { return &Stream{t: t, drop: t.dropSpace} }

// NewContinuation is like NewStream for ids that go on with a text: a space
// at their beginning is kept.
func (t *Tokenizer) NewContinuation() *Stream { return &Stream{t: t} }

// Add takes the next id and returns the text that has become complete: whole
// characters only. Control tokens add nothing.
func (s *Stream) Add(id int32) string {
	p := s.t.piece(id, false)
	if len(p) > 0 && s.drop {
		s.drop = false
		if p[0] == ' ' {
			p = p[1:]
		}
	}
	s.pending = append(s.pending, p...)
	return s.take(false)
}

// Flush returns the rest at the end of the sequence.
func (s *Stream) Flush() string { return s.take(true) }

func (s *Stream) take(all bool) string {
	var out []byte
	i := 0
	for i < len(s.pending) && (all || utf8.FullRune(s.pending[i:])) {
		r, n := utf8.DecodeRune(s.pending[i:])
		out = utf8.AppendRune(out, r)
		i += n
	}
	s.pending = s.pending[:copy(s.pending, s.pending[i:])]
	return string(out)
}
