package lab

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"math"
	"math/rand/v2"

	"github.com/geistnet/geist/arith"
	"github.com/geistnet/geist/audit"
	"github.com/geistnet/geist/ghost"
	"github.com/geistnet/geist/internal/author"
	"github.com/geistnet/geist/internal/gguf"
	"github.com/geistnet/geist/internal/kernel"
	"github.com/geistnet/geist/internal/model"
	"github.com/geistnet/geist/internal/prove"
	"github.com/geistnet/geist/internal/quant"
	"github.com/geistnet/geist/internal/synth"
)

// subject is a model under attack, with a node that repeats runs of it.
type subject struct {
	g    *ghost.Model
	f    *gguf.File
	m    *model.Model
	team *kernel.Team
	node *prove.Node
}

// shapes are the models that are attacked. Their weights are random: what is
// checked does not depend on what they say.
func shapes() map[string]synth.Spec {
	tiny := func(kind, arch string) synth.Spec {
		s := synth.Presets["tiny"]
		s.Type, s.Arch, s.Layers, s.Seed = kind, arch, 4, 1
		return s
	}
	moe := tiny("q8_0", "qwen3moe")
	moe.Layers, moe.Experts, moe.Used, moe.FF = 3, 8, 3, 64
	gemma := tiny("q4_0", "gemma3")
	gemma.Tied = true
	other := tiny("q8_0", "llama")
	other.Seed = 2
	memory := tiny("f16", "geist")
	memory.Tied = true
	memory.Memory = &synth.Memory{Rules: []string{"hash", "product"}, HashHeads: 2, HashRows: 61, ProductHeads: 2, Keys: 19, KeyDim: 32, TopK: 5}
	return map[string]synth.Spec{
		"llama": tiny("q8_0", "llama"), "llama q4_0": tiny("q4_0", "llama"), "llama f32": tiny("f32", "llama"),
		"another llama": other, "mixture": moe, "gemma": gemma, "memory": memory,
	}
}

// shapeNames are the keys of shapes in the order in which honest runs use them.
var shapeNames = [...]string{"llama", "llama q4_0", "llama f32", "mixture", "gemma", "memory"}

// newSubject makes a model that runs on a kernel path with a number of threads
// and reads up to batch tokens at once.
func newSubject(spec synth.Spec, path kernel.Path, threads, batch int) (*subject, error) {
	var b bytes.Buffer
	if err := synth.Write(&b, spec, nil); err != nil {
		return nil, err
	}
	f, err := gguf.Parse("a model of the laboratory", b.Bytes())
	if err != nil {
		return nil, err
	}
	g, err := author.Build(context.Background(), f, author.Options{}, nil)
	if err != nil {
		return nil, err
	}
	team := kernel.NewTeam(threads)
	m, err := model.Load(f, model.Options{Path: path, Team: team})
	if err != nil {
		team.Close()
		return nil, err
	}
	return &subject{g, f, m, team, prove.NewNode(m, g, f, team, batch)}, nil
}

func (s *subject) close() {
	s.team.Close()
	s.m.Close()
}

// rows reads rows of weights.
type rows func(tensor, row int) ([]byte, error)

func (s *subject) row(tensor, row int) ([]byte, error) {
	g := &s.g.Tensors[tensor]
	t := s.f.Tensor(g.Name)
	if t == nil || row < 0 || row >= g.Rows {
		return nil, fmt.Errorf("tensor %q has no row %d", g.Name, row)
	}
	n := g.Format.RowBytes(g.Cols)
	return t.Data[row*n:][:n:n], nil
}

// requantised are s's weights after a way through a smaller format.
func (s *subject) requantised(f arith.Format) rows {
	type key struct{ tensor, row int }
	done := map[key][]byte{}
	return func(tensor, row int) ([]byte, error) {
		k := key{tensor, row}
		if b := done[k]; b != nil {
			return b, nil
		}
		b, err := s.row(tensor, row)
		if err != nil {
			return nil, err
		}
		g := &s.g.Tensors[tensor]
		if g.Format == arith.F32 { // norms and routers
			return b, nil
		}
		x := make([]float32, g.Cols)
		arith.Dequantize(x, g.Format, b)
		small, out := make([]byte, f.RowBytes(g.Cols)), make([]byte, len(b))
		if err := quant.Row(small, f, x); err != nil {
			return nil, err
		}
		arith.Dequantize(x, f, small)
		if err := quant.Row(out, g.Format, x); err != nil {
			return nil, err
		}
		done[k] = out
		return out, nil
	}
}

// convicts runs an answer again on an honest node and reports whether its
// trace root or any token that the sampler gives is another.
func (s *subject) convicts(run *audit.Run) (bool, error) {
	x, err := s.node.Replay(run, nil, func(int) bool { return true })
	if err != nil {
		return false, err
	}
	root, err := x.Root()
	if err != nil || root != run.Trace {
		return true, err
	}
	history := append([]int32(nil), run.Prompt...)
	for a, id := range run.Answer {
		var b []byte
		for i := range s.g.TailLeaves() {
			leaf, err := x.Tail(len(run.Prompt)-1+a, i)
			if err != nil {
				return false, err
			}
			b = append(b, leaf...)
		}
		l := make([]float32, s.g.Vocab)
		for i := range l {
			l[i] = math.Float32frombits(binary.LittleEndian.Uint32(b[4*i:]))
		}
		if sample(l, &run.Sampling, history, a) != id {
			return true, nil
		}
		history = append(history, id)
	}
	return false, nil
}

func drawPrompt(r *rand.Rand, n int) []int32 {
	p := make([]int32, n)
	for i := range p {
		p[i] = int32(3 + r.IntN(500))
	}
	return p
}
