package sat

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"testing"

	"github.com/geistnet/geist/arith"
	"github.com/geistnet/geist/merkle"
)

// world is a table with its rows and its tree.
type world struct {
	Table
	rows [][]byte
	tree *merkle.Tree
}

func newWorld(t testing.TB, rows [][]byte, f arith.Format, cols int) *world {
	t.Helper()
	w := &world{Table{Rows: len(rows), Format: f, Cols: cols}, rows, nil}
	leaves := make([]merkle.Hash, len(rows))
	for i, r := range rows {
		leaves[i] = merkle.HashLeaf(r)
	}
	w.tree = merkle.FromLeaves(leaves, merkle.Plain{})
	var err error
	if w.Root, err = w.tree.Root(); err != nil {
		t.Fatal(err)
	}
	return w
}

func f16Row(x []float32) []byte {
	var b []byte
	for _, v := range x {
		b = binary.LittleEndian.AppendUint16(b, arith.F32ToF16(v))
	}
	return b
}

func randomWorld(t testing.TB, r *rand.Rand, rows, cols int) *world {
	t.Helper()
	var all [][]byte
	for range rows {
		all = append(all, f16Row(normal(r, cols)))
	}
	return newWorld(t, all, arith.F16, cols)
}

// top is the table with a level of its tree.
func (w *world) top(t testing.TB, level int) *Top {
	t.Helper()
	top, err := NewTop(w.Table, level, levelOf(w, level), nil)
	if err != nil {
		t.Fatal(err)
	}
	return top
}

// levelOf computes a level of the tree from the rows.
func levelOf(w *world, level int) []merkle.Hash {
	var hashes []merkle.Hash
	for _, r := range w.rows {
		hashes = append(hashes, merkle.HashLeaf(r))
	}
	for ; level > 0; level-- {
		n := 0
		for i := 0; i < len(hashes); i += 2 {
			hashes[n] = hashes[i]
			if i+1 < len(hashes) {
				hashes[n] = merkle.HashNode(hashes[i], hashes[i+1])
			}
			n++
		}
		hashes = hashes[:n]
	}
	return hashes
}

// lookup is an honest lookup of the rows at ids.
func (w *world) lookup(t testing.TB, level int, ids []uint64) []byte {
	t.Helper()
	proof, err := Prove(w.tree, level, ids)
	if err != nil {
		t.Fatal(err)
	}
	var rows [][]byte
	for _, id := range ids {
		rows = append(rows, w.rows[id])
	}
	return Encode(rows, proof)
}

// question is a rule with an input, over a world.
type question struct {
	*world
	rule Rule
	in   Input
}

const (
	testRows = 324 // 18², and 2·2 parts of 81
	testCols = 8
)

func testPartition(w *world, r *rand.Rand) *Partition {
	p := &Partition{Dim: w.Cols, Begins: []int{0}}
	for at := 0; at < w.Rows; {
		at = min(w.Rows, at+r.IntN(40))
		p.Begins = append(p.Begins, at)
		p.Centroids = append(p.Centroids, normal(r, w.Cols)...)
	}
	return p
}

func tokens(r *rand.Rand, n int) []int32 {
	x := make([]int32, n)
	for i := range x {
		x[i] = int32(r.IntN(5000))
	}
	return x
}

// input is a new input for a rule.
func input(r *rand.Rand, rule *Rule, w *world) Input {
	switch {
	case rule.Hash != nil:
		return Input{Tokens: tokens(r, 1+r.IntN(6))}
	case rule.Product != nil:
		return Input{Scores: normal(r, rule.Product.KeyRows())}
	case rule.Index != nil:
		in := Input{}
		for range rule.Index.Count {
			in.Rows = append(in.Rows, r.IntN(w.Rows))
		}
		return in
	}
	return Input{Query: normal(r, w.Cols)}
}

func questions(t testing.TB, r *rand.Rand) []question {
	w := randomWorld(t, r, testRows, testCols)
	rules := []Rule{
		{Hash: &Hash{Orders: []int{2, 3}, Heads: 2, Rows: 81, Salt: 3}},
		{Product: &Product{Heads: 2, Keys: 18, Dim: 4, TopK: 5}},
		{Index: &Index{Count: 6}},
		{Cells: &Cells{Partition: testPartition(w, r), Probe: 2, TopK: 7}},
	}
	var out []question
	for _, rule := range rules {
		out = append(out, question{w, rule, input(r, &rule, w)})
	}
	return out
}

// uByDefinition computes u from all rows of the table.
func (q *question) uByDefinition(s *Selection) []float32 {
	value := func(id int) []float32 {
		x := make([]float32, q.Cols)
		arith.Dequantize(x, q.Format, q.rows[id])
		return x
	}
	var u []float32
	switch {
	case q.rule.Hash != nil:
		for _, id := range q.rule.Hash.IDs(nil, q.in.Tokens) {
			u = append(u, value(id)...)
		}
	case q.rule.Index != nil:
		for _, id := range q.in.Rows {
			u = append(u, value(id)...)
		}
	case q.rule.Product != nil:
		p := q.rule.Product
		u = make([]float32, q.Cols)
		for h := range p.Heads {
			best := picksByDefinition(p, q.in.Scores[2*h*p.Keys:][:p.Keys], q.in.Scores[(2*h+1)*p.Keys:][:p.Keys])
			e := make([]float32, p.TopK)
			for i := range e {
				e[i] = arith.Exp(best[i].Sum - best[0].Sum)
			}
			z := arith.Sum(e)
			for i := range e {
				for c, v := range value(best[i].Row) {
					u[c] += float32(e[i] / z * v)
				}
			}
		}
	default:
		c := q.rule.Cells
		type far struct {
			d  float32
			id int
		}
		nearest := func(all []far, n int) []far {
			slices.SortFunc(all, func(a, b far) int {
				if a.d != b.d {
					if a.d < b.d {
						return -1
					}
					return 1
				}
				return a.id - b.id
			})
			return all[:min(n, len(all))]
		}
		distance := func(x []float32) float32 {
			d := make([]float32, len(x))
			for i := range x {
				d[i] = q.in.Query[i] - x[i]
			}
			return arith.SumSquares(d)
		}
		var cells, rows []far
		for i := range c.Partition.Cells() {
			cells = append(cells, far{distance(c.Partition.Centroids[i*q.Cols:][:q.Cols]), i})
		}
		for _, x := range nearest(cells, c.Probe) {
			for id := c.Partition.Begins[x.id]; id < c.Partition.Begins[x.id+1]; id++ {
				rows = append(rows, far{distance(value(id)), id})
			}
		}
		for _, x := range nearest(rows, c.TopK) {
			u = append(u, value(x.id)...)
		}
	}
	return u
}

// TestVerify: honest lookups of every rule at every level, and u by definition.
func TestVerify(t *testing.T) {
	r := rand.New(rand.NewPCG(5, 6))
	for range 20 {
		for _, q := range questions(t, r) {
			s, err := q.rule.Select(&q.Table, q.in)
			if errors.Is(err, ErrVoid) || err != nil && q.rule.Cells != nil {
				continue // only empty cells
			}
			if err != nil {
				t.Fatal(err)
			}
			want := q.uByDefinition(s)
			last := math.MaxInt
			for level := Level(q.Rows, 1); level >= 0; level-- {
				b := q.lookup(t, level, s.IDs)
				if len(b) > last {
					t.Errorf("level %d takes %d bytes, the level above %d", level, len(b), last)
				}
				last = len(b)
				u, err := Verify(q.top(t, level), &q.rule, q.in, b)
				if err != nil {
					t.Fatal(err)
				}
				if !slices.Equal(u, want) {
					t.Fatalf("u is %v, want %v", u, want)
				}
			}
			if last != len(s.IDs)*q.RowBytes() {
				t.Errorf("with all leaves known a lookup of %d rows has %d bytes", len(s.IDs), last)
			}
		}
	}
}

// TestSizes: trees of all small sizes, every level, many sets of rows.
func TestSizes(t *testing.T) {
	r := rand.New(rand.NewPCG(7, 8))
	for n := 1; n < 40; n++ {
		w := randomWorld(t, r, n, 1)
		for level := range Level(n, 1) + 1 {
			top := w.top(t, level)
			for range 20 {
				ids := someIDs(r, n)
				b := w.lookup(t, level, ids)
				if size, err := top.Size(ids); err != nil || size != len(b) {
					t.Fatalf("%d bytes, want %d: %v", size, len(b), err)
				}
				rows, err := top.Open(b, ids)
				if err != nil {
					t.Fatal(err)
				}
				for i, id := range ids {
					if !bytes.Equal(rows[i], w.rows[id]) {
						t.Fatalf("row %d is another", id)
					}
				}
			}
		}
	}
}

func someIDs(r *rand.Rand, n int) []uint64 {
	var ids []uint64
	for range 1 + r.IntN(6) {
		ids = append(ids, uint64(r.IntN(n)))
	}
	slices.Sort(ids)
	return slices.Compact(ids)
}

func TestTop(t *testing.T) {
	r := rand.New(rand.NewPCG(9, 10))
	w := randomWorld(t, r, 37, 2)
	for level := range 7 {
		hashes := levelOf(w, level)
		if len(hashes) != Width(37, level) || Level(37, len(hashes)) != level {
			t.Fatalf("level %d has %d nodes", level, len(hashes))
		}
		for i := range hashes {
			bad := slices.Clone(hashes)
			bad[i][r.IntN(32)] ^= 1 << r.IntN(8)
			if _, err := NewTop(w.Table, level, bad, nil); err == nil {
				t.Fatalf("node %d of level %d changed, and accepted", i, level)
			}
		}
		if _, err := NewTop(w.Table, level, append(hashes, merkle.Hash{}), nil); err == nil {
			t.Errorf("a hash too many at level %d", level)
		}
	}
	if _, err := NewTop(w.Table, 7, levelOf(w, 6), nil); err == nil {
		t.Error("a level above the root")
	}
	bare, err := Bare(w.Table, nil)
	if err != nil || bare.Level() != 6 {
		t.Fatalf("%v, %v", bare, err)
	}
	for _, bad := range []Table{{}, {Rows: 1, Cols: 1, Format: 99}, {Rows: 1, Cols: 33, Format: arith.Q8_0}} {
		if _, err := Bare(bad, nil); err == nil {
			t.Errorf("%+v is a table", bad)
		}
	}
}

// TestScores: each half against its own sub-keys, and what voids a run.
func TestScores(t *testing.T) {
	r := rand.New(rand.NewPCG(27, 28))
	p := &Product{Heads: 2, Keys: 5, Dim: 8, TopK: 3}
	w := randomWorld(t, r, p.KeyRows(), p.Dim)
	keys := bytes.Join(w.rows, nil)
	query := normal(r, p.QueryLen())
	got := make([]float32, p.KeyRows())
	const eps = 1e-5
	if !p.Scores(got, query, w.Format, keys, eps) {
		t.Fatal("void")
	}
	for s := range 2 * p.Heads {
		half := make([]float32, p.Dim)
		arith.RMSNorm(half, query[s*p.Dim:][:p.Dim], nil, eps)
		for i := range p.Keys {
			key := make([]float32, p.Dim)
			arith.Dequantize(key, w.Format, w.rows[s*p.Keys+i])
			want := float32(0)
			for j := range key {
				want += float32(key[j] * half[j])
			}
			if got[s*p.Keys+i] != want {
				t.Fatalf("score %d of half %d is %g, want %g", i, s, got[s*p.Keys+i], want)
			}
		}
	}
	for i := range query {
		bad := slices.Clone(query)
		bad[i] = float32(math.Inf(1))
		if p.Scores(got, bad, w.Format, keys, eps) {
			t.Errorf("value %d of the query is infinite", i)
		}
	}
	bad := bytes.Clone(keys)
	bad[2*7+1] = 0x7c // the exponent of an infinity or a NaN
	if p.Scores(got, query, w.Format, bad, eps) {
		t.Error("a sub-key is not finite")
	}
}

func TestSelectErrors(t *testing.T) {
	r := rand.New(rand.NewPCG(11, 12))
	nan := float32(math.NaN())
	for i, q := range questions(t, r) {
		other := q.Table
		other.Rows++
		if _, err := q.rule.Select(&other, q.in); err == nil && q.rule.Index == nil {
			t.Errorf("rule %d is one of %d rows", i, other.Rows)
		}
		if _, err := q.rule.Select(&q.Table, Input{}); err == nil && q.rule.Hash == nil {
			t.Errorf("rule %d without input", i)
		}
	}
	q := questions(t, r)
	q[1].in.Scores[7] = nan
	q[3].in.Query[2] = nan
	for _, i := range []int{1, 3} {
		if _, err := q[i].rule.Select(&q[i].Table, q[i].in); !errors.Is(err, ErrVoid) {
			t.Errorf("rule %d of NaN: %v", i, err)
		}
	}
	q[2].in.Rows[1] = testRows
	if _, err := q[2].rule.Select(&q[2].Table, q[2].in); err == nil {
		t.Error("a row beyond the table")
	}
}

// forge makes one lookup that is not the honest one of q. All rows and proofs
// in it may be genuine; ids are those of the honest answer.
func forge(t testing.TB, r *rand.Rand, q, other *question, top *Top, ids []uint64) (what string, b []byte) {
	t.Helper()
	level := top.Level()
	honest := q.lookup(t, level, ids)
	size := q.RowBytes()
	rows := len(ids) * size
	b = bytes.Clone(honest)
	genuine := func(ids []uint64) []byte {
		slices.Sort(ids)
		return q.lookup(t, level, slices.Compact(ids))
	}
	swap := func(begin, end, size int) {
		n := (end - begin) / size
		if n < 2 {
			b[r.IntN(len(b))] ^= 1
			return
		}
		i, j := r.IntN(n), r.IntN(n)
		x, y := b[begin+i*size:][:size], b[begin+j*size:][:size]
		for k := range x {
			x[k], y[k] = y[k], x[k]
		}
	}
	switch r.IntN(12) {
	case 0:
		b[r.IntN(len(b))] ^= 1 << r.IntN(8)
		return "a bit flipped", b
	case 1:
		if i := r.IntN(len(ids)); len(ids) > 1 {
			return "a row left out, with the proof of the others", genuine(slices.Delete(slices.Clone(ids), i, i+1))
		}
		return "cut short", b[:len(b)-1]
	case 2:
		swap(0, rows, size)
		return "rows swapped", b
	case 3:
		copy(b[r.IntN(len(ids))*size:], b[r.IntN(len(ids))*size:][:size])
		return "a row twice", b
	case 4: // membership without nearness
		x := slices.Clone(ids)
		x[r.IntN(len(x))] = uint64(r.IntN(q.Rows))
		return "another row of the table, with its proof", genuine(x)
	case 5:
		i := r.IntN(len(ids))
		copy(b[i*size:], q.rows[r.IntN(q.Rows)])
		return "another row of the table under the honest proof", b
	case 6:
		return "the same rows of another table", other.lookup(t, level, ids)
	case 7:
		x := q.rule
		switch {
		case x.Hash != nil:
			h := *x.Hash
			h.Salt++
			x.Hash = &h
		case x.Product != nil: // the ranks below: better rows are left out
			p := *x.Product
			p.TopK += 2
			x.Product = &p
		case x.Cells != nil:
			c := *x.Cells
			c.Probe++
			x.Cells = &c
		default:
			return "cut short", b[:len(b)-1]
		}
		s, err := x.Select(&q.Table, q.in)
		if err != nil {
			t.Fatal(err)
		}
		got := s.IDs
		if len(got) > len(ids) { // as many as wanted, not the best
			got = got[len(got)-len(ids):]
		}
		return "the rows of another rule", genuine(slices.Clone(got))
	case 8:
		s, err := q.rule.Select(&q.Table, input(r, &q.rule, q.world))
		if err != nil {
			return "extended", append(b, 0)
		}
		return "the rows of another input", genuine(slices.Clone(s.IDs))
	case 9:
		swap(rows, len(b), 32)
		return "hashes of the proof swapped", b
	case 10:
		return "cut or extended by a hash", append(b, make([]byte, 32)...)[:len(b)-32+64*r.IntN(2)]
	}
	x := slices.Clone(ids)
	for i := range x {
		x[i] = (x[i] + 1) % uint64(q.Rows)
	}
	return "neighbours of the rows", genuine(x)
}

// TestForgeries: as many forged lookups as GEIST_FORGERIES says, all refused.
func TestForgeries(t *testing.T) {
	n := 4000
	if s := os.Getenv("GEIST_FORGERIES"); s != "" {
		var err error
		if n, err = strconv.Atoi(s); err != nil {
			t.Fatal(err)
		}
	}
	r := rand.New(rand.NewPCG(13, 14))
	refused := map[string]int{}
	done := 0
	for done < n {
		qs := questions(t, r)
		for i := range qs {
			q := &qs[i]
			s, err := q.rule.Select(&q.Table, q.in)
			if err != nil {
				continue
			}
			// The other table is the same but for one row that is looked up.
			rows := slices.Clone(q.rows)
			rows[s.IDs[r.IntN(len(s.IDs))]] = f16Row(normal(r, testCols))
			other := &question{world: newWorld(t, rows, q.Format, q.Cols)}
			top := q.top(t, r.IntN(Level(q.Rows, 1)+1))
			honest := q.lookup(t, top.Level(), s.IDs)
			if _, err := Verify(top, &q.rule, q.in, honest); err != nil {
				t.Fatal(err)
			}
			for range 25 {
				what, b := forge(t, r, q, other, top, s.IDs)
				if bytes.Equal(b, honest) {
					continue
				}
				if _, err := Verify(top, &q.rule, q.in, b); err == nil {
					t.Fatalf("rule %d, level %d, %s: accepted", i, top.Level(), what)
				}
				refused[what]++
				done++
			}
		}
	}
	if len(refused) < 11 {
		t.Errorf("only these were tried: %v", refused)
	}
	t.Logf("%d forged lookups, all refused: %v", done, refused)
}

// TestEveryBit flips every bit of one lookup of each rule.
func TestEveryBit(t *testing.T) {
	for i, q := range questions(t, rand.New(rand.NewPCG(15, 16))) {
		s, err := q.rule.Select(&q.Table, q.in)
		if err != nil {
			t.Fatal(err)
		}
		top := q.top(t, 4)
		b := q.lookup(t, 4, s.IDs)
		for bit := range 8 * len(b) {
			b[bit/8] ^= 1 << (bit % 8)
			if _, err := top.Open(b, s.IDs); err == nil {
				t.Fatalf("rule %d: bit %d flipped, and accepted", i, bit)
			}
			b[bit/8] ^= 1 << (bit % 8)
		}
	}
}

func TestPartition(t *testing.T) {
	w := randomWorld(t, rand.New(rand.NewPCG(17, 18)), 100, 3)
	p := testPartition(w, rand.New(rand.NewPCG(19, 20)))
	b, root := p.Encode(), p.Root()
	got, err := DecodePartition(b, root, p.Cells(), p.Dim)
	if err != nil || !bytes.Equal(got.Encode(), b) || !slices.Equal(got.Begins, p.Begins) {
		t.Fatalf("%+v, %v", got, err)
	}
	for i := range b {
		b[i] ^= 1
		if _, err := DecodePartition(b, root, p.Cells(), p.Dim); err == nil {
			t.Fatalf("byte %d changed, and accepted", i)
		}
		b[i] ^= 1
	}
	if _, err := DecodePartition(b[:len(b)-1], root, p.Cells(), p.Dim); err == nil {
		t.Error("a partition cut short")
	}
	if _, err := DecodePartition(nil, root, 0, p.Dim); err == nil {
		t.Error("a partition of no cells")
	}
}

// FuzzOpen: whatever is accepted is the honest lookup.
func FuzzOpen(f *testing.F) {
	w := randomWorld(f, rand.New(rand.NewPCG(21, 22)), 50, 2)
	for _, ids := range [][]byte{{1}, {0, 49}, {3, 4, 40}} {
		var x []uint64
		for _, i := range ids {
			x = append(x, uint64(i))
		}
		f.Add(ids, byte(3), w.lookup(f, 3, x))
	}
	f.Fuzz(func(t *testing.T, ids []byte, level byte, b []byte) {
		var x []uint64
		for _, i := range ids {
			x = append(x, uint64(i))
		}
		top := w.top(t, int(level)%(Level(50, 1)+1))
		if _, err := top.Open(b, x); err == nil && !bytes.Equal(b, w.lookup(t, top.Level(), x)) {
			t.Fatalf("a lookup of %v is accepted that is not the honest one", x)
		}
	})
}

// FuzzDecodePartition: what is accepted encodes to the same bytes.
func FuzzDecodePartition(f *testing.F) {
	p := &Partition{Dim: 2, Begins: []int{0, 3, 3, 9}, Centroids: []float32{1, 2, 3, 4, 5, 6}}
	f.Add(p.Encode(), 3, 2)
	f.Add([]byte{}, 1<<30, 1<<30)
	f.Fuzz(func(t *testing.T, b []byte, cells, dim int) {
		got, err := DecodePartition(b, p.Root(), cells, dim)
		if err == nil && !bytes.Equal(got.Encode(), p.Encode()) {
			t.Fatal("another partition has the root")
		}
	})
}

func BenchmarkOpen(b *testing.B) {
	r := rand.New(rand.NewPCG(23, 24))
	w := randomWorld(b, r, 1<<16, 64)
	for _, c := range []struct{ rows, level int }{{16, 16}, {16, 8}, {128, 16}, {128, 8}} {
		b.Run(fmt.Sprintf("rows%d/level%d", c.rows, c.level), func(b *testing.B) {
			var ids []uint64
			for range c.rows {
				ids = append(ids, uint64(r.IntN(w.Rows)))
			}
			slices.Sort(ids)
			ids = slices.Compact(ids)
			top := w.top(b, c.level)
			data := w.lookup(b, c.level, ids)
			b.ReportMetric(float64(len(data)), "bytes/lookup")
			for b.Loop() {
				if _, err := top.Open(data, ids); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// TestReadPieces: rows wider than what is decoded at once, which several heads
// pick, add up as they do one after the other.
func TestReadPieces(t *testing.T) {
	r := rand.New(rand.NewPCG(12, 13))
	for _, c := range []struct {
		f    arith.Format
		cols int
	}{{arith.F16, 1}, {arith.F16, 301}, {arith.Q8_0, 32}, {arith.Q8_0, 288}, {arith.Q4_K, 256}, {arith.Q2_K, 768}, {arith.F32, 512}} {
		p := &Product{Heads: 5, Keys: 3, Dim: 1, TopK: 4}
		table := &Table{Rows: p.TableRows(), Format: c.f, Cols: c.cols}
		s, err := (&Rule{Product: p}).Select(table, Input{Scores: normal(r, p.KeyRows())})
		if err != nil {
			t.Fatal(err)
		}
		if len(s.IDs) == p.Count() {
			t.Fatal("no row is picked twice")
		}
		rows := make(map[uint64][]byte)
		var shown [][]byte
		for _, id := range s.IDs {
			b := make([]byte, table.RowBytes())
			for i := range b {
				b[i] = byte(r.IntN(64)) // exponents of halves and floats stay finite
			}
			rows[id], shown = b, append(shown, b)
		}
		got, err := s.Read(table, shown)
		if err != nil {
			t.Fatal(err)
		}
		want, row, w := make([]float32, c.cols), make([]float32, c.cols), make([]float32, p.TopK)
		for i, x := range s.picks {
			if i%p.TopK == 0 {
				Weights(w, s.picks[i:i+p.TopK])
			}
			arith.Dequantize(row, c.f, rows[uint64(x.Row)])
			AddRow(want, w[i%p.TopK], row)
		}
		if !slices.Equal(got, want) {
			t.Errorf("%v, %d columns: other values than one after the other", c.f, c.cols)
		}
	}
}
