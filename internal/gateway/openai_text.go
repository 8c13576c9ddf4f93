package gateway

import (
	"encoding/json"
	"strings"
	"unicode/utf8"

	"github.com/geistnet/geist/internal/dialog"
)

type completeRequest struct {
	openAIFields
	Prompt   json.RawMessage `json:"prompt"`
	Suffix   string          `json:"suffix"`
	Echo     bool            `json:"echo"`
	BestOf   *int            `json:"best_of"`
	Logprobs *int            `json:"logprobs"`
}

// complete serves POST /v1/completions.
func (c *call) complete() error {
	var f completeRequest
	if err := c.read(&f); err != nil {
		return err
	}
	q, err := c.question(&f.wish)
	if err != nil {
		return err
	}
	if err := f.fill(q); err != nil {
		return err
	}
	q.Suffix = f.Suffix
	if f.BestOf != nil && *f.BestOf > 1 {
		return dialog.Errorf(dialog.Unsupported, "best_of", "best_of is %d, and a request gets one answer", *f.BestOf)
	}
	if f.Logprobs != nil {
		if *f.Logprobs < 0 || *f.Logprobs > 20 {
			return dialog.Errorf(dialog.Invalid, "logprobs", "logprobs must be between 0 and 20")
		}
		q.TopLogProbs = *f.Logprobs
	}
	if q.Text, q.Tokens, err = prompt(f.Prompt); err != nil {
		return err
	}
	t := &textAnswer{openAI: openAI{c: c, id: "cmpl-" + c.id, created: c.begin.Unix(), model: f.Model, logprobs: q.TopLogProbs >= 0}, top: q.TopLogProbs}
	if f.Echo {
		if q.Tokens != nil {
			return dialog.Errorf(dialog.Unsupported, "echo", "a prompt of token ids cannot be echoed")
		}
		if t.logprobs && f.Logprobs != nil && *f.Logprobs > 0 {
			return dialog.Errorf(dialog.Unsupported, "logprobs", "there are no log probabilities of an echoed prompt")
		}
		t.echo = q.Text
	}
	if f.Stream {
		return c.ask(q, &textStream{textAnswer: t, lines: lines{c: c, sse: true}, usage: f.usage()})
	}
	return c.ask(q, &textWhole{textAnswer: t})
}

// prompt reads a text, a list of one text, token ids, or a list of one list of
// token ids.
func prompt(raw json.RawMessage) (string, []int32, error) {
	var list []json.RawMessage
	if !absent(raw) && raw[0] == '[' && json.Unmarshal(raw, &list) == nil && len(list) > 0 && list[0][0] != '-' && (list[0][0] < '0' || list[0][0] > '9') {
		if len(list) > 1 {
			return "", nil, dialog.Errorf(dialog.Unsupported, "prompt", "prompt has %d elements, and a request gets one answer; send %d requests", len(list), len(list))
		}
		raw = list[0]
	}
	var text string
	var ids []int32
	switch {
	case absent(raw):
		return "", nil, dialog.Errorf(dialog.Invalid, "prompt", "prompt is missing")
	case json.Unmarshal(raw, &text) == nil:
		return text, nil, nil
	case json.Unmarshal(raw, &ids) == nil && len(ids) > 0:
		for _, id := range ids {
			if id < 0 {
				return "", nil, dialog.Errorf(dialog.Invalid, "prompt", "prompt has the token id %d", id)
			}
		}
		return "", ids, nil
	}
	return "", nil, dialog.Errorf(dialog.Invalid, "prompt", "prompt is neither text nor a list of token ids")
}

// textAnswer is what both ways of writing a text share.
type textAnswer struct {
	openAI
	echo   string
	offset int // of the next token, in characters
	top    int
}

type textProbs struct {
	Tokens  []string             `json:"tokens"`
	Probs   []float64            `json:"token_logprobs"`
	Top     []map[string]float64 `json:"top_logprobs"`
	Offsets []int                `json:"text_offset"`
}

func (t *textAnswer) probs(list []dialog.Token) *textProbs {
	if !t.logprobs {
		return nil
	}
	p := &textProbs{[]string{}, []float64{}, []map[string]float64{}, []int{}}
	for _, k := range tokensJSON(list, true) {
		p.Tokens = append(p.Tokens, k.Token)
		p.Probs = append(p.Probs, k.LogProb)
		top := map[string]float64{}
		for _, a := range k.Top {
			if _, twice := top[a.Token]; !twice {
				top[a.Token] = a.LogProb
			}
		}
		p.Top = append(p.Top, top)
		p.Offsets = append(p.Offsets, t.offset)
		t.offset += utf8.RuneCountInString(k.Token)
	}
	return p
}

type textChoice struct {
	Text     string     `json:"text"`
	Index    int        `json:"index"`
	Logprobs *textProbs `json:"logprobs"`
	Finish   *string    `json:"finish_reason"`
}

type textHead struct {
	ID      string       `json:"id"`
	Object  string       `json:"object"`
	Created int64        `json:"created"`
	Model   string       `json:"model"`
	Print   string       `json:"system_fingerprint,omitempty"`
	Choices []textChoice `json:"choices"`
}

func (t *textAnswer) head(choices ...textChoice) textHead {
	if choices == nil {
		choices = []textChoice{}
	}
	return textHead{t.id, "text_completion", t.created, t.model, t.print, choices}
}

// textWhole writes an answer at once.
type textWhole struct {
	*textAnswer
	text   strings.Builder
	tokens []dialog.Token
}

func (w *textWhole) open(s dialog.Served) error {
	w.by(s)
	w.text.WriteString(w.echo)
	w.offset = utf8.RuneCountInString(w.echo)
	return nil
}

func (w *textWhole) delta(d dialog.Delta) error {
	w.text.WriteString(d.Text)
	w.tokens = append(w.tokens, d.Tokens...)
	return nil
}

func (w *textWhole) silence() error       { return nil }
func (w *textWhole) broken(problem) error { return nil }

func (w *textWhole) close(s dialog.Served, sum dialog.Summary) error {
	why := finish(sum.Finish, 0)
	w.c.sumHeaders(sum)
	return w.c.json(200, struct {
		textHead
		Usage *usageJSON `json:"usage"`
		Geist *account   `json:"geist"`
	}{w.head(textChoice{w.text.String(), 0, w.probs(w.tokens), &why}), usageOf(sum.Usage), accountOf(s, sum)})
}

// textStream writes an answer as it comes.
type textStream struct {
	*textAnswer
	lines
	usage bool
}

func (s *textStream) chunk(h textHead, usage *usageJSON, geist *account) error {
	if !s.usage {
		return s.send(struct {
			textHead
			Geist *account `json:"geist,omitempty"`
		}{h, geist})
	}
	return s.send(struct {
		textHead
		Usage *usageJSON `json:"usage"`
		Geist *account   `json:"geist,omitempty"`
	}{h, usage, geist})
}

func (s *textStream) open(by dialog.Served) error {
	s.textAnswer.by(by)
	if !s.begun() {
		if err := s.start(); err != nil {
			return err
		}
	}
	if s.echo == "" {
		return nil
	}
	s.offset = utf8.RuneCountInString(s.echo)
	return s.chunk(s.head(textChoice{s.echo, 0, s.probs(nil), nil}), nil, nil)
}

func (s *textStream) delta(d dialog.Delta) error {
	if d.Text == "" && (!s.logprobs || len(d.Tokens) == 0) {
		return nil
	}
	return s.chunk(s.head(textChoice{d.Text, 0, s.probs(d.Tokens), nil}), nil, nil)
}

func (s *textStream) close(by dialog.Served, sum dialog.Summary) error {
	why := finish(sum.Finish, 0)
	s.textAnswer.c.sumHeaders(sum)
	if err := s.chunk(s.head(textChoice{"", 0, s.probs(nil), &why}), nil, accountOf(by, sum)); err != nil {
		return err
	}
	if s.usage {
		if err := s.chunk(s.head(), usageOf(sum.Usage), nil); err != nil {
			return err
		}
	}
	return s.raw([]byte("data: [DONE]\n\n"))
}

func (s *textStream) broken(p problem) error { return s.send(map[string]problem{"error": p}) }
