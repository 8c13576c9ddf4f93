package rowstore

import (
	"bufio"
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/geistnet/geist/sat"
)

// story is commits on a small table, some durable at once and some later, and the records after each.
type story struct {
	shape   sat.Shape
	records [][]byte // by commit number
	ids     [][]uint64
	fresh   [][]byte
}

func newStory(rows uint64, commits int) *story {
	r := rand.New(rand.NewPCG(rows, 7))
	s := &story{shape: plain(rows, false)}
	size := s.shape.RecordBytes()
	now := make([]byte, int(rows)*size)
	s.records = append(s.records, slices.Clone(now))
	for range commits {
		ids := draw(r, rows, 1+r.IntN(20))
		fresh := randomBytes(r, len(ids)*size)
		for i, id := range ids {
			copy(now[int(id)*size:], fresh[i*size:(i+1)*size])
		}
		s.ids, s.fresh, s.records = append(s.ids, ids), append(s.fresh, fresh), append(s.records, slices.Clone(now))
	}
	return s
}

// tell does what is left of the story: commit i is durable at once if i is a
// multiple of 3, after commit 5 the table is closed and opened again. It returns
// the last commit that was promised and the last that was tried.
func (s *story) tell(m *memory) (promised, tried uint64) {
	tb, err := Open(m, Options{})
	if err != nil {
		return 0, 0
	}
	promised = tb.State().Commit
	tried = promised
	for i := int(promised); i < len(s.ids); i++ {
		durable := i%3 == 0
		tried = uint64(i + 1)
		tb.room = maxPending * (i % 2) // every second commit writes all that waits
		if i == 2 {                    // with a snapshot, whose file may fail too
			s := tb.Snapshot()
			defer s.Close()
		}
		if _, err := tb.Commit(s.ids[i], sat.UpdateRule{}, s.fresh[i], durable); err != nil {
			return promised, tried
		}
		if durable {
			promised = tried
		}
		if i == 5 {
			if tb.Close() != nil {
				return promised, tried
			}
			promised = tried
			if tb, err = Open(m, Options{}); err != nil {
				return promised, tried
			}
		}
	}
	if tb.Close() == nil {
		promised = tried
	}
	return promised, tried
}

// TestCrash fails every single write and sync of a story in each form, and lets the
// process or the machine die there: the table opens at a commit between the
// last that was promised and the last that was tried, with exactly its records.
func TestCrash(t *testing.T) {
	for _, rows := range []uint64{100, 300} {
		if rows > 100 && testing.Short() {
			continue
		}
		s := newStory(rows, 9)
		base := newMemory()
		if _, err := Create(t.Context(), base, s.shape, nil, nil); err != nil {
			t.Fatal(err)
		}
		cases, between := 0, 0
		for how := range faults {
			for at := 0; ; at++ {
				m := base.copyOf()
				m.failAt, m.how = at, how
				promised, tried := s.tell(m)
				if !m.hit {
					if at < 30 {
						t.Fatalf("the story has only %d operations", at)
					}
					break
				}
				r := rand.New(rand.NewPCG(uint64(at), uint64(how)))
				after := []*memory{m.copyOf(), m.afterPowerCut(nil)}
				for range 3 {
					after = append(after, m.afterPowerCut(r))
				}
				for i, c := range after {
					name := fmt.Sprintf("rows %d, fault %d at operation %d, world %d", rows, how, at, i)
					cases++
					if s.opens(t, name, c.copyOf(), promised, tried) < tried {
						between++
					}
					// What if the repair dies as well?
					for again := 0; i < 4 && (i+at)%3 == 0; again++ {
						c2 := c.copyOf()
						c2.failAt, c2.how = again, fault(r.IntN(int(faults)))
						if tb, err := Open(c2, Options{}); err == nil {
							tb.Close()
						}
						if !c2.hit {
							break
						}
						cases++
						s.opens(t, name+", then "+strconv.Itoa(again), c2.afterPowerCut(r), promised, tried)
					}
				}
			}
		}
		t.Logf("%d rows: %d crashes, in %d of the first ones the last commit was lost", rows, cases, between)
		if cases < 1000 || between == 0 {
			t.Errorf("%d rows: only %d crashes, %d lost a commit", rows, cases, between)
		}
	}
}

// opens demands a table at a commit from promised to tried, and returns which.
func (s *story) opens(t *testing.T, name string, m *memory, promised, tried uint64) uint64 {
	t.Helper()
	tb, err := Open(m, Options{})
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	c := tb.State().Commit
	if c < promised || c > tried {
		t.Fatalf("%s: opened at commit %d, want %d to %d", name, c, promised, tried)
	}
	if !bytes.Equal(m.files["rows"].view, s.records[c]) {
		t.Fatalf("%s: the rows are not those of commit %d", name, c)
	}
	if tb.State().Root != rootOf(t, s.records[c], tb.size) {
		t.Fatalf("%s: the root is not that of commit %d", name, c)
	}
	rep, err := tb.Check(t.Context(), nil)
	if err != nil || !rep.Whole {
		t.Fatalf("%s: %+v %v", name, rep, err)
	}
	return c
}

// TestCrashInCreate: the making of a table, failed anywhere, leaves none or a whole one.
func TestCrashInCreate(t *testing.T) {
	shape := plain(100, false)
	values := randomBytes(rand.New(rand.NewPCG(4, 4)), 1200)
	none, done := 0, 0
	for how := range faults {
		for at := 0; ; at++ {
			m := newMemory()
			m.failAt, m.how = at, how
			_, err := Create(t.Context(), m, shape, bytes.NewReader(values), nil)
			if m.hit == (err == nil) {
				t.Fatalf("operation %d failed: %v, create: %v", at, m.hit, err)
			}
			if !m.hit {
				break
			}
			r := rand.New(rand.NewPCG(uint64(at), 1))
			for _, c := range []*memory{m.copyOf(), m.afterPowerCut(nil), m.afterPowerCut(r), m.afterPowerCut(r)} {
				if tb, err := Open(c, Options{}); err == nil {
					whole(t, tb, values)
					done++
					continue
				}
				none++
				if _, err := Create(t.Context(), c, shape, bytes.NewReader(values), nil); err != nil {
					t.Fatalf("operation %d: make again: %v", at, err)
				}
				tb, err := Open(c, Options{})
				if err != nil {
					t.Fatal(err)
				}
				whole(t, tb, values)
			}
		}
	}
	if none == 0 || done == 0 {
		t.Errorf("%d left no table, %d a whole one; want some of both", none, done)
	}
}

const childDir = "ROWSTORE_TEST_CHILD"

// TestKill kills a process that commits, again and again, with SIGKILL.
func TestKill(t *testing.T) {
	if dir := os.Getenv(childDir); dir != "" {
		commitForever(t, dir)
		return
	}
	const rows = 2000
	dir := t.TempDir()
	if _, err := Create(t.Context(), Dir{Path: dir}, plain(rows, false), nil, nil); err != nil {
		t.Fatal(err)
	}
	r := rand.New(rand.NewPCG(8, 8))
	var last uint64
	for round := range 5 {
		cmd := exec.Command(os.Args[0], "-test.run=^TestKill$")
		cmd.Env = append(os.Environ(), childDir+"="+dir)
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		lines := bufio.NewScanner(out)
		want := 5 + r.IntN(60)
		for i := 0; i < want && lines.Scan(); i++ {
			c, err := strconv.ParseUint(strings.TrimPrefix(lines.Text(), "commit "), 10, 64)
			if err != nil {
				t.Fatalf("child: %q", lines.Text())
			}
			last = c
		}
		if err := cmd.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		_ = cmd.Wait() // it was killed
		tb, err := Open(Dir{Path: dir}, Options{})
		if err != nil {
			t.Fatalf("round %d: %v", round, err)
		}
		if c := tb.State().Commit; c < last || last == 0 {
			t.Fatalf("round %d: opened at commit %d, the child had made %d", round, c, last)
		}
		rep, err := tb.Check(t.Context(), nil)
		if err != nil || !rep.Whole {
			t.Fatalf("round %d: %+v %v", round, rep, err)
		}
		// The last commit is there wholly: all its rows have its number.
		ids, _ := childCommit(rows, tb.State().Commit)
		got := make([]byte, 12*len(ids))
		if err := tb.Read(ids, got); err != nil {
			t.Fatal(err)
		}
		if _, want := childCommit(rows, tb.State().Commit); !bytes.Equal(got, want) {
			t.Fatalf("round %d: rows of commit %d are others", round, tb.State().Commit)
		}
		if err := tb.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

func childCommit(rows, commit uint64) ([]uint64, []byte) {
	r := rand.New(rand.NewPCG(commit, 99))
	ids := draw(r, rows, 100)
	return ids, randomBytes(r, 12*len(ids))
}

// commitForever prints each commit after it was made; every fourth is durable.
func commitForever(t *testing.T, dir string) {
	tb, err := Open(Dir{Path: dir}, Options{})
	if err != nil {
		t.Fatal(err)
	}
	for {
		next := tb.State().Commit + 1
		ids, fresh := childCommit(tb.shape.Rows, next)
		if _, err := tb.Commit(ids, sat.UpdateRule{}, fresh, next%4 == 0); err != nil {
			t.Fatal(err)
		}
		fmt.Printf("commit %d\n", next)
	}
}
