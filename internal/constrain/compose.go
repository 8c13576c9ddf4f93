package constrain

import (
	"errors"
	"fmt"
)

// Part is a piece of a Sequence: literal text or what a grammar accepts.
type Part struct {
	text    string
	grammar *Grammar
}

// Literal is exactly this text.
func Literal(text string) Part { return Part{text: text} }

// Of is any text of g.
func Of(g *Grammar) Part { return Part{grammar: g} }

// Sequence returns the grammar of the texts made of one text of each part, in
// order. A tool call, for example:
//
//	Sequence(Literal("<tool_call>\n{\"name\": \"f\", \"arguments\": "), Of(arguments), Literal("}\n</tool_call>"))
func Sequence(parts ...Part) (*Grammar, error) {
	return compose(func(n *nfa, accept int32, rule func(g *Grammar) (int32, error)) error {
		at := n.state()
		n.eps(1, at)
		for _, p := range parts {
			if p.grammar == nil {
				at = n.bytes(at, []byte(p.text))
				continue
			}
			id, err := rule(p.grammar)
			if err != nil {
				return err
			}
			next := n.state()
			n.call(at, id, 0, next)
			at = next
		}
		n.eps(at, accept)
		return nil
	})
}

// Choice returns the grammar of the texts of any of gs.
func Choice(gs ...*Grammar) (*Grammar, error) {
	if len(gs) == 0 {
		return nil, errors.New("compose grammar: a choice between nothing")
	}
	return compose(func(n *nfa, accept int32, rule func(g *Grammar) (int32, error)) error {
		for _, g := range gs {
			id, err := rule(g)
			if err != nil {
				return err
			}
			n.call(1, id, 0, accept)
		}
		return nil
	})
}

// compose makes a grammar with a new root, whose automaton build adds from
// state 1 to accept; rule imports a grammar.
func compose(build func(n *nfa, accept int32, rule func(g *Grammar) (int32, error)) error) (*Grammar, error) {
	work := newBudget()
	p, err := newProgram(work)
	if err != nil {
		return nil, err
	}
	roots := map[*Grammar]int32{}
	rule := func(g *Grammar) (int32, error) {
		if id, ok := roots[g]; ok {
			return id, nil
		}
		id, err := p.include(g)
		roots[g] = id
		return id, err
	}
	n := newNFA(work)
	start, accept := n.state(), n.state()
	err = build(n, accept, rule)
	var d *dfa
	if err == nil {
		d, err = n.determinise(start, accept)
	}
	root := int32(len(p.rules))
	p.rules = append(p.rules, ruleAt(0))
	if err == nil {
		p.rules[root].entry, err = p.add(d)
	}
	var g *Grammar
	if err == nil {
		g, err = p.finish(root)
	}
	if err != nil {
		return nil, fmt.Errorf("compose grammar: %w", err)
	}
	return g, nil
}

// ruleAt is a rule without counters.
func ruleAt(entry int32) rule { return rule{entry: entry, left: -1} }

// include copies the rules of g and returns the number of its root.
func (p *program) include(g *Grammar) (int32, error) {
	from := g.prog
	states := int32(len(p.states)) - from.shared // new name minus old name
	rules := int32(len(p.rules)) - fixedRules
	if len(p.states)+len(from.states) > maxDFAStates || len(p.rules)+len(from.rules) > maxRules {
		return 0, errTooLarge
	}
	for _, s := range from.states[from.shared:] {
		s = s.shift(states, rules)
		p.states = append(p.states, s)
	}
	for _, r := range from.rules[fixedRules:] {
		if r.entry >= from.shared {
			r.entry += states
		}
		p.rules = append(p.rules, r)
	}
	if g.root < fixedRules {
		return g.root, nil
	}
	return g.root + rules, nil
}
