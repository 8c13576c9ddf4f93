package rowstore

import (
	"fmt"
	"os"
	"path/filepath"
)

// Dir is a table's directory in the file system of this machine.
type Dir struct {
	Path     string
	ReadOnly bool
}

// Open implements FS.
func (d Dir) Open(name string, create bool) (File, error) {
	flags := os.O_RDWR
	if d.ReadOnly {
		flags = os.O_RDONLY
	}
	if create {
		flags |= os.O_CREATE
	}
	f, err := os.OpenFile(filepath.Join(d.Path, name), flags, 0o666)
	if err != nil {
		return nil, err
	}
	return diskFile{f}, nil
}

// Lock implements FS. It locks the file head, which it makes if need be.
func (d Dir) Lock(shared bool) (func() error, error) {
	flags := os.O_RDWR | os.O_CREATE
	if d.ReadOnly || shared {
		flags = os.O_RDONLY
	}
	f, err := os.OpenFile(filepath.Join(d.Path, "head"), flags, 0o666)
	if err != nil {
		return nil, err
	}
	ok, err := tryLock(f, shared)
	if err == nil && !ok {
		err = ErrInUse
	}
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("lock %s: %w", d.Path, err)
	}
	return f.Close, nil
}

// Sync implements FS.
func (d Dir) Sync() error { return syncDir(d.Path) }

type diskFile struct{ *os.File }

func (f diskFile) Size() (int64, error) {
	i, err := f.Stat()
	if err != nil {
		return 0, err
	}
	return i.Size(), nil
}
