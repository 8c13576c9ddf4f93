package geist

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

var (
	codeBlock = regexp.MustCompile("(?ms)^```[a-z]*\n(.*?)^```$")
	link      = regexp.MustCompile(`\]\(([^)#\s]+)(#[^)\s]*)?\)`)
)

// TestReadme: the README holds two commands, one for the main job and one for the tests.
func TestReadme(t *testing.T) {
	b, err := os.ReadFile("README.md")
	if err != nil {
		t.Fatal(err)
	}
	var commands []string
	for _, m := range codeBlock.FindAllStringSubmatch(string(b), -1) {
		commands = append(commands, strings.Split(strings.TrimSpace(m[1]), "\n")...)
	}
	if len(commands) != 2 || !strings.HasPrefix(commands[0], "go run ./cmd/geist ") || commands[1] != "./check" {
		t.Errorf("the code blocks of README.md hold %q, want the main job and ./check", commands)
	}
}

// TestLinks: what the pages point to is there.
func TestLinks(t *testing.T) {
	pages, links := 0, 0
	err := filepath.WalkDir(".", func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && p != "." && (d.Name() == "testdata" || d.Name() == "node_modules" || d.Name()[0] == '.') {
			return filepath.SkipDir
		}
		if d.IsDir() || filepath.Ext(p) != ".md" {
			return nil
		}
		pages++
		b, err := os.ReadFile(p)
		if err != nil {
			return err
		}
		for _, m := range link.FindAllStringSubmatch(string(b), -1) {
			if strings.Contains(m[1], "://") {
				continue
			}
			links++
			if _, err := os.Stat(filepath.Join(filepath.Dir(p), m[1])); err != nil {
				t.Errorf("%s points to %s: %v", p, m[1], err)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if pages < 5 || links < 5 {
		t.Errorf("saw %d pages and %d links: the test looks in the wrong place", pages, links)
	}
}

// TestArchitectureNamesAll: no package is left out of the page that explains them.
func TestArchitectureNamesAll(t *testing.T) {
	b, err := os.ReadFile("ARCHITECTURE.md")
	if err != nil {
		t.Fatal(err)
	}
	pkgs, err := scan(".")
	if err != nil {
		t.Fatal(err)
	}
	delete(pkgs, ".")
	if len(pkgs) < 3 {
		t.Fatalf("the scan found %d packages", len(pkgs))
	}
	for dir := range pkgs {
		if !strings.Contains(string(b), "`"+dir+"`") {
			t.Errorf("ARCHITECTURE.md does not name %s", dir)
		}
	}
	for _, row := range layers {
		for _, dir := range row {
			if pkgs[dir] == nil && !slices.Contains(strings.Split(string(b), "`"), dir) {
				t.Errorf("ARCHITECTURE.md does not name %s, which is planned", dir)
			}
		}
	}
}
