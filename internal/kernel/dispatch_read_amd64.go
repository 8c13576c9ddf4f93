//go:build amd64 && !purego

package kernel

// readAsm is ReadAll of a positive multiple of readStep bytes.
func (p Path) readAsm(b []byte) (uint64, bool) {
	switch p {
	case AVX2:
		return readAVX2(&b[0], len(b)), true
	case AVX512:
		return readAVX512(&b[0], len(b)), true
	}
	return 0, false
}
