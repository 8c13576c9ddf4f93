package train

import (
	"slices"

	"github.com/geistnet/geist/arith"
	"github.com/geistnet/geist/internal/matmul"
	"github.com/geistnet/geist/sat"
)

// memoryState is what the forward pass of a memory block keeps for its gradient.
type memoryState struct {
	ids []int32 // rows read: for each token Count of them

	// Of a product block only.
	weight []float32 // of each row read
	query  []float32 // N × QueryLen as the matrix gives them
	half   []float32 // likewise, each half divided by its root mean square
	scale  []float32 // N × 2·Heads: one over that root mean square
	void   []bool    // of each piece: a score was not finite
}

// hashRows finds the rows that every token of every window reads.
func (t *Trainer) hashRows(l int, ids []int32) {
	h, T := t.m.Shape.hash(l), t.m.Shape.Context
	count := h.Count()
	matmul.Each(t.threads, t.batch, func(b int) {
		buf := make([]int, 0, count)
		for i := b * T; i < (b+1)*T; i++ {
			buf = h.IDs(buf[:0], t.in.In[t.in.Start[i]:i+1])
			for j, id := range buf {
				if t.dropping && t.drops(l, i*count+j) {
					id = -1
				}
				ids[i*count+j] = int32(id)
			}
		}
	})
}

// Dropout leaves each hashed row that a step would read out with probability p,
// and makes the others larger in return: a model that leans on n-grams it has seen
// twice learns the text by heart. step, which Gradient counts up, decides which.
func (t *Trainer) Dropout(p float32, seed uint64, step int) {
	t.drop, t.dropSeed, t.dropStep = uint64(float64(p)*(1<<32)), seed, uint64(step)
	t.kept = 1
	if p > 0 {
		t.kept = 1 / (1 - p)
	}
}

// drops decides for one read of a row: SplitMix64 of seed, step, block and place.
func (t *Trainer) drops(l, place int) bool {
	z := t.dropSeed*0x9e3779b97f4a7c15 + t.dropStep<<32 + uint64(l)<<56 + uint64(place)
	z = (z ^ z>>30) * 0xbf58476d1ce4e5b9
	z = (z ^ z>>27) * 0x94d049bb133111eb
	return (z^z>>31)>>32 < t.drop
}

// hashRead sets u, N rows of FF values, to the rows of the table that ids name.
func (t *Trainer) hashRead(u []float32, tab *Table, ids []int32) {
	count, ff := t.m.Shape.FF/tab.Cols, t.m.Shape.FF
	n := len(ids) / count
	matmul.Each(t.threads, pieces(n), func(p int) {
		for i := p * piece; i < min((p+1)*piece, n); i++ {
			for j, id := range ids[i*count : (i+1)*count] {
				part := u[i*ff+j*tab.Cols:][:tab.Cols]
				if id < 0 {
					clear(part)
					continue
				}
				copy(part, tab.row(tab.W, int(id)))
				if t.dropping {
					t.mm.Path().Scale(part, t.kept)
				}
			}
		}
	})
}

// productRead sets u to the weighted sums of picked rows; x is the normed input.
func (t *Trainer) productRead(u, x []float32, b *block, st *memoryState) error {
	s := &t.m.Shape
	p := s.product()
	N, H, d, keys := t.n, p.Heads, p.Dim, p.Keys
	wide := p.QueryLen()
	t.mm.Mul(matmul.Of(st.query, N, wide), matmul.Of(x, N, s.Dim), b.memoryQuery.w().T(), false)
	halves := 2 * H
	matmul.Each(t.threads, pieces(N), func(c int) {
		for i := c * piece; i < min((c+1)*piece, N); i++ {
			for h := range halves {
				at := i*wide + h*d
				st.scale[i*halves+h] = arith.RMSNorm(st.half[at:at+d], st.query[at:at+d], nil, s.Eps)
			}
		}
	})
	scores := t.scratch(&t.scores, N*halves*keys)
	S, Q := matmul.Of(scores, N, halves*keys), matmul.Of(st.half, N, wide)
	for h := range halves {
		t.mm.Mul(S.Part(0, N, h*keys, keys), Q.Part(0, N, h*d, d), b.memoryKeys.w().Part(h*keys, keys, 0, d).T(), false)
	}
	path := t.mm.Path()
	matmul.Each(t.threads, pieces(N), func(c int) {
		st.void[c] = false
		var picks []sat.Pick
		for i := c * piece; i < min((c+1)*piece, N); i++ {
			row := scores[i*halves*keys:][:halves*keys]
			ui := u[i*s.FF : (i+1)*s.FF]
			clear(ui)
			for h := range H {
				var ok bool
				if picks, ok = p.Picks(picks[:0], row[2*h*keys:][:keys], row[(2*h+1)*keys:][:keys]); !ok {
					st.void[c] = true
					return
				}
				at := (i*H + h) * p.TopK
				w := st.weight[at : at+p.TopK]
				sat.Weights(w, picks)
				for j, k := range picks {
					st.ids[at+j] = int32(k.Row)
					path.Axpy(ui, b.memory.row(b.memory.W, k.Row), w[j])
				}
			}
		}
	})
	if slices.Contains(st.void, true) {
		return errDiverged
	}
	return nil
}

// productGrad adds to dx the gradient of the normed input, and to those of
// queries and keys, from du. The rows' gradients are made by rowGrads.
func (t *Trainer) productGrad(dx, du, x []float32, b *block, st *memoryState) {
	s := &t.m.Shape
	p := s.product()
	N, H, d, keys := t.n, p.Heads, p.Dim, p.Keys
	wide, halves := p.QueryLen(), 2*p.Heads
	dscores := t.scratch(&t.scores, N*halves*keys)
	path := t.mm.Path()
	matmul.Each(t.threads, pieces(N), func(c int) {
		g := make([]float32, p.TopK)
		for i := c * piece; i < min((c+1)*piece, N); i++ {
			row := dscores[i*halves*keys:][:halves*keys]
			clear(row)
			dui := du[i*s.FF : (i+1)*s.FF]
			for h := range H {
				at := (i*H + h) * p.TopK
				w, ids := st.weight[at:at+p.TopK], st.ids[at:at+p.TopK]
				var mean float32
				for j, id := range ids {
					g[j] = path.Dot(dui, b.memory.row(b.memory.W, int(id)))
					mean += float32(w[j] * g[j])
				}
				for j, id := range ids {
					ds := float32(w[j] * (g[j] - mean))
					row[2*h*keys+int(id)/keys] += ds
					row[(2*h+1)*keys+int(id)%keys] += ds
				}
			}
		}
	})
	dhalf := t.scratch(&t.dhalf, N*wide)
	S, Q, D := matmul.Of(dscores, N, halves*keys), matmul.Of(st.half, N, wide), matmul.Of(dhalf, N, wide)
	for h := range halves {
		part := S.Part(0, N, h*keys, keys)
		t.mm.Mul(D.Part(0, N, h*d, d), part, b.memoryKeys.w().Part(h*keys, keys, 0, d), false)
		t.mm.Mul(b.memoryKeys.g().Part(h*keys, keys, 0, d), part.T(), Q.Part(0, N, h*d, d), true)
	}
	matmul.Each(t.threads, pieces(N), func(c int) {
		for i := c * piece; i < min((c+1)*piece, N); i++ {
			for h := range halves {
				// of y = r·q with r = 1/rms: dq = r·(dy − y·Σ dy⊙y / d)
				y, dy := st.half[i*wide+h*d:][:d], dhalf[i*wide+h*d:][:d]
				a := path.Dot(dy, y) / float32(d)
				path.Axpy(dy, y, -a)
				path.Scale(dy, st.scale[i*halves+h])
			}
		}
	})
	t.mm.Mul(matmul.Of(dx, N, s.Dim), D, b.memoryQuery.w(), true)
	t.mm.Mul(b.memoryQuery.g(), D.T(), matmul.Of(x, N, s.Dim), true)
}

// RowGrads are the gradients of the rows of a table that a step touched.
type RowGrads struct {
	Rows []int     // strictly ascending
	G    []float32 // one gradient for each, of the table's width
}

// rowGrads sums du by rows: uses of a row in ascending order of token, then of
// place among the token's rows. A use takes the part of du that the row wrote,
// or of a product block all of it times the row's weight.
func (t *Trainer) rowGrads(g *RowGrads, tab *Table, du []float32, st *memoryState) {
	ff := t.m.Shape.FF
	per := len(st.ids) / t.n
	// Uses sorted by (row, place): a counting sort keeps places ascending.
	if len(t.first) < tab.Rows+1 {
		t.first = make([]int32, tab.Rows+1)
	}
	first := t.first[:tab.Rows+1]
	clear(first)
	for _, id := range st.ids {
		if id >= 0 {
			first[id+1]++
		}
	}
	g.Rows = g.Rows[:0]
	for i := range tab.Rows {
		if first[i+1] > 0 {
			g.Rows = append(g.Rows, i)
		}
		first[i+1] += first[i]
	}
	if len(t.uses) < len(st.ids) {
		t.uses = make([]int32, len(st.ids))
	}
	uses := t.uses[:len(st.ids)]
	for use, id := range st.ids {
		if id >= 0 {
			uses[first[id]] = int32(use)
			first[id]++
		}
	}
	// first[i] is now the end of row i's uses, so the start of those of row i+1.
	g.G = grow(g.G, len(g.Rows)*tab.Cols)
	path := t.mm.Path()
	const few = 64 // rows of a task
	matmul.Each(t.threads, (len(g.Rows)+few-1)/few, func(c int) {
		for i := c * few; i < min((c+1)*few, len(g.Rows)); i++ {
			row := g.Rows[i]
			begin := int32(0)
			if row > 0 {
				begin = first[row-1]
			}
			sum := g.G[i*tab.Cols : (i+1)*tab.Cols]
			clear(sum)
			for _, use := range uses[begin:first[row]] {
				n, place := int(use)/per, int(use)%per
				if st.weight != nil {
					path.Axpy(sum, du[n*ff:(n+1)*ff], st.weight[use])
					continue
				}
				path.Axpy(sum, du[n*ff+place*tab.Cols:][:tab.Cols], t.kept)
			}
		}
	})
}

// grow is x with n elements, whose old values may be lost.
func grow[T any](x []T, n int) []T {
	if cap(x) < n {
		return make([]T, n)
	}
	return x[:n]
}
