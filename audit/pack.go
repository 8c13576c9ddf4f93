package audit

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
)

// Norms are float32 in a Ghost file though most models were trained with
// bfloat16: the low half of each is zero. A fraud proof leaves these out of its
// excerpt of the file (docs/spec/dispute.md §4):
//
//	u32 bytes, unpacked ‖ (u32 n ‖ n bytes ‖ u32 k ‖ k high halves of floats) …
//
// The pieces end when all bytes are there. Only whole stretches of leastHalves or
// more are packed, the first that there is, as long as it is: so there is one
// packing of an excerpt.
const leastHalves = 16

// halves counts the floats at the beginning of b whose low halves are zero.
func halves(b []byte) (n int) {
	for len(b) >= 4 && b[0] == 0 && b[1] == 0 {
		b = b[4:]
		n++
	}
	return n
}

func pack(b []byte) []byte {
	out := binary.LittleEndian.AppendUint32(nil, uint32(len(b)))
	for len(b) > 0 {
		n, k := 0, 0
		for ; n < len(b); n++ {
			if k = halves(b[n:]); k >= leastHalves {
				break
			}
		}
		if k < leastHalves {
			k = 0
		}
		out = binary.LittleEndian.AppendUint32(out, uint32(n))
		out = append(out, b[:n]...)
		out = binary.LittleEndian.AppendUint32(out, uint32(k))
		for b = b[n:]; k > 0; k-- {
			out = append(out, b[2:4]...)
			b = b[4:]
		}
	}
	return out
}

// unpack reads what pack wrote at the beginning of b and returns what follows.
func unpack(b []byte) (out, rest []byte, err error) {
	rest = b
	next := func(limit int) int {
		if err != nil || len(rest) < 4 {
			err = errors.New("the packed excerpt is too short")
			return 0
		}
		n := binary.LittleEndian.Uint32(rest)
		rest = rest[4:]
		if uint64(n) > uint64(limit) {
			err = fmt.Errorf("the packed excerpt has a length of %d", n)
			return 0
		}
		return int(n)
	}
	total := next(MaxFraudBytes)
	for err == nil && len(out) < total {
		n := next(total - len(out))
		if n > len(rest) {
			return nil, nil, errors.New("the packed excerpt is too short")
		}
		out, rest = append(out, rest[:n]...), rest[n:]
		k := next((total - len(out)) / 4)
		if 2*k > len(rest) {
			return nil, nil, errors.New("the packed excerpt is too short")
		}
		for range k {
			out, rest = append(out, 0, 0, rest[0], rest[1]), rest[2:]
		}
		if n == 0 && k == 0 {
			return nil, nil, errors.New("the packed excerpt has an empty piece")
		}
	}
	if err != nil {
		return nil, nil, err
	}
	if !bytes.Equal(pack(out), b[:len(b)-len(rest)]) {
		return nil, nil, errors.New("the excerpt is packed in another way than it should be")
	}
	return out, rest, nil
}
