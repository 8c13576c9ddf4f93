package market

import (
	"fmt"
	"strings"
	"testing"

	"github.com/geistnet/geist/ghost"
	"github.com/geistnet/geist/internal/nostr"
)

const now = 1_800_000_000

func rules() Rules { return Rules{Kinds: DefaultKinds(), Now: now} }

func secret(n int) ghost.Secret { return ghost.Secret{29: 1, 30: byte(n >> 8), 31: byte(n)} }

func public(n int) ghost.Key {
	k, err := secret(n).Public()
	if err != nil {
		panic(err)
	}
	return k
}

var model = ghost.ID{1, 2, 3}

// ask is a good one of provider n.
func ask(n int) *Ask {
	return &Ask{
		Name: "chat", Created: now - 10, Expires: now + 900, Provider: public(n),
		Model: model, ModelName: "tiny", Quant: "q8_0", Context: 4096, Input: PerToken(1), Output: PerToken(2),
		Capacity: 4, Endpoints: []string{fmt.Sprintf("http://node%d.example:8080/x", n)}, Rails: []string{"credit"}, Grade: ghost.GhostAudited,
	}
}

type maker interface {
	Event(Kinds) (*nostr.Event, error)
}

// sign makes an event of secret n, after it was changed.
func sign(t testing.TB, n int, m maker, change ...func(*nostr.Event)) *nostr.Event {
	t.Helper()
	e, err := m.Event(DefaultKinds())
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range change {
		c(e)
	}
	if err := nostr.Sign(e, secret(n)); err != nil {
		t.Fatal(err)
	}
	return e
}

// set replaces a tag's items from the second on; without values it goes.
func set(name string, values ...string) func(*nostr.Event) {
	return func(e *nostr.Event) {
		var out nostr.Tags
		done := false
		for _, t := range e.Tags {
			if t[0] != name {
				out = append(out, t)
			} else if !done && len(values) > 0 {
				out, done = append(out, append(nostr.Tag{name}, values...)), true
			}
		}
		e.Tags = out
	}
}

func more(items ...string) func(*nostr.Event) {
	return func(e *nostr.Event) { e.Tags = append(e.Tags, items) }
}

func TestAskRoundTrip(t *testing.T) {
	a := ask(1)
	a.Input, a.Endpoints, a.Rails = 50_000, []string{"https://a.example", "http://x.onion/v1"}, []string{"credit", "l402"}
	e := sign(t, 1, a)
	got, err := ParseAsk(e, rules())
	if err != nil {
		t.Fatal(err)
	}
	a.ID = e.ID
	if fmt.Sprintf("%+v", got) != fmt.Sprintf("%+v", a) {
		t.Errorf("got  %+v\nwant %+v", got, a)
	}
	if c := got.Cost(100, 10); c != 25 { // 100·0.05 + 10·2
		t.Errorf("cost %d, want 25", c)
	}
	hexed := sign(t, 1, a, set("m", fmt.Sprintf("%x", model[:])))
	if got, err := ParseAsk(hexed, rules()); err != nil || got.Model != model {
		t.Errorf("a model id in hex: %v", err)
	}
}

func TestAskRefused(t *testing.T) {
	long := strings.Repeat("x", 129)
	for _, c := range []struct {
		want   Reason
		change func(*nostr.Event)
	}{
		{NotOurs, func(e *nostr.Event) { e.Kind = 38421 }},
		{NotOurs, set("s", "storage")},
		{NotOurs, set("s")},
		{NotOurs, set("geist", "2")},
		{DuplicateTag, more("s", "other")},
		{Future, func(e *nostr.Event) { e.CreatedAt = now + 121 }},
		{Expired, set("expiration", fmt.Sprint(now))},
		{BadTag, set("expiration", fmt.Sprint(now-11))},
		{Endless, set("expiration", fmt.Sprint(now+86400))},
		{MissingTag, set("expiration")},
		{BadTag, set("expiration", "soon")},
		{DuplicateTag, more("expiration", "1")},
		{MissingTag, set("d")},
		{BadTag, set("d", "")},
		{BadTag, set("d", long)},
		{BadTag, set("d", "a\nb")},
		{MissingTag, set("m")},
		{BadTag, set("m", "qwen")},
		{BadTag, set("m", strings.Repeat("A", 64))},
		{MissingTag, set("model")},
		{BadTag, set("model", "tiny", "q8_0")},
		{BadTag, set("model", "tiny", "q8_0", "0")},
		{BadTag, set("model", "tiny", "q8_0", "16777217")},
		{BadTag, set("model", "\x1b[2J", "q8_0", "4096")},
		{MissingTag, set("price")},
		{MissingTag, set("price", "1", "msat", "input-token")},
		{BadTag, set("price", "1", "sat", "input-token")},
		{BadTag, set("price", "1", "msat")},
		{BadTag, set("price", "-1", "msat", "input-token")},
		{BadTag, set("price", "1e3", "msat", "input-token")},
		{BadTag, set("price", "0.1234567", "msat", "input-token")},
		{AbsurdPrice, set("price", "1000001", "msat", "input-token")},
		{AbsurdPrice, set("price", "99999999999999999999", "msat", "input-token")},
		{DuplicateTag, more("price", "0", "msat", "input-token")},
		{BadTag, more("price", "1", "msat", "per-request")},
		{MissingTag, set("capacity")},
		{BadTag, set("capacity", "65536", "concurrent")},
		{BadTag, set("capacity", "4", "daily")},
		{MissingTag, set("endpoint")},
		{BadTag, set("endpoint", "ftp://x")},
		{BadTag, set("endpoint", "http://u:p@x")},
		{BadTag, set("endpoint", "http://x?y")},
		{BadTag, set("endpoint", "http://x#y")},
		{BadTag, set("endpoint", "javascript:alert(1)")},
		{BadTag, set("endpoint", "http://"+strings.Repeat("x", 512))},
		{MissingTag, set("pay")},
		{BadTag, set("pay", "Cash")},
		{MissingTag, set("grade")},
		{BadTag, set("grade", "best")},
		{DuplicateTag, func(e *nostr.Event) {
			for range 17 {
				e.Tags = append(e.Tags, nostr.Tag{"pay", "x"})
			}
		}},
	} {
		e := sign(t, 1, ask(1), c.change)
		if _, err := ParseAsk(e, rules()); ReasonOf(err) != c.want {
			t.Errorf("tags %v: %v, want %s", e.Tags, err, c.want)
		}
	}
	forged := sign(t, 1, ask(1))
	forged.Sig[0] ^= 1
	if _, err := ParseAsk(forged, rules()); ReasonOf(err) != Forged {
		t.Errorf("forged: %v", err)
	}
	other := sign(t, 1, ask(1))
	other.PubKey = nostr.PubKey(public(2))
	if _, err := ParseAsk(other, rules()); ReasonOf(err) != Forged {
		t.Errorf("another's: %v", err)
	}
	huge := sign(t, 1, ask(1))
	huge.Content = strings.Repeat("x", nostr.MaxContent+1)
	if _, err := ParseAsk(huge, rules()); ReasonOf(err) != Huge {
		t.Errorf("huge: %v", err)
	}
	r := rules()
	r.MinWork = 1
	if _, err := ParseAsk(sign(t, 1, ask(1)), r); ReasonOf(err) != LittleWork {
		t.Errorf("work: %v", err)
	}
	r = rules()
	r.Kinds.Ask = 31234
	if _, err := ParseAsk(sign(t, 1, ask(1), func(e *nostr.Event) { e.Kind = 31234 }), r); err != nil {
		t.Errorf("another kind by configuration: %v", err)
	}
}

func TestAskEventRefuses(t *testing.T) {
	a := ask(1)
	a.Endpoints = nil
	if _, err := a.Event(DefaultKinds()); ReasonOf(err) != MissingTag {
		t.Errorf("%v", err)
	}
}

func TestPrices(t *testing.T) {
	for s, want := range map[string]Price{"0": 0, "0.05": 50_000, "20": 20_000_000, "0.000001": 1, "1000000": maxPrice, "1.50": 1_500_000} {
		p, err := ParsePrice(s)
		if err != nil || p != want {
			t.Errorf("%s: %d, %v", s, p, err)
		}
		if back, err := ParsePrice(p.String()); err != nil || back != p {
			t.Errorf("%s is written %s", s, p)
		}
	}
	for _, s := range []string{"", ".", "1.", ".1", "01", "+1", "1 ", "1000000.000001", "٣", "1,5", "0x1"} {
		if p, err := ParsePrice(s); err == nil {
			t.Errorf("%q is %d", s, p)
		}
	}
	for _, c := range []struct {
		in, out Price
		n, k    int
		want    int64
	}{
		{0, 0, 10, 10, 0}, {1, 0, 1, 0, 1}, {1, 1, 1, 1, 1}, {500_000, 500_000, 1, 1, 1}, {500_000, 500_001, 1, 1, 2},
		{maxPrice, maxPrice, 1 << 30, 1 << 30, 2_147_483_648_000_000}, {1 << 62, 1 << 62, 1 << 62, 1 << 62, maxMsat}, {-1, 5, -1, -5, 0},
	} {
		if got := cost(c.in, c.n, c.out, c.k); got != c.want {
			t.Errorf("%d and %d tokens at %d and %d: %d, want %d", c.n, c.k, c.in, c.out, got, c.want)
		}
	}
}

// TestCollect: one ask of each address counts, whatever comes when.
func TestCollect(t *testing.T) {
	old, newer := ask(1), ask(1)
	newer.Created, newer.Input = now-5, PerToken(9)
	second := ask(1)
	second.Name = "other"
	expired := ask(2)
	expired.Created, expired.Expires = now-100, now-1
	events := []*nostr.Event{sign(t, 1, old), sign(t, 1, newer), sign(t, 1, second), sign(t, 2, expired), sign(t, 3, ask(3))}
	forged := *events[4]
	forged.Content = "x"
	events = append(events, &forged, events[0], events[4])
	asks, refused := Collect(events, rules())
	if len(asks) != 3 {
		t.Fatalf("%d asks, want 3", len(asks))
	}
	for _, a := range asks {
		if a.Provider == public(1) && a.Name == "chat" && a.Input != PerToken(9) {
			t.Error("the older ask counts")
		}
	}
	got := map[Reason]int{}
	for _, r := range refused {
		got[r.Why.Reason]++
	}
	if fmt.Sprint(got) != "map[expired:1 forged:1 replaced:1]" {
		t.Errorf("refused %v", got)
	}
	// Of the same second, the smaller id counts.
	a, b := ask(4), ask(4)
	b.Input = PerToken(7)
	twins := []*nostr.Event{sign(t, 4, a), sign(t, 4, b)}
	for range 2 {
		twins[0], twins[1] = twins[1], twins[0]
		one, _ := Collect(twins, rules())
		if len(one) != 1 || fmt.Sprintf("%x", one[0].ID[:]) != min(fmt.Sprintf("%x", twins[0].ID[:]), fmt.Sprintf("%x", twins[1].ID[:])) {
			t.Error("of two asks of one second, not the smaller id counts")
		}
	}
	var flood []*nostr.Event
	for i := range maxAsksPerProvider + 6 {
		x := ask(5)
		x.Name = fmt.Sprint(i)
		flood = append(flood, sign(t, 5, x))
	}
	asks, refused = Collect(flood, rules())
	if len(asks) != maxAsksPerProvider || len(refused) != 6 || refused[0].Why.Reason != Crowded {
		t.Errorf("%d asks of one provider, %d refused", len(asks), len(refused))
	}
}

func TestBid(t *testing.T) {
	b := &Bid{Name: "w", Created: now, Expires: now + 60, Client: public(1), Model: model, MaxInput: 1, MaxOutput: PerToken(3), BudgetMsat: 5000, Context: 100, MinGrade: ghost.GhostSound}
	e := sign(t, 1, b)
	got, err := ParseBid(e, rules())
	if err != nil {
		t.Fatal(err)
	}
	b.ID = e.ID
	if *got != *b {
		t.Errorf("got %+v, want %+v", got, b)
	}
	for _, c := range []struct {
		want   Reason
		change func(*nostr.Event)
	}{
		{MissingTag, set("budget")}, {BadTag, set("budget", "1", "sats")}, {BadTag, set("grade", "x")}, {MissingTag, set("max_price")},
		{BadTag, set("context", "0")}, {NotOurs, func(e *nostr.Event) { e.Kind++ }}, {Expired, set("expiration", fmt.Sprint(now))},
	} {
		e := sign(t, 1, b, c.change)
		if c.want == Expired {
			e = sign(t, 1, b, c.change, func(e *nostr.Event) { e.CreatedAt -= 5 })
		}
		if _, err := ParseBid(e, rules()); ReasonOf(err) != c.want {
			t.Errorf("tags %v: %v, want %s", e.Tags, err, c.want)
		}
	}
	if err := Check(e, rules()); err != nil {
		t.Error(err)
	}
	e.Sig[9] ^= 1
	if ReasonOf(Check(e, rules())) != Forged {
		t.Error("a forged bid passes")
	}
}

// review is a good one by author n of provider p.
func review(n, p int) *Review {
	return &Review{Author: public(n), Provider: public(p), Model: model, Week: now / week, Created: now - 100, Expires: now + 1000,
		Requests: 20, Failed: 1, AuditsPassed: 3, TTFTms: 300, TPSMilli: 41_000, SpentMsat: 999, Receipts: []string{strings.Repeat("ab", 32)}}
}

func TestReview(t *testing.T) {
	r := review(1, 2)
	e := sign(t, 1, r)
	got, err := ParseReview(e, rules())
	if err != nil {
		t.Fatal(err)
	}
	r.ID = e.ID
	if fmt.Sprintf("%+v", got) != fmt.Sprintf("%+v", r) {
		t.Errorf("got  %+v\nwant %+v", got, r)
	}
	for _, c := range []struct {
		want   Reason
		change func(*nostr.Event)
	}{
		{NotOurs, set("L", "nostr.agent.attestation")},
		{MissingTag, set("p")}, {BadTag, set("p", "x")}, {BadTag, set("p", public(3).String())},
		{BadTag, set("fail", "21")}, {BadTag, set("audits", "10", "11")}, {BadTag, set("audits", "1")}, {BadTag, set("n", "0")},
		{BadTag, set("d", "x")}, {BadTag, set("e", "x")}, {BadTag, set("ttft_ms", "3600001")},
		{Endless, set("expiration", fmt.Sprint(now+91*86400))},
	} {
		e := sign(t, 1, r, c.change)
		if _, err := ParseReview(e, rules()); ReasonOf(err) != c.want {
			t.Errorf("tags %v: %v, want %s", e.Tags, err, c.want)
		}
	}
	if _, err := ParseReview(sign(t, 2, r), rules()); ReasonOf(err) != BadTag {
		t.Errorf("of itself: %v", err)
	}
}

func TestNewReview(t *testing.T) {
	x := Experience{Provider: public(2), Model: model, At: now - 5, OK: true, TTFTms: 100, TPSMilli: 5000, SpentMsat: 7, Audit: AuditPassed}
	bad := Experience{Provider: public(2), Model: model, At: now - 4, Reason: "timeout"}
	slow := x
	slow.TTFTms, slow.Audit = 900, AuditFailed
	old := x
	old.At -= 2 * week
	other := x
	other.Provider = public(3)
	r, ok := NewReview([]Experience{x, bad, slow, old, other, x}, public(2), model, now)
	if !ok || r.Requests != 4 || r.Failed != 1 || r.AuditsPassed != 2 || r.AuditsFailed != 1 || r.TTFTms != 100 || r.SpentMsat != 21 {
		t.Errorf("%+v", r)
	}
	r.Author = public(1)
	if _, err := ParseReview(sign(t, 1, r), rules()); err != nil {
		t.Error(err)
	}
	if _, ok := NewReview(nil, public(2), model, now); ok {
		t.Error("a review of nothing")
	}
}

func TestCollectReviews(t *testing.T) {
	trust := NewTrust(public(9), map[ghost.Key][]ghost.Key{public(9): {public(1)}, public(1): {public(2)}})
	later := review(1, 5)
	later.Created, later.Requests = now-50, 30
	events := []*nostr.Event{sign(t, 1, review(1, 5)), sign(t, 1, later), sign(t, 2, review(2, 5)), sign(t, 3, review(3, 5)), sign(t, 1, review(1, 5), set("n"))}
	got, refused := CollectReviews(events, rules(), trust)
	if len(got) != 2 || got[0].Requests+got[1].Requests != 50 {
		t.Errorf("%d reviews, want that of a friend's friend and the later one of the friend", len(got))
	}
	if len(refused) != 1 || refused[0].Why.Reason != MissingTag {
		t.Errorf("refused %v", refused)
	}
}

func TestTrust(t *testing.T) {
	me, a, b, c := public(1), public(2), public(3), public(4)
	trust := NewTrust(me, map[ghost.Key][]ghost.Key{me: {a, me}, a: {b, me}, b: {c}, c: {c}})
	for k, want := range map[ghost.Key]int64{me: weightSelf, a: weightFollowed, b: weightFriend, c: 0} {
		if got := trust.Weight(k); got != want {
			t.Errorf("weight %d, want %d", got, want)
		}
	}
	if (*Trust)(nil).Weight(me) != 0 {
		t.Error("no trust trusts")
	}
	crowd := make([]ghost.Key, 2*maxFollows)
	for i := range crowd {
		crowd[i] = ghost.Key{1, byte(i >> 8), byte(i)}
	}
	trust = NewTrust(me, map[ghost.Key][]ghost.Key{me: crowd})
	if len(trust.weight) != maxFollows+1 {
		t.Errorf("%d trusted", len(trust.weight))
	}
}

func FuzzAsk(f *testing.F) {
	f.Add(nostr.Encode(sign(f, 1, ask(1))))
	f.Add(nostr.Encode(sign(f, 1, review(1, 2))))
	f.Fuzz(func(t *testing.T, b []byte) {
		e, err := nostr.Decode(b)
		if err != nil {
			return
		}
		k := DefaultKinds()
		for _, kind := range []nostr.Kind{k.Ask, k.Bid, k.Review} {
			e.Kind = kind
			Check(e, rules())
		}
		e.Kind = k.Ask
		a, err := readAsk(e, k)
		if err != nil {
			return
		}
		again, err := a.Event(k)
		if err != nil {
			t.Fatal(err)
		}
		again.ID, again.PubKey = e.ID, e.PubKey
		c, err := readAsk(again, k)
		if err != nil {
			t.Fatal(err)
		}
		if c.Work = a.Work; fmt.Sprintf("%+v", c) != fmt.Sprintf("%+v", a) {
			t.Errorf("read, written, read: %+v, %+v", a, c)
		}
	})
}

func FuzzPreferences(f *testing.F) {
	f.Add([]byte(`{"order":["npub1zutzeysacnf9rru6zqwmxd54mud0k44tst6l70ja5mhv8jjumytsd2x7nu"],"only":["0123abcd"],"ignore":[],"allow_fallbacks":false,"quantizations":["q8_0"],"max_price":{"prompt":1.5,"completion":"2","request":0},"sort":"price"}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		p, err := ParsePreferences(b)
		if err != nil {
			return
		}
		w := Wish{Now: now, Preferences: p}
		if _, err := Rank([]*Ask{ask(1)}, nil, &w); err != nil {
			t.Error(err)
		}
	})
}

func TestFollows(t *testing.T) {
	list := func(n int, at int64, of ...int) *nostr.Event {
		e := &nostr.Event{Kind: 3, CreatedAt: nostr.Timestamp(at), Tags: nostr.Tags{{"p"}, {"p", "x"}, {"t", "y"}}}
		for _, f := range of {
			e.Tags = append(e.Tags, nostr.Tag{"p", public(f).String(), "ws://x"})
		}
		if err := nostr.Sign(e, secret(n)); err != nil {
			t.Fatal(err)
		}
		return e
	}
	forged := *list(3, now, 1)
	forged.Content = "x"
	got := Follows([]*nostr.Event{list(1, now, 2, 3), list(1, now-5, 4), list(2, now, 1), &forged, sign(t, 4, ask(4))})
	if len(got) != 2 || len(got[public(1)]) != 2 || got[public(1)][1] != public(3) || len(got[public(2)]) != 1 {
		t.Errorf("%v", got)
	}
}
