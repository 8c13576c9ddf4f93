package hashmany

import (
	"encoding/binary"
	"unsafe"

	"github.com/geistnet/geist/merkle"
)

// Lanes is how many hashes are made at once.
const Lanes = lanes

// Words holds one hash of each lane: word i of all of them is [i], as the
// registers have it. Trees of equal shape, one a lane, need no other form
// between their leaves and their roots.
type Words = [8][Lanes]uint32

// LeafLanes sets dst to the hashes of sixteen leaves of size bytes each, which
// begin at in. size is between 1 and 1024. padded promises that the bytes
// behind each leaf, up to a multiple of 64, are there and zero.
func (h Hasher) LeafLanes(dst *Words, in *[Lanes]*byte, size int, padded bool) {
	if size < 1 || size > 1024 {
		panic("hashmany: internal error: a leaf of a lane has between 1 and 1024 bytes")
	}
	if h.path != Generic {
		h.path.leafLanes(dst, in, size, padded)
		return
	}
	for l, p := range in {
		setLane(dst, l, merkle.HashLeaf(unsafe.Slice(p, size)))
	}
}

// NodeLanes sets dst to the parents of left and right, lane by lane. dst may be
// one of them.
func (h Hasher) NodeLanes(dst, left, right *Words) {
	if h.path != Generic {
		h.path.nodeLanes(dst, left, right)
		return
	}
	for l := range Lanes {
		setLane(dst, l, merkle.HashNode(lane(left, l), lane(right, l)))
	}
}

// Put writes the hash of each lane.
func (h Hasher) Put(dst *[Lanes]merkle.Hash, w *Words) {
	for l := range dst {
		dst[l] = lane(w, l)
	}
}

func lane(w *Words, l int) (h merkle.Hash) {
	for i := range w {
		binary.LittleEndian.PutUint32(h[4*i:], w[i][l])
	}
	return h
}

func setLane(w *Words, l int, h merkle.Hash) {
	for i := range w {
		w[i][l] = binary.LittleEndian.Uint32(h[4*i:])
	}
}
