package sat

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"flag"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/geistnet/geist/arith"
	"github.com/geistnet/geist/merkle"
)

var updateTransition = flag.Bool("update-transition", false, "write testdata/transition.golden anew")

var testAdam = Adam{LR: 0.01, Beta1: 0.9, Beta2: 0.999, Eps: 1e-8, WeightDecay: 0.1}

// made is a transition of k rows in a table of n, and the state before it.
func made(t testing.TB, n uint64, k int, rule UpdateRule) (*Transition, State) {
	t.Helper()
	r := rand.New(rand.NewPCG(n, uint64(k)))
	s := State{Shape: Shape{Rows: n, Format: arith.F32, Dim: 3, Moments: rule.Kind == AdamStep}, Commit: 41}
	size := s.Shape.RecordBytes()
	records := make([]byte, int(n)*size)
	for i := 0; i+4 <= len(records); i += 4 {
		binary.LittleEndian.PutUint32(records[i:], math.Float32bits(r.Float32()))
	}
	if s.Shape.Moments {
		for i := range int(n) {
			binary.LittleEndian.PutUint32(records[(i+1)*size-4:], r.Uint32N(1000))
		}
	}
	leaves := make([]merkle.Hash, n)
	for i := range leaves {
		leaves[i] = merkle.HashLeaf(records[i*size : (i+1)*size])
	}
	tree := merkle.FromLeaves(slices.Clone(leaves), merkle.Plain{})
	tr := &Transition{Shape: s.Shape, Rule: rule, Commit: 42}
	for _, i := range r.Perm(int(n))[:k] {
		tr.IDs = append(tr.IDs, uint64(i))
	}
	slices.Sort(tr.IDs)
	each, err := rule.updateBytes(s.Shape)
	if err != nil {
		t.Fatal(err)
	}
	var after []merkle.Hash
	for _, id := range tr.IDs {
		old := records[int(id)*size : int(id+1)*size]
		update := make([]byte, each)
		for i := 0; i+4 <= each; i += 4 {
			binary.LittleEndian.PutUint32(update[i:], math.Float32bits(r.Float32()-0.5))
		}
		fresh := make([]byte, size)
		if err := rule.Apply(s.Shape, fresh, old, update); err != nil {
			t.Fatal(err)
		}
		after = append(after, merkle.HashLeaf(fresh))
		tr.Records, tr.Updates = append(tr.Records, old...), append(tr.Updates, update...)
	}
	if s.Root, err = tree.Root(); err != nil {
		t.Fatal(err)
	}
	if tr.Proof, err = tree.Prove(tr.IDs); err != nil {
		t.Fatal(err)
	}
	if err := tree.Update(tr.IDs, after); err != nil {
		t.Fatal(err)
	}
	tr.Before = s.Root
	if tr.After, err = tree.Root(); err != nil {
		t.Fatal(err)
	}
	return tr, s
}

var testRules = []UpdateRule{{}, {Kind: AdamStep, Adam: testAdam}}

func TestTransition(t *testing.T) {
	for _, rule := range testRules {
		for _, n := range []uint64{1, 2, 5, 64, 100} {
			for k := 1; k <= int(min(n, 12)); k++ {
				tr, s := made(t, n, k, rule)
				got, err := tr.Verify(s, rule)
				if err != nil {
					t.Fatal(err)
				}
				if want := (State{s.Shape, 42, tr.After}); got != want {
					t.Fatalf("state %v, want %v", got, want)
				}
				b, err := tr.Encode()
				if err != nil {
					t.Fatal(err)
				}
				back, err := DecodeTransition(b)
				if err != nil {
					t.Fatal(err)
				}
				if _, err := back.Verify(s, rule); err != nil {
					t.Fatal(err)
				}
			}
		}
	}
}

// forged reports whether bytes that are not the honest transition are taken.
// Another gradient that rounds to the very same records is no forgery, because it leads
// where it says; counted are these.
func forged(b []byte, honest *Transition, s State, rounds *int) bool {
	tr, err := DecodeTransition(b)
	if err != nil {
		return false
	}
	if _, err := tr.Verify(s, honest.Rule); err != nil {
		return false
	}
	return !sameStep(tr, honest, rounds)
}

// sameStep reports whether only gradients differ and lead to equal records.
func sameStep(tr, honest *Transition, rounds *int) bool {
	if honest.Rule.Kind != AdamStep || !slices.Equal(tr.IDs, honest.IDs) || !bytes.Equal(tr.Records, honest.Records) ||
		bytes.Equal(tr.Updates, honest.Updates) || len(tr.Updates) != len(honest.Updates) {
		return false
	}
	size, each := tr.Shape.RecordBytes(), 4*tr.Shape.Dim
	a, b := make([]byte, size), make([]byte, size)
	for i := range tr.IDs {
		old := tr.Records[i*size : (i+1)*size]
		if tr.Rule.Apply(tr.Shape, a, old, tr.Updates[i*each:(i+1)*each]) != nil ||
			honest.Rule.Apply(tr.Shape, b, old, honest.Updates[i*each:(i+1)*each]) != nil || !bytes.Equal(a, b) {
			return false
		}
	}
	*rounds++
	return true
}

// TestForgedBytes flips each bit of transitions, cuts them everywhere and adds to them.
func TestForgedBytes(t *testing.T) {
	tried, rounds := 0, 0
	for _, rule := range testRules {
		for _, size := range [][2]int{{1, 1}, {7, 3}, {100, 10}} {
			tr, s := made(t, uint64(size[0]), size[1], rule)
			b, err := tr.Encode()
			if err != nil {
				t.Fatal(err)
			}
			for i := range b {
				for bit := range 8 {
					c := slices.Clone(b)
					c[i] ^= 1 << bit
					tried++
					if forged(c, tr, s, &rounds) {
						t.Fatalf("kind %d, %d of %d rows: bit %d of byte %d does not matter", rule.Kind, size[1], size[0], bit, i)
					}
				}
				tried++
				if forged(b[:i], tr, s, &rounds) {
					t.Fatalf("cut to %d bytes", i)
				}
			}
			for _, more := range []int{1, 4, 32, 64} {
				tried++
				if forged(append(slices.Clone(b), make([]byte, more)...), tr, s, &rounds) {
					t.Fatalf("%d bytes follow", more)
				}
			}
		}
	}
	if tried < 30000 || rounds > 200 {
		t.Errorf("%d forgeries, want 30000; %d gradients rounded away, want at most 200", tried, rounds)
	}
	t.Logf("%d forgeries, all refused; beside them %d gradients that round to the same step", tried-rounds, rounds)
}

// TestForged changes transitions as somebody would who gains by it.
func TestForged(t *testing.T) {
	tried, rounds := 0, 0
	for _, rule := range testRules {
		for seed := range uint64(400) {
			r := rand.New(rand.NewPCG(seed, 17))
			n := 2 + r.Uint64N(60)
			k := 1 + r.IntN(int(min(n-1, 9)))
			tr, s := made(t, n, k, rule)
			size, each := tr.Shape.RecordBytes(), len(tr.Updates)/k
			refuse := func(what string, change func(*Transition)) {
				t.Helper()
				c := *tr
				c.IDs, c.Records, c.Updates, c.Proof = slices.Clone(tr.IDs), slices.Clone(tr.Records), slices.Clone(tr.Updates), slices.Clone(tr.Proof)
				change(&c)
				tried++
				if _, err := c.Verify(s, rule); err == nil && !sameStep(&c, tr, &rounds) {
					t.Fatalf("%s: taken (%d of %d rows, kind %d)", what, k, n, rule.Kind)
				}
			}
			x := r.IntN(k)
			refuse("another commit", func(c *Transition) { c.Commit++ })
			refuse("commit 0", func(c *Transition) { c.Commit = 0 })
			refuse("another shape", func(c *Transition) { c.Shape.Rows++ })
			refuse("another old root", func(c *Transition) { c.Before[r.IntN(32)] ^= 1 })
			refuse("another new root", func(c *Transition) { c.After[r.IntN(32)] ^= 1 })
			refuse("nothing happened", func(c *Transition) { c.After = c.Before })
			refuse("another row", func(c *Transition) {
				for slices.Contains(tr.IDs, c.IDs[x]) {
					c.IDs[x] = r.Uint64N(n)
				}
				slices.Sort(c.IDs)
			})
			refuse("a row beyond the end", func(c *Transition) { c.IDs[k-1] = n })
			refuse("a row left out", func(c *Transition) {
				c.IDs = slices.Delete(c.IDs, x, x+1)
				c.Records = slices.Delete(c.Records, x*size, (x+1)*size)
				c.Updates = slices.Delete(c.Updates, x*each, (x+1)*each)
			})
			refuse("a row twice", func(c *Transition) {
				c.IDs = slices.Insert(c.IDs, x, c.IDs[x])
				c.Records = slices.Insert(c.Records, x*size, c.Records[x*size:(x+1)*size]...)
				c.Updates = slices.Insert(c.Updates, x*each, c.Updates[x*each:(x+1)*each]...)
			})
			refuse("another record", func(c *Transition) { c.Records[r.IntN(len(c.Records))] ^= 1 << r.IntN(8) })
			refuse("another update", func(c *Transition) { c.Updates[r.IntN(len(c.Updates))] ^= 1 << r.IntN(8) })
			refuse("updates cut", func(c *Transition) { c.Updates = c.Updates[:len(c.Updates)-1] })
			refuse("no update", func(c *Transition) { clear(c.Updates[x*each : (x+1)*each]) })
			if k > 1 {
				y := (x + 1) % k
				refuse("rows exchanged", func(c *Transition) { c.IDs[x], c.IDs[y] = c.IDs[y], c.IDs[x] })
				refuse("records exchanged", func(c *Transition) {
					copy(c.Records[x*size:(x+1)*size], tr.Records[y*size:(y+1)*size])
					copy(c.Records[y*size:(y+1)*size], tr.Records[x*size:(x+1)*size])
				})
				refuse("updates exchanged", func(c *Transition) {
					copy(c.Updates[x*each:(x+1)*each], tr.Updates[y*each:(y+1)*each])
					copy(c.Updates[y*each:(y+1)*each], tr.Updates[x*each:(x+1)*each])
				})
			}
			if m := len(tr.Proof); m > 0 {
				refuse("another hash", func(c *Transition) { c.Proof[r.IntN(m)][r.IntN(32)] ^= 1 << r.IntN(8) })
				refuse("a hash less", func(c *Transition) { c.Proof = c.Proof[1:] })
				refuse("a hash more", func(c *Transition) { c.Proof = append(c.Proof, c.Proof[0]) })
			}
			if rule.Kind == AdamStep {
				refuse("another step of the row", func(c *Transition) { c.Records[(x+1)*size-4]++ })
				refuse("another rate", func(c *Transition) { c.Rule.Adam.LR *= 2 })
				for _, f := range []func(*Adam) *float32{
					func(a *Adam) *float32 { return &a.LR }, func(a *Adam) *float32 { return &a.Beta1 }, func(a *Adam) *float32 { return &a.Beta2 },
					func(a *Adam) *float32 { return &a.Eps }, func(a *Adam) *float32 { return &a.WeightDecay },
				} {
					// The liar says so in both places, as if the verifier had no rule of its own.
					other := rule
					*f(&other.Adam) *= 0.75
					c := *tr
					c.Rule = other
					tried++
					if _, err := c.Verify(s, rule); err == nil {
						t.Fatal("parameters were not compared")
					}
				}
			} else {
				refuse("another kind", func(c *Transition) { c.Rule = UpdateRule{Kind: AdamStep, Adam: testAdam} })
			}
			for _, other := range []State{{s.Shape, s.Commit + 1, s.Root}, {s.Shape, s.Commit, tr.After}, {Shape{n + 1, arith.F32, 3, s.Shape.Moments}, s.Commit, s.Root}} {
				tried++
				if _, err := tr.Verify(other, rule); err == nil {
					t.Fatalf("taken from another state, %v", other)
				}
			}
		}
	}
	if tried < 15000 || rounds > 50 {
		t.Errorf("%d forgeries, want 15000; %d gradients rounded away, want at most 50", tried, rounds)
	}
	t.Logf("%d forgeries, all refused; beside them %d gradients that round to the same step", tried-rounds, rounds)
}

// TestForgedStep: a liar with a record of its own makes new roots by hand. Whatever it
// takes as the new record but the true one, the verifier refuses.
func TestForgedStep(t *testing.T) {
	rule := testRules[1]
	tr, s := made(t, 50, 4, rule)
	size := tr.Shape.RecordBytes()
	before, after, err := tr.leaves()
	if err != nil {
		t.Fatal(err)
	}
	fresh := make([]byte, size)
	if err := rule.Apply(s.Shape, fresh, tr.Records[:size], tr.Updates[:12]); err != nil {
		t.Fatal(err)
	}
	for i := range size * 8 {
		lie := slices.Clone(fresh)
		lie[i/8] ^= 1 << (i % 8)
		hashes := slices.Clone(after)
		hashes[0] = merkle.HashLeaf(lie)
		c := *tr
		if _, c.After, err = merkle.RootsOf(50, tr.IDs, before, hashes, tr.Proof); err != nil {
			t.Fatal(err)
		}
		if _, err := c.Verify(s, rule); err == nil {
			t.Fatalf("took a step whose bit %d is another", i)
		}
	}
}

// adamSlow is the step in the words of docs/spec/sat.md §6, one element.
func adamSlow(a Adam, w, m, v, g float32, step uint32) (float32, float32, float32) {
	power := func(beta float32) float32 {
		r, s := 1.0, float64(beta)
		for bits := step; bits > 0; bits /= 2 {
			if bits%2 == 1 {
				r = float64(r * s)
			}
			s = float64(s * s)
		}
		return float32(1 - r)
	}
	x := float32(a.Beta1 * m)
	y := float32((1 - a.Beta1) * g)
	m = x + y
	x = float32(a.Beta2 * v)
	y = float32(g * g)
	y = float32((1 - a.Beta2) * y)
	v = x + y
	root := float32(math.Sqrt(float64(v / power(a.Beta2))))
	x = m / power(a.Beta1)
	x = x / (root + a.Eps)
	y = float32(a.WeightDecay * w)
	x = x + y
	x = float32(a.LR * x)
	return w - x, m, v
}

func TestAdam(t *testing.T) {
	r := rand.New(rand.NewPCG(6, 6))
	const n = 1000
	w, m, v, g := make([]float32, n), make([]float32, n), make([]float32, n), make([]float32, n)
	for i := range w {
		w[i] = float32(r.NormFloat64())
	}
	want := slices.Clone(w)
	wm, wv := make([]float32, n), make([]float32, n)
	exact := make([]float64, n) // Adam in float64: the step is near it
	em, ev := make([]float64, n), make([]float64, n)
	for i := range exact {
		exact[i] = float64(w[i])
	}
	for step := uint32(1); step <= 200; step++ {
		for i := range g {
			g[i] = float32(r.NormFloat64())
			want[i], wm[i], wv[i] = adamSlow(testAdam, want[i], wm[i], wv[i], g[i], step)
			b1, b2, gi := float64(testAdam.Beta1), float64(testAdam.Beta2), float64(g[i])
			em[i], ev[i] = b1*em[i]+(1-b1)*gi, b2*ev[i]+(1-b2)*gi*gi
			c1, c2 := 1-math.Pow(b1, float64(step)), 1-math.Pow(b2, float64(step))
			exact[i] -= float64(testAdam.LR) * (em[i]/c1/(math.Sqrt(ev[i]/c2)+float64(testAdam.Eps)) + float64(testAdam.WeightDecay)*exact[i])
		}
		if err := testAdam.Step(w, m, v, g, step); err != nil {
			t.Fatal(err)
		}
		if !slices.Equal(w, want) || !slices.Equal(m, wm) || !slices.Equal(v, wv) {
			t.Fatalf("step %d differs from the definition", step)
		}
	}
	for i := range w {
		if math.Abs(float64(w[i])-exact[i]) > 1e-4 {
			t.Fatalf("element %d is %v, in float64 %v", i, w[i], exact[i])
		}
	}
}

func TestAdamRefuses(t *testing.T) {
	nan, inf := float32(math.NaN()), float32(math.Inf(1))
	one := func() []float32 { return []float32{1} }
	for _, g := range []float32{nan, inf, -inf, math.MaxFloat32} {
		if testAdam.Step(one(), one(), one(), []float32{g}, 1) == nil {
			t.Errorf("took gradient %v", g)
		}
	}
	for _, bad := range [][3]float32{{nan, 0, 0}, {0, inf, 0}, {0, 0, -1}, {0, 0, nan}} {
		if testAdam.Step([]float32{bad[0]}, []float32{bad[1]}, []float32{bad[2]}, one(), 1) == nil {
			t.Errorf("took values %v", bad)
		}
	}
	if testAdam.Step(one(), one(), one(), one(), 0) == nil {
		t.Error("took step 0")
	}
	if testAdam.Step(one(), one(), one(), []float32{1, 2}, 1) == nil || testAdam.Step(one(), nil, one(), one(), 1) == nil {
		t.Error("took slices of several lengths")
	}
	for _, a := range []Adam{
		{LR: nan, Eps: 1}, {LR: -1, Eps: 1}, {Beta1: 1, Eps: 1}, {Beta2: 1.5, Eps: 1}, {}, {Eps: inf}, {Eps: 1, WeightDecay: nan},
	} {
		if a.Step(one(), one(), one(), one(), 1) == nil {
			t.Errorf("took %+v", a)
		}
	}
	record := make([]byte, 16)
	binary.LittleEndian.PutUint32(record[12:], math.MaxUint32)
	if testAdam.Record(record, record, one()) == nil {
		t.Error("counted beyond the last step")
	}
	if testAdam.Record(record[:12], record[:12], one()) == nil {
		t.Error("took a short record")
	}
}

// TestTransitionGolden: the bytes do not change unseen.
func TestTransitionGolden(t *testing.T) {
	var got strings.Builder
	for _, rule := range testRules {
		tr, s := made(t, 7, 2, rule)
		b, err := tr.Encode()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := tr.Verify(s, rule); err != nil {
			t.Fatal(err)
		}
		got.WriteString(hex.EncodeToString(b) + "\n")
	}
	path := filepath.Join("testdata", "transition.golden")
	if *updateTransition {
		if err := os.MkdirAll("testdata", 0o777); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(got.String()), 0o666); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if got.String() != string(want) {
		t.Errorf("transitions are other bytes than before:\n%s", got.String())
	}
}

func FuzzTransition(f *testing.F) {
	for _, rule := range testRules {
		tr, _ := made(f, 7, 2, rule)
		b, err := tr.Encode()
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
		f.Add(b[:len(b)-32])
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		tr, err := DecodeTransition(b)
		if err != nil {
			return
		}
		again, err := tr.Encode()
		if err != nil {
			t.Fatalf("decoded, but not encoded: %v", err)
		}
		if !bytes.Equal(again, b) {
			t.Fatal("two encodings of one transition")
		}
		_, _ = tr.Verify(State{tr.Shape, tr.Commit - 1, tr.Before}, tr.Rule) // it must end and not panic
	})
}
