package job

import (
	"slices"
	"strings"
	"testing"

	"github.com/geistnet/geist/arith"
	"github.com/geistnet/geist/ghost"
	"github.com/geistnet/geist/internal/pay"
	"github.com/geistnet/geist/merkle"
)

// started is an asker whose order was accepted.
func started(t *testing.T, o *Order, p Patience) Asker {
	t.Helper()
	a, err := NewAsker(o, p)
	if err != nil {
		t.Fatal(err)
	}
	a, out := a.Step(1000, Start{})
	if len(out) != 2 || out[1] != (Connect{len(o.Resume)}) {
		t.Fatalf("it starts with %v", out)
	}
	a, _ = a.Step(1010, Arrived{Event: &Event{Type: EventAccepted, Job: o.ID()}})
	return a
}

// tokens from position n on; token i is 100 + i.
func tokensAt(n, count int) (out []int32) {
	for i := range count {
		out = append(out, int32(100+n+i))
	}
	return out
}

func chunkOf(t *testing.T, o *Order, n, count int, finish ghost.Finish) *Event {
	t.Helper()
	due, err := o.Terms().Due(n + count)
	if err != nil {
		t.Fatal(err)
	}
	return &Event{Type: EventChunk, N: n, Tokens: tokensAt(n, count), Due: due, Finish: finish}
}

func receiptOf(t *testing.T, o *Order, tokens []int32, change func(*ghost.Receipt)) *Event {
	t.Helper()
	due, err := o.Terms().Due(len(tokens))
	if err != nil {
		t.Fatal(err)
	}
	r := &ghost.Receipt{
		Time: o.CreatedAt + 1, Model: o.Model, Arithmetic: arith.Version, Request: o.Request.Hash(),
		Prompt: ghost.HashTokens(o.Request.Salt, o.Request.Prompt), Answer: ghost.HashTokens(o.Request.Salt, tokens), Finish: ghost.FinishStop,
		SeedRule: ghost.SeedRule1, SeedNonce: ghost.CommitSeed(o.SeedNonce), AuditNonce: o.Audit, Trace: merkle.Hash{1}, Client: o.Client,
		Price: uint64(due), Grade: ghost.GhostAudited,
	}
	if change != nil {
		change(r)
	}
	secret := simSecret(2)
	if r.Provider != (ghost.Key{}) {
		secret = simSecret(3)
	}
	if err := r.Sign(secret); err != nil {
		t.Fatal(err)
	}
	return &Event{Type: EventReceipt, Receipt: r}
}

func pays(out []AskerAction) (total pay.MilliSat) {
	for _, a := range out {
		if p, ok := a.(Pay); ok {
			total = max(total, p.Total)
		}
	}
	return total
}

// TestAskerLies: each lie ends the job with its code, and nothing more is paid.
func TestAskerLies(t *testing.T) {
	o := testOrder(t, nil)
	whole := tokensAt(0, 20)
	for name, c := range map[string]struct {
		lie  *Event
		text bool
		want Code
	}{
		"overcharge":    {func() *Event { e := chunkOf(t, o, 10, 10, ""); e.Due++; return e }(), false, Overcharged},
		"undercharge":   {func() *Event { e := chunkOf(t, o, 10, 10, ""); e.Due--; return e }(), false, Miscounted},
		"contradiction": {func() *Event { e := chunkOf(t, o, 5, 10, ""); e.Tokens[2]++; return e }(), false, Contradiction},
		"old token":     {func() *Event { e := chunkOf(t, o, 0, 1, ""); e.Tokens[0]++; return e }(), false, Contradiction},
		"too many":      {&Event{Type: EventChunk, N: 10, Tokens: tokensAt(10, 32), Due: 843}, false, Miscounted},
		"text":          {chunkOf(t, o, 10, 10, ""), true, TextDiffers},
		"other job":     {&Event{Type: EventAccepted, Job: ID{1}}, false, BadEvent},
		"price":         {receiptOf(t, o, whole[:10], func(r *ghost.Receipt) { r.Price++ }), false, WrongReceipt},
		"answer":        {receiptOf(t, o, []int32{1, 2, 3, 4, 5, 6, 7, 8, 9, 1}, nil), false, WrongReceipt},
		"fewer":         {receiptOf(t, o, whole[:9], nil), false, WrongReceipt},
		"model":         {receiptOf(t, o, whole[:10], func(r *ghost.Receipt) { r.Model[5]++ }), false, WrongReceipt},
		"client":        {receiptOf(t, o, whole[:10], func(r *ghost.Receipt) { r.Client = simKey(4) }), false, WrongReceipt},
		"provider":      {receiptOf(t, o, whole[:10], func(r *ghost.Receipt) { r.Provider[0] = 1 }), false, WrongReceipt},
		"request":       {receiptOf(t, o, whole[:10], func(r *ghost.Receipt) { r.Request[0]++ }), false, WrongReceipt},
		"prompt":        {receiptOf(t, o, whole[:10], func(r *ghost.Receipt) { r.Prompt.Count++ }), false, WrongReceipt},
		"seed":          {receiptOf(t, o, whole[:10], func(r *ghost.Receipt) { r.SeedNonce[0]++ }), false, WrongReceipt},
		"audit":         {receiptOf(t, o, whole[:10], func(r *ghost.Receipt) { r.AuditNonce[0]++ }), false, WrongReceipt},
		"old":           {receiptOf(t, o, whole[:10], func(r *ghost.Receipt) { r.Time -= MaxSkew + 2 }), false, WrongReceipt},
		"cancelled":     {receiptOf(t, o, whole[:10], func(r *ghost.Receipt) { r.Finish = ghost.FinishCancelled }), false, WrongReceipt},
	} {
		order := o
		if name == "too many" {
			order = testOrder(t, func(o *Order) { o.Request.MaxTokens = 41 })
		}
		a := started(t, order, DefaultPatience(1e9))
		a, out := a.Step(1020, Arrived{Event: chunkOf(t, order, 0, 10, "")})
		if pays(out) != 0 {
			t.Fatalf("%s: it pays after 10 tokens: %v", name, out)
		}
		b, out := a.Step(1030, Arrived{Event: c.lie, TextDiffers: c.text})
		if b.Phase() != PhaseFailed || b.Code() != c.want || pays(out) != 0 || !slices.Contains(out, AskerAction(SendCancel{})) {
			t.Errorf("%s: %s, %s, %v; want %s", name, b.Phase(), b.Code(), out, c.want)
		}
		if a.Phase() != PhaseStreaming || len(a.Tokens()) != 10 {
			t.Errorf("%s: the state before the step changed", name)
		}
	}
}

func TestAskerGoodEnd(t *testing.T) {
	o := testOrder(t, nil)
	p := DefaultPatience(1e9)
	p.Audit = true
	a := started(t, o, p)
	a, out := a.Step(1020, Arrived{Event: chunkOf(t, o, 0, 20, "")})
	if pays(out) != 403 {
		t.Fatalf("after 20 tokens: %v", out)
	}
	a, out = a.Step(1030, PayDone{403})
	if len(out) != 0 {
		t.Fatalf("after the payment: %v", out)
	}
	a, out = a.Step(1040, Arrived{Event: chunkOf(t, o, 20, 30, ghost.FinishStop)})
	if pays(out) != 0 || a.Phase() != PhaseDelivered {
		t.Fatalf("%s: the end is paid before its receipt: %v", a.Phase(), out)
	}
	b, _ := a.Step(1050, Arrived{Event: chunkOf(t, o, 50, 1, "")})
	if b.Code() != Miscounted {
		t.Errorf("a token after the end: %s", b.Code())
	}
	b, _ = a.Step(1050, Arrived{Event: receiptOf(t, o, tokensAt(0, 50), func(r *ghost.Receipt) { r.Finish = ghost.FinishLength })})
	if b.Code() != WrongReceipt {
		t.Errorf("another finish: %s", b.Code())
	}
	a, out = a.Step(1050, Arrived{Event: receiptOf(t, o, tokensAt(0, 50), nil)})
	if pays(out) != 1003 {
		t.Fatalf("after the receipt: %v", out)
	}
	restored, err := RestoreAsker(o, p, a.Encode())
	if err != nil {
		t.Fatal(err)
	}
	if _, out = restored.Step(1060, AskerRestarted{403, 403}); pays(out) != 1003 {
		t.Errorf("after a restart: %v", out)
	}
	a, out = a.Step(1060, PayDone{1003})
	if a.Phase() != PhaseSettled || a.Code() != Done || !slices.Contains(out, AskerAction(Audit{})) {
		t.Fatalf("%s %s %v", a.Phase(), a.Code(), out)
	}
	if b, _ = a.Step(1070, AuditDone{OK: true}); b.Phase() != PhaseAudited || b.Code() != Done {
		t.Errorf("%s %s", b.Phase(), b.Code())
	}
	if b, _ = a.Step(1070, AuditDone{Detail: "cell 3"}); b.Phase() != PhaseAudited || b.Code() != AuditFailed {
		t.Errorf("%s %s", b.Phase(), b.Code())
	}
}

// TestAskerGivesUp: a provider that says nothing, or only that it lives.
func TestAskerGivesUp(t *testing.T) {
	for name, c := range map[string]struct {
		alive bool
		want  Code
		least int // connections
	}{"silent": {false, Stalled, 5}, "alive": {true, Stalled, 1}} {
		o := testOrder(t, nil)
		a := started(t, o, DefaultPatience(1e9))
		connects := 1
		now := Time(1010)
		for ; !a.Phase().Final() && now < 1e7; now += 1000 {
			var out []AskerAction
			if c.alive {
				a, _ = a.Step(now, Arrived{Event: &Event{Type: EventAlive}})
			}
			a, out = a.Step(now, Tick{})
			for _, x := range out {
				if _, ok := x.(Connect); ok {
					connects++
				}
			}
		}
		if a.Code() != c.want || connects != c.least || now > 1e6 {
			t.Errorf("%s: %s after %d connections and %d ms", name, a.Code(), connects, now)
		}
	}
	a, err := NewAsker(testOrder(t, nil), DefaultPatience(1e9))
	if err != nil {
		t.Fatal(err)
	}
	a, _ = a.Step(1, Start{})
	a, _ = a.Step(2, StreamEnded{})
	if a, _ = a.Step(3, StreamEnded{}); a.Code() != Unreachable {
		t.Errorf("two refused connections: %q", a.Code())
	}
}

func TestAskerBudget(t *testing.T) {
	o := testOrder(t, nil)
	a, err := NewAsker(o, DefaultPatience(100))
	if err != nil {
		t.Fatal(err)
	}
	if a, out := a.Step(1, Start{}); a.Code() != OverBudget || slices.ContainsFunc(out, func(x AskerAction) bool { _, ok := x.(Connect); return ok }) {
		t.Errorf("%s: %v", a.Code(), out)
	}
	a = started(t, o, DefaultPatience(800)) // 39 tokens
	a, out := a.Step(2000, Arrived{Event: chunkOf(t, o, 0, 20, "")})
	if !slices.Contains(out, AskerAction(SendCancel{})) || pays(out) != 403 {
		t.Errorf("before the budget is used up: %v", out)
	}
	a, _ = a.Step(2001, PayDone{403})
	a, _ = a.Step(2002, Arrived{Event: receiptOf(t, o, tokensAt(0, 20), func(r *ghost.Receipt) { r.Finish = ghost.FinishCancelled })})
	if a.Phase() != PhaseCancelled || a.Code() != OverBudget {
		t.Errorf("%s %s", a.Phase(), a.Code())
	}
}

func TestResumeIsFree(t *testing.T) {
	o := testOrder(t, func(o *Order) { o.Resume = tokensAt(0, 40) })
	for n, want := range map[int]pay.MilliSat{40: 0, 41: 20, 60: 400} {
		if d, err := o.Terms().Due(n); err != nil || d != want {
			t.Errorf("%d tokens of which 40 were there: %d, %v; want %d", n, d, err, want)
		}
	}
	if d, err := testOrder(t, nil).Terms().Due(1); err != nil || d != 23 {
		t.Errorf("the first token and the prompt: %d, %v", d, err)
	}
}

func emitted(out []ProviderAction) (events []Event) {
	for _, a := range out {
		if e, ok := a.(Emit); ok {
			events = append(events, e.Event)
		}
	}
	return events
}

// running is a provider with a connected client and 32 tokens delivered.
func runningProvider(t *testing.T, o *Order) Provider {
	t.Helper()
	p, err := NewProvider(o, DefaultGrace)
	if err != nil {
		t.Fatal(err)
	}
	p, _ = p.Step(1000, Joined{0})
	p, out := p.Step(1001, Admitted{})
	if len(out) != 2 || out[1] != (Cover{643}) {
		t.Fatalf("admitted: %v", out)
	}
	p, out = p.Step(1002, Covered{643})
	if e := emitted(out); len(e) != 1 || e[0].Type != EventAccepted {
		t.Fatalf("covered: %v", out)
	}
	p, _ = p.Step(1003, Covered{1283})
	p, out = p.Step(1004, Computed{N: 0, Tokens: tokensAt(0, 40)})
	if e := emitted(out); len(e) != 1 || len(e[0].Tokens) != 32 || e[0].Due != 643 {
		t.Fatalf("40 tokens: %v", out)
	}
	return p
}

// TestProviderWindow: the 33rd token leaves when the first is paid.
func TestProviderWindow(t *testing.T) {
	p := runningProvider(t, testOrder(t, nil))
	p, out := p.Step(1100, Received{22})
	if len(emitted(out)) != 0 {
		t.Errorf("22 msat cover no token: %v", out)
	}
	p, out = p.Step(1101, Received{23})
	if e := emitted(out); len(e) != 1 || e[0].N != 32 || len(e[0].Tokens) != 1 {
		t.Errorf("23 msat cover one: %v", out)
	}
	// A stale group of tokens, and one from the future.
	if q, _ := p.Step(1102, Computed{N: 39, Tokens: []int32{1}}); len(q.Tokens()) != 40 {
		t.Errorf("%d tokens after a stale one", len(q.Tokens()))
	}
	if q, _ := p.Step(1102, Computed{N: 50, Tokens: []int32{1}}); len(q.Tokens()) != 40 {
		t.Errorf("%d tokens after one from the future", len(q.Tokens()))
	}
	if q, _ := p.Step(1102, Computed{N: 40, Tokens: tokensAt(40, 61)}); q.Code() != EngineFailed {
		t.Errorf("more tokens than allowed: %q", q.Code())
	}
	_, out = p.Step(1103, Joined{34})
	if e := emitted(out); len(e) != 1 || e[0].Type != EventRefused {
		t.Errorf("from beyond the window: %v", out)
	}
	_, out = p.Step(1103, Joined{33})
	if e := emitted(out); len(e) != 1 || e[0].Type != EventAccepted {
		t.Errorf("from its edge: %v", out)
	}
	p, _ = p.Step(1101+DefaultGrace.Client, Tick{})
	if p.Code() != Unpaid {
		t.Errorf("unpaid: %s %q", p.Phase(), p.Code())
	}
}

// TestProviderRestart: a crash loses tokens that the client has; they are computed
// again and not sent again, and cancelling signs all that were delivered.
func TestProviderRestart(t *testing.T) {
	o := testOrder(t, nil)
	p := runningProvider(t, o)
	p, _ = p.Step(1100, Received{643})
	state := p.Encode()
	_, out := p.Step(1101, Computed{N: 40, Tokens: tokensAt(40, 10)})
	if len(emitted(out)) != 1 || emitted(out)[0].N != 40 {
		t.Fatalf("%v", out)
	}
	p, err := RestoreProvider(o, DefaultGrace, state)
	if err != nil {
		t.Fatal(err)
	}
	p, out = p.Step(2000, ProviderRestarted{643})
	if !slices.ContainsFunc(out, func(a ProviderAction) bool { _, ok := a.(Cover); return ok }) {
		t.Fatalf("restarted: %v", out)
	}
	p, out = p.Step(2001, Covered{1923})
	if !slices.Contains(out, ProviderAction(Compute{40, 96})) {
		t.Fatalf("covered: %v", out)
	}
	p, out = p.Step(2002, Joined{50})
	if e := emitted(out); len(e) != 1 || e[0].Type != EventAccepted {
		t.Fatalf("joined: %v", out)
	}
	p, _ = p.Step(2003, CancelAsked{})
	if p.Phase().Final() {
		t.Fatalf("%s before the tokens are there", p.Phase())
	}
	p, out = p.Step(2004, Computed{N: 40, Tokens: tokensAt(40, 4)})
	if len(emitted(out)) != 0 || slices.ContainsFunc(out, isSign) {
		t.Fatalf("44 tokens: %v", out)
	}
	_, out = p.Step(2005, Computed{N: 44, Tokens: tokensAt(44, 9)})
	i := slices.IndexFunc(out, isSign)
	if i < 0 {
		t.Fatalf("53 tokens: %v", out)
	}
	if s := out[i].(SignReceipt); len(s.Tokens) != 50 || s.Finish != ghost.FinishCancelled || s.Price != 1003 {
		t.Errorf("it signs %d tokens, %s, %d", len(s.Tokens), s.Finish, s.Price)
	}
}

func isSign(a ProviderAction) bool { _, ok := a.(SignReceipt); return ok }

// TestProviderEnds: what a session is closed with.
func TestProviderEnds(t *testing.T) {
	o := testOrder(t, nil)
	p := runningProvider(t, o)
	for name, c := range map[string]struct {
		now  Time
		in   []ProviderInput
		code Code
		want SettleSession
	}{
		"broken":    {1100, []ProviderInput{Broken{EngineFailed, "x"}}, EngineFailed, SettleSession{643, false}},
		"gone":      {1004 + DefaultGrace.Client, []ProviderInput{Left{}, Tick{}}, ClientGone, SettleSession{643, true}},
		"no credit": {1100, []ProviderInput{CoverRefused{}, Received{643}, CoverRefused{}, Computed{N: 40, Tokens: tokensAt(40, 24)}, Received{1283}}, CreditSpent, SettleSession{1283, true}},
	} {
		q, all := p, []ProviderAction(nil)
		for _, in := range c.in {
			var out []ProviderAction
			q, out = q.Step(c.now, in)
			all = append(all, out...)
		}
		if q.Code() != c.code || !slices.Contains(all, ProviderAction(c.want)) {
			t.Errorf("%s: %s %q, %v; want %v", name, q.Phase(), q.Code(), all, c.want)
		}
	}
	e, err := NewProvider(o, DefaultGrace)
	if err != nil {
		t.Fatal(err)
	}
	e, _ = e.Step(1, Joined{0})
	e, _ = e.Step(1, Admitted{})
	e, _ = e.Step(2, Covered{643})
	e, _ = e.Step(2, Covered{1283})
	e, out := e.Step(2+DefaultGrace.Engine, Tick{})
	if e.Code() != EngineFailed || e.Phase() != PhaseRefused && e.Phase() != PhaseFailed || !slices.Contains(out, ProviderAction(SettleSession{0, false})) {
		t.Errorf("an engine that hangs: %s %q %v", e.Phase(), e.Code(), out)
	}
}

// Who waits for a place is not late, however long it takes; who went away is.
func TestWaitsForPlace(t *testing.T) {
	p, err := NewProvider(testOrder(t, nil), DefaultGrace)
	if err != nil {
		t.Fatal(err)
	}
	p, _ = p.Step(1000, Joined{})
	for now := Time(2000); now < 10*DefaultGrace.Client; now += 1000 {
		if p, _ = p.Step(now, Tick{}); p.Phase() != PhaseOffered {
			t.Fatalf("after %d ms: %s, %s", now-1000, p.Phase(), p.Code())
		}
	}
	p, _ = p.Step(10*DefaultGrace.Client, Left{})
	p, _ = p.Step(12*DefaultGrace.Client, Tick{})
	if p.Code() != ClientGone {
		t.Errorf("%s, %s", p.Phase(), p.Code())
	}
}

// Log probabilities come through an event's line, and what is none is refused.
func TestEventProbs(t *testing.T) {
	e := Event{Type: EventChunk, Tokens: []int32{1, 2}, Text: "ab", Probs: []*TokenProb{{LogProb: -0.5, Top: []Alternative{{1, -0.5}, {7, -1.25}}}, nil}}
	b, err := e.Encode()
	if err != nil {
		t.Fatal(err)
	}
	if want := `{"type":"chunk","tokens":[1,2],"text":"ab","logprobs":[{"p":-0.5,"top":[[1,-0.5],[7,-1.25]]},null]}` + "\n"; string(b) != want {
		t.Errorf("%s\nwant %s", b, want)
	}
	got, err := ParseEvent(b)
	if err != nil || len(got.Probs) != 2 || got.Probs[1] != nil || got.Probs[0].Top[1] != (Alternative{7, -1.25}) {
		t.Errorf("%+v, %v", got, err)
	}
	for _, bad := range []string{`[{"p":-0.5}]`, `[{"p":0.5},null]`, `[{"p":-1e9},null]`, `[{"p":-1,"top":[[1]]},null]`, `[{"p":-1,"top":[[-1,-1]]},null]`, `[{"p":-1,"top":[[1.5,-1]]},null]`,
		`[{"p":-1,"top":[` + strings.Repeat("[1,-1],", MaxAlternatives) + `[1,-1]]},null]`} {
		if e, err := ParseEvent([]byte(`{"type":"chunk","tokens":[1,2],"logprobs":` + bad + `}`)); err == nil {
			t.Errorf("%s gave %+v", bad, e.Probs[0])
		}
	}
	o := testOrder(t, nil)
	before, n := o.ID(), 21
	if o.LogProbs = &n; o.Check() == nil {
		t.Error("21 alternatives are taken")
	}
	if n = 0; o.Check() != nil || o.ID() == before {
		t.Error("the wish for log probabilities is not part of the job's id")
	}
}
