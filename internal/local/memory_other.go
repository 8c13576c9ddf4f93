//go:build !(linux || darwin || freebsd)

package local

// Available is 0: on this system the memory that is free is not known.
func Available() int64 { return 0 }
