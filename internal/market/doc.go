// Package market turns signed events into offers, and offers into an order with
// a reason for every offer that is not first.
//
// Asks, bids and reviews are those of docs/spec/ask.md; how they are weighed is
// docs/market.md. Everything here is a pure function of its arguments: no clock, no
// network, no floating point. The same events give the same answer, byte for
// byte, in whatever order they arrive. Times are seconds since 1970, amounts are
// millisatoshi, prices millisatoshi per million tokens.
package market
