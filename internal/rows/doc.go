// Package rows serves rows of a model's memory tables over HTTP, and fetches
// them from servers that nobody needs to trust (docs/spec/rows.md).
//
// A [Server] answers with rows and one multiproof for each table. A [Client]
// knows the roots from the Ghost file; it checks every row before anybody sees
// it, drops a server whose row is wrong for good, says which one it was, and asks
// the next. So an answer that is being computed never depends on who served it.
// Client has the methods that internal/model asks of a source of rows.
//
// A trunk is a model file without its memory tables ([WriteTrunk]); with rows from
// servers it answers as the whole model does, to the last bit.
//
// A client keeps one level of each table's tree, so that proofs are short, and
// rows under their root, so that each is checked once.
package rows
