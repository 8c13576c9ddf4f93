package constrain

import (
	"bytes"
	"container/list"
	"slices"
	"sync"
)

// maxCacheBytes bounds the masks a vocabulary keeps.
const maxCacheBytes = 64 << 20

// Vocab is the vocabulary of one tokenizer: a trie over the bytes of its
// tokens, and a cache of masks that all grammars share. It is safe for
// concurrent use.
type Vocab struct {
	pieces [][]byte // nil: never allowed
	ends   []uint64 // bitset of the ids that end the generation
	words  int

	// The trie in preorder; node 0 is the root. The subtree of node i is
	// [i, skip[i]), its tokens are ids[first[i]:first[i+1]].
	char    []byte
	depth   []int32
	skip    []int32
	first   []int32
	ids     []int32
	longest int32 // bytes of the longest token

	mu    sync.Mutex
	cache map[frameKey]*list.Element // of *frameMask; guarded by mu
	lru   *list.List                 // most recently used first; guarded by mu
	bytes int                        // of all masks in cache; guarded by mu
	limit int                        // of bytes
}

// frameKey names a state within its own frame. left is cut to the longest
// token, beyond which it makes no difference; -1 is no bound.
type frameKey struct {
	g           *Grammar // nil for states that all grammars share
	state, left int32
}

// frameMask says how tokens fare in one frame. Which of them stay inside does
// not depend on the rest of the stack; those that leave it do so at the exits.
type frameMask struct {
	dense  []uint64 // tokens that stay inside, or
	sparse []int32  // the same as a list
	exits  []exit
}

// exit is a trie node at which the frame may be left or call another, having
// counted used. An exit through flagEnd includes the state reached itself.
type exit struct {
	node, state, used int32
	end               bool
}

// NewVocab builds the trie. pieces[id] holds the bytes of token id; nil or
// empty ones are never allowed. isEnd tells which ids end the generation,
// whatever their bytes. For every text to have a next token the pieces should
// contain each byte on its own. Both arguments are kept.
func NewVocab(pieces [][]byte, isEnd func(id int32) bool) *Vocab {
	v := &Vocab{pieces: slices.Clone(pieces), words: (len(pieces) + 63) / 64,

		cache: map[frameKey]*list.Element{}, lru: list.New(), limit: maxCacheBytes}
	v.ends = make([]uint64, v.words)
	var order []int32
	for id, p := range v.pieces {
		switch {
		case isEnd(int32(id)):
			v.ends[id/64] |= 1 << (id % 64)
			v.pieces[id] = nil
		case len(p) > 0:
			order = append(order, int32(id))
		}
	}
	slices.SortStableFunc(order, func(a, b int32) int { return bytes.Compare(v.pieces[a], v.pieces[b]) })
	v.char, v.depth, v.skip, v.first = []byte{0}, []int32{0}, []int32{0}, []int32{0}
	open := []int32{0} // nodes from the root to the last one
	var last []byte
	for _, id := range order {
		p := v.pieces[id]
		shared := 0
		for shared < len(p) && shared < len(last) && p[shared] == last[shared] {
			shared++
		}
		for ; len(open) > shared+1; open = open[:len(open)-1] {
			v.skip[open[len(open)-1]] = int32(len(v.char))
		}
		for _, c := range p[shared:] {
			open = append(open, int32(len(v.char)))
			v.char = append(v.char, c)
			v.depth = append(v.depth, int32(len(open)-1))
			v.skip = append(v.skip, 0)
			v.first = append(v.first, int32(len(v.ids)))
		}
		v.ids = append(v.ids, id)
		v.longest = max(v.longest, int32(len(p)))
		last = p
	}
	for _, n := range open {
		v.skip[n] = int32(len(v.char))
	}
	v.first = append(v.first, int32(len(v.ids)))
	return v
}

// Size returns the number of token ids.
func (v *Vocab) Size() int { return len(v.pieces) }

// Words returns the length of a bitset over the token ids.
func (v *Vocab) Words() int { return v.words }

// isEnd tells whether id ends the generation.
func (v *Vocab) isEnd(id int32) bool { return v.ends[id/64]>>(id%64)&1 != 0 }

// mark sets the tokens of a node.
func (v *Vocab) mark(dst []uint64, node int32) {
	for _, id := range v.ids[v.first[node]:v.first[node+1]] {
		dst[id/64] |= 1 << (id % 64)
	}
}

// frame returns the mask of a state in its own frame, from the cache if it is
// there.
func (v *Vocab) frame(g *Grammar, state, left int32) *frameMask {
	key := frameKey{g, state, min(left, v.longest)}
	if state < g.prog.shared {
		key.g = nil
	}
	v.mu.Lock()
	if e, ok := v.cache[key]; ok {
		v.lru.MoveToFront(e)
		v.mu.Unlock()
		return e.Value.(*cachedFrame).mask
	}
	v.mu.Unlock()
	mask := v.computeFrame(g, state, key.left)
	v.mu.Lock()
	defer v.mu.Unlock()
	if _, ok := v.cache[key]; !ok {
		v.cache[key] = v.lru.PushFront(&cachedFrame{key, mask})
		v.bytes += mask.size()
		for v.bytes > v.limit && v.lru.Len() > 1 {
			old := v.lru.Remove(v.lru.Back()).(*cachedFrame)
			delete(v.cache, old.key)
			v.bytes -= old.mask.size()
		}
	}
	return mask
}

type cachedFrame struct {
	key  frameKey
	mask *frameMask
}

// size is roughly the bytes m takes.
func (m *frameMask) size() int {
	return 256 + 8*len(m.dense) + 4*len(m.sparse) + 16*len(m.exits)
}

// computeFrame walks the trie with the automaton of one rule.
func (v *Vocab) computeFrame(g *Grammar, state, left int32) *frameMask {
	m := &frameMask{}
	dst := make([]uint64, v.words)
	states, used := make([]int32, v.longest+1), make([]int32, v.longest+1)
	states[0] = state
	marked := 0
	for i := int32(1); i < int32(len(v.char)); {
		d := v.depth[i]
		to, flags, ok := g.next(states[d-1], v.char[i])
		count := used[d-1]
		if flags&flagCount != 0 {
			count++
			ok = ok && (left < 0 || count <= left)
		}
		if !ok {
			i = v.skip[i]
			continue
		}
		if flags&flagEnd != 0 {
			m.exits = append(m.exits, exit{i, to, count, true})
			i = v.skip[i]
			continue
		}
		states[d], used[d] = to, count
		v.mark(dst, i)
		marked += int(v.first[i+1] - v.first[i])
		st := &g.states[to]
		if (st.accept || len(st.calls) > 0) && v.skip[i] > i+1 {
			m.exits = append(m.exits, exit{i, to, count, false})
		}
		i++
	}
	if marked > 2*v.words {
		m.dense = dst
		return m
	}
	for w, bits := range dst {
		for b := 0; bits != 0; b, bits = b+1, bits>>1 {
			if bits&1 != 0 {
				m.sparse = append(m.sparse, int32(w*64+b))
			}
		}
	}
	return m
}
