package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/geistnet/geist/audit"
	"github.com/geistnet/geist/ghost"
	"github.com/geistnet/geist/internal/author"
	"github.com/geistnet/geist/internal/console"
	"github.com/geistnet/geist/internal/engine"
	"github.com/geistnet/geist/internal/kernel"
	"github.com/geistnet/geist/internal/model"
	"github.com/geistnet/geist/internal/nostr"
	"github.com/geistnet/geist/internal/prove"
)

// Dispute finds out which of two receipts is wrong.
func (v verbs) Dispute() *cobra.Command {
	c := &cobra.Command{
		Use:   "dispute RUNFILE RUNFILE",
		Short: "Find out which of two receipts for one answer is wrong",
		Long: `Takes two run files (made by "geist run --receipt") of the same request and answer
whose receipts have different trace roots, runs the answer again with the model,
and says who signed what the model does not compute.

A fraud proof, which convinces others without the model, also needs what the
liar committed to. Where that is the run of another model file, such as a
cheaper quantisation, --suspect names that file: the two traces are compared
down to the first difference, and the fraud proof is written.`,
		Example: `  geist dispute a.run b.run
  geist dispute a.run b.run --suspect tiny.Q4_0.gguf --out b.fraud
  geist dispute check b.fraud b.run`,
		Args: cobra.ExactArgs(2),
	}
	ref := c.Flags().String("model", "", "the model: a name in the store, a hash or a .gguf file (default: the one in the store that the receipts name)")
	suspect := c.Flags().String("suspect", "", "the model file that the liar may have run instead")
	out := c.Flags().String("out", "", "write the fraud proof here (default: the liar's run file with the ending .fraud)")
	asJSON := jsonFlag(c)
	c.RunE = func(cmd *cobra.Command, args []string) error {
		var files [2]*audit.RunFile
		for i, path := range args {
			b, err := readAtMost(path, audit.MaxRunBytes)
			if err != nil {
				return err
			}
			if files[i], err = parseRun(path, b); err != nil {
				return err
			}
		}
		said, err := v.dispute(cmd.Context(), files, args, *ref, *suspect, *out)
		if err != nil {
			return err
		}
		if *asJSON {
			return v.out.JSON(said)
		}
		return said.write(v.out, args)
	}
	c.AddCommand(v.disputeCheck())
	return c
}

// disputed is what "dispute --json" says.
type disputed struct {
	Root       string   `json:"root"`  // the trace root of the model
	Right      []bool   `json:"right"` // of each run file
	Place      string   `json:"place,omitempty"`
	Rounds     int      `json:"rounds,omitempty"`
	Bytes      int      `json:"message_bytes,omitempty"`
	Fraud      string   `json:"fraud,omitempty"` // path
	FraudBytes int      `json:"fraud_bytes,omitempty"`
	Conviction string   `json:"conviction,omitempty"`
	Providers  []string `json:"providers"` // hex
	Npubs      []string `json:"npubs"`
}

func (d *disputed) write(o console.Out, paths []string) error {
	w := o.W
	for i, path := range paths {
		word := "signed what the model computes"
		if !d.Right[i] {
			word = "signed another trace than the model's"
		}
		fmt.Fprintf(w, "%s: %s %s\n", console.Clean(path), d.Npubs[i], word)
	}
	if d.Fraud == "" {
		return nil
	}
	fmt.Fprintf(w, "they first differ at %s, found in %d rounds\n%s\n", d.Place, d.Rounds, d.Conviction)
	_, err := fmt.Fprintf(w, "wrote %s (%s)\n", console.Clean(d.Fraud), console.Size(int64(d.FraudBytes)))
	return err
}

// node loads a model to repeat runs. The caller calls done.
func (v verbs) node(ctx context.Context, ref string, id *ghost.ID) (n *prove.Node, done func(), err error) {
	f, stored, err := v.openModel(ref)
	if err != nil {
		return nil, nil, err
	}
	var g *ghost.Model
	long := false
	if id != nil {
		g, long, err = v.ghostWith(ctx, f, stored, *id)
	} else {
		g, err = author.Build(ctx, f, author.Options{}, nil)
	}
	if err != nil {
		return nil, nil, errors.Join(err, f.Close())
	}
	team := kernel.NewTeam(engine.Threads())
	p := v.progress()
	m, err := model.Load(f, model.Options{Path: kernel.Best(), Team: team, Long: long, Abort: ctx.Err,
		Progress: func(done, total int64) { p.Update("load", done, total) }})
	p.End()
	if err != nil {
		team.Close()
		return nil, nil, errors.Join(hint(err), f.Close())
	}
	return prove.NewNode(m, g, f, team, 512), func() { m.Close(); team.Close(); f.Close() }, nil
}

func (v verbs) dispute(ctx context.Context, files [2]*audit.RunFile, paths []string, ref, suspect, out string) (*disputed, error) {
	a, b := files[0], files[1]
	switch {
	case a.Receipt.Model != b.Receipt.Model:
		return nil, fmt.Errorf("the receipts are of different models, %v and %v", a.Receipt.Model, b.Receipt.Model)
	case !slices.Equal(a.Request.Prompt, b.Request.Prompt):
		return nil, errors.New("the receipts are for different prompts")
	case !slices.Equal(a.Answer, b.Answer):
		return nil, errors.New("the receipts are for different answers; \"geist prove\" and \"geist verify\" check each by itself")
	case a.Receipt.Trace == b.Receipt.Trace:
		return nil, errors.New("both signed the same trace: there is nothing to dispute")
	}
	if ref == "" {
		var err error
		if ref, err = v.modelOf(ctx, a.Receipt.Model); err != nil {
			return nil, err
		}
	}
	n, done, err := v.node(ctx, ref, &a.Receipt.Model)
	if err != nil {
		return nil, err
	}
	defer done()
	run, err := a.Run(n.Ghost)
	if err != nil {
		return nil, err
	}
	honest, err := n.NewParty(run)
	if err != nil {
		return nil, err
	}
	if run.Trace, err = honest.Root(); err != nil {
		return nil, err
	}
	d := &disputed{Root: run.Trace.String()}
	guilty := -1
	for i, f := range files {
		d.Right = append(d.Right, f.Receipt.Trace == run.Trace)
		d.Providers, d.Npubs = append(d.Providers, f.Receipt.Provider.String()), append(d.Npubs, nostr.PublicText(f.Receipt.Provider))
		if !d.Right[i] {
			guilty = i
		}
	}
	if suspect == "" {
		return d, nil
	}
	if !d.Right[1-guilty] {
		return nil, errors.New("both signed another trace than the model's; give one of them beside a right one")
	}
	other, done, err := v.node(ctx, suspect, nil)
	if err != nil {
		return nil, err
	}
	defer done()
	theirs := *run
	theirs.Model = other.Ghost
	liar, err := other.NewParty(&theirs)
	if err != nil {
		return nil, err
	}
	root, err := liar.Root()
	switch {
	case err != nil:
		return nil, err
	case root != files[guilty].Receipt.Trace || !alike(n.Ghost, other.Ghost):
		return nil, fmt.Errorf("%s did not sign the run of %s either", paths[guilty], suspect)
	}
	sides := [2]prove.Side{{Receipt: a.Receipt, Prover: honest}, {Receipt: b.Receipt, Prover: honest}}
	sides[guilty].Prover = liar
	o, err := prove.Dispute(run, files[guilty].Request.Salt, sides)
	if err != nil {
		return nil, err
	}
	if o.Conviction == nil || o.Guilty != guilty {
		return nil, fmt.Errorf("the dispute ended without a fraud proof: %w", o.Breach)
	}
	if out == "" {
		out = strings.TrimSuffix(paths[guilty], filepath.Ext(paths[guilty])) + ".fraud"
	}
	d.Place, d.Rounds, d.Bytes = o.Place.String(), o.Rounds, o.Bytes
	d.Fraud, d.FraudBytes, d.Conviction = out, len(o.Fraud), convicted(o.Conviction)
	return d, replace(out, o.Fraud, 0o644)
}

// convicted says what a fraud proof shows, with the key as people know it.
func convicted(c *audit.Conviction) string {
	return strings.ReplaceAll(c.String(), c.Provider.String(), nostr.PublicText(c.Provider))
}

// alike reports whether two models have traces of one shape.
func alike(a, b *ghost.Model) bool {
	if len(a.Layers) != len(b.Layers) || a.KVHeads != b.KVHeads || a.ValDim != b.ValDim || a.KeyDim != b.KeyDim || a.Vocab != b.Vocab || a.KV != b.KV {
		return false
	}
	for l := range a.Layers {
		if a.Layout(l, 0).Len() != b.Layout(l, 0).Len() {
			return false
		}
	}
	return true
}

func (v verbs) disputeCheck() *cobra.Command {
	c := &cobra.Command{
		Use:   "check FRAUDPROOF RECEIPT",
		Short: "Check a fraud proof, without the model",
		Long: `Checks a fraud proof against a receipt (the event alone, or a run file) and the
model id in it. Nothing else is needed: no model, no Ghost file, no prompt.
Exit code 0: whoever signed the receipt lied; 1: this proof does not show it.`,
		Example: "  geist dispute check b.fraud b.run",
		Args:    cobra.ExactArgs(2),
	}
	text := c.Flags().String("id", "", "the model id that the receipt must be of (default: any)")
	asJSON := jsonFlag(c)
	c.RunE = func(_ *cobra.Command, args []string) error {
		var given ghost.ID
		if *text != "" {
			var err error
			if given, err = ghost.ParseID(*text); err != nil {
				return fmt.Errorf("%w: --id: %w", errUsage, err)
			}
		}
		fraud, err := readAtMost(args[0], audit.MaxFraudBytes)
		if err != nil {
			return err
		}
		b, err := readAtMost(args[1], audit.MaxRunBytes)
		if err != nil {
			return err
		}
		r, err := ghost.ParseReceipt(bytes.TrimSpace(b))
		if err != nil {
			file, fileErr := audit.ParseRunFile(b)
			if fileErr != nil {
				return fmt.Errorf("%s is neither a receipt (%w) nor a run file (%w)", args[1], err, fileErr)
			}
			r = file.Receipt
		}
		id := r.Model
		if *text != "" {
			id = given
		}
		got, err := audit.VerifyFraud(id, r, fraud)
		if err != nil {
			return fmt.Errorf("%s convicts nobody: %w", args[0], err)
		}
		if *asJSON {
			return v.out.JSON(map[string]any{"provider": got.Provider.String(), "npub": nostr.PublicText(got.Provider), "model": id.String(), "receipt": r.ID().String(), "relation": got.Claim.Relation.String(),
				"position": got.Claim.Position, "layer": got.Claim.Layer, "bytes": got.Bytes, "says": convicted(got)})
		}
		_, err = fmt.Fprintf(v.out.W, "%s\nmodel %v, receipt %v\n", convicted(got), id, r.ID())
		return err
	}
	return c
}
