package tokenizer

import "slices"

// specials finds the tokens that are taken out of a text before it is split:
// those of the user always, control tokens and the unknown token on request.
// Longer texts go before shorter ones wherever they stand, equal texts in
// length by id; then the leftmost counts.
type specials struct {
	tokens *trie
	starts [256]bool // first bytes
	list   []special // ascending in priority's order
	rank   map[int32]int32
}

type special struct {
	id             int32
	text           string
	always         bool // not only on request
	lstrip, rstrip bool // white space to the left, to the right is dropped
}

func newSpecials(v *vocab) *specials {
	s := &specials{tokens: newTrie(), rank: make(map[int32]int32)}
	for id := range v.tokens {
		t := &v.tokens[id]
		if t.attr&(attrControl|attrUser|attrUnknown) == 0 {
			continue
		}
		s.list = append(s.list, special{
			id: int32(id), text: t.text, always: t.attr&(attrControl|attrUnknown) == 0,
			lstrip: t.attr&attrLstrip != 0, rstrip: t.attr&attrRstrip != 0,
		})
		s.tokens.insert(t.text, int32(id))
		s.starts[t.text[0]] = true
	}
	slices.SortStableFunc(s.list, func(a, b special) int { return len(b.text) - len(a.text) })
	for i := range s.list {
		s.rank[s.list[i].id] = int32(i)
	}
	return s
}

// fragment is a stretch of text, or a special token if id is not negative.
type fragment struct {
	text string
	id   int32
}

// occurrence is a special token in a text. It takes [begin, end): the token
// and the white space that it drops.
type occurrence struct {
	id         int32
	begin, end int
}

// longest gives the rank of the longest special token at text[at:] that is
// shorter than limit, -1 if there is none.
func (s *specials) longest(text string, at, limit int, parse bool) int32 {
	best, node := int32(-1), int32(0)
	for i := at; i < len(text) && i-at+1 < limit; i++ {
		next, ok := s.tokens.step(node, text[i])
		if !ok {
			break
		}
		node = next
		if id := s.tokens.value[node]; id >= 0 {
			if rank := s.rank[id]; parse || s.list[rank].always {
				best = rank
			}
		}
	}
	return best
}

// cut divides text at its special tokens. Each position of the text waits for
// the turn of the longest token that begins there, and, if that is barred by
// what was taken before, for the next shorter one: memory is in O(len(text)),
// time in O(len(text)) times the length of the longest special token.
func (s *specials) cut(text string, parse bool) []fragment {
	if text == "" {
		return nil
	}
	waiting := make(map[int32][]int32) // positions by rank
	for i := range len(text) {
		if !s.starts[text[i]] {
			continue
		}
		if rank := s.longest(text, i, len(text)-i+1, parse); rank >= 0 {
			waiting[rank] = append(waiting[rank], int32(i))
		}
	}
	if len(waiting) == 0 {
		return []fragment{{text: text, id: -1}}
	}
	var found []occurrence
	taken := make([]bool, len(text))
	for rank := int32(0); len(waiting) > 0; rank++ {
		at, ok := waiting[rank]
		if !ok {
			continue
		}
		delete(waiting, rank)
		slices.Sort(at)
		sp := &s.list[rank]
		for _, i := range at {
			begin, end := int(i), int(i)+len(sp.text)
			if taken[begin] {
				continue
			}
			// What was taken before is not shorter, so that it covers the
			// first or the last byte of what it overlaps.
			if taken[end-1] {
				if next := s.longest(text, begin, len(sp.text), parse); next >= 0 {
					waiting[next] = append(waiting[next], i)
				}
				continue
			}
			for sp.lstrip && begin > 0 && !taken[begin-1] && isByteSpace(text[begin-1]) {
				begin--
			}
			for sp.rstrip && end < len(text) && !taken[end] && isByteSpace(text[end]) {
				end++
			}
			for j := begin; j < end; j++ {
				taken[j] = true
			}
			found = append(found, occurrence{id: sp.id, begin: begin, end: end})
		}
	}
	slices.SortFunc(found, func(a, b occurrence) int { return a.begin - b.begin })

	out := make([]fragment, 0, 2*len(found)+1)
	done := 0
	for _, o := range found {
		if o.begin > done {
			out = append(out, fragment{text: text[done:o.begin], id: -1})
		}
		out = append(out, fragment{id: o.id})
		done = o.end
	}
	if done < len(text) {
		out = append(out, fragment{text: text[done:], id: -1})
	}
	return out
}
