package rowstore

import (
	"errors"
	"os"
	"time"

	"golang.org/x/sys/windows"
)

func tryLock(f *os.File, shared bool) (bool, error) {
	flags := uint32(windows.LOCKFILE_FAIL_IMMEDIATELY)
	if !shared {
		flags |= windows.LOCKFILE_EXCLUSIVE_LOCK
	}
	// A byte far beyond the content: locks are mandatory here.
	err := windows.LockFileEx(windows.Handle(f.Fd()), flags, 0, 1, 0, &windows.Overlapped{OffsetHigh: 1 << 20})
	if errors.Is(err, windows.ERROR_LOCK_VIOLATION) {
		return false, nil
	}
	return err == nil, err
}

// syncDir does nothing: directories cannot be synced here.
func syncDir(string) error { return nil }

// processorTime is not known here.
func processorTime() time.Duration { return 0 }
