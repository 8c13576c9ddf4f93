package provider

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/geistnet/geist/arith"
	"github.com/geistnet/geist/ghost"
	"github.com/geistnet/geist/internal/job"
	"github.com/geistnet/geist/internal/pay"
)

// linger is how long an ended run stays in memory, for a last payment and for
// clients that connect again.
const linger = 5 * time.Minute

// maxLinger is how many runs linger: the oldest go, and come from the journal if
// they are asked for.
const maxLinger = 64

// run is one job. Its goroutine (loop) owns everything but what is said otherwise.
type run struct {
	p     *Provider
	order *job.Order
	id    job.ID
	model *served
	rail  pay.Rail

	ready chan struct{} // closed when payee is there, or err says why there is none
	err   error
	inbox chan any      // of loop: job.ProviderInput, computed, joining, *conn, or func()
	seat  chan struct{} // there is a place; one message at most
	done  chan struct{}
	bye   chan struct{} // closed: it lingers no longer
	again bool          // it was taken up from the journal

	seated bool        // Provider.mu
	endAt  time.Time   // Provider.mu; zero: not in this process
	opened atomic.Bool // a proof was given out

	m       job.Provider
	payee   pay.Payee
	conn    *conn
	text    Text
	texts   []string         // of each token that the machine has
	tail    *string          // bytes at the end of the answer that make no whole character
	probs   []*job.TokenProb // of tokens that this process computed, if they are wanted
	audits  int              // proofs that were demanded
	stream  Stream
	stop    context.CancelFunc // of the stream
	until   chan int           // how far the engine may go
	sealed  *sealed
	final   bool // the machine has ended
	counted bool // ended was called
	begun   time.Time
	seatAt  time.Time
	firstAt time.Time
}

// joining is a new connection.
type joining struct {
	c    *conn
	from int
}

// computed is a token of the engine.
type computed struct {
	n int
	t Token
}

// sealed is what Worker.Seal gave for the signed answer.
type sealed struct {
	outline *ghost.Outline
}

// conn is one HTTP response. The run writes to events until it closes gone.
type conn struct {
	events chan []byte   // lines
	gone   chan struct{} // closed by the run: nothing more comes
}

// record is what the journal keeps of a job.
type record struct {
	Order  json.RawMessage `json:"order,omitempty"` // absent: it ended with Code before a token, and only the id counts
	State  json.RawMessage `json:"state,omitempty"`
	Final  bool            `json:"final"`
	Code   job.Code        `json:"code,omitempty"`
	Audits int             `json:"audits,omitempty"`
	At     int64           `json:"at"` // when it was written, Unix seconds
}

const recordPrefix = "job/take/"

func recordKey(id job.ID) string { return recordPrefix + hex.EncodeToString(id[:]) }

// give puts something into the inbox, unless the run is over.
func (r *run) give(x any) {
	select {
	case r.inbox <- x:
	case <-r.done:
	}
}

func (r *run) now() job.Time { return job.Time(r.p.o.Now().UnixMilli()) }

// add makes a run of an order and counts it. p.mu is held; start must follow
// without it.
func (p *Provider) add(o *job.Order, m job.Provider, model *served, rail pay.Rail) *run {
	r := &run{p: p, order: o, id: o.ID(), model: model, rail: rail, m: m, begun: p.o.Now(), ready: make(chan struct{}), inbox: make(chan any, 64), seat: make(chan struct{}, 1), done: make(chan struct{}), bye: make(chan struct{}), until: make(chan int, 1)}
	p.runs[r.id] = r
	p.work.Add(1)
	if r.final = m.Phase().Final(); r.final {
		r.counted = true // when it ended
		return r
	}
	p.running++
	p.clientOf(o.Client).active++
	return r
}

// start opens the session of a run and lets it loop. It waits for disks.
func (p *Provider) start(r *run) error {
	defer close(r.ready)
	opening, err := r.order.Terms().Opening(r.id, r.order.Client)
	if err == nil {
		r.payee, err = r.rail.Take(p.ctx, opening)
	}
	if err != nil {
		r.err = err
		p.mu.Lock()
		delete(p.runs, r.id)
		if !r.counted {
			p.rested()
			p.clientOf(r.order.Client).active--
		}
		p.mu.Unlock()
		close(r.done)
		p.work.Done()
		return err
	}
	r.text = r.model.Worker.Text()
	if !r.final {
		p.mu.Lock()
		p.seat(r)
		p.mu.Unlock()
	}
	go r.loop()
	return nil
}

func (r *run) loop() {
	defer r.p.work.Done()
	defer r.over()
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	if r.again {
		r.step(job.ProviderRestarted{Paid: r.payee.Paid()})
	}
	var end <-chan time.Time
	for {
		if r.final && end == nil {
			r.p.linger(r) // before it counts as ended: Drain looks for it
			r.p.ended(r)
			end = time.After(linger)
		}
		select {
		case x := <-r.inbox:
			switch x := x.(type) {
			case joining:
				r.drop()
				r.conn = x.c
				r.step(job.Joined{From: x.from})
				if r.final {
					r.drop()
				}
			case *conn: // it ended
				if r.conn == x {
					r.drop()
					r.step(job.Left{})
				}
			case func():
				x()
			case computed:
				if r.order.LogProbs != nil && x.t.Prob != nil {
					r.probs = append(r.probs, make([]*job.TokenProb, max(0, x.n+1-len(r.probs)))...)
					r.probs[x.n] = x.t.Prob
				}
				if r.firstAt.IsZero() {
					r.firstAt = r.p.o.Now()
				}
				r.step(job.Computed{N: x.n, Tokens: []int32{x.t.ID}})
			case job.ProviderInput:
				r.step(x)
			}
		case <-r.seat:
			if r.final {
				r.p.leave(r)
				break
			}
			r.seatAt = r.p.o.Now()
			if !r.again {
				r.step(job.Admitted{})
			}
		case <-tick.C:
			if r.final {
				tick.Stop()
				break
			}
			r.step(job.Tick{})
		case <-end:
			return
		case <-r.bye:
			return
		case <-r.p.ctx.Done():
			return
		}
	}
}

// linger keeps an ended run for a while, and lets the oldest go.
func (p *Provider) linger(r *run) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !r.again {
		r.endAt = p.o.Now()
	}
	if p.lingering = append(p.lingering, r); len(p.lingering) > maxLinger {
		close(p.lingering[0].bye)
		p.lingering = slices.Delete(p.lingering, 0, 1)
	}
}

// over gives everything back.
func (r *run) over() {
	close(r.done)
	r.drop()
	r.halt()
	r.p.ended(r)
	r.p.leave(r)
	r.p.mu.Lock()
	if i := slices.Index(r.p.lingering, r); i >= 0 {
		r.p.lingering = slices.Delete(r.p.lingering, i, i+1)
	}
	delete(r.p.runs, r.id)
	r.p.mu.Unlock()
}

// ended counts a run, once, when its machine has ended or the process does.
func (p *Provider) ended(r *run) {
	if r.counted {
		return
	}
	r.counted = true
	p.leave(r)
	p.mu.Lock()
	c := p.clientOf(r.order.Client)
	c.active--
	t := &p.totals
	t.Jobs++
	fresh := len(r.m.Tokens()) - len(r.order.Resume)
	switch r.m.Phase() {
	case job.PhaseSettled, job.PhaseAudited:
		t.Settled++
		c.paid++
	case job.PhaseRefused:
		t.Refused++
	case job.PhaseFailed:
		t.Failed++
	}
	if r.m.Sent() == 0 && r.stream != nil && len(r.order.Resume) == 0 && r.m.Phase().Final() {
		switch r.m.Code() {
		case job.Cancelled, job.ClientGone, job.Unpaid:
			p.gift(c)
		}
	}
	p.rested()
	if r.m.Phase() != job.PhaseRefused {
		t.AnswerTokens += int64(fresh)
		t.PromptTokens += int64(r.order.Terms().Prompt)
	}
	t.Earned += r.m.Paid()
	now := p.o.Now()
	prune := now.Sub(p.pruned) >= pruneEvery && !p.closed
	if prune {
		p.pruned = now
	}
	p.mu.Unlock()
	if prune {
		p.work.Go(p.prune)
	}
	h := Happening{Model: r.model.ID, Name: r.model.Name, Code: r.m.Code(), Phase: r.m.Phase(), Tokens: fresh, Prompt: len(r.order.Request.Prompt), Paid: r.m.Paid(), Took: now.Sub(r.begun)}
	if !r.seatAt.IsZero() {
		h.Wait = r.seatAt.Sub(r.begun)
		if !r.firstAt.IsZero() {
			h.First = r.firstAt.Sub(r.begun)
		}
	}
	p.o.Watch(h)
	p.o.Log.Info("job ended", "job", r.id.String(), "client", r.order.Client.String(), "model", r.model.Name, "phase", string(h.Phase), "code", string(h.Code),
		"prompt", h.Prompt, "tokens", fresh, "paid_msat", int64(h.Paid), "took", h.Took.Round(time.Millisecond))
}

// step feeds the machine and does what it wants.
func (r *run) step(in job.ProviderInput) {
	queue := []job.ProviderInput{in}
	for len(queue) > 0 {
		in, queue = queue[0], queue[1:]
		var actions []job.ProviderAction
		r.m, actions = r.m.Step(r.now(), in)
		r.know()
		for _, a := range actions {
			if next := r.act(a); next != nil {
				queue = append(queue, next)
			}
		}
	}
}

// know makes the text of tokens that are new.
func (r *run) know() {
	tokens := r.m.Tokens()
	for len(r.texts) < len(tokens) {
		r.texts = append(r.texts, r.text.Add(tokens[len(r.texts)]))
	}
}

// act does one action; what it gives is the next input.
func (r *run) act(a job.ProviderAction) job.ProviderInput {
	ctx := r.p.ctx
	switch a := a.(type) {
	case job.Save:
		if err := r.save(); err != nil {
			r.p.o.Log.Error("journal", "job", r.id.String(), "error", err)
			return job.Broken{Code: job.EngineFailed, Message: "Its journal cannot be written."}
		}
	case job.Emit:
		r.emit(a.Event)
	case job.Cover:
		offer, err := r.payee.Cover(ctx, a.Total)
		switch {
		case errors.Is(err, pay.ErrLimit):
			return job.CoverRefused{}
		case err != nil:
			r.p.o.Log.Warn("cover a job", "job", r.id.String(), "error", err)
			return job.CoverRefused{}
		case offer != nil:
			return job.CoverOffer{Offer: offer}
		}
		return job.Covered(a)
	case job.Compute:
		return r.compute(a.From, a.Until)
	case job.StopEngine:
		r.halt()
		r.p.leave(r)
	case job.SignReceipt:
		s := r.stream
		r.p.work.Go(func() { r.sign(a, s) })
	case job.SettleSession:
		if err := r.payee.Close(ctx, a.Due, a.Owed); err != nil {
			r.p.o.Log.Error("close a payment session", "job", r.id.String(), "error", err)
		}
	case job.End:
		r.halt()
		r.final = true
		r.drop()
	}
	return nil
}

func (r *run) save() error {
	rec := record{Final: r.m.Phase().Final(), Code: r.m.Code(), Audits: r.audits, At: r.p.o.Now().Unix()}
	if !rec.Final || r.m.Sent() > len(r.order.Resume) || r.m.Receipt() != nil {
		var err error
		if rec.Order, err = r.order.Encode(); err != nil {
			return err
		}
		rec.State = r.m.Encode()
	}
	b, err := json.Marshal(rec)
	if err != nil {
		return err
	}
	return r.p.o.Journal.Put(pay.Entry{Key: recordKey(r.id), Value: b})
}

// emit sends an event. A connection whose reader is so far behind that it does
// not fit ends: the client can join again.
func (r *run) emit(e job.Event) {
	if r.conn == nil {
		return
	}
	if e.Type == job.EventChunk {
		to := e.N + len(e.Tokens)
		e.Text = strings.Join(r.texts[e.N:to], "")
		if e.Finish != "" {
			e.Text += r.flush()
		}
		e.Probs = nil
		if len(r.probs) > e.N {
			e.Probs = make([]*job.TokenProb, len(e.Tokens))
			copy(e.Probs, r.probs[e.N:min(to, len(r.probs))])
		}
	}
	line, err := e.Encode()
	if n := len(e.Tokens); err != nil && n > 1 { // it is too long for a line: two are not
		first := e
		first.Tokens, first.Finish = e.Tokens[:n/2], ""
		e.N, e.Tokens = e.N+n/2, e.Tokens[n/2:]
		if first.Due, err = r.order.Terms().Due(e.N); err == nil {
			r.emit(first)
			r.emit(e)
		}
		return
	}
	if err != nil {
		r.p.o.Log.Error("encode an event", "job", r.id.String(), "error", err)
		return
	}
	select {
	case r.conn.events <- line:
	default:
		r.drop()
		r.p.work.Go(func() { r.give(job.Left{}) })
	}
}

// flush is what is left of the answer's text at its end: bytes of a character that
// never became whole.
func (r *run) flush() string {
	if r.tail == nil {
		whole := r.model.Worker.Text() // an answer that was cut has fewer tokens than r.text
		for _, id := range r.m.Tokens() {
			whole.Add(id)
		}
		s := whole.Flush()
		r.tail = &s
	}
	return *r.tail
}

// drop ends the connection after what it has been sent.
func (r *run) drop() {
	if r.conn != nil {
		close(r.conn.gone)
		r.conn = nil
	}
}

// compute lets the engine go on.
func (r *run) compute(from, until int) job.ProviderInput {
	if r.stream == nil {
		ctx, stop := context.WithCancel(r.p.ctx)
		s, err := r.model.Worker.Begin(ctx, r.order, r.m.Tokens())
		if err != nil {
			stop()
			return broken(err)
		}
		r.stream, r.stop = s, stop
		r.p.work.Go(func() { r.pull(ctx, s, from, r.until) })
	}
	select { // the latest bound counts
	case <-r.until:
	default:
	}
	r.until <- until
	return nil
}

// broken is what an engine's error comes to.
func broken(err error) job.Broken {
	if x := (*Refusal)(nil); errors.As(err, &x) {
		return job.Broken{Code: x.Code, Message: x.Message}
	}
	return job.Broken{Code: job.EngineFailed, Message: err.Error()}
}

// pull reads tokens from the engine as far as bounds allow. It is a goroutine of its own,
// which ends with ctx, the stream's.
func (r *run) pull(ctx context.Context, s Stream, at int, bounds <-chan int) {
	bound := at
	for {
		for at >= bound {
			select {
			case bound = <-bounds:
			case <-ctx.Done():
				return
			}
		}
		t, ok := s.Next()
		if !ok {
			break
		}
		r.give(computed{at, t})
		at++
		select {
		case bound = <-bounds:
		default:
		}
	}
	finish, err := s.End()
	switch {
	case err != nil:
		r.give(broken(err))
	case finish != ghost.FinishCancelled:
		r.give(job.Computed{N: at, Finish: finish})
	}
}

// halt ends the engine's work.
func (r *run) halt() {
	if r.stop != nil {
		r.stop()
		r.stop = nil
	}
}

// sign makes the receipt; it may take a prefill.
func (r *run) sign(a job.SignReceipt, s Stream) {
	trace, outline, err := r.model.Worker.Seal(r.p.ctx, r.order, a.Tokens, s)
	if err != nil {
		r.give(job.Broken{Code: job.NotReceipted, Message: fmt.Sprintf("the trace: %v", err)})
		return
	}
	o := r.order
	q := o.Request
	c := &ghost.Receipt{
		Time: r.p.o.Now().Unix(), Model: o.Model, Arithmetic: arith.Version,
		Request: q.Hash(), Prompt: ghost.HashTokens(q.Salt, q.Prompt), Answer: ghost.HashTokens(q.Salt, a.Tokens),
		Finish: a.Finish, SeedRule: ghost.SeedRule1,
		SeedNonce: ghost.CommitSeed(o.SeedNonce), AuditNonce: o.Audit,
		Trace: trace, Client: o.Client, Price: uint64(a.Price), Grade: r.model.Grade,
	}
	if err := c.Sign(r.p.o.Secret); err != nil {
		r.give(job.Broken{Code: job.NotReceipted, Message: err.Error()})
		return
	}
	r.give(func() {
		r.sealed = &sealed{outline}
		r.step(job.Signed{Receipt: c})
	})
}
