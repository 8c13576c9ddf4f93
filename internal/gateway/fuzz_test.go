package gateway

import (
	"encoding/json"
	"net/http/httptest"
	"strings"
	"testing"
)

// FuzzBodies posts anything anywhere: the answer is JSON, of the contract's
// shape, and never this server's fault.
func FuzzBodies(f *testing.F) {
	paths := []string{"/v1/chat/completions", "/v1/completions", "/v1/embeddings", "/api/chat", "/api/generate", "/api/embed", "/api/embeddings", "/api/show"}
	for i, body := range []string{
		`{"model":"fake",` + hello + `,` + weather + `,"tool_choice":{"type":"function","function":{"name":"time"}},"stop":["a"],"logit_bias":{"5":1},"response_format":{"type":"json_schema","json_schema":{"schema":{}}}}`,
		`{"model":"fake","prompt":[[1,2]],"logprobs":1}`,
		`{"model":"fake","input":["a"],"dimensions":3,"encoding_format":"base64"}`,
		`{"model":"fake:latest",` + hello + `,"format":{"type":"object"},"think":"high","options":{"num_predict":-1,"stop":"x"}}`,
		`{"model":"fake","prompt":"x","system":"y","raw":true}`,
		`{"model":"fake","provider":{"order":["a"],"max_price":{"prompt":1}},"geist":{"context":5},"input":[1]}`,
		`{"model":"fake","prompt":null}`,
		`{"name":"fake"}`,
	} {
		f.Add(uint8(i), body)
	}
	g, err := New(Options{Backend: &fake{}})
	if err != nil {
		f.Fatal(err)
	}
	b := &bench{t: f, g: g, doc: document(f)}
	f.Fuzz(func(t *testing.T, n uint8, body string) {
		path := paths[int(n)%len(paths)]
		req := httptest.NewRequest("POST", path, strings.NewReader(body))
		req.Host = "localhost"
		w := httptest.NewRecorder()
		g.ServeHTTP(w, req)
		r := &reply{code: w.Code, header: w.Header(), body: w.Body.Bytes()}
		// Some of the fake's models answer 502 and 503.
		if r.code == 500 || r.code > 503 {
			t.Fatalf("status %d: %s", r.code, r.body)
		}
		if r.code >= 400 && !json.Valid(r.body) {
			t.Fatalf("status %d with %q", r.code, r.body)
		}
		if r.code >= 400 {
			if err := b.check("POST", path, body, r); err != nil {
				t.Fatalf("%s: %v", r.body, err)
			}
		}
	})
}
