package kernel

import (
	"encoding/binary"
	"math"

	"github.com/geistnet/geist/arith"
)

// Kernels that also write what they computed as a trace commits to it. Where
// there is none for a path, a second pass writes the same bytes.

// RoundTo rounds x to the cache's format and also writes it to dst in that
// format, little-endian.
func (p Path) RoundTo(dst []byte, x []float32, kv arith.KV) {
	if p.keeps() && kv == arith.KVF16 && len(x) > 0 && len(x)%16 == 0 {
		p.roundKeepAsm(dst[:2*len(x)], x)
		return
	}
	p.ScaleRound(x, 1, kv)
	p.write(dst, x, kv)
}

// write writes values that are already rounded in the cache's format.
func (p Path) write(dst []byte, x []float32, kv arith.KV) {
	if kv == arith.KVF16 {
		p.Halves(dst, x)
		return
	}
	for i, v := range x {
		binary.LittleEndian.PutUint32(dst[4*i:], math.Float32bits(v))
	}
}

// SetRow is Set which also writes the row to dst, as Row would.
func (in *Input) SetRow(i int, x []float32, dst []byte) bool {
	f := in.only()
	if f.block != 0 && f.path.keeps() {
		return f.set(i, x, dst[:f.rowBytes()])
	}
	if !f.set(i, x, nil) {
		return false
	}
	f.row(i, dst)
	return true
}
