package constrain

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math/big"
	"net/mail"
	"net/netip"
	"net/url"
	"reflect"
	"regexp"
	"strings"
	"time"
	"unicode/utf8"
)

// This file is JSON Schema by the book, slow and over whole values. It knows
// nothing of automata and nothing of the package's tighter readings.

// decode parses one JSON document with exact numbers.
func decode(text []byte) (any, error) {
	if !utf8.Valid(text) {
		return nil, fmt.Errorf("not UTF-8")
	}
	dec := json.NewDecoder(bytes.NewReader(text))
	dec.UseNumber()
	var v any
	if err := dec.Decode(&v); err != nil {
		return nil, err
	}
	if dec.More() {
		return nil, fmt.Errorf("more than one value")
	}
	return v, nil
}

// valid tells whether v satisfies schema s of the document root.
func valid(root, s, v any) bool {
	if b, ok := s.(bool); ok {
		return b
	}
	m := s.(map[string]any)
	for key, arg := range m {
		if !validKeyword(root, m, key, arg, v) {
			return false
		}
	}
	return true
}

func validKeyword(root any, m map[string]any, key string, arg, v any) bool {
	obj, isObj := v.(map[string]any)
	arr, isArr := v.([]any)
	str, isStr := v.(string)
	num, isNum := v.(json.Number)
	switch key {
	case "type":
		list, ok := arg.([]any)
		if !ok {
			list = []any{arg}
		}
		if m["nullable"] == true && v == nil {
			return true
		}
		for _, t := range list {
			if hasType(t.(string), v) {
				return true
			}
		}
		return false
	case "enum":
		for _, e := range arg.([]any) {
			if same(e, v) {
				return true
			}
		}
		return false
	case "const":
		return same(arg, v)
	case "properties":
		for name, sub := range arg.(map[string]any) {
			if x, ok := obj[name]; ok && !valid(root, sub, x) {
				return false
			}
		}
	case "required":
		for _, name := range arg.([]any) {
			if _, ok := obj[name.(string)]; isObj && !ok {
				return false
			}
		}
	case "additionalProperties":
		props, _ := m["properties"].(map[string]any)
		for name, x := range obj {
			if _, ok := props[name]; !ok && !valid(root, arg, x) {
				return false
			}
		}
	case "items", "prefixItems":
		prefix, _ := m["prefixItems"].([]any)
		for i, x := range arr {
			if key == "items" && i >= len(prefix) && !valid(root, arg, x) ||
				key == "prefixItems" && i < len(prefix) && !valid(root, prefix[i], x) {
				return false
			}
		}
	case "minItems":
		return !isArr || int64(len(arr)) >= integer(arg)
	case "maxItems":
		return !isArr || int64(len(arr)) <= integer(arg)
	case "minLength":
		return !isStr || int64(len([]rune(str))) >= integer(arg)
	case "maxLength":
		return !isStr || int64(len([]rune(str))) <= integer(arg)
	case "pattern":
		return !isStr || regexp.MustCompile(arg.(string)).MatchString(str)
	case "format":
		return !isStr || validFormat(arg.(string), str)
	case "minimum":
		return !isNum || rat(num).Cmp(rat(arg)) >= 0
	case "exclusiveMinimum":
		return !isNum || rat(num).Cmp(rat(arg)) > 0
	case "maximum":
		return !isNum || rat(num).Cmp(rat(arg)) <= 0
	case "exclusiveMaximum":
		return !isNum || rat(num).Cmp(rat(arg)) < 0
	case "allOf", "anyOf", "oneOf":
		n := 0
		for _, sub := range arg.([]any) {
			if valid(root, sub, v) {
				n++
			}
		}
		return key == "allOf" && n == len(arg.([]any)) || key == "anyOf" && n > 0 || key == "oneOf" && n == 1
	case "$ref":
		at := root
		for _, tok := range strings.Split(strings.TrimPrefix(arg.(string), "#"), "/") {
			if tok != "" {
				at = at.(map[string]any)[tok]
			}
		}
		return valid(root, at, v)
	case "nullable", "title", "description", "default", "$defs", "definitions", "examples", "$schema":
	default:
		panic("reference validator: keyword " + key)
	}
	return true
}

func hasType(t string, v any) bool {
	switch x := v.(type) {
	case nil:
		return t == "null"
	case bool:
		return t == "boolean"
	case string:
		return t == "string"
	case []any:
		return t == "array"
	case map[string]any:
		return t == "object"
	default:
		return t == "number" || t == "integer" && rat(x).IsInt()
	}
}

func rat(v any) *big.Rat {
	r, ok := new(big.Rat).SetString(v.(json.Number).String())
	if !ok {
		panic("reference validator: number " + v.(json.Number).String())
	}
	return r
}

func integer(v any) int64 { return rat(v).Num().Int64() }

func same(a, b any) bool {
	if x, ok := a.(json.Number); ok {
		y, ok := b.(json.Number)
		return ok && rat(x).Cmp(rat(y)) == 0
	}
	switch x := a.(type) {
	case []any:
		y, ok := b.([]any)
		if !ok || len(x) != len(y) {
			return false
		}
		for i := range x {
			if !same(x[i], y[i]) {
				return false
			}
		}
		return true
	case map[string]any:
		y, ok := b.(map[string]any)
		if !ok || len(x) != len(y) {
			return false
		}
		for k := range x {
			if e, ok := y[k]; !ok || !same(x[k], e) {
				return false
			}
		}
		return true
	}
	return reflect.DeepEqual(a, b)
}

func validFormat(format, s string) bool {
	var err error
	switch format {
	case "date":
		_, err = time.Parse("2006-01-02", s)
	case "time":
		_, err = time.Parse("15:04:05Z07:00", s)
	case "date-time":
		_, err = time.Parse(time.RFC3339Nano, s)
	case "uuid":
		return regexp.MustCompile(`^[[:xdigit:]]{8}-[[:xdigit:]]{4}-[[:xdigit:]]{4}-[[:xdigit:]]{4}-[[:xdigit:]]{12}$`).MatchString(s)
	case "email":
		_, err = mail.ParseAddress(s)
	case "ipv4":
		var a netip.Addr
		a, err = netip.ParseAddr(s)
		return err == nil && a.Is4()
	case "uri":
		var u *url.URL
		u, err = url.Parse(s)
		return err == nil && u.Scheme != ""
	case "hostname":
		for _, label := range strings.Split(s, ".") {
			if len(label) == 0 || len(label) > 63 || strings.Trim(label, "-") != label {
				return false
			}
		}
	default:
		panic("reference validator: format " + format)
	}
	return err == nil
}
