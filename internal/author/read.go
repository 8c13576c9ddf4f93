package author

import "encoding/binary"

// xor combines all bytes of b, eight at a time in four chains, so that reading
// takes the time and not the combining.
func xor(b []byte) uint64 {
	var s [4]uint64
	for ; len(b) >= 32; b = b[32:] {
		s[0] ^= binary.LittleEndian.Uint64(b)
		s[1] ^= binary.LittleEndian.Uint64(b[8:])
		s[2] ^= binary.LittleEndian.Uint64(b[16:])
		s[3] ^= binary.LittleEndian.Uint64(b[24:])
	}
	for i, x := range b {
		s[0] ^= uint64(x) << (8 * (i % 8))
	}
	return s[0] ^ s[1] ^ s[2] ^ s[3]
}
