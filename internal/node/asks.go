package node

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/geistnet/geist/ghost"
	"github.com/geistnet/geist/internal/market"
	"github.com/geistnet/geist/internal/nostr"
	"github.com/geistnet/geist/internal/pay"
	"github.com/geistnet/geist/internal/provider"
)

// newAsk is an ask for a model, unsigned. It is a little younger than now, so that
// it mostly counts against one that a node took back as it ended. Where it does not,
// publish makes it younger.
func (n *Node) newAsk(s *serving, p *provider.Provider) *market.Ask {
	return &market.Ask{Created: n.parts.Now().Unix() + 3, Provider: p.Key(), Name: s.model.ID.String()[:24], Model: s.model.ID, ModelName: s.model.Name, Quant: s.model.Quantisation, Context: s.model.Context,
		Input: s.offer.Prompt, Output: s.offer.Answer, Capacity: s.model.Sessions, Endpoints: []string{n.ProvideURL()}, Rails: []string{"credit"}, Grade: s.model.Grade}
}

// announce signs the ask anew and tells the relays.
func (n *Node) announce(s *serving, p *provider.Provider) error {
	e, err := n.sign(s, p, 1)
	if err != nil || n.client == nil {
		return err
	}
	n.work.Go(func() {
		ctx, stop := context.WithTimeout(n.ctx, 10*time.Second)
		defer stop()
		ok, errs := n.publish(ctx, s, p, e)
		if ok > 0 {
			return
		}
		for _, err := range errs {
			n.log.Warn("publish an ask", "relay", err.Relay, "error", err.Err)
		}
	})
	return nil
}

// publish tells the relays of e, the ask's event. If one has a newer event, as of a
// node that ended a moment ago, the ask is signed for later times, up to a minute.
func (n *Node) publish(ctx context.Context, s *serving, p *provider.Provider, e *nostr.Event) (ok int, errs []*nostr.RelayError) {
	for later := int64(1); ; later *= 2 {
		ok, errs = n.client.Publish(ctx, e)
		if later > 32 || ctx.Err() != nil || !slices.ContainsFunc(errs, outdated) {
			return ok, errs
		}
		n.mu.Lock()
		next := s.ask.Created > int64(e.CreatedAt)
		n.mu.Unlock()
		if next {
			return ok, nil // whoever signed that publishes it
		}
		var err error
		if e, err = n.sign(s, p, later); err != nil {
			n.log.Error("sign an ask for a later time", "error", err)
			return ok, errs
		}
	}
}

// outdated tells whether a relay has a newer event than the one it was sent, in the
// words of relays that are common.
func outdated(err *nostr.RelayError) bool { return strings.Contains(err.Err.Error(), "newer event") }

// sign makes the ask's next event, at least later seconds younger than the one
// before, and lets orders answer to it.
func (n *Node) sign(s *serving, p *provider.Provider, later int64) (*nostr.Event, error) {
	s.signing.Lock()
	defer s.signing.Unlock()
	now := n.parts.Now()
	n.mu.Lock()
	a := *s.ask
	n.mu.Unlock()
	a.Created = max(now.Unix(), a.Created+later)
	a.Expires = a.Created + int64(askLife/time.Second)
	e, err := a.Event(market.DefaultKinds())
	if err != nil {
		return nil, fmt.Errorf("offer %s: %w", a.ModelName, err)
	}
	if err := nostr.Sign(e, n.parts.Secret); err != nil {
		return nil, err
	}
	if a.Capacity > 0 {
		p.Offer(provider.Ask{ID: ghost.Digest(e.ID), Model: a.Model, Prices: pay.Prices{Prompt: pay.MilliSat(a.Input), Answer: pay.MilliSat(a.Output)}, Expires: time.Unix(a.Expires, 0)})
	}
	n.mu.Lock()
	a.Capacity = s.ask.Capacity // which may have been taken back meanwhile
	s.ask = &a
	n.mu.Unlock()
	n.view.add(e)
	return e, nil
}

// refresh keeps asks alive.
func (n *Node) refresh() {
	tick := time.NewTicker(askRefresh)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			n.mu.Lock()
			list := slices.Clone(n.serving)
			n.mu.Unlock()
			for _, s := range list {
				if err := n.announce(s, n.provider); err != nil {
					n.log.Error("refresh an ask", "error", err)
				}
			}
		case <-n.ctx.Done():
			return
		}
	}
}
