package merkle

import "encoding/hex"

// Hash is the hash of a leaf or of a node, 32 bytes of BLAKE3.
type Hash [32]byte

// String is the hash in hexadecimal digits.
func (h Hash) String() string { return hex.EncodeToString(h[:]) }

// HashLeaf hashes the data of a leaf.
func HashLeaf(data []byte) Hash { return hash(&leafKey, data, flagDeriveMaterial) }

// HashNode hashes the two children of a node: one compression.
func HashNode(left, right Hash) Hash {
	children := [2]Hash{left, right}
	var h Hash
	hashPair(&h, &children)
	return h
}

// hashPair sets dst to the hash of the node over two children.
func hashPair(dst *Hash, children *[2]Hash) {
	var block [blockSize]byte
	copy(block[:32], children[0][:])
	copy(block[32:], children[1][:])
	cv := nodeKey
	compress(&cv, &block, 0, blockSize, flagChunkStart|flagChunkEnd|flagRoot|flagDeriveMaterial)
	*dst = bytesOf(&cv)
}

// A Hasher makes many hashes at once. Plain makes them one after the other;
// faster ones give the same bytes. Methods may be called from several
// goroutines.
type Hasher interface {
	// Leaves sets dst[i] = HashLeaf(leaves[i]); the lengths are equal.
	Leaves(dst []Hash, leaves [][]byte)
	// Nodes sets dst[i] = HashNode(children[2i], children[2i+1]), with
	// len(children) = 2·len(dst). dst may be the beginning of children.
	Nodes(dst, children []Hash)
}

// Plain is the Hasher of this package, in plain Go.
type Plain struct{}

// Leaves implements Hasher.
func (Plain) Leaves(dst []Hash, leaves [][]byte) {
	for i, l := range leaves {
		dst[i] = HashLeaf(l)
	}
}

// Nodes implements Hasher.
func (Plain) Nodes(dst, children []Hash) {
	for i := range dst {
		hashPair(&dst[i], (*[2]Hash)(children[2*i:]))
	}
}
