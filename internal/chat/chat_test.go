package chat

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"

	"github.com/geistnet/geist/internal/jinja"
)

var oneCall = []Message{
	{Role: "user", Content: "Weather?"},
	{Role: "assistant", ToolCalls: []ToolCall{{ID: "c1", Name: "get", Arguments: `{"z": 1, "a": "ü"}`}}},
	{Role: "tool", ToolCallID: "c1", Name: "get", Content: "sunny"},
}

func mustRender(t *testing.T, template string, in Input) string {
	t.Helper()
	text, err := Render(template, in)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

func TestChatML(t *testing.T) {
	in := Input{Messages: []Message{{Role: "system", Content: "Be kind."}, {Role: "user", Content: " Hi\n"}}, AddGenerationPrompt: true}
	want := "<|im_start|>system\nBe kind.<|im_end|>\n<|im_start|>user\n Hi\n<|im_end|>\n<|im_start|>assistant\n"
	if got := mustRender(t, ChatML, in); got != want {
		t.Errorf("got  %q\nwant %q", got, want)
	}
	in.AddGenerationPrompt = false
	if got := mustRender(t, ChatML, in); got != strings.TrimSuffix(want, "<|im_start|>assistant\n") {
		t.Errorf("without prompt: got %q", got)
	}
}

// TestVariables holds what templates see.
func TestVariables(t *testing.T) {
	extra := jinja.NewDict()
	extra.Set("enable_thinking", false)
	in := Input{
		Messages: oneCall, Tools: []Tool{{json.RawMessage(`{"type": "function", "b": 1, "a": [1.0, 1e3, 18446744073709551616]}`)}},
		BOS: "<s>", EOS: "</s>", Extra: extra, Now: testNow,
	}
	for template, want := range map[string]string{
		"{{ messages|tojson }}": `[{"role": "user", "content": "Weather?"}, {"role": "assistant", "content": "", "tool_calls": [{"type": "function", "id": "c1", "function": {"name": "get", "arguments": {"z": 1, "a": "ü"}}}]}, {"role": "tool", "content": "sunny", "tool_call_id": "c1", "name": "get"}]`,
		"{{ tools|tojson }}":    `[{"type": "function", "b": 1, "a": [1.0, 1000.0, 18446744073709551616]}]`,
		"{{ bos_token }}{{ eos_token }}{{ enable_thinking }}{{ documents }}{{ add_generation_prompt }}": "<s></s>FalseNoneFalse",
		"{{ strftime_now('%d %b %Y') }}": "06 Jul 2025",
		"{% for m in messages %}{% if m['content'] is none %}{{ m.role }}{% endif %}{% endfor %}": "assistant",
		"{% for c in messages[1].tool_calls %}{{ 'args: ' + c.function.arguments }}{% endfor %}":  `args: {"z": 1, "a": "ü"}`,
		"{{ messages[1].content|length }}": "0",
	} {
		if got := mustRender(t, template, in); got != want {
			t.Errorf("%s:\ngot  %s\nwant %s", template, got, want)
		}
	}
	if got := mustRender(t, "{{ tools is none }}", Input{}); got != "True" {
		t.Errorf("without tools: tools is none gives %s", got)
	}
}

func TestReasoningKey(t *testing.T) {
	in := Input{Messages: []Message{{Role: "assistant", Content: "4", Reasoning: "2+2"}}}
	for _, template := range []string{
		"{{ messages[0].reasoning_content }}", "{{ messages[0]['thinking'] }}", "{{ messages[0].reasoning }}",
		`{{ messages[0]["thought"] }}`, "{{ messages[0].thinking and '' }}{{ messages[0].reasoning_content }}",
	} {
		if got := mustRender(t, template, in); got != "2+2" {
			t.Errorf("%s: got %q", template, got)
		}
	}
}

func TestRenderErrors(t *testing.T) {
	var e *jinja.Error
	_, err := Render("{{ raise_exception('no') }}", Input{Messages: oneCall})
	if !errors.As(err, &e) || e.Kind != jinja.RaisedError || e.Message != "no" {
		t.Errorf("got %v", err)
	}
	_, err = Render("{{ 1 + messages[0].role }}", Input{Messages: oneCall})
	if !errors.As(err, &e) || e.Kind != jinja.TypeError {
		t.Errorf("got %v", err)
	}
	if _, err = Render("{% if", Input{}); !errors.As(err, &e) || e.Kind != jinja.SyntaxError {
		t.Errorf("got %v", err)
	}
	if _, err = Render("x", Input{Tools: []Tool{{json.RawMessage(`{"a":`)}}}); err == nil || !strings.Contains(err.Error(), "read tool 0") {
		t.Errorf("broken tool: got %v", err)
	}
	text, err := Render("{{ messages[0].content }}", Input{Messages: []Message{{Role: "user", Content: "a\xffb"}}})
	if err != nil || text != "a\uFFFDb" {
		t.Errorf("invalid UTF-8: got %q, %v", text, err)
	}
}

func TestFind(t *testing.T) {
	for _, c := range []struct {
		keys  string // of the metadata
		tools bool
		want  string
	}{
		{"", false, ""},
		{"tokenizer.chat_template", true, "tokenizer.chat_template"},
		{"tokenizer.chat_template tokenizer.chat_template.tool_use", false, "tokenizer.chat_template"},
		{"tokenizer.chat_template tokenizer.chat_template.tool_use", true, "tokenizer.chat_template.tool_use"},
		{"tokenizer.chat_template.default", false, "tokenizer.chat_template.default"},
		{"tokenizer.chat_template.rag", true, ""},
	} {
		template, key := Find(func(key string) (string, bool) {
			for k := range strings.FieldsSeq(c.keys) {
				if k == key {
					return "template of " + key, true
				}
			}
			return "", false
		}, c.tools)
		want := "template of " + c.want
		if c.want == "" {
			want = ChatML
		}
		if key != c.want || template != want {
			t.Errorf("%q, tools %v: got key %q, template %q", c.keys, c.tools, key, template)
		}
	}
}

func TestParseMessages(t *testing.T) {
	messages, err := ParseMessages([]byte(`[
		{"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}], "other": 1},
		{"role": "user", "content": [{"type": "image_url", "image_url": {}}, {"type": "text", "text": "b"}]},
		{"role": "assistant", "content": null, "reasoning_content": "r", "tool_calls": [
			{"id": "1", "type": "function", "function": {"name": "f", "arguments": "{\"b\": 1, \"a\": 2}"}},
			{"id": "2", "type": "function", "function": {"name": "g", "arguments": {"b": 1, "a": 2}}}]},
		{"role": "tool", "content": "x", "tool_call_id": "1", "name": "f"}]`))
	if err != nil {
		t.Fatal(err)
	}
	got, err := json.Marshal(messages)
	if err != nil {
		t.Fatal(err)
	}
	want := `[{"Role":"user","Content":"ab","Parts":null,"Reasoning":"","ToolCalls":null,"ToolCallID":"","Name":""},` +
		`{"Role":"user","Content":"","Parts":[{"Type":"image_url","Text":""},{"Type":"text","Text":"b"}],"Reasoning":"","ToolCalls":null,"ToolCallID":"","Name":""},` +
		`{"Role":"assistant","Content":"","Parts":null,"Reasoning":"r","ToolCalls":[{"ID":"1","Name":"f","Arguments":"{\"b\": 1, \"a\": 2}"},{"ID":"2","Name":"g","Arguments":"{\"b\": 1, \"a\": 2}"}],"ToolCallID":"","Name":""},` +
		`{"Role":"tool","Content":"x","Parts":null,"Reasoning":"","ToolCalls":null,"ToolCallID":"1","Name":"f"}]`
	if string(got) != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	for _, bad := range []string{``, `{}`, `[{"content": "x"}]`, `[{"role": "user", "content": 5}]`, `[{"role": "user", "content": [5]}]`, `[{"role": 1}]`} {
		if _, err := ParseMessages([]byte(bad)); err == nil {
			t.Errorf("%s: no error", bad)
		}
	}
}

func TestParseTools(t *testing.T) {
	tools, err := ParseTools([]byte(`[{"b": 1, "a": 2}, {}]`))
	if err != nil || len(tools) != 2 || string(tools[0].JSON) != `{"b": 1, "a": 2}` {
		t.Errorf("got %s, %v", tools, err)
	}
	if tools, err := ParseTools([]byte(`null`)); err != nil || len(tools) != 0 {
		t.Errorf("null: got %s, %v", tools, err)
	}
	for _, bad := range []string{``, `{}`, `[1]`, `[null]`, `["x"]`} {
		if _, err := ParseTools([]byte(bad)); err == nil {
			t.Errorf("%s: no error", bad)
		}
	}
}

// dumpJSON writes a value as the tojson filter does.
func dumpJSON(t *testing.T, v jinja.Value) string {
	t.Helper()
	vars := jinja.NewDict()
	vars.Set("v", v)
	tmpl, err := jinja.Parse("dump", "{{ v|tojson }}")
	if err != nil {
		t.Fatal(err)
	}
	text, err := tmpl.Render(vars, jinja.Options{})
	if err != nil {
		t.Fatal(err)
	}
	return text
}

func TestDecodeJSON(t *testing.T) {
	for in, want := range map[string]string{
		` {"b":1,"a":{"d":[],"c":null},"b":2} `:                          `{"b": 2, "a": {"d": [], "c": null}}`,
		`[1,-1,0,1.0,1e2,1E400,-0,-0.0,1.5e-7]`:                          `[1, -1, 0, 1.0, 100.0, Infinity, 0, -0.0, 1.5e-07]`,
		`[9223372036854775807,9223372036854775808,-9223372036854775809]`: `[9223372036854775807, 9223372036854775808, -9223372036854775809]`,
		`"a\u00e9\ud83d\ude42\n\ud800"`:                                  "\"aé🙂\\n\uFFFD\"",
		`true`:                                                           `true`,
		`"\u2028</"`:                                                     "\"\u2028</\"",
	} {
		v, err := DecodeJSON([]byte(in))
		if err != nil {
			t.Errorf("%s: %v", in, err)
			continue
		}
		if got := dumpJSON(t, v); got != want {
			t.Errorf("%s: got %s, want %s", in, got, want)
		}
	}
	for _, bad := range []string{
		"", "{", "[", "[1,]", `{"a"}`, `{"a":}`, `{1:2}`, "1 2", "[]]", "nul", `"`, "01", "[1}",
		strings.Repeat("[", 1000) + strings.Repeat("]", 1000), strings.Repeat("[", 1_000_000), "1" + strings.Repeat("0", 5000),
	} {
		if _, err := DecodeJSON([]byte(bad)); err == nil {
			t.Errorf("%.40s: no error", bad)
		}
	}
}

func FuzzDecodeJSON(f *testing.F) {
	for _, s := range []string{weatherTool, searchTool, commandTool, `[1, -0.0, "\ud83d\ude42", {"a": {}, "a": null}]`, `1e999`, `[[`} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		v, err := DecodeJSON(data)
		if err != nil {
			return
		}
		if !json.Valid(data) {
			t.Fatalf("accepted %q", data)
		}
		text := dumpJSON(t, v)
		if strings.Contains(text, "Infinity") {
			return // Python's words for numbers that JSON has not
		}
		again, err := DecodeJSON([]byte(text))
		if err != nil {
			t.Fatalf("%q became %q: %v", data, text, err)
		}
		if got := dumpJSON(t, again); got != text {
			t.Fatalf("%q became %q, then %q", data, text, got)
		}
	})
}

func FuzzParseMessages(f *testing.F) {
	f.Add([]byte(`[{"role":"user","content":"x"},{"role":"assistant","content":null,"tool_calls":[{"function":{"name":"f","arguments":"{}"}}]}]`))
	f.Add([]byte(`[{"role":"user","content":[{"type":"text","text":"x"},{"type":"image"}]}]`))
	tmpl, err := Parse("fuzz", "{{ messages|tojson }}")
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		messages, err := ParseMessages(data)
		if err != nil {
			return
		}
		text, err := tmpl.Render(Input{Messages: messages})
		if err != nil {
			t.Fatal(err)
		}
		if v, err := DecodeJSON([]byte(text)); err != nil || v.(*jinja.List) == nil {
			t.Fatalf("%q: %v", text, err)
		}
	})
}
