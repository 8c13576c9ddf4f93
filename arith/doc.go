// Package arith is the definition of geist's canonical arithmetic, version 1,
// in plain Go: slow, obvious and the same bits on every machine.
// docs/spec/arithmetic.md says the same in prose; internal/kernel is the fast
// implementation and must agree with this one bit for bit.
package arith
