package rowstore

import (
	"math/rand/v2"
	"testing"

	"github.com/geistnet/geist/arith"
	"github.com/geistnet/geist/sat"
)

const benchRows = 1 << 20

// benchTable is a table of 2²⁰ rows of 512 bytes, or of 1540 with moments.
func benchTable(b *testing.B, moments bool) *Table {
	dir := Dir{Path: b.TempDir()}
	if _, err := Create(b.Context(), dir, sat.Shape{Rows: benchRows, Format: arith.F32, Dim: 128, Moments: moments}, nil, nil); err != nil {
		b.Fatal(err)
	}
	t, err := Open(dir, Options{})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { t.Close() })
	return t
}

func benchCommit(b *testing.B, moments, durable bool) {
	t := benchTable(b, moments)
	r := rand.New(rand.NewPCG(1, 2))
	rule, each := sat.UpdateRule{}, 512
	if moments {
		rule = sat.UpdateRule{Kind: sat.AdamStep, Adam: sat.Adam{LR: 0.001, Beta1: 0.9, Beta2: 0.999, Eps: 1e-8}}
	}
	updates := make([]byte, 384*each)
	for i := range updates {
		updates[i] = byte(i) & 0x3f
	}
	hashes := 0
	for b.Loop() {
		tr, err := t.Commit(draw(r, benchRows, 384), rule, updates, durable)
		if err != nil {
			b.Fatal(err)
		}
		hashes += len(tr.Proof)
	}
	b.ReportMetric(32*float64(hashes)/float64(b.N), "proof-B")
}

func BenchmarkCommit(b *testing.B)            { benchCommit(b, false, false) }
func BenchmarkCommitDurable(b *testing.B)     { benchCommit(b, false, true) }
func BenchmarkCommitAdam(b *testing.B)        { benchCommit(b, true, false) }
func BenchmarkCommitAdamDurable(b *testing.B) { benchCommit(b, true, true) }

func BenchmarkRead384(b *testing.B) {
	t := benchTable(b, false)
	r := rand.New(rand.NewPCG(1, 2))
	dst := make([]byte, 384*512)
	ids := make([]uint64, 384)
	for b.Loop() {
		for i := range ids {
			ids[i] = r.Uint64N(benchRows)
		}
		if err := t.Read(ids, dst); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(384*float64(b.N)/b.Elapsed().Seconds(), "rows/s")
}

func BenchmarkVerify(b *testing.B) {
	for _, moments := range []bool{false, true} {
		b.Run(map[bool]string{false: "set", true: "adam"}[moments], func(b *testing.B) {
			t := benchTable(b, moments)
			rule, each := sat.UpdateRule{}, 512
			if moments {
				rule = sat.UpdateRule{Kind: sat.AdamStep, Adam: sat.Adam{LR: 0.001, Beta1: 0.9, Beta2: 0.999, Eps: 1e-8}}
			}
			trusted := t.State()
			tr, err := t.Commit(draw(rand.New(rand.NewPCG(1, 2)), benchRows, 384), rule, make([]byte, 384*each), true)
			if err != nil {
				b.Fatal(err)
			}
			for b.Loop() {
				if _, err := tr.Verify(trusted, rule); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
