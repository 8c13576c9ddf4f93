package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/geistnet/geist/ghost"
	"github.com/geistnet/geist/internal/console"
	"github.com/geistnet/geist/internal/market"
	"github.com/geistnet/geist/internal/node"
	"github.com/geistnet/geist/internal/nostr"
)

// Market looks at the offers of others.
func (v verbs) Market() *cobra.Command {
	c := group("market", "Look at offers, and at why one comes before another", v.marketAsks(), v.marketWhy())
	c.Long = `Read the asks of providers from Nostr relays, and tell which of them a request would
go to, with a reason for every other one. Relays are given by --relay, or in
` + relaysVar + `, separated by commas: a node's own, such as ws://127.0.0.1:PORT, or any other.`
	return c
}

// relaysVar holds the relays to ask where no --relay is given.
const relaysVar = "GEIST_RELAYS"

// A reading is which relays and models a verb looks at.
type reading struct {
	relays []string
	model  string
	wait   time.Duration
}

func (r *reading) flags(c *cobra.Command) {
	c.Flags().StringArrayVar(&r.relays, "relay", nil, "`URL` of a relay, ws:// or wss://; may be given again")
	c.Flags().StringVar(&r.model, "model", "", "asks for this model only: its `id`, ghost1… or hex")
	c.Flags().DurationVar(&r.wait, "timeout", 10*time.Second, "the longest to wait for a relay")
	within(c, 0.001, 3600, "timeout")
}

// mostEvents is how many events of one kind are read from a relay.
const mostEvents = 5000

// found is what the relays had.
type found struct {
	asks    []*market.Ask
	refused []market.Refused
	client  *nostr.Client
	rules   market.Rules
	relays  []node.Relay
}

// sayRelays tells of relays that cannot be reached, and what to do.
func (e *env) sayRelays(list []node.Relay) {
	for _, r := range list {
		if !r.Connected {
			fmt.Fprintf(e.err.W, "relay %s cannot be reached: %s\n  → %s\n", console.Clean(r.URL), console.Clean(cmp.Or(r.Error, "no answer yet")), r.Next)
		}
	}
}

// read fetches and checks asks. Relays that fail are told on standard error; it is an
// error if none answers.
func (e *env) read(ctx context.Context, r *reading) (*found, error) {
	relays := r.relays
	if len(relays) == 0 {
		relays = strings.FieldsFunc(e.getenv(relaysVar), func(c rune) bool { return c == ',' || c == ' ' })
	}
	if len(relays) == 0 {
		return nil, fmt.Errorf("%w: no relay; give --relay ws://…, or set %s", errUsage, relaysVar)
	}
	c, err := nostr.NewClient(relays, nostr.ClientOptions{Timeout: r.wait})
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errUsage, err)
	}
	f := &found{client: c, rules: market.Rules{Kinds: market.DefaultKinds(), Now: e.now().Unix()}}
	filter := nostr.Filter{Kinds: []nostr.Kind{f.rules.Kinds.Ask}}
	var model ghost.ID
	if r.model != "" {
		if model, err = market.ParseModel(r.model); err != nil {
			return nil, fmt.Errorf("%w: %w", errUsage, err)
		}
	}
	events, errs := c.Fetch(ctx, filter, mostEvents)
	for _, r := range c.Relays() {
		x := node.Relay{URL: r, Connected: true}
		for _, err := range errs {
			if err.Relay == r {
				x = node.Relay{URL: r, Error: err.Err.Error(), Next: node.RelayNext(r, err.Err.Error())}
			}
		}
		f.relays = append(f.relays, x)
	}
	e.sayRelays(f.relays)
	if len(errs) == len(c.Relays()) {
		return nil, errors.New("no relay answered")
	}
	f.asks, f.refused = market.Collect(events, f.rules)
	if r.model != "" {
		f.asks = slices.DeleteFunc(f.asks, func(a *market.Ask) bool { return a.Model != model })
	}
	return f, nil
}

// evidence is what others say, as far as this node's key follows them. A node
// without a key trusts nobody.
func (e *env) evidence(ctx context.Context, f *found) (*market.Evidence, error) {
	path, err := e.keyPath()
	if err != nil {
		return nil, err
	}
	k, err := nostr.LoadKey(path)
	if errors.Is(err, fs.ErrNotExist) {
		return &market.Evidence{}, nil
	}
	if err != nil {
		return nil, err
	}
	lists := func(of ...ghost.Key) map[ghost.Key][]ghost.Key {
		filter := nostr.Filter{Kinds: []nostr.Kind{3}}
		for _, k := range of[:min(len(of), 200)] {
			filter.Authors = append(filter.Authors, nostr.PubKey(k))
		}
		events, _ := f.client.Fetch(ctx, filter, mostEvents)
		return market.Follows(events)
	}
	follows := lists(k.Public)
	if mine := follows[k.Public]; len(mine) > 0 {
		maps.Copy(follows, lists(mine...))
	}
	ev := &market.Evidence{Trust: market.NewTrust(k.Public, follows)}
	events, _ := f.client.Fetch(ctx, nostr.Filter{Kinds: []nostr.Kind{f.rules.Kinds.Review}}, mostEvents)
	ev.Reviews, _ = market.CollectReviews(events, f.rules, ev.Trust)
	return ev, nil
}

// askJSON is an ask as --json shows it.
type askJSON struct {
	ID       string `json:"id"`
	Provider string `json:"provider"`
	Npub     string `json:"npub"`
	Model    string `json:"model"`
	*market.Ask
}

type refusedJSON struct {
	ID     string        `json:"id"`
	By     string        `json:"by"` // hex
	Npub   string        `json:"npub"`
	Reason market.Reason `json:"reason"`
	Detail string        `json:"detail"`
}

func (v verbs) marketAsks() *cobra.Command {
	c := &cobra.Command{Use: "asks", Short: "List asks, and what was refused and why", Args: cobra.NoArgs}
	r := &reading{}
	r.flags(c)
	asJSON := jsonFlag(c)
	c.RunE = func(cmd *cobra.Command, _ []string) error {
		f, err := v.read(cmd.Context(), r)
		if err != nil {
			return err
		}
		out := struct {
			Asks    []askJSON     `json:"asks"`
			Refused []refusedJSON `json:"refused"`
			Relays  []node.Relay  `json:"relays"`
		}{[]askJSON{}, []refusedJSON{}, f.relays}
		for _, a := range f.asks {
			out.Asks = append(out.Asks, askJSON{fmt.Sprintf("%x", a.ID[:]), a.Provider.String(), nostr.PublicText(a.Provider), a.Model.String(), a})
		}
		for _, x := range f.refused {
			out.Refused = append(out.Refused, refusedJSON{fmt.Sprintf("%x", x.Event[:]), x.By.Hex(), npub(x.By.Hex()), x.Why.Reason, x.Why.Detail})
		}
		if *asJSON {
			return v.out.JSON(out)
		}
		var rows [][]string
		for _, a := range f.asks {
			rows = append(rows, []string{nostr.PublicText(a.Provider)[:16], a.ModelName, a.Quant, strconv.Itoa(a.Context), a.Input.String(), a.Output.String(),
				strconv.Itoa(a.Capacity), strings.Join(a.Rails, ","), string(a.Grade), a.Endpoints[0]})
		}
		if err := v.out.Table([]string{"PROVIDER", "MODEL", "FORMAT", "CONTEXT", "MSAT/IN", "MSAT/OUT", "SLOTS", "PAY", "GRADE", "ENDPOINT"}, rows); err != nil {
			return err
		}
		for _, x := range out.Refused {
			fmt.Fprintf(v.err.W, "refused %s of %s: %s: %s\n", x.ID[:16], x.Npub, x.Reason, console.Clean(x.Detail))
		}
		return nil
	}
	return c
}

// smallest is the least context among a provider's asks, in tokens.
func smallest(asks []*market.Ask, provider ghost.Key) int {
	least := math.MaxInt
	for _, a := range asks {
		if a.Provider == provider {
			least = min(least, a.Context)
		}
	}
	return least
}

func (v verbs) marketWhy() *cobra.Command {
	c := &cobra.Command{
		Use:   "why PROVIDER",
		Short: "Tell where a provider's asks come for a request, and why",
		Long: `Order the asks for a request as a node would that knows nothing of its own yet, and
tell where those of one provider come: npub1…, hex, or 8 or more of its first digits.
Reviews count by whom this node's key follows.`,
		Args: cobra.ExactArgs(1),
	}
	r := &reading{}
	r.flags(c)
	input := c.Flags().Int("input", 256, "tokens of the prompt (less, if not given, where the provider's contexts are smaller)")
	output := c.Flags().Int("output", 256, "most tokens of the answer (the same)")
	prefs := c.Flags().String("provider", "", `the request's "provider" object, as `+"`JSON`")
	asJSON := jsonFlag(c)
	c.RunE = func(cmd *cobra.Command, args []string) error {
		w := &market.Wish{Now: v.now().Unix(), InputTokens: *input, OutputTokens: *output, TimeMsat: market.DefaultTimeMsat}
		if *prefs != "" {
			p, err := market.ParsePreferences([]byte(*prefs))
			if err != nil {
				return fmt.Errorf("%w: %w", errUsage, err)
			}
			w.Preferences = p
		}
		if err := w.Check(); err != nil {
			return fmt.Errorf("%w: %w", errUsage, err)
		}
		f, err := v.read(cmd.Context(), r)
		if err != nil {
			return err
		}
		provider, err := market.FindProvider(f.asks, args[0])
		if err != nil {
			return err
		}
		// What nobody asked for shall not be too large for the answer to tell something.
		room := smallest(f.asks, provider)
		if !cmd.Flags().Changed("input") && !cmd.Flags().Changed("output") {
			w.InputTokens, w.OutputTokens = min(w.InputTokens, room/2), min(w.OutputTokens, room/2)
		}
		ev, err := v.evidence(cmd.Context(), f)
		if err != nil {
			return err
		}
		ranking, err := market.Rank(f.asks, ev, w)
		if err != nil {
			return err
		}
		answers := ranking.Why(provider)
		if *asJSON {
			return v.out.JSON(answers)
		}
		for _, a := range answers {
			if _, err := fmt.Fprintf(v.out.W, "%s\n  for the client:   %s\n  for the provider: %s\n", console.Clean(a.Ask), console.Clean(a.Client), console.Clean(a.Hint)); err != nil {
				return err
			}
		}
		return nil
	}
	return c
}
