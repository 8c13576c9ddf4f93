package model

import (
	"fmt"
	"sync"
	"sync/atomic"

	"github.com/geistnet/geist/internal/kernel"
)

// PagePositions is the number of positions a page of the KV cache holds.
const PagePositions = kernel.PagePositions

// Cache holds the keys and values of one sequence, in pages that may be shared
// with other sequences as long as nobody writes to them. A page serves all
// layers and has PageBytes bytes.
type Cache struct{ Pages [][]byte }

// Want says for which inputs of a Segment logits are computed.
type Want int

// The choices.
const (
	None Want = iota
	Last
	All
)

// Segment is a run of consecutive tokens of one sequence. In a batch a segment
// may go on where one before it ends, in the same cache.
type Segment struct {
	Cache  *Cache
	Start  int // position of the first token; earlier ones are in the cache
	Tokens []int32
	// Before has the tokens before Start, or as many of the last of them as
	// Model.Lookback says. It may be nil where that is 0.
	Before []int32
	Logits Want
	// Hidden, if not nil, receives the last token's final state after the
	// output norm: Dim values.
	Hidden []float32
}

// State is the scratch memory of forward passes. It serves one pass at a time.
type State struct {
	m    *Model
	team *kernel.Team
	most int // tokens in a batch

	rows         []row // of the current batch
	segs         []Segment
	void         atomic.Bool
	lost         atomic.Pointer[error] // an embedding or a row that could not be read
	want         []int                 // rows that want logits
	pairs        []pair
	pairOf       []int // [row][choice] index in pairs, ascending experts
	logitsWanted bool

	x, norm, q, k, v, att, out, g, u, logits []float32
	routed                                   []float32           // router logits
	rot                                      [][]kernel.Rotation // [rope][row]
	qScale                                   []float32           // [row]
	shared                                   kernel.Input
	private                                  []kernel.Input // [member]
	expertIn                                 []kernel.Input // [expert]
	scratch                                  []kernel.Attention
	tmp                                      [][]float32 // [member]
	tiles                                    []tile
	experts                                  []expertBatch
	recall                                   recall

	trace  *Trace
	keepMu sync.Mutex // guards trace.kept
}

// row is one input of a batch.
type row struct {
	seg, pos int
	token    int32
}

// pair is one input routed to one expert.
type pair struct {
	row    int
	weight float32
}

// expertBatch is the inputs of one expert: pairs [begin, end).
type expertBatch struct{ expert, begin, end int }

// tile is a run of (token, head) queries of one segment and key head.
type tile struct {
	seg, kvHead, first, n int
	// across says that the tile has queries of one head, kvHead, of tokens from
	// first on, which are half of a trace's group.
	across bool
	group  int
}

// query gives token and head of query i, where heads query heads share a key head.
func (t *tile) query(i, heads int) (token, head int) {
	if t.across {
		return t.first + i, t.kvHead
	}
	return (t.first + i) / heads, t.kvHead*heads + (t.first+i)%heads
}

// NewState allocates for batches of up to most tokens.
func (m *Model) NewState(team *kernel.Team, most int) *State {
	s := &State{m: m, team: team, most: most}
	s.private = make([]kernel.Input, team.Size())
	s.scratch = make([]kernel.Attention, team.Size())
	s.tmp = make([][]float32, team.Size())
	s.newRecall()
	widest := max(m.Dim, m.Heads*m.KeyDim, m.FF, s.recall.strideQ)
	for i := range s.tmp {
		s.tmp[i] = make([]float32, kernel.Pad(widest))
	}
	s.rot = make([][]kernel.Rotation, len(m.ropes))
	for i := range s.rot {
		s.rot[i] = make([]kernel.Rotation, most)
	}
	s.qScale = make([]float32, most)
	s.x = make([]float32, most*m.strideX())
	s.out = make([]float32, most*m.strideX())
	s.q = make([]float32, most*m.strideQ())
	s.k = make([]float32, most*m.strideK())
	s.v = make([]float32, most*m.strideV())
	s.att = make([]float32, most*m.strideA())
	wide := most
	if m.Experts > 0 {
		wide = most * m.ExpertsUsed
		s.norm = make([]float32, most*m.strideX())
		s.expertIn = make([]kernel.Input, m.Experts)
		s.routed = make([]float32, most*kernel.Pad(m.Experts))
		s.out = make([]float32, wide*m.strideX())
	}
	s.g = make([]float32, wide*m.strideF())
	s.u = make([]float32, wide*m.strideF())
	return s
}

// StateBytes predicts the memory of NewState for batches of most tokens of
// which logits are wanted for outputs.
func (m *Model) StateBytes(most, outputs int) int64 {
	wide := 1
	if m.Experts > 0 {
		wide = m.ExpertsUsed
	}
	per := 4 * (m.strideX()*(2+wide) + m.strideQ() + m.strideK() + m.strideV() + m.strideA() + 2*wide*m.strideF())
	per += 2*(m.Dim+m.FF*wide) + m.recallBytes() // quantised inputs
	return int64(most)*int64(per) + int64(outputs)*int64(4*kernel.Pad(m.Vocab))
}

// strideX is the distance of rows of the residual stream: an odd number of lines
// of the cache, so that the rows that are hashed side by side do not meet in few
// of its sets.
func (m *Model) strideX() int { return kernel.Pad(m.Dim) | 16 }
func (m *Model) strideQ() int { return kernel.Pad(m.Heads * m.KeyDim) }
func (m *Model) strideK() int { return kernel.Pad(m.KVHeads * m.KeyDim) }
func (m *Model) strideV() int { return kernel.Pad(m.KVHeads * m.ValDim) }
func (m *Model) strideA() int { return kernel.Pad(m.Heads * m.ValDim) }
func (m *Model) strideF() int { return kernel.Pad(m.FF) }

func (m *Model) shape() kernel.KVShape {
	return kernel.KVShape{Format: m.KV, KeyDim: m.KeyDim, ValueDim: m.ValDim}
}

// PageBytes is the size of a page of the KV cache: PagePositions positions of
// all layers.
func (m *Model) PageBytes() int {
	return (m.shape().PageBytes()*m.KVHeads*m.Layers + 63) &^ 63
}

// ErrVoid is returned, wrapped, when a pass met a value that is not finite. No
// output of such a run is defined.
var ErrVoid = fmt.Errorf("the run met a value that is not finite, so it has no defined result")

// Forward runs a batch and returns the logits of the rows that want them, in
// order of segments and tokens, each Vocab values long; they are valid until
// the next call. Caches must have pages for all positions up to the last
// token, and those pages that receive new positions must not be shared.
func (s *State) Forward(segs []Segment) ([][]float32, error) {
	m := s.m
	s.rows, s.want, s.segs, s.logitsWanted = s.rows[:0], s.want[:0], segs, false
	for i, g := range segs {
		if end := g.Start + len(g.Tokens); len(g.Cache.Pages)*PagePositions < end {
			return nil, fmt.Errorf("segment %d ends at position %d beyond its %d pages", i, end, len(g.Cache.Pages))
		}
		if len(g.Before) < min(g.Start, m.lookback) {
			return nil, fmt.Errorf("segment %d begins at position %d and knows %d tokens before it; expected %d or more of them",
				i, g.Start, len(g.Before), min(g.Start, m.lookback))
		}
		s.logitsWanted = s.logitsWanted || g.Logits != None
		for t, id := range g.Tokens {
			if id < 0 || int(id) >= m.Vocab {
				return nil, fmt.Errorf("token id %d is not in the vocabulary of %d", id, m.Vocab)
			}
			last := t == len(g.Tokens)-1
			if g.Logits == All || last && (g.Logits == Last || g.Hidden != nil) {
				s.want = append(s.want, len(s.rows))
			}
			s.rows = append(s.rows, row{i, g.Start + t, id})
		}
	}
	if len(s.rows) == 0 {
		return nil, nil
	}
	if len(s.rows) > s.most {
		return nil, fmt.Errorf("a batch of %d tokens exceeds the state's %d", len(s.rows), s.most)
	}
	if n := len(s.want) * kernel.Pad(m.Vocab); cap(s.logits) < n {
		s.logits = make([]float32, n)
	}
	if s.trace != nil {
		s.trace.begin(s)
	}
	s.planAttention()
	if err := s.hashes(); err != nil {
		return nil, err
	}
	s.void.Store(false)
	s.lost.Store(nil)
	s.team.Run(s.run)
	if err := s.lost.Load(); err != nil {
		return nil, *err
	}
	if s.void.Load() {
		return nil, ErrVoid
	}
	var out [][]float32
	for i, r := range s.want {
		g := &segs[s.rows[r].seg]
		if g.Logits == None {
			continue
		}
		out = append(out, s.logits[i*kernel.Pad(m.Vocab):][:m.Vocab:m.Vocab])
	}
	return out, nil
}
