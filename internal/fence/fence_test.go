package fence

import (
	"fmt"
	"go/ast"
	"go/importer"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// fencedPackages commit to bits: their results enter a model's identity or a proof.
var fencedPackages = []string{"arith", "internal/kernel", "internal/quant", "internal/synth", "internal/model", "internal/engine", "internal/train", "internal/matmul", "sat", "audit"}

// TestRepository reads the packages as each build configuration sees them, so
// that no file hides behind a build tag.
func TestRepository(t *testing.T) {
	const root = "../.."
	var patterns []string
	for _, p := range fencedPackages {
		if goFiles, _ := filepath.Glob(filepath.Join(root, p, "*.go")); len(goFiles) > 0 {
			patterns = append(patterns, "./"+p)
		}
	}
	if !slices.Contains(patterns, "./arith") {
		t.Fatalf("found only %v below %s: this test looks in the wrong place", patterns, root)
	}
	seen := map[string]bool{}
	for _, c := range []struct{ env, flags []string }{
		{[]string{"GOARCH=amd64", "CGO_ENABLED=0"}, nil},
		{[]string{"GOARCH=arm64", "CGO_ENABLED=0"}, nil},
		{[]string{"GOARCH=amd64", "CGO_ENABLED=0"}, []string{"-tags=purego"}},
	} {
		found, err := Check(root, c.env, c.flags, patterns...)
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range found {
			if !seen[f.String()] {
				seen[f.String()] = true
				t.Error(f)
			}
		}
	}
}

func TestFindings(t *testing.T) {
	for _, c := range []struct {
		body string
		want int
	}{
		// What the language lets a compiler fuse.
		{"z = x*y + z", 1},
		{"z = z - x*y", 1},
		{"z += x * y", 1},
		{"z -= (x * y)", 1},
		{"z = -(x*y) + z", 1},
		{"p := x * y; z = p + z", 1},
		{"a[0] = x * y", 1},
		{"x *= y; z = x + z", 1},
		{"a[i] *= y", 1},
		{"z = g(x * y)", 1},
		{"z = x*y + x*z", 2},
		{"z = float32(x*y + z)", 1},
		{"z = float32(float32(x)*float32(y) + z)", 1},
		{"d = float64(x*y) + d", 1}, // the product was never rounded to float32
		{"d = float64(x)*float64(y) + d", 1},
		{"m = m*m + m", 1},
		{"k = k * k", 1},
		{"func() float32 { return x * y }()", 1},
		{"z = x * (y * z)", 1}, // the outer one; the inner is only a factor
		// What it does not.
		{"z = float32(x*y) + z", 0},
		{"z = float32((x*y)) + z", 0},
		{"z = float32(float32(x*y)*z) + z", 0},
		{"z = float32(x*y*z) + z", 0},
		{"z = x * y / z", 0},
		{"z /= x * y", 0},
		{"x = float32(x * y)", 0},
		{"if x*y > z { z = 1 }", 0},
		{"i = int(x * y)", 0},
		{"z = float32(d * d) + z", 0},
		{"m = myFloat(m*m) + m", 0},
		{"i = i*i + i", 0},
		{"z = 2.5*4 + z", 0},
		{"z = h(z)", 0},
		// Package math.
		{"d = math.Exp(d)", 1},
		{"e := math.Sin; d = e(d)", 1},
		{"d = math.Sqrt(d) + math.Floor(d) + math.Pi", 0},
	} {
		found, err := checkSource(t, "func f(x, y, z float32, d float64, i int, m myFloat, k complex64, a []float32) {\n"+c.body+"\n}")
		if err != nil {
			t.Errorf("%s: %v", c.body, err)
		} else if len(found) != c.want {
			t.Errorf("%s: found %v, want %d", c.body, found, c.want)
		}
	}
}

func TestGenerics(t *testing.T) {
	for _, c := range []struct {
		src  string
		want int
	}{
		{"func f[T float32 | float64](x, y, z T) T { return x*y + z }", 1},
		{"func f[T float32 | float64](x, y, z T) T { return T(x*y) + z }", 0},
		{"func f[T int32 | int64](x, y, z T) T { return x*y + z }", 0},
	} {
		found, err := checkSource(t, c.src)
		if err != nil || len(found) != c.want {
			t.Errorf("%s: found %v, %v; want %d", c.src, found, err, c.want)
		}
	}
}

func checkSource(t *testing.T, src string) ([]Finding, error) {
	t.Helper()
	fset := token.NewFileSet()
	text := fmt.Sprintf("package p\nimport \"math\"\ntype myFloat float64\nconst _ = math.Pi\nfunc g(x float32) float32 { return x }\nfunc h(x float32) float32 { return x }\n%s", src)
	f, err := parser.ParseFile(fset, "p.go", text, parser.SkipObjectResolution)
	if err != nil {
		return nil, err
	}
	return checkFiles(fset, "p", []*ast.File{f}, importer.ForCompiler(fset, "source", nil))
}

// TestCheck runs the whole way, from the go command to a position in a file.
func TestCheck(t *testing.T) {
	dir := t.TempDir()
	for name, text := range map[string]string{
		"go.mod":      "module example.org/m\n\ngo 1.26\n",
		"p.go":        "package m\n\nimport \"example.org/m/q\"\n\nfunc F(x q.Float) q.Float {\n\treturn x*x + x\n}\n",
		"p_arm64.go":  "package m\n\nfunc G(x float32) float32 { return x*x + x }\n",
		"p_test.go":   "package m\n\nfunc H(x float32) float32 { return x*x + x }\n",
		"q/q.go":      "// Package q.\npackage q\n\ntype Float float32\n",
		"sub/sub.txt": "no Go here",
	} {
		file := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(file), 0o777); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(text), 0o666); err != nil {
			t.Fatal(err)
		}
	}
	for arch, want := range map[string][]string{"amd64": {"p.go:6:"}, "arm64": {"p.go:6:", "p_arm64.go:3:"}} {
		found, err := Check(dir, []string{"GOARCH=" + arch, "GOFLAGS="}, nil, ".")
		if err != nil {
			t.Fatal(err)
		}
		if len(found) != len(want) {
			t.Errorf("%s: found %v, want %d", arch, found, len(want))
			continue
		}
		for i, f := range found {
			if !strings.Contains(f.String(), want[i]) {
				t.Errorf("%s: found %v, want %s", arch, f, want[i])
			}
		}
	}
	if _, err := Check(dir, nil, nil, "./sub"); err == nil {
		t.Error("a pattern without Go files gave no error")
	}
}
