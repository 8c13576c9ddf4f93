// Package pay owns money: amounts, the ways to pay, the journal of every step,
// and budgets.
//
// A Rail is a way to pay. For one job it gives the asker a Payer and the provider
// a Payee; the two halves exchange short messages that others carry (docs/spec/job.md
// §5) and that mean nothing to the carrier. The verbs are those of a prepaid session:
//
//	Payee.Cover   is a total payable? Else an offer: a deposit, or a top-up
//	Payer.Fund    takes an offer
//	Payer.Pay     pays for the job up to a total
//	Payee.Receive takes what a Payer made, and answers it
//	Payer.Answer  takes that answer
//	Close         the end, with a refund of what a deposit held and nobody earned
//
// Mutual credit (Credit, docs/spec/credit.md) is the rail in which the deposit is zero
// and a payment is a balance that both sides sign. How a prepaid Lightning session fits is
// in docs/design/0011-payment-sessions.md; the tests run one suite over both.
//
// Every step stands in the Journal before its message leaves, and each can be
// repeated: after a crash both halves are opened again under the same job and go on.
package pay

import (
	"context"
	"errors"
	"fmt"
	"math/bits"

	"github.com/geistnet/geist/ghost"
)

// MilliSat is an amount in thousandths of a satoshi. As a balance it may be
// negative.
type MilliSat int64

// MaxAmount bounds every amount, total and limit: the integers that JSON readers
// of all languages hold exactly. About 90 million bitcoin.
const MaxAmount MilliSat = 1<<53 - 1

// String is the amount in satoshi, such as "1.204 sat".
func (m MilliSat) String() string {
	sign, u := "", uint64(m)
	if m < 0 {
		sign, u = "-", -u
	}
	if u%1000 == 0 {
		return fmt.Sprintf("%s%d sat", sign, u/1000)
	}
	return fmt.Sprintf("%s%d.%03d sat", sign, u/1000, u%1000)
}

// Valid reports whether m lies between 0 and MaxAmount.
func (m MilliSat) Valid() bool { return m >= 0 && m <= MaxAmount }

// Plus is the sum of two amounts, if it is one.
func (m MilliSat) Plus(n MilliSat) (MilliSat, error) {
	if !m.Valid() || !n.Valid() || !(m + n).Valid() {
		return 0, fmt.Errorf("%d + %d msat is no amount from 0 to %d", m, n, MaxAmount)
	}
	return m + n, nil
}

// Prices are what tokens cost, in millisatoshi for a million of them.
type Prices struct {
	Prompt MilliSat `json:"prompt"`
	Answer MilliSat `json:"answer"`
}

// Valid reports whether both prices are amounts.
func (p Prices) Valid() bool { return p.Prompt.Valid() && p.Answer.Valid() }

// Due is what prompt and answer tokens come to together, rounded up to a whole
// millisatoshi once; of no answer tokens nothing is due. Both counts are from 0 to
// 2³⁰. An error says that the sum exceeds MaxAmount.
func (p Prices) Due(prompt, answer int) (MilliSat, error) {
	if !p.Valid() || prompt < 0 || prompt > 1<<30 || answer < 0 || answer > 1<<30 {
		return 0, fmt.Errorf("%d and %d tokens at %d and %d msat for a million are out of range", prompt, answer, p.Prompt, p.Answer)
	}
	if answer == 0 {
		return 0, nil
	}
	hi1, lo1 := bits.Mul64(uint64(p.Prompt), uint64(prompt))
	hi2, lo2 := bits.Mul64(uint64(p.Answer), uint64(answer))
	lo, carry := bits.Add64(lo1, lo2, 0)
	hi, _ := bits.Add64(hi1, hi2, carry)
	lo, carry = bits.Add64(lo, 999_999, 0)
	hi += carry
	if hi >= 1_000_000 {
		return 0, fmt.Errorf("%d and %d tokens cost more than %d msat", prompt, answer, MaxAmount)
	}
	q, _ := bits.Div64(hi, lo, 1_000_000)
	if q > uint64(MaxAmount) {
		return 0, fmt.Errorf("%d and %d tokens cost more than %d msat", prompt, answer, MaxAmount)
	}
	return MilliSat(q), nil
}

// JobID names a job (docs/spec/job.md §2). Zero is no job.
type JobID = ghost.Digest

// MaxMessage bounds an offer, a message and an answer, in bytes.
const MaxMessage = 64 << 10

// Opening is what a session is for.
type Opening struct {
	Job   JobID
	Peer  ghost.Key // who is paid, or who pays
	First MilliSat  // the prompt and the first chunk: what must be payable for the job to start
	Most  MilliSat  // the most that the job can come to
}

// Rail is a way to pay. Both methods give the session of that job again if there
// is one, also after a crash. They, and the sessions, may be used by many goroutines.
type Rail interface {
	Name() string // as in an order and an ask: "credit"
	Pay(ctx context.Context, o Opening) (Payer, error)
	Take(ctx context.Context, o Opening) (Payee, error)
}

// Payer is the asker's half of a session.
type Payer interface {
	// Fund takes an offer of Payee.Cover and pays it. The message, if not nil, is
	// for Payee.Receive. The same offer is paid once.
	Fund(ctx context.Context, offer []byte) (message []byte, err error)
	// Pay promises total for the job so far. The message is for Payee.Receive; the
	// same total again gives a message that pays once. total never falls.
	Pay(ctx context.Context, total MilliSat) (message []byte, err error)
	// Answer takes what Payee.Receive answered to any message. ErrAgain: call Pay
	// once more and send what it gives.
	Answer(ctx context.Context, answer []byte) error
	// Promised is what Pay has promised, Paid what the payee has acknowledged.
	Promised() MilliSat
	Paid() MilliSat
	// Close ends the session. The message, if not nil, is for Payee.Receive, also
	// after its Close; it names where a refund goes. It may be called again.
	Close(ctx context.Context) (message []byte, err error)
}

// Payee is the provider's half of a session.
type Payee interface {
	// Cover asks whether the job's total may grow to total. A nil offer and no
	// error: it may, and that much is held for the job. An offer: after
	// Payer.Fund has paid it. ErrLimit: never.
	Cover(ctx context.Context, total MilliSat) (offer []byte, err error)
	// Receive takes a message and gives the answer to it. With an error there may
	// still be an answer to send: what the payer needs to catch up.
	Receive(ctx context.Context, message []byte) (answer []byte, err error)
	// Paid is what has arrived for the job.
	Paid() MilliSat
	// Close ends the session. due is what the job came to; what of it is unpaid
	// stays owed if owed, so that it counts against the peer's limit, and lapses
	// otherwise. It may be called again.
	Close(ctx context.Context, due MilliSat, owed bool) error
}

var (
	// ErrLimit: the peer may not owe as much. Serve others, or wait until it pays.
	ErrLimit = errors.New("the limit of what this peer may owe is reached")
	// ErrAgain: the two sides had different records and now agree. Repeat the payment.
	ErrAgain = errors.New("the balance was brought up to date; pay again")
	// ErrMessage: the message is none that an honest peer sends now. Do not repeat it.
	ErrMessage = errors.New("the payment message is refused")
	// ErrBudget: the key has spent what it may. Ask its owner.
	ErrBudget = errors.New("the budget is spent")
	// ErrClosed: the session or the journal was closed.
	ErrClosed = errors.New("closed")
)
