package kernel

import (
	"runtime"
	"sync"
	"sync/atomic"
)

// Team is a fixed number of goroutines that run one program together, meeting
// at barriers: the shape of a forward pass, hundreds of short parallel regions
// in a row. Waiting is by spinning for a moment, since the regions of a decode
// step last tens of microseconds, then by yielding, then by sleeping. A team
// with more members than processors sleeps at once: who spins or yields there
// keeps those from running that are waited for.
type Team struct {
	n       int
	spin    int // rounds of spinning before yielding
	yield   int // rounds of yielding before sleeping
	workers []Worker
	run     func(*Worker)
	start   atomic.Uint32 // number of Run calls so far
	done    barrier       // end of a Run, all members
	step    barrier       // Worker.Barrier
	next    atomic.Int64  // first piece of the current For that nobody has taken
	mu      sync.Mutex
	wake    *sync.Cond // start has grown or closed is set
	closed  bool
	asleep  atomic.Int32
	gate    sync.Mutex // one Run at a time
}

type barrier struct {
	spin    int // as in Team
	yield   int
	arrived atomic.Int32
	_       [44]byte
	epoch   atomic.Uint32
	_       [60]byte
	asleep  atomic.Int32
	mu      sync.Mutex
	opened  *sync.Cond // epoch has grown
}

// How long a member spins before it yields, and yields before it sleeps. A
// round of spinning is one PAUSE, 20 to 150 cycles.
const (
	spinRounds  = 2000
	yieldRounds = 200
)

// wait blocks until the epoch is no longer e.
func (b *barrier) wait(e uint32) {
	for i := 0; b.epoch.Load() == e; i++ {
		switch {
		case i < b.spin:
			pause()
		case i < b.spin+b.yield:
			runtime.Gosched()
		default:
			b.asleep.Add(1)
			b.mu.Lock()
			for b.epoch.Load() == e {
				b.opened.Wait()
			}
			b.mu.Unlock()
			b.asleep.Add(-1)
		}
	}
}

// NewTeam starts n-1 goroutines; the caller of Run is the n-th member.
func NewTeam(n int) *Team {
	t := &Team{n: max(n, 1)}
	if t.n <= runtime.GOMAXPROCS(0) {
		t.spin, t.yield = spinRounds, yieldRounds
	}
	for _, b := range []*barrier{&t.done, &t.step} {
		b.spin, b.yield, b.opened = t.spin, t.yield, sync.NewCond(&b.mu)
	}
	t.workers = make([]Worker, t.n)
	for i := range t.workers {
		t.workers[i] = Worker{team: t, id: i}
	}
	t.wake = sync.NewCond(&t.mu)
	for i := 1; i < t.n; i++ {
		go t.member(i)
	}
	return t
}

// Size is the number of members.
func (t *Team) Size() int { return t.n }

// Close ends the goroutines. No Run may be under way or follow.
func (t *Team) Close() {
	t.mu.Lock()
	t.closed = true
	t.mu.Unlock()
	t.wake.Broadcast()
}

// Run lets every member execute f and returns when all have. Calls wait for
// each other.
func (t *Team) Run(f func(*Worker)) {
	t.gate.Lock()
	defer t.gate.Unlock()
	t.run = f
	e := t.done.epoch.Load()
	t.start.Add(1)
	if t.asleep.Load() > 0 {
		t.mu.Lock()
		//lint:ignore SA2001 a member between its last look and Wait holds the lock
		t.mu.Unlock()
		t.wake.Broadcast()
	}
	f(&t.workers[0])
	t.done.meet(t.n, e)
	t.run = nil // it may hold much memory
}

// meet arrives at the barrier in epoch e; the last to arrive opens it.
func (b *barrier) meet(n int, e uint32) {
	if int(b.arrived.Add(1)) == n {
		b.open()
		return
	}
	b.wait(e)
}

// open lets everybody pass; only the last to arrive may call it.
func (b *barrier) open() {
	b.arrived.Store(0)
	b.epoch.Add(1)
	if b.asleep.Load() > 0 {
		b.mu.Lock()
		//lint:ignore SA2001 a member between its last look and Wait holds the lock
		b.mu.Unlock()
		b.opened.Broadcast()
	}
}

func (t *Team) member(id int) {
	seen := uint32(0)
	for {
		for i := 0; t.start.Load() == seen; i++ {
			switch {
			case i < t.spin:
				pause()
			case i < t.spin+t.yield:
				runtime.Gosched()
			default:
				t.asleep.Add(1)
				t.mu.Lock()
				for t.start.Load() == seen && !t.closed {
					t.wake.Wait()
				}
				closed := t.closed
				t.mu.Unlock()
				t.asleep.Add(-1)
				if closed {
					return
				}
			}
		}
		seen++
		e := t.done.epoch.Load()
		t.run(&t.workers[id])
		t.done.meet(t.n, e)
	}
}

// Worker is one member's view of a Run.
type Worker struct {
	team *Team
	id   int
}

// ID is the member's number, from 0 to Team.Size()-1.
func (w *Worker) ID() int { return w.id }

// Barrier waits until every member has called it.
func (w *Worker) Barrier() {
	t := w.team
	e := t.step.epoch.Load()
	t.step.meet(t.n, e)
}

// For calls f on pieces [begin, end) of [0, n) of at most grain elements,
// shared out among the members as they become free, and returns when all
// pieces of all members are done. Every member must make the same calls of For
// in the same order.
func (w *Worker) For(n, grain int, f func(begin, end int)) {
	t := w.team
	if t.n == 1 {
		f(0, n)
		return
	}
	e := t.step.epoch.Load()
	for {
		end := int(t.next.Add(int64(grain)))
		if end-grain >= n {
			break
		}
		f(end-grain, min(end, n))
	}
	t.endLoop(e)
}

// endLoop ends a loop over t.next that began in epoch e.
func (t *Team) endLoop(e uint32) {
	// The last member to arrive knows that nobody takes pieces any more.
	if int(t.step.arrived.Add(1)) == t.n {
		t.next.Store(0)
		t.step.open()
		return
	}
	t.step.wait(e)
}

// ForGuided is For with pieces that begin large and become smaller, down to
// least elements, as the end comes near: each is an equal share of a part of
// what is left. It suits loops that stream memory, which every new piece
// interrupts, while small last pieces let the members end together.
func (w *Worker) ForGuided(n, least int, f func(begin, end int)) {
	t := w.team
	if t.n == 1 {
		f(0, n)
		return
	}
	e := t.step.epoch.Load()
	for {
		begin := t.next.Load()
		left := n - int(begin)
		if left <= 0 {
			break
		}
		size := min(left, max(least, left*2/(3*t.n)))
		if t.next.CompareAndSwap(begin, begin+int64(size)) {
			f(int(begin), int(begin)+size)
		}
	}
	t.endLoop(e)
}
