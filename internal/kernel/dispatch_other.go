//go:build (!amd64 && !arm64) || purego

package kernel

import (
	"unsafe"

	"github.com/geistnet/geist/arith"
)

func mulQuant(p Path, _ arith.Format, _ int, _ unsafe.Pointer, _ int, _ unsafe.Pointer, _, _ int, _, _, _ unsafe.Pointer) {
	panic("kernel: internal error: no assembly for " + p.String())
}

func mulFloat(p Path, _ arith.Format, _ int, _ unsafe.Pointer, _ int, _ unsafe.Pointer, _, _ int, _ unsafe.Pointer) {
	panic("kernel: internal error: no assembly for " + p.String())
}
