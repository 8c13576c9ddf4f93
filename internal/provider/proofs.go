package provider

import (
	"bytes"
	"context"
	"io"
	"net/http"
	"slices"
	"strconv"
	"time"

	"github.com/geistnet/geist/audit"
	"github.com/geistnet/geist/ghost"
	"github.com/geistnet/geist/internal/job"
)

const (
	maxAudits  = 8                // proofs for clients that are made or wait
	maxOthers  = 2                // and for anybody else
	maxProves  = 6                // for anybody else, at once
	proveEvery = 10 * time.Second // and then one after each
)

// proofQueue says whose proof is made next: one at a time, and clients' before
// others'. Provider.mu guards it.
type proofQueue struct {
	making          bool
	clients, others []chan struct{} // closed when it is their turn
}

// snapshot is what an audit needs of a run; nil: it was opened too often.
func (r *run) snapshot(ctx context.Context) (*audit.RunFile, error) {
	out := make(chan *audit.RunFile, 1)
	r.give(func() {
		if r.audits >= r.p.o.Audits {
			out <- nil
			return
		}
		f := &audit.RunFile{Receipt: r.m.Receipt(), Request: r.order.Request, Answer: r.m.Tokens(), SeedNonce: r.order.SeedNonce}
		if r.sealed != nil {
			f.Outline = r.sealed.outline
		}
		out <- f
	})
	select {
	case f := <-out:
		return f, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	case <-r.done:
		return nil, refuse(job.UnknownJob, "")
	}
}

func (p *Provider) postAudit(w http.ResponseWriter, q *http.Request) {
	r, err := p.jobOf(q)
	if err != nil {
		p.refused(w, err)
		return
	}
	b, err := p.body(w, q, 4<<10)
	if err != nil {
		p.refused(w, err)
		return
	}
	call, err := job.ParseAudit(b)
	if err != nil {
		p.refused(w, refuse(job.BadOrder, "%v", err))
		return
	}
	if ghost.CommitAudit(call.Nonce) != r.order.Audit {
		p.refused(w, refuse(job.BadOrder, "The nonce is not the one that the order commits to."))
		return
	}
	if no := p.fits(&r.model.Model, call.Size); no != nil {
		p.refused(w, no)
		return
	}
	f, err := r.snapshot(q.Context())
	switch {
	case err != nil:
		p.refused(w, err)
		return
	case f == nil:
		p.refused(w, refuse(job.BadOrder, "The job was opened %d times; that is enough.", p.o.Audits))
		return
	case f.Receipt == nil:
		p.refused(w, refuse(job.NotYet, ""))
		return
	}
	f.AuditNonce, f.Size = call.Nonce, call.Size
	if p.prove(w, q, r.model, f, r) {
		r.opened.Store(true)
		r.give(job.AuditServed{})
	}
}

func (p *Provider) postProve(w http.ResponseWriter, q *http.Request) {
	b, err := p.body(w, q, job.MaxOrderBytes)
	if err != nil {
		p.refused(w, err)
		return
	}
	f, err := audit.ParseRunFile(b)
	if err != nil {
		p.refused(w, refuse(job.BadOrder, "%v", err))
		return
	}
	p.mu.Lock()
	m := p.models[f.Receipt.Model]
	p.mu.Unlock()
	if m == nil || m.gone {
		p.refused(w, refuse(job.UnknownModel, ""))
		return
	}
	if n := len(f.Request.Prompt) + len(f.Answer); n > m.Context {
		p.refused(w, refuse(job.TooLong, "It has %d tokens; at most %d.", n, m.Context))
		return
	}
	if no := p.fits(&m.Model, f.Size); no != nil {
		p.refused(w, no)
		return
	}
	p.prove(w, q, m, f, nil)
}

// fits tells why an audit of a size is not served; nil: it is.
func (p *Provider) fits(m *Model, s audit.Size) *Refusal {
	if m.Grade != ghost.GhostAudited {
		return refuse(job.BadOrder, "Answers of this model cannot be audited; their grade is %s.", m.Grade)
	}
	if s.Cells > p.o.Cells || s.Full > 4 || s.Tails > 64 {
		return refuse(job.BadOrder, "At most %d cells, 64 tails and 4 full ones are opened at once.", p.o.Cells)
	}
	return nil
}

// count adds n to the proofs of a run's job; false: there are enough, or it is gone.
func (r *run) count(ctx context.Context, n int) bool {
	out := make(chan bool, 1)
	r.give(func() {
		if n > 0 && r.audits >= r.p.o.Audits {
			out <- false
			return
		}
		r.audits += n
		if err := r.save(); err != nil {
			r.p.o.Log.Error("journal", "job", r.id.String(), "error", err)
		}
		out <- true
	})
	select {
	case ok := <-out:
		return ok
	case <-ctx.Done():
	case <-r.done:
	}
	return false
}

// proofPlace lets somebody wait for a proof, if not too many do. leave gives the place back.
func (p *Provider) proofPlace(client bool) (leave func(), no *Refusal) {
	p.mu.Lock()
	defer p.mu.Unlock()
	places, most := &p.proving, maxAudits
	if !client {
		places, most = &p.provingOthers, maxOthers
	}
	if *places >= most {
		return nil, &Refusal{job.Busy, "Many proofs wait to be made.", 5}
	}
	if !client {
		now := p.o.Now()
		if p.proves.now(now, proveEvery) >= maxProves {
			return nil, &Refusal{job.Busy, "Proofs of others' answers are made one in a while.", int(proveEvery / time.Second)}
		}
		p.proves.add(now)
	}
	*places++
	return func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		*places--
	}, nil
}

// proofTurn waits until a proof may be made; false: ctx or the provider ended.
// After true proofDone must follow.
func (p *Provider) proofTurn(ctx context.Context, client bool) bool {
	p.mu.Lock()
	line := &p.proofs.clients
	if !client {
		line = &p.proofs.others
	}
	if !p.proofs.making {
		p.proofs.making = true
		p.mu.Unlock()
		return true
	}
	turn := make(chan struct{})
	*line = append(*line, turn)
	p.mu.Unlock()
	select {
	case <-turn:
		return true
	case <-ctx.Done():
	case <-p.ctx.Done():
	}
	p.mu.Lock()
	i := slices.Index(*line, turn)
	if i >= 0 {
		*line = slices.Delete(*line, i, i+1)
	}
	p.mu.Unlock()
	if i < 0 { // the turn came meanwhile: the next one has it
		p.proofDone()
	}
	return false
}

// proofDone gives the turn to the next.
func (p *Provider) proofDone() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, line := range []*[]chan struct{}{&p.proofs.clients, &p.proofs.others} {
		if len(*line) > 0 {
			close((*line)[0])
			*line = slices.Delete(*line, 0, 1)
			return
		}
	}
	p.proofs.making = false
}

// prove writes a proof, of r's job for its client or, if r is nil, for anybody. One
// is made at a time; some others wait while their clients do. It counts for the job
// from when it is begun, unless the worker cannot make it.
func (p *Provider) prove(w http.ResponseWriter, q *http.Request, m *served, f *audit.RunFile, r *run) bool {
	leave, no := p.proofPlace(r != nil)
	if no != nil {
		p.refused(w, no)
		return false
	}
	defer leave()
	if !p.enter() {
		p.refused(w, refuse(job.Draining, ""))
		return false
	}
	defer p.work.Done()
	if !p.proofTurn(q.Context(), r != nil) {
		p.refused(w, refuse(job.Draining, "")) // nobody reads it if the client is gone
		return false
	}
	begin := p.o.Now()
	proof, err := p.open(q.Context(), m, f, r)
	p.proofDone()
	if err != nil {
		p.refused(w, err)
		return false
	}
	p.mu.Lock()
	p.totals.Proofs++
	p.mu.Unlock()
	p.o.Watch(Happening{Model: m.ID, Name: m.Name, Took: p.o.Now().Sub(begin)})
	w.Header().Set("Content-Type", "application/octet-stream")
	w.Header().Set("Content-Length", strconv.Itoa(len(proof)))
	rc := http.NewResponseController(w)
	_ = rc.SetWriteDeadline(time.Now().Add(10 * writeLimit))
	defer func() { _ = rc.SetWriteDeadline(time.Time{}) }()
	_, err = io.Copy(w, bytes.NewReader(proof))
	return err == nil
}

// open makes a proof in its turn.
func (p *Provider) open(ctx context.Context, m *served, f *audit.RunFile, r *run) ([]byte, error) {
	if r != nil && !r.count(ctx, 1) {
		return nil, refuse(job.BadOrder, "The job was opened %d times; that is enough.", p.o.Audits)
	}
	proof, err := m.Worker.Prove(ctx, f)
	if err == nil {
		return proof, nil
	}
	p.o.Log.Warn("proof", "model", m.Name, "error", err)
	if r != nil && ctx.Err() == nil {
		r.count(ctx, -1)
	}
	return nil, refuse(job.EngineFailed, "The run could not be opened: %v", err)
}
