//go:build linux || darwin || freebsd

package arena

import (
	"fmt"
	"math"
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"
)

const hugePage = 2 << 20

func address(b []byte) uintptr { return uintptr(unsafe.Pointer(&b[0])) }

// New reserves size bytes that begin a cache line.
func New(size int) (*Arena, error) {
	if size < 0 || size > math.MaxInt-2*hugePage {
		return nil, fmt.Errorf("reserve %d bytes of memory: no such size", size)
	}
	if size == 0 {
		return &Arena{}, nil
	}
	n := (size + hugePage - 1) &^ (hugePage - 1)
	mem, err := unix.Mmap(-1, 0, n+hugePage, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANON)
	if err != nil {
		return nil, fmt.Errorf("reserve %d MiB of memory: %w", n>>20, err)
	}
	if runtime.GOOS == "linux" {
		const adviseHugePage = 14
		_ = unix.Madvise(mem, adviseHugePage) // slower without, not wrong
	}
	// The first huge page begins where the address is a multiple of its size.
	skip := int(-address(mem) & (hugePage - 1))
	return &Arena{mapped: mem, mem: mem[skip : skip+size : skip+size]}, nil
}

// Free gives the memory back to the system. A second call does nothing.
func (a *Arena) Free() error {
	if a.mapped == nil {
		return nil
	}
	m := a.mapped
	a.mapped, a.mem = nil, nil
	if err := unix.Munmap(m); err != nil {
		return fmt.Errorf("give %d MiB of memory back: %w", len(m)>>20, err)
	}
	return nil
}
