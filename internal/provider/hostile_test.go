package provider

import (
	"bufio"
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/geistnet/geist/audit"
	"github.com/geistnet/geist/ghost"
	"github.com/geistnet/geist/internal/job"
	"github.com/geistnet/geist/internal/pay"
	"github.com/geistnet/geist/merkle"
)

// worker is a model whose n-th token is 7n + 1. It counts what it does.
type worker struct {
	mu     sync.Mutex
	begun  []ghost.Key // clients, in the order of their turns
	made   atomic.Int64
	proved atomic.Int64
	gate   chan struct{} // not nil: each token waits for one message, or the end of the channel
}

type fakeStream struct {
	w   *worker
	ctx context.Context
	at  int
	end int
	err error
}

func tokenAt(n int) int32 { return int32(7*n + 1) }

func (w *worker) Begin(ctx context.Context, o *job.Order, tokens []int32) (Stream, error) {
	w.mu.Lock()
	w.begun = append(w.begun, o.Client)
	w.mu.Unlock()
	s := &fakeStream{w: w, ctx: ctx, at: len(tokens), end: o.Request.MaxTokens}
	for i, id := range tokens {
		if id != tokenAt(i) {
			s.err = refuse(job.ResumeDiffers, "")
		}
	}
	return s, nil
}

func (s *fakeStream) Next() (Token, bool) {
	if s.err != nil || s.at >= s.end || s.ctx.Err() != nil {
		return Token{}, false
	}
	if s.w.gate != nil {
		select {
		case <-s.w.gate:
		case <-s.ctx.Done():
			return Token{}, false
		}
	}
	s.w.made.Add(1)
	s.at++
	return Token{ID: tokenAt(s.at - 1)}, true
}

func (s *fakeStream) End() (ghost.Finish, error) {
	if s.ctx.Err() != nil {
		return ghost.FinishCancelled, nil
	}
	return ghost.FinishLength, s.err
}

func (w *worker) begins() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.begun)
}

func (w *worker) Seal(context.Context, *job.Order, []int32, Stream) (merkle.Hash, *ghost.Outline, error) {
	return merkle.Hash{1}, nil, nil
}

func (w *worker) Prove(context.Context, *audit.RunFile) ([]byte, error) {
	w.proved.Add(1)
	return []byte("proof"), nil
}

type fakeText struct{}

func (fakeText) Add(id int32) string { return fmt.Sprint(id, " ") }
func (fakeText) Flush() string       { return "" }

func (w *worker) Text() Text                                        { return fakeText{} }
func (w *worker) Embed(context.Context, []int32) ([]float32, error) { return []float32{1}, nil }
func (w *worker) Busy() float64                                     { return 0 }

func secret(n int) ghost.Secret {
	var s ghost.Secret
	s[31], s[30], s[0] = byte(n), byte(n>>8), 1
	return s
}

const (
	promptPrice = 3_000_000 // msat for a million tokens
	answerPrice = 5_000_000
	promptLen   = 10
	owes        = 5_000 // the limit of a key
)

// house is a provider with a fake model.
type house struct {
	*Provider
	t      testing.TB
	w      *worker
	j      *pay.Journal
	credit *pay.Credit
	url    string
}

func newHouse(t testing.TB, j *pay.Journal, change func(*Options)) *house {
	t.Helper()
	if j == nil {
		j = pay.NewMemoryJournal()
	}
	credit, err := pay.NewCredit(secret(1), j, func(ghost.Key) (give, take pay.MilliSat) { return owes, owes })
	if err != nil {
		t.Fatal(err)
	}
	o := Options{Secret: secret(1), Rails: []pay.Rail{credit}, Journal: j, Grace: job.Grace{Client: 200, Engine: 60_000}}
	if change != nil {
		change(&o)
	}
	p, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	h := &house{Provider: p, t: t, w: &worker{}, j: j, credit: credit}
	p.Serve(Model{ID: ghost.ID{1}, Name: "fake", Context: 4096, Grade: ghost.GhostAudited, Ghost: []byte("g"), Words: []byte("w"), Worker: h.w, Sessions: 2})
	p.Offer(Ask{ID: ghost.Digest{2}, Model: ghost.ID{1}, Prices: pay.Prices{Prompt: promptPrice, Answer: answerPrice}, Expires: time.Now().Add(time.Hour)})
	if err := p.Start(); err != nil {
		t.Fatal(err)
	}
	s := httptest.NewServer(p.Handler())
	h.url = s.URL
	t.Cleanup(func() {
		s.CloseClientConnections()
		p.Close()
		s.Close()
	})
	return h
}

// buyer is who orders.
type buyer struct {
	h      *house
	secret ghost.Secret
	credit *pay.Credit
}

func (h *house) client(n int) *buyer {
	credit, err := pay.NewCredit(secret(n), pay.NewMemoryJournal(), func(ghost.Key) (give, take pay.MilliSat) { return 1 << 40, 1 << 40 })
	if err != nil {
		h.t.Fatal(err)
	}
	return &buyer{h, secret(n), credit}
}

var auditNonce = ghost.Nonce{9}

// order wants n tokens.
func (c *buyer) order(n int, change func(*job.Order)) *job.Order {
	c.h.t.Helper()
	q := &ghost.Request{Prompt: make([]int32, promptLen), MaxTokens: n}
	q.Salt[0] = byte(orders.Add(1)) // no two are the same
	q.Salt[1] = byte(orders.Load() >> 8)
	o := &job.Order{Provider: c.h.Key(), Model: ghost.ID{1}, Ask: ghost.Digest{2}, Prices: pay.Prices{Prompt: promptPrice, Answer: answerPrice}, Rail: "credit",
		CreatedAt: time.Now().Unix(), Request: q, SeedNonce: ghost.Nonce{8}, Audit: ghost.CommitAudit(auditNonce)}
	if change != nil {
		change(o)
	}
	if err := o.Sign(c.secret); err != nil {
		c.h.t.Fatal(err)
	}
	return o
}

var orders atomic.Int32

// stream is the events of a connection.
type stream struct {
	t      testing.TB
	body   io.Closer
	lines  *bufio.Scanner
	tokens int // delivered on it
	last   *job.Event
}

func (h *house) post(o *job.Order) *stream {
	h.t.Helper()
	b, err := o.Encode()
	if err != nil {
		h.t.Fatal(err)
	}
	return h.postBytes(b)
}

func (h *house) postBytes(b []byte) *stream {
	h.t.Helper()
	w, err := http.Post(h.url+"/geist/v1/jobs", "application/json", bytes.NewReader(b))
	if err != nil {
		h.t.Fatal(err)
	}
	h.t.Cleanup(func() { w.Body.Close() })
	s := &stream{t: h.t, body: w.Body, lines: bufio.NewScanner(w.Body)}
	s.lines.Buffer(nil, job.MaxEventBytes)
	return s
}

// next is the next event; nil: the stream ended.
func (s *stream) next() *job.Event {
	s.t.Helper()
	for s.lines.Scan() {
		e, err := job.ParseEvent(s.lines.Bytes())
		if err != nil {
			s.t.Fatal(err)
		}
		if e.Type == job.EventAlive {
			continue
		}
		s.tokens += len(e.Tokens)
		s.last = e
		return e
	}
	return nil
}

// until reads to the end.
func (s *stream) end() *job.Event {
	s.t.Helper()
	for s.next() != nil {
	}
	return s.last
}

// read takes n tokens.
func (s *stream) read(n int) {
	s.t.Helper()
	for s.tokens < n {
		if e := s.next(); e == nil || e.Type == job.EventFailed || e.Type == job.EventRefused {
			s.t.Fatalf("after %d of %d tokens: %+v", s.tokens, n, e)
		}
	}
}

func (c *buyer) post(path string, body []byte) (status int, answer []byte) {
	c.h.t.Helper()
	w, err := http.Post(c.h.url+path, "application/octet-stream", bytes.NewReader(body))
	if err != nil {
		c.h.t.Fatal(err)
	}
	defer w.Body.Close()
	b, err := io.ReadAll(w.Body)
	if err != nil {
		c.h.t.Fatal(err)
	}
	return w.StatusCode, b
}

// pay promises total for an order.
func (c *buyer) pay(o *job.Order, total pay.MilliSat) int {
	c.h.t.Helper()
	opening, err := o.Terms().Opening(o.ID(), o.Provider)
	if err != nil {
		c.h.t.Fatal(err)
	}
	opening.Most = pay.MaxAmount // of an honest payer it would be less
	payer, err := c.credit.Pay(context.Background(), opening)
	if err != nil {
		c.h.t.Fatal(err)
	}
	m, err := payer.Pay(context.Background(), total)
	if err != nil {
		c.h.t.Fatal(err)
	}
	id := o.ID()
	status, answer := c.post("/geist/v1/jobs/"+hex.EncodeToString(id[:])+"/pay", m)
	if status == http.StatusOK {
		if err := payer.Answer(context.Background(), answer); err != nil {
			c.h.t.Fatal(err)
		}
	}
	return status
}

func due(t testing.TB, o *job.Order, n int) pay.MilliSat {
	t.Helper()
	d, err := o.Terms().Due(n)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// all takes a whole answer and pays for it.
func (c *buyer) all(o *job.Order) *ghost.Receipt {
	c.h.t.Helper()
	s := c.h.post(o)
	var receipt *ghost.Receipt
	paid := 0
	for {
		e := s.next()
		switch {
		case e == nil:
			if receipt == nil {
				c.h.t.Fatalf("no receipt; last came %+v", s.last)
			}
			return receipt
		case e.Type == job.EventRefused || e.Type == job.EventFailed:
			c.h.t.Fatalf("%+v", e)
		case e.Type == job.EventReceipt:
			receipt = e.Receipt
			if n := len(o.Resume) + s.tokens; n > paid {
				c.pay(o, due(c.h.t, o, n))
			}
		case s.tokens >= paid+job.PayAt:
			paid = s.tokens
			c.pay(o, due(c.h.t, o, len(o.Resume)+paid))
		}
	}
}

// wait lets something come true.
func wait(t testing.TB, what string, is func() bool) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !is(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("it did not come to this: " + what)
		}
	}
}

func (h *house) running() int { return h.Load(ghost.ID{1}).Running }

// Who never pays gets the window. The engine stops, and the place is free again.
func TestNeverPays(t *testing.T) {
	h := newHouse(t, nil, nil)
	c := h.client(50)
	o := c.order(500, nil)
	s := h.post(o)
	e := s.end()
	if s.tokens != job.Window || e.Type != job.EventFailed || e.Code != job.Unpaid {
		t.Errorf("%d tokens, then %+v", s.tokens, e)
	}
	if n := h.w.made.Load(); n > 2*job.Window {
		t.Errorf("%d tokens were computed", n)
	}
	wait(t, "the place is free", func() bool { return h.running() == 0 })
	if lost := owes - h.credit.Room(o.Client); lost != due(t, o, job.Window) {
		t.Errorf("%d msat are owed, the prompt and the window come to %d", lost, due(t, o, job.Window))
	}
	// Nor does it get more by coming back.
	if s := h.post(o); s.end().Type != job.EventFailed || s.tokens > job.Window {
		t.Errorf("%d more tokens, %+v", s.tokens, s.last)
	}
}

// Who pays too little gets as much more, who pays too much is refused, who pays
// late pays its debt.
func TestPaysTooLittle(t *testing.T) {
	h := newHouse(t, nil, nil)
	c := h.client(50)
	o := c.order(500, nil)
	s := h.post(o)
	s.read(job.Window)
	if got := c.pay(o, due(t, o, 10)); got != 200 {
		t.Fatal(got)
	}
	if s.end(); s.tokens != job.Window+10 {
		t.Errorf("%d tokens for the price of 10", s.tokens)
	}
	owed := due(t, o, job.Window+10)
	wait(t, "the job ends", func() bool { return h.running() == 0 })
	if lost := owes - h.credit.Room(o.Client); lost != owed {
		t.Errorf("%d msat are owed or paid by promise, not %d", lost, owed)
	}
	if got := c.pay(o, owed); got != 200 {
		t.Errorf("a late payment: status %d", got)
	}
	if got := h.credit.Balance(o.Client); got != owed {
		t.Errorf("the balance is %d, not %d", got, owed)
	}
	if got := c.pay(o, owed+owes); got != http.StatusConflict {
		t.Errorf("more than may be owed was taken: status %d", got)
	}
	if got := h.credit.Balance(o.Client); got != owed {
		t.Errorf("the balance is %d, not %d", got, owed)
	}
}

// An order counts once, also after a restart.
func TestReplayedOrder(t *testing.T) {
	j := pay.NewMemoryJournal()
	h := newHouse(t, j, nil)
	c := h.client(50)
	o := c.order(40, nil)
	r := c.all(o)
	if s := h.post(o); s.end().Type != job.EventReceipt || s.last.Receipt.ID() != r.ID() || s.tokens != 40 {
		t.Errorf("the order again: %d tokens, %+v", s.tokens, s.last)
	}
	quit := c.order(40, nil)
	h.w.gate = make(chan struct{})
	s := h.post(quit)
	s.next()
	c.cancel(quit, c.secret)
	s.end()
	if n := h.w.begins(); n != 2 {
		t.Fatalf("%d answers were begun", n)
	}
	h.Close()

	h = newHouse(t, j, nil)
	if s := h.post(o); s.end() == nil || s.last.Type != job.EventReceipt || s.last.Receipt.ID() != r.ID() || s.tokens != 40 {
		t.Errorf("the order after a restart: %d tokens, %+v", s.tokens, s.last)
	}
	if s := h.post(quit); s.end() == nil || s.last.Type != job.EventRefused || s.last.Code != job.Cancelled {
		t.Errorf("a cancelled order after a restart: %+v", s.last)
	}
	if b := h.j.Get(recordKey(quit.ID())); len(b) == 0 || len(b) > 200 {
		t.Errorf("%d bytes are kept of an order that came to nothing", len(b))
	}
	if n := h.w.begins(); n != 0 {
		t.Errorf("%d answers were computed again", n)
	}
	if got := h.Totals(); got.Jobs != 0 || got.Earned != 0 {
		t.Errorf("what ended before is counted again: %+v", got)
	}
	old := c.order(40, func(o *job.Order) { o.CreatedAt -= job.MaxSkew + 5 })
	if s := h.post(old); s.end().Code != job.TooOld {
		t.Errorf("%+v", s.last)
	}
}

// cancel deletes a job with a signature.
func (c *buyer) cancel(o *job.Order, by ghost.Secret) int {
	c.h.t.Helper()
	id := o.ID()
	sig, err := job.SignCancel(by, id)
	if err != nil {
		c.h.t.Fatal(err)
	}
	q, err := http.NewRequest("DELETE", c.h.url+"/geist/v1/jobs/"+hex.EncodeToString(id[:]), nil)
	if err != nil {
		c.h.t.Fatal(err)
	}
	q.Header.Set("Geist-Cancel", sig)
	w, err := http.DefaultClient.Do(q)
	if err != nil {
		c.h.t.Fatal(err)
	}
	w.Body.Close()
	return w.StatusCode
}

// Orders that contradict the offer cost nothing: no work, no credit, no journal.
func TestWrongOrders(t *testing.T) {
	h := newHouse(t, nil, nil)
	c := h.client(50)
	for name, x := range map[string]struct {
		change func(*job.Order)
		code   job.Code
	}{
		"prices":         {func(o *job.Order) { o.Prices.Answer-- }, job.PricesDiffer},
		"ask":            {func(o *job.Order) { o.Ask[0]++ }, job.UnknownAsk},
		"model":          {func(o *job.Order) { o.Model[0]++ }, job.UnknownModel},
		"rail":           {func(o *job.Order) { o.Rail = "gold" }, job.UnknownRail},
		"provider":       {func(o *job.Order) { o.Provider, _ = secret(3).Public() }, job.UnknownAsk},
		"future":         {func(o *job.Order) { o.CreatedAt += job.MaxSkew + 5 }, job.TooOld},
		"long":           {func(o *job.Order) { o.Request.MaxTokens = 5000 }, job.TooLong},
		"costly":         {func(o *job.Order) { o.Request.Prompt = make([]int32, 3000) }, job.NoCredit},
		"foreign tokens": {func(o *job.Order) { o.Resume = []int32{5} }, job.ResumeDiffers},
	} {
		if s := h.post(c.order(100, x.change)); s.end() == nil || s.last.Type != job.EventRefused || s.last.Code != x.code {
			t.Errorf("%s: %+v", name, s.last)
		}
	}
	good, err := c.order(100, nil).Encode()
	if err != nil {
		t.Fatal(err)
	}
	for name, b := range map[string][]byte{
		"signature": bytes.Replace(good, []byte(`"created_at":1`), []byte(`"created_at":2`), 1),
		"members":   bytes.Replace(good, []byte(`{"job"`), []byte(`{"more":1,"job"`), 1),
		"nothing":   nil,
		"no JSON":   []byte("hello"),
		"too long":  bytes.Repeat([]byte(" "), job.MaxOrderBytes+1),
	} {
		if s := h.postBytes(b); s.end() == nil || s.last.Code != job.BadOrder {
			t.Errorf("%s: %+v", name, s.last)
		}
	}
	if n := h.w.begins(); n != 1 { // only the foreign tokens were read
		t.Errorf("%d answers were begun", n)
	}
	kept := 0
	for range h.j.All("") {
		kept++
	}
	if k, _ := c.secret.Public(); kept > 1 || h.credit.Room(k) != owes {
		t.Errorf("%d things are kept, the room is %d", kept, h.credit.Room(k))
	}
}

// Slow bodies hold a bounded number of places, and give them back.
func TestSlowBodies(t *testing.T) {
	h := newHouse(t, nil, nil)
	h.bodies = make(chan struct{}, 3)
	c := h.client(50)
	var slow []net.Conn
	for range 3 {
		n, err := net.Dial("tcp", strings.TrimPrefix(h.url, "http://"))
		if err != nil {
			t.Fatal(err)
		}
		defer n.Close()
		io.WriteString(n, "POST /geist/v1/jobs HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\n{")
		slow = append(slow, n)
	}
	wait(t, "three bodies are read", func() bool { return len(h.bodies) == 3 })
	if s := h.post(c.order(5, nil)); s.end().Code != job.Busy || s.last.Retry == 0 {
		t.Errorf("%+v", s.last)
	}
	slow[0].Close()
	wait(t, "one gives up", func() bool { return len(h.bodies) == 2 })
	c.all(c.order(5, nil))

	h.huge = make(chan struct{}, 1)
	h.huge <- struct{}{}
	if s := h.post(c.order(5, func(o *job.Order) {
		o.Request.Stop = slices.Repeat([]string{strings.Repeat("x", 1000)}, 60)
		o.Request.Sampling.Bias = bias(60000)
	})); s.end().Code != job.Busy {
		t.Errorf("%+v", s.last)
	}
}

func bias(n int) map[int32]float32 {
	m := map[int32]float32{}
	for i := range n {
		m[int32(i)] = 1
	}
	return m
}

// stuck is a connection whose reader does not read.
type stuck struct {
	http.ResponseWriter
	free chan struct{}
}

func (s *stuck) Write(b []byte) (int, error) { <-s.free; return len(b), nil }
func (s *stuck) FlushError() error           { return nil }

// Who does not read loses the connection, not the job; and holds no lock.
func TestSlowReader(t *testing.T) {
	h := newHouse(t, nil, func(o *Options) { o.Grace.Client = 60_000 })
	c := h.client(50)
	o := c.order(300, nil)
	b, err := o.Encode()
	if err != nil {
		t.Fatal(err)
	}
	w := &stuck{httptest.NewRecorder(), make(chan struct{})}
	left := make(chan struct{})
	go func() {
		defer close(left)
		h.Handler().ServeHTTP(w, httptest.NewRequest("POST", "/geist/v1/jobs", bytes.NewReader(b)))
	}()
	wait(t, "the job begins", func() bool { return h.w.made.Load() > 0 })
	for n := job.PayAt; n <= 300; n += job.PayAt { // it pays blindly
		wait(t, "tokens", func() bool { return h.w.made.Load() >= int64(n) })
		c.pay(o, due(t, o, n))
	}
	s := h.post(o) // and joins anew
	for s.tokens < 300 {
		if e := s.next(); e == nil || e.Type == job.EventFailed {
			t.Fatalf("%d tokens, %+v", s.tokens, e)
		}
	}
	c.pay(o, due(t, o, 300))
	if s.end().Type != job.EventReceipt {
		t.Errorf("%+v", s.last)
	}
	close(w.free)
	<-left
}

// A thousand connections to one job are one job.
func TestManyJoins(t *testing.T) {
	h := newHouse(t, nil, func(o *Options) { o.Grace.Client = 60_000 })
	c := h.client(50)
	o := c.order(60, nil)
	h.w.gate = make(chan struct{})
	b, err := o.Encode()
	if err != nil {
		t.Fatal(err)
	}
	s := h.post(o)
	s.next()
	before := runtime.NumGoroutine()
	var work sync.WaitGroup
	places := make(chan struct{}, 50)
	tr := &http.Transport{MaxIdleConnsPerHost: 50}
	for range 1000 {
		places <- struct{}{}
		work.Go(func() {
			defer func() { <-places }()
			w, err := (&http.Client{Transport: tr}).Post(h.url+"/geist/v1/jobs", "application/json", bytes.NewReader(b))
			if err != nil {
				t.Error(err)
				return
			}
			io.CopyN(io.Discard, w.Body, 20) // "accepted", or what is left of it
			w.Body.Close()
		})
	}
	work.Wait()
	tr.CloseIdleConnections()
	close(h.w.gate)
	c.all(o)
	if n := h.w.begins(); n != 1 {
		t.Errorf("%d answers were begun", n)
	}
	wait(t, "the connections are gone", func() bool { return runtime.NumGoroutine() < before+20 })
}

// Only the client cancels.
func TestForgedCancel(t *testing.T) {
	h := newHouse(t, nil, nil)
	c := h.client(50)
	o := c.order(20, nil)
	h.w.gate = make(chan struct{})
	s := h.post(o)
	s.next()
	if got := c.cancel(o, secret(51)); got != http.StatusBadRequest {
		t.Errorf("another's signature: status %d", got)
	}
	if got := c.cancel(c.order(1, nil), c.secret); got != http.StatusNotFound {
		t.Errorf("no job: status %d", got)
	}
	close(h.w.gate)
	if s.end().Type != job.EventReceipt || s.tokens != 20 {
		t.Errorf("%d tokens, %+v", s.tokens, s.last)
	}
}

// Audits are for the client, after the receipt, of a bounded size and number.
func TestAuditAbuse(t *testing.T) {
	j := pay.NewMemoryJournal()
	h := newHouse(t, j, nil)
	c := h.client(50)
	o := c.order(5, nil)
	id := o.ID()
	demand := func(nonce ghost.Nonce, size audit.Size) (int, job.Code) {
		status, b := c.post("/geist/v1/jobs/"+hex.EncodeToString(id[:])+"/audit", job.AuditCall{Nonce: nonce, Size: size}.Encode())
		e, err := job.ParseEvent(b)
		if err != nil {
			return status, ""
		}
		return status, e.Code
	}
	h.w.gate = make(chan struct{})
	s := h.post(o)
	s.next()
	if _, got := demand(auditNonce, audit.Standard); got != job.NotYet {
		t.Errorf("before the receipt: %q", got)
	}
	close(h.w.gate)
	receipt := c.all(o)
	if _, got := demand(ghost.Nonce{3}, audit.Standard); got != job.BadOrder {
		t.Errorf("with another nonce: %q", got)
	}
	if _, got := demand(auditNonce, audit.Size{Cells: 100_000}); got != job.BadOrder {
		t.Errorf("of 100000 cells: %q", got)
	}
	for range 5 {
		if got, _ := demand(auditNonce, audit.Standard); got != 200 {
			t.Fatalf("status %d", got)
		}
	}
	h.Close()
	h = newHouse(t, j, nil)
	c.h = h
	n := 0
	for range 12 {
		if got, _ := demand(auditNonce, audit.Standard); got == 200 {
			n++
		}
	}
	if n != 3 || h.w.proved.Load() != 3 {
		t.Errorf("%d proofs after 5, of 8", n)
	}
	// Anybody may have runs proved, but not many.
	f := audit.RunFile{Receipt: receipt, Request: o.Request, Answer: []int32{1, 8, 15, 22, 29}, SeedNonce: o.SeedNonce, AuditNonce: auditNonce, Size: audit.Standard}
	b, err := f.Encode()
	if err != nil {
		t.Fatal(err)
	}
	made := 0
	for range 30 {
		if status, _ := c.post("/geist/v1/prove", b); status == 200 {
			made++
		} else if status != http.StatusServiceUnavailable {
			t.Errorf("status %d", status)
		}
	}
	if made < 1 || made > maxProves+1 {
		t.Errorf("%d proofs of 30 were made for anybody", made)
	}
	if status, _ := c.post("/geist/v1/prove", bytes.Repeat([]byte("x"), 1000)); status != http.StatusBadRequest {
		t.Errorf("no run: status %d", status)
	}
}

// Prompts are read without charge a few times for a key, and for all new keys
// together.
func TestResumeQuota(t *testing.T) {
	clock := time.Now()
	var mu sync.Mutex
	h := newHouse(t, nil, func(o *Options) {
		o.FreeReads = 2
		o.Now = func() time.Time { mu.Lock(); defer mu.Unlock(); return clock }
	})
	resumed := func(o *job.Order) { o.Resume = []int32{tokenAt(0), tokenAt(1)} }
	c := h.client(50)
	for range 2 {
		c.all(c.order(5, resumed))
	}
	if s := h.post(c.order(5, resumed)); s.end().Code != job.ResumeQuota {
		t.Errorf("%+v", s.last)
	}
	for range 8 { // what is paid for earns more
		c.all(c.order(1, nil))
	}
	c.all(c.order(5, resumed))

	wait(t, "they are over", func() bool { return h.running() == 0 })
	h.w.gate = make(chan struct{})
	reads, keys := 0, 0
	for n := 100; n < 130; n++ {
		x := h.client(n)
		keys++
		for range 2 {
			o := x.order(200, resumed)
			s := h.post(o)
			if e := s.next(); e.Type == job.EventAccepted {
				reads++
				x.cancel(o, x.secret)
			}
			s.end()
		}
	}
	if reads > 32 {
		t.Errorf("%d prompts were read for %d keys that never paid", reads, keys)
	}
	mu.Lock()
	clock = clock.Add(10 * forgive)
	mu.Unlock()
	c.h.t = t
	o := h.client(140).order(5, func(o *job.Order) { resumed(o); o.CreatedAt = clock.Unix() })
	if s := h.post(o); s.next().Type != job.EventAccepted {
		t.Errorf("after a while: %+v", s.last)
	}
}

// Who orders and leaves before the first token, again and again, is known for it.
func TestPromptsForNothing(t *testing.T) {
	h := newHouse(t, nil, nil)
	h.w.gate = make(chan struct{})
	c := h.client(50)
	n := 0
	for ; n < 40; n++ {
		o := c.order(100, nil)
		s := h.post(o)
		if e := s.next(); e.Type != job.EventAccepted {
			if e.Code != job.ResumeQuota {
				t.Errorf("%+v", e)
			}
			break
		}
		wait(t, "the prompt is read", func() bool { return h.w.begins() == n+1 })
		c.cancel(o, c.secret)
		s.end()
		wait(t, "it ends", func() bool { return h.running() == 0 })
	}
	if n != 16 {
		t.Errorf("%d prompts were read for nothing", n)
	}
}

// A key owes no more than its limit, and all new keys together no more than theirs.
func TestExposure(t *testing.T) {
	h := newHouse(t, nil, nil)
	friend, err := secret(60).Public()
	if err != nil {
		t.Fatal(err)
	}
	const together = 3 * owes
	h.credit.Newcomers(together, func(k ghost.Key) bool { return k == friend })
	h.Serve(Model{ID: ghost.ID{1}, Name: "fake", Context: 4096, Grade: ghost.GhostAudited, Worker: h.w, Sessions: 200})
	var work sync.WaitGroup
	for n := 200; n < 240; n++ {
		c := h.client(n)
		for range 4 {
			o := c.order(2000, nil)
			work.Go(func() { h.post(o).end() })
		}
	}
	work.Wait()
	lost := pay.MilliSat(0)
	for n := 200; n < 240; n++ {
		k, err := secret(n).Public()
		if err != nil {
			t.Fatal(err)
		}
		held := h.credit.Statement(k).Held
		if held > owes {
			t.Errorf("a key owes %d", held)
		}
		lost += held
	}
	if lost > together || lost < together/2 {
		t.Errorf("40 new keys took %d msat; %d were to be risked", lost, together)
	}
	h.client(60).all(h.client(60).order(40, nil))
}

// One client with many requests does not starve another.
func TestTurns(t *testing.T) {
	h := newHouse(t, nil, func(o *Options) { o.PerClient, o.Grace.Client = 60, 60_000 })
	h.w.gate = make(chan struct{})
	a, b := h.client(50), h.client(51)
	var work sync.WaitGroup
	give := func(c *buyer, n int) {
		for range n {
			o := c.order(1, nil)
			work.Go(func() { c.all(o) })
		}
	}
	give(a, 50)
	wait(t, "fifty wait", func() bool { return h.Load(ghost.ID{1}).Waiting == 48 })
	give(b, 2)
	wait(t, "two more wait", func() bool { return h.Load(ghost.ID{1}).Waiting == 50 })
	close(h.w.gate)
	work.Wait()
	kb, err := b.secret.Public()
	if err != nil {
		t.Fatal(err)
	}
	last := 0
	for i, k := range h.w.begun {
		if k == kb {
			last = i
		}
	}
	if last == 0 || last > 8 {
		t.Errorf("the other client's requests were over at place %d of %d", last, len(h.w.begun))
	}
}

// Many jobs leave nothing behind but their accounts.
func TestManyJobs(t *testing.T) {
	h := newHouse(t, nil, nil)
	h.credit.Newcomers(1<<40, func(ghost.Key) bool { return false })
	measure := func() (int, uint64) {
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return runtime.NumGoroutine(), m.HeapAlloc
	}
	var g1 int
	var m1 uint64
	var clients []*buyer
	for n := range 50 {
		clients = append(clients, h.client(1000+n))
	}
	for n := range 500 {
		if n == 100 {
			g1, m1 = measure()
		}
		c := clients[n%50]
		c.all(c.order(2, func(o *job.Order) { o.Resume = nil }))
	}
	wait(t, "the jobs are over", func() bool { return h.running() == 0 })
	g2, m2 := measure()
	t.Logf("%d goroutines and %d KiB after 100 jobs, %d and %d after 500", g1, m1>>10, g2, m2>>10)
	if g2 > g1+20 {
		t.Errorf("%d goroutines after 100 jobs, %d after 500", g1, g2)
	}
	if m2 > m1+8<<20 {
		t.Errorf("%d bytes after 100 jobs, %d after 500", m1, m2)
	}
	if n := len(h.runs); n > maxLinger {
		t.Errorf("%d runs are kept", n)
	}
}

// Drain refuses what is new, lets what runs end, and Close leaves nothing.
func TestDrain(t *testing.T) {
	h := newHouse(t, nil, nil)
	h.w.gate = make(chan struct{})
	c := h.client(50)
	o := c.order(20, nil)
	done := make(chan struct{})
	go func() { defer close(done); c.all(o) }()
	wait(t, "it runs", func() bool { return h.w.begins() == 1 })
	drained := make(chan error, 1)
	go func() { drained <- h.Drain(context.Background()) }()
	wait(t, "it drains", func() bool {
		s := h.post(c.order(5, nil))
		return s.end().Code == job.Draining
	})
	select {
	case err := <-drained:
		t.Errorf("it did not wait: %v", err)
	default:
	}
	close(h.w.gate)
	<-done
	if err := <-drained; err != nil {
		t.Error(err)
	}
	h.Close()
	if s := h.post(c.order(5, nil)); s.end().Code != job.Draining {
		t.Errorf("%+v", s.last)
	}
	ctx, stop := context.WithTimeout(context.Background(), time.Second)
	defer stop()
	if err := h.Drain(ctx); err != nil && !errors.Is(err, context.DeadlineExceeded) {
		t.Error(err)
	}
}
