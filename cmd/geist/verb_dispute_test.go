package main

import (
	"context"
	"os"
	"path/filepath"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/geistnet/geist/audit"
	"github.com/geistnet/geist/ghost"
	"github.com/geistnet/geist/internal/author"
	"github.com/geistnet/geist/internal/gguf"
	"github.com/geistnet/geist/internal/kernel"
	"github.com/geistnet/geist/internal/model"
	"github.com/geistnet/geist/internal/prove"
)

// TestDispute runs testdata/dispute/*.txtar. Beside the usual commands there are
//
//	mkmodel FILE [KEY=VALUE...]   as in TestRun
//	mklie RUNFILE MODEL NEW       signs the run of another model file for an answer
func TestDispute(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir: "testdata/dispute",
		Setup: func(e *testscript.Env) error {
			e.Setenv("GEIST_HOME", filepath.Join(e.WorkDir, "home"))
			return nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"mkmodel": func(ts *testscript.TestScript, _ bool, args []string) {
				ts.Check(newModel(ts.MkAbs(args[0]), args[1:]...))
			},
			"mklie": func(ts *testscript.TestScript, _ bool, args []string) {
				ts.Check(lie(ts.MkAbs(args[0]), ts.MkAbs(args[1]), ts.MkAbs(args[2])))
			},
		},
	})
}

// lie writes a run file in which somebody else signs the run of another model.
func lie(from, weights, to string) error {
	b, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	file, err := audit.ParseRunFile(b)
	if err != nil {
		return err
	}
	f, err := gguf.Open(weights)
	if err != nil {
		return err
	}
	defer f.Close()
	g, err := author.Build(context.Background(), f, author.Options{}, nil)
	if err != nil {
		return err
	}
	team := kernel.NewTeam(1)
	defer team.Close()
	m, err := model.Load(f, model.Options{Path: kernel.Best(), Team: team})
	if err != nil {
		return err
	}
	defer m.Close()
	p, err := prove.NewNode(m, g, f, team, 64).NewParty(&audit.Run{Model: g, Prompt: file.Request.Prompt, Answer: file.Answer})
	if err != nil {
		return err
	}
	if file.Receipt.Trace, err = p.Root(); err != nil {
		return err
	}
	if file.Outline, err = p.Outline(); err != nil {
		return err
	}
	if err := file.Receipt.Sign(ghost.Secret{31: 9}); err != nil {
		return err
	}
	if b, err = file.Encode(); err != nil {
		return err
	}
	return os.WriteFile(to, b, 0o600)
}
