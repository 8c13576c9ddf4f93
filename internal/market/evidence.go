package market

import (
	"bytes"
	"cmp"
	"encoding/hex"
	"slices"
	"strconv"
	"strings"

	"github.com/geistnet/geist/ghost"
	"github.com/geistnet/geist/internal/nostr"
)

// An Experience is what the reader itself met with one request. It is never
// published as it stands; NewReview sums a week of them.
type Experience struct {
	Provider ghost.Key `json:"-"`
	Model    ghost.ID  `json:"-"`
	At       int64     `json:"at"` // when it ended, seconds since 1970

	OK     bool   `json:"ok"`               // an answer came whole
	Reason string `json:"reason,omitempty"` // why not, a code of package job

	TTFTms    int64 `json:"ttft_ms,omitempty"`   // to the first token; 0: not measured
	TPSMilli  int64 `json:"tps_milli,omitempty"` // thousandths of tokens per second; 0: not measured
	SpentMsat int64 `json:"spent_msat,omitempty"`
	Audit     Audit `json:"audit,omitempty"`
}

// Audit is the outcome of an audit of one answer.
type Audit string

const (
	NotAudited  Audit = ""
	AuditPassed Audit = "passed"
	AuditFailed Audit = "failed"
)

const week = 604800 // seconds

// A Review is what somebody says it met with a provider in one week.
type Review struct {
	ID       nostr.ID
	Author   ghost.Key
	Provider ghost.Key
	Model    ghost.ID
	Week     int64 // number of the week since 1970
	Created  int64
	Expires  int64

	Requests, Failed           int64
	AuditsPassed, AuditsFailed int64
	TTFTms, TPSMilli           int64 // medians; 0: not measured
	SpentMsat                  int64
	Receipts                   []string // ids, hex
}

// NewReview sums the experiences with one provider and model that ended in the
// week of at. ok is false if there are none.
func NewReview(own []Experience, provider ghost.Key, model ghost.ID, at int64) (r *Review, ok bool) {
	r = &Review{Provider: provider, Model: model, Week: at / week, Created: at, Expires: at + maxReviewLife}
	var ttft, tps []int64
	for _, x := range own {
		if x.Provider != provider || x.Model != model || x.At/week != r.Week || x.At > at {
			continue
		}
		r.Requests++
		if !x.OK {
			r.Failed++
		}
		switch x.Audit {
		case AuditPassed:
			r.AuditsPassed++
		case AuditFailed:
			r.AuditsFailed++
		}
		if x.TTFTms > 0 {
			ttft = append(ttft, min(x.TTFTms, 3_600_000))
		}
		if x.TPSMilli > 0 {
			tps = append(tps, min(x.TPSMilli, 1_000_000_000))
		}
		r.SpentMsat = add(r.SpentMsat, max(0, x.SpentMsat))
	}
	r.TTFTms, r.TPSMilli = median(ttft), median(tps)
	return r, r.Requests > 0
}

func median(v []int64) int64 {
	if len(v) == 0 {
		return 0
	}
	slices.Sort(v)
	return v[len(v)/2]
}

func (r *Review) name() string {
	return r.Provider.String() + ":" + hex.EncodeToString(r.Model[:]) + ":" + strconv.FormatInt(r.Week, 10)
}

// Event is the review as an event to sign. It refuses what ParseReview would.
func (r *Review) Event(k Kinds) (*nostr.Event, error) {
	n := func(v int64) string { return strconv.FormatInt(v, 10) }
	e := &nostr.Event{CreatedAt: nostr.Timestamp(r.Created), Kind: k.Review, PubKey: nostr.PubKey(r.Author), Tags: nostr.Tags{
		{"d", r.name()}, {"L", namespace}, {"geist", version}, {"p", r.Provider.String()}, {"m", r.Model.String()},
		{"n", n(r.Requests)}, {"fail", n(r.Failed)}, {"audits", n(r.AuditsPassed), n(r.AuditsFailed)},
	}}
	for _, t := range []struct {
		name string
		v    int64
	}{{"ttft_ms", r.TTFTms}, {"tps_milli", r.TPSMilli}, {"spent_msat", r.SpentMsat}} {
		if t.v != 0 {
			e.Tags = append(e.Tags, nostr.Tag{t.name, n(t.v)})
		}
	}
	for _, id := range r.Receipts {
		e.Tags = append(e.Tags, nostr.Tag{"e", id})
	}
	e.Tags = append(e.Tags, nostr.Tag{"expiration", n(r.Expires)})
	if _, err := readReview(e, k); err != nil {
		return nil, err
	}
	return e, nil
}

// ParseReview reads and checks one review. Errors are *Refusal.
func ParseReview(e *nostr.Event, rules Rules) (*Review, error) {
	r, err := readReview(e, rules.Kinds)
	if err != nil {
		return nil, err
	}
	if err := checkTimes(e, r.Expires, maxReviewLife, rules.Now); err != nil {
		return nil, err
	}
	if err := nostr.Verify(e); err != nil {
		return nil, refuse(Forged, "%v", err)
	}
	return r, nil
}

func readReview(e *nostr.Event, k Kinds) (*Review, error) {
	if err := marked(e, k.Review, nostr.Tag{"L", namespace}); err != nil {
		return nil, err
	}
	t := tags{e: e}
	r := &Review{ID: e.ID, Author: ghost.Key(e.PubKey), Created: int64(e.CreatedAt)}
	r.Expires = t.number("expiration", 1, maxMsat)
	if m := t.one("p", 2); m != nil {
		var err error
		if r.Provider, err = parseKey(m[1]); err != nil {
			t.fail(refuse(BadTag, "p: %v", err))
		}
	}
	r.Model = t.model("m")
	r.Requests = t.number("n", 1, 1_000_000_000)
	r.Failed = t.number("fail", 0, r.Requests)
	if m := t.one("audits", 3); m != nil {
		r.AuditsPassed = t.within("audits", m[1], 0, r.Requests)
		r.AuditsFailed = t.within("audits", m[2], 0, r.Requests-r.AuditsPassed)
	}
	optional := func(name string, high int64) int64 {
		if m := t.maybe(name, 2); m != nil {
			return t.within(name, m[1], 0, high)
		}
		return 0
	}
	r.TTFTms = optional("ttft_ms", 3_600_000)
	r.TPSMilli = optional("tps_milli", 1_000_000_000)
	r.SpentMsat = optional("spent_msat", maxMsat)
	for _, id := range t.many("e", 0) {
		if len(id) != 64 || !lowerHex(id) {
			t.fail(refuse(BadTag, "e %.80q is no id", id))
		}
		r.Receipts = append(r.Receipts, id)
	}
	if m := t.one("d", 2); m != nil && t.err == nil {
		_, last, _ := strings.Cut(m[1], r.Provider.String()+":"+hex.EncodeToString(r.Model[:])+":")
		var err error
		if r.Week, err = decimal(last, maxMsat); err != nil || r.name() != m[1] {
			t.fail(refuse(BadTag, "d %.160q is not of this provider, model and a week", m[1]))
		}
	}
	if t.err == nil && r.Author == r.Provider {
		t.fail(refuse(BadTag, "the provider reviews itself"))
	}
	if t.err != nil {
		return nil, t.err
	}
	return r, nil
}

// CollectReviews reads reviews out of events: of each author, provider, model
// and week the one that counts. Reviews of those whom the trust does not reach are
// left out at once, so that strangers cost nothing. The order is fixed.
func CollectReviews(events []*nostr.Event, rules Rules, t *Trust) ([]*Review, []Refused) {
	best := map[string]*Review{}
	var out []Refused
	for _, e := range events {
		if t.Weight(ghost.Key(e.PubKey)) == 0 {
			continue
		}
		r, err := ParseReview(e, rules)
		if err != nil {
			out = append(out, Refused{e.ID, e.PubKey, err.(*Refusal)})
			continue
		}
		k := string(r.Author[:]) + r.name()
		if old := best[k]; old == nil || r.Created > old.Created || r.Created == old.Created && bytes.Compare(r.ID[:], old.ID[:]) < 0 {
			best[k] = r
		}
	}
	reviews := make([]*Review, 0, len(best))
	for _, r := range best {
		reviews = append(reviews, r)
	}
	slices.SortFunc(reviews, func(a, b *Review) int {
		return cmp.Or(bytes.Compare(a.Provider[:], b.Provider[:]), bytes.Compare(a.Author[:], b.Author[:]), cmp.Compare(a.Week, b.Week), bytes.Compare(a.ID[:], b.ID[:]))
	})
	slices.SortFunc(out, func(a, b Refused) int {
		return cmp.Or(bytes.Compare(a.Event[:], b.Event[:]), cmp.Compare(a.Why.Detail, b.Why.Detail))
	})
	return reviews, out
}
