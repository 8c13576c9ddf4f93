// Package sat has what a stranger recomputes of sparsely activated tensors:
// tables of which a model reads a few rows at a time (docs/spec/lookup.md).
//
// A [Rule] says which rows a token reads, from what everybody can know: the ids
// of the last tokens ([Hash]), scores of sub-keys ([Product]), numbers of rows
// ([Index]), or distances to committed centroids ([Cells]). A [Lookup] has these
// rows and one compact multiproof of them under the root of the [Table]. Because
// the verifier computes the numbers of the rows itself, a proof that rows belong
// to the table is a proof that they are the right ones.
//
// The vector u that a memory block makes of its rows is computed in the
// canonical arithmetic of package arith.
//
// Nothing here reads files, opens connections or keeps rows.
package sat
