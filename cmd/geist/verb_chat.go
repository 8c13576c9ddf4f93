package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/geistnet/geist/ghost"
	"github.com/geistnet/geist/internal/chat"
	"github.com/geistnet/geist/internal/console"
	"github.com/geistnet/geist/internal/dialog"
	"github.com/geistnet/geist/internal/node"
	"github.com/geistnet/geist/internal/pay"
	"github.com/geistnet/geist/internal/prompt"
)

// Chat asks providers that relays know.
func (v verbs) Chat() *cobra.Command {
	f := &chatFlags{}
	c := &cobra.Command{
		Use:   "chat [QUESTION...]",
		Short: "Ask the market: any model, from whoever offers it best",
		Long: `Finds providers on the relays, puts the question to the best one, pays on credit
chunk by chunk, checks the answer, and says who gave it, for how much, and what was
checked. Without QUESTION, at a terminal, it holds a conversation, which /bye, Ctrl-D and
Ctrl-C at its prompt end.

With --raw, and where a model has no chat template, the model continues the text.

With --sound the trunk of the model is computed here, from the built-in model or
one in the store, and only rows of its memory come from those who offer it, each
checked before it is used. Nothing has to be audited then, and nothing is paid.

It serves nothing. "geist up" is a node that can do both; if one runs with the same
state, it is asked, with its own relays and limits, and keeps the receipt; flags
such as --spend, which it was started with or without, are refused then.`,
		Example: `  geist chat --relay ws://127.0.0.1:11436/relay "Tell me a story about a goose."
  geist chat --relay wss://relay.example --model tiny --verify replicate "Why?"
  geist chat --sound "Tell me a story about a goose."`,
	}
	f.add(c)
	fl := c.Flags()
	fl.StringVar(&f.model, "model", "", "the model's name, or NAME@ID, or its id (default: the best offer of any)")
	fl.BoolVar(&f.raw, "raw", false, "continue the text as it is, without the chat template")
	fl.IntVar(&f.maxTokens, "max-tokens", 256, "the most tokens of an answer")
	fl.StringVar(&f.seed, "seed", "", "an integer, so that the same question gets the same answer (random, if not given)")
	fl.DurationVar(&f.wait, "wait", 10*time.Second, "how long to wait for an offer")
	fl.BoolVar(&f.sound, "sound", false, "compute the trunk here, with rows from those who offer the model")
	fl.StringVar(&f.trunk, "trunk", "", "with --sound: the model here, or the path of a trunk (default: the built-in one, or one of the store that is offered)")
	within(c, 1, 1<<20, "max-tokens")
	within(c, 0, 3600, "wait")
	asJSON := jsonFlag(c)
	c.RunE = func(cmd *cobra.Command, args []string) error {
		begin := v.now()
		talk := len(args) == 0
		cfg, err := v.chatConfig(f)
		switch {
		case err != nil:
			return err
		case talk && !isTerminal(v.stdin):
			return fmt.Errorf("%w: there is no question", errUsage)
		case talk && *asJSON:
			return fmt.Errorf("%w: --json needs a QUESTION", errUsage)
		}
		t := &talker{env: v.env, sounder: &soundChat{ref: f.trunk}}
		defer t.close()
		if err := t.open(cmd.Context(), f, cfg); err != nil {
			return err
		}
		o := &askOptions{question: strings.Join(args, " "), model: f.model, raw: f.raw, maxTokens: f.maxTokens, seed: f.seed, verify: f.verify, show: !*asJSON, began: begin, wait: f.wait}
		if talk {
			return t.converse(cmd.Context(), o)
		}
		_, account, err := t.ask(cmd.Context(), o)
		if err != nil || !*asJSON {
			return err
		}
		return v.out.JSON(account)
	}
	return c
}

// chatFlags are the flags of "geist chat".
type chatFlags struct {
	nodeFlags
	model, seed, trunk string
	raw, sound         bool
	maxTokens          int
	wait               time.Duration
}

// lost are the flags given that say how a node is started, so that one that runs
// cannot heed them.
func (f *chatFlags) lost() (flags []string) {
	for _, name := range []string{"spend", "credit", "follow", "listen", "key", "origin", "alias"} {
		if f.flags.Changed(name) {
			flags = append(flags, "--"+name)
		}
	}
	return flags
}

// chatConfig is a node that serves nothing.
func (e *env) chatConfig(f *chatFlags) (*node.Config, error) {
	if _, err := questionSeed(f.seed); err != nil {
		return nil, err
	}
	if f.trunk != "" && !f.sound {
		return nil, fmt.Errorf("%w: --trunk goes with --sound", errUsage)
	}
	cfg, err := e.config(&f.nodeFlags)
	if err != nil {
		return nil, err
	}
	cfg.Provide, cfg.Relay = "", false
	cfg.Models = nil
	if f.from["listen"] != "flag --listen" {
		cfg.Listen, cfg.Keys = "127.0.0.1:0", nil // beside a node with the same file
	}
	if len(cfg.Relays) == 0 {
		cfg.Relays = []string{"ws://" + node.DefaultProvide + "/relay"} // of a node on this machine
	}
	if err := cfg.Check(); err != nil {
		return nil, fmt.Errorf("%w: %w", errUsage, err)
	}
	return &cfg, nil
}

// talker asks through a node of its own, or through the one that runs.
type talker struct {
	*env
	node    *node.Node // nil: one that runs is asked
	to      answerer
	own     ghost.Key // of this machine's provider
	sound   bool
	sounder *soundChat
	scratch string // a directory to remove; "": none
}

// open starts a node, or finds the one that has the state.
func (t *talker) open(ctx context.Context, f *chatFlags, cfg *node.Config) (err error) {
	t.sound = f.sound
	t.node, err = t.startNode(ctx, *cfg)
	if errors.Is(err, pay.ErrHeld) {
		err = t.beside(ctx, f, cfg, err)
	}
	if err == nil && t.node != nil {
		t.to, t.own = t.node.Asker(), t.node.Key()
	}
	return err
}

// beside asks the node that has the state. Rows cost nothing and leave nothing, so
// that with --sound a node with a state of its own will do.
func (t *talker) beside(ctx context.Context, f *chatFlags, cfg *node.Config, held error) error {
	b, err := t.runningNode(ctx, cfg.Dir)
	if err != nil {
		return fmt.Errorf("%w (it was not asked from here: %w)", held, err)
	}
	known := b.relays()
	if f.from["relays"] != "" {
		for _, r := range cfg.Relays {
			if !known[strings.TrimSuffix(r, "/")] {
				return fmt.Errorf("a geist is running with the same state at %s, and %s is none of its relays: leave --relay out, or end that one and start it with this relay, or set GEIST_HOME to another directory, which makes another node", b.url, console.Clean(r))
			}
		}
	}
	if lost := f.lost(); len(lost) > 0 && !f.sound {
		return fmt.Errorf("a geist is running with the same state at %s, and asks as it was started: leave %s out, or end that one and start it so, or set GEIST_HOME to another directory, which makes another node", b.url, strings.Join(lost, " and "))
	}
	fmt.Fprintf(t.err.W, "a geist is running with the same state: asking it, at %s\n", b.url)
	if !f.sound {
		t.to, t.own = b, b.own
		return nil
	}
	if t.scratch, err = os.MkdirTemp("", "geist-chat"); err != nil {
		return err
	}
	alone := *cfg
	alone.Dir = t.scratch
	if f.from["relays"] == "" {
		alone.Relays = nil
		for r := range known {
			alone.Relays = append(alone.Relays, r)
		}
	}
	t.node, err = t.startNode(ctx, alone)
	return err
}

func (t *talker) close() {
	t.sounder.close()
	if t.node != nil {
		if err := t.node.Close(); err != nil {
			t.err.Error(err)
		}
	}
	if t.scratch != "" {
		if err := os.RemoveAll(t.scratch); err != nil {
			t.err.Error(err)
		}
	}
}

// ask gives the answer and its account. A model without a chat template continues
// the question.
func (t *talker) ask(ctx context.Context, o *askOptions) (answer string, account any, err error) {
	for {
		if t.sound {
			var a *soundAsked
			if a, err = t.sounder.ask(ctx, t.env, t.node, o); err == nil {
				return a.Answer, a, nil
			}
		} else {
			var a *asked
			if a, err = t.env.ask(ctx, t.to, t.own, o); err == nil {
				return a.Answer, a, nil
			}
		}
		if o.raw || !noTemplate(err) {
			t.missing(ctx, err)
			return "", nil, err
		}
		fmt.Fprintln(t.err.W, "the model has no chat template: it continues the text, as with --raw")
		o.raw, o.typed = true, true
		if n := len(o.messages); n > 0 {
			o.question = o.messages[n-1].Content
		}
	}
}

// missing tells of relays that cannot be reached, after an error that may come of
// it: an offer was not found.
func (t *talker) missing(ctx context.Context, err error) {
	var d *dialog.Error
	if ctx.Err() != nil || !errors.As(err, &d) || d.Kind != dialog.NoModel && d.Kind != dialog.Mismatch && d.Kind != dialog.Unavailable {
		return
	}
	if b, ok := t.to.(*runningNode); ok {
		if err := b.look(ctx); err == nil {
			t.sayRelays(b.status.Relays)
		}
		return
	}
	t.sayRelays(t.node.Status().Relays)
}

// noTemplate tells whether a question cannot be put as a conversation.
func noTemplate(err error) bool {
	var d *dialog.Error
	return errors.Is(err, prompt.ErrNoTemplate) || errors.As(err, &d) && d.Kind == dialog.Unsupported && d.Param == "model"
}

// converse asks what is typed, line by line, until standard input ends, "/bye" is
// typed or ctx ends while nothing is asked.
func (t *talker) converse(ctx context.Context, o *askOptions) error {
	lines, done := make(chan string), make(chan struct{})
	defer close(done)
	go readLines(t.stdin, lines, done)
	for {
		fmt.Fprint(t.out.W, "> ")
		var text string
		select {
		case line, more := <-lines:
			if !more {
				fmt.Fprintln(t.out.W)
				return nil
			}
			text = strings.TrimSpace(line)
		case <-ctx.Done():
			fmt.Fprintln(t.out.W)
			return nil
		}
		switch text {
		case "":
			continue
		case "/bye":
			return nil
		}
		o.began, o.typed = t.now(), true
		if o.raw {
			o.question = text
		} else {
			o.messages = append(o.messages, chat.Message{Role: "user", Content: text})
		}
		answer, _, err := t.ask(ctx, o)
		if err != nil && ctx.Err() != nil {
			return err
		}
		if err != nil {
			t.err.Error(errors.New(err.Error()))
		}
		switch n := len(o.messages); {
		case n == 0:
		case err != nil:
			o.messages = o.messages[:n-1]
		default:
			o.messages = append(o.messages, chat.Message{Role: "assistant", Content: answer})
		}
	}
}
