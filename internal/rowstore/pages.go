package rowstore

import (
	"fmt"
	"maps"
	"slices"

	"github.com/geistnet/geist/merkle"
)

type page = [pageBytes]byte

// pages are pages of a tree in memory, some of them changed, over others that
// read gets. It implements merkle.Nodes for one goroutine.
type pages struct {
	*layout
	read  func(numbers []int64, into []*page) error // numbers ascend strictly
	have  map[int64]*page
	dirty map[int64]bool
}

func newPages(l *layout, read func([]int64, []*page) error) *pages {
	return &pages{layout: l, read: read, have: map[int64]*page{}, dirty: map[int64]bool{}}
}

// fetch reads those of the pages that are not here.
func (p *pages) fetch(numbers []int64) error {
	var missing []int64
	for _, n := range numbers {
		if p.have[n] == nil {
			missing = append(missing, n)
		}
	}
	if len(missing) == 0 {
		return nil
	}
	memory := make([]page, len(missing))
	into := make([]*page, len(missing))
	for i := range into {
		into[i] = &memory[i]
	}
	if err := p.read(missing, into); err != nil {
		return err
	}
	for i, n := range missing {
		p.have[n] = into[i]
	}
	return nil
}

func (p *pages) get(number int64) (*page, error) {
	if pg := p.have[number]; pg != nil {
		return pg, nil
	}
	if err := p.fetch([]int64{number}); err != nil {
		return nil, err
	}
	return p.have[number], nil
}

// Load implements merkle.Nodes.
func (p *pages) Load(level int, first uint64, dst []merkle.Hash) error {
	if level > p.height || first+uint64(len(dst)) > p.width(level) {
		return fmt.Errorf("load %d nodes of level %d from %d on in a tree of %d leaves", len(dst), level, first, p.n)
	}
	for i := range dst {
		number, offset := p.place(level, first+uint64(i))
		pg, err := p.get(number)
		if err != nil {
			return err
		}
		dst[i] = p.in(pg, level, first+uint64(i), offset)
	}
	return nil
}

// in is the node at offset of a page.
func (l *layout) in(pg *page, level int, index uint64, offset int) merkle.Hash {
	h := merkle.Hash(pg[offset : offset+hashBytes])
	if h == (merkle.Hash{}) {
		return l.blank(level, index)
	}
	return h
}

// Store implements merkle.Nodes.
func (p *pages) Store(level int, first uint64, hashes []merkle.Hash) error {
	for i, h := range hashes {
		number, offset := p.place(level, first+uint64(i))
		pg, err := p.get(number)
		if err != nil {
			return err
		}
		if merkle.Hash(pg[offset:offset+hashBytes]) != h {
			copy(pg[offset:], h[:])
			p.dirty[number] = true
		}
	}
	return nil
}

// changed lists the pages that Store changed, ascending.
func (p *pages) changed() []int64 { return slices.Sorted(maps.Keys(p.dirty)) }

// collector takes the nodes of a tree as it is built and hands on each page when it
// is whole. It implements merkle.Nodes, without Load.
type collector struct {
	*layout
	open map[int64]*partial
	done func(number int64, pg *page) error
}

type partial struct {
	page
	missing int
}

func (c *collector) Load(level int, first uint64, _ []merkle.Hash) error {
	return fmt.Errorf("load node %d of level %d of a tree that is being built", first, level)
}

func (c *collector) Store(level int, first uint64, hashes []merkle.Hash) error {
	for i, h := range hashes {
		number, offset := c.place(level, first+uint64(i))
		p := c.open[number]
		if p == nil {
			p = &partial{}
			c.nodes(number, func(int, uint64, int) { p.missing++ })
			c.open[number] = p
		}
		copy(p.page[offset:], h[:])
		p.missing--
		if p.missing == 0 {
			delete(c.open, number)
			if err := c.done(number, &p.page); err != nil {
				return err
			}
		}
	}
	return nil
}
