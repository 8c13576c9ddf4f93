package dialog

import (
	"encoding/json"
	"strings"

	"github.com/geistnet/geist/internal/constrain"
	"github.com/geistnet/geist/internal/tools"
)

// Functions reads q.Tools. The error is of kind Invalid.
func (q *Question) Functions() ([]tools.Function, error) {
	raw := make([]json.RawMessage, len(q.Tools))
	for i, t := range q.Tools {
		raw[i] = t.JSON
	}
	functions, err := tools.Functions(raw)
	if err != nil {
		return nil, Errorf(Invalid, "tools", "%v", err)
	}
	return functions, nil
}

// Grammar is what the answer to q must belong to; nil: it is free. form is how
// the model calls functions. The error is an *Error.
func Grammar(q *Question, form tools.Form) (*constrain.Grammar, error) {
	functions, err := q.Functions()
	if err != nil {
		return nil, err
	}
	var shape *constrain.Grammar
	switch {
	case q.Shape.Schema != nil:
		if shape, err = constrain.Compile(q.Shape.Schema); err != nil {
			return nil, Errorf(Unsupported, "response_format", "the schema of the answer cannot be honoured: %v", err)
		}
	case q.Shape.JSON:
		shape = constrain.JSONObject()
	}
	may := len(functions) > 0 && q.Choice.Mode != tools.None
	if must := q.Choice.Mode == tools.Required; !may || shape == nil && !must {
		if must && !may {
			return nil, Errorf(Invalid, "tool_choice", "tool_choice demands a call, and there are no tools")
		}
		return shape, nil
	}
	calls, err := tools.Grammar(form, functions, q.Choice)
	if err != nil {
		return nil, Errorf(Unsupported, "tools", "%v", err)
	}
	if q.Choice.Mode == tools.Required {
		return calls, nil
	}
	either, err := constrain.Choice(shape, calls)
	if err != nil {
		return nil, Errorf(Unsupported, "response_format", "the schema of the answer together with the tools: %v", err)
	}
	return either, nil
}

const (
	thinkOpen  = "<think>"
	thinkClose = "</think>"
	space      = " \t\r\n"
)

// OpensThinking tells whether a prompt, or its last bytes, leaves the model
// inside its reasoning.
func OpensThinking(prompt string) bool {
	return strings.HasSuffix(strings.TrimRight(prompt, space), thinkOpen)
}

// A Reader splits the text that a model generates. However the text is cut, the
// parts are the same. It is for one goroutine.
type Reader struct {
	calls *tools.Parser
	phase phase
	held  string
}

type phase int

const (
	begins   phase = iota // reasoning may begin
	opens                 // white space at its beginning is left out
	thinks                // inside
	thought               // white space after it is left out
	contents              // all that follows is content
)

// NewReader begins the answer to q of a model whose calls have the given form.
// thinking tells whether the prompt ended inside reasoning. The answer to a
// text is text.
func NewReader(q *Question, form tools.Form, thinking bool) (*Reader, error) {
	functions, err := q.Functions()
	if err != nil {
		return nil, err
	}
	r := &Reader{calls: tools.NewParser(form, functions, q.Choice)}
	switch {
	case q.Messages == nil:
		r.phase = contents
	case thinking:
		r.phase = opens
	}
	return r, nil
}

// Control takes a control token as the vocabulary spells it.
func (r *Reader) Control(token string) Delta {
	if token == thinkOpen || token == thinkClose {
		return r.Text(token)
	}
	if !tools.IsMark(token) {
		return Delta{}
	}
	d := r.settle()
	show, calls := r.calls.Add(token)
	d.Text += show
	d.Calls = append(d.Calls, calls...)
	return d
}

// Flush ends the answer.
func (r *Reader) Flush() Delta {
	d := r.settle()
	show, calls := r.calls.Flush()
	d.Text += show
	d.Calls = append(d.Calls, calls...)
	return d
}

// Thinking tells whether the text is inside the reasoning.
func (r *Reader) Thinking() bool { return r.phase == opens || r.phase == thinks }

// Done tells that nothing that may follow counts: the generation can be ended.
func (r *Reader) Done() bool { return r.calls.Done() }

// settle decides that held text is what it looks like now.
func (r *Reader) settle() (d Delta) {
	text := r.held
	r.held = ""
	switch r.phase {
	case thinks:
		d.Reasoning = text
	case begins, contents:
		r.phase = contents
		d.Text, d.Calls = r.calls.Add(text)
	}
	return d
}

// Text takes the text that a token completed.
func (r *Reader) Text(s string) Delta {
	var d Delta
	r.held += s
	if r.phase == begins {
		body := strings.TrimLeft(r.held, space)
		switch {
		case strings.HasPrefix(body, thinkOpen):
			r.phase, r.held = opens, body[len(thinkOpen):]
		case strings.HasPrefix(thinkOpen, body): // also if there is none yet
			return d
		default:
			r.phase = contents
		}
	}
	if r.phase == opens {
		if r.held = strings.TrimLeft(r.held, space); r.held == "" {
			return d
		}
		r.phase = thinks
	}
	if r.phase == thinks {
		i := strings.Index(r.held, thinkClose)
		if i < 0 {
			// Hold back what may be the beginning of the end, and white space before it.
			keep := 0
			for n := min(len(thinkClose)-1, len(r.held)); n > 0; n-- {
				if strings.HasSuffix(r.held, thinkClose[:n]) {
					keep = n
					break
				}
			}
			before := r.held[:len(r.held)-keep]
			keep = len(r.held) - len(strings.TrimRight(before, space))
			d.Reasoning, r.held = r.held[:len(r.held)-keep], r.held[len(r.held)-keep:]
			return d
		}
		d.Reasoning = strings.TrimRight(r.held[:i], space)
		r.phase, r.held = thought, r.held[i+len(thinkClose):]
	}
	if r.phase == thought {
		if r.held = strings.TrimLeft(r.held, space); r.held == "" {
			return d
		}
		r.phase = contents
	}
	text := r.held
	r.held = ""
	d.Text, d.Calls = r.calls.Add(text)
	return d
}
