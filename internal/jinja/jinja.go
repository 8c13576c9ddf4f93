// Package jinja renders the Jinja template language as chat templates of
// language models use it: one file, no inheritance, no autoescaping, blocks
// trimmed as Hugging Face sets them (trim_blocks and lstrip_blocks on).
//
// The language is that of https://jinja.palletsprojects.com/en/3.1.x/templates/
// with the loopcontrols extension and a generation tag that only renders its
// body. Values print, compare and convert as Python's do, since templates rely
// on it: 1.0 prints as 1.0, a list as its repr, None as None. The tojson filter
// is json.dumps without ASCII escapes and without HTML escapes.
//
// Differences from Python: integers are 64 bits (an overflow is an error; a
// longer literal in JSON input is kept as text, see [BigInt]), and include,
// import, extends and block are refused, since a chat template is one file.
//
// Templates come from strangers' files: [Limits] bound output, memory, steps
// and nesting, and every failure is an [*Error].
package jinja

import (
	"fmt"
	"strings"
	"time"
)

// Limits bounds what one template may use. A zero field means its default.
type Limits struct {
	Output int // bytes of rendered text and of any one string; default 16 MiB
	Memory int // bytes of strings and containers made during one rendering, garbage included; default 256 MiB
	Steps  int // nodes evaluated plus work in long strings and lists; default 20 million
	Depth  int // nesting of expressions, statements and macro calls; default 1000
}

func (l Limits) withDefaults() Limits {
	set := func(field *int, def int) {
		if *field <= 0 {
			*field = def
		}
	}
	set(&l.Output, 16<<20)
	set(&l.Memory, 256<<20)
	set(&l.Steps, 20_000_000)
	set(&l.Depth, 1000)
	return l
}

// Options are what a rendering depends on besides its variables.
type Options struct {
	// Now is what strftime_now formats. The zero time makes strftime_now an
	// error, so that no rendering depends on a clock by accident.
	Now time.Time
	// AllowMutation lets templates call the methods that change lists and maps
	// (append, update, ...). Hugging Face refuses them; some templates need
	// them. Variables given to Render may then be changed by it.
	AllowMutation bool
	Limits        Limits
}

// Template is a parsed template. It is immutable: any number of goroutines may
// render it.
type Template struct {
	name string
	body []node
}

// Parse reads a template. The name appears in errors only. Every error is an
// *Error of kind SyntaxError.
func Parse(name, source string) (tmpl *Template, err error) {
	defer func() {
		if r := recover(); r != nil {
			err = asError(r, name)
		}
	}()
	if !validUTF8(source) {
		source = strings.ToValidUTF8(source, "\uFFFD")
	}
	p := &parser{tokens: lex(source)}
	body := p.parseTemplate()
	return &Template{name: name, body: body}, nil
}

// Render evaluates the template with the variables vars (nil means none) and
// returns its text. Every error is an *Error. Unless opt.AllowMutation is set,
// vars and what it holds are only read.
func (t *Template) Render(vars *Dict, opt Options) (text string, err error) {
	st := &state{opt: opt, limits: opt.Limits.withDefaults()}
	defer func() {
		if r := recover(); r != nil {
			e := asError(r, t.name)
			if e.Line == 0 {
				e.Line = st.line
			}
			text, err = "", e
		}
	}()
	root := &scope{}
	st.addGlobals(root)
	vars.Range(func(k, v Value) bool {
		if name, ok := k.(string); ok {
			root.set(name, v)
		}
		return true
	})
	var out output
	st.exec(t.body, &scope{parent: root}, &out)
	return out.String(), nil
}

// ErrorKind says what sort of failure an Error is, in the terms of the
// exception that Python would raise.
type ErrorKind string

// The kinds of errors.
const (
	SyntaxError    ErrorKind = "SyntaxError"    // the template is not Jinja, or uses a part that is not supported
	RaisedError    ErrorKind = "TemplateError"  // the template called raise_exception: it refuses its input
	UndefinedError ErrorKind = "UndefinedError" // an undefined value was used
	TypeError      ErrorKind = "TypeError"      // an operation met a value of the wrong type
	ValueError     ErrorKind = "ValueError"     // a value of the right type was out of range
	RuntimeError   ErrorKind = "RuntimeError"   // anything else that goes wrong while rendering
	SecurityError  ErrorKind = "SecurityError"  // a refused method or attribute
	LimitError     ErrorKind = "LimitError"     // Limits were exceeded
)

// Error is a failure of parsing or rendering. Kind and Message are for callers
// that branch on the cause: Message of a RaisedError is the template's own
// text, and of the others what Python says where that is known.
type Error struct {
	Template string
	Line     int // 1-based; 0 where unknown
	Kind     ErrorKind
	Message  string
}

func (e *Error) Error() string {
	var hint string
	switch e.Kind {
	case SyntaxError:
		hint = "the template cannot be used as it is; give another one"
	case RaisedError:
		hint = "the template refuses this conversation; change its messages or use another template"
	case UndefinedError, TypeError, ValueError, RuntimeError:
		hint = "the template does not fit these messages; check roles, contents and tool calls, or use another template"
	case SecurityError:
		hint = "the template changes its input; allow mutation or use another template"
	case LimitError:
		hint = "shorten the conversation, or raise the limits if the template is trusted"
	}
	return fmt.Sprintf("template %q line %d: %s: %s (%s)", e.Template, e.Line, e.Kind, e.Message, hint)
}

// Errors travel inside the package as panics with an *Error, since almost
// every operation of the language can fail; Parse and Render turn them back.
// Any other panic is our own bug and goes on.
func asError(r any, template string) *Error {
	e, ok := r.(*Error)
	if !ok {
		panic(r)
	}
	e.Template = template
	return e
}

func fail(kind ErrorKind, format string, args ...any) {
	panic(&Error{Kind: kind, Message: fmt.Sprintf(format, args...)})
}

func failAt(line int, kind ErrorKind, format string, args ...any) {
	panic(&Error{Line: line, Kind: kind, Message: fmt.Sprintf(format, args...)})
}

func typeError(format string, args ...any) { fail(TypeError, format, args...) }
