package rows

import "sync"

// key is a row under the root of its table.
type key struct{ table, row uint32 }

// cache has rows that were checked. Rows are in one of two generations; one
// that is asked for moves to the young one. When the young one has half of the
// room, it becomes the old one, and what was old is forgotten.
type cache struct {
	mu         sync.Mutex
	young, old map[key][]byte
	bytes      int64 // of young
	most       int64 // of both
}

// overhead is what an entry takes besides its bytes, about.
const overhead = 64

func newCache(most int64) *cache { return &cache{young: map[key][]byte{}, most: most} }

// get returns a row, nil if it is not there. It is not to be changed.
func (c *cache) get(k key) []byte {
	c.mu.Lock()
	defer c.mu.Unlock()
	if b, ok := c.young[k]; ok {
		return b
	}
	b, ok := c.old[k]
	if ok {
		c.put(k, b)
	}
	return b
}

// add keeps a copy of a row.
func (c *cache) add(k key, b []byte) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if _, ok := c.young[k]; !ok {
		c.put(k, append([]byte(nil), b...))
	}
}

// put stores b. mu is held.
func (c *cache) put(k key, b []byte) {
	n := int64(len(b)) + overhead
	if c.bytes+n > c.most/2 {
		c.young, c.old, c.bytes = map[key][]byte{}, c.young, 0
	}
	if n <= c.most/2 {
		c.young[k] = b
		c.bytes += n
	}
}
