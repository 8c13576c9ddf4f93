package jinja

import "strings"

// state is one rendering. It is used by one goroutine.
type state struct {
	opt    Options
	limits Limits
	line   int // of the node being evaluated, for errors
	steps  int
	memory int
	depth  int
}

// step counts one unit of work.
func (st *state) step() {
	st.steps++
	if st.steps > st.limits.Steps {
		fail(LimitError, "the template takes more than %d steps", st.limits.Steps)
	}
}

// work counts an operation over n bytes or items.
func (st *state) work(n int) {
	st.steps += n / 32
	st.step()
}

// alloc counts n bytes of memory.
func (st *state) alloc(n int) {
	st.memory += n
	if n < 0 || st.memory > st.limits.Memory {
		fail(LimitError, "the template makes more than %d bytes of strings and lists", st.limits.Memory)
	}
}

// allocItems counts a container of n values, before it is made.
func (st *state) allocItems(n int) {
	if n > st.limits.Memory/16 {
		st.alloc(st.limits.Memory + 1)
	}
	st.alloc(64 + 16*n)
	st.work(n)
}

// checkString refuses strings of n bytes that are too long.
func (st *state) checkString(n int) {
	if n < 0 || n > st.limits.Output {
		fail(LimitError, "the template makes a text of more than %d bytes", st.limits.Output)
	}
}

// allocString counts a string of n bytes, before it is made.
func (st *state) allocString(n int) {
	st.checkString(n)
	st.alloc(n)
	st.work(n)
}

func (st *state) enter() {
	st.depth++
	if st.depth > st.limits.Depth {
		fail(LimitError, "the template nests more than %d levels deep", st.limits.Depth)
	}
}

func (st *state) leave() { st.depth-- }

// lazy is a generator whose values are computed, perhaps from another lazy one:
// each counts as a level of nesting.
func (st *state) lazy(next func() (Value, bool)) *generator {
	return &generator{next: func() (Value, bool) {
		st.enter()
		defer st.leave()
		return next()
	}}
}

// deferred iterates over v, but finds out whether it can only at the first
// value, as Python's generator functions do.
func (st *state) deferred(v Value) *generator {
	var in *generator
	return &generator{next: func() (Value, bool) {
		if in == nil {
			in = st.iterate(v)
		}
		return in.pull()
	}}
}

// scope is a set of variables and the scope around it. Lookups go outwards,
// assignments go to the innermost.
type scope struct {
	parent *scope
	names  []string
	values []Value
}

func (s *scope) set(name string, v Value) {
	for i, n := range s.names {
		if n == name {
			s.values[i] = v
			return
		}
	}
	s.names = append(s.names, name)
	s.values = append(s.values, v)
}

func (s *scope) get(name string) (Value, bool) {
	for ; s != nil; s = s.parent {
		for i, n := range s.names {
			if n == name {
				return s.values[i], true
			}
		}
	}
	return nil, false
}

// output collects rendered text.
type output struct{ strings.Builder }

func (st *state) write(out *output, s string) {
	st.allocString(len(s))
	st.checkString(out.Len() + len(s))
	out.WriteString(s)
}

// flow says how a list of statements ended.
type flow int

const (
	flowNext flow = iota
	flowBreak
	flowContinue
)

func (st *state) exec(body []node, sc *scope, out *output) flow {
	st.enter()
	defer st.leave()
	for _, n := range body {
		if f := st.execNode(n, sc, out); f != flowNext {
			return f
		}
	}
	return flowNext
}

func (st *state) execNode(n node, sc *scope, out *output) flow {
	st.step()
	switch n := n.(type) {
	case *textNode:
		st.write(out, n.text)
	case *outputNode:
		st.line = n.line
		st.write(out, st.str(st.eval(n.expr, sc)))
	case *ifNode:
		return st.execIf(n, sc, out)
	case *forNode:
		st.execFor(n, sc, out)
	case *setNode:
		st.line = n.line
		v := st.eval(n.value, sc)
		st.line = n.line
		st.assign(n.target, v, sc)
	case *setBlockNode:
		text := st.capture(n.body, &scope{parent: sc})
		st.line = n.line
		st.assign(n.target, st.applyFilterBlock(n.filter, text, sc), sc)
	case *withNode:
		inner := &scope{parent: sc}
		values := make([]Value, len(n.values))
		for i, e := range n.values {
			values[i] = st.eval(e, sc)
		}
		for i, t := range n.targets {
			st.assign(t, values[i], inner)
		}
		return st.exec(n.body, inner, out)
	case *macroNode:
		sc.set(n.name, &macro{n, sc})
	case *callBlockNode:
		st.line = n.line
		v := st.evalCall(n.call, sc, &macro{n.macro, sc})
		st.write(out, st.str(v))
	case *filterBlockNode:
		text := st.capture(n.body, &scope{parent: sc})
		st.line = n.line
		st.write(out, st.str(st.applyFilterBlock(n.filter, text, sc)))
	case *scopeNode:
		return st.exec(n.body, &scope{parent: sc}, out)
	case *breakNode:
		return flowBreak
	case *continueNode:
		return flowContinue
	default:
		panic("jinja: internal error: unknown statement")
	}
	return flowNext
}

func (st *state) execIf(n *ifNode, sc *scope, out *output) flow {
	for {
		st.line = n.line
		if truth(st.eval(n.test, sc)) {
			return st.exec(n.then, sc, out)
		}
		if len(n.els_) == 1 {
			if next, ok := n.els_[0].(*ifNode); ok {
				st.step()
				n = next
				continue
			}
		}
		return st.exec(n.els_, sc, out)
	}
}

// capture renders body into a string.
func (st *state) capture(body []node, sc *scope) string {
	var out output
	st.exec(body, sc, &out)
	return out.String()
}

func (st *state) applyFilterBlock(e expr, text string, sc *scope) Value {
	f, ok := e.(*filterExpr)
	if !ok {
		return text
	}
	st.enter()
	defer st.leave()
	return st.evalFilterOn(f, st.applyFilterBlock(f.input, text, sc), sc)
}

func (st *state) assign(t target, v Value, sc *scope) {
	switch {
	case t.many:
		items := st.unpack(v, len(t.tuple))
		for i, it := range t.tuple {
			st.assign(it, items[i], sc)
		}
	case t.attr != "":
		owner, ok := sc.get(t.name)
		ns, isNS := owner.(*namespace)
		if !ok || !isNS {
			fail(RuntimeError, "cannot assign attribute on non-namespace object")
		}
		ns.attrs.set(t.attr, v)
		st.alloc(64)
	default:
		st.alloc(32)
		sc.set(t.name, v)
	}
}

// unpack returns the n items of an iterable.
func (st *state) unpack(v Value, n int) []Value {
	if !isIterable(v) {
		if u, ok := v.(*undefined); ok {
			u.fail()
		}
		typeError("cannot unpack non-iterable %s object", typeName(v))
	}
	it := st.iterate(v)
	items := make([]Value, 0, n)
	for {
		item, ok := it.pull()
		switch {
		case !ok && len(items) < n:
			fail(ValueError, "not enough values to unpack (expected %d, got %d)", n, len(items))
		case !ok:
			return items
		case len(items) == n:
			fail(ValueError, "too many values to unpack (expected %d)", n)
		}
		items = append(items, item)
	}
}

// loop is the variable loop of a for block, and the iteration itself.
type loop struct {
	iter    *generator
	total   int // -1 until known
	ahead   []Value
	index0  int
	depth0  int
	prev    Value
	current Value
	recurse func(v Value, depth int) Value // nil: not recursive
	changed Value
}

// fill reads ahead until n items are in ahead, or all if n is negative.
func (l *loop) fill(n int) {
	for n < 0 || len(l.ahead) < n {
		v, ok := l.iter.pull()
		if !ok {
			return
		}
		l.ahead = append(l.ahead, v)
	}
}

func (l *loop) length() int {
	if l.total < 0 {
		l.fill(-1)
		l.total = l.index0 + 1 + len(l.ahead)
	}
	return l.total
}

func (l *loop) advance() bool {
	l.fill(1)
	if len(l.ahead) == 0 {
		return false
	}
	l.index0++
	l.prev, l.current = l.current, l.ahead[0]
	l.ahead = l.ahead[1:]
	return true
}

func (st *state) execFor(n *forNode, sc *scope, out *output) {
	st.line = n.line
	st.execLoop(n, st.eval(n.iter, sc), sc, out, 0)
}

func (st *state) execLoop(n *forNode, over Value, sc *scope, out *output, depth int) {
	st.line = n.line
	l := &loop{iter: st.iterate(over), total: -1, index0: -1, depth0: depth}
	if size, ok := sizeOf(over); ok && n.test == nil {
		l.total = size
	}
	if n.test != nil {
		l.iter = st.filterLoop(n, l.iter, sc)
	}
	if n.recursive {
		l.recurse = func(v Value, depth int) Value {
			st.enter()
			defer st.leave()
			var inner output
			st.execLoop(n, v, sc, &inner, depth)
			return inner.String()
		}
	}
	ran := false
	for l.advance() {
		ran = true
		st.step()
		inner := &scope{parent: sc}
		st.alloc(128)
		st.line = n.line
		st.assign(n.target, l.current, inner)
		inner.set("loop", l)
		if st.exec(n.body, inner, out) == flowBreak {
			break
		}
	}
	if !ran {
		st.exec(n.elseBody, &scope{parent: sc}, out)
	}
}

// filterLoop is the iteration of a for block with an if.
func (st *state) filterLoop(n *forNode, in *generator, sc *scope) *generator {
	return st.lazy(func() (Value, bool) {
		for {
			v, ok := in.pull()
			if !ok {
				return nil, false
			}
			st.step()
			inner := &scope{parent: sc}
			st.assign(n.target, v, inner)
			if truth(st.eval(n.test, inner)) {
				return v, true
			}
		}
	})
}

// loopAttr is the attribute name of the variable loop.
func (st *state) loopAttr(l *loop, name string) (Value, bool) {
	switch name {
	case "index":
		return int64(l.index0 + 1), true
	case "index0":
		return int64(l.index0), true
	case "revindex":
		return int64(l.length() - l.index0), true
	case "revindex0":
		return int64(l.length() - l.index0 - 1), true
	case "first":
		return l.index0 == 0, true
	case "last":
		l.fill(1)
		return len(l.ahead) == 0, true
	case "length":
		return int64(l.length()), true
	case "depth":
		return int64(l.depth0 + 1), true
	case "depth0":
		return int64(l.depth0), true
	case "previtem":
		if l.index0 == 0 {
			return undefinedf("there is no previous item"), true
		}
		return l.prev, true
	case "nextitem":
		l.fill(1)
		if len(l.ahead) == 0 {
			return undefinedf("there is no next item"), true
		}
		return l.ahead[0], true
	case "cycle":
		return &function{name: "cycle", call: func(_ *state, a *callArgs) Value {
			if len(a.positional) == 0 {
				typeError("no items for cycling given")
			}
			return a.positional[l.index0%len(a.positional)]
		}}, true
	case "changed":
		return &function{name: "changed", call: func(st *state, a *callArgs) Value {
			now := &tuple{a.positional}
			if l.changed != nil && st.equal(l.changed, now) {
				return false
			}
			l.changed = now
			return true
		}}, true
	}
	return nil, false
}
