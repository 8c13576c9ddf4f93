package constrain

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
)

const weatherTool = `{"type":"object","properties":{
  "location":{"type":"string","description":"City and country"},
  "unit":{"type":"string","enum":["celsius","fahrenheit"]},
  "days":{"type":"integer","minimum":1,"maximum":14}},
  "required":["location","unit","days"],"additionalProperties":false}`

const treeSchema = `{"$ref":"#/$defs/node","$defs":{"node":{"type":"object","properties":{
  "value":{"type":"integer"},"children":{"type":"array","items":{"$ref":"#/$defs/node"}}},
  "required":["value","children"],"additionalProperties":false}}}`

const stepsSchema = `{"type":"object","properties":{"steps":{"type":"array","items":{"type":"object","properties":{
  "explanation":{"type":"string"},"output":{"type":"string"}},"required":["explanation","output"],"additionalProperties":false}},
  "final_answer":{"type":"string"}},"required":["steps","final_answer"],"additionalProperties":false}`

const unionSchema = `{"type":"object","properties":{"item":{"anyOf":[
  {"type":"object","properties":{"kind":{"const":"user"},"name":{"type":"string"},"age":{"type":["integer","null"]}},"required":["kind","name","age"],"additionalProperties":false},
  {"type":"object","properties":{"kind":{"const":"address"},"street":{"type":"string"},"number":{"type":"string"}},"required":["kind","street","number"],"additionalProperties":false}]}},
  "required":["item"],"additionalProperties":false}`

const personSchema = `{"title":"Person","type":"object","properties":{
  "name":{"title":"Name","type":"string","minLength":1,"maxLength":80},
  "email":{"type":"string","format":"email"},
  "born":{"anyOf":[{"type":"string","format":"date"},{"type":"null"}],"default":null},
  "tags":{"type":"array","items":{"type":"string","pattern":"^[a-z][a-z0-9-]*$"},"maxItems":5},
  "score":{"type":"number","minimum":0,"maximum":1}},"required":["name","email"]}`

func TestSchemas(t *testing.T) {
	for _, tc := range []struct {
		name, schema string
		yes, no      []string
	}{
		{"function call", weatherTool,
			[]string{`{"location":"Pristina, Kosovo","unit":"celsius","days":14}`, "{\n  \"location\": \"\\u0041\",\n  \"unit\": \"fahrenheit\",\n  \"days\": 1\n}"},
			[]string{`{"location":"x","unit":"kelvin","days":1}`, `{"location":"x","unit":"celsius","days":15}`, `{"location":"x","unit":"celsius"}`,
				`{"unit":"celsius","location":"x","days":1}`, `{"location":"x","unit":"celsius","days":1} `, `{"location":"x","unit":"celsius","days":01}`,
				`{"location":"x","unit":"celsius","days":1,"x":1}`, ` {}`, "{\n\n\"location\":\"x\"", `{"location" :`}},
		{"nested lists", stepsSchema,
			[]string{`{"steps":[],"final_answer":"x"}`, `{"steps": [ {"explanation":"","output":"\n\""}, {"explanation":"","output":"a"} ], "final_answer":""}`},
			[]string{`{"steps":[{}],"final_answer":"x"}`, `{"steps":[{"explanation":"","output":""},],"final_answer":"x"}`}},
		{"tree", treeSchema,
			[]string{`{"value":1,"children":[{"value":-2,"children":[]},{"value":3,"children":[{"value":0,"children":[]}]}]}`},
			[]string{`{"value":1}`, `{"value":1,"children":[1]}`, `{"value":-0,"children":[]}`}},
		{"union", unionSchema,
			[]string{`{"item":{"kind":"user","name":"a","age":null}}`, `{"item":{"kind":"address","street":"a","number":"1"}}`},
			[]string{`{"item":{"kind":"user","street":"a","number":"1"}}`, `{"item":null}`}},
		{"pydantic", personSchema,
			[]string{`{"name":"x","email":"a@b.c"}`, `{"name":"x","email":"a@b.c","born":"2000-02-29","tags":["a","b-1"],"score":0.5}`, `{"name":"x","email":"a@b.c","born":null,"score":1.0}`},
			[]string{`{"name":"","email":"a@b.c"}`, `{"name":"x","email":"a"}`, `{"name":"x","email":"a@b.c","born":"2001-02-29"}`, `{"name":"x","email":"a@b.c","tags":["A"]}`,
				`{"name":"x","email":"a@b.c","tags":["a","a","a","a","a","a"]}`, `{"name":"x","email":"a@b.c","score":1.01}`, `{"name":"x","email":"a@b.c","other":1}`}},
		{"any object", `{"type":"object"}`,
			[]string{`{}`, `{"a":[1,"b",{"\u00e9":null}],"":-1.5e-7}`}, []string{`[]`, `{"a"}`, `{"a":1,}`, `{"a":+1}`, "{\"a\":\"\x80\"}", `{"a":"\ud800"}`, `{"a":"\udc00"}`, `{"a":"\x"}`, "{\"a\":\"\n\"}", ``}},
		{"additional keys are not the declared ones", `{"properties":{"ab":{"type":"integer"}},"additionalProperties":{"type":"string"}}`,
			[]string{`{"ab":1,"a":"","abc":"","b":""}`, `{"a":""}`, `{"":""}`}, []string{`{"ab":""}`, `{"\u0061b":""}`, `{"a":1}`, `{"a":"","ab":1}`}},
		{"merged", `{"allOf":[{"$ref":"#/definitions/base"},{"properties":{"b":{"type":"string"}},"required":["b"]}],"definitions":{"base":{"type":"object","properties":{"a":{"type":"integer"},"b":{"maxLength":2}},"required":["a"]}}}`,
			[]string{`{"a":1,"b":"xy"}`}, []string{`{"a":1}`, `{"a":1,"b":"xyz"}`, `{"b":"x"}`}},
		{"additional properties of a sibling", `{"type":"object","allOf":[{"properties":{"a":{}},"additionalProperties":{"type":"string","maxLength":1}},{"properties":{"b":{"minLength":1},"c":{"type":"null"}}}]}`,
			[]string{`{"a":1,"b":"x"}`, `{"b":"x","d":""}`}, []string{`{"b":""}`, `{"b":"xy"}`, `{"c":null}`, `{"d":1}`}},
		{"oneOf by const", `{"oneOf":[{"type":"object","properties":{"t":{"const":1},"x":{}},"required":["t"]},{"type":"object","properties":{"t":{"enum":[2,3]}},"required":["t"]},{"type":["string","null"]}]}`,
			[]string{`{"t":1,"x":[]}`, `{"t":3}`, `null`, `""`}, []string{`{"t":4}`, `{}`, `1`}},
		{"nullable", `{"type":"string","nullable":true,"maxLength":1}`, []string{`null`, `"é"`, `"\ud83d\ude00"`}, []string{`"ab"`, `1`}},
		{"one rule called on two ways", `{"anyOf":[{"type":"object","properties":{"a":{"type":"integer"},"b":{"type":"null"}},"required":["a","b"]},{"type":"object","properties":{"a":{"type":["integer","null"]},"c":{"type":"null"}},"required":["a","c"]}]}`,
			[]string{`{"a":1,"b":null}`, `{"a":1,"c":null}`, `{"a":null,"c":null}`}, []string{`{"a":null,"b":null}`, `{"a":1}`}},
		{"tuple", `{"type":"array","prefixItems":[{"type":"integer"},{"type":"boolean"}],"items":false,"minItems":1}`, []string{`[1]`, `[1, true]`}, []string{`[]`, `[true]`, `[1,true,1]`}},
		{"long string", `{"type":"string","minLength":3,"maxLength":1000000000}`, []string{`"abc"`, `"` + strings.Repeat("x", 5000) + `"`}, []string{`"ab"`}},
		{"long array", `{"type":"array","items":{"type":"null"},"minItems":2,"maxItems":100000}`, []string{`[null,null]`, `[` + strings.Repeat("null,", 300) + `null]`}, []string{`[null]`, `[]`}},
		{"conflicts are left out", `{"type":"object","properties":{"a":{"type":"string","minLength":3,"maxLength":2},"b":{"allOf":[{"type":"null"},{"type":"string"}]},"c":{"type":"array","items":false}}}`,
			[]string{`{}`, `{"c":[]}`}, []string{`{"a":"x"}`, `{"b":null}`, `{"c":[1]}`}},
		{"filtered enum", `{"enum":["a","bcd",1,5.0,null,"é"],"minLength":2,"maximum":2,"anyOf":[{"type":"string"},{"type":"integer"}]}`, []string{`"bcd"`, `1`}, []string{`"a"`, `5.0`, `null`, `"é"`}},
		{"spaces in a list", `{"type":"array"}`, []string{"[\n\t\t1,\n 2\n]", `[ ]`}, []string{"[\n" + strings.Repeat(" ", 41) + "1]", "[  1]", "[\n \t1]", "[1 ,2]"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			g, err := Compile([]byte(tc.schema))
			if err != nil {
				t.Fatal(err)
			}
			for _, text := range tc.yes {
				checkText(t, tc.schema, []byte(text))
				if err := g.Validate([]byte(text)); err != nil {
					t.Errorf("%q: %v", text, err)
				}
			}
			for _, text := range tc.no {
				if g.Validate([]byte(text)) == nil {
					t.Errorf("%q is accepted", text)
				}
			}
		})
	}
}

// What ECMA-262 and Go's regexp read differently, and anchors in odd places.
func TestPatterns(t *testing.T) {
	for _, tc := range []struct {
		pattern string
		yes, no []string
	}{
		{`^\s[\S]\u0041\/[[-]$`, []string{" bA/[", "\u00a0cA/-", "\vcA/["}, []string{"  A/[", "abA/[", " bA/", " b\u00a0A/["}},
		{`^[^\s]$`, []string{"a", "😀"}, []string{" ", "\u2028", "\u00a0", "ab"}},
		{`^.$`, []string{"a", "\u2027"}, []string{"\n", "\r", "\u2028", "\u2029", ""}},
		{`^$`, []string{""}, []string{"a"}},
		{``, []string{"", "a"}, nil},
		{`a^b`, nil, []string{"ab", "a^b"}},
		{`(^|,)x($|,)`, []string{"x", "a,x", "x,b", ",x,"}, []string{"ax", "xb", "a,xb"}},
		{`a$|^b`, []string{"za", "bz"}, []string{"az", "zb", ""}},
		{`^(?:a|bc){2,3}$`, []string{"abc", "bcbcbc", "aa"}, []string{"a", "aaaa", "b"}},
		{`^\x41\.\-\0$`, []string{"A.-\x00"}, []string{"A.-0"}},
		{`^[a\]]+$`, []string{"a]"}, []string{"[", ""}},
	} {
		d, err := patternDFA(newBudget(), tc.pattern)
		if err != nil {
			t.Errorf("%s: %v", tc.pattern, err)
			continue
		}
		for _, s := range tc.yes {
			if !d.accepts(appendSpelled(nil, s)) {
				t.Errorf("%s refuses %q", tc.pattern, s)
			}
		}
		for _, s := range tc.no {
			if d.accepts(appendSpelled(nil, s)) {
				t.Errorf("%s accepts %q", tc.pattern, s)
			}
		}
	}
	for _, p := range []string{`(?i)a`, `\Aa`, `a\z`, `\Qa`, `[]`, `[^]`, `\u12`, `\x{41}`, `(?<n>a)`, `(`, `a{1001}`, `\B`, `\ca`} {
		if _, err := patternDFA(newBudget(), p); err == nil {
			t.Errorf("%s compiles", p)
		}
	}
}

func TestRefused(t *testing.T) {
	for _, tc := range []struct{ schema, pointer, keyword string }{
		{`{"properties":{"a/b":{"patternProperties":{}}}}`, "#/properties/a~1b", "patternProperties"},
		{`{"type":"integer","multipleOf":2}`, "#", "multipleOf"},
		{`{"items":{"not":{}}}`, "#/items", "not"},
		{`{"type":"array","uniqueItems":true}`, "#", "uniqueItems"},
		{`{"type":"object","minProperties":1}`, "#", "minProperties"},
		{`{"oneOf":[{"type":"object","properties":{"a":{}}},{"type":"object","properties":{"b":{}}}]}`, "#", "oneOf"},
		{`{"oneOf":[{"type":"integer"},{"type":"number"}]}`, "#", "oneOf"},
		{`{"oneOf":[{"properties":{"a":{}}},{"type":"string"}]}`, "#", "oneOf"},
		{`{"anyOf":[]}`, "#", "anyOf"},
		{`{"$ref":"#/nowhere"}`, "#", "$ref"},
		{`{"$ref":"other.json"}`, "#", "$ref"},
		{`{"$ref":"#"}`, "#", ""},
		{`{"anyOf":[{"$ref":"#"},{"type":"null"}]}`, "#", ""},
		{`{"type":"object","properties":{"a":{"$ref":"#"}},"required":["a"]}`, "#", ""},
		{`{"type":"text"}`, "#", "type"},
		{`{"type":[]}`, "#", "type"},
		{`{"format":"iban"}`, "#", "format"},
		{`{"pattern":"(?=a)"}`, "#", "pattern"},
		{`{"pattern":"\\bfoo"}`, "#", "pattern"},
		{`{"pattern":"(a)\\1"}`, "#", "pattern"},
		{`{"pattern":"a","maxLength":100000}`, "#", "maxLength"},
		{`{"maxLength":4294967296}`, "#", "maxLength"},
		{`{"minLength":-1}`, "#", "minLength"},
		{`{"minimum":1e300}`, "#", "minimum"},
		{`{"minimum":1e30}`, "#", ""},
		{`{"minimum":"1"}`, "#", "minimum"},
		{`{"exclusiveMinimum":true}`, "#", "exclusiveMinimum"},
		{`{"items":[{}]}`, "#", "items"},
		{`{"enum":[]}`, "#", ""},
		{`{"enum":[{"a":1}],"required":["a"]}`, "#", "enum"},
		{`{"nullable":true}`, "#", "nullable"},
		{`false`, "#", ""},
		{`3`, "#", ""},
	} {
		_, err := Compile([]byte(tc.schema))
		var e *Error
		if !errors.As(err, &e) {
			t.Errorf("%s: %v, want an *Error", tc.schema, err)
		} else if e.Pointer != tc.pointer || tc.keyword != "" && e.Keyword != tc.keyword {
			t.Errorf("%s: %v, want %s %s", tc.schema, err, tc.pointer, tc.keyword)
		}
	}
	for _, text := range []string{``, `{`, `{"type":"null","type":"null"}`, "\"\xff\"", strings.Repeat("[", 5000), `{"const":` + strings.Repeat("[", 200) + strings.Repeat("]", 200) + `}`} {
		if _, err := Compile([]byte(text)); err == nil {
			t.Errorf("%.40q compiles", text)
		}
	}
}

// Hostile schemas end in a grammar or an error, with bounded memory.
func TestHostileSchemas(t *testing.T) {
	var props, enum, branches []string
	for i := range 900 {
		name := strings.Repeat("p", 1+i%7) + strings.Repeat("q", i%11) + string(rune('a'+i%26)) + string(rune('a'+i/26))
		props = append(props, `"`+name+`":{"type":"integer"}`)
		enum = append(enum, `"`+strings.Repeat(name, 10)+`"`)
		branches = append(branches, `{"type":"object","properties":{"`+name+`":{"$ref":"#"}}}`)
	}
	var constants []string
	bigPatterns := ""
	for i := range 500 {
		constants = append(constants, fmt.Sprintf(`{"type":"object","properties":{%s,"kind":{"const":%d}},"required":["kind"]}`, strings.Join(props[:20], ","), i))
		bigPatterns += fmt.Sprintf(`{"pattern":"a.{13}%d$"},`, i)
	}
	list := func(s []string) string { return strings.Join(s, ",") }
	for name, schema := range map[string]string{
		"optional properties": `{"type":"object","properties":{` + list(props) + `},"additionalProperties":{}}`,
		"enum":                `{"enum":[` + list(enum) + `]}`,
		"branches":            `{"anyOf":[` + list(branches[:400]) + `]}`,
		"too many branches":   `{"anyOf":[` + list(branches) + `]}`,
		"many patterns":       `{"anyOf":[` + strings.Repeat(`{"pattern":"a.{9}$"},`, 500) + `true]}`,
		"many big patterns":   `{"prefixItems":[` + bigPatterns + `true]}`,
		"many oneOf branches": `{"oneOf":[` + list(constants) + `]}`,
		"cross product":       `{"allOf":[` + strings.Repeat(`{"anyOf":[{"minLength":1},{"minLength":2},{"minLength":3}]},`, 30) + `true]}`,
		"repetition":          `{"pattern":"((a{30}){30}){30}"}`,
		"nested repetition":   `{"pattern":"^(([a-z]{0,30}[0-9]{0,30}){0,30})$"}`,
		"exponential pattern": `{"pattern":"^.*a.{40}$"}`,
		"exponent":            `{"minimum":1e999999999}`,
		"deep reference":      `{"$ref":"#/` + strings.Repeat("a/", 10000) + `"}`,
	} {
		t.Run(name, func(t *testing.T) {
			g, err := Compile([]byte(schema))
			if err != nil {
				t.Log(err)
				return
			}
			s := g.NewState(byteVocab(fragments...))
			if text, err := generate(rand.New(rand.NewPCG(1, 1)), s, 50); err != nil {
				t.Fatalf("%.100q: %v", text, err)
			}
			t.Log(len(g.states), "states")
		})
	}
}

// Two branches that cannot be told apart until much later double the paths
// with every level, but not the work; and the nesting limit strands no text.
func TestDepth(t *testing.T) {
	const schema = `{"$ref":"#/$defs/t","$defs":{"t":{"anyOf":[{"type":"null"},
	  {"type":"object","properties":{"a":{"$ref":"#/$defs/t"},"b":{"type":"integer"}},"required":["a"]},
	  {"type":"object","properties":{"a":{"$ref":"#/$defs/t"},"c":{"type":"integer"}},"required":["a"]}]}}}`
	g, err := Compile([]byte(schema))
	if err != nil {
		t.Fatal(err)
	}
	nest := func(n int) string { return strings.Repeat(`{"a":`, n) + "null" + strings.Repeat(`,"b":1}`, n) }
	if err := g.Validate([]byte(nest(maxDepth - 2))); err != nil {
		t.Fatal(err)
	}
	if g.Validate([]byte(nest(maxDepth+1))) == nil {
		t.Fatal("nested beyond the limit")
	}
	for _, g := range []*Grammar{g, JSONObject()} {
		s := g.NewState(byteVocab(`{"a":`, `[[`))
		mask := make([]uint64, s.v.Words())
		for range 10_000 {
			s.Allowed(mask)
			ids := bitsOf(mask)
			if len(ids) == 0 {
				t.Fatal("stranded")
			}
			next := ids[0]
			for _, id := range ids {
				if s.v.isEnd(id) || strings.ContainsAny(string(s.v.pieces[id]), "{[:a\"") {
					next = id
				}
			}
			if err := s.Accept(next); err != nil {
				t.Fatal(err)
			}
			if s.v.isEnd(next) {
				break
			}
		}
	}
}

// The golden masks of a few texts: equal on every machine.
func TestDeterminism(t *testing.T) {
	sum := func() uint64 {
		h := uint64(14695981039346656037)
		v := byteVocab(fragments...)
		mask := make([]uint64, v.Words())
		for seed := range 40 {
			r := rand.New(rand.NewPCG(uint64(seed), 3))
			sm := (&sampler{r: r}).document()
			g, err := Compile([]byte(sm.schema))
			if err != nil {
				t.Fatal(err)
			}
			s := g.NewState(v)
			for _, c := range []byte(sm.instance(r)) {
				s.Allowed(mask)
				for _, w := range mask {
					h = (h ^ w) * 1099511628211
				}
				if err := s.Accept(int32(c)); err != nil {
					t.Fatal(err)
				}
			}
		}
		return h
	}
	const want = 0x387b57b5819ea00d
	if a := sum(); a != want || sum() != a {
		t.Fatalf("masks hash to %#x and %#x, want %#x", a, sum(), uint64(want))
	}
}

func TestCompose(t *testing.T) {
	args, err := Compile([]byte(weatherTool))
	if err != nil {
		t.Fatal(err)
	}
	tool := func(name string, g *Grammar) *Grammar {
		out, err := Sequence(Literal("<tool_call>\n{\"name\": \""+name+"\", \"arguments\": "), Of(g), Literal("}\n</tool_call>"))
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
	word, err := Compile([]byte(`{"type":"string"}`))
	if err != nil {
		t.Fatal(err)
	}
	g, err := Choice(tool("weather", args), tool("find", JSONObject()), tool("find_word", word), word)
	if err != nil {
		t.Fatal(err)
	}
	calls := []string{
		"<tool_call>\n{\"name\": \"weather\", \"arguments\": {\"location\":\"x\",\"unit\":\"celsius\",\"days\":3}}\n</tool_call>",
		"<tool_call>\n{\"name\": \"find\", \"arguments\": {\"a\": [1]}}\n</tool_call>",
		"<tool_call>\n{\"name\": \"find_word\", \"arguments\": \"x\"}\n</tool_call>",
		`"alone"`,
	}
	for _, text := range calls {
		if err := g.Validate([]byte(text)); err != nil {
			t.Errorf("%q: %v", text, err)
		}
		if g.Validate([]byte(text[:len(text)-1])) == nil || g.Validate([]byte(text+" ")) == nil {
			t.Errorf("%q cut or extended is accepted", text)
		}
	}
	if g.Validate([]byte(strings.Replace(calls[0], "weather", "find_word", 1))) == nil {
		t.Error("arguments of another tool are accepted")
	}
	// More than one call, and a mask against brute force in the middle.
	two, err := Sequence(Of(g), Literal("\n"), Of(g))
	if err != nil {
		t.Fatal(err)
	}
	text := []byte(calls[0] + "\n" + calls[1])
	if err := two.Validate(text); err != nil {
		t.Fatal(err)
	}
	v := byteVocab(append(fragments, "<tool_call>", "}\n</tool_call>", "\"}\n</", "}}\n<", "\n<tool_call>")...)
	s := two.NewState(v)
	mask := make([]uint64, v.Words())
	for i, c := range text {
		s.Allowed(mask)
		want := bruteForce(two, v, text[:i])
		for w := range mask {
			if mask[w] != want[w] {
				t.Fatalf("after %q: allowed %v, want %v", text[:i], bitsOf(mask), bitsOf(want))
			}
		}
		if err := s.Accept(int32(c)); err != nil {
			t.Fatal(err)
		}
	}
	if !s.Done() {
		t.Error("not done after the last tag")
	}
	if _, err := Choice(); err == nil {
		t.Error("a choice between nothing")
	}
	empty, err := Sequence()
	if err != nil || empty.Validate(nil) != nil || empty.Validate([]byte("x")) == nil {
		t.Errorf("the empty sequence: %v", err)
	}
}
