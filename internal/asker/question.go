package asker

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/geistnet/geist/ghost"
	"github.com/geistnet/geist/internal/dialog"
	"github.com/geistnet/geist/internal/market"
	"github.com/geistnet/geist/internal/prompt"
	"github.com/geistnet/geist/internal/tools"
)

// choose finds the model and those who offer it, and writes the prompt.
func (x *answer) choose() error {
	q, a := x.q, x.a
	name, id, err := wants(q)
	if err != nil {
		return err
	}
	all := a.o.Asks()
	wish := &market.Wish{Request: sha256.Sum256([]byte(q.ID)), Now: a.o.Now().Unix(), ModelName: name, OutputTokens: 256, InputTokens: min(estimate(q), mostTokens), Preferences: preferences(q), MaxCostMsat: 0}
	for _, r := range a.o.Rails {
		wish.Rails = append(wish.Rails, r.Name())
	}
	if id != nil {
		wish.Models = []ghost.ID{*id}
	}
	if q.Demand.Quantisation != "" {
		wish.Quantizations = []string{q.Demand.Quantisation}
	}
	if q.Demand.Audited {
		wish.MinGrade = ghost.GhostAudited
	}
	a.mu.Lock()
	wish.Busy = map[ghost.Key]int{}
	for k, n := range a.busy {
		wish.Busy[k] = n
	}
	a.mu.Unlock()
	wish.Context = 1 // what is needed is known when the prompt is written
	ev := a.evidence()
	first, err := x.learn(wish, all, ev, name)
	if err != nil {
		return err
	}
	if q.TopLogProbs >= 0 && x.model.words == nil {
		return dialog.Errorf(dialog.Unsupported, "logprobs", "%s runs on a server that tells no log probabilities; leave logprobs out", x.name)
	}
	ids, err := x.prompt()
	if err != nil {
		return err
	}
	// Of this model only: an answer is one model's.
	wish.Models, wish.InputTokens = []ghost.ID{x.id}, min(len(ids), mostTokens)
	if q.MaxTokens > 0 {
		wish.OutputTokens = min(q.MaxTokens, mostTokens)
	}
	wish.Context = len(ids) + max(1, q.MaxTokens)
	ranking, err := market.Rank(all, ev, wish)
	if err != nil {
		return dialog.Errorf(dialog.Invalid, "provider", "%v", err)
	}
	x.offers = ranking.Offers
	if q.Verify == dialog.VerifyReplicate && !several(x.offers) {
		return dialog.Errorf(dialog.Mismatch, "verify", "replicate needs two providers of %s, and there are not as many now; ask for audit", x.name)
	}
	context := 0
	for i := range x.offers {
		context = max(context, x.offers[i].Ask.Context)
	}
	if len(x.offers) == 0 || len(ids)+max(1, q.MaxTokens) > context {
		if context == 0 {
			context = first.Context
		}
		if len(ids)+max(1, q.MaxTokens) > context {
			return dialog.Errorf(dialog.Context, "messages", "the prompt has %d tokens and the answer up to %d; %s has a context of %d", len(ids), max(1, q.MaxTokens), x.name, context)
		}
		return nobody(q, name, all, ranking)
	}
	if q.Demand.Context > context {
		return dialog.Errorf(dialog.Mismatch, "geist.context", "a context of %d is demanded, %s is offered with %d", q.Demand.Context, x.name, context)
	}
	return x.write(ids)
}

// learn finds the model of the best offer and what is to be known of it. A model
// that nobody can show is as if it was not offered.
func (x *answer) learn(wish *market.Wish, all []*market.Ask, ev *market.Evidence, name string) (*market.Ask, error) {
	a := x.a
	var last error
	for {
		ranking, err := market.Rank(all, ev, wish)
		if err != nil {
			return nil, dialog.Errorf(dialog.Invalid, "provider", "%v", err)
		}
		if len(ranking.Offers) == 0 {
			if last == nil {
				last = nobody(x.q, name, all, ranking)
			}
			return nil, last
		}
		first := ranking.Offers[0].Ask
		x.id, x.name = first.Model, first.ModelName
		if first.Grade != ghost.Reputation {
			if x.model, err = a.names.get(x.ctx, x.id, all); err == nil {
				return first, nil
			}
		} else if x.model, err = (&known{}), nil; x.id == prompt.PlainID(x.name) {
			return first, nil
		} else {
			err = errors.New("the offer names another model")
		}
		if x.ctx.Err() != nil {
			return nil, x.ctx.Err()
		}
		last = dialog.Errorf(dialog.Unavailable, "model", "%s: %v", first.ModelName, err)
		all = slices.DeleteFunc(slices.Clone(all), func(k *market.Ask) bool { return k.Model == first.Model })
	}
}

// evidence is what this node knows of providers now.
func (a *Asker) evidence() *market.Evidence {
	ev := &market.Evidence{Own: a.Experience()}
	if a.o.Reviews != nil {
		ev.Reviews, ev.Trust = a.o.Reviews()
	}
	return ev
}

// Why tells for every offer of a model how it is ranked now.
func (a *Asker) Why(model string) (*market.Ranking, error) {
	name, id, err := wants(&dialog.Question{Model: model})
	if err != nil {
		return nil, err
	}
	w := &market.Wish{Now: a.o.Now().Unix(), ModelName: name, InputTokens: 256, OutputTokens: 256}
	if id != nil {
		w.Models = []ghost.ID{*id}
	}
	for _, r := range a.o.Rails {
		w.Rails = append(w.Rails, r.Name())
	}
	return market.Rank(a.o.Asks(), a.evidence(), w)
}

// mostTokens is the most that a price is computed for; what does not fit is
// refused after that.
const mostTokens = 1 << 20

// estimate is a guess of a question's tokens before its model is known.
func estimate(q *dialog.Question) int {
	n := len(q.Tokens) + len(q.Text)/4
	for i := range q.Messages {
		n += len(q.Messages[i].Content)/4 + 4
	}
	return n
}

func preferences(q *dialog.Question) market.Preferences {
	r := q.Route
	p := market.Preferences{Order: r.Order, Only: r.Only, Ignore: r.Ignore, NoFallbacks: r.NoFallback, Sort: market.Sort(r.Sort)}
	if r.MaxPrompt > 0 {
		m := market.Price(r.MaxPrompt)
		p.MaxInput = &m
	}
	if r.MaxAnswer > 0 {
		m := market.Price(r.MaxAnswer)
		p.MaxOutput = &m
	}
	return p
}

// nobody says why there is no offer.
func nobody(q *dialog.Question, name string, all []*market.Ask, r *market.Ranking) error {
	known := map[string]bool{}
	for _, k := range all {
		known[k.ModelName] = true
	}
	same := false
	for n := range known {
		same = same || strings.EqualFold(n, name)
	}
	if name != "" && !same && q.Demand.ModelID == "" {
		var names []string
		for n := range known {
			names = append(names, n)
		}
		slices.Sort(names)
		if len(names) == 0 {
			return dialog.Errorf(dialog.NoModel, "model", "nobody offers %q, nor any other model, now", q.Model)
		}
		return dialog.Errorf(dialog.NoModel, "model", "nobody offers %q; there are %s", q.Model, strings.Join(names[:min(len(names), 20)], ", "))
	}
	reasons := map[market.Reason]int{}
	wrong := 0
	for i := range r.Excluded {
		if r.Excluded[i].Reason == market.WrongModel {
			wrong++
			continue
		}
		reasons[r.Excluded[i].Reason]++
	}
	if len(reasons) == 0 {
		return dialog.Errorf(dialog.NoModel, "model", "nobody offers this model now (%d offers of others)", wrong)
	}
	var list []string
	kind := dialog.Mismatch
	for why, n := range reasons {
		list = append(list, fmt.Sprintf("%d × %s", n, why))
		if why == market.NoCapacity || why == market.CoolingDown {
			kind = dialog.Unavailable
		}
	}
	slices.Sort(list)
	e := dialog.Errorf(kind, "provider", "no provider of this model may serve the request: %s", strings.Join(list, ", "))
	if kind == dialog.Unavailable {
		e.RetryAfter = 5 * time.Second
	}
	return e
}

// prompt makes the token ids.
func (x *answer) prompt() ([]int32, error) {
	q, w := x.q, x.model.words
	var ids []int32
	if w == nil {
		return x.plain()
	}
	switch {
	case q.Messages != nil:
		offered := q.Tools
		var err error
		if ids, err = w.Chat(q.Messages, offered, x.a.o.Now()); err != nil {
			if errors.Is(err, prompt.ErrNoTemplate) {
				return nil, dialog.Errorf(dialog.Unsupported, "model", "%s has no chat template; ask for a completion of text", x.name)
			}
			return nil, dialog.Errorf(dialog.Invalid, "messages", "the model's chat template refuses the conversation: %v", err)
		}
	case q.Tokens != nil:
		ids = q.Tokens
		for _, id := range ids {
			if id < 0 || int(id) >= x.model.ghost.Vocab {
				return nil, dialog.Errorf(dialog.Invalid, "prompt", "token %d is not in the vocabulary of %d", id, x.model.ghost.Vocab)
			}
		}
	default:
		ids = w.Text(q.Text)
	}
	if len(ids) == 0 {
		return nil, dialog.Errorf(dialog.Invalid, "prompt", "the prompt is empty")
	}
	return ids, nil
}

// plain makes the tokens of a prompt for a model without a known vocabulary.
func (x *answer) plain() ([]int32, error) {
	q := x.q
	var p prompt.PlainPrompt
	var err error
	switch {
	case q.Messages != nil:
		p.Messages, err = openAIMessages(q.Messages)
		if err == nil && len(q.Tools) > 0 {
			p.Tools, p.ToolChoice, err = openAITools(q)
		}
	case q.Tokens != nil:
		return nil, dialog.Errorf(dialog.Unsupported, "prompt", "%s takes text, not tokens: its vocabulary is not known", x.name)
	default:
		p.Prompt = q.Text
	}
	if err != nil {
		return nil, dialog.Errorf(dialog.Invalid, "messages", "%v", err)
	}
	b, err := json.Marshal(p)
	if err != nil {
		return nil, dialog.Errorf(dialog.Invalid, "messages", "%v", err)
	}
	return prompt.Pack(b), nil
}

// write makes the request.
func (x *answer) write(ids []int32) error {
	q := x.q
	var err error
	if x.model.words != nil {
		x.grammar, err = dialog.GrammarText(q, x.model.form)
	} else if q.Shape.Schema != nil { // tools are part of the prompt
		x.grammar = string(q.Shape.Schema)
	} else if q.Shape.JSON {
		x.grammar = dialog.JSONObject
	}
	if err != nil {
		return err
	}
	thinking := false
	if tail := ids[max(0, len(ids)-16):]; q.Messages != nil && x.model.words != nil {
		var b strings.Builder
		for _, id := range tail {
			b.WriteString(x.model.words.Tokenizer.TokenText(id))
		}
		thinking = dialog.OpensThinking(b.String())
	}
	if x.reader, err = dialog.NewReader(q, x.model.form, thinking); err != nil {
		return err
	}
	x.text = x.model.text()
	x.stops = prompt.Stopper{Texts: q.Stop}
	r := &ghost.Request{Prompt: ids, Sampling: q.Sampling, MaxTokens: q.MaxTokens, Stop: q.Stop}
	r.Sampling.Seed = [32]byte{}
	x.ends = x.grammar != "" && q.Choice.Mode == tools.Required
	if end := x.model.form.End(); q.Choice.One && len(q.Tools) > 0 && x.model.words != nil && !x.ends && end != "" && len(r.Stop) < 64 {
		r.Stop = append(slices.Clone(r.Stop), end) // after one call
	}
	if x.grammar != "" {
		r.Grammar = sha256.Sum256([]byte(x.grammar))
	}
	if q.Seed != nil { // equal questions get equal answers
		x.seed = derive("geist/ask/seed/1", *q.Seed)
		r.Salt = derive("geist/ask/salt/1", *q.Seed)
	} else {
		rand.Read(x.seed[:])
		rand.Read(r.Salt[:])
	}
	if r.MaxTokens == 0 {
		r.MaxTokens = 1 // hire fits it to the provider
	}
	if err := r.Check(); err != nil {
		return dialog.Errorf(dialog.Invalid, "", "%v", err)
	}
	x.request = r
	return nil
}

func derive(domain string, n uint64) [32]byte {
	return sha256.Sum256(binary.LittleEndian.AppendUint64([]byte(domain), n))
}

// several tells whether offers are of more than one provider.
func several(offers []market.Ranked) bool {
	for i := range offers {
		if offers[i].Ask.Provider != offers[0].Ask.Provider {
			return true
		}
	}
	return false
}
