package rows

import (
	"maps"
	"slices"
	"sync"
	"time"
)

// patience is how long rows of one hashed table wait for those of the others. A
// pass asks for all of them at once, so nobody waits for long; the bound is for
// callers who want one table alone.
const patience = 2 * time.Millisecond

// gather joins what a pass asks of all tables of hashed n-grams into one request.
type gather struct {
	tables int // of hashed n-grams
	mu     sync.Mutex
	open   *batch // nil: nobody waits
}

// batch is what several callers want together.
type batch struct {
	names map[string]bool
	wants map[*wanted][]uint64
	uses  []use
	timer *time.Timer
	done  chan struct{} // closed when err is there
	err   error
}

// use is told a row that was fetched. Several tables may share a *wanted.
type use func(t *wanted, id uint64, row []byte)

// join adds rows of the table called name, perhaps none, to what waits, and
// returns when they were fetched.
func (c *Client) join(name string, p part, f use) error {
	g := &c.gather
	g.mu.Lock()
	b := g.open
	if b == nil {
		b = &batch{names: map[string]bool{}, wants: map[*wanted][]uint64{}, done: make(chan struct{})}
		b.timer = time.AfterFunc(patience, func() { c.send(b) })
		g.open = b
	}
	b.names[name] = true
	if len(p.ids) > 0 {
		b.wants[p.t] = append(b.wants[p.t], p.ids...)
		b.uses = append(b.uses, f)
	}
	whole := len(b.names) == g.tables
	g.mu.Unlock()
	if whole {
		c.send(b)
	}
	if len(p.ids) == 0 {
		return nil
	}
	<-b.done
	return b.err
}

// send fetches what a batch wants, unless that is being done.
func (c *Client) send(b *batch) {
	c.gather.mu.Lock()
	if c.gather.open != b {
		c.gather.mu.Unlock()
		return
	}
	c.gather.open = nil
	c.gather.mu.Unlock()
	b.timer.Stop()
	defer close(b.done)
	b.err = c.fetch(c.opt.Context, sorted(b.wants), func(t *wanted, id uint64, row []byte) {
		for _, f := range b.uses {
			f(t, id, row)
		}
	})
}

// sorted makes parts of rows that are named in any order and more than once.
func sorted(wants map[*wanted][]uint64) []part {
	var parts []part
	for t, ids := range maps.All(wants) {
		slices.Sort(ids)
		parts = append(parts, part{t, slices.Compact(ids)})
	}
	slices.SortFunc(parts, func(a, b part) int { return int(a.t.number) - int(b.t.number) })
	return parts
}
