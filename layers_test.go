package geist

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

const module = "github.com/geistnet/geist"

// layers lists every package of the module, lowest row first. A package may
// import only packages of strictly lower rows; one that is not listed fails.
// Listing a package before it exists is allowed: the order is the plan.
var layers = [][]string{
	{"arith", "merkle", "internal/console", "internal/fence", "internal/arena", "internal/matmul"},
	{"sat", "internal/gguf", "internal/jinja", "internal/constrain", "internal/kernel", "internal/hashmany"},
	{"internal/quant", "internal/tokenizer", "internal/chat", "internal/tools", "internal/store", "internal/rowstore"},
	{"ghost", "internal/synth", "internal/dialog"},
	{"internal/model", "internal/rows", "internal/corpus", "internal/prompt"},
	{"audit", "internal/train", "internal/engine", "internal/author", "internal/nostr", "internal/pay"},
	{"internal/tales", "internal/selftest", "internal/bench", "internal/local", "internal/prove"},
	{"internal/job", "internal/market"},
	{"internal/asker", "internal/provider"},
	{"internal/web", "internal/gateway"},
	{"internal/node"},
	{"internal/lab"},
	{"cmd/geist", "cmd/verify-wasm"},
}

// verifier is what a stranger needs to check an answer. These packages and all
// they import from this module stay pure Go, without assembly and network.
var verifier = []string{"arith", "merkle", "ghost", "sat", "audit"}

var verifierForbids = []string{"C", "unsafe", "syscall", "plugin", "net", "os/exec", "golang.org/x/sys"}

// A pkg is what the source files of one directory say, under any build tag.
type pkg struct {
	doc     bool
	asm     bool
	imports []string // sorted, of non-test files only
}

// scan reads every Go package below root, keyed by directory with slashes.
// Directories that the go command ignores (testdata, _x, .x) are left out.
func scan(root string) (map[string]*pkg, error) {
	pkgs := map[string]*pkg{}
	err := filepath.WalkDir(root, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name := d.Name()
		if d.IsDir() {
			if p != root && (name == "testdata" || name[0] == '_' || name[0] == '.') {
				return filepath.SkipDir
			}
			return nil
		}
		isGo, isAsm := strings.HasSuffix(name, ".go"), strings.HasSuffix(name, ".s")
		if !isGo && !isAsm || strings.HasSuffix(name, "_test.go") {
			return nil
		}
		rel, err := filepath.Rel(root, filepath.Dir(p))
		if err != nil {
			return err
		}
		dir := filepath.ToSlash(rel)
		if pkgs[dir] == nil {
			pkgs[dir] = &pkg{}
		}
		if isAsm {
			pkgs[dir].asm = true
			return nil
		}
		return pkgs[dir].read(p)
	})
	for _, p := range pkgs {
		slices.Sort(p.imports)
		p.imports = slices.Compact(p.imports)
	}
	return pkgs, err
}

func (p *pkg) read(file string) error {
	f, err := parser.ParseFile(token.NewFileSet(), file, nil, parser.ImportsOnly|parser.ParseComments)
	if err != nil {
		return err
	}
	if f.Name.Name != "main" && hasDoc(f.Doc, "Package "+f.Name.Name+" ") || f.Name.Name == "main" && hasDoc(f.Doc, "Command ") {
		p.doc = true
	}
	for _, i := range f.Imports {
		s, err := strconv.Unquote(i.Path.Value)
		if err != nil {
			return err
		}
		p.imports = append(p.imports, s)
	}
	return nil
}

func hasDoc(g *ast.CommentGroup, prefix string) bool {
	return g != nil && strings.HasPrefix(g.Text(), prefix)
}

// problems lists every break of the rules, one sentence each, sorted.
func problems(pkgs map[string]*pkg) []string {
	var out []string
	bad := func(format string, args ...any) { out = append(out, fmt.Sprintf(format, args...)) }
	row := map[string]int{}
	for i, names := range layers {
		for _, n := range names {
			row[n] = i
		}
	}
	for dir, p := range pkgs {
		if !p.doc {
			bad("%s: no package comment that begins with \"Package NAME \" (a command: \"Command \")", dir)
		}
		if dir == "." {
			continue
		}
		if _, ok := row[dir]; !ok {
			bad("%s: not in the table of layers", dir)
			continue
		}
		for _, i := range p.imports {
			to, ok := strings.CutPrefix(i, module+"/")
			if i == "C" {
				bad("%s: imports C; there is no cgo here", dir)
			}
			if !ok {
				continue
			}
			if r, known := row[to]; !known || r >= row[dir] {
				bad("%s (row %d) imports %s (row %d): imports go to lower rows only", dir, row[dir], to, r)
			}
		}
	}
	for _, v := range verifier {
		for dir, via := range reach(pkgs, v) {
			p := pkgs[dir]
			if p.asm {
				bad("%s: has assembly, and %s is part of the verifier", via, v)
			}
			for _, i := range p.imports {
				for _, f := range verifierForbids {
					if i == f || strings.HasPrefix(i, f+"/") && f != "unsafe" {
						bad("%s: imports %s, and %s is part of the verifier", via, i, v)
					}
				}
			}
		}
	}
	slices.Sort(out)
	return out
}

// reach maps each package of this module that from needs, itself included, to
// the chain of imports that leads to it.
func reach(pkgs map[string]*pkg, from string) map[string]string {
	chain := map[string]string{}
	var visit func(dir, via string)
	visit = func(dir, via string) {
		if pkgs[dir] == nil || chain[dir] != "" {
			return
		}
		chain[dir] = via
		for _, i := range pkgs[dir].imports {
			if to, ok := strings.CutPrefix(i, module+"/"); ok {
				visit(to, via+" → "+to)
			}
		}
	}
	visit(from, from)
	return chain
}

func TestLayers(t *testing.T) {
	pkgs, err := scan(".")
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{".", "arith", "cmd/geist"} {
		if pkgs[want] == nil {
			t.Errorf("the scan did not find package %s: it looks in the wrong place", want)
		}
	}
	for _, p := range problems(pkgs) {
		t.Error(p)
	}
}

// TestLayersFinds plants one break of each rule and demands that it is found.
func TestLayersFinds(t *testing.T) {
	const doc = "// Package p is for a test.\n"
	for _, c := range []struct {
		name, dir, file, src, want string
	}{
		{"no comment", "merkle", "a.go", "package p", "merkle: no package comment"},
		{"unlisted", "internal/surprise", "a.go", doc + "package p", "internal/surprise: not in the table"},
		{"upwards", "merkle", "a.go", doc + "package p\nimport _ \"" + module + "/ghost\"", "merkle (row 0) imports ghost"},
		{"same row", "merkle", "a.go", doc + "package p\nimport _ \"" + module + "/arith\"", "merkle (row 0) imports arith"},
		{"behind a build tag", "merkle", "a_arm64.go", doc + "package p\nimport _ \"" + module + "/ghost\"", "merkle (row 0) imports ghost"},
		{"cgo", "internal/gguf", "a.go", doc + "package p\nimport \"C\"", "internal/gguf: imports C"},
		{"network", "merkle", "a.go", doc + "package p\nimport _ \"net/http\"", "merkle: imports net/http"},
		{"unsafe", "merkle", "a.go", doc + "package p\nimport _ \"unsafe\"", "merkle: imports unsafe"},
		{"assembly", "merkle", "a.s", "", "merkle: has assembly"},
		{"unsafe from afar", "ghost", "a.go", doc + "package p\nimport _ \"" + module + "/internal/gguf\"", "ghost → internal/gguf: imports unsafe"},
	} {
		t.Run(c.name, func(t *testing.T) {
			root := t.TempDir()
			write(t, root, "internal/gguf/g.go", doc+"package p\nimport _ \"unsafe\"")
			write(t, root, path.Join(c.dir, c.file), c.src)
			pkgs, err := scan(root)
			if err != nil {
				t.Fatal(err)
			}
			got := problems(pkgs)
			if !slices.ContainsFunc(got, func(s string) bool { return strings.HasPrefix(s, c.want) }) {
				t.Errorf("found %q, want one that begins with %q", got, c.want)
			}
		})
	}
}

func write(t *testing.T, root, name, text string) {
	t.Helper()
	file := filepath.Join(root, filepath.FromSlash(name))
	if err := os.MkdirAll(filepath.Dir(file), 0o777); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, []byte(text), 0o666); err != nil {
		t.Fatal(err)
	}
}
