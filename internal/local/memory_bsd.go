//go:build darwin || freebsd

package local

import (
	"runtime"

	"golang.org/x/sys/unix"
)

// Available is the memory of this machine in bytes: what other processes have
// taken of it is not known here. 0: unknown.
func Available() int64 {
	name := "hw.memsize"
	if runtime.GOOS == "freebsd" {
		name = "hw.physmem"
	}
	n, err := unix.SysctlUint64(name)
	if err != nil {
		return 0
	}
	return int64(n)
}
