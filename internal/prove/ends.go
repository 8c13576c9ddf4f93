package prove

import (
	"slices"
	"strings"

	"github.com/geistnet/geist/ghost"
	"github.com/geistnet/geist/internal/tokenizer"
)

// Ends makes, of a tokenizer, what audit.Ending needs: whether an answer ends with
// an end token, or its text contains a stop text of the request. Being asked about
// ever longer beginnings of one answer costs no more than the last.
func Ends(tok *tokenizer.Tokenizer) func(*ghost.Request) func([]int32) bool {
	return func(q *ghost.Request) func([]int32) bool {
		longest := 0
		for _, x := range q.Stop {
			longest = max(longest, len(x))
		}
		var seen []int32
		var stream *tokenizer.Stream
		var text string // of seen, as much as a stop text could begin in
		return func(answer []int32) bool {
			n := len(answer)
			if n == 0 {
				return false
			}
			if tok.IsEOG(answer[n-1]) {
				return true
			}
			if stream == nil || len(seen) >= n || !slices.Equal(seen, answer[:len(seen)]) {
				seen, stream, text = nil, tok.NewStream(), ""
			}
			text = text[max(0, len(text)-longest):]
			for _, id := range answer[len(seen):] {
				text += stream.Add(id)
			}
			seen = append(seen, answer[len(seen):]...)
			return slices.ContainsFunc(q.Stop, func(x string) bool { return strings.Contains(text, x) })
		}
	}
}
