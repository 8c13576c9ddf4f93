// Package model loads transformer models from GGUF files and runs their
// forward passes in the canonical arithmetic.
//
// A pass is one program that all members of a kernel.Team execute together:
// loops over output rows, heads or inputs, with barriers between. What a
// single input needs between two matrices (norm, quantisation) is cheaper to
// compute on every member than to share, so decoding one token crosses few
// barriers. Results depend on the tokens alone, not on team size, on how a
// prompt is cut into batches, or on which sequences share a batch.
package model
