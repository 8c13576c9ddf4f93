package page

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/geistnet/geist/internal/node"
	"github.com/geistnet/geist/internal/web"
)

// front is the address of a node that demands a key: the page without one, all
// else through the node's guard.
func front(t *testing.T, n *node.Node) string {
	t.Helper()
	to, err := url.Parse(n.URL())
	if err != nil {
		t.Fatal(err)
	}
	proxy := &httputil.ReverseProxy{FlushInterval: -1, Rewrite: func(r *httputil.ProxyRequest) { r.SetURL(to) }}
	page := web.Handler("test")
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/" || strings.HasPrefix(r.URL.Path, web.Base) {
			page.ServeHTTP(w, r)
			return
		}
		proxy.ServeHTTP(w, r)
	}))
	t.Cleanup(s.Close)
	return s.URL
}

const key = "a-key-of-this-test-only"

// TestPage uses the page in Chromium, by Playwright: it chats, checks a proof,
// tampers with it, and looks at providers, wallet and models. It needs node, npm
// and Debian's chromium, and fails without them in CI. With GEIST_PAGE_HOLD it
// only starts the nodes and waits for an interrupt.
func TestPage(t *testing.T) {
	without := func(format string, args ...any) {
		t.Helper()
		if os.Getenv("CI") != "" {
			t.Fatalf(format, args...)
		}
		t.Skipf(format, args...)
	}
	if testing.Short() {
		t.Skip("short: the page is not used in a browser")
	}
	hold := os.Getenv("GEIST_PAGE_HOLD") != ""
	chromium := ""
	for _, name := range []string{"chromium", "chromium-browser", "google-chrome"} {
		if p, err := exec.LookPath(name); err == nil {
			chromium = p
			break
		}
	}
	if chromium == "" && !hold {
		without("chromium is not installed: the page was not used in a browser")
	}
	for _, tool := range []string{"node", "npm"} {
		if _, err := exec.LookPath(tool); err != nil {
			without("%s is not installed: the page was not used in a browser", tool)
		}
	}
	run := func(name string, env []string, args ...string) (string, error) {
		c := exec.CommandContext(t.Context(), name, args...)
		c.Env, c.WaitDelay = append(os.Environ(), env...), 10*time.Second
		out, err := c.CombinedOutput()
		return string(out), err
	}
	cli := filepath.Join("node_modules", "@playwright", "test", "cli.js")
	if _, err := os.Stat(cli); err != nil {
		if out, err := run("npm", []string{"PLAYWRIGHT_SKIP_BROWSER_DOWNLOAD=1"}, "ci", "--ignore-scripts", "--no-audit", "--no-fund"); err != nil {
			without("npm ci: %v\n%s", err, out)
		}
	}
	first := town(t)
	guarded := start(t, 4, func(c *node.Config) {
		c.Relay, c.Relays = false, []string{first.RelayURL()}
		c.Keys = []string{key}
	})
	env := []string{"GEIST_URL=" + first.URL(), "GEIST_GUARDED_URL=" + front(t, guarded), "GEIST_KEY=" + key, "GEIST_CHROMIUM=" + chromium, "CI="}
	if hold {
		fmt.Println(strings.Join(env, " "))
		stop := make(chan os.Signal, 1)
		signal.Notify(stop, os.Interrupt)
		<-stop
		return
	}
	out, err := run("node", env, cli, "test")
	t.Log(out)
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(out, " passed") {
		t.Fatal("Playwright ran no test")
	}
}
