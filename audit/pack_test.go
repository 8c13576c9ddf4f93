package audit

import (
	"bytes"
	"encoding/binary"
	"math"
	"math/rand/v2"
	"testing"
)

// norms are floats of a bfloat16 model between other bytes.
func norms(seed uint64) []byte {
	r := rand.New(rand.NewPCG(seed, 1))
	var b []byte
	for range r.IntN(4) {
		for range r.IntN(50) {
			b = append(b, byte(r.Uint32()))
		}
		b = binary.LittleEndian.AppendUint32(b, 2048)
		for range r.IntN(100) {
			b = binary.LittleEndian.AppendUint32(b, math.Float32bits(r.Float32())&^0xffff)
		}
	}
	return b
}

func TestPack(t *testing.T) {
	smaller := 0
	for seed := range uint64(500) {
		b := norms(seed)
		p := pack(b)
		if len(p) < len(b) {
			smaller++
		}
		got, rest, err := unpack(append(bytes.Clone(p), 1, 2, 3))
		if err != nil || !bytes.Equal(got, b) || !bytes.Equal(rest, []byte{1, 2, 3}) {
			t.Fatalf("seed %d: %d bytes are read as %d with %d left: %v", seed, len(b), len(got), len(rest), err)
		}
		for i := range p {
			if _, _, err := unpack(p[:i]); err == nil {
				t.Fatalf("seed %d: the first %d of %d bytes are read", seed, i, len(p))
			}
		}
	}
	if smaller < 100 {
		t.Errorf("only %d of 500 became smaller", smaller)
	}
	// 64 floats as 64 bytes and a piece of floats: not the one way.
	b := bytes.Repeat([]byte{0, 0, 1, 63}, 64)
	other := binary.LittleEndian.AppendUint32(nil, 256)
	other = append(binary.LittleEndian.AppendUint32(other, 256), b...)
	if _, _, err := unpack(binary.LittleEndian.AppendUint32(other, 0)); err == nil {
		t.Error("another packing is read")
	}
}

func FuzzUnpack(f *testing.F) {
	f.Add(pack(norms(1)))
	f.Add(pack(norms(2)))
	f.Add([]byte{255, 255, 255, 255, 255, 255, 255, 255})
	f.Fuzz(func(t *testing.T, b []byte) {
		out, rest, err := unpack(b)
		if err != nil {
			return
		}
		if p := append(pack(out), rest...); !bytes.Equal(p, b) {
			t.Fatalf("%x is read as %x and written as %x", b, out, p)
		}
	})
}
