package main

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// leaves are the commands that do something, by the words that call them.
func leaves(t *testing.T) map[string]*cobra.Command {
	t.Helper()
	e, _, _ := command(t)
	out := map[string]*cobra.Command{}
	var visit func(c *cobra.Command, path []string)
	visit = func(c *cobra.Command, path []string) {
		if len(path) > 0 && slices.Contains([]string{"completion", "help"}, path[0]) {
			return // cobra's own
		}
		for _, s := range c.Commands() {
			visit(s, append(slices.Clone(path), s.Name()))
		}
		if !c.HasSubCommands() {
			out[strings.Join(path, " ")] = c
		}
	}
	visit(newRoot(e), nil)
	if len(out) < 30 {
		t.Fatalf("only %d commands", len(out))
	}
	return out
}

// usage runs a command line and demands exit code 2, one line that ends with where
// help is, and nothing on standard output. Arguments named "missing" are files that
// are not there: what is wrong with the flags is said first.
func usage(t *testing.T, args ...string) {
	t.Helper()
	e, stdout, stderr := command(t)
	ctx, stop := context.WithTimeout(t.Context(), 10*time.Second)
	defer stop()
	code := e.run(ctx, args)
	if code != exitUsage || stdout.Len() > 0 || !strings.HasPrefix(stderr.String(), "geist: ") || !strings.HasSuffix(stderr.String(), " --help\n") {
		t.Errorf("geist %q: exit code %d, %.300q on standard error, %.100q on standard output", args, code, stderr, stdout)
	}
}

// TestUsageOfFlags gives each numeric flag of every verb what is no number, and, but
// for those where it means something, a negative one.
func TestUsageOfFlags(t *testing.T) {
	// What a verb needs before its flags are looked at.
	need := map[string][]string{
		"bench": {"tales"}, "chat": {"hello"}, "dispute": {"missing", "missing"}, "market asks": {"--relay", "ws://127.0.0.1:1"}, "market why": {"missing", "--relay", "ws://127.0.0.1:1"},
		"prove": {"missing"}, "rows check": {"missing", "--server", "http://127.0.0.1:1"}, "run": {"missing", "hello"}, "sat import": {"missing", "missing"}, "sat new": {"missing"},
		"sat update": {"missing"}, "serve": {"missing"}, "train check": {"missing", "--data", "missing"}, "train tales": {"--data", "missing", "--out", "missing"}, "verify": {"missing", "missing"},
	}
	// Below zero means none there, or the verb reports what is wrong as its result.
	free := []string{"run --logprobs", "run --presence-penalty", "run --frequency-penalty", "config show --spend", "config show --credit", "doctor --spend", "doctor --credit"}
	numbers := 0
	for path, c := range leaves(t) {
		c.Flags().VisitAll(func(f *pflag.Flag) {
			bad := "-1"
			switch f.Value.Type() {
			case "bool", "string", "stringArray", "stringSlice", "stringToString":
				return
			case "duration":
				bad = "-1s"
			}
			numbers++
			args := append(strings.Fields(path), need[path]...)
			usage(t, append(slices.Clone(args), "--"+f.Name+"=x")...)
			if !slices.Contains(free, path+" --"+f.Name) {
				usage(t, append(slices.Clone(args), "--"+f.Name+"="+bad)...)
			}
		})
	}
	if numbers < 50 {
		t.Errorf("saw %d numeric flags", numbers)
	}
}

// TestUsageOfArguments gives every verb too many arguments, those that need some
// none, and leaves out flags that are demanded.
func TestUsageOfArguments(t *testing.T) {
	endless := []string{"chat", "up", "run", "models verify", "models remove"}
	none := 0
	for path, c := range leaves(t) {
		words := strings.Fields(path)
		if !slices.Contains(endless, path) {
			usage(t, append(slices.Clone(words), slices.Repeat([]string{"missing"}, 9)...)...)
		}
		// A first argument in capitals or a flag without brackets is demanded.
		if rest := strings.Fields(c.Use)[1:]; len(rest) > 0 && !strings.HasPrefix(rest[0], "[") {
			none++
			usage(t, words...)
		}
	}
	if none < 15 {
		t.Errorf("saw %d verbs that need something", none)
	}
}

// TestUsageOfValues gives flags texts that cannot be what they want.
func TestUsageOfValues(t *testing.T) {
	file := filepath.Join(t.TempDir(), "m.gguf")
	if err := os.WriteFile(file, []byte("GGUF"), 0o600); err != nil {
		t.Fatal(err)
	}
	node := map[string][]string{
		"--listen": {"x", "0.0.0.0:0", "name.example:1"}, "--provide": {"x"}, "--endpoint": {"x", "ftp://x"}, "--key": {"short"}, "--origin": {"x", "https://x/y", ""}, "--alias": {"x", "x="},
		"--relay": {"x", "http://x", ""}, "--follow": {"x", "", "npub1x"}, "--verify": {"x", ""}, "--log-level": {"x", ""}, "--log-format": {"x"}, "--spend": {"-1"}, "--credit": {"-1"},
	}
	for _, verb := range [][]string{{"up", "--no-question"}, {"serve", "missing"}, {"chat", "hello"}} {
		for flag, values := range node {
			for _, v := range values {
				if verb[0] == "chat" && (flag == "--provide" || flag == "--key") {
					continue // chat does not use it
				}
				usage(t, append(slices.Clone(verb), flag+"="+v)...)
			}
		}
	}
	for _, line := range []string{
		"up --seed=x --no-question", "up --price=x", "up --price=1,x", "up --once --no-question",
		"chat --seed=-1 hello", "chat --trunk=x hello", "chat", "chat --json",
		"serve missing --upstream=x", "serve missing --price=-1", "serve missing --upstream-key-env=NONE --upstream=http://127.0.0.1:1",
		"run missing --seed=x hello", "run missing --ids=x", "run missing --kernel=x hello", "run missing --stop= hello", "run missing",
		"models add missing --name=../x", "models add missing --sha256=x", "models add -",
		"market asks", "market asks --relay=http://x", "market asks --relay=ws://127.0.0.1:1 --model=x", "market why x --relay=ws://127.0.0.1:1 --provider={",
		"rows check missing", "rows check missing --server=x", "rows serve missing --addr=x",
		"dispute check missing missing --id=x", "sat update missing", "sat new missing --rows=1 --dim=1 --type=x", "sat bench --rows=x",
		"bench", "bench missing --synthetic=tiny", "bench --synthetic=x", "bench --synthetic=tiny --type=x", "bench missing --type=q8_0",
		"lab attacks --only=x", "key new --words=13", "train tales", "train check missing", "frobnicate", "models frobnicate",
	} {
		usage(t, strings.Fields(line)...)
	}
}
