package job

import (
	"encoding/json"
	"fmt"
	"slices"

	"github.com/geistnet/geist/ghost"
	"github.com/geistnet/geist/internal/pay"
)

// Patience is how long an asker waits, and for how much.
type Patience struct {
	Most       pay.MilliSat // the most that the job may cost
	Silence    Time         // without any event, until it connects again
	Progress   Time         // without a token or a receipt, until it gives up
	PayRetry   Time         // until an unanswered payment is sent again
	Reconnects int          // in a row without a token
	PayTries   int          // of one payment
	Audit      bool         // a settled job is audited
}

// DefaultPatience suits an interactive asker.
func DefaultPatience(most pay.MilliSat) Patience {
	return Patience{Most: most, Silence: 20_000, Progress: 300_000, PayRetry: 5_000, Reconnects: 4, PayTries: 5}
}

// Inputs of an asker's machine.
type (
	// AskerInput is one of Start, Arrived, StreamEnded, Funded, PayDone, PayFailed,
	// Cancel, AuditDone, AskerRestarted and Tick.
	AskerInput interface{ askerInput() }

	// Start begins. It comes once.
	Start struct{}
	// Arrived: an event came, as ParseEvent gave it. TextDiffers: the driver made the
	// text of the tokens, and it is not the event's.
	Arrived struct {
		Event       *Event
		TextDiffers bool
	}
	// StreamEnded: the connection ended, could not be made, or brought what
	// ParseEvent refuses (Bad).
	StreamEnded struct{ Bad bool }
	// Funded: an offer was paid and the provider has the message.
	Funded struct{}
	// PayDone: the session's Paid is now Paid.
	PayDone struct{ Paid pay.MilliSat }
	// PayFailed: Fund or Pay failed. Again: a later try may succeed.
	PayFailed struct {
		Code  Code // PaymentFailed or OverBudget
		Again bool
	}
	// Cancel: the user wants no more.
	Cancel struct{}
	// AuditDone: what came of Audit.
	AuditDone struct {
		OK     bool
		Detail string
	}
	// AskerRestarted: the machine was restored and the session opened again.
	AskerRestarted struct{ Promised, Paid pay.MilliSat }
)

func (Start) askerInput()          {}
func (Arrived) askerInput()        {}
func (StreamEnded) askerInput()    {}
func (Funded) askerInput()         {}
func (PayDone) askerInput()        {}
func (PayFailed) askerInput()      {}
func (Cancel) askerInput()         {}
func (AuditDone) askerInput()      {}
func (AskerRestarted) askerInput() {}
func (Tick) askerInput()           {}

// Actions of an asker's machine.
type (
	// AskerAction is one of Save, Connect, Fund, Pay, Deliver, SendCancel,
	// CloseSession, Audit and End.
	AskerAction interface{ askerAction() }

	// Connect posts the order with ?from=From, in place of any connection there is.
	Connect struct{ From int }
	// Fund: Payer.Fund, and the message to the provider. Report Funded or PayFailed.
	Fund struct{ Offer []byte }
	// Pay: Payer.Pay, the message to the provider, Payer.Answer; on pay.ErrAgain the
	// same again. Report PayDone or PayFailed.
	Pay struct{ Total pay.MilliSat }
	// Deliver: the answer goes on with these tokens from position N. Each position
	// comes once, in order; after a restart those not saved come again.
	Deliver struct {
		N      int
		Tokens []int32
	}
	// SendCancel deletes the job at the provider. Nothing is reported.
	SendCancel struct{}
	// CloseSession: Payer.Close, and its message to the provider, until it succeeds.
	CloseSession struct{}
	// Audit demands the proof. Report AuditDone.
	Audit struct{}
)

func (Save) askerAction()         {}
func (Connect) askerAction()      {}
func (Fund) askerAction()         {}
func (Pay) askerAction()          {}
func (Deliver) askerAction()      {}
func (SendCancel) askerAction()   {}
func (CloseSession) askerAction() {}
func (Audit) askerAction()        {}
func (End) askerAction()          {}

// Asker is the asker's side of one job. It is a value: Step leaves the old one as it is.
type Asker struct {
	order    *Order
	id       ID
	terms    Terms
	patience Patience
	s        askerState
}

// askerState is what a journal keeps.
type askerState struct {
	Phase     Phase         `json:"phase"`
	Code      Code          `json:"code,omitempty"`
	Message   string        `json:"message,omitempty"`
	Tokens    []int32       `json:"tokens,omitempty"` // of the answer, resumed ones first
	Finish    ghost.Finish  `json:"finish,omitempty"`
	Receipt   *receiptState `json:"receipt,omitempty"`
	Promised  pay.MilliSat  `json:"promised,omitempty"`
	Paid      pay.MilliSat  `json:"paid,omitempty"`
	PromisedN int           `json:"promised_n,omitempty"` // tokens that Promised covers
	Stopping  Code          `json:"stopping,omitempty"`   // why the job was cancelled
	Started   bool          `json:"started,omitempty"`

	Silence    Time `json:"silence"`  // when the stream counts as dead
	Progress   Time `json:"progress"` // when the job does
	PayAgain   Time `json:"pay_again"`
	PayTries   int  `json:"pay_tries,omitempty"`
	Reconnects int  `json:"reconnects,omitempty"`
	Gap        Code `json:"gap,omitempty"` // the stream is of no use any more: why
}

// receiptState writes a receipt as its event.
type receiptState struct{ r *ghost.Receipt }

func (r receiptState) MarshalJSON() ([]byte, error) { return r.r.Encode(), nil }

func (r *receiptState) UnmarshalJSON(b []byte) error {
	var err error
	r.r, err = ghost.ParseReceipt(b)
	return err
}

// NewAsker is the machine of a signed order.
func NewAsker(o *Order, p Patience) (Asker, error) {
	if err := o.Check(); err != nil {
		return Asker{}, fmt.Errorf("ask: %w", err)
	}
	t := o.Terms()
	if _, err := t.Due(t.Most); err != nil {
		return Asker{}, fmt.Errorf("ask: %w", err)
	}
	return Asker{order: o, id: o.ID(), terms: t, patience: p, s: askerState{
		Phase: PhaseOffered, Tokens: slices.Clone(o.Resume), PromisedN: len(o.Resume),
	}}, nil
}

// RestoreAsker is the machine of an order in the state that Encode gave. The next
// input is AskerRestarted.
func RestoreAsker(o *Order, p Patience, state []byte) (Asker, error) {
	a, err := NewAsker(o, p)
	if err != nil {
		return Asker{}, err
	}
	a.s = askerState{}
	if err := strict(state, &a.s); err != nil {
		return Asker{}, fmt.Errorf("restore an asked job: %w", err)
	}
	if n := len(a.s.Tokens); n < len(o.Resume) || n > a.terms.Most || !a.s.Promised.Valid() || !a.s.Paid.Valid() {
		return Asker{}, fmt.Errorf("restore an asked job: %d tokens, %d msat promised, %d paid", n, a.s.Promised, a.s.Paid)
	}
	return a, nil
}

// Encode is the state for RestoreAsker, without the order.
func (a Asker) Encode() []byte { return encodeState(a.s) }

func encodeState(s any) []byte {
	b, err := json.Marshal(s)
	if err != nil {
		panic("job: internal error: encode a state: " + err.Error())
	}
	return b
}

// Phase, Code and the rest tell how far the job is.
func (a Asker) Phase() Phase           { return a.s.Phase }
func (a Asker) Code() Code             { return a.s.Code }
func (a Asker) Job() ID                { return a.id }
func (a Asker) Order() *Order          { return a.order }
func (a Asker) Paid() pay.MilliSat     { return a.s.Paid }
func (a Asker) Promised() pay.MilliSat { return a.s.Promised }
func (a Asker) Tokens() []int32        { return slices.Clone(a.s.Tokens) } // resumed ones first
func (a Asker) Finish() ghost.Finish   { return a.s.Finish }
func (a Asker) Hurry() bool            { return a.s.Gap != "" } // a Tick is wanted within 50 ms
func (a Asker) Receipt() *ghost.Receipt { // nil if there is none
	if a.s.Receipt == nil {
		return nil
	}
	return a.s.Receipt.r
}

// askerStep is one step under way.
type askerStep struct {
	Asker
	now Time
	out []AskerAction
}

// Step is what the machine does when in happens at now.
func (a Asker) Step(now Time, in AskerInput) (Asker, []AskerAction) {
	x := &askerStep{Asker: a, now: now}
	if a.s.Phase.Final() {
		x.final(in)
		return x.Asker, x.out
	}
	switch in := in.(type) {
	case Start:
		x.start()
	case Arrived:
		x.arrived(in)
	case StreamEnded:
		why := Unreachable
		if in.Bad {
			why = BadEvent
		}
		if x.s.Phase == PhaseOffered && x.s.Reconnects > 0 && x.s.Stopping == "" {
			x.reconnect(why) // gives up
			break
		}
		x.broken(why)
	case Funded:
		if x.s.Phase == PhasePriced {
			x.s.Phase = PhaseFunded
		}
		x.heard()
	case PayDone:
		x.s.Paid = max(x.s.Paid, in.Paid)
		x.heard()
		x.advance()
	case PayFailed:
		if !in.Again {
			x.fail(in.Code, "")
		}
	case Cancel:
		x.cancel(Cancelled)
	case AskerRestarted:
		x.restarted(in)
	case Tick:
		x.tick()
	}
	return x.Asker, x.out
}

func (x *askerStep) do(a ...AskerAction) { x.out = append(x.out, a...) }

// heard puts off the moment when the stream counts as dead.
func (x *askerStep) heard() {
	if x.s.Gap == "" {
		x.s.Silence = x.now + x.patience.Silence
	}
}

// progress is heard, and something came that was wanted.
func (x *askerStep) progress() {
	x.s.Gap = ""
	x.heard()
	x.s.Progress = x.now + x.patience.Progress
	x.s.Reconnects = 0
}

func (x *askerStep) start() {
	if x.s.Started {
		return
	}
	x.s.Started = true
	x.progress()
	if d, err := x.terms.Due(min(len(x.s.Tokens)+Window, x.terms.Most)); err != nil || d > x.patience.Most {
		x.fail(OverBudget, "")
		return
	}
	x.do(Save{}, Connect{len(x.s.Tokens)})
}

func (x *askerStep) restarted(in AskerRestarted) {
	x.s.Started = true
	x.s.Paid = max(x.s.Paid, in.Paid)
	x.progress()
	x.s.PayTries = 0
	if x.s.Receipt == nil {
		x.do(Connect{len(x.s.Tokens)})
		if x.s.Stopping != "" {
			x.do(SendCancel{})
		}
	}
	if x.s.Promised > x.s.Paid {
		x.sendPay()
	}
	x.advance()
}

func (x *askerStep) arrived(in Arrived) {
	e := in.Event
	if e == nil || e.Check() != nil {
		x.broken(BadEvent)
		return
	}
	x.heard()
	switch e.Type {
	case EventAccepted:
		switch {
		case e.Job != x.id:
			x.fail(BadEvent, "it accepted another job")
		case x.s.Phase == PhaseOffered && e.Offer == nil:
			x.s.Phase = PhaseFunded
		case x.s.Phase == PhaseOffered:
			x.s.Phase = PhasePriced
		}
		if !x.s.Phase.Final() && e.Offer != nil {
			x.do(Save{}, Fund{e.Offer})
		}
	case EventOffer:
		if x.s.Receipt == nil && x.s.Phase != PhaseOffered {
			x.do(Save{}, Fund{e.Offer})
		}
	case EventChunk:
		x.chunk(e, in.TextDiffers)
	case EventReceipt:
		x.receipt(e.Receipt)
	case EventRefused:
		x.ended(e)
	case EventFailed:
		x.ended(e)
	}
}

// ended is the provider's refusal or failure.
func (x *askerStep) ended(e *Event) {
	if x.s.Receipt != nil {
		return // only the last payment is missing, and that goes another way
	}
	c := e.Code.known()
	x.s.Message = e.Message
	switch {
	case x.s.Stopping != "":
		x.close(PhaseCancelled, x.s.Stopping, e.Retry)
	case e.Type == EventRefused && len(x.s.Tokens) == x.terms.Resume:
		x.close(PhaseRefused, c, e.Retry)
	default:
		x.close(PhaseFailed, c, e.Retry)
	}
}

func (x *askerStep) chunk(e *Event, textDiffers bool) {
	have := len(x.s.Tokens)
	if x.s.Phase == PhaseOffered || x.s.Phase == PhasePriced {
		x.s.Phase = PhaseFunded // it accepts by delivering
	}
	for i, id := range e.Tokens {
		if p := e.N + i; p < have && x.s.Tokens[p] != id {
			x.fail(Contradiction, fmt.Sprintf("position %d was %d and is %d", p, x.s.Tokens[p], id))
			return
		}
	}
	to := e.N + len(e.Tokens)
	if e.N > have { // something between was lost
		x.broken(BadEvent)
		return
	}
	if to <= have {
		return // known
	}
	due, err := x.terms.Due(to)
	switch {
	case x.s.Receipt != nil || x.s.Finish != "":
		x.fail(Miscounted, fmt.Sprintf("%d tokens follow the end of the answer", to-have))
	case to > x.terms.Most || err != nil:
		x.fail(Miscounted, fmt.Sprintf("%d tokens; the request allows %d", to, x.terms.Most))
	case e.Due > due:
		x.fail(Overcharged, fmt.Sprintf("%d msat for %d tokens that come to %d", e.Due, to-x.terms.Resume, due))
	case e.Due < due:
		x.fail(Miscounted, fmt.Sprintf("%d msat for %d tokens that come to %d", e.Due, to-x.terms.Resume, due))
	case textDiffers:
		x.fail(TextDiffers, fmt.Sprintf("from position %d on", e.N))
	default:
		x.s.Phase = PhaseStreaming
		fresh := slices.Clone(e.Tokens[have-e.N:])
		x.s.Tokens = append(slices.Clip(x.s.Tokens), fresh...)
		x.s.Finish = e.Finish
		x.progress()
		x.do(Deliver{have, fresh})
		if e.Finish != "" {
			x.s.Phase = PhaseDelivered
		}
		x.advance()
		if next, err := x.terms.Due(min(to+Window, x.terms.Most)); e.Finish == "" && (err != nil || next > x.patience.Most) {
			x.cancel(OverBudget)
		}
	}
}

// receipt takes one whose signature is right.
func (x *askerStep) receipt(r *ghost.Receipt) {
	if x.s.Receipt != nil {
		return
	}
	o := x.order
	due, err := x.terms.Due(len(x.s.Tokens))
	wrong := ""
	switch {
	case r.Provider != o.Provider || r.Client != o.Client || r.Model != o.Model || r.Request != o.Request.Hash():
		wrong = "it is for another job"
	case r.SeedNonce != ghost.CommitSeed(o.SeedNonce) || r.AuditNonce != o.Audit:
		wrong = "its nonces are not the order's"
	case r.Time < o.CreatedAt-MaxSkew:
		wrong = "it is older than the order"
	case r.Answer.Count > len(x.s.Tokens) && r.Answer.Count <= x.terms.Most:
		x.broken(WrongReceipt) // tokens before it were lost
		return
	case r.Finish == ghost.FinishCancelled && x.s.Stopping == "":
		wrong = "nobody cancelled"
	case x.s.Finish != "" && r.Finish != x.s.Finish:
		wrong = fmt.Sprintf("the finish was %q and is %q", x.s.Finish, r.Finish)
	case err != nil || r.Price != uint64(due):
		wrong = fmt.Sprintf("its price is %d msat; the tokens come to %d", r.Price, due)
	default:
		if err := r.Answers(o.Request, x.s.Tokens); err != nil {
			wrong = err.Error()
		}
	}
	if wrong != "" {
		x.fail(WrongReceipt, wrong)
		return
	}
	x.s.Receipt, x.s.Finish, x.s.Phase = &receiptState{r}, r.Finish, PhaseReceipted
	x.progress()
	x.do(Save{})
	x.advance()
}

// advance pays what is to be paid now, and settles when all is.
func (x *askerStep) advance() {
	if x.s.Phase.Final() {
		return
	}
	if x.s.Promised <= x.s.Paid {
		n := len(x.s.Tokens)
		due, err := x.terms.Due(n)
		if err != nil {
			panic("job: internal error: " + err.Error()) // NewAsker has looked
		}
		late := n-x.s.PromisedN >= PayAt && x.s.Finish == "" || x.s.Receipt != nil
		switch {
		case late && due > x.s.Promised && due > x.patience.Most:
			x.cancel(OverBudget)
			if x.s.Receipt != nil {
				x.close(PhaseCancelled, x.s.Stopping, 0)
			}
			return
		case late && due > x.s.Promised:
			x.s.Promised, x.s.PromisedN, x.s.PayTries = due, n, 0
			x.do(Save{})
			x.sendPay()
			return
		case late:
			x.s.PromisedN = n
		}
	}
	if x.s.Receipt == nil || x.s.Promised > x.s.Paid {
		return
	}
	if x.s.Stopping != "" && x.s.Finish == ghost.FinishCancelled {
		x.close(PhaseCancelled, x.s.Stopping, 0)
		return
	}
	x.close(PhaseSettled, Done, 0)
}

func (x *askerStep) sendPay() {
	x.s.PayAgain = x.now + x.patience.PayRetry
	x.do(Pay{x.s.Promised})
}

// cancel wants no more tokens. What is here is paid when its receipt comes.
func (x *askerStep) cancel(why Code) {
	if x.s.Stopping != "" || x.s.Receipt != nil {
		if x.s.Stopping == "" {
			x.s.Stopping = why
		}
		return
	}
	x.s.Stopping = why
	if !x.s.Started {
		x.close(PhaseCancelled, why, 0)
		return
	}
	x.s.Progress = x.now + x.patience.Silence // it has that long for the receipt
	x.do(Save{}, SendCancel{})
}

// broken leaves a stream that is of no use any more: at once for the first time,
// then after 0.1 s, 0.2 s, 0.4 s and so on; and gives up at the last.
func (x *askerStep) broken(why Code) {
	if x.s.Receipt != nil || !x.s.Started || x.s.Gap != "" {
		return
	}
	if x.s.Reconnects == 0 || x.s.Reconnects >= x.patience.Reconnects {
		x.reconnect(why)
		return
	}
	x.s.Gap = why
	x.s.Silence = min(x.s.Silence, x.now+50<<min(x.s.Reconnects, 10))
}

// reconnect connects again, or gives up because of why.
func (x *askerStep) reconnect(why Code) {
	switch {
	case x.s.Receipt != nil || !x.s.Started:
	case x.s.Phase == PhaseOffered && x.s.Reconnects > 0 && x.s.Stopping == "":
		x.fail(why, "") // nothing is lost by asking elsewhere
	case x.s.Reconnects >= x.patience.Reconnects && x.s.Stopping != "":
		x.close(PhaseCancelled, x.s.Stopping, 0)
	case x.s.Reconnects >= x.patience.Reconnects:
		if why == Unreachable && x.s.Phase != PhaseOffered {
			why = Stalled
		}
		x.fail(why, "")
	default:
		x.s.Reconnects++
		x.s.Gap = ""
		x.heard()
		x.do(Connect{len(x.s.Tokens)})
	}
}

func (x *askerStep) tick() {
	if !x.s.Started {
		return
	}
	if x.s.Promised > x.s.Paid && x.now >= x.s.PayAgain {
		if x.s.PayTries++; x.s.PayTries >= x.patience.PayTries {
			x.fail(PaymentFailed, "")
			return
		}
		x.sendPay()
	}
	if x.s.Receipt != nil {
		return // PayTries bounds what is left
	}
	if x.now >= x.s.Progress {
		if x.s.Stopping != "" {
			x.close(PhaseCancelled, x.s.Stopping, 0)
			return
		}
		x.fail(Stalled, "")
		return
	}
	if x.now >= x.s.Silence {
		why := x.s.Gap
		if why == "" {
			why = Unreachable
		}
		x.reconnect(why)
	}
}

// fail ends the job for a reason of the asker's own, and tells the provider.
func (x *askerStep) fail(c Code, message string) {
	if message != "" {
		x.s.Message = message
	}
	connected := x.s.Phase != PhaseOffered || x.s.Reconnects > 0 || len(x.out) > 0
	x.close(PhaseFailed, c, 0)
	if connected {
		x.do(SendCancel{})
	}
}

// close enters a final phase.
func (x *askerStep) close(p Phase, c Code, retry int) {
	if x.s.Phase.Final() {
		return
	}
	x.s.Phase, x.s.Code = p, c
	x.do(Save{}, CloseSession{}, End{p, c, x.s.Message, retry})
	if p == PhaseSettled && x.patience.Audit {
		x.do(Audit{})
	}
}

// final is all that still happens to a job that ended.
func (x *askerStep) final(in AskerInput) {
	switch in := in.(type) {
	case PayDone:
		x.s.Paid = max(x.s.Paid, in.Paid)
	case AskerRestarted:
		x.s.Paid = max(x.s.Paid, in.Paid)
		x.do(CloseSession{})
		if x.s.Phase == PhaseSettled && x.patience.Audit {
			x.do(Audit{})
		}
	case AuditDone:
		if x.s.Phase != PhaseSettled {
			return
		}
		x.s.Phase = PhaseAudited
		if !in.OK {
			x.s.Code, x.s.Message = AuditFailed, in.Detail
		}
		x.do(Save{}, End{x.s.Phase, x.s.Code, x.s.Message, 0})
	}
}
