package main

import (
	"fmt"
	"math"
	"runtime"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/geistnet/geist/internal/kernel"
	"github.com/geistnet/geist/internal/selftest"
)

// Selftest shows that this machine gives the bits that all others give.
func (v verbs) Selftest() *cobra.Command {
	c := &cobra.Command{
		Use:   "selftest",
		Short: "Check that this machine computes the same bits as all others",
		Long: `Generates tokens with small random models of every weight format, on each kernel
path of this machine, with 1, 2 and 7 threads, prompts cut and batched in
several ways, and through the engine with and without shared prefixes. All
logits are hashed and compared with the hashes that are built into this program,
which are the same for every machine. The exit code is 1 if a bit differs.`,
		Example: "  geist selftest\n  geist selftest --positions 1000000 --json",
		Args:    cobra.NoArgs,
	}
	positions := c.Flags().Int64("positions", 0, "generate at least this many tokens in all")
	paths := c.Flags().StringSlice("paths", nil, "kernel paths to test (all of this machine, if not given)")
	quick := c.Flags().Bool("quick", false, "run each path only a few times")
	asJSON := jsonFlag(c)
	completeFlag(c, "paths", pathNames())
	c.RunE = func(cmd *cobra.Command, _ []string) error {
		o := selftest.Options{Positions: *positions, Quick: *quick}
		if *positions < 0 {
			return fmt.Errorf("%w: --positions must not be negative", errUsage)
		}
		for _, name := range *paths {
			p, err := kernel.ParsePath(name)
			if err != nil {
				return fmt.Errorf("%w: %w", errUsage, err)
			}
			o.Paths = append(o.Paths, p)
		}
		p := v.progress()
		p.Amount = func(n int64) string { return strconv.FormatInt(n, 10) }
		o.Progress = func(done, total int64) { p.Update("tokens", done, total) }
		begin := v.now()
		r, err := selftest.Run(cmd.Context(), o)
		p.End()
		if err != nil {
			return err
		}
		seconds := math.Round(v.now().Sub(begin).Seconds()*10) / 10
		if *asJSON {
			err = v.out.JSON(struct {
				*selftest.Report
				Platform string  `json:"platform"`
				Seconds  float64 `json:"seconds"`
			}{r, runtime.GOOS + "/" + runtime.GOARCH, seconds})
		} else {
			err = v.selftestTable(r, seconds)
		}
		if err == nil && !r.Equal {
			err = errReported
		}
		return err
	}
	return c
}

func (v verbs) selftestTable(r *selftest.Report, seconds float64) error {
	var rows [][]string
	for _, x := range r.Runs {
		result := "equal"
		switch {
		case x.Mismatches > 0:
			result = fmt.Sprintf("DIFFERS in %d runs", x.Mismatches)
		case x.Positions == 0:
			result = "not run"
		}
		rows = append(rows, []string{x.Path, strconv.Itoa(x.Threads), strconv.FormatInt(x.Positions, 10), result})
	}
	if err := v.out.Table([]string{"PATH", "THREADS", "TOKENS", "LOGITS"}, rows); err != nil {
		return err
	}
	for _, m := range r.Details {
		where := "somewhere"
		if m.Position >= 0 {
			where = fmt.Sprintf("at position %d of stream %d", m.Position, m.Stream)
		}
		fmt.Fprintf(v.out.W, "model %s, path %s, %d threads, round %d: differs from %s %s (%s)", m.Model, m.Path, m.Threads, m.Round, m.Against, where, m.Variant)
		if m.Error != "" {
			fmt.Fprintf(v.out.W, ": %s", m.Error)
		}
		fmt.Fprintln(v.out.W)
	}
	verdict := "all logits equal the golden hashes"
	if !r.Equal {
		verdict = fmt.Sprintf("%d runs differ; please report this with the processor's name", r.Mismatches)
	}
	_, err := fmt.Fprintf(v.out.W, "%d models, %s, %d tokens in %g s: %s\n", len(r.Models), strings.Join(r.Paths, " "), r.Positions, seconds, verdict)
	return err
}
