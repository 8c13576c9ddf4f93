package main

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/geistnet/geist/internal/node"
	"github.com/geistnet/geist/internal/tales"
)

// serveIn runs "geist serve" in home until the test ends, and says what it said.
func serveIn(t *testing.T, home string, args ...string) (status node.Status) {
	t.Helper()
	ctx, stop := context.WithCancel(t.Context())
	r, w := io.Pipe()
	done := make(chan string, 1)
	go func() {
		code, errs := geistIn(ctx, w, home, append([]string{"serve", "--listen", "127.0.0.1:0", "--provide", "127.0.0.1:0", "--json"}, args...)...)
		_ = w.Close()
		if code != exitOK {
			errs = "exit code 1: " + errs
		}
		done <- errs
	}()
	if err := json.NewDecoder(r).Decode(&status); err != nil {
		stop()
		t.Fatalf("%v: %s", err, <-done)
	}
	go func() { _, _ = io.Copy(io.Discard, r) }()
	t.Cleanup(func() {
		stop()
		if errs := <-done; strings.Contains(errs, "geist: ") || strings.Contains(errs, "exit code") {
			t.Errorf("the provider: %s", errs)
		}
	})
	return status
}

func chatIn(t *testing.T, home string, args ...string) (a asked, text string, code int, errs string) {
	t.Helper()
	var b bytes.Buffer
	code, errs = geistIn(t.Context(), &b, home, append([]string{"chat", "--seed", "5", "--max-tokens", "12"}, args...)...)
	if code == exitOK && strings.HasPrefix(b.String(), "{") {
		if err := json.Unmarshal(b.Bytes(), &a); err != nil {
			t.Fatalf("%v: %s", err, b.String())
		}
	}
	return a, b.String(), code, errs
}

// TestChatBeside: beside a node with the same state chat asks that one, also where
// it demands keys, and answers and accounts as a node of its own would.
func TestChatBeside(t *testing.T) {
	home, away := t.TempDir(), t.TempDir()
	status := serveIn(t, home, tales.Name, "--key", "sesame-0123456789abcdef")
	far, _, code, errs := chatIn(t, away, "--relay", status.Relay, "--json", gooseQuestion)
	if code != exitOK {
		t.Fatal(errs)
	}
	if far.Npub != status.Provider || far.Provider != status.Key {
		t.Errorf("the provider is %q and %q, want %q and %q", far.Npub, far.Provider, status.Provider, status.Key)
	}
	if _, text, _, _ := chatIn(t, away, "--relay", status.Relay, gooseQuestion); !strings.Contains(text, "from      "+status.Provider+"\n") || strings.Contains(text, status.Key) {
		t.Errorf("the provider's key as people know it, %s, is not in %s", status.Provider, text)
	}
	near, _, code, errs := chatIn(t, home, "--json", gooseQuestion)
	if code != exitOK || !strings.Contains(errs, "a geist is running with the same state: asking it, at http://127.0.0.1:") {
		t.Fatalf("exit code %d: %s", code, errs)
	}
	if near.Answer == "" || near.Answer != far.Answer || near.ModelID != far.ModelID || near.Provider != status.Key || near.Prompt != far.Prompt || near.Tokens != far.Tokens || near.CostMsat != far.CostMsat {
		t.Errorf("%+v; a node of its own: %+v", near, far)
	}
	if near.Verdict == nil || !near.Verdict.Accepted || near.Verified != "audit" || near.Verdict.Grade != far.Verdict.Grade {
		t.Errorf("verdict %+v, reached %q", near.Verdict, near.Verified)
	}
	if _, text, code, errs := chatIn(t, home, "--relay", status.Relay, gooseQuestion); code != exitOK || !strings.Contains(text, far.Answer) || !strings.Contains(text, status.Provider+" (this machine, asked as any other)") {
		t.Errorf("exit code %d, %s: %s", code, errs, text)
	}
	if _, text, code, errs := chatIn(t, home, "--sound", gooseQuestion); code != exitOK || !strings.Contains(text, "ghost-sound: the trunk was computed here, ") || !strings.Contains(text, far.Answer) {
		t.Errorf("--sound: exit code %d, %s: %s", code, errs, text)
	}
	raw, _, code, errs := chatIn(t, home, "--json", "--raw", "Once upon a time")
	other, _, code2, errs2 := chatIn(t, away, "--relay", status.Relay, "--json", "--raw", "Once upon a time")
	if code != exitOK || code2 != exitOK || raw.Answer == "" || raw.Answer != other.Answer || raw.Prompt >= near.Prompt {
		t.Errorf("--raw: %d %s, %d %s: %+v, %+v", code, errs, code2, errs2, raw, other)
	}
	for want, args := range map[string][]string{
		"ws://127.0.0.1:1/relay is none of its relays: leave --relay out": {"--relay", "ws://127.0.0.1:1/relay", "hello"},
		"asks as it was started: leave --spend out,":                      {"--spend", "1", "hello"},
		"leave --credit and --follow out,":                                {"--credit", "5", "--follow", status.Provider, "hello"},
		"nobody offers \"nobodys\"":                                       {"--wait", "1ms", "--model", "nobodys", "hello"},
	} {
		if _, _, code, errs := chatIn(t, home, args...); code != exitFailure || !strings.Contains(errs, want) {
			t.Errorf("%v: exit code %d: %s", args, code, errs)
		}
	}
	if code, errs := geistIn(t.Context(), io.Discard, away, "chat", "--relay", "ws://127.0.0.1:1", "--wait", "200ms", "hello"); code != exitFailure || !strings.Contains(errs, "relay ws://127.0.0.1:1 cannot be reached: ") || !strings.Contains(errs, "→ nothing listens there on this machine") {
		t.Errorf("a relay that is not there: exit code %d: %s", code, errs)
	}
	// What cannot be asked is said.
	if err := os.Remove(filepath.Join(home, "node", "running.json")); err != nil {
		t.Fatal(err)
	}
	if _, _, code, errs := chatIn(t, home, "hello"); code != exitFailure || !strings.Contains(errs, "another process holds it") || !strings.Contains(errs, "or set GEIST_HOME to another directory") {
		t.Errorf("exit code %d: %s", code, errs)
	}
}

// TestRunningGone: a node that ended leaves nothing that says where it is.
func TestRunningGone(t *testing.T) {
	home := t.TempDir()
	t.Run("node", func(t *testing.T) {
		serveIn(t, home, tales.Name)
		r, err := node.ReadRunning(filepath.Join(home, "node"))
		if err != nil || r.Key != "" || !strings.HasPrefix(r.URL, "http://127.0.0.1:") {
			t.Errorf("%+v, %v", r, err)
		}
	})
	if r, err := node.ReadRunning(filepath.Join(home, "node")); !os.IsNotExist(err) {
		t.Errorf("%+v, %v", r, err)
	}
}

// TestChatWithoutTemplate: a model without a chat template continues the question,
// and chat says so, asked through a node of its own and through one that runs.
func TestChatWithoutTemplate(t *testing.T) {
	home, away := t.TempDir(), t.TempDir()
	file := filepath.Join(t.TempDir(), "plain.gguf")
	if err := newModel(file); err != nil {
		t.Fatal(err)
	}
	status := serveIn(t, home, file)
	const note = "the model has no chat template: it continues the text, as with --raw"
	a, _, code, errs := chatIn(t, away, "--relay", status.Relay, "--json", "Once upon a time")
	if code != exitOK || !strings.Contains(errs, note) || a.Tokens != 12 {
		t.Errorf("exit code %d, %+v: %s", code, a, errs)
	}
	b, _, code, errs := chatIn(t, home, "--json", "Once upon a time")
	if code != exitOK || !strings.Contains(errs, note) || b.Answer != a.Answer {
		t.Errorf("exit code %d, %+v: %s", code, b, errs)
	}
	c, _, code, errs := chatIn(t, away, "--relay", status.Relay, "--json", "--raw", "Once upon a time")
	if code != exitOK || errs != "" || c.Answer != a.Answer {
		t.Errorf("--raw: exit code %d, %+v: %s", code, c, errs)
	}
}

// TestConverseLeaves: a conversation in which nothing is asked ends with its
// input, with /bye and with its context, though a read of the terminal goes on.
func TestConverseLeaves(t *testing.T) {
	e, _, _ := command(t)
	typed, keyboard := io.Pipe()
	defer keyboard.Close()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	e.stdin = typed
	if err := (&talker{env: e}).converse(ctx, &askOptions{}); err != nil {
		t.Errorf("context: %v", err)
	}
	for _, input := range []string{"", "\n \n", "/bye\nWho are you?\n"} {
		e.stdin = strings.NewReader(input)
		if err := (&talker{env: e}).converse(t.Context(), &askOptions{}); err != nil {
			t.Errorf("%q: %v", input, err)
		}
	}
}
