//go:build linux || darwin || freebsd

package model

import (
	"fmt"
	"runtime"
	"syscall"

	"golang.org/x/sys/unix"
)

// arena is zeroed memory outside Go's heap, on huge pages where the system
// grants them: with 4 KiB pages address translation halves the rate at which
// weights can be read.
type arena struct{ mem []byte }

const hugePage = 2 << 20

func newArena(size int) (*arena, error) {
	if size == 0 {
		return &arena{}, nil
	}
	n := (size + 2*hugePage - 1) &^ (hugePage - 1)
	mem, err := unix.Mmap(-1, 0, n, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANON)
	if err != nil {
		return nil, fmt.Errorf("reserve %d MiB of memory: %w", n>>20, err)
	}
	if runtime.GOOS == "linux" {
		const adviseHugePage = 14
		_ = syscall.Madvise(mem, adviseHugePage) // slower without, not wrong
	}
	return &arena{mem}, nil
}

func (a *arena) free() error {
	if a.mem == nil {
		return nil
	}
	m := a.mem
	a.mem = nil
	return unix.Munmap(m)
}
