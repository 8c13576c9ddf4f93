package tokenizer

import (
	"math"
	"strings"
	"unicode/utf8"
)

// spaceMark is U+2581, which stands for a space in token texts.
const spaceMark = "\u2581"

// spm is the tokenizer of SentencePiece models as llama.cpp runs it: from
// characters, the pair of neighbours whose text is the token with the highest
// score is joined, the leftmost first, until no pair is a token. Characters
// that are no tokens become the tokens of their bytes.
type spm struct {
	ids    map[string]int32 // without control tokens
	rank   []uint32         // by token: ascending as scores descend
	maxLen int32            // bytes of the longest token
	bytes  [256]int32       // tokens of single bytes; -1: none
	prefix bool             // a space goes before the text, and before what follows a special token
}

func newSPM(v *vocab, prefix bool) *spm {
	s := &spm{ids: make(map[string]int32, len(v.tokens)), rank: make([]uint32, len(v.tokens)), prefix: prefix}
	for id := range v.tokens {
		t := &v.tokens[id]
		s.rank[id] = scoreRank(t.score)
		if v.hidden(int32(id)) {
			continue
		}
		s.ids[t.text] = int32(id)
		s.maxLen = max(s.maxLen, int32(len(t.text)))
	}
	for c := range 256 {
		s.bytes[c] = v.unk
		if id, ok := v.ids[byteTokenText(byte(c))]; ok {
			s.bytes[c] = id
		} else if id, ok := s.ids[string([]byte{byte(c)})]; ok {
			s.bytes[c] = id
		}
	}
	return s
}

// byteTokenText is the text of the token for a byte: <0x0A>.
func byteTokenText(b byte) string {
	const hex = "0123456789ABCDEF"
	return string([]byte{'<', '0', 'x', hex[b>>4], hex[b&15], '>'})
}

// scoreRank maps scores to integers in opposite order; both zeros are equal.
func scoreRank(score float32) uint32 {
	if score == 0 {
		score = 0 // not -0
	}
	u := math.Float32bits(score)
	if u>>31 == 1 {
		return u
	}
	return ^u &^ (1 << 31)
}

// encode appends the tokens of text, which begins the input or follows a
// special token.
func (m *spm) encode(dst []int32, text string, s *scratch) []int32 {
	if m.prefix {
		text = " " + text
	}
	text = strings.ReplaceAll(text, " ", spaceMark)
	syms := &s.symbols
	syms.reset()
	for i := 0; i < len(text); {
		_, n := utf8.DecodeRuneInString(text[i:])
		syms.add(int32(n), 0)
		i += n
	}
	for i := int32(1); i < int32(len(syms.list)); i++ {
		m.queuePair(syms, text, i-1, i)
	}
	for len(syms.queue) > 0 {
		c := syms.queue.pop()
		if !syms.live(&c) {
			continue
		}
		left := c.left()
		syms.join(left, c.right, c.id)
		m.queuePair(syms, text, syms.list[left].prev, left)
		m.queuePair(syms, text, left, syms.list[left].next)
	}
	for i := int32(0); i >= 0 && len(syms.list) > 0; i = syms.list[i].next {
		sym := &syms.list[i]
		raw := text[sym.begin : sym.begin+sym.n]
		if id, ok := m.ids[raw]; ok {
			dst = append(dst, id)
			continue
		}
		for j := range len(raw) {
			if id := m.bytes[raw[j]]; id >= 0 {
				dst = append(dst, id)
			}
		}
	}
	return dst
}

func (m *spm) queuePair(s *symbols, text string, left, right int32) {
	if left < 0 || right < 0 {
		return
	}
	l, r := &s.list[left], &s.list[right]
	n := l.n + r.n
	if n > m.maxLen {
		return
	}
	id, ok := m.ids[text[l.begin:l.begin+n]]
	if !ok {
		return
	}
	s.queue.push(candidate{key: uint64(m.rank[id])<<32 | uint64(uint32(left)), right: right, id: id, n: n})
}
