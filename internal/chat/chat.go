// Package chat turns a conversation into the text of a prompt with the chat
// template of a model.
//
// Templates are Jinja (package jinja) and see what the apply_chat_template of
// Hugging Face's transformers gives them: messages, tools, documents (None),
// add_generation_prompt, bos_token, eos_token, and the functions
// raise_exception and strftime_now. Three things that models disagree about are
// settled here, from the template itself, see [Template.Render]: the form of
// tool call arguments, the name of the field for reasoning, and the content
// beside tool calls.
//
// Rendering depends on nothing but its input: the clock is part of it.
package chat

import (
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"strings"
	"time"

	"github.com/geistnet/geist/internal/jinja"
)

// Message is one turn of a conversation.
type Message struct {
	Role string // system, developer, user, assistant or tool
	// Content is the text. Parts, if not nil, takes its place for templates
	// that take lists of parts.
	Content    string
	Parts      []Part
	Reasoning  string     // what an assistant thought before its answer; may be empty
	ToolCalls  []ToolCall // of an assistant
	ToolCallID string     // of a tool: the call it answers; may be empty
	Name       string     // of a tool: its name; may be empty
}

// Part is a piece of content.
type Part struct {
	Type string // text, image, ...
	Text string // of type text
}

// ToolCall is an assistant's call of a function.
type ToolCall struct {
	ID        string // may be empty
	Name      string
	Arguments string // JSON text, normally an object
}

// Tool is a function that the model may call: the JSON object
// {"type":"function","function":{"name":...,"parameters":...}}. Templates print
// it, so the order of its keys is part of the prompt.
type Tool struct{ JSON json.RawMessage }

// Input is what a prompt is made of.
type Input struct {
	Messages            []Message
	Tools               []Tool
	AddGenerationPrompt bool   // end with the start of an assistant's turn
	BOS, EOS            string // text of the tokens; where unknown, empty
	// Extra are further variables, such as enable_thinking. They override
	// those above. May be nil.
	Extra *jinja.Dict
	Now   time.Time // what strftime_now says; zero: asking for it is an error
	// AllowMutation lets the template change lists and maps, which
	// transformers refuses.
	AllowMutation bool
	Limits        jinja.Limits
}

// Template is a parsed chat template. Any number of goroutines may use it.
type Template struct {
	tmpl         *jinja.Template
	reasoningKey string
	nullContent  bool
}

var contentIsNone = regexp.MustCompile(`content['"]?\]?\s+is\s+none`)

// Parse reads a template. The name appears in errors only. Errors are of type
// *jinja.Error.
func Parse(name, source string) (*Template, error) {
	tmpl, err := jinja.Parse(name, source)
	if err != nil {
		return nil, err
	}
	return &Template{tmpl, reasoningKey(source), contentIsNone.MatchString(source)}, nil
}

// reasoningKey is the field of a message where the template looks for
// reasoning.
func reasoningKey(source string) string {
	for _, key := range []string{"reasoning_content", "thinking", "reasoning", "thought"} {
		for _, access := range []string{"." + key, "['" + key + "']", `["` + key + `"]`} {
			if strings.Contains(source, access) {
				return key
			}
		}
	}
	return "reasoning_content"
}

// form is how a conversation with tool calls is put to a template.
type form struct {
	argumentsAsText bool // JSON text instead of an object
	nullContent     bool // None instead of an empty text beside tool calls
}

// Render returns the prompt.
//
// Arguments of tool calls are given as objects where they are JSON objects, and
// an assistant's empty content beside tool calls as the empty string, or as
// None where the template asks whether content is none. A template that fails
// with a type error on that gets the arguments as JSON text, then the content
// as text. Reasoning is in the field that the template reads:
// reasoning_content unless it names only another.
//
// Errors of the template are of type *jinja.Error; others are about tools that
// are not JSON.
func (t *Template) Render(in Input) (string, error) {
	first := form{nullContent: t.nullContent}
	text, err := t.render(in, first)
	if !isTypeError(err) || !in.hasToolCalls() {
		return text, err
	}
	for _, f := range []form{{true, t.nullContent}, {false, false}, {true, false}} {
		if f == first {
			continue
		}
		if again, err := t.render(in, f); err == nil {
			return again, nil
		}
	}
	return "", err
}

func isTypeError(err error) bool {
	var e *jinja.Error
	return errors.As(err, &e) && e.Kind == jinja.TypeError
}

// Render parses and renders a template once.
func Render(template string, in Input) (string, error) {
	t, err := Parse("chat template", template)
	if err != nil {
		return "", err
	}
	return t.Render(in)
}

func (in *Input) hasToolCalls() bool {
	for _, m := range in.Messages {
		if len(m.ToolCalls) > 0 {
			return true
		}
	}
	return false
}

func (t *Template) render(in Input, f form) (string, error) {
	vars, err := t.variables(in, f)
	if err != nil {
		return "", err
	}
	return t.tmpl.Render(vars, jinja.Options{Now: in.Now, AllowMutation: in.AllowMutation, Limits: in.Limits})
}

// variables are what the template sees.
func (t *Template) variables(in Input, f form) (*jinja.Dict, error) {
	messages := jinja.NewList()
	for _, m := range in.Messages {
		messages.Items = append(messages.Items, t.message(m, f))
	}
	vars := jinja.NewDict()
	vars.Set("messages", messages)
	vars.Set("tools", nil)
	if len(in.Tools) > 0 {
		tools := jinja.NewList()
		for i, tool := range in.Tools {
			v, err := DecodeJSON(tool.JSON)
			if err != nil {
				return nil, fmt.Errorf("read tool %d: %w", i, err)
			}
			tools.Items = append(tools.Items, v)
		}
		vars.Set("tools", tools)
	}
	vars.Set("documents", nil)
	vars.Set("add_generation_prompt", in.AddGenerationPrompt)
	vars.Set("bos_token", clean(in.BOS))
	vars.Set("eos_token", clean(in.EOS))
	in.Extra.Range(func(key, value jinja.Value) bool {
		if name, ok := key.(string); ok {
			vars.Set(name, value)
		}
		return true
	})
	return vars, nil
}

// clean makes text valid UTF-8.
func clean(s string) string { return strings.ToValidUTF8(s, "\uFFFD") }

func (t *Template) message(m Message, f form) *jinja.Dict {
	d := jinja.NewDict()
	d.Set("role", clean(m.Role))
	switch {
	case m.Parts != nil:
		parts := jinja.NewList()
		for _, p := range m.Parts {
			part := jinja.NewDict()
			part.Set("type", clean(p.Type))
			if p.Type == "text" {
				part.Set("text", clean(p.Text))
			}
			parts.Items = append(parts.Items, part)
		}
		d.Set("content", parts)
	case m.Content == "" && len(m.ToolCalls) > 0 && f.nullContent:
		d.Set("content", nil)
	default:
		d.Set("content", clean(m.Content))
	}
	optional := func(key, value string) {
		if value != "" {
			d.Set(key, clean(value))
		}
	}
	optional(t.reasoningKey, m.Reasoning)
	if len(m.ToolCalls) > 0 {
		calls := jinja.NewList()
		for _, c := range m.ToolCalls {
			calls.Items = append(calls.Items, toolCall(c, f.argumentsAsText))
		}
		d.Set("tool_calls", calls)
	}
	optional("tool_call_id", m.ToolCallID)
	optional("name", m.Name)
	return d
}

func toolCall(c ToolCall, argumentsAsText bool) *jinja.Dict {
	f := jinja.NewDict()
	f.Set("name", clean(c.Name))
	var arguments jinja.Value = clean(c.Arguments)
	if v, err := DecodeJSON([]byte(c.Arguments)); err == nil && !argumentsAsText {
		if object, ok := v.(*jinja.Dict); ok {
			arguments = object
		}
	}
	f.Set("arguments", arguments)
	d := jinja.NewDict()
	d.Set("type", "function")
	if c.ID != "" {
		d.Set("id", clean(c.ID))
	}
	d.Set("function", f)
	return d
}
