package tokenizer

import "math/bits"

// symbols is a text under merging: a list of spans, each linked to its
// neighbours, that shrinks as neighbours are joined.
type symbols struct {
	list  []symbol
	queue mergeQueue
}

// symbol is a span of the text. A symbol that was joined to its left
// neighbour has n 0.
type symbol struct {
	begin, n   int32 // bytes
	prev, next int32 // -1: none
	id         int32 // what the span is, as the tokenizer numbers it; -1: nothing
}

// add appends a span of n bytes.
func (s *symbols) add(n int32, id int32) {
	i := int32(len(s.list))
	sym := symbol{n: n, id: id, prev: i - 1, next: -1}
	if i > 0 {
		last := &s.list[i-1]
		sym.begin = last.begin + last.n
		last.next = i
	}
	s.list = append(s.list, sym)
}

func (s *symbols) reset() {
	s.list = s.list[:0]
	s.queue = s.queue[:0]
}

// join merges symbol right into its left neighbour.
func (s *symbols) join(left, right int32, id int32) {
	l, r := &s.list[left], &s.list[right]
	l.n += r.n
	l.next = r.next
	l.id = id
	r.n = 0
	if r.next >= 0 {
		s.list[r.next].prev = left
	}
}

// candidate is a pair of neighbours that may be joined. Candidates are taken
// in ascending order of key, which is the pair's rank and then its position.
// A candidate is stale when one of its two symbols is no longer what it was.
type candidate struct {
	key   uint64 // rank<<32 | index of the left symbol
	right int32  // index of the right symbol
	id    int32  // of the joined symbol
	n     int32  // bytes of the joined symbol
}

func (c *candidate) left() int32 { return int32(uint32(c.key)) }

// live tells whether the pair still is as it was when it was queued. Spans
// only grow, and a left symbol grows only by taking its right neighbour, so
// that lengths tell.
func (s *symbols) live(c *candidate) bool {
	l, r := &s.list[c.left()], &s.list[c.right]
	return l.n != 0 && r.n != 0 && l.n+r.n == c.n
}

// mergeQueue is a binary heap, the least key first.
type mergeQueue []candidate

func (q *mergeQueue) push(c candidate) {
	h := append(*q, c)
	*q = h
	i := len(h) - 1
	for i > 0 {
		parent := (i - 1) / 2
		if h[parent].key <= c.key {
			break
		}
		h[i] = h[parent]
		i = parent
	}
	h[i] = c
}

func (q *mergeQueue) pop() candidate {
	h := *q
	top, last := h[0], h[len(h)-1]
	h = h[:len(h)-1]
	*q = h
	if len(h) == 0 {
		return top
	}
	i := 0
	for {
		child := 2*i + 1
		if child >= len(h) {
			break
		}
		if child+1 < len(h) && h[child+1].key < h[child].key {
			child++
		}
		if h[child].key >= last.key {
			break
		}
		h[i] = h[child]
		i = child
	}
	h[i] = last
	return top
}

// pairTable maps pairs of symbols to the rank of their merge and the symbol
// it makes: open addressing, at most half full. It is read only once built.
type pairTable struct {
	slots []pairSlot
	shift uint
	seed  uint64
}

type pairSlot struct {
	pair  uint64 // left<<32 | right, plus 1; 0: free
	value uint64 // rank<<32 | merged
}

// newPairTable makes a table for n pairs. The seed keeps a file from choosing
// pairs that collide; it has no influence on what is found.
func newPairTable(n int, seed uint64) *pairTable {
	log := max(4, bits.Len(uint(2*n)))
	return &pairTable{slots: make([]pairSlot, 1<<log), shift: uint(64 - log), seed: seed}
}

func (t *pairTable) start(pair uint64) uint64 {
	h := (pair ^ t.seed) * 0x9E3779B97F4A7C15
	h ^= h >> 29
	h *= 0xBF58476D1CE4E5B9
	return h >> t.shift
}

// insert adds a pair unless it is there already.
func (t *pairTable) insert(left, right int32, rank uint32, merged int32) {
	pair := (uint64(uint32(left))<<32 | uint64(uint32(right))) + 1
	mask := uint64(len(t.slots) - 1)
	for i := t.start(pair); ; i = (i + 1) & mask {
		switch t.slots[i].pair {
		case 0:
			t.slots[i] = pairSlot{pair: pair, value: uint64(rank)<<32 | uint64(uint32(merged))}
			return
		case pair:
			return
		}
	}
}

const noMerge = ^uint64(0)

// find gives rank<<32 | merged, noMerge if the pair does not merge. Neither
// symbol may be negative.
func (t *pairTable) find(left, right int32) uint64 {
	pair := (uint64(uint32(left))<<32 | uint64(uint32(right))) + 1
	mask := uint64(len(t.slots) - 1)
	for i := t.start(pair); ; i = (i + 1) & mask {
		switch s := &t.slots[i]; s.pair {
		case pair:
			return s.value
		case 0:
			return noMerge
		}
	}
}
