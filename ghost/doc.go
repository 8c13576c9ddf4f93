// Package ghost has the public identity of a model, the Ghost file, and what a
// provider signs for an answer, the receipt. With these alone, and without the
// model, an answer can be checked.
//
// # Ghost file
//
// A [Model] says everything that the forward pass depends on: the shape, the
// small tensors (norms, biases, scales) as they are, the rotation speeds, and
// of each large tensor the Merkle root over its rows. [Encode] and [Decode] map
// it to bytes and back, one to one; docs/spec/ghost-file.md has the layout. The
// model id is a hash over its sections ([Model.ID], [Excerpt]), so 32 bytes determine every
// answer the model can give.
//
// # Request and receipt
//
// A [Request] is what an answer depends on besides the model and the seed. A
// [Receipt] binds a provider's key to the request, the answer and the root of
// the trace; it is a Nostr event with a BIP-340 signature
// (docs/spec/receipt.md), so that other tools can read and check it.
//
// # What it does not do
//
// A Ghost file says what a model is, not that it is good, or who made it. A
// receipt says what a provider claims; whether the answer is right, an audit
// tells. Nothing here reads weights, opens connections or runs a model.
package ghost
