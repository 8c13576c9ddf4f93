package market

import (
	"bytes"
	"cmp"
	"math/bits"
	"slices"
	"strings"

	"github.com/geistnet/geist/ghost"
)

const (
	one           = 1_000_000  // weight of one request of one's own, now
	halfLife      = 7 * 86400  // seconds in which evidence loses half its weight
	evidenceLife  = 90 * 86400 // seconds after which it counts no more
	maxOwn        = 20_000     // newest experiences that count
	perRater      = 100 * one  // the most that one rater's word counts before its weight
	auditPenalty  = 20         // failed requests that a failed audit counts as
	newcomerBelow = 3 * one    // less evidence makes a newcomer
	unreliable    = 500_000    // ppm; below, a newcomer is preferred
	coolFirst     = 30         // seconds after one failure, doubled by each that follows
	coolMost      = 3600       // seconds
)

// Evidence is what a reader knows of providers.
type Evidence struct {
	Own     []Experience
	Reviews []*Review // of CollectReviews
	Trust   *Trust
}

// A Standing is what the evidence says of one provider, by the reader's weights.
// Weights are in millionths of one fresh request of the reader's own.
type Standing struct {
	Weight      int64 `json:"weight"`          // of all evidence
	Reliability int64 `json:"reliability_ppm"` // of 10⁶; without evidence a half
	OwnAudits   int64 `json:"own_failed_audits"`
	TTFTms      int64 `json:"ttft_ms"`   // 0: not known
	TPSMilli    int64 `json:"tps_milli"` // 0: not known
	CoolUntil   int64 `json:"cool_until,omitempty"`
	Newcomer    bool  `json:"newcomer"`

	total, good int64
}

// decay is weight one after so many seconds: halved in each half-life, and
// straight between.
func decay(age int64) int64 {
	if age < 0 {
		age = 0
	}
	if age >= evidenceLife {
		return 0
	}
	w := int64(one) >> (age / halfLife)
	return w - w*(age%halfLife)/(2*halfLife)
}

type providerModel struct {
	provider ghost.Key
	model    ghost.ID
}

// standings judges every provider with evidence; speed is per model.
type standings struct {
	by    map[ghost.Key]*Standing
	speed map[providerModel]*speed
}

// speed is weighted sums; own counts alone where it is there.
type speed struct {
	own, others measured
}

type measured struct{ ttft, ttftWeight, tps, tpsWeight int64 }

func (m *measured) add(w, ttft, tps int64) {
	w /= 1000
	if ttft > 0 {
		m.ttft += w * min(ttft, 3_600_000)
		m.ttftWeight += w
	}
	if tps > 0 {
		m.tps += w * min(tps, 1_000_000_000)
		m.tpsWeight += w
	}
}

func judge(ev *Evidence, now int64) *standings {
	s := &standings{map[ghost.Key]*Standing{}, map[providerModel]*speed{}}
	if ev == nil {
		return s
	}
	s.own(ev.Own, now)
	s.others(ev, now)
	for _, x := range s.by {
		x.Weight = x.total
		x.Reliability = mulDiv(x.good+one, one, x.total+2*one)
		x.Newcomer = x.total < newcomerBelow
	}
	return s
}

func (s *standings) of(k ghost.Key) *Standing {
	x := s.by[k]
	if x == nil {
		x = &Standing{}
		s.by[k] = x
	}
	return x
}

func (s *standings) speedOf(k ghost.Key, m ghost.ID) *speed {
	x := s.speed[providerModel{k, m}]
	if x == nil {
		x = &speed{}
		s.speed[providerModel{k, m}] = x
	}
	return x
}

func (s *standings) own(own []Experience, now int64) {
	own = slices.Clone(own)
	slices.SortFunc(own, func(a, b Experience) int { // newest first, failures before successes
		ok := func(x Experience) int {
			if x.OK {
				return 1
			}
			return 0
		}
		return cmp.Or(cmp.Compare(b.At, a.At), bytes.Compare(a.Provider[:], b.Provider[:]), cmp.Compare(ok(a), ok(b)),
			bytes.Compare(a.Model[:], b.Model[:]), cmp.Compare(a.TTFTms, b.TTFTms), cmp.Compare(a.TPSMilli, b.TPSMilli), strings.Compare(string(a.Audit), string(b.Audit)))
	})
	failures := map[ghost.Key]int{} // in a row up to now
	since := map[ghost.Key]int64{}
	over := map[ghost.Key]bool{}
	for _, x := range own[:min(len(own), maxOwn)] {
		if x.At > now+maxFuture || now-x.At >= evidenceLife {
			continue
		}
		w, st := decay(now-x.At), s.of(x.Provider)
		st.total += w
		if x.OK {
			st.good += w
			s.speedOf(x.Provider, x.Model).own.add(w, x.TTFTms, x.TPSMilli)
		}
		if x.Audit == AuditFailed {
			st.OwnAudits++
		}
		switch {
		case x.OK:
			over[x.Provider] = true
		case !over[x.Provider]:
			if failures[x.Provider]++; failures[x.Provider] == 1 {
				since[x.Provider] = x.At
			}
		}
	}
	for k, n := range failures {
		s.by[k].CoolUntil = since[k] + min(coolMost, int64(coolFirst)<<min(n-1, 20))
	}
}

func (s *standings) others(ev *Evidence, now int64) {
	type pair struct{ author, provider ghost.Key }
	type sums struct{ total, good int64 }
	said := map[pair]*sums{}
	for _, r := range ev.Reviews {
		w := decay(now - r.Created)
		trust := ev.Trust.Weight(r.Author)
		if w == 0 || trust == 0 || trust == weightSelf {
			continue // one's own experience is there already, request by request
		}
		p := said[pair{r.Author, r.Provider}]
		if p == nil {
			p = &sums{}
			said[pair{r.Author, r.Provider}] = p
		}
		n, failed, wrong := scale(r.Requests, r.Failed, r.AuditsFailed)
		p.total += w * (n + auditPenalty*wrong)
		p.good += w * (n - failed)
		s.speedOf(r.Provider, r.Model).others.add(w*trust/weightSelf, r.TTFTms, r.TPSMilli)
	}
	for k, p := range said {
		if p.total > perRater {
			p.good, p.total = mulDiv(p.good, perRater, p.total), perRater
		}
		x, w := s.of(k.provider), ev.Trust.Weight(k.author)
		x.total += p.total * w / weightSelf
		x.good += p.good * w / weightSelf
	}
}

// scale brings counts to at most 1000 requests. A failed audit never vanishes.
func scale(n, failed, wrong int64) (int64, int64, int64) {
	if n <= 1000 {
		return n, failed, wrong
	}
	return 1000, mulDiv(failed, 1000, n), min(1000, mulDiv(wrong, 1000, n)+min(wrong, 1))
}

// get is the standing of one provider for one model.
func (s *standings) get(k ghost.Key, m ghost.ID) Standing {
	st := Standing{Reliability: unreliable, Newcomer: true}
	if x := s.by[k]; x != nil {
		st = *x
	}
	if v := s.speed[providerModel{k, m}]; v != nil {
		st.TTFTms = v.pick(func(m measured) (int64, int64) { return m.ttft, m.ttftWeight })
		st.TPSMilli = v.pick(func(m measured) (int64, int64) { return m.tps, m.tpsWeight })
	}
	return st
}

func (v *speed) pick(f func(measured) (sum, weight int64)) int64 {
	for _, m := range []measured{v.own, v.others} {
		if sum, w := f(m); w > 0 {
			return max(1, sum/w)
		}
	}
	return 0
}

// mulDiv is ⌊a·b/c⌋ for a, b ≥ 0 and c > 0, saturating at the most that there can be.
func mulDiv(a, b, c int64) int64 {
	hi, lo := bits.Mul64(uint64(a), uint64(b))
	if hi >= uint64(c) {
		return maxMsat
	}
	q, _ := bits.Div64(hi, lo, uint64(c))
	return int64(min(q, maxMsat))
}
