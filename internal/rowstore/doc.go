// Package rowstore keeps tables of rows on disk, larger than memory, that are
// read and changed a few rows at a time, with a Merkle root that follows every
// commit. The files, and why no crash can tear them, are docs/spec/sat.md §1 to §5.
//
// Rows are read with preads, sorted and joined where they lie close together.
// There is no mapping: a file that became shorter, or a disk that cannot be
// read, is an error and not a signal. The page cache of the system is the cache.
//
// A commit of k rows reads and writes about k·log₂(n)/6 pages of the tree; it
// checks the old rows against the old root before it builds a new one on them,
// and returns the transition that shows it to others (sat.Transition).
//
// One process has a table open for writing, or many for reading. Within it any number
// of goroutines read while one commits; a [Snapshot] goes on seeing one commit.
package rowstore
