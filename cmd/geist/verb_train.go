package main

import (
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"os"
	"runtime"
	"time"

	"github.com/spf13/cobra"

	"github.com/geistnet/geist/internal/console"
	"github.com/geistnet/geist/internal/corpus"
	"github.com/geistnet/geist/internal/gguf"
	"github.com/geistnet/geist/internal/kernel"
	"github.com/geistnet/geist/internal/matmul"
	"github.com/geistnet/geist/internal/train"
)

// Train makes a model from text.
func (v verbs) Train() *cobra.Command {
	return group("train", "Train a small model, with the same bits on every machine", v.trainTales(), v.trainCheck())
}

func (v verbs) trainTales() *cobra.Command {
	c := &cobra.Command{
		Use:   "tales --data FILE --out FILE.gguf",
		Short: "Train the built-in model on a file of tales",
		Long: `Trains the model that is built into this program and writes it as a GGUF file.
FILE has a paragraph on each line and an empty line after each book.

Equal text, seed and version give an equal file on every machine, whatever the
number of threads. The state of the run is kept beside the output, in
FILE.gguf.state; the same command goes on from there after an interruption, even
a power cut, to the same result.`,
		Example: "  geist train tales --data fairy-tales.txt --out tales.gguf",
		Args:    cobra.NoArgs,
	}
	data := c.Flags().String("data", "", "text to learn from")
	out := c.Flags().String("out", "", "file to write the model to")
	threads := c.Flags().Int("threads", runtime.NumCPU(), "threads to use; the result does not depend on it")
	dense := c.Flags().Bool("dense", false, "train the model without memory that costs as much for a token, for comparison")
	steps := c.Flags().Int("steps", 0, "steps to make (those of the recipe, if not given)")
	seed := c.Flags().Uint64("seed", 1, "seed of all that is random")
	interval := c.Flags().Duration("every", 2*time.Minute, "time between two writings of the run's state")
	losses := c.Flags().String("losses", "", "file to write the losses of all steps to, as CSV")
	asJSON := jsonFlag(c)
	_ = c.MarkFlagRequired("data")
	_ = c.MarkFlagRequired("out")
	c.RunE = func(cmd *cobra.Command, _ []string) error {
		if *threads < 1 || *steps < 0 || *interval < 0 {
			return fmt.Errorf("%w: --threads must be at least 1, --steps and --every not negative", errUsage)
		}
		r := train.Tales()
		if *steps > 0 {
			r.Steps = *steps
		}
		r.Seed = *seed
		if *dense {
			r = r.WithoutMemory()
		}
		text, err := os.ReadFile(*data)
		if err != nil {
			return err
		}
		show := v.showTraining()
		o := train.Options{Checkpoint: *out + ".state", Interval: *interval, Threads: *threads, Path: matmul.Best(), Now: v.now, Report: show.report}
		run, err := prepared(cmd.Context(), v.env, func() (*train.Run, error) { return train.NewRun(r, text, o) })
		if err != nil {
			return fmt.Errorf("%s: %w", *data, err)
		}
		err = run.Train(cmd.Context())
		show.end()
		if err != nil {
			return fmt.Errorf("%w: %w", errResumes, err)
		}
		t, err := finishTraining(run, *out, *losses, *threads)
		switch {
		case err != nil:
			return err
		case *asJSON:
			return v.out.JSON(t)
		}
		return t.say(v.out.W)
	}
	return c
}

// prepared does what has to be done before training: it says so, and ends with ctx
// without waiting, since nothing is written before it is done.
func prepared[T any](ctx context.Context, e *env, prepare func() (T, error)) (T, error) {
	type result struct {
		t   T
		err error
	}
	done := make(chan result, 1)
	fmt.Fprintln(e.err.W, "preparing the text; this takes half a minute, and longer on a busy machine")
	go func() {
		t, err := prepare()
		done <- result{t, err}
	}()
	select {
	case r := <-done:
		return r.t, r.err
	case <-ctx.Done():
		var none T
		return none, ctx.Err()
	}
}

// trained is what "train tales --json" says.
type trained struct {
	Path     string         `json:"path"`
	SHA256   string         `json:"sha256"`
	Bytes    int            `json:"bytes"`
	Values   int            `json:"values"`
	InRows   int            `json:"values_in_rows"`
	Held     float64        `json:"held_out_loss"`
	Texts    int            `json:"texts"` // that the two losses are of
	Training float64        `json:"training_loss"`
	Answers  float64        `json:"answer_loss"`
	Tables   []trainedTable `json:"tables"`
}

type trainedTable struct {
	Name string `json:"name"`
	Root string `json:"root"` // with moments
}

func (t *trained) say(w io.Writer) error {
	if _, err := fmt.Fprintf(w, "%s: %s, %d values and %d in rows of memory, held-out loss %.4f\n", t.Path, console.Size(int64(t.Bytes)), t.Values, t.InRows, t.Held); err != nil {
		return err
	}
	for _, x := range t.Tables {
		if _, err := fmt.Fprintf(w, "root of %s with moments: %s\n", x.Name, x.Root); err != nil {
			return err
		}
	}
	_, err := fmt.Fprintf(w, "SHA-256 %s\nloss of %d held-out texts: %.4f in training, %.4f as answers are computed\n", t.SHA256, t.Texts, t.Training, t.Answers)
	return err
}

// trainingLine shows one line that changes on a terminal, elsewhere a line from
// time to time.
type trainingLine struct {
	out  console.Out
	now  func() time.Time
	last time.Time
	open bool // a line without its end stands on the terminal
}

func (v verbs) showTraining() *trainingLine { return &trainingLine{out: v.err, now: v.now} }

func (l *trainingLine) report(p train.Progress) {
	pause := 15 * time.Second
	if l.out.Terminal {
		pause = 200 * time.Millisecond
	}
	now := l.now()
	if now.Sub(l.last) < pause && p.Step < p.Steps {
		return
	}
	l.last = now
	held := "not measured yet"
	if p.Held > 0 {
		held = fmt.Sprintf("%.4f", p.Held)
	}
	text := fmt.Sprintf("step %d of %d: loss %.4f, held out %s, %.0f tokens/s, %v left", p.Step, p.Steps, p.Loss, held, p.Rate, p.Left)
	if l.out.Terminal {
		fmt.Fprintf(l.out.W, "\r%-78s", text)
		l.open = true
		return
	}
	fmt.Fprintln(l.out.W, text)
}

func (l *trainingLine) end() {
	if l.open {
		fmt.Fprintln(l.out.W)
		l.open = false
	}
}

// finishTraining writes the model and tells what came out.
func finishTraining(run *train.Run, out, losses string, threads int) (*trained, error) {
	t := &trained{Path: out}
	var err error
	if t.Held, err = run.Held(0); err != nil {
		return nil, err
	}
	if losses != "" {
		if err := os.WriteFile(losses, run.Losses(), 0o666); err != nil {
			return nil, err
		}
	}
	if err := run.WriteFile(out); err != nil {
		return nil, err
	}
	b, err := os.ReadFile(out)
	if err != nil {
		return nil, err
	}
	t.Bytes, t.SHA256 = len(b), fmt.Sprintf("%x", sha256.Sum256(b))
	t.Values, t.InRows = run.Model.NumParams()
	for _, x := range run.Model.Tables {
		t.Tables = append(t.Tables, trainedTable{x.Name, x.Root().String()})
	}
	f, err := gguf.Parse(out, b)
	if err != nil {
		return nil, err
	}
	texts := run.Corpus.Held[:min(60, len(run.Corpus.Held))]
	t.Texts = len(texts)
	if t.Training, err = run.LossOf(texts); err != nil {
		return nil, err
	}
	t.Answers, err = train.Canonical(f, texts, kernel.Best(), threads)
	return t, err
}

func (v verbs) trainCheck() *cobra.Command {
	c := &cobra.Command{
		Use:   "check FILE.gguf --data FILE",
		Short: "Measure a trained model on text that it was not trained on",
		Long: `Computes the loss of a model that "geist train tales" made on the held-out part of
its text, as answers are computed: from the model file, in the canonical
arithmetic, each text from its first token. The loss is in nats per token.`,
		Example: "  geist train check tales.gguf --data fairy-tales.txt",
		Args:    cobra.ExactArgs(1),
	}
	data := c.Flags().String("data", "", "text that the model was trained on")
	threads := c.Flags().Int("threads", runtime.NumCPU(), "threads to use; the result does not depend on it")
	texts := c.Flags().Int("texts", 0, "measure only so many texts (0: all)")
	seed := c.Flags().Uint64("seed", 1, "seed of the training")
	asJSON := jsonFlag(c)
	_ = c.MarkFlagRequired("data")
	c.RunE = func(cmd *cobra.Command, args []string) error {
		if *threads < 1 || *texts < 0 {
			return fmt.Errorf("%w: --threads must be at least 1, --texts not negative", errUsage)
		}
		text, err := os.ReadFile(*data)
		if err != nil {
			return err
		}
		f, _, err := v.openModel(args[0])
		if err != nil {
			return err
		}
		defer f.Close()
		r := train.Tales()
		r.Seed = *seed
		set, err := prepared(cmd.Context(), v.env, func() (*corpus.Set, error) { return r.Prepare(text) })
		if err != nil {
			return fmt.Errorf("%s: %w", *data, err)
		}
		held := set.Held
		if *texts > 0 && *texts < len(held) {
			held = held[:*texts]
		}
		var loss float64
		if err := f.Guard(func() { loss, err = train.Canonical(f, held, kernel.Best(), *threads) }); err != nil {
			return err
		}
		if err != nil {
			return err
		}
		if *asJSON {
			return v.out.JSON(map[string]any{"texts": len(held), "answer_loss": loss})
		}
		_, err = fmt.Fprintf(v.out.W, "held-out loss of %d texts in canonical arithmetic: %.4f\n", len(held), loss)
		return err
	}
	return c
}
