package market

import (
	"github.com/geistnet/geist/ghost"
	"github.com/geistnet/geist/internal/nostr"
)

// Weights of raters by their distance from the reader, in thousandths of the
// reader's own experience.
const (
	weightSelf     = 1000
	weightFollowed = 300
	weightFriend   = 60 // whom a followed one follows
	maxFollows     = 500
	maxTrusted     = 20_000
)

// Trust says how much the words of others weigh for one reader. It is made from
// the reader's own choice and reaches two steps.
type Trust struct {
	weight map[ghost.Key]int64
}

// NewTrust makes the trust of the reader me. follows are the lists of follows
// (kind 3) that the reader has: its own, and those of the ones it follows. Of each
// list the first 500 count.
func NewTrust(me ghost.Key, follows map[ghost.Key][]ghost.Key) *Trust {
	t := &Trust{weight: map[ghost.Key]int64{me: weightSelf}}
	mine := firsts(follows[me])
	for _, k := range mine {
		t.add(k, weightFollowed)
	}
	for _, k := range mine {
		for _, f := range firsts(follows[k]) {
			t.add(f, weightFriend)
		}
	}
	return t
}

func firsts(v []ghost.Key) []ghost.Key { return v[:min(len(v), maxFollows)] }

func (t *Trust) add(k ghost.Key, w int64) {
	if _, ok := t.weight[k]; !ok && len(t.weight) < maxTrusted {
		t.weight[k] = w
	}
}

// Weight is what a word of k weighs, in thousandths of one's own; 0 for a stranger.
// A nil Trust trusts nobody.
func (t *Trust) Weight(k ghost.Key) int64 {
	if t == nil {
		return 0
	}
	return t.weight[k]
}

// kindFollows is NIP-02's list of follows.
const kindFollows nostr.Kind = 3

// Follows reads lists of follows out of events: of each author the newest that
// verifies. Whoever is named there and is no key is left out.
func Follows(events []*nostr.Event) map[ghost.Key][]ghost.Key {
	best := map[nostr.PubKey]*nostr.Event{}
	for _, e := range events {
		if e.Kind != kindFollows || nostr.CheckShape(e) != nil || nostr.Verify(e) != nil {
			continue
		}
		if old := best[e.PubKey]; old == nil || nostr.Newer(e, old) {
			best[e.PubKey] = e
		}
	}
	out := map[ghost.Key][]ghost.Key{}
	for k, e := range best {
		for _, t := range e.Tags {
			if len(t) < 2 || t[0] != "p" {
				continue
			}
			if f, err := parseKey(t[1]); err == nil {
				out[ghost.Key(k)] = append(out[ghost.Key(k)], f)
			}
		}
	}
	return out
}

// Relayed are the kinds that a relay of this market takes: those of the market, and
// lists of follows.
func (k Kinds) Relayed() []nostr.Kind {
	return []nostr.Kind{k.Ask, k.Bid, k.Review, kindFollows}
}
