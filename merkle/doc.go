// Package merkle commits to a list of leaves with one hash and proves leaves
// of it: trees, their updates, and compact multiproofs. The format is specified
// in docs/spec/merkle.md; the choice of BLAKE3 is docs/design/0005-hash.md.
//
// # Tree
//
// A leaf hashes to BLAKE3 in key derivation mode under the context of leaves,
// a node to the same of left‖right under the context of nodes: one compression.
// The shape is that of RFC 6962, section 2.1: n leaves are split after the
// largest power of two below n. Seen by levels, leaf hashes first, neighbours
// 2i and 2i+1 make node i of the next level, and a last node without neighbour
// moves up as it is. Level l so has ⌈n/2^l⌉ nodes.
//
// The root does not determine n: who trusts a root must trust n with it.
//
// # Multiproof
//
// After Ramabaja and Avdullahu, "Compact Merkle multiproofs" (2020,
// arXiv:2002.07648), carried over to any n. Prover and verifier go up level by
// level with the nodes they know, ascending. A node whose neighbour is unknown
// takes it from the proof. The proof is these hashes in that order and nothing
// else: which they are follows from n and the indices, which the verifier knows.
//
// # What it does not do
//
// Membership says nothing of leaves that are not shown, nor that a leaf is the
// right answer to a question. There is no assembly here; package hashmany makes
// the same hashes many at a time, for those who build trees.
package merkle
