package node

import (
	"encoding/json"
	"net/http"
	"slices"
	"strconv"
	"time"

	"github.com/geistnet/geist/ghost"
	"github.com/geistnet/geist/internal/asker"
	"github.com/geistnet/geist/internal/market"
	"github.com/geistnet/geist/internal/nostr"
	"github.com/geistnet/geist/internal/pay"
)

// api is what the page asks of its node, behind the gateway's guard
// (docs/spec/node.md).
func (n *Node) api() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /geist/v1/node", n.getNode)
	mux.HandleFunc("GET /geist/v1/providers", n.getProviders)
	mux.HandleFunc("GET /geist/v1/wallet", n.getWallet)
	mux.HandleFunc("GET /geist/v1/receipts", n.getReceipts)
	mux.HandleFunc("GET /geist/v1/receipts/{id}/run", n.getFile)
	mux.HandleFunc("GET /geist/v1/receipts/{id}/ghost", n.getFile)
	mux.HandleFunc("GET /geist/v1/receipts/{id}/proof", n.getFile)
	mux.HandleFunc("POST /geist/v1/receipts/{id}/audit", n.postAudit)
	mux.HandleFunc("GET /geist/v1/serve", n.getServe)
	mux.HandleFunc("POST /geist/v1/serve", n.postServe)
	mux.HandleFunc("DELETE /geist/v1/serve/{id}", n.deleteServe)
	if n.parts.Page != nil {
		mux.Handle("GET /geist/page/", n.parts.Page)
	}
	mux.HandleFunc("/geist/", func(w http.ResponseWriter, q *http.Request) {
		fail(w, http.StatusNotFound, "nothing is at "+q.URL.Path)
	})
	return mux
}

func write(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	_ = json.NewEncoder(w).Encode(v) // the client may be gone
}

func fail(w http.ResponseWriter, status int, message string) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(map[string]any{"error": map[string]any{"message": message, "type": "geist", "param": nil, "code": nil}})
}

// Status is what GET /geist/v1/node says.
type Status struct {
	Version  string   `json:"version"`
	Provider string   `json:"provider"` // npub of the node's key
	Asker    string   `json:"asker"`
	Key      string   `json:"key"` // hex
	AskerKey string   `json:"asker_key"`
	URL      string   `json:"url"`
	Provide  string   `json:"provide,omitempty"`
	Relay    string   `json:"relay,omitempty"`
	Uptime   float64  `json:"uptime_s"`
	Relays   []Relay  `json:"relays"`
	Models   []string `json:"models"`
	Verify   string   `json:"verify"`
}

// Relay is how it stands with one.
type Relay struct {
	URL       string `json:"url"`
	Connected bool   `json:"connected"` // at least one subscription is open
	Error     string `json:"error,omitempty"`
	Next      string `json:"next,omitempty"` // what to do, if it is not connected
}

// Status of the node.
func (n *Node) Status() Status {
	s := Status{Version: n.parts.Version, Provider: nostr.PublicText(n.Key()), Asker: nostr.PublicText(n.asker.Key()), Key: n.Key().String(), AskerKey: n.asker.Key().String(),
		URL: n.URL(), Provide: n.ProvideURL(), Relay: n.RelayURL(), Uptime: n.parts.Now().Sub(n.began).Seconds(), Relays: []Relay{}, Models: []string{}, Verify: n.cfg.Verify}
	if n.client != nil {
		for _, r := range n.client.Status() {
			x := Relay{URL: r.URL, Connected: r.Connected > 0, Error: r.LastError}
			if !x.Connected {
				x.Next = RelayNext(r.URL, r.LastError)
			}
			s.Relays = append(s.Relays, x)
		}
	}
	for _, a := range n.view.Asks() {
		if !slices.Contains(s.Models, a.ModelName) {
			s.Models = append(s.Models, a.ModelName)
		}
	}
	slices.Sort(s.Models)
	return s
}

func (n *Node) getNode(w http.ResponseWriter, _ *http.Request) { write(w, n.Status()) }

// providerJSON is one offer as the page shows it.
type providerJSON struct {
	market.Ranked
	Provider string `json:"provider"` // hex
	Npub     string `json:"npub"`
	ModelID  string `json:"model_id"`
	Own      bool   `json:"own"` // this node's
	Answers  int    `json:"answers"`
	Failed   int    `json:"failed"`
	Passed   int    `json:"audits_passed"`
	Caught   int    `json:"audits_failed"`
	Spent    int64  `json:"spent_msat"`
	Hint     string `json:"provider_hint"`
	Why      string `json:"why"`
}

func (n *Node) getProviders(w http.ResponseWriter, q *http.Request) {
	r, err := n.asker.Why(q.URL.Query().Get("model"))
	if err != nil {
		fail(w, http.StatusBadRequest, err.Error())
		return
	}
	type count struct {
		answers, failed, passed, caught int
		spent                           int64
	}
	counts := map[string]*count{}
	for _, e := range n.asker.Entries(2000) {
		c := counts[e.Provider]
		if c == nil {
			c = &count{}
			counts[e.Provider] = c
		}
		c.answers++
		if e.Phase == "failed" {
			c.failed++
		}
		switch e.Verdict {
		case "passed":
			c.passed++
		case "failed":
			c.caught++
		}
		c.spent += e.PaidMsat
	}
	list := []providerJSON{}
	for _, x := range append(slices.Clone(r.Offers), r.Excluded...) {
		p := providerJSON{Ranked: x, Provider: x.Ask.Provider.String(), Npub: nostr.PublicText(x.Ask.Provider), ModelID: x.Ask.Model.String(), Own: x.Ask.Provider == n.Key()}
		if c := counts[p.Provider]; c != nil {
			p.Answers, p.Failed, p.Passed, p.Caught, p.Spent = c.answers, c.failed, c.passed, c.caught, c.spent
		}
		for _, a := range r.Why(x.Ask.Provider) {
			if a.Ask == x.Ask.Name {
				p.Why, p.Hint = a.Client, a.Hint
			}
		}
		list = append(list, p)
	}
	write(w, map[string]any{"providers": list})
}

// peerJSON is the balance with one peer.
type peerJSON struct {
	Key     string         `json:"key"`
	Npub    string         `json:"npub"`
	Role    string         `json:"role"`         // of the peer: "provider", "client"
	Balance pay.MilliSat   `json:"balance_msat"` // what the peer owes this node; negative: the other way round
	Room    pay.MilliSat   `json:"room_msat"`    // how much more the peer may come to owe this node
	Left    pay.MilliSat   `json:"left_msat"`    // of a client the same; of a provider how much more this node may come to owe it
	Own     bool           `json:"own"`          // this node itself, as which it asks or answers: without limits
	State   *pay.Statement `json:"statement,omitempty"`
}

// balances are what others owe this node, and this node others.
func (n *Node) balances() (in, out pay.MilliSat) {
	for _, c := range []*pay.Credit{n.taken, n.owed} {
		if c == nil {
			continue
		}
		for _, k := range c.Peers() {
			if b := c.Balance(k); b > 0 {
				in += b
			} else {
				out -= b
			}
		}
	}
	return in, out
}

func (n *Node) getWallet(w http.ResponseWriter, _ *http.Request) {
	peers := []peerJSON{}
	own := n.Key()
	for _, c := range []struct {
		credit *pay.Credit
		role   string
	}{{n.owed, "provider"}, {n.taken, "client"}} {
		if c.credit == nil {
			continue
		}
		for _, k := range c.credit.Peers() {
			p := peerJSON{Key: k.String(), Npub: nostr.PublicText(k), Role: c.role, Balance: c.credit.Balance(k), Room: c.credit.Room(k), Own: k == own || k == n.asker.Key()}
			switch {
			case p.Own:
				p.Left = ownLimit
			case c.role == "client":
				p.Left = max(0, p.Room)
			default:
				p.Left = max(0, n.cfg.Debt+p.Balance)
			}
			peers = append(peers, p)
		}
	}
	in, out := n.balances()
	ledger := n.asker.Entries(500)
	if ledger == nil {
		ledger = []asker.Entry{}
	}
	today, day := int64(0), n.parts.Now().UTC().Truncate(24*time.Hour).UnixMilli()
	for _, e := range ledger {
		if e.At >= day {
			today += e.PaidMsat
		}
	}
	write(w, map[string]any{"unit": "msat", "rails": []string{"credit"}, "owed_to_you_msat": in, "you_owe_msat": out, "spent_today_msat": today,
		"credit_msat": n.cfg.Credit, "debt_msat": n.cfg.Debt, "per_request_msat": n.cfg.Spend, "peers": peers, "ledger": ledger})
}

func (n *Node) getReceipts(w http.ResponseWriter, _ *http.Request) {
	list := []asker.Entry{}
	for _, e := range n.asker.Entries(500) {
		if e.Receipt != "" {
			list = append(list, e)
		}
	}
	write(w, map[string]any{"receipts": list})
}

func (n *Node) getFile(w http.ResponseWriter, q *http.Request) {
	run, g, proof, err := n.asker.Files(q.PathValue("id"))
	if err != nil {
		fail(w, http.StatusNotFound, err.Error())
		return
	}
	b, none := run, "there is no proof of this answer yet; POST …/audit demands one"
	switch q.URL.Path[len(q.URL.Path)-5:] {
	case "ghost":
		b, none = g, "this answer's model has no Ghost file: nothing of the answer can be checked"
	case "proof":
		b = proof
	}
	if b == nil {
		fail(w, http.StatusNotFound, none)
		return
	}
	w.Header().Set("Content-Type", "application/octet-stream")
	w.Header().Set("Content-Length", strconv.Itoa(len(b)))
	_, _ = w.Write(b) // the client may be gone
}

// postAudit demands a proof, if there is none yet, and gives the verdict.
func (n *Node) postAudit(w http.ResponseWriter, q *http.Request) {
	id := q.PathValue("id")
	_, g, _, err := n.asker.Files(id)
	if err != nil {
		fail(w, http.StatusNotFound, err.Error())
		return
	}
	if g == nil {
		fail(w, http.StatusConflict, "this answer's model has no Ghost file: nothing of the answer can be checked, and its grade is reputation")
		return
	}
	v := n.asker.Audit(q.Context(), id)
	if v == nil {
		fail(w, http.StatusBadGateway, "the provider gave no proof")
		return
	}
	w.Header().Set("Content-Type", "application/json")
	_, _ = w.Write(v.JSON())
}

// servingJSON is a model that is offered here.
type servingJSON struct {
	ID       string  `json:"id"`
	Name     string  `json:"name"`
	Quant    string  `json:"quantisation"`
	Context  int     `json:"context"`
	Grade    string  `json:"grade"`
	Prompt   int64   `json:"price_prompt_msat_per_million"`
	Answer   int64   `json:"price_answer_msat_per_million"`
	Sessions int     `json:"sessions"`
	Running  int     `json:"running"`
	Waiting  int     `json:"waiting"`
	Cache    float64 `json:"kv_cache_usage_ratio"`
	Since    string  `json:"since"`
	Upstream string  `json:"upstream,omitempty"`
}

func (n *Node) getServe(w http.ResponseWriter, _ *http.Request) {
	n.mu.Lock()
	list := slices.Clone(n.serving)
	n.mu.Unlock()
	out := []servingJSON{}
	for _, s := range list {
		l := n.provider.Load(s.model.ID)
		out = append(out, servingJSON{s.model.ID.String(), s.model.Name, s.model.Quantisation, s.model.Context, string(s.model.Grade), int64(s.offer.Prompt), int64(s.offer.Answer),
			s.model.Sessions, l.Running, l.Waiting, l.Busy, s.since.UTC().Format(time.RFC3339), s.offer.Upstream})
	}
	installed := []string{}
	if n.parts.Installed != nil {
		installed = append(installed, n.parts.Installed()...)
	}
	totals := map[string]any{}
	if n.provider != nil {
		t := n.provider.Totals()
		totals = map[string]any{"jobs": t.Jobs, "settled": t.Settled, "failed": t.Failed, "refused": t.Refused, "proofs": t.Proofs, "prompt_tokens": t.PromptTokens, "answer_tokens": t.AnswerTokens, "earned_msat": t.Earned}
	}
	write(w, map[string]any{"serving": out, "installed": installed, "totals": totals, "provides": n.provider != nil})
}

func (n *Node) postServe(w http.ResponseWriter, q *http.Request) {
	d := json.NewDecoder(http.MaxBytesReader(w, q.Body, 64<<10))
	d.DisallowUnknownFields()
	var o Offer
	if err := d.Decode(&o); err != nil {
		fail(w, http.StatusBadRequest, "the offer: "+err.Error())
		return
	}
	check := n.cfg
	check.Models = []Offer{o}
	if err := check.Check(); err != nil {
		fail(w, http.StatusBadRequest, err.Error())
		return
	}
	if n.parts.Installed != nil && o.Upstream == "" && !slices.Contains(n.parts.Installed(), o.Model) {
		fail(w, http.StatusBadRequest, "no model here is called "+strconv.Quote(o.Model)+"; \"geist models add FILE\" adds one")
		return
	}
	if err := n.Offer(q.Context(), o, nil); err != nil {
		fail(w, http.StatusConflict, err.Error())
		return
	}
	n.getServe(w, q)
}

func (n *Node) deleteServe(w http.ResponseWriter, q *http.Request) {
	id, err := ghost.ParseID(q.PathValue("id"))
	if err == nil {
		err = n.Withdraw(q.Context(), id)
	}
	if err != nil {
		fail(w, http.StatusNotFound, err.Error())
		return
	}
	n.getServe(w, q)
}
