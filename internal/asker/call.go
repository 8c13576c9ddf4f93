package asker

import (
	"bufio"
	"bytes"
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/geistnet/geist/ghost"
	"github.com/geistnet/geist/internal/job"
	"github.com/geistnet/geist/internal/pay"
)

const (
	payTimeout = 10 * time.Second
	closeTries = 3
)

// call is one job with one provider. Its goroutine (run) owns it, until done is
// closed; then its result is anybody's.
type call struct {
	a        *Asker
	order    *job.Order
	id       job.ID
	endpoint string
	payer    pay.Payer
	m        job.Asker
	text     func() texter // begins the answer's text

	inbox chan any
	stop  chan struct{} // closed: the user wants no more
	once  sync.Once     // closes stop
	done  chan struct{}
	more  chan struct{} // something is in out; one message at most

	mu     sync.Mutex
	out    []piece      // delivered and not taken, in order
	due    pay.MilliSat // the most that is to be paid
	inLine bool         // a payment waits for its turn, and will be of due

	texts []string         // of each token of the answer
	maker texter           // that made them
	probs []*job.TokenProb // of the tokens of the chunk that is heard

	conn  context.CancelFunc
	connN int // connections so far: events of earlier ones are ignored
	begun time.Time
	first time.Time // when the first token came
	last  time.Time // and the last
	end   *end
}

// end is how a call ended.
type end struct {
	job.End
	Closing bool // it has not: the process ends
}

// piece is a part of an answer, with log probabilities for all tokens or none.
type piece struct {
	tokens []int32
	probs  []*job.TokenProb
}

// texter makes text of tokens, as a provider does.
type texter interface {
	Add(id int32) string
	Flush() string
}

// from is an event of a connection, or its end.
type from struct {
	conn  int
	event *job.Event // nil: it ended
	bad   bool
}

// record is what the journal keeps of a job.
type record struct {
	Endpoint   string          `json:"endpoint"`
	Order      json.RawMessage `json:"order"`
	State      json.RawMessage `json:"state"`
	AuditNonce string          `json:"audit_nonce"`
	Most       pay.MilliSat    `json:"most"`
}

const recordPrefix = "job/ask/"

func recordKey(id job.ID) string { return recordPrefix + hex.EncodeToString(id[:]) }

func (a *Asker) newCall(o *job.Order, m job.Asker, rail pay.Rail, endpoint string, text func() texter) (*call, error) {
	opening, err := o.Terms().Opening(o.ID(), o.Provider)
	if err != nil {
		return nil, err
	}
	payer, err := rail.Pay(a.ctx, opening)
	if err != nil {
		return nil, err
	}
	return &call{a: a, order: o, id: o.ID(), endpoint: strings.TrimRight(endpoint, "/"), payer: payer, m: m, text: text,
		inbox: make(chan any, 64), stop: make(chan struct{}), done: make(chan struct{}), more: make(chan struct{}, 1), begun: a.o.Now()}, nil
}

// halt says that the user wants no more. It may be called again, by anybody.
func (c *call) halt() { c.once.Do(func() { close(c.stop) }) }

// taken gives what was delivered since the last time.
func (c *call) taken() []piece {
	c.mu.Lock()
	defer c.mu.Unlock()
	p := c.out
	c.out = nil
	return p
}

func (c *call) give(x any) {
	select {
	case c.inbox <- x:
	case <-c.done:
	}
}

func (c *call) url(path string) string { return c.endpoint + "/geist/v1/jobs" + path }

func (c *call) now() job.Time { return job.Time(c.a.o.Now().UnixMilli()) }

// run drives the machine until the job has ended. first is Start or AskerRestarted.
func (c *call) run(first job.AskerInput, nonce ghost.Nonce) {
	defer close(c.done)
	defer func() {
		if c.conn != nil {
			c.conn()
		}
	}()
	const slow, fast = 500 * time.Millisecond, 50 * time.Millisecond // thousands of calls tick
	tick := time.NewTicker(slow)
	defer tick.Stop()
	hurry := false
	c.step(first, nonce)
	stop := c.stop
	for c.end == nil {
		if h := c.m.Hurry(); h != hurry {
			if hurry = h; h {
				tick.Reset(fast)
			} else {
				tick.Reset(slow)
			}
		}
		select {
		case x := <-c.inbox:
			switch x := x.(type) {
			case from:
				if x.conn == c.connN {
					c.heard(x, nonce)
				}
			case job.AskerInput:
				c.step(x, nonce)
			}
		case <-stop:
			stop = nil
			c.step(job.Cancel{}, nonce)
		case <-tick.C:
			c.step(job.Tick{}, nonce)
		case <-c.a.ctx.Done(): // the process ends: the journal has it
			c.end = &end{job.End{Phase: job.PhaseFailed, Code: job.Cancelled}, true}
		}
	}
}

func (c *call) heard(x from, nonce ghost.Nonce) {
	if x.event == nil {
		c.step(job.StreamEnded{Bad: x.bad}, nonce)
		return
	}
	in := job.Arrived{Event: x.event}
	if e := x.event; e.Type == job.EventChunk {
		have := len(c.m.Tokens())
		in.TextDiffers = !c.rightText(e, have)
		if c.last = c.a.o.Now(); c.first.IsZero() {
			c.first = c.last
		}
		if c.probs = nil; len(e.Probs) > 0 && c.order.LogProbs != nil && e.N <= have && e.N+len(e.Tokens) > have {
			c.probs = e.Probs[have-e.N:]
		}
	}
	c.step(in, nonce)
}

// rightText tells whether a chunk's text is that of its tokens. have is how many
// tokens of the answer are here. Chunks that do not continue them the machine
// judges by tokens alone.
func (c *call) rightText(e *job.Event, have int) bool {
	if e.N > have || c.text == nil {
		return true
	}
	if c.maker == nil {
		c.maker = c.text()
		for _, id := range c.m.Tokens() {
			c.texts = append(c.texts, c.maker.Add(id))
		}
	}
	// What is new here is either taken by the machine or ends the job.
	for _, id := range e.Tokens[min(len(c.texts)-e.N, len(e.Tokens)):] {
		c.texts = append(c.texts, c.maker.Add(id))
	}
	want := strings.Join(c.texts[e.N:e.N+len(e.Tokens)], "")
	if rest, ok := strings.CutPrefix(e.Text, want); ok && (rest == "" || e.Finish != "") {
		if e.Finish == "" || len(c.texts) > e.N+len(e.Tokens) {
			return rest == ""
		}
		whole := c.text()
		for _, id := range append(c.m.Tokens()[:e.N], e.Tokens...) {
			whole.Add(id)
		}
		return rest == whole.Flush()
	}
	return false
}

// step feeds the machine and does what it wants.
func (c *call) step(in job.AskerInput, nonce ghost.Nonce) {
	var actions []job.AskerAction
	c.m, actions = c.m.Step(c.now(), in)
	for _, a := range actions {
		switch a := a.(type) {
		case job.Save:
			if err := c.save(nonce); err != nil {
				c.a.o.Log.Error("journal", "job", c.id.String(), "error", err)
				c.end = &end{job.End{Phase: job.PhaseFailed, Code: job.PaymentFailed, Message: "the journal cannot be written: " + err.Error()}, false}
				return
			}
		case job.Connect:
			c.connect(a.From)
		case job.Fund:
			c.a.live.Go(func() { c.fund(a.Offer) })
		case job.Pay:
			c.queue(a.Total)
		case job.Deliver:
			p := piece{a.Tokens, c.probs}
			if len(p.probs) != len(p.tokens) {
				p.probs = nil
			}
			c.mu.Lock()
			c.out = append(c.out, p)
			c.mu.Unlock()
			select {
			case c.more <- struct{}{}:
			default:
			}
		case job.SendCancel:
			c.a.live.Go(c.cancel)
		case job.CloseSession:
			c.a.live.Go(c.close)
		case job.End:
			c.end = &end{a, false}
		}
	}
}

func (c *call) save(nonce ghost.Nonce) error {
	if c.m.Phase().Final() { // nothing is to be done after a crash
		return c.a.o.Journal.Put(pay.Entry{Key: recordKey(c.id)})
	}
	order, err := c.order.Encode()
	if err != nil {
		return err
	}
	b, err := json.Marshal(record{c.endpoint, order, c.m.Encode(), hex.EncodeToString(nonce[:]), c.a.o.Patience.Most})
	if err != nil {
		return err
	}
	return c.a.o.Journal.Put(pay.Entry{Key: recordKey(c.id), Value: b})
}

// connect posts the order in place of any connection there is.
func (c *call) connect(at int) {
	if c.conn != nil {
		c.conn()
	}
	ctx, stop := context.WithCancel(c.a.ctx)
	c.conn = stop
	c.connN++
	n := c.connN
	c.a.live.Go(func() {
		defer stop()
		c.give(from{conn: n, bad: c.listen(ctx, n, at)})
	})
}

// listen reads one connection until it ends. It reports whether it brought
// something that is not in the protocol.
func (c *call) listen(ctx context.Context, n, at int) (bad bool) {
	order, err := c.order.Encode()
	if err != nil {
		return true
	}
	q, err := http.NewRequestWithContext(ctx, "POST", fmt.Sprintf("%s?from=%d", c.url(""), at), bytes.NewReader(order))
	if err != nil {
		return false
	}
	q.Header.Set("Content-Type", "application/json")
	w, err := c.a.o.HTTP.Do(q)
	if err != nil {
		return false
	}
	defer w.Body.Close()
	lines := bufio.NewReaderSize(w.Body, job.MaxEventBytes+2)
	total := 0
	for {
		line, err := lines.ReadSlice('\n')
		if len(bytes.TrimSpace(line)) > 0 && (err == nil || errors.Is(err, io.EOF) && w.StatusCode != http.StatusOK) {
			e, perr := job.ParseEvent(line)
			if perr != nil || w.StatusCode != http.StatusOK && e.Type != job.EventRefused {
				c.a.o.Log.Warn("a provider's event", "job", c.id.String(), "status", w.StatusCode, "error", perr)
				return true
			}
			c.give(from{conn: n, event: e})
			if e.Type == job.EventReceipt || e.Type == job.EventRefused || e.Type == job.EventFailed {
				return false
			}
		}
		// Each token takes less than a KiB with all that is around it.
		if total += len(line); total > 1<<20+2048*c.order.Request.MaxTokens {
			return true
		}
		if err != nil {
			return errors.Is(err, bufio.ErrBufferFull)
		}
	}
}

// send carries a message of the rail to the provider and its answer back.
func (c *call) send(ctx context.Context, message []byte) error {
	ctx, stop := context.WithTimeout(ctx, payTimeout)
	defer stop()
	q, err := http.NewRequestWithContext(ctx, "POST", c.url("/"+hex.EncodeToString(c.id[:])+"/pay"), bytes.NewReader(message))
	if err != nil {
		return err
	}
	q.Header.Set("Content-Type", "application/octet-stream")
	w, err := c.a.o.HTTP.Do(q)
	if err != nil {
		return err
	}
	defer w.Body.Close()
	b, err := io.ReadAll(io.LimitReader(w.Body, pay.MaxMessage+1))
	if err != nil {
		return err
	}
	if w.StatusCode != http.StatusOK && w.StatusCode != http.StatusConflict || w.Header.Get("Content-Type") != "application/octet-stream" {
		return fmt.Errorf("the payment got status %d", w.StatusCode)
	}
	return c.payer.Answer(ctx, b)
}

func (c *call) fund(offer []byte) {
	message, err := c.payer.Fund(c.a.ctx, offer)
	if err == nil && message != nil {
		err = c.send(c.a.ctx, message)
	}
	if err != nil {
		c.failed(err)
		return
	}
	c.give(job.Funded{})
}

// queue lets a payment take its turn among those to the same provider. One that
// waits already becomes larger.
func (c *call) queue(total pay.MilliSat) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.due = max(c.due, total)
	if c.inLine {
		return
	}
	c.inLine = true
	c.a.live.Go(func() {
		lane := c.a.lane(c.order.Provider)
		select {
		case lane <- struct{}{}:
		case <-c.done: // nothing is to be paid any more
			return
		case <-c.a.ctx.Done():
			return
		}
		defer func() { <-lane }()
		c.mu.Lock()
		total := c.due
		c.inLine = false
		c.mu.Unlock()
		c.pay(total)
	})
}

func (c *call) pay(total pay.MilliSat) {
	for range 3 {
		message, err := c.payer.Pay(c.a.ctx, total)
		if err == nil {
			err = c.send(c.a.ctx, message)
		}
		switch {
		case errors.Is(err, pay.ErrAgain):
			continue
		case err != nil:
			c.failed(err)
			return
		}
		c.give(job.PayDone{Paid: c.payer.Paid()})
		return
	}
	c.failed(errors.New("the two records of the balance do not come to agree"))
}

// failed reports that a payment failed. What the network does may pass.
func (c *call) failed(err error) {
	c.a.o.Log.Info("payment", "job", c.id.String(), "error", err)
	switch {
	case errors.Is(err, pay.ErrBudget), errors.Is(err, pay.ErrLimit):
		c.give(job.PayFailed{Code: job.OverBudget})
	case errors.Is(err, pay.ErrMessage), errors.Is(err, pay.ErrClosed):
		c.give(job.PayFailed{Code: job.PaymentFailed})
	default:
		c.give(job.PayFailed{Code: job.PaymentFailed, Again: true})
	}
}

func (c *call) cancel() {
	sig, err := job.SignCancel(c.a.o.Secret, c.id)
	if err != nil {
		return
	}
	ctx, stop := context.WithTimeout(c.a.ctx, payTimeout)
	defer stop()
	q, err := http.NewRequestWithContext(ctx, "DELETE", c.url("/"+hex.EncodeToString(c.id[:])), nil)
	if err != nil {
		return
	}
	q.Header.Set("Geist-Cancel", sig)
	if w, err := c.a.o.HTTP.Do(q); err == nil {
		w.Body.Close()
	}
}

// close ends the payment session; a message about a refund is sent a few times.
func (c *call) close() {
	message, err := c.payer.Close(c.a.ctx)
	for i := 0; err == nil && message != nil && i < closeTries; i++ {
		if c.send(c.a.ctx, message) == nil {
			return
		}
		select {
		case <-time.After(time.Second << i):
		case <-c.a.ctx.Done():
			return
		}
	}
}
