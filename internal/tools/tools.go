// Package tools is how models call functions: in which form they write a call,
// which grammar makes them write one, and how calls are found in their text.
//
// Three forms are known. Hermes, which Qwen and many others use, puts each call
// between tags:
//
//	<tool_call>
//	{"name": "f", "arguments": {…}}
//	</tool_call>
//
// Llama 3 makes the whole message one object, or several with semicolons
// between, maybe after <|python_tag|>:
//
//	{"name": "f", "parameters": {…}}
//
// Mistral writes a list after a mark, and later models a mark for each call:
//
//	[TOOL_CALLS][{"name": "f", "arguments": {…}}, …]
//	[TOOL_CALLS]f[ARGS]{…}
//
// What is not a complete call of a function that was offered stays text.
package tools

import (
	"encoding/json"
	"fmt"
	"strings"
)

// Mode says whether functions may, must or must not be called.
type Mode string

// The modes.
const (
	Auto     Mode = "" // the model decides
	None     Mode = "none"
	Required Mode = "required"
)

// Choice is what a client wants of the functions it offers.
type Choice struct {
	Mode Mode
	Name string // with Required: this function and no other; "": any
	One  bool   // at most one call
}

// A Call is a call of a function.
type Call struct {
	Name      string
	Arguments string // a JSON object
}

// A Function is what may be called.
type Function struct {
	Name       string
	Parameters json.RawMessage // JSON schema of the arguments; nil: any object
	Strict     bool            // the schema must be honoured, or the question refused
}

// Functions reads the functions from tools of a chat completion request, each
// {"type":"function","function":{"name":…,"parameters":…}}. The error tells the
// position of a tool that is none.
func Functions(list []json.RawMessage) ([]Function, error) {
	out := make([]Function, len(list))
	seen := map[string]bool{}
	for i, raw := range list {
		var t struct {
			Type     string `json:"type"`
			Function *struct {
				Name       string          `json:"name"`
				Parameters json.RawMessage `json:"parameters"`
				Strict     bool            `json:"strict"`
			} `json:"function"`
		}
		switch err := json.Unmarshal(raw, &t); {
		case err != nil:
			return nil, fmt.Errorf("read tool %d: %w", i, err)
		case t.Type != "function" && t.Type != "":
			return nil, fmt.Errorf("tool %d has type %q; only functions can be called", i, t.Type)
		case t.Function == nil || !goodName(t.Function.Name):
			return nil, fmt.Errorf("tool %d has no function with a name of 1 to 128 printable characters", i)
		case seen[t.Function.Name]:
			return nil, fmt.Errorf("tool %d: a second function is called %q", i, t.Function.Name)
		}
		seen[t.Function.Name] = true
		out[i] = Function{t.Function.Name, t.Function.Parameters, t.Function.Strict}
		if p := strings.TrimSpace(string(out[i].Parameters)); p == "null" || p == "" {
			out[i].Parameters = nil
		}
	}
	return out, nil
}

func goodName(s string) bool {
	if s == "" || len(s) > 128 {
		return false
	}
	for _, r := range s {
		if r <= ' ' || r == 0x7f || strings.ContainsRune(`"\[]{}<>`, r) {
			return false
		}
	}
	return true
}
