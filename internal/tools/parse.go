package tools

import (
	"encoding/json"
	"slices"
	"strings"
)

// maxCall bounds the bytes of one call; a longer one is text.
const maxCall = 1 << 20

// IsMark tells whether a control token belongs to calls. Such tokens are given to
// Parser.Add as the vocabulary spells them.
func IsMark(token string) bool {
	switch token {
	case hermesOpen, hermesClose, pythonTag, mistralMark, mistralArgs:
		return true
	}
	return false
}

// A Parser finds calls in text that grows. However the text is cut, the result
// is the same. Text that may yet become a call is held back, and so is white
// space, since that around calls belongs to them. It is for one goroutine.
type Parser struct {
	form  Form
	names []string
	one   bool

	state state
	held  string // not decided on
	more  []byte // follows held in state object, seen by the scanner
	lead  string // the mark before held, and what stood around it
	at    int    // of held, in state object: bytes that the scanner has seen
	scan  scanner
	list  bool   // Mistral: inside [ … ]
	name  string // Mistral: of a call whose name stands before its arguments
	calls int
}

type state int

const (
	seeking     state = iota // text, maybe the beginning of a mark
	opened                   // after a mark or between calls of a list
	object                   // inside the JSON of a call
	afterHermes              // its closing tag may follow
	plain                    // nothing more can be a call
	closed                   // the one call is there
)

// NewParser begins a message of a model that was offered functions.
func NewParser(form Form, functions []Function, c Choice) *Parser {
	p := &Parser{form: form, one: c.One}
	for _, f := range functions {
		p.names = append(p.names, f.Name)
	}
	if c.Mode == None || len(functions) == 0 {
		p.state = plain
	}
	return p
}

// Done tells that nothing that may follow counts.
func (p *Parser) Done() bool { return p.state == closed }

// Calls is the number of calls found so far.
func (p *Parser) Calls() int { return p.calls }

// Add takes the next piece of the text and returns what is now known to be text
// or calls.
func (p *Parser) Add(text string) (show string, calls []Call) {
	if p.state == object && p.at+len(text) <= maxCall {
		// The usual case of a long call costs no copy of what is there.
		scan := p.scan
		if _, ended := scan.feed(text); !ended {
			p.scan, p.at, p.more = scan, p.at+len(text), append(p.more, text...)
			return "", nil
		}
	}
	p.join(text)
	return p.run(false)
}

func (p *Parser) join(text string) {
	p.held += string(p.more) + text
	p.more = p.more[:0]
}

// Flush ends the message.
func (p *Parser) Flush() (show string, calls []Call) {
	p.join("")
	return p.run(true)
}

func (p *Parser) run(last bool) (show string, calls []Call) {
	var b strings.Builder
	for {
		text, call, again := p.step(last)
		if text != "" {
			b.WriteString(text)
		}
		if call != nil {
			p.calls++
			calls = append(calls, *call)
			if p.one {
				p.state, p.held = closed, ""
			}
		}
		if !again {
			return b.String(), calls
		}
	}
}

// step decides on the next stretch of held; again is false if more is needed.
func (p *Parser) step(last bool) (show string, call *Call, again bool) {
	switch p.state {
	case plain:
		show, p.held = p.held, ""
		return show, nil, false
	case closed:
		p.held = ""
		return "", nil, false
	case seeking:
		return p.seek(last)
	case opened:
		return p.open(last)
	case afterHermes:
		body := strings.TrimLeft(p.held, space)
		rest, found := strings.CutPrefix(body, hermesClose)
		if !found && !last && strings.HasPrefix(hermesClose, body) {
			return "", nil, false
		}
		p.state = seeking
		if found {
			p.held = rest
		}
		return "", nil, true
	}
	return p.inside(last)
}

func (p *Parser) mark() string {
	switch p.form {
	case Llama3:
		return pythonTag
	case Mistral:
		return mistralMark
	}
	return hermesOpen
}

const space = " \t\r\n"

func (p *Parser) seek(last bool) (show string, call *Call, again bool) {
	if p.form == Llama3 {
		return p.seekObject(last)
	}
	mark := p.mark()
	if i := strings.Index(p.held, mark); i >= 0 {
		show = strings.TrimRight(p.held[:i], space)
		p.lead = p.held[len(show) : i+len(mark)]
		p.held, p.state, p.list = p.held[i+len(mark):], opened, false
		return show, nil, true
	}
	if last {
		show, p.held = p.held, ""
		if p.calls > 0 && strings.Trim(show, space) == "" {
			show = ""
		}
		return show, nil, false
	}
	keep := len(p.held) - len(strings.TrimRight(p.held, space))
	for n := min(len(mark)-1, len(p.held)); n > 0; n-- {
		if strings.HasSuffix(p.held, mark[:n]) {
			before := p.held[:len(p.held)-n]
			keep = max(keep, len(p.held)-len(strings.TrimRight(before, space)))
			break
		}
	}
	show, p.held = p.held[:len(p.held)-keep], p.held[len(p.held)-keep:]
	return show, nil, false
}

// seekObject is seek for Llama 3: an object counts where the message begins, or
// the rest of it after a call.
func (p *Parser) seekObject(last bool) (show string, call *Call, again bool) {
	body := strings.TrimLeft(p.held, space)
	if p.calls > 0 {
		body = strings.TrimLeft(strings.TrimPrefix(body, ";"), space)
	}
	switch {
	case strings.HasPrefix(body, "{"):
		p.begin(p.held[:len(p.held)-len(body)], body)
		return "", nil, true
	case strings.HasPrefix(body, pythonTag):
		n := len(p.held) - len(body) + len(pythonTag)
		p.lead, p.held, p.state = p.held[:n], p.held[n:], opened
		return "", nil, true
	case !last && strings.HasPrefix(pythonTag, body):
		return "", nil, false
	case body == "" && p.calls > 0:
		p.held = ""
		return "", nil, false
	}
	p.state = plain
	return "", nil, true
}

// begin enters an object that begins at body, which follows lead.
func (p *Parser) begin(lead, body string) {
	p.state, p.held, p.at, p.scan = object, lead+body, len(lead), scanner{}
}

// open looks at what follows a mark, or a call in a list.
func (p *Parser) open(last bool) (show string, call *Call, again bool) {
	body := strings.TrimLeft(p.held, space)
	if p.list {
		body = strings.TrimLeft(strings.TrimPrefix(body, ","), space)
	}
	switch {
	case strings.HasPrefix(body, "{"):
		p.name = ""
		p.begin(p.held[:len(p.held)-len(body)], body)
		return "", nil, true
	case body == "":
		if last {
			p.state = seeking
			return p.release(), nil, false
		}
		return show, nil, false
	case p.form == Mistral && p.list && body[0] == ']':
		p.state, p.held, p.list = seeking, body[1:], false
		return "", nil, true
	case p.form == Mistral && !p.list && body[0] == '[':
		p.lead += p.held[:len(p.held)-len(body)+1]
		p.list, p.held = true, body[1:]
		return "", nil, true
	case p.form == Mistral && !p.list:
		// name[ARGS]{…} or name{…}
		end := strings.IndexAny(body, "{[")
		if end < 0 && !last && len(body) <= 128 {
			return "", nil, false
		}
		if end > 0 {
			rest := body[end:]
			if len(rest) < len(mistralArgs) && strings.HasPrefix(mistralArgs, rest) && !last {
				return "", nil, false
			}
			rest = strings.TrimLeft(strings.TrimPrefix(rest, mistralArgs), space)
			if rest == "" && !last {
				return "", nil, false
			}
			if name := strings.TrimSpace(body[:end]); strings.HasPrefix(rest, "{") && slices.Contains(p.names, name) {
				p.name = name
				p.begin(body[:len(body)-len(rest)], rest)
				return "", nil, true
			}
		}
	}
	// Not a call: the mark was text after all.
	p.state, p.list = seeking, false
	show, p.lead = p.lead, ""
	return show, nil, true
}

// inside goes on with an object.
func (p *Parser) inside(last bool) (show string, call *Call, again bool) {
	n, ended := p.scan.feed(p.held[p.at:])
	p.at += n
	if !ended {
		if !last && p.at <= maxCall {
			return "", nil, false
		}
		return p.release(), nil, true
	}
	raw := p.held[:p.at]
	raw = raw[strings.IndexByte(raw, '{'):]
	c := p.read(raw)
	if c == nil {
		return p.release(), nil, true
	}
	p.lead, p.held = "", p.held[p.at:]
	p.state = seeking
	switch {
	case p.list:
		p.state = opened
	case p.form == Hermes:
		// The closing tag is left out, and a missing one forgiven.
		p.state = afterHermes
	}
	return "", c, true
}

// release gives up an object: it is text.
func (p *Parser) release() string {
	text := p.lead + p.held
	p.lead, p.held, p.list, p.state = "", "", false, seeking
	if p.form == Llama3 {
		p.state = plain
	}
	return text
}

// read makes a call of an object, nil if it is none.
func (p *Parser) read(raw string) *Call {
	if p.name != "" {
		if !json.Valid([]byte(raw)) {
			return nil
		}
		return &Call{p.name, raw}
	}
	var o struct {
		Name       string          `json:"name"`
		Arguments  json.RawMessage `json:"arguments"`
		Parameters json.RawMessage `json:"parameters"`
	}
	if json.Unmarshal([]byte(raw), &o) != nil || !slices.Contains(p.names, o.Name) {
		return nil
	}
	args := o.Arguments
	if args == nil {
		args = o.Parameters
	}
	text := string(args)
	var quoted string
	if json.Unmarshal(args, &quoted) == nil && quoted != "" && json.Valid([]byte(quoted)) {
		text = quoted
	}
	text = strings.TrimSpace(text)
	if text == "" || text == "null" {
		text = "{}"
	}
	if text[0] != '{' {
		return nil
	}
	return &Call{o.Name, text}
}

// scanner finds the end of a JSON object, right if the object is valid.
type scanner struct {
	depth  int
	quoted bool
	escape bool
}

// feed returns how many bytes of s belong to the object and whether it has ended.
func (s *scanner) feed(text string) (n int, ended bool) {
	for i := range len(text) {
		c := text[i]
		switch {
		case s.escape:
			s.escape = false
		case s.quoted:
			s.escape = c == '\\'
			s.quoted = c != '"'
		case c == '"':
			s.quoted = true
		case c == '{' || c == '[':
			s.depth++
		case c == '}' || c == ']':
			if s.depth--; s.depth <= 0 {
				return i + 1, true
			}
		}
	}
	return len(text), false
}
