package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/geistnet/geist/audit"
	"github.com/geistnet/geist/ghost"
	"github.com/geistnet/geist/internal/console"
	"github.com/geistnet/geist/internal/engine"
	"github.com/geistnet/geist/internal/gguf"
	"github.com/geistnet/geist/internal/kernel"
	"github.com/geistnet/geist/internal/model"
	"github.com/geistnet/geist/internal/prove"
	"github.com/geistnet/geist/internal/store"
)

// Prove makes the proof that a run file's challenge demands.
func (v verbs) Prove() *cobra.Command {
	c := &cobra.Command{
		Use:   "prove RUNFILE",
		Short: "Open what an answer's challenge draws",
		Long: `Runs the answer in RUNFILE (made by "geist run --receipt") again, as one prefill,
and writes the values and rows of weights that its challenge draws, with hashes
up to the roots that the receipt and the Ghost file commit to. Any machine that
has the model can do this, not only the one that answered.

What is drawn follows from the asker's nonce and the signed receipt. "geist
verify" checks the proof without the model; it must be asked for the same
number of cells and tails.`,
		Example: `  geist run tiny --receipt answer.run "Why is the sky blue?"
  geist prove answer.run
  geist verify answer.run answer.proof --ghost tiny.ghost`,
		Args: cobra.ExactArgs(1),
	}
	ref := c.Flags().String("model", "", "the model: a name in the store, a hash or a .gguf file (default: the one in the store that the receipt names)")
	out := c.Flags().String("out", "", "write the proof here (default: RUNFILE with the ending .proof)")
	threads := c.Flags().Int("threads", 0, "threads to compute with (0: one for each processor)")
	size := sizeFlags(c)
	asJSON := jsonFlag(c)
	c.RunE = func(cmd *cobra.Command, args []string) error {
		if *threads < 0 || *threads > 1024 {
			return fmt.Errorf("%w: --threads %d; 0 to 1024 are possible", errUsage, *threads)
		}
		b, err := readAtMost(args[0], audit.MaxRunBytes)
		if err != nil {
			return err
		}
		file, err := parseRun(args[0], b)
		if err != nil {
			return err
		}
		if file.Size, err = size(file.Size); err != nil {
			return err
		}
		path := *out
		if path == "" {
			path = strings.TrimSuffix(args[0], filepath.Ext(args[0])) + ".proof"
		}
		made, err := v.prove(cmd.Context(), file, *ref, *threads, path)
		if err != nil {
			return err
		}
		if *asJSON {
			return v.out.JSON(made)
		}
		_, err = fmt.Fprintf(v.out.W, "opened %d cells, %d tails and %d full ones of %d positions in %.2f s\nwrote %s (%s)\n",
			file.Size.Cells, file.Size.Tails, file.Size.Full, made.Positions, made.Seconds, console.Clean(path), console.Size(int64(made.Bytes)))
		return err
	}
	return c
}

// proved is what "prove --json" says.
type proved struct {
	Path        string     `json:"path"`
	Bytes       int        `json:"bytes"`
	Positions   int        `json:"positions"`
	Challenge   audit.Size `json:"challenge"`
	LoadSeconds float64    `json:"load_s"`
	Seconds     float64    `json:"seconds"` // to run again and open
}

// prove writes the proof of file's answer to path.
func (v verbs) prove(ctx context.Context, file *audit.RunFile, ref string, threads int, path string) (*proved, error) {
	if ref == "" {
		var err error
		if ref, err = v.modelOf(ctx, file.Receipt.Model); err != nil {
			return nil, err
		}
	}
	f, stored, err := v.openModel(ref)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	g, long, err := v.ghostWith(ctx, f, stored, file.Receipt.Model)
	if err != nil {
		return nil, err
	}
	run, err := file.Run(g)
	if err != nil {
		return nil, err
	}
	if threads == 0 {
		threads = engine.Threads()
	}
	team := kernel.NewTeam(threads)
	defer team.Close()
	begin := v.now()
	p := v.progress()
	m, err := model.Load(f, model.Options{Path: kernel.Best(), Team: team, Long: long, Abort: ctx.Err,
		Progress: func(done, total int64) { p.Update("load", done, total) }})
	p.End()
	if err != nil {
		return nil, hint(err)
	}
	defer m.Close()
	made := &proved{Path: path, Positions: run.Positions(), Challenge: file.Size, LoadSeconds: v.now().Sub(begin).Seconds()}
	begin = v.now()
	proof, err := prove.NewNode(m, g, f, team, 512).Prove(run, file.Challenge())
	if err != nil {
		return nil, fmt.Errorf("this model did not give this answer: %w", err)
	}
	made.Seconds, made.Bytes = v.now().Sub(begin).Seconds(), len(proof)
	if _, err := audit.Verify(run, file.Challenge(), proof); err != nil {
		return nil, fmt.Errorf("this model did not give this answer: %w", err)
	}
	return made, replace(path, proof, 0o600)
}

// ghostWith is the Ghost file of an open model that has this id.
func (e *env) ghostWith(ctx context.Context, f *gguf.File, stored *store.Model, id ghost.ID) (g *ghost.Model, long bool, err error) {
	if g, err = e.ghostOf(ctx, f, stored, false); err != nil || g.ID() == id {
		return g, false, err
	}
	if f.Tensor("rope_factors_long.weight") != nil {
		if g, err = e.ghostOf(ctx, f, stored, true); err != nil || g.ID() == id {
			return g, true, err
		}
	}
	return nil, false, fmt.Errorf("%s has the model id %v; the receipt is of %v", f.Path, g.ID(), id)
}

// modelOf finds the model that has this id, among those of the store with a
// Ghost file and the built-in one.
func (e *env) modelOf(ctx context.Context, id ghost.ID) (string, error) {
	s, err := e.store()
	if err != nil {
		return "", err
	}
	models, err := s.List()
	if err != nil {
		return "", err
	}
	for i := range models {
		for _, long := range []bool{false, true} {
			path, err := e.ghostPath("", &models[i], long)
			if err != nil {
				return "", err
			}
			if b, err := os.ReadFile(path); err == nil && ghost.IDOf(b) == id {
				return models[i].SHA256, nil
			}
		}
	}
	if b, err := e.builtInGhost(ctx); err != nil || ghost.IDOf(b) == id {
		return builtInModel().SHA256, err
	}
	return "", fmt.Errorf("no model in the store is known to have the id %v; give it with --model", id)
}

// sizeFlags adds the flags of a challenge's size. The function gives the size
// where the run file says def, once the flags are read.
func sizeFlags(c *cobra.Command) func(def audit.Size) (audit.Size, error) {
	cells := c.Flags().Int("cells", 0, "cells to draw (default: what the run file says)")
	tails := c.Flags().Int("tails", 0, "emitted tokens whose logits to check (default: what the run file says)")
	full := c.Flags().Int("full", 0, "of those, tokens to choose again from all logits (default: what the run file says)")
	within(c, 1, audit.MaxCells, "cells")
	within(c, 0, audit.MaxTails, "tails", "full")
	return func(def audit.Size) (audit.Size, error) {
		for _, f := range []struct {
			name string
			from *int
			to   *int
		}{{"cells", cells, &def.Cells}, {"tails", tails, &def.Tails}, {"full", full, &def.Full}} {
			if c.Flags().Changed(f.name) {
				*f.to = *f.from
			}
		}
		if err := def.Challenge([32]byte{}).Check(); err != nil {
			return def, fmt.Errorf("%w: %w", errUsage, err)
		}
		return def, nil
	}
}

// readAtMost reads a file that has at most so many bytes.
func readAtMost(path string, most int64) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, most+1))
	if err != nil {
		return nil, err
	}
	if int64(len(b)) > most {
		return nil, fmt.Errorf("%s is longer than %s", path, console.Size(most))
	}
	return b, nil
}
