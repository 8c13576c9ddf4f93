package ghost

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"strconv"

	"github.com/geistnet/geist/arith"
	"github.com/geistnet/geist/merkle"
)

// Protocol is the version of receipts.
const Protocol = 1

// Kind is the kind of a receipt as a Nostr event. It lies in the range of
// ephemeral events (20000 to 29999), which relays do not store, because a
// receipt is for the two who made it.
const Kind = 21340

// SeedRule1 is the rule of Seed.
const SeedRule1 = 1

// Finish is why an answer ended.
type Finish string

// The reasons.
const (
	FinishStop      Finish = "stop"      // the model's end token or a stop text
	FinishLength    Finish = "length"    // MaxTokens or the end of the context
	FinishCancelled Finish = "cancelled" // the client wanted no more
)

// Grade is how an answer can be checked.
type Grade string

// The grades. Only receipts of the first two have a trace root.
const (
	GhostAudited Grade = "ghost-audited" // the trace is committed to; cells of it are opened
	GhostSound   Grade = "ghost-sound"   // the client computes and the provider serves rows
	Reputation   Grade = "reputation"    // nothing can be checked
)

// Receipt is what a provider signs for one answer.
type Receipt struct {
	Provider   Key    // who signs
	Time       int64  // Unix seconds, when it was signed
	Model      ID     // which model answered
	Arithmetic int    // arith.Version
	Request    Digest // Request.Hash
	Prompt     Tokens
	Answer     Tokens
	Finish     Finish
	SeedRule   int         // SeedRule1
	SeedNonce  Digest      // CommitSeed of the client's nonce
	AuditNonce Digest      // CommitAudit of the client's other nonce
	Trace      merkle.Hash // root of the trace; zero exactly if the grade is Reputation
	Client     Key         // who asked
	Price      uint64      // millisatoshi
	Grade      Grade

	Signature [64]byte
}

const (
	maxReceipt = 4 << 10           // bytes
	maxTime    = 253402300799      // the end of the year 9999
	maxPrice   = 21e6 * 1e8 * 1000 // all there will ever be
)

// Check reports in what r is no receipt, or nil. It does not look at the
// signature.
func (r *Receipt) Check() error {
	if err := first(
		in("the version of the arithmetic", r.Arithmetic, arith.Version, arith.Version),
		in("the number of prompt tokens", r.Prompt.Count, 1, maxTokens),
		in("the number of answered tokens", r.Answer.Count, 0, maxTokens),
		in("the rule of the seed", r.SeedRule, SeedRule1, SeedRule1),
	); err != nil {
		return err
	}
	switch r.Finish {
	case FinishStop, FinishLength, FinishCancelled:
	default:
		return fault("the reason of the end is %.40q", r.Finish)
	}
	switch r.Grade {
	case GhostAudited, GhostSound, Reputation:
	default:
		return fault("the grade is %.40q", r.Grade)
	}
	if (r.Trace == merkle.Hash{}) != (r.Grade == Reputation) {
		return fault("the root of the trace is %v in the grade %s", r.Trace, r.Grade)
	}
	if r.Time < 1 || r.Time > maxTime {
		return fault("the time is %d; it must be between 1 and %d", r.Time, int64(maxTime))
	}
	if r.Price > maxPrice {
		return fault("the price is %d; the most is %d", r.Price, uint64(maxPrice))
	}
	return nil
}

// tags is the event's tags as JSON. No character in it needs escaping: all are
// hexadecimal or decimal digits, lower-case letters and hyphens.
func (r *Receipt) tags() string {
	n := strconv.Itoa
	trace := ""
	if r.Trace != (merkle.Hash{}) {
		trace = r.Trace.String()
	}
	var b bytes.Buffer
	for i, t := range [][]string{
		{"geist", n(Protocol)},
		{"model", hex.EncodeToString(r.Model[:])},
		{"arithmetic", n(r.Arithmetic)},
		{"request", r.Request.String()},
		{"prompt", r.Prompt.Hash.String(), n(r.Prompt.Count)},
		{"answer", r.Answer.Hash.String(), n(r.Answer.Count)},
		{"finish", string(r.Finish)},
		{"seed", n(r.SeedRule), r.SeedNonce.String()},
		{"audit", r.AuditNonce.String()},
		{"trace", trace},
		{"p", r.Client.String()},
		{"price", strconv.FormatUint(r.Price, 10), "msat"},
		{"grade", string(r.Grade)},
	} {
		open := `,["`
		if i == 0 {
			open = `[["`
		}
		b.WriteString(open)
		for j, s := range t {
			if j > 0 {
				b.WriteString(`","`)
			}
			b.WriteString(s)
		}
		b.WriteString(`"]`)
	}
	return b.String() + "]"
}

// ID is the event's id: the SHA-256 of NIP-01's serialisation
// [0,pubkey,created_at,kind,tags,content]. It is what the signature signs. r is
// one that Check accepts.
func (r *Receipt) ID() Digest {
	return sha256.Sum256(fmt.Appendf(nil, `[0,"%s",%d,%d,%s,""]`, r.Provider, r.Time, Kind, r.tags()))
}

// Sign sets Provider and Signature. Equal receipts get equal signatures.
func (r *Receipt) Sign(s Secret) error {
	if err := r.Check(); err != nil {
		return fmt.Errorf("sign a receipt: %w", err)
	}
	k, err := s.Public()
	if err != nil {
		return fmt.Errorf("sign a receipt: %w", err)
	}
	r.Provider = k
	if r.Signature, err = s.Sign(r.ID()); err != nil {
		return fmt.Errorf("sign a receipt: %w", err)
	}
	return nil
}

// Verify checks that r is a receipt that Provider signed.
func (r *Receipt) Verify() error {
	if err := r.Check(); err != nil {
		return fmt.Errorf("verify a receipt: %w", err)
	}
	if err := r.Provider.Verify(r.ID(), r.Signature); err != nil {
		return fmt.Errorf("verify a receipt: %w", err)
	}
	return nil
}

// Encode gives the event as JSON, in one canonical form, without a newline. r
// is one that Check accepts.
func (r *Receipt) Encode() []byte {
	return fmt.Appendf(nil, `{"id":"%s","pubkey":"%s","created_at":%d,"kind":%d,"tags":%s,"content":"","sig":"%x"}`,
		r.ID(), r.Provider, r.Time, Kind, r.tags(), r.Signature)
}

// ParseReceipt reads what Encode gives, byte for byte, and verifies it. What
// is wrong is a *FormatError, or of another type if only the signature is.
func ParseReceipt(b []byte) (*Receipt, error) {
	p := eventReader{}
	if len(b) > maxReceipt {
		p.fail("it is %d bytes long; the most is %d", len(b), maxReceipt)
		return nil, p.err
	}
	r := p.receipt(b)
	if p.err != nil {
		return nil, p.err
	}
	if err := r.Check(); err != nil {
		p.fail("%v", err)
		return nil, p.err
	}
	if want := r.Encode(); !bytes.Equal(b, want) {
		n := 0
		for n < len(b) && n < len(want) && b[n] == want[n] {
			n++
		}
		p.at = n
		p.fail("it is not in canonical form, or its id is not that of its content")
		return nil, p.err
	}
	if err := r.Verify(); err != nil {
		return nil, err
	}
	return r, nil
}

// eventReader takes the fields out of an event. It need not be strict about
// their writing, because the result is encoded again and compared.
type eventReader struct {
	at  int
	err error
}

func (p *eventReader) fail(format string, a ...any) {
	if p.err == nil {
		p.err = &FormatError{"receipt", p.at, fmt.Sprintf(format, a...)}
	}
}

func (p *eventReader) hex(what, s string, dst []byte) {
	if len(s) != 2*len(dst) {
		p.fail("%s is %d characters long; expected %d hexadecimal digits", what, len(s), 2*len(dst))
		return
	}
	if _, err := hex.Decode(dst, []byte(s)); err != nil {
		p.fail("%s is not hexadecimal", what)
	}
}

func (p *eventReader) uint(what, s string) uint64 {
	v, err := strconv.ParseUint(s, 10, 63)
	if err != nil {
		p.fail("%s is %.40q and no number", what, s)
	}
	return v
}

// int is a number that Check looks at again.
func (p *eventReader) int(what, s string) int { return int(min(p.uint(what, s), maxTokens+1)) }

func (p *eventReader) receipt(b []byte) *Receipt {
	var e struct {
		PubKey  string     `json:"pubkey"`
		Created int64      `json:"created_at"`
		Kind    int        `json:"kind"`
		Tags    [][]string `json:"tags"`
		Sig     string     `json:"sig"`
	}
	if err := json.Unmarshal(b, &e); err != nil {
		p.fail("%v", err)
		return nil
	}
	if e.Kind != Kind {
		p.fail("it is an event of kind %d; receipts have %d", e.Kind, Kind)
		return nil
	}
	r := &Receipt{Time: e.Created}
	p.hex("the key", e.PubKey, r.Provider[:])
	p.hex("the signature", e.Sig, r.Signature[:])
	next := 0
	tag := func(name string, values int) []string {
		i := next
		next++
		if i >= len(e.Tags) || len(e.Tags[i]) != 1+values || e.Tags[i][0] != name {
			p.fail("tag %d is not %q with %d values", i, name, values)
			return make([]string, values)
		}
		return e.Tags[i][1:]
	}
	if v := p.int("the version", tag("geist", 1)[0]); v != Protocol {
		p.fail("its version is %d; known is %d", v, Protocol)
	}
	p.hex("the model", tag("model", 1)[0], r.Model[:])
	r.Arithmetic = p.int("the arithmetic", tag("arithmetic", 1)[0])
	p.hex("the request", tag("request", 1)[0], r.Request[:])
	for _, t := range []struct {
		name string
		dst  *Tokens
	}{{"prompt", &r.Prompt}, {"answer", &r.Answer}} {
		v := tag(t.name, 2)
		p.hex("the "+t.name, v[0], t.dst.Hash[:])
		t.dst.Count = p.int("the number of tokens", v[1])
	}
	r.Finish = Finish(tag("finish", 1)[0])
	seed := tag("seed", 2)
	r.SeedRule = p.int("the rule of the seed", seed[0])
	p.hex("the nonce of the seed", seed[1], r.SeedNonce[:])
	p.hex("the nonce of the audit", tag("audit", 1)[0], r.AuditNonce[:])
	if s := tag("trace", 1)[0]; s != "" {
		p.hex("the root of the trace", s, r.Trace[:])
	}
	p.hex("the client", tag("p", 1)[0], r.Client[:])
	price := tag("price", 2)
	r.Price = p.uint("the price", price[0])
	r.Grade = Grade(tag("grade", 1)[0])
	if next != len(e.Tags) {
		p.fail("it has %d tags; expected %d", len(e.Tags), next)
	}
	return r
}

// Answers checks that r is for this request and these answered tokens. It does
// not look at the signature, nor whether the answer is right.
func (r *Receipt) Answers(q *Request, answer []int32) error {
	if err := q.Check(); err != nil {
		return fmt.Errorf("compare a receipt with its request: %w", err)
	}
	switch {
	case r.Request != q.Hash():
		return fmt.Errorf("the receipt is for request %v, not %v", r.Request, q.Hash())
	case r.Prompt != HashTokens(q.Salt, q.Prompt):
		return fmt.Errorf("the receipt is for another prompt, of %d tokens and not these %d", r.Prompt.Count, len(q.Prompt))
	case r.Answer != HashTokens(q.Salt, answer):
		return fmt.Errorf("the receipt is for another answer, of %d tokens and not these %d", r.Answer.Count, len(answer))
	case len(answer) > q.MaxTokens:
		return fmt.Errorf("the answer has %d tokens; the request allows %d", len(answer), q.MaxTokens)
	}
	return nil
}
