package market

import (
	"bytes"
	"cmp"
	"slices"
	"strings"

	"github.com/geistnet/geist/ghost"
	"github.com/geistnet/geist/internal/nostr"
)

// Bounds of what Collect keeps.
const (
	maxAsksPerProvider = 64
	maxAsks            = 10_000
)

// A Refused is an event that does not count, and why.
type Refused struct {
	Event nostr.ID
	By    nostr.PubKey
	Why   *Refusal
}

// Collect reads asks out of events: of each address the one that counts, at most
// 64 of a provider and 10000 in all, those with the most work and then the
// smallest ids. Both lists are ordered and do not depend on the order of events,
// nor on an event being there more than once.
func Collect(events []*nostr.Event, r Rules) ([]*Ask, []Refused) {
	type address struct {
		provider ghost.Key
		name     string
	}
	best := map[address]*Ask{}
	seen := map[nostr.ID]bool{}
	var out []Refused
	no := func(id nostr.ID, by nostr.PubKey, err error) {
		out = append(out, Refused{id, by, err.(*Refusal)})
	}
	for _, e := range events {
		a, err := ParseAsk(e, r)
		if err != nil {
			no(e.ID, e.PubKey, err)
			continue
		}
		if seen[a.ID] {
			continue
		}
		seen[a.ID] = true
		k := address{a.Provider, a.Name}
		old := best[k]
		if old == nil {
			best[k] = a
			continue
		}
		if a.newer(old) {
			a, old, best[k] = old, a, a
		}
		no(a.ID, nostr.PubKey(a.Provider), refuse(Replaced, "a newer ask %q is there", a.Name))
	}
	asks := make([]*Ask, 0, len(best))
	for _, a := range best {
		asks = append(asks, a)
	}
	slices.SortFunc(asks, func(a, b *Ask) int {
		return cmp.Or(cmp.Compare(b.Work, a.Work), bytes.Compare(a.ID[:], b.ID[:]))
	})
	kept, of := asks[:0:0], map[ghost.Key]int{}
	for _, a := range asks {
		switch {
		case of[a.Provider] == maxAsksPerProvider:
			no(a.ID, nostr.PubKey(a.Provider), refuse(Crowded, "at most %d asks of one provider", maxAsksPerProvider))
		case len(kept) == maxAsks:
			no(a.ID, nostr.PubKey(a.Provider), refuse(Crowded, "at most %d asks", maxAsks))
		default:
			of[a.Provider]++
			kept = append(kept, a)
		}
	}
	slices.SortFunc(kept, (*Ask).compare)
	slices.SortFunc(out, func(a, b Refused) int {
		return cmp.Or(bytes.Compare(a.Event[:], b.Event[:]), cmp.Compare(a.Why.Reason, b.Why.Reason), cmp.Compare(a.Why.Detail, b.Why.Detail), bytes.Compare(a.By[:], b.By[:]))
	})
	return kept, slices.CompactFunc(out, func(a, b Refused) bool { return a.Event == b.Event && a.By == b.By && *a.Why == *b.Why })
}

// newer tells whether a replaces b at the same address.
func (a *Ask) newer(b *Ask) bool {
	if a.Created != b.Created {
		return a.Created > b.Created
	}
	return bytes.Compare(a.ID[:], b.ID[:]) < 0
}

// compare orders asks by provider and name.
func (a *Ask) compare(b *Ask) int {
	return cmp.Or(bytes.Compare(a.Provider[:], b.Provider[:]), strings.Compare(a.Name, b.Name), bytes.Compare(a.ID[:], b.ID[:]))
}
