package gateway

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/getkin/kin-openapi/openapi3"
)

// document is openapi.yaml, read and found valid.
func document(t testing.TB) *openapi3.T {
	t.Helper()
	loader := openapi3.NewLoader()
	doc, err := loader.LoadFromData([]byte(contract))
	if err != nil {
		t.Fatal(err)
	}
	if err := doc.Validate(context.Background()); err != nil {
		t.Fatal(err)
	}
	return doc
}

// operation finds what the document says about a request.
func operation(doc *openapi3.T, method, path string) *openapi3.Operation {
	item := doc.Paths.Value(path)
	for _, tree := range []string{"/v1/models/", "/v1/receipts/"} {
		if item == nil && strings.HasPrefix(path, tree) {
			item = doc.Paths.Value(tree + "{id}")
		}
	}
	if item == nil {
		return nil
	}
	return item.GetOperation(method)
}

// A reply is a response whose body has been read and held against the contract.
type reply struct {
	code    int
	header  http.Header
	trailer http.Header
	body    []byte
	events  []json.RawMessage // of a stream, without [DONE]
	done    bool              // there was a [DONE]
}

// get is the value at a path of keys in the JSON of a reply.
func (r *reply) get(t testing.TB, keys ...any) any {
	t.Helper()
	return at(t, r.body, keys...)
}

func at(t testing.TB, raw []byte, keys ...any) any {
	t.Helper()
	var v any
	if err := json.Unmarshal(raw, &v); err != nil {
		t.Fatalf("%v in %s", err, raw)
	}
	return dig(v, keys...)
}

func dig(v any, keys ...any) any {
	for _, k := range keys {
		switch k := k.(type) {
		case string:
			m, _ := v.(map[string]any)
			v = m[k]
		case int:
			l, _ := v.([]any)
			if k >= len(l) {
				return nil
			}
			v = l[k]
		}
	}
	return v
}

// A bench is a server with a fake behind it, whose every reply is checked.
type bench struct {
	t   testing.TB
	f   *fake
	g   *Gateway
	s   *httptest.Server
	doc *openapi3.T
}

func newBench(t testing.TB, o Options) *bench {
	t.Helper()
	b := &bench{t: t, doc: document(t)}
	if o.Backend == nil {
		b.f = &fake{}
		o.Backend = b.f
	}
	var err error
	if b.g, err = New(o); err != nil {
		t.Fatal(err)
	}
	b.s = httptest.NewServer(b.g)
	t.Cleanup(b.s.Close)
	return b
}

// do sends a request; header are pairs.
func (b *bench) do(method, path, body string, header ...string) *reply {
	b.t.Helper()
	req, err := http.NewRequest(method, b.s.URL+path, strings.NewReader(body))
	if err != nil {
		b.t.Fatal(err)
	}
	if body != "" {
		req.Header.Set("Content-Type", "application/json")
	}
	for i := 0; i < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
		if header[i] == "Host" {
			req.Host = header[i+1]
		}
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		b.t.Fatal(err)
	}
	defer resp.Body.Close()
	r := &reply{code: resp.StatusCode, header: resp.Header}
	if r.body, err = io.ReadAll(resp.Body); err != nil {
		b.t.Fatal(err)
	}
	r.trailer = resp.Trailer
	if err := b.check(method, path, body, r); err != nil {
		b.t.Fatalf("%s %s %s: status %d\n%s\nis against openapi.yaml: %v", method, path, body, r.code, r.body, err)
	}
	return r
}

func (b *bench) post(path, body string, header ...string) *reply {
	b.t.Helper()
	return b.do("POST", path, body, header...)
}

// check holds a reply against the contract, and the request of a good one too.
func (b *bench) check(method, path, body string, r *reply) error {
	path, _, _ = strings.Cut(path, "?")
	op := operation(b.doc, method, clean(path))
	want := b.doc.Components.Responses["Error"].Value
	if strings.HasPrefix(clean(path), "/api") {
		want = b.doc.Components.Responses["OllamaError"].Value
	}
	if op != nil {
		ref := op.Responses.Status(r.code)
		if ref == nil {
			ref = op.Responses.Default()
		}
		want = ref.Value
	} else if r.code < 300 && r.code != 204 {
		return fmt.Errorf("the path is not in the document")
	}
	if r.code == 204 || method == "HEAD" {
		return nil
	}
	if op != nil && r.code < 300 && op.RequestBody != nil {
		var v any
		if err := json.Unmarshal([]byte(body), &v); err != nil {
			return err
		}
		if err := op.RequestBody.Value.Content.Get("application/json").Schema.Value.VisitJSON(v); err != nil {
			return fmt.Errorf("the request: %w", err)
		}
	}
	kind, _, _ := strings.Cut(r.header.Get("Content-Type"), ";")
	media := want.Content[kind]
	if media == nil {
		return fmt.Errorf("content type %q is not in the document", kind)
	}
	schema := media.Schema.Value
	switch kind {
	case "text/event-stream", "application/x-ndjson":
		name, ok := media.Extensions["x-event"].(string)
		if !ok {
			return fmt.Errorf("no x-event for %s", kind)
		}
		schema = b.doc.Components.Schemas[name].Value
		if err := r.split(kind == "text/event-stream"); err != nil {
			return err
		}
		for _, e := range r.events {
			var v map[string]any
			if err := json.Unmarshal(e, &v); err != nil {
				return err
			}
			s := schema
			if v["error"] != nil {
				s = b.doc.Components.Schemas["Error"].Value
				if kind != "text/event-stream" {
					s = b.doc.Components.Schemas["OllamaError"].Value
				}
			}
			if err := s.VisitJSON(v); err != nil {
				return fmt.Errorf("event %s: %w", e, err)
			}
		}
		return nil
	case "application/json":
		var v any
		if err := json.Unmarshal(r.body, &v); err != nil {
			return err
		}
		return schema.VisitJSON(v)
	}
	return nil
}

// split takes a stream apart, strictly.
func (r *reply) split(sse bool) error {
	if !bytes.HasSuffix(r.body, []byte("\n")) {
		return fmt.Errorf("the stream does not end with a newline")
	}
	if !sse {
		for _, l := range strings.Split(strings.TrimSuffix(string(r.body), "\n"), "\n") {
			r.events = append(r.events, json.RawMessage(l))
		}
		return nil
	}
	for _, e := range strings.Split(strings.TrimSuffix(string(r.body), "\n\n"), "\n\n") {
		data, ok := strings.CutPrefix(e, "data: ")
		switch {
		case strings.HasPrefix(e, ":"):
		case !ok || strings.Contains(data, "\n") || r.done:
			return fmt.Errorf("event %q", e)
		case data == "[DONE]":
			r.done = true
		default:
			r.events = append(r.events, json.RawMessage(data))
		}
	}
	return nil
}

// TestContractPaths holds that the document and the table of routes say the same.
func TestContractPaths(t *testing.T) {
	b := newBench(t, Options{})
	inTable := map[string]bool{}
	for _, r := range b.g.routes() {
		path := r.path
		if path != "/" && strings.HasSuffix(path, "/") {
			path += "{id}"
		}
		inTable[path] = true
		item := b.doc.Paths.Value(path)
		if item == nil || item.GetOperation(r.method) == nil {
			t.Errorf("%s %s is not in openapi.yaml", r.method, path)
		}
	}
	for path := range b.doc.Paths.Map() {
		if !inTable[path] {
			t.Errorf("openapi.yaml has %s, which is not served", path)
		}
	}
}

// TestContractFinds holds that the check can fail.
func TestContractFinds(t *testing.T) {
	b := newBench(t, Options{})
	r := b.do("GET", "/v1/models", "")
	r.body = bytes.Replace(r.body, []byte(`"owned_by"`), []byte(`"surprise"`), 1)
	if b.check("GET", "/v1/models", "", r) == nil {
		t.Error("a field that is not in the document is let through")
	}
	r = b.post("/v1/chat/completions", `{"model":"fake","stream":true,"messages":[{"role":"user","content":"x"}]}`)
	r.body, r.events, r.done = bytes.Replace(r.body, []byte(`"object"`), []byte(`"objekt"`), 1), nil, false
	if b.check("POST", "/v1/chat/completions", `{"model":"fake","messages":[{"role":"user"}]}`, r) == nil {
		t.Error("a chunk without object is let through")
	}
}
