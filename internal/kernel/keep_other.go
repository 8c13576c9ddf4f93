//go:build !amd64 || purego

package kernel

func (Path) keeps() bool { return false }

func (Path) expKeepAsm([]float32, uint64, float32, []byte) float32 { panic(noKeep) }

func (Path) roundKeepAsm([]byte, []float32) { panic(noKeep) }

func (Path) quantiseKeepAsm([]float32, []int8, []float32, int, int, []int32, []byte, []byte) bool {
	panic(noKeep)
}

const noKeep = "kernel: internal error: no path keeps what it computes here"
