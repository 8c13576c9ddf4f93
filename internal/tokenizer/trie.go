package tokenizer

// trie finds tokens by their first bytes. It is read only once built.
type trie struct {
	child map[uint64]int32 // node<<8 | byte
	value []int32          // by node: a token, -1 if none ends here
}

func newTrie() *trie {
	return &trie{child: make(map[uint64]int32), value: []int32{-1}}
}

// insert adds a token. Of two tokens with one text the first counts.
func (t *trie) insert(text string, id int32) {
	node := int32(0)
	for i := range len(text) {
		key := uint64(node)<<8 | uint64(text[i])
		next, ok := t.child[key]
		if !ok {
			next = int32(len(t.value))
			t.child[key] = next
			t.value = append(t.value, -1)
		}
		node = next
	}
	if t.value[node] < 0 {
		t.value[node] = id
	}
}

// step follows one byte from a node; ok is false where no token goes on.
func (t *trie) step(node int32, c byte) (next int32, ok bool) {
	next, ok = t.child[uint64(node)<<8|uint64(c)]
	return next, ok
}

// longest gives the longest token that text begins with, and its length,
// which is 0 if there is none.
func (t *trie) longest(text []byte) (id int32, n int) {
	node, id := int32(0), int32(-1)
	for i, c := range text {
		next, ok := t.step(node, c)
		if !ok {
			break
		}
		if node = next; t.value[node] >= 0 {
			id, n = t.value[node], i+1
		}
	}
	return id, n
}
