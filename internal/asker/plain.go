package asker

import (
	"encoding/json"

	"github.com/geistnet/geist/internal/chat"
	"github.com/geistnet/geist/internal/dialog"
	"github.com/geistnet/geist/internal/tools"
)

// openAIMessages writes a conversation in OpenAI's words, for servers whose
// template nobody here knows.
func openAIMessages(list []chat.Message) (json.RawMessage, error) {
	type function struct {
		Name      string `json:"name"`
		Arguments string `json:"arguments"`
	}
	type call struct {
		ID       string   `json:"id"`
		Type     string   `json:"type"`
		Function function `json:"function"`
	}
	type message struct {
		Role       string  `json:"role"`
		Content    *string `json:"content"`
		ToolCalls  []call  `json:"tool_calls,omitempty"`
		ToolCallID string  `json:"tool_call_id,omitempty"`
		Name       string  `json:"name,omitempty"`
	}
	out := make([]message, 0, len(list))
	for i := range list {
		m := &list[i]
		text := m.Content
		if m.Parts != nil {
			text = ""
			for _, p := range m.Parts {
				if p.Type != "text" {
					return nil, dialog.Errorf(dialog.Unsupported, "messages", "a part of type %q cannot be passed on; text can", p.Type)
				}
				text += p.Text
			}
		}
		x := message{Role: m.Role, ToolCallID: m.ToolCallID, Name: m.Name}
		if text != "" || len(m.ToolCalls) == 0 {
			x.Content = &text
		}
		for _, c := range m.ToolCalls {
			x.ToolCalls = append(x.ToolCalls, call{c.ID, "function", function{c.Name, c.Arguments}})
		}
		out = append(out, x)
	}
	return json.Marshal(out)
}

// openAITools writes the functions of a question and the choice among them.
func openAITools(q *dialog.Question) (list, choice json.RawMessage, err error) {
	raw := make([]json.RawMessage, 0, len(q.Tools))
	for _, t := range q.Tools {
		raw = append(raw, t.JSON)
	}
	if list, err = json.Marshal(raw); err != nil {
		return nil, nil, err
	}
	var c any = "auto"
	switch {
	case q.Choice.Mode == tools.None:
		c = "none"
	case q.Choice.Mode == tools.Required && q.Choice.Name != "":
		c = map[string]any{"type": "function", "function": map[string]string{"name": q.Choice.Name}}
	case q.Choice.Mode == tools.Required:
		c = "required"
	}
	choice, err = json.Marshal(c)
	return list, choice, err
}
