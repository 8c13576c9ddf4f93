package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"github.com/geistnet/geist/audit"
	"github.com/geistnet/geist/ghost"
	"github.com/geistnet/geist/internal/chat"
	"github.com/geistnet/geist/internal/dialog"
	"github.com/geistnet/geist/internal/hashmany"
	"github.com/geistnet/geist/internal/node"
)

// A running node is asked through its API. It is an answerer.
type runningNode struct {
	url, key string
	own      ghost.Key
	status   node.Status
	client   *http.Client
}

// mostReply bounds a reply that is read at once, and an event of a stream, in bytes.
const mostReply = 64 << 20

// runningNode finds the node whose state is in dir and that has this user's key.
func (e *env) runningNode(ctx context.Context, dir string) (*runningNode, error) {
	secret, err := e.nodeKey()
	if err != nil {
		return nil, err
	}
	r, err := node.ReadRunning(dir)
	if err != nil {
		return nil, err
	}
	n := &runningNode{url: r.URL, key: r.Key, client: &http.Client{Transport: &http.Transport{}}} // no proxy: it is on this machine
	if n.own, err = secret.Public(); err != nil {
		return nil, err
	}
	ctx, stop := context.WithTimeout(ctx, 10*time.Second)
	defer stop()
	if err := n.look(ctx); err != nil {
		return nil, err
	}
	if n.status.Key != n.own.String() {
		return nil, fmt.Errorf("the geist at %s has another key", r.URL)
	}
	return n, nil
}

// look asks the node how it stands.
func (n *runningNode) look(ctx context.Context) error {
	b, err := n.get(ctx, "/geist/v1/node")
	if err != nil {
		return err
	}
	var s node.Status
	if err := json.Unmarshal(b, &s); err != nil {
		return fmt.Errorf("what is at %s is no geist: %w", n.url, err)
	}
	n.status = s
	return nil
}

// relays are those that the node asks, its own among them.
func (n *runningNode) relays() map[string]bool {
	set := map[string]bool{}
	for _, r := range n.status.Relays {
		set[strings.TrimSuffix(r.URL, "/")] = true
	}
	return set
}

// request sends body, or asks with GET if it is nil. A status other than 200 is an
// error of the kind that the node had.
func (n *runningNode) request(ctx context.Context, path string, body any) (*http.Response, error) {
	method, in := http.MethodGet, io.Reader(nil)
	if body != nil {
		b, err := json.Marshal(body)
		if err != nil {
			return nil, err
		}
		method, in = http.MethodPost, bytes.NewReader(b)
	}
	q, err := http.NewRequestWithContext(ctx, method, n.url+path, in)
	if err != nil {
		return nil, err
	}
	if n.key != "" {
		q.Header.Set("Authorization", "Bearer "+n.key)
	}
	r, err := n.client.Do(q)
	if err != nil {
		return nil, err
	}
	if r.StatusCode == http.StatusOK {
		return r, nil
	}
	defer r.Body.Close()
	var p struct {
		Error replyError `json:"error"`
	}
	b, err := io.ReadAll(io.LimitReader(r.Body, 1<<20))
	if err != nil {
		return nil, err
	}
	if json.Unmarshal(b, &p) != nil || p.Error.Message == "" {
		return nil, fmt.Errorf("%s%s: %s", n.url, path, r.Status)
	}
	return nil, p.Error.err()
}

// replyError is an error as the API tells it.
type replyError struct {
	Message string `json:"message"`
	Param   string `json:"param"`
	Code    string `json:"code"`
}

func (e *replyError) err() error {
	if e.Code == "unsupported_value" {
		return dialog.Errorf(dialog.Unsupported, e.Param, "%s", e.Message)
	}
	return errors.New(e.Message)
}

func (n *runningNode) get(ctx context.Context, path string) ([]byte, error) {
	r, err := n.request(ctx, path, nil)
	if err != nil {
		return nil, err
	}
	defer r.Body.Close()
	return io.ReadAll(io.LimitReader(r.Body, mostReply))
}

// Models that the node can ask for.
func (n *runningNode) Models(ctx context.Context) ([]dialog.Model, error) {
	b, err := n.get(ctx, "/v1/models")
	if err != nil {
		return nil, err
	}
	var list struct {
		Data []struct {
			ID    string `json:"id"`
			Geist struct {
				ModelID string `json:"model_id"`
			} `json:"geist"`
		} `json:"data"`
	}
	if err := json.Unmarshal(b, &list); err != nil {
		return nil, fmt.Errorf("the models of %s: %w", n.url, err)
	}
	var out []dialog.Model
	for _, m := range list.Data {
		out = append(out, dialog.Model{Name: m.ID, ID: m.Geist.ModelID})
	}
	return out, nil
}

// best is the model of the best offer.
func (n *runningNode) best(ctx context.Context) (string, error) {
	b, err := n.get(ctx, "/geist/v1/providers")
	if err != nil {
		return "", err
	}
	var list struct {
		Providers []struct {
			Place   int    `json:"place"`
			ModelID string `json:"model_id"`
		} `json:"providers"`
	}
	if err := json.Unmarshal(b, &list); err != nil {
		return "", fmt.Errorf("the offers of %s: %w", n.url, err)
	}
	for _, p := range list.Providers {
		if p.Place == 1 {
			return p.ModelID, nil
		}
	}
	return "", errors.New("no provider offers a model now")
}

// Ask puts q, of which the API takes what "geist chat" sets.
func (n *runningNode) Ask(ctx context.Context, q *dialog.Question) (dialog.Answer, error) {
	name := q.Model
	if name == "" {
		var err error
		if name, err = n.best(ctx); err != nil {
			return nil, err
		}
	}
	body := map[string]any{"model": name, "stream": true, "stream_options": map[string]bool{"include_usage": true}, "max_tokens": q.MaxTokens,
		"temperature": q.Sampling.Temperature, "top_k": q.Sampling.TopK, "top_p": q.Sampling.TopP, "min_p": q.Sampling.MinP}
	if q.Verify != "" {
		body["verify"] = q.Verify
	}
	if q.Seed != nil {
		body["seed"] = int64(*q.Seed) // the same 64 bits
	}
	path := "/v1/completions"
	if q.Messages == nil {
		body["prompt"] = q.Text
	} else {
		path, body["messages"] = "/v1/chat/completions", said(q.Messages)
	}
	r, err := n.request(ctx, path, body)
	if err != nil {
		return nil, err
	}
	s := bufio.NewScanner(r.Body)
	s.Buffer(make([]byte, 0, 64<<10), mostReply)
	return &reply{body: r.Body, lines: s}, nil
}

func said(messages []chat.Message) []map[string]string {
	var out []map[string]string
	for _, m := range messages {
		out = append(out, map[string]string{"role": m.Role, "content": m.Content})
	}
	return out
}

// Verdict fetches what is kept of a receipt and judges it here.
func (n *runningNode) Verdict(receipt string) *audit.Verdict {
	ctx, stop := context.WithTimeout(context.Background(), 30*time.Second)
	defer stop()
	var files [3][]byte
	for i, name := range []string{"run", "ghost", "proof"} {
		var err error
		if files[i], err = n.get(ctx, "/geist/v1/receipts/"+receipt+"/"+name); err != nil {
			return nil
		}
	}
	return audit.JudgeWith(files[0], files[1], files[2], audit.Options{Hasher: hashmany.New()})
}

// reply is an answer that comes as events.
type reply struct {
	body   io.Closer
	lines  *bufio.Scanner
	served dialog.Served
	sum    dialog.Summary
	done   bool
}

func (r *reply) Served() dialog.Served   { return r.served }
func (r *reply) Summary() dialog.Summary { return r.sum }
func (r *reply) Close() error            { return r.body.Close() }

// event is the data of one, of a conversation or of a text.
type event struct {
	Model   string      `json:"model"`
	Error   *replyError `json:"error"`
	Choices []struct {
		Text  string `json:"text"`
		Delta struct {
			Content string `json:"content"`
		} `json:"delta"`
		Finish dialog.Finish `json:"finish_reason"`
	} `json:"choices"`
	Usage *struct {
		Prompt int `json:"prompt_tokens"`
		Answer int `json:"completion_tokens"`
	} `json:"usage"`
	Geist *struct {
		Provider     string        `json:"provider"`
		ModelID      string        `json:"model_id"`
		Quantisation string        `json:"quantisation"`
		Cost         int64         `json:"cost_msat"`
		Receipt      string        `json:"receipt"`
		Grade        string        `json:"grade"`
		Verified     dialog.Verify `json:"verified"`
	} `json:"geist"`
}

func (r *reply) Next() (dialog.Delta, error) {
	for !r.done && r.lines.Scan() {
		data, ok := strings.CutPrefix(r.lines.Text(), "data: ")
		if !ok {
			continue // a comment, or the end of an event
		}
		if data == "[DONE]" {
			r.done = true
			break
		}
		var e event
		if err := json.Unmarshal([]byte(data), &e); err != nil {
			return dialog.Delta{}, fmt.Errorf("an event of the answer: %w", err)
		}
		if e.Error != nil {
			return dialog.Delta{}, e.Error.err()
		}
		if d := r.take(&e); d.Text != "" {
			return d, nil
		}
	}
	switch err := r.lines.Err(); {
	case r.done:
		return dialog.Delta{}, io.EOF
	case err != nil:
		return dialog.Delta{}, err
	}
	return dialog.Delta{}, errors.New("the geist that was asked ended before its answer did")
}

// take notes what an event says.
func (r *reply) take(e *event) (d dialog.Delta) {
	if e.Model != "" {
		r.served.Model = e.Model
	}
	for _, c := range e.Choices {
		d.Text += c.Text + c.Delta.Content
		if c.Finish != "" {
			r.sum.Finish = c.Finish
		}
	}
	if e.Usage != nil {
		r.sum.Usage = dialog.Usage{Prompt: e.Usage.Prompt, Answer: e.Usage.Answer}
	}
	if g := e.Geist; g != nil {
		r.served.Provider, r.served.ModelID, r.served.Quantisation = g.Provider, g.ModelID, g.Quantisation
		r.sum.Cost, r.sum.ID, r.sum.Grade, r.sum.Verified = g.Cost, g.Receipt, g.Grade, g.Verified
	}
	return d
}
