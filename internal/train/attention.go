package train

import "github.com/geistnet/geist/internal/matmul"

// strip is how many queries are multiplied with their keys at once; keys after
// the last query of a strip are left out.
const strip = 64

// attention computes o = softmax(q·kᵀ/√HeadDim)·v of every window and head, each
// query over the keys of its own text up to its own, and keeps the weights p: for each window and
// head T rows of T weights, those of other texts and after the query's own position zero up to the
// end of its strip and undefined beyond.
func (t *Trainer) attention(o, p, q, k, v []float32) {
	s := &t.m.Shape
	T, hd, group := s.Context, s.HeadDim, s.Heads/s.KVHeads
	scale := 1 / root(float32(hd))
	matmul.Each(t.threads, t.batch*s.KVHeads, func(task int) {
		mm := <-t.serial
		defer func() { t.serial <- mm }()
		b, kv := task/s.KVHeads, task%s.KVHeads
		K := matmul.Of(k, t.batch*T, s.KVHeads*hd).Part(b*T, T, kv*hd, hd)
		V := matmul.Of(v, t.batch*T, s.KVHeads*hd).Part(b*T, T, kv*hd, hd)
		for h := kv * group; h < (kv+1)*group; h++ {
			Q := matmul.Of(q, t.batch*T, s.Heads*hd).Part(b*T, T, h*hd, hd)
			O := matmul.Of(o, t.batch*T, s.Heads*hd).Part(b*T, T, h*hd, hd)
			P := matmul.Of(p[(b*s.Heads+h)*T*T:], T, T)
			for i := 0; i < T; i += strip {
				n := min(strip, T-i)
				part := P.Part(i, n, 0, i+n)
				mm.Mul(part, Q.Part(i, n, 0, hd), K.Part(0, i+n, 0, hd).T(), false)
				for r := range n {
					t.softmaxRow(part.X[r*T:r*T+i+n], int(t.in.Start[b*T+i+r])-b*T, i+r+1, scale)
				}
				mm.Mul(O.Part(i, n, 0, hd), part, V.Part(0, i+n, 0, hd), false)
			}
		}
	})
}

// softmaxRow replaces the scores of row from first up to end by the softmax of their
// multiples and the others by zero.
func (t *Trainer) softmaxRow(row []float32, first, end int, scale float32) {
	const lanes = 16
	begin := first &^ (lanes - 1)
	near := row[begin:] // a whole number of lanes where row is one
	for j := range near {
		if j < first-begin || j >= end-begin {
			near[j] = -1e30 // e^−87 at most: nothing beside the largest, which is 1
		}
	}
	path := t.mm.Path()
	path.Scale(row[first:end], scale)
	sum := path.ExpSum(near, path.Largest(row[first:end]))
	path.Scale(row[first:end], 1/sum)
	clear(row[:first])
	clear(row[end:])
}

// attentionGrad writes the gradients dq, dk and dv from do and the weights of
// attention.
func (t *Trainer) attentionGrad(dq, dk, dv, do, p, q, k, v []float32) {
	s := &t.m.Shape
	T, hd, group := s.Context, s.HeadDim, s.Heads/s.KVHeads
	scale := 1 / root(float32(hd))
	path := t.mm.Path()
	matmul.Each(t.threads, t.batch*s.KVHeads, func(task int) {
		mm := <-t.serial
		defer func() { t.serial <- mm }()
		b, kv := task/s.KVHeads, task%s.KVHeads
		of := func(x []float32, heads, h int) matmul.Matrix {
			return matmul.Of(x, t.batch*T, heads*hd).Part(b*T, T, h*hd, hd)
		}
		K, V, dK, dV := of(k, s.KVHeads, kv), of(v, s.KVHeads, kv), of(dk, s.KVHeads, kv), of(dv, s.KVHeads, kv)
		ds := make([]float32, strip*T)
		for r := range T {
			clear(dK.X[r*dK.RowStep:][:hd])
			clear(dV.X[r*dV.RowStep:][:hd])
		}
		for h := kv * group; h < (kv+1)*group; h++ {
			Q, dO, dQ := of(q, s.Heads, h), of(do, s.Heads, h), of(dq, s.Heads, h)
			P := matmul.Of(p[(b*s.Heads+h)*T*T:], T, T)
			for i := 0; i < T; i += strip {
				n := min(strip, T-i)
				keys := i + n
				part := P.Part(i, n, 0, keys)
				dS := matmul.Of(ds, n, keys)
				mm.Mul(dV.Part(0, keys, 0, hd), part.T(), dO.Part(i, n, 0, hd), true)
				mm.Mul(dS, dO.Part(i, n, 0, hd), V.Part(0, keys, 0, hd).T(), false)
				for r := range n {
					// dS = P ⊙ (dP − Σ dP⊙P), times the scale of the scores
					d, w := ds[r*keys:(r+1)*keys], part.X[r*T:][:keys]
					a := path.Dot(d, w)
					for j, x := range d {
						d[j] = float32(float32(w[j]*(x-a)) * scale)
					}
				}
				mm.Mul(dQ.Part(i, n, 0, hd), dS, K.Part(0, keys, 0, hd), false)
				mm.Mul(dK.Part(0, keys, 0, hd), dS.T(), Q.Part(i, n, 0, hd), true)
			}
		}
	})
}
