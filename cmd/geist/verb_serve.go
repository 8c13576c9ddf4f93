package main

import (
	"fmt"
	"net"
	"net/url"

	"github.com/spf13/cobra"

	"github.com/geistnet/geist/internal/console"
	"github.com/geistnet/geist/internal/node"
)

// Serve offers a model to others.
func (v verbs) Serve() *cobra.Command {
	f := &nodeFlags{}
	c := &cobra.Command{
		Use:   "serve MODEL",
		Short: "Offer a model for a price",
		Long: `Loads a model, publishes an ask for it on the relays, and answers the jobs that
come, paid on credit chunk by chunk. Answers of models that run here are
ghost-audited: anyone can check them against the model's id.

With --upstream the model runs on any OpenAI-compatible server (Ollama, vLLM,
llama.cpp) and MODEL is its name there: its answers have a signed receipt and
nothing that can be checked, grade "reputation".

Others reach --provide; --listen is for you. To serve beyond this machine give
--provide an address that others reach, and --relay where they look.`,
		Example: `  geist serve tiny --price 5,20
  geist serve qwen2.5:0.5b --upstream http://127.0.0.1:11434 --price 10
  geist serve tiny --provide 192.0.2.7:11436 --relay wss://relay.example`,
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: v.completeServed,
	}
	f.add(c)
	price := c.Flags().String("price", "5,20", "millisatoshi for a token of the prompt and of the answer")
	name := c.Flags().String("name", "", "the name it is offered by (default: the model's)")
	upstream := c.Flags().String("upstream", "", "base URL of an OpenAI-compatible server that runs the model")
	upstreamKey := c.Flags().String("upstream-key-env", "", "environment variable with the key for --upstream")
	sessions := c.Flags().Int("sessions", 4, "answers at once")
	context := c.Flags().Int("context", 0, "tokens of prompt and answer together (0: the model's most, up to 8192)")
	threads := c.Flags().Int("threads", 0, "threads to compute with (0: one for each processor)")
	within(c, 1, 1024, "sessions")
	within(c, 0, 1<<24, "context")
	within(c, 0, 1024, "threads")
	asJSON := jsonFlag(c)
	c.RunE = func(cmd *cobra.Command, args []string) error {
		begin := v.now()
		cfg, err := v.config(f)
		if err != nil {
			return err
		}
		o := node.Offer{Model: args[0], Name: *name, Upstream: *upstream, Sessions: *sessions, Context: *context, Threads: *threads}
		if *upstreamKey != "" {
			if o.UpstreamKey = v.getenv(*upstreamKey); o.UpstreamKey == "" {
				return fmt.Errorf("%w: --upstream-key-env: the environment has no %s", errUsage, *upstreamKey)
			}
		}
		if o.Prompt, o.Answer, err = prices(*price); err != nil {
			return err
		}
		cfg.Models = []node.Offer{o}
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
		if *asJSON {
			if err := v.out.JSON(n.Status()); err != nil {
				return err
			}
		} else {
			v.welcome(n, &cfg, v.now().Sub(begin))
			v.sayReach(n, cfg.Relays)
		}
		return v.waitFor(cmd.Context(), n)
	}
	return c
}

// sayReach says how others ask, or that they cannot.
func (e *env) sayReach(n *node.Node, others []string) {
	w, model := e.out.W, console.Clean(n.Offered())
	relay, public := n.Public()
	if len(others) > 0 { // where strangers look
		relay = others[0]
	}
	switch {
	case !public:
		fmt.Fprintf(w, "Only this machine reaches %s: others cannot ask yet. To be reached, give --provide an address\nthat they reach, such as --provide %s, or --endpoint the URL of a proxy\nthat leads here, and --relay where they look.\n", n.ProvideURL(), reachable(n))
		if relay = n.RelayURL(); relay != "" {
			fmt.Fprintf(w, "Ask from this machine, as another user: GEIST_HOME=~/.geist-chat geist chat --relay %s --model %s \"…\"\n", relay, model)
		}
	case relay == "":
		fmt.Fprintf(w, "No relay knows of it: give --relay where others look.\n")
	default:
		fmt.Fprintf(w, "Ask from another machine: geist chat --relay %s --model %s \"…\"\n", console.Clean(relay), model)
	}
	fmt.Fprintln(w, "Ctrl-C stops the node; what it is owed is kept.")
}

// reachable is an address of this machine for --provide, of its network where it
// has one.
func reachable(n *node.Node) string {
	port := "11436"
	if u, err := url.Parse(n.ProvideURL()); err == nil && u.Port() != "" {
		port = u.Port()
	}
	host := "192.0.2.7"
	list, _ := net.InterfaceAddrs() // without them the example stays
	for _, a := range list {
		if p, ok := a.(*net.IPNet); ok && p.IP.To4() != nil && p.IP.IsGlobalUnicast() {
			host = p.IP.String()
			break
		}
	}
	return net.JoinHostPort(host, port)
}

// completeServed offers models for the first argument.
func (e *env) completeServed(_ *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
	if len(args) > 0 {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	return e.installed(), cobra.ShellCompDirectiveDefault
}
