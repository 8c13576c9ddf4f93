package ghost

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/geistnet/geist/arith"
	"github.com/geistnet/geist/sat"
)

// builder makes a valid model of random values.
type builder struct {
	r *rand.Rand
	m *Model
}

func (b *builder) values(n int) []float32 {
	x := make([]float32, n)
	for i := range x {
		x[i] = float32(b.r.IntN(2000)-1000) / 256
	}
	return x
}

func (b *builder) tensor(name string, rows, cols int) int {
	t := Tensor{Name: name, Format: arith.Q8_0, Rows: rows, Cols: cols}
	for i := range t.Root {
		t.Root[i] = byte(b.r.Uint32())
	}
	b.m.Tensors = append(b.m.Tensors, t)
	return len(b.m.Tensors) - 1
}

func (b *builder) linear(tensor, row0, rows int) Linear {
	l := Linear{Tensor: tensor, Row0: row0, Rows: rows, Scale: 1, ScaleFirst: b.r.IntN(2) == 0}
	if b.r.IntN(3) == 0 {
		l.Bias = b.values(rows)
	}
	if b.r.IntN(3) == 0 {
		l.Scale = float32(b.r.IntN(100)) / 16
	}
	return l
}

// testModel is a model with one dense layer and, with mixture, one of experts.
func testModel(seed uint64, mixture bool) *Model {
	b := &builder{rand.New(rand.NewPCG(seed, 7)), &Model{}}
	m := b.m
	*m = Model{
		Arithmetic: arith.Version, Arch: "test", Name: "a model", Dim: 64, Heads: 4, KVHeads: 2, KeyDim: 16, ValDim: 32, FF: 96,
		Vocab: 50, Context: 1024, Eps: 1e-5, KV: arith.KVF16, Gate: Gate(seed % 2), Norm: Norm(seed % 3), Neox: seed%2 == 1,
		AttnScale: 0.25, TempScale: 0.1, TempFloor: 8192, AttnCap: 50, LogitCap: 30, EmbedScale: 8, ExpertScale: 1,
		Ropes: []arith.Rope{{Turn: []uint64{1 << 61, 1 << 40}, Magnitude: 1}, {Turn: []uint64{12345}, Magnitude: 1.25}},
	}
	m.Embedding = b.tensor("embd", m.Vocab, m.Dim)
	qDim, kDim, vDim := m.Heads*m.KeyDim, m.KVHeads*m.KeyDim, m.KVHeads*m.ValDim
	layer := func(p string) *Layer {
		y := Layer{AttnNorm: b.values(m.Dim), FFNNorm: b.values(m.Dim), PostAttn: b.values(m.Dim), Rope: len(m.Layers) % 2, Window: 512 * len(m.Layers)}
		switch m.Norm {
		case HeadNorm:
			y.QNorm, y.KNorm = b.values(m.KeyDim), b.values(m.KeyDim)
		case RowNorm:
			y.QNorm, y.KNorm = b.values(qDim), b.values(kDim)
		}
		qkv := b.tensor(p+"qkv", qDim+kDim+vDim, m.Dim)
		y.Q, y.K, y.V = b.linear(qkv, 0, qDim), b.linear(qkv, qDim, kDim), b.linear(qkv, qDim+kDim, vDim)
		y.O = b.linear(b.tensor(p+"o", m.Dim, m.Heads*m.ValDim), 0, m.Dim)
		m.Layers = append(m.Layers, y)
		return &m.Layers[len(m.Layers)-1]
	}
	y := layer("0.")
	y.PostFFN = b.values(m.Dim)
	y.Gate = b.linear(b.tensor("0.gate", m.FF, m.Dim), 0, m.FF)
	y.Up = b.linear(b.tensor("0.up", m.FF, m.Dim), 0, m.FF)
	y.Down = b.linear(b.tensor("0.down", m.Dim, m.FF), 0, m.Dim)
	if mixture {
		const n = 3
		m.ExpertsUsed, m.ExpertNorm, m.ExpertScale = 2, true, 2.5
		y := layer("1.")
		y.Router = b.linear(b.tensor("1.router", n, m.Dim), 0, n)
		gate, up, down := b.tensor("1.gates", n*m.FF, m.Dim), b.tensor("1.ups", n*m.FF, m.Dim), b.tensor("1.downs", n*m.Dim, m.FF)
		for e := range n {
			y.Experts = append(y.Experts, Expert{b.linear(gate, e*m.FF, m.FF), b.linear(up, e*m.FF, m.FF), b.linear(down, e*m.Dim, m.Dim)})
		}
	}
	m.OutputNorm = b.values(m.Dim)
	if mixture {
		m.Output = b.linear(b.tensor("output", m.Vocab, m.Dim), 0, m.Vocab)
	} else {
		m.Output = b.linear(m.Embedding, 0, m.Vocab)
	}
	m.Tokenizer, m.Template = sha256.Sum256([]byte("tokenizer")), sha256.Sum256([]byte("template"))
	return m
}

// memoryModel is a model whose layers are dense, of hashed n-grams and of
// product keys, twice under one rule.
func memoryModel(seed uint64) *Model {
	b := &builder{rand.New(rand.NewPCG(seed, 9)), testModel(seed, false)}
	m := b.m
	m.Rules = []sat.Rule{
		{Hash: &sat.Hash{Orders: []int{2, 3}, Heads: 1, Rows: 50, Salt: 1 + seed}},
		{Product: &sat.Product{Heads: 3, Keys: 5, Dim: 32, TopK: 4}},
	}
	m.FF = 128
	dense := &m.Layers[0]
	m.Tensors = m.Tensors[:dense.O.Tensor+1]
	dense.Gate = b.linear(b.tensor("0.gate", m.FF, m.Dim), 0, m.FF)
	dense.Up = b.linear(b.tensor("0.up", m.FF, m.Dim), 0, m.FF)
	dense.Down = b.linear(b.tensor("0.down", m.Dim, m.FF), 0, m.Dim)
	for i, rule := range []int{0, 1, 1} {
		y := m.Layers[0] // the matrices of attention are shared
		p := fmt.Sprintf("%d.", i+1)
		x := &Memory{Rule: rule}
		y.Up, y.Memory = Linear{}, x
		y.Gate = b.linear(b.tensor(p+"gate", m.FF, m.Dim), 0, m.FF)
		if rule == 0 {
			x.Table = b.tensor(p+"memory", 100, 64)
		} else {
			x.Query = b.linear(b.tensor(p+"query", 3*2*32, m.Dim), 0, 3*2*32)
			x.Keys = Linear{Tensor: b.tensor(p+"keys", 3*2*5, 32), Rows: 3 * 2 * 5, Scale: 1}
			x.Table = b.tensor(p+"memory", 25, m.FF)
		}
		y.Down = b.linear(b.tensor(p+"down", m.Dim, m.FF), 0, m.Dim)
		m.Layers = append(m.Layers, y)
	}
	return m
}

func encode(t testing.TB, m *Model) []byte {
	t.Helper()
	b, err := Encode(m)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestRoundTrip(t *testing.T) {
	ids := map[ID]bool{}
	for seed := range uint64(12) {
		for _, m := range []*Model{testModel(seed, false), testModel(seed, true), memoryModel(seed)} {
			b := encode(t, m)
			got, err := Decode(b)
			if err != nil {
				t.Fatal(err)
			}
			if !reflect.DeepEqual(got, m) {
				t.Fatalf("seed %d: decoded %+v, want %+v", seed, got, m)
			}
			if got.ID() != IDOf(b) {
				t.Error("the id is not that of the bytes")
			}
			ids[m.ID()] = true
		}
	}
	if len(ids) != 36 {
		t.Errorf("%d ids of 36 models", len(ids))
	}
}

// TestEveryByte changes each byte: the result is refused, or is another model
// with these bytes. Of the model with memory, which is long, the bytes of every
// kind of thing but not of all values.
func TestEveryByte(t *testing.T) {
	everyByte(t, encode(t, testModel(2, true)), 1)
	everyByte(t, encode(t, memoryModel(2)), 19)
}

func everyByte(t *testing.T, b []byte, step int) {
	t.Helper()
	id := IDOf(b)
	refused := 0
	for i := 0; i < len(b); i += step {
		for _, x := range []byte{1, 0x80, 0xff} {
			c := append([]byte(nil), b...)
			c[i] ^= x
			m, err := Decode(c)
			if err != nil {
				refused++
				continue
			}
			if m.ID() == id || string(encode(t, m)) != string(c) {
				t.Fatalf("byte %d changed by %#x gives the same model", i, x)
			}
		}
	}
	if refused == 0 {
		t.Error("no change was refused")
	}
	for i := 0; i < len(b); i += step {
		if _, err := Decode(b[:i]); err == nil {
			t.Fatalf("the first %d of %d bytes are a model", i, len(b))
		}
	}
	if _, err := Decode(append(b, 0)); err == nil || !strings.Contains(err.Error(), "follow its end") {
		t.Errorf("a byte more: %v", err)
	}
}

// TestEveryField changes each field of a model by reflection and demands
// another id, or an error.
func TestEveryField(t *testing.T) {
	for seed := range uint64(4) {
		m := testModel(seed, true)
		if seed == 3 {
			m = memoryModel(seed)
		}
		id := m.ID()
		n := 0
		var walk func(path string, v reflect.Value)
		try := func(path string) {
			n++
			if b, err := Encode(m); err == nil && IDOf(b) == id {
				t.Errorf("%s changed: the id is the same", path)
			}
		}
		walk = func(path string, v reflect.Value) {
			switch v.Kind() {
			case reflect.Pointer:
				if v.IsNil() {
					return
				}
				old := v.Interface()
				v.SetZero()
				try(path + " left out")
				v.Set(reflect.ValueOf(old))
				walk(path, v.Elem())
			case reflect.Struct:
				for i := range v.NumField() {
					walk(path+"."+v.Type().Field(i).Name, v.Field(i))
				}
			case reflect.Slice:
				if v.Len() == 0 {
					return
				}
				old := reflect.ValueOf(v.Interface())
				v.SetLen(v.Len() - 1)
				try(path + " shortened")
				v.Set(old)
				walk(path, v.Index(0))
				walk(path, v.Index(v.Len()-1))
			case reflect.Array:
				walk(path, v.Index(0))
				walk(path, v.Index(v.Len()-1))
			case reflect.Int:
				v.SetInt(v.Int() + 1)
				try(path)
				v.SetInt(v.Int() - 1)
			case reflect.Uint8, reflect.Uint32, reflect.Uint64:
				v.SetUint(v.Uint() ^ 1)
				try(path)
				v.SetUint(v.Uint() ^ 1)
			case reflect.Float32, reflect.Float64:
				f := v.Float()
				v.SetFloat(f + 0.5)
				try(path)
				v.SetFloat(f)
			case reflect.Bool:
				v.SetBool(!v.Bool())
				try(path)
				v.SetBool(!v.Bool())
			case reflect.String:
				s := v.String()
				v.SetString(s + "x")
				try(path)
				v.SetString(s)
			default:
				t.Fatalf("%s is a %v", path, v.Kind())
			}
		}
		walk("Model", reflect.ValueOf(m).Elem())
		if n < 200 || m.ID() != id {
			t.Errorf("%d changes, and the model is as before: %v", n, m.ID() == id)
		}
	}
}

// TestCheck makes one thing wrong at a time.
func TestCheck(t *testing.T) {
	nan := float32(0)
	nan /= nan
	for want, spoil := range map[string]func(*Model){
		"the arithmetic is version 2":                func(m *Model) { m.Arithmetic = 2 },
		"the architecture":                           func(m *Model) { m.Arch = "" },
		"the name \"a\\nb\" has a control":           func(m *Model) { m.Name = "a\nb" },
		"is not UTF-8":                               func(m *Model) { m.Name = "\xff" },
		"the width is 0":                             func(m *Model) { m.Dim = 0 },
		"4 heads do not share 3":                     func(m *Model) { m.KVHeads = 3 },
		"epsilon is NaN":                             func(m *Model) { m.Eps = nan },
		"the cap of logits":                          func(m *Model) { m.LogitCap = -1 },
		"the temperature grows":                      func(m *Model) { m.TempFloor = 0 },
		"the number of rotated pairs is 9":           func(m *Model) { m.Ropes[1].Turn = make([]uint64, 9) },
		"the number of sets of rotation speeds is 0": func(m *Model) { m.Ropes = nil },
		"the name \"embd\" is there twice":           func(m *Model) { m.Tensors[3].Name = "embd" },
		"the format type 9":                          func(m *Model) { m.Tensors[1].Format = 9 },
		"no whole blocks of Q8_0":                    func(m *Model) { m.Tensors[1].Cols = 65 },
		"quantise it in different blocks":            func(m *Model) { m.Tensors[4].Format = arith.F16 },
		"q has 63 rows":                              func(m *Model) { m.Layers[0].Q.Rows-- },
		"q has rows of 96":                           func(m *Model) { m.Layers[0].Q.Tensor = 5 },
		"is 64 rows from 160 on of a tensor of 160":  func(m *Model) { m.Layers[0].V.Row0 = 160 },
		"from -1 on":                                 func(m *Model) { m.Layers[0].V.Row0 = -1 },
		"o is tensor 99 of":                          func(m *Model) { m.Layers[0].O.Tensor = 99 },
		"the scale of o is not finite":               func(m *Model) { m.Layers[0].O.Scale = nan },
		"the bias of o has 0 values":                 func(m *Model) { m.Layers[0].O.Bias = []float32{} },
		"value 3 of the output norm is not finite":   func(m *Model) { m.OutputNorm[3] = nan },
		"layer 0: it has a router":                   func(m *Model) { m.Layers[0].Router.Rows = 1 },
		"layer 1: it has experts and a dense":        func(m *Model) { m.Layers[1].Up.Scale = 1 },
		"layer 1: it is a mixture with a norm after": func(m *Model) { m.Layers[1].PostFFN = make([]float32, 64) },
		"layer 1: the number of experts is 0":        func(m *Model) { m.Layers[1].Experts = []Expert{} },
		"layer 1: the number of experts is 3; it":    func(m *Model) { m.ExpertsUsed = 4 },
		"layer 1: the number of experts used is 0":   func(m *Model) { m.ExpertsUsed = 0 },
		"layer 1: expert 2: down":                    func(m *Model) { m.Layers[1].Experts[2].Down.Row0++ },
		"the window is -1":                           func(m *Model) { m.Layers[1].Window = -1 },
		"the index of the rotation speeds is 2":      func(m *Model) { m.Layers[1].Rope = 2 },
		"the number of layers is 0":                  func(m *Model) { m.Layers = nil },
		"the embedding has 160 rows":                 func(m *Model) { m.Embedding = 1 },
		"tensor 12, \"output\", is not used":         func(m *Model) { m.Output.Tensor = 0 },
		"stands before the first use":                func(m *Model) { m.Layers[0].Gate.Tensor, m.Layers[0].Up.Tensor = 4, 3 },
		"no layer is a mixture, but":                 func(m *Model) { m.Layers = m.Layers[:1] },
		"the norms of queries and keys are empty":    func(m *Model) { m.Norm = NoNorm; setNorms(m, []float32{}) },
		"the norm of queries has 0 values":           func(m *Model) { setNorms(m, nil) },
		"there are no tensors":                       func(m *Model) { m.Tensors = nil },
	} {
		m := testModel(1, true)
		spoil(m)
		if _, err := Encode(m); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want one with %q", err, want)
		}
	}
}

func setNorms(m *Model, x []float32) {
	for i := range m.Layers {
		m.Layers[i].QNorm, m.Layers[i].KNorm = x, x
	}
}

// TestClaims: counts far beyond the bytes do not make memory.
func TestClaims(t *testing.T) {
	b := encode(t, testModel(1, true))
	claims(t, b)
	claims(t, encode(t, memoryModel(1)))
}

func claims(t *testing.T, b []byte) {
	t.Helper()
	for i := 0; i+4 <= len(b); i++ {
		c := append([]byte(nil), b...)
		binary.LittleEndian.PutUint32(c[i:], 0x7fffffff)
		allocs := testing.AllocsPerRun(1, func() { _, _ = Decode(c) })
		if allocs > 1000 {
			t.Fatalf("offset %d: %g allocations", i, allocs)
		}
	}
}

func TestCheckMemory(t *testing.T) {
	for want, spoil := range map[string]func(*Model){
		"retrieval rule 1: retrieval rule: 0 kinds":                      func(m *Model) { m.Rules[1].Product = nil },
		"retrieval rule 0: retrieval rule: the number of":                func(m *Model) { m.Rules[0].Hash.Heads = 0 },
		"hashed n-grams or product keys":                                 func(m *Model) { m.Rules[1] = sat.Rule{Index: &sat.Index{Count: 1}} },
		"retrieval rules 1 and 2 are equal":                              func(m *Model) { m.Rules = append(m.Rules, m.Rules[1]) },
		"retrieval rule 1 stands before the first use":                   func(m *Model) { m.Layers = m.Layers[:2] },
		"retrieval rule 0 stands before the first use":                   func(m *Model) { m.Rules[0], m.Rules[1] = m.Rules[1], m.Rules[0]; swapMemory(m) },
		"layer 1: it has memory and experts, or memory and":              func(m *Model) { m.Layers[1].Up = m.Layers[0].Up },
		"layer 2: it has memory and experts, or memory and":              func(m *Model) { m.Layers[2].Router.Scale = 1 },
		"layer 3: it has memory and experts, or memory and":              func(m *Model) { m.Layers[3].Experts = []Expert{} },
		"the index of the retrieval rule is 2":                           func(m *Model) { m.Layers[1].Memory.Rule = 2 },
		"the index of the retrieval rule is -1":                          func(m *Model) { m.Layers[1].Memory.Rule = -1 },
		"the index of the table is 99":                                   func(m *Model) { m.Layers[1].Memory.Table = 99 },
		"the table has 99 rows of 64; expected 100, of which 2 make 128": func(m *Model) { m.Tensors[m.Layers[1].Memory.Table].Rows-- },
		"the table has 100 rows of 32; expected 100":                     func(m *Model) { m.Tensors[m.Layers[1].Memory.Table].Cols = 32 },
		"the table has 26 rows of 128; expected 25, of":                  func(m *Model) { m.Tensors[m.Layers[2].Memory.Table].Rows++ },
		"hashed n-grams have queries":                                    func(m *Model) { m.Layers[1].Memory.Query.Scale = 1 },
		"layer 2: the query has 191 rows; expected 192":                  func(m *Model) { m.Layers[2].Memory.Query.Rows-- },
		"layer 3: the sub-keys has 29 rows; expected 30":                 func(m *Model) { m.Layers[3].Memory.Keys.Rows-- },
		"sub-keys have a bias or a scale":                                func(m *Model) { m.Layers[3].Memory.Keys.Scale = 2 },
		"gate and the query share an input":                              func(m *Model) { m.Tensors[m.Layers[2].Memory.Query.Tensor].Format = arith.F16 },
		"stands before the first use of those":                           swapTables,
	} {
		m := memoryModel(1)
		spoil(m)
		if _, err := Encode(m); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want one with %q", err, want)
		}
	}
}

// More sub-keys than an audit opens are refused where a Ghost file is made and
// where it is read; as many as it opens are not.
func TestManyKeys(t *testing.T) {
	for _, c := range []struct {
		heads, keys, dim int
		f                arith.Format
		ok               bool
	}{
		{8, 1024, 128, arith.F32, true},
		{2, maxKeyRows / 4, 32, arith.F16, true},
		{3, maxKeyRows / 4, 32, arith.F16, false},
		{1, maxKeyBytes / 4096 / 2, 1024, arith.F32, true},
		{1, maxKeyBytes/4096/2 + 1, 1024, arith.F32, false},
	} {
		m := memoryModel(1)
		p := m.Rules[1].Product
		p.Heads, p.Keys, p.Dim = c.heads, c.keys, c.dim
		for i := range m.Layers[2:] {
			x := m.Layers[2+i].Memory
			x.Query.Rows, x.Keys.Rows = p.QueryLen(), p.KeyRows()
			m.Tensors[x.Query.Tensor].Rows = p.QueryLen()
			k := &m.Tensors[x.Keys.Tensor]
			k.Rows, k.Cols, k.Format = p.KeyRows(), c.dim, c.f
			m.Tensors[x.Table].Rows = p.TableRows()
		}
		refused := func(err error) bool {
			return err != nil && strings.Contains(err.Error(), "layer 2: there are ") && strings.Contains(err.Error(), "an audit opens at most 131072")
		}
		_, err := Encode(m)
		if c.ok && err != nil || !c.ok && !refused(err) {
			t.Errorf("%+v is encoded: %v", c, err)
		}
		w := codec{what: "Ghost file"}
		w.model(m)
		if _, err = Decode(w.b); c.ok && err != nil || !c.ok && !refused(err) {
			t.Errorf("%+v is decoded: %v", c, err)
		}
	}
}

// swapMemory gives the layers of memory the other rule's place.
func swapMemory(m *Model) {
	for i := range m.Layers {
		if x := m.Layers[i].Memory; x != nil {
			x.Rule = 1 - x.Rule
		}
	}
}

// swapTables puts the table behind down.
func swapTables(m *Model) {
	y := &m.Layers[1]
	a, b := y.Memory.Table, y.Down.Tensor
	m.Tensors[a], m.Tensors[b] = m.Tensors[b], m.Tensors[a]
	y.Memory.Table, y.Down.Tensor = b, a
}

// TestLinearsOfMemory: matrices come in the order of their tensors.
func TestLinearsOfMemory(t *testing.T) {
	m := memoryModel(1)
	var got []int
	for l := range m.Linears {
		got = append(got, l.Tensor)
	}
	want := []int{1, 1, 1, 2, 3, 4, 5, 1, 1, 1, 2, 6, 8, 1, 1, 1, 2, 9, 10, 11, 13, 1, 1, 1, 2, 14, 15, 16, 18, 0}
	if !slices.Equal(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
}

// TestRetrievalRules: an unknown kind, and a rule that no layer has.
func TestRetrievalRules(t *testing.T) {
	m := memoryModel(1)
	b := encode(t, m)
	// The rules follow the tensors and the index of the embedding.
	last := m.Tensors[len(m.Tensors)-1].Root
	at := strings.Index(string(b), string(last[:])) + len(last) + 8
	b[at] = 3
	if _, err := Decode(b); err == nil || !strings.Contains(err.Error(), "unknown kind 3") {
		t.Errorf("%v", err)
	}
	b[at] = 1
	b[at-4] = 0
	if _, err := Decode(b); err == nil {
		t.Error("a layer with a rule that is not there")
	}
}

// TestBech32m checks the code with the test vectors a1lqfn3a and
// abcdef1l7aum6echk45nj3s0wdvt2fg8x9yrzpqzd3ryx of BIP-350.
func TestBech32m(t *testing.T) {
	for _, s := range []string{"a1lqfn3a", "abcdef1l7aum6echk45nj3s0wdvt2fg8x9yrzpqzd3ryx"} {
		prefix, data, _ := strings.Cut(s, "1")
		var v []byte
		for _, c := range []byte(prefix) {
			v = append(v, c>>5)
		}
		v = append(v, 0)
		for _, c := range []byte(prefix) {
			v = append(v, c&31)
		}
		for _, c := range []byte(data) {
			v = append(v, byte(strings.IndexByte(idAlphabet, c)))
		}
		if polymod(v) != bech32m {
			t.Errorf("%s has a wrong checksum", s)
		}
	}
}

func TestIDText(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for range 200 {
		var id ID
		for i := range id {
			id[i] = byte(r.Uint32())
		}
		s := id.String()
		got, err := ParseID(s)
		if err != nil || got != id {
			t.Fatalf("%s: %v, %v", s, got, err)
		}
		for i := range s {
			for _, c := range []byte("qz7b1A \x80") {
				if c == s[i] {
					continue
				}
				if _, err := ParseID(s[:i] + string(c) + s[i+1:]); err == nil {
					t.Fatalf("%s with %q at %d is an id", s, c, i)
				}
			}
		}
		for _, bad := range []string{"", s[1:], s + "q", strings.ToUpper(s), s[:len(s)-1], "ghost1" + s} {
			if _, err := ParseID(bad); err == nil {
				t.Errorf("%q is an id", bad)
			}
		}
	}
}

func FuzzDecode(f *testing.F) {
	f.Add(encode(f, testModel(1, false)))
	f.Add(encode(f, testModel(2, true)))
	f.Add(encode(f, memoryModel(3)))
	f.Add([]byte(Magic))
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := Decode(b)
		if err != nil {
			return
		}
		if string(encode(t, m)) != string(b) {
			t.Fatal("another encoding of the same model")
		}
	})
}

func FuzzParseID(f *testing.F) {
	f.Add(ID{1, 2, 3}.String())
	f.Fuzz(func(t *testing.T, s string) {
		if id, err := ParseID(s); err == nil && id.String() != s {
			t.Fatalf("%q and %q are one id", s, id.String())
		}
	})
}
