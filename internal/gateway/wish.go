package gateway

import (
	"encoding/json"
	"math"
	"strings"

	"github.com/geistnet/geist/arith"
	"github.com/geistnet/geist/ghost"
	"github.com/geistnet/geist/internal/dialog"
)

// wish is what every request may say besides its API's own fields.
type wish struct {
	Model    string `json:"model"`
	Provider *struct {
		Order          []string `json:"order"`
		Only           []string `json:"only"`
		Ignore         []string `json:"ignore"`
		AllowFallbacks *bool    `json:"allow_fallbacks"`
		Sort           string   `json:"sort"`
		MaxPrice       *struct {
			Prompt     json.Number `json:"prompt"`
			Completion json.Number `json:"completion"`
		} `json:"max_price"`
	} `json:"provider"`
	Verify string `json:"verify"`
	Geist  *struct {
		ModelID      string `json:"model_id"`
		Quantisation string `json:"quantisation"`
		Quantization string `json:"quantization"`
		Context      int    `json:"context"`
		Verify       string `json:"verify"`
	} `json:"geist"`
}

// asked is a wish, read.
type asked struct {
	model  string
	demand dialog.Demand
	route  dialog.Route
	verify dialog.Verify
}

func (w *wish) read() (a asked, err error) {
	a.model = w.Model
	if name, id, ok := strings.Cut(w.Model, "@"); ok {
		a.model, a.demand.ModelID = name, id
	}
	if g := w.Geist; g != nil {
		if g.ModelID != "" && a.demand.ModelID != "" && g.ModelID != a.demand.ModelID {
			return a, dialog.Errorf(dialog.Invalid, "geist.model_id", "model and geist.model_id demand different models")
		}
		a.demand.ModelID = orElse(g.ModelID, a.demand.ModelID)
		a.demand.Quantisation = strings.ToLower(orElse(g.Quantisation, g.Quantization))
		a.demand.Context = g.Context
		if g.Context < 0 {
			return a, dialog.Errorf(dialog.Invalid, "geist.context", "geist.context must not be negative")
		}
		w.Verify = orElse(g.Verify, w.Verify)
	}
	if id := a.demand.ModelID; id != "" {
		if _, err := ghost.ParseID(id); err != nil {
			return a, dialog.Errorf(dialog.Invalid, "model", "the model id %q: %v", clip(id), err)
		}
	}
	if a.model == "" && a.demand.ModelID == "" {
		return a, dialog.Errorf(dialog.Invalid, "model", "model is missing; GET /v1/models lists what there is")
	}
	if len(w.Model) > 512 {
		return a, dialog.Errorf(dialog.Invalid, "model", "model has more than 512 bytes")
	}
	switch a.verify = dialog.Verify(w.Verify); a.verify {
	case dialog.VerifyDefault, dialog.VerifyNone, dialog.VerifyReceipt, dialog.VerifyAudit, dialog.VerifyReplicate:
	default:
		return a, dialog.Errorf(dialog.Invalid, "verify", "verify is none, receipt, audit or replicate, not %q", clip(w.Verify))
	}
	a.demand.Audited = a.verify == dialog.VerifyAudit || a.verify == dialog.VerifyReplicate
	p := w.Provider
	if p == nil {
		return a, nil
	}
	a.route = dialog.Route{Order: p.Order, Only: p.Only, Ignore: p.Ignore, Sort: dialog.Sort(p.Sort)}
	a.route.NoFallback = p.AllowFallbacks != nil && !*p.AllowFallbacks
	switch a.route.Sort {
	case dialog.SortDefault, dialog.SortPrice, dialog.SortThroughput, dialog.SortLatency:
	default:
		return a, dialog.Errorf(dialog.Invalid, "provider.sort", "provider.sort is price, throughput or latency, not %q", clip(p.Sort))
	}
	if m := p.MaxPrice; m != nil {
		if a.route.MaxPrompt, err = millisatoshi(m.Prompt); err != nil {
			return a, err
		}
		if a.route.MaxAnswer, err = millisatoshi(m.Completion); err != nil {
			return a, err
		}
	}
	return a, nil
}

// millisatoshi is a price in satoshi for a million tokens, as requests have it, in
// millisatoshi; 0 where none is given.
func millisatoshi(price json.Number) (int64, error) {
	if price == "" {
		return 0, nil
	}
	x, err := price.Float64()
	if err != nil || !(x >= 0 && x <= 1e12) {
		return 0, dialog.Errorf(dialog.Invalid, "provider.max_price", "a price is a number of satoshi for a million tokens, from 0 to 10¹², not %q", clip(price.String()))
	}
	if x > 0 {
		return max(int64(math.Round(x*1000)), 1), nil // 0 would be no limit
	}
	return 0, nil
}

// question begins a question that says what every request says.
func (c *call) question(w *wish) (*dialog.Question, error) {
	a, err := w.read()
	if err != nil {
		return nil, err
	}
	return &dialog.Question{ID: c.id, Model: c.known(a.model), Demand: a.demand, Route: a.route, Verify: a.verify, TopLogProbs: -1}, nil
}

// sampling are the fields that both APIs have. Ollama's have names of their own
// for some.
type sampling struct {
	Temperature      *float64 `json:"temperature"`
	TopP             *float64 `json:"top_p"`
	TopK             *int     `json:"top_k"`
	MinP             *float64 `json:"min_p"`
	PresencePenalty  *float64 `json:"presence_penalty"`
	FrequencyPenalty *float64 `json:"frequency_penalty"`
	RepeatPenalty    *float64 `json:"repeat_penalty"`
	RepeatLastN      *int     `json:"repeat_last_n"`
}

// window is how many tokens back penalties look unless a request says so.
const window = 1024

// unsaid is what holds for an OpenAI client: if it says nothing of how to choose,
// what llama.cpp's server does, since open models at temperature 1 ramble; else
// OpenAI's neutral values for what it leaves out.
func (s *sampling) unsaid() arith.Sampling {
	if s.Temperature == nil && s.TopP == nil && s.TopK == nil && s.MinP == nil {
		return arith.Sampling{Temperature: 0.8, TopK: 40, TopP: 0.95, MinP: 0.05}
	}
	return arith.Sampling{Temperature: 1}
}

// read gives the sampling, where base is what holds if nothing is said.
func (s *sampling) read(base arith.Sampling) (arith.Sampling, error) {
	o := base
	set := func(dst *float32, v *float64) {
		if v != nil {
			*dst = float32(*v)
		}
	}
	set(&o.Temperature, s.Temperature)
	set(&o.TopP, s.TopP)
	set(&o.MinP, s.MinP)
	set(&o.PresencePenalty, s.PresencePenalty)
	set(&o.FrequencyPenalty, s.FrequencyPenalty)
	set(&o.RepeatPenalty, s.RepeatPenalty)
	if s.TopK != nil {
		o.TopK = max(0, *s.TopK)
	}
	if o.Temperature > 0 && o.Temperature < 1e-3 {
		o.Temperature = 0 // what so little heat comes to
	}
	if s.TopP != nil && *s.TopP == 0 {
		o.TopP = math.SmallestNonzeroFloat32 // the likeliest token alone; 0 would be all
	}
	penalties := o.PresencePenalty != 0 || o.FrequencyPenalty != 0 || o.RepeatPenalty != 0 && o.RepeatPenalty != 1
	switch {
	case s.RepeatLastN != nil && *s.RepeatLastN >= 0:
		o.RepeatLast = *s.RepeatLastN
	case s.RepeatLastN != nil:
		o.RepeatLast = 1 << 20 // -1: all there is
	case penalties && o.RepeatLast == 0:
		o.RepeatLast = window
	}
	if bad := o.Valid(); bad != "" {
		field, _, _ := strings.Cut(bad, " ")
		return o, dialog.Errorf(dialog.Invalid, field, "%s", bad)
	}
	return o, nil
}

// stops reads the texts that end an answer.
func stops(raw json.RawMessage) ([]string, error) {
	list, err := texts(raw, "stop", 64)
	if err != nil {
		return nil, err
	}
	var out []string
	for _, s := range list {
		if len(s) > 1024 {
			return nil, dialog.Errorf(dialog.Invalid, "stop", "a stop text has more than 1024 bytes")
		}
		if s != "" {
			out = append(out, s)
		}
	}
	return out, nil
}

// most checks the number of tokens that an answer may have.
func most(param string, n *int) (int, error) {
	switch {
	case n == nil:
		return 0, nil
	case *n < 0 || *n > 1<<30:
		return 0, dialog.Errorf(dialog.Invalid, param, "%s must be between 0 and 2^30", param)
	}
	return *n, nil
}
