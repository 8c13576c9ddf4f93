package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	bolt "go.etcd.io/bbolt/errors"

	"github.com/geistnet/geist/internal/gguf"
	"github.com/geistnet/geist/internal/local"
	"github.com/geistnet/geist/internal/market"
	"github.com/geistnet/geist/internal/node"
	"github.com/geistnet/geist/internal/pay"
	"github.com/geistnet/geist/internal/store"
	"github.com/geistnet/geist/internal/web"
)

// nodeFlags are the flags that up, serve and chat share.
type nodeFlags struct {
	file, dir, listen, provide, endpoint, logLevel, logFormat string
	keys, origins, relays, follows                            []string
	aliases                                                   map[string]string
	spend, credit                                             int64
	verify                                                    string

	flags *pflag.FlagSet
	from  node.Origins // of the values that config gave
}

// add puts the flags on a verb.
func (f *nodeFlags) add(c *cobra.Command) {
	fl := c.Flags()
	f.flags = fl
	fl.StringVar(&f.file, "config", "", "the configuration `file` (default: see geist config path)")
	fl.StringVar(&f.dir, "dir", "", "where the node keeps money, receipts and events (default: node in $GEIST_HOME)")
	fl.StringVar(&f.listen, "listen", node.DefaultListen, "address of the API and the page")
	fl.StringVar(&f.provide, "provide", node.DefaultProvide, "address where jobs are taken and the relay is")
	fl.StringVar(&f.endpoint, "endpoint", "", "URL by which others reach --provide (default: http:// and the address)")
	fl.StringArrayVar(&f.keys, "key", nil, "a key that clients of the API must show; needed beyond loopback (may be given several times)")
	fl.StringArrayVar(&f.origins, "origin", nil, "a web page's origin that may use the API")
	fl.StringToStringVar(&f.aliases, "alias", nil, "another name of a model, for clients that have one built in: gpt-4o=tales")
	fl.StringArrayVar(&f.relays, "relay", nil, "another relay, ws:// or wss://")
	fl.StringArrayVar(&f.follows, "follow", nil, "a key whose reviews of providers count")
	fl.Int64Var(&f.spend, "spend", 1_000_000, "the most that one request may cost, in millisatoshi")
	fl.Int64Var(&f.credit, "credit", 1_000_000, "what a key that nobody knows may owe this node, in millisatoshi")
	fl.StringVar(&f.verify, "verify", "audit", "how answers are checked if a request does not say: none, receipt, audit, replicate")
	fl.StringVar(&f.logLevel, "log-level", "warn", "debug, info, warn or error")
	fl.StringVar(&f.logFormat, "log-format", "", "text or json (default: text on a terminal)")
	completeFlag(c, "verify", []string{"none", "receipt", "audit", "replicate"})
	completeFlag(c, "log-level", []string{"debug", "info", "warn", "error"})
	completeFlag(c, "log-format", []string{"text", "json"})
}

// config is the node that flags, environment and file describe: the first of
// these that says something of a value is heard, and else there is a default.
func (e *env) config(f *nodeFlags) (node.Config, error) {
	models, err := store.DefaultDir(e.getenv)
	if err != nil {
		return node.Config{}, err
	}
	c := node.Default(filepath.Join(filepath.Dir(models), "node"))
	c.LogLevel = "warn"
	f.from = node.Origins{}
	path, named, err := f.file, f.file != "", error(nil)
	if !named {
		if path, named, err = node.ConfigPath(e.getenv); err != nil {
			return node.Config{}, err
		}
	}
	read := c.ReadFileIfThere
	if named {
		read = c.ReadFile
	}
	if err := read(path, f.from); err != nil {
		return node.Config{}, err
	}
	if err := c.ReadEnv(e.getenv, f.from); err != nil {
		return node.Config{}, fmt.Errorf("%w: %w", errUsage, err)
	}
	for _, x := range []struct {
		flag, name string
		set        func()
	}{
		{"dir", "dir", func() { c.Dir = f.dir }},
		{"listen", "listen", func() { c.Listen = f.listen }},
		{"provide", "provide", func() { c.Provide = f.provide }},
		{"endpoint", "endpoint", func() { c.Endpoint = f.endpoint }},
		{"key", "keys", func() { c.Keys = f.keys }},
		{"origin", "origins", func() { c.Origins = f.origins }},
		{"alias", "aliases", func() { c.Aliases = f.aliases }},
		{"relay", "relays", func() { c.Relays = f.relays }},
		{"follow", "follows", func() { c.Follows = f.follows }},
		{"spend", "spend_msat", func() { c.Spend = pay.MilliSat(f.spend) }},
		{"credit", "credit_msat", func() { c.Credit = pay.MilliSat(f.credit) }},
		{"verify", "verify", func() { c.Verify = f.verify }},
		{"log-level", "log_level", func() { c.LogLevel = f.logLevel }},
		{"log-format", "log_format", func() { c.LogFormat = f.logFormat }},
	} {
		if f.flags.Changed(x.flag) {
			x.set()
			f.from[x.name] = "flag --" + x.flag
		}
	}
	return c, nil
}

// logger writes a node's log to standard error: text on a terminal, else JSON.
func (e *env) logger(c *node.Config) *slog.Logger {
	var level slog.Level
	if level.UnmarshalText([]byte(c.LogLevel)) != nil {
		level = slog.LevelInfo
	}
	o := &slog.HandlerOptions{Level: level}
	if c.LogFormat == "text" || c.LogFormat == "" && e.err.Terminal {
		return slog.New(slog.NewTextHandler(e.err.W, o))
	}
	return slog.New(slog.NewJSONHandler(e.err.W, o))
}

// parts is what a node of this user is made with.
func (e *env) parts(c *node.Config) (node.Parts, error) {
	secret, err := e.nodeKey()
	if err != nil {
		return node.Parts{}, err
	}
	p := e.progress()
	shown := false
	begin := e.now()
	return node.Parts{
		Secret: secret, Version: buildVersion().Version, Log: e.logger(c), Now: e.now, Page: web.Handler(buildVersion().Version),
		Open:      e.openServed,
		Installed: e.installed,
		Loading: func(name string, done, total int64) {
			shown = shown || e.err.Terminal && e.now().Sub(begin).Seconds() > 0.5
			if shown {
				p.Update("load "+name, done, total)
				if done >= total {
					p.End()
				}
			}
		},
	}, nil
}

// installed are the names of models that can be served.
func (e *env) installed() []string {
	s, err := e.store()
	if err != nil {
		return []string{builtIn}
	}
	models, err := s.List()
	if err != nil {
		return []string{builtIn}
	}
	var names []string
	for _, m := range withBuiltIn(models) {
		names = append(names, m.Name)
	}
	return names
}

// openServed opens a model by name with its Ghost file.
func (e *env) openServed(ctx context.Context, ref string) (*node.Opened, error) {
	f, stored, err := e.openModel(ref)
	if err != nil {
		return nil, err
	}
	long, err := local.Long(f, local.Options{})
	if err != nil {
		return nil, errors.Join(hint(err), f.Close())
	}
	g, err := e.ghostOf(ctx, f, stored, long)
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	name := g.Name
	if stored != nil {
		name = stored.Name
	}
	if name == "" {
		name = strings.TrimSuffix(ref[strings.LastIndexAny(ref, `/\`)+1:], ".gguf")
	}
	return &node.Opened{File: f, Ghost: g, Name: name, Quantisation: quantisation(f)}, nil
}

// quantisation is the format that most weights of a file have, such as "q8_0".
func quantisation(f *gguf.File) string {
	bytes := map[string]int{}
	best := ""
	for _, t := range f.Tensors() {
		k := strings.ToLower(t.Format.String())
		bytes[k] += len(t.Data)
		if best == "" || bytes[k] > bytes[best] {
			best = k
		}
	}
	return best
}

// prices reads what --price gives: one number for both kinds of tokens, or two
// with a comma between, in millisatoshi for a token.
func prices(s string) (prompt, answer market.Price, err error) {
	a, b, two := strings.Cut(s, ",")
	if prompt, err = market.ParsePrice(strings.TrimSpace(a)); err != nil {
		return 0, 0, fmt.Errorf("%w: --price: %w", errUsage, err)
	}
	if !two {
		return prompt, prompt, nil
	}
	if answer, err = market.ParsePrice(strings.TrimSpace(b)); err != nil {
		return 0, 0, fmt.Errorf("%w: --price: %w", errUsage, err)
	}
	return prompt, answer, nil
}

// startNode starts a node. Errors say what to do.
func (e *env) startNode(ctx context.Context, c node.Config) (*node.Node, error) {
	p, err := e.parts(&c)
	if err != nil {
		return nil, err
	}
	n, err := node.Start(ctx, c, p)
	if errors.Is(err, pay.ErrHeld) || errors.Is(err, bolt.ErrTimeout) { // of the journals, of the relay's events
		err = fmt.Errorf("%w; a geist is running with the same state: ask that one (geist chat, its page or its API) or end it, or set GEIST_HOME to another directory, which makes another node", err)
	}
	return n, err
}

// waitFor returns when ctx ends or the node fails. A service manager that wants
// to know is told that the node is ready, and that it stops.
func (e *env) waitFor(ctx context.Context, n *node.Node) error {
	if err := e.notify("READY=1"); err != nil {
		return err
	}
	defer func() { _ = e.notify("STOPPING=1") }() // it stops all the same
	select {
	case <-ctx.Done():
		return nil
	case err := <-n.Failed():
		return err
	}
}

// sats writes an amount for people.
func sats(msat int64) string {
	if msat < 1000 {
		return fmt.Sprintf("%d msat", msat)
	}
	return pay.MilliSat(msat).String()
}

// rss is the memory of this process in bytes; 0: unknown.
func rss() int64 {
	b, err := os.ReadFile("/proc/self/statm")
	if err != nil {
		return 0
	}
	var size, resident int64
	if _, err := fmt.Sscan(string(b), &size, &resident); err != nil {
		return 0
	}
	return resident * int64(os.Getpagesize())
}
