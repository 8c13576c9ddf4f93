package node

import (
	"context"
	"sync"
	"time"

	"github.com/geistnet/geist/ghost"
	"github.com/geistnet/geist/internal/market"
	"github.com/geistnet/geist/internal/nostr"
)

// view is what this node knows of the market: events of its relays, and its own.
type view struct {
	now    func() time.Time
	kinds  market.Kinds
	self   ghost.Key // of the asker
	follow []ghost.Key

	mu      sync.Mutex
	events  map[nostr.ID]*nostr.Event
	asks    []*market.Ask
	refused []market.Refused
	reviews []*market.Review
	trust   *market.Trust
	at      time.Time     // of the lists
	cost    time.Duration // what making them took the last time
	dirty   bool
}

const (
	viewAge   = 2 * time.Second // lists are made again after this, since asks expire
	maxEvents = 20000
)

func newView(now func() time.Time, self ghost.Key, follow []ghost.Key) *view {
	return &view{now: now, kinds: market.DefaultKinds(), self: self, follow: follow, events: map[nostr.ID]*nostr.Event{},
		trust: market.NewTrust(self, map[ghost.Key][]ghost.Key{self: follow})}
}

// filter is what is asked of relays.
func (v *view) filter() nostr.Filter {
	return nostr.Filter{Kinds: []nostr.Kind{v.kinds.Ask, v.kinds.Review}}
}

// run takes events until the channel is closed.
func (v *view) run(ctx context.Context, events <-chan *nostr.Event) {
	for {
		select {
		case e, ok := <-events:
			if !ok {
				return
			}
			v.add(e)
		case <-ctx.Done():
			return
		}
	}
}

// add takes a verified event.
func (v *view) add(e *nostr.Event) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.events[e.ID] != nil {
		return
	}
	if len(v.events) >= maxEvents {
		v.prune()
		if len(v.events) >= maxEvents {
			return
		}
	}
	v.events[e.ID] = e
	v.dirty = true
}

// prune forgets what no list has any more. v.mu is held.
func (v *view) prune() {
	v.lists()
	keep := map[nostr.ID]bool{}
	for _, a := range v.asks {
		keep[a.ID] = true
	}
	for _, r := range v.reviews {
		keep[r.ID] = true
	}
	for id := range v.events {
		if !keep[id] {
			delete(v.events, id)
		}
	}
}

// lists makes the lists again if they are old. v.mu is held.
func (v *view) lists() {
	now := v.now()
	wait := viewAge
	if v.dirty {
		wait = 0
	}
	// Whoever floods the relays with offers slows the news down, not every question.
	if v.cost > 50*time.Millisecond {
		wait = max(wait, 10*v.cost)
	}
	if now.Sub(v.at) < wait {
		return
	}
	begin := time.Now()
	defer func() { v.cost = time.Since(begin) }()
	var asks, reviews []*nostr.Event
	for _, e := range v.events {
		switch e.Kind {
		case v.kinds.Ask:
			asks = append(asks, e)
		case v.kinds.Review:
			reviews = append(reviews, e)
		}
	}
	rules := market.Rules{Kinds: v.kinds, Now: now.Unix()}
	v.asks, v.refused = market.Collect(asks, rules)
	v.reviews, _ = market.CollectReviews(reviews, rules, v.trust)
	v.at, v.dirty = now, false
	for _, r := range v.refused {
		if r.Why.Reason == market.Expired || r.Why.Reason == market.Replaced {
			delete(v.events, r.Event)
		}
	}
}

// Asks are the offers that count now.
func (v *view) Asks() []*market.Ask {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.lists()
	now := v.now().Unix()
	out := make([]*market.Ask, 0, len(v.asks))
	for _, a := range v.asks {
		if a.Expires > now {
			out = append(out, a)
		}
	}
	return out
}

// Reviews of others, and how far each is trusted.
func (v *view) Reviews() ([]*market.Review, *market.Trust) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.lists()
	return v.reviews, v.trust
}
