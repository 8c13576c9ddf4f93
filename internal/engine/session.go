package engine

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/geistnet/geist/arith"
	"github.com/geistnet/geist/internal/model"
	"github.com/geistnet/geist/internal/prompt"
	"github.com/geistnet/geist/internal/tokenizer"
	"github.com/geistnet/geist/merkle"
)

// session is one answer under way; the scheduler owns it.
type session struct {
	ctx    context.Context
	req    Request
	answer *Answer
	hidden []float32 // for an embedding

	stop    func() bool // ends the watch of ctx
	started bool
	history []int32 // prompt and answer so far
	done    int     // positions in the cache
	pages   []*page
	cache   model.Cache
	keys    []prefix      // of the full pages of history
	roots   []merkle.Hash // of the computed positions' traces
	plain   []merkle.Hash // the same without logits
	sampler arith.Sampler
	stream  *tokenizer.Stream
	allowed []uint64
	stops   prompt.Stopper
	out     int // answer tokens
	cached  int
	ended   bool
	wanted  bool // the trace needs the logits of resumed tokens

	confirmed int // resumed tokens that were drawn again
}

// key returns the prefix of page i, which must be full in history.
func (s *session) key(i int) prefix {
	for len(s.keys) <= i {
		n := len(s.keys)
		var prev prefix
		if n > 0 {
			prev = s.keys[n-1]
		}
		s.keys = append(s.keys, prev.next(s.history[n*model.PagePositions:(n+1)*model.PagePositions]))
	}
	return s.keys[i]
}

// attach takes pages of equal prefixes from the pool. At least the last token
// is left to compute.
func (s *session) attach(p *pool) {
	for p.reuse && (len(s.pages)+1)*model.PagePositions < s.shareable() {
		g := p.find(s.key(len(s.pages)))
		if g == nil {
			break
		}
		s.pages = append(s.pages, g)
		s.cache.Pages = append(s.cache.Pages, g.mem)
		// A session that was set aside may know some of the page's roots.
		if known := len(s.roots) - (len(s.pages)-1)*model.PagePositions; g.roots != nil && known >= 0 && known < len(g.roots) {
			s.roots = append(s.roots, g.roots[known:]...)
			s.plain = append(s.plain, g.roots[known:]...)
		}
	}
	s.done = len(s.pages) * model.PagePositions
}

// shareable bounds the positions that may come from the pool: pages end before
// it. Of resumed tokens the trace needs logits, which the pool does not have.
func (s *session) shareable() int {
	if s.wanted {
		return min(len(s.history), max(len(s.req.Prompt), len(s.roots)+1))
	}
	return len(s.history)
}

// logitsFrom is the first position whose logits the trace still needs though
// its token is known, and all after it.
func (s *session) logitsFrom() int { return max(len(s.req.Prompt)-1, len(s.roots)) }

// resume takes the tokens that were made elsewhere as if they had been chosen
// here.
func (s *session) resume(tok *tokenizer.Tokenizer) error {
	for _, id := range s.req.Resume {
		if !s.req.IgnoreEnd && tok != nil && tok.IsEOG(id) {
			return errors.New("the answer to go on with has ended")
		}
		s.history = append(s.history, id)
		s.out++
		if !s.wanted {
			if err := s.follow(id); err != nil {
				return err
			}
		}
		if _, stop := s.text(id, false); stop {
			return errors.New("the answer to go on with holds a stop text")
		}
	}
	return nil
}

// follow steps the grammar over a resumed token.
func (s *session) follow(id int32) error {
	c := s.req.Constraint
	if c == nil {
		return nil
	}
	if err := c.Accept(id); err != nil {
		return fmt.Errorf("the answer to go on with breaks its grammar: %w", err)
	}
	if c.Done() {
		return errors.New("the answer to go on with is complete")
	}
	return nil
}

// confirm draws the token after position pos from its logits and compares it with
// the resumed one that stands there. Each is looked at once.
func (s *session) confirm(pos int, logits []float32) error {
	at := pos + 1 - len(s.req.Prompt)
	if at != s.confirmed || at >= len(s.req.Resume) {
		return nil
	}
	t, err := s.draw(logits, pos+1, at)
	if err != nil {
		return err
	}
	if want := s.req.Resume[at]; t.ID != want {
		return fmt.Errorf("%w: token %d of the answer is %d, and %d came with the request", ErrResume, at, t.ID, want)
	}
	s.confirmed++
	return s.follow(t.ID)
}

// confirmAll is confirm for the positions from start on, but for the last of the
// history: what follows that is not known yet.
func (s *session) confirmAll(start int, rows [][]float32) error {
	for i, logits := range rows {
		if pos := start + i; pos+1 < len(s.history) {
			if err := s.confirm(pos, logits); err != nil {
				return err
			}
		}
	}
	return nil
}

// missing is the number of pages that s, which has none, takes from those
// available to hold its history.
func (s *session) missing(p *pool) int {
	n := pagesFor(len(s.history))
	for i := 0; p.reuse && (i+1)*model.PagePositions < s.shareable(); i++ {
		g := p.byKey[s.key(i)]
		if g == nil {
			break
		}
		if g.users > 0 {
			n--
		}
	}
	return n
}

// traced notes the roots of positions [start, start+n) after a pass in which
// they are the rows from row on. What is known already stays: a session that
// was set aside computes positions again, without their logits.
func (s *session) traced(t *model.Trace, start, n, row int) {
	for i := range n {
		if pos := start + i; pos == len(s.roots) {
			s.roots = append(s.roots, t.Root(row+i))
			s.plain = append(s.plain, t.PlainRoot(row+i))
		}
	}
}

// reserve makes sure that positions up to end have pages. It reports false if
// the pool is exhausted.
func (s *session) reserve(p *pool, end int) (bool, error) {
	for len(s.pages) < pagesFor(end) {
		g, err := p.take()
		if g == nil {
			return false, err
		}
		s.pages = append(s.pages, g)
		s.cache.Pages = append(s.cache.Pages, g.mem)
	}
	return true, nil
}

// advance notes that positions up to end are computed and offers full pages.
func (s *session) advance(p *pool, end int) {
	for i := s.done / model.PagePositions; (i+1)*model.PagePositions <= end && p.reuse; i++ {
		if at := i * model.PagePositions; len(s.plain) >= at+model.PagePositions && s.pages[i].roots == nil {
			s.pages[i].roots = append([]merkle.Hash(nil), s.plain[at:at+model.PagePositions]...)
		}
		p.keep(s.pages[i], s.key(i))
	}
	s.done = end
}

// release gives all pages back, the last one first: a page is of use only
// together with those before it, and the pool takes back first what it was
// given first.
func (s *session) release(p *pool) {
	for _, g := range slices.Backward(s.pages) {
		p.drop(g)
	}
	s.pages, s.cache.Pages, s.done = nil, nil, 0
}

// choose samples the next token from logits. It fails where a grammar allows no token at all.
func (s *session) choose(logits []float32) (Token, error) {
	return s.draw(logits, len(s.history), s.out)
}

// draw samples token out of the answer, which follows n tokens of the history.
func (s *session) draw(logits []float32, n, out int) (Token, error) {
	t := Token{}
	var top, sum float32
	probs := s.req.TopLogProbs >= 0
	if probs {
		top, sum = arith.LogSumExp(logits)
		t.Top = largest(logits, s.req.TopLogProbs, top, sum)
	}
	var allowed []uint64
	if s.req.Constraint != nil {
		n := (len(logits) + 63) / 64
		if len(s.allowed) < n {
			s.allowed = make([]uint64, n)
		}
		allowed = s.allowed
		s.req.Constraint.Allowed(allowed)
		if !slices.ContainsFunc(allowed, func(w uint64) bool { return w != 0 }) {
			return t, errors.New("the grammar allows no token of this vocabulary; the model's tokens cannot write such an answer")
		}
	}
	var raw []float32
	if probs {
		raw = append(raw, logits...) // Sample changes them
	}
	t.ID = s.sampler.Sample(logits, &s.req.Sampling, s.history[:n], uint64(out), allowed)
	if probs {
		t.LogProb = float64(raw[t.ID]-top) - arith.Log(float64(sum))
	}
	return t, nil
}

// largest returns the n most probable tokens, ties to the lower id.
func largest(logits []float32, n int, top, sum float32) []TokenLogProb {
	if n <= 0 {
		return nil
	}
	best := make([]TokenLogProb, 0, n+1)
	for i, l := range logits {
		if len(best) == n && float64(l) <= best[n-1].LogProb {
			continue
		}
		at := len(best)
		for at > 0 && float64(l) > best[at-1].LogProb {
			at--
		}
		best = append(best, TokenLogProb{})
		copy(best[at+1:], best[at:])
		best[at] = TokenLogProb{int32(i), float64(l)}
		best = best[:min(len(best), n)]
	}
	z := arith.Log(float64(sum))
	for i := range best {
		best[i].LogProb = best[i].LogProb - float64(top) - z
	}
	return best
}

// text adds what token id completes to the held text and returns what may be
// shown; stop is set when a stop string has appeared.
func (s *session) text(id int32, last bool) (show string, stop bool) {
	if s.stream == nil {
		return "", false
	}
	text := s.stream.Add(id)
	if last {
		text += s.stream.Flush()
	}
	return s.stops.Add(text, last)
}
