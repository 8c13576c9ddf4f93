package matmul

import (
	"sync"
	"sync/atomic"
)

// Each calls f(i) for every i in [0, n), in any order, on up to threads
// goroutines, and returns when all calls have. What f computes must not depend
// on the order.
func Each(threads, n int, f func(i int)) {
	if threads = min(threads, n); threads <= 1 {
		for i := range n {
			f(i)
		}
		return
	}
	var next atomic.Int64
	work := func() {
		for i := next.Add(1) - 1; i < int64(n); i = next.Add(1) - 1 {
			f(int(i))
		}
	}
	var wg sync.WaitGroup
	for range threads - 1 {
		wg.Go(work)
	}
	work()
	wg.Wait()
}
