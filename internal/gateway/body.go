package gateway

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/geistnet/geist/internal/dialog"
)

// Bounds on the structure of a body, looked at before it is decoded, since a
// few bytes of JSON can become many of memory.
const (
	maxDepth  = 128
	maxValues = 1 << 20
)

// read reads the body into v.
func (c *call) read(v any) error {
	rc := http.NewResponseController(c.w)
	if err := rc.SetReadDeadline(time.Now().Add(c.g.opt.ReadTimeout)); err != nil && !errors.Is(err, http.ErrNotSupported) {
		return err
	}
	b, err := io.ReadAll(http.MaxBytesReader(c.w, c.r.Body, c.g.opt.MaxBody))
	switch {
	case errors.Is(err, os.ErrDeadlineExceeded):
		return &httpError{http.StatusRequestTimeout, "timeout", fmt.Sprintf("the body did not arrive within %v", c.g.opt.ReadTimeout)}
	case err != nil:
		return err
	}
	// The connection is watched for its end while the answer is made.
	if err := rc.SetReadDeadline(time.Time{}); err != nil && !errors.Is(err, http.ErrNotSupported) {
		return err
	}
	if len(bytes.TrimSpace(b)) == 0 {
		return dialog.Errorf(dialog.Invalid, "", "the request has no body; send a JSON object")
	}
	if err := modest(b); err != nil {
		return err
	}
	return decode(b, v)
}

// decode is json.Unmarshal with errors that name the field.
func decode(b []byte, v any) error {
	err := json.Unmarshal(b, v)
	var kind *json.UnmarshalTypeError
	var syntax *json.SyntaxError
	switch {
	case err == nil:
		return nil
	case errors.As(err, &kind):
		field := jsonPath(kind.Field)
		return dialog.Errorf(dialog.Invalid, field, "%s: a JSON %s cannot be here", orElse(field, "the body"), kind.Value)
	case errors.As(err, &syntax):
		return dialog.Errorf(dialog.Invalid, "", "the body is not JSON: %v at byte %d", syntax, syntax.Offset)
	}
	return dialog.Errorf(dialog.Invalid, "", "the body cannot be read: %v", err)
}

// modest refuses JSON of great depth or of very many values. It does not ask
// whether b is JSON.
func modest(b []byte) error {
	depth, values, quoted := 0, 0, false
	for i := 0; i < len(b); i++ {
		if quoted {
			switch b[i] {
			case '\\':
				i++
			case '"':
				quoted = false
			}
			continue
		}
		switch b[i] {
		case '"':
			quoted = true
		case '[', '{':
			depth++
			values++
		case ']', '}':
			depth--
		case ',':
			values++
		}
		if depth > maxDepth {
			return dialog.Errorf(dialog.Invalid, "", "the body is nested deeper than %d", maxDepth)
		}
		if values > maxValues {
			return dialog.Errorf(dialog.Invalid, "", "the body has more than %d values", maxValues)
		}
	}
	return nil
}

// few refuses an array or object with more than most elements, before it is
// decoded.
func few(raw json.RawMessage, param string, most int) error {
	depth, commas, quoted := 0, 0, false
	for i := 0; i < len(raw); i++ {
		switch c := raw[i]; {
		case quoted && c == '\\':
			i++
		case c == '"':
			quoted = !quoted
		case quoted:
		case c == '[' || c == '{':
			depth++
		case c == ']' || c == '}':
			depth--
		case c == ',' && depth == 1:
			commas++
		}
	}
	if commas >= most {
		return dialog.Errorf(dialog.Invalid, param, "%s has %d elements; at most %d are possible", param, commas+1, most)
	}
	return nil
}

// texts reads a string or a list of strings; null is none.
func texts(raw json.RawMessage, param string, most int) ([]string, error) {
	if absent(raw) {
		return nil, nil
	}
	var one string
	if json.Unmarshal(raw, &one) == nil {
		return []string{one}, nil
	}
	var list []string
	if err := json.Unmarshal(raw, &list); err != nil {
		return nil, dialog.Errorf(dialog.Invalid, param, "%s must be a string or a list of strings", param)
	}
	if len(list) > most {
		return nil, dialog.Errorf(dialog.Invalid, param, "%s has %d elements; at most %d are possible", param, len(list), most)
	}
	return list, nil
}

func absent(raw json.RawMessage) bool { return len(raw) == 0 || string(raw) == "null" }

// jsonPath takes the names of embedded structs, which JSON does not have, out of
// the path that encoding/json gives.
func jsonPath(field string) string {
	parts := strings.Split(field, ".")
	return strings.Join(slices.DeleteFunc(parts, func(s string) bool {
		return s == "openAIFields" || s == "ollamaFields" || s == "wish" || s == "sampling"
	}), ".")
}
