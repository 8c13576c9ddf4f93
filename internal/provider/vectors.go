package provider

import (
	"context"
	"errors"
	"net/http"
	"slices"
	"time"

	"github.com/geistnet/geist/ghost"
	"github.com/geistnet/geist/internal/job"
	"github.com/geistnet/geist/internal/pay"
)

// vectorJob is an order of vectors that is computed, or waits for its payment.
type vectorJob struct {
	payee pay.Payee // nil while it is computed
	until time.Time // its order is too old then
}

// postVectors computes the vectors of texts (docs/spec/job.md §7).
func (p *Provider) postVectors(w http.ResponseWriter, q *http.Request) {
	b, err := p.body(w, q, job.MaxOrderBytes)
	if err != nil {
		p.refused(w, err)
		return
	}
	o, err := job.ParseVectorOrder(b)
	if err != nil {
		p.refused(w, refuse(job.BadOrder, "%v", err))
		return
	}
	due, err := o.Due()
	if err != nil {
		p.refused(w, refuse(job.BadOrder, "%v", err))
		return
	}
	m, rail, no := p.admitVectors(o, p.room(o.Rail, o.Client, due))
	if no != nil {
		p.refused(w, no)
		return
	}
	defer p.work.Done()
	id := o.ID()
	payee, err := rail.Take(q.Context(), pay.Opening{Job: id, Peer: o.Client, First: due, Most: due})
	if err != nil {
		p.vectorsEnded(o, nil)
		p.refused(w, refuse(job.NoCredit, "%v", err))
		return
	}
	b, no = p.embed(q.Context(), m, payee, o, due)
	if no != nil {
		p.settleVectors(payee, 0, false)
		p.vectorsEnded(o, nil)
		p.refused(w, no)
		return
	}
	p.settleVectors(payee, due, true) // owed until it is paid
	p.vectorsEnded(o, payee)
	w.Header().Set("Content-Type", "application/json")
	_, _ = w.Write(b)
}

// embed gives what an order's client is sent, once the sum is held for it.
func (p *Provider) embed(ctx context.Context, m *served, payee pay.Payee, o *job.VectorOrder, due pay.MilliSat) ([]byte, *Refusal) {
	offer, err := payee.Cover(ctx, due)
	switch {
	case err != nil:
		return nil, refuse(job.NoCredit, "%v", err)
	case offer != nil:
		return nil, refuse(job.UnknownRail, "Vectors are paid afterwards only.")
	}
	out := job.Vectors{Due: due}
	for _, t := range o.Texts {
		v, err := m.Worker.Embed(ctx, t)
		if err != nil {
			return nil, refusalOf(err)
		}
		out.Vectors = append(out.Vectors, v)
	}
	b, err := out.Encode()
	if err != nil {
		return nil, refuse(job.EngineFailed, "%v", err)
	}
	return b, nil
}

func refusalOf(err error) *Refusal {
	if r := (*Refusal)(nil); errors.As(err, &r) {
		return r
	}
	b := broken(err)
	return &Refusal{Code: b.Code, Message: b.Message}
}

func (p *Provider) settleVectors(payee pay.Payee, due pay.MilliSat, owed bool) {
	if err := payee.Close(p.ctx, due, owed); err != nil {
		p.o.Log.Error("close a payment session", "error", err)
	}
}

// admitVectors is admit for vectors. The client then counts as active, and the job
// as taken, until vectorsEnded.
func (p *Provider) admitVectors(o *job.VectorOrder, bears bool) (*served, pay.Rail, *Refusal) {
	p.mu.Lock()
	defer p.mu.Unlock()
	now, id := p.o.Now(), o.ID()
	for id, v := range p.vectors {
		if v.payee != nil && now.After(v.until) {
			delete(p.vectors, id)
		}
	}
	longest := 0
	for _, t := range o.Texts {
		longest = max(longest, len(t))
	}
	a, ok := p.asks[o.Ask]
	m := p.models[o.Model]
	i := slices.IndexFunc(p.o.Rails, func(r pay.Rail) bool { return r.Name() == o.Rail })
	d := now.Unix() - o.CreatedAt
	switch {
	case o.Provider != p.self:
		return nil, nil, refuse(job.UnknownAsk, "It is for another provider.")
	case d > job.MaxSkew || d < -job.MaxSkew:
		return nil, nil, refuse(job.TooOld, "")
	case p.idle != nil:
		return nil, nil, refuse(job.Draining, "")
	case m == nil || m.gone || m.Grade == ghost.Reputation:
		return nil, nil, refuse(job.UnknownModel, "")
	case !ok || a.Model != o.Model || time.Unix(o.CreatedAt, 0).After(a.Expires):
		return nil, nil, refuse(job.UnknownAsk, "")
	case a.Prices != o.Prices:
		return nil, nil, refuse(job.PricesDiffer, "")
	case i < 0:
		return nil, nil, refuse(job.UnknownRail, "")
	case longest > m.Context:
		return nil, nil, refuse(job.TooLong, "A text has %d tokens; at most %d.", longest, m.Context)
	case p.vectors[id] != nil:
		return nil, nil, refuse(job.BadOrder, "It was done already.")
	}
	c := p.clientOf(o.Client)
	if c.active >= p.o.PerClient {
		return nil, nil, &Refusal{job.Busy, "", 1}
	}
	if !bears {
		return nil, nil, refuse(job.NoCredit, "")
	}
	c.active++
	p.work.Add(1)
	p.vectors[id] = &vectorJob{}
	return m, p.o.Rails[i], nil
}

// vectorsEnded remembers what was computed while its order could come again, and
// forgets what was refused, whose payee is nil.
func (p *Provider) vectorsEnded(o *job.VectorOrder, payee pay.Payee) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.clientOf(o.Client).active--
	if payee == nil {
		delete(p.vectors, o.ID())
		return
	}
	p.vectors[o.ID()] = &vectorJob{payee, p.o.Now().Add(2*job.MaxSkew*time.Second + linger)}
}
