package gateway

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/geistnet/geist/internal/dialog"
)

func TestHostileBodies(t *testing.T) {
	b := newBench(t, Options{MaxBody: 1 << 20})
	for name, c := range map[string]struct {
		body string
		want int
	}{
		"large":          {`{"model":"` + strings.Repeat("x", 2<<20) + `"}`, 413},
		"deep":           {strings.Repeat("[", 100000), 400},
		"deep and valid": {`{"model":"fake","x":` + strings.Repeat("[", 200) + strings.Repeat("]", 200) + `,` + hello + `}`, 400},
		"garbage":        {"\x00\xff\xfe{{{", 400},
		"many messages":  {`{"model":"fake","messages":[` + strings.Repeat(`{},`, 300000) + `{}]}`, 400},
		"many biases":    {`{"model":"fake",` + hello + `,"logit_bias":{"1":0` + strings.Repeat(`,"1":0`, 5000) + `}}`, 400},
		"many tools":     {`{"model":"fake",` + hello + `,"tools":[{}` + strings.Repeat(`,{}`, 2000) + `]}`, 400},
		"long name":      {`{"model":"` + strings.Repeat("x", 5000) + `",` + hello + `}`, 400},
		"bad numbers":    {`{"model":"fake","temperature":1e999,` + hello + `}`, 400},
		"huge count":     {`{"model":"fake","max_tokens":99999999999999999999,` + hello + `}`, 400},
		"brackets":       {`{"model":"fake","messages":[{"role":"user","content":"` + strings.Repeat("[", 5000) + `"}]}`, 200},
	} {
		for _, path := range []string{"/v1/chat/completions", "/api/chat"} {
			if path == "/api/chat" && (c.want == 200 || strings.HasPrefix(name, "bad") || strings.HasPrefix(name, "huge") || name == "many biases") {
				continue // lines, and options with other names
			}
			// The server may stop reading, so the request may fail on its way.
			resp, err := http.Post(b.s.URL+path, "application/json", strings.NewReader(c.body))
			if err != nil {
				if name != "large" {
					t.Errorf("%s: %v", name, err)
				}
				continue
			}
			raw, err := io.ReadAll(resp.Body)
			resp.Body.Close()
			if err != nil || resp.StatusCode != c.want || !json.Valid(raw) && c.want != 200 {
				t.Errorf("%s at %s: %d %.200s, %v", name, path, resp.StatusCode, raw, err)
			}
		}
	}
	if modest([]byte(`{"a":[`+strings.Repeat(`{},`, maxValues+1)+`{}]}`)) == nil {
		t.Error("a million values are let through")
	}
}

// endless is a script that never ends, in pieces of n bytes.
func endless(n int) func(*dialog.Question) (script, error) {
	deltas := slices.Repeat([]dialog.Delta{{Text: strings.Repeat("x", n)}}, 1<<20)
	return func(*dialog.Question) (script, error) { return script{deltas: deltas}, nil }
}

// closed waits for all answers of the fake to be closed.
func (b *bench) closed() {
	b.t.Helper()
	for range 1000 {
		if b.f.open.Load() == 0 {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	b.t.Fatalf("%d answers are still open", b.f.open.Load())
}

func TestSlowReader(t *testing.T) {
	b := newBench(t, Options{WriteTimeout: 50 * time.Millisecond})
	b.f.script = endless(1 << 16)
	c, err := net.Dial("tcp", b.s.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	body := `{"model":"fake","stream":true,` + hello + `}`
	fmt.Fprintf(c, "POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n%s", len(body), body)
	for b.f.begun.Load() == 0 {
		time.Sleep(time.Millisecond)
	}
	b.closed()
}

func TestSlowBody(t *testing.T) {
	b := newBench(t, Options{ReadTimeout: 50 * time.Millisecond})
	c, err := net.Dial("tcp", b.s.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	fmt.Fprint(c, "POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\n{")
	resp, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil || resp.StatusCode != http.StatusRequestTimeout {
		t.Errorf("%v %v", resp, err)
	}
}

// TestGone holds that a client that goes away ends what it asked for, streamed
// or not, before the first piece or after.
func TestGone(t *testing.T) {
	for _, body := range []string{`"stream":true`, `"stream":false`} {
		b := newBench(t, Options{})
		b.f.script = func(*dialog.Question) (script, error) {
			return script{deltas: slices.Repeat([]dialog.Delta{{Text: "x"}}, 1<<20), pause: time.Millisecond}, nil
		}
		ctx, cancel := context.WithCancel(context.Background())
		req, err := http.NewRequestWithContext(ctx, "POST", b.s.URL+"/v1/chat/completions", strings.NewReader(`{"model":"fake",`+hello+`,`+body+`}`))
		if err != nil {
			t.Fatal(err)
		}
		go func() {
			for b.f.begun.Load() == 0 {
				time.Sleep(time.Millisecond)
			}
			cancel()
		}()
		if resp, err := http.DefaultClient.Do(req); err == nil {
			io.Copy(io.Discard, resp.Body)
			resp.Body.Close()
		}
		cancel()
		b.closed()
		b.s.Close()
		if text := string(metricsText(t, b.g)); !strings.Contains(text, "geist_answers_cancelled_total 1\n") || !strings.Contains(text, "geist_requests_running 0\n") {
			t.Errorf("%s: %s", body, text)
		}
	}
}

func metricsText(t *testing.T, g *Gateway) []byte {
	t.Helper()
	list, err := g.opt.Registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	var out []byte
	for _, f := range list {
		for _, m := range f.Metric {
			switch {
			case m.Counter != nil:
				out = fmt.Appendf(out, "%s %v\n", f.GetName(), m.Counter.GetValue())
			case m.Gauge != nil:
				out = fmt.Appendf(out, "%s %v\n", f.GetName(), m.Gauge.GetValue())
			}
		}
	}
	return out
}

// TestSilence holds that a long wait is filled with comments that clients skip.
func TestSilence(t *testing.T) {
	b := newBench(t, Options{Silence: 20 * time.Millisecond})
	b.f.script = func(*dialog.Question) (script, error) {
		return script{deltas: words("a b"), pause: 100 * time.Millisecond, sum: dialog.Summary{Finish: dialog.FinishStop}}, nil
	}
	r := b.post("/v1/chat/completions", `{"model":"fake","stream":true,`+hello+`}`)
	if !r.done || !strings.HasPrefix(string(r.body), ": ") || len(r.events) != 3 {
		t.Errorf("%s", r.body)
	}
	if r := b.post("/api/chat", `{"model":"fake",`+hello+`}`); len(r.events) != 3 {
		t.Errorf("%s", r.body)
	}
	b.f.script = func(*dialog.Question) (script, error) {
		return script{pause: 100 * time.Millisecond, err: dialog.Errorf(dialog.NoFunds, "", "no funds")}, nil
	}
	r = b.post("/v1/chat/completions", `{"model":"fake","stream":true,`+hello+`}`)
	if n := len(r.events); n != 1 || at(t, r.events[0], "error", "code") != "insufficient_quota" {
		t.Errorf("%s", r.body)
	}
}

func TestTooMany(t *testing.T) {
	b := newBench(t, Options{MaxStreams: 1})
	hold := make(chan struct{})
	b.f.script = func(*dialog.Question) (script, error) {
		<-hold
		return script{sum: dialog.Summary{Finish: dialog.FinishStop}}, nil
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		resp, err := http.Post(b.s.URL+"/v1/chat/completions", "", strings.NewReader(`{"model":"fake",`+hello+`}`))
		if err == nil {
			resp.Body.Close()
		}
	})
	for len(b.g.room) == 0 {
		time.Sleep(time.Millisecond)
	}
	r := b.post("/v1/chat/completions", `{"model":"fake",`+hello+`}`)
	if r.code != 429 || r.header.Get("Retry-After") == "" {
		t.Errorf("%d %s", r.code, r.body)
	}
	if r := b.do("GET", "/healthz", ""); r.code != 200 {
		t.Errorf("%d", r.code)
	}
	close(hold)
	wg.Wait()
	if r := b.post("/v1/chat/completions", `{"model":"fake",`+hello+`}`); r.code != 200 {
		t.Errorf("%d %s", r.code, r.body)
	}
}

// TestManyStreams opens 2,000 streams at once and looks at the memory that they
// take, with that of the clients, which run in this process too.
func TestManyStreams(t *testing.T) {
	if testing.Short() {
		t.Skip("this takes long; ./check test runs it")
	}
	const n = 2000
	b := newBench(t, Options{})
	hold, first := make(chan struct{}), make(chan struct{}, n)
	b.f.script = func(*dialog.Question) (script, error) { return script{}, nil }
	held := &holding{fake: b.f, hold: hold, first: first}
	b.g.opt.Backend = held
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	body := `{"model":"fake","stream":true,` + hello + `}`
	conns := make([]net.Conn, n)
	for i := range conns {
		c, err := net.Dial("tcp", b.s.Listener.Addr().String())
		if err != nil {
			t.Skipf("connection %d: %v (the limit of open files may be too low)", i, err)
		}
		defer c.Close()
		fmt.Fprintf(c, "POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n%s", len(body), body)
		conns[i] = c
	}
	for range n {
		<-first
	}
	for _, c := range conns {
		buf := make([]byte, 15)
		if _, err := io.ReadFull(c, buf); err != nil || string(buf) != "HTTP/1.1 200 OK" {
			t.Fatalf("%q %v", buf, err)
		}
	}
	runtime.GC()
	runtime.ReadMemStats(&after)
	used := int64(after.HeapInuse+after.StackInuse) - int64(before.HeapInuse+before.StackInuse)
	t.Logf("%d open streams take %d MiB, %d KiB each; all memory from the system %d MiB", n, used>>20, used/n>>10, after.Sys>>20)
	if after.Sys > 1<<30 {
		t.Errorf("%d MiB are more than 1 GiB", after.Sys>>20)
	}
	close(hold)
}

// holding gives answers of one piece that do not end until they may.
type holding struct {
	*fake
	hold  chan struct{}
	first chan struct{}
}

func (h *holding) Ask(ctx context.Context, _ *dialog.Question) (dialog.Answer, error) {
	return &held{h: h, ctx: ctx}, nil
}

type held struct {
	played
	h   *holding
	ctx context.Context
	n   int
}

func (a *held) Next() (dialog.Delta, error) {
	a.n++
	if a.n == 1 {
		return dialog.Delta{Text: "hello"}, nil
	}
	if a.n == 2 {
		a.h.first <- struct{}{}
	}
	select {
	case <-a.h.hold:
	case <-a.ctx.Done():
	}
	return dialog.Delta{}, io.EOF
}

func (a *held) Close() error { return nil }

// BenchmarkFirstToken is the time from a request to the first piece of its
// stream over HTTP on loopback, with a backend that answers at once.
func BenchmarkFirstToken(b *testing.B) {
	x := newBench(b, Options{})
	body := `{"model":"fake","stream":true,` + hello + `}`
	q := &dialog.Question{ID: "1", Model: "fake", TopLogProbs: -1}
	direct, through := make([]time.Duration, 0, b.N), make([]time.Duration, 0, b.N)
	for b.Loop() {
		begin := time.Now()
		a, err := x.f.Ask(b.Context(), q)
		if err != nil {
			b.Fatal(err)
		}
		if _, err := a.Next(); err != nil {
			b.Fatal(err)
		}
		direct = append(direct, time.Since(begin))

		begin = time.Now()
		resp, err := http.Post(x.s.URL+"/v1/chat/completions", "application/json", strings.NewReader(body))
		if err != nil {
			b.Fatal(err)
		}
		r := bufio.NewReader(resp.Body)
		if _, err := r.ReadString('\n'); err != nil {
			b.Fatal(err)
		}
		through = append(through, time.Since(begin))
		io.Copy(io.Discard, r)
		resp.Body.Close()
	}
	for i := range through {
		through[i] -= direct[i]
	}
	slices.Sort(through)
	at := func(p float64) float64 { return through[int(p*float64(len(through)-1))].Seconds() * 1e3 }
	b.ReportMetric(at(.5), "ms-p50")
	b.ReportMetric(at(.99), "ms-p99")
}
