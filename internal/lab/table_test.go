package lab

import (
	"flag"
	"fmt"
	"os"
	"strings"
	"testing"
)

//go:generate go test -run TestTable -timeout 1h -update

var update = flag.Bool("update", false, "write the table of docs/security.md anew")

const (
	tableBegin  = "<!-- attacks: begin -->\n"
	tableEnd    = "\n<!-- attacks: end -->"
	tableTrials = 200
)

// TestTable demands that the table of docs/security.md has a row for every attack
// and size, in their order. With -update it performs all attacks and writes the
// table.
func TestTable(t *testing.T) {
	const path = "../../docs/security.md"
	page, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	before, rest, ok := strings.Cut(string(page), tableBegin)
	table, after, ok2 := strings.Cut(rest, tableEnd)
	if !ok || !ok2 {
		t.Fatalf("%s has no place for the table", path)
	}
	if *update {
		rep, err := Attacks(t.Context(), Options{Trials: tableTrials, Seed: 1})
		if err != nil {
			t.Fatal(err)
		}
		if !rep.AllAsPredicted {
			t.Error("not all attacks are caught as predicted")
		}
		table = tableOf(rep)
		if err := os.WriteFile(path, []byte(before+tableBegin+table+tableEnd+after), 0o666); err != nil {
			t.Fatal(err)
		}
	}
	want := 0
	for _, a := range all() {
		sizes := a.sizes
		switch {
		case a.claim != nil:
			sizes = []int{0}
		case sizes == nil:
			sizes = []int{8, 32}
		}
		for _, c := range sizes {
			want++
			if row := fmt.Sprintf("\n| %s | %d | ", a.name, c); strings.Count(table, row) != 1 {
				t.Errorf("the table has %d rows of %s, c = %d", strings.Count(table, row), a.name, c)
			}
		}
	}
	if n := strings.Count(table, "\n| ") - 1; n != want {
		t.Errorf("the table has %d rows, want %d", n, want)
	}
}

func tableOf(rep *Report) string {
	var b strings.Builder
	fmt.Fprintf(&b, "\nOn small synthetic models of 3 to 4 layers, %d tokens, %d trials; attacks in which nothing is drawn (c = 0), %d.\n\n", promptLen+answerLen, tableTrials, tableTrials/10)
	b.WriteString("| attack | c | caught | 95 % | predicted | always caught by |\n|---|---|---|---|---|---|\n")
	for _, r := range rep.Attacks {
		fmt.Fprintf(&b, "| %s | %d | %.3g %% | %.3g–%.3g %% | %.3g %% | %s |\n", r.Name, r.Cells, 100*r.Rate, 100*r.Low, 100*r.High, 100*r.Predicted, r.CaughtBy)
	}
	return b.String()
}
