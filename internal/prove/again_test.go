package prove

import (
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"testing"
	"time"

	"github.com/geistnet/geist/audit"
	"github.com/geistnet/geist/ghost"
	"github.com/geistnet/geist/internal/hashmany"
	"github.com/geistnet/geist/merkle"
)

// TestVerifyAgain measures, on one processor, the verification of the proofs that
// TestMeasure or TestShape left in the directory GEIST_MEASURED, with either
// hasher. Of many runs it reports the least and the median processor time: other
// processes' work is not counted, though what they do to the caches is.
func TestVerifyAgain(t *testing.T) {
	dir := os.Getenv("GEIST_MEASURED")
	if dir == "" {
		t.Skip("GEIST_MEASURED names no directory with proofs")
	}
	names, err := filepath.Glob(filepath.Join(dir, "*.proof"))
	if err != nil || len(names) == 0 {
		t.Fatalf("no proofs in %s (%v)", dir, err)
	}
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1))
	for _, name := range names {
		var b [3][]byte
		for i, suffix := range []string{".run", ".ghost", ".proof"} {
			if b[i], err = os.ReadFile(name[:len(name)-len(".proof")] + suffix); err != nil {
				t.Fatal(err)
			}
		}
		f, err := audit.ParseRunFile(b[0])
		if err != nil {
			t.Fatal(err)
		}
		m, err := ghost.Decode(b[1])
		if err != nil {
			t.Fatal(err)
		}
		run, err := f.Run(m)
		if err != nil {
			t.Fatal(err)
		}
		for _, h := range []merkle.Hasher{merkle.Plain{}, hashmany.New()} {
			run.Hasher = h
			var all []time.Duration
			for range 200 {
				begin := cpu()
				if _, err := audit.Verify(run, f.Challenge(), b[2]); err != nil {
					t.Fatal(err)
				}
				all = append(all, cpu()-begin)
			}
			slices.Sort(all)
			t.Logf("%s: %d cells, %d bytes, hasher %T: %.2f ms at least, %.2f ms in the median", filepath.Base(name), f.Size.Cells, len(b[2]), h, 1e3*all[0].Seconds(), 1e3*all[len(all)/2].Seconds())
		}
	}
}
