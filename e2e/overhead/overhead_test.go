// Package overhead measures what stands between a client and the first token of
// an answer: the engine alone, an order by package asker (signatures, journals,
// credit and HTTP between asker and provider), and the gateway before that. All
// three are asked in turn, in one process, so that a busy machine harms all alike.
package overhead

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/geistnet/geist/arith"
	"github.com/geistnet/geist/ghost"
	"github.com/geistnet/geist/internal/author"
	"github.com/geistnet/geist/internal/chat"
	"github.com/geistnet/geist/internal/dialog"
	"github.com/geistnet/geist/internal/engine"
	"github.com/geistnet/geist/internal/kernel"
	"github.com/geistnet/geist/internal/local"
	"github.com/geistnet/geist/internal/node"
	"github.com/geistnet/geist/internal/tales"
)

const question = "Tell me a story about a goose."

// TestOverhead measures GEIST_OVERHEAD requests each way, else a few, and holds
// that each way answers.
func TestOverhead(t *testing.T) {
	count := 5
	if s := os.Getenv("GEIST_OVERHEAD"); s != "" {
		n, err := strconv.Atoi(s)
		if err != nil || n < 1 {
			t.Fatalf("GEIST_OVERHEAD=%q is no number", s)
		}
		count = n
	}
	c := node.Default(filepath.Join(t.TempDir(), "node"))
	c.Listen, c.Provide, c.Verify = "127.0.0.1:0", "127.0.0.1:0", "receipt"
	c.Models = []node.Offer{{Model: tales.Name, Prompt: 5_000_000, Answer: 20_000_000}}
	c.Credit, c.Debt = 1e12, 1e12
	n, err := node.Start(t.Context(), c, node.Parts{Secret: ghost.Secret{1, 31: 9}, Version: "test", Open: func(ctx context.Context, _ string) (*node.Opened, error) {
		f, err := tales.Open()
		if err != nil {
			return nil, err
		}
		g, err := author.Build(ctx, f, author.Options{}, nil)
		if err != nil {
			return nil, err
		}
		return &node.Opened{File: f, Ghost: g, Name: tales.Name, Quantisation: "q8_0"}, nil
	}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := n.Close(); err != nil {
			t.Error(err)
		}
	})
	f, err := tales.Open()
	if err != nil {
		t.Fatal(err)
	}
	g, err := author.Build(t.Context(), f, author.Options{}, nil)
	if err != nil {
		t.Fatal(err)
	}
	// As a provider opens it.
	m, err := local.Open(t.Context(), f, local.Options{Path: kernel.Best(), Available: local.Available(), Engine: engine.Options{Trace: g}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := m.Close(); err != nil {
			t.Error(err)
		}
	})

	ways := []struct {
		name string
		ask  func(seed uint64) (time.Duration, error)
	}{
		{"engine", func(seed uint64) (time.Duration, error) {
			begin := time.Now()
			prompt, err := m.Words.Chat([]chat.Message{{Role: "user", Content: question}}, nil, begin)
			if err != nil {
				return 0, err
			}
			a, err := m.Engine.Generate(t.Context(), engine.Request{Prompt: prompt, MaxTokens: 4, Sampling: arith.Sampling{Temperature: 0.8, Seed: [32]byte{byte(seed), byte(seed >> 8)}}, TopLogProbs: -1, Ahead: 4})
			if err != nil {
				return 0, err
			}
			_, ok := a.Next()
			took := time.Since(begin)
			for ok {
				_, ok = a.Next()
			}
			return took, a.Result().Err
		}},
		{"order", func(seed uint64) (time.Duration, error) {
			begin := time.Now()
			a, err := n.Asker().Ask(t.Context(), &dialog.Question{ID: fmt.Sprintf("order-%d", seed), Model: tales.Name, Messages: []chat.Message{{Role: "user", Content: question}}, MaxTokens: 4, Seed: &seed,
				Sampling: arith.Sampling{Temperature: 0.8}, TopLogProbs: -1, Verify: dialog.VerifyReceipt})
			if err != nil {
				return 0, err
			}
			defer a.Close()
			if _, err = a.Next(); err != nil {
				return 0, err
			}
			took := time.Since(begin)
			for err == nil {
				_, err = a.Next()
			}
			if !errors.Is(err, io.EOF) {
				return 0, err
			}
			return took, nil
		}},
		{"gateway", func(seed uint64) (time.Duration, error) {
			begin := time.Now()
			resp, err := http.Post(n.URL()+"/v1/chat/completions", "application/json", strings.NewReader(fmt.Sprintf(
				`{"model":%q,"messages":[{"role":"user","content":%q}],"max_tokens":4,"temperature":0.8,"seed":%d,"stream":true,"verify":"receipt"}`, tales.Name, question, seed)))
			if err != nil {
				return 0, err
			}
			defer resp.Body.Close()
			lines := bufio.NewReader(resp.Body)
			took := time.Duration(0)
			for {
				line, err := lines.ReadString('\n')
				if took == 0 && strings.Contains(line, `"content":"`) && !strings.Contains(line, `"content":""`) {
					took = time.Since(begin)
				}
				if errors.Is(err, io.EOF) {
					break
				}
				if err != nil {
					return 0, err
				}
			}
			if took == 0 {
				return 0, fmt.Errorf("status %d without content", resp.StatusCode)
			}
			return took, nil
		}},
	}
	for i := range uint64(3) { // what is done once: connections, the vocabulary
		for _, w := range ways {
			if _, err := w.ask(1<<40 + i); err != nil {
				t.Fatal(w.name, err)
			}
		}
	}
	for _, clients := range []int{1, 4} {
		took := make([][]time.Duration, len(ways))
		var mu sync.Mutex
		var all sync.WaitGroup
		for client := range clients {
			all.Go(func() {
				for i := range (count + clients - 1) / clients {
					for k := range ways {
						k = (k + i) % len(ways)
						d, err := ways[k].ask(uint64(client)<<32 + uint64(i))
						if err != nil {
							t.Errorf("%s: %v", ways[k].name, err)
							return
						}
						mu.Lock()
						took[k] = append(took[k], d)
						mu.Unlock()
					}
				}
			})
		}
		all.Wait()
		t.Logf("%d at once, time to the first token in ms:", clients)
		for k, w := range ways {
			slices.Sort(took[k])
			line := fmt.Sprintf("%-8s n %d", w.name, len(took[k]))
			for _, p := range []int{50, 90, 99} {
				at := func(l []time.Duration) float64 { return float64(l[min(len(l)-1, len(l)*p/100)].Microseconds()) / 1000 }
				line += fmt.Sprintf("  p%d %.2f", p, at(took[k]))
				if k > 0 {
					line += fmt.Sprintf(" (%+.2f)", at(took[k])-at(took[k-1]))
				}
			}
			t.Log(line)
		}
	}
}
