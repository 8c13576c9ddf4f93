package engine

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"

	"github.com/geistnet/geist/internal/model"
	"github.com/geistnet/geist/merkle"
)

// prefix identifies a full page together with all that precede it: the hash of
// the previous page's prefix and this page's tokens.
type prefix [32]byte

func (p prefix) next(tokens []int32) prefix {
	h := sha256.New()
	h.Write(p[:])
	var b [4]byte
	for _, t := range tokens {
		binary.LittleEndian.PutUint32(b[:], uint32(t))
		h.Write(b[:])
	}
	return prefix(h.Sum(nil))
}

// page is a page of the KV cache. While users is zero and key is set, the page
// is kept for reuse and may be taken back at any time.
type page struct {
	mem        []byte
	users      int
	key        prefix
	kept       bool
	roots      []merkle.Hash // of its positions' traces, without logits
	prev, next *page         // in the list of kept pages without users, oldest first
}

// pool owns all pages. It belongs to the scheduler goroutine.
type pool struct {
	size  int
	limit int
	made  int
	free  []*page
	byKey map[prefix]*page
	idle  page // sentinel of the list of idle kept pages
	idles int  // length of that list
	alloc func(size int) ([]byte, error)
	reuse bool
}

func newPool(pageBytes, limit int, reuse bool, alloc func(int) ([]byte, error)) *pool {
	p := &pool{size: pageBytes, limit: limit, byKey: map[prefix]*page{}, alloc: alloc, reuse: reuse}
	p.idle.prev, p.idle.next = &p.idle, &p.idle
	return p
}

func (p *pool) unlink(g *page) {
	g.prev.next, g.next.prev = g.next, g.prev
	g.prev, g.next = nil, nil
	p.idles--
}

// take returns a page with one user, or nil if all pages are in use.
func (p *pool) take() (*page, error) {
	if n := len(p.free); n > 0 {
		g := p.free[n-1]
		p.free = p.free[:n-1]
		g.users = 1
		return g, nil
	}
	if p.made < p.limit {
		mem, err := p.alloc(p.size)
		if err != nil {
			return nil, fmt.Errorf("allocate a page of the KV cache: %w", err)
		}
		p.made++
		return &page{mem: mem, users: 1}, nil
	}
	if g := p.idle.next; g != &p.idle {
		p.unlink(g)
		delete(p.byKey, g.key)
		g.kept, g.users, g.roots = false, 1, nil
		return g, nil
	}
	return nil, nil
}

// find returns the kept page of a prefix with a user added, or nil.
func (p *pool) find(k prefix) *page {
	g := p.byKey[k]
	if g == nil {
		return nil
	}
	if g.users == 0 {
		p.unlink(g)
	}
	g.users++
	return g
}

// keep makes a full page available to other sessions. If another page already
// serves its prefix, that one stays.
func (p *pool) keep(g *page, k prefix) {
	if !p.reuse || g.kept || p.byKey[k] != nil {
		return
	}
	g.key, g.kept = k, true
	p.byKey[k] = g
}

// drop removes a user.
func (p *pool) drop(g *page) {
	if g.users--; g.users > 0 {
		return
	}
	if !g.kept {
		g.roots = nil
		p.free = append(p.free, g)
		return
	}
	g.prev, g.next = p.idle.prev, &p.idle
	g.prev.next, p.idle.prev = g, g
	p.idles++
}

// used is the number of pages that sessions hold.
func (p *pool) used() int { return p.made - len(p.free) - p.idles }

// available is the number of pages that take can give.
func (p *pool) available() int { return p.limit - p.used() }

// pagesFor is the number of pages that n positions need.
func pagesFor(n int) int { return (n + model.PagePositions - 1) / model.PagePositions }
