package node

import (
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strings"

	"github.com/geistnet/geist/ghost"
	"github.com/geistnet/geist/internal/market"
	"github.com/geistnet/geist/internal/nostr"
	"github.com/geistnet/geist/internal/pay"
)

// Config is everything that a node can be told. Its JSON form is the
// configuration file; unknown members there are errors.
type Config struct {
	// Dir is where the node keeps its key, money, receipts and events.
	Dir string `json:"dir"`
	// Listen is the address of the API and the page.
	Listen string `json:"listen"`
	// Keys that clients must show; needed if Listen is not on loopback.
	Keys []string `json:"keys,omitempty"`
	// Origins of web pages that may use the API.
	Origins []string `json:"origins,omitempty"`
	// Aliases are names that clients of this node's API may use for models, for
	// those that have a name built in: from the alias to the model's name.
	Aliases map[string]string `json:"aliases,omitempty"`

	// Provide is the address where jobs are taken and the relay is; "": none are.
	Provide string `json:"provide"`
	// Endpoint is how others reach it; "": http:// and Provide.
	Endpoint string `json:"endpoint,omitempty"`
	// Relay tells whether a relay is at Provide.
	Relay bool `json:"relay"`
	// Relays are others, ws:// or wss://.
	Relays []string `json:"relays,omitempty"`

	Models []Offer `json:"models,omitempty"`

	// Credit is what a key that this node does not know may owe it; Trust says
	// more of some. Debt is what this node may owe any other.
	Credit pay.MilliSat            `json:"credit_msat"`
	Trust  map[string]pay.MilliSat `json:"trust_msat,omitempty"`
	Debt   pay.MilliSat            `json:"debt_msat"`
	// JobsPerClient is how many jobs one client may have here, waiting and running;
	// JobsWaiting how many of all may wait for a place. More are refused for now.
	JobsPerClient int `json:"jobs_per_client"`
	JobsWaiting   int `json:"jobs_waiting"`
	// Spend is the most that one request may cost.
	Spend pay.MilliSat `json:"spend_msat"`
	// Verify is how answers are checked if a request does not say.
	Verify string `json:"verify"`
	// Follows are keys whose reviews count, npub1… or hex.
	Follows []string `json:"follows,omitempty"`

	LogLevel  string `json:"log_level"`
	LogFormat string `json:"log_format"` // "text", "json", or "": text on a terminal
}

// Offer is a model to serve.
type Offer struct {
	// Model is a name in the store, a hash, a path, "tales" for the built-in
	// model, or with Upstream the name there.
	Model string `json:"model"`
	Name  string `json:"name,omitempty"` // that it is offered by; "": what the file says
	// Upstream is the base URL of an OpenAI-compatible server that runs it:
	// reputation only.
	Upstream    string       `json:"upstream,omitempty"`
	UpstreamKey string       `json:"upstream_key,omitempty"`
	Prompt      market.Price `json:"price_prompt"` // msat for a million tokens
	Answer      market.Price `json:"price_answer"`
	Sessions    int          `json:"sessions,omitempty"`
	Context     int          `json:"context,omitempty"`
	Threads     int          `json:"threads,omitempty"`
}

// maxJobs bounds the jobs that may be here at once: each that waits takes some
// hundred kilobytes.
const maxJobs = 1 << 16

// Ports of a node, beside Ollama's 11434.
const (
	DefaultListen  = "127.0.0.1:11435"
	DefaultProvide = "127.0.0.1:11436"
)

// Default is a node that asks, provides nothing yet, and stays on this machine.
func Default(dir string) Config {
	return Config{Dir: dir, Listen: DefaultListen, Provide: DefaultProvide, Relay: true,
		Credit: 1_000_000, Debt: 10_000_000, JobsPerClient: 8, JobsWaiting: 64, Spend: 1_000_000, Verify: "audit", LogLevel: "info"}
}

// DefaultDir is where a node keeps its state: GEIST_HOME, else the user's data
// directory.
func DefaultDir() (string, error) {
	if d := os.Getenv("GEIST_HOME"); d != "" {
		return filepath.Join(d, "node"), nil
	}
	if d := os.Getenv("XDG_DATA_HOME"); d != "" && filepath.IsAbs(d) {
		return filepath.Join(d, "geist", "node"), nil
	}
	home, err := os.UserHomeDir()
	if err != nil {
		return "", fmt.Errorf("find a place for the node's state: %w; set GEIST_HOME", err)
	}
	return filepath.Join(home, ".local", "share", "geist", "node"), nil
}

// Check reports in what c contradicts itself, or what would be unsafe.
func (c *Config) Check() error {
	if c.Dir == "" {
		return errors.New("there is no directory for the node's state")
	}
	loopback, err := isLoopback(c.Listen)
	if err != nil {
		return fmt.Errorf("listen: %w", err)
	}
	if !loopback && len(c.Keys) == 0 {
		return fmt.Errorf("listen: %s can be reached by others; demand keys (--key), or listen on 127.0.0.1", c.Listen)
	}
	for _, k := range c.Keys {
		if len(k) < 16 {
			return errors.New("keys: a key has fewer than 16 characters; \"openssl rand -hex 16\" makes a good one")
		}
	}
	for alias, name := range c.Aliases {
		if _, again := c.Aliases[name]; again || alias == "" || name == "" || strings.Contains(alias+name, "@") {
			return fmt.Errorf("aliases: %q=%q; an alias and the name of a model are wanted, both without @", alias, name)
		}
	}
	for _, o := range c.Origins {
		if u, err := url.Parse(o); o != "*" && (err != nil || u.Scheme == "" || u.Host == "" || u.Path != "" || u.RawQuery != "" || u.Fragment != "") {
			return fmt.Errorf("origins: %q is no origin such as https://chat.example, and not *", o)
		}
	}
	for _, s := range c.Follows {
		if _, err := nostr.ParsePublic(s); err != nil {
			return fmt.Errorf("follows: %w", err)
		}
	}
	if _, err := c.trusted(); err != nil {
		return err
	}
	if c.Provide != "" {
		loopback, err := isLoopback(c.Provide)
		if err != nil {
			return fmt.Errorf("provide: %w", err)
		}
		if !loopback && c.Endpoint == "" {
			host, _, _ := net.SplitHostPort(c.Provide)
			if ip := net.ParseIP(host); host == "" || ip != nil && ip.IsUnspecified() {
				return fmt.Errorf("provide: %s says not how others reach this machine; give its URL (--endpoint)", c.Provide)
			}
		}
	}
	if c.Endpoint != "" {
		u, err := url.Parse(c.Endpoint)
		if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" {
			return fmt.Errorf("endpoint: %q is no http or https URL", c.Endpoint)
		}
	}
	if len(c.Models) > 0 && c.Provide == "" {
		return errors.New("models are served, and there is no address where jobs are taken (--provide)")
	}
	for _, r := range c.Relays {
		u, err := url.Parse(r)
		if err != nil || u.Scheme != "ws" && u.Scheme != "wss" || u.Host == "" {
			return fmt.Errorf("relays: %q is no ws or wss URL", r)
		}
	}
	for i := range c.Models {
		m := &c.Models[i]
		if m.Model == "" {
			return errors.New("models: a model without a name")
		}
		if u, err := url.Parse(m.Upstream); m.Upstream != "" && (err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "") {
			return fmt.Errorf("models: the upstream %q of %s is no http or https URL", m.Upstream, m.Model)
		}
		if m.Prompt < 0 || m.Answer < 0 {
			return fmt.Errorf("models: %s has a negative price", m.Model)
		}
		if m.Sessions < 0 || m.Sessions > 1024 || m.Context < 0 || m.Threads < 0 || m.Threads > 1024 {
			return fmt.Errorf("models: %s has sessions, a context or threads that are out of range", m.Model)
		}
	}
	switch c.Verify {
	case "none", "receipt", "audit", "replicate":
	default:
		return fmt.Errorf("verify: %q is none of none, receipt, audit and replicate", c.Verify)
	}
	for _, v := range []struct {
		name string
		msat pay.MilliSat
	}{{"credit_msat", c.Credit}, {"debt_msat", c.Debt}, {"spend_msat", c.Spend}} {
		if !v.msat.Valid() {
			return fmt.Errorf("%s: %d is no amount", v.name, v.msat)
		}
	}
	for _, v := range []struct {
		name string
		n    int
	}{{"jobs_per_client", c.JobsPerClient}, {"jobs_waiting", c.JobsWaiting}} {
		if v.n < 1 || v.n > maxJobs {
			return fmt.Errorf("%s: %d; 1 to %d are possible", v.name, v.n, maxJobs)
		}
	}
	switch strings.ToLower(c.LogLevel) {
	case "debug", "info", "warn", "error":
	default:
		return fmt.Errorf("log_level: %q is none of debug, info, warn and error", c.LogLevel)
	}
	switch c.LogFormat {
	case "", "text", "json":
	default:
		return fmt.Errorf("log_format: %q is neither text nor json", c.LogFormat)
	}
	return nil
}

// trusted is Trust by key. A key may be written as npub1… and in hex, but once.
func (c *Config) trusted() (map[ghost.Key]pay.MilliSat, error) {
	out := map[ghost.Key]pay.MilliSat{}
	for s, m := range c.Trust {
		k, err := nostr.ParsePublic(s)
		if err != nil {
			return nil, fmt.Errorf("trust_msat: %w", err)
		}
		if !m.Valid() {
			return nil, fmt.Errorf("trust_msat: %d for %s is no amount", m, s)
		}
		if _, again := out[k]; again {
			return nil, fmt.Errorf("trust_msat: %s stands there twice, as npub1… and in hex", nostr.PublicText(k))
		}
		out[k] = m
	}
	return out, nil
}

// isLoopback tells whether an address can be reached from this machine only.
func isLoopback(addr string) (bool, error) {
	host, _, err := net.SplitHostPort(addr)
	if err != nil {
		return false, fmt.Errorf("%q is no address such as 127.0.0.1:11435: %w", addr, err)
	}
	if host == "localhost" {
		return true, nil
	}
	ip := net.ParseIP(host)
	if host != "" && ip == nil {
		return false, fmt.Errorf("%q: give the address of an interface, not a name", addr)
	}
	return ip != nil && ip.IsLoopback(), nil
}
