package audit

import (
	"bytes"
	"encoding/binary"
	"math"
	"math/rand/v2"
	"testing"

	"github.com/geistnet/geist/ghost"
)

// leafOf makes a leaf of n floats of one kind and some bytes that are none.
func leafOf(r *rand.Rand, n, more, kind int) []byte {
	var b []byte
	for range n {
		x := r.Uint32()
		switch kind {
		case 0: // as residual streams have them
			x = math.Float32bits(float32(r.NormFloat64()))
		case 1:
			x = 0
		case 2: // one exponent
			x = x&0x807fffff | 77<<23
		}
		b = binary.LittleEndian.AppendUint32(b, x)
	}
	for range more {
		b = append(b, byte(r.Uint32()))
	}
	return b
}

// Every leaf is unpacked to itself, whatever its floats, and nothing of what
// follows is read.
func TestLeaf(t *testing.T) {
	r := rand.New(rand.NewPCG(4, 5))
	for n := range 257 {
		for kind := range 4 {
			more := r.IntN(3)
			leaf := leafOf(r, n, more, kind)
			b := packLeaf([]byte{9}, leaf, n)
			got := make([]byte, len(leaf))
			rest, err := unpackLeaf(got, append(b[1:len(b):len(b)], 7, 8), n)
			if err != nil || !bytes.Equal(got, leaf) || !bytes.Equal(rest, []byte{7, 8}) {
				t.Fatalf("%d floats of kind %d: %v; %d bytes rest", n, kind, err, len(rest))
			}
			if most := len(leaf) + (n+63)/64*2; len(b)-1 > most {
				t.Errorf("%d floats of kind %d take %d bytes, %d as they are", n, kind, len(b)-1, len(leaf))
			}
			for cut := range len(b) - 1 {
				if _, err := unpackLeaf(got, b[1:1+cut], n); err == nil {
					t.Fatalf("%d floats in %d bytes of %d", n, cut, len(b)-1)
				}
			}
		}
	}
	leaf := leafOf(r, 256, 0, 0)
	if n := len(packLeaf(nil, leaf, 256)); n > 1024*9/10 {
		t.Errorf("normally distributed floats take %d bytes instead of 1024", n)
	}
}

// The one packing of 3 floats as bytes, and others of the same floats.
func TestLeafBytes(t *testing.T) {
	var leaf []byte
	for _, x := range []float32{1, -0.75, 0.15625} { // exponents 127, 126, 124
		leaf = binary.LittleEndian.AppendUint32(leaf, math.Float32bits(x))
	}
	want := []byte{127, 2, 0, 0, 0, 0, 0, 0xc0, 0, 0, 0x20, 0b11_01_00}
	if got := packLeaf(nil, leaf, 3); !bytes.Equal(got, want) {
		t.Fatalf("packed as % x, want % x", got, want)
	}
	got := make([]byte, 12)
	for what, b := range map[string][]byte{
		"a base too large":       {128, 3, 0, 0, 0, 0, 0, 0xc0, 0, 0, 0x20, 0b0_010_001, 0b1},
		"a width too large":      {127, 3, 0, 0, 0, 0, 0, 0xc0, 0, 0, 0x20, 0b11_001_000, 0},
		"a width of nine":        {127, 9, 0, 0, 0, 0, 0, 0xc0, 0, 0, 0x20, 0, 0, 0, 0},
		"a bit behind the last":  {127, 2, 0, 0, 0, 0, 0, 0xc0, 0, 0, 0x20, 0b1_11_01_00},
		"an exponent below zero": {2, 2, 0, 0, 0, 0, 0, 0xc0, 0, 0, 0x20, 0b11_01_00},
	} {
		if _, err := unpackLeaf(got, b, 3); err == nil {
			t.Errorf("%s is accepted", what)
		}
	}
}

// FuzzLeaf: what is unpacked has no other packing.
func FuzzLeaf(f *testing.F) {
	r := rand.New(rand.NewPCG(6, 7))
	for i, n := range []int{0, 1, 7, 8, 63, 64, 65, 100, 256} {
		f.Add(packLeaf(nil, leafOf(r, n, i%3, i%4), n), uint16(n), uint8(i%3))
	}
	f.Fuzz(func(t *testing.T, b []byte, floats uint16, more uint8) {
		n := int(floats) % (ghost.LeafBytes/4 + 1)
		leaf := make([]byte, 4*n+int(more))
		rest, err := unpackLeaf(leaf, b, n)
		if err != nil {
			return
		}
		if again := packLeaf(nil, leaf, n); !bytes.Equal(again, b[:len(b)-len(rest)]) {
			t.Fatalf("% x is packed again as % x", b[:len(b)-len(rest)], again)
		}
	})
}

func BenchmarkUnpackLeaf(b *testing.B) {
	leaf := leafOf(rand.New(rand.NewPCG(8, 9)), 256, 0, 0)
	packed := packLeaf(nil, leaf, 256)
	b.SetBytes(int64(len(leaf)))
	for b.Loop() {
		if _, err := unpackLeaf(leaf, packed, 256); err != nil {
			b.Fatal(err)
		}
	}
}
