package asker

import (
	"encoding/hex"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"reflect"
	"testing"

	"github.com/geistnet/geist/ghost"
	"github.com/geistnet/geist/internal/job"
	"github.com/geistnet/geist/internal/market"
	"github.com/geistnet/geist/internal/pay"
)

func accounts(t testing.TB, puts int) *Asker {
	t.Helper()
	a := &Asker{o: Options{Journal: pay.NewMemoryJournal(), Log: slog.New(slog.DiscardHandler)}}
	rnd := rand.New(rand.NewPCG(1, 2))
	phases := []job.Phase{job.PhaseSettled, job.PhaseAudited, job.PhaseFailed, job.PhaseCancelled}
	for i := range puts {
		n := i
		if rnd.IntN(3) == 0 { // a verdict on one that is there, or was
			n = rnd.IntN(i + 1)
		}
		var provider ghost.Key
		provider[0] = byte(n % 5)
		e := Entry{At: int64(n), Job: fmt.Sprint("job ", n), Provider: hex.EncodeToString(provider[:]), ModelID: ghost.ID{byte(n % 3)}.String(), Phase: phases[rnd.IntN(len(phases))], Code: job.Busy, PaidMsat: int64(i),
			Verdict: []string{"", "passed", "failed", verdictMissing}[rnd.IntN(4)]}
		switch rnd.IntN(50) {
		case 0:
			e.Provider = "no key"
		case 1:
			e.Provider += "00"
		case 2:
			e.ModelID = "no id"
		}
		a.put(e)
	}
	return a
}

// TestFelt: what is known of providers follows the accounts as they come, are judged
// and are forgotten, and is what the same accounts say when they are read again.
func TestFelt(t *testing.T) {
	for _, puts := range []int{0, 1, 50, maxEntries + 700} {
		a := accounts(t, puts)
		var want []market.Experience
		for i := range a.entries {
			if f := feel(&a.entries[i]); f.says {
				want = append(want, f.Experience)
			}
		}
		got := a.Experience()
		if len(a.felt) != len(a.entries) || len(got) != len(want) || puts > 50 && len(want) < maxEntries/2 {
			t.Fatalf("%d puts: %d entries, %d felt, %d experiences, want %d", puts, len(a.entries), len(a.felt), len(got), len(want))
		}
		for i := range got {
			if !reflect.DeepEqual(got[i], want[i]) {
				t.Fatalf("%d puts: experience %d is %+v, want %+v", puts, i, got[i], want[i])
			}
		}
	}
}

// BenchmarkExperience is what each question pays for the accounts of earlier ones.
func BenchmarkExperience(b *testing.B) {
	a := accounts(b, maxEntries+maxEntries/2)
	for b.Loop() {
		a.known = nil
		if len(a.Experience()) == 0 {
			b.Fatal("none")
		}
	}
}
