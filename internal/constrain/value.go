package constrain

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"
)

// Limits on a schema document.
const (
	maxSchemaBytes = 1 << 20
	maxSchemaDepth = 128
)

type kind uint8

const (
	kindNull kind = iota
	kindBool
	kindNumber
	kindString
	kindArray
	kindObject
)

var kindNames = [...]string{"null", "a boolean", "a number", "a string", "an array", "an object"}

// value is a JSON value that keeps the order of its keys and the spelling of
// its numbers.
type value struct {
	kind  kind
	truth bool
	text  string   // string contents or the number as written
	keys  []string // object: keys in document order, no duplicates
	elems []*value // array elements or the values that belong to keys
}

// get returns the value under key, or nil.
func (v *value) get(key string) *value {
	if i := slices.Index(v.keys, key); i >= 0 {
		return v.elems[i]
	}
	return nil
}

// parseValue reads one JSON document. It refuses invalid UTF-8, duplicate keys
// and documents beyond the limits.
func parseValue(text []byte) (*value, error) {
	if len(text) > maxSchemaBytes {
		return nil, fmt.Errorf("read schema: %d bytes, limit %d", len(text), maxSchemaBytes)
	}
	if !utf8.Valid(text) {
		return nil, fmt.Errorf("read schema: not UTF-8")
	}
	var raw json.RawMessage
	if err := json.Unmarshal(text, &raw); err != nil {
		return nil, fmt.Errorf("read schema: %w", err)
	}
	dec := json.NewDecoder(bytes.NewReader(text))
	dec.UseNumber()
	return parseNext(dec, 0)
}

func parseNext(dec *json.Decoder, depth int) (*value, error) {
	if depth > maxSchemaDepth {
		return nil, fmt.Errorf("read schema: nested deeper than %d at offset %d", maxSchemaDepth, dec.InputOffset())
	}
	tok, err := dec.Token()
	if err != nil {
		return nil, fmt.Errorf("read schema: %w", err)
	}
	switch t := tok.(type) {
	case nil:
		return &value{kind: kindNull}, nil
	case bool:
		return &value{kind: kindBool, truth: t}, nil
	case json.Number:
		return &value{kind: kindNumber, text: t.String()}, nil
	case string:
		return &value{kind: kindString, text: t}, nil
	}
	v := &value{kind: kindArray}
	seen := map[string]bool{}
	if tok == json.Delim('{') {
		v.kind = kindObject
	}
	for dec.More() {
		if v.kind == kindObject {
			k, err := dec.Token()
			if err != nil {
				return nil, fmt.Errorf("read schema: %w", err)
			}
			key := k.(string) // an object's key is a string or Token has failed
			if seen[key] {
				return nil, fmt.Errorf("read schema: key %q twice in one object at offset %d", shorten(key), dec.InputOffset())
			}
			seen[key] = true
			v.keys = append(v.keys, key)
		}
		e, err := parseNext(dec, depth+1)
		if err != nil {
			return nil, err
		}
		v.elems = append(v.elems, e)
	}
	if _, err := dec.Token(); err != nil {
		return nil, fmt.Errorf("read schema: %w", err)
	}
	return v, nil
}

// canon spells v so that two values are equal in the sense of JSON Schema
// exactly if their spellings are: keys sorted, numbers by their value.
func (v *value) canon() (string, error) {
	var b strings.Builder
	err := v.writeCanon(&b)
	return b.String(), err
}

func (v *value) writeCanon(b *strings.Builder) error {
	switch v.kind {
	case kindNull:
		b.WriteString("null")
	case kindBool:
		b.WriteString(strconv.FormatBool(v.truth))
	case kindNumber:
		d, err := parseDecimal(v.text)
		if err != nil {
			return err
		}
		b.WriteString(d.canon())
	case kindString:
		b.WriteString(strconv.Quote(v.text))
	case kindArray:
		b.WriteByte('[')
		for _, e := range v.elems {
			if err := e.writeCanon(b); err != nil {
				return err
			}
			b.WriteByte(',')
		}
		b.WriteByte(']')
	case kindObject:
		b.WriteByte('{')
		order := make([]int, len(v.keys))
		for i := range order {
			order[i] = i
		}
		slices.SortFunc(order, func(x, y int) int { return strings.Compare(v.keys[x], v.keys[y]) })
		for _, i := range order {
			b.WriteString(strconv.Quote(v.keys[i]))
			b.WriteByte(':')
			if err := v.elems[i].writeCanon(b); err != nil {
				return err
			}
			b.WriteByte(',')
		}
		b.WriteByte('}')
	}
	return nil
}

// appendSpelled appends the contents of a JSON string in the package's one
// spelling, without the quotes.
func appendSpelled(dst []byte, s string) []byte {
	for _, r := range s {
		dst = append(dst, spell(r)...)
	}
	return dst
}

// spell returns the canonical JSON spelling of one character.
func spell(r rune) []byte {
	switch r {
	case '"':
		return []byte(`\"`)
	case '\\':
		return []byte(`\\`)
	case '\b':
		return []byte(`\b`)
	case '\f':
		return []byte(`\f`)
	case '\n':
		return []byte(`\n`)
	case '\r':
		return []byte(`\r`)
	case '\t':
		return []byte(`\t`)
	}
	if r < 0x20 {
		return fmt.Appendf(nil, `\u%04x`, r)
	}
	return utf8.AppendRune(nil, r)
}
