package model

import (
	"bytes"
	"errors"
	"fmt"
	"math"
	"reflect"
	"slices"
	"testing"

	"github.com/geistnet/geist/arith"
	"github.com/geistnet/geist/ghost"
	"github.com/geistnet/geist/internal/gguf"
	"github.com/geistnet/geist/internal/kernel"
	"github.com/geistnet/geist/internal/synth"
	"github.com/geistnet/geist/sat"
)

// memorySpec is a model of every kind of block. FF and sub-keys are no
// multiples of what a kernel computes at once.
func memorySpec(kind string) synth.Spec {
	return synth.Spec{
		Arch: "geist", Dim: 64, Layers: 5, Heads: 4, KVHeads: 2, FF: 288, Vocab: 307, Context: 256, Seed: 5, Type: kind, Tied: true,
		Memory: &synth.Memory{
			Rules: []string{"hash", "", "product"}, HashHeads: 2, HashRows: 29, ProductHeads: 2, Keys: 19, KeyDim: 32, TopK: 5,
		},
	}
}

func memoryFile(t testing.TB, kind string) *gguf.File {
	t.Helper()
	var b bytes.Buffer
	if err := synth.Write(&b, memorySpec(kind), nil); err != nil {
		t.Fatal(err)
	}
	f, err := gguf.Parse("memory-"+kind, b.Bytes())
	if err != nil {
		t.Fatal(err)
	}
	return f
}

var memoryTokens = []int32{5, 9, 9, 9, 120, 7, 5, 9, 301, 300, 17, 5, 9, 9, 44, 2, 2, 2, 90, 5}

// A plain is a pass written down from docs/spec/arithmetic.md and lookup.md
// for one token after the other, with package arith alone.
type plain struct {
	f            *gguf.File
	g            *ghost.Model
	keys, values [][][]float32 // [layer][position]
	tokens       []int32
}

func (p *plain) rows(tensor int) (*gguf.Tensor, int) {
	t := p.f.Tensor(p.g.Tensors[tensor].Name)
	return t, t.Format.RowBytes(t.Cols())
}

func (p *plain) mul(l *ghost.Linear, x []float32) []float32 {
	t, n := p.rows(l.Tensor)
	a, ok := arith.Quantize(x, t.Format.ActBlock())
	if !ok {
		panic("not finite")
	}
	y := make([]float32, l.Rows)
	for i := range y {
		y[i] = arith.Dot(t.Format, t.Data[(l.Row0+i)*n:][:n], a)
	}
	return y
}

func (p *plain) norm(x, w []float32) []float32 {
	y := make([]float32, len(x))
	arith.RMSNorm(y, x, w, p.g.Eps)
	return y
}

func (p *plain) row(tensor, i int) []float32 {
	t, n := p.rows(tensor)
	y := make([]float32, t.Cols())
	arith.Dequantize(y, t.Format, t.Data[i*n:][:n])
	return y
}

// memory is u of a memory block.
func (p *plain) memory(y *ghost.Layer, x []float32) []float32 {
	r := &p.g.Rules[y.Memory.Rule]
	var u []float32
	if h := r.Hash; h != nil {
		for _, id := range h.IDs(nil, p.tokens) {
			u = append(u, p.row(y.Memory.Table, id)...)
		}
		return u
	}
	q := r.Product
	raw := p.mul(&y.Memory.Query, x)
	u = make([]float32, p.g.FF)
	for h := range q.Heads {
		var scores [2][]float32
		for s := range scores {
			half := p.norm(raw[(2*h+s)*q.Dim:][:q.Dim], nil)
			keys := y.Memory.Keys
			keys.Row0, keys.Rows = keys.Row0+(2*h+s)*q.Keys, q.Keys
			scores[s] = p.mul(&keys, half)
		}
		// All pairs, sorted.
		var all []sat.Pick
		for i, a := range scores[0] {
			for j, b := range scores[1] {
				all = append(all, sat.Pick{Row: i*q.Keys + j, Sum: a + b})
			}
		}
		slices.SortStableFunc(all, func(a, b sat.Pick) int {
			switch {
			case a.Sum > b.Sum:
				return -1
			case a.Sum < b.Sum:
				return 1
			}
			return 0
		})
		all = all[:q.TopK]
		w := make([]float32, len(all))
		for i := range all {
			w[i] = arith.Exp(all[i].Sum - all[0].Sum)
		}
		total := arith.Sum(w)
		for i := range all {
			for j, v := range p.row(y.Memory.Table, all[i].Row) {
				u[j] += float32(float32(w[i]/total) * v)
			}
		}
	}
	return u
}

// next is the logits after one more token.
func (p *plain) next(token int32) []float32 {
	g := p.g
	pos := len(p.tokens)
	p.tokens = append(p.tokens, token)
	x := p.row(g.Embedding, int(token))
	half := len(g.Ropes[0].Turn)
	cos, sin := make([]float32, half), make([]float32, half)
	g.Ropes[0].CosSin(pos, cos, sin)
	round := func(v []float32) {
		for i := range v {
			v[i] = g.KV.Round(v[i])
		}
	}
	rotate := func(x []float32) {
		for i := 0; i < len(x); i += g.KeyDim {
			arith.RotatePairs(x[i:i+g.KeyDim], cos, sin, g.Neox)
		}
	}
	for l := range g.Layers {
		y := &g.Layers[l]
		in := p.norm(x, y.AttnNorm)
		q, k, v := p.mul(&y.Q, in), p.mul(&y.K, in), p.mul(&y.V, in)
		round(q)
		round(k)
		round(v)
		rotate(q)
		rotate(k)
		for i := range q {
			q[i] = float32(q[i] * g.AttnScale)
		}
		round(q)
		round(k)
		p.keys[l], p.values[l] = append(p.keys[l], k), append(p.values[l], v)
		att := make([]float32, g.Heads*g.ValDim)
		for h := range g.Heads {
			kv := h / (g.Heads / g.KVHeads)
			var keys, values [][]float32
			for i := range p.keys[l] {
				keys = append(keys, p.keys[l][i][kv*g.KeyDim:][:g.KeyDim])
				values = append(values, p.values[l][i][kv*g.ValDim:][:g.ValDim])
			}
			copy(att[h*g.ValDim:], arith.Attention(g.KV, q[h*g.KeyDim:][:g.KeyDim], keys, values, 0, 0))
		}
		for i, o := range p.mul(&y.O, att) {
			x[i] += o
		}
		in = p.norm(x, y.FFNNorm)
		gate := p.mul(&y.Gate, in)
		var u []float32
		if y.Memory != nil {
			u = p.memory(y, in)
		} else {
			u = p.mul(&y.Up, in)
		}
		for i := range gate {
			gate[i] = arith.SiLUMul(gate[i], u[i])
		}
		for i, o := range p.mul(&y.Down, gate) {
			x[i] += o
		}
	}
	return p.mul(&g.Output, p.norm(x, g.OutputNorm))
}

func describe(t *testing.T, f *gguf.File) *ghost.Model {
	t.Helper()
	g, err := Describe(f, Options{})
	if err != nil {
		t.Fatal(err)
	}
	return g
}

func plainLogits(t *testing.T, f *gguf.File, tokens []int32) [][]float32 {
	t.Helper()
	g := describe(t, f)
	p := &plain{f: f, g: g, keys: make([][][]float32, len(g.Layers)), values: make([][][]float32, len(g.Layers))}
	var out [][]float32
	for _, id := range tokens {
		out = append(out, p.next(id))
	}
	return out
}

// Every path, number of threads and way of cutting a sequence gives the bits of
// the pass that is written down above.
func TestMemoryAgainstPlain(t *testing.T) {
	for _, kind := range []string{"f32", "f16", "q8_0"} {
		f := memoryFile(t, kind)
		want := plainLogits(t, f, memoryTokens)
		for _, path := range kernel.Paths() {
			for _, threads := range []int{1, 3} {
				team := kernel.NewTeam(threads)
				m, err := Load(f, Options{Path: path, Team: team})
				if err != nil {
					t.Fatal(err)
				}
				for _, chunk := range []int{1, 2, 7, len(memoryTokens)} {
					got := forwardIn(t, m, team, memoryTokens, chunk)
					if at := firstDifference(got, want); at >= 0 {
						t.Errorf("%s, %v, %d threads, chunks of %d: other logits from position %d on", kind, path, threads, chunk, at)
					}
				}
				team.Close()
				m.Close()
			}
		}
	}
}

// forwardIn runs tokens in pieces, and beside them another sequence.
func forwardIn(t *testing.T, m *Model, team *kernel.Team, tokens []int32, chunk int) [][]float32 {
	t.Helper()
	s := m.NewState(team, 2*chunk+1)
	c, other := newCache(m, len(tokens)), newCache(m, 300)
	var out [][]float32
	beside := []int32{1}
	for at := 0; at < len(tokens); at += chunk {
		end := min(at+chunk, len(tokens))
		n := len(beside) - 1
		mid := at + (end-at)/2
		segs := []Segment{
			{Cache: other, Start: n, Tokens: beside[n:], Before: beside[:n]},
			{Cache: c, Start: at, Tokens: tokens[at:mid], Before: tokens[:at], Logits: All},
			{Cache: c, Start: mid, Tokens: tokens[mid:end], Before: tokens[max(0, mid-m.Lookback()):mid], Logits: All},
		}
		if mid == at {
			segs = append(segs[:1], segs[2])
		}
		logits, err := s.Forward(segs)
		if err != nil {
			t.Fatal(err)
		}
		for _, l := range logits {
			out = append(out, slices.Clone(l))
		}
		beside = append(beside, tokens[at])
	}
	return out
}

func firstDifference(a, b [][]float32) int {
	for i := range max(len(a), len(b)) {
		if i >= len(a) || i >= len(b) || !slices.EqualFunc(a[i], b[i], func(x, y float32) bool { return math.Float32bits(x) == math.Float32bits(y) }) {
			return i
		}
	}
	return -1
}

// distant is a Memory of another file.
type distant struct {
	f     *gguf.File
	calls chan string
	fail  string
}

func (d *distant) Table(name string) (arith.Format, int, int, bool) {
	t := d.f.Tensor(name)
	if t == nil {
		return 0, 0, 0, false
	}
	return t.Format, t.Rows(), t.Cols(), true
}

var errAway = errors.New("nobody answers")

func (d *distant) Rows(name string, ids []int, dst []byte) error {
	d.calls <- fmt.Sprintf("%s %d", name, len(ids))
	if name == d.fail {
		return errAway
	}
	t := d.f.Tensor(name)
	n := t.Format.RowBytes(t.Cols())
	if len(dst) != len(ids)*n {
		return fmt.Errorf("%d bytes for %d rows of %d", len(dst), len(ids), n)
	}
	for i, id := range ids {
		copy(dst[i*n:], t.Data[id*n:][:n])
	}
	return nil
}

// Rows that come from elsewhere give the same, and the file needs no tables.
func TestMemoryElsewhere(t *testing.T) {
	f := memoryFile(t, "f16")
	want := plainLogits(t, f, memoryTokens)
	without := withoutTables(t, f)
	if _, err := Plan(without, Options{}); err == nil {
		t.Error("a file without tables is a whole model")
	}
	d := &distant{f: f, calls: make(chan string, 1000)}
	team := kernel.NewTeam(2)
	defer team.Close()
	m, err := Load(without, Options{Path: kernel.Best(), Team: team, Memory: d})
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	if at := firstDifference(forwardIn(t, m, team, memoryTokens, 7), want); at >= 0 {
		t.Errorf("other logits from position %d on", at)
	}
	// Three passes over three blocks; n-grams have 4 rows a token, heads 10.
	if len(d.calls) != 9 {
		t.Errorf("%d calls", len(d.calls))
	}
	first := map[string]bool{<-d.calls: true, <-d.calls: true}
	if !first["blk.0.memory.weight 32"] || !first["blk.3.memory.weight 32"] {
		t.Errorf("first asked for are %v", first)
	}
	if got := <-d.calls; got != "blk.2.memory.weight 80" {
		t.Errorf("then %s", got)
	}
	g, err := Describe(without, Options{Memory: d})
	if err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(g, describe(t, f)) {
		t.Error("with rows elsewhere it is another model")
	}
	for _, name := range []string{"blk.2.memory.weight", "blk.3.memory.weight"} {
		d.fail = name
		s := m.NewState(team, 4)
		_, err := s.Forward([]Segment{{Cache: newCache(m, 4), Tokens: memoryTokens[:4], Logits: Last}})
		if !errors.Is(err, errAway) {
			t.Errorf("without rows of %s: error %v", name, err)
		}
	}
}

// withoutTables copies a model without its rows.
func withoutTables(t *testing.T, f *gguf.File) *gguf.File {
	t.Helper()
	var infos []gguf.TensorInfo
	var data [][]byte
	for _, x := range f.Tensors() {
		if !bytes.HasSuffix([]byte(x.Name), []byte(".memory.weight")) {
			infos, data = append(infos, x.Info()), append(data, x.Data)
		}
	}
	var b bytes.Buffer
	w, err := gguf.NewWriter(&b, f.Meta(), infos)
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range data {
		if err := w.WriteTensor(d); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	out, err := gguf.Parse("without", b.Bytes())
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func TestMemoryNeedsTokens(t *testing.T) {
	m, err := Load(memoryFile(t, "f16"), Options{Path: kernel.Generic})
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	if m.Lookback() != 2 {
		t.Fatalf("lookback is %d", m.Lookback())
	}
	s := m.NewState(kernel.NewTeam(1), 4)
	c := newCache(m, 8)
	if _, err := s.Forward([]Segment{{Cache: c, Tokens: memoryTokens[:4]}}); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Forward([]Segment{{Cache: c, Start: 4, Tokens: memoryTokens[4:6], Before: memoryTokens[3:4]}}); err == nil {
		t.Error("one token before position 4 is enough")
	}
}
