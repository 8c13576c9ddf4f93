package jinja

// maxRange is how many items range may give, as in Jinja's sandbox.
const maxRange = 100000

// addGlobals defines the functions that every template sees.
func (st *state) addGlobals(sc *scope) {
	define := func(name string, f func(st *state, a *callArgs) Value) {
		sc.set(name, &function{name: name, call: f})
	}
	define("range", globalRange)
	define("dict", func(st *state, a *callArgs) Value {
		d := NewDict()
		st.fillDict(d, "dict", a)
		return d
	})
	define("namespace", func(st *state, a *callArgs) Value {
		d := NewDict()
		st.fillDict(d, "dict", a)
		return &namespace{d}
	})
	define("joiner", func(st *state, a *callArgs) Value {
		sep, used := or(a.bind("joiner", 0, "sep")[0], ", "), false
		return &function{name: "joiner", call: func(_ *state, a *callArgs) Value {
			a.bind("joiner", 0)
			if used {
				return sep
			}
			used = true
			return ""
		}}
	})
	define("cycler", func(_ *state, a *callArgs) Value {
		if len(a.positional) == 0 {
			fail(RuntimeError, "at least one item has to be provided")
		}
		return &cycler{items: a.positional}
	})
	define("raise_exception", func(st *state, a *callArgs) Value {
		fail(RaisedError, "%s", st.str(a.bind("raise_exception", 1, "message")[0]))
		return nil
	})
	define("strftime_now", func(st *state, a *callArgs) Value {
		format, ok := asString(a.bind("strftime_now", 1, "format")[0])
		if !ok {
			typeError("strftime() argument 1 must be str")
		}
		if st.opt.Now.IsZero() {
			fail(RuntimeError, "the template asks for the date and none was given")
		}
		text := strftime(st.opt.Now, format)
		st.allocString(len(text))
		return text
	})
}

func globalRange(_ *state, a *callArgs) Value {
	v := a.bind("range", 1, "start", "stop", "step")
	r := &rangeValue{stop: intArg(v[0]), step: 1}
	if v[1] != (unset{}) {
		r.start, r.stop = r.stop, intArg(v[1])
	}
	if v[2] != (unset{}) {
		r.step = intArg(v[2])
	}
	const bound = 1 << 61
	for _, x := range []int64{r.start, r.stop, r.step} {
		if x < -bound || x > bound {
			overflow()
		}
	}
	if r.step == 0 {
		fail(ValueError, "range() arg 3 must not be zero")
	}
	if r = newRange(r.start, r.stop, r.step); r.n > maxRange {
		fail(LimitError, "Range too big. The sandbox blocks ranges larger than MAX_RANGE (%d).", maxRange)
	}
	return r
}

// newRange counts the items of a range; step is not 0.
func newRange(start, stop, step int64) *rangeValue {
	r := &rangeValue{start: start, stop: stop, step: step}
	switch {
	case step > 0 && stop > start:
		r.n = (stop - start + step - 1) / step
	case step < 0 && stop < start:
		r.n = (start - stop - step - 1) / -step
	}
	return r
}

func (c *cycler) attribute(name string) (Value, bool) {
	switch name {
	case "current":
		return c.items[c.pos], true
	case "next":
		return &function{name: "next", method: true, call: func(_ *state, a *callArgs) Value {
			a.bind("next", 0)
			v := c.items[c.pos]
			c.pos = (c.pos + 1) % len(c.items)
			return v
		}}, true
	case "reset":
		return &function{name: "reset", method: true, call: func(_ *state, a *callArgs) Value {
			a.bind("reset", 0)
			c.pos = 0
			return nil
		}}, true
	}
	return nil, false
}
