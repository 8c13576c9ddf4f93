package main

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/geistnet/geist/ghost"
	"github.com/geistnet/geist/internal/author"
	"github.com/geistnet/geist/internal/console"
	"github.com/geistnet/geist/internal/store"
)

func (v verbs) modelsGhost() *cobra.Command {
	c := &cobra.Command{
		Use:   "ghost MODEL",
		Short: "Make a model's Ghost file, its public identity",
		Long: `Reads all weights once and writes the Ghost file: what the model computes, and one
hash for each matrix of weights. Whoever has it, or only the model id it prints, can check
answers of the model without having the model.

It is written beside the .gguf file, or, of a model in the store, in the
directory "ghosts" of the store under the model's SHA-256, until the model is
removed. With --json the file is read twice more, to compare the times of hashing
and of reading alone.`,
		Example:           "  geist models ghost tiny\n  geist models ghost ~/Downloads/tiny.Q8_0.gguf --out tiny.ghost",
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: v.completeModels,
	}
	out := c.Flags().String("out", "", "write the Ghost file here")
	long := c.Flags().Bool("long", false, "use the rotary factors for long contexts, where a model has two sets; its id is another")
	asJSON := jsonFlag(c)
	c.RunE = func(cmd *cobra.Command, args []string) error {
		f, stored, err := v.openModel(args[0])
		if err != nil {
			return err
		}
		defer f.Close()
		path := *out
		if path == "" {
			if path, err = v.ghostPath(f.Path, stored, *long); err != nil {
				return err
			}
		}
		// A slip of the hand should show now, and not after the work.
		if err := replaceable(path); err != nil {
			return err
		}
		opt := author.Options{Long: *long}
		p := v.progress()
		defer p.End()
		ctx := cmd.Context()
		if *asJSON {
			p.Update("read", 0, -1)
			if _, _, err := author.Read(ctx, f, opt); err != nil {
				return err
			}
		}
		begin := v.now()
		m, err := author.Build(ctx, f, opt, func(done, total int64) { p.Update("hash", done, total) })
		if err != nil {
			return err
		}
		made := ghosted{HashSeconds: v.now().Sub(begin).Seconds()}
		if *asJSON {
			p.Update("read again", 0, -1)
			begin = v.now()
			if made.Hashed, _, err = author.Read(ctx, f, opt); err != nil {
				return err
			}
			made.ReadSeconds = v.now().Sub(begin).Seconds()
			made.Ratio = made.HashSeconds / made.ReadSeconds
		}
		p.End()
		b, err := ghost.Encode(m)
		if err != nil {
			return err
		}
		if err := replace(path, b, 0o644); err != nil {
			return err
		}
		made.ID, made.Path, made.Bytes, made.Tensors = ghost.IDOf(b).String(), path, len(b), len(m.Tensors)
		if *asJSON {
			return v.out.JSON(made)
		}
		_, err = fmt.Fprintf(v.out.W, "%s\nwrote %s (%s, %d matrices)\n", made.ID, console.Clean(path), console.Size(int64(made.Bytes)), made.Tensors)
		return err
	}
	return c
}

// ghosted is what "models ghost --json" says.
type ghosted struct {
	ID          string  `json:"id"`
	Path        string  `json:"path"`
	Bytes       int     `json:"bytes"` // of the Ghost file
	Tensors     int     `json:"tensors"`
	Hashed      int64   `json:"hashed_bytes"`
	HashSeconds float64 `json:"hash_s"`
	ReadSeconds float64 `json:"read_s"` // of the same bytes, without hashing
	Ratio       float64 `json:"ratio"`
}

// ghostPath is where the Ghost file of the model at path lies: m is nil for a
// file outside of the store.
func (e *env) ghostPath(path string, m *store.Model, long bool) (string, error) {
	suffix := ".ghost"
	if long {
		suffix = ".long.ghost"
	}
	if m == nil {
		if ext := filepath.Ext(path); strings.EqualFold(ext, ".gguf") {
			path = strings.TrimSuffix(path, ext)
		}
		return path + suffix, nil
	}
	s, err := e.store()
	if err != nil {
		return "", err
	}
	return filepath.Join(s.Ghosts(), m.SHA256+suffix), nil
}

// knownGhost is the id in the Ghost file of a model, "" if there is none or it
// cannot be read: to make it anew is the way out of both.
func (e *env) knownGhost(path string, m *store.Model) string {
	file, err := e.ghostPath(path, m, false)
	if err != nil {
		return ""
	}
	b, err := os.ReadFile(file)
	if err != nil {
		return ""
	}
	if _, err := ghost.Decode(b); err != nil {
		return ""
	}
	return ghost.IDOf(b).String()
}

// replaceable says why a Ghost file should not be written to path: something
// else is there, and a slip of the hand is to cost nothing.
func replaceable(path string) error {
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer f.Close()
	head := make([]byte, len(ghost.Magic))
	n, err := io.ReadFull(f, head)
	switch {
	case errors.Is(err, io.EOF): // empty
		return nil
	case err != nil && !errors.Is(err, io.ErrUnexpectedEOF):
		return err
	case string(head[:n]) != ghost.Magic:
		return fmt.Errorf("%s is there and is no Ghost file; give another path with --out", path)
	}
	return nil
}

// replace writes b to path in one step: a reader sees the old file or the new.
// Directories that are missing are made.
func replace(path string, b []byte, mode fs.FileMode) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o777); err != nil {
		return err
	}
	f, err := os.CreateTemp(filepath.Dir(path), filepath.Base(path)+".*.part")
	if err != nil {
		return err
	}
	_, err = f.Write(b)
	err = errors.Join(err, f.Chmod(mode), f.Sync(), f.Close())
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		return errors.Join(err, os.Remove(f.Name()))
	}
	return nil
}
