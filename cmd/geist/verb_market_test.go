package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/geistnet/geist/ghost"
	"github.com/geistnet/geist/internal/console"
	"github.com/geistnet/geist/internal/market"
	"github.com/geistnet/geist/internal/node"
	"github.com/geistnet/geist/internal/nostr"
)

// TestMarket asks a relay with good and bad asks.
func TestMarket(t *testing.T) {
	now := time.Unix(1_800_000_000, 0)
	kinds := market.DefaultKinds()
	// A relay that checks little, so that there is something to refuse.
	r, err := nostr.OpenRelay(nostr.RelayOptions{Path: filepath.Join(t.TempDir(), "events"), Kinds: kinds.Relayed(), Now: func() time.Time { return now }})
	if err != nil {
		t.Fatal(err)
	}
	s := httptest.NewServer(r)
	defer s.Close()
	defer r.Close()
	relay := "ws" + strings.TrimPrefix(s.URL, "http")

	home := t.TempDir()
	mine, err := nostr.OpenKey(filepath.Join(home, "node.key"), "")
	if err != nil {
		t.Fatal(err)
	}
	send := func(key ghost.Secret, e *nostr.Event, err error) {
		t.Helper()
		if err == nil {
			err = nostr.Sign(e, key)
		}
		if err == nil {
			err = r.Publish(e)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	var keys []ghost.Key
	for n := byte(1); n <= 3; n++ {
		a := market.Ask{Name: "chat", Created: now.Unix(), Expires: now.Unix() + 60, Model: ghost.ID{n / 3}, ModelName: "tiny", Quant: "q8_0", Context: 400,
			Input: market.PerToken(int64(n)), Output: market.PerToken(1), Capacity: 1, Endpoints: []string{"http://x.example"}, Rails: []string{"credit"}, Grade: ghost.GhostAudited}
		e, err := a.Event(kinds)
		send(ghost.Secret{31: n}, e, err)
		k, _ := ghost.Secret{31: n}.Public()
		keys = append(keys, k)
	}
	bad := &nostr.Event{Kind: kinds.Ask, CreatedAt: nostr.Timestamp(now.Unix()), Tags: nostr.Tags{{"d", "x"}, {"s", "llm-inference"}, {"geist", "1"}}}
	send(ghost.Secret{31: 9}, bad, nil)
	// This node follows a rater that knows the second provider as good.
	rater, _ := ghost.Secret{31: 8}.Public()
	send(mine, &nostr.Event{Kind: 3, CreatedAt: 1, Tags: nostr.Tags{{"p", rater.String()}}}, nil)
	review := &market.Review{Author: rater, Provider: keys[1], Model: ghost.ID{}, Week: 3, Created: now.Unix() - 5, Expires: now.Unix() + 50, Requests: 90}
	e, err := review.Event(kinds)
	send(ghost.Secret{31: 8}, e, err)

	geist := func(want int, args ...string) (out, errs string) {
		t.Helper()
		var o, x bytes.Buffer
		g := &env{stdin: strings.NewReader(""), out: console.Out{W: &o}, err: console.Out{W: &x}, now: func() time.Time { return now }, getenv: func(name string) string {
			return map[string]string{"GEIST_HOME": home, relaysVar: relay}[name]
		}}
		if code := g.run(context.Background(), args); code != want {
			t.Errorf("geist %s: exit code %d, want %d: %s", strings.Join(args, " "), code, want, x.String())
		}
		return o.String(), x.String()
	}
	contains := func(text string, want ...string) {
		t.Helper()
		for _, w := range want {
			if !strings.Contains(text, w) {
				t.Errorf("no %q in\n%s", w, text)
			}
		}
	}

	out, errs := geist(exitOK, "market", "asks")
	contains(out, "PROVIDER", nostr.PublicText(keys[0])[:16], "http://x.example")
	contains(errs, "refused", " of npub1", "missing-tag")
	out, _ = geist(exitOK, "market", "asks", "--json", "--relay", relay)
	var list struct {
		Asks    []struct{ Provider, Model string }
		Refused []struct{ Reason string }
	}
	if err := json.Unmarshal([]byte(out), &list); err != nil || len(list.Asks) != 3 || len(list.Refused) != 1 {
		t.Errorf("%v\n%s", err, out)
	}
	out, _ = geist(exitOK, "market", "asks", "--model", ghost.ID{1}.String(), "--json")
	if strings.Count(out, `"model_name"`) != 1 {
		t.Errorf("asks of one model:\n%s", out)
	}

	out, _ = geist(exitOK, "market", "why", keys[1].String())
	contains(out, "place 1 of 3: first", "for the provider: nothing")
	out, _ = geist(exitOK, "market", "why", nostr.PublicText(keys[0]))
	contains(out, "newcomer: evidence of 0.0 requests")
	out, _ = geist(exitOK, "market", "why", keys[0].String()[:10], "--provider", fmt.Sprintf(`{"ignore":[%q]}`, keys[0].String()[:8]), "--json")
	contains(out, `"reason": "in-ignore"`, `"place": 0`)

	// A request that nobody gave fits; one that is given is taken as it is.
	out, _ = geist(exitOK, "market", "why", keys[1].String(), "--input", "256")
	contains(out, "excluded: context-too-small")

	geist(exitUsage, "market", "why", keys[0].String(), "--provider", `{"sort":"speed"}`)
	geist(exitUsage, "market", "why", keys[0].String(), "--input", "-1")
	geist(exitUsage, "market", "asks", "--relay", "http://x")
	geist(exitUsage, "market", "asks", "--model", "qwen")
	geist(exitFailure, "market", "why", strings.Repeat("0", 64))
	geist(exitFailure, "market", "why", "x")
	_, errs = geist(exitFailure, "market", "asks", "--relay", "ws://127.0.0.1:1", "--timeout", "5s")
	contains(errs, "relay ws://127.0.0.1:1 cannot be reached: ", "→ nothing listens there on this machine: start the geist that has it", "no relay answered")
	out, _ = geist(exitOK, "market", "asks", "--relay", "ws://127.0.0.1:1", "--relay", relay, "--json")
	var down struct{ Relays []node.Relay }
	if err := json.Unmarshal([]byte(out), &down); err != nil || len(down.Relays) != 2 || down.Relays[0].Connected || down.Relays[0].Next == "" || down.Relays[0].Error == "" || !down.Relays[1].Connected || down.Relays[1].Next != "" {
		t.Errorf("%v, %+v", err, down)
	}
	if out, errs := geist(exitOK, "market", "asks", "--relay", "ws://127.0.0.1:1", "--relay", relay); !strings.Contains(out, "x.example") || !strings.Contains(errs, "127.0.0.1:1") {
		t.Errorf("one of two relays is down: %s %s", out, errs)
	}
}
