package market

import (
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/geistnet/geist/ghost"
	"github.com/geistnet/geist/internal/nostr"
)

// A Wish is what a request wants from an offer.
type Wish struct {
	Request [32]byte // id of the request: seeds exploration and breaks ties
	Now     int64    // seconds since 1970

	Models       []ghost.ID // any of them; none: any model
	ModelName    string     // as asks call it, whatever the case; "": any
	InputTokens  int        // of this request
	OutputTokens int        // the most that it may generate
	Context      int        // positions that are needed; 0: InputTokens + OutputTokens
	MinGrade     ghost.Grade
	Rails        []string // any of them; none: any rail
	MaxCostMsat  int64    // for the whole request; 0: no limit

	MinTPSMilli int64 // 0: no demand
	MaxTTFTms   int64 // 0: no demand

	Busy map[ghost.Key]int // requests that this node has running at a provider

	TimeMsat        int64 // what a second of waiting is worth, in millisatoshi
	ExplorePermille int   // share of requests that go to a newcomer first

	Preferences
}

// context is how many positions are needed.
func (w *Wish) context() int {
	if w.Context > 0 {
		return w.Context
	}
	return w.InputTokens + w.OutputTokens
}

// Defaults of a Wish that a configuration may change.
const (
	DefaultTimeMsat        = 20
	DefaultExplorePermille = 50
)

// Sort is what decides among offers.
type Sort string

const (
	Balanced     Sort = ""           // price, reliability and time together
	ByPrice      Sort = "price"      // the least price
	ByThroughput Sort = "throughput" // the most tokens per second
	ByLatency    Sort = "latency"    // the least time to the first token
)

// Preferences are the words of a request's "provider" object, as OpenRouter has
// them. Providers are npub1…, 64 hex digits, or the first 8 or more of them.
type Preferences struct {
	Order         []string // first these, in this order
	Only          []string // none but these; empty: any
	Ignore        []string // none of these
	NoFallbacks   bool     // allow_fallbacks: false
	Quantizations []string // any of them, whatever the case; empty: any
	MaxInput      *Price   // max_price.prompt
	MaxOutput     *Price   // max_price.completion
	Sort          Sort
}

const (
	maxListed   = 256           // providers in one list
	maxTimeMsat = 1_000_000_000 // msat for a second
)

// ParsePreferences reads a request's "provider" object. Prices there are numbers
// with at most three digits after the point: satoshi per million tokens for
// prompt and completion, satoshi for request. Members not named in Preferences are
// ignored.
func ParsePreferences(b []byte) (Preferences, error) {
	var w struct {
		Order          []string                   `json:"order"`
		Only           []string                   `json:"only"`
		Ignore         []string                   `json:"ignore"`
		AllowFallbacks *bool                      `json:"allow_fallbacks"`
		Quantizations  []string                   `json:"quantizations"`
		MaxPrice       map[string]json.RawMessage `json:"max_price"`
		Sort           *string                    `json:"sort"`
	}
	var p Preferences
	if err := json.Unmarshal(b, &w); err != nil {
		return p, fmt.Errorf("provider: %w", err)
	}
	for _, l := range []struct {
		name string
		v    []string
	}{{"order", w.Order}, {"only", w.Only}, {"ignore", w.Ignore}} {
		if len(l.v) > maxListed {
			return p, fmt.Errorf("provider.%s: %d providers, at most %d", l.name, len(l.v), maxListed)
		}
		for _, s := range l.v {
			if _, err := named(s); err != nil {
				return p, fmt.Errorf("provider.%s: %w", l.name, err)
			}
		}
	}
	if len(w.Quantizations) > maxListed {
		return p, fmt.Errorf("provider.quantizations: %d, at most %d", len(w.Quantizations), maxListed)
	}
	p.Order, p.Only, p.Ignore, p.Quantizations = w.Order, w.Only, w.Ignore, w.Quantizations
	p.NoFallbacks = w.AllowFallbacks != nil && !*w.AllowFallbacks
	if w.Sort != nil {
		switch p.Sort = Sort(*w.Sort); p.Sort {
		case ByPrice, ByThroughput, ByLatency:
		default:
			return p, fmt.Errorf("provider.sort is %.40q, must be price, throughput or latency", *w.Sort)
		}
	}
	for _, m := range []struct {
		name string
		set  func(int64)
	}{
		{"prompt", func(n int64) { v := Price(n); p.MaxInput = &v }},
		{"completion", func(n int64) { v := Price(n); p.MaxOutput = &v }},
		{"request", func(int64) {}}, // no ask has a price per request
	} {
		raw, ok := w.MaxPrice[m.name]
		if !ok {
			continue
		}
		n, err := thousandths(strings.Trim(string(raw), `"`))
		if err != nil {
			return p, fmt.Errorf("provider.max_price.%s: %w", m.name, err)
		}
		m.set(n)
	}
	return p, nil
}

// thousandths reads a decimal with at most three digits after the point, times 1000.
func thousandths(s string) (int64, error) {
	whole, frac, point := strings.Cut(s, ".")
	if point && (len(frac) > 3 || !digits(frac)) {
		return 0, fmt.Errorf("%.40q: want a number of satoshi with at most three digits after the point", s)
	}
	n, err := decimal(whole, 1_000_000_000_000_000)
	if err != nil {
		return 0, fmt.Errorf("%.40q: %w", s, err)
	}
	f, err := strconv.ParseInt(frac+"000"[len(frac):], 10, 64)
	return n*1000 + f, err
}

// named is the hex that a provider's key begins with.
func named(s string) (string, error) {
	if strings.HasPrefix(s, "npub1") {
		k, err := nostr.ParsePublic(s)
		if err != nil {
			return "", err
		}
		return k.String(), nil
	}
	if len(s) < 8 || len(s) > 64 || !lowerHex(s) {
		return "", fmt.Errorf("provider %.80q is neither npub1… nor 8 to 64 hex digits", s)
	}
	return s, nil
}

// position is the first of list that names k, or -1.
func position(list []string, k ghost.Key) int {
	hex := k.String()
	for i, s := range list {
		if p, err := named(s); err == nil && strings.HasPrefix(hex, p) {
			return i
		}
	}
	return -1
}

// Check tells whether the wish makes sense.
func (w *Wish) Check() error {
	switch {
	case w.Context < 0:
		return fmt.Errorf("wish: a context of %d", w.Context)
	case w.InputTokens < 0 || w.OutputTokens < 0 || w.InputTokens > maxContext || w.OutputTokens > maxContext:
		return fmt.Errorf("wish: %d input and %d output tokens, must be 0 to %d", w.InputTokens, w.OutputTokens, maxContext)
	case w.ExplorePermille < 0 || w.ExplorePermille > 1000:
		return fmt.Errorf("wish: exploration of %d in a thousand", w.ExplorePermille)
	case w.TimeMsat < 0 || w.TimeMsat > maxTimeMsat:
		return fmt.Errorf("wish: a second is worth %d msat, must be 0 to %d", w.TimeMsat, maxTimeMsat)
	case w.MinGrade != "" && rankOf(w.MinGrade) < 0:
		return fmt.Errorf("wish: grade %.40q", w.MinGrade)
	}
	return nil
}

// FindProvider is the one provider among asks that a name stands for, as in Preferences.
func FindProvider(asks []*Ask, name string) (ghost.Key, error) {
	var found []ghost.Key
	if _, err := named(name); err != nil {
		return ghost.Key{}, err
	}
	for _, a := range asks {
		if position([]string{name}, a.Provider) == 0 && !slices.Contains(found, a.Provider) {
			found = append(found, a.Provider)
		}
	}
	switch len(found) {
	case 0:
		return ghost.Key{}, fmt.Errorf("no ask is of provider %s", name)
	case 1:
		return found[0], nil
	}
	return ghost.Key{}, fmt.Errorf("%s stands for %d providers; give more digits", name, len(found))
}
