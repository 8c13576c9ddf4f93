package geist

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// TestTroubleshooting: the messages that docs/troubleshooting.md explains are
// somewhere in the program; "…" stands for what changes.
func TestTroubleshooting(t *testing.T) {
	b, err := os.ReadFile("docs/troubleshooting.md")
	if err != nil {
		t.Fatal(err)
	}
	var source strings.Builder
	err = filepath.WalkDir(".", func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && p != "." && (d.Name() == "testdata" || d.Name()[0] == '.') {
			return filepath.SkipDir
		}
		if filepath.Ext(p) != ".go" || strings.HasSuffix(p, "_test.go") {
			return nil
		}
		text, err := os.ReadFile(p)
		source.Write(text)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	// What is formatted is cut there.
	verbs := regexp.MustCompile(`\\?"?%[a-z0-9.*]+\\?"?`)
	all := verbs.ReplaceAllString(source.String(), "…")
	rows, messages := 0, regexp.MustCompile("`([^`]+)`")
	for _, line := range strings.Split(string(b), "\n") {
		if !strings.HasPrefix(line, "| `") {
			continue
		}
		cell, _, _ := strings.Cut(line[2:], " |")
		for _, m := range messages.FindAllStringSubmatch(cell, -1) {
			rows++
			for _, part := range regexp.MustCompile(`"?…"?|[0-9]+`).Split(m[1], -1) {
				if part = strings.Trim(part, " ,:"); part != "" && !strings.Contains(all, part) {
					t.Errorf("no message of the program holds %q of %q", part, m[1])
				}
			}
		}
	}
	if rows < 20 {
		t.Errorf("saw %d messages: the test looks in the wrong place", rows)
	}
}
