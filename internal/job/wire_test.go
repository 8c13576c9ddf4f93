package job

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"os"
	"reflect"
	"regexp"
	"strings"
	"testing"

	"github.com/geistnet/geist/arith"
	"github.com/geistnet/geist/audit"
	"github.com/geistnet/geist/ghost"
	"github.com/geistnet/geist/internal/pay"
	"github.com/geistnet/geist/merkle"
)

// testOrder is a signed order of client 1 to provider 2 for up to 100 tokens.
func testOrder(t testing.TB, change func(*Order)) *Order {
	t.Helper()
	o := &Order{
		Provider: simKey(2), Model: ghost.ID{1}, Ask: ghost.Digest{2}, Prices: pay.Prices{Prompt: 1_000_000, Answer: 20_000_000},
		Rail: "credit", CreatedAt: 1_800_000_000, SeedNonce: ghost.Nonce{5}, Audit: ghost.CommitAudit(ghost.Nonce{6}),
		Request: &ghost.Request{Salt: [32]byte{9}, Prompt: []int32{1, 2, 3}, Sampling: arith.Sampling{}, MaxTokens: 100},
	}
	if change != nil {
		change(o)
	}
	if err := o.Sign(simSecret(1)); err != nil {
		t.Fatal(err)
	}
	return o
}

func withGrammar(o *Order) {
	o.Grammar = `{"type":"string"}`
	o.Request.Grammar = sha256.Sum256([]byte(o.Grammar))
	o.Resume = []int32{7, 8}
}

func TestOrderRoundTrip(t *testing.T) {
	for _, change := range []func(*Order){nil, withGrammar} {
		o := testOrder(t, change)
		b, err := o.Encode()
		if err != nil {
			t.Fatal(err)
		}
		got, err := ParseOrder(b)
		if err != nil {
			t.Fatal(err)
		}
		if !reflect.DeepEqual(got, o) {
			t.Errorf("%+v becomes %+v", o, got)
		}
	}
}

// TestOrderID: the vector of docs/spec/job.md §7.
func TestOrderID(t *testing.T) {
	spec, err := os.ReadFile("../../docs/spec/job.md")
	if err != nil {
		t.Fatal(err)
	}
	o := testOrder(t, withGrammar)
	b, err := o.Encode()
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{o.ID().String(), string(b)} {
		if !bytes.Contains(spec, []byte(want)) {
			t.Errorf("docs/spec/job.md lacks %s", want)
		}
	}
}

// TestOrderAltered: no member can be changed under the signature.
func TestOrderAltered(t *testing.T) {
	b, err := testOrder(t, withGrammar).Encode()
	if err != nil {
		t.Fatal(err)
	}
	var members map[string]json.RawMessage
	if err := json.Unmarshal(b, &members); err != nil {
		t.Fatal(err)
	}
	if len(members) != 14 {
		t.Fatalf("%d members; want 14", len(members))
	}
	for name, v := range members {
		v := bytes.Clone(v)
		for i, c := range v { // the next digit or letter, once
			switch {
			case c >= '0' && c <= '8' || c >= 'a' && c <= 'e' || c >= 'A' && c <= 'Y':
				v[i]++
			default:
				continue
			}
			break
		}
		m := map[string]json.RawMessage{}
		for k, w := range members {
			m[k] = w
		}
		m[name] = v
		altered, err := json.Marshal(m)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := ParseOrder(altered); err == nil {
			t.Errorf("%s changed to %s is accepted", name, v)
		}
		delete(m, name)
		if altered, err = json.Marshal(m); err != nil {
			t.Fatal(err)
		}
		if _, err := ParseOrder(altered); err == nil {
			t.Errorf("without %s it is accepted", name)
		}
	}
	for _, tail := range []string{"{}", "x", " 1"} {
		if _, err := ParseOrder(append(bytes.Clone(b), tail...)); err == nil {
			t.Errorf("with %q at its end it is accepted", tail)
		}
	}
	if _, err := ParseOrder(bytes.Replace(b, []byte(`{"job"`), []byte(`{"extra":1,"job"`), 1)); err == nil {
		t.Error("an unknown member is accepted")
	}
}

func TestOrderCheck(t *testing.T) {
	for name, change := range map[string]func(*Order){
		"price":         func(o *Order) { o.Prices.Answer = -1 },
		"large price":   func(o *Order) { o.Prices.Prompt = pay.MaxAmount + 1 },
		"rail":          func(o *Order) { o.Rail = "Credit" },
		"no rail":       func(o *Order) { o.Rail = "" },
		"time":          func(o *Order) { o.CreatedAt = 0 },
		"resume":        func(o *Order) { o.Resume = make([]int32, 100) },
		"resumed token": func(o *Order) { o.Resume = []int32{-1} },
		"grammar":       func(o *Order) { o.Grammar = "{}" },
		"no grammar":    func(o *Order) { o.Request.Grammar[0] = 1 },
		"nonces":        func(o *Order) { o.Audit = ghost.CommitAudit(o.SeedNonce) },
		"self":          func(o *Order) { o.Provider = simKey(1) },
		"request":       func(o *Order) { o.Request.MaxTokens = 0 },
	} {
		o := *testOrder(t, nil)
		q := *o.Request
		o.Request = &q
		change(&o)
		if o.Sign(simSecret(1)) == nil {
			t.Errorf("%s: it is signed", name)
		}
	}
}

func testEvents(t testing.TB) []Event {
	r := &ghost.Receipt{
		Time: 1_800_000_001, Model: ghost.ID{1}, Arithmetic: arith.Version, Prompt: ghost.Tokens{Count: 3}, Finish: ghost.FinishStop,
		SeedRule: ghost.SeedRule1, Trace: merkle.Hash{1}, Client: simKey(1), Grade: ghost.GhostAudited,
	}
	if err := r.Sign(simSecret(2)); err != nil {
		t.Fatal(err)
	}
	return []Event{
		{Type: EventAccepted, Job: ID{1}},
		{Type: EventAccepted, Job: ID{1}, Offer: []byte("lnbc1")},
		{Type: EventOffer, Offer: []byte{0, 1}},
		{Type: EventAlive},
		{Type: EventChunk, Tokens: []int32{0, 7}, Text: "<é> &\n", Due: 12},
		{Type: EventChunk, N: 40, Tokens: []int32{1}, Due: pay.MaxAmount, Finish: ghost.FinishLength},
		{Type: EventReceipt, Receipt: r},
		{Type: EventRefused, Code: Busy, Message: "full", Retry: 30},
		{Type: EventFailed, Code: EngineFailed},
	}
}

func TestEventRoundTrip(t *testing.T) {
	for _, e := range testEvents(t) {
		b, err := e.Encode()
		if err != nil {
			t.Fatal(err)
		}
		if bytes.Count(b, []byte("\n")) != 1 || b[len(b)-1] != '\n' {
			t.Errorf("%q is not one line", b)
		}
		got, err := ParseEvent(b)
		if err != nil {
			t.Fatalf("%s: %v", b, err)
		}
		if !reflect.DeepEqual(*got, e) {
			t.Errorf("%+v becomes %+v", e, *got)
		}
	}
	if e, err := ParseEvent([]byte(`{"type":"news","x":1}`)); err != nil || e.Type != "news" {
		t.Errorf("an unknown type: %+v, %v", e, err)
	}
}

func TestEventRefused(t *testing.T) {
	ids := strings.Repeat("1,", Window) + "1"
	for _, s := range []string{
		``, `[]`, `{"type":"accepted"}`, `{"type":"accepted","job":"00"}`, `{"type":"offer"}`, `{"type":"offer","offer":"!"}`,
		`{"type":"chunk"}`, `{"type":"chunk","tokens":[` + ids + `]}`, `{"type":"chunk","tokens":[-1]}`, `{"type":"chunk","tokens":[2147483648]}`,
		`{"type":"chunk","tokens":[1],"n":-1}`, `{"type":"chunk","tokens":[1],"due":-1}`, `{"type":"chunk","tokens":[1],"due":9007199254740992}`,
		`{"type":"chunk","tokens":[1],"finish":"why"}`, `{"type":"receipt"}`, `{"type":"receipt","receipt":{}}`, `{"type":"refused"}`,
		`{"type":"failed","code":"x","retry_after":-1}`, `{"type":"chunk","tokens":[1],"text":"` + strings.Repeat("a", maxText+1) + `"}`,
		`{"type":"alive"}` + strings.Repeat(" ", MaxEventBytes),
	} {
		if e, err := ParseEvent([]byte(s)); err == nil {
			t.Errorf("%.80s is %+v", s, e)
		}
	}
}

func TestCancelHeader(t *testing.T) {
	id := ID{3}
	h, err := SignCancel(simSecret(1), id)
	if err != nil {
		t.Fatal(err)
	}
	if err := VerifyCancel(simKey(1), id, h); err != nil {
		t.Error(err)
	}
	if VerifyCancel(simKey(2), id, h) == nil || VerifyCancel(simKey(1), ID{4}, h) == nil || VerifyCancel(simKey(1), id, h[2:]) == nil {
		t.Error("another key, another job or a part of the signature cancels")
	}
}

func TestAuditCall(t *testing.T) {
	a := AuditCall{ghost.Nonce{4}, audit.Standard}
	if got, err := ParseAudit(a.Encode()); err != nil || got != a {
		t.Errorf("%+v becomes %+v, %v", a, got, err)
	}
	for _, s := range []string{``, `{}`, `{"nonce":"00","cells":1}`, `{"nonce":"` + strings.Repeat("0", 64) + `","cells":100000}`, `{"nonce":"` + strings.Repeat("0", 64) + `","x":1}`} {
		if got, err := ParseAudit([]byte(s)); err == nil {
			t.Errorf("%s is %+v", s, got)
		}
	}
}

// TestCodesInSpec: the table of docs/spec/job.md §6 is that of the program.
func TestCodesInSpec(t *testing.T) {
	spec, err := os.ReadFile("../../docs/spec/job.md")
	if err != nil {
		t.Fatal(err)
	}
	rows := regexp.MustCompile("(?m)^\\| `([a-z-]+)` \\| (provider|asker|both) \\| (.*) \\| (yes|no) \\|$").FindAllStringSubmatch(string(spec), -1)
	if len(rows) != len(reasons()) {
		t.Fatalf("%d rows; there are %d codes", len(rows), len(reasons()))
	}
	for i, r := range reasons() {
		elsewhere := map[bool]string{true: "yes", false: "no"}[r.elsewhere]
		if want := []string{string(r.code), r.by, r.sentence, elsewhere}; !reflect.DeepEqual(rows[i][1:], want) {
			t.Errorf("row %d is %q; the program says %q", i, rows[i][1:], want)
		}
	}
}

func FuzzOrder(f *testing.F) {
	for _, change := range []func(*Order){nil, withGrammar} {
		b, err := testOrder(f, change).Encode()
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		o, err := ParseOrder(b)
		if err != nil {
			return
		}
		c, err := o.Encode()
		if err != nil {
			t.Fatal(err)
		}
		again, err := ParseOrder(c)
		if err != nil || !reflect.DeepEqual(o, again) {
			t.Fatalf("%+v becomes %+v, %v", o, again, err)
		}
	})
}

func FuzzEvent(f *testing.F) {
	for _, e := range testEvents(f) {
		b, err := e.Encode()
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		e, err := ParseEvent(b)
		if err != nil || len(e.Type) > 20 {
			return
		}
		c, err := e.Encode()
		if err != nil {
			return // of an unknown type, with members that fit no event
		}
		if _, err := ParseEvent(c); err != nil {
			t.Fatalf("%q: %v", c, err)
		}
	})
}

// FuzzState: no state that is read panics a machine.
func FuzzState(f *testing.F) {
	o := testOrder(f, nil)
	a, err := NewAsker(o, DefaultPatience(1e9))
	if err != nil {
		f.Fatal(err)
	}
	p, err := NewProvider(o, DefaultGrace)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(a.Encode(), p.Encode())
	a, _ = a.Step(1, Start{})
	p, _ = p.Step(1, Joined{})
	p, _ = p.Step(1, Admitted{})
	f.Add(a.Encode(), p.Encode())
	f.Fuzz(func(t *testing.T, as, ps []byte) {
		if a, err := RestoreAsker(o, DefaultPatience(1e9), as); err == nil {
			a, _ = a.Step(5, AskerRestarted{})
			a, _ = a.Step(6, Arrived{Event: &Event{Type: EventChunk, Tokens: []int32{1}, Due: 23}})
			a.Step(7, Tick{})
		}
		if p, err := RestoreProvider(o, DefaultGrace, ps); err == nil {
			p, _ = p.Step(5, ProviderRestarted{})
			p, _ = p.Step(6, Joined{})
			p, _ = p.Step(7, Computed{Tokens: []int32{1}})
			p.Step(8, Tick{})
		}
	})
}
