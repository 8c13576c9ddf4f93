package pay

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"sync"

	"github.com/geistnet/geist/ghost"
)

// bank is what all fakes share: who has how much, and which invoices were paid.
type bank struct {
	mu       sync.Mutex
	money    map[ghost.Key]MilliSat
	invoices map[string]*invoice // by payment hash
	next     int
}

type invoice struct {
	to       ghost.Key
	amount   MilliSat
	preimage string
	paid     bool
}

func newBank() *bank {
	return &bank{money: map[ghost.Key]MilliSat{}, invoices: map[string]*invoice{}}
}

func (b *bank) invoice(to ghost.Key, amount MilliSat) (hash string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.next++
	preimage := fmt.Sprintf("preimage %d", b.next)
	hash = fmt.Sprintf("%x", sha256.Sum256([]byte(preimage)))
	b.invoices[hash] = &invoice{to: to, amount: amount, preimage: preimage}
	return hash
}

// pay pays an invoice once, however often it is called.
func (b *bank) pay(from ghost.Key, hash string) (preimage string, err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	i := b.invoices[hash]
	if i == nil {
		return "", fmt.Errorf("no invoice %s", hash)
	}
	if !i.paid {
		i.paid = true
		b.money[from] -= i.amount
		b.money[i.to] += i.amount
	}
	return i.preimage, nil
}

func (b *bank) state(hash string) (amount MilliSat, paid bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	i := b.invoices[hash]
	if i == nil {
		return 0, false
	}
	return i.amount, i.paid
}

// fake is a prepaid Lightning session in process: deposit by invoice, top-up,
// bearer payments out of the deposit, refund by invoice.
type fake struct {
	b    *bank
	self ghost.Key
	j    *Journal
	mu   *sync.Mutex
	top  MilliSat // the largest deposit that the payee takes
}

// fakeSession is the journal's entry.
type fakeSession struct {
	Deposit   MilliSat        `json:"deposit"`
	Invoices  map[string]bool `json:"invoices"` // payment hash → counted
	Token     string          `json:"token"`    // bearer: hash of the first preimage
	Paid      MilliSat        `json:"paid"`
	Promised  MilliSat        `json:"promised"`
	Covered   MilliSat        `json:"covered"`
	RefundTo  string          `json:"refund_to"` // invoice of the payer
	Refunding bool            `json:"refunding"`
	Closed    bool            `json:"closed"`
}

type fakeMessage struct {
	Kind     string   `json:"kind"` // deposit, pay, close
	Hash     string   `json:"hash,omitempty"`
	Preimage string   `json:"preimage,omitempty"`
	Total    MilliSat `json:"total,omitempty"`
	Refund   string   `json:"refund,omitempty"`
	Paid     MilliSat `json:"paid,omitempty"`   // answer
	Amount   MilliSat `json:"amount,omitempty"` // offer, and answer to close: what is refunded
}

func (f *fake) Name() string { return "fake" }

type fakeHalf struct {
	*fake
	o    Opening
	side string
}

func (f *fake) Pay(_ context.Context, o Opening) (Payer, error) {
	return &fakePayer{fakeHalf{f, o, "payer"}}, nil
}

func (f *fake) Take(_ context.Context, o Opening) (Payee, error) {
	return &fakePayee{fakeHalf{f, o, "payee"}}, nil
}

func (h fakeHalf) key() string { return "fake/" + h.side + "/" + h.o.Job.String() }

func (h fakeHalf) get() fakeSession {
	s := fakeSession{Invoices: map[string]bool{}}
	if v := h.j.Get(h.key()); v != nil {
		if err := json.Unmarshal(v, &s); err != nil {
			panic(err)
		}
	}
	return s
}

func (h fakeHalf) put(s fakeSession) error {
	b, err := json.Marshal(s)
	if err != nil {
		return err
	}
	return h.j.Put(Entry{h.key(), b})
}

func wire(m fakeMessage) []byte {
	b, err := json.Marshal(m)
	if err != nil {
		panic(err)
	}
	return b
}

func unwire(b []byte) (m fakeMessage, err error) {
	if err := json.Unmarshal(b, &m); err != nil {
		return m, fmt.Errorf("%w: %w", ErrMessage, err)
	}
	return m, nil
}

type fakePayer struct{ fakeHalf }

func (p *fakePayer) Fund(_ context.Context, offer []byte) ([]byte, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	m, err := unwire(offer)
	if err != nil {
		return nil, err
	}
	s := p.get()
	if _, known := s.Invoices[m.Hash]; !known {
		amount, _ := p.b.state(m.Hash)
		sum, err := s.Deposit.Plus(amount)
		if err != nil || amount != m.Amount || sum > p.o.Most {
			return nil, fmt.Errorf("%w: a deposit of %d for a job of at most %d", ErrMessage, amount, p.o.Most)
		}
		s.Deposit, s.Invoices[m.Hash] = sum, true
		if err := p.put(s); err != nil { // before it is paid
			return nil, err
		}
	}
	preimage, err := p.b.pay(p.self, m.Hash)
	if err != nil {
		return nil, err
	}
	return wire(fakeMessage{Kind: "deposit", Hash: m.Hash, Preimage: preimage}), nil
}

func (p *fakePayer) Pay(_ context.Context, total MilliSat) ([]byte, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	s := p.get()
	if !total.Valid() || total < s.Promised || total > p.o.Most {
		return nil, fmt.Errorf("pay %d of at most %d, with %d promised", total, p.o.Most, s.Promised)
	}
	if total > s.Promised {
		s.Promised = total
		if err := p.put(s); err != nil {
			return nil, err
		}
	}
	return wire(fakeMessage{Kind: "pay", Total: total}), nil
}

func (p *fakePayer) Answer(_ context.Context, answer []byte) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	m, err := unwire(answer)
	if err != nil {
		return err
	}
	s := p.get()
	if m.Paid > s.Promised {
		return fmt.Errorf("%w: %d paid of %d promised", ErrMessage, m.Paid, s.Promised)
	}
	s.Paid = max(s.Paid, m.Paid)
	if m.Kind == "close" {
		s.Closed = true
	}
	return p.put(s)
}

func (p *fakePayer) Promised() MilliSat { p.mu.Lock(); defer p.mu.Unlock(); return p.get().Promised }
func (p *fakePayer) Paid() MilliSat     { p.mu.Lock(); defer p.mu.Unlock(); return p.get().Paid }

func (p *fakePayer) Close(context.Context) ([]byte, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	s := p.get()
	if s.Closed || s.Deposit == 0 {
		return nil, nil
	}
	if s.RefundTo == "" {
		if back := s.Deposit - s.Promised; back > 0 {
			s.RefundTo = p.b.invoice(p.self, back)
			if err := p.put(s); err != nil {
				return nil, err
			}
		}
	}
	return wire(fakeMessage{Kind: "close", Total: s.Promised, Refund: s.RefundTo}), nil
}

type fakePayee struct{ fakeHalf }

func (p *fakePayee) Cover(_ context.Context, total MilliSat) ([]byte, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	s := p.get()
	switch {
	case s.Closed:
		return nil, ErrClosed
	case !total.Valid() || total > p.o.Most:
		return nil, fmt.Errorf("hold %d of at most %d", total, p.o.Most)
	case total > p.top:
		return nil, ErrLimit
	case total <= s.Deposit:
		return nil, nil
	}
	for hash, counted := range s.Invoices { // an offer that is out already
		if amount, _ := p.b.state(hash); !counted && amount == total-s.Deposit {
			return wire(fakeMessage{Kind: "offer", Hash: hash, Amount: amount}), nil
		}
	}
	hash := p.b.invoice(p.self, total-s.Deposit)
	s.Invoices[hash] = false
	if err := p.put(s); err != nil {
		return nil, err
	}
	return wire(fakeMessage{Kind: "offer", Hash: hash, Amount: total - s.Deposit}), nil
}

func (p *fakePayee) Receive(_ context.Context, message []byte) ([]byte, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	m, err := unwire(message)
	if err != nil {
		return nil, err
	}
	s := p.get()
	answer := fakeMessage{Kind: m.Kind, Paid: s.Paid}
	switch m.Kind {
	case "deposit":
		counted, mine := s.Invoices[m.Hash]
		amount, paid := p.b.state(m.Hash)
		if !mine || !paid || fmt.Sprintf("%x", sha256.Sum256([]byte(m.Preimage))) != m.Hash {
			return wire(answer), fmt.Errorf("%w: the deposit is not paid", ErrMessage)
		}
		if counted {
			return wire(answer), nil
		}
		s.Invoices[m.Hash] = true
		s.Deposit += amount
		return wire(answer), p.put(s)
	case "pay":
		if m.Total > s.Deposit || !m.Total.Valid() {
			return wire(answer), fmt.Errorf("pay %d of a deposit of %d: %w", m.Total, s.Deposit, ErrLimit)
		}
		if m.Total <= s.Paid || s.Refunding {
			return wire(answer), nil
		}
		s.Paid = m.Total
		answer.Paid = s.Paid
		return wire(answer), p.put(s)
	case "close":
		if !s.Refunding {
			if m.Total > s.Paid && m.Total <= s.Deposit {
				s.Paid = m.Total
			}
			back, _ := p.b.state(m.Refund)
			if m.Refund != "" && back != s.Deposit-s.Paid {
				return wire(answer), fmt.Errorf("%w: a refund of %d; left is %d", ErrMessage, back, s.Deposit-s.Paid)
			}
			s.Refunding, s.RefundTo = true, m.Refund
			if err := p.put(s); err != nil { // before it is paid
				return nil, err
			}
		}
		if s.RefundTo != "" {
			if _, err := p.b.pay(p.self, s.RefundTo); err != nil {
				return nil, err
			}
		}
		answer.Paid, answer.Amount = s.Paid, s.Deposit-s.Paid
		return wire(answer), nil
	}
	return wire(answer), fmt.Errorf("%w: kind %.20q", ErrMessage, m.Kind)
}

func (p *fakePayee) Paid() MilliSat { p.mu.Lock(); defer p.mu.Unlock(); return p.get().Paid }

func (p *fakePayee) Close(context.Context, MilliSat, bool) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	s := p.get()
	s.Closed = true
	return p.put(s)
}
