package constrain

import (
	"cmp"
	"errors"
	"slices"
)

// Limits on the automata of one grammar.
const (
	maxNFAStates = 200_000
	maxDFAStates = 60_000
	maxWork      = 40_000_000 // see budget
)

var errTooLarge = errors.New("the automaton is too large")

// budget is the work left for compiling one schema: states, members of subsets
// and names looked at. It keeps a hostile schema to about a second.
type budget struct{ left int }

func newBudget() *budget { return &budget{maxWork} }

func (b *budget) spend(n int) error {
	if b.left -= n; b.left < 0 {
		return errTooLarge
	}
	return nil
}

// What an edge or call does to the counters of its frame. A frame has need,
// how many more must come, and left, how many more may come (-1: no bound).
const (
	flagCount uint8 = 1 << iota // only if left ≠ 0; then need and left go down by one
	flagEnd                     // only if need is 0
)

// edge leads to a state on any byte in [lo, hi].
type edge struct {
	lo, hi byte
	flags  uint8
	to     int32
}

// call runs a rule and then continues in state ret.
type call struct {
	rule  int32
	flags uint8
	ret   int32
}

// nfa is a nondeterministic automaton under construction. State 0 exists for
// the callers that ran into the limit, see over.
type nfa struct {
	work   *budget
	states []nfaState
	over   bool // maxNFAStates or the budget was reached; what was built is worthless
}

type nfaState struct {
	eps   []int32
	begin []int32 // free moves possible only before the first byte
	end   []int32 // free moves possible only after the last byte
	edges []edge
	calls []call
}

func newNFA(work *budget) *nfa { return &nfa{work: work, states: make([]nfaState, 1)} }

func (n *nfa) state() int32 {
	if len(n.states) >= maxNFAStates || n.work.spend(1) != nil {
		n.over = true
		return 0
	}
	n.states = append(n.states, nfaState{})
	return int32(len(n.states) - 1)
}

func (n *nfa) eps(from, to int32) { n.states[from].eps = append(n.states[from].eps, to) }

func (n *nfa) edge(from int32, lo, hi byte, flags uint8, to int32) {
	n.states[from].edges = append(n.states[from].edges, edge{lo, hi, flags, to})
}

func (n *nfa) call(from, rule int32, flags uint8, ret int32) {
	n.states[from].calls = append(n.states[from].calls, call{rule, flags, ret})
}

// bytes adds a chain of exactly these bytes and returns its last state.
func (n *nfa) bytes(from int32, text []byte) int32 {
	for _, c := range text {
		next := n.state()
		n.edge(from, c, c, 0, next)
		from = next
	}
	return from
}

// dfa is a deterministic automaton that starts in state 0. Its edges are
// sorted and disjoint; calls differ in rule or flags.
type dfa struct{ states []dfaState }

type dfaState struct {
	edges  []edge
	calls  []call
	accept bool
}

// next returns the edge for byte c.
func (s *dfaState) next(c byte) (edge, bool) {
	for _, e := range s.edges {
		if e.lo <= c && c <= e.hi {
			return e, true
		}
	}
	return edge{}, false
}

// determinise is the subset construction from start; accept is the one
// accepting state.
func (n *nfa) determinise(start, accept int32) (*dfa, error) {
	if n.over {
		return nil, errTooLarge
	}
	b := &subsets{n: n, accept: accept, mark: make([]int32, len(n.states)), index: map[string]int32{}}
	if _, err := b.add([]int32{start}, true); err != nil {
		return nil, err
	}
	for i := 0; i < len(b.members); i++ {
		if err := b.expand(int32(i)); err != nil {
			return nil, err
		}
	}
	return &b.d, nil
}

// subsets is the state of one subset construction.
type subsets struct {
	n       *nfa
	accept  int32
	d       dfa
	members [][]int32 // sorted NFA states of each DFA state
	index   map[string]int32
	mark    []int32 // per NFA state the round in which closure saw it
	round   int32
	key     []byte
}

// closure returns from and what free moves reach, sorted.
func (b *subsets) closure(from []int32, begin, end bool) []int32 {
	b.round++
	var out []int32
	push := func(list []int32) {
		for _, s := range list {
			if b.mark[s] != b.round {
				b.mark[s] = b.round
				out = append(out, s)
			}
		}
	}
	push(from)
	for i := 0; i < len(out); i++ {
		st := &b.n.states[out[i]]
		push(st.eps)
		if begin {
			push(st.begin)
		}
		if end {
			push(st.end)
		}
	}
	slices.Sort(out)
	return out
}

// add returns the DFA state of the closure of from.
func (b *subsets) add(from []int32, initial bool) (int32, error) {
	set := b.closure(from, initial, false)
	if err := b.n.work.spend(len(set)); err != nil {
		return 0, err
	}
	b.key = b.key[:0]
	if initial {
		b.key = append(b.key, 1)
	}
	for _, s := range set {
		b.key = append(b.key, byte(s), byte(s>>8), byte(s>>16), byte(s>>24))
	}
	if id, ok := b.index[string(b.key)]; ok {
		return id, nil
	}
	if len(b.members) >= maxDFAStates {
		return 0, errTooLarge
	}
	id := int32(len(b.members))
	b.index[string(b.key)] = id
	b.members = append(b.members, set)
	_, accept := slices.BinarySearch(b.closure(set, initial, true), b.accept)
	b.d.states = append(b.d.states, dfaState{accept: accept})
	return id, nil
}

// expand fills in the edges and calls of DFA state id.
func (b *subsets) expand(id int32) error {
	var edges []edge
	var calls []call
	for _, s := range b.members[id] {
		edges = append(edges, b.n.states[s].edges...)
		calls = append(calls, b.n.states[s].calls...)
	}
	if err := b.n.work.spend(len(edges) + len(calls)); err != nil {
		return err
	}
	var cut [257]bool
	for _, e := range edges {
		cut[e.lo], cut[int(e.hi)+1] = true, true
	}
	slices.SortStableFunc(edges, func(x, y edge) int { return cmp.Compare(x.lo, y.lo) })
	var out []edge
	var active, targets []int32 // active holds indices into edges
	next := 0
	for lo := 0; lo < 256; {
		hi := lo
		for hi < 255 && !cut[hi+1] {
			hi++
		}
		active = slices.DeleteFunc(active, func(i int32) bool { return int(edges[i].hi) < lo })
		for ; next < len(edges) && int(edges[next].lo) <= lo; next++ {
			active = append(active, int32(next))
		}
		if len(active) > 0 {
			flags := edges[active[0]].flags
			targets = targets[:0]
			for _, i := range active {
				if edges[i].flags != flags {
					panic("constrain: internal error: one byte, two effects on the counters")
				}
				targets = append(targets, edges[i].to)
			}
			to, err := b.add(targets, false)
			if err != nil {
				return err
			}
			if k := len(out) - 1; k >= 0 && int(out[k].hi) == lo-1 && out[k].to == to && out[k].flags == flags {
				out[k].hi = byte(hi)
			} else {
				out = append(out, edge{byte(lo), byte(hi), flags, to})
			}
		}
		lo = hi + 1
	}
	slices.SortStableFunc(calls, func(x, y call) int {
		return cmp.Or(cmp.Compare(x.rule, y.rule), cmp.Compare(x.flags, y.flags))
	})
	var outCalls []call
	for i := 0; i < len(calls); {
		c := calls[i]
		targets = targets[:0]
		for ; i < len(calls) && calls[i].rule == c.rule && calls[i].flags == c.flags; i++ {
			targets = append(targets, calls[i].ret)
		}
		to, err := b.add(targets, false)
		if err != nil {
			return err
		}
		outCalls = append(outCalls, call{c.rule, c.flags, to})
	}
	b.d.states[id].edges, b.d.states[id].calls = out, outCalls
	return nil
}

// trim drops the states of a DFA without calls from which no accepting state
// is reached, and those that are not reached; the start stays.
func (d *dfa) trim() *dfa {
	back := make([][]int32, len(d.states))
	alive := make([]bool, len(d.states))
	var queue []int32
	for i, s := range d.states {
		if s.accept {
			alive[i] = true
			queue = append(queue, int32(i))
		}
		for _, e := range s.edges {
			back[e.to] = append(back[e.to], int32(i))
		}
	}
	for len(queue) > 0 {
		s := queue[len(queue)-1]
		queue = queue[:len(queue)-1]
		for _, p := range back[s] {
			if !alive[p] {
				alive[p] = true
				queue = append(queue, p)
			}
		}
	}
	name := make([]int32, len(d.states)) // new name + 1
	name[0] = 1
	order := []int32{0}
	out := &dfa{}
	for i := 0; i < len(order); i++ {
		old := d.states[order[i]]
		s := dfaState{accept: old.accept}
		for _, e := range old.edges {
			if !alive[e.to] {
				continue
			}
			if name[e.to] == 0 {
				order = append(order, e.to)
				name[e.to] = int32(len(order))
			}
			e.to = name[e.to] - 1
			s.edges = append(s.edges, e)
		}
		out.states = append(out.states, s)
	}
	return out
}

// intersect is the product of two DFAs without calls. Both must agree on the
// flags of every byte they share.
func intersect(work *budget, a, b *dfa) (*dfa, error) {
	index := map[[2]int32]int32{{0, 0}: 0}
	pairs := [][2]int32{{0, 0}}
	out := &dfa{}
	for i := 0; i < len(pairs); i++ {
		x, y := &a.states[pairs[i][0]], &b.states[pairs[i][1]]
		s := dfaState{accept: x.accept && y.accept}
		if err := work.spend(len(x.edges) + len(y.edges)); err != nil {
			return nil, err
		}
		for j, k := 0, 0; j < len(x.edges) && k < len(y.edges); {
			e, f := x.edges[j], y.edges[k]
			if lo, hi := max(e.lo, f.lo), min(e.hi, f.hi); lo <= hi {
				p := [2]int32{e.to, f.to}
				id, ok := index[p]
				if !ok {
					if len(pairs) >= maxDFAStates {
						return nil, errTooLarge
					}
					id = int32(len(pairs))
					index[p] = id
					pairs = append(pairs, p)
				}
				s.edges = append(s.edges, edge{lo, hi, e.flags, id})
			}
			if e.hi <= f.hi {
				j++
			}
			if f.hi <= e.hi {
				k++
			}
		}
		out.states = append(out.states, s)
	}
	return out.trim(), nil
}

// lengths restricts d to texts with at least lo and at most hi (-1: any
// number of) edges marked flagCount.
func (d *dfa) lengths(work *budget, lo, hi int) (*dfa, error) {
	top := max(lo, hi)
	if top >= maxDFAStates {
		return nil, errTooLarge
	}
	type counted struct {
		state int32
		count int
	}
	index := map[counted]int32{{}: 0}
	order := []counted{{}}
	out := &dfa{}
	for i := 0; i < len(order); i++ {
		c := order[i]
		old := &d.states[c.state]
		s := dfaState{accept: old.accept && c.count >= lo}
		if err := work.spend(1 + len(old.edges)); err != nil {
			return nil, err
		}
		for _, e := range old.edges {
			next := counted{e.to, c.count}
			if e.flags&flagCount != 0 {
				if c.count == hi {
					continue
				}
				next.count = min(c.count+1, top)
			}
			id, ok := index[next]
			if !ok {
				if len(order) >= maxDFAStates {
					return nil, errTooLarge
				}
				id = int32(len(order))
				index[next] = id
				order = append(order, next)
			}
			e.to = id
			s.edges = append(s.edges, e)
		}
		out.states = append(out.states, s)
	}
	return out.trim(), nil
}

// accepts tells whether d, without calls or counters, takes the whole text.
func (d *dfa) accepts(text []byte) bool {
	s := int32(0)
	for _, c := range text {
		e, ok := d.states[s].next(c)
		if !ok {
			return false
		}
		s = e.to
	}
	return d.states[s].accept
}
