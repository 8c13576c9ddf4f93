package selftest

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"math"

	"github.com/geistnet/geist/arith"
	"github.com/geistnet/geist/internal/engine"
	"github.com/geistnet/geist/internal/kernel"
	"github.com/geistnet/geist/internal/model"
)

// digest is the SHA-256 of one position's logits, float32 in little-endian order.
type digest [sha256.Size]byte

// trace is what a run computed: of each stream the digests of all positions but
// the last, which is not fed, and the tokens it generated. Runs through the
// engine have no digests.
type trace struct {
	digests [][]digest
	tokens  [][]int32
}

// sum is one hash for all digests.
func (t *trace) sum() digest {
	h := sha256.New()
	for _, s := range t.digests {
		for _, d := range s {
			h.Write(d[:])
		}
	}
	return digest(h.Sum(nil))
}

// variant is a way to compute a workload.
type variant struct {
	group int // streams computed together; 0: all
	chunk int // most tokens of a prompt in one batch; 0: all
	// engine runs the workload through package engine with these options, and
	// repeat times, so that prefixes are found the second time.
	engine  bool
	options engine.Options
	repeat  int
}

func (v variant) String() string {
	if v.engine {
		return fmt.Sprintf("engine with %d sessions, batches of %d, reuse %v", v.options.Sessions, v.options.Batch, !v.options.NoReuse)
	}
	group, chunk := "all", "any length"
	if v.group > 0 {
		group = fmt.Sprint(v.group)
	}
	if v.chunk > 0 {
		chunk = fmt.Sprint("at most ", v.chunk)
	}
	return fmt.Sprintf("%s streams together, prompts in pieces of %s", group, chunk)
}

// hashLogits appends logits to buf[:0] as bytes and hashes them.
func hashLogits(buf []byte, logits []float32) ([]byte, digest) {
	buf = buf[:0]
	for _, l := range logits {
		buf = binary.LittleEndian.AppendUint32(buf, math.Float32bits(l))
	}
	return buf, sha256.Sum256(buf)
}

// direct computes a workload with model.State and hashes all logits.
func direct(m *model.Model, team *kernel.Team, w workload, v variant) (*trace, error) {
	t := &trace{make([][]digest, len(w)), make([][]int32, len(w))}
	group := v.group
	if group == 0 {
		group = len(w)
	}
	for first := 0; first < len(w); first += group {
		last := min(first+group, len(w))
		if err := t.together(m, team, w[first:last], first, v.chunk); err != nil {
			return nil, err
		}
	}
	return t, nil
}

// together computes some streams in common batches; the first of them is
// number first of the workload.
func (t *trace) together(m *model.Model, team *kernel.Team, w workload, first, chunk int) error {
	most := 0
	caches := make([]model.Cache, len(w))
	history := make([][]int32, len(w))
	done := make([]int, len(w))
	for i, s := range w {
		n := len(s.prompt)
		if chunk > 0 {
			n = min(n, chunk)
		}
		most += n
		end := len(s.prompt) + s.steps
		for p := 0; p < end; p += model.PagePositions {
			caches[i].Pages = append(caches[i].Pages, make([]byte, m.PageBytes()))
		}
		history[i] = append(make([]int32, 0, end), s.prompt...)
	}
	state := m.NewState(team, most)
	var sampler arith.Sampler
	var buf []byte
	var segs []model.Segment
	var who []int
	for {
		segs, who = segs[:0], who[:0]
		for i, s := range w {
			if len(history[i]) == len(s.prompt)+s.steps {
				continue
			}
			n := len(history[i]) - done[i]
			if chunk > 0 {
				n = min(n, chunk)
			}
			segs = append(segs, model.Segment{
				Cache: &caches[i], Start: done[i], Tokens: history[i][done[i] : done[i]+n], Before: history[i][:done[i]], Logits: model.All,
			})
			who = append(who, i)
		}
		if len(segs) == 0 {
			return nil
		}
		logits, err := state.Forward(segs)
		if err != nil {
			return err
		}
		for k, i := range who {
			n := len(segs[k].Tokens)
			done[i] += n
			var d digest
			for _, row := range logits[:n] {
				buf, d = hashLogits(buf, row)
				t.digests[first+i] = append(t.digests[first+i], d)
			}
			if done[i] == len(history[i]) {
				index := uint64(done[i] - len(w[i].prompt))
				id := sampler.Sample(logits[n-1], &w[i].sampling, history[i], index, nil)
				history[i] = append(history[i], id)
				t.tokens[first+i] = append(t.tokens[first+i], id)
			}
			logits = logits[n:]
		}
	}
}

// served computes a workload through the engine; the trace has tokens only.
func served(ctx context.Context, m *model.Model, team *kernel.Team, w workload, v variant) ([]*trace, error) {
	o := v.options
	for _, s := range w {
		o.Context = max(o.Context, len(s.prompt)+s.steps, 2)
	}
	e, err := engine.New(m, nil, team, o)
	if err != nil {
		return nil, err
	}
	defer e.Close()
	var all []*trace
	for range v.repeat {
		answers := make([]*engine.Answer, len(w))
		for i, s := range w {
			answers[i], err = e.Generate(ctx, engine.Request{Prompt: s.prompt, MaxTokens: s.steps, Sampling: s.sampling, IgnoreEnd: true, TopLogProbs: -1})
			if err != nil {
				return nil, err
			}
		}
		t := &trace{tokens: make([][]int32, len(w))}
		for i, a := range answers {
			for tok, ok := a.Next(); ok; tok, ok = a.Next() {
				t.tokens[i] = append(t.tokens[i], tok.ID)
			}
			if err := a.Result().Err; err != nil {
				return nil, err
			}
		}
		all = append(all, t)
	}
	if s := e.Stats(); !o.NoReuse && v.repeat > 1 && s.CachedTokens == 0 {
		for _, t := range w {
			if len(t.prompt) > model.PagePositions {
				return nil, fmt.Errorf("the engine found no prefix again, though prompts were given twice")
			}
		}
	}
	return all, nil
}

// differs finds the first position, by number in its stream, at which two
// traces differ. Where one of them has no digests, tokens are compared.
func (t *trace) differs(ref *trace, w workload) (stream, position int, yes bool) {
	note := func(s, p int) {
		if !yes || p < position {
			stream, position, yes = s, p, true
		}
	}
	for i := range w {
		if t.digests != nil && ref.digests != nil {
			a, b := t.digests[i], ref.digests[i]
			for p := range max(len(a), len(b)) {
				if p >= len(a) || p >= len(b) || a[p] != b[p] {
					note(i, p)
					break
				}
			}
		}
		a, b := t.tokens[i], ref.tokens[i]
		for p := range max(len(a), len(b)) {
			if p >= len(a) || p >= len(b) || a[p] != b[p] {
				note(i, len(w[i].prompt)+p)
				break
			}
		}
	}
	return stream, position, yes
}
