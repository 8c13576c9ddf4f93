package job

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"github.com/geistnet/geist/ghost"
	"github.com/geistnet/geist/internal/pay"
)

// ID names a job: the digest that its client signs.
type ID = pay.JobID

// Version is the version of orders.
const Version = 1

// Bounds of docs/spec/job.md.
const (
	MaxOrderBytes   = 16 << 20
	MaxEventBytes   = 64 << 10
	MaxGrammarBytes = 1 << 20
	Window          = 32  // tokens that may be delivered and unpaid
	PayAt           = 16  // unpaid tokens at which an asker pays
	MaxSkew         = 600 // seconds between an order's time and the provider's clock
	MaxAlternatives = 20  // to a token, of log probabilities
	maxRail         = 32
	maxTime         = 253402300799
)

// JSONObject is the grammar text that allows any JSON object.
const JSONObject = "json-object"

// Order is what an asker wants, on which terms.
type Order struct {
	Client    ghost.Key
	Provider  ghost.Key
	Model     ghost.ID
	Ask       ghost.Digest // id of the ask
	Prices    pay.Prices
	Rail      string
	CreatedAt int64 // Unix seconds
	Request   *ghost.Request
	Grammar   string // what Request.Grammar is the SHA-256 of; "" exactly if that is zero
	SeedNonce ghost.Nonce
	Audit     ghost.Digest // ghost.CommitAudit of the other nonce
	Resume    []int32      // of the answer, here already
	LogProbs  *int         // how many alternatives to each token are wanted, 0 to MaxAlternatives; nil: no log probabilities
	Signature [64]byte
}

// Check reports in what o is no order, or nil. It does not look at the signature.
func (o *Order) Check() error {
	if o.Request == nil {
		return errors.New("the order has no request")
	}
	if err := o.Request.Check(); err != nil {
		return err
	}
	switch {
	case !o.Prices.Valid():
		return fmt.Errorf("the prices are %d and %d msat; they must be between 0 and %d", o.Prices.Prompt, o.Prices.Answer, pay.MaxAmount)
	case !railName(o.Rail):
		return fmt.Errorf("the rail is %.40q; it must be 1 to %d of a-z, 0-9 and -", o.Rail, maxRail)
	case o.CreatedAt < 1 || o.CreatedAt > maxTime:
		return fmt.Errorf("the time is %d; it must be between 1 and %d", o.CreatedAt, int64(maxTime))
	case len(o.Resume) >= o.Request.MaxTokens:
		return fmt.Errorf("%d resumed tokens leave none of the %d allowed to answer", len(o.Resume), o.Request.MaxTokens)
	case len(o.Grammar) > MaxGrammarBytes:
		return fmt.Errorf("the grammar has %d bytes; the most is %d", len(o.Grammar), MaxGrammarBytes)
	case ghost.CommitAudit(o.SeedNonce) == o.Audit:
		return errors.New("the two nonces are equal")
	case o.Client == o.Provider:
		return errors.New("client and provider are the same key")
	case o.LogProbs != nil && (*o.LogProbs < 0 || *o.LogProbs > MaxAlternatives):
		return fmt.Errorf("%d alternatives to each token; there are 0 to %d", *o.LogProbs, MaxAlternatives)
	}
	var grammar [32]byte
	if o.Grammar != "" {
		grammar = sha256.Sum256([]byte(o.Grammar))
	}
	if grammar != o.Request.Grammar {
		return errors.New("the grammar is not the one that the request commits to")
	}
	for i, id := range o.Resume {
		if id < 0 {
			return fmt.Errorf("resumed token %d is %d", i, id)
		}
	}
	return nil
}

func railName(s string) bool {
	for _, c := range []byte(s) {
		if (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '-' {
			return false
		}
	}
	return len(s) >= 1 && len(s) <= maxRail
}

// ID is the job's id. o is one that Check accepts.
func (o *Order) ID() ID {
	request := o.Request.Hash()
	b := []byte("geist/job/1")
	b = append(b, o.Client[:]...)
	b = append(b, o.Provider[:]...)
	b = append(b, o.Model[:]...)
	b = append(b, o.Ask[:]...)
	b = binary.LittleEndian.AppendUint64(b, uint64(o.Prices.Prompt))
	b = binary.LittleEndian.AppendUint64(b, uint64(o.Prices.Answer))
	b = binary.LittleEndian.AppendUint64(b, uint64(o.CreatedAt))
	b = append(b, request[:]...)
	b = append(b, o.SeedNonce[:]...)
	b = append(b, o.Audit[:]...)
	b = binary.LittleEndian.AppendUint32(b, uint32(len(o.Rail)))
	b = append(b, o.Rail...)
	b = binary.LittleEndian.AppendUint32(b, uint32(len(o.Resume)))
	for _, id := range o.Resume {
		b = binary.LittleEndian.AppendUint32(b, uint32(id))
	}
	if o.LogProbs != nil {
		b = binary.LittleEndian.AppendUint32(b, uint32(*o.LogProbs))
	}
	return sha256.Sum256(b)
}

// Sign sets Client and Signature.
func (o *Order) Sign(s ghost.Secret) error {
	k, err := s.Public()
	if err != nil {
		return fmt.Errorf("sign an order: %w", err)
	}
	o.Client = k
	if err := o.Check(); err != nil {
		return fmt.Errorf("sign an order: %w", err)
	}
	if o.Signature, err = s.Sign(o.ID()); err != nil {
		return fmt.Errorf("sign an order: %w", err)
	}
	return nil
}

// Seed is what the sampler draws with (ghost.Seed).
func (o *Order) Seed() [32]byte { return ghost.Seed(o.SeedNonce, o.Request.Hash(), o.Model) }

// Terms are what the money of a job follows from.
type Terms struct {
	Prices pay.Prices `json:"prices"`
	Prompt int        `json:"prompt"` // tokens that are charged: 0 if the job is resumed
	Resume int        `json:"resume"` // tokens of the answer that came with the order
	Most   int        `json:"most"`   // tokens that the answer may have
}

// Terms of the order.
func (o *Order) Terms() Terms {
	t := Terms{Prices: o.Prices, Prompt: len(o.Request.Prompt), Resume: len(o.Resume), Most: o.Request.MaxTokens}
	if t.Resume > 0 {
		t.Prompt = 0
	}
	return t
}

// Due is what is due when the answer has the given number of tokens, from Resume
// to Most. An error: it exceeds pay.MaxAmount.
func (t Terms) Due(tokens int) (pay.MilliSat, error) {
	return t.Prices.Due(t.Prompt, tokens-t.Resume)
}

// Opening is what a session for the job must bear. peer is the other side.
func (t Terms) Opening(job ID, peer ghost.Key) (pay.Opening, error) {
	first, err := t.Due(min(t.Resume+Window, t.Most))
	if err != nil {
		return pay.Opening{}, err
	}
	most, err := t.Due(t.Most)
	if err != nil {
		return pay.Opening{}, err
	}
	return pay.Opening{Job: job, Peer: peer, First: first, Most: most}, nil
}

// paidTo is the largest number of answer tokens, at most atMost, that paid covers;
// no fewer than Resume.
func (t Terms) paidTo(paid pay.MilliSat, atMost int) int {
	lo, hi := t.Resume, max(atMost, t.Resume)
	for lo < hi {
		mid := (lo + hi + 1) / 2
		if d, err := t.Due(mid); err == nil && d <= paid {
			lo = mid
		} else {
			hi = mid - 1
		}
	}
	return lo
}

type orderJSON struct {
	Job       int        `json:"job"`
	Client    string     `json:"client"`
	Provider  string     `json:"provider"`
	Model     string     `json:"model"`
	Ask       string     `json:"ask"`
	Prices    pay.Prices `json:"prices"`
	Rail      string     `json:"rail"`
	CreatedAt int64      `json:"created_at"`
	Request   string     `json:"request"`
	Grammar   string     `json:"grammar,omitempty"`
	SeedNonce string     `json:"seed_nonce"`
	Audit     string     `json:"audit"`
	Resume    []int32    `json:"resume,omitempty"`
	LogProbs  *int       `json:"logprobs,omitempty"`
	Sig       string     `json:"sig"`
}

// Encode gives the order as JSON. It refuses what Check refuses, and an order of
// more than MaxOrderBytes.
func (o *Order) Encode() ([]byte, error) {
	if err := o.Check(); err != nil {
		return nil, fmt.Errorf("encode an order: %w", err)
	}
	q, err := o.Request.Encode()
	if err != nil {
		return nil, fmt.Errorf("encode an order: %w", err)
	}
	h := hex.EncodeToString
	b, err := json.Marshal(orderJSON{
		Version, h(o.Client[:]), h(o.Provider[:]), h(o.Model[:]), h(o.Ask[:]), o.Prices, o.Rail, o.CreatedAt,
		base64.StdEncoding.EncodeToString(q), o.Grammar, h(o.SeedNonce[:]), h(o.Audit[:]), o.Resume, o.LogProbs, h(o.Signature[:]),
	})
	if err == nil && len(b) > MaxOrderBytes {
		err = fmt.Errorf("it has %d bytes; the most is %d", len(b), MaxOrderBytes)
	}
	if err != nil {
		return nil, fmt.Errorf("encode an order: %w", err)
	}
	return b, nil
}

// ParseOrder reads an order and verifies its signature. Whether its time, its ask
// and its model are known, its reader looks up.
func ParseOrder(b []byte) (*Order, error) {
	bad := func(err error) (*Order, error) { return nil, fmt.Errorf("order: %w", err) }
	if len(b) > MaxOrderBytes {
		return bad(fmt.Errorf("it has %d bytes; the most is %d", len(b), MaxOrderBytes))
	}
	var j orderJSON
	if err := strict(b, &j); err != nil {
		return bad(err)
	}
	if j.Job != Version {
		return bad(fmt.Errorf("its version is %d; known is %d", j.Job, Version))
	}
	o := &Order{Prices: j.Prices, Rail: j.Rail, CreatedAt: j.CreatedAt, Grammar: j.Grammar, Resume: j.Resume, LogProbs: j.LogProbs}
	for _, f := range []struct {
		name, text string
		to         []byte
	}{
		{"client", j.Client, o.Client[:]}, {"provider", j.Provider, o.Provider[:]}, {"model", j.Model, o.Model[:]},
		{"ask", j.Ask, o.Ask[:]}, {"seed_nonce", j.SeedNonce, o.SeedNonce[:]}, {"audit", j.Audit, o.Audit[:]},
		{"sig", j.Sig, o.Signature[:]},
	} {
		if err := unhex(f.name, f.text, f.to); err != nil {
			return bad(err)
		}
	}
	q, err := base64.StdEncoding.Strict().DecodeString(j.Request)
	if err != nil {
		return bad(fmt.Errorf("request: %w", err))
	}
	if o.Request, err = ghost.DecodeRequest(q); err != nil {
		return bad(err)
	}
	if err := o.Check(); err != nil {
		return bad(err)
	}
	if err := o.Client.Verify(o.ID(), o.Signature); err != nil {
		return bad(err)
	}
	return o, nil
}

// strict decodes one JSON value without unknown members and nothing behind it.
func strict(b []byte, to any) error {
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	if err := d.Decode(to); err != nil {
		return err
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return fmt.Errorf("something follows its end at byte %d", d.InputOffset())
	}
	return nil
}

// unhex reads exactly len(to) bytes in lower-case digits.
func unhex(name, s string, to []byte) error {
	if len(s) != 2*len(to) {
		return fmt.Errorf("%s has %d characters; it must be %d hexadecimal digits", name, len(s), 2*len(to))
	}
	for i := range len(s) {
		if c := s[i]; (c < '0' || c > '9') && (c < 'a' || c > 'f') {
			return fmt.Errorf("%s has %q at %d and not a lower-case hexadecimal digit", name, c, i)
		}
	}
	_, err := hex.Decode(to, []byte(s))
	return err
}

// cancelDigest is what a client signs to cancel a job.
func cancelDigest(id ID) ghost.Digest {
	return sha256.Sum256(append([]byte("geist/job/cancel/1"), id[:]...))
}

// SignCancel is the value of the header Geist-Cancel.
func SignCancel(s ghost.Secret, id ID) (string, error) {
	sig, err := s.Sign(cancelDigest(id))
	if err != nil {
		return "", fmt.Errorf("sign a cancellation: %w", err)
	}
	return hex.EncodeToString(sig[:]), nil
}

// VerifyCancel checks the header Geist-Cancel.
func VerifyCancel(client ghost.Key, id ID, header string) error {
	var sig [64]byte
	if err := unhex("the signature", header, sig[:]); err != nil {
		return fmt.Errorf("cancellation: %w", err)
	}
	if err := client.Verify(cancelDigest(id), sig); err != nil {
		return fmt.Errorf("cancellation: %w", err)
	}
	return nil
}
