package merkle

import (
	"encoding/binary"
	"math/bits"
)

// BLAKE3 in its key derivation mode, after the specification of O'Connor,
// Aumasson, Neves and Wilcox-O'Hearn (2021), section 2. Contexts separate
// leaves from nodes: each is hashed once into a key, here a constant that a
// test recomputes.

const (
	leafContext = "geist merkle 2026-11-20 leaf"
	nodeContext = "geist merkle 2026-11-20 node"
)

var leafKey = [8]uint32{
	0x6dba6ca7, 0x8fb3e962, 0xdd16ad2d, 0x91c6bdf8,
	0x7bb139f9, 0x1e21707b, 0x6f0409f9, 0xc605e689,
}

var nodeKey = [8]uint32{
	0x0281a3c8, 0xeaa2a86d, 0x040c2e68, 0x4a0c0507,
	0xa7d21ee6, 0x261f2778, 0xe4017998, 0x02d2dfd8,
}

const (
	blockSize = 64
	chunkSize = 1024

	flagChunkStart     = 1 << 0
	flagChunkEnd       = 1 << 1
	flagParent         = 1 << 2
	flagRoot           = 1 << 3
	flagDeriveContext  = 1 << 5
	flagDeriveMaterial = 1 << 6
)

var iv = [8]uint32{
	0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a,
	0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19,
}

// hash is BLAKE3 with 32 bytes of output, under a key and the flags of a mode.
func hash(key *[8]uint32, data []byte, mode uint32) Hash {
	cv := subtree(key, data, 0, mode, flagRoot)
	return bytesOf(&cv)
}

// subtree is the chaining value of data, whose first chunk is number chunk.
// A message of more than one chunk is split after the largest power of two of
// chunks that leaves something. top is flagRoot for the whole message, else 0.
// The recursion is as deep as the logarithm of the number of chunks.
func subtree(key *[8]uint32, data []byte, chunk uint64, mode, top uint32) [8]uint32 {
	if len(data) <= chunkSize {
		return chunkValue(key, data, chunk, mode, top)
	}
	left := chunkSize << (bits.Len(uint(len(data)-1)/chunkSize) - 1)
	l := subtree(key, data[:left], chunk, mode, 0)
	r := subtree(key, data[left:], chunk+uint64(left/chunkSize), mode, 0)
	var block [blockSize]byte
	for i := range l {
		binary.LittleEndian.PutUint32(block[4*i:], l[i])
		binary.LittleEndian.PutUint32(block[32+4*i:], r[i])
	}
	cv := *key
	compress(&cv, &block, 0, blockSize, mode|flagParent|top)
	return cv
}

// chunkValue is the chaining value of one chunk of at most chunkSize bytes.
func chunkValue(key *[8]uint32, data []byte, chunk uint64, mode, top uint32) [8]uint32 {
	cv := *key
	flags := mode | flagChunkStart
	for len(data) > blockSize {
		compress(&cv, (*[blockSize]byte)(data), chunk, blockSize, flags)
		flags = mode
		data = data[blockSize:]
	}
	flags |= flagChunkEnd | top
	if len(data) == blockSize {
		compress(&cv, (*[blockSize]byte)(data), chunk, blockSize, flags)
		return cv
	}
	var block [blockSize]byte
	n := copy(block[:], data)
	compress(&cv, &block, chunk, uint32(n), flags)
	return cv
}

func bytesOf(cv *[8]uint32) Hash {
	var h Hash
	for i, w := range cv {
		binary.LittleEndian.PutUint32(h[4*i:], w)
	}
	return h
}

// g is the quarter round.
func g(a, b, c, d, x, y uint32) (uint32, uint32, uint32, uint32) {
	a += b + x
	d = bits.RotateLeft32(d^a, -16)
	c += d
	b = bits.RotateLeft32(b^c, -12)
	a += b + y
	d = bits.RotateLeft32(d^a, -8)
	c += d
	b = bits.RotateLeft32(b^c, -7)
	return a, b, c, d
}

// compress replaces cv by the first half of the compression of a block under
// it. The order of the message words is written out: a loop over the rounds
// with a table of it took 1.6 times as long.
func compress(cv *[8]uint32, block *[blockSize]byte, counter uint64, length, flags uint32) {
	v0, v1, v2, v3, v4, v5, v6, v7 := cv[0], cv[1], cv[2], cv[3], cv[4], cv[5], cv[6], cv[7]
	v8, v9, v10, v11 := iv[0], iv[1], iv[2], iv[3]
	v12, v13, v14, v15 := uint32(counter), uint32(counter>>32), length, flags
	m0 := binary.LittleEndian.Uint32(block[0:])
	m1 := binary.LittleEndian.Uint32(block[4:])
	m2 := binary.LittleEndian.Uint32(block[8:])
	m3 := binary.LittleEndian.Uint32(block[12:])
	m4 := binary.LittleEndian.Uint32(block[16:])
	m5 := binary.LittleEndian.Uint32(block[20:])
	m6 := binary.LittleEndian.Uint32(block[24:])
	m7 := binary.LittleEndian.Uint32(block[28:])
	m8 := binary.LittleEndian.Uint32(block[32:])
	m9 := binary.LittleEndian.Uint32(block[36:])
	m10 := binary.LittleEndian.Uint32(block[40:])
	m11 := binary.LittleEndian.Uint32(block[44:])
	m12 := binary.LittleEndian.Uint32(block[48:])
	m13 := binary.LittleEndian.Uint32(block[52:])
	m14 := binary.LittleEndian.Uint32(block[56:])
	m15 := binary.LittleEndian.Uint32(block[60:])

	v0, v4, v8, v12 = g(v0, v4, v8, v12, m0, m1)
	v1, v5, v9, v13 = g(v1, v5, v9, v13, m2, m3)
	v2, v6, v10, v14 = g(v2, v6, v10, v14, m4, m5)
	v3, v7, v11, v15 = g(v3, v7, v11, v15, m6, m7)
	v0, v5, v10, v15 = g(v0, v5, v10, v15, m8, m9)
	v1, v6, v11, v12 = g(v1, v6, v11, v12, m10, m11)
	v2, v7, v8, v13 = g(v2, v7, v8, v13, m12, m13)
	v3, v4, v9, v14 = g(v3, v4, v9, v14, m14, m15)

	v0, v4, v8, v12 = g(v0, v4, v8, v12, m2, m6)
	v1, v5, v9, v13 = g(v1, v5, v9, v13, m3, m10)
	v2, v6, v10, v14 = g(v2, v6, v10, v14, m7, m0)
	v3, v7, v11, v15 = g(v3, v7, v11, v15, m4, m13)
	v0, v5, v10, v15 = g(v0, v5, v10, v15, m1, m11)
	v1, v6, v11, v12 = g(v1, v6, v11, v12, m12, m5)
	v2, v7, v8, v13 = g(v2, v7, v8, v13, m9, m14)
	v3, v4, v9, v14 = g(v3, v4, v9, v14, m15, m8)

	v0, v4, v8, v12 = g(v0, v4, v8, v12, m3, m4)
	v1, v5, v9, v13 = g(v1, v5, v9, v13, m10, m12)
	v2, v6, v10, v14 = g(v2, v6, v10, v14, m13, m2)
	v3, v7, v11, v15 = g(v3, v7, v11, v15, m7, m14)
	v0, v5, v10, v15 = g(v0, v5, v10, v15, m6, m5)
	v1, v6, v11, v12 = g(v1, v6, v11, v12, m9, m0)
	v2, v7, v8, v13 = g(v2, v7, v8, v13, m11, m15)
	v3, v4, v9, v14 = g(v3, v4, v9, v14, m8, m1)

	v0, v4, v8, v12 = g(v0, v4, v8, v12, m10, m7)
	v1, v5, v9, v13 = g(v1, v5, v9, v13, m12, m9)
	v2, v6, v10, v14 = g(v2, v6, v10, v14, m14, m3)
	v3, v7, v11, v15 = g(v3, v7, v11, v15, m13, m15)
	v0, v5, v10, v15 = g(v0, v5, v10, v15, m4, m0)
	v1, v6, v11, v12 = g(v1, v6, v11, v12, m11, m2)
	v2, v7, v8, v13 = g(v2, v7, v8, v13, m5, m8)
	v3, v4, v9, v14 = g(v3, v4, v9, v14, m1, m6)

	v0, v4, v8, v12 = g(v0, v4, v8, v12, m12, m13)
	v1, v5, v9, v13 = g(v1, v5, v9, v13, m9, m11)
	v2, v6, v10, v14 = g(v2, v6, v10, v14, m15, m10)
	v3, v7, v11, v15 = g(v3, v7, v11, v15, m14, m8)
	v0, v5, v10, v15 = g(v0, v5, v10, v15, m7, m2)
	v1, v6, v11, v12 = g(v1, v6, v11, v12, m5, m3)
	v2, v7, v8, v13 = g(v2, v7, v8, v13, m0, m1)
	v3, v4, v9, v14 = g(v3, v4, v9, v14, m6, m4)

	v0, v4, v8, v12 = g(v0, v4, v8, v12, m9, m14)
	v1, v5, v9, v13 = g(v1, v5, v9, v13, m11, m5)
	v2, v6, v10, v14 = g(v2, v6, v10, v14, m8, m12)
	v3, v7, v11, v15 = g(v3, v7, v11, v15, m15, m1)
	v0, v5, v10, v15 = g(v0, v5, v10, v15, m13, m3)
	v1, v6, v11, v12 = g(v1, v6, v11, v12, m0, m10)
	v2, v7, v8, v13 = g(v2, v7, v8, v13, m2, m6)
	v3, v4, v9, v14 = g(v3, v4, v9, v14, m4, m7)

	v0, v4, v8, v12 = g(v0, v4, v8, v12, m11, m15)
	v1, v5, v9, v13 = g(v1, v5, v9, v13, m5, m0)
	v2, v6, v10, v14 = g(v2, v6, v10, v14, m1, m9)
	v3, v7, v11, v15 = g(v3, v7, v11, v15, m8, m6)
	v0, v5, v10, v15 = g(v0, v5, v10, v15, m14, m10)
	v1, v6, v11, v12 = g(v1, v6, v11, v12, m2, m12)
	v2, v7, v8, v13 = g(v2, v7, v8, v13, m3, m4)
	v3, v4, v9, v14 = g(v3, v4, v9, v14, m7, m13)

	cv[0], cv[1], cv[2], cv[3] = v0^v8, v1^v9, v2^v10, v3^v11
	cv[4], cv[5], cv[6], cv[7] = v4^v12, v5^v13, v6^v14, v7^v15
}
