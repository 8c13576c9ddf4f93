package main

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
)

// TestProve runs testdata/prove/*.txtar. Beside the usual commands there are
//
//	mkmodel FILE [KEY=VALUE...]   as in TestRun
//	exit CODE CMD...              as in TestRun
//	mode BITS FILE...             demands a file's permission bits, in octal
func TestProve(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir: "testdata/prove",
		Setup: func(e *testscript.Env) error {
			e.Setenv("GEIST_HOME", filepath.Join(e.WorkDir, "home"))
			return nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"mkmodel": func(ts *testscript.TestScript, _ bool, args []string) {
				ts.Check(newModel(ts.MkAbs(args[0]), args[1:]...))
			},
			"exit": func(ts *testscript.TestScript, _ bool, args []string) {
				got := "0"
				if err := ts.Exec(args[1], args[2:]...); err != nil {
					got = strings.TrimPrefix(err.Error(), "exit status ")
				}
				if got != args[0] {
					ts.Fatalf("exit code %s, want %s", got, args[0])
				}
			},
			"mode": func(ts *testscript.TestScript, _ bool, args []string) {
				for _, f := range args[1:] {
					info, err := os.Stat(ts.MkAbs(f))
					ts.Check(err)
					if got := fmt.Sprintf("%o", info.Mode().Perm()); got != args[0] && runtime.GOOS != "windows" {
						ts.Fatalf("%s has mode %s, want %s", f, got, args[0])
					}
				}
			},
		},
	})
}
