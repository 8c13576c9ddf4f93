//go:build (!amd64 && !arm64) || purego

package kernel

// Paths lists the paths that run on this machine, slowest first.
func Paths() []Path { return []Path{Generic} }
