package pay

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/geistnet/geist/ghost"
)

// two are nodes 1 and 2 over journals in memory; 2 gives 1 a limit.
func two(t testing.TB, give MilliSat) (cs [2]*Credit) {
	t.Helper()
	for i := range cs {
		limit := func(ghost.Key) (MilliSat, MilliSat) { return give, MaxAmount }
		var err error
		if cs[i], err = NewCredit(secretOf(byte(i+1)), NewMemoryJournal(), limit); err != nil {
			t.Fatal(err)
		}
	}
	return cs
}

func reopen(t testing.TB, c *Credit) *Credit {
	t.Helper()
	n, err := NewCredit(c.secret, c.j, c.limit)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// sealed is a state signed by whom the secrets say; nil: not signed.
func sealed(t testing.TB, s state, payer, payee *ghost.Secret) *state {
	t.Helper()
	for _, x := range []struct {
		by *ghost.Secret
		to *[64]byte
	}{{payer, &s.PayerSig}, {payee, &s.PayeeSig}} {
		if x.by != nil {
			sig, err := x.by.Sign(s.digest())
			if err != nil {
				t.Fatal(err)
			}
			*x.to = sig
		}
	}
	return &s
}

// TestCreditVectors: the states of docs/spec/credit.md §6.
func TestCreditVectors(t *testing.T) {
	spec, err := os.ReadFile("../../docs/spec/credit.md")
	if err != nil {
		t.Fatal(err)
	}
	cs := two(t, MaxAmount)
	var memo JobID
	for i := range memo {
		memo[i] = byte(i)
	}
	p, err := cs[0].Pay(t.Context(), Opening{memo, cs[1].Self(), 0, MaxAmount})
	if err != nil {
		t.Fatal(err)
	}
	for _, total := range []MilliSat{1000, 1234} {
		m, err := p.Pay(t.Context(), total)
		if err != nil {
			t.Fatal(err)
		}
		answer, err := cs[1].Exchange(cs[0].Self(), m)
		if err != nil {
			t.Fatal(err)
		}
		var text strings.Builder
		for i := 0; i < len(answer); i += 32 {
			fmt.Fprintf(&text, "    %04x  %x\n", i, answer[i:i+32])
		}
		if !bytes.Contains(spec, []byte(text.String())) {
			t.Errorf("docs/spec/credit.md lacks\n%s", text.String())
		}
		if err := p.Answer(t.Context(), answer); err != nil {
			t.Fatal(err)
		}
	}
}

// TestCreditAttacks: what a payee refuses, and that nothing changes then.
func TestCreditAttacks(t *testing.T) {
	a, b, c := secretOf(1), secretOf(2), secretOf(3)
	ka, kb, kc := keyOf(t, 1), keyOf(t, 2), keyOf(t, 3)
	second := state{Payer: ka, Payee: kb, Seq: 2, Total: 150, Amount: 50}
	with := func(change func(*state)) state { s := second; change(&s); return s }
	for name, x := range map[string]struct {
		s      *state
		refuse bool
	}{
		"good":                  {sealed(t, second, &a, nil), false},
		"replayed":              {sealed(t, state{Payer: ka, Payee: kb, Seq: 1, Total: 100, Amount: 100}, &a, nil), false}, // ignored
		"same number, more":     {sealed(t, state{Payer: ka, Payee: kb, Seq: 1, Total: 900, Amount: 900}, &a, nil), false}, // ignored
		"skips a number":        {sealed(t, with(func(s *state) { s.Seq = 3 }), &a, nil), true},
		"goes backward":         {sealed(t, with(func(s *state) { s.Total, s.Amount = 60, 60 }), &a, nil), true},
		"total too large":       {sealed(t, with(func(s *state) { s.Total = 151 }), &a, nil), true},
		"forged":                {sealed(t, second, &c, nil), true},
		"not signed":            {sealed(t, second, nil, nil), true},
		"signed by payee only":  {sealed(t, second, nil, &b), true},
		"forged agreement":      {sealed(t, second, &a, &c), true},
		"agreed, forged payer":  {sealed(t, second, &c, &b), true},
		"agreed, lowered":       {sealed(t, with(func(s *state) { s.Total, s.Amount = 50, 50 }), &a, &b), true},
		"over the limit":        {sealed(t, with(func(s *state) { s.Total, s.Amount = 1001, 901 }), &a, nil), true},
		"up to the limit":       {sealed(t, with(func(s *state) { s.Total, s.Amount = 1000, 900 }), &a, nil), false},
		"of others":             {sealed(t, with(func(s *state) { s.Payee = kc }), &a, nil), true},
		"of a stranger":         {sealed(t, with(func(s *state) { s.Payer = kc }), &c, nil), true},
		"of mine, forged":       {sealed(t, with(func(s *state) { s.Payer, s.Payee = kb, ka; s.Seq = 1; s.Total = 50 }), &a, &a), true},
		"of mine, without mine": {sealed(t, with(func(s *state) { s.Payer, s.Payee = kb, ka; s.Seq = 1; s.Total = 50 }), &c, &a), true},
	} {
		cs := two(t, 1000)
		m, err := cs[0].Settle(kb, 100)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := cs[1].Exchange(ka, m); err != nil {
			t.Fatal(err)
		}
		before := cs[1].Balance(ka)
		_, err = cs[1].Exchange(ka, x.s.encode())
		if (err != nil) != x.refuse {
			t.Errorf("%s: %v", name, err)
		}
		changed := name == "good" || name == "up to the limit"
		if after := reopen(t, cs[1]).Balance(ka); (after != before) != changed || after != cs[1].Balance(ka) {
			t.Errorf("%s: the balance was %d and is %d", name, before, after)
		}
	}
}

// TestStateAltered: no bit of a signed state can be changed.
func TestStateAltered(t *testing.T) {
	cs := two(t, 1000)
	ka, kb := cs[0].Self(), cs[1].Self()
	m, err := cs[0].Settle(kb, 100)
	if err != nil {
		t.Fatal(err)
	}
	for i := range 192 { // the rest is the payee's signature
		bad := bytes.Clone(m)
		bad[i] ^= 1
		if _, err := two(t, 1000)[1].Exchange(ka, bad); err == nil {
			t.Errorf("byte %d altered is accepted", i)
		}
	}
	answer, err := cs[1].Exchange(ka, m)
	if err != nil {
		t.Fatal(err)
	}
	for i := range answer {
		bad := bytes.Clone(answer)
		bad[i] ^= 1
		if _, _ = cs[0].Exchange(kb, bad); cs[0].Statement(kb).Paid != 0 {
			t.Fatalf("an answer with byte %d altered is accepted", i)
		}
	}
	if _, err := cs[0].Exchange(kb, answer); err != nil || cs[0].Balance(kb) != -100 {
		t.Errorf("%v, balance %d", err, cs[0].Balance(kb))
	}
}

func TestCreditOverflow(t *testing.T) {
	cs := two(t, MaxAmount)
	kb := cs[1].Self()
	for _, bad := range []MilliSat{0, -1, MaxAmount + 1} {
		if m, err := cs[0].Settle(kb, bad); err == nil {
			t.Errorf("settling %d gives %d bytes", bad, len(m))
		}
	}
	m, err := cs[0].Settle(kb, MaxAmount)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := cs[1].Exchange(cs[0].Self(), m); err != nil {
		t.Fatal(err)
	}
	if _, err := cs[0].Settle(kb, 1); err == nil {
		t.Error("a total beyond the largest amount is signed")
	}
	huge := sealed(t, state{Payer: cs[0].Self(), Payee: kb, Seq: 2, Total: MaxAmount + 1, Amount: 1}, &cs[0].secret, nil)
	if _, err := cs[1].Exchange(cs[0].Self(), huge.encode()); !errors.Is(err, ErrMessage) {
		t.Errorf("a total beyond the largest amount: %v", err)
	}
}

// TestCreditLimits: who does not pay is out of credit after the limit, lapsed work is free, and
// a settlement gives room again.
func TestCreditLimits(t *testing.T) {
	cs := two(t, 1000)
	ka, kb := cs[0].Self(), cs[1].Self()
	take := func(n byte) Payee {
		p, err := cs[1].Take(t.Context(), Opening{JobID{n}, ka, 400, 5000})
		if err != nil {
			t.Fatal(err)
		}
		return p
	}
	hold := func(p Payee, n MilliSat) error { _, err := p.Cover(t.Context(), n); return err }
	one, two, three := take(1), take(2), take(3)
	if err := errors.Join(hold(one, 400), hold(two, 400)); err != nil {
		t.Fatal(err)
	}
	if err := hold(three, 201); !errors.Is(err, ErrLimit) {
		t.Errorf("201 of 200: %v", err)
	}
	if err := errors.Join(two.Close(t.Context(), 300, false), one.Close(t.Context(), 300, true)); err != nil {
		t.Fatal(err)
	}
	if got := reopen(t, cs[1]).Room(ka); got != 700 || cs[1].Room(ka) != 700 {
		t.Errorf("room is %d; want 700: 300 were never paid", got)
	}
	if err := hold(one, 400); !errors.Is(err, ErrClosed) {
		t.Errorf("a closed job: %v", err)
	}
	late, err := cs[0].Pay(t.Context(), Opening{JobID{1}, kb, 400, 5000})
	if err != nil {
		t.Fatal(err)
	}
	m, err := late.Pay(t.Context(), 300)
	if err != nil {
		t.Fatal(err)
	}
	if _, err = cs[1].Exchange(ka, m); err != nil || cs[1].Room(ka) != 700 || cs[1].Balance(ka) != 300 {
		t.Errorf("paid late: %v, room %d, balance %d", err, cs[1].Room(ka), cs[1].Balance(ka))
	}
	if m, err = cs[1].Settle(ka, 300); err != nil { // 2 had 300 from 1 in another way
		t.Fatal(err)
	}
	if _, err = cs[0].Exchange(kb, m); err != nil || cs[1].Room(ka) != 700 {
		t.Fatalf("%v, room %d before the answer", err, cs[1].Room(ka))
	}
	if err := reconcile(cs); err != nil || cs[1].Room(ka) != 1000 || cs[0].Balance(kb) != 0 {
		t.Errorf("%v, room %d, balance %d", err, cs[1].Room(ka), cs[0].Balance(kb))
	}
}

// TestCreditOldJournal: a node that comes back with an old journal learns what it had signed.
func TestCreditOldJournal(t *testing.T) {
	for side := range 2 {
		cs := two(t, 1000)
		ka, kb := cs[0].Self(), cs[1].Self()
		step := func(n MilliSat) {
			m, err := cs[0].Settle(kb, n)
			if err != nil {
				t.Fatal(err)
			}
			answer, err := cs[1].Exchange(ka, m)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := cs[0].Exchange(kb, answer); err != nil {
				t.Fatal(err)
			}
		}
		step(100)
		old := NewMemoryJournal()
		for k, v := range cs[side].j.All("") {
			if err := old.Put(Entry{k, v}); err != nil {
				t.Fatal(err)
			}
		}
		step(10)
		step(1)
		back, err := NewCredit(secretOf(byte(side+1)), old, cs[side].limit)
		if err != nil {
			t.Fatal(err)
		}
		cs[side] = back
		if side == 0 { // it pays on from the old state
			m, err := cs[0].Settle(kb, 500)
			if err != nil {
				t.Fatal(err)
			}
			answer, err := cs[1].Exchange(ka, m)
			if err != nil || cs[1].Balance(ka) != 111 {
				t.Fatalf("a second payment 2: %v, balance %d", err, cs[1].Balance(ka))
			}
			if _, err := cs[0].Exchange(kb, answer); !errors.Is(err, ErrAgain) {
				t.Fatalf("%v", err)
			}
		}
		if err := reconcile(cs); err != nil {
			t.Fatal(err)
		}
		step(1)
		if cs[0].Balance(kb) != -112 || cs[1].Balance(ka) != 112 {
			t.Errorf("side %d: balances %d and %d; want 112", side, cs[0].Balance(kb), cs[1].Balance(ka))
		}
	}
}

// reconcile is what two nodes do when they meet again.
func reconcile(cs [2]*Credit) error {
	for i := range cs {
		m := cs[i].Hello(cs[1-i].Self())
		for to := 1 - i; m != nil; to = 1 - to {
			var err error
			if m, err = cs[to].Exchange(cs[1-to].Self(), m); err != nil && !errors.Is(err, ErrAgain) {
				return fmt.Errorf("reconcile: %w", err)
			}
		}
	}
	return nil
}

func FuzzExchange(f *testing.F) {
	cs := two(f, 1000)
	m, err := cs[0].Settle(cs[1].Self(), 100)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(m)
	answer, err := cs[1].Exchange(cs[0].Self(), m)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(answer)
	f.Add(append(answer, m...))
	f.Fuzz(func(t *testing.T, b []byte) {
		states, err := decodeStates(b)
		if err == nil {
			var c []byte
			for _, s := range states {
				c = append(c, s.encode()...)
			}
			if !bytes.Equal(b, c) {
				t.Fatal("decoded and encoded it differs")
			}
		}
		cs := two(t, 1000)
		_, _ = cs[1].Exchange(cs[0].Self(), b)
		if got := cs[1].Balance(cs[0].Self()); got != 0 && got != 100 {
			t.Fatalf("a balance of %d", got)
		}
	})
}
