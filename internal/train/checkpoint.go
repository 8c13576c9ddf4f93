package train

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"
	"math"
	"os"
	"path/filepath"
)

// A checkpoint is the state of a run between two steps. All is little-endian:
//
//	"GEISTRUN" | u32 Version | u32 n | n bytes: the run's identity
//	u64 step | losses: step × f64 | held-out losses: step/Every × f64
//	values, first and second moments of all parameters, f32
//	for each table: values, first and second moments, f32; steps of the rows, u32
//	SHA-256 of all before
//
// The identity is the recipe and the SHA-256 of the text in JSON; a checkpoint
// resumes only the run that it came from, so all lengths but that of the losses
// are known before it is read.
var checkpointMagic = []byte("GEISTRUN")

// errOther says that a checkpoint is of another run.
var errOther = errors.New("it is of another recipe, text or version of this program")

// History is what a run has measured so far.
type History struct {
	Loss []float64 // of every step's batch before the step, nats per token
	Held []float64 // of held-out text after every Every steps
}

// identity names a run.
func (r *Recipe) identity(text [32]byte) []byte {
	b, err := json.Marshal(struct {
		Recipe *Recipe
		Text   string
	}{r, fmt.Sprintf("%x", text)})
	if err != nil {
		panic(fmt.Sprintf("train: internal error: %v", err))
	}
	return b
}

// slabs lists all float values of m in the order of a checkpoint.
func (m *Model) slabs() [][]float32 {
	out := [][]float32{m.slab[0], m.slab[2], m.slab[3]}
	for _, t := range m.Tables {
		out = append(out, t.W, t.M, t.V)
	}
	return out
}

// A summed writer hashes what it writes.
type summed struct {
	w io.Writer
	h hash.Hash
}

func (s *summed) Write(b []byte) (int, error) {
	s.h.Write(b)
	return s.w.Write(b)
}

func putFloats(w io.Writer, x []float32, buf []byte) error {
	for len(x) > 0 {
		n := min(len(x), len(buf)/4)
		for i, v := range x[:n] {
			binary.LittleEndian.PutUint32(buf[4*i:], math.Float32bits(v))
		}
		if _, err := w.Write(buf[:4*n]); err != nil {
			return err
		}
		x = x[n:]
	}
	return nil
}

// writeCheckpoint writes m's state to w.
func writeCheckpoint(w io.Writer, identity []byte, m *Model, h *History) error {
	s := &summed{w, sha256.New()}
	head := append([]byte(nil), checkpointMagic...)
	head = binary.LittleEndian.AppendUint32(head, Version)
	head = binary.LittleEndian.AppendUint32(head, uint32(len(identity)))
	head = append(head, identity...)
	head = binary.LittleEndian.AppendUint64(head, uint64(m.Step))
	for _, x := range append(append([]float64(nil), h.Loss...), h.Held...) {
		head = binary.LittleEndian.AppendUint64(head, math.Float64bits(x))
	}
	if _, err := s.Write(head); err != nil {
		return err
	}
	buf := make([]byte, 1<<16)
	for _, x := range m.slabs() {
		if err := putFloats(s, x, buf); err != nil {
			return err
		}
	}
	for _, t := range m.Tables {
		if err := binary.Write(s, binary.LittleEndian, t.Steps); err != nil {
			return err
		}
	}
	_, err := w.Write(s.h.Sum(nil))
	return err
}

// readCheckpoint sets m and h to what r holds. After an error both are undefined.
func readCheckpoint(r io.Reader, identity []byte, every int, m *Model, h *History) error {
	sum := sha256.New()
	in := io.TeeReader(r, sum)
	want := append([]byte(nil), checkpointMagic...)
	want = binary.LittleEndian.AppendUint32(want, Version)
	want = binary.LittleEndian.AppendUint32(want, uint32(len(identity)))
	want = append(want, identity...)
	got := make([]byte, len(want))
	if _, err := io.ReadFull(in, got); err != nil || !bytes.Equal(got, want) {
		return errOther
	}
	var word [8]byte
	if _, err := io.ReadFull(in, word[:]); err != nil {
		return fmt.Errorf("read the step: %w", err)
	}
	step := binary.LittleEndian.Uint64(word[:])
	if step > 1<<24 {
		return fmt.Errorf("step %d is out of range", step)
	}
	*h = History{}
	for i := range int(step) + int(step)/every {
		if _, err := io.ReadFull(in, word[:]); err != nil {
			return fmt.Errorf("read loss %d: %w", i, err)
		}
		x := math.Float64frombits(binary.LittleEndian.Uint64(word[:]))
		if i < int(step) {
			h.Loss = append(h.Loss, x)
		} else {
			h.Held = append(h.Held, x)
		}
	}
	buf := make([]byte, 1<<16)
	for _, x := range m.slabs() {
		for len(x) > 0 {
			n := min(len(x), len(buf)/4)
			if _, err := io.ReadFull(in, buf[:4*n]); err != nil {
				return fmt.Errorf("read values: %w", err)
			}
			for i := range n {
				x[i] = math.Float32frombits(binary.LittleEndian.Uint32(buf[4*i:]))
			}
			x = x[n:]
		}
	}
	for _, t := range m.Tables {
		if err := binary.Read(in, binary.LittleEndian, t.Steps); err != nil {
			return fmt.Errorf("read counts of steps: %w", err)
		}
	}
	end := make([]byte, sha256.Size+1)
	computed := sum.Sum(nil)
	if n, err := io.ReadFull(r, end); err != io.ErrUnexpectedEOF || n != sha256.Size || !bytes.Equal(end[:n], computed) {
		return errors.New("the checksum does not fit")
	}
	m.Step = int(step)
	return nil
}

// save writes a checkpoint beside path and then puts it in its place, so that
// path always holds a whole one.
func save(path string, identity []byte, m *Model, h *History) (err error) {
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
	if err := writeCheckpoint(w, identity, m, h); err != nil {
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

// syncDir makes a rename in dir last through a power cut, where the system can;
// without it the older checkpoint may come back, which costs only time.
func syncDir(dir string) {
	if d, err := os.Open(dir); err == nil {
		_ = d.Sync()
		_ = d.Close()
	}
}

// load reads the checkpoint at path. Without one, ok is false.
func load(path string, identity []byte, every int, m *Model, h *History) (ok bool, err error) {
	f, err := os.Open(path)
	if errors.Is(err, os.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	defer f.Close()
	if err := readCheckpoint(bufio.NewReaderSize(f, 1<<20), identity, every, m, h); err != nil {
		return false, fmt.Errorf("checkpoint %s: %w; remove it to begin again", path, err)
	}
	return true, nil
}
