package market

import (
	"encoding/hex"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/geistnet/geist/ghost"
	"github.com/geistnet/geist/internal/nostr"
)

// Kinds are the event kinds of this market.
type Kinds struct {
	Ask, Bid, Review nostr.Kind
}

// DefaultKinds are those of the draft NIP-A5.
func DefaultKinds() Kinds { return Kinds{Ask: 38400, Bid: 38401, Review: 38403} }

// A Reason is a code for why an event was refused, or an offer is not first.
type Reason string

// Why an event is refused (docs/spec/ask.md §1).
const (
	NotOurs      Reason = "not-ours"
	Huge         Reason = "huge"
	Forged       Reason = "forged"
	Future       Reason = "future"
	Expired      Reason = "expired"
	Endless      Reason = "endless"
	MissingTag   Reason = "missing-tag"
	DuplicateTag Reason = "duplicate-tag"
	BadTag       Reason = "bad-tag"
	AbsurdPrice  Reason = "absurd-price"
	LittleWork   Reason = "little-work"
	Replaced     Reason = "replaced"
	Crowded      Reason = "crowded"
)

// A Refusal says why an event does not count.
type Refusal struct {
	Reason Reason
	Detail string
}

func (r *Refusal) Error() string { return string(r.Reason) + ": " + r.Detail }

func refuse(r Reason, format string, args ...any) error {
	return &Refusal{Reason: r, Detail: fmt.Sprintf(format, args...)}
}

// ReasonOf is the code in an error of this package, or "".
func ReasonOf(err error) Reason {
	var r *Refusal
	if errors.As(err, &r) {
		return r.Reason
	}
	return ""
}

const (
	mark          = "llm-inference"
	namespace     = "geist.review"
	version       = "1"
	maxFuture     = 120        // seconds
	maxLife       = 86400      // seconds
	maxReviewLife = 90 * 86400 // seconds
	maxContext    = 1 << 24    // tokens
	maxRepeat     = 16         // of a tag that may repeat
	maxURL        = 512        // bytes
	maxName       = 128        // bytes
)

// An Ask is an offer of one provider for one model, as it was signed.
type Ask struct {
	ID       nostr.ID  `json:"-"` // of the event; zero before it is signed
	Provider ghost.Key `json:"-"`
	Name     string    `json:"name"` // the d tag: the same name replaces the ask
	Created  int64     `json:"created"`
	Expires  int64     `json:"expires"`

	Model     ghost.ID `json:"-"`
	ModelName string   `json:"model_name"`
	Quant     string   `json:"quantisation"`
	Context   int      `json:"context"` // tokens

	Input  Price `json:"input_msat_per_million"`
	Output Price `json:"output_msat_per_million"`

	Capacity  int         `json:"capacity"`  // concurrent requests
	Endpoints []string    `json:"endpoints"` // base URLs, in the provider's order
	Rails     []string    `json:"rails"`     // in the provider's order
	Grade     ghost.Grade `json:"grade"`
	Work      int         `json:"work"` // bits of committed proof of work
}

// Cost is what a request of so many tokens costs at this ask, in millisatoshi.
func (a *Ask) Cost(input, output int) int64 { return cost(a.Input, input, a.Output, output) }

// Event is the ask as an event to sign. It refuses what ParseAsk would.
func (a *Ask) Event(k Kinds) (*nostr.Event, error) {
	e := &nostr.Event{CreatedAt: nostr.Timestamp(a.Created), Kind: k.Ask, Tags: nostr.Tags{
		{"d", a.Name}, {"s", mark}, {"geist", version}, {"m", a.Model.String()},
		{"model", a.ModelName, a.Quant, strconv.Itoa(a.Context)},
		{"price", a.Input.String(), "msat", "input-token"},
		{"price", a.Output.String(), "msat", "output-token"},
	}}
	e.Tags = append(e.Tags, nostr.Tag{"capacity", strconv.Itoa(a.Capacity), "concurrent"})
	for _, u := range a.Endpoints {
		e.Tags = append(e.Tags, nostr.Tag{"endpoint", u})
	}
	for _, r := range a.Rails {
		e.Tags = append(e.Tags, nostr.Tag{"pay", r})
	}
	e.Tags = append(e.Tags, nostr.Tag{"grade", string(a.Grade)}, nostr.Tag{"expiration", strconv.FormatInt(a.Expires, 10)})
	if _, err := readAsk(e, k); err != nil {
		return nil, err
	}
	return e, nil
}

// Rules are what a reader demands of events.
type Rules struct {
	Kinds   Kinds
	Now     int64 // seconds since 1970
	MinWork int   // bits of proof of work on asks
}

// ParseAsk reads and checks one ask. Errors are *Refusal.
func ParseAsk(e *nostr.Event, r Rules) (*Ask, error) {
	a, err := readAsk(e, r.Kinds)
	if err != nil {
		return nil, err
	}
	if err := checkTimes(e, a.Expires, maxLife, r.Now); err != nil {
		return nil, err
	}
	if a.Work < r.MinWork {
		return nil, refuse(LittleWork, "proof of work of %d bits, at least %d", a.Work, r.MinWork)
	}
	if err := nostr.Verify(e); err != nil {
		return nil, refuse(Forged, "%v", err)
	}
	return a, nil
}

// checkTimes checks created_at and expiration against the reader's clock.
func checkTimes(e *nostr.Event, expires, life, now int64) error {
	made := int64(e.CreatedAt)
	switch {
	case made > now+maxFuture:
		return refuse(Future, "made %d s after now", made-now)
	case expires <= made:
		return refuse(BadTag, "expiration %d is not after created_at %d", expires, made)
	case expires-made > life:
		return refuse(Endless, "expires %d s after it was made, at most %d", expires-made, life)
	case expires <= now:
		return refuse(Expired, "expired %d s ago", now-expires)
	}
	return nil
}

// readAsk reads the tags alone.
func readAsk(e *nostr.Event, k Kinds) (*Ask, error) {
	if err := marked(e, k.Ask, nostr.Tag{"s", mark}); err != nil {
		return nil, err
	}
	t := tags{e: e}
	a := &Ask{ID: e.ID, Provider: ghost.Key(e.PubKey), Created: int64(e.CreatedAt), Work: nostr.Work(e)}
	a.Name = t.name("d")
	a.Expires = t.number("expiration", 1, maxMsat)
	a.Model = t.model("m")
	if m := t.one("model", 4); m != nil {
		a.ModelName, a.Quant = t.clean("model", m[1]), t.clean("model", m[2])
		a.Context = int(t.within("model", m[3], 1, maxContext))
	}
	a.Input, a.Output = t.prices("price")
	if m := t.one("capacity", 3); m != nil {
		a.Capacity = int(t.within("capacity", m[1], 0, 65535))
		t.unit("capacity", m[2], "concurrent")
	}
	for _, u := range t.many("endpoint", 1) {
		if err := checkURL(u); err != nil {
			t.fail(refuse(BadTag, "endpoint: %v", err))
		}
		a.Endpoints = append(a.Endpoints, u)
	}
	for _, r := range t.many("pay", 1) {
		if !slug(r) {
			t.fail(refuse(BadTag, "pay %.40q is not 1 to 32 of a-z 0-9 -", r))
		}
		a.Rails = append(a.Rails, r)
	}
	if m := t.one("grade", 2); m != nil {
		a.Grade = ghost.Grade(m[1])
		if rankOf(a.Grade) < 0 {
			t.fail(refuse(BadTag, "grade %.40q", m[1]))
		}
	}
	if t.err != nil {
		return nil, t.err
	}
	return a, nil
}

// rankOf orders grades: what can be checked more is higher. -1: no grade.
func rankOf(g ghost.Grade) int {
	return slices.Index([]ghost.Grade{ghost.Reputation, ghost.GhostSound, ghost.GhostAudited}, g)
}

// marked checks what makes an event ours: its kind, its shape and its marks.
func marked(e *nostr.Event, k nostr.Kind, m nostr.Tag) error {
	if e.Kind != k {
		return refuse(NotOurs, "kind %d, not %d", e.Kind, k)
	}
	if err := nostr.CheckShape(e); err != nil {
		return refuse(Huge, "%v", err)
	}
	has := func(m nostr.Tag) bool {
		return slices.ContainsFunc(e.Tags, func(t nostr.Tag) bool { return len(t) >= 2 && t[0] == m[0] && t[1] == m[1] })
	}
	for _, m := range []nostr.Tag{m, {"geist", version}} {
		if !has(m) {
			return refuse(NotOurs, "no tag %q with %q", m[0], m[1])
		}
		if n := count(e, m[0]); n != 1 {
			return refuse(DuplicateTag, "%q appears %d times", m[0], n)
		}
	}
	return nil
}

func count(e *nostr.Event, name string) (n int) {
	for _, t := range e.Tags {
		if len(t) > 0 && t[0] == name {
			n++
		}
	}
	return n
}

// tags reads the tags of an event and keeps the first error.
type tags struct {
	e   *nostr.Event
	err error
}

func (t *tags) fail(err error) {
	if t.err == nil {
		t.err = err
	}
}

// maybe is a tag that appears once or never, with at least n items.
func (t *tags) maybe(name string, n int) nostr.Tag {
	if c := count(t.e, name); c > 1 {
		t.fail(refuse(DuplicateTag, "%q appears %d times", name, c))
	}
	for _, x := range t.e.Tags {
		if len(x) > 0 && x[0] == name {
			if len(x) < n {
				t.fail(refuse(BadTag, "%q has %d items, at least %d", name, len(x), n))
				return nil
			}
			return x
		}
	}
	return nil
}

// one is a tag that appears once, with at least n items, or nil and an error is kept.
func (t *tags) one(name string, n int) nostr.Tag {
	if count(t.e, name) == 0 {
		t.fail(refuse(MissingTag, "no tag %q", name))
	}
	return t.maybe(name, n)
}

// many are the first values of a tag that appears least to maxRepeat times.
func (t *tags) many(name string, least int) (out []string) {
	for _, x := range t.e.Tags {
		if len(x) == 0 || x[0] != name {
			continue
		}
		if len(x) < 2 {
			t.fail(refuse(BadTag, "%q has no value", name))
			return nil
		}
		out = append(out, x[1])
	}
	switch {
	case len(out) < least:
		t.fail(refuse(MissingTag, "no tag %q", name))
		return nil
	case len(out) > maxRepeat:
		t.fail(refuse(DuplicateTag, "%q appears %d times, at most %d", name, len(out), maxRepeat))
		return nil
	}
	return out
}

func (t *tags) name(tag string) string {
	if m := t.one(tag, 2); m != nil {
		return t.clean(tag, m[1])
	}
	return ""
}

func (t *tags) clean(tag, s string) string {
	if s == "" || len(s) > maxName || !utf8.ValidString(s) || strings.ContainsFunc(s, unicode.IsControl) {
		t.fail(refuse(BadTag, "%s: a name is 1 to %d bytes without control characters", tag, maxName))
	}
	return s
}

func (t *tags) number(tag string, low, high int64) int64 {
	if m := t.one(tag, 2); m != nil {
		return t.within(tag, m[1], low, high)
	}
	return 0
}

func (t *tags) within(tag, s string, low, high int64) int64 {
	n, err := decimal(s, high)
	if err == nil && n < low {
		err = errRange
	}
	if err != nil {
		t.fail(refuse(BadTag, "%s %.40q: %v", tag, s, err))
	}
	return n
}

func (t *tags) unit(tag, got, want string) {
	if got != want {
		t.fail(refuse(BadTag, "%s is in %.40q, not %q", tag, got, want))
	}
}

func (t *tags) model(tag string) ghost.ID {
	m := t.one(tag, 2)
	if m == nil {
		return ghost.ID{}
	}
	id, err := ParseModel(m[1])
	if err != nil {
		t.fail(refuse(BadTag, "%s: %v", tag, err))
	}
	return id
}

// prices reads the two prices per token. A price for anything else is one that
// the reader would not know how to pay.
func (t *tags) prices(tag string) (in, out Price) {
	seen := map[string]bool{}
	for _, x := range t.e.Tags {
		if len(x) == 0 || x[0] != tag {
			continue
		}
		if len(x) < 4 || x[2] != "msat" {
			t.fail(refuse(BadTag, "%s: want a number, \"msat\" and for what", tag))
			return
		}
		if seen[x[3]] {
			t.fail(refuse(DuplicateTag, "%s for %.40q appears twice", tag, x[3]))
			return
		}
		var err error
		switch x[3] {
		case "input-token":
			in, err = ParsePrice(x[1])
		case "output-token":
			out, err = ParsePrice(x[1])
		default:
			t.fail(refuse(BadTag, "%s for %.40q is not known", tag, x[3]))
			return
		}
		seen[x[3]] = true
		if errors.Is(err, errRange) {
			t.fail(refuse(AbsurdPrice, "%.40q msat for %s", x[1], x[3]))
		} else if err != nil {
			t.fail(refuse(BadTag, "%s: %v", tag, err))
		}
	}
	for _, want := range []string{"input-token", "output-token"} {
		if !seen[want] {
			t.fail(refuse(MissingTag, "no tag %q for %q", tag, want))
		}
	}
	return in, out
}

// ParseModel reads a model id: its text form, or 64 hex digits.
func ParseModel(s string) (ghost.ID, error) {
	var id ghost.ID
	if len(s) == 2*len(id) && lowerHex(s) {
		hex.Decode(id[:], []byte(s))
		return id, nil
	}
	return ghost.ParseID(s)
}

func parseKey(s string) (ghost.Key, error) {
	var k ghost.Key
	if len(s) != 2*len(k) || !lowerHex(s) {
		return k, fmt.Errorf("key %.80q is not %d lower-case hexadecimal digits", s, 2*len(k))
	}
	hex.Decode(k[:], []byte(s))
	return k, nil
}

func lowerHex(s string) bool {
	return !strings.ContainsFunc(s, func(r rune) bool { return (r < '0' || r > '9') && (r < 'a' || r > 'f') })
}

func digits(s string) bool {
	return s != "" && !strings.ContainsFunc(s, func(r rune) bool { return r < '0' || r > '9' })
}

var errRange = errors.New("out of range")

// decimal reads a number from 0 to high without sign and leading zeros.
func decimal(s string, high int64) (int64, error) {
	if !digits(s) || len(s) > 1 && s[0] == '0' {
		return 0, errors.New("not a decimal number")
	}
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil || n > high {
		return 0, errRange
	}
	return n, nil
}

func slug(s string) bool {
	return s != "" && len(s) <= 32 && !strings.ContainsFunc(s, func(r rune) bool {
		return (r < '0' || r > '9') && (r < 'a' || r > 'z') && r != '-'
	})
}

func checkURL(s string) error {
	if len(s) > maxURL {
		return fmt.Errorf("URL of %d bytes, at most %d", len(s), maxURL)
	}
	u, err := url.Parse(s)
	if err != nil {
		return err
	}
	if u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || u.Hostname() == "" || u.User != nil || u.RawQuery != "" || u.ForceQuery || strings.ContainsAny(s, "#?") || u.Opaque != "" {
		return fmt.Errorf("%.80q is no http or https URL without user, query and fragment", s)
	}
	return nil
}
