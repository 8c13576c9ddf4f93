//go:build amd64 && !purego

package kernel

import "golang.org/x/sys/cpu"

// Paths lists the paths that run on this machine, slowest first.
func Paths() []Path {
	p := []Path{Generic}
	if x := cpu.X86; x.HasAVX2 && x.HasFMA && hasF16C() {
		p = append(p, AVX2)
	}
	if x := cpu.X86; x.HasAVX512F && x.HasAVX512BW && x.HasAVX512VL && x.HasAVX512DQ && x.HasAVX512VNNI {
		p = append(p, AVX512)
	}
	return p
}
