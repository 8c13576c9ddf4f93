package gateway

import (
	"encoding/json"
	"fmt"
	"reflect"
	"strings"
	"testing"
)

func TestOllamaChat(t *testing.T) {
	b := newBench(t, Options{})
	r := b.post("/api/chat", `{"model":"fake:latest",`+hello+`,"think":true}`)
	text, thinking := "", ""
	for i, e := range r.events {
		s, _ := at(t, e, "message", "content").(string)
		h, _ := at(t, e, "message", "thinking").(string)
		text, thinking = text+s, thinking+h
		if done := at(t, e, "done"); done != (i == len(r.events)-1) {
			t.Errorf("line %d: done %v", i, done)
		}
	}
	last := r.events[len(r.events)-1]
	if text != "You said: hello there" || thinking != "Hm. Yes." || at(t, last, "done_reason") != "stop" || at(t, last, "eval_count") != 6.0 || at(t, last, "total_duration") == nil || at(t, last, "geist", "receipt") != "abc" {
		t.Errorf("%s", r.body)
	}
	if r.header.Get("Content-Type") != "application/x-ndjson" {
		t.Errorf("%v", r.header)
	}
	r = b.post("/api/chat", `{"model":"fake","stream":false,`+hello+`,"keep_alive":"5m","logprobs":true,"top_logprobs":1,"options":{"num_ctx":2048,"num_predict":2,"temperature":0,"seed":3,"stop":["q"],"top_k":5,"repeat_last_n":-1},"format":{"type":"object"}}`)
	q := b.f.last.Load()
	if q.MaxTokens != 2 || *q.Seed != 3 || q.Sampling.Temperature != 0 || q.Sampling.TopK != 5 || q.Sampling.TopP != 0.9 || string(q.Shape.Schema) != `{"type":"object"}` || !reflect.DeepEqual(q.Stop, []string{"q"}) {
		t.Errorf("%+v", q)
	}
	if r.get(t, "done_reason") != "length" || r.get(t, "done") != true || r.get(t, "logprobs", 1, "token") == nil {
		t.Errorf("%s", r.body)
	}
	r = b.post("/api/chat", `{"model":"fake","stream":false,`+hello+`,`+weather+`}`)
	if r.get(t, "message", "tool_calls", 1, "function", "arguments", "city") != "Rome" || r.get(t, "done_reason") != "stop" {
		t.Errorf("%s", r.body)
	}
	r = b.post("/api/chat", `{"model":"fake","stream":false,"messages":[{"role":"user","content":"x"},{"role":"assistant","content":"","tool_calls":[{"function":{"name":"weather","arguments":{"city":"Paris"}}}]},{"role":"tool","tool_name":"weather","content":"sunny"}],`+weather+`}`)
	if q := b.f.last.Load(); q.Messages[1].ToolCalls[0].Arguments != `{"city":"Paris"}` || q.Messages[2].Name != "weather" || r.get(t, "message", "content") != "You said: sunny" {
		t.Errorf("%+v %s", q.Messages, r.body)
	}
	r = b.post("/api/chat", `{"model":"fake","messages":[]}`)
	if r.get(t, "done_reason") != "load" || r.get(t, "done") != true {
		t.Errorf("%s", r.body)
	}
	for _, bad := range []string{`"messages":[{"role":"user","content":"x","images":["aaaa"]}]`, `"messages":[{"role":"robot","content":"x"}]`, hello + `,"format":"xml"`, hello + `,"options":{"mirostat":1}`, hello + `,"think":[]`, hello + `,"options":{"temperature":-2}`, hello + `,"top_logprobs":30,"logprobs":true`, `"messages":[{"role":"user","content":[]}]`} {
		if r := b.post("/api/chat", `{"model":"fake",`+bad+`}`); r.code != 400 {
			t.Errorf("%s: %d %s", bad, r.code, r.body)
		}
	}
}

func TestOllamaGenerate(t *testing.T) {
	b := newBench(t, Options{})
	r := b.post("/api/generate", `{"model":"fake","prompt":"hi","system":"be brief","stream":false}`)
	if q := b.f.last.Load(); len(q.Messages) != 2 || q.Messages[0].Role != "system" || r.get(t, "response") != "You said: hi" {
		t.Errorf("%s", r.body)
	}
	r = b.post("/api/generate", `{"model":"fake","prompt":"hi","raw":true}`)
	text := ""
	for _, e := range r.events {
		s, _ := at(t, e, "response").(string)
		text += s
	}
	if q := b.f.last.Load(); q.Messages != nil || q.Text != "hi" || text != "and so on, " {
		t.Errorf("%s", r.body)
	}
	if r := b.post("/api/generate", `{"model":"fake"}`); r.get(t, "done_reason") != "load" || r.get(t, "response") != "" {
		t.Errorf("%s", r.body)
	}
	if r := b.post("/api/generate", `{"model":"gone"}`); r.code != 404 {
		t.Errorf("%s", r.body)
	}
	for _, bad := range []string{`"template":"x"`, `"context":[1]`, `"images":["a"]`} {
		if r := b.post("/api/generate", `{"model":"fake","prompt":"x",`+bad+`}`); r.code != 400 {
			t.Errorf("%s: %d %s", bad, r.code, r.body)
		}
	}
}

func TestOllamaRest(t *testing.T) {
	b := newBench(t, Options{Version: "1.2.3"})
	if r := b.post("/api/embed", `{"model":"fake","input":["a","b"]}`); r.get(t, "embeddings", 1, 7) != 0.8 || r.get(t, "prompt_eval_count") != 3.0 {
		t.Errorf("%s", r.body)
	}
	if r := b.post("/api/embeddings", `{"model":"fake","prompt":"a"}`); r.get(t, "embedding", 0) != 0.6 {
		t.Errorf("%s", r.body)
	}
	if r := b.post("/api/embeddings", `{"model":"fake"}`); r.code != 400 {
		t.Errorf("%d %s", r.code, r.body)
	}
	if r := b.do("GET", "/api/tags", ""); r.get(t, "models", 0, "details", "quantization_level") != "Q8_0" || r.get(t, "models", 0, "details", "parameter_size") != "1.0B" {
		t.Errorf("%s", r.body)
	}
	if r := b.do("GET", "/api/ps", ""); r.get(t, "models", 0, "name") != "fake" || r.get(t, "models", 1) != nil {
		t.Errorf("%s", r.body)
	}
	if r := b.post("/api/show", `{"model":"fake"}`); r.get(t, "model_info", "llama.context_length") != 4096.0 || r.get(t, "capabilities", 1) != "tools" {
		t.Errorf("%s", r.body)
	}
	if r := b.post("/api/show", `{"name":"gone"}`); r.code != 404 {
		t.Errorf("%s", r.body)
	}
	if r := b.do("GET", "/api/version", ""); r.get(t, "version") != "1.2.3" {
		t.Errorf("%s", r.body)
	}
}

// TestOllamaEqual holds that the lines of a stream add up to the whole.
func TestOllamaEqual(t *testing.T) {
	b := newBench(t, Options{})
	for seed := range 100 {
		b.f.script = random(uint64(seed))
		var got [2]string
		for i, stream := range []bool{false, true} {
			r := b.post("/api/chat", fmt.Sprintf(`{"model":"fake","stream":%v,%s,"logprobs":true}`, stream, hello))
			lines := r.events
			if !stream {
				lines = append(lines, json.RawMessage(r.body))
			}
			var text, thinking, calls, probs strings.Builder
			for _, e := range lines {
				s, _ := at(t, e, "message", "content").(string)
				h, _ := at(t, e, "message", "thinking").(string)
				text.WriteString(s)
				thinking.WriteString(h)
				for n := 0; at(t, e, "message", "tool_calls", n) != nil; n++ {
					fmt.Fprintln(&calls, at(t, e, "message", "tool_calls", n))
				}
				for n := 0; at(t, e, "logprobs", n) != nil; n++ {
					fmt.Fprintln(&probs, at(t, e, "logprobs", n))
				}
			}
			last := lines[len(lines)-1]
			got[i] = fmt.Sprint(text.String(), "|", thinking.String(), "|", calls.String(), "|", probs.String(), "|", at(t, last, "done_reason"), at(t, last, "eval_count"), at(t, last, "prompt_eval_count"), at(t, last, "geist"))
		}
		if got[0] != got[1] {
			t.Fatalf("seed %d: at once %s, streamed %s", seed, got[0], got[1])
		}
	}
}
