package tools

import (
	"encoding/json"
	"math/rand/v2"
	"reflect"
	"strings"
	"testing"
)

var two = []Function{
	{Name: "weather", Parameters: json.RawMessage(`{"type":"object","properties":{"city":{"type":"string"}},"required":["city"],"additionalProperties":false}`)},
	{Name: "time.now"},
}

// parse feeds text in pieces that end at cuts.
func parse(form Form, c Choice, text string, cut func() int) (string, []Call) {
	p := NewParser(form, two, c)
	var b strings.Builder
	var calls []Call
	for text != "" {
		n := min(len(text), max(1, cut()))
		show, more := p.Add(text[:n])
		b.WriteString(show)
		calls = append(calls, more...)
		text = text[n:]
	}
	show, more := p.Flush()
	b.WriteString(show)
	return b.String(), append(calls, more...)
}

func TestParser(t *testing.T) {
	paris := Call{"weather", `{"city": "Paris"}`}
	now := Call{"time.now", `{}`}
	for _, c := range []struct {
		name string
		form Form
		c    Choice
		in   string
		text string
		want []Call
	}{
		{"text", Hermes, Choice{}, "Hello <b> there.\n", "Hello <b> there.\n", nil},
		{"hermes", Hermes, Choice{}, "<tool_call>\n{\"name\": \"weather\", \"arguments\": {\"city\": \"Paris\"}}\n</tool_call>", "", []Call{paris}},
		{"hermes two", Hermes, Choice{}, "Sure. \n<tool_call>{\"name\": \"weather\", \"arguments\": {\"city\": \"Paris\"}}</tool_call>\n<tool_call>\n{\"name\":\"time.now\"}\n</tool_call>\n", "Sure.", []Call{paris, now}},
		{"hermes one", Hermes, Choice{One: true}, "<tool_call>{\"name\": \"weather\", \"arguments\": {\"city\": \"Paris\"}}</tool_call>\n<tool_call>\n{\"name\":\"time.now\"}\n</tool_call>\n", "", []Call{paris}},
		{"hermes without end", Hermes, Choice{}, "<tool_call>\n{\"name\": \"weather\", \"arguments\": {\"city\": \"Paris\"}}", "", []Call{paris}},
		{"hermes cut", Hermes, Choice{}, "a <tool_call>\n{\"name\": \"weather\", \"argum", "a <tool_call>\n{\"name\": \"weather\", \"argum", nil},
		{"hermes unknown", Hermes, Choice{}, "a\n<tool_call> {\"name\": \"rm\", \"arguments\": {}} </tool_call>", "a\n<tool_call> {\"name\": \"rm\", \"arguments\": {}} </tool_call>", nil},
		{"hermes no object", Hermes, Choice{}, "the tag <tool_call> is used", "the tag <tool_call> is used", nil},
		{"hermes end", Hermes, Choice{}, "the tag <tool_call>", "the tag <tool_call>", nil},
		{"hermes bad arguments", Hermes, Choice{}, `<tool_call>{"name":"weather","arguments":[1]}`, `<tool_call>{"name":"weather","arguments":[1]}`, nil},
		{"hermes quoted", Hermes, Choice{}, `<tool_call>{"name":"weather","arguments":"{\"city\": \"Paris\"}"}</tool_call>`, "", []Call{paris}},
		{"hermes braces in text", Hermes, Choice{}, `<tool_call>{"name":"weather","arguments":{"city": "}\"{"}}</tool_call>!`, "!", []Call{{"weather", `{"city": "}\"{"}`}}},
		{"none", Hermes, Choice{Mode: None}, "<tool_call>{\"name\":\"time.now\"}</tool_call>", "<tool_call>{\"name\":\"time.now\"}</tool_call>", nil},
		{"llama", Llama3, Choice{}, `{"name": "weather", "parameters": {"city": "Paris"}}`, "", []Call{paris}},
		{"llama tag", Llama3, Choice{}, ` <|python_tag|>{"name": "weather", "parameters": {"city": "Paris"}}; {"name":"time.now","parameters":{}}`, "", []Call{paris, now}},
		{"llama JSON", Llama3, Choice{}, `{"a": 1} and more`, `{"a": 1} and more`, nil},
		{"llama later", Llama3, Choice{}, `Call {"name": "weather", "parameters": {"city": "Paris"}}`, `Call {"name": "weather", "parameters": {"city": "Paris"}}`, nil},
		{"mistral", Mistral, Choice{}, `[TOOL_CALLS][{"name": "weather", "arguments": {"city": "Paris"}}, {"name":"time.now","arguments":{}}]`, "", []Call{paris, now}},
		{"mistral new", Mistral, Choice{}, `Ok [TOOL_CALLS]weather[ARGS]{"city": "Paris"}[TOOL_CALLS]time.now{}`, "Ok", []Call{paris, now}},
		{"mistral text", Mistral, Choice{}, `A list [1, 2] and [TOOL_CALLS] nothing`, `A list [1, 2] and [TOOL_CALLS] nothing`, nil},
		{"mistral unknown", Mistral, Choice{}, `[TOOL_CALLS] [{"name": "rm"}]`, `[TOOL_CALLS] [{"name": "rm"}]`, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			text, calls := parse(c.form, c.c, c.in, func() int { return len(c.in) })
			if text != c.text || !reflect.DeepEqual(calls, c.want) {
				t.Errorf("text %q, calls %+v; want %q, %+v", text, calls, c.text, c.want)
			}
			text, calls = parse(c.form, c.c, c.in, func() int { return 1 })
			if text != c.text || !reflect.DeepEqual(calls, c.want) {
				t.Errorf("byte by byte: text %q, calls %+v; want %q, %+v", text, calls, c.text, c.want)
			}
		})
	}
}

// TestCuts holds that where a text is cut changes nothing.
func TestCuts(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	bits := []string{"<tool_call>", "</tool_call>", "[TOOL_CALLS]", "[ARGS]", "<|python_tag|>", "[", "]", ",", "; ", "\n", " ", "text", "{", "}", `"`,
		`{"name":"weather","arguments":{"city":"x"}}`, `{"name":"time.now","parameters":{}}`, `{"a":1}`, "weather", "<tool", "[TOOL"}
	found := 0
	for range 20000 {
		var b strings.Builder
		for range 1 + r.IntN(8) {
			b.WriteString(bits[r.IntN(len(bits))])
		}
		form, c := Form(r.IntN(3)), Choice{One: r.IntN(4) == 0}
		text, calls := parse(form, c, b.String(), func() int { return b.Len() })
		again, more := parse(form, c, b.String(), func() int { return 1 + r.IntN(7) })
		if text != again || !reflect.DeepEqual(calls, more) {
			t.Fatalf("form %d, %q: at once %q %+v, in pieces %q %+v", form, b.String(), text, calls, again, more)
		}
		found += len(calls)
	}
	if found < 1000 {
		t.Errorf("%d calls in all: the texts are no test", found)
	}
}

func TestGrammar(t *testing.T) {
	one := `{"name": "weather", "arguments": {"city":"x"}}`
	for _, c := range []struct {
		name string
		form Form
		c    Choice
		text string
		ok   bool
	}{
		{"hermes", Hermes, Choice{Mode: Required}, "<tool_call>\n" + one + "\n</tool_call>", true},
		{"hermes two", Hermes, Choice{Mode: Required}, "<tool_call>\n" + one + "\n</tool_call>\n<tool_call>\n" + one + "\n</tool_call>", true},
		{"hermes two of one", Hermes, Choice{Mode: Required, One: true}, "<tool_call>\n" + one + "\n</tool_call>\n<tool_call>\n" + one + "\n</tool_call>", false},
		{"hermes none", Hermes, Choice{Mode: Required}, "", false},
		{"named", Hermes, Choice{Mode: Required, Name: "time.now"}, "<tool_call>\n" + one + "\n</tool_call>", false},
		{"any object", Hermes, Choice{Mode: Required, Name: "time.now"}, "<tool_call>\n{\"name\": \"time.now\", \"arguments\": {\"z\":[1]}}\n</tool_call>", true},
		{"wrong arguments", Hermes, Choice{Mode: Required}, "<tool_call>\n{\"name\": \"weather\", \"arguments\": {\"z\":1}}\n</tool_call>", false},
		{"llama", Llama3, Choice{Mode: Required}, `{"name": "weather", "parameters": {"city":"x"}}; {"name": "time.now", "parameters": {}}`, true},
		{"mistral", Mistral, Choice{Mode: Required}, "[TOOL_CALLS][" + one + ", " + one + "]", true},
		{"mistral empty", Mistral, Choice{Mode: Required}, "[TOOL_CALLS][]", false},
	} {
		t.Run(c.name, func(t *testing.T) {
			g, err := Grammar(c.form, two, c.c)
			if err != nil {
				t.Fatal(err)
			}
			if err := g.Validate([]byte(c.text)); (err == nil) != c.ok {
				t.Errorf("%q: %v", c.text, err)
			}
			if !c.ok {
				return
			}
			if text, calls := parse(c.form, c.c, c.text, func() int { return 5 }); text != "" || len(calls) == 0 {
				t.Errorf("the parser finds text %q and %d calls in %q", text, len(calls), c.text)
			}
		})
	}
	if _, err := Grammar(Hermes, two, Choice{Mode: Required, Name: "no"}); err == nil {
		t.Error("a function that is not offered can be demanded")
	}
	odd := []Function{{Name: "f", Parameters: json.RawMessage(`{"type":"object","not":{}}`)}}
	if _, err := Grammar(Hermes, odd, Choice{Mode: Required}); err != nil {
		t.Errorf("not strict: %v", err)
	}
	odd[0].Strict = true
	if _, err := Grammar(Hermes, odd, Choice{Mode: Required}); err == nil {
		t.Error("strict: a schema that cannot be honoured is taken")
	}
}

func TestFunctions(t *testing.T) {
	for _, bad := range []string{`1`, `{}`, `{"type":"function"}`, `{"type":"web_search"}`, `{"type":"function","function":{"name":""}}`, `{"type":"function","function":{"name":"a b"}}`, `{"type":"function","function":{"name":"a\"b"}}`} {
		if _, err := Functions([]json.RawMessage{[]byte(bad)}); err == nil {
			t.Errorf("%s is taken", bad)
		}
	}
	f := json.RawMessage(`{"type":"function","function":{"name":"f","parameters":null,"strict":true}}`)
	got, err := Functions([]json.RawMessage{f})
	if err != nil || len(got) != 1 || got[0].Name != "f" || got[0].Parameters != nil || !got[0].Strict {
		t.Errorf("%+v, %v", got, err)
	}
	if _, err := Functions([]json.RawMessage{f, f}); err == nil {
		t.Error("two functions of one name are taken")
	}
}

func TestDetect(t *testing.T) {
	for text, want := range map[string]Form{"{{ '<tool_call>' }}": Hermes, "[TOOL_CALLS]": Mistral, "<|python_tag|>": Llama3, "": Hermes} {
		if got := Detect(text); got != want {
			t.Errorf("%q: %d, want %d", text, got, want)
		}
	}
}

func FuzzParser(f *testing.F) {
	f.Add("a <tool_call>{\"name\":\"weather\",\"arguments\":{}}</tool_call>", uint8(0), uint8(3))
	f.Add(`{"name":"time.now","parameters":{}}; {`, uint8(1), uint8(1))
	f.Add(`[TOOL_CALLS]weather[ARGS]{"city":1}`, uint8(2), uint8(2))
	f.Fuzz(func(t *testing.T, text string, form, cut uint8) {
		a, calls := parse(Form(form%3), Choice{}, text, func() int { return len(text) })
		b, more := parse(Form(form%3), Choice{}, text, func() int { return int(cut) })
		if a != b || !reflect.DeepEqual(calls, more) {
			t.Fatalf("%q: at once %q %+v, in pieces %q %+v", text, a, calls, b, more)
		}
		for _, c := range calls {
			if !json.Valid([]byte(c.Arguments)) || c.Arguments[0] != '{' {
				t.Fatalf("arguments %q", c.Arguments)
			}
		}
		if len(calls) == 0 && a != text {
			t.Fatalf("no call, and text %q became %q", text, a)
		}
	})
}
