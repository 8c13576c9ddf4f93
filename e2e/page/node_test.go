// Package page uses the page of a node in a browser, as a person would.
package page

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/geistnet/geist/ghost"
	"github.com/geistnet/geist/internal/author"
	"github.com/geistnet/geist/internal/gguf"
	"github.com/geistnet/geist/internal/market"
	"github.com/geistnet/geist/internal/node"
	"github.com/geistnet/geist/internal/synth"
	"github.com/geistnet/geist/internal/web"
)

const template = `{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}<assistant>`

// models are what the nodes of a test can open: weights that mean nothing, by
// the width of their hidden layer.
var models = map[string]int{"tiny": 96, "small": 160}

// model writes the file of a small model with a chat template.
func model(name string) (*gguf.File, error) {
	width, ok := models[name]
	if !ok {
		return nil, fmt.Errorf("no model is called %q", name)
	}
	spec := synth.Presets["tiny"]
	spec.Type, spec.FF = "q8_0", width
	var b, out bytes.Buffer
	if err := synth.Write(&b, spec, nil); err != nil {
		return nil, err
	}
	f, err := gguf.Parse(name, b.Bytes())
	if err != nil {
		return nil, err
	}
	var infos []gguf.TensorInfo
	for _, x := range f.Tensors() {
		infos = append(infos, x.Info())
	}
	w, err := gguf.NewWriter(&out, append(f.Meta(), gguf.KV{Key: "tokenizer.chat_template", Value: gguf.ValueOf(template)}), infos)
	if err != nil {
		return nil, err
	}
	for _, x := range f.Tensors() {
		err = errors.Join(err, w.WriteTensor(x.Data))
	}
	if err := errors.Join(err, w.Close()); err != nil {
		return nil, err
	}
	return gguf.Parse(name, out.Bytes())
}

func open(ctx context.Context, name string) (*node.Opened, error) {
	f, err := model(name)
	if err != nil {
		return nil, err
	}
	g, err := author.Build(ctx, f, author.Options{Workers: 1}, nil)
	if err != nil {
		return nil, err
	}
	return &node.Opened{File: f, Ghost: g, Name: name, Quantisation: "q8_0"}, nil
}

// start runs a node that is closed with the test.
func start(t *testing.T, key byte, change func(*node.Config)) *node.Node {
	t.Helper()
	c := node.Default(filepath.Join(t.TempDir(), "node"))
	c.Listen, c.Provide = "127.0.0.1:0", "127.0.0.1:0"
	change(&c)
	var secret ghost.Secret
	secret[0], secret[31] = 1, key
	parts := node.Parts{Secret: secret, Version: "test", Open: open, Page: web.Handler("test"), Installed: func() []string { return []string{"small", "tiny"} }}
	if testing.Verbose() {
		parts.Log = slog.New(slog.NewTextHandler(testWriter{t}, nil))
	}
	n, err := node.Start(t.Context(), c, parts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := n.Close(); err != nil {
			t.Error(err)
		}
	})
	return n
}

type testWriter struct{ t *testing.T }

func (w testWriter) Write(b []byte) (int, error) {
	w.t.Log(strings.TrimSpace(string(b)))
	return len(b), nil
}

// town is a node to look at and two more that offer the same model, one for
// less, the other by way of somebody else's server.
func town(t *testing.T) *node.Node {
	t.Helper()
	first := start(t, 1, func(c *node.Config) {
		c.Models = []node.Offer{{Model: "tiny", Prompt: 1_000_000, Answer: 2_000_000}}
	})
	start(t, 2, func(c *node.Config) {
		c.Relay, c.Relays = false, []string{first.RelayURL()}
		c.Models = []node.Offer{{Model: "tiny", Prompt: 800_000, Answer: 1_600_000}}
	})
	start(t, 3, func(c *node.Config) {
		c.Relay, c.Relays = false, []string{first.RelayURL()}
		c.Models = []node.Offer{{Model: "tiny", Name: "elsewhere", Upstream: first.URL(), Prompt: 100_000, Answer: market.Price(300_000)}}
	})
	for deadline := time.Now().Add(30 * time.Second); len(first.Status().Models) < 2; time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("the first node knows only %v", first.Status().Models)
		}
	}
	return first
}
