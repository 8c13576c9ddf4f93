//go:build !windows

package pay

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/geistnet/geist/ghost"
)

// The child process pays to and fro between two nodes with journals in KILL_DIR and
// kills itself at the KILL_AT-th step of a journal (0: never).
const (
	killDir  = "GEIST_TEST_KILL_DIR"
	killAt   = "GEIST_TEST_KILL_AT"
	killSeed = "GEIST_TEST_KILL_SEED"
	killRuns = "GEIST_TEST_KILL_RUNS" // how many children each test starts
)

func TestMain(m *testing.M) {
	if dir := os.Getenv(killDir); dir != "" {
		if err := killChild(dir); err != nil {
			fmt.Println("error", err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// openNodes opens both nodes' journals and their rails.
func openNodes(dir string, hook func(string)) (js [2]*Journal, cs [2]*Credit, err error) {
	limit := func(ghost.Key) (MilliSat, MilliSat) { return MaxAmount, MaxAmount }
	for i := range js {
		if js[i], err = openJournal(filepath.Join(dir, strconv.Itoa(i)), hook); err != nil {
			return
		}
		if cs[i], err = NewCredit(secretOf(byte(i+1)), js[i], limit); err != nil {
			return
		}
	}
	return
}

// killChild prints "try N FROM" before and "done N FROM" after payment N of a line is
// acknowledged.
func killChild(dir string) error {
	at, _ := strconv.Atoi(os.Getenv(killAt))
	seed, _ := strconv.ParseUint(os.Getenv(killSeed), 10, 64)
	steps := 0
	_, cs, err := openNodes(dir, func(string) {
		if steps++; steps == at {
			syscall.Kill(os.Getpid(), syscall.SIGKILL)
			select {} // until it arrives
		}
	})
	if err != nil {
		return err
	}
	if err := reconcile(cs); err != nil {
		return err
	}
	ctx := context.Background()
	rnd := rand.New(rand.NewPCG(seed, 0))
	for round := range 6 {
		from := rnd.IntN(2)
		job := JobID(ghost.CommitSeed(ghost.Nonce{0: byte(round), 1: byte(seed), 2: byte(seed >> 8), 3: byte(seed >> 16), 4: byte(from)}))
		payer, err := cs[from].Pay(ctx, Opening{job, cs[1-from].Self(), 100, 10_000})
		if err != nil {
			return err
		}
		payee, err := cs[1-from].Take(ctx, Opening{job, cs[from].Self(), 100, 10_000})
		if err != nil {
			return err
		}
		total := MilliSat(0)
		for range 3 {
			total += MilliSat(1 + rnd.IntN(50))
			if _, err := payee.Cover(ctx, total); err != nil {
				return err
			}
			fmt.Printf("try %d %d\n", from, total-payer.Promised())
			m, err := payer.Pay(ctx, total)
			if err != nil {
				return err
			}
			answer, err := payee.Receive(ctx, m)
			if err != nil {
				return err
			}
			if err := payer.Answer(ctx, answer); err != nil {
				return err
			}
			fmt.Println("done", from, 0)
		}
		if rnd.IntN(3) == 0 {
			if err := cs[from].j.Compact(); err != nil {
				return err
			}
		}
		if err := payee.Close(ctx, total, true); err != nil {
			return err
		}
		if _, err := payer.Close(ctx); err != nil {
			return err
		}
	}
	return nil
}

// books is what the parent knows: what each side paid for sure, and what may be under way.
type books struct {
	sure, open [2]MilliSat
}

// count reads what a child printed.
func (b *books) count(out []byte) error {
	s := bufio.NewScanner(bytes.NewReader(out))
	for s.Scan() {
		f := strings.Fields(s.Text())
		if len(f) != 3 {
			if len(f) > 0 && f[0] == "error" {
				return errors.New(s.Text())
			}
			continue
		}
		from, _ := strconv.Atoi(f[1])
		n, _ := strconv.Atoi(f[2])
		switch f[0] {
		case "try":
			b.open[from] = MilliSat(n)
		case "done":
			b.sure[from] += b.open[from]
			b.open[from] = 0
		}
	}
	return nil
}

// settle opens both journals, lets the two exchange what they have, and compares with the books.
func (b *books) settle(dir string) error {
	js, cs, err := openNodes(dir, func(string) {})
	defer func() {
		for _, j := range js {
			if j != nil {
				j.Close()
			}
		}
	}()
	if err != nil {
		return err
	}
	if err := reconcile(cs); err != nil {
		return err
	}
	k := [2]ghost.Key{cs[0].Self(), cs[1].Self()}
	if sum := cs[0].Balance(k[1]) + cs[1].Balance(k[0]); sum != 0 {
		return fmt.Errorf("balances are %d and %d", cs[0].Balance(k[1]), cs[1].Balance(k[0]))
	}
	for i := range cs {
		s, t := cs[i].Statement(k[1-i]), cs[1-i].Statement(k[i])
		if s.Waiting != 0 || !bytes.Equal(s.StateOut, t.StateIn) {
			return fmt.Errorf("line of %d: %d wait, last states differ: %t", i, s.Waiting, !bytes.Equal(s.StateOut, t.StateIn))
		}
		switch s.Paid {
		case b.sure[i]:
		case b.sure[i] + b.open[i]:
			b.sure[i] += b.open[i]
		default:
			return fmt.Errorf("line of %d: %d paid; %d are sure and %d were under way", i, s.Paid, b.sure[i], b.open[i])
		}
		b.open[i] = 0
	}
	return nil
}

// child runs one child, kills it after the delay if that is not 0, and gives what it printed.
func child(t *testing.T, dir string, at int, seed uint64, delay time.Duration) (out []byte, killed bool) {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), killDir+"="+dir, fmt.Sprintf("%s=%d", killAt, at), fmt.Sprintf("%s=%d", killSeed, seed))
	var b bytes.Buffer
	cmd.Stdout, cmd.Stderr = &b, &b
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if delay > 0 {
		timer := time.AfterFunc(delay, func() { cmd.Process.Kill() })
		defer timer.Stop()
	}
	err := cmd.Wait()
	var exit *exec.ExitError
	switch {
	case err == nil:
		return b.Bytes(), false
	case errors.As(err, &exit) && exit.Sys().(syscall.WaitStatus).Signal() == syscall.SIGKILL:
		return b.Bytes(), true
	}
	t.Fatalf("the child says %v: %s", err, b.Bytes())
	return nil, false
}

func runs(t *testing.T, few int) int {
	if n, err := strconv.Atoi(os.Getenv(killRuns)); err == nil {
		return n
	}
	if testing.Short() {
		t.Skip("-short: starts processes")
	}
	return few
}

// TestKillAtEveryStep kills a real process at step after step of its journals. Each
// child goes on with what the killed one left.
func TestKillAtEveryStep(t *testing.T) {
	n := runs(t, 40)
	dir, b, kills, at := t.TempDir(), &books{}, 0, 1
	for i := range n {
		out, killed := child(t, dir, at, uint64(i), 0)
		if err := b.count(out); err != nil {
			t.Fatalf("run %d: %v", i, err)
		}
		if err := b.settle(dir); err != nil {
			t.Fatalf("run %d, killed at step %d (%t): %v", i, at, killed, err)
		}
		if killed {
			kills++
			at++
		} else {
			at = 1 // it came to its end
		}
	}
	if kills < n*9/10 || b.sure[0]+b.sure[1] == 0 && n > 100 {
		t.Errorf("%d of %d children were killed, %d and %d msat were paid: the test tests nothing", kills, n, b.sure[0], b.sure[1])
	}
	t.Logf("%d processes, %d killed, %d and %d msat paid to and fro, nothing lost", n, kills, b.sure[0], b.sure[1])
}

// TestKillAnyTime kills a real process at random times.
func TestKillAnyTime(t *testing.T) {
	n := runs(t, 15)
	dir, b, kills := t.TempDir(), &books{}, 0
	rnd := rand.New(rand.NewPCG(7, 7))
	for i := range n {
		out, killed := child(t, dir, 0, uint64(i), time.Duration(1+rnd.IntN(250))*time.Millisecond)
		if err := b.count(out); err != nil {
			t.Fatalf("run %d: %v", i, err)
		}
		if err := b.settle(dir); err != nil {
			t.Fatalf("run %d (%t): %v", i, killed, err)
		}
		if killed {
			kills++
		}
	}
	if kills == 0 {
		t.Error("no child was killed: the test tests nothing")
	}
	t.Logf("%d processes, %d killed, %d and %d msat paid to and fro, nothing lost", n, kills, b.sure[0], b.sure[1])
}
