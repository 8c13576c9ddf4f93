package audit

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"math/bits"
)

// Challenge says how much of a run is drawn.
type Challenge struct {
	// Seed decides what is drawn. It must not be known to the provider before
	// the trace root is signed: see Draw.
	Seed  [32]byte
	Cells int // (position, layer) pairs, each with one element of every relation
	Tails int // positions whose logits are checked at the emitted token and at random ids
	Full  int // of those, positions that may have to open all logits, to be sampled again: one in FullOneIn does
}

// Limits on what a proof may be asked to hold.
const (
	MaxCells = 1024
	MaxTails = 256
)

// FullOneIn: each of the full tails is opened whole in one challenge of four.
// All logits are as large as six cells, and what they show is needed rarely: who
// does not sample as agreed gains something only by doing so often.
const FullOneIn = 4

// Draw derives the seed from the nonce that the client committed to in its
// request and reveals now, and the identity of the signed receipt.
func Draw(nonce, receipt [32]byte) [32]byte {
	b := append([]byte("geist/challenge/1"), nonce[:]...)
	return sha256.Sum256(append(b, receipt[:]...))
}

// Check reports a challenge out of range, or without a cell: a proof for such a one
// shows nothing of what the layers computed.
func (c Challenge) Check() error {
	if c.Cells == 0 {
		return errors.New("a challenge of 0 cells draws nothing: the least is 1")
	}
	if c.Cells < 0 || c.Cells > MaxCells || c.Tails < 0 || c.Tails > MaxTails || c.Full < 0 || c.Full > c.Tails {
		return fmt.Errorf("a challenge of %d cells, %d tails and %d full ones is out of range", c.Cells, c.Tails, c.Full)
	}
	return nil
}

// whole tells which of the first Full tails are opened whole.
func (c Challenge) whole() []bool {
	d := c.stream("full", 0)
	w := make([]bool, c.Full)
	for i := range w {
		w[i] = d.below(FullOneIn) == 0
	}
	return w
}

// Whole is the number of tails that are opened whole, at most Full.
func (c Challenge) Whole() (n int) {
	for _, w := range c.whole() {
		if w {
			n++
		}
	}
	return n
}

// draw is a stream of random numbers of one purpose.
type draw struct {
	key  [32]byte
	next uint64
}

func (c Challenge) stream(purpose string, index int) *draw {
	b := append([]byte("geist/draw/1"), c.Seed[:]...)
	b = append(b, purpose...)
	return &draw{key: sha256.Sum256(binary.LittleEndian.AppendUint64(b, uint64(index)))}
}

// below returns a number in [0, n), n > 0, each as likely.
func (d *draw) below(n int) int {
	var b [40]byte
	copy(b[:], d.key[:])
	for {
		binary.LittleEndian.PutUint64(b[32:], d.next)
		h := sha256.Sum256(b[:])
		d.next++
		hi, lo := bits.Mul64(binary.LittleEndian.Uint64(h[:]), uint64(n))
		// Lemire's method: reject the few values that would favour some results.
		if lo >= uint64(n) || lo >= -uint64(n)%uint64(n) {
			return int(hi)
		}
	}
}

// Bound is the probability that an accepted proof misses a run in which a share
// g of all cells holds a relation that is wrong in a share q of its elements:
// (1 − g·q)^cells.
func Bound(cells int, g, q float64) float64 {
	missed := 1.0
	for range cells {
		missed = float64(missed * (1 - float64(g*q)))
	}
	return missed
}
