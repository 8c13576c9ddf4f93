//go:build darwin || freebsd

package bench

import (
	"runtime"

	"golang.org/x/sys/unix"
)

// peakRSS is the most memory that the process has had at once, in bytes; 0 if
// it is not known.
func peakRSS() int64 {
	var u unix.Rusage
	if unix.Getrusage(unix.RUSAGE_SELF, &u) != nil {
		return 0
	}
	if runtime.GOOS == "darwin" {
		return u.Maxrss
	}
	return u.Maxrss << 10
}
