package constrain

import (
	"fmt"
	"strconv"
	"strings"
)

// Digits a generated number may have.
const (
	maxIntDigits  = 18
	maxFracDigits = 20
)

// decimal is sign · digits · 10^exp with digits free of leading and trailing
// zeros; zero has no digits, no sign and exponent 0.
type decimal struct {
	neg    bool
	digits string
	exp    int
}

// parseDecimal reads a JSON number exactly, without expanding its exponent.
func parseDecimal(text string) (decimal, error) {
	var d decimal
	s, expText, hasExp := strings.Cut(strings.ToLower(text), "e")
	if hasExp {
		e, err := strconv.Atoi(expText)
		if err != nil || e > 1e6 || e < -1e6 {
			return d, fmt.Errorf("number %.40q: exponent out of range", text)
		}
		d.exp = e
	}
	if strings.HasPrefix(s, "-") {
		d.neg, s = true, s[1:]
	}
	whole, frac, _ := strings.Cut(s, ".")
	d.exp -= len(frac)
	digits := strings.TrimLeft(whole+frac, "0")
	d.digits = strings.TrimRight(digits, "0")
	d.exp += len(digits) - len(d.digits)
	if d.digits == "" {
		return decimal{}, nil
	}
	return d, nil
}

func (d decimal) canon() string {
	sign := ""
	if d.neg {
		sign = "-"
	}
	return fmt.Sprintf("%s%se%d", sign, d.digits, d.exp)
}

func (d decimal) isInteger() bool { return d.exp >= 0 }

// split writes the magnitude as digits before and after the point, the first
// without leading zeros but "0" for zero, the second without trailing zeros.
func (d decimal) split() (whole, frac string, err error) {
	if len(d.digits) > 64 || d.exp > 64 || d.exp < -64 {
		return "", "", fmt.Errorf("bound has more than 64 digits")
	}
	switch point := len(d.digits) + d.exp; {
	case d.exp >= 0:
		whole = d.digits + strings.Repeat("0", d.exp)
	case point > 0:
		whole, frac = d.digits[:point], d.digits[point:]
	default:
		frac = strings.Repeat("0", -point) + d.digits
	}
	if whole == "" {
		whole = "0"
	}
	return whole, frac, nil
}

// limit is one end of a range of numbers.
type limit struct {
	neg         bool
	whole, frac string // as decimal.split gives them
	open        bool   // the end itself is not in the range
}

func newLimit(text string, open bool) (*limit, error) {
	d, err := parseDecimal(text)
	if err != nil {
		return nil, err
	}
	l := &limit{neg: d.neg, open: open}
	l.whole, l.frac, err = d.split()
	if err == nil && len(l.frac) > maxFracDigits {
		err = fmt.Errorf("bound has more than %d digits after the point", maxFracDigits)
	}
	return l, err
}

// compare orders two limits by their value.
func (l *limit) compare(m *limit) int {
	if l.neg != m.neg {
		if l.neg {
			return -1
		}
		return 1
	}
	c := len(l.whole) - len(m.whole)
	if c == 0 {
		c = strings.Compare(l.whole, m.whole)
	}
	if c == 0 {
		c = strings.Compare(l.frac, m.frac)
	}
	if l.neg {
		return -c
	}
	return c
}

// above returns the tighter of two lower ends, below that of two upper ends;
// nil is no end.
func above(l, m *limit) *limit { return tighter(l, m, 1) }
func below(l, m *limit) *limit { return tighter(l, m, -1) }

func tighter(l, m *limit, sign int) *limit {
	if l == nil || m == nil {
		if l == nil {
			return m
		}
		return l
	}
	c := l.compare(m) * sign
	if c > 0 || c == 0 && l.open {
		return l
	}
	return m
}

// numberRange adds to n, between from and to, the spelling of every number in
// the range: no exponent, no negative zero, no fraction if integer is set.
func (n *nfa) numberRange(from, to int32, lo, hi *limit, integer bool) {
	if hi == nil || !hi.neg {
		low := lo
		if lo == nil || lo.neg {
			low = &limit{whole: "0"}
		}
		n.magnitudes(from, to, low, hi, integer)
	}
	if lo == nil || lo.neg {
		low := hi
		if hi == nil || !hi.neg {
			low = &limit{whole: "0", open: true}
		}
		minus := n.state()
		n.edge(from, '-', '-', 0, minus)
		n.magnitudes(minus, to, low, lo, integer)
	}
}

// digitPos is a position inside a number: so many digits of the whole part
// are still to come, or so many of the fraction are written. tightLow and
// tightHigh say that the digits so far equal those of the end of the range.
type digitPos struct {
	frac                bool
	length, index       int
	tightLow, tightHigh bool
}

// magnitudes adds the spellings of lo ≤ x ≤ hi, signs ignored. For each number
// of digits it compares digit by digit; hi may be nil.
func (n *nfa) magnitudes(from, to int32, lo, hi *limit, integer bool) {
	seen := map[digitPos]int32{}
	var visit func(p digitPos) int32
	digits := func(s int32, p digitPos, lowText, highText string, first byte) {
		next := p
		next.index++
		for c := first; c <= '9'; c++ {
			l, h := byte('0'), byte('0') // beyond its digits an end continues with zeros
			if p.index < len(lowText) {
				l = lowText[p.index]
			}
			if p.index < len(highText) {
				h = highText[p.index]
			}
			if p.tightLow && c < l || p.tightHigh && c > h {
				continue
			}
			next.tightLow = p.tightLow && c == l
			next.tightHigh = p.tightHigh && c == h
			n.edge(s, c, c, 0, visit(next))
		}
	}
	visit = func(p digitPos) int32 {
		if s, ok := seen[p]; ok {
			return s
		}
		s := n.state()
		seen[p] = s
		high := limit{}
		if hi != nil {
			high = *hi
		}
		if !p.frac && p.index < p.length {
			first := byte('0')
			if p.index == 0 && p.length > 1 {
				first = '1'
			}
			digits(s, p, lo.whole, high.whole, first)
			return s
		}
		written := 0
		if p.frac {
			written = p.index
		}
		lowDone, highDone := written >= len(lo.frac), written >= len(high.frac)
		belowLow := p.tightLow && (!lowDone || lo.open)
		aboveHigh := p.tightHigh && highDone && high.open
		if !belowLow && !aboveHigh && (!p.frac || p.index > 0) {
			n.eps(s, to)
		}
		switch {
		case p.frac && p.index < maxFracDigits:
			digits(s, p, lo.frac, high.frac, '0')
		case !p.frac && !integer:
			n.edge(s, '.', '.', 0, visit(digitPos{frac: true, tightLow: p.tightLow, tightHigh: p.tightHigh}))
		}
		return s
	}
	longest := maxIntDigits
	if hi != nil {
		longest = min(longest, len(hi.whole))
	}
	for length := len(lo.whole); length <= longest; length++ {
		n.eps(from, visit(digitPos{
			length:    length,
			tightLow:  length == len(lo.whole),
			tightHigh: hi != nil && length == len(hi.whole),
		}))
	}
}

// anyNumber adds every JSON number within the digit limits.
func (n *nfa) anyNumber(from, to int32) {
	zero := &limit{whole: "0"}
	plain := n.state()
	n.magnitudes(from, plain, zero, nil, false)
	minus := n.state()
	n.edge(from, '-', '-', 0, minus)
	n.magnitudes(minus, plain, zero, nil, false)
	n.eps(plain, to)
	e, sign, d := n.state(), n.state(), n.state()
	n.edge(plain, 'e', 'e', 0, e)
	n.edge(plain, 'E', 'E', 0, e)
	n.edge(e, '+', '+', 0, sign)
	n.edge(e, '-', '-', 0, sign)
	n.edge(e, '0', '9', 0, d)
	n.edge(sign, '0', '9', 0, d)
	n.edge(d, '0', '9', 0, to)
	n.eps(d, to)
}
