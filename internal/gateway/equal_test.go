package gateway

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"reflect"
	"strings"
	"testing"

	"github.com/geistnet/geist/internal/dialog"
	"github.com/geistnet/geist/internal/tools"
)

// random is a script of a seed, the same every time it is played.
func random(seed uint64) func(*dialog.Question) (script, error) {
	return func(q *dialog.Question) (script, error) {
		r := rand.New(rand.NewPCG(seed, 7))
		pieces := []string{"a", " word", "\n", "\n\n", "data: ", "[DONE]", "ä", "日本", "🙂", `"`, `\`, "<tool_call>", "\u2028", "{", "\x00", "&<>", "", "\r", strings.Repeat("x", 300)}
		s := script{served: dialog.Served{Provider: "p", Model: "m", ModelID: fakeID, Quantisation: "q4_k", Fingerprint: fmt.Sprint(seed)}}
		for range r.IntN(20) {
			var d dialog.Delta
			switch r.IntN(6) {
			case 0:
				d.Reasoning = pieces[r.IntN(len(pieces))]
			case 1:
				if q.Choice.Mode != tools.None {
					for range 1 + r.IntN(2) {
						args, _ := json.Marshal(map[string]any{"v": pieces[r.IntN(len(pieces))]})
						d.Calls = append(d.Calls, tools.Call{Name: fmt.Sprintf("f%d", r.IntN(3)), Arguments: string(args)})
					}
				}
			default:
				d.Text = pieces[r.IntN(len(pieces))]
			}
			for range r.IntN(3) {
				if q.TopLogProbs < 0 {
					break
				}
				t := dialog.Token{ID: r.Int32N(100), Bytes: []byte{byte(r.IntN(256)), 'x'}, LogProb: -r.Float64()}
				for range q.TopLogProbs {
					t.Top = append(t.Top, dialog.Token{Bytes: []byte(pieces[r.IntN(len(pieces))]), LogProb: -r.Float64()})
				}
				d.Tokens = append(d.Tokens, t)
			}
			s.deltas = append(s.deltas, d)
		}
		s.sum = dialog.Summary{Finish: []dialog.Finish{dialog.FinishStop, dialog.FinishLength}[r.IntN(2)], Cost: r.Int64N(1e9), ID: fmt.Sprint(seed), Grade: "reputation", Verified: dialog.VerifyNone,
			Usage: dialog.Usage{Prompt: r.IntN(100), Cached: r.IntN(10), Answer: r.IntN(100), Reasoning: r.IntN(10)}}
		return s, nil
	}
}

// TestEqual holds, for 1,000 random requests and answers, that a stream adds up
// to exactly what comes without streaming.
func TestEqual(t *testing.T) {
	b := newBench(t, Options{})
	kinds, n := map[string]int{}, uint64(1000)
	if testing.Short() {
		n = 300
	}
	for seed := range n {
		r := rand.New(rand.NewPCG(seed, 8))
		b.f.script = random(seed)
		more := ""
		if r.IntN(2) == 0 {
			more += fmt.Sprintf(`,"logprobs":true,"top_logprobs":%d`, r.IntN(4))
		}
		if r.IntN(2) == 0 {
			more += "," + weather
		}
		if r.IntN(3) == 0 {
			more += fmt.Sprintf(`,"temperature":%.2f,"seed":%d,"max_tokens":%d`, r.Float64(), r.IntN(100), 1+r.IntN(100))
		}
		if r.IntN(4) == 0 {
			more += `,"response_format":{"type":"json_object"}`
		}
		body := `{"model":"m",` + hello + more
		one := assemble(t, b.post("/v1/chat/completions", body+`}`), false)
		two := assemble(t, b.post("/v1/chat/completions", body+`,"stream":true,"stream_options":{"include_usage":true}}`), true)
		for _, w := range []*whole{&one, &two} {
			for i := range w.Calls {
				w.Calls[i].ID = w.Calls[i].ID[strings.LastIndex(w.Calls[i].ID, "_"):] // the request's id is in it
			}
		}
		if !reflect.DeepEqual(one, two) {
			t.Fatalf("seed %d, %s:\nat once  %+v\nstreamed %+v", seed, body, one, two)
		}
		if (one.Finish == "tool_calls") && len(one.Calls) == 0 {
			t.Fatalf("seed %d: tool_calls without calls", seed)
		}
		kinds[one.Finish]++
	}
	if uint64(kinds["stop"])*20 < n || uint64(kinds["length"])*10 < n || uint64(kinds["tool_calls"])*10 < n {
		t.Errorf("the answers are too much alike: %v", kinds)
	}

	for seed := range uint64(300) {
		b.f.script = random(seed)
		body := `{"model":"m","prompt":"p","echo":true`
		var got [2]string
		for i, more := range []string{`}`, `,"stream":true,"stream_options":{"include_usage":true}}`} {
			rep := b.post("/v1/completions", body+more)
			events := append(rep.events, nil)[:len(rep.events)]
			if i == 0 {
				events = []json.RawMessage{rep.body}
			}
			text, finish, usage := "", any(nil), any(nil)
			for _, e := range events {
				s, _ := at(t, e, "choices", 0, "text").(string)
				text += s
				if f := at(t, e, "choices", 0, "finish_reason"); f != nil {
					finish = f
				}
				if u := at(t, e, "usage"); u != nil {
					usage = u
				}
			}
			got[i] = fmt.Sprint(text, finish, usage)
		}
		if got[0] != got[1] {
			t.Fatalf("seed %d: at once %q, streamed %q", seed, got[0], got[1])
		}
	}
}
