package dialog

import (
	"encoding/json"
	"errors"
	"math/rand/v2"
	"reflect"
	"strings"
	"testing"

	"github.com/geistnet/geist/internal/chat"
	"github.com/geistnet/geist/internal/tools"
)

func question(tool bool) *Question {
	q := &Question{Messages: []chat.Message{{Role: "user", Content: "x"}}, TopLogProbs: -1}
	if tool {
		q.Tools = []chat.Tool{{JSON: []byte(`{"type":"function","function":{"name":"f","parameters":{"type":"object","properties":{"a":{"type":"integer"}},"required":["a"],"additionalProperties":false}}}`)}}
	}
	return q
}

func read(t *testing.T, q *Question, thinking bool, text string, cut func() int) Delta {
	t.Helper()
	r, err := NewReader(q, tools.Hermes, thinking)
	if err != nil {
		t.Fatal(err)
	}
	var all Delta
	add := func(d Delta) {
		all.Text += d.Text
		all.Reasoning += d.Reasoning
		all.Calls = append(all.Calls, d.Calls...)
	}
	for text != "" {
		n := min(len(text), max(1, cut()))
		add(r.Text(text[:n]))
		text = text[n:]
	}
	add(r.Flush())
	return all
}

func TestReader(t *testing.T) {
	call := `<tool_call>{"name":"f","arguments":{"a":1}}</tool_call>`
	for _, c := range []struct {
		in       string
		thinking bool
		want     Delta
	}{
		{"Hello", false, Delta{Text: "Hello"}},
		{" <b>", false, Delta{Text: " <b>"}},
		{"<think>\nhm < 3\n</think>\n\nYes.", false, Delta{Text: "Yes.", Reasoning: "hm < 3"}},
		{"\n <think></think>Yes.", false, Delta{Text: "Yes."}},
		{"hm\n</think>\nYes.", true, Delta{Text: "Yes.", Reasoning: "hm"}},
		{"hm and no end ", true, Delta{Reasoning: "hm and no end "}},
		{"Yes <think>", false, Delta{Text: "Yes <think>"}},
		{"<thi", false, Delta{Text: "<thi"}},
		{"<think>a</think>" + call, false, Delta{Reasoning: "a", Calls: []tools.Call{{Name: "f", Arguments: `{"a":1}`}}}},
		{"", false, Delta{}},
	} {
		for n := range len(c.in) + 1 {
			if got := read(t, question(true), c.thinking, c.in, func() int { return n }); !reflect.DeepEqual(got, c.want) {
				t.Errorf("%q in pieces of %d: %+v, want %+v", c.in, n, got, c.want)
			}
		}
	}
	text := question(true)
	text.Messages, text.Tools = nil, nil
	if got := read(t, text, false, "<think>a</think>", func() int { return 3 }); got.Text != "<think>a</think>" {
		t.Errorf("the answer to a text is split: %+v", got)
	}
}

func TestReaderControl(t *testing.T) {
	q := question(true)
	r, err := NewReader(q, tools.Mistral, false)
	if err != nil {
		t.Fatal(err)
	}
	var all Delta
	for _, d := range []Delta{r.Control("<s>"), r.Control("<think>"), r.Text("a"), r.Control("</think>"), r.Control("[TOOL_CALLS]"), r.Text(`[{"name":"f","arguments":{"a":1}}]`), r.Control("</s>"), r.Flush()} {
		all.Text += d.Text
		all.Reasoning += d.Reasoning
		all.Calls = append(all.Calls, d.Calls...)
	}
	want := Delta{Reasoning: "a", Calls: []tools.Call{{Name: "f", Arguments: `{"a":1}`}}}
	if !reflect.DeepEqual(all, want) {
		t.Errorf("%+v, want %+v", all, want)
	}
}

func TestReaderCuts(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 4))
	bits := []string{"<think>", "</think>", "<", "</", "\n", " ", "a", `<tool_call>{"name":"f","arguments":{}}</tool_call>`, "<tool", "think>"}
	for range 10000 {
		var b strings.Builder
		for range 1 + r.IntN(7) {
			b.WriteString(bits[r.IntN(len(bits))])
		}
		thinking := r.IntN(2) == 0
		one := read(t, question(true), thinking, b.String(), func() int { return b.Len() })
		two := read(t, question(true), thinking, b.String(), func() int { return 1 + r.IntN(5) })
		if !reflect.DeepEqual(one, two) {
			t.Fatalf("%q: at once %+v, in pieces %+v", b.String(), one, two)
		}
	}
}

func TestGrammar(t *testing.T) {
	call := "<tool_call>\n{\"name\": \"f\", \"arguments\": {\"a\":1}}\n</tool_call>"
	for _, c := range []struct {
		name  string
		shape Shape
		c     tools.Choice
		tool  bool
		free  bool
		yes   []string
		no    []string
	}{
		{"free", Shape{}, tools.Choice{}, true, true, nil, nil},
		{"none", Shape{}, tools.Choice{Mode: tools.None}, true, true, nil, nil},
		{"object", Shape{JSON: true}, tools.Choice{}, false, false, []string{`{"x":1}`}, []string{`1`, call}},
		{"schema", Shape{Schema: json.RawMessage(`{"type":"integer"}`)}, tools.Choice{}, false, false, []string{`12`}, []string{`{}`}},
		{"schema or call", Shape{Schema: json.RawMessage(`{"type":"integer"}`)}, tools.Choice{}, true, false, []string{`12`, call}, []string{`{}`}},
		{"required", Shape{JSON: true}, tools.Choice{Mode: tools.Required}, true, false, []string{call}, []string{`{}`}},
	} {
		q := question(c.tool)
		q.Shape, q.Choice = c.shape, c.c
		g, err := Grammar(q, tools.Hermes)
		if err != nil || (g == nil) != c.free {
			t.Errorf("%s: %v, %v", c.name, g, err)
			continue
		}
		for _, s := range c.yes {
			if err := g.Validate([]byte(s)); err != nil {
				t.Errorf("%s: %q: %v", c.name, s, err)
			}
		}
		for _, s := range c.no {
			if g.Validate([]byte(s)) == nil {
				t.Errorf("%s: %q is let through", c.name, s)
			}
		}
	}
	for _, bad := range []*Question{
		{Shape: Shape{Schema: json.RawMessage(`{"not":{}}`)}},
		{Choice: tools.Choice{Mode: tools.Required}},
		{Tools: []chat.Tool{{JSON: []byte(`{}`)}}},
	} {
		var e *Error
		if _, err := Grammar(bad, tools.Hermes); !errors.As(err, &e) || e.Param == "" {
			t.Errorf("%+v: %v", bad, err)
		}
	}
}

func TestOpensThinking(t *testing.T) {
	if !OpensThinking("x<think>\n") || OpensThinking("<think>\n</think>") || OpensThinking("") {
		t.Error("the end of a prompt is misread")
	}
}
