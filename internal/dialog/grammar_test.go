package dialog

import (
	"encoding/json"
	"testing"

	"github.com/geistnet/geist/internal/chat"
	"github.com/geistnet/geist/internal/constrain"
	"github.com/geistnet/geist/internal/tools"
)

// accepts runs a text through a grammar byte by byte.
func accepts(g *constrain.Grammar, text string) bool {
	pieces := make([][]byte, 257)
	for i := range 256 {
		pieces[i] = []byte{byte(i)}
	}
	v := constrain.NewVocab(pieces, func(id int32) bool { return id == 256 })
	s := g.NewState(v)
	for i := range len(text) {
		if s.Accept(int32(text[i])) != nil {
			return false
		}
	}
	allowed := make([]uint64, 5)
	s.Allowed(allowed)
	return s.Done() || allowed[4]&1 == 1
}

// What another node reads is the grammar of the question.
func TestGrammarText(t *testing.T) {
	offered, err := chat.ParseTools([]byte(`[{"type":"function","function":{"name":"weather","parameters":{"type":"object","properties":{"city":{"type":"string"}},"required":["city"]}}},
		{"type":"function","function":{"name":"time","parameters":{"type":"object","properties":{}}}}]`))
	if err != nil {
		t.Fatal(err)
	}
	schema := json.RawMessage(`{"type":"object","properties":{"a":{"type":"integer"}},"required":["a"]}`)
	texts := []string{`{"a":1}`, `{"b":2}`, `{}`, `hello`, "<tool_call>\n{\"name\": \"weather\", \"arguments\": {\"city\": \"Bonn\"}}\n</tool_call>", "<tool_call>\n{\"name\": \"time\", \"arguments\": {}}\n</tool_call>"}
	free := 0
	for name, q := range map[string]*Question{
		"free":            {},
		"tools":           {Tools: offered},
		"json":            {Shape: Shape{JSON: true}},
		"schema":          {Shape: Shape{Schema: schema}},
		"required":        {Tools: offered, Choice: tools.Choice{Mode: tools.Required}},
		"named":           {Tools: offered, Choice: tools.Choice{Mode: tools.Required, Name: "time", One: true}},
		"none":            {Tools: offered, Choice: tools.Choice{Mode: tools.None}, Shape: Shape{Schema: schema}},
		"schema or calls": {Tools: offered, Shape: Shape{Schema: schema}},
		"json or calls":   {Tools: offered, Shape: Shape{JSON: true}},
	} {
		want, err := Grammar(q, tools.Hermes)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		text, err := GrammarText(q, tools.Hermes)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		got, err := ReadGrammar(text)
		if err != nil {
			t.Fatalf("%s: %s: %v", name, text, err)
		}
		if (got == nil) != (want == nil) {
			t.Fatalf("%s: %v and %v", name, got, want)
		}
		if got == nil {
			free++
			continue
		}
		some := false
		for _, x := range texts {
			a, b := accepts(want, x), accepts(got, x)
			if a != b {
				t.Errorf("%s: %q: %v and %v", name, x, a, b)
			}
			some = some || a
		}
		if !some {
			t.Errorf("%s accepts none of the texts", name)
		}
	}
	if free != 2 {
		t.Errorf("%d questions are free", free)
	}
	for _, bad := range []string{"x", `{"geist-calls":2,"functions":[{"name":"a"}]}`, `{"geist-calls":1,"functions":[]}`, `{"geist-calls":1,"form":9,"functions":[{"name":"a"}],"must":true}`,
		`{"geist-calls":1,"functions":[{"name":"a"}]}`, `{"geist-calls":1,"functions":[{"name":"a"}],"must":true,"x":1}`} {
		if _, err := ReadGrammar(bad); err == nil {
			t.Errorf("%s is accepted", bad)
		}
	}
}
