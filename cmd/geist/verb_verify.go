package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/geistnet/geist/audit"
	"github.com/geistnet/geist/ghost"
	"github.com/geistnet/geist/internal/console"
	"github.com/geistnet/geist/internal/hashmany"
	"github.com/geistnet/geist/internal/nostr"
	"github.com/geistnet/geist/internal/prove"
	"github.com/geistnet/geist/internal/tokenizer"
)

// maxGhostBytes bounds the Ghost files that are read.
const maxGhostBytes = 1 << 30

// Verify checks a proof without a model.
func (v verbs) Verify() *cobra.Command {
	c := &cobra.Command{
		Use:   "verify RUNFILE PROOF",
		Short: "Check a proof of an answer, without the model",
		Long: `Checks that the answer in RUNFILE has a signed receipt, and that PROOF opens what
the challenge draws and every opened value is exactly right under the model's
Ghost file. It says in words what was checked and what was not, and how likely
it is that a forged run is accepted. Exit code 0: accepted; 1: refused.

The number of cells is what RUNFILE or the flags here demand, never what PROOF
offers. An accepted proof does not show that values which were not drawn are
right.`,
		Example: `  geist verify answer.run answer.proof --ghost tiny.ghost
  geist verify answer.run answer.proof --ghost tiny.ghost --explain 3`,
		Args: cobra.ExactArgs(2),
	}
	ghostFile := c.Flags().String("ghost", "", "the model's Ghost file (default: the one in the store that the receipt names)")
	modelRef := c.Flags().String("model", "", "with the tokenizer of this model, check also that the answer ended where the receipt says")
	explain := c.Flags().Int("explain", -1, "picture this cell of the proof, from 0")
	size := sizeFlags(c)
	within(c, 0, audit.MaxCells-1, "explain")
	asJSON := jsonFlag(c)
	c.RunE = func(cmd *cobra.Command, args []string) error {
		runFile, err := readAtMost(args[0], audit.MaxRunBytes)
		if err != nil {
			return err
		}
		proof, err := readAtMost(args[1], audit.MaxProofBytes)
		if err != nil {
			return err
		}
		if err := likeRun(args[0], runFile); err != nil {
			return err
		}
		// What else cannot be parsed, Judge refuses.
		want := audit.Standard
		file, parseErr := audit.ParseRunFile(runFile)
		if parseErr == nil {
			want = file.Size
		}
		if want, err = size(want); err != nil {
			return err
		}
		if cmd.Flags().Changed("explain") && (*explain < 0 || *explain >= want.Cells) {
			return fmt.Errorf("%w: --explain %d; the proof has cells 0 to %d", errUsage, *explain, want.Cells-1)
		}
		var ghostBytes []byte
		if *ghostFile != "" {
			ghostBytes, err = readAtMost(*ghostFile, maxGhostBytes)
			if err == nil && !bytes.HasPrefix(ghostBytes, []byte(ghost.Magic)) {
				err = fmt.Errorf("%s is no Ghost file; \"geist models ghost MODEL\" writes one", *ghostFile)
			}
		} else if parseErr == nil {
			ghostBytes, err = v.ghostWithID(cmd.Context(), file.Receipt.Model)
		}
		if err != nil {
			return err
		}
		var end *audit.Ending
		if *modelRef != "" {
			f, _, err := v.openModel(*modelRef)
			if err != nil {
				return err
			}
			defer f.Close()
			tok, err := tokenizer.New(f)
			if err != nil {
				return err
			}
			end = &audit.Ending{Ends: prove.Ends(tok)}
		}
		begin := v.now()
		verdict := audit.JudgeWith(runFile, ghostBytes, proof, audit.Options{Size: &want, End: end, Hasher: hashmany.New()})
		took := v.now().Sub(begin)
		var about string // the refusal
		if !verdict.Accepted && parseErr == nil && proofFails(file, want, ghostBytes, proof, verdict.Reason) {
			about = fmt.Sprintf("A proof of another receipt is refused like this too; \"geist prove %s\" makes the one of this receipt, where the model is.", args[0])
		}
		var picture *audit.Explanation
		if verdict.Accepted && *explain >= 0 {
			if picture, err = audit.ExplainFiles(runFile, ghostBytes, proof, want, *explain); err != nil {
				return err
			}
		}
		if *asJSON {
			err = v.out.JSON(struct {
				*audit.Verdict
				Npub        string             `json:"npub,omitempty"` // of the provider
				Hint        string             `json:"hint,omitempty"` // what else may be the reason
				Explanation *audit.Explanation `json:"explanation,omitempty"`
			}{verdict, npub(verdict.Provider), about, picture})
		} else {
			err = writeVerdict(v.out.W, verdict, about, took.Seconds()*1e3)
			if err == nil && picture != nil {
				_, err = fmt.Fprintf(v.out.W, "\n%s", picture)
			}
		}
		if err == nil && !verdict.Accepted {
			err = errReported
		}
		return err
	}
	return c
}

// proofFails tells whether a proof that opens as much as it should is refused for
// this reason, by what it holds. A proof does not say which receipt it is of: that
// decides what is drawn, so the proof of another one is read as values that it does
// not hold.
func proofFails(file *audit.RunFile, size audit.Size, ghostBytes, proof []byte, reason string) bool {
	if says, err := audit.SizeOf(proof); err != nil || says != size {
		return false
	}
	m, err := ghost.Decode(ghostBytes)
	if err != nil {
		return false
	}
	run, err := file.Run(m)
	if err != nil {
		return false
	}
	run.Hasher = hashmany.New()
	demanded := *file
	demanded.Size = size
	_, err = audit.Verify(run, demanded.Challenge(), proof)
	return err != nil && err.Error() == reason
}

// ghostWithID is the Ghost file with this id: of the store, or of the built-in model.
func (e *env) ghostWithID(ctx context.Context, id ghost.ID) ([]byte, error) {
	s, err := e.store()
	if err != nil {
		return nil, err
	}
	files, err := filepath.Glob(filepath.Join(s.Ghosts(), "*.ghost"))
	if err != nil {
		return nil, err
	}
	for _, path := range files {
		if b, err := readAtMost(path, maxGhostBytes); err == nil && ghost.IDOf(b) == id {
			return b, nil
		}
	}
	if b, err := e.builtInGhost(ctx); err != nil || ghost.IDOf(b) == id {
		return b, err
	}
	return nil, fmt.Errorf("the store has no Ghost file of model %v; give it with --ghost", id)
}

// npub is a key in hex as people know it; what is no key stays.
func npub(hex string) string {
	k, err := nostr.ParsePublic(hex)
	if err != nil {
		return hex
	}
	return nostr.PublicText(k)
}

// writeVerdict says it to a person, with a hint about a refusal, or none.
func writeVerdict(w io.Writer, v *audit.Verdict, hint string, ms float64) error {
	var b strings.Builder
	if v.Accepted {
		fmt.Fprintf(&b, "accepted: every opened value is exactly right (%.1f ms, %s of proof)\n", ms, console.Size(int64(v.ProofBytes)))
	} else {
		fmt.Fprintf(&b, "REFUSED: %s\n", console.Clean(v.Reason))
		if hint != "" {
			fmt.Fprintln(&b, console.Clean(hint))
		}
	}
	if v.Model != "" {
		fmt.Fprintf(&b, "\nmodel     %s %s\nprovider  %s\nreceipt   %s, signed %s\nanswer    %d tokens to a prompt of %d; ended by %s\n",
			v.Model, console.Clean(v.ModelName), npub(v.Provider), v.Receipt, v.Signed, v.AnswerTokens, v.PromptTokens, v.Finish)
	}
	list := func(title string, lines []string) {
		if len(lines) > 0 {
			fmt.Fprintf(&b, "\n%s\n", title)
		}
		for _, l := range lines {
			fmt.Fprintf(&b, "  - %s\n", l)
		}
	}
	list("Checked", v.Checked)
	list("Not checked", v.NotChecked)
	var odds []string
	for _, o := range v.Odds {
		odds = append(odds, fmt.Sprintf("If %s: %s.", o.If, share(o.Missed)))
	}
	list("A forged run is accepted with this probability", odds)
	_, err := io.WriteString(w, b.String())
	return err
}

// share writes a probability so that a person sees its size.
func share(p float64) string {
	if p < 1e-4 {
		return fmt.Sprintf("%.1e", p)
	}
	return fmt.Sprintf("%.3g %%", 100*p)
}
