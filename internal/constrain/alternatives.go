package constrain

import "slices"

// Limits on the combinators of one value.
const (
	maxAlternatives = 512
	maxConjuncts    = 64
	maxDistinction  = 4 // levels of nested objects that may tell oneOf branches apart
)

// conjunction is a list of loaded schemas that must all hold; their members
// are resolved already, so only their other keywords count.
type conjunction []*schemaNode

// expand resolves allOf, anyOf, oneOf and $ref: a value satisfies all of the
// given schemas if it satisfies one of the conjunctions returned.
func (r *reader) expand(list []*schemaNode) ([]conjunction, error) {
	alts := []conjunction{nil}
	for _, s := range list {
		more, err := r.expandOne(s, nil)
		if err == nil {
			alts, err = r.product(s, alts, more)
		}
		if err != nil {
			return nil, err
		}
	}
	return alts, nil
}

// expandOne expands one schema; path holds those that are being expanded.
func (r *reader) expandOne(s *schemaNode, path []*schemaNode) ([]conjunction, error) {
	if slices.Contains(path, s) {
		return nil, r.fail(s, "", "the schema refers to itself without an object or array in between")
	}
	if len(path) >= maxConjuncts {
		return nil, r.fail(s, "", "more than %d references in a row", maxConjuncts)
	}
	if err := r.load(s); err != nil {
		return nil, err
	}
	if s.never {
		return nil, nil
	}
	path = append(path, s)
	alts := []conjunction{{s}}
	if s.silent() {
		// References to one schema from many places then make one rule.
		alts[0] = nil
	}
	// Choices come last: by then all that distinguishes their branches is there.
	for _, choice := range []bool{false, true} {
		for _, m := range s.members {
			if choice != (m.keyword == "anyOf" || m.keyword == "oneOf") {
				continue
			}
			var branches [][]conjunction
			for _, b := range m.schemas {
				more, err := r.expandOne(b, path)
				if err != nil {
					return nil, err
				}
				if !choice {
					if alts, err = r.product(s, alts, more); err != nil {
						return nil, err
					}
					continue
				}
				both, err := r.product(s, alts, more)
				if err != nil {
					return nil, err
				}
				branches = append(branches, both)
			}
			if !choice {
				continue
			}
			if m.keyword == "oneOf" {
				if err := r.exclusive(s, branches); err != nil {
					return nil, err
				}
			}
			if alts = slices.Concat(branches...); len(alts) > maxAlternatives {
				return nil, r.fail(s, m.keyword, "more than %d alternatives", maxAlternatives)
			}
		}
	}
	return alts, nil
}

// silent tells whether s says nothing but its members.
func (s *schemaNode) silent() bool { return s.types == 0 && s.speaks == 0 && !s.hasEnum }

// product joins every conjunction of a with every one of b.
func (r *reader) product(s *schemaNode, a, b []conjunction) ([]conjunction, error) {
	if len(a)*len(b) > maxAlternatives {
		return nil, r.fail(s, "", "more than %d alternatives", maxAlternatives)
	}
	var out []conjunction
	for _, x := range a {
		for _, y := range b {
			if err := r.work.spend(10 + len(x) + len(y)*len(x)); err != nil {
				return nil, r.fail(s, "", "%v", err)
			}
			c := slices.Clone(x)
			for _, s := range y {
				if !slices.Contains(c, s) {
					c = append(c, s)
				}
			}
			if len(c) > maxConjuncts {
				return nil, r.fail(s, "", "more than %d schemas apply to one value", maxConjuncts)
			}
			out = append(out, c)
		}
	}
	return out, nil
}

// exclusive makes sure that no value satisfies two branches.
func (r *reader) exclusive(s *schemaNode, branches [][]conjunction) error {
	for i, a := range branches {
		for j, b := range branches[:i] {
			ok, err := r.apart(a, b, 0)
			if err != nil {
				return err
			}
			if !ok {
				return r.fail(s, "oneOf", "branches %d and %d do not differ in type or in a required const or enum property", j, i)
			}
		}
	}
	return nil
}

// apart tells whether it is plain that no value satisfies both a conjunction
// of a and one of b.
func (r *reader) apart(a, b []conjunction, level int) (bool, error) {
	for _, x := range a {
		for _, y := range b {
			ok, err := r.disjoint(x, y, level)
			if !ok || err != nil {
				return false, err
			}
		}
	}
	return true, nil
}

func (r *reader) disjoint(a, b conjunction, level int) (bool, error) {
	if err := r.work.spend(20); err != nil {
		return false, r.fail(a.first(), "oneOf", "%v", err)
	}
	listA, enumA, err := a.values()
	if err != nil {
		return false, err
	}
	listB, enumB, err := b.values()
	if err != nil {
		return false, err
	}
	if enumA && enumB {
		both, err := common(listA, listB)
		return len(both) == 0, err
	}
	typesA, err := a.declared(listA, enumA)
	if err != nil {
		return false, err
	}
	typesB, err := b.declared(listB, enumB)
	if err != nil {
		return false, err
	}
	if typesA&typesB == 0 {
		return true, nil
	}
	if typesA&typesB != typeObject || level >= maxDistinction {
		return false, nil
	}
	namesA, needA := a.requiredNames()
	namesB, needB := b.requiredNames()
	for _, name := range append(namesA, namesB...) {
		inA, inB := a.propertySchemas(name), b.propertySchemas(name)
		if err := r.work.spend(10 * (len(a) + len(b))); err != nil {
			return false, r.fail(a.first(), "oneOf", "%v", err)
		}
		if !needA[name] || !needB[name] {
			// Required on one side: apart if the other cannot have it.
			side := inB
			if !needA[name] {
				side = inA
			}
			if len(side) > 0 {
				alts, err := r.expand(side)
				if err != nil {
					return false, err
				}
				if len(alts) == 0 {
					return true, nil
				}
			}
			continue
		}
		if len(inA) == 0 || len(inB) == 0 {
			continue
		}
		altsA, err := r.expand(inA)
		if err != nil {
			return false, err
		}
		altsB, err := r.expand(inB)
		if err != nil {
			return false, err
		}
		if ok, err := r.apart(altsA, altsB, level+1); ok || err != nil {
			return ok, err
		}
	}
	return false, nil
}

// values returns the values enum and const leave; ok is false if there is no
// such keyword.
func (c conjunction) values() (list []*value, ok bool, err error) {
	for _, s := range c {
		switch {
		case !s.hasEnum:
		case !ok:
			list, ok = s.enum, true
		default:
			if list, err = common(list, s.enum); err != nil {
				return nil, false, err
			}
		}
	}
	return list, ok, nil
}

// declared returns the types the keywords type, enum and const leave.
func (c conjunction) declared(list []*value, enum bool) (types, error) {
	out := types(typeAny)
	for _, s := range c {
		if s.types != 0 {
			out &= s.types
		}
	}
	if !enum {
		return out, nil
	}
	var of types
	for _, v := range list {
		t, err := typeOf(v)
		if err != nil {
			return 0, err
		}
		of |= t
	}
	return out & of, nil
}

// generated returns the types to generate if there is no enum: the declared
// ones, or else those the keywords are about.
func (c conjunction) generated() types {
	out, declared, spoken := types(typeAny), false, types(0)
	for _, s := range c {
		if s.types != 0 {
			declared = true
			out &= s.types
		}
		spoken |= s.speaks
	}
	if !declared && spoken != 0 {
		return spoken
	}
	return out
}

// first returns the schema to name in errors.
func (c conjunction) first() *schemaNode {
	if len(c) == 0 {
		return &schemaNode{pointer: "#"}
	}
	return c[0]
}

// requiredNames returns the required properties, each once, as a list and as
// a set.
func (c conjunction) requiredNames() (out []string, seen map[string]bool) {
	seen = map[string]bool{}
	for _, s := range c {
		for _, name := range s.required {
			if !seen[name] {
				seen[name] = true
				out = append(out, name)
			}
		}
	}
	return out, seen
}

// propertySchemas returns what must hold for the property of that name.
func (c conjunction) propertySchemas(name string) []*schemaNode {
	var out []*schemaNode
	for _, s := range c {
		i, ok := s.index[name]
		switch {
		case ok:
			out = append(out, s.properties[i].schema)
		case s.additional != nil:
			out = append(out, s.additional)
		}
	}
	return out
}
