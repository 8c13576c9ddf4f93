//go:build !amd64 || purego

package hashmany

import "github.com/geistnet/geist/merkle"

// Paths lists the paths that run on this machine, slowest first.
func Paths() []Path { return []Path{Generic} }

func (p Path) leaves([]merkle.Hash, [][]byte) { panic("hashmany: internal error: path " + p.String()) }

func (p Path) nodes(_, _ []merkle.Hash) { panic("hashmany: internal error: path " + p.String()) }

func (p Path) leafLanes(*Words, *[Lanes]*byte, int, bool) {
	panic("hashmany: internal error: path " + p.String())
}

func (p Path) nodeLanes(_, _, _ *Words) { panic("hashmany: internal error: path " + p.String()) }
