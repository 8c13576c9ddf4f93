package gateway

import (
	_ "embed"
	"fmt"
	"net/http"
	"strings"

	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/geistnet/geist/internal/dialog"
)

//go:embed openapi.yaml
var contract string

type modelJSON struct {
	ID      string    `json:"id"`
	Object  string    `json:"object"`
	Created int64     `json:"created"`
	Owner   string    `json:"owned_by"`
	Geist   modelInfo `json:"geist"`
}

type modelInfo struct {
	ModelID      string   `json:"model_id,omitempty"`
	Quantisation string   `json:"quantisation,omitempty"`
	Family       string   `json:"family,omitempty"`
	Parameters   int64    `json:"parameters,omitempty"`
	Context      int      `json:"context,omitempty"`
	Capabilities []string `json:"capabilities"`
	Prompt       int64    `json:"price_prompt_msat"`
	Answer       int64    `json:"price_completion_msat"`
	Providers    int      `json:"providers"`
	Grade        string   `json:"grade,omitempty"`
	Loaded       bool     `json:"loaded"`
}

func modelOf(m dialog.Model) modelJSON {
	created := int64(0)
	if !m.Created.IsZero() {
		created = m.Created.Unix()
	}
	return modelJSON{m.Name, "model", created, "geist", modelInfo{m.ID, m.Quantisation, m.Family, m.Parameters, m.Context, some(m.Capabilities), m.PromptPrice, m.AnswerPrice, m.Providers, m.Grade, m.Loaded}}
}

// some is a list that is never null in JSON.
func some(list []string) []string {
	if list == nil {
		return []string{}
	}
	return list
}

// models serves GET /v1/models.
func (c *call) models() error {
	list, err := c.g.opt.Backend.Models(c.ctx)
	if err != nil {
		return err
	}
	data := make([]modelJSON, len(list))
	for i, m := range list {
		data[i] = modelOf(m)
	}
	return c.json(200, map[string]any{"object": "list", "data": data})
}

// known is the name that the backend knows, of a name that may be an alias.
func (c *call) known(name string) string { return orElse(c.g.opt.Aliases[name], name) }

// lookup finds a model by a name, or by a name and a model id.
func (c *call) lookup(name string) (dialog.Model, error) {
	list, err := c.g.opt.Backend.Models(c.ctx)
	if err != nil {
		return dialog.Model{}, err
	}
	plain, id, _ := strings.Cut(name, "@")
	plain = c.known(plain)
	for _, m := range list {
		if m.Name == plain && (id == "" || id == m.ID) {
			return m, nil
		}
	}
	return dialog.Model{}, dialog.Errorf(dialog.NoModel, "model", "there is no model %q; GET /v1/models lists what there is", clip(name))
}

// model serves GET /v1/models/NAME.
func (c *call) model() error {
	m, err := c.lookup(c.name)
	if err != nil {
		return err
	}
	return c.json(200, modelOf(m))
}

// receipt serves GET /v1/receipts/ID.
func (c *call) receipt() error {
	r, ok := c.g.opt.Backend.(Receipts)
	if !ok {
		return dialog.Errorf(dialog.NotFound, "", "no receipts are kept here")
	}
	raw, err := r.Receipt(c.ctx, c.name)
	if err != nil {
		return err
	}
	return c.json(200, raw)
}

// root tells Ollama clients that somebody is there, and browsers more.
func (c *call) root() error {
	if c.g.opt.Page != nil && c.r.Method == http.MethodGet && strings.Contains(c.r.Header.Get("Accept"), "text/html") {
		if c.pageKey() {
			return nil
		}
		c.g.opt.Page.ServeHTTP(c.w, c.r)
		return nil
	}
	return c.text("text/plain; charset=utf-8", "Ollama is running")
}

// base answers clients that look whether the base of the API is there.
func (c *call) base() error {
	return c.json(200, map[string]string{"object": "api", "documentation": "/openapi.yaml"})
}

func (c *call) healthy() error { return c.json(200, map[string]string{"status": "ok"}) }

// ready tells whether a question can be answered now.
func (c *call) ready() error {
	check := c.g.opt.Ready
	if check == nil {
		check = c.g.listed
	}
	if err := check(c.ctx); err != nil {
		return c.json(http.StatusServiceUnavailable, map[string]string{"status": "unavailable", "reason": err.Error()})
	}
	return c.healthy()
}

func (c *call) metrics() error {
	promhttp.HandlerFor(c.g.opt.Registry, promhttp.HandlerOpts{}).ServeHTTP(c.w, c.r)
	return nil
}

func (c *call) contract() error { return c.text("application/yaml", contract) }

func quantLabel(m dialog.Model) string { return strings.ToUpper(m.Quantisation) }

func sizeLabel(n int64) string {
	switch {
	case n <= 0:
		return ""
	case n >= 1e9:
		return fmt.Sprintf("%.1fB", float64(n)/1e9)
	}
	return fmt.Sprintf("%.1fM", float64(n)/1e6)
}
