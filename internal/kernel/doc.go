// Package kernel is the fast implementation of the canonical arithmetic of
// package arith: packed weights, matrix products, attention and the
// element-wise operations of a transformer, in generated assembly for amd64
// and arm64 and in plain Go. Every path gives the bits that arith defines.
//
// Outputs are lanes: 16 weight rows are interleaved, each SIMD lane owns one
// output row, and threads split rows. No sum is ever split, so bits do not
// depend on register width, thread count or the number of inputs multiplied
// at once.
package kernel
