package gateway

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/geistnet/geist/internal/chat"
	"github.com/geistnet/geist/internal/dialog"
	"github.com/geistnet/geist/internal/engine"
	"github.com/geistnet/geist/internal/gguf"
	"github.com/geistnet/geist/internal/local"
	"github.com/geistnet/geist/internal/synth"
	"github.com/geistnet/geist/internal/tools"
)

// computed is a Backend over one model in this process, the way that a question
// goes from words to tokens and back.
type computed struct {
	m    *local.Model
	form tools.Form
}

func newComputed(t *testing.T) *computed {
	t.Helper()
	spec := synth.Presets["tiny"]
	spec.Type = "f32"
	var b, out bytes.Buffer
	if err := synth.Write(&b, spec, nil); err != nil {
		t.Fatal(err)
	}
	plain, err := gguf.Parse("tiny", b.Bytes())
	if err != nil {
		t.Fatal(err)
	}
	var infos []gguf.TensorInfo
	for _, x := range plain.Tensors() {
		infos = append(infos, x.Info())
	}
	w, err := gguf.NewWriter(&out, append(plain.Meta(), gguf.KV{Key: "tokenizer.chat_template", Value: gguf.ValueOf(chat.ChatML)}), infos)
	if err != nil {
		t.Fatal(err)
	}
	for _, x := range plain.Tensors() {
		if err := w.WriteTensor(x.Data); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	f, err := gguf.Parse("tiny", out.Bytes())
	if err != nil {
		t.Fatal(err)
	}
	m, err := local.Open(t.Context(), f, local.Options{Threads: 1, Engine: engine.Options{Context: 1024, Sessions: 4}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := m.Close(); err != nil {
			t.Error(err)
		}
	})
	return &computed{m: m, form: tools.Detect(chat.ChatML)}
}

func (b *computed) served() dialog.Served {
	return dialog.Served{Provider: "local", Model: "tiny", Quantisation: "f32"}
}

func (b *computed) Models(context.Context) ([]dialog.Model, error) {
	return []dialog.Model{{Name: "tiny", Family: "llama", Context: b.m.Engine.Context(), Loaded: true, Capabilities: []string{"completion", "tools", "embedding"}}}, nil
}

// fits turns an error about length into one that the client understands.
func fits(err error) error {
	if errors.Is(err, engine.ErrContext) {
		return dialog.Errorf(dialog.Context, "messages", "%v", err)
	}
	return dialog.Errorf(dialog.Invalid, "", "%v", err)
}

func (b *computed) Ask(ctx context.Context, q *dialog.Question) (dialog.Answer, error) {
	if q.Model != "tiny" {
		return nil, dialog.Errorf(dialog.NoModel, "model", "there is no model %q", q.Model)
	}
	if q.Suffix != "" {
		return nil, dialog.Errorf(dialog.Unsupported, "suffix", "this model cannot insert")
	}
	r := engine.Request{Prompt: q.Tokens, MaxTokens: q.MaxTokens, Sampling: q.Sampling, Stop: q.Stop, TopLogProbs: q.TopLogProbs, Ahead: 64}
	var err error
	switch {
	case q.Messages != nil:
		r.Prompt, err = b.m.Words.Chat(q.Messages, q.Tools, time.Unix(0, 0))
	case q.Tokens == nil:
		r.Prompt = b.m.Words.Text(q.Text)
	}
	if err != nil {
		return nil, fits(err)
	}
	if q.Seed != nil {
		binary.LittleEndian.PutUint64(r.Sampling.Seed[:], *q.Seed)
	}
	g, err := dialog.Grammar(q, b.form)
	if err != nil {
		return nil, err
	}
	if g != nil {
		if r.Constraint, err = b.m.Constrain(g); err != nil {
			return nil, err
		}
	}
	tail := b.m.Tokenizer.Decode(r.Prompt[max(0, len(r.Prompt)-16):], true)
	a := &computing{b: b}
	if a.reader, err = dialog.NewReader(q, b.form, q.Messages != nil && dialog.OpensThinking(tail)); err != nil {
		return nil, err
	}
	ctx, a.cancel = context.WithCancel(ctx)
	a.probs = q.TopLogProbs >= 0
	if a.answer, err = b.m.Engine.Generate(ctx, r); err != nil {
		a.cancel()
		return nil, fits(err)
	}
	return a, nil
}

type computing struct {
	b      *computed
	answer *engine.Answer
	reader *dialog.Reader
	cancel context.CancelFunc
	probs  bool
	ended  bool
	early  bool // what counts had been said
}

func (a *computing) Next() (dialog.Delta, error) {
	if a.ended {
		return dialog.Delta{}, io.EOF
	}
	t, ok := a.answer.Next()
	if !ok {
		a.ended = true
		if r := a.answer.Result(); r.Err != nil && !a.early {
			return dialog.Delta{}, r.Err
		}
		return a.reader.Flush(), nil
	}
	var d dialog.Delta
	if tok := a.b.m.Tokenizer; tok.IsControl(t.ID) {
		d = a.reader.Control(tok.TokenText(t.ID))
	}
	more := a.reader.Text(t.Text)
	d.Text, d.Reasoning, d.Calls = d.Text+more.Text, d.Reasoning+more.Reasoning, append(d.Calls, more.Calls...)
	if a.probs {
		d.Tokens = []dialog.Token{a.token(t.ID, t.LogProb)}
		for _, x := range t.Top {
			d.Tokens[0].Top = append(d.Tokens[0].Top, a.token(x.ID, x.LogProb))
		}
	}
	if a.reader.Done() && !a.early {
		a.early = true
		a.cancel()
	}
	return d, nil
}

func (a *computing) token(id int32, p float64) dialog.Token {
	return dialog.Token{ID: id, Bytes: a.b.m.Tokenizer.Piece(id), LogProb: p}
}

func (a *computing) Served() dialog.Served { return a.b.served() }

func (a *computing) Summary() dialog.Summary {
	r := a.answer.Result()
	s := dialog.Summary{Finish: dialog.FinishStop, Usage: dialog.Usage{Prompt: r.PromptTokens, Answer: r.Tokens}}
	if r.Finish == engine.FinishLength {
		s.Finish = dialog.FinishLength
	}
	return s
}

func (a *computing) Close() error {
	a.cancel()
	return nil
}

func (b *computed) Embed(ctx context.Context, q *dialog.EmbedQuestion) (*dialog.Vectors, error) {
	v := &dialog.Vectors{Served: b.served()}
	tokens := q.Tokens
	for _, text := range q.Texts {
		tokens = append(tokens, b.m.Words.Text(text))
	}
	for _, ids := range tokens {
		x, err := b.m.Engine.Embed(ctx, ids)
		if err != nil {
			return nil, fits(err)
		}
		v.Vectors = append(v.Vectors, x)
		v.Summary.Usage.Prompt += len(ids)
	}
	return v, nil
}

// TestModel asks a real, if random, model through the whole gateway.
func TestModel(t *testing.T) {
	b := newBench(t, Options{Backend: newComputed(t)})
	t.Run("stream", func(t *testing.T) {
		for seed := range 12 {
			more := ""
			if seed%3 == 0 {
				more = `,"logprobs":true,"top_logprobs":2`
			}
			body := fmt.Sprintf(`{"model":"tiny",%s,"seed":%d,"max_tokens":24%s`, hello, seed, more)
			one := assemble(t, b.post("/v1/chat/completions", body+`}`), false)
			two := assemble(t, b.post("/v1/chat/completions", body+`,"stream":true,"stream_options":{"include_usage":true}}`), true)
			if fmt.Sprint(one) != fmt.Sprint(two) {
				t.Fatalf("seed %d:\nat once  %+v\nstreamed %+v", seed, one, two)
			}
			if one.Text == "" && one.Finish == "length" {
				t.Errorf("seed %d: nothing was said in 24 tokens", seed)
			}
		}
	})
	t.Run("tools", func(t *testing.T) {
		f := `"tools":[{"type":"function","function":{"name":"set","strict":true,"parameters":{"type":"object","properties":{"on":{"type":"boolean"}},"required":["on"],"additionalProperties":false}}}]`
		for _, choice := range []string{`"required"`, `{"type":"function","function":{"name":"set"}}`} {
			for _, stream := range []bool{false, true} {
				r := b.post("/v1/chat/completions", fmt.Sprintf(`{"model":"tiny",%s,%s,"tool_choice":%s,"parallel_tool_calls":false,"seed":1,"stream":%v,"max_tokens":300}`, hello, f, choice, stream))
				w := assemble(t, r, stream)
				var args struct{ On *bool }
				if w.Finish != "tool_calls" || len(w.Calls) != 1 || json.Unmarshal([]byte(w.Calls[0].Arguments), &args) != nil || args.On == nil || w.Text != "" {
					t.Errorf("%s: %s", choice, r.body)
				}
			}
		}
		r := b.post("/v1/chat/completions", `{"model":"tiny",`+hello+`,"tool_choice":"required","tools":[{"type":"function","function":{"name":"set","strict":true,"parameters":{"type":"object","not":{}}}}]}`)
		if r.code != 400 || r.get(t, "error", "param") != "tools" {
			t.Errorf("%d %s", r.code, r.body)
		}
	})
	t.Run("schema", func(t *testing.T) {
		schema := `{"type":"object","properties":{"n":{"type":"integer","minimum":1,"maximum":9},"s":{"enum":["a","b"]}},"required":["n","s"],"additionalProperties":false}`
		for _, c := range [][2]string{
			{"/v1/chat/completions", `"response_format":{"type":"json_schema","json_schema":{"name":"x","schema":` + schema + `}}`},
			{"/api/chat", `"stream":false,"format":` + schema},
		} {
			r := b.post(c[0], `{"model":"tiny",`+hello+`,`+c[1]+`}`)
			text, _ := r.get(t, "choices", 0, "message", "content").(string)
			if strings.HasPrefix(c[0], "/api") {
				text, _ = r.get(t, "message", "content").(string)
			}
			var v struct {
				N int
				S string
			}
			if err := json.Unmarshal([]byte(text), &v); err != nil || v.N < 1 || v.N > 9 || v.S == "" {
				t.Errorf("%v: %s", err, r.body)
			}
		}
		r := b.post("/v1/chat/completions", `{"model":"tiny",`+hello+`,"response_format":{"type":"json_schema","json_schema":{"name":"x","schema":{"not":{}}}}}`)
		if r.code != 400 || r.get(t, "error", "code") != "unsupported_value" {
			t.Errorf("%d %s", r.code, r.body)
		}
	})
	t.Run("limits", func(t *testing.T) {
		r := b.post("/v1/completions", `{"model":"tiny","prompt":"`+strings.Repeat("x ", 5000)+`"}`)
		if r.code != 400 || r.get(t, "error", "code") != "context_length_exceeded" {
			t.Errorf("%d %s", r.code, r.body)
		}
		r = b.post("/v1/completions", `{"model":"tiny","prompt":"x","max_tokens":3,"temperature":0,"logit_bias":{"2":-100}}`)
		if r.get(t, "choices", 0, "finish_reason") != "length" || r.get(t, "usage", "completion_tokens") != 3.0 {
			t.Errorf("%s", r.body)
		}
	})
	t.Run("embeddings", func(t *testing.T) {
		r := b.post("/v1/embeddings", `{"model":"tiny","input":["hello","world"]}`)
		if list, _ := r.get(t, "data", 1, "embedding").([]any); len(list) != 64 {
			t.Errorf("%s", r.body)
		}
	})
}
