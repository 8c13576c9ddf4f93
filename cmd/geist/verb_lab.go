package main

import (
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/geistnet/geist/internal/lab"
)

// Lab shows what audits catch.
func (v verbs) Lab() *cobra.Command {
	return group("lab", "Attack the audit, and audit honest runs in great number", v.labAttacks(), v.labHonest())
}

func (v verbs) labAttacks() *cobra.Command {
	c := &cobra.Command{
		Use:   "attacks",
		Short: "Let providers cheat in every known way, and count how many are caught",
		Long: `Runs small random models as a cheating provider would: it alters what it can,
commits to the result, signs, and answers challenges as well as it can. For every
attack the share that was caught, its 95 % interval (Wilson's) and the share that
theory predicts are printed. What sampling catches too rarely, because little was
forged, is executed again by an honest node, which must find all of it. The exit
code is 1 if something is not as predicted. The same --seed gives the same result.`,
		Example: "  geist lab attacks\n  geist lab attacks --only other-model --trials 1000 --json",
		Args:    cobra.NoArgs,
	}
	var o lab.Options
	f := c.Flags()
	f.IntVar(&o.Trials, "trials", 200, "challenges for each attack and size of challenge; a tenth for receipts")
	f.StringVar(&o.Only, "only", "", "perform only the attack of this name")
	f.Uint64Var(&o.Seed, "seed", 1, "decides all that is random")
	asJSON := jsonFlag(c)
	c.RunE = func(cmd *cobra.Command, _ []string) error {
		if o.Trials < 1 {
			return fmt.Errorf("%w: --trials must be at least 1", errUsage)
		}
		if o.Only != "" && !slices.Contains(lab.Names(), o.Only) {
			return fmt.Errorf("%w: there is no attack %q", errUsage, o.Only)
		}
		p := v.progress()
		p.Amount = func(n int64) string { return strconv.FormatInt(n, 10) }
		o.Progress = func(done, total int64) { p.Update("attacks", done, total) }
		rep, err := lab.Attacks(cmd.Context(), o)
		p.End()
		if err != nil {
			return err
		}
		if *asJSON {
			err = v.out.JSON(rep)
		} else {
			err = v.attackTable(rep)
		}
		if err == nil && !rep.AllAsPredicted {
			err = errReported
		}
		return err
	}
	return c
}

func (v verbs) attackTable(rep *lab.Report) error {
	var rows [][]string
	percent := func(x float64) string { return strconv.FormatFloat(100*x, 'f', 1, 64) + " %" }
	last := ""
	for _, r := range rep.Attacks {
		name, family := r.Name, r.Family
		if name == last {
			name, family = "", ""
		}
		last = r.Name
		cells, again, verdict := "", "", "yes"
		if r.Cells > 0 {
			cells = strconv.Itoa(r.Cells)
		}
		if r.ReExecuted > 0 {
			again = fmt.Sprintf("%d of %d", r.ReExecutedCaught, r.ReExecuted)
		}
		if !r.OK {
			verdict = "NO"
		}
		rows = append(rows, []string{family, name, cells, fmt.Sprintf("%d of %d", r.Caught, r.Trials), percent(r.Low) + " – " + percent(r.High), percent(r.Predicted), again, r.CaughtBy, verdict})
	}
	if err := v.out.Table([]string{"FAMILY", "ATTACK", "CELLS", "CAUGHT", "95 % INTERVAL", "PREDICTED", "RE-EXECUTED", "CAUGHT BY", "AS PREDICTED"}, rows); err != nil {
		return err
	}
	verdict := "all as predicted"
	if !rep.AllAsPredicted {
		verdict = "NOT all as predicted"
	}
	_, err := fmt.Fprintf(v.out.W, "%d attacks, %s\n", rep.Count, verdict)
	return err
}

func (v verbs) labHonest() *cobra.Command {
	c := &cobra.Command{
		Use:   "honest",
		Short: "Audit and re-execute honest runs, of which none may be accused",
		Long: `Makes answers with small random models on every kernel path of this machine with 1,
2 and 3 threads, executes each again on another path with another number of
threads, compares the trace roots and audits the proofs. The exit code is 1 if an
honest node is accused.`,
		Example: "  geist lab honest --positions 1000000 --json",
		Args:    cobra.NoArgs,
	}
	var o lab.HonestOptions
	f := c.Flags()
	f.Int64Var(&o.Positions, "positions", 100_000, "audit at least this many positions in all")
	f.Uint64Var(&o.Seed, "seed", 1, "decides all that is random")
	asJSON := jsonFlag(c)
	c.RunE = func(cmd *cobra.Command, _ []string) error {
		if o.Positions < 1 {
			return fmt.Errorf("%w: --positions must be at least 1", errUsage)
		}
		p := v.progress()
		p.Amount = func(n int64) string { return strconv.FormatInt(n, 10) }
		o.Progress = func(done, total int64) { p.Update("positions", done, total) }
		begin := v.now()
		rep, err := lab.Honest(cmd.Context(), o)
		p.End()
		if err != nil {
			return err
		}
		seconds := math.Round(v.now().Sub(begin).Seconds()*10) / 10
		if *asJSON {
			err = v.out.JSON(struct {
				*lab.HonestReport
				Seconds float64 `json:"seconds"`
			}{rep, seconds})
		} else {
			for _, d := range rep.Details {
				fmt.Fprintln(v.out.W, d)
			}
			_, err = fmt.Fprintf(v.out.W, "%d positions in %d runs of %d models on %s with %s threads, %d cells and %d tails checked in %g s: %d accusations\n",
				rep.Positions, rep.Runs, len(rep.Models), strings.Join(rep.Paths, " "), strings.Trim(strings.ReplaceAll(fmt.Sprint(rep.Threads), " ", ", "), "[]"),
				rep.Cells, rep.Tails, seconds, rep.Accusations)
		}
		if err == nil && rep.Accusations > 0 {
			err = errReported
		}
		return err
	}
	return c
}
