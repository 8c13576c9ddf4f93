// Package hashmany makes many hashes of package merkle at once: sixteen leaves
// of equal length, or sixteen nodes, in the lanes of AVX-512 registers or, half
// by half, of AVX2 registers. It is for whoever builds trees over gigabytes; who
// checks proofs does not need it.
//
// All lanes run through the same blocks, chunks and parents of BLAKE3, because
// their messages are equally long; so nothing but the bytes differs. That the
// lanes are leaves, and not the chunks of one leaf as in other implementations,
// makes leaves of 64 bytes and of one kilobyte as fast as long ones.
//
// Elsewhere the hashes come from package merkle, one by one.
package hashmany

import (
	"fmt"

	"github.com/geistnet/geist/merkle"
)

// Path names an implementation. All paths give the same hashes.
type Path int

// The implementations; which of them run on this machine, Paths tells.
const (
	Generic Path = iota // plain Go: package merkle
	AVX2                // amd64 with AVX2
	AVX512              // amd64 with AVX-512 F
)

var pathNames = [...]string{"generic", "avx2", "avx512"}

func (p Path) String() string {
	if p < 0 || int(p) >= len(pathNames) {
		return fmt.Sprintf("path %d", int(p))
	}
	return pathNames[p]
}

// Hasher implements merkle.Hasher. The zero value is the plain one.
type Hasher struct{ path Path }

// New returns the fastest Hasher of this machine.
func New() Hasher {
	p := Paths()
	return Hasher{p[len(p)-1]}
}

// String names the path.
func (h Hasher) String() string { return h.path.String() }

// Leaves sets dst[i] = merkle.HashLeaf(leaves[i]). Runs of equal length are
// made in lanes. The lengths are equal, else it panics.
func (h Hasher) Leaves(dst []merkle.Hash, leaves [][]byte) {
	if len(dst) != len(leaves) {
		panic("hashmany: internal error: room for hashes differs from leaves")
	}
	if h.path == Generic {
		merkle.Plain{}.Leaves(dst, leaves)
		return
	}
	for len(leaves) > 0 {
		n := 1
		for n < len(leaves) && n < lanes && len(leaves[n]) == len(leaves[0]) {
			n++
		}
		if n < worthwhile {
			merkle.Plain{}.Leaves(dst[:n], leaves[:n])
		} else {
			h.path.leaves(dst[:n], leaves[:n])
		}
		dst, leaves = dst[n:], leaves[n:]
	}
}

// Nodes sets dst[i] = merkle.HashNode(children[2i], children[2i+1]). dst may be
// the beginning of children, which has 2·len(dst) hashes, else it panics.
func (h Hasher) Nodes(dst, children []merkle.Hash) {
	if len(children) != 2*len(dst) {
		panic("hashmany: internal error: room for hashes differs from half the children")
	}
	if h.path == Generic {
		merkle.Plain{}.Nodes(dst, children)
		return
	}
	for len(dst) > 0 {
		n := min(lanes, len(dst))
		if n < worthwhile {
			merkle.Plain{}.Nodes(dst[:n], children[:2*n])
		} else {
			h.path.nodes(dst[:n], children[:2*n])
		}
		dst, children = dst[n:], children[2*n:]
	}
}

const (
	lanes      = 16
	worthwhile = 3 // messages from which on sixteen lanes beat plain Go
)
