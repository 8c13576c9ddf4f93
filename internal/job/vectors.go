package job

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"math"

	"github.com/geistnet/geist/ghost"
	"github.com/geistnet/geist/internal/pay"
)

// Bounds of orders of vectors (docs/spec/job.md §7).
const (
	MaxTexts       = 256
	MaxTextsTokens = 1 << 16
)

// VectorOrder wants the vectors of texts: an embedding of each. It is paid when
// they are here, in one payment of its job.
type VectorOrder struct {
	Client    ghost.Key
	Provider  ghost.Key
	Model     ghost.ID
	Ask       ghost.Digest
	Prices    pay.Prices // of which only the prompt's counts
	Rail      string
	CreatedAt int64       // Unix seconds
	Nonce     ghost.Nonce // random: equal orders are different jobs
	Texts     [][]int32   // token ids, at least one in each
	Signature [64]byte
}

// Check reports in what o is no order, or nil. It does not look at the signature.
func (o *VectorOrder) Check() error {
	total := 0
	for i, t := range o.Texts {
		if len(t) == 0 {
			return fmt.Errorf("text %d has no tokens", i)
		}
		total += len(t)
		for _, id := range t {
			if id < 0 {
				return fmt.Errorf("token %d of text %d", id, i)
			}
		}
	}
	switch {
	case len(o.Texts) < 1 || len(o.Texts) > MaxTexts || total > MaxTextsTokens:
		return fmt.Errorf("%d texts of %d tokens; at most %d and %d", len(o.Texts), total, MaxTexts, MaxTextsTokens)
	case !o.Prices.Valid():
		return errors.New("the prices are no amounts")
	case !railName(o.Rail):
		return fmt.Errorf("the rail is %.40q", o.Rail)
	case o.CreatedAt < 1 || o.CreatedAt > maxTime:
		return fmt.Errorf("the time is %d", o.CreatedAt)
	case o.Client == o.Provider:
		return errors.New("client and provider are the same key")
	}
	return nil
}

// ID is what the client signs: SHA-256("geist/vectors/1" ‖ client ‖ provider ‖
// model ‖ ask ‖ prompt price u64 ‖ answer price u64 ‖ created_at u64 ‖ nonce ‖
// len(rail) u32 ‖ rail ‖ texts u32 × (tokens u32 ‖ ids u32 × …)), little-endian.
func (o *VectorOrder) ID() ID {
	h := sha256.New()
	h.Write([]byte("geist/vectors/1"))
	h.Write(o.Client[:])
	h.Write(o.Provider[:])
	h.Write(o.Model[:])
	h.Write(o.Ask[:])
	var b []byte
	for _, v := range []uint64{uint64(o.Prices.Prompt), uint64(o.Prices.Answer), uint64(o.CreatedAt)} {
		b = binary.LittleEndian.AppendUint64(b, v)
	}
	b = append(b, o.Nonce[:]...)
	b = binary.LittleEndian.AppendUint32(b, uint32(len(o.Rail)))
	b = append(b, o.Rail...)
	b = binary.LittleEndian.AppendUint32(b, uint32(len(o.Texts)))
	for _, t := range o.Texts {
		b = binary.LittleEndian.AppendUint32(b, uint32(len(t)))
		for _, id := range t {
			b = binary.LittleEndian.AppendUint32(b, uint32(id))
		}
	}
	h.Write(b)
	return ID(h.Sum(nil))
}

// Due is what the vectors cost: the prompt's price for every token, rounded up
// once.
func (o *VectorOrder) Due() (pay.MilliSat, error) {
	n := 0
	for _, t := range o.Texts {
		n += len(t)
	}
	return pay.Prices{Answer: o.Prices.Prompt}.Due(0, n)
}

// Sign sets Client and Signature.
func (o *VectorOrder) Sign(s ghost.Secret) error {
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

type vectorJSON struct {
	Vectors   int        `json:"vectors"` // Version
	Client    string     `json:"client"`
	Provider  string     `json:"provider"`
	Model     string     `json:"model"`
	Ask       string     `json:"ask"`
	Prices    pay.Prices `json:"prices"`
	Rail      string     `json:"rail"`
	CreatedAt int64      `json:"created_at"`
	Nonce     string     `json:"nonce"`
	Texts     [][]int32  `json:"texts"`
	Sig       string     `json:"sig"`
}

// Encode gives the order as JSON. It refuses what Check refuses.
func (o *VectorOrder) Encode() ([]byte, error) {
	if err := o.Check(); err != nil {
		return nil, fmt.Errorf("encode an order of vectors: %w", err)
	}
	h := hex.EncodeToString
	return json.Marshal(vectorJSON{Version, h(o.Client[:]), h(o.Provider[:]), h(o.Model[:]), h(o.Ask[:]), o.Prices, o.Rail, o.CreatedAt, h(o.Nonce[:]), o.Texts, h(o.Signature[:])})
}

// ParseVectorOrder reads an order and verifies its signature.
func ParseVectorOrder(b []byte) (*VectorOrder, error) {
	bad := func(err error) (*VectorOrder, error) { return nil, fmt.Errorf("order of vectors: %w", err) }
	if len(b) > MaxOrderBytes {
		return bad(fmt.Errorf("it has %d bytes; the most is %d", len(b), MaxOrderBytes))
	}
	var j vectorJSON
	if err := strict(b, &j); err != nil {
		return bad(err)
	}
	if j.Vectors != Version {
		return bad(fmt.Errorf("its version is %d; known is %d", j.Vectors, Version))
	}
	o := &VectorOrder{Prices: j.Prices, Rail: j.Rail, CreatedAt: j.CreatedAt, Texts: j.Texts}
	for _, f := range []struct {
		name, text string
		to         []byte
	}{{"client", j.Client, o.Client[:]}, {"provider", j.Provider, o.Provider[:]}, {"model", j.Model, o.Model[:]}, {"ask", j.Ask, o.Ask[:]}, {"nonce", j.Nonce, o.Nonce[:]}, {"sig", j.Sig, o.Signature[:]}} {
		if err := unhex(f.name, f.text, f.to); err != nil {
			return bad(err)
		}
	}
	if err := o.Check(); err != nil {
		return bad(err)
	}
	if err := o.Client.Verify(o.ID(), o.Signature); err != nil {
		return bad(err)
	}
	return o, nil
}

// Vectors is what a provider gives for such an order.
type Vectors struct {
	Vectors [][]float32 // one for each text, all of one length
	Due     pay.MilliSat
}

type vectorsJSON struct {
	Dim     int          `json:"dim"`
	Vectors string       `json:"vectors"` // binary32, little-endian, in base64
	Due     pay.MilliSat `json:"due"`
}

// Encode gives the vectors as JSON.
func (v *Vectors) Encode() ([]byte, error) {
	if len(v.Vectors) == 0 || len(v.Vectors[0]) == 0 {
		return nil, errors.New("encode vectors: there are none")
	}
	dim := len(v.Vectors[0])
	var b []byte
	for _, x := range v.Vectors {
		if len(x) != dim {
			return nil, fmt.Errorf("encode vectors: lengths %d and %d", dim, len(x))
		}
		for _, f := range x {
			b = binary.LittleEndian.AppendUint32(b, math.Float32bits(f))
		}
	}
	return json.Marshal(vectorsJSON{dim, base64.StdEncoding.EncodeToString(b), v.Due})
}

// ParseVectors reads n vectors of dim finite numbers.
func ParseVectors(b []byte, n, dim int) (*Vectors, error) {
	var j vectorsJSON
	if err := json.Unmarshal(b, &j); err != nil {
		return nil, fmt.Errorf("vectors: %w", err)
	}
	raw, err := base64.StdEncoding.Strict().DecodeString(j.Vectors)
	if err != nil {
		return nil, fmt.Errorf("vectors: %w", err)
	}
	if j.Dim != dim || len(raw) != 4*n*dim || !j.Due.Valid() {
		return nil, fmt.Errorf("vectors: %d bytes of vectors of %d, due %d; %d of %d were ordered", len(raw), j.Dim, j.Due, n, dim)
	}
	v := &Vectors{Due: j.Due}
	for i := range n {
		x := make([]float32, dim)
		for k := range x {
			x[k] = math.Float32frombits(binary.LittleEndian.Uint32(raw[4*(i*dim+k):]))
			if f := float64(x[k]); math.IsNaN(f) || math.IsInf(f, 0) {
				return nil, fmt.Errorf("vectors: number %d of vector %d is not finite", k, i)
			}
		}
		v.Vectors = append(v.Vectors, x)
	}
	return v, nil
}
