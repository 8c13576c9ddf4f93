package rowstore

import (
	"math/bits"

	"github.com/geistnet/geist/merkle"
)

const (
	pageBytes  = 4096
	pageLevels = 6 // of a page
	hashBytes  = 32
)

// layout says where the nodes of a tree lie in pages (docs/spec/sat.md §4), and what
// those are that were never written.
type layout struct {
	n      uint64
	height int     // level of the root
	first  []int64 // number of the first page of each group; one more at the end: all pages
	zero   []merkle.Hash
	last   []merkle.Hash // of the last node of each level, which may have less below it
}

// newLayout is for n leaves, 1 to 2³², whose unwritten records hash to blank.
func newLayout(n uint64, blank merkle.Hash) *layout {
	l := &layout{n: n, height: bits.Len64(n - 1)}
	var pages int64
	for level := 0; level <= l.height; level += pageLevels {
		l.first = append(l.first, pages)
		pages += int64((l.width(level)-1)>>pageLevels) + 1
	}
	l.first = append(l.first, pages)
	zero, last := blank, blank
	for level := 0; ; level++ {
		l.zero, l.last = append(l.zero, zero), append(l.last, last)
		if level == l.height {
			return l
		}
		if l.width(level)%2 == 0 {
			last = merkle.HashNode(zero, last)
		}
		zero = merkle.HashNode(zero, zero)
	}
}

// width is the number of nodes of a level.
func (l *layout) width(level int) uint64 { return (l.n-1)>>level + 1 }

func (l *layout) pages() int64 { return l.first[len(l.first)-1] }

// place is the page of a node and the offset of its hash there.
func (l *layout) place(level int, index uint64) (page int64, offset int) {
	group, in := level/pageLevels, level%pageLevels
	shift := pageLevels - in
	slot := 128 - 128>>in + int(index&(1<<shift-1))
	return l.first[group] + int64(index>>shift), slot * hashBytes
}

// blank is the hash of a node under which all records are zero.
func (l *layout) blank(level int, index uint64) merkle.Hash {
	if index == l.width(level)-1 {
		return l.last[level]
	}
	return l.zero[level]
}

// group finds the group of a page, and its number there.
func (l *layout) group(page int64) (group int, number uint64) {
	for page >= l.first[group+1] {
		group++
	}
	return group, uint64(page - l.first[group])
}

// nodes calls visit for every node in a page, lowest level first.
func (l *layout) nodes(page int64, visit func(level int, index uint64, offset int)) {
	group, number := l.group(page)
	for in := range pageLevels {
		level := group*pageLevels + in
		if level > l.height {
			return
		}
		begin := number << (pageLevels - in)
		end := min((number+1)<<(pageLevels-in), l.width(level))
		for i := begin; i < end; i++ {
			_, offset := l.place(level, i)
			visit(level, i, offset)
		}
	}
}

// paths lists the pages on the ways from leaves up to the root, ascending. ids
// ascend strictly.
func (l *layout) paths(ids []uint64) []int64 {
	var pages []int64
	for group := range len(l.first) - 1 {
		begin := len(pages)
		for _, id := range ids {
			page := l.first[group] + int64(id>>((group+1)*pageLevels))
			if len(pages) == begin || pages[len(pages)-1] != page {
				pages = append(pages, page)
			}
		}
	}
	return pages
}
