package ghost

import (
	"encoding/binary"
	"fmt"
	"maps"
	"math"
	"slices"
	"unicode/utf8"

	"github.com/geistnet/geist/arith"
)

// Request is what an answer depends on besides the model and the seed.
type Request struct {
	// Salt hides the tokens: without it their hashes in a receipt cannot be
	// compared with guesses. The client draws it; zero hides nothing.
	Salt   [32]byte
	Prompt []int32 // token ids, at least one
	// Sampling's Seed is zero: what it will be, Seed says.
	Sampling  arith.Sampling
	MaxTokens int      // of the answer, at least 1
	Stop      []string // texts that end the answer; in the order given
	Grammar   [32]byte // hash of what constrains the answer; zero: nothing does
	IgnoreEnd bool     // the model's end tokens do not end the answer
}

const (
	requestMagic = "ghostreq"

	maxTokens    = 1 << 30 // of a prompt or an answer
	maxStops     = 64
	maxStopBytes = 1 << 10
	maxBiases    = 1 << 20
)

// Check reports in what q is no request, or nil.
func (q *Request) Check() error {
	s := &q.Sampling
	if err := first(
		in("the number of prompt tokens", len(q.Prompt), 1, maxTokens),
		in("the largest number of answered tokens", q.MaxTokens, 1, maxTokens),
		in("the number of stop texts", len(q.Stop), 0, maxStops),
		in("the number of biases", len(s.Bias), 0, maxBiases),
		in("top_k", s.TopK, 0, math.MaxInt32),
		in("repeat_last_n", s.RepeatLast, 0, math.MaxInt32),
	); err != nil {
		return err
	}
	if bad := s.Valid(); bad != "" {
		return fault("%s", bad)
	}
	if s.Seed != [32]byte{} {
		return fault("it has a seed of its own")
	}
	for i, id := range q.Prompt {
		if id < 0 {
			return fault("prompt token %d is %d", i, id)
		}
	}
	for id := range s.Bias {
		if id < 0 {
			return fault("there is a bias for token %d", id)
		}
	}
	for i, t := range q.Stop {
		if len(t) < 1 || len(t) > maxStopBytes || !utf8.ValidString(t) {
			return fault("stop text %d is not UTF-8 of 1 to %d bytes", i, maxStopBytes)
		}
	}
	return nil
}

// Encode gives the bytes of a request, docs/spec/receipt.md. It refuses what
// Check refuses.
func (q *Request) Encode() ([]byte, error) {
	if err := q.Check(); err != nil {
		return nil, fmt.Errorf("encode a request: %w", err)
	}
	c := codec{what: "request"}
	c.request(q)
	return c.b, nil
}

// DecodeRequest reads the bytes of a request. It accepts exactly what Encode
// gives; all else is a *FormatError.
func DecodeRequest(b []byte) (*Request, error) {
	c := codec{what: "request", reading: true, b: b}
	q := &Request{}
	c.request(q)
	if err := c.end(); err != nil {
		return nil, err
	}
	if err := q.Check(); err != nil {
		c.fail("%v", err)
		return nil, c.err
	}
	return q, nil
}

func (c *codec) request(q *Request) {
	c.magic(requestMagic)
	c.bytes(q.Salt[:])
	c.ids(&q.Prompt)
	c.parameters(q)
}

// parameters is all but the prompt and its salt.
func (c *codec) parameters(q *Request) {
	c.int(&q.MaxTokens)
	c.flag(&q.IgnoreEnd)
	c.bytes(q.Grammar[:])
	s := &q.Sampling
	c.f32(&s.Temperature)
	c.int(&s.TopK)
	c.f32(&s.TopP)
	c.f32(&s.MinP)
	c.int(&s.RepeatLast)
	c.f32(&s.RepeatPenalty)
	c.f32(&s.PresencePenalty)
	c.f32(&s.FrequencyPenalty)
	c.biases(&s.Bias)
	list(c, &q.Stop, 4, func(t *string) { c.str(t, maxStopBytes) })
}

// biases is a count and, ascending, ids with their values.
func (c *codec) biases(b *map[int32]float32) {
	n := len(*b)
	c.count(&n, 8)
	if !c.reading {
		for _, id := range slices.Sorted(maps.Keys(*b)) {
			u, v := uint32(id), (*b)[id]
			c.u32(&u)
			c.f32(&v)
		}
		return
	}
	last := int64(-1)
	for range n {
		var u uint32
		var v float32
		c.u32(&u)
		c.f32(&v)
		if c.err == nil && int64(u) <= last {
			c.fail("a bias for token %d follows that for token %d", u, last)
		}
		if c.err != nil {
			return
		}
		last = int64(u)
		if *b == nil {
			*b = make(map[int32]float32)
		}
		(*b)[int32(u)] = v
	}
}

// Tokens commits to a run of tokens.
type Tokens struct {
	Hash  Digest
	Count int
}

// HashTokens is SHA-256("geist/tokens/1" ‖ salt ‖ count as u32 ‖ ids as u32),
// little-endian, with the count.
func HashTokens(salt [32]byte, ids []int32) Tokens {
	b := make([]byte, 0, 4+4*len(ids))
	b = binary.LittleEndian.AppendUint32(b, uint32(len(ids)))
	for _, id := range ids {
		b = binary.LittleEndian.AppendUint32(b, uint32(id))
	}
	return Tokens{digest(domainTokens, salt[:], b), len(ids)}
}

// Hash identifies the request: SHA-256("geist/request/1" ‖ the prompt's Tokens
// ‖ the other parameters). Who is shown the parameters and not the prompt can
// check it too. q must be one that Encode accepts, else it panics.
func (q *Request) Hash() Digest {
	if err := q.Check(); err != nil {
		panic("ghost: internal error: hash of a request that has no encoding: " + err.Error())
	}
	t := HashTokens(q.Salt, q.Prompt)
	c := codec{what: "request"}
	c.bytes(t.Hash[:])
	c.int(&t.Count)
	c.parameters(q)
	return digest(domainRequest, c.b)
}

// Nonce is 32 random bytes of the client.
type Nonce [32]byte

// CommitSeed is what a receipt says of the nonce that Seed is made of.
func CommitSeed(n Nonce) Digest { return digest(domainDraw, n[:]) }

// CommitAudit is what a request and a receipt say of the nonce that chooses
// what is audited. The nonce itself stays with the client until it holds the
// receipt.
func CommitAudit(n Nonce) Digest { return digest(domainAudit, n[:]) }

// Seed is the seed of the sampler (arith.Sampling.Seed), rule 1:
// SHA-256("geist/seed/1" ‖ nonce ‖ request ‖ model). The client sends the nonce
// with the request, so the provider has no choice in what is drawn. It must not
// be the nonce of CommitAudit.
func Seed(nonce Nonce, request Digest, model ID) [32]byte {
	return digest(domainSeed, nonce[:], request[:], model[:])
}
