package ghost

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"

	"github.com/geistnet/geist/merkle"
)

// The model id is made from a tree over the sections of the Ghost file, so that
// a few fields can be shown to whoever holds the id alone
// (docs/spec/ghost-file.md §4).

// PartKind is the kind of a section.
type PartKind uint8

// The kinds, in the order in which a file first has them.
const (
	PartHead    PartKind = iota // all up to the number of tensors
	PartTensor                  // Index: the tensor
	PartMiddle                  // embedding, retrieval rules, number of layers
	PartLayer                   // window, rotation, flags
	PartVector                  // Index: Vector…
	PartLinear                  // Index: Linear…
	PartBias                    // Index: Linear…
	PartExperts                 // the number of experts
	partKinds
)

// Part names one section of a Ghost file.
type Part struct {
	Kind         PartKind
	Layer, Index int // zero where the kind has none
}

// Indices of vectors.
const (
	VectorAttnNorm = iota
	VectorFFNNorm
	VectorPostAttn
	VectorPostFFN
	VectorQNorm
	VectorKNorm
	vectors
)

// Indices of matrices.
const (
	LinearQ = iota
	LinearK
	LinearV
	LinearO
	LinearGate
	LinearUp
	LinearDown
	LinearRouter
	linearExperts
)

// Indices of a memory block's matrices, above those of all experts.
const (
	LinearQuery = 1<<14 + iota
	LinearKeys
)

// LinearExpert is the index of expert e's gate; up and down follow.
func LinearExpert(e int) int { return linearExperts + 3*e }

// OutputLayer is the Layer of the output norm (Index 0) and of the output matrix
// (Index 0).
const OutputLayer = maxLayers

// name is how a leaf begins: the part's kind, layer and index.
func (p Part) name() []byte {
	b := []byte{byte(p.Kind)}
	b = binary.LittleEndian.AppendUint32(b, uint32(p.Layer))
	return binary.LittleEndian.AppendUint32(b, uint32(p.Index))
}

const partNameBytes = 1 + 4 + 4

func leafOf(p Part, data []byte) merkle.Hash { return merkle.HashLeaf(append(p.name(), data...)) }

// sections is a Ghost file in its parts.
type sections struct {
	parts []Part
	at    map[Part]int
	data  [][]byte
	tree  *merkle.Tree
}

// split cuts the bytes of a Ghost file.
func split(b []byte) (*sections, error) {
	c := codec{what: "Ghost file", reading: true, b: b, marked: true}
	c.model(&Model{})
	if err := c.end(); err != nil {
		return nil, err
	}
	s := &sections{at: map[Part]int{}}
	leaves := make([]merkle.Hash, len(c.marks))
	for i, m := range c.marks {
		end := len(b)
		if i+1 < len(c.marks) {
			end = c.marks[i+1].at
		}
		s.parts = append(s.parts, m.part)
		s.at[m.part] = i
		s.data = append(s.data, b[m.at:end:end])
		leaves[i] = leafOf(m.part, s.data[i])
	}
	s.tree = merkle.FromLeaves(leaves, merkle.Plain{})
	return s, nil
}

func idOf(n uint64, root merkle.Hash) ID {
	h := sha256.New()
	h.Write([]byte(domainModel))
	h.Write(binary.LittleEndian.AppendUint64(nil, n))
	h.Write(root[:])
	return ID(h.Sum(nil))
}

func (s *sections) id() ID {
	root, err := s.tree.Root()
	if err != nil {
		panic("ghost: internal error: " + err.Error()) // there is a head at least
	}
	return idOf(uint64(len(s.parts)), root)
}

// Excerpt opens parts of a Ghost file under its id. m is a model that Encode
// accepts; parts that it does not have are an error.
//
//	u64 sections of the file ‖ u32 opened ‖ opened × (u64 index ‖ name ‖ u32 length ‖ bytes) ‖ hashes of the multiproof
func Excerpt(m *Model, parts []Part) ([]byte, error) {
	b, err := Encode(m)
	if err != nil {
		return nil, err
	}
	s, err := split(b)
	if err != nil {
		return nil, err
	}
	wanted := map[int]bool{}
	for _, p := range parts {
		i, ok := s.at[p]
		if !ok {
			return nil, fmt.Errorf("open part %v of a Ghost file: there is none", p)
		}
		wanted[i] = true
	}
	out := binary.LittleEndian.AppendUint64(nil, uint64(len(s.parts)))
	out = binary.LittleEndian.AppendUint32(out, uint32(len(wanted)))
	var indices []uint64
	for i, p := range s.parts {
		if !wanted[i] {
			continue
		}
		indices = append(indices, uint64(i))
		out = binary.LittleEndian.AppendUint64(out, uint64(i))
		out = append(out, p.name()...)
		out = binary.LittleEndian.AppendUint32(out, uint32(len(s.data[i])))
		out = append(out, s.data[i]...)
	}
	hashes, err := s.tree.Prove(indices)
	for _, h := range hashes {
		out = append(out, h[:]...)
	}
	return out, err
}

// Bounds on an excerpt, which a hostile author could make under an id of their
// own.
const (
	maxExcerptParts   = 1 << 12
	maxExcerptTensors = 1 << 16
	maxExcerptExperts = 1 << 15 // of all layers; only their number is there
)

// ReadExcerpt checks an excerpt at the beginning of b against a model id and
// returns the model as far as it is opened, what is opened, and what of b
// follows. In the model, an optional vector or bias that the file has and the
// excerpt does not is empty and not nil; matrices that are opened are in range,
// and so are their tensors, which have to be opened too.
func ReadExcerpt(id ID, b []byte) (m *Model, parts map[Part]bool, rest []byte, err error) {
	c := codec{what: "excerpt of a Ghost file", reading: true, b: b}
	var n uint64
	c.u64(&n)
	count := 0
	c.count(&count, 8+partNameBytes+4)
	if count < 1 || count > maxExcerptParts {
		c.fail("it has %d parts", count)
	}
	if c.err != nil {
		return nil, nil, nil, c.err
	}
	var order []Part
	var data [][]byte
	var indices []uint64
	var leaves []merkle.Hash
	for range count {
		var i uint64
		var kind uint8
		var p Part
		size := 0
		c.u64(&i)
		c.u8(&kind)
		p.Kind = PartKind(kind)
		c.int(&p.Layer)
		c.int(&p.Index)
		c.count(&size, 1)
		if c.err != nil {
			return nil, nil, nil, c.err
		}
		d := b[c.at:][:size:size]
		c.at += size
		order, data, indices, leaves = append(order, p), append(data, d), append(indices, i), append(leaves, leafOf(p, d))
	}
	k, err := merkle.ProofLen(n, indices)
	if err != nil {
		return nil, nil, nil, err
	}
	if k > (len(b)-c.at)/len(merkle.Hash{}) {
		return nil, nil, nil, fmt.Errorf("the excerpt of the Ghost file has too few hashes")
	}
	hashes := make([]merkle.Hash, k)
	for i := range hashes {
		c.bytes(hashes[i][:])
	}
	root, err := merkle.RootOf(n, indices, leaves, hashes)
	if err != nil {
		return nil, nil, nil, err
	}
	if got := idOf(n, root); got != id {
		return nil, nil, nil, fmt.Errorf("the excerpt is of a Ghost file with id %v; expected %v", got, id)
	}
	m, parts, err = assemble(order, data)
	return m, parts, b[c.at:], err
}

// check refuses a name that no section of a file has: two names of one section
// would be two values of one field.
func (p Part) check() error {
	layer, index := false, false // may be other than 0
	switch p.Kind {
	case PartHead, PartMiddle:
	case PartTensor:
		index = true
	case PartLayer, PartExperts:
		layer = p.Layer < OutputLayer
	case PartVector, PartLinear, PartBias:
		layer, index = p.Layer <= OutputLayer, p.Layer < OutputLayer
	default:
		return fmt.Errorf("part %v of the Ghost file is of no known kind", p)
	}
	if p.Layer < 0 || p.Index < 0 || p.Layer > 0 && !layer || p.Index > 0 && !index {
		return fmt.Errorf("part %v of the Ghost file has a name that none has", p)
	}
	return nil
}

// assemble makes a model of some of its parts, in the order of the file: the
// head, tensors, the middle, all others.
func assemble(order []Part, data [][]byte) (*Model, map[Part]bool, error) {
	m := &Model{}
	parts := map[Part]bool{}
	bits := map[int]uint8{} // of layers
	experts := 0
	middle := Part{Kind: PartMiddle}
	for i, p := range order {
		if err := p.check(); err != nil {
			return nil, nil, err
		}
		if parts[p] {
			return nil, nil, fmt.Errorf("part %v of the Ghost file is there twice", p)
		}
		if (i == 0) != (p.Kind == PartHead) || parts[middle] != (p.Kind > PartMiddle) {
			return nil, nil, fmt.Errorf("part %v of the Ghost file stands in the wrong place", p)
		}
		parts[p] = true
		c := codec{what: fmt.Sprintf("part %v of a Ghost file", p), reading: true, b: data[i]}
		if err := c.part(m, p, bits); err != nil {
			return nil, nil, err
		}
		if p.Kind == PartExperts {
			if experts += len(m.Layers[p.Layer].Experts); experts > maxExcerptExperts {
				return nil, nil, fmt.Errorf("the excerpt of the Ghost file has over %d experts", maxExcerptExperts)
			}
		}
	}
	if !parts[middle] {
		return nil, nil, fmt.Errorf("the excerpt of the Ghost file is without part %v", middle)
	}
	return m, parts, m.checkParts(parts)
}

// part reads one section into m.
func (c *codec) part(m *Model, p Part, bits map[int]uint8) error {
	var y *Layer
	if p.Kind >= PartLayer && p.Layer != OutputLayer {
		if p.Layer >= len(m.Layers) {
			c.fail("there are %d layers", len(m.Layers))
			return c.err
		}
		y = &m.Layers[p.Layer]
		if _, ok := bits[p.Layer]; ok == (p.Kind == PartLayer) {
			c.fail("a layer does not begin with its head")
			return c.err
		}
	}
	switch p.Kind {
	case PartHead:
		c.head(m)
		n := 0
		c.int(&n)
		if n > maxExcerptTensors {
			c.fail("it has %d tensors", n)
		}
		if c.err == nil {
			m.Tensors = make([]Tensor, n)
			if err := m.checkRopes(); err != nil {
				c.fail("%v", err)
			}
		}
	case PartTensor:
		if p.Index >= len(m.Tensors) {
			c.fail("there are %d tensors", len(m.Tensors))
			return c.err
		}
		t := &m.Tensors[p.Index]
		c.tensor(t)
		if c.err == nil {
			if err := t.check(); err != nil {
				c.fail("%v", err)
			}
		}
	case PartMiddle:
		c.middle(m)
		n := 0
		c.int(&n)
		if n < 1 || n > maxLayers {
			c.fail("it has %d layers", n)
		}
		if c.err == nil {
			m.Layers = make([]Layer, n)
		}
	case PartLayer:
		b := c.layerHead(m, y)
		bits[p.Layer] = b
		for _, x := range []struct {
			bit uint8
			v   *[]float32
		}{{hasPostAttn, &y.PostAttn}, {hasPostFFN, &y.PostFFN}} {
			if b&x.bit != 0 {
				*x.v = []float32{}
			}
		}
		if b&isMixture != 0 {
			y.Experts = []Expert{}
		}
		if y.Memory != nil && y.Memory.Table >= len(m.Tensors) {
			c.fail("its table is tensor %d of %d", y.Memory.Table, len(m.Tensors))
		}
		if y.Rope >= len(m.Ropes) {
			c.fail("there are %d sets of rotation speeds", len(m.Ropes))
		}
	case PartVector:
		v, n := &m.OutputNorm, m.Dim
		if y != nil {
			v, n = m.vector(y, p.Index, bits[p.Layer])
		}
		if v == nil {
			c.fail("there is no such vector")
			return c.err
		}
		c.floats(v, n)
	case PartExperts:
		n := 0
		c.int(&n)
		if n < max(1, m.ExpertsUsed) || n > maxExperts || y == nil || y.Experts == nil {
			c.fail("it has %d experts", n)
		}
		if c.err == nil {
			y.Experts = make([]Expert, n)
		}
	case PartLinear, PartBias:
		l := m.linearAt(p)
		if l == nil {
			c.fail("there is no such matrix")
			return c.err
		}
		if p.Kind == PartBias {
			if l.Bias == nil {
				c.fail("the matrix has no bias")
			}
			c.floats(&l.Bias, l.Rows)
			break
		}
		c.linearHead(l)
	default:
		c.fail("there is no such kind of part")
	}
	return c.end()
}

// linearAt is the matrix that p names; nil if there is none.
func (m *Model) linearAt(p Part) *Linear {
	if p.Layer == OutputLayer {
		return &m.Output
	}
	y := &m.Layers[p.Layer]
	switch {
	case y.Memory != nil && p.Index == LinearUp:
		return nil
	case p.Index == LinearQuery || p.Index == LinearKeys:
		switch {
		case y.Memory == nil || m.Rules[y.Memory.Rule].Product == nil:
			return nil
		case p.Index == LinearQuery:
			return &y.Memory.Query
		}
		return &y.Memory.Keys
	}
	if i := p.Index; i < linearExperts {
		return []*Linear{&y.Q, &y.K, &y.V, &y.O, &y.Gate, &y.Up, &y.Down, &y.Router}[i]
	}
	i := p.Index - linearExperts
	if i/3 >= len(y.Experts) {
		return nil
	}
	x := &y.Experts[i/3]
	return []*Linear{&x.Gate, &x.Up, &x.Down}[i%3]
}

// PartOfLinear is the matrix that p, of kind PartLinear, names, and nil if the
// model has none. All indices of p are in range but for experts.
func (m *Model) PartOfLinear(p Part) *Linear { return m.linearAt(p) }

// checkParts looks at opened matrices: their tensors are opened and fit.
func (m *Model) checkParts(parts map[Part]bool) error {
	for p := range parts {
		if p.Kind != PartLinear {
			continue
		}
		l := m.linearAt(p)
		rows, cols := m.shapeOf(p)
		if !parts[Part{PartTensor, 0, l.Tensor}] {
			return fmt.Errorf("part %v of the Ghost file is there without its tensor %d", p, l.Tensor)
		}
		x := *l
		if x.Bias != nil && len(x.Bias) == 0 {
			x.Bias = nil // not opened
		}
		if err := m.checkLinear(fmt.Sprintf("part %v", p), &x, rows, cols); err != nil {
			return err
		}
		if p.Index == LinearKeys {
			if err := checkKeys(l); err != nil {
				return err
			}
		}
	}
	for i := range m.Layers {
		if y := &m.Layers[i]; y.Memory != nil && parts[Part{PartTensor, 0, y.Memory.Table}] {
			if err := m.checkTable(y.Memory); err != nil {
				return err
			}
		}
	}
	if parts[Part{Kind: PartTensor, Index: m.Embedding}] && parts[Part{Kind: PartMiddle}] {
		// Only a row of it can be asked for, where it is opened.
		return m.checkEmbedding()
	}
	return nil
}

// shapeOf is the number of outputs and inputs of the matrix that p names.
func (m *Model) shapeOf(p Part) (rows, cols int) {
	if p.Layer == OutputLayer {
		return m.Vocab, m.Dim
	}
	i := p.Index
	if i == LinearQuery || i == LinearKeys {
		r := m.Rules[m.Layers[p.Layer].Memory.Rule].Product
		if i == LinearQuery {
			return r.QueryLen(), m.Dim
		}
		return r.KeyRows(), r.Dim
	}
	if i >= linearExperts {
		i = LinearGate + (i-linearExperts)%3
	}
	switch i {
	case LinearQ:
		return m.Heads * m.KeyDim, m.Dim
	case LinearK:
		return m.KVHeads * m.KeyDim, m.Dim
	case LinearV:
		return m.KVHeads * m.ValDim, m.Dim
	case LinearO:
		return m.Dim, m.Heads * m.ValDim
	case LinearDown:
		return m.Dim, m.FF
	case LinearRouter:
		return len(m.Layers[p.Layer].Experts), m.Dim
	}
	return m.FF, m.Dim
}

func (t *Tensor) check() error {
	if err := first(
		text("the name", t.Name, 1),
		in("the number of rows", t.Rows, 1, maxRows),
		in("the length of a row", t.Cols, 1, maxCols),
	); err != nil {
		return err
	}
	switch {
	case !t.Format.Known():
		return fault("the format %v is unknown", t.Format)
	case t.Cols%t.Format.BlockLen() != 0:
		return fault("rows of %d are no whole blocks of %v", t.Cols, t.Format)
	}
	return nil
}
