package job

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"unicode/utf8"

	"github.com/geistnet/geist/audit"
	"github.com/geistnet/geist/ghost"
	"github.com/geistnet/geist/internal/pay"
)

// EventType is what an event of the stream says.
type EventType string

// The types.
const (
	EventAccepted EventType = "accepted"
	EventOffer    EventType = "offer"
	EventAlive    EventType = "alive"
	EventChunk    EventType = "chunk"
	EventReceipt  EventType = "receipt"
	EventRefused  EventType = "refused"
	EventFailed   EventType = "failed"
)

// Event is one line of the stream. Which fields count follows from Type.
type Event struct {
	Type    EventType
	Job     ID             // EventAccepted
	Offer   []byte         // EventAccepted, EventOffer: for Payer.Fund
	N       int            // EventChunk: position of the first token
	Tokens  []int32        // 1 to Window
	Text    string         // whole characters
	Probs   []*TokenProb   // of Tokens, if the order wants them; nil for those that have none
	Due     pay.MilliSat   // of all tokens up to the last of these
	Finish  ghost.Finish   // "" unless it is the last chunk
	Receipt *ghost.Receipt // EventReceipt; its signature was verified by ParseEvent
	Code    Code           // EventRefused, EventFailed
	Message string         // at most 1000 bytes
	Retry   int            // seconds; 0: unknown
}

const (
	maxText   = 8 << 10
	minProb   = -9999 // as a log probability: nothing less likely is told apart
	maxReason = 1000
	maxRetry  = 86400
)

type eventJSON struct {
	Type    EventType       `json:"type"`
	Job     string          `json:"job,omitempty"`
	Offer   string          `json:"offer,omitempty"`
	N       int             `json:"n,omitempty"`
	Tokens  []int32         `json:"tokens,omitempty"`
	Text    string          `json:"text,omitempty"`
	Probs   []*TokenProb    `json:"logprobs,omitempty"`
	Due     pay.MilliSat    `json:"due,omitempty"`
	Finish  ghost.Finish    `json:"finish,omitempty"`
	Receipt json.RawMessage `json:"receipt,omitempty"`
	Code    Code            `json:"code,omitempty"`
	Message string          `json:"message,omitempty"`
	Retry   int             `json:"retry_after,omitempty"`
}

// Check reports in what e breaks the protocol, or nil. It accepts unknown types:
// they are to be ignored.
func (e *Event) Check() error {
	bad := func(format string, a ...any) error {
		return fmt.Errorf("event %.20q: %s", e.Type, fmt.Sprintf(format, a...))
	}
	switch e.Type {
	case EventAccepted, EventOffer:
		if len(e.Offer) > pay.MaxMessage/2 || e.Type == EventOffer && len(e.Offer) == 0 {
			return bad("an offer of %d bytes", len(e.Offer))
		}
	case EventChunk:
		switch {
		case e.N < 0 || e.N > 1<<30:
			return bad("position %d", e.N)
		case len(e.Tokens) < 1 || len(e.Tokens) > Window:
			return bad("%d tokens; a chunk has 1 to %d", len(e.Tokens), Window)
		case !e.Due.Valid():
			return bad("%d msat due", e.Due)
		case len(e.Text) > maxText || !utf8.ValidString(e.Text):
			return bad("its text is not UTF-8 of at most %d bytes", maxText)
		}
		for i, id := range e.Tokens {
			if id < 0 {
				return bad("token %d is %d", i, id)
			}
		}
		if err := checkProbs(e.Probs, len(e.Tokens)); err != nil {
			return bad("%v", err)
		}
		switch e.Finish {
		case "", ghost.FinishStop, ghost.FinishLength, ghost.FinishCancelled:
		default:
			return bad("the finish is %.40q", e.Finish)
		}
	case EventReceipt:
		if e.Receipt == nil {
			return bad("there is no receipt")
		}
		if err := e.Receipt.Check(); err != nil {
			return bad("%v", err)
		}
	case EventRefused, EventFailed:
		if len(e.Code) < 1 || len(e.Code) > 40 || len(e.Message) > maxReason || !utf8.ValidString(e.Message) || e.Retry < 0 || e.Retry > maxRetry {
			return bad("code %.40q, a message of %d bytes, retry after %d s", e.Code, len(e.Message), e.Retry)
		}
	}
	return nil
}

// Encode is the event as one line with its newline. It refuses what Check refuses.
func (e *Event) Encode() ([]byte, error) {
	if err := e.Check(); err != nil {
		return nil, fmt.Errorf("encode an event: %w", err)
	}
	j := eventJSON{Type: e.Type, N: e.N, Tokens: e.Tokens, Text: e.Text, Probs: e.Probs, Due: e.Due, Finish: e.Finish, Code: e.Code, Message: e.Message, Retry: e.Retry}
	if e.Job != (ID{}) {
		j.Job = hex.EncodeToString(e.Job[:])
	}
	if e.Offer != nil {
		j.Offer = base64.StdEncoding.EncodeToString(e.Offer)
	}
	if e.Receipt != nil {
		j.Receipt = e.Receipt.Encode()
	}
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(j); err != nil {
		return nil, fmt.Errorf("encode an event: %w", err)
	}
	if b.Len() > MaxEventBytes {
		return nil, fmt.Errorf("encode an event: it has %d bytes; the most is %d", b.Len(), MaxEventBytes)
	}
	return b.Bytes(), nil
}

// ParseEvent reads one line, with or without its newline. A receipt in it is one
// whose signature is right; whose, and for what, its reader checks.
func ParseEvent(line []byte) (*Event, error) {
	if len(line) > MaxEventBytes {
		return nil, fmt.Errorf("event: it has %d bytes; the most is %d", len(line), MaxEventBytes)
	}
	var j eventJSON
	if err := json.Unmarshal(line, &j); err != nil {
		return nil, fmt.Errorf("event: %w", err)
	}
	e := &Event{Type: j.Type, N: j.N, Tokens: j.Tokens, Text: j.Text, Probs: j.Probs, Due: j.Due, Finish: j.Finish, Code: j.Code, Message: j.Message, Retry: j.Retry}
	if j.Job != "" || j.Type == EventAccepted {
		if err := unhex("job", j.Job, e.Job[:]); err != nil {
			return nil, fmt.Errorf("event: %w", err)
		}
	}
	if j.Offer != "" {
		var err error
		if e.Offer, err = base64.StdEncoding.Strict().DecodeString(j.Offer); err != nil {
			return nil, fmt.Errorf("event: offer: %w", err)
		}
	}
	if len(j.Receipt) > 0 && j.Type == EventReceipt {
		var err error
		if e.Receipt, err = ghost.ParseReceipt(j.Receipt); err != nil {
			return nil, fmt.Errorf("event: %w", err)
		}
	}
	if err := e.Check(); err != nil {
		return nil, err
	}
	return e, nil
}

// AuditCall is the body of an audit request.
type AuditCall struct {
	Nonce ghost.Nonce // of the audit, shown now
	Size  audit.Size
}

type auditJSON struct {
	Nonce string `json:"nonce"`
	audit.Size
}

// Encode gives the body of the audit request.
func (a AuditCall) Encode() []byte {
	b, err := json.Marshal(auditJSON{hex.EncodeToString(a.Nonce[:]), a.Size})
	if err != nil {
		panic("job: internal error: " + err.Error())
	}
	return b
}

// ParseAudit reads the body of an audit request, at most 4 KiB. Its size is one
// that a challenge may have; whether the nonce is the one committed to, its reader checks.
func ParseAudit(b []byte) (AuditCall, error) {
	var j auditJSON
	if len(b) > 4<<10 {
		return AuditCall{}, fmt.Errorf("audit: a body of %d bytes", len(b))
	}
	if err := strict(b, &j); err != nil {
		return AuditCall{}, fmt.Errorf("audit: %w", err)
	}
	a := AuditCall{Size: j.Size}
	if err := unhex("nonce", j.Nonce, a.Nonce[:]); err != nil {
		return AuditCall{}, fmt.Errorf("audit: %w", err)
	}
	if err := a.Size.Challenge([32]byte{}).Check(); err != nil {
		return AuditCall{}, fmt.Errorf("audit: %w", err)
	}
	return a, nil
}
