package audit

import (
	"bytes"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/geistnet/geist/arith"
	"github.com/geistnet/geist/ghost"
)

// golden reads a fraud proof and the receipt that it convicts.
func golden(t testing.TB, name string) (fraud []byte, r *ghost.Receipt) {
	t.Helper()
	fraud, err := os.ReadFile(filepath.Join("testdata", name+".fraud"))
	if err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(filepath.Join("testdata", name+".receipt"))
	if err != nil {
		t.Fatal(err)
	}
	if r, err = ghost.ParseReceipt(b); err != nil {
		t.Fatal(err)
	}
	return fraud, r
}

// TestFraudBytes alters every byte of two fraud proofs, and cuts them anywhere.
func TestFraudBytes(t *testing.T) {
	for _, name := range []string{"llama", "qwen3moe"} {
		fraud, r := golden(t, name)
		c, err := VerifyFraud(r.Model, r, fraud)
		if err != nil {
			t.Fatal(err)
		}
		t.Logf("%s: %v (%d bytes)", name, c, c.Bytes)
		for i := range fraud {
			b := bytes.Clone(fraud)
			b[i] ^= 1 << (i % 8)
			if _, err := convict(r.Model, r, b); err == nil {
				t.Fatalf("%s: byte %d of %d altered, and accepted", name, i, len(fraud))
			}
			if _, err := convict(r.Model, r, fraud[:i]); err == nil {
				t.Fatalf("%s: the first %d of %d bytes are accepted", name, i, len(fraud))
			}
		}
		if _, err := convict(r.Model, r, append(bytes.Clone(fraud), 0)); err == nil {
			t.Fatal("a byte more is accepted")
		}
		if _, err := VerifyFraud(ghost.ID{1}, r, fraud); err == nil {
			t.Error("another model id is accepted")
		}
		for _, alter := range []func(*ghost.Receipt){
			func(r *ghost.Receipt) { r.Trace[0]++ }, func(r *ghost.Receipt) { r.Provider[0]++ }, func(r *ghost.Receipt) { r.Signature[0]++ },
			func(r *ghost.Receipt) { r.Prompt.Count++ }, func(r *ghost.Receipt) { r.Grade = ghost.GhostSound },
		} {
			x := *r
			alter(&x)
			if _, err := VerifyFraud(r.Model, &x, fraud); err == nil {
				t.Error("an altered receipt is convicted")
			}
		}
	}
}

// FuzzFraud reads hostile claims and openings under a right excerpt of the
// Ghost file. Nothing may be accepted but the proof itself.
func FuzzFraud(f *testing.F) {
	var starts, rests [2][]byte
	var receipts [2]*ghost.Receipt
	for i, name := range []string{"llama", "qwen3moe"} {
		fraud, r := golden(f, name)
		c, err := ClaimOf(fraud)
		if err != nil {
			f.Fatal(err)
		}
		head := len(fraudMagic) + claimBytes
		_, rest, err := unpack(fraud[head:])
		if err != nil {
			f.Fatal(err)
		}
		starts[i], rests[i], receipts[i] = fraud[head:len(fraud)-len(rest)], rest, r
		f.Add(byte(i), byte(c.Relation), uint32(c.Position), uint32(c.Layer), uint32(c.Index), uint32(c.Element), rest)
		for k := range relations {
			f.Add(byte(i), byte(k), uint32(c.Position), uint32(c.Layer), uint32(0), uint32(1), rest)
		}
	}
	f.Fuzz(func(t *testing.T, which, relation byte, position, layer, index, element uint32, rest []byte) {
		i := which % 2
		c := Claim{Relation(relation), int(position), int(layer), int(index), int(element)}
		b := bytes.Join([][]byte{[]byte(fraudMagic), c.encode(), starts[i], rest}, nil)
		got, err := convict(receipts[i].Model, receipts[i], b)
		if err == nil && !bytes.Equal(rest, rests[i]) {
			t.Fatalf("accepted: %v", got)
		}
	})
}

func BenchmarkVerifyFraud(b *testing.B) {
	fraud, r := golden(b, "qwen3moe")
	for b.Loop() {
		if _, err := VerifyFraud(r.Model, r, fraud); err != nil {
			b.Fatal(err)
		}
	}
}

// Who signs a receipt and writes a proof chooses numbers; none of them makes a
// verifier work or allocate more than the proof's bytes pay for.
func TestFraudBounds(t *testing.T) {
	fraud, r := golden(t, "llama")
	long := *r
	long.Prompt.Count = 1 << 30
	if _, err := convict(r.Model, &long, fraud); err == nil || !strings.Contains(err.Error(), "exceeds the model's context") {
		t.Errorf("a run of a billion positions: %v", err)
	}
	m := &ghost.Model{Heads: 4096, KVHeads: 1, KeyDim: 1, ValDim: 1, Dim: 4096, FF: 1, Context: 1 << 30, Tensors: make([]ghost.Tensor, 1), Layers: make([]ghost.Layer, 1)}
	ref := newReferee(m, 1<<30, 1, nil, func(ghost.Part) error { return nil })
	for _, c := range []struct {
		t  int
		ok bool
	}{{0, true}, {1 << 17, true}, {1 << 20, false}, {1<<30 - 1, false}} {
		y, err := ref.layout(c.t, 0)
		if (err == nil) != c.ok {
			t.Errorf("a layout at position %d: %v", c.t, err)
		}
		if c.ok && y.Len() > maxLayerLeaves+16 {
			t.Errorf("%d leaves at position %d", y.Len(), c.t)
		}
	}
}

// zeros opens every item as zeros, and counts their bytes.
type zeros struct{ bytes int }

func (z *zeros) item(n int) ([]byte, error) {
	z.bytes += n
	return make([]byte, n), nil
}

func (z *zeros) leaf(_, _, _, n int) ([]byte, error)   { return z.item(n) }
func (z *zeros) tail(_, _, n int) ([]byte, error)      { return z.item(n) }
func (z *zeros) root(_, _ int) ([]byte, error)         { return z.item(32) }
func (z *zeros) key(_, _, _, n int) ([]byte, error)    { return z.item(n) }
func (z *zeros) column(_, _, _, n int) ([]byte, error) { return z.item(n) }
func (z *zeros) tokens(_, n int) ([]byte, error)       { return z.item(n) }
func (z *zeros) row(_, _, n int) ([]byte, error)       { return z.item(n) }

// The weights of a head are decoded once, however many of them are looked at.
func TestScoreReachedOnce(t *testing.T) {
	const n = 1 << 12
	m := &ghost.Model{Heads: 1, KVHeads: 1, KeyDim: 2, ValDim: 1, Dim: 4, FF: 1, Context: n, KV: arith.KVF16, AttnScale: 1,
		Ropes: []arith.Rope{{Turn: []uint64{1}, Magnitude: 1}}, Tensors: make([]ghost.Tensor, 1), Layers: make([]ghost.Layer, 1)}
	z := &zeros{}
	r := newReferee(m, n, 1, z, func(ghost.Part) error { return nil })
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	err := r.check(Claim{Relation: ScoreReached, Position: n - 1})
	runtime.ReadMemStats(&after)
	if err == nil || !strings.Contains(err.Error(), "no position of head 0 has weight 1") {
		t.Errorf("a head whose weights are all 0: %v", err)
	}
	if took := after.TotalAlloc - before.TotalAlloc; took > uint64(100*z.bytes) {
		t.Errorf("%d bytes of items took %d bytes of memory", z.bytes, took)
	}
}
