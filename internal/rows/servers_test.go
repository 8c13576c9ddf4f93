package rows

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/geistnet/geist/internal/gguf"
	"github.com/geistnet/geist/internal/model"
)

// TestGather: what a pass asks of all hashed tables is one request, one table
// alone is another, and an error reaches everybody who waits.
func TestGather(t *testing.T) {
	m, tables := memoryModel(t)
	url, requests := serve(t, tables)
	c := client(t, m, Options{Servers: []string{url}})
	for i := range tables { // fetches the levels
		want(t, c, &tables[i], []int{0})
	}
	r := rand.New(rand.NewPCG(1, 2))
	before := requests.Load()
	const passes = 20
	for range passes {
		var wait sync.WaitGroup
		for i := range 2 {
			ids := someRows(r, 4, tables[i].Rows)
			wait.Go(func() {
				dst := make([]byte, len(ids)*tables[i].RowBytes())
				if err := c.Rows(tables[i].Name, ids, dst); err != nil {
					t.Error(err)
				}
				var honest []byte
				for _, id := range ids {
					honest, _ = tables[i].Read(honest, id)
				}
				if !bytes.Equal(dst, honest) {
					t.Errorf("rows %v of table %d are others", ids, i)
				}
			})
		}
		wait.Wait()
	}
	// A goroutine that the machine holds up may be too late for its pass.
	if n := requests.Load() - before; n >= 2*passes || n < 1 {
		t.Errorf("%d requests of %d passes", n, passes)
	}
	want(t, c, &tables[0], []int{1234}) // nobody joins it

	gone := client(t, m, Options{Servers: []string{"http://127.0.0.1:1"}})
	var wait sync.WaitGroup
	for i := range 2 {
		wait.Go(func() {
			if gone.Rows(tables[i].Name, []int{1}, make([]byte, tables[i].RowBytes())) == nil {
				t.Error("rows of nobody")
			}
		})
	}
	wait.Wait()
}

// TestInOrder: servers that fail come last, slow ones before them.
func TestInOrder(t *testing.T) {
	m, _ := memoryModel(t)
	c := client(t, m, Options{Servers: []string{"http://fast", "http://slow", "http://failing", "http://new"}})
	for i, d := range []time.Duration{20 * time.Millisecond, time.Second, time.Millisecond, 0} {
		if d > 0 {
			c.servers[i].timed(d)
		}
	}
	c.servers[2].fails.Store(1)
	slowFirst := 0
	for range 8 * slowTurn {
		var got []string
		for _, s := range c.inOrder() {
			got = append(got, s.url)
		}
		if got[3] != "http://failing" {
			t.Fatalf("in order of %v", got)
		}
		if got[0] == "http://slow" {
			slowFirst++
		} else if c.next.Load()%slowTurn != 0 && got[2] != "http://slow" {
			t.Fatalf("in order of %v", got)
		}
	}
	if slowFirst < 1 || slowFirst > 8 {
		t.Errorf("the slow one came first %d times of %d", slowFirst, 8*slowTurn)
	}
	for range 40 {
		c.servers[1].timed(20 * time.Millisecond)
	}
	if s := c.inOrder(); slices.Index(s, c.servers[1]) == 3 || time.Duration(c.servers[1].took.Load()) > 25*time.Millisecond {
		t.Errorf("a server that is no longer slow takes %v", c.Servers()[1].Took)
	}
}

// TestServers: what came of each is told.
func TestServers(t *testing.T) {
	m, tables := memoryModel(t)
	honest, _ := serve(t, tables)
	liar, _ := serve(t, lying(tables, 1))
	down := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "down", http.StatusServiceUnavailable) }))
	defer down.Close()
	c := client(t, m, Options{Servers: []string{honest, liar, down.URL}, Nodes: 1, Slow: time.Hour})
	r := rand.New(rand.NewPCG(3, 4))
	for range 10 {
		want(t, c, &tables[2], someRows(r, 8, tables[2].Rows))
	}
	s := c.Servers()
	if s[0].Answers < 10 || s[0].Took <= 0 || s[0].Dropped != nil || s[0].Failed != nil {
		t.Errorf("the honest one: %+v", s[0])
	}
	if s[1].Dropped == nil {
		t.Errorf("the liar: %+v", s[1])
	}
	if s[2].Failed == nil || s[2].Dropped != nil || s[2].Answers != 0 {
		t.Errorf("the one that is down: %+v", s[2])
	}
}

// TestAddRemove: tables come and go; when remove returns nobody reads them.
func TestAddRemove(t *testing.T) {
	m, tables := memoryModel(t)
	s := NewEmptyServer()
	h := httptest.NewServer(s)
	defer h.Close()
	c := client(t, m, Options{Servers: []string{h.URL}, Cache: 1})
	row := make([]byte, tables[2].RowBytes())
	if c.Rows(tables[2].Name, []int{1}, row) == nil {
		t.Error("rows of an empty server")
	}
	var mu sync.Mutex
	closed := false
	mine := slices.Clone(tables)
	read := mine[2].Read
	mine[2].Read = func(dst []byte, id int) ([]byte, error) {
		mu.Lock()
		defer mu.Unlock()
		if closed {
			t.Error("read after it was removed")
			return nil, errors.New("closed")
		}
		return read(dst, id)
	}
	remove, err := s.Add(mine)
	if err != nil {
		t.Fatal(err)
	}
	second, err := s.Add(tables[:1])
	if err != nil {
		t.Fatal(err)
	}
	want(t, c, &tables[2], []int{1, 2})
	var wait sync.WaitGroup
	for i := range 4 {
		wait.Go(func() {
			row := make([]byte, tables[2].RowBytes())
			for j := range 200 {
				if c.Rows(tables[2].Name, []int{(i*501 + j*7) % tables[2].Rows}, row) != nil {
					return
				}
			}
		})
	}
	remove()
	mu.Lock()
	closed = true
	mu.Unlock()
	wait.Wait()
	remove()
	if c.Rows(tables[2].Name, []int{3}, row) == nil {
		t.Error("rows that were removed")
	}
	want(t, c, &tables[0], []int{1, 2}) // of the second
	second()
	if _, err := s.Add([]Table{{}}); err == nil {
		t.Error("a table without rows is served")
	}
}

// TestWriteTrunk: the trunk has all but the tables, and says the same model.
func TestWriteTrunk(t *testing.T) {
	f := testFile(t)
	g, tables := opened(t, f)
	var b bytes.Buffer
	var last, all int64
	if err := WriteTrunk(t.Context(), &b, f, g, func(done, total int64) { last, all = done, total }); err != nil {
		t.Fatal(err)
	}
	trunk, err := gguf.Parse("trunk", b.Bytes())
	if err != nil {
		t.Fatal(err)
	}
	if last != all || all == 0 || len(trunk.Tensors()) != len(f.Tensors())-len(tables) || len(trunk.Meta()) != len(f.Meta()) {
		t.Errorf("%d of %d bytes, %d tensors of %d", last, all, len(trunk.Tensors()), len(f.Tensors()))
	}
	for _, x := range trunk.Tensors() {
		if !bytes.Equal(x.Data, f.Tensor(x.Name).Data) {
			t.Errorf("tensor %s is another", x.Name)
		}
	}
	if _, err := model.Describe(trunk, model.Options{}); err == nil {
		t.Error("a trunk is a whole model")
	}
	url, _ := serve(t, tables)
	p := prompt(g, 20)
	_, alone := answer(t, f, nil, p, 10)
	if _, got := answer(t, trunk, client(t, g, Options{Servers: []string{url}}), p, 10); !sameBits(got, alone) {
		t.Error("the trunk has another answer")
	}
}

// TestSlowSenders: connections that send no body keep nobody out.
func TestSlowSenders(t *testing.T) {
	s := NewEmptyServer()
	arrived := make(chan bool)
	h := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == "POST" {
			arrived <- true
		}
		s.ServeHTTP(w, r)
	}))
	defer h.Close()
	for range cap(s.busy) {
		c, err := net.Dial("tcp", h.Listener.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		fmt.Fprint(c, "POST /geist/v1/rows HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n")
		<-arrived
	}
	for len(s.reading) < cap(s.busy) {
		time.Sleep(time.Millisecond)
	}
	r, err := http.Get(h.URL + "/geist/v1/rows")
	if err != nil {
		t.Fatal(err)
	}
	defer r.Body.Close()
	if r.StatusCode != http.StatusOK || len(s.busy) != 0 {
		t.Errorf("status %s, %d places taken", r.Status, len(s.busy))
	}
}
