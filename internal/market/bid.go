package market

import (
	"strconv"

	"github.com/geistnet/geist/ghost"
	"github.com/geistnet/geist/internal/nostr"
)

// A Bid is a client's wish with a limit, for providers that look for work.
type Bid struct {
	ID      nostr.ID
	Client  ghost.Key
	Name    string // the d tag
	Created int64
	Expires int64

	Model      ghost.ID
	MaxInput   Price
	MaxOutput  Price
	BudgetMsat int64
	Context    int         // tokens; 0: any
	MinGrade   ghost.Grade // "": any
	Work       int
}

// Event is the bid as an event to sign. It refuses what ParseBid would.
func (b *Bid) Event(k Kinds) (*nostr.Event, error) {
	e := &nostr.Event{CreatedAt: nostr.Timestamp(b.Created), Kind: k.Bid, Tags: nostr.Tags{
		{"d", b.Name}, {"s", mark}, {"geist", version}, {"m", b.Model.String()},
		{"max_price", b.MaxInput.String(), "msat", "input-token"},
		{"max_price", b.MaxOutput.String(), "msat", "output-token"},
		{"budget", strconv.FormatInt(b.BudgetMsat, 10), "msat"},
	}}
	if b.Context != 0 {
		e.Tags = append(e.Tags, nostr.Tag{"context", strconv.Itoa(b.Context)})
	}
	if b.MinGrade != "" {
		e.Tags = append(e.Tags, nostr.Tag{"grade", string(b.MinGrade)})
	}
	e.Tags = append(e.Tags, nostr.Tag{"expiration", strconv.FormatInt(b.Expires, 10)})
	if _, err := readBid(e, k); err != nil {
		return nil, err
	}
	return e, nil
}

// ParseBid reads and checks one bid. Errors are *Refusal.
func ParseBid(e *nostr.Event, r Rules) (*Bid, error) {
	b, err := readBid(e, r.Kinds)
	if err != nil {
		return nil, err
	}
	if err := checkTimes(e, b.Expires, maxLife, r.Now); err != nil {
		return nil, err
	}
	if b.Work < r.MinWork {
		return nil, refuse(LittleWork, "proof of work of %d bits, at least %d", b.Work, r.MinWork)
	}
	if err := nostr.Verify(e); err != nil {
		return nil, refuse(Forged, "%v", err)
	}
	return b, nil
}

func readBid(e *nostr.Event, k Kinds) (*Bid, error) {
	if err := marked(e, k.Bid, nostr.Tag{"s", mark}); err != nil {
		return nil, err
	}
	t := tags{e: e}
	b := &Bid{ID: e.ID, Client: ghost.Key(e.PubKey), Created: int64(e.CreatedAt), Work: nostr.Work(e)}
	b.Name = t.name("d")
	b.Expires = t.number("expiration", 1, maxMsat)
	b.Model = t.model("m")
	b.MaxInput, b.MaxOutput = t.prices("max_price")
	if m := t.one("budget", 3); m != nil {
		b.BudgetMsat = t.within("budget", m[1], 0, maxMsat)
		t.unit("budget", m[2], "msat")
	}
	if m := t.maybe("context", 2); m != nil {
		b.Context = int(t.within("context", m[1], 1, maxContext))
	}
	if m := t.maybe("grade", 2); m != nil {
		if b.MinGrade = ghost.Grade(m[1]); rankOf(b.MinGrade) < 0 {
			t.fail(refuse(BadTag, "grade %.40q", m[1]))
		}
	}
	if t.err != nil {
		return nil, t.err
	}
	return b, nil
}

// Check says what is wrong with an event of one of the three kinds, with the
// reasons of Refusal. A relay can ask it before it takes an event. Events of other
// kinds pass.
func Check(e *nostr.Event, r Rules) error {
	var err error
	switch e.Kind {
	case r.Kinds.Ask:
		_, err = ParseAsk(e, r)
	case r.Kinds.Bid:
		_, err = ParseBid(e, r)
	case r.Kinds.Review:
		_, err = ParseReview(e, r)
	}
	return err
}
