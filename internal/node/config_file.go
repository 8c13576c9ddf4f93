package node

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strconv"
	"strings"
)

// maxConfig is the most bytes of a configuration file.
const maxConfig = 1 << 20

// Origins tells where the values of a Config come from, by their names in the
// file. A name that is missing has its default.
type Origins map[string]string

// Of is the origin of a value for people: "default", "file PATH",
// "environment GEIST_LISTEN", "flag --listen".
func (o Origins) Of(name string) string {
	if s := o[name]; s != "" {
		return s
	}
	return "default"
}

// Setting is one value of a configuration, fit to be shown: secrets are masked.
type Setting struct {
	Name   string `json:"name"`
	Value  any    `json:"value"`
	Origin string `json:"origin"`
	Env    string `json:"env,omitempty"` // the variable that can hold it
}

// ConfigPath is where the configuration file is if nobody names another:
// GEIST_CONFIG, else config.json in GEIST_HOME, else geist/config.json in the
// XDG configuration directory. named tells that GEIST_CONFIG says so, and then it must exist.
func ConfigPath(getenv func(string) string) (path string, named bool, err error) {
	if p := getenv("GEIST_CONFIG"); p != "" {
		return p, true, nil
	}
	if home := getenv("GEIST_HOME"); home != "" {
		p, err := filepath.Abs(filepath.Join(home, "config.json"))
		return p, false, err
	}
	if d := getenv("XDG_CONFIG_HOME"); filepath.IsAbs(d) {
		return filepath.Join(d, "geist", "config.json"), false, nil
	}
	home := getenv("HOME")
	if home == "" {
		home = getenv("USERPROFILE")
	}
	if home == "" {
		return "", false, errors.New("neither GEIST_CONFIG, GEIST_HOME nor HOME is set; set GEIST_CONFIG to the configuration file")
	}
	return filepath.Join(home, ".config", "geist", "config.json"), false, nil
}

// ReadFile puts the values of a configuration file over those of c, and notes
// them in from. The file is JSON that may have comments from // to the end of
// the line and commas after the last element. A member that is not known is an error.
func (c *Config) ReadFile(path string, from Origins) error {
	f, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("read the configuration: %w", err)
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxConfig+1))
	if err != nil {
		return fmt.Errorf("read the configuration: %w", err)
	}
	if len(b) > maxConfig {
		return fmt.Errorf("the configuration %s has more than %d bytes", path, maxConfig)
	}
	names, err := c.decode(b)
	if err != nil {
		return fmt.Errorf("the configuration %s: %w", path, err)
	}
	for _, n := range names {
		from[n] = "file " + path
	}
	return nil
}

// ReadFileIfThere is ReadFile, and a file that does not exist changes nothing.
func (c *Config) ReadFileIfThere(path string, from Origins) error {
	if _, err := os.Stat(path); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return c.ReadFile(path, from)
}

// decode reads the text of a configuration over c and gives the names of the
// members that are in it, in the order of Config.
func (c *Config) decode(text []byte) ([]string, error) {
	b := plainJSON(text)
	var members map[string]json.RawMessage
	if err := json.Unmarshal(b, &members); err != nil {
		return nil, explainJSON(text, err)
	}
	known := configNames()
	for name, v := range members {
		if !slices.Contains(known, name) {
			return nil, fmt.Errorf("unknown member %q; there are %s", name, strings.Join(known, ", "))
		}
		if string(v) == "null" {
			return nil, fmt.Errorf("%s: null is no value; leave the member out", name)
		}
	}
	next := *c
	next.Trust, next.Models, next.Aliases = nil, nil, nil // never write into what c shares
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	if err := d.Decode(&next); err != nil {
		return nil, explainJSON(text, err)
	}
	if members["trust_msat"] == nil {
		next.Trust = c.Trust
	}
	if members["models"] == nil {
		next.Models = c.Models
	}
	if members["aliases"] == nil {
		next.Aliases = c.Aliases
	}
	if members["dir"] != nil && next.Dir != "" && !filepath.IsAbs(next.Dir) {
		return nil, fmt.Errorf("dir: %q is not absolute, and a file does not know where you are", next.Dir)
	}
	*c = next
	return slices.DeleteFunc(known, func(n string) bool { return members[n] == nil }), nil
}

// explainJSON gives an error of encoding/json its place in the text.
func explainJSON(text []byte, err error) error {
	var syntax *json.SyntaxError
	var kind *json.UnmarshalTypeError
	var at int64
	switch {
	case errors.As(err, &syntax):
		at = syntax.Offset
	case errors.As(err, &kind):
		if kind.Field == "" {
			return fmt.Errorf("there is a JSON %s where an object { … } belongs", kind.Value)
		}
		line, column := place(text, kind.Offset)
		return fmt.Errorf("line %d, column %d: %s is a JSON %s and should be %s", line, column, kind.Field, kind.Value, jsonKind(kind.Type))
	default:
		return errors.New(strings.TrimPrefix(err.Error(), "json: "))
	}
	line, column := place(text, at)
	return fmt.Errorf("line %d, column %d: %s", line, column, strings.TrimPrefix(err.Error(), "json: "))
}

func place(text []byte, offset int64) (line, column int) {
	before := text[:min(max(offset-1, 0), int64(len(text)))]
	return bytes.Count(before, []byte("\n")) + 1, len(before) - bytes.LastIndexByte(before, '\n')
}

func jsonKind(t reflect.Type) string {
	switch t.Kind() {
	case reflect.String:
		return "a string"
	case reflect.Bool:
		return "true or false"
	case reflect.Slice:
		return "a list"
	case reflect.Map, reflect.Struct:
		return "an object"
	}
	return "a whole number"
}

// plainJSON turns comments and commas before a closing bracket into spaces, so
// that all else keeps its place.
func plainJSON(text []byte) []byte {
	b := bytes.Clone(text)
	comma := -1 // of a comma after which nothing has come yet
	for i := 0; i < len(b); i++ {
		switch c := b[i]; {
		case c == '"':
			for i++; i < len(b) && b[i] != '"' && b[i] != '\n'; i++ {
				if b[i] == '\\' {
					i++
				}
			}
			comma = -1
		case c == '/' && i+1 < len(b) && b[i+1] == '/':
			for ; i < len(b) && b[i] != '\n'; i++ {
				b[i] = ' '
			}
		case c == ',':
			comma = i
		case c == ']' || c == '}':
			if comma >= 0 {
				b[comma] = ' '
			}
			comma = -1
		case c != ' ' && c != '\t' && c != '\r' && c != '\n':
			comma = -1
		}
	}
	return b
}

// configNames are the names of all members, in the order of Config.
func configNames() []string {
	t := reflect.TypeFor[Config]()
	names := make([]string, t.NumField())
	for i := range names {
		names[i], _, _ = strings.Cut(t.Field(i).Tag.Get("json"), ",")
	}
	return names
}

// envName is the variable for a member; "": there is none.
func envName(name string) string {
	if name == "models" || name == "trust_msat" || name == "aliases" {
		return ""
	}
	return "GEIST_" + strings.ToUpper(name)
}

// ReadEnv puts the values of the environment over those of c, and notes them in
// from. Lists have commas or spaces between their elements; a variable that is
// empty counts as not set.
func (c *Config) ReadEnv(getenv func(string) string, from Origins) error {
	v := reflect.ValueOf(c).Elem()
	for i, name := range configNames() {
		env := envName(name)
		if env == "" {
			continue
		}
		text := getenv(env)
		if text == "" {
			continue
		}
		switch f := v.Field(i); f.Kind() {
		case reflect.String:
			f.SetString(text)
		case reflect.Bool:
			b, err := strconv.ParseBool(text)
			if err != nil {
				return fmt.Errorf("%s: %q is neither true nor false", env, text)
			}
			f.SetBool(b)
		case reflect.Int, reflect.Int64:
			n, err := strconv.ParseInt(text, 10, 64)
			if err != nil {
				return fmt.Errorf("%s: %q is no whole number", env, text)
			}
			f.SetInt(n)
		case reflect.Slice:
			f.Set(reflect.ValueOf(strings.FieldsFunc(text, func(r rune) bool { return r == ',' || r == ' ' || r == '\n' })))
		default:
			panic("node: internal error: no way to read " + env)
		}
		from[name] = "environment " + env
	}
	return nil
}

// Settings lists all values with where they come from. Keys are masked.
func (c *Config) Settings(from Origins) []Setting {
	shown := *c
	shown.Keys = nil
	for range c.Keys {
		shown.Keys = append(shown.Keys, masked)
	}
	shown.Models = slices.Clone(c.Models)
	for i := range shown.Models {
		if shown.Models[i].UpstreamKey != "" {
			shown.Models[i].UpstreamKey = masked
		}
	}
	v := reflect.ValueOf(shown)
	var out []Setting
	for i, name := range configNames() {
		value := v.Field(i).Interface()
		if f := v.Field(i); f.Kind() == reflect.Slice && f.IsNil() {
			value = []string{}
		} else if f.Kind() == reflect.Map && f.IsNil() {
			value = struct{}{}
		}
		out = append(out, Setting{Name: name, Value: value, Origin: from.Of(name), Env: envName(name)})
	}
	return out
}

// masked is what is shown of a secret.
const masked = "(hidden)"
