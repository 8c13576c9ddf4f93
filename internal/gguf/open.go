package gguf

import (
	"fmt"
	"os"
)

// Open maps a file into memory, read only, and parses it; where mapping is not
// available it reads the whole file. The file must not be changed while it is
// open. Reading what lies beyond the end of a file that became shorter kills
// the process, but for reads under Guard.
// What is wrong with the file's bytes is a *FormatError.
func Open(path string) (*File, error) {
	// Opening a named pipe would wait for somebody to write into it.
	if info, err := os.Stat(path); err == nil && !info.Mode().IsRegular() {
		return nil, fmt.Errorf("gguf: %s is not a regular file", path)
	}
	file, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("gguf: %w", err)
	}
	defer file.Close()
	info, err := file.Stat()
	if err != nil {
		return nil, fmt.Errorf("gguf: %w", err)
	}
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("gguf: %s is not a regular file", path)
	}
	if int64(int(info.Size())) != info.Size() {
		return nil, fmt.Errorf("gguf: %s: %d bytes are more than this machine can address", path, info.Size())
	}
	b, err := mapFile(file, int(info.Size()))
	if err != nil {
		return nil, fmt.Errorf("gguf: map %s: %w", path, err)
	}
	var f *File
	if fault := guard(path, b, func() { f, err = Parse(path, b) }); fault != nil {
		err = fault
	}
	if err != nil {
		unmap(b)
		return nil, err
	}
	f.mapping = b
	return f, nil
}

// Close gives the mapping back. Tensor data must not be in use; they are nil
// afterwards. A second Close does nothing.
func (f *File) Close() error {
	for _, t := range f.tensors {
		t.Data = nil
	}
	b := f.mapping
	f.mapping = nil
	if err := unmap(b); err != nil {
		return fmt.Errorf("gguf: unmap %s: %w", f.Path, err)
	}
	return nil
}

// Release tells the system that t's data will not be read soon, so that their
// memory is free for others; reading them again reads the file again. It does
// nothing where the system or the kind of file has no use for the advice.
func (f *File) Release(t *Tensor) { _ = f.release(t) }

func (f *File) release(t *Tensor) error {
	if f.mapping == nil || len(t.Data) == 0 {
		return nil
	}
	page := uint64(os.Getpagesize())
	begin := alignUp(t.Offset, page) // pages shared with a neighbour stay
	end := (t.Offset + uint64(len(t.Data))) &^ (page - 1)
	if begin >= end {
		return nil
	}
	return dropPages(f.mapping[begin:end])
}
