package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/geistnet/geist/internal/console"
	"github.com/geistnet/geist/internal/gguf"
	"github.com/geistnet/geist/internal/store"
	"github.com/geistnet/geist/internal/tales"
)

// Models keeps model files.
func (v verbs) Models() *cobra.Command {
	c := group("models", "List, add, show, check and remove models, and see their tokens",
		v.modelsList(), v.modelsAdd(), v.modelsShow(), v.modelsVerify(), v.modelsRemove(), v.modelsTokenize(), v.modelsGhost(), v.modelsTrunk())
	c.Long = `Models lie in a store under $GEIST_HOME, or else in geist in the XDG data
directory, once each, by their SHA-256. Where a MODEL is asked for, give its
name, at least 6 digits of its hash, or the path of a .gguf file. The model ` + builtIn + ` is
part of this program and takes no place in the store.`
	return c
}

// listed is a model as --json shows it.
type listed struct {
	store.Model
	Added   *time.Time `json:"added,omitempty"` // absent for the built-in model
	Path    string     `json:"path,omitempty"`
	BuiltIn bool       `json:"built_in,omitempty"`
}

func list(s *store.Store, m store.Model) listed {
	if isBuiltIn(&m) {
		return listed{Model: m, BuiltIn: true}
	}
	return listed{Model: m, Added: &m.Added, Path: s.Path(m)}
}

func (v verbs) modelsList() *cobra.Command {
	c := &cobra.Command{Use: "list", Aliases: []string{"ls"}, Short: "List the models in the store, and the built-in one", Args: cobra.NoArgs}
	asJSON := jsonFlag(c)
	c.RunE = func(cmd *cobra.Command, _ []string) error {
		s, err := v.store()
		if err != nil {
			return err
		}
		if freed, err := s.Sweep(cmd.Context()); err == nil && freed > 0 {
			fmt.Fprintf(v.err.W, "cleared copies that nobody went on with for a day (%s)\n", console.Size(freed))
		} // a store that cannot be written can be listed
		models, err := s.List()
		if err != nil {
			return err
		}
		if *asJSON {
			out := []listed{}
			for _, m := range withBuiltIn(models) {
				out = append(out, list(s, m))
			}
			return v.out.JSON(out)
		}
		var rows [][]string
		for _, m := range withBuiltIn(models) {
			added := "built in"
			if !isBuiltIn(&m) {
				added = m.Added.Local().Format("2006-01-02 15:04")
			}
			rows = append(rows, []string{m.Name, m.SHA256[:12], console.Size(m.Bytes), added})
		}
		if err := v.out.Table([]string{"NAME", "SHA-256", "SIZE", "ADDED"}, rows); err != nil {
			return err
		}
		if len(models) == 0 {
			_, err = fmt.Fprintf(v.err.W, "no models in %s yet; \"geist models add FILE\" adds one\n", s.Dir())
		}
		return err
	}
	return c
}

func (v verbs) modelsAdd() *cobra.Command {
	c := &cobra.Command{
		Use:   "add FILE",
		Short: "Copy a GGUF file into the store",
		Long: `Copies a GGUF file into the store and checks the copy. If it is interrupted, the
same command goes on where it stopped, within a day; what it copied so far is in the
directory "partial" of the store. FILE may be "-" for standard
input.`,
		Example: "  geist models add ~/Downloads/tiny.Q8_0.gguf --name tiny",
		Args:    cobra.ExactArgs(1),
	}
	name := c.Flags().String("name", "", "the model's name (the file's, if not given)")
	sum := c.Flags().String("sha256", "", "the hash that the file must have, in hex")
	asJSON := jsonFlag(c)
	c.RunE = func(cmd *cobra.Command, args []string) error {
		if b, err := hex.DecodeString(*sum); *sum != "" && (err != nil || len(b) != sha256.Size) {
			return fmt.Errorf("%w: --sha256 %q is not 64 hexadecimal digits", errUsage, *sum)
		}
		if *name != "" {
			if err := store.CheckName(*name); err != nil {
				return fmt.Errorf("%w: --name: %w", errUsage, err)
			}
		}
		var src store.Source
		if args[0] == "-" {
			if *name == "" {
				return fmt.Errorf("%w: a model from standard input needs --name", errUsage)
			}
			src = store.FromReader(v.stdin, "standard input")
		} else {
			// A file that is no model should say so now, and not after the copy.
			f, err := gguf.Open(args[0])
			if err != nil {
				return hint(err)
			}
			f.Close()
			if src, err = store.FromFile(args[0]); err != nil {
				return err
			}
		}
		src.SHA256 = *sum
		if *name == "" {
			*name = store.NameFor(args[0])
		}
		s, err := v.store()
		if err != nil {
			return err
		}
		p := v.progress()
		m, err := s.Add(cmd.Context(), src, *name, p.Update)
		p.End()
		if errors.Is(err, context.Canceled) {
			return fmt.Errorf("%w: %w", errResumes, err)
		}
		if err != nil {
			return hint(err)
		}
		if *asJSON {
			return v.out.JSON(list(s, m))
		}
		_, err = fmt.Fprintf(v.out.W, "added %s (%s, sha256 %s)\n", m.Name, console.Size(m.Bytes), m.SHA256)
		return err
	}
	return c
}

func (v verbs) modelsVerify() *cobra.Command {
	c := &cobra.Command{
		Use:               "verify [MODEL...]",
		Short:             "Read models again and check that they are whole (all, if none is named)",
		ValidArgsFunction: v.completeModels,
	}
	asJSON := jsonFlag(c)
	c.RunE = func(cmd *cobra.Command, args []string) error {
		s, err := v.store()
		if err != nil {
			return err
		}
		models, err := s.List()
		if err != nil {
			return err
		}
		if len(args) > 0 {
			models = nil
			for _, ref := range args {
				_, m, err := s.Resolve(ref)
				if errors.Is(err, store.ErrNotFound) && namesBuiltIn(ref) {
					m, err = builtInModel(), nil
				}
				if err != nil {
					return hint(err)
				}
				if m == nil {
					return fmt.Errorf("%s is a file outside of the store, which has no hash to compare it with; add it first", ref)
				}
				models = append(models, *m)
			}
		}
		return v.verify(cmd, s, models, *asJSON)
	}
	return c
}

func (v verbs) verify(cmd *cobra.Command, s *store.Store, models []store.Model, asJSON bool) error {
	type verdict struct {
		Name  string `json:"name"`
		OK    bool   `json:"ok"`
		Error string `json:"error,omitempty"`
	}
	verdicts := []verdict{}
	failed := false
	p := v.progress()
	for _, m := range models {
		var err error
		if isBuiltIn(&m) {
			_, err = tales.Open() // nobody can change it but with the program
		} else {
			err = s.Verify(cmd.Context(), m, p.Update)
		}
		p.End()
		if ctxErr := cmd.Context().Err(); ctxErr != nil {
			return ctxErr
		}
		d := verdict{Name: m.Name, OK: err == nil}
		if err != nil {
			failed = true
			d.Error = hint(err).Error()
		}
		verdicts = append(verdicts, d)
		if !asJSON {
			fmt.Fprintf(v.out.W, "%s: %s\n", m.Name, map[bool]string{true: "whole", false: console.Clean(d.Error)}[d.OK])
		}
	}
	if asJSON {
		if err := v.out.JSON(verdicts); err != nil {
			return err
		}
	}
	if failed {
		return errReported
	}
	return nil
}

func (v verbs) modelsRemove() *cobra.Command {
	c := &cobra.Command{
		Use:               "remove NAME...",
		Aliases:           []string{"rm"},
		Short:             "Remove models; the bytes go with the last name",
		Args:              cobra.MinimumNArgs(1),
		ValidArgsFunction: v.completeModels,
	}
	asJSON := jsonFlag(c)
	c.RunE = func(cmd *cobra.Command, args []string) error {
		s, err := v.store()
		if err != nil {
			return err
		}
		type removed struct {
			Name  string `json:"name"`
			Freed int64  `json:"freed_bytes"`
		}
		done := []removed{}
		var errs []error
		for _, name := range args {
			freed, err := s.Remove(cmd.Context(), name)
			if errors.Is(err, store.ErrNotFound) && namesBuiltIn(name) {
				err = fmt.Errorf("%s is part of this program and cannot be removed", builtIn)
			}
			if err != nil {
				errs = append(errs, hint(err))
				continue
			}
			done = append(done, removed{name, freed})
			if !*asJSON {
				fmt.Fprintf(v.out.W, "removed %s (%s freed)\n", name, console.Size(freed))
			}
		}
		if *asJSON {
			errs = append(errs, v.out.JSON(done))
		}
		return errors.Join(errs...)
	}
	return c
}
