package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/geistnet/geist/internal/gguf"
	"github.com/geistnet/geist/internal/rowstore"
	"github.com/geistnet/geist/sat"
)

// tensorSource is a tensor in a file, whose values are its rows.
type tensorSource struct {
	name   string
	shape  sat.Shape
	values io.Reader
}

// tensorsOf lists the tensors of an open GGUF or safetensors file that can be tables.
func tensorsOf(file *os.File) ([]tensorSource, error) {
	info, err := file.Stat()
	if err != nil {
		return nil, err
	}
	var magic [4]byte
	if _, err := file.ReadAt(magic[:], 0); err != nil {
		return nil, fmt.Errorf("read %s: %w", file.Name(), err)
	}
	var out []tensorSource
	if string(magic[:]) == "GGUF" {
		g, err := gguf.Open(file.Name())
		if err != nil {
			return nil, hint(err)
		}
		defer g.Close()
		for _, t := range g.Tensors() {
			shape := sat.Shape{Rows: uint64(t.Rows()), Format: t.Format, Dim: t.Cols()}
			if shape.Valid() == nil {
				out = append(out, tensorSource{t.Name, shape, io.NewSectionReader(file, int64(t.Offset), int64(len(t.Data)))})
			}
		}
		return out, nil
	}
	tensors, err := rowstore.Safetensors(file, info.Size())
	if err != nil {
		return nil, fmt.Errorf("%s is neither GGUF nor safetensors: %w", file.Name(), err)
	}
	for _, t := range tensors {
		shape := sat.Shape{Rows: t.Rows, Format: t.Format, Dim: t.Dim}
		if shape.Valid() == nil {
			out = append(out, tensorSource{t.Name, shape, io.NewSectionReader(file, t.Begin, t.Bytes)})
		}
	}
	return out, nil
}

func (v verbs) satImport() *cobra.Command {
	c := &cobra.Command{
		Use:   "import DIRECTORY FILE",
		Short: "Make a table of a tensor in a GGUF or safetensors file",
		Long: `Makes a table of a tensor in a GGUF or safetensors file: each row of the tensor is
one of the table, as it stands in the file. All dimensions but that of a row are counted together.`,
		Example: "  geist sat import memory model.gguf --tensor blk.3.memory.weight",
		Args:    cobra.ExactArgs(2),
	}
	name := c.Flags().String("tensor", "", "which tensor; it may be left out if the file has one only")
	moments := c.Flags().Bool("moments", false, "keep the moments of Adam beside the values, for training")
	asJSON := jsonFlag(c)
	c.RunE = func(cmd *cobra.Command, args []string) error {
		file, err := os.Open(args[1])
		if err != nil {
			return err
		}
		defer file.Close()
		tensors, err := tensorsOf(file)
		if err != nil {
			return err
		}
		if *name == "" && len(tensors) != 1 {
			return fmt.Errorf("%s has %d tensors that can be tables; name one with --tensor", args[1], len(tensors))
		}
		for _, t := range tensors {
			if *name != "" && t.name != *name {
				continue
			}
			t.shape.Moments = *moments
			if err := t.shape.Valid(); err != nil {
				return err
			}
			s, err := v.makeTable(cmd.Context(), args[0], t.shape, t.values)
			if err != nil {
				return err
			}
			return stateOf(s, 0).say(v.out, *asJSON)
		}
		return fmt.Errorf("%s has no tensor %q that can be a table", args[1], *name)
	}
	return c
}

func (v verbs) satExport() *cobra.Command {
	c := &cobra.Command{
		Use:   "export DIRECTORY FILE",
		Short: "Write the values of a table to a GGUF or safetensors file",
		Long: `Writes the values of all rows, without moments, as one tensor to a new file. It is a
safetensors file if its name ends in .safetensors, else a GGUF file.`,
		Args: cobra.ExactArgs(2),
	}
	name := c.Flags().String("name", "memory.weight", "name of the tensor")
	asJSON := jsonFlag(c)
	c.RunE = func(cmd *cobra.Command, args []string) (err error) {
		if _, err := os.Lstat(args[1]); err == nil {
			return fmt.Errorf("%s is there already; name another file", args[1])
		}
		t, err := openTable(args[0], true)
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, t.Close()) }()
		part, err := os.CreateTemp(filepath.Dir(args[1]), ".geist-export-*")
		if err != nil {
			return err
		}
		defer func() {
			part.Close()
			os.Remove(part.Name()) // it is not there after the rename
		}()
		p := v.progress()
		defer p.End()
		write := func(w io.Writer) error { return t.Values(cmd.Context(), w, p.Update) }
		if strings.HasSuffix(args[1], ".safetensors") {
			err = writeSafetensors(part, *name, t.Shape(), write)
		} else {
			err = writeGGUF(part, *name, t.Shape(), write)
		}
		if err != nil {
			return err
		}
		info, err := part.Stat()
		if err != nil {
			return err
		}
		if err := errors.Join(part.Chmod(0o644), part.Sync(), part.Close(), os.Rename(part.Name(), args[1])); err != nil {
			return err
		}
		p.End()
		s := t.State()
		if *asJSON {
			return v.out.JSON(struct {
				satState
				File  string `json:"file"`
				Name  string `json:"name"`
				Bytes int64  `json:"file_bytes"`
			}{stateOf(s, t.Journal()), args[1], *name, info.Size()})
		}
		_, err = fmt.Fprintf(v.out.W, "%d rows of commit %d as %s in %s\n", s.Shape.Rows, s.Commit, *name, args[1])
		return err
	}
	return c
}

func writeSafetensors(w io.Writer, name string, s sat.Shape, values func(io.Writer) error) error {
	head, err := rowstore.SafetensorsHead(name, s.Format, s.Rows, s.Dim)
	if err != nil {
		return err
	}
	if _, err := w.Write(head); err != nil {
		return err
	}
	return values(w)
}

func writeGGUF(w io.Writer, name string, s sat.Shape, values func(io.Writer) error) error {
	g, err := gguf.NewWriter(w, []gguf.KV{{Key: "general.architecture", Value: gguf.ValueOf("geist")}},
		[]gguf.TensorInfo{{Name: name, Dims: []uint64{uint64(s.Dim), s.Rows}, Format: s.Format}})
	if err != nil {
		return err
	}
	from, to := io.Pipe()
	go func() { to.CloseWithError(values(to)) }()
	if err := g.WriteTensorFrom(from); err != nil {
		from.CloseWithError(err)
		return err
	}
	return g.Close()
}
