package kernel

import (
	"sync/atomic"
	"testing"
)

// Every piece of every loop is run once, and no member passes a barrier early.
func TestTeam(t *testing.T) {
	for _, n := range []int{1, 2, 3, 7} {
		team := NewTeam(n)
		if team.Size() != n {
			t.Fatalf("size %d, want %d", team.Size(), n)
		}
		hits := make([]atomic.Int32, 1000)
		var members atomic.Int32
		for run := range 200 {
			members.Store(0)
			team.Run(func(w *Worker) {
				members.Add(1)
				for loop := range 5 {
					size := (run*7+loop*131)%len(hits) + 1
					hit := func(begin, end int) {
						for i := begin; i < end; i++ {
							hits[i].Add(1)
						}
					}
					if loop%2 == 0 {
						w.For(size, 1+run%9, hit)
					} else {
						w.ForGuided(size, 1+run%9, hit)
					}
					for i := range size {
						if hits[i].Load() != 1 {
							t.Errorf("run %d loop %d: element %d done %d times", run, loop, i, hits[i].Load())
						}
					}
					w.Barrier()
					if w.ID() == 0 {
						for i := range hits {
							hits[i].Store(0)
						}
					}
					w.Barrier()
				}
			})
			if int(members.Load()) != n {
				t.Fatalf("%d members ran, want %d", members.Load(), n)
			}
		}
		team.Close()
	}
}

func BenchmarkTeamBarrier(b *testing.B) {
	team := NewTeam(2)
	defer team.Close()
	team.Run(func(w *Worker) {
		for range b.N {
			w.Barrier()
		}
	})
}

func BenchmarkTeamRun(b *testing.B) {
	team := NewTeam(2)
	defer team.Close()
	for range b.N {
		team.Run(func(*Worker) {})
	}
}

// What ran is not kept: it may hold the buffers of a whole forward pass.
func TestTeamForgets(t *testing.T) {
	team := NewTeam(2)
	defer team.Close()
	team.Run(func(*Worker) {})
	if team.run != nil {
		t.Error("the team still holds the function that ran")
	}
}
