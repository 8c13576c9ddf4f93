package store

import (
	"context"
	"fmt"
	"os"
	"time"
)

const lockPoll = 50 * time.Millisecond

// lockFile waits until it alone holds file, which it creates, or ctx ends. The
// lock belongs to the open file: it ends with the process, and two goroutines
// exclude each other as two processes do. Whoever holds it may remove the file:
// a waiter that then locks the removed one sees that, and begins again.
func lockFile(ctx context.Context, file string) (unlock func(), err error) {
	for {
		unlock, err := tryLockFile(file)
		if err != nil {
			return nil, fmt.Errorf("lock %s: %w", file, err)
		}
		if unlock != nil {
			return unlock, nil
		}
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("wait for another process that holds %s: %w", file, ctx.Err())
		case <-time.After(lockPoll):
		}
	}
}

// tryLockFile is lockFile without waiting; unlock is nil if another holds the lock.
func tryLockFile(file string) (unlock func(), err error) {
	f, err := os.OpenFile(file, os.O_RDWR|os.O_CREATE, 0o666)
	if err != nil {
		return nil, err
	}
	ok, err := tryLock(f)
	if err == nil && ok {
		mine, err1 := f.Stat()
		visible, err2 := os.Stat(file)
		if err1 == nil && err2 == nil && os.SameFile(mine, visible) {
			return func() { f.Close() }, nil
		}
	}
	f.Close()
	return nil, err
}
