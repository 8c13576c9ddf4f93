package gateway

import (
	"encoding/json"
	"math"
	"strings"
	"time"

	"github.com/geistnet/geist/arith"
	"github.com/geistnet/geist/internal/chat"
	"github.com/geistnet/geist/internal/dialog"
	"github.com/geistnet/geist/internal/tools"
)

// ollamaFields are those of both kinds of question.
type ollamaFields struct {
	wish
	Stream      *bool           `json:"stream"`
	Format      json.RawMessage `json:"format"`
	Think       json.RawMessage `json:"think"`
	Logprobs    bool            `json:"logprobs"`
	TopLogprobs int             `json:"top_logprobs"`
	Options     *struct {
		sampling
		NumPredict *int            `json:"num_predict"`
		Seed       *int64          `json:"seed"`
		Stop       json.RawMessage `json:"stop"`
		Mirostat   int             `json:"mirostat"`
	} `json:"options"`
}

func (c *call) ollamaQuestion(f *ollamaFields) (*dialog.Question, error) {
	f.Model = strings.TrimSuffix(f.Model, ":latest")
	q, err := c.question(&f.wish)
	if err != nil {
		return nil, err
	}
	base := arith.Sampling{Temperature: 0.8, TopK: 40, TopP: 0.9, RepeatPenalty: 1.1, RepeatLast: 64}
	q.Sampling = base
	if o := f.Options; o != nil {
		if o.Mirostat != 0 {
			return nil, dialog.Errorf(dialog.Unsupported, "options.mirostat", "mirostat cannot be honoured; leave it out")
		}
		if q.Sampling, err = o.sampling.read(base); err != nil {
			return nil, err
		}
		if q.Stop, err = stops(o.Stop); err != nil {
			return nil, err
		}
		if o.Seed != nil && *o.Seed >= 0 {
			seed := uint64(*o.Seed)
			q.Seed = &seed
		}
		if o.NumPredict != nil && *o.NumPredict >= 0 { // -1 and -2: as many as fit
			if q.MaxTokens, err = most("options.num_predict", o.NumPredict); err != nil {
				return nil, err
			}
		}
	}
	if f.Logprobs {
		if f.TopLogprobs < 0 || f.TopLogprobs > 20 {
			return nil, dialog.Errorf(dialog.Invalid, "top_logprobs", "top_logprobs must be between 0 and 20")
		}
		q.TopLogProbs = f.TopLogprobs
	}
	var word string
	switch {
	case absent(f.Format) || string(f.Format) == `""`:
	case json.Unmarshal(f.Format, &word) == nil && word == "json":
		q.Shape.JSON = true
	case f.Format[0] == '{':
		q.Shape.Schema = f.Format
	default:
		return nil, dialog.Errorf(dialog.Invalid, "format", `format is "json" or a JSON schema`)
	}
	var think bool
	switch {
	case absent(f.Think):
	case json.Unmarshal(f.Think, &think) == nil:
		q.Think = &think
	case json.Unmarshal(f.Think, &word) == nil:
		think = word != "" && word != "none"
		q.Think = &think
	default:
		return nil, dialog.Errorf(dialog.Invalid, "think", "think is true, false or a level")
	}
	return q, nil
}

type ollamaChatRequest struct {
	ollamaFields
	Messages json.RawMessage `json:"messages"`
	Tools    json.RawMessage `json:"tools"`
}

type ollamaTurn struct {
	Role      string            `json:"role"`
	Content   string            `json:"content"`
	Thinking  string            `json:"thinking"`
	Images    []json.RawMessage `json:"images"`
	ToolName  string            `json:"tool_name"`
	CallID    string            `json:"tool_call_id"`
	ToolCalls []struct {
		ID       string `json:"id"`
		Function struct {
			Name      string          `json:"name"`
			Arguments json.RawMessage `json:"arguments"`
		} `json:"function"`
	} `json:"tool_calls"`
}

// ollamaMessages reads a conversation; it may be empty.
func ollamaMessages(raw json.RawMessage) ([]chat.Message, error) {
	if absent(raw) {
		return nil, nil
	}
	if err := few(raw, "messages", maxMessages); err != nil {
		return nil, err
	}
	var turns []ollamaTurn
	if err := decode(raw, &turns); err != nil {
		return nil, dialog.Errorf(dialog.Invalid, "messages", "messages: %v", err)
	}
	var out []chat.Message
	for i, w := range turns {
		m := chat.Message{Role: w.Role, Content: w.Content, Reasoning: w.Thinking, Name: w.ToolName, ToolCallID: w.CallID}
		switch w.Role {
		case "developer":
			m.Role = "system"
		case "system", "user", "assistant", "tool":
		default:
			return nil, dialog.Errorf(dialog.Invalid, "messages", "message %d has the role %q; there are system, user, assistant and tool", i, clip(w.Role))
		}
		if len(w.Images) > 0 {
			return nil, dialog.Errorf(dialog.Unsupported, "messages", "message %d has images; only text can be read", i)
		}
		for _, t := range w.ToolCalls {
			m.ToolCalls = append(m.ToolCalls, chat.ToolCall{ID: t.ID, Name: t.Function.Name, Arguments: string(t.Function.Arguments)})
		}
		out = append(out, m)
	}
	return out, nil
}

// ollamaChat serves POST /api/chat.
func (c *call) ollamaChat() error {
	var f ollamaChatRequest
	if err := c.read(&f); err != nil {
		return err
	}
	q, err := c.ollamaQuestion(&f.ollamaFields)
	if err != nil {
		return err
	}
	if q.Messages, err = ollamaMessages(f.Messages); err != nil {
		return err
	}
	if len(q.Messages) == 0 {
		return c.preload(q, true)
	}
	t := &chatRequest{Tools: f.Tools}
	if err := t.tools(q); err != nil {
		return err
	}
	return c.ollama(q, &f.ollamaFields, true)
}

type ollamaGenerateRequest struct {
	ollamaFields
	Prompt   string            `json:"prompt"`
	Suffix   string            `json:"suffix"`
	System   string            `json:"system"`
	Template string            `json:"template"`
	Raw      bool              `json:"raw"`
	Images   []json.RawMessage `json:"images"`
	Context  []json.RawMessage `json:"context"`
}

// ollamaGenerate serves POST /api/generate.
func (c *call) ollamaGenerate() error {
	var f ollamaGenerateRequest
	if err := c.read(&f); err != nil {
		return err
	}
	q, err := c.ollamaQuestion(&f.ollamaFields)
	if err != nil {
		return err
	}
	switch {
	case len(f.Images) > 0:
		return dialog.Errorf(dialog.Unsupported, "images", "only text can be read")
	case f.Template != "":
		return dialog.Errorf(dialog.Unsupported, "template", "the template is the model's; with raw the prompt is taken as it is")
	case len(f.Context) > 0:
		return dialog.Errorf(dialog.Unsupported, "context", "the context of an earlier answer cannot be continued; use /api/chat")
	case f.Prompt == "" && f.Suffix == "":
		return c.preload(q, false)
	case f.Raw || f.Suffix != "":
		q.Text, q.Suffix = f.Prompt, f.Suffix
	default:
		if f.System != "" {
			q.Messages = append(q.Messages, chat.Message{Role: "system", Content: f.System})
		}
		q.Messages = append(q.Messages, chat.Message{Role: "user", Content: f.Prompt})
	}
	return c.ollama(q, &f.ollamaFields, false)
}

// preload answers a question without a question, which clients ask to have a
// model loaded.
func (c *call) preload(q *dialog.Question, talk bool) error {
	if _, err := c.lookup(q.Model); err != nil {
		return err
	}
	o := ollamaJSON{Model: q.Model, Created: c.stamp(), Done: true, Reason: "load"}
	o.put(talk, "", "", nil)
	return c.json(200, o)
}

func (c *call) stamp() string { return c.g.opt.Now().UTC().Format(time.RFC3339Nano) }

func (c *call) ollama(q *dialog.Question, f *ollamaFields, talk bool) error {
	o := ollamaAnswer{c: c, talk: talk, model: f.Model, logprobs: q.TopLogProbs >= 0}
	if f.Stream == nil || *f.Stream {
		return c.ask(q, &ollamaStream{ollamaAnswer: o, lines: lines{c: c}})
	}
	return c.ask(q, &ollamaWhole{ollamaAnswer: o})
}

type ollamaCall struct {
	ID       string `json:"id,omitempty"`
	Function struct {
		Index     int             `json:"index"`
		Name      string          `json:"name"`
		Arguments json.RawMessage `json:"arguments"`
	} `json:"function"`
}

type ollamaMessage struct {
	Role     string       `json:"role"`
	Content  string       `json:"content"`
	Thinking string       `json:"thinking,omitempty"`
	Calls    []ollamaCall `json:"tool_calls,omitempty"`
}

// ollamaJSON is one object of either path.
type ollamaJSON struct {
	Model    string         `json:"model"`
	Created  string         `json:"created_at"`
	Message  *ollamaMessage `json:"message,omitempty"`
	Response *string        `json:"response,omitempty"`
	Thinking string         `json:"thinking,omitempty"`
	Logprobs []tokenJSON    `json:"logprobs,omitempty"`
	Done     bool           `json:"done"`
	Reason   string         `json:"done_reason,omitempty"`
	*ollamaTimes
	Geist *account `json:"geist,omitempty"`
}

// ollamaTimes are nanoseconds and counts.
type ollamaTimes struct {
	Total       int64 `json:"total_duration"`
	Load        int64 `json:"load_duration"`
	Prompt      int   `json:"prompt_eval_count"`
	PromptTook  int64 `json:"prompt_eval_duration"`
	Answer      int   `json:"eval_count"`
	AnswerTook  int64 `json:"eval_duration"`
	PromptKnown int   `json:"prompt_cached_count,omitempty"`
}

func (o *ollamaJSON) put(talk bool, text, thinking string, calls []ollamaCall) {
	if talk {
		o.Message = &ollamaMessage{"assistant", text, thinking, calls}
		return
	}
	o.Response, o.Thinking = &text, thinking
}

type ollamaAnswer struct {
	c        *call
	talk     bool
	model    string
	logprobs bool
	calls    int
}

func (o *ollamaAnswer) piece(d dialog.Delta) (ollamaJSON, []ollamaCall) {
	var calls []ollamaCall
	for _, t := range d.Calls {
		calls = append(calls, o.call(t))
	}
	j := ollamaJSON{Model: o.model, Created: o.c.stamp()}
	if o.logprobs {
		j.Logprobs = tokensJSON(d.Tokens, true)
	}
	j.put(o.talk, d.Text, d.Reasoning, calls)
	return j, calls
}

func (o *ollamaAnswer) call(t tools.Call) ollamaCall {
	var j ollamaCall
	j.Function.Index, j.Function.Name, j.Function.Arguments = o.calls, t.Name, json.RawMessage(t.Arguments)
	o.calls++
	return j
}

func (o *ollamaAnswer) finished(j *ollamaJSON, s dialog.Served, sum dialog.Summary) {
	j.Done, j.Reason, j.Geist = true, string(orElse(sum.Finish, dialog.FinishStop)), accountOf(s, sum)
	now := o.c.g.opt.Now()
	t := &ollamaTimes{Total: int64(now.Sub(o.c.begin)), Load: int64(sum.Load), Prompt: sum.Usage.Prompt, Answer: sum.Usage.Answer, PromptKnown: sum.Usage.Cached}
	// Where nobody measured, what passed here stands for it.
	t.PromptTook, t.AnswerTook = int64(sum.Prefill), int64(sum.Decode)
	if sum.Prefill == 0 {
		t.PromptTook = int64(o.c.first.Sub(o.c.begin))
	}
	if sum.Decode == 0 {
		t.AnswerTook = int64(now.Sub(o.c.first))
	}
	j.ollamaTimes = t
}

// ollamaWhole writes an answer at once.
type ollamaWhole struct {
	ollamaAnswer
	text, thinking strings.Builder
	list           []ollamaCall
	tokens         []dialog.Token
}

func (w *ollamaWhole) open(s dialog.Served) error {
	w.c.servedHeaders(s)
	return nil
}

func (w *ollamaWhole) delta(d dialog.Delta) error {
	w.text.WriteString(d.Text)
	w.thinking.WriteString(d.Reasoning)
	for _, t := range d.Calls {
		w.list = append(w.list, w.call(t))
	}
	w.tokens = append(w.tokens, d.Tokens...)
	return nil
}

func (w *ollamaWhole) silence() error       { return nil }
func (w *ollamaWhole) broken(problem) error { return nil }

func (w *ollamaWhole) close(s dialog.Served, sum dialog.Summary) error {
	j, _ := w.piece(dialog.Delta{Tokens: w.tokens})
	j.put(w.talk, w.text.String(), w.thinking.String(), w.list)
	w.finished(&j, s, sum)
	w.c.sumHeaders(sum)
	return w.c.json(200, j)
}

// ollamaStream writes an answer as it comes.
type ollamaStream struct {
	ollamaAnswer
	lines
}

func (s *ollamaStream) open(by dialog.Served) error {
	s.ollamaAnswer.c.servedHeaders(by)
	return s.start()
}

func (s *ollamaStream) delta(d dialog.Delta) error {
	if d.Text == "" && d.Reasoning == "" && len(d.Calls) == 0 && (!s.logprobs || len(d.Tokens) == 0) {
		return nil
	}
	j, _ := s.piece(d)
	return s.send(j)
}

func (s *ollamaStream) close(by dialog.Served, sum dialog.Summary) error {
	j, _ := s.piece(dialog.Delta{})
	s.finished(&j, by, sum)
	s.ollamaAnswer.c.sumHeaders(sum)
	return s.send(j)
}

func (s *ollamaStream) broken(p problem) error {
	return s.send(map[string]string{"error": p.Message, "code": p.Code})
}

// ollamaEmbed serves POST /api/embed.
func (c *call) ollamaEmbed() error {
	var f embedRequest
	if err := c.read(&f); err != nil {
		return err
	}
	f.Model = strings.TrimSuffix(f.Model, ":latest")
	v, err := c.embed(&f)
	if err != nil {
		return err
	}
	return c.json(200, struct {
		Model  string      `json:"model"`
		Vector [][]float32 `json:"embeddings"`
		Total  int64       `json:"total_duration"`
		Load   int64       `json:"load_duration"`
		Prompt int         `json:"prompt_eval_count"`
		Geist  *account    `json:"geist"`
	}{f.Model, v.Vectors, int64(c.g.opt.Now().Sub(c.begin)), int64(v.Summary.Load), v.Summary.Usage.Prompt, accountOf(v.Served, v.Summary)})
}

// ollamaEmbeddings serves POST /api/embeddings.
func (c *call) ollamaEmbeddings() error {
	var f embedRequest
	if err := c.read(&f); err != nil {
		return err
	}
	f.Model = strings.TrimSuffix(f.Model, ":latest")
	if f.Prompt == nil {
		return dialog.Errorf(dialog.Invalid, "prompt", "prompt is missing")
	}
	var err error
	if f.Input, err = json.Marshal(*f.Prompt); err != nil {
		return err
	}
	v, err := c.embed(&f)
	if err != nil {
		return err
	}
	return c.json(200, map[string]any{"embedding": v.Vectors[0]})
}

type ollamaDetails struct {
	Parent       string   `json:"parent_model"`
	Format       string   `json:"format"`
	Family       string   `json:"family"`
	Families     []string `json:"families"`
	Size         string   `json:"parameter_size"`
	Quantisation string   `json:"quantization_level"`
}

func detailsOf(m dialog.Model) ollamaDetails {
	return ollamaDetails{"", "gguf", m.Family, []string{m.Family}, sizeLabel(m.Parameters), quantLabel(m)}
}

type ollamaModel struct {
	Name     string        `json:"name"`
	Model    string        `json:"model"`
	Modified string        `json:"modified_at,omitempty"`
	Size     int64         `json:"size"`
	Digest   string        `json:"digest"`
	Details  ollamaDetails `json:"details"`
	Expires  string        `json:"expires_at,omitempty"`
	VRAM     *int64        `json:"size_vram,omitempty"`
	Context  int           `json:"context_length,omitempty"`
}

func ollamaModelOf(m dialog.Model) ollamaModel {
	return ollamaModel{Name: m.Name, Model: m.Name, Modified: m.Created.UTC().Format(time.RFC3339Nano), Size: m.SizeBytes, Digest: m.ID, Details: detailsOf(m)}
}

// ollamaTags serves GET /api/tags.
func (c *call) ollamaTags() error {
	list, err := c.g.opt.Backend.Models(c.ctx)
	if err != nil {
		return err
	}
	out := make([]ollamaModel, len(list))
	for i, m := range list {
		out[i] = ollamaModelOf(m)
	}
	return c.json(200, map[string]any{"models": out})
}

// ollamaRunning serves GET /api/ps: the models in this machine's memory.
func (c *call) ollamaRunning() error {
	list, err := c.g.opt.Backend.Models(c.ctx)
	if err != nil {
		return err
	}
	out := []ollamaModel{}
	for _, m := range list {
		if m.Loaded {
			o := ollamaModelOf(m)
			o.Modified, o.Expires, o.VRAM, o.Context = "", time.Unix(math.MaxInt32, 0).UTC().Format(time.RFC3339), new(int64), m.Context
			out = append(out, o)
		}
	}
	return c.json(200, map[string]any{"models": out})
}

// ollamaShow serves POST /api/show.
func (c *call) ollamaShow() error {
	var f struct {
		Model string `json:"model"`
		Name  string `json:"name"`
	}
	if err := c.read(&f); err != nil {
		return err
	}
	m, err := c.lookup(strings.TrimSuffix(orElse(f.Model, f.Name), ":latest"))
	if err != nil {
		return err
	}
	family := orElse(m.Family, "unknown")
	info := map[string]any{"general.architecture": family, "general.parameter_count": m.Parameters, "general.basename": m.Name}
	if m.Context > 0 {
		info[family+".context_length"] = m.Context
	}
	if m.Dim > 0 {
		info[family+".embedding_length"] = m.Dim
	}
	return c.json(200, map[string]any{
		"modelfile": "", "parameters": "", "license": "", "template": m.Template, "details": detailsOf(m), "model_info": info,
		"capabilities": some(m.Capabilities), "modified_at": m.Created.UTC().Format(time.RFC3339Nano), "geist": modelOf(m).Geist,
	})
}

func (c *call) ollamaVersion() error {
	return c.json(200, map[string]string{"version": orElse(c.g.opt.Version, "0.0.0")})
}
