package rowstore

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/geistnet/geist/arith"
	"github.com/geistnet/geist/sat"
)

// Measurement is what to measure on one table, made for it and removed afterwards.
type Measurement struct {
	Dir     string // where to make the table; on the disk that is to be measured
	Rows    uint64
	Dim     int // float32 values in a row
	Moments bool
	K       int // rows in a batch
	Rounds  int // batches of each kind
	// Written is how many rows are written before; all others stay holes. Batches
	// are drawn from these, since reading a hole asks no disk. 0: 2¹⁸.
	Written  int
	Now      func() time.Time
	Progress Progress
}

// Times are of one kind of batch.
type Times struct {
	P50 float64 `json:"p50_ms"`
	P99 float64 `json:"p99_ms"`
}

// Measured is what Measure found.
type Measured struct {
	Rows         uint64  `json:"rows"`
	RecordBytes  int     `json:"record_bytes"`
	LogicalBytes int64   `json:"logical_bytes"` // of the files rows and nodes
	Written      int     `json:"written_rows"`
	K            int     `json:"k"`
	Rounds       int     `json:"rounds"`
	Create       float64 `json:"create_ms"` // an empty table, synced
	Commit       Times   `json:"commit"`    // durable with the next sync
	CommitMean   float64 `json:"commit_mean_ms"`
	CommitCPU    float64 `json:"commit_cpu_ms,omitempty"` // of all processors, on average, later writes included
	Durable      Times   `json:"commit_durable"`          // with a sync of the journal
	Verify       Times   `json:"verify"`
	ProofBytes   int     `json:"proof_bytes"` // on average
	Warm         Times   `json:"read_warm"`
	WarmRate     float64 `json:"read_warm_rows_s"` // by one goroutine
	Cold         *Times  `json:"read_cold,omitempty"`
	PeakRSS      int64   `json:"peak_rss_bytes,omitempty"` // of the process so far
}

// Measure makes a table of zeros, writes some rows, and times commits, their
// verification and reads of random rows among the written.
func Measure(ctx context.Context, m Measurement) (_ *Measured, err error) {
	if m.K < 1 || m.Rounds < 1 || m.Written < 0 {
		return nil, fmt.Errorf("measure %d rounds of %d rows among %d", m.Rounds, m.K, m.Written)
	}
	if m.Written == 0 {
		m.Written = 1 << 18
	}
	m.Written = int(min(uint64(m.Written), m.Rows))
	if m.K > m.Written {
		return nil, fmt.Errorf("measure batches of %d rows among %d", m.K, m.Written)
	}
	path := filepath.Join(m.Dir, fmt.Sprintf("geist-sat-bench-%d", m.Rows))
	if err := os.MkdirAll(m.Dir, 0o777); err != nil {
		return nil, err
	}
	if err := os.Mkdir(path, 0o777); err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(path)) }()
	shape := sat.Shape{Rows: m.Rows, Format: arith.F32, Dim: m.Dim, Moments: m.Moments}
	begin := m.Now()
	if _, err := Create(ctx, Dir{Path: path}, shape, nil, nil); err != nil {
		return nil, err
	}
	out := &Measured{
		Rows: m.Rows, RecordBytes: shape.RecordBytes(), Written: m.Written, K: m.K, Rounds: m.Rounds,
		Create: milliseconds(m.Now().Sub(begin)),
	}
	t, err := Open(Dir{Path: path}, Options{})
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, t.Close()) }()
	out.LogicalBytes = int64(m.Rows)*int64(t.size) + t.layout.pages()*pageBytes
	r := rand.New(rand.NewPCG(m.Rows, uint64(m.K)))
	ids, err := m.write(ctx, t, r)
	if err != nil {
		return nil, err
	}
	if err := m.commits(ctx, t, r, ids, out); err != nil {
		return nil, err
	}
	if err := m.reads(ctx, t, r, ids, out); err != nil {
		return nil, err
	}
	out.PeakRSS = peakRSS()
	return out, nil
}

func milliseconds(d time.Duration) float64 { return float64(d.Nanoseconds()) / 1e6 }

func times(d []time.Duration) Times {
	slices.Sort(d)
	return Times{milliseconds(d[len(d)/2]), milliseconds(d[min(len(d)-1, len(d)*99/100)])}
}

// write writes random rows and returns which, ascending.
func (m *Measurement) write(ctx context.Context, t *Table, r *rand.Rand) ([]uint64, error) {
	ids := make([]uint64, 0, m.Written)
	if uint64(m.Written) == m.Rows {
		for i := range m.Rows {
			ids = append(ids, i)
		}
	}
	for len(ids) < m.Written {
		for i := len(ids); i < m.Written; i++ {
			ids = append(ids, r.Uint64N(m.Rows))
		}
		slices.Sort(ids)
		ids = slices.Compact(ids)
	}
	const batch = 4096
	for i := 0; i < len(ids); i += batch {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		some := ids[i:min(i+batch, len(ids))]
		if _, err := t.Commit(some, sat.UpdateRule{}, m.updates(r, len(some), t.size, m.Moments), false); err != nil {
			return nil, err
		}
		m.Progress.say(fmt.Sprintf("write %d rows", m.Rows), int64(i+len(some)), int64(len(ids)))
	}
	return ids, t.Checkpoint()
}

// updates makes n random updates: float32 below 2 in amount.
func (m *Measurement) updates(r *rand.Rand, n, size int, moments bool) []byte {
	b := make([]byte, n*size)
	for i := 0; i+4 <= len(b); i += 4 {
		x := r.Uint32()
		b[i], b[i+1], b[i+2], b[i+3] = byte(x), byte(x>>8), byte(x>>16), 0x3f
	}
	if moments { // of a whole record: no moments, no steps
		for i := range n {
			clear(b[i*size+4*m.Dim : (i+1)*size])
		}
	}
	return b
}

// some draws k of ids, ascending.
func some(r *rand.Rand, ids []uint64, k int) []uint64 {
	seen := map[uint64]bool{}
	for len(seen) < k {
		seen[ids[r.IntN(len(ids))]] = true
	}
	out := make([]uint64, 0, k)
	for id := range seen {
		out = append(out, id)
	}
	slices.Sort(out)
	return out
}

func (m *Measurement) commits(ctx context.Context, t *Table, r *rand.Rand, ids []uint64, out *Measured) error {
	rule, size := sat.UpdateRule{}, t.size
	if m.Moments {
		rule = sat.UpdateRule{Kind: sat.AdamStep, Adam: sat.Adam{LR: 0.001, Beta1: 0.9, Beta2: 0.999, Eps: 1e-8, WeightDecay: 0.01}}
		size = 4 * m.Dim
	}
	var verify []time.Duration
	proofs := 0
	for _, durable := range []bool{false, true} {
		var took []time.Duration
		var sum time.Duration
		var cpu time.Duration
		runtime.GC()
		for i := range m.Rounds {
			if err := ctx.Err(); err != nil {
				return err
			}
			which, updates := some(r, ids, m.K), m.updates(r, m.K, size, false)
			trusted := t.State()
			begin, used := m.Now(), processorTime()
			tr, err := t.Commit(which, rule, updates, durable)
			if err != nil {
				return err
			}
			took = append(took, m.Now().Sub(begin))
			sum += took[len(took)-1]
			cpu += processorTime() - used
			begin = m.Now()
			if _, err := tr.Verify(trusted, rule); err != nil {
				return err
			}
			verify = append(verify, m.Now().Sub(begin))
			proofs += len(tr.Proof)
			m.Progress.say(fmt.Sprintf("commit to %d rows", m.Rows), int64(i+1), int64(m.Rounds))
		}
		if durable {
			out.Durable = times(took)
		} else {
			out.Commit, out.CommitMean, out.CommitCPU = times(took), milliseconds(sum)/float64(m.Rounds), milliseconds(cpu)/float64(m.Rounds)
		}
	}
	out.Verify, out.ProofBytes = times(verify), 32*proofs/(2*m.Rounds)
	return t.Checkpoint()
}

func (m *Measurement) reads(ctx context.Context, t *Table, r *rand.Rand, ids []uint64, out *Measured) error {
	dst := make([]byte, m.K*t.size)
	which := make([]uint64, m.K)
	read := func() (time.Duration, error) {
		for i := range which {
			which[i] = ids[r.IntN(len(ids))]
		}
		begin := m.Now()
		err := t.Read(which, dst)
		return m.Now().Sub(begin), err
	}
	if f, ok := t.rows.(interface{ Forget() error }); ok {
		var took []time.Duration
		for i := range m.Rounds {
			if err := errors.Join(f.Forget(), ctx.Err()); err != nil {
				return err
			}
			d, err := read()
			if err != nil {
				return err
			}
			took = append(took, d)
			m.Progress.say(fmt.Sprintf("read %d rows cold", m.Rows), int64(i+1), int64(m.Rounds))
		}
		cold := times(took)
		out.Cold = &cold
	}
	all := make([]byte, 1024*t.size)
	for i := 0; i < len(ids); i += 1024 { // warm them
		some := ids[i:min(i+1024, len(ids))]
		if err := errors.Join(t.Read(some, all[:len(some)*t.size]), ctx.Err()); err != nil {
			return err
		}
	}
	var took []time.Duration
	var sum time.Duration
	for range 10 * m.Rounds {
		d, err := read()
		if err != nil {
			return err
		}
		took, sum = append(took, d), sum+d
	}
	out.Warm, out.WarmRate = times(took), float64(m.K*len(took))/sum.Seconds()
	return nil
}

// peakRSS is the most memory that this process had, 0 where the system does not tell.
func peakRSS() int64 {
	b, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return 0
	}
	for line := range strings.Lines(string(b)) {
		var kb int64
		if _, err := fmt.Sscanf(line, "VmHWM: %d kB", &kb); err == nil {
			return kb << 10
		}
	}
	return 0
}
