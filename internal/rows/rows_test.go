package rows

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/geistnet/geist/arith"
	"github.com/geistnet/geist/ghost"
	"github.com/geistnet/geist/internal/hashmany"
	"github.com/geistnet/geist/merkle"
	"github.com/geistnet/geist/sat"
)

// newTable is a table over rows in memory.
func newTable(t testing.TB, name string, f arith.Format, cols int, rows [][]byte) Table {
	t.Helper()
	leaves := make([]merkle.Hash, len(rows))
	hashmany.New().Leaves(leaves, rows)
	nodes := &merkle.Memory{}
	tree := merkle.Open(nodes, 0, hashmany.New())
	if err := tree.Append(leaves...); err != nil {
		t.Fatal(err)
	}
	root, err := tree.Root()
	if err != nil {
		t.Fatal(err)
	}
	return Table{name, sat.Table{Root: root, Rows: len(rows), Format: f, Cols: cols}, tree, nodes, func(dst []byte, id int) ([]byte, error) {
		return append(dst, rows[id]...), nil
	}}
}

func randomRows(r *rand.Rand, n, size int) [][]byte {
	all := make([]byte, n*size)
	for i := range all {
		all[i] = byte(r.Uint32())
	}
	return slices.Collect(slices.Chunk(all, size))
}

// memoryModel is a model of which only the memory counts, and its tables: two
// of hashed n-grams and one of product keys.
func memoryModel(t testing.TB) (*ghost.Model, []Table) {
	t.Helper()
	r := rand.New(rand.NewPCG(1, 2))
	m := &ghost.Model{Rules: []sat.Rule{
		{Hash: &sat.Hash{Orders: []int{2, 3}, Heads: 2, Rows: 700, Salt: 0}},
		{Hash: &sat.Hash{Orders: []int{2, 3}, Heads: 2, Rows: 700, Salt: 1}},
		{Product: &sat.Product{Heads: 2, Keys: 50, Dim: 8, TopK: 4}},
	}}
	tables := []Table{
		newTable(t, "blk.0.memory.weight", arith.F16, 16, randomRows(r, 2800, 32)),
		newTable(t, "blk.1.memory.weight", arith.Q8_0, 32, randomRows(r, 2800, 34)),
		newTable(t, "blk.2.memory.weight", arith.F32, 64, randomRows(r, 2500, 256)),
	}
	for i := range tables {
		x := &tables[i]
		m.Tensors = append(m.Tensors, ghost.Tensor{Name: x.Name, Format: x.Format, Rows: x.Rows, Cols: x.Cols, Root: x.Root})
		m.Layers = append(m.Layers, ghost.Layer{Memory: &ghost.Memory{Rule: i, Table: i}})
	}
	return m, tables
}

// serve starts a server of tables and counts its requests.
func serve(t testing.TB, tables []Table) (url string, requests *atomic.Int64) {
	t.Helper()
	s, err := NewServer(tables)
	if err != nil {
		t.Fatal(err)
	}
	requests = &atomic.Int64{}
	h := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		requests.Add(1)
		s.ServeHTTP(w, r)
	}))
	t.Cleanup(h.Close)
	return h.URL, requests
}

// lying is tables of which about every n-th row has a bit flipped.
func lying(tables []Table, n int) []Table {
	out := slices.Clone(tables)
	for i := range out {
		read := out[i].Read
		out[i].Read = func(dst []byte, id int) ([]byte, error) {
			dst, err := read(dst, id)
			if id%n == n/2 {
				dst[len(dst)-1] ^= 1
			}
			return dst, err
		}
	}
	return out
}

func client(t testing.TB, m *ghost.Model, o Options) *Client {
	t.Helper()
	c, err := NewClient(m, o)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// want demands rows of a table of the client and compares them.
func want(t testing.TB, c *Client, x *Table, ids []int) {
	t.Helper()
	dst := make([]byte, len(ids)*x.RowBytes())
	if err := c.Rows(x.Name, ids, dst); err != nil {
		t.Fatal(err)
	}
	var honest []byte
	for _, id := range ids {
		honest, _ = x.Read(honest, id)
	}
	if !bytes.Equal(dst, honest) {
		t.Fatalf("rows %v of %s are others", ids, x.Name)
	}
}

func someRows(r *rand.Rand, n, rows int) []int {
	ids := make([]int, n)
	for i := range ids {
		ids[i] = r.IntN(rows)
	}
	return ids
}

// TestRows: rows of all tables, of every level, some of them twice.
func TestRows(t *testing.T) {
	m, tables := memoryModel(t)
	url, requests := serve(t, tables)
	r := rand.New(rand.NewPCG(3, 4))
	for _, nodes := range []int{1, 7, 256, 1 << 16} {
		c := client(t, m, Options{Servers: []string{url + "/"}, Nodes: nodes})
		for range 10 {
			for i := range tables {
				ids := someRows(r, 1+r.IntN(40), tables[i].Rows)
				want(t, c, &tables[i], append(ids, ids[0]))
				if f, rows, cols, ok := c.Table(tables[i].Name); !ok || f != tables[i].Format || rows != tables[i].Rows || cols != tables[i].Cols {
					t.Errorf("the table is %v, %d, %d, %v", f, rows, cols, ok)
				}
			}
		}
		s := c.Stats()
		if s.Rows < 200 || s.Cached < 10 || s.Requests < 30 || s.Received < s.Rows*32 || s.Sent < 4*s.Rows || s.Verify <= 0 {
			t.Errorf("%+v", s)
		}
	}
	before := requests.Load()
	c := client(t, m, Options{Servers: []string{url}})
	ids := someRows(r, 100, 2500)
	for range 3 {
		want(t, c, &tables[2], ids)
	}
	if n := requests.Load() - before; n != 2 {
		t.Errorf("%d requests for the same rows three times, want 2: a level and the rows", n)
	}
}

// TestPrompt: all hashed rows of a prompt in one request.
func TestPrompt(t *testing.T) {
	m, tables := memoryModel(t)
	url, requests := serve(t, tables)
	c := client(t, m, Options{Servers: []string{url}})
	r := rand.New(rand.NewPCG(5, 6))
	var prompt []int32
	for range 300 {
		prompt = append(prompt, int32(r.IntN(100)))
	}
	if err := c.Prompt(t.Context(), prompt); err != nil {
		t.Fatal(err)
	}
	if n := requests.Load(); n != 3 {
		t.Errorf("%d requests; want one and a level of each of two tables", n)
	}
	for i := range 2 {
		var ids []int
		for at := range prompt {
			ids = m.Rules[i].Hash.IDs(ids, prompt[:at+1])
		}
		want(t, c, &tables[i], ids)
	}
	if err := c.Prompt(t.Context(), prompt); err != nil {
		t.Fatal(err)
	}
	if n := requests.Load(); n != 3 {
		t.Errorf("%d requests; the rows were there", n-3)
	}
}

// TestLiar: of two servers one lies about every 50th row. The rows are the same
// as from the honest one alone; the liar is named once and not asked again.
func TestLiar(t *testing.T) {
	m, tables := memoryModel(t)
	honest, _ := serve(t, tables)
	liar, asked := serve(t, lying(tables, 50))
	var mu sync.Mutex
	var named []string
	c := client(t, m, Options{Servers: []string{honest, liar}, Nodes: 64, Slow: time.Hour, Dropped: func(s string, err error) {
		mu.Lock()
		defer mu.Unlock()
		named = append(named, s)
		if err == nil || !strings.Contains(err.Error(), "lead to") {
			t.Errorf("named for %v", err)
		}
	}})
	r := rand.New(rand.NewPCG(7, 8))
	after := int64(0)
	for range 100 {
		for i := range tables {
			want(t, c, &tables[i], someRows(r, 8, tables[i].Rows))
		}
		if len(named) > 0 && after == 0 {
			after = asked.Load()
		}
	}
	if !slices.Equal(named, []string{liar}) || len(c.Dropped()) != 1 || c.Dropped()[0].Server != liar {
		t.Errorf("named are %v and %v; want %s", named, c.Dropped(), liar)
	}
	if asked.Load() != after {
		t.Errorf("the liar was asked %d times after it was named", asked.Load()-after)
	}
}

// TestLiars: with nobody honest there is no row.
func TestLiars(t *testing.T) {
	m, tables := memoryModel(t)
	a, _ := serve(t, lying(tables, 1))
	b, _ := serve(t, lying(tables, 1))
	c := client(t, m, Options{Servers: []string{a, b}})
	dst := make([]byte, 32)
	for range 2 {
		if err := c.Rows(tables[0].Name, []int{5}, dst); err == nil || !bytes.Equal(dst, make([]byte, 32)) {
			t.Fatalf("%v, and %x", err, dst)
		}
	}
	if len(c.Dropped()) != 2 {
		t.Errorf("%v", c.Dropped())
	}
}

// TestFaults: servers that fail in other ways, each beside an honest one. Only
// those that send wrong bytes are dropped.
func TestFaults(t *testing.T) {
	m, tables := memoryModel(t)
	honest, _ := serve(t, tables)
	good, err := NewServer(tables)
	if err != nil {
		t.Fatal(err)
	}
	// change lets a fault alter what the honest server says.
	change := func(alter func(w http.ResponseWriter, b []byte)) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			rec := httptest.NewRecorder()
			good.ServeHTTP(rec, r)
			alter(w, rec.Body.Bytes())
		}
	}
	for _, f := range []struct {
		name    string
		h       http.HandlerFunc
		dropped bool
	}{
		{"not found", func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "no", http.StatusNotFound) }, false},
		{"broken", func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "no", http.StatusInternalServerError) }, false},
		{"silent", func(_ http.ResponseWriter, r *http.Request) {
			_, _ = io.Copy(io.Discard, r.Body) // only then does the end of the connection end the context
			<-r.Context().Done()
		}, false},
		{"hangs up", func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }, false},
		{"redirects", func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, honest, http.StatusFound) }, false},
		{"stops in the middle", change(func(w http.ResponseWriter, b []byte) {
			w.Header().Set("Content-Length", fmt.Sprint(len(b)))
			_, _ = w.Write(b[:len(b)/2])
			panic(http.ErrAbortHandler)
		}), false},
		{"too short", change(func(w http.ResponseWriter, b []byte) { _, _ = w.Write(b[:len(b)-1]) }), true},
		{"too long", change(func(w http.ResponseWriter, b []byte) { _, _ = w.Write(append(b, 0)) }), true},
		{"too long in pieces", change(func(w http.ResponseWriter, b []byte) {
			_, _ = w.Write(b)
			w.(http.Flusher).Flush()
			_, _ = w.Write(make([]byte, 100))
		}), true},
		{"too short in pieces", change(func(w http.ResponseWriter, b []byte) {
			_, _ = w.Write(b[:len(b)/2])
			w.(http.Flusher).Flush()
		}), true},
		{"stops between pieces", change(func(w http.ResponseWriter, b []byte) {
			_, _ = w.Write(b[:len(b)/2])
			w.(http.Flusher).Flush()
			panic(http.ErrAbortHandler)
		}), false},
		{"empty", func(http.ResponseWriter, *http.Request) {}, true},
		{"zeros", change(func(w http.ResponseWriter, b []byte) { clear(b); _, _ = w.Write(b) }), true},
	} {
		t.Run(f.name, func(t *testing.T) {
			bad := httptest.NewServer(f.h)
			defer bad.Close()
			c := client(t, m, Options{Servers: []string{bad.URL, honest}, Timeout: 300 * time.Millisecond})
			r := rand.New(rand.NewPCG(9, 10))
			for range 3 {
				for i := range tables {
					want(t, c, &tables[i], someRows(r, 5, tables[i].Rows))
				}
			}
			if got := len(c.Dropped()) == 1; got != f.dropped {
				t.Errorf("dropped: %v", c.Dropped())
			}
		})
	}
	gone := client(t, m, Options{Servers: []string{"http://127.0.0.1:1"}})
	if err := gone.Rows(tables[0].Name, []int{1}, make([]byte, 32)); err == nil || len(gone.Dropped()) != 0 {
		t.Errorf("%v, %v", err, gone.Dropped())
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := gone.Prompt(ctx, []int32{1, 2, 3}); !errors.Is(err, context.Canceled) {
		t.Errorf("%v", err)
	}
}

// TestParallel: many goroutines share a client and a small cache.
func TestParallel(t *testing.T) {
	m, tables := memoryModel(t)
	honest, _ := serve(t, tables)
	liar, _ := serve(t, lying(tables, 50))
	c := client(t, m, Options{Servers: []string{liar, honest}, Cache: 20000})
	var wg sync.WaitGroup
	for g := range 4 {
		wg.Go(func() {
			r := rand.New(rand.NewPCG(uint64(g), 11))
			for range 30 {
				x := &tables[r.IntN(3)]
				ids := someRows(r, 20, x.Rows)
				dst := make([]byte, len(ids)*x.RowBytes())
				if err := c.Rows(x.Name, ids, dst); err != nil {
					t.Error(err)
				}
				for i, id := range ids {
					if row, _ := x.Read(nil, id); !bytes.Equal(dst[i*len(row):][:len(row)], row) {
						t.Errorf("row %d is another", id)
					}
				}
			}
		})
	}
	wg.Wait()
	if n := len(c.cache.young)*(32+overhead) + len(c.cache.old)*(32+overhead); n > 20000 {
		t.Errorf("the cache has %d bytes of 20000", n)
	}
}

// TestLong: more rows than fit into one request.
func TestLong(t *testing.T) {
	rows := randomRows(rand.New(rand.NewPCG(12, 13)), maxRows+5000, 4)
	x := newTable(t, "blk.0.memory.weight", arith.F32, 1, rows)
	m := &ghost.Model{
		Rules:   []sat.Rule{{Hash: &sat.Hash{Orders: []int{1}, Heads: 1, Rows: x.Rows}}},
		Tensors: []ghost.Tensor{{Name: x.Name, Format: x.Format, Rows: x.Rows, Cols: x.Cols, Root: x.Root}},
		Layers:  []ghost.Layer{{Memory: &ghost.Memory{}}},
	}
	url, requests := serve(t, []Table{x})
	c := client(t, m, Options{Servers: []string{url}, Nodes: 1})
	ids := make([]int, x.Rows)
	for i := range ids {
		ids[i] = x.Rows - 1 - i
	}
	want(t, c, &x, ids)
	if n := requests.Load(); n < 3 {
		t.Errorf("%d requests", n)
	}
}

func TestRowsMisuse(t *testing.T) {
	m, tables := memoryModel(t)
	url, _ := serve(t, tables)
	c := client(t, m, Options{Servers: []string{url}})
	for _, err := range []error{
		c.Rows("no table", []int{1}, make([]byte, 32)),
		c.Rows(tables[0].Name, []int{1}, make([]byte, 31)),
		c.Rows(tables[0].Name, []int{-1}, make([]byte, 32)),
		c.Rows(tables[0].Name, []int{2800}, make([]byte, 32)),
	} {
		if err == nil {
			t.Error("no error")
		}
	}
	if err := c.Rows(tables[0].Name, nil, nil); err != nil {
		t.Errorf("no rows: %v", err)
	}
	if _, _, _, ok := c.Table("no table"); ok {
		t.Error("a table that is not there")
	}
	for _, o := range []Options{{}, {Servers: []string{"ftp://a"}}, {Servers: []string{"localhost:80"}}, {Servers: []string{"http://"}}} {
		if _, err := NewClient(m, o); err == nil {
			t.Errorf("%+v", o)
		}
	}
	if _, err := NewClient(&ghost.Model{}, Options{Servers: []string{url}}); err == nil {
		t.Error("a model without memory")
	}
	if _, err := NewServer(nil); err == nil {
		t.Error("a server without tables")
	}
}

// TestServer: what it lists, and every way to refuse.
func TestServer(t *testing.T) {
	_, tables := memoryModel(t)
	s, err := NewServer(append(tables, tables[0]))
	if err != nil {
		t.Fatal(err)
	}
	do := func(method, path string, body []byte) *httptest.ResponseRecorder {
		w := httptest.NewRecorder()
		s.ServeHTTP(w, httptest.NewRequest(method, path, bytes.NewReader(body)))
		return w
	}
	var l listing
	if err := json.Unmarshal(do("GET", "/geist/v1/rows", nil).Body.Bytes(), &l); err != nil || l.Version != 1 || len(l.Tables) != 3 ||
		l.Tables[0] != (listed{"blk.0.memory.weight", tables[0].Root.String(), 2800, "F16", 16}) {
		t.Errorf("%v: %+v", err, l)
	}
	root := tables[0].Root
	ok := Want{root, 3, []uint64{1, 5}}
	with := func(change func(w *Want)) []byte {
		w := Want{ok.Root, ok.Level, slices.Clone(ok.IDs)}
		change(&w)
		return encode([]Want{w})
	}
	var all []uint64
	for i := range uint64(maxRows + 1) {
		all = append(all, i)
	}
	for _, c := range []struct {
		method, path string
		body         []byte
		status       int
	}{
		{"POST", "/geist/v1/rows", encode([]Want{ok}), 200},
		{"POST", "/geist/v1/rows", encode([]Want{ok, ok}), 200},
		{"POST", "/geist/v1/rows", nil, 400},
		{"POST", "/geist/v1/rows", append(encode([]Want{ok}), 0), 400},
		{"POST", "/geist/v1/rows", with(func(w *Want) { w.IDs[1] = 1 }), 400},
		{"POST", "/geist/v1/rows", with(func(w *Want) { w.IDs = all }), 400},
		{"POST", "/geist/v1/rows", with(func(w *Want) { w.Root[0] ^= 1 }), 404},
		{"POST", "/geist/v1/rows", with(func(w *Want) { w.Level = 13 }), 404},
		{"POST", "/geist/v1/rows", with(func(w *Want) { w.IDs[1] = 2800 }), 404},
		{"POST", "/geist/v1/rows", make([]byte, maxBodyBytes+1), 413},
		{"PUT", "/geist/v1/rows", nil, 405},
		{"GET", "/geist/v1/rows/" + root.String() + "/12", nil, 200},
		{"GET", "/geist/v1/rows/" + root.String() + "/13", nil, 404},
		{"GET", "/geist/v1/rows/" + root.String() + "/-1", nil, 404},
		{"GET", "/geist/v1/rows/" + root.String() + "/x", nil, 400},
		{"GET", "/geist/v1/rows/" + root.String()[1:] + "/3", nil, 400},
		{"GET", "/geist/v1/rows/" + strings.Repeat("0", 64) + "/3", nil, 404},
		{"GET", "/", nil, 404},
	} {
		if w := do(c.method, c.path, c.body); w.Code != c.status {
			t.Errorf("%s %s: %d %q, want %d", c.method, c.path, w.Code, w.Body, c.status)
		}
	}
	if b := do("GET", "/geist/v1/rows/"+root.String()+"/12", nil).Body.Bytes(); !bytes.Equal(b, root[:]) {
		t.Errorf("the highest level is %x", b)
	}
	for range cap(s.busy) {
		s.busy <- struct{}{}
	}
	if w := do("GET", "/geist/v1/rows", nil); w.Code != http.StatusServiceUnavailable || w.Header().Get("Retry-After") == "" {
		t.Errorf("%d at a busy server", w.Code)
	}
	if h := s.HTTP(); h.ReadHeaderTimeout == 0 || h.ReadTimeout == 0 || h.WriteTimeout == 0 || h.IdleTimeout == 0 {
		t.Errorf("%+v", h)
	}
}

// TestReadFault: a table that cannot be read is an error and not wrong bytes.
func TestReadFault(t *testing.T) {
	m, tables := memoryModel(t)
	tables[0].Read = func([]byte, int) ([]byte, error) { return nil, io.ErrUnexpectedEOF }
	url, _ := serve(t, tables)
	c := client(t, m, Options{Servers: []string{url}})
	if err := c.Rows(tables[0].Name, []int{1}, make([]byte, 32)); err == nil || len(c.Dropped()) != 0 {
		t.Errorf("%v, %v", err, c.Dropped())
	}
}

// FuzzDecode: what is accepted encodes to the same bytes.
func FuzzDecode(f *testing.F) {
	f.Add(encode([]Want{{merkle.Hash{1}, 4, []uint64{0, 1, 1<<32 - 1}}}))
	f.Add(encode([]Want{{merkle.Hash{1}, 0, []uint64{7}}, {merkle.Hash{2}, 64, []uint64{9, 10}}}))
	f.Add([]byte("geistrow\xff\xff\xff\xff"))
	f.Fuzz(func(t *testing.T, b []byte) {
		w, err := decode(b)
		if err == nil && !bytes.Equal(encode(w), b) {
			t.Fatal("another encoding of the same request")
		}
	})
}

// FuzzServer: any body gets an answer, and one of 200 the length that a client
// expects.
func FuzzServer(f *testing.F) {
	_, tables := memoryModel(f)
	s, err := NewServer(tables)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(encode([]Want{{tables[0].Root, 4, []uint64{0, 1, 2799}}, {tables[2].Root, 0, []uint64{2}}}))
	f.Fuzz(func(t *testing.T, b []byte) {
		w := httptest.NewRecorder()
		s.ServeHTTP(w, httptest.NewRequest("POST", "/geist/v1/rows", bytes.NewReader(b)))
		if w.Code != 200 {
			return
		}
		wants, err := decode(b)
		if err != nil {
			t.Fatal(err)
		}
		n := 0
		for _, x := range wants {
			table := s.table(x.Root)
			k, err := sat.ProofLen(table.Rows, x.Level, x.IDs)
			if err != nil {
				t.Fatal(err)
			}
			n += 32*k + len(x.IDs)*table.RowBytes()
		}
		if w.Body.Len() != n {
			t.Fatalf("%d bytes, want %d", w.Body.Len(), n)
		}
	})
}
