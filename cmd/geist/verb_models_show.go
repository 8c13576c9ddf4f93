package main

import (
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"github.com/geistnet/geist/ghost"
	"github.com/geistnet/geist/internal/console"
	"github.com/geistnet/geist/internal/gguf"
	"github.com/geistnet/geist/internal/store"
)

func (v verbs) modelsShow() *cobra.Command {
	c := &cobra.Command{
		Use:               "show MODEL",
		Short:             "Show what a model is and its metadata",
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: v.completeModels,
	}
	tensors := c.Flags().Bool("tensors", false, "list the tensors too")
	asJSON := jsonFlag(c)
	c.RunE = func(cmd *cobra.Command, args []string) error {
		f, m, err := v.openModel(args[0])
		if err != nil {
			return err
		}
		defer f.Close()
		d := describe(f, m, *tensors)
		d.Ghost = v.knownGhost(f.Path, m)
		if d.BuiltIn {
			b, err := v.builtInGhost(cmd.Context())
			if err != nil {
				return err
			}
			d.Ghost = ghost.IDOf(b).String()
		}
		if *asJSON {
			return v.out.JSON(d)
		}
		return d.print(v.out)
	}
	return c
}

// description is what "models show" says of a file.
type description struct {
	*store.Model            // nil for a file outside of the store
	Added        *time.Time `json:"added,omitempty"` // to the store
	BuiltIn      bool       `json:"built_in,omitempty"`
	Path         string     `json:"path,omitempty"`  // absent for the built-in model
	Ghost        string     `json:"ghost,omitempty"` // the model id, once its Ghost file was made
	FileBytes    int64      `json:"file_bytes"`
	GGUF         uint32     `json:"gguf_version"`
	Arch         string     `json:"architecture"`
	Parameters   uint64     `json:"parameters"`
	Tensors      int        `json:"tensors"`
	Formats      []formats  `json:"formats"` // by bytes, most first
	Metadata     []keyed    `json:"metadata"`
	TensorList   []tensor   `json:"tensor_list,omitempty"`
}

type formats struct {
	Format  string `json:"format"`
	Tensors int    `json:"tensors"`
	Bytes   int64  `json:"bytes"`
}

type keyed struct {
	Key   string `json:"key"`
	Type  string `json:"type"`
	Value any    `json:"value,omitempty"`  // absent for an array of more than a few elements
	Len   int    `json:"length,omitempty"` // of an array
	text  string
}

type tensor struct {
	Name   string   `json:"name"`
	Format string   `json:"format"`
	Dims   []uint64 `json:"dims"`
	Bytes  int      `json:"bytes"`
}

const shortArray = 16

func describe(f *gguf.File, m *store.Model, tensors bool) description {
	d := description{Model: m, Path: f.Path, FileBytes: f.Size, GGUF: f.Version, Arch: f.Arch(), Tensors: len(f.Tensors())}
	switch {
	case isBuiltIn(m):
		d.Path, d.BuiltIn = "", true
	case m != nil:
		d.Added = &m.Added
	}
	for _, t := range f.Tensors() {
		d.Parameters += t.Elems()
		i := slices.IndexFunc(d.Formats, func(x formats) bool { return x.Format == t.Format.String() })
		if i < 0 {
			i = len(d.Formats)
			d.Formats = append(d.Formats, formats{Format: t.Format.String()})
		}
		d.Formats[i].Tensors++
		d.Formats[i].Bytes += int64(len(t.Data))
		if tensors {
			d.TensorList = append(d.TensorList, tensor{t.Name, t.Format.String(), t.Dims, len(t.Data)})
		}
	}
	slices.SortStableFunc(d.Formats, func(a, b formats) int { return int(max(-1, min(1, b.Bytes-a.Bytes))) })
	for _, kv := range f.Meta() {
		k := keyed{Key: kv.Key, Type: kv.Value.Type().String(), text: kv.Value.String()}
		if kv.Value.Type() == gguf.Array {
			k.Len = kv.Value.Len()
		}
		if k.Len <= shortArray {
			k.Value = jsonValue(kv.Value)
		}
		d.Metadata = append(d.Metadata, k)
	}
	return d
}

// jsonValue is v as JSON can say it: NaN and infinities become text, and bytes
// are numbers.
func jsonValue(v gguf.Value) any {
	a := v.Any()
	if b, ok := a.([]uint8); ok {
		n := make([]int, len(b))
		for i := range b {
			n[i] = int(b[i])
		}
		return n
	}
	if _, err := json.Marshal(a); err != nil {
		return v.String()
	}
	return a
}

func (d description) print(out console.Out) error {
	rows := [][]string{}
	if d.Model != nil {
		rows = append(rows, []string{"name", d.Name}, []string{"sha256", d.SHA256})
		if d.Added != nil {
			rows = append(rows, []string{"added", d.Added.Local().Format("2006-01-02 15:04")})
		}
		rows = append(rows, []string{"source", d.Source})
	}
	if d.Path != "" {
		rows = append(rows, []string{"file", d.Path})
	}
	rows = append(rows,
		[]string{"size", console.Size(d.FileBytes)},
		[]string{"architecture", d.Arch},
		[]string{"parameters", strconv.FormatUint(d.Parameters, 10)},
		[]string{"tensors", strconv.Itoa(d.Tensors)})
	if d.Ghost != "" {
		rows = append(rows, []string{"model id", d.Ghost})
	}
	for _, f := range d.Formats {
		rows = append(rows, []string{"  " + f.Format, fmt.Sprintf("%d, %s", f.Tensors, console.Size(f.Bytes))})
	}
	rows = append(rows, []string{"", ""})
	for _, k := range d.Metadata {
		rows = append(rows, []string{k.Key, k.text})
	}
	if err := out.Table([]string{"GGUF", "version " + strconv.FormatUint(uint64(d.GGUF), 10)}, rows); err != nil {
		return err
	}
	if len(d.TensorList) == 0 {
		return nil
	}
	rows = nil
	for _, t := range d.TensorList {
		rows = append(rows, []string{t.Name, t.Format, fmt.Sprint(t.Dims), console.Size(int64(t.Bytes))})
	}
	fmt.Fprintln(out.W)
	return out.Table([]string{"TENSOR", "FORMAT", "DIMS", "SIZE"}, rows)
}
