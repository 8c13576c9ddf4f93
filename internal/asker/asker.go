// Package asker puts questions to the market: it finds out what a question's
// tokens are, lets package market choose a provider, drives the asker's machine of
// package job against it, pays chunk by chunk, goes on with another provider where
// one fails, keeps the receipt, and audits.
//
// It trusts providers with nothing. The Ghost file and the vocabulary it uses are
// those that the model id names; the prompt is rendered and split into tokens here;
// text is made of tokens here; and what a token costs is counted here.
package asker

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/geistnet/geist/audit"
	"github.com/geistnet/geist/ghost"
	"github.com/geistnet/geist/internal/dialog"
	"github.com/geistnet/geist/internal/job"
	"github.com/geistnet/geist/internal/market"
	"github.com/geistnet/geist/internal/pay"
)

// Options of New.
type Options struct {
	Secret  ghost.Secret
	Rails   []pay.Rail // in the order of preference
	Journal *pay.Journal
	Dir     string       // for receipts and vocabularies
	Log     *slog.Logger // nil: none
	Now     func() time.Time
	// HTTP is nil, or keeps connections; it must not have a Timeout. Redirects are
	// never followed: a provider must not choose whom else this node talks to.
	HTTP *http.Client

	// Asks are the offers known now, each address once (market.Collect).
	Asks func() []*market.Ask
	// Reviews of others, and whom this node trusts. May be nil.
	Reviews func() ([]*market.Review, *market.Trust)

	Patience job.Patience // its Most is what one request may cost, unless it says less
	Verify   dialog.Verify
	Size     audit.Size // of audits
	// AuditPatience bounds the pauses between demands for a proof from a provider
	// that cannot be reached; they double from half a second. 0: 4 s.
	AuditPatience time.Duration
	// Watch, if not nil, learns of every call that ended. It must not block.
	Watch func(Entry)
	// Judged, if not nil, learns of every verdict on an answer, also of one that is
	// given again. It must not block.
	Judged func(Entry)
}

// Asker gets answers from providers. Its methods may be called concurrently.
type Asker struct {
	o      Options
	self   ghost.Key
	ctx    context.Context
	cancel context.CancelFunc
	live   sync.WaitGroup
	names  *library

	writing sync.Mutex // of entries into the journal, in their order; before mu

	mu      sync.Mutex
	entries []Entry             // oldest first, at most maxEntries
	felt    []felt              // what each of entries says of its provider
	known   []market.Experience // of felt, once it is asked for; nil: to be gathered
	busy    map[ghost.Key]int
	lanes   map[ghost.Key]chan struct{} // an element for each payment to a provider that is under way
}

// mostPayments is how many payments to one provider are under way at once. A line
// of credit takes 63 that are not agreed yet and each message carries all of them,
// so that payments of many answers wait here for their turn: fewer make small
// messages, and these are enough for hundreds in a second to the other end of the world.
const mostPayments = 16

// lane is where payments to a provider take turns.
func (a *Asker) lane(provider ghost.Key) chan struct{} {
	a.mu.Lock()
	defer a.mu.Unlock()
	l := a.lanes[provider]
	if l == nil {
		l = make(chan struct{}, mostPayments)
		a.lanes[provider] = l
	}
	return l
}

// Entry is the account of one job that this node asked for.
type Entry struct {
	At       int64     `json:"at"` // Unix milliseconds, when it ended
	Request  string    `json:"request"`
	Job      string    `json:"job"`
	Provider string    `json:"provider"` // hex
	Model    string    `json:"model"`
	ModelID  string    `json:"model_id"`
	Rail     string    `json:"rail"`
	Phase    job.Phase `json:"phase"`
	Code     job.Code  `json:"code"`
	Message  string    `json:"message,omitempty"`
	Prompt   int       `json:"prompt_tokens"` // charged or not
	Resumed  int       `json:"resumed_tokens"`
	Tokens   int       `json:"answer_tokens"` // delivered by this provider
	PaidMsat int64     `json:"paid_msat"`
	TTFTms   int64     `json:"ttft_ms,omitempty"`
	TPSMilli int64     `json:"tps_milli,omitempty"`
	Receipt  string    `json:"receipt,omitempty"`
	Grade    string    `json:"grade,omitempty"`
	// Verified is the level that was reached; Verdict "passed" or "failed" of its
	// audit, or "" before there is one.
	Verified dialog.Verify `json:"verified,omitempty"`
	Verdict  string        `json:"verdict,omitempty"`
	Reason   string        `json:"reason,omitempty"` // of a failed verdict
}

const (
	maxEntries  = 2000
	entryPrefix = "asked/"
	attempts    = 4 // providers that one question is put to
)

// New makes an asker. Close must be called.
func New(o Options) (*Asker, error) {
	self, err := o.Secret.Public()
	if err != nil {
		return nil, err
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.HTTP == nil {
		o.HTTP = &http.Client{Transport: &http.Transport{
			MaxIdleConnsPerHost: 64, IdleConnTimeout: 90 * time.Second, MaxResponseHeaderBytes: 64 << 10,
			DisableCompression: true, // small events, at once
		}}
	}
	own := *o.HTTP
	own.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	o.HTTP = &own
	if o.Patience.Silence == 0 {
		o.Patience = job.DefaultPatience(cmp.Or(o.Patience.Most, pay.MaxAmount))
	}
	if o.Verify == dialog.VerifyDefault {
		o.Verify = dialog.VerifyReceipt
	}
	if o.AuditPatience == 0 {
		o.AuditPatience = 4 * time.Second
	}
	if o.Size == (audit.Size{}) {
		o.Size = audit.Standard
	}
	if o.Judged == nil {
		o.Judged = func(Entry) {}
	}
	if o.Watch == nil {
		o.Watch = func(Entry) {}
	}
	for _, d := range []string{"receipts", "models"} {
		if err := os.MkdirAll(filepath.Join(o.Dir, d), 0o700); err != nil {
			return nil, err
		}
	}
	a := &Asker{o: o, self: self, busy: map[ghost.Key]int{}, lanes: map[ghost.Key]chan struct{}{}}
	a.names = &library{dir: filepath.Join(o.Dir, "models"), http: o.HTTP, known: map[ghost.ID]*known{}, busy: map[ghost.ID]chan struct{}{}, blame: a.blame}
	a.ctx, a.cancel = context.WithCancel(context.Background())
	for _, b := range o.Journal.All(entryPrefix) {
		var e Entry
		if json.Unmarshal(b, &e) == nil {
			a.entries, a.felt = append(a.entries, e), append(a.felt, feel(&e))
		}
	}
	return a, nil
}

// Key is the asker's public key.
func (a *Asker) Key() ghost.Key { return a.self }

// Close ends everything at once.
func (a *Asker) Close() error {
	a.cancel()
	a.live.Wait()
	return nil
}

// Start brings jobs to an end that a crash left: nobody waits for their answers
// any more, so they are cancelled, and what was delivered is settled.
func (a *Asker) Start() error {
	for key, b := range a.o.Journal.All(recordPrefix) {
		c, nonce, err := a.restore(b)
		if err != nil {
			a.o.Log.Warn("a job cannot be taken up", "key", key, "error", err)
			if err := a.o.Journal.Put(pay.Entry{Key: key}); err != nil {
				return err
			}
			continue
		}
		a.live.Go(func() {
			c.halt()
			c.run(job.AskerRestarted{Promised: c.payer.Promised(), Paid: c.payer.Paid()}, nonce)
			if c.end.Closing { // the next start takes it up again
				return
			}
			e := a.enter(c, "", "")
			a.keep(c, nonce, &e)
		})
	}
	a.live.Go(a.meet)
	return nil
}

func (a *Asker) restore(b []byte) (*call, ghost.Nonce, error) {
	var r record
	var nonce ghost.Nonce
	if err := json.Unmarshal(b, &r); err != nil {
		return nil, nonce, err
	}
	o, err := job.ParseOrder(r.Order)
	if err != nil {
		return nil, nonce, err
	}
	if n, err := hex.Decode(nonce[:], []byte(r.AuditNonce)); err != nil || n != len(nonce) {
		return nil, nonce, errors.New("its nonce is damaged")
	}
	p := a.o.Patience
	p.Most = r.Most
	m, err := job.RestoreAsker(o, p, r.State)
	if err != nil {
		return nil, nonce, err
	}
	rail := a.rail([]string{o.Rail})
	if rail == nil {
		return nil, nonce, fmt.Errorf("there is no rail %q", o.Rail)
	}
	c, err := a.newCall(o, m, rail, r.Endpoint, nil)
	return c, nonce, err
}

// rail is the first of ours that is among names.
func (a *Asker) rail(names []string) pay.Rail {
	for _, r := range a.o.Rails {
		if slices.Contains(names, r.Name()) {
			return r
		}
	}
	return nil
}

// Entries are the accounts of jobs, newest first, at most n.
func (a *Asker) Entries(n int) []Entry {
	a.mu.Lock()
	defer a.mu.Unlock()
	out := slices.Clone(a.entries[max(0, len(a.entries)-n):])
	slices.Reverse(out)
	return out
}

// Experience is what the entries say of providers. It is shared, and not to be changed.
func (a *Asker) Experience() []market.Experience {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.known == nil {
		a.known = make([]market.Experience, 0, len(a.felt))
		for i := range a.felt {
			if a.felt[i].says {
				a.known = append(a.known, a.felt[i].Experience)
			}
		}
	}
	return a.known
}

// felt is what an entry says of a provider, if it says anything. It is made once:
// each question looks at those of all entries.
type felt struct {
	market.Experience
	says bool
}

// feel reads an entry. A job that was cancelled says nothing of its provider.
func feel(e *Entry) (out felt) {
	if e.Phase == job.PhaseCancelled || len(e.Provider) != 2*len(out.Provider) {
		return felt{}
	}
	x := &out.Experience
	*x = market.Experience{At: e.At / 1000, OK: e.Phase == job.PhaseSettled || e.Phase == job.PhaseAudited, Reason: string(e.Code), TTFTms: e.TTFTms, TPSMilli: e.TPSMilli, SpentMsat: e.PaidMsat}
	id, err := ghost.ParseID(e.ModelID)
	if n, err2 := hex.Decode(x.Provider[:], []byte(e.Provider)); err != nil || err2 != nil || n != len(x.Provider) {
		return felt{}
	}
	x.Model = id
	if x.OK {
		x.Reason = ""
	}
	switch e.Verdict {
	case "passed":
		x.Audit = market.AuditPassed
	case "failed":
		x.Audit = market.AuditFailed
	case verdictMissing:
		x.OK, x.Reason = false, "no-proof"
	}
	out.says = true
	return out
}

// enter keeps the account of a call that ended.
func (a *Asker) enter(c *call, request, model string) Entry {
	o := c.order
	e := Entry{At: a.o.Now().UnixMilli(), Request: request, Job: hex.EncodeToString(c.id[:]), Provider: hex.EncodeToString(o.Provider[:]), Model: model, ModelID: o.Model.String(),
		Rail: o.Rail, Phase: c.end.Phase, Code: c.end.Code, Message: c.end.Message, Prompt: len(o.Request.Prompt), Resumed: len(o.Resume), Tokens: len(c.m.Tokens()) - len(o.Resume), PaidMsat: int64(c.m.Paid())}
	if r := c.m.Receipt(); r != nil {
		e.Receipt, e.Grade, e.Verified = r.ID().String(), string(r.Grade), dialog.VerifyReceipt
	}
	if !c.first.IsZero() {
		e.TTFTms = max(1, c.first.Sub(c.begun).Milliseconds())
		if d := c.last.Sub(c.first); d > 0 && e.Tokens > 1 {
			e.TPSMilli = int64(float64(e.Tokens-1) / d.Seconds() * 1000)
		}
	}
	a.put(e)
	a.o.Watch(e)
	a.o.Log.Info("asked", "request", request, "job", e.Job, "provider", e.Provider, "model", model, "phase", string(e.Phase), "code", string(e.Code), "tokens", e.Tokens, "paid_msat", e.PaidMsat)
	return e
}

// put stores an entry under its job.
func (a *Asker) put(e Entry) {
	b, err := json.Marshal(e)
	if err != nil {
		return
	}
	a.writing.Lock()
	defer a.writing.Unlock()
	a.mu.Lock()
	put := []pay.Entry{{Key: entryKey(&e), Value: b}}
	if i := slices.IndexFunc(a.entries, func(x Entry) bool { return x.Job == e.Job }); i >= 0 {
		put = append(put, pay.Entry{Key: entryKey(&a.entries[i])})
		if put[1].Key == put[0].Key {
			put = put[:1]
		}
		a.entries[i], a.felt[i] = e, feel(&e)
	} else {
		a.entries, a.felt = append(a.entries, e), append(a.felt, feel(&e))
	}
	a.known = nil
	for len(a.entries) > maxEntries {
		old := &a.entries[0]
		put = append(put, pay.Entry{Key: entryKey(old)})
		a.entries, a.felt = a.entries[1:], a.felt[1:]
	}
	a.mu.Unlock()
	if err := a.o.Journal.Put(put...); err != nil {
		a.o.Log.Error("journal", "error", err)
	}
}

// blame keeps an account of what a provider did wrong before any job.
func (a *Asker) blame(ask *market.Ask, c job.Code, why error) {
	id := sha256.Sum256(append(ask.Provider[:], ask.Model[:]...)) // one entry for both
	a.put(Entry{At: a.o.Now().UnixMilli(), Job: hex.EncodeToString(id[:]), Provider: ask.Provider.String(), Model: ask.ModelName, ModelID: ask.Model.String(), Phase: job.PhaseFailed, Code: c, Message: why.Error()})
	a.o.Log.Warn("a provider failed", "provider", ask.Provider.String(), "model", ask.ModelName, "code", string(c), "error", why)
}

func entryKey(e *Entry) string { return fmt.Sprintf("%s%013d-%s", entryPrefix, e.At, e.Job) }

// Models implements the gateway's Backend: what is offered now, by name and id.
func (a *Asker) Models(context.Context) ([]dialog.Model, error) {
	byID := map[ghost.ID]*dialog.Model{}
	providers := map[ghost.ID]map[ghost.Key]bool{}
	rank := func(g ghost.Grade) int {
		return slices.Index([]ghost.Grade{ghost.Reputation, ghost.GhostSound, ghost.GhostAudited}, g)
	}
	for _, k := range a.o.Asks() {
		m := byID[k.Model]
		if m == nil {
			m = &dialog.Model{Name: k.ModelName, ID: k.Model.String(), Quantisation: k.Quant, Context: k.Context, Created: time.Unix(k.Created, 0),
				Capabilities: []string{"completion"}, PromptPrice: int64(k.Input), AnswerPrice: int64(k.Output), Grade: string(k.Grade)}
			byID[k.Model], providers[k.Model] = m, map[ghost.Key]bool{}
			if w := a.names.have(k.Model); w != nil {
				m.Family, m.Template, m.Dim = w.ghost.Arch, w.words.Template(), w.ghost.Dim
				if w.words.HasTemplate() {
					m.Capabilities = append(m.Capabilities, "tools")
				}
			}
			if k.Grade != ghost.Reputation {
				m.Capabilities = append(m.Capabilities, "embedding")
			}
		}
		providers[k.Model][k.Provider] = true
		m.Providers = len(providers[k.Model])
		m.Context = max(m.Context, k.Context)
		if int64(k.Input)+int64(k.Output) < m.PromptPrice+m.AnswerPrice {
			m.PromptPrice, m.AnswerPrice = int64(k.Input), int64(k.Output)
		}
		if rank(k.Grade) > rank(ghost.Grade(m.Grade)) {
			m.Grade = string(k.Grade)
		}
		if t := time.Unix(k.Created, 0); t.Before(m.Created) {
			m.Created = t
		}
	}
	var out []dialog.Model
	names := map[string]int{}
	for _, m := range byID {
		names[m.Name]++
	}
	for _, m := range byID {
		if names[m.Name] > 1 { // two models of one name are told apart by their ids
			m.Name += "@" + m.ID
		}
		out = append(out, *m)
	}
	slices.SortFunc(out, func(x, y dialog.Model) int { return cmp.Or(cmp.Compare(x.Name, y.Name), cmp.Compare(x.ID, y.ID)) })
	return out, nil
}

// proof posts body and reads a proof.
func (a *Asker) proof(ctx context.Context, url, contentType string, body []byte) ([]byte, error) {
	q, err := http.NewRequestWithContext(ctx, "POST", url, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	q.Header.Set("Content-Type", contentType)
	w, err := a.o.HTTP.Do(q)
	if err != nil {
		return nil, &unreached{err}
	}
	defer w.Body.Close()
	const most = 64 << 20
	b, err := io.ReadAll(io.LimitReader(w.Body, most+1))
	switch {
	case err != nil:
		return nil, &unreached{err}
	case w.StatusCode != http.StatusOK:
		if e, err := job.ParseEvent(b); err == nil && e.Type == job.EventRefused {
			if e.Code == job.Draining || e.Code == job.Busy {
				return nil, &unreached{errors.New(e.Code.Sentence())}
			}
			return nil, fmt.Errorf("%s %s", e.Code.Sentence(), e.Message)
		}
		return nil, fmt.Errorf("status %d", w.StatusCode)
	case len(b) > most:
		return nil, fmt.Errorf("it has more than %d bytes", most)
	}
	return b, nil
}

// wants splits what a client calls a model: NAME, NAME@ghost1…, or ghost1….
func wants(q *dialog.Question) (name string, id *ghost.ID, err error) {
	name = q.Model
	text := q.Demand.ModelID
	if i := strings.LastIndex(name, "@ghost1"); i >= 0 {
		name, text = name[:i], cmp.Or(text, name[i+1:])
		if q.Demand.ModelID != "" && q.Demand.ModelID != q.Model[i+1:] {
			return "", nil, dialog.Errorf(dialog.Mismatch, "model", "the model's id is named twice, and not the same")
		}
	} else if strings.HasPrefix(name, "ghost1") {
		name, text = "", cmp.Or(text, name)
	}
	if text != "" {
		x, err := ghost.ParseID(text)
		if err != nil {
			return "", nil, dialog.Errorf(dialog.NoModel, "model", "%q is no model id: %v", text, err)
		}
		id = &x
	}
	if name == "auto" {
		name = ""
	}
	return strings.TrimSuffix(name, ":latest"), id, nil
}
