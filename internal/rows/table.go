package rows

import (
	"context"
	"fmt"

	"github.com/geistnet/geist/ghost"
	"github.com/geistnet/geist/internal/gguf"
	"github.com/geistnet/geist/internal/hashmany"
	"github.com/geistnet/geist/merkle"
	"github.com/geistnet/geist/sat"
)

// A Table is what a Server serves.
type Table struct {
	Name string // of the tensor
	sat.Table
	Tree  *merkle.Tree
	Nodes merkle.Nodes // of the tree
	// Read appends row id to dst. It is called from several goroutines.
	Read func(dst []byte, id int) ([]byte, error)
}

// Memory lists the tensors of m that are tables of memory blocks, by their
// index and in their order.
func Memory(m *ghost.Model) []int {
	var out []int
	seen := map[int]bool{}
	for i := range m.Layers {
		if x := m.Layers[i].Memory; x != nil && !seen[x.Table] {
			seen[x.Table] = true
			out = append(out, x.Table)
		}
	}
	return out
}

// Open makes the trees of the memory tables of the model in f, whose tensors m
// describes; roots in m that are not zero have to be those of the file. The
// tables read f, which stays open as long as they are in use.
func Open(ctx context.Context, f *gguf.File, m *ghost.Model) ([]Table, error) {
	var out []Table
	for _, i := range Memory(m) {
		t, err := openTable(ctx, f, &m.Tensors[i])
		if err != nil {
			return nil, fmt.Errorf("%s: table %q: %w", f.Path, m.Tensors[i].Name, err)
		}
		out = append(out, t)
	}
	return out, nil
}

func openTable(ctx context.Context, f *gguf.File, g *ghost.Tensor) (Table, error) {
	in := f.Tensor(g.Name)
	if in == nil || in.Format != g.Format || in.Rows() != g.Rows || in.Cols() != g.Cols {
		return Table{}, fmt.Errorf("the file has no such tensor")
	}
	size := g.Format.RowBytes(g.Cols)
	data, err := merkle.Rows(in.Data, size)
	if err != nil {
		return Table{}, err
	}
	nodes := &merkle.Memory{}
	root, err := merkle.Build(ctx, data, merkle.Options{Hasher: hashmany.New(), Nodes: nodes})
	if err != nil {
		return Table{}, err
	}
	if g.Root != (merkle.Hash{}) && g.Root != root {
		return Table{}, fmt.Errorf("the root is %v; expected %v", root, g.Root)
	}
	return Table{
		Name:  g.Name,
		Table: sat.Table{Root: root, Rows: g.Rows, Format: g.Format, Cols: g.Cols},
		Tree:  merkle.Open(nodes, uint64(g.Rows), hashmany.New()),
		Nodes: nodes,
		Read: func(dst []byte, id int) ([]byte, error) {
			if err := f.Guard(func() { dst = append(dst, in.Data[id*size:][:size]...) }); err != nil {
				return nil, err
			}
			return dst, nil
		},
	}, nil
}
