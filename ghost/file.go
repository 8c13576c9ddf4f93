package ghost

import (
	"fmt"

	"github.com/geistnet/geist/arith"
	"github.com/geistnet/geist/sat"
)

// Version of the encoding of Ghost files.
const Version = 1

// Magic is how every Ghost file of this Version begins.
const Magic = "ghost\x00\x01\x00"

// Least bytes that a thing takes, for counts.
const (
	tensorBytes = 4 + 4 + 4 + 4 + 32
	linearBytes = 4 + 4 + 4 + 4 + 1
	layerBytes  = 4 + 4 + 1 + 4*linearBytes
	ropeBytes   = 4 + 4
	ruleBytes   = 1 + 4*4
)

// Encode gives the bytes of the Ghost file, docs/spec/ghost-file.md. It refuses
// what Model.Check refuses.
func Encode(m *Model) ([]byte, error) {
	if err := m.Check(); err != nil {
		return nil, fmt.Errorf("encode a Ghost file: %w", err)
	}
	c := codec{what: "Ghost file"}
	c.model(m)
	if len(c.b) > maxBytes {
		return nil, fmt.Errorf("encode a Ghost file: it would take %d bytes; the most is %d", len(c.b), maxBytes)
	}
	return c.b, nil
}

// Decode reads the bytes of a Ghost file. It accepts exactly what Encode
// gives; all else is a *FormatError. Memory is in proportion to the bytes.
func Decode(b []byte) (*Model, error) {
	c := codec{what: "Ghost file", reading: true, b: b}
	if len(b) > maxBytes {
		c.fail("it is %d bytes long; the most is %d", len(b), maxBytes)
		return nil, c.err
	}
	m := &Model{}
	c.model(m)
	if err := c.end(); err != nil {
		return nil, err
	}
	if err := m.Check(); err != nil {
		c.fail("%v", err)
		return nil, c.err
	}
	return m, nil
}

// model is the order of the bytes.
func (c *codec) model(m *Model) {
	c.section(PartHead, 0, 0)
	c.head(m)
	tensors, layers := len(m.Tensors), len(m.Layers)
	c.count(&tensors, tensorBytes)
	if c.reading {
		m.Tensors = nil
	}
	for i := range tensors {
		c.section(PartTensor, 0, i)
		if c.reading {
			if c.err != nil {
				return
			}
			m.Tensors = append(m.Tensors, Tensor{})
		}
		c.tensor(&m.Tensors[i])
	}
	c.section(PartMiddle, 0, 0)
	c.middle(m)
	c.count(&layers, layerBytes)
	if c.reading {
		m.Layers = nil
	}
	for i := range layers {
		if c.reading {
			if c.err != nil {
				return
			}
			m.Layers = append(m.Layers, Layer{})
		}
		c.layer(m, i, &m.Layers[i])
	}
	c.section(PartVector, OutputLayer, 0)
	c.floats(&m.OutputNorm, m.Dim)
	c.linear(&m.Output, OutputLayer, 0)
}

// head is all before the tensors.
func (c *codec) head(m *Model) {
	c.magic(Magic)
	c.int(&m.Arithmetic)
	c.str(&m.Arch, maxNameText)
	c.str(&m.Name, maxNameText)
	for _, v := range []*int{&m.Dim, &m.Heads, &m.KVHeads, &m.KeyDim, &m.ValDim, &m.FF, &m.Vocab, &m.Context} {
		c.int(v)
	}
	kv, gate, norm := uint8(m.KV), uint8(m.Gate), uint8(m.Norm)
	c.u8(&kv)
	c.u8(&gate)
	c.u8(&norm)
	m.KV, m.Gate, m.Norm = arith.KV(kv), Gate(gate), Norm(norm)
	c.flag(&m.Neox)
	c.f32(&m.Eps)
	c.f32(&m.AttnScale)
	c.f64(&m.TempScale)
	c.int(&m.TempFloor)
	c.f32(&m.AttnCap)
	c.f32(&m.LogitCap)
	c.f32(&m.EmbedScale)
	c.int(&m.ExpertsUsed)
	c.flag(&m.ExpertNorm)
	c.f32(&m.ExpertScale)
	c.bytes(m.Tokenizer[:])
	c.bytes(m.Template[:])
	if c.reading && c.err == nil {
		// Lengths below depend on these.
		if err := m.checkShape(); err != nil {
			c.fail("%v", err)
		}
	}
	list(c, &m.Ropes, ropeBytes, c.rope)
}

// middle is what stands between the tensors and the layers.
func (c *codec) middle(m *Model) {
	c.int(&m.Embedding)
	list(c, &m.Rules, ruleBytes, c.rule)
	if c.reading && c.err == nil {
		// Shapes of matrices below depend on these.
		if err := m.checkRules(); err != nil {
			c.fail("%v", err)
		}
	}
}

// Kinds of retrieval rules.
const (
	ruleHash    = 1
	ruleProduct = 2
)

func (c *codec) rule(r *sat.Rule) {
	kind := uint8(ruleHash)
	if r.Product != nil {
		kind = ruleProduct
	}
	c.u8(&kind)
	switch {
	case c.err != nil:
	case kind == ruleHash:
		if c.reading {
			r.Hash = &sat.Hash{}
		}
		c.u64(&r.Hash.Salt)
		c.int(&r.Hash.Heads)
		c.int(&r.Hash.Rows)
		list(c, &r.Hash.Orders, 4, c.int)
	case kind == ruleProduct:
		if c.reading {
			r.Product = &sat.Product{}
		}
		p := r.Product
		for _, v := range []*int{&p.Heads, &p.Keys, &p.Dim, &p.TopK} {
			c.int(v)
		}
	default:
		c.fail("a retrieval rule is of the unknown kind %d", kind)
	}
}

// list is a count and as many things of at least size bytes.
func list[T any](c *codec, s *[]T, size int, one func(*T)) {
	n := len(*s)
	c.count(&n, size)
	for i := range n {
		if c.reading {
			if c.err != nil {
				return
			}
			if i == 0 {
				*s = nil
			}
			var x T
			one(&x)
			*s = append(*s, x)
			continue
		}
		one(&(*s)[i])
	}
}

func (c *codec) rope(r *arith.Rope) {
	c.f32(&r.Magnitude)
	n := len(r.Turn)
	c.count(&n, 8)
	if c.reading {
		r.Turn = make([]uint64, n)
	}
	for i := range r.Turn {
		c.u64(&r.Turn[i])
	}
}

func (c *codec) tensor(t *Tensor) {
	c.str(&t.Name, maxNameText)
	f := uint32(t.Format)
	c.u32(&f)
	t.Format = arith.Format(f)
	c.int(&t.Rows)
	c.int(&t.Cols)
	c.bytes(t.Root[:])
}

// Bits of a matrix.
const (
	hasBias    = 1 << 0
	scaleFirst = 1 << 1
)

// linear is a matrix, and its bias in a section of its own.
func (c *codec) linear(l *Linear, layer, index int) {
	c.section(PartLinear, layer, index)
	if c.linearHead(l) {
		c.section(PartBias, layer, index)
		c.floats(&l.Bias, l.Rows)
	}
}

// linearHead is a matrix without its bias. A bias that is to be read is empty.
func (c *codec) linearHead(l *Linear) (biased bool) {
	c.int(&l.Tensor)
	c.int(&l.Row0)
	c.int(&l.Rows)
	c.f32(&l.Scale)
	var bits uint8
	if l.Bias != nil {
		bits |= hasBias
	}
	if l.ScaleFirst {
		bits |= scaleFirst
	}
	c.bits(&bits, hasBias|scaleFirst)
	l.ScaleFirst = bits&scaleFirst != 0
	if c.reading && bits&hasBias != 0 {
		l.Bias = []float32{}
	}
	return bits&hasBias != 0
}

// bits is a byte of flags of which only those of known may be set.
func (c *codec) bits(b *uint8, known uint8) {
	c.u8(b)
	if *b&^known != 0 {
		c.fail("the flags are %#02x; known are %#02x", *b, known)
	}
}

// Bits of a layer.
const (
	hasPostAttn = 1 << 0
	hasPostFFN  = 1 << 1
	isMixture   = 1 << 2
	isMemory    = 1 << 3
)

// layerHead is what a layer begins with: what else it has.
func (c *codec) layerHead(m *Model, y *Layer) (bits uint8) {
	c.int(&y.Window)
	c.int(&y.Rope)
	if y.PostAttn != nil {
		bits |= hasPostAttn
	}
	if y.PostFFN != nil {
		bits |= hasPostFFN
	}
	if y.Experts != nil {
		bits |= isMixture
	}
	if y.Memory != nil {
		bits |= isMemory
	}
	c.bits(&bits, hasPostAttn|hasPostFFN|isMixture|isMemory)
	if bits&isMemory == 0 {
		return bits
	}
	if bits&isMixture != 0 {
		c.fail("a layer is a mixture and has memory")
	}
	if c.reading {
		y.Memory = &Memory{}
	}
	c.int(&y.Memory.Rule)
	c.int(&y.Memory.Table)
	if c.reading && y.Memory.Rule >= len(m.Rules) {
		c.fail("there are %d retrieval rules; expected one of number %d", len(m.Rules), y.Memory.Rule)
		y.Memory = nil
	}
	return bits
}

// vector is one of a layer's vectors and its length; nil if there is none.
func (m *Model) vector(y *Layer, index int, bits uint8) (*[]float32, int) {
	switch {
	case index == VectorAttnNorm:
		return &y.AttnNorm, m.Dim
	case index == VectorFFNNorm:
		return &y.FFNNorm, m.Dim
	case index == VectorPostAttn && bits&hasPostAttn != 0:
		return &y.PostAttn, m.Dim
	case index == VectorPostFFN && bits&hasPostFFN != 0:
		return &y.PostFFN, m.Dim
	case index == VectorQNorm && m.Norm == HeadNorm:
		return &y.QNorm, m.KeyDim
	case index == VectorKNorm && m.Norm == HeadNorm:
		return &y.KNorm, m.KeyDim
	case index == VectorQNorm && m.Norm == RowNorm:
		return &y.QNorm, m.Heads * m.KeyDim
	case index == VectorKNorm && m.Norm == RowNorm:
		return &y.KNorm, m.KVHeads * m.KeyDim
	}
	return nil, 0
}

// linearsOf is which matrices a layer has, without those of experts, in their
// order.
func (m *Model) linearsOf(y *Layer) []int {
	switch {
	case y.Memory != nil && m.Rules[y.Memory.Rule].Product != nil:
		return []int{LinearQ, LinearK, LinearV, LinearO, LinearGate, LinearQuery, LinearKeys, LinearDown}
	case y.Memory != nil:
		return []int{LinearQ, LinearK, LinearV, LinearO, LinearGate, LinearDown}
	case y.Experts != nil:
		return []int{LinearQ, LinearK, LinearV, LinearO, LinearRouter}
	}
	return []int{LinearQ, LinearK, LinearV, LinearO, LinearGate, LinearUp, LinearDown}
}

func (c *codec) layer(m *Model, l int, y *Layer) {
	c.section(PartLayer, l, 0)
	bits := c.layerHead(m, y)
	if c.err != nil {
		return
	}
	if c.reading && bits&isMixture != 0 {
		y.Experts = []Expert{}
	}
	for i := range vectors {
		if v, n := m.vector(y, i, bits); v != nil {
			c.section(PartVector, l, i)
			c.floats(v, n)
		}
	}
	for _, i := range m.linearsOf(y) {
		c.linear(m.linearAt(Part{PartLinear, l, i}), l, i)
	}
	if bits&isMixture == 0 {
		return
	}
	c.section(PartExperts, l, 0)
	e := 0
	list(c, &y.Experts, 3*linearBytes, func(x *Expert) {
		for i, x := range []*Linear{&x.Gate, &x.Up, &x.Down} {
			c.linear(x, l, LinearExpert(e)+i)
		}
		e++
	})
	if c.err == nil && len(y.Experts) == 0 {
		c.fail("a mixture has no experts")
	}
}
