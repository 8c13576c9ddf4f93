package gguf

import (
	"fmt"
	"runtime/debug"
	"unsafe"
)

// Guard calls read, which reads data of f's tensors. Where the file has become
// shorter since it was mapped, or its disk cannot be read, the system stops the
// reader in the middle; Guard makes an error of that. It holds for read's own
// goroutine, and what read has written by then is not defined. Bytes that
// change without the file becoming shorter are not noticed.
func (f *File) Guard(read func()) error { return guard(f.Path, f.mapping, read) }

func guard(path string, mapping []byte, read func()) (err error) {
	if mapping == nil {
		read()
		return nil
	}
	old := debug.SetPanicOnFault(true)
	defer func() {
		debug.SetPanicOnFault(old)
		r := recover()
		if r == nil {
			return
		}
		fault, ok := r.(interface{ Addr() uintptr })
		begin := uintptr(unsafe.Pointer(unsafe.SliceData(mapping)))
		if !ok || fault.Addr() < begin || fault.Addr()-begin >= uintptr(len(mapping)) {
			panic(r)
		}
		err = fmt.Errorf("gguf: read %s at byte %d: the file became shorter while it was in use, or its disk cannot be read", path, fault.Addr()-begin)
	}()
	read()
	return nil
}
