package kernel

import "fmt"

// Path names an implementation. All paths give the same bits.
type Path int

// The implementations; which of them run on this machine, Paths tells.
const (
	Generic Path = iota // plain Go
	AVX2                // amd64 with AVX2, FMA and F16C
	AVX512              // amd64 with AVX-512 F, BW, VL, DQ and VNNI
	NEON                // arm64 with the dot product instructions
)

var pathNames = [...]string{"generic", "avx2", "avx512", "neon"}

func (p Path) String() string {
	if p < 0 || int(p) >= len(pathNames) {
		return fmt.Sprintf("path %d", int(p))
	}
	return pathNames[p]
}

// ParsePath is the inverse of String.
func ParsePath(s string) (Path, error) {
	for i, n := range pathNames {
		if n == s {
			return Path(i), nil
		}
	}
	return 0, fmt.Errorf("unknown kernel path %q; known are generic, avx2, avx512 and neon", s)
}

// signed8 reports whether the path multiplies signed weight codes; otherwise
// 8-bit codes are stored with 128 added.
func (p Path) signed8() bool { return p != AVX512 }

// Best is the fastest path of this machine.
func Best() Path {
	p := Paths()
	return p[len(p)-1]
}
