package provider

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/geistnet/geist/audit"
	"github.com/geistnet/geist/ghost"
	"github.com/geistnet/geist/internal/dialog"
	"github.com/geistnet/geist/internal/job"
	"github.com/geistnet/geist/internal/prompt"
	"github.com/geistnet/geist/merkle"
)

// UpstreamOptions say where a model runs that this program does not.
type UpstreamOptions struct {
	URL     string // base of an OpenAI-compatible API, with or without /v1
	Key     string // sent as a Bearer token; "": none
	Model   string // its name there
	Context int    // in tokens of package prompt's kind; 0: 32768
	HTTP    *http.Client
}

// Upstream is a Worker that hands orders on to an OpenAI-compatible server, such
// as Ollama, vLLM or llama.cpp. What it answers can be signed for and not checked:
// reputation only. Its tokens are groups of bytes (package prompt).
type Upstream struct {
	o UpstreamOptions
}

const (
	maxUpstreamLine = 1 << 20
	upstreamProbe   = 10 * time.Second
)

// NewUpstream looks whether the server is there and has the model.
func NewUpstream(ctx context.Context, o UpstreamOptions) (*Upstream, error) {
	u, err := url.Parse(o.URL)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" {
		return nil, fmt.Errorf("upstream: %q is no http or https URL", o.URL)
	}
	o.URL = strings.TrimRight(o.URL, "/")
	if !strings.HasSuffix(o.URL, "/v1") {
		o.URL += "/v1"
	}
	if o.Context == 0 {
		o.Context = 32768
	}
	if o.HTTP == nil {
		o.HTTP = &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 16, ResponseHeaderTimeout: 5 * time.Minute}}
	}
	x := &Upstream{o}
	ctx, stop := context.WithTimeout(ctx, upstreamProbe)
	defer stop()
	w, err := x.do(ctx, "GET", "/models", nil)
	if err != nil {
		return nil, fmt.Errorf("upstream %s: %w; is the server running?", o.URL, err)
	}
	defer w.Body.Close()
	var list struct {
		Data []struct {
			ID string `json:"id"`
		} `json:"data"`
	}
	if err := json.NewDecoder(io.LimitReader(w.Body, 4<<20)).Decode(&list); err != nil {
		return nil, fmt.Errorf("upstream %s: its list of models: %w", o.URL, err)
	}
	var names []string
	for _, m := range list.Data {
		if m.ID == o.Model || m.ID == o.Model+":latest" {
			return x, nil
		}
		names = append(names, m.ID)
	}
	return nil, fmt.Errorf("upstream %s has no model %q; it has %s", o.URL, o.Model, strings.Join(names, ", "))
}

func (x *Upstream) do(ctx context.Context, method, path string, body []byte) (*http.Response, error) {
	q, err := http.NewRequestWithContext(ctx, method, x.o.URL+path, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	q.Header.Set("Content-Type", "application/json")
	if x.o.Key != "" {
		q.Header.Set("Authorization", "Bearer "+x.o.Key)
	}
	w, err := x.o.HTTP.Do(q)
	if err != nil {
		return nil, err
	}
	if w.StatusCode != http.StatusOK {
		defer w.Body.Close()
		b, _ := io.ReadAll(io.LimitReader(w.Body, 300)) // it is only for the message
		return nil, fmt.Errorf("status %d: %s", w.StatusCode, strings.ToValidUTF8(string(b), "?"))
	}
	return w, nil
}

// Served is the model as it is offered. name "": as it is called there.
func (x *Upstream) Served(name string, sessions int) Model {
	if name == "" {
		name = x.o.Model
	}
	return Model{ID: prompt.PlainID(name), Name: name, Quantisation: "unknown", Context: x.o.Context, Grade: ghost.Reputation, Worker: x, Sessions: sessions}
}

// request makes the body for the server, and the path it goes to.
func (x *Upstream) request(o *job.Order) (path string, body []byte, err error) {
	text, err := prompt.Unpack(o.Request.Prompt)
	if err != nil {
		return "", nil, refuse(job.BadOrder, "The prompt: %v.", err)
	}
	var p prompt.PlainPrompt
	d := json.NewDecoder(bytes.NewReader(text))
	d.DisallowUnknownFields()
	if err := d.Decode(&p); err != nil {
		return "", nil, refuse(job.BadOrder, "The prompt: %v.", err)
	}
	s := &o.Request.Sampling
	seed := o.Seed()
	m := map[string]any{"model": x.o.Model, "stream": true, "max_tokens": o.Request.MaxTokens, "temperature": s.Temperature, "seed": binary.LittleEndian.Uint32(seed[:]) >> 1}
	if s.TopP > 0 {
		m["top_p"] = s.TopP
	}
	if s.PresencePenalty != 0 {
		m["presence_penalty"] = s.PresencePenalty
	}
	if s.FrequencyPenalty != 0 {
		m["frequency_penalty"] = s.FrequencyPenalty
	}
	if len(o.Request.Stop) > 0 {
		m["stop"] = o.Request.Stop
	}
	switch {
	case o.Grammar == dialog.JSONObject:
		m["response_format"] = map[string]any{"type": "json_object"}
	case o.Grammar != "":
		m["response_format"] = map[string]any{"type": "json_schema", "json_schema": map[string]any{"name": "answer", "strict": true, "schema": json.RawMessage(o.Grammar)}}
	}
	path = "/chat/completions"
	if p.Messages == nil {
		path = "/completions"
		m["prompt"] = p.Prompt
	} else {
		m["messages"] = p.Messages
		if p.Tools != nil {
			m["tools"] = p.Tools
		}
		if p.ToolChoice != nil {
			m["tool_choice"] = p.ToolChoice
		}
	}
	body, err = json.Marshal(m)
	return path, body, err
}

// Begin implements Worker. An answer that was broken off cannot be gone on with:
// another run of the server may say something else.
func (x *Upstream) Begin(ctx context.Context, o *job.Order, tokens []int32) (Stream, error) {
	if len(tokens) > 0 {
		return nil, refuse(job.ResumeDiffers, "This model's answers cannot be repeated.")
	}
	path, body, err := x.request(o)
	if err != nil {
		return nil, err
	}
	return &upstreamStream{ctx: ctx, most: o.Request.MaxTokens, open: func() (*http.Response, error) { return x.do(ctx, "POST", path, body) }}, nil
}

// upstreamStream reads server-sent events.
type upstreamStream struct {
	ctx    context.Context
	open   func() (*http.Response, error) // nil: it is open
	body   io.ReadCloser
	lines  *bufio.Reader
	ids    []int32
	rest   []byte // of a text that makes no whole group yet
	calls  map[int]*upstreamCall
	count  int
	most   int
	finish ghost.Finish
	ended  bool
	err    error
}

type upstreamCall struct{ name, arguments string }

type upstreamChunk struct {
	Error   json.RawMessage `json:"error"`
	Choices []struct {
		Text   string  `json:"text"`
		Finish *string `json:"finish_reason"`
		Delta  struct {
			Content   string `json:"content"`
			ToolCalls []struct {
				Index    int `json:"index"`
				Function struct {
					Name      string `json:"name"`
					Arguments string `json:"arguments"`
				} `json:"function"`
			} `json:"tool_calls"`
		} `json:"delta"`
	} `json:"choices"`
}

// Next implements Stream.
func (s *upstreamStream) Next() (Token, bool) {
	if s.open != nil {
		w, err := s.open()
		if s.open = nil; err != nil {
			s.ended, s.err = true, refuse(job.EngineFailed, "%v", err)
			return Token{}, false
		}
		s.body, s.lines = w.Body, bufio.NewReaderSize(w.Body, 64<<10)
	}
	for len(s.ids) == 0 && !s.ended {
		s.read()
	}
	if len(s.ids) == 0 || s.count >= s.most {
		if s.count >= s.most && s.err == nil {
			s.finish = ghost.FinishLength
		}
		if s.body != nil {
			s.body.Close()
		}
		return Token{}, false
	}
	id := s.ids[0]
	s.ids = s.ids[1:]
	s.count++
	return Token{ID: id}, true
}

// read takes one line.
func (s *upstreamStream) read() {
	line, err := s.line()
	data, ok := strings.CutPrefix(strings.TrimSpace(line), "data:")
	if data = strings.TrimSpace(data); ok && data != "" && data != "[DONE]" {
		s.chunk([]byte(data))
	}
	if data == "[DONE]" || errors.Is(err, io.EOF) && s.finish != "" {
		s.end()
		return
	}
	if errors.Is(err, io.EOF) {
		err = fmt.Errorf("the server's answer has no end: %w", io.ErrUnexpectedEOF)
	}
	if err != nil && !s.ended {
		s.ended, s.err = true, err
	}
}

// line is the next line, of bounded length.
func (s *upstreamStream) line() (string, error) {
	var b strings.Builder
	for {
		part, err := s.lines.ReadSlice('\n')
		b.Write(part)
		if b.Len() > maxUpstreamLine {
			return "", fmt.Errorf("the server sent a line of more than %d bytes", maxUpstreamLine)
		}
		if !errors.Is(err, bufio.ErrBufferFull) {
			return b.String(), err
		}
	}
}

func (s *upstreamStream) chunk(data []byte) {
	var c upstreamChunk
	if err := json.Unmarshal(data, &c); err != nil {
		s.ended, s.err = true, fmt.Errorf("the server sent no JSON: %w", err)
		return
	}
	if len(c.Error) > 0 && string(c.Error) != "null" {
		s.ended, s.err = true, fmt.Errorf("the server failed: %.300s", c.Error)
		return
	}
	if len(c.Choices) == 0 {
		return
	}
	x := &c.Choices[0]
	s.text(x.Text + x.Delta.Content)
	for _, t := range x.Delta.ToolCalls {
		if s.calls == nil {
			s.calls = map[int]*upstreamCall{}
		}
		if t.Index < 0 || t.Index > 127 {
			continue
		}
		k := s.calls[t.Index]
		if k == nil {
			k = &upstreamCall{}
			s.calls[t.Index] = k
		}
		k.name += t.Function.Name
		if k.arguments += t.Function.Arguments; len(k.arguments) > maxUpstreamLine {
			s.ended, s.err = true, errors.New("the server's tool call is too long")
		}
	}
	if x.Finish != nil && *x.Finish != "" {
		s.finish = ghost.FinishStop
		if *x.Finish == "length" {
			s.finish = ghost.FinishLength
		}
	}
}

// text makes tokens; at most two bytes wait for more.
func (s *upstreamStream) text(t string) {
	s.rest = append(s.rest, t...)
	n := len(s.rest) / 3 * 3
	s.ids = append(s.ids, prompt.Pack(s.rest[:n])...)
	s.rest = append(s.rest[:0], s.rest[n:]...)
}

// end writes the calls as models of the Hermes form do, and what is left.
func (s *upstreamStream) end() {
	if s.ended {
		return
	}
	for i := range 128 {
		k := s.calls[i]
		if k == nil {
			continue
		}
		args := json.RawMessage(k.arguments)
		if !json.Valid(args) {
			args = json.RawMessage("{}")
		}
		b, err := json.Marshal(map[string]any{"name": k.name, "arguments": args})
		if err != nil {
			s.err = err
			break
		}
		s.text("<tool_call>\n" + string(b) + "\n</tool_call>")
	}
	s.ids = append(s.ids, prompt.Pack(s.rest)...)
	s.rest, s.ended = nil, true
	if s.finish == "" {
		s.finish = ghost.FinishStop
	}
}

// End implements Stream.
func (s *upstreamStream) End() (ghost.Finish, error) {
	if s.ctx.Err() != nil {
		return ghost.FinishCancelled, nil
	}
	return s.finish, s.err
}

// Seal implements Worker: there is no trace.
func (x *Upstream) Seal(context.Context, *job.Order, []int32, Stream) (merkle.Hash, *ghost.Outline, error) {
	return merkle.Hash{}, nil, nil
}

// Prove implements Worker: nothing can be opened.
func (x *Upstream) Prove(context.Context, *audit.RunFile) ([]byte, error) {
	return nil, errors.New("answers of this model cannot be checked")
}

// Text implements Worker.
func (x *Upstream) Text() Text { return &prompt.Plain{} }

// Embed implements Worker.
func (x *Upstream) Embed(context.Context, []int32) ([]float32, error) {
	return nil, refuse(job.BadOrder, "This model gives no vectors.")
}

// Busy implements Worker.
func (x *Upstream) Busy() float64 { return 0 }
