package main

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/geistnet/geist/internal/bench"
	"github.com/geistnet/geist/internal/console"
	"github.com/geistnet/geist/internal/synth"
	"github.com/geistnet/geist/internal/tales"
)

// Bench measures speed and memory.
func (v verbs) Bench() *cobra.Command {
	c := &cobra.Command{
		Use:   "bench [MODEL]",
		Short: "Measure how fast this machine runs a model, and how much memory that takes",
		Long: `Measures prefill, decoding and several sessions at once, the rate at which
decoding reads memory beside the rate at which this machine can read at all,
the time to load and the most memory taken. Rates are medians over rounds.

Without MODEL, --synthetic makes one with random weights, kept for the next
time under $GEIST_HOME, or else in geist in the XDG cache directory.`,
		Args:              cobra.MaximumNArgs(1),
		ValidArgsFunction: v.completeModels,
	}
	all := []int{runtime.GOMAXPROCS(0)}
	if all[0] > 1 {
		all = []int{1, all[0]}
	}
	var o bench.Options
	f := c.Flags()
	preset := f.String("synthetic", "", "make a model: "+strings.Join(synth.PresetNames(), ", "))
	kind := f.String("type", "q8_0", "weights of the synthetic model: q4_k_m or a format such as q4_0, f16")
	f.IntSliceVar(&o.Threads, "threads", all, "numbers of threads")
	f.IntVar(&o.Prefill, "prefill", 512, "tokens of the prompt")
	f.IntVar(&o.Decode, "decode", 64, "tokens to decode")
	f.IntVar(&o.Sessions, "sessions", 8, "sessions at once; 0 leaves them out")
	f.IntVar(&o.Rounds, "rounds", 3, "how often all is measured")
	bus := f.Int("bus-mib", 0, "MiB on which bandwidth is measured; 0: four times the largest cache, at least 1024")
	within(c, 1, 1024, "threads")
	within(c, 1, 1<<20, "prefill", "decode", "rounds")
	within(c, 0, 1024, "sessions")
	within(c, 0, 1<<20, "bus-mib")
	asJSON := jsonFlag(c)
	completeFlag(c, "synthetic", synth.PresetNames())
	c.RunE = func(cmd *cobra.Command, args []string) error {
		if (len(args) == 1) == (*preset != "") {
			return fmt.Errorf("%w: name a model or make one with --synthetic", errUsage)
		}
		if *preset == "" && f.Changed("type") {
			return fmt.Errorf("%w: --type belongs to --synthetic", errUsage)
		}
		if _, ok := synth.Presets[*preset]; !ok && *preset != "" {
			return fmt.Errorf("%w: no synthetic model is called %q; there are %s", errUsage, *preset, strings.Join(synth.PresetNames(), ", "))
		}
		if _, err := parseFormat(*kind); err != nil && !strings.EqualFold(*kind, "q4_k_m") {
			return fmt.Errorf("%w, q4_k_m", err)
		}
		p := v.progress()
		defer p.End()
		if *preset != "" {
			dir, err := bench.CacheDir(v.getenv)
			if err != nil {
				return err
			}
			if o.Path, err = bench.Synthetic(cmd.Context(), dir, *preset, *kind, p.Update); err != nil {
				return err
			}
		} else {
			file, stored, err := v.openModel(args[0])
			if err != nil {
				return err
			}
			o.Path = file.Path
			if err := file.Close(); err != nil {
				return err
			}
			if isBuiltIn(stored) { // what is measured is a file
				dir, err := os.MkdirTemp("", "geist-bench")
				if err != nil {
					return err
				}
				defer os.RemoveAll(dir)
				o.Path = filepath.Join(dir, builtIn+".gguf")
				if err := os.WriteFile(o.Path, tales.Bytes(), 0o600); err != nil {
					return err
				}
			}
		}
		o.BusBytes, o.Now = *bus<<20, time.Now
		o.Progress = func(done, total int64) { p.Update("load", done, total) }
		o.Note = func(s string) {
			p.End()
			fmt.Fprintln(v.err.W, s)
		}
		r, err := bench.Measure(cmd.Context(), o)
		if err != nil {
			return hint(err)
		}
		p.End()
		if *asJSON {
			err = v.out.JSON(r)
		} else {
			err = v.benchTable(r)
		}
		if err != nil {
			return err
		}
		if unequal := slices.ContainsFunc(r.Runs, func(r *bench.Run) bool { return !r.SessionsEqual }); unequal {
			return fmt.Errorf("sessions that ran together gave other tokens than alone; please report this with the model and %s", r.Kernel)
		}
		return nil
	}
	return c
}

func (v verbs) benchTable(r *bench.Result) error {
	lines := [][2]string{
		{"model", r.Model},
		{"file", console.Size(r.FileBytes)},
		{"kernel", r.Kernel},
		{"load", fmt.Sprintf("%.2f s", r.LoadSeconds)},
		{"predicted", console.Size(r.PredictedBytes) + " of memory, with a KV cache of " + console.Size(r.KVBytes)},
	}
	if r.PeakRSSBytes > 0 {
		lines = append(lines, [2]string{"peak", fmt.Sprintf("%s, %.2f times file and KV cache", console.Size(r.PeakRSSBytes), r.PeakRatio)})
	}
	for _, l := range lines {
		if _, err := fmt.Fprintf(v.out.W, "%-10s %s\n", l[0], console.Clean(l[1])); err != nil {
			return err
		}
	}
	if _, err := fmt.Fprintf(v.out.W, "\nPrompt of %d tokens, %d decoded; medians of %d rounds.\n\n", r.Prefill, r.Decode, r.Rounds); err != nil {
		return err
	}
	head := []string{"THREADS", "PREFILL tok/s", "DECODE tok/s", "READ GB/s", "BUS GB/s", "READ/BUS"}
	if r.Sessions > 0 {
		head = append(head, "1 SESSION tok/s", fmt.Sprintf("%d SESSIONS tok/s", r.Sessions), "TIMES", "EQUAL")
	}
	var rows [][]string
	for _, run := range r.Runs {
		row := []string{
			fmt.Sprint(run.Threads), fmt.Sprintf("%.1f", run.PrefillRate), fmt.Sprintf("%.2f", run.DecodeRate),
			fmt.Sprintf("%.2f", run.ReadGB), fmt.Sprintf("%.2f", run.BusGB), fmt.Sprintf("%.2f", run.Ratio),
		}
		if r.Sessions > 0 {
			row = append(row, fmt.Sprintf("%.2f", run.SingleRate), fmt.Sprintf("%.2f", run.SessionsRate),
				fmt.Sprintf("%.2f", run.SessionsRatio), fmt.Sprint(run.SessionsEqual))
		}
		rows = append(rows, row)
	}
	return v.out.Table(head, rows)
}
