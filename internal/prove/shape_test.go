package prove

import (
	"bytes"
	"context"
	"os"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/geistnet/geist/arith"
	"github.com/geistnet/geist/audit"
	"github.com/geistnet/geist/ghost"
	"github.com/geistnet/geist/internal/author"
	"github.com/geistnet/geist/internal/gguf"
	"github.com/geistnet/geist/internal/hashmany"
	"github.com/geistnet/geist/internal/kernel"
	"github.com/geistnet/geist/internal/model"
	"github.com/geistnet/geist/internal/synth"
	"github.com/geistnet/geist/merkle"
)

// TestShape measures proofs and fraud proofs of a random model of the width of an
// 8-billion one (4096, 14,336 hidden, 32 and 8 heads, 128,256 tokens, Q8_0) with 4
// layers. It picks challenges with as few cells in the first layer, which are
// smaller, as one of 32 layers would have. What 32 layers add are hashes: 3 for
// each position and each cached head opened, and fewer siblings shared. It takes
// 5 GB of memory and minutes: only if GEIST_SHAPE is set.
func TestShape(t *testing.T) {
	if os.Getenv("GEIST_SHAPE") == "" {
		t.Skip("GEIST_SHAPE is not set")
	}
	s := synth.Presets["8b"]
	s.Layers, s.Vocab, s.Type, s.Tied = 4, 128256, "q8_0", true
	var b bytes.Buffer
	if err := synth.Write(&b, s, nil); err != nil {
		t.Fatal(err)
	}
	f, err := gguf.Parse("8b shape", b.Bytes())
	if err != nil {
		t.Fatal(err)
	}
	for _, x := range f.Tensors() {
		if strings.Contains(x.Name, "norm") { // as models trained with bfloat16 have them
			for j := 0; j < len(x.Data); j += 4 {
				x.Data[j], x.Data[j+1] = 0, 0
			}
		}
	}
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
	n := NewNode(m, g, f, team, 256)
	shapeFraud(t, n)

	sampling := arith.Sampling{Temperature: 0.8, TopK: 40, TopP: 0.95}
	run := answer(t, n, prompt(1, 752), 16, sampling)
	x, err := n.Replay(run, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	if run.Outline, err = x.Outline(); err != nil {
		t.Fatal(err)
	}
	if run.Trace, err = x.Root(); err != nil {
		t.Fatal(err)
	}
	const standsFor = 32 // layers
	sizes(t, n, run, standsFor)
	for _, size := range []audit.Size{audit.Standard, {Cells: 8, Tails: 2, Full: 1}} {
		ch := size.Challenge([32]byte{})
		for i := 0; ; i++ {
			ch.Seed[0], ch.Seed[1], ch.Seed[2] = byte(i), byte(i>>8), byte(i>>16)
			if firstLayer(ch, run) == size.Cells/standsFor && ch.Whole() == 0 {
				break
			}
		}
		proof, err := n.Prove(run, ch)
		if err != nil {
			t.Fatal(err)
		}
		best := [2]time.Duration{time.Hour, time.Hour}
		var rep *audit.Report
		procs := runtime.GOMAXPROCS(1) // else a collector of this test's garbage on another processor counts too
		for range 60 {
			for i, h := range []merkle.Hasher{merkle.Plain{}, hashmany.New()} {
				run.Hasher = h
				begin := cpu()
				if rep, err = audit.Verify(run, ch, proof); err != nil {
					t.Fatal(err)
				}
				best[i] = min(best[i], cpu()-begin)
			}
		}
		runtime.GOMAXPROCS(procs)
		more := 3 * 32 * (2*size.Cells + size.Tails + 2*size.Cells) // positions, and heads of keys and columns
		t.Logf("c = %d: proof %d bytes %+v, with the hashes of 32 layers at most %d; verified in %.2f ms of processor time, with the hasher %v in %.2f", size.Cells, len(proof), rep.Bytes, len(proof)+more, 1e3*best[0].Seconds(), hashmany.New(), 1e3*best[1].Seconds())
	}
}

// shapeFraud measures the two largest fraud proofs.
func shapeFraud(t *testing.T, n *Node) {
	run := answer(t, n, prompt(2, 60), 4, arith.Sampling{})
	honest, err := n.NewParty(run)
	if err != nil {
		t.Fatal(err)
	}
	if run.Trace, err = honest.Root(); err != nil {
		t.Fatal(err)
	}
	good := seal(t, run, audit.Standard, ghost.Nonce{2}).Receipt
	at, l := run.Positions()-2, 2
	y := n.Ghost.Layout(l, at)
	for _, v := range []ghost.Value{ghost.RawQuery, ghost.RawKey, ghost.Hidden} {
		sp, off := y.Span(v, 0), 100
		if v == ghost.Hidden {
			off = sp.Bytes/36*4 + 40 // a code
		}
		leaf := sp.First + off/sp.Full
		data, err := honest.Leaf(at, l, leaf)
		if err != nil {
			t.Fatal(err)
		}
		data = bytes.Clone(data)
		data[off%sp.Full] ^= 1
		liar := &patched{honest, at, l, leaf, data}
		theirs := *run
		theirs.Trace = traceOf(run, liar)
		bad := seal(t, &theirs, audit.Standard, ghost.Nonce{2}).Receipt
		out, err := Dispute(run, [32]byte{3}, [2]Side{{good, honest}, {bad, liar}})
		if err != nil || out.Guilty != 1 || out.Conviction == nil {
			t.Fatalf("value %v: %v %+v", v, err, out)
		}
		t.Logf("fraud proof of value %v: %d bytes, %d of them weights", v, len(out.Fraud), out.Conviction.Weights)
	}
}
