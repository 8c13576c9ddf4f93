package asker

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/geistnet/geist/ghost"
	"github.com/geistnet/geist/internal/dialog"
	"github.com/geistnet/geist/internal/job"
	"github.com/geistnet/geist/internal/market"
	"github.com/geistnet/geist/internal/pay"
	"github.com/geistnet/geist/internal/prompt"
)

// answer is one question's answer: the jobs that make it, one after the other.
type answer struct {
	a     *Asker
	ctx   context.Context
	q     *dialog.Question
	model *known
	id    ghost.ID
	name  string

	offers  []market.Ranked // that may serve it, best first; of one model
	next    int
	request *ghost.Request
	grammar string
	seed    ghost.Nonce

	mu  sync.Mutex // of cur
	cur *call

	audit  ghost.Nonce // of cur
	tokens []int32
	reader *dialog.Reader
	text   texter
	stops  prompt.Stopper
	queue  []dialog.Delta
	early  bool // the reader wants no more
	ends   bool // and then the grammar lets the model say no more
	served dialog.Served
	sum    dialog.Summary
	begun  time.Time
	first  time.Time
	err    error // after which nothing comes
}

// Ask implements the gateway's Backend.
func (a *Asker) Ask(ctx context.Context, q *dialog.Question) (dialog.Answer, error) {
	x := &answer{a: a, ctx: ctx, q: q, begun: a.o.Now()}
	if q.TopLogProbs > job.MaxAlternatives {
		return nil, dialog.Errorf(dialog.Invalid, "top_logprobs", "%d alternatives; there are at most %d", q.TopLogProbs, job.MaxAlternatives)
	}
	if q.Suffix != "" {
		return nil, dialog.Errorf(dialog.Unsupported, "suffix", "no model here fills text in before a suffix; leave it out")
	}
	if err := x.choose(); err != nil {
		return nil, err
	}
	if err := x.hire(); err != nil {
		return nil, err
	}
	return x, nil
}

// hire begins a job with the next provider that may do it.
func (x *answer) hire() error {
	var last error
	for ; x.next < len(x.offers) && x.next < attempts; x.next++ {
		if err := x.ctx.Err(); err != nil {
			return err
		}
		ask := x.offers[x.next].Ask
		// Once there are tokens the request is the same for all who go on with them.
		if x.q.MaxTokens == 0 && len(x.tokens) == 0 {
			x.request.MaxTokens = ask.Context - len(x.request.Prompt)
		}
		err := x.order(ask, x.tokens)
		if err == nil {
			x.next++
			return nil
		}
		last = err
		var e *dialog.Error
		if errors.As(err, &e) && e.Kind == dialog.NoFunds {
			return err
		}
	}
	if last == nil {
		last = dialog.Errorf(dialog.Unavailable, "", "no other provider of %s is there", x.name)
	}
	return last
}

// order makes and starts the job that answers to an ask, from the tokens of the
// answer that are here.
func (x *answer) order(ask *market.Ask, resume []int32) error {
	a := x.a
	rail := a.rail(ask.Rails)
	if rail == nil {
		return dialog.Errorf(dialog.Unavailable, "", "%s is not paid in any way this node can", ask.Provider)
	}
	if len(x.request.Prompt)+x.request.MaxTokens > ask.Context {
		return dialog.Errorf(dialog.Context, "messages", "the context of %d is too small", ask.Context)
	}
	o := &job.Order{
		Provider: ask.Provider, Model: ask.Model, Ask: ghost.Digest(ask.ID), Prices: pay.Prices{Prompt: pay.MilliSat(ask.Input), Answer: pay.MilliSat(ask.Output)},
		Rail: rail.Name(), CreatedAt: a.o.Now().Unix(), Request: x.request, Grammar: x.grammar, SeedNonce: x.seed, Resume: slices.Clone(resume),
	}
	if x.q.TopLogProbs >= 0 {
		o.LogProbs = &x.q.TopLogProbs
	}
	rand.Read(x.audit[:])
	o.Audit = ghost.CommitAudit(x.audit)
	if err := o.Sign(a.o.Secret); err != nil {
		return dialog.Errorf(dialog.Invalid, "", "%v", err)
	}
	m, err := job.NewAsker(o, a.o.Patience)
	if err != nil {
		return dialog.Errorf(dialog.Invalid, "", "%v", err)
	}
	c, err := a.newCall(o, m, rail, ask.Endpoints[0], x.model.text)
	if err != nil {
		return dialog.Errorf(dialog.NoFunds, "", "%v", err)
	}
	x.mu.Lock()
	x.cur = c
	x.mu.Unlock()
	x.served = dialog.Served{Provider: ask.Provider.String(), Model: x.name, ModelID: x.id.String(), Quantisation: ask.Quant, Fingerprint: x.id.String()[6:22]}
	a.mu.Lock()
	a.busy[ask.Provider]++
	a.mu.Unlock()
	nonce := x.audit
	a.live.Go(func() {
		c.run(job.Start{}, nonce)
		a.mu.Lock()
		if a.busy[ask.Provider]--; a.busy[ask.Provider] <= 0 {
			delete(a.busy, ask.Provider)
		}
		a.mu.Unlock()
	})
	return nil
}

// Served implements dialog.Answer.
func (x *answer) Served() dialog.Served { return x.served }

// Summary implements dialog.Answer.
func (x *answer) Summary() dialog.Summary { return x.sum }

// Close implements dialog.Answer.
func (x *answer) Close() error {
	x.mu.Lock()
	c := x.cur
	x.cur = nil
	x.mu.Unlock()
	if c == nil {
		return nil
	}
	c.halt()
	nonce := x.audit
	x.a.live.Go(func() {
		<-c.done
		if c.end.Closing {
			return
		}
		e := x.a.enter(c, x.q.ID, x.name)
		x.a.keep(c, nonce, &e)
	})
	return nil
}

// Next implements dialog.Answer.
func (x *answer) Next() (dialog.Delta, error) {
	for {
		if len(x.queue) > 0 {
			d := x.queue[0]
			x.queue = x.queue[1:]
			return d, nil
		}
		if x.err != nil {
			return dialog.Delta{}, x.err
		}
		x.mu.Lock()
		c := x.cur
		x.mu.Unlock()
		if c == nil {
			x.err = context.Canceled
			continue
		}
		if x.taken(c) {
			continue
		}
		select {
		case <-c.more:
		case <-c.done:
			if x.taken(c) { // what came last
				continue
			}
			x.mu.Lock()
			mine := x.cur == c
			x.cur = nil
			x.mu.Unlock()
			if mine { // else Close enters it
				x.over(c)
			}
		case <-x.ctx.Done():
			x.err = x.ctx.Err()
			_ = x.Close()
		}
	}
}

// taken reads what the call has delivered; false: nothing.
func (x *answer) taken(c *call) bool {
	pieces := c.taken()
	for _, p := range pieces {
		x.take(p)
	}
	if x.early && !x.ends { // what ends by itself costs the same every time
		c.halt()
	}
	return len(pieces) > 0
}

// take reads tokens.
func (x *answer) take(p piece) {
	if x.first.IsZero() {
		x.first = x.a.o.Now()
	}
	for i, id := range p.tokens {
		x.tokens = append(x.tokens, id)
		n := len(x.queue)
		x.say(x.text.Add(id), false)
		if x.q.TopLogProbs < 0 || p.probs == nil || p.probs[i] == nil {
			continue
		}
		if len(x.queue) == n {
			x.queue = append(x.queue, dialog.Delta{})
		}
		d := &x.queue[len(x.queue)-1]
		d.Tokens = append(d.Tokens, x.token(id, p.probs[i]))
	}
}

// token is what a client is told of a token's probability.
func (x *answer) token(id int32, p *job.TokenProb) dialog.Token {
	piece := x.model.words.Tokenizer.Piece
	t := dialog.Token{ID: id, Bytes: piece(id), LogProb: float64(p.LogProb)}
	for _, a := range p.Top[:min(len(p.Top), x.q.TopLogProbs)] {
		if int(a.ID) < x.model.ghost.Vocab {
			t.Top = append(t.Top, dialog.Token{ID: a.ID, Bytes: piece(a.ID), LogProb: float64(a.LogProb)})
		}
	}
	return t
}

// say passes text on, but for stop texts and what follows them.
func (x *answer) say(s string, last bool) {
	show, _ := x.stops.Add(s, last)
	if show != "" {
		x.put(x.reader.Text(show))
	}
	if x.reader.Done() && !x.early {
		x.early = true
	}
}

func (x *answer) put(d dialog.Delta) {
	if d.Text != "" || d.Reasoning != "" || len(d.Calls) > 0 {
		x.queue = append(x.queue, d)
	}
}

// over is the end of a call: of the answer, or of this provider's part in it.
func (x *answer) over(c *call) {
	if c.end.Closing {
		x.err = context.Canceled
		return
	}
	e := x.a.enter(c, x.q.ID, x.name)
	x.sum.Cost += int64(c.m.Paid())
	x.count()
	whole := c.end.Phase == job.PhaseSettled || x.early && c.m.Receipt() != nil
	switch {
	case whole:
		x.finish(c, &e)
	case x.early: // all that is wanted is here, though nobody signed for it
		x.close(ghost.FinishStop)
		x.err = io.EOF
	case x.ctx.Err() != nil:
		x.err = x.ctx.Err()
	case c.end.Code.Elsewhere():
		if err := x.hire(); err != nil {
			x.err = x.failure(c)
		}
	default:
		x.err = x.failure(c)
	}
}

func (x *answer) count() {
	x.sum.Usage.Prompt = len(x.request.Prompt)
	x.sum.Usage.Answer = len(x.tokens)
	if !x.first.IsZero() {
		x.sum.Prefill = x.first.Sub(x.begun)
		x.sum.Decode = x.a.o.Now().Sub(x.first)
	}
}

// failure is what a client is told of a call that failed for good.
func (x *answer) failure(c *call) error {
	kind := dialog.Failed
	switch c.end.Code {
	case job.OverBudget, job.NoCredit, job.CreditSpent:
		kind = dialog.NoFunds
	case job.Busy, job.Draining:
		kind = dialog.Overloaded
	case job.Unreachable, job.UnknownModel, job.UnknownAsk:
		kind = dialog.Unavailable
	case job.TooLong:
		kind = dialog.Context
	case job.BadOrder, job.BadGrammar:
		kind = dialog.Invalid
	case job.Overcharged, job.Miscounted, job.Contradiction, job.TextDiffers, job.WrongReceipt, job.AuditFailed:
		kind = dialog.Rejected
	}
	sentence := c.end.Code.Sentence()
	if most, err := c.order.Terms().Due(c.order.Request.MaxTokens); c.end.Code == job.OverBudget && err == nil && most > x.a.o.Patience.Most {
		sentence = fmt.Sprintf("This may cost up to %d msat, and a request may cost at most %d msat here: raise that (--spend), or ask for fewer tokens.", most, x.a.o.Patience.Most)
	}
	e := dialog.Errorf(kind, "", "%s", strings.TrimSpace(sentence+" "+c.end.Message))
	if c.end.Retry > 0 {
		e.RetryAfter = time.Duration(c.end.Retry) * time.Second
	}
	if kind == dialog.NoFunds {
		if d, err := c.order.Terms().Due(min(c.order.Request.MaxTokens, len(c.order.Resume)+job.Window)); err == nil {
			e.Price = int64(d)
		}
	}
	return e
}

// close says the last of the text.
func (x *answer) close(f ghost.Finish) {
	x.say(x.text.Flush(), true)
	x.put(x.reader.Flush())
	x.sum.Finish = dialog.FinishStop
	if f == ghost.FinishLength {
		x.sum.Finish = dialog.FinishLength
	}
}

// finish settles the answer's account: its receipt is kept, and checked as far as
// the question wants.
func (x *answer) finish(c *call, e *Entry) {
	finish := c.m.Finish()
	if x.early {
		finish = ghost.FinishStop
	}
	x.close(finish)
	x.sum.ID, x.sum.Grade, x.sum.Verified = e.Receipt, e.Grade, dialog.VerifyReceipt
	x.err = io.EOF
	f := x.a.keep(c, x.audit, e)
	want := x.q.Verify
	if want == dialog.VerifyDefault {
		want = x.a.o.Verify
	}
	if f == nil || want == dialog.VerifyNone || want == dialog.VerifyReceipt || e.Grade != string(ghost.GhostAudited) {
		return
	}
	v := x.a.Audit(x.ctx, e.Receipt)
	switch {
	case v == nil: // no proof came
		x.err = dialog.Errorf(dialog.Rejected, "verify", "the provider gave no proof when asked to open what the audit drew; the answer is unverified, and that counts against the provider")
		return
	case !v.Accepted:
		x.err = dialog.Errorf(dialog.Rejected, "verify", "the answer did not stand the audit: %s", v.Reason)
		return
	}
	x.sum.Verified = dialog.VerifyAudit
	if want == dialog.VerifyReplicate {
		x.replicate(c)
	}
}

// replicate lets another provider give the whole answer too, and compares.
func (x *answer) replicate(c *call) {
	first := c.m.Receipt()
	for ; x.next < len(x.offers) && x.next < 2*attempts; x.next++ {
		ask := x.offers[x.next].Ask
		if ask.Provider == c.order.Provider {
			continue
		}
		if x.order(ask, nil) != nil { // such as a context that is too small
			continue
		}
		x.mu.Lock()
		second := x.cur
		x.cur = nil
		x.mu.Unlock()
		select {
		case <-second.done:
		case <-x.ctx.Done():
			second.halt()
			<-second.done
		}
		if second.end.Closing {
			return
		}
		e := x.a.enter(second, x.q.ID, x.name)
		x.sum.Cost += int64(second.m.Paid())
		r := second.m.Receipt()
		if r == nil || second.end.Phase != job.PhaseSettled {
			continue
		}
		x.a.keep(second, x.audit, &e)
		if r.Trace != first.Trace || r.Answer != first.Answer {
			x.err = dialog.Errorf(dialog.Rejected, "verify", "two providers gave different answers (receipts %s and %s); \"geist dispute\" finds out who is wrong", first.ID(), r.ID())
			return
		}
		x.served.Provider = c.order.Provider.String()
		x.sum.Verified = dialog.VerifyReplicate
		return
	}
	x.err = dialog.Errorf(dialog.Unavailable, "verify", "no second provider gave the answer too; it is audited and not replicated")
}

func unhex(s string) (b [32]byte, ok bool) {
	n, err := hex.Decode(b[:], []byte(s))
	return b, err == nil && n == len(b) && len(s) == 2*len(b)
}
