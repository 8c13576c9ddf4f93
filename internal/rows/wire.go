package rows

import (
	"encoding/binary"
	"fmt"

	"github.com/geistnet/geist/merkle"
)

// Bounds of a request.
const (
	maxWants       = 64
	maxRows        = 1 << 16 // of all tables together
	maxAnswerBytes = 1 << 26
	maxBodyBytes   = len(magic) + 4 + maxWants*wantBytes + 4*maxRows

	magic     = "geistrow"
	wantBytes = 32 + 4 + 4
)

// A Want names rows of one table.
type Want struct {
	Root  merkle.Hash
	Level int      // at which the proof ends
	IDs   []uint64 // ascending strictly, below 2³²; at least one
}

// encode gives the body of a request.
func encode(wants []Want) []byte {
	b := binary.LittleEndian.AppendUint32([]byte(magic), uint32(len(wants)))
	for i := range wants {
		w := &wants[i]
		b = append(b, w.Root[:]...)
		b = binary.LittleEndian.AppendUint32(b, uint32(w.Level))
		b = binary.LittleEndian.AppendUint32(b, uint32(len(w.IDs)))
		for _, id := range w.IDs {
			b = binary.LittleEndian.AppendUint32(b, uint32(id))
		}
	}
	return b
}

// decode reads the body of a request. Whether tables and rows exist is not
// looked at.
func decode(b []byte) ([]Want, error) {
	if len(b) < len(magic)+4 || string(b[:len(magic)]) != magic {
		return nil, fmt.Errorf("the body does not begin with %q and a number", magic)
	}
	n := binary.LittleEndian.Uint32(b[len(magic):])
	if n < 1 || n > maxWants {
		return nil, fmt.Errorf("the request is for %d tables; it must be for 1 to %d", n, maxWants)
	}
	b = b[len(magic)+4:]
	wants := make([]Want, n)
	left := maxRows
	for i := range wants {
		w := &wants[i]
		if len(b) < wantBytes {
			return nil, fmt.Errorf("the request ends in table %d of %d", i, n)
		}
		copy(w.Root[:], b)
		level, count := binary.LittleEndian.Uint32(b[32:]), binary.LittleEndian.Uint32(b[36:])
		b = b[wantBytes:]
		if level > 64 || count < 1 || int64(count) > int64(left) || int(count) > len(b)/4 {
			return nil, fmt.Errorf("table %d: %d rows up to level %d are out of range", i, count, level)
		}
		left -= int(count)
		w.Level = int(level)
		w.IDs = make([]uint64, count)
		for j := range w.IDs {
			w.IDs[j] = uint64(binary.LittleEndian.Uint32(b[4*j:]))
			if j > 0 && w.IDs[j] <= w.IDs[j-1] {
				return nil, fmt.Errorf("table %d: row %d after row %d", i, w.IDs[j], w.IDs[j-1])
			}
		}
		b = b[4*count:]
	}
	if len(b) > 0 {
		return nil, fmt.Errorf("%d bytes follow the request", len(b))
	}
	return wants, nil
}
