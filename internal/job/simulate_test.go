package job

import (
	"container/heap"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/geistnet/geist/arith"
	"github.com/geistnet/geist/ghost"
	"github.com/geistnet/geist/internal/pay"
	"github.com/geistnet/geist/merkle"
)

// This file drives both machines through random schedules of faults: messages are
// lost, doubled, delayed and so reordered, both sides crash between any two actions
// and are restored from what they saved, either side lies, payments fail. It checks
// what the package comment promises after every step.

// Lies of the provider. liePays and the others after it are of the asker.
const (
	honest = iota
	lieDue
	lieMore
	lieCount
	lieReceiptPrice
	lieReceiptTokens
	lieReceiptOther
	lieChange
	lieFinish
	lieSilence
	lieAlive
	lieNeverPays
	lieClaims
	lieCount_
)

// world is one run.
type world struct {
	t    testing.TB
	seed uint64
	rnd  *rand.Rand
	now  Time
	box  mail
	sent uint64

	// How bad it is.
	loss, double, crash float64
	lie                 int

	order  *Order
	truth  []int32 // the whole answer
	finish ghost.Finish
	rails  [2]func() pay.Rail // asker's, provider's

	asker      Asker
	askerDisk  []byte
	payer      pay.Payer
	conn       int // number of the asker's connection
	user       []int32
	askerEnds  int
	crashes    int
	wantCancel bool

	provider     *Provider
	providerDisk []byte
	payee        pay.Payee
	peerConn     int
	running      int // number of the engine's run; parts of earlier ones are void
	engineAt     int
	until        int
	emitted      int // furthest position ever sent
	breaks       bool
	refuses      bool
	coverFails   float64
}

// letter is a message under way, or something that will happen.
type letter struct {
	at Time
	n  uint64
	do func()
}

type mail []letter

func (m mail) Len() int           { return len(m) }
func (m mail) Less(i, j int) bool { return m[i].at < m[j].at || m[i].at == m[j].at && m[i].n < m[j].n }
func (m mail) Swap(i, j int)      { m[i], m[j] = m[j], m[i] }
func (m *mail) Push(x any)        { *m = append(*m, x.(letter)) }
func (m *mail) Pop() any {
	old := *m
	x := old[len(old)-1]
	*m = old[:len(old)-1]
	return x
}

func (w *world) after(d Time, do func()) {
	w.sent++
	heap.Push(&w.box, letter{w.now + d, w.sent, do})
}

// net sends something over the faulty network.
func (w *world) net(do func()) {
	copies := 1
	if w.rnd.Float64() < w.loss {
		copies = 0
	}
	if w.rnd.Float64() < w.double {
		copies++
	}
	for range copies {
		d := Time(5 + w.rnd.IntN(40))
		if w.rnd.Float64() < w.double {
			d += Time(w.rnd.IntN(40_000))
		}
		w.after(d, do)
	}
}

func (w *world) bad(format string, a ...any) {
	w.t.Helper()
	w.t.Fatalf("seed %d, lie %d, at %d ms: %s\nasker: %s\nprovider: %s", w.seed, w.lie, w.now, fmt.Sprintf(format, a...), w.asker.Encode(), w.providerState())
}

func (w *world) providerState() []byte {
	if w.provider == nil {
		return []byte("none")
	}
	return w.provider.Encode()
}

// crashed is the process's end between two actions.
type crashed struct{}

func (w *world) mayCrash() {
	if w.rnd.Float64() < w.crash && w.crashes < 12 {
		w.crashes++
		panic(crashed{})
	}
}

// survive runs f; if it crashes, restart runs.
func (w *world) survive(f, die, restart func()) {
	defer func() {
		switch r := recover().(type) {
		case nil:
		case crashed:
			die()
			w.after(Time(100+w.rnd.IntN(5000)), restart)
		default:
			panic(r)
		}
	}()
	f()
}

// --- asker ---

func (w *world) openPayer() {
	o, err := w.order.Terms().Opening(w.order.ID(), w.order.Provider)
	if err == nil {
		w.payer, err = w.rails[0]().Pay(context.Background(), o)
	}
	if err != nil {
		w.bad("open: %v", err)
	}
}

func (w *world) patience() Patience {
	p := DefaultPatience(1 << 40)
	if w.seed%7 == 3 {
		p.Most = 60_000
	}
	p.Audit = w.seed%3 == 0
	return p
}

// toAsker gives the asker an input, unless its process is down.
func (w *world) toAsker(in AskerInput) {
	if w.payer == nil {
		return
	}
	w.survive(func() {
		before := w.asker.Phase()
		next, actions := w.asker.Step(w.now, in)
		w.asker = next
		if before.Final() && next.Phase() != before && !(before == PhaseSettled && next.Phase() == PhaseAudited) {
			w.bad("from %s to %s", before, next.Phase())
		}
		for _, a := range actions {
			w.mayCrash()
			w.askerDoes(a)
		}
		w.check()
	}, func() { w.payer = nil }, w.restartAsker)
}

func (w *world) restartAsker() {
	w.conn++ // the old connection is dead
	w.openPayer()
	if w.askerDisk == nil {
		a, err := NewAsker(w.order, w.patience())
		if err != nil {
			w.bad("%v", err)
		}
		w.asker, w.user = a, slices.Clone(w.order.Resume)
		w.toAsker(Start{})
		return
	}
	a, err := RestoreAsker(w.order, w.patience(), w.askerDisk)
	if err != nil {
		w.bad("%v", err)
	}
	w.asker, w.user = a, a.Tokens()
	w.toAsker(AskerRestarted{w.payer.Promised(), w.payer.Paid()})
}

func (w *world) askerDoes(a AskerAction) {
	ctx := context.Background()
	switch a := a.(type) {
	case Save:
		w.askerDisk = w.asker.Encode()
	case Connect:
		w.conn++
		conn, from := w.conn, a.From
		if w.lie == lieClaims {
			from += 40
		}
		w.net(func() { w.joinProvider(conn, from) })
	case Fund:
		m, err := w.payer.Fund(ctx, a.Offer)
		if err != nil {
			w.after(1, func() { w.toAsker(PayFailed{PaymentFailed, false}) })
			return
		}
		w.sendPay(m)
		w.after(1, func() { w.toAsker(Funded{}) })
	case Pay:
		if w.lie == lieNeverPays {
			return
		}
		saved, err := RestoreAsker(w.order, w.patience(), w.askerDisk)
		if err != nil {
			w.bad("%v", err)
		}
		if due, _ := w.order.Terms().Due(len(saved.Tokens())); a.Total > due {
			w.bad("promises %d for %d saved tokens that come to %d", a.Total, len(saved.Tokens()), due)
		}
		m, err := w.payer.Pay(ctx, a.Total)
		if err != nil {
			w.bad("pay: %v", err)
		}
		w.sendPay(m)
	case Deliver:
		if a.N != len(w.user) {
			w.bad("tokens from %d on after %d", a.N, len(w.user))
		}
		w.user = append(w.user, a.Tokens...)
	case SendCancel:
		w.net(func() { w.toProvider(CancelAsked{}) })
	case CloseSession:
		if m, err := w.payer.Close(ctx); err != nil {
			w.bad("close: %v", err)
		} else if m != nil && w.lie != lieNeverPays {
			w.sendPay(m)
		}
	case Audit:
		w.after(50, func() { w.toAsker(AuditDone{OK: w.rnd.IntN(4) > 0}) })
	case End:
		w.askerEnds++
		if a.Phase != w.asker.Phase() || a.Code == "" || a.Code.Sentence() == "" {
			w.bad("end %+v", a)
		}
	}
}

func (w *world) sendPay(m []byte) {
	if m == nil {
		return
	}
	w.net(func() {
		if w.payee == nil {
			return
		}
		answer, err := w.payee.Receive(context.Background(), m)
		if err != nil && w.lie == honest && !errors.Is(err, pay.ErrAgain) {
			w.bad("an honest payment is refused: %v", err)
		}
		w.toProvider(Received{w.payee.Paid()})
		if answer == nil {
			return
		}
		w.net(func() {
			if w.payer == nil {
				return
			}
			if errors.Is(w.payer.Answer(context.Background(), answer), pay.ErrAgain) && w.payer.Promised() > w.payer.Paid() {
				if m, err := w.payer.Pay(context.Background(), w.payer.Promised()); err == nil {
					w.sendPay(m)
				}
			}
			w.toAsker(PayDone{w.payer.Paid()})
		})
	})
}

// --- provider ---

func (w *world) openPayee() {
	o, err := w.order.Terms().Opening(w.order.ID(), w.order.Client)
	if err == nil {
		w.payee, err = w.rails[1]().Take(context.Background(), o)
	}
	if err != nil {
		w.bad("open: %v", err)
	}
}

func (w *world) joinProvider(conn, from int) {
	if w.providerDown() {
		if conn == w.conn {
			w.net(func() { w.toAsker(StreamEnded{}) })
		}
		return
	}
	if conn < w.peerConn {
		return // a doubled or late request; its connection is dead
	}
	w.peerConn = conn
	fresh := w.provider == nil
	if fresh {
		p, err := NewProvider(w.order, DefaultGrace)
		if err != nil {
			w.bad("%v", err)
		}
		w.provider = &p
		w.openPayee()
	}
	w.toProvider(Joined{from})
	if fresh && w.provider != nil {
		w.after(Time(w.rnd.IntN(100)), func() {
			if w.refuses {
				w.toProvider(Rejected{Busy, "full", 5})
			} else {
				w.toProvider(Admitted{})
			}
		})
	}
}

func (w *world) providerDown() bool { return w.provider != nil && w.payee == nil }

func (w *world) toProvider(in ProviderInput) {
	if w.provider == nil || w.payee == nil {
		return
	}
	w.survive(func() {
		before := w.provider.Phase()
		next, actions := w.provider.Step(w.now, in)
		*w.provider = next
		if before.Final() && next.Phase() != before && !(before == PhaseSettled && next.Phase() == PhaseAudited) {
			w.bad("from %s to %s", before, next.Phase())
		}
		for _, a := range actions {
			w.mayCrash()
			w.providerDoes(a)
		}
		w.check()
	}, func() { w.payee = nil }, w.restartProvider)
}

func (w *world) restartProvider() {
	w.running++
	if w.providerDisk == nil {
		w.provider = nil
		w.payee = nil
		return
	}
	p, err := RestoreProvider(w.order, DefaultGrace, w.providerDisk)
	if err != nil {
		w.bad("%v", err)
	}
	w.provider = &p
	w.openPayee()
	if conn := w.conn; conn == w.peerConn {
		w.net(func() {
			if conn == w.conn {
				w.toAsker(StreamEnded{})
			}
		})
	}
	w.toProvider(ProviderRestarted{w.payee.Paid()})
}

func (w *world) providerDoes(a ProviderAction) {
	ctx := context.Background()
	switch a := a.(type) {
	case Save:
		w.providerDisk = w.provider.Encode()
	case Emit:
		w.emit(a.Event)
	case Cover:
		offer, err := w.payee.Cover(ctx, a.Total)
		if w.rnd.Float64() < w.coverFails {
			err = pay.ErrLimit
		}
		w.after(1, func() {
			switch {
			case err != nil:
				w.toProvider(CoverRefused{})
			case offer != nil:
				w.toProvider(CoverOffer{offer})
			default:
				w.toProvider(Covered(a))
			}
		})
	case Compute:
		t := w.order.Terms()
		if paid := t.paidTo(w.payee.Paid(), t.Most); a.Until > paid+2*Window || a.Until > t.Most {
			w.bad("computes up to %d with %d paid", a.Until, paid)
		}
		w.until = a.Until
		w.running++
		w.engineAt = a.From
		w.engine(w.running)
	case StopEngine:
		w.running++
	case SignReceipt:
		if !slices.Equal(a.Tokens, w.truth[:len(a.Tokens)]) {
			w.bad("signs other tokens than the engine made")
		}
		tokens := a.Tokens
		price := a.Price
		r := &ghost.Receipt{
			Time: w.order.CreatedAt + 1, Model: w.order.Model, Arithmetic: arith.Version, Request: w.order.Request.Hash(),
			Prompt: ghost.HashTokens(w.order.Request.Salt, w.order.Request.Prompt), Finish: a.Finish, SeedRule: ghost.SeedRule1,
			SeedNonce: ghost.CommitSeed(w.order.SeedNonce), AuditNonce: w.order.Audit, Trace: merkle.Hash{1}, Client: w.order.Client, Grade: ghost.GhostAudited,
		}
		switch w.lie {
		case lieReceiptPrice:
			price += 7
		case lieReceiptTokens:
			tokens = append(slices.Clone(tokens[:max(0, len(tokens)-1)]), 9999)
		case lieReceiptOther:
			r.SeedNonce = ghost.Digest{5}
		}
		r.Price, r.Answer = uint64(price), ghost.HashTokens(w.order.Request.Salt, tokens)
		if err := r.Sign(simSecret(2)); err != nil {
			w.bad("%v", err)
		}
		w.after(3, func() { w.toProvider(Signed{r}) })
	case SettleSession:
		if err := w.payee.Close(ctx, a.Due, a.Owed); err != nil {
			w.bad("close: %v", err)
		}
	case End:
		if a.Code == "" || a.Code.Sentence() == "" {
			w.bad("end %+v", a)
		}
	}
}

// engine makes a few tokens, and then the next.
func (w *world) engine(run int) {
	if run != w.running || w.engineAt >= w.until {
		return
	}
	n := min(1+w.rnd.IntN(12), w.until-w.engineAt)
	w.after(Time(n*20), func() {
		if run != w.running || w.provider == nil || w.payee == nil {
			return
		}
		if w.breaks && w.rnd.IntN(8) == 0 {
			w.toProvider(Broken{EngineFailed, "out of memory"})
			return
		}
		to := min(w.engineAt+n, len(w.truth))
		in := Computed{N: w.engineAt, Tokens: w.truth[w.engineAt:to]}
		if to == len(w.truth) {
			in.Finish = w.finish
		}
		w.engineAt = to
		w.toProvider(in)
		if in.Finish == "" {
			w.engine(run)
		}
	})
}

// emit sends an event of the provider, and lies if it is to.
func (w *world) emit(e Event) {
	t := w.order.Terms()
	if e.Type == EventChunk {
		to := e.N + len(e.Tokens)
		w.emitted = max(w.emitted, to)
		if paid := t.paidTo(w.payee.Paid(), t.Most); w.emitted > max(paid, t.Resume)+Window {
			w.bad("%d tokens are out and %d are paid", w.emitted, paid)
		}
		e.Tokens = slices.Clone(e.Tokens)
		if w.rnd.IntN(3) == 0 || w.lie == lieDue {
			switch w.lie {
			case lieDue:
				e.Due++
			case lieMore:
				e.N += t.Most - len(e.Tokens) + 1
			case lieCount:
				e.Due = max(0, e.Due-1)
			case lieChange:
				e.Tokens[0]++
			case lieFinish:
				e.Finish = ghost.FinishStop
			}
		}
	}
	if w.lie == lieSilence && w.rnd.IntN(3) == 0 {
		return
	}
	if w.lie == lieAlive && e.Type == EventReceipt {
		return
	}
	conn := w.peerConn
	arrive := func() {
		if conn == w.conn {
			w.toAsker(Arrived{Event: &e})
		}
	}
	if w.loss == 0 && w.double == 0 {
		w.after(20, arrive) // in order, as on one connection
		return
	}
	w.net(arrive)
}

// check is what holds at every moment.
func (w *world) check() {
	t := w.order.Terms()
	due, err := t.Due(len(w.asker.Tokens()))
	if err != nil {
		w.bad("%v", err)
	}
	if w.payer != nil && w.payer.Promised() > due {
		w.bad("%d promised for %d tokens that come to %d", w.payer.Promised(), len(w.asker.Tokens()), due)
	}
	if w.payee != nil && w.payer != nil && w.payee.Paid() > w.payer.Promised() {
		w.bad("%d arrived of %d promised", w.payee.Paid(), w.payer.Promised())
	}
	if t.Resume > 0 && len(w.asker.Tokens()) == t.Resume && w.payer != nil && w.payer.Promised() > 0 {
		w.bad("resumed tokens were charged")
	}
}

func simSecret(n byte) ghost.Secret { return ghost.Secret{31: n} }

func simKey(n byte) ghost.Key {
	k, err := simSecret(n).Public()
	if err != nil {
		panic(err)
	}
	return k
}

// newWorld draws a run. rails gives the rails over journals that outlive a crash.
func newWorld(t testing.TB, seed uint64, rails func() [2]func() pay.Rail, keys [2]ghost.Key) *world {
	rnd := rand.New(rand.NewPCG(seed, 99))
	w := &world{t: t, seed: seed, rnd: rnd, now: 1000, rails: rails()}
	most := 1 + rnd.IntN(200)
	n := rnd.IntN(most + 1)
	w.finish = ghost.FinishStop
	if n == most {
		w.finish = ghost.FinishLength
	}
	for range n {
		w.truth = append(w.truth, rnd.Int32N(1000))
	}
	resume := 0
	if n > 0 && rnd.IntN(4) == 0 {
		resume = rnd.IntN(n)
	}
	prices := pay.Prices{Prompt: pay.MilliSat(rnd.IntN(3_000_000)), Answer: pay.MilliSat(rnd.IntN(900_000_000))}
	switch rnd.IntN(10) {
	case 0:
		prices = pay.Prices{}
	case 1:
		prices.Answer = 3
	}
	var salt, seedNonce [32]byte
	salt[0], seedNonce[0] = byte(seed), 1
	w.order = &Order{
		Client: keys[0], Provider: keys[1], Model: ghost.ID{1}, Ask: ghost.Digest{2}, Prices: prices, Rail: "credit", CreatedAt: 1_800_000_000 + int64(seed),
		Request: &ghost.Request{Salt: salt, Prompt: make([]int32, 1+rnd.IntN(50)), Sampling: arith.Sampling{}, MaxTokens: most}, SeedNonce: seedNonce, Audit: ghost.CommitAudit(ghost.Nonce{3}),
		Resume: slices.Clone(w.truth[:resume]),
	}
	w.emitted = resume
	switch seed % 4 {
	case 1:
		w.loss, w.double = 0.1*rnd.Float64(), 0.1*rnd.Float64()
	case 2:
		w.crash = 0.1 * rnd.Float64()
	case 3:
		w.loss, w.double, w.crash = 0.4*rnd.Float64(), 0.3*rnd.Float64(), 0.15*rnd.Float64()
	}
	if seed%5 == 4 {
		w.lie = 1 + rnd.IntN(lieCount_-1)
	}
	if seed%4 != 0 {
		w.breaks = rnd.IntN(6) == 0
		w.refuses = rnd.IntN(20) == 0
		if rnd.IntN(8) == 0 {
			w.coverFails = 0.3
		}
	}
	w.wantCancel = rnd.IntN(8) == 0
	return w
}

// run plays the world to its end.
func (w *world) run() {
	w.after(0, w.restartAsker)
	var tick func()
	tick = func() {
		w.toAsker(Tick{})
		w.toProvider(Tick{})
		if w.asker.Phase() != "" && w.asker.Phase().Final() && (w.provider == nil || w.provider.Phase().Final()) && w.box.Len() == 0 {
			return
		}
		w.after(2000, tick)
	}
	w.after(1000, tick)
	if w.wantCancel {
		w.after(Time(w.rnd.IntN(6000)), func() { w.toAsker(Cancel{}) })
	}
	for steps := 0; w.box.Len() > 0; steps++ {
		l := heap.Pop(&w.box).(letter)
		w.now = max(w.now, l.at)
		l.do()
		if w.now > 4*3600_000 {
			w.bad("no end after four hours")
		}
	}
	w.ended()
}

// ended is what holds in the end, after the two have exchanged their last messages.
func (w *world) ended() {
	t := w.order.Terms()
	if !w.asker.Phase().Final() || w.provider != nil && !w.provider.Phase().Final() {
		w.bad("not final")
	}
	if w.askerEnds == 0 && w.crash == 0 {
		w.bad("no End")
	}
	if w.payee != nil && w.lie != lieNeverPays {
		for range 5 {
			m, err := w.payer.Close(context.Background())
			if err != nil {
				w.bad("%v", err)
			}
			if m == nil {
				break
			}
			answer, err := w.payee.Receive(context.Background(), m)
			if err != nil && w.lie == honest {
				w.bad("the last message is refused: %v", err)
			}
			_ = w.payer.Answer(context.Background(), answer)
		}
		if w.payee.Paid() != w.payer.Paid() || w.lie == honest && w.payer.Promised() != w.payer.Paid() {
			w.bad("balances: %d promised, %d paid, %d arrived", w.payer.Promised(), w.payer.Paid(), w.payee.Paid())
		}
	}
	due, _ := t.Due(len(w.asker.Tokens()))
	if w.payer.Promised() > due {
		w.bad("%d charged for %d delivered", w.payer.Promised(), due)
	}
	if w.lie == honest && !slices.Equal(w.asker.Tokens(), w.truth[:len(w.asker.Tokens())]) {
		w.bad("other tokens than the engine's")
	}
	switch w.asker.Phase() {
	case PhaseSettled, PhaseAudited:
		r := w.asker.Receipt()
		if r == nil || uint64(w.payer.Promised()) != r.Price || w.payer.Promised() != due {
			w.bad("settled with %d promised, %d due, receipt %v", w.payer.Promised(), due, r)
		}
		if w.lie == honest && len(w.asker.Tokens()) != len(w.truth) {
			w.bad("settled after %d of %d tokens", len(w.asker.Tokens()), len(w.truth))
		}
	case PhaseRefused:
		if w.payer.Promised() != 0 {
			w.bad("a refused job cost %d", w.payer.Promised())
		}
	}
	// Where nothing goes wrong, all goes right.
	over := w.patience().Most < 1<<40
	if w.seed%4 == 0 && w.lie == honest && !w.wantCancel && !over {
		if p := w.asker.Phase(); p != PhaseSettled && p != PhaseAudited || w.provider.Phase() != PhaseSettled {
			w.bad("asker %s, provider %s", p, w.provider.Phase())
		}
	}
}
