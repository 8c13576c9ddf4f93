package rows

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"runtime"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/geistnet/geist/merkle"
	"github.com/geistnet/geist/sat"
)

// Server is an http.Handler that answers requests for rows.
type Server struct {
	reading chan struct{} // one for each body that is read
	busy    chan struct{} // one for each request in work
	mux     *http.ServeMux

	mu    sync.RWMutex // held for reading while tables are read
	order []*served    // of tables with one root the first counts
}

type served struct {
	Table
	height int
}

// Requests in work at a time for each processor. More of them would wait for a
// processor, and hold their answers in memory.
const perProcessor = 4

// maxReading bounds the bodies that are read at a time, which slow senders hold in
// memory: 270 MB.
const maxReading = 1024

// NewServer serves tables, at least one. Of two with one root the first is taken.
func NewServer(tables []Table) (*Server, error) {
	if len(tables) == 0 {
		return nil, errors.New("there are no tables of rows to serve")
	}
	s := NewEmptyServer()
	if _, err := s.Add(tables); err != nil {
		return nil, err
	}
	return s, nil
}

// NewEmptyServer is a server without tables, until some are added.
func NewEmptyServer() *Server {
	s := &Server{reading: make(chan struct{}, maxReading), busy: make(chan struct{}, perProcessor*runtime.GOMAXPROCS(0)), mux: http.NewServeMux()}
	s.mux.HandleFunc("GET /geist/v1/rows", s.list)
	s.mux.HandleFunc("GET /geist/v1/rows/{root}/{level}", s.level)
	s.mux.HandleFunc("POST /geist/v1/rows", s.rows)
	return s
}

// Add serves further tables. remove ends that; when it returns, nobody reads
// them any more. It may be called more than once.
func (s *Server) Add(tables []Table) (remove func(), err error) {
	var mine []*served
	for i := range tables {
		t := &tables[i]
		if err := t.Check(); err != nil {
			return nil, fmt.Errorf("table %q: %w", t.Name, err)
		}
		mine = append(mine, &served{*t, sat.Level(t.Rows, 1)})
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.order = append(s.order, mine...)
	return func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.order = slices.DeleteFunc(s.order, func(t *served) bool { return slices.Contains(mine, t) })
	}, nil
}

// table is the first with a root; nil: there is none. mu is held.
func (s *Server) table(root merkle.Hash) *served {
	for _, t := range s.order {
		if t.Root == root {
			return t
		}
	}
	return nil
}

// Times of an HTTP server of rows: a request is small, an answer has at most
// 2²⁶ bytes.
const (
	headerTimeout = 10 * time.Second
	readTimeout   = 30 * time.Second
	writeTimeout  = 2 * time.Minute
	idleTimeout   = 2 * time.Minute
	maxHeader     = 16 << 10
)

// HTTP is an http.Server with limits that fit.
func (s *Server) HTTP() *http.Server {
	return &http.Server{
		Handler: s, ReadHeaderTimeout: headerTimeout, ReadTimeout: readTimeout,
		WriteTimeout: writeTimeout, IdleTimeout: idleTimeout, MaxHeaderBytes: maxHeader,
	}
}

// ServeHTTP implements http.Handler. A request takes its place when all of it is
// here, so that senders who wait keep nobody out.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	take := func(places chan struct{}) bool {
		select {
		case places <- struct{}{}:
			return true
		default:
			w.Header().Set("Retry-After", "1")
			http.Error(w, "too many requests at once", http.StatusServiceUnavailable)
			return false
		}
	}
	if r.ContentLength != 0 {
		if !take(s.reading) {
			return
		}
		body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, int64(maxBodyBytes)))
		<-s.reading
		if err != nil {
			status := http.StatusBadRequest
			if tooLong := (*http.MaxBytesError)(nil); errors.As(err, &tooLong) {
				status = http.StatusRequestEntityTooLarge
			}
			http.Error(w, err.Error(), status)
			return
		}
		r.Body = io.NopCloser(bytes.NewReader(body))
	}
	if !take(s.busy) {
		return
	}
	defer func() { <-s.busy }()
	s.mux.ServeHTTP(w, r)
}

// listing is what GET /geist/v1/rows says.
type listing struct {
	Version int      `json:"version"`
	Tables  []listed `json:"tables"`
}

type listed struct {
	Name   string `json:"name"`
	Root   string `json:"root"`
	Rows   int    `json:"rows"`
	Format string `json:"format"`
	Cols   int    `json:"cols"`
}

func (s *Server) list(w http.ResponseWriter, _ *http.Request) {
	l := listing{Version: 1, Tables: []listed{}}
	s.mu.RLock()
	for _, t := range s.order {
		if s.table(t.Root) != t {
			continue
		}
		l.Tables = append(l.Tables, listed{t.Name, t.Root.String(), t.Rows, t.Format.String(), t.Cols})
	}
	s.mu.RUnlock()
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(l) // the client has gone
}

func (s *Server) level(w http.ResponseWriter, r *http.Request) {
	var root merkle.Hash
	b, err := hex.DecodeString(r.PathValue("root"))
	level, err2 := strconv.Atoi(r.PathValue("level"))
	if err != nil || err2 != nil || len(b) != len(root) {
		http.Error(w, "expected a root of 64 hexadecimal digits and a level", http.StatusBadRequest)
		return
	}
	out, status, err := s.hashes(merkle.Hash(b), level)
	if err != nil {
		http.Error(w, err.Error(), status)
		return
	}
	send(w, out)
}

// hashes are those of a level; status belongs to an error.
func (s *Server) hashes(root merkle.Hash, level int) (out []byte, status int, err error) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	t := s.table(root)
	if t == nil || level < 0 || level > t.height {
		return nil, http.StatusNotFound, errors.New("there is no such table or level")
	}
	n := sat.Width(t.Rows, level)
	if n > maxAnswerBytes/len(root) {
		return nil, http.StatusRequestEntityTooLarge, fmt.Errorf("the level has %d hashes; ask for a higher one", n)
	}
	hashes := make([]merkle.Hash, n)
	if err := t.Nodes.Load(level, 0, hashes); err != nil {
		return nil, http.StatusInternalServerError, err
	}
	return sat.Encode(nil, hashes), 0, nil
}

func send(w http.ResponseWriter, b []byte) {
	w.Header().Set("Content-Type", "application/octet-stream")
	w.Header().Set("Content-Length", strconv.Itoa(len(b)))
	_, _ = w.Write(b) // the client has gone
}

func (s *Server) rows(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	wants, err := decode(body)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	out, status, err := s.lookups(wants)
	if err != nil {
		http.Error(w, err.Error(), status)
		return
	}
	send(w, out)
}

// lookups are the lookups of a request; status belongs to an error.
func (s *Server) lookups(wants []Want) (out []byte, status int, err error) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	size := 0
	for i, x := range wants {
		t := s.table(x.Root)
		if t == nil || x.Level > t.height || x.IDs[len(x.IDs)-1] >= uint64(t.Rows) {
			return nil, http.StatusNotFound, fmt.Errorf("want %d: there is no such table, level or row", i)
		}
		n, err := sat.ProofLen(t.Rows, x.Level, x.IDs)
		if err != nil {
			return nil, http.StatusBadRequest, err
		}
		if size += n*len(merkle.Hash{}) + len(x.IDs)*t.RowBytes(); size > maxAnswerBytes {
			return nil, http.StatusRequestEntityTooLarge, fmt.Errorf("the answer would be longer than %d bytes", maxAnswerBytes)
		}
	}
	out = make([]byte, 0, size)
	for _, x := range wants {
		if out, err = s.table(x.Root).lookup(out, x); err != nil {
			return nil, http.StatusInternalServerError, err
		}
	}
	return out, 0, nil
}

// lookup appends the lookup of rows that are there.
func (t *served) lookup(dst []byte, w Want) ([]byte, error) {
	var err error
	for _, id := range w.IDs {
		if dst, err = t.Read(dst, int(id)); err != nil {
			return nil, err
		}
	}
	proof, err := sat.Prove(t.Tree, w.Level, w.IDs)
	if err != nil {
		return nil, err
	}
	for _, h := range proof {
		dst = append(dst, h[:]...)
	}
	return dst, nil
}
