package upstream

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// A server answers as its question tells it: an OpenAI-compatible one of
// somebody else, with all that can go wrong there.
type server struct {
	*httptest.Server
	last atomic.Pointer[map[string]any]
	died atomic.Int64 // when it broke off, in nanoseconds
	gone chan struct{}
}

func newServer(t *testing.T) *server {
	s := &server{gone: make(chan struct{}, 16)}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /v1/models", func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprint(w, `{"object":"list","data":[{"id":"other","object":"model"}]}`)
	})
	mux.HandleFunc("POST /v1/chat/completions", s.chat)
	s.Server = httptest.NewServer(mux)
	t.Cleanup(s.Close)
	return s
}

func (s *server) chat(w http.ResponseWriter, r *http.Request) {
	var q map[string]any
	if json.NewDecoder(r.Body).Decode(&q) != nil {
		http.Error(w, "no JSON", 400)
		return
	}
	s.last.Store(&q)
	messages, _ := q["messages"].([]any)
	m, _ := messages[len(messages)-1].(map[string]any)
	how, _ := m["content"].(string)
	flush := func() { _ = http.NewResponseController(w).Flush() } // the reader may be gone
	event := func(v string) {
		fmt.Fprintf(w, "data: %s\n\n", v)
		flush()
	}
	say := func(text string) {
		b, _ := json.Marshal(text)
		event(`{"choices":[{"index":0,"delta":{"content":` + string(b) + `},"finish_reason":null}]}`)
	}
	end := func(why string) {
		event(`{"choices":[{"index":0,"delta":{},"finish_reason":"` + why + `"}]}`)
		event("[DONE]")
	}
	abort := func() {
		s.died.Store(time.Now().UnixNano())
		panic(http.ErrAbortHandler)
	}
	if how == "status" {
		http.Error(w, "the engine is on fire", 500)
		return
	}
	w.Header().Set("Content-Type", "text/event-stream")
	switch how {
	case "dies":
		say("Once upon a time ")
		time.Sleep(200 * time.Millisecond)
		abort()
	case "dies at once":
		abort()
	case "ends without an end": // the connection is closed as if all was said
		w.Header().Set("Connection", "close")
		say("Once upon a time ")
		s.died.Store(time.Now().UnixNano())
	case "garbage":
		say("Once upon a time ")
		s.died.Store(time.Now().UnixNano())
		event(`{"choices":[{"delta":`)
	case "error":
		say("Once upon a time ")
		s.died.Store(time.Now().UnixNano())
		event(`{"error":{"message":"out of memory"}}`)
	case "huge":
		say("Once upon a time ")
		s.died.Store(time.Now().UnixNano())
		fmt.Fprint(w, "data: ")
		for range 64 {
			if _, err := fmt.Fprint(w, strings.Repeat("x", 1<<16)); err != nil {
				return
			}
		}
		end("stop")
	case "slow":
		for _, text := range []string{"Once ", "upon ", "a ", "time."} {
			say(text)
			time.Sleep(700 * time.Millisecond)
		}
		end("stop")
	case "without end":
		for i := 0; ; i++ {
			select {
			case <-r.Context().Done():
				s.gone <- struct{}{}
				return
			case <-time.After(5 * time.Millisecond):
			}
			say(fmt.Sprintf("%d, ", i))
		}
	case "tools":
		event(`{"choices":[{"index":0,"delta":{"tool_calls":[{"index":0,"id":"c1","type":"function","function":{"name":"weather","arguments":""}}]},"finish_reason":null}]}`)
		for _, s := range []string{`{"ci`, `ty":"Pa`, `ris"}`} {
			b, _ := json.Marshal(s)
			event(`{"choices":[{"index":0,"delta":{"tool_calls":[{"index":0,"function":{"arguments":` + string(b) + `}}]},"finish_reason":null}]}`)
		}
		end("tool_calls")
	case "lies": // more than was asked for, and what nobody asked for
		w.Header().Set("X-Geist-Grade", "ghost-audited")
		for range 100 {
			event(`{"geist":{"grade":"ghost-audited","verified":"audit"},"usage":{"completion_tokens":100000},"choices":[{"index":0,"delta":{"content":"abc"},"finish_reason":null}]}`)
		}
		end("stop")
	case "STOP":
		say("one STOP two")
		end("stop")
	default:
		for _, text := range strings.SplitAfter("You said: "+how+", ä 日本 🙂", " ") {
			say(text)
		}
		end("stop")
	}
}

const tool = `,"tools":[{"type":"function","function":{"name":"weather","parameters":{"type":"object","properties":{"city":{"type":"string"}}}}}]`

func TestFake(t *testing.T) {
	s := newServer(t)
	n := serve(t, "other", s.URL)
	for _, stream := range []bool{false, true} {
		a := n.chat("other", "hello", stream, "", nil)
		n.trust(a)
		if a.text != "You said: hello, ä 日本 🙂" || a.finish != "stop" {
			t.Errorf("stream %v: %+v", stream, a)
		}
		if stream {
			n.refuses(a)
		}
		a = n.chat("other", "tools", stream, tool, nil)
		n.trust(a)
		if len(a.calls) != 1 || !strings.HasPrefix(a.calls[0], "weather ") || !strings.Contains(a.calls[0], `"Paris"`) || a.finish != "tool_calls" || a.text != "" {
			t.Errorf("stream %v, tools: %+v", stream, a)
		}
		if q := *s.last.Load(); q["tools"] == nil || q["tool_choice"] != "auto" {
			t.Errorf("tools do not reach the server: %v", q)
		}
		a = n.chat("other", "STOP", stream, `,"stop":["STOP"],"temperature":0.5,"max_tokens":40,"seed":3`, nil)
		n.trust(a)
		if q := *s.last.Load(); a.text != "one " || fmt.Sprint(q["stop"]) != "[STOP]" || q["temperature"] != 0.5 || q["max_tokens"] != 40.0 || q["seed"] == nil {
			t.Errorf("stream %v, stop: %q, the server got %v", stream, a.text, q)
		}
		a = n.chat("other", "lies", stream, `,"max_tokens":10`, nil)
		n.trust(a)
		if a.answers != 10 || a.finish != "length" || a.text != strings.Repeat("abc", 10) {
			t.Errorf("stream %v, a server that goes on: %+v", stream, a)
		}
	}
	for _, level := range []string{"audit", "replicate"} {
		if a := n.chat("other", "hello", false, `,"verify":"`+level+`"`, nil); a.status != 422 {
			t.Errorf("%s was demanded: status %d, %s", level, a.status, a.body)
		}
	}
	if a := n.chat("other", "hello", false, `,"logprobs":true`, nil); a.status != 400 {
		t.Errorf("log probabilities: %d", a.status)
	}
	if a := n.chat("other", "slow", true, "", nil); a.text != "Once upon a time." {
		t.Errorf("a slow server: %+v", a)
	}
}

// What breaks off ends with an error soon, and costs what was delivered at most.
func TestFakeFails(t *testing.T) {
	s := newServer(t)
	n := serve(t, "other", s.URL)
	for _, how := range []string{"status", "dies at once", "dies", "ends without an end", "garbage", "error", "huge"} {
		for _, stream := range []bool{false, true} {
			s.died.Store(0)
			a := n.chat("other", how, stream, "", nil)
			took := time.Duration(0)
			if at := s.died.Load(); at != 0 {
				took = time.Since(time.Unix(0, at))
			}
			if a.failed == "" || !stream && a.status < 500 || strings.Contains(string(a.body), "[DONE]") {
				t.Errorf("%s, stream %v: status %d, %s", how, stream, a.status, a.body)
			}
			var e entry
			if list := n.receipts(); len(list) > 0 {
				e = list[0]
			}
			t.Logf("%s, stream %v: %d %s, %v after it broke off; paid %d msat for %d of %d tokens, %s", how, stream, a.status, a.failed, took.Round(time.Millisecond), e.Paid, e.Prompt, e.Tokens, e.Phase)
			if e.Paid > int64(5*e.Prompt+20*e.Tokens) || e.Tokens > (len(a.text)+2)/3 || e.Tokens == 0 && e.Paid > 0 {
				t.Errorf("%s: %q was delivered, kept is %+v", how, a.text, e)
			}
		}
	}
	if a := n.chat("other", "hello", false, "", nil); a.status != 200 {
		t.Errorf("after all that: %d %s", a.status, a.body)
	}
}

// Who hangs up ends the work of the server.
func TestFakeGivenUp(t *testing.T) {
	s := newServer(t)
	n := serve(t, "other", s.URL)
	resp, err := http.Post(n.URL+"/v1/chat/completions", "application/json", strings.NewReader(`{"model":"other","stream":true,"messages":[{"role":"user","content":"without end"}]}`))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := resp.Body.Read(make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	select {
	case <-s.gone:
	case <-time.After(30 * time.Second):
		t.Fatal("the server still works")
	}
	for range 100 {
		if list := n.receipts(); len(list) > 0 && list[0].Phase == "cancelled" {
			return
		}
		time.Sleep(100 * time.Millisecond)
	}
	t.Errorf("kept: %+v", n.receipts())
}
