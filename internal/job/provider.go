package job

import (
	"fmt"
	"slices"

	"github.com/geistnet/geist/ghost"
	"github.com/geistnet/geist/internal/pay"
)

// Grace is how long a provider waits.
type Grace struct {
	Client Time // without payment while nothing more may be delivered, or without a connection
	Engine Time // without a token
}

// DefaultGrace suits prompts of any length on a slow machine.
var DefaultGrace = Grace{Client: 60_000, Engine: 600_000}

// Inputs of a provider's machine.
type (
	// ProviderInput is one of Admitted, Rejected, Joined, Left, Covered, CoverOffer,
	// CoverRefused, Received, Computed, Broken, Signed, CancelAsked, AuditServed,
	// ProviderRestarted and Tick.
	ProviderInput interface{ providerInput() }

	// Admitted: the order was checked, model and place are there.
	Admitted struct{}
	// Rejected: the order is turned down.
	Rejected struct {
		Code    Code
		Message string
		Retry   int // seconds; 0: unknown
	}
	// Joined: the client connected and has the answer up to From. Earlier
	// connections are dead.
	Joined struct{ From int }
	// Left: the connection ended.
	Left struct{}
	// Covered: Payee.Cover(Total) holds that much.
	Covered struct{ Total pay.MilliSat }
	// CoverOffer: Payee.Cover gave an offer.
	CoverOffer struct{ Offer []byte }
	// CoverRefused: Payee.Cover says ErrLimit, or failed.
	CoverRefused struct{}
	// Received: a message of the payer was received; the session's Paid is now Paid.
	Received struct{ Paid pay.MilliSat }
	// Computed: the engine made tokens from position N on, one at least unless Finish
	// says that the answer has ended.
	Computed struct {
		N      int
		Tokens []int32
		Finish ghost.Finish // stop or length after these, else ""
	}
	// Broken: the engine failed, or the receipt could not be signed.
	Broken struct {
		Code    Code // EngineFailed, NotReceipted, ResumeDiffers, TooLong, Draining…
		Message string
	}
	// Signed: the receipt that SignReceipt asked for.
	Signed struct{ Receipt *ghost.Receipt }
	// CancelAsked: the client cancelled, with a good signature.
	CancelAsked struct{}
	// AuditServed: a proof was given out.
	AuditServed struct{}
	// ProviderRestarted: the machine was restored and the session opened again.
	ProviderRestarted struct{ Paid pay.MilliSat }
)

func (Admitted) providerInput()          {}
func (Rejected) providerInput()          {}
func (Joined) providerInput()            {}
func (Left) providerInput()              {}
func (Covered) providerInput()           {}
func (CoverOffer) providerInput()        {}
func (CoverRefused) providerInput()      {}
func (Received) providerInput()          {}
func (Computed) providerInput()          {}
func (Broken) providerInput()            {}
func (Signed) providerInput()            {}
func (CancelAsked) providerInput()       {}
func (AuditServed) providerInput()       {}
func (ProviderRestarted) providerInput() {}
func (Tick) providerInput()              {}

// Actions of a provider's machine.
type (
	// ProviderAction is one of Save, Emit, Cover, Compute, StopEngine, SignReceipt,
	// SettleSession and End.
	ProviderAction interface{ providerAction() }

	// Emit sends the event on the connection of the last Joined, if there is one. The
	// driver makes a chunk's Text: what its tokens add to the answer's text.
	Emit struct{ Event Event }
	// Cover: Payee.Cover(Total). Report Covered, CoverOffer or CoverRefused.
	Cover struct{ Total pay.MilliSat }
	// Compute lets the engine go on from position From and no further than position
	// Until, in place of what an earlier Compute allowed. Report Computed, in groups of
	// any size: small ones reach the client sooner.
	Compute struct{ From, Until int }
	// StopEngine: nothing more is to be computed.
	StopEngine struct{}
	// SignReceipt: for the answer of these tokens (resumed ones first), at this price.
	// Report Signed, or Broken with NotReceipted.
	SignReceipt struct {
		Tokens []int32
		Finish ghost.Finish
		Price  pay.MilliSat
	}
	// SettleSession: Payee.Close(Due, Owed).
	SettleSession struct {
		Due  pay.MilliSat
		Owed bool
	}
)

func (Save) providerAction()          {}
func (Emit) providerAction()          {}
func (Cover) providerAction()         {}
func (Compute) providerAction()       {}
func (StopEngine) providerAction()    {}
func (SignReceipt) providerAction()   {}
func (SettleSession) providerAction() {}
func (End) providerAction()           {}

// Provider is the provider's side of one job. It is a value: Step leaves the old one as it is.
type Provider struct {
	order *Order
	id    ID
	terms Terms
	grace Grace
	s     providerState

	// Of this process only.
	joined      bool
	cursor      int  // the connection has the answer up to here
	receiptSent bool // on this connection
	until       int  // Compute allowed
	asked       pay.MilliSat
}

// providerState is what a journal keeps.
type providerState struct {
	Phase   Phase         `json:"phase"`
	Code    Code          `json:"code,omitempty"`
	Message string        `json:"message,omitempty"`
	Retry   int           `json:"retry,omitempty"`
	Tokens  []int32       `json:"tokens,omitempty"` // computed, resumed ones first
	Sent    int           `json:"sent"`             // the furthest position that any connection reached
	Finish  ghost.Finish  `json:"finish,omitempty"` // the engine has ended
	Receipt *receiptState `json:"receipt,omitempty"`
	Paid    pay.MilliSat  `json:"paid,omitempty"`
	Covered pay.MilliSat  `json:"covered,omitempty"`
	NoCover bool          `json:"no_cover,omitempty"` // the last Cover was refused
	Offer   []byte        `json:"offer,omitempty"`    // that is not paid yet
	Stop    bool          `json:"stop,omitempty"`     // the client cancelled
	Last    Time          `json:"last"`               // when something went on
}

// NewProvider is the machine of an order that ParseOrder gave.
func NewProvider(o *Order, g Grace) (Provider, error) {
	if err := o.Check(); err != nil {
		return Provider{}, fmt.Errorf("take a job: %w", err)
	}
	t := o.Terms()
	if _, err := t.Due(t.Most); err != nil {
		return Provider{}, fmt.Errorf("take a job: %w", err)
	}
	r := len(o.Resume)
	return Provider{order: o, id: o.ID(), terms: t, grace: g, cursor: r, s: providerState{
		Phase: PhaseOffered, Tokens: slices.Clone(o.Resume), Sent: r,
	}}, nil
}

// RestoreProvider is the machine of an order in the state that Encode gave. The
// next input is ProviderRestarted.
func RestoreProvider(o *Order, g Grace, state []byte) (Provider, error) {
	p, err := NewProvider(o, g)
	if err != nil {
		return Provider{}, err
	}
	p.s = providerState{}
	if err := strict(state, &p.s); err != nil {
		return Provider{}, fmt.Errorf("restore a taken job: %w", err)
	}
	if n, r := len(p.s.Tokens), len(o.Resume); n < r || n > p.terms.Most || p.s.Sent < r || p.s.Sent > p.terms.Most || !p.s.Paid.Valid() || !p.s.Covered.Valid() {
		return Provider{}, fmt.Errorf("restore a taken job: %d tokens, %d sent, %d msat paid, %d held", n, p.s.Sent, p.s.Paid, p.s.Covered)
	}
	return p, nil
}

// Encode is the state for RestoreProvider, without the order.
func (p Provider) Encode() []byte { return encodeState(p.s) }

// Phase, Code and the rest tell how far the job is.
func (p Provider) Phase() Phase       { return p.s.Phase }
func (p Provider) Code() Code         { return p.s.Code }
func (p Provider) Job() ID            { return p.id }
func (p Provider) Order() *Order      { return p.order }
func (p Provider) Paid() pay.MilliSat { return p.s.Paid }
func (p Provider) Tokens() []int32    { return slices.Clone(p.s.Tokens) } // resumed ones first
func (p Provider) Sent() int          { return p.s.Sent }                 // the furthest position that was delivered
func (p Provider) Receipt() *ghost.Receipt { // nil if there is none
	if p.s.Receipt == nil {
		return nil
	}
	return p.s.Receipt.r
}

type providerStep struct {
	Provider
	now Time
	out []ProviderAction
}

// Step is what the machine does when in happens at now.
func (p Provider) Step(now Time, in ProviderInput) (Provider, []ProviderAction) {
	x := &providerStep{Provider: p, now: now}
	switch in := in.(type) {
	case Joined:
		x.join(in.From)
		return x.Provider, x.out
	case Left:
		x.joined = false
		return x.Provider, x.out
	case Received:
		x.received(in.Paid)
		return x.Provider, x.out
	case ProviderRestarted:
		x.restarted(in)
		return x.Provider, x.out
	case AuditServed:
		if x.s.Phase == PhaseSettled {
			x.s.Phase = PhaseAudited
			x.do(Save{})
		}
		return x.Provider, x.out
	}
	if x.s.Phase.Final() {
		return x.Provider, x.out
	}
	switch in := in.(type) {
	case Admitted:
		if x.s.Phase == PhaseOffered && x.asked == 0 && x.s.Covered == 0 {
			x.s.Last = now
			x.do(Save{})
			x.cover(x.terms.Resume + Window)
		}
	case Rejected:
		x.s.Retry, x.s.Message = in.Retry, in.Message
		x.end(PhaseRefused, in.Code, false)
	case Covered:
		x.covered(in.Total)
	case CoverOffer:
		x.offer(in.Offer)
	case CoverRefused:
		x.asked = 0
		x.s.NoCover = true
		if x.s.Phase == PhaseOffered || x.s.Phase == PhasePriced {
			x.end(PhaseRefused, NoCredit, false)
			break
		}
		x.pump()
	case Computed:
		x.computed(in)
	case Broken:
		x.s.Message = in.Message
		if x.s.Sent == x.terms.Resume {
			x.end(PhaseRefused, in.Code, false)
		} else {
			x.end(PhaseFailed, in.Code, false)
		}
	case Signed:
		if in.Receipt != nil && x.s.Receipt == nil && x.s.Finish != "" {
			x.s.Receipt, x.s.Phase, x.s.Last = &receiptState{in.Receipt}, PhaseReceipted, now
			x.do(Save{})
			x.pump()
		}
	case CancelAsked:
		x.cancel()
	case Tick:
		x.tick()
	}
	return x.Provider, x.out
}

func (x *providerStep) do(a ...ProviderAction) { x.out = append(x.out, a...) }

// due is what the first n tokens come to.
func (x *providerStep) due(n int) pay.MilliSat {
	d, err := x.terms.Due(n)
	if err != nil {
		panic("job: internal error: " + err.Error()) // NewProvider has looked at the largest
	}
	return d
}

// paidTo is up to which position everything is paid.
func (x *providerStep) paidTo() int { return x.terms.paidTo(x.s.Paid, x.terms.Most) }

// limit is the position up to which tokens may be delivered.
func (x *providerStep) limit() int { return min(x.paidTo()+Window, x.terms.Most) }

// cover wants the answer up to position n to be payable.
func (x *providerStep) cover(n int) {
	total := x.due(min(n, x.terms.Most))
	if x.asked > 0 || x.s.NoCover || x.s.Offer != nil {
		return
	}
	if total <= x.s.Covered && x.s.Phase != PhaseOffered && x.s.Phase != PhasePriced {
		return
	}
	x.asked = max(total, 1) // a free job asks too, once
	x.do(Cover{total})
}

func (x *providerStep) covered(total pay.MilliSat) {
	x.asked = 0
	x.s.Covered, x.s.Last = max(x.s.Covered, total), x.now
	x.s.Offer = nil
	if x.s.Phase == PhaseOffered || x.s.Phase == PhasePriced {
		if x.s.Phase == PhaseOffered {
			x.do(Save{})
			x.emit(Event{Type: EventAccepted, Job: x.id})
		}
		x.s.Phase = PhaseFunded
	}
	x.do(Save{})
	x.pump()
}

func (x *providerStep) offer(offer []byte) {
	x.asked = 0
	x.s.Offer, x.s.Last = offer, x.now
	if x.s.Phase == PhaseOffered {
		x.s.Phase = PhasePriced
		x.do(Save{})
		x.emit(Event{Type: EventAccepted, Job: x.id, Offer: offer})
		return
	}
	x.do(Save{})
	x.emit(Event{Type: EventOffer, Offer: offer})
}

// received: a payment, or the proof that an offer was paid.
func (x *providerStep) received(paid pay.MilliSat) {
	if paid > x.s.Paid {
		x.s.Paid, x.s.Last = paid, x.now
		x.do(Save{})
	}
	if x.s.Phase.Final() {
		return
	}
	if x.s.Offer != nil {
		x.s.Offer = nil
		x.cover(max(x.paidTo(), x.terms.Resume) + Window)
	}
	x.pump()
}

func (x *providerStep) computed(in Computed) {
	have := len(x.s.Tokens)
	if x.s.Finish != "" || in.N > have || in.N+len(in.Tokens) < have || len(in.Tokens) == 0 && in.Finish == "" {
		return // of an engine that was stopped
	}
	to := in.N + len(in.Tokens)
	if to > x.terms.Most {
		x.s.Message = fmt.Sprintf("it made %d tokens; the request allows %d", to, x.terms.Most)
		x.end(PhaseFailed, EngineFailed, false)
		return
	}
	x.s.Tokens = append(slices.Clip(x.s.Tokens), in.Tokens[have-in.N:]...)
	x.s.Last = x.now
	switch {
	case x.s.Stop && to >= x.s.Sent:
		x.stop()
		return
	case in.Finish != "":
		x.s.Finish = in.Finish
	case to == x.terms.Most:
		x.s.Finish = ghost.FinishLength
	}
	if x.s.Finish != "" {
		x.do(Save{}, StopEngine{})
		x.sign()
	}
	x.pump()
}

func (x *providerStep) sign() {
	x.do(SignReceipt{slices.Clone(x.s.Tokens), x.s.Finish, x.due(len(x.s.Tokens))})
}

func (x *providerStep) emit(e Event) {
	if x.joined {
		x.do(Emit{e})
	}
}

// pump delivers what may be delivered, and lets the engine compute what may be needed.
func (x *providerStep) pump() {
	if x.s.Phase == PhaseOffered || x.s.Phase == PhasePriced || x.s.Phase == PhaseRefused {
		return
	}
	x.deliver()
	if x.s.Phase.Final() {
		return
	}
	all := x.s.Finish != "" && x.s.Sent >= len(x.s.Tokens)
	if all && x.s.Phase != PhaseReceipted {
		x.s.Phase = PhaseDelivered
	}
	if x.s.Receipt != nil {
		if x.receiptSent && x.s.Paid >= x.due(len(x.s.Tokens)) {
			if x.s.Stop && x.s.Finish == ghost.FinishCancelled {
				x.end(PhaseCancelled, Cancelled, true)
			} else {
				x.end(PhaseSettled, Done, true)
			}
		}
		return
	}
	if x.s.Finish != "" {
		return
	}
	// One window beyond what may be delivered, if the session bears it.
	want := min(x.paidTo()+2*Window, x.terms.Most)
	if x.s.Stop {
		want = x.s.Sent
	}
	x.cover(want)
	until := min(want, x.terms.paidTo(x.s.Covered, x.terms.Most))
	if until > x.until && until > len(x.s.Tokens) {
		if x.until <= len(x.s.Tokens) {
			x.s.Last = x.now // the engine was idle until now
		}
		x.until = until
		x.do(Compute{len(x.s.Tokens), until})
	}
	if x.s.NoCover && until <= len(x.s.Tokens) && x.s.Sent >= until && x.s.Paid >= x.due(x.s.Sent) {
		x.end(PhaseFailed, CreditSpent, true)
	}
}

// deliver sends tokens and the receipt on this connection.
func (x *providerStep) deliver() {
	if !x.joined {
		return
	}
	limit := min(x.limit(), len(x.s.Tokens))
	for x.cursor < limit {
		to := min(x.cursor+Window, limit)
		e := Event{Type: EventChunk, N: x.cursor, Tokens: slices.Clone(x.s.Tokens[x.cursor:to]), Due: x.due(to)}
		if to == len(x.s.Tokens) {
			e.Finish = x.s.Finish
		}
		x.cursor = to
		if to > x.s.Sent {
			x.s.Sent, x.s.Last = to, x.now
			if x.s.Phase == PhaseFunded {
				x.s.Phase = PhaseStreaming
			}
		}
		x.do(Emit{e})
	}
	if x.s.Receipt != nil && !x.receiptSent && x.cursor >= len(x.s.Tokens) {
		x.receiptSent = true
		x.do(Emit{Event{Type: EventReceipt, Receipt: x.s.Receipt.r}})
	}
}

// join is a new connection.
func (x *providerStep) join(from int) {
	x.joined, x.receiptSent, x.cursor = true, false, from
	switch {
	case x.s.Phase == PhaseRefused:
		x.emit(x.failure(EventRefused))
		return
	case from < x.terms.Resume || from > x.limit():
		x.emit(Event{Type: EventRefused, Code: BadOrder, Message: fmt.Sprintf("from=%d is not between %d and %d", from, x.terms.Resume, x.limit())})
		x.joined = false
		return
	}
	x.s.Sent = max(x.s.Sent, from)
	if x.s.Phase == PhaseOffered {
		return // Covered or CoverOffer will answer
	}
	x.emit(Event{Type: EventAccepted, Job: x.id, Offer: x.s.Offer})
	if x.s.Phase.Final() {
		x.deliver()
		if x.s.Receipt == nil {
			x.emit(x.failure(EventFailed))
		}
		return
	}
	x.pump()
}

func (x *providerStep) failure(t EventType) Event {
	return Event{Type: t, Code: x.s.Code, Message: clip(x.s.Message), Retry: min(max(x.s.Retry, 0), maxRetry)}
}

// clip cuts a message that is too long for an event.
func clip(s string) string {
	s = string([]rune(s))
	for len(s) > maxReason {
		r := []rune(s)
		s = string(r[:len(r)*maxReason/len(s)])
	}
	return s
}

func (x *providerStep) restarted(in ProviderRestarted) {
	x.s.Paid = max(x.s.Paid, in.Paid)
	x.s.Last = x.now
	x.joined, x.receiptSent, x.until, x.asked = false, false, 0, 0
	x.s.NoCover, x.s.Offer = false, nil
	switch {
	case x.s.Phase.Final():
		due, owed := x.closing()
		x.do(SettleSession{due, owed})
		return
	case x.s.Phase == PhaseOffered || x.s.Phase == PhasePriced:
		x.cover(x.terms.Resume + Window)
		return
	case x.s.Finish != "" && x.s.Receipt == nil:
		x.sign()
	case x.s.Finish == "":
		x.s.Covered = 0
		x.cover(x.paidTo() + 2*Window)
	}
	x.pump()
}

// cancel keeps what was delivered.
func (x *providerStep) cancel() {
	if x.s.Finish != "" || x.s.Stop {
		return
	}
	x.s.Stop = true
	if len(x.s.Tokens) >= x.s.Sent {
		x.stop()
		return
	}
	x.do(Save{})
	x.pump()
}

func (x *providerStep) stop() {
	x.s.Tokens = slices.Clone(x.s.Tokens[:x.s.Sent])
	if x.s.Sent == x.terms.Resume {
		x.end(PhaseCancelled, Cancelled, false)
		return
	}
	x.s.Finish, x.s.Last = ghost.FinishCancelled, x.now
	x.do(Save{}, StopEngine{})
	x.sign()
	x.pump()
}

func (x *providerStep) tick() {
	if x.s.Phase == PhaseOffered && x.asked == 0 && (x.joined || x.s.Last == 0) {
		x.s.Last = x.now // it waits for a place: nobody's fault
	}
	waited := x.now - x.s.Last
	started := x.s.Phase != PhaseOffered && x.s.Phase != PhasePriced
	engine := started && (x.s.Finish == "" && len(x.s.Tokens) < x.until || x.s.Finish != "" && x.s.Receipt == nil)
	client := !x.joined || !engine || x.s.Sent >= x.limit() // whose turn it is
	switch {
	case client && waited >= x.grace.Client && !x.joined:
		x.end(PhaseFailed, ClientGone, true)
	case client && waited >= x.grace.Client:
		x.end(PhaseFailed, Unpaid, true)
	case engine && waited >= x.grace.Engine:
		x.end(PhaseFailed, EngineFailed, false)
	}
}

// closing is what the session is closed with.
func (x *providerStep) closing() (due pay.MilliSat, owed bool) {
	switch x.s.Code {
	case Done, Cancelled, Unpaid, ClientGone, CreditSpent:
		owed = true
	}
	return x.due(x.s.Sent), owed
}

// end enters a final phase. tell: the client has been told by a receipt.
func (x *providerStep) end(p Phase, c Code, told bool) {
	if x.s.Phase.Final() {
		return
	}
	x.s.Phase, x.s.Code = p, c
	x.s.Offer = nil
	x.do(Save{}, StopEngine{})
	due, owed := x.closing()
	x.do(SettleSession{due, owed})
	switch {
	case p == PhaseRefused:
		x.emit(x.failure(EventRefused))
	case !told || x.s.Receipt == nil:
		x.emit(x.failure(EventFailed))
	}
	x.do(End{p, c, x.s.Message, x.s.Retry})
}
