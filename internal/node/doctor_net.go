package node

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/geistnet/geist/internal/market"
	"github.com/geistnet/geist/internal/nostr"
)

// maxSkew is how wrong a clock may be before relays refuse what it signs
// (docs/spec/ask.md); orders allow more.
const maxSkew = 2 * time.Minute

// endpoint asks for the node where the ask says that it is.
func (d *Doctor) endpoint(ctx context.Context) {
	if d.running == nil || d.Config.Provide == "" {
		return
	}
	at := d.running.Provide
	if d.Config.Endpoint != "" {
		at = d.Config.Endpoint
	}
	if at == "" {
		return
	}
	code, body, err := d.get(ctx, strings.TrimSuffix(at, "/")+"/healthz", "")
	switch {
	case err != nil:
		d.say("endpoint", Bad, "open the port in the firewall, forward it in the router, and compare --endpoint with it", "others are told to come to %s, which does not answer from here: %v", at, err)
	case code != http.StatusOK || !alive(body):
		d.say("endpoint", Bad, "compare --endpoint with the address of --provide, and look at the proxy between them", "something at %s answers, and it is not this node's provider (status %d)", at, code)
	default:
		next := ""
		if loopback, err := isLoopback(d.Config.Provide); err == nil && loopback && d.Config.Endpoint == "" {
			next = "only this machine reaches it; give --provide another address to serve others"
		}
		d.say("endpoint", Good, next, "%s answers from here", at)
	}
}

// relays asks each relay for this node's asks and for its time.
func (d *Doctor) relays(ctx context.Context) {
	list := slices.Clone(d.Config.Relays)
	if d.running != nil {
		for _, r := range d.running.Relays { // its own, and those of its flags
			if !slices.Contains(list, r.URL) {
				list = append(list, r.URL)
			}
		}
	}
	if len(list) == 0 {
		if d.running == nil && d.Config.Relay && d.Config.Provide != "" {
			d.say("relays", Good, "name relays with --relay to be seen beyond this machine", "none but the node's own, which is not running")
		} else {
			d.say("relays", Warning, "name one with --relay", "there is none: no provider can be found")
		}
		return
	}
	for _, url := range list {
		d.relay(ctx, url)
	}
}

func (d *Doctor) relay(ctx context.Context, url string) {
	c, err := nostr.NewClient([]string{url}, nostr.ClientOptions{Timeout: 5 * time.Second})
	if err != nil {
		d.say("relays", Bad, "correct the URL", "%v", err)
		return
	}
	f := nostr.Filter{Kinds: []nostr.Kind{market.DefaultKinds().Ask}}
	events, errs := c.Fetch(ctx, f, 500)
	if len(errs) > 0 {
		d.say("relays", Bad, RelayNext(url, errs[0].Err.Error()), "%s cannot be reached: %v", url, errs[0].Err)
		return
	}
	asks, _ := market.Collect(events, market.Rules{Kinds: market.DefaultKinds(), Now: d.Now().Unix()})
	own := 0
	for _, a := range asks {
		if d.running != nil && a.Provider.String() == d.running.Key && a.Capacity > 0 {
			own++
		}
	}
	text := fmt.Sprintf("%s answers and knows %d asks", url, len(asks))
	status, next := Good, ""
	switch {
	case d.running != nil && d.running.Provide != "" && own == 0 && d.serves(ctx):
		status, next = Warning, "look at the node's log for \"publish an ask\", and at the clock"
		text += "; none is of this node, though it serves a model"
	case own > 0:
		text += fmt.Sprintf(", %d of them of this node", own)
	}
	d.say("relays", status, next, "%s", text)

	// Websocket servers speak HTTP first, and tell the time with it.
	q, err := http.NewRequestWithContext(ctx, http.MethodGet, "http"+strings.TrimPrefix(url, "ws"), nil)
	if err != nil {
		return
	}
	client := http.Client{Timeout: 5 * time.Second}
	r, err := client.Do(q)
	if err != nil {
		return
	}
	r.Body.Close()
	s, ok := skew(d.Now(), r.Header.Get("Date"))
	if ok && s.Abs() > maxSkew {
		d.say("clock", Warning, "set this clock by a time service; if it is right, the relay's is wrong", "the clock of %s is %s away from this one: what is signed here may be refused as too old or too new", url, s.Abs())
	}
}

// serves tells whether the running node offers a model.
func (d *Doctor) serves(ctx context.Context) bool {
	code, body, err := d.get(ctx, d.at.URL+"/geist/v1/serve", d.at.Key)
	return err == nil && code == http.StatusOK && !strings.Contains(string(body), `"serving":[]`)
}
