//go:build !amd64 || purego

package kernel

// readAsm reports that there is no assembly.
func (Path) readAsm([]byte) (uint64, bool) { return 0, false }
