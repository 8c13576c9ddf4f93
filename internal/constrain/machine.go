package constrain

import (
	"cmp"
	"encoding/binary"
	"slices"
)

// compactSets is how many sets a machine holds before it drops those its
// current position does not need.
const compactSets = 4096

// config is one frame: a state, the counters of its rule, and the set of
// frames it may return to.
type config struct{ state, need, left, parents int32 }

func (a config) compare(b config) int {
	return cmp.Or(cmp.Compare(a.state, b.state), cmp.Compare(a.need, b.need),
		cmp.Compare(a.left, b.left), cmp.Compare(a.parents, b.parents))
}

// set is a sorted list of frames that differ in more than their parents. As a
// position in the text it holds the frames that can read a byte; as parents it
// holds the frames that run on when the callee is done.
type set struct {
	configs  []config
	complete bool // the text may end here
	depth    int32
	next     *[256]int32 // set+1 after each byte, dead, or 0 if not yet known
}

const dead = -1

// machine runs one grammar over one text. The sets are interned, so that equal
// positions have equal numbers and each step is worked out once. Set 0 is the
// parent of the root: one frame in the halt state.
type machine struct {
	g      *Grammar
	sets   []set
	index  map[string]int32
	unions map[string]int32

	key     []byte // scratch
	work    []config
	out     []config
	pending []pendingCall
	popped  []int32
}

type pendingCall struct {
	rule  int32
	frame config // what the callee returns to
}

func newMachine(g *Grammar) *machine {
	m := &machine{g: g}
	m.reset()
	return m
}

func (m *machine) reset() {
	m.sets = m.sets[:0]
	m.index, m.unions = map[string]int32{}, map[string]int32{}
	m.intern([]config{{parents: -1}}, false)
}

// start returns the position before the first byte.
func (m *machine) start() int32 {
	r := m.g.prog.rules[m.g.root]
	m.work = append(m.work[:0], config{r.entry, r.need, r.left, 0})
	return m.close(false)
}

// depthOf is the number of frames below c.
func (m *machine) depthOf(c config) int32 {
	if c.parents < 0 {
		return 0
	}
	return m.sets[c.parents].depth
}

// intern returns the number of the set with these configs, which must be in
// order and merged; it copies them.
func (m *machine) intern(configs []config, complete bool) int32 {
	k := m.key[:0]
	if complete {
		k = append(k, 1)
	}
	for _, c := range configs {
		k = binary.LittleEndian.AppendUint32(k, uint32(c.state))
		k = binary.LittleEndian.AppendUint32(k, uint32(c.need))
		k = binary.LittleEndian.AppendUint32(k, uint32(c.left))
		k = binary.LittleEndian.AppendUint32(k, uint32(c.parents))
	}
	m.key = k
	if id, ok := m.index[string(k)]; ok {
		return id
	}
	s := set{configs: slices.Clone(configs), complete: complete}
	for _, c := range configs {
		if c.parents >= 0 {
			s.depth = max(s.depth, m.sets[c.parents].depth+1)
		}
	}
	id := int32(len(m.sets))
	m.sets = append(m.sets, s)
	m.index[string(k)] = id
	return id
}

// merge sorts configs in place and joins those that differ in their parents
// only: the texts that follow either are those that follow the joined one.
func (m *machine) merge(configs []config) []config {
	slices.SortFunc(configs, config.compare)
	configs = slices.Compact(configs)
	out := configs[:0]
	for i := 0; i < len(configs); {
		c := configs[i]
		j := i + 1
		for j < len(configs) && configs[j].state == c.state && configs[j].need == c.need && configs[j].left == c.left {
			j++
		}
		if j > i+1 {
			ids := make([]int32, 0, j-i)
			for _, d := range configs[i:j] {
				ids = append(ids, d.parents)
			}
			c.parents = m.union(ids)
		}
		out = append(out, c)
		i = j
	}
	return out
}

// union returns the set of all frames of the given sets, which are sorted.
func (m *machine) union(ids []int32) int32 {
	var k []byte
	for _, id := range ids {
		k = binary.LittleEndian.AppendUint32(k, uint32(id))
	}
	if id, ok := m.unions[string(k)]; ok {
		return id
	}
	var all []config
	for _, id := range ids {
		all = append(all, m.sets[id].configs...)
	}
	id := m.intern(m.merge(all), false)
	m.unions[string(k)] = id
	return id
}

// close follows the calls and returns of the configs in m.work and interns
// the position they make, or returns dead. If omit is set, the first config
// itself is left out and only what it calls and returns to counts.
func (m *machine) close(omit bool) int32 {
	m.out, m.pending, m.popped = m.out[:0], m.pending[:0], m.popped[:0]
	complete := false
	for {
		for i := 0; i < len(m.work); i++ {
			c := m.work[i]
			st := &m.g.states[c.state]
			if st.edges && !(omit && i == 0) {
				m.out = append(m.out, c)
			}
			if st.accept {
				if c.parents < 0 {
					complete = true
				} else if !slices.Contains(m.popped, c.parents) {
					m.popped = append(m.popped, c.parents)
					m.work = append(m.work, m.sets[c.parents].configs...)
				}
			}
			for _, call := range st.calls {
				m.enter(c, call)
			}
		}
		omit = false
		if len(m.pending) == 0 {
			break
		}
		// All calls of one rule share one frame.
		slices.SortFunc(m.pending, func(a, b pendingCall) int {
			return cmp.Or(cmp.Compare(a.rule, b.rule), a.frame.compare(b.frame))
		})
		m.work = m.work[:0]
		var parents []config
		for i := 0; i < len(m.pending); {
			r := m.pending[i].rule
			parents = parents[:0]
			for ; i < len(m.pending) && m.pending[i].rule == r; i++ {
				parents = append(parents, m.pending[i].frame)
			}
			rule := m.g.prog.rules[r]
			m.work = append(m.work, config{rule.entry, rule.need, rule.left, m.intern(m.merge(parents), false)})
		}
		m.pending = m.pending[:0]
	}
	if len(m.out) == 0 && !complete {
		return dead
	}
	return m.intern(m.merge(m.out), complete)
}

// enter notes a call unless the counters or the depth forbid it. A call after
// which its own frame has nothing to do returns straight to that frame's
// parents.
func (m *machine) enter(c config, call call) {
	c.state = call.ret
	if !c.count(call.flags) {
		return
	}
	ret := &m.g.states[call.ret]
	depth := m.depthOf(c)
	if depth+ret.height > maxDepth || depth+1+m.g.states[m.g.prog.rules[call.rule].entry].height > maxDepth {
		return
	}
	if ret.accept && !ret.edges && len(ret.calls) == 0 {
		for _, p := range m.sets[c.parents].configs {
			m.pending = append(m.pending, pendingCall{call.rule, p})
		}
		return
	}
	m.pending = append(m.pending, pendingCall{call.rule, c})
}

// count applies flags to the counters; false means that they forbid the move.
func (c *config) count(flags uint8) bool {
	if flags&flagEnd != 0 && c.need > 0 {
		return false
	}
	if flags&flagCount != 0 {
		if c.left == 0 {
			return false
		}
		if c.left > 0 {
			c.left--
		}
		if c.need > 0 {
			c.need--
		}
	}
	return true
}

// step returns the position after byte b, or dead.
func (m *machine) step(id int32, b byte) int32 {
	s := &m.sets[id]
	if s.next == nil {
		s.next = new([256]int32)
	}
	next := s.next
	if v := next[b]; v != 0 {
		return max(v-1, dead)
	}
	m.work = m.work[:0]
	for _, c := range s.configs {
		to, flags, ok := m.g.next(c.state, b)
		if !ok || !c.count(flags) || m.depthOf(c)+m.g.states[to].height > maxDepth {
			continue
		}
		c.state = to
		m.work = append(m.work, c)
	}
	out := int32(dead)
	if len(m.work) > 0 {
		out = m.close(false)
	}
	if out == dead {
		next[b] = dead
	} else {
		next[b] = out + 1
	}
	return out
}

// compact forgets every set that position id does not need and returns its
// new number.
func (m *machine) compact(id int32) int32 {
	old := m.sets
	m.sets = nil
	m.reset()
	renamed := map[int32]int32{0: 0}
	var copySet func(id int32) int32
	copySet = func(id int32) int32 {
		if id < 0 {
			return id // above the halt state is nothing
		}
		if to, ok := renamed[id]; ok {
			return to
		}
		configs := slices.Clone(old[id].configs)
		for i := range configs {
			configs[i].parents = copySet(configs[i].parents)
		}
		// Renaming keeps configs apart, and states and counters come first in
		// their order; only they differ within a set.
		to := m.intern(configs, old[id].complete)
		renamed[id] = to
		return to
	}
	return copySet(id)
}
