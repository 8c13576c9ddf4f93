package chat

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/geistnet/geist/internal/jinja"
)

const (
	tableFile  = "../../docs/templates.md"
	tableStart = "<!-- table: go test ./internal/chat -run TestTable -update -->\n"
	tableEnd   = "<!-- end of table -->\n"
)

// TestTable holds the table in the documentation to what Render does.
func TestTable(t *testing.T) {
	templates := templateFiles(t)
	columns := []string{"user", "turns", "tools", "call", "calls"}
	var b strings.Builder
	b.WriteString("| template | question | system, turns | tools | call, result | two calls | why not |\n|---|---|---|---|---|---|---|\n")
	for _, name := range templates {
		tmpl, err := Parse(name, readTemplate(t, name))
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		cells := make([]string, len(columns))
		var reasons []string
		for _, c := range conversations() {
			i := slices.Index(columns, c.name)
			if i < 0 {
				continue
			}
			_, err := tmpl.Render(c.in)
			cells[i] = "yes"
			if err != nil {
				var reason string
				cells[i], reason = explainError(t, tmpl, c.in, err)
				if !slices.Contains(reasons, reason) {
					reasons = append(reasons, reason)
				}
			}
		}
		fmt.Fprintf(&b, "| %s | %s | %s |\n", name, strings.Join(cells, " | "), strings.Join(reasons, "; "))
	}
	doc, err := os.ReadFile(tableFile)
	if err != nil {
		t.Fatal(err)
	}
	before, rest, ok1 := strings.Cut(string(doc), tableStart)
	table, after, ok2 := strings.Cut(rest, tableEnd)
	if !ok1 || !ok2 {
		t.Fatalf("%s has no table", tableFile)
	}
	if table == b.String() {
		return
	}
	if !*update {
		t.Fatalf("the table in %s is out of date; run with -update and read the difference", tableFile)
	}
	if err := os.WriteFile(tableFile, []byte(before+tableStart+b.String()+tableEnd+after), 0o644); err != nil {
		t.Fatal(err)
	}
}

// explainError gives the cell and the reason for a conversation that a
// template does not render.
func explainError(t *testing.T, tmpl *Template, in Input, err error) (cell, reason string) {
	t.Helper()
	var e *jinja.Error
	if !errors.As(err, &e) {
		t.Fatal(err)
	}
	in.AllowMutation = true
	if _, err := tmpl.Render(in); err == nil {
		return "mutation", "changes a list, which needs AllowMutation"
	}
	if e.Kind == jinja.RaisedError {
		return "refuses", "it says: " + e.Message
	}
	return "no", strings.ReplaceAll(fmt.Sprintf("%s: %s", e.Kind, e.Message), "|", "\\|")
}
