//go:build !amd64 || purego

package matmul

// Paths lists the paths that run on this machine, slowest first.
func Paths() []Path { return []Path{Generic} }

func (p Path) tile(c []float32, ldc int, a []float32, ars, acs int, b []float32, k int, zero bool) {
	tileGeneric(c, ldc, a, ars, acs, b, k, zero)
}

func (p Path) whole(n int) int { return 0 }

const noAssembly = "matmul: internal error: this build has no assembly"

func (p Path) largestAsm(x []float32) float32             { panic(noAssembly) }
func (p Path) expSumAsm(x []float32, sub float32) float32 { panic(noAssembly) }
func (p Path) gateGradAsm(dg, du, g, u, dh []float32)     { panic(noAssembly) }
func (p Path) scaleAsm(x []float32, s float32)            { panic(noAssembly) }

func (p Path) axpyAsm(y, x []float32, a float32) { panic(noAssembly) }

func (p Path) dotAsm(x, y []float32) float32 { panic(noAssembly) }

func (p Path) gateAsm(h, g, u []float32) { panic(noAssembly) }

func (p Path) packRuns(dst, src []float32, step, width, n int) bool { return false }

func (p Path) adamAsm(w, m, v, g []float32, k *[9]float32) (finite bool) { panic(noAssembly) }
