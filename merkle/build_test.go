package merkle

import (
	"bytes"
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"testing"
)

func testBytes(n int) []byte {
	b := make([]byte, n)
	rand.NewChaCha8([32]byte{9}).Read(b)
	return b
}

func pieces(b []byte, size int) [][]byte {
	var out [][]byte
	for len(b) > 0 {
		n := min(size, len(b))
		out, b = append(out, b[:n]), b[n:]
	}
	return out
}

// TestBuild: each kind of data, any number of goroutines, with and without
// storing, gives the root, and the levels if asked for.
func TestBuild(t *testing.T) {
	for _, c := range []struct{ length, size int }{
		{1, 1}, {1, 1 << 30}, {5, 2}, {64, 64}, {1000, 3}, {70000, 1}, {300000, 7}, {5 << 20, 2176},
		{5<<20 + 1, 4096}, {3 << 20, 64 << 10}, {4<<20 - 1, 1 << 20}, {5 << 20, 3 << 20},
	} {
		counts := []int{0, 1, 2, 7}
		if testing.Short() { // the race detector takes a hundred times as long
			if c.length > 70000 && c.size != 4096 {
				continue
			}
			counts = []int{7}
		}
		data := testBytes(c.length)
		leaves := pieces(data, c.size)
		want := FromLeaves(reference.hashes(leaves), Plain{})
		root := mustRoot(t, want)
		rows, err := Rows(data, c.size)
		if err != nil {
			t.Fatal(err)
		}
		file, err := File(bytes.NewReader(data), int64(c.length), c.size)
		if err != nil {
			t.Fatal(err)
		}
		for kind, d := range map[string]Data{"slices": Slices(leaves), "rows": rows, "file": file} {
			if d.Len() != uint64(len(leaves)) {
				t.Errorf("%s of %d bytes by %d: %d leaves, want %d", kind, c.length, c.size, d.Len(), len(leaves))
			}
			for _, workers := range counts {
				var nodes Memory
				var progress []uint64
				o := Options{Workers: workers, Progress: func(n uint64) { progress = append(progress, n) }}
				if workers != 1 {
					o.Nodes = &nodes
				}
				got, err := Build(t.Context(), d, o)
				if err != nil || got != root {
					t.Fatalf("%s of %d bytes by %d, %d workers: %v, %v, want %v", kind, c.length, c.size, workers, got, err, root)
				}
				if o.Nodes != nil {
					sameNodes(t, Open(&nodes, d.Len(), Plain{}), want)
				}
				for i, n := range progress {
					if i > 0 && n <= progress[i-1] {
						t.Errorf("progress %d after %d", n, progress[i-1])
					}
				}
				if len(progress) == 0 || progress[len(progress)-1] != d.Len() {
					t.Errorf("progress ends before %d: %d", d.Len(), progress)
				}
			}
		}
	}
}

// TestBuildSmall: every number of leaves around the powers of two.
func TestBuildSmall(t *testing.T) {
	data := testBytes(200)
	for n := 1; n <= 200; n++ {
		leaves := pieces(data[:n], 1)
		got, err := Build(t.Context(), Slices(leaves), Options{})
		if want := reference.root(reference.hashes(leaves)); err != nil || got != want {
			t.Errorf("%d leaves: %v, %v, want %v", n, got, err, want)
		}
	}
}

// TestBuildMixed: leaves of different lengths, some empty.
func TestBuildMixed(t *testing.T) {
	r := rand.New(rand.NewPCG(7, 8))
	data := testBytes(5000)
	var leaves [][]byte
	for range 3000 {
		n := r.IntN(3) * r.IntN(1500)
		leaves = append(leaves, data[r.IntN(100):][:n])
	}
	got, err := Build(t.Context(), Slices(leaves), Options{})
	if want := reference.root(reference.hashes(leaves)); err != nil || got != want {
		t.Errorf("%v, %v, want %v", got, err, want)
	}
}

func TestBuildErrors(t *testing.T) {
	if _, err := Build(t.Context(), Slices(nil), Options{}); err == nil {
		t.Error("built a tree without leaves")
	}
	if _, err := Build(t.Context(), Data{}, Options{}); err == nil {
		t.Error("built a tree of no data")
	}
	for _, size := range []int{0, -1} {
		if _, err := Rows(make([]byte, 10), size); err == nil {
			t.Errorf("leaves of %d bytes", size)
		}
		if _, err := File(bytes.NewReader(nil), 10, size); err == nil {
			t.Errorf("leaves of %d bytes", size)
		}
	}
	if _, err := File(bytes.NewReader(nil), -1, 5); err == nil {
		t.Error("a file of -1 bytes")
	}
	short, err := File(bytes.NewReader(make([]byte, 5<<20)), 6<<20, 4096)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Build(t.Context(), short, Options{}); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("a file that is too short: %v", err)
	}
	rows, err := Rows(make([]byte, 1<<17), 1)
	if err != nil {
		t.Fatal(err)
	}
	step := 1
	if testing.Short() {
		step = 9
	}
	for at := 0; at < 40; at += step {
		if _, err := Build(t.Context(), rows, Options{Nodes: &faultyNodes{at: at}}); !errors.Is(err, errDisk) {
			t.Errorf("store that fails at call %d: %v", at, err)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	calls := 0
	_, err = Build(ctx, rows, Options{Workers: 2, Progress: func(uint64) { calls++; cancel() }})
	if !errors.Is(err, context.Canceled) || calls > 2 {
		t.Errorf("canceled after the first span: %v after %d spans", err, calls)
	}
}

// TestBuildMemory: what waits for its neighbour stays few.
func TestBuildMemory(t *testing.T) {
	rows, err := Rows(make([]byte, 1<<20), 1)
	if err != nil {
		t.Fatal(err)
	}
	b := &builder{Data: rows, Options: Options{Hasher: Plain{}}, height: 4, waiting: map[place]Hash{}}
	most := 0
	var late []uint64 // first leaves of three spans that end after all others
	end := func(first uint64) {
		if err := b.end(first, 16, nil, Hash{}); err != nil {
			t.Fatal(err)
		}
		most = max(most, len(b.waiting))
	}
	for {
		first, count := b.begin(t.Context())
		if count == 0 {
			break
		}
		if first == 0 || len(late) < 3 && first%(16*1000) == 0 {
			late = append(late, first)
			continue
		}
		end(first)
	}
	for _, first := range late {
		end(first)
	}
	if most > 4*20 || len(b.waiting) != 0 || b.done != 1<<20 {
		t.Errorf("%d nodes waited at most, %d at the end, %d leaves done", most, len(b.waiting), b.done)
	}
}
