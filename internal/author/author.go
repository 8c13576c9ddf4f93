// Package author makes Ghost files: it describes the model in a GGUF file and
// hashes the rows of every tensor into a root.
//
// The file is mapped into memory and read once, in order of the tensors'
// places in it, by all processors; the pages of a tensor are given back when it
// is done. Rows are hashed as they stand, without copies, so the work goes at
// the rate of memory or of the hash, whichever is lower.
package author

import (
	"cmp"
	"context"
	"fmt"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/geistnet/geist/ghost"
	"github.com/geistnet/geist/internal/gguf"
	"github.com/geistnet/geist/internal/hashmany"
	"github.com/geistnet/geist/internal/model"
	"github.com/geistnet/geist/merkle"
)

// Options of Build. The zero value uses all processors and the fastest hashes.
type Options struct {
	Long    bool          // the factors for long contexts, in models that have two sets: another model
	Workers int           // goroutines; below 1: one for each processor
	Hasher  merkle.Hasher // nil: the fastest of this machine; all give the same
}

// Build describes the model in f and computes the roots of its tensors.
// progress, if not nil, is told the bytes hashed so far and in all, ascending,
// one call at a time. It ends early if ctx does.
func Build(ctx context.Context, f *gguf.File, o Options, progress func(done, total int64)) (*ghost.Model, error) {
	m, err := model.Describe(f, model.Options{Long: o.Long})
	if err != nil {
		return nil, err
	}
	if o.Hasher == nil {
		o.Hasher = hashmany.New()
	}
	var total, done int64
	order := inFile(f, m)
	for _, i := range order {
		total += int64(len(f.Tensor(m.Tensors[i].Name).Data))
	}
	for _, i := range order {
		t := &m.Tensors[i]
		in := f.Tensor(t.Name)
		size := t.Format.RowBytes(t.Cols)
		rows, err := merkle.Rows(in.Data, size)
		if err == nil && rows.Len() != uint64(t.Rows) {
			err = fmt.Errorf("%d bytes are not %d rows of %d", len(in.Data), t.Rows, size)
		}
		if err == nil {
			t.Root, err = merkle.Build(ctx, rows, merkle.Options{Hasher: o.Hasher, Workers: o.Workers, Progress: func(n uint64) {
				if progress != nil {
					progress(done+int64(n)*int64(size), total)
				}
			}})
		}
		if err != nil {
			return nil, fmt.Errorf("%s: hash tensor %q: %w", f.Path, t.Name, err)
		}
		done += int64(len(in.Data))
		f.Release(in)
	}
	return m, nil
}

// inFile gives the indices of m's tensors in the order of their data in f.
func inFile(f *gguf.File, m *ghost.Model) []int {
	order := make([]int, len(m.Tensors))
	for i := range order {
		order[i] = i
	}
	slices.SortFunc(order, func(a, b int) int {
		return cmp.Compare(f.Tensor(m.Tensors[a].Name).Offset, f.Tensor(m.Tensors[b].Name).Offset)
	})
	return order
}

// Read reads the bytes that Build hashes, once, as Build does but without
// hashing: what Build's time is to be compared with. It returns their number;
// sum depends on every word of them.
func Read(ctx context.Context, f *gguf.File, o Options) (bytes int64, sum uint64, err error) {
	m, err := model.Describe(f, model.Options{Long: o.Long})
	if err != nil {
		return 0, 0, err
	}
	if o.Workers < 1 {
		o.Workers = runtime.GOMAXPROCS(0)
	}
	const piece = 1 << 20
	for _, i := range inFile(f, m) {
		in := f.Tensor(m.Tensors[i].Name)
		var next, all atomic.Uint64
		var wg sync.WaitGroup
		for range o.Workers {
			wg.Go(func() {
				var s uint64
				for ctx.Err() == nil {
					end := next.Add(piece)
					if end-piece >= uint64(len(in.Data)) {
						break
					}
					s ^= xor(in.Data[end-piece : min(end, uint64(len(in.Data)))])
				}
				all.Add(s)
			})
		}
		wg.Wait()
		if err := ctx.Err(); err != nil {
			return 0, 0, err
		}
		sum += all.Load()
		bytes += int64(len(in.Data))
		f.Release(in)
	}
	return bytes, sum, nil
}
