package node

import (
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// Running says where the node of a directory is reached while it runs. It lies
// there as running.json, which only the owner may read.
type Running struct {
	URL string `json:"url"` // of the API, on this machine
	// Key is one that the API takes from this machine's other commands, made anew
	// at each start; "": it demands none.
	Key string `json:"key,omitempty"`
}

const runningFile = "running.json"

// ReadRunning reads what the node of dir has left. A node that was killed leaves
// it too: ask whoever is at the URL for its key.
func ReadRunning(dir string) (*Running, error) {
	b, err := os.ReadFile(filepath.Join(dir, runningFile))
	if err != nil {
		return nil, err
	}
	r := &Running{}
	if err := json.Unmarshal(b, r); err != nil {
		return nil, fmt.Errorf("%s: %w", filepath.Join(dir, runningFile), err)
	}
	return r, nil
}

// pass is a key for the other commands of this machine, where clients need one.
func (n *Node) pass() string {
	if len(n.cfg.Keys) == 0 {
		return ""
	}
	return rand.Text()
}

// tell writes running.json, which goes with the node.
func (n *Node) tell(key string) error {
	b, err := json.Marshal(Running{URL: "http://" + dialable(n.listen.Addr().String()), Key: key})
	if err != nil {
		return err
	}
	path := filepath.Join(n.cfg.Dir, runningFile)
	f, err := os.CreateTemp(n.cfg.Dir, runningFile+".*") // for the owner only
	if err != nil {
		return err
	}
	_, err = f.Write(b)
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		os.Remove(f.Name())
		return fmt.Errorf("write %s: %w", path, err)
	}
	n.onClose(func() error {
		if err := os.Remove(path); !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		return nil
	})
	return nil
}
