package lab

import (
	"encoding/binary"
	"fmt"
	"math"

	"github.com/geistnet/geist/arith"
	"github.com/geistnet/geist/audit"
	"github.com/geistnet/geist/ghost"
)

// stage is a moment of the forward pass at which an attack may alter a value;
// all that follows is computed from the altered one.
type stage int

// The stages in their order. Each passes the float values of one index: a head,
// a chosen expert, or 0.
const (
	embedded   stage = iota // the residual stream at the start
	normedIn                // the attention block's input after its norm
	rawQuery                // head, rounded
	rawKey                  // key head, rounded
	rawValue                // key head, not yet rounded
	query                   // head, rotated, scaled, rounded
	cachedKey               // key head, rotated, rounded
	cachedVal               // key head, rounded
	scores                  // head: of the visible positions
	maxScore                // head: one value
	weights                 // head: of the visible positions, rounded
	attended                // head: output
	attOut                  // the whole output, before it is quantised
	outRaw                  // the projection's result, before its norm
	outAdded                // what is added to the residual stream
	residMid                // the stream after attention
	normedMid               // the feed-forward block's input after its norm
	routed                  // router logits
	expertGain              // weights of the chosen experts
	asked                   // a memory block's queries, before the norm of their halves
	recalled                // u of a memory block
	hidden                  // expert: before it is quantised
	downRaw                 // the last projection's result, before its norm
	downAdded               // what is added to the residual stream
	residOut                // the stream after the layer
	logits                  // of a position that has them; layer −1
)

// at is where a hook is called.
type at struct {
	stage   stage
	t, l, i int
}

// hooks are what a cheating provider does otherwise. All may be nil.
type hooks struct {
	token    func(t int, id int32) int32                    // the token that is really embedded
	turn     func(t int) int                                // the position that it is rotated by
	alter    func(p *pass, a at, x []float32)               // any value
	codes    func(a at, x []float32, in *arith.Activations) // attOut or hidden, quantised
	chosen   func(a at, experts []int)                      // the experts in use
	picks    func(a at, rows []int, weights []float32)      // of a head of product keys in order of rank, or n-grams without weights
	reversed func(right []float32)                          // rows are added from the last one on, which without it gives right
	worse    func(a at) bool                                // the head leaves out its best row
	skip     func(t, l int) bool                            // the layer hands its input on
	gate     func(g, u float32) float32                     // instead of the model's
	bare     func(key bool) bool                            // heads are not normed
	choose   func(a int, l []float32, id int32) int32       // the emitted token
	shape    *ghost.Model                                   // of the weights, where that is not the one claimed
}

// pass computes a run in plain Go from the definitions alone and records
// every value that a trace commits to.
type pass struct {
	g     *ghost.Model
	rows  rows
	hooks hooks
	rec   *recording
	ids   []int32         // the tokens so far
	x     []float32       // the residual stream of the current position
	keys  [][][][]float32 // [layer][key head][position][dimension]
	vals  [][][][]float32 // [layer][key head][dimension][position]
}

// recorded runs a model as w says for prompt and length answer tokens, and
// records it as a run of the model claimed.
func recorded(claimed *subject, weights rows, prompt []int32, length int, s arith.Sampling, h hooks) (*recording, error) {
	g := claimed.g
	p := &pass{g: g, rows: weights, hooks: h}
	if h.shape != nil {
		p.g = h.shape
	}
	run := &audit.Run{Model: g, Prompt: prompt, Sampling: s}
	p.rec = &recording{subject: claimed, run: run, open: claimed.row}
	p.keys, p.vals = make([][][][]float32, len(g.Layers)), make([][][][]float32, len(g.Layers))
	for l := range g.Layers {
		p.keys[l], p.vals[l] = make([][][]float32, g.KVHeads), make([][][]float32, g.KVHeads)
		for h := range p.vals[l] {
			p.vals[l][h] = make([][]float32, g.ValDim)
		}
	}
	history := append([]int32(nil), prompt...)
	var sampler arith.Sampler
	for t := 0; t < len(prompt)+length-1; t++ {
		l, err := p.position(t, history[t], t >= len(prompt)-1)
		if err != nil {
			return nil, fmt.Errorf("position %d: %w", t, err)
		}
		p.rec.tails = append(p.rec.tails, l)
		if l != nil {
			a := t - (len(prompt) - 1)
			id := sampler.Sample(append([]float32(nil), l...), &s, history, uint64(a), nil)
			if h.choose != nil {
				id = h.choose(a, l, id)
			}
			history = append(history, id)
		}
	}
	run.Answer = history[len(prompt):]
	p.rec.cache(p)
	return p.rec, nil
}

func (p *pass) alter(s stage, t, l, i int, x []float32) {
	if p.hooks.alter != nil {
		p.hooks.alter(p, at{s, t, l, i}, x)
	}
}

func (p *pass) linear(l *ghost.Linear, r int, a arith.Activations) (float32, error) {
	row, err := p.rows(l.Tensor, l.Row0+r)
	if err != nil {
		return 0, err
	}
	y := arith.Dot(p.g.Tensors[l.Tensor].Format, row, a)
	if l.Scale != 1 && l.ScaleFirst {
		y = float32(y * l.Scale)
	}
	if l.Bias != nil {
		y += l.Bias[r]
	}
	if l.Scale != 1 && !l.ScaleFirst {
		y = float32(y * l.Scale)
	}
	return y, nil
}

func (p *pass) block(l *ghost.Linear) int { return p.g.Tensors[l.Tensor].Format.ActBlock() }

// product is the whole of l times x.
func (p *pass) product(l *ghost.Linear, x []float32) ([]float32, error) {
	a, ok := arith.Quantize(x, p.block(l))
	if !ok {
		return nil, fmt.Errorf("a value is not finite")
	}
	return p.productOf(l, a)
}

func (p *pass) productOf(l *ghost.Linear, a arith.Activations) ([]float32, error) {
	y := make([]float32, l.Rows)
	for r := range y {
		var err error
		if y[r], err = p.linear(l, r, a); err != nil {
			return nil, err
		}
	}
	return y, nil
}

func (p *pass) normed(s stage, t, l int, x, w []float32) []float32 {
	y := make([]float32, len(x))
	arith.RMSNorm(y, x, w, p.g.Eps)
	p.alter(s, t, l, 0, y)
	return y
}

// position computes one position; its logits are nil unless they are wanted.
func (p *pass) position(t int, id int32, wanted bool) ([]float32, error) {
	g := p.g
	p.rec.cells = append(p.rec.cells, make([]cell, len(g.Layers)))
	if p.hooks.token != nil {
		id = p.hooks.token(t, id)
	}
	p.ids = append(p.ids, id)
	row, err := p.rows(g.Embedding, int(id))
	if err != nil {
		return nil, err
	}
	p.x = make([]float32, g.Dim)
	arith.Dequantize(p.x, g.Tensors[g.Embedding].Format, row)
	if g.EmbedScale != 1 {
		for i, v := range p.x {
			p.x[i] = float32(v * g.EmbedScale)
		}
	}
	p.alter(embedded, t, 0, 0, p.x)
	for l := range g.Layers {
		if err := p.layer(t, l); err != nil {
			return nil, fmt.Errorf("layer %d: %w", l, err)
		}
	}
	if !wanted {
		return nil, nil
	}
	y := make([]float32, g.Dim)
	arith.RMSNorm(y, p.x, g.OutputNorm, g.Eps)
	out, err := p.product(&g.Output, y)
	if err != nil {
		return nil, err
	}
	if g.LogitCap > 0 {
		for i, v := range out {
			out[i] = arith.SoftCap(v, g.LogitCap)
		}
	}
	p.alter(logits, t, -1, 0, out)
	return out, nil
}

func (p *pass) layer(t, l int) error {
	g := p.g
	y := &g.Layers[l]
	c := &p.rec.cells[t][l]
	before := append([]float32(nil), p.x...)
	if err := p.attention(t, l, y, c); err != nil {
		return err
	}
	p.alter(residMid, t, l, 0, p.x)
	c.put(ghost.ResidMid, floatBytes(p.x))
	if err := p.feedForward(t, l, y, c); err != nil {
		return err
	}
	if p.hooks.skip != nil && p.hooks.skip(t, l) {
		copy(p.x, before)
	}
	p.alter(residOut, t, l, 0, p.x)
	c.put(ghost.ResidOut, floatBytes(p.x))
	return nil
}

// heads rounds, records, norms and rotates the raw queries or keys of a row.
func (p *pass) heads(t, l int, x []float32, key bool, c *cell) {
	g := p.g
	y := &g.Layers[l]
	raw, done, w, v := rawQuery, query, y.QNorm, ghost.RawQuery
	if key {
		raw, done, w, v = rawKey, cachedKey, y.KNorm, ghost.RawKey
	}
	n := g.KeyDim
	for i := range x {
		x[i] = g.KV.Round(x[i])
	}
	for h := range len(x) / n {
		p.alter(raw, t, l, h, x[h*n:(h+1)*n])
	}
	c.put(v, elemBytes(g.KV, x))
	if g.Norm == ghost.RowNorm {
		arith.RMSNorm(x, x, w, g.Eps)
	}
	rope := g.Ropes[y.Rope]
	cos, sin := make([]float32, len(rope.Turn)), make([]float32, len(rope.Turn))
	turn := t
	if p.hooks.turn != nil {
		turn = p.hooks.turn(t)
	}
	rope.CosSin(turn, cos, sin)
	for h := range len(x) / n {
		xh := x[h*n : (h+1)*n]
		if g.Norm == ghost.HeadNorm && (p.hooks.bare == nil || !p.hooks.bare(key)) {
			arith.RMSNorm(xh, xh, w, g.Eps)
		}
		arith.RotatePairs(xh, cos, sin, g.Neox)
		for i := range xh {
			if !key {
				xh[i] = float32(xh[i] * g.QueryScale(t))
			}
			xh[i] = g.KV.Round(xh[i])
		}
		p.alter(done, t, l, h, xh)
	}
}

func (p *pass) attention(t, l int, y *ghost.Layer, c *cell) error {
	g := p.g
	in := p.normed(normedIn, t, l, p.x, y.AttnNorm)
	q, err := p.product(&y.Q, in)
	if err != nil {
		return err
	}
	k, err := p.product(&y.K, in)
	if err != nil {
		return err
	}
	v, err := p.product(&y.V, in)
	if err != nil {
		return err
	}
	p.heads(t, l, q, false, c)
	p.heads(t, l, k, true, c)
	for h := range g.KVHeads {
		p.keys[l][h] = append(p.keys[l][h], k[h*g.KeyDim:(h+1)*g.KeyDim])
		vh := v[h*g.ValDim : (h+1)*g.ValDim]
		p.alter(rawValue, t, l, h, vh)
		for d := range vh {
			vh[d] = g.KV.Round(vh[d])
		}
		p.alter(cachedVal, t, l, h, vh)
		for d, x := range vh {
			p.vals[l][h][d] = append(p.vals[l][h][d], x)
		}
	}
	out := make([]float32, g.Heads*g.ValDim)
	first, from := y.FirstVisible(t), y.WeightsFrom(t)
	tops := make([]float32, g.Heads)
	for h := range g.Heads {
		group := h / (g.Heads / g.KVHeads)
		s := arith.Scores(q[h*g.KeyDim:(h+1)*g.KeyDim], p.keys[l][group][first:t+1], g.AttnCap)
		p.alter(scores, t, l, h, s)
		top := s[0]
		for _, x := range s {
			top = max(top, x)
		}
		tops[h] = top
		p.alter(maxScore, t, l, h, tops[h:h+1])
		w := make([]float32, len(s))
		for i, x := range s {
			w[i] = g.KV.Round(arith.Exp(x - tops[h]))
		}
		p.alter(weights, t, l, h, w)
		all := make([]float32, y.WeightsCount(t))
		copy(all[first-from:], w)
		c.put(ghost.Weights, elemBytes(g.KV, all))
		o := out[h*g.ValDim : (h+1)*g.ValDim]
		for d := range o {
			o[d] = arith.Mix(w, p.vals[l][group][d][first:t+1], first) / arith.WeightSum(w, first)
		}
		p.alter(attended, t, l, h, o)
	}
	c.put(ghost.MaxScore, floatBytes(tops))
	p.alter(attOut, t, l, 0, out)
	a, ok := arith.Quantize(out, p.block(&y.O))
	if !ok {
		return fmt.Errorf("attention is not finite")
	}
	if p.hooks.codes != nil {
		p.hooks.codes(at{attOut, t, l, 0}, out, &a)
	}
	c.put(ghost.AttnOut, inputBytes(a))
	o, err := p.productOf(&y.O, a)
	if err != nil {
		return err
	}
	p.add(t, l, o, y.PostAttn, outRaw, outAdded, ghost.OutRaw, c)
	return nil
}

// add adds a block's result to the residual stream, after its norm if it has one.
func (p *pass) add(t, l int, o, post []float32, raw, added stage, v ghost.Value, c *cell) {
	if post != nil {
		p.alter(raw, t, l, 0, o)
		c.put(v, floatBytes(o))
		arith.RMSNorm(o, o, post, p.g.Eps)
	}
	p.alter(added, t, l, 0, o)
	for i := range o {
		p.x[i] += o[i]
	}
}

func (p *pass) feedForward(t, l int, y *ghost.Layer, c *cell) error {
	g := p.g
	in := p.normed(normedMid, t, l, p.x, y.FFNNorm)
	expert := func(i int, gate, up, down *ghost.Linear) ([]float32, error) {
		a, err := p.product(gate, in)
		if err != nil {
			return nil, err
		}
		var u []float32
		if y.Memory != nil {
			u, err = p.memory(t, l, y.Memory, in, c)
		} else {
			u, err = p.product(up, in)
		}
		if err != nil {
			return nil, err
		}
		for j := range a {
			switch {
			case p.hooks.gate != nil:
				a[j] = p.hooks.gate(a[j], u[j])
			case g.Gate == ghost.GELU:
				a[j] = arith.GELUMul(a[j], u[j])
			default:
				a[j] = arith.SiLUMul(a[j], u[j])
			}
		}
		p.alter(hidden, t, l, i, a)
		h, ok := arith.Quantize(a, p.block(down))
		if !ok {
			return nil, fmt.Errorf("a hidden value is not finite")
		}
		if p.hooks.codes != nil {
			p.hooks.codes(at{hidden, t, l, i}, a, &h)
		}
		c.put(ghost.Hidden, inputBytes(h))
		return p.productOf(down, h)
	}
	var sum []float32
	var err error
	if y.Experts == nil {
		if sum, err = expert(0, &y.Gate, &y.Up, &y.Down); err != nil {
			return err
		}
	} else {
		r, err := p.product(&y.Router, in)
		if err != nil {
			return err
		}
		p.alter(routed, t, l, 0, r)
		c.put(ghost.RouterLogits, floatBytes(r))
		chosen, gain := arith.Route(r, g.ExpertsUsed, g.ExpertNorm, g.ExpertScale)
		if p.hooks.chosen != nil {
			p.hooks.chosen(at{routed, t, l, 0}, chosen)
		}
		p.alter(expertGain, t, l, 0, gain)
		sum = make([]float32, g.Dim)
		for i, e := range chosen {
			x := &y.Experts[e]
			o, err := expert(i, &x.Gate, &x.Up, &x.Down)
			if err != nil {
				return err
			}
			for d := range sum {
				sum[d] += float32(o[d] * gain[i])
			}
		}
	}
	p.add(t, l, sum, y.PostFFN, downRaw, downAdded, ghost.DownRaw, c)
	return nil
}

func floatBytes(x []float32) []byte {
	b := make([]byte, 0, 4*len(x))
	for _, v := range x {
		b = binary.LittleEndian.AppendUint32(b, math.Float32bits(v))
	}
	return b
}

// elemBytes writes values, already rounded, as the cache holds them.
func elemBytes(kv arith.KV, x []float32) []byte {
	if kv == arith.KVF32 {
		return floatBytes(x)
	}
	b := make([]byte, 0, 2*len(x))
	for _, v := range x {
		b = binary.LittleEndian.AppendUint16(b, arith.F32ToF16(v))
	}
	return b
}

// inputBytes writes a product's input as a trace holds it.
func inputBytes(a arith.Activations) []byte {
	if a.Block == 0 {
		return floatBytes(a.X)
	}
	b := floatBytes(a.D)
	for _, q := range a.Q {
		b = append(b, byte(q))
	}
	return b
}
