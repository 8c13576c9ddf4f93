// Package audit checks an answer against a Ghost file without running the
// model: it draws cells of the run at random, recomputes one element of every
// relation in each from opened values, and checks that everything opened was
// committed to before the draw (docs/spec/audit.md).
//
// It holds no weights, imports no engine and needs no network. An error says
// which relation failed; a proof that is accepted has every opened value
// exactly right. What an accepted proof does not show is that values nobody
// drew are right: Bound gives the odds, and running the answer again closes
// the gap.
package audit
