package chat

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/geistnet/geist/internal/jinja"
)

var update = flag.Bool("update", false, "write testdata/golden.txt from the oracle, and the table in docs/templates.md")

const (
	templateDir = "../../../shared/data/templates"
	goldenFile  = "testdata/golden.txt"
	python      = "/usr/bin/python3"
)

// testNow is the oracle's clock.
var testNow = time.Date(2025, 7, 6, 9, 8, 7, 0, time.UTC)

// conversation is one input of the corpus test.
type conversation struct {
	name   string
	in     Input
	asText bool // arguments of tool calls as JSON text
}

const weatherTool = `{"type":"function","function":{"name":"get_weather","description":"Weather of a city, \"now\" & <later>.","parameters":{"type":"object","properties":{"city":{"type":"string","description":"The city's name"},"unit":{"type":"string","enum":["celsius","fahrenheit"]},"days":{"type":"integer","default":1,"minimum":0}},"required":["city"]}}}`

const searchTool = `{"type":"function","function":{"name":"search","description":"Suche im Netz – schnell","parameters":{"type":"object","required":["query","filters"],"properties":{"query":{"type":"string"},"filters":{"type":"array","items":{"type":"object","properties":{"key":{"type":"string"},"limit":{"type":["integer","null"],"maximum":18446744073709551615},"weight":{"type":"number","default":1.0}}}}},"additionalProperties":false}}}`

const commandTool = `{"name":"get_weather","description":"Weather.","parameter_definitions":{"city":{"type":"str","description":"A city","required":true},"days":{"type":"int","description":"How many"}}}`

func conversations() []conversation {
	system := Message{Role: "system", Content: "You are terse."}
	user := Message{Role: "user", Content: "What is 2+2?"}
	answer := Message{Role: "assistant", Content: "4"}
	odd := "Say \"hi\", it's <b>fun</b> & \\n\n\tZeile zwei: grüß Gott, 你好 🙂 {{ x }} {% y %}\n"
	call := Message{Role: "assistant", ToolCalls: []ToolCall{{ID: "call00001", Name: "get_weather", Arguments: `{"city":"Zürich \"HB\"","days":2,"unit":null,"exact":true,"at":[1.5,{"x":[]}]}`}}}
	result := Message{Role: "tool", ToolCallID: "call00001", Name: "get_weather", Content: `{"temp": 21.5, "sky": "heiter"}`}
	calls := Message{Role: "assistant", Content: "Let me look.", ToolCalls: []ToolCall{
		{ID: "call00001", Name: "get_weather", Arguments: `{"city":"Bern"}`},
		{ID: "call00002", Name: "search", Arguments: `{"query":"a\nb","filters":[{"key":"k","limit":3,"weight":0.5}]}`},
	}}
	result2 := Message{Role: "tool", ToolCallID: "call00002", Name: "search", Content: "nothing"}
	thought := answer
	thought.Reasoning = "Two and two.\nFour."
	tools := []Tool{{json.RawMessage(weatherTool)}, {json.RawMessage(searchTool)}}

	conv := func(name string, generate bool, tools []Tool, messages ...Message) conversation {
		return conversation{name: name, in: Input{
			Messages: messages, Tools: tools, AddGenerationPrompt: generate,
			BOS: "<s>", EOS: "</s>", Now: testNow,
		}}
	}
	extra := func(c conversation, key string, value jinja.Value) conversation {
		if c.in.Extra == nil {
			c.in.Extra = jinja.NewDict()
		}
		c.in.Extra.Set(key, value)
		return c
	}
	text := func(c conversation) conversation { c.asText = true; return c }
	mutable := func(c conversation) conversation { c.in.AllowMutation = true; return c }
	parts := Message{Role: "user", Parts: []Part{{Type: "text", Text: "Look"}, {Type: "text", Text: " here"}}}
	image := Message{Role: "user", Parts: []Part{{Type: "image"}, {Type: "text", Text: "What is this?"}}}
	return []conversation{
		conv("user", true, nil, user),
		conv("user, no prompt", false, nil, user),
		conv("turns", true, nil, system, user, answer, user),
		conv("turns, no prompt", false, nil, system, user, answer),
		conv("odd text", true, nil, Message{Role: "system", Content: odd}, Message{Role: "user", Content: odd}, Message{Role: "assistant", Content: odd}, Message{Role: "user", Content: odd}),
		conv("tools", true, tools, system, user),
		conv("tools, no system", true, tools, user),
		conv("call", true, tools, system, user, call, result),
		text(conv("call, text", true, tools, system, user, call, result)),
		mutable(conv("call, mutable", true, tools, system, user, call, result)),
		conv("calls", false, tools, user, calls, result, result2, answer),
		text(mutable(conv("calls, text, mutable", false, tools, user, calls, result, result2, answer))),
		conv("call pending", false, tools, user, call),
		conv("thoughts", true, nil, user, thought, user),
		extra(conv("thinking on", true, nil, system, user, thought, user), "enable_thinking", true),
		extra(conv("thinking off", true, nil, system, user, thought, user), "enable_thinking", false),
		extra(conv("thinking and tools", true, tools, user, calls, result, result2, thought, user), "thinking", true),
		extra(conv("low effort", true, nil, user), "reasoning_effort", "low"),
		conv("parts", true, nil, parts, answer, image),
		conv("two users", true, nil, user, user),
		conv("late system", true, nil, user, answer, system),
		conv("system only", true, nil, system),
		conv("odd role", true, nil, Message{Role: "narrator", Content: "Once"}),
		conv("no messages", true, nil),
		extra(extra(conv("functions", true, nil, system, user, call, result), "functions", "["+weatherTool+"]"), "datetime", "2025-07-06"),
		conv("command tools", true, []Tool{{json.RawMessage(commandTool)}}, system, user, call, result),
	}
}

type job struct {
	Source  string          `json:"source"`
	Vars    json.RawMessage `json:"vars"`
	Mutable bool            `json:"mutable"`
}

type outcome struct {
	Text    *string `json:"text"`
	Kind    string  `json:"kind"`
	Message string  `json:"message"`
}

// line is the outcome as the golden file has it.
func (o outcome) line() string {
	if o.Text != nil {
		return fmt.Sprintf("ok %x", sha256.Sum256([]byte(*o.Text)))
	}
	return fmt.Sprintf("%s %q", o.Kind, o.Message)
}

// askOracle renders jobs with Python.
func askOracle(t *testing.T, jobs []job) []outcome {
	t.Helper()
	in, err := json.Marshal(jobs)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(python, "testdata/oracle.py")
	cmd.Stdin = bytes.NewReader(in)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("run the oracle: %v\n%s", err, stderr.String())
	}
	var results []outcome
	if err := json.Unmarshal(out, &results); err != nil {
		t.Fatal(err)
	}
	if len(results) != len(jobs) {
		t.Fatalf("the oracle gave %d results for %d jobs", len(results), len(jobs))
	}
	for i := range results {
		results[i].Kind = ourKind(results[i].Kind)
	}
	return results
}

// ourKind is the jinja.ErrorKind for a Python exception.
func ourKind(python string) string {
	switch python {
	case "TemplateSyntaxError", "TemplateAssertionError":
		return string(jinja.SyntaxError)
	case "TemplateRuntimeError", "FilterArgumentError", "AttributeError":
		return string(jinja.RuntimeError)
	case "KeyError", "IndexError", "ZeroDivisionError":
		return string(jinja.ValueError)
	case "OverflowError":
		return string(jinja.LimitError)
	}
	return python
}

func needOracle(t *testing.T) {
	t.Helper()
	if exec.Command(python, "-c", "import jinja2").Run() != nil {
		t.Skipf("%s has no jinja2; apt-get install python3-jinja2", python)
	}
}

// templateFiles are the names of the templates without .jinja.
func templateFiles(t *testing.T) []string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(templateDir, "*.jinja"))
	if err != nil {
		t.Fatal(err)
	}
	if len(files) == 0 {
		t.Skipf("no templates in %s; they are not part of the repository", templateDir)
	}
	for i, f := range files {
		files[i] = strings.TrimSuffix(filepath.Base(f), ".jinja")
	}
	return files
}

func readTemplate(t *testing.T, name string) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(templateDir, name+".jinja"))
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// renderOne renders as the corpus has it: in one form, as Python would.
func renderOne(source string, c conversation) outcome {
	tmpl, err := Parse("t", source)
	if err == nil {
		var text string
		if text, err = tmpl.render(c.in, form{c.asText, tmpl.nullContent}); err == nil {
			return outcome{Text: &text}
		}
	}
	var e *jinja.Error
	if !errors.As(err, &e) {
		return outcome{Kind: "error", Message: err.Error()}
	}
	return outcome{Kind: string(e.Kind), Message: e.Message}
}

// variablesJSON is what the template sees, for the oracle. A template that does
// not parse is shown the variables of an empty one.
func variablesJSON(t *testing.T, source string, c conversation) json.RawMessage {
	t.Helper()
	tmpl, err := Parse("t", source)
	if err != nil {
		tmpl = &Template{reasoningKey: reasoningKey(source), nullContent: contentIsNone.MatchString(source)}
	}
	vars, err := tmpl.variables(c.in, form{c.asText, tmpl.nullContent})
	if err != nil {
		t.Fatal(err)
	}
	dump, err := jinja.Parse("dump", "{{ vars|tojson }}")
	if err != nil {
		t.Fatal(err)
	}
	outer := jinja.NewDict()
	outer.Set("vars", vars)
	text, err := dump.Render(outer, jinja.Options{})
	if err != nil {
		t.Fatal(err)
	}
	return json.RawMessage(text)
}

// oracleLines are the golden lines of all templates, by "template | conversation".
func oracleLines(t *testing.T, templates []string) (keys []string, results map[string]outcome) {
	t.Helper()
	var jobs []job
	for _, name := range templates {
		source := readTemplate(t, name)
		for _, c := range conversations() {
			keys = append(keys, name+" | "+c.name)
			jobs = append(jobs, job{source, variablesJSON(t, source, c), c.in.AllowMutation})
		}
	}
	results = make(map[string]outcome)
	for i, o := range askOracle(t, jobs) {
		results[keys[i]] = o
	}
	return keys, results
}

// TestOracle renders every template with every conversation here and in
// Python.
func TestOracle(t *testing.T) {
	needOracle(t)
	templates := templateFiles(t)
	keys, want := oracleLines(t, templates)
	bad := 0
	for _, name := range templates {
		source := readTemplate(t, name)
		for _, c := range conversations() {
			key := name + " | " + c.name
			got, want := renderOne(source, c), want[key]
			if got.line() == want.line() {
				continue
			}
			bad++
			t.Errorf("%s:\n%s", key, explain(got, want))
		}
	}
	t.Logf("%d of %d equal", len(keys)-bad, len(keys))
	if *update {
		writeGolden(t, keys, want)
	}
}

// explain shows where two outcomes part.
func explain(got, want outcome) string {
	if got.Text == nil || want.Text == nil {
		return fmt.Sprintf("got  %.300s\nwant %.300s", show(got), show(want))
	}
	g, w := *got.Text, *want.Text
	i := 0
	for i < len(g) && i < len(w) && g[i] == w[i] {
		i++
	}
	cut := func(s string) string { return s[max(0, i-60):min(len(s), i+60)] }
	return fmt.Sprintf("at byte %d\ngot  %q\nwant %q", i, cut(g), cut(w))
}

func show(o outcome) string {
	if o.Text != nil {
		return fmt.Sprintf("text %q", *o.Text)
	}
	return o.line()
}

func writeGolden(t *testing.T, keys []string, results map[string]outcome) {
	t.Helper()
	var b strings.Builder
	b.WriteString("# What Python's Jinja2 3.1 makes of each template and conversation: the SHA-256\n# of the text, or the error. Written by go test ./internal/chat -run TestOracle -update.\n")
	for _, key := range keys {
		fmt.Fprintf(&b, "%s | %s\n", key, results[key].line())
	}
	if err := os.WriteFile(goldenFile, []byte(b.String()), 0o644); err != nil {
		t.Fatal(err)
	}
}

// TestGolden is TestOracle without Python.
func TestGolden(t *testing.T) {
	templates := templateFiles(t)
	b, err := os.ReadFile(goldenFile)
	if err != nil {
		t.Fatal(err)
	}
	want := make(map[string]string)
	for line := range strings.Lines(string(b)) {
		if strings.HasPrefix(line, "#") {
			continue
		}
		parts := strings.SplitN(strings.TrimSuffix(line, "\n"), " | ", 3)
		if len(parts) != 3 {
			t.Fatalf("golden line %q", line)
		}
		want[parts[0]+" | "+parts[1]] = parts[2]
	}
	for _, name := range templates {
		source := readTemplate(t, name)
		for _, c := range conversations() {
			key := name + " | " + c.name
			if got := renderOne(source, c).line(); got != want[key] {
				t.Errorf("%s: got %s, want %s", key, got, want[key])
			}
			delete(want, key)
		}
	}
	for key := range want {
		t.Errorf("%s is in %s and was not rendered", key, goldenFile)
	}
}
