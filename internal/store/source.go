package store

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
)

// A Source says where a model's bytes come from.
type Source struct {
	// ID names exactly these bytes: a copy that was interrupted goes on if
	// the ID is the same. Empty: a copy begins anew each time.
	ID string
	// Label is for people, such as a path or an address.
	Label string
	// Bytes is the whole size, -1 if it is not known.
	Bytes int64
	// SHA256 is the hash that the bytes must have, 64 hex digits, or empty.
	SHA256 string
	// Open reads from offset on. It is called once, with 0 if ID is empty.
	Open func(ctx context.Context, offset int64) (io.ReadCloser, error)
}

// FromFile is a source that copies a file. Its ID holds path, size and time of
// change; a file that changes while it is read gives an error at its end.
func FromFile(path string) (Source, error) {
	path, err := filepath.Abs(path)
	if err != nil {
		return Source{}, err
	}
	fi, err := os.Stat(path)
	if err != nil {
		return Source{}, err
	}
	if !fi.Mode().IsRegular() {
		return Source{}, fmt.Errorf("%s is not a regular file", path)
	}
	return Source{
		ID:    fmt.Sprintf("file %q %d %d", path, fi.Size(), fi.ModTime().UnixNano()),
		Label: path,
		Bytes: fi.Size(),
		Open: func(_ context.Context, offset int64) (io.ReadCloser, error) {
			f, err := os.Open(path)
			if err != nil {
				return nil, err
			}
			if _, err := f.Seek(offset, io.SeekStart); err != nil {
				f.Close()
				return nil, err
			}
			return &steady{f, fi}, nil
		},
	}, nil
}

// FromReader is a source that can be read once, such as a pipe.
func FromReader(r io.Reader, label string) Source {
	return Source{
		Label: label,
		Bytes: -1,
		Open:  func(context.Context, int64) (io.ReadCloser, error) { return io.NopCloser(r), nil },
	}
}

// steady is a file whose end is an error if it is no longer the file it was.
type steady struct {
	*os.File
	was fs.FileInfo
}

func (s *steady) Read(b []byte) (int, error) {
	n, err := s.File.Read(b)
	if errors.Is(err, io.EOF) {
		now, err := s.Stat()
		if err != nil {
			return n, err
		}
		if now.Size() != s.was.Size() || !now.ModTime().Equal(s.was.ModTime()) {
			return n, fmt.Errorf("%s changed while it was copied; wait until it is complete", s.Name())
		}
	}
	return n, err
}
