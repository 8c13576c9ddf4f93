package gateway

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// program is the whole geist: GEIST_BINARY, or built for the test.
func program(t testing.TB) string {
	t.Helper()
	if path := os.Getenv("GEIST_BINARY"); path != "" {
		return path
	}
	if testing.Short() {
		t.Skip("builds the whole program; GEIST_BINARY names one that is built")
	}
	path := filepath.Join(t.TempDir(), "geist")
	if out, err := exec.Command("go", "build", "-o", path, "../../cmd/geist").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return path
}

// A whole is a node, "geist up", in a process of its own.
type wholeNode struct {
	bench
	url, provide string
}

// startUp starts a node with the built-in model on free ports.
func startUp(t testing.TB, args ...string) *wholeNode {
	t.Helper()
	cmd := exec.Command(program(t), append([]string{"up", "--no-question", "--json", "--listen", "127.0.0.1:0", "--provide", "127.0.0.1:0"}, args...)...)
	cmd.Env = append(os.Environ(), "GEIST_HOME="+t.TempDir(), "GEIST_CONFIG=")
	var said bytes.Buffer
	cmd.Stderr = &said
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := cmd.Process.Signal(syscall.SIGINT); err != nil {
			t.Error(err)
		}
		if err := cmd.Wait(); err != nil {
			t.Errorf("the node: %v\n%s", err, said.Bytes())
		}
	})
	var up struct {
		URL     string `json:"url"`
		Provide string `json:"provide"`
	}
	if err := json.NewDecoder(out).Decode(&up); err != nil {
		t.Fatalf("%v\n%s", err, said.Bytes())
	}
	go io.Copy(io.Discard, out)
	return &wholeNode{bench{t: t, s: nil, doc: document(t)}, up.URL, up.Provide}
}

// ask posts a request and gives the reply, held against the contract.
func (n *wholeNode) ask(path, body string, header ...string) (*reply, error) {
	return n.send("POST", n.url, path, body, header...)
}

func (n *wholeNode) send(method, base, path, body string, header ...string) (*reply, error) {
	req, err := http.NewRequest(method, base+path, strings.NewReader(body))
	if err != nil {
		return nil, err
	}
	for i := 0; i < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	r := &reply{code: resp.StatusCode, header: resp.Header}
	if r.body, err = io.ReadAll(resp.Body); err != nil {
		return nil, err
	}
	r.trailer = resp.Trailer
	if strings.HasPrefix(path, "/geist/") || base != n.url {
		return r, nil
	}
	if err := n.check(method, path, body, r); err != nil {
		return nil, fmt.Errorf("%s %s %s: status %d\n%s\nis against openapi.yaml: %w", method, path, body, r.code, r.body, err)
	}
	return r, nil
}

// wished is a random request for a chat, without its end.
func wished(seed uint64) string {
	r := rand.New(rand.NewPCG(seed, 11))
	words := []string{"goose", "a king", "the sea", "two\nlines", "Käse", "日本", "🙂", `"quoted"`, "{}", "once upon a time", "<|im_end|>", "<tool_call>"}
	var messages []string
	say := func(role string) {
		var text []string
		for range 1 + r.IntN(6) {
			text = append(text, words[r.IntN(len(words))])
		}
		b, _ := json.Marshal(map[string]string{"role": role, "content": strings.Join(text, " ")})
		messages = append(messages, string(b))
	}
	if r.IntN(4) == 0 {
		say("system")
	}
	for range r.IntN(2) {
		say("user")
		say("assistant")
	}
	say("user")
	b := fmt.Sprintf(`{"model":"tales","seed":%d,"messages":[%s]`, r.Int64N(1<<40), strings.Join(messages, ","))
	if r.IntN(3) > 0 {
		b += fmt.Sprintf(`,"temperature":%.2f`, r.Float64()*1.6)
	}
	if r.IntN(3) == 0 {
		b += fmt.Sprintf(`,"top_p":%.2f`, 0.05+0.95*r.Float64())
	}
	if r.IntN(4) == 0 {
		b += fmt.Sprintf(`,"frequency_penalty":%.1f,"presence_penalty":%.1f`, 4*r.Float64()-2, 4*r.Float64()-2)
	}
	if r.IntN(4) == 0 {
		b += `,"stop":["e","the",". "]`
	}
	if r.IntN(4) == 0 {
		b += fmt.Sprintf(`,"logprobs":true,"top_logprobs":%d`, r.IntN(4))
	}
	if r.IntN(6) == 0 {
		b += `,"logit_bias":{"65":5,"300":-100}`
	}
	if r.IntN(2) == 0 {
		b += fmt.Sprintf(`,"verify":%q`, []string{"none", "receipt", "audit"}[r.IntN(3)])
	}
	most := 1 + r.IntN(40)
	switch r.IntN(6) {
	case 0, 1:
		choice := []string{`"auto"`, `"required"`, `"none"`, `{"type":"function","function":{"name":"set"}}`}[r.IntN(4)]
		b += `,"tools":[{"type":"function","function":{"name":"set","strict":true,"parameters":{"type":"object","properties":{"on":{"type":"boolean"},"to":{"type":"string","maxLength":5}},"required":["on"],"additionalProperties":false}}},` +
			`{"type":"function","function":{"name":"get","parameters":{"type":"object","properties":{"n":{"type":"integer","minimum":0,"maximum":99}}}}}],"tool_choice":` + choice
		if r.IntN(2) == 0 {
			b += `,"parallel_tool_calls":false`
		}
		if r.IntN(3) > 0 {
			most = 200
		}
	case 2:
		b += `,"response_format":{"type":"json_object"}`
	case 3:
		b += `,"response_format":{"type":"json_schema","json_schema":{"name":"x","strict":true,"schema":{"type":"object","properties":{"n":{"type":"integer","minimum":1,"maximum":9},"s":{"enum":["a","ä","\""]},"l":{"type":"array","items":{"type":"boolean"},"maxItems":3}},"required":["n","s","l"],"additionalProperties":false}}}`
		if r.IntN(3) > 0 {
			most = 200
		}
	}
	if r.IntN(40) > 0 {
		b += fmt.Sprintf(`,"max_tokens":%d`, most)
	}
	return b
}

// TestUpEqual holds, for random requests to a whole node, that equal seeds give
// equal answers, streamed and not, and equal accounts of them. GEIST_REQUESTS is
// how many there are (1,000 take minutes).
func TestUpEqual(t *testing.T) {
	count := uint64(12)
	if s := os.Getenv("GEIST_REQUESTS"); s != "" {
		n, err := strconv.ParseUint(s, 10, 32)
		if err != nil || n == 0 {
			t.Fatalf("GEIST_REQUESTS=%q is no number", s)
		}
		count = n
	}
	n := startUp(t, "--verify", "receipt")
	var next atomic.Uint64
	var mu sync.Mutex
	kinds := map[string]int{}
	var all sync.WaitGroup
	for range 4 {
		all.Go(func() {
			for !t.Failed() {
				seed := next.Add(1) - 1
				if seed >= count {
					return
				}
				body := wished(seed)
				var got [2]whole
				for i, more := range []string{`}`, `,"stream":true,"stream_options":{"include_usage":true}}`} {
					r, err := n.ask("/v1/chat/completions", body+more)
					if err != nil || r.code != 200 {
						t.Errorf("seed %d, %s: %v %+v", seed, body, err, r)
						return
					}
					got[i] = assemble(t, r, i == 1).bare()
				}
				if a, b := fmt.Sprintf("%+v", got[0]), fmt.Sprintf("%+v", got[1]); a != b {
					t.Errorf("seed %d, %s:\nat once  %s\nstreamed %s", seed, body, a, b)
					return
				}
				if w := got[0]; w.Finish == "tool_calls" && len(w.Calls) == 0 || w.Finish == "stop" && len(w.Calls) > 0 {
					t.Errorf("seed %d, %s: finish %s with %d calls", seed, body, w.Finish, len(w.Calls))
				}
				mu.Lock()
				kinds[got[0].Finish]++
				mu.Unlock()
				if seed%50 == 49 {
					t.Logf("request %d", seed+1)
				}
			}
		})
	}
	all.Wait()
	t.Logf("%d requests, each at once and streamed: %v", count, kinds)
	if count >= 200 && (kinds["stop"] < 10 || kinds["length"] < 10 || kinds["tool_calls"] < 10) {
		t.Errorf("the answers are too much alike: %v", kinds)
	}
}

// bare leaves out what is another in every answer: ids, and what a cache held.
func (w whole) bare() whole {
	for i := range w.Calls {
		w.Calls[i].ID = w.Calls[i].ID[strings.LastIndex(w.Calls[i].ID, "_"):]
	}
	if u, ok := w.Usage.(map[string]any); ok {
		delete(u, "prompt_tokens_details")
	}
	if g, ok := w.Geist.(map[string]any); ok {
		delete(g, "receipt")
	}
	return w
}

// TestUpKeys holds that nothing of a node that other machines reach is told
// without a key. GEIST_ADDRESS is an address of this machine beyond loopback to
// try it at.
func TestUpKeys(t *testing.T) {
	const key = "a key of sixteen or more"
	args := []string{"--key", key}
	if at := os.Getenv("GEIST_ADDRESS"); at != "" {
		args = append(args, "--listen", at)
	}
	n := startUp(t, args...)
	g, err := New(Options{Backend: &fake{}})
	if err != nil {
		t.Fatal(err)
	}
	var rows [][2]string
	for _, r := range g.routes() {
		path := r.path
		if path != "/" && strings.HasSuffix(path, "/") {
			path += "abc"
		}
		rows = append(rows, [2]string{r.method, path})
	}
	for _, s := range []string{"GET /geist/v1/node", "GET /geist/v1/providers", "GET /geist/v1/wallet", "GET /geist/v1/receipts", "GET /geist/v1/receipts/x/run", "GET /geist/v1/receipts/x/ghost",
		"GET /geist/v1/receipts/x/proof", "POST /geist/v1/receipts/x/audit", "GET /geist/v1/serve", "POST /geist/v1/serve", "DELETE /geist/v1/serve/x", "GET /geist/page/", "GET /geist/page/index.html", "GET /geist/", "POST /geist/v1/jobs", "GET /geist/v1/models", "GET /nothing", "OPTIONS /v1/models", "DELETE /v1/models", "PUT /", "HEAD /"} {
		method, path, _ := strings.Cut(s, " ")
		rows = append(rows, [2]string{method, path})
	}
	if len(rows) < 40 {
		t.Fatalf("%d routes", len(rows))
	}
	for _, row := range rows {
		for _, header := range [][]string{nil, {"Authorization", "Bearer wrong"}, {"X-Api-Key", key[1:]}, {"Accept", "text/html"}} {
			r, err := n.send(row[0], n.url, row[1], "", header...)
			if err != nil || r.code != 401 {
				t.Errorf("%s %s with %q: %v %+v", row[0], row[1], header, err, r)
			}
		}
	}
	if r, err := n.send("GET", n.url, "/geist/v1/node", "", "Authorization", "Bearer "+key); err != nil || r.code != 200 {
		t.Errorf("with the key: %v %+v", err, r)
	}
	t.Logf("%d routes at %s", len(rows), n.url)
}

// TestUpTakesNoOpenDoor holds that a node does not start where others reach it
// and no key is demanded.
func TestUpTakesNoOpenDoor(t *testing.T) {
	cmd := exec.Command(program(t), "up", "--no-question", "--json", "--listen", "0.0.0.0:0", "--provide", "127.0.0.1:0")
	cmd.Env = append(os.Environ(), "GEIST_HOME="+t.TempDir(), "GEIST_CONFIG=")
	stop := time.AfterFunc(20*time.Second, func() { _ = cmd.Process.Kill() })
	defer stop.Stop()
	out, err := cmd.CombinedOutput()
	if err == nil || !strings.Contains(string(out), "key") {
		t.Errorf("%v: %s", err, out)
	}
}
