package ghost

import (
	"fmt"
	"math"
	"unicode"
	"unicode/utf8"

	"github.com/geistnet/geist/arith"
)

// Bounds on what a Ghost file may claim. No product that is formed of these
// overflows 31 bits, except rows of stacked experts, which are never multiplied.
const (
	maxBytes    = 1 << 28 // of an encoding
	maxDim      = 1 << 20
	maxLayers   = 1 << 12
	maxHeads    = 1 << 12
	maxHeadDim  = 1 << 12
	maxExperts  = 1 << 12
	maxContext  = 1 << 30
	maxVocab    = 1 << 26
	maxRows     = math.MaxInt32
	maxCols     = maxHeads * maxHeadDim
	maxRopes    = 1 << 12
	maxNameText = 256 // bytes of a name
)

// fault is a reason that a model is refused, without the words around it.
func fault(format string, a ...any) error { return fmt.Errorf(format, a...) }

func in(what string, v, lo, hi int) error {
	if v < lo || v > hi {
		return fault("%s is %d; it must be between %d and %d", what, v, lo, hi)
	}
	return nil
}

func first(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

func text(what, s string, least int) error {
	if len(s) < least || len(s) > maxNameText || !utf8.ValidString(s) {
		return fault("%s %.40q is not UTF-8 of %d to %d bytes", what, s, least, maxNameText)
	}
	for _, r := range s {
		if unicode.IsControl(r) {
			return fault("%s %.40q has a control character", what, s)
		}
	}
	return nil
}

// between refuses NaN too.
func between(what string, v, lo, hi float64) error {
	if !(v >= lo && v <= hi) {
		return fault("%s is %g; it must be between %g and %g", what, v, lo, hi)
	}
	return nil
}

// optional is between for a value of which +0 means none.
func optional(what string, v, lo, hi float64) error {
	if math.Float64bits(v) == 0 {
		return nil
	}
	return between(what, v, lo, hi)
}

func values(what string, x []float32, n int) error {
	if len(x) != n {
		return fault("%s has %d values; expected %d", what, len(x), n)
	}
	for i, v := range x {
		if !arith.Finite(v) {
			return fault("value %d of %s is not finite", i, what)
		}
	}
	return nil
}

// Check reports in what m is no model that a Ghost file can hold, or nil.
func (m *Model) Check() error {
	if err := first(m.checkShape(), m.checkRopes(), m.checkRules(), m.checkTensors(), in("the number of layers", len(m.Layers), 1, maxLayers)); err != nil {
		return err
	}
	mixtures := false
	for i := range m.Layers {
		if err := m.checkLayer(&m.Layers[i]); err != nil {
			return fmt.Errorf("layer %d: %w", i, err)
		}
		mixtures = mixtures || m.Layers[i].Experts != nil
	}
	if !mixtures && (m.ExpertsUsed != 0 || m.ExpertNorm || m.ExpertScale != 1) {
		return fault("no layer is a mixture, but the routing of experts is not 0, false and 1")
	}
	if err := first(
		values("the output norm", m.OutputNorm, m.Dim),
		m.checkLinear("the output", &m.Output, m.Vocab, m.Dim),
		m.checkEmbedding(),
	); err != nil {
		return err
	}
	return m.checkOrder()
}

// checkShape looks at the fields of fixed size: what lengths depend on.
func (m *Model) checkShape() error {
	if m.Arithmetic != arith.Version {
		return fault("the arithmetic is version %d; known is %d", m.Arithmetic, arith.Version)
	}
	if err := first(
		text("the architecture", m.Arch, 1),
		text("the name", m.Name, 0),
		in("the width", m.Dim, 1, maxDim),
		in("the number of heads", m.Heads, 1, maxHeads),
		in("the number of key heads", m.KVHeads, 1, maxHeads),
		in("the width of a key", m.KeyDim, 1, maxHeadDim),
		in("the width of a value", m.ValDim, 1, maxHeadDim),
		in("the width of the feed-forward block", m.FF, 1, maxDim),
		in("the vocabulary", m.Vocab, 1, maxVocab),
		in("the context", m.Context, 1, maxContext),
		in("the cache's format", int(m.KV), 0, 1),
		in("the gate", int(m.Gate), 0, 1),
		in("the norm of queries and keys", int(m.Norm), 0, 2),
		in("the number of experts used", m.ExpertsUsed, 0, maxExperts),
		in("the floor of the temperature", m.TempFloor, 0, maxContext),
		between("epsilon", float64(m.Eps), math.SmallestNonzeroFloat32, 1),
		between("the scale of queries", float64(m.AttnScale), 1e-9, 1e9),
		optional("the growth of the temperature", m.TempScale, 1e-9, 100),
		optional("the cap of scores", float64(m.AttnCap), 1e-3, 1e6),
		optional("the cap of logits", float64(m.LogitCap), 1e-3, 1e6),
		between("the scale of embeddings", float64(m.EmbedScale), 1e-6, 1e6),
		between("the scale of experts", float64(m.ExpertScale), 1e-6, 1e6),
	); err != nil {
		return err
	}
	if m.Heads%m.KVHeads != 0 {
		return fault("%d heads do not share %d key heads evenly", m.Heads, m.KVHeads)
	}
	if (m.TempScale == 0) != (m.TempFloor == 0) {
		return fault("the temperature grows by %g from %d on: either both are 0 or none", m.TempScale, m.TempFloor)
	}
	return nil
}

func (m *Model) checkRopes() error {
	if err := in("the number of sets of rotation speeds", len(m.Ropes), 1, maxRopes); err != nil {
		return err
	}
	for i := range m.Ropes {
		if err := first(
			in("the number of rotated pairs", len(m.Ropes[i].Turn), 1, m.KeyDim/2),
			between("the magnitude of the rotation", float64(m.Ropes[i].Magnitude), 1e-9, 1e9),
		); err != nil {
			return fmt.Errorf("rotation speeds %d: %w", i, err)
		}
	}
	return nil
}

// checkRules looks at the rules alone, not at their order.
func (m *Model) checkRules() error {
	if len(m.Rules) > maxLayers {
		return in("the number of retrieval rules", len(m.Rules), 0, maxLayers)
	}
	known := make(map[string]int, len(m.Rules))
	for i := range m.Rules {
		r := &m.Rules[i]
		if err := r.Check(); err != nil {
			return fmt.Errorf("retrieval rule %d: %w", i, err)
		}
		if r.Hash == nil && r.Product == nil {
			return fault("retrieval rule %d: a memory block has hashed n-grams or product keys", i)
		}
		var c codec
		c.rule(r)
		if j, ok := known[string(c.b)]; ok {
			return fault("retrieval rules %d and %d are equal", j, i)
		}
		known[string(c.b)] = i
	}
	return nil
}

// checkTable wants the table's shape to fit the rule. Both are in range.
func (m *Model) checkTable(y *Memory) error {
	t, r := &m.Tensors[y.Table], &m.Rules[y.Rule]
	rows, count := 0, 1
	if r.Hash != nil {
		rows, count = r.Hash.TableRows(), r.Hash.Count()
	} else {
		rows = r.Product.TableRows()
	}
	if t.Rows != rows || t.Cols*count != m.FF {
		return fault("the table has %d rows of %d; expected %d, of which %d make %d values", t.Rows, t.Cols, rows, count, m.FF)
	}
	return nil
}

// checkKeys wants a matrix that is nothing but its rows.
func checkKeys(l *Linear) error {
	if l.Bias != nil || l.Scale != 1 {
		return fault("sub-keys have a bias or a scale")
	}
	return nil
}

// Bounds on the sub-keys of one rule: an audit opens all of them for each cell of a
// memory block.
const (
	maxKeyRows  = 1 << 17
	maxKeyBytes = 32 << 20
)

// checkAuditable refuses sub-keys that are too many to be opened. l is in range.
func (m *Model) checkAuditable(l *Linear) error {
	t := &m.Tensors[l.Tensor]
	if each := t.Format.RowBytes(t.Cols); l.Rows > maxKeyRows || l.Rows > maxKeyBytes/each {
		return fault("there are %d sub-keys of %d bytes; an audit opens at most %d, and %d bytes", l.Rows, each, maxKeyRows, maxKeyBytes)
	}
	return nil
}

// checkMemory looks at the feed-forward part of a memory block.
func (m *Model) checkMemory(y *Layer) error {
	x := y.Memory
	if y.Experts != nil || !y.Router.zero() || !y.Up.zero() {
		return fault("it has memory and experts, or memory and up")
	}
	if err := first(
		in("the index of the retrieval rule", x.Rule, 0, len(m.Rules)-1),
		in("the index of the table", x.Table, 0, len(m.Tensors)-1),
		m.checkLinear("gate", &y.Gate, m.FF, m.Dim),
		m.checkLinear("down", &y.Down, m.Dim, m.FF),
	); err != nil {
		return err
	}
	if err := m.checkTable(x); err != nil {
		return err
	}
	p := m.Rules[x.Rule].Product
	if p == nil {
		if !x.Query.zero() || !x.Keys.zero() {
			return fault("hashed n-grams have queries or sub-keys")
		}
		return nil
	}
	if err := first(
		m.checkLinear("the query", &x.Query, p.QueryLen(), m.Dim),
		m.checkLinear("the sub-keys", &x.Keys, p.KeyRows(), p.Dim),
		checkKeys(&x.Keys),
	); err != nil {
		return err
	}
	if err := m.checkAuditable(&x.Keys); err != nil {
		return err
	}
	return m.alike("gate and the query", &y.Gate, &x.Query)
}

func (m *Model) checkTensors() error {
	if len(m.Tensors) == 0 {
		return fault("there are no tensors")
	}
	names := make(map[string]bool, len(m.Tensors))
	for i := range m.Tensors {
		t := &m.Tensors[i]
		err := first(
			text("the name", t.Name, 1),
			in("the number of rows", t.Rows, 1, maxRows),
			in("the length of a row", t.Cols, 1, maxCols),
		)
		switch {
		case err != nil:
		case names[t.Name]:
			err = fault("the name %q is there twice", t.Name)
		case !t.Format.Known():
			err = fault("the format %v is unknown", t.Format)
		case t.Cols%t.Format.BlockLen() != 0:
			err = fault("rows of %d are no whole blocks of %v", t.Cols, t.Format)
		}
		if err != nil {
			return fmt.Errorf("tensor %d: %w", i, err)
		}
		names[t.Name] = true
	}
	return nil
}

func (m *Model) checkEmbedding() error {
	if err := in("the index of the embedding", m.Embedding, 0, len(m.Tensors)-1); err != nil {
		return err
	}
	if t := &m.Tensors[m.Embedding]; t.Rows != m.Vocab || t.Cols != m.Dim {
		return fault("the embedding has %d rows of %d; expected %d of %d", t.Rows, t.Cols, m.Vocab, m.Dim)
	}
	return nil
}

// checkLinear wants a matrix of rows outputs and cols inputs.
func (m *Model) checkLinear(what string, l *Linear, rows, cols int) error {
	if l.Rows != rows {
		return fault("%s has %d rows; expected %d", what, l.Rows, rows)
	}
	if l.Tensor < 0 || l.Tensor >= len(m.Tensors) {
		return fault("%s is tensor %d of %d", what, l.Tensor, len(m.Tensors))
	}
	t := &m.Tensors[l.Tensor]
	if t.Cols != cols {
		return fault("%s has rows of %d; expected %d", what, t.Cols, cols)
	}
	if l.Row0 < 0 || l.Row0 > t.Rows || rows > t.Rows-l.Row0 {
		return fault("%s is %d rows from %d on of a tensor of %d", what, rows, l.Row0, t.Rows)
	}
	if !arith.Finite(l.Scale) {
		return fault("the scale of %s is not finite", what)
	}
	if l.Bias != nil {
		return values("the bias of "+what, l.Bias, rows)
	}
	return nil
}

func (l *Linear) zero() bool {
	return l.Tensor == 0 && l.Row0 == 0 && l.Rows == 0 && l.Bias == nil && math.Float32bits(l.Scale) == 0 && !l.ScaleFirst
}

// alike wants matrices that share an input to quantise it alike.
func (m *Model) alike(what string, ls ...*Linear) error {
	f := m.Tensors[ls[0].Tensor].Format
	for _, l := range ls[1:] {
		if g := m.Tensors[l.Tensor].Format; g.ActBlock() != f.ActBlock() {
			return fault("%s share an input, but %v and %v quantise it in different blocks", what, f, g)
		}
	}
	return nil
}

func (m *Model) checkLayer(y *Layer) error {
	qDim, kDim, vDim := m.Heads*m.KeyDim, m.KVHeads*m.KeyDim, m.KVHeads*m.ValDim
	qNorm, kNorm := 0, 0
	switch m.Norm {
	case HeadNorm:
		qNorm, kNorm = m.KeyDim, m.KeyDim
	case RowNorm:
		qNorm, kNorm = qDim, kDim
	}
	if err := first(
		in("the window", y.Window, 0, maxContext),
		in("the index of the rotation speeds", y.Rope, 0, len(m.Ropes)-1),
		values("the norm before attention", y.AttnNorm, m.Dim),
		values("the norm before the feed-forward block", y.FFNNorm, m.Dim),
		values("the norm of queries", y.QNorm, qNorm),
		values("the norm of keys", y.KNorm, kNorm),
		m.checkLinear("q", &y.Q, qDim, m.Dim),
		m.checkLinear("k", &y.K, kDim, m.Dim),
		m.checkLinear("v", &y.V, vDim, m.Dim),
		m.checkLinear("o", &y.O, m.Dim, m.Heads*m.ValDim),
	); err != nil {
		return err
	}
	if y.PostAttn != nil {
		if err := values("the norm after attention", y.PostAttn, m.Dim); err != nil {
			return err
		}
	}
	if y.PostFFN != nil {
		if err := values("the norm after the feed-forward block", y.PostFFN, m.Dim); err != nil {
			return err
		}
	}
	if (qNorm == 0) != (y.QNorm == nil && y.KNorm == nil) {
		return fault("the norms of queries and keys are empty rather than none")
	}
	if err := m.alike("q, k and v", &y.Q, &y.K, &y.V); err != nil {
		return err
	}
	if y.Memory != nil {
		return m.checkMemory(y)
	}
	if y.Experts == nil {
		if !y.Router.zero() {
			return fault("it has a router and no experts")
		}
		return first(
			m.checkLinear("gate", &y.Gate, m.FF, m.Dim),
			m.checkLinear("up", &y.Up, m.FF, m.Dim),
			m.checkLinear("down", &y.Down, m.Dim, m.FF),
			m.sameBlocks(y.Gate, y.Up),
		)
	}
	if !y.Gate.zero() || !y.Up.zero() || !y.Down.zero() {
		return fault("it has experts and a dense block")
	}
	if y.PostFFN != nil {
		return fault("it is a mixture with a norm after it")
	}
	if err := first(
		in("the number of experts", len(y.Experts), max(1, m.ExpertsUsed), maxExperts),
		in("the number of experts used", m.ExpertsUsed, 1, len(y.Experts)),
		m.checkLinear("the router", &y.Router, len(y.Experts), m.Dim),
	); err != nil {
		return err
	}
	for i := range y.Experts {
		x := &y.Experts[i]
		if err := first(
			m.checkLinear("gate", &x.Gate, m.FF, m.Dim),
			m.checkLinear("up", &x.Up, m.FF, m.Dim),
			m.checkLinear("down", &x.Down, m.Dim, m.FF),
			m.sameBlocks(x.Gate, x.Up),
		); err != nil {
			return fmt.Errorf("expert %d: %w", i, err)
		}
	}
	return nil
}

// sameBlocks is alike for gate and up, one of which may not have been found good.
func (m *Model) sameBlocks(gate, up Linear) error {
	if max(gate.Tensor, up.Tensor) >= len(m.Tensors) || min(gate.Tensor, up.Tensor) < 0 {
		return nil
	}
	return m.alike("gate and up", &gate, &up)
}

// checkOrder wants the tensors in the order of their first use, all of them
// used, so that equal models stand in one order.
func (m *Model) checkOrder() error {
	next := 0
	use := func(t int) error {
		if t > next {
			return fault("tensor %d, %q, stands before the first use of those that are used earlier, or is not used", next, m.Tensors[next].Name)
		}
		if t == next {
			next++
		}
		return nil
	}
	if err := use(m.Embedding); err != nil {
		return err
	}
	tables := map[*Linear]int{} // by the matrix that follows
	rules := 0
	for i := range m.Layers {
		y := &m.Layers[i]
		if y.Memory == nil {
			continue
		}
		tables[&y.Down] = y.Memory.Table
		if y.Memory.Rule > rules {
			break
		}
		rules = max(rules, y.Memory.Rule+1)
	}
	if rules < len(m.Rules) {
		return fault("retrieval rule %d stands before the first use of those that are used earlier, or is not used", rules)
	}
	for l := range m.Linears {
		if t, ok := tables[l]; ok {
			if err := use(t); err != nil {
				return err
			}
		}
		if err := use(l.Tensor); err != nil {
			return err
		}
	}
	if next < len(m.Tensors) {
		return fault("tensor %d, %q, is not used", next, m.Tensors[next].Name)
	}
	return nil
}
