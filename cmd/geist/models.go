package main

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"strings"

	"github.com/spf13/cobra"

	"github.com/geistnet/geist/internal/console"
	"github.com/geistnet/geist/internal/gguf"
	"github.com/geistnet/geist/internal/store"
	"github.com/geistnet/geist/internal/tales"
)

// builtIn is the name of the model that is part of this program. A model of the
// store that has the same name comes before it.
const builtIn = tales.Name

// builtInSource stands where a model of the store says where it came from.
const builtInSource = "part of this program"

// builtInModel is the built-in model as the store would name it. It was never added.
func builtInModel() *store.Model {
	sum := sha256.Sum256(tales.Bytes())
	return &store.Model{Version: 1, Name: builtIn, SHA256: hex.EncodeToString(sum[:]), Bytes: int64(tales.Size()), Source: builtInSource}
}

func isBuiltIn(m *store.Model) bool { return m != nil && m.Added.IsZero() && m.Source == builtInSource }

// namesBuiltIn tells whether ref is the built-in model's name, or at least 6
// digits of its hash, as with models of the store.
func namesBuiltIn(ref string) bool {
	ref = strings.ToLower(ref)
	return ref == builtIn || len(ref) >= 6 && strings.HasPrefix(builtInModel().SHA256, ref)
}

// withBuiltIn puts the built-in model before those of the store, unless one of
// them has its name.
func withBuiltIn(models []store.Model) []store.Model {
	for _, m := range models {
		if strings.EqualFold(m.Name, builtIn) {
			return models
		}
	}
	return append([]store.Model{*builtInModel()}, models...)
}

// store opens the model store of this user.
func (e *env) store() (*store.Store, error) {
	dir, err := store.DefaultDir(e.getenv)
	if err != nil {
		return nil, err
	}
	return store.Open(dir, store.Options{Now: e.now})
}

// openModel opens what a person means by ref: a name, the beginning of a hash,
// or the path of a .gguf file, for which the store.Model is nil. What the store
// does not have may be the built-in model. The caller closes the file.
func (e *env) openModel(ref string) (*gguf.File, *store.Model, error) {
	s, err := e.store()
	if err != nil {
		return nil, nil, err
	}
	path, m, err := s.Resolve(ref)
	if errors.Is(err, store.ErrNotFound) && namesBuiltIn(ref) {
		f, err := tales.Open()
		return f, builtInModel(), err
	}
	if err != nil {
		return nil, nil, hint(err)
	}
	f, err := gguf.Open(path)
	if err != nil {
		return nil, nil, hint(err)
	}
	return f, m, nil
}

// hint adds to an error about a model what a person can do about it.
func hint(err error) error {
	var bad *gguf.FormatError
	var file *fs.PathError
	switch {
	case errors.As(err, &file) && file.Op == "mkdir":
		return err // of the store, not of the model
	case errors.As(err, &bad) && strings.HasSuffix(bad.Reason, "?"):
		return err // it asks what there is to ask
	case errors.As(err, &bad) && strings.Contains(bad.Reason, "supported are"):
		return fmt.Errorf("%w; take a file of this model in one of those", err)
	case errors.As(err, &bad):
		return fmt.Errorf("%w; this is no GGUF file that geist can use: fetch it again if it should be whole", err)
	case errors.Is(err, fs.ErrPermission):
		return fmt.Errorf("%w; ask its owner for the right to read it", err)
	case errors.Is(err, fs.ErrNotExist) && !errors.Is(err, store.ErrBroken):
		return fmt.Errorf("%w; give the path of a .gguf file", err)
	case errors.Is(err, store.ErrNotFound):
		return fmt.Errorf("%w; \"geist models list\" shows what is there, and \"geist models add FILE\" adds a model", err)
	case errors.Is(err, store.ErrBroken):
		return fmt.Errorf("%w; \"geist models add FILE --name NAME\" with the original file mends it", err)
	}
	return err
}

// completeModels offers the names of the stored models to the shell.
func (e *env) completeModels(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
	s, err := e.store()
	if err != nil {
		return nil, cobra.ShellCompDirectiveError
	}
	models, err := s.List()
	if err != nil {
		return nil, cobra.ShellCompDirectiveError
	}
	var names []string
	for _, m := range withBuiltIn(models) {
		names = append(names, m.Name)
	}
	return names, cobra.ShellCompDirectiveDefault
}

// completeFlag offers the values of a flag to the shell.
func completeFlag(c *cobra.Command, flag string, values []string) {
	err := c.RegisterFlagCompletionFunc(flag, cobra.FixedCompletions(values, cobra.ShellCompDirectiveNoFileComp))
	if err != nil {
		panic("internal error: complete --" + flag + ": " + err.Error())
	}
}

// progress draws on standard error; the caller calls End.
func (e *env) progress() *console.Progress { return console.NewProgress(e.err, e.now) }
