package market

import (
	"fmt"
	"strings"

	"github.com/geistnet/geist/ghost"
)

// An Answer says where one ask of a provider came for one wish, in words for
// the client and for the provider.
type Answer struct {
	Provider string `json:"provider"` // hex
	Ask      string `json:"ask"`      // its name
	Place    int    `json:"place"`    // from 1; 0: excluded
	Of       int    `json:"of"`       // offers that may serve the wish
	Reason   Reason `json:"reason"`
	Client   string `json:"client"`        // why the client's request went as it did
	Hint     string `json:"provider_hint"` // what would change the provider's place
}

// Why explains the places of a provider's asks. It is empty if the provider
// has no ask that counts.
func (r *Ranking) Why(provider ghost.Key) []Answer {
	out := []Answer{}
	for _, list := range [][]Ranked{r.Offers, r.Excluded} {
		for i := range list {
			o := &list[i]
			if o.key() != provider {
				continue
			}
			a := Answer{Provider: provider.String(), Ask: o.Ask.Name, Place: o.Place, Of: len(r.Offers), Reason: o.Reason}
			if o.Place > 0 {
				a.Client = fmt.Sprintf("place %d of %d: %s: %s", o.Place, len(r.Offers), o.Reason, o.Detail)
			} else {
				a.Client = fmt.Sprintf("excluded: %s: %s", o.Reason, o.Detail)
			}
			a.Hint = r.hint(o)
			out = append(out, a)
		}
	}
	return out
}

// hint is what a provider can do about its place.
func (r *Ranking) hint(o *Ranked) string {
	switch o.Reason {
	case First, Exploration:
		return "nothing: this request comes to you first"
	case Dearer, PriceAboveMax, CostAboveMax:
		s := "ask for less"
		if o.Reason == Dearer && len(r.Offers) > 0 {
			s += fmt.Sprintf(": this request costs %d msat at yours and %d at the first", o.CostMsat, r.Offers[0].CostMsat)
		}
		return s
	case Slower, TooSlow:
		return "answer faster, or ask for less"
	case LessReliable, Unreliable:
		return "fail less; old failures lose half their weight every week"
	case Newcomer, NewcomerTurn:
		return "wait: newcomers have a share of requests, and answers make them known"
	case CoolingDown, NoCapacity:
		return "nothing: you will be asked again soon"
	case FailedAudit:
		return "an answer of yours did not stand up to an audit; a dispute can show who is right"
	case Expired:
		return "publish the ask again before it expires"
	case NoRail:
		return "take another way of payment"
	case Tie:
		return "nothing: equal offers take turns"
	case WrongModel, WrongQuantisation, ContextTooSmall, GradeTooLow:
		return "the request wants another model, context or grade than this ask has"
	}
	return "the request itself says so: " + strings.TrimSuffix(o.Detail, ".")
}
