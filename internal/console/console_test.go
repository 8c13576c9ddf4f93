package console

import (
	"errors"
	"os"
	"strings"
	"testing"
	"time"
)

func TestSize(t *testing.T) {
	for n, want := range map[int64]string{
		0: "0 B", 999: "999 B", 1000: "1.0 kB", 999_949: "999.9 kB", 999_950: "1.0 MB",
		4_100_000_000: "4.1 GB", 1 << 62: "4.6 EB", 1<<63 - 1: "9.2 EB",
	} {
		if got := Size(n); got != want {
			t.Errorf("Size(%d) = %q, want %q", n, got, want)
		}
	}
}

func TestPlain(t *testing.T) {
	var b strings.Builder
	p := NewProgress(Out{W: &b}, time.Now)
	for i := range int64(101) {
		p.Update("copy", i*10, 1000)
	}
	p.Update("verify", 7, -1)
	p.Update("verify", 8, -1)
	p.End()
	lines := strings.Split(strings.TrimSuffix(b.String(), "\n"), "\n")
	if len(lines) != 12 || lines[0] != "copy 0% (0 B of 1.0 kB)" || lines[10] != "copy 100% (1.0 kB of 1.0 kB)" || lines[11] != "verify ..." {
		t.Errorf("got %q", lines)
	}
	if strings.ContainsAny(b.String(), "\r\x1b") {
		t.Errorf("control characters outside of a terminal: %q", b.String())
	}
}

func TestPlainSmallTotals(t *testing.T) {
	for total := range int64(25) {
		var b strings.Builder
		p := NewProgress(Out{W: &b}, time.Now)
		for done := range total + 1 {
			p.Update("copy", done, total)
		}
		if n := strings.Count(b.String(), "\n"); n < 1 || n > 11 {
			t.Errorf("total %d: %d lines", total, n)
		}
	}
}

func TestBar(t *testing.T) {
	var b strings.Builder
	clock := time.Unix(0, 0)
	p := NewProgress(Out{W: &b, Terminal: true}, func() time.Time { return clock })
	p.Update("copy", 1_000_000, 5_000_000) // resumed: the first megabyte is no part of the rate
	clock = clock.Add(time.Second)
	p.Update("copy", 3_000_000, 5_000_000)
	p.Update("copy", 3_000_001, 5_000_000) // too soon
	clock = clock.Add(time.Second)
	p.Update("copy", 5_000_000, 5_000_000)
	p.End()
	p.End()
	drawn := strings.Split(b.String(), "\r")
	if len(drawn) != 4 {
		t.Fatalf("%d drawings: %q", len(drawn)-1, drawn)
	}
	if want := "copy   [=========       ]  60%  3.0 MB of 5.0 MB  2.0 MB/s  1s left"; drawn[2] != want {
		t.Errorf("got  %q\nwant %q", drawn[2], want)
	}
	if !strings.HasSuffix(drawn[3], "\n") || strings.Count(b.String(), "\n") != 1 {
		t.Errorf("the end is %q", drawn[3])
	}
	if len(strings.TrimSuffix(drawn[3], "\n")) < len(drawn[2]) {
		t.Errorf("%q does not wipe %q", drawn[3], drawn[2])
	}
}

func TestError(t *testing.T) {
	for _, color := range []bool{false, true} {
		var b strings.Builder
		Out{W: &b, Color: color}.Error(errors.New("no model \x1b[2J\r\"x\"\nlist them"))
		got := strings.NewReplacer("\x1b[1;31m", "", "\x1b[0m", "").Replace(b.String())
		if want := "geist: no model \ufffd[2J\ufffd\"x\"\nlist them\n"; got != want {
			t.Errorf("got %q, want %q", got, want)
		}
		if color != strings.Contains(b.String(), "\x1b[1;31m") {
			t.Errorf("color %v gave %q", color, b.String())
		}
	}
}

func TestTable(t *testing.T) {
	var b strings.Builder
	if err := (Out{W: &b}).Table([]string{"NAME", "SIZE"}, [][]string{{"a\nb\tc", "1 B"}, {"long name here", "22 B"}}); err != nil {
		t.Fatal(err)
	}
	if want := "NAME            SIZE\na b\ufffdc           1 B\nlong name here  22 B\n"; b.String() != want {
		t.Errorf("got %q", b.String())
	}
}

func TestNew(t *testing.T) {
	f, err := os.Open(os.DevNull) // a character device
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for _, c := range []struct {
		term, noColor   string
		terminal, color bool
	}{{"xterm", "", true, true}, {"xterm", "1", true, false}, {"dumb", "", false, false}, {"", "", false, false}} {
		o := New(f, func(k string) string { return map[string]string{"TERM": c.term, "NO_COLOR": c.noColor}[k] })
		if o.Terminal != c.terminal || o.Color != c.color {
			t.Errorf("%+v: got %v, %v", c, o.Terminal, o.Color)
		}
	}
	if o := New(&strings.Builder{}, func(string) string { return "xterm" }); o.Terminal || o.Color {
		t.Error("a buffer is taken for a terminal")
	}
}

// TestWidth: a line that wraps could not be drawn again.
func TestWidth(t *testing.T) {
	begin := time.Unix(0, 0)
	for _, total := range []int64{999_900_000_000, 5_000_000, -1} {
		p := Progress{stage: "compare", begin: begin}
		for _, after := range []time.Duration{time.Second, time.Hour, 20 * time.Hour} {
			if l := p.line(899_900_000_000, total, begin.Add(after)); len(l) > 79 {
				t.Errorf("%d columns: %s", len(l), l)
			}
		}
	}
}
