package arith

import "fmt"

// Format is the storage format of a weight tensor. The numbers are those of
// the GGUF specification (ggml's type ids), so a file's value is used as it is.
type Format uint32

// The formats this version of the arithmetic defines. Any other is refused.
const (
	F32   Format = 0
	F16   Format = 1
	Q4_0  Format = 2
	Q4_1  Format = 3
	Q5_0  Format = 6
	Q5_1  Format = 7
	Q8_0  Format = 8
	Q2_K  Format = 10
	Q3_K  Format = 11
	Q4_K  Format = 12
	Q5_K  Format = 13
	Q6_K  Format = 14
	IQ4NL Format = 20
	BF16  Format = 30
)

type formatInfo struct {
	name       string
	blockLen   int // weights in one block
	blockBytes int // bytes of one block
	actBlock   int // activations that share one scale; 0: activations stay float32
}

var formats = map[Format]formatInfo{
	F32:   {"F32", 1, 4, 0},
	F16:   {"F16", 1, 2, 0},
	BF16:  {"BF16", 1, 2, 0},
	Q4_0:  {"Q4_0", 32, 18, 32},
	Q4_1:  {"Q4_1", 32, 20, 32},
	Q5_0:  {"Q5_0", 32, 22, 32},
	Q5_1:  {"Q5_1", 32, 24, 32},
	Q8_0:  {"Q8_0", 32, 34, 32},
	IQ4NL: {"IQ4_NL", 32, 18, 32},
	Q2_K:  {"Q2_K", 256, 84, 256},
	Q3_K:  {"Q3_K", 256, 110, 256},
	Q4_K:  {"Q4_K", 256, 144, 256},
	Q5_K:  {"Q5_K", 256, 176, 256},
	Q6_K:  {"Q6_K", 256, 210, 256},
}

// Formats lists the supported formats in ascending order of their id.
func Formats() []Format {
	return []Format{F32, F16, Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, Q2_K, Q3_K, Q4_K, Q5_K, Q6_K, IQ4NL, BF16}
}

// Known reports whether f is one of Formats.
func (f Format) Known() bool { _, ok := formats[f]; return ok }

// String returns the name people know, such as "Q4_K".
func (f Format) String() string {
	if i, ok := formats[f]; ok {
		return i.name
	}
	return fmt.Sprintf("type %d", uint32(f))
}

// BlockLen is the number of weights in one block, 1 for the float formats and
// 0 for an unknown format.
func (f Format) BlockLen() int { return formats[f].blockLen }

// BlockBytes is the size of one block in bytes, 0 for an unknown format.
func (f Format) BlockBytes() int { return formats[f].blockBytes }

// ActBlock is the number of consecutive activations that share one scale when
// they meet weights of this format: 32, 256, or 0 where activations stay float32.
func (f Format) ActBlock() int { return formats[f].actBlock }

// RowBytes is the size of a row of cols weights. cols must be a multiple of BlockLen.
func (f Format) RowBytes(cols int) int {
	i := formats[f]
	return cols / i.blockLen * i.blockBytes
}
