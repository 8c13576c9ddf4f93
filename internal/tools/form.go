package tools

import (
	"encoding/json"
	"fmt"
	"strings"

	"github.com/geistnet/geist/internal/constrain"
)

// Form is how a model writes calls.
type Form int

// The forms.
const (
	Hermes Form = iota
	Llama3
	Mistral
)

const (
	hermesOpen  = "<tool_call>"
	hermesClose = "</tool_call>"
	pythonTag   = "<|python_tag|>"
	mistralMark = "[TOOL_CALLS]"
	mistralArgs = "[ARGS]"
)

// Detect tells the form from a model's chat template; Hermes if it gives no hint.
func Detect(template string) Form {
	switch {
	case strings.Contains(template, mistralMark):
		return Mistral
	case strings.Contains(template, hermesOpen):
		return Hermes
	case strings.Contains(template, pythonTag), strings.Contains(template, "ipython"):
		return Llama3
	}
	return Hermes
}

// End is the text after which a call is complete; "": there is no such text.
func (f Form) End() string {
	if f == Hermes {
		return hermesClose
	}
	return ""
}

// most is how many calls a grammar allows in one message.
const most = 4

// Grammar makes a model write calls and nothing else, as the choice has it. A
// strict function whose schema cannot be honoured is an error; arguments of
// others are then any JSON object.
func Grammar(form Form, functions []Function, c Choice) (*constrain.Grammar, error) {
	key := "arguments"
	if form == Llama3 {
		key = "parameters"
	}
	var each []*constrain.Grammar
	for _, f := range functions {
		if c.Name != "" && f.Name != c.Name {
			continue
		}
		args, err := arguments(f)
		if err != nil {
			return nil, err
		}
		name, err := json.Marshal(f.Name)
		if err != nil {
			return nil, fmt.Errorf("function %q: %w", f.Name, err)
		}
		g, err := constrain.Sequence(constrain.Literal(`{"name": `+string(name)+`, "`+key+`": `), constrain.Of(args), constrain.Literal("}"))
		if err != nil {
			return nil, fmt.Errorf("function %q: %w", f.Name, err)
		}
		each = append(each, g)
	}
	if len(each) == 0 {
		return nil, fmt.Errorf("no function %q is among the tools", c.Name)
	}
	call, err := constrain.Choice(each...)
	if err != nil {
		return nil, err
	}
	n := most
	if c.One {
		n = 1
	}
	switch form {
	case Llama3:
		return repeat(n, "", constrain.Of(call), "; ", "")
	case Mistral:
		return repeat(n, mistralMark+"[", constrain.Of(call), ", ", "]")
	}
	if call, err = constrain.Sequence(constrain.Literal(hermesOpen+"\n"), constrain.Of(call), constrain.Literal("\n"+hermesClose)); err != nil {
		return nil, err
	}
	return repeat(n, "", constrain.Of(call), "\n", "")
}

// repeat is the grammar of one to n items.
func repeat(n int, open string, item constrain.Part, between, end string) (*constrain.Grammar, error) {
	rest, err := constrain.Sequence(item, constrain.Literal(end))
	for i := 1; i < n && err == nil; i++ {
		var longer *constrain.Grammar
		if longer, err = constrain.Sequence(item, constrain.Literal(between), constrain.Of(rest)); err == nil {
			rest, err = constrain.Choice(rest, longer)
		}
	}
	if err != nil {
		return nil, err
	}
	return constrain.Sequence(constrain.Literal(open), constrain.Of(rest))
}

func arguments(f Function) (*constrain.Grammar, error) {
	if f.Parameters == nil {
		return constrain.JSONObject(), nil
	}
	var top struct {
		Type string `json:"type"`
	}
	g, err := constrain.Compile(f.Parameters)
	if err == nil && json.Unmarshal(f.Parameters, &top) == nil && top.Type == "object" {
		return g, nil
	}
	if !f.Strict {
		return constrain.JSONObject(), nil
	}
	if err == nil {
		return nil, fmt.Errorf("function %q: parameters must have type object", f.Name)
	}
	return nil, fmt.Errorf("function %q: parameters: %w", f.Name, err)
}
