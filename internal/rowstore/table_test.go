package rowstore

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"

	"github.com/geistnet/geist/arith"
	"github.com/geistnet/geist/merkle"
	"github.com/geistnet/geist/sat"
)

// plain is a small table's shape: rows of 12 bytes, or 40 with moments.
func plain(rows uint64, moments bool) sat.Shape {
	return sat.Shape{Rows: rows, Format: arith.F32, Dim: 3, Moments: moments}
}

// rootOf is the definition: the root over records in memory.
func rootOf(t *testing.T, records []byte, size int) merkle.Hash {
	t.Helper()
	d, err := merkle.Rows(records, size)
	if err != nil {
		t.Fatal(err)
	}
	root, err := merkle.Build(context.Background(), d, merkle.Options{})
	if err != nil {
		t.Fatal(err)
	}
	return root
}

// draw picks k ids below n, ascending.
func draw(r *rand.Rand, n uint64, k int) []uint64 {
	set := map[uint64]bool{}
	for len(set) < min(k, int(n)) {
		set[r.Uint64N(n)] = true
	}
	var ids []uint64
	for id := range set {
		ids = append(ids, id)
	}
	slices.Sort(ids)
	return ids
}

func randomBytes(r *rand.Rand, n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(r.Uint32())
	}
	return b
}

// whole demands that the table has exactly these records and that all agrees.
func whole(t *testing.T, tb *Table, records []byte) {
	t.Helper()
	ids := make([]uint64, tb.shape.Rows)
	for i := range ids {
		ids[i] = uint64(i)
	}
	got := make([]byte, len(records))
	if err := tb.Read(ids, got); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, records) {
		t.Fatalf("the records of commit %d are others than were written", tb.State().Commit)
	}
	if want := rootOf(t, records, tb.size); tb.State().Root != want {
		t.Fatalf("root %v, want %v", tb.State().Root, want)
	}
	r, err := tb.Check(context.Background(), nil)
	if err != nil {
		t.Fatal(err)
	}
	if !r.Whole || r.Root != tb.State().Root {
		t.Fatalf("check: %+v", r)
	}
}

// TestTable: tables of many sizes follow the definition through commits, snapshots and reopening.
func TestTable(t *testing.T) {
	sizes := []uint64{1, 2, 3, 5, 63, 64, 65, 127, 128, 129, 1000, 4095, 4096, 4097, 5000}
	for _, n := range sizes {
		t.Run(fmt.Sprint(n), func(t *testing.T) {
			r := rand.New(rand.NewPCG(n, 1))
			m := newMemory()
			shape := plain(n, false)
			size := shape.RecordBytes()
			if _, err := Create(t.Context(), m, shape, nil, nil); err != nil {
				t.Fatal(err)
			}
			if _, err := Create(t.Context(), m, shape, nil, nil); err == nil {
				t.Fatal("made a table where there is one")
			}
			records := make([]byte, int(n)*size)
			tb, err := Open(m, Options{})
			if err != nil {
				t.Fatal(err)
			}
			whole(t, tb, records)
			trusted := tb.State()
			type seen struct {
				s       *Snapshot
				records []byte
			}
			var snapshots []seen
			for i := range 12 {
				if i%3 == 1 {
					snapshots = append(snapshots, seen{tb.Snapshot(), slices.Clone(records)})
				}
				ids := draw(r, n, 1+r.IntN(40))
				fresh := randomBytes(r, len(ids)*size)
				tr, err := tb.Commit(ids, sat.UpdateRule{}, fresh, i%2 == 0)
				if err != nil {
					t.Fatal(err)
				}
				if trusted, err = tr.Verify(trusted, sat.UpdateRule{}); err != nil {
					t.Fatal(err)
				}
				if trusted != tb.State() {
					t.Fatalf("the verifier is at %v, the table at %v", trusted, tb.State())
				}
				for j, id := range ids {
					copy(records[int(id)*size:], fresh[j*size:(j+1)*size])
				}
				whole(t, tb, records)
				if i%5 == 4 {
					for _, s := range snapshots {
						checkSnapshot(t, r, s.s, s.records, n, size)
						if err := s.s.Close(); err != nil {
							t.Fatal(err)
						}
					}
					snapshots = nil
					// As another reader finds it, with the journal; then as the next writer does.
					for _, o := range []Options{{ReadOnly: true}, {}} {
						again, err := Open(m.copyOf(), o)
						if err != nil {
							t.Fatal(err)
						}
						whole(t, again, records)
						if again.State() != trusted {
							t.Fatalf("opened at %v, want %v", again.State(), trusted)
						}
						if _, err := again.Commit([]uint64{0}, sat.UpdateRule{}, make([]byte, size), true); o.ReadOnly != (err != nil) {
							t.Fatalf("read only %v: commit: %v", o.ReadOnly, err)
						}
					}
				}
			}
			if err := tb.Close(); err != nil {
				t.Fatal(err)
			}
			if len(m.files["journal"].view) != 0 {
				t.Fatal("the journal is not empty after Close")
			}
		})
	}
}

func checkSnapshot(t *testing.T, r *rand.Rand, s *Snapshot, records []byte, n uint64, size int) {
	t.Helper()
	ids := draw(r, n, 50)
	got := make([]byte, len(ids)*size)
	if err := s.Read(ids, got); err != nil {
		t.Fatal(err)
	}
	proof, err := s.Prove(ids)
	if err != nil {
		t.Fatal(err)
	}
	hashes := make([]merkle.Hash, len(ids))
	for i, id := range ids {
		if !bytes.Equal(got[i*size:(i+1)*size], records[int(id)*size:(int(id)+1)*size]) {
			t.Fatalf("snapshot of commit %d: row %d changed", s.State().Commit, id)
		}
		hashes[i] = merkle.HashLeaf(got[i*size : (i+1)*size])
	}
	if err := merkle.Verify(s.State().Root, n, ids, hashes, proof); err != nil {
		t.Fatalf("snapshot of commit %d: %v", s.State().Commit, err)
	}
}

// TestCreateFrom: a table made of values has the root of the tensor.
func TestCreateFrom(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 3))
	for _, moments := range []bool{false, true} {
		for _, n := range []uint64{1, 64, 777, 9000} {
			shape := plain(n, moments)
			values := randomBytes(r, int(n)*shape.ValueBytes())
			m := newMemory()
			state, err := Create(t.Context(), m, shape, bytes.NewReader(values), nil)
			if err != nil {
				t.Fatal(err)
			}
			tb, err := Open(m, Options{})
			if err != nil {
				t.Fatal(err)
			}
			records := make([]byte, int(n)*shape.RecordBytes())
			for i := range int(n) {
				copy(records[i*shape.RecordBytes():], values[i*shape.ValueBytes():(i+1)*shape.ValueBytes()])
			}
			whole(t, tb, records)
			if state != tb.State() {
				t.Fatalf("made at %v, opened at %v", state, tb.State())
			}
			var out bytes.Buffer
			if err := tb.Values(t.Context(), &out, nil); err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(out.Bytes(), values) {
				t.Fatal("other values came out than went in")
			}
			for _, wrong := range []int{-1, 1} {
				b := make([]byte, len(values)+wrong)
				if _, err := Create(t.Context(), newMemory(), shape, bytes.NewReader(b), nil); err == nil {
					t.Fatalf("took %d bytes of values for %d", len(b), len(values))
				}
			}
		}
	}
}

// TestAdamCommit: a trained table and a verifier that only sees transitions stay together.
func TestAdamCommit(t *testing.T) {
	r := rand.New(rand.NewPCG(5, 5))
	m := newMemory()
	shape := plain(500, true)
	state, err := Create(t.Context(), m, shape, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	tb, err := Open(m, Options{})
	if err != nil {
		t.Fatal(err)
	}
	rule := sat.UpdateRule{Kind: sat.AdamStep, Adam: sat.Adam{LR: 0.01, Beta1: 0.9, Beta2: 0.999, Eps: 1e-8, WeightDecay: 0.1}}
	for i := range 20 {
		ids := draw(r, 500, 30)
		grads := randomBytes(r, len(ids)*12)
		for j := 3; j < len(grads); j += 4 {
			grads[j] = 0x3f // finite
		}
		tr, err := tb.Commit(ids, rule, grads, i%2 == 0)
		if err != nil {
			t.Fatal(err)
		}
		b, err := tr.Encode()
		if err != nil {
			t.Fatal(err)
		}
		if tr, err = sat.DecodeTransition(b); err != nil {
			t.Fatal(err)
		}
		if state, err = tr.Verify(state, rule); err != nil {
			t.Fatal(err)
		}
		if state != tb.State() {
			t.Fatalf("the verifier is at %v, the table at %v", state, tb.State())
		}
	}
}

// TestRefusals: commits and reads that make no sense change nothing.
func TestRefusals(t *testing.T) {
	m := newMemory()
	shape := plain(100, false)
	if _, err := Open(m, Options{}); !errors.Is(err, ErrNoTable) {
		t.Fatalf("opened nothing: %v", err)
	}
	if _, err := Create(t.Context(), m, shape, nil, nil); err != nil {
		t.Fatal(err)
	}
	tb, err := Open(m, Options{})
	if err != nil {
		t.Fatal(err)
	}
	before := tb.State()
	for _, ids := range [][]uint64{nil, {100}, {1, 1}, {2, 1}, {1 << 63}} {
		if _, err := tb.Commit(ids, sat.UpdateRule{}, make([]byte, 12*len(ids)), true); err == nil {
			t.Errorf("committed rows %v", ids)
		}
		if tb.State() != before {
			t.Errorf("the state changed")
		}
	}
	if _, err := tb.Commit([]uint64{1}, sat.UpdateRule{}, make([]byte, 11), true); err == nil {
		t.Error("committed a record that is too short")
	}
	if err := tb.Read([]uint64{100}, make([]byte, 12)); err == nil {
		t.Error("read a row that is not there")
	}
	if err := tb.Read([]uint64{1}, make([]byte, 13)); err == nil {
		t.Error("read a row into too many bytes")
	}
	whole(t, tb, make([]byte, 1200))
	m.files["rows"].view[50] ^= 1 // row 4
	if _, err := tb.Commit([]uint64{4}, sat.UpdateRule{}, make([]byte, 12), true); !errors.Is(err, ErrCorrupt) {
		t.Errorf("built a new root on a damaged row: %v", err)
	}
}

// TestCheck: each byte of rows and nodes matters, and Check says which row it is.
func TestCheck(t *testing.T) {
	m := newMemory()
	shape := plain(130, false)
	r := rand.New(rand.NewPCG(1, 9))
	if _, err := Create(t.Context(), m, shape, bytes.NewReader(randomBytes(r, 130*12)), nil); err != nil {
		t.Fatal(err)
	}
	check := func(m *memory) *Report {
		t.Helper()
		tb, err := Open(m, Options{ReadOnly: true, Damaged: true})
		if err != nil {
			t.Fatal(err)
		}
		rep, err := tb.Check(t.Context(), nil)
		if err != nil {
			t.Fatal(err)
		}
		return rep
	}
	if rep := check(m); !rep.Whole {
		t.Fatalf("%+v", rep)
	}
	for i := 0; i < 130*12; i += 7 {
		c := m.copyOf()
		c.files["rows"].view[i] ^= 0x10
		rep := check(c)
		if rep.Whole || !slices.Equal(rep.BadRows, []uint64{uint64(i / 12)}) || rep.Root == rep.State.Root || len(rep.Unproven) > 0 {
			t.Fatalf("byte %d of rows: %+v", i, rep)
		}
	}
	seen := 0
	l := newLayout(130, merkle.Hash{})
	for page := range l.pages() {
		l.nodes(page, func(level int, index uint64, offset int) {
			seen++
			c := m.copyOf()
			c.files["nodes"].view[int(page)*pageBytes+offset+seen%32] ^= 1
			rep := check(c)
			if rep.Whole || len(rep.BadRows) > 0 || rep.BadNodes != 1 || rep.Root != rep.State.Root {
				t.Fatalf("node %d of level %d: %+v", index, level, rep)
			}
		})
	}
	if seen < 260 {
		t.Fatalf("only %d nodes", seen)
	}
	c := m.copyOf()
	c.files["rows"].view[12*77] ^= 1
	c.files["nodes"].view[3*32] ^= 1 // leaf 3: rows 2 and 3 cannot be told apart from damage by their stored paths
	rep := check(c)
	if rep.Whole || !slices.Equal(rep.BadRows, []uint64{77}) {
		t.Fatalf("%+v", rep)
	}
}

// TestReaders: readers and snapshots see whole commits while a writer goes on.
func TestReaders(t *testing.T) {
	dir := Dir{Path: t.TempDir()}
	shape := plain(1000, false)
	if _, err := Create(t.Context(), dir, shape, nil, nil); err != nil {
		t.Fatal(err)
	}
	tb, err := Open(dir, Options{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Open(dir, Options{}); !errors.Is(err, ErrInUse) {
		t.Fatalf("two writers: %v", err)
	}
	ids := make([]uint64, 40) // each commit sets all of them to one byte
	for i := range ids {
		ids[i] = uint64(25 * i)
	}
	stop := make(chan struct{})
	var wg sync.WaitGroup
	same := func(b []byte) bool { return bytes.Count(b, b[:1]) == len(b) }
	for range 3 {
		wg.Go(func() {
			b := make([]byte, len(ids)*12)
			for {
				select {
				case <-stop:
					return
				default:
				}
				if err := tb.Read(ids, b); err != nil || !same(b) {
					t.Errorf("read rows of several commits: %v", err)
					return
				}
				s := tb.Snapshot()
				first := slices.Clone(b)
				for i := range 3 {
					if err := s.Read(ids, b); err != nil || !same(b) || i > 0 && !bytes.Equal(b, first) {
						t.Errorf("the snapshot changed: %v", err)
					}
					copy(first, b)
				}
				if proof, err := s.Prove(ids); err != nil {
					t.Error(err)
				} else {
					h := make([]merkle.Hash, len(ids))
					for i := range h {
						h[i] = merkle.HashLeaf(b[12*i : 12*i+12])
					}
					if err := merkle.Verify(s.State().Root, 1000, ids, h, proof); err != nil {
						t.Error(err)
					}
				}
				if err := s.Close(); err != nil {
					t.Error(err)
				}
			}
		})
	}
	for i := range 100 {
		if _, err := tb.Commit(ids, sat.UpdateRule{}, bytes.Repeat([]byte{byte(i)}, len(ids)*12), i%4 == 0); err != nil {
			t.Fatal(err)
		}
	}
	close(stop)
	wg.Wait()
	if err := tb.Close(); err != nil {
		t.Fatal(err)
	}
}
