package market

import (
	"fmt"
	"math/bits"
	"strconv"
	"strings"
)

// A Price is millisatoshi per million tokens.
type Price int64

const (
	perMillion = 1_000_000
	maxPrice   = 1_000_000 * perMillion // a thousand satoshi per token
	maxMsat    = 2_100_000_000_000_000_000
)

// PerToken is a price of whole millisatoshi per token.
func PerToken(msat int64) Price { return Price(msat) * perMillion }

// ParsePrice reads millisatoshi per token, with at most six digits after the
// point.
func ParsePrice(s string) (Price, error) {
	whole, frac, point := strings.Cut(s, ".")
	if point && (frac == "" || len(frac) > 6 || !digits(frac)) {
		return 0, fmt.Errorf("price %.40q: after the point come 1 to 6 digits", s)
	}
	n, err := decimal(whole, maxPrice/perMillion)
	if err != nil {
		return 0, fmt.Errorf("price %.40q: %w", s, err)
	}
	p := Price(n) * perMillion
	if point {
		f, err := strconv.ParseInt(frac+"000000"[len(frac):], 10, 64)
		if err != nil {
			return 0, fmt.Errorf("price %.40q: %w", s, err)
		}
		p += Price(f)
	}
	if p > maxPrice {
		return 0, fmt.Errorf("price %.40q: %w", s, errRange)
	}
	return p, nil
}

// String is millisatoshi per token, as ParsePrice reads it.
func (p Price) String() string {
	s := strconv.FormatInt(int64(p/perMillion), 10)
	if f := int64(p % perMillion); f != 0 {
		s += "." + strings.TrimRight(fmt.Sprintf("%06d", f), "0")
	}
	return s
}

// cost is the charge in millisatoshi for so many tokens at two prices, the sum
// rounded up once. It saturates at the most that there can be.
func cost(in Price, input int, out Price, output int) int64 {
	part := func(p Price, n int) (hi, lo uint64) { return bits.Mul64(uint64(max(0, p)), uint64(max(0, n))) }
	ah, al := part(in, input)
	bh, bl := part(out, output)
	lo, carry := bits.Add64(al, bl, 0)
	hi, _ := bits.Add64(ah, bh, carry) // each below 2⁶²
	lo, carry = bits.Add64(lo, perMillion-1, 0)
	if hi += carry; hi >= perMillion {
		return maxMsat
	}
	q, _ := bits.Div64(hi, lo, perMillion)
	return int64(min(q, maxMsat))
}

// add is a+b of two amounts, saturating.
func add(a, b int64) int64 { return min(a, maxMsat-min(b, maxMsat)) + min(b, maxMsat) }
