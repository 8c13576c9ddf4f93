package prove

import (
	"bytes"
	"context"
	"maps"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"syscall"
	"testing"
	"time"

	"github.com/geistnet/geist/arith"
	"github.com/geistnet/geist/audit"
	"github.com/geistnet/geist/ghost"
	"github.com/geistnet/geist/internal/author"
	"github.com/geistnet/geist/internal/gguf"
	"github.com/geistnet/geist/internal/kernel"
	"github.com/geistnet/geist/internal/model"
)

// cpu is the processor time of this process so far.
func cpu() time.Duration {
	var u syscall.Rusage
	if syscall.Getrusage(syscall.RUSAGE_SELF, &u) != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// seal makes the run file of a run whose trace is known, as a provider and an
// asker together would.
func seal(t testing.TB, run *audit.Run, size audit.Size, nonce ...ghost.Nonce) *audit.RunFile {
	t.Helper()
	nonce = append(nonce, ghost.Nonce{2}) // of the audit, if none is given
	f := &audit.RunFile{Answer: run.Answer, Size: size, SeedNonce: ghost.Nonce{1}, AuditNonce: nonce[0]}
	f.Request = &ghost.Request{Salt: [32]byte{3}, Prompt: run.Prompt, Sampling: run.Sampling, MaxTokens: len(run.Answer)}
	f.Request.Sampling.Seed = [32]byte{}
	f.Receipt = &ghost.Receipt{Time: 1, Model: run.Model.ID(), Arithmetic: arith.Version, Request: f.Request.Hash(),
		Prompt: ghost.HashTokens(f.Request.Salt, run.Prompt), Answer: ghost.HashTokens(f.Request.Salt, run.Answer), Finish: ghost.FinishLength, SeedRule: ghost.SeedRule1,
		SeedNonce: ghost.CommitSeed(f.SeedNonce), AuditNonce: ghost.CommitAudit(f.AuditNonce), Trace: run.Trace, Grade: ghost.GhostAudited}
	secret := ghost.Secret{31: 7}
	k, err := secret.Public()
	if err != nil {
		t.Fatal(err)
	}
	f.Receipt.Client = k
	if err := f.Receipt.Sign(secret); err != nil {
		t.Fatal(err)
	}
	return f
}

// seedOf is the sampler's seed in a run file that seal makes of such a run.
func seedOf(m *ghost.Model, prompt []int32, length int, s arith.Sampling) [32]byte {
	q := &ghost.Request{Salt: [32]byte{3}, Prompt: prompt, Sampling: s, MaxTokens: length}
	q.Sampling.Seed = [32]byte{}
	return ghost.Seed(ghost.Nonce{1}, q.Hash(), m.ID())
}

// TestMeasure measures proofs of a large model: the GGUF file that
// GEIST_MEASURE names. With GEIST_MEASURE_OUT it leaves the files there.
func TestMeasure(t *testing.T) {
	path := os.Getenv("GEIST_MEASURE")
	if path == "" {
		t.Skip("GEIST_MEASURE names no model file")
	}
	f, err := gguf.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	g, err := author.Build(context.Background(), f, author.Options{}, nil)
	if err != nil {
		t.Fatal(err)
	}
	team := kernel.NewTeam(runtime.NumCPU())
	defer team.Close()
	m, err := model.Load(f, model.Options{Path: kernel.Best(), Team: team})
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	n := NewNode(m, g, f, team, 512)
	const prompts, answers = 512, 256
	s := arith.Sampling{Temperature: 0.8, TopK: 40, TopP: 0.95}
	p := prompt(1, prompts)
	s.Seed = seedOf(g, p, answers, s)
	run := answer(t, n, p, answers, s)

	// A prefill without a trace, of all positions, and without logits.
	tokens := append(append([]int32(nil), run.Prompt...), run.Answer...)[:run.Positions()]
	st := n.Model.NewState(n.team, 512)
	var c model.Cache
	for range len(tokens)/model.PagePositions + 1 {
		c.Pages = append(c.Pages, make([]byte, n.Model.PageBytes()))
	}
	begin, used := time.Now(), cpu()
	for at := 0; at < len(tokens); at += 512 {
		if _, err := st.Forward([]model.Segment{{Cache: &c, Start: at, Tokens: tokens[at:min(at+512, len(tokens))], Logits: model.None}}); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("prefill of %d positions: %.2f s (cpu %.2f s)", len(tokens), time.Since(begin).Seconds(), (cpu() - used).Seconds())
	begin, used = time.Now(), cpu()
	x, err := n.Replay(run, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	if run.Trace, err = x.Root(); err != nil {
		t.Fatal(err)
	}
	if run.Outline, err = x.Outline(); err != nil {
		t.Fatal(err)
	}
	t.Logf("replay and root: %.2f s (cpu %.2f s)", time.Since(begin).Seconds(), (cpu() - used).Seconds())
	sizes(t, n, run, len(run.Model.Layers))
	for i, want := range []struct {
		size  audit.Size
		whole int
	}{ // the first is with cold trees of weights
		{audit.Standard, 0}, {audit.Standard, 0}, {audit.Standard, 1}, {audit.Size{Cells: 8, Tails: 2, Full: 1}, 0}, {audit.Size{Cells: 8, Tails: 2, Full: 1}, 1},
	} {
		size := want.size
		file := seal(t, run, size)
		for k := byte(3); file.Challenge().Whole() != want.whole; k++ {
			file = seal(t, run, size, ghost.Nonce{k})
		}
		ch := file.Challenge()
		begin, used = time.Now(), cpu()
		proof, err := n.Prove(run, ch)
		if err != nil {
			t.Fatal(err)
		}
		opened := time.Since(begin)
		openedCPU := cpu() - used
		best, bestCPU := time.Hour, time.Hour
		var rep *audit.Report
		for range 30 {
			begin, used = time.Now(), cpu()
			if rep, err = audit.Verify(run, ch, proof); err != nil {
				t.Fatal(err)
			}
			best, bestCPU = min(best, time.Since(begin)), min(bestCPU, cpu()-used)
		}
		t.Logf("%d: c = %d, %d opened whole: proof %d bytes %+v; opened in %.2f s (cpu %.2f s), verified in %.2f ms (cpu %.2f ms)",
			i, size.Cells, ch.Whole(), len(proof), rep.Bytes, opened.Seconds(), openedCPU.Seconds(), 1e3*best.Seconds(), 1e3*bestCPU.Seconds())
		if dir := os.Getenv("GEIST_MEASURE_OUT"); dir != "" {
			rb, err := file.Encode()
			if err != nil {
				t.Fatal(err)
			}
			gb, err := ghost.Encode(g)
			if err != nil {
				t.Fatal(err)
			}
			for name, b := range map[string][]byte{"run": rb, "ghost": gb, "proof": proof} {
				if err := os.WriteFile(filepath.Join(dir, string(rune('0'+i))+"."+name), bytes.Clone(b), 0o600); err != nil {
					t.Fatal(err)
				}
			}
		}
	}
}

// firstLayer is how many cells of a challenge are in the first layer, whose input
// is the embedding. Those whose neighbour in the second is drawn too are not counted.
func firstLayer(ch audit.Challenge, run *audit.Run) (n int) {
	layers, _ := ch.Touches(run)
	for k := range layers {
		if k[1] == 0 && !layers[[2]int{k[0], 1}] {
			n++
		}
	}
	return n
}

// sizes reports how large proofs are over many challenges: what is drawn decides
// how many rows the checks of scales open. Of a model that stands for one of so
// many layers it takes challenges with as few cells in the first layer as those of
// that one have on average.
func sizes(t *testing.T, n *Node, run *audit.Run, standsFor int) {
	layers, tails := map[[2]int]bool{}, map[int]bool{}
	var of [2][]audit.Challenge
	for i, cells := range []int{8, 32} {
		for seed := range 40 {
			ch := audit.Challenge{Seed: [32]byte{byte(seed), byte(cells)}, Cells: cells, Tails: 2 + i*2, Full: 1}
			first := (seed+1)*cells/standsFor - seed*cells/standsFor
			for standsFor != len(run.Model.Layers) && firstLayer(ch, run) != first {
				if ch.Seed[2]++; ch.Seed[2] == 0 {
					ch.Seed[3]++
				}
			}
			of[i] = append(of[i], ch)
			l, x := ch.Touches(run)
			maps.Copy(layers, l)
			maps.Copy(tails, x)
		}
	}
	x, err := n.replay(run, run.Outline, func(pos, layer int) bool { return layers[[2]int{pos, layer}] }, func(pos int) bool { return tails[pos] })
	if err != nil {
		t.Fatal(err)
	}
	for i, cells := range []int{8, 32} {
		var with [2][]int // by tails opened whole
		for _, ch := range of[i] {
			proof, err := audit.Prove(run, ch, x)
			if err != nil {
				t.Fatal(err)
			}
			with[ch.Whole()] = append(with[ch.Whole()], len(proof))
		}
		var mean [2]float64
		for whole, all := range with {
			sum := 0
			for _, n := range all {
				sum += n
			}
			mean[whole] = float64(sum) / float64(len(all))
			t.Logf("c = %d, %d opened whole: %d proofs of %d to %d bytes, %.0f on average", cells, whole, len(all), slices.Min(all), slices.Max(all), mean[whole])
		}
		t.Logf("c = %d: %.0f bytes on average, of which one in %d opens a tail whole", cells, mean[0]+(mean[1]-mean[0])/audit.FullOneIn, audit.FullOneIn)
	}
}
