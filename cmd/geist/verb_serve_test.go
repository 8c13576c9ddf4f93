package main

import (
	"bytes"
	"context"
	"path/filepath"
	"strings"
	"testing"

	"github.com/geistnet/geist/internal/console"
	"github.com/geistnet/geist/internal/node"
	"github.com/geistnet/geist/internal/tales"
)

// TestSayReach: serve says how other machines ask only where they can.
func TestSayReach(t *testing.T) {
	for _, c := range []struct {
		name   string
		change func(*node.Config)
		want   []string
		not    string
	}{
		{"loopback", func(*node.Config) {}, []string{"Only this machine reaches http://127.0.0.1:", "--provide ", "Ask from this machine, as another user: ", "--relay ws://127.0.0.1:", "--model tales"}, "another machine"},
		{"loopback, told to others", func(c *node.Config) { c.Relays = []string{"ws://127.0.0.1:1/relay"} }, []string{"Only this machine reaches http://127.0.0.1:"}, "another machine"},
		{"behind a proxy", func(c *node.Config) { c.Endpoint = "https://far.example/" }, []string{"Ask from another machine: geist chat --relay wss://far.example/relay --model tales"}, "Only"},
		{"a public relay", func(c *node.Config) {
			c.Endpoint, c.Relays = "http://192.0.2.7:11436", []string{"ws://127.0.0.1:1/relay"}
		}, []string{"Ask from another machine: geist chat --relay ws://127.0.0.1:1/relay"}, "Only"},
		{"no relay", func(c *node.Config) { c.Endpoint, c.Relay = "http://192.0.2.7:11436", false }, []string{"No relay knows of it: give --relay"}, "Ask from"},
	} {
		t.Run(c.name, func(t *testing.T) {
			e, out, _ := command(t)
			e.err = console.Out{W: &bytes.Buffer{}}
			cfg := node.Default(filepath.Join(t.TempDir(), "node"))
			cfg.Listen, cfg.Provide, cfg.LogLevel = "127.0.0.1:0", "127.0.0.1:0", "error"
			cfg.Models = []node.Offer{{Model: tales.Name}}
			c.change(&cfg)
			n, err := e.startNode(context.Background(), cfg)
			if err != nil {
				t.Fatal(err)
			}
			defer n.Close()
			e.sayReach(n, cfg.Relays)
			for _, w := range c.want {
				if !strings.Contains(out.String(), w) {
					t.Errorf("no %q in\n%s", w, out)
				}
			}
			if strings.Contains(out.String(), c.not) {
				t.Errorf("%q in\n%s", c.not, out)
			}
		})
	}
}
