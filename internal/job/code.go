package job

// Code is why a job ended, or a request was turned down.
type Code string

// The codes. Done is the only good one.
const (
	Done Code = "done"

	// Said by a provider before it computes.
	BadOrder      Code = "bad-order"
	TooOld        Code = "too-old"
	UnknownModel  Code = "unknown-model"
	UnknownAsk    Code = "unknown-ask"
	PricesDiffer  Code = "prices-differ"
	UnknownRail   Code = "unknown-rail"
	TooLong       Code = "too-long"
	BadGrammar    Code = "bad-grammar"
	Busy          Code = "busy"
	NoCredit      Code = "no-credit"
	ResumeDiffers Code = "resume-differs"
	ResumeQuota   Code = "resume-quota"
	Draining      Code = "draining"
	UnknownJob    Code = "unknown-job"
	NotYet        Code = "not-yet"

	// Said by a provider later.
	EngineFailed Code = "engine-failed"
	Unpaid       Code = "unpaid"
	CreditSpent  Code = "credit-spent"
	ClientGone   Code = "client-gone"
	NotReceipted Code = "not-receipted"

	// Found by an asker.
	Overcharged   Code = "overcharged"
	Miscounted    Code = "miscounted"
	Contradiction Code = "contradiction"
	TextDiffers   Code = "text-differs"
	WrongReceipt  Code = "wrong-receipt"
	BadEvent      Code = "bad-event"
	Unreachable   Code = "unreachable"
	Stalled       Code = "stalled"
	PaymentFailed Code = "payment-failed"
	OverBudget    Code = "over-budget"
	AuditFailed   Code = "audit-failed"

	// By either.
	Cancelled Code = "cancelled"
	Failure   Code = "failed"
)

// A reason is what a code means.
type reason struct {
	code      Code
	by        string // who says it
	sentence  string
	elsewhere bool // another provider may do better
}

// reasons in the order of docs/spec/job.md §6.
func reasons() []reason {
	const p, a, both = "provider", "asker", "both"
	return []reason{
		{Done, both, "The answer is complete, receipted and paid.", false},
		{BadOrder, p, "The provider found a mistake in the order.", false},
		{TooOld, p, "The order's time is too far from the provider's clock; check both clocks.", true},
		{UnknownModel, p, "The provider does not have this model.", true},
		{UnknownAsk, p, "The provider has withdrawn the offer that the order answers to.", true},
		{PricesDiffer, p, "The order's prices are not those of the offer.", true},
		{UnknownRail, p, "The provider is not paid in this way.", true},
		{TooLong, p, "Prompt and answer do not fit into the context that the provider serves.", true},
		{BadGrammar, p, "The provider cannot use the schema that the answer shall fit.", true},
		{Busy, p, "The provider has no free place now.", true},
		{NoCredit, p, "The provider gives this key no more credit; settle the balance or ask for a higher limit.", true},
		{ResumeDiffers, p, "The provider's model draws other tokens than those that came from elsewhere.", true},
		{ResumeQuota, p, "The provider has read enough prompts for this key without payment.", true},
		{Draining, p, "The provider is shutting down.", true},
		{UnknownJob, p, "The provider does not know this job.", true},
		{NotYet, p, "The job has no receipt yet.", false},
		{EngineFailed, p, "The provider's engine failed.", true},
		{Unpaid, p, "What was delivered was not paid in time.", false},
		{CreditSpent, p, "The credit with the provider is used up in the middle of the answer.", true},
		{ClientGone, p, "The asker went away.", false},
		{NotReceipted, p, "The provider could not sign a receipt.", true},
		{Overcharged, a, "The provider wanted more than its price for what it delivered; nothing more was paid.", true},
		{Miscounted, a, "The provider sent tokens that cannot belong to the answer; nothing more was paid.", true},
		{Contradiction, a, "The provider sent two different tokens for one position; nothing more was paid.", true},
		{TextDiffers, a, "The provider's text is not that of its tokens; nothing more was paid.", true},
		{WrongReceipt, a, "The provider's receipt is not for this request and answer; nothing more was paid.", true},
		{BadEvent, a, "The provider sent something that is not in the protocol.", true},
		{Unreachable, a, "The provider could not be reached.", true},
		{Stalled, a, "The provider stopped answering.", true},
		{PaymentFailed, a, "The payment did not reach the provider.", true},
		{OverBudget, a, "The budget of this key is spent; its owner can raise it.", false},
		{AuditFailed, a, "The audit found a wrong value, or the provider did not open what was drawn.", false},
		{Cancelled, both, "The asker cancelled.", false},
		{Failure, both, "The other side gave a reason that this version does not know.", true},
	}
}

// Sentence says to a person what happened.
func (c Code) Sentence() string {
	for _, r := range reasons() {
		if r.code == c {
			return r.sentence
		}
	}
	return Failure.Sentence()
}

// Elsewhere reports whether the same request may succeed with another provider.
func (c Code) Elsewhere() bool {
	for _, r := range reasons() {
		if r.code == c {
			return r.elsewhere
		}
	}
	return true
}

// known is c, or Failure if it is none of the codes.
func (c Code) known() Code {
	for _, r := range reasons() {
		if r.code == c {
			return c
		}
	}
	return Failure
}
