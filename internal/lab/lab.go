package lab

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"hash/fnv"
	"math"
	"math/rand/v2"

	"github.com/geistnet/geist/arith"
	"github.com/geistnet/geist/audit"
	"github.com/geistnet/geist/internal/kernel"
)

// What catches an attack.
const (
	ByAudit       = "audit"        // a relation, or the sampler, in the sampled proof
	ByRoot        = "root"         // an opened value is not the one that was signed or published
	ByReceipt     = "signature"    // what was signed contradicts the request, itself or another receipt
	ByReExecution = "re-execution" // an honest node finds another trace root or another token
)

// Result is one attack against challenges of one size.
type Result struct {
	Name   string `json:"name"`
	Family string `json:"family"`
	What   string `json:"what"`
	Cells  int    `json:"c"` // 0: not a matter of sampling
	Trials int    `json:"trials"`
	Caught int    `json:"caught"`
	// Rate is Caught of Trials and [Low, High] its 95 % interval (Wilson's).
	Rate float64 `json:"rate"`
	Low  float64 `json:"lo"`
	High float64 `json:"hi"`
	// Predicted is what Theory says the rate is.
	Predicted float64 `json:"predicted"`
	Theory    string  `json:"theory"`
	CaughtBy  string  `json:"caught_by"`
	// Runs that were executed again, and those whose root or tokens then differed.
	ReExecuted       int    `json:"re_executed"`
	ReExecutedCaught int    `json:"re_executed_caught"`
	Sampling         string `json:"sampling,omitempty"` // where sampling alone is not enough
	OK               bool   `json:"ok"`
}

// Report is all attacks.
type Report struct {
	Attacks        []Result `json:"attacks"`
	Count          int      `json:"count"` // of different attacks
	AllAsPredicted bool     `json:"all_as_predicted"`
}

// Options of Attacks.
type Options struct {
	Trials   int    // challenges per attack and size; 0: 300
	Seed     uint64 // decides everything
	Only     string // only this attack
	Progress func(done, total int64)
}

// attack is one way to cheat.
type attack struct {
	name, family, what string
	shape              string // of the model; "" for llama
	theory             string // the predicted rate in words
	by                 string // if not a relation
	sizes              []int  // cells of the challenges; nil for 8 and 32
	runs               int    // different forged runs; 0 for 2
	// forge makes a lying run, sealed, with the chance that a draw meets the lie.
	forge func(b *bench) (*recording, error)
	// spoil, if not nil, alters the proof.
	spoil func(b *bench, rec *recording, ch audit.Challenge, proof []byte) []byte
	// claim, instead of forge, is an attack in which nothing is sampled: it
	// reports whether the client noticed.
	claim func(b *bench) (caught bool, err error)
	odds  float64 // that a claim is noticed; 0 for 1
	// honest: the run itself is right, so re-execution has nothing to find.
	honest bool
	// draw, if not nil, is how the challenge comes about instead of from the
	// client's nonce.
	draw    func(b *bench, rec *recording, ch audit.Challenge, trial int) audit.Challenge
	predict func(miss float64) float64 // of the chance that one challenge misses; nil for 1 − miss
}

// tails are the tails of every challenge; all of them may be drawn to be
// opened whole.
const (
	tails      = 4
	full       = 4
	promptLen  = 40
	answerLen  = 20
	wideZ      = 4.5 // for OK: one false alarm in 150,000 results
	reportedZ  = 1.959964
	usualTrial = 300
)

// bench is what an attack works with.
type bench struct {
	subjects map[string]*subject
	s        *subject // the model that is claimed
	r        *rand.Rand
	sampling arith.Sampling
	prompt   []int32
	answer   int
}

func (b *bench) subject(name string) (*subject, error) {
	if s := b.subjects[name]; s != nil {
		return s, nil
	}
	s, err := newSubject(shapes()[name], kernel.Best(), 1, 64)
	if err != nil {
		return nil, fmt.Errorf("model %q: %w", name, err)
	}
	b.subjects[name] = s
	return s, nil
}

// run makes a run of the claimed model with hooks, not sealed.
func (b *bench) run(h hooks) (*recording, error) {
	return recorded(b.s, b.s.row, b.prompt, b.answer, b.sampling, h)
}

// sealed seals a run of which single draws meet the lie with chance c.
func sealed(r *recording, err error, c chance) (*recording, error) {
	if err != nil {
		return nil, err
	}
	r.chance = c
	return r, r.seal()
}

// missed is the probability that none of a challenge's draws meets the lie.
func (c chance) missed(ch audit.Challenge) float64 {
	const share = 1.0 / audit.FullOneIn
	full := (1-share)*c.tail + share*c.full
	return math.Pow(1-c.cell, float64(ch.Cells)) * math.Pow(1-c.tail, float64(ch.Tails-ch.Full)) * math.Pow(1-full, float64(ch.Full))
}

// Wilson is the interval of a share of caught among trials at z standard
// deviations.
func Wilson(caught, trials int, z float64) (low, high float64) {
	n, p := float64(trials), float64(caught)/float64(trials)
	d := 1 + z*z/n
	mid, half := (p+z*z/(2*n))/d, z/d*math.Sqrt(p*(1-p)/n+z*z/(4*n*n))
	low, high = max(0, mid-half), min(1, mid+half)
	if caught == 0 {
		low = 0
	}
	if caught == trials {
		high = 1
	}
	return low, high
}

func (b *bench) begin(a *attack, seed uint64, run int) error {
	h := fnv.New64a()
	fmt.Fprintf(h, "%s %d", a.name, run)
	b.r = rand.New(rand.NewPCG(seed, h.Sum64()))
	name := a.shape
	if name == "" {
		name = "llama"
	}
	var err error
	if b.s, err = b.subject(name); err != nil {
		return err
	}
	b.prompt, b.answer = drawPrompt(b.r, promptLen), answerLen
	b.sampling = arith.Sampling{Temperature: 0.8, TopK: 50, TopP: 0.95}
	for i := range b.sampling.Seed {
		b.sampling.Seed[i] = byte(b.r.Uint32())
	}
	return nil
}

// Attacks performs all attacks.
func Attacks(ctx context.Context, o Options) (*Report, error) {
	trials := o.Trials
	if trials == 0 {
		trials = usualTrial
	}
	b := &bench{subjects: map[string]*subject{}}
	defer func() {
		for _, s := range b.subjects {
			s.close()
		}
	}()
	rep := &Report{AllAsPredicted: true, Attacks: []Result{}}
	list := all()
	for i := range list {
		a := &list[i]
		if o.Only != "" && a.name != o.Only {
			continue
		}
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		rs, err := b.perform(a, o.Seed, trials)
		if err != nil {
			return nil, fmt.Errorf("attack %q: %w", a.name, err)
		}
		rep.Count++
		for _, r := range rs {
			rep.AllAsPredicted = rep.AllAsPredicted && r.OK
		}
		rep.Attacks = append(rep.Attacks, rs...)
		if o.Progress != nil {
			o.Progress(int64(i+1), int64(len(list)))
		}
	}
	if rep.Count == 0 {
		return nil, fmt.Errorf("there is no attack %q", o.Only)
	}
	return rep, nil
}

// Names lists the attacks.
func Names() []string {
	var names []string
	for _, a := range all() {
		names = append(names, a.name)
	}
	return names
}

func (b *bench) perform(a *attack, seed uint64, trials int) ([]Result, error) {
	r := Result{Name: a.name, Family: a.family, What: a.what, Theory: a.theory, CaughtBy: a.by}
	if a.claim != nil {
		if r.Trials, r.Predicted = max(1, trials/10), a.odds; a.odds == 0 {
			r.Predicted = 1
		}
		for i := range r.Trials {
			if err := b.begin(a, seed, i); err != nil {
				return nil, err
			}
			caught, err := a.claim(b)
			if err != nil {
				return nil, err
			}
			if caught {
				r.Caught++
			}
		}
		r.judge()
		return []Result{r}, nil
	}
	sizes, runs := a.sizes, a.runs
	if sizes == nil {
		sizes = []int{8, 32}
	}
	if runs == 0 {
		runs = 2
	}
	out := make([]Result, len(sizes))
	for i := range out {
		out[i] = r
		out[i].Cells = sizes[i]
	}
	for run := range runs {
		if err := b.begin(a, seed, run); err != nil {
			return nil, err
		}
		rec, err := a.forge(b)
		if err != nil {
			return nil, err
		}
		differs := false
		if !a.honest {
			if differs, err = b.s.convicts(rec.run); err != nil {
				return nil, err
			}
		}
		for i, c := range sizes {
			x := &out[i]
			if !a.honest {
				x.ReExecuted++
				if differs {
					x.ReExecutedCaught++
				}
			}
			n := (trials + runs - 1 - run) / runs
			ch := audit.Challenge{Cells: c, Tails: tails, Full: full}
			p := 1 - rec.chance.missed(ch)
			if a.predict != nil {
				p = a.predict(1 - p)
			}
			x.Predicted += p * float64(n)
			x.Trials += n
			for trial := range n {
				ch.Seed = seedOf(seed, a.name, run, c, trial)
				if a.draw != nil {
					ch = a.draw(b, rec, ch, trial)
				}
				proof := rec.prove(ch)
				if a.spoil != nil {
					proof = a.spoil(b, rec, ch, proof)
				}
				if _, err := audit.Verify(rec.run, ch, proof); err != nil {
					x.Caught++
				}
			}
		}
	}
	for i := range out {
		x := &out[i]
		if x.Predicted /= float64(x.Trials); x.CaughtBy == "" {
			x.CaughtBy = ByAudit
			if x.Predicted < 0.99 {
				x.CaughtBy = ByReExecution
				x.Sampling = fmt.Sprintf("sampling alone catches %.3g of 1; re-execution catches all", x.Predicted)
			}
		}
		x.judge()
	}
	return out, nil
}

// judge completes a result.
func (r *Result) judge() {
	r.Rate = float64(r.Caught) / float64(r.Trials)
	r.Low, r.High = Wilson(r.Caught, r.Trials, reportedZ)
	low, high := Wilson(r.Caught, r.Trials, wideZ)
	r.OK = r.Predicted >= low-1e-9 && r.Predicted <= high+1e-9 && r.ReExecutedCaught == r.ReExecuted
	if r.CaughtBy != ByReExecution && r.CaughtBy != ByAudit {
		r.OK = r.OK && r.Caught == r.Trials
	}
}

func seedOf(seed uint64, name string, run, cells, trial int) [32]byte {
	b := binary.LittleEndian.AppendUint64([]byte(name), seed)
	for _, n := range []int{run, cells, trial} {
		b = binary.LittleEndian.AppendUint64(b, uint64(n))
	}
	return sha256.Sum256(b)
}
