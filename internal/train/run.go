package train

import (
	"context"
	"crypto/sha256"
	"fmt"
	"os"
	"time"

	"github.com/geistnet/geist/internal/corpus"
	"github.com/geistnet/geist/internal/matmul"
)

// Options say how a run is made. None of them changes its result.
type Options struct {
	Checkpoint string        // file in which the run's state is kept
	Interval   time.Duration // between checkpoints
	Threads    int
	Path       matmul.Path
	Now        func() time.Time
	Report     func(Progress) // called after every step
}

// Progress is where a run stands.
type Progress struct {
	Step, Steps int
	Loss        float64       // mean of the last steps
	Held        float64       // last measured, 0 before that
	Rate        float64       // tokens per second, those that do not count included
	Left        time.Duration // 0: not known yet
	Resumed     bool          // from a checkpoint
}

// A Run is a recipe with its text, ready to go on.
type Run struct {
	Recipe  Recipe
	Model   *Model
	Corpus  *corpus.Set
	History History

	identity []byte
	texts    *source
	held     *source
	o        Options
	trainer  *Trainer
	resumed  bool
}

// heldPart is how many windows of held-out text are measured during a run.
const heldPart = 32

// Prepare makes the sequences and the vocabulary that r is trained with.
func (r *Recipe) Prepare(text []byte) (*corpus.Set, error) {
	set, err := corpus.Prepare(text, corpus.Options{Vocabulary: r.Shape.Vocab, Context: r.Shape.Context, Seed: r.Seed})
	if err != nil {
		return nil, err
	}
	if n := set.Vocabulary.Size(); n != r.Shape.Vocab {
		return nil, fmt.Errorf("recipe %s: the text gives a vocabulary of %d; expected %d", r.Name, n, r.Shape.Vocab)
	}
	return set, nil
}

// NewRun prepares the text and the model, or takes the model from the checkpoint
// if there is one. A checkpoint that does not fit is an error.
func NewRun(r Recipe, text []byte, o Options) (*Run, error) {
	if r.Batch < 1 || r.Every < 1 || r.Steps < 1 {
		return nil, fmt.Errorf("recipe %s: batch of %d windows, %d steps, measured every %d; all must be above 0", r.Name, r.Batch, r.Steps, r.Every)
	}
	run := &Run{Recipe: r, o: o, identity: r.identity(sha256.Sum256(text))}
	var err error
	if run.Model, err = NewModel(r.Shape, r.Seed); err != nil {
		return nil, err
	}
	if run.resumed, err = load(o.Checkpoint, run.identity, r.Every, run.Model, &run.History); err != nil {
		return nil, err
	}
	set, err := r.Prepare(text)
	if err != nil {
		return nil, err
	}
	run.Corpus = set
	if run.texts, err = newSource(set.Train, r.Shape.Context, r.Seed, true); err != nil {
		return nil, err
	}
	if run.held, err = newSource(set.Held, r.Shape.Context, r.Seed, false); err != nil {
		return nil, fmt.Errorf("held-out text: %w", err)
	}
	run.trainer = NewTrainer(run.Model, r.Batch, o.Path, o.Threads)
	run.trainer.Dropout(r.RowDropout, r.Seed, run.Model.Step)
	return run, nil
}

// Train makes the steps that are left and writes checkpoints, the last one after
// the last step. When ctx ends, it writes one and returns ctx's error.
func (r *Run) Train(ctx context.Context) error {
	m, saved, begin, first := r.Model, r.o.Now(), r.o.Now(), r.Model.Step
	var b Batch
	if m.Step == r.Recipe.Steps {
		return nil
	}
	for m.Step < r.Recipe.Steps {
		if ctx.Err() != nil {
			if err := r.save(); err != nil {
				return err
			}
			return ctx.Err()
		}
		r.texts.fill(&b, m.Step*r.Recipe.Batch, r.Recipe.Batch)
		loss, err := r.trainer.Gradient(b)
		if err != nil {
			return fmt.Errorf("step %d: %w", m.Step, err)
		}
		if err := r.trainer.Update(&r.Recipe.Optimiser); err != nil {
			return fmt.Errorf("step %d: %w", m.Step-1, err)
		}
		r.History.Loss = append(r.History.Loss, loss)
		if m.Step%r.Recipe.Every == 0 {
			held, err := r.Held(heldPart)
			if err != nil {
				return err
			}
			r.History.Held = append(r.History.Held, held)
		}
		now := r.o.Now()
		if r.o.Report != nil {
			r.o.Report(r.progress(now.Sub(begin), m.Step-first))
		}
		if now.Sub(saved) >= r.o.Interval {
			if err := r.save(); err != nil {
				return err
			}
			saved = now
		}
	}
	return r.save()
}

func (r *Run) save() error {
	if err := save(r.o.Checkpoint, r.identity, r.Model, &r.History); err != nil {
		return fmt.Errorf("write checkpoint: %w", err)
	}
	return nil
}

// progress is after steps made in took.
func (r *Run) progress(took time.Duration, steps int) Progress {
	p := Progress{Step: r.Model.Step, Steps: r.Recipe.Steps, Resumed: r.resumed}
	last := r.History.Loss[max(0, len(r.History.Loss)-20):]
	for _, l := range last {
		p.Loss += l
	}
	p.Loss /= float64(len(last))
	if n := len(r.History.Held); n > 0 {
		p.Held = r.History.Held[n-1]
	}
	if s := took.Seconds(); s > 0 {
		p.Rate = float64(steps*r.trainer.n) / s
		p.Left = time.Duration(float64(took) / float64(steps) * float64(p.Steps-p.Step)).Round(time.Second)
	}
	return p
}

// Held is the mean loss, in nats per token, of the first windows windows of
// held-out text, or of all with 0.
func (r *Run) Held(windows int) (float64, error) {
	all := len(r.held.windows)
	if windows == 0 || windows > all {
		windows = all
	}
	var b Batch
	var sum float64
	count := 0
	for w := 0; w < windows; w += r.Recipe.Batch {
		n := min(r.Recipe.Batch, windows-w)
		r.held.fill(&b, w, r.Recipe.Batch)
		for i := n * r.Recipe.Shape.Context; i < len(b.Out); i++ {
			b.Out[i] = None
		}
		loss, err := r.trainer.Loss(b)
		if err != nil {
			return 0, fmt.Errorf("measure held-out text: %w", err)
		}
		k := r.trainer.counted()
		sum += float64(loss * float64(k))
		count += k
	}
	return sum / float64(count), nil
}

// RemoveCheckpoint removes the file of the run's state.
func (r *Run) RemoveCheckpoint() error { return os.Remove(r.o.Checkpoint) }
