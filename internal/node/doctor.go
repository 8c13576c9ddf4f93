package node

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	"github.com/geistnet/geist/ghost"
	"github.com/geistnet/geist/internal/console"
	"github.com/geistnet/geist/internal/engine"
	"github.com/geistnet/geist/internal/gguf"
	"github.com/geistnet/geist/internal/kernel"
	"github.com/geistnet/geist/internal/local"
	"github.com/geistnet/geist/internal/nostr"
	"github.com/geistnet/geist/internal/pay"
	"github.com/geistnet/geist/internal/store"
)

// Finding is what one check of a Doctor found.
type Finding struct {
	Check  string `json:"check"`
	Status string `json:"status"` // Good, Warning or Bad
	Text   string `json:"text"`
	Next   string `json:"next,omitempty"` // what to do; "" if nothing
}

// The values of Finding.Status.
const (
	Good    = "ok"
	Warning = "warning"
	Bad     = "fails"
)

// Doctor looks at a machine and a configuration and says in plain sentences what
// a node of them lacks. It changes nothing but the locks it takes for a moment.
type Doctor struct {
	Config     Config
	ConfigFile string // need not exist
	Store      *store.Store
	KeyPath    string
	Passphrase string // of the key; "": none
	BuiltIn    string // the name of the model that is part of the program
	Now        func() time.Time

	running *Status // of the node that is running with this state; nil: none
	at      Running // where that is
	key     *ghost.Key
	out     []Finding
}

func (d *Doctor) say(check, status, next, format string, args ...any) {
	d.out = append(d.out, Finding{Check: check, Status: status, Text: fmt.Sprintf(format, args...), Next: next})
}

// Run makes all checks, which takes some seconds if relays are slow.
func (d *Doctor) Run(ctx context.Context) []Finding {
	d.out, d.running, d.key, d.at = nil, nil, nil, Running{}
	for _, check := range []func(context.Context){d.config, d.processor, d.memory, d.disk, d.clock, d.keyFile, d.models, d.ports, d.endpoint, d.relays, d.money} {
		check(ctx)
	}
	return d.out
}

func (d *Doctor) config(context.Context) {
	if err := d.Config.Check(); err != nil {
		d.say("configuration", Bad, `"geist config show" tells where each value is from`, "a node does not start so: %v", err)
		return
	}
	info, err := os.Stat(d.ConfigFile)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		d.say("configuration", Good, "", "good; there is no file %s, and none is needed", d.ConfigFile)
	case err != nil:
		d.say("configuration", Bad, "make it readable, or name another with --config", "the file cannot be read: %v", err)
	case runtime.GOOS != "windows" && info.Mode().Perm()&0o044 != 0 && d.secrets():
		d.say("configuration", Warning, "chmod 600 "+d.ConfigFile, "%s holds keys, and others on this machine may read it", d.ConfigFile)
	default:
		d.say("configuration", Good, "", "good, with the file %s", d.ConfigFile)
	}
}

func (d *Doctor) secrets() bool {
	for _, m := range d.Config.Models {
		if m.UpstreamKey != "" {
			return true
		}
	}
	return len(d.Config.Keys) > 0
}

func (d *Doctor) processor(context.Context) {
	p := kernel.Best()
	if p == kernel.Generic {
		d.say("processor", Warning, "a machine with AVX2, AVX-512 or arm64 is several times faster", "%d processors of %s without instructions that geist has fast code for: it runs in plain Go, with the same bits", runtime.NumCPU(), runtime.GOARCH)
		return
	}
	d.say("processor", Good, "", "%d processors of %s; the fast path is %s, with %d threads", runtime.NumCPU(), runtime.GOARCH, p, engine.Threads())
}

func (d *Doctor) memory(context.Context) {
	switch n := local.Available(); {
	case n == 0:
		d.say("memory", Good, "", "the system does not say how much is available; a model that is too large is not refused before it is loaded")
	case n < 1<<30:
		d.say("memory", Warning, "end other programs, or raise the limit of this control group", "only %s is available", console.Size(n))
	default:
		d.say("memory", Good, "", "%s is available", console.Size(n))
	}
}

func (d *Doctor) disk(context.Context) {
	for _, dir := range []struct{ what, path string }{{"state", d.Config.Dir}, {"models", d.Store.Dir()}} {
		at := existing(dir.path)
		if err := writable(at); err != nil {
			d.say("disk", Bad, "give this user the right to write there, or set GEIST_HOME to another directory", "nothing can be written in %s, where %s shall be: %v", at, dir.what, err)
			continue
		}
		free, known := store.Free(at)
		switch {
		case !known:
			d.say("disk", Good, "", "%s lie in %s; the system does not say how much is free", dir.what, dir.path)
		case free < 100e6:
			d.say("disk", Bad, "free some space: a journal of money that cannot be written stops the node", "only %s is free in %s", console.Size(free), at)
		case free < 2e9:
			d.say("disk", Warning, "free some space before you add models", "only %s is free in %s", console.Size(free), at)
		default:
			d.say("disk", Good, "", "%s is free for %s in %s", console.Size(free), dir.what, dir.path)
		}
	}
}

// existing is the nearest directory at or above path that is there.
func existing(path string) string {
	for {
		if info, err := os.Stat(path); err == nil && info.IsDir() {
			return path
		}
		up := filepath.Dir(path)
		if up == path {
			return path
		}
		path = up
	}
}

// writable tries to write in dir, and leaves nothing.
func writable(dir string) error {
	f, err := os.CreateTemp(dir, ".geist-doctor-")
	if err != nil {
		return err
	}
	return errors.Join(f.Close(), os.Remove(f.Name()))
}

func (d *Doctor) clock(context.Context) {
	synced, known := clockSynced()
	switch {
	case !known:
		d.say("clock", Good, "", "it is %s; the system does not say whether a time server sets it", d.Now().UTC().Format(time.RFC3339))
	case !synced:
		d.say("clock", Warning, "switch on a time service, such as systemd-timesyncd or chrony: what is signed with a wrong time is refused", "it is %s, and no time server sets this clock", d.Now().UTC().Format(time.RFC3339))
	default:
		d.say("clock", Good, "", "it is %s, set by a time server", d.Now().UTC().Format(time.RFC3339))
	}
}

func (d *Doctor) keyFile(context.Context) {
	k, err := nostr.LoadKey(d.KeyPath)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		d.say("key", Good, "", "there is none yet; the first start makes one in %s", d.KeyPath)
		return
	case err != nil:
		d.say("key", Bad, `"geist key --help" tells how to restore a key`, "%v", err)
		return
	}
	d.key = &k.Public
	if _, err := k.Secret(d.Passphrase); err != nil {
		d.say("key", Bad, "set GEIST_PASSPHRASE where the node runs", "%v", err)
		return
	}
	text := "readable by you only, and not encrypted"
	if k.Encrypted {
		text = "encrypted, and GEIST_PASSPHRASE opens it"
	}
	next := ""
	if !k.HasPhrase {
		next = `it has no phrase: keep a copy of what "geist key export" says`
	}
	d.say("key", Good, next, "%s is %s", nostr.PublicText(k.Public), text)
}

func (d *Doctor) models(ctx context.Context) {
	list, err := d.Store.List()
	if err != nil {
		d.say("models", Bad, "remove the entry it names, and add the model again", "%v", err)
		return
	}
	whole := 0
	for _, m := range list {
		info, err := os.Stat(d.Store.Path(m))
		if err != nil || info.Size() != m.Bytes {
			d.say("models", Bad, fmt.Sprintf(`"geist models add FILE --name %s" with the original file mends it`, m.Name), "%s is damaged: its %s are not all there", m.Name, console.Size(m.Bytes))
			continue
		}
		whole++
		d.fits(m.Name, d.Store.Path(m), Offer{}, Warning)
	}
	d.say("models", Good, "", `%d in the store have their size ("geist models verify" reads them all again), and %q is built in`, whole, d.BuiltIn)
	for _, o := range d.Config.Models {
		if o.Upstream != "" {
			d.upstream(ctx, o)
			continue
		}
		if o.Model == d.BuiltIn {
			continue
		}
		path, _, err := d.Store.Resolve(o.Model)
		if err != nil {
			d.say("models", Bad, `"geist models list" shows what is there`, "the configuration serves %s: %v", o.Model, err)
			continue
		}
		d.fits(o.Model, path, o, Bad)
	}
}

// fits tells of a model that does not run here; status is for one that is too large.
func (d *Doctor) fits(name, path string, o Offer, status string) {
	f, err := gguf.Open(path)
	if err != nil {
		d.say("models", Bad, "fetch the file again", "%s: %v", name, err)
		return
	}
	defer f.Close()
	e := engine.Options{Context: o.Context, Sessions: max(o.Sessions, 1)}
	mem, err := local.Plan(f, local.Options{Path: kernel.Best(), Threads: o.Threads, Available: local.Available(), Engine: e})
	var large *local.MemoryError
	switch {
	case errors.As(err, &large) && large.Fits > 0:
		d.say("models", status, fmt.Sprintf("a context of %d fits", large.Fits), "%s: %v", name, err)
	case errors.As(err, &large):
		d.say("models", status, "take a smaller model or quantisation", "%s: %v", name, err)
	case err != nil:
		d.say("models", status, "docs/models.md lists which models run", "%s does not run: %v", name, err)
	case status == Bad:
		d.say("models", Good, "", "%s takes %s of memory, which fits", name, console.Size(mem.Total()))
	}
}

func (d *Doctor) upstream(ctx context.Context, o Offer) {
	code, _, err := d.get(ctx, strings.TrimSuffix(strings.TrimSuffix(o.Upstream, "/"), "/v1")+"/v1/models", o.UpstreamKey)
	switch {
	case err != nil:
		d.say("models", Bad, "start the server, or correct its URL", "%s runs elsewhere, and that server does not answer: %v", o.Model, err)
	case code == http.StatusUnauthorized || code == http.StatusForbidden:
		d.say("models", Bad, "correct upstream_key", "%s runs at %s, which refuses our key", o.Model, o.Upstream)
	case code != http.StatusOK:
		d.say("models", Warning, "", "%s runs at %s, which answers %d when asked for its models", o.Model, o.Upstream, code)
	default:
		d.say("models", Good, "", "%s runs at %s, which answers", o.Model, o.Upstream)
	}
}

// get asks a URL; body is at most 4 MiB.
func (d *Doctor) get(ctx context.Context, url, key string) (code int, body []byte, err error) {
	ctx, stop := context.WithTimeout(ctx, 5*time.Second)
	defer stop()
	q, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return 0, nil, err
	}
	if key != "" {
		q.Header.Set("Authorization", "Bearer "+key)
	}
	r, err := http.DefaultClient.Do(q)
	if err != nil {
		return 0, nil, err
	}
	defer r.Body.Close()
	body, err = io.ReadAll(io.LimitReader(r.Body, 4<<20))
	return r.StatusCode, body, err
}

// dialable is an address that reaches what listens at addr.
func dialable(addr string) string {
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		return addr
	}
	if ip := net.ParseIP(host); host == "" || ip != nil && ip.IsUnspecified() {
		host = "127.0.0.1"
	}
	return net.JoinHostPort(host, port)
}

func (d *Doctor) ports(ctx context.Context) {
	d.running = d.node(ctx)
	for _, p := range []struct{ what, addr, flag string }{{"API and page", d.Config.Listen, "--listen"}, {"jobs and relay", d.Config.Provide, "--provide"}} {
		if p.addr == "" {
			continue
		}
		l, err := net.Listen("tcp", p.addr)
		if err == nil {
			l.Close()
			d.say("ports", Good, "", "%s is free for %s", p.addr, p.what)
			continue
		}
		if d.uses(p.flag, p.addr) {
			d.say("ports", Good, "", "%s is in use for %s by the geist that is running", p.addr, p.what)
			continue
		}
		switch code, body, gerr := d.get(ctx, "http://"+dialable(p.addr)+"/healthz", first(d.Config.Keys)); {
		case gerr == nil && code == http.StatusOK && alive(body):
			d.say("ports", Warning, `"geist up" takes a free one by itself; else choose one with `+p.flag+", or set GEIST_HOME to the directory of that geist to look at it", "%s is in use by a geist that has another state than %s", p.addr, d.Config.Dir)
		case gerr == nil && code == http.StatusUnauthorized:
			d.say("ports", Warning, "give the key of the running node (--key), so that more can be checked", "%s is in use by a program that demands another key", p.addr)
		default:
			d.say("ports", Bad, "end that program, or choose another address with "+p.flag, "%s cannot be had for %s: %v", p.addr, p.what, err)
		}
	}
	if d.running == nil {
		d.say("node", Good, `"geist up" starts one`, "no node is running with the state in %s", d.Config.Dir)
		return
	}
	up := time.Duration(d.running.Uptime * float64(time.Second)).Round(time.Second)
	if d.key != nil && d.running.Key != d.key.String() {
		d.say("node", Warning, "look at GEIST_HOME and --dir of both", "a node has been running for %s, with another key than %s", up, d.KeyPath)
	} else {
		d.say("node", Good, "", "a node has been running for %s", up)
	}
	if code, body, err := d.get(ctx, d.at.URL+"/readyz", d.at.Key); err != nil || code != http.StatusOK {
		d.say("node", Bad, "serve a model, or name relays where providers are (--relay)", "it cannot answer questions now: %s", reason(body, err))
	}
}

// uses tells whether the running node is what has an address. Where it takes jobs
// on all addresses it says only how others reach it.
func (d *Doctor) uses(flag, addr string) bool {
	if d.running == nil {
		return false
	}
	_, port, err := net.SplitHostPort(addr)
	if flag == "--listen" {
		return err == nil && strings.HasSuffix(d.running.URL, ":"+port)
	}
	return d.running.Provide != ""
}

// alive tells whether a geist says that it lives, at either of its addresses.
func alive(body []byte) bool {
	s := strings.TrimSpace(string(body))
	return s == "ok" || s == `{"status":"ok"}`
}

func reason(body []byte, err error) string {
	if err != nil {
		return err.Error()
	}
	var e struct {
		Error struct {
			Message string `json:"message"`
		} `json:"error"`
	}
	if json.Unmarshal(body, &e) == nil && e.Error.Message != "" {
		return e.Error.Message
	}
	return strings.TrimSpace(string(body[:min(len(body), 200)]))
}

func first(s []string) string {
	if len(s) == 0 {
		return ""
	}
	return s[0]
}

// node asks the node that has this state what it is: the one of which running.json
// tells, or one at the address of the API that has this key. Nil: there is none, or
// it refuses. Another's node is not looked at.
func (d *Doctor) node(ctx context.Context) *Status {
	at, err := ReadRunning(d.Config.Dir)
	told := err == nil
	if !told {
		at = &Running{URL: "http://" + dialable(d.Config.Listen), Key: first(d.Config.Keys)}
	}
	code, body, err := d.get(ctx, at.URL+"/geist/v1/node", at.Key)
	var s Status
	if err != nil || code != http.StatusOK || json.Unmarshal(body, &s) != nil || len(s.Key) != 64 {
		return nil
	}
	if !told && (d.key == nil || s.Key != d.key.String()) {
		return nil
	}
	d.at = *at
	return &s
}

// money looks at the journals, or asks the running node that holds them.
func (d *Doctor) money(ctx context.Context) {
	if d.running != nil {
		code, body, err := d.get(ctx, d.at.URL+"/geist/v1/wallet", d.at.Key)
		var w struct {
			Peers []peerJSON `json:"peers"`
		}
		if err != nil || code != http.StatusOK || json.Unmarshal(body, &w) != nil {
			d.say("money", Bad, "look at its log", "the running node does not say how its accounts stand: %s", reason(body, err))
			return
		}
		near := 0
		for _, p := range w.Peers {
			near += d.line(p.Npub, p.Role, p.Balance, p.Room)
		}
		d.say("money", Good, "", "accounts with %d peers, %d of them near a limit", len(w.Peers), near)
		return
	}
	for _, name := range []string{"provide", "ask"} {
		dir := filepath.Join(d.Config.Dir, name)
		if _, err := os.Stat(filepath.Join(dir, "journal")); errors.Is(err, fs.ErrNotExist) {
			d.say("money", Good, "", "the journal %s does not exist yet", dir)
			continue
		}
		j, err := pay.OpenJournal(dir)
		if errors.Is(err, pay.ErrHeld) {
			d.say("money", Warning, "give the flags of the node that is running, such as --listen and --key", "the journal %s is in use by a node that could not be asked", dir)
			continue
		}
		if err != nil {
			d.say("money", Bad, "keep the file; docs/operations.md tells how to restore a backup", "%v", err)
			continue
		}
		if err := j.Close(); err != nil {
			d.say("money", Bad, "check the disk", "%v", err)
			continue
		}
		d.say("money", Good, "", "the journal %s is whole", dir)
	}
}

// line tells of a credit line that will soon stop work; it returns 1 if it did.
func (d *Doctor) line(npub, role string, balance, room pay.MilliSat) int {
	limit := d.Config.Credit
	if role == "provider" {
		if owe := -balance; owe > 0 && owe > d.Config.Debt/10*9 {
			d.say("money", Warning, "settle with it, or raise debt_msat", "this node owes the provider %s %s of at most %s: soon it asks nothing of it any more", npub, owe, d.Config.Debt)
			return 1
		}
		return 0
	}
	if balance > 0 && room < limit/10 {
		d.say("money", Warning, "settle with it, or trust it with more (trust_msat)", "the client %s owes this node %s and has room for %s: soon its requests are refused", npub, balance, room)
		return 1
	}
	return 0
}

// skew is how far a clock elsewhere is ahead, as precise as a Date header is.
func skew(here time.Time, date string) (time.Duration, bool) {
	there, err := http.ParseTime(date)
	if err != nil {
		return 0, false
	}
	s := there.Sub(here)
	if math.Abs(s.Seconds()) < 2 {
		s = 0
	}
	return s.Round(time.Second), true
}
