//go:build amd64 && !purego

package hashmany

import (
	"math/bits"
	"unsafe"

	"github.com/geistnet/geist/merkle"
	"golang.org/x/sys/cpu"
)

// Paths lists the paths that run on this machine, slowest first.
func Paths() []Path {
	p := []Path{Generic}
	if cpu.X86.HasAVX2 {
		p = append(p, AVX2)
	}
	if cpu.X86.HasAVX512F {
		p = append(p, AVX512)
	}
	return p
}

// words holds eight words of sixteen lanes: a key or chaining values.
type words = Words

const (
	blockSize = 64
	chunkSize = 1024

	flagChunkStart     = 1 << 0
	flagChunkEnd       = 1 << 1
	flagParent         = 1 << 2
	flagRoot           = 1 << 3
	flagDeriveMaterial = 1 << 6
)

// The keys of merkle's contexts, in every lane.
var (
	leafKey = broadcast([8]uint32{
		0x6dba6ca7, 0x8fb3e962, 0xdd16ad2d, 0x91c6bdf8,
		0x7bb139f9, 0x1e21707b, 0x6f0409f9, 0xc605e689,
	})
	nodeKey = broadcast([8]uint32{
		0x0281a3c8, 0xeaa2a86d, 0x040c2e68, 0x4a0c0507,
		0xa7d21ee6, 0x261f2778, 0xe4017998, 0x02d2dfd8,
	})
)

func broadcast(key [8]uint32) (w words) {
	for i, k := range key {
		for l := range w[i] {
			w[i][l] = k
		}
	}
	return w
}

// put writes the hashes of the first len(dst) ≤ 16 lanes.
func (p Path) put(dst []merkle.Hash, cv *words) {
	if len(dst) == lanes {
		p.store(&dst[0][0], cv)
		return
	}
	var all [lanes]merkle.Hash
	p.store(&all[0][0], cv)
	copy(dst, all[:])
}

// nodes hashes len(dst) ≤ 16 nodes. Lanes without a node repeat the first.
func (p Path) nodes(dst, children []merkle.Hash) {
	var in [lanes]*byte
	for l := range in {
		in[l] = &children[0][0]
		if l < len(dst) {
			in[l] = &children[2*l][0]
		}
	}
	cv := nodeKey
	p.compress(&cv, &in, 0, 1, 0, blockSize, flagDeriveMaterial, flagChunkStart, flagChunkEnd|flagRoot)
	p.put(dst, &cv)
}

// leaves hashes at most 16 leaves of equal length. Lanes without a leaf
// repeat the first.
func (p Path) leaves(dst []merkle.Hash, leaves [][]byte) {
	var in [lanes]*byte
	size := len(leaves[0])
	if size >= blockSize {
		for l := range in {
			in[l] = &leaves[0][0]
			if l < len(leaves) {
				in[l] = &leaves[l][0]
			}
		}
	}
	if size <= chunkSize {
		var cv words
		p.chunk(&cv, &in, leaves, 0, flagRoot)
		p.put(dst, &cv)
		return
	}
	// stack holds the chaining values of complete subtrees, largest first: one
	// for each bit of the number of chunks so far.
	chunks := (size + chunkSize - 1) / chunkSize
	var few [5]words
	stack := few[:]
	if n := bits.Len(uint(chunks)); n > len(few) {
		stack = make([]words, n)
	}
	depth := 0
	for c := range chunks - 1 {
		p.chunk(&stack[depth], &in, leaves, c, 0)
		depth++
		for n := c + 1; n&1 == 0; n >>= 1 {
			depth--
			left := &stack[depth-1]
			p.parent(left, &leafKey, left, &stack[depth], flagDeriveMaterial|flagParent)
		}
	}
	cv := &stack[depth]
	p.chunk(cv, &in, leaves, chunks-1, 0)
	for ; depth > 0; depth-- {
		flags := uint32(flagDeriveMaterial | flagParent)
		if depth == 1 {
			flags |= flagRoot
		}
		p.parent(cv, &leafKey, &stack[depth-1], cv, flags)
	}
	p.put(dst, cv)
}

// leafLanes is LeafLanes.
func (p Path) leafLanes(cv *words, in *[lanes]*byte, size int, padded bool) {
	*cv = leafKey
	full, rest := size/blockSize, size%blockSize
	switch {
	case rest == 0:
		p.compress(cv, in, 0, full, 0, blockSize, flagDeriveMaterial, flagChunkStart, flagChunkEnd|flagRoot)
		return
	case padded:
		p.compress(cv, in, 0, full+1, 0, uint32(rest), flagDeriveMaterial, flagChunkStart, flagChunkEnd|flagRoot)
		return
	}
	start := uint32(flagChunkStart)
	if full > 0 {
		p.compress(cv, in, 0, full, 0, blockSize, flagDeriveMaterial, start, 0)
		start = 0
	}
	var block [lanes][blockSize]byte
	var last [lanes]*byte
	for l, b := range in {
		last[l] = &block[l][0]
		copy(block[l][:], unsafe.Slice(b, size)[full*blockSize:])
	}
	p.compress(cv, &last, 0, 1, 0, uint32(rest), flagDeriveMaterial, start, flagChunkEnd|flagRoot)
}

// nodeLanes is NodeLanes.
func (p Path) nodeLanes(dst, left, right *words) {
	p.parent(dst, &nodeKey, left, right, flagDeriveMaterial|flagChunkStart|flagChunkEnd|flagRoot)
}

// chunk sets cv to the chaining values of chunk number c. top is flagRoot if
// it is the only one, else 0.
func (p Path) chunk(cv *words, in *[lanes]*byte, leaves [][]byte, c int, top uint32) {
	*cv = leafKey
	begin := c * chunkSize
	size := min(chunkSize, len(leaves[0])-begin)
	full, rest := size/blockSize, size%blockSize
	end := flagChunkEnd | top
	if rest == 0 && full > 0 {
		p.compress(cv, in, begin, full, uint64(c), blockSize, flagDeriveMaterial, flagChunkStart, end)
		return
	}
	start := uint32(flagChunkStart)
	if full > 0 {
		p.compress(cv, in, begin, full, uint64(c), blockSize, flagDeriveMaterial, start, 0)
		start = 0
	}
	var block [lanes][blockSize]byte
	var last [lanes]*byte
	for l := range last {
		last[l] = &block[l][0]
		if l < len(leaves) {
			copy(block[l][:], leaves[l][begin+full*blockSize:])
		}
	}
	p.compress(cv, &last, 0, 1, uint64(c), uint32(rest), flagDeriveMaterial, start, end)
}

// The kernels. Calls through a table of functions would make every argument
// escape to the heap.

func (p Path) compress(cv *words, in *[lanes]*byte, off, n int, counter uint64, length, flags, start, end uint32) {
	if p == AVX512 {
		chunkAVX512(cv, in, off, n, counter, length, flags, start, end)
	} else {
		chunkAVX2(cv, in, off, n, counter, length, flags, start, end)
	}
}

func (p Path) parent(out, key, left, right *words, flags uint32) {
	if p == AVX512 {
		parentAVX512(out, key, left, right, flags)
	} else {
		parentAVX2(out, key, left, right, flags)
	}
}

func (p Path) store(out *byte, cv *words) {
	if p == AVX512 {
		storeAVX512(out, cv)
	} else {
		storeAVX2(out, cv)
	}
}
