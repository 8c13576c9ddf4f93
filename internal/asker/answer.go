package asker

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
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
	"github.com/geistnet/geist/internal/tools"
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
	stops  stopper
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

// choose finds the model and those who offer it, and writes the prompt.
func (x *answer) choose() error {
	q, a := x.q, x.a
	name, id, err := wants(q)
	if err != nil {
		return err
	}
	all := a.o.Asks()
	wish := &market.Wish{Request: sha256.Sum256([]byte(q.ID)), Now: a.o.Now().Unix(), ModelName: name, OutputTokens: 256, InputTokens: min(estimate(q), mostTokens), Preferences: preferences(q), MaxCostMsat: 0}
	for _, r := range a.o.Rails {
		wish.Rails = append(wish.Rails, r.Name())
	}
	if id != nil {
		wish.Models = []ghost.ID{*id}
	}
	if q.Demand.Quantisation != "" {
		wish.Quantizations = []string{q.Demand.Quantisation}
	}
	if q.Demand.Audited {
		wish.MinGrade = ghost.GhostAudited
	}
	a.mu.Lock()
	wish.Busy = map[ghost.Key]int{}
	for k, n := range a.busy {
		wish.Busy[k] = n
	}
	a.mu.Unlock()
	wish.Context = 1 // what is needed is known when the prompt is written
	first, err := x.learn(wish, all, name)
	if err != nil {
		return err
	}
	if q.TopLogProbs >= 0 && x.model.words == nil {
		return dialog.Errorf(dialog.Unsupported, "logprobs", "%s runs on a server that tells no log probabilities; leave logprobs out", x.name)
	}
	ids, err := x.prompt()
	if err != nil {
		return err
	}
	// Of this model only: an answer is one model's.
	wish.Models, wish.InputTokens = []ghost.ID{x.id}, min(len(ids), mostTokens)
	if q.MaxTokens > 0 {
		wish.OutputTokens = min(q.MaxTokens, mostTokens)
	}
	wish.Context = len(ids) + max(1, q.MaxTokens)
	ranking, err := a.rank(all, wish)
	if err != nil {
		return dialog.Errorf(dialog.Invalid, "provider", "%v", err)
	}
	x.offers = ranking.Offers
	if q.Verify == dialog.VerifyReplicate && !several(x.offers) {
		return dialog.Errorf(dialog.Mismatch, "verify", "replicate needs two providers of %s, and there are not as many now; ask for audit", x.name)
	}
	context := 0
	for i := range x.offers {
		context = max(context, x.offers[i].Ask.Context)
	}
	if len(x.offers) == 0 || len(ids)+max(1, q.MaxTokens) > context {
		if context == 0 {
			context = first.Context
		}
		if len(ids)+max(1, q.MaxTokens) > context {
			return dialog.Errorf(dialog.Context, "messages", "the prompt has %d tokens and the answer up to %d; %s has a context of %d", len(ids), max(1, q.MaxTokens), x.name, context)
		}
		return nobody(q, name, all, ranking)
	}
	if q.Demand.Context > context {
		return dialog.Errorf(dialog.Mismatch, "geist.context", "a context of %d is demanded, %s is offered with %d", q.Demand.Context, x.name, context)
	}
	return x.write(ids)
}

// learn finds the model of the best offer and what is to be known of it. A model
// that nobody can show is as if it was not offered.
func (x *answer) learn(wish *market.Wish, all []*market.Ask, name string) (*market.Ask, error) {
	a := x.a
	var last error
	for {
		ranking, err := a.rank(all, wish)
		if err != nil {
			return nil, dialog.Errorf(dialog.Invalid, "provider", "%v", err)
		}
		if len(ranking.Offers) == 0 {
			if last == nil {
				last = nobody(x.q, name, all, ranking)
			}
			return nil, last
		}
		first := ranking.Offers[0].Ask
		x.id, x.name = first.Model, first.ModelName
		if first.Grade != ghost.Reputation {
			if x.model, err = a.names.get(x.ctx, x.id, all); err == nil {
				return first, nil
			}
		} else if x.model, err = (&known{}), nil; x.id == prompt.PlainID(x.name) {
			return first, nil
		} else {
			err = errors.New("the offer names another model")
		}
		if x.ctx.Err() != nil {
			return nil, x.ctx.Err()
		}
		last = dialog.Errorf(dialog.Unavailable, "model", "%s: %v", first.ModelName, err)
		all = slices.DeleteFunc(slices.Clone(all), func(k *market.Ask) bool { return k.Model == first.Model })
	}
}

func (a *Asker) rank(asks []*market.Ask, w *market.Wish) (*market.Ranking, error) {
	ev := &market.Evidence{Own: a.Experience()}
	if a.o.Reviews != nil {
		ev.Reviews, ev.Trust = a.o.Reviews()
	}
	return market.Rank(asks, ev, w)
}

// Why tells for every offer of a model how it is ranked now.
func (a *Asker) Why(model string) (*market.Ranking, error) {
	name, id, err := wants(&dialog.Question{Model: model})
	if err != nil {
		return nil, err
	}
	w := &market.Wish{Now: a.o.Now().Unix(), ModelName: name, InputTokens: 256, OutputTokens: 256}
	if id != nil {
		w.Models = []ghost.ID{*id}
	}
	for _, r := range a.o.Rails {
		w.Rails = append(w.Rails, r.Name())
	}
	return a.rank(a.o.Asks(), w)
}

// mostTokens is the most that a price is computed for; what does not fit is
// refused after that.
const mostTokens = 1 << 20

// estimate is a guess of a question's tokens before its model is known.
func estimate(q *dialog.Question) int {
	n := len(q.Tokens) + len(q.Text)/4
	for i := range q.Messages {
		n += len(q.Messages[i].Content)/4 + 4
	}
	return n
}

func preferences(q *dialog.Question) market.Preferences {
	r := q.Route
	p := market.Preferences{Order: r.Order, Only: r.Only, Ignore: r.Ignore, NoFallbacks: r.NoFallback, Sort: market.Sort(r.Sort)}
	if r.MaxPrompt > 0 {
		m := market.Price(r.MaxPrompt)
		p.MaxInput = &m
	}
	if r.MaxAnswer > 0 {
		m := market.Price(r.MaxAnswer)
		p.MaxOutput = &m
	}
	return p
}

// nobody says why there is no offer.
func nobody(q *dialog.Question, name string, all []*market.Ask, r *market.Ranking) error {
	known := map[string]bool{}
	for _, k := range all {
		known[k.ModelName] = true
	}
	same := false
	for n := range known {
		same = same || strings.EqualFold(n, name)
	}
	if name != "" && !same && q.Demand.ModelID == "" {
		var names []string
		for n := range known {
			names = append(names, n)
		}
		slices.Sort(names)
		if len(names) == 0 {
			return dialog.Errorf(dialog.NoModel, "model", "nobody offers %q, nor any other model, now", q.Model)
		}
		return dialog.Errorf(dialog.NoModel, "model", "nobody offers %q; there are %s", q.Model, strings.Join(names[:min(len(names), 20)], ", "))
	}
	reasons := map[market.Reason]int{}
	wrong := 0
	for i := range r.Excluded {
		if r.Excluded[i].Reason == market.WrongModel {
			wrong++
			continue
		}
		reasons[r.Excluded[i].Reason]++
	}
	if len(reasons) == 0 {
		return dialog.Errorf(dialog.NoModel, "model", "nobody offers this model now (%d offers of others)", wrong)
	}
	var list []string
	kind := dialog.Mismatch
	for why, n := range reasons {
		list = append(list, fmt.Sprintf("%d × %s", n, why))
		if why == market.NoCapacity || why == market.CoolingDown {
			kind = dialog.Unavailable
		}
	}
	slices.Sort(list)
	e := dialog.Errorf(kind, "provider", "no provider of this model may serve the request: %s", strings.Join(list, ", "))
	if kind == dialog.Unavailable {
		e.RetryAfter = 5 * time.Second
	}
	return e
}

// prompt makes the token ids.
func (x *answer) prompt() ([]int32, error) {
	q, w := x.q, x.model.words
	var ids []int32
	if w == nil {
		return x.plain()
	}
	switch {
	case q.Messages != nil:
		offered := q.Tools
		var err error
		if ids, err = w.Chat(q.Messages, offered, x.a.o.Now()); err != nil {
			if errors.Is(err, prompt.ErrNoTemplate) {
				return nil, dialog.Errorf(dialog.Unsupported, "model", "%s has no chat template; ask for a completion of text", x.name)
			}
			return nil, dialog.Errorf(dialog.Invalid, "messages", "the model's chat template refuses the conversation: %v", err)
		}
	case q.Tokens != nil:
		ids = q.Tokens
		for _, id := range ids {
			if id < 0 || int(id) >= x.model.ghost.Vocab {
				return nil, dialog.Errorf(dialog.Invalid, "prompt", "token %d is not in the vocabulary of %d", id, x.model.ghost.Vocab)
			}
		}
	default:
		ids = w.Text(q.Text)
	}
	if len(ids) == 0 {
		return nil, dialog.Errorf(dialog.Invalid, "prompt", "the prompt is empty")
	}
	return ids, nil
}

// plain makes the tokens of a prompt for a model without a known vocabulary.
func (x *answer) plain() ([]int32, error) {
	q := x.q
	var p prompt.PlainPrompt
	var err error
	switch {
	case q.Messages != nil:
		p.Messages, err = openAIMessages(q.Messages)
		if err == nil && len(q.Tools) > 0 {
			p.Tools, p.ToolChoice, err = openAITools(q)
		}
	case q.Tokens != nil:
		return nil, dialog.Errorf(dialog.Unsupported, "prompt", "%s takes text, not tokens: its vocabulary is not known", x.name)
	default:
		p.Prompt = q.Text
	}
	if err != nil {
		return nil, dialog.Errorf(dialog.Invalid, "messages", "%v", err)
	}
	b, err := json.Marshal(p)
	if err != nil {
		return nil, dialog.Errorf(dialog.Invalid, "messages", "%v", err)
	}
	return prompt.Pack(b), nil
}

// write makes the request.
func (x *answer) write(ids []int32) error {
	q := x.q
	var err error
	if x.model.words != nil {
		x.grammar, err = dialog.GrammarText(q, x.model.form)
	} else if q.Shape.Schema != nil { // tools are part of the prompt
		x.grammar = string(q.Shape.Schema)
	} else if q.Shape.JSON {
		x.grammar = dialog.JSONObject
	}
	if err != nil {
		return err
	}
	thinking := false
	if tail := ids[max(0, len(ids)-16):]; q.Messages != nil && x.model.words != nil {
		var b strings.Builder
		for _, id := range tail {
			b.WriteString(x.model.words.Tokenizer.TokenText(id))
		}
		thinking = dialog.OpensThinking(b.String())
	}
	if x.reader, err = dialog.NewReader(q, x.model.form, thinking); err != nil {
		return err
	}
	x.text = x.model.text()
	x.stops = stopper{texts: q.Stop}
	r := &ghost.Request{Prompt: ids, Sampling: q.Sampling, MaxTokens: q.MaxTokens, Stop: q.Stop}
	r.Sampling.Seed = [32]byte{}
	x.ends = x.grammar != "" && q.Choice.Mode == tools.Required
	if end := x.model.form.End(); q.Choice.One && len(q.Tools) > 0 && x.model.words != nil && !x.ends && end != "" && len(r.Stop) < 64 {
		r.Stop = append(slices.Clone(r.Stop), end) // after one call
	}
	if x.grammar != "" {
		r.Grammar = sha256.Sum256([]byte(x.grammar))
	}
	if q.Seed != nil { // equal questions get equal answers
		x.seed = derive("geist/ask/seed/1", *q.Seed)
		r.Salt = derive("geist/ask/salt/1", *q.Seed)
	} else {
		rand.Read(x.seed[:])
		rand.Read(r.Salt[:])
	}
	if r.MaxTokens == 0 {
		r.MaxTokens = 1 // hire fits it to the provider
	}
	if err := r.Check(); err != nil {
		return dialog.Errorf(dialog.Invalid, "", "%v", err)
	}
	x.request = r
	return nil
}

func derive(domain string, n uint64) [32]byte {
	return sha256.Sum256(binary.LittleEndian.AppendUint64([]byte(domain), n))
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
	show := x.stops.add(s, last)
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
	e := dialog.Errorf(kind, "", "%s", strings.TrimSpace(c.end.Code.Sentence()+" "+c.end.Message))
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

// stopper cuts a text before the first stop text, and holds back what may begin
// one.
type stopper struct {
	texts []string
	held  string
	done  bool
}

func (s *stopper) add(text string, last bool) string {
	if s.done {
		return ""
	}
	s.held += text
	cut := -1
	for _, x := range s.texts {
		if i := strings.Index(s.held, x); i >= 0 && (cut < 0 || i < cut) {
			cut = i
		}
	}
	if cut >= 0 {
		s.done = true
		return s.held[:cut]
	}
	keep := 0
	if !last {
		for _, x := range s.texts {
			for n := min(len(x)-1, len(s.held)); n > keep; n-- {
				if strings.HasSuffix(s.held, x[:n]) {
					keep = n
				}
			}
		}
	}
	show := s.held[:len(s.held)-keep]
	s.held = s.held[len(s.held)-keep:]
	return show
}

func unhex(s string) (b [32]byte, ok bool) {
	n, err := hex.Decode(b[:], []byte(s))
	return b, err == nil && n == len(b) && len(s) == 2*len(b)
}

// several tells whether offers are of more than one provider.
func several(offers []market.Ranked) bool {
	for i := range offers {
		if offers[i].Ask.Provider != offers[0].Ask.Provider {
			return true
		}
	}
	return false
}
