package gateway

import (
	"bytes"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"os/signal"
	"strings"
	"sync"
	"testing"
)

var (
	proxyAt = flag.String("proxy", "", "let TestProxy listen here and hand everything on to -to, until it is interrupted")
	proxyTo = flag.String("to", "", "the server behind -proxy, such as http://127.0.0.1:11435")
)

// A witness passes requests on to a server and holds every response, event of a
// stream and line against openapi.yaml while it passes. Nothing waits for that.
type witness struct {
	doc *bench // for its document
	to  *httputil.ReverseProxy

	mu   sync.Mutex
	said verdicts
}

// verdicts is what GET /witness says.
type verdicts struct {
	Responses  int            `json:"responses"`
	Events     int            `json:"events"`
	Cut        int            `json:"cut"` // by the client, and checked as far as they went
	Routes     map[string]int `json:"routes"`
	Mismatches []string       `json:"mismatches"`
}

type requestBody struct{}

func newWitness(t testing.TB, to string) *witness {
	t.Helper()
	base, err := url.Parse(to)
	if err != nil || base.Host == "" {
		t.Fatalf("-to %q is no URL", to)
	}
	w := &witness{doc: &bench{doc: document(t)}, said: verdicts{Routes: map[string]int{}, Mismatches: []string{}}}
	w.to = &httputil.ReverseProxy{
		FlushInterval:  -1,
		Rewrite:        func(r *httputil.ProxyRequest) { r.SetURL(base) },
		ModifyResponse: w.watch,
	}
	return w
}

func (w *witness) ServeHTTP(out http.ResponseWriter, r *http.Request) {
	if r.URL.Path == "/witness" {
		w.mu.Lock()
		defer w.mu.Unlock()
		out.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(out).Encode(w.said) // the reader may be gone
		return
	}
	body, err := io.ReadAll(r.Body)
	if err != nil {
		http.Error(out, err.Error(), http.StatusBadRequest)
		return
	}
	r.Body = io.NopCloser(bytes.NewReader(body))
	w.to.ServeHTTP(out, r.WithContext(context.WithValue(r.Context(), requestBody{}, string(body))))
}

// watch keeps what passes of a body and judges it when that ends.
func (w *witness) watch(resp *http.Response) error {
	if r := resp.Request; !strings.HasPrefix(r.URL.Path, "/geist/") && r.Method != http.MethodHead {
		resp.Body = &watched{ReadCloser: resp.Body, w: w, resp: resp}
	}
	return nil
}

type watched struct {
	io.ReadCloser
	w    *witness
	resp *http.Response
	seen bytes.Buffer
	once sync.Once
}

func (b *watched) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	b.seen.Write(p[:n])
	if err != nil {
		b.once.Do(func() { b.w.judge(b.resp, b.seen.Bytes(), err == io.EOF) })
	}
	return n, err
}

func (b *watched) Close() error {
	b.once.Do(func() { b.w.judge(b.resp, b.seen.Bytes(), false) })
	return b.ReadCloser.Close()
}

// judge checks a body, or the complete pieces of one that was cut.
func (w *witness) judge(resp *http.Response, seen []byte, whole bool) {
	r := &reply{code: resp.StatusCode, header: resp.Header, body: seen}
	kind := resp.Header.Get("Content-Type")
	stream := strings.HasPrefix(kind, "text/event-stream") || strings.HasPrefix(kind, "application/x-ndjson")
	if !whole && stream {
		end := "\n"
		if strings.HasPrefix(kind, "text/event-stream") {
			end = "\n\n"
		}
		last := bytes.LastIndex(seen, []byte(end))
		if r.body = nil; last >= 0 {
			r.body = seen[:last+len(end)]
		}
	}
	q := resp.Request
	body, _ := q.Context().Value(requestBody{}).(string)
	var err error
	if whole || stream && len(r.body) > 0 {
		err = w.doc.check(q.Method, q.URL.Path, body, r)
	}
	if err == nil && whole && stream && strings.HasPrefix(kind, "text/event-stream") && !r.done && !bytes.Contains(r.body, []byte(`{"error":`)) {
		err = fmt.Errorf("the stream ends with neither [DONE] nor an error")
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.said.Responses++
	w.said.Events += len(r.events)
	w.said.Routes[fmt.Sprintf("%s %s %d", q.Method, clean(q.URL.Path), r.code)]++
	if !whole {
		w.said.Cut++
	}
	if err != nil {
		w.said.Mismatches = append(w.said.Mismatches, fmt.Sprintf("%s %s %.2000s: status %d, %.2000s: %v", q.Method, q.URL.Path, body, r.code, seen, err))
	}
}

// TestProxy is what stands between clients of other projects and a server:
//
//	go test ./internal/gateway -run TestProxy -timeout 0 -proxy 127.0.0.1:11502 -to http://127.0.0.1:11435
//
// GET /witness tells what did not fit the contract, and so does its end.
func TestProxy(t *testing.T) {
	if *proxyAt == "" {
		t.Skip("no -proxy")
	}
	w := newWitness(t, *proxyTo)
	l, err := net.Listen("tcp", *proxyAt)
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	s := Server(w)
	go func() {
		<-ctx.Done()
		s.Close()
	}()
	t.Log(s.Serve(l))
	for _, m := range w.said.Mismatches {
		t.Error(m)
	}
	t.Logf("%d responses with %d events, %d cut by clients", w.said.Responses, w.said.Events, w.said.Cut)
}

// TestWitness holds that the proxy passes all on and finds what does not fit.
func TestWitness(t *testing.T) {
	g, err := New(Options{Backend: &fake{any: true}})
	if err != nil {
		t.Fatal(err)
	}
	bad := ""
	s := httptest.NewServer(http.HandlerFunc(func(out http.ResponseWriter, r *http.Request) {
		rec := httptest.NewRecorder()
		g.ServeHTTP(rec, r)
		for k, v := range rec.Header() {
			out.Header()[k] = v
		}
		text := rec.Body.String()
		if bad != "" {
			text = strings.ReplaceAll(text, bad, `"surprise"`)
			out.Header().Del("Content-Length")
		}
		out.WriteHeader(rec.Code)
		io.WriteString(out, text)
	}))
	defer s.Close()
	w := newWitness(t, s.URL)
	p := httptest.NewServer(w)
	defer p.Close()
	post := func(path, body string) string {
		resp, err := http.Post(p.URL+path, "application/json", strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		b, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	n := 0
	for _, c := range []struct{ path, body, bad string }{
		{"/v1/chat/completions", `{"model":"m",` + hello + `}`, `"finish_reason"`},
		{"/v1/chat/completions", `{"model":"m","stream":true,` + hello + `}`, `"delta"`},
		{"/v1/completions", `{"model":"m","prompt":"x","stream":true}`, `"text"`},
		{"/v1/embeddings", `{"model":"m","input":"x"}`, `"embedding":`},
		{"/v1/nothing", `{}`, `"message"`},
		{"/api/chat", `{"model":"m",` + hello + `}`, `"done"`},
		{"/api/generate", `{"model":"m","prompt":"x"}`, `"response"`},
	} {
		for _, bad = range []string{"", c.bad} {
			if text := post(c.path, c.body); text == "" {
				t.Errorf("%s: nothing came", c.path)
			}
		}
		n++
		if got := w.said.Mismatches; len(got) != n {
			t.Fatalf("%s %s: %d mismatches, %d are there: %q", c.path, c.body, len(got), n, got)
		}
	}
	if w.said.Responses != 2*n || w.said.Events < 10 {
		t.Errorf("%+v", w.said)
	}
	w.judge(&http.Response{StatusCode: 200, Header: http.Header{"Content-Type": {"application/x-ndjson"}}, Request: httptest.NewRequest("POST", "/api/chat", nil).WithContext(
		context.WithValue(t.Context(), requestBody{}, `{"model":"m",`+hello+`}`))}, []byte(`{"model":"m","created_at":"2024-01-01T00:00:00Z","message":{"role":"assistant","content":"x"},"done":false}`+"\n"+`{"mod`), false)
	if len(w.said.Mismatches) != n || w.said.Cut != 1 {
		t.Errorf("what was cut: %q", w.said.Mismatches[n:])
	}
}
