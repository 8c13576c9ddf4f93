package provider

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/geistnet/geist/ghost"
	"github.com/geistnet/geist/internal/job"
	"github.com/geistnet/geist/internal/pay"
)

const (
	aliveEvery = 5 * time.Second
	writeLimit = 30 * time.Second // for one event: a reader slower than that is gone
	readLimit  = 30 * time.Second // for a body
	connEvents = 4 * job.Window

	// Bodies that are read at the same time, and those of them that are longer
	// than smallBody: at most 512 MiB in all.
	maxBodies = 1024
	maxHuge   = 16
	smallBody = 256 << 10
)

// Handler serves docs/spec/job.md and what an asker needs before it can order:
//
//	POST   /geist/v1/jobs               an order
//	POST   /geist/v1/jobs/{job}/pay     a message of its rail
//	DELETE /geist/v1/jobs/{job}         cancel
//	POST   /geist/v1/jobs/{job}/audit   open what was drawn
//	POST   /geist/v1/prove              the same of any run of a model served here
//	POST   /geist/v1/vectors            embeddings of texts
//	POST   /geist/v1/credit             agree with a peer on balances
//	GET    /geist/v1/models             what is served
//	GET    /geist/v1/models/{id}/ghost  its Ghost file
//	GET    /geist/v1/models/{id}/words  its vocabulary and template
func (p *Provider) Handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("POST /geist/v1/jobs", p.postJob)
	mux.HandleFunc("POST /geist/v1/jobs/{job}/pay", p.postPay)
	mux.HandleFunc("DELETE /geist/v1/jobs/{job}", p.deleteJob)
	mux.HandleFunc("POST /geist/v1/jobs/{job}/audit", p.postAudit)
	mux.HandleFunc("POST /geist/v1/prove", p.postProve)
	mux.HandleFunc("POST /geist/v1/vectors", p.postVectors)
	mux.HandleFunc("POST /geist/v1/credit", p.postCredit)
	mux.HandleFunc("GET /geist/v1/models", p.getModels)
	mux.HandleFunc("GET /geist/v1/models/{id}/ghost", func(w http.ResponseWriter, q *http.Request) {
		p.getBytes(w, q, func(m *Model) []byte { return m.Ghost })
	})
	mux.HandleFunc("GET /geist/v1/models/{id}/words", func(w http.ResponseWriter, q *http.Request) {
		p.getBytes(w, q, func(m *Model) []byte { return m.Words })
	})
	return mux
}

// statusOf fits a code to HTTP.
func statusOf(c job.Code) int {
	switch c {
	case job.Busy, job.Draining:
		return http.StatusServiceUnavailable
	case job.NoCredit, job.ResumeQuota:
		return http.StatusPaymentRequired
	case job.UnknownModel, job.UnknownAsk, job.UnknownJob:
		return http.StatusNotFound
	case job.NotYet, job.TooOld, job.PricesDiffer, job.ResumeDiffers:
		return http.StatusConflict
	case job.EngineFailed, job.NotReceipted:
		return http.StatusInternalServerError
	}
	return http.StatusBadRequest
}

func (p *Provider) refused(w http.ResponseWriter, err error) {
	r := (*Refusal)(nil)
	if !errors.As(err, &r) {
		r = refuse(job.BadOrder, "%v", err)
	}
	e := job.Event{Type: job.EventRefused, Code: r.Code, Message: clip(r.Message), Retry: r.Retry}
	b, err := e.Encode()
	if err != nil {
		b = []byte(`{"type":"refused","code":"failed"}` + "\n")
	}
	w.Header().Set("Content-Type", "application/json")
	if r.Retry > 0 {
		w.Header().Set("Retry-After", strconv.Itoa(r.Retry))
	}
	w.WriteHeader(statusOf(r.Code))
	_, _ = w.Write(b) // the client may be gone
}

// clip keeps a message within what an event may hold.
func clip(s string) string {
	const most = 900
	if len(s) > most {
		s = s[:most]
	}
	return strings.ToValidUTF8(s, "")
}

// body reads a request's body of at most so many bytes, within a time. Many slow
// ones together hold a bounded memory.
func (p *Provider) body(w http.ResponseWriter, q *http.Request, most int64) ([]byte, error) {
	full := &Refusal{job.Busy, "Many requests are being read.", 2}
	place := func(c chan struct{}) bool {
		select {
		case c <- struct{}{}:
			return true
		default:
			return false
		}
	}
	if !place(p.bodies) {
		return nil, full
	}
	defer func() { <-p.bodies }()
	rc := http.NewResponseController(w)
	_ = rc.SetReadDeadline(time.Now().Add(readLimit)) // where it cannot be set, the server's counts
	r := http.MaxBytesReader(w, q.Body, most)
	b, err := io.ReadAll(io.LimitReader(r, smallBody))
	if err == nil && len(b) == smallBody {
		if !place(p.huge) {
			return nil, full
		}
		var rest []byte
		rest, err = io.ReadAll(r)
		<-p.huge
		b = append(b, rest...)
	}
	_ = rc.SetReadDeadline(time.Time{})
	if err != nil {
		return nil, refuse(job.BadOrder, "The body could not be read: %v", err)
	}
	return b, nil
}

func (p *Provider) postJob(w http.ResponseWriter, q *http.Request) {
	b, err := p.body(w, q, job.MaxOrderBytes)
	if err != nil {
		p.refused(w, err)
		return
	}
	o, err := job.ParseOrder(b)
	if err != nil {
		p.refused(w, refuse(job.BadOrder, "%v", err))
		return
	}
	from := len(o.Resume)
	if s := q.URL.Query().Get("from"); s != "" {
		if from, err = strconv.Atoi(s); err != nil || from < 0 || from > 1<<30 {
			p.refused(w, refuse(job.BadOrder, "from=%.20q is no position", s))
			return
		}
	}
	r, err := p.take(o)
	if err != nil {
		p.refused(w, err)
		return
	}
	c := &conn{events: make(chan []byte, connEvents), gone: make(chan struct{})}
	r.give(joining{c, from})
	p.stream(w, q, r, c)
}

// take makes a job of an order, or finds the one it is.
func (p *Provider) take(o *job.Order) (*run, error) {
	id := o.ID()
	if r, err := p.find(id); err != nil || r != nil {
		return r, err
	}
	m, err := job.NewProvider(o, p.o.Grace)
	if err != nil {
		return nil, refuse(job.BadOrder, "%v", err)
	}
	bears := p.bears(o)
	p.mu.Lock()
	if r := p.runs[id]; r != nil {
		p.mu.Unlock()
		return r.wait()
	}
	model, rail, no := p.admit(o, bears)
	if no != nil {
		p.totals.Refused++
		p.mu.Unlock()
		p.o.Log.Info("order refused", "client", o.Client.String(), "model", o.Model.String(), "code", string(no.Code))
		return nil, no
	}
	r := p.add(o, m, model, rail)
	if len(o.Resume) > 0 {
		p.gift(p.clientOf(o.Client))
	}
	p.mu.Unlock()
	if err := p.start(r); err != nil {
		return nil, refuse(job.NoCredit, "%v", err)
	}
	return r, nil
}

// wait waits until another has opened the run's session.
func (r *run) wait() (*run, error) {
	<-r.ready
	if r.err != nil {
		return nil, refuse(job.NoCredit, "%v", r.err)
	}
	return r, nil
}

// find is the run of a job, from the journal if need be; nil if there is none.
func (p *Provider) find(id job.ID) (*run, error) {
	p.mu.Lock()
	r := p.runs[id]
	p.mu.Unlock()
	if r != nil {
		return r.wait()
	}
	b := p.o.Journal.Get(recordKey(id))
	if b == nil {
		return nil, nil
	}
	return p.restore(b)
}

// restore takes up a job of the journal.
func (p *Provider) restore(b []byte) (*run, error) {
	var rec record
	if err := json.Unmarshal(b, &rec); err != nil {
		return nil, fmt.Errorf("a job in the journal: %w", err)
	}
	if rec.Order == nil {
		return nil, refuse(rec.Code, "")
	}
	o, err := job.ParseOrder(rec.Order)
	if err != nil {
		return nil, fmt.Errorf("a job in the journal: %w", err)
	}
	m, err := job.RestoreProvider(o, p.o.Grace, rec.State)
	if err != nil {
		return nil, err
	}
	i := slices.IndexFunc(p.o.Rails, func(r pay.Rail) bool { return r.Name() == o.Rail })
	if i < 0 {
		return nil, refuse(job.UnknownRail, "")
	}
	p.mu.Lock()
	if r := p.runs[o.ID()]; r != nil {
		p.mu.Unlock()
		return r.wait()
	}
	model := p.models[o.Model]
	if model == nil || p.closed {
		p.mu.Unlock()
		return nil, refuse(job.UnknownModel, "")
	}
	r := p.add(o, m, model, p.o.Rails[i])
	r.again, r.audits = true, rec.Audits
	p.mu.Unlock()
	if err := p.start(r); err != nil {
		return nil, err
	}
	return r, nil
}

// Start takes up the jobs that a crash left, once their models are served, and
// forgets those that are too old to be asked about.
func (p *Provider) Start() error {
	for key, b := range p.o.Journal.All(recordPrefix) {
		var rec record
		if err := json.Unmarshal(b, &rec); err != nil {
			return fmt.Errorf("%s in the journal: %w", key, err)
		}
		if rec.Final || p.old(&rec) {
			continue
		}
		if _, err := p.restore(b); err != nil {
			p.o.Log.Warn("a job cannot be taken up", "key", key, "error", err)
		}
	}
	p.prune()
	return nil
}

// old tells whether nobody may ask for a job any more. What ended before a token
// is remembered only so that its order is not taken twice.
func (p *Provider) old(rec *record) bool {
	age := p.o.Now().Sub(time.Unix(rec.At, 0))
	return age > p.o.Keep || rec.Order == nil && age > 2*job.MaxSkew*time.Second
}

// prune forgets old jobs.
func (p *Provider) prune() {
	var forget []pay.Entry
	for key, b := range p.o.Journal.All(recordPrefix) {
		var rec record
		if json.Unmarshal(b, &rec) == nil && p.old(&rec) {
			forget = append(forget, pay.Entry{Key: key})
		}
	}
	for list := range slices.Chunk(forget, 1000) {
		if err := p.o.Journal.Put(list...); err != nil {
			p.o.Log.Error("journal", "error", err)
			return
		}
	}
}

// stream writes events until the run ends the connection or the client goes.
func (p *Provider) stream(w http.ResponseWriter, q *http.Request, r *run, c *conn) {
	w.Header().Set("Content-Type", "application/x-ndjson")
	w.Header().Set("Cache-Control", "no-store")
	w.Header().Set("X-Accel-Buffering", "no")
	rc := http.NewResponseController(w)
	write := func(b []byte) bool {
		_ = rc.SetWriteDeadline(time.Now().Add(writeLimit))
		if _, err := w.Write(b); err != nil {
			return false
		}
		return rc.Flush() == nil
	}
	alive := time.NewTicker(aliveEvery)
	defer alive.Stop()
	defer func() {
		_ = rc.SetWriteDeadline(time.Time{}) // the connection may carry another request
		r.give(c)
	}()
	for {
		select {
		case e := <-c.events:
			if !write(e) {
				return
			}
			alive.Reset(aliveEvery)
		case <-alive.C:
			if !write([]byte(`{"type":"alive"}` + "\n")) {
				return
			}
		case <-q.Context().Done():
			return
		case <-r.done:
			p.rest(c, write)
			return
		case <-c.gone:
			p.rest(c, write)
			return
		}
	}
}

// rest writes what a connection was still sent.
func (p *Provider) rest(c *conn, write func([]byte) bool) {
	for {
		select {
		case e := <-c.events:
			if !write(e) {
				return
			}
		default:
			return
		}
	}
}

// jobID reads the id in a path.
func jobID(q *http.Request) (id job.ID, ok bool) {
	s := q.PathValue("job")
	n, err := hex.Decode(id[:], []byte(s[:min(len(s), 2*len(id))]))
	return id, err == nil && n == len(id) && len(s) == 2*len(id)
}

// jobOf is the run that a path names.
func (p *Provider) jobOf(q *http.Request) (*run, error) {
	id, ok := jobID(q)
	if !ok {
		return nil, refuse(job.UnknownJob, "")
	}
	r, err := p.find(id)
	if err == nil && r == nil {
		err = refuse(job.UnknownJob, "")
	}
	return r, err
}

// payeeOf is the session of the job that a path names, and its run, which
// vectors do not have.
func (p *Provider) payeeOf(q *http.Request) (pay.Payee, *run, error) {
	r, err := p.jobOf(q)
	if err == nil {
		return r.payee, r, nil
	}
	id, ok := jobID(q)
	p.mu.Lock()
	defer p.mu.Unlock()
	if v := p.vectors[id]; ok && v != nil && v.payee != nil {
		return v.payee, nil, nil
	}
	return nil, nil, err
}

func (p *Provider) postPay(w http.ResponseWriter, q *http.Request) {
	payee, r, err := p.payeeOf(q)
	if err != nil {
		p.refused(w, err)
		return
	}
	b, err := p.body(w, q, pay.MaxMessage)
	if err != nil {
		p.refused(w, err)
		return
	}
	before := payee.Paid()
	answer, err := payee.Receive(q.Context(), b)
	if paid := payee.Paid(); paid > before || err == nil {
		if r != nil {
			r.give(job.Received{Paid: paid})
		} else if paid > before {
			p.mu.Lock()
			p.totals.Earned += paid - before
			p.mu.Unlock()
		}
	}
	if err != nil {
		p.o.Log.Info("payment refused", "job", q.PathValue("job"), "error", err)
		if answer == nil {
			p.refused(w, refuse(job.BadOrder, "%v", err))
			return
		}
		w.Header().Set("Content-Type", "application/octet-stream")
		w.WriteHeader(http.StatusConflict)
	} else {
		w.Header().Set("Content-Type", "application/octet-stream")
	}
	_, _ = w.Write(answer)
}

func (p *Provider) deleteJob(w http.ResponseWriter, q *http.Request) {
	r, err := p.jobOf(q)
	if err == nil {
		if err = job.VerifyCancel(r.order.Client, r.id, q.Header.Get("Geist-Cancel")); err != nil {
			err = refuse(job.BadOrder, "%v", err)
		}
	}
	if err != nil {
		p.refused(w, err)
		return
	}
	r.give(job.CancelAsked{})
	w.WriteHeader(http.StatusNoContent)
}

// exchanger is a rail on which nodes that meet again agree on balances.
type exchanger interface {
	Exchange(peer ghost.Key, message []byte) (answer []byte, err error)
}

// postCredit carries messages of such a rail; the header Geist-Peer says whose
// they are, and their own signatures prove it.
func (p *Provider) postCredit(w http.ResponseWriter, q *http.Request) {
	var peer ghost.Key
	if s := q.Header.Get("Geist-Peer"); len(s) != 2*len(peer) {
		p.refused(w, refuse(job.BadOrder, "The header Geist-Peer must be a key in hexadecimal digits."))
		return
	} else if _, err := hex.Decode(peer[:], []byte(s)); err != nil {
		p.refused(w, refuse(job.BadOrder, "The header Geist-Peer must be a key in hexadecimal digits."))
		return
	}
	b, err := p.body(w, q, pay.MaxMessage)
	if err != nil {
		p.refused(w, err)
		return
	}
	for _, rail := range p.o.Rails {
		x, ok := rail.(exchanger)
		if !ok {
			continue
		}
		answer, err := x.Exchange(peer, b)
		if err != nil && answer == nil {
			p.refused(w, refuse(job.BadOrder, "%v", err))
			return
		}
		w.Header().Set("Content-Type", "application/octet-stream")
		if err != nil {
			w.WriteHeader(http.StatusConflict)
		}
		_, _ = w.Write(answer)
		return
	}
	p.refused(w, refuse(job.UnknownRail, ""))
}

// modelJSON is a model in the list.
type modelJSON struct {
	ID           string      `json:"id"`
	Name         string      `json:"name"`
	Quantisation string      `json:"quantisation,omitempty"`
	Context      int         `json:"context"`
	Grade        ghost.Grade `json:"grade"`
	Running      int         `json:"running"`
	Waiting      int         `json:"waiting"`
	Sessions     int         `json:"sessions"`
}

func (p *Provider) getModels(w http.ResponseWriter, _ *http.Request) {
	list := []modelJSON{}
	for _, m := range p.Models() {
		l := p.Load(m.ID)
		list = append(list, modelJSON{m.ID.String(), m.Name, m.Quantisation, m.Context, m.Grade, l.Running, l.Waiting, l.Sessions})
	}
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(map[string]any{"provider": p.self.String(), "models": list})
}

func (p *Provider) getBytes(w http.ResponseWriter, q *http.Request, of func(*Model) []byte) {
	id, err := ghost.ParseID(q.PathValue("id"))
	p.mu.Lock()
	m := p.models[id]
	p.mu.Unlock()
	if err != nil || m == nil || of(&m.Model) == nil {
		p.refused(w, refuse(job.UnknownModel, ""))
		return
	}
	w.Header().Set("Content-Type", "application/octet-stream")
	w.Header().Set("Cache-Control", "public, max-age=31536000, immutable") // the id says what it must be
	http.ServeContent(w, q, "", time.Time{}, bytes.NewReader(of(&m.Model)))
}
