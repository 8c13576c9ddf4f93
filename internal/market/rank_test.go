package market

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/geistnet/geist/ghost"
	"github.com/geistnet/geist/internal/nostr"
)

func wish() *Wish {
	return &Wish{Request: [32]byte{1}, Now: now, Models: []ghost.ID{model}, InputTokens: 100, OutputTokens: 100, TimeMsat: DefaultTimeMsat}
}

// known is evidence of n good requests with provider p.
func known(p, n int) (out []Experience) {
	for i := range n {
		out = append(out, Experience{Provider: public(p), Model: model, At: now - int64(i) - 10, OK: true, TTFTms: 500, TPSMilli: 20_000})
	}
	return out
}

func failed(p, n int) (out []Experience) {
	for i := range n {
		out = append(out, Experience{Provider: public(p), Model: model, At: now - 5000 - int64(i), Reason: "timeout"})
	}
	return out
}

func rank(t testing.TB, asks []*Ask, ev *Evidence, w *Wish) *Ranking {
	t.Helper()
	r, err := Rank(asks, ev, w)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func TestExcluded(t *testing.T) {
	low, mid := Price(1), PerToken(1)
	for _, c := range []struct {
		want   Reason
		change func(*Ask, *Wish, *Evidence)
	}{
		{"", func(*Ask, *Wish, *Evidence) {}},
		{Expired, func(a *Ask, w *Wish, _ *Evidence) { a.Expires = now }},
		{WrongModel, func(a *Ask, w *Wish, _ *Evidence) { a.Model[9] = 9 }},
		{WrongModel, func(a *Ask, w *Wish, _ *Evidence) { w.ModelName = "large" }},
		{"", func(a *Ask, w *Wish, _ *Evidence) { w.ModelName = "TINY" }},
		{WrongQuantisation, func(a *Ask, w *Wish, _ *Evidence) { w.Quantizations = []string{"q4_0", "f16"} }},
		{"", func(a *Ask, w *Wish, _ *Evidence) { w.Quantizations = []string{"Q8_0"} }},
		{ContextTooSmall, func(a *Ask, w *Wish, _ *Evidence) { a.Context = 199 }},
		{"", func(a *Ask, w *Wish, _ *Evidence) { a.Context = 200 }},
		{"", func(a *Ask, w *Wish, _ *Evidence) { a.Context, w.Context = 199, 199 }},
		{ContextTooSmall, func(a *Ask, w *Wish, _ *Evidence) { a.Context, w.Context = 200, 201 }},
		{PriceAboveMax, func(a *Ask, w *Wish, _ *Evidence) { w.MaxInput = &low }},
		{PriceAboveMax, func(a *Ask, w *Wish, _ *Evidence) { w.MaxOutput = &mid }},
		{"", func(a *Ask, w *Wish, _ *Evidence) { w.MaxInput = &mid }},
		{CostAboveMax, func(a *Ask, w *Wish, _ *Evidence) { w.MaxCostMsat = 299 }},
		{"", func(a *Ask, w *Wish, _ *Evidence) { w.MaxCostMsat = 300 }},
		{NotInOnly, func(a *Ask, w *Wish, _ *Evidence) { w.Only = []string{public(2).String()} }},
		{"", func(a *Ask, w *Wish, _ *Evidence) { w.Only = []string{public(1).String()[:8]} }},
		{InIgnore, func(a *Ask, w *Wish, _ *Evidence) { w.Ignore = []string{nostr.PublicText(public(1))} }},
		{NoCapacity, func(a *Ask, w *Wish, _ *Evidence) { a.Capacity = 0 }},
		{NoCapacity, func(a *Ask, w *Wish, _ *Evidence) { w.Busy = map[ghost.Key]int{a.Provider: 4} }},
		{"", func(a *Ask, w *Wish, _ *Evidence) { w.Busy = map[ghost.Key]int{a.Provider: 3} }},
		{NoRail, func(a *Ask, w *Wish, _ *Evidence) { w.Rails = []string{"l402"} }},
		{GradeTooLow, func(a *Ask, w *Wish, _ *Evidence) { a.Grade, w.MinGrade = ghost.Reputation, ghost.GhostSound }},
		{"", func(a *Ask, w *Wish, _ *Evidence) { w.MinGrade = ghost.GhostSound }},
		{FailedAudit, func(a *Ask, w *Wish, ev *Evidence) {
			ev.Own = append(known(1, 50), Experience{Provider: public(1), Model: model, At: now - 80*86400, OK: true, Audit: AuditFailed})
		}},
		{"", func(a *Ask, w *Wish, ev *Evidence) {
			ev.Own = []Experience{{Provider: public(1), Model: model, At: now - evidenceLife, OK: true, Audit: AuditFailed}}
		}},
		{TooSlow, func(a *Ask, w *Wish, ev *Evidence) { ev.Own, w.MinTPSMilli = known(1, 3), 20_001 }},
		{TooSlow, func(a *Ask, w *Wish, ev *Evidence) { ev.Own, w.MaxTTFTms = known(1, 3), 499 }},
		{"", func(a *Ask, w *Wish, ev *Evidence) { w.MaxTTFTms, w.MinTPSMilli = 1, 1_000_000 }}, // not known is no reason
	} {
		a, w, ev := ask(1), wish(), &Evidence{}
		c.change(a, w, ev)
		r := rank(t, []*Ask{a}, ev, w)
		switch {
		case c.want == "" && len(r.Offers) != 1:
			t.Errorf("excluded: %s %s", r.Excluded[0].Reason, r.Excluded[0].Detail)
		case c.want != "" && (len(r.Excluded) != 1 || r.Excluded[0].Reason != c.want || r.Excluded[0].Detail == ""):
			t.Errorf("%+v, want %s", r, c.want)
		}
		if why := r.Why(a.Provider); len(why) != 1 || why[0].Client == "" || why[0].Hint == "" {
			t.Errorf("why %+v", why)
		}
	}
}

// order is provider and reason of the offers.
func order(r *Ranking, n int) (out []string) {
	for _, o := range r.Offers {
		for i := 1; i <= n; i++ {
			if o.Ask.Provider == public(i) {
				out = append(out, fmt.Sprintf("%d %s", i, o.Reason))
			}
		}
	}
	return out
}

func TestOrder(t *testing.T) {
	cheap, dear := ask(1), ask(2)
	dear.Input, dear.Output = PerToken(2), PerToken(4)
	both := func(more ...Experience) *Evidence {
		return &Evidence{Own: slices.Concat(known(1, 20), known(2, 20), more)}
	}
	quick := both()
	for i := range quick.Own {
		if quick.Own[i].Provider == public(1) {
			quick.Own[i].TTFTms, quick.Own[i].TPSMilli = 60_000, 1_000
		}
	}
	for _, c := range []struct {
		name  string
		ev    *Evidence
		third bool
		w     func(*Wish)
		want  string
	}{
		{name: "price", ev: both(), want: "1 first, 2 dearer"},
		{name: "by price", ev: quick, w: func(w *Wish) { w.Sort = ByPrice }, want: "1 first, 2 dearer"},
		{name: "by throughput", ev: quick, w: func(w *Wish) { w.Sort = ByThroughput }, want: "2 first, 1 slower"},
		{name: "by latency", ev: quick, w: func(w *Wish) { w.Sort = ByLatency }, want: "2 first, 1 slower"},
		{name: "time counts", ev: quick, want: "2 first, 1 slower"},
		{name: "time counts nothing", ev: quick, w: func(w *Wish) { w.TimeMsat = 0 }, want: "1 first, 2 dearer"},
		{name: "failures count", ev: both(append(failed(1, 15), known(2, 20)...)...), w: func(w *Wish) { w.TimeMsat = 0; dear.Input, dear.Output = PerToken(1), 2_200_000 }, want: "2 first, 1 less-reliable"},
		{name: "unreliable", ev: both(failed(1, 40)...), want: "2 first, 1 unreliable"},
		{name: "failed just now", ev: both(Experience{Provider: public(1), Model: model, At: now - 1, Reason: "timeout"}), want: "2 first, 1 cooling-down"},
		{name: "newcomer", ev: &Evidence{Own: known(2, 20)}, want: "2 first, 1 newcomer"},
		{name: "only newcomers", ev: nil, want: "1 first, 2 dearer"},
		{name: "in order", ev: both(), w: func(w *Wish) { w.Order = []string{"00000000", public(2).String()} }, want: "2 first, 1 order"},
		{name: "in this order", ev: both(), w: func(w *Wish) { w.Order = []string{public(2).String(), public(1).String()} }, want: "2 first, 1 order"},
		{name: "no fallbacks", ev: both(), w: func(w *Wish) { w.NoFallbacks = true }, want: "1 first"},
		{name: "exploration", ev: &Evidence{Own: known(2, 20)}, w: func(w *Wish) { w.ExplorePermille = 1000 }, want: "1 exploration, 2 newcomer-turn"},
		{name: "no exploration by price", ev: &Evidence{Own: known(2, 20)}, w: func(w *Wish) { w.ExplorePermille, w.Sort = 1000, ByPrice }, want: "2 first, 1 newcomer"},
	} {
		t.Run(c.name, func(t *testing.T) {
			dear.Input, dear.Output = PerToken(2), PerToken(4)
			w := wish()
			if c.w != nil {
				c.w(w)
			}
			r := rank(t, []*Ask{cheap, dear}, c.ev, w)
			if got := strings.Join(order(r, 2), ", "); got != c.want {
				t.Errorf("%s, want %s\n%+v", got, c.want, r.Offers)
			}
			for _, p := range []int{1, 2} {
				for _, a := range r.Why(public(p)) {
					if a.Hint == "" || !strings.Contains(a.Client, string(a.Reason)) {
						t.Errorf("%+v", a)
					}
				}
			}
		})
	}
}

// TestSamePlace: whatever the order in which events and experiences arrive, and
// however often, the ranking is the same bytes.
func TestSamePlace(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 2))
	var events []*nostr.Event
	var reviews []*nostr.Event
	ev := &Evidence{Trust: NewTrust(public(100), map[ghost.Key][]ghost.Key{public(100): {public(101), public(102)}, public(101): {public(103)}})}
	for i := range 40 {
		p := i%13 + 1
		a := ask(p)
		a.Name, a.Created = fmt.Sprint(i%3), now-int64(rnd.IntN(5))
		a.Input = Price(rnd.IntN(3)) * perMillion
		events = append(events, sign(t, p, a))
		ev.Own = append(ev.Own, Experience{Provider: public(p), Model: model, At: now - int64(rnd.IntN(90*86400)), OK: rnd.IntN(4) > 0,
			TTFTms: int64(rnd.IntN(3000)), TPSMilli: int64(rnd.IntN(90_000)), Audit: []Audit{NotAudited, NotAudited, AuditPassed}[rnd.IntN(3)]})
		r := review(101+i%4, p)
		r.Requests, r.Created, r.Week = int64(20+rnd.IntN(5000)), now-int64(rnd.IntN(1000)), now/week-int64(i%4)
		r.Expires = now + 5
		reviews = append(reviews, sign(t, 101+i%4, r))
	}
	bad := *events[0]
	bad.Content = "forged"
	events = append(events, &bad, sign(t, 20, ask(20), set("price")), sign(t, 30, ask(30)), sign(t, 31, ask(31)))
	events = append(events, events[0], events[7], events[7]) // some come again
	for p := range 5 {
		ev.Own = append(ev.Own, known(p+1, 9)...)
	}
	run := func() string {
		asks, refused := Collect(events, rules())
		rv, bad := CollectReviews(reviews, rules(), ev.Trust)
		e := *ev
		e.Reviews = rv
		out := fmt.Sprint(refused, bad)
		for i := range 20 {
			w := wish()
			w.ExplorePermille = 300
			w.Request[0] = byte(i)
			b, err := json.Marshal(rank(t, asks, &e, w))
			if err != nil {
				t.Fatal(err)
			}
			out += string(b)
		}
		return out
	}
	want := run()
	if !strings.Contains(want, string(Exploration)) || !strings.Contains(want, string(Replaced)) {
		t.Error("the case is too simple")
	}
	for range 20 {
		rnd.Shuffle(len(events), func(i, j int) { events[i], events[j] = events[j], events[i] })
		rnd.Shuffle(len(reviews), func(i, j int) { reviews[i], reviews[j] = reviews[j], reviews[i] })
		rnd.Shuffle(len(ev.Own), func(i, j int) { ev.Own[i], ev.Own[j] = ev.Own[j], ev.Own[i] })
		if run() != want {
			t.Fatal("another order of events gives another ranking")
		}
	}
}

// TestExplorationShare: newcomers get their share, each of them, and many keys at
// one host no more than one.
func TestExplorationShare(t *testing.T) {
	asks := []*Ask{ask(1), ask(2), ask(3)}
	for i := 4; i < 24; i++ { // twenty keys of one host
		a := ask(i)
		a.Endpoints = []string{"http://crowd.example/x"}
		asks = append(asks, a)
	}
	ev := &Evidence{Own: known(1, 20)}
	first := map[ghost.Key]int{}
	const n = 4000
	for i := range n {
		w := wish()
		w.ExplorePermille = 100
		binary.BigEndian.PutUint32(w.Request[:], uint32(i))
		a, b := rank(t, asks, ev, w), rank(t, asks, ev, w)
		if a.Offers[0].Ask != b.Offers[0].Ask {
			t.Fatal("one request explores two ways")
		}
		first[a.Offers[0].Ask.Provider]++
	}
	two, three := first[public(2)], first[public(3)]
	crowd := n - first[public(1)] - two - three
	if share := n - first[public(1)]; share < n/10*8/10 || share > n/10*12/10 {
		t.Errorf("%d of %d requests went to newcomers, want about %d", share, n, n/10)
	}
	for _, v := range []int{two, three, crowd} {
		if v < n/30*6/10 || v > n/30*14/10 {
			t.Errorf("newcomers had %d, %d and the crowd %d, want about %d each", two, three, crowd, n/30)
		}
	}
}

func TestEvidence(t *testing.T) {
	trust := NewTrust(public(1), map[ghost.Key][]ghost.Key{public(1): {public(2)}})
	get := func(ev *Evidence) Standing { return judge(ev, now).get(public(5), model) }
	if s := get(nil); !s.Newcomer || s.Reliability != unreliable {
		t.Errorf("nothing known: %+v", s)
	}
	fresh, stale := get(&Evidence{Own: known(5, 1)}), get(&Evidence{Own: []Experience{{Provider: public(5), Model: model, At: now - halfLife, OK: true}}})
	if stale.Weight*2 != one || fresh.Weight > one || fresh.Weight < one*99/100 {
		t.Errorf("weights %d and %d after a half-life", fresh.Weight, stale.Weight)
	}
	good := review(2, 5)
	good.Requests, good.Failed = 1_000_000_000, 0
	s := get(&Evidence{Reviews: []*Review{good}, Trust: trust})
	if s.Weight > perRater*weightFollowed/weightSelf || s.Newcomer || s.TTFTms != 300 {
		t.Errorf("a boasting friend: %+v", s)
	}
	caught := *good
	caught.AuditsFailed = 1
	if c := get(&Evidence{Reviews: []*Review{&caught}, Trust: trust}); c.Reliability >= s.Reliability {
		t.Errorf("a failed audit among a billion requests: %d, without %d", c.Reliability, s.Reliability)
	}
	stranger := review(3, 5)
	self := review(1, 5)
	if s := get(&Evidence{Reviews: []*Review{stranger, self}, Trust: trust}); s.Weight != 0 {
		t.Errorf("strangers and one's own reviews weigh %d", s.Weight)
	}
	own := get(&Evidence{Own: known(5, 1), Reviews: []*Review{good}, Trust: trust})
	if own.TTFTms != 500 || own.TPSMilli != 20_000 {
		t.Errorf("own speed does not come first: %+v", own)
	}
	for _, v := range []struct{ age, want int64 }{{0, one}, {-5, one}, {halfLife, one / 2}, {2 * halfLife, one / 4}, {evidenceLife, 0}, {halfLife / 2, one * 3 / 4}} {
		if got := decay(v.age); got != v.want {
			t.Errorf("weight at %d s is %d, want %d", v.age, got, v.want)
		}
	}
	last := int64(one)
	for age := int64(0); age < evidenceLife; age += 3600 {
		if w := decay(age); w > last || w < 0 {
			t.Fatalf("weight grows at %d s", age)
		} else {
			last = w
		}
	}
}

func TestCooling(t *testing.T) {
	fail := func(ages ...int64) (out []Experience) {
		for _, a := range ages {
			out = append(out, Experience{Provider: public(1), Model: model, At: now - a, Reason: "x"})
		}
		return out
	}
	for _, c := range []struct {
		own  []Experience
		want int64 // seconds from now
	}{
		{fail(5), 25}, {fail(5, 6), 55}, {fail(5, 6, 7), 115}, {fail(5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15), 3595},
		{slices.Concat(fail(5), []Experience{{Provider: public(1), At: now - 6, OK: true}}, fail(7, 8)), 25},
	} {
		s := judge(&Evidence{Own: c.own}, now).get(public(1), model)
		if s.CoolUntil-now != c.want {
			t.Errorf("%d failures: cool for %d s, want %d", len(c.own), s.CoolUntil-now, c.want)
		}
	}
	s := judge(&Evidence{Own: append(fail(6), Experience{Provider: public(1), At: now - 5, OK: true})}, now).get(public(1), model)
	if s.CoolUntil != 0 {
		t.Error("still cooling after a success")
	}
}

func TestPreferences(t *testing.T) {
	p, err := ParsePreferences([]byte(`{"order":["0123abcd"],"allow_fallbacks":false,"max_price":{"prompt":1.5,"completion":"2","request":0,"image":1},"sort":"latency","data_collection":"deny"}`))
	if err != nil || !p.NoFallbacks || *p.MaxInput != 1500 || *p.MaxOutput != 2000 || p.Sort != ByLatency || p.Order[0] != "0123abcd" {
		t.Errorf("%+v, %v", p, err)
	}
	for _, bad := range []string{
		"", "[]", `{"sort":"speed"}`, `{"order":["x"]}`, `{"only":["npub1x"]}`, `{"ignore":["0123abc"]}`, `{"order":"0123abcd"}`,
		`{"max_price":{"prompt":-1}}`, `{"max_price":{"prompt":1e9}}`, `{"max_price":{"prompt":1.2345}}`, `{"max_price":{"prompt":null}}`,
		`{"max_price":{"prompt":1.}}`, `{"only":[` + strings.Repeat(`"01234567",`, maxListed) + `"01234567"]}`,
	} {
		if p, err := ParsePreferences([]byte(bad)); err == nil {
			t.Errorf("%.60s gives %+v", bad, p)
		}
	}
}

func TestWishRefused(t *testing.T) {
	for _, w := range []*Wish{{InputTokens: -1}, {OutputTokens: maxContext + 1}, {ExplorePermille: 1001}, {TimeMsat: -1}, {MinGrade: "x"}} {
		if _, err := Rank(nil, nil, w); err == nil {
			t.Errorf("%+v was taken", w)
		}
	}
	r := rank(t, nil, nil, wish())
	if b, _ := json.Marshal(r); string(b) != `{"offers":[],"excluded":[]}` {
		t.Errorf("no asks: %s", b)
	}
}

func BenchmarkRank(b *testing.B) {
	var asks []*Ask
	ev := &Evidence{}
	for i := range 1000 {
		asks = append(asks, ask(i%200+1))
		ev.Own = append(ev.Own, known(i%200+1, 1)...)
	}
	for b.Loop() {
		if _, err := Rank(asks, ev, wish()); err != nil {
			b.Fatal(err)
		}
	}
}
