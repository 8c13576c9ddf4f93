package kernel

import (
	"math/rand/v2"
	"testing"
)

// Every path reads every byte, at any length and alignment.
func TestReadAll(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	buf := make([]byte, 8<<10)
	for i := range buf {
		buf[i] = byte(r.Uint32())
	}
	for _, p := range Paths() {
		for n := 0; n < len(buf)-9; n += 1 + n/13 {
			at := n % 9
			b := buf[at : at+n]
			var want uint64
			for i, v := range b {
				want ^= uint64(v) << (i % 8 * 8)
			}
			if got := p.ReadAll(b); got != want {
				t.Fatalf("%v: %d bytes at %d give %#x, want %#x", p, n, at, got, want)
			}
			if n > 0 {
				i := r.IntN(n)
				b[i] ^= 0x5a
				if p.ReadAll(b) == want {
					t.Fatalf("%v: byte %d of %d is not read", p, i, n)
				}
				b[i] ^= 0x5a
			}
		}
	}
}

func BenchmarkReadAll(b *testing.B) {
	buf := make([]byte, 1<<20)
	for _, p := range Paths() {
		b.Run(p.String(), func(b *testing.B) {
			b.SetBytes(int64(len(buf)))
			for b.Loop() {
				p.ReadAll(buf)
			}
		})
	}
}
