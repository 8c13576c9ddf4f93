package model

import (
	"slices"

	"github.com/geistnet/geist/arith"
	"github.com/geistnet/geist/ghost"
	"github.com/geistnet/geist/internal/kernel"
)

// redundant is the largest number of inputs whose preparation every member
// repeats for itself rather than share it across a barrier.
const redundant = 2

// run is the program of one member.
func (s *State) run(w *kernel.Worker) {
	m := s.m
	n := len(s.rows)
	w.For(n, 8, func(begin, end int) {
		for r := begin; r < end; r++ {
			s.embed(r)
		}
	})
	for i := range m.layers {
		y := &m.layers[i]
		if s.trace != nil {
			if w.ID() == 0 {
				s.trace.beginLayer(s, i)
			}
			w.Barrier()
		}
		s.attention(w, y, i)
		if s.trace != nil {
			s.trace.attended(w, s, i)
		}
		switch {
		case y.experts != nil:
			s.moe(w, y)
		case y.memory != nil:
			s.memoryBlock(w, y, i)
		default:
			s.feedForward(w, y, i)
		}
		if s.trace != nil {
			s.trace.fed(w, s, i)
		}
	}
	s.head(w)
	if s.trace != nil {
		s.trace.closeLast(w, s)
		s.trace.finish(w, s)
	}
}

func (s *State) embed(r int) {
	m := s.m
	x := s.x[r*m.strideX():][:m.Dim]
	if err := m.file.Guard(func() { kernel.EmbedRow(x, m.embed.Format, m.embed.Data, int(s.rows[r].token)) }); err != nil {
		s.lost.Store(&err)
		clear(x)
	}
	if m.embedScale != 1 {
		for i, v := range x {
			x[i] = float32(v * m.embedScale)
		}
	}
	for i, rope := range m.ropes {
		s.rot[i][r].Set(rope, s.rows[r].pos)
	}
	s.qScale[r] = m.attnScale
	if m.tempScale != 0 {
		s.qScale[r] = float32(m.attnScale * arith.LogScale(float64(s.rows[r].pos/m.tempFloor+1), m.tempScale))
	}
}

// prepare fills a kernel.Input with n inputs that fill(r, tmp) computes into
// tmp or finds elsewhere, for products with the given matrices.
func (s *State) prepare(w *kernel.Worker, n, cols int, fill func(r int, tmp []float32) []float32, ms ...*kernel.Matrix) *kernel.Input {
	return s.prepareTraced(w, n, cols, seen{}, fill, ms...)
}

// seen says what a trace commits to while the inputs of all rows are prepared:
// a value of layer l, or nothing if it is not on. It is the inputs as the
// products take them (AttnOut, Hidden), or the residual stream from which they
// are made (ResidMid, ResidOut).
type seen struct {
	on bool
	v  ghost.Value
	l  int
}

// prepareTraced is prepare for inputs at which a trace looks, if one is being made.
func (s *State) prepareTraced(w *kernel.Worker, n, cols int, v seen, fill func(r int, tmp []float32) []float32, ms ...*kernel.Matrix) *kernel.Input {
	t := s.trace
	set := func(in *kernel.Input, r int, to []byte) {
		x := fill(r, s.tmp[w.ID()])
		if x == nil || to == nil && !in.Set(r, x) || to != nil && !in.SetRow(r, x, to) {
			s.void.Store(true)
		}
	}
	codes := t != nil && v.on && (v.v == ghost.AttnOut || v.v == ghost.Hidden)
	// alone sets a row that is not hashed in a group.
	alone := func(in *kernel.Input, r int) {
		if !codes || !t.live[r] || n <= redundant && w.ID() != 0 {
			set(in, r, nil)
			return
		}
		b := in.RowBytes()
		if v.v == ghost.AttnOut {
			set(in, r, t.at[r*b:][:b])
		} else {
			set(in, r, t.hd[r*b:][:b])
		}
	}
	if n <= redundant {
		in := &s.private[w.ID()]
		in.Reset(n, cols, ms...)
		for r := range n {
			alone(in, r)
		}
		return in
	}
	in := &s.shared
	if w.ID() == 0 {
		in.Reset(n, cols, ms...)
	}
	w.Barrier()
	if t == nil || !v.on || !t.of(v.l).someWide {
		w.For(n, 4, func(begin, end int) {
			for r := begin; r < end; r++ {
				alone(in, r)
			}
		})
		return in
	}
	w.For(len(t.groups), 1, func(begin, end int) {
		for i := begin; i < end; i++ {
			g := t.groups[i]
			if !t.of(v.l).wide[i] {
				for r := range g.n {
					alone(in, g.first+r)
				}
				continue
			}
			var rows []byte
			b := 0
			if codes {
				b = in.RowBytes()
				rows = rowsOf(&t.work[w.ID()].rows, b)
			}
			for r := range g.n {
				if codes {
					set(in, g.first+r, rows[r*stride(b):][:b])
				} else {
					set(in, g.first+r, nil)
				}
			}
			switch v.v {
			case ghost.AttnOut:
				t.hashRows(v.l, i, ghost.MaxScore, 0, t.top[g.first*4*s.m.Heads:], 4*s.m.Heads, 4*s.m.Heads, false)
				t.hashRows(v.l, i, v.v, 0, rows, b, stride(b), false)
			case ghost.Hidden:
				t.hashRows(v.l, i, v.v, 0, rows, b, stride(b), false)
			case ghost.ResidMid:
				t.stream(s, v.l, i, v.v)
			case ghost.ResidOut:
				t.closeWide(s, v.l, i)
			}
		}
	})
	return in
}

// normed returns a fill function for prepare: row r of the residual stream
// after RMSNorm.
func (s *State) normed(weight []float32) func(int, []float32) []float32 {
	m := s.m
	return func(r int, tmp []float32) []float32 {
		if !m.Path.RMSNorm(tmp, s.x[r*m.strideX():], weight, m.Dim, m.Eps) {
			return nil
		}
		return tmp
	}
}

// product is one matrix of a stage with its destination.
type product struct {
	l      *linear
	dst    []float32
	stride int
}

// leastGroups is the smallest piece of row groups a member takes at once.
const leastGroups = 2

// multiply computes several products with one input. after, if not nil, is
// called for each finished range of rows of a product.
func (s *State) multiply(w *kernel.Worker, in *kernel.Input, after func(p, row0, row1 int), ps ...product) {
	groups := 0
	for _, p := range ps {
		groups += p.l.m.Groups()
	}
	w.ForGuided(groups, leastGroups, func(begin, end int) {
		base := 0
		for i, p := range ps {
			n := p.l.m.Groups()
			b, e := max(begin-base, 0), min(end-base, n)
			base += n
			if b >= e {
				continue
			}
			p.l.apply(p.dst, p.stride, in, b, e)
			if after != nil {
				after(i, b*kernel.GroupRows, min(e*kernel.GroupRows, p.l.m.Rows))
			}
		}
	})
}

// apply multiplies row groups [begin, end) and applies scale and bias.
func (l *linear) apply(dst []float32, stride int, in *kernel.Input, begin, end int) {
	l.m.Mul(dst, stride, in, begin, end)
	if l.scale == 1 && l.bias == nil {
		return
	}
	r0, r1 := begin*kernel.GroupRows, min(end*kernel.GroupRows, l.m.Rows)
	for i := range in.Rows() {
		l.finish(dst[i*stride+r0:i*stride+r1], r0)
	}
}

// finish applies scale and bias to the outputs of rows row0, row0+1, ….
func (l *linear) finish(y []float32, row0 int) {
	if l.scale != 1 && l.scaleFirst {
		for i, v := range y {
			y[i] = float32(v * l.scale)
		}
	}
	if l.bias != nil {
		for i, v := range y {
			y[i] = v + l.bias[row0+i]
		}
	}
	if l.scale != 1 && !l.scaleFirst {
		for i, v := range y {
			y[i] = float32(v * l.scale)
		}
	}
}

// planAttention cuts the batch's queries into tiles.
func (s *State) planAttention() {
	m := s.m
	s.tiles = s.tiles[:0]
	heads := m.Heads / m.KVHeads
	// Late tokens see more, so their tiles go first and short ones fill up.
	plan := func(seg, begin, end int) {
		for first := begin + (end-begin-1)/kernel.MaxQueries*kernel.MaxQueries; first >= begin; first -= kernel.MaxQueries {
			for h := range m.KVHeads {
				s.tiles = append(s.tiles, tile{seg: seg, kvHead: h, first: first, n: min(kernel.MaxQueries, end-first)})
			}
		}
	}
	if s.trace == nil {
		for i := range s.segs {
			plan(i, 0, len(s.segs[i].Tokens)*heads)
		}
		return
	}
	t := s.trace
	for i, g := range slices.Backward(t.groups) {
		if t.full(g) {
			seg := s.rows[g.first].seg
			token := g.first - s.firstRow(seg)
			for h := range m.Heads {
				for j := 0; j < g.n; j += kernel.MaxQueries {
					s.tiles = append(s.tiles, tile{seg: seg, kvHead: h, first: token + j, n: kernel.MaxQueries, across: true, group: i})
				}
			}
		}
	}
	for _, g := range slices.Backward(t.groups) {
		if !t.full(g) {
			seg := s.rows[g.first].seg
			token := g.first - s.firstRow(seg)
			plan(seg, token*heads, (token+g.n)*heads)
		}
	}
}

func (s *State) attention(w *kernel.Worker, y *layer, l int) {
	m := s.m
	n := len(s.rows)
	in := s.prepareTraced(w, n, m.Dim, seen{l > 0, ghost.ResidOut, l - 1}, s.normed(y.attnNorm), y.q.m, y.k.m, y.v.m)
	s.multiply(w, in, nil,
		product{&y.q, s.q, m.strideQ()}, product{&y.k, s.k, m.strideK()}, product{&y.v, s.v, m.strideV()})

	if t := s.trace; t != nil && t.of(l).someWide {
		w.For(len(t.groups), 1, func(begin, end int) {
			for i := begin; i < end; i++ {
				if t.of(l).wide[i] {
					t.rawWide(w, s, y, l, i)
					continue
				}
				g := t.groups[i]
				for r := g.first; r < g.first+g.n; r++ {
					s.keysAndQueriesAlone(y, l, r, 0, m.KVHeads)
				}
			}
		})
	} else {
		w.For(n*m.KVHeads, max(1, m.KVHeads), func(begin, end int) {
			for i := begin; i < end; {
				r := i / m.KVHeads
				h := i % m.KVHeads
				stop := min(end-i+h, m.KVHeads)
				s.keysAndQueriesAlone(y, l, r, h, stop)
				i += stop - h
			}
		})
	}
	if s.trace != nil {
		w.For(len(s.tiles), 2, func(begin, end int) {
			for ; begin < end; begin += 2 {
				s.trace.attendTraced(w, s, y, l, s.tiles[begin:min(begin+2, end)])
			}
		})
	} else {
		w.For(len(s.tiles), 1, func(begin, end int) {
			for _, t := range s.tiles[begin:end] {
				s.attendTile(w, y, l, t)
			}
		})
	}

	in = s.prepareTraced(w, n, m.Heads*m.ValDim, seen{true, ghost.AttnOut, l}, func(r int, _ []float32) []float32 {
		return s.att[r*m.strideA():][:m.Heads*m.ValDim]
	}, y.o.m)
	s.project(w, in, &y.o, y.postAttn, s.tracedRaw(func(t *Trace) []float32 { return t.or }))
}

func (s *State) tracedRaw(of func(*Trace) []float32) []float32 {
	if s.trace == nil {
		return nil
	}
	return of(s.trace)
}

// keysAndQueriesAlone is keysAndQueries for a row that is in no group of a trace.
func (s *State) keysAndQueriesAlone(y *layer, l, r, h0, h1 int) {
	m := s.m
	if t := s.trace; t != nil && t.live[r] {
		e := m.KeyDim * t.g.ElemBytes()
		group := m.Heads / m.KVHeads
		s.keysAndQueries(y, l, r, h0, h1, t.rq[(r*m.Heads+h0*group)*e:], t.rk[(r*m.KVHeads+h0)*e:])
	} else {
		s.keysAndQueries(y, l, r, h0, h1, nil, nil)
	}
}

// keysAndQueries rotates and rounds the queries of key heads [h0, h1) of row r
// and stores the keys and values. It writes raw queries and keys as a trace
// commits to them to rq and rk, which may be nil.
func (s *State) keysAndQueries(y *layer, l, r, h0, h1 int, rq, rk []byte) {
	m := s.m
	p := m.Path
	group := m.Heads / m.KVHeads
	q := s.q[r*m.strideQ():][h0*group*m.KeyDim : h1*group*m.KeyDim]
	k := s.k[r*m.strideK():][h0*m.KeyDim : h1*m.KeyDim]
	if rq != nil {
		p.RoundTo(rq, q, m.KV)
		p.RoundTo(rk, k, m.KV)
	} else {
		p.ScaleRound(q, 1, m.KV)
		p.ScaleRound(k, 1, m.KV)
	}
	if m.headNorm {
		ok := true
		for h := 0; h < len(q); h += m.KeyDim {
			ok = p.RMSNorm(q[h:h+m.KeyDim], q[h:h+m.KeyDim], y.qNorm, m.KeyDim, m.Eps) && ok
		}
		for h := 0; h < len(k); h += m.KeyDim {
			ok = p.RMSNorm(k[h:h+m.KeyDim], k[h:h+m.KeyDim], y.kNorm, m.KeyDim, m.Eps) && ok
		}
		if !ok {
			s.void.Store(true)
		}
	}
	if m.rowNorm && h0 == 0 {
		// All heads of a row are one piece of the loop, see attention.
		if !p.RMSNorm(q, q, y.qNorm, len(q), m.Eps) || !p.RMSNorm(k, k, y.kNorm, len(k), m.Eps) {
			s.void.Store(true)
		}
	}
	rot := &s.rot[0][r]
	if y.rope != m.ropes[0] {
		rot = &s.rot[1][r]
	}
	p.Rotate(q, (h1-h0)*group, m.KeyDim, rot, m.neox)
	p.Rotate(k, h1-h0, m.KeyDim, rot, m.neox)
	p.ScaleRound(q, s.qScale[r], m.KV)
	pos := s.rows[r].pos
	page := s.segs[s.rows[r].seg].Cache.Pages[pos/PagePositions]
	shape := m.shape()
	for h := h0; h < h1; h++ {
		at := (l*m.KVHeads + h) * shape.PageBytes()
		v := s.v[r*m.strideV()+h*m.ValDim:][:m.ValDim]
		p.Store(shape, page[at:at+shape.PageBytes()], pos%PagePositions, k[(h-h0)*m.KeyDim:][:m.KeyDim], v)
	}
}

func (s *State) attendTile(w *kernel.Worker, y *layer, l int, t tile) {
	m := s.m
	group := m.Heads / m.KVHeads
	a := &s.scratch[w.ID()]
	seg := &s.segs[t.seg]
	a.Shape, a.Softcap, a.Pages = m.shape(), m.attnCap, seg.Cache.Pages
	kvHead := t.kvHead
	if t.across {
		kvHead /= group
	}
	a.Offset = (l*m.KVHeads + kvHead) * a.Shape.PageBytes()
	row0 := s.firstRow(t.seg)
	for i := range t.n {
		token, head := t.query(i, group)
		r := row0 + token
		a.Q[i] = s.q[r*m.strideQ()+head*m.KeyDim:][:m.KeyDim]
		a.Out[i] = s.att[r*m.strideA()+head*m.ValDim:][:m.ValDim]
		a.End[i] = seg.Start + token + 1
		a.First[i] = 0
		if y.window > 0 {
			a.First[i] = max(0, a.End[i]-y.window)
		}
	}
	m.Path.Attend(a, t.n)
}

// project multiplies by the last matrix of a block and adds the result to the
// residual stream, after the block's output norm if it has one.
func (s *State) project(w *kernel.Worker, in *kernel.Input, l *linear, post, raw []float32) {
	m := s.m
	n := in.Rows()
	if post == nil {
		s.multiply(w, in, func(_, r0, r1 int) {
			for r := range n {
				at := r * m.strideX()
				m.Path.Add(s.x[at+r0:at+r1], s.out[at+r0:at+r1])
			}
		}, product{l, s.out, m.strideX()})
		return
	}
	s.multiply(w, in, nil, product{l, s.out, m.strideX()})
	w.For(n, 4, func(begin, end int) {
		for r := begin; r < end; r++ {
			y := s.out[r*m.strideX():][:kernel.Pad(m.Dim)]
			if raw != nil {
				copy(raw[r*m.strideX():][:m.Dim], y)
			}
			if !m.Path.RMSNorm(y, y, post, m.Dim, m.Eps) {
				s.void.Store(true)
			}
			m.Path.Add(s.x[r*m.strideX():][:m.Dim], y[:m.Dim])
		}
	})
}

func (s *State) feedForward(w *kernel.Worker, y *layer, l int) {
	m := s.m
	n := len(s.rows)
	in := s.prepareTraced(w, n, m.Dim, seen{true, ghost.ResidMid, l}, s.normed(y.ffnNorm), y.gate.m, y.up.m)
	// Gate and up of the same rows are computed together, so that they are
	// still in the cache when they are multiplied.
	groups := y.gate.m.Groups()
	w.ForGuided(groups, leastGroups, func(begin, end int) {
		y.gate.apply(s.g, m.strideF(), in, begin, end)
		y.up.apply(s.u, m.strideF(), in, begin, end)
		r0, r1 := begin*kernel.GroupRows, min(end*kernel.GroupRows, m.FF)
		for r := range n {
			g, u := s.g[r*m.strideF()+r0:r*m.strideF()+r1], s.u[r*m.strideF()+r0:r*m.strideF()+r1]
			m.Path.GateMul(m.gate, g, g, u)
		}
	})
	in = s.prepareTraced(w, n, m.FF, seen{true, ghost.Hidden, l}, func(r int, _ []float32) []float32 {
		return s.g[r*m.strideF():][:m.FF]
	}, y.down.m)
	s.project(w, in, &y.down, y.postFFN, s.tracedRaw(func(t *Trace) []float32 { return t.dr }))
}

// head computes final norms and the wanted logits.
func (s *State) head(w *kernel.Worker) {
	m := s.m
	n := len(s.want)
	if n == 0 {
		// The last layer's output is not looked at; a value that is not finite
		// will show when its keys are.
		return
	}
	in := s.prepare(w, n, m.Dim, func(i int, tmp []float32) []float32 {
		r := s.want[i]
		if !m.Path.RMSNorm(tmp, s.x[r*m.strideX():], m.norm, m.Dim, m.Eps) {
			return nil
		}
		if g := &s.segs[s.rows[r].seg]; g.Hidden != nil && s.rows[r].pos == g.Start+len(g.Tokens)-1 && (n > redundant || w.ID() == 0) {
			copy(g.Hidden, tmp[:m.Dim])
		}
		return tmp
	}, m.output.m)
	if !s.logitsWanted {
		w.Barrier()
		return
	}
	stride := kernel.Pad(m.Vocab)
	s.multiply(w, in, func(_, r0, r1 int) {
		for i := range n {
			y := s.logits[i*stride+r0 : i*stride+r1]
			for j, v := range y {
				if m.logitCap > 0 {
					v = arith.SoftCap(v, m.logitCap)
					y[j] = v
				}
				if !arith.Finite(v) {
					s.void.Store(true)
				}
			}
		}
	}, product{&m.output, s.logits, stride})
}
