package pay

import (
	"bytes"
	"context"
	"errors"
	"math/rand/v2"
	"sync"
	"testing"

	"github.com/geistnet/geist/ghost"
)

func secretOf(n byte) ghost.Secret { return ghost.Secret{31: n} }

func keyOf(t testing.TB, n byte) ghost.Key {
	t.Helper()
	k, err := secretOf(n).Public()
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// pair is two nodes over one rail. The payee takes at most top for a job.
type pair struct {
	payer, payee       Rail
	payerKey, payeeKey ghost.Key
	restart            func() // both processes die and come back
	moved              func() (payer, payee MilliSat)
}

const suiteTop = 10_000

func open(t testing.TB, name string) func(t *testing.T) *pair {
	a, b := keyOf(t, 1), keyOf(t, 2)
	limit := func(ghost.Key) (give, take MilliSat) { return suiteTop, MaxAmount }
	return func(t *testing.T) *pair {
		t.Helper()
		dirs := [2]string{t.TempDir(), t.TempDir()}
		var js [2]*Journal
		p := &pair{payerKey: a, payeeKey: b}
		bank := newBank()
		p.restart = func() {
			for i := range js {
				if js[i] != nil {
					if err := js[i].Close(); err != nil {
						t.Fatal(err)
					}
				}
				var err error
				if js[i], err = OpenJournal(dirs[i]); err != nil {
					t.Fatal(err)
				}
			}
			switch name {
			case "credit":
				var cs [2]*Credit
				for i := range cs {
					var err error
					if cs[i], err = NewCredit(secretOf(byte(i+1)), js[i], limit); err != nil {
						t.Fatal(err)
					}
				}
				p.payer, p.payee = cs[0], cs[1]
				p.moved = func() (MilliSat, MilliSat) { return cs[0].Balance(b), cs[1].Balance(a) }
			case "fake":
				p.payer = &fake{bank, a, js[0], &sync.Mutex{}, suiteTop}
				p.payee = &fake{bank, b, js[1], &sync.Mutex{}, suiteTop}
				p.moved = func() (MilliSat, MilliSat) { return bank.money[a], bank.money[b] }
			}
		}
		p.restart()
		t.Cleanup(func() {
			for _, j := range js {
				j.Close()
			}
		})
		return p
	}
}

// session opens both halves for a job.
func (p *pair) session(t *testing.T, n byte, first, most MilliSat) (Payer, Payee) {
	t.Helper()
	job := JobID{0: n, 31: 1}
	a, err := p.payer.Pay(t.Context(), Opening{job, p.payeeKey, first, most})
	if err != nil {
		t.Fatal(err)
	}
	b, err := p.payee.Take(t.Context(), Opening{job, p.payerKey, first, most})
	if err != nil {
		t.Fatal(err)
	}
	return a, b
}

func cover(t *testing.T, a Payer, b Payee, total MilliSat) {
	t.Helper()
	for range 3 {
		offer, err := b.Cover(t.Context(), total)
		if err != nil {
			t.Fatal(err)
		}
		if offer == nil {
			return
		}
		m, err := a.Fund(t.Context(), offer)
		if err != nil {
			t.Fatal(err)
		}
		send(t, a, b, m)
	}
	t.Fatalf("%d msat are not payable after three offers", total)
}

func send(t *testing.T, a Payer, b Payee, m []byte) {
	t.Helper()
	if m == nil {
		return
	}
	answer, err := b.Receive(t.Context(), m)
	if err != nil {
		t.Fatal(err)
	}
	if err := a.Answer(t.Context(), answer); err != nil {
		t.Fatal(err)
	}
}

func payTotal(t *testing.T, a Payer, b Payee, total MilliSat) {
	t.Helper()
	m, err := a.Pay(t.Context(), total)
	if err != nil {
		t.Fatal(err)
	}
	send(t, a, b, m)
	if a.Paid() != total || b.Paid() != total || a.Promised() != total {
		t.Fatalf("after paying %d: payer says %d of %d promised, payee %d", total, a.Paid(), a.Promised(), b.Paid())
	}
}

func closeBoth(t *testing.T, a Payer, b Payee, due MilliSat) {
	t.Helper()
	if err := b.Close(t.Context(), due, true); err != nil {
		t.Fatal(err)
	}
	m, err := a.Close(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	send(t, a, b, m)
	if m, err = a.Close(t.Context()); err != nil || m != nil {
		t.Fatalf("closed twice: %d bytes, %v", len(m), err)
	}
}

func (p *pair) want(t *testing.T, total MilliSat) {
	t.Helper()
	if a, b := p.moved(); a != -total || b != total {
		t.Fatalf("the payer has %d and the payee %d; want %d and %d", a, b, -total, total)
	}
}

// TestRails runs one suite over every rail.
func TestRails(t *testing.T) {
	for _, name := range []string{"credit", "fake"} {
		fresh := open(t, name)
		t.Run(name, func(t *testing.T) {
			t.Run("life", func(t *testing.T) {
				p := fresh(t)
				a, b := p.session(t, 1, 500, 5000)
				cover(t, a, b, 500)
				payTotal(t, a, b, 400)
				payTotal(t, a, b, 500)
				cover(t, a, b, 900)
				payTotal(t, a, b, 777)
				closeBoth(t, a, b, 777)
				p.want(t, 777)
				a, b = p.session(t, 2, 500, 5000)
				cover(t, a, b, 1000)
				payTotal(t, a, b, 3)
				closeBoth(t, a, b, 3)
				p.want(t, 780)
			})
			t.Run("nothing", func(t *testing.T) {
				p := fresh(t)
				a, b := p.session(t, 1, 500, 5000)
				cover(t, a, b, 500)
				closeBoth(t, a, b, 0)
				p.want(t, 0)
			})
			t.Run("repeated", func(t *testing.T) {
				p := fresh(t)
				a, b := p.session(t, 1, 500, 5000)
				cover(t, a, b, 500)
				m1, _ := a.Pay(t.Context(), 100)
				again, _ := a.Pay(t.Context(), 100)
				if !bytes.Equal(m1, again) {
					t.Error("the same total gives another message")
				}
				for range 3 {
					send(t, a, b, m1)
				}
				m2, _ := a.Pay(t.Context(), 250)
				send(t, a, b, m2)
				if ans, err := b.Receive(t.Context(), m1); err == nil { // late
					_ = a.Answer(t.Context(), ans)
				}
				if a.Paid() != 250 || b.Paid() != 250 {
					t.Errorf("paid %d, got %d; want 250", a.Paid(), b.Paid())
				}
				closeBoth(t, a, b, 250)
				p.want(t, 250)
			})
			t.Run("restarts", func(t *testing.T) {
				p := fresh(t)
				a, b := p.session(t, 1, 500, 5000)
				re := func() { p.restart(); a, b = p.session(t, 1, 500, 5000) }
				offer, err := b.Cover(t.Context(), 500)
				re()
				if err != nil {
					t.Fatal(err)
				}
				if offer != nil {
					if _, err := a.Fund(t.Context(), offer); err != nil {
						t.Fatal(err)
					}
					re()
				}
				cover(t, a, b, 500)
				re()
				m, err := a.Pay(t.Context(), 300)
				if err != nil {
					t.Fatal(err)
				}
				re() // before it is sent
				if a.Promised() != 300 || a.Paid() != 0 {
					t.Fatalf("after a restart %d promised and %d paid; want 300, 0", a.Promised(), a.Paid())
				}
				if _, err := b.Receive(t.Context(), m); err != nil {
					t.Fatal(err)
				}
				re() // the answer is lost
				if b.Paid() != 300 {
					t.Fatalf("after a restart %d arrived; want 300", b.Paid())
				}
				payTotal(t, a, b, 300)
				re()
				if err := b.Close(t.Context(), 300, true); err != nil {
					t.Fatal(err)
				}
				re()
				if _, err = a.Close(t.Context()); err != nil {
					t.Fatal(err)
				}
				re()
				closeBoth(t, a, b, 300)
				re()
				closeBoth(t, a, b, 300)
				p.want(t, 300)
			})
			t.Run("refused", func(t *testing.T) {
				p := fresh(t)
				a, b := p.session(t, 1, 500, 50_000)
				if _, err := b.Cover(t.Context(), suiteTop+1); !errors.Is(err, ErrLimit) {
					t.Errorf("holding more than the limit: %v", err)
				}
				cover(t, a, b, 500)
				payTotal(t, a, b, 200)
				for _, bad := range []MilliSat{199, -1, 50_001, MaxAmount + 1} {
					if m, err := a.Pay(t.Context(), bad); err == nil {
						t.Errorf("paying %d after 200 gives %d bytes", bad, len(m))
					}
					if _, err := b.Cover(t.Context(), bad); err == nil && bad != 199 {
						t.Errorf("%d is held", bad)
					}
				}
				for _, bad := range [][]byte{nil, {}, {0}, make([]byte, 255), make([]byte, 256), []byte("{}"), []byte(`{"kind":"pay","total":-5}`)} {
					if _, err := b.Receive(t.Context(), bad); err == nil {
						t.Errorf("%q is received", bad)
					}
				}
				if b.Paid() != 200 {
					t.Errorf("%d arrived; want 200", b.Paid())
				}
				over, err := a.Pay(t.Context(), 501) // beyond what is held
				if err != nil {
					t.Fatal(err)
				}
				if _, err := b.Receive(t.Context(), over); !errors.Is(err, ErrLimit) {
					t.Errorf("more than is held: %v", err)
				}
				cover(t, a, b, 600) // and once it is held, it counts
				payTotal(t, a, b, 501)
				closeBoth(t, a, b, 501)
				p.want(t, 501)
			})
			t.Run("random", func(t *testing.T) {
				for seed := range uint64(20) {
					testRandomSession(t, fresh(t), seed)
				}
			})
		})
	}
}

// testRandomSession loses, doubles and delays messages and answers, and restarts.
func testRandomSession(t *testing.T, p *pair, seed uint64) {
	rnd := rand.New(rand.NewPCG(seed, 1))
	a, b := p.session(t, 1, 500, 5000)
	cover(t, a, b, 4000)
	var messages, answers [][]byte
	ctx := context.Background()
	total := MilliSat(0)
	for range 60 {
		switch rnd.IntN(6) {
		case 0:
			total = min(total+MilliSat(rnd.IntN(100)), 4000)
			fallthrough
		case 1:
			if m, err := a.Pay(ctx, total); err == nil {
				messages = append(messages, m)
			} else {
				t.Fatalf("seed %d: %v", seed, err)
			}
		case 2, 3:
			if len(messages) > 0 {
				ans, _ := b.Receive(ctx, messages[rnd.IntN(len(messages))])
				answers = append(answers, ans)
			}
		case 4:
			if len(answers) > 0 {
				_ = a.Answer(ctx, answers[rnd.IntN(len(answers))])
			}
		case 5:
			if rnd.IntN(5) == 0 {
				p.restart()
				a, b = p.session(t, 1, 500, 5000)
			}
		}
		if a.Paid() > b.Paid() || b.Paid() > total || a.Promised() != total && a.Promised() != 0 {
			t.Fatalf("seed %d: %d promised, %d acknowledged, %d arrived of %d", seed, a.Promised(), a.Paid(), b.Paid(), total)
		}
	}
	payTotal(t, a, b, total)
	closeBoth(t, a, b, total)
	p.want(t, total)
}
