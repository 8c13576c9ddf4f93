//go:build !amd64 || purego

package kernel

func putPairs(sumsKind, []byte, int, []int8, int, int) {
	panic("kernel: internal error: this build has no assembly for avx2")
}
