// Package arith is the definition of geist's canonical arithmetic, version 1,
// in plain Go: slow, obvious and the same bits on every machine.
// docs/spec/arithmetic.md says the same in prose; internal/kernel is the fast
// implementation and must agree with this one bit for bit. Sections that
// comments name (§) are those of that specification.
package arith

// Version is the version of the canonical arithmetic that this package
// defines. It is part of a model's identity: any change of any result, on any
// input, is a new version.
const Version = 1
