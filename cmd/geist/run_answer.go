package main

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"
	"unicode"

	"github.com/geistnet/geist/internal/engine"
)

// answered is an answer with what it took.
type answered struct {
	prompt             []int32
	tokens             []engine.Token
	text               string
	result             engine.Result
	begin, first, last time.Time // first and last: of tokens; begin if there are none
}

// answer runs a request and writes the answer as it comes: text, or lines of
// JSON with --stream, or nothing with --json. trim leaves out the white space
// before the answer.
func (r *run) answer(ctx context.Context, q engine.Request, trim bool) (*answered, error) {
	a := &answered{prompt: q.Prompt, begin: r.now()}
	a.first, a.last = a.begin, a.begin
	generate := r.model.Engine.Generate
	if r.sound != nil {
		generate = func(ctx context.Context, q engine.Request) (*engine.Answer, error) {
			return r.sound.ask(ctx, r.model, q)
		}
	}
	stream, err := generate(ctx, q)
	if err != nil {
		return nil, err
	}
	out := &textOut{w: r.out.W, terminal: r.out.Terminal, trim: trim}
	var text strings.Builder
	for {
		t, more := stream.Next()
		if !more {
			break
		}
		a.last = r.now()
		if len(a.tokens) == 0 {
			a.first = a.last
		}
		a.tokens = append(a.tokens, t)
		text.WriteString(t.Text)
		switch {
		case r.f.stream:
			out.err = r.line(tokenJSON(t, r.f.logProbs >= 0))
		case r.f.json:
		case r.model.Tokenizer == nil:
			out.write(strings.Repeat(" ", min(1, len(a.tokens)-1)) + strconv.Itoa(int(t.ID)))
		default:
			out.write(t.Text)
		}
		if out.err != nil { // nobody reads on
			return nil, fmt.Errorf("write the answer: %w", out.err)
		}
	}
	a.text = text.String()
	a.result = stream.Result()
	if !r.f.json {
		out.end()
	}
	if a.result.Finish == engine.FinishError {
		return nil, a.result.Err
	}
	return a, out.err
}

// textOut writes text to a person or a pipe. Where it is a terminal, control
// characters are replaced: an answer must not move the cursor.
type textOut struct {
	w              io.Writer
	terminal, trim bool
	began, newline bool // text was written; it ended a line
	err            error
}

func (o *textOut) write(s string) {
	if o.trim && !o.began {
		s = strings.TrimLeft(s, " \n")
	}
	if s == "" || o.err != nil {
		return
	}
	o.began, o.newline = true, strings.HasSuffix(s, "\n")
	if o.terminal {
		s = strings.Map(func(c rune) rune {
			if unicode.IsControl(c) && c != '\n' && c != '\t' {
				return unicode.ReplacementChar
			}
			return c
		}, s)
	}
	_, o.err = io.WriteString(o.w, s)
}

// end ends the last line.
func (o *textOut) end() {
	if !o.newline && o.err == nil {
		_, o.err = io.WriteString(o.w, "\n")
	}
}

func perSecond(n int, d time.Duration) float64 {
	if n <= 0 || d <= 0 {
		return 0
	}
	return float64(n) / d.Seconds()
}

func (a *answered) promptRate() float64 {
	return perSecond(len(a.prompt)-a.result.CachedTokens, a.first.Sub(a.begin))
}

// decodeRate is that of the tokens after the first. Over less than a few
// scheduling quanta those times say nothing, and the whole answer's time counts.
func (a *answered) decodeRate() float64 {
	if d := a.last.Sub(a.first); d >= 50*time.Millisecond {
		return perSecond(len(a.tokens)-1, d)
	}
	return perSecond(len(a.tokens), a.last.Sub(a.begin))
}

func (a *answered) stats(w io.Writer) {
	fmt.Fprintf(w, "prompt: %d tokens, %d of them cached, %.1f tok/s; first token after %.2f s; answer: %d tokens, %.1f tok/s; ended by %s\n",
		len(a.prompt), a.result.CachedTokens, a.promptRate(), a.first.Sub(a.begin).Seconds(), len(a.tokens), a.decodeRate(), a.result.Finish)
}

// runResult is what --json writes.
type runResult struct {
	Model        runModel    `json:"model"`
	PromptTokens int         `json:"prompt_tokens"`
	CachedTokens int         `json:"cached_tokens"`
	PromptIDs    []int32     `json:"prompt_ids"`
	Text         string      `json:"text"`
	IDs          []int32     `json:"ids"`
	FinishReason string      `json:"finish_reason"`
	Seed         string      `json:"seed"`
	Kernel       string      `json:"kernel"`
	Threads      int         `json:"threads"`
	Context      int         `json:"context"`
	MemoryBytes  int64       `json:"memory_bytes"` // as predicted
	Timings      runTimings  `json:"timings"`
	LogProbs     []tokenLine `json:"logprobs,omitempty"`
	// GhostSound is there with rows from servers.
	GhostSound *soundResult `json:"ghost_sound,omitempty"`
}

type runModel struct {
	Name         string `json:"name,omitempty"`
	SHA256       string `json:"sha256,omitempty"`
	Path         string `json:"path"`
	Architecture string `json:"architecture"`
}

type runTimings struct {
	LoadS       float64 `json:"load_s"`
	FirstTokenS float64 `json:"first_token_s"`
	TotalS      float64 `json:"total_s"`
	PromptTokS  float64 `json:"prompt_tok_s"`
	DecodeTokS  float64 `json:"decode_tok_s"`
}

type tokenLine struct {
	ID      int32         `json:"id"`
	Text    string        `json:"text"`
	LogProb *float64      `json:"logprob,omitempty"`
	Top     []alternative `json:"top,omitempty"`
}

type alternative struct {
	ID      int32   `json:"id"`
	LogProb float64 `json:"logprob"`
}

func tokenJSON(t engine.Token, probs bool) tokenLine {
	l := tokenLine{ID: t.ID, Text: t.Text}
	if probs {
		l.LogProb = &t.LogProb
		for _, x := range t.Top {
			l.Top = append(l.Top, alternative(x))
		}
	}
	return l
}

// line writes v as one line of JSON.
func (r *run) line(v any) error {
	e := json.NewEncoder(r.out.W)
	e.SetEscapeHTML(false)
	return e.Encode(v)
}

func (r *run) writeJSON(a *answered) error {
	d := runResult{
		Model:        runModel{Path: r.file.Path, Architecture: r.model.Config().Arch},
		PromptTokens: len(a.prompt), CachedTokens: a.result.CachedTokens, PromptIDs: a.prompt,
		Text: a.text, IDs: []int32{}, FinishReason: string(a.result.Finish), Seed: hex.EncodeToString(r.seed[:]),
		Kernel: r.path.String(), Threads: r.model.Threads, Context: r.model.Engine.Context(), MemoryBytes: r.model.Memory.Total(),
		Timings: runTimings{r.loadS, a.first.Sub(a.begin).Seconds(), a.last.Sub(a.begin).Seconds(), a.promptRate(), a.decodeRate()},
	}
	if r.stored != nil {
		d.Model.Name, d.Model.SHA256 = r.stored.Name, r.stored.SHA256
	}
	if r.sound != nil {
		d.GhostSound = r.sound.result()
	}
	for _, t := range a.tokens {
		d.IDs = append(d.IDs, t.ID)
		if r.f.logProbs >= 0 && !r.f.stream { // else the lines have said it
			d.LogProbs = append(d.LogProbs, tokenJSON(t, true))
		}
	}
	if r.f.stream {
		return r.line(d)
	}
	return r.out.JSON(d)
}
