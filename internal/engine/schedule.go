package engine

import (
	"fmt"
	"slices"

	"github.com/geistnet/geist/ghost"
	"github.com/geistnet/geist/internal/model"
	"github.com/geistnet/geist/internal/prompt"
	"github.com/geistnet/geist/merkle"
)

// schedule is the engine's loop: admit, run one pass, hand out tokens.
func (e *Engine) schedule() {
	defer close(e.stopped)
	for {
		if !e.admit() {
			return
		}
		e.compose()
		if len(e.segs) == 0 {
			e.publish()
			e.rest()
			continue
		}
		logits, err := e.state.Forward(e.segs)
		if err != nil {
			// A value that was not finite voids the pass. Which session it came
			// from is found by running each alone.
			logits = e.isolate()
		} else if e.trace != nil {
			row := 0
			for i, s := range e.order {
				n := len(e.segs[i].Tokens)
				s.traced(e.trace, e.segs[i].Start, n, row)
				row += n
			}
		}
		e.deliver(logits)
	}
}

// admit takes new sessions in, waits while there is nothing to do, and removes
// cancelled ones. It reports false when the engine is closed.
func (e *Engine) admit() bool {
	e.mu.Lock()
	for len(e.arrived) == 0 && len(e.waiting) == 0 && len(e.running) == 0 && !e.closed {
		e.wake.Wait()
	}
	closed := e.closed
	e.waiting = append(e.waiting, e.arrived...)
	e.arrived = nil
	e.mu.Unlock()
	if closed {
		for _, s := range append(e.waiting, e.running...) {
			e.end(s, FinishError, ErrClosed)
		}
		e.sweep()
		e.publish()
		return false
	}
	for _, s := range append(append([]*session(nil), e.waiting...), e.running...) {
		if err := s.ctx.Err(); err != nil {
			e.end(s, FinishCancelled, err)
		}
	}
	e.sweep()
	for {
		s := e.first()
		if s == nil || !e.makeSeat(s) {
			break
		}
		e.waiting = slices.DeleteFunc(e.waiting, func(w *session) bool { return w == s })
		if e.start(s); !s.ended {
			e.running = append(e.running, s)
		}
	}
	e.publish()
	return true
}

// first is the waiting session to start next, or nil.
func (e *Engine) first() *session {
	for _, s := range e.waiting {
		if !s.paused() {
			return s
		}
	}
	return nil
}

// makeSeat reports whether s may start. A session whose reader is behind
// leaves its seat to s. One that was set aside for want of pages comes back
// when there are enough for all it has, or nobody else runs: else it would
// take pages only to be set aside again.
func (e *Engine) makeSeat(s *session) bool {
	if s.started {
		busy, pages := false, e.pool.available()
		for _, r := range e.running {
			if r.paused() {
				pages += len(r.pages)
			} else {
				busy = true
			}
		}
		if busy && s.missing(e.pool) > pages {
			return false
		}
	}
	if len(e.running) < e.opt.Sessions {
		return true
	}
	i := e.lastPaused(nil)
	if i >= 0 {
		e.setAside(i)
	}
	return i >= 0
}

// lastPaused is the index of the youngest running session other than s whose
// reader is behind, or -1.
func (e *Engine) lastPaused(s *session) int {
	for i, r := range slices.Backward(e.running) {
		if r != s && !r.ended && r.paused() {
			return i
		}
	}
	return -1
}

// setAside takes a running session's pages and lets it wait before all others.
func (e *Engine) setAside(i int) {
	s := e.running[i]
	s.release(e.pool)
	e.running = slices.Delete(e.running, i, i+1)
	e.waiting = slices.Insert(e.waiting, 0, s)
	e.mu.Lock()
	e.stats.Preempted++
	e.mu.Unlock()
}

// rest waits until something may have changed: a new session, a cancelled one,
// or a reader that caught up with a paused answer.
func (e *Engine) rest() {
	e.mu.Lock()
	for len(e.arrived) == 0 && !e.nudged && !e.closed {
		e.wake.Wait()
	}
	e.nudged = false
	e.mu.Unlock()
}

// nudge ends a rest.
func (e *Engine) nudge() {
	e.mu.Lock()
	e.nudged = true
	e.mu.Unlock()
	e.wake.Signal()
}

// paused reports that s may not run ahead of its reader any further.
func (s *session) paused() bool { return s.req.Ahead > 0 && s.answer.unread() >= s.req.Ahead }

// start prepares a session that has no pages: a new one, or one that had to
// give them up.
func (e *Engine) start(s *session) {
	if !s.started {
		s.started = true
		s.history = append([]int32(nil), s.req.Prompt...)
		if e.tok != nil {
			s.stream = e.tok.NewContinuation()
		}
		s.stops = prompt.Stopper{Texts: s.req.Stop}
		s.wanted = e.trace != nil && len(s.req.Resume) > 0
		if err := s.resume(e.tok); err != nil {
			e.end(s, FinishError, err)
			return
		}
	}
	s.attach(e.pool)
	if s.out == len(s.req.Resume) {
		s.cached = s.done
	}
}

// sweep forgets ended sessions.
func (e *Engine) sweep() {
	live := func(list []*session) []*session {
		kept := list[:0]
		for _, s := range list {
			if !s.ended {
				kept = append(kept, s)
			}
		}
		return kept
	}
	e.waiting, e.running = live(e.waiting), live(e.running)
}

// compose fills the next pass: one token of every session that is decoding,
// then prompts, oldest first, as far as the batch reaches.
func (e *Engine) compose() {
	e.segs, e.order = e.segs[:0], e.order[:0]
	room := e.opt.Batch
	spare := e.opt.Sessions - len(e.running) // rows of logits beside one for each session
	for _, decoding := range []bool{true, false} {
		for i := 0; i < len(e.running) && room > 0; i++ {
			s := e.running[i]
			left := len(s.history) - s.done
			if s.ended || (left == 1) != decoding || s.paused() {
				continue
			}
			n, want := min(left, room), model.None
			if s.wanted {
				if first := s.logitsFrom(); s.done < first {
					n = min(n, first-s.done)
				} else {
					n, want = min(n, 1+spare), model.All
				}
			}
			if !e.makeRoom(s, s.done+n) {
				i = -1 // sessions were set aside: look again from the start
				e.segs, e.order, room = e.segs[:0], e.order[:0], e.opt.Batch
				spare = e.opt.Sessions - len(e.running)
				if decoding {
					continue
				}
				e.compose()
				return
			}
			if s.ended {
				continue
			}
			if want == model.All {
				spare -= n - 1
			} else if n == left {
				want = model.Last
			}
			seg := model.Segment{Cache: &s.cache, Start: s.done, Tokens: s.history[s.done : s.done+n], Before: s.history[:s.done], Logits: want}
			if n == left && s.hidden != nil {
				seg.Logits, seg.Hidden = model.None, s.hidden
			}
			e.segs, e.order = append(e.segs, seg), append(e.order, s)
			room -= n
		}
	}
	e.sweep()
}

// makeRoom reserves pages for s. Where none are left it sets a session aside,
// one whose reader is behind or else the youngest, and reports false.
func (e *Engine) makeRoom(s *session, end int) bool {
	ok, err := s.reserve(e.pool, end)
	if err != nil {
		e.end(s, FinishError, err)
		return true
	}
	if ok {
		return true
	}
	i := e.lastPaused(s)
	if i < 0 {
		i = len(e.running) - 1
	}
	if e.running[i] == s && len(e.running) == 1 {
		// Options.fill saw to it that one full session fits.
		e.end(s, FinishError, fmt.Errorf("the KV cache of %d pages is exhausted", e.pool.limit))
		return true
	}
	e.setAside(i)
	return false
}

// isolate runs the segments of a void pass one by one and ends the sessions at
// fault. The others' logits are returned in order.
func (e *Engine) isolate() [][]float32 {
	var all [][]float32
	for i, s := range e.order {
		out, err := e.state.Forward(e.segs[i : i+1])
		if err != nil {
			e.end(s, FinishError, err)
		} else if e.trace != nil {
			s.traced(e.trace, e.segs[i].Start, len(e.segs[i].Tokens), 0)
		}
		for k := range logitRows(&e.segs[i]) {
			var copied []float32
			if k < len(out) {
				copied = append(copied, out[k]...)
			}
			all = append(all, copied)
		}
	}
	return all
}

// logitRows is how many rows of logits a segment gives.
func logitRows(seg *model.Segment) int {
	switch seg.Logits {
	case model.All:
		return len(seg.Tokens)
	case model.Last:
		return 1
	}
	return 0
}

// deliver hands each session of the pass its token.
func (e *Engine) deliver(logits [][]float32) {
	var prompt, answer, cached int64
	for i, s := range e.order {
		seg := &e.segs[i]
		var row []float32
		n := logitRows(seg)
		rows := logits[:n]
		if logits = logits[n:]; n > 0 {
			row = rows[n-1]
		}
		if s.ended {
			continue
		}
		if seg.Logits == model.All {
			if err := s.confirmAll(seg.Start, rows); err != nil {
				e.end(s, FinishError, err)
				continue
			}
		}
		if s.out == len(s.req.Resume) {
			prompt += int64(len(seg.Tokens))
		}
		s.advance(e.pool, seg.Start+len(seg.Tokens))
		switch {
		case seg.Hidden != nil:
			e.end(s, FinishStop, nil)
		case row != nil && s.done == len(s.history):
			if s.out == len(s.req.Resume) {
				cached += int64(s.cached)
			}
			answer++
			e.emit(s, row)
		}
	}
	e.sweep()
	e.mu.Lock()
	e.stats.PromptTokens += prompt
	e.stats.AnswerTokens += answer
	e.stats.CachedTokens += cached
	e.mu.Unlock()
	e.publish()
}

// emit chooses a session's next token and sends it, or ends the session.
func (e *Engine) emit(s *session, logits []float32) {
	t, err := s.choose(logits)
	if err != nil {
		e.end(s, FinishError, err)
		return
	}
	end := e.tok != nil && !s.req.IgnoreEnd && e.tok.IsEOG(t.ID)
	s.history = append(s.history, t.ID)
	s.out++
	if c := s.req.Constraint; c != nil && !end {
		if err := c.Accept(t.ID); err != nil {
			e.end(s, FinishError, fmt.Errorf("the grammar refuses token %d that it allowed: %w", t.ID, err))
			return
		}
		end = c.Done()
	}
	full := s.out >= s.req.MaxTokens || len(s.history) >= e.opt.Context
	stop := false
	if !(e.tok != nil && e.tok.IsEOG(t.ID)) || s.req.IgnoreEnd {
		t.Text, stop = s.text(t.ID, end || full)
	} else if s.stream != nil {
		t.Text, _ = s.stops.Add(s.stream.Flush(), true)
	}
	s.answer.put(t)
	switch {
	case end || stop:
		e.end(s, FinishStop, nil)
	case full:
		e.end(s, FinishLength, nil)
	}
}

// ending is an answer that has ended, of which publish tells its reader.
type ending struct {
	answer *Answer
	result Result
}

// end ends a session and gives its pages back. Its reader learns of it when the
// snapshot no longer counts the session.
func (e *Engine) end(s *session, f Finish, err error) {
	if s.ended {
		return
	}
	s.ended = true
	s.stop()
	r := Result{Finish: f, PromptTokens: len(s.req.Prompt), CachedTokens: s.cached, Tokens: s.out, Err: err}
	if e.trace != nil && s.out > 0 {
		r.Answer = append([]int32(nil), s.history[len(s.req.Prompt):]...)
		r.Trace, r.Outline = e.root(s)
	}
	s.release(e.pool)
	e.endings = append(e.endings, ending{s.answer, r})
}

// root is the trace root of an answer, and its outline. All positions but the
// last token's are computed, unless the session was waiting to compute them
// again.
func (e *Engine) root(s *session) (merkle.Hash, *ghost.Outline) {
	n := len(s.history) - 1
	if s.done < n || len(s.roots) < n {
		return merkle.Hash{}, nil
	}
	o := &ghost.Outline{Positions: append([]merkle.Hash(nil), s.roots[:n]...), Cache: e.trace.CacheRoot(e.team, &s.cache, n)}
	positions := e.trace.Fold(append([]merkle.Hash(nil), s.roots[:n]...))
	return ghost.TraceRoot(s.req.Prompt, s.history[len(s.req.Prompt):], positions, o.Cache), o
}

// publish updates the snapshot and then closes the answers that have ended.
func (e *Engine) publish() {
	used := e.pool.used()
	e.mu.Lock()
	e.stats.Running, e.stats.Waiting = len(e.running), len(e.waiting)+len(e.arrived)
	e.stats.PagesUsed, e.stats.PagesMost = used, e.pool.limit
	e.mu.Unlock()
	for i, x := range e.endings {
		x.answer.end(x.result)
		e.endings[i] = ending{}
	}
	e.endings = e.endings[:0]
}
