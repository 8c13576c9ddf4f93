package job

// Phase is how far a job is, for one side.
type Phase string

// The phases. The last three and Settled and Audited are final.
const (
	PhaseOffered   Phase = "offered"   // an order exists
	PhasePriced    Phase = "priced"    // the other side agreed to the terms; a deposit is missing
	PhaseFunded    Phase = "funded"    // what the start needs is payable
	PhaseStreaming Phase = "streaming" // a token was delivered
	PhaseDelivered Phase = "delivered" // all tokens were
	PhaseReceipted Phase = "receipted" // there is a receipt; the last payment is missing
	PhaseSettled   Phase = "settled"
	PhaseAudited   Phase = "audited"
	PhaseRefused   Phase = "refused"
	PhaseFailed    Phase = "failed"
	PhaseCancelled Phase = "cancelled"
)

// Final reports whether nothing more happens to the job. Settled may still become
// Audited.
func (p Phase) Final() bool {
	switch p {
	case PhaseSettled, PhaseAudited, PhaseRefused, PhaseFailed, PhaseCancelled:
		return true
	}
	return false
}

// Time is in milliseconds since an epoch of the driver's choice that outlives
// the process, such as Unix's. It never falls.
type Time int64

// Save demands that what Encode gives now is durable before the next action.
type Save struct{}

// End says that the job is in a final phase, and why. It comes once.
type End struct {
	Phase   Phase
	Code    Code
	Message string // what the other side said beyond the code; may be empty
	Retry   int    // seconds until the other side wants to be asked again; 0: unknown
}

// Tick says that time has passed. A driver sends it at least every second while
// the phase is not final.
type Tick struct{}
