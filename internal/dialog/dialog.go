// Package dialog is a question to a model and the answer that comes back, as
// those who speak to clients hand them to those who get answers.
//
// A [Question] is what a client wants, in the words of no particular API. An
// [Answer] is pulled piece by piece and ends with a [Summary]. Between a question
// and the tokens of a model, [Grammar] restricts what may be generated and a
// [Reader] splits the generated text into content, reasoning and tool calls.
// Whoever asks does that itself, never the one who computes: audits compare
// tokens.
//
// Amounts are integer millisatoshi, prices millisatoshi for a million tokens.
package dialog

import (
	"encoding/json"
	"fmt"
	"time"

	"github.com/geistnet/geist/arith"
	"github.com/geistnet/geist/internal/chat"
	"github.com/geistnet/geist/internal/tools"
)

// A Question is what a client wants to have answered. The receiver must not
// change it.
type Question struct {
	ID string // of the request, for logs; never empty
	// Model is a name as the client wrote it. Demand says more.
	Model  string
	Demand Demand

	// Exactly one of Messages, Tokens and Text counts, the first that is not
	// nil, else Text: a conversation to answer, or a text to continue.
	Messages []chat.Message
	Tokens   []int32
	Text     string
	Suffix   string // of Text: what the answer is to be put before; usually empty
	Tools    []chat.Tool
	Choice   tools.Choice
	// Think switches the reasoning of models that have such a switch; nil: as
	// the model's template has it.
	Think *bool
	// Shape restricts the answer's content.
	Shape Shape

	MaxTokens int // 0: as many as fit
	// Sampling has no seed yet: see Seed.
	Sampling arith.Sampling
	Seed     *uint64 // wish for equal answers to equal questions; nil: any
	Stop     []string
	// TopLogProbs asks for this many alternatives with each token, and for the
	// token's own log probability when not negative. -1: neither.
	TopLogProbs int

	Route  Route
	Verify Verify
}

// Demand is a contract: who cannot meet it must not answer, and is not paid.
type Demand struct {
	ModelID      string // "ghost1…"; "": any that has the name
	Quantisation string // such as "q8_0", lower case; "": any
	Context      int    // positions that the model must be able to use; 0: any
	Audited      bool   // only whose answers can be audited
}

// Shape is what the content of an answer must look like.
type Shape struct {
	JSON   bool            // one JSON object
	Schema json.RawMessage // one JSON value that this schema admits; nil: none
}

// Route says who may answer.
type Route struct {
	Order  []string // providers to try first, in this order
	Only   []string // nil: everybody
	Ignore []string
	// NoFallback allows nobody but those in Order, if there are any.
	NoFallback bool
	// Most that may be charged, millisatoshi for a million tokens of prompt and
	// of answer; 0: no limit.
	MaxPrompt, MaxAnswer int64
	Sort                 Sort
}

// Sort is what the best offer is best in.
type Sort string

// The orders.
const (
	SortDefault    Sort = ""
	SortPrice      Sort = "price"
	SortThroughput Sort = "throughput"
	SortLatency    Sort = "latency"
)

// Verify says how an answer is to be checked.
type Verify string

// The levels, each with what those before it check.
const (
	VerifyDefault   Verify = ""          // as the backend is configured
	VerifyNone      Verify = "none"      // nothing
	VerifyReceipt   Verify = "receipt"   // the provider's signature over what was delivered
	VerifyAudit     Verify = "audit"     // cells of the run, opened
	VerifyReplicate Verify = "replicate" // a second provider computes the same
)

// An Answer is a stream of pieces. It is for one goroutine, but Close may be
// called by any.
type Answer interface {
	// Next waits for the next piece. After the last the error is io.EOF, and an
	// answer that fails ends with another, an *Error if it has a cause the
	// client should know. The end of the context given with the question ends
	// the wait with its error.
	Next() (Delta, error)
	// Served tells who answers. It is known from the first piece on.
	Served() Served
	// Summary is valid after io.EOF, and after an error for what was charged
	// until then.
	Summary() Summary
	// Close gives up an answer that has not ended, and does nothing otherwise.
	Close() error
}

// A Delta is a piece of an answer. Any part may be empty.
type Delta struct {
	Text      string // whole characters
	Reasoning string
	Calls     []tools.Call // each is complete and comes once
	Tokens    []Token      // that this piece took, if asked for by TopLogProbs
}

// A Token is one generated token.
type Token struct {
	ID      int32
	Bytes   []byte // what it adds to the text
	LogProb float64
	Top     []Token // alternatives, the likeliest first; their Top is nil
}

// Served tells who answers with what.
type Served struct {
	Provider     string // public key in hex; "local": this machine
	Model        string // name
	ModelID      string // "ghost1…" or empty
	Quantisation string
	Fingerprint  string // changes when equal questions may get other answers
}

// Finish says why an answer ended.
type Finish string

// The reasons.
const (
	FinishStop   Finish = "stop"   // the model ended it, or a stop text, or the call of a tool
	FinishLength Finish = "length" // MaxTokens or the end of the context
)

// A Summary is the account of an ended answer.
type Summary struct {
	Finish Finish
	Usage  Usage
	Cost   int64  // millisatoshi
	ID     string // of the receipt; empty: there is none
	Grade  string // of the receipt, such as "ghost-audited"; may be empty
	// Verified is the level that was reached and passed, VerifyNone if none.
	// Later checks appear with the receipt.
	Verified Verify
	// Times as far as they are known.
	Load, Prefill, Decode time.Duration
}

// Usage counts tokens.
type Usage struct {
	Prompt    int // all of the prompt
	Cached    int // of it, those found in a cache
	Answer    int // all that were generated
	Reasoning int // of those, before the content
}

// A Model is what can be asked.
type Model struct {
	Name         string
	ID           string // "ghost1…" or empty
	Quantisation string
	Family       string // architecture, such as "llama"
	Parameters   int64  // 0: unknown
	SizeBytes    int64  // 0: unknown
	Context      int    // positions; 0: unknown
	Dim          int    // of an embedding; 0: unknown
	Created      time.Time
	Loaded       bool // in memory on this machine
	Template     string
	// Capabilities are "completion", "tools", "thinking", "embedding".
	Capabilities []string
	// Cheapest offer, millisatoshi for a million tokens.
	PromptPrice, AnswerPrice int64
	Providers                int
	Grade                    string // best grade on offer
}

// An EmbedQuestion asks for vectors.
type EmbedQuestion struct {
	ID     string
	Model  string
	Demand Demand
	// Texts and Tokens: one of both, with one vector for each.
	Texts  []string
	Tokens [][]int32
	// Truncate allows to cut what is longer than the context.
	Truncate bool
	Route    Route
	Verify   Verify
}

// Vectors are embeddings of length one, in the order of the question.
type Vectors struct {
	Vectors [][]float32
	Served  Served
	Summary Summary
}

// Kind is what a client can do about an error.
type Kind string

// The kinds.
const (
	Invalid     Kind = "invalid"     // the question makes no sense; Param may say where
	Unsupported Kind = "unsupported" // the question cannot be honoured in full
	Context     Kind = "context"     // does not fit the context: shorten it
	NoModel     Kind = "no_model"    // no model has this name
	NotFound    Kind = "not_found"   // nothing else that was asked for by name is there
	Mismatch    Kind = "mismatch"    // a Demand or Route that nobody meets, or that was broken; nothing was paid
	NoFunds     Kind = "no_funds"    // Price says what is needed
	Overloaded  Kind = "overloaded"  // too much at once; after RetryAfter
	Unavailable Kind = "unavailable" // nobody can answer now; after RetryAfter
	Failed      Kind = "failed"      // whoever answered failed
	Rejected    Kind = "rejected"    // the answer did not stand the check
)

// An Error is why there is no answer.
type Error struct {
	Kind       Kind
	Message    string // what went wrong and what to do next
	Param      string // field of the question; may be empty
	RetryAfter time.Duration
	Price      int64 // millisatoshi needed, with NoFunds
}

func (e *Error) Error() string { return e.Message }

// Errorf makes an Error.
func Errorf(kind Kind, param, format string, args ...any) *Error {
	return &Error{Kind: kind, Param: param, Message: fmt.Sprintf(format, args...)}
}
