package asker

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/geistnet/geist/arith"
	"github.com/geistnet/geist/ghost"
	"github.com/geistnet/geist/internal/dialog"
	"github.com/geistnet/geist/internal/job"
	"github.com/geistnet/geist/internal/market"
	"github.com/geistnet/geist/internal/nostr"
	"github.com/geistnet/geist/internal/pay"
	"github.com/geistnet/geist/merkle"
)

// liar plays a provider's side of the wire and does what its fields say. It takes
// payments as an honest one does, unless told otherwise.
type liar struct {
	t      testing.TB
	secret ghost.Secret
	credit *pay.Credit
	server *httptest.Server
	ask    *market.Ask
	honest *house // whose model it offers
	posts  atomic.Int32

	// jobs answers an order. w is flushed after each write.
	jobs func(w io.Writer, o *job.Order)
	// other answers anything else before the default does; false: it did not.
	other func(w http.ResponseWriter, q *http.Request) bool
	free  chan struct{} // closed at the end
}

type flusher struct{ w http.ResponseWriter }

func (f flusher) Write(b []byte) (int, error) {
	n, err := f.w.Write(b)
	f.w.(http.Flusher).Flush()
	return n, err
}

func newLiar(t testing.TB, n byte, honest *house) *liar {
	t.Helper()
	credit, err := pay.NewCredit(secret(n), pay.NewMemoryJournal(), limits)
	if err != nil {
		t.Fatal(err)
	}
	l := &liar{t: t, secret: secret(n), credit: credit, honest: honest, free: make(chan struct{})}
	mux := http.NewServeMux()
	mux.HandleFunc("POST /geist/v1/jobs", func(w http.ResponseWriter, q *http.Request) {
		l.posts.Add(1)
		b, err := io.ReadAll(q.Body)
		if err != nil {
			return
		}
		o, err := job.ParseOrder(b)
		if err != nil {
			t.Errorf("an asker's order: %v", err)
			return
		}
		opening, err := o.Terms().Opening(o.ID(), o.Client)
		if err != nil {
			t.Error(err)
			return
		}
		p, err := l.credit.Take(context.Background(), opening)
		if err == nil {
			_, err = p.Cover(context.Background(), opening.Most)
		}
		if err != nil {
			t.Error(err)
			return
		}
		l.jobs(flusher{w}, o)
	})
	mux.HandleFunc("POST /geist/v1/jobs/{job}/pay", func(w http.ResponseWriter, q *http.Request) {
		b, err := io.ReadAll(q.Body)
		if err != nil || len(b) < 72 {
			return
		}
		answer, err := l.credit.Exchange(ghost.Key(b[8:40]), b)
		w.Header().Set("Content-Type", "application/octet-stream")
		if err != nil {
			w.WriteHeader(http.StatusConflict)
		}
		w.Write(answer)
	})
	mux.HandleFunc("GET /geist/v1/models/", func(w http.ResponseWriter, q *http.Request) {
		l.honest.Handler().ServeHTTP(w, q)
	})
	l.server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		if l.other == nil || !l.other(w, q) {
			mux.ServeHTTP(w, q)
		}
	}))
	l.offer(honest.ask.Model, 900_000)
	t.Cleanup(func() {
		close(l.free)
		l.server.CloseClientConnections()
		l.server.Close()
	})
	return l
}

// offer signs an ask that is a little cheaper than the honest one's.
func (l *liar) offer(id ghost.ID, price market.Price) {
	l.t.Helper()
	key, err := l.secret.Public()
	if err != nil {
		l.t.Fatal(err)
	}
	now := time.Now().Unix()
	a := &market.Ask{Provider: key, Name: "tiny", Created: now, Expires: now + 900, Model: id, ModelName: "tiny", Quant: "q8_0", Context: l.honest.ask.Context,
		Input: price, Output: 2 * price, Capacity: 4, Endpoints: []string{l.server.URL}, Rails: []string{"credit"}, Grade: ghost.GhostAudited}
	e, err := a.Event(market.DefaultKinds())
	if err == nil {
		err = nostr.Sign(e, l.secret)
	}
	if err == nil {
		l.ask, err = market.ParseAsk(e, market.Rules{Kinds: market.DefaultKinds(), Now: now})
	}
	if err != nil {
		l.t.Fatal(err)
	}
}

func (l *liar) key() ghost.Key { return l.ask.Provider }

// send writes events.
func (l *liar) send(w io.Writer, events ...job.Event) {
	for i := range events {
		b, err := events[i].Encode()
		if err != nil {
			l.t.Error(err)
			return
		}
		w.Write(b)
	}
}

// chunk is n tokens from position at on, all honest but for the tokens themselves.
func (l *liar) chunk(o *job.Order, at, n int) job.Event {
	text := l.honest.model.Tokenizer.NewContinuation()
	for i := range at {
		text.Add(int32(300 + i))
	}
	e := job.Event{Type: job.EventChunk, N: at}
	for i := at; i < at+n; i++ {
		e.Tokens = append(e.Tokens, int32(300+i))
		e.Text += text.Add(int32(300 + i))
	}
	due, err := o.Terms().Due(at + n)
	if err != nil {
		l.t.Error(err)
	}
	e.Due = due
	return e
}

// receipt is right for n such tokens, before change.
func (l *liar) receipt(o *job.Order, n int, by ghost.Secret, change func(*ghost.Receipt)) job.Event {
	var tokens []int32
	for i := range n {
		tokens = append(tokens, int32(300+i))
	}
	due, err := o.Terms().Due(n)
	if err != nil {
		l.t.Error(err)
	}
	q := o.Request
	r := &ghost.Receipt{Time: time.Now().Unix(), Model: o.Model, Arithmetic: arith.Version, Request: q.Hash(), Prompt: ghost.HashTokens(q.Salt, q.Prompt), Answer: ghost.HashTokens(q.Salt, tokens),
		Finish: ghost.FinishStop, SeedRule: ghost.SeedRule1, SeedNonce: ghost.CommitSeed(o.SeedNonce), AuditNonce: o.Audit, Trace: merkle.Hash{1}, Client: o.Client, Price: uint64(due), Grade: ghost.GhostAudited}
	if change != nil {
		change(r)
	}
	if err := r.Sign(by); err != nil {
		l.t.Error(err)
	}
	return job.Event{Type: job.EventReceipt, Receipt: r}
}

func accepted(o *job.Order) job.Event { return job.Event{Type: job.EventAccepted, Job: o.ID()} }

// impatient is DefaultPatience for tests: the waits are shorter, the rules the same.
func impatient(o *Options) {
	o.Patience = job.DefaultPatience(pay.MaxAmount)
	o.Patience.Silence, o.Patience.Progress, o.Patience.PayRetry = 200, 5000, 200
}

// Whatever a provider does: the answer comes from the next one, what was paid was
// held, the liar is marked, and it ends.
func TestHostileProviders(t *testing.T) {
	honest := newHouse(t, 1, nil)
	last := func(e job.Event, f ghost.Finish) job.Event { e.Finish = f; return e }
	for name, c := range map[string]struct {
		jobs  func(l *liar, w io.Writer, o *job.Order)
		other func(l *liar, w http.ResponseWriter, q *http.Request) bool
		code  job.Code
		paid  int // tokens that may have been paid
	}{
		"charges too much": {jobs: func(l *liar, w io.Writer, o *job.Order) {
			e := l.chunk(o, 0, 8)
			e.Due++
			l.send(w, accepted(o), e)
		}, code: job.Overcharged},
		"charges too little": {jobs: func(l *liar, w io.Writer, o *job.Order) {
			e := l.chunk(o, 0, 8)
			e.Due--
			l.send(w, accepted(o), e)
		}, code: job.Miscounted},
		"delivers more than was asked for": {jobs: func(l *liar, w io.Writer, o *job.Order) {
			l.send(w, accepted(o), l.chunk(o, 0, 32), l.chunk(o, 32, 32))
		}, code: job.Miscounted, paid: 32},
		"leaves out tokens": {jobs: func(l *liar, w io.Writer, o *job.Order) {
			l.send(w, accepted(o), l.chunk(o, 8, 8))
		}, code: job.BadEvent},
		"changes its mind": {jobs: func(l *liar, w io.Writer, o *job.Order) {
			e := l.chunk(o, 0, 9)
			e.Tokens[3]++
			l.send(w, accepted(o), l.chunk(o, 0, 8), e)
		}, code: job.Contradiction},
		"shows other text": {jobs: func(l *liar, w io.Writer, o *job.Order) {
			e := l.chunk(o, 0, 8)
			e.Text += "buy now"
			l.send(w, accepted(o), e)
		}, code: job.TextDiffers},
		"is silent before it accepts": {jobs: func(l *liar, w io.Writer, o *job.Order) { <-l.free }, code: job.Unreachable},
		"is alive and nothing else": {jobs: func(l *liar, w io.Writer, o *job.Order) {
			l.send(w, accepted(o))
			for {
				select {
				case <-l.free:
					return
				case <-time.After(20 * time.Millisecond):
					l.send(w, job.Event{Type: job.EventAlive})
				}
			}
		}, code: job.Stalled},
		"is silent in the middle": {jobs: func(l *liar, w io.Writer, o *job.Order) {
			l.send(w, accepted(o), l.chunk(o, 0, 20))
			<-l.free
		}, code: job.Stalled, paid: 20},
		"sends garbage": {jobs: func(l *liar, w io.Writer, o *job.Order) {
			l.send(w, accepted(o))
			io.WriteString(w, strings.Repeat("\x00\xff<html>\n", 100))
		}, code: job.BadEvent},
		"sends one endless line": {jobs: func(l *liar, w io.Writer, o *job.Order) {
			l.send(w, accepted(o))
			for b := []byte(strings.Repeat("a", 64<<10)); ; {
				if _, err := w.Write(b); err != nil {
					return
				}
			}
		}, code: job.BadEvent},
		"sends endless lines": {jobs: func(l *liar, w io.Writer, o *job.Order) {
			l.send(w, accepted(o))
			for b := []byte(strings.Repeat("{\"type\":\"weather\"}\n", 4000)); ; {
				if _, err := w.Write(b); err != nil {
					return
				}
			}
		}, code: job.BadEvent},
		"accepts another job": {jobs: func(l *liar, w io.Writer, o *job.Order) {
			l.send(w, job.Event{Type: job.EventAccepted, Job: job.ID{7}})
		}, code: job.BadEvent},
		"refuses after tokens": {jobs: func(l *liar, w io.Writer, o *job.Order) {
			l.send(w, accepted(o), l.chunk(o, 0, 20), job.Event{Type: job.EventRefused, Code: job.NoCredit})
		}, code: job.NoCredit, paid: 20},
		"fails with a code of its own": {jobs: func(l *liar, w io.Writer, o *job.Order) {
			l.send(w, accepted(o), l.chunk(o, 0, 3), job.Event{Type: job.EventFailed, Code: "bad-weather", Message: "it rains"})
		}, code: job.Failure},
		"signs with another key": {jobs: func(l *liar, w io.Writer, o *job.Order) {
			l.send(w, accepted(o), last(l.chunk(o, 0, 8), ghost.FinishStop), l.receipt(o, 8, secret(77), nil))
		}, code: job.WrongReceipt},
		"signs for more money": {jobs: func(l *liar, w io.Writer, o *job.Order) {
			l.send(w, accepted(o), last(l.chunk(o, 0, 8), ghost.FinishStop), l.receipt(o, 8, l.secret, func(r *ghost.Receipt) { r.Price++ }))
		}, code: job.WrongReceipt},
		"signs for fewer tokens": {jobs: func(l *liar, w io.Writer, o *job.Order) {
			l.send(w, accepted(o), last(l.chunk(o, 0, 8), ghost.FinishStop), l.receipt(o, 7, l.secret, nil))
		}, code: job.WrongReceipt},
		"signs for another request": {jobs: func(l *liar, w io.Writer, o *job.Order) {
			l.send(w, accepted(o), last(l.chunk(o, 0, 8), ghost.FinishStop), l.receipt(o, 8, l.secret, func(r *ghost.Receipt) { r.Request[0]++ }))
		}, code: job.WrongReceipt},
		"signs for tokens that never came": {jobs: func(l *liar, w io.Writer, o *job.Order) {
			l.send(w, accepted(o), l.receipt(o, 8, l.secret, nil))
		}, code: job.WrongReceipt},
		"sends elsewhere": {other: func(l *liar, w http.ResponseWriter, q *http.Request) bool {
			if q.Method != "POST" {
				return false
			}
			http.Redirect(w, q, honest.url+q.URL.Path, http.StatusTemporaryRedirect)
			return true
		}, code: job.Unreachable},
		"never answers a payment": {jobs: func(l *liar, w io.Writer, o *job.Order) {
			l.send(w, accepted(o), l.chunk(o, 0, 20))
			<-l.free
		}, other: func(l *liar, w http.ResponseWriter, q *http.Request) bool {
			if strings.HasSuffix(q.URL.Path, "/pay") {
				<-l.free
				return true
			}
			return false
		}, code: job.PaymentFailed, paid: 20},
		"lies about payments": {jobs: func(l *liar, w io.Writer, o *job.Order) {
			l.send(w, accepted(o), l.chunk(o, 0, 20))
			<-l.free
		}, other: func(l *liar, w http.ResponseWriter, q *http.Request) bool {
			if strings.HasSuffix(q.URL.Path, "/pay") {
				w.Header().Set("Content-Type", "application/octet-stream")
				w.Write(make([]byte, 512))
				return true
			}
			return false
		}, code: job.PaymentFailed, paid: 20},
	} {
		t.Run(name, func(t *testing.T) {
			l := newLiar(t, 9, honest)
			l.jobs = func(w io.Writer, o *job.Order) { c.jobs(l, w, o) }
			if c.other != nil {
				l.other = func(w http.ResponseWriter, q *http.Request) bool { return c.other(l, w, q) }
			}
			a, credit := askerOf(t, impatient, func() []*market.Ask { return []*market.Ask{l.ask, honest.ask} })
			q := question(48)
			q.Route.Order = []string{l.key().String(), honest.Key().String()}
			x, err := a.Ask(context.Background(), q)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := readAll(x); err != nil && c.paid == 0 {
				// Tokens that were passed on commit the answer to a lie that no
				// other provider goes on with.
				var e *dialog.Error
				if !errors.As(err, &e) {
					t.Fatal(err)
				}
			}
			entries := a.Entries(10)
			e := entries[len(entries)-1]
			if e.Provider != l.key().String() || e.Code != c.code && (c.code != job.BadEvent || e.Code != job.Stalled) { // a slow machine runs out of patience
				t.Errorf("the liar's entry: %+v", e)
			}
			if e.Tokens == 0 && (len(entries) != 2 || entries[0].Provider != honest.Key().String() || entries[0].Code != job.Done) {
				t.Errorf("the other provider's: %+v", entries)
			}
			worth := pay.MilliSat(0)
			if c.paid > 0 {
				if worth, err = (pay.Prices{Prompt: 900_000, Answer: 1_800_000}).Due(e.Prompt, c.paid); err != nil {
					t.Fatal(err)
				}
			}
			if owed := l.credit.Balance(a.Key()); owed > worth || -credit.Balance(l.key()) > worth {
				t.Errorf("%d and %d msat were paid, %d tokens are worth %d", owed, -credit.Balance(l.key()), c.paid, worth)
			}
			bad := 0
			for _, p := range a.Experience() {
				if p.Provider == l.key() && !p.OK {
					bad++
				}
			}
			if bad == 0 {
				t.Error("the liar is not marked")
			}
		})
	}
}

// askerOf makes an asker that sees some asks.
func askerOf(t testing.TB, change func(*Options), asks func() []*market.Ask) (*Asker, *pay.Credit) {
	t.Helper()
	key := secret(100 + byte(askers.Add(1)))
	j := pay.NewMemoryJournal()
	credit, err := pay.NewCredit(key, j, limits)
	if err != nil {
		t.Fatal(err)
	}
	o := Options{Secret: key, Rails: []pay.Rail{credit}, Journal: j, Dir: t.TempDir(), Log: testLog(t), Asks: asks}
	change(&o)
	a, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { a.Close() })
	return a, credit
}

// Proofs that are wrong, missing or huge fail the answer and mark the provider.
func TestHostileProofs(t *testing.T) {
	honest := newHouse(t, 1, nil)
	for name, proof := range map[string]func(w http.ResponseWriter){
		"wrong":   func(w http.ResponseWriter) { io.WriteString(w, "no proof at all") },
		"empty":   func(w http.ResponseWriter) {},
		"refused": func(w http.ResponseWriter) { w.WriteHeader(500) },
		"huge": func(w http.ResponseWriter) {
			for b := make([]byte, 1<<20); ; {
				if _, err := w.Write(b); err != nil {
					return
				}
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			l := newLiar(t, 9, honest)
			l.jobs = func(w io.Writer, o *job.Order) {
				e := l.chunk(o, 0, 8)
				e.Finish = ghost.FinishStop
				l.send(w, accepted(o), e, l.receipt(o, 8, l.secret, nil))
			}
			l.other = func(w http.ResponseWriter, q *http.Request) bool {
				if strings.HasSuffix(q.URL.Path, "/audit") {
					proof(w)
					return true
				}
				return false
			}
			a, _ := askerOf(t, impatient, func() []*market.Ask { return []*market.Ask{l.ask} })
			q := question(48)
			q.Verify = dialog.VerifyAudit
			x, err := a.Ask(context.Background(), q)
			if err != nil {
				t.Fatal(err)
			}
			var e *dialog.Error
			if _, err := readAll(x); !errors.As(err, &e) || e.Kind != dialog.Rejected {
				t.Errorf("%v", err)
			}
			if got := a.Entries(1); got[0].Verdict != "failed" {
				t.Errorf("%+v", got)
			}
			if _, err := a.Ask(context.Background(), question(48)); err == nil {
				t.Error("it is asked again")
			}
		})
	}
}

// Who shows other files than the model's id names is marked and passed over, also
// where nobody else offers that id.
func TestFakeModel(t *testing.T) {
	honest := newHouse(t, 1, nil)
	for name, give := range map[string]func(w http.ResponseWriter, q *http.Request){
		"another model": func(w http.ResponseWriter, q *http.Request) { io.WriteString(w, "ghost?") },
		"endless": func(w http.ResponseWriter, q *http.Request) {
			for b := make([]byte, 1<<20); ; {
				if _, err := w.Write(b); err != nil {
					return
				}
			}
		},
		"sent elsewhere": func(w http.ResponseWriter, q *http.Request) {
			http.Redirect(w, q, honest.url+q.URL.Path, http.StatusFound)
		},
	} {
		t.Run(name, func(t *testing.T) {
			l := newLiar(t, 9, honest)
			l.other = func(w http.ResponseWriter, q *http.Request) bool {
				if q.Method == "GET" {
					give(w, q)
					return true
				}
				return false
			}
			l.offer(ghost.ID{5}, 10_000)
			a, credit := askerOf(t, impatient, func() []*market.Ask { return []*market.Ask{l.ask, honest.ask} })
			x, err := a.Ask(context.Background(), question(20))
			if err != nil {
				t.Fatal(err)
			}
			if _, err := readAll(x); err != nil {
				t.Fatal(err)
			}
			if x.Served().Provider != honest.Key().String() || credit.Balance(l.key()) != 0 || l.posts.Load() != 0 {
				t.Errorf("%+v", x.Served())
			}
			marked := false
			for _, e := range a.Experience() {
				marked = marked || e.Provider == l.key() && !e.OK
			}
			if !marked {
				t.Error("the liar is not marked")
			}
		})
	}
}

// An asker that was killed after its payment was signed by the provider, and
// before it knew of that, agrees with it when they meet again.
func TestMeetAgain(t *testing.T) {
	var lose atomic.Bool
	h := newHouse(t, 1, func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
			if lose.Load() && strings.HasSuffix(q.URL.Path, "/pay") {
				next.ServeHTTP(httptest.NewRecorder(), q) // it counts, and nobody hears of it
				panic(http.ErrAbortHandler)
			}
			next.ServeHTTP(w, q)
		})
	})
	a, credit := newAsker(t, h)
	x, err := a.Ask(context.Background(), question(60))
	if err != nil {
		t.Fatal(err)
	}
	for range 3 {
		if _, err := x.Next(); err != nil {
			t.Fatal(err)
		}
	}
	lose.Store(true)
	wait := func(what string, is func() bool) {
		t.Helper()
		for deadline := time.Now().Add(20 * time.Second); !is(); time.Sleep(10 * time.Millisecond) {
			if time.Now().After(deadline) {
				t.Fatal(what)
			}
		}
	}
	wait("a payment arrives", func() bool { return h.credit.Balance(a.Key()) > -credit.Balance(h.Key()) })
	x.Close()
	a.Close()
	b, err := New(a.o)
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	lose.Store(false)
	if err := b.Start(); err != nil {
		t.Fatal(err)
	}
	wait("both agree", func() bool {
		return h.credit.Balance(a.Key()) == -credit.Balance(h.Key()) && credit.Balance(h.Key()) != 0
	})
}

// Many answers at once are one writer's journal and no race.
func TestManyAsks(t *testing.T) {
	h := newHouse(t, 1, nil)
	a, credit := newAsker(t, h)
	var work sync.WaitGroup
	var cost atomic.Int64
	for i := range 24 {
		work.Go(func() {
			q := question(20)
			q.ID = fmt.Sprint("q", i)
			for try := 0; ; try++ {
				x, err := a.Ask(context.Background(), q)
				if err == nil {
					if _, err = readAll(x); err == nil {
						cost.Add(x.Summary().Cost)
						return
					}
				}
				var e *dialog.Error
				if !errors.As(err, &e) || e.Kind != dialog.Overloaded && e.Kind != dialog.Unavailable && e.Kind != dialog.Mismatch || try > 2000 {
					t.Error(err)
					return
				}
				time.Sleep(5 * time.Millisecond)
			}
		})
	}
	work.Wait()
	if got := -credit.Balance(h.Key()); int64(got) != cost.Load() || h.credit.Balance(a.Key()) != got {
		t.Errorf("the answers cost %d, the balances are %d and %d", cost.Load(), got, h.credit.Balance(a.Key()))
	}
	for _, e := range a.Entries(1000) {
		if b, err := json.Marshal(e); err != nil || len(b) == 0 {
			t.Error(err)
		}
	}
}
