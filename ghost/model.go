package ghost

import (
	"github.com/geistnet/geist/arith"
	"github.com/geistnet/geist/merkle"
	"github.com/geistnet/geist/sat"
)

// Tensor is a weight tensor whose rows are committed to: leaf i of the tree is
// row i as it stands in the GGUF file (arith.Format.RowBytes(Cols) bytes).
type Tensor struct {
	Name   string // as in the GGUF file; no two are equal
	Format arith.Format
	Rows   int // of all experts together, in a mixture's stacked tensors
	Cols   int // a multiple of the format's block
	Root   merkle.Hash
}

// Linear is a matrix product with what follows it. Output r is the product
// with row Row0+r of tensor Tensor; then, with ScaleFirst, scaled and the bias
// added, otherwise the other way round. A bias of nil and a scale of 1 are left
// out altogether (spec arithmetic.md §4.5).
type Linear struct {
	Tensor     int // index in Model.Tensors
	Row0, Rows int
	Bias       []float32 // nil or Rows values
	Scale      float32
	ScaleFirst bool
}

// Expert is one expert of a mixture.
type Expert struct{ Gate, Up, Down Linear }

// Memory is what a memory block has in place of the matrix up: rows of a table,
// from which u of down(gate(x) ⊙ u) is made (docs/spec/lookup.md).
type Memory struct {
	Rule  int // index in Model.Rules
	Table int // index in Model.Tensors: the rows
	// Of product keys; zero for hashed n-grams. Query has the rows of all half
	// queries, and Keys those of all sub-keys, without bias and scale.
	Query, Keys Linear
}

// Layer is one transformer block. Norm weights stand here as they are: they
// are small, and every check needs them.
type Layer struct {
	AttnNorm, FFNNorm []float32 // Dim values
	PostAttn, PostFFN []float32 // Dim values, or nil
	QNorm, KNorm      []float32 // as Model.Norm says: nil; KeyDim values; Q.Rows and K.Rows values
	Q, K, V, O        Linear
	Gate, Up, Down    Linear   // of a dense block; zero in a mixture, and Up in a memory block
	Memory            *Memory  // of a memory block; otherwise nil
	Router            Linear   // of a mixture; zero in a dense block
	Experts           []Expert // nil: dense
	Window            int      // positions the layer sees; 0: all
	Rope              int      // index in Model.Ropes
}

// Gate is the activation of feed-forward blocks.
type Gate uint8

// The gates: arith.SiLUMul and arith.GELUMul.
const (
	SiLU Gate = iota
	GELU
)

// Norm is how queries and keys are normed before they are rotated.
type Norm uint8

// The choices: not at all, each head by itself, all heads together.
const (
	NoNorm Norm = iota
	HeadNorm
	RowNorm
)

// Model is everything the forward pass of a model depends on: what a Ghost
// file says. Two models with equal fields give equal answers. Check has the
// rules that the fields keep.
type Model struct {
	Arithmetic int    // arith.Version
	Arch       string // for people; the fields below decide
	Name       string // for people

	Dim, Heads, KVHeads, KeyDim, ValDim, FF int
	Vocab, Context                          int
	Eps                                     float32
	KV                                      arith.KV
	Gate                                    Gate
	Norm                                    Norm
	Neox                                    bool    // pairs (i, i+n) rather than (2i, 2i+1)
	AttnScale                               float32 // queries are multiplied by this
	TempScale                               float64 // 0: none; see spec arithmetic.md §6.1
	TempFloor                               int     // 0 without TempScale
	AttnCap, LogitCap                       float32 // 0: none
	EmbedScale                              float32 // 1: none
	ExpertsUsed                             int     // 0 if no layer is a mixture
	ExpertNorm                              bool    // false if no layer is a mixture
	ExpertScale                             float32 // 1 if no layer is a mixture
	Ropes                                   []arith.Rope
	Rules                                   []sat.Rule // of memory blocks, hash or product, no two equal, in order of their first use
	Layers                                  []Layer
	OutputNorm                              []float32 // Dim values
	Output                                  Linear
	Embedding                               int      // index in Tensors
	Tensors                                 []Tensor // in order of their first use, see Model.Linears

	Tokenizer [32]byte // hash of the tokenizer; zero if the model has none
	Template  [32]byte // SHA-256 of the chat template; zero if there is none
}

// Linears calls yield for every matrix of the model in the order that the
// tensors stand in: layer by layer q, k, v, o and then gate, up, down, or the
// router and each expert's gate, up, down, or of a memory block gate, query and
// keys if it has them, and down; the output last. What is no matrix: the
// embedding is used before all of them, and a memory block's table before its
// down.
func (m *Model) Linears(yield func(*Linear) bool) {
	for i := range m.Layers {
		y := &m.Layers[i]
		ls := []*Linear{&y.Q, &y.K, &y.V, &y.O}
		switch {
		case y.Memory != nil && m.Rules[y.Memory.Rule].Product != nil:
			ls = append(ls, &y.Gate, &y.Memory.Query, &y.Memory.Keys, &y.Down)
		case y.Memory != nil:
			ls = append(ls, &y.Gate, &y.Down)
		case y.Experts == nil:
			ls = append(ls, &y.Gate, &y.Up, &y.Down)
		default:
			ls = append(ls, &y.Router)
			for e := range y.Experts {
				x := &y.Experts[e]
				ls = append(ls, &x.Gate, &x.Up, &x.Down)
			}
		}
		for _, l := range ls {
			if !yield(l) {
				return
			}
		}
	}
	yield(&m.Output)
}
