package selftest

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/geistnet/geist/arith"
	"github.com/geistnet/geist/internal/kernel"
)

var update = flag.Bool("update", false, "write golden.txt anew, with the Generic path")

const goldenHead = `# Hashes of all logits of the self-test's models, first round, computed by the
# Generic path: go test ./internal/selftest -run TestGolden -update
# Name, SHA-256 of all positions' SHA-256, first byte of each position's.
`

func TestGolden(t *testing.T) {
	if *update {
		var b strings.Builder
		b.WriteString(goldenHead)
		for _, s := range subjects() {
			fmt.Fprintf(&b, "%s %s %s\n", s.name, strings.Repeat("0", 64), "00")
		}
		old := map[string]string{}
		report, err := Run(context.Background(), Options{Paths: []kernel.Path{kernel.Generic}, Threads: []int{1}, Quick: true, golden: b.String(),
			seen: func(model string, g golden) { old[model] = g.hash + " " + g.bytes }})
		if err != nil {
			t.Fatal(err)
		}
		b.Reset()
		b.WriteString(goldenHead)
		for _, m := range report.Models {
			fmt.Fprintf(&b, "%s %s\n", m.Name, old[m.Name])
		}
		if err := os.WriteFile("golden.txt", []byte(b.String()), 0o666); err != nil {
			t.Fatal(err)
		}
		return
	}
	o, models := Options{Quick: true}, len(subjects())
	if testing.Short() { // under an emulator
		quick := map[string]bool{}
		for _, s := range subjects() {
			if !s.slow() || s.spec.Type == "q4_k_m" {
				quick[s.name] = true
			}
		}
		o.Threads, o.only, models = []int{2}, func(name string) bool { return quick[name] }, len(quick)
	}
	report, err := Run(context.Background(), o)
	if err != nil {
		t.Fatal(err)
	}
	if !report.Equal || report.Mismatches != 0 || len(report.Models) != models || models < 10 || report.Positions == 0 {
		t.Errorf("%+v", report)
	}
	for _, m := range report.Models {
		if m.Golden != m.Hash || len(m.Hash) != 64 {
			t.Errorf("%+v", m)
		}
	}
	t.Logf("%d positions on %v", report.Positions, report.Paths)
}

// Every format of weights is in some model's file, and not only in its name.
func TestEveryFormat(t *testing.T) {
	seen := map[arith.Format]bool{}
	for _, s := range subjects() {
		b, err := s.file()
		if err != nil {
			t.Fatal(err)
		}
		f, err := parse(s, b)
		if err != nil {
			t.Fatal(err)
		}
		for _, x := range f.Tensors() {
			if !strings.Contains(x.Name, "norm") && !strings.Contains(x.Name, "gate_inp") {
				seen[x.Format] = true
			}
		}
	}
	for _, f := range arith.Formats() {
		if !seen[f] {
			t.Errorf("no model has weights in %v", f)
		}
	}
}

const small = "llama-q8_0"

func onlySmall(name string) bool { return name == small }

func TestFlippedGolden(t *testing.T) {
	gold, err := parseGolden(goldenText)
	if err != nil {
		t.Fatal(err)
	}
	hash := gold[small].hash
	last := map[byte]string{'0': "1"}[hash[63]]
	if last == "" {
		last = "0"
	}
	report, err := Run(context.Background(), Options{Quick: true, Threads: []int{1}, only: onlySmall, golden: strings.Replace(goldenText, hash, hash[:63]+last, 1)})
	if err != nil {
		t.Fatal(err)
	}
	if report.Equal || report.Mismatches != 1 || report.Details[0].Model != small || report.Details[0].Against != "golden" {
		t.Errorf("a flipped bit in a hash: %+v", report)
	}
}

// A bit flipped in one weight of one path is found and named.
func TestDamagedWeight(t *testing.T) {
	paths := kernel.Paths()
	bad := paths[len(paths)-1]
	report, err := Run(context.Background(), Options{Quick: true, Threads: []int{2, 1}, only: onlySmall, tamper: func(p kernel.Path, threads int, _ string, file []byte) {
		if p == bad && threads == 2 {
			file[len(file)-200] ^= 0x40
		}
	}})
	if err != nil {
		t.Fatal(err)
	}
	if report.Equal || report.Mismatches == 0 || len(report.Details) == 0 {
		t.Fatalf("nothing found: %+v", report)
	}
	for _, d := range report.Details {
		if d.Model != small || d.Position < 0 || d.Stream < 0 || len(paths) > 1 && (d.Path != bad.String() || d.Threads != 2) {
			t.Errorf("blames %+v", d)
		}
	}
	for _, x := range report.Runs {
		if len(paths) > 1 && (x.Mismatches > 0) != (x.Path == bad.String() && x.Threads == 2) {
			t.Errorf("%+v", x)
		}
	}
}

// Each way to compute a workload finds damage in what it is compared with.
func TestEveryVariantCompares(t *testing.T) {
	damaged := 0
	report, err := Run(context.Background(), Options{Threads: []int{1, 2}, Paths: []kernel.Path{kernel.Best()}, only: onlySmall, tamper: func(_ kernel.Path, threads int, _ string, file []byte) {
		if threads == 2 {
			for i := len(file) - 5000; i < len(file); i += 34 { // of the output matrix
				file[i] ^= 0x40
			}
			damaged++
		}
	}})
	if err != nil {
		t.Fatal(err)
	}
	seen := map[string]bool{}
	for _, d := range report.Details {
		seen[d.Variant] = true
	}
	if want := len(directly) + len(byEngine); kernel.Best() != kernel.Generic && len(seen) != want || len(seen) < 2 || damaged == 0 {
		t.Errorf("%d variants find damage: %v", len(seen), seen)
	}
}

func TestPositions(t *testing.T) {
	n, told := int64(10000), int64(0)
	if testing.Short() {
		n = 2000
	}
	report, err := Run(context.Background(), Options{Positions: n, Paths: []kernel.Path{kernel.Best()}, only: onlySmall, Progress: func(done, total int64) {
		if total < n || done < told || done > total {
			t.Errorf("progress %d of %d after %d", done, total, told)
		}
		told = done
	}})
	if err != nil {
		t.Fatal(err)
	}
	if !report.Equal || report.Positions < n || told != report.Positions {
		t.Errorf("%+v, told %d", report, told)
	}
}

func TestRefuses(t *testing.T) {
	if _, err := Run(context.Background(), Options{Paths: []kernel.Path{99}}); err == nil {
		t.Error("a path that does not exist is accepted")
	}
	if _, err := Run(context.Background(), Options{Threads: []int{0}}); err == nil {
		t.Error("a team of none is accepted")
	}
	if _, err := Run(context.Background(), Options{golden: "llama-q8_0 12 34"}); err == nil {
		t.Error("a short golden hash is accepted")
	}
	if _, err := Run(context.Background(), Options{golden: "# none"}); err == nil {
		t.Error("missing golden hashes are accepted")
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := Run(ctx, Options{}); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
}
