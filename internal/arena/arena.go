// Package arena gives large zeroed memory outside Go's heap, on huge pages
// where the system has them: with 4 KiB pages address translation halves the
// rate at which weights can be read. Memory that is not touched costs nothing.
package arena

// Arena is one piece of memory. Its methods are not for concurrent use.
type Arena struct {
	mapped []byte // whole huge pages; nil: nothing to give back
	mem    []byte
}

// Bytes is the memory, which is invalid after Free.
func (a *Arena) Bytes() []byte { return a.mem }
