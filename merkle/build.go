package merkle

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/bits"
	"runtime"
	"sync"
)

// Data is where the leaves of a tree to be built come from.
type Data struct {
	n     uint64
	size  int // bytes of the longest leaf
	views func(first uint64, leaves [][]byte, buf []byte) error
	copy  bool // views needs a buffer
}

// Slices is Data whose leaves are given one by one.
func Slices(leaves [][]byte) Data {
	d := Data{n: uint64(len(leaves))}
	for _, l := range leaves {
		d.size = max(d.size, len(l))
	}
	d.views = func(first uint64, dst [][]byte, _ []byte) error {
		copy(dst, leaves[first:])
		return nil
	}
	return d
}

// Rows is Data with leaves of size bytes each, the last perhaps shorter.
func Rows(data []byte, size int) (Data, error) {
	d, err := fixed(int64(len(data)), size)
	if err != nil {
		return Data{}, err
	}
	d.views = func(first uint64, dst [][]byte, _ []byte) error {
		cut(data[first*uint64(size):], dst, size)
		return nil
	}
	return d, nil
}

// File is Data with leaves of size bytes each, the last perhaps shorter, from
// the first length bytes of r, which is read from several goroutines.
func File(r io.ReaderAt, length int64, size int) (Data, error) {
	d, err := fixed(length, size)
	if err != nil {
		return Data{}, err
	}
	d.copy = true
	d.views = func(first uint64, dst [][]byte, buf []byte) error {
		off := int64(first) * int64(size)
		buf = buf[:min(int64(len(dst))*int64(size), length-off)]
		if n, err := r.ReadAt(buf, off); n < len(buf) {
			if err == nil || errors.Is(err, io.EOF) {
				err = io.ErrUnexpectedEOF
			}
			return fmt.Errorf("read %d bytes at %d: %w", len(buf), off, err)
		}
		cut(buf, dst, size)
		return nil
	}
	return d, nil
}

func fixed(length int64, size int) (Data, error) {
	if size < 1 || length < 0 {
		return Data{}, fmt.Errorf("leaves of %d bytes in %d bytes of data", size, length)
	}
	n := uint64(length) / uint64(size)
	if uint64(length)%uint64(size) != 0 {
		n++
	}
	return Data{n: n, size: int(min(int64(size), max(1, length)))}, nil
}

// cut fills leaves with pieces of size bytes; the last may be shorter.
func cut(data []byte, leaves [][]byte, size int) {
	for i := range leaves {
		end := min(size, len(data))
		leaves[i], data = data[:end:end], data[end:]
	}
}

// Len is the number of leaves.
func (d Data) Len() uint64 { return d.n }

// Options of Build. The zero value stores nothing and uses all processors.
type Options struct {
	Hasher   Hasher              // nil: Plain
	Workers  int                 // goroutines; below 1: one for each processor
	Nodes    Nodes               // keeps all levels; nil: only the root is made
	Progress func(leaves uint64) // called with the leaves done so far, ascending, one call at a time
}

// spanBytes is what a goroutine hashes at a time: it fits into a second-level
// cache, and has sixteen leaves of 64 kB.
const spanBytes = 1 << 20

// Build makes the tree over d and returns its root. The bytes of every leaf are
// read once. Without Options.Nodes memory is at most two megabytes for each
// goroutine and O(log n) besides, unless one leaf alone is longer.
func Build(ctx context.Context, d Data, o Options) (Hash, error) {
	if d.n == 0 {
		return Hash{}, fmt.Errorf("build a tree without leaves")
	}
	if o.Hasher == nil {
		o.Hasher = Plain{}
	}
	if o.Workers < 1 {
		o.Workers = runtime.GOMAXPROCS(0)
	}
	b := &builder{Data: d, Options: o, waiting: map[place]Hash{}}
	// A span is 2^height leaves under one node: at most 2^14, so that short
	// leaves do not make the hashes of a span outgrow its bytes.
	b.height = min(bits.Len(uint(max(1, spanBytes/max(1, d.size))))-1, 14, bits.Len64(d.n-1))
	workers := uint64(o.Workers)
	if spans := (d.n-1)>>b.height + 1; spans < workers {
		workers = spans
	}
	var wg sync.WaitGroup
	for range workers {
		wg.Go(func() { b.work(ctx) })
	}
	wg.Wait()
	return b.root, b.err
}

// place is where a node is.
type place struct {
	level int
	index uint64
}

type builder struct {
	Data
	Options
	height int // of a span

	mu   sync.Mutex // of all below, and of calls of Nodes and Progress
	next uint64     // first leaf of the next span
	done uint64     // leaves hashed
	err  error      // the first
	root Hash
	// waiting has the nodes whose neighbours are not done yet. Spans are begun
	// in order, so all holes in what is done are spans in work: there are
	// O(workers·log n) such nodes.
	waiting map[place]Hash
}

func (b *builder) work(ctx context.Context) {
	span := uint64(1) << b.height
	leaves := make([][]byte, min(span, b.n))
	levels := [][]Hash{make([]Hash, len(leaves))}
	for l := 1; l <= b.height && b.Nodes != nil; l++ {
		levels = append(levels, make([]Hash, half(uint64(len(levels[l-1])))))
	}
	var buf []byte
	if b.copy {
		buf = make([]byte, len(leaves)*b.size)
	}
	for {
		first, count := b.begin(ctx)
		if count == 0 {
			return
		}
		if err := b.views(first, leaves[:count], buf); err != nil {
			b.stop(err)
			return
		}
		hashes := levels[0][:count]
		b.Hasher.Leaves(hashes, leaves[:count])
		for l := 1; l <= b.height; l++ {
			dst := hashes
			if b.Nodes != nil {
				dst = levels[l]
			}
			hashes = parents(b.Hasher, dst, hashes)
		}
		if err := b.end(first, count, levels, hashes[0]); err != nil {
			b.stop(err)
			return
		}
	}
}

// begin hands out the next span, of no leaves if there is nothing left to do.
func (b *builder) begin(ctx context.Context) (first, count uint64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.err == nil {
		b.err = ctx.Err()
	}
	if b.err != nil {
		return 0, 0
	}
	first = b.next
	count = min(uint64(1)<<b.height, b.n-first)
	b.next += count
	return first, count
}

func (b *builder) stop(err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.err == nil {
		b.err = err
	}
}

// end takes a finished span and its node, and makes all nodes above that can
// be made now.
func (b *builder) end(first, count uint64, levels [][]Hash, node Hash) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.Nodes != nil {
		for l, width := 0, count; l < b.height; l, width = l+1, half(width) {
			if err := b.Nodes.Store(l, first>>l, levels[l][:width]); err != nil {
				return err
			}
		}
	}
	width := b.n
	for range b.height {
		width = half(width)
	}
	for at := (place{b.height, first >> b.height}); ; width = half(width) {
		if b.Nodes != nil {
			if err := b.Nodes.Store(at.level, at.index, []Hash{node}); err != nil {
				return err
			}
		}
		if width == 1 {
			b.root = node
			break
		}
		if !alone(at.index, width) {
			beside := place{at.level, at.index ^ 1}
			other, ok := b.waiting[beside]
			if !ok {
				b.waiting[at] = node
				break
			}
			delete(b.waiting, beside)
			pair := []Hash{node, other}
			if at.index%2 == 1 {
				pair[0], pair[1] = other, node
			}
			node = parents(b.Hasher, pair, pair)[0]
		}
		at = place{at.level + 1, at.index / 2}
	}
	b.done += count
	if b.Progress != nil {
		b.Progress(b.done)
	}
	return nil
}
