package console

import (
	"fmt"
	"io"
	"strings"
	"time"
)

const (
	redraw   = 100 * time.Millisecond // between two drawings of the bar
	barCells = 16                     // so that the longest line fits into 80 columns
)

// A Progress shows how far a transfer of bytes, or a count of other things, has
// come: a bar that redraws itself on a terminal, one line per stage and per
// tenth elsewhere. It is for one goroutine. Call End when the work is over, also
// after an error.
type Progress struct {
	Amount func(int64) string // writes an amount; nil: Size

	out   Out
	now   func() time.Time
	stage string

	begin     time.Time // of this stage
	first     int64     // bytes done when the stage began; these were not transferred now
	drawn     time.Time
	width     int // runes of the line on the terminal, to be wiped
	nextTenth int64
}

// NewProgress writes to out; now is time.Now outside of tests.
func NewProgress(out Out, now func() time.Time) *Progress {
	return &Progress{out: out, now: now}
}

// Update says that done of total bytes of a stage ("copy") are there. A total
// of -1 is unknown. A new stage name ends the stage before.
func (p *Progress) Update(stage string, done, total int64) {
	now := p.now()
	if stage != p.stage {
		p.End()
		p.stage, p.begin, p.first, p.drawn, p.nextTenth = stage, now, done, time.Time{}, 0
	}
	complete := done == total
	if !p.out.Terminal {
		p.plain(done, total)
		return
	}
	if now.Sub(p.drawn) < redraw && !complete {
		return
	}
	p.drawn = now
	p.draw(p.line(done, total, now))
}

// End leaves the last line standing and begins a new one.
func (p *Progress) End() {
	if p.width > 0 {
		fmt.Fprintln(p.out.W)
		p.width = 0
	}
	p.stage = ""
}

func (p *Progress) amount(n int64) string {
	if p.Amount != nil {
		return p.Amount(n)
	}
	return Size(n)
}

func (p *Progress) plain(done, total int64) {
	if total <= 0 {
		if p.nextTenth == 0 {
			p.nextTenth = 1
			fmt.Fprintf(p.out.W, "%s ...\n", p.stage)
		}
		return
	}
	tenth := min(10, done/max(1, total/10))
	if tenth < p.nextTenth && p.nextTenth > 0 {
		return
	}
	p.nextTenth = tenth + 1
	fmt.Fprintf(p.out.W, "%s %d%% (%s of %s)\n", p.stage, tenth*10, p.amount(done), p.amount(total))
}

// line is "copy   [=====>    ]  42%  1.7 of 4.1 GB  812.0 MB/s  3s left".
func (p *Progress) line(done, total int64, now time.Time) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%-7s", p.stage)
	rate := 0.0
	if s := now.Sub(p.begin).Seconds(); s > 0 {
		rate = float64(done-p.first) / s
	}
	if total > 0 {
		share := min(1, float64(done)/float64(total))
		full := int(share * barCells)
		bar := strings.Repeat("=", full) + strings.Repeat(" ", barCells-full)
		if p.out.Color {
			bar = "\x1b[36m" + bar + "\x1b[0m"
		}
		fmt.Fprintf(&b, "[%s] %3d%%  %s of %s", bar, int(share*100), p.amount(done), p.amount(total))
	} else {
		fmt.Fprintf(&b, "%s", p.amount(done))
	}
	if rate > 0 {
		fmt.Fprintf(&b, "  %s/s", p.amount(int64(rate)))
		if total > done {
			left := time.Duration(float64(total-done) / rate * float64(time.Second))
			fmt.Fprintf(&b, "  %s left", max(left.Round(time.Second), time.Second))
		}
	}
	return b.String()
}

func (p *Progress) draw(line string) {
	width := len(line) // ASCII; colour sequences only make the wiped part longer
	pad := max(0, p.width-width)
	io.WriteString(p.out.W, "\r"+line+strings.Repeat(" ", pad))
	p.width = width
}
