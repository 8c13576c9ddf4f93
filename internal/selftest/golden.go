package selftest

import (
	"bufio"
	_ "embed"
	"encoding/hex"
	"fmt"
	"strings"
)

// golden is one line of golden.txt: the hash of all logits of a model's round 0
// as the Generic path computes it, and the first byte of each position's
// digest, stream after stream, by which a difference is located.
type golden struct {
	hash  string
	bytes string
}

//go:embed golden.txt
var goldenText string

// parseGolden reads lines "NAME HASH BYTES" in hex; # begins a comment.
func parseGolden(text string) (map[string]golden, error) {
	all := map[string]golden{}
	for s := bufio.NewScanner(strings.NewReader(text)); s.Scan(); {
		line := s.Text()
		if line == "" || line[0] == '#' {
			continue
		}
		f := strings.Fields(line)
		if len(f) != 3 || len(f[1]) != 64 || all[f[0]].hash != "" {
			return nil, fmt.Errorf("golden hashes: the line %q is not NAME HASH BYTES, or names a model twice", line)
		}
		all[f[0]] = golden{f[1], f[2]}
	}
	return all, nil
}

// goldenOf is the line of a trace.
func goldenOf(t *trace) golden {
	sum := t.sum()
	var b []byte
	for _, s := range t.digests {
		for _, d := range s {
			b = append(b, d[0])
		}
	}
	return golden{hex.EncodeToString(sum[:]), hex.EncodeToString(b)}
}

// differs finds the first position at which a trace is not that of g. Where the
// bytes are equal and only the hash differs, it is -1.
func (g golden) differs(t *trace) (stream, position int, yes bool) {
	h := goldenOf(t)
	if h.hash == g.hash {
		return 0, 0, false
	}
	stream, position = -1, -1
	at := 0
	for i, s := range t.digests {
		for p := range s {
			if (at+2 > len(g.bytes) || g.bytes[at:at+2] != h.bytes[at:at+2]) && (position < 0 || p < position) {
				stream, position = i, p
			}
			at += 2
		}
	}
	return stream, position, true
}
