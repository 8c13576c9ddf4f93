package pay

import (
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"sync"
)

// Budget is what the holder of a key may spend. Zero in either place means nothing.
type Budget struct {
	PerRequest MilliSat `json:"per_request"`
	PerDay     MilliSat `json:"per_day"`
}

// Budgets counts what was spent under each key: an API key's name, or any other
// name of up to 100 bytes. Days are those of UTC. It keeps its counts in the
// journal, under "budget/".
type Budgets struct {
	mu sync.Mutex
	j  *Journal
}

// NewBudgets counts on from what stands in the journal.
func NewBudgets(j *Journal) *Budgets { return &Budgets{j: j} }

const day = 86400

// spent is the journal's entry of one key and day.
type spent struct {
	Sum  MilliSat            `json:"sum"`
	Jobs map[string]MilliSat `json:"jobs"` // those that may still grow
}

func budgetKey(key string, dayNo int64) string {
	return "budget/" + strconv.FormatInt(dayNo, 10) + "/" + key
}

func (b *Budgets) read(key string, dayNo int64) (s spent, err error) {
	s.Jobs = map[string]MilliSat{}
	if v := b.j.Get(budgetKey(key, dayNo)); v != nil {
		if err := json.Unmarshal(v, &s); err != nil {
			return s, fmt.Errorf("budget of %q: %w", key, err)
		}
	}
	return s, nil
}

// Spend counts that the job has come to total in all, at the given Unix time, or
// refuses with ErrBudget and counts nothing. The same total again costs nothing. It
// is called before the payment is made.
func (b *Budgets) Spend(key string, limit Budget, job JobID, sum MilliSat, unix int64) error {
	if len(key) < 1 || len(key) > 100 || !sum.Valid() || unix < 0 {
		return fmt.Errorf("budget of %q: to spend %d msat", key, sum)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	today := unix / day
	s, err := b.read(key, today)
	if err != nil {
		return err
	}
	id := job.String()
	before := s.Jobs[id]
	if _, ok := s.Jobs[id]; !ok { // it may have begun yesterday
		y, err := b.read(key, today-1)
		if err != nil {
			return err
		}
		before = y.Jobs[id]
	}
	if sum <= before {
		return nil
	}
	after, err := s.Sum.Plus(sum - before)
	switch {
	case err != nil:
		return fmt.Errorf("budget of %q: %w", key, err)
	case sum > limit.PerRequest:
		return fmt.Errorf("budget of %q: %v for one request, of %v: %w", key, sum, limit.PerRequest, ErrBudget)
	case after > limit.PerDay:
		return fmt.Errorf("budget of %q: %v on one day, of %v: %w", key, after, limit.PerDay, ErrBudget)
	}
	s.Sum, s.Jobs[id] = after, sum
	return b.write(key, today, s)
}

// Done forgets a job that will cost no more; what it cost stays counted.
func (b *Budgets) Done(key string, job JobID, unix int64) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	for d := unix/day - 1; d <= unix/day; d++ {
		s, err := b.read(key, d)
		if err != nil {
			return err
		}
		if _, ok := s.Jobs[job.String()]; ok {
			delete(s.Jobs, job.String())
			if err := b.write(key, d, s); err != nil {
				return err
			}
		}
	}
	return nil
}

func (b *Budgets) write(key string, dayNo int64, s spent) error {
	v, err := json.Marshal(s)
	if err != nil {
		return fmt.Errorf("budget of %q: %w", key, err)
	}
	return b.j.Put(Entry{budgetKey(key, dayNo), v})
}

// Left is what may still be spent under the key today, no less than 0.
func (b *Budgets) Left(key string, limit Budget, unix int64) (MilliSat, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	s, err := b.read(key, unix/day)
	if err != nil {
		return 0, err
	}
	return max(0, min(limit.PerRequest, limit.PerDay-s.Sum)), nil
}

// Prune removes the days before yesterday.
func (b *Budgets) Prune(unix int64) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	var old []Entry
	for k := range b.j.All("budget/") {
		text, _, _ := strings.Cut(strings.TrimPrefix(k, "budget/"), "/")
		if d, err := strconv.ParseInt(text, 10, 64); err == nil && d < unix/day-1 {
			old = append(old, Entry{Key: k})
		}
	}
	if len(old) == 0 {
		return nil
	}
	return b.j.Put(old...)
}
