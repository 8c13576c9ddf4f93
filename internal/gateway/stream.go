package gateway

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"github.com/geistnet/geist/internal/dialog"
)

// geistHeaders say who answered, with what, for how much, and what was checked.
// Those known only at the end of a stream come as trailers.
var geistHeaders = []string{"X-Geist-Provider", "X-Geist-Model-Id", "X-Geist-Quantisation", "X-Geist-Cost-Msat", "X-Geist-Receipt", "X-Geist-Grade", "X-Geist-Verified"}

// account is the object "geist" of an answer, which clients may ignore.
type account struct {
	Provider     string `json:"provider"`
	ModelID      string `json:"model_id,omitempty"`
	Quantisation string `json:"quantisation,omitempty"`
	CostMsat     int64  `json:"cost_msat"`
	Receipt      string `json:"receipt,omitempty"`
	Grade        string `json:"grade,omitempty"`
	Verified     string `json:"verified"`
}

func accountOf(s dialog.Served, sum dialog.Summary) *account {
	return &account{s.Provider, s.ModelID, s.Quantisation, sum.Cost, sum.ID, sum.Grade, string(orElse(sum.Verified, dialog.VerifyNone))}
}

func (c *call) servedHeaders(s dialog.Served) {
	h := c.w.Header()
	for i, v := range []string{s.Provider, s.ModelID, s.Quantisation} {
		if v != "" {
			h.Set(geistHeaders[i], oneLine(v))
		}
	}
}

// sumHeaders sets the rest, as trailers after a body has begun.
func (c *call) sumHeaders(sum dialog.Summary) {
	h := c.w.Header()
	for i, v := range []string{fmt.Sprint(sum.Cost), sum.ID, sum.Grade, string(orElse(sum.Verified, dialog.VerifyNone))} {
		if v != "" {
			h.Set(geistHeaders[3+i], oneLine(v))
		}
	}
}

func oneLine(s string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r > '~' {
			return -1
		}
		return r
	}, clip(s))
}

// kept tells whether s keeps what q demands. Whoever asked has seen to that; a
// contract is looked at twice.
func kept(q dialog.Demand, route dialog.Route, s dialog.Served) error {
	switch {
	case q.ModelID != "" && s.ModelID != q.ModelID:
		return dialog.Errorf(dialog.Mismatch, "model", "the model %s was demanded, and %s would have answered; nothing was paid", q.ModelID, orElse(s.ModelID, "an unidentified one"))
	case q.Quantisation != "" && !strings.EqualFold(s.Quantisation, q.Quantisation):
		return dialog.Errorf(dialog.Mismatch, "geist.quantisation", "the quantisation %s was demanded, and %s would have answered; nothing was paid", q.Quantisation, orElse(s.Quantisation, "an unknown one"))
	}
	for _, p := range route.Ignore {
		if p == s.Provider {
			return dialog.Errorf(dialog.Mismatch, "provider", "provider %s was to be ignored and would have answered; nothing was paid", clip(p))
		}
	}
	if route.Only == nil {
		return nil
	}
	for _, p := range route.Only {
		if p == s.Provider {
			return nil
		}
	}
	return dialog.Errorf(dialog.Mismatch, "provider", "provider %s would have answered and is not among those allowed; nothing was paid", clip(s.Provider))
}

// A sink writes an answer in the shape of one API. Errors of its methods mean
// that the client is gone.
type sink interface {
	open(dialog.Served) error // before the first delta
	delta(dialog.Delta) error
	close(dialog.Served, dialog.Summary) error
	broken(problem) error // instead of close, once something was sent
	silence() error       // nothing came for a while; maybe before open
}

// ask puts the question and feeds what comes to s.
func (c *call) ask(q *dialog.Question, s sink) error {
	a, err := c.g.opt.Backend.Ask(c.ctx, q)
	if err != nil {
		return err
	}
	defer c.close(a)
	opened := false
	var served dialog.Served
	err = c.pull(a, s.silence, func(d dialog.Delta, by dialog.Served) error {
		if !opened {
			if err := kept(q.Demand, q.Route, by); err != nil {
				return err
			}
			opened, served = true, by
			c.begun(by)
			if err := s.open(by); err != nil {
				return err
			}
		}
		return s.delta(d)
	})
	if err != nil {
		return c.ended(s, err)
	}
	sum := a.Summary()
	if !opened {
		served = a.Served()
		if err := kept(q.Demand, q.Route, served); err != nil {
			return c.ended(s, err)
		}
		c.begun(served)
		if err := s.open(served); err != nil {
			return err
		}
	}
	c.count(served, sum)
	return s.close(served, sum)
}

// ended is what becomes of an answer that broke off: an error if there is still
// a status to say it with.
func (c *call) ended(s sink, err error) error {
	if errors.Is(err, errGone) || c.r.Context().Err() != nil {
		c.g.m.cancelled.Inc()
		return errGone
	}
	if c.w.code != 0 {
		return s.broken(c.explain(err))
	}
	return err
}

func (c *call) close(a dialog.Answer) {
	if err := a.Close(); err != nil {
		c.g.opt.Log.Warn("answer not closed", "id", c.id, "error", err)
	}
}

// begun notes the first piece.
func (c *call) begun(by dialog.Served) {
	c.first, c.served = c.g.opt.Now(), by.Model
	c.g.m.first.WithLabelValues(c.served).Observe(c.first.Sub(c.begin).Seconds())
}

func (c *call) count(by dialog.Served, sum dialog.Summary) {
	u := sum.Usage
	if !c.first.IsZero() && u.Answer > 1 {
		c.g.m.each.WithLabelValues(by.Model).Observe(c.g.opt.Now().Sub(c.first).Seconds() / float64(u.Answer-1))
	}
	c.g.m.tokens.WithLabelValues(by.Model, "prompt").Add(float64(u.Prompt))
	c.g.m.tokens.WithLabelValues(by.Model, "cached").Add(float64(u.Cached))
	c.g.m.tokens.WithLabelValues(by.Model, "answer").Add(float64(u.Answer))
	c.g.m.cost.WithLabelValues(by.Model).Add(float64(max(0, sum.Cost)))
}

type piece struct {
	delta dialog.Delta
	by    dialog.Served
	err   error
}

// pull reads a to its end in a goroutine of its own, so that a silent answer
// leaves time for comments. It returns when that goroutine has ended.
func (c *call) pull(a dialog.Answer, silence func() error, each func(dialog.Delta, dialog.Served) error) error {
	pieces, quit := make(chan piece), make(chan struct{})
	go func() {
		defer close(pieces)
		var by dialog.Served
		for first := true; ; first = false {
			d, err := a.Next()
			if first && err == nil {
				by = a.Served()
			}
			select {
			case pieces <- piece{d, by, err}:
			case <-quit:
				return
			}
			if err != nil {
				return
			}
		}
	}()
	c.g.m.waiting.Inc()
	waits := true
	came := func() {
		if waits {
			waits = false
			c.g.m.waiting.Dec()
		}
	}
	defer came()
	stop := func(err error) error {
		close(quit)
		c.close(a)
		for range pieces {
		}
		return err
	}
	quiet := time.NewTimer(c.g.opt.Silence)
	defer quiet.Stop()
	for {
		select {
		case p := <-pieces:
			came()
			if p.err == io.EOF {
				return nil
			}
			if p.err != nil {
				return p.err
			}
			if err := each(p.delta, p.by); err != nil {
				return stop(err)
			}
		case <-quiet.C:
			if err := silence(); err != nil {
				return stop(err)
			}
		case <-c.ctx.Done():
			return stop(context.Cause(c.ctx))
		}
		quiet.Reset(c.g.opt.Silence)
	}
}

// lines sends an answer as it comes: events of server-sent events, or lines of
// JSON.
type lines struct {
	c   *call
	sse bool
	rc  *http.ResponseController
}

func (l *lines) start() error {
	h := l.c.w.Header()
	kind := "application/x-ndjson"
	if l.sse {
		kind = "text/event-stream"
	}
	h.Set("Content-Type", kind)
	h.Set("Cache-Control", "no-store")
	h.Set("X-Accel-Buffering", "no")
	h.Set("Trailer", strings.Join(geistHeaders[3:], ", "))
	l.rc = http.NewResponseController(l.c.w)
	l.c.w.WriteHeader(http.StatusOK)
	return nil
}

// begun tells whether the status is sent.
func (l *lines) begun() bool { return l.rc != nil }

func (l *lines) send(v any) error {
	b, err := encode(v)
	if err != nil {
		return err
	}
	if l.sse {
		b = append(append([]byte("data: "), b...), '\n')
	}
	return l.raw(b)
}

func (l *lines) raw(b []byte) error {
	if err := l.c.write(b); err != nil {
		return errGone
	}
	if err := l.rc.Flush(); err != nil {
		return errGone
	}
	return nil
}

// silence sends a comment. Lines of JSON have none.
func (l *lines) silence() error {
	if !l.sse {
		return nil
	}
	if !l.begun() {
		if err := l.start(); err != nil {
			return err
		}
	}
	return l.raw([]byte(": waiting\n\n"))
}
