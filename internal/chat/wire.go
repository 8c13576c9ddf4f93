package chat

import (
	"encoding/json"
	"fmt"
)

// ParseMessages reads the messages of a chat completion request: a JSON list
// of objects with role, content (text, null, or a list of parts),
// reasoning_content, tool_calls, tool_call_id and name. Other fields are
// ignored. A list of text parts only is joined, since most templates take text.
func ParseMessages(data []byte) ([]Message, error) {
	var wire []struct {
		Role       string          `json:"role"`
		Content    json.RawMessage `json:"content"`
		Reasoning  string          `json:"reasoning_content"`
		ToolCallID string          `json:"tool_call_id"`
		Name       string          `json:"name"`
		ToolCalls  []struct {
			ID       string `json:"id"`
			Function struct {
				Name      string          `json:"name"`
				Arguments json.RawMessage `json:"arguments"`
			} `json:"function"`
		} `json:"tool_calls"`
	}
	if err := json.Unmarshal(data, &wire); err != nil {
		return nil, fmt.Errorf("read messages: %w", err)
	}
	messages := make([]Message, len(wire))
	for i, w := range wire {
		m := Message{Role: w.Role, Reasoning: w.Reasoning, ToolCallID: w.ToolCallID, Name: w.Name}
		if m.Role == "" {
			return nil, fmt.Errorf("read message %d: role is missing", i)
		}
		if err := m.setContent(w.Content); err != nil {
			return nil, fmt.Errorf("read message %d: %w", i, err)
		}
		for _, c := range w.ToolCalls {
			call := ToolCall{ID: c.ID, Name: c.Function.Name, Arguments: string(c.Function.Arguments)}
			var text string
			if json.Unmarshal(c.Function.Arguments, &text) == nil {
				call.Arguments = text // JSON in a string, as OpenAI has it
			}
			m.ToolCalls = append(m.ToolCalls, call)
		}
		messages[i] = m
	}
	return messages, nil
}

func (m *Message) setContent(raw json.RawMessage) error {
	if len(raw) == 0 || string(raw) == "null" {
		return nil
	}
	if raw[0] != '[' {
		if err := json.Unmarshal(raw, &m.Content); err != nil {
			return fmt.Errorf("content is neither text nor a list of parts: %w", err)
		}
		return nil
	}
	var parts []struct {
		Type string `json:"type"`
		Text string `json:"text"`
	}
	if err := json.Unmarshal(raw, &parts); err != nil {
		return fmt.Errorf("content parts: %w", err)
	}
	onlyText := true
	list := make([]Part, len(parts))
	text := ""
	for i, p := range parts {
		list[i] = Part{p.Type, p.Text}
		onlyText = onlyText && p.Type == "text"
		text += p.Text
	}
	if onlyText {
		m.Content = text
	} else {
		m.Parts = list
	}
	return nil
}

// ParseTools reads the tools of a chat completion request, a JSON list of
// objects, and keeps each as it is written. null gives none.
func ParseTools(data []byte) ([]Tool, error) {
	var raw []json.RawMessage
	if err := json.Unmarshal(data, &raw); err != nil {
		return nil, fmt.Errorf("read tools: %w", err)
	}
	tools := make([]Tool, len(raw))
	for i, r := range raw {
		if len(r) == 0 || r[0] != '{' {
			return nil, fmt.Errorf("read tool %d: not a JSON object", i)
		}
		tools[i] = Tool{r}
	}
	return tools, nil
}
