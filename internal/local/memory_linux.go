package local

import "os"

// Available is the memory in bytes that this process may take without others
// having to give theirs up. 0: unknown.
func Available() int64 { return linuxMemory(os.DirFS("/")) }
