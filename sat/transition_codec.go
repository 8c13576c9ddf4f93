package sat

import (
	"encoding/binary"
	"fmt"
	"math"

	"github.com/geistnet/geist/arith"
	"github.com/geistnet/geist/merkle"
)

const transitionMagic = "satstep\x01"

// Encode is the transition as bytes: docs/spec/sat.md, "Transition". It is an
// error if lengths and numbers do not fit together.
func (t *Transition) Encode() ([]byte, error) {
	if err := t.check(); err != nil {
		return nil, err
	}
	le := binary.LittleEndian
	b := make([]byte, 0, 140+4*len(t.IDs)+len(t.Records)+len(t.Updates)+32*len(t.Proof))
	b = append(b, transitionMagic...)
	b = le.AppendUint64(b, t.Shape.Rows)
	b = le.AppendUint32(b, uint32(t.Shape.Format))
	b = le.AppendUint32(b, uint32(t.Shape.Dim))
	b = append(b, oneIf(t.Shape.Moments), byte(t.Rule.Kind), 0, 0)
	b = le.AppendUint64(b, t.Commit)
	b = append(b, t.Before[:]...)
	b = append(b, t.After[:]...)
	if t.Rule.Kind == AdamStep {
		for _, x := range t.Rule.Adam.fields() {
			b = le.AppendUint32(b, math.Float32bits(*x))
		}
	}
	b = le.AppendUint32(b, uint32(len(t.IDs)))
	for _, id := range t.IDs {
		b = le.AppendUint32(b, uint32(id))
	}
	b = append(b, t.Records...)
	b = append(b, t.Updates...)
	for _, h := range t.Proof {
		b = append(b, h[:]...)
	}
	return b, nil
}

// DecodeTransition reads what Encode writes, and nothing else: what it takes
// encodes to the same bytes. Records and Updates are views of b.
func DecodeTransition(b []byte) (*Transition, error) {
	d := decoder{rest: b}
	if string(d.take(8)) != transitionMagic {
		return nil, fmt.Errorf("transition: does not begin with %q", transitionMagic)
	}
	t := &Transition{}
	t.Shape.Rows = d.u64()
	t.Shape.Format = arith.Format(d.u32())
	t.Shape.Dim = int(min(d.u32(), math.MaxInt32))
	flags := d.take(4)
	t.Commit = d.u64()
	copy(t.Before[:], d.take(32))
	copy(t.After[:], d.take(32))
	if d.short {
		return nil, fmt.Errorf("transition of %d bytes ends in its head", len(b))
	}
	if flags[0] > 1 || flags[2] != 0 || flags[3] != 0 {
		return nil, fmt.Errorf("transition: flags %x", flags)
	}
	t.Shape.Moments, t.Rule.Kind = flags[0] == 1, UpdateKind(flags[1])
	if t.Rule.Kind == AdamStep {
		for _, x := range t.Rule.Adam.fields() {
			*x = math.Float32frombits(d.u32())
		}
	}
	k := int(min(d.u32(), math.MaxInt32))
	if err := t.Shape.Valid(); err != nil {
		return nil, err
	}
	each, err := t.Rule.updateBytes(t.Shape)
	if err != nil {
		return nil, err
	}
	if row := 4 + t.Shape.RecordBytes() + each; d.short || k > MaxChanged || k > len(d.rest)/row {
		return nil, fmt.Errorf("transition of %d bytes claims %d rows", len(b), k)
	}
	t.IDs = make([]uint64, k)
	for i := range t.IDs {
		t.IDs[i] = uint64(d.u32())
	}
	t.Records = d.take(k * t.Shape.RecordBytes())
	t.Updates = d.take(k * each)
	if len(d.rest)%32 != 0 {
		return nil, fmt.Errorf("transition: %d bytes of hashes, want whole ones", len(d.rest))
	}
	t.Proof = make([]merkle.Hash, len(d.rest)/32)
	for i := range t.Proof {
		copy(t.Proof[i][:], d.take(32))
	}
	if err := t.check(); err != nil {
		return nil, err
	}
	return t, nil
}

// decoder takes values from the front of rest. After it ran short, what it
// returns is zero or nil.
type decoder struct {
	rest  []byte
	short bool
}

func (d *decoder) take(n int) []byte {
	if n > len(d.rest) {
		d.short, d.rest = true, nil
		return nil
	}
	out := d.rest[:n:n]
	d.rest = d.rest[n:]
	return out
}

func (d *decoder) u32() uint32 {
	if b := d.take(4); b != nil {
		return binary.LittleEndian.Uint32(b)
	}
	return 0
}

func (d *decoder) u64() uint64 {
	if b := d.take(8); b != nil {
		return binary.LittleEndian.Uint64(b)
	}
	return 0
}

func oneIf(b bool) byte {
	if b {
		return 1
	}
	return 0
}

func floats(b []byte) []float32 {
	f := make([]float32, len(b)/4)
	for i := range f {
		f[i] = math.Float32frombits(binary.LittleEndian.Uint32(b[4*i:]))
	}
	return f
}
