package provider

import (
	"slices"

	"github.com/geistnet/geist/ghost"
)

// served is a model with its places. Provider.mu guards all that changes.
type served struct {
	Model
	gone    bool
	free    int // places
	waiting int
	// Clients take turns: each has a queue, and turns says who is next.
	queues map[ghost.Key][]*run
	turns  []ghost.Key
}

// seat gives r a place now, or lets it wait. p.mu is held.
func (p *Provider) seat(r *run) {
	m := r.model
	if m.free > 0 || r.again { // what a crash interrupted goes on beside the others
		m.free--
		r.seated = true
		r.seat <- struct{}{}
		return
	}
	k := r.order.Client
	if len(m.queues[k]) == 0 {
		m.turns = append(m.turns, k)
	}
	m.queues[k] = append(m.queues[k], r)
	m.waiting++
	p.waiting++
}

// leave gives r's place to the next client's oldest order, or takes r out of
// its queue. It may be called again.
func (p *Provider) leave(r *run) {
	p.mu.Lock()
	defer p.mu.Unlock()
	m := r.model
	if !r.seated {
		k := r.order.Client
		if i := slices.Index(m.queues[k], r); i >= 0 {
			m.queues[k] = slices.Delete(m.queues[k], i, i+1)
			m.waiting--
			p.waiting--
			if len(m.queues[k]) == 0 {
				delete(m.queues, k)
				m.turns = slices.DeleteFunc(m.turns, func(t ghost.Key) bool { return t == k })
			}
		}
		return
	}
	r.seated = false
	m.free++
	if len(m.turns) == 0 || m.free <= 0 {
		return
	}
	m.free--
	k := m.turns[0]
	m.turns = m.turns[1:]
	next := m.queues[k][0]
	if m.queues[k] = m.queues[k][1:]; len(m.queues[k]) > 0 {
		m.turns = append(m.turns, k)
	} else {
		delete(m.queues, k)
	}
	m.waiting--
	p.waiting--
	next.seated = true
	next.seat <- struct{}{}
}
