package merkle

import (
	"fmt"
	"slices"
)

// half is the number of nodes above width nodes.
func half(width uint64) uint64 { return width/2 + width%2 }

// alone reports whether node x of width has no neighbour and moves up as it is.
func alone(x, width uint64) bool { return x == width-1 && x%2 == 0 }

// checkIndices demands at least one index, ascending strictly, all below n.
func checkIndices(n uint64, indices []uint64) error {
	if len(indices) == 0 {
		return fmt.Errorf("multiproof in a tree of %d leaves: no leaves", n)
	}
	for i, x := range indices {
		if x >= n {
			return fmt.Errorf("multiproof: leaf %d in a tree of %d", x, n)
		}
		if i > 0 && x <= indices[i-1] {
			return fmt.Errorf("multiproof: leaf %d after leaf %d, want strictly ascending", x, indices[i-1])
		}
	}
	return nil
}

// siblings visits the nodes that a multiproof holds, in its order.
func siblings(n uint64, indices []uint64, visit func(level int, index uint64) error) error {
	if err := checkIndices(n, indices); err != nil {
		return err
	}
	known := slices.Clone(indices)
	for level, width := 0, n; width > 1; level, width = level+1, half(width) {
		out := 0
		for i := 0; i < len(known); i++ {
			x := known[i]
			switch {
			case alone(x, width):
			case i+1 < len(known) && known[i+1] == x^1:
				i++
			default:
				if err := visit(level, x^1); err != nil {
					return err
				}
			}
			known[out] = x / 2
			out++
		}
		known = known[:out]
	}
	return nil
}

// ProofLen is the number of hashes in the multiproof of some leaves in a tree
// of n. Indices ascend strictly and are below n; there is at least one.
func ProofLen(n uint64, indices []uint64) (int, error) {
	count := 0
	err := siblings(n, indices, func(int, uint64) error { count++; return nil })
	return count, err
}

// climb replaces known, the hashes of some leaves, by those of their ancestors,
// level by level up to the root, which it returns. sibling is asked for
// neighbours in the order of a multiproof; done sees every level, indices and
// hashes, the leaves among them, before it is replaced.
func climb(n uint64, indices []uint64, leaves []Hash, h Hasher,
	sibling func(level int, index uint64) (Hash, error),
	done func(level int, indices []uint64, hashes []Hash) error) (Hash, error) {
	if len(leaves) != len(indices) {
		return Hash{}, fmt.Errorf("multiproof: %d leaves for %d indices", len(leaves), len(indices))
	}
	index, known := slices.Clone(indices), slices.Clone(leaves)
	children := make([]Hash, 0, 2*len(known))
	for level, width := 0, n; ; level, width = level+1, half(width) {
		if err := done(level, index, known); err != nil {
			return Hash{}, err
		}
		if width == 1 {
			return known[0], nil
		}
		children = children[:0]
		last := known[len(known)-1] // moves up if it is alone
		out := 0
		for i := 0; i < len(known); i++ {
			x := index[i]
			switch {
			case alone(x, width):
			case i+1 < len(known) && index[i+1] == x^1:
				children = append(children, known[i], known[i+1])
				i++
			default:
				s, err := sibling(level, x^1)
				if err != nil {
					return Hash{}, err
				}
				if x%2 == 0 {
					children = append(children, known[i], s)
				} else {
					children = append(children, s, known[i])
				}
			}
			index[out] = x / 2
			out++
		}
		nodes := len(children) / 2
		h.Nodes(known[:nodes], children)
		if nodes < out {
			known[nodes] = last
		}
		index, known = index[:out], known[:out]
	}
}

// RootOf is the root of a tree of n leaves in which the leaves at indices have
// the given hashes and the proof is right. Indices ascend strictly and are below
// n. It is an error if the proof has more or fewer hashes than ProofLen. The work
// is at most 64 hashes for each leaf given.
func RootOf(n uint64, indices []uint64, leaves, proof []Hash) (Hash, error) {
	return RootWith(Plain{}, n, indices, leaves, proof)
}

// RootWith is RootOf with hashes made by h.
func RootWith(h Hasher, n uint64, indices []uint64, leaves, proof []Hash) (Hash, error) {
	want, err := ProofLen(n, indices)
	if err != nil {
		return Hash{}, err
	}
	if len(proof) != want {
		return Hash{}, fmt.Errorf("multiproof of %d leaves in %d: %d hashes, want %d", len(indices), n, len(proof), want)
	}
	next := 0
	return climb(n, indices, leaves, h, func(int, uint64) (Hash, error) {
		next++
		return proof[next-1], nil
	}, func(int, []uint64, []Hash) error { return nil })
}

// RootFrom is RootWith of the proof that hashes begin with. It returns the hashes
// that follow the proof; too few are an error.
func RootFrom(h Hasher, n uint64, indices []uint64, leaves, hashes []Hash) (root Hash, rest []Hash, err error) {
	if err := checkIndices(n, indices); err != nil {
		return Hash{}, nil, err
	}
	rest = hashes
	root, err = climb(n, indices, leaves, h, func(int, uint64) (Hash, error) {
		if len(rest) == 0 {
			return Hash{}, fmt.Errorf("multiproof of %d leaves in %d: more hashes than the %d given are needed", len(indices), n, len(hashes))
		}
		s := rest[0]
		rest = rest[1:]
		return s, nil
	}, func(int, []uint64, []Hash) error { return nil })
	return root, rest, err
}

// Verify checks that the leaves at indices of the tree with this root and n
// leaves have the given hashes. Indices are as in RootOf. The caller got root
// and n from where it trusts, and chose or derived the indices itself.
func Verify(root Hash, n uint64, indices []uint64, leaves, proof []Hash) error {
	got, err := RootOf(n, indices, leaves, proof)
	if err != nil {
		return err
	}
	if got != root {
		return fmt.Errorf("multiproof of %d leaves in %d leads to root %v, want %v", len(indices), n, got, root)
	}
	return nil
}

// RootsOf is RootOf for an update: the roots before and after the leaves at
// indices change from before to after and no other does. If oldRoot is the
// trusted one, then newRoot is the root of the updated tree.
func RootsOf(n uint64, indices []uint64, before, after, proof []Hash) (oldRoot, newRoot Hash, err error) {
	if oldRoot, err = RootOf(n, indices, before, proof); err != nil {
		return Hash{}, Hash{}, err
	}
	if newRoot, err = RootOf(n, indices, after, proof); err != nil {
		return Hash{}, Hash{}, err
	}
	return oldRoot, newRoot, nil
}
