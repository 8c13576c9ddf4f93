package jinja

import (
	"slices"
	"strings"
)

// eval evaluates an expression.
func (st *state) eval(e expr, sc *scope) Value {
	st.step()
	st.enter()
	v := st.evalExpr(e, sc)
	st.leave()
	return v
}

func (st *state) evalExpr(e expr, sc *scope) Value {
	switch e := e.(type) {
	case *constExpr:
		return e.value
	case *nameExpr:
		if v, ok := sc.get(e.name); ok {
			return v
		}
		return undefinedf("'" + e.name + "' is undefined")
	case *listExpr:
		return &List{st.evalAll(e.items, sc)}
	case *tupleExpr:
		return &tuple{st.evalAll(e.items, sc)}
	case *dictExpr:
		d := NewDict()
		st.allocItems(4 * len(e.keys))
		for i := range e.keys {
			k := st.eval(e.keys[i], sc)
			d.set(k, st.eval(e.values[i], sc))
		}
		return d
	case *attrExpr:
		obj := st.eval(e.obj, sc)
		st.line = e.line
		return st.getAttr(obj, e.name)
	case *indexExpr:
		obj := st.eval(e.obj, sc)
		index := st.eval(e.index, sc)
		st.line = e.line
		return st.getItem(obj, index)
	case *sliceExpr:
		part := func(e expr) Value {
			if e == nil {
				return nil
			}
			return st.eval(e, sc)
		}
		return sliceValue{part(e.start), part(e.stop), part(e.step)}
	case *callExpr:
		return st.evalCall(e, sc, nil)
	case *filterExpr:
		return st.evalFilterOn(e, st.eval(e.input, sc), sc)
	case *testExpr:
		return st.evalTest(e, sc)
	case *unaryExpr:
		v := st.eval(e.operand, sc)
		st.line = e.line
		return st.unary(e.op, v)
	case *binaryExpr:
		left := st.eval(e.left, sc)
		right := st.eval(e.right, sc)
		st.line = e.line
		return st.binary(e.op, left, right)
	case *concatExpr:
		var b strings.Builder
		for _, p := range e.parts {
			s := st.str(st.eval(p, sc))
			st.checkString(b.Len() + len(s))
			b.WriteString(s)
		}
		st.allocString(b.Len())
		return b.String()
	case *compareExpr:
		return st.evalCompare(e, sc)
	case *logicExpr:
		left := st.eval(e.left, sc)
		if truth(left) == (e.op == "or") {
			return left
		}
		return st.eval(e.right, sc)
	case *condExpr:
		st.line = e.line
		if truth(st.eval(e.test, sc)) {
			return st.eval(e.then, sc)
		}
		if e.els_ == nil {
			return undefinedf("the inline if-expression on line " + st.repr(int64(e.line)) + " evaluated to false and no else section was defined.")
		}
		return st.eval(e.els_, sc)
	}
	panic("jinja: internal error: unknown expression")
}

func (st *state) evalAll(exprs []expr, sc *scope) []Value {
	st.allocItems(len(exprs))
	values := make([]Value, len(exprs))
	for i, e := range exprs {
		values[i] = st.eval(e, sc)
	}
	return values
}

func (st *state) evalCompare(e *compareExpr, sc *scope) Value {
	left := st.eval(e.first, sc)
	for i, op := range e.ops {
		right := st.eval(e.rest[i], sc)
		st.line = e.line
		if !st.compare(op, left, right) {
			return false
		}
		left = right
	}
	return true
}

func (st *state) evalTest(e *testExpr, sc *scope) Value {
	if e.fn == nil {
		st.line = e.line
		fail(RuntimeError, "No test named '%s' found.", e.name)
	}
	v := st.eval(e.input, sc)
	a := st.evalArgs(&e.args, sc)
	st.line = e.line
	return e.fn(st, v, a)
}

func (st *state) evalFilterOn(e *filterExpr, input Value, sc *scope) Value {
	if e.fn == nil {
		st.line = e.line
		fail(RuntimeError, "No filter named '%s' found.", e.name)
	}
	a := st.evalArgs(&e.args, sc)
	st.line = e.line
	st.workOn(input)
	return e.fn(st, input, a)
}

// workOn counts a pass over a string or container.
func (st *state) workOn(v Value) {
	if n, ok := sizeOf(v); ok {
		st.work(n)
	}
}

// callArgs are the evaluated arguments of a call.
type callArgs struct {
	positional []Value
	names      []string
	named      []Value
}

func (a *callArgs) addNamed(name string, v Value) {
	if slices.Contains(a.names, name) {
		typeError("got multiple values for keyword argument '%s'", name)
	}
	a.names = append(a.names, name)
	a.named = append(a.named, v)
}

func (st *state) evalArgs(args *arguments, sc *scope) *callArgs {
	a := &callArgs{positional: st.evalAll(args.positional, sc)}
	for i, name := range args.names {
		a.addNamed(name, st.eval(args.named[i], sc))
	}
	if args.star != nil {
		a.positional = append(a.positional, st.items(st.eval(args.star, sc))...)
	}
	if args.starStar != nil {
		d, ok := st.eval(args.starStar, sc).(*Dict)
		if !ok {
			typeError("argument after ** must be a mapping")
		}
		for _, e := range d.entries {
			name, ok := asString(e.key)
			if !ok {
				typeError("keywords must be strings")
			}
			st.work(len(a.names))
			a.addNamed(name, e.value)
		}
	}
	return a
}

// unset stands for an argument that was not given.
type unset struct{}

// bind assigns arguments to the parameters of the built-in function fn; those
// that were not given are unset{}. The first required ones must be given.
func (a *callArgs) bind(fn string, required int, params ...string) []Value {
	if len(a.positional) > len(params) {
		typeError("%s() takes at most %d arguments (%d given)", fn, len(params), len(a.positional))
	}
	out := make([]Value, len(params))
	for i := range out {
		out[i] = unset{}
	}
	copy(out, a.positional)
	for i, name := range a.names {
		j := slices.Index(params, name)
		if j < 0 {
			typeError("%s() got an unexpected keyword argument '%s'", fn, name)
		}
		if j < len(a.positional) {
			typeError("%s() got multiple values for argument '%s'", fn, name)
		}
		out[j] = a.named[i]
	}
	for i := range required {
		if out[i] == (unset{}) {
			typeError("%s() missing required argument '%s'", fn, params[i])
		}
	}
	return out
}

// or returns v, or def where v was not given.
func or(v, def Value) Value {
	if v == (unset{}) {
		return def
	}
	return v
}

// evalCall calls e; caller, if not nil, is the macro of a call block.
func (st *state) evalCall(e *callExpr, sc *scope, caller *macro) Value {
	fn := st.eval(e.fn, sc)
	a := st.evalArgs(&e.args, sc)
	if caller != nil {
		a.addNamed("caller", caller)
	}
	st.line = e.line
	return st.call(fn, a)
}

func (st *state) call(fn Value, a *callArgs) Value {
	switch fn := fn.(type) {
	case *function:
		return fn.call(st, a)
	case *macro:
		return st.callMacro(fn, a)
	case *undefined:
		fn.fail()
	case *loop:
		if fn.recurse == nil {
			typeError("The loop must have the 'recursive' marker to be called recursively.")
		}
		v := a.bind("loop", 1, "iterable")
		return fn.recurse(v[0], fn.depth0+1)
	}
	typeError("'%s' object is not callable", typeName(fn))
	return nil
}

func (st *state) callMacro(m *macro, a *callArgs) Value {
	st.enter()
	defer st.leave()
	st.alloc(256)
	n := m.node
	inner := &scope{parent: m.scope}
	used := make([]bool, len(a.names))
	named := func(name string) (Value, bool) {
		i := slices.Index(a.names, name)
		if i < 0 {
			return nil, false
		}
		used[i] = true
		return a.named[i], true
	}
	for i, prm := range n.params {
		if i < len(a.positional) {
			inner.set(prm.name, a.positional[i])
			continue
		}
		v, given := named(prm.name)
		switch {
		case given:
		case prm.def != nil:
			v = st.eval(prm.def, inner)
		default:
			v = undefinedf("parameter '" + prm.name + "' was not provided")
		}
		inner.set(prm.name, v)
	}
	if n.uses.caller && !n.explicit {
		v, ok := named("caller")
		if !ok {
			v = undefinedf("No caller defined")
		}
		inner.set("caller", v)
	}
	if n.uses.kwargs {
		rest := NewDict()
		for i, name := range a.names {
			if !used[i] {
				rest.set(name, a.named[i])
			}
		}
		inner.set("kwargs", rest)
	} else if i := slices.Index(used, false); i >= 0 {
		if a.names[i] == "caller" {
			typeError("macro '%s' was invoked with two values for the special caller argument. This is most likely a bug.", n.name)
		}
		typeError("macro '%s' takes no keyword argument '%s'", n.name, a.names[i])
	}
	if extra := a.positional[min(len(n.params), len(a.positional)):]; n.uses.varargs {
		inner.set("varargs", &tuple{extra})
	} else if len(extra) > 0 {
		typeError("macro '%s' takes not more than %d argument(s)", n.name, len(n.params))
	}
	return st.capture(n.body, inner)
}
