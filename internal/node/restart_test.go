package node

import (
	"fmt"
	"path/filepath"
	"testing"
	"time"

	"github.com/geistnet/geist/internal/market"
	"github.com/geistnet/geist/internal/nostr"
)

// offered waits until the node's relay has an ask of it with places, as of at.
func offered(t *testing.T, n *Node, log *safeLog, at time.Time) {
	t.Helper()
	c, err := nostr.NewClient([]string{n.RelayURL()}, nostr.ClientOptions{})
	if err != nil {
		t.Fatal(err)
	}
	kinds := market.DefaultKinds()
	for deadline := time.Now().Add(10 * time.Second); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		events, errs := c.Fetch(t.Context(), nostr.Filter{Kinds: []nostr.Kind{kinds.Ask}}, 10)
		if len(errs) > 0 {
			t.Fatal(errs[0])
		}
		asks, _ := market.Collect(events, market.Rules{Kinds: kinds, Now: at.Unix()})
		if len(asks) == 1 && asks[0].Provider == n.Key() && asks[0].Capacity > 0 {
			return
		}
	}
	t.Fatalf("the offer is not at the relay: %s", log)
}

// TestQuickRestart: a node that starts in the second in which one with its state
// ended is offered at once, as often as that happens.
func TestQuickRestart(t *testing.T) {
	dir, at := filepath.Join(t.TempDir(), "node"), time.Now()
	for i := range 4 {
		t.Run(fmt.Sprint(i), func(t *testing.T) {
			n, log := runningAt(t, func() time.Time { return at }, "a secret key that is for tests..", func(c *Config) { c.Dir = dir })
			offered(t, n, log, at)
		})
	}
}
