//go:build amd64 && !purego

package matmul

import "golang.org/x/sys/cpu"

// Paths lists the paths that run on this machine, slowest first.
func Paths() []Path {
	p := []Path{Generic}
	if x := cpu.X86; x.HasAVX2 && x.HasFMA {
		p = append(p, AVX2)
	}
	if x := cpu.X86; x.HasAVX512F && x.HasAVX512BW && x.HasAVX512VL && x.HasAVX512DQ {
		p = append(p, AVX512)
	}
	return p
}

// tile multiplies one tile; the shape is that of [Path.shape].
func (p Path) tile(c []float32, ldc int, a []float32, ars, acs int, b []float32, k int, zero bool) {
	z := 0
	if zero {
		z = 1
	}
	switch p {
	case AVX512:
		tileAVX512(&c[0], 4*ldc, &a[0], 4*ars, 4*acs, &b[0], k, z)
	case AVX2:
		tileAVX2(&c[0], 4*ldc, &a[0], 4*ars, 4*acs, &b[0], k, z)
	default:
		tileGeneric(c, ldc, a, ars, acs, b, k, zero)
	}
}

// whole is how many of n values the vector kernels of p take.
func (p Path) whole(n int) int {
	if p == AVX512 {
		return n &^ (lanes - 1)
	}
	return 0
}

func (p Path) largestAsm(x []float32) float32 { return largestAVX512(&x[0], len(x)/lanes) }

func (p Path) expSumAsm(x []float32, sub float32) float32 {
	return expSumAVX512(&x[0], sub, len(x)/lanes)
}

func (p Path) gateGradAsm(dg, du, g, u, dh []float32) {
	gateGradAVX512(&dg[0], &du[0], &g[0], &u[0], &dh[0], len(g)/lanes)
}

func (p Path) scaleAsm(x []float32, s float32) { scaleAVX512(&x[0], s, len(x)/lanes) }

func (p Path) axpyAsm(y, x []float32, a float32) { axpyAVX512(&y[0], &x[0], a, len(x)/lanes) }

func (p Path) dotAsm(x, y []float32) float32 { return dotAVX512(&x[0], &y[0], len(x)/lanes) }

func (p Path) gateAsm(h, g, u []float32) { gateAVX512(&h[0], &g[0], &u[0], len(h)/lanes) }

// packRuns copies n runs of width values, step values apart, to dst; false if
// p has no kernel for the width. src and dst are long enough.
func (p Path) packRuns(dst, src []float32, step, width, n int) bool {
	switch {
	case p == AVX512 && width == 12:
		pack12AVX512(&dst[0], &src[0], 4*step, n)
	case p == AVX512 && width == 32:
		pack32AVX512(&dst[0], &src[0], 4*step, n)
	default:
		return false
	}
	return true
}

func (p Path) adamAsm(w, m, v, g []float32, k *[9]float32) (finite bool) {
	return adamAVX512(&w[0], &m[0], &v[0], &g[0], &k[0], len(w)/lanes) == 0
}
