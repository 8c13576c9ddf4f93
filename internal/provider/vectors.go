package provider

import (
	"net/http"
	"slices"
	"time"

	"github.com/geistnet/geist/ghost"
	"github.com/geistnet/geist/internal/job"
	"github.com/geistnet/geist/internal/pay"
)

// vectorJob is an order of vectors that was computed and waits for its payment.
type vectorJob struct {
	payee pay.Payee
	due   pay.MilliSat
	until time.Time
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
	m, rail, no := p.admitVectors(o)
	if no != nil {
		p.refused(w, no)
		return
	}
	defer p.work.Done()
	defer p.vectorEnded(o.Client)
	due, err := o.Due()
	if err != nil {
		p.refused(w, refuse(job.BadOrder, "%v", err))
		return
	}
	id := o.ID()
	payee, err := rail.Take(q.Context(), pay.Opening{Job: id, Peer: o.Client, First: due, Most: due})
	if err == nil {
		var offer []byte
		if offer, err = payee.Cover(q.Context(), due); err == nil && offer != nil {
			p.refused(w, refuse(job.UnknownRail, "Vectors are paid afterwards only."))
			return
		}
	}
	if err != nil {
		p.refused(w, refuse(job.NoCredit, "%v", err))
		return
	}
	out := job.Vectors{Due: due}
	for _, t := range o.Texts {
		v, err := m.Worker.Embed(q.Context(), t)
		if err != nil {
			p.settleVectors(payee, 0, false)
			p.refused(w, refusalOf(err))
			return
		}
		out.Vectors = append(out.Vectors, v)
	}
	b, err = out.Encode()
	if err != nil {
		p.settleVectors(payee, 0, false)
		p.refused(w, refuse(job.EngineFailed, "%v", err))
		return
	}
	p.mu.Lock()
	p.vectors[id] = &vectorJob{payee, due, p.o.Now().Add(linger)}
	p.mu.Unlock()
	p.settleVectors(payee, due, true) // owed until it is paid
	w.Header().Set("Content-Type", "application/json")
	_, _ = w.Write(b)
}

func refusalOf(err error) *Refusal {
	b := broken(err)
	return &Refusal{Code: b.Code, Message: b.Message}
}

func (p *Provider) settleVectors(payee pay.Payee, due pay.MilliSat, owed bool) {
	if err := payee.Close(p.ctx, due, owed); err != nil {
		p.o.Log.Error("close a payment session", "error", err)
	}
}

// admitVectors is admit for vectors; the client then counts as active.
func (p *Provider) admitVectors(o *job.VectorOrder) (*served, pay.Rail, *Refusal) {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := p.o.Now()
	for id, v := range p.vectors {
		if now.After(v.until) {
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
		return nil, nil, refuse(job.BadOrder, "It is for another provider.")
	case d > job.MaxSkew || d < -job.MaxSkew:
		return nil, nil, refuse(job.TooOld, "")
	case p.idle != nil:
		return nil, nil, refuse(job.Draining, "")
	case m == nil || m.gone || m.Grade == ghost.Reputation:
		return nil, nil, refuse(job.UnknownModel, "")
	case !ok || a.Model != o.Model:
		return nil, nil, refuse(job.UnknownAsk, "")
	case a.Prices != o.Prices:
		return nil, nil, refuse(job.PricesDiffer, "")
	case i < 0:
		return nil, nil, refuse(job.UnknownRail, "")
	case longest > m.Context:
		return nil, nil, refuse(job.TooLong, "A text has %d tokens; at most %d.", longest, m.Context)
	case p.vectors[o.ID()] != nil:
		return nil, nil, refuse(job.BadOrder, "It was done already.")
	}
	c := p.clientOf(o.Client)
	if c.active >= p.o.PerClient {
		return nil, nil, &Refusal{job.Busy, "", 1}
	}
	c.active++
	p.work.Add(1)
	return m, p.o.Rails[i], nil
}

func (p *Provider) vectorEnded(k ghost.Key) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.clientOf(k).active--
}
