package provider

import (
	"bytes"
	"context"
	"encoding/hex"
	"net/http"
	"testing"
	"time"

	"github.com/geistnet/geist/audit"
	"github.com/geistnet/geist/ghost"
	"github.com/geistnet/geist/internal/job"
	"github.com/geistnet/geist/internal/pay"
)

// gated makes a proof for each message.
type gated struct {
	*worker
	begun chan audit.Size
	gate  chan struct{}
}

func (g *gated) Prove(ctx context.Context, f *audit.RunFile) ([]byte, error) {
	g.begun <- f.Size
	select {
	case <-g.gate:
		return []byte("proof"), nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// Strangers' proofs leave room for clients', which are made first; one that was
// refused for want of room does not count.
func TestProofsOfStrangers(t *testing.T) {
	h := newHouse(t, nil, func(o *Options) { o.Audits = 1 })
	g := &gated{h.w, make(chan audit.Size, 2*maxAudits), make(chan struct{})}
	h.Serve(Model{ID: ghost.ID{1}, Name: "fake", Context: 4096, Grade: ghost.GhostAudited, Ghost: []byte("g"), Words: []byte("w"), Worker: g, Sessions: 2})
	c := h.client(50)
	o := c.order(5, nil)
	receipt := c.all(o)
	f := audit.RunFile{Receipt: receipt, Request: o.Request, Answer: []int32{1, 8, 15, 22, 29}, SeedNonce: o.SeedNonce, AuditNonce: auditNonce, Size: audit.Size{Cells: 2}}
	b, err := f.Encode()
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan int, 2*maxAudits)
	for range maxOthers {
		go func() { status, _ := c.post("/geist/v1/prove", b); done <- status }()
	}
	others := func(n int) func() bool {
		return func() bool {
			h.mu.Lock()
			defer h.mu.Unlock()
			return len(h.proofs.others) == n
		}
	}
	wait(t, "strangers in line", others(maxOthers-1))
	w, err := http.Post(h.url+"/geist/v1/prove", "", bytes.NewReader(b))
	if err != nil {
		t.Fatal(err)
	}
	w.Body.Close()
	if w.StatusCode != http.StatusServiceUnavailable || w.Header.Get("Retry-After") == "" {
		t.Errorf("one stranger more: %s, %v", w.Status, w.Header)
	}
	demand := func() int {
		id := o.ID()
		status, _ := c.post("/geist/v1/jobs/"+hex.EncodeToString(id[:])+"/audit", job.AuditCall{Nonce: auditNonce, Size: audit.Size{Cells: 1}}.Encode())
		return status
	}
	h.mu.Lock()
	h.proving = maxAudits
	h.mu.Unlock()
	if status := demand(); status != http.StatusServiceUnavailable {
		t.Errorf("without room: %d", status)
	}
	h.mu.Lock()
	h.proving = 0
	h.mu.Unlock()
	go func() { done <- demand() }()
	wait(t, "the client in line", func() bool {
		h.mu.Lock()
		defer h.mu.Unlock()
		return len(h.proofs.clients) == 1
	})
	var order []int
	for range 1 + maxOthers {
		order = append(order, (<-g.begun).Cells)
		g.gate <- struct{}{}
	}
	if order[1] != 1 {
		t.Errorf("proofs of %v cells in this order; the client's has 1", order)
	}
	for range order {
		if status := <-done; status != 200 {
			t.Errorf("status %d", status)
		}
	}
	if status := demand(); status != http.StatusBadRequest {
		t.Errorf("a second proof of one job: %d", status)
	}
	if !h.proofTurn(t.Context(), true) {
		t.Fatal("no turn")
	}
	gone, leave := context.WithCancel(t.Context())
	leave()
	if h.proofTurn(gone, true) {
		t.Error("a turn for who is gone")
	}
	h.proofDone()
	if h.proofs.making || h.proving != 0 || h.provingOthers != 0 {
		t.Errorf("%+v, %d and %d wait", h.proofs, h.proving, h.provingOthers)
	}
}

// vectors is an order of the vector of so many tokens.
func (c *buyer) vectors(tokens int, change func(*job.VectorOrder)) []byte {
	c.h.t.Helper()
	o := &job.VectorOrder{Provider: c.h.Key(), Model: ghost.ID{1}, Ask: ghost.Digest{2}, Prices: pay.Prices{Prompt: promptPrice, Answer: answerPrice},
		Rail: "credit", CreatedAt: c.h.o.Now().Unix(), Nonce: ghost.Nonce{byte(orders.Add(1))}, Texts: [][]int32{make([]int32, tokens)}}
	if change != nil {
		change(o)
	}
	if err := o.Sign(c.secret); err != nil {
		c.h.t.Fatal(err)
	}
	b, err := o.Encode()
	if err != nil {
		c.h.t.Fatal(err)
	}
	return b
}

// vectorless has no vectors.
type vectorless struct{ *worker }

func (vectorless) Embed(context.Context, []int32) ([]float32, error) {
	return nil, &Refusal{job.Busy, "", 3}
}

// Orders of vectors that are refused leave nothing; others are taken once.
func TestVectorOrders(t *testing.T) {
	now := time.Now()
	h := newHouse(t, nil, func(o *Options) { o.Now = func() time.Time { return now } })
	c := h.client(50)
	key, _ := c.secret.Public()
	refused := func(name string, b []byte, code job.Code) {
		t.Helper()
		_, answer := c.post("/geist/v1/vectors", b)
		if e, err := job.ParseEvent(answer); err != nil || e.Code != code {
			t.Errorf("%s: %s", name, answer)
		}
	}
	nothing := func() {
		t.Helper()
		kept := 0
		for range h.j.All("") {
			kept++
		}
		if kept != 0 || h.credit.Room(key) != owes || len(h.Provider.vectors) != 0 {
			t.Errorf("%d things and %d jobs are kept, the room is %d", kept, len(h.Provider.vectors), h.credit.Room(key))
		}
	}
	refused("costly", c.vectors(4000, nil), job.NoCredit)
	refused("another provider", c.vectors(1, func(o *job.VectorOrder) { o.Provider, _ = secret(3).Public() }), job.UnknownAsk)
	nothing()
	h.Serve(Model{ID: ghost.ID{1}, Name: "fake", Context: 4096, Grade: ghost.GhostAudited, Worker: vectorless{h.w}, Sessions: 2})
	refused("no vectors", c.vectors(100, nil), job.Busy)
	if h.credit.Room(key) != owes || len(h.Provider.vectors) != 0 {
		t.Error("a refused order is remembered")
	}
	h.Serve(Model{ID: ghost.ID{1}, Name: "fake", Context: 4096, Grade: ghost.GhostAudited, Worker: h.w, Sessions: 2})
	b := c.vectors(100, func(o *job.VectorOrder) { o.CreatedAt += job.MaxSkew })
	if status, answer := c.post("/geist/v1/vectors", b); status != 200 {
		t.Fatalf("%d %s", status, answer)
	}
	refused("again", b, job.BadOrder)
	now = now.Add(2 * job.MaxSkew * time.Second)
	refused("much later", b, job.BadOrder)
	now = now.Add(time.Second)
	refused("too late", b, job.TooOld)
	now = now.Add(time.Hour)
	refused("the ask expired", c.vectors(1, nil), job.UnknownAsk)
}

// A client who is gone holds its place for a short while.
func TestClientGrace(t *testing.T) {
	p, err := New(Options{Secret: secret(1)})
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	if want := (job.Grace{Client: 15_000, Engine: job.DefaultGrace.Engine}); p.o.Grace != want {
		t.Errorf("the grace is %+v", p.o.Grace)
	}
}
