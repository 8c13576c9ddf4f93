package asker

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"io"
	"net/http"
	"strings"

	"github.com/geistnet/geist/ghost"
	"github.com/geistnet/geist/internal/dialog"
	"github.com/geistnet/geist/internal/job"
	"github.com/geistnet/geist/internal/market"
	"github.com/geistnet/geist/internal/pay"
)

// Embed implements the gateway's Backend: vectors from the best provider that
// gives them.
func (a *Asker) Embed(ctx context.Context, q *dialog.EmbedQuestion) (*dialog.Vectors, error) {
	x := &answer{a: a, ctx: ctx, begun: a.o.Now(), q: &dialog.Question{ID: q.ID, Model: q.Model, Demand: q.Demand, Route: q.Route, TopLogProbs: -1, Text: "x", MaxTokens: 1}}
	if err := x.choose(); err != nil {
		return nil, err
	}
	if x.model.words == nil {
		return nil, dialog.Errorf(dialog.Unsupported, "model", "%s gives no vectors", x.name)
	}
	texts := q.Tokens
	if texts == nil {
		for _, t := range q.Texts {
			texts = append(texts, x.model.words.Text(t))
		}
	}
	var last error
	for _, offer := range x.offers[:min(len(x.offers), attempts)] {
		ask := offer.Ask
		cut := make([][]int32, len(texts))
		for i, t := range texts {
			if len(t) == 0 {
				return nil, dialog.Errorf(dialog.Invalid, "input", "text %d is empty", i)
			}
			if len(t) > ask.Context && !q.Truncate {
				return nil, dialog.Errorf(dialog.Context, "input", "text %d has %d tokens; the context of %s is %d", i, len(t), x.name, ask.Context)
			}
			cut[i] = t[:min(len(t), ask.Context)]
		}
		v, err := a.vectors(ctx, x, ask, cut)
		if err == nil {
			return v, nil
		}
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		a.o.Log.Info("vectors", "request", q.ID, "provider", ask.Provider.String(), "error", err)
		last = err
	}
	if last == nil {
		last = dialog.Errorf(dialog.Unavailable, "", "no provider of %s is there", x.name)
	}
	return nil, last
}

// vectors orders them of one provider and pays.
func (a *Asker) vectors(ctx context.Context, x *answer, ask *market.Ask, texts [][]int32) (*dialog.Vectors, error) {
	rail := a.rail(ask.Rails)
	if rail == nil {
		return nil, dialog.Errorf(dialog.Unavailable, "", "%s is not paid in any way this node can", ask.Provider)
	}
	o := &job.VectorOrder{Provider: ask.Provider, Model: ask.Model, Ask: ghost.Digest(ask.ID), Prices: pay.Prices{Prompt: pay.MilliSat(ask.Input), Answer: pay.MilliSat(ask.Output)},
		Rail: rail.Name(), CreatedAt: a.o.Now().Unix(), Texts: texts}
	rand.Read(o.Nonce[:])
	if err := o.Sign(a.o.Secret); err != nil {
		return nil, dialog.Errorf(dialog.Invalid, "input", "%v", err)
	}
	due, err := o.Due()
	if err != nil || due > a.o.Patience.Most {
		return nil, &dialog.Error{Kind: dialog.NoFunds, Message: "the vectors cost more than one request may", Price: int64(due)}
	}
	b, err := o.Encode()
	if err != nil {
		return nil, err
	}
	base := strings.TrimRight(ask.Endpoints[0], "/") + "/geist/v1/"
	ctx, stop := context.WithTimeout(ctx, auditTimeout)
	defer stop()
	w, err := a.post(ctx, base+"vectors", "application/json", b)
	if err != nil {
		return nil, dialog.Errorf(dialog.Unavailable, "", "the provider could not be reached: %v", err)
	}
	defer w.Body.Close()
	b, err = io.ReadAll(io.LimitReader(w.Body, 64<<20))
	if err != nil {
		return nil, dialog.Errorf(dialog.Failed, "", "the provider's vectors: %v", err)
	}
	if w.StatusCode != http.StatusOK {
		if e, err := job.ParseEvent(b); err == nil && e.Type == job.EventRefused {
			return nil, dialog.Errorf(dialog.Failed, "", "%s %s", e.Code.Sentence(), e.Message)
		}
		return nil, dialog.Errorf(dialog.Failed, "", "the provider answered with status %d", w.StatusCode)
	}
	v, err := job.ParseVectors(b, len(texts), x.model.ghost.Dim)
	if err != nil || v.Due > due {
		return nil, dialog.Errorf(dialog.Rejected, "", "the provider's vectors are not what was ordered: %v", err)
	}
	// They are here: now they are paid. A payment that does not arrive stays owed.
	if err := a.payVectors(ctx, rail, o, due, base); err != nil {
		a.o.Log.Warn("pay for vectors", "error", err)
	}
	n := 0
	for _, t := range texts {
		n += len(t)
	}
	return &dialog.Vectors{Vectors: v.Vectors, Served: dialog.Served{Provider: ask.Provider.String(), Model: x.name, ModelID: x.id.String(), Quantisation: ask.Quant},
		Summary: dialog.Summary{Finish: dialog.FinishStop, Usage: dialog.Usage{Prompt: n}, Cost: int64(due)}}, nil
}

func (a *Asker) payVectors(ctx context.Context, rail pay.Rail, o *job.VectorOrder, due pay.MilliSat, base string) error {
	id := o.ID()
	payer, err := rail.Pay(ctx, pay.Opening{Job: id, Peer: o.Provider, First: due, Most: due})
	if err != nil {
		return err
	}
	c := &call{a: a, id: id, endpoint: strings.TrimSuffix(base, "/geist/v1/"), payer: payer}
	for range 3 {
		message, err := payer.Pay(ctx, due)
		if err != nil {
			return err
		}
		if err = c.send(ctx, message); err == nil {
			break
		}
		if ctx.Err() != nil {
			return fmt.Errorf("job %s: %w", hex.EncodeToString(id[:]), err)
		}
	}
	_, err = payer.Close(ctx)
	return err
}

// post sends a body.
func (a *Asker) post(ctx context.Context, url, contentType string, body []byte) (*http.Response, error) {
	q, err := http.NewRequestWithContext(ctx, "POST", url, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	q.Header.Set("Content-Type", contentType)
	return a.o.HTTP.Do(q)
}
