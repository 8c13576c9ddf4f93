package main

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"path/filepath"
	"strings"
	"testing"

	"github.com/geistnet/geist/internal/tales"
)

// TestChatSound: a trunk here with rows of a provider gives the answer that the
// provider gives to the same question and seed, and is not paid for.
func TestChatSound(t *testing.T) {
	home := t.TempDir()
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	r, w := io.Pipe()
	done := make(chan string, 1)
	go func() {
		code, errs := geistIn(ctx, w, home, "serve", tales.Name, "--listen", "127.0.0.1:0", "--provide", "127.0.0.1:0", "--json")
		_ = w.Close()
		if code != exitOK {
			errs = "exit code 1: " + errs
		}
		done <- errs
	}()
	var status struct {
		Relay   string `json:"relay"`
		Provide string `json:"provide"`
	}
	if err := json.NewDecoder(r).Decode(&status); err != nil {
		t.Fatalf("%v: %s", err, <-done)
	}
	go func() { _, _ = io.Copy(io.Discard, r) }()
	away := t.TempDir() // another user
	chat := func(args ...string) (out []byte, code int, errs string) {
		var b bytes.Buffer
		code, errs = geistIn(t.Context(), &b, away, append([]string{"chat", "--relay", status.Relay, "--seed", "5", "--max-tokens", "24", gooseQuestion}, args...)...)
		return b.Bytes(), code, errs
	}
	out, code, errs := chat("--json")
	var audited asked
	if err := json.Unmarshal(out, &audited); err != nil || code != exitOK {
		t.Fatalf("%d, %v, %s", code, err, errs)
	}
	var sounds []string
	for _, args := range [][]string{{"--model", tales.Name}, {"--trunk", trunkOf(t, away, tales.Name)}} {
		out, code, errs := chat(append(args, "--sound", "--json")...)
		var x soundAsked
		if err := json.Unmarshal(out, &x); err != nil || code != exitOK {
			t.Fatalf("%d, %v, %s", code, err, errs)
		}
		if x.Answer != audited.Answer || x.Tokens != audited.Tokens || x.ModelID != audited.ModelID || x.Grade != gradeSound {
			t.Errorf("%+v; the provider said %+v", x, audited)
		}
		if len(x.Rows.Servers) != 1 || x.Rows.Servers[0].URL != status.Provide || x.Rows.Rows < 100 || !strings.HasSuffix(x.Verdict, "rows from 1 server, each under the model's roots") {
			t.Errorf("%+v, %s", x.Rows, x.Verdict)
		}
		sounds = append(sounds, x.Answer)
	}
	out, code, errs = chat("--sound")
	if code != exitOK || !strings.Contains(string(out), sounds[0]) || !strings.Contains(string(out), "ghost-sound: the trunk was computed here, ") {
		t.Errorf("%d, %s: %s", code, errs, out)
	}
	for _, args := range [][]string{{"--trunk", "x"}, {"--sound", "--model", "nobody's"}, {"--sound", "--trunk", filepath.Join(away, "none.gguf")}, {"--sound", "--trunk", memoryGGUF(t)}} {
		if _, code, errs := chat(append(args, "--wait", "1ms")...); code == exitOK || errs == "" {
			t.Errorf("%v: %d, %s", args, code, errs)
		}
	}
	stop()
	if errs := <-done; errs != "" {
		t.Errorf("the provider: %s", errs)
	}
}

// TestUpSound: up shows both grades of one answer.
func TestUpSound(t *testing.T) {
	args := []string{"up", "--once", "--listen", "127.0.0.1:0", "--provide", "127.0.0.1:0", "--max-tokens", "40"}
	var out bytes.Buffer
	if code, errs := geistIn(t.Context(), &out, t.TempDir(), append(args, "--json")...); code != exitOK {
		t.Fatal(errs)
	}
	var x upped
	if err := json.Unmarshal(out.Bytes(), &x); err != nil {
		t.Fatal(err)
	}
	if s := x.Asked.Sound; s == nil || !s.Equal || s.Tokens < 1 || s.Rows.Rows < 50 || x.Asked.Verdict == nil || !x.Asked.Verdict.Accepted {
		t.Errorf("%+v", x.Asked)
	}
	out.Reset()
	if code, errs := geistIn(t.Context(), &out, t.TempDir(), args...); code != exitOK {
		t.Fatal(errs)
	}
	for _, want := range []string{"verdict   ghost-audited: ", "and       ghost-sound: the trunk was computed here, ", "the same first "} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("%s has no %q", out.String(), want)
		}
	}
}
