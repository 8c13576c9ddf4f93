//go:build amd64 && !purego

package kernel

// pause tells the processor that this is a spin loop.
func pause()
