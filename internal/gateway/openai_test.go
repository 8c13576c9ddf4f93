package gateway

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"math"
	"reflect"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/geistnet/geist/internal/dialog"
	"github.com/geistnet/geist/internal/tools"
)

const hello = `"messages":[{"role":"user","content":"hello there"}]`

const weather = `"tools":[{"type":"function","function":{"name":"weather","description":"d","parameters":{"type":"object","properties":{"city":{"type":"string"}}}}},{"type":"function","function":{"name":"time"}}]`

func TestChat(t *testing.T) {
	b := newBench(t, Options{})
	r := b.post("/v1/chat/completions", `{"model":"fake",`+hello+`}`)
	if r.code != 200 || r.get(t, "choices", 0, "message", "content") != "You said: hello there" || r.get(t, "choices", 0, "finish_reason") != "stop" {
		t.Errorf("%d %s", r.code, r.body)
	}
	if r.get(t, "choices", 0, "message", "tool_calls") != nil || r.get(t, "choices", 0, "logprobs") != nil {
		t.Errorf("what was not asked for is there: %s", r.body)
	}
	if r.get(t, "usage", "total_tokens") != 11.0 || r.get(t, "usage", "prompt_tokens_details", "cached_tokens") != 2.0 {
		t.Errorf("usage: %s", r.body)
	}
	for k, want := range map[string]string{"X-Geist-Model-Id": fakeID, "X-Geist-Cost-Msat": "42", "X-Geist-Receipt": "abc", "X-Geist-Grade": "ghost-audited", "X-Geist-Verified": "receipt", "X-Geist-Quantisation": "q8_0"} {
		if got := r.header.Get(k); got != want {
			t.Errorf("%s: %q, want %q", k, got, want)
		}
	}
	if r.get(t, "geist", "receipt") != "abc" || r.get(t, "geist", "cost_msat") != 42.0 {
		t.Errorf("geist: %s", r.body)
	}
}

func TestChatStream(t *testing.T) {
	b := newBench(t, Options{})
	r := b.post("/v1/chat/completions", `{"model":"fake","stream":true,`+hello+`}`)
	if !r.done || len(r.events) != 5 {
		t.Fatalf("%s", r.body)
	}
	text, ids := "", map[any]bool{}
	for i, e := range r.events {
		if c, ok := at(t, e, "choices", 0, "delta", "content").(string); ok {
			text += c
		}
		ids[at(t, e, "id")] = true
		if role := at(t, e, "choices", 0, "delta", "role"); (role == "assistant") != (i == 0) {
			t.Errorf("chunk %d has the role %v", i, role)
		}
		if strings.Contains(string(e), `"usage"`) {
			t.Errorf("usage that nobody asked for: %s", e)
		}
		if why := at(t, e, "choices", 0, "finish_reason"); (why == "stop") != (i == 4) {
			t.Errorf("chunk %d ends for %v", i, why)
		}
	}
	if text != "You said: hello there" || len(ids) != 1 {
		t.Errorf("text %q, ids %v", text, ids)
	}
	if at(t, r.events[4], "geist", "receipt") != "abc" || r.trailer.Get("X-Geist-Cost-Msat") != "42" || r.trailer.Get("X-Geist-Receipt") != "abc" || r.header.Get("X-Geist-Provider") == "" {
		t.Errorf("account: %s, trailer %v", r.events[4], r.trailer)
	}

	r = b.post("/v1/chat/completions", `{"model":"fake","stream":true,"stream_options":{"include_usage":true},`+hello+`}`)
	for i, e := range r.events {
		if last := i == len(r.events)-1; (at(t, e, "usage") != nil) != last || !strings.Contains(string(e), `"usage"`) {
			t.Errorf("chunk %d: %s", i, e)
		} else if last && !strings.Contains(string(e), `"choices":[]`) {
			t.Errorf("the chunk with usage: %s", e)
		}
	}
}

func TestChatTools(t *testing.T) {
	b := newBench(t, Options{})
	for _, stream := range []bool{false, true} {
		for _, c := range []struct {
			more   string
			calls  int
			choice tools.Choice
			listed int
		}{
			{``, 2, tools.Choice{}, 2},
			{`,"tool_choice":"auto","parallel_tool_calls":true`, 2, tools.Choice{}, 2},
			{`,"parallel_tool_calls":false`, 1, tools.Choice{One: true}, 2},
			{`,"tool_choice":"required"`, 2, tools.Choice{Mode: tools.Required}, 2},
			{`,"tool_choice":"none"`, 0, tools.Choice{Mode: tools.None}, 0},
			{`,"tool_choice":{"type":"function","function":{"name":"time"}}`, 1, tools.Choice{Mode: tools.Required, Name: "time", One: true}, 2},
		} {
			r := b.post("/v1/chat/completions", fmt.Sprintf(`{"model":"fake","stream":%v,%s,%s%s}`, stream, hello, weather, c.more))
			q := b.f.last.Load()
			if !reflect.DeepEqual(q.Choice, c.choice) || len(q.Tools) != c.listed {
				t.Errorf("%s: choice %+v, %d tools", c.more, q.Choice, len(q.Tools))
			}
			m := assemble(t, r, stream)
			want := "stop"
			if c.calls > 0 {
				want = "tool_calls"
			}
			if len(m.Calls) != c.calls || m.Finish != want {
				t.Errorf("stream %v, %s: %+v", stream, c.more, m)
			}
			for i, k := range m.Calls {
				if k.Index != i || !json.Valid([]byte(k.Arguments)) || k.ID == "" {
					t.Errorf("call %+v", k)
				}
			}
		}
	}
	for _, bad := range []string{
		`"tool_choice":"required"`, `"tool_choice":"sometimes",` + weather, `"tool_choice":{"type":"function","function":{"name":"other"}},` + weather,
		`"tools":[{"type":"web_search"}]`, `"tools":{}`, `"functions":[{"name":"f"}]`, `"tool_choice":{"type":"allowed_tools"},` + weather,
	} {
		if r := b.post("/v1/chat/completions", `{"model":"fake",`+hello+`,`+bad+`}`); r.code != 400 || r.get(t, "error", "param") == nil {
			t.Errorf("%s: %d %s", bad, r.code, r.body)
		}
	}
}

// whole is an answer in one form, whether it was streamed or not.
type whole struct {
	Text, Reasoning, Finish string
	Calls                   []wholeCall
	Tokens                  []any
	Usage                   any
	Geist                   any
	Model, Print            any
}

type wholeCall struct {
	Index               int
	ID, Name, Arguments string
}

// assemble makes a whole of a reply of chat completions as a client would.
func assemble(t testing.TB, r *reply, stream bool) (w whole) {
	t.Helper()
	str := func(v any) string { s, _ := v.(string); return s }
	take := func(raw []byte, part string) {
		v := at(t, raw)
		w.Text += str(dig(v, "choices", 0, part, "content"))
		w.Reasoning += str(dig(v, "choices", 0, part, "reasoning_content"))
		if f := str(dig(v, "choices", 0, "finish_reason")); f != "" {
			w.Finish = f
		}
		calls, _ := dig(v, "choices", 0, part, "tool_calls").([]any)
		for i, k := range calls {
			n := i
			if stream {
				f, ok := dig(k, "index").(float64)
				if !ok {
					t.Fatalf("a call without index: %s", raw)
				}
				n = int(f)
			}
			for len(w.Calls) <= n {
				w.Calls = append(w.Calls, wholeCall{Index: len(w.Calls)})
			}
			w.Calls[n].ID += str(dig(k, "id"))
			w.Calls[n].Name += str(dig(k, "function", "name"))
			w.Calls[n].Arguments += str(dig(k, "function", "arguments"))
		}
		list, _ := dig(v, "choices", 0, "logprobs", "content").([]any)
		w.Tokens = append(w.Tokens, list...)
		if u := dig(v, "usage"); u != nil {
			w.Usage = u
		}
		if g := dig(v, "geist"); g != nil {
			w.Geist = g
		}
		w.Model, w.Print = dig(v, "model"), dig(v, "system_fingerprint")
	}
	if r.code != 200 {
		t.Fatalf("status %d: %s", r.code, r.body)
	}
	if !stream {
		take(r.body, "message")
		return w
	}
	if !r.done {
		t.Fatalf("no [DONE] in %s", r.body)
	}
	for _, e := range r.events {
		take(e, "delta")
	}
	return w
}

func TestChatQuestion(t *testing.T) {
	b := newBench(t, Options{})
	body := `{"model":"fake","messages":[{"role":"developer","content":"be brief"},{"role":"user","content":[{"type":"text","text":"a"},{"type":"text","text":"b"}]},
		{"role":"assistant","content":null,"tool_calls":[{"id":"c1","type":"function","function":{"name":"weather","arguments":"{}"}}]},{"role":"tool","tool_call_id":"c1","content":"sunny"}],
		"temperature":0.5,"top_p":0.9,"presence_penalty":1,"seed":-5,"stop":["x",""],"max_tokens":20,"max_completion_tokens":10,"logit_bias":{"5":-100,"7":0,"foo":0},
		"logprobs":true,"top_logprobs":2,"n":1,"user":"u","unknown":{"a":[1]},"response_format":{"type":"json_schema","json_schema":{"name":"n","schema":{"type":"object"},"strict":true}},
		"provider":{"order":["a"],"only":["79be667ef9dcbbac55a06295ce870b07029bfcdb2dce28d959f2815b16f81798"],"ignore":["c"],"allow_fallbacks":false,"sort":"price","max_price":{"prompt":5,"completion":6.25}},
		"verify":"audit","geist":{"quantisation":"Q8_0","context":100},"reasoning_effort":"high"}`
	if r := b.post("//v1//chat/completions/", body); r.code != 200 {
		t.Fatalf("%d %s", r.code, r.body)
	}
	q := b.f.last.Load()
	if len(q.Messages) != 4 || q.Messages[0].Role != "system" || q.Messages[1].Content != "ab" || q.Messages[2].ToolCalls[0].Arguments != "{}" || q.Messages[3].ToolCallID != "c1" {
		t.Errorf("messages %+v", q.Messages)
	}
	s := q.Sampling
	if s.Temperature != 0.5 || s.TopP != 0.9 || s.PresencePenalty != 1 || s.RepeatLast != window || len(s.Bias) != 1 || s.Bias[5] != -100 {
		t.Errorf("sampling %+v", s)
	}
	if q.MaxTokens != 10 || *q.Seed != math.MaxUint64-4 || !reflect.DeepEqual(q.Stop, []string{"x"}) || q.TopLogProbs != 2 || !*q.Think || string(q.Shape.Schema) != `{"type":"object"}` {
		t.Errorf("%+v", q)
	}
	want := dialog.Route{Order: []string{"a"}, Only: []string{"79be667ef9dcbbac55a06295ce870b07029bfcdb2dce28d959f2815b16f81798"}, Ignore: []string{"c"}, NoFallback: true, MaxPrompt: 5000, MaxAnswer: 6250, Sort: dialog.SortPrice}
	if !reflect.DeepEqual(q.Route, want) || q.Verify != dialog.VerifyAudit || q.Demand != (dialog.Demand{Quantisation: "q8_0", Context: 100, Audited: true}) {
		t.Errorf("route %+v, verify %q, demand %+v", q.Route, q.Verify, q.Demand)
	}
}

func TestChatRefuses(t *testing.T) {
	b := newBench(t, Options{})
	for _, c := range []struct{ more, param, code string }{
		{`"n":2`, "n", "unsupported_value"},
		{`"temperature":-1`, "temperature", "invalid_value"},
		{`"temperature":"warm"`, "temperature", "invalid_value"},
		{`"top_p":2`, "top_p", "invalid_value"},
		{`"max_tokens":-1`, "max_tokens", "invalid_value"},
		{`"top_logprobs":2`, "top_logprobs", "invalid_value"},
		{`"logprobs":true,"top_logprobs":21`, "top_logprobs", "invalid_value"},
		{`"logit_bias":{"foo":1}`, "logit_bias", "invalid_value"},
		{`"logit_bias":{"5":"x"}`, "logit_bias", "invalid_value"},
		{`"response_format":{"type":"json_schema"}`, "response_format.json_schema", "invalid_value"},
		{`"response_format":{"type":"xml"}`, "response_format", "unsupported_value"},
		{`"modalities":["text","audio"]`, "modalities", "unsupported_value"},
		{`"stop":5`, "stop", "invalid_value"},
		{`"verify":"maybe"`, "verify", "invalid_value"},
		{`"provider":{"sort":"luck"}`, "provider.sort", "invalid_value"},
		{`"provider":{"max_price":{"prompt":-1}}`, "provider.max_price", "invalid_value"},
		{`"provider":{"max_price":{"completion":1e13}}`, "provider.max_price", "invalid_value"},
		{`"model":"fake@ghost1abc"`, "model", "invalid_value"},
		{`"model":""`, "model", "invalid_value"},
		{`"model":"nothing"`, "model", "model_not_found"},
		{`"messages":[]`, "messages", "invalid_value"},
		{`"messages":null`, "messages", "invalid_value"},
		{`"messages":[{"role":"robot","content":"x"}]`, "messages", "invalid_value"},
		{`"messages":[{"role":"user","content":[{"type":"image_url","image_url":{"url":"data:"}}]}]`, "messages", "unsupported_value"},
	} {
		r := b.post("/v1/chat/completions", `{"model":"fake",`+hello+`,`+c.more+`}`)
		if r.code < 400 || r.get(t, "error", "param") != c.param || r.get(t, "error", "code") != c.code {
			t.Errorf("%s: %d %s, want %s of %s", c.more, r.code, r.body, c.code, c.param)
		}
	}
	for _, body := range []string{``, `x`, `[]`, `"a"`, `{"model":"fake"`, `{"model":1}`, `null`} {
		if r := b.post("/v1/chat/completions", body); r.code != 400 || r.get(t, "error", "message") == "" {
			t.Errorf("%q: %d %s", body, r.code, r.body)
		}
	}
}

func TestErrors(t *testing.T) {
	b := newBench(t, Options{})
	for _, c := range []struct {
		model, code string
		status      int
	}{
		{"poor", "insufficient_quota", 402}, {"busy", "rate_limit_exceeded", 429}, {"nobody", "unavailable", 503}, {"long", "context_length_exceeded", 400}, {"gone", "model_not_found", 404},
	} {
		for _, stream := range []string{"true", "false"} {
			r := b.post("/v1/chat/completions", `{"model":"`+c.model+`","stream":`+stream+`,`+hello+`}`)
			if r.code != c.status || r.get(t, "error", "code") != c.code {
				t.Errorf("%s: %d %s", c.model, r.code, r.body)
			}
			if retry := r.header.Get("Retry-After"); (retry != "") != (c.status == 429 || c.status == 503) {
				t.Errorf("%s: retry after %q", c.model, retry)
			}
			o := b.post("/api/chat", `{"model":"`+c.model+`","stream":`+stream+`,`+hello+`}`)
			if text, _ := o.get(t, "error").(string); o.code != c.status || text == "" {
				t.Errorf("%s: %d %s", c.model, o.code, o.body)
			}
		}
	}
	r := b.post("/v1/chat/completions", `{"model":"poor",`+hello+`}`)
	if r.get(t, "error", "type") != "insufficient_quota" || r.get(t, "error", "price_msat") != 5000.0 || r.header.Get("X-Should-Retry") != "false" {
		t.Errorf("%s", r.body)
	}
	r = b.post("/v1/chat/completions", `{"model":"busy",`+hello+`}`)
	if r.header.Get("Retry-After") != "2" || r.header.Get("Retry-After-Ms") != "1500" {
		t.Errorf("%v", r.header)
	}
	b.f.script = func(*dialog.Question) (script, error) { return script{}, fmt.Errorf("secret path /x") }
	r = b.post("/v1/chat/completions", `{"model":"fake",`+hello+`}`)
	if r.code != 500 || strings.Contains(string(r.body), "secret") || !strings.Contains(string(r.body), r.header.Get("X-Request-Id")) {
		t.Errorf("%d %s", r.code, r.body)
	}
}

func TestBreaks(t *testing.T) {
	b := newBench(t, Options{})
	r := b.post("/v1/chat/completions", `{"model":"broken","stream":true,`+hello+`}`)
	if n := len(r.events); r.code != 200 || r.done || at(t, r.events[n-1], "error", "code") != "provider_failed" {
		t.Errorf("%s", r.body)
	}
	r = b.post("/v1/completions", `{"model":"broken","stream":true,"prompt":"x"}`)
	if n := len(r.events); r.done || at(t, r.events[n-1], "error", "type") != "server_error" {
		t.Errorf("%s", r.body)
	}
	r = b.post("/api/chat", `{"model":"broken",`+hello+`}`)
	if text, _ := at(t, r.events[len(r.events)-1], "error").(string); text == "" {
		t.Errorf("%s", r.body)
	}
	r = b.post("/v1/chat/completions", `{"model":"broken",`+hello+`}`)
	if r.code != 502 || r.get(t, "error", "code") != "provider_failed" {
		t.Errorf("%d %s", r.code, r.body)
	}
	if n := b.f.open.Load(); n != 0 {
		t.Errorf("%d answers are open", n)
	}
}

// TestDemand holds that a demand that was broken is an error.
func TestDemand(t *testing.T) {
	b := newBench(t, Options{})
	b.do("GET", "/v1/models", "")
	before := runtime.NumGoroutine()
	for _, stream := range []string{"true", "false"} {
		if r := b.post("/v1/chat/completions", `{"model":"fake@`+fakeID+`","stream":`+stream+`,`+hello+`}`); r.code != 200 {
			t.Errorf("%d %s", r.code, r.body)
		}
		for _, more := range []string{`"model":"liar@` + fakeID + `"`, `"model":"liar","geist":{"model_id":"` + fakeID + `"}`, `"geist":{"quantisation":"f16"}`, `"provider":{"only":["a"]}`, `"provider":{"ignore":["79be667ef9dcbbac55a06295ce870b07029bfcdb2dce28d959f2815b16f81798"]}`} {
			r := b.post("/v1/chat/completions", `{"model":"fake","stream":`+stream+`,`+hello+`,`+more+`}`)
			if r.code != 422 || r.get(t, "error", "code") != "demand_not_met" || r.header.Get("X-Geist-Cost-Msat") != "" {
				t.Errorf("%s: %d %s", more, r.code, r.body)
			}
		}
	}
	for n := 0; runtime.NumGoroutine() > before+4; n++ {
		if n == 1000 {
			t.Errorf("%d goroutines, and %d before: those that read answers are left", runtime.NumGoroutine(), before)
			break
		}
		time.Sleep(10 * time.Millisecond)
	}
	if n := b.f.open.Load(); n != 0 {
		t.Errorf("%d answers are open", n)
	}
}

func TestCompletions(t *testing.T) {
	b := newBench(t, Options{})
	r := b.post("/v1/completions", `{"model":"fake","prompt":"Once","echo":true,"suffix":"end","logprobs":0,"best_of":0,"max_tokens":16,"seed":0,"stop":"\n"}`)
	if r.get(t, "choices", 0, "text") != "Onceand so on, end" || r.get(t, "choices", 0, "logprobs", "text_offset", 0) != 4.0 {
		t.Errorf("%s", r.body)
	}
	for _, p := range []string{`"a"`, `["a"]`, `[1,2]`, `[[1,2]]`} {
		r := b.post("/v1/completions", `{"model":"fake","stream":true,"stream_options":{"include_usage":true},"logprobs":2,"prompt":`+p+`}`)
		q := b.f.last.Load()
		if q.Text != "a" && !reflect.DeepEqual(q.Tokens, []int32{1, 2}) {
			t.Errorf("%s: %q %v", p, q.Text, q.Tokens)
		}
		text := ""
		for _, e := range r.events {
			if s, ok := at(t, e, "choices", 0, "text").(string); ok {
				text += s
			}
		}
		if text != "and so on, " || !r.done {
			t.Errorf("%s", r.body)
		}
	}
	for _, bad := range []string{`"prompt":["a","b"]`, `"prompt":{}`, `"prompt":[-1]`, `"prompt":[]`, `"n":1`, `"prompt":"a","best_of":2`, `"prompt":"a","logprobs":21`, `"prompt":[1],"echo":true`} {
		if r := b.post("/v1/completions", `{"model":"fake",`+bad+`}`); r.code != 400 || r.get(t, "error", "param") == nil {
			t.Errorf("%s: %d %s", bad, r.code, r.body)
		}
	}
}

func TestEmbeddings(t *testing.T) {
	b := newBench(t, Options{})
	for in, n := range map[string]int{`"a"`: 1, `["a","b"]`: 2, `[1,2,3]`: 1, `[[1],[2,3]]`: 2} {
		r := b.post("/v1/embeddings", `{"model":"fake","input":`+in+`}`)
		if list, _ := r.get(t, "data").([]any); len(list) != n || r.get(t, "data", 0, "embedding", 7) != 0.8 {
			t.Errorf("%s: %s", in, r.body)
		}
	}
	r := b.post("/v1/embeddings", `{"model":"fake","input":"a","encoding_format":"base64"}`)
	text, _ := r.get(t, "data", 0, "embedding").(string)
	raw, err := base64.StdEncoding.DecodeString(text)
	if err != nil || len(raw) != 32 || raw[31] != 0x3f {
		t.Errorf("%v %s", err, r.body)
	}
	r = b.post("/v1/embeddings", `{"model":"fake","input":"a","dimensions":1}`)
	if list, _ := r.get(t, "data", 0, "embedding").([]any); len(list) != 1 || list[0] != 1.0 {
		t.Errorf("%s", r.body)
	}
	for _, bad := range []string{`"input":null`, `"input":[]`, `"input":{}`, `"input":[[]]`, `"input":[-1]`, `"input":"a","dimensions":9`, `"input":"a","encoding_format":"hex"`} {
		if r := b.post("/v1/embeddings", `{"model":"fake",`+bad+`}`); r.code != 400 {
			t.Errorf("%s: %d %s", bad, r.code, r.body)
		}
	}
	if r := b.post("/v1/embeddings", `{"model":"gone","input":"a"}`); r.code != 404 {
		t.Errorf("%d %s", r.code, r.body)
	}
}

func TestModels(t *testing.T) {
	b := newBench(t, Options{})
	r := b.do("GET", "/v1/models/", "")
	if r.get(t, "data", 0, "id") != "fake" || r.get(t, "data", 0, "geist", "model_id") != fakeID {
		t.Errorf("%s", r.body)
	}
	for _, path := range []string{"/v1/models/org/slow", "/v1//models/org%2Fslow"} {
		if r := b.do("GET", path, ""); r.get(t, "id") != "org/slow" {
			t.Errorf("%s: %s", path, r.body)
		}
	}
	if r := b.do("GET", "/v1/models/gone", ""); r.code != 404 || r.get(t, "error", "code") != "model_not_found" {
		t.Errorf("%d %s", r.code, r.body)
	}
	if r := b.do("GET", "/v1/receipts/abc", ""); r.get(t, "id") != "abc" {
		t.Errorf("%s", r.body)
	}
	if r := b.do("GET", "/v1/receipts/x", ""); r.code != 404 {
		t.Errorf("%d %s", r.code, r.body)
	}
}

func TestAliases(t *testing.T) {
	b := newBench(t, Options{Aliases: map[string]string{"gpt-4o": "fake"}})
	for _, c := range []struct{ path, body string }{
		{"/v1/chat/completions", `{"model":"gpt-4o",` + hello + `}`},
		{"/v1/completions", `{"model":"gpt-4o","prompt":"x"}`},
		{"/v1/embeddings", `{"model":"gpt-4o","input":"x"}`},
		{"/api/chat", `{"model":"gpt-4o:latest","stream":false,` + hello + `}`},
		{"/api/generate", `{"model":"gpt-4o","prompt":"x","stream":false}`},
		{"/api/embed", `{"model":"gpt-4o","input":"x"}`},
		{"/api/show", `{"model":"gpt-4o"}`},
	} {
		if r := b.post(c.path, c.body); r.code != 200 {
			t.Errorf("%s: %d %s", c.path, r.code, r.body)
		}
	}
	if q := b.f.last.Load(); q.Model != "fake" {
		t.Errorf("asked for %q", q.Model)
	}
	if r := b.do("GET", "/v1/models/gpt-4o", ""); r.get(t, "id") != "fake" {
		t.Errorf("%s", r.body)
	}
	if r := b.do("GET", "/v1/models", ""); strings.Contains(string(r.body), "gpt-4o") {
		t.Errorf("an alias is listed: %s", r.body)
	}
	if r := b.do("GET", "/v1/models/gpt-4", ""); r.code != 404 {
		t.Errorf("no alias: %d", r.code)
	}
	for _, bad := range []map[string]string{{"": "fake"}, {"a": ""}, {"a": "b", "b": "c"}, {"a@b": "c"}} {
		if _, err := New(Options{Backend: &fake{}, Aliases: bad}); err == nil {
			t.Errorf("%v is taken", bad)
		}
	}
}
