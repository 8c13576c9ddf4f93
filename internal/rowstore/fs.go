package rowstore

import "io"

// FS is the directory of one table.
type FS interface {
	// Open opens a file for reading, and for writing unless the directory is
	// read only. With create an absent file is made; else that is fs.ErrNotExist.
	Open(name string, create bool) (File, error)
	// Lock keeps other processes out, without waiting: all of them, or with
	// shared all that write. The lock ends with release or the process.
	Lock(shared bool) (release func() error, err error)
	// Sync makes durable which files there are.
	Sync() error
}

// File is a file of a table. ReadAt may be called from several goroutines,
// together with WriteAt. What was written is durable only after Sync.
type File interface {
	io.ReaderAt
	io.WriterAt
	Truncate(size int64) error
	Sync() error
	Size() (int64, error)
	Close() error
}

// adviser is a File that knows what is in memory.
type adviser interface {
	// ReadCached is ReadAt if that need not wait for the disk; else it is false.
	ReadCached(b []byte, offset int64) bool
	// WillRead tells the system to begin reading.
	WillRead(offset, length int64)
}
