package prove

import (
	"bytes"
	"context"
	"errors"
	"maps"
	"math/rand/v2"
	"testing"

	"github.com/geistnet/geist/arith"
	"github.com/geistnet/geist/audit"
	"github.com/geistnet/geist/internal/author"
	"github.com/geistnet/geist/internal/gguf"
	"github.com/geistnet/geist/internal/kernel"
	"github.com/geistnet/geist/internal/model"
	"github.com/geistnet/geist/internal/synth"
)

func newNode(t testing.TB, spec synth.Spec, path kernel.Path, threads, batch int) *Node {
	t.Helper()
	var b bytes.Buffer
	if err := synth.Write(&b, spec, nil); err != nil {
		t.Fatal(err)
	}
	f, err := gguf.Parse("test model", b.Bytes())
	if err != nil {
		t.Fatal(err)
	}
	g, err := author.Build(context.Background(), f, author.Options{}, nil)
	if err != nil {
		t.Fatal(err)
	}
	team := kernel.NewTeam(threads)
	m, err := model.Load(f, model.Options{Path: path, Team: team})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { team.Close(); m.Close() })
	return NewNode(m, g, f, team, batch)
}

// answer makes an honest answer by decoding token by token.
func answer(t testing.TB, n *Node, prompt []int32, length int, s arith.Sampling) *audit.Run {
	t.Helper()
	st := n.Model.NewState(n.team, len(prompt))
	var c model.Cache
	for range (len(prompt)+length)/model.PagePositions + 1 {
		c.Pages = append(c.Pages, make([]byte, n.Model.PageBytes()))
	}
	history := append([]int32(nil), prompt...)
	var sampler arith.Sampler
	at := 0
	for i := range length {
		out, err := st.Forward([]model.Segment{{Cache: &c, Start: at, Tokens: history[at:], Before: history[:at], Logits: model.Last}})
		if err != nil {
			t.Fatal(err)
		}
		at = len(history)
		history = append(history, sampler.Sample(out[0], &s, history, uint64(i), nil))
	}
	return &audit.Run{Model: n.Ghost, Prompt: prompt, Answer: history[len(prompt):], Sampling: s}
}

func prompt(seed uint64, n int) []int32 {
	r := rand.New(rand.NewPCG(seed, 99))
	p := make([]int32, n)
	for i := range p {
		p[i] = int32(3 + r.IntN(500))
	}
	return p
}

func specs() map[string]synth.Spec {
	tiny := func(kind, arch string) synth.Spec {
		s := synth.Presets["tiny"]
		s.Type, s.Arch = kind, arch
		return s
	}
	moe := tiny("q8_0", "qwen3moe")
	moe.Experts, moe.Used = 8, 3
	gemma := tiny("q4_0", "gemma3")
	gemma.Layers, gemma.Tied = 7, true
	geist := tiny("f16", "geist")
	geist.Layers, geist.Tied, geist.FF = 3, true, 192
	geist.Memory = &synth.Memory{Rules: []string{"hash", "product", ""}, HashHeads: 2, HashRows: 61, ProductHeads: 2, Keys: 19, KeyDim: 32, TopK: 5}
	geist8 := geist
	geist8.Type = "q8_0"
	k := tiny("q4_k_m", "llama")
	k.Dim, k.FF, k.HeadDim = 256, 512, 64
	return map[string]synth.Spec{"geist f16": geist, "geist q8_0": geist8, "llama q8_0": tiny("q8_0", "llama"), "llama f32": tiny("f32", "llama"), "llama q4_k_m": k,
		"qwen3moe q8_0": moe, "gemma3 q4_0": gemma, "gemma2 f16": func() synth.Spec { s := tiny("f16", "gemma2"); s.Tied = true; return s }()}
}

// Honest runs are accepted, on every path, and roots do not depend on path,
// threads or chunks.
func TestHonest(t *testing.T) {
	for name, spec := range specs() {
		t.Run(name, func(t *testing.T) {
			var root [32]byte
			for i, p := range kernel.Paths() {
				n := newNode(t, spec, p, 1+i, []int{512, 33, 7, 64}[i])
				s := arith.Sampling{Temperature: 0.8, TopP: 0.95}
				s.Seed[0] = 5
				run := answer(t, n, prompt(1, 90), 60, s)
				x, err := n.Replay(run, nil, nil)
				if err != nil {
					t.Fatal(err)
				}
				if run.Trace, err = x.Root(); err != nil {
					t.Fatal(err)
				}
				if i == 0 {
					root = run.Trace
				} else if root != run.Trace {
					t.Fatalf("%v: another root", p)
				}
				for seed := range 2 {
					ch := audit.Challenge{Seed: [32]byte{byte(seed), byte(i)}, Cells: 24, Tails: 4, Full: 4}
					proof, err := n.Prove(run, ch)
					if err != nil {
						t.Fatal(err)
					}
					rep, err := audit.Verify(run, ch, proof)
					if err != nil {
						t.Fatal(err)
					}
					if rep.Counts.Cells != 24 || rep.Counts.Draws != ch.Whole() || rep.Counts.Hidden != 24 || rep.Counts.Projections != 72 {
						t.Errorf("counts %+v", rep.Counts)
					}
					const head = 14 + 3*4
					if b := rep.Bytes; head+b.Values+b.Logits+b.Cache+b.Rows+b.Hashes != len(proof) || b.Values == 0 || b.Logits == 0 || b.Cache == 0 || b.Rows == 0 || b.Hashes == 0 {
						t.Errorf("%d bytes are said to be %+v", len(proof), b)
					}
				}
			}
		})
	}
}

// With an outline only what is opened is hashed, and the proof is the same; with
// a wrong one the proof is refused.
func TestOutline(t *testing.T) {
	for name, spec := range specs() {
		t.Run(name, func(t *testing.T) {
			n := newNode(t, spec, kernel.Best(), 2, 30)
			run := answer(t, n, prompt(6, 80), 50, arith.Sampling{})
			x, err := n.Replay(run, nil, nil)
			if err != nil {
				t.Fatal(err)
			}
			o, err := x.Outline()
			if err != nil {
				t.Fatal(err)
			}
			if run.Trace, err = o.Root(run.Prompt, run.Answer); err != nil {
				t.Fatal(err)
			}
			if root, err := x.Root(); err != nil || root != run.Trace {
				t.Fatalf("the root is %v, that of the outline %v: %v", root, run.Trace, err)
			}
			ch := audit.Challenge{Seed: [32]byte{4}, Cells: 6, Tails: 5, Full: 4}
			want, err := n.Prove(run, ch)
			if err != nil {
				t.Fatal(err)
			}
			run.Outline = o
			got, err := n.Prove(run, ch)
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(got, want) {
				t.Error("another proof with the outline")
			}
			if _, err := audit.Verify(run, ch, got); err != nil {
				t.Error(err)
			}
			layers, tails := ch.Touches(run)
			touched := map[int]bool{}
			for k := range layers {
				touched[k[0]] = true
			}
			maps.Copy(touched, tails)
			for at := range o.Positions {
				if touched[at] {
					continue
				}
				o.Positions[at][3] ^= 1
				if bad, err := n.Prove(run, ch); err != nil {
					t.Error(err)
				} else if _, err := audit.Verify(run, ch, bad); err == nil {
					t.Errorf("accepted with another root of position %d", at)
				}
				break
			}
			o.Positions = o.Positions[1:]
			if _, err := n.Prove(run, ch); err == nil {
				t.Error("an outline of another length is accepted")
			}
		})
	}
}

// Every byte of a proof matters, and nothing can be added or cut off.
func TestAlteredProof(t *testing.T) {
	n := newNode(t, specs()["qwen3moe q8_0"], kernel.Best(), 1, 64)
	run := answer(t, n, prompt(2, 40), 20, arith.Sampling{})
	x, err := n.Replay(run, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	if run.Trace, err = x.Root(); err != nil {
		t.Fatal(err)
	}
	ch := audit.Challenge{Cells: 2, Tails: 1, Full: 1}
	for ch.Whole() == 0 {
		ch.Seed[1]++
	}
	proof, err := n.Prove(run, ch)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := audit.Verify(run, ch, proof); err != nil {
		t.Fatal(err)
	}
	r := rand.New(rand.NewPCG(1, 2))
	for range 500 {
		i := r.IntN(len(proof))
		bad := bytes.Clone(proof)
		bad[i] ^= 1 << r.IntN(8)
		if _, err := audit.Verify(run, ch, bad); err == nil {
			t.Fatalf("a flipped bit in byte %d of %d is accepted", i, len(proof))
		}
	}
	for _, bad := range [][]byte{nil, proof[:len(proof)-1], proof[:len(proof)-32], append(bytes.Clone(proof), make([]byte, 32)...), proof[:100]} {
		if _, err := audit.Verify(run, ch, bad); err == nil {
			t.Fatalf("a proof of %d bytes is accepted", len(bad))
		}
	}
	other := *run
	other.Answer = append([]int32(nil), run.Answer...)
	other.Answer[3]++
	var f *audit.Failure
	if _, err := audit.Verify(&other, ch, proof); err == nil {
		t.Error("another answer is accepted")
	} else {
		errors.As(err, &f)
	}
	ch.Seed[0] = 1
	if _, err := audit.Verify(run, ch, proof); err == nil {
		t.Error("another challenge is accepted")
	}
}
