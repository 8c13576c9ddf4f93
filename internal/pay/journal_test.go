package pay

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
)

func mustOpen(t testing.TB, dir string) *Journal {
	t.Helper()
	j, err := OpenJournal(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { j.Close() })
	return j
}

func TestJournalKeeps(t *testing.T) {
	dir := t.TempDir()
	rnd := rand.New(rand.NewPCG(1, 1))
	want := map[string]string{}
	j := mustOpen(t, dir)
	for i := range 400 {
		var batch []Entry
		for range 1 + rnd.IntN(3) {
			k, v := fmt.Sprint("k", rnd.IntN(30)), fmt.Sprint("v", i)
			if rnd.IntN(4) == 0 {
				v = ""
			}
			batch = append(batch, Entry{k, []byte(v)})
			if v == "" {
				delete(want, k)
			} else {
				want[k] = v
			}
		}
		if err := j.Put(batch...); err != nil {
			t.Fatal(err)
		}
		if i%50 == 20 {
			if err := j.Compact(); err != nil {
				t.Fatal(err)
			}
		}
		if i%40 == 7 {
			j.Close()
			if err := j.Put(Entry{"x", []byte("y")}); !errors.Is(err, ErrClosed) {
				t.Errorf("after Close: %v", err)
			}
			j = mustOpen(t, dir)
		}
	}
	n, last := 0, ""
	for k, v := range j.All("k") {
		if want[k] != string(v) || k <= last {
			t.Errorf("%s is %s after %s; want %s", k, v, last, want[k])
		}
		n, last = n+1, k
	}
	if n != len(want) || n == 0 {
		t.Errorf("%d keys; want %d", n, len(want))
	}
}

func TestJournalLock(t *testing.T) {
	dir := t.TempDir()
	j := mustOpen(t, dir)
	if second, err := OpenJournal(dir); err == nil {
		second.Close()
		t.Error("two hold one journal")
	}
	j.Close()
	mustOpen(t, dir)
}

func TestJournalRefuses(t *testing.T) {
	j := mustOpen(t, t.TempDir())
	for _, e := range [][]Entry{nil, {{"", []byte("x")}}, {{string(make([]byte, maxKey+1)), nil}}, {{"k", make([]byte, maxRecord)}}} {
		if err := j.Put(e...); err == nil {
			t.Errorf("%d entries are kept", len(e))
		}
	}
	if err := j.Put(Entry{"k", []byte("v")}); err != nil {
		t.Errorf("after a refused entry: %v", err)
	}
}

// TestJournalTorn: cut at every byte, the journal opens with whole records only; with any bit of an
// earlier record altered it does not open.
func TestJournalTorn(t *testing.T) {
	dir := t.TempDir()
	j := mustOpen(t, dir)
	var ends []int
	for i := range 5 {
		if err := j.Put(Entry{"sum", fmt.Append(nil, "total ", i)}, Entry{fmt.Sprint(i), []byte("x")}); err != nil {
			t.Fatal(err)
		}
		ends = append(ends, int(j.size))
	}
	j.Close()
	whole, err := os.ReadFile(filepath.Join(dir, "journal"))
	if err != nil {
		t.Fatal(err)
	}
	try := func(b []byte) (*Journal, error) {
		d := t.TempDir()
		if err := os.WriteFile(filepath.Join(d, "journal"), b, 0o600); err != nil {
			t.Fatal(err)
		}
		return OpenJournal(d)
	}
	for cut := range len(whole) + 1 {
		for _, tail := range [][]byte{nil, make([]byte, 40)} { // some file systems leave zeros
			if cut < 8 && tail != nil {
				continue
			}
			j, err := try(append(bytes.Clone(whole[:cut]), tail...))
			if err != nil {
				t.Fatalf("cut at %d: %v", cut, err)
			}
			n := 0
			for n < len(ends) && ends[n] <= cut {
				n++
			}
			want := fmt.Append(nil, "total ", n-1)
			if n == 0 {
				want = nil
			}
			if got := j.Get("sum"); !bytes.Equal(got, want) || j.Get(fmt.Sprint(n)) != nil {
				t.Errorf("cut at %d: %q; want %q", cut, got, want)
			}
			if err := j.Put(Entry{"after", []byte("x")}); err != nil {
				t.Fatal(err)
			}
			j.Close()
			if j, err = OpenJournal(j.dir); err != nil || string(j.Get("after")) != "x" || !bytes.Equal(j.Get("sum"), want) {
				t.Fatalf("cut at %d, written and opened again: %v", cut, err)
			}
			j.Close()
		}
	}
	for i := range ends[3] {
		bad := bytes.Clone(whole)
		bad[i] ^= 0x10
		if j, err := try(bad); err == nil {
			t.Errorf("byte %d of %d altered: it opens with %q", i, len(whole), j.Get("sum"))
			j.Close()
		}
	}
}

func FuzzJournal(f *testing.F) {
	one, err := encodeRecord([]Entry{{"k", []byte("v")}, {"gone", nil}})
	if err != nil {
		f.Fatal(err)
	}
	f.Add([]byte(journalMagic))
	f.Add(append([]byte(journalMagic), one...))
	f.Add(append(append([]byte(journalMagic), one...), one[:9]...))
	f.Fuzz(func(t *testing.T, b []byte) {
		good, err := replay(b, func(e []Entry) {
			if _, err := encodeRecord(e); err != nil {
				t.Fatal(err)
			}
		})
		if err == nil && good > 0 {
			if again, err := replay(b[:good], func([]Entry) {}); err != nil || again != good {
				t.Fatalf("good up to %d, and then to %d: %v", good, again, err)
			}
		}
	})
}
