package audit

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/geistnet/geist/ghost"
)

// BenchmarkVerify verifies what internal/prove's TestMeasure left in the
// directory GEIST_MEASURE_OUT.
func BenchmarkVerify(b *testing.B) {
	dir := os.Getenv("GEIST_MEASURE_OUT")
	if dir == "" {
		b.Skip("GEIST_MEASURE_OUT names no directory with proofs")
	}
	for _, name := range []string{"1", "2", "3"} {
		read := func(suffix string) []byte {
			data, err := os.ReadFile(filepath.Join(dir, name+suffix))
			if err != nil {
				b.Fatal(err)
			}
			return data
		}
		f, err := ParseRunFile(read(".run"))
		if err != nil {
			b.Fatal(err)
		}
		m, err := ghost.Decode(read(".ghost"))
		if err != nil {
			b.Fatal(err)
		}
		run, err := f.Run(m)
		if err != nil {
			b.Fatal(err)
		}
		proof := read(".proof")
		b.Run(name, func(b *testing.B) {
			b.SetBytes(int64(len(proof)))
			b.ReportAllocs()
			for b.Loop() {
				if _, err := Verify(run, f.Challenge(), proof); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
