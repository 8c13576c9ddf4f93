package train

import (
	"fmt"
	"math/rand/v2"
)

// A packer fits texts into windows of equal length. A text of n ids takes n−1
// places: its last id is only an answer. What is left of a window counts for
// nothing.
type packer struct {
	texts [][]int32
	size  int // places of a window
	open  [][]int
	room  []int
	done  [][]int // indices of texts, for each window
}

// openWindows is how many windows wait for a text that fits.
const openWindows = 32

// put places text i into the oldest open window with room for it.
func (p *packer) put(i int) {
	need := len(p.texts[i]) - 1
	for w, room := range p.room {
		if room >= need {
			p.open[w] = append(p.open[w], i)
			p.room[w] -= need
			return
		}
	}
	if len(p.open) == openWindows {
		p.done = append(p.done, p.open[0])
		p.open, p.room = p.open[1:], p.room[1:]
	}
	p.open = append(p.open, []int{i})
	p.room = append(p.room, p.size-need)
}

// finish returns the windows in order of their closing.
func (p *packer) finish() [][]int { return append(p.done, p.open...) }

// A source is an endless row of windows: all texts in one random order after
// another, each order from the seed and its number alone.
type source struct {
	texts   [][]int32
	size    int
	seed    uint64
	shuffle bool

	epoch   int // number of the order that windows is of
	before  int // windows of the orders before it
	windows [][]int
}

// newSource checks texts: each has 2 to size+1 ids.
func newSource(texts [][]int32, size int, seed uint64, shuffle bool) (*source, error) {
	if len(texts) == 0 {
		return nil, fmt.Errorf("no texts to read")
	}
	for i, t := range texts {
		if len(t) < 2 || len(t) > size+1 {
			return nil, fmt.Errorf("text %d of %d has %d ids; it must have 2 to %d", i, len(texts), len(t), size+1)
		}
	}
	s := &source{texts: texts, size: size, seed: seed, shuffle: shuffle}
	s.pack()
	return s, nil
}

func (s *source) pack() {
	order := make([]int, len(s.texts))
	for i := range order {
		order[i] = i
	}
	if s.shuffle {
		r := rand.New(rand.NewPCG(s.seed, 1000+uint64(s.epoch)))
		r.Shuffle(len(order), func(i, j int) { order[i], order[j] = order[j], order[i] })
	}
	p := packer{texts: s.texts, size: s.size}
	for _, i := range order {
		p.put(i)
	}
	s.windows = p.finish()
}

// window returns the texts of window n, counted through all orders.
func (s *source) window(n int) []int {
	if n < s.before {
		s.epoch, s.before = 0, 0
		s.pack()
	}
	for n >= s.before+len(s.windows) {
		s.before += len(s.windows)
		s.epoch++
		s.pack()
	}
	return s.windows[n-s.before]
}

// fill sets b to count windows from window first on.
func (s *source) fill(b *Batch, first, count int) {
	n := count * s.size
	b.In, b.Out, b.Start = grow(b.In, n), grow(b.Out, n), grow(b.Start, n)
	for w := range count {
		at := w * s.size
		for _, i := range s.window(first + w) {
			text, start := s.texts[i], at
			for j := range len(text) - 1 {
				b.In[at], b.Out[at], b.Start[at] = text[j], text[j+1], int32(start)
				at++
			}
		}
		for ; at < (w+1)*s.size; at++ {
			b.In[at], b.Out[at], b.Start[at] = 0, None, int32(at)
		}
	}
}
