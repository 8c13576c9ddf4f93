package prove

import (
	"bytes"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/geistnet/geist/arith"
	"github.com/geistnet/geist/audit"
	"github.com/geistnet/geist/ghost"
	"github.com/geistnet/geist/internal/kernel"
	"github.com/geistnet/geist/merkle"
)

// forged is a trace in memory of which anything can be altered.
type forged struct {
	audit.Prover // rows
	run          *audit.Run
	leaves       map[[2]int][][]byte
	tails        map[int][][]byte
	keys, cols   map[[2]int][][]byte
	roots        map[int][]merkle.Hash // of layers; filled when nothing more is altered
	tops, caches []merkle.Hash         // likewise
}

func copyOf(t testing.TB, n *Node, run *audit.Run) *forged {
	t.Helper()
	x, err := n.Replay(run, func(int, int) bool { return true }, func(int) bool { return true })
	if err != nil {
		t.Fatal(err)
	}
	return copyFrom(x, run)
}

func copyFrom(x *Execution, run *audit.Run) *forged {
	f := &forged{Prover: x, run: run, leaves: map[[2]int][][]byte{}, tails: map[int][][]byte{}, keys: map[[2]int][][]byte{}, cols: map[[2]int][][]byte{}, roots: map[int][]merkle.Hash{}}
	clone := func(b [][]byte) [][]byte {
		c := make([][]byte, len(b))
		for i := range b {
			c[i] = bytes.Clone(b[i])
		}
		return c
	}
	for k, v := range x.leaves {
		f.leaves[k] = clone(v)
	}
	for k, v := range x.tails {
		f.tails[k] = clone(v)
	}
	m := run.Model
	for l := range m.Layers {
		for h := range m.KVHeads {
			k, v := x.node.Model.CacheLeaves(&x.cache, l, h, run.Positions())
			f.keys[[2]int{l, h}], f.cols[[2]int{l, h}] = clone(k), clone(v)
		}
	}
	return f
}

func (f *forged) Leaf(t, l, i int) ([]byte, error)   { return f.leaves[[2]int{t, l}][i], nil }
func (f *forged) Tail(t, i int) ([]byte, error)      { return f.tails[t][i], nil }
func (f *forged) Key(l, g, t int) ([]byte, error)    { return f.keys[[2]int{l, g}][t], nil }
func (f *forged) Column(l, g, d int) ([]byte, error) { return f.cols[[2]int{l, g}][d], nil }
func (f *forged) LeafHashes(t, l int) ([]merkle.Hash, error) {
	return hashes(f.leaves[[2]int{t, l}]), nil
}
func (f *forged) TailHashes(t int) ([]merkle.Hash, error)   { return hashes(f.tails[t]), nil }
func (f *forged) KeyHashes(l, g int) ([]merkle.Hash, error) { return hashes(f.keys[[2]int{l, g}]), nil }
func (f *forged) ColumnHashes(l, g int) ([]merkle.Hash, error) {
	return hashes(f.cols[[2]int{l, g}]), nil
}

func rootOf(h []merkle.Hash) merkle.Hash {
	r, err := merkle.FromLeaves(h, merkle.Plain{}).Root()
	if err != nil {
		panic(err)
	}
	return r
}

func (f *forged) LayerRoots(t int) ([]merkle.Hash, error) {
	if f.roots[t] != nil {
		return slices.Clone(f.roots[t]), nil
	}
	var out []merkle.Hash
	for l := range f.run.Model.Layers {
		out = append(out, rootOf(hashes(f.leaves[[2]int{t, l}])))
	}
	if f.tails[t] == nil {
		return append(out, merkle.Hash{}), nil
	}
	return append(out, rootOf(hashes(f.tails[t]))), nil
}

func (f *forged) PositionRoots() (out []merkle.Hash, err error) {
	if f.tops != nil {
		return slices.Clone(f.tops), nil
	}
	for t := range f.run.Positions() {
		h, _ := f.LayerRoots(t)
		out = append(out, rootOf(h))
	}
	return out, nil
}

func (f *forged) CacheRoots() (out []merkle.Hash, err error) {
	if f.caches != nil {
		return slices.Clone(f.caches), nil
	}
	for l := range f.run.Model.Layers {
		for g := range f.run.Model.KVHeads {
			out = append(out, rootOf(hashes(f.keys[[2]int{l, g}])), rootOf(hashes(f.cols[[2]int{l, g}])))
		}
	}
	return out, nil
}

// root is the trace root; nothing is altered after it was asked for.
func (f *forged) root() merkle.Hash {
	for t := range f.run.Positions() {
		f.roots[t], _ = f.LayerRoots(t)
	}
	p, _ := f.PositionRoots()
	c, _ := f.CacheRoots()
	f.tops, f.caches = slices.Clone(p), slices.Clone(c)
	return ghost.TraceRoot(f.run.Prompt, f.run.Answer, rootOf(p), rootOf(c))
}

// flip alters an element of size e that holds byte i of b.
func flip(r *rand.Rand, b []byte, i, e int) {
	for old := bytes.Clone(b); bytes.Equal(old, b); {
		at := i / e * e
		switch r.IntN(3) {
		case 0: // the least bit
			b[at] ^= 1
		case 1: // any bit
			b[at+r.IntN(min(e, len(b)-at))] ^= 1 << r.IntN(8)
		case 2: // another value of the same kind
			j := r.IntN(len(b)) / e * e
			copy(b[at:min(at+e, len(b))], old[j:])
		}
		if len(b) <= e && bytes.Equal(old, b) {
			b[at] ^= 1
		}
	}
}

// forge alters one committed value, drawn over kinds of values first.
func (f *forged) forge(r *rand.Rand) (what string) {
	m := f.run.Model
	t, l, g := r.IntN(f.run.Positions()), r.IntN(len(m.Layers)), r.IntN(m.KVHeads)
	e := m.ElemBytes()
	switch k := r.IntN(14); k {
	case 0:
		b := f.keys[[2]int{l, g}][t]
		flip(r, b, r.IntN(len(b)), e)
		return "cached key"
	case 1:
		b := f.cols[[2]int{l, g}][r.IntN(m.ValDim)]
		flip(r, b, r.IntN(len(b)), e)
		return "cached value"
	case 2:
		t = len(f.run.Prompt) - 1 + r.IntN(len(f.run.Answer))
		b := f.tails[t][r.IntN(len(f.tails[t]))]
		flip(r, b, r.IntN(len(b)), 4)
		return "logit"
	default:
		y := m.Layout(l, t)
		v := ghost.Value(k - 3)
		for y.Count(v) == 0 {
			v = ghost.Value(r.IntN(int(ghost.ResidOut) + 1))
		}
		sp := y.Span(v, r.IntN(y.Count(v)))
		leaf := r.IntN(sp.Leaves())
		b := f.leaves[[2]int{t, l}][sp.First+leaf]
		size, i := 4, r.IntN(len(b))
		switch v {
		case ghost.RawQuery, ghost.RawKey, ghost.Weights:
			size = e
		case ghost.AttnOut, ghost.Hidden:
			if block := m.Tensors[m.Layers[l].O.Tensor].Format.ActBlock(); block > 0 {
				scales := sp.Bytes / (block + 4) * 4
				if r.IntN(2) == 0 {
					i = r.IntN(min(scales, len(b))) // a scale
				} else if leaf == 0 {
					i, size = min(scales, len(b)-1)+r.IntN(max(1, len(b)-scales)), 1
				} else {
					size = 1
				}
			}
		}
		if v == ghost.MaxScore && r.IntN(2) == 0 {
			b[i/4*4] ^= byte(1 + r.IntN(3)) // so little that weights stay
		} else {
			flip(r, b, i, size)
		}
		return [...]string{"query", "key", "largest score", "weight", "attention", "output raw", "mid", "router", "hidden", "down raw", "out"}[v]
	}
}

// splice lies from a position and layer on with the values of another model, as
// one who computes on does. In half of the cases the cache follows.
func (f *forged) splice(other *forged, r *rand.Rand) string {
	m := f.run.Model
	t0, l0 := r.IntN(f.run.Positions()), r.IntN(len(m.Layers))
	for t := t0; t < f.run.Positions(); t++ {
		for l := range m.Layers {
			if t > t0 || l >= l0 {
				f.leaves[[2]int{t, l}] = other.leaves[[2]int{t, l}]
			}
		}
		if other.tails[t] != nil {
			f.tails[t] = other.tails[t]
		}
	}
	if r.IntN(2) == 0 {
		return "other model, old cache"
	}
	from, e := r.IntN(t0+1), m.ElemBytes()
	for k := range f.keys {
		copy(f.keys[k][from:], other.keys[k][from:])
		for d := range f.cols[k] {
			copy(f.cols[k][d][from*e:], other.cols[k][d][from*e:])
		}
	}
	return "other model"
}

type tally struct {
	trials, rounds int
	sizes          []int
	times, wall    []time.Duration // of verification: of all processors, with the collection of garbage, and by the clock
	relations      map[audit.Relation]int
}

func (y *tally) log(t *testing.T) {
	slices.Sort(y.sizes)
	slices.Sort(y.times)
	slices.Sort(y.wall)
	n := len(y.sizes)
	t.Logf("%d trials: at most %d rounds; fraud proof %d bytes median, %d at most; verified in %v of processor time in the median, %v at most (by the clock %v and %v); %v",
		y.trials, y.rounds, y.sizes[n/2], y.sizes[n-1], y.times[n/2], y.times[n-1], y.wall[n/2], y.wall[n-1], y.relations)
}

// dispute lets a liar and an honest node dispute and demands that the liar is
// convicted, and that the honest one cannot be.
func (y *tally) dispute(t *testing.T, r *rand.Rand, what string, run *audit.Run, honest, liar *forged, honestReceipt, liarReceipt *ghost.Receipt) {
	t.Helper()
	guilty := r.IntN(2)
	sides := [2]Side{{honestReceipt, honest}, {honestReceipt, honest}}
	sides[guilty] = Side{liarReceipt, liar}
	out, err := Dispute(run, [32]byte{3}, sides)
	if err != nil {
		t.Fatalf("%s: %v", what, err)
	}
	if out.Guilty != guilty || out.Breach != nil {
		t.Fatalf("%s, at %v: party %d is convicted, %d lied: %+v", what, out.Place, out.Guilty, guilty, out.Conviction)
	}
	if out.Rounds > 5 {
		t.Fatalf("%s: %d rounds", what, out.Rounds)
	}
	id := run.Model.ID()
	begin, used := time.Now(), cpu()
	c, err := audit.VerifyFraud(id, liarReceipt, out.Fraud)
	y.times, y.wall = append(y.times, cpu()-used), append(y.wall, time.Since(begin))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := audit.VerifyFraud(id, honestReceipt, out.Fraud); err == nil {
		t.Fatalf("%s: the proof convicts the honest one too", what)
	}
	y.trials++
	y.rounds = max(y.rounds, out.Rounds)
	y.sizes = append(y.sizes, len(out.Fraud))
	if y.relations == nil {
		y.relations = map[audit.Relation]int{}
	}
	y.relations[c.Claim.Relation]++
}

// TestDispute forges values anywhere. GEIST_TRIALS sets the number for each model.
func TestDispute(t *testing.T) {
	trials := 40
	if s := os.Getenv("GEIST_TRIALS"); s != "" {
		var err error
		if trials, err = strconv.Atoi(s); err != nil {
			t.Fatal(err)
		}
	}
	var all tally
	for name, spec := range specs() {
		t.Run(name, func(t *testing.T) {
			r := rand.New(rand.NewPCG(7, uint64(len(name))))
			n := newNode(t, spec, kernel.Best(), 1, 64)
			spec.Seed += 77
			wrong := newNode(t, spec, kernel.Best(), 1, 64)
			run := answer(t, n, prompt(3, 30), 12, arith.Sampling{})
			honest := copyOf(t, n, run)
			run.Trace = honest.root()
			good := seal(t, run, audit.Standard, ghost.Nonce{2}).Receipt
			base := copyOf(t, wrong, run)
			for i := range trials {
				liar := copyFrom(honest.Prover.(*Execution), run)
				var what string
				if i%4 == 3 {
					what = liar.splice(base, r)
				} else {
					what = liar.forge(r)
				}
				lie := *run
				lie.Trace = liar.root()
				if lie.Trace == run.Trace {
					t.Fatalf("%s: nothing was forged", what)
				}
				all.dispute(t, r, what, run, honest, liar, good, seal(t, &lie, audit.Standard, ghost.Nonce{2}).Receipt)
			}
		})
	}
	all.log(t)
}
