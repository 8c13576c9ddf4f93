package market

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"net/url"
	"slices"
	"strings"

	"github.com/geistnet/geist/ghost"
)

// Why an offer is excluded.
const (
	WrongModel        Reason = "wrong-model"
	WrongQuantisation Reason = "wrong-quantisation"
	ContextTooSmall   Reason = "context-too-small"
	PriceAboveMax     Reason = "price-above-max"
	CostAboveMax      Reason = "cost-above-max"
	NotInOnly         Reason = "not-in-only"
	InIgnore          Reason = "in-ignore"
	NoCapacity        Reason = "no-capacity"
	FailedAudit       Reason = "failed-audit"
	TooSlow           Reason = "too-slow"
	NoRail            Reason = "no-rail"
	GradeTooLow       Reason = "grade-too-low"
	NoFallbacks       Reason = "no-fallbacks"
	// and Expired
)

// Why an offer is where it is.
const (
	First        Reason = "first"
	Exploration  Reason = "exploration"   // first, because newcomers have a share
	NewcomerTurn Reason = "newcomer-turn" // not first, because this request is a newcomer's
	InOrder      Reason = "order"         // the request lists others before it
	Newcomer     Reason = "newcomer"      // too little is known of it
	Unreliable   Reason = "unreliable"    // it failed more often than not
	CoolingDown  Reason = "cooling-down"  // it failed just now
	Dearer       Reason = "dearer"
	Slower       Reason = "slower"
	LessReliable Reason = "less-reliable"
	Tie          Reason = "tie" // equal to the first; a hash of the request decided
)

// What is assumed of a provider whose speed is not known.
const (
	assumedTTFTms   = 1500
	assumedTPSMilli = 15_000
)

// A Ranked is one offer in the order for one wish.
type Ranked struct {
	Ask      *Ask   `json:"ask"`
	Place    int    `json:"place"` // from 1; 0: excluded
	Reason   Reason `json:"reason"`
	Detail   string `json:"detail"`
	CostMsat int64  `json:"cost_msat"` // of the whole request
	TimeMs   int64  `json:"time_ms"`   // expected
	// ScoreMsat is cost over reliability, plus what the time is worth: less is better.
	ScoreMsat int64    `json:"score_msat"`
	Standing  Standing `json:"standing"`

	tier  int
	order int // position in the wish's order
	tie   [32]byte
}

// A Ranking is all offers for one wish: first those that may serve it, best
// first, then the excluded ones.
type Ranking struct {
	Offers   []Ranked `json:"offers"`
	Excluded []Ranked `json:"excluded"`
}

const (
	tierOrder = iota // named by the wish
	tierKnown
	tierNewcomer
	tierUnreliable
	tierCooling
)

// Rank orders asks for a wish. asks are those of Collect: each address once.
func Rank(asks []*Ask, ev *Evidence, w *Wish) (*Ranking, error) {
	if err := w.Check(); err != nil {
		return nil, err
	}
	r := &Ranking{Offers: []Ranked{}, Excluded: []Ranked{}}
	know := judge(ev, w.Now)
	for _, a := range asks {
		o := w.look(a, know.get(a.Provider, a.Model))
		if o.Reason, o.Detail = w.exclude(&o); o.Reason != "" {
			r.Excluded = append(r.Excluded, o)
		} else {
			r.Offers = append(r.Offers, o)
		}
	}
	slices.SortFunc(r.Offers, w.compare)
	w.explore(r)
	if w.NoFallbacks && len(r.Offers) > 1 {
		for _, o := range r.Offers[1:] {
			o.Reason, o.Detail = NoFallbacks, "the request allows no other provider than the first"
			r.Excluded = append(r.Excluded, o)
		}
		r.Offers = r.Offers[:1]
	}
	slices.SortFunc(r.Excluded, func(a, b Ranked) int { return a.Ask.compare(b.Ask) })
	for i := range r.Offers {
		o := &r.Offers[i]
		o.Place = i + 1
		if o.Reason == "" {
			o.Reason, o.Detail = w.compared(o, &r.Offers[0])
		}
	}
	return r, nil
}

// look computes what is compared.
func (w *Wish) look(a *Ask, st Standing) Ranked {
	o := Ranked{Ask: a, Standing: st, CostMsat: a.Cost(w.InputTokens, w.OutputTokens), order: position(w.Order, a.Provider)}
	o.TimeMs = o.ttft() + mulDiv(int64(w.OutputTokens), 1_000_000, o.tps())
	o.ScoreMsat = add(w.risk(&o), w.timeMsat(&o))
	switch {
	case o.order >= 0:
		o.tier = tierOrder
	case st.CoolUntil > w.Now:
		o.tier = tierCooling
	case st.Newcomer:
		o.tier = tierNewcomer
	case st.Reliability < unreliable:
		o.tier = tierUnreliable
	default:
		o.tier = tierKnown
	}
	o.tie = draw("tie", w.Request, a.Provider[:], []byte(a.Name))
	return o
}

// risk is the cost over the reliability.
func (w *Wish) risk(o *Ranked) int64 { return mulDiv(o.CostMsat, one, max(1, o.Standing.Reliability)) }

func (w *Wish) timeMsat(o *Ranked) int64 { return mulDiv(o.TimeMs, w.TimeMsat, 1000) }

func (o *Ranked) ttft() int64 {
	if o.Standing.TTFTms > 0 {
		return o.Standing.TTFTms
	}
	return assumedTTFTms
}

func (o *Ranked) tps() int64 {
	if o.Standing.TPSMilli > 0 {
		return o.Standing.TPSMilli
	}
	return assumedTPSMilli
}

// exclude says why the wish cannot be served by the offer, or "".
func (w *Wish) exclude(o *Ranked) (Reason, string) {
	a, st := o.Ask, &o.Standing
	not := fmt.Sprintf
	is := func(list []string, s string) bool {
		return slices.ContainsFunc(list, func(x string) bool { return strings.EqualFold(x, s) })
	}
	switch {
	case a.Expires <= w.Now:
		return Expired, not("expired %d s ago", w.Now-a.Expires)
	case len(w.Models) > 0 && !slices.Contains(w.Models, a.Model):
		return WrongModel, not("it has %v", a.Model)
	case w.ModelName != "" && !strings.EqualFold(w.ModelName, a.ModelName):
		return WrongModel, not("it has %q, not %q", a.ModelName, w.ModelName)
	case len(w.Quantizations) > 0 && !is(w.Quantizations, a.Quant):
		return WrongQuantisation, not("it has %q, not %s", a.Quant, strings.Join(w.Quantizations, ", "))
	case len(w.Only) > 0 && position(w.Only, a.Provider) < 0:
		return NotInOnly, "the request lists who may serve it"
	case position(w.Ignore, a.Provider) >= 0:
		return InIgnore, "the request leaves it out"
	case w.context() > a.Context:
		return ContextTooSmall, not("a context of %d tokens, %d are needed", a.Context, w.context())
	case w.MinGrade != "" && rankOf(a.Grade) < rankOf(w.MinGrade):
		return GradeTooLow, not("its grade is %s, at least %s is wanted", a.Grade, w.MinGrade)
	case len(w.Rails) > 0 && !slices.ContainsFunc(a.Rails, func(r string) bool { return slices.Contains(w.Rails, r) }):
		return NoRail, not("it takes %s, the client pays by %s", strings.Join(a.Rails, ", "), strings.Join(w.Rails, ", "))
	case w.MaxInput != nil && a.Input > *w.MaxInput:
		return PriceAboveMax, not("%v msat per input token, at most %v", a.Input, *w.MaxInput)
	case w.MaxOutput != nil && a.Output > *w.MaxOutput:
		return PriceAboveMax, not("%v msat per output token, at most %v", a.Output, *w.MaxOutput)
	case w.MaxCostMsat > 0 && o.CostMsat > w.MaxCostMsat:
		return CostAboveMax, not("%d msat for the request, at most %d", o.CostMsat, w.MaxCostMsat)
	case st.OwnAudits > 0:
		return FailedAudit, not("%d audits of its answers failed here", st.OwnAudits)
	case w.Busy[a.Provider] >= a.Capacity:
		return NoCapacity, not("it takes %d requests at once, %d of this client run", a.Capacity, w.Busy[a.Provider])
	case w.MinTPSMilli > 0 && st.TPSMilli > 0 && st.TPSMilli < w.MinTPSMilli:
		return TooSlow, not("%s tokens per second, at least %s", milli(st.TPSMilli), milli(w.MinTPSMilli))
	case w.MaxTTFTms > 0 && st.TTFTms > w.MaxTTFTms:
		return TooSlow, not("%d ms to the first token, at most %d", st.TTFTms, w.MaxTTFTms)
	}
	return "", ""
}

func milli(v int64) string { return fmt.Sprintf("%d.%03d", v/1000, v%1000) }

// compare orders two offers: tier, place in the wish's order, what the wish sorts
// by, and a hash that spreads equal offers over requests.
func (w *Wish) compare(a, b Ranked) int {
	c := cmp.Or(cmp.Compare(a.tier, b.tier), cmp.Compare(a.order, b.order))
	switch {
	case c != 0:
		return c
	case w.Sort == ByPrice:
		c = cmp.Compare(a.CostMsat, b.CostMsat)
	case w.Sort == ByThroughput:
		c = cmp.Compare(b.tps(), a.tps())
	case w.Sort == ByLatency:
		c = cmp.Compare(a.ttft(), b.ttft())
	}
	return cmp.Or(c, cmp.Compare(a.ScoreMsat, b.ScoreMsat), bytes.Compare(a.tie[:], b.tie[:]), a.Ask.compare(b.Ask))
}

// compared says why o is behind first.
func (w *Wish) compared(o, first *Ranked) (Reason, string) {
	say := fmt.Sprintf
	switch {
	case o == first:
		return First, "the best for this request"
	case first.Reason == Exploration:
		return NewcomerTurn, say("%d of 1000 requests go to a newcomer first, and this is one", w.ExplorePermille)
	case o.tier == tierOrder || first.tier == tierOrder:
		return InOrder, "the request lists others before it"
	case o.tier == tierNewcomer && first.tier != o.tier:
		return Newcomer, say("evidence of %s requests, %d are needed", micro(o.Standing.Weight), newcomerBelow/one)
	case o.tier == tierUnreliable && first.tier != o.tier:
		return Unreliable, say("%s of its requests went well", percent(o.Standing.Reliability))
	case o.tier == tierCooling && first.tier != o.tier:
		return CoolingDown, say("it failed just now and is asked again in %d s", o.Standing.CoolUntil-w.Now)
	}
	dearer := say("%d msat, the first costs %d", o.CostMsat, first.CostMsat)
	slower := say("%d ms expected, the first takes %d", o.TimeMs, first.TimeMs)
	switch {
	case w.Sort == ByPrice && o.CostMsat > first.CostMsat:
		return Dearer, dearer
	case w.Sort == ByThroughput && o.tps() < first.tps():
		return Slower, say("%s tokens per second, the first makes %s", milli(o.tps()), milli(first.tps()))
	case w.Sort == ByLatency && o.ttft() > first.ttft():
		return Slower, say("%d ms to the first token, the first takes %d", o.ttft(), first.ttft())
	case o.ScoreMsat == first.ScoreMsat:
		return Tie, "as good as the first; a hash of the request decided"
	}
	// What of the score weighs most: price, risk, or time.
	price := o.CostMsat - first.CostMsat
	risk := (w.risk(o) - o.CostMsat) - (w.risk(first) - first.CostMsat)
	time := w.timeMsat(o) - w.timeMsat(first)
	switch max(price, risk, time) {
	case price:
		return Dearer, dearer
	case risk:
		return LessReliable, say("%s reliable, the first %s", percent(o.Standing.Reliability), percent(first.Standing.Reliability))
	}
	return Slower, slower
}

func micro(v int64) string { return fmt.Sprintf("%d.%d", v/one, v%one/100_000) }

func percent(ppm int64) string { return fmt.Sprintf("%d.%d %%", ppm/10_000, ppm%10_000/1000) }

// explore puts a newcomer first in the share of requests that is theirs. Hosts
// are drawn before keys, so that many keys at one host have one lot.
func (w *Wish) explore(r *Ranking) {
	if w.Sort != Balanced || len(w.Order) > 0 || len(r.Offers) < 2 || r.Offers[0].tier == tierNewcomer {
		return
	}
	lot := draw("explore", w.Request)
	if binary.BigEndian.Uint64(lot[:])%1000 >= uint64(w.ExplorePermille) {
		return
	}
	best := -1
	var least []byte
	for i := range r.Offers {
		o := &r.Offers[i]
		if o.tier != tierNewcomer {
			continue
		}
		host := draw("host", w.Request, []byte(hostOf(o.Ask)))
		if l := append(host[:], o.tie[:]...); best < 0 || bytes.Compare(l, least) < 0 {
			best, least = i, l
		}
	}
	if best < 0 {
		return
	}
	o := r.Offers[best]
	o.Reason, o.Detail = Exploration, fmt.Sprintf("%d of 1000 requests go to a newcomer first, and this is one", w.ExplorePermille)
	copy(r.Offers[1:best+1], r.Offers[:best])
	r.Offers[0] = o
}

func hostOf(a *Ask) string {
	if len(a.Endpoints) > 0 {
		if u, err := url.Parse(a.Endpoints[0]); err == nil {
			return strings.ToLower(u.Hostname())
		}
	}
	return ""
}

// draw is a hash of the request for one purpose.
func draw(purpose string, request [32]byte, of ...[]byte) [32]byte {
	h := sha256.New()
	fmt.Fprintf(h, "geist/market/%s/1\x00", purpose)
	h.Write(request[:])
	for _, b := range of {
		h.Write(binary.BigEndian.AppendUint32(nil, uint32(len(b))))
		h.Write(b)
	}
	return [32]byte(h.Sum(nil))
}

// key is for reports only.
func (o *Ranked) key() ghost.Key { return o.Ask.Provider }
