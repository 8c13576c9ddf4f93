package constrain

import (
	"testing"
)

// Any schema compiles or is refused; what a compiled one lets a text be is
// JSON, and the way there never ends in a position without tokens.
func FuzzCompile(f *testing.F) {
	for _, s := range []string{weatherTool, treeSchema, stepsSchema, unionSchema, personSchema, `{"type":"object"}`, `true`,
		`{"pattern":"^a|b$","maxLength":3}`, `{"type":"number","minimum":-1.5,"exclusiveMaximum":20}`, `{"enum":[{"a":[1,null]},"x"]}`,
		`{"oneOf":[{"type":"string","format":"uuid"},{"type":"array","prefixItems":[true],"minItems":1,"items":false}]}`} {
		f.Add([]byte(s), []byte{1, 2, 3, 250, 17, 9})
	}
	v := byteVocab(fragments...)
	f.Fuzz(func(t *testing.T, schema, choices []byte) {
		g, err := Compile(schema)
		if err != nil {
			return
		}
		s := g.NewState(v)
		mask := make([]uint64, v.Words())
		var text []byte
		for _, c := range choices[:min(len(choices), 200)] {
			s.Allowed(mask)
			ids := bitsOf(mask)
			if len(ids) == 0 {
				t.Fatalf("nothing may follow %q", text)
			}
			id := ids[int(c)*len(ids)/256]
			if err := s.Accept(id); err != nil {
				t.Fatal(err)
			}
			if v.isEnd(id) {
				if _, err := decode(text); err != nil {
					t.Fatalf("%q: %v", text, err)
				}
				return
			}
			text = append(text, v.pieces[id]...)
		}
	})
}

// Accept takes exactly the tokens Allowed lists, whatever comes.
func FuzzAccept(f *testing.F) {
	schemas := []string{weatherTool, treeSchema, stepsSchema, unionSchema, personSchema, `{"type":"object"}`, `true`}
	f.Add(byte(0), []byte(`{"location":"x","unit":"celsius","days":3}`))
	f.Add(byte(1), []byte(`{"value":1,"children":[{"value":2,"children":[]}]}`))
	f.Add(byte(6), []byte(`[1.5e3,"\ud83d\ude00é",null,{"a":true}]`))
	v := byteVocab(fragments...)
	var grammars []*Grammar
	for _, s := range schemas {
		g, err := Compile([]byte(s))
		if err != nil {
			f.Fatal(err)
		}
		grammars = append(grammars, g)
	}
	f.Fuzz(func(t *testing.T, which byte, tokens []byte) {
		g := grammars[int(which)%len(grammars)]
		s := g.NewState(v)
		mask := make([]uint64, v.Words())
		var text []byte
		for i, c := range tokens[:min(len(tokens), 300)] {
			id := int32(c)
			if i%5 == 4 {
				id = 256 + int32(c)%int32(v.Size()-256+2) // up to two beyond the vocabulary
			}
			s.Allowed(mask)
			allowed := int(id) < v.Size() && mask[id/64]>>(id%64)&1 != 0
			before := s.cur
			err := s.Accept(id)
			if allowed != (err == nil) {
				t.Fatalf("after %q: token %d allowed %v, accepted: %v", text, id, allowed, err)
			}
			if err != nil {
				if s.cur != before && len(s.m.sets) < compactSets/2 {
					t.Fatal("a refused token moved the state")
				}
				continue
			}
			if v.isEnd(id) {
				if err := g.Validate(text); err != nil {
					t.Fatal(err)
				}
				if _, err := decode(text); err != nil {
					t.Fatalf("%q: %v", text, err)
				}
				return
			}
			text = append(text, v.pieces[id]...)
		}
	})
}
