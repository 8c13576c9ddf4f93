package constrain

import (
	"fmt"
	"net/url"
	"strconv"
	"strings"
)

// Error says what in a schema cannot be honoured.
type Error struct {
	Pointer string // JSON pointer of the subschema as a URI fragment: "#/properties/a"
	Keyword string // empty if the subschema as a whole is meant
	Reason  string
}

func (e *Error) Error() string {
	if e.Keyword == "" {
		return fmt.Sprintf("compile schema: %s: %s", shorten(e.Pointer), shorten(e.Reason))
	}
	return fmt.Sprintf("compile schema: %s: %s: %s", shorten(e.Pointer), e.Keyword, shorten(e.Reason))
}

// shorten takes the middle out of a text that is too long for a message:
// schemas have keys and patterns of any length.
func shorten(s string) string {
	const most = 400
	if len(s) <= most {
		return s
	}
	return strings.ToValidUTF8(s[:most/2], "") + " … " + strings.ToValidUTF8(s[len(s)-most/2:], "")
}

// types is a set of JSON types; "number" is both typeInteger and typeFraction.
type types uint8

const (
	typeNull types = 1 << iota
	typeBool
	typeInteger
	typeFraction
	typeString
	typeArray
	typeObject

	typeNumber = typeInteger | typeFraction
	typeAny    = 1<<7 - 1
)

var typeNames = []struct {
	name string
	mask types
}{
	{"null", typeNull}, {"boolean", typeBool}, {"integer", typeInteger}, {"number", typeNumber},
	{"string", typeString}, {"array", typeArray}, {"object", typeObject},
}

// typeOf returns the type of a value; a number without fractional part is an integer.
func typeOf(v *value) (types, error) {
	switch v.kind {
	case kindNull:
		return typeNull, nil
	case kindBool:
		return typeBool, nil
	case kindString:
		return typeString, nil
	case kindArray:
		return typeArray, nil
	case kindObject:
		return typeObject, nil
	}
	d, err := parseDecimal(v.text)
	if err != nil || !d.isInteger() {
		return typeFraction, err
	}
	return typeInteger, nil
}

// schemaNode is one subschema with its keywords read. Members that are schemas
// themselves are read when they are reached.
type schemaNode struct {
	id      int
	pointer string
	value   *value
	loaded  bool // the fields below are filled in
	never   bool // the schema false

	types   types // 0 if the keyword is absent
	speaks  types // types that its other keywords are about
	members []member

	properties []property
	index      map[string]int // of properties by name
	required   []string
	additional *schemaNode // nil if absent

	items              *schemaNode
	prefix             []*schemaNode
	minItems, maxItems int // maxItems -1: none

	minLength, maxLength int // maxLength -1: none
	patterns             []string

	low, high *limit

	enum    []*value
	hasEnum bool
}

type property struct {
	name   string
	schema *schemaNode
}

// member is an allOf, anyOf, oneOf or $ref in document order.
type member struct {
	keyword string
	schemas []*schemaNode
}

// reader turns values into schemas, each once.
type reader struct {
	root    *value
	schemas map[*value]*schemaNode
	work    *budget
}

func (r *reader) fail(s *schemaNode, keyword, format string, args ...any) error {
	return &Error{s.pointer, keyword, fmt.Sprintf(format, args...)}
}

// at returns the schema of v, not yet read.
func (r *reader) at(v *value, pointer string) *schemaNode {
	s, ok := r.schemas[v]
	if !ok {
		s = &schemaNode{id: len(r.schemas), pointer: pointer, value: v}
		r.schemas[v] = s
	}
	return s
}

// escapePointer quotes one token of a JSON pointer.
func escapePointer(s string) string {
	return strings.NewReplacer("~", "~0", "/", "~1").Replace(s)
}

// resolve finds the value a reference into this document points to.
func (r *reader) resolve(ref string) (*value, error) {
	if ref != "#" && !strings.HasPrefix(ref, "#/") {
		return nil, fmt.Errorf("%.80q is not a JSON pointer into this document", ref)
	}
	path, err := url.PathUnescape(ref[1:])
	if err != nil {
		return nil, err
	}
	v := r.root
	if path == "" {
		return v, nil
	}
	for _, tok := range strings.Split(path[1:], "/") {
		tok = strings.NewReplacer("~1", "/", "~0", "~").Replace(tok)
		var next *value
		if v.kind == kindObject {
			next = v.get(tok)
		} else if v.kind == kindArray {
			if i, err := strconv.Atoi(tok); err == nil && i >= 0 && i < len(v.elems) {
				next = v.elems[i]
			}
		}
		if next == nil {
			return nil, fmt.Errorf("%.80q leads nowhere", ref)
		}
		v = next
	}
	return v, nil
}

// load reads the keywords of s unless that is done.
func (r *reader) load(s *schemaNode) error {
	if s.loaded {
		return nil
	}
	s.loaded = true
	s.maxItems, s.maxLength = -1, -1
	v := s.value
	if v.kind == kindBool {
		s.never = !v.truth
		return nil
	}
	if v.kind != kindObject {
		return r.fail(s, "", "a schema is an object or a boolean, not %s", kindNames[v.kind])
	}
	for i, key := range v.keys {
		if err := r.keyword(s, key, v.elems[i]); err != nil {
			return err
		}
	}
	if n := v.get("nullable"); n != nil && n.truth {
		if s.types == 0 {
			return r.fail(s, "nullable", "needs type beside it; or say anyOf with null")
		}
		s.types |= typeNull
	}
	return nil
}

func (r *reader) keyword(s *schemaNode, key string, v *value) error {
	var err error
	wrap := func(err error) error {
		if err == nil {
			return nil
		}
		return r.fail(s, key, "%v", err)
	}
	child := func(v *value, path ...string) *schemaNode {
		p := s.pointer + "/" + key
		for _, t := range path {
			p += "/" + escapePointer(t)
		}
		return r.at(v, p)
	}
	children := func() ([]*schemaNode, error) {
		if v.kind != kindArray {
			return nil, r.fail(s, key, "wants an array of schemas, not %s", kindNames[v.kind])
		}
		out := make([]*schemaNode, len(v.elems))
		for i, e := range v.elems {
			out[i] = child(e, strconv.Itoa(i))
		}
		return out, nil
	}
	bound := func(dst **limit, open bool, pick func(l, m *limit) *limit) error {
		s.speaks |= typeNumber
		if v.kind != kindNumber {
			return r.fail(s, key, "wants a number, not %s", kindNames[v.kind])
		}
		l, err := newLimit(v.text, open)
		if err == nil {
			*dst = pick(*dst, l)
		}
		return wrap(err)
	}
	switch key {
	case "title", "description", "default", "examples", "$schema", "$id", "$comment",
		"deprecated", "readOnly", "writeOnly": // say nothing about values
	case "$defs", "definitions": // read where they are referred to
		if v.kind != kindObject {
			return r.fail(s, key, "wants an object, not %s", kindNames[v.kind])
		}
	case "type":
		s.types, err = readTypes(v)
		return wrap(err)
	case "nullable":
		if v.kind != kindBool {
			return r.fail(s, key, "wants a boolean, not %s", kindNames[v.kind])
		}
	case "enum":
		if v.kind != kindArray {
			return r.fail(s, key, "wants an array, not %s", kindNames[v.kind])
		}
		return wrap(s.restrict(v.elems))
	case "const":
		return wrap(s.restrict([]*value{v}))
	case "properties":
		s.speaks |= typeObject
		if v.kind != kindObject {
			return r.fail(s, key, "wants an object, not %s", kindNames[v.kind])
		}
		s.index = map[string]int{}
		for i, name := range v.keys {
			s.index[name] = i
			s.properties = append(s.properties, property{name, child(v.elems[i], name)})
		}
	case "required":
		s.speaks |= typeObject
		if v.kind != kindArray {
			return r.fail(s, key, "wants an array of strings, not %s", kindNames[v.kind])
		}
		for _, e := range v.elems {
			if e.kind != kindString {
				return r.fail(s, key, "wants strings, not %s", kindNames[e.kind])
			}
			s.required = append(s.required, e.text)
		}
	case "additionalProperties":
		s.speaks |= typeObject
		s.additional = child(v)
	case "items":
		s.speaks |= typeArray
		if v.kind == kindArray {
			return r.fail(s, key, "an array of schemas is draft 7; say prefixItems")
		}
		s.items = child(v)
	case "prefixItems":
		s.speaks |= typeArray
		s.prefix, err = children()
		return err
	case "minItems":
		s.speaks |= typeArray
		s.minItems, err = readCount(v)
		return wrap(err)
	case "maxItems":
		s.speaks |= typeArray
		s.maxItems, err = readCount(v)
		return wrap(err)
	case "uniqueItems":
		s.speaks |= typeArray
		if v.kind != kindBool || v.truth {
			return r.fail(s, key, "only false is supported")
		}
	case "minLength":
		s.speaks |= typeString
		s.minLength, err = readCount(v)
		return wrap(err)
	case "maxLength":
		s.speaks |= typeString
		s.maxLength, err = readCount(v)
		return wrap(err)
	case "pattern":
		s.speaks |= typeString
		if v.kind != kindString {
			return r.fail(s, key, "wants a string, not %s", kindNames[v.kind])
		}
		s.patterns = append(s.patterns, v.text)
	case "format":
		s.speaks |= typeString
		p, ok := formatPattern(v.text)
		if v.kind != kindString || !ok {
			return r.fail(s, key, "%.40q is not supported", v.text)
		}
		s.patterns = append(s.patterns, p)
	case "minimum":
		return bound(&s.low, false, above)
	case "exclusiveMinimum":
		return bound(&s.low, true, above)
	case "maximum":
		return bound(&s.high, false, below)
	case "exclusiveMaximum":
		return bound(&s.high, true, below)
	case "allOf", "anyOf", "oneOf":
		list, err := children()
		if err != nil {
			return err
		}
		if len(list) == 0 {
			return r.fail(s, key, "is empty")
		}
		s.members = append(s.members, member{key, list})
	case "$ref":
		if v.kind != kindString {
			return r.fail(s, key, "wants a string, not %s", kindNames[v.kind])
		}
		target, err := r.resolve(v.text)
		if err != nil {
			return wrap(err)
		}
		s.members = append(s.members, member{key, []*schemaNode{r.at(target, v.text)}})
	default:
		return r.fail(s, key, "keyword is not supported")
	}
	return nil
}

// restrict narrows s to the given values.
func (s *schemaNode) restrict(list []*value) error {
	if s.hasEnum {
		var err error
		s.enum, err = common(s.enum, list)
		return err
	}
	s.enum, s.hasEnum = list, true
	return nil
}

// common returns the values of a that are also in b, in the order of a and
// each once.
func common(a, b []*value) ([]*value, error) {
	in := map[string]bool{}
	for _, v := range b {
		c, err := v.canon()
		if err != nil {
			return nil, err
		}
		in[c] = true
	}
	var out []*value
	for _, v := range a {
		c, err := v.canon()
		if err != nil {
			return nil, err
		}
		if in[c] {
			out = append(out, v)
			in[c] = false
		}
	}
	return out, nil
}

func readTypes(v *value) (types, error) {
	list := []*value{v}
	if v.kind == kindArray {
		list = v.elems
	}
	var out types
	for _, e := range list {
		var mask types
		for _, t := range typeNames {
			if e.kind == kindString && e.text == t.name {
				mask = t.mask
			}
		}
		if mask == 0 {
			return 0, fmt.Errorf("unknown type %.40q", e.text)
		}
		out |= mask
	}
	if out == 0 {
		return 0, fmt.Errorf("is empty")
	}
	return out, nil
}

// readCount reads a number of characters or items.
func readCount(v *value) (int, error) {
	if v.kind != kindNumber {
		return 0, fmt.Errorf("wants a number, not %s", kindNames[v.kind])
	}
	d, err := parseDecimal(v.text)
	if err != nil {
		return 0, err
	}
	if d.neg || !d.isInteger() || len(d.digits)+d.exp > 10 {
		return 0, fmt.Errorf("%.40s is not a whole number up to %d", v.text, maxCount)
	}
	n, err := strconv.Atoi(d.digits + strings.Repeat("0", d.exp))
	if d.digits == "" {
		return 0, nil
	}
	if err != nil || n > maxCount {
		return 0, fmt.Errorf("%.40s is above %d", v.text, maxCount)
	}
	return n, nil
}

const maxCount = 1<<31 - 2
