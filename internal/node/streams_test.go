package node

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/geistnet/geist/ghost"
	"github.com/geistnet/geist/internal/asker"
	"github.com/geistnet/geist/internal/gateway"
	"github.com/geistnet/geist/internal/market"
	"github.com/geistnet/geist/internal/nostr"
	"github.com/geistnet/geist/internal/pay"
	"github.com/geistnet/geist/internal/provider"
)

// chain is a gateway before an asker before a provider before a server that
// computes nothing: what a question costs on the way.
func chain(t testing.TB, upstream http.HandlerFunc, most int, disk bool, log *slog.Logger) (url string) {
	t.Helper()
	up := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		if q.URL.Path == "/v1/models" {
			io.WriteString(w, `{"data":[{"id":"far"}]}`)
			return
		}
		upstream(w, q)
	}))
	ctx := context.Background()
	limit := func(ghost.Key) (give, take pay.MilliSat) { return 1 << 40, 1 << 40 }
	fail := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	key, own := ghost.Secret{31: 1}, ghost.Secret{31: 2}
	open := func() *pay.Journal {
		if !disk {
			return pay.NewMemoryJournal()
		}
		j, err := pay.OpenJournal(t.TempDir())
		fail(err)
		return j
	}
	jp, ja := open(), open()
	taken, err := pay.NewCredit(key, jp, limit)
	fail(err)
	p, err := provider.New(provider.Options{Secret: key, Rails: []pay.Rail{taken}, Journal: jp, Queue: most, PerClient: most})
	fail(err)
	u, err := provider.NewUpstream(ctx, provider.UpstreamOptions{URL: up.URL, Model: "far", Context: 2048})
	fail(err)
	m := u.Served("", most)
	p.Serve(m)
	jobs := httptest.NewServer(p.Handler())
	now := time.Now().Unix()
	ask := &market.Ask{Provider: p.Key(), Name: "far", Created: now, Expires: now + 900, Model: m.ID, ModelName: "far", Quant: "unknown", Context: m.Context,
		Input: 1000, Output: 1000, Capacity: most, Endpoints: []string{jobs.URL}, Rails: []string{"credit"}, Grade: m.Grade}
	e, err := ask.Event(market.DefaultKinds())
	fail(err)
	fail(nostr.Sign(e, key))
	ask, err = market.ParseAsk(e, market.Rules{Kinds: market.DefaultKinds(), Now: now})
	fail(err)
	p.Offer(provider.Ask{ID: ghost.Digest(ask.ID), Model: m.ID, Prices: pay.Prices{Prompt: 1000, Answer: 1000}, Expires: time.Now().Add(time.Hour)})
	owed, err := pay.NewCredit(own, ja, limit)
	fail(err)
	a, err := asker.New(asker.Options{Secret: own, Rails: []pay.Rail{owed}, Journal: ja, Dir: t.TempDir(), Log: log, Asks: func() []*market.Ask { return []*market.Ask{ask} }})
	fail(err)
	g, err := gateway.New(gateway.Options{Backend: a})
	fail(err)
	api := httptest.NewServer(g)
	t.Cleanup(func() {
		api.CloseClientConnections()
		api.Close()
		a.Close()
		p.Close()
		jobs.CloseClientConnections()
		jobs.Close()
		up.CloseClientConnections()
		up.Close()
		ja.Close()
		jp.Close()
	})
	return api.URL
}

const far = `{"model":"far","stream":true,"max_tokens":64,"messages":[{"role":"user","content":"hello"}]}`

func say(w http.ResponseWriter, text string) {
	fmt.Fprintf(w, "data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":%q}}]}\n\n", text)
	w.(http.Flusher).Flush()
}

// TestManyStreamsThrough holds 2,000 streams open through everything that a
// question passes, clients and the server behind included, in one process.
func TestManyStreamsThrough(t *testing.T) {
	if testing.Short() {
		t.Skip("2,000 streams take long; ./check test opens them")
	}
	const n = 2000
	hold := make(chan struct{})
	url := chain(t, func(w http.ResponseWriter, q *http.Request) {
		say(w, "Once upon a time")
		select {
		case <-hold:
		case <-q.Context().Done():
		}
		io.WriteString(w, "data: [DONE]\n\n")
	}, n, false, nil)
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	var conns []*bufio.Reader
	for len(conns) < n {
		var some []*bufio.Reader
		for range 50 {
			c, err := net.Dial("tcp", strings.TrimPrefix(url, "http://"))
			if err != nil {
				t.Skipf("connection %d: %v (the limit of open files may be too low)", len(conns), err)
			}
			defer c.Close()
			fmt.Fprintf(c, "POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%s", len(far), far)
			some = append(some, bufio.NewReaderSize(c, 512))
		}
		for i, c := range some {
			for {
				line, err := c.ReadString('\n')
				if err != nil || strings.Contains(line, `"error"`) {
					t.Fatalf("stream %d: %q, %v", len(conns)+i, line, err)
				}
				if strings.Contains(line, `"content":"Onc`) {
					break
				}
			}
		}
		conns = append(conns, some...)
	}
	runtime.GC()
	runtime.ReadMemStats(&after)
	used := int64(after.HeapInuse+after.StackInuse) - int64(before.HeapInuse+before.StackInuse)
	t.Logf("%d open streams through gateway, asker, provider and their clients take %d MiB, %d KiB each; all memory from the system %d MiB; %d goroutines", n, used>>20, used/n>>10, after.Sys>>20, runtime.NumGoroutine())
	if after.Sys > 1<<30 {
		t.Errorf("%d MiB are more than 1 GiB", after.Sys>>20)
	}
	close(hold)
	ends, errs, why := 0, 0, map[string]int{}
	var mu sync.Mutex
	var work sync.WaitGroup
	for _, c := range conns {
		work.Go(func() {
			b, err := io.ReadAll(c)
			mu.Lock()
			defer mu.Unlock()
			switch {
			case err != nil:
				t.Error(err)
			case strings.Contains(string(b), "[DONE]"):
				ends++
			case strings.Contains(string(b), `"error"`): // a machine that is busy with all of them for longer than a provider waits to be paid
				errs++
				_, text, _ := strings.Cut(string(b), `"error"`)
				why[text[:min(len(text), 300)]]++
			}
		})
	}
	work.Wait()
	t.Logf("all released at once: %d came to their end, %d were told why not: %v", ends, errs, why)
	if ends+errs != n || ends == 0 {
		t.Errorf("%d of %d streams were left without a word", n-ends-errs, n)
	}
}

// TestBurstPays: answers that fall due at one moment, more than a line of credit takes
// payments that are not agreed, are all paid at the first try and come to their end.
func TestBurstPays(t *testing.T) {
	const n = 200
	hold := make(chan struct{})
	log := &safeLog{}
	url := chain(t, func(w http.ResponseWriter, q *http.Request) {
		say(w, "Once upon a time")
		select {
		case <-hold:
		case <-q.Context().Done():
		}
		_, _ = io.WriteString(w, "data: [DONE]\n\n")
	}, n, false, slog.New(slog.NewTextHandler(log, nil)))
	var began, ended sync.WaitGroup
	began.Add(n)
	for range n {
		ended.Go(func() {
			w, err := http.Post(url+"/v1/chat/completions", "application/json", strings.NewReader(far))
			if err != nil {
				t.Error(err)
				began.Done()
				return
			}
			defer w.Body.Close()
			r := bufio.NewReader(w.Body)
			if _, err := r.ReadString('\n'); err != nil {
				t.Error(err)
			}
			began.Done()
			if b, err := io.ReadAll(r); err != nil || !strings.Contains(string(b), "[DONE]") || strings.Contains(string(b), `"error"`) {
				t.Errorf("%v: %s", err, b)
			}
		})
	}
	began.Wait()
	close(hold)
	ended.Wait()
	if text := log.String(); strings.Contains(text, "msg=payment") || strings.Count(text, "msg=asked") != n {
		t.Errorf("%d accounts; payments that failed: %.2000s", strings.Count(text, "msg=asked"), text)
	}
}

// BenchmarkThrough is a short answer through everything, payment and receipt
// included.
func BenchmarkThrough(b *testing.B) {
	url := chain(b, func(w http.ResponseWriter, _ *http.Request) {
		say(w, "Once upon a time")
		io.WriteString(w, "data: [DONE]\n\n")
	}, 8, true, nil)
	var first []time.Duration
	for b.Loop() {
		begin := time.Now()
		w, err := http.Post(url+"/v1/chat/completions", "application/json", strings.NewReader(far))
		if err != nil {
			b.Fatal(err)
		}
		r := bufio.NewReader(w.Body)
		for {
			line, err := r.ReadString('\n')
			if err != nil || strings.Contains(line, `"error"`) {
				b.Fatalf("%q, %v", line, err)
			}
			if strings.Contains(line, `"content":"Onc`) {
				first = append(first, time.Since(begin))
				break
			}
		}
		if _, err := io.Copy(io.Discard, r); err != nil {
			b.Fatal(err)
		}
		w.Body.Close()
	}
	slices.Sort(first)
	b.ReportMetric(float64(first[len(first)/2].Microseconds()), "µs/first-p50")
	b.ReportMetric(float64(first[len(first)*99/100].Microseconds()), "µs/first-p99")
}
