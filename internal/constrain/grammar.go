package constrain

import (
	"container/heap"
	"errors"
	"fmt"
	"math"
	"slices"
)

// maxDepth bounds the stack, in frames. A value that needs more is refused
// before its first byte, so the bound never strands a text.
const maxDepth = 512

// Rules and states that every grammar has in common; the masks of the free
// string's states are therefore shared by all grammars (see Vocab).
const (
	ruleString int32 = iota // any string
	ruleIndent              // up to 40 spaces or 40 tabs, possibly none
	fixedRules
)

const maxIndent = 40

// rule is an automaton with the counters its frames start with.
type rule struct{ entry, need, left int32 }

// program is a set of rules under construction. states[0] is the halt state,
// the free string's states follow.
type program struct {
	states []dfaState
	rules  []rule
	shared int32 // states below this are equal in all programs
}

func newProgram(work *budget) (*program, error) {
	p := &program{states: []dfaState{{accept: true}}}
	d, err := freeString(work)
	if err != nil {
		return nil, err
	}
	entry, err := p.add(d)
	if err != nil {
		return nil, err
	}
	p.rules = append(p.rules, rule{entry, 0, -1})
	n := newNFA(work)
	start, done := n.state(), n.state()
	n.eps(start, done)
	for _, c := range []byte(" \t") {
		s := n.state()
		n.edge(start, c, c, flagCount, s)
		n.edge(s, c, c, flagCount, s)
		n.eps(s, done)
	}
	if d, err = n.determinise(start, done); err != nil {
		return nil, err
	}
	if entry, err = p.add(d); err != nil {
		return nil, err
	}
	p.rules = append(p.rules, rule{entry, 0, maxIndent})
	p.shared = int32(len(p.states))
	return p, nil
}

// add appends the states of d and returns where they start.
func (p *program) add(d *dfa) (int32, error) {
	base := int32(len(p.states))
	if len(p.states)+len(d.states) > maxDFAStates {
		return 0, errTooLarge
	}
	for _, s := range d.states {
		p.states = append(p.states, s.shift(base, 0))
	}
	return base, nil
}

// shift renames the targets of s and the rules it calls beyond the fixed ones.
func (s dfaState) shift(states, rules int32) dfaState {
	s.edges, s.calls = slices.Clone(s.edges), slices.Clone(s.calls)
	for i := range s.edges {
		s.edges[i].to += states
	}
	for i := range s.calls {
		s.calls[i].ret += states
		if s.calls[i].rule >= fixedRules {
			s.calls[i].rule += rules
		}
	}
	return s
}

// Grammar is a set of texts in compiled form. It is immutable and safe for
// concurrent use.
type Grammar struct {
	prog   *program
	root   int32 // rule
	states []stateInfo

	class   [256]uint8 // bytes no state tells apart
	classes int
	table   []uint32 // [state·classes + class]: target+1 | flags<<flagShift, 0 is none
	height  int32    // greatest finite height of a state
}

const flagShift = 28

// stateInfo is what a machine needs of a state besides the table.
type stateInfo struct {
	calls  []call
	height int32 // frames needed above this one to finish it; see heights
	accept bool
	edges  bool
}

// errEmpty says that nothing belongs to the grammar.
var errEmpty = errors.New("no value satisfies the schema")

const impossible = math.MaxInt32

// finish compiles the program with the given root rule.
func (p *program) finish(root int32) (*Grammar, error) {
	g := &Grammar{prog: p, root: root, states: make([]stateInfo, len(p.states))}
	h := p.heights()
	switch top := h[p.rules[root].entry]; {
	case top == impossible:
		return nil, errEmpty
	case top > maxDepth:
		return nil, fmt.Errorf("every value nests deeper than %d frames", maxDepth)
	}
	for i := range p.states {
		s := &p.states[i]
		s.edges = slices.DeleteFunc(s.edges, func(e edge) bool { return h[e.to] == impossible })
		s.calls = slices.DeleteFunc(s.calls, func(c call) bool {
			return h[c.ret] == impossible || h[p.rules[c.rule].entry] == impossible
		})
		g.states[i] = stateInfo{calls: s.calls, height: h[i], accept: s.accept, edges: len(s.edges) > 0}
		if h[i] != impossible {
			g.height = max(g.height, h[i])
		}
	}
	var cut [257]bool
	for _, s := range p.states {
		for _, e := range s.edges {
			cut[e.lo], cut[int(e.hi)+1] = true, true
		}
	}
	for c := 1; c < 256; c++ {
		g.class[c] = g.class[c-1]
		if cut[c] {
			g.class[c]++
		}
	}
	g.classes = int(g.class[255]) + 1
	g.table = make([]uint32, len(p.states)*g.classes)
	for i, s := range p.states {
		row := g.table[i*g.classes:][:g.classes]
		for _, e := range s.edges {
			for c := g.class[e.lo]; ; c++ {
				row[c] = uint32(e.to+1) | uint32(e.flags)<<flagShift
				if c == g.class[e.hi] {
					break
				}
			}
		}
	}
	return g, nil
}

// next returns the target and flags of state s on byte c; ok is false if there
// is none.
func (g *Grammar) next(s int32, c byte) (to int32, flags uint8, ok bool) {
	e := g.table[int(s)*g.classes+int(g.class[c])]
	return int32(e&(1<<flagShift-1)) - 1, uint8(e >> flagShift), e != 0
}

// heights computes for every state the least number of frames that must be
// put on top of its own to run to acceptance:
//
//	h(s) = min(0 if s accepts, h(t) over edges to t,
//	           max(h(entry of r)+1, h(ret)) over calls of r)
//
// or impossible. Counters are left out: the first of the things they force
// has the height of the others. This is Knuth's generalisation of Dijkstra's
// algorithm; every rule above is monotone and not below its arguments.
func (p *program) heights() []int32 {
	h := make([]int32, len(p.states))
	for i := range h {
		h[i] = impossible
	}
	type site struct{ from, rule, ret int32 }
	back := make([][]int32, len(p.states))   // states with an edge here
	returns := make([][]site, len(p.states)) // calls that return here
	callers := make([][]site, len(p.rules))
	entries := make([][]int32, len(p.states)) // rules that start here
	for i, r := range p.rules {
		entries[r.entry] = append(entries[r.entry], int32(i))
	}
	q := &stateHeap{}
	done := make([]bool, len(p.states))
	relax := func(s, height int32) {
		if height < h[s] {
			h[s] = height
			heap.Push(q, stateHeight{s, height})
		}
	}
	for i, s := range p.states {
		from := int32(i)
		for _, e := range s.edges {
			back[e.to] = append(back[e.to], from)
		}
		for _, c := range s.calls {
			at := site{from, c.rule, c.ret}
			returns[c.ret] = append(returns[c.ret], at)
			callers[c.rule] = append(callers[c.rule], at)
		}
		if s.accept {
			relax(from, 0)
		}
	}
	for q.Len() > 0 {
		top := heap.Pop(q).(stateHeight)
		if done[top.state] {
			continue
		}
		done[top.state] = true
		for _, s := range back[top.state] {
			relax(s, top.height)
		}
		for _, c := range returns[top.state] {
			if entry := p.rules[c.rule].entry; done[entry] {
				relax(c.from, max(h[entry]+1, top.height))
			}
		}
		for _, r := range entries[top.state] {
			for _, c := range callers[r] {
				if done[c.ret] {
					relax(c.from, max(top.height+1, h[c.ret]))
				}
			}
		}
	}
	return h
}

type stateHeight struct{ state, height int32 }

// stateHeap is a min-heap by height for container/heap.
type stateHeap []stateHeight

func (q stateHeap) Len() int           { return len(q) }
func (q stateHeap) Less(i, j int) bool { return q[i].height < q[j].height }
func (q stateHeap) Swap(i, j int)      { q[i], q[j] = q[j], q[i] }
func (q *stateHeap) Push(x any)        { *q = append(*q, x.(stateHeight)) }
func (q *stateHeap) Pop() any {
	old := *q
	x := old[len(old)-1]
	*q = old[:len(old)-1]
	return x
}

// Validate tells whether the whole text belongs to the grammar; if not, the
// error has the offset of the first byte that cannot stand there.
func (g *Grammar) Validate(text []byte) error {
	m := newMachine(g)
	cur := m.start()
	for i, c := range text {
		if len(m.sets) > compactSets {
			cur = m.compact(cur)
		}
		if cur = m.step(cur, c); cur < 0 {
			return fmt.Errorf("validate text: byte %q at offset %d cannot stand there", c, i)
		}
	}
	if !m.sets[cur].complete {
		return fmt.Errorf("validate text: ends early at offset %d", len(text))
	}
	return nil
}
