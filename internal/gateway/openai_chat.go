package gateway

import (
	"encoding/json"
	"fmt"
	"strings"

	"github.com/geistnet/geist/internal/chat"
	"github.com/geistnet/geist/internal/dialog"
	"github.com/geistnet/geist/internal/tools"
)

// openAIFields are those of both kinds of completion.
type openAIFields struct {
	wish
	sampling
	Stream        bool `json:"stream"`
	StreamOptions *struct {
		IncludeUsage bool `json:"include_usage"`
	} `json:"stream_options"`
	MaxTokens *int            `json:"max_tokens"`
	N         *int            `json:"n"`
	Seed      *int64          `json:"seed"`
	Stop      json.RawMessage `json:"stop"`
	LogitBias json.RawMessage `json:"logit_bias"`
}

func (f *openAIFields) fill(q *dialog.Question) (err error) {
	if f.N != nil && (*f.N > 1 || *f.N < 0) {
		return dialog.Errorf(dialog.Unsupported, "n", "n is %d, and a request gets one answer; send %d requests", *f.N, max(1, *f.N))
	}
	if q.Sampling, err = f.sampling.read(f.sampling.unsaid()); err != nil {
		return err
	}
	if q.Sampling.Bias, err = bias(f.LogitBias); err != nil {
		return err
	}
	if q.Stop, err = stops(f.Stop); err != nil {
		return err
	}
	if f.Seed != nil {
		seed := uint64(*f.Seed)
		q.Seed = &seed
	}
	q.MaxTokens, err = most("max_tokens", f.MaxTokens)
	return err
}

func (f *openAIFields) usage() bool { return f.StreamOptions != nil && f.StreamOptions.IncludeUsage }

func bias(raw json.RawMessage) (map[int32]float32, error) {
	if absent(raw) {
		return nil, nil
	}
	if err := few(raw, "logit_bias", 4096); err != nil {
		return nil, err
	}
	var m map[string]any
	if err := json.Unmarshal(raw, &m); err != nil {
		return nil, dialog.Errorf(dialog.Invalid, "logit_bias", "logit_bias is no object of numbers by token id")
	}
	var out map[int32]float32
	for k, v := range m {
		x, ok := v.(float64)
		if !ok || x < -100 || x > 100 {
			return nil, dialog.Errorf(dialog.Invalid, "logit_bias", "logit_bias of %q is not a number from -100 to 100", clip(k))
		}
		if x == 0 {
			continue
		}
		var id int32
		if n, err := fmt.Sscanf(k, "%d", &id); n != 1 || err != nil || fmt.Sprint(id) != k || id < 0 {
			return nil, dialog.Errorf(dialog.Invalid, "logit_bias", "logit_bias has the key %q, which is no token id", clip(k))
		}
		if out == nil {
			out = map[int32]float32{}
		}
		out[id] = float32(x)
	}
	return out, nil
}

type chatRequest struct {
	openAIFields
	Messages            json.RawMessage `json:"messages"`
	MaxCompletionTokens *int            `json:"max_completion_tokens"`
	Logprobs            bool            `json:"logprobs"`
	TopLogprobs         *int            `json:"top_logprobs"`
	Tools               json.RawMessage `json:"tools"`
	ToolChoice          json.RawMessage `json:"tool_choice"`
	ParallelToolCalls   *bool           `json:"parallel_tool_calls"`
	Functions           json.RawMessage `json:"functions"`
	FunctionCall        json.RawMessage `json:"function_call"`
	ResponseFormat      *struct {
		Type       string `json:"type"`
		JSONSchema *struct {
			Schema json.RawMessage `json:"schema"`
		} `json:"json_schema"`
	} `json:"response_format"`
	ReasoningEffort    string   `json:"reasoning_effort"`
	Modalities         []string `json:"modalities"`
	ChatTemplateKwargs *struct {
		EnableThinking *bool `json:"enable_thinking"`
	} `json:"chat_template_kwargs"`
}

// question reads everything that an answer depends on.
func (c *call) chatQuestion(f *chatRequest) (*dialog.Question, error) {
	q, err := c.question(&f.wish)
	if err != nil {
		return nil, err
	}
	if err := f.fill(q); err != nil {
		return nil, err
	}
	limit, err := most("max_completion_tokens", f.MaxCompletionTokens)
	if err != nil {
		return nil, err
	}
	if limit > 0 && (q.MaxTokens == 0 || limit < q.MaxTokens) {
		q.MaxTokens = limit
	}
	if q.Messages, err = messages(f.Messages); err != nil {
		return nil, err
	}
	if err := f.tools(q); err != nil {
		return nil, err
	}
	if r := f.ResponseFormat; r != nil {
		switch {
		case r.Type == "text" || r.Type == "":
		case r.Type == "json_object":
			q.Shape.JSON = true
		case r.Type == "json_schema" && r.JSONSchema != nil && !absent(r.JSONSchema.Schema):
			q.Shape.Schema = r.JSONSchema.Schema
		case r.Type == "json_schema":
			return nil, dialog.Errorf(dialog.Invalid, "response_format.json_schema", "response_format has no json_schema.schema")
		default:
			return nil, dialog.Errorf(dialog.Unsupported, "response_format", "response_format is text, json_object or json_schema, not %q", clip(r.Type))
		}
	}
	for _, m := range f.Modalities {
		if m != "text" {
			return nil, dialog.Errorf(dialog.Unsupported, "modalities", "answers are text, not %q", clip(m))
		}
	}
	switch f.ReasoningEffort {
	case "":
	case "none", "minimal":
		q.Think = new(bool)
	default:
		think := true
		q.Think = &think
	}
	if k := f.ChatTemplateKwargs; k != nil && k.EnableThinking != nil {
		q.Think = k.EnableThinking
	}
	if f.Logprobs {
		q.TopLogProbs = 0
	}
	if n := f.TopLogprobs; n != nil && *n != 0 {
		if !f.Logprobs || *n < 0 || *n > 20 {
			return nil, dialog.Errorf(dialog.Invalid, "top_logprobs", "top_logprobs must be between 0 and 20, together with logprobs")
		}
		q.TopLogProbs = *n
	}
	return q, nil
}

const maxMessages = 1 << 16

// messages reads a conversation.
func messages(raw json.RawMessage) ([]chat.Message, error) {
	if absent(raw) {
		return nil, dialog.Errorf(dialog.Invalid, "messages", "messages is missing")
	}
	if err := few(raw, "messages", maxMessages); err != nil {
		return nil, err
	}
	list, err := chat.ParseMessages(raw)
	if err != nil {
		return nil, dialog.Errorf(dialog.Invalid, "messages", "%v", err)
	}
	if len(list) == 0 {
		return nil, dialog.Errorf(dialog.Invalid, "messages", "messages is empty")
	}
	for i := range list {
		m := &list[i]
		switch m.Role {
		case "developer":
			m.Role = "system" // the name that templates know
		case "system", "user", "assistant", "tool":
		case "function":
			m.Role = "tool"
		default:
			return nil, dialog.Errorf(dialog.Invalid, "messages", "message %d has the role %q; there are system, developer, user, assistant and tool", i, clip(m.Role))
		}
		for _, p := range m.Parts {
			if p.Type != "text" {
				return nil, dialog.Errorf(dialog.Unsupported, "messages", "message %d has a part of type %q; only text can be read", i, clip(p.Type))
			}
		}
	}
	return list, nil
}

func (f *chatRequest) tools(q *dialog.Question) error {
	if !absent(f.Tools) {
		if err := few(f.Tools, "tools", 1024); err != nil {
			return err
		}
		list, err := chat.ParseTools(f.Tools)
		if err != nil {
			return dialog.Errorf(dialog.Invalid, "tools", "%v", err)
		}
		q.Tools = list
	}
	functions, err := q.Functions()
	if err != nil {
		return err
	}
	if !absent(f.Functions) && string(f.FunctionCall) != `"none"` {
		return dialog.Errorf(dialog.Unsupported, "functions", "functions and function_call have been replaced by tools and tool_choice")
	}
	q.Choice = tools.Choice{One: f.ParallelToolCalls != nil && !*f.ParallelToolCalls}
	if absent(f.ToolChoice) {
		return nil
	}
	var word string
	var named struct {
		Type     string `json:"type"`
		Function struct {
			Name string `json:"name"`
		} `json:"function"`
	}
	switch {
	case json.Unmarshal(f.ToolChoice, &word) == nil:
		switch word {
		case "auto":
		case "none":
			q.Choice.Mode, q.Tools = tools.None, nil
			return nil
		case "required":
			q.Choice.Mode = tools.Required
		default:
			return dialog.Errorf(dialog.Invalid, "tool_choice", "tool_choice is none, auto, required or a function, not %q", clip(word))
		}
	case json.Unmarshal(f.ToolChoice, &named) == nil && named.Type == "function" && named.Function.Name != "":
		q.Choice.Mode, q.Choice.Name, q.Choice.One = tools.Required, named.Function.Name, true
		for _, fn := range functions {
			if fn.Name == q.Choice.Name {
				return nil
			}
		}
		return dialog.Errorf(dialog.Invalid, "tool_choice", "tool_choice demands %q, which is not among the tools", clip(q.Choice.Name))
	default:
		return dialog.Errorf(dialog.Unsupported, "tool_choice", "tool_choice is none, auto, required or a function")
	}
	if q.Choice.Mode == tools.Required && len(functions) == 0 {
		return dialog.Errorf(dialog.Invalid, "tool_choice", "tool_choice demands a call, and there are no tools")
	}
	return nil
}

// chat serves POST /v1/chat/completions.
func (c *call) chat() error {
	var f chatRequest
	if err := c.read(&f); err != nil {
		return err
	}
	q, err := c.chatQuestion(&f)
	if err != nil {
		return err
	}
	o := &openAI{c: c, id: "chatcmpl-" + c.id, created: c.begin.Unix(), model: f.Model, logprobs: q.TopLogProbs >= 0}
	if f.Stream {
		return c.ask(q, &chatStream{openAI: o, lines: lines{c: c, sse: true}, usage: f.usage()})
	}
	return c.ask(q, &chatWhole{openAI: o})
}

// openAI is what all objects of one answer share.
type openAI struct {
	c        *call
	id       string
	created  int64
	model    string
	print    string // fingerprint
	logprobs bool
}

func (o *openAI) by(s dialog.Served) {
	o.model, o.print = orElse(s.Model, o.model), s.Fingerprint
	o.c.servedHeaders(s)
}

type usageJSON struct {
	Prompt        int `json:"prompt_tokens"`
	Answer        int `json:"completion_tokens"`
	Total         int `json:"total_tokens"`
	PromptDetails struct {
		Cached int `json:"cached_tokens"`
	} `json:"prompt_tokens_details"`
	AnswerDetails struct {
		Reasoning int `json:"reasoning_tokens"`
	} `json:"completion_tokens_details"`
}

func usageOf(u dialog.Usage) *usageJSON {
	j := &usageJSON{Prompt: u.Prompt, Answer: u.Answer, Total: u.Prompt + u.Answer}
	j.PromptDetails.Cached, j.AnswerDetails.Reasoning = u.Cached, u.Reasoning
	return j
}

type tokenJSON struct {
	Token   string      `json:"token"`
	LogProb float64     `json:"logprob"`
	Bytes   []int       `json:"bytes"`
	Top     []tokenJSON `json:"top_logprobs,omitzero"`
}

func tokensJSON(list []dialog.Token, deep bool) []tokenJSON {
	out := make([]tokenJSON, len(list))
	for i, t := range list {
		out[i] = tokenJSON{Token: strings.ToValidUTF8(string(t.Bytes), "\uFFFD"), LogProb: finite(t.LogProb), Bytes: make([]int, len(t.Bytes))}
		for j, b := range t.Bytes {
			out[i].Bytes[j] = int(b)
		}
		if deep {
			out[i].Top = tokensJSON(t.Top, false)
		}
	}
	return out
}

// finite keeps a log probability in what JSON can say; impossible is -9999.
func finite(x float64) float64 {
	if x < -9999 || x != x {
		return -9999
	}
	return x
}

type logprobsJSON struct {
	Content []tokenJSON `json:"content"`
	Refusal *string     `json:"refusal"`
}

func (o *openAI) probs(list []dialog.Token) *logprobsJSON {
	if !o.logprobs {
		return nil
	}
	return &logprobsJSON{Content: tokensJSON(list, true)}
}

type callJSON struct {
	Index    *int   `json:"index,omitempty"` // in streams
	ID       string `json:"id"`
	Type     string `json:"type"`
	Function struct {
		Name      string `json:"name"`
		Arguments string `json:"arguments"`
	} `json:"function"`
}

// callJSON makes the n-th call of the answer.
func (o *openAI) call(n int, t tools.Call) callJSON {
	j := callJSON{ID: fmt.Sprintf("call_%s_%d", o.c.id, n), Type: "function"}
	j.Function.Name, j.Function.Arguments = t.Name, t.Arguments
	return j
}

// finish is the reason in OpenAI's words.
func finish(f dialog.Finish, calls int) string {
	if f == dialog.FinishLength {
		return "length"
	}
	if calls > 0 {
		return "tool_calls"
	}
	return "stop"
}

// chatWhole writes an answer at once.
type chatWhole struct {
	*openAI
	content, reasoning strings.Builder
	calls              []callJSON
	tokens             []dialog.Token
}

func (w *chatWhole) open(s dialog.Served) error {
	w.by(s)
	return nil
}

func (w *chatWhole) delta(d dialog.Delta) error {
	w.content.WriteString(d.Text)
	w.reasoning.WriteString(d.Reasoning)
	for _, t := range d.Calls {
		w.calls = append(w.calls, w.call(len(w.calls), t))
	}
	w.tokens = append(w.tokens, d.Tokens...)
	return nil
}

func (w *chatWhole) silence() error       { return nil }
func (w *chatWhole) broken(problem) error { return nil }

type messageJSON struct {
	Role      string     `json:"role"`
	Content   *string    `json:"content"`
	Refusal   *string    `json:"refusal"`
	Reasoning string     `json:"reasoning_content,omitempty"`
	Calls     []callJSON `json:"tool_calls,omitempty"`
}

func (w *chatWhole) close(s dialog.Served, sum dialog.Summary) error {
	type choice struct {
		Index    int           `json:"index"`
		Message  messageJSON   `json:"message"`
		Logprobs *logprobsJSON `json:"logprobs"`
		Finish   string        `json:"finish_reason"`
	}
	m := messageJSON{Role: "assistant", Reasoning: w.reasoning.String(), Calls: w.calls}
	if text := w.content.String(); text != "" || len(w.calls) == 0 {
		m.Content = &text
	}
	w.c.sumHeaders(sum)
	return w.c.json(200, struct {
		ID      string     `json:"id"`
		Object  string     `json:"object"`
		Created int64      `json:"created"`
		Model   string     `json:"model"`
		Print   string     `json:"system_fingerprint,omitempty"`
		Choices []choice   `json:"choices"`
		Usage   *usageJSON `json:"usage"`
		Geist   *account   `json:"geist"`
	}{w.id, "chat.completion", w.created, w.model, w.print, []choice{{0, m, w.probs(w.tokens), finish(sum.Finish, len(w.calls))}}, usageOf(sum.Usage), accountOf(s, sum)})
}

// chatStream writes an answer as it comes.
type chatStream struct {
	*openAI
	lines
	usage bool
	roled bool
	calls int
}

type deltaJSON struct {
	Role      string     `json:"role,omitempty"`
	Content   *string    `json:"content,omitempty"`
	Reasoning string     `json:"reasoning_content,omitempty"`
	Calls     []callJSON `json:"tool_calls,omitempty"`
}

type chunkChoice struct {
	Index    int           `json:"index"`
	Delta    deltaJSON     `json:"delta"`
	Logprobs *logprobsJSON `json:"logprobs"`
	Finish   *string       `json:"finish_reason"`
}

// chunk makes one; usage is null in all but the last where it was asked for,
// and absent otherwise.
func (s *chatStream) chunk(choices []chunkChoice, usage *usageJSON, geist *account) error {
	type chunk struct {
		ID      string        `json:"id"`
		Object  string        `json:"object"`
		Created int64         `json:"created"`
		Model   string        `json:"model"`
		Print   string        `json:"system_fingerprint,omitempty"`
		Choices []chunkChoice `json:"choices"`
	}
	head := chunk{s.id, "chat.completion.chunk", s.created, s.model, s.print, choices}
	if !s.usage {
		return s.send(struct {
			chunk
			Geist *account `json:"geist,omitempty"`
		}{head, geist})
	}
	return s.send(struct {
		chunk
		Usage *usageJSON `json:"usage"`
		Geist *account   `json:"geist,omitempty"`
	}{head, usage, geist})
}

func (s *chatStream) open(by dialog.Served) error {
	s.openAI.by(by)
	if s.begun() {
		return nil
	}
	return s.start()
}

func (s *chatStream) delta(d dialog.Delta) error {
	if d.Text == "" && d.Reasoning == "" && len(d.Calls) == 0 && (!s.logprobs || len(d.Tokens) == 0) {
		return nil
	}
	j := deltaJSON{Reasoning: d.Reasoning}
	if !s.roled {
		s.roled, j.Role = true, "assistant"
		j.Content = &d.Text
	}
	if d.Text != "" {
		j.Content = &d.Text
	}
	for _, t := range d.Calls {
		n := s.calls
		s.calls++
		k := s.call(n, t)
		k.Index = &n
		j.Calls = append(j.Calls, k)
	}
	return s.chunk([]chunkChoice{{Delta: j, Logprobs: s.probs(d.Tokens)}}, nil, nil)
}

func (s *chatStream) close(by dialog.Served, sum dialog.Summary) error {
	why := finish(sum.Finish, s.calls)
	last := chunkChoice{Finish: &why}
	if !s.roled {
		empty := ""
		last.Delta = deltaJSON{Role: "assistant", Content: &empty}
	}
	s.openAI.c.sumHeaders(sum)
	if err := s.chunk([]chunkChoice{last}, nil, accountOf(by, sum)); err != nil {
		return err
	}
	if s.usage {
		if err := s.chunk([]chunkChoice{}, usageOf(sum.Usage), nil); err != nil {
			return err
		}
	}
	return s.raw([]byte("data: [DONE]\n\n"))
}

func (s *chatStream) broken(p problem) error { return s.send(map[string]problem{"error": p}) }
