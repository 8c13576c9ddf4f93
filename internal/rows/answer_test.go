package rows

import (
	"bytes"
	"math"
	"net"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/geistnet/geist/ghost"
	"github.com/geistnet/geist/internal/gguf"
	"github.com/geistnet/geist/internal/kernel"
	"github.com/geistnet/geist/internal/model"
	"github.com/geistnet/geist/internal/synth"
)

// testFile is the model of GEIST_MODEL, or a small one of random weights.
func testFile(t testing.TB) *gguf.File {
	t.Helper()
	if path := os.Getenv("GEIST_MODEL"); path != "" {
		f, err := gguf.Open(path)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = f.Close() })
		return f
	}
	var b bytes.Buffer
	if err := synth.Write(&b, synth.Spec{
		Arch: "geist", Dim: 64, Layers: 4, Heads: 4, KVHeads: 2, FF: 256, Vocab: 307, Context: 256, Seed: 5, Type: "f16", Tied: true,
		Memory: &synth.Memory{
			Rules: []string{"hash", "product"}, HashHeads: 2, HashRows: 500, ProductHeads: 2, Keys: 40, KeyDim: 32, TopK: 5,
		},
	}, nil); err != nil {
		t.Fatal(err)
	}
	f, err := gguf.Parse("memory", b.Bytes())
	if err != nil {
		t.Fatal(err)
	}
	return f
}

// opened are the tables of a model and what it is, with their roots.
func opened(t testing.TB, f *gguf.File) (*ghost.Model, []Table) {
	t.Helper()
	g, err := model.Describe(f, model.Options{})
	if err != nil {
		t.Fatal(err)
	}
	tables, err := Open(t.Context(), f, g)
	if err != nil {
		t.Fatal(err)
	}
	for i, at := range Memory(g) {
		g.Tensors[at].Root = tables[i].Root
	}
	return g, tables
}

// answer decodes greedily but never a token twice, so that rows differ from
// step to step, and returns the tokens and all logits.
func answer(t testing.TB, f *gguf.File, memory model.Memory, prompt []int32, n int) (tokens []int32, logits [][]float32) {
	t.Helper()
	team := kernel.NewTeam(2)
	defer team.Close()
	m, err := model.Load(f, model.Options{Path: kernel.Best(), Team: team, Memory: memory})
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	s := m.NewState(team, len(prompt))
	c := &model.Cache{}
	for range (len(prompt) + n + model.PagePositions - 1) / model.PagePositions {
		c.Pages = append(c.Pages, make([]byte, m.PageBytes()))
	}
	tokens = slices.Clone(prompt)
	at := 0
	for range n {
		out, err := s.Forward([]model.Segment{{Cache: c, Start: at, Tokens: tokens[at:], Before: tokens[:at], Logits: model.Last}})
		if err != nil {
			t.Fatal(err)
		}
		at = len(tokens)
		best := -1
		for i, v := range out[0] {
			if (best < 0 || v > out[0][best]) && !slices.Contains(tokens, int32(i)) {
				best = i
			}
		}
		tokens = append(tokens, int32(best))
		logits = append(logits, slices.Clone(out[0]))
	}
	return tokens, logits
}

func sameBits(a, b [][]float32) bool {
	return slices.EqualFunc(a, b, func(x, y []float32) bool {
		return slices.EqualFunc(x, y, func(p, q float32) bool { return math.Float32bits(p) == math.Float32bits(q) })
	})
}

func prompt(g *ghost.Model, n int) []int32 {
	p := make([]int32, n)
	for i := range p {
		p[i] = int32((i*i*7 + 11*i + 3) % g.Vocab)
	}
	return p
}

// TestAnswer: rows from two servers of which one lies about every 50th give
// the answer that the model file gives alone, to the last bit, and the liar is
// named while the answer is made.
func TestAnswer(t *testing.T) {
	f := testFile(t)
	g, tables := opened(t, f)
	p := prompt(g, 40)
	wantTokens, wantLogits := answer(t, f, nil, p, 30)
	honest, _ := serve(t, tables)
	liar, _ := serve(t, lying(tables, 50))
	for _, servers := range [][]string{{honest, liar}, {liar, honest}} {
		var mu sync.Mutex
		var named []string
		c := client(t, g, Options{Servers: servers, Nodes: 128, Cache: 1, Slow: time.Hour, Dropped: func(s string, err error) {
			mu.Lock()
			defer mu.Unlock()
			named = append(named, s)
			t.Logf("dropped %s: %v", s, err)
		}})
		gotTokens, gotLogits := answer(t, f, c, p, 30)
		if !slices.Equal(gotTokens, wantTokens) || !sameBits(gotLogits, wantLogits) {
			t.Error("another answer")
		}
		if !slices.Equal(named, []string{liar}) {
			t.Errorf("named are %v, want %s", named, liar)
		}
	}
}

// wire counts the bytes of connections in both directions.
type wire struct {
	net.Conn
	n *atomic.Int64
}

func (w wire) Read(b []byte) (int, error) { n, err := w.Conn.Read(b); w.n.Add(int64(n)); return n, err }
func (w wire) Write(b []byte) (int, error) {
	n, err := w.Conn.Write(b)
	w.n.Add(int64(n))
	return n, err
}

// recorder keeps which rows a pass asks for.
type recorder struct {
	*Client
	mu    sync.Mutex
	asked map[string][][]int
}

func (r *recorder) Rows(name string, ids []int, dst []byte) error {
	r.mu.Lock()
	r.asked[name] = append(r.asked[name], slices.Clone(ids))
	r.mu.Unlock()
	return r.Client.Rows(name, ids, dst)
}

var _ model.Memory = (*Client)(nil)

// TestMeasureAnswer prints the bytes and the time of verifying that rows from
// elsewhere take for a token of the model GEIST_MODEL, with and without what a
// client keeps. docs/bench/rows.md has the results.
func TestMeasureAnswer(t *testing.T) {
	if os.Getenv("GEIST_MODEL") == "" {
		t.Skip("GEIST_MODEL names no model file with memory blocks")
	}
	f := testFile(t)
	g, tables := opened(t, f)
	p, n := prompt(g, 64), 128
	url, _ := serve(t, tables)
	for _, nodes := range []int{1, 1 << 12, 1 << 16} {
		bytes := &atomic.Int64{}
		h := &http.Client{Transport: &http.Transport{DisableCompression: true, Dial: func(network, addr string) (net.Conn, error) {
			c, err := net.Dial(network, addr)
			return wire{c, bytes}, err
		}}}
		c := client(t, g, Options{Servers: []string{url}, HTTP: h, Nodes: nodes})
		if err := c.Prompt(t.Context(), p[:1]); err != nil { // fetches the levels
			t.Fatal(err)
		}
		for i := range tables {
			if err := c.Rows(tables[i].Name, []int{0}, make([]byte, tables[i].RowBytes())); err != nil {
				t.Fatal(err)
			}
		}
		levels := bytes.Load()
		if err := c.Prompt(t.Context(), p); err != nil {
			t.Fatal(err)
		}
		hashed := bytes.Load()
		r := &recorder{Client: c, asked: map[string][][]int{}}
		before := c.Stats()
		answer(t, f, r, p, n)
		s := c.Stats()
		t.Logf("%d nodes of a tree kept: %d bytes for them, %d a token for the hashed rows of a prompt of %d, then %d a token of %d on the wire; %.3f ms a token to verify",
			nodes, levels, (hashed-levels)/int64(len(p)), len(p), (bytes.Load()-hashed)/int64(n), n, float64((s.Verify-before.Verify).Microseconds())/1000/float64(n))
		for i := range tables {
			x := &tables[i]
			top := c.tables[x.Name].top
			size, rows, calls := 0, 0, 0
			var lookups [][]byte
			var ids [][]uint64
			for _, a := range r.asked[x.Name] {
				u := distinct(a)
				if len(a) > 200 { // the prompt
					continue
				}
				k, err := top.Size(u)
				if err != nil {
					t.Fatal(err)
				}
				size, rows, calls = size+k, rows+len(u), calls+1
				served := &served{*x, 64}
				b, err := served.lookup(nil, Want{x.Root, top.Level(), u})
				if err != nil {
					t.Fatal(err)
				}
				lookups, ids = append(lookups, b), append(ids, u)
			}
			if calls == 0 {
				continue
			}
			d := testing.Benchmark(func(b *testing.B) {
				for b.Loop() {
					for i := range lookups {
						if _, err := top.Open(lookups[i], ids[i]); err != nil {
							b.Fatal(err)
						}
					}
				}
			})
			t.Logf("  %s, %d rows of %d bytes: %d rows a token, %d bytes a token with nothing kept, %.3f ms to verify",
				x.Name, x.Rows, x.RowBytes(), rows/calls, size/calls, float64(d.NsPerOp())/1e6/float64(calls))
		}
	}
}

func distinct(ids []int) []uint64 {
	var u []uint64
	for _, id := range ids {
		u = append(u, uint64(id))
	}
	slices.Sort(u)
	return slices.Compact(u)
}

// TestOpen: tables of a file have the roots that are expected of them, or are
// refused.
func TestOpen(t *testing.T) {
	f := testFile(t)
	g, tables := opened(t, f)
	if len(tables) == 0 || len(tables) != len(Memory(g)) {
		t.Fatalf("%d tables", len(tables))
	}
	if _, err := Open(t.Context(), f, g); err != nil {
		t.Error(err)
	}
	x := &g.Tensors[Memory(g)[0]]
	x.Root[3] ^= 1
	if _, err := Open(t.Context(), f, g); err == nil || !strings.Contains(err.Error(), "the root is") {
		t.Errorf("another root: %v", err)
	}
	x.Root[3] ^= 1
	x.Name = "no tensor"
	if _, err := Open(t.Context(), f, g); err == nil || !strings.Contains(err.Error(), "no such tensor") {
		t.Errorf("another name: %v", err)
	}
	row, err := tables[0].Read(nil, 1)
	if err != nil || len(row) != tables[0].RowBytes() {
		t.Errorf("row 1 is %x, %v", row, err)
	}
}
