package bench

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/geistnet/geist/internal/arena"
	"github.com/geistnet/geist/internal/kernel"
)

// bus is memory to measure the machine's read bandwidth on.
type bus struct {
	a    *arena.Arena
	path kernel.Path
}

// The rate depends a little on how the buffer is shared out, so both a cut into
// one part for each member and one into small pieces are tried.
const (
	busPasses = 3 // of each kind, in one measurement
	busPiece  = 1 << 20
)

func newBus(size int, path kernel.Path, team *kernel.Team) (*bus, error) {
	a, err := arena.New(size)
	if err != nil {
		return nil, fmt.Errorf("measure the bandwidth: %w", err)
	}
	mem := a.Bytes()
	// Memory that was never written is one page of zeros, which a cache holds.
	team.Run(func(w *kernel.Worker) {
		w.For(size, busPiece, func(begin, end int) {
			for i := begin; i < end; i += 4096 {
				mem[i] = 1
			}
		})
	})
	return &bus{a, path}, nil
}

// measure returns the best rate of several passes, in 10⁹ bytes per second.
func (b *bus) measure(team *kernel.Team, now func() time.Time) float64 {
	mem := b.a.Bytes()
	sums := make([]uint64, team.Size()*8) // a cache line each
	best := 0.0
	for range busPasses {
		for _, grain := range []int{busPiece, (len(mem)/team.Size() + 4095) &^ 4095} {
			grain = max(grain, 1)
			begin := now()
			team.Run(func(w *kernel.Worker) {
				var x uint64
				w.For(len(mem), grain, func(begin, end int) { x ^= b.path.ReadAll(mem[begin:end]) })
				sums[8*w.ID()] = x
			})
			best = max(best, rate(len(mem), now().Sub(begin))/1e9)
		}
	}
	return best
}

func (b *bus) free() { _ = b.a.Free() }

// busBytes is the size of the buffer: much more than the last-level cache.
func (b *bench) busBytes() int {
	if b.BusBytes > 0 {
		return b.BusBytes
	}
	return max(1<<30, 4*lastLevelCache("/sys/devices/system/cpu/cpu0/cache"))
}

// lastLevelCache is the size of the largest cache that Linux describes in dir;
// 0 elsewhere.
func lastLevelCache(dir string) int {
	largest := 0
	files, _ := filepath.Glob(filepath.Join(dir, "index*", "size"))
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			continue
		}
		n, unit := strings.TrimSpace(string(text)), 1
		for i, suffix := range []string{"K", "M", "G"} {
			if s, ok := strings.CutSuffix(n, suffix); ok {
				n, unit = s, 1024<<(10*i)
			}
		}
		if v, err := strconv.ParseUint(n, 10, 24); err == nil {
			largest = max(largest, int(v)*unit)
		}
	}
	return largest
}
