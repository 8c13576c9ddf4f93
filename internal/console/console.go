// Package console writes what a person at a terminal reads: progress, tables,
// sizes, and errors. On a pipe or in a file the same content appears as plain
// lines; no control sequence is written there, nor anywhere if NO_COLOR is set
// (no-color.org), except that progress on a terminal still redraws its line.
package console

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strings"
	"text/tabwriter"
	"unicode"
)

// An Out is one output stream and what it can show. The zero value of the flags is plain.
type Out struct {
	W        io.Writer
	Terminal bool // a line can be drawn again with a carriage return
	Color    bool // colour sequences are understood and wanted
}

// New looks at what w is. getenv is os.Getenv outside of tests. A character
// device counts as a terminal unless TERM is "dumb" or unset.
func New(w io.Writer, getenv func(string) string) Out {
	o := Out{W: w}
	f, ok := w.(*os.File)
	if !ok {
		return o
	}
	if fi, err := f.Stat(); err != nil || fi.Mode()&os.ModeCharDevice == 0 {
		return o
	}
	term := getenv("TERM")
	o.Terminal = term != "" && term != "dumb"
	o.Color = o.Terminal && getenv("NO_COLOR") == ""
	return o
}

// Error writes "geist: text." on a line of its own.
func (o Out) Error(err error) {
	text := Clean(err.Error())
	if o.Color {
		fmt.Fprintf(o.W, "\x1b[1;31mgeist:\x1b[0m %s\n", text)
		return
	}
	fmt.Fprintf(o.W, "geist: %s\n", text)
}

// Table writes rows under head in aligned columns, two spaces apart. Cells are
// cleaned, so a name from a stranger's file cannot move the cursor.
func (o Out) Table(head []string, rows [][]string) error {
	tw := tabwriter.NewWriter(o.W, 0, 0, 2, ' ', 0)
	for _, row := range append([][]string{head}, rows...) {
		clean := make([]string, len(row))
		for i, cell := range row {
			clean[i] = strings.ReplaceAll(Clean(cell), "\n", " ")
		}
		if _, err := fmt.Fprintln(tw, strings.Join(clean, "\t")); err != nil {
			return err
		}
	}
	return tw.Flush()
}

// JSON writes v indented by two spaces, with a newline at the end.
func (o Out) JSON(v any) error {
	e := json.NewEncoder(o.W)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	return e.Encode(v)
}

// Clean replaces every control character but newline by U+FFFD.
func Clean(s string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsControl(r) && r != '\n' {
			return unicode.ReplacementChar
		}
		return r
	}, s)
}

// Size writes a number of bytes as people do, with decimal units: "4.1 GB".
func Size(n int64) string {
	const units = "kMGTPE"
	if n < 1000 {
		return fmt.Sprintf("%d B", n)
	}
	v, u := float64(n)/1000, 0
	for v >= 999.95 && u < len(units)-1 {
		v /= 1000
		u++
	}
	return fmt.Sprintf("%.1f %cB", v, units[u])
}
