//go:build !purego

package kernel

import (
	"runtime"

	"golang.org/x/sys/cpu"
)

// Paths lists the paths that run on this machine, slowest first.
func Paths() []Path {
	p := []Path{Generic}
	// Every Mac with an arm64 processor has the dot product instructions.
	if cpu.ARM64.HasASIMDDP || runtime.GOOS == "darwin" {
		p = append(p, NEON)
	}
	return p
}
