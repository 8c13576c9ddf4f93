package jinja

import (
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"
)

var update = flag.Bool("update", false, "write testdata/snippets.golden from Python's Jinja2")

const (
	snippetFile = "testdata/snippets.golden"
	oracle      = "../chat/testdata/oracle.py"
	python      = "/usr/bin/python3"
)

// testNow is the oracle's clock.
var testNow = time.Date(2025, 7, 6, 9, 8, 7, 0, time.UTC)

func dict(keysAndValues ...Value) *Dict {
	d := NewDict()
	for i := 0; i < len(keysAndValues); i += 2 {
		d.set(keysAndValues[i], keysAndValues[i+1])
	}
	return d
}

func snippetVars() *Dict {
	person := func(name string, age int64, admin bool, tags ...Value) *Dict {
		return dict("name", name, "age", age, "admin", admin, "tags", NewList(tags...))
	}
	return dict(
		"n", int64(3), "s", "abcdef", "uni", "aé🙂z", "float", 3.14159, "neg", -2.5,
		"big", BigInt("18446744073709551615"),
		"list", NewList(int64(1), int64(2), int64(3)),
		"user", person("ann", 30, true, "x", "y"),
		"users", NewList(person("ann", 30, true, "x", "y"), person("Bob", 25, false, "z"), person("cid", 30, false)),
		"odd", dict("items", "I", "get", "G"),
		"tree", NewList(dict("v", int64(1), "kids", NewList(dict("v", int64(2), "kids", NewList()), dict("v", int64(3), "kids", NewList(dict("v", int64(4), "kids", NewList())))))),
	)
}

// run renders a template and describes the result in one line.
func run(source string, vars *Dict, opt Options) string {
	tmpl, err := Parse("test", source)
	var text string
	if err == nil {
		text, err = tmpl.Render(vars, opt)
	}
	var e *Error
	switch {
	case err == nil:
		return fmt.Sprintf("text %q", text)
	case errors.As(err, &e):
		return fmt.Sprintf("%s %q", e.Kind, e.Message)
	}
	return "another error: " + err.Error()
}

func TestSnippets(t *testing.T) {
	if *update {
		updateSnippets(t)
	}
	b, err := os.ReadFile(snippetFile)
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(strings.TrimSuffix(string(b), "\n"), "\n")
	if len(lines) != len(snippets) {
		t.Fatalf("%d results for %d snippets; run with -update", len(lines), len(snippets))
	}
	for i, source := range snippets {
		got := run(source, snippetVars(), Options{Now: testNow})
		if got != lines[i] {
			t.Errorf("%q:\ngot  %s\nwant %s", source, got, lines[i])
		}
	}
}

// updateSnippets asks Python.
func updateSnippets(t *testing.T) {
	t.Helper()
	type job struct {
		Source  string          `json:"source"`
		Vars    json.RawMessage `json:"vars"`
		Mutable bool            `json:"mutable"`
	}
	dump, err := Parse("dump", "{{ vars|tojson }}")
	if err != nil {
		t.Fatal(err)
	}
	vars, err := dump.Render(dict("vars", snippetVars()), Options{})
	if err != nil {
		t.Fatal(err)
	}
	var jobs []job
	for _, s := range snippets {
		jobs = append(jobs, job{Source: s, Vars: json.RawMessage(vars)})
	}
	in, err := json.Marshal(jobs)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(python, oracle)
	cmd.Stdin = bytes.NewReader(in)
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("run the oracle: %v", err)
	}
	var results []struct {
		Text          *string
		Kind, Message string
	}
	if err := json.Unmarshal(out, &results); err != nil {
		t.Fatal(err)
	}
	var b strings.Builder
	for _, r := range results {
		if r.Text != nil {
			fmt.Fprintf(&b, "text %q\n", *r.Text)
			continue
		}
		kind := r.Kind
		switch kind {
		case "TemplateSyntaxError", "TemplateAssertionError":
			kind = "SyntaxError"
		case "TemplateRuntimeError", "FilterArgumentError", "AttributeError":
			kind = "RuntimeError"
		case "KeyError", "IndexError", "ZeroDivisionError":
			kind = "ValueError"
		case "OverflowError":
			kind = "LimitError"
		}
		fmt.Fprintf(&b, "%s %q\n", kind, r.Message)
	}
	if err := os.WriteFile(snippetFile, []byte(b.String()), 0o644); err != nil {
		t.Fatal(err)
	}
}
