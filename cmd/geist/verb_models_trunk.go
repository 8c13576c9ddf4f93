package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/geistnet/geist/ghost"
	"github.com/geistnet/geist/internal/console"
	"github.com/geistnet/geist/internal/gguf"
	"github.com/geistnet/geist/internal/rows"
)

func (v verbs) modelsTrunk() *cobra.Command {
	c := &cobra.Command{
		Use:   "trunk MODEL OUT.gguf",
		Short: "Write a model without its memory tables, and its Ghost file beside it",
		Long: `A model with memory blocks reads a few rows of large tables for each token. Its
trunk is all the rest. With the Ghost file beside it, which has the roots of the
tables, the trunk answers as the whole model does, with rows from servers that
nobody needs to trust: "geist run OUT.gguf --rows URL".

The tables and the trunk are hashed again and must have the roots of the Ghost file.`,
		Example:           "  geist models trunk tales trunk.gguf\n  geist run trunk.gguf --rows http://127.0.0.1:4378 \"Tell me a story about a goose.\"",
		Args:              cobra.ExactArgs(2),
		ValidArgsFunction: v.completeFirst,
	}
	asJSON := jsonFlag(c)
	c.RunE = func(cmd *cobra.Command, args []string) error {
		ctx := cmd.Context()
		o, err := v.openServed(ctx, args[0])
		if err != nil {
			return err
		}
		defer o.File.Close()
		if len(rows.Memory(o.Ghost)) == 0 {
			return fmt.Errorf("%s has no memory blocks; it is all trunk", console.Clean(args[0]))
		}
		path := args[1]
		beside, err := v.ghostPath(path, nil, false)
		if err != nil {
			return err
		}
		if err := errors.Join(replaceableModel(path, o.File.Path), replaceable(beside)); err != nil {
			return err
		}
		tables, err := rows.Open(ctx, o.File, o.Ghost) // demands their roots
		if err != nil {
			return err
		}
		t := trunked{ID: o.Ghost.ID().String(), Path: path, Ghost: beside}
		for i := range tables {
			t.Tables++
			t.Rows += tables[i].Rows
			t.LeftOut += int64(tables[i].Rows) * int64(tables[i].RowBytes())
		}
		if t.Bytes, err = v.writeTrunk(ctx, path, o.File, o.Ghost); err != nil {
			return err
		}
		b, err := ghost.Encode(o.Ghost)
		if err != nil {
			return err
		}
		if err := replace(beside, b, 0o644); err != nil {
			return err
		}
		if *asJSON {
			return v.out.JSON(t)
		}
		_, err = fmt.Fprintf(v.out.W, "%s\nwrote %s (%s) without %d rows of %s (%s), and %s\n",
			t.ID, console.Clean(path), console.Size(t.Bytes), t.Rows, count(t.Tables, "table"), console.Size(t.LeftOut), console.Clean(beside))
		return err
	}
	return c
}

// trunked is what "models trunk --json" says.
type trunked struct {
	ID      string `json:"id"`
	Path    string `json:"path"`
	Ghost   string `json:"ghost"`
	Bytes   int64  `json:"bytes"`
	Tables  int    `json:"tables"`
	Rows    int    `json:"rows"`
	LeftOut int64  `json:"left_out_bytes"`
}

// replaceableModel says why a model should not be written to path: it is what is
// read, or something that is no model.
func replaceableModel(path, from string) error {
	if !strings.EqualFold(filepath.Ext(path), ".gguf") {
		return fmt.Errorf("%s: the name of a model file ends in .gguf", path)
	}
	info, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if source, err := os.Stat(from); err == nil && os.SameFile(info, source) {
		return fmt.Errorf("%s is the model itself; give another path for its trunk", path)
	}
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	head := make([]byte, 4)
	if n, err := io.ReadFull(f, head); err != nil && !errors.Is(err, io.EOF) || n > 0 && string(head) != "GGUF" {
		return fmt.Errorf("%s is there and is no GGUF file; give another path", path)
	}
	return nil
}

// writeTrunk writes the trunk of f in one step, after it was read again and has
// the roots of g, and returns its length.
func (e *env) writeTrunk(ctx context.Context, path string, f *gguf.File, g *ghost.Model) (size int64, err error) {
	p := e.progress()
	defer p.End()
	if err := os.MkdirAll(filepath.Dir(path), 0o777); err != nil {
		return 0, err
	}
	out, err := os.CreateTemp(filepath.Dir(path), filepath.Base(path)+".*.part")
	if err != nil {
		return 0, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.Remove(out.Name()))
		}
	}()
	w := bufio.NewWriterSize(out, 1<<20)
	err = rows.WriteTrunk(ctx, w, f, g, func(done, total int64) { p.Update("write", done, total) })
	if err == nil {
		err = w.Flush()
	}
	if err = errors.Join(err, out.Chmod(0o644), out.Sync(), out.Close()); err != nil {
		return 0, err
	}
	p.End()
	trunk, err := gguf.Open(out.Name())
	if err != nil {
		return 0, err
	}
	err = checkTrunk(ctx, trunk, g, func(done, total int64) { p.Update("verify", done, total) })
	if err = errors.Join(err, trunk.Close()); err != nil {
		return 0, fmt.Errorf("the trunk that was written is not the model's: %w", err)
	}
	info, err := os.Stat(out.Name())
	if err != nil {
		return 0, err
	}
	return info.Size(), os.Rename(out.Name(), path)
}
