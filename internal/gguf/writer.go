package gguf

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
)

// Writer writes a file of version 3 from front to back. NewWriter writes
// everything up to the tensor data; then each tensor's data follow in order;
// then Close. After an error the file is spoilt and every call returns it.
type Writer struct {
	w       io.Writer
	tensors []TensorInfo
	sizes   []uint64
	align   uint64
	next    int // index of the tensor that comes next
	err     error
}

// NewWriter checks and writes metadata and tensor descriptions. The alignment
// is that of general.alignment in meta, 32 if absent.
func NewWriter(w io.Writer, meta []KV, tensors []TensorInfo) (*Writer, error) {
	wr := &Writer{w: w, tensors: append([]TensorInfo(nil), tensors...), align: defaultAlignment}
	if len(tensors) > maxCount || len(meta) > maxCount {
		return nil, fmt.Errorf("gguf: %d tensors and %d keys; the most is %d of each", len(tensors), len(meta), maxCount)
	}
	head := []byte("GGUF")
	head = binary.LittleEndian.AppendUint32(head, 3)
	head = binary.LittleEndian.AppendUint64(head, uint64(len(tensors)))
	head = binary.LittleEndian.AppendUint64(head, uint64(len(meta)))
	keys := map[string]bool{}
	for _, kv := range meta {
		if err := checkName("key", kv.Key, keys); err != nil {
			return nil, err
		}
		if kv.Key == alignmentKey {
			a, reason := alignment(kv.Value)
			if reason != "" {
				return nil, fmt.Errorf("gguf: %s", reason)
			}
			wr.align = a
		}
		head = appendString(head, kv.Key)
		head = binary.LittleEndian.AppendUint32(head, uint32(kv.Value.typ))
		begin := len(head)
		head = kv.Value.append(head)
		if size := len(head) - begin; size > maxValue {
			return nil, fmt.Errorf("gguf: key %.80q: a value of %d bytes; the most is %d", kv.Key, size, maxValue)
		}
	}
	names := map[string]bool{}
	var offset uint64
	for _, t := range tensors {
		if err := checkName("tensor", t.Name, names); err != nil {
			return nil, err
		}
		size, reason := checkTensor(t)
		if reason == "" && size > math.MaxInt64-maxAlignment-offset {
			reason = "the file would be too long"
		}
		if reason != "" {
			return nil, fmt.Errorf("gguf: tensor %.80q: %s", t.Name, reason)
		}
		wr.sizes = append(wr.sizes, size)
		head = appendString(head, t.Name)
		head = binary.LittleEndian.AppendUint32(head, uint32(len(t.Dims)))
		for _, d := range t.Dims {
			head = binary.LittleEndian.AppendUint64(head, d)
		}
		head = binary.LittleEndian.AppendUint32(head, uint32(t.Format))
		head = binary.LittleEndian.AppendUint64(head, offset)
		offset = alignUp(offset+size, wr.align)
	}
	head = append(head, make([]byte, alignUp(uint64(len(head)), wr.align)-uint64(len(head)))...)
	if _, err := w.Write(head); err != nil {
		return nil, fmt.Errorf("gguf: write the header: %w", err)
	}
	return wr, nil
}

func checkName(kind, name string, seen map[string]bool) error {
	if len(name) > maxName {
		return fmt.Errorf("gguf: a %s of %d bytes; the most is %d", kind, len(name), maxName)
	}
	if seen[name] {
		return fmt.Errorf("gguf: %s %.80q appears twice", kind, name)
	}
	seen[name] = true
	return nil
}

// WriteTensor writes the data of the next tensor. data must be exactly as long
// as the tensor's description says.
func (w *Writer) WriteTensor(data []byte) error { return w.WriteTensorFrom(bytes.NewReader(data)) }

// WriteTensorFrom writes the data of the next tensor. r must end after exactly
// as many bytes as the tensor's description says.
func (w *Writer) WriteTensorFrom(r io.Reader) error {
	if w.err == nil {
		w.err = w.writeTensor(r)
	}
	return w.err
}

func (w *Writer) writeTensor(r io.Reader) error {
	if w.next == len(w.tensors) {
		return fmt.Errorf("gguf: data of a tensor after the last of %d", len(w.tensors))
	}
	name, size := w.tensors[w.next].Name, int64(w.sizes[w.next])
	// One byte more than wanted tells a source that is too long.
	n, err := io.Copy(&capped{w.w, size}, io.LimitReader(r, size+1))
	switch {
	case errors.Is(err, errTooLong):
		return fmt.Errorf("gguf: tensor %.80q: more than the %d bytes it needs", name, size)
	case err != nil:
		return fmt.Errorf("gguf: write tensor %.80q: %w", name, err)
	case n < size:
		return fmt.Errorf("gguf: tensor %.80q: %d of the %d bytes it needs", name, n, size)
	}
	pad := alignUp(uint64(size), w.align) - uint64(size)
	if _, err := w.w.Write(make([]byte, pad)); err != nil {
		return fmt.Errorf("gguf: write tensor %.80q: %w", name, err)
	}
	w.next++
	return nil
}

// Close checks that every tensor was written. It does not close the
// underlying writer.
func (w *Writer) Close() error {
	if w.err == nil && w.next < len(w.tensors) {
		w.err = fmt.Errorf("gguf: closed before the data of tensor %.80q", w.tensors[w.next].Name)
	}
	return w.err
}

var errTooLong = errors.New("too long")

// capped refuses what goes beyond left bytes.
type capped struct {
	w    io.Writer
	left int64
}

func (c *capped) Write(b []byte) (int, error) {
	if int64(len(b)) > c.left {
		return 0, errTooLong
	}
	n, err := c.w.Write(b)
	c.left -= int64(n)
	return n, err
}
