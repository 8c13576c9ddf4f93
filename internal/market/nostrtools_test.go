package market

import (
	"encoding/json"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/geistnet/geist/internal/nostr"
)

// TestNostrTools has another implementation of Nostr, the npm package nostr-tools,
// read an ask from the embedded relay and attack it. It needs node and npm; in CI
// it fails without them.
func TestNostrTools(t *testing.T) {
	without := func(format string, args ...any) {
		t.Helper()
		if os.Getenv("CI") != "" {
			t.Fatalf(format, args...)
		}
		t.Skipf(format, args...)
	}
	if testing.Short() {
		t.Skip("short: nostr-tools is not run")
	}
	for _, tool := range []string{"node", "npm"} {
		if _, err := exec.LookPath(tool); err != nil {
			without("%s is not here, so nostr-tools cannot read our events", tool)
		}
	}
	dir := filepath.Join("..", "..", "e2e", "nostr-tools")
	run := func(name string, env []string, args ...string) (string, error) {
		c := exec.CommandContext(t.Context(), name, args...)
		c.Dir, c.Env, c.WaitDelay = dir, append(os.Environ(), env...), 10*time.Second
		out, err := c.CombinedOutput()
		return string(out), err
	}
	if _, err := os.Stat(filepath.Join(dir, "node_modules", "nostr-tools", "package.json")); err != nil {
		if out, err := run("npm", nil, "ci", "--ignore-scripts", "--no-audit", "--no-fund"); err != nil {
			without("npm ci in %s: %v\n%s", dir, err, out)
		}
	}
	r, err := nostr.OpenRelay(nostr.RelayOptions{
		Path: filepath.Join(t.TempDir(), "events"), Kinds: DefaultKinds().Relayed(),
		Check: func(e *nostr.Event) error { return Check(e, Rules{Kinds: DefaultKinds(), Now: time.Now().Unix()}) },
	})
	if err != nil {
		t.Fatal(err)
	}
	s := httptest.NewServer(r)
	defer s.Close()
	defer r.Close()
	a := ask(1)
	a.Created, a.Expires = time.Now().Unix(), time.Now().Unix()+600
	if err := r.Publish(sign(t, 1, a)); err != nil {
		t.Fatal(err)
	}
	expect, err := json.Marshal(map[string]string{"pubkey": public(1).String(), "model": model.String(), "name": a.Name})
	if err != nil {
		t.Fatal(err)
	}
	out, err := run("npm", []string{"RELAY=ws" + strings.TrimPrefix(s.URL, "http"), "EXPECT=" + string(expect)}, "test")
	if err != nil {
		t.Fatalf("npm test: %v\n%s", err, out)
	}
	if !strings.Contains(out, "pass 4") {
		t.Errorf("not all four tests passed:\n%s", out)
	}
	// What nostr-tools signed, this package reads.
	asks, refused := Collect(r.Events(nostr.Filter{}, 100), Rules{Kinds: DefaultKinds(), Now: time.Now().Unix()})
	if len(asks) != 3 || len(refused) != 0 {
		t.Errorf("%d asks, refused %v; want ours and two of nostr-tools", len(asks), refused)
	}
}
