package gateway

import (
	"context"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil/promlint"

	"github.com/geistnet/geist/internal/dialog"
)

// TestKeys walks every route of the table, and what is no route.
func TestKeys(t *testing.T) {
	b := newBench(t, Options{Keys: []string{"sesame", "other"}})
	routes := b.g.routes()
	if len(routes) < 20 {
		t.Fatalf("%d routes", len(routes))
	}
	routes = append(routes, &route{method: "GET", path: "/nothing"}, &route{method: "DELETE", path: "/v1/models"}, &route{method: "OPTIONS", path: "/v1/models"})
	for _, r := range routes {
		path, body := r.path, ""
		if path != "/" && strings.HasSuffix(path, "/") {
			path += "abc"
		}
		if r.method == "POST" {
			body = `{"model":"fake","prompt":"x","input":"x",` + hello + `}`
		}
		for _, header := range [][]string{nil, {"Authorization", "Bearer wrong"}, {"Authorization", "Bearer "}, {"Authorization", "Basic sesame"}, {"X-Api-Key", "sesam"}, {"X-Api-Key", "sesame2"}} {
			got := b.do(r.method, path, body, header...)
			if got.code != 401 {
				t.Errorf("%s %s with %v: status %d", r.method, path, header, got.code)
			}
			if r.method != "OPTIONS" && !r.ollama && got.get(t, "error", "code") != "invalid_api_key" {
				t.Errorf("%s %s: %s", r.method, path, got.body)
			}
		}
		if r.serve == nil {
			continue
		}
		for _, header := range [][]string{{"Authorization", "Bearer sesame"}, {"Authorization", "bearer other"}, {"X-Api-Key", "sesame"}} {
			if got := b.do(r.method, path, body, header...); got.code == 401 || got.code == 403 {
				t.Errorf("%s %s with %v: status %d", r.method, path, header, got.code)
			}
		}
	}
	if n := b.f.begun.Load(); n != 3*4 {
		t.Errorf("%d answers were begun", n)
	}
	if r := b.do("HEAD", "/", ""); r.code != 401 {
		t.Errorf("HEAD /: %d", r.code)
	}
}

func TestNoKeysNeeded(t *testing.T) {
	b := newBench(t, Options{})
	if r := b.do("GET", "/v1/models", "", "Authorization", "Bearer anything"); r.code != 200 {
		t.Errorf("%d", r.code)
	}
}

func TestPagesOfOthers(t *testing.T) {
	b := newBench(t, Options{Hosts: []string{"ai.example"}, Origins: []string{"https://chat.example"}})
	chat := `{"model":"fake",` + hello + `}`
	for _, c := range []struct {
		name   string
		header []string
		want   int
	}{
		{"no browser", nil, 200},
		{"rebound name", []string{"Host", "evil.example"}, 403},
		{"rebound name with port", []string{"Host", "evil.example:11434"}, 403},
		{"localhost", []string{"Host", "localhost:11434"}, 200},
		{"loopback", []string{"Host", "[::1]:11434"}, 200},
		{"named", []string{"Host", "ai.example"}, 200},
		{"other site", []string{"Origin", "https://evil.example"}, 403},
		{"other site, told by the browser", []string{"Sec-Fetch-Site", "cross-site"}, 403},
		{"opaque origin", []string{"Origin", "null"}, 403},
		{"own page", []string{"Origin", b.s.URL}, 200},
		{"allowed page", []string{"Origin", "https://chat.example", "Sec-Fetch-Site", "cross-site"}, 200},
		{"like an allowed page", []string{"Origin", "https://chat.example.evil.example"}, 403},
	} {
		r := b.post("/v1/chat/completions", chat, c.header...)
		if r.code != c.want {
			t.Errorf("%s: %d %s", c.name, r.code, r.body)
		}
		if cors := r.header.Get("Access-Control-Allow-Origin"); (cors != "") != (c.name == "allowed page") {
			t.Errorf("%s: CORS for %q", c.name, cors)
		}
	}
	r := b.do("OPTIONS", "/v1/chat/completions", "", "Origin", "https://chat.example", "Access-Control-Request-Method", "POST", "Access-Control-Request-Headers", "x-stainless-os")
	if r.code != 204 || r.header.Get("Access-Control-Allow-Headers") != "x-stainless-os" {
		t.Errorf("preflight: %d %v", r.code, r.header)
	}
	r = b.do("OPTIONS", "/v1/chat/completions", "", "Origin", "https://evil.example", "Access-Control-Request-Method", "POST")
	if r.code == 204 || r.header.Get("Access-Control-Allow-Origin") != "" {
		t.Errorf("preflight of another: %d %v", r.code, r.header)
	}
	all := newBench(t, Options{Origins: []string{"*"}, Keys: []string{"k"}})
	if r := all.do("OPTIONS", "/v1/models", "", "Origin", "https://x.example", "Access-Control-Request-Method", "GET"); r.code != 204 {
		t.Errorf("preflight where all may: %d", r.code)
	}
	if r := all.do("GET", "/v1/models", "", "Origin", "https://x.example"); r.code != 401 || r.header.Get("Access-Control-Allow-Origin") == "" {
		t.Errorf("without a key: %d %v", r.code, r.header)
	}
}

func TestPaths(t *testing.T) {
	page := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/html; charset=utf-8")
		io.WriteString(w, "<p>page")
	})
	b := newBench(t, Options{Page: page})
	if r := b.do("GET", "/", ""); string(r.body) != "Ollama is running" {
		t.Errorf("%s", r.body)
	}
	if r := b.do("HEAD", "/", "", "Accept", "text/html"); r.code != 200 || len(r.body) != 0 {
		t.Errorf("%d %s", r.code, r.body)
	}
	if r := b.do("GET", "/", "", "Accept", "text/html,application/xhtml+xml"); string(r.body) != "<p>page" {
		t.Errorf("%s", r.body)
	}
	for path, want := range map[string]int{"/v1//models/": 200, "//v1/models": 200, "/v1/models/": 200, "/api//tags//": 200, "/v1": 200, "/v1/": 200, "/v1/audio/speech": 404, "/nothing": 404, "/v1/receipts": 404} {
		if r := b.do("GET", path, ""); r.code != want {
			t.Errorf("%s: %d, want %d", path, r.code, want)
		} else if want == 404 && r.get(t, "error", "code") != "unknown_url" {
			t.Errorf("%s: %s", path, r.body)
		}
	}
	if r := b.do("GET", "/v1/chat/completions", ""); r.code != 405 || r.header.Get("Allow") != "POST" {
		t.Errorf("%d %v", r.code, r.header)
	}
	if r := b.do("GET", "/openapi.yaml", ""); string(r.body) != contract || len(r.body) < 1000 {
		t.Errorf("%d bytes of contract", len(r.body))
	}
}

func TestHealth(t *testing.T) {
	b := newBench(t, Options{})
	for _, p := range []string{"/healthz", "/readyz", "/health"} {
		if r := b.do("GET", p, ""); r.code != 200 || r.get(t, "status") != "ok" {
			t.Errorf("%s: %d %s", p, r.code, r.body)
		}
	}
	b = newBench(t, Options{Ready: func(context.Context) error { return dialog.Errorf(dialog.Unavailable, "", "no peers") }})
	for p, want := range map[string]int{"/healthz": 200, "/readyz": 503, "/health": 503} {
		if r := b.do("GET", p, ""); r.code != want || want == 503 && r.get(t, "reason") != "no peers" {
			t.Errorf("%s: %d %s", p, r.code, r.body)
		}
	}
}

func TestMetrics(t *testing.T) {
	b := newBench(t, Options{Version: "1"})
	b.post("/v1/chat/completions", `{"model":"fake",`+hello+`}`)
	b.post("/v1/chat/completions", `{"model":"a name that nobody serves",`+hello+`}`)
	b.post("/api/chat", `{"model":"fake",`+hello+`}`)
	b.do("GET", "/secret/path", "")
	text := string(b.do("GET", "/metrics", "").body)
	for _, want := range []string{
		`geist_requests_total{code="200",model="fake",route="/v1/chat/completions"} 1`,
		`geist_requests_total{code="404",model="",route="/v1/chat/completions"} 1`,
		`geist_requests_total{code="404",model="",route="other"} 1`,
		`geist_tokens_total{kind="prompt",model="fake"} 14`,
		`geist_answers_cost_msat_total{model="fake"} 84`,
		`geist_time_to_first_token_seconds_count{model="fake"} 2`,
		`geist_requests_running 0`, `geist_requests_waiting 0`, `geist_build_info{version="1"} 1`,
	} {
		if !strings.Contains(text, want+"\n") {
			t.Errorf("no line %s", want)
		}
	}
	if strings.Contains(text, "nobody serves") || strings.Contains(text, "secret") {
		t.Error("words of a client are labels")
	}
	problems, err := promlint.New(strings.NewReader(text)).Lint()
	if err != nil {
		t.Error(err)
	}
	for _, p := range problems {
		t.Errorf("%s: %s", p.Metric, p.Text)
	}
	if t.Failed() {
		t.Log(text)
	}
	r := prometheus.NewRegistry()
	if _, err := New(Options{Backend: &fake{}, Registry: r}); err != nil {
		t.Error(err)
	}
	if _, err := New(Options{Backend: &fake{}, Registry: r}); err == nil {
		t.Error("two gateways share a registry")
	}
}

func TestListen(t *testing.T) {
	open, err := New(Options{Backend: &fake{}})
	if err != nil {
		t.Fatal(err)
	}
	for _, addr := range []string{"0.0.0.0:0", ":0"} {
		if l, err := open.Listen(addr); err == nil {
			l.Close()
			t.Errorf("%s is open to everybody", addr)
		}
	}
	l, err := open.Listen("127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l.Close()
	for _, o := range []Options{{}, {Backend: &fake{}, Keys: []string{""}}, {Backend: &fake{}, Origins: []string{"chat.example"}}} {
		if _, err := New(o); err == nil {
			t.Errorf("%+v is taken", o)
		}
	}
}
