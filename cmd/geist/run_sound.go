package main

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/geistnet/geist/arith"
	"github.com/geistnet/geist/audit"
	"github.com/geistnet/geist/ghost"
	"github.com/geistnet/geist/internal/chat"
	"github.com/geistnet/geist/internal/console"
	"github.com/geistnet/geist/internal/dialog"
	"github.com/geistnet/geist/internal/engine"
	"github.com/geistnet/geist/internal/kernel"
	"github.com/geistnet/geist/internal/local"
	"github.com/geistnet/geist/internal/market"
	"github.com/geistnet/geist/internal/node"
)

// trunk is a model that is ready to answer with rows from servers.
type trunk struct {
	*sound
	*local.Model
	opened *node.Opened
}

// openTrunk loads what o has, to answer in a context of at most that many tokens.
func openTrunk(ctx context.Context, o *node.Opened, servers []string, context int) (*trunk, error) {
	s, err := newSound(ctx, o.File, o.Ghost, servers, nil)
	if err != nil {
		return nil, errors.Join(err, o.File.Close())
	}
	m, err := local.Open(ctx, o.File, local.Options{
		Path: kernel.Best(), Available: local.Available(), Engine: engine.Options{Context: min(context, o.Ghost.Context), Sessions: 1}, Rows: s.client,
	})
	if err != nil {
		return nil, errors.Join(err, o.File.Close())
	}
	return &trunk{s, m, o}, nil
}

func (t *trunk) close() { _ = errors.Join(t.Model.Close(), t.opened.File.Close()) } // nothing was written

// answer runs q to its end, hands the text on as it comes and returns the tokens.
func (t *trunk) answer(ctx context.Context, q engine.Request, say func(text string) error) (ids []int32, err error) {
	a, err := t.ask(ctx, t.Model, q)
	if err != nil {
		return nil, err
	}
	for {
		x, more := a.Next()
		if !more {
			break
		}
		ids = append(ids, x.ID)
		if err := say(x.Text); err != nil {
			return ids, err
		}
	}
	switch r := a.Result(); r.Finish {
	case engine.FinishError:
		return ids, r.Err
	case engine.FinishCancelled:
		return ids, context.Canceled
	}
	return ids, nil
}

// soundAsked is the account of a question that was answered here, with rows of
// those who offer the model.
type soundAsked struct {
	Question string       `json:"question"`
	Answer   string       `json:"answer"`
	Model    string       `json:"model"`
	ModelID  string       `json:"model_id"`
	Prompt   int          `json:"prompt_tokens"`
	Tokens   int          `json:"answer_tokens"`
	Grade    string       `json:"grade"`
	Verdict  string       `json:"verdict"`
	FirstS   float64      `json:"start_to_first_token_s"`
	TotalS   float64      `json:"start_to_end_s"`
	Rows     *soundResult `json:"ghost_sound"`
}

const gradeSound = "ghost-sound"

// soundChat answers questions with a trunk that is computed here and the rows of
// those who offer its model. It is opened with the first question.
type soundChat struct {
	ref   string // of the model here; "": the first that is offered
	trunk *trunk // nil: not yet
}

// open finds a model that is here and offered by others.
func (s *soundChat) open(ctx context.Context, e *env, n *node.Node, o *askOptions) error {
	if s.trunk != nil {
		return nil
	}
	if err := waitForOffer(ctx, n.Asker(), o.model, max(o.wait, 5*time.Second)); err != nil {
		return err
	}
	var offered []*market.Ask
	for _, a := range n.Asks() {
		if a.Grade != ghost.Reputation && a.Capacity > 0 && len(a.Endpoints) > 0 && (o.model == "" || strings.EqualFold(a.ModelName, o.model) || a.Model.String() == o.model || a.ModelName+"@"+a.Model.String() == o.model) {
			offered = append(offered, a)
		}
	}
	x, err := s.find(ctx, e, offered)
	if err != nil {
		return err
	}
	var servers []string
	id := x.Ghost.ID()
	for _, a := range offered {
		if a.Model == id && !slices.Contains(servers, a.Endpoints[0]) {
			servers = append(servers, a.Endpoints[0])
		}
	}
	s.trunk, err = openTrunk(ctx, x, servers, local.DefaultContext(x.Ghost.Context))
	return err
}

// find opens the model that is here: the one with the name, else the built-in one,
// else one of the store.
func (s *soundChat) find(ctx context.Context, e *env, offered []*market.Ask) (*node.Opened, error) {
	if len(offered) == 0 {
		return nil, dialog.Errorf(dialog.NoModel, "model", "nobody offers such a model with rows; give another --model or --relay")
	}
	refs := []string{builtIn}
	if s.ref != "" {
		refs = []string{s.ref}
	} else if names := e.installed(); len(names) > 0 {
		refs = append(refs, slices.DeleteFunc(names, func(name string) bool { return name == builtIn })...)
	}
	var last error
	for _, ref := range refs {
		x, err := e.openTrunkFile(ctx, ref)
		if err != nil {
			last = err
			continue
		}
		if slices.ContainsFunc(offered, func(a *market.Ask) bool { return a.Model == x.Ghost.ID() }) {
			return x, nil
		}
		last = fmt.Errorf("%s is %v, and nobody offers that", console.Clean(ref), x.Ghost.ID())
		if err := x.File.Close(); err != nil {
			return nil, err
		}
	}
	if s.ref != "" {
		return nil, last
	}
	return nil, fmt.Errorf("no model here is offered by others (%w); name a trunk with --trunk", last)
}

// openTrunkFile opens a whole model, or a trunk with its Ghost file.
func (e *env) openTrunkFile(ctx context.Context, ref string) (*node.Opened, error) {
	r := &run{verbs: verbs{e}, ref: ref, f: &runFlags{}}
	var err error
	if r.file, r.stored, err = e.openModel(ref); err != nil {
		return nil, err
	}
	g, err := r.soundGhost(ctx, "")
	if err != nil {
		return nil, errors.Join(err, r.file.Close())
	}
	return &node.Opened{File: r.file, Ghost: g, Name: ref}, nil
}

// ask answers like env.ask: equal questions and seeds give equal answers.
func (s *soundChat) ask(ctx context.Context, e *env, n *node.Node, o *askOptions) (*soundAsked, error) {
	if err := s.open(ctx, e, n, o); err != nil {
		return nil, err
	}
	var ids []int32
	var err error
	switch {
	case o.raw:
		ids, err = s.trunk.Text(o.question)
	case o.messages == nil:
		ids, err = s.trunk.Chat([]chat.Message{{Role: "user", Content: o.question}}, e.now())
	default:
		ids, err = s.trunk.Chat(o.messages, e.now())
	}
	if err != nil {
		return nil, err
	}
	r := &ghost.Request{Prompt: ids, MaxTokens: o.maxTokens, Sampling: chatSampling()}
	var nonce ghost.Nonce
	rand.Read(nonce[:])
	rand.Read(r.Salt[:])
	seed, err := questionSeed(o.seed)
	if err != nil {
		return nil, err
	}
	if seed != nil {
		nonce, r.Salt = fromSeed("geist/ask/seed/1", *seed), fromSeed("geist/ask/salt/1", *seed)
	}
	if err := r.Check(); err != nil {
		return nil, err
	}
	if o.show && !o.typed {
		fmt.Fprintf(e.out.W, "> %s\n\n", console.Clean(o.question))
	}
	q := engine.Request{Prompt: ids, MaxTokens: r.MaxTokens, Sampling: r.Sampling, TopLogProbs: -1, Ahead: ahead}
	q.Sampling.Seed = ghost.Seed(nonce, r.Hash(), s.trunk.id)
	a := &soundAsked{Question: o.question, Model: s.trunk.opened.Name, ModelID: s.trunk.id.String(), Prompt: len(ids), Grade: gradeSound}
	var text strings.Builder
	out := &textOut{w: e.out.W, terminal: e.out.Terminal}
	tokens, err := s.trunk.answer(ctx, q, func(t string) error {
		if text.Len() == 0 {
			a.FirstS = e.now().Sub(o.began).Seconds()
		}
		text.WriteString(t)
		if o.show {
			out.write(t)
		}
		return out.err
	})
	a.Rows = s.trunk.result()
	a.Answer, a.Tokens, a.Verdict, a.TotalS = text.String(), len(tokens), a.Rows.verdict(), e.now().Sub(o.began).Seconds()
	if o.show && text.Len() > 0 {
		fmt.Fprintln(e.out.W)
	}
	a.Rows.name(e.err.W)
	if err != nil {
		return nil, err
	}
	if o.show {
		fmt.Fprintf(e.out.W, "\n  model     %s %s\n  verdict   %s\n", console.Clean(a.Model), a.ModelID, a.Verdict)
		a.Rows.stats(e.out.W, a.Prompt+a.Tokens)
		fmt.Fprintln(e.out.W)
	}
	return a, nil
}

func (s *soundChat) close() {
	if s.trunk != nil {
		s.trunk.close()
	}
}

// chatSampling is how chat and up choose tokens: cooler than an API does, since small
// models ramble soon.
func chatSampling() arith.Sampling {
	return arith.Sampling{Temperature: 0.6, TopK: 40, TopP: 0.95, MinP: 0.05}
}

// fromSeed makes of --seed what the asker makes of it, so that both answer alike.
func fromSeed(domain string, n uint64) [32]byte {
	return sha256.Sum256(binary.LittleEndian.AppendUint64([]byte(domain), n))
}

// soundAgain is the beginning of an audited answer, computed again here.
type soundAgain struct {
	Tokens  int          `json:"tokens"`
	Equal   bool         `json:"equal"` // to the audited answer's
	Verdict string       `json:"verdict"`
	Seconds float64      `json:"s"`
	Rows    *soundResult `json:"ghost_sound"`
}

// again computes the beginning of the answer with a receipt again, with rows of
// this node's provider. Nil: the model has no memory.
func (e *env) again(ctx context.Context, n *node.Node, ref, receipt string, most int) (*soundAgain, error) {
	b, _, _, err := n.Asker().Files(receipt)
	if err != nil {
		return nil, err
	}
	f, err := audit.ParseRunFile(b)
	if err != nil {
		return nil, err
	}
	begin := e.now()
	o, err := e.openServed(ctx, ref)
	if err != nil {
		return nil, err
	}
	if o.Ghost.ID() != f.Receipt.Model || len(o.Ghost.Rules) == 0 {
		return nil, o.File.Close()
	}
	t, err := openTrunk(ctx, o, []string{n.ProvideURL()}, len(f.Request.Prompt)+most)
	if err != nil {
		return nil, err
	}
	defer t.close()
	most = min(most, len(f.Answer))
	q := engine.Request{Prompt: f.Request.Prompt, MaxTokens: most, Sampling: f.Request.Sampling, Stop: f.Request.Stop, IgnoreEnd: f.Request.IgnoreEnd, TopLogProbs: -1, Ahead: ahead}
	q.Sampling.Seed = ghost.Seed(f.SeedNonce, f.Request.Hash(), f.Receipt.Model)
	tokens, err := t.answer(ctx, q, func(string) error { return nil })
	if err != nil {
		return nil, err
	}
	x := &soundAgain{Tokens: len(tokens), Equal: slices.Equal(tokens, f.Answer[:most]), Rows: t.result(), Seconds: e.now().Sub(begin).Seconds()}
	x.Verdict = x.Rows.verdict()
	return x, nil
}

// say adds the second grade to the account of an answer.
func (x *soundAgain) say(w io.Writer) {
	if !x.Equal {
		fmt.Fprintf(w, "  and       computed here: the first %d tokens are OTHERS than those above\n\n", x.Tokens)
		return
	}
	fmt.Fprintf(w, "  and       %s: the same first %d tokens (%.1f s)\n\n", x.Verdict, x.Tokens, x.Seconds)
}
