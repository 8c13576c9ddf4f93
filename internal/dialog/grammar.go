package dialog

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/geistnet/geist/internal/constrain"
	"github.com/geistnet/geist/internal/tools"
)

// JSONObject is the grammar text of any JSON object.
const JSONObject = "json-object"

// callsKey marks a grammar text that demands calls of functions; no JSON schema
// has a keyword like it.
const callsKey = "geist-calls"

// callsText is the grammar text of an answer that calls functions, or has a
// shape, or may be either.
type callsText struct {
	Version   int             `json:"geist-calls"` // 1
	Form      tools.Form      `json:"form"`
	Functions []functionText  `json:"functions"`
	Must      bool            `json:"must"`
	Name      string          `json:"name,omitempty"`
	One       bool            `json:"one,omitempty"`
	JSON      bool            `json:"json,omitempty"`
	Schema    json.RawMessage `json:"schema,omitempty"`
}

type functionText struct {
	Name       string          `json:"name"`
	Parameters json.RawMessage `json:"parameters,omitempty"`
	Strict     bool            `json:"strict,omitempty"`
}

// GrammarText is what Grammar's result is made of, in words that another node
// makes it of again with ReadGrammar: a JSON schema, JSONObject, or an object that
// lists functions; "": the answer is free. The error is an *Error.
func GrammarText(q *Question, form tools.Form) (string, error) {
	g, err := Grammar(q, form)
	if err != nil || g == nil {
		return "", err
	}
	functions, err := q.Functions()
	if err != nil {
		return "", err
	}
	if len(functions) == 0 || q.Choice.Mode == tools.None {
		if q.Shape.Schema != nil {
			return string(q.Shape.Schema), nil
		}
		return JSONObject, nil
	}
	t := callsText{Version: 1, Form: form, Must: q.Choice.Mode == tools.Required, Name: q.Choice.Name, One: q.Choice.One, JSON: q.Shape.JSON, Schema: q.Shape.Schema}
	for _, f := range functions {
		t.Functions = append(t.Functions, functionText{f.Name, f.Parameters, f.Strict})
	}
	b, err := json.Marshal(t)
	if err != nil {
		return "", Errorf(Invalid, "tools", "%v", err)
	}
	return string(b), nil
}

// ReadGrammar makes the grammar of a text that GrammarText gave; nil for "".
func ReadGrammar(text string) (*constrain.Grammar, error) {
	switch text {
	case "":
		return nil, nil
	case JSONObject:
		return constrain.JSONObject(), nil
	}
	var mark map[string]json.RawMessage
	if json.Unmarshal([]byte(text), &mark) != nil || mark[callsKey] == nil {
		return constrain.Compile([]byte(text))
	}
	var t callsText
	d := json.NewDecoder(bytes.NewReader([]byte(text)))
	d.DisallowUnknownFields()
	if err := d.Decode(&t); err != nil {
		return nil, fmt.Errorf("grammar of calls: %w", err)
	}
	if t.Version != 1 || len(t.Functions) == 0 || t.Form < tools.Hermes || t.Form > tools.Mistral {
		return nil, errors.New("grammar of calls: its version, form or functions are not known")
	}
	var functions []tools.Function
	for _, f := range t.Functions {
		functions = append(functions, tools.Function{Name: f.Name, Parameters: f.Parameters, Strict: f.Strict})
	}
	choice := tools.Choice{Name: t.Name, One: t.One}
	if t.Must {
		choice.Mode = tools.Required
	}
	calls, err := tools.Grammar(t.Form, functions, choice)
	if err != nil || t.Must {
		return calls, err
	}
	shape := constrain.JSONObject()
	switch {
	case t.Schema != nil:
		if shape, err = constrain.Compile(t.Schema); err != nil {
			return nil, err
		}
	case !t.JSON:
		return nil, errors.New("grammar of calls: it neither demands calls nor has a shape")
	}
	return constrain.Choice(shape, calls)
}
