package audit

import (
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/geistnet/geist/ghost"
	"github.com/geistnet/geist/merkle"
)

// Verdict is what an asker learns of an answer, for people and for programs.
type Verdict struct {
	Accepted bool   `json:"accepted"`
	Reason   string `json:"reason,omitempty"` // why it is refused
	// Of a relation that does not hold: where. -1: nowhere in particular.
	Relation string `json:"relation,omitempty"`
	Position *int   `json:"position,omitempty"`
	Layer    *int   `json:"layer,omitempty"`

	Model        string  `json:"model,omitempty"` // id
	ModelName    string  `json:"model_name,omitempty"`
	Provider     string  `json:"provider,omitempty"`
	Client       string  `json:"client,omitempty"`
	Receipt      string  `json:"receipt,omitempty"` // id
	Signed       string  `json:"signed,omitempty"`  // RFC 3339
	Grade        string  `json:"grade,omitempty"`
	Finish       string  `json:"finish,omitempty"`
	PriceMsat    uint64  `json:"price_msat"`
	PromptTokens int     `json:"prompt_tokens,omitempty"`
	AnswerTokens int     `json:"answer_tokens,omitempty"`
	Positions    int     `json:"positions,omitempty"`
	Layers       int     `json:"layers,omitempty"`
	Challenge    *Size   `json:"challenge,omitempty"`
	Counts       *Counts `json:"counts,omitempty"`
	ProofBytes   int     `json:"proof_bytes,omitempty"`
	Bytes        *Bytes  `json:"bytes,omitempty"` // of the proof

	Checked    []string `json:"checked,omitempty"`
	NotChecked []string `json:"not_checked,omitempty"`
	Odds       []Odds   `json:"odds,omitempty"`
}

// Odds is the probability that a proof is accepted although the run is forged
// as If says. It holds if the seed of the challenge could not be known before
// the receipt was signed.
type Odds struct {
	If     string  `json:"if"`
	Missed float64 `json:"missed"`
}

// Judge checks a proof of an answer with nothing but the run file and the Ghost
// file. size is that of the challenge demanded; nil: the one in the run file.
// It needs no model, draws nothing at random, and gives the same verdict
// wherever it runs. Of the reason why the answer ended it checks only what needs
// no tokenizer.
func Judge(runFile, ghostFile, proof []byte, size *Size) *Verdict {
	return JudgeEnding(runFile, ghostFile, proof, size, nil)
}

// Ending is what an asker knows of an answer's end beside the run file.
type Ending struct {
	// Ends makes, of a request, what Ended asks whether an answer ends.
	Ends      func(*ghost.Request) func(answer []int32) bool
	Cancelled bool // by the asker
}

// JudgeEnding is Judge which also checks why the answer ended, if end is not nil.
func JudgeEnding(runFile, ghostFile, proof []byte, size *Size, end *Ending) *Verdict {
	return JudgeWith(runFile, ghostFile, proof, Options{Size: size, End: end})
}

// Options of JudgeWith.
type Options struct {
	Size   *Size         // demanded; nil: the one in the run file
	End    *Ending       // nil: why the answer ended is not checked
	Hasher merkle.Hasher // nil: merkle.Plain. The verdict is the same, sooner
}

// JudgeWith is Judge with options.
func JudgeWith(runFile, ghostFile, proof []byte, o Options) *Verdict {
	size, end := o.Size, o.End
	v := &Verdict{}
	refuse := func(err error) *Verdict {
		v.Reason = err.Error()
		if f := (*Failure)(nil); errors.As(err, &f) {
			v.Relation, v.Position, v.Layer = f.Relation, &f.Position, &f.Layer
		}
		return v
	}
	file, err := ParseRunFile(runFile)
	if err != nil {
		return refuse(err)
	}
	if size != nil {
		if err := size.Check(); err != nil {
			return refuse(err)
		}
		file.Size = *size
	}
	r := file.Receipt
	v.Model, v.Provider, v.Client, v.Receipt = r.Model.String(), r.Provider.String(), r.Client.String(), r.ID().String()
	v.Signed = time.Unix(r.Time, 0).UTC().Format(time.RFC3339)
	v.Grade, v.Finish, v.PriceMsat = string(r.Grade), string(r.Finish), r.Price
	v.PromptTokens, v.AnswerTokens, v.Challenge = r.Prompt.Count, r.Answer.Count, &file.Size
	m, err := ghost.Decode(ghostFile)
	if err != nil {
		return refuse(err)
	}
	v.ModelName = m.Name
	run, err := file.Run(m)
	if err != nil {
		return refuse(err)
	}
	run.Hasher = o.Hasher
	v.Positions, v.Layers = run.Positions(), len(m.Layers)
	if end != nil {
		err = Ended(run, file.Request, r.Finish, end.Cancelled, end.Ends(file.Request))
	} else {
		err = Ended(run, file.Request, r.Finish, true, nil)
	}
	if err != nil {
		return refuse(err)
	}
	rep, err := Verify(run, file.Challenge(), proof)
	if err != nil {
		return refuse(err)
	}
	v.Accepted, v.Counts, v.ProofBytes, v.Bytes = true, &rep.Counts, rep.ProofBytes, &rep.Bytes
	v.words(run, file, rep, end != nil)
	return v
}

// words says what was checked and what was not.
func (v *Verdict) words(run *Run, f *RunFile, rep *Report, ended bool) {
	n := rep.Counts
	say := func(format string, a ...any) { v.Checked = append(v.Checked, fmt.Sprintf(format, a...)) }
	say("The receipt is signed by its provider and names this model, request, prompt and answer.")
	say("The Ghost file has the model id of the receipt; every opened row of weights lies under its roots.")
	say("Every opened value is committed to by the trace root in the receipt.")
	if n.Cells > 0 {
		say("In %d cells (position, layer), drawn from %d positions × %d layers, one element of every relation was computed again and is exactly right: %d of query, key and value, %d attention scores, %d attention outputs, %d of the output projection, %d hidden ones, %d of the block's result%s.",
			n.Cells, rep.Positions, rep.Layers, n.Projections, n.Scores, n.Mixes, n.Outputs, n.Hidden, n.Downs, router(n.Routers))
	}
	if n.Embeddings > 0 {
		say("%d rows of the embedding belong to the tokens of the prompt or answer at their positions.", n.Embeddings)
	}
	if n.Tails > 0 {
		say("At %d of %d emitted tokens, the token's logit and %d others were computed again from the last layer.", n.Tails, len(run.Answer), randomLogits)
	}
	switch {
	case n.Draws > 0:
		say("At %d emitted tokens all logits were opened, and the sampler with the agreed seed chose the same token.", n.Draws)
	case rep.Challenge.Full > 0 && n.FullTails == 0:
		say("No logits were opened whole: of this challenge none were drawn for it, as of three in four.")
	}
	switch {
	case ended:
		say("The answer ended where and why the receipt says (%q), and not before.", f.Receipt.Finish)
	case f.Receipt.Finish == ghost.FinishLength:
		say("The answer has as many tokens as were asked for, or fills the context.")
	}
	not := func(format string, a ...any) { v.NotChecked = append(v.NotChecked, fmt.Sprintf(format, a...)) }
	cells := rep.Positions * rep.Layers
	not("Cells that were not drawn: at most %d of %d were. A forgery in few cells is likely missed; another node that runs the answer again finds it.", n.Cells, cells)
	if n.Draws < len(run.Answer) {
		not("The choice of %d of the %d emitted tokens.", len(run.Answer)-n.Draws, len(run.Answer))
	}
	if run.Constrained {
		not("The grammar that restricted the answer.")
	}
	not("That the nonce of the audit was secret until the receipt was signed: only who drew it knows. If it was known, the odds below do not hold.")
	switch {
	case ended:
		not("That token ids are the text you saw.")
	case f.Receipt.Finish == ghost.FinishLength:
		not("That the answer did not end before, and that token ids are the text you saw: that needs the tokenizer.")
	default:
		not("Why the answer ended (%q), and that token ids are the text you saw: that needs the tokenizer.", f.Receipt.Finish)
	}
	not("Whether what the answer says is true, and who saw the prompt.")
	odds := func(g, q float64, format string, a ...any) {
		v.Odds = append(v.Odds, Odds{fmt.Sprintf(format, a...), Bound(n.Cells, g, q)})
	}
	odds(1, 0.9, "every cell has a relation with 9 of 10 elements wrong, as when another model or quantisation ran and its trace was committed as it is")
	odds(1/float64(rep.Layers), 1, "one layer is wrong at every position and all others follow from it, as when another prompt was run on")
	odds(0.1, 0.9, "one cell in 10 has such a relation")
	odds(0.01, 0.9, "one cell in 100 has such a relation")
	odds(1/float64(cells), 1, "one cell of the %d is wrong in all elements of a relation", cells)
}

func router(n int) string {
	if n == 0 {
		return ""
	}
	return fmt.Sprintf(", %d router logits", n)
}

// JSON is the verdict as one object, the same bytes for equal verdicts.
func (v *Verdict) JSON() []byte {
	b, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		panic("audit: internal error: " + err.Error())
	}
	return append(b, '\n')
}
