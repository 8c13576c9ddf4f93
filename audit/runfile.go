package audit

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"github.com/geistnet/geist/ghost"
	"github.com/geistnet/geist/merkle"
)

// RunVersion is the version of run files.
const RunVersion = 2

// MaxRunBytes bounds what ParseRunFile reads.
const MaxRunBytes = 64 << 20

// RunFile is what an asker keeps of an answer: all that is needed to demand a
// proof of it and to check the proof, but for the Ghost file
// (docs/spec/run-file.md). It holds the prompt; who is given it can read that.
type RunFile struct {
	Receipt    *ghost.Receipt
	Request    *ghost.Request
	Answer     []int32
	SeedNonce  ghost.Nonce
	AuditNonce ghost.Nonce // shown to a provider only after its receipt is here
	Size       Size        // of the challenge that the asker will demand
	// Outline is of the receipt's trace, or nil: a proof takes longer to make then.
	Outline *ghost.Outline
}

// Size says how much of a run a challenge draws. Who demands a proof fixes it
// before the proof is made: a prover that could choose it would choose one that
// misses what it forged.
type Size struct {
	Cells int `json:"cells"`
	Tails int `json:"tails"`
	Full  int `json:"full"`
}

// Standard is the size that is drawn if nobody asks for another.
var Standard = Size{Cells: 32, Tails: 4, Full: 1}

// runJSON is a run file as it is written.
type runJSON struct {
	Run        int             `json:"run"`
	Receipt    json.RawMessage `json:"receipt"`
	Request    string          `json:"request"`
	Prompt     []int32         `json:"prompt"`
	Answer     []int32         `json:"answer"`
	SeedNonce  string          `json:"seed_nonce"`
	AuditNonce string          `json:"audit_nonce"`
	Challenge  Size            `json:"challenge"`
	Outline    *outlineJSON    `json:"outline,omitempty"`
}

type outlineJSON struct {
	Positions string `json:"positions"`
	Cache     string `json:"cache"`
}

// Encode writes the run file. It refuses what ParseRunFile would refuse, but
// for the receipt's signature.
func (f *RunFile) Encode() ([]byte, error) {
	if err := f.check(); err != nil {
		return nil, fmt.Errorf("encode a run file: %w", err)
	}
	q, err := f.Request.Encode()
	if err != nil {
		return nil, fmt.Errorf("encode a run file: %w", err)
	}
	var b bytes.Buffer
	fmt.Fprintf(&b, "{\n\"run\": %d,\n\"receipt\": %s,\n\"request\": %q,\n", RunVersion, f.Receipt.Encode(), base64.StdEncoding.EncodeToString(q))
	for _, ids := range []struct {
		name string
		of   []int32
	}{{"prompt", f.Request.Prompt}, {"answer", f.Answer}} {
		fmt.Fprintf(&b, "%q: [", ids.name)
		for i, id := range ids.of {
			if i > 0 {
				b.WriteByte(',')
			}
			fmt.Fprint(&b, id)
		}
		b.WriteString("],\n")
	}
	fmt.Fprintf(&b, "\"seed_nonce\": \"%x\",\n\"audit_nonce\": \"%x\",\n", f.SeedNonce, f.AuditNonce)
	fmt.Fprintf(&b, "\"challenge\": {\"cells\": %d, \"tails\": %d, \"full\": %d}", f.Size.Cells, f.Size.Tails, f.Size.Full)
	if o := f.Outline; o != nil {
		var positions []byte
		for _, h := range o.Positions {
			positions = append(positions, h[:]...)
		}
		fmt.Fprintf(&b, ",\n\"outline\": {\"positions\": %q, \"cache\": \"%v\"}", base64.StdEncoding.EncodeToString(positions), o.Cache)
	}
	b.WriteString("\n}\n")
	return b.Bytes(), nil
}

// ParseRunFile reads a run file. The receipt's signature is right, and the
// receipt is for this request, these nonces and these tokens; whether the answer
// is the model's, a proof tells.
func ParseRunFile(b []byte) (*RunFile, error) {
	bad := func(err error) (*RunFile, error) { return nil, fmt.Errorf("run file: %w", err) }
	if len(b) > MaxRunBytes {
		return bad(fmt.Errorf("it is %d bytes long; the most is %d", len(b), MaxRunBytes))
	}
	var j runJSON
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	if err := d.Decode(&j); err != nil {
		return bad(err)
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return bad(fmt.Errorf("something follows its end at byte %d", d.InputOffset()))
	}
	if j.Run != RunVersion {
		return bad(fmt.Errorf("its version is %d; known is %d", j.Run, RunVersion))
	}
	f := &RunFile{Answer: j.Answer, Size: j.Challenge}
	var event bytes.Buffer // a person's editor may have spread it over lines
	if err := json.Compact(&event, j.Receipt); err != nil {
		return bad(fmt.Errorf("receipt: %w", err))
	}
	var err error
	if f.Receipt, err = ghost.ParseReceipt(event.Bytes()); err != nil {
		return bad(err)
	}
	q, err := base64.StdEncoding.Strict().DecodeString(j.Request)
	if err != nil {
		return bad(fmt.Errorf("request: %w", err))
	}
	if f.Request, err = ghost.DecodeRequest(q); err != nil {
		return bad(err)
	}
	if !equal(f.Request.Prompt, j.Prompt) {
		return bad(errors.New("its prompt is not that of its request"))
	}
	for _, n := range []struct {
		name, text string
		to         *ghost.Nonce
	}{{"seed", j.SeedNonce, &f.SeedNonce}, {"audit", j.AuditNonce, &f.AuditNonce}} {
		v, err := hex.DecodeString(n.text)
		if err != nil || len(v) != len(n.to) {
			return bad(fmt.Errorf("the %s nonce %.80q is not %d hexadecimal digits", n.name, n.text, 2*len(n.to)))
		}
		*n.to = ghost.Nonce(v)
	}
	if j.Outline != nil {
		if f.Outline, err = j.Outline.parse(len(f.Request.Prompt) + len(f.Answer) - 1); err != nil {
			return bad(fmt.Errorf("outline: %w", err))
		}
	}
	if err := f.check(); err != nil {
		return bad(err)
	}
	return f, nil
}

// parse reads the outline of a run of n positions.
func (j *outlineJSON) parse(n int) (*ghost.Outline, error) {
	b, err := base64.StdEncoding.Strict().DecodeString(j.Positions)
	if err != nil {
		return nil, err
	}
	o := &ghost.Outline{}
	if len(b) != n*len(o.Cache) {
		return nil, fmt.Errorf("%d bytes are not the roots of %d positions", len(b), n)
	}
	for ; len(b) > 0; b = b[len(o.Cache):] {
		o.Positions = append(o.Positions, merkle.Hash(b[:len(o.Cache)]))
	}
	c, err := hex.DecodeString(j.Cache)
	if err != nil || len(c) != len(o.Cache) {
		return nil, fmt.Errorf("the root of the cache %.80q is not %d hexadecimal digits", j.Cache, 2*len(o.Cache))
	}
	o.Cache = merkle.Hash(c)
	return o, nil
}

func equal(a, b []int32) bool {
	if len(a) != len(b) {
		return false
	}
	for i := range a {
		if a[i] != b[i] {
			return false
		}
	}
	return true
}

// check compares the parts with each other.
func (f *RunFile) check() error {
	r := f.Receipt
	if err := r.Answers(f.Request, f.Answer); err != nil {
		return err
	}
	switch {
	case r.SeedNonce != ghost.CommitSeed(f.SeedNonce):
		return errors.New("the receipt commits to another nonce of the seed")
	case r.AuditNonce != ghost.CommitAudit(f.AuditNonce):
		return errors.New("the receipt commits to another nonce of the audit")
	case f.SeedNonce == f.AuditNonce:
		return errors.New("the two nonces are equal: the provider knew what would be drawn")
	}
	if f.Outline != nil {
		root, err := f.Outline.Root(f.Request.Prompt, f.Answer)
		if err != nil {
			return err
		}
		if root != r.Trace {
			return errors.New("the outline is of another trace than the receipt's")
		}
	}
	return f.Size.Check()
}

// Challenge is what is drawn of the run.
func (f *RunFile) Challenge() Challenge {
	return f.Size.Challenge(Draw(f.AuditNonce, f.Receipt.ID()))
}

// Check refuses what Challenge.Check refuses.
func (s Size) Check() error { return s.Challenge([32]byte{}).Check() }

// Challenge is a challenge of this size.
func (s Size) Challenge(seed [32]byte) Challenge {
	return Challenge{Seed: seed, Cells: s.Cells, Tails: s.Tails, Full: s.Full}
}

// Run is what the model with this Ghost file would have to have done. The error
// says why no proof can be made for the file: it is of another model, or its
// grade has no trace.
func (f *RunFile) Run(m *ghost.Model) (*Run, error) {
	r := f.Receipt
	id := m.ID()
	switch {
	case id != r.Model:
		return nil, fmt.Errorf("the receipt is of model %v; the Ghost file is of %v", r.Model, id)
	case r.Grade != ghost.GhostAudited:
		return nil, fmt.Errorf("the receipt's grade is %q; proofs are made for %q", r.Grade, ghost.GhostAudited)
	}
	run := &Run{Model: m, Prompt: f.Request.Prompt, Answer: f.Answer, Sampling: f.Request.Sampling, Trace: r.Trace, Outline: f.Outline, Constrained: f.Request.Grammar != [32]byte{}}
	run.Sampling.Seed = ghost.Seed(f.SeedNonce, r.Request, r.Model)
	if err := run.Check(); err != nil {
		return nil, err
	}
	return run, nil
}
