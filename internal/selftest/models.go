package selftest

import (
	"bytes"
	"fmt"
	"math/rand/v2"

	"github.com/geistnet/geist/arith"
	"github.com/geistnet/geist/internal/gguf"
	"github.com/geistnet/geist/internal/synth"
)

// subject is a model under test.
type subject struct {
	name string
	spec synth.Spec
}

// subjects are small: one token costs some ten to some hundred thousand
// products. Every format of weights occurs, and every family that package
// synth makes. Vocabularies are no multiples of what a kernel computes at once.
func subjects() []subject {
	base := synth.Spec{Dim: 64, Layers: 2, Heads: 4, KVHeads: 2, FF: 96, Vocab: 300, Context: 512}
	floats := synth.Spec{Dim: 48, Layers: 2, Heads: 3, KVHeads: 1, FF: 80, Vocab: 309, Context: 512}
	wide := synth.Spec{Dim: 256, Layers: 1, Heads: 4, KVHeads: 1, FF: 256, Vocab: 300, Context: 512} // K formats have blocks of 256
	var list []subject
	add := func(arch, kind string, s synth.Spec) {
		s.Arch, s.Type, s.Seed = arch, kind, uint64(len(list))+1
		list = append(list, subject{arch + "-" + kind, s})
	}
	add("llama", "q8_0", base)
	add("llama", "q4_0", base)
	add("mistral3", "q5_0", base)
	add("qwen3", "q5_1", base)
	add("llama", "iq4_nl", base)
	tied := base
	tied.Tied = true
	add("qwen2", "q4_1", tied)
	add("llama", "f16", floats)
	add("llama", "f32", floats)
	add("qwen3", "bf16", floats)
	mixture := base
	mixture.Experts, mixture.Used, mixture.FF = 8, 3, 32
	add("qwen3moe", "q8_0", mixture)
	add("gemma2", "q4_0", tied)
	layered := floats
	layered.Layers, layered.Tied = 6, true // the sixth sees everything
	add("gemma3", "f16", layered)
	for _, kind := range []string{"q2_k", "q3_k", "q5_k", "q6_k", "q4_k_m"} {
		add("llama", kind, wide)
	}
	memory := base
	memory.Layers, memory.Tied, memory.FF = 3, true, 288
	memory.Memory = &synth.Memory{
		Rules: []string{"hash", "product", ""}, HashHeads: 2, HashRows: 101, ProductHeads: 2, Keys: 19, KeyDim: 32, TopK: 5,
	}
	add("geist", "f16", memory)
	add("geist", "q8_0", memory)
	return list
}

// file makes the model's GGUF file.
func (s subject) file() ([]byte, error) {
	var b bytes.Buffer
	if err := synth.Write(&b, s.spec, nil); err != nil {
		return nil, fmt.Errorf("make model %s: %w", s.name, err)
	}
	return b.Bytes(), nil
}

// slow reports that a token takes several times as long as with the others.
func (s subject) slow() bool { return s.spec.Dim >= 256 }

func parse(s subject, b []byte) (*gguf.File, error) {
	f, err := gguf.Parse("model "+s.name, b)
	if err != nil {
		return nil, fmt.Errorf("read model %s: %w", s.name, err)
	}
	return f, nil
}

// stream is one sequence to compute: a prompt and the number of tokens to
// generate after it.
type stream struct {
	prompt   []int32
	steps    int
	sampling arith.Sampling
}

// workload is what all runs of one model and round compute.
type workload []stream

// positions are the tokens that a workload generates.
func (w workload) positions() int64 {
	n := 0
	for _, s := range w {
		n += s.steps
	}
	return int64(n)
}

// workloadOf gives round 0, whose logits the golden hashes are of: prompts that
// end before, on and behind the borders of pages of 64 and windows of 96
// positions, some with a common beginning. Later rounds have many short
// prompts, so that nearly all positions are generated ones.
func workloadOf(s subject, round int) workload {
	r := rand.New(rand.NewPCG(s.spec.Seed, uint64(round)))
	tokens := func(n int) []int32 {
		p := make([]int32, n)
		for i := range p {
			p[i] = int32(3 + r.IntN(s.spec.Vocab-3))
		}
		return p
	}
	var w workload
	add := func(prompt []int32, steps int) {
		t := stream{prompt: prompt, steps: steps}
		i := len(w)
		t.sampling.Seed = [32]byte{byte(i), byte(round), byte(round >> 8)}
		switch i % 8 {
		case 0, 6: // the largest logit that was not chosen before: else small models repeat themselves
			t.sampling.RepeatLast, t.sampling.PresencePenalty = 512, 100
		case 1:
			t.sampling.Temperature = 1
		case 3:
			t.sampling.Temperature, t.sampling.TopK = 30, 200
		case 4:
			t.sampling.Temperature = 30
		case 5:
			t.sampling.Temperature, t.sampling.TopP = 20, 0.95
		case 7:
			t.sampling.Temperature, t.sampling.RepeatLast, t.sampling.RepeatPenalty = 10, 16, 1.2
		}
		w = append(w, t)
	}
	if round == 0 {
		shared := tokens(70)
		lengths := []int{1, 17, 64, 90, 3, 40}
		if s.slow() {
			lengths = []int{1, 71, 3}
		}
		for _, n := range lengths {
			p := tokens(n)
			if n > 64 {
				p = append(append([]int32(nil), shared[:66]...), p[66:]...)
			}
			add(p, 12)
		}
		add(shared, 12)
		return w
	}
	streams, steps := 48, 64
	if s.slow() {
		streams, steps = 24, 24
	}
	for range streams {
		add(tokens(1+r.IntN(4)), steps)
	}
	return w
}
