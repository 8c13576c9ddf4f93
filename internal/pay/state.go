package pay

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"math"

	"github.com/geistnet/geist/ghost"
)

// state is one state of a line (docs/spec/credit.md §2).
type state struct {
	Payer, Payee       ghost.Key
	Seq                uint64
	Total              MilliSat
	Memo               JobID
	Amount             MilliSat
	PayerSig, PayeeSig [64]byte // PayeeSig is zero while the payee has not agreed
}

const (
	stateMagic = "geistcr\x01"
	stateBytes = 256
	maxStates  = 64 // in one message
)

// unsigned is what both sign: bytes 8 to 128 of the encoding.
func (s *state) unsigned() []byte {
	b := make([]byte, 0, 120)
	b = append(b, s.Payer[:]...)
	b = append(b, s.Payee[:]...)
	b = binary.LittleEndian.AppendUint64(b, s.Seq)
	b = binary.LittleEndian.AppendUint64(b, uint64(s.Total))
	b = append(b, s.Memo[:]...)
	return binary.LittleEndian.AppendUint64(b, uint64(s.Amount))
}

func (s *state) digest() ghost.Digest {
	return sha256.Sum256(append([]byte("geist/credit/1"), s.unsigned()...))
}

func (s *state) encode() []byte {
	b := append([]byte(stateMagic), s.unsigned()...)
	b = append(b, s.PayerSig[:]...)
	return append(b, s.PayeeSig[:]...)
}

// agreed reports whether the payee has signed.
func (s *state) agreed() bool { return s.PayeeSig != [64]byte{} }

// decodeState reads one state. Its numbers are in range; its signatures are not
// checked.
func decodeState(b []byte) (*state, error) {
	if len(b) != stateBytes || string(b[:8]) != stateMagic {
		return nil, fmt.Errorf("%d bytes that begin with %.8q are no state of a line", len(b), b)
	}
	u := binary.LittleEndian.Uint64
	s := &state{
		Payer: ghost.Key(b[8:40]), Payee: ghost.Key(b[40:72]), Seq: u(b[72:]), Memo: JobID(b[88:120]),
		PayerSig: [64]byte(b[128:192]), PayeeSig: [64]byte(b[192:256]),
	}
	total, amount := u(b[80:]), u(b[120:])
	switch {
	case s.Payer == s.Payee:
		return nil, fmt.Errorf("payer and payee of a state are both %v", s.Payer)
	case s.Seq == 0 || s.Seq > math.MaxInt64:
		return nil, fmt.Errorf("a state's number is %d", s.Seq)
	case amount == 0 || amount > total || total > uint64(MaxAmount):
		return nil, fmt.Errorf("a state of %d msat raises the total to %d", amount, total)
	case s.Seq == 1 && amount != total:
		return nil, fmt.Errorf("the first state of a line raises the total by %d to %d", amount, total)
	}
	s.Total, s.Amount = MilliSat(total), MilliSat(amount)
	return s, nil
}

// decodeStates reads a message.
func decodeStates(b []byte) ([]*state, error) {
	if len(b) == 0 || len(b)%stateBytes != 0 || len(b) > maxStates*stateBytes {
		return nil, fmt.Errorf("a message of %d bytes is not 1 to %d states of %d", len(b), maxStates, stateBytes)
	}
	var out []*state
	for ; len(b) > 0; b = b[stateBytes:] {
		s, err := decodeState(b[:stateBytes])
		if err != nil {
			return nil, err
		}
		out = append(out, s)
	}
	return out, nil
}

// same reports whether both signed the same.
func (s *state) same(t *state) bool {
	return s.Payer == t.Payer && s.Payee == t.Payee && s.Seq == t.Seq && s.Total == t.Total && s.Memo == t.Memo && s.Amount == t.Amount
}
