package train

import (
	"errors"
	"fmt"

	"github.com/geistnet/geist/arith"
	"github.com/geistnet/geist/internal/matmul"
)

// errDiverged says that a value stopped being finite.
var errDiverged = errors.New("training diverged: a value is not finite; try a lower learning rate")

// layerState is what the forward pass of a layer keeps for its gradient. All
// have N rows.
type layerState struct {
	x0, n0, r0 []float32 // input, normed and the norm's scales
	q, k, v, o []float32
	p          []float32 // attention weights
	x1, n1, r1 []float32 // input of the feed-forward block, likewise
	g, u, h    []float32
	mem        memoryState
	grads      RowGrads
}

// A Trainer makes passes and steps over a model. One goroutine uses it.
type Trainer struct {
	drop, dropSeed, dropStep uint64 // of Dropout
	dropping                 bool   // in a pass for a gradient
	kept                     float32

	m       *Model
	batch   int // windows
	n       int // tokens: batch·Context
	threads int
	mm      *matmul.Multiplier
	serial  chan *matmul.Multiplier // of one thread each, for work inside tasks

	in         Batch // of the pass
	cos, sin   []float32
	layers     []layerState
	xf, nf, rf []float32 // input of the last norm
	loss       []float64 // of every token

	dx, dn, dg, du, dh, dq, dk, dv, do []float32
	logits, normParts, scores, dhalf   []float32
	first, uses                        []int32
}

// NewTrainer makes a trainer of m over batches of so many windows. path and
// threads change no result.
func NewTrainer(m *Model, batch int, path matmul.Path, threads int) *Trainer {
	s := &m.Shape
	threads = max(threads, 1)
	t := &Trainer{m: m, batch: batch, n: batch * s.Context, threads: threads, mm: matmul.New(path, threads), kept: 1}
	t.serial = make(chan *matmul.Multiplier, threads)
	for range threads {
		t.serial <- matmul.New(path, 1)
	}
	rope := arith.NewRope(s.RopeBase, s.HeadDim, arith.RopeScaling{Linear: 1, Magnitude: 1})
	half := s.HeadDim / 2
	t.cos, t.sin = make([]float32, s.Context*half), make([]float32, s.Context*half)
	for i := range s.Context {
		rope.CosSin(i, t.cos[i*half:(i+1)*half], t.sin[i*half:(i+1)*half])
	}
	f := func(width int) []float32 { return make([]float32, t.n*width) }
	D, Q, K := s.Dim, s.Heads*s.HeadDim, s.KVHeads*s.HeadDim
	t.layers = make([]layerState, len(s.Blocks))
	for l := range t.layers {
		y := &t.layers[l]
		y.x0, y.n0, y.r0 = f(D), f(D), f(1)
		y.q, y.k, y.v, y.o = f(Q), f(K), f(K), f(Q)
		y.p = make([]float32, batch*s.Heads*s.Context*s.Context)
		y.x1, y.n1, y.r1 = f(D), f(D), f(1)
		y.g, y.u, y.h = f(s.FF), f(s.FF), f(s.FF)
		switch s.Blocks[l] {
		case Hash:
			y.mem.ids = make([]int32, t.n*s.hash(l).Count())
		case Product:
			p := s.product()
			y.mem = memoryState{
				ids: make([]int32, t.n*p.Count()), weight: f(p.Count()), query: f(p.QueryLen()),
				half: f(p.QueryLen()), scale: f(2 * p.Heads), void: make([]bool, pieces(t.n)),
			}
		}
	}
	t.xf, t.nf, t.rf = f(D), f(D), f(1)
	t.loss = make([]float64, t.n)
	t.dx, t.dn, t.do = f(D), f(D), f(Q)
	t.dg, t.du, t.dh = f(s.FF), f(s.FF), f(s.FF)
	t.dq, t.dk, t.dv = f(Q), f(K), f(K)
	return t
}

func (t *Trainer) scratch(buf *[]float32, n int) []float32 {
	*buf = grow(*buf, n)
	return *buf
}

// A Batch is what a pass reads: windows of Context tokens one after the other.
// Several texts may share a window.
type Batch struct {
	In    []int32 // ids
	Out   []int32 // the id that follows each, or None
	Start []int32 // index in In of the first token of each one's text
}

// None stands for a next token that does not count.
const None int32 = -1

func (t *Trainer) check(b Batch) error {
	if len(b.In) != t.n || len(b.Out) != t.n || len(b.Start) != t.n {
		return fmt.Errorf("batch of %d tokens, %d next ones and %d starts; expected %d of each", len(b.In), len(b.Out), len(b.Start), t.n)
	}
	vocab, counts := int32(t.m.Shape.Vocab), false
	for i, id := range b.In {
		if id < 0 || id >= vocab || b.Out[i] < None || b.Out[i] >= vocab {
			return fmt.Errorf("token %d of %d is %d before %d; the vocabulary has %d", i, len(b.In), id, b.Out[i], vocab)
		}
		if s := int(b.Start[i]); s < i-i%t.m.Shape.Context || s > i {
			return fmt.Errorf("token %d belongs to a text that starts at %d, which is after it or in another window", i, s)
		}
		counts = counts || b.Out[i] != None
	}
	if !counts {
		return errors.New("a batch in which no next token counts")
	}
	return nil
}

// forward runs the blocks over a batch.
func (t *Trainer) forward(in Batch) error {
	if err := t.check(in); err != nil {
		return err
	}
	m, s, N := t.m, &t.m.Shape, t.n
	t.in = in
	D, Q, K := s.Dim, s.Heads*s.HeadDim, s.KVHeads*s.HeadDim
	x := t.layers[0].x0
	for i, id := range in.In {
		copy(x[i*D:(i+1)*D], m.embed.W[int(id)*D:])
	}
	for l := range m.blocks {
		b, y := &m.blocks[l], &t.layers[l]
		of := func(x []float32, width int) matmul.Matrix { return matmul.Of(x, N, width) }
		t.norm(y.n0, y.r0, y.x0, b.attnNorm.W)
		t.mm.Mul(of(y.q, Q), of(y.n0, D), b.q.w().T(), false)
		t.mm.Mul(of(y.k, K), of(y.n0, D), b.k.w().T(), false)
		t.mm.Mul(of(y.v, K), of(y.n0, D), b.v.w().T(), false)
		t.rotate(y.q, s.Heads, false)
		t.rotate(y.k, s.KVHeads, false)
		t.attention(y.o, y.p, y.q, y.k, y.v)
		copy(y.x1, y.x0)
		t.mm.Mul(of(y.x1, D), of(y.o, Q), b.o.w().T(), true)
		t.norm(y.n1, y.r1, y.x1, b.ffnNorm.W)
		t.mm.Mul(of(y.g, s.FF), of(y.n1, D), b.gate.w().T(), false)
		switch b.rule {
		case Dense:
			t.mm.Mul(of(y.u, s.FF), of(y.n1, D), b.up.w().T(), false)
		case Hash:
			t.hashRows(l, y.mem.ids)
			t.hashRead(y.u, b.memory, y.mem.ids)
		case Product:
			if err := t.productRead(y.u, y.n1, b, &y.mem); err != nil {
				return fmt.Errorf("block %d: %w", l, err)
			}
		}
		t.gate(y.h, y.g, y.u)
		out := t.xf
		if l+1 < len(t.layers) {
			out = t.layers[l+1].x0
		}
		copy(out, y.x1)
		t.mm.Mul(of(out, D), of(y.h, s.FF), b.down.w().T(), true)
	}
	t.norm(t.nf, t.rf, t.xf, m.norm.W)
	return nil
}

// gate computes h = silu(g)⊙u.
func (t *Trainer) gate(h, g, u []float32) {
	path := t.mm.Path()
	size := piece * t.m.Shape.FF
	matmul.Each(t.threads, (len(h)+size-1)/size, func(p int) {
		a, z := p*size, min((p+1)*size, len(h))
		path.Gate(h[a:z], g[a:z], u[a:z])
	})
}

// chunk is how many tokens' logits exist at a time.
const chunk = 512

// output computes the loss of every token that counts and, with train, the
// gradients of the last norm's output and of the embedding, of the mean loss.
func (t *Trainer) output(train bool) {
	m, s, N := t.m, &t.m.Shape, t.n
	path := t.mm.Path()
	inv := 1 / float32(t.counted())
	logits := t.scratch(&t.logits, min(chunk, N)*s.Vocab)
	for i := 0; i < N; i += chunk {
		n := min(chunk, N-i)
		L, X := matmul.Of(logits, n, s.Vocab), matmul.Of(t.nf, N, s.Dim).Part(i, n, 0, s.Dim)
		t.mm.Mul(L, X, m.embed.w().T(), false)
		matmul.Each(t.threads, (n+15)/16, func(c int) {
			for r := c * 16; r < min((c+1)*16, n); r++ {
				row := logits[r*s.Vocab : (r+1)*s.Vocab]
				id := t.in.Out[i+r]
				if id == None {
					t.loss[i+r] = 0
					clear(row)
					continue
				}
				right := row[id]
				top, sum := path.Softmax(row)
				t.loss[i+r] = arith.Log(float64(sum)) + float64(top-right)
				if train {
					row[id] -= 1
					path.Scale(row, inv)
				}
			}
		})
		if train {
			t.mm.Mul(matmul.Of(t.dn, N, s.Dim).Part(i, n, 0, s.Dim), L, m.embed.w(), false)
			t.mm.Mul(m.embed.g(), L.T(), X, true)
		}
	}
}

// counted is the number of tokens of the pass whose next one counts.
func (t *Trainer) counted() int {
	n := 0
	for _, id := range t.in.Out {
		if id != None {
			n++
		}
	}
	return n
}

// mean is the mean loss of the pass in nats per counted token, summed in order.
func (t *Trainer) mean() float64 {
	var sum float64
	for _, l := range t.loss {
		sum += l
	}
	return sum / float64(t.counted())
}

// Loss is the mean loss of a batch in nats per counted token.
func (t *Trainer) Loss(in Batch) (float64, error) {
	if err := t.forward(in); err != nil {
		return 0, err
	}
	t.output(false)
	return t.mean(), nil
}

// Gradient computes the mean loss and leaves its gradients in the parameters'
// G and in RowGrads.
func (t *Trainer) Gradient(in Batch) (float64, error) {
	m, s, N := t.m, &t.m.Shape, t.n
	clear(m.slab[1])
	t.dropping = t.drop > 0
	err := t.forward(in)
	t.dropping = false
	t.dropStep++
	if err != nil {
		return 0, err
	}
	t.output(true)
	D, Q, K := s.Dim, s.Heads*s.HeadDim, s.KVHeads*s.HeadDim
	of := func(x []float32, width int) matmul.Matrix { return matmul.Of(x, N, width) }
	clear(t.dx)
	t.normGrad(t.dx, m.norm.G, t.dn, t.xf, t.rf, m.norm.W)
	for l := len(m.blocks) - 1; l >= 0; l-- {
		b, y := &m.blocks[l], &t.layers[l]
		// The feed-forward block.
		t.mm.Mul(b.down.g(), of(t.dx, D).T(), of(y.h, s.FF), true)
		t.mm.Mul(of(t.dh, s.FF), of(t.dx, D), b.down.w(), false)
		t.gateGrad(t.dg, t.du, y.g, y.u, t.dh)
		t.mm.Mul(b.gate.g(), of(t.dg, s.FF).T(), of(y.n1, D), true)
		t.mm.Mul(of(t.dn, D), of(t.dg, s.FF), b.gate.w(), false)
		switch b.rule {
		case Dense:
			t.mm.Mul(b.up.g(), of(t.du, s.FF).T(), of(y.n1, D), true)
			t.mm.Mul(of(t.dn, D), of(t.du, s.FF), b.up.w(), true)
		case Hash:
			t.rowGrads(&y.grads, b.memory, t.du, &y.mem)
		case Product:
			t.rowGrads(&y.grads, b.memory, t.du, &y.mem)
			t.productGrad(t.dn, t.du, y.n1, b, &y.mem)
		}
		t.normGrad(t.dx, b.ffnNorm.G, t.dn, y.x1, y.r1, b.ffnNorm.W)
		// Attention.
		t.mm.Mul(b.o.g(), of(t.dx, D).T(), of(y.o, Q), true)
		t.mm.Mul(of(t.do, Q), of(t.dx, D), b.o.w(), false)
		t.attentionGrad(t.dq, t.dk, t.dv, t.do, y.p, y.q, y.k, y.v)
		t.rotate(t.dq, s.Heads, true)
		t.rotate(t.dk, s.KVHeads, true)
		t.mm.Mul(b.q.g(), of(t.dq, Q).T(), of(y.n0, D), true)
		t.mm.Mul(b.k.g(), of(t.dk, K).T(), of(y.n0, D), true)
		t.mm.Mul(b.v.g(), of(t.dv, K).T(), of(y.n0, D), true)
		t.mm.Mul(of(t.dn, D), of(t.dq, Q), b.q.w(), false)
		t.mm.Mul(of(t.dn, D), of(t.dk, K), b.k.w(), true)
		t.mm.Mul(of(t.dn, D), of(t.dv, K), b.v.w(), true)
		t.normGrad(t.dx, b.attnNorm.G, t.dn, y.x0, y.r0, b.attnNorm.W)
	}
	// Embeddings read: tokens in ascending order.
	for i, id := range in.In {
		g := m.embed.G[int(id)*D:][:D]
		for j, d := range t.dx[i*D : (i+1)*D] {
			g[j] += d
		}
	}
	return t.mean(), nil
}

// gateGrad computes the gradients of gate.
func (t *Trainer) gateGrad(dg, du, g, u, dh []float32) {
	path := t.mm.Path()
	size := piece * t.m.Shape.FF
	matmul.Each(t.threads, (len(g)+size-1)/size, func(p int) {
		a, z := p*size, min((p+1)*size, len(g))
		path.GateGrad(dg[a:z], du[a:z], g[a:z], u[a:z], dh[a:z])
	})
}

// RowGrads are the gradients of the tables, in the order of the model's Tables,
// that the last Gradient found. They are valid until the next.
func (t *Trainer) RowGrads() []*RowGrads {
	var out []*RowGrads
	for l := range t.layers {
		if t.m.blocks[l].memory != nil {
			out = append(out, &t.layers[l].grads)
		}
	}
	return out
}
