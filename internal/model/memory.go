package model

import (
	"fmt"
	"sync"

	"github.com/geistnet/geist/arith"
	"github.com/geistnet/geist/ghost"
	"github.com/geistnet/geist/internal/gguf"
	"github.com/geistnet/geist/internal/kernel"
	"github.com/geistnet/geist/sat"
)

// Memory has the rows of memory blocks where these are not read from the model
// file. It vouches for them: a row that is not the model's gives another answer.
type Memory interface {
	// Table says what a table is by the name of its tensor; ok is false if the
	// rows are to be read from the model file.
	Table(name string) (f arith.Format, rows, cols int, ok bool)
	// Rows writes the rows of a table into dst, one after the other in order of
	// ids, which may name a row twice. It is called once in a pass for each
	// block, and from several goroutines; those of hashed n-grams, whose rows
	// follow from the tokens, all at once before the pass begins.
	Rows(name string, ids []int, dst []byte) error
}

// memory is what a memory block has in place of the matrix up.
type memory struct {
	rule       sat.Rule
	name       string // of the table
	format     arith.Format
	rows, cols int          // of the table
	tensor     *gguf.Tensor // nil: the rows come from Model.memory
	// Of product keys. keys has a matrix for each head and half.
	query linear
	keys  []linear
}

// count is the number of rows that a token reads.
func (x *memory) count() int {
	if x.rule.Hash != nil {
		return x.rule.Hash.Count()
	}
	return x.rule.Product.Count()
}

// memoryRules reads which blocks have memory.
func (c *Config) memoryRules(m *meta) {
	key := m.arch + ".memory.rule"
	rules, ok := m.f.Strings(key)
	if _, there := m.f.Value(key); there && (!ok || len(rules) != c.Layers) {
		m.fail("%s does not have a text for each of %d blocks", key, c.Layers)
	}
	if c.Experts > 0 {
		m.fail("the %s architecture has no experts", m.arch)
	}
	hash, product := false, false
	for i, r := range rules {
		switch r {
		case "":
		case "hash":
			hash = true
		case "product":
			product = true
		default:
			m.fail("%s: the rule of block %d is %.20q; it must be empty, \"hash\" or \"product\"", key, i, r)
		}
	}
	if m.err != nil {
		return
	}
	c.memory = rules
	if hash {
		orders, _ := m.f.Ints(m.arch + ".memory.hash.orders")
		if len(orders) == 0 {
			m.fail("%s.memory.hash.orders is missing; lengths of n-grams belong there", m.arch)
		}
		for _, n := range orders {
			if n < 1 || n > 16 {
				m.fail("%s.memory.hash.orders has %d; it must be between 1 and 16", m.arch, n)
				n = 1
			}
			c.hashOrders = append(c.hashOrders, int(n))
			c.lookback = max(c.lookback, int(n)-1)
		}
		c.hashHeads = m.size("memory.hash.heads", 0, 256)
	}
	if product {
		c.productHeads = m.size("memory.product.heads", 0, 256)
		c.productTopK = m.size("memory.product.topk", 0, 1024)
	}
}

// Lookback is how many tokens before a segment a pass must know.
func (c *Config) Lookback() int { return c.lookback }

// memory plans the memory block i.
func (l *loader) memory(y *layer, i int, p string) {
	c := &l.m.Config
	x := &memory{name: p + "memory.weight"}
	y.memory = x
	t := l.take(x.name)
	if l.opt.Memory != nil {
		var ok bool
		if x.format, x.rows, x.cols, ok = l.opt.Memory.Table(x.name); ok {
			t = nil
			l.m.memory = l.opt.Memory
		} else {
			x.format = arith.F32
		}
	}
	if x.rows == 0 {
		if t == nil {
			l.fail("tensor %q is missing; is this a complete %s model?", x.name, c.Arch)
			return
		}
		x.tensor, x.format, x.rows, x.cols = t, t.Format, t.Rows(), t.Cols()
	}
	if !x.format.Known() || x.rows < 1 || x.cols < 1 || x.cols > maxDim || x.cols%x.format.BlockLen() != 0 {
		l.fail("table %q of %d rows of %d in format %v is out of range", x.name, x.rows, x.cols, x.format)
		return
	}
	l.linear(&y.gate, p+"ffn_gate", c.FF, c.Dim, false, false)
	wide := 1 // rows that make FF values
	if c.memory[i] == "hash" {
		h := &sat.Hash{Orders: c.hashOrders, Heads: c.hashHeads, Salt: uint64(i)}
		h.Rows = x.rows / h.Count()
		x.rule.Hash = h
		wide = h.Count()
	} else {
		l.product(x, p)
		if l.err != nil {
			return
		}
	}
	l.linear(&y.down, p+"ffn_down", c.Dim, c.FF, false, false)
	if err := x.rule.Check(); err != nil {
		l.fail("tensor %q: %v", x.name, err)
		return
	}
	want := 0
	if h := x.rule.Hash; h != nil {
		want = h.TableRows()
	} else {
		want = x.rule.Product.TableRows()
	}
	if x.rows != want || x.cols*wide != c.FF {
		l.fail("tensor %q has %d rows of %d; expected %d, of which %d make %d values", x.name, x.rows, x.cols, want, wide, c.FF)
	}
}

// product plans the queries and sub-keys of a block with product keys. Their
// shapes say how many sub-keys there are and how wide.
func (l *loader) product(x *memory, p string) {
	c := &l.m.Config
	name := p + "memory_keys.weight"
	t := l.take(name)
	if t == nil {
		l.fail("tensor %q is missing; is this a complete %s model?", name, c.Arch)
		return
	}
	halves := 2 * c.productHeads
	r := &sat.Product{Heads: c.productHeads, Keys: t.Rows() / halves, Dim: t.Cols(), TopK: c.productTopK}
	x.rule.Product = r
	if err := r.Check(); err != nil || r.KeyRows() != t.Rows() {
		l.fail("tensor %q has %d rows of %d, which are no sub-keys of %d heads: %v", name, t.Rows(), t.Cols(), c.productHeads, err)
		return
	}
	l.linear(&x.query, p+"memory_query", r.QueryLen(), c.Dim, false, false)
	x.keys = make([]linear, halves)
	for i := range x.keys {
		l.matrix(&x.keys[i], t, name, i*r.Keys, r.Keys, r.Dim, r.KeyRows())
	}
}

// recall is the scratch memory of memory blocks.
type recall struct {
	grams   []int32        // the last tokens of a row
	ids     [][]int        // [layer] of hashed n-grams: count for each row
	bytes   [][]byte       // [layer] the rows of ids, where they come from Model.memory
	query   []float32      // [row] raw queries
	scores  []float32      // [row][half] of sub-keys
	weights []float32      // [row][head] of picks
	picks   []int          // [row][head] rows
	fetched []byte         // rows of picks, where they come from Model.memory
	halves  []kernel.Input // [half]
	strideQ int
	strideK int // of one half
	failed  []error
}

func (s *State) newRecall() {
	m := s.m
	c := &s.recall
	halves, count := 0, 0
	for i := range m.layers {
		x := m.layers[i].memory
		if x == nil {
			continue
		}
		if c.ids == nil {
			c.ids, c.bytes = make([][]int, len(m.layers)), make([][]byte, len(m.layers))
			c.failed = make([]error, len(m.layers))
		}
		if x.rule.Hash != nil {
			c.ids[i] = make([]int, 0, s.most*x.count())
			continue
		}
		p := x.rule.Product
		halves, count = max(halves, 2*p.Heads), max(count, p.Count())
		c.strideQ = max(c.strideQ, kernel.Pad(p.QueryLen()))
		c.strideK = max(c.strideK, kernel.Pad(p.Keys))
	}
	c.query = make([]float32, s.most*c.strideQ)
	c.scores = make([]float32, s.most*halves*c.strideK)
	c.weights = make([]float32, s.most*count)
	c.picks = make([]int, s.most*count)
	c.halves = make([]kernel.Input, halves)
}

// recallBytes predicts the memory of newRecall for each token of a batch.
func (m *Model) recallBytes() int {
	n := 0
	for i := range m.layers {
		x := m.layers[i].memory
		if x == nil {
			continue
		}
		if x.tensor == nil {
			n += x.count() * x.format.RowBytes(x.cols)
		}
		n += 8 * x.count()
		if p := x.rule.Product; p != nil {
			n = max(n, 4*(kernel.Pad(p.QueryLen())+2*p.Heads*kernel.Pad(p.Keys))+12*p.Count()+2*p.QueryLen())
		}
	}
	return n
}

// hashes finds the rows of all blocks with hashed n-grams and asks for them
// where they are not in the file.
func (s *State) hashes() error {
	m, c := s.m, &s.recall
	var wait sync.WaitGroup
	for l := range m.layers {
		x := m.layers[l].memory
		if x == nil || x.rule.Hash == nil {
			continue
		}
		ids := c.ids[l][:0]
		for i := range s.segs {
			g := &s.segs[i]
			c.grams = append(c.grams[:0], g.Before[max(0, len(g.Before)-m.lookback):]...)
			n := len(c.grams)
			c.grams = append(c.grams, g.Tokens...)
			for t := range g.Tokens {
				ids = x.rule.Hash.IDs(ids, c.grams[max(0, n+t-m.lookback):n+t+1])
			}
		}
		c.ids[l] = ids
		if x.tensor != nil {
			continue
		}
		c.bytes[l] = room(c.bytes[l], len(ids)*x.format.RowBytes(x.cols))
		wait.Go(func() { c.failed[l] = m.memory.Rows(x.name, ids, c.bytes[l]) })
	}
	wait.Wait()
	for l, err := range c.failed {
		if err != nil {
			c.failed[l] = nil
			return fmt.Errorf("rows of %s: %w", m.layers[l].memory.name, err)
		}
	}
	return nil
}

func room(b []byte, n int) []byte {
	if cap(b) < n {
		return make([]byte, n, n+n/4)
	}
	return b[:n]
}

// recalled gives the i-th row of those that were asked for.
func (x *memory) recalled(ids []int, fetched []byte, i int) []byte {
	n := x.format.RowBytes(x.cols)
	if x.tensor == nil {
		return fetched[i*n:][:n]
	}
	return x.tensor.Data[ids[i]*n:][:n]
}

// memoryBlock is feedForward where u is made of rows.
func (s *State) memoryBlock(w *kernel.Worker, y *layer, l int) {
	m := s.m
	if y.memory.rule.Hash != nil {
		s.hashed(w, y, l)
	} else {
		s.picked(w, y, l)
	}
	in := s.prepareTraced(w, len(s.rows), m.FF, seen{true, ghost.Hidden, l}, func(r int, _ []float32) []float32 {
		return s.g[r*m.strideF():][:m.FF]
	}, y.down.m)
	s.project(w, in, &y.down, nil, nil)
}

// hashed makes silu(gate) ⊙ u of hashed n-grams.
func (s *State) hashed(w *kernel.Worker, y *layer, l int) {
	m, x := s.m, y.memory
	n := len(s.rows)
	in := s.prepareTraced(w, n, m.Dim, seen{true, ghost.ResidMid, l}, s.normed(y.ffnNorm), y.gate.m)
	s.multiply(w, in, nil, product{&y.gate, s.g, m.strideF()})
	count := x.count()
	ids, fetched := s.recall.ids[l], s.recall.bytes[l]
	w.For(n, 4, func(begin, end int) {
		s.guard(func() {
			for r := begin; r < end; r++ {
				u := s.u[r*m.strideF():][:m.FF]
				for i := range count {
					arith.Dequantize(u[i*x.cols:(i+1)*x.cols], x.format, x.recalled(ids, fetched, r*count+i))
				}
				g := s.g[r*m.strideF():][:m.FF]
				m.Path.GateMul(m.gate, g, g, u)
			}
		})
	})
}

// guard reads what may be the mapped file.
func (s *State) guard(read func()) {
	if err := s.m.file.Guard(read); err != nil {
		s.lost.Store(&err)
	}
}

// columns is how many values of u are summed at once: whole blocks of every
// format.
const columns = 256

// picked makes silu(gate) ⊙ u of product keys.
func (s *State) picked(w *kernel.Worker, y *layer, l int) {
	m, x, c := s.m, y.memory, &s.recall
	p := x.rule.Product
	n, halves, count := len(s.rows), 2*p.Heads, p.Count()
	in := s.prepareTraced(w, n, m.Dim, seen{true, ghost.ResidMid, l}, s.normed(y.ffnNorm), y.gate.m, x.query.m)
	s.multiply(w, in, nil, product{&y.gate, s.g, m.strideF()}, product{&x.query, c.query, c.strideQ})
	if s.trace != nil {
		s.trace.queried(w, s, p, l)
	}
	if w.ID() == 0 {
		for i := range x.keys {
			c.halves[i].Reset(n, p.Dim, x.keys[i].m)
		}
	}
	w.Barrier()
	w.For(n*halves, 8, func(begin, end int) {
		tmp := s.tmp[w.ID()]
		for i := begin; i < end; i++ {
			r, h := i/halves, i%halves
			half := c.query[r*c.strideQ+h*p.Dim:][:p.Dim]
			if !m.Path.RMSNorm(tmp, half, nil, p.Dim, m.Eps) || !c.halves[h].Set(r, tmp[:p.Dim]) {
				s.void.Store(true)
			}
		}
	})
	groups := x.keys[0].m.Groups()
	pieces := (groups + keyGroups - 1) / keyGroups
	w.For(halves*pieces, 1, func(begin, end int) {
		for i := begin; i < end; i++ {
			h, first := i/pieces, i%pieces*keyGroups
			x.keys[h].apply(c.scores[h*c.strideK:], halves*c.strideK, &c.halves[h], first, min(first+keyGroups, groups))
		}
	})
	w.For(n*p.Heads, 1, func(begin, end int) {
		for i := begin; i < end; i++ {
			s.pick(p, i/p.Heads, i%p.Heads)
		}
	})
	if x.tensor == nil {
		if w.ID() == 0 {
			c.fetched = room(c.fetched, n*count*x.format.RowBytes(x.cols))
			if err := m.memory.Rows(x.name, c.picks[:n*count], c.fetched); err != nil {
				err = fmt.Errorf("rows of %s: %w", x.name, err)
				s.lost.Store(&err)
				clear(c.fetched)
			}
		}
		w.Barrier()
	}
	pieces = (m.FF + columns - 1) / columns
	w.For(n*pieces, 1, func(begin, end int) {
		s.guard(func() {
			for i := begin; i < end; i++ {
				r, first := i/pieces, i%pieces*columns
				s.sumRows(x, r, first, min(first+columns, m.FF), w.ID())
				g := s.g[r*m.strideF():][first:min(first+columns, m.FF)]
				m.Path.GateMul(m.gate, g, g, s.u[r*m.strideF()+first:][:len(g)])
			}
		})
	})
}

// queried hashes raw queries. Their scores and rows follow from them.
func (t *Trace) queried(w *kernel.Worker, s *State, p *sat.Product, l int) {
	t.eachWide(w, l, func(g int) {
		step := s.recall.strideQ
		t.hashRows(l, g, ghost.MemoryQuery, 0, bytesOf(s.recall.query[t.groups[g].first*step:]), 4*p.QueryLen(), 4*step, false)
	})
	if t.of(l).allWide {
		return
	}
	w.For(len(s.rows), t.grain(len(s.rows)), func(begin, end int) {
		k := &t.work[w.ID()].lanes
		for r := begin; r < end; r++ {
			if t.single(l, r) {
				t.value(s, k, r, l, ghost.MemoryQuery, 0, bytesOf(s.recall.query[r*s.recall.strideQ:][:p.QueryLen()]))
			}
		}
		k.done()
	})
}

// keyGroups is how many groups of sub-keys a member takes at once.
const keyGroups = 4

// pick finds the rows and weights of one head.
func (s *State) pick(p *sat.Product, r, head int) {
	c := &s.recall
	at := r*p.Count() + head*p.TopK
	weights, ids := c.weights[at:][:p.TopK], c.picks[at:][:p.TopK]
	scores := c.scores[(r*2*p.Heads+2*head)*c.strideK:]
	picks, ok := p.Picks(make([]sat.Pick, 0, p.TopK), scores[:p.Keys], scores[c.strideK:][:p.Keys])
	if !ok {
		s.void.Store(true)
		clear(weights)
		clear(ids)
		return
	}
	sat.Weights(weights, picks)
	for i := range picks {
		ids[i] = picks[i].Row
	}
}

// sumRows makes the values [first, end) of u.
func (s *State) sumRows(x *memory, r, first, end, member int) {
	c := &s.recall
	count := x.count()
	u := s.u[r*s.m.strideF():][first:end]
	clear(u)
	row := s.tmp[member][:len(u)]
	from, to := x.format.RowBytes(first), x.format.RowBytes(end)
	for i := r * count; i < (r+1)*count; i++ {
		arith.Dequantize(row, x.format, x.recalled(c.picks, c.fetched, i)[from:to])
		sat.AddRow(u, c.weights[i], row)
	}
}
