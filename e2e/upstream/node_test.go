// Package upstream holds a node to its word where the model runs on a server of
// somebody else ("geist serve NAME --upstream URL"): what comes is served, paid
// and receipted, it is worth the grade reputation, and nothing calls it verified.
package upstream

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// program is the whole geist: GEIST_BINARY, or built for the test.
func program(t *testing.T) string {
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

// A node is "geist serve" in a process of its own.
type node struct {
	t       *testing.T
	program string
	URL     string `json:"url"`
	Relay   string `json:"relay"`
	Key     string `json:"key"`
}

func (n *node) command(args ...string) *exec.Cmd {
	c := exec.Command(n.program, args...)
	c.Env = append(os.Environ(), "GEIST_HOME="+n.t.TempDir(), "GEIST_CONFIG=")
	return c
}

// serve offers a model of the server at url.
func serve(t *testing.T, model, url string) *node {
	t.Helper()
	n := &node{t: t, program: program(t)}
	c := n.command("serve", model, "--upstream", url, "--price", "5,20", "--json", "--listen", "127.0.0.1:0", "--provide", "127.0.0.1:0")
	var said bytes.Buffer
	c.Stderr = &said
	out, err := c.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Process.Signal(syscall.SIGINT); err != nil {
			t.Error(err)
		}
		if err := c.Wait(); err != nil {
			t.Errorf("the node: %v\n%s", err, said.Bytes())
		}
	})
	if err := json.NewDecoder(out).Decode(n); err != nil {
		t.Fatalf("%v\n%s", err, said.Bytes())
	}
	go io.Copy(io.Discard, out)
	return n
}

// An answer is what a client of the node's API gets.
type answer struct {
	status  int
	header  http.Header // with the trailers of a stream
	text    string
	calls   []string // name and arguments
	finish  string
	failed  string // error in the body or the stream
	geist   account
	answers int // tokens
	body    []byte
}

type account struct {
	Cost     int64  `json:"cost_msat"`
	Receipt  string `json:"receipt"`
	Grade    string `json:"grade"`
	Verified string `json:"verified"`
}

type part struct {
	Content string `json:"content"`
	Calls   []struct {
		Function struct{ Name, Arguments string } `json:"function"`
	} `json:"tool_calls"`
}

type whole struct {
	Choices []struct {
		Message, Delta part
		Finish         string `json:"finish_reason"`
	} `json:"choices"`
	Usage *struct {
		Answer int `json:"completion_tokens"`
	} `json:"usage"`
	Geist *account `json:"geist"`
	Error *struct {
		Message, Code string
	} `json:"error"`
}

func (a *answer) add(raw []byte) error {
	var w whole
	if err := json.Unmarshal(raw, &w); err != nil {
		return fmt.Errorf("%w in %q", err, raw)
	}
	if w.Error != nil {
		a.failed = w.Error.Code + ": " + w.Error.Message
	}
	if w.Geist != nil {
		a.geist = *w.Geist
	}
	if w.Usage != nil {
		a.answers = w.Usage.Answer
	}
	for _, c := range w.Choices {
		a.text += c.Message.Content + c.Delta.Content
		for _, k := range append(c.Message.Calls, c.Delta.Calls...) {
			a.calls = append(a.calls, k.Function.Name+" "+k.Function.Arguments)
		}
		if c.Finish != "" {
			a.finish = c.Finish
		}
	}
	return nil
}

// chat asks for an answer; more are further fields of the request. first is told
// of every piece of a stream.
func (n *node) chat(model, question string, stream bool, more string, piece func()) *answer {
	n.t.Helper()
	q, err := json.Marshal(question)
	if err != nil {
		n.t.Fatal(err)
	}
	body := fmt.Sprintf(`{"model":%q,"messages":[{"role":"user","content":%s}],"stream":%v,"stream_options":{"include_usage":true}%s}`, model, q, stream, more)
	resp, err := http.Post(n.URL+"/v1/chat/completions", "application/json", strings.NewReader(body))
	if err != nil {
		n.t.Fatal(err)
	}
	defer resp.Body.Close()
	a := &answer{status: resp.StatusCode, header: resp.Header}
	if !strings.HasPrefix(resp.Header.Get("Content-Type"), "text/event-stream") {
		if a.body, err = io.ReadAll(resp.Body); err == nil {
			err = a.add(a.body)
		}
		if err != nil {
			n.t.Fatal(err)
		}
		return a
	}
	lines := bufio.NewReaderSize(resp.Body, 1<<20)
	for {
		line, err := lines.ReadString('\n')
		a.body = append(a.body, line...)
		if data, ok := strings.CutPrefix(strings.TrimSpace(line), "data: "); ok && data != "[DONE]" {
			if err := a.add([]byte(data)); err != nil {
				n.t.Fatal(err)
			}
			if piece != nil {
				piece()
			}
		}
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			n.t.Fatal(err)
		}
	}
	for k, v := range resp.Trailer {
		a.header[k] = v
	}
	return a
}

func (n *node) get(path string) []byte {
	n.t.Helper()
	resp, err := http.Get(n.URL + path)
	if err != nil {
		n.t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusOK {
		n.t.Fatalf("%s: %v %d %s", path, err, resp.StatusCode, b)
	}
	return b
}

// entry is what a node keeps of an answer.
type entry struct {
	Phase    string `json:"phase"`
	Code     string `json:"code"`
	Tokens   int    `json:"answer_tokens"`
	Prompt   int    `json:"prompt_tokens"`
	Paid     int64  `json:"paid_msat"`
	Receipt  string `json:"receipt"`
	Grade    string `json:"grade"`
	Verified string `json:"verified"`
	Verdict  string `json:"verdict"`
}

func (n *node) receipts() []entry {
	n.t.Helper()
	var list struct {
		Receipts []entry `json:"receipts"`
	}
	if err := json.Unmarshal(n.get("/geist/v1/receipts"), &list); err != nil {
		n.t.Fatal(err)
	}
	return list.Receipts
}

// trust holds that a good answer is receipted, and called nothing better than it is.
func (n *node) trust(a *answer) {
	t := n.t
	t.Helper()
	if a.status != 200 || a.failed != "" || a.geist.Receipt == "" || a.geist.Cost <= 0 {
		t.Fatalf("status %d, error %q, %+v\n%s", a.status, a.failed, a.geist, a.body)
	}
	if a.geist.Grade != "reputation" || a.header.Get("X-Geist-Grade") != "reputation" {
		t.Errorf("grade %q, header %q", a.geist.Grade, a.header.Get("X-Geist-Grade"))
	}
	for _, v := range []string{a.geist.Verified, a.header.Get("X-Geist-Verified")} {
		if v != "receipt" && v != "none" {
			t.Errorf("verified: %q", v)
		}
	}
	for _, path := range []string{"/geist/v1/receipts", "/geist/v1/wallet", "/geist/v1/providers", "/geist/v1/node", "/v1/models", "/v1/receipts/" + a.geist.Receipt} {
		b := string(n.get(path))
		for _, word := range []string{"ghost-audited", `"verified":"audit"`, `"verified":"replicate"`, `"verdict":"passed"`, `"accepted":true`} {
			if strings.Contains(b, word) {
				t.Errorf("%s says %s: %.2000s", path, word, b)
			}
		}
	}
	e := n.receipts()[0]
	if e.Grade != "reputation" || e.Verdict != "" || e.Receipt != a.geist.Receipt || e.Paid != a.geist.Cost || e.Paid != int64(5*e.Prompt+20*e.Tokens) || e.Tokens != a.answers {
		t.Errorf("kept: %+v, said %+v with %d tokens", e, a.geist, a.answers)
	}
}

// refuses holds that nothing about an answer can be made to look audited.
func (n *node) refuses(a *answer) {
	t := n.t
	t.Helper()
	resp, err := http.Post(n.URL+"/geist/v1/receipts/"+a.geist.Receipt+"/audit", "application/json", strings.NewReader("{}"))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if b, err := io.ReadAll(resp.Body); err != nil || resp.StatusCode == 200 && strings.Contains(string(b), `"accepted":true`) {
		t.Errorf("an audit: %v %d %s", err, resp.StatusCode, b)
	}
	resp, err = http.Get(n.URL + "/geist/v1/receipts/" + a.geist.Receipt + "/run")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	run, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	if resp.StatusCode == 200 { // there is a run file: no proof fits it
		dir := t.TempDir()
		for name, b := range map[string][]byte{"run": run, "proof": run, "empty": nil} {
			if err := os.WriteFile(filepath.Join(dir, name), b, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		for _, proof := range []string{"proof", "empty"} {
			if out, err := n.command("verify", filepath.Join(dir, "run"), filepath.Join(dir, proof)).CombinedOutput(); err == nil || bytes.Contains(out, []byte("accepted\n")) {
				t.Errorf("geist verify: %v\n%s", err, out)
			}
		}
	}
	if b := n.chat("", "", false, "", nil); b.status == 200 {
		t.Errorf("no model was named, and %s answered", b.body)
	}
}
