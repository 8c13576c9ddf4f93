package rows

import (
	"bytes"
	"compress/flate"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"slices"
	"testing"

	"github.com/geistnet/geist/arith"
	"github.com/geistnet/geist/ghost"
	"github.com/geistnet/geist/internal/gguf"
	"github.com/geistnet/geist/sat"
)

// The tables of docs/bench/rows.md come from here, with GEIST_MODEL a trained
// model. Without it a small random one shows that the measuring works.

// small tells that there is no model to measure.
func small() bool { return os.Getenv("GEIST_MODEL") == "" }

// often is how often something random is tried.
func often(n int) int {
	if small() {
		return 3
	}
	return n
}

// bench has the rows of a table as bytes and values.
type bench struct {
	name   string
	hashed bool
	sat.Table
	rows   [][]byte
	values [][]float32
}

func benches(t testing.TB, f *gguf.File, g *ghost.Model, tables []Table) []bench {
	t.Helper()
	var out []bench
	if small() {
		tables = tables[len(tables)-2:]
	}
	for i := range tables {
		x := &tables[i]
		b := bench{name: x.Name, Table: x.Table}
		for l := range g.Layers {
			if m := g.Layers[l].Memory; m != nil && g.Tensors[m.Table].Name == x.Name {
				b.hashed = g.Rules[m.Rule].Hash != nil
			}
		}
		data, size := f.Tensor(x.Name).Data, x.RowBytes()
		for id := range x.Rows {
			row := data[id*size:][:size]
			v := make([]float32, x.Cols)
			arith.Dequantize(v, x.Format, row)
			b.rows, b.values = append(b.rows, row), append(b.values, v)
		}
		out = append(out, b)
	}
	return out
}

// deltas replaces each row but the first by its distance to the one before,
// byte by byte.
func deltas(rows [][]byte) []byte {
	var out []byte
	for i, r := range rows {
		for j, v := range r {
			if i > 0 {
				v -= rows[i-1][j]
			}
			out = append(out, v)
		}
	}
	return out
}

// coding sums what lookups take.
type coding struct {
	w                                        *flate.Writer
	lookups, plain, flate, delta, deltaFlate int
}

func newCoding(t testing.TB) *coding {
	t.Helper()
	w, err := flate.NewWriter(nil, flate.BestCompression)
	if err != nil {
		t.Fatal(err)
	}
	return &coding{w: w}
}

func (c *coding) deflated(b []byte) int {
	var out bytes.Buffer
	c.w.Reset(&out)
	_, err := c.w.Write(b)
	if err := errors.Join(err, c.w.Close()); err != nil {
		panic(err) // the buffer takes all
	}
	return out.Len()
}

func (c *coding) add(rows [][]byte) {
	b, d := bytes.Join(rows, nil), deltas(rows)
	c.lookups++
	c.plain += len(b)
	c.flate += min(len(b), c.deflated(b)) // a bit says which
	c.deltaFlate += min(len(b), c.deflated(d))
	c.delta += len(d)
}

func (c *coding) String() string {
	of := func(n int) string { return fmt.Sprintf("%.1f %%", 100*float64(n)/float64(c.plain)) }
	return fmt.Sprintf("%d bytes a lookup; flate %s, delta and flate %s", c.plain/c.lookups, of(c.flate), of(c.deltaFlate))
}

// partition makes cells of rows by k-means over some of them, and the order of
// all rows by cell.
func partition(b *bench, cells int, r *rand.Rand) (*sat.Partition, []int) {
	dim := b.Cols
	p := &sat.Partition{Dim: dim, Centroids: make([]float32, cells*dim)}
	for c, i := range r.Perm(b.Rows)[:cells] {
		copy(p.Centroids[c*dim:], b.values[i])
	}
	of, work := make([]int, b.Rows), make([]float32, dim)
	some := r.Perm(b.Rows)[:min(b.Rows, 1<<13)]
	assign := func(rows []int) {
		for _, i := range rows {
			v, best := b.values[i], float32(0)
			for c := range cells {
				if d := sat.Distance(v, p.Centroids[c*dim:][:dim], work); c == 0 || d < best {
					of[i], best = c, d
				}
			}
		}
	}
	for range 5 {
		assign(some)
		sum, count := make([]float64, cells*dim), make([]int, cells)
		for _, i := range some {
			count[of[i]]++
			for j, x := range b.values[i] {
				sum[of[i]*dim+j] += float64(x)
			}
		}
		for i := range sum {
			if n := count[i/dim]; n > 0 {
				p.Centroids[i] = float32(sum[i] / float64(n))
			}
		}
	}
	order := make([]int, b.Rows)
	for i := range order {
		order[i] = i
	}
	assign(order)
	slices.SortStableFunc(order, func(x, y int) int { return of[x] - of[y] })
	p.Begins = []int{0}
	for c := range cells {
		n := p.Begins[c]
		for n < len(order) && of[order[n]] == c {
			n++
		}
		p.Begins = append(p.Begins, n)
	}
	return p, order
}

// sorted is a table with its rows in another order.
func (b *bench) sorted(t testing.TB, order []int) *bench {
	x := &bench{name: b.name, Table: b.Table}
	for _, i := range order {
		x.rows, x.values = append(x.rows, b.rows[i]), append(x.values, b.values[i])
	}
	x.Root = newTable(t, x.name, x.Format, x.Cols, x.rows).Root
	return x
}

// cellsOf is how many cells a table gets: about the root of its rows.
func cellsOf(rows int) int {
	n := 1
	for n*n < rows {
		n *= 2
	}
	return n
}

// TestMeasureCompression prints what codings of rows would save, for what a
// token reads of hashed n-grams (8 rows) and product keys (16 rows), a prompt
// (512 rows) and a cell shown whole.
func TestMeasureCompression(t *testing.T) {
	f := testFile(t)
	g, tables := opened(t, f)
	for _, b := range benches(t, f, g, tables) {
		r := rand.New(rand.NewPCG(1, 2))
		count := 16
		if b.hashed {
			count = 8
		}
		for _, n := range []int{count, 512} {
			c := newCoding(t)
			for range often(50) {
				var rows [][]byte
				for _, id := range distinct(someRows(r, n, b.Rows)) {
					rows = append(rows, b.rows[id])
				}
				c.add(rows)
			}
			t.Logf("%s, %v of %d, %d rows at once: %v", b.name, b.Format, b.Cols, n, c)
		}
		p, order := partition(&b, cellsOf(b.Rows), r)
		x := b.sorted(t, order)
		c := newCoding(t)
		for i := range p.Cells() {
			if p.Begins[i+1] > p.Begins[i] {
				c.add(x.rows[p.Begins[i]:p.Begins[i+1]])
			}
		}
		t.Logf("%s, by cell, %d rows at once: %v", b.name, b.Rows/p.Cells(), c)
		if c.flate > c.plain || c.deltaFlate > c.plain || c.delta != c.plain || c.lookups == 0 {
			t.Errorf("%+v", c)
		}
	}
}

// TestMeasureCells prints how many of the 16 nearest rows cells find, and the
// bytes of the lookup, for queries that are rows with noise.
func TestMeasureCells(t *testing.T) {
	f := testFile(t)
	g, tables := opened(t, f)
	for _, b := range benches(t, f, g, tables) {
		r := rand.New(rand.NewPCG(3, 4))
		p, order := partition(&b, cellsOf(b.Rows), r)
		x := b.sorted(t, order)
		if err := p.Check(); err != nil {
			t.Fatal(err)
		}
		var squares float64
		for _, v := range x.values {
			squares += float64(arith.SumSquares(v))
		}
		deviation := float32(math.Sqrt(squares / float64(b.Rows) / float64(b.Cols)))
		var queries [][]float32
		for range often(50) {
			q := slices.Clone(x.values[r.IntN(b.Rows)])
			for i := range q {
				q[i] += deviation / 2 * float32(r.NormFloat64())
			}
			queries = append(queries, q)
		}
		const k = 16
		truth := make([][]int, len(queries))
		work := make([]float32, b.Cols)
		for i, q := range queries {
			var near []sat.Pick // ascending
			for id, v := range x.values {
				d := sat.Distance(q, v, work)
				if at, _ := slices.BinarySearchFunc(near, d, func(p sat.Pick, d float32) int {
					if p.Sum <= d { // an equal one has a smaller row
						return -1
					}
					return 1
				}); at < k {
					near = slices.Insert(near, at, sat.Pick{Row: id, Sum: d})
					near = near[:min(k, len(near))]
				}
			}
			for _, a := range near {
				truth[i] = append(truth[i], a.Row)
			}
		}
		last := -1
		for probe := 1; probe <= p.Cells(); probe *= 2 {
			rule := sat.Rule{Cells: &sat.Cells{Partition: p, Probe: probe, TopK: k}}
			found, size, rows, lookups := 0, 0, 0, 0
			for i, q := range queries {
				s, err := rule.Select(&x.Table, sat.Input{Query: q})
				if err != nil {
					continue // empty cells
				}
				var shown [][]byte
				for _, id := range s.IDs {
					shown = append(shown, x.rows[id])
				}
				near, err := s.Nearest(&x.Table, shown)
				if err != nil {
					t.Fatal(err)
				}
				for _, a := range near {
					if slices.Contains(truth[i], a.Row) {
						found++
					}
				}
				n, err := sat.ProofLen(x.Rows, sat.Level(x.Rows, 1<<12), s.IDs)
				if err != nil {
					t.Fatal(err)
				}
				lookups++
				rows += len(s.IDs)
				size += len(s.IDs)*x.RowBytes() + 32*n
			}
			if found < last {
				t.Errorf("%d cells find %d, fewer found %d", probe, found, last)
			}
			last = found
			t.Logf("%s, %d cells, %d shown: recall@16 %.3f, %d rows, %d bytes", b.name, p.Cells(), probe, float64(found)/float64(k*len(queries)), rows/max(1, lookups), size/max(1, lookups))
		}
		if last != k*len(queries) {
			t.Errorf("all cells find %d of %d", last, k*len(queries))
		}
	}
}
