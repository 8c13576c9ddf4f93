package tokenizer

import (
	"math"
	"math/rand/v2"
	"strings"
	"unicode/utf8"
)

// bpe is byte pair encoding: within each word of the split, the pair of
// neighbours with the least rank is joined, the leftmost first, until no pair
// has a rank. Symbols begin as bytes (written as the characters of byteRune)
// or, if utf8 is set, as characters.
type bpe struct {
	split *splitter
	kind  preKind

	symOf   map[string]int32 // numbers of the strings that merges speak of
	tokenOf []int32          // by symbol; -1: the string is no token
	byteSym [256]int32
	pairs   *pairTable

	words map[string]int32 // tokens by the bytes they stand for; control tokens are left out
	bytes [256]int32       // tokens of single bytes; -1: none
}

// byteRune is the character that stands for a byte in the token texts of
// byte-level BPE: printable characters of Latin-1 for themselves, the others
// from U+0100 on.
func byteRune(b byte) rune {
	switch {
	case b >= '!' && b <= '~', b >= 0xA1 && b <= 0xAC, b >= 0xAE:
		return rune(b)
	case b <= ' ':
		return 0x100 + rune(b)
	case b <= 0xA0:
		return 0x121 + rune(b-0x7F)
	}
	return 0x143 // 0xAD
}

// runeByte inverts byteRune.
func runeByte(r rune) (byte, bool) {
	switch {
	case r >= '!' && r <= '~', r >= 0xA1 && r <= 0xAC, r >= 0xAE && r <= 0xFF:
		return byte(r), true
	case r >= 0x100 && r <= 0x120:
		return byte(r - 0x100), true
	case r >= 0x121 && r <= 0x142:
		return byte(r - 0x121 + 0x7F), true
	case r == 0x143:
		return 0xAD, true
	}
	return 0, false
}

// textBytes gives the bytes that a token text of byte-level BPE stands for;
// exact tells that every character stands for a byte. Characters that do not
// are kept as they are.
func textBytes(text string) (raw []byte, exact bool) {
	raw, exact = make([]byte, 0, len(text)), true
	for i, r := range text {
		b, ok := runeByte(r)
		if ok {
			raw = append(raw, b)
			continue
		}
		exact = false
		_, n := utf8.DecodeRuneInString(text[i:])
		raw = append(raw, text[i:i+n]...)
	}
	return raw, exact
}

func newBPE(v *vocab, kind preKind, merges []string) *bpe {
	b := &bpe{
		split: newSplitter(kind.stages),
		kind:  kind,
		symOf: make(map[string]int32, len(merges)+256),
		pairs: newPairTable(len(merges), rand.Uint64()),
		words: make(map[string]int32, len(v.tokens)),
	}
	for c := range 256 {
		b.bytes[c] = -1
		if kind.utf8 {
			if id, ok := v.ids[byteTokenText(byte(c))]; ok {
				b.bytes[c] = id
			}
			continue
		}
		text := string(byteRune(byte(c)))
		b.byteSym[c] = b.symbol(v, text)
		if id, ok := v.ids[text]; ok && !v.hidden(id) {
			b.bytes[c] = id
		}
	}
	for rank, m := range merges {
		left, right, ok := cutMerge(m)
		if !ok {
			continue
		}
		l, r := b.symbol(v, left), b.symbol(v, right)
		b.pairs.insert(l, r, uint32(rank), b.symbol(v, left+right))
	}
	for id := range v.tokens {
		t := &v.tokens[id]
		if v.hidden(int32(id)) {
			continue
		}
		if kind.utf8 {
			b.words[t.text] = int32(id)
		} else if raw, exact := textBytes(t.text); exact {
			b.words[string(raw)] = int32(id)
		}
	}
	return b
}

// cutMerge splits an entry of tokenizer.ggml.merges at its first space that
// is not its first character.
func cutMerge(m string) (left, right string, ok bool) {
	if m == "" {
		return "", "", false
	}
	i := strings.IndexByte(m[1:], ' ')
	if i < 0 {
		return "", "", false
	}
	return m[:i+1], m[i+2:], true
}

// symbol numbers a string.
func (b *bpe) symbol(v *vocab, text string) int32 {
	if s, ok := b.symOf[text]; ok {
		return s
	}
	s := int32(len(b.tokenOf))
	b.symOf[text] = s
	token := int32(-1)
	if id, ok := v.ids[text]; ok && !v.hidden(id) {
		token = id
	}
	b.tokenOf = append(b.tokenOf, token)
	return s
}

func (b *bpe) encode(dst []int32, text string, s *scratch) []int32 {
	if b.kind.escape {
		text = strings.ReplaceAll(text, " ", spaceMark)
	}
	begin := int32(0)
	for _, end := range b.split.split(text, &s.pieces) {
		dst = b.word(dst, text[begin:end], s)
		begin = end
	}
	return dst
}

// maxScanned is the length, in symbols, up to which a word's least pair is
// found by looking at all pairs, without a heap.
const maxScanned = 48

func (b *bpe) word(dst []int32, word string, s *scratch) []int32 {
	if b.kind.ignoreMerges || b.kind.newlines && word[0] == '\n' {
		if id, ok := b.words[word]; ok {
			return append(dst, id)
		}
	}
	if b.kind.utf8 {
		return b.characters(dst, word, s)
	}
	if len(word) == 1 {
		return b.appendSymbol(dst, b.byteSym[word[0]], word)
	}
	if len(word) <= maxScanned {
		return b.scan(dst, word)
	}
	s.symbols.reset()
	for i := range len(word) {
		s.symbols.add(1, b.byteSym[word[i]])
	}
	return b.merge(dst, word, &s.symbols)
}

// scan merges a short word.
func (b *bpe) scan(dst []int32, word string) []int32 {
	var syms [maxScanned]int32
	var pair [maxScanned]uint64 // pair[i] is what syms[i] and syms[i+1] make
	var size [maxScanned]int32  // bytes of syms[i]
	n := len(word)
	for i := range n {
		syms[i], size[i] = b.byteSym[word[i]], 1
	}
	for i := range n - 1 {
		pair[i] = b.pairs.find(syms[i], syms[i+1])
	}
	for n > 1 {
		at, least := 0, noMerge
		for i, p := range pair[:n-1] {
			// The upper half is the rank; equal ranks are the same pair of
			// strings, so that the lower half is equal as well.
			if p < least {
				at, least = i, p
			}
		}
		if least == noMerge {
			break
		}
		syms[at] = int32(uint32(least))
		size[at] += size[at+1]
		copy(syms[at+1:n-1], syms[at+2:n])
		copy(size[at+1:n-1], size[at+2:n])
		copy(pair[at:n-2], pair[at+1:n-1])
		n--
		if at > 0 {
			pair[at-1] = b.pairs.find(syms[at-1], syms[at])
		}
		if at+1 < n {
			pair[at] = b.pairs.find(syms[at], syms[at+1])
		}
	}
	begin := int32(0)
	for i := range n {
		dst = b.appendSymbol(dst, syms[i], word[begin:begin+size[i]])
		begin += size[i]
	}
	return dst
}

// characters merges a word whose symbols begin as characters. Bytes that are
// not UTF-8 are symbols of their own.
func (b *bpe) characters(dst []int32, word string, s *scratch) []int32 {
	s.symbols.reset()
	for i := 0; i < len(word); {
		_, n := utf8.DecodeRuneInString(word[i:])
		id, ok := b.symOf[word[i:i+n]]
		if !ok {
			id = -1
		}
		s.symbols.add(int32(n), id)
		i += n
	}
	return b.merge(dst, word, &s.symbols)
}

// merge joins the symbols of a word and appends what remains.
func (b *bpe) merge(dst []int32, word string, s *symbols) []int32 {
	for i := int32(1); i < int32(len(s.list)); i++ {
		b.queuePair(s, i-1, i)
	}
	for len(s.queue) > 0 {
		c := s.queue.pop()
		if !s.live(&c) {
			continue
		}
		left := c.left()
		s.join(left, c.right, c.id)
		b.queuePair(s, s.list[left].prev, left)
		b.queuePair(s, left, s.list[left].next)
	}
	for i := int32(0); i >= 0 && len(s.list) > 0; i = s.list[i].next {
		sym := &s.list[i]
		dst = b.appendSymbol(dst, sym.id, word[sym.begin:sym.begin+sym.n])
	}
	return dst
}

func (b *bpe) queuePair(s *symbols, left, right int32) {
	if left < 0 || right < 0 {
		return
	}
	l, r := &s.list[left], &s.list[right]
	if l.id < 0 || r.id < 0 {
		return
	}
	found := b.pairs.find(l.id, r.id)
	if found == noMerge {
		return
	}
	s.queue.push(candidate{
		key:   found&^math.MaxUint32 | uint64(uint32(left)),
		right: right,
		id:    int32(uint32(found)),
		n:     l.n + r.n,
	})
}

// appendSymbol appends the token of a symbol that stands for raw, or, if it
// is none, the tokens of its bytes. A byte without a token is left out.
func (b *bpe) appendSymbol(dst []int32, sym int32, raw string) []int32 {
	if sym >= 0 && b.tokenOf[sym] >= 0 {
		return append(dst, b.tokenOf[sym])
	}
	if sym < 0 {
		if id, ok := b.words[raw]; ok {
			return append(dst, id)
		}
	}
	for i := range len(raw) {
		if id := b.bytes[raw[i]]; id >= 0 {
			dst = append(dst, id)
		}
	}
	return dst
}
