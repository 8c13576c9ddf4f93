package rows

import (
	"context"
	"fmt"
	"io"
	"slices"

	"github.com/geistnet/geist/ghost"
	"github.com/geistnet/geist/internal/gguf"
)

// WriteTrunk writes the model in f, which g describes, without the tables of
// its memory blocks. All else is as it is in f, in the same order. progress, if
// not nil, is told the bytes of tensors written so far and in all. It ends early
// if ctx does.
func WriteTrunk(ctx context.Context, w io.Writer, f *gguf.File, g *ghost.Model, progress func(done, total int64)) error {
	var tables []string
	for _, i := range Memory(g) {
		tables = append(tables, g.Tensors[i].Name)
	}
	var keep []*gguf.Tensor
	var infos []gguf.TensorInfo
	var done, total int64
	for _, t := range f.Tensors() {
		if slices.Contains(tables, t.Name) {
			continue
		}
		keep, infos, total = append(keep, t), append(infos, t.Info()), total+int64(len(t.Data))
	}
	out, err := gguf.NewWriter(w, f.Meta(), infos)
	if err != nil {
		return err
	}
	for _, t := range keep {
		if err := ctx.Err(); err != nil {
			return err
		}
		var failed error
		if err := f.Guard(func() { failed = out.WriteTensor(t.Data) }); err != nil {
			return err
		}
		if failed != nil {
			return fmt.Errorf("%s: tensor %q: %w", f.Path, t.Name, failed)
		}
		f.Release(t)
		if done += int64(len(t.Data)); progress != nil {
			progress(done, total)
		}
	}
	return out.Close()
}
