package constrain

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
)

// byteVocab holds every byte, then the end, then the extra pieces.
func byteVocab(extra ...string) *Vocab {
	var pieces [][]byte
	for c := range 256 {
		pieces = append(pieces, []byte{byte(c)})
	}
	pieces = append(pieces, nil)
	for _, p := range extra {
		pieces = append(pieces, []byte(p))
	}
	return NewVocab(pieces, func(id int32) bool { return id == 256 })
}

var fragments = []string{`":`, `": "`, `","`, `"},{"`, `{"`, `["`, `"]`, `"}`, `}}`, `]}`, `": {`, `"a":`, "\n  ", "},\n", "\xc3", "\xe4\xb8", "\xf0\x9f\x98", "é", `\u`, `\ud8`, `\ud83d\u`, `00`, `123`, `.5`, `e1`, `null`, `true`, `nul`, `, `, `":1,"`, `"a`, ` b`, `hello`, "    ", `"":`, `1}`, `1,`, `-0`}

// bruteForce computes a mask by running every token through a fresh machine.
func bruteForce(g *Grammar, v *Vocab, text []byte) []uint64 {
	dst := make([]uint64, v.Words())
	m := newMachine(g)
	cur := m.start()
	for _, c := range text {
		cur = m.step(cur, c)
	}
	for id, p := range v.pieces {
		at := cur
		for _, c := range p {
			if at = m.step(at, c); at == dead {
				break
			}
		}
		if len(p) > 0 && at != dead || v.isEnd(int32(id)) && m.sets[cur].complete {
			dst[id/64] |= 1 << (id % 64)
		}
	}
	return dst
}

func bitsOf(mask []uint64) []int32 {
	var ids []int32
	for w, bits := range mask {
		for b := range 64 {
			if bits>>b&1 != 0 {
				ids = append(ids, int32(64*w+b))
			}
		}
	}
	return ids
}

// generate walks at random from s to the end and returns the text. After
// patience tokens it mostly takes what closes something.
func generate(r *rand.Rand, s *State, patience int) ([]byte, error) {
	var text []byte
	mask := make([]uint64, s.v.Words())
	for n := 0; ; n++ {
		s.Allowed(mask)
		ids := bitsOf(mask)
		if len(ids) == 0 {
			return text, fmt.Errorf("nothing may follow %q", text)
		}
		id := ids[r.IntN(len(ids))]
		if n > patience {
			id = wayOut(r, s.v, ids)
		}
		if n > patience+5000 {
			return text, fmt.Errorf("no end in sight after %.200q", text)
		}
		if err := s.Accept(id); err != nil {
			return text, fmt.Errorf("allowed, but: %w", err)
		}
		if s.v.isEnd(id) {
			return text, nil
		}
		text = append(text, s.v.pieces[id]...)
	}
}

// wayOut picks a token that closes something most of the time, and otherwise
// one of the shortest.
func wayOut(r *rand.Rand, v *Vocab, ids []int32) int32 {
	best, bestRank := ids[0], 1<<30
	shuffle := r.IntN(3) == 0
	for _, id := range ids {
		rank := 1000*len(v.pieces[id]) + r.IntN(1000)
		switch i := bytes.IndexAny(v.pieces[id], "\"}]"); {
		case v.isEnd(id):
			rank = 0
		case i == 0 && !shuffle:
			rank = 1 + bytes.IndexByte([]byte("\"}]"), v.pieces[id][0])
		}
		if rank < bestRank {
			best, bestRank = id, rank
		}
	}
	return best
}

// checkText demands that a generated text is JSON and valid by the book.
func checkText(t *testing.T, schema string, text []byte) {
	t.Helper()
	v, err := decode(text)
	if err != nil {
		t.Fatalf("schema %s\ntext %q: %v", schema, text, err)
	}
	s, err := decode([]byte(schema))
	if err != nil {
		t.Fatal(err)
	}
	if !valid(s, s, v) {
		t.Fatalf("schema %s\ntext %q is not valid", schema, text)
	}
}

func TestRandomSchemas(t *testing.T) {
	rounds := 600
	if testing.Short() {
		rounds = 60
	}
	refused := 0
	v := byteVocab(fragments...)
	for seed := range rounds {
		r := rand.New(rand.NewPCG(uint64(seed), 1))
		sm := (&sampler{r: r}).document()
		g, err := Compile([]byte(sm.schema))
		if err != nil {
			t.Fatalf("schema %s: %v", sm.schema, err)
		}
		for range 4 {
			text := []byte(sm.instance(r))
			checkText(t, sm.schema, text)
			if err := g.Validate(text); err != nil {
				t.Fatalf("schema %s\ninstance %q: %v", sm.schema, text, err)
			}
			// What is accepted after damage must still be valid.
			for range 20 {
				bad := bytes.Clone(text)
				i := r.IntN(len(bad))
				switch r.IntN(3) {
				case 0:
					bad[i] = `019.e-"\{}[],: abn`[r.IntN(18)]
				case 1:
					bad = append(bad[:i], bad[i+1:]...)
				case 2:
					bad = append(bad[:i+1], bad[i:]...)
				}
				if g.Validate(bad) == nil {
					checkText(t, sm.schema, bad)
				} else {
					refused++
				}
			}
			text, err := generate(r, g.NewState(v), r.IntN(120))
			if err != nil {
				t.Fatalf("schema %s: %v", sm.schema, err)
			}
			checkText(t, sm.schema, text)
			if err := g.Validate(text); err != nil {
				t.Fatalf("schema %s\nown text %q: %v", sm.schema, text, err)
			}
		}
	}
	if refused == 0 {
		t.Fatal("no damaged text was refused")
	}
}

// Any cut of a text into tokens behaves like its bytes, and every mask equals
// what running each token alone says.
func TestMasks(t *testing.T) {
	rounds := 150
	if testing.Short() {
		rounds = 15
	}
	for seed := range rounds {
		r := rand.New(rand.NewPCG(uint64(seed), 2))
		sm := (&sampler{r: r}).document()
		g, err := Compile([]byte(sm.schema))
		if err != nil {
			t.Fatalf("schema %s: %v", sm.schema, err)
		}
		extra := append([]string(nil), fragments...)
		for range 40 {
			text := sm.instance(r)
			from := r.IntN(len(text))
			extra = append(extra, text[from:min(len(text), from+1+r.IntN(12))])
		}
		text := []byte(sm.instance(r))
		cuts := []int{0}
		for cuts[len(cuts)-1] < len(text) {
			from := cuts[len(cuts)-1]
			to := min(len(text), from+1+r.IntN(7))
			extra = append(extra, string(text[from:to]))
			cuts = append(cuts, to)
		}
		v := byteVocab(extra...)
		s := g.NewState(v)
		mask := make([]uint64, v.Words())
		for i := range cuts {
			s.Allowed(mask)
			if want := bruteForce(g, v, text[:cuts[i]]); fmt.Sprint(mask) != fmt.Sprint(want) {
				t.Fatalf("schema %s\nafter %q: allowed %v, want %v", sm.schema, text[:cuts[i]], bitsOf(mask), bitsOf(want))
			}
			if i+1 == len(cuts) {
				break
			}
			id := int32(v.Size() - len(cuts) + 1 + i)
			if mask[id/64]>>(id%64)&1 == 0 {
				t.Fatalf("schema %s\nafter %q: %q is not allowed", sm.schema, text[:cuts[i]], v.pieces[id])
			}
			for other := range int32(v.Size()) {
				if mask[other/64]>>(other%64)&1 == 0 && s.Accept(other) == nil {
					t.Fatalf("schema %s\nafter %q: %q accepted though not allowed", sm.schema, text[:cuts[i]], v.pieces[other])
				}
			}
			if err := s.Accept(id); err != nil {
				t.Fatal(err)
			}
		}
		if !s.Complete() {
			t.Fatalf("schema %s: %q is not complete", sm.schema, text)
		}
		if err := s.Accept(256); err != nil || !s.Done() || s.Accept('1') != ErrEnded {
			t.Fatalf("end: %v, done %v", err, s.Done())
		}
		if s.Allowed(mask); len(bitsOf(mask)) != 0 {
			t.Fatal("tokens allowed after the end")
		}
	}
}

// All tokens of up to four bytes over the characters that matter, at every
// step of random walks, near the ends of counters and of the nesting limit.
func TestShortTokens(t *testing.T) {
	var pieces []string
	level := []string{""}
	for range 4 {
		var next []string
		for _, p := range level {
			for _, c := range `[]{},:"a0` {
				next = append(next, p+string(c))
			}
		}
		pieces = append(pieces, next...)
		level = next
	}
	v := byteVocab(pieces...)
	mask := make([]uint64, v.Words())
	const lists = `{"type":"array","minItems":1,"items":{"type":"array","minItems":1,"items":{"type":"array","minItems":1,"items":{"type":"null"}}}}`
	for i, tc := range []struct{ schema, unit string }{ // unit is repeated as long as it is accepted
		{`{"type":"array","items":{"type":"integer"},"minItems":2,"maxItems":4}`, ``},
		{`{"type":"array","prefixItems":[{"type":"integer"}],"items":{"type":"array","maxItems":1,"items":true},"minItems":2,"maxItems":4}`, ``},
		{`{"type":"string","minLength":2,"maxLength":3}`, ``},
		{`{"type":"object","properties":{"a":{"type":"string","minLength":1,"maxLength":2},"0":{"type":"integer"}},"additionalProperties":{"type":"array"}}`, ``},
		{`{"type":"array","items":{"anyOf":[
		   {"type":"object","properties":{"a":{"type":"integer"},"0":{"type":"integer"}},"required":["a"]},
		   {"type":"object","properties":{"a":{"type":["integer","array"]},"00":{"type":"string"}},"required":["a"]}]}}`, ``},
		{`{"anyOf":[{"type":"string","pattern":"^a*$"},{"type":"string","maxLength":2},{"enum":["0","000",[0]]}]}`, ``},
		{`true`, ``},
		{`true`, `[`},
		{`{"type":"object"}`, `{"a":[`},
		{`{"$ref":"#/$defs/t","$defs":{"t":{"anyOf":[{"type":"integer"},{"type":"object","properties":{"a":{"type":"array","items":{"$ref":"#/$defs/t"},"minItems":1}},"required":["a"]}]}}}`, `{"a":[`},
		{`{"$ref":"#/$defs/t","$defs":{"t":{"type":"object","properties":{"a":{"anyOf":[{"$ref":"#/$defs/t"},{"type":"integer"}]},"0":` + lists + `},"required":["a"]}}}`, `{"a":`},
		{`{"$ref":"#/$defs/t","$defs":{"t":{"type":"object","properties":{"a":{"anyOf":[{"$ref":"#/$defs/t"},{"type":"integer"}]},"0":` + lists + `},"required":["a","0"]}}}`, `{"a":`},
	} {
		g, err := Compile([]byte(tc.schema))
		if err != nil {
			t.Fatal(err)
		}
		for walk := range 5 {
			r := rand.New(rand.NewPCG(uint64(walk), uint64(i)))
			s := g.NewState(v)
			var text []byte
			for more := tc.unit != ""; more; {
				for j := range len(tc.unit) {
					if more = s.Accept(int32(tc.unit[j])) == nil; !more {
						break
					}
					text = append(text, tc.unit[j])
				}
			}
			for n := 0; ; n++ {
				s.Allowed(mask)
				if want := bruteForce(g, v, text); !slices.Equal(mask, want) {
					for w := range mask {
						mask[w] ^= want[w]
					}
					t.Fatalf("schema %s\nafter %q the mask is wrong for %q", tc.schema, text, v.pieces[bitsOf(mask)[0]])
				}
				ids := bitsOf(mask)
				if len(ids) == 0 {
					t.Fatalf("schema %s: nothing may follow %q", tc.schema, text)
				}
				id := ids[r.IntN(len(ids))]
				if n > 4 {
					id = wayOut(r, v, ids)
				}
				if v.isEnd(id) || tc.unit != "" && n > 20 {
					break
				}
				if n > 1000 {
					t.Fatalf("schema %s: no end in sight after %.200q", tc.schema, text)
				}
				if err := s.Accept(id); err != nil {
					t.Fatal(err)
				}
				text = append(text, v.pieces[id]...)
				if walk == 1 { // forgetting what is not needed changes nothing
					s.cur = s.m.compact(s.cur)
					s.masks = nil
				}
			}
		}
	}
}

// Texts share a vocabulary whose cache is too small for all their masks.
func TestSharedCache(t *testing.T) {
	v := byteVocab(fragments...)
	v.limit = 4000
	g, err := Compile([]byte(personSchema))
	if err != nil {
		t.Fatal(err)
	}
	var done sync.WaitGroup
	for seed := range 4 {
		done.Go(func() {
			r := rand.New(rand.NewPCG(uint64(seed), 5))
			for range 10 {
				text, err := generate(r, g.NewState(v), 50)
				if err == nil {
					err = g.Validate(text)
				}
				if err != nil {
					t.Errorf("%q: %v", text, err)
				}
			}
		})
	}
	done.Wait()
	sum := 0
	for e := v.lru.Front(); e != nil; e = e.Next() {
		sum += e.Value.(*cachedFrame).mask.size()
	}
	if sum != v.bytes || sum > v.limit || len(v.cache) != v.lru.Len() || v.lru.Len() == 0 {
		t.Errorf("%d masks of %d bytes, accounted %d, limit %d", v.lru.Len(), sum, v.bytes, v.limit)
	}
}
