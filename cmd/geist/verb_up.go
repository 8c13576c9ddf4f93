package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"runtime"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/geistnet/geist/audit"
	"github.com/geistnet/geist/ghost"
	"github.com/geistnet/geist/internal/chat"
	"github.com/geistnet/geist/internal/console"
	"github.com/geistnet/geist/internal/dialog"
	"github.com/geistnet/geist/internal/node"
)

// firstQuestion is what "geist up" asks.
const firstQuestion = "Tell me a story about a fox and a crow."

// soundTokens is how much of that answer is computed again with rows from the
// provider.
const soundTokens = 32

// Up starts a whole node.
func (v verbs) Up() *cobra.Command {
	f := &nodeFlags{}
	c := &cobra.Command{
		Use:   "up [QUESTION...]",
		Short: "Start a whole node: provider, market, credit, API and page",
		Long: `Starts everything with nothing to configure: a provider with the built-in model,
a relay with its offer, mutual credit, the OpenAI and Ollama API, and a page. All
of it listens on this machine only.

On a terminal it asks one question through all of this, as any other client would,
and shows the answer, its price and what was checked. With --once it ends then.`,
		Example: `  geist up
  geist up --once --json
  geist up --model tiny --price 5,20 "Why is the sky blue?"`,
	}
	f.add(c)
	once := c.Flags().Bool("once", false, "ask one question and end")
	quiet := c.Flags().Bool("no-question", false, "ask nothing")
	model := c.Flags().String("model", builtIn, "the model to serve and ask: a name in the store, a file, or the built-in one")
	price := c.Flags().String("price", "5,20", "millisatoshi for a token of the prompt and of the answer")
	maxTokens := c.Flags().Int("max-tokens", 256, "the most tokens of the answer")
	seed := c.Flags().String("seed", "", "an integer, so that the same question gets the same answer (random, if not given)")
	asJSON := jsonFlag(c)
	completeFlag(c, "model", []string{builtIn})
	within(c, 1, 1<<20, "max-tokens")
	c.RunE = func(cmd *cobra.Command, args []string) error {
		begin := v.now()
		if _, err := questionSeed(*seed); err != nil {
			return err
		}
		if *once && *quiet {
			return fmt.Errorf("%w: --once asks a question, --no-question does not; give one of them", errUsage)
		}
		cfg, err := v.config(f)
		if err != nil {
			return err
		}
		offer := node.Offer{Model: *model}
		if offer.Prompt, offer.Answer, err = prices(*price); err != nil {
			return err
		}
		if len(cfg.Models) == 0 || cmd.Flags().Changed("model") || cmd.Flags().Changed("price") {
			cfg.Models = []node.Offer{offer}
		}
		freePorts(f.from, &cfg)
		if err := cfg.Check(); err != nil {
			return fmt.Errorf("%w: %w", errUsage, err)
		}
		n, err := v.startNode(cmd.Context(), cfg)
		if err != nil {
			return hint(err)
		}
		defer func() {
			if err := n.Close(); err != nil {
				v.err.Error(err)
			}
		}()
		s := n.Status()
		show := !*asJSON
		if show {
			v.welcome(n, &cfg, v.now().Sub(begin))
		}
		text := strings.Join(args, " ")
		if text == "" {
			text = firstQuestion
		}
		var a *asked
		if !*quiet && (*once || len(args) > 0 || v.out.Terminal && show) {
			if a, err = v.ask(cmd.Context(), n.Asker(), n.Key(), &askOptions{question: text, maxTokens: *maxTokens, seed: *seed, show: show, began: begin}); err != nil {
				return err
			}
			if a.Receipt != "" && a.Verdict != nil && a.Verdict.Accepted {
				// The answer was verified; what follows is beside it.
				if a.Sound, err = v.again(cmd.Context(), n, *model, a.Receipt, soundTokens); err != nil {
					v.err.Error(fmt.Errorf("the answer was not computed again with rows from the provider: %w", err))
				}
				if show && a.Sound != nil {
					a.Sound.say(v.out.W)
				}
			}
		}
		if *asJSON {
			if err := v.out.JSON(upped{Status: s, Asked: a, ReadySeconds: a.ready(begin, v.now()), BinaryBytes: binarySize(), MemoryBytes: rss(), OS: runtime.GOOS + "/" + runtime.GOARCH}); err != nil {
				return err
			}
		}
		if *once {
			return nil
		}
		if show {
			fmt.Fprintln(v.out.W, "Ctrl-C stops the node; what it owes and is owed is kept.")
		}
		return v.waitFor(cmd.Context(), n)
	}
	return c
}

// upped is what "up --json" says.
type upped struct {
	node.Status
	Asked        *asked  `json:"asked,omitempty"`
	ReadySeconds float64 `json:"ready_s"`
	BinaryBytes  int64   `json:"binary_bytes"`
	MemoryBytes  int64   `json:"memory_bytes"`
	OS           string  `json:"platform"`
}

// freePorts lets a node that was told no addresses have others if they are in use.
func freePorts(from node.Origins, cfg *node.Config) {
	for _, x := range []struct {
		name string
		addr *string
	}{{"listen", &cfg.Listen}, {"provide", &cfg.Provide}} {
		if from[x.name] != "" || *x.addr == "" {
			continue
		}
		l, err := net.Listen("tcp", *x.addr)
		if err != nil {
			*x.addr = "127.0.0.1:0"
			continue
		}
		l.Close()
	}
}

// welcome says where everything is.
func (e *env) welcome(n *node.Node, cfg *node.Config, took time.Duration) {
	s := n.Status()
	w := e.out.W
	fmt.Fprintf(w, "geist %s is up after %.1f s\n\n", s.Version, took.Seconds())
	key, page := "any key", s.URL
	if len(cfg.Keys) > 0 {
		key, page = "one of your keys", s.URL+"/?key=KEY"
	}
	fmt.Fprintf(w, "  page      %s\n", page)
	fmt.Fprintf(w, "  OpenAI    OPENAI_BASE_URL=%s/v1  (%s)\n", s.URL, key)
	fmt.Fprintf(w, "  Ollama    OLLAMA_HOST=%s\n", strings.TrimPrefix(s.URL, "http://"))
	if s.Provide != "" {
		fmt.Fprintf(w, "  provider  %s at %s\n", s.Provider, s.Provide)
	}
	if s.Relay != "" {
		fmt.Fprintf(w, "  relay     %s\n", s.Relay)
	}
	for _, m := range cfg.Models {
		fmt.Fprintf(w, "  serving   %s at %s msat a prompt token and %s an answer token, on credit\n", console.Clean(m.Model), m.Prompt, m.Answer)
	}
	fmt.Fprintln(w)
}

// askOptions say what to ask and how.
type askOptions struct {
	question  string // where messages are nil, or raw is set
	model     string // "": the best offer
	raw       bool   // the question is a text to continue
	typed     bool   // the question stands on the screen
	messages  []chat.Message
	maxTokens int
	seed      string
	verify    string
	show      bool
	began     time.Time
	wait      time.Duration // for an offer to appear
}

// asked is the account of one question.
type asked struct {
	Question  string         `json:"question"`
	Answer    string         `json:"answer"`
	Model     string         `json:"model"`
	ModelID   string         `json:"model_id"`
	Provider  string         `json:"provider"` // hex
	Npub      string         `json:"npub,omitempty"`
	Prompt    int            `json:"prompt_tokens"`
	Tokens    int            `json:"answer_tokens"`
	CostMsat  int64          `json:"cost_msat"`
	Receipt   string         `json:"receipt"`
	Grade     string         `json:"grade"`
	Verified  string         `json:"verified"`
	Verdict   *audit.Verdict `json:"verdict,omitempty"`
	FirstS    float64        `json:"start_to_first_token_s"`
	ReceiptS  float64        `json:"start_to_verified_receipt_s"`
	TTFT      float64        `json:"ttft_s"`
	TokensPer float64        `json:"tokens_per_s"`
	Sound     *soundAgain    `json:"sound,omitempty"`

	begun time.Time
}

func (a *asked) ready(begin, now time.Time) float64 {
	if a == nil {
		return now.Sub(begin).Seconds()
	}
	return a.begun.Sub(begin).Seconds()
}

// questionSeed reads --seed; nil: it is not given.
func questionSeed(text string) (*uint64, error) {
	if text == "" {
		return nil, nil
	}
	n, err := strconv.ParseUint(text, 10, 64)
	if err != nil {
		return nil, fmt.Errorf("%w: --seed %q is no integer from 0 to 2^64-1", errUsage, text)
	}
	return &n, nil
}

// An answerer is whom ask asks: the node of this process, or the one that runs
// beside it.
type answerer interface {
	Models(ctx context.Context) ([]dialog.Model, error)
	Ask(ctx context.Context, q *dialog.Question) (dialog.Answer, error)
	// Verdict judges what is kept of a receipt; nil: there is no proof.
	Verdict(receipt string) *audit.Verdict
}

// ask puts a question to the market through n and shows what comes. own is the
// key of this machine's provider.
func (e *env) ask(ctx context.Context, n answerer, own ghost.Key, o *askOptions) (*asked, error) {
	if err := waitForOffer(ctx, n, o.model, max(o.wait, 5*time.Second)); err != nil {
		return nil, err
	}
	q := &dialog.Question{ID: fmt.Sprintf("cli-%d", e.now().UnixNano()), Model: o.model, Messages: o.messages, MaxTokens: o.maxTokens, Verify: dialog.Verify(o.verify), TopLogProbs: -1,
		Sampling: chatSampling()}
	if o.raw {
		q.Messages, q.Text = nil, o.question
	} else if q.Messages == nil {
		q.Messages = []chat.Message{{Role: "user", Content: o.question}}
	}
	var err error
	if q.Seed, err = questionSeed(o.seed); err != nil {
		return nil, err
	}
	a := &asked{Question: o.question, begun: e.now()}
	if o.show && !o.typed {
		fmt.Fprintf(e.out.W, "> %s\n\n", console.Clean(o.question))
	}
	x, err := n.Ask(ctx, q)
	if err != nil {
		return nil, err
	}
	defer x.Close()
	var text strings.Builder
	var first time.Time
	for {
		d, err := x.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			if o.show && text.Len() > 0 {
				fmt.Fprintln(e.out.W)
			}
			return nil, err
		}
		if first.IsZero() {
			first = e.now()
		}
		text.WriteString(d.Text)
		if o.show {
			if _, err := io.WriteString(e.out.W, console.Clean(d.Text)); err != nil {
				return nil, err
			}
		}
	}
	end := e.now()
	s, served := x.Summary(), x.Served()
	a.Answer, a.Model, a.ModelID, a.Provider = text.String(), served.Model, served.ModelID, served.Provider
	a.Prompt, a.Tokens, a.CostMsat, a.Receipt, a.Grade, a.Verified = s.Usage.Prompt, s.Usage.Answer, s.Cost, s.ID, s.Grade, string(s.Verified)
	a.Npub = npub(a.Provider)
	a.Verdict = n.Verdict(s.ID)
	if !first.IsZero() {
		a.FirstS, a.TTFT = first.Sub(o.began).Seconds(), first.Sub(a.begun).Seconds()
		if d := end.Sub(first).Seconds(); d > 0 {
			a.TokensPer = float64(s.Usage.Answer) / d
		}
	}
	a.ReceiptS = end.Sub(o.began).Seconds()
	if o.show {
		e.account(a, own)
	}
	return a, nil
}

// account says who answered, for how much, and what was checked.
func (e *env) account(a *asked, own ghost.Key) {
	who := a.Npub
	if a.Provider == own.String() {
		who += " (this machine, asked as any other)"
	}
	fmt.Fprintf(e.out.W, "\n\n  from      %s\n  model     %s %s\n  price     %s for %d prompt and %d answer tokens\n", console.Clean(who), console.Clean(a.Model), a.ModelID, sats(a.CostMsat), a.Prompt, a.Tokens)
	fmt.Fprintf(e.out.W, "  verdict   %s\n", verdictLine(a))
	if a.Receipt != "" {
		fmt.Fprintf(e.out.W, "  receipt   %s\n", a.Receipt)
	}
	fmt.Fprintln(e.out.W)
}

// verdictLine says what was checked, and never more.
func verdictLine(a *asked) string {
	v := a.Verdict
	switch {
	case a.Verified == string(dialog.VerifyReplicate):
		return "two providers signed for the same run, and its opened values are right"
	case v != nil && v.Accepted && v.Counts != nil:
		return fmt.Sprintf("%s: %d draws among %d cells and all %d embeddings opened, every value exactly right (%s of proof)",
			v.Grade, v.Counts.Cells, v.Positions*v.Layers, v.Counts.Embeddings, console.Size(int64(v.ProofBytes)))
	case v != nil && !v.Accepted:
		return "REFUSED: " + console.Clean(v.Reason)
	case a.Receipt != "" && a.Grade == "reputation":
		return "reputation only: signed by the provider, and nothing can be checked"
	case a.Receipt != "":
		return "receipt only: signed by the provider, and not audited"
	}
	return "none: there is no receipt"
}

// waitForOffer waits until somebody offers a model.
func waitForOffer(ctx context.Context, n answerer, model string, most time.Duration) error {
	deadline := time.Now().Add(most)
	for {
		list, err := n.Models(ctx)
		if err != nil {
			return err
		}
		if len(list) > 0 && (model == "" || hasModel(list, model)) {
			return nil
		}
		if time.Now().After(deadline) {
			return nil // asking says what is wrong
		}
		select {
		case <-time.After(20 * time.Millisecond):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func hasModel(list []dialog.Model, name string) bool {
	for _, m := range list {
		if strings.EqualFold(m.Name, name) || m.ID == name || strings.HasPrefix(m.Name, name+"@") || m.Name+"@"+m.ID == name {
			return true
		}
	}
	return false
}

// binarySize is the size of this program; 0: unknown.
func binarySize() int64 {
	path, err := os.Executable()
	if err != nil {
		return 0
	}
	info, err := os.Stat(path)
	if err != nil {
		return 0
	}
	return info.Size()
}
