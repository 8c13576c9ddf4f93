package job

import (
	"context"
	"fmt"
	"os"
	"strconv"
	"testing"

	"github.com/geistnet/geist/ghost"
	"github.com/geistnet/geist/internal/pay"
)

// ledger is a rail of plain numbers that survive crashes: what a rail must do, and no more.
type ledger struct{ promised, acked, got, cover pay.MilliSat }

func (l *ledger) Name() string                                         { return "ledger" }
func (l *ledger) Pay(context.Context, pay.Opening) (pay.Payer, error)  { return ledgerPayer{l}, nil }
func (l *ledger) Take(context.Context, pay.Opening) (pay.Payee, error) { return ledgerPayee{l}, nil }

type ledgerPayer struct{ *ledger }

func (l ledgerPayer) Fund(context.Context, []byte) ([]byte, error) { return nil, pay.ErrMessage }
func (l ledgerPayer) Pay(_ context.Context, total pay.MilliSat) ([]byte, error) {
	if total < l.promised {
		return nil, fmt.Errorf("%d after %d", total, l.promised)
	}
	l.promised = total
	return []byte(strconv.FormatInt(int64(total), 10)), nil
}
func (l ledgerPayer) Answer(_ context.Context, b []byte) error {
	n, err := strconv.ParseInt(string(b), 10, 64)
	l.acked = max(l.acked, pay.MilliSat(n))
	return err
}
func (l ledgerPayer) Promised() pay.MilliSat { return l.promised }
func (l ledgerPayer) Paid() pay.MilliSat     { return l.acked }
func (l ledgerPayer) Close(context.Context) ([]byte, error) {
	if l.promised == l.acked {
		return nil, nil
	}
	return []byte(strconv.FormatInt(int64(l.promised), 10)), nil
}

type ledgerPayee struct{ *ledger }

func (l ledgerPayee) Cover(_ context.Context, total pay.MilliSat) ([]byte, error) {
	l.cover = max(l.cover, total)
	return nil, nil
}
func (l ledgerPayee) Receive(_ context.Context, b []byte) ([]byte, error) {
	n, err := strconv.ParseInt(string(b), 10, 64)
	if err != nil {
		return nil, err
	}
	if pay.MilliSat(n) > l.cover {
		return nil, pay.ErrLimit
	}
	l.got = max(l.got, pay.MilliSat(n))
	return []byte(strconv.FormatInt(int64(l.got), 10)), nil
}
func (l ledgerPayee) Paid() pay.MilliSat                              { return l.got }
func (l ledgerPayee) Close(context.Context, pay.MilliSat, bool) error { return nil }

// TestSchedules plays random schedules; GEIST_TEST_SCHEDULES says how many.
func TestSchedules(t *testing.T) {
	n := 3000
	if s, err := strconv.Atoi(os.Getenv("GEIST_TEST_SCHEDULES")); err == nil {
		n = s
	}
	keys := [2]ghost.Key{simKey(1), simKey(2)}
	ends := map[string]int{}
	var crashes int
	for seed := range uint64(n) {
		w := newWorld(t, seed, func() [2]func() pay.Rail {
			l := &ledger{}
			rail := func() pay.Rail { return l }
			return [2]func() pay.Rail{rail, rail}
		}, keys)
		w.run()
		crashes += w.crashes
		ends["asker "+string(w.asker.Phase())+" "+string(w.asker.Code())]++
		if w.provider != nil {
			ends["provider "+string(w.provider.Phase())+" "+string(w.provider.Code())]++
		}
	}
	for k, v := range ends {
		t.Logf("%7d %s", v, k)
	}
	t.Logf("%d schedules, %d crashes", n, crashes)
	for _, want := range []string{"asker settled done", "asker cancelled cancelled", "asker failed overcharged", "asker failed wrong-receipt", "asker failed contradiction", "provider failed unpaid", "provider failed client-gone", "asker refused busy", "provider settled done"} {
		if ends[want] == 0 && n >= 3000 {
			t.Errorf("no run ended with %q: the test tests less than it should", want)
		}
	}
}

// TestSchedulesWithCredit is the same over mutual credit.
func TestSchedulesWithCredit(t *testing.T) {
	n := 150
	if s, err := strconv.Atoi(os.Getenv("GEIST_TEST_CREDIT_SCHEDULES")); err == nil {
		n = s
	}
	limit := func(ghost.Key) (pay.MilliSat, pay.MilliSat) { return pay.MaxAmount, pay.MaxAmount }
	keys := [2]ghost.Key{simKey(1), simKey(2)}
	for seed := range uint64(n) {
		journals := [2]*pay.Journal{pay.NewMemoryJournal(), pay.NewMemoryJournal()}
		rails := [2]func() pay.Rail{}
		for i := range rails {
			rails[i] = func() pay.Rail {
				c, err := pay.NewCredit(simSecret(byte(i+1)), journals[i], limit)
				if err != nil {
					t.Fatal(err)
				}
				return c
			}
		}
		w := newWorld(t, seed, func() [2]func() pay.Rail { return rails }, keys)
		w.run()
		a, b := rails[0]().(*pay.Credit), rails[1]().(*pay.Credit)
		if w.lie == honest && w.payee != nil && a.Balance(keys[1])+b.Balance(keys[0]) != 0 {
			w.bad("balances are %d and %d", a.Balance(keys[1]), b.Balance(keys[0]))
		}
	}
}
