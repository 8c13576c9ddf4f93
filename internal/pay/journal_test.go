package pay

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"sync/atomic"
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

// TestJournalShares: Puts that come while a record is written share the next one. As
// the file is at any step, also cut short, it opens with every Put that has returned,
// and with none by half.
func TestJournalShares(t *testing.T) {
	const puts, clients = 12, 8
	type picture struct {
		step  string
		file  []byte
		acked []int // of each client, how many Puts had returned before
	}
	dir := t.TempDir()
	var acked [clients]atomic.Int64
	var pictures []picture // by the one who writes
	records := 0
	begun := false
	j, err := openJournal(dir, func(step string) {
		if !begun {
			return
		}
		p := picture{step: step}
		for i := range acked {
			p.acked = append(p.acked, int(acked[i].Load()))
		}
		b, err := os.ReadFile(filepath.Join(dir, "journal"))
		if err != nil {
			t.Error(err)
		}
		p.file = b
		pictures = append(pictures, p)
		if step == "synced" {
			records++
		}
		if step == "written" {
			for range 1000 { // a disk takes its time, and others come
				runtime.Gosched()
			}
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	begun = true
	var work sync.WaitGroup
	for c := range clients {
		work.Go(func() {
			for n := 1; n <= puts; n++ {
				v := fmt.Append(nil, n)
				if err := j.Put(Entry{fmt.Sprint("a", c), v}, Entry{fmt.Sprint("b", c), v}); err != nil {
					t.Error(err)
				}
				if got := j.Get(fmt.Sprint("b", c)); string(got) != string(v) {
					t.Errorf("client %d: %s after %d was put", c, got, n)
				}
				acked[c].Store(int64(n))
			}
		})
	}
	work.Wait()
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	if records >= puts*clients || records < puts {
		t.Errorf("%d records for %d Puts of %d clients", records, puts*clients, clients)
	}
	if len(pictures) != 4*records {
		t.Fatalf("%d pictures of %d records", len(pictures), records)
	}
	for _, p := range pictures {
		for _, cut := range []int{0, 1, 9} {
			if p.step == "synced" && cut > 0 {
				continue // it is on the disk
			}
			if cut > 0 && p.step == "before" {
				continue // what is there was synced
			}
			d := t.TempDir()
			if err := os.WriteFile(filepath.Join(d, "journal"), p.file[:len(p.file)-cut], 0o600); err != nil {
				t.Fatal(err)
			}
			again, err := OpenJournal(d)
			if err != nil {
				t.Fatalf("%s, cut by %d: %v", p.step, cut, err)
			}
			for c, least := range p.acked {
				a, b := again.Get(fmt.Sprint("a", c)), again.Get(fmt.Sprint("b", c))
				n := 0
				if len(a) > 0 {
					if _, err := fmt.Sscan(string(a), &n); err != nil {
						t.Fatal(err)
					}
				}
				if string(a) != string(b) || n < least || n > puts {
					t.Errorf("%s, cut by %d: client %d has %q and %q, and %d had returned", p.step, cut, c, a, b, least)
				}
			}
			if err := again.Close(); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// TestJournalSharedFault: when a record cannot be written, all whose Puts it holds are
// told, and nobody is after that.
func TestJournalSharedFault(t *testing.T) {
	begun, inside, release := false, make(chan struct{}), make(chan struct{})
	var once sync.Once
	j, err := openJournal(t.TempDir(), func(step string) {
		if begun && step == "before" {
			once.Do(func() { close(inside); <-release })
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	begun = true
	var work sync.WaitGroup
	results := make([]error, 9)
	work.Go(func() { results[0] = j.Put(Entry{"k0", []byte("v")}) })
	<-inside
	for i := 1; i < len(results); i++ {
		work.Go(func() { results[i] = j.Put(Entry{fmt.Sprint("k", i), []byte("v")}) })
	}
	j.file.Close() // the disk is gone
	close(release)
	work.Wait()
	for i, err := range results {
		if err == nil || j.Get(fmt.Sprint("k", i)) != nil {
			t.Errorf("Put %d: %v, and Get has %q", i, err, j.Get(fmt.Sprint("k", i)))
		}
	}
	if err := j.Put(Entry{"later", []byte("v")}); err == nil {
		t.Error("a Put after a fault")
	}
	_ = j.Close() // its file is closed
}

// BenchmarkJournalPut is a record of one at a time, and of eight at once.
func BenchmarkJournalPut(b *testing.B) {
	for _, clients := range []int{1, 8} {
		b.Run(fmt.Sprint(clients), func(b *testing.B) {
			j := mustOpen(b, b.TempDir())
			value := make([]byte, 2000)
			var left atomic.Int64
			left.Store(int64(b.N))
			b.ResetTimer()
			var work sync.WaitGroup
			for c := range clients {
				work.Go(func() {
					for left.Add(-1) >= 0 {
						if err := j.Put(Entry{fmt.Sprint(c), value}); err != nil {
							b.Error(err)
						}
					}
				})
			}
			work.Wait()
		})
	}
}
