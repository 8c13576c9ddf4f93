package constrain

import (
	"errors"
	"fmt"
	"slices"
)

// maxMasks is how many finished masks a State keeps.
const maxMasks = 32

// ErrEnded is returned by Accept after the generation has ended.
var ErrEnded = errors.New("accept token: the text has ended")

// State is a position in a text that is being generated. It belongs to one
// goroutine.
type State struct {
	v     *Vocab
	m     *machine
	cur   int32 // position, a set of m
	ended bool

	masks []positionMask // most recently used last
	stack []int32        // scratch of walk
	exits []exitSet      // scratch of Allowed
}

type positionMask struct {
	set  int32
	bits []uint64
}

// exitSet is a position that several exits share.
type exitSet struct {
	at  config
	end bool
	set int32
}

// NewState returns the position before the first token.
func (g *Grammar) NewState(v *Vocab) *State {
	s := &State{v: v, m: newMachine(g), stack: make([]int32, v.longest+1)}
	s.cur = s.m.start()
	return s
}

// Done tells whether the text is complete and nothing but the end may follow.
func (s *State) Done() bool {
	set := &s.m.sets[s.cur]
	return s.ended || set.complete && len(set.configs) == 0
}

// Complete tells whether the text may end here.
func (s *State) Complete() bool { return s.m.sets[s.cur].complete }

// Accept advances by one token. A token that Allowed does not list is an
// error and leaves the state as it was.
func (s *State) Accept(id int32) error {
	if s.ended {
		return ErrEnded
	}
	if id < 0 || int(id) >= len(s.v.pieces) {
		return fmt.Errorf("accept token %d: vocabulary has %d", id, len(s.v.pieces))
	}
	if s.v.isEnd(id) {
		if !s.Complete() {
			return fmt.Errorf("accept token %d: the text is not complete", id)
		}
		s.ended = true
		return nil
	}
	p := s.v.pieces[id]
	if len(p) == 0 {
		return fmt.Errorf("accept token %d: it has no bytes", id)
	}
	s.compact()
	cur := s.cur
	for i, c := range p {
		if cur = s.m.step(cur, c); cur == dead {
			return fmt.Errorf("accept token %d %q: byte %d cannot stand there", id, p, i)
		}
	}
	s.cur = cur
	return nil
}

func (s *State) compact() {
	if len(s.m.sets) > compactSets {
		s.cur = s.m.compact(s.cur)
		s.masks = s.masks[:0]
	}
}

// Allowed writes the bitset of the tokens that may come next to dst, which has
// at least Words words. The ids that end the generation are in it exactly if
// the text may end here; after the end it is empty.
func (s *State) Allowed(dst []uint64) {
	dst = dst[:s.v.words]
	if s.ended {
		clear(dst)
		return
	}
	s.compact()
	i := slices.IndexFunc(s.masks, func(m positionMask) bool { return m.set == s.cur })
	if i < 0 {
		if i = 0; len(s.masks) < maxMasks {
			i = len(s.masks)
			s.masks = append(s.masks, positionMask{bits: make([]uint64, s.v.words)})
		}
		s.masks[i].set = s.cur
		s.compute(s.masks[i].bits)
	}
	hit := s.masks[i]
	copy(s.masks[i:], s.masks[i+1:])
	s.masks[len(s.masks)-1] = hit
	copy(dst, hit.bits)
}

// compute fills dst for the current position: for each of its frames the
// tokens that stay in the frame, then those that leave it, from where they do.
func (s *State) compute(dst []uint64) {
	clear(dst)
	g := s.m.g
	configs := s.m.sets[s.cur].configs
	if s.m.sets[s.cur].complete {
		copy(dst, s.v.ends)
	}
	for _, c := range configs {
		if s.m.depthOf(c)+g.height > maxDepth {
			// The frame's own automaton may run into the depth limit.
			s.walk(dst, 0, s.m.intern([]config{c}, false))
			continue
		}
		f := s.v.frame(g, c.state, c.left)
		for i, w := range f.dense {
			dst[i] |= w
		}
		for _, id := range f.sparse {
			dst[id/64] |= 1 << (id % 64)
		}
		s.exits = s.exits[:0]
		for _, e := range f.exits {
			s.leave(dst, c, e)
		}
	}
}

// leave follows the tokens that leave frame c at exit e.
func (s *State) leave(dst []uint64, c config, e exit) {
	if e.end && c.need > e.used {
		return
	}
	at := config{e.state, max(0, c.need-e.used), c.left, c.parents}
	if at.left > 0 {
		at.left -= e.used
	}
	st := &s.m.g.states[e.state]
	if len(st.calls) == 0 && !st.edges {
		at.need, at.left = 0, -1 // nothing looks at them any more
	}
	i := slices.IndexFunc(s.exits, func(x exitSet) bool { return x.at == at && x.end == e.end })
	if i < 0 {
		s.m.work = append(s.m.work[:0], at)
		i = len(s.exits)
		s.exits = append(s.exits, exitSet{at, e.end, s.m.close(!e.end)})
	}
	set := s.exits[i].set
	if set == dead {
		return
	}
	if e.end {
		s.v.mark(dst, e.node)
	}
	s.walk(dst, e.node, set)
}

// walk marks the tokens below a trie node that can be read from position set.
func (s *State) walk(dst []uint64, node, set int32) {
	v := s.v
	s.stack[v.depth[node]] = set
	for i, end := node+1, v.skip[node]; i < end; {
		d := v.depth[i]
		next := s.m.step(s.stack[d-1], v.char[i])
		if next == dead {
			i = v.skip[i]
			continue
		}
		s.stack[d] = next
		v.mark(dst, i)
		i++
	}
}
