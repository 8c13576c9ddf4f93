package main

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// TestQuickstarts: each has at most five commands, and the ones of geist are
// understood.
func TestQuickstarts(t *testing.T) {
	pages, err := filepath.Glob("../../docs/quickstart-*.md")
	if err != nil || len(pages) < 3 {
		t.Fatalf("%d quickstarts, %v", len(pages), err)
	}
	block := regexp.MustCompile("(?s)```sh\n(.*?)```")
	ours := regexp.MustCompile(`^(?:sudo -u \S+ )?(?:[A-Z_]+=\S+ )*geist (.*)`)
	checked := 0
	for _, page := range append(pages, "../../packaging/README.md", "../../docs/operations.md", "../../docs/first-minute.md") {
		b, err := os.ReadFile(page)
		if err != nil {
			t.Fatal(err)
		}
		commands := 0
		for _, m := range block.FindAllStringSubmatch(string(b), -1) {
			for _, line := range strings.Split(strings.TrimSpace(m[1]), "\n") {
				commands++
				m := ours.FindStringSubmatch(line)
				if m == nil {
					continue
				}
				checked++
				e, _, stderr := command(t)
				if code := e.run(t.Context(), append(words(m[1]), "--help")); code != exitOK {
					t.Errorf("%s: %s: %s", filepath.Base(page), line, stderr)
				}
			}
		}
		if strings.Contains(page, "quickstart") && (commands == 0 || commands > 5) {
			t.Errorf("%s has %d commands, want 1 to 5", filepath.Base(page), commands)
		}
	}
	if checked < 10 {
		t.Errorf("only %d commands were checked", checked)
	}
}

// words splits a line as a shell does, with double quotes.
func words(line string) []string {
	var out []string
	for i, part := range strings.Split(line, `"`) {
		if i%2 == 1 {
			out = append(out, part)
			continue
		}
		out = append(out, strings.Fields(part)...)
	}
	return out
}

// TestReadmeTales runs the commands whose answers README.md shows and demands the
// same text.
func TestReadmeTales(t *testing.T) {
	b, err := os.ReadFile("../../README.md")
	if err != nil {
		t.Fatal(err)
	}
	shown := regexp.MustCompile(`(?m)^    geist (run tales .*)\n\n((?:>.*\n)+)`).FindAllStringSubmatch(string(b), -1)
	if len(shown) < 3 {
		t.Fatalf("%d tales in the README, want 3", len(shown))
	}
	for _, m := range shown {
		var want strings.Builder
		for _, line := range strings.Split(strings.TrimSpace(m[2]), "\n") {
			line = strings.TrimPrefix(strings.TrimPrefix(line, ">"), " ")
			if line == "" {
				want.WriteString("\n\n")
				continue
			}
			if s := want.String(); s != "" && !strings.HasSuffix(s, "\n") {
				want.WriteByte(' ')
			}
			want.WriteString(line)
		}
		e, stdout, stderr := command(t)
		if code := e.run(t.Context(), words(m[1])); code != exitOK {
			t.Fatalf("geist %s: exit code %d, %s", m[1], code, stderr)
		}
		if got := strings.TrimSpace(stdout.String()); got != want.String() {
			t.Errorf("geist %s\n%s\nREADME has\n%s", m[1], got, want.String())
		}
	}
}
