package gateway

import (
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"math"

	"github.com/geistnet/geist/internal/dialog"
)

const maxInputs = 2048

type embedRequest struct {
	wish
	Input          json.RawMessage `json:"input"`
	EncodingFormat string          `json:"encoding_format"`
	Dimensions     *int            `json:"dimensions"`
	Truncate       bool            `json:"truncate"` // Ollama
	Prompt         *string         `json:"prompt"`   // Ollama's older path
}

// embed reads the rest of a request and gets the vectors.
func (c *call) embed(f *embedRequest) (*dialog.Vectors, error) {
	a, err := f.wish.read()
	if err != nil {
		return nil, err
	}
	q := &dialog.EmbedQuestion{ID: c.id, Model: c.known(a.model), Demand: a.demand, Route: a.route, Verify: a.verify, Truncate: f.Truncate}
	if q.Texts, q.Tokens, err = inputs(f.Input); err != nil {
		return nil, err
	}
	n := max(len(q.Texts), len(q.Tokens))
	v, err := c.g.opt.Backend.Embed(c.ctx, q)
	if err != nil {
		return nil, err
	}
	if err := kept(q.Demand, q.Route, v.Served); err != nil {
		return nil, err
	}
	if len(v.Vectors) != n {
		return nil, dialog.Errorf(dialog.Failed, "", "%d vectors came back for %d inputs", len(v.Vectors), n)
	}
	if f.Dimensions != nil {
		for i := range v.Vectors {
			if v.Vectors[i], err = shorten(v.Vectors[i], *f.Dimensions); err != nil {
				return nil, err
			}
		}
	}
	c.served = v.Served.Model
	c.g.m.tokens.WithLabelValues(c.served, "prompt").Add(float64(v.Summary.Usage.Prompt))
	c.g.m.cost.WithLabelValues(c.served).Add(float64(max(0, v.Summary.Cost)))
	c.servedHeaders(v.Served)
	c.sumHeaders(v.Summary)
	return v, nil
}

// inputs reads a text, texts, token ids, or lists of those.
func inputs(raw json.RawMessage) (list []string, tokens [][]int32, err error) {
	var one string
	var ids []int32
	switch {
	case absent(raw):
		return nil, nil, dialog.Errorf(dialog.Invalid, "input", "input is missing")
	case json.Unmarshal(raw, &one) == nil:
		return []string{one}, nil, nil
	case json.Unmarshal(raw, &ids) == nil && len(ids) > 0:
		tokens = [][]int32{ids}
	case json.Unmarshal(raw, &list) == nil && len(list) > 0:
	case json.Unmarshal(raw, &tokens) == nil && len(tokens) > 0:
		list = nil
	default:
		return nil, nil, dialog.Errorf(dialog.Invalid, "input", "input is neither text nor token ids nor a list of one of these")
	}
	if tokens != nil {
		list = nil
	}
	if n := max(len(list), len(tokens)); n > maxInputs {
		return nil, nil, dialog.Errorf(dialog.Invalid, "input", "input has %d elements; at most %d are possible", n, maxInputs)
	}
	for i, t := range tokens {
		if len(t) == 0 {
			return nil, nil, dialog.Errorf(dialog.Invalid, "input", "input %d is empty", i)
		}
		for _, id := range t {
			if id < 0 {
				return nil, nil, dialog.Errorf(dialog.Invalid, "input", "input %d has the token id %d", i, id)
			}
		}
	}
	return list, tokens, nil
}

// shorten keeps the first n values and scales them to length one.
func shorten(v []float32, n int) ([]float32, error) {
	if n < 1 || n > len(v) {
		return nil, dialog.Errorf(dialog.Invalid, "dimensions", "dimensions is %d; vectors of this model have %d", n, len(v))
	}
	sum := 0.0
	for _, x := range v[:n] {
		sum += float64(float64(x) * float64(x))
	}
	out := make([]float32, n)
	for i, x := range v[:n] {
		out[i] = float32(float64(x) / max(math.Sqrt(sum), 0x1p-60))
	}
	return out, nil
}

// embeddings serves POST /v1/embeddings.
func (c *call) embeddings() error {
	var f embedRequest
	if err := c.read(&f); err != nil {
		return err
	}
	if f.EncodingFormat != "" && f.EncodingFormat != "float" && f.EncodingFormat != "base64" {
		return dialog.Errorf(dialog.Invalid, "encoding_format", "encoding_format is float or base64, not %q", clip(f.EncodingFormat))
	}
	v, err := c.embed(&f)
	if err != nil {
		return err
	}
	type item struct {
		Object    string `json:"object"`
		Index     int    `json:"index"`
		Embedding any    `json:"embedding"`
	}
	type use struct {
		Prompt int `json:"prompt_tokens"`
		Total  int `json:"total_tokens"`
	}
	data := make([]item, len(v.Vectors))
	for i, x := range v.Vectors {
		data[i] = item{"embedding", i, x}
		if f.EncodingFormat == "base64" {
			b := make([]byte, 4*len(x))
			for j, y := range x {
				binary.LittleEndian.PutUint32(b[4*j:], math.Float32bits(y))
			}
			data[i].Embedding = base64.StdEncoding.EncodeToString(b)
		}
	}
	n := v.Summary.Usage.Prompt
	return c.json(200, struct {
		Object string   `json:"object"`
		Data   []item   `json:"data"`
		Model  string   `json:"model"`
		Usage  use      `json:"usage"`
		Geist  *account `json:"geist"`
	}{"list", data, orElse(v.Served.Model, f.Model), use{n, n}, accountOf(v.Served, v.Summary)})
}
