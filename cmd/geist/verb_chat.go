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

It serves nothing. "geist up" is a node that can do both.`,
		Example: `  geist chat --relay ws://127.0.0.1:11436/relay "Tell me a story about a goose."
  geist chat --relay wss://relay.example --model tiny --verify replicate "Why?"`,
	}
	f.add(c)
	model := c.Flags().String("model", "", "the model's name, or NAME@ID, or its id (default: the best offer of any)")
	maxTokens := c.Flags().Int("max-tokens", 256, "the most tokens of an answer")
	seed := c.Flags().String("seed", "", "an integer, so that the same question gets the same answer (random, if not given)")
	wait := c.Flags().Duration("wait", 10*time.Second, "how long to wait for an offer")
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
			a, err := v.ask(cmd.Context(), n, o)
			if err != nil {
				if cmd.Context().Err() != nil {
					return err
				}
				v.err.Error(errors.New(err.Error()))
				o.messages = o.messages[:len(o.messages)-1]
				continue
			}
			o.messages = append(o.messages, chat.Message{Role: "assistant", Content: a.Answer})
		}
	}
	return c
}
