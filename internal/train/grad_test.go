package train

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/geistnet/geist/internal/matmul"
)

// small is a model with a block of every kind.
func small() Shape {
	return Shape{
		Vocab: 50, Dim: 32, Heads: 4, KVHeads: 2, HeadDim: 8, FF: 48, Context: 70, Eps: 1e-5, RopeBase: 10000,
		Blocks:     []string{Dense, Hash, Product},
		HashOrders: []int{2, 3}, HashHeads: 3, HashRows: 20,
		ProductHeads: 2, ProductKeys: 6, ProductDim: 8, ProductTopK: 4,
	}
}

// rough makes every weight matter: rows and norms start where their gradients
// would be nothing special.
func rough(t testing.TB, s Shape, seed uint64) *Model {
	t.Helper()
	m, err := NewModel(s, seed)
	if err != nil {
		t.Fatal(err)
	}
	d := drawer{rand.NewPCG(seed, 99)}
	for _, p := range m.Params {
		for i := range p.W {
			p.W[i] += float32(0.1 * d.normal())
		}
	}
	for _, tab := range m.Tables {
		for i := range tab.W {
			tab.W[i] = 0.7 * d.normal()
		}
	}
	return m
}

// randomBatch has two texts in each window, and tokens that do not count.
func randomBatch(seed uint64, windows int, s Shape) Batch {
	r := rand.New(rand.NewPCG(seed, 7))
	n := windows * s.Context
	b := Batch{make([]int32, n), make([]int32, n), make([]int32, n)}
	for i := range n {
		b.In[i], b.Out[i] = int32(r.IntN(s.Vocab)), int32(r.IntN(s.Vocab))
		if r.IntN(9) == 0 {
			b.Out[i] = None
		}
		b.Start[i] = int32(i - i%s.Context)
		if i%s.Context >= s.Context/3 {
			b.Start[i] += int32(s.Context / 3)
		}
	}
	return b
}

// TestGradient moves the values of each tensor along its gradient, and along a
// random direction, and compares the change of the loss with what the gradient
// says.
func TestGradient(t *testing.T) {
	s := small()
	s.ProductTopK = s.ProductKeys * s.ProductKeys // where picks change, the loss jumps
	checkGradient(t, s, 0, func(string) bool { return true })
	checkGradient(t, s, 0.5, func(string) bool { return true })
	// What comes after the picks changes none.
	checkGradient(t, small(), 0, func(name string) bool {
		return slices.Contains([]string{"blk.2.memory.weight", "blk.2.ffn_gate.weight", "blk.2.ffn_down.weight", "output_norm.weight"}, name)
	})
}

func checkGradient(t *testing.T, s Shape, drop float32, smooth func(name string) bool) {
	t.Helper()
	m := rough(t, s, 1)
	const batch = 2
	tr := NewTrainer(m, batch, matmul.Best(), 2)
	tr.Dropout(drop, 11, 7)
	in := randomBatch(3, batch, s)
	if _, err := tr.Gradient(in); err != nil {
		t.Fatal(err)
	}
	tr.dropStep, tr.dropping = 7, drop > 0 // the losses that follow leave out the same rows
	type tensor struct {
		name string
		w, g []float32
	}
	var all []tensor
	for _, p := range m.Params {
		all = append(all, tensor{p.Name, p.W, append([]float32(nil), p.G...)})
	}
	for i, g := range tr.RowGrads() {
		tab := m.Tables[i]
		dense := make([]float32, len(tab.W))
		for j, r := range g.Rows {
			copy(tab.row(dense, r), g.G[j*tab.Cols:])
		}
		all = append(all, tensor{tab.Name, tab.W, dense})
	}
	if len(all) != len(m.Params)+2 {
		t.Fatalf("%d tensors", len(all))
	}
	r := rand.New(rand.NewPCG(5, 5))
	checked := 0
	for _, x := range all {
		if !smooth(x.name) {
			continue
		}
		checked++
		for round := range 3 {
			dir := make([]float64, len(x.w))
			var norm, slope float64
			for i := range dir {
				switch round {
				case 0:
					dir[i] = float64(x.g[i])
				case 1:
					dir[i] = r.NormFloat64()
				case 2: // signs: no value weighs more than another
					dir[i] = math.Copysign(1, float64(x.g[i]))
				}
				norm += dir[i] * dir[i]
			}
			norm = math.Sqrt(norm)
			if norm == 0 {
				t.Fatalf("%s: the gradient is zero", x.name)
			}
			for i := range dir {
				dir[i] /= norm
				slope += dir[i] * float64(x.g[i])
			}
			old := append([]float32(nil), x.w...)
			at := func(h float64) float64 {
				for i := range dir {
					x.w[i] = float32(float64(old[i]) + h*dir[i])
				}
				l, err := tr.Loss(in)
				if err != nil {
					t.Fatal(err)
				}
				copy(x.w, old)
				return l
			}
			// Two step sizes: the error of the difference is quadratic in it.
			const h = 0.02
			wide, narrow := (at(2*h)-at(-2*h))/(4*h), (at(h)-at(-h))/(2*h)
			got := (4*narrow - wide) / 3
			var length float64
			for _, g := range x.g {
				length += float64(g) * float64(g)
			}
			length = math.Sqrt(length)
			if math.Abs(got-slope) > 0.004*math.Abs(slope)+0.002*length+2e-6 {
				t.Errorf("%s, direction %d: the loss changes by %.6g, the gradient says %.6g (length %.3g)", x.name, round, got, slope, length)
			}
		}
	}
	if checked < 4 {
		t.Fatalf("%d tensors checked", checked)
	}
}

// TestThreadsAndPaths makes steps with every path and several numbers of
// threads and demands equal bits.
func TestThreadsAndPaths(t *testing.T) {
	s := small()
	type way struct {
		path    matmul.Path
		threads int
	}
	// Losses and a hash of all state after three steps; a machine that gets
	// another one trains another model.
	const want = "[4.040106370395611 3.5859702838251803 3.248003852241] 14714151334437983641"
	for _, w := range []way{{matmul.Generic, 1}, {matmul.Best(), 1}, {matmul.Best(), 3}, {matmul.Paths()[len(matmul.Paths())/2], 2}} {
		m := rough(t, s, 1)
		tr := NewTrainer(m, 2, w.path, w.threads)
		in := randomBatch(3, 2, s)
		o := Optimiser{Steps: 10, Warmup: 2, Rate: 1e-2, RowRate: 3e-2, Final: 0.1, Beta1: 0.9, Beta2: 0.95, RowBeta2: 0.99, Eps: 1e-10, WeightDecay: 0.1, Clip: 0.5}
		var losses []float64
		for range 3 {
			l, err := tr.Gradient(in)
			if err != nil {
				t.Fatal(err)
			}
			losses = append(losses, l)
			if err := tr.Update(&o); err != nil {
				t.Fatal(err)
			}
		}
		if losses[2] >= losses[0] {
			t.Fatalf("losses %v do not fall", losses)
		}
		got := fmt.Sprint(losses, bitsOf(m))
		if got != want {
			t.Errorf("%v with %d threads: %s\nwant %s", w.path, w.threads, got, want)
		}
	}
}

// bitsOf hashes all that a model learns.
func bitsOf(m *Model) uint64 {
	h := uint64(14695981039346656037)
	add := func(x []float32) {
		for _, v := range x {
			h = (h ^ uint64(math.Float32bits(v))) * 1099511628211
		}
	}
	for _, s := range m.slab {
		add(s)
	}
	for _, t := range m.Tables {
		add(t.W)
		add(t.M)
		add(t.V)
		for _, n := range t.Steps {
			h = (h ^ uint64(n)) * 1099511628211
		}
	}
	return h
}

func BenchmarkStep(b *testing.B) {
	s := Tales().Shape
	m, err := NewModel(s, 1)
	if err != nil {
		b.Fatal(err)
	}
	tr := NewTrainer(m, 8, matmul.Best(), 1)
	in := randomBatch(1, 8, s)
	o := Tales().Optimiser
	for b.Loop() {
		if _, err := tr.Gradient(in); err != nil {
			b.Fatal(err)
		}
		if err := tr.Update(&o); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(b.N*8*s.Context)/b.Elapsed().Seconds(), "tok/s")
}

func TestRates(t *testing.T) {
	o := Optimiser{Steps: 110, Warmup: 10, Rate: 2, Final: 0.1}
	for step, want := range map[int]float64{0: 0.1, 4: 0.5, 9: 1, 10: 1, 60: 0.55, 110: 0.1, 200: 0.1} {
		if got := o.share(step); math.Abs(float64(got)-want) > 1e-6 {
			t.Errorf("step %d has %v of the highest rate, want %v", step, got, want)
		}
	}
	for x := 0.0; x <= 1; x += 1.0 / 64 {
		if want := (1 + math.Cos(math.Pi*x)) / 2; math.Abs(float64(halfCosine(x))-want) > 1e-6 {
			t.Errorf("half cosine at %v is %v, want %v", x, halfCosine(x), want)
		}
	}
}

// Dropout leaves out about the share that it is told, others at each step, and
// nothing where losses are measured.
func TestDropout(t *testing.T) {
	tr := NewTrainer(rough(t, small(), 1), 1, matmul.Best(), 1)
	for _, p := range []float32{0.1, 0.5, 0.9} {
		var before uint64
		for step := range 3 {
			tr.Dropout(p, 5, step)
			const n = 20000
			count, sum := 0, uint64(0)
			for i := range n {
				if tr.drops(1, i) {
					count++
					sum += uint64(i) * uint64(i)
				}
			}
			if share := float64(count) / n; math.Abs(share-float64(p)) > 0.02 {
				t.Errorf("p = %v, step %d: %v are left out", p, step, share)
			}
			if sum == before {
				t.Errorf("p = %v: step %d leaves out the same as the one before", p, step)
			}
			before = sum
		}
	}
	in := randomBatch(3, 1, small())
	want, err := tr.Loss(in)
	if err != nil {
		t.Fatal(err)
	}
	tr.Dropout(0, 0, 0)
	if got, err := tr.Loss(in); err != nil || got != want {
		t.Errorf("the loss is %v with dropout and %v without, %v", want, got, err)
	}
}

// TestTextsApart changes the first text of each window: what is said of the
// second stays the same, to the bit.
func TestTextsApart(t *testing.T) {
	s := small()
	tr := NewTrainer(rough(t, s, 1), 2, matmul.Best(), 2)
	in := randomBatch(5, 2, s)
	var before []float64
	for range 3 {
		if _, err := tr.Loss(in); err != nil {
			t.Fatal(err)
		}
		var second []float64
		for i, l := range tr.loss {
			if i%s.Context >= s.Context/3 {
				second = append(second, l)
			}
		}
		if before != nil && (!slices.Equal(second, before)) {
			t.Fatal("a text has another loss behind another text")
		}
		before = second
		for i := range in.In {
			if i%s.Context < s.Context/3 {
				in.In[i] = (in.In[i] + 7) % int32(s.Vocab)
			}
		}
	}
}
