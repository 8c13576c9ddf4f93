package main

import (
	"bufio"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/geistnet/geist/internal/chat"
)

// Chat asks providers that relays know.
func (v verbs) Chat() *cobra.Command {
	f := &nodeFlags{}
	c := &cobra.Command{
		Use:   "chat [QUESTION...]",
		Short: "Ask the market: any model, from whoever offers it best",
		Long: `Finds providers on the relays, puts the question to the best one, pays on credit
chunk by chunk, checks the answer, and says who gave it, for how much, and what was
checked. Without QUESTION, at a terminal, it holds a conversation.

With --sound the trunk of the model is computed here, from the built-in model or
one in the store, and only rows of its memory come from those who offer it, each
checked before it is used. Nothing has to be audited then, and nothing is paid.

It serves nothing. "geist up" is a node that can do both.`,
		Example: `  geist chat --relay ws://127.0.0.1:11436/relay "Tell me a story about a goose."
  geist chat --relay wss://relay.example --model tiny --verify replicate "Why?"
  geist chat --sound "Tell me a story about a goose."`,
	}
	f.add(c)
	model := c.Flags().String("model", "", "the model's name, or NAME@ID, or its id (default: the best offer of any)")
	maxTokens := c.Flags().Int("max-tokens", 256, "the most tokens of an answer")
	seed := c.Flags().String("seed", "", "an integer, so that the same question gets the same answer (random, if not given)")
	wait := c.Flags().Duration("wait", 10*time.Second, "how long to wait for an offer")
	bySound := c.Flags().Bool("sound", false, "compute the trunk here, with rows from those who offer the model")
	trunkRef := c.Flags().String("trunk", "", "with --sound: the model here, or the path of a trunk (default: the built-in one, or one of the store that is offered)")
	asJSON := jsonFlag(c)
	c.RunE = func(cmd *cobra.Command, args []string) error {
		begin := v.now()
		if *maxTokens < 1 || *maxTokens > 1<<20 {
			return fmt.Errorf("%w: --max-tokens %d; 1 to 1048576 are possible", errUsage, *maxTokens)
		}
		cfg, err := v.config(f)
		if err != nil {
			return err
		}
		cfg.Provide, cfg.Relay = "", false
		cfg.Models = nil
		if f.from["listen"] != "flag --listen" {
			cfg.Listen, cfg.Keys = "127.0.0.1:0", nil // beside a node with the same file
		}
		if len(cfg.Relays) == 0 {
			cfg.Relays = []string{"ws://127.0.0.1:11436/relay"} // of a node on this machine
		}
		if err := cfg.Check(); err != nil {
			return fmt.Errorf("%w: %w", errUsage, err)
		}
		if *trunkRef != "" && !*bySound {
			return fmt.Errorf("%w: --trunk goes with --sound", errUsage)
		}
		talk := len(args) == 0
		if talk && !isTerminal(v.stdin) {
			return fmt.Errorf("%w: there is no question", errUsage)
		}
		if talk && *asJSON {
			return fmt.Errorf("%w: --json needs a QUESTION", errUsage)
		}
		n, err := v.startNode(cmd.Context(), cfg)
		if err != nil {
			return err
		}
		defer func() {
			if err := n.Close(); err != nil {
				v.err.Error(err)
			}
		}()
		o := &askOptions{question: strings.Join(args, " "), model: *model, maxTokens: *maxTokens, seed: *seed, verify: f.verify, show: !*asJSON, began: begin, wait: *wait}
		sounder := &soundChat{ref: *trunkRef}
		defer sounder.close()
		if !talk && *bySound {
			a, err := sounder.ask(cmd.Context(), v.env, n, o)
			if err != nil || !*asJSON {
				return err
			}
			return v.out.JSON(a)
		}
		if !talk {
			a, err := v.ask(cmd.Context(), n, o)
			if err != nil {
				return err
			}
			if *asJSON {
				return v.out.JSON(a)
			}
			return nil
		}
		lines := bufio.NewScanner(v.stdin)
		o.question = ""
		for {
			fmt.Fprint(v.out.W, "> ")
			if !lines.Scan() {
				fmt.Fprintln(v.out.W)
				return lines.Err()
			}
			text := strings.TrimSpace(lines.Text())
			if text == "" {
				continue
			}
			o.messages = append(o.messages, chat.Message{Role: "user", Content: text})
			o.began = v.now()
			var answer string
			if *bySound {
				var a *soundAsked
				if a, err = sounder.ask(cmd.Context(), v.env, n, o); err == nil {
					answer = a.Answer
				}
			} else {
				var a *asked
				if a, err = v.ask(cmd.Context(), n, o); err == nil {
					answer = a.Answer
				}
			}
			if err != nil {
				if cmd.Context().Err() != nil {
					return err
				}
				v.err.Error(errors.New(err.Error()))
				o.messages = o.messages[:len(o.messages)-1]
				continue
			}
			o.messages = append(o.messages, chat.Message{Role: "assistant", Content: answer})
		}
	}
	return c
}
