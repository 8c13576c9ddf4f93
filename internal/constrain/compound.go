package constrain

// space adds the optional whitespace of the package's policy; the first byte
// of it carries flags.
func (n *nfa) space(from int32, flags uint8) int32 {
	to, line := n.state(), n.state()
	n.eps(from, to)
	n.edge(from, ' ', ' ', flags, to)
	n.edge(from, '\n', '\n', flags, line)
	n.call(line, ruleIndent, 0, to)
	return to
}

// colon adds ':' and the optional space after it.
func (n *nfa) colon(from int32) int32 {
	c, to := n.state(), n.state()
	n.edge(from, ':', ':', 0, c)
	n.eps(c, to)
	n.edge(c, ' ', ' ', 0, to)
	return to
}

// comma adds ',' and the whitespace after it.
func (n *nfa) comma(from int32, flags uint8) int32 {
	c := n.state()
	n.edge(from, ',', ',', flags, c)
	return n.space(c, 0)
}

// key adds a quoted string in the canonical spelling.
func (n *nfa) key(from int32, name string) int32 {
	return n.bytes(from, append(appendSpelled([]byte{'"'}, name), '"'))
}

// copy adds the automaton d between from and to.
func (n *nfa) copy(from, to int32, d *dfa) {
	base := make([]int32, len(d.states))
	for i := range base {
		base[i] = n.state()
	}
	for i, s := range d.states {
		for _, e := range s.edges {
			n.edge(base[i], e.lo, e.hi, e.flags, base[e.to])
		}
		if s.accept {
			n.eps(base[i], to)
		}
	}
	n.eps(from, base[0])
}

// literal adds one value and returns where it ends.
func (n *nfa) literal(from int32, v *value) int32 {
	switch v.kind {
	case kindNull:
		return n.bytes(from, []byte("null"))
	case kindBool:
		if v.truth {
			return n.bytes(from, []byte("true"))
		}
		return n.bytes(from, []byte("false"))
	case kindNumber:
		return n.bytes(from, []byte(v.text))
	case kindString:
		return n.key(from, v.text)
	}
	open, end := byte('['), byte(']')
	if v.kind == kindObject {
		open, end = '{', '}'
	}
	at := n.space(n.bytes(from, []byte{open}), 0)
	for i, e := range v.elems {
		if i > 0 {
			at = n.comma(at, 0)
		}
		if v.kind == kindObject {
			at = n.colon(n.key(at, v.keys[i]))
		}
		at = n.literal(at, e)
	}
	if len(v.elems) > 0 {
		at = n.space(at, 0)
	}
	return n.bytes(at, []byte{end})
}

// objectParts is what an object may consist of.
type objectParts struct {
	names    []string
	values   []int32 // rule of each name
	required []bool
	more     int32 // rule of additional properties, or -1
}

// parts gathers the properties of a conjunction in the order of the schemas.
func (c *compiler) parts(alt conjunction, at *schemaNode) (*objectParts, error) {
	p := &objectParts{more: -1}
	index := map[string]int{}
	add := func(name string) {
		if _, ok := index[name]; !ok {
			index[name] = len(p.names)
			p.names = append(p.names, name)
		}
	}
	for _, s := range alt {
		for _, q := range s.properties {
			add(q.name)
		}
	}
	needed, _ := alt.requiredNames()
	for _, name := range needed {
		add(name)
	}
	if len(p.names) > maxProperties {
		return nil, c.fail(at, "properties", "more than %d", maxProperties)
	}
	p.required = make([]bool, len(p.names))
	for _, name := range needed {
		p.required[index[name]] = true
	}
	for _, name := range p.names {
		id, err := c.ruleFor(alt.propertySchemas(name))
		if err != nil {
			return nil, err
		}
		p.values = append(p.values, id)
	}
	var more []*schemaNode
	closed := false
	for _, s := range alt {
		if s.additional != nil {
			more = append(more, s.additional)
		} else if len(s.properties) > 0 {
			closed = true
		}
	}
	if len(more) > 0 || !closed {
		var err error
		if p.more, err = c.ruleFor(more); err != nil {
			return nil, err
		}
	}
	return p, nil
}

// object adds the objects of a conjunction. State key[i] is where the key of
// property i or, if that is optional, of a later one begins; after[i] is
// where property i-1 has ended.
func (c *compiler) object(n *nfa, start, accept int32, alt conjunction, at *schemaNode) error {
	p, err := c.parts(alt, at)
	if err != nil {
		return err
	}
	count := len(p.names)
	open := n.space(n.bytes(start, []byte{'{'}), 0)
	key, after := make([]int32, count+1), make([]int32, count+1)
	for i := range key {
		key[i], after[i] = n.state(), n.state()
	}
	n.eps(open, key[0])
	for i, name := range p.names {
		n.call(n.colon(n.key(key[i], name)), p.values[i], 0, after[i+1])
		if !p.required[i] {
			n.eps(key[i], key[i+1])
		}
	}
	if p.more >= 0 {
		colon := n.state()
		if count == 0 {
			n.call(key[0], ruleString, 0, colon)
		} else if err := n.otherKeys(key[count], colon, p.names); err != nil {
			return err
		}
		n.call(n.colon(colon), p.more, 0, after[count])
	}
	last := -1 // the last required property; beyond it the object may end
	for i, required := range p.required {
		if required {
			last = i
		}
	}
	if last < 0 {
		n.edge(open, '}', '}', 0, accept)
	}
	for i := range after {
		n.eps(n.comma(after[i], 0), key[i])
		if i > last {
			n.edge(n.space(after[i], 0), '}', '}', 0, accept)
		}
	}
	return nil
}

// arrayBounds gathers the constraints on the number of items, most -1 for none.
func (c conjunction) arrayBounds() (least, most, prefix int) {
	most = -1
	for _, s := range c {
		least = max(least, s.minItems)
		if s.maxItems >= 0 && (most < 0 || s.maxItems < most) {
			most = s.maxItems
		}
		prefix = max(prefix, len(s.prefix))
	}
	return least, most, prefix
}

// arrayNeed and arrayLeft are the counters an array's frame starts with; they
// count the items after the prefix.
func arrayNeed(c conjunction) int {
	least, _, prefix := c.arrayBounds()
	return max(0, least-prefix)
}

func arrayLeft(c conjunction) int {
	_, most, prefix := c.arrayBounds()
	if most < 0 {
		return -1
	}
	return max(0, most-prefix)
}

// itemSchemas returns what must hold for item i.
func (c conjunction) itemSchemas(i int) []*schemaNode {
	var out []*schemaNode
	for _, s := range c {
		if i < len(s.prefix) {
			out = append(out, s.prefix[i])
		} else if s.items != nil {
			out = append(out, s.items)
		}
	}
	return out
}

// array adds the arrays of a conjunction. The items of the prefix have states
// of their own; the others are one loop under the frame's counters.
func (c *compiler) array(n *nfa, start, accept int32, alt conjunction) error {
	least, most, prefix := alt.arrayBounds()
	if most >= 0 && least > most {
		return nil
	}
	item := n.space(n.bytes(start, []byte{'['}), 0) // where the next item begins
	if least == 0 {
		n.edge(item, ']', ']', 0, accept)
	}
	if most == 0 {
		return nil
	}
	var after int32 // where the last item has ended
	for i := range prefix {
		if i > 0 {
			if i == most {
				return nil
			}
			item = n.comma(after, 0)
		}
		id, err := c.ruleFor(alt.itemSchemas(i))
		if err != nil {
			return err
		}
		after = n.state()
		n.call(item, id, 0, after)
		if i+1 >= least {
			n.edge(n.space(after, 0), ']', ']', 0, accept)
		}
	}
	if most == prefix {
		return nil
	}
	id, err := c.ruleFor(alt.itemSchemas(prefix))
	if err != nil {
		return err
	}
	loop := n.state()
	if prefix == 0 {
		n.call(item, id, flagCount, loop)
	} else {
		n.call(n.comma(after, flagCount), id, 0, loop)
	}
	n.call(n.comma(loop, flagCount), id, 0, loop)
	n.edge(n.space(loop, flagEnd), ']', ']', flagEnd, accept)
	return nil
}
