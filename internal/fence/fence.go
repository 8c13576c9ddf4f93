// Package fence finds float products in Go source that a compiler may fuse
// with a later addition, and calls into package math whose last bit depends on
// the machine.
//
// The language allows x*y + z to be rounded once, also across statements and,
// after inlining, across functions; only an explicit conversion forces the
// product to be rounded (specification, "Floating-point operators"). Go does
// fuse on arm64, ppc64le, s390x, riscv64, and on amd64 with GOAMD64=v3.
// Canonical arithmetic commits to bits, so there every product of floats stands
// directly inside a conversion to its own type: float32(a*b) + c.
//
// Not reported: constant products, factors of another product, dividends,
// divisors and comparands, since none of these can be fused, and products that
// are converted to an integer or to a narrower float. Test files are not read.
package fence

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"go/ast"
	"go/importer"
	"go/parser"
	"go/token"
	"go/types"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
)

// A Finding is one expression that may give different bits on different machines.
type Finding struct {
	Pos  token.Position
	Text string // what is wrong and what to write instead
}

// String is "file:line:column: text".
func (f Finding) String() string { return f.Pos.String() + ": " + f.Text }

// Check reads the non-test files of the packages that match patterns, as the go
// command run in dir with the extra environment env ("GOARCH=arm64") and build
// flags sees them. Findings are in order of position. Finding no package is an error.
func Check(dir string, env, flags []string, patterns ...string) ([]Finding, error) {
	args := append([]string{"list", "-export", "-deps", "-json=ImportPath,Dir,GoFiles,Export,DepOnly,Error"}, flags...)
	cmd := exec.Command("go", append(args, patterns...)...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), env...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("go list %v: %w\n%s", patterns, err, stderr.Bytes())
	}
	type listed struct {
		ImportPath, Dir, Export string
		GoFiles                 []string
		DepOnly                 bool
		Error                   *struct{ Err string }
	}
	var roots []listed
	exports := map[string]string{}
	for dec := json.NewDecoder(bytes.NewReader(out)); ; {
		var p listed
		if err := dec.Decode(&p); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			return nil, fmt.Errorf("read the answer of go list: %w", err)
		}
		if p.Error != nil {
			return nil, fmt.Errorf("go list %s: %s", p.ImportPath, p.Error.Err)
		}
		exports[p.ImportPath] = p.Export
		if !p.DepOnly {
			roots = append(roots, p)
		}
	}
	if len(roots) == 0 {
		return nil, fmt.Errorf("no package matches %v in %s", patterns, dir)
	}
	fset := token.NewFileSet()
	lookup := func(path string) (io.ReadCloser, error) { return os.Open(exports[path]) }
	imp := importer.ForCompiler(fset, "gc", lookup)
	var found []Finding
	for _, p := range roots {
		var files []*ast.File
		for _, name := range p.GoFiles {
			f, err := parser.ParseFile(fset, filepath.Join(p.Dir, name), nil, parser.SkipObjectResolution)
			if err != nil {
				return nil, err
			}
			files = append(files, f)
		}
		fs, err := checkFiles(fset, p.ImportPath, files, imp)
		if err != nil {
			return nil, err
		}
		found = append(found, fs...)
	}
	slices.SortFunc(found, func(a, b Finding) int {
		return cmp.Or(cmp.Compare(a.Pos.Filename, b.Pos.Filename), cmp.Compare(a.Pos.Offset, b.Pos.Offset))
	})
	return found, nil
}

func checkFiles(fset *token.FileSet, path string, files []*ast.File, imp types.Importer) ([]Finding, error) {
	info := &types.Info{
		Types: map[ast.Expr]types.TypeAndValue{},
		Uses:  map[*ast.Ident]types.Object{},
	}
	conf := types.Config{Importer: imp, FakeImportC: true}
	if _, err := conf.Check(path, fset, files, info); err != nil {
		return nil, fmt.Errorf("type-check %s: %w", path, err)
	}
	c := &checker{fset: fset, info: info}
	for _, f := range files {
		c.walk(f)
	}
	return c.found, nil
}

type checker struct {
	fset  *token.FileSet
	info  *types.Info
	found []Finding
}

func (c *checker) report(at token.Pos, format string, args ...any) {
	c.found = append(c.found, Finding{c.fset.Position(at), fmt.Sprintf(format, args...)})
}

// walk visits the tree with the stack of parents, which decides whether a product is fenced.
func (c *checker) walk(root ast.Node) {
	var stack []ast.Node
	ast.Inspect(root, func(n ast.Node) bool {
		if n == nil {
			stack = stack[:len(stack)-1]
			return true
		}
		switch n := n.(type) {
		case *ast.BinaryExpr:
			if t := c.float(n); n.Op == token.MUL && t != nil && !c.fenced(n, t, stack) {
				c.report(n.OpPos, "this product may be fused with a later addition; write %s(a*b)", t.Name())
			}
		case *ast.AssignStmt:
			if n.Tok == token.MUL_ASSIGN {
				if t := c.float(n.Lhs[0]); t != nil {
					c.report(n.TokPos, "this product may be fused with a later addition; write x = %s(x*y)", t.Name())
				}
			}
		case *ast.SelectorExpr:
			if f, ok := c.info.Uses[n.Sel].(*types.Func); ok && f.Pkg() != nil && f.Pkg().Path() == "math" && !exactMath[f.Name()] {
				c.report(n.Pos(), "math.%s is not the same on every machine; use a fixed sequence of basic operations", f.Name())
			}
		}
		stack = append(stack, n)
		return true
	})
}

// float returns the basic type under e, or nil if e is a constant or no float.
// A type parameter counts as float64 if any type in its constraint is a float.
func (c *checker) float(e ast.Expr) *types.Basic {
	tv := c.info.Types[e]
	if tv.Value != nil || tv.Type == nil {
		return nil
	}
	if p, ok := tv.Type.(*types.TypeParam); ok {
		return floatIn(p.Constraint().Underlying())
	}
	if b, ok := tv.Type.Underlying().(*types.Basic); ok && b.Info()&(types.IsFloat|types.IsComplex) != 0 {
		return b
	}
	return nil
}

func floatIn(t types.Type) *types.Basic {
	switch t := t.Underlying().(type) {
	case *types.Basic:
		if t.Info()&(types.IsFloat|types.IsComplex) != 0 {
			return t
		}
	case *types.Union:
		for i := range t.Len() {
			if b := floatIn(t.Term(i).Type()); b != nil {
				return b
			}
		}
	case *types.Interface:
		for i := range t.NumEmbeddeds() {
			if b := floatIn(t.EmbeddedType(i)); b != nil {
				return b
			}
		}
	}
	return nil
}

// fenced reports whether what stands directly around the product, parentheses
// aside, keeps it from being fused. t is the product's type.
func (c *checker) fenced(product *ast.BinaryExpr, t *types.Basic, stack []ast.Node) bool {
	if t.Info()&types.IsComplex != 0 {
		return false // the sums are inside the product itself
	}
	var inner ast.Node = product
	for i := len(stack) - 1; i >= 0; i-- {
		switch p := stack[i].(type) {
		case *ast.ParenExpr:
			inner = p
			continue
		case *ast.CallExpr:
			tv := c.info.Types[p.Fun]
			if !tv.IsType() {
				return false
			}
			if _, ok := tv.Type.(*types.TypeParam); ok {
				return types.Identical(tv.Type, c.info.Types[product].Type)
			}
			to, ok := tv.Type.Underlying().(*types.Basic)
			if !ok {
				return false
			}
			widens := t.Kind() == types.Float32 && to.Kind() == types.Float64
			return to.Info()&types.IsNumeric != 0 && !widens
		case *ast.BinaryExpr:
			switch p.Op {
			case token.MUL, token.QUO, token.EQL, token.NEQ, token.LSS, token.LEQ, token.GTR, token.GEQ:
				return true
			}
			return false
		case *ast.AssignStmt:
			// x /= a*b divides by the product; nothing is added to it.
			return p.Tok == token.QUO_ASSIGN && p.Rhs[0] == inner
		default:
			return false
		}
	}
	return false
}

// exactMath names the functions of package math whose result is defined
// exactly, or is a mere bit pattern.
var exactMath = map[string]bool{
	"Abs": true, "Ceil": true, "Copysign": true, "Dim": true, "FMA": true, "Float32bits": true,
	"Float32frombits": true, "Float64bits": true, "Float64frombits": true, "Floor": true, "Frexp": true,
	"Inf": true, "IsInf": true, "IsNaN": true, "Ldexp": true, "Max": true, "Min": true, "Mod": true,
	"Modf": true, "NaN": true, "Nextafter": true, "Nextafter32": true, "Round": true, "RoundToEven": true,
	"Signbit": true, "Sqrt": true, "Trunc": true,
}
