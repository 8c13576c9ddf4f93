package rowstore

import "golang.org/x/sys/unix"

// WillRead implements adviser. Advice that is not taken costs nothing but time.
func (f diskFile) WillRead(offset, length int64) {
	_ = unix.Fadvise(int(f.Fd()), offset, length, unix.FADV_WILLNEED)
}

// ReadCached implements adviser with preadv2, which old systems and some file
// systems do not have; there nothing counts as cached.
func (f diskFile) ReadCached(b []byte, offset int64) bool {
	n, err := unix.Preadv2(int(f.Fd()), [][]byte{b}, offset, unix.RWF_NOWAIT)
	return err == nil && n == len(b)
}

// Forget asks the system to drop what it keeps of the file in memory, which
// only synced pages heed. For measurements.
func (f diskFile) Forget() error {
	return unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED)
}
