package train

import (
	"bufio"
	"encoding/binary"
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"

	"github.com/geistnet/geist/arith"
	"github.com/geistnet/geist/internal/corpus"
	"github.com/geistnet/geist/internal/gguf"
	"github.com/geistnet/geist/internal/quant"
)

// A stored tensor is one of the file: matrices and rows in Q8_0, norms in F32.
type stored struct {
	name       string
	rows, cols int
	values     []float32
}

// tensors lists what the file of m holds, in its order.
func (m *Model) tensors() []stored {
	var out []stored
	for _, p := range m.Params {
		out = append(out, stored{p.Name, p.Rows, p.Cols, p.W})
	}
	for _, t := range m.Tables {
		out = append(out, stored{t.Name, t.Rows, t.Cols, t.W})
	}
	return out
}

func (s *stored) format() arith.Format {
	if s.rows == 1 {
		return arith.F32
	}
	return arith.Q8_0
}

// metadata describes the model of r as docs/design/0009-sparse-memory.md says.
func (r *Run) metadata() []gguf.KV {
	s := &r.Recipe.Shape
	number := func(key string, n int) gguf.KV {
		return gguf.KV{Key: "geist." + key, Value: gguf.ValueOf(uint32(n))}
	}
	orders := make([]uint32, len(s.HashOrders))
	for i, n := range s.HashOrders {
		orders[i] = uint32(n)
	}
	kv := []gguf.KV{
		{Key: "general.architecture", Value: gguf.ValueOf("geist")},
		{Key: "general.name", Value: gguf.ValueOf(r.Recipe.Name)},
		{Key: "general.license", Value: gguf.ValueOf("apache-2.0")},
		{Key: "general.file_type", Value: gguf.ValueOf(uint32(7))}, // mostly Q8_0
		number("context_length", s.Context),
		number("embedding_length", s.Dim),
		number("block_count", len(s.Blocks)),
		number("feed_forward_length", s.FF),
		number("attention.head_count", s.Heads),
		number("attention.head_count_kv", s.KVHeads),
		number("attention.key_length", s.HeadDim),
		number("attention.value_length", s.HeadDim),
		{Key: "geist.attention.layer_norm_rms_epsilon", Value: gguf.ValueOf(s.Eps)},
		number("rope.dimension_count", s.HeadDim),
		{Key: "geist.rope.freq_base", Value: gguf.ValueOf(float32(s.RopeBase))},
		number("vocab_size", s.Vocab),
		{Key: "geist.memory.rule", Value: gguf.ArrayOf(s.Blocks)},
		{Key: "geist.memory.hash.orders", Value: gguf.ArrayOf(orders)},
		number("memory.hash.heads", s.HashHeads),
		number("memory.product.heads", s.ProductHeads),
		number("memory.product.topk", s.ProductTopK),
	}
	kv = append(kv, r.Corpus.Vocabulary.Metadata()...)
	return append(kv, gguf.KV{Key: "tokenizer.chat_template", Value: gguf.ValueOf(corpus.Template)})
}

// Export writes the model as a GGUF file to w.
func (r *Run) Export(w io.Writer) error {
	var infos []gguf.TensorInfo
	list := r.Model.tensors()
	for _, t := range list {
		dims := []uint64{uint64(t.cols), uint64(t.rows)}
		if t.rows == 1 {
			dims = dims[:1]
		}
		infos = append(infos, gguf.TensorInfo{Name: t.name, Dims: dims, Format: t.format()})
	}
	out, err := gguf.NewWriter(w, r.metadata(), infos)
	if err != nil {
		return err
	}
	for _, t := range list {
		data, err := t.encode()
		if err != nil {
			return fmt.Errorf("encode %s: %w", t.name, err)
		}
		if err := out.WriteTensor(data); err != nil {
			return err
		}
	}
	return out.Close()
}

func (s *stored) encode() ([]byte, error) {
	f := s.format()
	size := f.RowBytes(s.cols)
	data := make([]byte, s.rows*size)
	for i := range s.rows {
		row, dst := s.values[i*s.cols:(i+1)*s.cols], data[i*size:(i+1)*size]
		if f == arith.F32 {
			for j, v := range row {
				binary.LittleEndian.PutUint32(dst[4*j:], math.Float32bits(v))
			}
			continue
		}
		if err := quant.Row(dst, f, row); err != nil {
			return nil, fmt.Errorf("row %d: %w", i, err)
		}
	}
	return data, nil
}

// WriteFile writes the model to a file that is whole or not there.
func (r *Run) WriteFile(path string) (err error) {
	partial := path + ".partial"
	f, err := os.Create(partial)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			f.Close()
			os.Remove(partial)
		}
	}()
	w := bufio.NewWriterSize(f, 1<<20)
	if err := r.Export(w); err != nil {
		return err
	}
	if err := w.Flush(); err != nil {
		return err
	}
	if err := f.Sync(); err != nil {
		return err
	}
	if err := f.Close(); err != nil {
		return err
	}
	if err := os.Rename(partial, path); err != nil {
		return err
	}
	syncDir(filepath.Dir(path))
	return nil
}
