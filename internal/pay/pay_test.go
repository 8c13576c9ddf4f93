package pay

import (
	"errors"
	"math/big"
	"math/rand/v2"
	"testing"
)

func TestMilliSat(t *testing.T) {
	for m, want := range map[MilliSat]string{0: "0 sat", 1: "0.001 sat", 1204: "1.204 sat", -5000: "-5 sat", -1: "-0.001 sat", MaxAmount: "9007199254740.991 sat"} {
		if m.String() != want {
			t.Errorf("%d is %q; want %q", int64(m), m, want)
		}
	}
	for _, c := range [][2]MilliSat{{MaxAmount, 1}, {-1, 5}, {5, -1}, {1 << 62, 1 << 62}} {
		if s, err := c[0].Plus(c[1]); err == nil {
			t.Errorf("%d + %d = %d", c[0], c[1], s)
		}
	}
}

// TestDue compares with numbers of any size.
func TestDue(t *testing.T) {
	rnd := rand.New(rand.NewPCG(3, 3))
	refused := 0
	for range 20_000 {
		p := Prices{MilliSat(rnd.Int64N(1 << (1 + rnd.IntN(53)))), MilliSat(rnd.Int64N(1 << (1 + rnd.IntN(53))))}
		n, k := rnd.IntN(1<<(1+rnd.IntN(30))), rnd.IntN(1<<(1+rnd.IntN(30)))
		want := new(big.Int)
		if k > 0 {
			b := func(x int64) *big.Int { return big.NewInt(x) }
			want.Add(new(big.Int).Mul(b(int64(p.Prompt)), b(int64(n))), new(big.Int).Mul(b(int64(p.Answer)), b(int64(k))))
			want.Add(want, b(999_999)).Div(want, b(1_000_000))
		}
		got, err := p.Due(n, k)
		fits := want.Cmp(big.NewInt(int64(MaxAmount))) <= 0
		if (err == nil) != fits || fits && want.Int64() != int64(got) {
			t.Fatalf("%d and %d tokens at %d and %d: %d, %v; want %v", n, k, p.Prompt, p.Answer, got, err, want)
		}
		if !fits {
			refused++
		}
	}
	if refused == 0 {
		t.Error("nothing overflowed: the test tests less than it should")
	}
	for _, p := range []Prices{{-1, 0}, {0, MaxAmount + 1}} {
		if d, err := p.Due(1, 1); err == nil {
			t.Errorf("%v: %d", p, d)
		}
	}
}

func TestBudgets(t *testing.T) {
	j := NewMemoryJournal()
	b := NewBudgets(j)
	limit := Budget{PerRequest: 100, PerDay: 250}
	const noon = 20_000*day + 43_200
	spend := func(job byte, sum MilliSat, at int64, want error) {
		t.Helper()
		if err := NewBudgets(j).Spend("key", limit, JobID{job}, sum, at); !errors.Is(err, want) {
			t.Errorf("job %d, %d: %v; want %v", job, sum, err, want)
		}
	}
	spend(1, 60, noon, nil)
	spend(1, 60, noon, nil)
	spend(1, 100, noon, nil)
	spend(1, 101, noon, ErrBudget)
	spend(2, 100, noon, nil)
	spend(3, 51, noon, ErrBudget)
	spend(3, 50, noon, nil)
	if left, err := b.Left("key", limit, noon); err != nil || left != 0 {
		t.Errorf("left: %d, %v", left, err)
	}
	spend(4, 1, noon, ErrBudget)
	if err := b.Done("key", JobID{2}, noon); err != nil {
		t.Fatal(err)
	}
	spend(4, 1, noon, ErrBudget)
	spend(3, 60, noon+day, nil) // ten of it are of the new day
	if left, err := b.Left("key", Budget{1000, 250}, noon+day); err != nil || left != 240 {
		t.Errorf("the next day: %d, %v", left, err)
	}
	if left, err := b.Left("other", limit, noon); err != nil || left != 100 {
		t.Errorf("another key: %d, %v", left, err)
	}
	if err := b.Spend("key", Budget{}, JobID{9}, 1, noon+9*day); !errors.Is(err, ErrBudget) {
		t.Errorf("no budget: %v", err)
	}
	if err := b.Spend("key", limit, JobID{9}, -1, noon); err == nil {
		t.Error("a negative sum is spent")
	}
	if err := b.Prune(noon + 2*day); err != nil {
		t.Fatal(err)
	}
	n := 0
	for range j.All("budget/") {
		n++
	}
	if n != 1 {
		t.Errorf("%d days after pruning; want 1", n)
	}
}
