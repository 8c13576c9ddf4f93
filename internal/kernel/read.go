package kernel

import "encoding/binary"

// readStep is what the assembly reads in a round, in bytes.
const readStep = 512

// ReadAll reads every byte of b and returns the exclusive or of its 64-bit
// little-endian words, the last one filled up with zeros. It reads as the
// matrix kernels do, so that the rate it reaches is what they are measured by.
func (p Path) ReadAll(b []byte) uint64 {
	var x uint64
	if n := len(b) &^ (readStep - 1); n > 0 {
		if y, ok := p.readAsm(b[:n]); ok {
			x, b = y, b[n:]
		}
	}
	var sum [4]uint64
	for ; len(b) >= 32; b = b[32:] {
		sum[0] ^= binary.LittleEndian.Uint64(b)
		sum[1] ^= binary.LittleEndian.Uint64(b[8:])
		sum[2] ^= binary.LittleEndian.Uint64(b[16:])
		sum[3] ^= binary.LittleEndian.Uint64(b[24:])
	}
	for i, v := range b {
		x ^= uint64(v) << (i % 8 * 8)
	}
	return x ^ sum[0] ^ sum[1] ^ sum[2] ^ sum[3]
}
