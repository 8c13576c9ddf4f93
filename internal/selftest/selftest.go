// Package selftest shows on the machine at hand that equal runs give equal
// bits. It makes small random models of every weight format and several
// families, generates tokens with each kernel path of the machine, several
// numbers of threads, sizes of batches, cuts of prompts and through the engine,
// hashes all logits, and compares the hashes with each other and with golden
// ones that are part of the program.
package selftest

import (
	"context"
	"fmt"
	"slices"

	"github.com/geistnet/geist/internal/engine"
	"github.com/geistnet/geist/internal/gguf"
	"github.com/geistnet/geist/internal/kernel"
	"github.com/geistnet/geist/internal/model"
)

// Options of Run.
type Options struct {
	Paths     []kernel.Path // nil: all that the machine has
	Threads   []int         // nil: 1, 2 and 7
	Positions int64         // generate at least this many positions in all
	Quick     bool          // each path once directly and once through the engine
	Progress  func(done, total int64)

	golden string                                                      // for tests; "": the embedded ones
	tamper func(p kernel.Path, threads int, model string, file []byte) // for tests: damages a copy of the file
	only   func(model string) bool                                     // for tests
	seen   func(model string, g golden)                                // for tests: what the first run gave
}

// Mismatch is a run that did not give the bits it should have given.
type Mismatch struct {
	Model    string `json:"model"`
	Path     string `json:"path"`
	Threads  int    `json:"threads"`
	Variant  string `json:"variant"`
	Round    int    `json:"round"`
	Stream   int    `json:"stream"`          // -1: not known
	Position int    `json:"position"`        // in the stream, prompt included; -1: not known
	Against  string `json:"against"`         // "golden", or the run it was compared with
	Error    string `json:"error,omitempty"` // the run ended with this instead of a result
}

// ModelResult is the outcome for one model.
type ModelResult struct {
	Name   string `json:"name"`
	Golden string `json:"golden"` // of all logits of the first round
	Hash   string `json:"hash"`   // what the first run gave
}

// RunResult is the outcome of one path with one number of threads.
type RunResult struct {
	Path       string `json:"path"`
	Threads    int    `json:"threads"`
	Positions  int64  `json:"positions"`
	Mismatches int    `json:"mismatches"`
}

// Report is the outcome of Run.
type Report struct {
	Paths      []string      `json:"paths"`
	Threads    []int         `json:"threads"`
	Equal      bool          `json:"equal"`
	Positions  int64         `json:"positions"` // generated tokens
	Mismatches int           `json:"mismatches"`
	Details    []Mismatch    `json:"details,omitempty"` // the first of them
	Models     []ModelResult `json:"models"`
	Runs       []RunResult   `json:"runs"`
}

const maxDetails = 20

// task is one run of one model.
type task struct {
	round   int
	path    kernel.Path
	threads int
	variant variant
}

// Run makes all runs. An error means that they could not be made; differences
// are in the report.
func Run(ctx context.Context, o Options) (*Report, error) {
	if o.Paths == nil {
		o.Paths = kernel.Paths()
	}
	for _, p := range o.Paths {
		if !slices.Contains(kernel.Paths(), p) {
			return nil, fmt.Errorf("the path %v does not run on this machine; those that do: %v", p, kernel.Paths())
		}
	}
	if o.Threads == nil {
		o.Threads = []int{1, 2, 7}
	}
	if len(o.Paths) == 0 || len(o.Threads) == 0 || slices.Min(o.Threads) < 1 {
		return nil, fmt.Errorf("paths %v and threads %v leave nothing to test", o.Paths, o.Threads)
	}
	if o.golden == "" {
		o.golden = goldenText
	}
	gold, err := parseGolden(o.golden)
	if err != nil {
		return nil, err
	}
	r := &runner{o: o, golden: gold, teams: map[int]*kernel.Team{}}
	for _, n := range o.Threads {
		if r.teams[n] == nil {
			r.teams[n] = kernel.NewTeam(n)
			defer r.teams[n].Close()
		}
	}
	r.report.Threads = o.Threads
	for _, p := range o.Paths {
		r.report.Paths = append(r.report.Paths, p.String())
		for _, n := range o.Threads {
			r.report.Runs = append(r.report.Runs, RunResult{Path: p.String(), Threads: n})
		}
	}
	for _, s := range subjects() {
		if o.only == nil || o.only(s.name) {
			r.subjects = append(r.subjects, s)
		}
	}
	for i, rounds := range r.plan() {
		if err := r.model(ctx, r.subjects[i], rounds); err != nil {
			return nil, err
		}
	}
	r.report.Equal = r.report.Mismatches == 0
	return &r.report, nil
}

type runner struct {
	o        Options
	golden   map[string]golden
	subjects []subject
	teams    map[int]*kernel.Team
	total    int64
	report   Report
}

// plan decides how many rounds each subject gets and sets the total.
func (r *runner) plan() []int {
	rounds := make([]int, len(r.subjects))
	add := func(i int) {
		w := workloadOf(r.subjects[i], rounds[i])
		for _, t := range r.tasks(rounds[i]) {
			r.total += w.positions() * int64(max(t.variant.repeat, 1))
		}
		rounds[i]++
	}
	for i := range r.subjects {
		add(i)
	}
	for i := 0; r.total < r.o.Positions && len(rounds) > 0; i = (i + 1) % len(rounds) {
		add(i)
	}
	return rounds
}

// Ways to compute a workload. The first computes whole prompts of all streams
// in one batch.
var (
	directly = []variant{{}, {group: 3, chunk: 7}, {group: 1, chunk: 33}, {group: 2, chunk: 1}, {chunk: 64}}
	byEngine = []variant{
		{engine: true, options: engine.Options{Sessions: 8, Batch: 256}, repeat: 2},
		{engine: true, options: engine.Options{Sessions: 3, Batch: 7, NoReuse: true}, repeat: 1},
		{engine: true, options: engine.Options{Sessions: 16, Batch: 32}, repeat: 2},
	}
)

// tasks lists the runs of a round; the first is the one that others are
// compared with. The first round takes every variant, on the Generic path, which
// is slow, each with one number of threads only; later rounds take turns.
func (r *runner) tasks(round int) []task {
	var list []task
	for i, p := range r.o.Paths {
		for k, n := range r.o.Threads {
			add := func(v ...variant) {
				for _, v := range v {
					list = append(list, task{round, p, n, v})
				}
			}
			slow := p == kernel.Generic
			switch turn := round + i + k; {
			case r.o.Quick && round == 0:
				if k == 0 {
					add(directly[0])
				}
				if k == min(1, len(r.o.Threads)-1) {
					add(byEngine[0])
				}
			case round == 0 && !slow:
				add(directly...)
				add(byEngine...)
			case round == 0:
				for j, v := range append(slices.Clone(directly), byEngine...) {
					if j%len(r.o.Threads) == k {
						add(v)
					}
				}
			case i+k == 0:
				add(directly[0])
			case slow: // one slow run of a later round is enough
			case turn%4 == 3:
				add(byEngine[turn/4%2*2]) // those that decode many together
			case turn%4 == 1:
				add(variant{chunk: 1 + turn%3, group: 16})
			default:
				add(variant{chunk: turn % 2})
			}
		}
	}
	return list
}

func (r *runner) model(ctx context.Context, s subject, rounds int) error {
	g, ok := r.golden[s.name]
	if !ok {
		return fmt.Errorf("there is no golden hash of model %s", s.name)
	}
	file, err := s.file()
	if err != nil {
		return err
	}
	loaded := map[any]*model.Model{}
	defer func() {
		for _, m := range loaded {
			m.Close()
		}
	}()
	load := func(t task) (*model.Model, error) {
		var key any = t.path
		b := file
		if r.o.tamper != nil {
			key, b = [2]int{int(t.path), t.threads}, slices.Clone(file)
			r.o.tamper(t.path, t.threads, s.name, b)
		}
		if loaded[key] == nil {
			var f *gguf.File
			f, err := parse(s, b)
			if err != nil {
				return nil, err
			}
			if loaded[key], err = model.Load(f, model.Options{Path: t.path, Team: r.teams[t.threads]}); err != nil {
				delete(loaded, key)
				return nil, fmt.Errorf("load model %s: %w", s.name, err)
			}
		}
		return loaded[key], nil
	}
	for round := range rounds {
		w := workloadOf(s, round)
		var ref *trace
		var first task
		for _, t := range r.tasks(round) {
			if err := ctx.Err(); err != nil {
				return err
			}
			m, err := load(t)
			if err != nil {
				return err
			}
			traces, err := t.run(ctx, m, r.teams[t.threads], w)
			if ctx.Err() != nil {
				return ctx.Err()
			}
			r.count(t, w.positions()*int64(max(t.variant.repeat, 1)))
			if err != nil {
				r.mismatch(s, t, -1, -1, "golden", err)
				continue
			}
			if ref == nil && traces[0].digests != nil {
				ref, first = traces[0], t
				if round == 0 {
					got := goldenOf(ref)
					r.report.Models = append(r.report.Models, ModelResult{s.name, g.hash, got.hash})
					if r.o.seen != nil {
						r.o.seen(s.name, got)
					}
					if stream, pos, yes := g.differs(ref); yes {
						r.mismatch(s, t, stream, pos, "golden", nil)
					}
				}
				continue
			}
			for _, x := range traces {
				if ref == nil {
					break // the run to compare with has failed and was counted
				}
				if stream, pos, yes := x.differs(ref, w); yes {
					r.mismatch(s, t, stream, pos, fmt.Sprintf("%v, %d threads", first.path, first.threads), nil)
				}
			}
		}
	}
	return nil
}

func (t task) run(ctx context.Context, m *model.Model, team *kernel.Team, w workload) ([]*trace, error) {
	if t.variant.engine {
		return served(ctx, m, team, w, t.variant)
	}
	x, err := direct(m, team, w, t.variant)
	return []*trace{x}, err
}

func (r *runner) result(t task) *RunResult {
	i := slices.IndexFunc(r.report.Runs, func(x RunResult) bool { return x.Path == t.path.String() && x.Threads == t.threads })
	return &r.report.Runs[i]
}

func (r *runner) count(t task, positions int64) {
	r.result(t).Positions += positions
	r.report.Positions += positions
	if r.o.Progress != nil {
		r.o.Progress(r.report.Positions, r.total)
	}
}

func (r *runner) mismatch(s subject, t task, stream, position int, against string, err error) {
	r.report.Mismatches++
	r.result(t).Mismatches++
	if len(r.report.Details) < maxDetails {
		m := Mismatch{Model: s.name, Path: t.path.String(), Threads: t.threads, Variant: t.variant.String(), Round: t.round, Stream: stream, Position: position, Against: against}
		if err != nil {
			m.Error = err.Error()
		}
		r.report.Details = append(r.report.Details, m)
	}
}
