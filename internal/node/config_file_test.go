package node

import (
	"encoding/json"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
)

func noEnv(string) string { return "" }

func write0(t *testing.T, text string) string {
	t.Helper()
	p := filepath.Join(t.TempDir(), "config.json")
	if err := os.WriteFile(p, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return p
}

// TestConfigOrder: a file is over the defaults and the environment over a file,
// and each value says where it is from.
func TestConfigOrder(t *testing.T) {
	c, from := Default("/state"), Origins{}
	path := write0(t, `{
	// where clients ask
	"listen": "127.0.0.1:5000", // not "127.0.0.1:1"
	"relays": ["wss://a.example", "wss://b.example",],
	"verify": "receipt",
	"trust_msat": {"npub1x": 7,},
	"models": [{"model": "tales", "price_prompt": 1000000}],
}
`)
	if err := c.ReadFile(path, from); err != nil {
		t.Fatal(err)
	}
	env := map[string]string{"GEIST_VERIFY": "none", "GEIST_KEYS": "aaaaaaaaaaaaaaaa,bbbbbbbbbbbbbbbb", "GEIST_SPEND_MSAT": "12", "GEIST_RELAY": "false", "GEIST_PROVIDE": ""}
	if err := c.ReadEnv(func(k string) string { return env[k] }, from); err != nil {
		t.Fatal(err)
	}
	want := Default("/state")
	want.Listen, want.Relays, want.Verify, want.Spend, want.Relay = "127.0.0.1:5000", []string{"wss://a.example", "wss://b.example"}, "none", 12, false
	want.Keys, want.Trust = []string{"aaaaaaaaaaaaaaaa", "bbbbbbbbbbbbbbbb"}, c.Trust
	want.Models = []Offer{{Model: "tales", Prompt: 1_000_000}}
	if !reflect.DeepEqual(c, want) || c.Trust["npub1x"] != 7 {
		t.Errorf("the configuration is %+v, want %+v", c, want)
	}
	for name, origin := range map[string]string{"listen": "file " + path, "verify": "environment GEIST_VERIFY", "provide": "default", "relay": "environment GEIST_RELAY", "models": "file " + path} {
		if got := from.Of(name); got != origin {
			t.Errorf("%s is from %q, want %q", name, got, origin)
		}
	}
}

// TestConfigEnvAll: each member but the two that are no single value has a
// variable that is read.
func TestConfigEnvAll(t *testing.T) {
	plain := Default("/state")
	for _, s := range plain.Settings(nil) {
		if s.Env == "" {
			continue
		}
		c, from := Default("/state"), Origins{}
		var text string
		switch s.Value.(type) {
		case bool:
			text = "false"
		case []string:
			text = "x y"
		case string:
			text = "something"
		default:
			text = "4711"
		}
		if err := c.ReadEnv(func(k string) string {
			if k == s.Env {
				return text
			}
			return ""
		}, from); err != nil {
			t.Errorf("%s: %v", s.Env, err)
		}
		if len(from) != 1 || from[s.Name] == "" || reflect.DeepEqual(c, Default("/state")) {
			t.Errorf("%s=%s changed nothing, or more: %v", s.Env, text, from)
		}
	}
	for env, text := range map[string]string{"GEIST_RELAY": "perhaps", "GEIST_DEBT_MSAT": "1.5"} {
		c := Default("/state")
		if err := c.ReadEnv(func(k string) string { return map[string]string{env: text}[k] }, Origins{}); err == nil || !strings.HasPrefix(err.Error(), env) {
			t.Errorf("%s=%s: %v", env, text, err)
		}
	}
}

// TestConfigRefused: what is wrong in a file is said with its place, and the
// configuration stays as it was.
func TestConfigRefused(t *testing.T) {
	for text, want := range map[string]string{
		`{"lisen": "x"}`:                       `unknown member "lisen"; there are dir, listen,`,
		`{"Listen": "x"}`:                      `unknown member "Listen"`,
		`{"models": [{"modle": "x"}]}`:         `unknown field "modle"`,
		"{\n  \"listen\": 5\n}":                "line 2, column 13: listen is a JSON number and should be a string",
		"{\n  \"listen\" \"x\"\n}":             "line 2, column 12: invalid character",
		`{"spend_msat": 1.5}`:                  "spend_msat is a JSON number 1.5 and should be a whole number",
		`{"relay": null}`:                      "relay: null is no value",
		`{"dir": "here"}`:                      `"here" is not absolute`,
		`[]`:                                   "an object",
		``:                                     "unexpected end",
		`{} {}`:                                "invalid character",
		`{"verify": "none", "trust_msat": []}`: "should be an object",
		strings.Repeat(" ", maxConfig) + "{}":  "more than",
	} {
		c, from := Default("/state"), Origins{}
		err := c.ReadFile(write0(t, text), from)
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%.40q: %v, want %q", text, err, want)
		}
		if len(from) > 0 || !reflect.DeepEqual(c, Default("/state")) {
			t.Errorf("%.40q changed the configuration", text)
		}
	}
	c := Default("/state")
	missing := filepath.Join(t.TempDir(), "none.json")
	if err := c.ReadFile(missing, Origins{}); err == nil {
		t.Error("a file that is not there was read")
	}
	if err := c.ReadFileIfThere(missing, Origins{}); err != nil {
		t.Error(err)
	}
}

// TestConfigMasked: no secret is in what is shown.
func TestConfigMasked(t *testing.T) {
	c := Default("/state")
	c.Keys = []string{"sesame-sesame-sesame"}
	c.Models = []Offer{{Model: "m", Upstream: "http://x", UpstreamKey: "sk-sesame"}}
	b, err := json.Marshal(c.Settings(Origins{}))
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(b), "sesame") || strings.Count(string(b), masked) != 2 {
		t.Errorf("shown: %s", b)
	}
	if c.Keys[0] != "sesame-sesame-sesame" || c.Models[0].UpstreamKey != "sk-sesame" {
		t.Error("the configuration itself was masked")
	}
}

func TestConfigPath(t *testing.T) {
	for _, x := range []struct {
		env   map[string]string
		want  string
		named bool
	}{
		{map[string]string{"GEIST_CONFIG": "/etc/geist/config.json", "GEIST_HOME": "/h"}, "/etc/geist/config.json", true},
		{map[string]string{"GEIST_HOME": "/h", "XDG_CONFIG_HOME": "/x"}, "/h/config.json", false},
		{map[string]string{"XDG_CONFIG_HOME": "/x", "HOME": "/u"}, "/x/geist/config.json", false},
		{map[string]string{"XDG_CONFIG_HOME": "x", "HOME": "/u"}, "/u/.config/geist/config.json", false},
	} {
		got, named, err := ConfigPath(func(k string) string { return x.env[k] })
		if filepath.ToSlash(got) != x.want || named != x.named || err != nil {
			t.Errorf("%v: %s, %v, %v", x.env, got, named, err)
		}
	}
	if _, _, err := ConfigPath(noEnv); err == nil {
		t.Error("a path without any home")
	}
}

// FuzzConfig: no text makes a panic, comments move nothing, and what is read is
// read again as the same.
func FuzzConfig(f *testing.F) {
	f.Add([]byte(`{"listen": "127.0.0.1:1", /`))
	f.Add([]byte("{\"keys\": [\"a//b\", \"c\\\"//\",], // x\n \"credit_msat\": 5}"))
	f.Add([]byte(`{"models": [{"model": "m", "price_answer": 5,}], "trust_msat": {"a": 1}}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		if p := plainJSON(text); len(p) != len(text) {
			t.Fatalf("%d bytes became %d", len(text), len(p))
		}
		c := Config{}
		if _, err := c.decode(text); err != nil {
			return
		}
		b, err := json.Marshal(c)
		if err != nil {
			t.Fatal(err)
		}
		var again Config
		if err := json.Unmarshal(b, &again); err != nil {
			t.Fatal(err)
		}
		if b2, _ := json.Marshal(again); string(b2) != string(b) {
			t.Fatalf("%s became %s", b, b2)
		}
	})
}

// TestConfigDocs: the example in docs/operations.md is a configuration.
func TestConfigDocs(t *testing.T) {
	b, err := os.ReadFile("../../docs/operations.md")
	if err != nil {
		t.Fatal(err)
	}
	_, text, ok := strings.Cut(string(b), "```\n{")
	text, _, closed := strings.Cut(text, "```")
	if !ok || !closed {
		t.Fatal("docs/operations.md has no example of a configuration")
	}
	c := Default("/state")
	names, err := c.decode([]byte("{" + text))
	if err != nil || len(names) < 5 {
		t.Fatalf("%d values, %v", len(names), err)
	}
	if err := c.Check(); err != nil {
		t.Error(err)
	}
}
