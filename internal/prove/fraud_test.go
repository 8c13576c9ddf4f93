package prove

import (
	"bytes"
	"context"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/geistnet/geist/arith"
	"github.com/geistnet/geist/audit"
	"github.com/geistnet/geist/ghost"
	"github.com/geistnet/geist/internal/author"
	"github.com/geistnet/geist/internal/gguf"
	"github.com/geistnet/geist/internal/kernel"
	"github.com/geistnet/geist/internal/model"
	"github.com/geistnet/geist/merkle"
)

// patched is an honest prover with one leaf of position t, layer l altered.
type patched struct {
	audit.Prover
	t, l, leaf int
	data       []byte
}

func (p *patched) Leaf(t, l, i int) ([]byte, error) {
	if t == p.t && l == p.l && i == p.leaf {
		return p.data, nil
	}
	return p.Prover.Leaf(t, l, i)
}

func (p *patched) LeafHashes(t, l int) ([]merkle.Hash, error) {
	h, err := p.Prover.LeafHashes(t, l)
	if err == nil && t == p.t && l == p.l {
		h[p.leaf] = merkle.HashLeaf(p.data)
	}
	return h, err
}

func (p *patched) LayerRoots(t int) ([]merkle.Hash, error) {
	h, err := p.Prover.LayerRoots(t)
	if err == nil && t == p.t {
		leaves, _ := p.LeafHashes(t, p.l)
		h[p.l] = rootOf(leaves)
	}
	return h, err
}

func (p *patched) PositionRoots() ([]merkle.Hash, error) {
	h, err := p.Prover.PositionRoots()
	if err == nil {
		roots, _ := p.LayerRoots(p.t)
		h[p.t] = rootOf(roots)
	}
	return h, err
}

func traceOf(run *audit.Run, p audit.Prover) merkle.Hash {
	a, _ := p.PositionRoots()
	b, _ := p.CacheRoots()
	return ghost.TraceRoot(run.Prompt, run.Answer, rootOf(a), rootOf(b))
}

// TestFraudSizes measures fraud proofs of a large model, the GGUF file that
// GEIST_MEASURE names: one lie for each kind of value, late in 768 positions.
func TestFraudSizes(t *testing.T) {
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
	n := NewNode(m, g, f, team, 256)
	run := &audit.Run{Model: g, Prompt: prompt(5, 512), Answer: prompt(6, 257)}
	begin := time.Now()
	honest, err := n.NewParty(run)
	if err != nil {
		t.Fatal(err)
	}
	if run.Trace, err = honest.Root(); err != nil {
		t.Fatal(err)
	}
	t.Logf("one replay: %v", time.Since(begin))
	good := seal(t, run, audit.Standard, ghost.Nonce{2}).Receipt
	at, l := run.Positions()-2, len(g.Layers)/2
	y := g.Layout(l, at)
	type lie struct {
		name string
		v    ghost.Value
		off  int // byte
		xor  byte
	}
	scales := y.Span(ghost.AttnOut, 0).Bytes / 36 * 4
	hidden := y.Span(ghost.Hidden, 0).Bytes / 36 * 4
	for _, x := range []lie{{"query", ghost.RawQuery, 100, 1}, {"key", ghost.RawKey, 100, 1}, {"largest score", ghost.MaxScore, 8, 1}, {"weight", ghost.Weights, 100, 1},
		{"attention code", ghost.AttnOut, scales + 40, 1}, {"attention scale", ghost.AttnOut, 8, 1}, {"mid", ghost.ResidMid, 1000, 1},
		{"hidden code", ghost.Hidden, hidden + 40, 1}, {"hidden scale", ghost.Hidden, 8, 1}, {"out", ghost.ResidOut, 1000, 1}} {
		sp := y.Span(x.v, 0)
		leaf := sp.First + x.off/sp.Full
		data, err := honest.Leaf(at, l, leaf)
		if err != nil {
			t.Fatal(err)
		}
		data = bytes.Clone(data)
		data[x.off%sp.Full] ^= x.xor
		liar := &patched{honest, at, l, leaf, data}
		theirs := *run
		theirs.Trace = traceOf(run, liar)
		bad := seal(t, &theirs, audit.Standard, ghost.Nonce{2}).Receipt
		out, err := Dispute(run, [32]byte{3}, [2]Side{{good, honest}, {bad, liar}})
		if err != nil || out.Guilty != 1 || out.Conviction == nil {
			t.Fatalf("%s: %v %+v", x.name, err, out)
		}
		var times []time.Duration
		for range 21 {
			begin := time.Now()
			if _, err := audit.VerifyFraud(good.Model, bad, out.Fraud); err != nil {
				t.Fatal(err)
			}
			times = append(times, time.Since(begin))
		}
		slices.Sort(times)
		t.Logf("%-16s %-18v %d rounds, %6d bytes in all, fraud proof %5d bytes (%d of weights), verified in %v median, %v at most",
			x.name, out.Conviction.Claim.Relation, out.Rounds, out.Bytes, len(out.Fraud), out.Conviction.Weights, times[10], times[20])
	}
}

// fraudOf is a fraud proof against a node that changed one byte, with both receipts.
func fraudOf(t testing.TB, name string, seed uint64) (fraud []byte, bad, good *ghost.Receipt, honest *forged, run *audit.Run) {
	t.Helper()
	n := newNode(t, specs()[name], kernel.Best(), 1, 64)
	run = answer(t, n, prompt(3, 20), 6, arith.Sampling{})
	honest = copyOf(t, n, run)
	run.Trace = honest.root()
	good = seal(t, run, audit.Standard, ghost.Nonce{2}).Receipt
	liar := copyFrom(honest.Prover.(*Execution), run)
	liar.forge(rand.New(rand.NewPCG(seed, 1)))
	lie := *run
	lie.Trace = liar.root()
	bad = seal(t, &lie, audit.Standard, ghost.Nonce{2}).Receipt
	out, err := Dispute(run, [32]byte{3}, [2]Side{{good, honest}, {bad, liar}})
	if err != nil || out.Guilty != 1 {
		t.Fatal(out, err)
	}
	return out.Fraud, bad, good, honest, run
}

// TestNobodyHonest tries to convict honest nodes: of every relation at random
// places, and by altered proofs against others.
func TestNobodyHonest(t *testing.T) {
	claims, altered := 0, 0
	for i, name := range []string{"llama q8_0", "llama f32", "llama q4_k_m", "qwen3moe q8_0", "gemma3 q4_0", "gemma2 f16", "geist f16", "geist q8_0"} {
		fraud, bad, good, honest, run := fraudOf(t, name, uint64(i))
		id := good.Model
		r := rand.New(rand.NewPCG(uint64(i), 9))
		for j := range 600 {
			c := audit.Claim{Relation: audit.Relation(2 + j%20), Position: r.IntN(run.Positions()), Layer: r.IntN(len(run.Model.Layers)), Index: r.IntN(1 + 7*(j%2)), Element: r.IntN(1 + r.IntN(512))}
			if c.Relation == audit.LogitElement {
				c.Layer = 0
			}
			if _, err := audit.BuildFraud(run, c, honest, honest); err == nil {
				t.Fatalf("%s: %+v convicts an honest node", name, c)
			} else if bytes.Contains([]byte(err.Error()), []byte("no fraud")) {
				claims++ // it made sense, and the relation holds
			}
		}
		for range 500 {
			b := bytes.Clone(fraud)
			for range 1 + r.IntN(3) {
				b[r.IntN(len(b))] ^= 1 << r.IntN(8)
			}
			if r.IntN(10) == 0 {
				b = b[:r.IntN(len(b))]
			}
			if _, err := audit.VerifyFraud(id, good, b); err == nil {
				t.Fatal("an altered proof convicts an honest node")
			}
			if c, err := audit.VerifyFraud(id, bad, b); err == nil && !bytes.Equal(b, fraud) {
				t.Fatalf("an altered proof is accepted: %v", c)
			}
			altered++
		}
		if _, err := audit.VerifyFraud(id, bad, fraud); err != nil {
			t.Fatal(err)
		}
		if _, err := audit.VerifyFraud(id, bad, append(bytes.Clone(fraud), 0)); err == nil {
			t.Fatal("a byte more is accepted")
		}
	}
	if claims < 500 {
		t.Errorf("only %d claims made sense", claims)
	}
	t.Logf("%d claims against honest nodes, %d altered proofs", claims, altered)
}

// TestOtherTokens convicts who signed a trace of other tokens than the receipt's.
func TestOtherTokens(t *testing.T) {
	_, _, good, honest, run := fraudOf(t, "llama q8_0", 1)
	p, _ := honest.PositionRoots()
	c, _ := honest.CacheRoots()
	other := slices.Clone(run.Prompt)
	other[0]++
	tokens := rootOf(ghost.TokenHashes(other, run.Answer))
	lie := *run
	lie.Trace = ghost.TraceTop(len(run.Prompt), len(run.Answer), tokens, rootOf(p), rootOf(c))
	bad := seal(t, &lie, audit.Standard, ghost.Nonce{2}).Receipt
	liar := &retold{honest, ghost.TokenHashes(other, run.Answer)}
	for guilty := range 2 {
		sides := [2]Side{{good, honest}, {good, honest}}
		sides[guilty] = Side{bad, liar}
		out, err := Dispute(run, [32]byte{3}, sides)
		if err != nil || out.Guilty != guilty || out.Conviction == nil || out.Conviction.Claim.Relation != audit.TokenList {
			t.Fatalf("%+v, %v", out, err)
		}
		for i := range out.Fraud {
			b := bytes.Clone(out.Fraud)
			b[i] ^= 1
			if _, err := audit.VerifyFraud(good.Model, bad, b); err == nil {
				t.Fatalf("byte %d altered, and accepted", i)
			}
		}
		if _, err := audit.VerifyFraud(good.Model, good, out.Fraud); err == nil {
			t.Fatal("the honest one is convicted")
		}
	}
}

type retold struct {
	audit.Prover
	tokens []merkle.Hash
}

func (p *retold) TokenHashes() []merkle.Hash { return slices.Clone(p.tokens) }

// TestBreach: who contradicts its own commitment in a descent, or has no answer
// that fits it, has lost.
func TestBreach(t *testing.T) {
	_, bad, good, honest, run := fraudOf(t, "llama q8_0", 1)
	for guilty := range 2 {
		sides := [2]Side{{good, honest}, {good, honest}}
		sides[guilty] = Side{bad, honest} // opens what it did not sign
		out, err := Dispute(run, [32]byte{3}, sides)
		if err != nil || out.Breach == nil || out.Guilty != guilty {
			t.Fatalf("%+v, %v", out, err)
		}
	}
	if _, err := Dispute(run, [32]byte{3}, [2]Side{{good, honest}, {good, honest}}); err == nil {
		t.Error("equal roots are disputed")
	}
}

// TestGoldenFraud demands that a lie is proven by the same bytes as ever; package
// audit tests that it still verifies them.
func TestGoldenFraud(t *testing.T) {
	for i, name := range []string{"llama q8_0", "qwen3moe q8_0"} {
		fraud, bad, _, _, _ := fraudOf(t, name, uint64(4+i))
		for ext, b := range map[string][]byte{".fraud": fraud, ".receipt": bad.Encode()} {
			path := filepath.Join("../../audit/testdata", strings.Fields(name)[0]+ext)
			if *update {
				if err := os.WriteFile(path, b, 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(b, want) {
				t.Errorf("%s differs from what is made now", path)
			}
		}
	}
}
