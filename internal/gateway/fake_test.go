package gateway

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"sync/atomic"
	"time"

	"github.com/geistnet/geist/internal/dialog"
	"github.com/geistnet/geist/internal/tools"
)

const fakeID = "ghost15eeu5cff0q0w8yxsse30lqzfya57h3g5dxvr7utmspn0az9zan2sz5hv7u"

// A fake is a Backend that plays scripts.
type fake struct {
	script func(*dialog.Question) (script, error) // nil: talk
	any    bool                                   // every model's name is known
	last   atomic.Pointer[dialog.Question]
	open   atomic.Int64 // answers not closed
	begun  atomic.Int64
}

// A script is an answer as it will be played.
type script struct {
	deltas []dialog.Delta
	pause  time.Duration // before each delta
	err    error         // instead of the end
	sum    dialog.Summary
	served dialog.Served
}

func (f *fake) Models(context.Context) ([]dialog.Model, error) {
	list := []dialog.Model{
		{Name: "fake", ID: fakeID, Quantisation: "q8_0", Family: "llama", Parameters: 1e9, SizeBytes: 1e9, Context: 4096, Dim: 8, Created: time.Unix(1.7e9, 0), Loaded: true,
			Capabilities: []string{"completion", "tools", "embedding"}, PromptPrice: 100, AnswerPrice: 300, Providers: 2, Grade: "ghost-audited"},
		{Name: "org/slow"}, {Name: "broken"}, {Name: "poor"}, {Name: "busy"}, {Name: "long"}, {Name: "nobody"}, {Name: "liar"},
	}
	if f.any {
		list = append(list, dialog.Model{Name: "gpt-6-astra"}) // the one that openai-go's tests look up
	}
	return list, nil
}

func (f *fake) Ask(ctx context.Context, q *dialog.Question) (dialog.Answer, error) {
	f.last.Store(q)
	play := f.script
	if play == nil {
		play = f.talk
	}
	s, err := play(q)
	if err != nil {
		return nil, err
	}
	f.open.Add(1)
	f.begun.Add(1)
	return &played{f: f, ctx: ctx, s: s}, nil
}

func (f *fake) Embed(_ context.Context, q *dialog.EmbedQuestion) (*dialog.Vectors, error) {
	if err := f.known(q.Model); err != nil {
		return nil, err
	}
	v := &dialog.Vectors{Served: dialog.Served{Provider: "local", Model: "fake", ModelID: fakeID, Quantisation: "q8_0"}, Summary: dialog.Summary{Cost: 3}}
	for i := range max(len(q.Texts), len(q.Tokens)) {
		v.Vectors = append(v.Vectors, []float32{0.6, 0, 0, 0, 0, 0, 0, 0.8})
		v.Summary.Usage.Prompt += i + 1
	}
	return v, nil
}

func (f *fake) Receipt(_ context.Context, id string) (json.RawMessage, error) {
	if id != "abc" {
		return nil, dialog.Errorf(dialog.NotFound, "", "there is no receipt %q", id)
	}
	return json.RawMessage(`{"id":"abc"}`), nil
}

func (f *fake) known(name string) error {
	list, _ := f.Models(context.Background())
	for _, m := range list {
		if m.Name == name {
			return nil
		}
	}
	if f.any {
		return nil
	}
	return dialog.Errorf(dialog.NoModel, "model", "there is no model %q", name)
}

// words is text as pieces, one a word.
func words(text string) (out []dialog.Delta) {
	for _, w := range strings.SplitAfter(text, " ") {
		out = append(out, dialog.Delta{Text: w})
	}
	return out
}

// talk is an answer that has something to do with the question.
func (f *fake) talk(q *dialog.Question) (script, error) {
	if err := f.known(q.Model); err != nil {
		return script{}, err
	}
	s := script{served: dialog.Served{Provider: "79be667ef9dcbbac55a06295ce870b07029bfcdb2dce28d959f2815b16f81798", Model: q.Model, ModelID: fakeID, Quantisation: "q8_0", Fingerprint: "fp_1"}}
	s.sum = dialog.Summary{Finish: dialog.FinishStop, Cost: 42, ID: "abc", Grade: "ghost-audited", Verified: dialog.VerifyReceipt, Usage: dialog.Usage{Prompt: 7, Cached: 2}}
	switch q.Model {
	case "poor":
		return s, &dialog.Error{Kind: dialog.NoFunds, Message: "this answer costs 5000 msat, and the wallet has 12", Price: 5000}
	case "busy":
		return s, &dialog.Error{Kind: dialog.Overloaded, Message: "every provider is busy", RetryAfter: 1500 * time.Millisecond}
	case "nobody":
		return s, dialog.Errorf(dialog.Unavailable, "", "nobody answers")
	case "long":
		return s, dialog.Errorf(dialog.Context, "messages", "the prompt has 5000 tokens and the context holds 4096; shorten it")
	case "liar":
		s.served.ModelID = ""
	}
	last := ""
	if n := len(q.Messages); n > 0 {
		last = q.Messages[n-1].Content
	}
	functions, err := q.Functions()
	if err != nil {
		return s, err
	}
	asked := len(q.Messages) > 0 && q.Messages[len(q.Messages)-1].Role != "tool"
	switch {
	case len(functions) > 0 && asked && q.Choice.Mode != tools.None:
		name := functions[0].Name
		if q.Choice.Name != "" {
			name = q.Choice.Name
		}
		s.deltas = []dialog.Delta{{Text: "Let me see. "}, {Calls: []tools.Call{{Name: name, Arguments: `{"city": "Paris"}`}}}}
		if len(functions) > 1 && !q.Choice.One {
			s.deltas = append(s.deltas, dialog.Delta{Calls: []tools.Call{{Name: functions[1].Name, Arguments: `{"city": "Rome"}`}}})
		}
	case q.Shape.JSON || q.Shape.Schema != nil:
		s.deltas = words(`{"city": "Paris", "temperature": 21}`)
	case q.Messages == nil:
		s.deltas = words("and so on, " + q.Suffix)
	default:
		s.deltas = words("You said: " + last)
	}
	if q.Think != nil && *q.Think {
		s.deltas = append([]dialog.Delta{{Reasoning: "Hm. "}, {Reasoning: "Yes."}}, s.deltas...)
	}
	switch q.Model {
	case "org/slow":
		s.pause = 20 * time.Millisecond
		s.deltas = words(strings.Repeat("slowly ", 500))
	case "broken":
		s.err = dialog.Errorf(dialog.Failed, "", "the provider vanished, and no other has the model")
	}
	for i := range s.deltas {
		s.sum.Usage.Answer++
		if q.TopLogProbs >= 0 {
			t := dialog.Token{ID: int32(i), Bytes: []byte(s.deltas[i].Text), LogProb: -0.5}
			for j := range q.TopLogProbs {
				t.Top = append(t.Top, dialog.Token{ID: int32(j), Bytes: fmt.Appendf(nil, "t%d", j), LogProb: -float64(j)})
			}
			s.deltas[i].Tokens = []dialog.Token{t}
		}
	}
	if q.MaxTokens > 0 && len(s.deltas) > q.MaxTokens {
		s.deltas, s.sum.Finish, s.sum.Usage.Answer = s.deltas[:q.MaxTokens], dialog.FinishLength, q.MaxTokens
	}
	return s, nil
}

// played is a script under way.
type played struct {
	f      *fake
	ctx    context.Context
	s      script
	at     int
	closed atomic.Bool
}

func (p *played) Next() (dialog.Delta, error) {
	if p.s.pause > 0 {
		select {
		case <-time.After(p.s.pause):
		case <-p.ctx.Done():
		}
	}
	if err := p.ctx.Err(); err != nil {
		return dialog.Delta{}, err
	}
	if p.at < len(p.s.deltas) {
		p.at++
		return p.s.deltas[p.at-1], nil
	}
	if p.s.err != nil {
		return dialog.Delta{}, p.s.err
	}
	return dialog.Delta{}, io.EOF
}

func (p *played) Served() dialog.Served   { return p.s.served }
func (p *played) Summary() dialog.Summary { return p.s.sum }

func (p *played) Close() error {
	if p.closed.CompareAndSwap(false, true) {
		p.f.open.Add(-1)
	}
	return nil
}
