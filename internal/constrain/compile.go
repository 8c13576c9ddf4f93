package constrain

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// Limits on the parts of one schema.
const (
	maxRules      = 20_000
	maxProperties = 1000 // of one object
)

// Compile turns a JSON schema into a grammar. A schema it cannot honour in
// full is refused with an *Error; a text that is not one JSON document of at
// most 1 MiB, nested at most 128 deep, with another error.
func Compile(schema []byte) (*Grammar, error) {
	root, err := parseValue(schema)
	if err != nil {
		return nil, err
	}
	work := newBudget()
	prog, err := newProgram(work)
	if err != nil {
		return nil, err
	}
	c := &compiler{
		reader: reader{root: root, schemas: map[*value]*schemaNode{}, work: work},
		prog:   prog,
		rules:  map[string]int32{},
	}
	top := c.at(root, "#")
	id, err := c.ruleFor([]*schemaNode{top})
	for i := 0; err == nil && i < len(c.queue); i++ {
		err = c.build(c.queue[i])
	}
	if err != nil {
		return nil, err
	}
	g, err := prog.finish(id)
	if err != nil {
		return nil, c.fail(top, "", "%v", err)
	}
	return g, nil
}

// JSONObject returns the grammar of every JSON object.
func JSONObject() *Grammar {
	g, err := Compile([]byte(`{"type":"object"}`))
	if err != nil {
		panic("constrain: internal error: " + err.Error())
	}
	return g
}

// compiler makes rules of schemas. Bodies are built from a queue, so that
// recursion in the schema is a rule number met again.
type compiler struct {
	reader
	prog  *program
	rules map[string]int32 // by what they accept, see ruleFor and piece
	queue []body
}

// body is a rule that still needs its automaton.
type body struct {
	rule  int32
	at    *schemaNode // named in errors
	build func(n *nfa, start, accept int32) error
}

// build makes the automaton of one rule.
func (c *compiler) build(b body) error {
	n := newNFA(c.work)
	start, accept := n.state(), n.state()
	err := b.build(n, start, accept)
	var d *dfa
	if err == nil {
		d, err = n.determinise(start, accept)
	}
	if err == nil {
		c.prog.rules[b.rule].entry, err = c.prog.add(d)
	}
	if se := (*Error)(nil); err != nil && !errors.As(err, &se) {
		err = c.fail(b.at, "", "%v", err)
	}
	return err
}

// piece returns the rule with this key, which says exactly what it accepts,
// and queues its body the first time.
func (c *compiler) piece(key string, at *schemaNode, need, left int, build func(n *nfa, start, accept int32) error) (int32, error) {
	if id, ok := c.rules[key]; ok {
		return id, nil
	}
	if len(c.prog.rules) >= maxRules {
		return 0, c.fail(at, "", "the schema needs more than %d rules", maxRules)
	}
	id := int32(len(c.prog.rules))
	c.prog.rules = append(c.prog.rules, rule{need: int32(need), left: int32(left)})
	c.rules[key] = id
	c.queue = append(c.queue, body{id, at, build})
	return id, nil
}

// ruleFor returns the rule of the values that satisfy all the given schemas;
// none at all is any value.
func (c *compiler) ruleFor(list []*schemaNode) (int32, error) {
	key := "all" + schemaIDs(list)
	if id, ok := c.rules[key]; ok {
		return id, nil
	}
	alts, err := c.expand(list)
	if err != nil {
		return 0, err
	}
	at := conjunction(list).first()
	var pieces []int32
	for _, alt := range alts {
		more, err := c.pieces(alt)
		if err != nil {
			return 0, err
		}
		for _, p := range more {
			if !slices.Contains(pieces, p) {
				pieces = append(pieces, p)
			}
		}
	}
	if len(pieces) == 1 {
		c.rules[key] = pieces[0]
		return pieces[0], nil
	}
	id, err := c.piece(fmt.Sprint("any", pieces), at, 0, -1, func(n *nfa, start, accept int32) error {
		for _, p := range pieces {
			n.call(start, p, 0, accept)
		}
		return nil
	})
	c.rules[key] = id
	return id, err
}

func schemaIDs(list []*schemaNode) string {
	var b strings.Builder
	for _, s := range list {
		b.WriteByte(' ')
		b.WriteString(strconv.Itoa(s.id))
	}
	return b.String()
}

// pieces returns a rule for each type of value that satisfies alt.
func (c *compiler) pieces(alt conjunction) ([]int32, error) {
	at := alt.first()
	var out []int32
	var err error
	add := func(id int32, e error) {
		out = append(out, id)
		if err == nil {
			err = e
		}
	}
	list, enum, err := alt.values()
	if err != nil {
		return nil, c.fail(at, "enum", "%v", err)
	}
	if enum {
		return c.enumPiece(alt, at, list)
	}
	t := alt.generated()
	if t&typeNull != 0 {
		add(c.literals(at, "null"))
	}
	if t&typeBool != 0 {
		add(c.literals(at, "true", "false"))
	}
	if t&typeNumber != 0 {
		add(c.number(alt, at, t&typeFraction == 0))
	}
	if t&typeString != 0 {
		id, ok, e := c.text(alt, at)
		if ok || e != nil {
			add(id, e)
		}
	}
	if t&typeArray != 0 {
		add(c.piece("array"+schemaIDs(alt), at, arrayNeed(alt), arrayLeft(alt), func(n *nfa, start, accept int32) error {
			return c.array(n, start, accept, alt)
		}))
	}
	if t&typeObject != 0 {
		add(c.piece("object"+schemaIDs(alt), at, 0, -1, func(n *nfa, start, accept int32) error {
			return c.object(n, start, accept, alt, at)
		}))
	}
	return out, err
}

func (c *compiler) literals(at *schemaNode, words ...string) (int32, error) {
	return c.piece("literal "+strings.Join(words, " "), at, 0, -1, func(n *nfa, start, accept int32) error {
		for _, w := range words {
			n.eps(n.bytes(start, []byte(w)), accept)
		}
		return nil
	})
}

func (c *compiler) number(alt conjunction, at *schemaNode, integer bool) (int32, error) {
	var low, high *limit
	for _, s := range alt {
		low, high = above(low, s.low), below(high, s.high)
	}
	if low != nil && !low.neg && len(low.whole) > maxIntDigits || high != nil && high.neg && len(high.whole) > maxIntDigits {
		return 0, c.fail(at, "", "every number in the range has more than %d digits", maxIntDigits)
	}
	if low == nil && high == nil && !integer {
		return c.piece("number", at, 0, -1, func(n *nfa, start, accept int32) error {
			n.anyNumber(start, accept)
			return nil
		})
	}
	key := fmt.Sprintf("number %v %+v %+v", integer, deref(low), deref(high))
	return c.piece(key, at, 0, -1, func(n *nfa, start, accept int32) error {
		n.numberRange(start, accept, low, high, integer)
		return nil
	})
}

// deref makes an end printable; no end differs from every end.
func deref(l *limit) limit {
	if l == nil {
		return limit{}
	}
	return *l
}

// text returns the rule of strings; ok is false if the lengths contradict
// each other.
func (c *compiler) text(alt conjunction, at *schemaNode) (id int32, ok bool, err error) {
	least, most, patterns := alt.textBounds()
	if most >= 0 && least > most {
		return 0, false, nil
	}
	if len(patterns) == 0 {
		if least == 0 && most < 0 {
			return ruleString, true, nil
		}
		key := fmt.Sprint("string ", least, most)
		id, ok := c.rules[key]
		if !ok {
			id = int32(len(c.prog.rules))
			c.rules[key] = id
			c.prog.rules = append(c.prog.rules, rule{c.prog.rules[ruleString].entry, int32(least), int32(most)})
		}
		return id, true, nil
	}
	id, err = c.piece(fmt.Sprintf("string %d %d %q", least, most, patterns), at, 0, -1, func(n *nfa, start, accept int32) error {
		d, err := c.textDFA(alt, at)
		if err == nil {
			n.copy(start, accept, d.quoted())
		}
		return err
	})
	return id, true, err
}

// textBounds gathers the constraints on strings: lengths in characters, most
// -1 for no bound, and patterns, each once.
func (c conjunction) textBounds() (least, most int, patterns []string) {
	most = -1
	for _, s := range c {
		least = max(least, s.minLength)
		if s.maxLength >= 0 && (most < 0 || s.maxLength < most) {
			most = s.maxLength
		}
		for _, p := range s.patterns {
			if !slices.Contains(patterns, p) {
				patterns = append(patterns, p)
			}
		}
	}
	return least, most, patterns
}

// textDFA returns the automaton of the contents of strings that have at least
// one pattern.
func (c *compiler) textDFA(alt conjunction, at *schemaNode) (*dfa, error) {
	least, most, patterns := alt.textBounds()
	var d *dfa
	for _, p := range patterns {
		e, err := patternDFA(c.work, p)
		if err == nil && d != nil {
			e, err = intersect(c.work, d, e)
		}
		if err != nil {
			return nil, c.fail(at, "pattern", "%v", err)
		}
		d = e
	}
	if least == 0 && most < 0 {
		return d, nil
	}
	d, err := d.lengths(c.work, least, most)
	if err != nil {
		return nil, c.fail(at, "maxLength", "together with pattern: %v", err)
	}
	return d, nil
}

// enumPiece returns the rule of those listed values that satisfy the rest of alt.
func (c *compiler) enumPiece(alt conjunction, at *schemaNode, list []*value) ([]int32, error) {
	var keep []*value
	var key strings.Builder
	var text *dfa // contents of strings, nil for any
	if _, _, patterns := alt.textBounds(); len(patterns) > 0 {
		var err error
		if text, err = c.textDFA(alt, at); err != nil {
			return nil, err
		}
	}
	for _, v := range list {
		ok, err := c.satisfies(alt, at, v, text)
		if err != nil {
			return nil, err
		}
		if ok {
			keep = append(keep, v)
			fmt.Fprintf(&key, " %p", v)
		}
	}
	if len(keep) == 0 {
		return nil, nil
	}
	id, err := c.piece("enum"+key.String(), at, 0, -1, func(n *nfa, start, accept int32) error {
		for _, v := range keep {
			n.eps(n.literal(start, v), accept)
		}
		return nil
	})
	return []int32{id}, err
}

// satisfies checks an enum value against the other keywords of alt; text is
// the automaton of its patterns, if there are any.
func (c *compiler) satisfies(alt conjunction, at *schemaNode, v *value, text *dfa) (bool, error) {
	t, err := typeOf(v)
	if err != nil {
		return false, c.fail(at, "enum", "%v", err)
	}
	for _, s := range alt {
		if s.types != 0 && s.types&t == 0 {
			return false, nil
		}
		if s.speaks&t&(typeArray|typeObject) != 0 {
			return false, c.fail(s, "enum", "together with keywords about %s is not supported", kindNames[v.kind])
		}
		if t&typeNumber != 0 && (s.low != nil || s.high != nil) {
			x, err := newLimit(v.text, false)
			if err != nil {
				return false, c.fail(s, "enum", "%v", err)
			}
			if l := s.low; l != nil && (x.compare(l) < 0 || x.compare(l) == 0 && l.open) {
				return false, nil
			}
			if h := s.high; h != nil && (x.compare(h) > 0 || x.compare(h) == 0 && h.open) {
				return false, nil
			}
		}
	}
	if t != typeString {
		return true, nil
	}
	least, most, _ := alt.textBounds()
	if n := len([]rune(v.text)); n < least || most >= 0 && n > most {
		return false, nil
	}
	return text == nil || text.accepts(appendSpelled(nil, v.text)), nil
}
