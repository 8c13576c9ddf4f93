package lab

import (
	"errors"
	"slices"

	"github.com/geistnet/geist/arith"
	"github.com/geistnet/geist/audit"
	"github.com/geistnet/geist/ghost"
)

// order is one paid answer as client and provider hold it.
type order struct {
	request             *ghost.Request
	seed, audit         ghost.Nonce
	client, provider    ghost.Key
	secret              ghost.Secret
	model               ghost.ID
	run                 *audit.Run
	receipt             *ghost.Receipt
	cancelled           bool
	end                 int32 // the model's end token
	notBefore, notAfter int64
}

// order runs an honest answer and signs it.
func (b *bench) order() (*order, error) {
	o := &order{end: 2, notBefore: 1_700_000_000, notAfter: 1_700_000_600}
	for _, x := range []*[32]byte{(*[32]byte)(&o.secret), (*[32]byte)(&o.seed), (*[32]byte)(&o.audit), (*[32]byte)(&o.client)} {
		for i := range x {
			x[i] = byte(b.r.Uint32())
		}
	}
	o.secret[0] = 1
	var err error
	if o.provider, err = o.secret.Public(); err != nil {
		return nil, err
	}
	o.model = b.s.g.ID()
	s := b.sampling
	s.Seed = [32]byte{}
	o.request = &ghost.Request{Prompt: b.prompt, Sampling: s, MaxTokens: answerLen}
	o.request.Salt[0] = byte(b.r.Uint32())
	s.Seed = ghost.Seed(o.seed, o.request.Hash(), o.model)
	b.sampling = s
	r, err := b.run(hooks{})
	if err == nil {
		err = r.seal()
	}
	if err != nil {
		return nil, err
	}
	o.run = r.run
	for slices.Contains(o.run.Answer, o.end) {
		o.end++
	}
	o.receipt = &ghost.Receipt{Time: o.notBefore + 300, Model: o.model, Arithmetic: arith.Version, Request: o.request.Hash(),
		Prompt: ghost.HashTokens(o.request.Salt, o.request.Prompt), Answer: ghost.HashTokens(o.request.Salt, o.run.Answer),
		Finish: ghost.FinishLength, SeedRule: ghost.SeedRule1, SeedNonce: ghost.CommitSeed(o.seed), AuditNonce: ghost.CommitAudit(o.audit),
		Trace: o.run.Trace, Client: o.client, Price: 1000, Grade: ghost.GhostAudited}
	return o, o.receipt.Sign(o.secret)
}

// accept is what a client checks of a receipt before it looks at a proof.
func (o *order) accept(encoded []byte, answer []int32) error {
	r, err := ghost.ParseReceipt(encoded)
	if err != nil {
		return err
	}
	if err := r.Answers(o.request, answer); err != nil {
		return err
	}
	switch {
	case r.Provider != o.provider:
		return errors.New("another provider signed")
	case r.Client != o.client:
		return errors.New("it is for another client")
	case r.Model != o.model:
		return errors.New("it is of another model")
	case r.SeedNonce != ghost.CommitSeed(o.seed), r.AuditNonce != ghost.CommitAudit(o.audit):
		return errors.New("it commits to another nonce")
	case r.Time < o.notBefore || r.Time > o.notAfter:
		return errors.New("it is of another time")
	case r.Price != 1000:
		return errors.New("it has another price")
	case r.Grade != ghost.GhostAudited:
		return errors.New("it has another grade")
	}
	run := *o.run
	run.Answer = answer
	return audit.Ended(&run, o.request, r.Finish, o.cancelled, func(a []int32) bool { return a[len(a)-1] == o.end })
}

// equivocates tells whether a provider has signed two different results of one
// request with one seed, of which at most one can be right.
func equivocates(a, b *ghost.Receipt) bool {
	return a.Verify() == nil && b.Verify() == nil && a.Provider == b.Provider && a.Request == b.Request && a.SeedNonce == b.SeedNonce &&
		a.Model == b.Model && (a.Trace != b.Trace || a.Answer != b.Answer)
}

func receiptAttacks() []attack {
	// lying changes the receipt, which is signed again if resign.
	lying := func(resign bool, lie func(b *bench, o *order) []int32) func(b *bench) (bool, error) {
		return func(b *bench) (bool, error) {
			o, err := b.order()
			if err != nil {
				return false, err
			}
			if err := o.accept(o.receipt.Encode(), o.run.Answer); err != nil {
				return false, errors.Join(errors.New("an honest receipt is refused"), err)
			}
			answer := lie(b, o)
			if answer == nil {
				answer = o.run.Answer
			}
			if resign {
				if err := o.receipt.Sign(o.secret); err != nil {
					return false, err
				}
			}
			return o.accept(o.receipt.Encode(), answer) != nil, nil
		}
	}
	field := func(f func(o *order)) func(*bench, *order) []int32 {
		return func(_ *bench, o *order) []int32 { f(o); return nil }
	}
	answered := func(f func(o *order, a []int32) []int32) func(*bench, *order) []int32 {
		return func(_ *bench, o *order) []int32 {
			a := f(o, append([]int32(nil), o.run.Answer...))
			o.receipt.Answer = ghost.HashTokens(o.request.Salt, a)
			return a
		}
	}
	as := []attack{
		{name: "receipt-altered-after-signing", what: "The trace root of a receipt is replaced after it was signed.", claim: lying(false, field(func(o *order) { o.receipt.Trace[0] ^= 1 }))},
		{name: "price-raised-after-signing", what: "The price of a receipt is raised after it was signed.", claim: lying(false, field(func(o *order) { o.receipt.Price++ }))},
		{name: "receipt-by-another-key", what: "Somebody else signs the receipt.", claim: lying(true, field(func(o *order) { o.secret[5] ^= 1 }))},
		{name: "receipt-for-another-client", what: "An honest receipt of another client is shown.", claim: lying(true, field(func(o *order) { o.receipt.Client[3] ^= 1 }))},
		{name: "receipt-of-another-time", what: "An honest receipt of the day before is shown.", claim: lying(true, field(func(o *order) { o.receipt.Time -= 86400 }))},
		{name: "receipt-of-another-model", what: "The receipt names another model.", claim: lying(true, field(func(o *order) { o.receipt.Model[3] ^= 1 }))},
		{name: "receipt-replayed", what: "The receipt of an earlier answer to the same prompt is shown, with the nonces of that time.", claim: lying(true, field(func(o *order) {
			o.receipt.SeedNonce, o.receipt.AuditNonce = ghost.CommitSeed(ghost.Nonce{1}), ghost.CommitAudit(ghost.Nonce{2})
		}))},
		{name: "receipt-of-another-request", what: "The receipt is for other sampling parameters.", claim: lying(true, field(func(o *order) {
			q := *o.request
			q.Sampling.Temperature = 1.5
			o.receipt.Request = q.Hash()
		}))},
		{name: "receipt-claims-a-grammar", what: "The receipt's request has a grammar, which would excuse the choice of tokens.", claim: lying(true, field(func(o *order) {
			q := *o.request
			q.Grammar[0] = 1
			o.receipt.Request = q.Hash()
		}))},
		{name: "receipt-of-lower-grade", what: "The receipt promises nothing that can be checked.", claim: lying(true, field(func(o *order) {
			o.receipt.Grade, o.receipt.Trace = ghost.Reputation, [32]byte{}
		}))},
		{name: "other-answer-shown", what: "The client is shown another answer than the one signed.", claim: lying(true, func(_ *bench, o *order) []int32 {
			a := append([]int32(nil), o.run.Answer...)
			a[4] ^= 1
			return a
		})},
		{name: "answer-cut-as-length", what: "Half of the answer is held back; the receipt says that the most tokens were reached.",
			claim: lying(true, answered(func(_ *order, a []int32) []int32 { return a[:answerLen/2] }))},
		{name: "answer-cut-as-stop", what: "Half of the answer is held back; the receipt says that the model ended it.",
			claim: lying(true, answered(func(o *order, a []int32) []int32 {
				o.receipt.Finish = ghost.FinishStop
				return append(a[:answerLen/2-1], 77)
			}))},
		{name: "answer-cut-as-cancelled", what: "Half of the answer is held back; the receipt says that the client wanted no more.",
			claim: lying(true, answered(func(o *order, a []int32) []int32 {
				o.receipt.Finish = ghost.FinishCancelled
				return a[:answerLen/2]
			}))},
		{name: "answer-longer-than-asked", what: "The answer is longer than the request allows, to be paid for more.",
			claim: lying(true, answered(func(_ *order, a []int32) []int32 { return append(a, 7, 8, 9) }))},
		{name: "answer-past-its-end", what: "The answer goes on behind the model's end token.",
			claim: lying(true, answered(func(o *order, a []int32) []int32 { a[answerLen/2] = o.end; return a }))},
		{name: "equivocation", what: "One request is answered to two people with two different trace roots.",
			claim: func(b *bench) (bool, error) {
				o, err := b.order()
				if err != nil {
					return false, err
				}
				other := *o.receipt
				other.Trace[0] ^= 1
				if err := other.Sign(o.secret); err != nil {
					return false, err
				}
				again := *o.receipt
				return equivocates(o.receipt, &other) && !equivocates(o.receipt, &again), nil
			}},
		{name: "nonces-equal", what: "The nonce of the seed, which the provider sees first, is used for the challenge too: its commitments differ by domain.",
			claim: func(b *bench) (bool, error) {
				o, err := b.order()
				if err != nil {
					return false, err
				}
				o.receipt.AuditNonce = ghost.CommitAudit(o.seed)
				if err := o.receipt.Sign(o.secret); err != nil {
					return false, err
				}
				return o.accept(o.receipt.Encode(), o.run.Answer) != nil, nil
			}},
	}
	for i := range as {
		as[i].family, as[i].by, as[i].theory = "receipt", ByReceipt, "1: what is signed contradicts what was asked, or the signature is wrong"
	}
	return as
}
