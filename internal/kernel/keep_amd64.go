//go:build amd64 && !purego

package kernel

// keeps reports whether the path has the kernels of this file.
func (p Path) keeps() bool { return p == AVX512 }

// expKeepAsm is expChunkAsm for halves, which it also writes to dst: 128 bytes.
func (p Path) expKeepAsm(s []float32, mask uint64, top float32, dst []byte) float32 {
	return expKeepAVX512(&s[0], mask, top, &dst[0])
}

func (p Path) roundKeepAsm(dst []byte, x []float32) { roundKeepAVX512(&x[0], &dst[0], len(x)/16) }

// quantiseKeepAsm is quantiseAsm which also writes the blocks' codes and scales
// without gaps.
func (p Path) quantiseKeepAsm(x []float32, q []int8, d []float32, w, block int, raw []int32, codes, scales []byte) bool {
	f := quantise32KeepAVX512
	if block == 256 {
		f = quantise256KeepAVX512
	}
	return f(&x[0], &q[0], w*block, &d[0], 4*w, &raw[0], len(x)/block, &codes[0], &scales[0]) == 0
}
