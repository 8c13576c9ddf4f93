package asker

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/geistnet/geist/ghost"
	"github.com/geistnet/geist/internal/gguf"
	"github.com/geistnet/geist/internal/job"
	"github.com/geistnet/geist/internal/market"
	"github.com/geistnet/geist/internal/prompt"
	"github.com/geistnet/geist/internal/tools"
)

const (
	maxGhost   = 256 << 20 // bytes of a Ghost file
	maxLibrary = 64        // models held in memory
	fetchLimit = time.Minute
)

// known is what an asker needs of a model. Both files were checked against its id.
type known struct {
	ghost *ghost.Model // nil: a model that nobody can check
	file  []byte       // of the Ghost file
	words *prompt.Words
	form  tools.Form
}

// text begins the text of an answer.
func (k *known) text() texter {
	if k.words == nil {
		return &prompt.Plain{}
	}
	return k.words.Tokenizer.NewContinuation()
}

// library fetches Ghost files and vocabularies and keeps them in dir. What is
// fetched from anybody is checked against the model id, so it does not matter from
// whom.
type library struct {
	dir  string
	http *http.Client
	// blame learns who could not show a model that it offers.
	blame func(*market.Ask, job.Code, error)

	mu    sync.Mutex
	known map[ghost.ID]*known
	busy  map[ghost.ID]chan struct{}
}

// have is a model that is in memory, or nil.
func (l *library) have(id ghost.ID) *known {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.known[id]
}

// get is a model from memory, the directory, or one of those who offer it.
func (l *library) get(ctx context.Context, id ghost.ID, asks []*market.Ask) (*known, error) {
	for {
		l.mu.Lock()
		if k := l.known[id]; k != nil {
			l.mu.Unlock()
			return k, nil
		}
		wait := l.busy[id]
		if wait == nil {
			done := make(chan struct{})
			l.busy[id] = done
			l.mu.Unlock()
			k, err := l.find(ctx, id, asks)
			l.mu.Lock()
			delete(l.busy, id)
			if err == nil {
				for old := range l.known {
					if len(l.known) < maxLibrary {
						break
					}
					delete(l.known, old)
				}
				l.known[id] = k
			}
			l.mu.Unlock()
			close(done)
			return k, err
		}
		l.mu.Unlock()
		select {
		case <-wait:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

func (l *library) find(ctx context.Context, id ghost.ID, asks []*market.Ask) (*known, error) {
	base := filepath.Join(l.dir, id.String())
	g, err1 := os.ReadFile(base + ".ghost")
	w, err2 := os.ReadFile(base + ".words")
	if err1 == nil && err2 == nil {
		if k, err := read(id, g, w); err == nil {
			return k, nil
		}
	}
	errs := []error{}
	for _, a := range asks {
		if a.Model != id {
			continue
		}
		for _, e := range a.Endpoints {
			k, w, err := l.fetch(ctx, id, strings.TrimRight(e, "/")+"/geist/v1/models/"+id.String())
			if err != nil {
				if ctx.Err() != nil {
					return nil, ctx.Err()
				}
				code := job.Unreachable
				if errors.Is(err, errFake) {
					code = job.BadEvent
				}
				l.blame(a, code, err)
				errs = append(errs, err)
				continue
			}
			// A directory that cannot be written to costs time only.
			if write(base+".ghost", k.file) == nil {
				_ = write(base+".words", w)
			}
			return k, nil
		}
	}
	if len(errs) == 0 {
		return nil, errors.New("nobody offers the model")
	}
	return nil, fmt.Errorf("its Ghost file and vocabulary cannot be had: %w", errors.Join(errs...))
}

// errFake: what came is not what the model's id names. Its sender lied.
var errFake = errors.New("it is not what the id names")

func (l *library) fetch(ctx context.Context, id ghost.ID, url string) (*known, []byte, error) {
	ctx, stop := context.WithTimeout(ctx, fetchLimit)
	defer stop()
	g, err := l.bytes(ctx, url+"/ghost", maxGhost)
	if err != nil {
		return nil, nil, err
	}
	w, err := l.bytes(ctx, url+"/words", prompt.MaxBytes)
	if err != nil {
		return nil, nil, err
	}
	k, err := read(id, g, w)
	if err != nil {
		return nil, nil, fmt.Errorf("%s: %w: %w", url, errFake, err)
	}
	return k, w, nil
}

func (l *library) bytes(ctx context.Context, url string, most int64) ([]byte, error) {
	q, err := http.NewRequestWithContext(ctx, "GET", url, nil)
	if err != nil {
		return nil, err
	}
	w, err := l.http.Do(q)
	if err != nil {
		return nil, err
	}
	defer w.Body.Close()
	if w.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("%s: status %d", url, w.StatusCode)
	}
	b, err := io.ReadAll(io.LimitReader(w.Body, most+1))
	if err == nil && int64(len(b)) > most {
		err = fmt.Errorf("%s: %w: more than %d bytes", url, errFake, most)
	}
	return b, err
}

// read checks both files against the id.
func read(id ghost.ID, g, w []byte) (*known, error) {
	m, err := ghost.Decode(g)
	if err != nil {
		return nil, err
	}
	if m.ID() != id {
		return nil, errors.New("the Ghost file is another model's")
	}
	f, err := gguf.Parse("vocabulary", w)
	if err != nil {
		return nil, err
	}
	words, err := prompt.New(f, m.Vocab)
	if err != nil {
		return nil, err
	}
	if err := words.Matches(m); err != nil {
		return nil, err
	}
	return &known{ghost: m, file: g, words: words, form: tools.Detect(words.Template())}, nil
}

// write makes a file whole or not at all.
func write(path string, b []byte) error {
	f, err := os.CreateTemp(filepath.Dir(path), ".new-*")
	if err != nil {
		return err
	}
	_, err = f.Write(b)
	if err = errors.Join(err, f.Sync(), f.Close()); err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		_ = os.Remove(f.Name()) // it is of no use
	}
	return err
}
